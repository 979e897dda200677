//! A counter and a gauge: numbers with one writer and any number of readers.
//!
//! In go events of the one thread that a number belongs to; out come readings that any thread may
//! take at any time. The writer loads and stores, both relaxed: no lock prefix, so it costs what a
//! plain variable costs. Two writers would lose each other's changes. Neither number waits, and a
//! counter never falls.

use std::sync::atomic::{AtomicU64, Ordering};

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn add(&self, more: u64) {
        self.0.store(self.get().wrapping_add(more), Ordering::Relaxed);
    }
}

/// Rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    /// Never goes below zero: a figure that is too low does less harm than a gigantic one.
    pub fn sub(&self, less: u64) {
        debug_assert!(self.get() >= less, "{less} taken from {}", self.get());
        self.set(self.get().saturating_sub(less));
    }
}
