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
pub(crate) mod host;
mod idle;
pub(crate) mod lease;
pub(crate) mod names;
pub(crate) mod origin_ids;
pub(crate) mod permits;
pub(crate) mod pool;
pub(crate) mod prewarm;
pub(crate) mod queue;
pub(crate) mod resolver;
mod secure;
pub(crate) mod tallies;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::config::{HostPolicy, UpstreamConfig};
use crate::fault::Fault;
use crate::http::chunk_rules::ChunkRules;
use crate::proxy_protocol::Version;
use crate::ring::{Socket, clock};
use crate::tls::connector::Connector;

use self::balance::Balance;
use self::lease::Lease;
use self::origin_ids::{OriginId, OriginIds};
use self::permits::{PoolShared, UPSTREAM};
use self::pool::Pool;
use self::queue::{Holder, Permitted};
use self::resolver::Addresses;

/// An upstream as all workers see it: its configuration and its origins' addresses.
pub(crate) struct UpstreamPlan {
    pub config: UpstreamConfig,
    pub origins: Vec<Origin>,
}

/// One origin server, as all workers see it.
#[derive(Clone)]
pub(crate) struct Origin {
    /// What the configuration calls it.
    pub url: String,
    pub host: String,
    /// `host:port` as the `Host` field has it.
    pub authority: String,
    pub weight: u32,
    pub addresses: Arc<Addresses>,
    /// Since when every attempt to connect has failed, of all workers, on the coarse clock; 0 where
    /// the last one succeeded.
    pub failing_since_ms: Arc<AtomicU64>,
    /// How it is spoken to over TLS; `None` where it is not.
    pub tls: Option<Arc<Connector>>,
}

impl Origin {
    /// What tells its connections from those of others: where they go, and whom they trust.
    fn identity(&self) -> String {
        let trust = self.tls.as_ref().map_or(0, |tls| tls.identity());
        format!("{} {trust:x}", self.url)
    }

    fn connected(&self) {
        if self.failing_since_ms.load(Ordering::Relaxed) != 0 {
            self.failing_since_ms.store(0, Ordering::Relaxed);
        }
    }

    fn failed(&self, now_ms: u64) {
        let since = &self.failing_since_ms;
        let _ = since.compare_exchange(0, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The last attempt to connect to it failed, or its name has no address.
    pub(crate) fn is_down(&self) -> bool {
        self.failing_since_ms.load(Ordering::Relaxed) != 0 || self.addresses.load().is_empty()
    }

    pub(crate) fn has_address(&self, address: Address) -> bool {
        self.addresses.load().contains(&address)
    }
}

/// One origin of an upstream, with the id that it has in a worker's pool.
#[derive(Clone)]
pub(crate) struct Member {
    pub origin: Origin,
    pub id: OriginId,
}

impl Member {
    /// The number by which the pool knows it.
    pub(crate) fn number(&self) -> usize {
        self.id.origin()
    }
}

/// An upstream as one worker sees it.
pub(crate) struct Upstream {
    name: String,
    host: HostPolicy,
    fail_timeout: Duration,
    pub(crate) traits: Traits,
    /// By which each connection says whose request it carries; it carries one.
    proxy_protocol: Option<Version>,
    members: Vec<Member>,
    balance: RefCell<Balance>,
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
}

impl Traits {
    fn of(config: &UpstreamConfig) -> Self {
        Self {
            is_strict: config.strict,
            reads_trailers: config.pass_trailers,
            reads_all_bodies: config.reads_all_bodies,
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
}

/// Addresses of one origin that a single request tries.
const ADDRESSES_TRIED_MAX: usize = 4;

impl Upstream {
    /// `worker` staggers the turns, so that not every worker begins with the first origin. An
    /// origin of an upstream that another configuration has too keeps its place in the pool; one
    /// that another upstream has too has a place there of its own, because its connections count
    /// under the other's limit.
    pub(crate) fn new(
        plan: &UpstreamPlan,
        worker: usize,
        ids: &Rc<OriginIds>,
        shared: &Arc<PoolShared>,
    ) -> Self {
        let weights: Vec<u32> = plan.origins.iter().map(|origin| origin.weight).collect();
        let name = &plan.config.name;
        let member = |origin: &Origin| Member {
            origin: origin.clone(),
            id: ids.hold(&format!("origin {name} {}", origin.identity()), || {
                shared.group(&format!("{UPSTREAM}{name}"))
            }),
        };
        Self {
            name: plan.config.name.clone(),
            host: plan.config.host.clone(),
            fail_timeout: plan.config.fail_timeout,
            traits: Traits::of(&plan.config),
            proxy_protocol: plan.config.proxy_protocol,
            members: plan.origins.iter().map(member).collect(),
            balance: RefCell::new(Balance::new(&weights).started_at(worker)),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn host(&self) -> &HostPolicy {
        &self.host
    }

    pub(crate) fn proxy_protocol(&self) -> Option<Version> {
        self.proxy_protocol
    }

    /// How a connection to an origin with TLS says whose it is, which is before its handshake.
    #[inline]
    pub(crate) fn early_proxy_protocol(&self) -> Option<Version> {
        let version = self.proxy_protocol?;
        self.members.iter().any(|member| member.origin.tls.is_some()).then_some(version)
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The origin of this upstream with the number `number`.
    pub(crate) fn origin(&self, number: usize) -> Option<&Origin> {
        self.place(number).map(|place| &self.members[place].origin)
    }

    /// A connection that waits for its next request, where whose turn it is is no question: the
    /// common case, for which no future is made.
    pub(crate) fn take_idle(&self, pool: &Rc<Pool>, holder: Holder) -> Option<Lease> {
        let [member] = &*self.members else { return None };
        if self.proxy_protocol.is_some() {
            return None;
        }
        pool.take_idle(member.number(), holder)
    }

    fn place(&self, number: usize) -> Option<usize> {
        self.members.iter().position(|member| member.number() == number)
    }

    /// The origin with the number `number` has ended a new connection before it answered. Whether
    /// there is another one.
    #[cold]
    pub(crate) fn failed(&self, number: usize) -> bool {
        let place = self.place(number);
        if let Some(place) = place {
            let now = clock::coarse_ms();
            self.balance.borrow_mut().mark_failed(place, now, self.fail_timeout);
        }
        self.members.len() > 1
    }

    /// A new connection to another origin than the one with the number `number`.
    pub(crate) async fn checkout_other(
        &self,
        pool: &Rc<Pool>,
        who: Who<'_>,
        number: usize,
    ) -> Result<Lease, Fault> {
        let place = self.place(number);
        self.checkout_beside(pool, who, true, place.into_iter().collect()).await
    }

    /// A connection to the origin whose turn it is, or to the next one where it cannot be
    /// reached. `is_fresh` asks for one that has carried no exchange yet.
    pub(crate) async fn checkout(
        &self,
        pool: &Rc<Pool>,
        who: Who<'_>,
        is_fresh: bool,
    ) -> Result<Lease, Fault> {
        self.checkout_beside(pool, who, is_fresh, Vec::new()).await
    }

    async fn checkout_beside(
        &self,
        pool: &Rc<Pool>,
        who: Who<'_>,
        is_fresh: bool,
        mut tried: Vec<usize>,
    ) -> Result<Lease, Fault> {
        let is_single = self.proxy_protocol.is_some();
        let is_fresh = is_fresh || is_single;
        let mut fault = Fault::OriginUnresolved;
        loop {
            // A single origin's turn does not depend on the time.
            let now = if self.members.len() > 1 { clock::coarse_ms() } else { 0 };
            let pick = self.balance.borrow_mut().pick(now, |origin| tried.contains(&origin));
            let Some(pick) = pick else { return Err(fault) };
            let member = &self.members[pick];
            if !is_fresh && let Some(lease) = pool.take_idle(member.number(), who.holder) {
                return Ok(lease);
            }
            match open(pool, member, who, is_fresh).await {
                Ok(mut lease) => {
                    lease.is_single |= is_single;
                    member.origin.connected();
                    self.balance.borrow_mut().mark_ok(pick);
                    return Ok(lease);
                }
                Err(failed) if failed.is_origin_local() => {
                    let now = clock::coarse_ms();
                    member.origin.failed(now);
                    self.balance.borrow_mut().mark_failed(pick, now, self.fail_timeout);
                    tried.push(pick);
                    fault = failed;
                }
                Err(failed) => return Err(failed),
            }
        }
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
    match permit(pool, origin_id, holder, is_fresh).await? {
        Permitted::Open(permit) => {
            let born = Instant::now();
            let _racing = pool.racing(&permit, holder);
            let connected = dialled.await?;
            Ok(pool.adopt(origin_id.clone(), connected, born, permit, holder))
        }
        Permitted::Handed(lease) => Ok(lease),
    }
}

/// Connects to the first address that answers, within `timeouts.connect` for all of them.
async fn open(
    pool: &Rc<Pool>,
    member: &Member,
    who: Who<'_>,
    is_fresh: bool,
) -> Result<Lease, Fault> {
    let holder = who.holder;
    let addresses = member.origin.addresses.load();
    let (mut fault, mut has_answered) = (Fault::OriginUnresolved, false);
    let began = Instant::now();
    for address in addresses.iter().take(ADDRESSES_TRIED_MAX) {
        let permit = match permit(pool, &member.id, holder, is_fresh).await? {
            Permitted::Open(permit) => permit,
            Permitted::Handed(lease) => return Ok(lease),
        };
        let connected = pool.connect(&member.id, *address, permit, holder, began).await;
        let is_answered = connected.is_ok();
        let connected = match connected {
            // Boxed so that nobody else carries the room for it.
            Ok(lease) if member.origin.tls.is_some() => {
                Box::pin(pool.secure(lease, &member.origin, who.introduction, began)).await
            }
            connected => connected,
        };
        match connected {
            Ok(lease) => return Ok(lease),
            // Whoever answers and is no use says more than an address where nobody is.
            Err(failed) if failed.is_origin_local() => {
                if is_answered || !has_answered {
                    fault = failed;
                }
                has_answered |= is_answered;
            }
            Err(failed) => return Err(failed),
        }
    }
    Err(fault)
}

/// The right to open a connection; where it need not be a new one, one that has come back will do.
async fn permit(
    pool: &Rc<Pool>,
    id: &OriginId,
    holder: Holder,
    is_fresh: bool,
) -> Result<Permitted, Fault> {
    loop {
        match pool.permit(id, holder).await? {
            // Dropping it frees the right to open another.
            Permitted::Handed(_) if is_fresh => {}
            permitted => return Ok(permitted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::resolver::Resolver;
    use super::*;

    #[test]
    fn an_origin_is_down_from_its_first_failure_to_its_next_success() {
        let resolver = Resolver::start(&crate::config::DnsConfig::default()).unwrap();
        let origin = Origin {
            url: "http://127.0.0.1:9".to_owned(),
            host: "127.0.0.1".to_owned(),
            authority: "127.0.0.1:9".to_owned(),
            weight: 1,
            addresses: resolver.watch("127.0.0.1", 9),
            failing_since_ms: Arc::default(),
            tls: None,
        };
        let other_worker = origin.clone();
        assert!(!origin.is_down());
        for now_ms in [0, 5, 9] {
            origin.failed(now_ms);
            assert!(other_worker.is_down());
        }
        assert_eq!(origin.failing_since_ms.load(Ordering::Relaxed), 1);
        other_worker.connected();
        assert!(!origin.is_down());
        let unresolved = Origin { addresses: Arc::default(), ..origin };
        assert!(unresolved.is_down());
    }
}
