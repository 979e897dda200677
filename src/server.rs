//! The whole proxy as a value: listening sockets, workers, and their orderly end.
//!
//! In goes a checked configuration; [`Server::start`] binds, starts the workers and returns when
//! all are ready, or says in one line why not. [`Server::drain`] stops accepting, lets what is
//! under way finish for `server.drain_timeout`, and returns what was left.
//!
//! It installs no signal handler and writes to no standard stream: that is `main`'s part.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Type};
use tokio::sync::{Notify, Semaphore, mpsc as queue};

use crate::access_log::AccessLog;
use crate::ask::{Ask, ControlAsk};
use crate::config::Config;
use crate::control::{self, Control, ControlSetup, Door};
use crate::demo;
use crate::gate::Gate;
use crate::ledger::{Kind, Ledgers};
use crate::memory::{Plan, Usage};
use crate::metrics::WorkerMetrics;
use crate::ring::{refusal, runtime};
use crate::thread::{self, Ready, Remains, WorkerPlan};
use crate::upstream::names::Names;
use crate::upstream::permits::PoolShared;
use crate::upstream::resolve::Resolver;
use crate::upstream::{Origin, UpstreamPlan};
use crate::worker::{Accepted, NORMAL, Shared};

/// Why ringway could not start: one line with cause and cure.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// A running proxy.
pub struct Server {
    listeners: Vec<Listener>,
    workers: Vec<JoinHandle<Remains>>,
    shared: Arc<Shared>,
    config: Arc<Config>,
    access_log: Option<AccessLog>,
    control: Option<Control>,
    _resolver: Resolver,
}

struct Listener {
    address: SocketAddr,
    socket: socket2::Socket,
}

/// More than can wait in a listening socket's queue.
const LAST_ACCEPTED: usize = 65_536;

/// How long the start waits for the addresses of named origins.
const NAMES_PATIENCE: Duration = Duration::from_secs(5);

/// How often the end of the drain is looked for.
const POLL: Duration = Duration::from_millis(5);

/// Descriptors that the process needs besides connections: rings, logs, listeners, epoll.
const FILES_RESERVED: usize = 64;

impl Server {
    /// Starts everything that `config` names.
    pub fn start(mut config: Config) -> Result<Self, StartError> {
        runtime::probe().map_err(StartError)?;
        raise_files_limit(&mut config);
        let listeners = (config.server.listeners.iter())
            .map(|address| listen(*address, config.server.backlog))
            .collect::<Result<Vec<_>, _>>()?;
        let door = Door::open(&config.admin).map_err(StartError)?;
        if config.needs_demo() {
            let address = demo::start().map_err(failed("the demo origin did not start"))?;
            config.place_demo(address);
        }
        let access_log =
            AccessLog::start(&config.log).map_err(failed("the access log cannot be written"))?;
        let resolver = Resolver::start().map_err(failed("the resolver did not start"))?;
        let upstreams = Arc::new(plan_upstreams(&config, &resolver));
        if !resolver.settle(NAMES_PATIENCE) {
            tracing::warn!("some names of origins are not resolved yet; starting without them");
        }
        let own = listeners.iter().map(|listener| listener.address);
        let own: Vec<_> = own.chain(door.as_ref().and_then(Door::address)).collect();
        let gate = Arc::new(Gate::prepare(&config, &own).map_err(StartError)?);
        let Sharing { shared, inboxes, asks, control } = share(&config, gate.clone());
        if let Some(log) = &access_log {
            shared.ledgers.process().add(Kind::LogQueues, log.queue_bytes());
        }
        let plan = Plan::of(&config, &Usage::read());
        let config = Arc::new(config);
        let mut server = Self {
            listeners,
            workers: Vec::new(),
            shared: shared.clone(),
            config: config.clone(),
            access_log: access_log.clone(),
            control: None,
            _resolver: resolver,
        };
        for (index, (inbox, asks)) in inboxes.into_iter().zip(asks).enumerate() {
            let listeners = server.clone_listeners()?;
            server.start_worker(WorkerPlan {
                index,
                config: config.clone(),
                upstreams: upstreams.clone(),
                access_log: access_log.clone(),
                shared: shared.clone(),
                budget: plan.budget(),
                inbox,
                asks,
                listeners,
            })?;
        }
        server.start_control(door, control, &upstreams, &gate)?;
        server.announce(&upstreams);
        Ok(server)
    }

    fn start_control(
        &mut self,
        door: Option<Door>,
        asks: queue::UnboundedReceiver<ControlAsk>,
        upstreams: &Arc<Vec<UpstreamPlan>>,
        gate: &Arc<Gate>,
    ) -> Result<(), StartError> {
        let (names, passwords) = (gate.names.clone(), gate.authenticator.clone());
        let setup = ControlSetup {
            config: self.config.clone(),
            shared: self.shared.clone(),
            generation: 1,
            upstreams: upstreams.clone(),
            listeners: self.addresses(),
            door,
            asks,
            caches: vec![
                Box::new(move || names.iter().for_each(Names::forget)),
                Box::new(move || passwords.iter().for_each(|it| it.drop_cache())),
            ],
        };
        // Before anybody can ask.
        self.shared.is_ready.store(true, Ordering::Release);
        self.control = Some(control::start(setup).map_err(StartError)?);
        Ok(())
    }

    /// Says what there is. Whoever waits for the start waits for the listeners' lines.
    fn announce(&self, upstreams: &[UpstreamPlan]) {
        for upstream in upstreams {
            let origins: Vec<_> = upstream.origins.iter().map(|o| o.authority.as_str()).collect();
            tracing::info!(name = upstream.config.name, origins = origins.join(","), "upstream");
        }
        for listener in &self.listeners {
            tracing::info!(address = %listener.address, "listening");
        }
    }

    /// The admin address, with the port that was chosen for port 0.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.control.as_ref()?.admin_address()
    }

    fn clone_listeners(&self) -> Result<Vec<OwnedFd>, StartError> {
        self.listeners
            .iter()
            .map(|listener| listener.socket.as_fd().try_clone_to_owned())
            .collect::<io::Result<_>>()
            .map_err(|error| StartError(format!("a listening socket cannot be shared: {error}")))
    }

    fn start_worker(&mut self, plan: WorkerPlan) -> Result<(), StartError> {
        let index = plan.index;
        let wanted = plan.config.buffers.chunks_per_worker;
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || thread::run(plan, |ready| drop(sender.send(ready))))
            .map_err(|error| StartError(format!("worker {index} got no thread: {error}")))?;
        self.workers.push(thread);
        let ready = receiver.recv().unwrap_or_else(|_| Err(io::Error::other("it ended early")));
        match ready {
            Ok(ready) => {
                report_worker(index, wanted, ready);
                Ok(())
            }
            Err(error) => Err(StartError(format!("worker {index}: {}", refusal::diagnose(&error)))),
        }
    }

    /// The addresses listened on, with the ports that were chosen for port 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).collect()
    }

    /// Connections of clients and to origins that are open now.
    pub fn connections(&self) -> (usize, usize) {
        let live = self.shared.live.iter().map(|live| live.load(Ordering::Relaxed)).sum();
        (live, self.shared.pool.open())
    }

    /// Stops accepting, and waits for what is under way up to `server.drain_timeout`; then, or once
    /// `hurry` says so, ends the rest.
    pub fn drain(self, hurry: &AtomicBool) -> Remains {
        // Who spreads the load is to hear of it before connections are refused.
        self.shared.is_ready.store(false, Ordering::Release);
        let grace = Instant::now() + self.config.server.ready_grace;
        while Instant::now() < grace && !hurry.load(Ordering::Relaxed) {
            std::thread::sleep(POLL.min(grace.saturating_duration_since(Instant::now())));
        }
        let deadline = Instant::now() + self.config.server.drain_timeout;
        // What has been accepted is served, room or no room: nobody comes after it.
        self.shared.clients.add_permits(self.listeners.len() * LAST_ACCEPTED);
        self.shared.is_closing.store(true, Ordering::Release);
        for (index, listener) in self.listeners.iter().enumerate() {
            self.close_listener(index, listener);
        }
        self.shared.is_draining.store(true, Ordering::Release);
        self.wake_workers();
        while !self.workers.iter().all(JoinHandle::is_finished) {
            if Instant::now() >= deadline || hurry.load(Ordering::Relaxed) {
                self.shared.is_cutting.store(true, Ordering::Release);
                self.wake_workers();
            }
            std::thread::sleep(POLL);
        }
        let mut remains = Remains::default();
        for worker in self.workers {
            let left = worker.join().unwrap_or_default();
            remains.connections += left.connections;
            remains.leased_chunks += left.leased_chunks;
            remains.leased_heads += left.leased_heads;
            remains.upstream_connections += left.upstream_connections;
        }
        if let Some(control) = self.control {
            control.stop();
        }
        if let Some(log) = self.access_log {
            log.finish();
        }
        remains
    }

    fn wake_workers(&self) {
        for signal in &self.shared.drain {
            signal.notify_one();
        }
    }

    /// Takes what has been waiting to be accepted, then completes the workers' pending accepts:
    /// closing a listening socket resets what is still in its queue.
    fn close_listener(&self, index: usize, listener: &Listener) {
        let _ = listener.socket.set_nonblocking(true);
        while let Ok((socket, peer)) = listener.socket.accept() {
            let Ok(permit) = self.shared.clients.clone().try_acquire_owned() else { break };
            if let Some(peer) = peer.as_socket() {
                let listener = index as u16;
                self.shared.place(Accepted { fd: socket.into(), peer, permit, listener }, 0);
            }
        }
        let _ = listener.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// An error with what it prevents.
fn failed<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> StartError {
    move |error| StartError(format!("{what}: {error}"))
}

fn report_worker(index: usize, wanted: usize, ready: Ready) {
    let Ready { chunks, is_registered } = ready;
    tracing::info!(index, chunks, is_registered, "worker");
    if !is_registered {
        tracing::warn!(
            "worker {index} could not register its buffers with the ring and runs with ordinary \
             memory: RLIMIT_MEMLOCK is too small. Raise it (`ulimit -l unlimited`, docker \
             `--ulimit memlock=-1:-1`, systemd `LimitMEMLOCK=infinity`) or grant CAP_IPC_LOCK"
        );
    } else if chunks < wanted {
        tracing::warn!(
            "worker {index} registered {chunks} of {wanted} chunks: RLIMIT_MEMLOCK is too small \
             for buffers.chunks_per_worker. Raise it (`ulimit -l unlimited`, docker `--ulimit \
             memlock=-1:-1`, systemd `LimitMEMLOCK=infinity`) or grant CAP_IPC_LOCK"
        );
    }
}

/// What the threads share, and the ends of its queues.
struct Sharing {
    shared: Arc<Shared>,
    inboxes: Vec<queue::UnboundedReceiver<Accepted>>,
    asks: Vec<queue::UnboundedReceiver<Ask>>,
    control: queue::UnboundedReceiver<ControlAsk>,
}

fn share(config: &Config, forward: Arc<Gate>) -> Sharing {
    let workers = config.server.workers;
    let (inbox_senders, inboxes) = (0..workers).map(|_| queue::unbounded_channel()).unzip();
    let (ask_senders, asks) = (0..workers).map(|_| queue::unbounded_channel()).unzip();
    let (control_sender, control) = queue::unbounded_channel();
    let metrics = || Arc::new(WorkerMetrics::new(config.routes.len(), config.upstreams.len()));
    let shared = Arc::new(Shared {
        pool: PoolShared::new(config.pool.max_connections, workers),
        clients: Arc::new(Semaphore::new(config.limits.clients)),
        tunnels: Arc::new(Semaphore::new(config.limits.tunnels)),
        live: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        inboxes: inbox_senders,
        asks: ask_senders,
        control: control_sender,
        forward,
        metrics: (0..workers).map(|_| metrics()).collect(),
        rings: (0..workers).map(|_| Arc::default()).collect(),
        ledgers: Ledgers::new(workers),
        pressure: AtomicU8::new(NORMAL),
        is_ready: AtomicBool::new(false),
        is_closing: AtomicBool::new(false),
        is_draining: AtomicBool::new(false),
        drain: (0..workers).map(|_| Notify::new()).collect(),
        is_cutting: AtomicBool::new(false),
    });
    Sharing { shared, inboxes, asks, control }
}

/// Numbers the origins of all upstreams and asks the resolver for their addresses.
fn plan_upstreams(config: &Config, resolver: &Resolver) -> Vec<UpstreamPlan> {
    let mut index = 0;
    let mut origin_of = |origin: &crate::config::OriginConfig| {
        index += 1;
        Origin {
            index: index - 1,
            authority: origin.authority.clone(),
            weight: origin.weight,
            addresses: resolver.watch(&origin.host, origin.port),
            failing_since_ms: Arc::default(),
        }
    };
    config
        .upstreams
        .iter()
        .map(|upstream| UpstreamPlan {
            config: upstream.clone(),
            origins: upstream.origins.iter().map(&mut origin_of).collect(),
        })
        .collect()
}

/// Binds without SO_REUSEPORT, so that a second instance is told that the port is in use.
fn listen(address: SocketAddr, backlog: u32) -> Result<Listener, StartError> {
    let bound = || -> io::Result<Listener> {
        let domain = Domain::for_address(address);
        let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // Connections of an earlier instance in TIME_WAIT must not keep the port.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // Each family has its own listener; `[::]` shall not take IPv4's place.
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Listener { address, socket })
    };
    bound().map_err(|error| StartError(cannot_listen(address, &error)))
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let cure = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another process listens there (`ss -ltnp` shows which); stop it or choose another \
             server.port"
        }
        Some(libc::EACCES) => {
            "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE; choose a \
             higher server.port"
        }
        Some(libc::EADDRNOTAVAIL) => {
            "no interface of this machine has that address; see server.host"
        }
        _ => "see server.host, server.port and server.listen",
    };
    format!("cannot listen on {address}: {error}: {cure}")
}

/// Raises the soft limit on open files to the hard one, and `limits.clients` down to what fits.
fn raise_files_limit(config: &mut Config) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let files = usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX);
    let room = files.saturating_sub(config.pool.max_connections + FILES_RESERVED).max(1);
    if room < config.limits.clients {
        tracing::warn!(
            "limits.clients = {} does not fit the limit of {files} open files and is {room} for \
             now. Raise the limit (`ulimit -n`, docker `--ulimit nofile`, systemd `LimitNOFILE`)",
            config.limits.clients
        );
        config.limits.clients = room;
    }
}
