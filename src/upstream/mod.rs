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
pub(crate) mod host;
mod idle;
pub(crate) mod learnt;
pub(crate) mod lease;
mod lessons;
pub(crate) mod names;
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
pub(crate) mod sticky;
pub(crate) mod tallies;
pub(crate) mod target;
pub(crate) mod targets;
mod window;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::config::{HashKey, HostPolicy, Policy, TimeoutsConfig, UpstreamConfig};
use crate::http::chunk_rules::ChunkRules;
use crate::proxy_protocol::Version;
use crate::tls::connector::Connector;

use self::addresses::Addresses;
use self::balance::Balance;
use self::origin_ids::{OriginId, OriginIds};
use self::permits::PoolShared;
use self::queue::Holder;
use self::quota::Quota;
use self::services::{Server, Service};
use self::sticky::Sticky;
use self::target::Target;
use self::targets::Targets;

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
    pub(crate) fn targets(&self) -> impl Iterator<Item = (Arc<Origin>, Arc<Target>)> {
        self.origins.iter().flat_map(Origin::servers).map(Arc::new).flat_map(|origin| {
            let targets = origin.targets.keep(&origin.addresses.load());
            targets.into_iter().map(move |target| (origin.clone(), target))
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
    /// Where it is a service: its servers, in place of addresses of its own.
    pub service: Option<Arc<Service>>,
    /// One of the servers of a service.
    pub is_server: bool,
}

impl Origin {
    /// Itself, or the servers that its service has now.
    pub(crate) fn servers(&self) -> Vec<Self> {
        let Some(service) = &self.service else { return vec![self.clone()] };
        service.load().iter().map(|server| self.server(server)).collect()
    }

    fn server(&self, server: &Server) -> Self {
        Self {
            host: server.host.clone(),
            authority: server.authority(self.tls.is_some()),
            weight: self.weight.saturating_mul(server.weight),
            priority: self.priority.saturating_add(server.rank),
            addresses: server.addresses.clone(),
            targets: server.targets.clone(),
            service: None,
            is_server: true,
            ..self.clone()
        }
    }

    /// What tells its connections from those of others: where they go, and whom they trust.
    fn identity(&self) -> String {
        let trust = self.tls.as_ref().map_or(0, |tls| tls.identity());
        let server = if self.is_server { &*self.authority } else { "" };
        format!("{} {server} {trust:x}", self.url)
    }

    /// Its name has no address, or none of those may be asked.
    pub(crate) fn is_down(&self) -> bool {
        if self.service.is_some() {
            return self.servers().iter().all(Self::is_down);
        }
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

    /// One of those that may be asked next.
    pub(crate) fn any_origin(&self) -> Option<Rc<Origin>> {
        self.roster.borrow().members.first().map(|member| member.origin.clone())
    }

    /// The targets that there are now.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.roster.borrow().members.clone()
    }

    /// The origin of the target with the number `number`.
    pub(crate) fn origin(&self, number: usize) -> Option<Rc<Origin>> {
        let roster = self.roster.borrow();
        let member = roster.members.iter().find(|member| member.number() == number)?;
        Some(member.origin.clone())
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
}

impl Default for Roster {
    fn default() -> Self {
        let balance = Balance::new(Policy::default(), Vec::new());
        Self { members: Vec::new(), balance, changes: 0 }
    }
}
