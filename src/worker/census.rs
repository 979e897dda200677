//! What is known of the connections that could give way to new clients.
//!
//! In go looks at a worker's connections; out come those that are next, for as long as they are.
//! Who gives way when is decided in [`super::room`].

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64};

/// What all workers have in common.
#[derive(Default)]
pub(crate) struct SharedRoom {
    pub(super) is_being_made: AtomicBool,
    /// When connections were last counted by address.
    pub(super) counted_ms: AtomicU64,
}

/// What one worker knows of those that are next.
#[derive(Default)]
pub(crate) struct Room {
    /// Oldest first, as of the last look; some have become busy, or have gone, since then.
    pub(super) queue: RefCell<VecDeque<Idle>>,
    pub(super) looked_ms: Cell<u64>,
    /// All that were idle then.
    pub(super) count: Cell<usize>,
    /// By their numbers, the places of those that were last told to give way, and when that was.
    pub(super) asked: RefCell<HashMap<u64, usize>>,
    pub(super) asked_ms: Cell<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Idle {
    pub(super) since_ms: u64,
    pub(super) id: u64,
    pub(super) key: usize,
}

/// What a worker could give up.
pub(crate) struct Offer {
    /// Some that were told to give way have not heard it yet.
    pub(super) is_under_way: bool,
    /// Connections on which nothing is under way.
    pub(super) count: usize,
    /// Since when, of the oldest ones.
    pub(super) since_ms: Vec<u64>,
}

/// Connections by client address: all, and those with a head that does not get on.
pub(crate) type Census = HashMap<u128, (usize, usize)>;
