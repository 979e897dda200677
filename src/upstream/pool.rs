//! Connections to origins: a slab per worker, limits for the whole process.
//!
//! In go an origin's number and address; out comes a [`Lease`], which is a connection that is
//! either reused (the one that came back last) or new. `max_connections` and `max_idle` hold for
//! the process; they are atomics that are touched once per connection, not once per request.
//!
//! It never sends a request and never decides where one goes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::address::Address;
use crate::fault::Fault;
use crate::ledger::{Kind, Ledger};
use crate::observe::connection_stats::Moment;
use crate::observe::metrics::WorkerMetrics;
use crate::relay::side::{Act, Side};
use crate::ring::{Deadlines, HeadPool, PendingRecv, Socket, WaitError, clock};

use super::bonds::{Bond, is_owned};
use super::idle::{Entry, Idle, Watch};
use super::learnt::UNUSED;
use super::lease::Lease;
use super::origin_ids::OriginId;
use super::permits::{Group, Permit, PoolShared};
use super::places::Placeless;
use super::queue::{Holder, NO_SEAT, Waiters};
use super::quota::IdleCap;
use super::shared::Shared;
use super::tallies::{Verdict, View};
use super::target::Busy;

/// The limits and waits of `[pool]` and `[timeouts]` that concern the pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Idle connections in the process that the sweep leaves alone.
    pub max_idle: usize,
    pub idle_expiry: Duration,
    pub acquire: Duration,
    pub connect: Duration,
    pub keepalive: Duration,
}

/// One worker's connections.
pub struct Pool {
    pub(super) worker: usize,
    pub(super) limits: Cell<PoolLimits>,
    pub(super) shared: Arc<PoolShared>,
    pub(super) deadlines: Rc<Deadlines>,
    pub(super) heads: Rc<HeadPool>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) slots: RefCell<Slab<Slot>>,
    /// Idle slots by origin, the one that came back last at the end.
    pub(super) idle: RefCell<Vec<Vec<Entry>>>,
    /// Idle slots that are a client's own.
    pub(super) bonds: RefCell<Vec<Bond>>,
    pub(super) waiters: RefCell<Waiters>,
    /// Requests that wait for a place at an origin, by its number and their turn.
    pub(super) placeless: RefCell<HashMap<(usize, u64), Rc<Placeless>>>,
    /// What this worker has last said of its idle connections, where that is limited.
    pub(super) caps: RefCell<HashMap<usize, Arc<IdleCap>>>,
    pub(super) janitor: RefCell<Waker>,
    pub(super) idle_published: Cell<usize>,
    pub(super) is_stopping: Cell<bool>,
    /// Sockets that are connecting and have no slot.
    pub(super) dials: RefCell<Slab<Socket>>,
    /// Those that hold a permit meanwhile.
    pub(super) races: RefCell<Slab<Race>>,
    /// Those that carry many exchanges at once.
    pub(super) shared_connections: RefCell<Shared>,
}

/// A connection and its state. It stays in its place while it is leased, so that a checkout moves
/// a key and not a connection.
pub(super) struct Slot {
    pub(super) socket: Socket,
    pub(super) origin: usize,
    pub(super) address: Address,
    /// When connecting began.
    pub(super) born: Instant,
    /// The receive that will bring the next answer, once it has begun. It stays here: to move it
    /// from hand to hand would cost more than to look it up.
    pub(super) reply: Option<PendingRecv>,
    /// `None` while it is out with an exchange, or still connecting.
    pub(super) idle: Option<Idle>,
    /// Whose it is while it is out.
    pub(super) holder: Holder,
    /// Whose own it is, by the number of a client connection; `NO_SEAT` where it is anybody's.
    pub(super) owner: u32,
    /// Since when it has carried the body of an answer, if that does not come with the head.
    pub(super) streams_since: Option<Moment>,
    /// What its origin may take to take some of a request while others wait, where that is another
    /// time than elsewhere; 0 where not.
    pub(super) write_ms: u32,
    /// It has been told to end.
    pub(super) is_ending: bool,
    /// It has carried an answer.
    pub(super) has_carried: bool,
    /// It is counted among those that wait for their first answer.
    pub(super) is_first: bool,
    /// Keeps the origin's number for as long as there is a connection.
    pub(super) origin_id: OriginId,
    /// The request that it carries, where those are counted.
    pub(super) busy: Option<Busy>,
    _ledger_entry: LedgerEntry,
    pub(super) permit: Permit,
}

impl Slot {
    /// It is in the hands of another exchange from now on.
    pub(super) fn take(&mut self, holder: Holder) {
        self.holder = holder;
        self.busy = self.origin_id.count();
        self.streams_since = None;
        self.write_ms = 0;
        self.is_ending = false;
    }
}

/// A permit in the hands of a dial that tries several addresses at once.
pub(super) struct Race {
    group: usize,
    holder: Holder,
    is_ending: bool,
}

/// A permit's place in the list of races.
pub(super) struct Racing<'a> {
    pool: &'a Pool,
    key: usize,
}

impl Drop for Racing<'_> {
    fn drop(&mut self) {
        self.pool.races.borrow_mut().remove(self.key);
    }
}

/// No slot has this number or a higher one.
const RACES: usize = usize::MAX / 2;

/// What a connection to an origin costs: its slot, its descriptor and the operation that watches
/// it. Its head buffer is counted where it comes from.
pub(crate) const SLOT_BYTES: usize = 448;

/// A slot's part in the ledger.
pub(super) struct LedgerEntry(Arc<Ledger>);

impl LedgerEntry {
    fn new(ledger: &Arc<Ledger>) -> Self {
        ledger.add(Kind::Pool, SLOT_BYTES as u64);
        Self(ledger.clone())
    }
}

impl Drop for LedgerEntry {
    fn drop(&mut self) {
        self.0.sub(Kind::Pool, SLOT_BYTES as u64);
    }
}

impl Pool {
    pub fn new(
        worker: usize,
        limits: PoolLimits,
        shared: Arc<PoolShared>,
        deadlines: Rc<Deadlines>,
        heads: Rc<HeadPool>,
        (ledger, metrics): (Arc<Ledger>, Arc<WorkerMetrics>),
    ) -> Rc<Self> {
        Rc::new(Self {
            worker,
            limits: Cell::new(limits),
            shared,
            deadlines,
            heads,
            ledger,
            metrics,
            slots: RefCell::default(),
            idle: RefCell::default(),
            bonds: RefCell::default(),
            waiters: RefCell::default(),
            placeless: RefCell::default(),
            caps: RefCell::default(),
            janitor: RefCell::new(Waker::noop().clone()),
            idle_published: Cell::new(0),
            is_stopping: Cell::new(false),
            dials: RefCell::default(),
            races: RefCell::default(),
            shared_connections: RefCell::default(),
        })
    }

    /// The connection to `origin` that came back last and is still good.
    pub fn take_idle(self: &Rc<Self>, origin: usize, holder: Holder) -> Option<Lease> {
        loop {
            let key = self.next_idle(origin)?;
            if let Some(lease) = self.revive(key, holder) {
                self.metrics.pool_reused.add(1);
                return Some(lease);
            }
            self.metrics.pool_stale.add(1);
        }
    }

    /// Opens a connection with a permit, until `deadline`.
    pub async fn connect(
        self: &Rc<Self>,
        origin_id: &OriginId,
        address: Address,
        permit: Permit,
        holder: Holder,
        deadline: Instant,
    ) -> Result<Lease, Fault> {
        let keepalive = self.limits.get().keepalive;
        let limit = deadline.saturating_duration_since(Instant::now());
        if limit.is_zero() {
            return Err(Fault::OriginConnectTimeout);
        }
        let socket = Socket::open(address, keepalive).map_err(|e| open_fault(&e))?;
        // From here on the lease cleans up.
        let socket = (socket, address);
        let lease = self.adopt(origin_id.clone(), socket, Instant::now(), permit, holder);
        let connected = lease.socket().connect(address, &self.deadlines, limit).await;
        connected.map(|()| lease).map_err(|error| connect_fault(address, &error))
    }

    /// Takes a socket in that is being, or has been, connected to the origin with `origin_id`.
    pub fn adopt(
        self: &Rc<Self>,
        origin_id: OriginId,
        (socket, address): (Socket, Address),
        born: Instant,
        permit: Permit,
        holder: Holder,
    ) -> Lease {
        let origin = origin_id.origin();
        origin_id.opens();
        let mut idle = self.idle.borrow_mut();
        if idle.len() <= origin {
            idle.resize_with(origin + 1, Vec::new);
        }
        let key = self.slots.borrow_mut().insert(Slot {
            socket: socket.clone(),
            origin,
            address,
            born,
            reply: None,
            idle: None,
            holder,
            owner: NO_SEAT,
            streams_since: None,
            write_ms: 0,
            is_ending: false,
            has_carried: false,
            is_first: self.begin_first(&origin_id),
            busy: origin_id.count(),
            origin_id,
            _ledger_entry: LedgerEntry::new(&self.ledger),
            permit,
        });
        self.metrics.pool_opened.add(1);
        Lease::new(self, key, (socket, origin), false)
    }

    /// Takes a connection back: to the request that waits for it, to the idle list, or to its end.
    pub(super) fn give_back(self: &Rc<Self>, mut lease: Lease) {
        if self.is_stopping.get() || lease.is_single {
            return;
        }
        let Some((owner, is_news)) = self.rejoin(&lease) else { return };
        if is_news {
            if !self.learn(&lease) {
                return;
            }
            match self.hand_to_placeless(lease, owner) {
                Some(returned) => lease = returned,
                None => return,
            }
        }
        if self.shared.is_wanted() {
            // Nobody else can use it.
            if is_owned(owner) {
                return;
            }
            // What follows an answer would be taken for the next one.
            if !lease.socket().is_silent() {
                return;
            }
            match self.hand_over(lease) {
                Some(returned) => lease = returned,
                None => return,
            }
        }
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(lease.key) else { return };
        let Some(watch) = self.watch_idle(slot) else { return };
        slot.idle = Some(Idle { watch, since_ms: clock::coarse_ms() });
        let key = lease.keep();
        if !is_owned(owner) {
            self.idle.borrow_mut()[slot.origin].push(Entry { key, turn: clock::turn() });
            return;
        }
        drop(slots);
        self.rest_apart(owner, key);
    }

    /// Begins to watch a connection that goes idle; `None` where it has ended, or something follows
    /// the last answer.
    fn watch_idle(&self, slot: &mut Slot) -> Option<Watch> {
        let janitor = self.janitor.borrow();
        let mut cx = Context::from_waker(&janitor);
        if !slot.socket.is_plain() {
            // What has come for the session alone is taken now, and later by the watch.
            let mut poll = slot.socket.is_silent().then(|| slot.socket.start_poll_input())?;
            let has_ended = Pin::new(&mut poll).poll(&mut cx).is_ready();
            return (!has_ended).then_some(Watch::Poll(poll));
        }
        // Polled once with the janitor's waker, the receive is the watch.
        let has_ended = Pin::new(slot.expect_reply(&self.heads)).poll(&mut cx).is_ready();
        (!has_ended).then_some(Watch::Recv)
    }

    /// Counts a connection that has carried a long answer as any other again; whose own it is, and
    /// whether there is more to it, or nothing where there are as many of those as may be.
    fn rejoin(&self, lease: &Lease) -> Option<(u32, bool)> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(lease.key)?;
        slot.busy = None;
        if slot.permit.is_long && !slot.permit.return_to_group() {
            return None;
        }
        let is_wanted = slot.origin_id.quota().is_some_and(|quota| quota.is_wanted());
        if lease.told == UNUSED {
            return Some((slot.owner, is_wanted || slot.is_first));
        }
        slot.has_carried = true;
        let is_news = slot.origin_id.target().is_some_and(|target| {
            let is_alone = || !self.has_idle(slot.origin);
            slot.is_first || !target.is_sound() || !target.learnt.is_as_known(lease.told, is_alone)
        });
        Some((slot.owner, is_news || is_wanted))
    }

    /// Says that `lease` is in other hands from now on.
    pub(super) fn pass_on(&self, lease: &Lease, holder: Holder) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(lease.key) {
            slot.take(holder);
        }
    }

    /// Whose limit `lease` counts under, and who has it.
    pub(super) fn holding(&self, lease: &Lease) -> Option<(Arc<Group>, Holder)> {
        let slots = self.slots.borrow();
        slots.get(lease.key).map(|slot| (slot.permit.group.clone(), slot.holder))
    }

    /// Gives the place of a leased connection up, and its permit.
    pub(super) fn close_slot(&self, key: usize) {
        let Some(slot) = self.slots.borrow_mut().try_remove(key) else { return };
        if self.shared.is_wanted() {
            slot.permit.released_by((self.worker, slot.holder.claimant));
        }
    }

    /// The connections that are out, as the arbiter sees them, which chooses some that end. `look`
    /// adds what the pool does not know.
    pub fn view(&self, mut look: impl FnMut(Holder, Option<Moment>, &mut View)) -> Vec<View> {
        let slots = self.slots.borrow();
        let leased = slots.iter().filter(|(_, slot)| slot.idle.is_none());
        let of_slots = leased.map(|(id, slot)| {
            let Slot { permit, holder, streams_since, is_ending, write_ms, .. } = slot;
            let mut view = View::new(id, permit.group.number(), holder.claimant);
            (view.is_long, view.is_ending) = (permit.is_long, *is_ending);
            view.write_ms = *write_ms;
            look(*holder, *streams_since, &mut view);
            view
        });
        let mut views: Vec<_> = of_slots.collect();
        for (id, race) in self.races.borrow().iter() {
            let mut view = View::new(RACES + id, race.group, race.holder.claimant);
            view.is_ending = race.is_ending;
            look(race.holder, None, &mut view);
            views.push(view);
        }
        views
    }

    /// Has the connections of `views` judged while requests wait: which answers have become long
    /// ones, and who has to give up what he holds.
    pub fn judge(&self, views: &[View]) -> Vec<(Holder, Verdict, Option<Socket>)> {
        let mut cut = Vec::new();
        let verdicts = self.shared.judge(self.worker, views);
        let mut slots = self.slots.borrow_mut();
        let mut races = self.races.borrow_mut();
        for (id, verdict) in verdicts {
            if let Some(race) = id.checked_sub(RACES).and_then(|id| races.get_mut(id)) {
                race.is_ending = true;
                cut.push((race.holder, verdict, None));
                continue;
            }
            let Some(slot) = slots.get_mut(id) else { continue };
            if verdict == Verdict::Long {
                slot.permit.is_long = true;
            } else {
                slot.is_ending = true;
                cut.push((slot.holder, verdict, Some(slot.socket.clone())));
            }
        }
        cut
    }

    /// Counts a permit that has no connection yet as its holder's, until the result is dropped.
    pub(super) fn racing(&self, permit: &Permit, holder: Holder) -> Racing<'_> {
        let race = Race { group: permit.group.number(), holder, is_ending: false };
        Racing { pool: self, key: self.races.borrow_mut().insert(race) }
    }

    /// Limits and waits from now on.
    pub fn set_limits(&self, limits: PoolLimits) {
        self.limits.set(limits);
    }

    /// Connections of this worker to `origin`, idle and leased.
    pub fn count_of(&self, origin: usize) -> usize {
        self.slots.borrow().iter().filter(|(_, slot)| slot.origin == origin).count()
    }

    /// Slots in use: idle, leased and connecting.
    pub fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.borrow().is_empty()
    }

    /// Closes what is idle and refuses what is waiting; connections out with an exchange end when
    /// they come back.
    pub fn stop(&self) {
        self.is_stopping.set(true);
        self.close_idle_beyond(0);
        self.end_all_bonds();
        self.forget_caps();
        self.wake_waiters();
        self.wake_placeless();
    }

    /// Ends every connection that is out with an exchange.
    pub fn cut(&self) {
        for (_, slot) in self.slots.borrow().iter() {
            if slot.idle.is_none() {
                // A shutdown would look like the end of an answer that ends with its connection.
                slot.socket.interrupt_for_good(&self.deadlines);
            }
        }
        for (_, socket) in self.dials.borrow().iter() {
            socket.interrupt_for_good(&self.deadlines);
        }
    }
}

pub(super) fn open_fault(error: &std::io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => {
            crate::observe::log_limit::too_many_files("connect to an origin", error);
            Fault::TooManyFiles
        }
        _ => Fault::Internal,
    }
}

/// What it means that an origin at `address` could not be connected to.
pub(super) fn connect_fault(address: Address, error: &WaitError) -> Fault {
    if let (Address::Unix(address), WaitError::Failed(error)) = (address, error) {
        crate::observe::log_limit::no_unix_origin(address, error);
    }
    error.on(Side::Origin, Act::Connect)
}
