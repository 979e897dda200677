//! Who is let in: addresses, passwords, rates, methods, sizes.
//!
//! In go the directives that hold for a location; out come the hooks that refuse what they refuse.
//! What cannot be said exactly is said more strictly, or the location is closed: an import never
//! opens what was shut.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::super::draft::Draft;
use super::super::values::{bytes, network, size};
use super::lexer::Directive;
use super::scope::Scope;

/// nginx's own, where nothing is said.
const BODY_BYTES: u64 = 1 << 20;

/// Zones of limits, by their names.
pub(super) struct Zones {
    requests: Vec<(String, String, String)>,
    connections: Vec<String>,
    /// The largest body that any location takes; 0 is any.
    pub(super) body_bytes: u64,
}

impl Zones {
    pub(super) fn new(http: &[Directive], draft: &mut Draft) -> Self {
        let mut zones = Self { requests: Vec::new(), connections: Vec::new(), body_bytes: 0 };
        for directive in http {
            let word = |start: &str| {
                directive.args.iter().find_map(|arg| arg.strip_prefix(start)).unwrap_or_default()
            };
            let name = word("zone=").split(':').next().unwrap_or_default().to_owned();
            match directive.name.as_str() {
                "limit_req_zone" => {
                    if let (Some(key), Some(rate)) =
                        (rate_key(directive.arg(0)), rate(word("rate=")))
                    {
                        zones.requests.push((name, key, rate));
                    } else {
                        let why = "clients are told apart by address, field or route";
                        draft.untaken(
                            &directive.place,
                            directive.shown(),
                            why,
                            "write hooks.rate_limit",
                        );
                    }
                }
                "limit_conn_zone" if rate_key(directive.arg(0)).as_deref() == Some("ip") => {
                    zones.connections.push(name);
                }
                "limit_conn_zone" => {
                    let why = "connections are counted by the client's address";
                    draft.untaken(
                        &directive.place,
                        directive.shown(),
                        why,
                        "see upstream.max_connections",
                    );
                }
                _ => {}
            }
        }
        let mut all = Vec::new();
        sizes(http, &mut all);
        if !http.iter().any(|it| it.name == "client_max_body_size") {
            all.push(BODY_BYTES);
        }
        zones.body_bytes = if all.contains(&0) { 0 } else { all.into_iter().max().unwrap_or(0) };
        zones
    }
}

fn sizes(directives: &[Directive], found: &mut Vec<u64>) {
    for directive in directives {
        if directive.name == "client_max_body_size" {
            found.extend(bytes(directive.arg(0)));
        }
        sizes(directive.block(), found);
    }
}

fn rate_key(text: &str) -> Option<String> {
    match text {
        "$binary_remote_addr" | "$remote_addr" => Some("ip".to_owned()),
        "$server_name" | "$host" | "$http_host" => Some("route".to_owned()),
        text => {
            let field = text.strip_prefix("$http_")?;
            let is_name = field.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
            is_name.then(|| format!("header:{}", field.replace('_', "-")))
        }
    }
}

fn rate(text: &str) -> Option<String> {
    let (count, unit) = text.split_once("r/")?;
    let count: u32 = count.parse().ok().filter(|count| (1..=1_000_000).contains(count))?;
    matches!(unit, "s" | "m").then(|| format!("{count}/{unit}"))
}

/// What a location refuses. Hooks that `closed` was put into are those of a location that nobody
/// gets into.
pub(super) fn guards(
    scope: &Scope<'_>,
    zones: &Zones,
    folder: &Path,
    draft: &mut Draft,
) -> Map<String, Json> {
    let mut hooks = Map::new();
    access(&scope.all(&["allow", "deny"]), &mut hooks, draft);
    login(scope, folder, &mut hooks, draft);
    rates(scope, zones, &mut hooks, draft);
    methods(scope, &mut hooks, draft);
    let wanted = scope.last("client_max_body_size").and_then(|it| bytes(it.arg(0)));
    let wanted = wanted.unwrap_or(BODY_BYTES);
    if wanted != zones.body_bytes {
        hooks.insert("body_bytes".to_owned(), size(wanted));
    }
    hooks
}

/// An answer that says no, whatever is asked.
pub(super) fn closed(status: u16, hooks: &mut Map<String, Json>) {
    hooks.insert("respond".to_owned(), json!({ "status": status }));
}

fn access(rules: &[&Directive], hooks: &mut Map<String, Json>, draft: &mut Draft) {
    let (mut allow, mut deny): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut is_open = true;
    for rule in rules {
        let is_allowed = rule.name == "allow";
        if rule.arg(0) == "all" {
            is_open = is_allowed;
            break;
        }
        let Some(network) = network(rule.arg(0)) else {
            let why = "it is no network";
            let cure = "name networks in hooks.allow or hooks.deny; what it let in is refused";
            draft.untaken(&rule.place, rule.shown(), why, cure);
            if !is_allowed {
                return closed(403, hooks);
            }
            continue;
        };
        if is_allowed {
            allow.push(network);
        } else {
            if !allow.is_empty() {
                let why = "hooks.deny is asked before hooks.allow, whatever the order here";
                let cure = "see whether somebody who is let in above it is refused now";
                draft.untaken(&rule.place, rule.shown(), why, cure);
            }
            deny.push(network);
        }
    }
    if !deny.is_empty() {
        hooks.insert("deny".to_owned(), deny.into());
    }
    match (is_open, allow.is_empty()) {
        (true, _) => {}
        (false, true) => closed(403, hooks),
        (false, false) => drop(hooks.insert("allow".to_owned(), allow.into())),
    }
}

fn login(scope: &Scope<'_>, folder: &Path, hooks: &mut Map<String, Json>, draft: &mut Draft) {
    if let Some(satisfy) = scope.last("satisfy").filter(|it| it.arg(0) == "any") {
        let why = "a request has to pass every guard here";
        let cure = "make two routes, of which one has the condition `clients`";
        draft.untaken(&satisfy.place, satisfy.shown(), why, cure);
    }
    let Some(auth) = scope.last("auth_basic").filter(|it| it.arg(0) != "off") else { return };
    let Some(file) = scope.last("auth_basic_user_file").filter(|it| !it.arg(0).contains('$'))
    else {
        let why = "there is no file of users beside it";
        draft.untaken(&auth.place, auth.shown(), why, "name one in hooks.basic_auth");
        return closed(403, hooks);
    };
    let users_file = folder.join(file.arg(0)).to_string_lossy().into_owned();
    let is_plain = |c: char| c.is_ascii_graphic() && !"\"\\".contains(c) || c == ' ';
    let realm: String = auth.arg(0).chars().filter(|c| is_plain(*c)).collect();
    let mut table = json!({ "users_file": users_file });
    if !realm.trim().is_empty() {
        table["realm"] = realm.into();
    }
    hooks.insert("basic_auth".to_owned(), table);
    let why = "passwords are read as bcrypt or argon2, and htpasswd's others are refused";
    let cure = "make the lines anew where `ringway check` says so: htpasswd -B";
    draft.untaken(&file.place, file.shown(), why, cure);
}

fn rates(scope: &Scope<'_>, zones: &Zones, hooks: &mut Map<String, Json>, draft: &mut Draft) {
    for limit in scope.all(&["limit_req"]) {
        let word = |start: &str| limit.args.iter().find_map(|arg| arg.strip_prefix(start));
        let zone = zones.requests.iter().find(|(name, ..)| Some(name.as_str()) == word("zone="));
        let Some((_, key, rate)) = zone else {
            let why = "its zone was not taken";
            draft.untaken(&limit.place, limit.shown(), why, "write hooks.rate_limit");
            continue;
        };
        let hook = match hooks.contains_key("rate_limit") {
            true if key == "ip" => "address_rate_limit",
            true => {
                let why = "there is one rate_limit beside that by address";
                draft.untaken(&limit.place, limit.shown(), why, "choose one of them");
                continue;
            }
            false => "rate_limit",
        };
        // nginx lets the first one through beside the burst.
        let burst = word("burst=").and_then(|burst| burst.parse::<u64>().ok()).unwrap_or(0) + 1;
        let table = json!({ "key": key, "rate": rate, "burst": burst.min(1_000_000) });
        hooks.insert(hook.to_owned(), table);
        if burst > 1 && !limit.args.iter().any(|arg| arg == "nodelay") {
            let why = "requests beyond the rate are not held back, but let through up to the burst";
            draft.untaken(
                &limit.place,
                limit.shown(),
                why,
                "lower hooks.rate_limit.burst if it matters",
            );
        }
    }
    for limit in scope.all(&["limit_conn"]) {
        let count = limit.arg(1).parse::<u64>().ok().filter(|it| (1..=1_000_000).contains(it));
        if let Some(count) =
            count.filter(|_| zones.connections.iter().any(|zone| zone == limit.arg(0)))
        {
            drop(hooks.insert("connections_per_client".to_owned(), count.into()));
        } else {
            let why = "its zone was not taken";
            draft.untaken(&limit.place, limit.shown(), why, "see hooks.connections_per_client");
        }
    }
}

fn methods(scope: &Scope<'_>, hooks: &mut Map<String, Json>, draft: &mut Draft) {
    let Some(except) = scope.own("limit_except") else { return };
    let mut methods = except.args.clone();
    if methods.iter().any(|method| method == "GET") && !methods.iter().any(|it| it == "HEAD") {
        methods.push("HEAD".to_owned());
    }
    hooks.insert("methods".to_owned(), methods.into());
    let is_deny_all =
        matches!(except.block(), [only] if only.name == "deny" && only.arg(0) == "all");
    if !is_deny_all {
        let why = "other methods are refused for everybody";
        let cure = "make a second route with the condition `methods`";
        draft.untaken(&except.place, except.shown(), why, cure);
    }
}
