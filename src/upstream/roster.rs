//! The targets of an upstream as one worker sees them, and whose turn it is.
//!
//! In go the addresses that names have now, and what is known of targets; out comes whom a request
//! goes to. Nothing is connected here.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::balance::{Balance, Candidate, RAMP_FULL, Share};
use super::permits::UPSTREAM;
use super::pool::Pool;
use super::target::Target;
use super::{Member, Origin, Roster, Upstream, Wanted};
use crate::config::UpstreamConfig;
use crate::ring::clock;

impl Upstream {
    /// Takes in what has become of the origins' names.
    #[inline]
    pub(super) fn follow(&self, pool: &Pool) {
        if self.changes.load(Ordering::Acquire) != self.roster.borrow().changes {
            self.follow_changes(pool);
        }
    }

    #[cold]
    fn follow_changes(&self, pool: &Pool) {
        let roster = self.enroll();
        let before = self.roster.replace(roster);
        let now = self.roster.borrow();
        for member in before.members {
            if !now.members.iter().any(|kept| kept.number() == member.number()) {
                pool.close_idle_of(member.number());
            }
        }
    }

    pub(super) fn enroll(&self) -> Roster {
        let changes = self.changes.load(Ordering::Acquire);
        let now = clock::coarse_ms();
        let UpstreamConfig { name, balance, .. } = &self.config;
        let (mut members, mut shares) = (Vec::new(), Vec::new());
        let servers = |origin: &Rc<Origin>| match origin.service {
            None => vec![origin.clone()],
            Some(_) => origin.servers().into_iter().map(Rc::new).collect(),
        };
        for origin in self.origins.iter().flat_map(servers) {
            let identity = origin.identity();
            let is_near = !self.zone.is_empty() && origin.zone == self.zone;
            for address in origin.addresses.load().iter() {
                let key = format!("origin {name} {identity} {address}");
                let target = origin.targets.of(*address, now);
                let group = || self.shared.group(&format!("{UPSTREAM}{name}"));
                // Counting costs every request two atomic additions.
                let is_counted = balance.counts_requests();
                let known = Some((target.clone(), origin.quota.clone()));
                let id = self.ids.hold_target(&key, known, is_counted, group);
                // By the address alone, so that it is the same on every machine.
                let own = address.to_string();
                let weight = target.weight(origin.weight);
                shares.push(Share::new(weight, origin.priority, &own).near(is_near));
                let mark = self.sticky.as_ref().map_or(0, |sticky| sticky.mark(&own));
                members.push(Member { origin: origin.clone(), target, id, mark });
            }
        }
        let panic_below = self.config.panic_below;
        let balance = Balance::new(*balance, shares).with_panic_below(panic_below);
        let balance = balance.started_at(self.worker);
        Roster { members, balance, changes }
    }

    /// Whom the request is kept with, or whose turn it is.
    pub(super) fn choose(
        &self,
        pool: &Pool,
        wanted: Wanted<'_>,
        tried: &[usize],
    ) -> Option<Member> {
        let kept = wanted.mark.and_then(|mark| self.kept(mark, tried));
        kept.or_else(|| self.pick(pool, wanted.key, tried))
    }

    /// The target with this mark, if it may be asked.
    #[cold]
    fn kept(&self, mark: u64, tried: &[usize]) -> Option<Member> {
        let now = clock::coarse_ms();
        let roster = self.roster.borrow();
        let member = roster.members.iter().find(|member| member.mark == mark)?;
        let target = &member.target;
        // A trial that is claimed is made.
        let may_ask = !tried.contains(&member.number())
            && target.serves_kept(now)
            && (!target.is_in(now) || target.claim(now));
        may_ask.then(|| member.clone())
    }

    /// Whose turn it is, of those whose numbers are not in `tried`: of those that have room, or
    /// else of all.
    pub(super) fn pick(&self, pool: &Pool, key: u64, tried: &[usize]) -> Option<Member> {
        if self.has_quotas {
            let full = self.full(pool);
            let passed_over: Vec<usize> = tried.iter().chain(&full).copied().collect();
            let with_room = self.pick_of(key, &passed_over);
            return with_room.or_else(|| self.pick_of(key, tried));
        }
        self.pick_of(key, tried)
    }

    /// The numbers of those for which a request would have to wait.
    #[cold]
    fn full(&self, pool: &Pool) -> Vec<usize> {
        let roster = self.roster.borrow();
        let is_full = |it: &&Member| it.origin.quota.is_full() && !pool.has_idle(it.number());
        roster.members.iter().filter(is_full).map(Member::number).collect()
    }

    fn pick_of(&self, key: u64, tried: &[usize]) -> Option<Member> {
        let now = clock::coarse_ms();
        let Roster { members, balance, .. } = &mut *self.roster.borrow_mut();
        let slow_start_ms = self.config.slow_start.as_millis() as u64;
        let mut lost: Vec<usize> = Vec::new();
        loop {
            let lost_now = &lost;
            let see = |index: usize| {
                let member: &Member = &members[index];
                let is_tried = tried.contains(&member.number()) || lost_now.contains(&index);
                (!is_tried).then(|| candidate(&member.target, now, slow_start_ms))
            };
            let picked = balance.pick(key, see)?;
            let target = &members[picked].target;
            // On trial, somebody else was first.
            if target.is_sound() || !target.is_in(now) || target.claim(now) {
                return Some(members[picked].clone());
            }
            lost.push(picked);
        }
    }
}

fn candidate(target: &Target, now_ms: u64, slow_start_ms: u64) -> Candidate {
    let up_ms = || now_ms.saturating_sub(target.up_since_ms());
    let part = match slow_start_ms {
        0 => None,
        _ => (u64::from(RAMP_FULL) * up_ms()).checked_div(slow_start_ms),
    };
    // Never nothing, or it would get no request by which it becomes warm.
    let ramp = part.map_or(RAMP_FULL, |part| {
        u32::try_from(part).unwrap_or(RAMP_FULL).clamp(RAMP_FULL / 10, RAMP_FULL)
    });
    Candidate {
        is_in: target.is_in(now_ms),
        is_wanted: target.is_wanted(),
        busy: target.busy(),
        latency_us: target.latency_us(),
        ramp,
    }
}
