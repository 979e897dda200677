//! The plan of one route with hooks.
//!
//! In: the two tables that hold for the route, compiled once; then, for each request, its facts.
//! Out: an answer in place of the origin's, or where the request goes, as which path and with which
//! edits. What has to wait (a password, a question to an upstream, a hook in Rust) is handed to the
//! caller, who waits; nothing here does.

use std::sync::Arc;

use super::auth_request::AuthRequest;
use super::cors::{Cors, fixed};
use super::custom::Custom;
use super::edits::{Edits, Own, Wishes};
use super::guards::Guards;
use super::request_view::{HookState, RequestView};
use super::responses::{LocalResponse, Pages, Prepared};
use super::retry::Retry;
use super::split::{Split, draw, draw_text, is_mirrored};
use super::target::{BadTarget, Rewrite, location};
use super::{EVERYBODY, Loading, strongest};
use crate::config::hooks::{Part, Template, Variable};
use crate::config::{
    ClientKey, HooksConfig, IdTrust, MirrorConfig, RedirectConfig, RewriteConfig, RouteConfig,
    SecurityConfig,
};
use crate::forward_proxy::Authenticator;
use crate::http::BodyLength;
use crate::http::forwarded_header::Introduction;
use crate::http::head::ResponseHead;
use crate::http::interest::FieldInterest;
use crate::http::rewrite::{self, RequestRewrite, ResponseRewrite};

/// What was configured for one route.
pub struct Hooked {
    route: Box<str>,
    id: Option<IdTrust>,
    /// In lower case: where a client's id would be.
    id_field: Box<str>,
    guards: Guards,
    cors: Option<Cors>,
    body_bytes_max: u64,
    redirect: Option<RedirectConfig>,
    pub login: Option<Login>,
    pub auth_request: Option<AuthRequest>,
    pub custom: Vec<Custom>,
    respond: Option<Prepared>,
    split: Option<Split>,
    /// Where it goes without a split: the index and name of an upstream.
    upstream: (usize, Arc<str>),
    /// Counted by the name of the upstream, which all threads share.
    names_upstream: bool,
    mirror: Option<MirrorConfig>,
    pub retry: Option<Retry>,
    rewrite: Option<Rewrite>,
    target_bytes_max: usize,
    request_edits: Edits,
    response_edits: Edits,
    /// Fields of requests that something is decided by, in lower case.
    believed: Box<[Box<[u8]>]>,
    pages: Pages,
}

/// Users and passwords of a route.
pub struct Login {
    pub authenticator: Arc<Authenticator>,
    challenge: Box<[u8]>,
}

/// What becomes of a request that has passed.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice<'p> {
    Respond(LocalResponse<'p>),
    /// It goes to this upstream, by its index, as `HookState::target` if that is set.
    Upstream(usize),
}

impl Login {
    pub(super) fn new(authenticator: Arc<Authenticator>) -> Self {
        let challenge = format!("WWW-Authenticate: {}\r\n", authenticator.challenge());
        Self { authenticator, challenge: challenge.into_bytes().into() }
    }

    /// The value of the only `Authorization` field.
    pub fn credentials<'a>(&self, view: &RequestView<'a>) -> Option<&'a [u8]> {
        view.head.fields.only_value(view.text, b"authorization")
    }

    pub fn refused(&self) -> LocalResponse<'static> {
        LocalResponse::plain(401, self.challenge.to_vec())
    }
}

pub(super) fn compile(
    loading: &mut Loading<'_>,
    route: &RouteConfig,
    layers: [Option<&HooksConfig>; 2],
) -> Result<Hooked, String> {
    let config = loading.config;
    let name = route.name();
    let mut guards = Guards::default();
    for ((number, owner), layer) in [EVERYBODY, name.as_str()].into_iter().enumerate().zip(layers) {
        if let Some(layer) = layer {
            guards.add(loading, (number, owner), layer);
        }
    }
    let upstream_name = |index: usize| -> Arc<str> { config.upstreams[index].name.as_str().into() };
    let body_bytes = strongest(layers, |layer| layer.body_bytes.as_ref());
    let login = strongest(layers, |layer| layer.basic_auth.as_ref());
    let login = login.map(|login| loading.login(login)).transpose()?;
    let pages = strongest(layers, |layer| layer.error_pages.as_ref());
    let rewrite = strongest(layers, |layer| layer.rewrite.as_ref());
    let mut hooked = Hooked {
        id: None,
        id_field: Box::default(),
        guards,
        cors: strongest(layers, |layer| layer.cors.as_ref()).map(Cors::new),
        body_bytes_max: body_bytes.map_or(u64::MAX, |bytes| *bytes),
        redirect: strongest(layers, |layer| layer.redirect.as_ref()).cloned(),
        login,
        auth_request: strongest(layers, |layer| layer.forward_auth.as_ref())
            .map(|asked| AuthRequest::new(asked, config.server.path_match)),
        custom: loading.customs(strongest(layers, |it| it.custom.as_ref()).map_or(&[], |it| it))?,
        respond: strongest(layers, |layer| layer.respond.as_ref()).map(Prepared::respond),
        split: strongest(layers, |layer| layer.split.as_ref())
            .map(|split| Split::new(split, upstream_name)),
        upstream: (route.upstream, upstream_name(route.upstream)),
        names_upstream: says(layers, &Variable::Upstream),
        mirror: strongest(layers, |layer| layer.mirror.as_ref()).cloned(),
        retry: None,
        rewrite: rewrite
            .map(|rewrite| {
                let from = if route.strip_prefix { "" } else { route.exact_path().0 };
                Rewrite::new(rewrite, from)
            })
            .transpose()?,
        target_bytes_max: config.limits.target_bytes,
        request_edits: Edits::default(),
        response_edits: Edits::default(),
        believed: believed(layers),
        pages: pages.map(Pages::load).transpose()?.unwrap_or_default(),
        route: name.into(),
    };
    let upstreams = hooked.arms().map(|(upstream, _)| upstream).chain([route.upstream]).collect();
    hooked.retry = strongest(layers, |it| it.retry.as_ref()).map(|it| Retry::new(it, upstreams));
    hooked.compile_id(layers);
    hooked.request_edits = hooked.request_wishes(layers).compile();
    hooked.response_edits = hooked.response_wishes(layers).compile();
    Ok(hooked)
}

// At load.
impl Hooked {
    /// Those of requests and those of answers.
    pub(super) fn edits(&self) -> [&Edits; 2] {
        [&self.request_edits, &self.response_edits]
    }

    /// Names of fields that something is decided by, in lower case.
    pub(super) fn believed(&self) -> impl Iterator<Item = &[u8]> {
        self.believed.iter().map(|name| &**name)
    }

    /// Says by which names requests and answers will be read.
    pub(super) fn read_by(
        &mut self,
        [requests, responses]: &[Arc<FieldInterest>; 2],
        said: Introduction,
    ) {
        self.request_edits.read_by(requests, said);
        self.response_edits.read_by(responses, said);
    }

    fn compile_id(&mut self, layers: [Option<&HooksConfig>; 2]) {
        let config = strongest(layers, |layer| layer.request_id.as_ref());
        self.id = config.map(|config| config.trust);
        if let Some(config) = config {
            self.id_field = config.header.to_ascii_lowercase().into();
        }
        if says(layers, &Variable::RequestId) && self.id.is_none() {
            self.id = Some(IdTrust::Nobody);
        }
    }

    fn request_wishes(&self, layers: [Option<&HooksConfig>; 2]) -> Wishes {
        let mut wishes = Wishes::default();
        if let Some(auth_request) = &self.auth_request {
            auth_request.edit(&mut wishes);
        }
        Self::wish_for_id(layers, &mut wishes);
        for layer in layers.into_iter().flatten() {
            wishes.all(&layer.request_headers);
        }
        wishes
    }

    fn response_wishes(&self, layers: [Option<&HooksConfig>; 2]) -> Wishes {
        let mut wishes = Wishes::default();
        if let (Some(cors), Some(config)) =
            (&self.cors, strongest(layers, |layer| layer.cors.as_ref()))
        {
            cors.edit(config, &mut wishes);
        }
        if let Some(security) = strongest(layers, |layer| layer.security_headers.as_ref()) {
            wish_for_security(security, &mut wishes);
        }
        Self::wish_for_id(layers, &mut wishes);
        for (layer, config) in layers.into_iter().enumerate() {
            let config = config.and_then(|config| config.rate_limit.as_ref());
            if let (Some(policy), Some(true)) =
                (self.guards.policy(layer), config.map(|config| config.announce))
            {
                let policy = policy.into();
                wishes.add_own("RateLimit", Own::RateLimit { layer, policy });
            }
        }
        if let Some(split) = strongest(layers, |layer| layer.split.as_ref())
            && let Some(ClientKey::Cookie(name)) = &split.sticky
        {
            let seconds = split.max_age.as_secs();
            let before = format!("Set-Cookie: {name}=").into_bytes().into();
            let behind =
                format!("; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax\r\n").into_bytes();
            wishes.add_own("Set-Cookie", Own::Cohort { before, behind: behind.into() });
        }
        for layer in layers.into_iter().flatten() {
            wishes.all(&layer.response_headers);
        }
        wishes
    }

    fn wish_for_id(layers: [Option<&HooksConfig>; 2], wishes: &mut Wishes) {
        if let Some(config) = strongest(layers, |layer| layer.request_id.as_ref()) {
            let value = Template { parts: vec![Part::Variable(Variable::RequestId)] };
            wishes.set(&config.header, value);
        }
    }
}

/// The fields by which limits and splits tell clients apart, and those that a question quotes.
fn believed(layers: [Option<&HooksConfig>; 2]) -> Box<[Box<[u8]>]> {
    let mut names: Vec<&str> = Vec::new();
    for layer in layers.into_iter().flatten() {
        let limit = layer.rate_limit.as_ref().map(|limit| &limit.key);
        let split = layer.split.as_ref().and_then(|split| split.sticky.as_ref());
        names.extend([limit, split].into_iter().flatten().filter_map(|key| match key {
            ClientKey::Header(name) => Some(name.as_str()),
            ClientKey::Ip | ClientKey::Route | ClientKey::Cookie(_) => None,
        }));
        let quoted = layer.forward_auth.iter().flat_map(|auth| &auth.request_headers);
        names.extend(quoted.map(String::as_str));
        names.extend(layer.request_id.iter().map(|id| id.header.as_str()));
    }
    names.into_iter().map(|name| name.to_ascii_lowercase().into_bytes().into()).collect()
}

/// Whether a value of a field or a target has `variable` in it.
fn says(layers: [Option<&HooksConfig>; 2], variable: &Variable) -> bool {
    layers.into_iter().flatten().any(|layer| {
        let heads = [&layer.request_headers, &layer.response_headers];
        let redirect = layer.redirect.as_ref().map(|redirect| &redirect.to);
        let replacement = match &layer.rewrite {
            Some(RewriteConfig::Regex { replacement, .. }) => Some(replacement),
            Some(RewriteConfig::Prefix(_)) | None => None,
        };
        let mut templates = heads
            .into_iter()
            .flat_map(|head| head.set.iter().chain(&head.add))
            .map(|(_, value)| value)
            .chain(redirect)
            .chain(replacement);
        templates.any(|template: &Template| template.has(variable))
    })
}

fn wish_for_security(config: &SecurityConfig, wishes: &mut Wishes) {
    let nosniff = config.nosniff.then(|| "nosniff".to_owned());
    let fields = [
        ("Strict-Transport-Security", &config.hsts),
        ("X-Content-Type-Options", &nosniff),
        ("X-Frame-Options", &config.frame_options),
        ("Referrer-Policy", &config.referrer_policy),
        ("Content-Security-Policy", &config.content_security_policy),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            wishes.set(name, fixed(value));
        }
    }
}

// For each request.
impl Hooked {
    /// What can be decided at once, up to and including redirects: an answer, or nothing.
    pub fn enter(
        &self,
        view: &RequestView<'_>,
        state: &mut HookState,
    ) -> Option<LocalResponse<'static>> {
        self.name_request(view, state);
        if !self.guards.let_in(view) {
            return Some(LocalResponse::plain(403, Vec::new()));
        }
        if let Some(answer) = self.cors.as_ref().and_then(|cors| cors.preflight(view)) {
            return Some(answer);
        }
        if let Some(answer) = self.guards.pass(&self.route, view, state) {
            return Some(answer);
        }
        if matches!(view.head.body, BodyLength::Exact(bytes) if bytes > self.body_bytes_max) {
            return Some(LocalResponse::plain(413, Vec::new()));
        }
        self.redirect.as_ref().map(|redirect| self.redirected(redirect, view, state))
    }

    fn name_request(&self, view: &RequestView<'_>, state: &mut HookState) {
        let Some(trust) = self.id else { return };
        let is_trusted = match trust {
            IdTrust::Nobody => false,
            IdTrust::Trusted => view.is_trusted,
            IdTrust::Everybody => true,
        };
        let given = if is_trusted { view.field(&self.id_field) } else { None };
        if !given.is_some_and(|id| state.adopt_id(id)) {
            state.adopt_id(&draw_text());
        }
    }

    fn redirected(
        &self,
        redirect: &RedirectConfig,
        view: &RequestView<'_>,
        state: &HookState,
    ) -> LocalResponse<'static> {
        match location(&redirect.to, &self.route, view, state) {
            Ok(location) => {
                let fields = [b"Location: ", location.as_slice(), b"\r\n"].concat();
                LocalResponse::plain(redirect.status, fields)
            }
            Err(bad) => refused_target(bad),
        }
    }

    /// The end of a request's way: an answer of the route's own, or an upstream and a target.
    /// `target` is what would be sent without a rewrite.
    pub fn choose(
        &self,
        target: &[u8],
        view: &RequestView<'_>,
        state: &mut HookState,
    ) -> Choice<'_> {
        if let Some(respond) = &self.respond {
            return Choice::Respond(respond.answer());
        }
        let chosen = self.split.as_ref().map(|split| split.choose(view, state));
        let (upstream, name) =
            chosen.map_or((self.upstream.0, &self.upstream.1), |arm| (arm.upstream, &arm.name));
        if self.names_upstream {
            state.upstream = Some(name.clone());
        }
        if let Some(rewrite) = &self.rewrite {
            match rewrite.apply(target, &self.route, view, state) {
                Ok(Some(target)) if target.len() > self.target_bytes_max => {
                    return Choice::Respond(refused_target(BadTarget::TooLong));
                }
                Ok(target) => state.target = target,
                Err(bad) => return Choice::Respond(refused_target(bad)),
            }
        }
        if let Some(retry) = &self.retry {
            retry.earn();
        }
        Choice::Upstream(upstream)
    }

    /// Keeps what the answer to a question grants.
    pub fn grant(&self, lines: Vec<u8>, state: &mut HookState) {
        state.granted = lines;
    }

    /// Appends the request head to send, edited. `facts` are those of the request.
    pub fn put_request(
        &self,
        out: &mut Vec<u8>,
        how: &RequestRewrite<'_>,
        view: &RequestView<'_>,
        state: &HookState,
    ) {
        let RequestView { head, text, .. } = *view;
        let pen = self.request_edits.pen(&head.fields, &self.route, view, state);
        // What hooks in Rust add is edited as well, so that it has to be there first.
        if let Some(mut pen) = pen.filter(|_| state.request_changes.is_empty()) {
            rewrite::request_edited(out, head, text, how, &mut pen);
        } else {
            let start = out.len();
            rewrite::request(out, head, text, how);
            self.edit_request(out, start, view, state);
        }
    }

    /// Appends the head of an origin's answer, `head` in `buf`, as the client gets it.
    /// `HookState::status` must be its status.
    pub fn put_response(
        &self,
        out: &mut Vec<u8>,
        (head, buf): (&ResponseHead, &[u8]),
        how: &ResponseRewrite<'_>,
        view: &RequestView<'_>,
        state: &HookState,
    ) {
        let pen = self.response_edits.pen(&head.fields, &self.route, view, state);
        if let Some(mut pen) =
            pen.filter(|_| state.response_changes.is_empty() && how.seen.is_none())
        {
            rewrite::response_edited(out, head, buf, how, &mut pen);
        } else {
            let start = out.len();
            rewrite::response(out, head, buf, how);
            self.edit_response(out, start, view, state);
        }
    }

    /// Edits the request head that `out` ends with and that begins at `start`.
    pub fn edit_request(
        &self,
        out: &mut Vec<u8>,
        start: usize,
        view: &RequestView<'_>,
        state: &HookState,
    ) {
        if !state.request_changes.is_empty() {
            state.request_changes.apply(out, start);
        }
        self.request_edits.apply(out, start, &self.route, view, state);
    }

    /// Edits the head of an answer, an origin's or our own, that `out` ends with and that begins at
    /// `start`. `HookState::status` must be its status.
    pub fn edit_response(
        &self,
        out: &mut Vec<u8>,
        start: usize,
        view: &RequestView<'_>,
        state: &HookState,
    ) {
        if !state.response_changes.is_empty() {
            state.response_changes.apply(out, start);
        }
        self.response_edits.apply(out, start, &self.route, view, state);
    }

    /// What stands in an answer of our own with this status, if the configuration says so.
    pub fn page(&self, status: u16) -> Option<LocalResponse<'_>> {
        self.pages.page(status)
    }

    /// The same for an origin's answer.
    pub fn page_for_origin(&self, status: u16) -> Option<LocalResponse<'_>> {
        if self.pages.is_intercepting { self.pages.page(status) } else { None }
    }

    /// A larger body is answered 413. Never above `limits.body_bytes`.
    pub fn body_bytes_max(&self, limit: u64) -> u64 {
        self.body_bytes_max.min(limit)
    }

    /// The upstream that gets a copy of this request, of whose body `body_bytes` are known of, and
    /// how many there may be.
    pub fn mirror(&self, body_bytes: u64) -> Option<(usize, u64)> {
        let mirror = self.mirror.as_ref().filter(|mirror| body_bytes <= mirror.body_bytes)?;
        is_mirrored(mirror, draw()).then_some((mirror.upstream, mirror.body_bytes))
    }

    pub fn route(&self) -> &str {
        &self.route
    }

    /// The upstreams of a split: their indexes and names. Empty without one.
    pub fn arms(&self) -> impl Iterator<Item = (usize, &str)> {
        let arms = self.split.as_ref().map(Split::arms).unwrap_or_default();
        arms.iter().map(|arm| (arm.upstream, &*arm.name))
    }

    /// Memory that the plan takes, its tables excepted.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.request_edits.bytes()
            + self.response_edits.bytes()
            + self.pages.bytes()
            + self.respond.as_ref().map_or(0, Prepared::bytes)
            + self.retry.as_ref().map_or(0, Retry::bytes)
    }
}

fn refused_target(bad: BadTarget) -> LocalResponse<'static> {
    let code = match bad {
        BadTarget::Refused => 400,
        BadTarget::TooLong => 414,
    };
    LocalResponse::plain(code, Vec::new())
}
