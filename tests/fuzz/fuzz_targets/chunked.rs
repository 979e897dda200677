//! Chunked bodies: any bytes, any split, against a second decoder.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("chunked", input));
