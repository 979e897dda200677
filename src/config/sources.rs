//! The sources of a configuration, each laid over the weaker ones.
//!
//! In: the file, and settings from wherever else values come, in ascending order of precedence.
//! Out: one `Config`, or every mistake that one reading can find, each with the name of the source
//! that made it. Which source is stronger than which is `Config::merge`'s decision; none is read
//! here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::access_format::wrong_fields;
use super::check::{self, LEANS_ON};
use super::effective::{self, Origins};
use super::error::{ConfigError, Location, Mistake, Problem, Refusal, nearest};
use super::hints::{self, Broken};
use super::tree;
use super::{Config, keys, scope};

/// Nobody reads more at once.
const MISTAKES_MAX: usize = 32;

/// One mistake may take several readings to get out of the way of the others.
const READINGS_MAX: usize = 256;

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
    /// By their places.
    mistakes: BTreeMap<usize, Mistake>,
    /// Whether the file is so broken that what it says is guesswork.
    is_broken: bool,
    /// What the file says by itself.
    file: Option<DeTable<'t>>,
}

/// What one table says, as far as it can be read.
#[derive(Default)]
struct Reading {
    /// Without what is wrong.
    config: Option<Config>,
    wrong: Vec<Wrong>,
    /// The sections out of which something was taken.
    sections: BTreeSet<String>,
}

struct Wrong {
    offset: usize,
    problem: Problem,
}

impl<'t> Sources<'t> {
    /// `text` is the file's content, or empty where there is no file.
    pub(super) fn new(path: &'t Path, text: &'t str) -> Self {
        Self {
            path,
            text,
            tree: DeTable::new(),
            settings: Vec::new(),
            mistakes: BTreeMap::new(),
            is_broken: false,
            file: None,
        }
    }

    /// Lays the file, which is TOML, over what is there.
    pub(super) fn lay_file(&mut self) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let table = table.into_inner();
        let mut broken: Vec<_> =
            errors.iter().map(|error| hints::broken(self.text, error)).collect();
        // One for each line, and of several the one that helps.
        broken.sort_by_key(|broken| broken.hint.is_none());
        for Broken { offset, message, hint, is_local } in broken {
            self.is_broken |= !is_local;
            if !self.is_on_a_broken_line(offset) {
                let location = Location::at(self.path, self.text, offset, String::new());
                let mistake = Mistake { location, problem: Problem::Said(message), hint };
                self.mistakes.insert(offset, mistake);
            }
        }
        if self.is_broken {
            return;
        }
        tree::lay(&mut self.tree, table.clone());
        self.file = Some(table);
    }

    /// Lays settings over what is there, each over those before it.
    pub(super) fn lay(&mut self, settings: &'t [Setting]) {
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
            if let Err(problem) = value.and_then(put) {
                self.add(Wrong { offset, problem }, &DeTable::new());
            }
        }
    }

    /// Refuses keys that do not exist even where a stronger source hides them. What a value may be
    /// counts where it holds.
    fn refuse_what_is_hidden(&mut self) {
        // By itself, it is all there is.
        let Some(file) = self.file.take().filter(|_| !self.settings.is_empty()) else { return };
        for wrong in read(&file, self.first_setting()).wrong {
            let is_of_shape = match &wrong.problem {
                Problem::Said(message) => {
                    message.starts_with("invalid type") || message.starts_with("invalid value")
                }
                _ => true,
            };
            if is_of_shape {
                self.add(wrong, &file);
            }
        }
    }

    /// What all of them say together.
    pub(super) fn config(mut self) -> Result<(Config, Origins), ConfigError> {
        let tree = std::mem::take(&mut self.tree);
        if !self.is_broken {
            self.refuse_what_is_hidden();
            let Reading { config, wrong, sections } = read(&tree, self.first_setting());
            for wrong in wrong {
                self.add(wrong, &tree);
            }
            if let Some(mut config) = config {
                if tree.get("upstream").is_none() && config.needs_no_upstream() {
                    config.upstreams.clear();
                }
                let mut refusals = check::rules(&mut config);
                refusals.extend(wrong_fields(&config.log));
                // What follows from something that was refused anyway is its echo.
                let is_own = |refusal: &Refusal| {
                    let own = refusal.paths[0][0].as_str();
                    let leans = |(section, other): &(&str, &str)| {
                        *section == own && sections.contains(*other)
                    };
                    !sections.contains(own) && !LEANS_ON.iter().any(leans)
                };
                for refusal in refusals.into_iter().filter(is_own) {
                    self.refuse(refusal, &tree);
                }
                if self.mistakes.is_empty() {
                    return Ok((config, self.origins(&tree)));
                }
            }
        }
        Err(self.into_error())
    }

    fn into_error(self) -> ConfigError {
        let mut mistakes: Vec<Mistake> = self.mistakes.into_values().collect();
        if mistakes.len() > MISTAKES_MAX {
            mistakes.truncate(MISTAKES_MAX);
            let location = Location::File(self.path.to_owned());
            let problem = Problem::Said("there are more mistakes than are shown".to_owned());
            mistakes.push(Mistake { location, problem, hint: None });
        }
        ConfigError::of(mistakes)
    }

    fn refuse(&mut self, refusal: Refusal, tree: &DeTable<'_>) {
        let Refusal { paths, what } = refusal;
        let is_given = |path: &&Vec<String>| tree::along(tree, path).len() == path.len();
        let path = paths.iter().find(is_given).unwrap_or(&paths[0]);
        // Of what was not given, the table is shown that it belongs to.
        let values = tree::along(tree, path);
        let start = values.last().map_or(0, |value| value.span().start);
        let shown = tree::shown(tree, &path[..values.len()]);
        self.put(start, shown, Problem::Said(what), None);
    }

    /// `tree` is where it was found.
    fn add(&mut self, wrong: Wrong, tree: &DeTable<'_>) {
        let Wrong { offset, problem } = wrong;
        let (path, _) = tree::path_to(tree, offset);
        let values = tree::along(tree, &path);
        let value = values.last().filter(|_| values.len() == path.len());
        let hint = value.and_then(|value| hints::for_value(&problem, &path, value.get_ref()));
        self.put(offset, tree::shown(tree, &path), problem, hint);
    }

    fn put(&mut self, start: usize, shown: String, problem: Problem, hint: Option<String>) {
        let index = start.checked_sub(self.first_setting());
        let Some(setting) = index.and_then(|index| self.settings.get(index)) else {
            let location = Location::at(self.path, self.text, start, shown);
            if !self.is_on_a_broken_line(start) {
                let mistake = Mistake { location, problem, hint };
                self.mistakes.entry(start).or_insert(mistake);
            }
            return;
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
        let mistake = Mistake { location, problem, hint: None };
        self.mistakes.entry(start).or_insert(mistake);
    }

    /// What stands in a line that is no TOML was guessed.
    fn is_on_a_broken_line(&self, offset: usize) -> bool {
        let line = |offset: usize| {
            let end = self.text.len().min(offset);
            memchr::memchr_iter(b'\n', &self.text.as_bytes()[..end]).count()
        };
        let syntax = |mistake: &Mistake| match &mistake.location {
            Location::Position { key, .. } => key.is_empty(),
            _ => false,
        };
        let own = line(offset);
        self.mistakes.iter().any(|(at, mistake)| syntax(mistake) && line(*at) == own)
    }

    /// Where each key was given, by its path.
    fn origins(&self, tree: &DeTable<'_>) -> Origins {
        let newlines: Vec<usize> = self.text.match_indices('\n').map(|(at, _)| at).collect();
        let in_file = |offset: usize| {
            let before = newlines.partition_point(|newline| *newline < offset);
            let start = before.checked_sub(1).map_or(0, |last| newlines[last] + 1);
            let column = self.text.get(start..offset).map_or(0, |text| text.chars().count()) + 1;
            effective::Origin::File { path: self.path.to_owned(), line: before + 1, column }
        };
        let mut origins = Origins::default();
        for (path, offset) in tree::leaves(tree) {
            let index = offset.checked_sub(self.first_setting());
            let setting = index.and_then(|index| self.settings.get(index));
            let origin = setting.map_or_else(|| in_file(offset), |it| it.origin.named(in_file));
            origins.0.insert(path, origin);
        }
        origins
    }

    /// A mistake at the very end of the file has an offset of its own.
    fn first_setting(&self) -> usize {
        self.text.len() + 1
    }
}

/// Reads a table as often as it takes to find everything that is wrong with it: what a reading
/// stumbles over is taken out before the next one.
fn read(whole: &DeTable<'_>, first_setting: usize) -> Reading {
    let mut reading = Reading::default();
    let mut table = whole.clone();
    let upstreams = names_of_upstreams(whole);
    // Tables out of which something was taken, by their places and how deep they are: what they
    // lack now is no mistake of their own.
    let mut lacking: BTreeSet<(usize, usize)> = BTreeSet::new();
    for _ in 0..READINGS_MAX {
        let read = scope::reading(upstreams.clone(), || tree::config(table.clone()));
        let error = match read {
            Ok(config) => {
                reading.config = Some(config);
                break;
            }
            Err(error) => error,
        };
        let offset = error.span().map_or(0, |span| span.start);
        let (path, starts) = tree::path_to(&table, offset);
        let is_echo = lacking.contains(&(offset, starts.len()))
            // A setting has one place for all that is in it.
            || offset >= first_setting && reading.wrong.iter().any(|it| it.offset == offset);
        if !is_echo {
            let problem = Problem::of_parser(error.message());
            reading.wrong.push(Wrong { offset, problem });
        }
        let Some(section) = path.first() else { break };
        reading.sections.insert(section.clone());
        lacking.extend(starts.into_iter().zip(1..));
        if reading.wrong.len() > MISTAKES_MAX {
            break;
        }
        tree::remove(&mut table, &path);
    }
    reading
}

/// Also of those that are wrong in something else; where there are none, the built-in one's.
fn names_of_upstreams(table: &DeTable<'_>) -> Vec<String> {
    let Some(upstreams) = table.get("upstream") else { return vec!["demo".to_owned()] };
    let name = |upstream: &Spanned<DeValue<'_>>| {
        let name = upstream.get_ref().as_table()?.get("name")?;
        name.get_ref().as_str().map(str::to_owned)
    };
    match upstreams.get_ref() {
        DeValue::Array(upstreams) => {
            upstreams.iter().map(|upstream| name(upstream).unwrap_or_default()).collect()
        }
        _ => vec![name(upstreams).unwrap_or_default()],
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
        let known: Vec<String> = keys::paths().into_iter().map(spelled).collect();
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
            Self::Flat { key, offset } => Location::at(path, text, *offset, (*key).to_owned()),
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
        assert_eq!(config.server.listeners[0].address.to_string(), "0.0.0.0:81");
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
            ("zzz=1", "--set zzz: unknown key, expected one of server, tls, http2, limits,"),
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
