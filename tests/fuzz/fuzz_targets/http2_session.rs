//! HTTP/2 connections of both roles: any bytes, any split, and what is held of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::internals::http2::invariants;

fuzz_target!(|input: &[u8]| invariants::session(input));
