//! Frames: any beginning, and any block in frames of any size.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::check("http2_frames", input));
