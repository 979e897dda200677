//! What a new configuration changes, and what each change takes to come into effect.
//!
//! In: two configurations, or the name of a key. Out: the keys whose meaning differs, each with
//! the effect of its change. The order of routes, of origins and of lists does not count, nor does
//! the spelling of a unit; that of `[[forward.rule]]` does. Which key takes what is said at its
//! field.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value as Json;

use super::effective::{Entry, entries, toml};
use super::{Config, keys};

/// A key that has another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// As `effective::Value::key` has it; `parent` alone is the order of the parents.
    pub key: String,
    /// As TOML; `"…"` where it is a secret. `None` where there was no such upstream, route or
    /// parent.
    pub old: Option<String>,
    pub new: Option<String>,
    pub effect: Effect,
}

/// What it takes, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// A reload is enough: the next request or connection follows the new value.
    Hot,
    /// A reload is enough: what the old value was for is closed once it is idle.
    Drain,
    /// Only a restart.
    Restart,
}

use Effect::{Drain, Hot, Restart};

/// What a change of `key` takes at most: removing an origin takes more than adding one. The key is
/// `pool.max_idle`, `upstream.origins` or, with a name, `upstream.app.origins`. A key that does not
/// exist takes a restart.
pub(crate) fn effect_of(key: &str) -> Effect {
    keys::key(key).map_or(Restart, |key| key.effect)
}

/// What is different in `new`, in the order of `config.toml`; what is no more comes last.
pub(crate) fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let (before, after) = (by_key(entries(old)), entries(new));
    let mut changes: Vec<Change> =
        after.iter().filter_map(|entry| change(before.get(&entry.key), Some(entry))).collect();
    let after = by_key(after);
    let gone = entries(old).into_iter().filter(|entry| !after.contains_key(&entry.key));
    changes.extend(gone.filter_map(|entry| change(Some(&entry), None)));
    changes.extend(parents_moved(old, new));
    changes
}

/// What `changes` take together; `None` without any.
pub(crate) fn effect_of_all(changes: &[Change]) -> Option<Effect> {
    changes.iter().map(|change| change.effect).max()
}

fn by_key(entries: Vec<Entry>) -> BTreeMap<String, Entry> {
    entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
}

fn change(old: Option<&Entry>, new: Option<&Entry>) -> Option<Change> {
    let key = new.or(old)?.key.clone();
    if old.map(meaning) == new.map(meaning) {
        return None;
    }
    let keeps_all = || urls(old).is_subset(&urls(new));
    let effect = match effect_of(&key) {
        // Nothing that is in use goes away.
        Drain if key.starts_with("upstream.") && old.is_none() => Hot,
        Drain if key.starts_with("upstream.") && key.ends_with(".origins") && keeps_all() => Hot,
        effect => effect,
    };
    Some(Change { key, old: old.map(Entry::text), new: new.map(Entry::text), effect })
}

/// What the value says, whatever its order.
fn meaning(entry: &Entry) -> Vec<String> {
    match &entry.value {
        // The first that fits decides.
        Json::Array(_) if entry.key == "forward.rule" => vec![toml(&entry.value)],
        Json::Array(items) => items.iter().map(toml).collect::<BTreeSet<_>>().into_iter().collect(),
        single => vec![toml(single)],
    }
}

/// The origins of an upstream, whatever their weights.
fn urls(entry: Option<&Entry>) -> BTreeSet<&str> {
    let origins = entry.and_then(|entry| entry.value.as_array()).into_iter().flatten();
    origins.filter_map(|origin| origin.get("url").unwrap_or(origin).as_str()).collect()
}

/// The first parent that fits is used, so theirs is the one order that counts.
fn parents_moved(old: &Config, new: &Config) -> Option<Change> {
    let names = |config: &Config, other: &Config| -> Vec<String> {
        let is_kept = |name: &String| other.parents.iter().any(|parent| parent.name == *name);
        config.parents.iter().map(|parent| parent.name.clone()).filter(is_kept).collect()
    };
    let (before, after) = (names(old, new), names(new, old));
    let text = |names: Vec<String>| Some(toml(&names.into()));
    (before != after).then(|| Change {
        key: "parent".to_owned(),
        old: text(before),
        new: text(after),
        effect: effect_of("parent.domains"),
    })
}

impl Effect {
    /// As `x-reload` has it at a field.
    pub(super) fn of_name(name: &str) -> Self {
        [Hot, Drain, Restart].into_iter().find(|effect| effect.name() == name).unwrap_or(Restart)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Hot => "hot",
            Drain => "drain",
            Restart => "restart",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{FULL, parse};

    #[test]
    fn keys_with_names_in_them_have_the_effect_of_their_kind() {
        for (key, effect) in [
            ("upstream.a.b.c.origins", Drain),
            ("upstream.a.host", Hot),
            ("route.*.example.org/a.b/c.strip_prefix", Hot),
            ("parent.x.url", Hot),
            ("buffers.chunk_bytes", Restart),
            ("parent", Restart),
            ("server.no_such_key", Restart),
            ("log.level", Restart),
            ("admin.token", Hot),
        ] {
            assert_eq!(effect_of(key), effect, "{key}");
        }
    }

    /// `FULL` with `from` replaced by `to`: each change as `key: old -> new: effect`.
    #[track_caller]
    fn changes(from: &str, to: &str) -> Vec<String> {
        assert!(FULL.contains(from), "{from}");
        let (old, new) = (parse(FULL).unwrap(), parse(&FULL.replacen(from, to, 1)).unwrap());
        let none = || "nothing".to_owned();
        diff(&old, &new)
            .into_iter()
            .map(|Change { key, old, new, effect }| {
                let (old, new) = (old.unwrap_or_else(none), new.unwrap_or_else(none));
                format!("{key}: {old} -> {new}: {effect}")
            })
            .collect()
    }

    #[test]
    fn spelling_and_order_are_no_change() {
        for (from, to) in [
            ("read = 0.25", "read = \"250ms\""),
            ("body_bytes = \"1MiB\"", "body_bytes = 1048576"),
            ("\"10.1.2.3/8\", \"::1\"", "\"::1/128\", \"10.0.0.0/8\""),
            ("\"[::1]:8001\", \"127.0.0.1:8002\"", "\"127.0.0.1:8002\", \"[::1]:8001\""),
            (
                "[[route]]\n        upstream = \"a.b\"\n",
                "[[route]]\nhost = \"\"\npath = \"/\"\nupstream = \"a.b\"\n",
            ),
            ("error_rate = 1", "error_rate = 1.0"),
        ] {
            assert_eq!(changes(from, to), Vec::<String>::new(), "{to}");
        }
        let mut turned = parse(FULL).unwrap();
        turned.routes.reverse();
        assert_eq!(diff(&parse(FULL).unwrap(), &turned), []);
    }

    #[test]
    fn a_change_names_its_key_both_values_and_the_effect() {
        for (from, to, expected) in [
            ("port = 8100", "port = 8101", "server.port: 8100 -> 8101: drain"),
            ("read = 0.25", "read = 1", "timeouts.read: \"250ms\" -> \"1s\": hot"),
            ("level = \"off\"", "level = \"warn\"", "log.level: \"off\" -> \"warn\": restart"),
            (
                "\"https://b\", weight = 3",
                "\"https://b\", weight = 4",
                "upstream.a.b.origins: [\"http://[::1]:81\", { max_idle = 9, url = \"https://b\", \
                 weight = 3 }] -> [\"http://[::1]:81\", { max_idle = 9, url = \"https://b\", \
                 weight = 4 }]: hot",
            ),
            (
                "origins = [\"http://[::1]:81\",",
                "origins = [",
                "upstream.a.b.origins: [\"http://[::1]:81\", { max_idle = 9, url = \"https://b\", \
                 weight = 3 }] -> [{ max_idle = 9, url = \"https://b\", weight = 3 }]: drain",
            ),
            (
                "strip_prefix = true",
                "strip_prefix = false",
                "route.*.example.org/api path_regex=^/api/v[0-9]+ methods=GET header.x-canary=1 \
                 query.a b=* cookie.canary=always clients=10.0.0.0/8.strip_prefix: true -> false: \
                 hot",
            ),
        ] {
            assert_eq!(changes(from, to), [expected]);
        }
    }

    #[test]
    fn secrets_are_compared_and_not_shown() {
        assert_eq!(
            changes("user:sesame", "user:other"),
            ["parent.office.credentials: \"…\" -> \"…\": hot"]
        );
        assert_eq!(
            changes("token = \"0123456789abcdef\"", ""),
            ["admin.token: \"…\" -> \"\": hot"]
        );
    }

    #[test]
    fn what_comes_and_goes_has_one_side_only() {
        let more = "[forward]\n[[upstream]]\nname = \"new\"\norigins = [\"http://new\"]\n[forward]";
        let more = more.replacen("[forward]\n", "", 1);
        let old = parse(FULL).unwrap();
        let new = parse(&FULL.replacen("[forward]", &more, 1)).unwrap();
        let (coming, going) = (diff(&old, &new), diff(&new, &old));
        let keys = |changes: &[Change]| -> Vec<String> {
            changes.iter().map(|change| change.key.clone()).collect()
        };
        let names = ["name", "origins", "host", "balance", "hash", "slow_start", "fail_timeout"];
        let more =
            ["panic_below", "map_location", "http", "strict", "pass_trailers", "reads_all_bodies"];
        let names = names.into_iter().chain(more);
        assert_eq!(
            keys(&coming),
            names.map(|name| format!("upstream.new.{name}")).collect::<Vec<_>>()
        );
        assert_eq!(keys(&going), keys(&coming));
        assert!(coming.iter().all(|change| change.old.is_none() && change.new.is_some()));
        assert!(going.iter().all(|change| change.old.is_some() && change.new.is_none()));
        assert_eq!(effect_of_all(&coming), Some(Hot));
        assert_eq!(effect_of_all(&going), Some(Drain));
        assert_eq!(effect_of_all(&[]), None);
    }

    #[test]
    fn the_order_of_parents_counts() {
        let parents = |names: [&str; 2]| {
            let table = names
                .map(|name| format!("[[parent]]\nname = \"{name}\"\nurl = \"http://{name}\"\n"));
            parse(&table.concat()).unwrap()
        };
        let changes = diff(&parents(["a", "b"]), &parents(["b", "a"]));
        let expected = Change {
            key: "parent".to_owned(),
            old: Some("[\"a\", \"b\"]".to_owned()),
            new: Some("[\"b\", \"a\"]".to_owned()),
            effect: Hot,
        };
        assert_eq!(changes, [expected]);
    }

    #[test]
    fn the_order_of_rules_for_users_counts() {
        let of = |rules: [&str; 2]| {
            let text = format!("[forward]\nrule = [{}]", rules.join(", "));
            parse(&text).unwrap()
        };
        let (one, other) = ("{ targets = [\"a\"], action = \"deny\" }", "{ action = \"allow\" }");
        let changes = diff(&of([one, other]), &of([other, one]));
        let keys: Vec<_> = changes.iter().map(|it| (it.key.as_str(), it.effect)).collect();
        assert_eq!(keys, [("forward.rule", Hot)]);
        assert_eq!(diff(&of([one, other]), &of([one, other])), []);
    }
}
