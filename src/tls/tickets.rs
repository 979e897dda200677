//! What sessions are sealed into that clients keep: two keys of the whole process, which change.
//!
//! In goes a session as rustls spells it; out comes a ticket, and the other way round while a key
//! is known. The keys are younger than twice [`PERIOD_S`], live on when the configuration changes,
//! and are handed to the process that takes over: without them, every client would need a whole
//! handshake at once. What was said of a client under other rules opens for nobody.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// How long a key seals tickets; for as long again it opens them.
const PERIOD_S: u64 = 6 * 3600;

/// A session with a larger certificate of its client gets no ticket, which would come back in the
/// client's first message: that has a limit.
const SESSION_BYTES_MAX: usize = 8 * 1024;

type Key = [u8; 32];

/// The keys, as they are handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TicketKeys {
    /// Since when the newest is in use, in seconds since 1970.
    began_s: u64,
    newest: Key,
    before: Option<Key>,
}

impl Drop for TicketKeys {
    fn drop(&mut self) {
        self.newest.zeroize();
        self.before.zeroize();
    }
}

static KEYS: Mutex<Option<TicketKeys>> = Mutex::new(None);

/// The keys in use; `None` where no ticket was ever made.
pub(crate) fn hand_over() -> Option<TicketKeys> {
    keys().clone()
}

/// Takes the keys of the process before this one.
pub(crate) fn inherit(handed: Option<TicketKeys>) {
    *keys() = handed;
}

/// A panic elsewhere leaves keys that are still good.
fn keys() -> MutexGuard<'static, Option<TicketKeys>> {
    KEYS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TicketKeys {
    fn new(now_s: u64) -> Option<Self> {
        Some(Self { began_s: now_s, newest: random()?, before: None })
    }

    /// Lets keys go whose time is over, and makes another one.
    fn advance(&mut self, now_s: u64) {
        let age_s = now_s.saturating_sub(self.began_s);
        if age_s < PERIOD_S {
            return;
        }
        let Some(next) = random::<32>() else { return };
        self.before.zeroize();
        self.before = (age_s < 2 * PERIOD_S).then_some(self.newest);
        self.newest = next;
        self.began_s = now_s;
    }
}

fn random<const COUNT: usize>() -> Option<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    getrandom::fill(&mut bytes).ok().map(|()| bytes)
}

/// Makes and opens the tickets of clients that were asked for the same.
#[derive(Debug)]
pub(super) struct Tickets {
    /// Stands for what they were asked for.
    rules: u64,
    /// They are for other sessions than those of clients.
    is_apart: bool,
}

impl Tickets {
    /// `None` is for those that are asked for nothing.
    pub(super) fn new(rules: Option<u64>) -> Self {
        Self { rules: rules.unwrap_or_default(), is_apart: rules.is_none() }
    }

    fn aad(&self) -> Aad<[u8; 9]> {
        let mut rules = [u8::from(self.is_apart); 9];
        rules[1..].copy_from_slice(&self.rules.to_le_bytes());
        Aad::from(rules)
    }

    fn seal(&self, key: &Key, plain: &[u8]) -> Option<Vec<u8>> {
        let nonce = random::<NONCE_LEN>()?;
        let mut ticket = nonce.to_vec();
        let mut sealed = plain.to_vec();
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, self.aad(), &mut sealed).ok()?;
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn open(&self, key: &Key, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_at_checked(NONCE_LEN)?;
        let mut opened = sealed.to_vec();
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let count = key.open_in_place(nonce, self.aad(), &mut opened).ok()?.len();
        opened.truncate(count);
        Some(opened)
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        2 * PERIOD_S as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if plain.len() > SESSION_BYTES_MAX {
            return None;
        }
        let now_s = now_s();
        let mut keys = keys();
        if keys.is_none() {
            *keys = TicketKeys::new(now_s);
        }
        let keys = keys.as_mut()?;
        keys.advance(now_s);
        self.seal(&keys.newest, plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let mut keys = keys();
        let keys = keys.as_mut()?;
        keys.advance(now_s());
        let before = || self.open(keys.before.as_ref()?, ticket);
        self.open(&keys.newest, ticket).or_else(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_for_as_long_as_its_key_is_known_and_under_its_rules() {
        let mut keys = TicketKeys::new(1000).unwrap();
        let tickets = Tickets::new(Some(7));
        let ticket = tickets.seal(&keys.newest, b"session").unwrap();
        assert_eq!(tickets.open(&keys.newest, &ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(Tickets::new(Some(8)).open(&keys.newest, &ticket), None);
        for cut in 0..ticket.len() {
            assert_eq!(tickets.open(&keys.newest, &ticket[..cut]), None);
        }
        let text = serde_json::to_string(&keys).unwrap();
        assert_eq!(serde_json::from_str::<TicketKeys>(&text).unwrap(), keys);
        keys.advance(1000 + PERIOD_S - 1);
        assert!(keys.before.is_none());
        keys.advance(1000 + PERIOD_S);
        assert_eq!(tickets.open(&keys.newest, &ticket), None);
        assert_eq!(
            tickets.open(keys.before.as_ref().unwrap(), &ticket).as_deref(),
            Some(&b"session"[..])
        );
        keys.advance(1000 + 3 * PERIOD_S);
        assert!(keys.before.is_none());
    }
}
