//! Upstreams: those that have a block, and those that a `proxy_pass` names by their address.
//!
//! In goes where a location sends its requests, and with what; out comes the name of an upstream
//! of the draft that does this. One block becomes several upstreams where its locations ask for
//! different things: the Host of an origin, TLS, the version of HTTP.

use serde_json::{Map, Value as Json, json};

use super::super::draft::{Draft, Table};
use super::super::values::{bytes, millis, name, time};
use super::lexer::Directive;

/// Where requests go.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    /// The name of a block, or `host:port`, or `unix:` and a path.
    pub(super) target: String,
    pub(super) is_tls: bool,
    pub(super) http: Option<&'static str>,
    /// `upstream.host`; `None` is the name that nginx sends by itself.
    pub(super) host: Option<String>,
    pub(super) tls: Map<String, Json>,
    pub(super) maps_location: bool,
}

/// A `proxy_pass`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) target: String,
    pub(super) is_tls: bool,
    pub(super) is_grpc: bool,
    /// In place of what the location took.
    pub(super) path: Option<String>,
}

impl Pass {
    pub(super) fn parse(text: &str, is_grpc: bool) -> Result<Self, &'static str> {
        let text = text.strip_suffix("$request_uri").unwrap_or(text);
        if text.contains('$') {
            return Err("where it goes is known only when a request is there");
        }
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None if is_grpc => ("grpc".to_owned(), text),
            None => return Err("it is no URL"),
        };
        let (is_tls, is_grpc) = match scheme.as_str() {
            "http" => (false, is_grpc),
            "https" => (true, is_grpc),
            "grpc" => (false, true),
            "grpcs" => (true, true),
            _ => return Err("an origin is asked by http:// or https://"),
        };
        let (target, path) = match rest.strip_prefix("unix:") {
            Some(socket) => {
                let (socket, path) = match socket.split_once(':') {
                    Some((socket, path)) => (socket, Some(path)),
                    None => (socket, None),
                };
                (format!("unix:{socket}"), path.filter(|path| !path.is_empty()))
            }
            None => match rest.find('/') {
                Some(slash) => (rest[..slash].to_owned(), Some(&rest[slash..])),
                None => (rest.to_owned(), None),
            },
        };
        let path = path.map(str::to_owned);
        if target.is_empty() || target == "unix:" {
            return Err("it names no host");
        }
        Ok(Self { target, is_tls, is_grpc, path })
    }
}

pub(super) struct Groups<'t> {
    blocks: Vec<&'t Directive>,
    made: Vec<(Wanted, String)>,
}

impl<'t> Groups<'t> {
    pub(super) fn new(http: &'t [Directive]) -> Self {
        let blocks = http.iter().filter(|it| it.name == "upstream").collect();
        Self { blocks, made: Vec::new() }
    }

    /// The name of the upstream that does what is wanted.
    pub(super) fn name_of(&mut self, wanted: Wanted, draft: &mut Draft) -> Option<String> {
        if let Some((_, name)) = self.made.iter().find(|(known, _)| *known == wanted) {
            return Some(name.clone());
        }
        let block = self.blocks.iter().find(|it| it.arg(0) == wanted.target).copied();
        let mut table = Table::default();
        let own = self.free_name(&wanted.target);
        table.set("name", own.clone());
        match block {
            Some(block) => {
                table.notes.push(format!("{}: {}", block.place, block.shown()));
                members(block, wanted.is_tls, &mut table, draft)?;
            }
            None => table.set("origins", json!([origin(&wanted.target, wanted.is_tls)?])),
        }
        let host = match (&wanted.host, block) {
            (Some(host), _) => host.clone(),
            // What nginx sends where nothing is said: the name of the block, or of the host.
            (None, Some(_)) => wanted.target.clone(),
            (None, None) => "origin".to_owned(),
        };
        if host != "pass" {
            table.set("host", host);
        }
        if let Some(http) = wanted.http {
            table.set("http", http);
        }
        if !wanted.tls.is_empty() {
            table.set("tls", Json::Object(wanted.tls.clone()));
        }
        if wanted.maps_location {
            table.set("map_location", true);
        }
        draft.upstreams.push(table);
        self.made.push((wanted, own.clone()));
        Some(own)
    }

    fn free_name(&self, target: &str) -> String {
        let wanted = name(target.strip_prefix("unix:/").unwrap_or(target));
        let is_free = |name: &str| self.made.iter().all(|(_, known)| known != name);
        let numbered = (2..).map(|number| format!("{wanted}-{number}"));
        let mut all = std::iter::once(wanted.clone()).chain(numbered);
        all.find(|name| is_free(name)).unwrap_or(wanted)
    }

    /// A block that nobody asks is an upstream all the same.
    pub(super) fn keep_unasked(&mut self, draft: &mut Draft) {
        for block in self.blocks.clone() {
            if !self.made.iter().any(|(known, _)| known.target == block.arg(0)) {
                let host = Some("pass".to_owned());
                let target = block.arg(0).to_owned();
                let wanted = Wanted { target, host, ..Wanted::plain() };
                let _ = self.name_of(wanted, draft);
            }
        }
    }
}

impl Wanted {
    pub(super) fn plain() -> Self {
        let (target, tls) = (String::new(), Map::new());
        Self { target, is_tls: false, http: None, host: None, tls, maps_location: false }
    }
}

/// A URL, or `None` where the text can be none.
fn origin(target: &str, is_tls: bool) -> Option<String> {
    if target.starts_with("unix:") {
        return (!is_tls && target.starts_with("unix:/")).then(|| target.to_owned());
    }
    let scheme = if is_tls { "https" } else { "http" };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    target.bytes().all(is_plain).then(|| format!("{scheme}://{target}"))
}

/// The servers of a block, and how they are chosen.
fn members(block: &Directive, is_tls: bool, table: &mut Table, draft: &mut Draft) -> Option<()> {
    let mut origins = Vec::new();
    let mut fail_timeouts = Vec::new();
    for directive in block.block() {
        if directive.name == "server" {
            origins.extend(member(directive, is_tls, &mut fail_timeouts, draft));
        } else {
            choice(directive, table, draft);
        }
    }
    if origins.is_empty() {
        let why = "it has no server that ringway can ask";
        draft.untaken(&block.place, block.shown(), why, "write its origins");
        return None;
    }
    table.set("origins", origins);
    fail_timeouts.sort_unstable();
    fail_timeouts.dedup();
    match fail_timeouts.as_slice() {
        [] => {}
        [only] => table.set("fail_timeout", if *only == 0 { "0s".to_owned() } else { time(*only) }),
        [.., longest] => {
            let why = "an upstream has one fail_timeout, and the longest was taken";
            draft.untaken(&block.place, "fail_timeout", why, "split the upstream if it matters");
            table.set("fail_timeout", time(*longest));
        }
    }
    Some(())
}

fn member(
    directive: &Directive,
    is_tls: bool,
    fail_timeouts: &mut Vec<u64>,
    draft: &mut Draft,
) -> Option<Json> {
    let address = directive.arg(0);
    let has_port = address.starts_with("unix:")
        || address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { address.to_owned() } else { format!("{address}:80") };
    let url = origin(&address, is_tls);
    let is_down = directive.args.iter().any(|arg| arg == "down");
    let Some(url) = url.filter(|_| !is_down) else {
        let (why, cure) = if is_down {
            ("it is marked as down", "add it when it is up, or `ringway upstreams` it down")
        } else {
            ("an origin is a host and a port, or a Unix socket", "write its URL")
        };
        draft.untaken(&directive.place, directive.shown(), why, cure);
        return None;
    };
    let mut more = Map::new();
    let mut is_failing_never = false;
    for arg in directive.args.iter().skip(1) {
        let (key, value) = arg.split_once('=').unwrap_or((arg, ""));
        match key {
            "weight" => match value.parse::<u32>() {
                Ok(weight @ 1..=1000) => drop(more.insert("weight".to_owned(), weight.into())),
                _ => draft.untaken(&directive.place, arg, "a weight is 1 to 1000", "scale them"),
            },
            "backup" => drop(more.insert("priority".to_owned(), 1.into())),
            "max_conns" => match value.parse::<u64>() {
                Ok(0) => {}
                Ok(count @ 1..=1_000_000) => {
                    more.insert("max_connections".to_owned(), count.into());
                }
                _ => draft.untaken(&directive.place, arg, "it is no such count", "set it by hand"),
            },
            "fail_timeout" => {
                fail_timeouts.extend(millis(value, 1_000).map(|ms| ms.min(3_600_000)));
            }
            "max_fails" if value == "0" => is_failing_never = true,
            "max_fails" if value != "1" => {
                let why = "an origin is passed over at its first failure to connect";
                let cure = "nothing, or see upstream.eject for failures of other kinds";
                draft.untaken(&directive.place, arg, why, cure);
            }
            "max_fails" | "resolve" => {}
            _ => {
                draft.untaken(
                    &directive.place,
                    arg,
                    "there is no such key",
                    "see upstream.origins",
                );
            }
        }
    }
    if is_failing_never {
        fail_timeouts.clear();
        fail_timeouts.push(0);
    }
    if more.is_empty() {
        return Some(url.into());
    }
    more.insert("url".to_owned(), url.into());
    Some(Json::Object(more))
}

/// How one of the servers is chosen, and what is kept for them.
fn choice(directive: &Directive, table: &mut Table, draft: &mut Draft) {
    match directive.name.as_str() {
        "least_conn" => table.set("balance", "least_connections"),
        "least_time" => table.set("balance", "p2c_ewma"),
        "random" => {
            table.set("balance", if directive.arg(0) == "two" { "p2c_ewma" } else { "random" });
        }
        "ip_hash" => table.set("balance", "consistent_hash"),
        "hash" => {
            if let Some(key) = hash_key(directive.arg(0)) {
                table.set("balance", "consistent_hash");
                table.set("hash", key);
            } else {
                let why = "a hash is of the client, the path, a field or a cookie";
                draft.untaken(&directive.place, directive.shown(), why, "choose upstream.hash");
            }
        }
        "keepalive" => match bytes(directive.arg(0)).filter(|count| *count <= 1_000_000) {
            Some(count) => table.set("max_idle", count),
            None => {
                draft.untaken(
                    &directive.place,
                    directive.shown(),
                    "it is no count",
                    "set max_idle",
                );
            }
        },
        "zone" | "keepalive_requests" | "keepalive_time" | "keepalive_timeout" | "resolver"
        | "resolver_timeout" => {
            let why = "workers share what they know of origins, and learn when those close";
            draft.unneeded(&directive.place, &directive.name, why);
        }
        "sticky" => {
            let why = "ringway's own cookie has another form";
            draft.untaken(&directive.place, directive.shown(), why, "set upstream.sticky");
        }
        _ => {
            let why = "upstreams have no such key";
            draft.untaken(&directive.place, directive.shown(), why, "see docs/reference/keys.md");
        }
    }
}

fn hash_key(text: &str) -> Option<String> {
    let name = text.strip_prefix('$')?;
    let is_name = |name: &str| name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
    if !is_name(name) {
        return None;
    }
    if let Some(cookie) = name.strip_prefix("cookie_") {
        return Some(format!("cookie:{cookie}"));
    }
    match name {
        "remote_addr" | "binary_remote_addr" => Some("client".to_owned()),
        "uri" | "request_uri" | "document_uri" => Some("path".to_owned()),
        "host" | "http_host" => Some("header:host".to_owned()),
        name => {
            let field = name.strip_prefix("http_")?;
            Some(format!("header:{}", field.replace('_', "-")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_location_sends_its_requests_is_taken_apart() {
        let pass = |text| Pass::parse(text, false).map(|it| (it.target, it.is_tls, it.path));
        for (text, expected) in [
            ("http://app", Ok(("app", false, None))),
            ("https://app:8443/base/", Ok(("app:8443", true, Some("/base/")))),
            ("http://unix:/run/a.sock:/x", Ok(("unix:/run/a.sock", false, Some("/x")))),
            ("http://unix:/run/a.sock", Ok(("unix:/run/a.sock", false, None))),
            ("http://app$request_uri", Ok(("app", false, None))),
            ("http://$app", Err(())),
            ("app", Err(())),
            ("ftp://app", Err(())),
            ("http:///x", Err(())),
        ] {
            let expected = expected.map(|(target, tls, path): (&str, bool, Option<&str>)| {
                (target.to_owned(), tls, path.map(str::to_owned))
            });
            assert_eq!(pass(text).map_err(drop), expected, "{text}");
        }
    }
}
