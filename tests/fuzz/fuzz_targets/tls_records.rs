//! What comes where a TLS client is awaited: any bytes, in pieces of any size.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("tls_records", input));
