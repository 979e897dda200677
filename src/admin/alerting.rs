//! Looks at the figures now and then, and says what has gone wrong and what has come right again.
//!
//! In go windows of the statistics; out come notices, in the log and to the webhook.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::alerts::{Figures, Notice};
use crate::admin::process::ProcessReading;
use crate::admin::proxy::Proxy;
use crate::admin::stats::Window;
use crate::admin::tls;
use crate::admin::units::{lock, mebibytes};
use crate::admin::upstreams;
use crate::admin::webhook::Webhook;
use crate::config::WebhookFormat;
use crate::observe::events;
use crate::upstream::Origin;

/// An Alertmanager takes an alert for over of which it has not heard for 5 minutes.
const AGAIN: Duration = Duration::from_secs(60);

/// Evaluates every `alerts.interval`.
pub(super) async fn run(proxy: Arc<Proxy>) {
    let mut before = proxy.totals();
    let mut generation = proxy.snapshot();
    let mut told = Instant::now();
    loop {
        tokio::time::sleep(generation.config.alerts.interval).await;
        let newest = proxy.snapshot();
        if newest.id != generation.id {
            lock(&proxy.alerts).follow(&newest.config);
            let (after, before) = (&newest.config.alerts, &generation.config.alerts);
            if (&after.webhook, after.webhook_format) != (&before.webhook, before.webhook_format) {
                match Webhook::of(after) {
                    Ok(webhook) => *lock(&proxy.webhook) = webhook,
                    Err(error) => tracing::error!("the webhook got no thread: {error}"),
                }
            }
            generation = newest;
        }
        let now = proxy.totals();
        let window = Window::between(&before, &now);
        before = now;
        let figures = figures(&proxy, &window);
        let notices = lock(&proxy.alerts).step(&figures, SystemTime::now());
        for notice in notices {
            announce(&proxy, &notice);
        }
        if generation.config.alerts.webhook_format == WebhookFormat::Alertmanager
            && told.elapsed() >= AGAIN
        {
            told = Instant::now();
            remind(&proxy);
        }
    }
}

fn figures(proxy: &Proxy, window: &Window) -> Figures {
    let snapshot = proxy.snapshot();
    let is_down = |index: usize| {
        let plan = &snapshot.upstreams[index];
        // Answers outweigh a failed attempt to open one more connection.
        let has_answered = window.has_answered.get(index).copied().unwrap_or(false);
        !has_answered && plan.origins.iter().all(Origin::is_down)
    };
    Figures {
        error_rate: window.error_rate,
        p95_seconds: window.p95 / 1_000.0,
        memory_mb: mebibytes(proxy.usage().rss_bytes),
        pool_wait_seconds: window.pool_wait_p95 / 1_000.0,
        is_certificate_due: {
            let now = SystemTime::now();
            snapshot.tls.as_ref().is_some_and(|tls| tls.is_due(now))
        },
        orders_failing: tls::orders_failing(proxy) as f64,
        discovery_failing: proxy.shared.discovery.troubles() as f64,
        open_files: ProcessReading::read().open_files_share(),
        is_down: (0..snapshot.upstreams.len()).map(is_down).collect(),
        out: snapshot.upstreams.iter().map(upstreams::count_ill).collect(),
    }
}

fn remind(proxy: &Proxy) {
    let active = lock(&proxy.alerts).active();
    if let Some(webhook) = &*lock(&proxy.webhook) {
        for notice in &active {
            webhook.send(notice);
        }
    }
}

fn announce(proxy: &Proxy, notice: &Notice) {
    let Notice { alert, upstream, state, value, threshold, .. } = notice;
    let about = if upstream.is_empty() { String::new() } else { format!(" {upstream}") };
    events::note(
        events::Kind::Alert,
        &format!("{alert}{about} {state}: {value} (threshold {threshold})"),
    );
    if *state == "begun" {
        tracing::warn!(alert, upstream, value, threshold, "alert begun");
    } else {
        tracing::info!(alert, upstream, value, threshold, "alert ended");
    }
    if let Some(webhook) = &*lock(&proxy.webhook) {
        webhook.send(notice);
    }
}
