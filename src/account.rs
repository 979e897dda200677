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

/// A time on the coarse clock, in ticks of 16 ms: every idle connection has three of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u32);

impl Moment {
    const TICK_SHIFT: u32 = 4;

    pub fn at_ms(ms: u64) -> Self {
        Self((ms >> Self::TICK_SHIFT) as u32)
    }

    /// How long ago it was, for up to a year; 0 where it is still to come.
    pub fn age_ms(self, now_ms: u64) -> u64 {
        let ticks = Self::at_ms(now_ms).0.wrapping_sub(self.0).cast_signed();
        u64::from(ticks.max(0).cast_unsigned()) << Self::TICK_SHIFT
    }
}

/// The account of one client connection.
#[derive(Debug)]
pub struct Account {
    pub born: Moment,
    /// No request has come yet.
    pub is_new: Cell<bool>,
    /// Between two requests, holding nothing: a drain may end it once a second has passed.
    pub is_resting: Cell<bool>,
    /// Somebody has decided that it ends now.
    pub is_cut: Cell<bool>,
    phase: Cell<Phase>,
    phase_began: Cell<Moment>,
    pub requests: Cell<u32>,
    /// Bytes of the connection's task, head buffers and copies.
    held_bytes: Cell<u32>,
    /// Bytes of chunks and pipes that a transfer holds at the moment.
    pub(crate) moving_bytes: Cell<u32>,
    /// When a transfer last moved something.
    pub moved: Cell<Moment>,
    /// From and to the client.
    pub received: Cell<u64>,
    pub sent: Cell<u64>,
}

impl Default for Account {
    fn default() -> Self {
        let now = Moment::at_ms(clock::coarse_ms());
        Self {
            born: now,
            is_new: Cell::new(true),
            is_resting: Cell::new(false),
            is_cut: Cell::new(false),
            phase: Cell::new(Phase::Idle),
            phase_began: Cell::new(now),
            requests: Cell::new(0),
            held_bytes: Cell::new(0),
            moving_bytes: Cell::new(0),
            moved: Cell::new(now),
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
    pub fn phase_began(&self) -> Moment {
        self.phase_began.get()
    }

    pub fn enter(&self, phase: Phase, now_ms: u64) {
        self.phase.set(phase);
        self.phase_began.set(Moment::at_ms(now_ms));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_outlive_the_numbers_that_they_are_kept_in() {
        let year_ms = 365 * 24 * 3600 * 1000;
        for born_ms in [0, 17, (u64::from(u32::MAX) << 4) - 5, 1 << 45] {
            let born = Moment::at_ms(born_ms);
            assert_eq!(born.age_ms(born_ms), 0);
            assert_eq!(born.age_ms(born_ms.saturating_sub(40)), 0);
            for age_ms in [1000, 86_400_000, year_ms] {
                assert!(born.age_ms(born_ms + age_ms).abs_diff(age_ms) < 16, "{age_ms}");
            }
        }
    }
}
