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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use slab::Slab;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::date::DateLine;
use crate::http::head::HeadLimits;
use crate::ring::net::Wait;
use crate::ring::{ChunkPool, Deadlines, HeadPool, Socket};
use crate::route::Routes;
use crate::upstream::permits::PoolShared;
use crate::upstream::pool::{Pool, PoolLimits};
use crate::upstream::{Upstream, UpstreamPlan};

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
    ) -> io::Result<Self> {
        let deadlines = Rc::new(Deadlines::default());
        let heads = HeadPool::new(config.buffers.head_buffer_bytes);
        let chunks = ChunkPool::new(config.buffers.chunks_per_worker, config.buffers.chunk_bytes)?;
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
            deadlines,
            date: DateLine::default(),
            access_log,
            shared,
            scratch: RefCell::new(Vec::with_capacity(config.buffers.head_buffer_bytes * 2)),
            connections: RefCell::default(),
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

    /// Client connections that are being served.
    pub fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Those and the ones that are still on their way here.
    pub fn live(&self) -> usize {
        self.shared.live[self.index].load(Ordering::Relaxed)
    }

    /// Wakes the connections that rest between two requests.
    pub fn interrupt_resting(&self) {
        for (_, live) in self.connections.borrow().iter() {
            if live.is_resting.get() {
                live.socket.interrupt();
            }
        }
    }

    /// Ends every connection, in whatever it is.
    pub fn cut_connections(&self) {
        for (_, live) in self.connections.borrow().iter() {
            // A shutdown would look like the end of an answer that ends with its connection.
            live.socket.reset_on_close();
            live.socket.interrupt();
        }
        self.pool.cut();
    }
}

/// A client connection's place in its worker; dropping it gives the place up.
pub struct Seat {
    worker: Rc<Worker>,
    live: Rc<Live>,
    key: usize,
}

impl Seat {
    pub fn take(
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
