//! What the tasks of one worker share: its pools, tables and limits.
//!
//! In goes the configuration; the tasks of a thread (listeners, connections, the pool's janitor)
//! reach everything else through one `Rc<Worker>`. Nothing hot is shared with other workers: what
//! they have in common is in [`Shared`], touched once per connection.
//!
//! The tasks themselves are started elsewhere.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use slab::Slab;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::access_log::AccessLog;
use crate::ask::{Ask, ControlAsk};
use crate::config::Config;
use crate::date::DateLine;
use crate::fault::Fault;
use crate::gate::Gate;
use crate::http::head::HeadLimits;
use crate::ledger::{Budget, Ledger, Ledgers};
use crate::limits::PIPES_PER_WORKER;
use crate::metrics::WorkerMetrics;
use crate::ring::{ChunkPool, Deadlines, HeadPool, PipePool, RingMeters, Socket};
use crate::route::Routes;
use crate::seat::Live;
use crate::upstream::destinations::Destinations;
use crate::upstream::permits::PoolShared;
use crate::upstream::pool::{Pool, PoolLimits};
use crate::upstream::{Upstream, UpstreamPlan};

/// What the workers share: atomics and queues that are touched per connection.
pub struct Shared {
    pub pool: Arc<PoolShared>,
    /// Rights to hold a client connection: `limits.clients` of them.
    pub clients: Arc<Semaphore>,
    /// Rights to hold a tunnel: `limits.tunnels` of them.
    pub tunnels: Arc<Semaphore>,
    /// What the forward proxy needs; the same for all workers.
    pub forward: Arc<Gate>,
    pub metrics: Vec<Arc<WorkerMetrics>>,
    pub ledgers: Ledgers,
    pub rings: Vec<Arc<RingMeters>>,
    /// Questions to the workers, and from them to the control thread.
    pub asks: Vec<UnboundedSender<Ask>>,
    pub control: UnboundedSender<ControlAsk>,
    /// [`NORMAL`], or how hard memory is being given back: while it is [`FORCED`], new connections
    /// are turned away.
    pub pressure: AtomicU8,
    pub is_ready: AtomicBool,
    /// Live client connections by worker, counted up by whoever places one.
    pub live: Vec<AtomicUsize>,
    /// Hands accepted connections to the worker that shall serve them.
    pub inboxes: Vec<UnboundedSender<Accepted>>,
    /// Answers end their connections. Set before the listening sockets close, so that whoever is
    /// refused by one can rely on it.
    pub is_closing: AtomicBool,
    pub is_draining: AtomicBool,
    /// One per worker: the drain has begun, or its time is up.
    pub drain: Vec<Notify>,
    pub is_cutting: AtomicBool,
}

/// No shortage of memory.
pub const NORMAL: u8 = 0;
pub const LIGHT: u8 = 1;
pub const FORCED: u8 = 2;

/// A client connection on its way to its worker.
pub struct Accepted {
    pub fd: OwnedFd,
    pub peer: SocketAddr,
    pub permit: OwnedSemaphorePermit,
    /// By which listener it came in.
    pub listener: u16,
}

impl Shared {
    /// Gives `accepted` to the worker with the fewest live connections, `here` on a tie.
    ///
    /// An even split of connections is an even split of work for as long as they live; the kernel's
    /// choice was measured at up to twice the mean.
    pub fn place(&self, accepted: Accepted, here: usize) {
        let live = |worker: usize| self.live[worker].load(Ordering::Relaxed);
        let mut best = here;
        for worker in 0..self.live.len() {
            if live(worker) < live(best) {
                best = worker;
            }
        }
        self.live[best].fetch_add(1, Ordering::Relaxed);
        if self.inboxes[best].send(accepted).is_err() {
            self.live[best].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What the tasks of one worker share.
pub struct Worker {
    pub index: usize,
    pub config: Arc<Config>,
    pub head_limits: HeadLimits,
    pub routes: Routes,
    pub upstreams: Vec<Upstream>,
    pub pool: Rc<Pool>,
    pub heads: Rc<HeadPool>,
    pub chunks: Rc<ChunkPool>,
    pub pipes: Rc<PipePool>,
    pub deadlines: Rc<Deadlines>,
    pub date: DateLine,
    pub access_log: Option<AccessLog>,
    pub shared: Arc<Shared>,
    pub forward: Arc<Gate>,
    /// Targets of forward requests.
    pub destinations: Rc<Destinations>,
    pub metrics: Arc<WorkerMetrics>,
    pub ledger: Arc<Ledger>,
    /// How much memory connections and requests may come to.
    pub budget: Rc<Budget>,
    /// Exchanges are not to go on waiting for what can be dropped.
    pub(crate) cutting: Notify,
    /// Where outgoing heads are built; free again before anything waits.
    scratch: RefCell<Vec<u8>>,
    pub(crate) connections: RefCell<Slab<Rc<Live>>>,
    /// Connections that this worker has ever served.
    pub(crate) serial: Cell<u64>,
    pub is_draining: Cell<bool>,
    /// Times that a connection has given its memory up, since the last purge.
    pub released: Cell<usize>,
}

/// What became of bytes that [`Worker::send_built`] built.
pub struct Sent<T> {
    /// What the builder had to say.
    pub about: T,
    /// What the socket did not take at once.
    pub rest: Option<Vec<u8>>,
}

/// Why nothing was sent.
pub enum Unsent<E> {
    /// The builder refused.
    Refused(E),
    /// The connection is broken.
    Broken,
}

impl Worker {
    /// Must be called inside the worker's runtime, with which it registers the chunks.
    pub fn new(
        index: usize,
        config: Arc<Config>,
        upstreams: &[UpstreamPlan],
        access_log: Option<AccessLog>,
        shared: Arc<Shared>,
        budget: Budget,
    ) -> io::Result<Self> {
        let deadlines = Rc::new(Deadlines::default());
        let ledger = shared.ledgers.workers()[index].clone();
        let budget = Rc::new(budget);
        let buffers = &config.buffers;
        let heads = HeadPool::new(buffers.head_buffer_bytes, ledger.clone(), budget.clone());
        let chunks =
            ChunkPool::new(buffers.chunks_per_worker, buffers.chunk_bytes, ledger.clone())?;
        let limits = PoolLimits {
            max_idle: config.pool.max_idle,
            idle_expiry: config.pool.idle_expiry,
            acquire: config.timeouts.pool,
            connect: config.timeouts.connect,
            keepalive: config.pool.tcp_keepalive,
        };
        let upstreams: Vec<_> =
            upstreams.iter().map(|upstream| Upstream::new(upstream, index)).collect();
        let origins = upstreams.iter().map(|upstream| upstream.origins().len()).sum();
        let pool = Pool::new(
            index,
            origins,
            limits,
            shared.pool.clone(),
            deadlines.clone(),
            heads.clone(),
            (ledger.clone(), shared.metrics[index].clone()),
        );
        Ok(Self {
            index,
            head_limits: HeadLimits {
                head_bytes: config.limits.head_bytes,
                target_bytes: config.limits.target_bytes,
                header_count: config.limits.header_count,
            },
            routes: Routes::new(&config),
            upstreams,
            pool,
            heads,
            chunks,
            pipes: PipePool::new(PIPES_PER_WORKER),
            deadlines,
            date: DateLine::default(),
            access_log,
            forward: shared.forward.clone(),
            destinations: Destinations::new(origins),
            metrics: shared.metrics[index].clone(),
            ledger,
            budget,
            cutting: Notify::new(),
            shared,
            scratch: RefCell::new(Vec::with_capacity(config.buffers.head_buffer_bytes * 2)),
            connections: RefCell::default(),
            serial: Cell::new(0),
            is_draining: Cell::new(false),
            released: Cell::new(0),
            config,
        })
    }

    pub fn is_current(&self, origin: usize, address: SocketAddr) -> bool {
        self.upstreams
            .iter()
            .flat_map(Upstream::origins)
            .find(|candidate| candidate.index == origin)
            .is_none_or(|origin| origin.has_address(address))
    }

    /// Builds outgoing bytes and sends what the socket takes at once.
    pub fn send_built<T, E>(
        &self,
        socket: &Socket,
        build: impl FnOnce(&mut Vec<u8>) -> Result<T, E>,
    ) -> Result<Sent<T>, Unsent<E>> {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        let about = build(&mut scratch).map_err(Unsent::Refused)?;
        let sent = match socket.try_send(&scratch) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(Unsent::Broken),
        };
        let rest = (sent < scratch.len()).then(|| scratch[sent..].to_vec());
        Ok(Sent { about, rest })
    }

    /// Whether no connection is to be kept for another request.
    pub fn is_closing(&self) -> bool {
        self.shared.is_closing.load(Ordering::Relaxed)
    }

    /// Awaits what holds neither a buffer nor a descriptor, unless the worker is to end first.
    pub async fn unless_cut<F: Future>(&self, wait: F) -> Result<F::Output, Fault> {
        tokio::select! {
            output = wait => Ok(output),
            () = self.cutting.notified() => Err(Fault::Stopping),
        }
    }
}
