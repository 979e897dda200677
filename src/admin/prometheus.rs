//! `GET /metrics`: everything that is counted, in the text format of Prometheus, version 0.0.4.
//!
//! In go totals that workers write and any thread may read; out comes text. No worker is asked
//! anything and nothing waits, so a scrape costs requests nothing, however many connections there
//! are. Label values come from the configuration or from fixed lists, never from the network.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::exposition::{Exposition, Family};
use super::process::{self, INSPECTED_PENDING_MAX, ProcessReading, Queues};
use super::proxy::Proxy;
use super::series::{all_classes, each, numbered, sum, total, used};
use super::tally::{merged, sum_of};
use super::{health, hooks, http2, named, tls, upstreams};
use crate::admin::units::{NAMED_MAX, lock, unix_seconds};
use crate::fault::ProxyError;
use crate::http::repair::Repair;
use crate::ledger::Kind;
use crate::observe::metrics::{Counter, WorkerMetrics};
use crate::proxy_protocol;
use crate::ring::{Operation, RingMeters};
use crate::worker::mailbox::Level;

pub(super) fn text(proxy: &Proxy) -> String {
    let mut out = Exposition::default();
    build(proxy, &mut out);
    requests(proxy, &mut out);
    routes(proxy, &mut out);
    latencies(proxy, &mut out);
    hooks::hooks(proxy, &mut out);
    connections(proxy, &mut out);
    tls::figures(proxy, &mut out);
    http2::figures(proxy, &mut out);
    pool(proxy, &mut out);
    forward(proxy, &mut out);
    memory(proxy, &mut out);
    rings(proxy, &mut out);
    alerts(proxy, &mut out);
    spans(proxy, &mut out);
    process_figures(proxy, &mut out);
    out.into_text()
}

fn build(proxy: &Proxy, out: &mut Exposition) {
    out.gauge("ringway_build_info", "Always 1; the labels say what is running.")
        .put(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.gauge("ringway_config_generation", "Number of the configuration in use.")
        .put(&[], proxy.snapshot().id);
    let help = "Configurations that could not be put in use.";
    out.counter("ringway_config_refused_total", help)
        .put(&[], proxy.shared.reloads_refused.load(Ordering::Relaxed));
    let help = "Lines of logs that could not be written.";
    let mut family = out.counter("ringway_log_dropped_lines_total", help);
    for (log, count) in proxy.logs.dropped_lines() {
        family.put(&[("log", log)], count);
    }
    out.gauge("ringway_workers", "Threads with a ring each.")
        .put(&[], proxy.shared.occupied().count());
    out.gauge("ringway_ready", "Whether new connections may be sent here.")
        .put(&[], u8::from(health::readiness(proxy).is_ok()));
}

fn requests(proxy: &Proxy, out: &mut Exposition) {
    let workers = numbered(proxy);
    let help = "Exchanges by status class; none: those that ended without an answer.";
    let mut family = out.counter("ringway_requests_total", help);
    for (worker, metrics) in &workers {
        let counts = sum_of([&metrics.requests].into_iter());
        named::classes(&mut family, &[("worker", worker)], &counts);
    }
    let forwarded = sum_of(workers.iter().map(|(_, metrics)| &metrics.forwarded));
    let help = "Exchanges of the forward proxy, in absolute form, by status class.";
    named::classes(&mut out.counter("ringway_forward_requests_total", help), &[], &forwarded);
    let help = "Exchanges that went wrong, by error type of RFC 9209.";
    let mut family = out.counter("ringway_faults_total", help);
    for (error, name) in ProxyError::ALL {
        family.put(&[("error", name)], total(proxy, |metrics| metrics.faults.get(error)));
    }
    let help = "Bytes received from clients, heads included.";
    sum(out, proxy, "ringway_client_received_bytes_total", help, |m| &m.bytes_received);
    let help = "Bytes sent to clients, heads included.";
    sum(out, proxy, "ringway_client_sent_bytes_total", help, |m| &m.bytes_sent);
}

fn routes(proxy: &Proxy, out: &mut Exposition) {
    let snapshot = proxy.snapshot();
    named::series(&snapshot, out);
    let help = "Origins with an address that may be asked, and those without.";
    let mut family = out.gauge("ringway_upstream_origins", help);
    for upstream in snapshot.upstreams.iter().take(NAMED_MAX) {
        let down = upstream.origins.iter().filter(|origin| origin.is_down()).count();
        let name = ("upstream", upstream.config.name.as_str());
        family.put(&[name, ("state", "up")], upstream.origins.len() - down);
        family.put(&[name, ("state", "down")], down);
    }
    let help = "Addresses of origins: up, or why they are not asked.";
    let mut family = out.gauge("ringway_upstream_targets", help);
    for upstream in snapshot.upstreams.iter().take(NAMED_MAX) {
        for (state, count) in upstreams::counted(upstream) {
            family.put(&[("upstream", &*upstream.config.name), ("state", state)], count);
        }
    }
}

fn latencies(proxy: &Proxy, out: &mut Exposition) {
    let workers = &proxy.shared.metrics;
    out.histogram(
        "ringway_request_duration_seconds",
        "From the first byte of a request to the last byte of its answer.",
        &merged(workers.iter().map(|metrics| &metrics.latency)),
        total(proxy, |metrics| metrics.latency.sum_us()),
    );
    out.histogram(
        "ringway_pool_wait_seconds",
        "Waits for the right to open a connection to an origin, by requests that had to wait.",
        &merged(workers.iter().map(|metrics| &metrics.pool_wait)),
        total(proxy, |metrics| metrics.pool_wait.sum_us()),
    );
}

fn connections(proxy: &Proxy, out: &mut Exposition) {
    let help = "Connections of clients, open now.";
    each(&mut out.gauge("ringway_clients", help), proxy, |m| m.clients.get());
    let help = "Those of them that rest between two requests and hold no buffer.";
    each(&mut out.gauge("ringway_clients_resting", help), proxy, |m| m.parked.get());
    out.gauge("ringway_clients_max", "The value of limits.clients.")
        .put(&[], proxy.snapshot().config.limits.clients);
    let help = "Connections accepted.";
    each(&mut out.counter("ringway_accepted_total", help), proxy, |m| m.accepted.get());
    let help = "Attempts to accept that failed.";
    sum(out, proxy, "ringway_accept_errors_total", help, |m| &m.accept_errors);
    let help = "Connections that were answered 503 at the door.";
    sum(out, proxy, "ringway_clients_refused_total", help, |m| &m.clients_refused);
    let help = "Connections that gave way to new ones at limits.clients.";
    let mut gave_way = out.counter("ringway_clients_gave_way_total", help);
    for (index, reason) in ["idle", "slow_head"].into_iter().enumerate() {
        let count = total(proxy, |metrics| metrics.gave_way[index].get());
        gave_way.put(&[("reason", reason)], count);
    }
    let help = "Connections to a listener of the PROXY protocol that were not taken.";
    let mut not_introduced = out.counter("ringway_proxy_protocol_refused_total", help);
    for (index, reason) in proxy_protocol::REFUSALS.into_iter().enumerate() {
        let count = total(proxy, |metrics| metrics.not_introduced[index].get());
        not_introduced.put(&[("reason", reason)], count);
    }
    let help = "Exchanges that a forced cleanup has ended.";
    sum(out, proxy, "ringway_cuts_total", help, |m| &m.cuts);
}

fn pool(proxy: &Proxy, out: &mut Exposition) {
    let pool = &proxy.shared.pool;
    let help = "Connections to origins, open now.";
    out.gauge("ringway_pool_connections", help).put(&[], pool.open());
    let help = "Those of them that no exchange uses.";
    out.gauge("ringway_pool_idle_connections", help).put(&[], pool.idle());
    let limits = pool.limits();
    out.gauge("ringway_pool_max_connections", "The value of pool.max_connections.")
        .put(&[], limits.each);
    let help = "Connections to origins that there may be in all.";
    out.gauge("ringway_pool_ceiling", help).put(&[], limits.ceiling);
    let help = "Connections that carry answers which count under limits.long_responses.";
    out.gauge("ringway_pool_long_responses", help).put(&[], pool.long());
    let help = "Requests that wait for a connection now.";
    out.gauge("ringway_pool_waiting_requests", help).put(&[], pool.waiting());
    let help = "Exchanges that found an open connection.";
    sum(out, proxy, "ringway_pool_reused_total", help, |m| &m.pool_reused);
    let help = "Connections to origins opened.";
    sum(out, proxy, "ringway_pool_opened_total", help, |m| &m.pool_opened);
    let help = "Requests that had to wait for a connection.";
    sum(out, proxy, "ringway_pool_waits_total", help, |m| &m.pool_waits);
    let help = "Waits that timeouts.pool has ended.";
    sum(out, proxy, "ringway_pool_timeouts_total", help, |m| &m.pool_timeouts);
    let help = "Exchanges ended because others waited for their connections, by reason.";
    let mut family = out.counter("ringway_pool_yielded_total", help);
    for (reason, of) in YIELDED {
        family.put(&[("reason", reason)], total(proxy, |metrics| of(metrics).get()));
    }
    let help = "Reused connections that turned out to be dead.";
    sum(out, proxy, "ringway_pool_stale_total", help, |m| &m.pool_stale);
    let help =
        "Answers of origins that were not as they should be and taken all the same, by kind.";
    let mut family = out.counter("ringway_origin_repairs_total", help);
    for repair in Repair::ALL {
        let counts = proxy.shared.metrics.iter().map(|it| it.repairs[repair as usize].get());
        family.put(&[("kind", repair.name())], counts.sum::<u64>());
    }
}

type Count = fn(&WorkerMetrics) -> &Counter;

/// Why exchanges were ended for others.
const YIELDED: [(&str, Count); 2] = [
    // They moved less than limits.min_body_rate.
    ("slow", |metrics| &metrics.pool_slow),
    // Their client held more than its share.
    ("share", |metrics| &metrics.pool_excess),
];

fn forward(proxy: &Proxy, out: &mut Exposition) {
    out.gauge("ringway_tunnels", "Tunnels and upgraded connections, open now.")
        .put(&[], total(proxy, |metrics| metrics.tunnels.get()));
    let help = "Tunnels and upgraded connections opened.";
    sum(out, proxy, "ringway_tunnels_opened_total", help, |m| &m.tunnels_opened);
    let help = "Bytes through tunnels, both directions together.";
    sum(out, proxy, "ringway_tunnel_bytes_total", help, |m| &m.tunnel_bytes);
    let help = "Requests of the forward proxy with wrong credentials.";
    sum(out, proxy, "ringway_auth_failures_total", help, |m| &m.auth_failures);
    let help = "Requests of the forward proxy that its rules forbid.";
    sum(out, proxy, "ringway_denied_total", help, |m| &m.denied);
}

fn memory(proxy: &Proxy, out: &mut Exposition) {
    let ledgers = &proxy.shared.ledgers;
    let help = "What memory is held for. leased_chunks is a part of pinned_chunks.";
    let mut family = out.gauge("ringway_memory_ledger_bytes", help);
    for (worker, ledger) in ledgers.workers().iter().enumerate() {
        for kind in Kind::ALL {
            let labels = [("worker", &*worker.to_string()), ("kind", kind.name())];
            family.put(&labels, ledger.get(kind));
        }
    }
    for kind in Kind::ALL {
        family.put(&[("worker", "process"), ("kind", kind.name())], ledgers.process().get(kind));
    }
    let spool = &proxy.shared.spool;
    let help = "Bytes of bodies in temporary files.";
    out.gauge("ringway_temp_file_bytes", help).put(&[], spool.bytes());
    let help = "Bodies that got a temporary file.";
    out.counter("ringway_temp_files_total", help).put(&[], spool.files());
    let help = "Temporary files that could not be opened, written or read.";
    out.counter("ringway_temp_file_failures_total", help).put(&[], spool.failures());
    let help = "The value of memory.max_mb, in bytes.";
    out.gauge("ringway_memory_ceiling_bytes", help).put(&[], proxy.cleanups.ceiling_bytes());
    let help = "How short memory is: 0 normal, 1 light, 2 forced.";
    let pressure = proxy.shared.pressure.get() as u8;
    out.gauge("ringway_memory_pressure", help).put(&[], pressure);
    let mut family = out.counter("ringway_cleanups_total", "Cleanups by level.");
    for level in [Level::Light, Level::Forced] {
        family.put(&[("level", level.name())], proxy.cleanups.runs(level));
    }
    let help = "Resident memory that went during cleanups.";
    out.counter("ringway_cleanup_freed_bytes_total", help).put(&[], proxy.cleanups.freed_bytes());
}

fn rings(proxy: &Proxy, out: &mut Exposition) {
    let rings: Vec<_> =
        used(proxy).map(|worker| (worker.to_string(), &proxy.shared.rings[worker])).collect();
    let help = "Always 1; the label says what the worker waits by.";
    let mut family = out.gauge("ringway_driver_info", help);
    for (worker, ring) in &rings {
        if let Some(driver) = ring.driver() {
            family.put(&[("worker", worker), ("driver", driver.name())], 1);
        }
    }
    let operations = |family: &mut Family<'_>, of: fn(&RingMeters, usize) -> u64| {
        for (worker, ring) in &rings {
            for (index, operation) in Operation::ALL.into_iter().enumerate() {
                let labels = [("worker", &**worker), ("operation", operation.name())];
                family.put(&labels, of(ring, index));
            }
        }
    };
    let help = "Operations given to the ring.";
    operations(&mut out.counter("ringway_ring_submissions_total", help), |ring, index| {
        ring.submitted[index].get()
    });
    let help = "Operations that the ring has completed.";
    operations(&mut out.counter("ringway_ring_completions_total", help), |ring, index| {
        ring.completed[index].get()
    });
    let help = "Operations that the ring holds now.";
    operations(&mut out.gauge("ringway_ring_in_flight", help), RingMeters::in_flight);
    let help = "Times that the worker has waited for its ring.";
    let mut family = out.counter("ringway_ring_turns_total", help);
    for (worker, ring) in &rings {
        family.put(&[("worker", worker)], ring.parks());
    }
    let help = "Waits for a socket that ended with nothing to be moved.";
    let mut family = out.counter("ringway_fruitless_wakes_total", help);
    for (worker, ring) in &rings {
        family.put(&[("worker", worker)], ring.fruitless.get());
    }
    let help = "Turns of the loop per exchange, since the start.";
    let mut family = out.gauge("ringway_ring_turns_per_request", help);
    for ((worker, ring), (_, metrics)) in rings.iter().zip(numbered(proxy)) {
        let requests = all_classes(metrics);
        family.put(&[("worker", worker)], ring.parks() as f64 / requests.max(1) as f64);
    }
    queues(&rings, out);
}

fn queues(rings: &[(String, &Arc<RingMeters>)], out: &mut Exposition) {
    let inspected: Vec<(&str, Option<Queues>)> = rings
        .iter()
        .map(|(worker, ring)| {
            let pending: u64 = (0..Operation::ALL.len()).map(|index| ring.in_flight(index)).sum();
            let fd = ring.ring_fd.load(Ordering::Relaxed);
            let may_inspect = fd >= 0 && pending <= INSPECTED_PENDING_MAX;
            (worker.as_str(), may_inspect.then(|| process::queues(fd)).flatten())
        })
        .collect();
    let help = "Whether the queues were looked into: not where more than 256 operations pend.";
    let mut family = out.gauge("ringway_ring_inspected", help);
    for (worker, queues) in &inspected {
        family.put(&[("worker", worker)], u8::from(queues.is_some()));
    }
    let help = "Entries of the submission queue that the kernel has not taken yet.";
    let mut family = out.gauge("ringway_ring_submission_queue_entries", help);
    for (worker, queues) in inspected.iter().filter_map(|(w, q)| Some((w, (*q)?))) {
        family.put(&[("worker", worker)], queues.submissions);
    }
    let help = "Entries of the completion queue that the worker has not taken yet.";
    let mut family = out.gauge("ringway_ring_completion_queue_entries", help);
    for (worker, queues) in inspected.iter().filter_map(|(w, q)| Some((w, (*q)?))) {
        family.put(&[("worker", worker)], queues.completions);
    }
    let help = "Completions that found their queue full and wait outside it.";
    let mut family = out.gauge("ringway_ring_completion_overflow_entries", help);
    for (worker, queues) in inspected.iter().filter_map(|(w, q)| Some((w, (*q)?))) {
        family.put(&[("worker", worker)], queues.overflow);
    }
}

fn alerts(proxy: &Proxy, out: &mut Exposition) {
    let alerts = lock(&proxy.alerts).clone();
    let alarms = &alerts.alarms()[..alerts.alarms().len().min(NAMED_MAX)];
    let mut family = out.gauge("ringway_alert_active", "Whether the alert has begun.");
    for alarm in alarms {
        let labels = [("alert", alarm.subject.name()), ("upstream", &*alarm.upstream)];
        family.put(&labels, u8::from(alarm.since.is_some()));
    }
    let mut family = out.counter("ringway_alerts_total", "Times that the alert has begun.");
    for alarm in alarms {
        let labels = [("alert", alarm.subject.name()), ("upstream", &*alarm.upstream)];
        family.put(&labels, alarm.begun);
    }
    if let Some(webhook) = &*lock(&proxy.webhook) {
        let help = "Messages that the webhook has taken.";
        out.counter("ringway_webhook_sent_total", help).put(&[], webhook.sent());
        let help = "Messages that could not be queued or delivered.";
        out.counter("ringway_webhook_dropped_total", help).put(&[], webhook.dropped());
    }
}

fn spans(proxy: &Proxy, out: &mut Exposition) {
    let Some(spans) = proxy.shared.spans.get() else { return };
    let help = "Spans that the receiver of traces has taken.";
    let count = spans.counts.sent.load(Ordering::Relaxed);
    out.counter("ringway_spans_sent_total", help).put(&[], count);
    let help = "Spans that could not be queued or delivered.";
    let count = spans.counts.dropped.load(Ordering::Relaxed);
    out.counter("ringway_spans_dropped_total", help).put(&[], count);
}

fn process_figures(proxy: &Proxy, out: &mut Exposition) {
    let (reading, usage) = (ProcessReading::read(), proxy.usage());
    let help = "Resident memory of the process.";
    out.gauge("ringway_process_resident_memory_bytes", help).put(&[], usage.rss_bytes);
    if let Some(bytes) = usage.cgroup_usage {
        out.gauge("ringway_cgroup_memory_bytes", "Memory of the whole cgroup.").put(&[], bytes);
    }
    if let Some(bytes) = usage.cgroup_limit {
        let help = "The limit on the memory of the cgroup.";
        out.gauge("ringway_cgroup_memory_limit_bytes", help).put(&[], bytes);
    }
    let help = "User and system time of all threads.";
    out.counter("ringway_process_cpu_seconds_total", help).put(&[], reading.cpu.as_secs_f64());
    let help = "Open file descriptors.";
    out.gauge("ringway_process_open_files", help).put(&[], reading.open_files);
    let help = "The limit on open file descriptors.";
    out.gauge("ringway_process_max_open_files", help).put(&[], reading.open_files_max);
    let help = "When the process started, in seconds since 1970.";
    out.gauge("ringway_process_start_time_seconds", help).put(&[], unix_seconds(proxy.started_at));
    let help = "Seconds since then.";
    out.gauge("ringway_uptime_seconds", help).put(&[], proxy.started.elapsed().as_secs());
}
