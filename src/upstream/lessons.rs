//! What the pool learns from its connections, and what it does about that.
//!
//! In go connections that come back, that are closed by their origin while they rest, and that wait
//! for their first answer; out goes what is known of their targets, which all workers share. What
//! rests is given up before its origin does that, and where it may be what a new connection has to
//! wait for. A connection that nobody may have but its client is not touched.

use std::rc::Rc;
use std::time::Duration;

use crate::http::head::ResponseHead;
use crate::http::names::FieldName;
use crate::ring::clock;

use super::bonds::is_owned;
use super::learnt::{PATIENCE_MS, UNSAID, UNUSED, timeout_of};
use super::lease::Lease;
use super::origin_ids::OriginId;
use super::outcomes::announce;
use super::permits::UPSTREAM;
use super::pool::{Pool, Slot};
use super::target::Change;

/// So many of those that rest are asked whether their origin has kept them.
const ASKED_MAX: usize = 4;

impl Lease {
    /// Takes in what an answer, whose head `text` begins with, says of the connection.
    #[inline]
    pub(crate) fn hear(&mut self, head: &ResponseHead, text: &[u8]) {
        let field = head.fields.find_if_any(FieldName::KeepAlive);
        self.told = field.map_or(UNSAID, |field| timeout_of(field.value.of(text)));
        if !head.is_persistent && head.repairs.is_none() {
            self.ends();
        }
    }

    #[cold]
    fn ends(&self) {
        if let Some(slot) = self.pool().slots.borrow().get(self.key)
            && let Some(target) = slot.origin_id.target()
        {
            target.learnt.ended(clock::coarse_ms());
        }
    }
}

impl Slot {
    /// It has had its first answer, or will have none.
    pub(super) fn end_first(&mut self) {
        if std::mem::take(&mut self.is_first)
            && let Some(target) = self.origin_id.target()
        {
            target.learnt.first_ends();
        }
    }

    /// Its origin has ended it, which has rested since then.
    #[cold]
    pub(super) fn was_closed(&self, since_ms: u64) {
        if let Some(target) = self.origin_id.target() {
            let now = clock::coarse_ms();
            target.learnt.closed(now.saturating_sub(since_ms), now, self.has_carried);
        }
    }

    /// Whether its origin may be about to end it, which has rested since then.
    #[inline]
    pub(super) fn is_too_old(&self, since_ms: u64) -> bool {
        self.origin_id.target().is_some_and(|target| {
            let age_ms = clock::coarse_ms().saturating_sub(since_ms);
            target.learnt.is_too_old(age_ms, self.has_carried) && !is_owned(self.owner)
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.end_first();
    }
}

impl Pool {
    /// A connection is opened that has had no answer yet; whether that is anybody's business.
    pub(super) fn begin_first(&self, id: &OriginId) -> bool {
        let Some(target) = id.target() else { return false };
        let is_only = target.learnt.first_begins(clock::coarse_ms());
        if is_only && !target.learnt.serves_several() {
            let (shared, target) = (self.shared.clone(), target.clone());
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(PATIENCE_MS)).await;
                // Mostly it has had its answer long ago.
                if target.learnt.is_in_the_way(clock::coarse_ms()) {
                    shared.shed.iter().for_each(tokio::sync::Notify::notify_one);
                }
            });
        }
        true
    }

    /// Learns from a connection that has come back from an exchange; whether it may rest.
    #[cold]
    pub(super) fn learn(self: &Rc<Self>, lease: &Lease) -> bool {
        let now = clock::coarse_ms();
        let was_first = self.slots.borrow().get(lease.key).is_some_and(|slot| slot.is_first);
        let target = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(lease.key) else { return false };
            slot.end_first();
            let Some(target) = slot.origin_id.target() else { return true };
            target.clone()
        };
        if lease.told == UNUSED {
            return true;
        }
        let kept_another = || was_first && self.was_overtaken(lease) || self.rests_another(lease);
        target.learnt.came_back(now, lease.told, lease.is_reused, kept_another);
        if !target.is_sound() {
            self.has_served(lease, target.served(now));
        }
        !target.learnt.keeps_none() && !target.learnt.is_in_the_way(now)
    }

    /// Says what has become of a target that has served a request.
    fn has_served(&self, lease: &Lease, change: Option<Change>) {
        let slots = self.slots.borrow();
        let Some((change, slot)) = change.zip(slots.get(lease.key)) else { return };
        let (target, origin) = (slot.origin_id.target(), slot.origin_id.whose());
        if let (Some(target), Some(origin)) = (target, origin) {
            let upstream = slot.permit.group.name();
            let upstream = upstream.strip_prefix(UPSTREAM).unwrap_or(upstream);
            announce(upstream, origin, target, &change);
        }
    }

    /// Whether the origin has kept another connection while it answered on this one, and has not
    /// ended either to be able to.
    fn rests_another(&self, lease: &Lease) -> bool {
        let (idle, slots) = (self.idle.borrow(), self.slots.borrow());
        let list = slots.get(lease.key).and_then(|slot| idle.get(slot.origin));
        let mut newest = list.into_iter().flatten().rev().take(ASKED_MAX);
        let is_kept = |key: usize| {
            slots.get(key).is_some_and(|slot| slot.has_carried && slot.socket.is_silent())
        };
        newest.any(|entry| is_kept(entry.key)) && lease.socket().is_silent()
    }

    /// Whether an older connection still waits for its first answer, which this one has had: who
    /// serves one at a time takes them in the order in which they came.
    fn was_overtaken(&self, lease: &Lease) -> bool {
        let slots = self.slots.borrow();
        let Some(own) = slots.get(lease.key) else { return false };
        let waits = |other: &Slot| other.origin == own.origin && other.is_first;
        slots.iter().any(|(_, other)| waits(other) && other.born < own.born)
    }

    /// Closes the idle connections that their origin would close soon, and those that may be in
    /// the way of a new one; when the next one is due.
    pub(super) fn expire(&self) -> Option<Duration> {
        let now = clock::coarse_ms();
        let (mut due, mut soonest) = (Vec::new(), None);
        for (key, slot) in self.slots.borrow().iter() {
            let (Some(idle), Some(target)) = (&slot.idle, slot.origin_id.target()) else {
                continue;
            };
            if is_owned(slot.owner) {
                continue;
            }
            let learnt = &target.learnt;
            learnt.grow_old(now);
            let left_ms = learnt.left_ms(now.saturating_sub(idle.since_ms), slot.has_carried);
            if left_ms == Some(0) || learnt.is_in_the_way(now) {
                due.push(key);
            } else if let Some(left_ms) = left_ms {
                soonest = Some(soonest.map_or(left_ms, |soonest: u64| soonest.min(left_ms)));
            }
        }
        for key in due {
            self.close_idle(key);
        }
        soonest.map(Duration::from_millis)
    }
}
