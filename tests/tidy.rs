//! The house rules that a program can check, checked by reading the source.
//!
//! Comes in: every Rust file of the repository. Goes out: one line per offence, `file:line: rule`.
//! It judges text, not meaning: a rule that needs judgement belongs in a review.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file without its tests, which have other limits.
const FILE_LINES_MAX: usize = 500;

const FUNCTION_LINES_MAX: usize = 70;

const COLUMNS_MAX: usize = 100;

/// The folders from top to bottom, as `src/lib.rs` draws them. A file imports from its own folder
/// and from those below it; one that stands beside the folders counts as a folder.
const FOLDERS: [&str; 32] = [
    "invariants",
    "cli",
    "server",
    "admin",
    "acme",
    "docker",
    "downstream",
    "exchange",
    "worker",
    "hooks",
    "forward_proxy",
    "routing",
    "upstream",
    "relay",
    "multiplex",
    "observe",
    "memory",
    "admin_guard",
    "ring",
    "tls",
    "unix_socket",
    "systemd",
    "ledger",
    "fault",
    "counters",
    "config",
    "http2",
    "http",
    "proxy_protocol",
    "address",
    "file_stamp",
    "limits",
];

/// Files that import each other in a circle, and why that is honest. A folder stands for any of its
/// files.
const HONEST_CIRCLES: [(&[&str], &str); 7] = [
    (&["config"], "keys are read, checked, spelled back and compared by types of each other"),
    (&["hooks", "hooks/guards", "hooks/plan"], "plans are loaded with those that were before"),
    (&["relay", "relay/steps"], "a transfer, and its steps"),
    (
        &["multiplex", "multiplex/lane", "multiplex/outward", "multiplex/turns"],
        "a connection has its lanes, and they send by way of it",
    ),
    (
        &[
            "ring/channel",
            "ring/deadlines",
            "ring/layered",
            "ring/net",
            "ring/ops",
            "ring/over",
            "ring/waits",
            "ring/wire",
        ],
        "sockets, their waits, and what may stand in for a descriptor",
    ),
    (&["upstream/book", "upstream/permits", "upstream/tallies"], "one book, behind one lock"),
    (
        &[
            "upstream/bonds",
            "upstream/idle",
            "upstream/lease",
            "upstream/places",
            "upstream/pool",
            "upstream/queue",
        ],
        "one pool",
    ),
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
        let lines: Vec<_> = self.text.lines().collect();
        let is_end = |two: &[&str]| two[0] == "#[cfg(test)]" && two[1].ends_with(" {");
        let end = lines.windows(2).position(is_end).unwrap_or(lines.len());
        lines.into_iter().take(end).enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The same without comments, because those may name what code must not.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// The module below `src` that this file is, as `upstream/pool`.
    fn module(&self) -> String {
        let path = self.path.with_extension("");
        let path = if path.ends_with("mod") { path.parent().unwrap_or(&path) } else { &path };
        path.iter().skip(1).map(|step| step.to_string_lossy()).collect::<Vec<_>>().join("/")
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

#[test]
fn there_is_something_to_read() {
    assert!(sources("src").len() > 20 && sources("tests").len() > 10);
}

#[test]
fn a_folder_imports_downwards() {
    let sources = sources("src");
    let mut offences = Vec::new();
    for (source, imports) in imports(&sources) {
        let Some(own) = floor(&source.module()) else {
            offences.push(offence(source, 1, "this folder has no floor in tests/tidy.rs"));
            continue;
        };
        for (line, other) in imports {
            if floor(&other).is_some_and(|floor| floor < own) {
                offences.push(offence(source, line, &format!("{other} is above this folder")));
            }
        }
    }
    expect_none(&offences);
}

fn floor(module: &str) -> Option<usize> {
    let folder = module.split('/').next();
    FOLDERS.iter().position(|floor| Some(*floor) == folder)
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources("src");
    let imports: BTreeMap<_, BTreeSet<_>> = imports(&sources)
        .into_iter()
        .map(|(source, found)| (source.module(), found.into_iter().map(|(_, to)| to).collect()))
        .collect();
    let reach = |from: &String| {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            let next = imports.get(module).into_iter().flatten();
            open.extend(next.filter(|next| reached.insert((*next).clone())));
        }
        reached
    };
    let reached: BTreeMap<_, _> = imports.keys().map(|module| (module, reach(module))).collect();
    let circles: BTreeSet<Vec<_>> = imports
        .keys()
        .filter(|module| reached[module].contains(*module))
        .map(|module| {
            let is_back = |other: &&String| {
                reached.get(other).is_some_and(|reached| reached.contains(module))
            };
            reached[module].iter().filter(is_back).map(String::as_str).collect()
        })
        .collect();
    let mut offences = Vec::new();
    let is_honest = |circle: &Vec<&str>, files: &[&str]| match files {
        [folder] => circle.iter().all(|file| file.split('/').next() == Some(folder)),
        files => circle == files,
    };
    for circle in &circles {
        if !HONEST_CIRCLES.iter().any(|(files, _)| is_honest(circle, files)) {
            offences.push(format!("a circle of imports: {}", circle.join(", ")));
        }
    }
    for (files, _) in HONEST_CIRCLES {
        if !circles.iter().any(|circle| is_honest(circle, files)) {
            offences.push(format!("no circle any more: {}", files.join(", ")));
        }
    }
    expect_none(&offences);
}

/// What each file of the program imports: lines, and modules as [`Source::module`] has them. Tests
/// may import anything.
fn imports(sources: &[Source]) -> Vec<(&Source, Vec<(usize, String)>)> {
    let modules: BTreeSet<_> = sources.iter().map(Source::module).collect();
    let is_test = |source: &&Source| {
        let module = source.module();
        let (folder, name) = module.rsplit_once('/').unwrap_or(("", &module));
        let parent = sources.iter().find(|parent| parent.module() == folder);
        let declared = format!("#[cfg(test)]\nmod {name};");
        module.contains("/tests") || parent.is_some_and(|it| it.text.contains(&declared))
    };
    let is_root = |source: &&Source| matches!(&*source.module(), "lib" | "main");
    let all = sources.iter().filter(|source| !is_root(source) && !is_test(source));
    all.map(|source| (source, imports_of(source, &modules))).collect()
}

fn imports_of(source: &Source, modules: &BTreeSet<String>) -> Vec<(usize, String)> {
    let own = source.module();
    let is_folder = source.path.ends_with("mod.rs");
    let mut is_shown = false;
    let mut found = Vec::new();
    for (line, code) in statements(source) {
        // What a folder shows of its files it does not use.
        is_shown |= code.trim_start().starts_with("pub") && code.contains(" use ");
        for path in if is_shown { Vec::new() } else { paths(&code) } {
            let mut base: Vec<_> = own.split('/').collect();
            let mut steps = path.iter().map(String::as_str).peekable();
            match path[0].as_str() {
                "crate" => {
                    base.clear();
                    steps.next();
                }
                "self" => drop(steps.next()),
                "super" => {
                    while steps.next_if_eq(&"super").is_some() {
                        base.pop();
                    }
                }
                child if !is_folder || !modules.contains(&format!("{own}/{child}")) => continue,
                _ => {}
            }
            base.extend(steps);
            let mut starts = (1..=base.len()).rev().map(|count| base[..count].join("/"));
            let module = starts.find(|module| modules.contains(module));
            found.extend(module.filter(|module| *module != own).map(|module| (line, module)));
        }
        is_shown &= !code.trim_end().ends_with(';');
    }
    found
}

/// The code of a file, a use of several lines in one piece, with the line at which it begins.
fn statements(source: &Source) -> Vec<(usize, String)> {
    let mut statements: Vec<(usize, String)> = Vec::new();
    for (number, line) in source.code() {
        match statements.last_mut() {
            Some((_, use_))
                if use_.matches('{').count() > use_.matches('}').count()
                    && use_.contains("use ") =>
            {
                use_.push_str(line.trim());
            }
            _ => statements.push((number, line.to_owned())),
        }
    }
    statements
}

/// The paths in a piece of code, step by step; a list in braces gives one for each of its items.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut before = ' ';
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        if is_word(first) && !is_word(before) && !matches!(before, ':' | '.' | '"' | '{') {
            rest = read_path(rest, &[], &mut found);
            before = 'x';
        } else {
            rest = &rest[first.len_utf8()..];
            before = first;
        }
    }
    found
}

/// Reads one path, or a list of them, behind `start`; what follows.
fn read_path<'a>(mut rest: &'a str, start: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = start.to_vec();
    loop {
        if let Some(list) = rest.strip_prefix('{') {
            rest = list;
            while !rest.is_empty() && !rest.starts_with('}') {
                rest = read_path(rest.trim_start(), &path, found);
                let end = rest.find([',', '}']).unwrap_or(rest.len());
                rest = rest[end..].trim_start_matches(',').trim_start();
            }
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        path.extend((end > 0).then(|| rest[..end].to_owned()));
        match rest[end..].strip_prefix("::") {
            Some(next) if end > 0 => rest = next,
            _ => {
                found.extend((path.len() > 1).then_some(path));
                return &rest[end..];
            }
        }
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

/// What HTTP/1 makes of an exchange is for `downstream/h1.rs` to say.
#[test]
fn an_exchange_knows_neither_keep_alive_nor_chunks() {
    let words =
        ["BodyOut", "ChunkScanner", "ConnectionOut", "LAST_CHUNK", "Version::", "is_persistent"];
    let mut offences = Vec::new();
    for source in sources("src/exchange") {
        for (number, line) in source.code() {
            if let Some(word) = words.into_iter().find(|word| line.contains(word)) {
                offences.push(offence(&source, number, &format!("{word} in an exchange")));
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
    let page = |name| fs::read_to_string(root().join("docs/reference").join(name)).expect("a page");
    let reference = page("keys.md") + &page("hooks.md");
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
        if !reference.contains(name) {
            offences.push(format!("docs/reference: {key} is not mentioned"));
        }
    }
    expect_none(&offences);
}
