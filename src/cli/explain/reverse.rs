//! A request that goes by a route.
//!
//! In goes a head that asks for what is ours; out come the route that takes it, why the others do
//! not, and the upstream with its origins. Why a route loses is found out by asking a table that
//! holds no other.

use std::borrow::Cow;

use super::report::Report;
use super::{addresses, hooks};
use crate::cli::explain::case::{Case, Ending, Explained, lines_of, shown};
use crate::cli::output::Failure;
use crate::config::{Config, DnsConfig, HostPattern, RouteConfig, UpstreamConfig};
use crate::fault::Fault;
use crate::routing::{Route, Routes};
use crate::upstream::host::host_rule;

/// Routes that are named with the reason why they lost; of the rest, their number.
const LOSERS_SHOWN_MAX: usize = 20;

const OTHER_HOST: &str = "is for another host";

pub(super) fn request(case: &Case<'_>, report: &mut Report) -> Explained {
    let (authority, path) = (case.head.authority.of(&case.text), case.head.path(&case.text));
    let found = case.routes.find(authority, path);
    let section = report.section("route");
    section.fact("mode", "reverse proxy");
    section.fact("chosen", found.and_then(|found| chosen(case, found)));
    let (others, hidden) = losers(case, found);
    section.fact("others", others);
    if hidden > 0 {
        section.fact("and more", hidden);
    }
    let Some(route) = found else {
        return Ok(Ending::Refused(Fault::NoRoute, "no route fits".to_owned()));
    };
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
    let first = upstream.origins.first().map(|origin| origin.authority.as_str());
    let host = host_rule(&upstream.host, &case.head, first);
    let head = case.rewritten(&sent_path, host, true, Some(&hooked));
    report.section("sent").fact("head", lines_of(&head));
    Ok(Ending::Sent(format!("upstream {}", upstream.name)))
}

fn chosen(case: &Case<'_>, route: Route) -> Option<String> {
    let config = case.config.routes.get(route.index as usize)?;
    let host = match &config.host {
        HostPattern::Exact(_) => "names this very host",
        HostPattern::Suffix(_) => "names all hosts below a domain",
        HostPattern::Any => "takes any host",
    };
    Some(format!("{}: {host}, path {}", config.name(), config.path))
}

/// Each route that does not take the request, with the reason; and how many are not named.
fn losers(case: &Case<'_>, winner: Option<Route>) -> (Vec<String>, usize) {
    let winner = winner.map(|route| route.index as usize);
    let routes = case.config.routes.iter().enumerate();
    let others: Vec<_> = routes.filter(|(index, _)| Some(*index) != winner).collect();
    let winner = winner.and_then(|index| case.config.routes.get(index));
    let mut reasons: Vec<(&RouteConfig, &str)> =
        others.into_iter().map(|(_, route)| (route, why_not(case, route, winner))).collect();
    let count = reasons.len();
    // Those that came close are what is asked about.
    reasons.sort_by_key(|(_, reason)| *reason == OTHER_HOST);
    let lines = reasons.iter().take(LOSERS_SHOWN_MAX);
    let lines = lines.map(|(route, reason)| format!("{}: {reason}", route.name())).collect();
    (lines, count.saturating_sub(LOSERS_SHOWN_MAX))
}

fn why_not(case: &Case<'_>, route: &RouteConfig, winner: Option<&RouteConfig>) -> &'static str {
    let (authority, path) = (case.head.authority.of(&case.text), case.head.path(&case.text));
    let fits = |route: &RouteConfig| alone(route).find(authority, path).is_some();
    if let Some(winner) = winner.filter(|_| fits(route)) {
        return if route.host == winner.host {
            "fits, but its path is shorter"
        } else {
            "fits, but its host is less specific"
        };
    }
    let with_any_path = RouteConfig { path: "/".to_owned(), ..route.clone() };
    if !fits(&with_any_path) {
        return OTHER_HOST;
    }
    let Some(rest) = path.strip_prefix(route.path.as_bytes()) else {
        return "is for another path";
    };
    let is_boundary = route.path.ends_with('/') || matches!(rest.first(), None | Some(b'/' | b'?'));
    if is_boundary {
        "its prefix is left again by dot segments"
    } else {
        "its prefix ends within a segment of the path"
    }
}

/// A table with one route.
fn alone(route: &RouteConfig) -> Routes {
    Routes::new(&Config { routes: vec![route.clone()], ..Config::default() })
}

/// A line for each origin.
fn origins(dns: &DnsConfig, upstream: &UpstreamConfig) -> Result<Vec<String>, Failure> {
    if upstream.is_demo {
        return Ok(vec!["the built-in demo, on a port of its own".to_owned()]);
    }
    let hosts = upstream.origins.iter().map(|origin| (origin.host.as_str(), origin.port));
    let found = addresses::of_origins(dns, hosts).map_err(Failure::unable)?;
    let line = |(origin, addresses): (&crate::config::OriginConfig, Vec<_>)| {
        let weight = match origin.weight {
            1 => String::new(),
            weight => format!(" (weight {weight})"),
        };
        format!("http://{}{weight}: {}", origin.authority, list(&addresses))
    };
    Ok(upstream.origins.iter().zip(found).map(line).collect())
}

fn list(addresses: &[std::net::SocketAddr]) -> String {
    if addresses.is_empty() {
        return "no address now".to_owned();
    }
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
