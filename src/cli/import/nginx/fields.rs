//! Fields of requests and answers that are set, added and hidden.
//!
//! In go the directives that hold for a location; out come edits, and which Host its origins see.
//! What ringway tells origins by itself is set nowhere.

use serde_json::{Map, Value as Json, json};

use super::super::draft::Draft;
use super::lexer::Directive;
use super::scope::Scope;
use super::template::{Around, template};
use crate::config::hooks::is_editable;

/// Fields that concern one connection, or whose usual value ringway sends anyway.
const OWN: [(&str, &[&str]); 9] = [
    ("upgrade", &["$http_upgrade"]),
    ("x-forwarded-for", &["$proxy_add_x_forwarded_for", "$remote_addr"]),
    ("x-forwarded-proto", &["$scheme", "https", "http"]),
    ("x-forwarded-host", &["$host", "$http_host", "$server_name"]),
    ("x-forwarded-scheme", &["$scheme"]),
    ("x-real-ip", &["$remote_addr", "$realip_remote_addr"]),
    ("x-forwarded-port", &["$server_port"]),
    ("x-forwarded-ssl", &["on"]),
    ("te", &["$http_te", "trailers"]),
];

/// Keys of `server` that make ringway send such a field.
const ASKED_FOR: [(&str, &str); 3] = [
    ("x-real-ip", "add_real_ip"),
    ("x-forwarded-port", "add_forwarded_port"),
    ("x-forwarded-ssl", "add_forwarded_ssl"),
];

/// What origins see of a request: hooks, and `upstream.host` where something says it.
pub(super) fn request(
    scope: &Scope<'_>,
    around: Around<'_>,
    hooks: &mut Map<String, Json>,
    draft: &mut Draft,
) -> Option<String> {
    let (mut set, mut remove, mut host) = (Map::new(), Vec::new(), None);
    for directive in scope.all(&["proxy_set_header", "grpc_set_header"]) {
        let (name, value) = (directive.arg(0), directive.arg(1));
        let lower = name.to_ascii_lowercase();
        if lower == "host" {
            host = self::host(directive, around, draft);
            continue;
        }
        if is_quoted_answer(scope, directive) {
            continue;
        }
        if lower == "connection" {
            draft.unneeded(&directive.place, "proxy_set_header Connection", BY_ITSELF);
            continue;
        }
        let own = OWN.iter().find(|(known, _)| *known == lower);
        if own.is_some_and(|(_, usual)| usual.contains(&value)) {
            match ASKED_FOR.iter().find(|(known, _)| *known == lower) {
                Some((_, key)) => draft.set("server", key, true),
                None => {
                    draft.unneeded(
                        &directive.place,
                        &format!("proxy_set_header {name}"),
                        BY_ITSELF,
                    );
                }
            }
            continue;
        }
        if !is_editable(name) {
            let why = "this field is ringway's own";
            draft.untaken(
                &directive.place,
                directive.shown(),
                why,
                "nothing, if the origin is well",
            );
        } else if value.is_empty() {
            remove.push(name.to_owned());
        } else if let Some(value) = made(directive, value, around, draft) {
            set.insert(name.to_owned(), value.into());
        }
    }
    if !set.is_empty() || !remove.is_empty() {
        let mut edits = Map::new();
        if !remove.is_empty() {
            edits.insert("remove".to_owned(), remove.into());
        }
        if set.values().any(|value| value.as_str().is_some_and(|it| it.contains("${request_id}"))) {
            hooks.insert("request_id".to_owned(), json!({}));
        }
        if !set.is_empty() {
            edits.insert("set".to_owned(), Json::Object(set));
        }
        hooks.insert("request_headers".to_owned(), Json::Object(edits));
    }
    host
}

/// Whether `directive` sends the origin a field of an answer that `hooks.forward_auth` takes over.
fn is_quoted_answer(scope: &Scope<'_>, directive: &Directive) -> bool {
    let field = directive.arg(0).to_ascii_lowercase().replace('-', "_");
    let has_question = scope.last("auth_request").is_some_and(|it| it.arg(0) != "off");
    has_question
        && scope.all(&["auth_request_set"]).iter().any(|set| {
            let of = set.arg(1).strip_prefix("$upstream_http_").unwrap_or_default();
            set.arg(0) == directive.arg(1) && of.eq_ignore_ascii_case(&field)
        })
}

const BY_ITSELF: &str = "ringway tells origins so by itself (server.forwarded), and upgrades";

/// `upstream.host`.
fn host(directive: &Directive, around: Around<'_>, draft: &mut Draft) -> Option<String> {
    match directive.arg(1) {
        // The port of its listener beside it is hardly ever meant.
        "$host" | "$http_host" | "$host:$server_port" | "$http_host:$server_port" => {
            Some("pass".to_owned())
        }
        "$proxy_host" | "" => None,
        "$server_name" => around.name.map(str::to_owned),
        literal if !literal.contains('$') => Some(literal.to_owned()),
        _ => {
            let why = "the Host of an origin is the client's, the origin's or a fixed one";
            draft.untaken(
                &directive.place,
                directive.shown(),
                why,
                "choose upstream.host; it passes now",
            );
            Some("pass".to_owned())
        }
    }
}

/// What clients see of an answer.
pub(super) fn answer(
    scope: &Scope<'_>,
    around: Around<'_>,
    hooks: &mut Map<String, Json>,
    draft: &mut Draft,
) {
    let mut add: Map<String, Json> = Map::new();
    for directive in scope.all(&["add_header"]) {
        let name = directive.arg(0);
        if directive.arg(1).is_empty() {
            continue;
        }
        if !is_editable(name) {
            let why = "this field is ringway's own";
            draft.untaken(&directive.place, directive.shown(), why, "leave it to the origin");
        } else if add.keys().any(|known| known.eq_ignore_ascii_case(name)) {
            let why = "a field is added once";
            draft.untaken(
                &directive.place,
                directive.shown(),
                why,
                "join the values, or leave one to the origin",
            );
        } else if let Some(value) = made(directive, directive.arg(1), around, draft) {
            add.insert(name.to_owned(), value.into());
        }
    }
    let hidden = scope.all(&["proxy_hide_header", "grpc_hide_header"]);
    let hidden = hidden.into_iter().map(|it| it.arg(0)).filter(|name| is_editable(name));
    let hidden: Vec<String> = hidden.map(str::to_owned).collect();
    let mut edits = Map::new();
    if !hidden.is_empty() {
        edits.insert("remove".to_owned(), hidden.into());
    }
    if !add.is_empty() {
        edits.insert("add".to_owned(), Json::Object(add));
    }
    if !edits.is_empty() {
        hooks.insert("response_headers".to_owned(), Json::Object(edits));
    }
}

fn made(
    directive: &Directive,
    value: &str,
    around: Around<'_>,
    draft: &mut Draft,
) -> Option<String> {
    match template(value, around) {
        Ok(value) => Some(value),
        Err(name) => {
            let why = format!("there is no variable {name} here");
            draft.untaken(
                &directive.place,
                directive.shown(),
                why,
                "see docs/reference/hooks.md for those that are",
            );
            None
        }
    }
}
