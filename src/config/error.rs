//! What is wrong with a configuration, where, and what was expected instead.
//!
//! In: a refusal, and the location that `Sources` found for it. Out: one line,
//! `config.toml:3:8: server.port: found 70000, expected a whole number from 0 to 65535`, which
//! `main` prints before it leaves with `EXIT_CONFIG`. Never more than the first mistake: the
//! ones after it are often its echo.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::raw::Place;

/// Exit code for a configuration that cannot be used; clap uses the same for flags.
pub const EXIT_CONFIG: u8 = 2;

/// One slip in three letters still gets a suggestion; below that one misleads too often.
const SIMILARITY_MIN: f64 = 0.6;

/// Longer values are cut in error texts.
const SHOWN_CHARS_MAX: usize = 80;

/// A configuration that cannot be used.
#[derive(Debug)]
pub struct ConfigError {
    location: Box<Location>,
    problem: Problem,
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

/// The causes, each with what its text needs.
#[derive(Debug)]
pub(super) enum Problem {
    Unreadable(io::Error),
    TooLarge {
        bytes_max: u64,
    },
    NotText,
    /// A path that leads nowhere.
    Misplaced {
        what: String,
    },
    Syntax(String),
    UnknownKey {
        name: String,
        known: Vec<String>,
        nearest: Option<String>,
    },
    Unexpected {
        found: String,
        expected: String,
    },
    Missing {
        what: &'static str,
    },
    Conflict {
        rule: &'static str,
    },
    Duplicate {
        what: String,
    },
    UnknownUpstream {
        name: String,
        nearest: Option<String>,
    },
}

/// A problem whose place is not yet a line and a column.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) place: Place,
    pub(super) problem: Problem,
}

impl ConfigError {
    pub(super) fn new(location: Location, problem: Problem) -> Self {
        Self { location: Box::new(location), problem }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.location, self.problem)
    }
}

impl Location {
    pub(super) fn at(path: &Path, text: &str, span: &Range<usize>) -> Self {
        let mut start = span.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self::Position {
            file: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key_at(text, start),
        }
    }
}

impl Location {
    /// For a file that is not TOML, whose keys cannot be looked up.
    pub(super) fn with_key(mut self, name: &str) -> Self {
        if let Self::Position { key, .. } = &mut self {
            name.clone_into(key);
        }
        self
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
            return Self::Syntax(format!("missing key {name}"));
        }
        // The words of TOML in place of serde's.
        let message = message
            .replace("invalid type: sequence,", "invalid type: array,")
            .replace("invalid type: map,", "invalid type: table,")
            .replace("expected a sequence", "expected an array");
        Self::Syntax(message.trim().replace('\n', ", "))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(out, "cannot be read: {error}"),
            Self::TooLarge { bytes_max } => {
                write!(out, "is larger than {bytes_max} bytes, which no configuration is")
            }
            Self::NotText => out.write_str("is not UTF-8 text"),
            Self::Syntax(message) => out.write_str(message),
            Self::UnknownKey { known, nearest: None, .. } => {
                write!(out, "unknown key, expected one of {}", known.join(", "))
            }
            Self::UnknownKey { nearest: Some(nearest), .. } => {
                write!(out, "unknown key, did you mean `{nearest}`?")
            }
            Self::Unexpected { found, expected } => {
                write!(out, "found {found}, expected {expected}")
            }
            Self::Missing { what } => write!(out, "missing {what}"),
            Self::Conflict { rule } => out.write_str(rule),
            Self::Misplaced { what } | Self::Duplicate { what } => out.write_str(what),
            Self::UnknownUpstream { name, nearest } => {
                write!(out, "there is no upstream {}", quoted(name))?;
                match nearest {
                    Some(nearest) => write!(out, ", did you mean {nearest:?}?"),
                    None => Ok(()),
                }
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

/// The key whose name or value covers `offset`, as `upstream[1].origins[0].weight`. Empty when
/// the text is not valid TOML or the offset lies between keys.
fn key_at(text: &str, offset: usize) -> String {
    let mut key = String::new();
    if let Ok(table) = DeTable::parse(text) {
        descend_table(table.get_ref(), offset, &mut key);
    }
    key
}

fn descend_table(table: &DeTable<'_>, offset: usize, key: &mut String) {
    for (name, value) in table {
        let is_in_value = covers(value.get_ref(), &value.span(), offset);
        if is_in_value || name.span().contains(&offset) {
            if !key.is_empty() {
                key.push('.');
            }
            key.push_str(name.get_ref());
            if is_in_value {
                descend_value(value.get_ref(), offset, key);
            }
            return;
        }
    }
}

fn descend_value(value: &DeValue<'_>, offset: usize, key: &mut String) {
    match value {
        DeValue::Table(table) => descend_table(table, offset, key),
        DeValue::Array(array) => {
            let position =
                array.iter().position(|item| covers(item.get_ref(), &item.span(), offset));
            if let Some(index) = position {
                key.push('[');
                key.push_str(&index.to_string());
                key.push(']');
                descend_value(array[index].get_ref(), offset, key);
            }
        }
        _ => {}
    }
}

/// The span of a `[table]` is its header only, so what lies under it has to be asked as well.
fn covers(value: &DeValue<'_>, span: &Range<usize>, offset: usize) -> bool {
    if span.contains(&offset) {
        return true;
    }
    match value {
        DeValue::Table(table) => table.iter().any(|(name, value)| {
            name.span().contains(&offset) || covers(value.get_ref(), &value.span(), offset)
        }),
        DeValue::Array(array) => {
            array.iter().any(|item| covers(item.get_ref(), &item.span(), offset))
        }
        _ => false,
    }
}
