//! The reference: what the source says of itself, and the files that repeat it.
//!
//! Comes in: the fields of the configuration, with their comments, defaults and effects; the
//! command line; the source of what else has names that people read. Goes out: `config.toml`,
//! `config.schema.json` and what stands between `<!-- keys: SECTION -->`, `<!-- made: WHAT -->` and
//! the next `<!-- /` in the pages of `docs/reference`, which with `UPDATE_REFERENCE=1` in the
//! environment are rewritten. What is written by hand has to name what the source names.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use ringway::internals::cli;
use ringway::internals::config::{reference, schema};

/// The pages that have tables of keys.
const PAGES: [&str; 2] = ["docs/reference/keys.md", "docs/reference/hooks.md"];

const OPEN: &str = "<!-- keys: ";
const CLOSE: &str = "<!-- /keys -->";

const MADE: &str = "<!-- made: ";
const MADE_END: &str = "<!-- /made -->";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn file(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_default().replace("\r\n", "\n")
}

/// A page with each part between two markers as the source has it, and the parts that were found.
fn rendered(
    page: &str,
    (open, close): (&str, &str),
    made: impl Fn(&str) -> String,
) -> (String, Vec<String>) {
    let (mut text, mut parts) = (String::new(), Vec::new());
    let mut rest = page;
    while let Some((before, after)) = rest.split_once(open) {
        let (part, after) = after.split_once(" -->").expect("the end of a marker");
        let (_, after) = after.split_once(close).expect("a marker that closes");
        text.extend([before, open, part, " -->\n", &made(part), close]);
        parts.push(part.to_owned());
        rest = after;
    }
    (text + rest, parts)
}

/// The source of a part of the program, without its tests.
fn source(name: &str) -> String {
    let text = file(name);
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    assert!(end > 0, "there is no {name}");
    text[..end].to_owned()
}

/// The texts between two quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

/// The first words in backticks of the rows of a table, or all of those in its first column.
fn first_column(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split_once(" |").map(|(cell, _)| cell));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The text between two others.
#[track_caller]
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, text) = text.split_once(start).unwrap_or_else(|| panic!("no {start:?}"));
    text.split_once(end).unwrap_or_else(|| panic!("no {end:?} behind {start:?}")).0
}

#[track_caller]
fn expect_same<'a>(
    page: &str,
    found: &BTreeSet<String>,
    wanted: impl IntoIterator<Item = &'a str>,
) {
    let wanted: BTreeSet<_> = wanted.into_iter().map(str::to_owned).collect();
    assert!(wanted.len() > 5, "the source is read wrongly: {wanted:?}");
    let missing: Vec<_> = wanted.difference(found).collect();
    let unknown: Vec<_> = found.difference(&wanted).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "{page}: no {missing:?}, and {unknown:?}?");
}

/// The texts of the refusals of a head, with their statuses.
fn refusals() -> String {
    let text = source("src/http/error.rs");
    let statuses = between(&text, "pub const fn status", "\n    }\n");
    let mut status_of = Vec::new();
    let mut rest = statuses;
    while let Some((arm, after)) = rest.split_once("=>") {
        let status = after.trim().split(',').next().expect("a status");
        let names = arm.split(|c: char| !c.is_alphanumeric());
        status_of.extend(names.map(|name| (name, status)));
        rest = after;
    }
    let status_of = |name: &str| {
        let found = status_of.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("no status of {name}")).1
    };
    let mut table = String::from("| `details` | status |\n|---|---|\n");
    let framing = source("src/http/framing.rs");
    for text in [&text, &framing] {
        let arms = between(text, "pub const fn text", "\n    }\n");
        for line in arms.lines().filter(|line| line.contains("=> \"")) {
            let name = between(line, "Self::", " ");
            let words = quoted(line).next().expect("a text");
            let put = writeln!(table, "| `{words}` | {} |", status_of(name));
            put.expect("a String takes any text");
        }
    }
    table
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
fn the_tables_of_keys_are_those_of_the_source() {
    let mut found = Vec::new();
    for page in PAGES {
        let (wanted, sections) = rendered(&file(page), (OPEN, CLOSE), reference::table);
        expect(page, &wanted);
        found.extend(sections);
    }
    found.sort_unstable();
    let mut sections = reference::section_names();
    sections.sort_unstable();
    assert_eq!(found, sections, "the markers in {PAGES:?}");
}

#[test]
fn the_shipped_configuration_is_that_of_the_source() {
    expect("config.toml", &reference::shipped());
}

#[test]
fn the_schema_beside_it_is_that_of_the_source() {
    expect("config.schema.json", &format!("{:#}\n", schema()));
}

#[test]
fn what_pages_have_of_the_source_is_what_it_says() {
    for (page, part) in
        [("docs/reference/commands.md", "commands"), ("docs/reference/http.md", "refusals")]
    {
        let made = |part: &str| match part {
            "commands" => cli::reference(),
            "refusals" => refusals(),
            part => panic!("nobody makes {part}"),
        };
        let (wanted, parts) = rendered(&file(page), (MADE, MADE_END), made);
        assert_eq!(parts, [part], "the markers in {page}");
        expect(page, &wanted);
    }
}

#[test]
fn the_table_of_commands_has_every_command() {
    let page = "docs/reference/commands.md";
    let text = file(page);
    let table = first_column(between(&text, "| command | what it does |", "\n\n"));
    let name = |text: &str| text.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let found: BTreeSet<String> = table.iter().map(|command| name(command)).collect();
    let headings = text.lines().filter_map(|line| line.strip_prefix("### "));
    expect_same(page, &found, headings.filter(|heading| heading.starts_with("ringway ")));
}

#[test]
fn the_page_of_metrics_names_those_of_the_source() {
    let folder = fs::read_dir(path("src/admin")).expect("a folder");
    let paths = folder.map(|entry| entry.expect("a readable folder").path());
    let sources = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let texts: String =
        sources.map(|path| source(path.to_str().expect("UTF-8"))).collect::<Vec<_>>().concat();
    let is_name = |text: &&str| {
        let rest = text.strip_prefix("ringway_").unwrap_or_default();
        !rest.is_empty()
            && rest.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    let page = "docs/reference/metrics.md";
    expect_same(page, &first_column(&file(page)), quoted(&texts).filter(is_name));
}

#[test]
fn the_page_of_logs_names_the_fields_of_the_source() {
    let text = source("src/observe/access_line.rs");
    let calls = ["line.text(\"", "line.value(\"", "line.figure(\""];
    let fields = calls.iter().flat_map(|call| text.split(call).skip(1));
    let fields: Vec<_> = fields.filter_map(|rest| rest.split('"').next()).collect();
    let page = "docs/reference/logs.md";
    let page_text = file(page);
    let table = between(&page_text, "| field | meaning |", "\n\n");
    expect_same(page, &first_column(table), fields);
}

#[test]
fn the_page_of_logs_names_the_fields_of_a_format_of_ones_own() {
    let text = source("src/config/access_field.rs");
    let table = between(&text, "const PLAIN", "];");
    let fields = table.split("(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let headers = ["request.header.NAME", "response.header.NAME"];
    let page = "docs/reference/logs.md";
    let page_text = file(page);
    let found = first_column(between(&page_text, "| field of a format | value |", "\n\n"));
    expect_same(page, &found, fields.chain(headers));
}

#[test]
fn the_page_of_logs_names_the_faults_of_the_source() {
    let text = source("src/fault.rs");
    let facts = between(&text, "const fn facts(self)", "\n    }\n");
    let tls = between(&text, "const fn name(self)", "\n    }\n");
    let page = "docs/reference/logs.md";
    let page_text = file(page);
    let mut found = first_column(between(&page_text, "| error | status |", "\n\n"));
    // Stands for the texts of refusals, which are in the page of HTTP.
    assert!(found.remove("\"no Host\""));
    expect_same(page, &found, quoted(facts).chain(quoted(tls)));
}

#[test]
fn the_page_of_the_admin_api_names_the_routes_of_the_source() {
    let text = source("src/admin/api.rs");
    let methods = [("get(", "GET"), ("post(", "POST"), ("delete(", "DELETE")];
    let routes: Vec<_> = text
        .split(".route(\"")
        .skip(1)
        .map(|rest| {
            let (path, rest) = rest.split_once("\", ").expect("a path and a handler");
            let method = methods.iter().find(|(call, _)| rest.starts_with(call));
            let name = path.replace("{name}", "NAME").replace("{id}", "ID");
            format!("{} {name}", method.expect("a method").1)
        })
        .collect();
    let page = "docs/reference/admin-api.md";
    let page_text = file(page);
    let found = first_column(between(&page_text, "| request | answer |", "\n\n"));
    expect_same(page, &found, routes.iter().map(String::as_str));
    for route in routes.iter().filter(|route| !route.ends_with(" /")) {
        let (method, path) = route.split_once(' ').expect("a method and a path");
        let line = format!("{method:<6} {}", path.replace("NAME", "{name}").replace("ID", "{id}"));
        assert!(text.contains(&line), "GET / does not list {route}");
    }
}
