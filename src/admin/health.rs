//! Whether ringway is well: the answer to `GET /health`, on the admin address and the data port.
//!
//! In go readings of shared figures; out comes one JSON object. `status` sums it up; the field
//! `memory_usage_mb` has a name that monitoring scripts look for. Nothing here asks a worker, so
//! the answer comes however busy they are.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::alerts::Notice;
use super::http2;
use super::proxy::Proxy;
use super::tls::{self, Ordered};
use crate::address::Address;
use crate::admin::stats::PoolReport;
use crate::admin::units::{lock, mebibytes};
use crate::memory::watch::Pressure;
use crate::ring::driver::Driver;
use crate::tls::report::Report;

/// How ringway is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    /// It serves, with an alert or with less memory than it would like.
    Degraded,
    /// It has been told to stop, and finishes what is under way.
    Draining,
    /// It turns new connections away until it has memory again.
    Overloaded,
}

#[derive(Debug, Serialize)]
pub(super) struct Health {
    status: Status,
    /// The resident memory, in MiB.
    memory_usage_mb: f64,
    memory: Memory,
    uptime_seconds: u64,
    pid: u32,
    /// Where the configuration comes from; `None` where that is flags and defaults.
    config_file: Option<PathBuf>,
    connections: Connections,
    http2: http2::Report,
    pool: PoolReport,
    listeners: Vec<Address>,
    workers: usize,
    /// What they wait by.
    driver: &'static str,
    config_generation: u64,
    alerts: Vec<Notice>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    acme: Vec<Ordered>,
    #[serde(flatten)]
    tls: Report,
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct Memory {
    rss_bytes: u64,
    ledger_bytes: u64,
    /// `memory.max_mb`, in bytes.
    ceiling_bytes: u64,
    state: &'static str,
    /// What the ledger says memory is held for.
    by_kind: Map<String, Value>,
    cgroup_limit_bytes: Option<u64>,
    cgroup_usage_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Connections {
    clients: usize,
    /// Those between two requests that hold no buffer.
    resting: u64,
    max: usize,
    tunnels: u64,
}

impl Health {
    pub(super) fn of(proxy: &Proxy) -> Self {
        let usage = proxy.usage();
        let alerts = lock(&proxy.alerts).active();
        let shared = &proxy.shared;
        let snapshot = proxy.snapshot();
        Self {
            status: status(proxy, alerts.iter().any(|alert| alert.silent_until.is_none())),
            memory_usage_mb: mebibytes(usage.rss_bytes),
            memory: Memory {
                rss_bytes: usage.rss_bytes,
                ledger_bytes: shared.ledgers.total(),
                ceiling_bytes: proxy.cleanups.ceiling_bytes(),
                state: pressure(proxy),
                by_kind: by_kind(proxy),
                cgroup_limit_bytes: usage.cgroup_limit,
                cgroup_usage_bytes: usage.cgroup_usage,
            },
            uptime_seconds: proxy.started.elapsed().as_secs(),
            pid: std::process::id(),
            config_file: shared.history.file.clone(),
            connections: Connections {
                clients: shared.live.iter().map(|live| live.load(Ordering::Relaxed)).sum(),
                resting: shared.metrics.iter().map(|metrics| metrics.parked.get()).sum(),
                max: snapshot.config.limits.clients,
                tunnels: shared.metrics.iter().map(|metrics| metrics.tunnels.get()).sum(),
            },
            http2: http2::report(proxy),
            pool: PoolReport::of(proxy),
            listeners: snapshot.listeners.clone(),
            workers: shared.occupied().count(),
            driver: driver(proxy).name(),
            config_generation: snapshot.id,
            alerts,
            acme: tls::ordered(proxy),
            tls: tls::report(proxy),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// What anybody may know: enough for a monitor, and nothing of who uses it for what.
    pub(super) fn outline(&self) -> String {
        let outline = json!({
            "status": self.status,
            "memory_usage_mb": self.memory_usage_mb,
            "connections": { "clients": self.connections.clients },
            "config_generation": self.config_generation,
        });
        outline.to_string()
    }

    pub(super) fn to_json(&self) -> String {
        // Cannot fail: every key is text and no number is infinite.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What the workers wait by: epoll, as soon as one of them has to.
fn driver(proxy: &Proxy) -> Driver {
    let shared = &proxy.shared;
    let mut drivers = shared.occupied().filter_map(|worker| shared.rings[worker].driver());
    drivers.find(|driver| *driver == Driver::Epoll).unwrap_or(Driver::IoUring)
}

/// The ledger of the whole process.
pub(super) fn by_kind(proxy: &Proxy) -> Map<String, Value> {
    let kinds = proxy.shared.ledgers.by_kind().into_iter();
    kinds.map(|(kind, bytes)| (kind.name().to_owned(), bytes.into())).collect()
}

pub(super) fn pressure(proxy: &Proxy) -> &'static str {
    proxy.shared.pressure.get().name()
}

fn status(proxy: &Proxy, has_alerts: bool) -> Status {
    let pressure = proxy.shared.pressure.get();
    if is_stopping(proxy) {
        Status::Draining
    } else if pressure == Pressure::Forced {
        Status::Overloaded
    } else if has_alerts || pressure > Pressure::Normal || tls::missing(proxy).is_some() {
        Status::Degraded
    } else {
        Status::Ok
    }
}

/// What a load balancer wants to know: `Err` says why not.
pub(super) fn readiness(proxy: &Proxy) -> Result<(), Cow<'static, str>> {
    if is_stopping(proxy) {
        return Err("draining".into());
    }
    if proxy.shared.pressure.get() == Pressure::Forced {
        return Err("overloaded".into());
    }
    tls::missing(proxy).map_or(Ok(()), |missing| Err(missing.into()))
}

fn is_stopping(proxy: &Proxy) -> bool {
    // It becomes ready before a client can ask, so that "not any more" is the only other case.
    let shared = &proxy.shared;
    shared.is_draining.load(Ordering::Acquire) || !shared.is_ready.load(Ordering::Acquire)
}
