//! What one origin may have of connections, over all workers: so many in all, so many idle ones.
//!
//! In go connections that are opened and that end, and what each worker counts of idle ones; out
//! come places, each for as long as it is held, and how many idle connections have to go. Whoever
//! finds no place waits for one that is freed; it knows no connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::config::OriginConfig;

/// No limit.
const NONE: usize = usize::MAX;

/// The places of one origin.
#[derive(Debug)]
pub(crate) struct Quota {
    max: AtomicUsize,
    open: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
    pub(super) idle: Arc<IdleCap>,
}

/// How many idle connections there may be, by what each worker has last counted.
#[derive(Debug)]
pub(super) struct IdleCap {
    max: AtomicUsize,
    by_worker: Mutex<Vec<usize>>,
}

/// A place that is taken; its drop frees it.
#[derive(Debug)]
pub(super) struct Place(Arc<Quota>);

/// Somebody who waits for a place, until it is dropped.
pub(super) struct Waits<'q>(&'q AtomicUsize);

impl Default for Quota {
    fn default() -> Self {
        Self {
            max: AtomicUsize::new(NONE),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            idle: Arc::default(),
        }
    }
}

impl Quota {
    /// Takes over what the configuration says now; what is open stays open.
    pub(crate) fn set(&self, config: &OriginConfig) {
        self.max.store(config.max_connections.unwrap_or(NONE), Ordering::Relaxed);
        self.idle.set(config.max_idle);
        self.freed.notify_waiters();
    }

    pub(crate) fn max(&self) -> Option<usize> {
        Some(self.max.load(Ordering::Relaxed)).filter(|max| *max != NONE)
    }

    /// Connections that are open now, or about to be.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.open() >= self.max.load(Ordering::Relaxed)
    }

    /// Requests that wait for a place, in any worker.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// A place, where there is one.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let max = self.max.load(Ordering::Relaxed);
        let one_more = |open: usize| (open < max).then_some(open + 1);
        let taken = self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        taken.is_ok().then(|| Place(self.clone()))
    }

    pub(super) fn wait(&self) -> Waits<'_> {
        Waits::new(&self.waiting)
    }

    /// Resolves when a place may have become free.
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        if self.0.is_wanted() {
            self.0.freed.notify_one();
        }
    }
}

impl Default for IdleCap {
    fn default() -> Self {
        Self { max: AtomicUsize::new(NONE), by_worker: Mutex::default() }
    }
}

impl<'q> Waits<'q> {
    pub(super) fn new(count: &'q AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl IdleCap {
    pub(super) fn set(&self, max: Option<usize>) {
        self.max.store(max.unwrap_or(NONE), Ordering::Relaxed);
    }

    pub(super) fn is_limited(&self) -> bool {
        self.max.load(Ordering::Relaxed) != NONE
    }

    /// `worker` has `count` idle connections, `rested` of which it could close. How many it has to
    /// close, which it then does.
    pub(super) fn trim(&self, worker: usize, count: usize, rested: usize) -> usize {
        let max = self.max.load(Ordering::Relaxed);
        let mut by_worker = self.by_worker.lock().unwrap_or_else(PoisonError::into_inner);
        if by_worker.len() <= worker {
            by_worker.resize(worker + 1, 0);
        }
        by_worker[worker] = count;
        let total: usize = by_worker.iter().sum();
        let closed = total.saturating_sub(max).min(rested);
        by_worker[worker] -= closed;
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(max: usize, max_idle: usize) -> Arc<Quota> {
        let quota = Arc::new(Quota::default());
        quota.max.store(max, Ordering::Relaxed);
        quota.idle.set(Some(max_idle));
        quota
    }

    #[test]
    fn a_place_is_free_again_when_its_holder_has_gone() {
        let quota = quota(2, 0);
        let places = [quota.take().unwrap(), quota.take().unwrap()];
        assert!(quota.take().is_none() && quota.is_full());
        drop(places);
        assert_eq!((quota.open(), quota.is_full()), (0, false));
        let free = Arc::new(Quota::default());
        assert!(free.take().is_some() && free.max().is_none() && !free.is_full());
    }

    #[test]
    fn the_workers_close_together_what_is_too_much() {
        let cap = IdleCap::default();
        cap.set(Some(3));
        assert_eq!(cap.trim(1, 2, 2), 0);
        assert_eq!(cap.trim(0, 4, 4), 3);
        assert_eq!(cap.trim(1, 2, 2), 0, "the other one has closed them");
        assert_eq!(cap.trim(0, 9, 1), 1, "the others have not rested");
        cap.set(None);
        assert_eq!(cap.trim(0, 100, 100), 0);
        assert!(!cap.is_limited());
    }
}
