//! The statistics as they are told: to the log, and to those who ask.
//!
//! In go windows; out come their figures with those of the moment, in a line now and then and as
//! JSON.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::named::Named;
use super::stats::{Answer, PoolReport, Report, Stats, Window};
use super::tally::Figures;
use crate::admin::proxy::Proxy;
use crate::admin::units::{lock, mebibytes};

impl PoolReport {
    pub(super) fn of(proxy: &Proxy) -> Self {
        let pool = &proxy.shared.pool;
        let limits = pool.limits();
        Self {
            open: pool.open(),
            idle: pool.idle(),
            max: limits.each,
            waiting: pool.waiting(),
            long: pool.long(),
            ceiling: limits.ceiling,
        }
    }
}

fn report(proxy: &Proxy, window: Window) -> Report {
    let memory = mebibytes(proxy.usage().rss_bytes);
    Report { window, memory, pool: PoolReport::of(proxy) }
}

/// Ends a window every `stats.interval`, and says what was in it.
pub(super) async fn run(proxy: Arc<Proxy>) {
    let mut began = Instant::now();
    loop {
        let settings = proxy.snapshot().config.stats.clone();
        // Looked at every second, because the next configuration may want another interval.
        tokio::time::sleep(settings.interval.saturating_sub(began.elapsed()).min(LOOK)).await;
        if settings.interval.is_zero() {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        if began.elapsed() < settings.interval {
            continue;
        }
        began = Instant::now();
        let report = Stats::turn(&proxy);
        if settings.log {
            log(&report);
        }
    }
}

fn log(report: &Report) {
    let Report { window, memory, pool } = report;
    let arms = arms(&window.by_name.arms);
    tracing::info!(
        avgLatency = window.avg_latency,
        requestsPerSecond = window.requests_per_second,
        errorRate = window.error_rate,
        p50 = window.p50,
        p95 = window.p95,
        p99 = window.p99,
        memory,
        cpu = window.cpu,
        pool = pool.open,
        pool_idle = pool.idle,
        pool_reuse = window.pool_reuse,
        requests = window.requests,
        seconds = window.seconds,
        arms,
        "stats"
    );
}

/// The arms of splits in a few words each: rate, share of errors, p95.
fn arms(arms: &[Named]) -> Option<String> {
    let words = |arm: &Named| {
        let Figures { requests_per_second, error_rate, p95, .. } = &arm.figures;
        let (route, upstream) = (arm.route.as_deref()?, arm.upstream.as_deref()?);
        Some(format!("{route} {upstream}: {requests_per_second}/s {error_rate} {p95} ms"))
    };
    let listed: Vec<String> = arms.iter().take(ARMS_MAX).filter_map(words).collect();
    (!listed.is_empty()).then(|| listed.join(", "))
}

/// A line is read by people.
const ARMS_MAX: usize = 20;

impl Stats {
    pub(super) fn answer(proxy: &Proxy) -> Answer {
        let now = proxy.named_totals();
        let stats = lock(&proxy.stats);
        Answer {
            interval_seconds: proxy.snapshot().config.stats.interval.as_secs_f64(),
            last: stats.last.clone(),
            current: report(proxy, Window::between(&stats.began, &now)),
        }
    }

    /// Ends the window and begins the next one.
    fn turn(proxy: &Proxy) -> Report {
        let now = proxy.named_totals();
        let mut stats = lock(&proxy.stats);
        let report = report(proxy, Window::between(&stats.began, &now));
        *stats = Self { began: now, last: Some(report.clone()) };
        report
    }
}

/// How often the configuration is looked at.
const LOOK: Duration = Duration::from_secs(1);
