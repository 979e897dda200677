//! Which upstream a request goes to, and with which path.
//!
//! In: the effective authority and the raw path of a request. Out: a `Route`, or `None` for 404.
//! The most specific host level decides first (exact name, longest `*.suffix`, any host), then
//! the longest path prefix; a level whose paths do not fit passes on to the next. The order of
//! the configuration never matters. A lookup allocates nothing, decodes nothing and rewrites
//! nothing: prefixes match the bytes that the origin will see. `/api/../admin` therefore begins
//! with `/api`, and since the origin may resolve the dots, no route but `/` takes a path that
//! climbs out of its prefix.

use std::borrow::Cow;
use std::cmp::Ordering;

use memchr::memchr;

use crate::config::{Config, HostPattern, RouteConfig};

/// All routes of one configuration, in the order in which they are asked.
#[derive(Debug)]
pub struct Routes {
    /// Set when a single route takes everything: most configurations, and nothing to look up.
    only: Option<Route>,
    /// Sorted by name.
    exact: Vec<Host>,
    /// Sorted by suffix, each with its leading dot.
    suffixes: Vec<Host>,
    any: Vec<PathPrefix>,
}

/// Where one request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index in `Config::routes`.
    pub index: u32,
    /// Index in `Config::upstreams`.
    pub upstream: usize,
    /// Bytes of the path that the origin does not see.
    cut: usize,
}

#[derive(Debug)]
struct Host {
    name: String,
    /// Longest first.
    paths: Vec<PathPrefix>,
}

#[derive(Debug)]
struct PathPrefix {
    prefix: String,
    route: Route,
}

impl Routes {
    pub fn new(config: &Config) -> Self {
        let mut routes =
            Self { only: None, exact: Vec::new(), suffixes: Vec::new(), any: Vec::new() };
        for (index, route) in config.routes.iter().enumerate() {
            let paths = match &route.host {
                HostPattern::Any => &mut routes.any,
                HostPattern::Exact(name) => paths_of(&mut routes.exact, name),
                HostPattern::Suffix(suffix) => paths_of(&mut routes.suffixes, suffix),
            };
            let place = paths.partition_point(|other| comes_first(&other.prefix, &route.path));
            paths.insert(place, PathPrefix::new(index, route));
        }
        if let ([any], true, true) =
            (routes.any.as_slice(), routes.exact.is_empty(), routes.suffixes.is_empty())
        {
            routes.only = (any.prefix == "/").then_some(any.route);
        }
        routes
    }

    /// `authority` is `host[:port]` or empty; `path` begins with `/` and may carry a query, or
    /// is `*`.
    pub fn find(&self, authority: &[u8], path: &[u8]) -> Option<Route> {
        if self.only.is_some() {
            return self.only;
        }
        let host = host_of(authority);
        find_host(&self.exact, host)
            .and_then(|paths| find_path(paths, path))
            .or_else(|| self.find_suffix(host, path))
            .or_else(|| find_path(&self.any, path))
    }

    /// Whether a route names the host of `authority`, rather than taking any.
    pub fn names(&self, authority: &[u8]) -> bool {
        let host = host_of(authority);
        find_host(&self.exact, host).is_some()
            || (1..host.len())
                .filter(|dot| host[*dot] == b'.')
                .any(|dot| find_host(&self.suffixes, &host[dot..]).is_some())
    }

    /// Each dot begins a shorter suffix, so the first one that fits is the longest.
    fn find_suffix(&self, host: &[u8], path: &[u8]) -> Option<Route> {
        if self.suffixes.is_empty() {
            return None;
        }
        (1..host.len())
            .filter(|dot| host[*dot] == b'.')
            .filter_map(|dot| find_host(&self.suffixes, &host[dot..]))
            .find_map(|paths| find_path(paths, path))
    }
}

impl Route {
    /// The path to send: it begins with `/`, or is `*`. Only a query that follows the stripped
    /// prefix at once (`/api?x`, sent as `/?x`) needs a copy. Slashes behind the prefix become one:
    /// what begins with two is taken for the name of a host by readers of URLs.
    pub fn sent_path<'p>(&self, path: &'p [u8]) -> Cow<'p, [u8]> {
        if self.cut == 0 {
            return Cow::Borrowed(path);
        }
        let rest = path.get(self.cut..).unwrap_or_default();
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

impl PathPrefix {
    fn new(index: usize, route: &RouteConfig) -> Self {
        // "/api/" keeps its last slash, which is the first one of what is sent.
        let prefix_bytes = route.path.trim_end_matches('/').len();
        let cut = if route.strip_prefix { prefix_bytes } else { 0 };
        Self {
            prefix: route.path.clone(),
            route: Route { index: index as u32, upstream: route.upstream, cut },
        }
    }

    fn fits(&self, path: &[u8]) -> bool {
        if self.prefix == "/" {
            return true;
        }
        let Some(rest) = path.strip_prefix(self.prefix.as_bytes()) else { return false };
        let is_boundary =
            self.prefix.ends_with('/') || matches!(rest.first(), None | Some(b'/' | b'?'));
        is_boundary && !climbs_out(rest)
    }
}

/// The host in an authority, without its port and without the root's dot.
fn host_of(authority: &[u8]) -> &[u8] {
    let end = if authority.first() == Some(&b'[') {
        memchr(b']', authority).map(|bracket| bracket + 1)
    } else {
        memchr(b':', authority)
    };
    let host = &authority[..end.unwrap_or(authority.len())];
    host.strip_suffix(b".").unwrap_or(host)
}

fn find_host<'r>(hosts: &'r [Host], name: &[u8]) -> Option<&'r [PathPrefix]> {
    let order = |host: &Host| -> Ordering {
        host.name.bytes().cmp(name.iter().map(u8::to_ascii_lowercase))
    };
    hosts.binary_search_by(order).ok().map(|index| hosts[index].paths.as_slice())
}

fn find_path(paths: &[PathPrefix], path: &[u8]) -> Option<Route> {
    paths.iter().find(|prefix| prefix.fits(path)).map(|prefix| prefix.route)
}

fn paths_of<'r>(hosts: &'r mut Vec<Host>, name: &str) -> &'r mut Vec<PathPrefix> {
    let index = match hosts.binary_search_by(|host| host.name.as_str().cmp(name)) {
        Ok(index) => index,
        Err(index) => {
            hosts.insert(index, Host { name: name.to_owned(), paths: Vec::new() });
            index
        }
    };
    &mut hosts[index].paths
}

/// Longest first; the alphabet only makes the order a total one.
fn comes_first(prefix: &str, other: &str) -> bool {
    (other.len(), prefix) < (prefix.len(), other)
}

/// Whether the dot segments in `rest` lead above its start. Read as the most lenient origin
/// would: `%2e` is a dot, `\`, `%2f` and `%5c` separate, `;` ends a segment's name, and empty
/// segments do not count.
pub(crate) fn climbs_out(rest: &[u8]) -> bool {
    let mut depth: i32 = 0;
    let mut segment = Segment::Empty;
    let mut at = 0;
    while at < rest.len() && rest[at] != b'?' {
        let (byte, length) = decoded(&rest[at..]);
        at += length;
        segment = match (byte, segment) {
            (b'/' | b'\\', ended) => {
                depth += ended.climb();
                if depth < 0 {
                    return true;
                }
                Segment::Empty
            }
            (b';', Segment::Dot) => Segment::DotParameter,
            (b';', Segment::DotDot) => Segment::DotDotParameter,
            (_, ended @ (Segment::DotParameter | Segment::DotDotParameter)) => ended,
            (b'.', Segment::Empty) => Segment::Dot,
            (b'.', Segment::Dot) => Segment::DotDot,
            _ => Segment::Name,
        };
    }
    depth + segment.climb() < 0
}

/// What a path segment has turned out to be so far.
#[derive(Clone, Copy)]
enum Segment {
    Empty,
    Dot,
    DotParameter,
    DotDot,
    DotDotParameter,
    Name,
}

impl Segment {
    fn climb(self) -> i32 {
        match self {
            Self::Empty | Self::Dot | Self::DotParameter => 0,
            Self::DotDot | Self::DotDotParameter => -1,
            Self::Name => 1,
        }
    }
}

/// The first byte of `text` (which is not empty), percent-decoded, and the bytes it took.
fn decoded(text: &[u8]) -> (u8, usize) {
    let digit = |byte: u8| (byte as char).to_digit(16);
    if let [b'%', high, low, ..] = *text
        && let (Some(high), Some(low)) = (digit(high), digit(low))
    {
        return ((high * 16 + low) as u8, 3);
    }
    (text[0], 1)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("x.b.example.org", 2),
            ("x.y.b.example.org", 2),
            ("b.example.org", 1),
            ("x.example.org:1", 1),
            ("example.org", 0),
            (".example.org", 0),
            ("badexample.org", 0),
            ("[::1]:8000", 4),
            ("[::1]", 4),
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
            ("/api///x//y?//z", "/x//y?//z"),
            ("/files//evil.example/..", "/evil.example/.."),
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
    fn a_path_that_climbs_out_of_its_prefix_does_not_fit() {
        let routes = routes(&[("", "/api", true)]);
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
}
