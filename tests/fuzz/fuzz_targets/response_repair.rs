//! Answers of sloppy origins: any bytes, in two parts, and what they become.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("response_repair", input));
