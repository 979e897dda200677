//! Templates and patterns of hooks: any text.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("template", input));
