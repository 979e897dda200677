//! Who is next where connections are short, and who has more than is due to him.
//!
//! In go claimants that wait, that are served and that hold; out come whose turn it is and who has
//! to yield. Waiting requests are served in turns by claimant and by age within one; a claimant
//! that holds its share or more comes after all that hold less. A claimant is a client's address,
//! so that opening more connections from one wins nothing.
//!
//! Pure: it knows no connection and never waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use crate::address::ClientAddress;

/// For whom a connection is held or wanted: a client's address, where IPv6 counts by its /64,
/// which is what one subscriber has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claimant(u64);

/// Multicast, from which no client comes: what has this above is an IPv4 address below.
const V4: u64 = 0xFFFF_FFFF << 32;

impl Claimant {
    /// What is done without a client: copies, and connections that are opened ahead.
    pub const NOBODY: Self = Self(0xFFFF_FFFE << 32);

    /// Processes of this machine, behind whose sockets it cannot be told who asks.
    const UNIX: Self = Self(0xFFFF_FFFD << 32);

    pub fn of(client: ClientAddress) -> Self {
        match client {
            ClientAddress::Ip(IpAddr::V4(v4)) => Self(V4 | u64::from(v4.to_bits())),
            ClientAddress::Ip(IpAddr::V6(v6)) => Self((v6.to_bits() >> 64) as u64),
            ClientAddress::Unix => Self::UNIX,
        }
    }
}

/// A request at the front of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub claimant: Claimant,
    /// Its age: lower ones came earlier.
    pub serial: u64,
    pub ticket: usize,
    /// How many times its share its claimant holds.
    pub rank: u32,
}

/// One claimant in a line.
#[derive(Debug, Default)]
struct Party {
    held: u32,
    /// Tickets by age.
    waiting: BTreeMap<u64, usize>,
    /// Its key in the order, while it waits.
    key: Option<(u32, u64)>,
}

/// All that hold or want some of `max` connections.
#[derive(Debug)]
pub(crate) struct Line {
    max: usize,
    parties: HashMap<Claimant, Party>,
    /// Claimants that wait: by rank, and by when it became their turn.
    order: BTreeSet<(u32, u64, Claimant)>,
    /// By what share the ranks in `order` were worked out.
    ranked_by: u32,
    len: usize,
}

impl Line {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, parties: HashMap::new(), order: BTreeSet::new(), ranked_by: 0, len: 0 }
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Requests that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What each of those that hold or wait may have while others wait.
    pub(crate) fn share(&self) -> u32 {
        let share = self.max / self.parties.len().max(1);
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }

    /// How many times its share a claimant holds.
    pub(crate) fn rank(&self, claimant: Claimant) -> u32 {
        self.held(claimant) / self.share()
    }

    pub(crate) fn held(&self, claimant: Claimant) -> u32 {
        self.parties.get(&claimant).map_or(0, |party| party.held)
    }

    /// A request begins to wait. `serial` rises from one to the next, in all lines together.
    pub(crate) fn join(&mut self, claimant: Claimant, serial: u64, ticket: usize) {
        let party = self.parties.entry(claimant).or_default();
        party.waiting.insert(serial, ticket);
        self.len += 1;
        if party.key.is_none() {
            self.place(claimant, serial);
        }
    }

    /// It has what it wanted, or wants it no more. `is_served` ends its claimant's turn, at the
    /// time `now` in serials.
    pub(crate) fn leave(&mut self, claimant: Claimant, serial: u64, is_served: bool, now: u64) {
        let Some(party) = self.parties.get_mut(&claimant) else { return };
        if party.waiting.remove(&serial).is_none() {
            return;
        }
        self.len -= 1;
        let turn = match party.key {
            Some((_, turn)) if !is_served => turn,
            _ => now,
        };
        self.place(claimant, turn);
        self.forget(claimant);
    }

    /// Counts what `claimant` holds up and down.
    pub(crate) fn hold(&mut self, claimant: Claimant, held: impl FnOnce(u32) -> u32) {
        let party = self.parties.entry(claimant).or_default();
        party.held = held(party.held);
        if let Some((_, turn)) = party.key {
            self.place(claimant, turn);
        }
        self.forget(claimant);
    }

    /// Forgets what all claimants hold.
    pub(crate) fn clear(&mut self) {
        for party in self.parties.values_mut() {
            party.held = 0;
        }
        self.parties.retain(|_, party| !party.waiting.is_empty());
        self.rank_all();
    }

    /// Whose turn it is.
    pub(crate) fn head(&mut self) -> Option<Head> {
        if self.ranked_by != self.share() {
            self.rank_all();
        }
        let (rank, _, claimant) = *self.order.first()?;
        let (serial, ticket) = self.parties.get(&claimant)?.waiting.first_key_value()?;
        Some(Head { claimant, serial: *serial, ticket: *ticket, rank })
    }

    /// Puts a claimant where it belongs in the order.
    fn place(&mut self, claimant: Claimant, turn: u64) {
        let share = self.share();
        if self.ranked_by == 0 {
            self.ranked_by = share;
        }
        let Some(party) = self.parties.get_mut(&claimant) else { return };
        if let Some((rank, turn)) = party.key.take() {
            self.order.remove(&(rank, turn, claimant));
        }
        if !party.waiting.is_empty() {
            let rank = party.held / self.ranked_by;
            party.key = Some((rank, turn));
            self.order.insert((rank, turn, claimant));
        }
    }

    fn rank_all(&mut self) {
        self.ranked_by = self.share();
        self.order.clear();
        for (claimant, party) in &mut self.parties {
            if let Some((rank, turn)) = &mut party.key {
                *rank = party.held / self.ranked_by;
                self.order.insert((*rank, *turn, *claimant));
            }
        }
    }

    fn forget(&mut self, claimant: Claimant) {
        let is_gone = |party: &Party| party.held == 0 && party.waiting.is_empty();
        if self.parties.get(&claimant).is_some_and(is_gone) {
            self.parties.remove(&claimant);
        }
    }

    /// What those that wait are short of to have their shares.
    pub(crate) fn due(&self) -> usize {
        let share = self.share();
        let due = self.order.iter().filter_map(|(.., claimant)| {
            let party = self.parties.get(claimant)?;
            Some(party.waiting.len().min(share.saturating_sub(party.held) as usize))
        });
        due.sum()
    }

    /// Which of `holdings` have to be given up, where `coming` are on their way back already: of
    /// whoever has more than its share, those first that have not moved for longest, no more than
    /// are due to others and none below the share.
    pub(crate) fn excess(&self, holdings: &[Holding], coming: usize) -> Vec<usize> {
        let mut due = self.due().saturating_sub(coming);
        if due == 0 {
            return Vec::new();
        }
        let share = self.share();
        let mut slowest: Vec<&Holding> = holdings.iter().filter(|it| it.is_still).collect();
        slowest.sort_by_key(|holding| std::cmp::Reverse(holding.still_ms));
        let mut left: HashMap<Claimant, u32> = HashMap::new();
        let mut yielding = Vec::new();
        for holding in slowest {
            let claimant = holding.claimant;
            let excess =
                left.entry(claimant).or_insert_with(|| self.held(claimant).saturating_sub(share));
            if due > 0 && *excess > 0 {
                *excess -= 1;
                due -= 1;
                yielding.push(holding.id);
            }
        }
        yielding
    }
}

/// A connection that a claimant holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub id: usize,
    pub claimant: Claimant,
    /// Since when it has moved nothing to speak of.
    pub still_ms: u64,
    /// For so long that it may be asked to yield.
    pub is_still: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(number: u8) -> Claimant {
        Claimant::of([127, 0, 0, number].into())
    }

    /// Serves `count` requests; whose they were.
    fn served(line: &mut Line, now: &mut u64, count: usize) -> Vec<Claimant> {
        let one = |_| {
            let head = line.head()?;
            *now += 1;
            line.leave(head.claimant, head.serial, true, *now);
            Some(head.claimant)
        };
        (0..count).filter_map(one).collect()
    }

    #[test]
    fn a_claimant_is_an_address_of_ipv4_or_a_network_of_ipv6() {
        let of = |text: &str| Claimant::of(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("::1"), of("0.0.0.0"));
        assert_ne!(of("::1"), Claimant::NOBODY);
        for other in [of("::"), of("255.255.255.255"), Claimant::NOBODY] {
            assert_ne!(of("unix"), other);
        }
    }

    #[test]
    fn requests_are_served_in_turns_by_claimant_and_by_age_within_one() {
        let mut line = Line::new(100);
        let (many, one) = (claimant(1), claimant(2));
        for serial in 1..=5 {
            line.join(many, serial, serial as usize);
        }
        line.join(one, 6, 6);
        line.join(one, 7, 7);
        let mut now = 7;
        assert_eq!(line.head().unwrap().ticket, 1);
        let turns = served(&mut line, &mut now, 9);
        assert_eq!(turns, [many, one, many, one, many, many, many]);
        assert!(line.is_empty() && line.parties.is_empty());
    }

    #[test]
    fn whoever_comes_later_does_not_overtake_whoever_has_waited_for_its_turn() {
        let mut line = Line::new(100);
        let mut now = 0;
        for number in [1, 2] {
            for _ in 0..3 {
                now += 1;
                line.join(claimant(number), now, 0);
            }
        }
        assert_eq!(served(&mut line, &mut now, 1), [claimant(1)]);
        // A new one each time: it comes after those that have not had their turn.
        for number in 3..6 {
            now += 1;
            line.join(claimant(number), now, 0);
        }
        let turns = served(&mut line, &mut now, 5);
        assert_eq!(turns, [2, 1, 3, 4, 5].map(claimant));
    }

    #[test]
    fn whoever_holds_its_share_gets_nothing_while_others_wait() {
        let mut line = Line::new(10);
        let (full, poor) = (claimant(1), claimant(2));
        line.hold(full, |_| 5);
        line.join(full, 1, 0);
        line.join(poor, 2, 0);
        assert_eq!(line.share(), 5);
        assert_eq!(line.head().unwrap().claimant, poor);
        // One less, and it is a matter of turns again.
        line.hold(full, |held| held - 1);
        assert_eq!(line.head().unwrap().claimant, full);
        // Where nobody else waits, nobody minds.
        line.hold(full, |_| 9);
        line.leave(poor, 2, false, 3);
        assert_eq!(line.head().unwrap().claimant, full);
    }

    #[test]
    fn only_what_is_beyond_a_share_and_due_to_others_is_given_up_the_slowest_first() {
        let mut line = Line::new(10);
        let (greedy, modest, waiting) = (claimant(1), claimant(2), claimant(3));
        line.hold(greedy, |_| 8);
        line.hold(modest, |_| 2);
        let holding = |id: usize| Holding {
            id,
            claimant: if id < 8 { greedy } else { modest },
            still_ms: 1000 + id as u64,
            is_still: id != 5,
        };
        let holdings: Vec<_> = (0..10).map(holding).collect();
        assert_eq!(line.excess(&holdings, 0), [0; 0]);
        for serial in 0..2 {
            line.join(waiting, serial, 0);
        }
        assert_eq!(line.share(), 3);
        assert_eq!(line.due(), 2);
        // 8 and 9 are slower, and within their claimant's share; 5 moves.
        assert_eq!(line.excess(&holdings, 0), [7, 6]);
        assert_eq!(line.excess(&holdings, 1), [7]);
        assert_eq!(line.excess(&holdings, 2), [0; 0]);
        for serial in 2..90 {
            line.join(waiting, serial, 0);
        }
        // Three are due, and two more would not be.
        assert_eq!(line.excess(&holdings, 0), [7, 6, 4]);
    }

    #[test]
    fn a_single_claimant_never_has_too_much() {
        let mut line = Line::new(10);
        let only = claimant(1);
        line.hold(only, |_| 10);
        for serial in 0..500 {
            line.join(only, serial, 0);
        }
        let holdings: Vec<_> = (0..10)
            .map(|id| Holding { id, claimant: only, still_ms: 60_000, is_still: true })
            .collect();
        assert_eq!(line.excess(&holdings, 0), [0; 0]);
    }

    /// Any sequence of steps keeps the order and the counts true.
    #[test]
    fn chance_finds_no_step_after_which_the_order_is_wrong() {
        for seed in 1..=200_u64 {
            let mut chance = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut below = |bound: u64| {
                chance ^= chance << 13;
                chance ^= chance >> 7;
                chance ^= chance << 17;
                chance % bound
            };
            let mut line = Line::new(1 + below(20) as usize);
            let mut waiting: Vec<(Claimant, u64)> = Vec::new();
            for now in 1..400 {
                let who = claimant(below(6) as u8);
                match below(5) {
                    0 | 1 => {
                        line.join(who, now, now as usize);
                        waiting.push((who, now));
                    }
                    2 if !waiting.is_empty() => {
                        let (who, serial) =
                            waiting.swap_remove(below(waiting.len() as u64) as usize);
                        line.leave(who, serial, false, now);
                    }
                    3 => line.hold(who, |_| below(9) as u32),
                    _ => {
                        let Some(head) = line.head() else { continue };
                        assert_eq!(head.ticket as u64, head.serial, "seed {seed}");
                        let rank = |who| line.held(who) / line.share();
                        let least = waiting.iter().map(|(who, _)| rank(*who)).min();
                        assert_eq!(Some(rank(head.claimant)), least, "seed {seed}");
                        let own = waiting.iter().filter(|(who, _)| *who == head.claimant);
                        assert_eq!(own.map(|(_, serial)| *serial).min(), Some(head.serial));
                        line.leave(head.claimant, head.serial, true, now);
                        waiting.retain(|(_, serial)| *serial != head.serial);
                    }
                }
                assert_eq!(line.len(), waiting.len(), "seed {seed}");
                assert_eq!(line.head().is_some(), !waiting.is_empty(), "seed {seed}");
            }
        }
    }
}
