//! Crowds and shortages: what takes more open files than a process has unless it asks.
//!
//! In go thousands of clients, little memory, and every scenario of the comparison; out comes what
//! it cost and who was served. A program of its own, because it raises its limit of open files,
//! which every process that it starts inherits: `tests/it` never sees that.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other suites; this one uses a part")]
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

mod compare;
mod fairness;
mod idle;
mod memory;
mod pressure;
mod shortage;

/// The machine, to oneself: a crowd is in the way of what another test measures or waits for.
fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl support::Proxy {
    /// The bytes that its ledger holds.
    #[track_caller]
    fn ledger_bytes(&self) -> u64 {
        let health = self.admin("GET", "/health");
        let health: serde_json::Value = serde_json::from_str(&health).expect("JSON");
        health["memory"]["ledger_bytes"].as_u64().expect("a number")
    }
}
