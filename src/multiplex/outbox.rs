//! Memory for those that have much to say.
//!
//! In go sessions; out come the same ones, with a large outbox for as long as there is something in
//! it. A worker keeps a few such buffers: one that is made anew for each piece of a body costs more
//! than the piece, since its pages come from the kernel.

use std::cell::RefCell;

use crate::http2::session::Session;
use crate::limits::HTTP2_OUTBOX_BYTES;
use crate::ring::SEALED_LEAD;

/// Whoever sends a frame of a body asks for room before it and not behind it; some more is for
/// what is said beside bodies.
const BYTES: usize = HTTP2_OUTBOX_BYTES + 20 * 1024;
/// Where frames begin in it. What goes into them begins at [`SEALED_LEAD`] itself, and must not be
/// copied to right behind that, for the same reason: each frame's head moves it on by 9 bytes.
const LEAD: usize = SEALED_LEAD + 64;
/// What a worker keeps at most: connections are served one after the other.
const KEPT_MAX: usize = 4;
/// What is said without bodies has room in this.
const SMALL_BYTES: usize = 16 * 1024;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Has a large outbox ready for a piece of a body.
pub(super) fn lend(session: &mut Session) {
    if session.outbox_bytes() < BYTES {
        let kept = KEPT.with_borrow_mut(Vec::pop);
        session.swap_outbox(kept.unwrap_or_else(|| Vec::with_capacity(BYTES)), LEAD);
    }
}

/// Takes a large outbox back when nothing waits in it.
pub(super) fn take_back(session: &mut Session) {
    if session.pending().is_empty() && session.outbox_bytes() > SMALL_BYTES {
        let outbox = session.swap_outbox(Vec::new(), 0);
        if outbox.capacity() == BYTES {
            KEPT.with_borrow_mut(|kept| {
                if kept.len() < KEPT_MAX {
                    kept.push(outbox);
                }
            });
        }
    }
}
