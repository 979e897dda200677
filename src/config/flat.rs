//! The flat names: twelve settings as older proxies have them, in JSON and in the environment.
//!
//! In: the text of a `.json` file whose keys are `FLAT_KEYS`. Out: settings, each with its place in
//! that text. The same names in capitals, behind `PROXY_`, are variables: see `environment`. What
//! a value may be is the business of the key that it stands for.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::de::DeValue;

use super::error::{ConfigError, Location, Problem, nearest};
use super::sources::{Origin, Setting, Value};

/// The flat name, and the key that it stands for.
pub(super) const FLAT_KEYS: [(&str, [&str; 2]); 12] = [
    ("host", ["server", "host"]),
    ("port", ["server", "port"]),
    ("max_connections", ["pool", "max_connections"]),
    ("max_keepalive_connections", ["pool", "max_idle"]),
    ("keepalive_expiry", ["pool", "idle_expiry"]),
    ("connect_timeout", ["timeouts", "connect"]),
    ("read_timeout", ["timeouts", "read"]),
    ("write_timeout", ["timeouts", "write"]),
    ("pool_timeout", ["timeouts", "pool"]),
    ("memory_check_interval", ["memory", "check_interval"]),
    ("max_memory_usage", ["memory", "max_mb"]),
    ("cleanup_threshold", ["memory", "cleanup_mb"]),
];

/// Whether the file at `path` is a flat one.
pub(super) fn is_flat(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

pub(super) fn settings(path: &Path, text: &str) -> Result<Vec<Setting>, ConfigError> {
    let Members(members) = serde_json::from_str(text).map_err(|error| malformed(path, &error))?;
    let mut settings: Vec<Setting> = Vec::with_capacity(members.len());
    let mut seen = Vec::with_capacity(members.len());
    for (name, value) in members {
        // The parser lends out parts of `text`, so this is where the value stands in it.
        let offset = value.get().as_ptr() as usize - text.as_ptr() as usize;
        let refused = |problem| {
            let key = key_offset(text, offset);
            ConfigError::new(Location::at(path, text, key, name.clone()), problem)
        };
        let Some((key, target)) = FLAT_KEYS.iter().find(|(key, _)| *key == name) else {
            let known = FLAT_KEYS.map(|(key, _)| key);
            let nearest = nearest(&name, known.into_iter());
            let known = known.map(str::to_owned).to_vec();
            return Err(refused(Problem::UnknownKey { name: name.clone(), known, nearest }));
        };
        if seen.contains(key) {
            return Err(refused(Problem::Said("duplicate key".to_owned())));
        }
        seen.push(key);
        let value = read(value).map_err(|problem| {
            let key = (*key).to_owned();
            ConfigError::new(Location::at(path, text, offset, key), problem)
        })?;
        settings.push(Setting {
            path: target.map(str::to_owned).to_vec(),
            value,
            origin: Origin::Flat { key, offset },
        });
    }
    Ok(settings)
}

fn read(value: &RawValue) -> Result<Value, Problem> {
    let text = value.get();
    let kind = match text.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f' | b'n') => text,
        Some(b'"') => {
            let text = serde_json::from_str::<String>(text);
            let text = text.map_err(|error| Problem::Said(error.to_string()))?;
            return Ok(Value::Exact(DeValue::String(text.into())));
        }
        // Numbers are written in JSON as they are in TOML.
        _ => return Ok(Value::Typed(text.to_owned())),
    };
    Err(Problem::unlike(kind, "a number or a string"))
}

/// Where the key of the value at `offset` begins.
fn key_offset(text: &str, offset: usize) -> usize {
    let quote = |before: usize| text[..before].rfind('"').unwrap_or(0);
    quote(quote(offset))
}

fn malformed(path: &Path, error: &serde_json::Error) -> ConfigError {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = message.strip_suffix(&place).unwrap_or(&message);
    let location = Location::Position {
        file: path.to_owned(),
        line: error.line(),
        column: error.column().max(1),
        key: String::new(),
    };
    ConfigError::new(location, Problem::of_parser(message))
}

/// An object, each of its members as it stands in the text.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object such as {\"port\": 8000}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;
    use crate::config::{Config, Flags};

    fn load(text: &str) -> Result<Config, ConfigError> {
        let path = Path::new("a.JSON");
        Config::merge(path, text, &Environment::default(), &Flags::default())
    }

    #[test]
    fn the_file_of_an_older_proxy_is_read_as_it_is() {
        let text = r#"{
            "host": "0.0.0.0",
            "port": 8000,
            "max_connections": 100,
            "max_keepalive_connections": 20,
            "keepalive_expiry": 30.0,
            "connect_timeout": 10.0,
            "read_timeout": 60.0,
            "write_timeout": 10.0,
            "pool_timeout": 5.0,
            "memory_check_interval": 30,
            "max_memory_usage": 500,
            "cleanup_threshold": 400
        }"#;
        assert_eq!(load(text).unwrap(), Config::default());
        assert_eq!(load("{}").unwrap(), Config::default());
        let other = load("{\"port\":1.0,\"read_timeout\":0.5,\"host\":\"::1\"}").unwrap();
        assert_eq!(other.server.listeners, ["[::1]:1".parse().unwrap()]);
        assert_eq!(other.timeouts.read.as_millis(), 500);
    }

    #[test]
    fn a_mistake_in_a_flat_file_names_its_place() {
        let table = [
            ("{\n  \"prot\": 1}", "2:3: prot: unknown key, did you mean `port`?"),
            ("{\"server\": {}}", "1:2: server: unknown key, expected one of host, port, max_c"),
            ("{\"p\\u006fr\": 1}", "1:2: por: unknown key, did you mean `port`?"),
            ("{\"po\\nrt\": 1}", "1:2: po\\nrt: unknown key, did you mean `port`?"),
            ("{\"port\": 70000}", "1:10: port: found 70000, expected a whole number from 0 to"),
            ("{\"port\": \"80\"}", "1:10: port: found \"80\", expected a whole number from 0 to"),
            ("{\"port\": true}", "1:10: port: found true, expected a number or a string"),
            ("{\"port\": [1]}", "1:10: port: found an array, expected a number or a string"),
            ("{\"host\": null}", "1:10: host: found null, expected a number or a string"),
            ("{\"read_timeout\": 0}", "1:18: read_timeout: found 0s, expected a duration from"),
            (
                "{\"read_timeout\": {\"a\": 1}}",
                "1:18: read_timeout: found an object, expected a number or",
            ),
            ("{\"read_timeout\": 1e400}", "1:18: read_timeout: floating-point number overflowed"),
            ("{\"host\": \"\\ud800\"}", "1:10: host: "),
            ("{\"port\": 1, \"port\": 1}", "1:13: port: duplicate key"),
            ("{\"port\": 1", "1:10: EOF while parsing an object"),
            ("{\"port\": 1,}", "1:12: trailing comma"),
            ("port = 1", "1:1: expected value"),
            ("", "1:1: EOF while parsing a value"),
            ("[]", "1:1: invalid type: array, expected an object such as {\"port\": 8000}"),
            ("{} {}", "1:4: trailing characters"),
            ("[server]", "1:1: invalid type: array, expected an object such as"),
        ];
        for (text, expected) in table {
            let error = load(text).unwrap_err().to_string();
            let rest = error.strip_prefix("a.JSON:").unwrap_or(&error);
            assert!(rest.starts_with(expected), "{text}\n  found: {error}\n  wanted: {expected}");
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        let text = "{\"port\": 1, \"host\": \"é\", \"read_timeout\": {\"a\": [1, null]}}";
        for (at, character) in text.char_indices() {
            for with in ["", "\"", "\\", "é", ":", "{"] {
                let changed = [&text[..at], with, &text[at + character.len_utf8()..]].concat();
                let _ = load(&changed).map_err(|error| error.to_string());
            }
            let _ = load(&text[..at]).map_err(|error| error.to_string());
        }
        assert!(load(&"[".repeat(100_000)).is_err());
        assert!(load(&format!("{{\"port\": {}", "[".repeat(100_000))).is_err());
        assert!(load(&format!("{{\"port\": {}1{}}}", "[".repeat(1000), "]".repeat(1000))).is_err());
    }
}
