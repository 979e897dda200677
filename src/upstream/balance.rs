//! Which origin of an upstream is next: smooth weighted round robin with passive marks.
//!
//! In: the time, what the caller has already tried, and how earlier picks ended. Out: the index
//! of an origin. Weights 5, 1, 1 give `a a b a c a a`, not five in a row. An origin that failed
//! is passed over for a while, but never when nothing else is left: a guess beats a certain
//! 502. Pure and owned by one worker: no clock, no socket, no atomics.

use std::time::Duration;

/// The turns and marks of one upstream's origins.
#[derive(Clone, Debug)]
pub(crate) struct Balance {
    shares: Vec<Share>,
}

#[derive(Clone, Debug)]
struct Share {
    weight: i64,
    /// Grows by `weight` with each pick, and pays the weight of all candidates when picked.
    credit: i64,
    /// Zero when the last thing heard of the origin was good.
    failed_until_ms: u64,
}

impl Balance {
    /// One origin per weight, in their order. A weight of 0 counts as 1.
    pub(crate) fn new(weights: &[u32]) -> Self {
        let share =
            |weight: &u32| Share { weight: (*weight).max(1).into(), credit: 0, failed_until_ms: 0 };
        Self { shares: weights.iter().map(share).collect() }
    }

    /// The same, `turns` picks later. Workers that start at different turns do not all send
    /// their first request to the same origin.
    #[must_use]
    pub(crate) fn started_at(mut self, turns: usize) -> Self {
        // The order repeats after as many turns as the weights add up to.
        let period =
            self.shares.iter().map(|share| share.weight.unsigned_abs()).sum::<u64>().max(1);
        for _ in 0..turns as u64 % period {
            self.pick(0, |_| false);
        }
        self
    }

    /// The next origin that `is_excluded` leaves: one without a mark if there is any, else one
    /// with. `None` when all are excluded.
    pub(crate) fn pick(
        &mut self,
        now_ms: u64,
        is_excluded: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if self.shares.len() == 1 {
            return (!is_excluded(0)).then_some(0);
        }
        self.pick_among(|index, share| now_ms >= share.failed_until_ms && !is_excluded(index))
            .or_else(|| self.pick_among(|index, _| !is_excluded(index)))
    }

    /// Passes over the origin until `fail_timeout` from now.
    pub(crate) fn mark_failed(&mut self, index: usize, now_ms: u64, fail_timeout: Duration) {
        let pause_ms = u64::try_from(fail_timeout.as_millis()).unwrap_or(u64::MAX);
        self.shares[index].failed_until_ms = now_ms.saturating_add(pause_ms);
    }

    /// The origin answered, so a mark has served its purpose.
    pub(crate) fn mark_ok(&mut self, index: usize) {
        self.shares[index].failed_until_ms = 0;
    }

    fn pick_among(&mut self, is_candidate: impl Fn(usize, &Share) -> bool) -> Option<usize> {
        let mut weight_sum = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, share) in self.shares.iter_mut().enumerate() {
            if !is_candidate(index, share) {
                continue;
            }
            share.credit += share.weight;
            weight_sum += share.weight;
            if best.is_none_or(|(_, credit)| share.credit > credit) {
                best = Some((index, share.credit));
            }
        }
        let (index, _) = best?;
        self.shares[index].credit -= weight_sum;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn picks(balance: &mut Balance, now_ms: u64, count: usize) -> Vec<usize> {
        (0..count).map(|_| balance.pick(now_ms, |_| false).unwrap()).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(picks(&mut Balance::new(&[1, 1, 1]), 0, 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn weights_are_kept_and_spread() {
        assert_eq!(picks(&mut Balance::new(&[5, 1, 1]), 0, 7), [0, 0, 1, 0, 2, 0, 0]);
        let mut balance = Balance::new(&[3, 7, 90]);
        let mut counts = [0; 3];
        for index in picks(&mut balance, 0, 1000) {
            counts[index] += 1;
        }
        assert_eq!(counts, [30, 70, 900]);
    }

    #[test]
    fn workers_can_start_at_different_turns() {
        let first = |turns| Balance::new(&[1, 1, 1]).started_at(turns).pick(0, |_| false);
        assert_eq!([first(0), first(1), first(2), first(3)], [Some(0), Some(1), Some(2), Some(0)]);
        assert_eq!(first(usize::MAX), Some(usize::MAX % 3));
    }

    #[test]
    fn a_failed_origin_is_passed_over_until_its_time() {
        let mut balance = Balance::new(&[1, 1, 1]);
        balance.mark_failed(1, 1_000, PAUSE);
        assert!(!picks(&mut balance, 10_999, 20).contains(&1));
        assert!(picks(&mut balance, 11_000, 3).contains(&1));
    }

    #[test]
    fn an_origin_that_answers_loses_its_mark() {
        let mut balance = Balance::new(&[1, 1]);
        balance.mark_failed(0, 0, PAUSE);
        balance.mark_ok(0);
        assert!(picks(&mut balance, 1, 2).contains(&0));
    }

    #[test]
    fn a_fail_timeout_of_zero_never_passes_over() {
        let mut balance = Balance::new(&[1, 1]);
        balance.mark_failed(0, 5, Duration::ZERO);
        assert!(picks(&mut balance, 5, 2).contains(&0));
    }

    #[test]
    fn when_all_are_marked_one_is_still_picked() {
        let mut balance = Balance::new(&[1, 1]);
        balance.mark_failed(0, 0, PAUSE);
        balance.mark_failed(1, 0, PAUSE);
        let mut seen = picks(&mut balance, 1, 2);
        seen.sort_unstable();
        assert_eq!(seen, [0, 1]);
        assert_eq!(balance.pick(1, |index| index == 0), Some(1));
    }

    #[test]
    fn the_excluded_are_never_picked() {
        let mut balance = Balance::new(&[1, 100, 1]);
        for _ in 0..10 {
            assert_ne!(balance.pick(0, |index| index == 1), Some(1));
        }
        assert_eq!(balance.pick(0, |_| true), None);
        assert_eq!(Balance::new(&[1]).pick(0, |_| true), None);
        assert_eq!(Balance::new(&[]).pick(0, |_| false), None);
    }

    #[test]
    fn a_single_origin_is_picked_even_when_marked() {
        let mut balance = Balance::new(&[1]);
        balance.mark_failed(0, 0, PAUSE);
        assert_eq!(balance.pick(1, |_| false), Some(0));
    }

    #[test]
    fn credit_stays_bounded_while_candidates_come_and_go() {
        let mut balance = Balance::new(&[1000, 1, 500]);
        for turn in 0..100_000_usize {
            balance.pick(0, |index| index == turn % 4);
        }
        assert!(balance.shares.iter().all(|share| share.credit.abs() < 10_000));
    }
}
