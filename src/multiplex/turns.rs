//! Whose turn it is among lanes that wait for room to send (RFC 9218 §10).
//!
//! In go lanes with their priorities; out comes the order in which they are told that there is
//! room, which is the order in which they get it. The more urgent come first. Of the same urgency,
//! responses that are of use only as a whole go one after the other, as they were asked for, and
//! those that are of use in parts take turns. Whoever was passed over too often comes before all of
//! them: a deadline runs for those who wait, too.

use std::cell::Cell;
use std::cmp::Reverse;
use std::rc::Rc;

use super::Multiplex;
use super::lane::Lane;
use crate::http2::Role;
use crate::http2::priority::Priority;
use crate::limits::HTTP2_PASSED_OVER_MAX;

/// What of a lane decides about its turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// How often others had their turn while it waited.
    passed_over: Cell<u8>,
    /// When it has last sent something, counted in turns of the connection.
    served: Cell<u32>,
}

/// Sorts before those whose turn is later.
type Rank = (Reverse<bool>, u8, bool, u32, u32);

impl Turns {
    /// It has sent something in the connection's turn number `now`.
    pub(super) fn serve(&self, now: u32) {
        self.passed_over.set(0);
        self.served.set(now);
    }

    /// It is told that there is room.
    fn pass(&self) {
        self.passed_over.set(self.passed_over.get().saturating_add(1));
    }

    fn rank(&self, priority: Priority, id: u32, now: u32) -> Rank {
        let Priority { urgency, is_incremental } = priority;
        let is_due = self.passed_over.get() >= HTTP2_PASSED_OVER_MAX;
        // Turns are counted with wrap-around: the longer ago, the sooner.
        let waited = u32::MAX - now.wrapping_sub(self.served.get());
        let turn = if is_incremental { waited } else { 0 };
        (Reverse(is_due), urgency, is_incremental, turn, id)
    }
}

impl Multiplex {
    /// Tells those that wait for room, in the order of their turns.
    pub(super) fn tell_in_turn(&self) {
        let now = self.turn.get().wrapping_add(1);
        self.turn.set(now);
        let session = self.session.borrow();
        let mut waiting: Vec<(Rank, Rc<Lane>)> = Vec::new();
        for lane in self.lanes.borrow().iter().flatten() {
            if let Some(key) = lane.key() {
                let rank = lane.turns.rank(session.priority(key), key.id(), now);
                waiting.push((rank, lane.clone()));
            }
        }
        drop(session);
        waiting.sort_unstable_by_key(|(rank, _)| *rank);
        for (_, lane) in waiting {
            lane.turns.pass();
            lane.tell();
        }
        self.tell_unopened();
    }

    /// Tells those that wait for a stream of their own, to ask for something.
    pub(super) fn tell_unopened(&self) {
        if self.role == Role::Client {
            self.resting.borrow().iter().for_each(|lane| lane.tell());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(lanes: &[(u8, bool, &Turns)], now: u32) -> Vec<usize> {
        let mut ranks: Vec<_> = lanes
            .iter()
            .enumerate()
            .map(|(at, (urgency, is_incremental, turns))| {
                let priority = Priority { urgency: *urgency, is_incremental: *is_incremental };
                (turns.rank(priority, at as u32, now), at)
            })
            .collect();
        ranks.sort_unstable();
        ranks.into_iter().map(|(_, at)| at).collect()
    }

    #[test]
    fn the_more_urgent_come_first_and_wholes_one_after_the_other() {
        let turns: [Turns; 5] = Default::default();
        let terms = [(3, false), (3, true), (0, true), (7, false), (3, false)];
        let lanes: Vec<_> = terms.iter().zip(&turns).map(|((at, is), it)| (*at, *is, it)).collect();
        assert_eq!(order(&lanes, 1), [2, 0, 4, 1, 3]);
        // That it has just been served changes nothing for a whole.
        turns[0].serve(1);
        assert_eq!(order(&lanes, 2), [2, 0, 4, 1, 3]);
    }

    #[test]
    fn parts_take_turns() {
        let turns: [Turns; 3] = Default::default();
        let lanes = [(3, true, &turns[0]), (3, true, &turns[1]), (3, true, &turns[2])];
        let mut served = [0; 3];
        for now in u32::MAX - 10..=u32::MAX {
            let first = order(&lanes, now)[0];
            lanes[first].2.serve(now);
            served[first] += 1;
        }
        assert!(served.iter().all(|count| (3..=4).contains(count)), "{served:?}");
    }

    #[test]
    fn nobody_is_passed_over_for_ever() {
        let (urgent, patient) = (Turns::default(), Turns::default());
        let lanes = [(0, false, &urgent), (7, false, &patient)];
        let mut until = 0;
        while order(&lanes, 1)[0] == 0 {
            urgent.serve(1);
            patient.pass();
            until += 1;
        }
        assert_eq!(until, usize::from(HTTP2_PASSED_OVER_MAX));
        patient.serve(1);
        assert_eq!(order(&lanes, 1)[0], 0);
    }
}
