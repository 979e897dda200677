//! The addresses of one name, and the doubt that they are right.
//!
//! In go answers of name servers; out come addresses in the order in which they are tried, which
//! the workers read without waiting. Whoever could not connect to one says so, and the name is
//! asked again at once. Nothing here asks anybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use crate::address::{Address, UnixAddress};

/// The addresses that one origin has now, IPv4 first.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    list: ArcSwap<Vec<Address>>,
    /// Counts up with every change of which they are.
    version: AtomicU64,
    pub(super) doubt: Arc<Doubt>,
    /// Of the service that has led here.
    above: Option<Arc<Doubt>>,
}

/// How those who use an answer say that it was of no use.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    is_raised: AtomicBool,
    raised: Notify,
}

impl Addresses {
    /// Never waits. Empty until the name has been resolved for the first time.
    pub(crate) fn load(&self) -> Guard<Arc<Vec<Address>>> {
        self.list.load()
    }

    pub(super) fn store(&self, addresses: Vec<Address>, is_changed: bool) {
        self.list.store(Arc::new(addresses));
        if is_changed {
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Somebody could not connect to one of them: the name is asked again, once a second at most.
    #[cold]
    pub(crate) fn doubt(&self) {
        self.doubt.raise();
        if let Some(above) = &self.above {
            above.raise();
        }
    }

    /// Of a server that the service which has `above` leads to.
    pub(super) fn below(above: &Arc<Doubt>) -> Self {
        let mut addresses = Self::default();
        addresses.above = Some(above.clone());
        addresses
    }

    /// What needs no question; whether that is all.
    pub(super) fn set_known(&self, host: &str, port: u16) -> bool {
        let known = match UnixAddress::parse(host) {
            Some(path) => Some(vec![Address::Unix(path)]),
            None => without_asking(host, port).map(all_of_tcp),
        };
        let is_known = known.is_some();
        if let Some(known) = known {
            self.store(known, true);
        }
        is_known
    }
}

/// Whoever keeps it current need not wait until it is time to ask again.
impl Drop for Addresses {
    fn drop(&mut self) {
        self.doubt.raise();
    }
}

impl Doubt {
    pub(super) fn raise(&self) {
        if !self.is_raised.swap(true, Ordering::Relaxed) {
            self.raised.notify_one();
        }
    }

    /// The question is asked again.
    pub(super) fn settle(&self) {
        self.is_raised.store(false, Ordering::Relaxed);
    }

    /// Waits for `pause`, or until there is doubt, and then for `least`. Who could not be asked is
    /// not asked sooner for doubts.
    pub(super) async fn wait(&self, pause: Duration, least: Duration, has_failed: bool) {
        if has_failed {
            return tokio::time::sleep(pause).await;
        }
        let asked = tokio::time::Instant::now();
        if tokio::time::timeout(pause, self.raised.notified()).await.is_ok() {
            tokio::time::sleep_until(asked + least.min(pause)).await;
        }
    }
}

/// What needs no name server: an address, and `localhost` (RFC 6761 §6.3).
pub(crate) fn without_asking(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(vec![SocketAddr::new(address, port)]);
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_local = name == "localhost" || name.ends_with(".localhost");
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    is_local.then(|| in_order(loopback.into_iter(), port))
}

/// IPv4 first, each family as it was answered, nothing twice.
pub(super) fn in_order(answer: impl Iterator<Item = IpAddr>, port: u16) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in answer.map(|ip| SocketAddr::new(ip, port)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
}

pub(super) fn all_of_tcp(addresses: Vec<SocketAddr>) -> Vec<Address> {
    addresses.into_iter().map(Address::Tcp).collect()
}
