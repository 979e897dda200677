//! Upstreams as all workers see them.
//!
//! In goes a configuration, with the upstreams of the one before; out come plans, in which what is
//! known of origins lives on. Called on the control thread, which may read files.

use std::sync::Arc;

use crate::config::{Config, OriginConfig, OriginHttp, UpstreamConfig, UpstreamTlsConfig};
use crate::ring::clock;
use crate::tls::connector::Connector;
use crate::upstream::resolver::Resolver;
use crate::upstream::sticky::Sticky;
use crate::upstream::{Origin, UpstreamPlan};

/// Asks the resolver for the addresses of all origins. What `before` has is taken over with what is
/// known of it, and is as it was until [`settle`].
pub(crate) fn plan_upstreams(
    config: &Config,
    resolver: &Resolver,
    before: &[UpstreamPlan],
) -> Result<Vec<UpstreamPlan>, String> {
    let plan = |upstream: &UpstreamConfig| {
        let connector = connector(upstream, before)?;
        // What is known of an origin is so of this upstream's alone: others check otherwise.
        let own = before.iter().find(|known| known.config.name == upstream.name);
        let known = |url: &str| {
            let mut origins = own.into_iter().flat_map(|own| &own.origins);
            origins.find(|origin| origin.url == url).map(|origin| &**origin)
        };
        let origin_of = |origin: &OriginConfig| {
            let tls = connector.clone().filter(|_| origin.is_tls);
            let http = upstream.http;
            let known = known(&origin.url());
            match known {
                Some(known) => {
                    let (weight, priority) = (origin.weight, origin.priority);
                    let zone = origin.zone.clone();
                    Origin { weight, priority, zone, tls, http, ..known.clone() }
                }
                None => Origin { http, ..new_origin(origin, resolver, tls) },
            }
        };
        let origins = upstream.all_origins().map(|it| Arc::new(origin_of(it))).collect();
        let changes = resolver.changes();
        let (sticky, zone) = (sticky(upstream, own)?, config.server.zone.clone());
        let times = Arc::new(config.timeouts.with(upstream.timeouts.as_ref()));
        let weighings = own.map_or_else(Arc::default, |own| own.weighings.clone());
        let config = Arc::new(upstream.clone());
        Ok(UpstreamPlan { config, origins, changes, weighings, sticky, times, zone })
    };
    config.upstreams.iter().map(plan).collect()
}

/// Has what origins have in common with those of the configuration before go by this one, which has
/// been put in use; a reload ends what an operator wanted of them until then.
pub(crate) fn settle(plans: &[UpstreamPlan], is_reload: bool) {
    let now = clock::coarse_ms();
    for plan in plans {
        for (config, origin) in plan.config.all_origins().zip(&plan.origins) {
            origin.quota.set(config);
            if is_reload {
                origin.servers().iter().for_each(|it| it.targets.reloaded(now));
            }
        }
    }
}

fn new_origin(origin: &OriginConfig, resolver: &Resolver, tls: Option<Arc<Connector>>) -> Origin {
    let (addresses, service) = if origin.is_srv {
        (Arc::default(), Some(resolver.watch_service(&origin.host)))
    } else {
        (resolver.watch(&origin.host, origin.port), None)
    };
    Origin {
        targets: Arc::default(),
        url: origin.url(),
        host: origin.host.clone(),
        authority: origin.authority.clone(),
        weight: origin.weight,
        priority: origin.priority,
        base: origin.base.clone(),
        zone: origin.zone.clone(),
        addresses,
        quota: Arc::default(),
        traffic: Arc::default(),
        tls,
        http: OriginHttp::One,
        service,
        is_server: false,
    }
}

/// What keeps the clients of `upstream` with its targets; as `before` had it where that is the
/// same.
fn sticky(
    upstream: &UpstreamConfig,
    before: Option<&UpstreamPlan>,
) -> Result<Option<Arc<Sticky>>, String> {
    let Some(config) = &upstream.sticky else { return Ok(None) };
    if config.secret_file.is_none()
        && let Some(known) = before.and_then(|before| before.sticky.as_ref())
        && known.config == *config
    {
        return Ok(Some(known.clone()));
    }
    let secret = match &config.secret_file {
        None => Vec::new(),
        Some(file) => std::fs::read(file).map_err(|error| {
            let (name, file) = (&upstream.name, file.display());
            format!("upstream {name:?}: sticky.secret_file {file} cannot be read: {error}")
        })?,
    };
    Ok(Some(Arc::new(Sticky::new(config, &upstream.name, secret.trim_ascii()))))
}

/// How the origins of `upstream` that speak TLS are spoken to; as `before` had it where that is the
/// same.
fn connector(
    upstream: &UpstreamConfig,
    before: &[UpstreamPlan],
) -> Result<Option<Arc<Connector>>, String> {
    if !upstream.all_origins().any(|origin| origin.is_tls) {
        return Ok(None);
    }
    let known = before.iter().find(|other| other.config.name == upstream.name);
    let known = known.and_then(|known| known.origins.iter().find_map(|it| it.tls.as_ref()));
    let connector = match &upstream.tls {
        Some(tls) => Connector::load(tls, known),
        None => Connector::load(&UpstreamTlsConfig::default(), known),
    };
    let named = |error| format!("the upstream {:?}: {error}", upstream.name);
    connector.map(Some).map_err(named)
}
