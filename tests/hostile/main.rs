//! Hostile and broken peers: each case attacks the real program and says what nobody else may feel.
//!
//! Comes in: clients and origins that half-close, stall, trickle, reset, flood and send urgent
//! data, by the thousand where it takes that many. Goes out: what victims saw, and what the program
//! spent: processor time, threads, memory, and that everything came home when the attack was over.
//! Loopback only, bounded in count and time.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other suites; this one uses a part")]
mod support;

// The harness.
mod admin;
mod backend;
mod mob;
mod subject;
mod victims;

// The attacks.
mod bytes;
mod chunks;
mod crowds;
mod cuts;
mod floods;
mod half_closed;
mod handshakes;
mod origins;
mod patience;
mod signals;
mod slow;
mod urgent;
