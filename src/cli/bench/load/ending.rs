//! Whether a thread of the load is done, and what it had then.
//!
//! In comes the time; out comes whether there is nothing left to do, and the tally of what was
//! done. The end of the warm-up is seen here too, because it is looked for as often. It begins
//! nothing but the last round of idle connections.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Load;
use crate::cli::bench::options::Pace;
use crate::cli::bench::schedule::Schedule;
use crate::cli::bench::shared::{Measured, thread_cpu};
use crate::cli::bench::tally::Tally;

impl Load<'_> {
    /// Whether there is nothing left to do; also where the warm-up ends.
    pub(super) fn is_over(&mut self) -> bool {
        if !self.is_measuring && self.now >= self.shared.begin {
            self.is_measuring = true;
            self.cpu = thread_cpu();
            if !self.plan.warmup.is_zero() {
                self.tally = Tally::new(self.plan.has_course);
                (self.tools.bytes_read, self.tools.bytes_written) = (0, 0);
                self.shown = (0, 0);
                if self.plan.pace == Pace::Closed {
                    self.quota = self.requests.unwrap_or(u64::MAX);
                }
            }
        }
        if let Some(end) = self.end.filter(|end| self.now >= *end) {
            if let Some(schedule) = self.schedule.take() {
                self.settle_schedule(&schedule, end);
            }
            self.quota = 0;
            // In an open loop what was sent is waited for: the slow ones would be missing else.
            return !self.is_open_loop() || self.under_way == 0;
        }
        match self.plan.pace {
            Pace::Open(_) => {
                let is_sent = self.schedule.as_ref().is_none_or(|it| it.next_ns().is_none());
                is_sent && self.under_way == 0
            }
            Pace::Closed => self.quota == 0 && self.under_way == 0,
            Pace::Idle => self.is_idle_over(),
        }
    }

    fn is_idle_over(&mut self) -> bool {
        if self.quota > 0 || self.under_way > 0 {
            return false;
        }
        if self.is_last_round {
            return true;
        }
        if !self.is_settled {
            self.is_settled = true;
            self.shared.settled.fetch_add(1, Ordering::Release);
        }
        if self.shared.is_held.load(Ordering::Acquire) {
            self.is_last_round = true;
            let total = self.connections.len() as u64;
            let indices = 0..self.connections.len() as u32;
            let open: Vec<u32> =
                indices.filter(|index| self.connection(*index).is_open()).collect();
            self.quota = open.len() as u64;
            self.tally.lost = total - self.quota;
            for index in open {
                self.begin(index, self.now);
            }
        }
        false
    }

    fn settle_schedule(&mut self, schedule: &Schedule, end: Instant) {
        let end_ns = end.saturating_duration_since(self.started).as_nanos() as u64;
        self.tally.unsent = schedule.backlog(end_ns);
        if let Some(next_ns) = schedule.next_ns().filter(|_| self.tally.unsent > 0) {
            let late_ns = end_ns.saturating_sub(next_ns);
            self.tally.late_ns_max = self.tally.late_ns_max.max(late_ns);
        }
    }

    pub(super) fn finish(mut self) -> Measured {
        self.tally.bytes_read = self.tools.bytes_read;
        self.tally.bytes_written = self.tools.bytes_written;
        self.tally.cpu = thread_cpu().saturating_sub(self.cpu);
        Measured { tally: self.tally, ended: self.now }
    }
}
