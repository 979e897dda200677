//! Another target for a request that one has failed, or keeps waiting.
//!
//! In go the targets that were asked already; out come those that are not asked again, or a
//! connection to another one that is there without a wait for the right to open it. Who is asked
//! first, and how often, is not decided here.

use std::rc::Rc;

use crate::fault::Fault;
use crate::ring::clock;

use super::lease::Lease;
use super::pool::Pool;
use super::race::Race;
use super::{Upgrade, Upstream, Wanted, Who};

impl Upstream {
    /// Those that are not to be asked again: all that were asked, unless nobody else may be.
    pub(super) fn spared<'a>(&self, wanted: &Wanted<'a>) -> &'a [usize] {
        if wanted.but.is_empty() || wanted.needs_other || self.has_other(wanted.but) {
            return wanted.but;
        }
        &[]
    }

    /// Whether another target than those may be asked.
    fn has_other(&self, but: &[usize]) -> bool {
        let now = clock::coarse_ms();
        let roster = self.roster.borrow();
        let mut others = roster.members.iter().filter(|member| !but.contains(&member.number()));
        others.any(|member| member.target.is_in(now))
    }

    /// Whether there is a sound target beside the one with the number `but`.
    pub(crate) fn has_second(&self, but: usize) -> bool {
        let roster = self.roster.borrow();
        roster.members.iter().any(|it| it.number() != but && it.target.is_sound())
    }

    /// A connection to another target than the one with the number `but`: one that rests, or a new
    /// one where there is room for it at once.
    pub(crate) async fn second(
        &self,
        pool: &Rc<Pool>,
        who: Who<'_>,
        (key, but): (u64, usize),
    ) -> Result<Lease, Fault> {
        let member = self.pick(pool, key, &[but]).and_then(|number| self.member(number));
        let member = member.filter(|member| member.target.is_sound());
        let member = member.ok_or(Fault::OriginsDown)?;
        let is_fresh = self.config.proxy_protocol.is_some();
        if !is_fresh && let Some(lease) = pool.take_idle(member.number(), who.holder) {
            return Ok(lease);
        }
        let permit = member.id.try_open((pool.worker, who.holder.claimant));
        let permit = permit.ok_or(Fault::PoolTimeout)?;
        let upgrade = Upgrade::Nothing;
        let race = Race { upstream: self, pool, who, is_fresh, key, upgrade };
        race.single(member, permit).await
    }

    /// The target with the number `number` had not answered after `us` microseconds, and is not
    /// waited for any more.
    pub(crate) fn was_slow(&self, number: usize, us: u32) {
        if let Some(member) = self.member(number) {
            member.target.measured(us);
        }
    }
}
