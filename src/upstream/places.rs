//! What one origin may have, as one worker's pool keeps to it: places, and idle connections.
//!
//! In go requests that need a new connection to an origin whose connections are counted, and
//! connections that come back; out come places, or a connection that another request has just given
//! back. Once a second, idle connections go that are more than an origin or an upstream may have.
//! What an upstream may have in all is for [`super::queue`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::ring::clock;

use super::bonds::is_owned;
use super::lease::Lease;
use super::origin_ids::OriginId;
use super::pool::{Pool, Slot};
use super::queue::{Holder, Placed};
use super::quota::{IdleCap, Quota, Turn};

/// Those by which the idle connections of `slot` are limited, with what no other has.
fn caps(slot: &Slot) -> impl Iterator<Item = (usize, &Arc<IdleCap>)> {
    let of_origin = slot.origin_id.quota().map(|quota| &quota.idle);
    let all = of_origin.into_iter().chain([&slot.permit.group.idle]);
    all.filter(|cap| cap.is_limited()).map(|cap| (Arc::as_ptr(cap).addr(), cap))
}

impl Pool {
    /// Whether a connection to `origin` rests.
    pub(super) fn has_idle(&self, origin: usize) -> bool {
        self.idle.borrow().get(origin).is_some_and(|list| !list.is_empty())
    }

    /// Waits for a place at the origin with `id`, or for a connection to it that comes back.
    pub(super) async fn wait_for_place(
        self: &Rc<Self>,
        id: &OriginId,
        holder: Holder,
        until: Instant,
    ) -> Result<Placed, Fault> {
        let Some(quota) = id.quota() else { return Ok(Placed::At(None)) };
        if !quota.is_wanted()
            && let Some(place) = quota.take()
        {
            return Ok(Placed::At(Some(place)));
        }
        let turn = quota.join((self.worker, id.origin()), clock::coarse_ms());
        let seat = Seat::take(self, (id.origin(), turn), holder);
        loop {
            if self.is_stopping.get() {
                return Err(Fault::Stopping);
            }
            if let Some(lease) = seat.handed() {
                return Ok(Placed::Handed(lease));
            }
            if let Some(lease) = self.take_idle(id.origin(), holder) {
                return Ok(Placed::Handed(lease));
            }
            if let Some(place) = seat.waiter.turn.take() {
                return Ok(Placed::At(Some(place)));
            }
            // Another worker may have some that rest.
            self.shared.shed.iter().for_each(Notify::notify_one);
            if tokio::time::timeout_at(until, seat.waiter.turn.called()).await.is_err() {
                return seat.handed().map(Placed::Handed).ok_or(Fault::PoolTimeout);
            }
        }
    }

    /// Gives a connection that has come back, and is `owner`'s own or nobody's, to the request here
    /// that waits for its place; back where nobody waits for that. Where only somebody in another
    /// worker does, or has waited much longer, it ends.
    pub(super) fn hand_to_placeless(&self, mut lease: Lease, owner: u32) -> Option<Lease> {
        let quota = {
            let slots = self.slots.borrow();
            slots.get(lease.key)?.origin_id.quota().filter(|quota| quota.is_wanted()).cloned()
        };
        let Some(quota) = quota else { return Some(lease) };
        // Nobody else can use it, or what follows its answer would be taken for the next one.
        if is_owned(owner) || !lease.socket().is_silent() {
            return None;
        }
        let origin = lease.origin();
        let heir = quota.heir((self.worker, origin))?;
        let waiter = self.placeless.borrow().get(&(origin, heir)).cloned()?;
        self.pass_on(&lease, waiter.holder);
        lease.is_reused = true;
        self.metrics.pool_reused.add(1);
        lease.expect_reply();
        *waiter.handed.borrow_mut() = Some(lease);
        None
    }

    /// Gives the places of idle connections to those who wait for them in other workers: as many as
    /// there are such.
    pub(super) fn yield_places(&self) {
        let wanted: Vec<(usize, Arc<Quota>)> = {
            let slots = self.slots.borrow();
            let idle = slots.iter().filter(|(_, slot)| slot.idle.is_some());
            let quotas = idle.filter_map(|(key, slot)| Some((key, slot.origin_id.quota()?)));
            quotas
                .filter(|(_, quota)| quota.shortage() > 0)
                .map(|(key, quota)| (key, quota.clone()))
                .collect()
        };
        for (key, quota) in wanted {
            if quota.shortage() > 0 {
                self.close_idle(key);
            }
        }
    }

    /// Has those who wait for a place look again.
    pub(super) fn wake_placeless(&self) {
        for waiter in self.placeless.borrow().values() {
            waiter.turn.wake();
        }
    }

    /// Nothing of this worker rests any more: what it had said of that would keep others from
    /// having theirs.
    pub(super) fn forget_caps(&self) {
        for cap in self.caps.borrow_mut().drain().map(|(_, cap)| cap) {
            cap.trim(self.worker, 0, 0);
        }
    }

    /// Closes the idle connections that are more than their origin or their upstream may have in
    /// all workers, of those in `rested`, which are in the order in which they go.
    pub(super) fn trim(&self, rested: &[usize]) {
        let mut counts: HashMap<usize, (Arc<IdleCap>, usize)> = HashMap::new();
        for (_, slot) in self.slots.borrow().iter().filter(|(_, slot)| slot.idle.is_some()) {
            for (number, cap) in caps(slot) {
                counts.entry(number).or_insert_with(|| (cap.clone(), 0)).1 += 1;
            }
        }
        let mut counted = self.caps.borrow_mut();
        for (number, cap) in std::mem::take(&mut *counted) {
            if !counts.contains_key(&number) {
                cap.trim(self.worker, 0, 0);
            }
        }
        for (number, (cap, _)) in counts {
            let is_in =
                |slot: &Slot| slot.idle.is_some() && caps(slot).any(|(other, _)| other == number);
            let (count, own): (usize, Vec<usize>) = {
                let slots = self.slots.borrow();
                let own = rested.iter().copied();
                let own = own.filter(|key| slots.get(*key).is_some_and(is_in));
                (slots.iter().filter(|(_, slot)| is_in(slot)).count(), own.collect())
            };
            let surplus = cap.trim(self.worker, count, own.len());
            for key in &own[..surplus] {
                self.close_idle(*key);
            }
            counted.insert(number, cap);
        }
    }
}

/// A request that waits for a place.
pub(super) struct Placeless {
    holder: Holder,
    turn: Turn,
    handed: RefCell<Option<Lease>>,
}

/// Its entry among those of its worker; dropping it ends the wait.
struct Seat<'p> {
    pool: &'p Rc<Pool>,
    key: (usize, u64),
    waiter: Rc<Placeless>,
}

impl<'p> Seat<'p> {
    fn take(pool: &'p Rc<Pool>, (origin, turn): (usize, Turn), holder: Holder) -> Self {
        let key = (origin, turn.serial);
        let waiter = Rc::new(Placeless { holder, turn, handed: RefCell::default() });
        pool.placeless.borrow_mut().insert(key, waiter.clone());
        Self { pool, key, waiter }
    }

    /// What has been handed over.
    fn handed(&self) -> Option<Lease> {
        self.waiter.handed.borrow_mut().take()
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.pool.placeless.borrow_mut().remove(&self.key);
        // Handed over at the moment at which the wait ended otherwise: back to the pool.
        if let Some(lease) = self.handed() {
            lease.give_back();
        }
    }
}
