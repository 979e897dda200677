//! A request that goes by a route.
//!
//! In goes a head that asks for what is ours; out come the route that takes it, why the others do
//! not, and the upstream with its origins. Why a route loses is found out by asking a table that
//! holds no other.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::report::{Report, Section};
use super::{addresses, hooks};
use crate::address::Address;
use crate::cli::explain::case::{Case, Ending, Explained, lines_of, shown};
use crate::cli::output::Failure;
use crate::config::{
    Config, DnsConfig, HostPattern, Networks, PathMatch, Policy, RouteConfig, UpstreamConfig,
};
use crate::fault::Fault;
use crate::http::path::{is_plain, normal_target};
use crate::routing::{self, Asked, Route, Routes};
use crate::upstream::host::host_rule;

/// Routes that are named with the reason why they lost; of the rest, their number.
const LOSERS_SHOWN_MAX: usize = 20;

/// Readings that are shown.
const READINGS_SHOWN_MAX: usize = 40;

const OTHER_HOST: &str = "is for another host";

pub(super) fn request(case: &Case<'_>, report: &mut Report) -> Explained {
    let asked = asked(case);
    let path = case.head.path(&case.text);
    let found = case.routes.choose(&asked);
    let section = report.section("route");
    section.fact("mode", "reverse proxy");
    section.fact("chosen", found.ok().and_then(|found| chosen(case, found)));
    let (others, hidden) = losers(case, found.ok());
    section.fact("others", others);
    if hidden > 0 {
        section.fact("and more", hidden);
    }
    readings(case, &asked, report);
    let route = match found {
        Ok(route) => route,
        Err(fault @ Fault::PathAmbiguous) => {
            let reason = "an origin could take the path for one of a route with other guards: \
                         see `readings`, and server.path_match";
            return Ok(Ending::Refused(fault, reason.to_owned()));
        }
        Err(fault) => {
            // Those of containers are known to the ringway that serves, and to no file.
            let more = match case.config.docker.socket {
                Some(_) => "no configured route fits: see GET /upstreams for those of containers",
                None => "no route fits",
            };
            return Ok(Ending::Refused(fault, more.to_owned()));
        }
    };
    buffers(case, route, report);
    let sent_path = route.sent_path(path);
    let mut hooked = hooks::ask(case, route, report);
    if let Some(ending) = hooked.ending.take() {
        return Ok(ending);
    }
    let sent_path = hooked.target.as_deref().map_or(sent_path, Cow::Borrowed);
    report.section("path").fact("sent", shown(&sent_path));
    let upstream = &case.config.upstreams[hooked.upstream];
    let origins = origins(&case.config.dns, upstream)?;
    let section = report.section("upstream");
    section.fact("name", upstream.name.as_str());
    section.fact("origins", origins);
    whose_turn(upstream, section);
    let own_times = own_times(upstream, &case.config.routes[route.index as usize]);
    if !own_times.is_empty() {
        section.fact("timeouts", own_times);
    }
    let first = upstream.all_origins().next().map(|origin| origin.authority.as_str());
    let host = host_rule(&upstream.host, &case.head, first);
    let prefix = case.config.routes[route.index as usize].cut_prefix().as_bytes();
    let head = case.rewritten(&sent_path, host, (true, false), prefix, Some(&hooked));
    report.section("sent").fact("head", lines_of(&head));
    Ok(Ending::Sent(format!("upstream {}", upstream.name)))
}

/// By what one of several origins is chosen. Who is ill just now is known to the ringway that
/// serves.
fn whose_turn(upstream: &UpstreamConfig, section: &mut Section) {
    if upstream.origins.len() < 2 && upstream.health.is_none() && upstream.eject.is_none() {
        return;
    }
    let balance = match upstream.balance {
        Policy::ConsistentHash => format!("{} by {}", Policy::ConsistentHash, upstream.hash),
        balance => balance.to_string(),
    };
    section.fact("balance", balance);
    if let Some(sticky) = &upstream.sticky {
        section.fact("sticky", format!("by the cookie {}", sticky.cookie));
    }
    section.fact("now", "`ringway upstreams` says who is asked, and why others are not");
}

/// What the route holds of bodies, if it does.
fn buffers(case: &Case<'_>, route: Route, report: &mut Report) {
    let Some(route) = case.config.routes.get(route.index as usize) else { return };
    let (requests, responses) = (route.buffer_requests, route.buffer_responses);
    if requests > 0 || responses > 0 {
        let section = report.section("buffers");
        section.fact("request bytes", requests);
        section.fact("response bytes", responses);
        let config = &case.config.buffers;
        section.fact("file bytes", config.temp_bytes.min(config.temp_body_bytes));
    }
}

/// The timeouts that are other ones than those of [timeouts]; the route has the last word.
fn own_times(upstream: &UpstreamConfig, route: &RouteConfig) -> Map<String, Value> {
    let tables = [&upstream.timeouts, &route.timeouts].into_iter().flatten();
    let spelled = tables.filter_map(|own| serde_json::to_value(own).ok());
    let spelled = spelled.filter_map(|own| own.as_object().cloned());
    spelled.flatten().collect()
}

fn asked<'a>(case: &'a Case<'_>) -> Asked<'a> {
    Asked { head: &case.head, text: &case.text, client: case.client }
}

/// The normal form of the path, and what else origins may take it for. A path that is plain says
/// what it is.
fn readings(case: &Case<'_>, asked: &Asked<'_>, report: &mut Report) {
    let target = case.head.path(&case.text);
    if is_plain(target) || case.config.server.path_match == PathMatch::Raw {
        return;
    }
    let section = report.section("readings");
    section.fact("normal form", shown(&normal_target(target)));
    let name = |route: Option<Route>| {
        let route = route.and_then(|route| case.config.routes.get(route.index as usize));
        route.map_or("no route".to_owned(), RouteConfig::name)
    };
    let Some(found) = case.routes.readings(asked) else { return };
    let lines = found.iter().map(|found| {
        let conflict = if found.is_conflict { ", which other hooks guard" } else { "" };
        format!("{}: {}{conflict}", shown(&found.reading.path), name(found.route))
    });
    let lines: BTreeSet<_> = lines.collect();
    section.fact("all", lines.into_iter().take(READINGS_SHOWN_MAX).collect::<Vec<_>>());
}

fn chosen(case: &Case<'_>, route: Route) -> Option<String> {
    let config = case.config.routes.get(route.index as usize)?;
    let host = match &config.host {
        HostPattern::Exact(_) => "names this very host",
        HostPattern::Suffix(_) => "names all hosts below a domain",
        HostPattern::Any => "takes any host",
    };
    let path = match config.exact_path() {
        (path, true) => format!("path {path} alone"),
        (path, false) => format!("path {path}"),
    };
    let conditions = config.conditions();
    let more = if conditions.is_empty() { "" } else { ", " };
    Some(format!("{}: {host}, {path}{more}{}", config.name(), conditions.join(" ")))
}

/// Each route that does not take the request, with the reason; and how many are not named.
fn losers(case: &Case<'_>, winner: Option<Route>) -> (Vec<String>, usize) {
    let winner = winner.map(|route| route.index as usize);
    let routes = case.config.routes.iter().enumerate();
    let others: Vec<_> = routes.filter(|(index, _)| Some(*index) != winner).collect();
    let winner = winner.and_then(|index| case.config.routes.get(index));
    let mut reasons: Vec<(&RouteConfig, String)> =
        others.into_iter().map(|(_, route)| (route, why_not(case, route, winner))).collect();
    let count = reasons.len();
    // Those that came close are what is asked about.
    reasons.sort_by_key(|(_, reason)| *reason == OTHER_HOST);
    let lines = reasons.iter().take(LOSERS_SHOWN_MAX);
    let lines = lines.map(|(route, reason)| format!("{}: {reason}", route.name())).collect();
    (lines, count.saturating_sub(LOSERS_SHOWN_MAX))
}

fn why_not(case: &Case<'_>, route: &RouteConfig, winner: Option<&RouteConfig>) -> String {
    let asked = asked(case);
    let is_raw = case.config.server.path_match == PathMatch::Raw;
    let fits = |route: &RouteConfig| alone(case.config, route).choose(&asked) != NO_ROUTE;
    if let Some(winner) = winner.filter(|_| fits(route)) {
        return why_later(route, winner).to_owned();
    }
    let with_any_path = RouteConfig { path: "/".to_owned(), ..unconditional(route) };
    if !fits(&with_any_path) {
        return OTHER_HOST.to_owned();
    }
    if fits(&unconditional(route)) {
        let key = routing::unfulfilled(route, &asked).unwrap_or("conditions");
        return format!("its condition `{key}` does not hold");
    }
    let target = case.head.path(&case.text);
    let path = if is_raw { target.to_vec() } else { normal_target(target) };
    let Some(rest) = path.strip_prefix(route.exact_path().0.as_bytes()) else {
        return "is for another path".to_owned();
    };
    let is_boundary = route.path.ends_with('/') || matches!(rest.first(), None | Some(b'/' | b'?'));
    let why = match (route.exact_path().1, is_boundary) {
        (true, _) => "is for that one path",
        (false, true) => "its prefix is left again by dot segments",
        (false, false) => "its prefix ends within a segment of the path",
    };
    why.to_owned()
}

/// Why `route` is asked after `winner`, if both fit.
fn why_later(route: &RouteConfig, winner: &RouteConfig) -> &'static str {
    let length = |route: &RouteConfig| route.exact_path().0.len();
    if route.host != winner.host {
        "fits, but its host is less specific"
    } else if route.exact_path().1 != winner.exact_path().1 {
        "fits, but the other is for this very path"
    } else if length(route) != length(winner) {
        "fits, but its path is shorter"
    } else if route.conditions().len() < winner.conditions().len() {
        "fits, but has fewer conditions"
    } else {
        "fits, but comes later in the file"
    }
}

const NO_ROUTE: Result<Route, Fault> = Err(Fault::NoRoute);

/// The same without conditions beside host and path.
fn unconditional(route: &RouteConfig) -> RouteConfig {
    RouteConfig {
        path_regex: None,
        methods: Vec::new(),
        headers: Vec::new(),
        query: Vec::new(),
        cookies: Vec::new(),
        clients: Networks::default(),
        ..route.clone()
    }
}

/// A table with one route.
fn alone(config: &Config, route: &RouteConfig) -> Routes {
    let route = RouteConfig { hooks: None, ..route.clone() };
    Routes::new(&Config { routes: vec![route], server: config.server.clone(), ..Config::default() })
}

/// A line for each origin.
fn origins(dns: &DnsConfig, upstream: &UpstreamConfig) -> Result<Vec<String>, Failure> {
    if upstream.is_demo {
        return Ok(vec!["the built-in demo, on a port of its own".to_owned()]);
    }
    let hosts = upstream.all_origins().map(addresses::Asked::of);
    let found = addresses::of_origins(dns, hosts).map_err(Failure::unable)?;
    let line = |(origin, addresses): (&crate::config::OriginConfig, Vec<_>)| {
        let weight = match origin.weight {
            1 => String::new(),
            weight => format!(" (weight {weight})"),
        };
        format!("{}{weight}: {}", origin.url(), list(&addresses))
    };
    Ok(upstream.all_origins().zip(found).map(line).collect())
}

fn list(addresses: &[Address]) -> String {
    if addresses.is_empty() {
        return "no address now".to_owned();
    }
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::own_times;
    use crate::cli::explain::tests::{ROUTES, ask, fact};

    #[test]
    fn what_a_route_buffers_is_shown() {
        let buffering = "route=[{ upstream = \"default\", buffer_requests = \"64KiB\" }]";
        let answer = ask(&[buffering], "GET /", &["Host: a"]);
        assert_eq!(fact(&answer, "buffers.request bytes"), 65_536);
        assert_eq!(fact(&answer, "buffers.response bytes"), 0);
        assert_eq!(fact(&answer, "buffers.file bytes"), 256 << 20);
    }

    #[test]
    fn what_a_path_may_be_read_as_is_shown() {
        let guarded = "route=[{ upstream = \"default\" }, { path = \"/admin\", upstream = \"api\", \
                       hooks = { deny = [\"10.0.0.0/8\"] } }, { upstream = \"api\", \
                       methods = [\"PUT\"] }]";
        let settings = [ROUTES[0], guarded];
        let answer = ask(&settings, "GET /x/../%61dmin/y", &["Host: a"]);
        assert_eq!(fact(&answer, "route.chosen"), "*/admin: takes any host, path /admin");
        assert_eq!(fact(&answer, "readings.normal form"), "/admin/y");
        assert_eq!(fact(&answer, "path.sent"), "/x/../%61dmin/y");
        let answer = ask(&settings, "GET /admin;x", &["Host: a"]);
        assert_eq!(fact(&answer, "answer.status"), "400 Bad Request");
        assert_eq!(fact(&answer, "answer.error"), "path_ambiguous");
        let readings: Vec<String> = serde_json::from_value(fact(&answer, "readings.all")).unwrap();
        assert!(readings.contains(&"/admin: */admin, which other hooks guard".to_owned()));
        assert!(readings.contains(&"/admin;x: */".to_owned()), "{readings:?}");
        let answer = ask(&settings, "GET /", &["Host: a"]);
        let others: Vec<String> = serde_json::from_value(fact(&answer, "route.others")).unwrap();
        assert!(
            others.contains(&"*/ methods=PUT: its condition `methods` does not hold".to_owned()),
            "{others:?}"
        );
        let answer = ask(&settings, "PUT /", &["Host: a"]);
        let chosen = "*/ methods=PUT: takes any host, path /, methods=PUT";
        assert_eq!(fact(&answer, "route.chosen"), chosen);
        assert_eq!(fact(&answer, "route.others")[0], "*/: fits, but has fewer conditions");
    }

    #[test]
    fn the_timeouts_of_a_route_and_its_upstream_are_named() {
        let text = "[[upstream]]\nname = \"a\"\norigins = [\"http://127.0.0.1:1\"]\n\
            timeouts = { read = \"5m\", pool = \"1s\" }\n\
            [[route]]\nupstream = \"a\"\ntimeouts = { read = \"1h\" }\n";
        let config = crate::config::tests::parse(text).unwrap();
        let own = own_times(&config.upstreams[0], &config.routes[0]);
        assert_eq!(serde_json::Value::from(own), serde_json::json!({ "read": "1h", "pool": "1s" }));
    }
}
