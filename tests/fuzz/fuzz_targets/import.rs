//! Files of nginx and haproxy: any bytes, and what is made of them is TOML.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("import", input));
