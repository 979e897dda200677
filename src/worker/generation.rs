//! A configuration in use, with all that was made of it: the threads share a [`Snapshot`], and each
//! worker has a [`Generation`] of it.
//!
//! In goes a checked configuration; out comes what an exchange asks on its way. An exchange keeps
//! the generation that it began with, whatever is put in use meanwhile; the next one on the same
//! connection takes the newest.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crate::address::Address;
use crate::config::{Config, LimitsConfig, RouteConfig};
use crate::forward_proxy::access::Access;
use crate::hooks::{Hooked, Plans};
use crate::http::head::HeadLimits;
use crate::observe::traffic::{ArmTraffic, NamedCounts};
use crate::proxy_protocol::Accepted;
use crate::routing::Routes;
use crate::tls::acceptor::Acceptor;
use crate::upstream::origin_ids::OriginIds;
use crate::upstream::permits::PoolShared;
use crate::upstream::pool::PoolLimits;
use crate::upstream::{Member, Upstream, UpstreamPlan};
use crate::worker::times::Times;

/// A configuration as all threads see it.
pub(crate) struct Snapshot {
    /// Counts up with every configuration that is put in use; the first is 1.
    pub id: u64,
    pub parts: SnapshotParts,
    /// By worker.
    pub counts: Vec<Arc<NamedCounts>>,
}

/// What was made of a configuration.
pub(crate) struct SnapshotParts {
    pub config: Arc<Config>,
    pub upstreams: Vec<UpstreamPlan>,
    /// What the forward proxy needs.
    pub access: Arc<Access>,
    /// What is done to the requests of routes with hooks.
    pub hooks: Arc<Plans>,
    /// The listeners that take the PROXY protocol, by their numbers.
    pub proxy_protocol: Vec<(u16, Accepted)>,
    /// The addresses listened on, as they were bound.
    pub listeners: Vec<Address>,
    /// Of the listeners that speak TLS.
    pub tls: Option<Arc<Acceptor>>,
}

impl Deref for Snapshot {
    type Target = SnapshotParts;

    fn deref(&self) -> &SnapshotParts {
        &self.parts
    }
}

impl Snapshot {
    /// The first one of a process with room for `workers`.
    pub(crate) fn first(parts: SnapshotParts, workers: usize) -> Self {
        let counts = (0..workers).map(|_| Arc::new(NamedCounts::of(&parts, None)));
        Self { id: 1, counts: counts.collect(), parts }
    }

    /// The one that follows; what both name goes on counting.
    #[must_use]
    pub(crate) fn next(&self, parts: SnapshotParts) -> Self {
        let carry = |counts: &Arc<NamedCounts>| {
            Arc::new(NamedCounts::of(&parts, Some((&self.config, counts))))
        };
        Self { id: self.id + 1, counts: self.counts.iter().map(carry).collect(), parts }
    }
}

/// The listeners of a configuration that take the PROXY protocol; `numbers` are those of all, in
/// their order.
pub(crate) fn proxy_protocol(config: &Config, numbers: &[u16]) -> Vec<(u16, Accepted)> {
    let listeners = config.server.listeners.iter().zip(numbers);
    listeners.filter_map(|(listener, number)| Some((*number, listener.proxy_protocol?))).collect()
}

impl NamedCounts {
    fn of(parts: &SnapshotParts, before: Option<(&Config, &Self)>) -> Self {
        let config = &parts.config;
        let names = |route: &RouteConfig, other: &RouteConfig| {
            (&route.host, &route.path) == (&other.host, &other.path)
                && route.conditions() == other.conditions()
        };
        let known = |route: &RouteConfig| {
            let (config, counts) = before?;
            Some((config.routes.iter().position(|other| names(route, other))?, counts))
        };
        let (routes, upstreams) = (config.routes.iter(), config.upstreams.iter());
        Self {
            routes: routes
                .clone()
                .map(|route| known(route).and_then(|(at, counts)| counts.routes.get(at).cloned()))
                .map(Option::unwrap_or_default)
                .collect(),
            upstreams: upstreams
                .map(|upstream| {
                    let (config, counts) = before?;
                    let mut others = config.upstreams.iter();
                    let index = others.position(|other| other.name == upstream.name)?;
                    counts.upstreams.get(index).cloned()
                })
                .map(Option::unwrap_or_default)
                .collect(),
            arms: if config.split_upstreams().next().is_none() {
                Vec::new()
            } else {
                let arms = |(index, route)| {
                    let before = known(route).zip(before).and_then(|((at, counts), before)| {
                        Some((before.0, counts.arms.get(at)?.as_slice()))
                    });
                    arms(parts, index, before)
                };
                routes.enumerate().map(arms).collect()
            },
        }
    }
}

/// The arms of the route with this index, of which `before` has those that it had.
fn arms(
    parts: &SnapshotParts,
    route: usize,
    before: Option<(&Config, &[ArmTraffic])>,
) -> Vec<ArmTraffic> {
    let arms = parts.hooks.hooked(route as u32).into_iter().flat_map(Hooked::arms);
    let of = |(upstream, name): (usize, &str)| {
        let known = before.and_then(|(config, arms)| {
            arms.iter().find(|arm| config.upstreams[arm.upstream].name == name)
        });
        match known {
            Some(ArmTraffic { traffic, latency, .. }) => {
                ArmTraffic { upstream, traffic: traffic.clone(), latency: latency.clone() }
            }
            None => ArmTraffic { upstream, traffic: Arc::default(), latency: Arc::default() },
        }
    };
    let mut all: Vec<ArmTraffic> = arms.map(of).collect();
    all.sort_by_key(|arm| arm.upstream);
    all.dedup_by_key(|arm| arm.upstream);
    all
}

/// A configuration as one worker sees it.
pub(crate) struct Generation {
    pub id: u64,
    pub config: Arc<Config>,
    pub head_limits: HeadLimits,
    pub response_limits: HeadLimits,
    pub routes: Routes,
    pub upstreams: Vec<Rc<Upstream>>,
    pub access: Arc<Access>,
    pub hooks: Arc<Plans>,
    /// As in [`SnapshotParts`].
    pub proxy_protocol: Vec<(u16, Accepted)>,
    pub counts: Arc<NamedCounts>,
    pub tls: Option<Arc<Acceptor>>,
    pub times: Times,
    /// By index, where somebody wants to know them.
    route_names: Vec<String>,
}

/// What the heads of answers are held to.
pub(crate) fn response_limits(config: &Config) -> HeadLimits {
    let LimitsConfig { response_head_bytes, response_header_count, .. } = config.limits;
    HeadLimits {
        head_bytes: response_head_bytes,
        target_bytes: 0,
        header_count: response_header_count,
    }
}

/// What the heads of requests are held to.
pub(crate) fn head_limits(config: &Config) -> HeadLimits {
    let LimitsConfig { head_bytes, target_bytes, header_count, .. } = config.limits;
    HeadLimits { head_bytes, target_bytes, header_count }
}

impl Generation {
    pub(crate) fn new(
        snapshot: &Snapshot,
        worker: usize,
        ids: &Rc<OriginIds>,
        pool: &Arc<PoolShared>,
    ) -> Rc<Self> {
        let config = &snapshot.config;
        let upstreams = snapshot.upstreams.iter();
        Rc::new(Self {
            id: snapshot.id,
            head_limits: head_limits(config),
            response_limits: response_limits(config),
            routes: Routes::new(config),
            upstreams: upstreams
                .map(|plan| Rc::new(Upstream::new(plan, worker, ids, pool)))
                .collect(),
            access: snapshot.access.clone(),
            proxy_protocol: snapshot.proxy_protocol.clone(),
            hooks: snapshot.hooks.clone(),
            counts: snapshot.counts[worker].clone(),
            tls: snapshot.tls.clone(),
            times: Times::new(config),
            route_names: if config.log.access || config.tracing.enabled {
                config.routes.iter().map(RouteConfig::name).collect()
            } else {
                Vec::new()
            },
            config: config.clone(),
        })
    }

    /// What the access log and spans call the route with this index.
    pub(crate) fn route_name(&self, index: u32) -> &str {
        self.route_names.get(index as usize).map_or("", String::as_str)
    }

    /// The targets of all upstreams.
    pub(crate) fn members(&self) -> impl Iterator<Item = Member> {
        self.upstreams.iter().flat_map(|upstream| upstream.members())
    }

    /// What the pool goes by.
    pub(crate) fn pool_limits(&self) -> PoolLimits {
        let (pool, timeouts) = (&self.config.pool, &self.config.timeouts);
        PoolLimits {
            max_idle: pool.max_idle,
            idle_expiry: pool.idle_expiry,
            acquire: timeouts.pool,
            connect: timeouts.connect,
            keepalive: pool.tcp_keepalive,
        }
    }
}
