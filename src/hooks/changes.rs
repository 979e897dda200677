//! Edits to a head that hooks in Rust want.
//!
//! In go names and values as a hook says them; out comes a head with them, or the reason why one
//! cannot be. Nothing that could end a line gets in, and all hooks together may add so much.

use std::fmt;

use crate::config::hooks::is_editable;
use crate::http::names::is_text;

/// Edits that hooks want.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In lower case.
    removed: Vec<Box<[u8]>>,
    /// Whole lines.
    lines: Vec<u8>,
}

/// What all hooks together may add to a head.
const LINES_BYTES_MAX: usize = 16 * 1024;

impl Changes {
    pub(super) fn remove(&mut self, name: &str) -> Result<(), HookError> {
        if !is_editable(name) {
            return Err(format!("{name:?} is no field that may be edited").into());
        }
        let lower = name.to_ascii_lowercase().into_bytes().into_boxed_slice();
        edit_lines(&mut self.lines, 0, |line| !is_called(line, &lower));
        if !self.removed.contains(&lower) {
            self.removed.push(lower);
        }
        Ok(())
    }

    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), HookError> {
        check(name, value)?;
        self.remove(name)?;
        if self.lines.len() + name.len() + value.len() > LINES_BYTES_MAX {
            return Err("more fields than fit".into());
        }
        for part in [name, ": ", value, "\r\n"] {
            self.lines.extend_from_slice(part.as_bytes());
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty()
    }

    /// Edits the head that `out` ends with and that begins at `start`.
    pub(crate) fn apply(&self, out: &mut Vec<u8>, start: usize) {
        edit_lines(out, start, |line| !self.removed.iter().any(|name| is_called(line, name)));
        out.truncate(out.len() - 2);
        out.extend_from_slice(&self.lines);
        out.extend_from_slice(b"\r\n");
    }
}

pub(super) fn is_value(text: &str) -> bool {
    text.bytes().all(is_text) && text.trim_matches([' ', '\t']).len() == text.len()
}

pub(super) fn check(name: &str, value: &str) -> Result<(), HookError> {
    if !is_editable(name) {
        return Err(format!("{name:?} is no field that may be edited").into());
    }
    if !is_value(value) {
        return Err(format!("{value:?} cannot be the value of a field").into());
    }
    Ok(())
}

/// Why a hook could not do its work: one line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookError(String);

impl std::error::Error for HookError {}

impl fmt::Display for HookError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl From<String> for HookError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for HookError {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Whether `line` is a field's with this name, which is in lower case.
pub(crate) fn is_called(line: &[u8], lower: &[u8]) -> bool {
    line.get(lower.len()) == Some(&b':') && line[..lower.len()].eq_ignore_ascii_case(lower)
}

/// Takes the field lines for which `is_kept` says no out of the head that `out` ends with and that
/// begins at `start`. What is kept moves up in runs.
pub(crate) fn edit_lines(out: &mut Vec<u8>, start: usize, mut is_kept: impl FnMut(&[u8]) -> bool) {
    let next = |out: &[u8], from: usize| {
        memchr::memchr(b'\n', &out[from..]).map_or(out.len(), |end| from + end + 1)
    };
    let mut line = next(out, start);
    // Where the next run goes, and where it begins.
    let (mut to, mut run) = (line, line);
    while line < out.len() {
        let end = next(out, line);
        if !is_kept(&out[line..end]) {
            if to != run {
                out.copy_within(run..line, to);
            }
            to += line - run;
            run = end;
        }
        line = end;
    }
    if to != run {
        out.copy_within(run.., to);
        out.truncate(to + line - run);
    }
}
