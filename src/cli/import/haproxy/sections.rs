//! The grammar of haproxy.cfg: lines of words, in sections.
//!
//! In goes the text; out come its sections, each with the lines that hold in it, those of the
//! `defaults` above it first. No meaning of a line is known here.

use std::rc::Rc;

use super::super::draft::Place;

/// More lines are no configuration.
const LINES_MAX: usize = 20_000;

const KINDS: [&str; 16] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "userlist",
    "mailers",
    "program",
    "ring",
    "cache",
    "http-errors",
    "fcgi-app",
    "log-forward",
    "crt-store",
];

#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) words: Vec<String>,
    pub(super) place: Place,
}

impl Line {
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// The words from `index` on.
    pub(super) fn rest(&self, index: usize) -> &[String] {
        self.words.get(index..).unwrap_or_default()
    }

    pub(super) fn shown(&self) -> String {
        let text = self.words.join(" ");
        match text.char_indices().nth(80) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        }
    }

    /// The word behind `key`.
    pub(super) fn after(&self, key: &str) -> Option<&str> {
        let at = self.words.iter().position(|word| word == key)?;
        self.words.get(at + 1).map(String::as_str)
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|it| it == word)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) defaults: Vec<Line>,
    pub(super) lines: Vec<Line>,
}

impl Section {
    /// Its own lines and those of its defaults, which come first.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Line> {
        self.defaults.iter().chain(&self.lines)
    }

    /// What is said last, here or above.
    pub(super) fn last(&self, words: &[&str]) -> Option<&Line> {
        let fits = |line: &&Line| line.words.iter().zip(words).all(|(a, b)| a == b);
        self.all().rfind(|line| line.words.len() >= words.len() && fits(line))
    }
}

pub(crate) fn is_section(word: &str) -> bool {
    KINDS.contains(&word)
}

pub(super) fn parse(file: &Rc<str>, text: &str) -> Result<Vec<Section>, String> {
    let mut sections: Vec<Section> = Vec::new();
    let mut defaults: Vec<Line> = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let place = Place { file: Rc::clone(file), line: index + 1 };
        if index == LINES_MAX {
            return Err(format!("{place}: more than {LINES_MAX} lines, which no file has"));
        }
        let words = words(text).map_err(|what| format!("{place}: {what}"))?;
        let Some(first) = words.first() else { continue };
        if is_section(first) {
            if let Some(last) = sections.last().filter(|last| last.kind == "defaults") {
                defaults.clone_from(&last.lines);
            }
            let has_defaults = matches!(first.as_str(), "frontend" | "backend" | "listen");
            sections.push(Section {
                kind: first.clone(),
                name: words.get(1).cloned().unwrap_or_default(),
                place,
                defaults: if has_defaults { defaults.clone() } else { Vec::new() },
                lines: Vec::new(),
            });
            continue;
        }
        match sections.last_mut() {
            Some(section) => section.lines.push(Line { words, place }),
            None => return Err(format!("{place}: {first:?} stands in no section")),
        }
    }
    Ok(sections)
}

/// Words as haproxy has them: quotes, backslashes, and comments behind `#`.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut is_open) = (Vec::new(), String::new(), false);
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                is_open = true;
                word.extend(chars.next());
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                is_open = true;
                quote = Some(c);
            }
            ('#', None) => break,
            (c, None) if c.is_whitespace() => {
                if is_open {
                    words.push(std::mem::take(&mut word));
                }
                is_open = false;
            }
            (c, _) => {
                is_open = true;
                word.push(c);
            }
        }
    }
    if quote.is_some() {
        return Err("a text in quotes does not end".to_owned());
    }
    if is_open {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_take_the_lines_of_the_defaults_above_them() {
        let text = "defaults\n mode http\nfrontend a\n bind :80 # here\n acl x path \"/a b\"\\ c\n\
            defaults\nbackend b\n server s 127.0.0.1:1";
        let sections = parse(&Rc::from("f"), text).unwrap();
        assert_eq!(sections[1].all().count(), 3);
        assert_eq!(sections[1].lines[1].words, ["acl", "x", "path", "/a b c"]);
        assert_eq!(sections[3].all().count(), 1);
        assert!(parse(&Rc::from("f"), "bind :80").unwrap_err().starts_with("f:1:"));
        assert!(parse(&Rc::from("f"), "global\n a 'b").unwrap_err().starts_with("f:2:"));
    }
}
