//! Hooks: what is done to a route's requests and answers beside passing them on.
//!
//! In: the configuration, once, when it is loaded. Out: a [`Plan`] for every route. A route without
//! hooks is [`Plan::Fast`]: its requests run no code of this module, read no clock for it and
//! allocate nothing for it. Any other is [`Plan::Hooked`], a struct of what was configured, in
//! which nothing but a hook in Rust ([`custom`]) is dispatched at run time. Nothing here opens a
//! socket or waits; files are read when plans are loaded, and then only.
//!
//! # Order
//!
//! A request passes, in this order, whatever of it the route has:
//!
//! ```text
//!  request_id                a name for the request, so that every answer can carry it
//!  deny, allow               403
//!  cors                      a preflight is answered here: it never carries credentials
//!  methods                   405 with Allow
//!  rate_limit                429 with Retry-After and RateLimit
//!  address_rate_limit        the same by address
//!  connections_per_client    429
//!  body_bytes                413
//!  redirect                  before any password is sent over a connection that is to be left
//!  basic_auth                401
//!  forward_auth              what the upstream says, or 503
//!  custom                    on_request, in the order in which they are listed
//!  respond                   the route's content, so for those who may see it
//!  split, mirror, retry      where it goes, and how often
//!  rewrite                   as which path
//!  request_headers           rename, remove, set, add
//! ```
//!
//! and its answer: custom (`on_response`), `error_pages`, then edits in this order: cors,
//! `security_headers`, `request_id`, what is left of a rate limit, the cookie of a split, and
//! `response_headers`, which have the last word. Answers that ringway gives by itself on a hooked
//! route are edited the same way.
//!
//! # Two tables
//!
//! `[hooks]` holds for every route, `[route.hooks]` for one. What refuses holds twice, the global
//! one first: deny, allow, methods, `rate_limit`, `address_rate_limit` and
//! `connections_per_client`. Edits to fields are
//! all done, the global ones first. Of everything else the route's own takes the place of the
//! global one. `inherit_hooks = false` of a route leaves the global ones out.

mod auth_request;
mod changes;
mod clients;
mod cors;
pub mod custom;
#[cfg(test)]
mod differential;
mod edits;
mod guards;
mod hedge;
#[doc(hidden)]
pub(crate) mod invariants;
mod plan;
#[cfg(test)]
mod properties;
mod rate;
mod request_view;
mod responses;
mod retry;
mod savings;
mod split;
pub(crate) mod style;
mod target;
#[cfg(test)]
mod tests;
mod user;

use std::collections::HashMap;
use std::sync::Arc;

pub use self::auth_request::{AuthDecision, AuthRequest};
pub(crate) use self::clients::ClientPermit;
pub use self::clients::Clients;
pub use self::edits::Edits;
pub use self::hedge::{Hedged, Hedging};
pub use self::plan::{Choice, Hooked, Login};
pub use self::rate::RateLimit;
pub use self::request_view::{HookState, RequestView};
pub use self::responses::LocalResponse;
pub use self::retry::{Retry, RetryTrigger};
pub(crate) use self::split::draw;

use self::custom::{Custom, Hooks};
use self::responses::Pages;
use crate::config::{
    BasicAuthConfig, Config, CustomConfig, ForwardConfig, HooksConfig, RateLimitConfig, RouteConfig,
};
use crate::forward_proxy::{Authenticator, Users};
use crate::http::interest::FieldInterest;
use crate::http::moved;
use crate::http::names::FieldName;

/// What is done to the requests of one route.
pub enum Plan {
    /// Nothing.
    Fast,
    Hooked(Box<Hooked>),
}

impl Plan {
    #[inline]
    fn hooked(&self) -> Option<&Hooked> {
        match self {
            Self::Hooked(hooked) => Some(hooked),
            Self::Fast => None,
        }
    }
}

/// The plans of all routes of one configuration.
#[derive(Default)]
pub struct Plans {
    /// By the index of the route. Empty where no route has hooks.
    routes: Vec<Plan>,
    own: Option<Box<Hooked>>,
    /// Hooks that are asked about tunnels, which have no route.
    pub connect: Vec<Custom>,
    /// Names by which requests and answers must be read. `None`: no route edits any.
    pub interest: [Option<Arc<FieldInterest>>; 2],
    limits: HashMap<Box<str>, (RateLimitConfig, Arc<RateLimit>)>,
    /// Routes with the same users share the threads that verify passwords.
    logins: HashMap<BasicAuthConfig, Arc<Authenticator>>,
    clients: HashMap<Box<str>, (u32, Arc<Clients>)>,
}

impl Plans {
    /// Compiles the hooks of a configuration. `kept` are the plans in force, whose rate limits go
    /// on where they have not changed: a reload frees no client. The error is one line.
    pub fn load(config: &Config, hooks: &Hooks, kept: Option<&Self>) -> Result<Self, String> {
        // What keeps a request from an origin keeps it from ringway's own answers too.
        let guards = config.hooks.as_ref().map(|global| HooksConfig {
            redirect: None,
            respond: None,
            body_bytes: None,
            ..global.guards()
        });
        let guards = guards.filter(|guards| *guards != HooksConfig::default());
        let everything = RouteConfig::everything_to_the_first();
        let mut loading = Loading { config, hooks, kept, made: Self::default() };
        let plans = config.routes.iter().enumerate();
        let mut plans: Vec<Plan> = plans
            .map(|(index, route)| {
                loading.plan(route).map_err(|error| format!("route[{index}].hooks: {error}"))
            })
            .collect::<Result<_, _>>()?;
        if let Some(guards) = &guards {
            let own = plan::compile(&mut loading, &everything, [Some(guards), None])?;
            plans.push(Plan::Hooked(Box::new(own)));
        }
        let global = config.hooks.as_ref().and_then(|global| global.custom.as_deref());
        let connect = loading.customs(global.unwrap_or_default());
        let mut made = loading.made;
        made.connect = connect.map_err(|error| format!("hooks: {error}"))?;
        made.interest = want(&mut plans, config);
        if plans.iter().any(|plan| matches!(plan, Plan::Hooked(_))) {
            if guards.is_some()
                && let Some(Plan::Hooked(own)) = plans.pop()
            {
                made.own = Some(own);
            }
            made.routes = plans;
        }
        Ok(made)
    }

    /// What of `[hooks]` holds for requests that are meant for ringway itself.
    pub fn own(&self) -> Option<&Hooked> {
        self.own.as_deref()
    }

    /// `route` is an index in `Config::routes`.
    #[inline]
    pub fn hooked(&self, route: u32) -> Option<&Hooked> {
        self.routes.get(route as usize).and_then(Plan::hooked)
    }

    pub fn all(&self) -> &[Plan] {
        &self.routes
    }

    /// What tables, compiled plans and known passwords take. Only the last grow, up to a bound.
    pub fn bytes(&self) -> u64 {
        let limits: usize = self.limits.values().map(|(_, limit)| limit.bytes()).sum();
        let clients: usize = self.clients.values().map(|(_, clients)| clients.bytes()).sum();
        let plans = self.routes.iter().map(|plan| match plan {
            Plan::Fast => size_of::<Plan>(),
            Plan::Hooked(hooked) => hooked.bytes(),
        });
        let logins: u64 = self.logins.values().map(|login| login.cache_bytes()).sum();
        let interest: usize = self.interest.iter().flatten().map(|interest| interest.bytes()).sum();
        (limits + clients + plans.sum::<usize>() + interest) as u64 + logins
    }

    /// Forgets what can be found out again: passwords that were right. Rate limits are not
    /// forgotten, and their tables do not grow.
    pub fn drop_caches(&self) {
        self.logins.values().for_each(|login| login.drop_cache());
    }

    /// Keys that rate limits forgot before their time.
    pub fn evicted(&self) -> u64 {
        self.limits.values().map(|(_, limit)| limit.evicted()).sum()
    }
}

/// Has heads read by the names that `plans` edit or believe, by those that routes ask for, and by
/// that of the field that says who the client is.
fn want(plans: &mut [Plan], config: &Config) -> [Option<Arc<FieldInterest>>; 2] {
    let hooked = || plans.iter().filter_map(Plan::hooked);
    let edited = |side: usize| hooked().flat_map(move |hooked| hooked.edits()[side].names());
    let mut requests = FieldInterest::new([]);
    let server = &config.server;
    if server.client_ip_class() == FieldName::ClientIp {
        let name = server.client_ip_header.to_ascii_lowercase();
        requests.add(name.as_bytes(), FieldName::ClientIp);
    }
    for name in edited(0).chain(hooked().flat_map(Hooked::believed)) {
        requests.add(name, FieldName::OfInterest);
    }
    for (name, _) in config.routes.iter().flat_map(|route| &route.headers) {
        requests.add(name.to_ascii_lowercase().as_bytes(), FieldName::OfInterest);
    }
    let mut responses = FieldInterest::new(edited(1));
    if config.upstreams.iter().any(|upstream| upstream.map_location) {
        for name in moved::NAMES {
            responses.add(name, FieldName::OfInterest);
        }
    }
    let interest = [requests, responses].map(Arc::new);
    for plan in plans {
        if let Plan::Hooked(hooked) = plan {
            hooked.read_by(&interest, server.introduction());
        }
    }
    interest.map(|interest| (!interest.is_empty()).then_some(interest))
}

/// A file that hooks name and that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct BadFile {
    /// The path of the key that names it, such as `route.0.hooks.error_pages`.
    pub path: String,
    /// One line, which begins with the key.
    pub error: String,
}

/// Opens every file that hooks name, as a start would.
pub fn try_files(config: &Config) -> Result<(), BadFile> {
    let routes = config.routes.iter().enumerate().map(|(index, route)| {
        let names = (format!("route.{index}.hooks"), format!("route[{index}].hooks"));
        (names, route.hooks.as_deref())
    });
    let global = (("hooks".to_owned(), "hooks".to_owned()), config.hooks.as_deref());
    for ((path, key), hooks) in std::iter::once(global).chain(routes) {
        let Some(hooks) = hooks else { continue };
        let users = hooks.basic_auth.as_ref().map(load_users);
        let pages = hooks.error_pages.as_ref().map(Pages::load);
        let named = [
            ("basic_auth", users.map_or(Ok(()), |users| users.map(drop))),
            ("error_pages", pages.map_or(Ok(()), |pages| pages.map(drop))),
        ];
        for (name, tried) in named {
            tried.map_err(|error| BadFile {
                path: format!("{path}.{name}"),
                error: format!("{key}.{error}"),
            })?;
        }
    }
    Ok(())
}

/// The error begins with the key, as that of [`Pages::load`] does.
fn load_users(login: &BasicAuthConfig) -> Result<Users, String> {
    let users = Users::load(&login.users_file);
    users.map_err(|error| format!("basic_auth.users_file: {error}"))
}

/// Plans in the making.
struct Loading<'c> {
    config: &'c Config,
    hooks: &'c Hooks,
    kept: Option<&'c Plans>,
    made: Plans,
}

impl<'c> Loading<'c> {
    fn plan(&mut self, route: &'c RouteConfig) -> Result<Plan, String> {
        let global = self.config.hooks.as_deref().filter(|_| route.inherits_hooks);
        let own = route.hooks.as_deref();
        if global.is_none() && own.is_none() {
            return Ok(Plan::Fast);
        }
        let hooked = plan::compile(self, route, [global, own])?;
        Ok(Plan::Hooked(Box::new(hooked)))
    }

    fn customs(&self, configs: &[CustomConfig]) -> Result<Vec<Custom>, String> {
        let find = |config| {
            let found = self.hooks.find(config);
            found.ok_or_else(|| format!("there is no hook {:?} in this binary", config.hook))
        };
        configs.iter().map(find).collect()
    }

    /// The table of a rate limit. The global one is the same for all routes.
    fn limit(&mut self, owner: &str, config: &RateLimitConfig) -> Arc<RateLimit> {
        let kept = self.kept.and_then(|kept| kept.limits.get(owner));
        let kept = kept.filter(|(same, _)| same == config).map(|(_, limit)| limit.clone());
        let (_, limit) = self.made.limits.entry(owner.into()).or_insert_with(|| {
            (config.clone(), kept.unwrap_or_else(|| Arc::new(RateLimit::new(config))))
        });
        limit.clone()
    }

    fn clients(&mut self, owner: &str, limit: u32) -> Arc<Clients> {
        let clients_max = self.config.limits.clients;
        let kept = self.kept.and_then(|kept| kept.clients.get(owner));
        let kept =
            kept.filter(|(same, clients)| *same == limit && clients.has_room_for(clients_max));
        let kept = kept.map(|(_, clients)| clients.clone());
        let (_, clients) =
            self.made.clients.entry(owner.into()).or_insert_with(|| {
                (limit, kept.unwrap_or_else(|| Clients::new(limit, clients_max)))
            });
        clients.clone()
    }

    fn login(&mut self, config: &BasicAuthConfig) -> Result<Login, String> {
        if let Some(authenticator) = self.made.logins.get(config) {
            return Ok(Login::new(authenticator.clone()));
        }
        let settings = ForwardConfig {
            realm: config.realm.clone(),
            auth_failures: config.auth_failures,
            ..ForwardConfig::default()
        };
        let users = load_users(config)?;
        let kept = self.kept.and_then(|kept| kept.logins.get(config));
        let authenticator = match kept.filter(|kept| kept.is_for(&users, &settings)) {
            Some(kept) => kept.clone(),
            None => Authenticator::start(users, &settings)
                .map_err(|error| format!("passwords cannot be verified: {error}"))?,
        };
        self.made.logins.insert(config.clone(), authenticator.clone());
        Ok(Login::new(authenticator))
    }
}

/// Who the global tables belong to; no route is called so, because its path begins with a slash.
const EVERYBODY: &str = "hooks";

/// The stronger of what two tables say, the route's own being the last.
pub(crate) fn strongest<'c, T>(
    layers: [Option<&'c HooksConfig>; 2],
    of: impl Fn(&'c HooksConfig) -> Option<&'c T>,
) -> Option<&'c T> {
    layers.into_iter().rev().flatten().find_map(of)
}
