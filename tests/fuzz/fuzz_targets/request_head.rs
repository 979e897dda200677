//! Request heads: any bytes, any split, and what is sent on of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::internals::http::invariants;

fuzz_target!(|input: &[u8]| invariants::request_head(input));
