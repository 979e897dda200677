//! Tells another server about alerts.
//!
//! In go notices; out goes one POST with a JSON body each, in their order, from a thread of its
//! own. What cannot be queued, or fails twice, is counted and given up: a slow receiver costs no
//! caller anything. The URL may hold a secret and is never logged.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::alerts::Notice;
use super::messages;
use crate::config::{AlertsConfig, WebhookFormat};
use crate::tls::connector::system_certificates;
use crate::tls::provider::provider;

/// Alerts change every few seconds at most: this is minutes of a receiver that stands still.
const QUEUED_MAX: usize = 64;

/// For one attempt, from looking up the name to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Between the first attempt and the second.
const PAUSE: Duration = Duration::from_secs(1);

/// The receiver's end of the alerts. Dropping it ends the thread, once the queue is empty.
#[derive(Debug)]
pub(super) struct Webhook {
    queue: SyncSender<Notice>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl Webhook {
    /// `None` where the configuration has none.
    pub(super) fn of(config: &AlertsConfig) -> io::Result<Option<Self>> {
        let start = |url: &String| Self::start(url.clone(), config.webhook_format, PAUSE);
        config.webhook.as_ref().map(start).transpose()
    }

    fn start(url: String, format: WebhookFormat, pause: Duration) -> io::Result<Self> {
        let (queue, notices) = sync_channel(QUEUED_MAX);
        let counts = Arc::<Counts>::default();
        let counted = counts.clone();
        thread::Builder::new()
            .name("webhook".to_owned())
            .spawn(move || deliver(&url, format, pause, &notices, &counted))?;
        Ok(Self { queue, counts })
    }

    /// Never waits.
    pub(super) fn send(&self, notice: &Notice) {
        if self.queue.try_send(notice.clone()).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(alert = notice.alert, "the webhook's queue is full: not sent");
        }
    }

    pub(super) fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

fn deliver(
    url: &str,
    format: WebhookFormat,
    pause: Duration,
    notices: &Receiver<Notice>,
    counts: &Counts,
) {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let agent = agent();
    for notice in notices {
        let body = messages::body(format, host.trim_end(), &notice);
        let sent = post(&agent, url, &body).or_else(|_| {
            thread::sleep(pause);
            post(&agent, url, &body)
        });
        match sent {
            Ok(()) => counts.sent.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                // Some errors quote the URL.
                let error = error.to_string().replace(url, "the URL");
                tracing::warn!(alert = notice.alert, error, "the webhook got no message");
                counts.dropped.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// What sends messages: to the one that was configured and to nobody else.
pub(super) fn agent() -> Agent {
    Agent::new_with_config(
        Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .max_idle_connections(0)
            .tls_config(trust())
            .build(),
    )
}

/// Whom it believes: as origins, those whom this system names, or else Mozilla's authorities.
fn trust() -> TlsConfig {
    let roots = match system_certificates() {
        Ok(known) if known.is_empty() => RootCerts::WebPki,
        Ok(known) => {
            let known = known.iter().map(|it| Certificate::from_der(it).to_owned());
            RootCerts::new_with_certs(&known.collect::<Vec<_>>())
        }
        Err(error) => {
            tracing::warn!(error, "receivers with https:// are not believed");
            RootCerts::new_with_certs(&[])
        }
    };
    TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider()).build()
}

fn post(agent: &Agent, url: &str, body: &[u8]) -> Result<(), ureq::Error> {
    let request = agent.post(url).header("Content-Type", "application/json");
    let answer = request.send(body)?;
    match answer.status().as_u16() {
        200..300 => Ok(()),
        status => Err(ureq::Error::StatusCode(status)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};
    use std::time::Instant;

    use super::*;

    fn notice(alert: &'static str) -> Notice {
        let (upstream, state) = (String::new(), "begun");
        let (ended, silent_until) = (None, None);
        Notice {
            alert,
            upstream,
            state,
            value: 0.5,
            threshold: 0.05,
            since: 1,
            ended,
            silent_until,
        }
    }

    /// Answers one request per status, one connection each, and returns the bodies.
    fn receiver(statuses: &'static [u16]) -> (String, thread::JoinHandle<Vec<serde_json::Value>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook?key=secret", listener.local_addr().unwrap());
        let bodies = thread::spawn(move || {
            let answer = |status: &u16| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                let body = loop {
                    let mut piece = [0; 4096];
                    let count = stream.read(&mut piece).unwrap();
                    assert!(count > 0, "a request that ends early");
                    request.extend_from_slice(&piece[..count]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    assert!(head.starts_with("POST /hook?key=secret HTTP/1.1\r\n"), "{head}");
                    if let Ok(body) = serde_json::from_str(body) {
                        break body;
                    }
                };
                let head =
                    format!("HTTP/1.1 {status} X\r\nLocation: /\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).unwrap();
                let _ = stream.shutdown(Shutdown::Both);
                body
            };
            statuses.iter().map(answer).collect()
        });
        (url, bodies)
    }

    fn wait_for(webhook: &Webhook, sent: u64, dropped: u64) {
        let began = Instant::now();
        while (webhook.sent(), webhook.dropped()) != (sent, dropped) {
            assert!(began.elapsed() < Duration::from_secs(20), "{webhook:?}");
            thread::park_timeout(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_message_says_what_has_happened() {
        let (url, bodies) = receiver(&[204]);
        let webhook = Webhook::start(url, WebhookFormat::Json, PAUSE).unwrap();
        webhook.send(&notice("error_rate"));
        wait_for(&webhook, 1, 0);
        assert_eq!(
            bodies.join().unwrap(),
            [serde_json::json!({
                "source": "ringway", "version": env!("CARGO_PKG_VERSION"), "alert": "error_rate",
                "state": "begun", "value": 0.5, "threshold": 0.05, "since": 1,
            })]
        );
    }

    #[test]
    fn a_failure_is_tried_once_more_and_then_counted() {
        let (url, bodies) = receiver(&[500, 200, 302, 503]);
        let webhook = Webhook::start(url, WebhookFormat::Json, Duration::ZERO).unwrap();
        webhook.send(&notice("first"));
        webhook.send(&notice("second"));
        wait_for(&webhook, 1, 1);
        let alerts: Vec<_> =
            bodies.join().unwrap().into_iter().map(|body| body["alert"].clone()).collect();
        assert_eq!(alerts, ["first", "first", "second", "second"]);
    }

    #[test]
    fn a_receiver_that_stands_still_costs_messages_and_no_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let webhook = Webhook::start(url, WebhookFormat::Json, PAUSE).unwrap();
        for _ in 0..QUEUED_MAX + 100 {
            webhook.send(&notice("error_rate"));
        }
        // One may be in the thread's hands.
        assert!(webhook.dropped() >= 99, "{webhook:?}");
    }
}
