//! One worker: a thread with its own ring, runtime, buffers and pool.
//!
//! In go the configuration and the listening sockets; the worker accepts, serves what is placed on
//! it, watches its pool and its deadlines, and at a stop finishes what is under way. What its tasks
//! share is in [`Worker`], behind one `Rc`; nothing hot is shared with other workers.
//!
//! Nothing here may block: names are resolved and logs are written elsewhere.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use slab::Slab;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::connection;
use crate::date::DateLine;
use crate::http::head::HeadLimits;
use crate::listener;
use crate::ring::net::Wait;
use crate::ring::{ChunkPool, Deadlines, HeadPool, Socket, memory, runtime};
use crate::route::Routes;
use crate::upstream::pool::{Pool, PoolLimits, PoolShared};
use crate::upstream::{Upstream, UpstreamPlan, prewarm};

/// What the workers share: atomics and queues that are touched per connection.
pub struct Shared {
    pub pool: Arc<PoolShared>,
    /// Rights to hold a client connection: `limits.clients` of them.
    pub clients: Arc<Semaphore>,
    /// Live client connections by worker, counted up by whoever places one.
    pub live: Vec<AtomicUsize>,
    /// Hands accepted connections to the worker that shall serve them.
    pub inboxes: Vec<UnboundedSender<Accepted>>,
    pub is_draining: AtomicBool,
    /// One per worker: the drain has begun, or its time is up.
    pub drain: Vec<Notify>,
    pub is_cutting: AtomicBool,
}

/// A client connection on its way to its worker.
pub struct Accepted {
    pub fd: OwnedFd,
    pub peer: SocketAddr,
    pub permit: OwnedSemaphorePermit,
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
    pub deadlines: Rc<Deadlines>,
    pub date: DateLine,
    pub access_log: Option<AccessLog>,
    pub shared: Arc<Shared>,
    /// Where outgoing heads are built; free again before anything waits.
    scratch: RefCell<Vec<u8>>,
    connections: RefCell<Slab<Rc<Live>>>,
    pub is_draining: Cell<bool>,
    /// Times that a connection has given its memory up, since the last purge.
    pub released: Cell<usize>,
}

/// One client connection, as the worker sees it from outside.
struct Live {
    socket: Socket,
    peer: SocketAddr,
    /// No request has come yet.
    is_new: Cell<bool>,
    /// Between two requests for over a second: a drain may end it at once.
    is_resting: Cell<bool>,
}

/// What the process had left when a worker stopped; all zero unless something was cut or leaked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    pub connections: usize,
    pub leased_chunks: usize,
    pub leased_heads: usize,
    pub upstream_connections: usize,
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

/// What a worker is started with.
pub struct WorkerPlan {
    pub index: usize,
    pub config: Arc<Config>,
    pub upstreams: Arc<Vec<UpstreamPlan>>,
    pub access_log: Option<AccessLog>,
    pub shared: Arc<Shared>,
    pub inbox: UnboundedReceiver<Accepted>,
    pub listeners: Vec<OwnedFd>,
}

/// What a worker has, once it is ready.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub chunks: usize,
    pub is_registered: bool,
}

/// The worker's thread: opens the ring, reports, serves until the drain is over.
pub fn run(plan: WorkerPlan, report: impl FnOnce(io::Result<Ready>)) -> Remains {
    let runtime = match runtime::open() {
        Ok(runtime) => runtime,
        Err(error) => {
            report(Err(error));
            return Remains::default();
        }
    };
    let remains = runtime.block_on(serve(plan, report));
    runtime::leave(runtime);
    remains
}

async fn serve(mut plan: WorkerPlan, report: impl FnOnce(io::Result<Ready>)) -> Remains {
    let inbox = std::mem::replace(&mut plan.inbox, tokio::sync::mpsc::unbounded_channel().1);
    let listeners = std::mem::take(&mut plan.listeners);
    let worker = match Worker::new(plan) {
        Ok(worker) => Rc::new(worker),
        Err(error) => {
            report(Err(error));
            return Remains::default();
        }
    };
    report(Ok(Ready {
        chunks: worker.chunks.count(),
        is_registered: worker.chunks.is_registered(),
    }));
    let deadlines = worker.deadlines.clone();
    tokio_spawn(async move { deadlines.run().await });
    let watched = worker.clone();
    tokio_spawn(async move {
        let is_current = |origin, address| watched.is_current(origin, address);
        watched.pool.run_janitor(is_current).await;
    });
    tokio_spawn(prewarm::run(worker.clone()));
    tokio_spawn(housekeep(worker.clone()));
    for listener in listeners {
        tokio_spawn(listener::run(worker.clone(), listener));
    }
    tokio_spawn(take_in(worker.clone(), inbox));
    worker.until_drained().await
}

/// Spawns on the worker's own thread.
fn tokio_spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

/// Serves what this and other workers have accepted for this one.
async fn take_in(worker: Rc<Worker>, mut inbox: UnboundedReceiver<Accepted>) {
    while let Some(Accepted { fd, peer, permit }) = inbox.recv().await {
        tokio_spawn(connection::serve(Seat::take(&worker, Socket::from_fd(fd), peer, permit)));
    }
}

/// Gives memory back that a burst has left behind.
async fn housekeep(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        let freed = worker.released.take() + worker.heads.trim();
        if freed >= PURGE_MIN {
            memory::purge();
        } else {
            worker.released.set(freed);
        }
    }
}

const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Connections and buffers that must have been released for a walk over the heap to be worth it.
const PURGE_MIN: usize = 64;

impl Worker {
    fn new(plan: WorkerPlan) -> io::Result<Self> {
        let config = plan.config;
        let deadlines = Rc::new(Deadlines::default());
        let heads = HeadPool::new(config.buffers.head_buffer_bytes);
        let chunks = ChunkPool::new(config.buffers.chunks_per_worker, config.buffers.chunk_bytes)?;
        let limits = PoolLimits {
            max_connections: config.pool.max_connections,
            max_idle: config.pool.max_idle,
            idle_expiry: config.pool.idle_expiry,
            acquire: config.timeouts.pool,
            connect: config.timeouts.connect,
            keepalive: config.pool.tcp_keepalive,
        };
        let upstreams: Vec<_> =
            plan.upstreams.iter().map(|upstream| Upstream::new(upstream, plan.index)).collect();
        let origins = upstreams.iter().map(|upstream| upstream.origins().len()).sum();
        let pool = Pool::new(
            plan.index,
            origins,
            limits,
            plan.shared.pool.clone(),
            deadlines.clone(),
            heads.clone(),
        );
        Ok(Self {
            index: plan.index,
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
            deadlines,
            date: DateLine::default(),
            access_log: plan.access_log,
            shared: plan.shared,
            scratch: RefCell::new(Vec::with_capacity(config.buffers.head_buffer_bytes * 2)),
            connections: RefCell::default(),
            is_draining: Cell::new(false),
            released: Cell::new(0),
            config,
        })
    }

    fn is_current(&self, origin: usize, address: SocketAddr) -> bool {
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

    async fn until_drained(&self) -> Remains {
        let signal = &self.shared.drain[self.index];
        while !self.shared.is_draining.load(Ordering::Acquire) {
            signal.notified().await;
        }
        self.is_draining.set(true);
        self.end_resting();
        loop {
            if self.connections.borrow().is_empty() && self.live() == 0 {
                break;
            }
            // Connections end by themselves; the signal says that their time is up.
            let poll = Duration::from_millis(20);
            let _ = tokio::time::timeout(poll, signal.notified()).await;
            if self.shared.is_cutting.load(Ordering::Acquire) {
                self.cut().await;
                break;
            }
        }
        self.pool.stop();
        self.settle().await;
        Remains {
            connections: self.connections.borrow().len(),
            leased_chunks: self.chunks.leased(),
            leased_heads: self.heads.leased(),
            upstream_connections: self.pool.len(),
        }
    }

    fn live(&self) -> usize {
        self.shared.live[self.index].load(Ordering::Relaxed)
    }

    fn end_resting(&self) {
        for (_, live) in self.connections.borrow().iter() {
            if live.is_resting.get() {
                live.socket.interrupt();
            }
        }
    }

    /// Ends every exchange that is still under way.
    async fn cut(&self) {
        self.pool.stop();
        for _ in 0..CUT_ROUNDS {
            for (_, live) in self.connections.borrow().iter() {
                live.socket.cut();
                live.socket.interrupt();
            }
            self.pool.cut();
            if self.connections.borrow().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets the watches of the connections that were just closed complete.
    async fn settle(&self) {
        for _ in 0..SETTLE_ROUNDS {
            if self.heads.leased() == 0 && self.chunks.leased() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Rounds of 10 ms in which cut exchanges may end.
const CUT_ROUNDS: usize = 100;
const SETTLE_ROUNDS: usize = 50;

/// A client connection's place in its worker; dropping it gives the place up.
pub struct Seat {
    worker: Rc<Worker>,
    live: Rc<Live>,
    key: usize,
}

impl Seat {
    fn take(
        worker: &Rc<Worker>,
        socket: Socket,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        // The seat's drop gives the permit back; keeping it would cost each connection 16 bytes.
        permit.forget();
        let (is_new, is_resting) = (Cell::new(true), Cell::new(false));
        let live = Rc::new(Live { socket, peer, is_new, is_resting });
        let key = worker.connections.borrow_mut().insert(live.clone());
        Self { worker: worker.clone(), live, key }
    }

    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    pub fn socket(&self) -> &Socket {
        &self.live.socket
    }

    pub fn peer(&self) -> SocketAddr {
        self.live.peer
    }

    pub fn is_new(&self) -> bool {
        self.live.is_new.get()
    }

    pub fn set_served(&self) {
        self.live.is_new.set(false);
    }

    pub fn set_resting(&self, is_resting: bool) {
        self.live.is_resting.set(is_resting);
    }

    /// Begins to wait for the next request without holding a buffer, after `spent` of the time that
    /// it may take.
    pub fn rest(&self, spent: Duration) -> Wait<'_> {
        let worker = &self.worker;
        worker.released.set(worker.released.get() + 1);
        self.set_resting(true);
        let timeouts = &worker.config.timeouts;
        let limit = if self.is_new() { timeouts.client_head } else { timeouts.client_idle };
        self.socket().readable(&worker.deadlines, limit.saturating_sub(spent))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().try_remove(self.key);
        self.worker.shared.live[self.worker.index].fetch_sub(1, Ordering::Relaxed);
        self.worker.shared.clients.add_permits(1);
    }
}
