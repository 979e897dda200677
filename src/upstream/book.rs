//! The book of all connections to origins: how many each group has, and who waits for one.
//!
//! In go requests that wait, and connections that come and go; out come the tickets that are
//! served. Three bounds hold: so many for each group, so many long answers beside those, and so
//! many in the whole process. It is behind one lock, and nothing in here waits.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::task::Waker;

use slab::Slab;

use super::fair::{Claimant, Line};
use super::permits::Group;
use super::tallies::Tally;

/// How many connections there may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// To each upstream and each target that has no number of its own.
    pub each: usize,
    /// By upstream, where it has one.
    pub own: HashMap<String, usize>,
    /// Idle ones by upstream, where there is a limit.
    pub idle: HashMap<String, usize>,
    /// Requests that may wait, by upstream, where there is a limit.
    pub queue: HashMap<String, usize>,
    /// Answers that have been on their way for long, beside those.
    pub long: usize,
    /// In the whole process.
    pub ceiling: usize,
}

pub(super) struct Book {
    pub(super) limits: Limits,
    pub(super) groups: Slab<GroupState>,
    pub(super) numbers: HashMap<Arc<str>, usize>,
    /// Requests whose group has room where the process has none.
    pub(super) everything: Line,
    /// Long answers by claimant, and those that would be ones if there were room.
    pub(super) long: Line,
    pub(super) long_open: usize,
    pub(super) open: usize,
    pub(super) tickets: Slab<Waiting>,
    pub(super) waiting: usize,
    pub(super) serial: u64,
    /// By worker.
    pub(super) tallies: Vec<Tally>,
}

pub(super) struct GroupState {
    pub(super) handle: Weak<Group>,
    /// It has a limit of its own, for all there is.
    pub(super) is_exempt: bool,
    pub(super) line: Line,
    /// Without long answers.
    pub(super) open: usize,
    /// Its requests in the line of everything.
    pub(super) promised: usize,
}

pub(super) struct Waiting {
    pub(super) group: usize,
    pub(super) claimant: Claimant,
    pub(super) serial: u64,
    pub(super) since_ms: u64,
    pub(super) worker: usize,
    /// The origin, by its number in the worker.
    pub(super) place: usize,
    pub(super) state: State,
}

pub(super) enum State {
    InGroup(Waker),
    InEverything(Waker),
    Granted,
    /// A connection that came back has been put into its hands.
    Handed,
}

impl State {
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Self::InGroup(_) | Self::InEverything(_))
    }
}

impl Book {
    pub(super) fn new(limits: Limits, workers: usize) -> Self {
        Self {
            everything: Line::new(limits.ceiling),
            long: Line::new(limits.long),
            limits,
            groups: Slab::new(),
            numbers: HashMap::new(),
            long_open: 0,
            open: 0,
            tickets: Slab::new(),
            waiting: 0,
            serial: 0,
            tallies: (0..workers).map(|_| Tally::default()).collect(),
        }
    }

    /// The limit of the group called `name`, and whether it is its own.
    pub(super) fn max_of(&self, name: &str) -> (usize, bool) {
        let own = name.strip_prefix(UPSTREAM).and_then(|name| self.limits.own.get(name));
        (own.copied().unwrap_or(self.limits.each), own.is_some())
    }

    /// How many idle connections and waiting requests the group called `name` may have.
    pub(super) fn caps_of(&self, name: &str) -> (Option<usize>, Option<usize>) {
        let own = |map: &HashMap<String, usize>| map.get(name.strip_prefix(UPSTREAM)?).copied();
        (own(&self.limits.idle), own(&self.limits.queue))
    }

    pub(super) fn has_room(&self, group: usize) -> bool {
        let state = &self.groups[group];
        state.open < state.line.max()
    }

    pub(super) fn take(&mut self, group: usize, worker: usize, claimant: Claimant) {
        self.groups[group].open += 1;
        self.open += 1;
        self.shift(group, worker, claimant, |held| held + 1);
    }

    /// Counts what a claimant holds, for as long as anybody waits: whoever holds for a while is
    /// counted anew with every tally.
    pub(super) fn shift(
        &mut self,
        group: usize,
        worker: usize,
        claimant: Claimant,
        by: fn(u32) -> u32,
    ) {
        if self.waiting == 0 {
            return;
        }
        let held = self.tallies[worker].held.entry((group, claimant)).or_default();
        let before = *held;
        *held = by(before);
        let change = |sum: u32| (sum + by(before)).saturating_sub(before);
        self.groups[group].line.hold(claimant, change);
        self.everything.hold(claimant, change);
    }

    /// Gives what is free to those whose turn it is: in `group`, which has changed, and in all.
    pub(super) fn grant(&mut self, group: usize, wakers: &mut Vec<Waker>) {
        self.promise(group, wakers);
        while self.open < self.limits.ceiling {
            let Some(head) = self.everything.head() else { break };
            let group = self.tickets[head.ticket].group;
            if self.has_room(group) {
                self.serve(head.ticket, wakers);
            } else {
                self.move_to_group(head.ticket);
            }
            self.promise(group, wakers);
        }
    }

    /// Serves the line of `group` as far as it has room, or has it wait for room in the process.
    pub(super) fn promise(&mut self, group: usize, wakers: &mut Vec<Waker>) {
        loop {
            let state = &mut self.groups[group];
            if state.open + state.promised >= state.line.max() {
                return;
            }
            let Some(head) = state.line.head() else { return };
            if self.open < self.limits.ceiling && self.everything.is_empty() {
                self.serve(head.ticket, wakers);
                continue;
            }
            state.line.leave(head.claimant, head.serial, false, self.serial);
            state.promised += 1;
            self.everything.join(head.claimant, head.serial, head.ticket);
            let ticket = &mut self.tickets[head.ticket];
            if let State::InGroup(waker) = &mut ticket.state {
                ticket.state = State::InEverything(std::mem::replace(waker, Waker::noop().clone()));
            }
        }
    }

    pub(super) fn move_to_group(&mut self, key: usize) {
        let ticket = &mut self.tickets[key];
        let state = &mut self.groups[ticket.group];
        self.everything.leave(ticket.claimant, ticket.serial, false, self.serial);
        state.promised -= 1;
        state.line.join(ticket.claimant, ticket.serial, key);
        if let State::InEverything(waker) = &mut ticket.state {
            ticket.state = State::InGroup(std::mem::replace(waker, Waker::noop().clone()));
        }
    }

    pub(super) fn serve(&mut self, key: usize, wakers: &mut Vec<Waker>) {
        let Waiting { group, worker, claimant, .. } = self.tickets[key];
        // Counted while it still waits: with the last one the counts are forgotten.
        self.take(group, worker, claimant);
        wakers.extend(self.settle(key, true, State::Granted));
    }

    /// Takes a waiting request out of its line; its waker.
    pub(super) fn settle(&mut self, key: usize, is_served: bool, state: State) -> Option<Waker> {
        let ticket = &mut self.tickets[key];
        let group = &mut self.groups[ticket.group];
        self.serial += 1;
        let now = self.serial;
        let waker = match std::mem::replace(&mut ticket.state, state) {
            State::InGroup(waker) => {
                group.line.leave(ticket.claimant, ticket.serial, is_served, now);
                waker
            }
            State::InEverything(waker) => {
                self.everything.leave(ticket.claimant, ticket.serial, is_served, now);
                group.promised -= 1;
                waker
            }
            State::Granted | State::Handed => return None,
        };
        self.waiting -= 1;
        if self.waiting == 0 {
            self.forget();
        }
        Some(waker)
    }

    /// Nobody waits: what was counted for those that did will not be true when somebody does.
    pub(super) fn forget(&mut self) {
        self.tallies.iter_mut().for_each(Tally::clear);
        self.everything.clear();
        self.long = Line::new(self.limits.long);
        for (_, state) in &mut self.groups {
            state.line.clear();
        }
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Lets a connection of `group` count among the long answers.
    pub(super) fn lengthen(&mut self, group: usize, wakers: &mut Vec<Waker>) {
        self.groups[group].open -= 1;
        self.long_open += 1;
        self.grant(group, wakers);
    }

    pub(super) fn is_disputed(&self) -> bool {
        self.waiting > 0
    }
}

/// What the name of an upstream's group begins with.
pub(crate) const UPSTREAM: &str = "upstream ";
