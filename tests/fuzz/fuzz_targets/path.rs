//! Paths: the normal form of any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("path", input));
