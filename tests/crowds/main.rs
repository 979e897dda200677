//! Crowds and shortages: what takes more open files than a process has unless it asks.
//!
//! In go thousands of clients, little memory, and every scenario of the comparison; out comes what
//! it cost and who was served. A program of its own, because it raises its limit of open files,
//! which every process that it starts inherits: `tests/it` never sees that.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other suites; this one uses a part")]
mod support;

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

mod compare;
mod fairness;
mod idle;
mod memory;
mod pressure;
mod sessions;
mod shortage;
mod streams;

/// The machine, held by one test.
struct Alone(#[allow(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

thread_local! {
    static HOLDS_THE_MACHINE: Cell<bool> = const { Cell::new(false) };
}

/// The machine, to oneself: a crowd is in the way of what another test measures or waits for.
///
/// # Panics
///
/// If this thread holds it: a second wait would never end, nor would any other test's.
#[track_caller]
fn alone() -> Alone {
    static MACHINE: Mutex<()> = Mutex::new(());
    assert!(!HOLDS_THE_MACHINE.replace(true), "this test has the machine to itself already");
    Alone(MACHINE.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Drop for Alone {
    fn drop(&mut self) {
        HOLDS_THE_MACHINE.set(false);
    }
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
