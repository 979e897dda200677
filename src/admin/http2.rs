//! What is counted of HTTP/2 towards clients, for `/metrics` and `/health`.
//!
//! In go counts of the workers; out come samples, and the same as JSON. Labels are from a fixed
//! list, never from the network.

use std::collections::BTreeMap;

use serde::Serialize;

use super::exposition::Exposition;
use super::proxy::Proxy;
use super::series::{sum, total};
use crate::http2::error::GuardReason;

/// HTTP/2 as `/health` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Connections open now, and requests under way on them.
    connections: u64,
    streams: u64,
    /// Since the start.
    connections_opened: u64,
    streams_refused: u64,
    streams_reset: u64,
    stream_errors: u64,
    connection_errors: u64,
    /// Connections that a guard has ended, by which; those that never had to are left out.
    guards: BTreeMap<&'static str, u64>,
}

pub(super) fn report(proxy: &Proxy) -> Report {
    let guards = GuardReason::ALL.into_iter().map(|reason| (reason.as_str(), held(proxy, reason)));
    Report {
        connections: total(proxy, |metrics| metrics.http2_connections.get()),
        streams: total(proxy, |metrics| metrics.http2_streams.get()),
        connections_opened: total(proxy, |metrics| metrics.http2_opened.get()),
        streams_refused: total(proxy, |metrics| metrics.http2_refused.get()),
        streams_reset: total(proxy, |metrics| metrics.http2_resets.get()),
        stream_errors: total(proxy, |metrics| metrics.http2_stream_errors.get()),
        connection_errors: total(proxy, |metrics| metrics.http2_connection_errors.get()),
        guards: guards.filter(|(_, count)| *count > 0).collect(),
    }
}

fn held(proxy: &Proxy, reason: GuardReason) -> u64 {
    total(proxy, |metrics| metrics.http2_guards[reason as usize].get())
}

pub(super) fn figures(proxy: &Proxy, out: &mut Exposition) {
    let help = "Connections of clients that speak HTTP/2, open now.";
    let now = total(proxy, |metrics| metrics.http2_connections.get());
    out.gauge("ringway_http2_connections", help).put(&[], now);
    let help = "Lanes for the requests of such clients, in use or about to be.";
    let now = total(proxy, |metrics| metrics.http2_streams.get());
    out.gauge("ringway_http2_streams", help).put(&[], now);
    let help = "Connections of clients that have spoken HTTP/2.";
    sum(out, proxy, "ringway_http2_connections_opened_total", help, |m| &m.http2_opened);
    let help = "Requests that were sent back untouched (REFUSED_STREAM), for want of room.";
    sum(out, proxy, "ringway_http2_streams_refused_total", help, |m| &m.http2_refused);
    let help = "Requests that clients have given up (RST_STREAM).";
    sum(out, proxy, "ringway_http2_streams_reset_total", help, |m| &m.http2_resets);
    let help = "Requests that ended for what was wrong with them (RFC 9113 §5.4.2).";
    sum(out, proxy, "ringway_http2_stream_errors_total", help, |m| &m.http2_stream_errors);
    let help = "Connections that ended for what was wrong with them (RFC 9113 §5.4.1).";
    sum(out, proxy, "ringway_http2_connection_errors_total", help, |m| &m.http2_connection_errors);
    let help = "Connections that ended because they made too much work, by guard.";
    let mut family = out.counter("ringway_http2_guards_total", help);
    for reason in GuardReason::ALL {
        family.put(&[("guard", reason.as_str())], held(proxy, reason));
    }
}
