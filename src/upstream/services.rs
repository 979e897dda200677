//! The servers of one service (RFC 2782).
//!
//! In go the records that DNS has of it; out come servers, each with a rank, a weight and addresses
//! of its own, which the workers read without waiting. Nothing here asks anybody.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::addresses::{Addresses, Doubt};
use super::balance::mix;
use super::names::ServiceRecord;
use super::targets::{ORDERED_FOR_MS, ORDERED_MAX, Targets};

/// Servers of one service that are used; an answer of DNS has room for thousands.
const SERVERS_MAX: usize = 256;

/// The servers that a service has now.
#[derive(Debug, Default)]
pub(crate) struct Service {
    servers: ArcSwap<Vec<Server>>,
    /// Counts up with every change of which they are.
    version: AtomicU64,
    /// Of which an operator wants something, and that are away.
    away: Mutex<VecDeque<Away>>,
    pub(super) doubt: Arc<Doubt>,
}

/// A server that is away, and since when.
#[derive(Debug)]
struct Away {
    host: String,
    port: u16,
    targets: Arc<Targets>,
    since_ms: u64,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// At least 1.
    pub(crate) weight: u32,
    /// 0 for those that are asked first.
    pub(crate) rank: u16,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) targets: Arc<Targets>,
}

impl Service {
    /// Never waits. Empty until DNS has been asked for the first time.
    pub(crate) fn load(&self) -> Guard<Arc<Vec<Server>>> {
        self.servers.load()
    }

    /// Takes the servers that there are now, of the service called `name`; whether anything has
    /// changed. A server that was there already keeps its addresses, and what is known of them;
    /// `follow` is told of the other names.
    pub(super) fn take(
        &self,
        (name, now_ms): (&str, u64),
        mut records: Vec<ServiceRecord>,
        mut follow: impl FnMut(&str, u16, Arc<Addresses>),
    ) -> bool {
        records.sort();
        let mut seen = HashSet::new();
        records.retain(|record| seen.insert((record.host.clone(), record.port)));
        if records.len() > SERVERS_MAX {
            let servers = records.len();
            tracing::warn!(name, servers, "too many servers: the first {SERVERS_MAX} are used");
            records.truncate(SERVERS_MAX);
        }
        let before = self.servers.load_full();
        let server = |(record, rank): (&ServiceRecord, u16)| {
            let ServiceRecord { host, port, weight, .. } = record.clone();
            let is_known = |known: &&Server| (&known.host, known.port) == (&host, port);
            let known = before.iter().find(is_known);
            let known = known.map(|known| (known.addresses.clone(), known.targets.clone()));
            let (addresses, targets) = known.unwrap_or_else(|| {
                let addresses = Arc::new(Addresses::below(&self.doubt));
                if !addresses.set_known(&host, port) {
                    follow(&host, port, addresses.clone());
                }
                (addresses, self.come_back(&host, port, now_ms))
            });
            Server { host, port, weight: u32::from(weight.max(1)), rank, addresses, targets }
        };
        let servers: Vec<Server> = ranked(&records).map(server).collect();
        let is_changed = !before.iter().map(Server::facts).eq(servers.iter().map(Server::facts));
        if is_changed {
            self.remember(&before, &servers, now_ms);
            self.servers.store(Arc::new(servers));
            self.version.fetch_add(1, Ordering::Release);
        }
        is_changed
    }

    /// What is known of a server that may have been away, as far as an operator wanted something.
    fn come_back(&self, host: &str, port: u16, now_ms: u64) -> Arc<Targets> {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.retain(|it| now_ms < it.since_ms + ORDERED_FOR_MS);
        let place = away.iter().position(|it| (&*it.host, it.port) == (host, port));
        let back = place.and_then(|place| away.remove(place));
        back.map_or_else(Arc::default, |back| back.targets)
    }

    /// Remembers what an operator wants of servers that were there before and are not any more.
    fn remember(&self, before: &[Server], servers: &[Server], now_ms: u64) {
        let is_there = |one: &Server| {
            servers.iter().any(|other| (&other.host, other.port) == (&one.host, one.port))
        };
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        for server in before.iter().filter(|it| !is_there(it) && it.targets.are_ordered()) {
            let Server { host, port, targets, .. } = server.clone();
            away.push_back(Away { host, port, targets, since_ms: now_ms });
        }
        let surplus = away.len().saturating_sub(ORDERED_MAX);
        away.drain(..surplus);
    }

    /// Of the servers and of their addresses.
    pub(super) fn version(&self) -> u64 {
        let own = self.version.load(Ordering::Acquire);
        let servers = self.servers.load();
        servers.iter().fold(mix(own + 1), |all, server| mix(all ^ server.addresses.version()))
    }
}

/// Whoever keeps it current need not wait until it is time to ask again.
impl Drop for Service {
    fn drop(&mut self) {
        self.doubt.raise();
    }
}

impl fmt::Display for Service {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Server { host, port, .. }) in self.servers.load().iter().enumerate() {
            let before = if index == 0 { "" } else { "," };
            write!(out, "{before}{host}:{port}")?;
        }
        Ok(())
    }
}

impl Server {
    /// As the Host field has it.
    pub(super) fn authority(&self, is_tls: bool) -> String {
        let standard = if is_tls { 443 } else { 80 };
        let host = if self.host.contains(':') { &format!("[{}]", self.host) } else { &self.host };
        if self.port == standard { host.clone() } else { format!("{host}:{}", self.port) }
    }

    fn facts(&self) -> (&str, u16, u32, u16) {
        (&self.host, self.port, self.weight, self.rank)
    }
}

/// Each with its place among the priorities that there are; `records` are sorted.
fn ranked(records: &[ServiceRecord]) -> impl Iterator<Item = (&ServiceRecord, u16)> {
    let mut rank = 0;
    let mut before = records.first().map(|first| first.priority);
    records.iter().map(move |record| {
        if before != Some(record.priority) {
            before = Some(record.priority);
            rank += 1;
        }
        (record, rank)
    })
}

#[cfg(test)]
mod tests {
    use super::super::target::Wish;
    use super::*;

    fn record(priority: u16, weight: u16, host: &str) -> ServiceRecord {
        ServiceRecord { priority, weight, host: host.to_owned(), port: 80 }
    }

    #[test]
    fn priorities_are_ranks_and_a_weight_of_nothing_is_the_least() {
        let service = Service::default();
        let records = vec![record(30, 5, "c"), record(10, 0, "a"), record(10, 60, "b")];
        let mut asked = Vec::new();
        assert!(service.take(("s", 0), records.clone(), |host, port, _| {
            asked.push(format!("{host}:{port}"));
        }));
        assert_eq!(asked, ["a:80", "b:80", "c:80"]);
        let facts: Vec<_> =
            service.load().iter().map(|it| (it.host.clone(), it.weight, it.rank)).collect();
        let named = |name: &str, weight, rank| (name.to_owned(), weight, rank);
        assert_eq!(facts, [named("a", 1, 0), named("b", 60, 0), named("c", 5, 1)]);
        // The order of an answer says nothing.
        let turned: Vec<_> = records.into_iter().rev().collect();
        assert!(!service.take(("s", 0), turned, |host, _, _| panic!("{host} is known")));
    }

    #[test]
    fn a_server_that_stays_keeps_its_addresses_whatever_becomes_of_its_weight() {
        let service = Service::default();
        service.take(("s", 0), vec![record(1, 1, "10.0.0.1"), record(1, 1, "b")], |_, _, _| {});
        let before = service.load().to_vec();
        assert_eq!(before[0].addresses.load().len(), 1, "an address needs no question");
        assert!(service.take(
            ("s", 0),
            vec![record(1, 9, "b"), record(2, 1, "b")],
            |host, _, _| {
                panic!("{host} is known");
            }
        ));
        let now = service.load();
        assert_eq!(now.len(), 1, "nothing twice");
        assert!(Arc::ptr_eq(&now[0].addresses, &before[1].addresses));
        assert!(Arc::ptr_eq(&now[0].targets, &before[1].targets));
        assert!(service.take(("s", 0), Vec::new(), |_, _, _| {}));
        assert!(service.load().is_empty());
    }

    #[test]
    fn an_answer_of_thousands_is_cut() {
        let service = Service::default();
        let records = (0..3_000).map(|number| record(1, 1, &format!("h{number}"))).collect();
        service.take(("s", 0), records, |_, _, _| {});
        assert_eq!(service.load().len(), SERVERS_MAX);
    }

    #[test]
    fn what_an_operator_wants_of_a_server_outlives_its_absence() {
        let service = Service::default();
        let records = || vec![record(1, 1, "10.0.0.1"), record(1, 1, "10.0.0.2")];
        service.take(("s", 0), records(), |_, _, _| {});
        let address = service.load()[0].addresses.load()[0];
        service.load()[0].targets.of(address, 0).set_wish(Wish::Drain, 0);
        for now in [1_000, 5_000_000] {
            service.take(("s", now), Vec::new(), |_, _, _| {});
            service.take(("s", now + 1_000), records(), |_, _, _| {});
            assert_eq!(service.load()[0].targets.of(address, now).wish(), Wish::Drain);
        }
        service.take(("s", 6_000_000), Vec::new(), |_, _, _| {});
        service.take(("s", 6_000_000 + ORDERED_FOR_MS), records(), |_, _, _| {});
        assert_eq!(service.load()[0].targets.of(address, 0).wish(), Wish::Up);
    }
}
