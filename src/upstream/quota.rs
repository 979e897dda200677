//! What one origin may have of connections, over all workers: so many in all, so many idle ones.
//!
//! In go connections that are opened and that end, and what each worker counts of idle ones; out
//! come places, each for as long as it is held, and how many idle connections have to go. Whoever
//! finds no place waits in one line with those of all workers, and who comes later never takes a
//! place before; it knows no connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::config::OriginConfig;

/// No limit.
const NONE: usize = usize::MAX;

/// How much longer than one that a connection could be handed to another request must have waited
/// for the connection to be given up for it: see `permits`.
const UNFAIR_MS: u64 = 50;

/// The places of one origin.
#[derive(Debug)]
pub(crate) struct Quota {
    max: AtomicUsize,
    open: AtomicUsize,
    /// The length of the line.
    waiting: AtomicUsize,
    line: Mutex<Line>,
    pub(super) idle: Arc<IdleCap>,
}

/// Requests that wait, the one that has waited longest first.
#[derive(Debug, Default)]
struct Line {
    queue: VecDeque<Waiting>,
    serial: u64,
}

#[derive(Debug)]
struct Waiting {
    serial: u64,
    /// The worker, and the number by which it knows the target that is waited for.
    whose: (usize, usize),
    since_ms: u64,
    call: Arc<Notify>,
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

/// A request's turn in the line; its drop ends the wait.
#[derive(Debug)]
pub(super) struct Turn {
    quota: Arc<Quota>,
    pub(super) serial: u64,
    call: Arc<Notify>,
}

/// Somebody who waits, until it is dropped.
pub(super) struct Waits<'q>(&'q AtomicUsize);

impl Default for Quota {
    fn default() -> Self {
        Self {
            max: AtomicUsize::new(NONE),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
            idle: Arc::default(),
        }
    }
}

impl Quota {
    /// Takes over what the configuration says now; what is open stays open.
    pub(crate) fn set(&self, config: &OriginConfig) {
        self.max.store(config.max_connections.unwrap_or(NONE), Ordering::Relaxed);
        self.idle.set(config.max_idle);
        self.call();
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

    /// How many connections have to end for all that wait to have a place.
    pub(super) fn shortage(&self) -> usize {
        let free = self.max.load(Ordering::Relaxed).saturating_sub(self.open());
        self.waiting.load(Ordering::SeqCst).saturating_sub(free)
    }

    /// Begins to wait, with the worker and the number by which it knows what is waited for.
    pub(super) fn join(self: &Arc<Self>, whose: (usize, usize), now_ms: u64) -> Turn {
        let call = Arc::<Notify>::default();
        let mut line = self.lock();
        line.serial += 1;
        let serial = line.serial;
        line.queue.push_back(Waiting { serial, whose, since_ms: now_ms, call: call.clone() });
        self.waiting.store(line.queue.len(), Ordering::SeqCst);
        drop(line);
        Turn { quota: self.clone(), serial, call }
    }

    /// Who gets a connection of `whose` that comes back: the one there that has waited longest, who
    /// then waits no more; nobody, where somebody elsewhere has waited much longer.
    pub(super) fn heir(&self, whose: (usize, usize)) -> Option<u64> {
        let mut line = self.lock();
        let first_ms = line.queue.front()?.since_ms;
        let place = line.queue.iter().position(|waiting| waiting.whose == whose)?;
        if line.queue[place].since_ms > first_ms.saturating_add(UNFAIR_MS) {
            return None;
        }
        let heir = line.queue.remove(place)?;
        self.waiting.store(line.queue.len(), Ordering::SeqCst);
        drop(line);
        heir.call.notify_one();
        if place == 0 {
            self.call();
        }
        Some(heir.serial)
    }

    /// Has the one whose turn it is look whether there is a place.
    fn call(&self) {
        if !self.is_full()
            && let Some(first) = self.lock().queue.front()
        {
            first.call.notify_one();
        }
    }

    /// A panic elsewhere leaves a line that is still true.
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// A place, where there is one and nobody has waited longer.
    pub(super) fn take(&self) -> Option<Place> {
        let is_first = self.quota.lock().queue.front().is_some_and(|it| it.serial == self.serial);
        if is_first { self.quota.take() } else { None }
    }

    /// Resolves when there may be something for it.
    pub(super) async fn called(&self) {
        self.call.notified().await;
    }

    /// Has whoever waits here look again.
    pub(super) fn wake(&self) {
        self.call.notify_one();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let place = {
            let mut line = self.quota.lock();
            let place = line.queue.binary_search_by_key(&self.serial, |waiting| waiting.serial);
            place.ok().inspect(|place| {
                line.queue.remove(*place);
                self.quota.waiting.store(line.queue.len(), Ordering::SeqCst);
            })
        };
        if place == Some(0) {
            self.quota.call();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        if self.0.is_wanted() {
            self.0.call();
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
    use crate::ring::waits::poll_now;

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

    fn is_called(turn: &Turn) -> bool {
        poll_now(&mut std::pin::pin!(turn.called())).is_some()
    }

    #[test]
    fn a_place_goes_to_who_has_waited_longest_in_whatever_worker() {
        let quota = quota(1, 0);
        let place = quota.take().unwrap();
        let turns = [(0, 7), (1, 7), (0, 7)].map(|whose| quota.join(whose, 0));
        assert!(quota.is_wanted() && turns.iter().all(|turn| turn.take().is_none()));
        assert_eq!(quota.shortage(), 3);
        drop(place);
        assert_eq!([0, 1, 2].map(|index: usize| is_called(&turns[index])), [true, false, false]);
        assert!(turns[1].take().is_none(), "it is not its turn");
        let [first, second, third] = turns;
        // One that gives up passes its call on.
        drop(first);
        assert!(is_called(&second));
        let place = second.take().unwrap();
        drop(second);
        assert!(!is_called(&third), "there is no place");
        drop(place);
        assert!(is_called(&third) && third.take().is_some());
        drop(third);
        assert!(!quota.is_wanted());
    }

    #[test]
    fn a_higher_limit_is_heard_of_by_all_that_it_is_for() {
        let quota = quota(1, 0);
        let _place = quota.take().unwrap();
        let turns = [(0, 1), (1, 1), (2, 1)].map(|whose| quota.join(whose, 0));
        quota.max.store(3, Ordering::Relaxed);
        quota.call();
        let mut places = Vec::new();
        let [first, second, third] = turns;
        for turn in [first, second] {
            assert!(is_called(&turn));
            places.push(turn.take().unwrap());
        }
        assert!(!is_called(&third) && third.take().is_none());
    }

    #[test]
    fn a_connection_stays_in_its_worker_unless_somebody_else_has_waited_much_longer() {
        let quota = quota(1, 0);
        let _place = quota.take().unwrap();
        let far = quota.join((1, 4), 1_000);
        let near = quota.join((0, 4), 1_000 + UNFAIR_MS);
        let late = quota.join((0, 4), 1_001 + UNFAIR_MS);
        let other = quota.join((0, 5), 1_001);
        assert_eq!(quota.heir((0, 4)), Some(near.serial));
        assert!(is_called(&near) && !is_called(&far));
        assert_eq!(quota.heir((0, 4)), None, "it is given up for the one far away");
        drop(far);
        assert_eq!(quota.heir((0, 4)), Some(late.serial));
        assert_eq!(quota.heir((0, 6)), None);
        drop((near, late, other));
        assert!(!quota.is_wanted() && quota.heir((0, 4)).is_none());
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
