//! The right to open a connection: who has how many, who waits, and who is next.
//!
//! In go requests that found no idle connection; out come permits. Three bounds hold: so many for
//! each upstream or target (a [`Group`]), so many long answers beside those, and so many in the
//! whole process. All of it is one book behind one lock, which is taken to open and to close a
//! connection and by those that wait; a request that finds an idle connection never asks here.
//!
//! It knows no socket, and what has to be given up is for others to end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::sync::{Notify, Semaphore};

use crate::ring::clock;

use super::fair::{Claimant, Head, Line};
use super::tallies::Tally;

/// How many connections there may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// To each upstream and each target that has no number of its own.
    pub each: usize,
    /// By upstream, where it has one.
    pub own: HashMap<String, usize>,
    /// Answers that have been on their way for long, beside those.
    pub long: usize,
    /// In the whole process.
    pub ceiling: usize,
}

/// What the pools of all workers share.
pub struct PoolShared {
    book: Mutex<Book>,
    /// Requests that wait for a permit, in any worker.
    wanted: AtomicUsize,
    /// Idle connections, as each worker's last sweep counted them.
    pub(super) idle: AtomicUsize,
    /// One per worker: asks its janitor to give up idle connections.
    pub(super) shed: Vec<Notify>,
    /// One per worker: somebody waits.
    dispute: Vec<Notify>,
}

/// Those that share one limit: the origins of an upstream, or a target of forward requests.
pub struct Group {
    shared: Arc<PoolShared>,
    name: Arc<str>,
    number: usize,
}

/// The right to have one connection open; its drop gives it back.
pub struct Permit {
    pub(super) group: Arc<Group>,
    /// It counts among the long answers.
    pub(super) is_long: bool,
}

pub(super) struct Book {
    limits: Limits,
    pub(super) groups: Slab<GroupState>,
    numbers: HashMap<Arc<str>, usize>,
    /// Requests whose group has room where the process has none.
    pub(super) everything: Line,
    /// Long answers by claimant, and those that would be ones if there were room.
    pub(super) long: Line,
    pub(super) long_open: usize,
    open: usize,
    tickets: Slab<Waiting>,
    waiting: usize,
    serial: u64,
    /// By worker.
    pub(super) tallies: Vec<Tally>,
}

pub(super) struct GroupState {
    handle: Weak<Group>,
    /// It has a limit of its own, for all there is.
    pub(super) is_exempt: bool,
    pub(super) line: Line,
    /// Without long answers.
    open: usize,
    /// Its requests in the line of everything.
    promised: usize,
}

struct Waiting {
    group: usize,
    claimant: Claimant,
    serial: u64,
    since_ms: u64,
    worker: usize,
    /// The origin, by its number in the worker.
    place: usize,
    state: State,
}

enum State {
    InGroup(Waker),
    InEverything(Waker),
    Granted,
    /// A connection that came back has been put into its hands.
    Handed,
}

/// Where a connection goes that has come back while somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heir {
    Nobody,
    /// The waiting request with this ticket, in the same worker.
    Ticket(usize),
    /// It is to be closed, so that somebody else may open one.
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
            book: Mutex::new(Book {
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
            }),
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
        self.with(|book, wakers| {
            book.everything.set_max(limits.ceiling);
            book.long.set_max(limits.long);
            book.limits = limits;
            let names: Vec<_> = book.numbers.iter().map(|(k, n)| (k.clone(), *n)).collect();
            for (name, number) in names {
                let (max, is_exempt) = book.max_of(&name);
                book.groups[number].line.set_max(max);
                book.groups[number].is_exempt = is_exempt;
                book.grant(number, wakers);
            }
        });
        self.shed.iter().for_each(Notify::notify_one);
    }

    /// The group called `name`, which lives for as long as somebody has it.
    pub fn group(self: &Arc<Self>, name: &str) -> Arc<Group> {
        self.with(|book, _| {
            let known = book.numbers.get(name).and_then(|number| book.groups.get(*number));
            if let Some(group) = known.and_then(|state| state.handle.upgrade()) {
                return group;
            }
            let (max, is_exempt) = book.max_of(name);
            let name: Arc<str> = name.into();
            let entry = book.groups.vacant_entry();
            let number = entry.key();
            let group = Arc::new(Group { shared: self.clone(), name: name.clone(), number });
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

    /// Resolves once somebody waits.
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
        let book = self.lock();
        let figures = book.numbers.iter().map(|(name, number)| {
            let state = &book.groups[*number];
            GroupFigures {
                name: name.clone(),
                open: state.open,
                max: state.line.max(),
                waiting: state.line.len() + state.promised,
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

    /// A permit, where there is one and nobody waits for it.
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
        is_open.then(|| Permit { group: self.clone(), is_long: false })
    }

    /// Whether a connection may be opened without anybody having to wait or to give one up.
    pub(super) fn has_room(&self) -> bool {
        let book = self.shared.lock();
        book.waiting == 0 && book.has_room(self.number) && book.open < book.limits.ceiling
    }

    /// Whether nobody waits for what this group has.
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
            let own = book.groups[self.number].line.next();
            let others = book.everything.next();
            let by_turn = |head: &Head| (head.rank, head.serial);
            let Some(best) = own.into_iter().chain(others).min_by_key(by_turn) else {
                book.shift(self.number, worker, claimant, |held| held.saturating_sub(1));
                return Heir::Nobody;
            };
            let fits = |ticket: &Waiting| (ticket.worker, ticket.place) == (worker, place);
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

    /// Its holder has changed to nobody, while others wait.
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

impl Book {
    /// The limit of the group called `name`, and whether it is its own.
    fn max_of(&self, name: &str) -> (usize, bool) {
        let own = name.strip_prefix(UPSTREAM).and_then(|name| self.limits.own.get(name));
        (own.copied().unwrap_or(self.limits.each), own.is_some())
    }

    pub(super) fn has_room(&self, group: usize) -> bool {
        let state = &self.groups[group];
        state.open < state.line.max()
    }

    fn take(&mut self, group: usize, worker: usize, claimant: Claimant) {
        self.groups[group].open += 1;
        self.open += 1;
        self.shift(group, worker, claimant, |held| held + 1);
    }

    /// Counts what a claimant holds, for as long as anybody waits: whoever holds for a while is
    /// counted anew with every tally.
    fn shift(&mut self, group: usize, worker: usize, claimant: Claimant, by: fn(u32) -> u32) {
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
            let Some(head) = self.everything.next() else { break };
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
    fn promise(&mut self, group: usize, wakers: &mut Vec<Waker>) {
        loop {
            let state = &mut self.groups[group];
            if state.open + state.promised >= state.line.max() {
                return;
            }
            let Some(head) = state.line.next() else { return };
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

    fn move_to_group(&mut self, key: usize) {
        let ticket = &mut self.tickets[key];
        let state = &mut self.groups[ticket.group];
        self.everything.leave(ticket.claimant, ticket.serial, false, self.serial);
        state.promised -= 1;
        state.line.join(ticket.claimant, ticket.serial, key);
        if let State::InEverything(waker) = &mut ticket.state {
            ticket.state = State::InGroup(std::mem::replace(waker, Waker::noop().clone()));
        }
    }

    fn serve(&mut self, key: usize, wakers: &mut Vec<Waker>) {
        let Waiting { group, worker, claimant, .. } = self.tickets[key];
        // Counted while it still waits: with the last one the counts are forgotten.
        self.take(group, worker, claimant);
        wakers.extend(self.settle(key, true, State::Granted));
    }

    /// Takes a waiting request out of its line; its waker.
    fn settle(&mut self, key: usize, is_served: bool, state: State) -> Option<Waker> {
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
    fn forget(&mut self) {
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
pub const UPSTREAM: &str = "upstream ";

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
                Granted::Permit(Permit { group: self.group.clone(), is_long: false })
            } else {
                Granted::Handed
            }
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let (is_unused, _waker) = self.group.shared.with(|book, _| {
            let is_unused = matches!(book.tickets[self.key].state, State::Granted);
            // A waker may hold the last of its task: it is not dropped under the lock.
            let waker = book.settle(self.key, false, State::Handed);
            book.tickets.remove(self.key);
            (is_unused, waker)
        });
        if is_unused {
            drop(Permit { group: self.group.clone(), is_long: false });
        }
    }
}

/// Changes how many permits there are; how many of them are still out and have to be awaited by
/// [`settle`].
pub fn resize(permits: &Semaphore, before: usize, after: usize) -> Option<usize> {
    permits.add_permits(after.saturating_sub(before));
    let surplus = before.saturating_sub(after);
    let debt = surplus - permits.forget_permits(surplus);
    (debt > 0).then_some(debt)
}

/// Takes `debt` permits out of use as they come back, before anybody else gets them.
pub async fn settle(permits: Arc<Semaphore>, debt: usize) {
    let debt = u32::try_from(debt).unwrap_or(u32::MAX);
    if let Ok(permits) = permits.acquire_many_owned(debt).await {
        permits.forget();
    }
}
