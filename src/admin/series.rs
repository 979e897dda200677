//! Series that several parts of `GET /metrics` have in common.
//!
//! In go a counter of the workers; out come samples of it, one for each worker or their sum.

use crate::admin::exposition::{Exposition, Family};
use crate::admin::proxy::Proxy;
use crate::observe::metrics::{Counter, WorkerMetrics};
use crate::worker::shared::WorkerState;

pub(super) fn numbered(proxy: &Proxy) -> Vec<(String, &WorkerMetrics)> {
    let workers = used(proxy).map(|worker| (worker.to_string(), &*proxy.shared.metrics[worker]));
    workers.collect()
}

/// The slots in which a worker runs, or has run: what was counted there stays.
pub(super) fn used(proxy: &Proxy) -> impl Iterator<Item = usize> {
    let shared = &proxy.shared;
    (0..shared.slots.len()).filter(|worker| {
        shared.slots[*worker].state() != WorkerState::Free
            || shared.metrics[*worker].accepted.get() > 0
    })
}

/// One sample per worker.
pub(super) fn each(family: &mut Family<'_>, proxy: &Proxy, of: fn(&WorkerMetrics) -> u64) {
    for (worker, metrics) in numbered(proxy) {
        family.put(&[("worker", &worker)], of(metrics));
    }
}

/// The sum of what all workers have counted.
pub(super) fn total(proxy: &Proxy, of: impl Fn(&WorkerMetrics) -> u64) -> u64 {
    proxy.shared.metrics.iter().map(|metrics| of(metrics)).sum()
}

/// A worker's exchanges, of whatever status.
pub(super) fn all_classes(metrics: &WorkerMetrics) -> u64 {
    metrics.requests.iter().map(Counter::get).sum()
}

/// A counter with one sample for all workers.
pub(super) fn sum(
    out: &mut Exposition,
    proxy: &Proxy,
    name: &'static str,
    help: &'static str,
    of: fn(&WorkerMetrics) -> &Counter,
) {
    out.counter(name, help).put(&[], total(proxy, |metrics| of(metrics).get()));
}
