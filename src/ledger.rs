//! What memory is held for, counted where it is taken and given back.
//!
//! In: bytes that came and went, from the one thread that a ledger belongs to. Out: figures that
//! any thread may read at any time, by worker and by kind, and the answer to "is there room for
//! more". Nothing here locks or asks the kernel; what the process really occupies is
//! `memory::usage`'s part.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::Gauge;

/// What memory is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The mapped pools of chunks, whole.
    PinnedChunks,
    /// Chunks of those in the hands of a transfer.
    LeasedChunks,
    /// Buffers for heads, with connections or kept for the next ones.
    HeadBuffers,
    /// Client connections: their tasks and what stands in tables for them.
    Connections,
    /// Connections to origins, busy and idle.
    Pool,
    Tunnels,
    /// Names and passwords that were looked up.
    Caches,
    /// Lines that wait to be written.
    LogQueues,
    /// Sessions of TLS, and what they hold of records.
    Tls,
    /// Bodies that routes buffer.
    Bodies,
    /// Connections of HTTP/2: sessions, tables, what waits to be sent or read.
    Streams,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::PinnedChunks,
        Self::LeasedChunks,
        Self::HeadBuffers,
        Self::Connections,
        Self::Pool,
        Self::Tunnels,
        Self::Caches,
        Self::LogQueues,
        Self::Tls,
        Self::Bodies,
        Self::Streams,
    ];

    /// As metrics and tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PinnedChunks => "pinned_chunks",
            Self::LeasedChunks => "leased_chunks",
            Self::HeadBuffers => "head_buffers",
            Self::Connections => "connections",
            Self::Pool => "pool",
            Self::Tunnels => "tunnels",
            Self::Caches => "caches",
            Self::LogQueues => "log_queues",
            Self::Tls => "tls",
            Self::Bodies => "bodies",
            Self::Streams => "streams",
        }
    }

    /// Whether another kind counts these bytes already: no total may count them twice.
    pub fn is_part_of_another(self) -> bool {
        self == Self::LeasedChunks
    }
}

/// The memory of one worker. Its thread writes, any thread reads. Cache lines of its own, so that
/// two workers never write to the same one.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Ledger {
    bytes: [Gauge; 11],
}

impl Ledger {
    pub fn gauge(&self, kind: Kind) -> &Gauge {
        &self.bytes[kind as usize]
    }

    pub fn get(&self, kind: Kind) -> u64 {
        self.gauge(kind).get()
    }

    pub fn set(&self, kind: Kind, bytes: u64) {
        self.gauge(kind).set(bytes);
    }

    pub fn add(&self, kind: Kind, bytes: u64) {
        self.gauge(kind).add(bytes);
    }

    pub fn sub(&self, kind: Kind, bytes: u64) {
        self.gauge(kind).sub(bytes);
    }

    /// All of it, each byte once.
    pub fn total(&self) -> u64 {
        sum(|kind| self.get(kind))
    }
}

/// Memory that belongs to no worker: any thread may write.
#[derive(Debug, Default)]
pub(crate) struct ProcessLedger {
    bytes: [AtomicU64; 11],
}

impl ProcessLedger {
    pub(crate) fn get(&self, kind: Kind) -> u64 {
        self.bytes[kind as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, kind: Kind, bytes: u64) {
        self.bytes[kind as usize].store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        sum(|kind| self.get(kind))
    }
}

/// The ledgers of all workers and the process's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledgers {
    workers: Vec<Arc<Ledger>>,
    process: Arc<ProcessLedger>,
}

impl Ledgers {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Arc::default()).collect(), process: Arc::default() }
    }

    pub(crate) fn workers(&self) -> &[Arc<Ledger>] {
        &self.workers
    }

    pub(crate) fn process(&self) -> &Arc<ProcessLedger> {
        &self.process
    }

    /// Everything that is accounted for, each byte once.
    pub(crate) fn total(&self) -> u64 {
        self.workers.iter().map(|worker| worker.total()).sum::<u64>() + self.process.total()
    }

    /// In the order of [`Kind::ALL`].
    pub(crate) fn by_kind(&self) -> [(Kind, u64); 11] {
        Kind::ALL.map(|kind| {
            let of_workers: u64 = self.workers.iter().map(|worker| worker.get(kind)).sum();
            (kind, of_workers + self.process.get(kind))
        })
    }
}

fn sum(of: impl Fn(Kind) -> u64) -> u64 {
    Kind::ALL.into_iter().filter(|kind| !kind.is_part_of_another()).map(of).sum()
}

/// How hard a cleanup tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    /// What is not in use goes: idle connections to origins, caches, free buffers.
    Light,
    /// What is in use goes too, until there is room again.
    Forced,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Forced => "forced",
        }
    }
}

/// How much memory one worker may hold.
///
/// What every admitted connection is sure to get was planned (`memory::plan`) and needs no asking.
/// Growth beyond that comes out of a purse of its own, so that no large head can take the memory
/// that another connection was promised.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "a unit in a name is worth a repetition")]
pub struct Budget {
    /// Everything in the worker's ledger together.
    share_bytes: Cell<u64>,
    /// What all growth together may come to.
    growth_bytes: Cell<u64>,
    grown_bytes: Cell<u64>,
}

impl Budget {
    pub fn new(share_bytes: u64, growth_bytes: u64) -> Self {
        Self {
            share_bytes: Cell::new(share_bytes),
            growth_bytes: Cell::new(growth_bytes),
            grown_bytes: Cell::new(0),
        }
    }

    /// Goes by the bounds of `other` from now on.
    pub fn set(&self, other: &Self) {
        self.share_bytes.set(other.share_bytes.get());
        self.growth_bytes.set(other.growth_bytes.get());
    }

    /// The same with `growth_bytes` for growth at most; what is promised is promised as before.
    pub(crate) fn with_purse(self, growth_bytes: u64) -> Self {
        let cut_bytes = self.growth_bytes.get().saturating_sub(growth_bytes);
        Self::new(self.share_bytes.get() - cut_bytes, self.growth_bytes.get() - cut_bytes)
    }

    /// What everything in the ledger may come to.
    pub(crate) fn share_bytes(&self) -> u64 {
        self.share_bytes.get()
    }

    /// A budget that never says no, for tests and for pools without an owner.
    pub fn unlimited() -> Self {
        Self::new(u64::MAX, u64::MAX)
    }

    /// Whether `more_bytes` fit, as the ledger stands.
    pub fn admits(&self, ledger: &Ledger, more_bytes: u64) -> bool {
        ledger.total().saturating_add(more_bytes) <= self.share_bytes.get()
    }

    /// Takes `more_bytes` out of the purse for growth. A caller that was told yes gives them back
    /// with [`Budget::shrink`].
    pub fn grow(&self, ledger: &Ledger, more_bytes: u64) -> bool {
        let grown = self.grown_bytes.get().saturating_add(more_bytes);
        let is_granted = grown <= self.growth_bytes.get() && self.admits(ledger, more_bytes);
        if is_granted {
            self.grown_bytes.set(grown);
        }
        is_granted
    }

    pub fn shrink(&self, bytes: u64) {
        debug_assert!(self.grown_bytes.get() >= bytes, "more given back than taken");
        self.grown_bytes.set(self.grown_bytes.get().saturating_sub(bytes));
    }

    /// Growth that is out now.
    pub fn grown_bytes(&self) -> u64 {
        self.grown_bytes.get()
    }
}

/// Bytes that wait for a slow receiver, and are counted for as long.
pub(crate) struct Counted {
    bytes: Vec<u8>,
    ledger: Arc<Ledger>,
    budget: Rc<Budget>,
}

impl Counted {
    /// A copy of `bytes`; `None` where there is no memory for it.
    pub(crate) fn copy(bytes: &[u8], ledger: &Arc<Ledger>, budget: &Rc<Budget>) -> Option<Self> {
        let count = bytes.len() as u64;
        if !budget.grow(ledger, count) {
            return None;
        }
        ledger.add(Kind::HeadBuffers, count);
        Some(Self { bytes: bytes.to_vec(), ledger: ledger.clone(), budget: budget.clone() })
    }
}

impl Deref for Counted {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.ledger.sub(Kind::HeadBuffers, self.bytes.len() as u64);
        self.budget.shrink(self.bytes.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_place_and_name() {
        let ledger = Ledger::default();
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            ledger.add(kind, 1 << index);
        }
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(ledger.get(kind), 1 << index);
        }
        let mut names: Vec<_> = Kind::ALL.into_iter().map(Kind::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
        assert_eq!(size_of::<Ledger>(), 128);
    }

    #[test]
    fn a_total_counts_each_byte_once() {
        let ledgers = Ledgers::new(2);
        for worker in ledgers.workers() {
            worker.set(Kind::PinnedChunks, 100);
            worker.add(Kind::LeasedChunks, 60);
            worker.add(Kind::HeadBuffers, 7);
            worker.sub(Kind::HeadBuffers, 2);
        }
        ledgers.process().set(Kind::LogQueues, 20);
        assert_eq!(ledgers.total(), 2 * 105 + 20);
        let kinds = ledgers.by_kind();
        assert_eq!(kinds[0], (Kind::PinnedChunks, 200));
        assert_eq!(kinds[1], (Kind::LeasedChunks, 120));
        assert_eq!(kinds[7], (Kind::LogQueues, 20));
        let each_once = kinds.iter().filter(|(kind, _)| !kind.is_part_of_another());
        assert_eq!(each_once.map(|(_, bytes)| bytes).sum::<u64>(), ledgers.total());
    }

    #[test]
    fn growth_is_granted_while_both_the_purse_and_the_share_last() {
        let ledger = Ledger::default();
        let budget = Budget::new(100, 30);
        ledger.set(Kind::HeadBuffers, 60);
        assert!(budget.admits(&ledger, 40) && !budget.admits(&ledger, 41));
        assert!(budget.grow(&ledger, 20));
        // The purse has 10 left, whatever room there is.
        assert!(!budget.grow(&ledger, 11));
        assert!(budget.grow(&ledger, 10));
        assert_eq!(budget.grown_bytes(), 30);
        budget.shrink(30);
        // The share is used up, whatever the purse says.
        ledger.set(Kind::HeadBuffers, 100);
        assert!(!budget.grow(&ledger, 1) && budget.grow(&ledger, 0));
        assert!(Budget::unlimited().grow(&ledger, u64::MAX - 100));
    }
}
