//! The wait for a connection, and the way of one that comes back while a request waits.
//!
//! In goes a request that found no idle connection; out comes the right to open one, or a
//! connection that another request has just given back. Whose turn it is says the book of
//! [`super::permits`]; here are the tasks that wait, for `timeouts.pool` at most. A wait that is
//! dropped gives back what it had been given.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::fault::Fault;
use crate::ring::clock;

use super::fair::Claimant;
use super::lease::Lease;
use super::origin_ids::OriginId;
use super::permits::{Granted, Heir, Permit};
use super::pool::Pool;
use super::quota::Place;

/// Who has a connection in his hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub claimant: Claimant,
    /// The client connection's number in its worker; [`NO_SEAT`] where there is none.
    pub slot: u32,
}

pub(crate) const NO_SEAT: u32 = u32::MAX;

impl Holder {
    /// What is done without a client.
    pub const NOBODY: Self = Self { claimant: Claimant::NOBODY, slot: NO_SEAT };
}

/// A request that waits for a connection.
struct Waiter {
    holder: Holder,
    handed: RefCell<Option<Lease>>,
}

/// Those of one worker.
#[derive(Default)]
pub(super) struct Waiters {
    by_ticket: HashMap<usize, Rc<Waiter>>,
    /// Tickets by origin and age.
    by_place: BTreeMap<(usize, u64), usize>,
    serial: u64,
}

/// So many of those that wait for an origin are looked at when a connection to it comes back.
const LOOKED_AT_MAX: usize = 16;

/// What a wait for a connection ended with.
pub(crate) enum Permitted {
    /// The right to open a new one.
    Open(Permit),
    /// One that another exchange has just given back.
    Handed(Lease),
}

/// What a wait for a place at an origin ended with.
pub(super) enum Placed {
    /// `None` where places are not counted.
    At(Option<Place>),
    Handed(Lease),
}

impl Pool {
    /// Waits for the right to open a connection to `place`, or for one that is handed over.
    ///
    /// The wait for a place at the origin, where that may have so many connections and no more,
    /// comes before the one for its upstream's; `patience` is for both.
    pub(super) async fn permit(
        self: &Rc<Self>,
        place: &OriginId,
        holder: Holder,
        patience: Duration,
    ) -> Result<Permitted, Fault> {
        if self.is_stopping.get() {
            return Err(Fault::Stopping);
        }
        let (group, who) = (place.group(), (self.worker, holder.claimant));
        if let Some(permit) = place.try_open(who) {
            return Ok(Permitted::Open(permit));
        }
        // One of our own that is idle makes room, where no request waits for that.
        if group.is_at_peace()
            && !place.quota().is_some_and(|quota| quota.is_full() || quota.is_wanted())
            && self.close_oldest_idle(Some(group.number()))
            && let Some(permit) = place.try_open(who)
        {
            return Ok(Permitted::Open(permit));
        }
        let Some(_queued) = group.queue_up() else {
            return Err(Fault::PoolQueueFull);
        };
        self.metrics.pool_waits.add(1);
        let began_us = clock::precise_us();
        let until = Instant::now() + patience;
        let outcome = match self.wait_for_place(place, holder, until).await {
            Ok(Placed::At(taken)) => self.wait(place, holder, until).await.map(|permitted| {
                if let Permitted::Open(mut permit) = permitted {
                    permit.place = taken;
                    return Permitted::Open(permit);
                }
                permitted
            }),
            Ok(Placed::Handed(lease)) => Ok(Permitted::Handed(lease)),
            Err(fault) => Err(fault),
        };
        self.metrics.pool_wait.record(clock::precise_us().saturating_sub(began_us));
        if let Err(Fault::PoolTimeout) = outcome {
            self.metrics.pool_timeouts.add(1);
            crate::observe::log_limit::pool_is_full(group.name());
        }
        outcome
    }

    async fn wait(
        self: &Rc<Self>,
        place: &OriginId,
        holder: Holder,
        until: Instant,
    ) -> Result<Permitted, Fault> {
        let waiting = WaitingPlace::take(self, place, holder);
        let mut patience = std::pin::pin!(tokio::time::sleep_until(until));
        poll_fn(|cx| {
            if self.is_stopping.get() {
                return Poll::Ready(Err(Fault::Stopping));
            }
            if let Poll::Ready(granted) = waiting.ticket.poll(cx) {
                return Poll::Ready(match granted {
                    Granted::Permit(permit) => Ok(Permitted::Open(permit)),
                    Granted::Handed => waiting.handed().map(Permitted::Handed),
                });
            }
            patience.as_mut().poll(cx).map(|()| Err(Fault::PoolTimeout))
        })
        .await
    }

    /// Gives `lease` to the request that has waited for it; back where it may go to rest.
    pub(super) fn hand_over(&self, mut lease: Lease) -> Option<Lease> {
        let place = lease.origin();
        let (group, holder) = self.holding(&lease)?;
        let heir = {
            let waiters = self.waiters.borrow();
            let locals = waiters.by_place.range((place, 0)..=(place, u64::MAX));
            let locals = locals.take(LOOKED_AT_MAX).map(|(_, ticket)| *ticket);
            group.heir((self.worker, holder.claimant), place, locals)
        };
        match heir {
            Heir::Nobody => Some(lease),
            Heir::Close => None,
            Heir::Ticket(ticket) => {
                let waiter = self.waiters.borrow().by_ticket.get(&ticket).cloned()?;
                self.pass_on(&lease, waiter.holder);
                lease.is_reused = true;
                self.metrics.pool_reused.add(1);
                lease.expect_reply();
                *waiter.handed.borrow_mut() = Some(lease);
                None
            }
        }
    }

    /// Wakes all that wait, to be told that there is no point in it.
    pub(super) fn wake_waiters(&self) {
        let waiters = self.waiters.borrow();
        let tickets: Vec<usize> = waiters.by_ticket.keys().copied().collect();
        drop(waiters);
        self.shared.wake(&tickets);
    }
}

/// A place among those that wait; dropping it ends the wait.
struct WaitingPlace<'a> {
    pool: &'a Rc<Pool>,
    waiter: Rc<Waiter>,
    ticket: super::permits::Ticket,
    place: (usize, u64),
}

impl<'a> WaitingPlace<'a> {
    fn take(pool: &'a Rc<Pool>, place: &OriginId, holder: Holder) -> Self {
        let ticket = place.group().join((pool.worker, holder.claimant), place.origin());
        let waiter = Rc::new(Waiter { holder, handed: RefCell::default() });
        let mut waiters = pool.waiters.borrow_mut();
        waiters.serial += 1;
        let place = (place.origin(), waiters.serial);
        waiters.by_ticket.insert(ticket.key, waiter.clone());
        waiters.by_place.insert(place, ticket.key);
        drop(waiters);
        Self { pool, waiter, ticket, place }
    }

    /// What has been handed over.
    fn handed(&self) -> Result<Lease, Fault> {
        self.waiter.handed.borrow_mut().take().ok_or(Fault::Internal)
    }
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        let mut waiters = self.pool.waiters.borrow_mut();
        waiters.by_ticket.remove(&self.ticket.key);
        waiters.by_place.remove(&self.place);
        drop(waiters);
        // Handed over at the moment at which the wait ended otherwise: back to the pool.
        if let Some(lease) = self.waiter.handed.borrow_mut().take() {
            lease.give_back();
        }
    }
}
