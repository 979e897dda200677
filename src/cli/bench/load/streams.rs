//! What the load does otherwise where connections have streams.
//!
//! In comes what a connection's turn has come to; out go as many requests as it may have under way,
//! and a new connection for one that is of no further use. A request begins when a connection is
//! open for it: while there is none, what is due in an open loop is late.

use std::time::Instant;

use super::{Load, RETRY};
use crate::cli::bench::connection::{Stage, Turn};
use crate::cli::bench::options::{Http2, Pace};
use crate::cli::bench::streams::Outcome;
use crate::cli::bench::tally::ErrorKind;

impl Load<'_> {
    /// A connection has read what there was.
    pub(super) fn streamed(&mut self, index: u32, http2: &Http2, is_more: bool) {
        self.settle(Instant::now());
        if is_more {
            self.again.push(index);
        }
        self.go_on(index, http2);
    }

    /// Counts what has become of requests.
    fn settle(&mut self, now: Instant) {
        let mut outcomes = std::mem::take(&mut self.tools.outcomes);
        for outcome in outcomes.drain(..) {
            self.under_way -= 1;
            match outcome {
                Outcome::Answered { status, intended } => self.answered(intended, status, now),
                Outcome::Failed(kind) => {
                    self.tally.failed(kind);
                    self.tally.lost += u64::from(self.is_last_round);
                }
            }
        }
        self.tools.outcomes = outcomes;
    }

    /// Gives a connection what it can have to do.
    pub(super) fn go_on(&mut self, index: u32, http2: &Http2) {
        if self.connection(index).is_spent() && self.connection(index).stage == Stage::Streaming {
            return match self.connection(index).refusal() {
                Some(kind) => self.lost(index, http2, kind, false),
                None => self.reopen(index, http2),
            };
        }
        match self.plan.pace {
            Pace::Closed => {
                self.fill(index, http2, usize::MAX);
            }
            Pace::Open(_) => self.set_free(index),
            Pace::Idle => {}
        }
        self.flush(index, http2);
    }

    /// Takes a new connection in place of one that is of no further use.
    pub(super) fn reopen(&mut self, index: u32, http2: &Http2) {
        self.connection(index).close();
        if self.plan.pace != Pace::Idle {
            self.begin_streams(index, http2);
        }
    }

    /// Opens a connection if there is something to ask, and asks it on one that is open.
    pub(super) fn begin_streams(&mut self, index: u32, http2: &Http2) {
        if self.quota == 0 && !self.is_open_loop() {
            return;
        }
        let stage = self.connection(index).stage;
        match stage {
            Stage::Closed => self.open(index),
            Stage::Streaming if self.plan.pace == Pace::Idle => {
                if !self.fill(index, http2, 1) {
                    // It takes nothing any more.
                    self.quota -= 1;
                    self.tally.lost += u64::from(self.is_last_round);
                }
                self.flush(index, http2);
            }
            Stage::Streaming => self.go_on(index, http2),
            _ => {}
        }
    }

    /// Begins requests, at most so many. Whether any has begun.
    fn fill(&mut self, index: u32, http2: &Http2, most: usize) -> bool {
        let now = Instant::now();
        let deadline = now + self.plan.timeout;
        let before = self.under_way;
        for _ in 0..most {
            if self.quota == 0 || !self.connection(index).ask(http2, now, deadline) {
                break;
            }
            self.quota -= 1;
            self.under_way += 1;
        }
        self.under_way > before
    }

    fn flush(&mut self, index: u32, http2: &Http2) {
        let connection = &mut self.connections[index as usize];
        match connection.flush(http2, &mut self.tools) {
            Turn::Again => self.again.push(index),
            Turn::Failed(kind) => self.failed(index, kind),
            Turn::Closed => self.reopen(index, http2),
            _ => {}
        }
    }

    /// An open loop may use the connection, which stands in the queue once, however many requests
    /// it may be asked.
    fn set_free(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if !connection.has_request && connection.can_ask() {
            connection.has_request = true;
            self.free.push_back(index);
        }
    }

    /// Takes connections from the head of the queue that can be asked nothing at present.
    pub(super) fn pass_over(&mut self) {
        if self.plan.http2.is_none() {
            return;
        }
        while let Some(index) = self.free.front().copied() {
            let connection = &mut self.connections[index as usize];
            if connection.can_ask() {
                return;
            }
            connection.has_request = false;
            self.free.pop_front();
        }
    }

    /// Asks a connection of the queue what was due at that moment.
    pub(super) fn send_due(&mut self, index: u32, http2: &Http2, due: Instant, now: Instant) {
        let deadline = now + self.plan.timeout;
        self.under_way += usize::from(self.connection(index).ask(http2, due, deadline));
        self.connection(index).has_request = false;
        self.set_free(index);
        self.flush(index, http2);
    }

    /// A connection is of no use any more: all that was under way on it is lost.
    pub(super) fn lost(&mut self, index: u32, http2: &Http2, kind: ErrorKind, was_opening: bool) {
        let now = Instant::now();
        self.settle(now);
        let under_way = self.connection(index).under_way();
        self.connection(index).close();
        self.under_way -= under_way;
        // One that could not be made costs the request that it was made for.
        let failed = under_way.max(1);
        for _ in 0..failed {
            self.tally.failed(kind);
        }
        if self.is_last_round {
            self.tally.lost += failed as u64;
        }
        if under_way == 0 && !self.is_open_loop() {
            self.quota = self.quota.saturating_sub(1);
        }
        if under_way > 0 {
            return self.reopen(index, http2);
        }
        self.opening -= usize::from(was_opening);
        if self.plan.pace != Pace::Idle {
            self.later.push_back((now + RETRY, index));
        }
    }

    /// Gives up what is late on a connection, and asks for something else.
    pub(super) fn expire(&mut self, index: u32, http2: &Http2) {
        let connection = &mut self.connections[index as usize];
        connection.expire(self.now, &mut self.tools);
        if !self.tools.outcomes.is_empty() {
            self.streamed(index, http2, false);
        }
    }
}
