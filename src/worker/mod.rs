//! What the tasks of one worker share: its pools, tables and limits.
//!
//! In goes the configuration; the tasks of a thread (listeners, connections, the pool's janitor)
//! reach everything else through one `Rc<Worker>`. Nothing hot is shared with other workers: what
//! they have in common is in [`Shared`], touched once per connection.
//!
//! The tasks themselves are started elsewhere.

pub mod accept;
pub mod arbiter;
pub mod cleanup;
pub mod generation;
pub mod mailbox;
pub mod room;
pub mod slot;
pub mod thread;

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

use self::generation::{Generation, History, Snapshot};
use self::mailbox::{ControlQuery, ServerCommand, WorkerCommand};
use self::room::{Room, SharedRoom};
use self::slot::ConnectionEntry;
use crate::ledger::{Budget, Ledger, Ledgers};
use crate::limits::PIPES_PER_WORKER;
use crate::observe::access_log::AccessLog;
use crate::observe::date::DateLine;
use crate::observe::metrics::WorkerMetrics;
use crate::relay::outbox::Outbox;
use crate::ring::{ChunkPool, Deadlines, HeadPool, PipePool, RingMeters, Stopper};
use crate::upstream::origin_ids::OriginIds;
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
    /// By slot, the worker in it: all vectors here have room for more workers than there are.
    pub slots: Vec<WorkerSlot>,
    /// Queries of the workers to the control thread.
    pub control: UnboundedSender<ControlQuery>,
    /// What the control thread wants of the thread that owns the server.
    pub server_commands: UnboundedSender<ServerCommand>,
    pub history: History,
    /// Configurations that could not be put in use.
    pub reloads_refused: AtomicUsize,
    /// [`NORMAL`], or how hard memory is being given back: while it is [`FORCED`], new connections
    /// are turned away.
    pub pressure: AtomicU8,
    pub is_ready: AtomicBool,
    /// Live client connections by worker, counted up by the thread that places one.
    pub live: Vec<AtomicUsize>,
    /// Answers end their connections. Set before the listening sockets close, so that a client that
    /// is refused by one can rely on it.
    pub is_closing: AtomicBool,
    pub is_draining: AtomicBool,
    /// Another process has taken the listening sockets over: idle connections may go on until their
    /// next request has been answered.
    pub is_handed_over: AtomicBool,
    /// One per worker: the drain has begun, or its time is up.
    pub drain: Vec<Notify>,
    pub is_cutting: AtomicBool,
}

/// Room for one worker.
pub struct WorkerSlot {
    state: AtomicU8,
    handle: ArcSwapOption<WorkerHandle>,
}

/// How a worker is reached.
pub struct WorkerHandle {
    /// Accepted connections that it shall serve.
    pub inbox: UnboundedSender<Accepted>,
    pub commands: UnboundedSender<WorkerCommand>,
}

/// No worker runs here.
pub const FREE: u8 = 0;
/// Gets ready.
pub const STARTING: u8 = 1;
/// Takes new connections.
pub const ACTIVE: u8 = 2;
/// Finishes what it has, and may be told to go on.
pub const DRAINING: u8 = 3;
/// Has finished it.
pub const STOPPED: u8 = 4;

/// Whether somebody works there who can be given a connection. Whoever starts may yet fail.
fn takes(state: u8) -> bool {
    matches!(state, ACTIVE | DRAINING)
}

impl Default for WorkerSlot {
    fn default() -> Self {
        Self { state: AtomicU8::new(FREE), handle: ArcSwapOption::empty() }
    }
}

impl WorkerSlot {
    pub fn state(&self) -> u8 {
        self.state.load(Ordering::SeqCst)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// A worker starts here.
    pub fn occupy(&self, handle: WorkerHandle) {
        self.handle.store(Some(Arc::new(handle)));
        self.state.store(STARTING, Ordering::Release);
    }

    /// It is ready.
    pub fn activate(&self) {
        self.state.store(ACTIVE, Ordering::Release);
    }

    /// It shall take no more connections.
    pub fn drain(&self) {
        self.change(ACTIVE, DRAINING);
    }

    /// It shall take connections again. False where no worker drains, or it has already stopped.
    pub fn undrain(&self) -> bool {
        self.change(DRAINING, ACTIVE)
    }

    /// It ends if it is still idle once it can be given no connection any more: a thread that gives
    /// one counts it first and looks at the state then ([`Shared::place`]). A worker that has not
    /// been told to drain ends only if that `is_over`.
    pub fn end_if(&self, is_idle: impl Fn() -> bool, is_over: bool) -> bool {
        let state = self.state();
        if (state == ACTIVE && !is_over) || !self.change(state, STOPPED) {
            return false;
        }
        let ends = is_idle();
        if !ends {
            self.change(STOPPED, state);
        }
        ends
    }

    /// It has ended.
    pub fn free(&self) {
        self.state.store(FREE, Ordering::Release);
    }

    /// Sends it to the worker in the slot; false where there is none.
    pub fn send(&self, command: WorkerCommand) -> bool {
        self.handle.load().as_ref().is_some_and(|handle| handle.commands.send(command).is_ok())
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
    /// that drains only where there is no other.
    ///
    /// An even split of connections is an even split of work for as long as they live; the kernel's
    /// choice was measured at up to twice the mean.
    pub fn place(&self, mut accepted: Accepted, here: usize) {
        // Each round that fails does so at another worker that has just ended.
        for _ in &self.slots {
            let Some(best) = self.least_busy(here) else { return };
            self.live[best].fetch_add(1, Ordering::SeqCst);
            let handle = self.slots[best].handle.load();
            if let Some(handle) = handle.as_ref()
                && takes(self.slots[best].state())
            {
                match handle.inbox.send(accepted) {
                    Ok(()) => return,
                    Err(back) => accepted = back.0,
                }
            }
            self.live[best].fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn least_busy(&self, here: usize) -> Option<usize> {
        let cost = |worker: usize| {
            let state = self.slots[worker].state();
            let live = self.live[worker].load(Ordering::Relaxed);
            takes(state).then_some((state != ACTIVE, live, worker != here, worker))
        };
        (0..self.slots.len()).filter_map(cost).min().map(|(.., worker)| worker)
    }

    /// The slots in which a worker runs.
    pub fn occupied(&self) -> impl Iterator<Item = usize> + '_ {
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, slot)| slot.state() != FREE).map(|(index, _)| index)
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
    pub origin_ids: Rc<OriginIds>,
    pub metrics: Arc<WorkerMetrics>,
    pub ledger: Arc<Ledger>,
    /// How much memory connections and requests may come to.
    pub budget: Rc<Budget>,
    pub outbox: Outbox,
    pub(crate) connections: RefCell<Slab<Rc<ConnectionEntry>>>,
    pub(crate) room: Room,
    /// Connections that this worker has ever served.
    pub(crate) serial: Cell<u64>,
    pub(crate) stoppers: RefCell<Vec<(u16, Stopper)>>,
    /// Accepts that are pending, or have brought a connection that is not placed yet.
    pub(crate) accepting: Cell<usize>,
    /// It takes no new connections and keeps none for another request.
    pub is_draining: Cell<bool>,
    /// Idle connections have to end.
    pub closes_idle: Cell<bool>,
    /// Times that a connection has given its memory up, since the last purge.
    pub released: Cell<usize>,
    /// Copies of requests under way.
    pub mirroring: Cell<usize>,
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
        let origin_ids = Rc::new(OriginIds::default());
        let generation = Generation::new(&shared.snapshot.load(), index, &origin_ids, &shared.pool);
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
        let bytes = buffers.head_buffer_bytes * 2;
        let outbox = Outbox::new(bytes, ledger.clone(), budget.clone());
        Ok(Self {
            index,
            pool,
            heads,
            chunks,
            pipes: PipePool::new(PIPES_PER_WORKER),
            deadlines,
            date: DateLine::default(),
            access_log,
            origin_ids,
            metrics,
            ledger,
            budget,
            shared,
            outbox,
            connections: RefCell::default(),
            room: Room::default(),
            serial: Cell::new(0),
            stoppers: RefCell::default(),
            accepting: Cell::new(0),
            is_draining: Cell::new(false),
            closes_idle: Cell::new(false),
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
        let generation = Generation::new(snapshot, self.index, &self.origin_ids, &self.shared.pool);
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

    /// Whether no connection is to be kept for another request.
    pub fn is_closing(&self) -> bool {
        self.is_draining.get() || self.shared.is_closing.load(Ordering::Relaxed)
    }
}
