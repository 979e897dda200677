//! Budgets against peers that make us work for nothing.
//!
//! In go the frames of each class as they come, and the time; out comes whether there are too many.
//! Each class has a bucket of its own: so many at once, so many a second. Work that a peer has
//! reason for earns it more: the frames that come with a request, and the windows of what it
//! downloads. A clock is not asked before a bucket is empty.

use super::error::GuardReason;
use crate::limits::{
    HTTP2_EARNED_BY_DATA, HTTP2_EARNED_BY_REQUEST, HTTP2_FRAMES_BURST, HTTP2_FRAMES_PER_SECOND,
};

/// One class's budget.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u32,
    /// When it was filled last, in milliseconds, with wrap-around.
    filled_ms: u32,
}

/// What a bucket is filled by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub burst: u32,
    pub per_second: u32,
}

impl Bucket {
    /// Takes one. An empty bucket gets what the time since it was last filled is worth, at most its
    /// size: over any time there is no more to take than two bursts and the rate.
    #[inline]
    fn take(&mut self, rate: Rate, now_ms: u64) -> bool {
        if self.left == 0 {
            let now_ms = now_ms as u32;
            let passed = u64::from(now_ms.wrapping_sub(self.filled_ms));
            let earned = (passed * u64::from(rate.per_second) / 1000).min(u64::from(rate.burst));
            if earned == 0 {
                return false;
            }
            self.filled_ms = now_ms;
            self.left = earned as u32;
        }
        self.left -= 1;
        true
    }

    #[inline]
    fn earn(&mut self, count: u32) {
        self.left = (self.left + count).min(HTTP2_FRAMES_BURST);
    }
}

/// The classes, in the order of their buckets.
const CLASSES: [GuardReason; 9] = [
    GuardReason::Resets,
    GuardReason::Settings,
    GuardReason::Ping,
    GuardReason::Priority,
    GuardReason::UnknownFrames,
    GuardReason::WindowUpdates,
    GuardReason::EmptyData,
    GuardReason::LateFrames,
    GuardReason::InterimResponses,
];

/// The buckets of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    buckets: [Bucket; CLASSES.len()],
    resets: Rate,
}

const FRAMES: Rate = Rate { burst: HTTP2_FRAMES_BURST, per_second: HTTP2_FRAMES_PER_SECOND };

impl Guard {
    pub(crate) fn new(resets: Rate, now_ms: u64) -> Self {
        let mut buckets =
            [Bucket { left: HTTP2_FRAMES_BURST, filled_ms: now_ms as u32 }; CLASSES.len()];
        buckets[0].left = resets.burst;
        Self { buckets, resets }
    }

    /// One more of a class that has a bucket. An error: too many.
    #[inline]
    pub(crate) fn count(&mut self, class: GuardReason, now_ms: u64) -> Result<(), GuardReason> {
        let Some(at) = CLASSES.iter().position(|it| *it == class) else {
            return Err(class);
        };
        let rate = if at == 0 { self.resets } else { FRAMES };
        if self.buckets[at].take(rate, now_ms) { Ok(()) } else { Err(class) }
    }

    /// A request has come.
    #[inline]
    pub(crate) fn earn_by_request(&mut self) {
        for at in [2, 3, 5] {
            self.buckets[at].earn(HTTP2_EARNED_BY_REQUEST);
        }
    }

    /// We have asked for something.
    #[inline]
    pub(crate) fn earn_by_question(&mut self) {
        self.buckets[8].earn(HTTP2_EARNED_BY_REQUEST);
    }

    /// A frame of data with something in it has been sent.
    #[inline]
    pub(crate) fn earn_by_data(&mut self) {
        for at in [2, 5] {
            self.buckets[at].earn(HTTP2_EARNED_BY_DATA);
        }
    }
}

const _: () = assert!(matches!(CLASSES[2], GuardReason::Ping));
const _: () = assert!(matches!(CLASSES[3], GuardReason::Priority));
const _: () = assert!(matches!(CLASSES[5], GuardReason::WindowUpdates));
const _: () = assert!(matches!(CLASSES[8], GuardReason::InterimResponses));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{HTTP2_RESETS_BURST, HTTP2_RESETS_PER_SECOND};

    const RESETS: Rate = Rate { burst: HTTP2_RESETS_BURST, per_second: HTTP2_RESETS_PER_SECOND };

    fn taken(guard: &mut Guard, class: GuardReason, now_ms: u64) -> u32 {
        (0..1_000_000).take_while(|_| guard.count(class, now_ms).is_ok()).count() as u32
    }

    #[test]
    fn each_class_has_its_burst_and_then_its_rate() {
        for class in CLASSES {
            let rate = if class == GuardReason::Resets { RESETS } else { FRAMES };
            let start = u64::from(u32::MAX) - 5000;
            let mut guard = Guard::new(RESETS, start);
            assert_eq!(taken(&mut guard, class, start), rate.burst, "{class:?}");
            assert_eq!(taken(&mut guard, class, start + 1), 0);
            // The clock's lower half wraps meanwhile.
            assert_eq!(taken(&mut guard, class, start + 10_000), rate.per_second * 10);
            assert_eq!(taken(&mut guard, class, start + 1_000_000), rate.burst);
        }
    }

    #[test]
    fn one_class_does_not_pay_for_another() {
        let mut guard = Guard::new(RESETS, 0);
        assert_eq!(taken(&mut guard, GuardReason::Ping, 0), HTTP2_FRAMES_BURST);
        assert_eq!(taken(&mut guard, GuardReason::EmptyData, 0), HTTP2_FRAMES_BURST);
    }

    #[test]
    fn windows_of_a_long_download_are_no_flood() {
        let mut guard = Guard::new(RESETS, 0);
        for _ in 0..1_000_000 {
            guard.earn_by_data();
            for _ in 0..2 {
                assert_eq!(guard.count(GuardReason::WindowUpdates, 0), Ok(()));
            }
        }
    }

    #[test]
    fn what_is_earned_does_not_grow_beyond_a_burst() {
        let mut guard = Guard::new(RESETS, 0);
        for _ in 0..10_000 {
            guard.earn_by_request();
        }
        assert_eq!(taken(&mut guard, GuardReason::WindowUpdates, 0), HTTP2_FRAMES_BURST);
    }

    #[test]
    fn what_has_no_bucket_is_always_too_much() {
        let mut guard = Guard::new(RESETS, 0);
        assert_eq!(guard.count(GuardReason::Outbox, 0), Err(GuardReason::Outbox));
    }
}
