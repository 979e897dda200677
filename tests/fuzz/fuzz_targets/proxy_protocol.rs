//! PROXY protocol headers: any bytes, any split, and written again.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("proxy_protocol", input));
