//! What a location does with a request.
//!
//! In goes a location with all that holds in it; out comes a route but for its host and path. A
//! location that does nothing that ringway can do is answered 404 where files were served, else
//! 501: it never goes to another one's origin.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::super::draft::{Draft, Table};
use super::super::values::{millis, time};
use super::fields;
use super::guards::{Zones, closed, guards};
use super::lexer::Directive;
use super::scope::Scope;
use super::template::{Around, template};
use super::upstream::{Groups, Pass, Wanted};
use crate::config::hooks::pattern;

/// What all locations of a file have around them.
pub(super) struct Surroundings<'t, 'd> {
    pub(super) draft: &'d mut Draft,
    pub(super) groups: Groups<'t>,
    pub(super) zones: Zones,
    /// Of the main file.
    pub(super) folder: &'d Path,
    /// Some server is reached from elsewhere.
    pub(super) has_strangers: bool,
}

/// A route but for its host and path.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    pub(super) table: Table,
    /// `None`: nobody is asked.
    pub(super) upstream: Option<String>,
    pub(super) hooks: Map<String, Json>,
    /// What takes the place of the location's own path.
    pub(super) path: Option<String>,
    pub(super) is_proxied: bool,
}

/// A redirect or an answer.
pub(super) fn answered(
    directive: &Directive,
    around: Around<'_>,
) -> Option<Result<(&'static str, Json), String>> {
    let (first, second) = (directive.arg(0), directive.arg(1));
    let to = |to: &str, status: u16| {
        let to =
            template(to, around).map_err(|name| format!("there is no variable {name} here"))?;
        let table = json!({ "to": to, "status": status });
        serde_json::from_value::<crate::config::RedirectConfig>(table.clone())
            .map(|_| ("redirect", table))
            .map_err(|error| error.to_string())
    };
    match directive.name.as_str() {
        "return" => match first.parse::<u16>() {
            Err(_) => Some(to(first, 302)),
            Ok(status @ (301 | 302 | 303 | 307 | 308)) => Some(to(second, status)),
            // It closes the connection without a word, which no answer can say.
            Ok(444) => Some(Ok(("respond", json!({ "status": 404 })))),
            Ok(status @ 200..=599) => {
                let mut table = json!({ "status": status });
                if !second.is_empty() {
                    if second.contains('$') {
                        return Some(Err("an answer has no variables".to_owned()));
                    }
                    table["body"] = second.into();
                }
                Some(Ok(("respond", table)))
            }
            Ok(_) => Some(Err("it is no status of an answer".to_owned())),
        },
        "rewrite" => {
            let target = second.trim_end_matches('?');
            let flag = directive.arg(2);
            let status = match flag {
                "permanent" => 301,
                "redirect" => 302,
                _ if second.starts_with("http://") || second.starts_with("https://") => 302,
                _ => return None,
            };
            let whole = match first {
                "^" | "^/" | ".*" | "^.*" | "^.*$" | "^/.*" | "^/.*$" if !target.contains("$1") => {
                    // What is asked for beside the path goes along, unless it is said already.
                    Some(target.to_owned())
                }
                "^(.*)$" | "^(.*)" | "(.*)" => Some(target.replace("$1", "$request_uri")),
                "^/(.*)$" | "^/(.*)" => Some(target.replace("/$1", "$request_uri")),
                _ => None,
            };
            let lost = "a redirect has no groups of a pattern".to_owned();
            Some(whole.ok_or(lost).and_then(|target| to(&target, status)))
        }
        _ => None,
    }
}

impl Surroundings<'_, '_> {
    /// `named` are the locations that a `try_files` may end in.
    pub(super) fn body(
        &mut self,
        scope: &Scope<'_>,
        around: Around<'_>,
        named: &[&Directive],
    ) -> Body {
        let mut body = Body::default();
        let answering = scope.innermost().iter().find_map(|it| Some((it, answered(it, around)?)));
        match answering {
            Some((_, Ok((hook, table)))) => {
                // nginx answers so before it asks who it is.
                body.hooks.insert(hook.to_owned(), table);
                self.answer(scope, around, &mut body);
                return body;
            }
            Some((directive, Err(why))) => {
                self.shut(directive, &why, "write hooks.redirect or hooks.respond", &mut body);
            }
            None => self.passed(scope, around, named, &mut body),
        }
        body
    }

    fn answer(&mut self, scope: &Scope<'_>, around: Around<'_>, body: &mut Body) {
        fields::answer(scope, around, &mut body.hooks, self.draft);
    }

    /// Says no in place of what the location did.
    fn shut(&mut self, directive: &Directive, why: &str, cure: &str, body: &mut Body) {
        let cure = format!("{cure}; it is answered 501 now");
        self.draft.untaken(&directive.place, directive.shown(), why, cure);
        closed(501, &mut body.hooks);
    }

    fn passed(
        &mut self,
        scope: &Scope<'_>,
        around: Around<'_>,
        named: &[&Directive],
        body: &mut Body,
    ) {
        if scope.own("internal").is_some() {
            return closed(404, &mut body.hooks);
        }
        let own = ["proxy_pass", "grpc_pass"].iter().find_map(|name| scope.own(name));
        let Some(pass) = own else {
            return self.unproxied(scope, around, named, body);
        };
        body.hooks = guards(scope, &self.zones, self.folder, self.draft);
        if let Some(ask) = scope.last("auth_request").filter(|it| it.arg(0) != "off") {
            match self.question(ask, scope, around) {
                Ok(table) => drop(body.hooks.insert("forward_auth".to_owned(), table)),
                Err(why) => return self.shut(ask, why, "write hooks.forward_auth", body),
            }
        }
        let parsed = match Pass::parse(pass.arg(0), pass.name == "grpc_pass") {
            Ok(parsed) => parsed,
            Err(why) => return self.shut(pass, why, "write a route and its upstream", body),
        };
        let host = fields::request(scope, around, &mut body.hooks, self.draft);
        self.answer(scope, around, body);
        self.rewrites(scope, around, body);
        self.retries(scope, body);
        let timeouts = self.timeouts(scope);
        if !timeouts.is_empty() {
            body.table.set("timeouts", Json::Object(timeouts));
        }
        let maps_location = parsed.path.is_some()
            && scope.last("proxy_redirect").is_none_or(|it| it.arg(0) != "off");
        let tls = if parsed.is_tls { self.tls(scope, pass) } else { Map::new() };
        let http = match (parsed.is_grpc, parsed.is_tls) {
            (true, true) => Some("auto"),
            (true, false) => Some("2"),
            (false, _) => None,
        };
        let Pass { target, is_tls, path, .. } = parsed;
        let wanted = Wanted { target, is_tls, http, host, tls, maps_location };
        match self.groups.name_of(wanted, self.draft) {
            Some(name) => body.upstream = Some(name),
            None => {
                return self.shut(
                    pass,
                    "it names nothing that can be asked",
                    "write an upstream",
                    body,
                );
            }
        }
        body.path = path;
        body.is_proxied = true;
        if let Some(redirect) =
            scope.own("proxy_redirect").filter(|it| !matches!(it.arg(0), "off" | "default"))
        {
            let why = "where answers lead to is mapped by upstream.map_location alone";
            self.draft.untaken(&redirect.place, redirect.shown(), why, "see whether that does it");
        }
    }

    fn unproxied(
        &mut self,
        scope: &Scope<'_>,
        around: Around<'_>,
        named: &[&Directive],
        body: &mut Body,
    ) {
        if let Some(files) = scope.own("try_files") {
            let last = files.args.last().map_or("", String::as_str);
            let other = named.iter().find(|it| it.arg(0) == last);
            let why = match other {
                Some(_) => {
                    "ringway serves no files: all that is asked for goes where the last word says"
                }
                None => "ringway serves no files",
            };
            let cure = "serve them by an upstream, and route their paths there";
            self.draft.untaken(&files.place, files.shown(), why, cure);
            if let Some(other) = other {
                return self.passed(&scope.within(other.block()), around, &[], body);
            }
        }
        let is_other = |it: &&Directive| {
            ["fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass"]
                .contains(&it.name.as_str())
        };
        if let Some(other) = scope.innermost().iter().find(is_other) {
            return self.shut(
                other,
                "ringway speaks HTTP alone to origins",
                "put an HTTP server in front of the application",
                body,
            );
        }
        body.hooks = guards(scope, &self.zones, self.folder, self.draft);
        if !body.hooks.contains_key("respond") {
            closed(404, &mut body.hooks);
        }
    }

    /// Rewrites of the path that the origin sees.
    fn rewrites(&mut self, scope: &Scope<'_>, around: Around<'_>, body: &mut Body) {
        for directive in scope.innermost().iter().filter(|it| it.name == "rewrite") {
            let (regex, to) = (directive.arg(0), directive.arg(1));
            let around = Around { has_groups: true, ..around };
            let made = template(to, around);
            let table = made.ok().filter(|to| to.starts_with('/') && !to.contains('?')).map(|to| {
                // nginx replaces all of the path, wherever the pattern fits.
                let start = if regex.starts_with('^') { "" } else { "^.*?" };
                let end = if regex.ends_with('$') { "" } else { ".*$" };
                json!({ "regex": format!("{start}{regex}{end}"), "replacement": to })
            });
            let is_good =
                |table: &Json| pattern(table["regex"].as_str().unwrap_or_default()).is_ok();
            match table.filter(is_good).filter(|_| directive.arg(2) == "break") {
                Some(table) if !body.hooks.contains_key("rewrite") => {
                    body.hooks.insert("rewrite".to_owned(), table);
                }
                _ => {
                    let why =
                        "a path is rewritten once, by one pattern, and its route chosen before";
                    self.draft.untaken(
                        &directive.place,
                        directive.shown(),
                        why,
                        "write hooks.rewrite",
                    );
                }
            }
        }
    }

    fn retries(&mut self, scope: &Scope<'_>, body: &mut Body) {
        let Some(next) = scope.last("proxy_next_upstream") else { return };
        let (mut on, mut is_any) = (Vec::new(), false);
        for word in &next.args {
            match word.as_str() {
                "error" => on.extend(["connect".to_owned(), "reset".to_owned()]),
                "timeout" => on.push("timeout".to_owned()),
                "http_429" | "http_500" | "http_502" | "http_503" | "http_504" => {
                    on.push(word["http_".len()..].to_owned());
                }
                "non_idempotent" => is_any = true,
                "off" | "updating" | "invalid_header" => {}
                _ => {
                    let why = "an answer of that kind is not asked for again";
                    self.draft.untaken(&next.place, word, why, "see hooks.retry.on");
                }
            }
        }
        if on.is_empty() {
            return;
        }
        let tries = scope.last("proxy_next_upstream_tries").and_then(|it| it.arg(0).parse().ok());
        let attempts = tries.unwrap_or(3_u64).saturating_sub(1).clamp(1, 10);
        let mut table = json!({ "on": on, "attempts": attempts });
        if is_any {
            table["non_idempotent"] = true.into();
        }
        body.hooks.insert("retry".to_owned(), table);
    }

    /// Those that are not the ones of all.
    fn timeouts(&mut self, scope: &Scope<'_>) -> Map<String, Json> {
        let mut table = Map::new();
        for (name, key) in TIMEOUTS {
            let Some(directive) = scope.inner(name) else { continue };
            match millis(directive.arg(0), 1_000) {
                Some(ms) if ms > 0 => drop(table.insert(key.to_owned(), time(ms).into())),
                _ => {
                    let why = "it is no time from 1ms to 1d";
                    self.draft.untaken(
                        &directive.place,
                        directive.shown(),
                        why,
                        "see route.timeouts",
                    );
                }
            }
        }
        table
    }

    /// How origins with TLS are spoken to.
    pub(super) fn tls(&mut self, scope: &Scope<'_>, pass: &Directive) -> Map<String, Json> {
        let mut table = Map::new();
        let path =
            |it: &Directive| Json::from(self.folder.join(it.arg(0)).to_string_lossy().into_owned());
        for (name, key) in [
            ("proxy_ssl_trusted_certificate", "ca"),
            ("proxy_ssl_certificate", "client_chain"),
            ("proxy_ssl_certificate_key", "client_key"),
        ] {
            if let Some(directive) = scope.last(name) {
                table.insert(key.to_owned(), path(directive));
            }
        }
        let name = scope.last("proxy_ssl_name").map(|it| it.arg(0));
        if let Some(name) = name.filter(|name| !name.contains('$')) {
            table.insert("sni".to_owned(), name.into());
        }
        if scope.last("proxy_ssl_verify").is_none_or(|it| it.arg(0) != "on") {
            let why = "nginx does not look at this origin's certificate, and ringway does";
            let cure =
                "name its authority in upstream.tls.ca; insecure_skip_verify if it has to be";
            self.draft.untaken(&pass.place, pass.shown(), why, cure);
        }
        table
    }
}

/// Of nginx, and those of ringway.
pub(super) const TIMEOUTS: [(&str, &str); 7] = [
    ("proxy_connect_timeout", "connect"),
    ("proxy_read_timeout", "read"),
    ("proxy_send_timeout", "write"),
    ("grpc_connect_timeout", "connect"),
    ("grpc_read_timeout", "read"),
    ("grpc_send_timeout", "write"),
    ("send_timeout", "client_write"),
];
