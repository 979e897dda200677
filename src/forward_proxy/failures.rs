//! How often each client has failed to log in, within a minute.
//!
//! In: attempts that begin, and how they end. Out: whether a client may try again now. An IPv6
//! client counts with all of its /64, which is what one customer gets. The table holds
//! `CLIENTS_MAX` clients; the one that did nothing for the longest makes room. Pure: the time is
//! an argument.
//!
//! An attempt counts from its beginning: while a password is being hashed, the client has one
//! attempt less. Many connections at once therefore get no more guesses than one.

use std::net::IpAddr;

use crate::address::ClientAddress;
use std::num::NonZeroUsize;

use lru::LruCache;

/// Clients with a failure in the last minute: 10,000 of 100 bytes are 1 MB.
const CLIENTS_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

const WINDOW_MS: u64 = 60_000;

#[derive(Debug)]
pub(super) struct Failures {
    tallies: LruCache<Client, Tally>,
    /// Failures that one client has per window.
    pub(super) limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    V4([u8; 4]),
    /// The first half of the address.
    V6([u8; 8]),
    Unix,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// When the first failure of this window was.
    begun_ms: u64,
    failed: u32,
    /// Attempts without an outcome yet.
    open: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    MayTry,
    /// The attempts that are under way would be the last ones.
    MustWait,
    Blocked {
        retry_after_s: u64,
    },
}

impl Failures {
    pub(super) fn new(limit: u32) -> Self {
        Self { tallies: LruCache::sparse(CLIENTS_MAX), limit }
    }

    /// The failures that count on where other users take the place of these.
    pub(super) fn kept(&self, limit: u32) -> Self {
        let mut kept = Self::new(limit);
        for (client, tally) in self.tallies.iter().rev().filter(|(_, tally)| tally.failed > 0) {
            kept.tallies.put(*client, Tally { open: 0, ..*tally });
        }
        kept
    }

    /// Whether the client has failed lately.
    pub(super) fn has_failed(&self, client: ClientAddress, now_ms: u64) -> bool {
        let tally = self.tallies.peek(&Client::of(client));
        tally.is_some_and(|tally| tally.at(now_ms).failed > 0)
    }

    pub(super) fn standing(&self, client: ClientAddress, now_ms: u64) -> Standing {
        let Some(tally) = self.tallies.peek(&Client::of(client)) else {
            return Standing::MayTry;
        };
        let tally = tally.at(now_ms);
        if tally.failed >= self.limit {
            let left_ms = (tally.begun_ms + WINDOW_MS).saturating_sub(now_ms);
            Standing::Blocked { retry_after_s: left_ms.div_ceil(1000).max(1) }
        } else if tally.failed + tally.open >= self.limit {
            Standing::MustWait
        } else {
            Standing::MayTry
        }
    }

    /// An attempt has begun; `settle` ends it.
    pub(super) fn begin(&mut self, client: ClientAddress) {
        let tally = self.tallies.get_or_insert_mut(Client::of(client), Tally::default);
        tally.open = tally.open.saturating_add(1);
    }

    /// An attempt that began has been decided, or is not going to be.
    pub(super) fn settle(&mut self, client: ClientAddress) {
        let client = Client::of(client);
        // The tally may have made room for another since the attempt began.
        let Some(tally) = self.tallies.peek_mut(&client) else { return };
        tally.open = tally.open.saturating_sub(1);
        // Failures stay when a login succeeds: an account of one's own must not buy guesses at
        // the accounts of others.
        if tally.open == 0 && tally.failed == 0 {
            self.tallies.pop(&client);
        }
    }

    /// True when this failure is the one that blocks the client.
    pub(super) fn fail(&mut self, client: ClientAddress, now_ms: u64) -> bool {
        let tally = self.tallies.get_or_insert_mut(Client::of(client), Tally::default);
        *tally = tally.at(now_ms);
        if tally.failed == 0 {
            tally.begun_ms = now_ms;
        }
        tally.failed = tally.failed.saturating_add(1);
        tally.failed == self.limit
    }

    pub(super) fn bytes(&self) -> usize {
        // An entry on the heap with the links of its list, and its place in the table.
        const LINKS_BYTES: usize = 4 * size_of::<usize>();
        self.tallies.len() * (size_of::<(Client, Tally)>() + LINKS_BYTES)
    }
}

impl Tally {
    /// Without the failures of a window that is over.
    fn at(self, now_ms: u64) -> Self {
        let is_over = now_ms.saturating_sub(self.begun_ms) >= WINDOW_MS;
        if is_over { Self { failed: 0, ..self } } else { self }
    }
}

impl Client {
    pub(super) fn of(client: ClientAddress) -> Self {
        match client {
            ClientAddress::Unix => Self::Unix,
            ClientAddress::Ip(IpAddr::V4(address)) => Self::V4(address.octets()),
            ClientAddress::Ip(IpAddr::V6(address)) => {
                let [network @ .., _, _, _, _, _, _, _, _] = address.octets();
                Self::V6(network)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> ClientAddress {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_is_blocked_until_its_minute_is_over() {
        let mut failures = Failures::new(3);
        let one = client("192.0.2.1");
        let began_ms = 5_000;
        let blocked = [0, 10_000, 20_000].map(|later_ms| failures.fail(one, began_ms + later_ms));
        assert_eq!(blocked, [false, false, true]);
        assert!(!failures.fail(one, began_ms + 20_001), "said once");
        let standing = |now_ms| failures.standing(one, now_ms);
        assert_eq!(standing(25_001), Standing::Blocked { retry_after_s: 40 });
        assert_eq!(standing(began_ms + 59_999), Standing::Blocked { retry_after_s: 1 });
        assert_eq!(standing(began_ms + 60_000), Standing::MayTry);
        assert_eq!(failures.standing(client("192.0.2.2"), 25_001), Standing::MayTry);
    }

    #[test]
    fn a_new_minute_begins_with_a_failure() {
        let mut failures = Failures::new(2);
        let one = client("192.0.2.1");
        failures.fail(one, 0);
        failures.fail(one, 100_000);
        assert_eq!(failures.standing(one, 100_000), Standing::MayTry);
        failures.fail(one, 159_999);
        assert_eq!(failures.standing(one, 159_999), Standing::Blocked { retry_after_s: 1 });
    }

    #[test]
    fn an_attempt_counts_while_it_is_open() {
        let mut failures = Failures::new(2);
        let one = client("192.0.2.1");
        failures.begin(one);
        assert_eq!(failures.standing(one, 0), Standing::MayTry);
        failures.begin(one);
        assert_eq!(failures.standing(one, 0), Standing::MustWait);
        failures.settle(one);
        assert_eq!(failures.standing(one, 0), Standing::MayTry);
        failures.fail(one, 0);
        assert_eq!(failures.standing(one, 0), Standing::MustWait);
        failures.settle(one);
        assert_eq!(failures.standing(one, 0), Standing::MayTry);
    }

    #[test]
    fn a_success_leaves_no_trace_and_forgives_nothing() {
        let mut failures = Failures::new(2);
        let one = client("192.0.2.1");
        failures.begin(one);
        failures.settle(one);
        assert_eq!(failures.bytes(), 0);
        failures.fail(one, 0);
        failures.begin(one);
        failures.settle(one);
        failures.fail(one, 1);
        assert_eq!(failures.standing(one, 1), Standing::Blocked { retry_after_s: 60 });
    }

    #[test]
    fn what_is_kept_for_other_users_are_failures_and_no_attempts() {
        let mut failures = Failures::new(1);
        let (one, two) = (client("192.0.2.1"), client("192.0.2.2"));
        failures.fail(one, 0);
        failures.begin(one);
        failures.begin(two);
        let kept = failures.kept(2);
        assert_eq!(
            (kept.standing(one, 0), kept.standing(two, 0)),
            (Standing::MayTry, Standing::MayTry)
        );
        assert!(kept.has_failed(one, 0) && !kept.has_failed(two, 0));
        assert!(!kept.has_failed(one, WINDOW_MS));
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let mut failures = Failures::new(1);
        failures.fail(client("2001:db8:0:1::1"), 0);
        failures.fail(client("::ffff:192.0.2.1"), 0);
        let table = [
            ("2001:db8:0:1:ffff::", true),
            ("2001:db8:0:2::1", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
        ];
        for (address, is_blocked) in table {
            let standing = failures.standing(client(address), 0);
            assert_eq!(standing != Standing::MayTry, is_blocked, "{address}");
        }
    }

    #[test]
    fn a_million_clients_take_the_room_of_ten_thousand() {
        let mut failures = Failures::new(1);
        let persistent = client("192.0.2.1");
        for number in 0..1_000_000_u32 {
            let address = IpAddr::from((u128::from(number) << 64 | 1 << 125).to_be_bytes());
            failures.fail(address.into(), 0);
            if number % 5_000 == 0 {
                failures.fail(persistent, 0);
            }
        }
        assert_eq!(failures.tallies.len(), CLIENTS_MAX.get());
        assert!(failures.bytes() < 1_000_000);
        // Who goes on failing is not the one that makes room.
        assert_ne!(failures.standing(persistent, 0), Standing::MayTry);
        let settled = client("2001:db8::1");
        failures.settle(settled);
        assert_eq!(failures.standing(settled, 0), Standing::MayTry);
    }
}
