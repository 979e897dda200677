//! Origin names to socket addresses, off the ring threads.
//!
//! In: host names. Out: one `Addresses` per origin, which the workers read without waiting and a
//! thread of its own keeps current: a name is asked again when its TTL is over, or when somebody
//! who has used an answer doubts it; when that fails the last good answer stands and the next
//! question comes sooner. An address needs no question at all. A service (RFC 2782) is a list of
//! names, each of which is followed in the same way. Nothing here connects anywhere but to name
//! servers.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use hickory_resolver::net::NetError;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::config::DnsConfig;

use crate::address::Address;
use crate::limits::ADDRESSES_PER_NAME_MAX;
use crate::ring::clock;

use super::addresses::{Addresses, Doubt, all_of_tcp, in_order};
use super::names::{Files, NameService, ServiceRecord};
use super::services::Service;

/// A TTL of 0 means "ask each time", which is once a second here.
const TTL_MIN: Duration = Duration::from_secs(1);

/// An hour bounds how long a move goes unnoticed, whatever the zone promised.
const TTL_MAX: Duration = Duration::from_secs(3600);

/// Between questions that fail: 1, 2, 4 ... seconds, up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether other name servers are to be asked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// The thread that keeps `Addresses` current; dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Resolver {
    watches: UnboundedSender<Watch>,
    names: Arc<NameService>,
    unsettled: Arc<Unsettled>,
    changes: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Watch {
    Name(NameWatch),
    Service(ServiceWatch),
}

#[derive(Debug)]
struct NameWatch {
    name: String,
    port: u16,
    /// For as long as anybody wants to know.
    addresses: Weak<Addresses>,
    doubt: Arc<Doubt>,
    changes: Arc<AtomicU64>,
    /// Taken at the first outcome, good or bad.
    first_outcome: Option<Awaited>,
}

#[derive(Debug)]
struct ServiceWatch {
    name: String,
    /// For as long as anybody wants to know.
    service: Weak<Service>,
    doubt: Arc<Doubt>,
    changes: Arc<AtomicU64>,
    unsettled: Arc<Unsettled>,
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

impl Resolver {
    /// Asks the servers of `dns` or else `/etc/resolv.conf`, after `/etc/hosts`.
    pub(crate) fn start(dns: &DnsConfig) -> io::Result<Self> {
        Self::start_with(NameService::new(dns, Files::default())?)
    }

    fn start_with(names: NameService) -> io::Result<Self> {
        let (resolver, work) = Self::with(names);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("resolver".to_owned()).spawn(move || runtime.block_on(work))?;
        Ok(resolver)
    }

    /// One without a thread, that asks the servers of `dns` and looks at no file: it keeps names
    /// current for as long as somebody runs the future.
    pub(crate) fn without_thread(
        dns: &DnsConfig,
    ) -> io::Result<(Self, impl Future<Output = ()> + use<>)> {
        let none = Files { resolv_conf: PathBuf::new(), hosts: PathBuf::new() };
        Ok(Self::with(NameService::new(dns, none)?))
    }

    fn with(names: NameService) -> (Self, impl Future<Output = ()>) {
        let names = Arc::new(names);
        let (watches, arrivals) = unbounded_channel();
        let work = serve(names.clone(), arrivals);
        (Self { watches, names, unsettled: Arc::default(), changes: Arc::default() }, work)
    }

    /// Asks by `dns` from now on, and reads again what the machine says of name servers.
    pub(crate) fn reread(&self, dns: &DnsConfig) {
        self.names.reread(dns);
    }

    /// The addresses of `host`, which is an IP address without brackets, a name or a Unix socket.
    /// Returns at once: those of a name follow, see `settle`.
    pub(crate) fn watch(&self, host: &str, port: u16) -> Arc<Addresses> {
        let addresses = Arc::new(Addresses::default());
        if addresses.set_known(host, port) {
            return addresses;
        }
        self.send(Watch::Name(NameWatch {
            name: host.to_owned(),
            port,
            addresses: Arc::downgrade(&addresses),
            doubt: addresses.doubt.clone(),
            changes: self.changes.clone(),
            first_outcome: Some(Awaited::new(&self.unsettled)),
        }));
        addresses
    }

    /// The servers of the service called `name`, such as `_http._tcp.example.org`. Returns at once,
    /// as `watch` does.
    pub(crate) fn watch_service(&self, name: &str) -> Arc<Service> {
        let service = Arc::new(Service::default());
        self.send(Watch::Service(ServiceWatch {
            name: name.to_owned(),
            service: Arc::downgrade(&service),
            doubt: service.doubt.clone(),
            changes: self.changes.clone(),
            unsettled: self.unsettled.clone(),
            first_outcome: Some(Awaited::new(&self.unsettled)),
        }));
        service
    }

    fn send(&self, watch: Watch) {
        if self.watches.send(watch).is_err() {
            tracing::error!("the resolver has ended, so names have no addresses any more");
        }
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
                let (names, changed) = (names.clone(), changed.clone());
                match watch {
                    Watch::Name(watch) => tokio::spawn(keep_current(names, changed, watch)),
                    Watch::Service(watch) => tokio::spawn(keep_service(names, changed, watch)),
                };
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
async fn keep_current(names: Arc<NameService>, changed: Arc<Notify>, mut watch: NameWatch) {
    let mut failures = 0;
    loop {
        watch.doubt.settle();
        // The configuration that named it is gone, or the service that led there.
        if watch.addresses.strong_count() == 0 {
            return;
        }
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
        tokio::select! {
            biased;
            () = watch.doubt.wait(pause, TTL_MIN, failures > 0) => {}
            () = changed.notified() => {}
        }
    }
}

/// Asks for one service as long as anybody wants to know, and has the names of its servers kept
/// current.
async fn keep_service(names: Arc<NameService>, changed: Arc<Notify>, mut watch: ServiceWatch) {
    let mut failures = 0;
    loop {
        watch.doubt.settle();
        if watch.service.strong_count() == 0 {
            return;
        }
        let pause = match names.asker().ask_for_service(&watch.name).await {
            Ok(answer) => {
                let ttl = answer.valid_until.saturating_duration_since(Instant::now());
                for name in watch.accept(answer.records, failures) {
                    tokio::spawn(keep_current(names.clone(), changed.clone(), name));
                }
                failures = 0;
                ttl.clamp(TTL_MIN, TTL_MAX)
            }
            Err(error) => {
                let service = watch.service.upgrade();
                let has_servers = service.is_some_and(|service| !service.load().is_empty());
                report(&watch.name, has_servers, &error, failures);
                failures += 1;
                backoff(failures)
            }
        };
        // Not before the names of its servers count as unsettled.
        watch.first_outcome = None;
        tokio::select! {
            biased;
            () = watch.doubt.wait(pause, TTL_MIN, failures > 0) => {}
            () = changed.notified() => {}
        }
    }
}

impl ServiceWatch {
    /// Takes the servers that there are now; the names of those that are new are to be followed.
    fn accept(&self, records: Vec<ServiceRecord>, failures: u32) -> Vec<NameWatch> {
        let mut names = Vec::new();
        let Some(service) = self.service.upgrade() else { return names };
        let known = (self.name.as_str(), clock::coarse_ms());
        let is_changed = service.take(known, records, |host, port, addresses| {
            names.push(NameWatch {
                // What DNS says is a whole name.
                name: format!("{host}."),
                port,
                doubt: addresses.doubt.clone(),
                addresses: Arc::downgrade(&addresses),
                changes: self.changes.clone(),
                first_outcome: Some(Awaited::new(&self.unsettled)),
            });
        });
        if is_changed {
            self.changes.fetch_add(1, Ordering::Release);
        }
        if failures > 0 || is_changed {
            tracing::info!(name = self.name, servers = service.to_string(), "resolved");
        }
        names
    }
}

impl NameWatch {
    fn accept(&self, answer: impl Iterator<Item = IpAddr>, failures: u32) {
        let Some(known) = self.addresses.upgrade() else { return };
        let before = known.load();
        let all = all_of_tcp(in_order(answer, self.port));
        let count = all.len();
        let addresses = bounded(all, &before);
        let is_same = before.len() == addresses.len()
            && addresses.iter().all(|address| before.contains(address));
        // Stored even when only the order changed: servers rotate it to spread the load.
        known.store(addresses.clone(), !is_same);
        if !is_same {
            self.changes.fetch_add(1, Ordering::Release);
        }
        if failures > 0 || !is_same {
            tracing::info!(name = self.name, ?addresses, "resolved");
            if count > addresses.len() {
                let used = addresses.len();
                tracing::warn!(name = self.name, addresses = count, used, "too many addresses");
            }
        }
    }

    fn report(&self, error: &NetError, failures: u32) {
        let known = self.addresses.upgrade();
        let has_addresses = known.is_some_and(|known| !known.load().is_empty());
        report(&self.name, has_addresses, error, failures);
    }
}

/// As many of `all` as may be used: those of `before` first, because an answer that is turned round
/// with every question would else be another one each time.
fn bounded(mut all: Vec<Address>, before: &[Address]) -> Vec<Address> {
    if all.len() > ADDRESSES_PER_NAME_MAX {
        all.sort_by_key(|address| !before.contains(address));
        all.truncate(ADDRESSES_PER_NAME_MAX);
    }
    all
}

/// Said once per outage, not once per attempt.
fn report(name: &str, has_addresses: bool, error: &NetError, failures: u32) {
    if failures > 0 {
        tracing::debug!(name, %error, "still not resolved");
    } else if has_addresses {
        tracing::warn!(name, %error, "not resolved again, the last addresses stay");
    } else {
        tracing::warn!(name, %error, "not resolved, so the origin has no address");
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

fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(5);
    (TTL_MIN * (1 << doublings)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

    use super::*;
    use crate::address::Address;
    use crate::config::DnsFamily;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A name server that gives its n-th answer for an A question to the n-th of them, the last
    /// one for ever, with a TTL of 0. `None` is SERVFAIL. There are no IPv6 addresses.
    fn name_server(answers: Vec<Option<Ipv4Addr>>) -> SocketAddr {
        name_server_with_ttl(answers, 0)
    }

    fn name_server_with_ttl(answers: Vec<Option<Ipv4Addr>>, ttl: u8) -> SocketAddr {
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
                            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4]);
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
    fn a_name_is_asked_again_at_once_where_there_is_doubt() {
        let two = [1, 2].map(|last| Some(Ipv4Addr::new(10, 0, 0, last)));
        let servers = vec![name_server_with_ttl(two.to_vec(), 250)];
        let dns = DnsConfig { servers, family: DnsFamily::V4, ..DnsConfig::default() };
        let names = NameService::new(&dns, no_files()).unwrap();
        let resolver = Resolver::start_with(names).unwrap();
        let addresses = resolver.watch("app.test", 80);
        assert!(resolver.settle(PATIENCE));
        assert_eq!(**addresses.load(), [on_port_80(1)]);
        // However often that is said.
        (0..1_000).for_each(|_| addresses.doubt());
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
    fn of_an_answer_of_thousands_the_same_few_are_used_however_it_is_turned() {
        let all = |from: u32| {
            let turned =
                (0..2_000).map(move |it| Ipv4Addr::from(0x0a00_0000 + (from + it) % 2_000));
            all_of_tcp(in_order(turned.map(IpAddr::V4), 80))
        };
        let first = bounded(all(0), &[]);
        assert_eq!(first.len(), ADDRESSES_PER_NAME_MAX);
        let again = bounded(all(777), &first);
        assert!(again.len() == first.len() && again.iter().all(|it| first.contains(it)));
    }

    #[test]
    fn who_keeps_a_name_current_that_nobody_wants_any_more_ends_at_once() {
        let servers = vec![name_server_with_ttl(vec![Some(Ipv4Addr::new(10, 0, 0, 1))], 250)];
        let dns = DnsConfig { servers, family: DnsFamily::V4, ..DnsConfig::default() };
        let names = NameService::new(&dns, no_files()).unwrap();
        let resolver = Resolver::start_with(names).unwrap();
        let addresses = resolver.watch("app.test", 80);
        assert!(resolver.settle(PATIENCE));
        let doubt = Arc::downgrade(&addresses.doubt);
        drop(addresses);
        // Its time to live is minutes.
        let began = Instant::now();
        while doubt.strong_count() > 0 {
            assert!(began.elapsed() < PATIENCE, "it still waits");
            thread::park_timeout(Duration::from_millis(2));
        }
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
