//! Answers: llhttp reads the same status and body, or refuses.
//!
//! In go the bytes of an origin's connection up to its end, of which the first message answers GET.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::internals::http::invariants::answer_read;
use ringway_fuzz::llhttp;

fuzz_target!(|input: &[u8]| {
    if input.len() > llhttp::BYTES_MAX {
        return;
    }
    let Some((status, length, body)) = answer_read(input) else { return };
    let Some((their_status, their_body)) = llhttp::answer(input) else { return };
    assert_eq!(their_status, status, "{}", input.escape_ascii());
    assert_eq!(Some(&their_body), body.as_ref(), "{length:?} {}", input.escape_ascii());
});
