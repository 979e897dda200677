//! A budget of attempts that grows with the requests.
//!
//! In: requests, each of which is worth a share of an attempt, and attempts that are to be paid.
//! Out: whether there is enough. What is saved is bounded, and there at the beginning. All threads
//! share one.

use std::sync::atomic::{AtomicU64, Ordering};

/// Attempts that are saved up, a share of one with each request.
#[derive(Debug)]
pub(super) struct Savings {
    percent: u64,
    /// In hundredths of an attempt.
    saved: AtomicU64,
}

const ATTEMPT: u64 = 100;

/// So many attempts are saved up at most, and there at the beginning: a route with few requests
/// would never have one.
const SAVED_MAX: u64 = 10 * ATTEMPT;

impl Savings {
    pub(super) fn new(percent: u32) -> Self {
        Self { percent: u64::from(percent), saved: AtomicU64::new(SAVED_MAX) }
    }

    /// A request has come: its share of an attempt is saved.
    pub(super) fn earn(&self) {
        let more = |saved: u64| (saved < SAVED_MAX).then(|| (saved + self.percent).min(SAVED_MAX));
        // A full budget stays as it is, which is no error.
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Pays for an attempt, if there is enough.
    pub(super) fn spend(&self) -> bool {
        let less = |saved: u64| saved.checked_sub(ATTEMPT);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}
