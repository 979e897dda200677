//! Connections to origins: a slab per worker, limits for the whole process.
//!
//! In go an origin's number and address; out comes a [`Lease`], which is a connection that is either
//! reused (the one that came back last) or new. `max_connections` and `max_idle` hold for the
//! process; they are atomics that are touched once per connection, not once per request.
//!
//! An idle connection is watched by the receive for its next answer: the operation that will
//! deliver the answer is already pending when the request is sent, so the watch costs nothing. If
//! it completes while the connection is idle, the origin has closed or sent what nobody asked for,
//! and the connection is dropped. After a second of rest the receive gives way to a wait without a
//! buffer.
//!
//! It never sends a request and never decides where one goes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::fault::Fault;
use crate::ring::net::poll_now;
use crate::ring::{
    Deadlines, HeadBuffer, HeadPool, PendingPoll, PendingRecv, Socket, Waited, clock,
};

/// The limits and waits of `[pool]` and `[timeouts]` that concern the pool.
#[derive(Clone, Debug)]
pub struct PoolLimits {
    /// Open connections in the process.
    pub max_connections: usize,
    /// Idle connections in the process that the sweep leaves alone.
    pub max_idle: usize,
    pub idle_expiry: Duration,
    pub acquire: Duration,
    pub connect: Duration,
    pub keepalive: Duration,
}

/// What the pools of all workers share.
pub struct PoolShared {
    permits: Arc<Semaphore>,
    max_connections: usize,
    /// Requests that wait for a permit, in any worker.
    wanted: AtomicUsize,
    /// Idle connections, as each worker's last sweep counted them.
    idle: AtomicUsize,
    /// One per worker: asks its janitor to give up idle connections.
    shed: Vec<Notify>,
}

impl PoolShared {
    pub fn new(max_connections: usize, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            wanted: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            shed: (0..workers).map(|_| Notify::new()).collect(),
        })
    }

    /// Connections open now, idle or leased, in all workers.
    pub fn open(&self) -> usize {
        self.max_connections - self.permits.available_permits().min(self.max_connections)
    }
}

/// One worker's connections.
pub struct Pool {
    worker: usize,
    limits: PoolLimits,
    shared: Arc<PoolShared>,
    deadlines: Rc<Deadlines>,
    heads: Rc<HeadPool>,
    slots: RefCell<Slab<Slot>>,
    /// Idle slots by origin, the one that came back last at the end.
    idle: RefCell<Vec<Vec<usize>>>,
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
    janitor: RefCell<Waker>,
    idle_published: Cell<usize>,
    is_stopping: Cell<bool>,
}

enum Slot {
    Idle(Idle),
    /// Out with an exchange, or still connecting; the socket serves to cut it at a stop.
    Leased(Leased),
}

struct Leased {
    socket: Socket,
    origin: usize,
}

struct Idle {
    link: Link,
    watch: Watch,
    since_ms: u64,
}

/// What watches an idle connection.
enum Watch {
    Recv(PendingRecv),
    /// The receive has been told to give its buffer back.
    Yielding(PendingRecv),
    Poll(PendingPoll),
}

/// A connection and what belongs to it. `reply` is the receive that will bring the next answer.
struct Link {
    socket: Socket,
    origin: usize,
    address: SocketAddr,
    _permit: OwnedSemaphorePermit,
}

/// A request that waits because the process has `max_connections` open.
struct Waiter {
    origin: usize,
    handed: RefCell<Option<Lease>>,
    waker: RefCell<Option<Waker>>,
}

/// Rest after which an idle connection's receive gives its buffer back, and after which the sweep
/// may close it for `max_idle`.
const REST_MS: u64 = 1000;

impl Pool {
    pub fn new(
        worker: usize,
        origins: usize,
        limits: PoolLimits,
        shared: Arc<PoolShared>,
        deadlines: Rc<Deadlines>,
        heads: Rc<HeadPool>,
    ) -> Rc<Self> {
        Rc::new(Self {
            worker,
            limits,
            shared,
            deadlines,
            heads,
            slots: RefCell::default(),
            idle: RefCell::new((0..origins).map(|_| Vec::new()).collect()),
            waiters: RefCell::default(),
            janitor: RefCell::new(Waker::noop().clone()),
            idle_published: Cell::new(0),
            is_stopping: Cell::new(false),
        })
    }

    /// The connection to `origin` that came back last and is still good.
    pub fn take_idle(self: &Rc<Self>, origin: usize) -> Option<Lease> {
        loop {
            let key = self.idle.borrow_mut()[origin].pop()?;
            if let Some(lease) = self.revive(key) {
                return Some(lease);
            }
        }
    }

    /// Turns an idle slot into a lease; `None` where the origin has ended the connection.
    fn revive(self: &Rc<Self>, key: usize) -> Option<Lease> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(key)?;
        let Slot::Idle(Idle { link, .. }) = &*slot else { return None };
        let leased = Slot::Leased(Leased { socket: link.socket.clone(), origin: link.origin });
        let Slot::Idle(idle) = std::mem::replace(slot, leased) else { return None };
        drop(slots);
        let is_yielding = matches!(idle.watch, Watch::Yielding(_));
        let reply = match idle.watch {
            Watch::Recv(mut pending) => match poll_now(&mut pending) {
                None => Some(pending),
                Some(_) => return self.abandon(key),
            },
            Watch::Yielding(mut pending) => match poll_now(&mut pending) {
                None => Some(pending),
                // Given back empty, as it was told to.
                Some((Err(error), _)) if error.raw_os_error() == Some(libc::ECANCELED) => None,
                Some(_) => return self.abandon(key),
            },
            // A poll left in flight completes with the answer and is ignored.
            Watch::Poll(mut pending) => match poll_now(&mut pending) {
                None => None,
                Some(_) => return self.abandon(key),
            },
        };
        Some(Lease {
            pool: self.clone(),
            key,
            link: Some(idle.link),
            reply,
            is_yielding,
            is_reused: true,
            connect_began: None,
        })
    }

    fn abandon(&self, key: usize) -> Option<Lease> {
        self.slots.borrow_mut().try_remove(key);
        None
    }

    /// Waits for the right to open a connection to `origin`, or for one that is handed over.
    pub async fn permit(self: &Rc<Self>, origin: usize) -> Result<Permitted, Fault> {
        if self.is_stopping.get() {
            return Err(Fault::Stopping);
        }
        let permits = &self.shared.permits;
        if self.waiters.borrow().is_empty()
            && let Some(permit) = self.try_permit()
        {
            return Ok(Permitted::Open(permit));
        }
        let waiter =
            Rc::new(Waiter { origin, handed: RefCell::default(), waker: RefCell::default() });
        let _place = WaitingPlace::take(self, &waiter);
        let mut acquire = std::pin::pin!(permits.clone().acquire_owned());
        let mut patience = std::pin::pin!(tokio::time::sleep(self.limits.acquire));
        poll_fn(|cx| {
            if let Some(lease) = waiter.handed.borrow_mut().take() {
                return Poll::Ready(Ok(Permitted::Handed(lease)));
            }
            if self.is_stopping.get() {
                return Poll::Ready(Err(Fault::Stopping));
            }
            if let Poll::Ready(permit) = acquire.as_mut().poll(cx) {
                return Poll::Ready(permit.map(Permitted::Open).map_err(|_| Fault::Stopping));
            }
            if patience.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Fault::PoolTimeout));
            }
            *waiter.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// A permit that is free, or that closing one of our own idle connections frees.
    fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        let permits = &self.shared.permits;
        permits.clone().try_acquire_owned().ok().or_else(|| {
            self.close_oldest_idle().then(|| permits.clone().try_acquire_owned().ok()).flatten()
        })
    }

    /// Opens a connection with a permit, within `timeouts.connect` from `began` on.
    pub async fn connect(
        self: &Rc<Self>,
        origin: usize,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
        began: Instant,
    ) -> Result<Lease, Fault> {
        let limit = self.limits.connect.saturating_sub(began.elapsed());
        if limit.is_zero() {
            return Err(Fault::OriginConnectTimeout);
        }
        let socket = Socket::open(address, self.limits.keepalive).map_err(|e| open_fault(&e))?;
        let leased = Leased { socket: socket.clone(), origin };
        let key = self.slots.borrow_mut().insert(Slot::Leased(leased));
        let link = Link { socket, origin, address, _permit: permit };
        // From here on the lease cleans up.
        let lease = Lease {
            pool: self.clone(),
            key,
            link: Some(link),
            reply: None,
            is_yielding: false,
            is_reused: false,
            connect_began: Some(Instant::now()),
        };
        let connected = lease.socket().connect(address, &self.deadlines, limit).await;
        connected.map(|()| lease).map_err(|waited| match waited {
            Waited::Expired => Fault::OriginConnectTimeout,
            Waited::Interrupted => Fault::Stopping,
            Waited::Failed(error) => connect_fault(&error),
        })
    }

    /// Takes a connection back: to whoever waits for it, to the idle list, or to its end.
    fn give_back(self: &Rc<Self>, mut lease: Lease) {
        if self.is_stopping.get() {
            return;
        }
        if !self.waiters.borrow().is_empty() {
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
        let Some(link) = lease.link.take() else { return };
        let mut pending =
            lease.reply.take().unwrap_or_else(|| link.socket.start_recv(self.heads.lease()));
        // Polled once with the janitor's waker, the receive is the watch.
        let ended = {
            let janitor = self.janitor.borrow();
            Pin::new(&mut pending).poll(&mut Context::from_waker(&janitor)).is_ready()
        };
        if ended {
            self.slots.borrow_mut().try_remove(lease.key);
            return;
        }
        let origin = link.origin;
        let idle = Idle { link, watch: Watch::Recv(pending), since_ms: clock::coarse_ms() };
        if let Some(slot) = self.slots.borrow_mut().get_mut(lease.key) {
            *slot = Slot::Idle(idle);
            self.idle.borrow_mut()[origin].push(lease.key);
        }
    }

    /// Gives `lease` to the first request that waits for its origin; back where none does.
    fn hand_over(&self, mut lease: Lease) -> Option<Lease> {
        let mut waiters = self.waiters.borrow_mut();
        let origin = lease.origin();
        let Some(position) = waiters.iter().position(|waiter| waiter.origin == origin) else {
            return Some(lease);
        };
        let waiter = waiters.remove(position)?;
        drop(waiters);
        lease.is_reused = true;
        lease.connect_began = None;
        lease.expect_reply();
        *waiter.handed.borrow_mut() = Some(lease);
        if let Some(waker) = waiter.waker.borrow_mut().take() {
            waker.wake();
        }
        None
    }

    /// Closes the connection that has been idle for longest; false where none is idle.
    fn close_oldest_idle(&self) -> bool {
        let oldest = {
            let slots = self.slots.borrow();
            let idle = slots.iter().filter_map(|(key, slot)| match slot {
                Slot::Idle(idle) => Some((idle.since_ms, key)),
                Slot::Leased(_) => None,
            });
            idle.min()
        };
        oldest.is_some_and(|(_, key)| self.close_idle(key))
    }

    fn close_idle(&self, key: usize) -> bool {
        let Some(Slot::Idle(idle)) = self.slots.borrow_mut().try_remove(key) else { return false };
        self.idle.borrow_mut()[idle.link.origin].retain(|other| *other != key);
        // Completes the watch, whose operation then lets go of the descriptor.
        idle.link.socket.cut();
        true
    }

    /// Connections of this worker to `origin`, idle and leased.
    pub fn count_of(&self, origin: usize) -> usize {
        let slots = self.slots.borrow();
        let of_origin = |(_, slot): &(usize, &Slot)| match slot {
            Slot::Idle(idle) => idle.link.origin == origin,
            Slot::Leased(leased) => leased.origin == origin,
        };
        slots.iter().filter(of_origin).count()
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

    /// The task that watches idle connections; one per worker, ends with the worker.
    ///
    /// `is_current` says whether an address is still one of its origin's.
    pub async fn run_janitor(&self, is_current: impl Fn(usize, SocketAddr) -> bool) {
        let mut sweep = tokio::time::interval(Duration::from_millis(REST_MS));
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shed = &self.shared.shed[self.worker];
        let mut asked = std::pin::pin!(shed.notified());
        poll_fn(|cx| {
            self.janitor.borrow_mut().clone_from(cx.waker());
            while asked.as_mut().poll(cx).is_ready() {
                asked.set(shed.notified());
                self.shed();
            }
            while sweep.poll_tick(cx).is_ready() {
                self.sweep(&is_current);
            }
            self.reap(cx);
            Poll::<()>::Pending
        })
        .await;
    }

    /// Gives idle connections up while other workers' requests wait.
    fn shed(&self) {
        while self.shared.wanted.load(Ordering::Relaxed) > self.waiters.borrow().len()
            && self.shared.permits.available_permits() == 0
            && self.close_oldest_idle()
        {}
    }

    /// Drops the idle connections whose watch has ended, and re-arms the watch of those that were
    /// told to give their buffer back.
    fn reap(&self, cx: &mut Context<'_>) {
        let mut dead = Vec::new();
        for (key, slot) in self.slots.borrow_mut().iter_mut() {
            let Slot::Idle(idle) = slot else { continue };
            let ended = match &mut idle.watch {
                Watch::Recv(pending) => Pin::new(pending).poll(cx).is_ready(),
                Watch::Poll(pending) => Pin::new(pending).poll(cx).is_ready(),
                Watch::Yielding(pending) => match Pin::new(pending).poll(cx) {
                    Poll::Pending => false,
                    Poll::Ready((Err(error), _))
                        if error.raw_os_error() == Some(libc::ECANCELED) =>
                    {
                        let mut poll = idle.link.socket.start_poll_input();
                        let ended = Pin::new(&mut poll).poll(cx).is_ready();
                        idle.watch = Watch::Poll(poll);
                        ended
                    }
                    Poll::Ready(_) => true,
                },
            };
            if ended {
                dead.push(key);
            }
        }
        for key in dead {
            self.close_idle(key);
        }
    }

    /// Once a second: expires, trims to `max_idle`, and takes buffers back from the rested.
    fn sweep(&self, is_current: &impl Fn(usize, SocketAddr) -> bool) {
        let now = clock::coarse_ms();
        let expiry_ms = self.limits.idle_expiry.as_millis() as u64;
        let mut rested = Vec::new();
        let mut expired = Vec::new();
        for (key, slot) in self.slots.borrow_mut().iter_mut() {
            let Slot::Idle(idle) = slot else { continue };
            let age_ms = now.saturating_sub(idle.since_ms);
            if age_ms >= expiry_ms || !is_current(idle.link.origin, idle.link.address) {
                expired.push(key);
            } else if age_ms >= REST_MS {
                rested.push((idle.since_ms, key));
            }
        }
        for key in expired {
            self.close_idle(key);
        }
        rested.sort_unstable();
        self.publish_idle();
        for (_, key) in rested {
            if self.shared.idle.load(Ordering::Relaxed) > self.limits.max_idle {
                self.close_idle(key);
                self.publish_idle();
            } else {
                self.yield_buffer(key);
            }
        }
    }

    fn publish_idle(&self) {
        let count = self.idle.borrow().iter().map(Vec::len).sum();
        let before = self.idle_published.replace(count);
        self.shared.idle.fetch_add(count.wrapping_sub(before), Ordering::Relaxed);
    }

    fn yield_buffer(&self, key: usize) {
        let mut slots = self.slots.borrow_mut();
        let Some(Slot::Idle(idle)) = slots.get_mut(key) else { return };
        if !matches!(idle.watch, Watch::Recv(_)) {
            return;
        }
        idle.link.socket.interrupt();
        let empty = Watch::Poll(idle.link.socket.start_poll_input());
        if let Watch::Recv(pending) = std::mem::replace(&mut idle.watch, empty) {
            idle.watch = Watch::Yielding(pending);
        }
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
            if let Slot::Leased(leased) = slot {
                leased.socket.cut();
                leased.socket.interrupt();
            }
        }
    }
}

/// Counts a waiting request in and out.
struct WaitingPlace<'a> {
    pool: &'a Pool,
    waiter: Rc<Waiter>,
}

impl<'a> WaitingPlace<'a> {
    fn take(pool: &'a Rc<Pool>, waiter: &Rc<Waiter>) -> Self {
        pool.waiters.borrow_mut().push_back(waiter.clone());
        pool.shared.wanted.fetch_add(1, Ordering::Relaxed);
        for (worker, shed) in pool.shared.shed.iter().enumerate() {
            if worker != pool.worker {
                shed.notify_one();
            }
        }
        Self { pool, waiter: waiter.clone() }
    }
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        self.pool.shared.wanted.fetch_sub(1, Ordering::Relaxed);
        self.pool.waiters.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.waiter));
        // Handed over at the moment at which the wait ended otherwise: back to the pool.
        if let Some(lease) = self.waiter.handed.borrow_mut().take() {
            lease.give_back();
        }
    }
}

/// What a wait for a connection ended with.
pub enum Permitted {
    /// The right to open a new one.
    Open(OwnedSemaphorePermit),
    /// One that another exchange has just given back.
    Handed(Lease),
}

/// A connection to an origin, held by one exchange. Dropping it closes the connection.
pub struct Lease {
    pool: Rc<Pool>,
    key: usize,
    /// `Some` until the connection is given back.
    link: Option<Link>,
    reply: Option<PendingRecv>,
    /// The pending receive was told to give its buffer back just before the checkout, so that it
    /// may end without the answer.
    is_yielding: bool,
    /// It has carried an exchange before, so that the origin may be closing it just now.
    pub is_reused: bool,
    /// When connecting began, where that was for this exchange.
    pub connect_began: Option<Instant>,
}

impl Lease {
    pub fn socket(&self) -> &Socket {
        &self.link().socket
    }

    pub fn origin(&self) -> usize {
        self.link().origin
    }

    pub fn address(&self) -> SocketAddr {
        self.link().address
    }

    fn link(&self) -> &Link {
        self.link.as_ref().expect("a lease has its link until give_back consumes it")
    }

    /// Makes sure that the receive for the answer is pending.
    pub fn expect_reply(&mut self) {
        if self.reply.is_none() {
            self.reply = Some(self.socket().start_recv(self.pool.heads.lease()));
        }
    }

    /// Waits for bytes of the answer.
    pub async fn recv(&mut self, limit: Duration) -> (Result<usize, Waited>, HeadBuffer) {
        self.expect_reply();
        let reply = self.reply.take().expect("expect_reply has begun one");
        let (result, buffer) = self.socket().finish_recv(reply, &self.pool.deadlines, limit).await;
        match result {
            Err(Waited::Interrupted) if std::mem::take(&mut self.is_yielding) => {
                self.recv_more(buffer, limit).await
            }
            result => (result, buffer),
        }
    }

    /// Waits for more of an answer of which `buffer` holds the beginning.
    pub async fn recv_more(
        &mut self,
        buffer: HeadBuffer,
        limit: Duration,
    ) -> (Result<usize, Waited>, HeadBuffer) {
        self.socket().recv(buffer, &self.pool.deadlines, limit).await
    }

    /// Returns a connection on which the last answer has been read to its end. `buffer` is lent to
    /// the receive for the next one.
    pub fn give_back_with(mut self, buffer: HeadBuffer) {
        debug_assert!(buffer.is_empty());
        self.reply = Some(self.socket().start_recv(buffer));
        self.give_back();
    }

    /// Returns a connection on which nothing is outstanding.
    pub fn give_back(self) {
        let pool = self.pool.clone();
        pool.give_back(self);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else { return };
        // Ends a pending receive, which holds the descriptor open as long as it is pending.
        link.socket.cut();
        self.pool.slots.borrow_mut().try_remove(self.key);
    }
}

fn open_fault(error: &std::io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => {
            crate::notices::too_many_files("connect to an origin", error);
            Fault::TooManyFiles
        }
        _ => Fault::Internal,
    }
}

fn connect_fault(error: &std::io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Fault::OriginRefused,
        Some(libc::ETIMEDOUT) => Fault::OriginConnectTimeout,
        _ => Fault::OriginUnreachable,
    }
}
