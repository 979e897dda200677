//! One server, as routes.
//!
//! In goes a server with the hosts that are its own here; out come its routes, which take exactly
//! what its locations take. A server's last route takes all the rest, so that a host that fits
//! never hands a request to another.

use serde_json::{Map, Value as Json, json};

use super::super::choice::{Chosen, Location, Takes, ordered};
use super::super::draft::Table;
use super::super::values::is_path;
use super::body::{Body, Surroundings, answered};
use super::guards::closed;
use super::lexer::Directive;
use super::scope::Scope;
use super::template::Around;
use crate::config::HooksConfig;
use crate::config::hooks::pattern;

pub(super) struct Site<'t> {
    pub(super) directive: &'t Directive,
    pub(super) scope: Scope<'t>,
    pub(super) around: Around<'t>,
    pub(super) hosts: Vec<String>,
    /// Nobody gets in: what guarded it was not taken.
    pub(super) is_closed: bool,
    /// It listens where nobody but this machine comes from.
    pub(super) is_local: bool,
}

/// Who reaches a server that listens on this machine alone.
const LOCAL: [&str; 2] = ["127.0.0.0/8", "::1/128"];

struct Found<'t> {
    /// `None`: nginx's own, where the server has no location for it.
    directive: Option<&'t Directive>,
    scope: Scope<'t>,
}

impl Surroundings<'_, '_> {
    pub(super) fn routes(&mut self, site: &Site<'_>) {
        let (mut locations, mut found) = (Vec::new(), Vec::new());
        let block = site.directive.block();
        let answer = block.iter().find(|it| answered(it, site.around).is_some());
        if answer.is_none() {
            self.collect(block, &site.scope, None, &mut locations, &mut found);
        }
        let is_whole =
            |it: &Location| matches!(&it.takes, Takes::Prefix { path, .. } if path == "/");
        if !locations.iter().any(is_whole) {
            let takes = Takes::Prefix { path: "/".to_owned(), is_final: false };
            locations.push(Location { takes, parent: None });
            found.push(Found { directive: None, scope: site.scope.clone() });
        }
        let named: Vec<_> = block.iter().filter(|it| it.arg(0).starts_with('@')).collect();
        let mut bodies: Vec<Body> = Vec::new();
        for it in &found {
            let body = match (site.is_closed, it.directive, answer) {
                (true, ..) => shut(403),
                (false, None, None) => shut(404),
                (false, ..) => self.body(&it.scope, site.around, &named),
            };
            let mut body = body;
            if site.is_local && self.has_strangers {
                // Listeners are everybody's here, and this server was not.
                body.hooks.entry("allow").or_insert_with(|| json!(LOCAL));
            }
            bodies.push(body);
        }
        slashes(&mut locations, &mut found, &mut bodies, &site.scope);
        let order = ordered(&locations);
        for index in order.inexact {
            if let Some(directive) = found[index].directive {
                let why =
                    "its prefix and a pattern, or another prefix with ^~, meet within one name";
                let cure = "see by `ringway explain` which route takes such a path";
                self.draft.untaken(&directive.place, directive.shown(), why, cure);
            }
        }
        for host in &site.hosts {
            for chosen in &order.routes {
                let note = match found[chosen.location].directive {
                    Some(it) => format!("{}: {}", it.place, it.shown()),
                    None => format!("{}: what no location takes", site.directive.place),
                };
                let takes = &locations[chosen.location].takes;
                self.route(host, chosen, takes, note, &bodies[chosen.location]);
            }
        }
    }

    /// The locations of a block, and those within them.
    fn collect<'t>(
        &mut self,
        block: &'t [Directive],
        scope: &Scope<'t>,
        parent: Option<usize>,
        locations: &mut Vec<Location>,
        found: &mut Vec<Found<'t>>,
    ) {
        for directive in block {
            if directive.name == "if" {
                let why = "a route has conditions, and is no program";
                let cure = "make a route with the condition (headers, cookies, query, methods)";
                self.draft.untaken(&directive.place, directive.shown(), why, cure);
            }
            if directive.name != "location" || directive.arg(0).starts_with('@') {
                continue;
            }
            let takes = match takes(&directive.args) {
                Ok(takes) => takes,
                Err(why) => {
                    let cure = "write a route for it; its requests go where the next location says";
                    self.draft.untaken(&directive.place, directive.shown(), why, cure);
                    continue;
                }
            };
            let index = locations.len();
            let is_prefix = matches!(takes, Takes::Prefix { .. });
            locations.push(Location { takes, parent });
            let scope = scope.within(directive.block());
            found.push(Found { directive: Some(directive), scope: scope.clone() });
            if is_prefix {
                self.collect(directive.block(), &scope, Some(index), locations, found);
            } else if let Some(inner) = directive.block().iter().find(|it| it.name == "location") {
                let why = "a location within a pattern or an exact one is not looked for";
                self.draft.untaken(&inner.place, inner.shown(), why, "write a route for it");
            }
        }
    }

    fn route(&mut self, host: &str, chosen: &Chosen, takes: &Takes, note: String, body: &Body) {
        let mut table = Table::default();
        table.notes.push(note);
        if chosen.is_rest {
            table
                .notes
                .push("The same for longer names, which nginx's prefix takes too.".to_owned());
        }
        if !host.is_empty() {
            table.set("host", host);
        }
        table.set("path", chosen.path.as_str());
        if let Some(pattern) = &chosen.pattern {
            table.set("path_regex", pattern.as_str());
        }
        // Filled in at the end, where nobody is asked.
        table.set("upstream", body.upstream.clone().unwrap_or_default());
        let mut hooks = body.hooks.clone();
        if let Some(path) = &body.path
            && !hooks.contains_key("rewrite")
        {
            place(takes, chosen, path, &mut table, &mut hooks);
        }
        if let Some(timeouts) = body.table.get("timeouts") {
            table.set("timeouts", timeouts.clone());
        }
        self.keep_the_good(&mut hooks, &table);
        if !hooks.is_empty() {
            table.set("hooks", Json::Object(hooks));
        }
        self.draft.routes.push(table);
    }

    /// Leaves hooks out that `check` would refuse, and shuts the route where they guarded it.
    fn keep_the_good(&mut self, hooks: &mut Map<String, Json>, table: &Table) {
        let mut refused = Vec::new();
        // It names an upstream, which nobody knows yet.
        for (key, value) in hooks.iter().filter(|(key, _)| *key != "forward_auth") {
            let mut one = Map::new();
            one.insert(key.clone(), value.clone());
            if let Err(error) = serde_json::from_value::<HooksConfig>(Json::Object(one)) {
                refused.push((key.clone(), error.to_string()));
            }
        }
        for (key, error) in refused {
            hooks.remove(&key);
            let is_guard = !["request_headers", "response_headers", "rewrite", "retry"]
                .contains(&key.as_str());
            if is_guard {
                closed(501, hooks);
            }
            let (place, note) =
                (self.groups_place(), table.notes.first().cloned().unwrap_or_default());
            let what = format!("hooks.{key} of {note}");
            self.draft.untaken(&place, what, error, "write it by hand");
        }
    }

    fn groups_place(&self) -> super::super::draft::Place {
        super::super::draft::Place { file: self.folder.to_string_lossy().into(), line: 0 }
    }
}

/// An answer that says no.
fn shut(status: u16) -> Body {
    let mut body = Body::default();
    closed(status, &mut body.hooks);
    body
}

fn takes(args: &[String]) -> Result<Takes, String> {
    let (kind, path) = match args {
        [kind, path] => (kind.as_str(), path.as_str()),
        [glued] => {
            let kinds = ["~*", "^~", "=", "~"];
            let kind = kinds.into_iter().find(|kind| glued.starts_with(kind)).unwrap_or_default();
            (kind, &glued[kind.len()..])
        }
        _ => return Err("it is no location".to_owned()),
    };
    if let "~" | "~*" = kind {
        let text = if kind == "~*" { format!("(?i){path}") } else { path.to_owned() };
        return match pattern(&text) {
            Ok(_) => Ok(Takes::Pattern(text)),
            Err(expected) => Err(format!("it is not {expected}")),
        };
    }
    if !is_path(path) {
        return Err("a path begins with / and has no space, ? or #".to_owned());
    }
    let path = path.to_owned();
    match kind {
        "" => Ok(Takes::Prefix { path, is_final: false }),
        "^~" => Ok(Takes::Prefix { path, is_final: true }),
        "=" => Ok(Takes::Exact(path)),
        _ => Err("it is no kind of location".to_owned()),
    }
}

/// nginx sends who asks for a proxied `/api/` without its last slash there.
fn slashes<'t>(
    locations: &mut Vec<Location>,
    found: &mut Vec<Found<'t>>,
    bodies: &mut Vec<Body>,
    scope: &Scope<'t>,
) {
    let mut more = Vec::new();
    for (index, location) in locations.iter().enumerate() {
        let Takes::Prefix { path, .. } = &location.takes else { continue };
        let Some(bare) = path.strip_suffix('/').filter(|bare| !bare.is_empty()) else { continue };
        let is_taken = locations.iter().any(|other| match &other.takes {
            Takes::Exact(path) | Takes::Prefix { path, .. } => path == bare,
            Takes::Pattern(_) => false,
        });
        if bodies[index].is_proxied && !is_taken {
            more.push((index, bare.to_owned()));
        }
    }
    for (index, bare) in more {
        let to = format!("{}/?${{query}}", bare.replace('$', "$$"));
        let mut body = Body::default();
        body.hooks.insert("redirect".to_owned(), json!({ "to": to, "status": 301 }));
        locations.push(Location { takes: Takes::Exact(bare), parent: None });
        found.push(Found { directive: found[index].directive, scope: scope.clone() });
        bodies.push(body);
    }
}

/// Puts `path` in place of what the location took.
fn place(
    takes: &Takes,
    chosen: &Chosen,
    path: &str,
    table: &mut Table,
    hooks: &mut Map<String, Json>,
) {
    let to = path.replace('$', "$$");
    let (regex, replacement) = match takes {
        Takes::Prefix { path: own, .. } if own == path => return,
        Takes::Prefix { path: own, .. } if path == "/" && own.ends_with('/') && !chosen.is_rest => {
            return table.set("strip_prefix", true);
        }
        // What is left of the path begins with a slash already.
        Takes::Prefix { path: own, .. } if path.ends_with('/') && !own.ends_with('/') => {
            (format!("^{}/*(.*)$", regex::escape(own)), format!("{to}${{1}}"))
        }
        Takes::Prefix { path: own, .. } => {
            (format!("^{}(.*)$", regex::escape(own)), format!("{to}${{1}}"))
        }
        Takes::Exact(_) | Takes::Pattern(_) => ("^.*$".to_owned(), to),
    };
    hooks.insert("rewrite".to_owned(), json!({ "regex": regex, "replacement": replacement }));
}
