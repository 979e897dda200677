//! The environment as a source: `RINGWAY_SECTION__KEY` for every key, and the flat `PROXY_` names.
//!
//! In: the process's variables. Space around a value does not count, and an empty one is as good
//! as unset. Out: settings, the flat names before the others, because those are more precise.
//! Whether there is such a key, and whether it takes the value, is found out where the sources
//! meet. What Kubernetes puts there for a Service called `ringway` or `proxy` is passed over.

use std::env;
use std::ffi::OsString;
use std::net::IpAddr;

use super::error::{ConfigError, Location, NOT_TEXT, Problem};
use super::flat::FLAT_KEYS;
use super::sources::{Origin, Setting, VARIABLE_PREFIX, VARIABLE_SEPARATOR, Value};

const FLAT_PREFIX: &str = "PROXY_";

/// The settings that come from variables.
#[derive(Debug, Default)]
pub(super) struct Environment {
    settings: Vec<Setting>,
    /// The names of variables that look like ours and are a Service's.
    service_links: Vec<String>,
}

/// By which a process that is replaced hands its sockets over. No key, although it is called like
/// one.
pub(crate) const UPGRADE_VARIABLE: &str = "RINGWAY_UPGRADE_FD";

impl Environment {
    pub(super) fn of_process() -> Result<Self, ConfigError> {
        Self::of(env::vars_os())
    }

    pub(super) fn of(
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let (mut flat, mut precise, mut service_links) = (Vec::new(), Vec::new(), Vec::new());
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if name == UPGRADE_VARIABLE {
                continue;
            }
            let (path, settings) = if let Some(key) = name.strip_prefix(VARIABLE_PREFIX) {
                (key.split(VARIABLE_SEPARATOR).map(str::to_ascii_lowercase).collect(), &mut precise)
            } else if let Some(path) = flat_path(&name) {
                (path, &mut flat)
            } else {
                continue;
            };
            let Ok(value) = value.into_string() else {
                return Err(ConfigError::new(
                    Location::Setting(name),
                    Problem::Said(NOT_TEXT.to_owned()),
                ));
            };
            let value = value.trim();
            if is_service_link(&name, value) {
                service_links.push(name);
            } else if !value.is_empty() {
                let (value, origin) = (Value::Typed(value.to_owned()), Origin::Variable(name));
                settings.push(Setting { path, value, origin });
            }
        }
        // Items of a list are made up in their order, and that of the variables is random.
        precise.sort_by_cached_key(|setting| {
            setting.path.iter().map(|key| rank(key)).collect::<Vec<_>>()
        });
        flat.append(&mut precise);
        service_links.sort();
        Ok(Self { settings: flat, service_links })
    }

    pub(super) fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// What has been passed over, in one line.
    pub(super) fn warning(&self) -> Option<String> {
        let first = self.service_links.first()?;
        let more = match self.service_links.len() - 1 {
            0 => String::new(),
            count => format!(" and {count} more like it"),
        };
        Some(format!(
            "{first}{more}: no key of ringway's, but what Kubernetes says of a Service of this \
             name. It is passed over; `enableServiceLinks: false` in the pod's spec leaves it out"
        ))
    }
}

/// Whether Kubernetes has set the variable for a Service, of the kind that Docker once had for its
/// links: `X_SERVICE_HOST`, `X_SERVICE_PORT` and its named ones, `X_PORT` with a URL, and
/// `X_PORT_80_TCP` with its parts. No key is called like one of these, and none takes such a URL.
fn is_service_link(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") {
        return value.parse::<IpAddr>().is_ok();
    }
    let port_name = name.rsplit_once("_SERVICE_PORT").map(|(_, port_name)| port_name);
    if port_name.is_some_and(|name| name.is_empty() || name.starts_with('_')) {
        return value.parse::<u16>().is_ok();
    }
    if name.ends_with("_PORT") && !name.contains(VARIABLE_SEPARATOR) {
        let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|way| value.starts_with(way));
        if is_url {
            return true;
        }
    }
    let parts = ["_PROTO", "_PORT", "_ADDR"];
    let whole = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
    let mut words = whole.rsplitn(3, '_');
    let is_protocol = words.next().is_some_and(|word| ["TCP", "UDP", "SCTP"].contains(&word));
    let is_number = words.next().is_some_and(|word| word.parse::<u16>().is_ok());
    is_protocol && is_number && words.next().is_some_and(|service| service.ends_with("_PORT"))
}

fn flat_path(name: &str) -> Option<Vec<String>> {
    let key = name.strip_prefix(FLAT_PREFIX)?;
    let (_, path) = FLAT_KEYS.iter().find(|(flat, _)| flat.to_ascii_uppercase() == key)?;
    Some(path.map(str::to_owned).to_vec())
}

/// What to sort by: 10 comes after 9.
fn rank(key: &str) -> (usize, String) {
    (key.parse().unwrap_or(usize::MAX), key.to_owned())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::time::Duration;

    use super::*;
    use crate::config::tests::{from, refused};
    use crate::config::{Config, Flags, HostPolicy, MemoryMax};

    fn with(variables: &[(&str, &str)]) -> Config {
        from("", variables, &Flags::default())
    }

    #[test]
    fn every_flat_name_is_read_with_and_without_a_fraction() {
        for fraction in ["", ".0"] {
            let value = |number: &str| format!("{number}{fraction}");
            let config = with(&[
                ("PROXY_HOST", "127.0.0.1"),
                ("PROXY_PORT", &value("9000")),
                ("PROXY_MAX_CONNECTIONS", &value("200")),
                ("PROXY_MAX_KEEPALIVE_CONNECTIONS", &value("40")),
                ("PROXY_KEEPALIVE_EXPIRY", &value("31")),
                ("PROXY_CONNECT_TIMEOUT", &value("11")),
                ("PROXY_READ_TIMEOUT", &value("61")),
                ("PROXY_WRITE_TIMEOUT", &value("12")),
                ("PROXY_POOL_TIMEOUT", &value("6")),
                ("PROXY_MEMORY_CHECK_INTERVAL", &value("33")),
                ("PROXY_MAX_MEMORY_USAGE", &value("300")),
                ("PROXY_CLEANUP_THRESHOLD", &value("401")),
            ]);
            let seconds = Duration::from_secs;
            assert_eq!(config.server.listeners, ["127.0.0.1:9000".parse().unwrap()]);
            assert_eq!((config.pool.max_connections, config.pool.max_idle), (200, 40));
            assert_eq!(config.pool.idle_expiry, seconds(31));
            assert_eq!(config.timeouts.connect, seconds(11));
            assert_eq!(config.timeouts.read, seconds(61));
            assert_eq!(config.timeouts.write, seconds(12));
            assert_eq!(config.timeouts.pool, seconds(6));
            assert_eq!(config.memory.check_interval, seconds(33));
            assert_eq!(config.memory.max, MemoryMax::Mb(300));
            assert_eq!(config.memory.cleanup_mb, 401);
        }
    }

    #[test]
    fn a_variable_reaches_keys_of_every_kind() {
        let config = with(&[
            ("RINGWAY_LOG__ACCESS", "true\n"),
            ("RINGWAY_SERVER__VIA", " edge "),
            ("RINGWAY_TIMEOUTS__READ", "1m30s"),
            ("RINGWAY_ALERTS__ERROR_RATE", "1"),
            ("RINGWAY_BUFFERS__CHUNK_BYTES", "8KiB"),
            ("RINGWAY_MEMORY__MAX_MB", "auto"),
            ("RINGWAY_FORWARD__CONNECT_PORTS", "443,8000-8999"),
            ("RINGWAY_FORWARD__ALLOW_CLIENTS", "[\"10.0.0.0/8\"]"),
            ("RINGWAY_FORWARD__REALM", "12"),
        ]);
        assert!(config.log.access);
        assert_eq!(config.server.via, "edge");
        assert_eq!(config.timeouts.read, Duration::from_secs(90));
        assert!((config.alerts.error_rate - 1.0).abs() < f64::EPSILON);
        assert_eq!(config.buffers.chunk_bytes, 8192);
        assert_eq!(config.memory.max, MemoryMax::Auto);
        assert_eq!(config.forward.connect_ports, [443..=443, 8000..=8999]);
        assert!(config.forward.allow_clients.contains("10.0.0.1".parse().unwrap()));
        assert_eq!(config.forward.realm, "12");
    }

    #[test]
    fn upstreams_can_be_made_of_variables_alone() {
        let mut variables: Vec<(String, String)> = Vec::new();
        for index in 0..11 {
            let name = |key: &str| format!("RINGWAY_UPSTREAM__{index}__{key}");
            variables.push((name("ORIGINS"), format!("http://a{index},http://b{index}")));
            variables.push((name("NAME"), format!("u{index}")));
        }
        variables.push(("RINGWAY_UPSTREAM__10__HOST".to_owned(), "origin".to_owned()));
        variables.reverse();
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let upstreams = with(&variables).upstreams;
        let names: Vec<_> = upstreams.iter().map(|upstream| upstream.name.clone()).collect();
        assert_eq!(names, (0..11).map(|index| format!("u{index}")).collect::<Vec<_>>());
        assert_eq!(upstreams[10].origins[1].host, "b10");
        assert_eq!(upstreams[10].host, HostPolicy::Origin);
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let variables =
            [("RINGWAY_SERVER__PORT", ""), ("PROXY_PORT", ""), ("RINGWAY_NO__SUCH_KEY", " \n")];
        assert_eq!(with(&variables), Config::default());
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        let variables =
            [("PROXY_PASSWORD", "x"), ("HTTP_PROXY", "x"), ("ringway_server__port", "x")];
        assert_eq!(with(&variables), Config::default());
    }

    #[test]
    fn what_kubernetes_says_of_a_service_is_passed_over_with_one_warning() {
        let links = [
            ("RINGWAY_SERVICE_HOST", "10.96.0.7"),
            ("RINGWAY_SERVICE_PORT", "8000"),
            ("RINGWAY_SERVICE_PORT_HTTP", "8000"),
            ("RINGWAY_SERVICE_PORT_GRPC__WEB", "8001"),
            ("RINGWAY_PORT", "tcp://10.96.0.7:8000"),
            ("RINGWAY_PORT_8000_TCP", "tcp://10.96.0.7:8000"),
            ("RINGWAY_PORT_8000_TCP_PROTO", "tcp"),
            ("RINGWAY_PORT_8000_TCP_PORT", "8000"),
            ("RINGWAY_PORT_8000_TCP_ADDR", "10.96.0.7"),
            ("RINGWAY_ADMIN_SERVICE_HOST", "fd00::7"),
            ("RINGWAY_ADMIN_PORT", "udp://[fd00::7]:9901"),
            ("PROXY_PORT", "tcp://10.96.0.8:3128"),
        ];
        assert_eq!(with(&links), Config::default());
        for (count, expected) in [(1, "RINGWAY_SERVICE_HOST: no"), (3, " and 2 more like it: no")] {
            let variables = links.iter().take(count);
            let variables = variables.map(|(name, value)| ((*name).into(), (*value).into()));
            let warning = Environment::of(variables).unwrap().warning().unwrap();
            assert!(warning.contains(expected), "{warning}");
            assert!(warning.contains("enableServiceLinks: false"), "{warning}");
        }
        assert!(Environment::of([].into_iter()).unwrap().warning().is_none());
    }

    #[test]
    fn a_mistake_that_resembles_a_service_is_still_one() {
        for (name, value) in [
            ("RINGWAY_PORT", "8000"),
            ("RINGWAY_SERVER_PORT", "8000"),
            ("RINGWAY_SERVER__PORT", "tcp://10.96.0.7:8000"),
            ("RINGWAY_SERVICE_HOST", "example.org"),
            ("RINGWAY_SERVICE_PORTS", "8000"),
            ("RINGWAY_PORT_TCP", "8000"),
            ("PROXY_PORT", "10.96.0.8:3128"),
        ] {
            let error = refused("", &[(name, value)], &Flags::default());
            assert!(error.starts_with(name), "{error}");
        }
    }

    #[test]
    fn a_mistake_in_a_variable_names_the_variable() {
        let table = [
            ("PROXY_PORT", "x", "found \"x\", expected a whole number from 0 to 65535"),
            ("PROXY_PORT", "65536.0", "found 65536, expected a whole number from 0 to 65535"),
            ("PROXY_MAX_CONNECTIONS", "1.5", "found \"1.5\", expected a whole number from 1 to 1"),
            ("PROXY_READ_TIMEOUT", "soon", "invalid value: string \"soon\", expected a duration s"),
            ("PROXY_READ_TIMEOUT", "0", "found 0s, expected a duration from 1ms to 1d"),
            ("PROXY_HOST", "nowhere", "found \"nowhere\", expected an IP address such as"),
            ("PROXY_MAX_MEMORY_USAGE", "-1", "found -1, expected a whole number from 1 to 1048576"),
            ("RINGWAY_SERVER__PROT", "1", "unknown key, did you mean `RINGWAY_SERVER__PORT`?"),
            ("RINGWAY_SERVER_PORT", "1", "unknown key, did you mean `RINGWAY_SERVER__PORT`?"),
            ("RINGWAY_POOL__MAXIDLE", "1", "unknown key, did you mean `RINGWAY_POOL__MAX_IDLE`?"),
            ("RINGWAY_ROUTE__0__PTAH", "/", "unknown key, did you mean `RINGWAY_ROUTE__0__PATH`?"),
            ("RINGWAY_", "1", "unknown key, expected one of server, tls, http2, limits,"),
            ("RINGWAY_LOG", "debug", "invalid type: string \"debug\", expected a table"),
            ("RINGWAY_UPSTREAM__1__NAME", "a", "the next item of `upstream` is `upstream.0`"),
            ("RINGWAY_ADMIN__TOKEN", "1234567", "found ***, expected at least 16 printable ASCII"),
            ("RINGWAY_UPSTREAM__0__ORIGINS", "http://a", "missing key `name`"),
        ];
        for (name, value, expected) in table {
            let error = refused("", &[(name, value)], &Flags::default());
            let rest = error.strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
            assert!(rest.is_some_and(|rest| rest.starts_with(expected)), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_not_text_is_refused_unless_it_is_anothers() {
        let value = OsStr::from_bytes(b"\xff").to_owned();
        let of = |name: &str| Environment::of([(OsString::from(name), value.clone())].into_iter());
        for name in ["RINGWAY_SERVER__VIA", "PROXY_HOST"] {
            let error = of(name).unwrap_err().to_string();
            assert_eq!(error, format!("{name}: is not UTF-8 text"));
        }
        assert!(of("PROXY_PASSWORD").is_ok());
    }
}
