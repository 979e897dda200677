//! The checks behind the fuzz targets, by the names of the targets.
//!
//! In goes nothing; out come functions that take any bytes and panic where a promise is broken.
//! `tests/fuzz` gives them what a fuzzer makes up, `tests/corpora.rs` what fuzzers have found.
//! Nothing here runs in the proxy.

use crate::{cli, config, hooks, http, http2, observe, proxy_protocol, routing, tls};

/// Any bytes may be given to it.
pub type Check = fn(&[u8]);

/// Each target of `tests/fuzz/fuzz_targets` that needs nobody else's code.
pub const ALL: &[(&str, Check)] = &[
    ("access_format", config::invariants::access_format),
    ("access_line", observe::invariants::access_line),
    ("chunked", http::invariants::chunked),
    ("config", config::invariants::file),
    ("framing", http::invariants::framing),
    ("host", config::invariants::host),
    ("http2_frames", http2::invariants::frames),
    ("http2_hpack", http2::invariants::hpack),
    ("http2_session", http2::invariants::session),
    ("import", cli::import::check),
    ("path", http::path::check_behind_slash),
    ("proxy_protocol", proxy_protocol::check),
    ("request_head", http::invariants::request_head),
    ("response_head", http::invariants::response_head),
    ("response_repair", http::invariants::mended),
    ("rewrite", hooks::invariants::target),
    ("route", routing::invariants::route),
    ("socks5", http::socks5::check),
    ("template", config::invariants::template),
    ("tls_records", tls::invariants::server),
];
