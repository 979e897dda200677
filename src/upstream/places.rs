//! What one origin may have, as one worker's pool keeps to it: places, and idle connections.
//!
//! In go requests that need a new connection to an origin whose connections are counted, and
//! connections that come back; out come places, or a connection that another request has just given
//! back. Once a second, idle connections go that are more than an origin or an upstream may have.
//! What an upstream may have in all is for [`super::queue`].

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::fault::Fault;

use super::lease::Lease;
use super::origin_ids::OriginId;
use super::pool::{Pool, Slot};
use super::queue::{Holder, Placed};
use super::quota::IdleCap;

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
        let _waits = quota.wait();
        let here = self.placeless.borrow_mut().entry(id.origin()).or_default().clone();
        let _listed = Listed { pool: self, origin: id.origin() };
        loop {
            let (mut freed, mut back) =
                (std::pin::pin!(quota.freed()), std::pin::pin!(here.notified()));
            freed.as_mut().enable();
            back.as_mut().enable();
            if self.is_stopping.get() {
                return Err(Fault::Stopping);
            }
            if let Some(lease) = self.take_idle(id.origin(), holder) {
                return Ok(Placed::Handed(lease));
            }
            if let Some(place) = quota.take() {
                return Ok(Placed::At(Some(place)));
            }
            // Another worker may have some that rest.
            self.shared.shed.iter().for_each(Notify::notify_one);
            let woken = async {
                tokio::select! { () = freed => (), () = back => () }
            };
            if tokio::time::timeout_at(until, woken).await.is_err() {
                return Err(Fault::PoolTimeout);
            }
        }
    }

    /// Whether a connection that has come back may rest, or go to who waits here; where only
    /// another worker has somebody who waits for its place, it ends.
    pub(super) fn may_rest_here(&self, lease: &Lease) -> bool {
        let slots = self.slots.borrow();
        let Some(slot) = slots.get(lease.key) else { return false };
        let is_wanted = slot.origin_id.quota().is_some_and(|quota| quota.is_wanted());
        if !is_wanted {
            return true;
        }
        match self.placeless.borrow().get(&slot.origin) {
            Some(here) => {
                here.notify_one();
                true
            }
            None => false,
        }
    }

    /// Gives the places of idle connections to those who wait for them in other workers.
    pub(super) fn yield_places(&self) {
        let wanted: Vec<usize> = {
            let (slots, placeless) = (self.slots.borrow(), self.placeless.borrow());
            let is_wanted = |slot: &Slot| {
                slot.idle.is_some()
                    && slot.origin_id.quota().is_some_and(|it| it.is_wanted() && it.is_full())
                    && !placeless.contains_key(&slot.origin)
            };
            slots.iter().filter(|(_, slot)| is_wanted(slot)).map(|(key, _)| key).collect()
        };
        for key in wanted {
            self.close_idle(key);
        }
    }

    /// Has those who wait for a place look again.
    pub(super) fn wake_placeless(&self) {
        for here in self.placeless.borrow().values() {
            here.notify_waiters();
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

/// An entry among those who wait in this worker, which the last of them takes with it.
struct Listed<'p> {
    pool: &'p Pool,
    origin: usize,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut placeless = self.pool.placeless.borrow_mut();
        // The map's, and the one of whoever is about to go.
        if placeless.get(&self.origin).is_some_and(|here| Rc::strong_count(here) <= 2) {
            placeless.remove(&self.origin);
        }
    }
}
