//! What is wrong with a configuration, where, and what was expected instead.
//!
//! In: refusals, and the locations that `Sources` found for them. Out: a line for each,
//! `config.toml:3:8: server.port: found 70000, expected a whole number from 0 to 65535`, in the
//! order of their places, which `main` prints before it leaves with `EXIT_CONFIG`. Never a mistake
//! that is only the echo of another.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Exit code for a configuration that cannot be used; clap uses the same for flags.
pub(crate) const EXIT_CONFIG: u8 = 2;

pub(super) const NOT_TEXT: &str = "is not UTF-8 text";

/// One slip in three letters still gets a suggestion; below that one misleads too often.
const SIMILARITY_MIN: f64 = 0.6;

/// Longer values are cut in error texts.
const SHOWN_CHARS_MAX: usize = 80;

/// A configuration that cannot be used.
#[derive(Debug)]
pub struct ConfigError(Vec<Mistake>);

/// One thing that is wrong with it.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) location: Location,
    pub(super) problem: Problem,
    /// How it could be written, behind the problem.
    pub(super) hint: Option<String>,
}

#[derive(Debug)]
pub(super) enum Location {
    /// Lines and columns count from 1, columns in characters.
    Position {
        file: PathBuf,
        line: usize,
        column: usize,
        key: String,
    },
    File(PathBuf),
    /// A flag, a variable or a profile, spelled as it was given.
    Setting(String),
}

/// The causes.
#[derive(Debug)]
pub(super) enum Problem {
    Unreadable(io::Error),
    UnknownKey {
        name: String,
        known: Vec<String>,
        nearest: Option<String>,
    },
    /// Anything that only people have to tell from another.
    Said(String),
}

/// A rule that is broken: it is known of which key, and not yet where that stands.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The first of them that was given is the one. Such as `server`, `listen`, `0`.
    pub(super) paths: Vec<Vec<String>>,
    pub(super) what: String,
}

impl Refusal {
    /// `paths` such as `server.listen.0`.
    pub(super) fn of_key(paths: &[&str], what: impl Into<String>) -> Self {
        let parts = |path: &&str| path.split('.').map(str::to_owned).collect();
        Self { paths: paths.iter().map(parts).collect(), what: what.into() }
    }

    /// Of the member of a table of free keys, whose name may hold dots.
    pub(super) fn of_member(path: &str, name: &str, what: String) -> Self {
        let mut refusal = Self::of_key(&[path], what);
        refusal.paths[0].push(name.to_owned());
        refusal
    }
}

impl ConfigError {
    pub(super) fn new(location: Location, problem: Problem) -> Self {
        Self::of([Mistake { location, problem, hint: None }])
    }

    /// Whether what is wrong has a place within a file.
    pub(crate) fn has_place(&self) -> bool {
        self.0.iter().any(|mistake| matches!(mistake.location, Location::Position { .. }))
    }

    pub(super) fn of(mistakes: impl IntoIterator<Item = Mistake>) -> Self {
        Self(mistakes.into_iter().collect())
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.iter().find_map(|mistake| match &mistake.problem {
            Problem::Unreadable(error) => Some(error as _),
            _ => None,
        })
    }
}

/// A line for each mistake; `{:#}` is one line.
impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if out.alternate() { "; " } else { "\n" };
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_str(between)?;
            }
            // A key may have anything in its name, and a mistake is a line.
            for part in mistake.to_string().split_inclusive(char::is_control) {
                match part.char_indices().next_back() {
                    Some((at, last)) if last.is_control() => {
                        write!(out, "{}{}", &part[..at], last.escape_default())?;
                    }
                    _ => out.write_str(part)?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { location, problem, hint } = self;
        write!(out, "{location}: {problem}")?;
        match hint {
            Some(hint) => write!(out, ": {hint}"),
            None => Ok(()),
        }
    }
}

impl Location {
    /// `key` is what stands there, as `upstream[1].origins[0].weight`.
    pub(super) fn at(path: &Path, text: &str, offset: usize, key: String) -> Self {
        let mut start = offset.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self::Position {
            file: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position { file, line, column, key } => {
                write!(out, "{}:{line}:{column}", file.display())?;
                if key.is_empty() { Ok(()) } else { write!(out, ": {key}") }
            }
            Self::File(file) => write!(out, "{}", file.display()),
            Self::Setting(name) => out.write_str(name),
        }
    }
}

impl Problem {
    pub(super) fn unlike(found: &str, expected: impl fmt::Display) -> Self {
        Self::Said(format!("found {found}, expected {expected}"))
    }

    /// From the message of a parser, TOML's or JSON's, or of serde behind it.
    ///
    /// The toml crate reports an unknown key only as text: "unknown field `prot`, expected one
    /// of `host`, `port`". A test pins that wording; if it changes, the text is shown as it is.
    pub(super) fn of_parser(message: &str) -> Self {
        if message.starts_with("unknown field") {
            let mut names = message.split('`').skip(1).step_by(2).map(str::to_owned);
            let name = names.next().unwrap_or_default();
            let known: Vec<String> = names.collect();
            let nearest = nearest(&name, known.iter().map(String::as_str));
            return Self::UnknownKey { name, known, nearest };
        }
        if let Some(name) = message.strip_prefix("missing field ") {
            return Self::Said(format!("missing key {name}"));
        }
        // The words of TOML in place of serde's.
        let message = message
            .replace("invalid type: sequence,", "invalid type: array,")
            .replace("invalid type: map,", "invalid type: table,")
            .replace("expected a sequence", "expected an array");
        Self::Said(message.trim().replace('\n', ", "))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(out, "cannot be read: {error}"),
            Self::Said(text) => out.write_str(text),
            Self::UnknownKey { known, nearest: None, .. } => {
                write!(out, "unknown key, expected one of {}", known.join(", "))
            }
            Self::UnknownKey { nearest: Some(nearest), .. } => {
                write!(out, "unknown key, did you mean `{nearest}`?")
            }
        }
    }
}

/// The one of `known` that `name` was most likely meant to be.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate.to_owned())
}

/// A text from outside as an error may show it: quoted, escaped and cut.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}
