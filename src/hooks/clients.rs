//! Requests under way, by client.
//!
//! In: a client's address when a request begins. Out: a hold on its place, which ends when it is
//! dropped, or nothing where the client has as many as it may. The limit is the process's. A client
//! on HTTP/1.1 has one request per connection under way, so this is also how many of its
//! connections are busy.
//!
//! The table is one of 64-bit words, as in `rate`: 40 bits of the address's hash and a count of 24.
//! A word with a count above zero never moves and never gives way, so that a hold finds it again
//! without looking. No thread waits for another.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Who has how many.
pub struct Clients {
    words: Box<[AtomicU64]>,
    hasher: RandomState,
    limit: u64,
}

/// One request of one client. Dropping it ends the request.
pub(crate) struct ClientPermit {
    clients: Arc<Clients>,
    at: usize,
}

impl fmt::Debug for ClientPermit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "place {}", self.at)
    }
}

/// What became of a request that wanted in.
#[derive(Debug)]
pub(crate) enum Entry {
    Permitted(ClientPermit),
    /// The client has as many as it may.
    Full,
    /// There is no word for it: it goes on uncounted.
    Uncounted,
}

const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Words that one client looks at. With a table twice as large as there can be clients, all of them
/// are taken by others once in a hundred thousand.
const PROBES: usize = 16;

const RACES_MAX: usize = 64;

impl Clients {
    /// `clients_max` clients may have connections at a time.
    pub fn new(limit: u32, clients_max: usize) -> Arc<Self> {
        Arc::new(Self {
            words: (0..words_for(clients_max)).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            limit: u64::from(limit).min(COUNT_MASK),
        })
    }

    /// What the table takes, full or empty.
    pub fn bytes(&self) -> usize {
        self.words.len() * size_of::<AtomicU64>()
    }

    /// Whether it has room for `clients_max` clients.
    pub(super) fn has_room_for(&self, clients_max: usize) -> bool {
        self.words.len() >= words_for(clients_max)
    }

    /// `client` is a `ClientKey::network`.
    pub(crate) fn enter(self: &Arc<Self>, client: u64) -> Entry {
        let hash = self.hasher.hash_one(client);
        let tag = hash >> COUNT_BITS;
        let first = hash as usize;
        for _ in 0..RACES_MAX {
            let Some((at, word)) = self.find(first, tag) else { return Entry::Uncounted };
            let count = word & COUNT_MASK;
            if count >= self.limit {
                return Entry::Full;
            }
            let after = tag << COUNT_BITS | (count + 1);
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            if self.words[at].compare_exchange(word, after, success, failure).is_ok() {
                return Entry::Permitted(ClientPermit { clients: self.clone(), at });
            }
        }
        Entry::Uncounted
    }

    /// The client's word, or the first that is free.
    fn find(&self, first: usize, tag: u64) -> Option<(usize, u64)> {
        let mut free = None;
        for probe in 0..PROBES {
            let at = first.wrapping_add(probe) & (self.words.len() - 1);
            let word = self.words[at].load(Ordering::Relaxed);
            if word & COUNT_MASK == 0 {
                free = free.or(Some((at, word)));
            } else if word >> COUNT_BITS == tag {
                return Some((at, word));
            }
        }
        // A count of zero is no client's, whatever tag is left in the word.
        free
    }

    /// Requests under way of all clients.
    #[cfg(test)]
    fn total(&self) -> u64 {
        self.words.iter().map(|word| word.load(Ordering::Relaxed) & COUNT_MASK).sum()
    }
}

fn words_for(clients_max: usize) -> usize {
    (clients_max * 2).next_power_of_two().max(PROBES)
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        // The count is at least 1 for as long as this lives.
        self.clients.words[self.at].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(clients: &Arc<Clients>, client: u64) -> Option<ClientPermit> {
        match clients.enter(client) {
            Entry::Permitted(held) => Some(held),
            Entry::Full => None,
            Entry::Uncounted => panic!("no room for {client}"),
        }
    }

    #[test]
    fn a_client_has_as_many_as_it_may_and_not_one_more() {
        let clients = Clients::new(3, 100);
        let mut held: Vec<_> = (0..3).map(|_| hold(&clients, 1).unwrap()).collect();
        assert!(hold(&clients, 1).is_none());
        assert!(hold(&clients, 2).is_some());
        held.pop();
        let again = hold(&clients, 1);
        assert!(again.is_some() && hold(&clients, 1).is_none());
        drop((held, again));
        assert_eq!(clients.total(), 0);
    }

    #[test]
    fn as_many_clients_as_there_can_be_find_room() {
        let clients = Clients::new(1, 10_000);
        let held: Vec<_> = (0..10_000).map(|client| clients.enter(client)).collect();
        let uncounted = held.iter().filter(|entry| matches!(entry, Entry::Uncounted)).count();
        assert!(uncounted < 10, "{uncounted}");
        assert!(held.iter().all(|entry| !matches!(entry, Entry::Full)));
        drop(held);
        assert_eq!(clients.total(), 0);
    }

    #[test]
    fn a_million_clients_one_after_the_other_leave_nothing_behind() {
        let clients = Clients::new(1, 100);
        let bytes = clients.bytes();
        for client in 0..1_000_000 {
            assert!(hold(&clients, client).is_some());
        }
        assert_eq!((clients.total(), clients.bytes()), (0, bytes));
    }

    #[test]
    fn a_client_at_its_limit_stays_there_while_a_million_others_come_and_go() {
        let clients = Clients::new(2, 100);
        let persistent = u64::MAX;
        let held = [hold(&clients, persistent).unwrap(), hold(&clients, persistent).unwrap()];
        let mut others = std::collections::VecDeque::new();
        for client in 0..1_000_000 {
            others.extend(hold(&clients, client));
            if others.len() > 50 {
                others.pop_front();
            }
            if client % 100 == 0 {
                assert!(hold(&clients, persistent).is_none());
            }
        }
        let [first, second] = held;
        drop(first);
        let again = hold(&clients, persistent);
        assert!(again.is_some() && hold(&clients, persistent).is_none());
        drop((second, again, others));
        assert_eq!(clients.total(), 0);
    }

    #[test]
    fn a_full_table_lets_a_million_more_by_and_forgets_nobody() {
        let clients = Clients::new(1, 100);
        let bytes = clients.bytes();
        let held: Vec<_> = (0..1_000_000)
            .filter_map(|client| match clients.enter(client) {
                Entry::Permitted(held) => Some((client, held)),
                Entry::Uncounted => None,
                Entry::Full => panic!("{client} has nothing under way"),
            })
            .collect();
        assert_eq!((clients.bytes(), held.len()), (bytes, bytes / 8));
        assert!(held.iter().all(|(client, _)| matches!(clients.enter(*client), Entry::Full)));
        drop(held);
        assert_eq!(clients.total(), 0);
    }

    #[test]
    fn threads_lose_no_count() {
        let clients = Clients::new(8, 100);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let clients = clients.clone();
                std::thread::spawn(move || {
                    for turn in 0..20_000_u64 {
                        assert!(hold(&clients, turn % 3).is_some());
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(clients.total(), 0);
    }
}
