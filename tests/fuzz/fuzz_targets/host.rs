//! Hosts, origins, listeners and parents in a configuration: any text.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("host", input));
