//! Origin names to socket addresses, off the ring threads.
//!
//! In: host names. Out: one `Addresses` per origin, which the workers read without waiting and a
//! thread of its own keeps current: a name is asked again when its TTL is over, and when that
//! fails the last good answer stands and the next question comes sooner. An address needs no
//! question at all. Nothing here connects anywhere but to name servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use hickory_resolver::net::NetError;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::config::DnsConfig;

use super::names::{Files, NameService};
use crate::address::{Address, UnixAddress};

/// A TTL of 0 means "ask each time", which is once a second here.
const TTL_MIN: Duration = Duration::from_secs(1);

/// An hour bounds how long a move goes unnoticed, whatever the zone promised.
const TTL_MAX: Duration = Duration::from_secs(3600);

/// Between questions that fail: 1, 2, 4 ... seconds, up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether other name servers are to be asked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// The addresses that one origin has now, IPv4 first.
#[derive(Debug, Default)]
pub(crate) struct Addresses(ArcSwap<Vec<Address>>);

/// The thread that keeps `Addresses` current; dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Resolver {
    watches: UnboundedSender<Watch>,
    names: Arc<NameService>,
    unsettled: Arc<Unsettled>,
    changes: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Watch {
    name: String,
    port: u16,
    addresses: Arc<Addresses>,
    changes: Arc<AtomicU64>,
    /// Taken at the first outcome, good or bad.
    first_outcome: Option<Awaited>,
}

/// How many names have had no outcome yet.
#[derive(Debug, Default)]
struct Unsettled {
    count: Mutex<usize>,
    is_changed: Condvar,
}

/// Counts as unsettled until it is dropped.
#[derive(Debug)]
struct Awaited(Arc<Unsettled>);

impl Addresses {
    /// Never waits. Empty until the name has been resolved for the first time.
    pub(crate) fn load(&self) -> Guard<Arc<Vec<Address>>> {
        self.0.load()
    }
}

impl Resolver {
    /// Asks the servers of `dns` or else `/etc/resolv.conf`, after `/etc/hosts`.
    pub(crate) fn start(dns: &DnsConfig) -> io::Result<Self> {
        Self::start_with(NameService::new(dns, Files::default())?)
    }

    fn start_with(names: NameService) -> io::Result<Self> {
        let names = Arc::new(names);
        let (watches, arrivals) = unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let service = names.clone();
        thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || runtime.block_on(serve(service, arrivals)))?;
        Ok(Self { watches, names, unsettled: Arc::default(), changes: Arc::default() })
    }

    /// Asks by `dns` from now on, and reads again what the machine says of name servers.
    pub(crate) fn reread(&self, dns: &DnsConfig) {
        self.names.reread(dns);
    }

    /// The addresses of `host`, which is an IP address without brackets, a name or a Unix socket.
    /// Returns at once: those of a name follow, see `settle`.
    pub(crate) fn watch(&self, host: &str, port: u16) -> Arc<Addresses> {
        let addresses = Arc::new(Addresses::default());
        let known = match UnixAddress::parse(host) {
            Some(path) => Some(vec![Address::Unix(path)]),
            None => without_asking(host, port).map(all_of_tcp),
        };
        if let Some(known) = known {
            addresses.0.store(Arc::new(known));
            return addresses;
        }
        let watch = Watch {
            name: host.to_owned(),
            port,
            addresses: addresses.clone(),
            changes: self.changes.clone(),
            first_outcome: Some(Awaited::new(&self.unsettled)),
        };
        if self.watches.send(watch).is_err() {
            tracing::error!(host, "the resolver has ended, so this name has no address");
        }
        addresses
    }

    /// Counts up whenever a name has got other addresses.
    pub(crate) fn changes(&self) -> Arc<AtomicU64> {
        self.changes.clone()
    }

    /// Waits, up to `limit`, until every name watched has been answered or has failed once.
    /// False when the time was up first.
    pub(crate) fn settle(&self, limit: Duration) -> bool {
        let count = lock(&self.unsettled.count);
        let error = self.unsettled.is_changed.wait_timeout_while(count, limit, |count| *count > 0);
        let (count, _) = error.unwrap_or_else(PoisonError::into_inner);
        *count == 0
    }
}

async fn serve(names: Arc<NameService>, mut arrivals: UnboundedReceiver<Watch>) {
    let changed = Arc::new(Notify::new());
    let mut number = names.asker().number;
    let mut has_watched = false;
    loop {
        // Where no name is watched, nothing is looked at.
        let patience = if has_watched { LOOK_EVERY } else { FOREVER };
        let arrival = tokio::time::timeout(patience, arrivals.recv()).await;
        match arrival {
            Ok(Some(watch)) => {
                has_watched = true;
                tokio::spawn(keep_current(names.clone(), changed.clone(), watch));
            }
            Ok(None) => return,
            Err(_) => {
                let now = names.asker().number;
                if std::mem::replace(&mut number, now) != now {
                    changed.notify_waiters();
                }
            }
        }
    }
}

/// Asks for one name as long as anybody wants to know.
async fn keep_current(names: Arc<NameService>, changed: Arc<Notify>, mut watch: Watch) {
    let mut failures = 0;
    loop {
        let pause = match names.asker().ask(watch.name.as_str(), ()).await {
            Ok(answer) if answer.addresses.is_empty() => {
                watch.report(&"it has no address of the family that is wanted".into(), failures);
                failures += 1;
                backoff(failures)
            }
            Ok(answer) => {
                let ttl = answer.valid_until.saturating_duration_since(Instant::now());
                watch.accept(answer.addresses.into_iter(), failures);
                failures = 0;
                ttl.clamp(TTL_MIN, TTL_MAX)
            }
            Err(error) => {
                watch.report(&error, failures);
                failures += 1;
                backoff(failures)
            }
        };
        watch.first_outcome = None;
        // The wait is over at once where other name servers are to be asked.
        let _ = tokio::time::timeout(pause, changed.notified()).await;
        // The configuration that named it is gone.
        if Arc::strong_count(&watch.addresses) == 1 {
            return;
        }
    }
}

impl Watch {
    fn accept(&self, answer: impl Iterator<Item = IpAddr>, failures: u32) {
        let addresses = all_of_tcp(in_order(answer, self.port));
        let before = self.addresses.load();
        let is_same = before.len() == addresses.len()
            && addresses.iter().all(|address| before.contains(address));
        if failures > 0 || !is_same {
            tracing::info!(name = self.name, ?addresses, "resolved");
        }
        // Stored even when only the order changed: servers rotate it to spread the load.
        self.addresses.0.store(Arc::new(addresses));
        if !is_same {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Said once per outage, not once per attempt.
    fn report(&self, error: &NetError, failures: u32) {
        if failures > 0 {
            tracing::debug!(name = self.name, %error, "still not resolved");
        } else if self.addresses.load().is_empty() {
            tracing::warn!(name = self.name, %error, "not resolved, so the origin has no address");
        } else {
            tracing::warn!(name = self.name, %error, "not resolved again, the last addresses stay");
        }
    }
}

impl Awaited {
    fn new(unsettled: &Arc<Unsettled>) -> Self {
        *lock(&unsettled.count) += 1;
        Self(unsettled.clone())
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        *lock(&self.0.count) -= 1;
        self.0.is_changed.notify_all();
    }
}

/// A panic elsewhere leaves a count that is still true.
fn lock(count: &Mutex<usize>) -> MutexGuard<'_, usize> {
    count.lock().unwrap_or_else(PoisonError::into_inner)
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
fn in_order(answer: impl Iterator<Item = IpAddr>, port: u16) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in answer.map(|ip| SocketAddr::new(ip, port)) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
}

fn all_of_tcp(addresses: Vec<SocketAddr>) -> Vec<Address> {
    addresses.into_iter().map(Address::Tcp).collect()
}

fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(5);
    (TTL_MIN * (1 << doublings)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A name server that gives its n-th answer for an A question to the n-th of them, the last
    /// one for ever, with a TTL of 0. `None` is SERVFAIL. There are no IPv6 addresses.
    fn name_server(answers: Vec<Option<Ipv4Addr>>) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut answers = answers.into_iter().peekable();
            let mut packet = [0; 512];
            while let Ok((count, peer)) = socket.recv_from(&mut packet) {
                let question_end = 12 + packet[12..count].iter().position(|b| *b == 0).unwrap() + 5;
                let mut reply = packet[..question_end].to_vec();
                reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
                let is_a = reply[question_end - 4..question_end - 2] == [0, 1];
                if is_a {
                    let answer =
                        if answers.len() > 1 { answers.next() } else { answers.peek().copied() };
                    match answer.flatten() {
                        Some(address) => {
                            reply[7] = 1;
                            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                            reply.extend(address.octets());
                        }
                        None => reply[3] = 0x82,
                    }
                }
                socket.send_to(&reply, peer).unwrap();
            }
        });
        address
    }

    /// Files of the machine that say nothing.
    fn no_files() -> Files {
        Files { resolv_conf: "/dev/null".into(), hosts: "/dev/null".into() }
    }

    fn resolver(answers: Vec<Option<Ipv4Addr>>) -> Resolver {
        let dns = DnsConfig { servers: vec![name_server(answers)], ..DnsConfig::default() };
        Resolver::start_with(NameService::new(&dns, no_files()).unwrap()).unwrap()
    }

    fn without_server() -> Resolver {
        let names = NameService::new(&DnsConfig::default(), no_files()).unwrap();
        Resolver::start_with(names).unwrap()
    }

    fn wait_for(addresses: &Addresses, wanted: &[Address]) {
        let began = Instant::now();
        while *addresses.load().as_slice() != *wanted {
            assert!(began.elapsed() < PATIENCE, "{:?} instead of {wanted:?}", addresses.load());
            thread::park_timeout(Duration::from_millis(2));
        }
    }

    fn on_port_80(last: u8) -> Address {
        Address::Tcp((Ipv4Addr::new(10, 0, 0, last), 80).into())
    }

    #[test]
    fn addresses_and_localhost_need_no_name_server() {
        let resolver = without_server();
        let table = [
            ("10.0.0.1", vec!["10.0.0.1:80"]),
            ("::1", vec!["[::1]:80"]),
            ("localhost", vec!["127.0.0.1:80", "[::1]:80"]),
            ("LOCALHOST.", vec!["127.0.0.1:80", "[::1]:80"]),
            ("unix:/run/app.sock", vec!["unix:/run/app.sock"]),
            ("app.localhost", vec!["127.0.0.1:80", "[::1]:80"]),
        ];
        for (host, expected) in table {
            let expected: Vec<Address> =
                expected.into_iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(**resolver.watch(host, 80).load(), expected, "{host}");
        }
        assert!(resolver.settle(Duration::ZERO));
    }

    #[test]
    fn a_name_that_moves_is_followed() {
        let first = Ipv4Addr::new(10, 0, 0, 1);
        let second = Ipv4Addr::new(10, 0, 0, 2);
        let resolver = resolver(vec![Some(first), Some(second)]);
        let addresses = resolver.watch("app.test", 80);
        assert!(resolver.settle(PATIENCE));
        assert_eq!(**addresses.load(), [on_port_80(1)]);
        wait_for(&addresses, &[on_port_80(2)]);
    }

    #[test]
    fn a_failure_keeps_the_last_good_addresses() {
        let resolver = resolver(vec![
            Some(Ipv4Addr::new(10, 0, 0, 1)),
            None,
            Some(Ipv4Addr::new(10, 0, 0, 2)),
        ]);
        let addresses = resolver.watch("app.test", 80);
        assert!(resolver.settle(PATIENCE));
        let mut seen = Vec::new();
        let began = Instant::now();
        while seen.last() != Some(&vec![on_port_80(2)]) {
            assert!(began.elapsed() < PATIENCE, "{seen:?}");
            let now = addresses.load().to_vec();
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            thread::park_timeout(Duration::from_millis(2));
        }
        assert_eq!(seen, [vec![on_port_80(1)], vec![on_port_80(2)]]);
    }

    #[test]
    fn a_name_that_does_not_resolve_settles_without_addresses() {
        let resolver = resolver(vec![None]);
        let addresses = resolver.watch("app.test", 80);
        assert!(resolver.settle(PATIENCE));
        assert!(addresses.load().is_empty());
    }

    #[test]
    fn no_name_server_at_all_is_a_failure_and_not_a_panic() {
        let resolver = without_server();
        let addresses = resolver.watch("app.test", 80);
        assert!(resolver.settle(PATIENCE));
        assert!(addresses.load().is_empty());
    }

    #[test]
    fn ipv4_comes_first_and_nothing_twice() {
        let answer = ["::2", "10.0.0.2", "::1", "10.0.0.1", "::2"];
        let ordered = in_order(answer.iter().map(|text| text.parse().unwrap()), 80);
        let expected = ["10.0.0.2:80", "10.0.0.1:80", "[::2]:80", "[::1]:80"];
        assert_eq!(ordered, expected.map(|text| text.parse().unwrap()));
    }

    #[test]
    fn failures_are_asked_again_less_and_less_often() {
        let seconds: Vec<u64> = (1..=8).map(|failures| backoff(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
