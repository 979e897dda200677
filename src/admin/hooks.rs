//! What is counted of hooks, as metrics.
//!
//! In go the workers' counts and the plans in force; out come series for `GET /metrics`. What the
//! arms of a split have come to is counted by name, elsewhere.

use super::exposition::Exposition;
use super::proxy::Proxy;
use crate::admin::series::{all_classes, sum, total};
use crate::hooks::Hedged;

pub(super) fn hooks(proxy: &Proxy, out: &mut Exposition) {
    let all = total(proxy, all_classes);
    let hooked = total(proxy, |metrics| metrics.hooked.get());
    out.counter("ringway_fastpath_requests_total", "Exchanges that ran no hook.")
        .put(&[], all.saturating_sub(hooked));
    let help = "Requests of routes with hooks.";
    sum(out, proxy, "ringway_hooked_requests_total", help, |m| &m.hooked);
    let help = "Requests that rate_limit or connections_per_client answered 429.";
    sum(out, proxy, "ringway_limited_requests_total", help, |m| &m.limited);
    let snapshot = proxy.snapshot();
    let help = "Keys that a rate limit forgot before their time, for want of table_entries.";
    out.counter("ringway_rate_limit_evicted_total", help).put(&[], snapshot.hooks.evicted());
    let help = "Attempts beyond the first that a retry policy asked for.";
    sum(out, proxy, "ringway_retries_total", help, |m| &m.retries);
    let help =
        "Second attempts at another origin while the first was silent, by what became of them.";
    let mut family = out.counter("ringway_hedges_total", help);
    for outcome in Hedged::ALL {
        let count = total(proxy, |metrics| metrics.hedges[outcome as usize].get());
        family.put(&[("outcome", outcome.name())], count);
    }
    let help = "Copies of requests that were sent to a mirror.";
    sum(out, proxy, "ringway_mirrored_requests_total", help, |m| &m.mirrors);
    let help = "Those of them that got no answer.";
    sum(out, proxy, "ringway_mirror_failures_total", help, |m| &m.mirrors_failed);
    let help = "Copies that were left out, because too many were under way.";
    sum(out, proxy, "ringway_mirror_dropped_total", help, |m| &m.mirrors_dropped);
}
