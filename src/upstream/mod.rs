//! Upstreams: groups of origins, and how an exchange gets a connection to one of them.
//!
//! In goes the configuration with the resolver's addresses; out come leases. The pick is
//! [`balance`]'s, the connections are [`pool`]'s, the addresses [`resolver`]'s; here they meet: the
//! next address, then the next origin, where connecting fails.

pub(crate) mod addresses;
pub(crate) mod balance;
mod bonds;
mod book;
pub(crate) mod checkout;
mod dial;
pub(crate) mod fair;
pub(crate) mod h1;
pub(crate) mod health;
mod holders;
pub(crate) mod host;
mod idle;
pub(crate) mod learnt;
pub(crate) mod lease;
mod lessons;
pub(crate) mod names;
mod origin;
pub(crate) mod origin_ids;
pub(crate) mod outcomes;
pub(crate) mod permits;
mod places;
pub(crate) mod pool;
pub(crate) mod prewarm;
pub(crate) mod queue;
pub(crate) mod quota;
mod race;
pub(crate) mod resolver;
mod roster;
mod second;
mod secure;
pub(crate) mod services;
mod shared;
mod standing;
pub(crate) mod sticky;
mod streams;
pub(crate) mod tallies;
pub(crate) mod target;
pub(crate) mod targets;
mod window;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::config::{HashKey, HostPolicy, OriginHttp, Policy, TimeoutsConfig, UpstreamConfig};
use crate::http::chunk_rules::ChunkRules;
use crate::proxy_protocol::Version;
use crate::ring::clock;
use crate::tls::connector::Offers;

use self::balance::Balance;
use self::origin_ids::{OriginId, OriginIds};
use self::permits::PoolShared;
use self::queue::Holder;
use self::sticky::Sticky;
use self::target::Target;

pub(crate) use self::origin::Origin;

/// An upstream as all workers see it: its configuration and its origins' addresses.
pub(crate) struct UpstreamPlan {
    pub config: Arc<UpstreamConfig>,
    pub origins: Vec<Arc<Origin>>,
    /// Counts up with every change of an address of any name, and of what an operator makes of a
    /// weight.
    pub changes: Arc<AtomicU64>,
    /// Counts up with what an operator makes of a weight here.
    pub weighings: Arc<AtomicU64>,
    pub sticky: Option<Arc<Sticky>>,
    /// How long its origins may take, where no route says otherwise.
    pub times: Arc<TimeoutsConfig>,
    /// Where this ringway is.
    pub zone: String,
}

impl UpstreamPlan {
    /// The targets that there are now, with their origins.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (Arc<Origin>, Arc<Target>)> {
        let now = clock::coarse_ms();
        self.origins.iter().flat_map(Origin::servers).flat_map(move |origin| {
            let targets = origin.targets.keep(&origin.addresses.load(), now);
            targets.into_iter().map(move |target| (origin.clone(), target))
        })
    }
}

/// One target of an upstream, with the id that it has in a worker's pool.
#[derive(Clone)]
pub(crate) struct Member {
    pub origin: Arc<Origin>,
    pub target: Arc<Target>,
    pub id: OriginId,
    /// By which clients that are kept with it know it; 0 where none are.
    mark: u64,
}

impl Member {
    /// What it is offered to speak in a handshake.
    fn offers(&self) -> Offers {
        match self.origin.http {
            OriginHttp::One => Offers::Http1,
            OriginHttp::Two => Offers::Http2,
            OriginHttp::Auto if self.target.is_http1(clock::coarse_ms()) => Offers::Http1,
            OriginHttp::Auto => Offers::Both,
        }
    }

    /// The number by which the pool knows it.
    pub(crate) fn number(&self) -> usize {
        self.id.origin()
    }
}

/// An upstream as one worker sees it.
pub(crate) struct Upstream {
    config: Arc<UpstreamConfig>,
    pub(crate) traits: Traits,
    origins: Vec<Arc<Origin>>,
    ids: Rc<OriginIds>,
    shared: Arc<PoolShared>,
    worker: usize,
    changes: Arc<AtomicU64>,
    weighings: Arc<AtomicU64>,
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
    /// Of all names, when it was last compared with those that it was made from.
    changes: u64,
    /// Of what it was made from.
    version: u64,
}

/// What is known of the servers of an upstream, or of any.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a trait of its own")]
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
                || config.all_origins().any(|origin| !origin.base.is_empty()),
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
            origins: plan.origins.clone(),
            sticky: plan.sticky.clone(),
            times: plan.times.clone(),
            zone: plan.zone.clone(),
            has_quotas: plan.config.all_origins().any(|origin| origin.max_connections.is_some()),
            ids: ids.clone(),
            shared: shared.clone(),
            worker,
            changes: plan.changes.clone(),
            weighings: plan.weighings.clone(),
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

    /// Whether its origins may speak HTTP/2.
    #[inline]
    pub(crate) fn may_speak_http2(&self) -> bool {
        self.config.http != OriginHttp::One
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

    /// The targets that there are now.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.roster.borrow().members.clone()
    }

    /// Whether one of the targets has the number `number`.
    pub(crate) fn has(&self, number: usize) -> bool {
        self.roster.borrow().members.iter().any(|member| member.number() == number)
    }

    fn member(&self, number: usize) -> Option<Member> {
        self.roster.borrow().members.iter().find(|member| member.number() == number).cloned()
    }

    /// What keeps clients with targets, if anything.
    pub(crate) fn sticky(&self) -> Option<&Sticky> {
        self.sticky.as_deref()
    }

    /// By which clients that are kept with it know the target with the number `number`.
    pub(crate) fn mark(&self, number: usize) -> Option<u64> {
        self.member(number).map(|member| member.mark).filter(|mark| *mark != 0)
    }
}

/// What a checkout is to be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// One that has carried no exchange yet.
    pub is_fresh: bool,
    /// To another target than those with these numbers, where another one may be asked.
    pub but: &'a [usize],
    /// To none of those, whatever else there is.
    pub needs_other: bool,
    /// What the request is kept together with.
    pub key: u64,
    /// To the target with this mark, if that may be asked.
    pub mark: Option<u64>,
    pub upgrade: Upgrade,
}

/// What a request wants to change to, where its origins speak HTTP/2, in which it is asked for in
/// another way (RFC 8441), or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Upgrade {
    #[default]
    Nothing,
    WebSocket,
    Other,
}

impl Default for Roster {
    fn default() -> Self {
        let balance = Balance::new(Policy::default(), Vec::new());
        Self { members: Vec::new(), balance, changes: 0, version: 0 }
    }
}
