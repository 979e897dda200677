//! Where requests go: `[[upstream]]` and `[[route]]`.
//!
//! In: those tables as they were written. Out: upstreams with their origins, and routes that name
//! them by index, or the first refusal. Names are compared here and never resolved.

use std::time::Duration;

use super::Checked;
use super::hooks;
use super::values::{duration, flag, number, refusal, word};
use crate::config::error::{Problem, quoted};
use crate::config::names::{
    HOST_POLICY_FORM, NAME_FORM, ROUTE_HOST_FORM, ROUTE_PATH_FORM, authority, host_pattern,
    is_name, is_route_path, parse_origin, split_authority,
};
use crate::config::raw::{Given, RawConfig, RawOrigin, RawRoute, RawUpstream, Table};
use crate::config::{HostPolicy, OriginConfig, RouteConfig, UpstreamConfig};

const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn upstreams(raw: &RawConfig) -> Checked<Vec<UpstreamConfig>> {
    let Some(given) = &raw.upstream else {
        return Ok(vec![UpstreamConfig::demo()]);
    };
    if given.value.is_empty() {
        return Err(given.refuse_for(Problem::Missing { what: "an upstream: there must be one" }));
    }
    let mut upstreams: Vec<UpstreamConfig> = Vec::with_capacity(given.value.len());
    for given in &given.value {
        let upstream = upstream(given)?;
        if upstreams.iter().any(|other| other.name == upstream.name) {
            let what = format!("there is already an upstream named {:?}", upstream.name);
            let name = given.value.name.as_ref().map_or(&given.place, |name| &name.place);
            return Err(refusal(name, Problem::Duplicate { what }));
        }
        upstreams.push(upstream);
    }
    Ok(upstreams)
}

fn upstream(given: &Given<Table<RawUpstream>>) -> Checked<UpstreamConfig> {
    let raw = &given.value;
    let Some(name) = &raw.name else {
        return Err(given.refuse_for(Problem::Missing { what: "key `name`" }));
    };
    if !is_name(&name.value) {
        return Err(name.refuse(NAME_FORM));
    }
    let is_demo = word(raw.builtin.as_ref(), &[("demo", true)], false)?;
    let origins = match &raw.origins {
        Some(origins) if is_demo => {
            let rule = "an upstream has either `builtin` or `origins`, not both";
            return Err(origins.refuse_for(Problem::Conflict { rule }));
        }
        Some(list) => origins(list)?,
        None if is_demo => Vec::new(),
        None => {
            let what = "key `origins`, or `builtin = \"demo\"`";
            return Err(given.refuse_for(Problem::Missing { what }));
        }
    };
    Ok(UpstreamConfig {
        name: name.value.clone(),
        is_demo,
        origins,
        host: raw.host.as_ref().map_or(Ok(HostPolicy::Pass), host_policy)?,
        fail_timeout: duration(
            raw.fail_timeout.as_ref(),
            Duration::ZERO..=HOUR,
            UpstreamConfig::FAIL_TIMEOUT,
        )?,
        max_connections: match &raw.max_connections {
            None => None,
            given => Some(number(given.as_ref(), 1..=1_000_000, 0)?),
        },
    })
}

fn origins(list: &Given<Vec<Given<RawOrigin>>>) -> Checked<Vec<OriginConfig>> {
    if list.value.is_empty() {
        return Err(list.refuse_for(Problem::Missing { what: "an origin: there must be one" }));
    }
    let mut origins: Vec<OriginConfig> = Vec::with_capacity(list.value.len());
    for given in &list.value {
        let url = &given.value.url;
        let (host, port) = parse_origin(url).map_err(|expected| {
            given.refuse_for(Problem::Unexpected { found: quoted(url), expected: expected.into() })
        })?;
        if origins.iter().any(|other| other.host == host && other.port == port) {
            let what = format!("there is already an origin {url:?}; `weight` gives it more");
            return Err(given.refuse_for(Problem::Duplicate { what }));
        }
        let weight = number(given.value.weight.as_ref(), 1..=1000, 1)?;
        let authority = authority(&host, port);
        origins.push(OriginConfig { host, port, weight, authority });
    }
    Ok(origins)
}

fn host_policy(given: &Given<String>) -> Checked<HostPolicy> {
    match given.value.as_str() {
        "pass" => Ok(HostPolicy::Pass),
        "origin" => Ok(HostPolicy::Origin),
        fixed if split_authority(fixed).is_some() => Ok(HostPolicy::Fixed(fixed.to_owned())),
        _ => Err(given.refuse(HOST_POLICY_FORM)),
    }
}

pub(super) fn routes(
    raw: &[Given<Table<RawRoute>>],
    upstreams: &[UpstreamConfig],
) -> Checked<Vec<RouteConfig>> {
    if raw.is_empty() {
        return Ok(vec![RouteConfig::everything_to_the_first()]);
    }
    let mut routes: Vec<RouteConfig> = Vec::with_capacity(raw.len());
    for given in raw {
        let route = route(given, upstreams)?;
        if routes.iter().any(|other| other.host == route.host && other.path == route.path) {
            let what = "there is already a route with this host and path".to_owned();
            return Err(given.refuse_for(Problem::Duplicate { what }));
        }
        routes.push(route);
    }
    Ok(routes)
}

fn route(given: &Given<Table<RawRoute>>, upstreams: &[UpstreamConfig]) -> Checked<RouteConfig> {
    let raw = &given.value;
    let default = RouteConfig::everything_to_the_first();
    let Some(name) = &raw.upstream else {
        return Err(given.refuse_for(Problem::Missing { what: "key `upstream`" }));
    };
    let upstream = hooks::upstream(name, upstreams)?;
    Ok(RouteConfig {
        host: match &raw.host {
            None => default.host,
            Some(host) => host_pattern(&host.value).ok_or_else(|| host.refuse(ROUTE_HOST_FORM))?,
        },
        path: match &raw.path {
            None => default.path,
            Some(path) if is_route_path(&path.value) => path.value.clone(),
            Some(path) => return Err(path.refuse(ROUTE_PATH_FORM)),
        },
        upstream,
        strip_prefix: flag(raw.strip_prefix.as_ref(), default.strip_prefix),
        hooks: hooks::hooks(&raw.hooks, upstreams)?,
        inherits_hooks: flag(raw.inherit_hooks.as_ref(), default.inherits_hooks),
    })
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
                &own("origins = [\"https://a\"]"),
                "3:12: upstream[0].origins[0]: found \"https://a\", expected an http:// URL",
            ),
            (
                &own("origins = [\"http://a\", { url = \"http://A:80/\" }]"),
                "3:24: upstream[0].origins[1]: there is already an origin \"http://A:80/\"",
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
            (
                "[[route]]\nupstream = \"demo\"\nhost = \"a:80\"",
                "3:8: route[0].host: found \"a:80\", expected a host name without a port",
            ),
        ]);
    }
}
