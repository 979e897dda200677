//! The hooks of a route, as they would run for a request.
//!
//! In goes a request with its route; out come the hooks that are configured for it, in their order,
//! and what each of them does: an answer of their own, another upstream, another target, edits to
//! both heads. They are compiled and asked as for a request that is served; what would have to be
//! asked of others (another server, hooks in Rust) is named and not done.

use std::net::{IpAddr, Ipv6Addr};

use super::addresses;
use super::report::{Report, Section};
use crate::address::ClientAddress;
use crate::cli::explain::case::{Case, Ending, lines_of, shown};
use crate::config::{ClientKey, HooksConfig, MirrorConfig, SplitConfig, Statuses};
use crate::forward_proxy::LoginOutcome;
use crate::hooks::style::ResponseStyle;
use crate::hooks::{self, Choice, HookState, LocalResponse, RequestView};
use crate::http::BodyLength;
use crate::http::rewrite::{self, ConnectionOut, RequestRewrite, Simple};
use crate::observe::date::DateLine;
use crate::routing::Route;
use crate::upstream::host;

/// What the hooks make of a request.
pub(super) struct Hooked {
    pub upstream: usize,
    /// The target, where it is rewritten.
    pub target: Option<Vec<u8>>,
    /// They answer it themselves.
    pub ending: Option<Ending>,
    route: u32,
    state: HookState,
}

pub(super) fn ask(case: &Case<'_>, route: Route, report: &mut Report) -> Hooked {
    let config = case.config;
    let section = report.section("hooks");
    let mut state = HookState::default();
    let mut decided = Ok(route.upstream);
    match (case.plans.hooked(route.index), config.routes.get(route.index as usize)) {
        (Some(plan), Some(own)) => {
            let global = config.hooks.as_deref().filter(|_| own.inherits_hooks);
            let client = case.client_text();
            let view = view(case, &client);
            let layers = [global, own.hooks.as_deref()];
            let mut asked = Asked { case, plan, layers, view, section };
            let target = route.sent_path(case.head.path(&case.text));
            decided = asked.decide(&target, &mut state);
        }
        _ => {
            section.fact("plan", "none: the fast path");
        }
    }
    let target = state.target.take();
    let (upstream, ending) = match decided {
        Ok(upstream) => (upstream, None),
        Err(ending) => (route.upstream, Some(ending)),
    };
    Hooked { upstream, target, ending, route: route.index, state }
}

impl Hooked {
    /// Appends the request head to send.
    pub(super) fn put_request(&self, case: &Case<'_>, how: &RequestRewrite<'_>, out: &mut Vec<u8>) {
        match case.plans.hooked(self.route) {
            Some(plan) => {
                let client = case.client_text();
                plan.put_request(out, how, &view(case, &client), &self.state);
            }
            None => rewrite::request(out, &case.head, &case.text, how),
        }
    }
}

fn view<'a>(case: &'a Case<'_>, client_text: &'a str) -> RequestView<'a> {
    RequestView {
        head: &case.head,
        text: &case.text,
        client: case.client,
        client_text,
        is_trusted: case.is_trusted(),
        tls: None,
        now_us: 0,
    }
}

/// A plan that is being asked.
struct Asked<'a> {
    case: &'a Case<'a>,
    plan: &'a hooks::Hooked,
    layers: [Option<&'a HooksConfig>; 2],
    view: RequestView<'a>,
    section: &'a mut Section,
}

impl<'a> Asked<'a> {
    /// The upstream that the request goes to, by its index.
    fn decide(&mut self, target: &[u8], state: &mut HookState) -> Result<usize, Ending> {
        for (name, layer) in ["global", "route"].into_iter().zip(self.layers) {
            if let Some(layer) = layer {
                self.section.fact(name, layer.lines(&self.case.config.upstreams));
            }
        }
        let entered = self.plan.enter(&self.view, state);
        self.tell_limits();
        if let Some(answer) = entered {
            return Err(self.answered(&answer, state));
        }
        self.log_in(state)?;
        self.tell_questions();
        let upstream = match self.plan.choose(target, &self.view, state) {
            Choice::Respond(answer) => return Err(self.answered(&answer, state)),
            Choice::Upstream(upstream) => upstream,
        };
        self.tell_way(upstream, state);
        self.tell_answers(state);
        Ok(upstream)
    }

    /// What the route has for everybody of `of`, its own before the global one.
    fn strongest<T>(&self, of: impl Fn(&'a HooksConfig) -> Option<&'a T>) -> Option<&'a T> {
        hooks::strongest(self.layers, of)
    }

    fn answered(&mut self, answer: &LocalResponse<'_>, state: &mut HookState) -> Ending {
        state.status = answer.status.code;
        let mut head = Vec::new();
        let simple = Simple {
            status: answer.status.code,
            reason: answer.status.reason,
            body: &answer.body,
            extra: &answer.fields,
            connection: ConnectionOut::Implicit,
            date: &DateLine::default().now(),
            is_head_only: true,
        };
        ResponseStyle::new(self.plan, self.view, state, answer).put(&mut head, &simple);
        self.section.fact("answer", lines_of(&head));
        Ending::Own(format!("the hooks answer {}", answer.status.code))
    }

    /// Whom limits count.
    fn tell_limits(&mut self) {
        let mut lines = Vec::new();
        for layer in self.layers.into_iter().flatten() {
            let limits = [
                ("rate_limit", &layer.rate_limit),
                ("address_rate_limit", &layer.address_rate_limit),
            ];
            for (name, limit) in limits {
                let Some(rate) = limit else { continue };
                lines.push(format!("{name} by {}: {}", rate.key, self.key(&rate.key)));
            }
            if layer.connections_per_client.is_some() {
                lines.push(format!("connections_per_client: {}", self.key(&ClientKey::Ip)));
            }
        }
        if !lines.is_empty() {
            self.section.fact("counted", lines);
        }
    }

    fn key(&self, key: &ClientKey) -> String {
        match key {
            ClientKey::Ip => network(self.case.client),
            ClientKey::Route => self.plan.route().to_owned(),
            ClientKey::Header(name) => {
                let values = self.view.head.fields.values(self.view.text, name.as_bytes());
                let values: Vec<_> = values.map(shown).collect();
                if values.is_empty() {
                    return format!("not sent, so by address: {}", network(self.case.client));
                }
                values.join(", and ")
            }
            ClientKey::Cookie(name) => {
                self.view.cookie(name).map_or("with all who do not send it".to_owned(), shown)
            }
        }
    }

    fn log_in(&mut self, state: &mut HookState) -> Result<(), Ending> {
        let Some(login) = &self.plan.login else { return Ok(()) };
        let known = &login.authenticator;
        let checked = known.log_in(self.view.client, login.credentials(&self.view));
        match addresses::wait_for(checked.outcome()) {
            Ok(LoginOutcome::Known(user)) => self.section.fact("user", known.name(user)),
            Ok(
                LoginOutcome::Missing | LoginOutcome::Wrong | LoginOutcome::TooManyFailures { .. },
            ) => {
                return Err(self.answered(&login.refused(), state));
            }
            Ok(LoginOutcome::Busy) | Err(_) => {
                self.section.fact("user", "the password was not looked at")
            }
        };
        Ok(())
    }

    /// Who else has a say.
    fn tell_questions(&mut self) {
        let mut waits = Vec::new();
        if let Some(auth_request) = &self.plan.auth_request {
            let upstream = &self.case.config.upstreams[auth_request.upstream()];
            let first = upstream.all_origins().next();
            let base = first.map_or("", |origin| &*origin.base);
            let first = first.map(|origin| origin.authority.as_str());
            let mut head = Vec::new();
            let host = host::host(&upstream.host, first);
            auth_request.put((base, host.as_bytes()), &self.view, &mut head);
            self.section.fact("question", lines_of(&head));
            waits.push(format!("forward_auth asks {}", upstream.name));
        }
        let names: Vec<_> = self.plan.custom.iter().map(hooks::custom::Custom::name).collect();
        if !names.is_empty() {
            waits.push(format!("hooks in Rust are asked: {}", names.join(", ")));
        }
        if !waits.is_empty() {
            self.section.fact("not done here", waits);
        }
    }

    fn tell_way(&mut self, upstream: usize, state: &HookState) {
        if let Some(split) = self.strongest(|layer| layer.split.as_ref()) {
            let arm = &self.case.config.upstreams[upstream].name;
            let how = how_chosen(split, state);
            self.section.fact("split", format!("{arm}: {how}"));
        }
        if let Some(mirror) = self.strongest(|layer| layer.mirror.as_ref()) {
            let text = self.mirrored(mirror);
            self.section.fact("mirror", text);
        }
        if let Some(retry) = self.strongest(|layer| layer.retry.as_ref()) {
            let bound = if self.case.head.method.is_idempotent() {
                ""
            } else {
                ", where nothing has been sent: this method may not be repeated"
            };
            self.section.fact("retry", format!("{} more attempts{bound}", retry.attempts));
        }
        if let Some(target) = &state.target {
            self.section.fact("rewritten to", shown(target));
        }
    }

    fn mirrored(&self, mirror: &MirrorConfig) -> String {
        let is_too_large = match self.case.head.body {
            BodyLength::Exact(bytes) => bytes > mirror.body_bytes,
            BodyLength::Empty | BodyLength::Chunked | BodyLength::UntilClose => false,
        };
        let name = &self.case.config.upstreams[mirror.upstream].name;
        if is_too_large {
            return format!("no copy for {name}: the body is larger than mirror.body_bytes");
        }
        let percent = f64::from(mirror.share) / 100.0;
        format!("{percent} % of such requests go to {name} too")
    }

    /// What becomes of an origin's answer, and of our own.
    fn tell_answers(&mut self, state: &mut HookState) {
        state.status = 200;
        let mut head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        self.plan.edit_response(&mut head, 0, &self.view, state);
        let mut lines = lines_of(&head);
        lines.remove(0);
        if self.strongest(|layer| layer.cors.as_ref()).is_some() {
            let may_read =
                lines.iter().any(|line| line.starts_with("Access-Control-Allow-Origin: "));
            let text = match (self.view.field("origin").map(shown), may_read) {
                (None, _) => "no Origin: no page of another origin asks".to_owned(),
                (Some(origin), true) => format!("pages of {origin} may read the answer"),
                (Some(origin), false) => format!("pages of {origin} may not read the answer"),
            };
            self.section.fact("cors", text);
        }
        if !lines.is_empty() {
            self.section.fact("200 gets", lines);
        }
        let Some(pages) = self.strongest(|layer| layer.error_pages.as_ref()) else { return };
        let whose = if pages.intercept { "the origin's answer too" } else { "ringway's own only" };
        let line = |statuses: &Statuses| {
            let code = match statuses {
                Statuses::Exact(code) => *code,
                Statuses::Class(class) => class * 100,
            };
            let bytes = self.plan.page(code).map_or(0, |page| page.body.len());
            format!("{statuses}: {bytes} bytes, in place of {whose}")
        };
        let lines: Vec<_> = pages.pages.iter().map(|(statuses, _)| line(statuses)).collect();
        self.section.fact("error pages", lines);
    }
}

fn how_chosen(split: &SplitConfig, state: &HookState) -> String {
    match &split.sticky {
        None => "drawn anew for each request".to_owned(),
        Some(ClientKey::Cookie(name)) if state.cohort.is_some() => {
            format!("drawn, and kept in the cookie {name}")
        }
        Some(key) => format!("by {key}"),
    }
}

/// Of whom an address counts as part.
fn network(client: ClientAddress) -> String {
    match client {
        ClientAddress::Unix => client.to_string(),
        ClientAddress::Ip(IpAddr::V4(address)) => address.to_string(),
        ClientAddress::Ip(IpAddr::V6(address)) => {
            format!("{}/64", Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))
        }
    }
}
