//! Formats of the access log, and conditions for its lines: any text.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("access_format", input));
