//! Names of forward targets to addresses, off the ring threads.
//!
//! In goes whatever name a client asked for; out come its addresses in the order in which they are
//! to be tried (RFC 8305 §4: the families take turns, IPv6 first), or the fault that says why there
//! are none. Answers are cached for their TTL and failures for `dns.negative_ttl`, both in a cache
//! of `dns.cache_entries`. What is cached or in `/etc/hosts` is answered at once; of the questions
//! that are open at once, the names of one zone have a share only, so that a silent zone holds up
//! nobody else. An address needs no question. What an address may be used for is not judged here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::LocalSet;

use crate::config::{DnsConfig, DnsFamily};
use crate::fault::Fault;

use crate::upstream::addresses::without_asking;
use crate::upstream::names::{Asker, Files, NameService};

/// Questions open at the name servers at once, and those among them for names of one zone.
const LOOKUPS_MAX: usize = 256;
const LOOKUPS_OF_ZONE_MAX: usize = 32;

/// A TTL above this would keep a target that has moved unreachable for too long.
const TTL_MAX: Duration = Duration::from_secs(3600);

/// Addresses of one answer that are looked at.
const ADDRESSES_MAX: usize = 32;

/// The thread that asks; dropping the last handle ends it.
#[derive(Clone, Debug)]
pub(crate) struct NameLookup {
    jobs: UnboundedSender<Job>,
    names: Arc<NameService>,
    /// So many names are known.
    known: Arc<AtomicUsize>,
    family: DnsFamily,
}

/// A name with its addresses in the cache.
pub(crate) const NAME_BYTES: u64 = 1024;

type Answer = Result<Vec<IpAddr>, Fault>;

#[derive(Debug)]
enum Job {
    Look { name: String, reply: oneshot::Sender<Answer> },
    Forget,
}

impl NameLookup {
    /// Asks the servers of `config` or else `/etc/resolv.conf`, after `/etc/hosts`.
    pub(crate) fn start(config: &DnsConfig) -> io::Result<Self> {
        Self::start_with(config, Files::default())
    }

    fn start_with(config: &DnsConfig, files: Files) -> io::Result<Self> {
        let names = Arc::new(NameService::new(config, files)?);
        let known = Arc::<AtomicUsize>::default();
        let (jobs, arrivals) = unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (service, count, settings) = (names.clone(), known.clone(), config.clone());
        thread::Builder::new().name("names".to_owned()).spawn(move || {
            let desk = Rc::new(Desk::new(service, count, settings));
            LocalSet::new().block_on(&runtime, serve(desk, arrivals));
        })?;
        Ok(Self { jobs, names, known, family: config.family })
    }

    /// The addresses of `host`, which is an IP address without brackets or a name; never empty.
    pub(crate) async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Fault> {
        if let Some(known) = without_asking(host, port) {
            return Ok(known);
        }
        let (reply, answer) = oneshot::channel();
        let job = Job::Look { name: host.to_owned(), reply };
        self.jobs.send(job).map_err(|_| Fault::Internal)?;
        let addresses = answer.await.map_err(|_| Fault::Internal)??;
        let is_v4_first = self.family == DnsFamily::PreferV4;
        let addresses: Vec<_> = in_turns(&addresses, is_v4_first)
            .map(|address| SocketAddr::new(address, port))
            .collect();
        if addresses.is_empty() { Err(Fault::OriginUnresolved) } else { Ok(addresses) }
    }

    /// Drops what is cached.
    pub(crate) fn forget(&self) {
        self.known.store(0, Ordering::Relaxed);
        let _ = self.jobs.send(Job::Forget);
    }

    /// Reads again what the machine says of name servers and hosts.
    pub(crate) fn reread(&self, config: &DnsConfig) {
        self.names.reread(config);
    }

    /// What the cache takes.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.known.load(Ordering::Relaxed) as u64 * NAME_BYTES
    }
}

/// What the thread knows and does.
struct Desk {
    names: Arc<NameService>,
    settings: DnsConfig,
    turns: Arc<Semaphore>,
    /// Published.
    known: Arc<AtomicUsize>,
    state: RefCell<State>,
}

struct State {
    /// The number of the asker that the cache is from.
    number: u64,
    /// `None` keeps nothing.
    cache: Option<LruCache<Box<str>, Cached>>,
    /// Who waits for the answer to a question that is open.
    open: HashMap<Box<str>, Vec<oneshot::Sender<Answer>>>,
    /// By zone, as long as a question for it is open.
    zones: HashMap<Box<str>, Arc<Semaphore>>,
}

struct Cached {
    answer: Answer,
    until: Instant,
}

async fn serve(desk: Rc<Desk>, mut jobs: UnboundedReceiver<Job>) {
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Forget => desk.forget(),
            Job::Look { name, reply } => desk.look(name, reply),
        }
    }
}

impl Desk {
    fn new(names: Arc<NameService>, known: Arc<AtomicUsize>, settings: DnsConfig) -> Self {
        let cache = NonZeroUsize::new(settings.cache_entries).map(LruCache::sparse);
        let state = State {
            number: names.asker().number,
            cache,
            open: HashMap::new(),
            zones: HashMap::new(),
        };
        let turns = Arc::new(Semaphore::new(LOOKUPS_MAX));
        Self { names, settings, turns, known, state: RefCell::new(state) }
    }

    fn forget(&self) {
        if let Some(cache) = &mut self.state.borrow_mut().cache {
            *cache = LruCache::sparse(cache.cap());
        }
        self.known.store(0, Ordering::Relaxed);
    }

    fn look(self: &Rc<Self>, name: String, reply: oneshot::Sender<Answer>) {
        let asker = self.names.asker();
        if self.state.borrow().number != asker.number {
            self.forget();
            self.state.borrow_mut().number = asker.number;
        }
        let known = asker.in_hosts(&name).map(Ok).or_else(|| self.cached(&name));
        if let Some(answer) = known {
            let _ = reply.send(answer);
            return;
        }
        let mut state = self.state.borrow_mut();
        let name: Box<str> = name.into();
        if let Some(waiting) = state.open.get_mut(&name) {
            waiting.push(reply);
            return;
        }
        let zone = zone_of(&name);
        let share = state.zones.entry(zone.into());
        let share = share.or_insert_with(|| Arc::new(Semaphore::new(LOOKUPS_OF_ZONE_MAX))).clone();
        state.open.insert(name.clone(), vec![reply]);
        drop(state);
        tokio::task::spawn_local(self.clone().find(asker, share, name));
    }

    fn cached(&self, name: &str) -> Option<Answer> {
        let mut state = self.state.borrow_mut();
        let cached = state.cache.as_mut()?.get(name)?;
        (cached.until > Instant::now()).then(|| cached.answer.clone())
    }

    async fn find(self: Rc<Self>, asker: Arc<Asker>, share: Arc<Semaphore>, name: Box<str>) {
        let found = self.ask(&asker, &share, &name);
        let found = tokio::time::timeout(self.settings.timeout, found);
        let (answer, kept) = found.await.unwrap_or((Err(Fault::OriginResolveTimeout), None));
        let mut state = self.state.borrow_mut();
        if let Some(until) = kept.filter(|_| state.number == asker.number)
            && let Some(cache) = &mut state.cache
        {
            cache.put(name.clone(), Cached { answer: answer.clone(), until });
            self.known.store(cache.len(), Ordering::Relaxed);
        }
        let waiting = state.open.remove(&name).unwrap_or_default();
        drop(share);
        let zone = zone_of(&name);
        if state.zones.get(zone).is_some_and(|share| Arc::strong_count(share) == 1) {
            state.zones.remove(zone);
        }
        drop(state);
        for reply in waiting {
            // A client may have gone.
            let _ = reply.send(answer.clone());
        }
    }

    /// The answer, and until when it is kept.
    async fn ask(
        &self,
        asker: &Asker,
        share: &Arc<Semaphore>,
        name: &str,
    ) -> (Answer, Option<Instant>) {
        let stopping = (Err(Fault::Stopping), None);
        let Ok(of_zone) = share.clone().acquire_owned().await else { return stopping };
        let Ok(turn) = self.turns.clone().acquire_owned().await else { return stopping };
        // With its dot a name is complete: no search domain of this machine is a client's business.
        let complete = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
        let now = Instant::now();
        let unknown = Some(now + self.settings.negative_ttl);
        match asker.ask(&complete, Arc::new((of_zone, turn))).await {
            Ok(found) if found.addresses.is_empty() => (Err(Fault::OriginUnresolved), unknown),
            Ok(found) => {
                let mut addresses = found.addresses;
                addresses.truncate(ADDRESSES_MAX);
                (Ok(addresses), Some(found.valid_until.min(now + TTL_MAX)))
            }
            Err(error) => {
                tracing::debug!(name, %error, "not resolved");
                let kept = unknown.filter(|_| error.is_no_records_found());
                (Err(Fault::OriginUnresolved), kept)
            }
        }
    }
}

/// The last two labels of a name: what mostly has name servers of its own.
fn zone_of(name: &str) -> &str {
    let bare = name.strip_suffix('.').unwrap_or(name);
    bare.rmatch_indices('.').nth(1).map_or(bare, |(dot, _)| &bare[dot + 1..])
}

/// The families in turns, IPv6 first unless IPv4 is preferred, each in the order of the answer;
/// nothing twice.
fn in_turns(answer: &[IpAddr], is_v4_first: bool) -> impl Iterator<Item = IpAddr> {
    let family = |is_v6: bool| {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in answer.iter().filter(|address| address.is_ipv6() == is_v6) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    };
    let (first, second) = (family(!is_v4_first), family(is_v4_first));
    let length = first.len().max(second.len());
    (0..length)
        .flat_map(move |turn| [first.get(turn).copied(), second.get(turn).copied()])
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns() {
        let answer = addresses(&["10.0.0.1", "10.0.0.2", "::1", "10.0.0.1", "10.0.0.3"]);
        let ordered: Vec<_> = in_turns(&answer, false).collect();
        assert_eq!(ordered, addresses(&["::1", "10.0.0.1", "10.0.0.2", "10.0.0.3"]));
        let ordered: Vec<_> = in_turns(&answer, true).collect();
        assert_eq!(ordered, addresses(&["10.0.0.1", "::1", "10.0.0.2", "10.0.0.3"]));
        assert_eq!(in_turns(&[], false).count(), 0);
    }

    #[test]
    fn a_zone_is_the_last_two_labels() {
        for (name, zone) in
            [("a.b.test.", "b.test"), ("b.test", "b.test"), ("test", "test"), ("", "")]
        {
            assert_eq!(zone_of(name), zone);
        }
    }

    #[test]
    fn addresses_need_no_name_server_and_names_without_one_fail() {
        let config = DnsConfig { timeout: Duration::from_secs(5), ..DnsConfig::default() };
        let files = Files { resolv_conf: "/dev/null".into(), hosts: "/dev/null".into() };
        let names = NameLookup::start_with(&config, files).unwrap();
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let known = names.look_up("::1", 443).await;
            assert_eq!(known, Ok(vec!["[::1]:443".parse().unwrap()]));
            assert_eq!(names.look_up("a.test", 80).await, Err(Fault::OriginUnresolved));
        });
    }
}
