//! HTTP/2 connections of both roles: any bytes, any split, and what is held of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("http2_session", input));
