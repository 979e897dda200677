//! A scripted client, a scripted origin and the real `ringway` process between them.
//!
//! Comes in: raw bytes that a test writes down. Goes out: raw bytes that the other end received,
//! and the messages they spell. Nothing here knows how the proxy works: it is a process on port 0
//! with a configuration file, seen through its sockets, its log and `/proc`.
//!
//! Nothing here sleeps to let something happen. Every wait is for an event and ends at `DEADLINE`
//! with a panic that shows what had arrived until then.

mod admin;
pub(crate) mod browser;
mod client;
mod daemon;
mod engine;
mod gateway;
pub(crate) mod h2;
mod h2_fields;
pub(crate) mod h2_origin;
mod message;
mod names;
mod origin;
mod pebble;
mod proxy;
pub(crate) mod python;
mod records;
mod tls;
mod tls_raw;
mod tls_terms;
mod unread;
mod wire;

pub(crate) use client::Client;
pub(crate) use daemon::{Daemon, free_address};
pub(crate) use engine::{Engine, container};
pub(crate) use gateway::{is_of_http1, speaks_http2};
pub(crate) use message::{Ending, Message};
pub(crate) use names::{NameServer, Question, Srv, has_own_mounts};
pub(crate) use origin::{Blackhole, Origin, Peer, Refusal, Target};
pub(crate) use pebble::{NOWHERE, Pebble};
pub(crate) use proxy::{BINARY, Home, Proxy, Setup, ringway, run};
pub(crate) use records::{Alert, Forger};
pub(crate) use tls::{Pair, TlsClient, TlsEnd, TlsOrigin, TlsPeer, Trust};
pub(crate) use tls_raw::{RawSession, hello, records};
pub(crate) use tls_terms::Terms;
pub(crate) use wire::{Arrival, Expected, Wire};

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long any single wait may take. Far above what a loaded two-core machine needs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A plain request for `/` that keeps the connection open.
pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// A plain answer that keeps the connection open.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A request that asks a forward proxy for `/` of `authority` and keeps the connection open.
pub(crate) fn get(authority: impl Display) -> String {
    format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

/// A request for a tunnel to `authority`.
pub(crate) fn connect(authority: impl Display) -> String {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

/// The value of a field of a line of the log, without its quotes.
#[track_caller]
pub(crate) fn logged<'a>(line: &'a str, name: &str) -> &'a str {
    let start = format!("{name}=");
    let found = line.split_whitespace().find_map(|word| word.strip_prefix(start.as_str()));
    found.unwrap_or_else(|| panic!("no {name} in {line}")).trim_matches('"')
}

/// Where a program is, or a line that says that the test is skipped.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let found = path.split(':').map(|folder| Path::new(folder).join(program));
    let found = found.into_iter().find(|candidate| candidate.is_file());
    if found.is_none() {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// A one-way switch: threads wait at it until somebody opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    #[track_caller]
    pub(crate) fn wait(&self) {
        let is_open = self.0.0.lock().unwrap();
        let (_open, late) =
            self.0.1.wait_timeout_while(is_open, DEADLINE, |is_open| !*is_open).unwrap();
        assert!(!late.timed_out(), "the gate stayed shut for {DEADLINE:?}");
    }
}

/// Waits for a fact that announces itself to nobody, such as a figure in `/proc`.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    for round in 0.. {
        if is_true() {
            return;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} until {what}");
        // At first the processor is offered to whoever makes it true, then left to them.
        match round {
            0..50 => thread::yield_now(),
            _ => thread::park_timeout(Duration::from_millis(1)),
        }
    }
}

/// Bytes that repeat with no short period, so that a lost, doubled or shifted piece shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Bytes as a reader of a failed test wants to see them.
pub(crate) fn show(bytes: &[u8]) -> String {
    const SHOWN: usize = 2_000;
    let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string();
    let text = shown.replace("\\r\\n", "\\r\\n\n    ");
    match bytes.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text}... and {more} bytes more"),
    }
}
