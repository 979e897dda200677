//! `[tracing]`: traces that requests carry on, and who is sent spans and metrics.
//!
//! In: TOML, JSON and texts, by way of serde. Out: whose traces are believed, which are sampled,
//! and where a receiver is. Nothing is sent here.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;
use super::hooks::IdTrust;
use super::kinds::plain::{Count, Share, UpToAnHour, Word};
use super::kinds::{As, Switched, text_kind};
use super::names::is_webhook;
use super::scope::Authorization;

text_kind!(
    Receiver = |text: &str| is_webhook(text) && !text.contains('?'),
    "an http:// or https:// URL such as \"http://127.0.0.1:4318\""
);
text_kind!(
    ServiceName =
        |text: &str| { (1..=255).contains(&text.len()) && !text.chars().any(char::is_control) },
    "a name of 1 to 255 bytes"
);

/// Traces (W3C Trace Context), and spans and metrics for an OpenTelemetry receiver (OTLP over
/// HTTP). Off, fields such as traceparent are the client's and pass as they are.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TracingConfig {
    /// Whether each request belongs to a trace, which origins are told of in traceparent, and which
    /// the access log can name (trace_id, span_id).
    pub enabled: bool,
    /// Whose traceparent and tracestate are believed, and with them whether a trace is sampled:
    /// "nobody", "trusted", who is one of `server.trusted_proxies`, or "everybody". A request of
    /// anybody else begins a trace of its own.
    #[serde(with = "Word::<IdTrust>")]
    pub trust: IdTrust,
    /// How many of the traces that begin here are sampled: 0 to 1, where 0.01 is one in a hundred.
    #[serde(with = "As::<Share>")]
    pub sample: f64,
    /// The URL of a receiver of OTLP, below which are /v1/traces and /v1/metrics, such as
    /// "http://127.0.0.1:4318". "" is none.
    #[serde(with = "Switched::<Receiver>")]
    #[schemars(extend("x-reload" = "restart"))]
    pub endpoint: Option<String>,
    /// The value of Authorization that the receiver is sent, such as "Bearer ...". "" is none.
    #[serde(with = "Switched::<Authorization>")]
    #[schemars(extend("x-reload" = "restart", "x-secret" = true))]
    pub authorization: Option<Secret>,
    /// What ringway is called there (service.name).
    #[serde(with = "As::<ServiceName>")]
    #[schemars(extend("x-reload" = "restart"))]
    pub service_name: String,
    /// Exchanges whose spans may wait for a slow receiver; those of further ones are dropped and
    /// counted. 1 to 100000.
    #[serde(with = "Count::<usize, 1, 100_000>")]
    #[schemars(extend("x-reload" = "restart"))]
    pub queue: usize,
    /// How often the receiver is sent the metrics of /metrics. 0s to 1h; 0 is never.
    #[serde(with = "UpToAnHour")]
    #[schemars(extend("x-reload" = "restart"))]
    pub metrics_interval: Duration,
}

/// The share is a number from 0 to 1, which equals itself.
impl Eq for TracingConfig {}

impl Default for TracingConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            trust: IdTrust::Trusted,
            sample: 1.0,
            endpoint: None,
            authorization: None,
            service_name: "ringway".to_owned(),
            queue: 2048,
            metrics_interval: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{all_refused, parse};

    #[test]
    fn a_receiver_and_a_share_are_read_and_checked() {
        let text = "[tracing]\nenabled = true\nsample = 0.25\nendpoint = \"https://a.test/otlp\"\n\
                    authorization = \"Bearer x\"";
        let config = parse(text).unwrap().tracing;
        assert_eq!(config.endpoint.as_deref(), Some("https://a.test/otlp"));
        assert!((config.sample - 0.25).abs() < f64::EPSILON);
        all_refused(&[
            ("[tracing]\nsample = 1.5", "2:10: tracing.sample: found 1.5, expected"),
            ("[tracing]\nendpoint = \"a:1\"", "2:12: tracing.endpoint: found \"a:1\", expected an"),
            ("[tracing]\nauthorization = \"a\\nb\"", "2:17: tracing.authorization: found ***, exp"),
            (
                "[tracing]\ntrust = \"all\"",
                "2:9: tracing.trust: found \"all\", expected \"nobody\"",
            ),
        ]);
    }
}
