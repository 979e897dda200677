//! The paper: the README, the pages of the book and what else is written for people.
//!
//! Comes in: every Markdown file for people. Goes out: one line per offence, `file:line: what`.
//! With `UPDATE_REFERENCE=1` in the environment, what stands between `<!-- example: FILE -->` and
//! `<!-- /example -->` is rewritten. It never asks a network: links to elsewhere are not followed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

const README_LINES_MAX: usize = 150;

/// What begins a path that is named in the text, in backticks.
const FOLDERS: [&str; 8] =
    ["docs/", "docker/", "examples/", "src/", "tests/", "benches/", "vendor/", ".ci/"];

struct Page {
    /// Relative to the repository.
    path: PathBuf,
    text: String,
}

impl Page {
    fn read(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let text = fs::read_to_string(root().join(&path)).expect("a page of UTF-8");
        Self { path, text }
    }

    /// The lines that are no code, with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut is_code = false;
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(move |(_, line)| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        })
    }

    /// Where a link with `#` can lead to, as GitHub and mdBook name headings.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.lines().filter(|(_, line)| line.starts_with('#'));
        headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
    }

    /// The targets of links, with the line of each.
    fn links(&self) -> Vec<(usize, &str)> {
        let mut links = Vec::new();
        for (number, line) in self.lines() {
            let mut rest = line;
            while let Some((_, after)) = rest.split_once("](") {
                let Some((target, after)) = after.split_once(')') else { break };
                links.push((number, target));
                rest = after;
            }
        }
        links
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn book() -> Vec<Page> {
    let (mut pages, mut folders) = (Vec::new(), vec![PathBuf::from("docs")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder") {
            let path = folder.join(entry.expect("a readable folder").file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(Page::read(path));
            }
        }
    }
    pages
}

fn all() -> Vec<Page> {
    let others = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
    book().into_iter().chain(others.map(Page::read)).collect()
}

/// `docs/a/../b` as `docs/b`.
fn straight(path: &Path) -> PathBuf {
    let mut straight = PathBuf::new();
    for step in path.components() {
        match step {
            Component::ParentDir => drop(straight.pop()),
            Component::CurDir => {}
            step => straight.push(step),
        }
    }
    straight
}

#[track_caller]
fn expect_none(offences: &[String]) {
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

#[test]
fn every_link_inside_the_repository_leads_somewhere() {
    let (mut offences, mut count) = (Vec::new(), 0);
    for page in all() {
        for (line, target) in page.links() {
            if target.contains("://") {
                continue;
            }
            count += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let folder = page.path.parent().expect("a folder");
            let path =
                if file.is_empty() { page.path.clone() } else { straight(&folder.join(file)) };
            // A page of the book may be read as a site of its own, which has neither the other
            // files of the repository nor the summary as a page.
            let stays = !page.path.starts_with("docs")
                || path.starts_with("docs") && !path.ends_with("SUMMARY.md");
            let is_there = stays
                && root().join(&path).exists()
                && (heading.is_empty() || Page::read(path).anchors().contains(heading));
            if !is_there {
                offences.push(format!("{}:{line}: no {target}", page.path.display()));
            }
        }
    }
    expect_none(&offences);
    assert!(count > 50, "{count} links");
}

#[test]
fn every_file_that_is_named_is_there() {
    let (mut offences, mut count) = (Vec::new(), 0);
    for page in all() {
        // What has been is for the list of changes to say.
        if page.path.ends_with("CHANGELOG.md") {
            continue;
        }
        for (line, text) in page.lines() {
            let words =
                text.split('`').skip(1).step_by(2).filter_map(|code| code.split(' ').next());
            for word in words.filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder))) {
                count += 1;
                if !root().join(word).exists() {
                    offences.push(format!("{}:{line}: no {word}", page.path.display()));
                }
            }
        }
    }
    expect_none(&offences);
    assert!(count > 50, "{count} files");
}

#[test]
fn every_page_is_in_the_summary_once() {
    let summary = Page::read("docs/SUMMARY.md");
    let mut listed: Vec<_> =
        summary.links().iter().map(|(_, target)| Path::new("docs").join(target)).collect();
    let mut pages: Vec<_> = book().into_iter().map(|page| page.path).collect();
    pages.retain(|path| *path != summary.path);
    listed.sort_unstable();
    pages.sort_unstable();
    assert_eq!(listed, pages);
}

#[test]
fn every_page_has_one_title_and_it_is_the_first_line() {
    let mut offences = Vec::new();
    for page in book() {
        let titles: Vec<_> = page.lines().filter(|(_, line)| line.starts_with("# ")).collect();
        let is_summary = page.path.ends_with("SUMMARY.md");
        if titles.first().is_none_or(|(line, _)| *line != 1) || titles.len() > 1 && !is_summary {
            offences.push(format!("{}: {} titles", page.path.display(), titles.len()));
        }
    }
    expect_none(&offences);
}

#[test]
fn the_readme_is_short_and_starts_with_the_two_commands() {
    let readme = Page::read("README.md");
    let count = readme.text.lines().count();
    assert!(count <= README_LINES_MAX, "{count} lines");
    let top: String = readme.text.lines().take(30).collect::<Vec<_>>().join("\n");
    for command in ["cargo run --release", "cargo test"] {
        assert!(top.contains(command), "README.md does not begin with `{command}`");
    }
}

#[test]
fn an_example_in_a_page_is_the_file() {
    let mut count = 0;
    for page in book() {
        let (mut wanted, mut rest) = (String::new(), page.text.as_str());
        while let Some((before, after)) = rest.split_once("<!-- example: ") {
            let (name, after) = after.split_once(" -->").expect("the end of a marker");
            let (_, after) = after.split_once("<!-- /example -->").expect("a marker that closes");
            let path = root().join("examples").join(name);
            let file = fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
            // The first line is for editors.
            let shown = file.trim_start_matches(|c| c != '\n').trim_start();
            let (open, close) = ("<!-- example: ", "<!-- /example -->");
            wanted.extend([before, open, name, " -->\n```toml\n", shown, "```\n", close]);
            rest = after;
            count += 1;
        }
        wanted += rest;
        // Only where it is another: the other tests read meanwhile.
        if page.text != wanted && std::env::var_os("UPDATE_REFERENCE").is_some() {
            fs::write(root().join(&page.path), wanted).expect("a page that may be written");
        } else {
            assert!(page.text == wanted, "{}: run with UPDATE_REFERENCE=1", page.path.display());
        }
    }
    assert!(count > 3, "{count} examples");
}
