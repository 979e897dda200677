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

use super::keys::{Section, sections};
use super::{Config, scope};

/// What is shown in place of a secret.
pub(crate) const HIDDEN: &str = "…";

/// The value of one key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Value {
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
pub(crate) fn values(config: &Config, origins: &Origins) -> Vec<Value> {
    entries(config).iter().map(|entry| entry.shown(origins)).collect()
}

pub(super) fn entries(config: &Config) -> Vec<Entry> {
    let config = &*config.as_configured();
    // Whoever gets entries shows them by `Entry::text`.
    let spelled = scope::spelling(&config.upstreams, true, || serde_json::to_value(config));
    let spelled = spelled.unwrap_or_default();
    sections().iter().flat_map(|section| of_section(config, section, &spelled)).collect()
}

fn of_section(config: &Config, section: &Section, spelled: &Json) -> Vec<Entry> {
    let own = spelled.get(&section.name);
    if !section.is_list {
        return of_table(section, own, &section.name, &section.name);
    }
    let tables = own.and_then(Json::as_array).into_iter().flatten().enumerate();
    let entries = tables.map(|(index, table)| {
        let name = match section.name.as_str() {
            "route" => config.routes[index].name(),
            _ => table["name"].as_str().unwrap_or_default().to_owned(),
        };
        let path = format!("{}.{index}", section.name);
        of_table(section, Some(table), &path, &format!("{}.{name}", section.name))
    });
    entries.flatten().collect()
}

/// `path` and `name` are what the table is called in a file, and in a list of changes.
fn of_table(section: &Section, table: Option<&Json>, path: &str, name: &str) -> Vec<Entry> {
    let Some(table) = table.and_then(Json::as_object) else { return Vec::new() };
    // The demo's address is of this start only.
    let is_of_this_start = |key: &str| key == "origins" && table.contains_key("builtin");
    let given = section.keys.iter().filter_map(|key| Some((key, table.get(&key.name)?)));
    given
        .filter(|(key, _)| !is_of_this_start(&key.name))
        .map(|(key, value)| Entry {
            path: format!("{path}.{}", key.name),
            key: format!("{name}.{}", key.name),
            // Without a value there is nothing to hide.
            is_secret: key.is_secret && *value != "",
            value: value.clone(),
        })
        .collect()
}

/// A JSON value as TOML, on one line.
pub(crate) fn toml(value: &Json) -> String {
    match value {
        // TOML wants the one control character escaped that JSON leaves as it is.
        Json::String(_) => value.to_string().replace('\u{7f}', "\\u007f"),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(toml).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{} = {}", bare(key), toml(value)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

/// A key as a table has it: in quotes, unless it is of the plainest letters.
fn bare(key: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !key.is_empty() && key.bytes().all(is_plain) {
        Cow::Borrowed(key)
    } else {
        Cow::Owned(toml(&key.into()))
    }
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
    use crate::config::keys::paths;
    use crate::config::tests::{FULL, parse};
    use crate::config::{Flags, Profile};

    #[test]
    fn every_key_of_the_file_has_a_value_in_the_order_of_the_shipped_one() {
        let values = values(&parse(FULL).unwrap(), &Origins::default());
        let first = |value: &Value| value.path.replace(".1.", ".0.");
        let shown: std::collections::BTreeSet<String> = values.iter().map(first).collect();
        let keys = paths().into_iter().map(|path| path.join("."));
        assert_eq!(shown, keys.collect());
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
