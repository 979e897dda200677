//! Upstreams: groups of origins, and how an exchange gets a connection to one of them.
//!
//! In goes the configuration with the resolver's addresses; out come leases. The pick is
//! [`balance`]'s, the connections are [`pool`]'s, the addresses [`resolver`]'s; here they meet: the
//! next address, then the next origin, where connecting fails.

pub(crate) mod balance;
mod bonds;
mod book;
mod dial;
pub(crate) mod fair;
pub(crate) mod h1;
pub(crate) mod health;
pub(crate) mod host;
mod idle;
pub(crate) mod learnt;
pub(crate) mod lease;
mod lessons;
pub(crate) mod names;
pub(crate) mod origin_ids;
pub(crate) mod permits;
mod places;
pub(crate) mod pool;
pub(crate) mod prewarm;
pub(crate) mod queue;
pub(crate) mod quota;
mod race;
pub(crate) mod resolver;
mod secure;
pub(crate) mod sticky;
pub(crate) mod tallies;
pub(crate) mod target;
pub(crate) mod targets;
mod window;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::config::{HashKey, HostPolicy, Policy, TimeoutsConfig, UpstreamConfig};
use crate::fault::Fault;
use crate::http::chunk_rules::ChunkRules;
use crate::proxy_protocol::Version;
use crate::ring::{Socket, clock};
use crate::tls::connector::Connector;

use self::balance::{Balance, Candidate, RAMP_FULL, Share};
use self::lease::Lease;
use self::origin_ids::{OriginId, OriginIds};
use self::permits::{PoolShared, UPSTREAM};
use self::pool::Pool;
use self::queue::{Holder, Permitted};
use self::quota::Quota;
use self::race::Race;
use self::resolver::Addresses;
use self::sticky::Sticky;
use self::target::{Change, Reason, Target};
use self::targets::Targets;
use self::window::Ejection;

/// An upstream as all workers see it: its configuration and its origins' addresses.
pub(crate) struct UpstreamPlan {
    pub config: UpstreamConfig,
    pub origins: Vec<Origin>,
    /// Counts up with every change of an address, and of what an operator makes of a weight.
    pub changes: Arc<AtomicU64>,
    pub sticky: Option<Arc<Sticky>>,
    /// How long its origins may take, where no route says otherwise.
    pub times: Arc<TimeoutsConfig>,
    /// Where this ringway is.
    pub zone: String,
}

impl UpstreamPlan {
    /// The targets that there are now, with their origins.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (&Origin, Arc<Target>)> {
        self.origins.iter().flat_map(|origin| {
            let targets = origin.targets.keep(&origin.addresses.load());
            targets.into_iter().map(move |target| (origin, target))
        })
    }
}

/// One origin server, as all workers see it.
#[derive(Clone)]
pub(crate) struct Origin {
    /// As the configuration has it.
    pub url: String,
    /// A name, an IP literal without brackets, or the address of a Unix socket.
    pub host: String,
    /// `host:port` as the `Host` field has it.
    pub authority: String,
    pub weight: u32,
    pub priority: u16,
    /// What its paths begin with, and where it is: see `config::OriginConfig`.
    pub base: String,
    pub zone: String,
    pub addresses: Arc<Addresses>,
    pub targets: Arc<Targets>,
    pub quota: Arc<Quota>,
    /// How it is spoken to over TLS.
    pub tls: Option<Arc<Connector>>,
}

impl Origin {
    /// What tells its connections from those of others: where they go, and whom they trust.
    fn identity(&self) -> String {
        let trust = self.tls.as_ref().map_or(0, |tls| tls.identity());
        format!("{} {trust:x}", self.url)
    }

    /// Its name has no address, or none of those may be asked.
    pub(crate) fn is_down(&self) -> bool {
        let addresses = self.addresses.load();
        let known = self.targets.keep(&addresses);
        addresses.is_empty()
            || known.len() == addresses.len() && known.iter().all(|target| !target.is_sound())
    }
}

/// One target of an upstream, with the id that it has in a worker's pool.
#[derive(Clone)]
pub(crate) struct Member {
    pub origin: Rc<Origin>,
    pub target: Arc<Target>,
    pub id: OriginId,
    /// Of its origin, in the configuration.
    index: usize,
    /// By which clients that are kept with it know it; 0 where none are.
    mark: u64,
}

impl Member {
    /// The number by which the pool knows it.
    pub(crate) fn number(&self) -> usize {
        self.id.origin()
    }
}

/// An upstream as one worker sees it.
pub(crate) struct Upstream {
    config: UpstreamConfig,
    pub(crate) traits: Traits,
    origins: Vec<Rc<Origin>>,
    ids: Rc<OriginIds>,
    shared: Arc<PoolShared>,
    worker: usize,
    changes: Arc<AtomicU64>,
    sticky: Option<Arc<Sticky>>,
    pub(crate) times: Arc<TimeoutsConfig>,
    zone: String,
    /// Some origin may have so many connections and no more.
    has_quotas: bool,
    roster: RefCell<Roster>,
    /// Whose turn it is, where that has been found out already; by its number.
    chosen: Cell<Option<usize>>,
}

/// The targets of an upstream, and whose turn it is.
struct Roster {
    members: Vec<Member>,
    balance: Balance,
    /// Of the addresses that it was made from.
    changes: u64,
}

/// What is known of the servers of an upstream, or of any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traits {
    /// Refuse every answer that is not as it should be.
    pub is_strict: bool,
    /// They read trailers and chunk extensions.
    pub reads_trailers: bool,
    /// They read the body of any request.
    pub reads_all_bodies: bool,
    /// What is sent depends on which of them it is sent to.
    pub differ: bool,
    /// Clients see of their answers something else than they say.
    pub are_seen: bool,
}

impl Traits {
    fn of(config: &UpstreamConfig) -> Self {
        Self {
            is_strict: config.strict,
            reads_trailers: config.pass_trailers,
            reads_all_bodies: config.reads_all_bodies,
            differ: config.host == HostPolicy::Origin
                || config.origins.iter().any(|origin| !origin.base.is_empty()),
            are_seen: config.sticky.is_some() || config.map_location,
        }
    }

    /// What of a request's chunked body goes on.
    pub(crate) fn request_chunks(self) -> ChunkRules {
        if self.reads_trailers { ChunkRules::STRICT } else { ChunkRules::BARE }
    }

    /// What of a chunked answer is taken, and goes on.
    pub(crate) fn response_chunks(self) -> ChunkRules {
        if self.is_strict { ChunkRules::STRICT } else { ChunkRules::LENIENT }
    }
}

/// Who asks for a connection.
#[derive(Clone, Copy)]
pub(crate) struct Who<'a> {
    pub holder: Holder,
    /// What a connection with TLS begins with, before its handshake: whose it is. Empty where an
    /// origin need not know.
    pub introduction: &'a [u8],
    pub times: &'a TimeoutsConfig,
}

impl Upstream {
    /// `worker` staggers the turns, so that not every worker begins with the first target. A
    /// target of an upstream that another configuration has too keeps its place in the pool; one
    /// that another upstream has too has a place there of its own, because its connections count
    /// under the other's limit.
    pub(crate) fn new(
        plan: &UpstreamPlan,
        worker: usize,
        ids: &Rc<OriginIds>,
        shared: &Arc<PoolShared>,
    ) -> Self {
        let upstream = Self {
            config: plan.config.clone(),
            traits: Traits::of(&plan.config),
            origins: plan.origins.iter().cloned().map(Rc::new).collect(),
            sticky: plan.sticky.clone(),
            times: plan.times.clone(),
            zone: plan.zone.clone(),
            has_quotas: plan.origins.iter().any(|origin| origin.quota.max().is_some()),
            ids: ids.clone(),
            shared: shared.clone(),
            worker,
            changes: plan.changes.clone(),
            roster: RefCell::new(Roster::default()),
            chosen: Cell::new(None),
        };
        upstream.roster.replace(upstream.enroll());
        upstream
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    pub(crate) fn host(&self) -> &HostPolicy {
        &self.config.host
    }

    pub(crate) fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// By which each connection says whose request it carries; it carries one.
    pub(crate) fn proxy_protocol(&self) -> Option<Version> {
        self.config.proxy_protocol
    }

    /// How a connection to an origin with TLS says whose it is, which is before its handshake.
    #[inline]
    pub(crate) fn early_proxy_protocol(&self) -> Option<Version> {
        let version = self.config.proxy_protocol?;
        self.origins.iter().any(|origin| origin.tls.is_some()).then_some(version)
    }

    /// What requests are kept together by, if they are.
    pub(crate) fn hash_key(&self) -> Option<&HashKey> {
        (self.config.balance == Policy::ConsistentHash).then_some(&self.config.hash)
    }

    pub(crate) fn origins(&self) -> &[Rc<Origin>] {
        &self.origins
    }

    /// The targets that there are now.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.roster.borrow().members.clone()
    }

    /// The origin of the target with the number `number`.
    pub(crate) fn origin(&self, number: usize) -> Option<&Origin> {
        let roster = self.roster.borrow();
        let member = roster.members.iter().find(|member| member.number() == number)?;
        self.origins.get(member.index).map(|origin| &**origin)
    }

    /// The authority of the origin of the target with the number `number`, and what its paths begin
    /// with.
    pub(crate) fn origin_url(&self, number: usize) -> Option<(String, String)> {
        let origin = self.origin(number)?;
        Some((origin.authority.clone(), origin.base.clone()))
    }

    fn member(&self, number: usize) -> Option<Member> {
        self.roster.borrow().members.iter().find(|member| member.number() == number).cloned()
    }

    /// Takes in what has become of the origins' names.
    #[inline]
    fn follow(&self, pool: &Pool) {
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

    fn enroll(&self) -> Roster {
        let changes = self.changes.load(Ordering::Acquire);
        let now = clock::coarse_ms();
        let UpstreamConfig { name, balance, .. } = &self.config;
        let (mut members, mut shares) = (Vec::new(), Vec::new());
        for (index, origin) in self.origins.iter().enumerate() {
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
                members.push(Member { origin: origin.clone(), target, id, index, mark });
            }
        }
        let panic_below = self.config.panic_below;
        let balance = Balance::new(*balance, shares).with_panic_below(panic_below);
        let balance = balance.started_at(self.worker);
        Roster { members, balance, changes }
    }

    /// Whom the request is kept with, or whose turn it is.
    fn choose(&self, pool: &Pool, wanted: Wanted, tried: &[usize]) -> Option<Member> {
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
        let may_ask = target.serves_kept(now) && (!target.is_in(now) || target.claim(now));
        (may_ask && !tried.contains(&member.number())).then(|| member.clone())
    }

    /// What keeps clients with targets, if anything.
    pub(crate) fn sticky(&self) -> Option<&Sticky> {
        self.sticky.as_deref()
    }

    /// By which clients that are kept with it know the target with the number `number`.
    pub(crate) fn mark(&self, number: usize) -> Option<u64> {
        self.member(number).map(|member| member.mark).filter(|mark| *mark != 0)
    }

    /// Whose turn it is, of those whose numbers are not in `tried`: of those that have room, or else
    /// of all.
    fn pick(&self, pool: &Pool, key: u64, tried: &[usize]) -> Option<Member> {
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

    /// A connection that waits for its next request at the target whose turn it is: the common
    /// case, for which no future is made.
    pub(crate) fn take_idle(
        &self,
        pool: &Rc<Pool>,
        holder: Holder,
        wanted: impl FnOnce() -> Wanted,
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
        let number = self.choose(pool, wanted, &[])?.number();
        let lease = pool.take_idle(number, holder);
        self.chosen.set(lease.is_none().then_some(number));
        lease
    }

    /// The target with the number `number` has ended a new connection before it answered. Whether
    /// there is another one.
    #[cold]
    pub(crate) fn failed(&self, number: usize) -> bool {
        if let Some(member) = self.member(number) {
            let change = member.target.failed(clock::coarse_ms(), self.config.fail_timeout);
            self.announce(&member, change);
        }
        self.roster.borrow().members.len() > 1
    }

    /// A connection to the target whose turn it is, or to the next one where it cannot be reached,
    /// of those that `wish` leaves.
    pub(crate) async fn checkout(
        &self,
        pool: &Rc<Pool>,
        who: Who<'_>,
        wish: Wanted,
    ) -> Result<Lease, Fault> {
        self.follow(pool);
        let is_fresh = wish.is_fresh || self.config.proxy_protocol.is_some();
        let mut tried: Vec<usize> = wish.but.into_iter().collect();
        let chosen = self.chosen.take().filter(|number| !tried.contains(number));
        let first = chosen.and_then(|number| self.member(number));
        let Some(first) = first.or_else(|| self.choose(pool, wish, &tried)) else {
            return Err(self.nobody());
        };
        if !is_fresh && let Some(lease) = pool.take_idle(first.number(), who.holder) {
            return Ok(lease);
        }
        tried.push(first.number());
        let race = Race { upstream: self, pool, who, is_fresh, key: wish.key };
        Box::pin(race.run(first, tried)).await
    }

    /// What it means that there is nobody to ask.
    fn nobody(&self) -> Fault {
        let has_members = !self.roster.borrow().members.is_empty();
        if has_members { Fault::OriginsDown } else { Fault::OriginUnresolved }
    }

    /// Whether it wants to know how exchanges end, and how long answers take.
    #[inline]
    pub(crate) fn listens(&self) -> bool {
        self.config.eject.is_some() || self.config.balance == Policy::P2cEwma
    }

    /// An exchange with the target with the number `number` came to this; `us` is the time to the
    /// head of its answer.
    pub(crate) fn hear(&self, number: usize, is_good: bool, us: Option<u32>) {
        let Some(member) = self.member(number) else { return };
        if let Some(us) = us {
            member.target.measured(us);
        }
        if let Some(config) = &self.config.eject {
            let now = clock::coarse_ms();
            let rules = Ejection::of(config);
            let may_eject = || self.may_eject(&rules);
            let change = member.target.answered(is_good, now, &rules, may_eject);
            self.announce(&member, change);
        }
    }

    /// Whether one more target may be passed over for its answers.
    fn may_eject(&self, rules: &Ejection) -> bool {
        let roster = self.roster.borrow();
        let count = roster.members.len();
        let out = roster.members.iter().filter(|it| !it.target.is_sound()).count();
        out + 1 < count && (out + 1) * 100 <= rules.at_most as usize * count
    }

    /// Passes over what takes much longer than the others.
    pub(crate) fn eject_slow(&self) {
        let Some(rules) = self.config.eject.as_ref().map(Ejection::of) else { return };
        let members = self.members();
        for member in &members {
            member.target.forgive();
        }
        if rules.slower == 0 {
            return;
        }
        let known =
            |member: &&Member| member.target.is_sound() && member.target.has_enough_samples();
        let mut known: Vec<&Member> = members.iter().filter(known).collect();
        known.sort_by_key(|member| member.target.latency_us());
        let Some(median) = known.get(known.len().saturating_sub(1) / 2) else { return };
        let most = median.target.latency_us().saturating_mul(rules.slower);
        let slowest = known.last().filter(|it| known.len() > 2 && it.target.latency_us() > most);
        if let Some(member) = slowest
            && self.may_eject(&rules)
        {
            let change = member.target.eject(Reason::Slow, clock::coarse_ms(), &rules);
            self.announce(member, change);
        }
    }

    /// The targets whose check is due.
    fn due(&self, now_ms: u64) -> Vec<Member> {
        let roster = self.roster.borrow();
        let is_due = |member: &&Member| member.target.check_at_ms.load(Ordering::Relaxed) <= now_ms;
        roster.members.iter().filter(is_due).cloned().collect()
    }

    fn out_by_checks(&self) -> Vec<Member> {
        let roster = self.roster.borrow();
        let is_out =
            |member: &&Member| !member.target.is_sound() && member.target.check() == Some(false);
        roster.members.iter().filter(is_out).cloned().collect()
    }

    /// Says what has become of a target.
    pub(crate) fn announce(&self, member: &Member, change: Option<Change>) {
        if let Some(change) = change {
            announce(self.name(), &member.origin, &member.target, &change);
        }
    }
}

/// What a checkout is to be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// One that has carried no exchange yet.
    pub is_fresh: bool,
    /// To another target than the one with this number.
    pub but: Option<usize>,
    /// What the request is kept together with.
    pub key: u64,
    /// To the target with this mark, if that may be asked.
    pub mark: Option<u64>,
}

/// Says what has become of a target, in words for an operator.
#[cold]
pub(crate) fn announce(upstream: &str, origin: &Origin, target: &Target, change: &Change) {
    let Some(unsaid) = target.may_say(clock::coarse_ms()) else { return };
    let (origin, address) = (origin.url.as_str(), &target.address);
    match change {
        Change::Out(reason) => {
            let reason = reason.name();
            let detail = target.check_error().unwrap_or_default();
            tracing::warn!(upstream, origin, %address, reason, %detail, unsaid, "passed over");
        }
        Change::Back => tracing::info!(upstream, origin, %address, unsaid, "asked again"),
    }
}

fn candidate(target: &Target, now_ms: u64, slow_start_ms: u64) -> Candidate {
    let ramp = if slow_start_ms == 0 {
        RAMP_FULL
    } else {
        let up_ms = now_ms.saturating_sub(target.up_since_ms());
        // Never nothing, or it would get no request by which it becomes warm.
        let part = u64::from(RAMP_FULL) * up_ms / slow_start_ms;
        u32::try_from(part).unwrap_or(RAMP_FULL).clamp(RAMP_FULL / 10, RAMP_FULL)
    };
    Candidate {
        is_in: target.is_in(now_ms),
        is_wanted: target.is_wanted(),
        busy: target.busy(),
        latency_us: target.latency_us(),
        ramp,
    }
}

impl Default for Roster {
    fn default() -> Self {
        let balance = Balance::new(Policy::default(), Vec::new());
        Self { members: Vec::new(), balance, changes: 0 }
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

/// The right to open a connection; where it need not be a new one, one that has come back will do.
async fn permit(
    pool: &Rc<Pool>,
    id: &OriginId,
    (holder, patience): (Holder, Duration),
    is_fresh: bool,
) -> Result<Permitted, Fault> {
    loop {
        match pool.permit(id, holder, patience).await? {
            // Dropping it frees the right to open another.
            Permitted::Handed(_) if is_fresh => {}
            permitted => return Ok(permitted),
        }
    }
}
