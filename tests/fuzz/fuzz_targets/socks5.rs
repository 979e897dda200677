//! SOCKS5 messages of both sides: any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("socks5", input));
