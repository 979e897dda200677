//! HTTP/2 towards clients, as frames on the wire.
//!
//! In go frames of a scripted client, good and bad, and scripted origins of HTTP/1.1; out come the
//! frames that the client received. What both versions have in common is in `tests/over_http2`.

mod attacks;
mod bodies;
mod leaving;
mod messages;
mod rfc9113;
mod secured;
mod tunnels;
mod turns;
mod views;

use crate::support::Proxy;

/// The value of a sample of `/metrics`, with its labels.
#[track_caller]
fn figure(proxy: &Proxy, series: &str) -> u64 {
    let text = proxy.admin("GET", "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("no {series} in {text}"));
    value.parse::<f64>().expect("a number") as u64
}

/// What the ledger holds for streams.
#[track_caller]
fn stream_bytes(proxy: &Proxy) -> u64 {
    let health = proxy.admin("GET", "/health");
    let health: serde_json::Value = serde_json::from_str(&health).expect("JSON");
    health["memory"]["by_kind"]["streams"].as_u64().expect("a number")
}
