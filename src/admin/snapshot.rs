//! `GET /snapshot`: everything that can be seen of a running ringway, as one JSON object.
//!
//! In go counters that are shared, the last minute, and the few largest and oldest connections of
//! each worker; out comes one object, whose keys `docs/operate/observe.md` lists. It is cheap
//! enough for once a second: a worker is asked for a handful of its connections, which it finds in
//! one pass, and whoever asks within half a second of another gets the same answer.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::health::{self, Health};
use super::named::{ByName, Of};
use super::process::{self, ProcessReading};
use super::proxy::{Answers, Proxy};
use super::series::all_classes;
use super::stats::{Totals, Window};
use super::{tls, upstreams};
use crate::admin::units::{NAMED_MAX, lock, ratio, rounded, unix_seconds};
use crate::memory::Plan;
use crate::observe::events;
use crate::ring::{Operation, RingMeters};
use crate::worker::generation::Snapshot;
use crate::worker::mailbox::{ConnectionInfo, WorkerCommand};
use crate::worker::shared::WorkerState;

/// Counts up with every change that somebody who reads it would have to know of.
const SCHEMA: u32 = 1;

/// How old an answer may be that somebody else was given.
const FRESH: Duration = Duration::from_millis(500);

/// Of each worker, and in the answer.
const CONNECTIONS_MAX: usize = 10;

const EVENTS_MAX: usize = 100;

/// The object as text.
pub(super) async fn text(proxy: &Proxy) -> Arc<str> {
    let mut cached = proxy.snapshot_text.lock().await;
    if let Some((made, text)) = &*cached
        && made.elapsed() < FRESH
    {
        return text.clone();
    }
    let text: Arc<str> = of(proxy).await.to_string().into();
    *cached = Some((Instant::now(), text.clone()));
    text
}

async fn of(proxy: &Proxy) -> Value {
    let asked = proxy.ask(|reply| WorkerCommand::Extremes { count: CONNECTIONS_MAX, reply });
    let (asked, upstreams) = tokio::join!(asked, upstreams::listed(proxy));
    let snapshot = proxy.snapshot();
    let now = proxy.named_totals();
    let (window, by_name, history) = {
        let course = lock(&proxy.course);
        let earlier = course.earlier().unwrap_or(&now);
        (Window::between(earlier, &now), Totals::by_name(earlier, &now), course.history())
    };
    let mut whole = json!({
        "schema": SCHEMA,
        "at": unix_seconds(SystemTime::now()),
        "started": unix_seconds(proxy.started_at),
        "pid": std::process::id(),
        "configuration": configuration(proxy, &snapshot),
        "now": figures(&window),
        "history": history,
        "memory": memory(proxy, &snapshot),
        "process": process(),
        "workers": workers(proxy, &asked.silent),
        "routes": routes(&snapshot, &by_name, window.seconds),
        "arms": by_name.of(Of::Arm).map(|it| it.named(window.seconds)).collect::<Vec<_>>(),
        "upstreams": named_upstreams(upstreams, &by_name, window.seconds),
        "connections": connections(asked),
        "certificates": tls::report(proxy),
        "events": listed_events(),
        "silences": lock(&proxy.alerts).silences(SystemTime::now()),
    });
    // What scripts know by the names of GET /health has the same names here.
    if let (Value::Object(whole), Ok(Value::Object(health))) =
        (&mut whole, serde_json::to_value(Health::of(proxy)))
    {
        let wanted = [
            "status",
            "version",
            "uptime_seconds",
            "alerts",
            "acme",
            "pool",
            "listeners",
            "driver",
        ];
        let clients = health.get("connections").cloned();
        whole.extend(health.into_iter().filter(|(key, _)| wanted.contains(&&**key)));
        whole.insert("clients".to_owned(), clients.unwrap_or_default());
    }
    whole
}

fn configuration(proxy: &Proxy, snapshot: &Snapshot) -> Value {
    let history = &proxy.shared.history;
    let list = history.list();
    let generations: Vec<_> = list
        .iter()
        .map(
            |past| json!({ "id": past.id, "since": unix_seconds(past.since), "cause": past.cause }),
        )
        .collect();
    json!({
        "generation": snapshot.id,
        "file": history.file,
        "generations": generations,
        "refused": proxy.shared.reloads_refused.load(Ordering::Relaxed),
        "log_level": proxy.logs.level(),
    })
}

fn figures(window: &Window) -> Value {
    json!({
        "seconds": window.seconds,
        "requests": window.requests,
        "requestsPerSecond": window.requests_per_second,
        "errorRate": window.error_rate,
        "avgLatency": window.avg_latency,
        "p50": window.p50,
        "p95": window.p95,
        "p99": window.p99,
        "pool_wait_p95": window.pool_wait_p95,
        "pool_reuse": window.pool_reuse,
        "cpu": window.cpu,
    })
}

fn memory(proxy: &Proxy, snapshot: &Snapshot) -> Value {
    let usage = proxy.usage();
    let thresholds = **proxy.cleanups.thresholds.load();
    json!({
        "rss_bytes": usage.rss_bytes,
        "ledger_bytes": proxy.shared.ledgers.total(),
        "by_kind": health::by_kind(proxy),
        "cleanup_bytes": thresholds.cleanup_bytes,
        "max_bytes": thresholds.max_bytes,
        "planned_bytes": Plan::of(&snapshot.config, &usage).total(),
        "state": health::pressure(proxy),
        "cgroup_limit_bytes": usage.cgroup_limit,
        "cgroup_usage_bytes": usage.cgroup_usage,
    })
}

fn process() -> Value {
    let reading = ProcessReading::read();
    json!({
        "cpu_seconds": rounded(reading.cpu.as_secs_f64()),
        "open_files": reading.open_files,
        "max_open_files": reading.open_files_max,
    })
}

fn workers(proxy: &Proxy, silent: &[usize]) -> Vec<Value> {
    let shared = &proxy.shared;
    let heard = lock(&proxy.heard).clone();
    let describe = |worker: usize| {
        let (metrics, ring) = (&shared.metrics[worker], &shared.rings[worker]);
        let in_flight: u64 = (0..Operation::ALL.len()).map(|one| ring.in_flight(one)).sum();
        let queues = inspected(ring, in_flight);
        let requests = all_classes(metrics);
        json!({
            "worker": worker,
            "state": match shared.slots[worker].state() {
                WorkerState::Active => "active",
                WorkerState::Draining => "draining",
                WorkerState::Starting => "starting",
                WorkerState::Stopped | WorkerState::Free => "stopped",
            },
            "clients": metrics.clients.get(),
            "resting": metrics.parked.get(),
            "tunnels": metrics.tunnels.get(),
            "requests": requests,
            "in_flight": in_flight,
            "turns": ring.parks(),
            "turns_per_request": rounded(ratio(ring.parks() as f64, requests as f64)),
            "submission_entries": queues.map(|queues| queues.submissions),
            "completion_entries": queues.map(|queues| queues.completions),
            "completion_overflow": queues.map(|queues| queues.overflow),
            "ledger_bytes": shared.ledgers.workers()[worker].total(),
            "is_silent": silent.contains(&worker),
            "heard_ms": heard.get(&worker).map(|at| at.elapsed().as_millis() as u64),
        })
    };
    shared.occupied().map(describe).collect()
}

/// The queues of a ring that is not so busy that its worker would have to wait.
fn inspected(ring: &RingMeters, in_flight: u64) -> Option<process::Queues> {
    let fd = ring.ring_fd.load(Ordering::Relaxed);
    let may_inspect = fd >= 0 && in_flight <= process::INSPECTED_PENDING_MAX;
    may_inspect.then(|| process::queues(fd)).flatten()
}

/// All routes that have an entry of their own, with what their requests pass.
fn routes(snapshot: &Snapshot, by_name: &ByName, seconds: f64) -> Vec<Value> {
    let config = &snapshot.config;
    let describe = |(index, entry): (usize, &super::named::Entry)| {
        let mut value = serde_json::to_value(entry.named(seconds)).unwrap_or_default();
        value["limited"] = entry.tally.limited.into();
        if let Some(route) = config.routes.get(index).filter(|_| index < NAMED_MAX) {
            value["to"] = config.upstreams[route.upstream].name.clone().into();
            // Names of keys only: values may be secrets.
            let own = route.hooks.as_ref().and_then(|hooks| serde_json::to_value(hooks).ok());
            let keys = own.as_ref().and_then(Value::as_object);
            let keys = keys.map(|keys| keys.keys().cloned().collect()).unwrap_or_default();
            let hooks: Vec<String> = keys;
            value["hooks"] = hooks.into();
        }
        value
    };
    by_name.of(Of::Route).enumerate().map(describe).collect()
}

fn named_upstreams(mut upstreams: Value, by_name: &ByName, seconds: f64) -> Value {
    let mut listed = upstreams["upstreams"].take();
    if let Some(list) = listed.as_array_mut() {
        list.truncate(NAMED_MAX);
    }
    for upstream in listed.as_array_mut().into_iter().flatten() {
        let name = upstream["name"].as_str().unwrap_or_default().to_owned();
        let own = by_name.of(Of::Upstream).find(|entry| entry.name == name);
        upstream["figures"] = figures_of(own, seconds);
        let origins = by_name.of(Of::Origin).filter(|entry| entry.name == name);
        let origins: Vec<_> = origins.collect();
        for target in upstream["targets"].as_array_mut().into_iter().flatten() {
            let own = origins.iter().find(|entry| target["origin"] == *entry.part);
            target["figures"] = figures_of(own.copied(), seconds);
            target["reuse"] = own.and_then(|entry| entry.tally.reuse()).into();
        }
    }
    listed
}

fn figures_of(entry: Option<&super::named::Entry>, seconds: f64) -> Value {
    let figures = entry.map(|entry| entry.tally.figures(seconds));
    serde_json::to_value(figures).unwrap_or_default()
}

fn connections(asked: Answers<Vec<ConnectionInfo>>) -> Value {
    let mut all: Vec<ConnectionInfo> = asked.given.into_iter().flatten().collect();
    all.sort_by_key(|one| (Reverse(one.memory_bytes), one.id));
    let mut largest = all.clone();
    largest.truncate(CONNECTIONS_MAX);
    all.sort_by_key(|one| (Reverse(one.age_ms), one.id));
    all.truncate(CONNECTIONS_MAX);
    json!({ "largest": largest, "oldest": all })
}

fn listed_events() -> Vec<Value> {
    let events = events::last(EVENTS_MAX).into_iter();
    let describe = |event: events::Event| {
        let at = unix_seconds(event.at);
        json!({ "at": at, "kind": event.kind.name(), "text": event.text })
    };
    events.map(describe).collect()
}
