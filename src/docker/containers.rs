//! What the list of an engine comes to.
//!
//! In goes the engine's answer, which is not believed, and whoever may start a container has
//! written the labels in it; out come upstreams with their routes, and why others have none.
//! Containers of one service are one upstream. Nothing here asks the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde::Deserialize;
use serde_json::Value;

use crate::config::docker::{Labels, origin_of, upstream_of};
use crate::config::{FoundUpstream, OriginConfig, RouteConfig};

/// Containers that are looked at.
const CONTAINERS_MAX: usize = 1000;

/// Refusals that are kept.
const REFUSED_MAX: usize = 100;

/// Longer names are cut where they are shown.
const SHOWN_CHARS: usize = 64;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) upstreams: Vec<FoundUpstream>,
    pub(super) refused: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    state: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    created: i64,
    #[serde(default)]
    ports: Option<Vec<Port>>,
    #[serde(default)]
    network_settings: Option<NetworkSettings>,
    #[serde(default)]
    host_config: Option<HostConfig>,
    #[serde(default)]
    health: Option<HealthState>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    private_port: u16,
    #[serde(rename = "Type", default)]
    kind: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default)]
    networks: Option<BTreeMap<String, Option<Endpoint>>>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(rename = "IPAddress", default)]
    v4: String,
    #[serde(rename = "GlobalIPv6Address", default)]
    v6: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    #[serde(default)]
    network_mode: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthState {
    #[serde(default)]
    status: String,
}

/// What one container adds.
struct Offer {
    labels: Labels,
    origin: OriginConfig,
}

/// Reads a list. `networks` are the configured one, and those that ringway is in; containers that
/// are `stopping` are passed over.
pub(super) fn listed(
    answer: &[u8],
    networks: (&str, &BTreeSet<String>),
    is_stopping: impl Fn(&str) -> bool,
) -> Result<Listed, String> {
    let raw: Vec<Value> =
        serde_json::from_slice(answer).map_err(|error| format!("what is no list: {error}"))?;
    let mut listed = Listed::default();
    let mut containers = Vec::new();
    if raw.len() > CONTAINERS_MAX {
        listed.refuse(format!("of {} containers {CONTAINERS_MAX} are looked at", raw.len()));
    }
    for one in raw.into_iter().take(CONTAINERS_MAX) {
        match serde_json::from_value::<Container>(one) {
            Ok(container) => containers.push(container),
            Err(error) => listed.refuse(format!("what is no container: {error}")),
        }
    }
    // The oldest first: what it has, it keeps.
    containers.sort_by(|one, other| (one.created, &one.id).cmp(&(other.created, &other.id)));
    let mut services: Vec<(String, Vec<Offer>)> = Vec::new();
    for container in &containers {
        if is_stopping(&container.id) || !container.is_well() {
            continue;
        }
        let offered = match container.offer(networks) {
            Ok(None) => continue,
            Ok(Some(offer)) => container.service(&offer.labels).map(|name| (name, offer)),
            Err(error) => Err(error),
        };
        match offered {
            Ok((name, offer)) => match services.iter_mut().find(|(known, _)| *known == name) {
                Some((_, offers)) => offers.push(offer),
                None => services.push((name, vec![offer])),
            },
            Err(error) => listed.refuse(format!("{}: {error}", container.shown())),
        }
    }
    for (name, offers) in services {
        match upstream(&name, offers) {
            Ok(found) => listed.upstreams.push(found),
            Err(error) => listed.refuse(format!("{}: {error}", cut(&name))),
        }
    }
    Ok(listed)
}

impl Listed {
    fn refuse(&mut self, line: String) {
        if self.refused.len() < REFUSED_MAX {
            self.refused.push(line);
        }
    }
}

/// All containers of a service: each of its routes leads to all of them, and the newest says how
/// they are checked.
fn upstream(name: &str, offers: Vec<Offer>) -> Result<FoundUpstream, String> {
    let health = offers.last().and_then(|newest| newest.labels.health.clone());
    let mut routes: Vec<RouteConfig> = Vec::new();
    let mut origins: Vec<OriginConfig> = Vec::new();
    for Offer { labels, origin } in offers {
        for route in labels.routes {
            if !routes.contains(&route) {
                routes.push(route);
            }
        }
        if origins.iter().all(|other| other.url() != origin.url()) {
            origins.push(origin);
        }
    }
    Ok(FoundUpstream { upstream: upstream_of(name, health, origins)?, routes })
}

impl Container {
    /// It runs, and where it has a check of its own, that is good.
    fn is_well(&self) -> bool {
        let is_running = self.state.is_empty() || self.state == "running";
        let is_bad = match &self.health {
            Some(health) => matches!(&*health.status, "starting" | "unhealthy"),
            // Engines before 28 say it in words only.
            None => {
                self.status.contains("(unhealthy)") || self.status.contains("(health: starting)")
            }
        };
        is_running && !is_bad
    }

    /// Its first name, as far as it can be shown.
    fn shown(&self) -> String {
        let name = self.names.iter().flatten().next().map_or(&*self.id, |name| name);
        format!("container {}", cut(name.trim_start_matches('/')))
    }

    /// `None` where it does not want to be served.
    fn offer(&self, networks: (&str, &BTreeSet<String>)) -> Result<Option<Offer>, String> {
        let Some(labels) = &self.labels else { return Ok(None) };
        let Some(labels) = Labels::read(labels)? else { return Ok(None) };
        let host = self.address(labels.network.as_deref().unwrap_or_default(), networks)?;
        let port = labels.port.map_or_else(|| self.only_port(), Ok)?;
        let origin = origin_of(&host, port, labels.weight)?;
        Ok(Some(Offer { labels, origin }))
    }

    fn only_port(&self) -> Result<u16, String> {
        let tcp =
            self.ports.iter().flatten().filter(|port| port.kind.is_empty() || port.kind == "tcp");
        let ports: BTreeSet<u16> = tcp.map(|port| port.private_port).collect();
        match ports.len() {
            1 => Ok(ports.into_iter().next().unwrap_or_default()),
            0 => Err("it exposes no port: write the label ringway.port".to_owned()),
            count => Err(format!("it exposes {count} ports: write the label ringway.port")),
        }
    }

    /// Its address in the network of its label, else in the configured one, else in one that
    /// ringway is in too, else in the first by name.
    fn address(
        &self,
        label: &str,
        (configured, near): (&str, &BTreeSet<String>),
    ) -> Result<String, String> {
        if self.host_config.as_ref().is_some_and(|config| config.network_mode == "host") {
            return Ok("127.0.0.1".to_owned());
        }
        let none = BTreeMap::new();
        let networks = self.network_settings.as_ref().and_then(|it| it.networks.as_ref());
        let networks = networks.unwrap_or(&none);
        let address = |name: &str| {
            let endpoint = networks.get(name)?.as_ref()?;
            let address = if endpoint.v4.is_empty() { &endpoint.v6 } else { &endpoint.v4 };
            (!address.is_empty()).then(|| address.clone())
        };
        if !label.is_empty() {
            let missing = || format!("ringway.network: it has no address in {}", cut(label));
            return address(label).ok_or_else(missing);
        }
        let shared = networks.keys().find(|name| near.contains(*name) && address(name).is_some());
        let wanted = Some(configured).filter(|name| !name.is_empty()).and_then(address);
        wanted
            .or_else(|| shared.and_then(|name| address(name)))
            .or_else(|| networks.keys().find_map(|name| address(name)))
            .ok_or_else(|| "it has no address in any network".to_owned())
    }

    /// What its upstream is called: by its label, by its service of Compose, by itself.
    fn service(&self, labels: &Labels) -> Result<String, String> {
        let all = self.labels.as_ref();
        let compose = |name: &str| all?.get(&format!("com.docker.compose.{name}"));
        let own = match (&labels.service, compose("project"), compose("service")) {
            (Some(service), ..) => service.clone(),
            (None, Some(project), Some(service)) => format!("{project}.{service}"),
            _ => {
                let name = self.names.iter().flatten().next();
                name.map(|name| name.trim_start_matches('/')).unwrap_or_default().to_owned()
            }
        };
        let name = format!("docker.{own}");
        let is_right = |name: &str| upstream_of(name, None, Vec::new()).is_ok();
        if is_right(&name) {
            return Ok(name);
        }
        Err(format!(
            "its upstream cannot be called {}: write the label ringway.service with a short name",
            cut(&name)
        ))
    }
}

/// As a line of the log can show it.
fn cut(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).filter(|letter| !letter.is_control()).collect()
}

/// The names of the networks of the container that `answer` describes.
pub(super) fn networks_of(answer: &[u8]) -> BTreeSet<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        #[serde(default)]
        network_settings: NetworkSettings,
    }
    let read = serde_json::from_slice::<Inspected>(answer);
    let networks = read.ok().and_then(|read| read.network_settings.networks);
    networks.into_iter().flatten().map(|(name, _)| name).collect()
}

/// The id of the container that this process is in, if it is in one: its engine mounts files of its
/// own into it, from a folder that is called so; and the host is called so, unless it has a name.
pub(super) fn own_id() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    id_in(&mounts).or_else(|| Some(host.trim().to_owned()).filter(|host| is_id(host)))
}

fn id_in(mounts: &str) -> Option<String> {
    let ids = mounts.split("/containers/").skip(1);
    let ids = ids.filter_map(|rest| rest.split_once("/hostname").map(|(id, _)| id));
    ids.into_iter().find(|id| is_id(id)).map(str::to_owned)
}

fn is_id(text: &str) -> bool {
    matches!(text.len(), 12 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(id: &str, labels: Value) -> Value {
        json!({
            "Id": id,
            "Names": [format!("/{id}")],
            "Labels": labels,
            "State": "running",
            "Status": "Up 3 minutes",
            "Created": 5,
            "Ports": [
                { "IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" },
                { "IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" },
            ],
            "HostConfig": { "NetworkMode": "default" },
            "NetworkSettings": {
                "Networks": { "bridge": { "IPAddress": format!("10.0.0.{id}") } },
            },
        })
    }

    fn compose(id: &str, more: &[(&str, &str)]) -> Value {
        let mut labels = json!({
            "ringway.enable": "true",
            "ringway.host": "shop.example",
            "com.docker.compose.project": "shop",
            "com.docker.compose.service": "web",
        });
        for (label, value) in more {
            labels[*label] = (*value).into();
        }
        container(id, labels)
    }

    fn read(list: &Value) -> Listed {
        let near = BTreeSet::from(["near".to_owned()]);
        listed(list.to_string().as_bytes(), ("", &near), |id| id == "9").unwrap()
    }

    fn shown(listed: &Listed) -> Vec<String> {
        let of = |found: &FoundUpstream| {
            let origins: Vec<_> = found.upstream.found.iter().map(OriginConfig::url).collect();
            let routes: Vec<_> = found.routes.iter().map(RouteConfig::name).collect();
            format!("{}: {} > {}", found.upstream.name, routes.join(" "), origins.join(" "))
        };
        listed.upstreams.iter().map(of).collect()
    }

    #[test]
    fn containers_of_a_service_are_one_upstream() {
        let single = container("4", json!({ "ringway.enable": "true", "ringway.path": "/api" }));
        let named = container("5", json!({ "ringway.enable": "true", "ringway.service": "x" }));
        let stopping = compose("9", &[]);
        let list = json!([compose("1", &[]), compose("2", &[]), single, named, stopping]);
        assert_eq!(
            shown(&read(&list)),
            [
                "docker.shop.web: shop.example/ > http://10.0.0.1 http://10.0.0.2",
                "docker.4: */api > http://10.0.0.4",
                "docker.x: */ > http://10.0.0.5",
            ]
        );
        assert_eq!(read(&list).refused, [] as [&str; 0]);
        assert_eq!(read(&json!([])), Listed::default());
    }

    #[test]
    fn whoever_is_not_well_is_left_out() {
        for (key, value) in [
            ("State", json!("paused")),
            ("State", json!("exited")),
            ("Status", json!("Up 3 minutes (unhealthy)")),
            ("Status", json!("Up 3 seconds (health: starting)")),
            ("Health", json!({ "Status": "unhealthy" })),
        ] {
            let mut ill = compose("1", &[]);
            ill[key] = value;
            let listed = read(&json!([ill, compose("2", &[])]));
            assert_eq!(
                shown(&listed),
                ["docker.shop.web: shop.example/ > http://10.0.0.2"],
                "{key}"
            );
        }
    }

    #[test]
    fn the_network_is_that_of_the_label_or_one_that_is_shared() {
        let mut several = compose("1", &[]);
        several["NetworkSettings"]["Networks"] = json!({
            "a": { "IPAddress": "10.1.0.1" },
            "near": { "IPAddress": "10.2.0.1" },
            "six": { "IPAddress": "", "GlobalIPv6Address": "fd00::1" },
        });
        let address =
            |list: &Value| shown(&read(&json!([list])))[0].split(" > ").nth(1).unwrap().to_owned();
        assert_eq!(address(&several), "http://10.2.0.1");
        several["Labels"]["ringway.network"] = "six".into();
        assert_eq!(address(&several), "http://[fd00::1]");
        several["Labels"]["ringway.network"] = "b".into();
        assert_eq!(
            read(&json!([several])).refused,
            ["container 1: ringway.network: it has no address in b"]
        );
        several["HostConfig"]["NetworkMode"] = "host".into();
        assert_eq!(address(&several), "http://127.0.0.1");
    }

    #[test]
    fn each_refusal_says_what_to_write() {
        let mut two = compose("1", &[]);
        two["Ports"] =
            json!([{ "PrivatePort": 80, "Type": "tcp" }, { "PrivatePort": 81, "Type": "tcp" }]);
        let mut none = compose("2", &[]);
        none["Ports"] = json!([{ "PrivatePort": 53, "Type": "udp" }]);
        let long = compose("3", &[("com.docker.compose.project", &"p".repeat(70))]);
        let slip = compose("4", &[("ringway.prot", "80")]);
        let garbage = json!({ "Id": 7 });
        let listed = read(&json!([two, none, long, slip, garbage]));
        assert_eq!(shown(&listed), [] as [&str; 0]);
        for (refused, expected) in listed.refused.iter().zip([
            "what is no container: ",
            "container 1: it exposes 2 ports: write the label ringway.port",
            "container 2: it exposes no port: write the label ringway.port",
            "container 3: its upstream cannot be called docker.ppp",
            "container 4: there is no label \"ringway.prot\", did you mean port?",
        ]) {
            assert!(refused.starts_with(expected), "{refused}");
        }
        assert_eq!(listed.refused.len(), 5);
    }

    #[test]
    fn lists_that_are_none_and_lists_without_end_are_bounded() {
        let near = BTreeSet::new();
        for garbage in ["", "{}", "[", "null", "[[[["] {
            assert!(listed(garbage.as_bytes(), ("", &near), |_| false).is_err(), "{garbage}");
        }
        let deep = "[".repeat(1 << 20);
        assert!(listed(deep.as_bytes(), ("", &near), |_| false).is_err());
        let many: Vec<Value> = (0..CONTAINERS_MAX + 500).map(|_| json!({ "Id": 1 })).collect();
        assert_eq!(read(&many.into()).refused.len(), REFUSED_MAX);
    }

    #[test]
    fn the_container_that_this_is_has_an_id() {
        let id = "0123456789ab".repeat(5) + "0123";
        let mounts = format!(
            "1 2 8:1 /var/lib/docker/containers/{id}/resolv.conf /etc/resolv.conf rw - ext4 x rw\n\
             3 2 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 x rw\n"
        );
        assert_eq!(id_in(&mounts), Some(id));
        assert_eq!(id_in("1 2 8:1 /var/lib/containers/x/hostname /etc/hostname rw"), None);
        let inspected =
            br#"{"NetworkSettings":{"Networks":{"a":{"IPAddress":"10.0.0.1"},"b":null}}}"#;
        assert_eq!(networks_of(inspected), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!(networks_of(b"garbage"), BTreeSet::new());
    }
}
