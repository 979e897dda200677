//! Windows: what happened between two readings of the workers' totals.
//!
//! In go totals at two moments; out come rates, shares and quantiles of the time between them, as
//! one log line per `stats.interval` and as `GET /stats`. A window ends and the next one begins;
//! the totals go on for ever. An empty window is all zeros.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::named::{ByName, Named, Of};
use super::process;
use super::tally::{merged, sum_of};
use crate::admin::units::{ratio, rounded};
use crate::observe::metrics::{self, CLASS_COUNT, WorkerMetrics};
use crate::observe::traffic::NamedCounts;
use crate::worker::shared::Shared;

/// What all workers together have counted up to one moment.
#[derive(Clone, Debug)]
pub(super) struct Totals {
    at: Instant,
    cpu: Duration,
    classes: [u64; CLASS_COUNT],
    latency: Histogram<u64>,
    latency_sum_us: u64,
    pool_wait: Histogram<u64>,
    pool_reused: u64,
    pool_opened: u64,
    /// By index in the configuration with this number.
    generation: u64,
    upstreams: Vec<[u64; CLASS_COUNT]>,
    by_name: ByName,
}

impl Totals {
    /// Without what is counted by name.
    pub(super) fn read(shared: &Shared, at: Instant, cpu: Duration) -> Self {
        let snapshot = shared.snapshot.load();
        Self::of(&shared.metrics, (snapshot.id, &snapshot.counts), at, cpu)
    }

    pub(super) fn read_named(shared: &Shared, at: Instant, cpu: Duration) -> Self {
        let by_name = ByName::read(&shared.snapshot.load());
        Self { by_name, ..Self::read(shared, at, cpu) }
    }

    /// What has come between two readings with names.
    pub(super) fn by_name(earlier: &Self, later: &Self) -> ByName {
        later.by_name.since(&earlier.by_name)
    }

    fn of(
        workers: &[Arc<WorkerMetrics>],
        (generation, named): (u64, &[Arc<NamedCounts>]),
        at: Instant,
        cpu: Duration,
    ) -> Self {
        let upstreams = named.first().map_or(0, |worker| worker.upstreams.len());
        Self {
            at,
            cpu,
            classes: sum_of(workers.iter().map(|worker| &worker.requests)),
            latency: merged(workers.iter().map(|worker| &worker.latency)),
            latency_sum_us: workers.iter().map(|worker| worker.latency.sum_us()).sum(),
            pool_wait: merged(workers.iter().map(|worker| &worker.pool_wait)),
            pool_reused: workers.iter().map(|worker| worker.pool_reused.get()).sum(),
            pool_opened: workers.iter().map(|worker| worker.pool_opened.get()).sum(),
            upstreams: (0..upstreams)
                .map(|index| {
                    let workers = named.iter().filter_map(|worker| worker.upstreams.get(index));
                    sum_of(workers.map(|traffic| &traffic.classes))
                })
                .collect(),
            generation,
            by_name: ByName::default(),
        }
    }
}

/// What happened between two readings. The first three names are older than ringway.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Window {
    /// How long it really was.
    pub(super) seconds: f64,
    /// Exchanges that were answered.
    pub(super) requests: u64,
    /// In milliseconds, as are the quantiles.
    #[serde(rename = "avgLatency")]
    pub(super) avg_latency: f64,
    #[serde(rename = "requestsPerSecond")]
    pub(super) requests_per_second: f64,
    /// The share of 5xx among the answers.
    #[serde(rename = "errorRate")]
    pub(super) error_rate: f64,
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    /// The p95 of the waits for a free connection to an origin.
    pub(super) pool_wait_p95: f64,
    /// The share of exchanges that found an open connection to an origin.
    pub(super) pool_reuse: f64,
    /// Percent of one core.
    pub(super) cpu: f64,
    #[serde(flatten)]
    pub(super) by_name: WindowByName,
    /// By upstream: whether an answer below 500 came from it.
    #[serde(skip)]
    pub(super) has_answered: Vec<bool>,
}

/// The same by name, for those that were asked in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct WindowByName {
    routes: Vec<Named>,
    upstreams: Vec<Named>,
    origins: Vec<Named>,
    /// Arms of splits.
    pub(super) arms: Vec<Named>,
}

impl WindowByName {
    fn between(earlier: &Totals, later: &Totals, seconds: f64) -> Self {
        let all = Totals::by_name(earlier, later);
        Self {
            routes: all.figures(Of::Route, seconds),
            upstreams: all.figures(Of::Upstream, seconds),
            origins: all.figures(Of::Origin, seconds),
            arms: all.figures(Of::Arm, seconds),
        }
    }
}

impl Window {
    pub(super) fn between(earlier: &Totals, later: &Totals) -> Self {
        let seconds = later.at.saturating_duration_since(earlier.at).as_secs_f64();
        let answers = difference(&earlier.classes, &later.classes);
        let requests: u64 = answers[1..].iter().sum();
        let latency = since(&earlier.latency, &later.latency);
        let pool_wait = since(&earlier.pool_wait, &later.pool_wait);
        let latency_us = later.latency_sum_us.saturating_sub(earlier.latency_sum_us);
        let cpu = later.cpu.saturating_sub(earlier.cpu).as_secs_f64();
        let reused = later.pool_reused.saturating_sub(earlier.pool_reused);
        let opened = later.pool_opened.saturating_sub(earlier.pool_opened);
        // Numbers of another configuration mean something else.
        let is_same = earlier.generation == later.generation;
        let upstreams = earlier.upstreams.iter().zip(&later.upstreams).filter(|_| is_same);
        Self {
            seconds: rounded(seconds),
            requests,
            avg_latency: rounded(ratio(latency_us as f64 / 1_000.0, latency.len() as f64)),
            requests_per_second: rounded(ratio(requests as f64, seconds)),
            error_rate: rounded(ratio(answers[5] as f64, requests as f64)),
            p50: quantile_ms(&latency, 0.50),
            p95: quantile_ms(&latency, 0.95),
            p99: quantile_ms(&latency, 0.99),
            pool_wait_p95: quantile_ms(&pool_wait, 0.95),
            pool_reuse: rounded(ratio(reused as f64, (reused + opened) as f64)),
            cpu: rounded(ratio(cpu * 100.0, seconds)),
            by_name: WindowByName::between(earlier, later, seconds),
            has_answered: upstreams
                .map(|(earlier, later)| difference(earlier, later)[1..5].iter().any(|n| *n > 0))
                .collect(),
        }
    }
}

fn difference(earlier: &[u64; CLASS_COUNT], later: &[u64; CLASS_COUNT]) -> [u64; CLASS_COUNT] {
    std::array::from_fn(|index| later[index].saturating_sub(earlier[index]))
}

fn since(earlier: &Histogram<u64>, later: &Histogram<u64>) -> Histogram<u64> {
    let mut window = later.clone();
    // Fails only where a count has shrunk, and none ever does.
    match window.subtract(earlier) {
        Ok(()) => window,
        Err(_) => metrics::empty_histogram(),
    }
}

fn quantile_ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    rounded(histogram.value_at_quantile(quantile) as f64 / 1_000.0)
}

/// The running window and the last one that has ended.
pub(super) struct Stats {
    pub(super) began: Totals,
    pub(super) last: Option<Report>,
}

impl Stats {
    pub(super) fn new(shared: &Shared) -> Mutex<Self> {
        let began = Totals::read_named(shared, Instant::now(), process::cpu());
        Mutex::new(Self { began, last: None })
    }
}

/// A window with what was the case at its end.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) window: Window,
    /// MiB.
    pub(super) memory: f64,
    pub(super) pool: PoolReport,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct PoolReport {
    pub(super) open: usize,
    pub(super) idle: usize,
    pub(super) max: usize,
    pub(super) waiting: usize,
    /// Those that carry long answers, and what there may be in all.
    pub(super) long: usize,
    pub(super) ceiling: usize,
}

/// The answer to `GET /stats`.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// 0 where windows do not end.
    pub(super) interval_seconds: f64,
    /// The last window that has ended.
    pub(super) last: Option<Report>,
    /// The one that is running.
    pub(super) current: Report,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::traffic::Ended;

    /// Workers of straw, each with two upstreams.
    struct Workers {
        metrics: Vec<Arc<WorkerMetrics>>,
        named: Vec<Arc<NamedCounts>>,
    }

    impl Workers {
        fn totals(&self, at: Instant, cpu: Duration) -> Totals {
            Totals::of(&self.metrics, (1, &self.named), at, cpu)
        }

        fn answered(&self, worker: usize, upstream: Option<usize>, status: u16, us: u64) {
            self.metrics[worker].answered(status, us);
            self.named[worker].ended(None, upstream, Ended::new(status, us));
        }
    }

    fn workers(count: usize) -> Workers {
        let upstreams = || vec![Arc::default(), Arc::default()];
        let named = || NamedCounts { upstreams: upstreams(), ..NamedCounts::default() };
        Workers {
            metrics: (0..count).map(|_| Arc::default()).collect(),
            named: (0..count).map(|_| Arc::new(named())).collect(),
        }
    }

    fn after(began: Instant, seconds: u64) -> Instant {
        began + Duration::from_secs(seconds)
    }

    #[test]
    fn a_window_holds_what_happened_in_it_and_nothing_else() {
        let workers = workers(2);
        let began = Instant::now();
        workers.answered(0, Some(0), 200, 900_000);
        let first = workers.totals(began, Duration::from_secs(1));
        for _ in 0..30 {
            workers.answered(0, Some(0), 200, 1_000);
            workers.answered(1, Some(1), 502, 3_000);
        }
        workers.answered(1, None, 0, 5_000_000);
        workers.metrics[0].pool_reused.add(3);
        workers.metrics[1].pool_opened.add(1);
        workers.metrics[0].pool_wait.record(7_000);
        let second = workers.totals(after(began, 20), Duration::from_secs(6));
        let window = Window::between(&first, &second);
        assert_eq!(window.requests, 60);
        assert_eq!(window.requests_per_second, 3.0);
        assert_eq!(window.error_rate, 0.5);
        assert_eq!(window.avg_latency, 2.0);
        assert_eq!(window.pool_reuse, 0.75);
        assert_eq!(window.cpu, 25.0);
        assert_eq!(window.has_answered, [true, false]);
        for (found, expected) in
            [(window.p50, 1.0), (window.p95, 3.0), (window.p99, 3.0), (window.pool_wait_p95, 7.0)]
        {
            assert!((found - expected).abs() <= expected * 0.02, "{found} for {expected}");
        }
        // The totals were not touched.
        assert_eq!(workers.metrics[0].requests[2].get(), 31);
        let third = workers.totals(after(began, 40), Duration::from_secs(6));
        assert_eq!(Window::between(&second, &third).requests, 0);
        // What was counted by the names of one configuration says nothing about another one's.
        let other = Totals { generation: 2, ..second };
        assert!(Window::between(&first, &other).has_answered.is_empty());
    }

    #[test]
    fn an_empty_window_is_all_zeros() {
        let workers = workers(1);
        let began = Instant::now();
        let totals = workers.totals(began, Duration::ZERO);
        // No time at all passes, too.
        let window = Window::between(&totals, &totals);
        assert_eq!(window, Window { has_answered: vec![false; 2], ..Window::default() });
        let json = serde_json::to_string(&window).unwrap();
        assert!(!json.contains("null") && !json.contains("NaN"), "{json}");
        for name in ["\"avgLatency\":0.0", "\"requestsPerSecond\":0.0", "\"errorRate\":0.0"] {
            assert!(json.contains(name), "{json}");
        }
        let none = Totals::of(&[], (1, &[]), began, Duration::ZERO);
        assert_eq!(Window::between(&none, &none), Window::default());
    }

    #[test]
    fn a_rate_divides_by_the_time_that_has_really_passed() {
        let workers = workers(1);
        let began = Instant::now();
        let first = workers.totals(began, Duration::ZERO);
        for _ in 0..100 {
            workers.answered(0, None, 200, 1);
        }
        for (seconds, expected) in [(10, 10.0), (50, 2.0), (400, 0.25)] {
            let last = workers.totals(after(began, seconds), Duration::ZERO);
            assert_eq!(Window::between(&first, &last).requests_per_second, expected);
        }
    }
}
