//! What is counted and known of TLS, for `/metrics` and `/health`.
//!
//! In go counts of the workers and the certificates in use; out come samples and a list. Labels are
//! from a fixed list, or names of certificates.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde::Serialize;

use super::exposition::Exposition;
use super::proxy::Proxy;
use super::series::{sum, total};
use crate::admin::units::{NAMED_MAX, unix_seconds};
use crate::tls::managed::Managed;
use crate::tls::problem::Problem;
use crate::tls::report::Report;

/// The certificates in use.
pub(super) fn report(proxy: &Proxy) -> Report {
    Report::of(proxy.snapshot().tls.as_deref(), SystemTime::now())
}

/// A name whose certificate is ordered, and how that stands.
#[derive(Debug, Serialize)]
pub(super) struct Ordered {
    name: String,
    has_certificate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// Orders that have failed one after the other.
    failures: u32,
    /// When the next one is made after a failure, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_order: Option<u64>,
}

pub(super) fn ordered(proxy: &Proxy) -> Vec<Ordered> {
    let Some(managed) = managed(proxy) else { return Vec::new() };
    let mut troubles = managed.orders.troubles();
    let describe = |name: &String| {
        let trouble = troubles.remove(name);
        Ordered {
            name: name.clone(),
            has_certificate: managed.shown(name).is_some(),
            failures: trouble.as_ref().map_or(0, |trouble| trouble.failures),
            next_order: trouble.as_ref().map(|trouble| unix_seconds(trouble.next)),
            trouble: trouble.map(|trouble| trouble.cause),
        }
    };
    managed.config.domains.iter().map(describe).collect()
}

/// Which names are not served for want of a certificate, and why.
pub(super) fn missing(proxy: &Proxy) -> Option<String> {
    let managed = managed(proxy)?;
    let missing = managed.missing();
    let describe = |(name, cause): &(String, Option<String>)| match cause {
        Some(cause) => format!("no certificate for {name} yet: {cause}"),
        None => format!("no certificate for {name} yet"),
    };
    let lines: Vec<_> = missing.iter().take(NAMED_MAX).map(describe).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Names for which the last order has failed.
pub(super) fn orders_failing(proxy: &Proxy) -> usize {
    let troubles = managed(proxy).map(|managed| managed.orders.troubles()).unwrap_or_default();
    troubles.values().filter(|trouble| trouble.failures > 0).count()
}

fn managed(proxy: &Proxy) -> Option<Arc<Managed>> {
    proxy.snapshot().tls.as_ref()?.managed.clone()
}

fn order_figures(proxy: &Proxy, out: &mut Exposition) {
    let Some(managed) = managed(proxy) else { return };
    let help = "Certificates ordered by ACME, by outcome.";
    let mut family = out.counter("ringway_acme_orders_total", help);
    for (outcome, count) in [("issued", &managed.orders.done), ("failed", &managed.orders.failed)] {
        family.put(&[("outcome", outcome)], count.load(Ordering::Relaxed));
    }
    let help = "Names for which the last order has failed.";
    out.gauge("ringway_acme_failing", help).put(&[], orders_failing(proxy) as u64);
    let help = "Names that are not served, because they have no certificate yet.";
    out.gauge("ringway_acme_missing", help).put(&[], managed.missing().len() as u64);
}

pub(super) fn figures(proxy: &Proxy, out: &mut Exposition) {
    let snapshot = proxy.snapshot();
    let Some(tls) = &snapshot.tls else { return };
    let help = "TLS handshakes of clients that are under way.";
    let now = total(proxy, |metrics| metrics.handshaking.get());
    out.gauge("ringway_tls_handshaking", help).put(&[], now);
    let help = "TLS handshakes of clients that came to their end.";
    sum(out, proxy, "ringway_tls_handshakes_total", help, |m| &m.handshakes);
    let help = "Those of them that went on with an earlier session.";
    sum(out, proxy, "ringway_tls_resumed_total", help, |m| &m.handshakes_resumed);
    let help = "TLS handshakes of clients that failed, by reason.";
    let mut family = out.counter("ringway_tls_failed_total", help);
    for problem in Problem::ALL {
        let count = total(proxy, |metrics| metrics.handshakes_failed[problem as usize].get());
        family.put(&[("reason", problem.name())], count);
    }
    let help = "Sessions of clients that ended by what is none, by reason.";
    let mut family = out.counter("ringway_tls_broken_total", help);
    for problem in [Problem::Protocol, Problem::Alert, Problem::Flood] {
        let count = total(proxy, |metrics| metrics.sessions_broken[problem as usize].get());
        family.put(&[("reason", problem.name())], count);
    }
    let help = "When a certificate ends, in seconds since 1970.";
    let mut family = out.gauge("ringway_tls_certificate_expiry_seconds", help);
    for shown in tls.shown().iter().take(NAMED_MAX) {
        let chain = shown.files.chain.to_string_lossy();
        let name = shown.names.first().map_or("", |name| name);
        family.put(&[("chain", &*chain), ("name", name)], unix_seconds(shown.expires));
    }
    order_figures(proxy, out);
}
