//! What exchanges of one name have come to, of all workers together.
//!
//! In go the workers' counters at two moments; out come rates, shares and quantiles of the time
//! between them. A quantile lies within a bucket, and is taken from a straight line through that,
//! as Prometheus does it. An empty tally is all zeros.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::admin::units::{ratio, rounded};
use crate::counters::Counter;
use crate::observe::metrics::{self, CLASS_COUNT, Classes, Latency};
use crate::observe::traffic::{BOUNDS, BUCKET_COUNT, Traffic};

/// Sums of several workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) classes: [u64; CLASS_COUNT],
    /// By index in [`BOUNDS`], and what is beyond.
    pub(super) buckets: [u64; BUCKET_COUNT],
    pub(super) sum_us: u64,
    pub(super) limited: u64,
    pub(super) opened: u64,
}

impl Tally {
    pub(super) fn of<'a>(workers: impl Iterator<Item = &'a Traffic>) -> Self {
        let mut sum = Self::default();
        for traffic in workers {
            add(&mut sum.classes, &traffic.classes);
            add(&mut sum.buckets, &traffic.buckets);
            sum.sum_us += traffic.sum_us.get();
            sum.limited += traffic.limited.get();
            sum.opened += traffic.opened.get();
        }
        sum
    }

    pub(super) fn add(&mut self, other: &Self) {
        let more = |sums: &mut [u64], counts: &[u64]| {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        };
        more(&mut self.classes, &other.classes);
        more(&mut self.buckets, &other.buckets);
        self.sum_us += other.sum_us;
        self.limited += other.limited;
        self.opened += other.opened;
    }

    /// What has come since `earlier`. Counters of an origin begin anew where it was gone meanwhile.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let less = |later: &[u64], earlier: &[u64], index: usize| {
            later[index].saturating_sub(earlier[index])
        };
        Self {
            classes: std::array::from_fn(|index| less(&self.classes, &earlier.classes, index)),
            buckets: std::array::from_fn(|index| less(&self.buckets, &earlier.buckets, index)),
            sum_us: self.sum_us.saturating_sub(earlier.sum_us),
            limited: self.limited.saturating_sub(earlier.limited),
            opened: self.opened.saturating_sub(earlier.opened),
        }
    }

    /// The share of exchanges that needed no new connection; `None` where there were none.
    pub(super) fn reuse(&self) -> Option<f64> {
        let all: u64 = self.classes.iter().sum();
        let opened = ratio(self.opened as f64, all as f64);
        (all > 0).then(|| rounded((1.0 - opened).max(0.0)))
    }

    /// Exchanges that were answered.
    pub(super) fn answered(&self) -> u64 {
        self.classes[1..].iter().sum()
    }

    /// Those with a length.
    pub(super) fn timed(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// In milliseconds.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        let rank = quantile * self.timed() as f64;
        let (mut below, mut low_us) = (0.0, 0.0);
        for (index, count) in self.buckets.iter().map(|count| *count as f64).enumerate() {
            let high_us = BOUNDS.get(index).map_or(low_us, |(bound, _)| *bound as f64);
            if count > 0.0 && below + count >= rank {
                let us = low_us + (high_us - low_us) * ((rank - below) / count).clamp(0.0, 1.0);
                return rounded(us / 1_000.0);
            }
            (below, low_us) = (below + count, high_us);
        }
        0.0
    }

    /// Over so many seconds.
    pub(super) fn figures(&self, seconds: f64) -> Figures {
        let requests = self.answered();
        let (all, timed) = (requests + self.classes[0], self.timed());
        Figures {
            requests,
            requests_per_second: rounded(ratio(requests as f64, seconds)),
            error_rate: rounded(ratio(self.classes[5] as f64, requests as f64)),
            unanswered: rounded(ratio(self.classes[0] as f64, all as f64)),
            avg_latency: rounded(ratio(self.sum_us as f64 / 1_000.0, timed as f64)),
            p50: self.quantile(0.50),
            p95: self.quantile(0.95),
            p99: self.quantile(0.99),
            classes: self.classes,
        }
    }
}

fn add(sums: &mut [u64], counters: &[Counter]) {
    for (sum, counter) in sums.iter_mut().zip(counters) {
        *sum += counter.get();
    }
}

pub(super) fn sum_of<'a>(all: impl Iterator<Item = &'a Classes>) -> [u64; CLASS_COUNT] {
    let mut sum = [0; CLASS_COUNT];
    all.for_each(|classes| add(&mut sum, classes));
    sum
}

/// All of them as one.
pub(super) fn merged<'a>(latencies: impl Iterator<Item = &'a Latency>) -> Histogram<u64> {
    latencies.fold(metrics::empty_histogram(), |sum, latency| sum + latency.snapshot())
}

/// A tally as people read it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    /// Those that were answered.
    pub(super) requests: u64,
    #[serde(rename = "requestsPerSecond")]
    pub(super) requests_per_second: f64,
    /// The share of 5xx among the answers.
    #[serde(rename = "errorRate")]
    pub(super) error_rate: f64,
    /// The share of exchanges that ended without an answer among all.
    pub(super) unanswered: f64,
    /// In milliseconds, as are the quantiles.
    #[serde(rename = "avgLatency")]
    pub(super) avg_latency: f64,
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    /// By the first digit of the status; 0 are those without an answer.
    pub(super) classes: [u64; CLASS_COUNT],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::traffic::Ended;

    fn tally(of: &[(u16, u64)]) -> Tally {
        let traffic = Traffic::default();
        for (status, us) in of {
            traffic.add(Ended::new(*status, *us));
        }
        Tally::of([&traffic].into_iter())
    }

    #[test]
    fn figures_are_those_of_the_time_between_two_tallies() {
        let traffic = Traffic::default();
        traffic.add(Ended::new(200, 40_000_000));
        let earlier = Tally::of([&traffic].into_iter());
        for _ in 0..90 {
            traffic.add(Ended::new(200, 2_000));
        }
        for _ in 0..10 {
            traffic.add(Ended::new(503, 20_000));
        }
        traffic.add(Ended::new(0, 5));
        let figures = Tally::of([&traffic].into_iter()).since(&earlier).figures(10.0);
        assert_eq!(figures.requests, 100);
        assert_eq!(figures.requests_per_second, 10.0);
        assert_eq!(figures.error_rate, 0.1);
        assert_eq!(figures.unanswered, 0.01);
        assert_eq!(figures.avg_latency, 3.8);
        assert_eq!(figures.classes, [1, 0, 90, 0, 0, 10]);
        assert!((1.0..=2.5).contains(&figures.p50), "{figures:?}");
        assert!((10.0..=25.0).contains(&figures.p95) && figures.p99 >= figures.p95, "{figures:?}");
    }

    #[test]
    fn a_quantile_lies_within_the_bucket_that_holds_it() {
        assert_eq!(Tally::default().quantile(0.99), 0.0);
        assert_eq!(Tally::default().figures(0.0), Figures::default());
        for us in [1, 99, 100, 101, 999, 4_000, 59_000_000] {
            let found = tally(&[(200, us)]).quantile(0.5) * 1_000.0;
            let high = BOUNDS.iter().position(|(bound, _)| us <= *bound).unwrap();
            let low = if high == 0 { 0 } else { BOUNDS[high - 1].0 };
            assert!(found >= low as f64 && found <= BOUNDS[high].0 as f64, "{us}: {found}");
        }
        // Beyond the last bound nothing more is known.
        assert_eq!(tally(&[(200, u64::MAX / 2)]).quantile(0.5), 60_000.0);
    }
}
