//! What holds for every input, not only for those that somebody thought of.
//!
//! Comes in: random text, random variables, and the shipped file with random changes. Goes out: no
//! panic, a line for every mistake, and for whatever is accepted a dump that loads to the same.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::environment::Environment;
use super::invariants::{judge, load};
use super::keys::paths;
use super::tests::FULL;

const SHIPPED: &str = include_str!("../../config.toml");

/// What is found where values and keys are.
const PIECES: [&str; 24] = [
    "",
    "\n",
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "#",
    "\\",
    "\0",
    "é",
    "[server]\n",
    "[[route]]\n",
    "port = 1\n",
    "-1",
    "1e400",
    "99999999999999999999",
];

fn rules() -> ProptestConfig {
    // A failure is kept as a test with a name, not as a file of seeds.
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// `text` with some of it replaced.
fn changed(text: &str, changes: &[(Index, Index, String)]) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for (at, length, with) in changes {
        let start = at.index(text.len() + 1);
        let end = (start + length.index(12)).min(text.len());
        text.splice(start..end, with.chars());
    }
    text.into_iter().collect()
}

fn changes() -> impl Strategy<Value = Vec<(Index, Index, String)>> {
    let piece = prop_oneof![
        select(&PIECES[..]).prop_map(str::to_owned),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<String>(),
    ];
    vec((any::<Index>(), any::<Index>(), piece), 1..4)
}

/// The name of a variable: mostly one that exists.
fn name() -> impl Strategy<Value = String> {
    let key = |path: Vec<String>| format!("RINGWAY_{}", path.join("__").to_ascii_uppercase());
    let keys: Vec<String> = paths().into_iter().map(key).collect();
    let flat = super::flat::FLAT_KEYS.map(|(name, _)| format!("PROXY_{}", name.to_uppercase()));
    prop_oneof![
        8 => select(keys),
        4 => select(flat.to_vec()),
        1 => "RINGWAY_[A-Z0-9_]{0,20}",
        1 => any::<String>(),
    ]
}

/// Bytes that may stand in the environment, so no NUL.
fn value() -> impl Strategy<Value = OsString> {
    let bytes = prop_oneof![
        3 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        3 => "[ -~]{0,30}".prop_map(String::into_bytes),
        2 => any::<String>().prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..30),
        2 => select(&["[", "{", "[[", "{a={", "1m", "auto", "a,b", "[1,\"x\"]"][..])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    bytes.prop_map(|mut bytes| {
        bytes.retain(|byte| *byte != 0);
        OsString::from_vec(bytes)
    })
}

proptest! {
    #![proptest_config(rules())]

    #[test]
    fn any_text_is_a_configuration_or_a_mistake(text in any::<String>()) {
        for name in ["a.toml", "a.json"] {
            judge(load(name, &text, &Environment::default()));
        }
    }

    #[test]
    fn a_changed_file_is_a_configuration_or_a_mistake(changes in changes(), is_full: bool) {
        let text = changed(if is_full { FULL } else { SHIPPED }, &changes);
        judge(load("a.toml", &text, &Environment::default()));
    }

    #[test]
    fn a_changed_flat_file_is_a_configuration_or_a_mistake(changes in changes()) {
        let text = "{\"host\": \"::1\", \"port\": 8000, \"max_connections\": 7,\n \
                    \"read_timeout\": 30.0, \"max_memory_usage\": 500}";
        judge(load("a.json", &changed(text, &changes), &Environment::default()));
    }

    #[test]
    fn any_environment_is_read_or_refused(variables in vec((name(), value()), 0..4)) {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value));
        match Environment::of(variables) {
            Ok(environment) => judge(load("a.toml", "", &environment)),
            Err(error) => judge(Err(error)),
        }
    }
}
