//! How an exchange gets a connection to a target of an upstream.
//!
//! In goes who asks and what is wanted; out comes a lease: of a connection that is idle, or of a
//! new one, to the target whose turn it is or to one of the others.

use std::rc::Rc;
use std::time::Instant;

use super::lease::Lease;
use super::origin_ids::OriginId;
use super::pool::Pool;
use super::queue::{Holder, Permitted};
use super::race::{Race, permit};
use super::{Upgrade, Upstream, Wanted, Who};
use crate::address::Address;
use crate::fault::Fault;
use crate::ring::{Socket, clock};

impl Upstream {
    /// A connection that waits for its next request at the target whose turn it is: the common
    /// case, for which no future is made.
    pub(crate) fn take_idle(
        &self,
        pool: &Rc<Pool>,
        holder: Holder,
        wanted: impl FnOnce() -> Wanted<'static>,
    ) -> Option<Lease> {
        if self.config.proxy_protocol.is_some() {
            return None;
        }
        self.follow(pool);
        let number = {
            let roster = self.roster.borrow();
            match &*roster.members {
                [only] if only.target.is_sound() => Some(only.number()),
                _ => None,
            }
        };
        let Some(number) = number else {
            return self.take_idle_of_many(pool, holder, wanted());
        };
        pool.take_idle(number, holder)
    }

    fn take_idle_of_many(&self, pool: &Rc<Pool>, holder: Holder, wanted: Wanted) -> Option<Lease> {
        let number = self.choose(pool, wanted, &[])?;
        let lease = pool.take_idle(number, holder);
        self.chosen.set(lease.is_none().then_some(number));
        lease
    }

    /// The target with the number `number` has ended a new connection before it answered. Whether
    /// there is another one.
    #[cold]
    pub(crate) fn failed(&self, number: usize) -> bool {
        if let Some(member) = self.member(number) {
            let change = member.target.failed(
                Fault::OriginClosed,
                clock::coarse_ms(),
                self.config.fail_timeout,
            );
            self.announce(&member, change);
            member.origin.addresses.doubt();
        }
        self.roster.borrow().members.len() > 1
    }

    /// A connection to the target whose turn it is, or to the next one where it cannot be reached,
    /// of those that `wish` leaves.
    pub(crate) async fn checkout(
        &self,
        pool: &Rc<Pool>,
        who: Who<'_>,
        wish: Wanted<'_>,
    ) -> Result<Lease, Fault> {
        self.follow(pool);
        let is_fresh = wish.is_fresh
            || self.config.proxy_protocol.is_some()
            || wish.upgrade != Upgrade::Nothing;
        let mut tried: Vec<usize> = self.spared(&wish).to_vec();
        let chosen = self.chosen.take().filter(|number| !tried.contains(number));
        let first = chosen.and_then(|number| self.member(number));
        let next = || self.member(self.choose(pool, wish, &tried)?);
        let Some(first) = first.or_else(next) else {
            return Err(self.nobody());
        };
        if !is_fresh && let Some(lease) = pool.take_idle(first.number(), who.holder) {
            return Ok(lease);
        }
        tried.push(first.number());
        let Wanted { key, upgrade, .. } = wish;
        let race = Race { upstream: self, pool, who, is_fresh, key, upgrade };
        Box::pin(race.run(first, tried)).await
    }

    /// What it means that there is nobody to ask.
    fn nobody(&self) -> Fault {
        let has_members = !self.roster.borrow().members.is_empty();
        if has_members { Fault::OriginsDown } else { Fault::OriginUnresolved }
    }
}

/// A connection to a forward target: one that waits for its next request, or a new one,
/// by `dialled`, which is not begun before there is a permit for it.
pub async fn open_target(
    pool: &Rc<Pool>,
    origin_id: &OriginId,
    dialled: impl Future<Output = Result<(Socket, Address), Fault>>,
    holder: Holder,
    is_fresh: bool,
) -> Result<Lease, Fault> {
    let patience = pool.limits.get().acquire;
    match permit(pool, origin_id, (holder, patience), is_fresh).await? {
        Permitted::Open(permit) => {
            let born = Instant::now();
            let _racing = pool.racing(&permit, holder);
            let connected = dialled.await?;
            Ok(pool.adopt(origin_id.clone(), connected, born, permit, holder))
        }
        Permitted::Handed(lease) => Ok(lease),
    }
}
