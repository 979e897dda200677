//! When a request is worth a second attempt beside the first.
//!
//! In: how long answers of late took to begin, by upstream, and what the route allows. Out: how
//! long the first attempt is waited for alone, and whether there may be a second one: they are a
//! share of the requests, no more. Nothing here waits or knows a clock.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::savings::Savings;
use crate::config::{Hedge, RetryConfig};

/// What became of a second attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedged {
    /// Its answer was there first, or was the better one.
    Won,
    /// The first attempt was answered before it.
    Lost,
    /// It could not be made, or its answer was an error.
    Failed,
}

impl Hedged {
    pub(crate) const ALL: [Self; 3] = [Self::Won, Self::Lost, Self::Failed];

    pub(crate) fn name(self) -> &'static str {
        ["won", "lost", "failed"][self as usize]
    }
}

/// The second attempts of one route.
#[derive(Debug)]
pub struct Hedging {
    after: Hedge,
    budget: Savings,
    /// By the index of an upstream. Empty where the time is fixed.
    times: Box<[(usize, Times)]>,
}

/// A first attempt is never waited for alone for less: timers go by milliseconds.
const LEAST: Duration = Duration::from_millis(1);

impl Hedging {
    pub(super) fn new(config: &RetryConfig, upstreams: Vec<usize>) -> Self {
        let is_learnt = config.hedge == Hedge::P95;
        let times = upstreams.into_iter().filter(|_| is_learnt);
        Self {
            after: config.hedge,
            budget: Savings::new(config.hedge_percent),
            times: times.map(|upstream| (upstream, Times::default())).collect(),
        }
    }

    pub(super) fn earn(&self) {
        self.budget.earn();
    }

    /// How long an answer of this upstream is waited for before a second attempt; `None` where too
    /// little is known of it.
    pub fn patience(&self, upstream: usize) -> Option<Duration> {
        let after = match self.after {
            Hedge::Never => None,
            Hedge::After(time) => Some(time),
            Hedge::P95 => self.times(upstream)?.p95(),
        };
        after.map(|after| after.max(LEAST))
    }

    /// Whether the budget pays for a second attempt.
    pub fn may_begin(&self) -> bool {
        self.budget.spend()
    }

    /// An answer of this upstream has begun after that time, or had not begun then.
    pub fn learn(&self, upstream: usize, time: Duration) {
        if let Some(times) = self.times(upstream) {
            times.record(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
        }
    }

    fn times(&self, upstream: usize) -> Option<&Times> {
        self.times.iter().find(|(index, _)| *index == upstream).map(|(_, times)| times)
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.times)
    }
}

/// A histogram of recent times, which all threads share: older ones count less. Eight buckets to
/// each power of two, so that what comes out is an eighth too long at most.
#[derive(Debug)]
struct Times {
    buckets: [AtomicU32; BUCKETS],
    count: AtomicU32,
    /// In microseconds; 0 where too little is known.
    p95_us: AtomicU32,
}

const STEP_BITS: u32 = 3;
const STEPS: u32 = 1 << STEP_BITS;
const BUCKETS: usize = bucket_of(u32::MAX) + 1;

/// So many times say nothing yet of the slowest in twenty.
const KNOWN_MIN: u32 = 20;
/// The percentile is found anew after so many.
const LOOK_EVERY: u32 = 16;
/// When there are so many, each counts half.
const COUNT_MAX: u32 = 1024;

const _: () = assert!(size_of::<Times>() <= 2048);

/// The step within its power of two, behind all steps of the smaller powers.
const fn bucket_of(us: u32) -> usize {
    let shift = (us | STEPS).ilog2() - STEP_BITS;
    (shift * STEPS + (us >> shift)) as usize
}

/// The longest time that a bucket holds.
fn end_of(bucket: usize) -> u32 {
    let bucket = bucket as u32;
    let shift = (bucket / STEPS).saturating_sub(1);
    let step = bucket - shift * STEPS;
    let end = (u64::from(step) + 1) << shift;
    u32::try_from(end - 1).unwrap_or(u32::MAX)
}

impl Default for Times {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
            count: AtomicU32::new(0),
            p95_us: AtomicU32::new(0),
        }
    }
}

impl Times {
    fn record(&self, us: u32) {
        self.buckets[bucket_of(us)].fetch_add(1, Ordering::Relaxed);
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count >= COUNT_MAX {
            self.halve();
        }
        if count == KNOWN_MIN || count > KNOWN_MIN && count.is_multiple_of(LOOK_EVERY) {
            self.look();
        }
    }

    /// What others record meanwhile may be lost, which does no harm.
    fn halve(&self) {
        let mut sum = 0;
        for bucket in &self.buckets {
            let half = bucket.load(Ordering::Relaxed) / 2;
            bucket.store(half, Ordering::Relaxed);
            sum += half;
        }
        self.count.store(sum.max(KNOWN_MIN), Ordering::Relaxed);
    }

    fn look(&self) {
        let counts = self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        let all: u32 = counts.iter().sum();
        let mut slower = all;
        for (bucket, count) in counts.into_iter().enumerate() {
            slower -= count;
            if u64::from(slower) * 20 <= u64::from(all) {
                return self.p95_us.store(end_of(bucket).max(1), Ordering::Relaxed);
            }
        }
    }

    fn p95(&self) -> Option<Duration> {
        let us = self.p95_us.load(Ordering::Relaxed);
        (us > 0).then(|| Duration::from_micros(us.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_place_in_the_counts() {
        for (index, outcome) in Hedged::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index, "{}", outcome.name());
        }
    }

    #[test]
    fn every_time_has_a_bucket_that_is_an_eighth_wide_at_most() {
        let mut before = 0;
        for us in (0..5000).chain([1 << 20, 77_777_777, u32::MAX - 1, u32::MAX]) {
            let bucket = bucket_of(us);
            assert!(bucket < BUCKETS && end_of(bucket) >= us, "{us}");
            assert!(end_of(bucket) - us <= us / 8, "{us}: {}", end_of(bucket));
            assert!(bucket >= before, "{us}");
            before = bucket;
        }
    }

    fn learnt() -> Hedging {
        let config = RetryConfig { hedge: Hedge::P95, ..RetryConfig::default() };
        Hedging::new(&config, vec![3, 5])
    }

    #[test]
    fn the_slowest_in_twenty_of_late_are_found() {
        let hedging = learnt();
        for ms in 1..=100 {
            assert_eq!(hedging.patience(3).is_some(), ms > 20, "{ms}");
            hedging.learn(3, Duration::from_millis(10 + ms % 3));
        }
        let before = hedging.patience(3).unwrap();
        assert!((12..=14).contains(&before.as_millis()), "{before:?}");
        // One in ten is slow.
        for turn in 0..2000 {
            hedging.learn(3, Duration::from_millis(if turn % 10 == 0 { 500 } else { 10 }));
        }
        let slow = hedging.patience(3).unwrap();
        assert!((500..=570).contains(&slow.as_millis()), "{slow:?}");
        // And then none is.
        for _ in 0..4000 {
            hedging.learn(3, Duration::from_millis(10));
        }
        let fast = hedging.patience(3).unwrap();
        assert!((10..=12).contains(&fast.as_millis()), "{fast:?}");
        // Upstreams are known by themselves, and none is known by another.
        assert_eq!(hedging.patience(5), None);
        assert_eq!(hedging.patience(4), None);
    }

    #[test]
    fn second_attempts_are_a_share_of_the_requests() {
        let config = RetryConfig {
            hedge: Hedge::After(Duration::from_micros(1)),
            hedge_percent: 10,
            ..RetryConfig::default()
        };
        let hedging = Hedging::new(&config, vec![0]);
        assert_eq!(hedging.patience(0), Some(LEAST));
        let mut begun = 0;
        for _ in 0..1000 {
            hedging.earn();
            begun += u32::from(hedging.may_begin());
        }
        // 10 % of them, and what had been saved.
        assert_eq!(begun, 100 + 9);
    }
}
