//! The command, without hooks of its own.
//!
//! In: the process's arguments and environment. Out: its exit code, see
//! [`ringway::internals::cli`]. A binary with hooks in Rust is this one with hooks.

use std::process::ExitCode;

use ringway::hooks::custom::Hooks;
use ringway::internals::ring::memory::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    ringway::run(Hooks::default())
}
