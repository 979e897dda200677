//! Rewrites, redirects and edited fields: any pattern, template, target and value.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("rewrite", input));
