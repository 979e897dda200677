//! Response heads: any bytes, any split, and what is sent on of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("response_head", input));
