//! What is counted and known of TLS, for `/metrics` and `/health`.
//!
//! In go counts of the workers and the certificates in use; out come samples and a list. Labels are
//! from a fixed list, or names of certificates.

use std::time::SystemTime;

use super::exposition::Exposition;
use super::proxy::Proxy;
use super::series::{NAMED_MAX, sum};
use crate::admin::units::unix_seconds;
use crate::tls::problem::Problem;
use crate::tls::report::Report;

/// The certificates in use.
pub(super) fn report(proxy: &Proxy) -> Report {
    Report::of(proxy.snapshot().tls.as_deref(), SystemTime::now())
}

pub(super) fn figures(proxy: &Proxy, out: &mut Exposition) {
    let snapshot = proxy.snapshot();
    let Some(tls) = &snapshot.tls else { return };
    let help = "TLS handshakes of clients that are under way.";
    let now: u64 = proxy.shared.metrics.iter().map(|metrics| metrics.handshaking.get()).sum();
    out.gauge("ringway_tls_handshaking", help).put(&[], now);
    let help = "TLS handshakes of clients that came to their end.";
    sum(out, proxy, "ringway_tls_handshakes_total", help, |m| &m.handshakes);
    let help = "Those of them that went on with an earlier session.";
    sum(out, proxy, "ringway_tls_resumed_total", help, |m| &m.handshakes_resumed);
    let help = "TLS handshakes of clients that failed, by reason.";
    let mut family = out.counter("ringway_tls_failed_total", help);
    for problem in Problem::ALL {
        let of = |metrics: &crate::observe::metrics::WorkerMetrics| {
            metrics.handshakes_failed[problem as usize].get()
        };
        let count: u64 = proxy.shared.metrics.iter().map(|metrics| of(metrics)).sum();
        family.put(&[("reason", problem.name())], count);
    }
    let help = "Sessions of clients that ended by what is none, by reason.";
    let mut family = out.counter("ringway_tls_broken_total", help);
    for problem in [Problem::Protocol, Problem::Alert, Problem::Flood] {
        let of = |metrics: &crate::observe::metrics::WorkerMetrics| {
            metrics.sessions_broken[problem as usize].get()
        };
        let count: u64 = proxy.shared.metrics.iter().map(|metrics| of(metrics)).sum();
        family.put(&[("reason", problem.name())], count);
    }
    let help = "When a certificate ends, in seconds since 1970.";
    let mut family = out.gauge("ringway_tls_certificate_expiry_seconds", help);
    for shown in tls.certificates.list.iter().take(NAMED_MAX) {
        let chain = shown.files.chain.to_string_lossy();
        let name = shown.names.first().map_or("", |name| name);
        family.put(&[("chain", &*chain), ("name", name)], unix_seconds(shown.expires));
    }
}
