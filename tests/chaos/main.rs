//! Faults of the system beneath the real program: `cargo test --test chaos`.
//!
//! In go calls and operations of a ring that fail one by one (`preload`, which the program is
//! started with), full disks, a wall clock that jumps, processes that are stopped, neighbours that
//! are killed for want of memory, few descriptors. Out comes that a request that was accepted and
//! could be served is served, that nothing hangs, and that afterwards all is served and nothing is
//! held.
#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other suites; this one uses a part")]
mod support;

mod faults;
mod group;
mod machine;
mod memory;
mod ring;
mod tool;
