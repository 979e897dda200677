//! Request heads: any bytes, any split, against httparse with rules, and what is sent on of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("request_head", input));
