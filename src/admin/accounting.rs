//! Memory: the watch on it, and what is done when it runs short.
//!
//! In go the ledger, which is read ten times a second, and the kernel's figures, which are read
//! every `memory.check_interval` and as often as the ledger where memory may be short; out go
//! cleanups, to the workers and the caches, and one log line for each. `POST /admin/cleanup` goes
//! the same way. When to act is `memory::watch`'s decision, and how a worker frees memory is the
//! worker's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::admin::units::mebibytes;
use crate::config::MemoryConfig;
use crate::memory::plan;
use crate::memory::watch::Thresholds;
use crate::worker::mailbox::{Cleaned, Level};

/// What cleanups have done, and the lines that call for one.
pub(super) struct Cleanups {
    pub(super) thresholds: ArcSwap<Thresholds>,
    /// By level.
    pub(super) runs: [AtomicU64; 2],
    pub(super) freed_bytes: AtomicU64,
    /// Held while one runs. The last one with the moment of its end.
    pub(super) last: Mutex<Option<(Instant, Outcome)>>,
}

/// What a cleanup has achieved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) level: Level,
    pub(super) before_bytes: u64,
    pub(super) after_bytes: u64,
    pub(super) cleaned: Cleaned,
}

/// The same, for the caller.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    pub(super) level: &'static str,
    pub(super) before_mb: f64,
    pub(super) after_mb: f64,
    pub(super) freed_mb: f64,
    closed_idle: usize,
    closed_clients: usize,
    cut_transfers: usize,
}

impl Cleanups {
    pub(super) fn new(memory: &MemoryConfig) -> Self {
        Self {
            thresholds: ArcSwap::from_pointee(plan::thresholds(memory)),
            runs: Default::default(),
            freed_bytes: AtomicU64::new(0),
            last: Mutex::new(None),
        }
    }

    /// `memory.max_mb`, in bytes.
    pub(super) fn ceiling_bytes(&self) -> u64 {
        self.thresholds.load().max_bytes
    }

    pub(super) fn runs(&self, level: Level) -> u64 {
        self.runs[level as usize].load(Ordering::Relaxed)
    }

    /// Resident memory that went during cleanups.
    pub(super) fn freed_bytes(&self) -> u64 {
        self.freed_bytes.load(Ordering::Relaxed)
    }
}

impl Outcome {
    pub(super) fn freed_bytes(&self) -> u64 {
        self.before_bytes.saturating_sub(self.after_bytes)
    }

    pub(super) fn answer(&self) -> Answer {
        Answer {
            level: self.level.name(),
            before_mb: mebibytes(self.before_bytes),
            after_mb: mebibytes(self.after_bytes),
            freed_mb: mebibytes(self.freed_bytes()),
            closed_idle: self.cleaned.closed_idle,
            closed_clients: self.cleaned.closed_clients,
            cut_transfers: self.cleaned.cut_transfers,
        }
    }
}
