//! Pipelined requests: other servers read the same requests, in what a client sent as in what we
//! send on.
//!
//! In go the bytes of a client's connection. The part of them that we accept, and what an origin
//! would get of it, are each given to hyper's server and to llhttp, over one connection: they have
//! to see the same methods and bodies, in the same order, or to refuse; never another request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::internals::http::invariants::{SentOn, sent_on};
use ringway_fuzz::{Asked, check_requests, hyper, llhttp};

fuzz_target!(|input: &[u8]| {
    let all = sent_on(input);
    if all.is_empty() {
        return;
    }
    let ours: Vec<Asked> =
        all.iter().map(|one| (one.method.clone(), one.payload.clone())).collect();
    let joined = |part: fn(&SentOn) -> &[u8]| all.iter().map(part).collect::<Vec<_>>().concat();
    for text in [joined(|one| &one.text), joined(|one| &one.raw)] {
        if text.len() <= hyper::BYTES_MAX {
            check_requests("hyper", &text, &ours, &hyper::requests(&text));
        }
        if text.len() <= llhttp::BYTES_MAX {
            check_requests("llhttp", &text, &ours, &llhttp::requests(&text));
        }
    }
});
