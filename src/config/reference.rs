//! The reference of all keys: `config.toml`, and the tables of the book.
//!
//! In: what the fields of the configuration say about themselves, by way of `keys`. Out: the text
//! of the shipped file, and a table in Markdown for each section. Nothing here writes to a disk: a
//! test compares, and rewrites where it is asked to.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::change::Effect;
use super::effective::{Origins, toml, values};
use super::keys::{Key, Section, section, sections};
use super::{Config, takes};

const WIDTH: usize = 100;

const HEAD: &str = "\
#:schema ./config.schema.json
# ringway's configuration: every key with its default and what it may be. The first line is for
# editors that know TOML: they complete and check keys by the file that `ringway schema` prints.
#
# Durations are \"500ms\", \"30s\", \"1m30s\", \"1h\" or a number of seconds (30, 0.5).
# Sizes are \"64KiB\" (1024), \"8MB\" (1000) or a number of bytes.
# An unknown key or a value out of range is an error that names its line and column.
# RINGWAY_SECTION__KEY in the environment overrides a key, and --set section.key=value overrides
# both.
";

/// `config.toml` as it is shipped: the built-in defaults, and what each key means.
pub fn shipped() -> String {
    let mut text = HEAD.to_owned();
    // What loading makes of 0 depends on the machine.
    let config = Config::default();
    let values = values(&config, &Origins::default());
    for section in sections() {
        let index = if section.is_list { ".0" } else { "" };
        let path = format!("{}{index}.", section.name);
        let is_there = values.iter().any(|value| value.path.starts_with(&path));
        text.push('\n');
        comment(&mut text, "# ", &section.text);
        if !is_there {
            text.push_str("#\n");
        }
        let before = if is_there { "" } else { "#   " };
        writeln!(text, "{before}{}", header(section)).expect("a String takes any text");
        for key in &section.keys {
            let value = values.iter().find(|value| value.path == format!("{path}{}", key.name));
            let default = key.default.as_ref().map(familiar);
            let value = default.or(value.map(|value| value.value.clone()));
            let example = key.example.clone();
            let (mark, value) = match (is_there, value, example) {
                (true, Some(value), _) if values_has(&values, &path, key) => ("", value),
                (true, _, Some(example)) => ("# ", example),
                (false, _, Some(example)) => ("", example),
                (false, Some(value), None) => ("", value),
                (_, _, None) => continue,
            };
            comment(&mut text, &format!("{before}# "), &key.text);
            writeln!(text, "{before}{mark}{} = {value}", key.name)
                .expect("a String takes any text");
        }
    }
    text
}

/// As people write it, where there are several ways.
fn familiar(value: &Json) -> String {
    match value.as_str() {
        Some("1m") => "\"60s\"".to_owned(),
        Some(text) => match text.strip_suffix('B').filter(|it| it.parse::<u64>().is_ok()) {
            Some(bytes) => bytes.to_owned(),
            None => toml(value),
        },
        None => toml(value),
    }
}

fn values_has(values: &[super::effective::Value], path: &str, key: &Key) -> bool {
    values.iter().any(|value| value.path == format!("{path}{}", key.name))
}

fn header(section: &Section) -> String {
    if section.is_list { format!("[[{}]]", section.name) } else { format!("[{}]", section.name) }
}

/// Lines of at most `WIDTH` columns.
fn comment(text: &mut String, before: &str, words: &str) {
    let mut width = 0;
    for word in words.split_whitespace() {
        let length = word.chars().count();
        if width == 0 || width + 1 + length > WIDTH {
            text.push_str(if width == 0 { "" } else { "\n" });
            text.push_str(before.trim_end());
            width = before.trim_end().len();
        }
        text.push(' ');
        text.push_str(word);
        width += 1 + length;
    }
    text.push('\n');
}

/// The names of the sections, each of which has a table.
pub fn section_names() -> Vec<&'static str> {
    sections().iter().map(|section| section.name.as_str()).collect()
}

/// A section's table in Markdown, with the keys of the tables that its keys take.
pub fn table(name: &str) -> String {
    let mut table = "| key | it takes | default | a change is | what it does |\n\
                     |---|---|---|---|---|\n"
        .to_owned();
    for Key { name: key, text, default, is_required, effect, schema, .. } in &section(name).keys {
        let default = default.as_ref().filter(|_| key != "builtin");
        row(&mut table, &format!("{name}.{key}"), schema, default, *is_required, *effect, text);
        // Those of a route are in the table of [hooks].
        for (within, schema, is_required) in
            takes::within(schema).into_iter().filter(|_| key != "hooks")
        {
            let path = format!("{name}.{key}.{within}");
            let text = schema["description"].as_str().unwrap_or_default();
            row(&mut table, &path, schema, schema.get("default"), is_required, *effect, text);
        }
    }
    table
}

fn row(
    table: &mut String,
    path: &str,
    schema: &Json,
    default: Option<&Json>,
    is_required: bool,
    effect: Effect,
    text: &str,
) {
    let default = match default {
        Some(value) => format!("`{}`", familiar(value)),
        None if is_required => "required".to_owned(),
        None => "none".to_owned(),
    };
    let takes = takes::takes(schema).replace('|', "\\|");
    let text = text.replace('|', "\\|");
    writeln!(table, "| `{path}` | {takes} | {default} | {effect} | {text} |")
        .expect("a String takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::parse;

    #[test]
    fn the_shipped_file_is_the_defaults_and_its_examples_are_toml() {
        assert_eq!(parse(&shipped()).unwrap(), Config::default());
        for key in sections().iter().flat_map(|section| &section.keys) {
            assert!(!key.text.is_empty(), "{} has no comment", key.name);
            if let Some(example) = &key.example {
                let text = format!("x = {example}");
                assert!(text.parse::<toml::Table>().is_ok(), "{text}");
            }
        }
    }

    #[test]
    fn every_key_is_in_the_shipped_file() {
        let shipped = shipped();
        for section in sections() {
            let (_, own) = shipped.split_once(&header(section)).unwrap();
            for key in &section.keys {
                // The keys of a route's own hooks are those of [hooks].
                let is_there = own.contains(&format!("{} = ", key.name));
                assert!(is_there || key.name == "hooks", "{}.{}", section.name, key.name);
            }
        }
    }
}
