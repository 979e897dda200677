//! The tables of keys in the README, which are made from the source.
//!
//! Comes in: the comments of `config.toml`, the built-in defaults, and what a change of each key
//! takes. Goes out: a table per section, which must be what stands between `<!-- keys: SECTION -->`
//! and `<!-- /keys -->`. With `UPDATE_REFERENCE=1` in the environment the README is rewritten.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use ringway::config::Config;
use ringway::config::change::effect_of;
use ringway::config::document::defaults;
use ringway::config::effective::{Origins, values};

const OPEN: &str = "<!-- keys: ";
const CLOSE: &str = "<!-- /keys -->";

/// A key of the shipped file.
#[derive(Debug)]
struct Row {
    section: String,
    name: String,
    meaning: String,
    /// The value that stands there, unless it is an example.
    value: Option<String>,
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap().replace("\r\n", "\n")
}

/// Every key of `config.toml`, also those that stand there as an example, with its comment.
fn rows() -> Vec<Row> {
    let (mut rows, mut section, mut comment) = (Vec::new(), String::new(), Vec::new());
    let mut is_in_hooks = false;
    for line in file("config.toml").lines() {
        // Hooks have a chapter of their own: their values are tables, and they have no defaults.
        is_in_hooks = line.starts_with('#') && (is_in_hooks || line == "#   [hooks]");
        if is_in_hooks {
            continue;
        }
        // An example is a file within a comment.
        let (line, is_example) = match line.strip_prefix("#   ").or(line.strip_prefix("# ")) {
            Some(rest) if is_code(rest) => (rest, true),
            Some(rest) if rest.starts_with("# ") => (rest, true),
            _ => (line, false),
        };
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim().to_owned());
        } else if line.starts_with('[') {
            line.trim_matches(['[', ']']).clone_into(&mut section);
            comment.clear();
        } else if let Some((name, value)) = line.split_once(" = ") {
            let meaning = comment.join(" ");
            assert!(!meaning.is_empty(), "{section}.{name} has no comment");
            let value = (!is_example).then(|| value.to_owned());
            rows.push(Row { section: section.clone(), name: name.to_owned(), meaning, value });
            comment.clear();
        } else if !is_example {
            comment.clear();
        }
    }
    rows
}

fn is_code(line: &str) -> bool {
    let is_key = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    line.starts_with("[[") || line.split_once(" = ").is_some_and(|(name, _)| is_key(name))
}

fn table(section: &str) -> String {
    let defaults = defaults();
    let mut table =
        "| key | default | a change is | what it does |\n|---|---|---|---|\n".to_owned();
    for Row { section, name, meaning, value } in rows().iter().filter(|row| row.section == section)
    {
        let key = format!("{section}.{name}");
        let default = match defaults.get(&key) {
            // The file has the same values in the spelling that people know.
            Some(default) => format!("`{}`", value.as_ref().unwrap_or(default)),
            None if name == "builtin" => "none".to_owned(),
            None => "required".to_owned(),
        };
        let effect = effect_of(&key);
        let meaning = meaning.replace('|', "\\|");
        writeln!(table, "| `{key}` | {default} | {effect} | {meaning} |").unwrap();
    }
    table
}

/// The README with each table as the source has it, and the sections that were found.
fn rendered(readme: &str) -> (String, Vec<String>) {
    let (mut text, mut sections) = (String::new(), Vec::new());
    let mut rest = readme;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let (section, after) = after.split_once(" -->").expect("the end of a marker");
        let (_, after) = after.split_once(CLOSE).expect("a marker that closes");
        write!(text, "{before}{OPEN}{section} -->\n{}{CLOSE}", table(section)).unwrap();
        sections.push(section.to_owned());
        rest = after;
    }
    (text + rest, sections)
}

#[test]
fn the_tables_of_the_readme_are_those_of_the_source() {
    let readme = file("README.md");
    let (wanted, sections) = rendered(&readme);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"), wanted).unwrap();
        return;
    }
    let mut known: Vec<String> = rows().into_iter().map(|row| row.section).collect();
    known.dedup();
    assert_eq!(sections, known, "the markers in README.md");
    for (found, wanted) in readme.lines().zip(wanted.lines()) {
        assert_eq!(found, wanted, "run `UPDATE_REFERENCE=1 cargo test --test reference`");
    }
    assert_eq!(readme.len(), wanted.len(), "run `UPDATE_REFERENCE=1 cargo test --test reference`");
}

#[test]
fn every_key_has_a_row() {
    let rows = rows();
    let keys: Vec<String> =
        rows.iter().map(|row| format!("{}.{}", row.section, row.name)).collect();
    for value in values(&Config::default(), &Origins::default()) {
        let key = value.path.replace(".0.", ".");
        assert!(keys.contains(&key), "{key}");
    }
    for key in defaults().keys() {
        assert!(keys.contains(key), "{key}");
    }
    let mut once = keys.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), keys.len(), "a key stands there twice");
}
