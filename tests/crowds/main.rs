//! Crowds and shortages: what takes more open files than a process has unless it asks.
//!
//! In go thousands of clients, little memory, and every scenario of the comparison; out comes what
//! it cost and who was served. A program of its own, because it raises its limit of open files,
//! which every process that it starts inherits: `tests/it` never sees that.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other suites; this one uses a part")]
mod support;

mod compare;
mod idle;
mod memory;
mod pressure;
mod shortage;

impl support::Proxy {
    /// The bytes that its ledger holds.
    #[track_caller]
    fn ledger_bytes(&self) -> u64 {
        let health = self.admin("GET", "/health");
        let health: serde_json::Value = serde_json::from_str(&health).expect("JSON");
        health["memory"]["ledger_bytes"].as_u64().expect("a number")
    }
}
