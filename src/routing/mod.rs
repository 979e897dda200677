//! Which upstream a request goes to, and with which path.
//!
//! In: the effective authority, the path and, where a route has further conditions, the head of a
//! request. Out: a `Route`, or why there is none. The most specific host level decides first (exact
//! name, longest `*.suffix`, any host); within one, exact paths come before prefixes, longer
//! prefixes before shorter ones, more conditions before fewer, and then the file's order decides. A
//! level in which nothing fits passes on to the next.
//!
//! What is compared is the normal form of the path, and a path that is normal already costs one
//! look. Of any other, everything that an origin could take it for is looked up as well: where that
//! leads to a route with other guards, the request is refused, because nobody can say which of the
//! two would have to let it in. No route but `/` takes a path that may climb out of its prefix by
//! an encoded slash. With `server.path_match = "raw"` prefixes match the bytes of the client.

mod climb;
mod conditions;
mod guards;
#[doc(hidden)]
pub(crate) mod invariants;

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::net::Ipv6Addr;

use memchr::memchr;

pub(crate) use self::climb::climbs_out;
pub(crate) use self::conditions::Asked;
use self::conditions::Conditions;
use self::guards::GuardIds;
use crate::config::{Config, HostPattern, PathMatch, RouteConfig, SendPath};
use crate::fault::Fault;
use crate::http::path::{self, is_plain, path_of};
use crate::http::readings::{Reading, ReadingKind, readings};

/// All routes of one configuration, in the order in which they are asked.
#[derive(Debug)]
pub struct Routes {
    /// Set when a single route takes everything: most configurations, and nothing to look up.
    only: Option<Route>,
    /// Sorted by name.
    exact: Vec<Host>,
    /// Sorted by suffix, each with its leading dot.
    suffixes: Vec<Host>,
    any: Vec<PathRule>,
    path_match: PathMatch,
    /// Whether it can matter by which of two routes a request goes.
    has_guards: bool,
}

/// Where one request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index in `Config::routes`.
    pub index: u32,
    /// Bytes of the path that the origin does not see.
    cut: u32,
    /// Index in `Config::upstreams`.
    pub upstream: usize,
    /// Routes with the same number have the same guards; 0 has none.
    guards: u32,
    /// The origin sees the normal form.
    is_normal_sent: bool,
}

#[derive(Debug)]
struct Host {
    name: String,
    /// In the order in which they are asked.
    paths: Vec<PathRule>,
}

/// The paths that a route takes.
#[derive(Debug)]
struct PathRule {
    /// As requests are compared with it: in its normal form, or as it was written.
    prefix: Box<[u8]>,
    /// The same with nothing encoded, for what a path may be read as.
    decoded: Box<[u8]>,
    is_exact: bool,
    conditions: Option<Box<Conditions>>,
    route: Route,
}

/// Which of the two spellings of a rule's path is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// The bytes of the client, which are the normal form too.
    Plain,
    /// The normal form.
    Normal,
    /// What a reader makes of it.
    Decoded,
    /// The bytes of the client, for rules that match those.
    Raw,
}

/// What a path may be read as, and where that would lead.
pub(crate) struct PathReading {
    pub reading: Reading,
    pub route: Option<Route>,
    /// Whether the request is refused because of it.
    pub is_conflict: bool,
}

impl Routes {
    pub fn new(config: &Config) -> Self {
        let mut routes = Self {
            only: None,
            exact: Vec::new(),
            suffixes: Vec::new(),
            any: Vec::new(),
            path_match: config.server.path_match,
            has_guards: false,
        };
        let mut guards = GuardIds::default();
        for (index, route) in config.routes.iter().enumerate() {
            let paths = match &route.host {
                HostPattern::Any => &mut routes.any,
                HostPattern::Exact(name) => {
                    let name = String::from_utf8_lossy(&host_of(name.as_bytes())).into_owned();
                    paths_of(&mut routes.exact, &name)
                }
                HostPattern::Suffix(suffix) => paths_of(&mut routes.suffixes, suffix),
            };
            let global = config.hooks.as_deref().filter(|_| route.inherits_hooks);
            let layers = [global, route.hooks.as_deref()];
            let mut rule = PathRule::new(index, route, config.server.path_match);
            rule.route.guards = guards.of(layers);
            let is_rewritten = layers.into_iter().flatten().any(|it| it.rewrite.is_some());
            let is_normal = config.server.path_match == PathMatch::Normal;
            rule.route.is_normal_sent = is_normal
                && (is_rewritten || route.strip_prefix || route.send_path == SendPath::Normal);
            // Behind those that are its equals: the file's order decides.
            let place = paths.partition_point(|other| other.rank() <= rule.rank());
            paths.insert(place, rule);
        }
        if let ([any], true, true) =
            (routes.any.as_slice(), routes.exact.is_empty(), routes.suffixes.is_empty())
        {
            routes.only = any.takes_all().then_some(any.route);
        }
        // Where some paths have no route, that is a guard too.
        routes.has_guards = guards.differ() || !routes.any.iter().any(PathRule::takes_all);
        routes
    }

    /// The route of every request, where there is one such.
    #[inline]
    pub(crate) fn only(&self) -> Option<Route> {
        self.only
    }

    /// The route of a request.
    #[inline]
    pub(crate) fn choose(&self, asked: &Asked<'_>) -> Result<Route, Fault> {
        if let Some(only) = self.only {
            return Ok(only);
        }
        let (authority, target) = (asked.authority(), asked.target());
        if self.path_match == PathMatch::Raw {
            return self.look_up(authority, (target, Spelling::Raw), Some(asked)).ok_or(NO_ROUTE);
        }
        if is_plain(target) {
            return self.look_up(authority, (target, Spelling::Plain), Some(asked)).ok_or(NO_ROUTE);
        }
        self.choose_by_normal_form(asked)
    }

    #[cold]
    fn choose_by_normal_form(&self, asked: &Asked<'_>) -> Result<Route, Fault> {
        let normal = path::normal_target(asked.target());
        let found = self.look_up(asked.authority(), (&normal, Spelling::Normal), Some(asked));
        let route = found.ok_or(NO_ROUTE)?;
        if !self.has_guards || asked.target().first() != Some(&b'/') {
            return Ok(route);
        }
        match self.read(asked, route) {
            Some(readings) if !readings.iter().any(|it| it.is_conflict) => Ok(route),
            _ => Err(Fault::PathAmbiguous),
        }
    }

    /// All that an origin could take the path for. `None`: it cannot matter, or is too much.
    pub(crate) fn readings(&self, asked: &Asked<'_>) -> Option<Vec<PathReading>> {
        let normal = path::normal_target(asked.target());
        let route = self.look_up(asked.authority(), (&normal, Spelling::Normal), Some(asked))?;
        let can_matter = self.has_guards && asked.target().first() == Some(&b'/');
        if can_matter { self.read(asked, route) } else { None }
    }

    /// The same for a request whose path, in its normal form, leads to `route`.
    fn read(&self, asked: &Asked<'_>, route: Route) -> Option<Vec<PathReading>> {
        let target = path_of(asked.target());
        let normal = path::decoded(&path::normal(target));
        let judged = readings(target)?.into_iter().map(|reading| {
            let path = (reading.path.as_slice(), Spelling::Decoded);
            let other = self.look_up(asked.authority(), path, Some(asked));
            let guards = other.map(|other| other.guards);
            let is_other = guards != Some(route.guards);
            let is_conflict = match reading.kind {
                ReadingKind::Usual => is_other,
                // Most readers see what the normal form says; what they would guard is guarded.
                ReadingKind::Counted => is_other && guards != Some(0),
                // Whoever knows no dot segments takes it for what the first names say.
                ReadingKind::Literal => {
                    let is_guarded = guards.is_some_and(|guards| guards != 0);
                    is_other && is_guarded && !self.is_below(other, &normal)
                }
            };
            PathReading { reading, route: other, is_conflict }
        });
        Some(judged.collect())
    }

    /// Whether `path`, decoded, lies below the path of `route` too.
    fn is_below(&self, route: Option<Route>, path: &[u8]) -> bool {
        let index = route.map(|route| route.index);
        let rule = self.rules().find(|rule| Some(rule.route.index) == index);
        rule.is_some_and(|rule| rule.fits(path, Spelling::Decoded))
    }

    /// `authority` is `host[:port]` or empty; `path` begins with `/` and may carry a query, or
    /// is `*`. Of a route that has conditions, none holds.
    pub fn find(&self, authority: &[u8], path: &[u8]) -> Option<Route> {
        if self.only.is_some() {
            return self.only;
        }
        match self.path_match {
            PathMatch::Raw => self.look_up(authority, (path, Spelling::Raw), None),
            PathMatch::Normal if is_plain(path) => {
                self.look_up(authority, (path, Spelling::Plain), None)
            }
            PathMatch::Normal => {
                let normal = path::normal_target(path);
                self.look_up(authority, (&normal, Spelling::Normal), None)
            }
        }
    }

    #[inline]
    fn look_up(
        &self,
        authority: &[u8],
        path: (&[u8], Spelling),
        asked: Option<&Asked<'_>>,
    ) -> Option<Route> {
        let host = host_of(authority);
        let host = host.as_ref();
        find_host(&self.exact, host)
            .and_then(|paths| find_path(paths, path, asked))
            .or_else(|| self.find_suffix(host, path, asked))
            .or_else(|| find_path(&self.any, path, asked))
    }

    /// Whether a route names the host of `authority`, rather than taking any.
    pub fn names(&self, authority: &[u8]) -> bool {
        let host = host_of(authority);
        find_host(&self.exact, &host).is_some()
            || (1..host.len())
                .filter(|dot| host[*dot] == b'.')
                .any(|dot| find_host(&self.suffixes, &host[dot..]).is_some())
    }

    /// Whether there is a route that takes any host.
    pub(crate) fn takes_any_host(&self) -> bool {
        self.only.is_some() || !self.any.is_empty()
    }

    /// Each dot begins a shorter suffix, so the first one that fits is the longest.
    fn find_suffix(
        &self,
        host: &[u8],
        path: (&[u8], Spelling),
        asked: Option<&Asked<'_>>,
    ) -> Option<Route> {
        if self.suffixes.is_empty() {
            return None;
        }
        (1..host.len())
            .filter(|dot| host[*dot] == b'.')
            .filter_map(|dot| find_host(&self.suffixes, &host[dot..]))
            .find_map(|paths| find_path(paths, path, asked))
    }

    /// All rules, in no order that means anything.
    fn rules(&self) -> impl Iterator<Item = &PathRule> {
        let hosts = self.exact.iter().chain(&self.suffixes);
        hosts.flat_map(|host| &host.paths).chain(&self.any)
    }
}

/// The key of the condition by which `route` does not take a request, if it has one such.
pub(crate) fn unfulfilled(route: &RouteConfig, asked: &Asked<'_>) -> Option<&'static str> {
    let conditions = Conditions::new(route)?;
    if conditions.path_fits(&path::normal_target(asked.target())) {
        conditions.failing(asked)
    } else {
        Some("path_regex")
    }
}

const NO_ROUTE: Fault = Fault::NoRoute;

impl Route {
    /// The path to send: it begins with `/`, or is `*`. Only one that is changed needs a copy.
    /// Slashes behind a prefix that is cut off become one: what begins with two is taken for the
    /// name of a host by readers of URLs.
    pub fn sent_path<'p>(&self, path: &'p [u8]) -> Cow<'p, [u8]> {
        if !self.is_normal_sent {
            return self.cut_off(path);
        }
        if is_plain(path) {
            return self.cut_off(path);
        }
        let normal = path::normal_target(path);
        Cow::Owned(self.cut_off(&normal).into_owned())
    }

    fn cut_off<'p>(&self, path: &'p [u8]) -> Cow<'p, [u8]> {
        if self.cut == 0 {
            return Cow::Borrowed(path);
        }
        let rest = path.get(self.cut as usize..).unwrap_or_default();
        match rest.first() {
            Some(b'/') => {
                let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
                Cow::Borrowed(&rest[slashes - 1..])
            }
            None => Cow::Borrowed(b"/"),
            Some(_) => Cow::Owned([b"/", rest].concat()),
        }
    }
}

impl PathRule {
    fn new(index: usize, route: &RouteConfig, path_match: PathMatch) -> Self {
        let (written, is_exact) = route.exact_path();
        let prefix = match path_match {
            PathMatch::Normal => path::normal(written.as_bytes()),
            PathMatch::Raw => written.as_bytes().to_vec(),
        };
        // "/api/" keeps its last slash, which is the first one of what is sent.
        let slashes = prefix.iter().rev().take_while(|byte| **byte == b'/').count();
        let cut = if route.strip_prefix { prefix.len() - slashes } else { 0 };
        Self {
            decoded: path::decoded(&prefix).into(),
            prefix: prefix.into(),
            is_exact,
            conditions: Conditions::new(route),
            route: Route {
                index: index as u32,
                cut: cut as u32,
                upstream: route.upstream,
                guards: 0,
                is_normal_sent: false,
            },
        }
    }

    /// Who is asked first has the lower one.
    fn rank(&self) -> (bool, Reverse<usize>, Reverse<usize>) {
        let conditions = self.conditions.as_deref().map_or(0, Conditions::count);
        (!self.is_exact, Reverse(self.prefix.len()), Reverse(conditions))
    }

    fn takes_all(&self) -> bool {
        *self.prefix == *b"/" && !self.is_exact && self.conditions.is_none()
    }

    #[inline]
    fn fits(&self, path: &[u8], spelling: Spelling) -> bool {
        let prefix = if spelling == Spelling::Decoded { &self.decoded } else { &self.prefix };
        match path.strip_prefix(&**prefix) {
            Some(rest) => self.fits_before((prefix, rest), path, spelling),
            // An absolute target may have a query and no path.
            None => **prefix == *b"/" && (!self.is_exact || path_of(path).is_empty()),
        }
    }

    /// Whether what is behind the prefix of a path may be there.
    fn fits_before(&self, (prefix, rest): (&[u8], &[u8]), path: &[u8], spelling: Spelling) -> bool {
        if self.is_exact {
            return path_of(path) == prefix;
        }
        if prefix == b"/" {
            return true;
        }
        let is_boundary =
            prefix.ends_with(b"/") || matches!(rest.first(), None | Some(b'/' | b'?'));
        is_boundary
            && (matches!(spelling, Spelling::Plain | Spelling::Decoded) || !climbs_out(rest))
    }
}

/// The host in an authority, without its port and without the dots at its end: a name with the
/// root's dot is the same name. An IPv6 address is spelled in one way.
#[inline]
fn host_of(authority: &[u8]) -> Cow<'_, [u8]> {
    if authority.first() == Some(&b'[') {
        return address_of(authority);
    }
    let end = memchr(b':', authority).unwrap_or(authority.len());
    let mut host = &authority[..end];
    while let Some(shorter) = host.strip_suffix(b".") {
        host = shorter;
    }
    Cow::Borrowed(host)
}

/// The IPv6 address in brackets that `authority` begins with.
fn address_of(authority: &[u8]) -> Cow<'_, [u8]> {
    let end = memchr(b']', authority).map_or(authority.len(), |bracket| bracket + 1);
    let host = &authority[..end];
    let bare = host.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let address = bare.and_then(|bare| std::str::from_utf8(bare).ok()?.parse::<Ipv6Addr>().ok());
    match address {
        Some(address) => Cow::Owned(format!("[{address}]").into_bytes()),
        None => Cow::Borrowed(host),
    }
}

fn find_host<'r>(hosts: &'r [Host], name: &[u8]) -> Option<&'r [PathRule]> {
    let order = |host: &Host| -> Ordering {
        host.name.bytes().cmp(name.iter().map(u8::to_ascii_lowercase))
    };
    hosts.binary_search_by(order).ok().map(|index| hosts[index].paths.as_slice())
}

#[inline]
fn find_path(
    rules: &[PathRule],
    (path, spelling): (&[u8], Spelling),
    asked: Option<&Asked<'_>>,
) -> Option<Route> {
    let holds = |rule: &PathRule| match (&rule.conditions, asked) {
        (None, _) => true,
        (Some(conditions), Some(asked)) => conditions.hold(path, asked),
        (Some(_), None) => false,
    };
    rules.iter().find(|rule| rule.fits(path, spelling) && holds(rule)).map(|rule| rule.route)
}

fn paths_of<'r>(hosts: &'r mut Vec<Host>, name: &str) -> &'r mut Vec<PathRule> {
    let index = match hosts.binary_search_by(|host| host.name.as_str().cmp(name)) {
        Ok(index) => index,
        Err(index) => {
            hosts.insert(index, Host { name: name.to_owned(), paths: Vec::new() });
            index
        }
    };
    &mut hosts[index].paths
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::head::{HeadLimits, RequestHead};

    /// (host, path, strip) in; the index of the entry is the upstream.
    fn routes(table: &[(&str, &str, bool)]) -> Routes {
        let route = |(upstream, (host, path, strip_prefix)): (usize, &(&str, &str, bool))| {
            let host = match host.strip_prefix('*') {
                Some(suffix) => HostPattern::Suffix(suffix.to_owned()),
                None if host.is_empty() => HostPattern::Any,
                None => HostPattern::Exact((*host).to_owned()),
            };
            let path = (*path).to_owned();
            let template = Config::default().routes[0].clone();
            RouteConfig { host, path, upstream, strip_prefix: *strip_prefix, ..template }
        };
        let routes = table.iter().enumerate().map(route).collect();
        Routes::new(&Config { routes, ..Config::default() })
    }

    fn upstream(routes: &Routes, authority: &str, path: &str) -> Option<usize> {
        routes.find(authority.as_bytes(), path.as_bytes()).map(|route| route.upstream)
    }

    #[test]
    fn the_default_takes_everything() {
        let routes = Routes::new(&Config::default());
        for (authority, path) in [("", "/"), ("a:1", "/x?y"), ("[::1]:80", "*"), ("a", "/../b")] {
            let route = routes.find(authority.as_bytes(), path.as_bytes()).unwrap();
            assert_eq!(route.upstream, 0);
            assert_eq!(&*route.sent_path(path.as_bytes()), path.as_bytes());
        }
    }

    #[test]
    fn the_most_specific_host_wins() {
        let routes = routes(&[
            ("", "/", false),
            ("*.example.org", "/", false),
            ("*.b.example.org", "/", false),
            ("a.b.example.org", "/", false),
            ("[::1]", "/", false),
            ("10.0.0.1", "/", false),
        ]);
        let table = [
            ("a.b.example.org", 3),
            ("A.B.Example.ORG:8080", 3),
            ("a.b.example.org.", 3),
            ("a.B.example.org..", 3),
            ("a.b.example.org...:80", 3),
            ("a.b.example.org:", 3),
            ("x.b.example.org", 2),
            ("x.y.b.example.org", 2),
            ("b.example.org", 1),
            ("x.example.org:1", 1),
            ("example.org", 0),
            (".example.org", 0),
            ("badexample.org", 0),
            ("[::1]:8000", 4),
            ("[::1]", 4),
            ("[0:0:0:0:0:0:0:1]:80", 4),
            ("[::0001]", 4),
            ("[::2]", 0),
            ("10.0.0.1:80", 5),
            ("", 0),
        ];
        for (authority, expected) in table {
            assert_eq!(upstream(&routes, authority, "/"), Some(expected), "{authority}");
        }
    }

    #[test]
    fn the_longest_prefix_on_a_boundary_wins() {
        let routes = routes(&[
            ("", "/api", false),
            ("", "/api/v2", false),
            ("", "/files/", false),
            ("", "/a", false),
        ]);
        let table = [
            ("/api", Some(0)),
            ("/api/", Some(0)),
            ("/api/x", Some(0)),
            ("/api?x=/api/v2", Some(0)),
            ("/apix", None),
            ("/api/v2", Some(1)),
            ("/api/v2/x", Some(1)),
            ("/api/v20", Some(0)),
            ("/files/", Some(2)),
            ("/files/x", Some(2)),
            ("/files", None),
            ("/a/b", Some(3)),
            ("/API", None),
            ("/", None),
            ("*", None),
        ];
        for (path, expected) in table {
            assert_eq!(upstream(&routes, "any.example", path), expected, "{path}");
        }
    }

    #[test]
    fn a_host_without_a_fitting_path_passes_on_to_the_next_level() {
        let routes = routes(&[
            ("a.example.org", "/one", false),
            ("*.example.org", "/two", false),
            ("", "/three", false),
        ]);
        assert_eq!(upstream(&routes, "a.example.org", "/one"), Some(0));
        assert_eq!(upstream(&routes, "a.example.org", "/two"), Some(1));
        assert_eq!(upstream(&routes, "a.example.org", "/three"), Some(2));
        assert_eq!(upstream(&routes, "a.example.org", "/four"), None);
    }

    #[test]
    fn the_order_of_the_configuration_does_not_matter() {
        let table = [("", "/", false), ("", "/a", false), ("", "/a/b", false), ("x", "/a", false)];
        let forward = routes(&table);
        let mut reversed = table;
        reversed.reverse();
        let backward = routes(&reversed);
        for authority in ["x", "y"] {
            for path in ["/", "/a", "/a/b", "/a/b/c", "/ab"] {
                let there = upstream(&forward, authority, path);
                let back = upstream(&backward, authority, path).map(|index| 3 - index);
                assert_eq!(there, back, "{authority}{path}");
            }
        }
    }

    #[test]
    fn a_stripped_path_begins_with_a_slash() {
        let routes = routes(&[("", "/api", true), ("", "/files/", true), ("", "/", true)]);
        let table = [
            ("/api", "/"),
            ("/api/", "/"),
            ("/api/x", "/x"),
            ("/api/x?y=/api", "/x?y=/api"),
            ("/api?x=1", "/?x=1"),
            ("/api//x", "/x"),
            ("/api//", "/"),
            ("/api///x//y?//z", "/x/y?//z"),
            ("/files//evil.example/..", "/"),
            ("/files//evil.example", "/evil.example"),
            ("/api/x/../%79?%7a", "/y?%7a"),
            ("/files/", "/"),
            ("/files/a/b", "/a/b"),
            ("/files/?q", "/?q"),
            ("/other?x", "/other?x"),
            ("*", "*"),
        ];
        for (path, expected) in table {
            let route = routes.find(b"h", path.as_bytes()).unwrap();
            assert_eq!(&*route.sent_path(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }

    #[test]
    fn a_raw_path_that_climbs_out_of_its_prefix_does_not_fit() {
        let mut config = Config::default();
        config.server.path_match = PathMatch::Raw;
        config.routes[0].path = "/api".to_owned();
        let routes = Routes::new(&config);
        let out = [
            "/api/..",
            "/api/../admin",
            "/api/%2e%2e/admin",
            "/api/.%2E/admin",
            "/api/%2E./admin",
            "/api/x/../../admin",
            "/api//../admin",
            "/api/./../admin",
            "/api/..%2fadmin",
            "/api/..%5Cadmin",
            "/api/..\\admin",
            "/api/..;/admin",
            "/api/..;v=1/admin",
            "/api/.;x/..",
            "/api/..?x",
        ];
        for path in out {
            assert_eq!(upstream(&routes, "h", path), None, "{path}");
        }
        let within = [
            "/api/x/../y",
            "/api/x/..",
            "/api/...",
            "/api/..x/y",
            "/api/x..",
            "/api/a.b/c",
            "/api/.",
            "/api/%",
            "/api/%2",
            "/api/%zz/..",
            "/api/x?../../..",
            "/api?/../..",
            "/api/.well-known/x",
        ];
        for path in within {
            assert_eq!(upstream(&routes, "h", path), Some(0), "{path}");
        }
    }

    /// A table of routes as a file has it; upstreams `app` and `admin`.
    fn from_file(text: &str) -> (Config, Routes) {
        let upstreams = "[[upstream]]\nname = \"app\"\nbuiltin = \"demo\"\n\
                         [[upstream]]\nname = \"admin\"\nbuiltin = \"demo\"\n";
        let config = crate::config::tests::parse(&format!("{text}\n{upstreams}")).unwrap();
        let routes = Routes::new(&config);
        (config, routes)
    }

    fn ask_with(routes: &Routes, line: &str, fields: &str) -> Result<usize, Fault> {
        let text = format!("{line} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
        let mut head = RequestHead::new();
        let limits = HeadLimits { head_bytes: 8192, target_bytes: 4096, header_count: 30 };
        assert_eq!(head.parse(text.as_bytes(), &limits), Ok(true), "{line}");
        let client = "192.0.2.7".parse().unwrap();
        let asked = Asked { head: &head, text: text.as_bytes(), client };
        routes.choose(&asked).map(|route| route.index as usize)
    }

    fn ask(routes: &Routes, path: &str) -> Result<usize, Fault> {
        ask_with(routes, &format!("GET {path}"), "")
    }

    const GUARDED: &str = "\
        route = [\
        { upstream = \"app\" },\
        { path = \"/admin\", upstream = \"app\", hooks = { deny = [\"10.0.0.0/8\"] } },\
        { path = \"/open\", upstream = \"app\" }]";

    #[test]
    fn a_guarded_route_is_found_by_the_normal_form() {
        let (_, routes) = from_file(GUARDED);
        let guarded = [
            "/admin",
            "/admin/",
            "/admin?x",
            "//admin/",
            "///admin",
            "/./admin",
            "/admin/.",
            "/admin/x/..",
            "/x/../admin/",
            "/x/y/../../admin",
            "/x//..//admin",
            "/../admin",
            "/%61dmin/",
            "/%61%64%6D%69%6e",
            "/x/%2e%2e/admin",
            "/x/.%2E/admin",
            "/%2e/admin",
            "http://a.example//admin",
            "http://a.example/x/../admin",
            "/open/../admin",
        ];
        for path in guarded {
            assert_eq!(ask(&routes, path), Ok(1), "{path}");
        }
        for path in ["/", "/ADMIN", "/administrator", "/admi", "/x/admin", "/open//x", "//open"] {
            assert_ne!(ask(&routes, path), Ok(1), "{path}");
            assert!(ask(&routes, path).is_ok(), "{path}");
        }
    }

    #[test]
    fn what_could_be_read_as_a_guarded_path_is_refused() {
        let (_, routes) = from_file(GUARDED);
        let unclear = [
            "/admin%2f",
            "/admin%2Fx",
            "/%2fadmin",
            "/x%2f..%2fadmin",
            "/x/..%2fadmin",
            "/x/..%5cadmin",
            "/x\\..\\admin",
            "/\\admin",
            "/admin\\x",
            "/admin%5c",
            "/admin;x",
            "/admin;",
            "/admin;x=y/z",
            "/;/admin",
            "/;x/admin",
            "/x/..;/admin",
            "/x/..;a/admin",
            "/admin%3bx",
            "/admin%00",
            "/admin%00.html",
            "/admin%3f",
            "/admin%23",
            "/admin%20",
            "/admin%09",
            "/admin.",
            "/%2561dmin",
            "/%252561dmin",
            "/x/%252e%252e/admin",
            "/admin%252f",
            "/x/%c0%ae%c0%ae/admin",
            "/x/%e0%80%ae%e0%80%ae/admin",
            "/%c0%afadmin",
            "/x/..%u002fadmin",
            "/%ef%bc%8fadmin",
            // Those who do not merge slashes, or know no dot segments, find it there.
            "/admin//../x",
            "/admin/../x",
            "/%61dmin/%2e%2e/open",
            "http://a.example/admin;x",
        ];
        for path in unclear {
            assert_eq!(ask(&routes, path), Err(Fault::PathAmbiguous), "{path}");
        }
        let clear = ["/open;x", "/open%2fx", "/group%2Fproject", "/a;v=1/b", "/caf%C3%A9", "/a\\b"];
        for path in clear {
            assert!(ask(&routes, path).is_ok(), "{path}");
        }
    }

    #[test]
    fn nothing_is_refused_where_all_routes_have_the_same_guards() {
        let (_, routes) = from_file(
            "hooks = { deny = [\"10.0.0.0/8\"] }\nroute = [{ upstream = \"app\" }, \
             { path = \"/admin\", upstream = \"admin\" }]",
        );
        for (path, expected) in [("/admin;x", 0), ("/admin%2fx", 0), ("/x/../admin", 1)] {
            assert_eq!(ask(&routes, path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn a_path_that_could_lead_where_no_route_leads_is_refused() {
        let (_, routes) = from_file("route = [{ path = \"/api\", upstream = \"app\" }]");
        for path in ["/api/%252e%252e/admin", "/api/..%252fadmin", "/api/..%c0%afadmin"] {
            assert_eq!(ask(&routes, path), Err(Fault::PathAmbiguous), "{path}");
        }
        for path in ["/api/../admin", "/api/..%2fadmin", "/api/..;/admin"] {
            assert_eq!(ask(&routes, path), Err(Fault::NoRoute), "{path}");
        }
        assert_eq!(ask(&routes, "/api/x%2fy;z"), Ok(0));
        assert_eq!(ask(&routes, "//api"), Ok(0));
    }

    #[test]
    fn conditions_are_asked_in_a_fixed_order() {
        let (_, routes) = from_file(
            "[[route]]\nupstream = \"app\"\n\
             [[route]]\npath = \"/a\"\nupstream = \"app\"\n\
             [[route]]\npath = \"=/a\"\nupstream = \"app\"\n\
             [[route]]\nupstream = \"app\"\nmethods = [\"POST\", \"PUT\"]\n\
             [[route]]\nupstream = \"app\"\nheaders = { X-Canary = \"1\" }\n\
             [[route]]\nupstream = \"app\"\nheaders = { X-Canary = \"1\" }\n\
             cookies = { canary = \"*\" }\n\
             [[route]]\nupstream = \"app\"\nquery = { \"a b\" = \"c&d\" }\n\
             [[route]]\nupstream = \"app\"\nclients = [\"198.51.100.0/24\"]\n\
             [[route]]\nupstream = \"app\"\npath_regex = '\\.php$'\n",
        );
        let table = [
            ("GET /", "", 0),
            ("GET /a/b", "", 1),
            ("GET /a/", "", 1),
            ("GET /a", "", 2),
            ("GET /a?x", "", 2),
            ("GET /x/../a", "", 2),
            ("POST /", "", 3),
            ("POST /a/x", "", 1),
            ("GET /", "x-canary: 1\r\n", 4),
            ("GET /", "X-CANARY: 0\r\nX-Canary:  1 \r\n", 4),
            ("GET /", "X-Canary: 0\r\n", 0),
            // More conditions first, and then the order of the file.
            ("GET /", "X-Canary: 1\r\nCookie: a=b; canary=x\r\n", 5),
            ("GET /", "X-Canary: 1\r\nCookie: a=b\r\nCookie: canary=\r\n", 5),
            ("POST /", "X-Canary: 1\r\n", 3),
            ("GET /?x=1&a+b=c%26d", "", 6),
            ("GET /?a%20b=c&d", "", 0),
            ("GET /x.php?y", "", 8),
            ("GET /x.ph%70", "", 8),
            ("GET /x?y.php", "", 0),
        ];
        for (line, fields, expected) in table {
            assert_eq!(ask_with(&routes, line, fields), Ok(expected), "{line} {fields:?}");
        }
    }

    #[test]
    fn the_origin_sees_the_bytes_of_the_client_or_their_normal_form() {
        let (_, routes) = from_file(
            "[[route]]\nupstream = \"app\"\n\
             [[route]]\npath = \"/n\"\nupstream = \"app\"\nsend_path = \"normal\"\n\
             [[route]]\npath = \"/r\"\nupstream = \"app\"\n\
             hooks = { rewrite = { prefix = \"/q\" } }",
        );
        let table = [
            ("/x/../y//%7a?%7a", "/x/../y//%7a?%7a"),
            ("/x/../n//%7a%2f?%7a", "/n/z%2F?%7a"),
            ("/n/x", "/n/x"),
            ("//r/./x", "/r/x"),
        ];
        for (path, sent) in table {
            let route = routes.find(b"a", path.as_bytes()).unwrap();
            assert_eq!(&*route.sent_path(path.as_bytes()), sent.as_bytes(), "{path}");
        }
    }

    /// How two kinds of origins would find what to serve: by decoding, and by cutting parameters.
    fn origins_view(path: &str) -> Vec<Vec<u8>> {
        let found = crate::http::readings::readings(path_of(path.as_bytes()));
        found.into_iter().flatten().map(|reading| reading.path).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(1000)
        })]
        #[test]
        fn no_spelling_of_a_guarded_path_is_sent_on_unguarded(
            steps in proptest::collection::vec(
                proptest::sample::select(vec![
                    "/", "//", "/.", "/..", "/admin", "admin", "/open", "/x", "%2f", "%2F", "%5c",
                    "\\", ";", ";a=b", "%3b", "%2e", "%252e", "%252f", "%00", "%c0%af", "%61dmin",
                    "%2561dmin", ".", "%20", "?", "a",
                ]),
                1..9,
            )
        ) {
            let (_, routes) = from_file(GUARDED);
            let path = format!("/{}", steps.concat());
            let is_admin = |path: &[u8]| {
                path.strip_prefix(b"/admin").is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
            };
            let guarded = origins_view(&path).iter().any(|path| is_admin(path));
            match ask(&routes, &path) {
                Ok(1) | Err(Fault::PathAmbiguous) => {}
                Ok(_) => prop_assert!(!guarded, "{path}"),
                Err(other) => prop_assert!(false, "{path}: {other:?}"),
            }
        }
    }
}
