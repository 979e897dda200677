//! Whether the answers of late speak against a target.
//!
//! In go outcomes with their times, and what is too bad; out comes whether it is. Two spans of time
//! are kept, so that what has just been is never forgotten at once. No clock.

use std::time::Duration;

use crate::config::EjectConfig;

/// Answers of this span of time and of the one before.
#[derive(Debug, Default)]
pub(super) struct Window {
    began_ms: u64,
    now: (u32, u32),
    before: (u32, u32),
}

/// When a target is ejected for its answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ejection {
    /// Bad answers in a row; 0 is never.
    pub in_a_row: u32,
    /// Percent of bad answers within the window, of at least so many; 0 is never.
    pub percent: u32,
    pub window: Duration,
    pub requests_min: u32,
    /// Times the median of the others; 0 is never.
    pub slower: u32,
    pub pause: Duration,
    pub pause_max: Duration,
    /// Of an upstream's targets, so many percent at most are out for this.
    pub at_most: u32,
}

impl Ejection {
    pub(crate) fn of(config: &EjectConfig) -> Self {
        Self {
            in_a_row: config.errors,
            percent: config.percent,
            window: config.window,
            requests_min: config.requests,
            slower: config.slower,
            pause: config.pause,
            pause_max: config.pause_max,
            at_most: config.at_most,
        }
    }
}

impl Window {
    pub(super) fn count(&mut self, is_good: bool, now_ms: u64, span: Duration) {
        let span = millis(span).max(1);
        let passed = now_ms.saturating_sub(self.began_ms);
        if passed >= span {
            self.before = if passed < 2 * span { self.now } else { (0, 0) };
            (self.now, self.began_ms) = ((0, 0), now_ms);
        }
        self.now.0 = self.now.0.saturating_add(1);
        self.now.1 = self.now.1.saturating_add(u32::from(!is_good));
    }

    pub(super) fn is_bad(&self, rules: &Ejection) -> bool {
        let all = u64::from(self.now.0) + u64::from(self.before.0);
        let bad = u64::from(self.now.1) + u64::from(self.before.1);
        rules.percent > 0
            && all >= u64::from(rules.requests_min)
            && bad * 100 >= all * u64::from(rules.percent)
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
