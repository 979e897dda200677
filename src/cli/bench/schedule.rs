//! When requests are due in an open loop.
//!
//! In come a rate and the time that has passed; out comes the moment for which the next request
//! was intended, once it is due. The schedule goes on whether or not anybody keeps up with it: what
//! is late is still counted from its own moment, so that a stall shows in every request that it
//! held up (no coordinated omission). A backlog is the difference of two numbers, however long.

/// The requests of one thread among several that share a rate.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    /// Requests per second of all threads together: at least 1.
    rate: u64,
    threads: u64,
    thread: u64,
    /// Requests of this thread that were taken.
    taken: u64,
    /// Requests of this thread altogether.
    limit: u64,
}

const SECOND_NS: u128 = 1_000_000_000;

impl Schedule {
    /// Threads count from 0 and take turns, so that together they are evenly spaced.
    pub(super) fn new(rate: u64, threads: u64, thread: u64, limit: u64) -> Self {
        Self { rate: rate.max(1), threads: threads.max(1), thread, taken: 0, limit }
    }

    /// When request `index` of this thread is due, in nanoseconds after the start.
    fn due_ns(&self, index: u64) -> u64 {
        let position = u128::from(index) * u128::from(self.threads) + u128::from(self.thread);
        u64::try_from(position * SECOND_NS / u128::from(self.rate)).unwrap_or(u64::MAX)
    }

    /// When the next request is due; `None` after the last.
    pub(super) fn next_ns(&self) -> Option<u64> {
        (self.taken < self.limit).then(|| self.due_ns(self.taken))
    }

    /// Takes the next request if it is due, and says for when it was intended.
    #[inline]
    pub(super) fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.next_ns().filter(|due| *due <= now_ns)?;
        self.taken += 1;
        Some(due)
    }

    /// Requests that are due and were not taken.
    pub(super) fn backlog(&self, now_ns: u64) -> u64 {
        let second = u128::from(now_ns) * u128::from(self.rate) / SECOND_NS;
        // The first guess is off by one at most, because moments are rounded down.
        let mut due = u64::try_from(second / u128::from(self.threads)).unwrap_or(u64::MAX);
        while self.due_ns(due) <= now_ns {
            due += 1;
        }
        while due > 0 && self.due_ns(due - 1) > now_ns {
            due -= 1;
        }
        due.min(self.limit).saturating_sub(self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_their_rate_and_not_before() {
        let mut schedule = Schedule::new(1000, 1, 0, u64::MAX);
        assert_eq!(schedule.take(0), Some(0));
        assert_eq!(schedule.take(999_999), None);
        assert_eq!(schedule.take(1_000_000), Some(1_000_000));
        assert_eq!(schedule.take(1_500_000), None);
        assert_eq!(schedule.next_ns(), Some(2_000_000));
    }

    #[test]
    fn who_is_late_still_gets_the_moments_that_were_intended() {
        let mut schedule = Schedule::new(1000, 1, 0, u64::MAX);
        let stall = 5_000_000;
        assert_eq!(schedule.backlog(stall), 6);
        let intended: Vec<u64> = std::iter::from_fn(|| schedule.take(stall)).collect();
        assert_eq!(intended, [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]);
        assert_eq!(schedule.backlog(stall), 0);
    }

    #[test]
    fn threads_share_the_rate_evenly() {
        for rate in [1, 7, 300, 1_000_000] {
            let mut moments = Vec::new();
            for thread in 0..3 {
                let mut schedule = Schedule::new(rate, 3, thread, u64::MAX);
                moments.extend(std::iter::from_fn(|| schedule.take(2_000_000_000)));
            }
            moments.sort_unstable();
            let mut single = Schedule::new(rate, 1, 0, u64::MAX);
            let expected: Vec<u64> = std::iter::from_fn(|| single.take(2_000_000_000)).collect();
            assert_eq!(moments, expected, "{rate}/s");
            assert_eq!(moments.len() as u64, 2 * rate + 1);
        }
    }

    #[test]
    fn a_backlog_is_what_could_be_taken() {
        for rate in [1, 3, 999, 123_457] {
            for now in [0, 1, 333_333_333, 333_333_334, 1_000_000_000, 7_654_321_987] {
                let mut schedule = Schedule::new(rate, 2, 1, 5_000);
                let backlog = schedule.backlog(now);
                let taken = std::iter::from_fn(|| schedule.take(now)).count() as u64;
                assert_eq!(backlog, taken, "{rate}/s after {now} ns");
            }
        }
    }

    #[test]
    fn a_limit_ends_the_schedule() {
        let mut schedule = Schedule::new(1000, 1, 0, 2);
        assert_eq!(schedule.backlog(u64::MAX / 2), 2);
        assert!(schedule.take(u64::MAX).is_some() && schedule.take(u64::MAX).is_some());
        assert_eq!((schedule.take(u64::MAX), schedule.next_ns()), (None, None));
    }
}
