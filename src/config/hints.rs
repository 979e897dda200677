//! How a mistake in a file could be written instead.
//!
//! In: what a parser or a kind said, and the text or the value that it said it about. Out: the
//! right form in a few words, or nothing where the mistake itself names one. A secret is never
//! quoted.

use toml::de::DeValue;

use super::effective::toml;
use super::error::Problem;
use super::keys::{self, Key};

/// Longer values are no examples.
const QUOTED_BYTES_MAX: usize = 64;

/// What is wrong with the TOML itself.
pub(super) struct Broken {
    pub(super) offset: usize,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// Whether everything around it can be read all the same.
    pub(super) is_local: bool,
}

/// One line of a file, as far as it says something.
struct Line<'t> {
    number: usize,
    offset: usize,
    text: &'t str,
}

pub(super) fn broken(text: &str, error: &toml::de::Error) -> Broken {
    let offset = error.span().map_or(0, |span| span.start);
    let message = error.message().trim().replace('\n', ", ");
    let Some(line) = lines(text).take_while(|line| line.offset <= offset).last() else {
        return Broken { offset, message, hint: None, is_local: false };
    };
    if let Some(name) = line.header().filter(|_| !line.is_balanced()) {
        let is_list =
            keys::sections().iter().any(|section| section.is_list && section.name == name);
        let header = if is_list { format!("[[{name}]]") } else { format!("[{name}]") };
        let is_it = !message.starts_with("duplicate key");
        let hint = is_it.then(|| format!("write {header}"));
        return Broken { offset, message, hint, is_local: false };
    }
    if message.starts_with("duplicate key") {
        let hint = first_of(text, &line).map(|first| format!("the first is in line {first}"));
        return Broken { offset, message, hint, is_local: true };
    }
    let is_value = ["string values must be quoted", "invalid"]
        .iter()
        .any(|start| message.starts_with(start) && !message.contains("key"));
    let Some((name, value)) = line.assignment().filter(|_| is_value) else {
        let hint = line.text.split_once(':').filter(|_| line.assignment().is_none());
        let hint = hint.map(|(name, value)| format!("write {} = {}", name.trim(), value.trim()));
        let hint = hint.filter(|_| message.starts_with("key with no value"));
        return Broken { offset, message, hint, is_local: false };
    };
    // What begins as "inf" does, or with a digit, is not meant as a number for that.
    let message = if !known_number(value) && message.starts_with("invalid float") {
        "string values must be quoted".to_owned()
    } else {
        message
    };
    if value.starts_with(['"', '\'', '[', '{']) {
        return Broken { offset, message, hint: None, is_local: false };
    }
    let section = lines(text).take_while(|other| other.number < line.number);
    let section = section.filter_map(|other| other.header()).last().unwrap_or_default();
    let known = keys::key(&format!("{section}.{name}"));
    let hint = right_form(name, value, known);
    // Where the value begins, not where it stops making sense.
    let at = line.text.find('=').map_or(0, |equals| equals + 1);
    let at = at + (line.text[at..].len() - line.text[at..].trim_start().len());
    let offset = if value.is_empty() { offset } else { line.offset + at };
    Broken { offset, message, hint, is_local: true }
}

fn known_number(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_digit() || b"+-._eE".contains(&byte))
        && value.matches('.').count() < 2
}

/// `name` as it could have been given `value`, which stands there without quotes.
fn right_form(name: &str, value: &str, key: Option<&Key>) -> Option<String> {
    if keys::is_secret(name) || value.len() > QUOTED_BYTES_MAX {
        return None;
    }
    if matches!(value.to_ascii_lowercase().as_str(), "true" | "false") {
        return Some(format!("write {name} = {}", value.to_ascii_lowercase()));
    }
    let default = key.and_then(|key| key.default.as_ref());
    match default {
        Some(default) if default.is_number() || default.is_boolean() || value.is_empty() => {
            Some(format!("write {name} = {}, for example", toml(default)))
        }
        Some(default) if default.is_array() => Some(format!("write {name} = [\"{value}\"]")),
        _ if value.is_empty() => None,
        _ => Some(format!("write {name} = {}", toml(&value.into()))),
    }
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut offset = 0;
    text.split('\n').enumerate().map(move |(index, text)| {
        let line = Line { number: index + 1, offset, text };
        offset += text.len() + 1;
        line
    })
}

/// The line in which what stands in `line` stood before: a table, or a key of the same table.
fn first_of(text: &str, line: &Line<'_>) -> Option<usize> {
    let before = || lines(text).take_while(|other| other.number < line.number);
    if let Some(header) = line.header() {
        return before().find(|other| other.header() == Some(header)).map(|it| it.number);
    }
    let (name, _) = line.assignment()?;
    let top = before().filter(|other| other.header().is_some()).last().map_or(0, |it| it.number);
    let same = |other: &Line<'_>| {
        other.number > top && other.assignment().is_some_and(|(other, _)| other == name)
    };
    before().find(same).map(|it| it.number)
}

impl<'t> Line<'t> {
    fn code(&self) -> &'t str {
        self.text.split('#').next().unwrap_or_default().trim()
    }

    fn header(&self) -> Option<&'t str> {
        let code = self.code();
        code.starts_with('[')
            .then(|| code.trim_matches(['[', ']', ' ']))
            .filter(|it| !it.is_empty())
    }

    fn is_balanced(&self) -> bool {
        self.code().matches('[').count() == self.code().matches(']').count()
    }

    fn assignment(&self) -> Option<(&'t str, &'t str)> {
        self.code().split_once('=').map(|(name, value)| (name.trim(), value.trim()))
    }
}

/// For a value that is TOML and still not what its key takes.
pub(super) fn for_value(problem: &Problem, path: &[String], found: &DeValue<'_>) -> Option<String> {
    let Problem::Said(message) = problem else { return None };
    let (_, expected) = message.split_once("expected ")?;
    let (section, rest) = path.split_first()?;
    let Some(name) = rest.iter().rfind(|part| part.parse::<usize>().is_err()) else {
        let header =
            if expected == "an array" { format!("[[{section}]]") } else { format!("[{section}]") };
        let is_table = found.is_table() && expected == "an array";
        let below = if is_table { "" } else { ", and its keys below that" };
        return Some(format!("write {header}{below}"));
    };
    let is_short = |text: &String| text.len() <= QUOTED_BYTES_MAX && !keys::is_secret(name);
    let text = scalar(found).filter(is_short)?;
    let form = match expected {
        "an array" => format!("[{}]", toml(&text.into())),
        "a string" => toml(&text.into()),
        "a boolean" => match text.as_str() {
            "true" | "yes" | "on" | "1" => "true".to_owned(),
            "false" | "no" | "off" | "0" => "false".to_owned(),
            _ => return None,
        },
        expected if expected.starts_with("a whole number") && found.is_str() => {
            text.parse::<i64>().ok()?.to_string()
        }
        _ => return None,
    };
    Some(format!("write {name} = {form}"))
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(is_on) => Some(is_on.to_string()),
        _ => None,
    }
}
