//! Blocks of HPACK: any bytes, and what they say encoded again.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("http2_hpack", input));
