//! Space in which bytes of a body get their outgoing form.
//!
//! In goes what is done with it at once; out comes what that says. All transfers of a thread share
//! it, because none keeps it while it waits: what a thread has of it is the same for one transfer
//! and for thousands.

use std::cell::RefCell;

use super::held::PIECE_BYTES;

#[derive(Default)]
pub(super) struct Scratch {
    /// As they came.
    pub come: Vec<u8>,
    /// As they go.
    pub framed: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Has `act` use it, with room for one piece of what comes and nothing in what goes.
pub(super) fn with<T>(act: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.come.resize(PIECE_BYTES, 0);
        scratch.framed.clear();
        act(scratch)
    })
}
