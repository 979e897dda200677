//! Who has which connection of a worker's pool in his hands, and how many are in nobody's.
//!
//! In go numbers of client connections; out come the addresses of those that answer them now, and
//! counts of connections that are idle, by target. Nothing is changed.

use std::collections::HashMap;
use std::sync::Arc;

use super::pool::Pool;
use super::queue::NO_SEAT;
use super::target::Target;
use crate::address::Address;

impl Pool {
    /// Who answers the clients in these places now, as far as they hold a connection of this pool.
    pub(crate) fn held_by(&self, is_meant: impl Fn(u32) -> bool) -> Vec<(u32, Address)> {
        let slots = self.slots.borrow();
        let held = slots.iter().filter(|(_, slot)| slot.idle.is_none());
        let held = held.filter(|(_, slot)| slot.holder.slot != NO_SEAT);
        let pairs = held.map(|(_, slot)| (slot.holder.slot, slot.address));
        pairs.filter(|(slot, _)| is_meant(*slot)).collect()
    }

    /// How many connections to each target of an upstream wait for a request.
    pub(crate) fn idle_by_target(&self) -> Vec<(Arc<Target>, usize)> {
        let slots = self.slots.borrow();
        let mut counts: HashMap<usize, (Arc<Target>, usize)> = HashMap::new();
        for (_, slot) in slots.iter().filter(|(_, slot)| slot.idle.is_some()) {
            if let Some(target) = slot.origin_id.target() {
                counts.entry(slot.origin).or_insert_with(|| (target.clone(), 0)).1 += 1;
            }
        }
        counts.into_values().collect()
    }
}
