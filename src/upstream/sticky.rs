//! Which target a client is to come back to.
//!
//! In go cookies of requests and of answers, with what targets are known by; out comes the mark of
//! a target. A cookie that is issued says until when it holds and whom it means, signed; whom, it
//! says by a keyed hash of the address, which tells nobody an address. A cookie of the origin's own
//! that is learnt is remembered by its hash, of so many clients at most. No clock, no socket.

use std::sync::{Mutex, OnceLock, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use lru::LruCache;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::balance::hash;
use crate::config::{SameSite, StickyConfig};
use crate::limits::STICKY_LEARNT_MAX;

/// Bytes of a code that stay: 128 bits are beyond guessing.
const CODE_BYTES: usize = 16;

/// What keeps the clients of one upstream with their targets, for all workers.
pub(crate) struct Sticky {
    pub config: StickyConfig,
    mac: Hmac<Sha256>,
    /// By the hash of a cookie of the origin's: the mark of its target, and until when.
    learnt: Mutex<LruCache<u64, (u64, u64)>>,
}

impl Sticky {
    /// `upstream` keeps the cookies of one upstream from being those of another; `secret` is what
    /// several processes have in common, empty for one that ends with this.
    pub(crate) fn new(config: &StickyConfig, upstream: &str, secret: &[u8]) -> Self {
        let mut mac = if secret.is_empty() { process_mac() } else { keyed(secret) };
        mac.update(upstream.as_bytes());
        mac.update(b"\0");
        // Its bound is kept by hand: one that is given makes room for all at once.
        Self { config: config.clone(), mac, learnt: Mutex::new(LruCache::unbounded()) }
    }

    /// What the target at `address` is known by. Never 0.
    pub(crate) fn mark(&self, address: &str) -> u64 {
        let code = self.code(b"target ", address.as_bytes());
        code.first_chunk().map_or(1, |bytes| u64::from_be_bytes(*bytes)).max(1)
    }

    /// The mark of the target that a request with this cookie is to go to, and the second until
    /// which it is.
    pub(crate) fn read(&self, cookie: &[u8], now_s: u64) -> Option<(u64, u64)> {
        if self.config.learn {
            let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
            return learnt.get(&hash(cookie)).copied().filter(|(_, until)| *until > now_s);
        }
        let text = std::str::from_utf8(cookie).ok()?;
        let (about, code) = text.rsplit_once('.')?;
        let (until, mark) = about.split_once('.')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok().filter(|_| text.len() <= 16);
        let (until, mark) = (number(until)?, number(mark)?);
        if until <= now_s {
            return None;
        }
        let right = hex(&self.code(b"cookie ", about.as_bytes()));
        bool::from(right.as_bytes().ct_eq(code.as_bytes())).then_some((mark, until))
    }

    /// The target with `mark` has answered a request that had come with `read`. The cookie that its
    /// client gets: a new one where it had none, came to somebody else, or has half its time.
    pub(crate) fn issue(&self, mark: u64, read: Option<(u64, u64)>, now_s: u64) -> Option<String> {
        let ttl = self.config.ttl.as_secs();
        if self.config.learn
            || read.is_some_and(|(old, until)| old == mark && until > now_s + ttl / 2)
        {
            return None;
        }
        let about = format!("{:x}.{mark:x}", now_s + ttl);
        let code = hex(&self.code(b"cookie ", about.as_bytes()));
        let StickyConfig { cookie, same_site, .. } = &self.config;
        let same_site = match same_site {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        };
        Some(format!(
            "{cookie}={about}.{code}; Path=/; Max-Age={ttl}; HttpOnly; SameSite={same_site}"
        ))
    }

    /// The target with `mark` has given its client this cookie.
    pub(crate) fn learn(&self, cookie: &[u8], mark: u64, now_s: u64) {
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        learnt.put(hash(cookie), (mark, now_s + self.config.ttl.as_secs()));
        if learnt.len() > STICKY_LEARNT_MAX {
            learnt.pop_lru();
        }
    }

    fn code(&self, what: &[u8], about: &[u8]) -> [u8; CODE_BYTES] {
        let mut mac = self.mac.clone();
        mac.update(what);
        mac.update(about);
        let whole = mac.finalize().into_bytes();
        whole.first_chunk().copied().unwrap_or_default()
    }
}

/// The key of this process, for cookies that no other one has to read.
fn process_mac() -> Hmac<Sha256> {
    static MAC: OnceLock<Hmac<Sha256>> = OnceLock::new();
    MAC.get_or_init(|| {
        let mut key = [0; 32];
        // Without the kernel's numbers a stranger could choose its target, which harms nobody else.
        if let Err(error) = getrandom::fill(&mut key) {
            tracing::warn!(%error, "no random numbers: the cookies of `sticky` can be forged");
        }
        keyed(&key)
    })
    .clone()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The value of the cookie `name` in the value of a Set-Cookie.
pub(crate) fn value_of<'c>(set_cookie: &'c [u8], name: &[u8]) -> Option<&'c [u8]> {
    let pair = set_cookie.split(|byte| *byte == b';').next()?;
    pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"=").filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sticky(secret: &str, learn: bool) -> Sticky {
        let config = StickyConfig {
            cookie: "rw".to_owned(),
            learn,
            ttl: Duration::from_secs(100),
            ..StickyConfig::default()
        };
        Sticky::new(&config, "app", secret.as_bytes())
    }

    fn issued(sticky: &Sticky, mark: u64, now_s: u64) -> String {
        let Some(cookie) = sticky.issue(mark, None, now_s) else { panic!("none") };
        value_of(cookie.as_bytes(), b"rw")
            .map(|it| String::from_utf8_lossy(it).into_owned())
            .unwrap()
    }

    #[test]
    fn a_cookie_leads_back_until_its_time_is_over() {
        let sticky = sticky("", false);
        let mark = sticky.mark("10.0.0.1:80");
        assert_ne!(mark, sticky.mark("10.0.0.2:80"));
        let cookie = issued(&sticky, mark, 1_000);
        assert!(!cookie.contains("10.0.0.1"));
        assert_eq!(sticky.read(cookie.as_bytes(), 1_000), Some((mark, 1_100)));
        assert_eq!(sticky.read(cookie.as_bytes(), 1_099), Some((mark, 1_100)));
        assert_eq!(sticky.read(cookie.as_bytes(), 1_100), None);
    }

    #[test]
    fn what_was_changed_or_signed_by_others_leads_nowhere() {
        let sticky = sticky("one", false);
        let cookie = issued(&sticky, 7, 1_000);
        for at in 0..cookie.len() {
            let mut changed = cookie.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(sticky.read(&changed, 1_000), None, "{at}");
        }
        for cut in 0..cookie.len() {
            assert_eq!(sticky.read(&cookie.as_bytes()[..cut], 1_000), None);
        }
        let longer = format!("0{cookie}");
        let bytes = [longer.as_bytes(), b"", b".", b"..", b"-1.2.3", b"\xff.1.2"];
        assert!(bytes.iter().all(|bytes| sticky.read(bytes, 1_000).is_none()));
        let again = super::tests::sticky("one", false);
        assert!(again.read(cookie.as_bytes(), 1_000).is_some(), "another process");
        assert!(super::tests::sticky("two", false).read(cookie.as_bytes(), 1_000).is_none());
        let other = Sticky::new(&again.config, "other", b"one");
        assert!(other.read(cookie.as_bytes(), 1_000).is_none(), "another upstream");
    }

    #[test]
    fn a_cookie_is_renewed_at_half_its_time_and_where_somebody_else_answered() {
        let sticky = sticky("", false);
        assert_eq!(sticky.issue(7, Some((7, 1_100)), 1_049), None);
        assert!(sticky.issue(7, Some((7, 1_100)), 1_050).is_some());
        assert!(sticky.issue(8, Some((7, 1_100)), 1_000).is_some());
    }

    #[test]
    fn cookies_of_the_origin_are_learnt_and_the_oldest_forgotten() {
        let sticky = sticky("", true);
        assert_eq!(sticky.issue(7, None, 1_000), None);
        sticky.learn(b"session", 7, 1_000);
        assert_eq!(sticky.read(b"session", 1_050), Some((7, 1_100)));
        assert_eq!(sticky.read(b"session", 1_100), None);
        assert_eq!(sticky.read(b"other", 1_000), None);
        for number in 0..STICKY_LEARNT_MAX {
            sticky.learn(&number.to_le_bytes(), 8, 1_000);
        }
        assert_eq!(sticky.read(b"session", 1_050), None);
        assert_eq!(sticky.learnt.lock().unwrap().len(), STICKY_LEARNT_MAX);
    }

    #[test]
    fn the_value_of_a_set_cookie_is_found_by_its_name() {
        assert_eq!(value_of(b"JSESSIONID=a1; Path=/", b"JSESSIONID"), Some(&b"a1"[..]));
        assert_eq!(value_of(b" id=x", b"id"), Some(&b"x"[..]));
        assert_eq!(value_of(b"id=; Max-Age=0", b"id"), None);
        assert_eq!(value_of(b"ids=1", b"id"), None);
        assert_eq!(value_of(b"a=id=1", b"id"), None);
    }
}
