//! Connections to origins: a slab per worker, limits for the whole process.
//!
//! In go an origin's number and address; out comes a [`Lease`], which is a connection that is
//! either reused (the one that came back last) or new. `max_connections` and `max_idle` hold for
//! the process; they are atomics that are touched once per connection, not once per request.
//!
//! It never sends a request and never decides where one goes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::OwnedSemaphorePermit;

use crate::fault::Fault;
use crate::ledger::{Kind, Ledger};
use crate::metrics::WorkerMetrics;
use crate::ring::{Deadlines, HeadPool, Socket, Waited, clock};

use super::destinations::Destination;
use super::idle::{Entry, Idle, Watch};
use super::lease::Lease;
use super::permits::{PoolShared, Waiter};

/// The limits and waits of `[pool]` and `[timeouts]` that concern the pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Idle connections in the process that the sweep leaves alone.
    pub max_idle: usize,
    pub idle_expiry: Duration,
    pub acquire: Duration,
    pub connect: Duration,
    pub keepalive: Duration,
}

/// One worker's connections.
pub struct Pool {
    pub(super) worker: usize,
    pub(super) limits: Cell<PoolLimits>,
    pub(super) shared: Arc<PoolShared>,
    pub(super) deadlines: Rc<Deadlines>,
    pub(super) heads: Rc<HeadPool>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) slots: RefCell<Slab<Slot>>,
    /// Idle slots by origin, the one that came back last at the end.
    pub(super) idle: RefCell<Vec<Vec<Entry>>>,
    pub(super) waiters: RefCell<VecDeque<Rc<Waiter>>>,
    pub(super) janitor: RefCell<Waker>,
    pub(super) idle_published: Cell<usize>,
    pub(super) is_stopping: Cell<bool>,
    /// Sockets that are connecting and have no slot.
    pub(super) dials: RefCell<Slab<Socket>>,
}

/// A connection and its state. It stays in its place while it is leased, so that a checkout moves
/// a key and not a connection.
pub(super) struct Slot {
    pub(super) socket: Socket,
    pub(super) origin: usize,
    pub(super) address: SocketAddr,
    /// When connecting began.
    pub(super) born: Instant,
    /// `None` while it is out with an exchange, or still connecting.
    pub(super) idle: Option<Idle>,
    /// Keeps the origin's number for as long as there is a connection.
    _destination: Destination,
    _place: Place,
    _permit: OwnedSemaphorePermit,
}

/// What a connection to an origin costs: its slot, its descriptor and the operation that watches
/// it. Its head buffer is counted where it comes from.
pub const SLOT_BYTES: usize = 448;

/// A slot's part in the ledger.
pub(super) struct Place(Arc<Ledger>);

impl Place {
    fn new(ledger: &Arc<Ledger>) -> Self {
        ledger.add(Kind::Pool, SLOT_BYTES as u64);
        Self(ledger.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.sub(Kind::Pool, SLOT_BYTES as u64);
    }
}

impl Pool {
    pub fn new(
        worker: usize,
        limits: PoolLimits,
        shared: Arc<PoolShared>,
        deadlines: Rc<Deadlines>,
        heads: Rc<HeadPool>,
        (ledger, metrics): (Arc<Ledger>, Arc<WorkerMetrics>),
    ) -> Rc<Self> {
        Rc::new(Self {
            worker,
            limits: Cell::new(limits),
            shared,
            deadlines,
            heads,
            ledger,
            metrics,
            slots: RefCell::default(),
            idle: RefCell::default(),
            waiters: RefCell::default(),
            janitor: RefCell::new(Waker::noop().clone()),
            idle_published: Cell::new(0),
            is_stopping: Cell::new(false),
            dials: RefCell::default(),
        })
    }

    /// The connection to `origin` that came back last and is still good.
    pub fn take_idle(self: &Rc<Self>, origin: usize) -> Option<Lease> {
        loop {
            let key = self.next_idle(origin)?;
            if let Some(lease) = self.revive(key) {
                self.metrics.pool_reused.add(1);
                return Some(lease);
            }
            self.metrics.pool_stale.add(1);
        }
    }

    /// Opens a connection with a permit, within `timeouts.connect` from `began` on.
    pub async fn connect(
        self: &Rc<Self>,
        destination: &Destination,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
        began: Instant,
    ) -> Result<Lease, Fault> {
        let PoolLimits { connect, keepalive, .. } = self.limits.get();
        let limit = connect.saturating_sub(began.elapsed());
        if limit.is_zero() {
            return Err(Fault::OriginConnectTimeout);
        }
        let socket = Socket::open(address, keepalive).map_err(|e| open_fault(&e))?;
        // From here on the lease cleans up.
        let lease = self.adopt(destination.clone(), (socket, address), Instant::now(), permit);
        let connected = lease.socket().connect(address, &self.deadlines, limit).await;
        connected.map(|()| lease).map_err(|waited| match waited {
            Waited::Expired => Fault::OriginConnectTimeout,
            Waited::Interrupted => Fault::Stopping,
            Waited::Failed(error) => connect_fault(&error),
        })
    }

    /// Takes a socket in that is being, or has been, connected to `destination`.
    pub fn adopt(
        self: &Rc<Self>,
        destination: Destination,
        (socket, address): (Socket, SocketAddr),
        born: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Lease {
        let origin = destination.origin();
        let mut idle = self.idle.borrow_mut();
        if idle.len() <= origin {
            idle.resize_with(origin + 1, Vec::new);
        }
        let key = self.slots.borrow_mut().insert(Slot {
            socket: socket.clone(),
            origin,
            address,
            born,
            idle: None,
            _destination: destination,
            _place: Place::new(&self.ledger),
            _permit: permit,
        });
        self.metrics.pool_opened.add(1);
        Lease::new(self, key, socket, None, false)
    }

    /// Takes a connection back: to whoever waits for it, to the idle list, or to its end.
    pub(super) fn give_back(self: &Rc<Self>, mut lease: Lease) {
        if self.is_stopping.get() {
            return;
        }
        if !self.waiters.borrow().is_empty() {
            // What follows an answer would be taken for the next one.
            if !lease.socket().is_silent() {
                return;
            }
            match self.hand_over(lease) {
                Some(returned) => lease = returned,
                None => return,
            }
        }
        if self.shared.wanted.load(Ordering::Relaxed) > 0 {
            // Another worker, or a request for another origin, is short of a connection: closing
            // this one frees its permit.
            return;
        }
        let mut pending =
            lease.reply.take().unwrap_or_else(|| lease.socket().start_recv(self.heads.lease()));
        // Polled once with the janitor's waker, the receive is the watch.
        let ended = {
            let janitor = self.janitor.borrow();
            Pin::new(&mut pending).poll(&mut Context::from_waker(&janitor)).is_ready()
        };
        if ended {
            return;
        }
        let key = lease.keep();
        if let Some(slot) = self.slots.borrow_mut().get_mut(key) {
            slot.idle = Some(Idle { watch: Watch::Recv(pending), since_ms: clock::coarse_ms() });
            self.idle.borrow_mut()[slot.origin].push(Entry { key, turn: clock::turn() });
        }
    }

    /// Gives `lease` to the first request that waits for its origin; back where none does, or where
    /// others have waited for longer.
    fn hand_over(&self, mut lease: Lease) -> Option<Lease> {
        let origin = lease.origin();
        let mut waiters = self.waiters.borrow_mut();
        let fit = |waiter: &Rc<Waiter>| waiter.origin == origin && self.is_fair(waiter.since_ms);
        let Some(position) = waiters.iter().position(fit) else { return Some(lease) };
        let waiter = waiters.remove(position)?;
        drop(waiters);
        self.publish_waiting();
        lease.is_reused = true;
        self.metrics.pool_reused.add(1);
        lease.expect_reply();
        *waiter.handed.borrow_mut() = Some(lease);
        if let Some(waker) = waiter.waker.borrow_mut().take() {
            waker.wake();
        }
        None
    }

    /// Closes idle connections, the oldest first, down to `keep` for each origin; how many.
    pub fn close_idle_beyond(&self, keep: usize) -> usize {
        let excess: Vec<usize> = {
            let idle = self.idle.borrow();
            let excess = idle.iter().flat_map(|list| &list[..list.len().saturating_sub(keep)]);
            excess.map(|entry| entry.key).collect()
        };
        let closed = excess.into_iter().filter(|key| self.close_idle(*key)).count();
        self.publish_idle();
        closed
    }

    /// Closes the idle connections to `origin`.
    pub fn close_idle_of(&self, origin: usize) {
        let list = self.idle.borrow().get(origin).cloned().unwrap_or_default();
        for entry in list {
            self.close_idle(entry.key);
        }
        self.publish_idle();
    }

    /// Limits and waits from now on.
    pub fn set_limits(&self, limits: PoolLimits) {
        self.limits.set(limits);
    }

    /// Connections of this worker to `origin`, idle and leased.
    pub fn count_of(&self, origin: usize) -> usize {
        self.slots.borrow().iter().filter(|(_, slot)| slot.origin == origin).count()
    }

    /// True while a connection may be opened without anybody having to wait or to give one up.
    pub fn has_room(&self) -> bool {
        !self.is_stopping.get() && self.shared.permits.available_permits() > 0
    }

    /// Slots in use: idle, leased and connecting.
    pub fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.borrow().is_empty()
    }

    /// Closes what is idle and refuses what is waiting; connections out with an exchange end when
    /// they come back.
    pub fn stop(&self) {
        self.is_stopping.set(true);
        while self.close_oldest_idle() {}
        self.publish_idle();
        for waiter in self.waiters.borrow_mut().drain(..) {
            if let Some(waker) = waiter.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Ends every connection that is out with an exchange.
    pub fn cut(&self) {
        for (_, slot) in self.slots.borrow().iter() {
            if slot.idle.is_none() {
                // A shutdown would look like the end of an answer that ends with its connection.
                slot.socket.interrupt_for_good(&self.deadlines);
            }
        }
        for (_, socket) in self.dials.borrow().iter() {
            socket.interrupt_for_good(&self.deadlines);
        }
    }
}

pub(super) fn open_fault(error: &std::io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => {
            crate::notices::too_many_files("connect to an origin", error);
            Fault::TooManyFiles
        }
        _ => Fault::Internal,
    }
}

pub(super) fn connect_fault(error: &std::io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Fault::OriginRefused,
        Some(libc::ECONNRESET | libc::EPIPE) => Fault::OriginClosed,
        Some(libc::ETIMEDOUT) => Fault::OriginConnectTimeout,
        _ => Fault::OriginUnreachable,
    }
}
