//! Where requests go: `[[upstream]]` and `[[route]]`.
//!
//! In: TOML, JSON and texts, by way of serde. Out: groups of origins, and which requests go to
//! which of them. Names are compared here and never resolved.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access_when::{AccessWhen, When};
use super::conditions::{CookieIs, FieldIs, ParameterIs, Pattern};
use super::health::{EjectConfig, HashBy, HashKey, HealthConfig, Policy};
use super::hooks::{Method, hooks_table};
use super::kinds::own::{File, Name, NetworkList};
use super::kinds::plain::{Count, OneOf, Size, UpToAnHour, Whole, Word, Words};
use super::kinds::{
    As, FilledList, List, Members, Optional, Switched, millis, some_table, text_kind,
};
use super::names::{
    HOST_POLICY_FORM, ROUTE_HOST_FORM, ROUTE_PATH_FORM, host_pattern, is_route_path,
    split_authority,
};
use super::origins::{Origin, OriginConfig};
use super::scope::UpstreamName;
use super::sticky::StickyConfig;
use super::timeouts::OwnTimeouts;
use super::tls::UpstreamTlsConfig;
use super::{HooksConfig, Networks};
use crate::proxy_protocol::Version;

text_kind!(
    Host: HostPolicy,
    |text| match text {
        "pass" => Ok(HostPolicy::Pass),
        "origin" => Ok(HostPolicy::Origin),
        fixed if split_authority(fixed).is_some() => Ok(HostPolicy::Fixed(fixed.to_owned())),
        _ => Err(HOST_POLICY_FORM.to_owned()),
    },
    |host| match host {
        HostPolicy::Pass => "pass".to_owned(),
        HostPolicy::Origin => "origin".to_owned(),
        HostPolicy::Fixed(host) => host.clone(),
    }
);
impl Words for Version {
    const WORDS: &'static [(&'static str, Self)] = &[("v1", Self::V1), ("v2", Self::V2)];
}
text_kind!(RouteHost: HostPattern = host_pattern, ROUTE_HOST_FORM);
text_kind!(
    /// "demo".
    Builtin: bool,
    |text| (text == "demo").then_some(true).ok_or_else(|| "\"demo\"".to_owned()),
    |_| "demo".to_owned()
);
text_kind!(
    /// A path and what is below it.
    Prefix: String,
    |text| match text.strip_suffix('*').filter(|prefix| is_route_path(prefix)) {
        Some(prefix) => {
            let plain = prefix.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(prefix);
            Err(format!("a prefix, which holds for all that is below it: write {plain:?}"))
        }
        None if is_route_path(text.strip_prefix('=').unwrap_or(text)) => Ok(text.to_owned()),
        None => Err(ROUTE_PATH_FORM.to_owned()),
    },
    Clone::clone
);
/// Upstreams: groups of origins that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct UpstreamConfig {
    /// Unique: 1 to 64 letters, digits, "-", "_" or ".".
    #[serde(with = "As::<Name>")]
    #[schemars(extend("x-reload" = "drain"))]
    pub name: String,
    /// "demo" is a small HTTP server inside ringway, on a loopback port. Excludes `origins`.
    // Its address is known only once it has started: see `Config::place_demo`.
    #[serde(rename = "builtin", default, with = "As::<Builtin>")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(extend("x-reload" = "drain"))]
    pub is_demo: bool,
    /// Where requests are sent, instead of the demo: "http://HOST:PORT", "https://HOST:PORT",
    /// "unix:/PATH" or, for all servers of a service that DNS has as SRV records,
    /// "srv+http://_http._tcp.NAME" each, with a path where all of its paths begin with that; or a table { url =
    /// "...", weight = 3, priority = 1, zone = "a" } with a weight from 1 (the default) to 1000;
    /// priority 1 is asked when nobody of 0 can be, and another zone than server.zone when too few
    /// of that can.
    #[serde(default, with = "FilledList::<Origin>", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-reload" = "drain", "x-example" = "[\"http://10.0.0.1:8080\", \
        { url = \"http://b.example:8080\", weight = 3 }]"))]
    pub origins: Vec<OriginConfig>,
    /// A file with more of them, origins = [...] in TOML, or the same in JSON where its name ends
    /// in .json. A change of it is followed; one that is wrong or missing changes nothing.
    #[serde(default, with = "Optional::<File>", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-reload" = "drain", "x-example" = "\"origins.toml\""))]
    pub file: Option<PathBuf>,
    // Origins of the file, or of containers.
    #[serde(skip)]
    pub found: Vec<OriginConfig>,
    // Nobody has configured it.
    #[serde(skip)]
    pub is_found: bool,
    /// The Host field that the origin sees: "pass" is the client's, "origin" the origin's own
    /// ("localhost" where that is a Unix socket), anything else is sent as it is.
    #[serde(default, with = "As::<Host>")]
    pub host: HostPolicy,
    /// Who is asked next: "round_robin", by weight; "least_connections", who has the fewest
    /// requests; "p2c_ewma", of two at random the one that promises to answer sooner;
    /// "consistent_hash", what is alike by the same one (`hash`); "random"; or "first", the next
    /// one only when the one before it is out. Each address of an origin's name is asked.
    #[serde(default, with = "Word::<Policy>")]
    pub balance: Policy,
    /// By what requests are alike for "consistent_hash": "client", "path", "header:NAME" or
    /// "cookie:NAME"; of a request without that, the client.
    #[serde(default, with = "As::<HashBy>")]
    pub hash: HashKey,
    /// How long an origin that comes, or comes back, gets less than its share. 0 to 1h; 0 is not.
    #[serde(default, with = "UpToAnHour")]
    pub slow_start: Duration,
    /// How long an origin is passed over after a failure to connect, before one request at a time
    /// tries it again. 0 to 1h; 0 is never.
    #[serde(default = "millis::<10_000>", with = "UpToAnHour")]
    pub fail_timeout: Duration,
    /// Checks of every origin, once for all workers: a GET of `path`, or connecting where there is
    /// none, every `interval` (5s), within `timeout` (2s); `rise` (2) good ones in a row bring it
    /// back, `fall` (3) bad ones put it out. `status` ("200-399"), `body` (a text that has to be in
    /// the first 64 KiB), `method`, `host` and `port` say more.
    #[serde(default, deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "{ path = \"/health\" }"))]
    pub health: Option<HealthConfig>,
    /// When an origin is passed over for its answers, errors being 5xx, resets and timeouts:
    /// `errors` in a row, `percent` of those within `window` (10s) of at least `requests` (20), or
    /// `slower` times the median of the others; for `pause` (10s), which doubles up to `pause_max`
    /// (5m). Never the last one, and not more than `at_most` (50) percent of them.
    #[serde(default, deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "{ errors = 5 }"))]
    pub eject: Option<EjectConfig>,
    /// Keeps a client with the origin that answered it, by a cookie: one that ringway issues,
    /// `cookie` (ringway_origin), for `ttl` (1h), signed, which names no address; or, with
    /// learn = true, one of the origin's own. `secret_file` has what signs it where several
    /// ringways, or the next process, are to read it.
    #[serde(default, deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "{ ttl = \"8h\" }"))]
    pub sticky: Option<StickyConfig>,
    /// Percent of its origins below which all of them are asked, whatever is known of them: fewer
    /// would not bear it. 0 to 100; 0 is when none is left.
    #[serde(default, with = "Count::<u32, 0, 100>")]
    pub panic_below: u32,
    /// Whether Location, Content-Location and the paths of cookies are seen by clients as they can
    /// ask for them, where an origin's URL has a path or the route's prefix is stripped.
    #[serde(default)]
    pub map_location: bool,
    /// Connections to it, busy and idle, in place of pool.max_connections; then no answer of it
    /// counts under limits.long_responses. 1 to 1000000.
    #[serde(default, with = "Optional::<Whole<usize, 1, 1_000_000>>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "100"))]
    pub max_connections: Option<usize>,
    /// Idle connections to it, in all workers; of more, the oldest are closed once they have rested
    /// for a second. 0 to 1000000. An origin's table takes `max_connections` and `max_idle` too.
    #[serde(default, with = "Optional::<Whole<usize, 0, 1_000_000>>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "10"))]
    pub max_idle: Option<usize>,
    /// Requests that may wait for a connection to it; further ones are answered 503 at once. 0 to
    /// 1000000.
    #[serde(default, with = "Optional::<Whole<usize, 0, 1_000_000>>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "200"))]
    pub queue: Option<usize>,
    /// Keys of [timeouts] that are other ones here: `connect`, `read`, `write`, `client_write`,
    /// `pool`, `pool_status`, `tunnel_idle` and `tunnel_half_closed`.
    #[serde(default, deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "{ read = \"5m\" }"))]
    pub timeouts: Option<OwnTimeouts>,
    /// How origins with "https://" are spoken to: `ca` is a PEM file of the authorities that are
    /// believed, in place of the system's; `sni` the name that the certificate has to have, in
    /// place of the origin's; `client_chain` and `client_key` what is shown to it;
    /// insecure_skip_verify = true takes any certificate, so that anybody on the way can read and
    /// change what is sent.
    #[serde(default, deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "{ ca = \"/etc/ssl/internal.pem\" }"))]
    pub tls: Option<UpstreamTlsConfig>,
    /// What its origins speak: "1.1"; "2", without TLS from the first byte on (prior knowledge); or
    /// "auto", HTTP/2 where an origin with "https://" chooses it (ALPN), else HTTP/1.1. One
    /// connection of HTTP/2 carries up to 100 requests at once, each of which counts as a
    /// connection.
    #[serde(default, with = "Word::<OriginHttp>")]
    #[schemars(extend("x-reload" = "drain"))]
    pub http: OriginHttp,
    /// "v1" or "v2": every connection begins with a PROXY protocol header that names the client,
    /// and carries one request. Without it, connections are shared by all clients.
    #[serde(default, with = "Optional::<OneOf<Version>>", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "\"v2\""))]
    pub proxy_protocol: Option<Version>,
    /// Whether to refuse every answer that is not as it should be, instead of mending those whose
    /// meaning is beyond doubt.
    #[serde(default)]
    pub strict: bool,
    /// Whether trailers and chunk extensions of requests go on. Servers that do not read them take
    /// them for the next request.
    #[serde(default)]
    pub pass_trailers: bool,
    /// Whether its origins read every body, also that of GET, HEAD and DELETE. If not, a connection
    /// that has carried such a one is not used again.
    #[serde(default)]
    pub reads_all_bodies: bool,
}

/// What an origin speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OriginHttp {
    #[default]
    One,
    Two,
    Auto,
}

impl Words for OriginHttp {
    const WORDS: &'static [(&'static str, Self)] =
        &[("1.1", Self::One), ("2", Self::Two), ("auto", Self::Auto)];
}

impl fmt::Display for OriginHttp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, http)| http == self);
        out.write_str(word.map_or("", |(word, _)| word))
    }
}

/// The Host field that an origin sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostPolicy {
    /// The client's.
    #[default]
    Pass,
    /// The `authority` of the origin.
    Origin,
    Fixed(String),
}

/// Routes: the most specific host wins (exact, then the longest "*.suffix", then any), then an
/// exact path, then the longest one, then the route with more conditions, then the first in this
/// file. A request that fits none is answered 404. Without any [[route]], everything goes to the
/// first upstream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// "" is any host, "example.org" that one, "*.example.org" every name below it.
    #[serde(default, with = "As::<RouteHost>")]
    pub host: HostPattern,
    /// A prefix on a segment boundary: "/api" fits /api and /api/x, not /apix. "=/api" is that path
    /// alone.
    #[serde(default = "root", with = "As::<Prefix>")]
    pub path: String,
    /// The name of an upstream.
    // Index in `Config::upstreams`.
    #[serde(with = "As::<UpstreamName>")]
    pub upstream: usize,
    // Nobody has configured it.
    #[serde(skip)]
    pub is_found: bool,
    /// A condition: the path, in its normal form and without the query, fits this pattern too.
    #[serde(default, with = "Optional::<Pattern>", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = r#""^/api/v[0-9]+/""#))]
    pub path_regex: Option<String>,
    /// A condition: one of these methods.
    #[serde(default, with = "List::<Method>", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-example" = r#"["GET", "HEAD"]"#))]
    pub methods: Vec<String>,
    /// A condition: each of these fields is there with this value; "*" is any.
    // Names in lower case.
    #[serde(default, with = "Members::<FieldIs>", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-example" = r#"{ X-Canary = "1" }"#))]
    pub headers: Vec<(String, String)>,
    /// A condition: each of these parameters is in the query with this value; "*" is any.
    #[serde(default, with = "Members::<ParameterIs>", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-example" = r#"{ canary = "1" }"#))]
    pub query: Vec<(String, String)>,
    /// A condition: each of these cookies is there with this value; "*" is any.
    #[serde(default, with = "Members::<CookieIs>", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-example" = r#"{ canary = "always" }"#))]
    pub cookies: Vec<(String, String)>,
    /// A condition: the client is in one of these networks.
    #[serde(default, with = "As::<NetworkList>", skip_serializing_if = "Networks::is_empty")]
    #[schemars(extend("x-example" = r#"["10.0.0.0/8"]"#))]
    pub clients: Networks,
    /// Which path the origin sees: "client" is the bytes of the client, "normal" their normal form,
    /// which it sees in any case where the path is changed (`strip_prefix`, `hooks.rewrite`).
    #[serde(default, with = "Word::<SendPath>")]
    pub send_path: SendPath,
    /// Whether the origin sees the path without the prefix; slashes behind it become one.
    #[serde(default)]
    pub strip_prefix: bool,
    /// How much of a request's body is held in memory, and waited for, before a connection to an
    /// origin is asked for, so that no origin waits for a slow client; what is more goes into a
    /// file (`buffers.temp_bytes`). 0 to 1GiB; 0 is off.
    #[serde(default, with = "Size::<u64, 0, { 1 << 30 }>")]
    #[schemars(extend("x-example" = "\"64KiB\""))]
    pub buffer_requests: u64,
    /// How much of an answer's body is held in memory that a slow client has not taken yet, so that
    /// the origin's connection is free early; what is more goes into a file (`buffers.temp_bytes`).
    /// 0 to 1GiB; 0 is off.
    #[serde(default, with = "Size::<u64, 0, { 1 << 30 }>")]
    #[schemars(extend("x-example" = "\"256KiB\""))]
    pub buffer_responses: u64,
    /// Keys of [timeouts] that are other ones here, whatever its upstream says: see
    /// `upstream.timeouts`.
    #[serde(default, deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "{ read = \"1h\", client_write = \"5m\" }"))]
    pub timeouts: Option<OwnTimeouts>,
    /// Which of its exchanges have a line in the access log, in place of `log.access_when`, such as
    /// "status >= 400 or 1 in 100"; "never" is none. "" leaves it to that.
    #[serde(default, with = "Switched::<When>")]
    pub access_when: Option<AccessWhen>,
    /// Whether [hooks] hold for this route too.
    #[serde(rename = "inherit_hooks", default = "yes")]
    pub inherits_hooks: bool,
    /// The same keys as [hooks], for this route alone.
    // `None` where the table is empty, or there is none.
    #[serde(default, deserialize_with = "hooks_table", skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Box<HooksConfig>>,
}

fn root() -> String {
    "/".to_owned()
}

fn yes() -> bool {
    true
}

/// Names are in lower case, without a port and without the root's dot.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    #[default]
    Any,
    Exact(String),
    /// `.example.org` for `*.example.org`, which `example.org` itself does not fit.
    Suffix(String),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Exact(name) => out.write_str(name),
            Self::Suffix(suffix) => write!(out, "*{suffix}"),
        }
    }
}

impl UpstreamConfig {
    pub(super) fn demo() -> Self {
        Self {
            name: "demo".to_owned(),
            is_demo: true,
            proxy_protocol: None,
            origins: Vec::new(),
            file: None,
            found: Vec::new(),
            is_found: false,
            host: HostPolicy::Pass,
            balance: Policy::default(),
            hash: HashKey::default(),
            slow_start: Duration::ZERO,
            fail_timeout: millis::<10_000>(),
            health: None,
            eject: None,
            sticky: None,
            panic_below: 0,
            map_location: false,
            max_connections: None,
            max_idle: None,
            queue: None,
            timeouts: None,
            tls: None,
            http: OriginHttp::One,
            strict: false,
            pass_trailers: false,
            reads_all_bodies: false,
        }
    }
}

impl RouteConfig {
    /// What of the path the origin does not see.
    pub fn cut_prefix(&self) -> &str {
        if self.strip_prefix { self.path.trim_end_matches('/') } else { "" }
    }

    pub(crate) fn everything_to_the_first() -> Self {
        Self {
            host: HostPattern::Any,
            path: root(),
            path_regex: None,
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
            clients: Networks::default(),
            send_path: SendPath::Client,
            upstream: 0,
            is_found: false,
            strip_prefix: false,
            buffer_requests: 0,
            buffer_responses: 0,
            timeouts: None,
            access_when: None,
            hooks: None,
            inherits_hooks: true,
        }
    }

    /// What people call it: host and path, where `*` is any host, and the conditions. No two routes
    /// are called the same.
    pub fn name(&self) -> String {
        let host = match &self.host {
            HostPattern::Any => "*".to_owned(),
            host => host.to_string(),
        };
        let conditions = self.conditions();
        let more = if conditions.is_empty() { "" } else { " " };
        format!("{host}{}{more}{}", self.path, conditions.join(" "))
    }

    /// Its conditions beside host and path, in words.
    pub fn conditions(&self) -> Vec<String> {
        let regex = self.path_regex.iter().map(|pattern| format!("path_regex={pattern}"));
        let list = |name: &str, items: Vec<String>| {
            (!items.is_empty()).then(|| format!("{name}={}", items.join(",")))
        };
        let pairs = |kind: &'static str, pairs: &[(String, String)]| -> Vec<String> {
            pairs.iter().map(|(name, value)| format!("{kind}.{name}={value}")).collect()
        };
        let clients = self.clients.words();
        regex
            .chain(list("methods", self.methods.clone()))
            .chain(pairs("header", &self.headers))
            .chain(pairs("query", &self.query))
            .chain(pairs("cookie", &self.cookies))
            .chain(list("clients", clients))
            .collect()
    }

    /// The path that it is for, and whether for that one alone.
    pub fn exact_path(&self) -> (&str, bool) {
        match self.path.strip_prefix('=') {
            Some(path) => (path, true),
            None => (&self.path, false),
        }
    }
}

/// Which path an origin is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendPath {
    #[default]
    Client,
    Normal,
}

impl Words for SendPath {
    const WORDS: &'static [(&'static str, Self)] =
        &[("client", Self::Client), ("normal", Self::Normal)];
}

#[cfg(test)]
mod tests {
    use crate::config::tests::all_refused;

    #[test]
    fn contradictions_between_keys_are_refused() {
        let app = "[[upstream]]\nname = \"app\"\n";
        let own = |rest: &str| format!("{app}{rest}");
        all_refused(&[
            ("upstream = []", "1:12: upstream: missing an upstream: there must be one"),
            ("[[upstream]]\nbuiltin = \"demo\"", "1:1: upstream[0]: missing key `name`"),
            (app, "1:1: upstream[0]: missing key `origins`, or `builtin = \"demo\"`"),
            (&own("origins = []"), "3:11: upstream[0].origins: missing an origin"),
            (&own("builtin = \"x\""), "3:11: upstream[0].builtin: found \"x\", expected \"demo\""),
            (
                &own("builtin = \"demo\"\norigins = [\"http://a\"]"),
                "4:11: upstream[0].origins: an upstream has either `builtin` or `origins`",
            ),
            (
                &own("origins = [\"https://a\", \"https://a:443\"]"),
                "3:25: upstream[0].origins[1]: there is already an origin \"https://a\"",
            ),
            (
                &own("origins = [\"http://a\", { url = \"http://A:80/\" }]"),
                "3:24: upstream[0].origins[1]: there is already an origin \"http://a\"",
            ),
            (
                &own("origins = [{ url = \"http://a\", weight = 0 }]"),
                "3:41: upstream[0].origins[0].weight: found 0, expected a whole number from 1",
            ),
            (&own("builtin = \"demo\"\nhost = \"a b\""), "4:8: upstream[0].host: found \"a b\""),
            (
                &format!("{app}builtin = \"demo\"\n{app}builtin = \"demo\""),
                "5:8: upstream[1].name: there is already an upstream named \"app\"",
            ),
            ("[[route]]", "1:1: route[0]: missing key `upstream`"),
            (
                "[[route]]\nupstream = \"dmeo\"",
                "2:12: route[0].upstream: there is no upstream \"dmeo\", did you mean \"demo\"?",
            ),
            (
                "[[route]]\nupstream = \"\\u001b[2J\"",
                "2:12: route[0].upstream: there is no upstream \"\\u{1b}[2J\"",
            ),
            (
                "[[route]]\nupstream = \"demo\"\n[[route]]\npath = \"/\"\nupstream = \"demo\"",
                "3:1: route[1]: there is already a route with this host and path",
            ),
            ("[[route]]\nupstream = \"demo\"\npath = \"a\"", "3:8: route[0].path: found \"a\""),
            ("[[route]]\nupstream = \"demo\"\npath = \"=a\"", "3:8: route[0].path: found \"=a\""),
            (
                "[[route]]\nupstream = \"demo\"\npath_regex = \"(\"",
                "3:14: route[0].path_regex: found \"(\", expected a regular expression",
            ),
            (
                "[[route]]\nupstream = \"demo\"\nmethods = [\"get\"]",
                "3:12: route[0].methods[0]: found \"get\", expected a method",
            ),
            (
                "[[route]]\nupstream = \"demo\"\nheaders = { \"a b\" = \"c\" }",
                "3:21: route[0].headers.a b: found \"a b\", expected a field name",
            ),
            (
                "[[route]]\nupstream = \"demo\"\nheaders = { A = \"b\", a = \"c\" }",
                "3:26: route[0].headers.a: \"a\" is there twice",
            ),
            (
                "[[route]]\nupstream = \"demo\"\nclients = [\"a\"]",
                "3:12: route[0].clients[0]: found \"a\", expected a network",
            ),
            (
                "[server]\npath_match = \"raw\"\n[[route]]\nupstream = \"demo\"\n\
                 send_path = \"normal\"",
                "5:13: route[0].send_path: \"normal\" needs server.path_match = \"normal\"",
            ),
            (
                "[[route]]\nupstream = \"demo\"\nmethods = [\"PUT\"]\n[[route]]\n\
                 methods = [\"PUT\"]\nupstream = \"demo\"",
                "4:1: route[1]: there is already a route with this host, path and conditions",
            ),
            (
                "[hooks.address_rate_limit]\nrate = \"1/s\"\nkey = \"route\"",
                "3:7: hooks.address_rate_limit.key: found \"route\", expected \"ip\"",
            ),
            (
                "[admin]\non_data_port = \"some\"",
                "2:16: admin.on_data_port: found \"some\", expected \"local\", \"all\" or \"off\"",
            ),
            (
                "[admin]\nhosts = [\"a:80\"]",
                "2:10: admin.hosts[0]: found \"a:80\", expected a host",
            ),
            (
                "[[route]]\nupstream = \"demo\"\nhost = \"a:80\"",
                "3:8: route[0].host: found \"a:80\", expected a host name without a port",
            ),
        ]);
    }
}
