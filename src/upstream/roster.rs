//! The targets of an upstream as one worker sees them, and whose turn it is.
//!
//! In go the addresses that names have now, and what is known of targets; out comes whom a request
//! goes to. Nothing is connected here.

use std::sync::atomic::Ordering;

use super::balance::{Balance, Candidate, RAMP_FULL, Share, mix};
use super::permits::UPSTREAM;
use super::pool::Pool;
use super::target::Target;
use super::{Member, Origin, Roster, Upstream, Wanted};
use crate::config::UpstreamConfig;
use crate::ring::clock;

impl Upstream {
    /// Takes in what has become of the origins' names.
    #[inline]
    pub(crate) fn follow(&self, pool: &Pool) {
        if self.changes.load(Ordering::Acquire) != self.roster.borrow().changes {
            self.follow_changes(pool);
        }
    }

    #[cold]
    fn follow_changes(&self, pool: &Pool) {
        let changes = self.changes.load(Ordering::Acquire);
        if self.version() == self.roster.borrow().version {
            // A name of another upstream.
            self.roster.borrow_mut().changes = changes;
            return;
        }
        let roster = self.enroll();
        let before = self.roster.replace(roster);
        let now = self.roster.borrow();
        for member in before.members {
            if !now.members.iter().any(|kept| kept.number() == member.number()) {
                pool.close_idle_of(member.number());
            }
        }
    }

    /// Another one whenever the roster would be.
    fn version(&self) -> u64 {
        let weighings = self.weighings.load(Ordering::Acquire);
        self.origins.iter().fold(mix(weighings + 1), |all, origin| mix(all ^ origin.version()))
    }

    pub(super) fn enroll(&self) -> Roster {
        let changes = self.changes.load(Ordering::Acquire);
        let version = self.version();
        let now = clock::coarse_ms();
        let UpstreamConfig { name, balance, .. } = &*self.config;
        let (mut members, mut shares) = (Vec::new(), Vec::new());
        for origin in self.origins.iter().flat_map(Origin::servers) {
            let identity = origin.identity();
            let is_near = !self.zone.is_empty() && origin.zone == self.zone;
            for address in origin.addresses.load().iter() {
                let key = format!("origin {name} {identity} {address}");
                let target = origin.targets.of(*address, now);
                let group = || self.shared.group(&format!("{UPSTREAM}{name}"));
                // Counting costs every request two atomic additions.
                let is_counted = balance.counts_requests();
                let traffic = origin.traffic.of(self.worker);
                let known = Some((target.clone(), origin.clone(), traffic));
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
        Roster { members, balance, changes, version }
    }

    /// Whom the request is kept with, or whose turn it is; by its number.
    pub(super) fn choose(&self, pool: &Pool, wanted: Wanted<'_>, tried: &[usize]) -> Option<usize> {
        let kept = wanted.mark.and_then(|mark| self.kept(mark, tried));
        kept.or_else(|| self.pick(pool, wanted.key, tried))
    }

    /// The target with this mark, if it may be asked.
    #[cold]
    fn kept(&self, mark: u64, tried: &[usize]) -> Option<usize> {
        let now = clock::coarse_ms();
        let roster = self.roster.borrow();
        let member = roster.members.iter().find(|member| member.mark == mark)?;
        let target = &member.target;
        // A trial that is claimed is made.
        let may_ask = !tried.contains(&member.number())
            && target.serves_kept(now)
            && (!target.is_in(now) || target.claim(now));
        may_ask.then(|| member.number())
    }

    /// Whose turn it is, of those whose numbers are not in `tried`: of those that have room, or
    /// else of all; by its number.
    pub(super) fn pick(&self, pool: &Pool, key: u64, tried: &[usize]) -> Option<usize> {
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

    fn pick_of(&self, key: u64, tried: &[usize]) -> Option<usize> {
        let now = clock::coarse_ms();
        let Roster { members, balance, .. } = &mut *self.roster.borrow_mut();
        let slow_start_ms = self.config.slow_start.as_millis() as u64;
        if tried.is_empty() && slow_start_ms == 0 {
            let load = |index: usize| members.get(index)?.target.load();
            if let Some(picked) = balance.pick_sound(load) {
                return members.get(picked).map(Member::number);
            }
        }
        let mut lost: Vec<usize> = Vec::new();
        loop {
            let lost_now = &lost;
            let see = |index: usize| {
                let member: &Member = &members[index];
                let is_tried = tried.contains(&member.number()) || lost_now.contains(&index);
                (!is_tried).then(|| candidate(&member.target, now, slow_start_ms))
            };
            let Some(picked) = balance.pick(key, see) else {
                // Others try it already: where nobody else is left, a guess beats a refusal.
                let mut guesses = lost.iter().map(|index| &members[*index]);
                let guess = guesses.find(|member| member.target.is_wanted());
                return guess.map(Member::number);
            };
            let target = &members[picked].target;
            // On trial, somebody else was first.
            if target.is_sound() || !target.is_in(now) || target.claim(now) {
                return Some(members[picked].number());
            }
            lost.push(picked);
        }
    }
}

#[inline]
fn candidate(target: &Target, now_ms: u64, slow_start_ms: u64) -> Candidate {
    let is_in = target.is_in(now_ms);
    let ramp = if slow_start_ms == 0 { RAMP_FULL } else { ramp(target, now_ms, slow_start_ms) };
    Candidate {
        is_in,
        // Nobody is in whom an operator has put out.
        is_wanted: is_in || target.is_wanted(),
        busy: target.busy(),
        latency_us: target.latency_us(),
        ramp,
    }
}

/// The part of its weight that a target has which has come not long ago.
fn ramp(target: &Target, now_ms: u64, slow_start_ms: u64) -> u32 {
    let up_ms = now_ms.saturating_sub(target.up_since_ms());
    let part = u64::from(RAMP_FULL) * up_ms / slow_start_ms;
    // Never nothing, or it would get no request by which it becomes warm.
    u32::try_from(part).unwrap_or(RAMP_FULL).clamp(RAMP_FULL / 10, RAMP_FULL)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::super::UpstreamPlan;
    use super::super::addresses::{Addresses, all_of_tcp};
    use super::super::origin_ids::OriginIds;
    use super::super::permits::{Limits, PoolShared};
    use super::super::pool::PoolLimits;
    use super::*;
    use crate::address::Address;
    use crate::config::Config;
    use crate::ledger::{Budget, Ledger};
    use crate::ring::{Deadlines, HeadPool};

    const SECOND: Duration = Duration::from_secs(1);

    fn three() -> Vec<Address> {
        all_of_tcp((1..=3).map(|last| (Ipv4Addr::new(10, 0, 0, last), 80).into()).collect())
    }

    /// An upstream whose one origin has three addresses, with its worker's pool.
    fn upstream(addresses: &Arc<Addresses>, changes: &Arc<AtomicU64>) -> (Upstream, Rc<Pool>) {
        let origin = Origin {
            url: "http://app.test".to_owned(),
            host: "app.test".to_owned(),
            authority: "app.test".to_owned(),
            weight: 1,
            priority: 0,
            base: String::new(),
            zone: String::new(),
            addresses: addresses.clone(),
            targets: Arc::default(),
            quota: Arc::default(),
            traffic: Arc::default(),
            tls: None,
            http: crate::config::OriginHttp::One,
            service: None,
            is_server: false,
        };
        let plan = UpstreamPlan {
            config: Config::default().upstreams[0].clone().into(),
            origins: vec![origin.into()],
            changes: changes.clone(),
            weighings: Arc::default(),
            sticky: None,
            times: Arc::default(),
            zone: String::new(),
        };
        let shared = PoolShared::new(Limits { each: 9, ceiling: 9, ..Limits::default() }, 1);
        let (ledger, budget) = (Arc::<Ledger>::default(), Rc::new(Budget::unlimited()));
        let heads = HeadPool::new(4096, ledger.clone(), budget);
        let limits = PoolLimits {
            max_idle: 9,
            idle_expiry: SECOND,
            acquire: SECOND,
            connect: SECOND,
            keepalive: SECOND,
        };
        let (own, deadlines) = ((ledger, Arc::default()), Rc::new(Deadlines::default()));
        let pool = Pool::new(0, limits, shared.clone(), deadlines, heads, own);
        (Upstream::new(&plan, 0, &Rc::new(OriginIds::default()), &shared), pool)
    }

    fn last_number(upstream: &Upstream, pool: &Pool) -> u8 {
        let picked = upstream.pick(pool, 0, &[]).and_then(|number| upstream.member(number));
        match picked.map(|member| member.target.address) {
            Some(Address::Tcp(address)) => match address.ip() {
                std::net::IpAddr::V4(ip) => ip.octets()[3],
                std::net::IpAddr::V6(_) => 0,
            },
            _ => 0,
        }
    }

    #[test]
    fn a_change_of_another_name_leaves_the_roster_and_whose_turn_it_is() {
        let (addresses, changes) = (Arc::<Addresses>::default(), Arc::<AtomicU64>::default());
        addresses.store(three(), true);
        let (upstream, pool) = upstream(&addresses, &changes);
        assert_eq!([0, 0].map(|_| last_number(&upstream, &pool)), [1, 2]);
        changes.fetch_add(1, Ordering::Release);
        upstream.follow(&pool);
        assert_eq!(last_number(&upstream, &pool), 3);
        addresses.store(three()[1..].to_vec(), true);
        changes.fetch_add(1, Ordering::Release);
        upstream.follow(&pool);
        assert_eq!([0, 0, 0].map(|_| last_number(&upstream, &pool)), [2, 3, 2]);
    }
}
