//! What holds, key by key: a configuration taken apart into what a file would have to say.
//!
//! In: a `Config`, and where its values were given. Out: one `Value` for each key, in the order of
//! `config.toml`, with secrets hidden and the source that each comes from. A file made of the
//! values loads to the same configuration, its secrets aside. Nothing here reads or writes one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::Value as Json;

use super::Config;
use super::spelled::{self, toml};

/// What is shown in place of a secret.
pub const HIDDEN: &str = "…";

/// The value of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Such as `pool.max_idle`, `upstream.NAME.host`, `parent.NAME.url` or, for routes,
    /// `route.example.org/api.upstream`; the host of a route for any is `*`.
    pub key: String,
    /// Where a file and `--set` have it, such as `upstream.0.host`.
    pub path: String,
    /// As TOML; `"…"` where it is a secret.
    pub value: String,
    /// The same as JSON.
    pub json: Json,
    pub origin: Origin,
    pub is_secret: bool,
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Such as `--port`, or `--set server.port`.
    Flag(String),
    /// The name of a variable.
    Variable(String),
    /// Lines and columns count from 1, columns in characters.
    File {
        path: PathBuf,
        line: usize,
        /// Shown where all of the place is asked for, by `{:#}`.
        column: usize,
    },
    Profile(&'static str),
    Default,
}

/// Where the values of a configuration were given: `Config::load_traced` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(pub(super) BTreeMap<String, Origin>);

/// A key with its value as it is, secret or not.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The path in a file, such as `upstream.0.host`.
    pub(super) path: String,
    pub(super) key: String,
    pub(super) value: Json,
    pub(super) is_secret: bool,
}

/// Every key of `config` with its value.
pub fn values(config: &Config, origins: &Origins) -> Vec<Value> {
    entries(config).iter().map(|entry| entry.shown(origins)).collect()
}

pub(super) fn entries(config: &Config) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (section, keys) in spelled::sections_before_tables(config) {
        entries.extend(keys.into_iter().map(|key| key.entry(section, section)));
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        let (path, name) = (format!("upstream.{index}"), format!("upstream.{}", upstream.name));
        entries.extend(spelled::upstream(upstream).into_iter().map(|key| key.entry(&path, &name)));
    }
    for (index, route) in config.routes.iter().enumerate() {
        let (path, name) = (format!("route.{index}"), format!("route.{}", route.name()));
        let keys = spelled::route(route, &config.upstreams);
        entries.extend(keys.into_iter().map(|key| key.entry(&path, &name)));
    }
    entries.extend(spelled::hooks(config).into_iter().map(|key| key.entry("hooks", "hooks")));
    let (forward, after) = spelled::sections_after_tables(config);
    entries.extend(forward.into_iter().map(|key| key.entry("forward", "forward")));
    for (index, parent) in config.parents.iter().enumerate() {
        let (path, name) = (format!("parent.{index}"), format!("parent.{}", parent.name));
        entries.extend(spelled::parent(parent).into_iter().map(|key| key.entry(&path, &name)));
    }
    for (section, keys) in after {
        entries.extend(keys.into_iter().map(|key| key.entry(section, section)));
    }
    entries
}

impl Entry {
    fn shown(&self, origins: &Origins) -> Value {
        let json = self.json_shown().into_owned();
        Value {
            key: self.key.clone(),
            path: self.path.clone(),
            value: toml(&json),
            json,
            origin: origins.of(&self.path),
            is_secret: self.is_secret,
        }
    }

    fn json_shown(&self) -> Cow<'_, Json> {
        if self.is_secret { Cow::Owned(Json::from(HIDDEN)) } else { Cow::Borrowed(&self.value) }
    }

    /// The value as TOML, `"…"` where it is a secret.
    pub(super) fn text(&self) -> String {
        toml(&self.json_shown())
    }
}

impl Origins {
    /// `path` is that of a key in a file, such as `upstream.0.host`.
    pub fn of(&self, path: &str) -> Origin {
        self.0.get(path).cloned().unwrap_or(Origin::Default)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(out, "flag {flag}"),
            Self::Variable(name) => write!(out, "environment {name}"),
            Self::File { path, line, column } => {
                write!(out, "{}:{line}", path.display())?;
                if out.alternate() { write!(out, ":{column}") } else { Ok(()) }
            }
            Self::Profile(name) => write!(out, "profile {name}"),
            Self::Default => out.write_str("default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::environment::Environment;
    use crate::config::tests::{FULL, parse};
    use crate::config::tree::every_key;
    use crate::config::{Flags, Profile};

    #[test]
    fn every_key_of_the_file_has_a_value_in_the_order_of_the_shipped_one() {
        let values = values(&parse(FULL).unwrap(), &Origins::default());
        let first = |value: &Value| value.path.replace(".1.", ".0.");
        let mut shown: Vec<String> = values.iter().map(first).collect();
        for key in every_key() {
            assert!(shown.contains(&key.join(".")), "{key:?}");
        }
        shown.sort();
        shown.dedup();
        assert_eq!(shown.len(), every_key().len());
        let shipped = include_str!("../../config.toml").lines();
        let sections = shipped.filter_map(|line| line.trim_start_matches("#   ").strip_prefix('['));
        let mut sections: Vec<&str> = sections.map(|name| name.trim_matches(['[', ']'])).collect();
        sections.dedup();
        let mut order: Vec<&str> =
            values.iter().map(|value| value.path.split('.').next().unwrap()).collect();
        order.dedup();
        assert_eq!(order, sections);
    }

    #[test]
    fn each_source_is_named() {
        let flags = Flags {
            port: Some(81),
            set: vec!["log.access = true".to_owned()],
            profile: Some(Profile::Small),
            ..Flags::default()
        };
        let variables = [
            ("PROXY_MAX_KEEPALIVE_CONNECTIONS", "12"),
            ("RINGWAY_ADMIN__TOKEN", "0123456789abcdef"),
        ];
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let environment = Environment::of(variables).unwrap();
        let text = "[server]\nport = 80\n\nvia = \"a\"\n[[upstream]]\nname = \"u\"\n\
                    origins = [\n  \"http://a\",\n]\n";
        let path = Path::new("some.toml");
        let (config, origins) = Config::merge_traced(path, text, &environment, &flags).unwrap();
        let values = values(&config, &origins);
        for (key, value, origin) in [
            ("server.port", "81", "flag --port"),
            ("log.access", "true", "flag --set log.access"),
            ("pool.max_idle", "12", "environment PROXY_MAX_KEEPALIVE_CONNECTIONS"),
            ("admin.token", "\"…\"", "environment RINGWAY_ADMIN__TOKEN"),
            ("server.via", "\"a\"", "some.toml:4"),
            ("upstream.u.origins", "[\"http://a\"]", "some.toml:7"),
            ("upstream.u.host", "\"pass\"", "default"),
            ("route.*/.upstream", "\"u\"", "default"),
            ("pool.max_connections", "50", "profile small"),
            ("server.host", "\"0.0.0.0\"", "default"),
        ] {
            let found = values.iter().find(|found| found.key == key).unwrap();
            assert_eq!((found.value.as_str(), found.origin.to_string().as_str()), (value, origin));
        }
    }

    #[test]
    fn a_flat_file_is_named_with_its_line() {
        let path = Path::new("some.json");
        let text = "{\n \"port\": 81,\n\n \"read_timeout\": 5\n}";
        let (_, origins) =
            Config::merge_traced(path, text, &Environment::default(), &Flags::default()).unwrap();
        assert_eq!(origins.of("server.port").to_string(), "some.json:2");
        assert_eq!(origins.of("timeouts.read").to_string(), "some.json:4");
    }

    #[test]
    fn flags_that_make_up_an_upstream_are_its_source() {
        let flags = Flags { upstream: vec!["http://a".to_owned()], ..Flags::default() };
        let (_, origins) =
            Config::merge_traced(Path::new("a"), "", &Environment::default(), &flags).unwrap();
        assert_eq!(origins.of("upstream.0.origins").to_string(), "flag --upstream");
    }
}
