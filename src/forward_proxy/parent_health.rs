//! Which places of a parent proxy could not be reached lately.
//!
//! In: what came of attempts, by any worker. Out: the order in which the places are to be tried:
//! as configured, and those that failed a moment ago last. Nothing here connects.

use std::sync::atomic::{AtomicU64, Ordering};

/// By place, until when it comes last; 0 where it was reached the last time.
#[derive(Debug)]
pub(crate) struct ParentHealth(Box<[AtomicU64]>);

impl ParentHealth {
    pub(crate) fn new(places: usize) -> Self {
        Self((0..places).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn in_order(&self, places: usize, now_ms: u64) -> Vec<usize> {
        let is_failing = |place: usize| {
            self.0.get(place).is_some_and(|until_ms| until_ms.load(Ordering::Relaxed) > now_ms)
        };
        let mut order: Vec<usize> = (0..places).collect();
        order.sort_by_key(|place| is_failing(*place));
        order
    }

    pub(crate) fn reached(&self, place: usize) {
        self.set(place, 0);
    }

    pub(crate) fn missed(&self, place: usize, until_ms: u64) {
        self.set(place, until_ms);
    }

    fn set(&self, place: usize, until_ms: u64) {
        if let Some(own) = self.0.get(place) {
            own.store(until_ms, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_failed_comes_last_until_its_time_is_over() {
        let health = ParentHealth::new(3);
        assert_eq!(health.in_order(3, 0), [0, 1, 2]);
        health.missed(0, 100);
        assert_eq!(health.in_order(3, 99), [1, 2, 0]);
        assert_eq!(health.in_order(3, 100), [0, 1, 2]);
        health.missed(1, 300);
        health.missed(0, 300);
        health.reached(1);
        assert_eq!(health.in_order(3, 200), [1, 2, 0]);
    }
}
