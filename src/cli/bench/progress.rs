//! How far a run is, as one line on a terminal.
//!
//! In go the counts of a run that is under way; out goes a bar with the time and the counts, over
//! the one before. Nothing is written where standard error is no terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::options::Plan;
use super::shared::Shared;

const BAR_CELLS: u64 = 30;

pub(super) struct Progress {
    began: Instant,
    is_shown: bool,
}

impl Progress {
    pub(super) fn new(plan: &Plan) -> Self {
        let is_shown = plan.has_progress && io::stderr().is_terminal();
        Self { began: Instant::now(), is_shown }
    }

    pub(super) fn show(&self, plan: &Plan, shared: &Shared) {
        if !self.is_shown {
            return;
        }
        let answered = shared.answered.load(Ordering::Relaxed);
        let failed = shared.failed.load(Ordering::Relaxed);
        let elapsed = self.began.elapsed();
        let duration = plan.warmup + plan.duration.unwrap_or_default();
        let (done, total) = match plan.requests {
            Some(requests) => (answered + failed, requests),
            None => (elapsed.as_millis() as u64, duration.as_millis() as u64),
        };
        put(&line(done, total, elapsed, &format!("{answered} answers, {failed} errors")));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            put("");
        }
    }
}

/// In place of what the terminal's line holds. One that cannot be written to shows nothing.
fn put(text: &str) {
    let mut terminal = io::stderr().lock();
    let _ = write!(terminal, "\r{text}\x1b[K").and_then(|()| terminal.flush());
}

fn line(done: u64, total: u64, elapsed: Duration, counts: &str) -> String {
    let filled = (done.saturating_mul(BAR_CELLS) / total.max(1)).min(BAR_CELLS) as usize;
    let rest = BAR_CELLS as usize - filled;
    format!("{}{} {}s  {counts}", "█".repeat(filled), "░".repeat(rest), elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_the_run_is_far_and_never_fuller() {
        for (done, total, filled) in
            [(0, 10, 0), (5, 10, 15), (10, 10, 30), (99, 10, 30), (1, 0, 30)]
        {
            let shown = line(done, total, Duration::from_millis(2_700), "5 answers, 0 errors");
            assert_eq!(shown.matches('█').count(), filled, "{shown}");
            assert_eq!(shown.matches('░').count(), 30 - filled, "{shown}");
            assert!(shown.ends_with(" 2s  5 answers, 0 errors"), "{shown}");
        }
    }
}
