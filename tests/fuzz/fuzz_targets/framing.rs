//! How a body ends: any framing fields, of any method, version and status.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("framing", input));
