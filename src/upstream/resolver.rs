//! Origin names to socket addresses, off the ring threads.
//!
//! In: host names. Out: one `Addresses` per origin, which the workers read without waiting and a
//! thread of its own keeps current: a name is asked again when its TTL is over, and when that
//! fails the last good answer stands and the next question comes sooner. An address needs no
//! question at all. Nothing here connects anywhere but to name servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use tokio::runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::address::{Address, UnixAddress};

/// A TTL of 0 means "ask each time", which is once a second here.
const TTL_MIN: Duration = Duration::from_secs(1);

/// An hour bounds how long a move goes unnoticed, whatever the zone promised.
const TTL_MAX: Duration = Duration::from_secs(3600);

/// Between questions that fail: 1, 2, 4 ... seconds, up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The addresses that one origin has now, IPv4 first.
#[derive(Debug, Default)]
pub(crate) struct Addresses(ArcSwap<Vec<Address>>);

/// The thread that keeps `Addresses` current; dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Resolver {
    watches: UnboundedSender<Watch>,
    unsettled: Arc<Unsettled>,
}

#[derive(Debug)]
struct Watch {
    name: String,
    port: u16,
    addresses: Arc<Addresses>,
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
    /// Asks the servers of `/etc/resolv.conf`, after `/etc/hosts`.
    pub(crate) fn start() -> io::Result<Self> {
        let (config, options) = read_system_conf().unwrap_or_else(|error| {
            // `/etc/hosts` and addresses go without name servers, and may be all that is used.
            tracing::debug!("no name servers: /etc/resolv.conf: {error}");
            (ResolverConfig::default(), ResolverOpts::default())
        });
        Self::start_with(config, options)
    }

    fn start_with(config: ResolverConfig, mut options: ResolverOpts) -> io::Result<Self> {
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Each answer is asked for again only when its TTL is over, so a cache never hits.
        options.cache_size = 0;
        let (watches, arrivals) = unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("resolver".to_owned()).spawn(move || {
            let provider = TokioRuntimeProvider::default();
            let built = TokioResolver::builder_with_config(config, provider).with_options(options);
            runtime.block_on(serve(built.build(), arrivals));
        })?;
        Ok(Self { watches, unsettled: Arc::default() })
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
            first_outcome: Some(Awaited::new(&self.unsettled)),
        };
        if self.watches.send(watch).is_err() {
            tracing::error!(host, "the resolver has ended, so this name has no address");
        }
        addresses
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

async fn serve(resolver: Result<TokioResolver, NetError>, mut arrivals: UnboundedReceiver<Watch>) {
    let resolver = match resolver {
        Ok(resolver) => Arc::new(resolver),
        Err(error) => return tracing::error!("names cannot be resolved: {error}"),
    };
    while let Some(watch) = arrivals.recv().await {
        tokio::spawn(keep_current(resolver.clone(), watch));
    }
}

/// Asks for one name as long as anybody wants to know.
async fn keep_current(resolver: Arc<TokioResolver>, mut watch: Watch) {
    let mut failures = 0;
    loop {
        let pause = match resolver.lookup_ip(watch.name.as_str()).await {
            Ok(answer) => {
                let ttl = answer.valid_until().saturating_duration_since(Instant::now());
                watch.accept(answer.iter(), failures);
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
        tokio::time::sleep(pause).await;
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

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A name server that gives its n-th answer for an A question to the n-th of them, the last
    /// one for ever, with a TTL of 0. `None` is SERVFAIL. There are no IPv6 addresses.
    fn name_server(answers: Vec<Option<Ipv4Addr>>) -> NameServerConfig {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
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
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection])
    }

    fn resolver(answers: Vec<Option<Ipv4Addr>>) -> Resolver {
        let config = ResolverConfig::from_name_servers(vec![name_server(answers)]);
        let mut options = ResolverOpts::default();
        options.attempts = 0;
        Resolver::start_with(config, options).unwrap()
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
        let resolver =
            Resolver::start_with(ResolverConfig::default(), ResolverOpts::default()).unwrap();
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
        let resolver =
            Resolver::start_with(ResolverConfig::default(), ResolverOpts::default()).unwrap();
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
