//! The rules between keys: what one of them means for another.
//!
//! In: a `Config` of which every value is of its kind. Out: the same with its names told apart, its
//! listeners collected and its limits trimmed, or every refusal with the path of its key. A limit
//! that another limit makes pointless is trimmed (a pool of 10 connections keeps at most 10 idle),
//! so that lowering one key never asks for a second. Nothing here reads a file or asks DNS.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::SocketAddr;

use super::error::{Refusal, quoted};
use super::hooks::{CorsConfig, RespondConfig, Scope, Template, Variable, pattern};
use super::listener::ListenerConfig;
use super::{
    AcmeChallenge, AcmeConfig, AdminAddress, ClientAuth, ClientKey, Config, ForwardConfig,
    HooksConfig, OriginHttp, ParentScheme, PathMatch, Prewarm, RewriteConfig, RouteConfig,
    SendPath, ServerConfig, UpstreamConfig, UpstreamTlsConfig,
};
use crate::address::{Address, UnixAddress};

/// The sections that the rules for a section look at beside their own.
pub(super) const LEANS_ON: [(&str, &str); 8] = [
    ("route", "upstream"),
    ("route", "server"),
    ("hooks", "upstream"),
    ("forward", "server"),
    ("admin", "server"),
    ("server", "admin"),
    ("server", "tls"),
    ("tls", "server"),
];

/// Everything that is wrong between keys.
pub(super) fn rules(config: &mut Config) -> Vec<Refusal> {
    let mut refusals = Refusals::default();
    refusals.listeners(config);
    let needs_none = config.forward.enabled || config.docker.socket.is_some();
    refusals.upstreams(&config.upstreams, needs_none);
    refusals.routes(&config.routes, config.server.path_match);
    refusals.parents(config);
    refusals.forward_rules(&config.forward);
    if let Some(hooks) = &mut config.hooks {
        refusals.hooks("hooks", hooks);
    }
    for (index, route) in config.routes.iter_mut().enumerate() {
        if let Some(hooks) = &mut route.hooks {
            refusals.hooks(&format!("route.{index}.hooks"), hooks);
        }
    }
    settle(config);
    refusals.0
}

/// Trims, and fills in what follows from something else.
pub(super) fn settle(config: &mut Config) {
    let Config { server, limits, pool, buffers, upstreams, routes, hooks, forward, .. } = config;
    server.listeners = all_listeners(server, forward);
    if server.workers == 0 {
        server.workers = cores();
    }
    limits.response_head_bytes = limits.response_head_bytes.max(limits.head_bytes);
    limits.target_bytes = limits.target_bytes.min(limits.head_bytes);
    pool.max_idle = pool.max_idle.min(pool.max_connections);
    if let Prewarm::Count(count) = &mut pool.prewarm {
        *count = (*count).min(pool.max_idle);
    }
    buffers.operation_chunks = buffers.operation_chunks.min(buffers.chunks_per_worker);
    buffers.head_buffer_bytes = buffers.head_buffer_bytes.min(limits.head_bytes);
    if routes.is_empty() && !upstreams.is_empty() {
        routes.push(RouteConfig::everything_to_the_first());
    }
    // A table that says nothing is as good as none.
    let is_empty = |hooks: &mut Box<HooksConfig>| **hooks == HooksConfig::default();
    hooks.take_if(is_empty);
    for route in routes {
        route.hooks.take_if(is_empty);
    }
}

/// The cores that this process may use: affinity and cgroup quota count.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn listeners(server: &ServerConfig) -> Vec<ListenerConfig> {
    let first = server.host.map(|host| SocketAddr::new(host, server.port));
    let plain = first.map(ListenerConfig::tcp).into_iter().chain(server.listen.iter().cloned());
    let secured = server.listen_tls.iter().cloned();
    plain.chain(secured.map(|own| ListenerConfig { is_tls: true, ..own })).collect()
}

/// With those at which only SOCKS is spoken.
fn all_listeners(server: &ServerConfig, forward: &ForwardConfig) -> Vec<ListenerConfig> {
    let mut all = listeners(server);
    for &address in forward.socks_listeners.iter().filter(|_| forward.enabled) {
        if all.iter().all(|own| own.address != address) {
            all.push(ListenerConfig::at(address));
        }
    }
    all
}

/// Whether the kernel would refuse the second of two binds. IPv6 listeners are IPv6 only.
fn overlap(a: Address, b: Address) -> bool {
    let (a, b) = match (a, b) {
        (Address::Tcp(a), Address::Tcp(b)) => (a, b),
        (a, b) => return a == b,
    };
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// What is equal to something before it, with its index.
fn again<'l, T, K: Eq + Hash>(
    list: &'l [T],
    key: impl Fn(&'l T) -> K + 'l,
) -> impl Iterator<Item = (usize, &'l T)> {
    let mut seen = HashSet::with_capacity(list.len());
    list.iter().enumerate().filter(move |(_, item)| !seen.insert(key(item)))
}

#[derive(Default)]
struct Refusals(Vec<Refusal>);

impl Refusals {
    fn add(&mut self, path: impl AsRef<str>, what: impl Into<String>) {
        self.0.push(Refusal::of_key(&[path.as_ref()], what));
    }

    fn listeners(&mut self, config: &Config) {
        let Config { server, admin, forward, .. } = config;
        let all: Vec<Address> = listeners(server).iter().map(|own| own.address).collect();
        let further = server.listen.len() + server.listen_tls.len();
        let first = all.len() - further;
        let path = |index: usize| match index.checked_sub(server.listen.len()) {
            Some(index) => format!("server.listen_tls.{index}"),
            None => format!("server.listen.{index}"),
        };
        if all.is_empty() {
            let rule = "found \"\", which is no listener, and neither `listen` nor `listen_tls` \
                        names one: there must be one";
            self.add("server.host", rule);
        }
        for (index, listener) in server.listen.iter().chain(&server.listen_tls).enumerate() {
            let address = listener.address;
            let before = &all[..first + index];
            if let Some(other) = before.iter().find(|other| overlap(address, **other)) {
                self.add(path(index), format!("{address} is taken by the listener {other}"));
            }
            if listener.mode.is_some() && address.unix().and_then(UnixAddress::path).is_none() {
                let rule = "`mode` is of the file of a Unix socket, and this address has none";
                self.add(path(index), rule);
            }
        }
        for (index, address) in forward.socks_listeners.iter().enumerate() {
            let before = all.iter().chain(&forward.socks_listeners[..index]);
            let taken = before.filter(|other| *other != address);
            if let Some(other) = { taken }.find(|other| overlap(*address, **other)) {
                let what = format!("{address} is taken by the listener {other}");
                self.add(format!("forward.socks_listeners.{index}"), what);
            }
        }
        self.tls(config);
        for (index, listener) in forward.listeners.iter().enumerate() {
            if !all.contains(listener) {
                let known: Vec<String> = all.iter().map(Address::to_string).collect();
                let what = format!(
                    "found \"{listener}\", expected one of the server's listeners: {}",
                    known.join(", ")
                );
                self.add(format!("forward.listeners.{index}"), what);
            }
        }
        let own = match &admin.address {
            AdminAddress::Tcp(own) => Some(Address::Tcp(*own)),
            AdminAddress::Unix(path) => path.to_str().and_then(UnixAddress::new).map(Address::Unix),
        };
        if let Some(own) = own.filter(|_| admin.enabled)
            && let Some(index) = all.iter().position(|other| overlap(own, *other))
        {
            let what = format!("the administrator's {own} is taken by the listener {}", all[index]);
            let listener = match index.checked_sub(first) {
                Some(further) => path(further),
                None => "server.port".to_owned(),
            };
            // The defaults do not overlap, so one of the two was given.
            let paths = ["admin.address", listener.as_str()];
            self.0.push(Refusal::of_key(&paths, what));
        }
    }

    fn tls(&mut self, config: &Config) {
        let Config { server, tls, .. } = config;
        let has_certificates = !tls.certificates.is_empty() || tls.acme.is_some();
        if !server.listen_tls.is_empty() && !has_certificates {
            let what = "a listener that speaks TLS needs a certificate: [[tls.certificates]] with \
                        `chain` and `key`, or [tls.acme]";
            self.add("server.listen_tls", what);
        }
        if let Some(acme) = &tls.acme {
            self.acme(acme, server);
        }
        if config.admin.read_token.is_some() && config.admin.token.is_none() {
            let cure = "needs admin.token: whoever may not see anything must not change anything";
            self.add("admin.read_token", cure);
        }
        if config.admin.is_tls() {
            if matches!(config.admin.address, AdminAddress::Unix(_)) {
                let what = "`tls` is for an address and a port: who may ask by a Unix socket is \
                            said by its file";
                self.add("admin.tls", what);
            } else if tls.certificates.is_empty() {
                let what = "`tls` needs a certificate: [[tls.certificates]] with `chain` and `key`";
                self.add("admin.tls", what);
            }
        }
        if server.redirect_https && server.listen_tls.is_empty() {
            self.add("server.redirect_https", "`redirect_https` needs `listen_tls`");
        }
        match (tls.client_auth, &tls.client_ca) {
            (ClientAuth::Off, _) | (_, Some(_)) => {}
            (_, None) => self.add("tls.client_auth", "`client_auth` needs `client_ca`"),
        }
    }

    fn acme(&mut self, acme: &AcmeConfig, server: &ServerConfig) {
        if acme.domains.is_empty() {
            let what = "missing `domains`: the names to order certificates for, such as \
                        domains = [\"example.org\"]";
            self.add("tls.acme", what);
        }
        if !acme.accept_terms {
            let what = format!(
                "`accept_terms` is false: nothing is ordered before you accept the terms of \
                 service of {}; read them, then write accept_terms = true",
                acme.directory
            );
            self.add("tls.acme", what);
        }
        if server.listen_tls.is_empty() {
            let what = "`acme` needs `server.listen_tls`: there is no listener that would show its \
                        certificates";
            self.add("tls.acme", what);
        }
        let has_plain = listeners(server).iter().any(|own| !own.is_tls);
        if acme.challenge == AcmeChallenge::Http01 && !has_plain {
            let what = "\"http-01\" needs a listener without TLS, which port 80 leads to: give one \
                        in server.listen, or use challenge = \"tls-alpn-01\"";
            self.add("tls.acme", what);
        }
    }

    fn upstreams(&mut self, upstreams: &[UpstreamConfig], needs_none: bool) {
        if upstreams.is_empty() && !needs_none {
            self.add("upstream", "missing an upstream: there must be one");
        }
        for (index, upstream) in upstreams.iter().enumerate() {
            let path = format!("upstream.{index}");
            if let Some(tls) = &upstream.tls {
                let is_of_use =
                    upstream.file.is_some() || upstream.origins.iter().any(|origin| origin.is_tls);
                self.tls_of(&path, tls, is_of_use, "an origin");
            }
            self.protocol(&path, upstream);
            match (upstream.is_demo, upstream.origins.is_empty()) {
                (true, false) => {
                    let rule = "an upstream has either `builtin` or `origins`, not both";
                    self.add(format!("{path}.origins"), rule);
                }
                (false, true) if upstream.file.is_none() => {
                    self.add(&path, "missing key `origins`, or `builtin = \"demo\"`");
                }
                _ => {}
            }
            if upstream.is_demo && upstream.file.is_some() {
                let rule = "an upstream has either `builtin` or `file`, not both";
                self.add(format!("{path}.file"), rule);
            }
            for (origin, found) in again(&upstream.origins, |it| (it.host.as_str(), it.port)) {
                let url = found.url();
                let what = format!("there is already an origin {url:?}; `weight` gives it more");
                self.add(format!("{path}.origins.{origin}"), what);
            }
        }
        for (index, upstream) in again(upstreams, |upstream| upstream.name.as_str()) {
            let what = format!("there is already an upstream named {:?}", upstream.name);
            self.add(format!("upstream.{index}.name"), what);
        }
    }

    /// What cannot be said in the HTTP that its origins speak.
    fn protocol(&mut self, path: &str, upstream: &UpstreamConfig) {
        let http = upstream.http;
        if http != OriginHttp::One && upstream.proxy_protocol.is_some() {
            let what = format!(
                "a connection of HTTP/2 (http = \"{http}\") carries requests of many clients, and \
                 its PROXY protocol header would name one: leave this key out, or write \
                 http = \"1.1\""
            );
            self.add(format!("{path}.proxy_protocol"), what);
        }
        let Some(health) = upstream.health.as_ref().filter(|health| health.grpc.is_some()) else {
            return;
        };
        let key = format!("{path}.health.grpc");
        let is_plain = upstream.origins.iter().any(|origin| !origin.is_tls);
        match http {
            OriginHttp::One => self.add(
                &key,
                "gRPC needs HTTP/2: write http = \"2\", or \"auto\" where its origins have TLS",
            ),
            OriginHttp::Auto if is_plain => self.add(
                &key,
                "gRPC needs HTTP/2, which http = \"auto\" chooses with TLS alone: write \
                 http = \"2\" for origins with \"http://\"",
            ),
            OriginHttp::Auto | OriginHttp::Two => {}
        }
        if !health.path.is_empty() || !health.body.is_empty() {
            let other = if health.path.is_empty() { "body" } else { "path" };
            let what = format!("a check asks either for `grpc` or by `path`: leave `{other}` out");
            self.add(format!("{path}.health.{other}"), what);
        }
    }

    fn routes(&mut self, routes: &[RouteConfig], path_match: PathMatch) {
        for (index, route) in routes.iter().enumerate() {
            if route.send_path == SendPath::Normal && path_match == PathMatch::Raw {
                let what = "\"normal\" needs server.path_match = \"normal\"";
                self.add(format!("route.{index}.send_path"), what);
            }
        }
        let names: Vec<_> = routes.iter().map(RouteConfig::name).collect();
        for (index, _) in again(&names, String::as_str) {
            let what = match routes[index].conditions().as_slice() {
                [] => "there is already a route with this host and path",
                _ => "there is already a route with this host, path and conditions",
            };
            self.add(format!("route.{index}"), what);
        }
    }

    fn forward_rules(&mut self, forward: &ForwardConfig) {
        for (index, rule) in forward.rules.iter().enumerate() {
            let path = format!("forward.rule.{index}");
            for (key, names) in [("users", &rule.users), ("groups", &rule.groups)] {
                if forward.users_file.is_none() && !names.is_empty() {
                    let what = "nobody is asked who they are: name a file of users and their \
                                passwords in `forward.users_file`";
                    self.add(format!("{path}.{key}"), what);
                }
            }
            let is_unknown = |group: &String| {
                forward.groups_file.is_none() && !forward.groups.contains_key(group)
            };
            if let Some(place) = rule.groups.iter().position(is_unknown) {
                let known: Vec<&str> = forward.groups.keys().map(String::as_str).collect();
                let what = format!(
                    "found {}, expected a group of `forward.groups` ({}), or `forward.groups_file`",
                    quoted(&rule.groups[place]),
                    if known.is_empty() { "there is none".to_owned() } else { known.join(", ") },
                );
                self.add(format!("{path}.groups.{place}"), what);
            }
        }
    }

    fn parents(&mut self, config: &Config) {
        for (index, parent) in again(&config.parents, |parent| parent.name.as_str()) {
            let what = format!("there is already a parent named {:?}", parent.name);
            self.add(format!("parent.{index}.name"), what);
        }
        for (index, parent) in config.parents.iter().enumerate() {
            // What is not to be seen on the way is not to be seen on another way either.
            let kind = |it: ParentScheme| match it {
                ParentScheme::Socks5h => ParentScheme::Socks5,
                scheme => scheme,
            };
            let own = kind(parent.address.scheme);
            let other = parent.backups.iter().position(|backup| kind(backup.scheme) != own);
            if let Some(backup) = other {
                let what =
                    "a backup is of the same kind as `url`: all http, all https or all SOCKS";
                self.add(format!("parent.{index}.backups.{backup}"), what);
            }
            if let Some(tls) = &parent.tls {
                let is_of_use = own == ParentScheme::Https;
                self.tls_of(&format!("parent.{index}"), tls, is_of_use, "a parent");
            }
        }
    }

    /// What `path` says of the TLS of whom it names, `whom`.
    fn tls_of(&mut self, path: &str, tls: &UpstreamTlsConfig, is_of_use: bool, whom: &str) {
        let path = format!("{path}.tls");
        if !is_of_use {
            // Or somebody believes that it is there.
            self.add(&path, format!("`tls` is for {whom} with https://, and there is none"));
        }
        if tls.client_chain.is_some() != tls.client_key.is_some() {
            self.add(&path, "`client_chain` and `client_key` go together");
        }
    }

    fn hooks(&mut self, path: &str, hooks: &mut HooksConfig) {
        let at = |key: &str| format!("{path}.{key}");
        if let Some(cors) = &hooks.cors {
            self.cors(&at("cors"), cors);
        }
        if let Some(respond) = &hooks.respond {
            self.respond(&at("respond"), respond);
        }
        for limit in [&mut hooks.rate_limit, &mut hooks.address_rate_limit].into_iter().flatten() {
            if limit.burst == 0 {
                limit.burst = limit.rate.requests;
            }
        }
        if let Some(limit) = hooks.address_rate_limit.as_ref().filter(|it| it.key != ClientKey::Ip)
        {
            let what = format!("found \"{}\", expected \"ip\": `rate_limit` has keys", limit.key);
            self.add(at("address_rate_limit.key"), what);
        }
        if let Some(split) = &mut hooks.split {
            // An upstream that is out for now keeps its line in the file.
            split.arms.retain(|(_, weight)| *weight > 0);
            if split.arms.is_empty() {
                self.add(at("split.weights"), "missing a weight above 0");
            }
        }
        if let Some(RewriteConfig::Regex { pattern, replacement }) = &mut hooks.rewrite {
            self.replacement(&at("rewrite.replacement"), pattern, replacement);
        }
        for (key, edits) in [
            ("request_headers", &hooks.request_headers),
            ("response_headers", &hooks.response_headers),
        ] {
            if let Some((index, what)) = edits.one_too_many() {
                self.add(at(&format!("{key}.remove.{index}")), what);
            }
        }
        let edits = &hooks.request_headers;
        for (list, (name, template)) in
            std::iter::repeat("set").zip(&edits.set).chain(std::iter::repeat("add").zip(&edits.add))
        {
            if template.has(&Variable::Status) {
                let expected = Template::unknown_yet("status");
                let what = format!("found {:?}, expected {expected}", template.to_string());
                let path = [path, "request_headers", list].join(".");
                // The name of a field may hold dots.
                self.0.push(Refusal::of_member(&path, name, what));
            }
        }
        match (&mut hooks.error_pages, &mut hooks.intercept_errors) {
            (Some(pages), intercept) => pages.intercept = *intercept.get_or_insert(false),
            (None, Some(true)) => {
                self.add(at("intercept_errors"), "`intercept_errors` needs `error_pages`");
            }
            (None, intercept) => *intercept = None,
        }
    }

    fn cors(&mut self, path: &str, cors: &CorsConfig) {
        if !cors.credentials {
            return;
        }
        if cors.origins.is_empty() {
            let rule = "`credentials` needs `origins` by name: with any origin, every page that a \
                        user visits could act as that user";
            self.add(format!("{path}.credentials"), rule);
        }
        for (key, list) in [("headers", &cors.headers), ("expose", &cors.expose)] {
            if list.iter().any(|name| name == "*") {
                let rule = "with `credentials`, browsers take \"*\" for a name: list the fields, \
                            or leave `headers` out to allow whatever is asked for";
                self.add(format!("{path}.{key}"), rule);
            }
        }
    }

    fn respond(&mut self, path: &str, respond: &RespondConfig) {
        if matches!(respond.status, 204 | 205 | 304) && !respond.body.is_empty() {
            self.add(format!("{path}.body"), "an answer with this status has no body");
        }
    }

    fn replacement(&mut self, path: &str, text: &str, replacement: &mut Template) {
        let written = replacement.fixed().unwrap_or_default().to_owned();
        // A pattern that does not compile has been refused.
        let Ok(regex) = pattern(text) else { return };
        match Template::parse(&written, Scope::Replacement(&regex)) {
            Ok(read) => *replacement = read,
            Err(expected) => {
                self.add(path, format!("found {}, expected {expected}", quoted(&written)));
            }
        }
    }
}
