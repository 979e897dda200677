//! The origins that have failed a request, and what that says.
//!
//! In go origins by their numbers, with how they failed; out comes who is to be passed over next,
//! and which fault is said in the end. Nobody is asked here.

use crate::fault::Fault;

/// The origins that have failed a request.
#[derive(Default)]
pub(super) struct Failed {
    pub(super) origins: Vec<usize>,
    /// The last one has ended a new connection without a word: it is not asked again.
    pub(super) needs_other: bool,
    /// That has happened before.
    has_moved: bool,
    /// By which fault.
    pub(super) fault: Option<Fault>,
}

impl Failed {
    #[cold]
    pub(super) fn add(this: &mut Option<Box<Self>>, origin: usize, needs_other: bool) -> &mut Self {
        let this = this.get_or_insert_default();
        this.origins.push(origin);
        this.needs_other = needs_other;
        this.has_moved |= needs_other;
        this
    }

    /// What is said where nobody else could be reached by `fault`: whoever answers and is no use
    /// says more than an address where nobody is.
    #[cold]
    pub(super) fn fault(this: Option<&Self>, fault: Fault) -> Fault {
        let before = this.and_then(|failed| failed.fault);
        before.filter(|_| fault.is_origin_local()).unwrap_or(fault)
    }

    pub(super) fn has_moved(this: Option<&Self>) -> bool {
        this.is_some_and(|failed| failed.has_moved)
    }
}
