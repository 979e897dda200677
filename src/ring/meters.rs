//! What a worker's ring does: operations begun and over, and turns of the loop.
//!
//! In go the operations of the thread that [`RingMeters::install`] was called on; out come totals
//! that any thread may read. A dropped wait counts as over: no task waits for it any more.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_uring::Waits;

use super::driver::Driver;
use crate::counters::Counter;

/// The operations that are submitted (io_uring_enter(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Recv,
    Poll,
    Accept,
    Cancel,
    ReadFixed,
    WriteFixed,
    Nop,
}

impl Operation {
    pub(crate) const ALL: [Self; 7] = [
        Self::Recv,
        Self::Poll,
        Self::Accept,
        Self::Cancel,
        Self::ReadFixed,
        Self::WriteFixed,
        Self::Nop,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Recv => "recv",
            Self::Poll => "poll",
            Self::Accept => "accept",
            Self::Cancel => "cancel",
            Self::ReadFixed => "read_fixed",
            Self::WriteFixed => "write_fixed",
            Self::Nop => "nop",
        }
    }
}

/// One ring's totals; the index is an [`Operation`]. Whole cache lines, in pairs as they are
/// fetched: the rings' totals lie side by side, and each thread writes its own for every operation.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct RingMeters {
    pub submitted: [Counter; 7],
    pub completed: [Counter; 7],
    /// Waits that ended although there was nothing to be moved.
    pub fruitless: Counter,
    /// The ring's descriptor, for `/proc/self/fdinfo`; [`NO_RING`] where there is none.
    pub ring_fd: AtomicI32,
    waits: Mutex<Parked>,
}

/// Turns of the loops of all threads that have had this place, one after the other.
#[derive(Debug, Default)]
struct Parked {
    /// Those of threads that have ended.
    before: u64,
    /// The one that has it now, or had it last.
    now: Option<Arc<Waits>>,
}

impl Parked {
    fn total(&self) -> u64 {
        self.before + self.now.as_ref().map_or(0, |waits| waits.in_ring() + waits.in_tokio())
    }
}

/// Stands for the descriptor of a ring that is not there.
const NO_RING: i32 = -1;

impl Default for RingMeters {
    fn default() -> Self {
        Self {
            submitted: Default::default(),
            completed: Default::default(),
            fruitless: Counter::default(),
            ring_fd: AtomicI32::new(NO_RING),
            waits: Mutex::default(),
        }
    }
}

thread_local! {
    static METERS: OnceCell<Arc<RingMeters>> = const { OnceCell::new() };
}

impl RingMeters {
    /// Has the calling thread's operations counted; inside its runtime, once.
    pub(crate) fn install(self: &Arc<Self>) {
        if let Some((waits, ring)) = Waits::current() {
            self.ring_fd.store(ring.unwrap_or(NO_RING), Ordering::Relaxed);
            let mut parked = self.parked();
            *parked = Parked { before: parked.total(), now: Some(waits) };
        }
        METERS.with(|meters| {
            let _ = meters.set(self.clone());
        });
    }

    /// What carries them out; `None` where no worker has begun.
    pub(crate) fn driver(&self) -> Option<Driver> {
        self.parked().now.as_ref()?;
        let has_ring = self.ring_fd.load(Ordering::Relaxed) != NO_RING;
        Some(if has_ring { Driver::IoUring } else { Driver::Epoll })
    }

    /// Operations with this index that the ring holds now.
    pub(crate) fn in_flight(&self, operation: usize) -> u64 {
        // Read in this order, so that what completes in between is not taken for a negative number.
        let completed = self.completed[operation].get();
        self.submitted[operation].get().saturating_sub(completed)
    }

    /// Turns of the loop that found nothing left to run and slept in the kernel.
    pub(crate) fn parks(&self) -> u64 {
        self.parked().total()
    }

    fn parked(&self) -> MutexGuard<'_, Parked> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait has ended although there was nothing to be moved.
pub(crate) fn count_fruitless() {
    METERS.with(|meters| {
        if let Some(meters) = meters.get() {
            meters.fruitless.add(1);
        }
    });
}

#[inline]
pub(super) fn count_submitted(operation: Operation) {
    METERS.with(|meters| {
        if let Some(meters) = meters.get() {
            meters.submitted[operation as usize].add(1);
        }
    });
}

#[inline]
pub(super) fn count_completed(operation: Operation) {
    // An operation can outlive the thread's variables by its last destructors.
    let _ = METERS.try_with(|meters| {
        if let Some(meters) = meters.get() {
            meters.completed[operation as usize].add(1);
        }
    });
}
