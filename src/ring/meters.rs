//! What a worker's ring does: operations begun and over, and turns of the loop.
//!
//! In go the operations of the thread that [`RingMeters::install`] was called on; out come totals
//! that any thread may read. A dropped wait counts as over: no task waits for it any more.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use tokio_uring::Waits;

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
    /// The ring's descriptor, for `/proc/self/fdinfo`; -1 where it is not known.
    pub ring_fd: AtomicI32,
    waits: OnceLock<Arc<Waits>>,
}

impl Default for RingMeters {
    fn default() -> Self {
        Self {
            submitted: Default::default(),
            completed: Default::default(),
            fruitless: Counter::default(),
            ring_fd: AtomicI32::new(-1),
            waits: OnceLock::new(),
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
            self.ring_fd.store(ring, Ordering::Relaxed);
            let _ = self.waits.set(waits);
        }
        METERS.with(|meters| {
            let _ = meters.set(self.clone());
        });
    }

    /// Turns of the loop that found nothing left to run and slept in the kernel.
    pub(crate) fn parks(&self) -> u64 {
        self.waits.get().map_or(0, |waits| waits.in_ring() + waits.in_tokio())
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
