//! Who holds what while others wait, and what of it has to be given up.
//!
//! In goes what each worker has counted among its own connections; out come verdicts: an answer
//! that counts among the long ones from now on, and a connection whose holder is guilty. Guilty is
//! who moves next to nothing and makes others wait, and who holds more than his share and has not
//! moved for a moment; only as many are cut as somebody waits for. Nothing is ended here.

use std::collections::HashMap;
use std::task::Waker;

use super::book::Book;
use super::fair::{Claimant, Holding, Line};
use super::permits::PoolShared;

/// What one worker has counted, by group.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// What each claimant holds, long answers included.
    pub(super) held: HashMap<(usize, Claimant), u32>,
    long: HashMap<Claimant, u32>,
    /// Connections that have been told to end and have not yet.
    coming: HashMap<usize, usize>,
    coming_long: usize,
    /// Answers that would be long ones if there were room.
    wishes: Vec<(Claimant, u64)>,
}

impl Tally {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Counts a connection that is about to end.
    fn expect(&mut self, view: &View) {
        *self.coming.entry(view.group).or_default() += 1;
        self.coming_long += usize::from(view.is_long);
    }
}

/// A connection in the hands of an exchange.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct View {
    /// What the worker knows it by.
    pub id: usize,
    pub(super) group: usize,
    pub claimant: Claimant,
    pub(super) is_long: bool,
    /// It carries an answer that has been on its way for long.
    pub is_streaming: bool,
    /// It has moved next to nothing for long, and its holder makes it wait.
    pub is_slow: bool,
    /// Since when nothing to speak of has moved, and whether that is a while.
    pub still_ms: u64,
    pub is_still: bool,
    /// What its origin may take to take something; 0 where that is what it is elsewhere.
    pub write_ms: u32,
    /// It has been told to end.
    pub is_ending: bool,
}

impl View {
    pub(super) fn new(id: usize, group: usize, claimant: Claimant) -> Self {
        Self {
            id,
            group,
            claimant,
            is_long: false,
            is_streaming: false,
            is_slow: false,
            write_ms: 0,
            still_ms: 0,
            is_still: false,
            is_ending: false,
        }
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts among the long answers from now on.
    Long,
    /// Cut, for moving next to nothing.
    Slow,
    /// Cut, for being more than its holder's share.
    Excess,
}

impl Verdict {
    fn is_cut(self) -> bool {
        self != Self::Long
    }
}

/// By what the worker knows a connection by.
pub(super) type Verdicts = HashMap<usize, Verdict>;

impl PoolShared {
    /// Takes the count of a worker's connections, and says what becomes of them.
    pub(super) fn judge(&self, worker: usize, views: &[View]) -> Verdicts {
        self.with(|book, wakers| {
            let mut verdicts = Verdicts::new();
            if !book.is_disputed() {
                return verdicts;
            }
            book.publish(worker, views);
            book.judge_long(worker, views, &mut verdicts, wakers);
            book.judge_groups(views, &mut verdicts);
            book.judge_all(views, &mut verdicts);
            let is_cut = |view: &&View| verdicts.get(&view.id).is_some_and(|it| it.is_cut());
            let tally = &mut book.tallies[worker];
            for view in views.iter().filter(is_cut) {
                tally.expect(view);
            }
            verdicts
        })
    }
}

impl Book {
    /// Puts what `worker` has counted in the place of what it had counted before.
    fn publish(&mut self, worker: usize, views: &[View]) {
        let mut tally = Tally::default();
        for view in views {
            *tally.held.entry((view.group, view.claimant)).or_default() += 1;
            if view.is_long {
                *tally.long.entry(view.claimant).or_default() += 1;
            }
            if view.is_ending {
                tally.expect(view);
            }
        }
        let before = std::mem::replace(&mut self.tallies[worker], tally);
        for ((group, claimant), held) in before.held {
            if let Some(state) = self.groups.get_mut(group) {
                state.line.hold(claimant, |sum| sum.saturating_sub(held));
            }
            self.everything.hold(claimant, |sum| sum.saturating_sub(held));
        }
        for (claimant, held) in before.long {
            self.long.hold(claimant, |sum| sum.saturating_sub(held));
        }
        for (claimant, serial) in before.wishes {
            self.long.leave(claimant, serial, false, serial);
        }
        let tally = &self.tallies[worker];
        for ((group, claimant), held) in &tally.held {
            if let Some(state) = self.groups.get_mut(*group) {
                state.line.hold(*claimant, |sum| sum + held);
            }
            self.everything.hold(*claimant, |sum| sum + held);
        }
        for (claimant, held) in &tally.long {
            self.long.hold(*claimant, |sum| sum + held);
        }
    }

    /// Answers that have been on their way for long leave the count of a group for which others
    /// wait. Where there is no room for them, those yield who have more than their share of it.
    fn judge_long(
        &mut self,
        worker: usize,
        views: &[View],
        verdicts: &mut Verdicts,
        wakers: &mut Vec<Waker>,
    ) {
        for view in views.iter().filter(|view| view.is_streaming && !view.is_long) {
            let state = &self.groups[view.group];
            if state.is_exempt || state.line.is_empty() || view.is_ending {
                continue;
            }
            if self.long_open < self.long.max() {
                self.long.hold(view.claimant, |held| held + 1);
                *self.tallies[worker].long.entry(view.claimant).or_default() += 1;
                self.lengthen(view.group, wakers);
                verdicts.insert(view.id, Verdict::Long);
            } else {
                let serial = self.next_serial();
                self.long.join(view.claimant, serial, view.id);
                self.tallies[worker].wishes.push((view.claimant, serial));
            }
        }
        let coming = self.tallies.iter().map(|tally| tally.coming_long).sum();
        let long = views.iter().filter(|view| view.is_long);
        verdicts.extend(excess(&self.long, long, coming));
    }

    fn judge_groups(&self, views: &[View], verdicts: &mut Verdicts) {
        let mut by_group: HashMap<usize, Vec<&View>> = HashMap::new();
        for view in views.iter().filter(|view| !view.is_long) {
            if !self.groups[view.group].line.is_empty() && !verdicts.contains_key(&view.id) {
                by_group.entry(view.group).or_default().push(view);
            }
        }
        for (group, views) in by_group {
            let coming = self.tallies.iter().filter_map(|tally| tally.coming.get(&group)).sum();
            judge(&self.groups[group].line, &views, coming, verdicts);
        }
    }

    /// Where the whole process has no connection left.
    fn judge_all(&self, views: &[View], verdicts: &mut Verdicts) {
        if self.everything.is_empty() {
            return;
        }
        let coming = self.tallies.iter().flat_map(|tally| tally.coming.values()).sum::<usize>();
        let cut = verdicts.values().filter(|verdict| verdict.is_cut()).count();
        let views: Vec<_> = views.iter().filter(|view| !verdicts.contains_key(&view.id)).collect();
        judge(&self.everything, &views, coming + cut, verdicts);
    }
}

/// Those first that move next to nothing, whoever waits; then what is beyond a share.
fn judge(line: &Line, views: &[&View], coming: usize, verdicts: &mut Verdicts) {
    let mut slow: Vec<_> = views.iter().filter(|view| view.is_slow && !view.is_ending).collect();
    slow.sort_by_key(|view| std::cmp::Reverse(view.still_ms));
    slow.truncate(line.len().saturating_sub(coming));
    verdicts.extend(slow.iter().map(|view| (view.id, Verdict::Slow)));
    let others = views.iter().filter(|view| !verdicts.contains_key(&view.id)).copied();
    let excess = excess(line, others, coming + slow.len());
    verdicts.extend(excess);
}

fn excess<'a>(
    line: &Line,
    views: impl Iterator<Item = &'a View>,
    coming: usize,
) -> Vec<(usize, Verdict)> {
    let holdings: Vec<_> = views
        .filter(|view| !view.is_ending)
        .map(|view| {
            let View { id, claimant, still_ms, is_still, .. } = *view;
            Holding { id, claimant, still_ms, is_still }
        })
        .collect();
    let excess = line.excess(&holdings, coming).into_iter();
    excess.map(|id| (id, Verdict::Excess)).collect()
}
