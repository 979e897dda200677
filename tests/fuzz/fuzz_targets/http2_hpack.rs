//! Blocks of HPACK: any bytes, and what they say encoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::internals::http2::invariants;

fuzz_target!(|input: &[u8]| invariants::hpack(input));
