//! What the workers of a process share: atomics and queues, touched once per connection.
//!
//! In go accepted connections and commands; out come the worker that each is for, and what all of
//! them have to know of the process: its configuration, its limits, whether it drains. Nothing hot
//! is here, and nothing waits.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::address::PeerAddress;
use crate::admin_guard::TokenTries;
use crate::ledger::Ledgers;
use crate::memory::SharedPressure;
use crate::observe::metrics::WorkerMetrics;
use crate::observe::spans::SpanQueue;
use crate::relay::spool::Spool;
use crate::ring::RingMeters;
use crate::upstream::permits::PoolShared;
use crate::worker::census::SharedRoom;
use crate::worker::discovery::DiscoveryState;
use crate::worker::generation::Snapshot;
use crate::worker::history::History;
use crate::worker::mailbox::{ControlQuery, ServerCommand, WorkerCommand};

/// What the workers share: atomics and queues that are touched per connection.
pub(crate) struct Shared {
    pub pool: Arc<PoolShared>,
    /// Rights to hold a client connection: `limits.clients` of them.
    pub clients: Arc<Semaphore>,
    pub room: SharedRoom,
    /// Rights to hold a tunnel: `limits.tunnels` of them.
    pub tunnels: Arc<Semaphore>,
    pub streams: Arc<Semaphore>,
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
    pub discovery: Arc<DiscoveryState>,
    /// Where spans go, if anywhere; put there before a client can ask.
    pub spans: OnceLock<SpanQueue>,
    /// Configurations that could not be put in use.
    pub reloads_refused: AtomicUsize,
    /// Wrong tokens for the administration, on its own address and on the data port.
    pub token_tries: TokenTries,
    /// While it is forced, new connections are turned away.
    pub pressure: SharedPressure,
    pub spool: Arc<Spool>,
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
pub(crate) struct WorkerSlot {
    /// A [`WorkerState`].
    state: AtomicU8,
    handle: ArcSwapOption<WorkerHandle>,
}

/// How a worker is reached.
pub(crate) struct WorkerHandle {
    /// Accepted connections that it shall serve.
    pub inbox: UnboundedSender<Accepted>,
    pub commands: UnboundedSender<WorkerCommand>,
}

/// What a worker's slot is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum WorkerState {
    /// No worker runs here.
    Free,
    /// Gets ready, and may yet fail.
    Starting,
    /// Takes new connections.
    Active,
    /// Finishes what it has, and may be told to go on.
    Draining,
    /// Has finished it.
    Stopped,
}

impl WorkerState {
    /// `number` is one that was made of a state.
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Free,
            1 => Self::Starting,
            2 => Self::Active,
            3 => Self::Draining,
            _ => Self::Stopped,
        }
    }

    /// Whether a connection may be given to the worker.
    fn takes_connections(self) -> bool {
        match self {
            Self::Active | Self::Draining => true,
            Self::Free | Self::Starting | Self::Stopped => false,
        }
    }
}

impl WorkerSlot {
    pub(crate) fn state(&self) -> WorkerState {
        WorkerState::of(self.state.load(Ordering::SeqCst))
    }

    fn set(&self, state: WorkerState) {
        self.state.store(state as u8, Ordering::Release);
    }

    fn change(&self, from: WorkerState, to: WorkerState) -> bool {
        let (from, to) = (from as u8, to as u8);
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// A worker starts here.
    pub(crate) fn occupy(&self, handle: WorkerHandle) {
        self.handle.store(Some(Arc::new(handle)));
        self.set(WorkerState::Starting);
    }

    /// It is ready.
    pub(crate) fn activate(&self) {
        self.set(WorkerState::Active);
    }

    /// It shall take no more connections.
    pub(crate) fn drain(&self) {
        self.change(WorkerState::Active, WorkerState::Draining);
    }

    /// It shall take connections again. False where no worker drains, or it has already stopped.
    pub(crate) fn undrain(&self) -> bool {
        self.change(WorkerState::Draining, WorkerState::Active)
    }

    /// It ends if it is still idle once it can be given no connection any more: a thread that gives
    /// one counts it first and looks at the state then ([`Shared::place`]). A worker that has not
    /// been told to drain ends only if that `is_over`.
    pub(crate) fn end_if(&self, is_idle: impl Fn() -> bool, is_over: bool) -> bool {
        let state = self.state();
        if (state == WorkerState::Active && !is_over) || !self.change(state, WorkerState::Stopped) {
            return false;
        }
        let ends = is_idle();
        if !ends {
            self.change(WorkerState::Stopped, state);
        }
        ends
    }

    /// It has ended.
    pub(crate) fn free(&self) {
        self.set(WorkerState::Free);
    }

    /// Sends it to the worker in the slot; false where there is none.
    pub(crate) fn send(&self, command: WorkerCommand) -> bool {
        self.handle.load().as_ref().is_some_and(|handle| handle.commands.send(command).is_ok())
    }
}

impl Default for WorkerSlot {
    fn default() -> Self {
        Self { state: AtomicU8::new(WorkerState::Free as u8), handle: ArcSwapOption::empty() }
    }
}

/// A client connection on its way to its worker.
pub(crate) struct Accepted {
    pub fd: OwnedFd,
    pub peer: PeerAddress,
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
    pub(crate) fn place(&self, mut accepted: Accepted, here: usize) {
        // Each round that fails does so at another worker that has just ended.
        for _ in &self.slots {
            let Some(best) = self.least_busy(here) else { return };
            self.live[best].fetch_add(1, Ordering::SeqCst);
            let handle = self.slots[best].handle.load();
            if let Some(handle) = handle.as_ref()
                && self.slots[best].state().takes_connections()
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
            state.takes_connections().then_some((
                state != WorkerState::Active,
                live,
                worker != here,
                worker,
            ))
        };
        (0..self.slots.len()).filter_map(cost).min().map(|(.., worker)| worker)
    }

    /// The slots in which a worker runs.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = usize> + '_ {
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, slot)| slot.state() != WorkerState::Free).map(|(index, _)| index)
    }
}
