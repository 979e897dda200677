//! `[docker]`, and what the labels of a container say.
//!
//! In: TOML, JSON and texts, by way of serde; and labels, which anybody can write who may start a
//! container. Out: which engine is asked, and routes and origins of the same types as those of the
//! configuration, or what is wrong with a label. Labels name no files, users, hooks or webhooks.
//! Nothing here asks an engine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{nearest, quoted};
use super::health::{CheckPath, HealthConfig};
use super::kinds::own::Name;
use super::kinds::plain::Whole;
use super::kinds::{As, Given, Kind, Switched, Wrong, text_kind};
use super::origins::{OriginConfig, Url};
use super::upstreams::{Prefix, RouteConfig, RouteHost, UpstreamConfig};
use crate::address::UNIX_BYTES_MAX;

/// What all labels for ringway begin with.
const PREFIX: &str = "ringway.";

/// Hosts that one container may have.
const HOSTS_MAX: usize = 16;

const LABELS: [&str; 8] =
    ["enable", "host", "path", "port", "weight", "health", "network", "service"];

text_kind!(
    Socket: PathBuf,
    |text| {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        let is_right = path.starts_with('/') && path.len() <= UNIX_BYTES_MAX;
        let form = "the absolute path of a Unix socket, such as \"/var/run/docker.sock\"";
        is_right.then(|| path.into()).ok_or_else(|| form.to_owned())
    },
    |path| path.to_string_lossy().into_owned()
);
text_kind!(
    /// "" is none in particular.
    NetworkName = |text: &str| text.is_empty() || is_network(text),
    "the name of a network, such as \"shop_default\""
);

fn is_network(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Containers of a Docker engine that want to be served: those with the label ringway.enable=true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DockerConfig {
    /// The engine's socket, such as "/var/run/docker.sock"; "" asks none. Containers that come, go
    /// and change are followed, and no configured route or upstream is ever changed by them. Who
    /// may write to this socket is root on its machine: give ringway a filtered one where you can.
    #[serde(with = "Switched::<Socket>")]
    pub socket: Option<PathBuf>,
    /// By whose addresses containers in several networks are reached, where a label
    /// ringway.network does not say it. "" is one that ringway is in too, else the first by name.
    #[serde(with = "As::<NetworkName>")]
    pub network: String,
}

/// What the labels of a container say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) routes: Vec<RouteConfig>,
    /// Without it, the only one that the container exposes.
    pub(crate) port: Option<u16>,
    pub(crate) weight: u32,
    pub(crate) health: Option<HealthConfig>,
    pub(crate) network: Option<String>,
    pub(crate) service: Option<String>,
}

impl Labels {
    /// `None` where the container does not want to be served. The error names the label.
    pub(crate) fn read(labels: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let own = |name: &str| labels.get(&format!("{PREFIX}{name}")).map(String::as_str);
        match own("enable") {
            Some("true") => {}
            None | Some("false") => return Ok(None),
            Some(other) => {
                let found = quoted(other);
                return Err(format!("ringway.enable: found {found}, expected true or false"));
            }
        }
        // A slip in the name of a condition would open what it was to narrow.
        for name in labels.keys().filter_map(|label| label.strip_prefix(PREFIX)) {
            if !LABELS.contains(&name) {
                let near = nearest(name, LABELS.into_iter());
                let near = near.map_or(String::new(), |near| format!(", did you mean {near}?"));
                let shown = quoted(&format!("{PREFIX}{name}"));
                return Err(format!("there is no label {shown}{near}"));
            }
        }
        let path = own("path").map(|text| read::<Prefix>("path", text)).transpose()?;
        let hosts: Vec<&str> = own("host").unwrap_or_default().split(',').map(str::trim).collect();
        if hosts.len() > HOSTS_MAX {
            return Err(format!("ringway.host: more than {HOSTS_MAX} hosts"));
        }
        let mut routes: Vec<RouteConfig> = Vec::new();
        for host in hosts {
            let mut route = RouteConfig::everything_to_the_first();
            route.is_found = true;
            route.host = read::<RouteHost>("host", host)?;
            if let Some(path) = &path {
                route.path.clone_from(path);
            }
            if routes.iter().all(|other| other.host != route.host) {
                routes.push(route);
            }
        }
        let health = own("health").map(|text| read::<CheckPath>("health", text)).transpose()?;
        Ok(Some(Self {
            routes,
            port: number::<u16, 1, 65_535>("port", own("port"))?,
            weight: number::<u32, 1, 1000>("weight", own("weight"))?.unwrap_or(1),
            health: health.map(|path| HealthConfig { path, ..HealthConfig::default() }),
            network: own("network").map(|text| read::<NetworkName>("network", text)).transpose()?,
            service: own("service").map(|text| read::<Name>("service", text)).transpose()?,
        }))
    }
}

fn read<K: Kind>(label: &str, text: &str) -> Result<K::Value, String> {
    taken::<K>(label, Given::Text(text))
}

fn number<T, const MIN: i64, const MAX: i64>(
    label: &str,
    text: Option<&str>,
) -> Result<Option<T>, String>
where
    Whole<T, MIN, MAX>: Kind<Value = T>,
{
    let given = |text| match str::parse(text) {
        Ok(number) => Given::Whole(number),
        Err(_) => Given::Text(text),
    };
    text.map(|text| taken::<Whole<T, MIN, MAX>>(label, given(text))).transpose()
}

fn taken<K: Kind>(label: &str, given: Given<'_>) -> Result<K::Value, String> {
    K::take(given).map_err(|wrong| match wrong {
        Wrong::Because(why) => format!("{PREFIX}{label}: {why}"),
        Wrong::Type | Wrong::Meaningless => format!("{PREFIX}{label}: expected {}", K::EXPECTED),
    })
}

/// The upstream of containers that offer the same.
pub(crate) fn upstream_of(
    name: &str,
    health: Option<HealthConfig>,
    found: Vec<OriginConfig>,
) -> Result<UpstreamConfig, String> {
    let name = read::<Name>("service", name)?;
    let demo = UpstreamConfig::demo();
    Ok(UpstreamConfig { name, is_demo: false, is_found: true, health, found, ..demo })
}

/// A container at `host`, which is an address.
pub(crate) fn origin_of(host: &str, port: u16, weight: u32) -> Result<OriginConfig, String> {
    let ip: std::net::IpAddr =
        host.parse().map_err(|_| format!("{} is no address", quoted(host)))?;
    let url = format!("http://{}", std::net::SocketAddr::new(ip, port));
    Ok(OriginConfig { weight, ..taken::<Url>("port", Given::Text(&url))? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pair = |line: &str| line.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()));
        text.lines().filter_map(pair).collect()
    }

    #[test]
    fn labels_are_read_as_the_configuration_is() {
        let read = Labels::read(&labels(
            "ringway.enable=true\nringway.host=Shop.example, *.shop.example\nringway.path=/api\n\
             ringway.port=8080\nringway.weight=3\nringway.health=/up?now\nother.label=x",
        ));
        let read = read.unwrap().unwrap();
        let names: Vec<_> = read.routes.iter().map(RouteConfig::name).collect();
        assert_eq!(names, ["shop.example/api", "*.shop.example/api"]);
        assert_eq!((read.port, read.weight), (Some(8080), 3));
        assert_eq!(read.health.unwrap().path, "/up?now");
    }

    #[test]
    fn a_container_that_does_not_ask_is_left_alone() {
        for text in ["", "ringway.port=80", "ringway.enable=false\nringway.port=x"] {
            assert_eq!(Labels::read(&labels(text)), Ok(None), "{text}");
        }
    }

    #[test]
    fn labels_are_hostile_input_and_each_refusal_names_its_label() {
        for (label, start) in [
            ("enable=yes", "ringway.enable: found \"yes\", expected true or false"),
            ("hots=a", "there is no label \"ringway.hots\", did you mean host?"),
            ("users_file=/etc/passwd", "there is no label \"ringway.users_file\""),
            ("host=a b", "ringway.host: found \"a b\", expected"),
            ("host=a\r\nX: y", "ringway.host: "),
            ("path=api", "ringway.path: found \"api\", expected"),
            ("port=0", "ringway.port: found 0, expected a whole number from 1 to 65535"),
            ("port=65536", "ringway.port: found 65536"),
            ("port=http", "ringway.port: found \"http\""),
            ("weight=1001", "ringway.weight: found 1001"),
            ("health=http://elsewhere/", "ringway.health: found"),
            ("network=a b", "ringway.network: found"),
            ("service=a/b", "ringway.service: found"),
        ] {
            let (name, value) = label.split_once('=').unwrap();
            let mut all = labels("ringway.enable=true");
            all.insert(format!("ringway.{name}"), value.to_owned());
            let error = Labels::read(&all).unwrap_err();
            assert!(error.starts_with(start), "{label}: {error}");
        }
        let many = vec!["a"; HOSTS_MAX + 1].join(",");
        let error = Labels::read(&labels(&format!("ringway.enable=true\nringway.host={many}")));
        assert_eq!(error, Err("ringway.host: more than 16 hosts".to_owned()));
        let long = "x".repeat(1 << 20);
        let error = Labels::read(&labels(&format!("ringway.enable={long}"))).unwrap_err();
        assert!(error.len() < 300, "{}", error.len());
    }

    #[test]
    fn a_container_is_an_origin_by_its_address_alone() {
        assert_eq!(origin_of("172.18.0.2", 80, 1).unwrap().url(), "http://172.18.0.2");
        assert_eq!(origin_of("fd00::2", 81, 1).unwrap().url(), "http://[fd00::2]:81");
        for host in ["", "evil.example", "172.18.0.2:80", "/run/x"] {
            assert!(origin_of(host, 80, 1).is_err(), "{host}");
        }
        assert!(upstream_of("a b", None, Vec::new()).is_err());
        assert!(upstream_of(&"a".repeat(65), None, Vec::new()).is_err());
    }
}
