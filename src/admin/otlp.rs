//! Tells an OpenTelemetry receiver of spans and metrics (OTLP over HTTP, in protobuf).
//!
//! In go parcels of the workers and of the control thread; out go requests, from a thread of its
//! own, as the webhook has one. A receiver that cannot take them costs spans, which are counted,
//! and nobody waits for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ureq::Agent;

use super::otlp_metrics;
use super::otlp_wire;
use super::prometheus;
use super::proxy::Proxy;
use super::webhook;
use crate::config::{Secret, TracingConfig};
use crate::observe::spans::{Parcel, Span, SpanCounts, SpanQueue};
use crate::worker::shared::Shared;

/// How long spans may gather before they are sent together, and how many.
const GATHER: Duration = Duration::from_secs(1);
const BATCH_MAX: usize = 1024;

/// Between the first attempt and the second.
const PAUSE: Duration = Duration::from_millis(500);

/// Between two notices about what was not sent.
const NOTICE_INTERVAL: Duration = Duration::from_secs(60);

/// The receiver, as the thread knows it.
struct Exporter {
    agent: Agent,
    endpoint: String,
    authorization: Option<Secret>,
    service: String,
    counts: Arc<SpanCounts>,
    /// Nanoseconds since 1970.
    began: u64,
    noticed: Option<Instant>,
}

/// Starts the thread where the configuration has a receiver.
pub(super) fn start(config: &TracingConfig, shared: &Shared) -> io::Result<()> {
    let Some(endpoint) = &config.endpoint else { return Ok(()) };
    let (queue, parcels) = SpanQueue::new(config.queue);
    let exporter = Exporter {
        agent: webhook::agent(),
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        authorization: config.authorization.clone(),
        service: config.service_name.clone(),
        counts: queue.counts.clone(),
        began: now(),
        noticed: None,
    };
    thread::Builder::new().name("otlp".to_owned()).spawn(move || exporter.run(&parcels))?;
    // There is one control thread in a process, and it is started once.
    let _ = shared.spans.set(queue);
    Ok(())
}

/// Sends the metrics now and then, for as long as the process lives.
pub(super) async fn send_metrics(proxy: Arc<Proxy>) {
    let interval = proxy.snapshot().config.tracing.metrics_interval;
    if interval.is_zero() {
        return;
    }
    while let Some(queue) = proxy.shared.spans.get() {
        tokio::time::sleep(interval).await;
        queue.send_metrics(prometheus::text(&proxy));
    }
}

impl Exporter {
    fn run(mut self, parcels: &Receiver<Parcel>) {
        let mut batch: Vec<Span> = Vec::new();
        let mut due = Instant::now();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            let patience = if batch.is_empty() { GATHER } else { left };
            match parcels.recv_timeout(patience) {
                Ok(Parcel::Spans(spans)) => {
                    if batch.is_empty() {
                        due = Instant::now() + GATHER;
                    }
                    batch.extend(spans);
                    if batch.len() < BATCH_MAX && Instant::now() < due {
                        continue;
                    }
                    self.send_spans(&mut batch);
                }
                Ok(Parcel::Metrics(text)) => self.send_metrics(&text),
                Ok(Parcel::Finish(waiting)) => {
                    self.send_spans(&mut batch);
                    drop(waiting);
                }
                Err(RecvTimeoutError::Timeout) => self.send_spans(&mut batch),
                Err(RecvTimeoutError::Disconnected) => return self.send_spans(&mut batch),
            }
        }
    }

    fn send_spans(&mut self, batch: &mut Vec<Span>) {
        if batch.is_empty() {
            return;
        }
        let body = otlp_wire::traces(&self.service, batch);
        match self.post("/v1/traces", &body) {
            Ok(()) => {
                self.counts.sent.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                self.counts.lost(batch.len());
                self.notice(&format!("{} spans", batch.len()), &error);
            }
        }
        batch.clear();
    }

    fn send_metrics(&mut self, text: &str) {
        let metrics = otlp_metrics::read(text);
        let body = otlp_wire::metrics(&self.service, &metrics, (self.began, now()));
        if let Err(error) = self.post("/v1/metrics", &body) {
            self.notice("the metrics", &error);
        }
    }

    /// Twice, where another attempt may help.
    fn post(&self, path: &str, body: &[u8]) -> Result<(), String> {
        let url = format!("{}{path}", self.endpoint);
        let sent = match self.try_post(&url, body) {
            Err(ureq::Error::StatusCode(status)) if !matches!(status, 429 | 502..=504) => {
                Err(ureq::Error::StatusCode(status))
            }
            Err(_) => {
                thread::sleep(PAUSE);
                self.try_post(&url, body)
            }
            Ok(()) => Ok(()),
        };
        sent.map_err(|error| error.to_string())
    }

    fn try_post(&self, url: &str, body: &[u8]) -> Result<(), ureq::Error> {
        let mut request = self.agent.post(url).header("Content-Type", "application/x-protobuf");
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization.reveal());
        }
        match request.send(body)?.status().as_u16() {
            200..300 => Ok(()),
            status => Err(ureq::Error::StatusCode(status)),
        }
    }

    /// Says what was lost, without becoming a flood itself.
    fn notice(&mut self, what: &str, error: &str) {
        if self.noticed.is_none_or(|last| last.elapsed() >= NOTICE_INTERVAL) {
            self.noticed = Some(Instant::now());
            let endpoint = &self.endpoint;
            tracing::warn!(endpoint, error, "the receiver of traces did not take {what}");
        }
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
