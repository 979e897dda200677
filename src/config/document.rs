//! Values as a file that loads to the same configuration.
//!
//! In: the values of a configuration, or a file in either form. Out: TOML text in the order of
//! `config.toml`. `dump` never shows a secret: it leaves the key as a comment. `import` is for
//! those who have the file anyway, and keeps what is in it. Nothing here writes to a disk.

use std::collections::BTreeMap;
use std::path::Path;

use super::effective::{Entry, Origin, Value, entries, toml};
use super::error::ConfigError;
use super::flat::{self, FLAT_KEYS};
use super::{Config, keys, sources};

/// One key of a file.
struct Line<'v> {
    path: &'v str,
    value: &'v str,
    /// Behind the value.
    note: Option<String>,
    /// Only shown as a comment.
    is_left_out: bool,
}

/// Every key, each with where it comes from if `has_origins`.
pub(crate) fn dump(values: &[Value], has_origins: bool) -> String {
    let lines = values.iter().map(|value| Line {
        path: &value.path,
        value: &value.value,
        note: match (value.is_secret, has_origins) {
            (true, true) => Some(format!("{}; {}", from(&value.origin), give_it(&value.path))),
            (true, false) => Some(give_it(&value.path)),
            (false, true) => Some(from(&value.origin)),
            (false, false) => None,
        },
        is_left_out: value.is_secret,
    });
    written(lines)
}

fn from(origin: &Origin) -> String {
    match origin {
        Origin::Default => "default".to_owned(),
        other => format!("from {other}"),
    }
}

/// A secret has to be given again, and not in a file that is passed around.
fn give_it(path: &str) -> String {
    let variable = path.replace('.', sources::VARIABLE_SEPARATOR).to_ascii_uppercase();
    format!("a secret: give it as {}{variable}", sources::VARIABLE_PREFIX)
}

/// The file at `path`, flat JSON or TOML, as the shortest TOML that means the same: of a flat file
/// what is in it, of a TOML file what is not the default. Secrets are part of it.
pub(crate) fn import(path: &Path) -> Result<String, ConfigError> {
    let (config, origins) = Config::of_file(path)?;
    let is_flat = flat::is_flat(path);
    let shown = path.display();
    let mut text = format!("# Imported from {shown} by `ringway import`.\n");
    let standard = Config::default();
    let sections: BTreeMap<String, Entry> =
        entries(&standard).into_iter().map(|entry| (entry.path.clone(), entry)).collect();
    let is_needed = |entry: &Entry| match ends(&entry.path) {
        ("route", _) if config.routes == standard.routes => false,
        ("upstream" | "route" | "parent", _) => !is_standard_of_table(entry),
        _ => sections.get(&entry.path).is_none_or(|standard| standard.value != entry.value),
    };
    let kept: Vec<(Entry, String)> = entries(&config)
        .into_iter()
        .filter(|entry| {
            let is_given = || origins.of(&entry.path) != Origin::Default;
            if is_flat { is_given() } else { is_needed(entry) }
        })
        .map(|entry| {
            let value = toml(&entry.value);
            (entry, value)
        })
        .collect();
    if kept.is_empty() {
        text.push_str("# Every value is the default.\n");
    }
    let lines = kept.iter().map(|(entry, value)| Line {
        path: &entry.path,
        value,
        note: flat_name(&entry.path).filter(|_| is_flat).map(|name| format!("was {name}")),
        is_left_out: false,
    });
    text.push_str(&written(lines));
    Ok(text)
}

/// Whether a table without this key would be the same.
fn is_standard_of_table(entry: &Entry) -> bool {
    let default = keys::key(&entry.path).and_then(|key| key.default.as_ref());
    default == Some(&entry.value) && !entry.path.ends_with(".builtin")
}

/// The section and the key of a path.
fn ends(path: &str) -> (&str, &str) {
    let section = path.split('.').next().unwrap_or(path);
    (section, path.rsplit('.').next().unwrap_or(path))
}

fn flat_name(path: &str) -> Option<&'static str> {
    FLAT_KEYS.iter().find(|(_, key)| key.join(".") == path).map(|(name, _)| *name)
}

fn written<'v>(lines: impl Iterator<Item = Line<'v>>) -> String {
    let mut text = String::new();
    let mut open = "";
    for line in lines {
        let (table, key) = line.path.rsplit_once('.').unwrap_or(("", line.path));
        if table != open {
            let header = match table.split_once('.') {
                Some((list, _)) => format!("\n[[{list}]]\n"),
                None => format!("\n[{table}]\n"),
            };
            text.push_str(&header);
            open = table;
        }
        if line.is_left_out {
            text.push_str("# ");
        }
        text.push_str(key);
        text.push_str(" = ");
        text.push_str(line.value);
        if let Some(note) = line.note {
            text.push_str("  # ");
            // A path may hold what would end the comment.
            text.extend(note.chars().map(|c| if c.is_control() { '?' } else { c }));
        }
        text.push('\n');
    }
    text.trim_start_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::effective::{Origins, values};
    use crate::config::tests::{FULL, parse};
    use crate::config::{Flags, HostPolicy};

    fn dumped(config: &Config) -> Config {
        let values = values(config, &Origins::default());
        let text = dump(&values, true);
        parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn a_dump_loads_to_the_same_configuration_without_its_secrets() {
        assert_eq!(dumped(&Config::default()), Config::default());
        let mut config = parse(FULL).unwrap();
        let loaded = dumped(&config);
        assert_ne!(loaded, config);
        config.admin.token = None;
        config.alerts.webhook = None;
        config.tracing.authorization = None;
        config.parents[0].credentials = None;
        assert_eq!(loaded, config);
    }

    #[test]
    fn a_dump_shows_no_secret_and_says_how_to_give_it() {
        let config = parse(FULL).unwrap();
        let text = dump(&values(&config, &Origins::default()), false);
        for secret in ["sesame", "hook-path", "0123456789abcdef"] {
            assert!(FULL.contains(secret) && !text.contains(secret), "{text}");
        }
        for line in [
            "# token = \"…\"  # a secret: give it as RINGWAY_ADMIN__TOKEN\n",
            "# credentials = \"…\"  # a secret: give it as RINGWAY_PARENT__0__CREDENTIALS\n",
            "# webhook = \"…\"  # a secret: give it as RINGWAY_ALERTS__WEBHOOK\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn texts_that_need_an_escape_survive() {
        let text = "[log]\nfile = \"a\\\"b\\\\c\\n\\u0001\\u007fé\"";
        let config = parse(text).unwrap();
        assert_eq!(dumped(&config), config);
    }

    #[test]
    fn times_and_sizes_are_exact() {
        for text in [
            "[timeouts]\nread = 0.0010001",
            "[timeouts]\nread = 86399.123456789",
            "[timeouts]\ntunnel_idle = 604799.999999999",
            "[limits]\nbody_bytes = \"18446744073709551614\"",
            "[limits]\nbody_bytes = 1025\nmin_body_rate = 0",
            "[alerts]\nerror_rate = 0.0000001\nopen_files = 1",
        ] {
            let config = parse(text).unwrap();
            assert_eq!(dumped(&config), config, "{text}");
        }
    }

    /// What `import` makes of a file with this text, and the configurations before and after.
    fn imported(name: &str, text: &str) -> (String, Config, Config) {
        let folder = tempfile(name);
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        let toml = import(&path).unwrap();
        let load = |path: &Path| Config::load(Some(path), &Flags::default());
        let before = load(&path).unwrap();
        let path = folder.join("imported.toml");
        std::fs::write(&path, &toml).unwrap();
        let after = load(&path).unwrap_or_else(|error| panic!("{error}\n{toml}"));
        std::fs::remove_dir_all(folder).unwrap();
        (toml, before, after)
    }

    fn tempfile(name: &str) -> std::path::PathBuf {
        let folder = format!("ringway-import-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_flat_file_becomes_toml_that_names_what_was_mapped() {
        let text = r#"{"port": 8000, "max_connections": 7, "keepalive_expiry": 90.0,
            "host": "::1", "max_memory_usage": 300}"#;
        let (toml, before, after) = imported("flat.json", text);
        assert_eq!(before, after, "{toml}");
        let expected = "\
            [server]\n\
            host = \"::1\"  # was host\n\
            port = 8000  # was port\n\
            \n\
            [pool]\n\
            max_connections = 7  # was max_connections\n\
            idle_expiry = \"1m30s\"  # was keepalive_expiry\n\
            \n\
            [memory]\n\
            max_mb = 300  # was max_memory_usage\n";
        assert!(toml.ends_with(expected), "{toml}");
    }

    #[test]
    fn a_toml_file_becomes_what_is_not_the_default() {
        let (toml, before, after) = imported("full.toml", FULL);
        assert_eq!(before, after, "{toml}");
        assert_eq!(after.upstreams[0].host, HostPolicy::Origin);
        assert!(!toml.contains("fail_timeout = \"10s\"") && !toml.contains("backlog"), "{toml}");
        let again = imported("again.toml", &toml).0;
        let body = |text: &str| text.split_once('\n').unwrap().1.to_owned();
        assert_eq!(body(&again), body(&toml));
        let shipped = imported("shipped.toml", include_str!("../../config.toml"));
        assert_eq!(shipped.1, shipped.2);
        // A file without it would have no demo.
        let demo = "[[upstream]]\nname = \"demo\"\nbuiltin = \"demo\"\n";
        assert!(shipped.0.ends_with(demo), "{}", shipped.0);
    }
}
