//! The house rules that a program can check, checked by reading the source.
//!
//! Comes in: every Rust file of the repository. Goes out: one line per offence, `file:line: rule`.
//! It judges text, not meaning: a rule that needs judgement belongs in a review.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A file without its tests, which have other limits.
const FILE_LINES_MAX: usize = 500;

const FUNCTION_LINES_MAX: usize = 70;

const COLUMNS_MAX: usize = 100;

/// Who may import whom: a module uses what stands on its own floor or below it. The order is that
/// of the drawing in `src/lib.rs`.
const FLOORS: [&[&str]; 10] = [
    &["limits"],
    // Pure: bytes in, facts out.
    &["http"],
    // Words that everybody above shares.
    &["fault", "config", "ledger", "metrics"],
    &["ring"],
    &["notices", "date", "logging", "account", "guard", "memory"],
    &["route", "forward", "hooks", "upstream", "access_log", "relay"],
    &["ask", "gate", "generation", "worker", "seat", "room", "arbiter", "cleanup"],
    &[
        "connection",
        "exchange",
        "answer",
        "connect",
        "delivery",
        "forwarding",
        "hooking",
        "inquiry",
        "mirror",
        "record",
        "tunnel",
        "upgrade",
        "upload",
        "way",
    ],
    &["listener", "thread"],
    &[
        "lifecycle",
        "server",
        "reload",
        "sockets",
        "handover",
        "inherited",
        "supervisor",
        "watched",
        "workers",
        "control",
        "cli",
        "commands",
        "demo",
        "doctor",
        "entry",
        "health",
        "bench",
    ],
];

/// Words that must not stay in a source file, and why.
const BANNED: [(&str, &str); 7] = [
    ("todo!(", "do it or leave it out"),
    ("unimplemented!(", "do it or leave it out"),
    ("dbg!(", "a debugging aid"),
    ("println!(", "use tracing, or write to the stream and handle the error"),
    ("eprint!(", "use tracing, or write to the stream and handle the error"),
    ("print!(", "use tracing, or write to the stream and handle the error"),
    ("to_socket_addrs", "it blocks on a name server"),
];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The lines before the unit tests, which stand at the end of a file.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_code = |line: &&str| *line != "#[cfg(test)]";
        self.text.lines().take_while(is_code).enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The same without comments, because those may name what code must not.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// The module below `src` that this file belongs to.
    fn module(&self) -> &str {
        let first = self.path.iter().nth(1).and_then(|name| name.to_str()).unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }
}

/// Every Rust file below `folder`, with paths relative to the repository.
fn sources(folder: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).into_iter().flatten() {
            let name = entry.expect("a readable folder").file_name();
            let path = folder.join(name);
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(root().join(&path)).expect("UTF-8");
                sources.push(Source { path, text });
            }
        }
    }
    sources
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn expect_none(offences: &[String]) {
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

fn offence(source: &Source, line: usize, rule: &str) -> String {
    format!("{}:{line}: {rule}", source.path.display())
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

#[test]
fn there_is_something_to_read() {
    assert!(sources("src").len() > 20 && sources("tests").len() > 10);
}

#[test]
fn imports_do_not_point_up_the_house() {
    let mut offences = Vec::new();
    for source in sources("src") {
        let module = source.module().to_owned();
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let Some(own) = floor(&module) else {
            offences.push(offence(&source, 1, "this module has no floor in tests/tidy.rs"));
            continue;
        };
        for (number, line) in source.code() {
            for other in line.split("crate::").skip(1).flat_map(imported) {
                if floor(other).is_some_and(|other| other > own) {
                    offences.push(offence(&source, number, &format!("{module} uses {other}")));
                }
            }
        }
    }
    expect_none(&offences);
}

/// The modules that follow `crate::`, be it one name or a list in braces.
fn imported(rest: &str) -> Vec<&str> {
    fn name(text: &str) -> &str {
        text.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
    }
    match rest.strip_prefix('{') {
        None => vec![name(rest)],
        Some(list) => list.split(',').map(name).collect(),
    }
}

#[test]
fn only_the_ring_names_the_ring_crates_and_only_it_is_unsafe() {
    let mut offences = Vec::new();
    for source in ["src", "benches"].into_iter().flat_map(sources) {
        for (number, line) in source.code() {
            // The floor measures what everything above a bare ring costs, so it has a ring of its
            // own. It is no part of the program.
            let is_ring = source.is_in("src/ring") || source.is_in("benches/floor");
            for word in ["tokio_uring", "io_uring::"] {
                if line.contains(word) && !is_ring {
                    offences.push(offence(&source, number, &format!("{word} outside src/ring")));
                }
            }
            let is_lint = line.contains("unsafe_code");
            if line.contains("unsafe") && !is_lint && !is_ring {
                offences.push(offence(&source, number, "unsafe outside src/ring"));
            }
        }
    }
    expect_none(&offences);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut offences = Vec::new();
    for source in ["src/ring", "benches/floor"].into_iter().flat_map(sources) {
        let lines: Vec<_> = source.lines().map(|(_, line)| line).collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.contains("unsafe {") && !code.contains("unsafe impl") {
                continue;
            }
            // The comment stands above the statement that the block is part of.
            let above = lines[..index].iter().rev().take(8);
            if !above.clone().any(|line| line.contains("SAFETY:")) {
                offences.push(offence(&source, index + 1, "no SAFETY comment above"));
            }
        }
    }
    expect_none(&offences);
}

#[test]
fn files_functions_and_lines_keep_their_limits() {
    let mut offences = Vec::new();
    let all = ["src", "tests", "benches"].into_iter().flat_map(sources);
    for source in all.filter(|source| !source.path.components().any(|c| c.as_os_str() == "target"))
    {
        let count = source.lines().count();
        // A table of vectors may be as long as there are attacks.
        if count > FILE_LINES_MAX && source.is_in("src") {
            offences.push(offence(&source, count, &format!("over {FILE_LINES_MAX} lines")));
        }
        for (index, line) in source.text.lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX && !line.contains("http") {
                offences.push(offence(&source, index + 1, &format!("over {COLUMNS_MAX} columns")));
            }
        }
        if source.is_in("src") {
            offences.extend(long_functions(&source));
        }
    }
    expect_none(&offences);
}

/// Functions end where rustfmt puts the brace: at the indentation of their first line.
fn long_functions(source: &Source) -> Vec<String> {
    let lines: Vec<_> = source.lines().collect();
    let mut offences = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        let words = line.trim_start();
        let is_function =
            ["fn ", "pub fn ", "async fn ", "pub async fn ", "const fn ", "pub const fn "];
        let is_function = is_function.iter().any(|start| words.starts_with(start))
            || (words.starts_with("pub(") && words.contains(" fn "));
        if !is_function {
            continue;
        }
        let indentation = &line[..line.len() - words.len()];
        let end = format!("{indentation}}}");
        let length = lines[index..].iter().position(|(_, line)| *line == end).unwrap_or(0) + 1;
        if length > FUNCTION_LINES_MAX {
            offences.push(offence(source, *number, &format!("a function of {length} lines")));
        }
    }
    offences
}

#[test]
fn no_loose_ends_are_left() {
    let mut offences = Vec::new();
    for source in sources("src") {
        for (number, line) in source.code() {
            for (word, reason) in BANNED {
                // `println!(` is part of `eprintln!(`, and both are meant.
                if line.contains(word) {
                    offences.push(offence(&source, number, &format!("{word}: {reason}")));
                }
            }
        }
        for (number, line) in source.lines() {
            for mark in ["TODO", "FIXME", "XXX", "HACK"] {
                if line.contains(mark) {
                    offences.push(offence(&source, number, &format!("{mark}: settle it")));
                }
            }
        }
    }
    expect_none(&offences);
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut offences = Vec::new();
    for source in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        let is_fuzz = source.is_in("tests/fuzz");
        let lines = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        if !is_fuzz && lines < 3 {
            offences.push(offence(&source, 1, &format!("a module doc of {lines} lines")));
        }
    }
    expect_none(&offences);
}

/// The keys of the shipped configuration as `section.key`, with the line that sets each.
fn keys() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(root().join("config.toml")).expect("the shipped configuration");
    let mut section = "";
    let mut keys = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            keys.insert(format!("{section}.{key}"), index + 1);
        }
    }
    keys
}

#[test]
fn every_key_of_the_configuration_is_explained() {
    let config = fs::read_to_string(root().join("config.toml")).expect("the shipped configuration");
    let readme = fs::read_to_string(root().join("README.md")).unwrap_or_default();
    let lines: Vec<_> = config.lines().collect();
    let mut offences = Vec::new();
    for (key, line) in keys() {
        let name = key.rsplit('.').next().unwrap_or_default();
        // Host and port share one comment, because they are one thing.
        let is_key = |line: &&&str| line.contains(" = ") && !line.starts_with('#');
        let above = lines[..line - 1].iter().rev().find(|line| !is_key(line));
        if !above.is_some_and(|line| line.starts_with('#')) {
            offences.push(format!("config.toml:{line}: {key} has no comment above it"));
        }
        if !readme.contains(name) {
            offences.push(format!("README.md: {key} is not mentioned"));
        }
    }
    expect_none(&offences);
}

#[test]
fn the_readme_starts_with_the_two_commands() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap_or_default();
    let top: String = readme.lines().take(30).collect::<Vec<_>>().join("\n");
    for command in ["cargo run --release", "cargo test"] {
        assert!(top.contains(command), "README.md does not begin with `{command}`");
    }
}
