//! Suites of `tests/it` once more, by clients that speak HTTP/2: `cargo test --test over_http2`.
//!
//! In go the same scripts, from the same files; out come the same bytes, or the test says why
//! HTTP/2 has none such. `support::gateway` speaks for the clients, because of this crate's name.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other suites; this one uses a part")]
mod support;

#[path = "../it/access_log.rs"]
mod access_log;
#[path = "../it/bodies.rs"]
mod bodies;
#[path = "../it/buffering.rs"]
mod buffering;
#[path = "../it/drain.rs"]
mod drain;
#[path = "../it/faults.rs"]
mod faults;
#[path = "../it/forward.rs"]
mod forward;
#[path = "../it/healing.rs"]
mod healing;
#[path = "../it/health.rs"]
mod health;
#[path = "../it/hooks.rs"]
mod hooks;
#[path = "../it/limits.rs"]
mod limits;
#[path = "../it/login.rs"]
mod login;
#[path = "../it/logs.rs"]
mod logs;
#[path = "../it/paths.rs"]
mod paths;
#[path = "../it/pool.rs"]
mod pool;
#[path = "../it/reload.rs"]
mod reload;
#[path = "../it/retry.rs"]
mod retry;
#[path = "../it/reverse.rs"]
mod reverse;
#[path = "../it/timeouts.rs"]
mod timeouts;
#[path = "../it/traces.rs"]
mod traces;
#[path = "../it/tunnel.rs"]
mod tunnel;
#[path = "../it/user_rules.rs"]
mod user_rules;
