//! Clocks, read without a system call; mostly the coarse ones: the kernel's last tick.
//!
//! Deadlines and the `Date` field need milliseconds at best, and a request reads the clock more
//! than once; the coarse clocks cost a fifth of the precise ones and lag by 4 ms at most.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of the monotonic clock, as of the kernel's last tick.
pub fn coarse_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |t| t.tv_sec() as u64 * 1000 + t.tv_nsec() as u64 / 1_000_000)
}

/// Microseconds of the monotonic clock, precisely: for what is measured, not for what is waited
/// for.
pub fn precise_us() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000 + t.tv_nsec() as u64 / 1000)
}

/// Seconds since 1970-01-01T00:00:00Z, as of the kernel's last tick.
pub fn unix_seconds() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(0, |t| t.tv_sec() as u64)
}
