//! An explanation in the making: sections of facts, in the order in which they are found out.
//!
//! In go names and values; out comes text for people, or JSON for programs. Sections are a list, so
//! that whatever has a say in a request can add its own.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

/// The width of the widest name of a fact, and two spaces.
const NAME_WIDTH: usize = 14;

#[derive(Debug, Default)]
pub(super) struct Report(Vec<Section>);

#[derive(Debug)]
pub(super) struct Section {
    name: &'static str,
    facts: Vec<(&'static str, Json)>,
}

impl Report {
    /// Begins a section.
    pub(super) fn section(&mut self, name: &'static str) -> &mut Section {
        self.0.push(Section { name, facts: Vec::new() });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    pub(super) fn json(&self) -> String {
        let section = |section: &Section| {
            let facts = section.facts.iter();
            let facts: Map<_, _> =
                facts.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            json!({ "name": section.name, "facts": facts })
        };
        let sections: Vec<_> = self.0.iter().map(section).collect();
        format!("{:#}\n", json!({ "sections": sections }))
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (index, section) in self.0.iter().enumerate() {
            let _ = writeln!(text, "{}{}", if index > 0 { "\n" } else { "" }, section.name);
            for (name, value) in &section.facts {
                let mut lines = lines(value).into_iter();
                let first = lines.next().unwrap_or_else(|| "none".to_owned());
                let _ = writeln!(text, "  {name:NAME_WIDTH$}{first}");
                for line in lines {
                    let _ = writeln!(text, "  {:NAME_WIDTH$}{line}", "");
                }
            }
        }
        text
    }
}

impl Section {
    pub(super) fn fact(&mut self, name: &'static str, value: impl Into<Json>) -> &mut Self {
        self.facts.push((name, value.into()));
        self
    }
}

fn lines(value: &Json) -> Vec<String> {
    match value {
        Json::Null => vec!["none".to_owned()],
        Json::String(text) if text.is_empty() => vec!["none".to_owned()],
        Json::String(text) => vec![shown(text)],
        Json::Bool(true) => vec!["yes".to_owned()],
        Json::Bool(false) => vec!["no".to_owned()],
        Json::Array(items) => items.iter().flat_map(lines).collect(),
        Json::Object(members) => {
            let line =
                |(name, value): (&String, &Json)| format!("{name} = {}", lines(value).join(", "));
            members.iter().map(line).collect()
        }
        Json::Number(_) => vec![value.to_string()],
    }
}

/// A terminal is not to be told what to do by the text of a request.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_say_the_same() {
        let mut report = Report::default();
        report.section("request").fact("line", "GET / HTTP/1.1").fact("trusted", false);
        report
            .section("route")
            .fact("others", vec!["a", "b\x1b"])
            .fact("keys", json!({ "timeouts.read": "60s" }))
            .fact("nothing", Vec::<String>::new());
        let expected = "\
            request\n  \
              line          GET / HTTP/1.1\n  \
              trusted       no\n\
            \n\
            route\n  \
              others        a\n                \
                            b?\n  \
              keys          timeouts.read = 60s\n  \
              nothing       none\n";
        assert_eq!(report.text(), expected);
        let json: Json = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["sections"][0]["facts"]["trusted"], false);
        assert_eq!(json["sections"][1]["facts"]["others"][1], "b\u{1b}");
    }
}
