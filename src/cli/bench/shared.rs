//! What the threads of a run and the one that waits for them tell each other.
//!
//! In go the moments of a plan; out come flags and counts that any thread may read, and what each
//! thread measured. Nothing here waits.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::tally::Tally;

/// What the threads and the one that waits for them tell each other.
#[derive(Debug)]
pub(super) struct Shared {
    /// Where the schedule of an open loop begins.
    pub(super) start: Instant,
    /// Where measuring begins; what comes before is warm-up.
    pub(super) begin: Instant,
    /// For the display of progress.
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Threads that are done with the first requests of all their idle connections.
    pub(super) settled: AtomicUsize,
    /// Idle connections are to be asked once more.
    pub(super) is_held: AtomicBool,
    /// Threads that are done.
    pub(super) done: AtomicUsize,
}

impl Shared {
    pub(super) fn new(warmup: Duration) -> Self {
        let start = Instant::now();
        Self {
            start,
            begin: start + warmup,
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            settled: AtomicUsize::new(0),
            is_held: AtomicBool::new(false),
            done: AtomicUsize::new(0),
        }
    }
}

/// What one thread measured, and when.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) tally: Tally,
    pub(super) ended: Instant,
}

/// `total` shared out over the threads of a plan.
pub(super) fn share(total: u64, threads: usize, thread: usize) -> u64 {
    let (threads, thread) = (threads as u64, thread as u64);
    total / threads + u64::from(thread < total % threads)
}

/// Processor time of this thread so far.
pub(super) fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_differ_by_one_at_most_and_make_up_the_whole() {
        for (total, threads) in [(0, 1), (1, 3), (7, 3), (100, 7), (u64::MAX, 2)] {
            let shares: Vec<u64> =
                (0..threads).map(|thread| share(total, threads, thread)).collect();
            assert_eq!(shares.iter().sum::<u64>(), total);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
