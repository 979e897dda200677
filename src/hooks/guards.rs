//! What refuses a request of a route: who may come, with which methods, and how often.
//!
//! In: the two tables that hold for the route, compiled once; then, for each request, its facts.
//! Out: nothing, or the answer of the guard that refuses. Each kind has a list of its own, of what
//! has been configured and nothing else, the global table's before the route's: what was not
//! configured is not even looked at.

use std::sync::Arc;

use super::Loading;
use super::clients::{Clients, Entry};
use super::rate::{RateLimit, Standing};
use super::request_view::{HookState, RequestView};
use super::responses::LocalResponse;
use crate::config::{ClientKey, HooksConfig, Networks};

/// All that may refuse a request.
#[derive(Default)]
pub(super) struct Guards {
    access: Vec<Access>,
    methods: Vec<Methods>,
    rates: Vec<Rate>,
    /// With the number of the layer.
    clients: Vec<(usize, Arc<Clients>)>,
}

struct Access {
    allow: Option<Networks>,
    deny: Networks,
}

struct Methods {
    known: Box<[Box<[u8]>]>,
    /// The field that goes with a 405.
    allow: Box<[u8]>,
}

struct Rate {
    /// Whose it is: 0 for the global table, 1 for the route's.
    layer: usize,
    key: ClientKey,
    limit: Arc<RateLimit>,
    policy: Box<[u8]>,
}

// At load.
impl Guards {
    /// Adds those of a layer, whose tables belong to `owner`.
    pub(super) fn add(
        &mut self,
        loading: &mut Loading<'_>,
        (layer, owner): (usize, &str),
        config: &HooksConfig,
    ) {
        if config.allow.is_some() || !config.deny.is_empty() {
            self.access.push(Access { allow: config.allow.clone(), deny: config.deny.clone() });
        }
        self.methods.extend(config.methods.as_deref().map(Methods::new));
        let by_address = format!("{owner} by address");
        let limits = [(owner, &config.rate_limit), (&by_address, &config.address_rate_limit)];
        for (owner, config) in limits {
            if let Some(config) = config {
                let limit = loading.limit(owner, config);
                let (key, policy) = (config.key.clone(), limit.policy());
                self.rates.push(Rate { layer, key, limit, policy });
            }
        }
        if let Some(limit) = config.connections_per_client {
            self.clients.push((layer, loading.clients(owner, limit)));
        }
    }

    /// The line that says how much the rate limit of a layer allows.
    pub(super) fn policy(&self, layer: usize) -> Option<&[u8]> {
        let rate = self.rates.iter().find(|rate| rate.layer == layer);
        rate.map(|rate| &*rate.policy)
    }
}

// For each request.
impl Guards {
    /// Before anything else.
    #[inline]
    pub(super) fn let_in(&self, view: &RequestView<'_>) -> bool {
        self.access.iter().all(|access| access.lets_in(view))
    }

    /// Everything but `let_in`.
    #[inline]
    pub(super) fn pass(
        &self,
        route: &str,
        view: &RequestView<'_>,
        state: &mut HookState,
    ) -> Option<LocalResponse<'static>> {
        for methods in &self.methods {
            let method = view.head.method_text.of(view.text);
            if !methods.known.iter().any(|known| **known == *method) {
                return Some(LocalResponse::plain(405, methods.allow.to_vec()));
            }
        }
        for rate in &self.rates {
            let standing = rate.take(route, view);
            // Of two limits of a layer, the first is the one that answers speak of.
            state.standings[rate.layer].get_or_insert(standing);
            if !standing.is_allowed {
                // The refusal says it all; the edits to answers need not say it again.
                state.standings = [None; 2];
                return Some(rate.refused(standing));
            }
        }
        for (layer, clients) in &self.clients {
            match clients.enter(ClientKey::network(view.client)) {
                Entry::Permitted(held) => state.permits[*layer] = Some(held),
                Entry::Uncounted => {}
                Entry::Full => {
                    return Some(LocalResponse::plain(429, b"Retry-After: 1\r\n".to_vec()));
                }
            }
        }
        None
    }
}

impl Access {
    fn lets_in(&self, view: &RequestView<'_>) -> bool {
        !self.deny.has(view.client)
            && self.allow.as_ref().is_none_or(|allow| allow.has(view.client))
    }
}

impl Methods {
    fn new(methods: &[String]) -> Self {
        Self {
            known: methods.iter().map(|method| method.as_bytes().into()).collect(),
            allow: format!("Allow: {}\r\n", methods.join(", ")).into_bytes().into(),
        }
    }
}

impl Rate {
    fn take(&self, route: &str, view: &RequestView<'_>) -> Standing {
        let limit = &self.limit;
        let key = match &self.key {
            ClientKey::Ip => limit.hash_number(ClientKey::network(view.client)),
            ClientKey::Route => limit.hash_bytes(route.as_bytes()),
            ClientKey::Header(name) => return self.take_each(name, view),
            ClientKey::Cookie(name) => limit.hash_bytes(view.cookie(name).unwrap_or_default()),
        };
        limit.take(key, view.now_us)
    }

    /// Counts a request under every value of the field, so that none hides behind another; one that
    /// has no such field, under the address of its client.
    fn take_each(&self, name: &str, view: &RequestView<'_>) -> Standing {
        let limit = &self.limit;
        let values = view.head.fields.values(view.text, name.as_bytes());
        let standings = values.map(|value| limit.take(limit.hash_bytes(value), view.now_us));
        let strictest = standings.min_by_key(|standing| (standing.is_allowed, standing.left()));
        strictest.unwrap_or_else(|| {
            limit.take(limit.hash_number(ClientKey::network(view.client)), view.now_us)
        })
    }

    fn refused(&self, standing: Standing) -> LocalResponse<'static> {
        let mut fields = format!("Retry-After: {}\r\n", standing.wait_s()).into_bytes();
        fields.extend_from_slice(&self.policy);
        standing.put(&mut fields);
        LocalResponse::plain(429, fields)
    }
}
