//! The servers of one service (RFC 2782).
//!
//! In go the records that DNS has of it; out come servers, each with a rank, a weight and addresses
//! of its own, which the workers read without waiting. Nothing here asks anybody.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::addresses::{Addresses, Doubt};
use super::names::ServiceRecord;
use super::targets::Targets;

/// Servers of one service that are used; an answer of DNS has room for thousands.
const SERVERS_MAX: usize = 256;

/// The servers that a service has now.
#[derive(Debug, Default)]
pub(crate) struct Service {
    servers: ArcSwap<Vec<Server>>,
    pub(super) doubt: Arc<Doubt>,
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
        name: &str,
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
                (addresses, Arc::default())
            });
            Server { host, port, weight: u32::from(weight.max(1)), rank, addresses, targets }
        };
        let servers: Vec<Server> = ranked(&records).map(server).collect();
        let is_changed = !before.iter().map(Server::facts).eq(servers.iter().map(Server::facts));
        if is_changed {
            self.servers.store(Arc::new(servers));
        }
        is_changed
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
    use super::*;

    fn record(priority: u16, weight: u16, host: &str) -> ServiceRecord {
        ServiceRecord { priority, weight, host: host.to_owned(), port: 80 }
    }

    #[test]
    fn priorities_are_ranks_and_a_weight_of_nothing_is_the_least() {
        let service = Service::default();
        let records = vec![record(30, 5, "c"), record(10, 0, "a"), record(10, 60, "b")];
        let mut asked = Vec::new();
        assert!(service.take("s", records.clone(), |host, port, _| {
            asked.push(format!("{host}:{port}"));
        }));
        assert_eq!(asked, ["a:80", "b:80", "c:80"]);
        let facts: Vec<_> =
            service.load().iter().map(|it| (it.host.clone(), it.weight, it.rank)).collect();
        let named = |name: &str, weight, rank| (name.to_owned(), weight, rank);
        assert_eq!(facts, [named("a", 1, 0), named("b", 60, 0), named("c", 5, 1)]);
        // The order of an answer says nothing.
        let turned: Vec<_> = records.into_iter().rev().collect();
        assert!(!service.take("s", turned, |host, _, _| panic!("{host} is known")));
    }

    #[test]
    fn a_server_that_stays_keeps_its_addresses_whatever_becomes_of_its_weight() {
        let service = Service::default();
        service.take("s", vec![record(1, 1, "10.0.0.1"), record(1, 1, "b")], |_, _, _| {});
        let before = service.load().to_vec();
        assert_eq!(before[0].addresses.load().len(), 1, "an address needs no question");
        assert!(service.take("s", vec![record(1, 9, "b"), record(2, 1, "b")], |host, _, _| {
            panic!("{host} is known");
        }));
        let now = service.load();
        assert_eq!(now.len(), 1, "nothing twice");
        assert!(Arc::ptr_eq(&now[0].addresses, &before[1].addresses));
        assert!(Arc::ptr_eq(&now[0].targets, &before[1].targets));
        assert!(service.take("s", Vec::new(), |_, _, _| {}));
        assert!(service.load().is_empty());
    }

    #[test]
    fn an_answer_of_thousands_is_cut() {
        let service = Service::default();
        let records = (0..3_000).map(|number| record(1, 1, &format!("h{number}"))).collect();
        service.take("s", records, |_, _, _| {});
        assert_eq!(service.load().len(), SERVERS_MAX);
    }
}
