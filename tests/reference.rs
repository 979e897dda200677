//! The reference of keys: what the source says about them, and the files that repeat it.
//!
//! Comes in: the fields of the configuration, with their comments, defaults and effects. Goes out:
//! `config.toml`, `config.schema.json` and a table per section between `<!-- keys: SECTION -->` and
//! `<!-- /keys -->` in the README, which must be what stands there. With `UPDATE_REFERENCE=1` in
//! the environment all of them are rewritten.

use std::fs;
use std::path::{Path, PathBuf};

use ringway::internals::config::{reference, schema};

const OPEN: &str = "<!-- keys: ";
const CLOSE: &str = "<!-- /keys -->";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn file(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_default().replace("\r\n", "\n")
}

/// The README with each table as the source has it, and the sections that were found.
fn rendered(readme: &str) -> (String, Vec<String>) {
    let (mut text, mut sections) = (String::new(), Vec::new());
    let mut rest = readme;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let (section, after) = after.split_once(" -->").expect("the end of a marker");
        let (_, after) = after.split_once(CLOSE).expect("a marker that closes");
        let table = reference::table(section);
        text.extend([before, OPEN, section, " -->\n", &table, CLOSE]);
        sections.push(section.to_owned());
        rest = after;
    }
    (text + rest, sections)
}

#[track_caller]
fn expect(name: &str, wanted: &str) {
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(path(name), wanted).unwrap();
        return;
    }
    let found = file(name);
    let how = "run `UPDATE_REFERENCE=1 cargo test --test reference`";
    for (line, (found, wanted)) in found.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(found, wanted, "{name}:{}: {how}", line + 1);
    }
    assert_eq!(found.len(), wanted.len(), "{name}: {how}");
}

#[test]
fn the_tables_of_the_readme_are_those_of_the_source() {
    let (wanted, sections) = rendered(&file("README.md"));
    assert_eq!(sections, reference::section_names(), "the markers in README.md");
    expect("README.md", &wanted);
}

#[test]
fn the_shipped_configuration_is_that_of_the_source() {
    expect("config.toml", &reference::shipped());
}

#[test]
fn the_schema_beside_it_is_that_of_the_source() {
    expect("config.schema.json", &format!("{:#}\n", schema()));
}
