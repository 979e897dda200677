//! What ringway promises, a file for each part of it: `cargo test --test it tunnel::` runs one.
//!
//! In go scripted bytes of clients and origins; out come the bytes that the other end received from
//! the real program between them. All files share one process, so a test never changes what belongs
//! to a whole process: its environment, directory, limits, signals or standard streams. What must
//! is done in a child, as `supervisor` and `hooks` do, or stands in `tests/crowds`.

#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod acme;
mod behind;
mod bench;
mod bench_http2;
mod bodies;
mod book;
mod buffering;
mod commands;
mod config;
mod demo;
mod discovery;
mod doctor;
mod drain;
mod faults;
mod forward;
mod framing;
mod grpc;
mod healing;
mod health;
mod health_checks;
mod hooks;
mod http2;
mod http2_origins;
mod import;
mod introduced;
mod keepalive;
mod lifecycle;
mod limits;
mod login;
mod logs;
mod monitor;
mod nginx;
mod observe;
mod page;
mod parent;
mod paths;
mod pool;
mod pool_learns;
mod privileges;
mod real_clients;
mod real_http2;
mod real_servers;
mod real_tools;
mod refusal;
mod regression;
mod reload;
mod retry;
mod reverse;
mod room;
mod script;
mod sim;
mod sloppy;
mod socks;
mod supervisor;
mod timeouts;
mod tls;
mod tls_cut;
mod tls_edge;
mod tls_hostile;
mod tls_origins;
mod tls_real;
mod top;
mod traces;
mod tunnel;
mod unix;
mod upgrade;
mod user_rules;
mod waits;
