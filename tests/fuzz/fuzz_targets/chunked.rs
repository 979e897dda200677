//! Chunked bodies: any bytes, any split, against a second decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::internals::http::invariants;

fuzz_target!(|input: &[u8]| invariants::chunked(input));
