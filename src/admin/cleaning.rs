//! Gives memory back: when it is asked for, and when it runs short.
//!
//! In go readings of memory, a few times a second, and wishes of an operator; out come cleanups,
//! one at a time, and what they have freed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::accounting::{Answer, Outcome};
use crate::admin::proxy::Proxy;
use crate::admin::units::{lock, mebibytes};
use crate::ledger::Kind;
use crate::memory::plan;
use crate::memory::watch::{Action, Pressure, Reading, Thresholds, Watch};
use crate::observe::events;
use crate::ring::memory;
use crate::worker::generation::Snapshot;
use crate::worker::mailbox::{Cleaned, Level, WorkerCommand};

/// Frees what can be freed, `why` being one word for the log.
///
/// A caller that comes while another cleanup of at least this level runs gets that one's outcome: a
/// thousand questions are not a thousand cleanups.
pub(super) async fn clean(proxy: &Proxy, level: Level, why: &str) -> Outcome {
    clean_unless(proxy, level, why, Instant::now()).await
}

/// A light cleanup, or the outcome of the last one where that has ended within `pause`.
pub(super) async fn clean_again(proxy: &Proxy, why: &str, pause: Duration) -> Outcome {
    let now = Instant::now();
    clean_unless(proxy, Level::Light, why, now.checked_sub(pause).unwrap_or(now)).await
}

/// Cleans up unless that has been done since.
async fn clean_unless(proxy: &Proxy, level: Level, why: &str, since: Instant) -> Outcome {
    let mut last = proxy.cleanups.last.lock().await;
    if let Some((ended, outcome)) = *last
        && ended >= since
        && outcome.level >= level
    {
        return outcome;
    }
    let before_bytes = proxy.usage().rss_bytes;
    let answers = proxy.ask(|reply| WorkerCommand::Clean { level, reply }).await;
    let mut cleaned = Cleaned::default();
    answers.given.into_iter().for_each(|worker| cleaned.add(worker));
    lock(&proxy.caches).iter().for_each(|drop_cache| drop_cache());
    memory::purge();
    measure(proxy, &proxy.snapshot());
    let outcome = Outcome { level, before_bytes, after_bytes: proxy.usage().rss_bytes, cleaned };
    *last = Some((Instant::now(), outcome));
    proxy.cleanups.runs[level as usize].fetch_add(1, Ordering::Relaxed);
    proxy.cleanups.freed_bytes.fetch_add(outcome.freed_bytes(), Ordering::Relaxed);
    let Answer { before_mb, after_mb, freed_mb, .. } = outcome.answer();
    let text = format!("{} ({why}): {freed_mb} MiB freed", level.name());
    events::note(events::Kind::Cleanup, &text);
    tracing::info!(
        level = level.name(),
        why,
        before_mb,
        after_mb,
        freed_mb,
        closed_idle = cleaned.closed_idle,
        closed_clients = cleaned.closed_clients,
        cut_transfers = cleaned.cut_transfers,
        silent_workers = answers.silent.len(),
        "cleanup"
    );
    outcome
}

/// Watches the memory for as long as ringway runs.
pub(super) async fn run(proxy: Arc<Proxy>) {
    let mut generation = proxy.snapshot();
    let mut check_interval = generation.config.memory.check_interval;
    let mut thresholds = **proxy.cleanups.thresholds.load();
    let mut watch = Watch::new(thresholds, check_interval);
    let mut last: Option<(Instant, u64)> = None;
    let mut cached = Instant::now();
    loop {
        let newest = proxy.snapshot();
        if newest.config.memory != generation.config.memory {
            check_interval = newest.config.memory.check_interval;
            thresholds = plan::thresholds(&newest.config.memory);
            proxy.cleanups.thresholds.store(Arc::new(thresholds));
            // It finds out anew how things stand, and so do we, at once.
            watch = Watch::new(thresholds, check_interval);
            last = None;
        }
        generation = newest;
        if cached.elapsed() >= CACHES_POLL {
            cached = Instant::now();
            measure(&proxy, &generation);
        }
        let ledger_bytes = proxy.shared.ledgers.total();
        let is_due = last.is_none_or(|(checked, rss_bytes)| {
            checked.elapsed() >= check_interval
                || rss_bytes > thresholds.cleanup_bytes
                || watch.pressure() > Pressure::Normal
                || is_close(ledger_bytes, thresholds)
        });
        if is_due {
            let rss_bytes = proxy.usage().rss_bytes;
            let at_ms = proxy.started.elapsed().as_millis() as u64;
            let action = watch.step(Reading { at_ms, ledger_bytes, rss_bytes });
            act(&proxy, action, ledger_bytes, rss_bytes).await;
            last = Some((Instant::now(), rss_bytes));
        }
        tokio::time::sleep(POLL).await;
    }
}

pub(super) fn measure(proxy: &Proxy, generation: &Snapshot) {
    let ledger = proxy.shared.ledgers.process();
    let caches = generation.access.cache_bytes() + generation.hooks.bytes();
    ledger.set(Kind::Caches, caches);
    ledger.set(Kind::LogQueues, proxy.logs.queue_bytes());
}

/// Whether the ledger alone could put the process under pressure. Half of the line leaves room for
/// whatever the watch adds to it.
fn is_close(ledger_bytes: u64, thresholds: Thresholds) -> bool {
    ledger_bytes > thresholds.cleanup_bytes / 2
}

async fn act(proxy: &Proxy, action: Action, ledger_bytes: u64, rss_bytes: u64) {
    // Before the cleanup: what it frees must not be taken by new connections.
    proxy.shared.pressure.set(action.pressure);
    if action.is_change {
        let (ledger_mb, rss_mb) = (mebibytes(ledger_bytes), mebibytes(rss_bytes));
        let pressure = action.pressure.name();
        if action.pressure == Pressure::Forced {
            tracing::warn!(pressure, ledger_mb, rss_mb, "memory is short: no new clients");
        } else {
            tracing::info!(pressure, ledger_mb, rss_mb, "memory");
        }
    }
    if let Some(level) = action.clean {
        let is_by_ledger = ledger_bytes > proxy.cleanups.thresholds.load().cleanup_bytes;
        clean(proxy, level, if is_by_ledger { "ledger" } else { "rss" }).await;
    }
}

/// How often the ledger is read, and the kernel asked while memory is short or nearly so.
const POLL: Duration = Duration::from_millis(100);

/// How often the caches are measured: some of them are locked for that.
const CACHES_POLL: Duration = Duration::from_secs(1);
