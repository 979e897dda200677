//! Routes: any authority and path, spelled in other ways.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("route", input));
