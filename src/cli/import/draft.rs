//! A configuration while it is being made from another program's file, and what became of that.
//!
//! In go keys and values, and remarks on what was left out, each with its place. Out comes TOML
//! with comments, and one line for each remark. A draft never reads a file, and never judges a
//! value: `check` does.

use std::fmt::{Display, Write};

use serde_json::{Value as Json, json};

use crate::config::effective::toml;

/// The order of sections in what is written.
const SECTIONS: [&str; 8] = ["server", "tls", "limits", "timeouts", "pool", "log", "dns", "hooks"];

/// A line of a file of the other program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: std::rc::Rc<str>,
    pub(super) line: usize,
}

impl Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}", self.file, self.line)
    }
}

/// One `[[upstream]]` or `[[route]]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    /// In the words of the other program, above it.
    pub(super) notes: Vec<String>,
    keys: Vec<(&'static str, Json)>,
}

impl Table {
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<Json>) {
        let value = value.into();
        match self.keys.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key, value)),
        }
    }

    pub(super) fn with(mut self, key: &'static str, value: impl Into<Json>) -> Self {
        self.set(key, value);
        self
    }

    pub(super) fn get(&self, key: &str) -> Option<&Json> {
        self.keys.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }
}

/// What was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Remark {
    place: Place,
    what: String,
    why: String,
    cure: String,
}

impl Display for Remark {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { place, what, why, cure } = self;
        let text = format!("{place}: {what}: {why}; {cure}");
        // It stands in a comment too, which a line break would end.
        text.chars().try_for_each(|c| out.write_char(if c.is_control() { ' ' } else { c }))
    }
}

#[derive(Debug, Default)]
pub(super) struct Draft {
    sections: Vec<(&'static str, Table)>,
    pub(super) upstreams: Vec<Table>,
    pub(super) routes: Vec<Table>,
    untaken: Vec<Remark>,
    /// A word, why ringway has no use for it, and its first place.
    unneeded: Vec<(String, &'static str, Place)>,
}

impl Draft {
    /// Fills in what a configuration has to have.
    pub(super) fn complete(&mut self) {
        if self.upstreams.is_empty() {
            let mut table = Table::default().with("name", "nobody");
            table.notes.push("No route asks it: a route has to name one all the same.".to_owned());
            self.upstreams.push(table.with("origins", json!(["http://127.0.0.1:9"])));
        }
        let first = self.upstreams[0].get("name").cloned().unwrap_or_default();
        for route in &mut self.routes {
            if route.get("upstream") == Some(&Json::from("")) {
                route.set("upstream", first.clone());
            }
        }
    }

    pub(super) fn set(&mut self, section: &'static str, key: &'static str, value: impl Into<Json>) {
        let index = self.sections.iter().position(|(name, _)| *name == section);
        let index = index.unwrap_or_else(|| {
            self.sections.push((section, Table::default()));
            self.sections.len() - 1
        });
        self.sections[index].1.set(key, value);
    }

    pub(super) fn get(&self, section: &str, key: &str) -> Option<&Json> {
        self.sections.iter().find(|(name, _)| *name == section)?.1.get(key)
    }

    /// Says once that `what` was left out.
    pub(super) fn untaken(
        &mut self,
        place: &Place,
        what: impl Display,
        why: impl Display,
        cure: impl Display,
    ) {
        let (what, why, cure) = (what.to_string(), why.to_string(), cure.to_string());
        let remark = Remark { place: place.clone(), what, why, cure };
        if !self.untaken.contains(&remark) {
            self.untaken.push(remark);
        }
    }

    /// What ringway does by itself, or has no use for.
    pub(super) fn unneeded(&mut self, place: &Place, word: &str, why: &'static str) {
        if !self.unneeded.iter().any(|(known, ..)| known == word) {
            self.unneeded.push((word.to_owned(), why, place.clone()));
        }
    }

    /// One line for each thing that was left out, by their order in the files.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<&Remark> = self.untaken.iter().collect();
        remarks.sort_by(|a, b| (&a.place.file, a.place.line).cmp(&(&b.place.file, b.place.line)));
        remarks.into_iter().map(ToString::to_string).collect()
    }

    /// The configuration, with all that there is to say about it.
    pub(super) fn text(&self, from: &str) -> String {
        let mut text = format!("# Imported from {} by `ringway import`.\n", one_line(from));
        let remarks = self.remarks();
        if !remarks.is_empty() {
            text += "#\n# Not taken:\n";
            for remark in remarks {
                let _ = writeln!(text, "#   {remark}");
            }
        }
        if !self.unneeded.is_empty() {
            text += "#\n# Without a counterpart, because none is needed:\n";
            for (word, why, place) in &self.unneeded {
                let _ = writeln!(text, "#   {}: {why} ({place})", one_line(word));
            }
        }
        for name in SECTIONS {
            if let Some((_, table)) = self.sections.iter().find(|(known, _)| *known == name) {
                write_table(&mut text, &format!("[{name}]"), table);
            }
        }
        for upstream in &self.upstreams {
            write_table(&mut text, "[[upstream]]", upstream);
        }
        for route in &self.routes {
            write_table(&mut text, "[[route]]", route);
        }
        text
    }
}

fn write_table(text: &mut String, header: &str, table: &Table) {
    text.push('\n');
    for note in &table.notes {
        let _ = writeln!(text, "# {}", one_line(note));
    }
    let _ = writeln!(text, "{header}");
    for (key, value) in &table.keys {
        let _ = writeln!(text, "{key} = {}", toml(value));
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
