//! Work that waits, taken from each client in turns.
//!
//! In: items, each of a client that has failed lately or has not. Out: the next one, of the client
//! that has waited for the longest since its last turn; clients that have not failed have three
//! turns of four. It holds so many items at most: what comes when it is full takes the place of the
//! newest one of whoever waits with most, those that have failed first, or is given back. Pure.

use std::collections::{HashMap, VecDeque};

use super::failures::Client;

/// Of so many turns, one is for a client that has failed.
const TURNS: usize = 4;

#[derive(Debug)]
pub(super) struct FairQueue<T> {
    lanes: HashMap<Client, Lane<T>>,
    /// Clients that wait, by whether they have failed; each once.
    order: [VecDeque<Client>; 2],
    count: usize,
    count_max: usize,
    turn: usize,
}

#[derive(Debug)]
struct Lane<T> {
    has_failed: bool,
    items: VecDeque<T>,
}

impl<T> FairQueue<T> {
    pub(super) fn new(count_max: usize) -> Self {
        let order = [VecDeque::new(), VecDeque::new()];
        Self { lanes: HashMap::new(), order, count: 0, count_max, turn: 0 }
    }

    /// What had to make room; the item itself where nobody waits with more.
    pub(super) fn push(
        &mut self,
        client: Client,
        has_failed: bool,
        item: T,
    ) -> Result<Option<T>, T> {
        let mut evicted = None;
        if self.count >= self.count_max {
            // The common case of a flood: all wait with one, and none has failed.
            if self.order[1].is_empty() && self.count == self.lanes.len() {
                return Err(item);
            }
            let own = self.lanes.get(&client).map_or(0, |lane| lane.items.len());
            let longest = self.lanes.iter().max_by_key(|(_, lane)| lane.weight());
            let (heavy, weight) = match longest {
                Some((heavy, lane)) => (*heavy, lane.weight()),
                None => return Err(item),
            };
            if weight <= (has_failed, own + 1) {
                return Err(item);
            }
            evicted = self.take(heavy, VecDeque::pop_back);
        }
        let lane = self.lanes.entry(client).or_insert_with(|| {
            self.order[usize::from(has_failed)].push_back(client);
            Lane { has_failed, items: VecDeque::new() }
        });
        lane.items.push_back(item);
        self.count += 1;
        Ok(evicted)
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        self.turn = (self.turn + 1) % TURNS;
        let first = usize::from(self.turn == 0);
        let order = [first, 1 - first].into_iter().find(|order| !self.order[*order].is_empty())?;
        let client = self.order[order].pop_front()?;
        // Behind the others, and out of the order again if this was its last.
        self.order[order].push_back(client);
        self.take(client, VecDeque::pop_front)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.count_max);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.count
    }

    fn take(
        &mut self,
        client: Client,
        one: impl FnOnce(&mut VecDeque<T>) -> Option<T>,
    ) -> Option<T> {
        let lane = self.lanes.get_mut(&client)?;
        let item = one(&mut lane.items);
        self.count -= usize::from(item.is_some());
        if lane.items.is_empty() {
            let order = &mut self.order[usize::from(lane.has_failed)];
            order.retain(|other| *other != client);
            self.lanes.remove(&client);
        }
        item
    }
}

impl<T> Lane<T> {
    fn weight(&self) -> (bool, usize) {
        (self.has_failed, self.items.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> Client {
        Client::of([10, 0, 0, number].into())
    }

    fn drained(queue: &mut FairQueue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn clients_take_turns() {
        let mut queue = FairQueue::new(10);
        for (number, item) in [(1, 11), (1, 12), (1, 13), (2, 21), (3, 31), (2, 22)] {
            assert_eq!(queue.push(client(number), false, item), Ok(None));
        }
        assert_eq!(drained(&mut queue), [11, 21, 31, 12, 22, 13]);
        assert_eq!((queue.len(), queue.lanes.len()), (0, 0));
        assert!(queue.order.iter().all(VecDeque::is_empty));
    }

    #[test]
    fn those_that_have_failed_have_one_turn_of_four() {
        let mut queue = FairQueue::new(100);
        for item in 0..8 {
            assert_eq!(queue.push(client(1), false, item), Ok(None));
            assert_eq!(queue.push(client(2), true, 100 + item), Ok(None));
        }
        let first: Vec<u32> = (0..8).filter_map(|_| queue.pop()).collect();
        assert_eq!(first.iter().filter(|item| **item >= 100).count(), 2, "{first:?}");
        assert_eq!(drained(&mut queue).len(), 8);
    }

    #[test]
    fn whoever_waits_with_most_makes_room() {
        let mut queue = FairQueue::new(3);
        for item in 0..3 {
            assert_eq!(queue.push(client(1), false, item), Ok(None));
        }
        assert_eq!(queue.push(client(1), false, 3), Err(3));
        assert_eq!(queue.push(client(2), false, 20), Ok(Some(2)));
        assert_eq!(queue.push(client(3), false, 30), Ok(Some(1)));
        // All wait with one.
        assert_eq!(queue.push(client(4), false, 40), Err(40));
        assert_eq!(drained(&mut queue), [0, 20, 30]);
    }

    #[test]
    fn those_that_have_failed_make_room_for_those_that_have_not() {
        let mut queue = FairQueue::new(2);
        assert_eq!(queue.push(client(1), true, 1), Ok(None));
        assert_eq!(queue.push(client(2), true, 2), Ok(None));
        assert_eq!(queue.push(client(3), true, 3), Err(3));
        assert!(matches!(queue.push(client(4), false, 4), Ok(Some(1 | 2))));
        assert!(matches!(queue.push(client(5), false, 5), Ok(Some(1 | 2))));
        assert_eq!(queue.push(client(6), false, 6), Err(6));
        assert_eq!(drained(&mut queue), [4, 5]);
    }
}
