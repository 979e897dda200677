//! The files that make up nginx's configuration.
//!
//! In goes the main file; out come its directives, with those of every `include` in their place. A
//! file that cannot be read is said and left out. Files, their depth and their size are bounded;
//! nothing but what an `include` names is opened.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::super::draft::Draft;
use super::lexer::{Directive, parse};

const DEPTH_MAX: usize = 16;
const FILES_MAX: usize = 512;
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(super) struct Files<'d> {
    draft: &'d mut Draft,
    /// Where the main file is: relative names begin there.
    folder: PathBuf,
    left: usize,
}

impl<'d> Files<'d> {
    pub(super) fn new(main: &Path, draft: &'d mut Draft) -> Self {
        let folder = main.parent().map(Path::to_owned).unwrap_or_default();
        Self { draft, folder, left: FILES_MAX }
    }

    /// Of a text alone: nothing is opened.
    pub(super) fn none(draft: &'d mut Draft) -> Self {
        Self { draft, folder: PathBuf::new(), left: 0 }
    }

    pub(super) fn main(&mut self, path: &Path, text: &str) -> Result<Vec<Directive>, String> {
        let name: Rc<str> = path.to_string_lossy().into();
        let directives = parse(&name, text)?;
        self.included(directives, 0)
    }

    fn included(&mut self, all: Vec<Directive>, depth: usize) -> Result<Vec<Directive>, String> {
        let mut whole = Vec::with_capacity(all.len());
        for mut directive in all {
            if directive.name == "include" && directive.block.is_none() {
                whole.extend(self.include(&directive, depth)?);
                continue;
            }
            if let Some(block) = directive.block.take() {
                directive.block = Some(self.included(block, depth)?);
            }
            whole.push(directive);
        }
        Ok(whole)
    }

    fn include(&mut self, directive: &Directive, depth: usize) -> Result<Vec<Directive>, String> {
        let Directive { place, .. } = directive;
        if depth == DEPTH_MAX {
            return Err(format!("{place}: more than {DEPTH_MAX} files within each other"));
        }
        let pattern = self.folder.join(directive.arg(0));
        let is_pattern = directive.arg(0).contains(['*', '?', '[']);
        let paths = if is_pattern { matching(&pattern) } else { vec![pattern] };
        let mut whole = Vec::new();
        for path in paths {
            // A list of media types, which only files need.
            if path.file_name().is_some_and(|name| name == "mime.types") {
                self.draft.unneeded(place, "include mime.types", "ringway serves no files");
                continue;
            }
            if self.left == 0 {
                return Err(format!("{place}: more than {FILES_MAX} files"));
            }
            self.left -= 1;
            match read(&path) {
                Ok(text) => {
                    let name: Rc<str> = path.to_string_lossy().into();
                    let directives = parse(&name, &text)?;
                    whole.extend(self.included(directives, depth + 1)?);
                }
                Err(error) => {
                    let why = format!("{} cannot be read: {error}", path.display());
                    let cure = "put it there and import again";
                    self.draft.untaken(place, directive.shown(), why, cure);
                }
            }
        }
        Ok(whole)
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    // A pipe would wait for somebody who writes.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The files that a pattern of the shell's kind fits, in the order of their names.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for step in pattern.components() {
        let step = step.as_os_str();
        let text = step.to_string_lossy();
        if !text.contains(['*', '?', '[']) {
            for path in &mut found {
                path.push(step);
            }
            continue;
        }
        found = found.iter().flat_map(|folder| names(folder, &text)).collect();
    }
    found.retain(|path| path.exists());
    found
}

fn names(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let shown = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = std::fs::read_dir(shown).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.') || pattern.starts_with('.'))
        .filter(|name| fits(pattern.as_bytes(), name.as_bytes()))
        .collect();
    names.sort_unstable();
    names.truncate(FILES_MAX + 1);
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// `*`, `?` and `[abc]`, as the shell has them; looks back at the last star only.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut of, mut star) = (0, 0, None);
    while of < name.len() {
        let (is_one, next) = match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, of));
                at += 1;
                continue;
            }
            Some(b'?') => (true, at + 1),
            Some(b'[') => match pattern[at..].iter().position(|byte| *byte == b']') {
                Some(end) => (in_set(&pattern[at + 1..at + end], name[of]), at + end + 1),
                None => (name[of] == b'[', at + 1),
            },
            Some(byte) => (*byte == name[of], at + 1),
            None => (false, at),
        };
        if is_one {
            (at, of) = (next, of + 1);
        } else if let Some((from, taken)) = star {
            star = Some((from, taken + 1));
            (at, of) = (from + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

fn in_set(set: &[u8], byte: u8) -> bool {
    let (is_not, set) = match set {
        [b'!' | b'^', rest @ ..] => (true, rest),
        set => (false, set),
    };
    let is_in = set.contains(&byte)
        || set.windows(3).any(|it| it[1] == b'-' && (it[0]..=it[2]).contains(&byte));
    is_in != is_not
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("a?c*", "abc", true),
            ("[0-9]*.c", "5a.c", true),
            ("[!0-9]*", "5a", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
