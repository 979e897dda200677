//! Clocks, read without a system call; mostly the coarse ones: the kernel's last tick.
//!
//! Deadlines and the `Date` field need milliseconds at best, and a request reads the clock more
//! than once; the coarse clocks cost a fifth of the precise ones and lag by 4 ms at most.

use std::cell::Cell;

use nix::time::{ClockId, clock_gettime};

thread_local! {
    /// What [`coarse_ms`] has read in this turn of the loop; `UNREAD` where it has not, `NO_LOOP`
    /// on a thread that has none.
    static TURN_MS: Cell<u64> = const { Cell::new(NO_LOOP) };
    static TURN: Cell<u32> = const { Cell::new(0) };
}

const UNREAD: u64 = 0;
const NO_LOOP: u64 = u64::MAX;

/// Milliseconds of the monotonic clock, as of the kernel's last tick before somebody first asked in
/// this turn of the loop, or before the call where there is no loop.
pub(crate) fn coarse_ms() -> u64 {
    match TURN_MS.get() {
        NO_LOOP => read_ms(),
        UNREAD => {
            let now = read_ms();
            TURN_MS.set(now);
            now
        }
        now => now,
    }
}

/// The number of this turn of the thread's loop, with wrap-around.
pub(crate) fn turn() -> u32 {
    TURN.get()
}

/// Another turn of this thread's loop begins.
pub(super) fn begin_turn() {
    TURN_MS.set(UNREAD);
    TURN.set(TURN.get().wrapping_add(1));
}

fn read_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |t| t.tv_sec() as u64 * 1000 + t.tv_nsec() as u64 / 1_000_000)
}

/// Microseconds of the monotonic clock, precisely: for what is measured, not for what is waited
/// for.
pub(crate) fn precise_us() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000 + t.tv_nsec() as u64 / 1000)
}

/// Seconds since 1970-01-01T00:00:00Z, as of the kernel's last tick.
pub(crate) fn unix_seconds() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(0, |t| t.tv_sec() as u64)
}
