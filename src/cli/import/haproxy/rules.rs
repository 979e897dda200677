//! The rules of frontends, as routes.
//!
//! In go frontends with their rules in haproxy's order; out come routes that are asked in the same
//! order. Where the order of routes by itself, the longest path first, would be another, each rule
//! becomes a pattern, and patterns are asked in the order of the file.

use serde_json::{Map, Value as Json, json};

use super::super::choice::Takes;
use super::super::draft::{Draft, Place, Table};
use super::super::values::name;
use super::backend::upstream_of;
use super::conditions::{Wanted, wanted, widened};
use super::fields::{edits, is_own};
use super::frontend::is_redirect;
use super::sections::{Line, Section};

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    Upstream(String),
    Hook(&'static str, Json),
}

#[derive(Clone, Debug)]
struct Rule {
    wanted: Wanted,
    action: Action,
    place: Place,
    shown: String,
}

pub(super) fn routes(faces: &[&Section], backends: &[&Section], draft: &mut Draft) {
    let mut hosts_taken: Vec<String> = Vec::new();
    for (index, face) in faces.iter().enumerate() {
        let rules = rules(face, backends, draft);
        let hooks = edits(face, draft);
        let mut hosts: Vec<String> = Vec::new();
        for host in rules.iter().filter_map(|rule| rule.wanted.host.clone()) {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        // Whoever asks for no host of a rule.
        hosts.push(String::new());
        for host in hosts {
            if hosts_taken.contains(&host) {
                let is_only_a_redirect = face.all().any(is_redirect);
                if !is_only_a_redirect || rules.len() > 1 {
                    let shown = if host.is_empty() { "any other host" } else { host.as_str() };
                    let what = format!("{} {}, for {shown}", face.kind, face.name);
                    let why = "a frontend above it has that host, and routes do not know listeners";
                    draft.untaken(&face.place, what, why, "run a second ringway for its port");
                }
                continue;
            }
            let is_last_hope = index + 1 < faces.len() && face.all().any(is_redirect);
            if is_last_hope && rules.iter().all(|rule| rule.shown.is_empty()) {
                continue;
            }
            of_host(&host, &rules, &hooks, backends, draft);
            hosts_taken.push(host);
        }
    }
}

/// In haproxy's order: what refuses and redirects before what chooses a backend.
fn rules(face: &Section, backends: &[&Section], draft: &mut Draft) -> Vec<Rule> {
    let mut early = Vec::new();
    let mut late = Vec::new();
    for line in face.all() {
        let is_backend = line.word(0) == "use_backend";
        let Some(action) = action(line, backends, draft) else { continue };
        let at = line.words.iter().position(|word| word == "if" || word == "unless");
        let alternatives = match at {
            None => Ok(vec![Wanted::default()]),
            Some(at) if line.word(at) == "if" => wanted(line.rest(at + 1), face),
            Some(_) => Err("a route does not ask what a request is not".to_owned()),
        };
        let alternatives = alternatives.and_then(|all| {
            let knows_tls = all.iter().any(|it| it.is_tls.is_some());
            if knows_tls {
                Err("a route does not know by which listener a request came".to_owned())
            } else {
                Ok(all)
            }
        });
        match alternatives {
            Ok(all) => {
                let rules = all.into_iter().map(|wanted| Rule {
                    wanted,
                    action: action.clone(),
                    place: line.place.clone(),
                    shown: line.shown(),
                });
                if is_backend { late.extend(rules) } else { early.extend(rules) }
            }
            Err(why) => early.extend(refused(line, at, &why, action, face, draft)),
        }
    }
    if let Some(uri) = face.last(&["monitor-uri"]) {
        let takes = Some(Takes::Exact(uri.word(1).to_owned()));
        let action = Action::Hook("respond", json!({ "status": 200 }));
        let wanted = Wanted { takes, ..Wanted::default() };
        early.insert(0, Rule { wanted, action, place: uri.place.clone(), shown: uri.shown() });
    }
    early.extend(late);
    early.push(last(face, backends, draft));
    early
}

fn redirect(line: &Line, words: &[String]) -> Option<Action> {
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    let status = line.after("code").and_then(|it| it.parse::<u16>().ok()).unwrap_or(302);
    let to = match word(1) {
        "location" => word(2).to_owned(),
        "prefix" => format!("{}${{target}}", word(2)),
        "scheme" => format!("{}://${{host}}${{target}}", word(2)),
        _ => String::new(),
    };
    let table = json!({ "to": to, "status": status });
    let is_good = !to.contains('%')
        && serde_json::from_value::<crate::config::RedirectConfig>(table.clone()).is_ok();
    is_good.then_some(Action::Hook("redirect", table))
}

fn answer(line: &Line) -> Option<Action> {
    let status = line.after("status").and_then(|it| it.parse::<u16>().ok()).unwrap_or(200);
    let body = line.after("string").unwrap_or_default();
    if ["file", "lf-file", "lf-string", "errorfile"].iter().any(|it| line.has(it)) {
        return None;
    }
    let mut table = json!({ "status": status, "body": body });
    if let Some(kind) = line.after("content-type") {
        table["content_type"] = kind.into();
    }
    let is_good = serde_json::from_value::<crate::config::RespondConfig>(table.clone()).is_ok();
    is_good.then_some(Action::Hook("respond", table))
}

/// Rules in place of one that routes cannot ask for: what it refused is refused to more, where
/// that leaves something to ask for.
fn refused(
    line: &Line,
    at: Option<usize>,
    why: &str,
    action: Action,
    face: &Section,
    draft: &mut Draft,
) -> Vec<Rule> {
    let is_refusal = matches!(line.word(1), "deny" | "tarpit" | "reject" | "silent-drop");
    let is_if = at.is_some_and(|at| line.word(at) == "if");
    let words = at.map_or(&[][..], |at| line.rest(at + 1));
    let wider = if is_refusal && is_if { widened(words, face) } else { Vec::new() };
    let cure = if wider.is_empty() {
        "write a route with what it means; a request that it is for goes on now"
    } else {
        "write hooks.allow or hooks.deny; what else it asks for is refused for everybody now"
    };
    draft.untaken(&line.place, line.shown(), why, cure);
    let (place, shown) = (line.place.clone(), line.shown());
    let rule = |wanted| Rule {
        wanted,
        action: action.clone(),
        place: place.clone(),
        shown: shown.clone(),
    };
    wider.into_iter().map(rule).collect()
}

/// What becomes of everything else.
fn last(face: &Section, backends: &[&Section], draft: &mut Draft) -> Rule {
    let line = face.last(&["default_backend"]);
    let own = upstream_of(backends, &face.name).filter(|_| face.kind == "listen");
    let named = line.and_then(|line| upstream_of(backends, line.word(1)));
    if let Some(line) = line.filter(|_| named.is_none()) {
        let why = "there is no such backend that was taken";
        draft.untaken(&line.place, line.shown(), why, "write its upstream; 503 is answered now");
    }
    let action = match named.or(own) {
        Some(upstream) => Action::Upstream(upstream),
        // So does haproxy.
        None => Action::Hook("respond", json!({ "status": 503 })),
    };
    let (place, shown) = match line {
        Some(line) => (line.place.clone(), line.shown()),
        None if matches!(action, Action::Upstream(_)) => {
            (face.place.clone(), format!("listen {}", face.name))
        }
        None => (face.place.clone(), String::new()),
    };
    Rule { wanted: Wanted::default(), action, place, shown }
}

fn action(line: &Line, backends: &[&Section], draft: &mut Draft) -> Option<Action> {
    let untaken = |draft: &mut Draft, why: &str, cure: &str| {
        draft.untaken(&line.place, line.shown(), why, cure);
        None
    };
    let words = match line.word(0) {
        "use_backend" => {
            let found = upstream_of(backends, line.word(1)).map(Action::Upstream);
            return found.or_else(|| {
                untaken(draft, "there is no such backend that was taken", "write its route")
            });
        }
        "http-request" => line.rest(1),
        "redirect" => line.rest(0),
        _ => return None,
    };
    let word = |index: usize| words.get(index).map_or("", String::as_str);
    match word(0) {
        "redirect" if is_redirect(line) => None,
        "redirect" => {
            let found = redirect(line, words);
            found.or_else(|| {
                untaken(draft, "where it leads cannot be said here", "write hooks.redirect")
            })
        }
        "deny" | "tarpit" | "reject" | "silent-drop" => {
            let status = ["deny_status", "status"]
                .iter()
                .find_map(|key| line.after(key)?.parse::<u16>().ok());
            let status = status.filter(|it| (200..600).contains(it)).unwrap_or(403);
            Some(Action::Hook("respond", json!({ "status": status })))
        }
        "return" => answer(line).or_else(|| {
            untaken(draft, "what is answered is in a file, or made anew", "write hooks.respond")
        }),
        // Those that hold for all requests are edits of fields.
        "set-header" | "add-header" if is_own(word(1), line) => {
            let why = "ringway tells origins so by itself";
            draft.unneeded(&line.place, &format!("http-request {} {}", word(0), word(1)), why);
            None
        }
        "set-header" | "add-header" | "del-header" if !line.has("if") && !line.has("unless") => {
            None
        }
        "set-log-level" | "set-var" | "capture" | "set-nice" | "allow" if !line.has("if") => {
            draft.unneeded(
                &line.place,
                &format!("http-request {}", word(0)),
                "it changes nothing that is sent",
            );
            None
        }
        _ => untaken(
            draft,
            "a request is not changed under a condition, nor in this way",
            "see docs/reference/hooks.md",
        ),
    }
}

/// The routes of one host.
fn of_host(
    host: &str,
    rules: &[Rule],
    hooks: &Map<String, Json>,
    backends: &[&Section],
    draft: &mut Draft,
) {
    let is_for = |rule: &&Rule| match &rule.wanted.host {
        None => true,
        Some(own) if own == host => true,
        Some(own) => !host.is_empty() && own.strip_prefix('*').is_some_and(|it| host.ends_with(it)),
    };
    let mut kept: Vec<&Rule> = Vec::new();
    for rule in rules.iter().filter(is_for) {
        if kept.iter().any(|before| shadows(&before.wanted, &rule.wanted)) {
            continue;
        }
        kept.push(rule);
    }
    let is_natural = kept.iter().all(|rule| {
        rule.wanted.count() == 0 && !matches!(rule.wanted.takes, Some(Takes::Pattern(_)))
    });
    let counts: Vec<usize> = kept.iter().map(|rule| rule.wanted.count()).collect();
    let count = counts.len().saturating_sub(1);
    if !is_natural && !counts[..count].is_sorted_by(|a, b| a >= b) {
        let rule = kept[0];
        let why = "of two routes that fit, the one with more conditions is asked first";
        let cure = "see by `ringway explain` whether the order is what was meant";
        draft.untaken(&rule.place, format!("the order of the rules for {host:?}"), why, cure);
    }
    for rule in kept {
        let mut table = Table::default();
        table.notes.push(format!("{}: {}", rule.place, rule.shown));
        if !host.is_empty() {
            table.set("host", host);
        }
        for (path, pattern) in
            paths(rule.wanted.takes.as_ref(), is_natural, rule.wanted == Wanted::default())
        {
            let mut table = table.clone();
            table.set("path", path);
            if let Some(pattern) = pattern {
                table.set("path_regex", pattern);
            }
            conditions(&rule.wanted, &mut table);
            let mut hooks = hooks.clone();
            match &rule.action {
                Action::Upstream(upstream) => {
                    table.set("upstream", upstream.as_str());
                    merge(&mut hooks, backends, upstream, draft);
                }
                Action::Hook(key, value) => {
                    // Filled in at the end: nobody is asked.
                    table.set("upstream", "");
                    hooks.remove("request_headers");
                    hooks.insert((*key).to_owned(), value.clone());
                }
            }
            if !hooks.is_empty() {
                table.set("hooks", Json::Object(hooks));
            }
            draft.routes.push(table);
        }
    }
}

/// Adds the edits of a backend to those of its frontend.
fn merge(hooks: &mut Map<String, Json>, backends: &[&Section], own: &str, draft: &mut Draft) {
    let section = backends.iter().find(|it| name(&it.name) == own);
    let Some(section) = section.filter(|it| it.kind == "backend") else { return };
    for (key, edits) in edits(section, draft) {
        let Json::Object(edits) = edits else { continue };
        let own = hooks.entry(key).or_insert_with(|| json!({}));
        for (kind, fields) in edits {
            match (own.get_mut(&kind), fields) {
                (Some(Json::Object(known)), Json::Object(more)) => known.extend(more),
                (Some(Json::Array(known)), Json::Array(more)) => known.extend(more),
                (_, fields) => own[&kind] = fields,
            }
        }
    }
}

/// Whether nothing that fits `later` gets past `before`.
fn shadows(before: &Wanted, later: &Wanted) -> bool {
    let is_plain = before.count() == 0;
    let takes = match (&before.takes, &later.takes) {
        (None, _) => true,
        (
            Some(Takes::Prefix { path, .. }),
            Some(Takes::Prefix { path: of, .. } | Takes::Exact(of)),
        ) => of.starts_with(path.as_str()),
        (Some(before), Some(later)) => before == later,
        (Some(_), None) => false,
    };
    is_plain && takes
}

/// The path and the pattern of each route that a rule takes.
fn paths(takes: Option<&Takes>, is_natural: bool, is_all: bool) -> Vec<(String, Option<String>)> {
    let root = || "/".to_owned();
    match takes {
        None if is_natural || is_all => vec![(root(), None)],
        // A pattern for all, so that it is asked in its turn.
        None => vec![(root(), Some("^/".to_owned()))],
        Some(Takes::Exact(path)) if is_natural => vec![(format!("={path}"), None)],
        Some(Takes::Prefix { path, .. }) if is_natural => {
            let mut all = vec![(path.clone(), None)];
            if let Some(slash) = path.rfind('/').filter(|_| !path.ends_with('/')) {
                all.push((path[..=slash].to_owned(), Some(format!("^{}", regex::escape(path)))));
            }
            all
        }
        Some(Takes::Exact(path)) => vec![(root(), Some(format!("^{}$", regex::escape(path))))],
        Some(Takes::Prefix { path, .. }) => {
            vec![(root(), Some(format!("^{}", regex::escape(path))))]
        }
        Some(Takes::Pattern(pattern)) => vec![(root(), Some(pattern.clone()))],
    }
}

fn conditions(wanted: &Wanted, table: &mut Table) {
    if !wanted.methods.is_empty() {
        table.set("methods", wanted.methods.clone());
    }
    if !wanted.headers.is_empty() {
        table.set("headers", json!(wanted.headers));
    }
    if !wanted.cookies.is_empty() {
        table.set("cookies", json!(wanted.cookies));
    }
    if !wanted.clients.is_empty() {
        table.set("clients", wanted.clients.clone());
    }
}
