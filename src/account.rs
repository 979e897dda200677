//! What one client connection is, does and holds, as the operator sees it.
//!
//! In go the steps of its exchanges; out come its phase, its counts and the bytes that it holds,
//! for a list that is asked for now and then and for the choice of what to cut when memory is
//! short. Cells of one thread: a step costs a store.

use std::cell::Cell;

use crate::ring::clock;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Between two requests, or before the first.
    Idle,
    Head,
    Exchange,
    Tunnel,
    /// Refused, and still read from so that the refusal arrives.
    Linger,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Head => "head",
            Self::Exchange => "exchange",
            Self::Tunnel => "tunnel",
            Self::Linger => "linger",
        }
    }
}

/// The account of one client connection. Times are on the coarse clock.
#[derive(Debug)]
pub struct Account {
    pub born_ms: u64,
    phase: Cell<Phase>,
    phase_ms: Cell<u64>,
    pub requests: Cell<u32>,
    /// Bytes of the connection's task, head buffers and copies.
    held_bytes: Cell<u32>,
    /// Bytes of chunks and pipes that a transfer holds at the moment.
    pub(crate) moving_bytes: Cell<u32>,
    /// When a transfer last moved something.
    pub moved_ms: Cell<u64>,
    /// From and to the client.
    pub received: Cell<u64>,
    pub sent: Cell<u64>,
}

impl Default for Account {
    fn default() -> Self {
        let now = clock::coarse_ms();
        Self {
            born_ms: now,
            phase: Cell::new(Phase::Idle),
            phase_ms: Cell::new(now),
            requests: Cell::new(0),
            held_bytes: Cell::new(0),
            moving_bytes: Cell::new(0),
            moved_ms: Cell::new(now),
            received: Cell::new(0),
            sent: Cell::new(0),
        }
    }
}

impl Account {
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// When the present phase began.
    pub fn phase_ms(&self) -> u64 {
        self.phase_ms.get()
    }

    pub fn enter(&self, phase: Phase, now_ms: u64) {
        self.phase.set(phase);
        self.phase_ms.set(now_ms);
    }

    pub fn hold(&self, bytes: usize) {
        self.held_bytes.set(self.held_bytes.get().saturating_add(bytes as u32));
    }

    /// It holds `bytes` and no more.
    pub fn reset(&self, bytes: usize) {
        self.held_bytes.set(bytes as u32);
    }

    pub fn bytes(&self) -> u64 {
        u64::from(self.held_bytes.get()) + u64::from(self.moving_bytes.get())
    }
}
