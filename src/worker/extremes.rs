//! The few connections of a worker that an operator wants to see first.
//!
//! In goes how many; out come the largest and the oldest, with the routes of their last requests
//! and who answers them. One pass over the list, and nothing allocated but for those few: it may be
//! asked for once a second, however many connections there are.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use crate::config::RouteConfig;
use crate::ring::clock;
use crate::worker::Worker;
use crate::worker::mailbox::ConnectionInfo;

/// The largest so many of what is put in.
struct Top {
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    count: usize,
}

impl Top {
    fn new(count: usize) -> Self {
        Self { heap: BinaryHeap::with_capacity(count + 1), count }
    }

    fn put(&mut self, value: u64, key: usize) {
        let is_full = self.heap.len() >= self.count;
        if is_full && self.heap.peek().is_none_or(|least| value <= least.0.0) {
            return;
        }
        self.heap.push(Reverse((value, key)));
        if is_full {
            self.heap.pop();
        }
    }

    fn keys(self) -> impl Iterator<Item = usize> {
        self.heap.into_iter().map(|Reverse((_, key))| key)
    }
}

impl Worker {
    /// The `count` largest connections and the `count` oldest.
    pub(crate) fn extremes(&self, count: usize) -> Vec<ConnectionInfo> {
        let now = clock::coarse_ms();
        let connections = self.connections.borrow();
        let (mut largest, mut oldest) = (Top::new(count), Top::new(count));
        for (key, entry) in connections.iter() {
            largest.put(entry.stats.bytes(), key);
            oldest.put(entry.stats.born.age_ms(now), key);
        }
        let keys: BTreeSet<usize> = largest.keys().chain(oldest.keys()).collect();
        let targets = self.pool.held_by(|slot| keys.contains(&(slot as usize)));
        let (clients, generation) = (self.spoken_for.borrow(), self.generation());
        let describe = |key: usize| {
            let entry = connections.get(key)?;
            let route = entry.stats.route().and_then(|index| generation.config.routes.get(index));
            let streams = self.multiplexed.borrow().get(&key).map(|it| it.streams());
            let target = targets.iter().find(|(slot, _)| *slot as usize == key);
            Some(ConnectionInfo {
                route: route.map(RouteConfig::name),
                target: target.map(|(_, address)| *address),
                ..entry.describe(self.index, clients.get(&key).copied(), streams, now)
            })
        };
        keys.into_iter().filter_map(describe).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_kept_whatever_order_they_come_in() {
        for values in [[1, 5, 3, 9, 7], [9, 7, 5, 3, 1], [1, 3, 5, 7, 9]] {
            let mut top = Top::new(2);
            for value in values {
                top.put(value, value as usize);
            }
            let keys: BTreeSet<_> = top.keys().collect();
            assert_eq!(keys, BTreeSet::from([7, 9]));
        }
        let mut none = Top::new(0);
        none.put(1, 1);
        assert_eq!(none.keys().count(), 0);
    }
}
