//! The sources of a configuration, each laid over the weaker ones.
//!
//! In: the file, and settings from wherever else values come, in ascending order of precedence.
//! Out: one `RawConfig`, and for whatever is refused in it the name of the source that gave it.
//! Which source is stronger than which is `Config::merge`'s decision; none is read here.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::effective::{self, Origins};
use super::error::{ConfigError, Location, Problem, Refusal, nearest};
use super::raw::{Place, RawConfig};
use super::tree::{self, every_key};

/// What the variables of every key begin with.
pub(super) const VARIABLE_PREFIX: &str = "RINGWAY_";

/// Stands between the section and the key in the name of a variable.
pub(super) const VARIABLE_SEPARATOR: &str = "__";

/// A value for one key that does not stand in a TOML file.
#[derive(Debug)]
pub(super) struct Setting {
    /// Where the key is, such as `server`, `port`. Never empty.
    pub(super) path: Vec<String>,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

#[derive(Debug)]
pub(super) enum Value {
    /// As it was typed: what it means depends on the key.
    Typed(String),
    Exact(DeValue<'static>),
}

/// Where a setting comes from, for those who have to correct it.
#[derive(Debug)]
pub(super) enum Origin {
    /// A flag of its own, such as `--port`.
    Flag(&'static str),
    /// The key behind `--set`.
    Set(String),
    /// The name of an environment variable.
    Variable(String),
    /// The name behind `--profile`.
    Profile(&'static str),
    /// A key of a flat file, and the offset of its value.
    Flat { key: &'static str, offset: usize },
}

pub(super) struct Sources<'t> {
    path: &'t Path,
    text: &'t str,
    tree: DeTable<'t>,
    /// A setting's place is its index here, counted from behind the end of `text`.
    settings: Vec<&'t Setting>,
}

impl<'t> Sources<'t> {
    /// `text` is the file's content, or empty where there is no file.
    pub(super) fn new(path: &'t Path, text: &'t str) -> Self {
        Self { path, text, tree: DeTable::new(), settings: Vec::new() }
    }

    /// Lays the file, which is TOML, over what is there. Keys that do not exist are refused even
    /// where a stronger source would hide them.
    pub(super) fn lay_file(&mut self) -> Result<(), ConfigError> {
        let table = DeTable::parse(self.text).map_err(|error| self.refused_toml(&error))?;
        tree::raw(table.get_ref().clone()).map_err(|error| self.refused_toml(&error))?;
        tree::lay(&mut self.tree, table.into_inner());
        Ok(())
    }

    /// Lays settings over what is there, each over those before it.
    pub(super) fn lay(&mut self, settings: &'t [Setting]) -> Result<(), ConfigError> {
        for setting in settings {
            let offset = self.first_setting() + self.settings.len();
            let span = offset..offset + 1;
            self.settings.push(setting);
            let value = match &setting.value {
                Value::Typed(text) => tree::guess(&setting.path, text, &span),
                Value::Exact(value) => Ok(tree::moved(value.clone(), &span)),
            };
            let put =
                |value| tree::put(&mut self.tree, &setting.path, Spanned::new(span.clone(), value));
            value
                .and_then(put)
                .map_err(|problem| self.refused(Refusal { place: Place(span), problem }))?;
        }
        Ok(())
    }

    /// What all of them say together.
    pub(super) fn raw(&self) -> Result<RawConfig, ConfigError> {
        tree::raw(self.tree.clone()).map_err(|error| self.refused_toml(&error))
    }

    pub(super) fn refused(&self, refusal: Refusal) -> ConfigError {
        let Refusal { place: Place(span), problem } = refusal;
        let index = span.start.checked_sub(self.first_setting());
        let Some(setting) = index.and_then(|index| self.settings.get(index)) else {
            return ConfigError::new(Location::at(self.path, self.text, &span), problem);
        };
        let mut location = setting.origin.location(self.path, self.text);
        let problem = match problem {
            Problem::UnknownKey { name, known, .. } if setting.path.contains(&name) => {
                let nearest = setting.nearest();
                Problem::UnknownKey { name, known, nearest }
            }
            // The key is part of the value, which stands on no line that could be named.
            Problem::UnknownKey { name, known, nearest } => {
                if let Location::Setting(origin) = &mut location {
                    origin.push_str(": ");
                    origin.push_str(&name);
                }
                Problem::UnknownKey { name, known, nearest }
            }
            other => other,
        };
        ConfigError::new(location, problem)
    }

    /// Where each key was given, by its path.
    pub(super) fn origins(&self) -> Origins {
        let newlines: Vec<usize> = self.text.match_indices('\n').map(|(at, _)| at).collect();
        let in_file = |offset: usize| {
            let before = newlines.partition_point(|newline| *newline < offset);
            let start = before.checked_sub(1).map_or(0, |last| newlines[last] + 1);
            let column = self.text.get(start..offset).map_or(0, |text| text.chars().count()) + 1;
            effective::Origin::File { path: self.path.to_owned(), line: before + 1, column }
        };
        let mut origins = Origins::default();
        for (path, offset) in tree::leaves(&self.tree) {
            let index = offset.checked_sub(self.first_setting());
            let setting = index.and_then(|index| self.settings.get(index));
            let origin = setting.map_or_else(|| in_file(offset), |it| it.origin.named(in_file));
            origins.0.insert(path, origin);
        }
        origins
    }

    fn refused_toml(&self, error: &toml::de::Error) -> ConfigError {
        let problem = Problem::of_parser(error.message());
        match error.span() {
            Some(span) => self.refused(Refusal { place: Place(span), problem }),
            None => ConfigError::new(Location::File(self.path.to_owned()), problem),
        }
    }

    /// A mistake at the very end of the file has an offset of its own.
    fn first_setting(&self) -> usize {
        self.text.len() + 1
    }
}

impl Setting {
    /// The key that was most likely meant, spelled as this source spells keys.
    fn nearest(&self) -> Option<String> {
        let index = self.path.iter().find(|key| key.parse::<usize>().is_ok());
        let spelled = |mut key: Vec<String>| {
            if let (Some(index), Some(zero)) = (index, key.iter_mut().find(|key| *key == "0")) {
                zero.clone_from(index);
            }
            match self.origin {
                Origin::Variable(_) => key.join(VARIABLE_SEPARATOR).to_ascii_uppercase(),
                _ => key.join("."),
            }
        };
        let known: Vec<String> = every_key().into_iter().map(spelled).collect();
        let nearest = nearest(&spelled(self.path.clone()), known.iter().map(String::as_str))?;
        Some(match self.origin {
            Origin::Variable(_) => format!("{VARIABLE_PREFIX}{nearest}"),
            _ => nearest,
        })
    }
}

impl Origin {
    /// As it is shown beside a value.
    fn named(&self, in_file: impl Fn(usize) -> effective::Origin) -> effective::Origin {
        match self {
            Self::Flag(flag) => effective::Origin::Flag((*flag).to_owned()),
            Self::Set(key) => effective::Origin::Flag(format!("--set {key}")),
            Self::Variable(name) => effective::Origin::Variable(name.clone()),
            Self::Profile(name) => effective::Origin::Profile(name),
            Self::Flat { offset, .. } => in_file(*offset),
        }
    }

    fn location(&self, path: &Path, text: &str) -> Location {
        match self {
            Self::Flag(flag) => Location::Setting((*flag).to_owned()),
            Self::Set(key) => Location::Setting(format!("--set {key}")),
            Self::Variable(name) => Location::Setting(name.clone()),
            Self::Profile(name) => Location::Setting(format!("--profile {name}")),
            Self::Flat { key, offset } => {
                Location::at(path, text, &(*offset..*offset)).with_key(key)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{from, refused};
    use crate::config::{Config, Flags, Profile};

    fn set(assignments: &[&str]) -> Flags {
        let set = assignments.iter().map(|text| (*text).to_owned()).collect();
        Flags { set, ..Flags::default() }
    }

    #[test]
    fn flags_outrank_the_environment_the_file_the_profile_and_the_defaults() {
        let max_idle = |config: Config| config.pool.max_idle;
        let profile = Flags { profile: Some(Profile::Large), ..Flags::default() };
        let flat = ("PROXY_MAX_KEEPALIVE_CONNECTIONS", "12");
        let precise = ("RINGWAY_POOL__MAX_IDLE", "13");
        let file = "[pool]\nmax_idle = 11";
        let all = Flags { set: set(&["pool.max_idle=14"]).set, ..profile.clone() };
        assert_eq!(max_idle(from("", &[], &Flags::default())), 20);
        assert_eq!(max_idle(from("", &[], &profile)), 40);
        assert_eq!(max_idle(from(file, &[], &profile)), 11);
        assert_eq!(max_idle(from(file, &[flat], &profile)), 12);
        assert_eq!(max_idle(from(file, &[precise, flat], &profile)), 13);
        assert_eq!(max_idle(from(file, &[precise, flat], &all)), 14);
    }

    #[test]
    fn a_source_replaces_the_keys_that_it_names_and_no_others() {
        let text = "[server]\nvia = \"file\"\nbacklog = 5\nlisten = [\"[::1]:1\", \"[::1]:2\"]";
        let variables = [("RINGWAY_SERVER__BACKLOG", "6"), ("RINGWAY_SERVER__LISTEN", "[::1]:3")];
        let server = from(text, &variables, &set(&["server.drain_timeout=1s"])).server;
        assert_eq!((server.via.as_str(), server.backlog), ("file", 6));
        assert_eq!(server.listeners[1..], ["[::1]:3".parse().unwrap()]);
        assert_eq!(server.drain_timeout.as_secs(), 1);
    }

    #[test]
    fn profiles_are_sizes_that_go_together() {
        for (profile, connections, idle, chunks) in [
            (Profile::Small, 50, 10, 16),
            (Profile::Default, 100, 20, 32),
            (Profile::Large, 200, 40, 64),
        ] {
            let config = from("", &[], &Flags { profile: Some(profile), ..Flags::default() });
            assert_eq!(config.pool.max_connections, connections);
            assert_eq!(config.pool.max_idle, idle);
            assert_eq!(config.buffers.chunks_per_worker, chunks);
        }
        let profile = Flags { profile: Some(Profile::Default), ..Flags::default() };
        assert_eq!(from("", &[], &profile), Config::default());
    }

    #[test]
    fn set_takes_any_key_and_the_last_one_counts() {
        let config = from(
            "[[upstream]]\nname = \"a\"\norigins = [\"http://a\"]",
            &[],
            &set(&[
                "server.port=80",
                "server.port = 81",
                "admin.token=0123456789=abcdef",
                "upstream.0.host=origin",
                "upstream.0.origins.1={ url = \"http://b\", weight = 2 }",
                "upstream.1={ name = \"c\", builtin = \"demo\" }",
                "route.0.upstream=c",
                "log.file=",
            ]),
        );
        assert_eq!(config.server.listeners[0].port(), 81);
        assert_eq!(config.admin.token.unwrap().reveal(), "0123456789=abcdef");
        assert_eq!(config.upstreams[0].host, crate::config::HostPolicy::Origin);
        assert_eq!(config.upstreams[0].origins[1].weight, 2);
        assert_eq!((config.upstreams[1].name.as_str(), config.routes[0].upstream), ("c", 1));
    }

    #[test]
    fn set_refines_what_upstream_flags_make_up() {
        let mut flags = set(&["upstream.0.fail_timeout=7s"]);
        flags.upstream.push("http://a".to_owned());
        let upstream = &from("", &[], &flags).upstreams[0];
        assert_eq!((upstream.name.as_str(), upstream.fail_timeout.as_secs()), ("default", 7));
    }

    #[test]
    fn a_mistake_in_a_setting_names_the_setting() {
        let table = [
            ("server.port", "--set: found \"server.port\", expected SECTION.KEY=VALUE"),
            ("server.prot=1", "--set server.prot: unknown key, did you mean `server.port`?"),
            ("servr.port=1", "--set servr.port: unknown key, did you mean `server.port`?"),
            ("upstream.1.nmae=a", "--set upstream.1.nmae: the next item of `upstream` is `upstr"),
            (
                "upstream.0.nmae=a",
                "--set upstream.0.nmae: unknown key, did you mean `upstream.0.na",
            ),
            ("upstream.name=a", "--set upstream.name: invalid type: table, expected an array"),
            ("zzz=1", "--set zzz: unknown key, expected one of server, limits,"),
            ("=1", "--set: found \"=1\", expected SECTION.KEY=VALUE"),
            ("server={ port = 1", "--set server: "),
            ("server.port=x", "--set server.port: found \"x\", expected a whole number from 0 to"),
            ("server.port=-1", "--set server.port: found -1, expected a whole number from 0 to"),
            ("server.port.x=1", "--set server.port.x: invalid type: table, expected a whole numbe"),
            ("server=1", "--set server: invalid type: integer `1`, expected a table"),
            ("server={ prot = 1 }", "--set server: prot: unknown key, did you mean `port`?"),
            ("log.access=maybe", "--set log.access: invalid type: string \"maybe\", expected a bo"),
            (
                "server.listen=a, b",
                "--set server.listen: found \"a\", expected an address and port",
            ),
        ];
        for (assignment, expected) in table {
            let error = refused("", &[], &set(&[assignment]));
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_mistake_that_a_setting_makes_elsewhere_names_what_is_wrong_now() {
        let error =
            refused("[server]\nlisten = [\"127.0.0.1:81\"]", &[], &set(&["server.port=81"]));
        let expected = "a.toml:2:11: server.listen[0]: 127.0.0.1:81 is taken by the listener 0.0";
        assert!(error.starts_with(expected), "{error}");
        let error = refused("server = 5", &[], &set(&["server.port=81"]));
        assert!(error.starts_with("a.toml:1:10: server: invalid type: integer"), "{error}");
    }
}
