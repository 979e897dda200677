//! The right to open a connection: who has how many, who waits, and who is next.
//!
//! In go requests that found no idle connection; out come permits, each of a [`Group`]: an
//! upstream, or a target of forward requests. What there is stands in one book behind one lock,
//! which is taken to open and to close a connection and by those that wait; a request that finds an
//! idle connection never asks here.
//!
//! It knows no socket, and what has to be given up is for others to end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use crate::ring::clock;

use super::book::{Book, GroupState, State, Waiting};
use super::fair::{Claimant, Head, Line};
use super::quota::{IdleCap, Place, Waits};

pub use super::book::Limits;
pub(crate) use super::book::UPSTREAM;

/// What the pools of all workers share.
pub struct PoolShared {
    book: Mutex<Book>,
    /// Requests that wait for a permit, in any worker.
    wanted: AtomicUsize,
    /// Idle connections, as each worker's last sweep counted them.
    pub(super) idle: AtomicUsize,
    /// One per worker: asks its janitor to give up idle connections.
    pub(super) shed: Vec<Notify>,
    /// One per worker: a request waits.
    dispute: Vec<Notify>,
}

/// Those that share one limit: the origins of an upstream, or a target of forward requests.
pub struct Group {
    shared: Arc<PoolShared>,
    name: Arc<str>,
    number: usize,
    pub(super) idle: Arc<IdleCap>,
    /// Requests that wait for one of its connections, and how many may.
    queued: AtomicUsize,
    queue_max: AtomicUsize,
}

/// The right to have one connection open; its drop gives it back.
pub struct Permit {
    pub(super) group: Arc<Group>,
    /// It counts among the long answers.
    pub(super) is_long: bool,
    /// Its place among the connections to its origin.
    pub(super) place: Option<Place>,
}

/// Where a connection goes that has come back while a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heir {
    Nobody,
    /// The waiting request with this ticket, in the same worker.
    Ticket(usize),
    /// It is to be closed, so that another worker may open one.
    Close,
}

/// How much longer than one that a connection could be handed to another request must have waited
/// for the connection to be given up for it. Handing over is cheap and closing is not; this bounds
/// what the one saves at the expense of the others.
const UNFAIR_MS: u64 = 50;

/// What is known of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFigures {
    pub name: Arc<str>,
    pub open: usize,
    pub max: usize,
    pub waiting: usize,
}

impl PoolShared {
    pub fn new(limits: Limits, workers: usize) -> Arc<Self> {
        let notifies = || (0..workers).map(|_| Notify::new()).collect();
        Arc::new(Self {
            book: Mutex::new(Book::new(limits, workers)),
            wanted: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            shed: notifies(),
            dispute: notifies(),
        })
    }

    /// Does something with the book, and wakes those that it has helped.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Book, &mut Vec<Waker>) -> T) -> T {
        let mut wakers = Vec::new();
        let mut book = self.lock();
        let result = work(&mut book, &mut wakers);
        self.wanted.store(book.waiting, Ordering::SeqCst);
        drop(book);
        for waker in wakers {
            waker.wake();
        }
        result
    }

    /// A panic elsewhere leaves counts that are still true.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other limits from now on. What is open beyond them stays open while it is used.
    pub fn set_limits(&self, limits: Limits) {
        // A group that is dropped wants the book.
        let mut held = Vec::new();
        self.with(|book, wakers| {
            book.everything.set_max(limits.ceiling);
            book.long.set_max(limits.long);
            book.limits = limits;
            let names: Vec<_> = book.numbers.iter().map(|(k, n)| (k.clone(), *n)).collect();
            for (name, number) in names {
                let (max, is_exempt) = book.max_of(&name);
                book.groups[number].line.set_max(max);
                book.groups[number].is_exempt = is_exempt;
                if let Some(group) = book.groups[number].handle.upgrade() {
                    group.set_caps(book.caps_of(&name));
                    held.push(group);
                }
                book.grant(number, wakers);
            }
        });
        self.shed.iter().for_each(Notify::notify_one);
    }

    /// The group called `name`, which lives for as long as it is held.
    pub fn group(self: &Arc<Self>, name: &str) -> Arc<Group> {
        self.with(|book, _| {
            let known = book.numbers.get(name).and_then(|number| book.groups.get(*number));
            if let Some(group) = known.and_then(|state| state.handle.upgrade()) {
                return group;
            }
            let (max, is_exempt) = book.max_of(name);
            let caps = book.caps_of(name);
            let name: Arc<str> = name.into();
            let entry = book.groups.vacant_entry();
            let number = entry.key();
            let group = Arc::new(Group {
                shared: self.clone(),
                name: name.clone(),
                number,
                idle: Arc::default(),
                queued: AtomicUsize::new(0),
                queue_max: AtomicUsize::new(usize::MAX),
            });
            group.set_caps(caps);
            entry.insert(GroupState {
                handle: Arc::downgrade(&group),
                is_exempt,
                line: Line::new(max),
                open: 0,
                promised: 0,
            });
            book.numbers.insert(name, number);
            group
        })
    }

    /// Whether requests wait, in any worker.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) > 0
    }

    /// Resolves once a request waits.
    pub async fn disputed(&self, worker: usize) {
        self.dispute[worker].notified().await;
    }

    /// Idle connections, as the workers last counted them.
    pub fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// Requests that wait for a connection now.
    pub fn waiting(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Connections open now, idle or leased, in all workers.
    pub fn open(&self) -> usize {
        self.lock().open
    }

    /// Those of them that carry long answers.
    pub fn long(&self) -> usize {
        self.lock().long_open
    }

    pub fn limits(&self) -> Limits {
        self.lock().limits.clone()
    }

    /// Of every group that there is.
    pub fn figures(&self) -> Vec<GroupFigures> {
        // A group that is dropped wants the book.
        let mut held = Vec::new();
        let book = self.lock();
        let figures = book.numbers.iter().map(|(name, number)| {
            let state = &book.groups[*number];
            let group = state.handle.upgrade();
            let queued = group.as_ref().map_or(0, |it| it.queued.load(Ordering::Relaxed));
            held.extend(group);
            GroupFigures {
                name: name.clone(),
                open: state.open,
                max: state.line.max(),
                // Those for a place at their origin too.
                waiting: queued.max(state.line.len() + state.promised),
            }
        });
        figures.collect()
    }

    /// Wakes requests that wait, to look at what else has happened.
    pub(super) fn wake(&self, tickets: &[usize]) {
        self.with(|book, wakers| {
            let tickets = tickets.iter().filter_map(|key| book.tickets.get(*key));
            wakers.extend(tickets.filter_map(|ticket| match &ticket.state {
                State::InGroup(waker) | State::InEverything(waker) => Some(waker.clone()),
                State::Granted | State::Handed => None,
            }));
        });
    }

    /// Whether idle connections have to go, of `group` where one is given.
    pub(super) fn is_short(&self, group: Option<usize>) -> bool {
        let book = self.lock();
        match group {
            None => !book.everything.is_empty() || book.open > book.limits.ceiling,
            Some(number) => book
                .groups
                .get(number)
                .is_some_and(|state| !state.line.is_empty() || state.open > state.line.max()),
        }
    }

    /// How many idle connections have to go, of which groups; `None` stands for any.
    pub(super) fn shortages(&self) -> Vec<(Option<usize>, usize)> {
        let book = self.lock();
        let of_groups = book.groups.iter().map(|(number, state)| {
            let surplus = state.open.saturating_sub(state.line.max());
            (Some(number), state.line.len() + surplus)
        });
        let surplus = book.open.saturating_sub(book.limits.ceiling);
        let mut all = vec![(None, book.everything.len() + surplus)];
        all.extend(of_groups);
        all.retain(|(_, count)| *count > 0);
        all
    }
}

impl Group {
    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn set_caps(&self, (idle, queue): (Option<usize>, Option<usize>)) {
        self.idle.set(idle);
        self.queue_max.store(queue.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// A place among the requests that wait for a connection, where there is one.
    pub(super) fn queue_up(&self) -> Option<Waits<'_>> {
        let place = Waits::new(&self.queued);
        let is_in = self.queued.load(Ordering::SeqCst) <= self.queue_max.load(Ordering::Relaxed);
        is_in.then_some(place)
    }

    /// A permit, where there is one and no request waits for it.
    pub(super) fn try_open(
        self: &Arc<Self>,
        (worker, claimant): (usize, Claimant),
    ) -> Option<Permit> {
        let is_open = self.shared.with(|book, _| {
            let may = book.has_room(self.number) && book.open < book.limits.ceiling;
            if may {
                book.take(self.number, worker, claimant);
            }
            may
        });
        is_open.then(|| Permit { group: self.clone(), is_long: false, place: None })
    }

    /// Whether a connection may be opened without any request having to wait or to give one up.
    pub(super) fn has_room(&self) -> bool {
        let book = self.shared.lock();
        book.waiting == 0 && book.has_room(self.number) && book.open < book.limits.ceiling
    }

    /// Whether no request waits for what this group has.
    pub(super) fn is_at_peace(&self) -> bool {
        let book = self.shared.lock();
        book.groups[self.number].line.is_empty() && book.everything.is_empty()
    }

    /// Begins to wait.
    pub(super) fn join(
        self: &Arc<Self>,
        (worker, claimant): (usize, Claimant),
        place: usize,
    ) -> Ticket {
        let key = self.shared.with(|book, wakers| {
            book.serial += 1;
            let serial = book.serial;
            let key = book.tickets.insert(Waiting {
                group: self.number,
                claimant,
                serial,
                since_ms: clock::coarse_ms(),
                worker,
                place,
                state: State::InGroup(Waker::noop().clone()),
            });
            book.groups[self.number].line.join(claimant, serial, key);
            book.waiting += 1;
            book.grant(self.number, wakers);
            key
        });
        for notify in self.shared.shed.iter().chain(&self.shared.dispute) {
            notify.notify_one();
        }
        Ticket { group: self.clone(), key }
    }

    /// Whose a connection of this group is that comes back from `claimant`. `locals` are tickets of
    /// the same worker for the same origin, by age.
    pub(super) fn heir(
        &self,
        (worker, claimant): (usize, Claimant),
        place: usize,
        mut locals: impl Iterator<Item = usize>,
    ) -> Heir {
        self.shared.with(|book, wakers| {
            let own = book.groups[self.number].line.head();
            let others = book.everything.head();
            let by_turn = |head: &Head| (head.rank, head.serial);
            let Some(best) = own.into_iter().chain(others).min_by_key(by_turn) else {
                book.shift(self.number, worker, claimant, |held| held.saturating_sub(1));
                return Heir::Nobody;
            };
            // One that has a permit already, and has not looked yet, needs nothing more.
            let fits = |ticket: &Waiting| {
                ticket.state.is_waiting() && (ticket.worker, ticket.place) == (worker, place)
            };
            let is_best_here = book.tickets.get(best.ticket).is_some_and(fits);
            let since_ms = book.tickets.get(best.ticket).map_or(0, |ticket| ticket.since_ms);
            let is_fair = |key: &usize| {
                book.tickets.get(*key).is_some_and(|ticket| {
                    let rank = book.groups[self.number].line.rank(ticket.claimant);
                    fits(ticket) && rank <= best.rank && ticket.since_ms <= since_ms + UNFAIR_MS
                })
            };
            let heir = if is_best_here { Some(best.ticket) } else { locals.find(is_fair) };
            let Some(heir) = heir else { return Heir::Close };
            book.shift(self.number, worker, claimant, |held| held.saturating_sub(1));
            let to = book.tickets[heir].claimant;
            book.shift(self.number, worker, to, |held| held + 1);
            wakers.extend(book.settle(heir, true, State::Handed));
            book.grant(self.number, wakers);
            Heir::Ticket(heir)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.shared.with(|book, _| {
            book.groups.remove(self.number);
            // Another one may have its name by now.
            if book.numbers.get(&self.name) == Some(&self.number) {
                book.numbers.remove(&self.name);
            }
        });
    }
}

impl Permit {
    /// Counts it among the group's again; false where the group has no room for it.
    pub(super) fn return_to_group(&mut self) -> bool {
        let is_back = self.group.shared.with(|book, _| {
            let has_room = book.has_room(self.group.number);
            if has_room {
                book.groups[self.group.number].open += 1;
                book.long_open -= 1;
            }
            has_room
        });
        self.is_long &= !is_back;
        is_back
    }

    /// It has no holder any more, while requests wait.
    pub(super) fn released_by(&self, (worker, claimant): (usize, Claimant)) {
        let number = self.group.number;
        self.group.shared.with(|book, _| {
            book.shift(number, worker, claimant, |held| held.saturating_sub(1));
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let number = self.group.number;
        self.group.shared.with(|book, wakers| {
            book.open -= 1;
            if self.is_long {
                book.long_open -= 1;
            } else {
                book.groups[number].open -= 1;
            }
            book.grant(number, wakers);
        });
    }
}

/// A request that waits for the right to open a connection; its drop ends the wait.
pub(super) struct Ticket {
    group: Arc<Group>,
    pub(super) key: usize,
}

/// What a wait has come to.
pub(super) enum Granted {
    Permit(Permit),
    /// A connection, which whoever handed it over has put where it is looked for.
    Handed,
}

impl Ticket {
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Granted> {
        let granted = self.group.shared.with(|book, _| {
            let ticket = &mut book.tickets[self.key];
            match &mut ticket.state {
                State::InGroup(waker) | State::InEverything(waker) => {
                    waker.clone_from(cx.waker());
                    Poll::Pending
                }
                State::Granted => {
                    ticket.state = State::Handed;
                    Poll::Ready(true)
                }
                State::Handed => Poll::Ready(false),
            }
        });
        granted.map(|is_permit| {
            if is_permit {
                Granted::Permit(Permit { group: self.group.clone(), is_long: false, place: None })
            } else {
                Granted::Handed
            }
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let (is_unused, _waker) = self.group.shared.with(|book, wakers| {
            let is_unused = matches!(book.tickets[self.key].state, State::Granted);
            // A waker may hold the last of its task: it is not dropped under the lock.
            let waker = book.settle(self.key, false, State::Handed);
            book.tickets.remove(self.key);
            // It may have stood in the way of another one of its group.
            book.grant(self.group.number, wakers);
            (is_unused, waker)
        });
        if is_unused {
            drop(Permit { group: self.group.clone(), is_long: false, place: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn limits(each: usize, ceiling: usize) -> Limits {
        Limits { each, ceiling, long: 2, ..Limits::default() }
    }

    fn claimant(number: u64) -> Claimant {
        Claimant::of([127, 0, 0, number as u8].into())
    }

    fn polled(ticket: &Ticket, woken: &Arc<Woken>) -> Option<Granted> {
        let waker = Waker::from(woken.clone());
        match ticket.poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(granted) => Some(granted),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_group_has_a_limit_and_another_one_has_its_own() {
        let mut limits = limits(1, 10);
        limits.own.insert("b".to_owned(), 2);
        let shared = PoolShared::new(limits, 1);
        let (a, b) = (shared.group("upstream a"), shared.group("upstream b"));
        let who = (0, claimant(1));
        let first = a.try_open(who).unwrap();
        assert!(a.try_open(who).is_none());
        let others = [b.try_open(who).unwrap(), b.try_open(who).unwrap()];
        assert!(b.try_open(who).is_none());
        assert_eq!(shared.open(), 3);
        drop(first);
        drop(others);
        assert!(a.try_open(who).is_some());
        assert_eq!(shared.open(), 0);
        drop((a, b));
        assert_eq!(shared.figures(), []);
    }

    #[test]
    fn a_grant_that_nobody_takes_goes_to_the_next() {
        let shared = PoolShared::new(limits(1, 10), 2);
        let group = shared.group("a");
        let permit = group.try_open((0, claimant(1))).unwrap();
        let wakers = [Arc::<Woken>::default(), Arc::default()];
        let tickets = [group.join((0, claimant(1)), 0), group.join((1, claimant(2)), 0)];
        for (ticket, woken) in tickets.iter().zip(&wakers) {
            assert!(polled(ticket, woken).is_none());
        }
        drop(permit);
        assert_eq!([1, 0], [0, 1].map(|index: usize| wakers[index].0.load(Ordering::Relaxed)));
        let [first, second] = tickets;
        drop(first);
        assert_eq!(wakers[1].0.load(Ordering::Relaxed), 1);
        let Some(Granted::Permit(permit)) = polled(&second, &wakers[1]) else { panic!() };
        drop((second, permit));
        assert_eq!((shared.open(), shared.waiting()), (0, 0));
    }

    /// Found by the simulation: the connection took the permit's place, which was lost for good.
    #[test]
    fn a_connection_is_not_handed_to_whom_a_permit_has_been_granted() {
        let shared = PoolShared::new(limits(2, 10), 2);
        let group = shared.group("a");
        let who = (0, claimant(1));
        let permits = [group.try_open(who).unwrap(), group.try_open(who).unwrap()];
        let tickets = [group.join(who, 0), group.join((1, claimant(1)), 0)];
        let [ended, comes_back] = permits;
        drop(ended);
        let local = std::iter::once(tickets[0].key);
        assert_eq!(group.heir(who, 0, local), Heir::Close);
        drop(comes_back);
        let woken = Arc::default();
        let granted = tickets.each_ref().map(|ticket| polled(ticket, &woken));
        assert!(matches!(granted, [Some(Granted::Permit(_)), Some(Granted::Permit(_))]));
        drop((granted, tickets));
        assert_eq!((shared.open(), shared.waiting()), (0, 0));
    }

    #[test]
    fn a_lower_limit_holds_as_connections_end_and_a_higher_one_at_once() {
        let shared = PoolShared::new(limits(2, 10), 1);
        let group = shared.group("a");
        let who = (0, claimant(1));
        let permits = [group.try_open(who).unwrap(), group.try_open(who).unwrap()];
        let ticket = group.join(who, 0);
        let woken = Arc::default();
        assert!(polled(&ticket, &woken).is_none());
        shared.set_limits(limits(1, 10));
        assert_eq!(shared.shortages(), [(Some(group.number()), 2)]);
        drop(permits);
        assert!(matches!(polled(&ticket, &woken), Some(Granted::Permit(_))));
        let permit = group.try_open(who).unwrap();
        let ticket = group.join(who, 0);
        assert!(polled(&ticket, &woken).is_none());
        shared.set_limits(limits(2, 10));
        assert!(matches!(polled(&ticket, &woken), Some(Granted::Permit(_))));
        drop(permit);
    }

    /// Whatever happens in whichever order: no bound is passed, nobody waits for what is free, and
    /// nothing is left over.
    #[test]
    fn chance_finds_no_permit_that_is_lost_or_too_many() {
        for seed in 1..=300_u64 {
            let mut chance = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut below = |bound: u64| {
                chance ^= chance << 13;
                chance ^= chance >> 7;
                chance ^= chance << 17;
                chance % bound
            };
            let (each, ceiling) = (1 + below(4) as usize, 1 + below(8) as usize);
            let shared = PoolShared::new(limits(each, ceiling), 2);
            let groups = ["a", "b", "c"].map(|name| shared.group(name));
            let woken = Arc::<Woken>::default();
            let (mut permits, mut tickets) = (Vec::new(), Vec::new());
            for _ in 0..300 {
                let group = &groups[below(3) as usize];
                let who = (below(2) as usize, claimant(below(4)));
                match below(6) {
                    0 => permits.extend(group.try_open(who)),
                    1 | 2 => tickets.push(group.join(who, 0)),
                    3 if !tickets.is_empty() => {
                        drop(tickets.swap_remove(below(tickets.len() as u64) as usize));
                    }
                    4 if !permits.is_empty() => {
                        let permit: Permit =
                            permits.swap_remove(below(permits.len() as u64) as usize);
                        permit.released_by(who);
                    }
                    _ => {
                        tickets.retain(|ticket| match polled(ticket, &woken) {
                            Some(Granted::Permit(permit)) => {
                                permits.push(permit);
                                false
                            }
                            Some(Granted::Handed) => panic!("seed {seed}"),
                            None => true,
                        });
                        assert_eq!(shared.open(), permits.len(), "seed {seed}");
                        assert_eq!(shared.waiting(), tickets.len(), "seed {seed}");
                    }
                }
                let figures = shared.figures();
                let open = |of: &GroupFigures| of.open;
                assert!(figures.iter().map(open).sum::<usize>() <= ceiling, "seed {seed}");
                for of in &figures {
                    assert!(of.open <= each, "seed {seed}");
                    let is_short = of.open == each || shared.open() == ceiling;
                    assert!(of.waiting == 0 || is_short, "seed {seed}: {figures:?}");
                }
            }
            drop((permits, tickets));
            assert_eq!((shared.open(), shared.waiting()), (0, 0), "seed {seed}");
        }
    }
}
