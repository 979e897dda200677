//! What is counted of hooks, as metrics.
//!
//! In go the workers' counts and the plans in force; out come series for `GET /metrics`. The
//! upstreams of a split have a histogram each, so that A can be compared with B: requests and
//! errors by `ringway_upstream_requests_total`, and times here.

use std::collections::BTreeSet;

use super::exposition::Exposition;
use super::proxy::Proxy;
use crate::admin::series::{NAMED_MAX, sum};
use crate::hooks::{Hooked, Plan};
use crate::observe::metrics;

pub(super) fn hooks(proxy: &Proxy, out: &mut Exposition) {
    let workers = &proxy.shared.metrics;
    let all: u64 = workers.iter().flat_map(|of| &of.requests).map(metrics::Gauge::get).sum();
    let hooked: u64 = workers.iter().map(|of| of.hooked.get()).sum();
    out.counter("ringway_fastpath_requests_total", "Exchanges that ran no hook.")
        .put(&[], all.saturating_sub(hooked));
    out.counter("ringway_hooked_requests_total", "Requests of routes with hooks.").put(&[], hooked);
    let help = "Requests that rate_limit or connections_per_client answered 429.";
    sum(out, proxy, "ringway_limited_requests_total", help, |m| &m.limited);
    let snapshot = proxy.snapshot();
    let help = "Keys that a rate limit forgot before their time, for want of table_entries.";
    out.counter("ringway_rate_limit_evicted_total", help).put(&[], snapshot.hooks.evicted());
    let help = "Attempts beyond the first that a retry policy asked for.";
    sum(out, proxy, "ringway_retries_total", help, |m| &m.retries);
    let help = "Copies of requests that were sent to a mirror.";
    sum(out, proxy, "ringway_mirrored_requests_total", help, |m| &m.mirrors);
    let help = "Those of them that got no answer.";
    sum(out, proxy, "ringway_mirror_failures_total", help, |m| &m.mirrors_failed);
    let help = "Copies that were left out, because too many were under way.";
    sum(out, proxy, "ringway_mirror_dropped_total", help, |m| &m.mirrors_dropped);
    splits(proxy, out);
}

fn splits(proxy: &Proxy, out: &mut Exposition) {
    let snapshot = proxy.snapshot();
    let hooked = snapshot.hooks.all().iter().filter_map(|plan| match plan {
        Plan::Hooked(hooked) => Some(&**hooked),
        Plan::Fast => None,
    });
    let arms: BTreeSet<(usize, &str)> = hooked.flat_map(Hooked::arms).collect();
    let help = "Times as ringway_request_duration_seconds, by the upstreams of a split.";
    let mut family = out.durations("ringway_split_duration_seconds", help);
    for (index, name) in arms.into_iter().take(NAMED_MAX) {
        let (mut durations, mut sum_us) = (metrics::empty_histogram(), 0);
        for counts in &snapshot.counts {
            if let Some(latency) = counts.split_latency(index) {
                durations += latency.snapshot();
                sum_us += latency.sum_us();
            }
        }
        family.durations(&[("upstream", name)], &durations, sum_us);
    }
}
