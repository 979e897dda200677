//! The whole proxy as a value: listening sockets, workers, and their orderly end.
//!
//! In goes a checked configuration; [`Server::start`] binds, starts the workers and returns when
//! all are ready, or says in one line why not. Then [`Server::open`] lets the workers accept, and
//! not before: a process that cannot start has no client's connection. [`Server::drain`] stops
//! accepting, lets what is under way finish for `server.drain_timeout`, and returns what was left.
//! How another configuration takes the first one's place is `reload`'s affair.
//!
//! It installs no signal handler and writes to no standard stream: that is `main`'s part.

pub(crate) mod alone;
pub(crate) mod config_watch;
pub(crate) mod demo;
mod discovery;
pub(crate) mod found;
pub(crate) mod handover;
pub(crate) mod inherited;
pub(crate) mod listeners;
pub(crate) mod privileges;
pub(crate) mod reload;
pub(crate) mod signals;
mod upstreams;
pub(crate) mod workers;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Notify, Semaphore, mpsc as queue};

use self::found::Discovered;
use self::inherited::{Inheritance, Inherited};
use self::listeners::Sockets;
use self::upstreams::plan_upstreams;
use crate::acme;
use crate::address::Address;
use crate::admin::{self, AdminSocket, Control, ControlSetup, Logs};
use crate::admin_guard::TokenTries;
use crate::config::{Config, ListenerConfig};
use crate::forward_proxy::access::Access;
use crate::hooks::{Plans, custom};
use crate::ledger::Ledgers;
use crate::memory::origins::origin_connections;
use crate::memory::plan::PlanError;
use crate::memory::{Notice, Plan, SharedPressure, Usage};
use crate::observe::access_log::AccessLog;
use crate::observe::logging::LogMeter;
use crate::ring::driver::{self, Driver};
use crate::tls::acceptor::Acceptor;
use crate::upstream::permits::{Limits, PoolShared};
use crate::upstream::resolver::Resolver;
use crate::worker::census::SharedRoom;
use crate::worker::discovery::DiscoveryState;
use crate::worker::generation::{Snapshot, SnapshotParts, proxy_protocol};
use crate::worker::history::{History, Source};
use crate::worker::mailbox::{ControlQuery, ServerCommand};
use crate::worker::shared::{Shared, WorkerSlot};
use crate::worker::thread::DrainReport;

/// Why ringway could not start: one line with cause and cure.
#[derive(Debug)]
pub struct StartError(pub(crate) String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// A running proxy.
pub struct Server {
    pub(crate) sockets: Sockets,
    pub(crate) workers: Vec<JoinHandle<DrainReport>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) access_log: Option<AccessLog>,
    /// What the next worker waits by.
    pub(crate) driver: Driver,
    pub(crate) control: Option<Control>,
    pub(crate) resolver: Resolver,
    pub(crate) discovered: Discovered,
    /// Where the demo origin listens, once there is one.
    demo: Option<SocketAddr>,
    /// What the admin API wants done; for the thread that owns the server.
    pub server_commands: queue::UnboundedReceiver<ServerCommand>,
}

/// More than can wait in a listening socket's queue.
const LAST_ACCEPTED: usize = 65_536;

/// How long the start waits for the addresses of named origins.
pub(crate) const NAMES_PATIENCE: Duration = Duration::from_secs(5);

/// How often the end of the drain is looked for.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Descriptors that the process needs besides connections: rings, logs, listeners, epoll.
pub(crate) const FILES_RESERVED: usize = 64;

/// Who listens when the drain begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Successor {
    /// None: new connections are refused.
    None,
    /// A process that has the same listening sockets.
    Ready,
}

impl Server {
    /// Starts everything that `config` names, with the sockets of an earlier process where there
    /// are any. What of them it has no use for is closed.
    pub fn start(mut config: Config, inheritance: Inheritance) -> Result<Self, StartError> {
        let Inheritance { mut listeners, admin, events, source, identity } = inheritance;
        let driver = choose_driver(&config)?;
        raise_files_limit(&mut config);
        let mut sockets = Sockets::default();
        let next = sockets.prepare(&config, &mut listeners).map_err(StartError)?;
        sockets.commit(next);
        for unused in listeners {
            sockets.retire(&unused);
            let Inherited { address, name, .. } = unused;
            tracing::warn!(%address, name, "no listener has this address: socket not used");
        }
        let socket = AdminSocket::open(&config.admin, admin).map_err(StartError)?;
        if let Some(identity) = identity {
            sockets.files().for_each(|path| identity.own(path));
            socket.as_ref().and_then(AdminSocket::path).iter().for_each(|path| identity.own(path));
            identity.take_on().map_err(StartError)?;
        }
        let mut demo = None;
        settle_demo(&mut config, &mut demo)?;
        let access_log =
            AccessLog::start(&config.log).map_err(failed("the access log cannot be written"))?;
        let resolver =
            Resolver::start(&config.dns).map_err(failed("the resolver did not start"))?;
        let mut discovered = Discovered::default();
        discovered.read_files(&config);
        discovered.lay(&mut config);
        let upstreams = plan_upstreams(&config, &resolver, &[]).map_err(StartError)?;
        upstreams::settle(&upstreams, false);
        if !resolver.settle(NAMES_PATIENCE) {
            tracing::warn!("some names of origins are not resolved yet; starting without them");
        }
        let listeners = sockets.addresses();
        let admin = socket.as_ref().and_then(AdminSocket::address);
        let own: Vec<_> = listeners.iter().filter_map(|own| own.tcp()).chain(admin).collect();
        let access =
            Access::prepare(&config, &own, &sockets.numbers(), None).map_err(StartError)?;
        let hooks = Plans::load(&config, custom::own(), None).map_err(StartError)?;
        let tls = load_tls(&config, &listeners, &sockets.numbers(), None).map_err(StartError)?;
        let proxy_protocol = proxy_protocol(&config, &sockets.numbers());
        let (config, hooks, access) = (Arc::new(config), Arc::new(hooks), Arc::new(access));
        let parts =
            SnapshotParts { config, upstreams, access, hooks, proxy_protocol, listeners, tls };
        let (shared, queries, server_commands) = share(parts, discovered.state.clone(), source);
        let mut server = Self {
            sockets,
            workers: Vec::new(),
            shared,
            access_log,
            driver,
            control: None,
            resolver,
            discovered,
            demo,
            server_commands,
        };
        for _ in 0..server.shared.snapshot.load().config.server.workers {
            server.start_worker()?;
        }
        server.start_control(socket, events, queries)?;
        server.await_engine();
        Ok(server)
    }

    /// Begins to accept connections, and says where.
    pub fn open(&self) -> Result<(), StartError> {
        for worker in self.active_workers() {
            self.let_accept(worker)?;
        }
        // Not before a challenge could be answered.
        if let Some(control) = &self.control {
            control.spawn(acme::run(self.shared.clone()));
        }
        self.announce();
        Ok(())
    }

    fn start_control(
        &mut self,
        socket: Option<AdminSocket>,
        events: Option<LogMeter>,
        queries: queue::UnboundedReceiver<ControlQuery>,
    ) -> Result<(), StartError> {
        let shared = self.shared.clone();
        let drop_caches = move || {
            let snapshot = shared.snapshot.load();
            snapshot.access.drop_caches();
            snapshot.hooks.drop_caches();
        };
        let caches: Vec<Box<dyn Fn() + Send>> = vec![Box::new(drop_caches)];
        let logs = Logs { events, access: self.access_log.clone() };
        let setup = ControlSetup { shared: self.shared.clone(), logs, socket, queries, caches };
        // Before a client can ask.
        self.shared.is_ready.store(true, Ordering::Release);
        self.control = Some(admin::start(setup).map_err(StartError)?);
        Ok(())
    }

    /// Says what there is. A script that waits for the start waits for the listeners' lines.
    pub(crate) fn announce(&self) {
        let snapshot = self.shared.snapshot.load();
        for upstream in &snapshot.upstreams {
            let origins: Vec<_> = upstream.origins.iter().map(|o| o.authority.as_str()).collect();
            tracing::info!(name = upstream.config.name, origins = origins.join(","), "upstream");
        }
        let plain = snapshot.listeners.len() - snapshot.config.server.listen_tls.len();
        for (index, address) in snapshot.listeners.iter().enumerate() {
            if index < plain {
                tracing::info!(%address, "listening");
            } else {
                tracing::info!(%address, "listening, with TLS");
            }
        }
    }

    /// The admin address, with the port that was chosen for port 0.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.control.as_ref()?.admin_address()
    }

    /// Starts a new process and hands it the listening sockets.
    pub fn start_successor(&self, program: &Path) -> Result<handover::Successor, String> {
        let admin = self.control.as_ref().and_then(Control::admin_socket);
        handover::Successor::start(program, self.sockets.lend(), admin)
    }

    /// The configuration in use.
    pub fn config(&self) -> Arc<Config> {
        self.shared.snapshot.load().config.clone()
    }

    /// Keeps what the file said when the configuration in use was read.
    pub(crate) fn keep_text(&self, text: Option<Arc<str>>) {
        self.shared.history.keep_text(text);
    }

    /// A configuration could not be put in use.
    pub fn count_refusal(&self) {
        self.shared.reloads_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn settle_demo(&mut self, config: &mut Config) -> Result<(), StartError> {
        settle_demo(config, &mut self.demo)
    }

    /// The addresses listened on by TCP, with the ports that were chosen for port 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.addresses().into_iter().filter_map(Address::tcp).collect()
    }

    /// The files of sockets that were taken over are this process's from here on.
    pub(crate) fn claim_files(&mut self) {
        self.sockets.claim();
    }

    /// Connections of clients and to origins that are open now.
    pub fn connections(&self) -> (usize, usize) {
        let live = self.shared.live.iter().map(|live| live.load(Ordering::Relaxed)).sum();
        (live, self.shared.pool.open())
    }

    /// Stops accepting, and waits for what is under way up to `server.drain_timeout`; then, or once
    /// `force` says so, ends the rest.
    pub fn drain(mut self, force: &AtomicBool, successor: Successor) -> DrainReport {
        // Who spreads the load is to hear of it before connections are refused.
        self.shared.is_ready.store(false, Ordering::Release);
        let config = self.shared.snapshot.load().config.clone();
        let is_handed_over = successor == Successor::Ready;
        let grace = if is_handed_over { Duration::ZERO } else { config.server.ready_grace };
        let grace = Instant::now() + grace;
        while Instant::now() < grace && !force.load(Ordering::Relaxed) {
            std::thread::sleep(POLL.min(grace.saturating_duration_since(Instant::now())));
        }
        let deadline = Instant::now() + config.server.drain_timeout;
        // What has been accepted is served, room or no room: nothing comes after it.
        self.shared.clients.add_permits(self.sockets.len() * LAST_ACCEPTED);
        self.shared.is_closing.store(true, Ordering::Release);
        if is_handed_over {
            self.shared.is_handed_over.store(true, Ordering::Release);
            self.control.iter().for_each(Control::hand_over);
            self.sockets.leave();
        } else {
            self.sockets.close(&self.shared);
        }
        self.shared.is_draining.store(true, Ordering::Release);
        self.wake_workers();
        while !self.workers.iter().all(JoinHandle::is_finished) {
            if Instant::now() >= deadline || force.load(Ordering::Relaxed) {
                self.shared.is_cutting.store(true, Ordering::Release);
                self.wake_workers();
            }
            std::thread::sleep(POLL);
        }
        let mut report = DrainReport::default();
        for worker in self.workers {
            let left = worker.join().unwrap_or_default();
            report.connections += left.connections;
            report.leased_chunks += left.leased_chunks;
            report.leased_heads += left.leased_heads;
            report.upstream_connections += left.upstream_connections;
        }
        if let Some(control) = self.control {
            control.stop();
        }
        if let Some(log) = self.access_log {
            log.finish();
        }
        if let Some(spans) = self.shared.spans.get() {
            spans.finish();
        }
        report
    }

    fn wake_workers(&self) {
        for signal in &self.shared.drain {
            signal.notify_one();
        }
    }
}

/// What the workers are to wait by; says why, where it is not what would be best.
fn choose_driver(config: &Config) -> Result<Driver, StartError> {
    let (driver, why) = driver::choose(config.server.driver).map_err(StartError)?;
    if let Some(why) = why {
        tracing::warn!("{}", driver::instead_of_ring(&why));
    }
    Ok(driver)
}

/// An error with what it prevents.
fn failed<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> StartError {
    move |error| StartError(format!("{what}: {error}"))
}

/// Makes the configuration fit into the memory that there is.
pub(crate) fn fit(config: &mut Config) -> Result<(Plan, Vec<Notice>), PlanError> {
    // The shipped file repeats the standard values: an operator who has it has not chosen them.
    let (limits, standard) = (&config.limits, Config::default().limits);
    let is_clients_given = limits.clients != standard.clients;
    let is_tunnels_given = limits.tunnels != standard.tunnels;
    Plan::fit(config, &Usage::read(), is_clients_given, is_tunnels_given)
}

/// Starts the demo origin if `config` wants it and there is none.
fn settle_demo(config: &mut Config, demo: &mut Option<SocketAddr>) -> Result<(), StartError> {
    if config.needs_demo() {
        let address = match *demo {
            Some(address) => address,
            None => demo::start().map_err(failed("the demo origin did not start"))?,
        };
        *demo = Some(address);
        config.place_demo(address);
    }
    Ok(())
}

/// What the threads share, and the questions to the control thread.
fn share(
    parts: SnapshotParts,
    discovery: Arc<DiscoveryState>,
    source: Source,
) -> (Arc<Shared>, queue::UnboundedReceiver<ControlQuery>, queue::UnboundedReceiver<ServerCommand>)
{
    let config = parts.config.clone();
    let slots = slots_for(config.server.workers);
    let (control, queries) = queue::unbounded_channel();
    let (command, server_commands) = queue::unbounded_channel();
    let snapshot = Snapshot::first(parts, slots);
    let history = History::new(&snapshot, source);
    let shared = Arc::new(Shared {
        pool: PoolShared::new(pool_limits(&config), slots),
        clients: Arc::new(Semaphore::new(config.limits.clients)),
        room: SharedRoom::default(),
        tunnels: Arc::new(Semaphore::new(config.limits.tunnels)),
        streams: Arc::new(Semaphore::new(config.limits.streams)),
        live: (0..slots).map(|_| AtomicUsize::new(0)).collect(),
        slots: (0..slots).map(|_| WorkerSlot::default()).collect(),
        control,
        snapshot: ArcSwap::from_pointee(snapshot),
        history,
        discovery,
        server_commands: command,
        reloads_refused: AtomicUsize::new(0),
        spans: OnceLock::new(),
        token_tries: TokenTries::new(),
        metrics: (0..slots).map(|_| Arc::default()).collect(),
        rings: (0..slots).map(|_| Arc::default()).collect(),
        ledgers: Ledgers::new(slots),
        pressure: SharedPressure::default(),
        spool: Arc::default(),
        is_ready: AtomicBool::new(false),
        is_closing: AtomicBool::new(false),
        is_draining: AtomicBool::new(false),
        is_handed_over: AtomicBool::new(false),
        drain: (0..slots).map(|_| Notify::new()).collect(),
        is_cutting: AtomicBool::new(false),
    });
    (shared, queries, server_commands)
}

/// What the listeners that speak TLS need; `addresses` and `numbers` are those of all listeners, in
/// the order of the configuration.
pub(crate) fn load_tls(
    config: &Config,
    addresses: &[Address],
    numbers: &[u16],
    before: Option<&Acceptor>,
) -> Result<Option<Arc<Acceptor>>, String> {
    let all = config.server.listeners.iter().zip(addresses).zip(numbers);
    let own = all.filter(|((listener, _), _)| listener.is_tls);
    let (addresses, numbers): (Vec<&Address>, Vec<_>) =
        own.map(|((_, address), number)| (address, *number)).unzip();
    let port = addresses.iter().find_map(|address| address.tcp()).map_or(0, |own| own.port());
    Acceptor::load(config, numbers, port, before)
}

/// Room for as many workers as this machine can use, and for those that they take over from.
fn slots_for(workers: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    2 * workers.max(cores)
}

/// Whether a server could listen as `listener` says now; the error says why not.
pub(crate) fn try_listen(listener: &ListenerConfig, backlog: u32) -> Result<(), StartError> {
    Sockets::default().try_bind(listener, backlog).map_err(StartError)
}

/// How many connections to origins there may be: what the configuration says of each upstream, and
/// in all what memory and descriptors allow.
pub(crate) fn pool_limits(config: &Config) -> Limits {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let spare = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(FILES_RESERVED);
    let by_memory = Plan::of(config, &Usage::read()).origin_connections();
    let own = |upstream: &crate::config::UpstreamConfig| {
        Some((upstream.name.clone(), upstream.max_connections?))
    };
    let named = |of: fn(&crate::config::UpstreamConfig) -> Option<usize>| {
        let upstreams = config.upstreams.iter();
        upstreams.filter_map(|upstream| Some((upstream.name.clone(), of(upstream)?))).collect()
    };
    Limits {
        each: config.pool.max_connections,
        own: config.upstreams.iter().filter_map(own).collect(),
        idle: named(|upstream| upstream.max_idle),
        queue: named(|upstream| upstream.queue),
        long: config.limits.long_responses,
        ceiling: by_memory.min(origin_connections(config, spare)),
    }
}

/// Raises the soft limit on open files to the hard one, and `limits.clients` down to what fits.
pub(crate) fn raise_files_limit(config: &mut Config) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let files = usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX);
    let spare = files.saturating_sub(FILES_RESERVED);
    let room = spare.saturating_sub(origin_connections(config, spare)).max(1);
    if room < config.limits.clients {
        tracing::warn!(
            "limits.clients = {} does not fit the limit of {files} open files and is {room} for \
             now. Raise the limit (`ulimit -n`, docker `--ulimit nofile`, systemd `LimitNOFILE`)",
            config.limits.clients
        );
        config.limits.clients = room;
    }
}
