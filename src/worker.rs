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

use arc_swap::{ArcSwap, ArcSwapOption};
use slab::Slab;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::access_log::AccessLog;
use crate::ask::{Ask, ControlAsk, Order};
use crate::date::DateLine;
use crate::generation::{Generation, History, Snapshot};
use crate::ledger::{Budget, Counted, Ledger, Ledgers};
use crate::limits::PIPES_PER_WORKER;
use crate::metrics::WorkerMetrics;
use crate::ring::{ChunkPool, Deadlines, HeadPool, PipePool, RingMeters, Socket, Stopper};
use crate::room::{Room, SharedRoom};
use crate::seat::Live;
use crate::upstream::destinations::Destinations;
use crate::upstream::permits::PoolShared;
use crate::upstream::pool::Pool;

/// What the workers share: atomics and queues that are touched per connection.
pub struct Shared {
    pub pool: Arc<PoolShared>,
    /// Rights to hold a client connection: `limits.clients` of them.
    pub clients: Arc<Semaphore>,
    pub room: SharedRoom,
    /// Rights to hold a tunnel: `limits.tunnels` of them.
    pub tunnels: Arc<Semaphore>,
    /// The newest configuration in use.
    pub snapshot: ArcSwap<Snapshot>,
    pub metrics: Vec<Arc<WorkerMetrics>>,
    pub ledgers: Ledgers,
    pub rings: Vec<Arc<RingMeters>>,
    /// By place, what is done in it: all vectors here have room for more workers than there are.
    pub places: Vec<Place>,
    /// Questions of the workers to the control thread.
    pub control: UnboundedSender<ControlAsk>,
    /// What the control thread wants of whoever owns the server.
    pub orders: UnboundedSender<Order>,
    pub history: History,
    /// Configurations that could not be put in use.
    pub reloads_refused: AtomicUsize,
    /// [`NORMAL`], or how hard memory is being given back: while it is [`FORCED`], new connections
    /// are turned away.
    pub pressure: AtomicU8,
    pub is_ready: AtomicBool,
    /// Live client connections by worker, counted up by whoever places one.
    pub live: Vec<AtomicUsize>,
    /// Answers end their connections. Set before the listening sockets close, so that whoever is
    /// refused by one can rely on it.
    pub is_closing: AtomicBool,
    pub is_draining: AtomicBool,
    /// Another process has taken the listening sockets over: connections that rest may go on until
    /// their next request has been answered.
    pub is_handed_over: AtomicBool,
    /// One per worker: the drain has begun, or its time is up.
    pub drain: Vec<Notify>,
    pub is_cutting: AtomicBool,
}

/// Room for one worker.
pub struct Place {
    state: AtomicU8,
    mail: ArcSwapOption<Mail>,
}

/// How a worker is reached.
pub struct Mail {
    /// Accepted connections that it shall serve.
    pub inbox: UnboundedSender<Accepted>,
    pub asks: UnboundedSender<Ask>,
}

/// Nobody works here.
pub const FREE: u8 = 0;
/// Gets ready.
pub const STARTING: u8 = 1;
/// Takes new connections.
pub const ACTIVE: u8 = 2;
/// Finishes what it has, and may be called back.
pub const LEAVING: u8 = 3;
/// Has finished it.
pub const ENDING: u8 = 4;

/// Whether somebody works there who can be given a connection. Whoever starts may yet fail.
fn takes(state: u8) -> bool {
    matches!(state, ACTIVE | LEAVING)
}

impl Default for Place {
    fn default() -> Self {
        Self { state: AtomicU8::new(FREE), mail: ArcSwapOption::empty() }
    }
}

impl Place {
    pub fn state(&self) -> u8 {
        self.state.load(Ordering::SeqCst)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// A worker begins to work here.
    pub fn occupy(&self, mail: Mail) {
        self.mail.store(Some(Arc::new(mail)));
        self.state.store(STARTING, Ordering::Release);
    }

    /// It is ready.
    pub fn activate(&self) {
        self.state.store(ACTIVE, Ordering::Release);
    }

    /// It shall take no more connections.
    pub fn retire(&self) {
        self.change(ACTIVE, LEAVING);
    }

    /// It shall take connections again. False where nobody leaves, or has already left.
    pub fn recall(&self) -> bool {
        self.change(LEAVING, ACTIVE)
    }

    /// It ends if it is still idle once nobody can give it a connection any more: whoever does
    /// counts the connection first and looks at the state then ([`Shared::place`]). A worker that
    /// has not been told to leave ends only if that `is_over`.
    pub fn end_if(&self, is_idle: impl Fn() -> bool, is_over: bool) -> bool {
        let state = self.state();
        if (state == ACTIVE && !is_over) || !self.change(state, ENDING) {
            return false;
        }
        let ends = is_idle();
        if !ends {
            self.change(ENDING, state);
        }
        ends
    }

    /// It has ended.
    pub fn leave(&self) {
        self.state.store(FREE, Ordering::Release);
    }

    /// Asks whoever works here; false where nobody does.
    pub fn ask(&self, ask: Ask) -> bool {
        self.mail.load().as_ref().is_some_and(|mail| mail.asks.send(ask).is_ok())
    }
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
    /// Gives `accepted` to the worker with the fewest live connections, `here` on a tie; to one
    /// that leaves only where nobody stays.
    ///
    /// An even split of connections is an even split of work for as long as they live; the kernel's
    /// choice was measured at up to twice the mean.
    pub fn place(&self, mut accepted: Accepted, here: usize) {
        // Each round that fails does so at another worker that has just ended.
        for _ in &self.places {
            let Some(best) = self.least_busy(here) else { return };
            self.live[best].fetch_add(1, Ordering::SeqCst);
            let mail = self.places[best].mail.load();
            if let Some(mail) = mail.as_ref()
                && takes(self.places[best].state())
            {
                match mail.inbox.send(accepted) {
                    Ok(()) => return,
                    Err(back) => accepted = back.0,
                }
            }
            self.live[best].fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn least_busy(&self, here: usize) -> Option<usize> {
        let cost = |worker: usize| {
            let state = self.places[worker].state();
            let live = self.live[worker].load(Ordering::Relaxed);
            takes(state).then_some((state != ACTIVE, live, worker != here, worker))
        };
        (0..self.places.len()).filter_map(cost).min().map(|(.., worker)| worker)
    }

    /// The places at which somebody works.
    pub fn occupied(&self) -> impl Iterator<Item = usize> + '_ {
        let places = self.places.iter().enumerate();
        places.filter(|(_, place)| place.state() != FREE).map(|(index, _)| index)
    }
}

/// What the tasks of one worker share.
pub struct Worker {
    pub index: usize,
    generation: RefCell<Rc<Generation>>,
    pub pool: Rc<Pool>,
    pub heads: Rc<HeadPool>,
    pub chunks: Rc<ChunkPool>,
    pub pipes: Rc<PipePool>,
    pub deadlines: Rc<Deadlines>,
    pub date: DateLine,
    pub access_log: Option<AccessLog>,
    pub shared: Arc<Shared>,
    /// The numbers of origins and of targets of forward requests.
    pub destinations: Rc<Destinations>,
    pub metrics: Arc<WorkerMetrics>,
    pub ledger: Arc<Ledger>,
    /// How much memory connections and requests may come to.
    pub budget: Rc<Budget>,
    /// Where outgoing heads are built; free again before anything waits.
    scratch: RefCell<Vec<u8>>,
    pub(crate) connections: RefCell<Slab<Rc<Live>>>,
    pub(crate) room: Room,
    /// Connections that this worker has ever served.
    pub(crate) serial: Cell<u64>,
    pub(crate) stoppers: RefCell<Vec<(u16, Stopper)>>,
    /// Accepts that are pending, or have brought a connection that is not placed yet.
    pub(crate) accepting: Cell<usize>,
    /// It takes no new connections and keeps none for another request.
    pub is_leaving: Cell<bool>,
    /// What rests has to end.
    pub is_draining: Cell<bool>,
    /// Times that a connection has given its memory up, since the last purge.
    pub released: Cell<usize>,
    /// Copies of requests under way.
    pub mirroring: Cell<usize>,
}

/// What became of bytes that [`Worker::send_built`] built.
pub struct Sent<T> {
    /// What the builder had to say.
    pub about: T,
    /// What the socket did not take at once.
    pub rest: Option<Counted>,
}

/// Why nothing was sent.
pub enum Unsent<E> {
    /// The builder refused.
    Refused(E),
    /// The connection is broken, or there is no memory for what its receiver does not take.
    Broken,
}

impl Worker {
    /// Must be called inside the worker's runtime, with which it registers the chunks.
    pub fn new(
        index: usize,
        access_log: Option<AccessLog>,
        shared: Arc<Shared>,
        budget: Budget,
    ) -> io::Result<Self> {
        let deadlines = Rc::new(Deadlines::default());
        let ledger = shared.ledgers.workers()[index].clone();
        let metrics = shared.metrics[index].clone();
        let budget = Rc::new(budget);
        let destinations = Rc::new(Destinations::default());
        let generation =
            Generation::new(&shared.snapshot.load(), index, &destinations, &shared.pool);
        let buffers = &generation.config.buffers;
        let heads = HeadPool::new(buffers.head_buffer_bytes, ledger.clone(), budget.clone());
        let chunks =
            ChunkPool::new(buffers.chunks_per_worker, buffers.chunk_bytes, ledger.clone())?;
        let pool = Pool::new(
            index,
            generation.pool_limits(),
            shared.pool.clone(),
            deadlines.clone(),
            heads.clone(),
            (ledger.clone(), metrics.clone()),
        );
        Ok(Self {
            index,
            pool,
            heads,
            chunks,
            pipes: PipePool::new(PIPES_PER_WORKER),
            deadlines,
            date: DateLine::default(),
            access_log,
            destinations,
            metrics,
            ledger,
            budget,
            shared,
            scratch: RefCell::new(Vec::with_capacity(buffers.head_buffer_bytes * 2)),
            connections: RefCell::default(),
            room: Room::default(),
            serial: Cell::new(0),
            stoppers: RefCell::default(),
            accepting: Cell::new(0),
            is_leaving: Cell::new(false),
            is_draining: Cell::new(false),
            released: Cell::new(0),
            mirroring: Cell::new(0),
            generation: RefCell::new(generation),
        })
    }

    /// The newest configuration in use.
    pub fn generation(&self) -> Rc<Generation> {
        self.generation.borrow().clone()
    }

    /// Lets the newest configuration take `generation`'s place; whether that is another one.
    #[inline]
    pub fn refresh(&self, generation: &mut Rc<Generation>) -> bool {
        let newest = self.generation.borrow();
        let is_stale = !Rc::ptr_eq(&newest, generation);
        if is_stale {
            *generation = newest.clone();
        }
        is_stale
    }

    /// Puts `snapshot` in use for what begins from now on.
    pub fn adopt(&self, snapshot: &Snapshot, budget: &Budget) {
        let generation =
            Generation::new(snapshot, self.index, &self.destinations, &self.shared.pool);
        self.pool.set_limits(generation.pool_limits());
        self.budget.set(budget);
        let before = self.generation.replace(generation);
        let now = self.generation();
        for member in before.members() {
            if !now.members().any(|kept| kept.number() == member.number()) {
                self.pool.close_idle_of(member.number());
            }
        }
    }

    pub fn is_current(&self, number: usize, address: SocketAddr) -> bool {
        let generation = self.generation.borrow();
        let mut members = generation.members();
        members
            .find(|member| member.number() == number)
            .is_none_or(|member| member.origin.has_address(address))
    }

    /// Ends the accept tasks; what they have accepted is served.
    pub fn stop_listening(&self) {
        for (_, stopper) in self.stoppers.borrow_mut().drain(..) {
            stopper.stop();
        }
    }

    /// Ends the accepting from the listener with the number `listener`.
    pub fn stop_listening_to(&self, listener: u16) {
        let mut stoppers = self.stoppers.borrow_mut();
        for (_, stopper) in stoppers.extract_if(.., |(number, _)| *number == listener) {
            stopper.stop();
        }
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
        if sent == scratch.len() {
            return Ok(Sent { about, rest: None });
        }
        let rest = Counted::copy(&scratch[sent..], &self.ledger, &self.budget);
        Ok(Sent { about, rest: Some(rest.ok_or(Unsent::Broken)?) })
    }

    /// Whether no connection is to be kept for another request.
    pub fn is_closing(&self) -> bool {
        self.is_leaving.get() || self.shared.is_closing.load(Ordering::Relaxed)
    }
}
