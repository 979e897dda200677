//! Memory that is short for a while, or all the time.
//!
//! In goes chance; out come readings as the control thread would take them, budgets that are cut,
//! and limits so small that clients wait for each other. The ledger is looked at after each step.

use super::{Happening, SECOND, Weather, World};
use crate::calls;
use crate::chance::Chance;
use std::rc::Rc;

use ringway::internals::server::{Alone, Judged};

const MIB: u64 = 1 << 20;

/// What the program may come to; it is planned with more than half of that at rest.
const MAX_MB: u64 = 24;
const CLEANUP_MB: u64 = 20;
/// How often memory is looked at.
const LOOK: u64 = SECOND / 10;

/// What the process is said to occupy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupied {
    Little,
    /// More than the line for cleanups.
    Much,
    /// More than it may.
    TooMuch,
}

pub(super) struct Pressure {
    pub(super) is_on: bool,
    occupied: Occupied,
    /// Clients and tunnels that may be.
    limits: (usize, usize),
    /// What is left for growth from the beginning on, where that is cut.
    purse: Option<u64>,
    /// Its end is not its end.
    pub(super) lasts: bool,
    /// What the ledger may come to, in place of what the program says.
    pub(super) bound: Option<u64>,
    is_over: bool,
}

impl Pressure {
    pub(super) fn new(is_on: bool, weather: Weather, chance: &mut Chance) -> Self {
        let is_calm = weather == Weather::Calm;
        let purses = [None, None, Some(0), Some(4 << 10), Some(64 << 10)];
        let purse = purses[chance.below(purses.len())].filter(|_| !is_calm);
        // Where clients are fewer than there are, those at rest give way to others.
        let limits = [(4, 2), (16, 4), (64, 64)][if is_calm { 2 } else { chance.below(3) }];
        let occupied = Occupied::Little;
        Self { is_on, occupied, limits, purse, lasts: false, bound: None, is_over: false }
    }

    pub(super) fn limits(&self) -> String {
        if !self.is_on {
            return "[limits]\nclients = 1000\ntunnels = 1000\n".to_owned();
        }
        let (clients, tunnels) = self.limits;
        format!(
            "[limits]\nclients = {clients}\ntunnels = {tunnels}\nlong_responses = 8\n\
             [memory]\nmax_mb = {MAX_MB}\ncleanup_mb = {CLEANUP_MB}\n"
        )
    }

    fn rss(&self) -> u64 {
        MIB * match self.occupied {
            Occupied::Little => CLEANUP_MB / 2,
            Occupied::Much => CLEANUP_MB + 1,
            Occupied::TooMuch => MAX_MB + 1,
        }
    }
}

/// What is done to the program, outside of the world.
type Call = Box<dyn FnOnce()>;

impl World {
    pub(super) fn plan_pressure(&mut self) {
        self.plan(LOOK, Happening::Watch);
        let after = self.chance.next() % (2 * SECOND);
        self.plan(after, Happening::Press);
    }

    /// What the worker has left for growth, as it begins.
    pub(super) fn begin_pressure(&self, alone: &Alone) {
        if let Some(bytes) = self.pressure.purse.filter(|_| self.pressure.is_on) {
            alone.set_purse(bytes);
        }
    }

    /// Memory becomes short, or is so no longer.
    pub(super) fn press(&mut self) -> Option<Call> {
        if self.is_settled {
            return None;
        }
        let after = self.chance.next() % (3 * SECOND);
        self.plan(after, Happening::Press);
        let is_calm = self.weather == Weather::Calm;
        self.pressure.occupied = match self.chance.below(4) {
            0 if !is_calm => Occupied::TooMuch,
            0 | 1 => Occupied::Much,
            _ => Occupied::Little,
        };
        if is_calm || self.pressure.purse.is_some() || !self.chance.once_in(2) {
            return None;
        }
        let purse = [0, 4 << 10, 32 << 10, u64::MAX][self.chance.below(4)];
        self.facts.counts.squeezes += u64::from(purse < u64::MAX);
        let alone = self.alone.clone()?;
        Some(Box::new(move || alone.set_purse(purse)))
    }

    /// There is as much as was configured from now on.
    pub(super) fn relieve(&mut self) -> Option<Call> {
        let alone = self.alone.clone().filter(|_| self.pressure.is_on && !self.pressure.lasts)?;
        self.pressure.occupied = Occupied::Little;
        Some(Box::new(move || alone.set_purse(u64::MAX)))
    }

    /// Memory is looked at.
    pub(super) fn watch(&mut self) -> Option<Call> {
        self.plan(LOOK, Happening::Watch);
        let (alone, rss_bytes): (Rc<Alone>, u64) = (self.alone.clone()?, self.pressure.rss());
        Some(Box::new(move || {
            let judged = alone.watch_memory(rss_bytes);
            calls::within(|world| world.judged(judged));
        }))
    }

    fn judged(&mut self, judged: Judged) {
        let counts = &mut self.facts.counts;
        match judged.pressure {
            "light" => counts.looks_light += 1,
            "forced" => counts.looks_forced += 1,
            _ => {}
        }
        match judged.cleanup {
            Some("light") => counts.cleanups_light += 1,
            Some(_) => counts.cleanups_forced += 1,
            None => {}
        }
        let Some(alone) = &self.alone else { return };
        let freed = alone.freed();
        counts.freed_idle += freed.idle as u64;
        counts.freed_clients += freed.clients as u64;
        counts.cut_transfers += freed.transfers as u64;
        if self.weather == Weather::Calm && freed.transfers + freed.clients > 0 {
            self.facts.offend(format!("light pressure has cost somebody something: {freed:?}"));
        }
    }

    /// Whether the ledger is where it may be.
    pub(super) fn check_ledger(&mut self) {
        let Some(alone) = self.alone.as_ref().filter(|_| !self.pressure.is_over) else { return };
        let (total, share) = alone.memory();
        let bound = self.pressure.bound.unwrap_or(share);
        if total > bound {
            self.pressure.is_over = true;
            self.facts.offend(format!("the ledger has {total} bytes and may have {bound}"));
        }
    }
}
