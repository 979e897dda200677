//! Lines of the access log: any format, any values.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("access_line", input));
