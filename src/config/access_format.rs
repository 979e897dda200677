//! How a line of the access log looks: a preset by its name, or a format of one's own, such as
//! `{client_ip} [{time_clf}] "{request}" {status}`.
//!
//! In goes the text, once; out come the pieces that a line is put together from, each field with
//! what has to be escaped where it stands, so that no value can end a quote, a field or a line. A
//! format that begins with `{{` is JSON, and is refused where its lines would be none.

use std::fmt;
use std::sync::Arc;

use super::LogConfig;
use super::access_field::AccessField;
use super::error::Refusal;
use super::kinds::text_kind;

/// More of either is no line but a report.
const FIELDS_MAX: usize = 64;
pub(crate) const FORMAT_BYTES_MAX: usize = 4096;

/// How a line looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    Text,
    Json,
    /// As text, with more fields.
    Logfmt,
    Combined,
    Own(Arc<AccessTemplate>),
}

/// A format of one's own.
#[derive(Debug, PartialEq, Eq)]
pub struct AccessTemplate {
    text: String,
    pub pieces: Vec<AccessPiece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessPiece {
    Text(Box<str>),
    Field(AccessField, Escape),
}

/// What of a value has to be escaped where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// Between spaces; the byte behind it ends it too.
    Bare(u8),
    /// Between quotes or brackets, likewise.
    Quoted(u8),
    /// It is a value of JSON by itself.
    Json,
    /// It is a part of a string of JSON.
    JsonText,
}

/// What Apache and nginx write; goaccess, fail2ban and others read it.
const COMBINED: &str = "{client_ip} - {user} [{time_clf}] \"{request}\" {status} {bytes_out} \
                        \"{referer}\" \"{user_agent}\"";

const PRESETS: [(&str, AccessFormat); 4] = [
    ("text", AccessFormat::Text),
    ("json", AccessFormat::Json),
    ("logfmt", AccessFormat::Logfmt),
    ("combined", AccessFormat::Combined),
];

text_kind!(
    /// A preset, or a format of one's own.
    Format: AccessFormat,
    AccessFormat::read,
    ToString::to_string
);

impl AccessFormat {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        if let Some((_, preset)) = PRESETS.iter().find(|(name, _)| *name == text) {
            return Ok(preset.clone());
        }
        if !text.contains('{') {
            return Err(
                "\"text\", \"json\", \"logfmt\", \"combined\", or a format with fields in \
                        braces, such as '{client_ip} \"{request}\" {status}'"
                    .to_owned(),
            );
        }
        AccessTemplate::parse(text).map(Arc::new).map(Self::Own)
    }

    /// The pieces of a line, where it is put together from some.
    pub(crate) fn template(&self) -> Option<Arc<AccessTemplate>> {
        match self {
            Self::Own(template) => Some(template.clone()),
            Self::Combined => AccessTemplate::parse(COMBINED).ok().map(Arc::new),
            Self::Text | Self::Json | Self::Logfmt => None,
        }
    }
}

impl fmt::Display for AccessFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(template) => out.write_str(&template.text),
            preset => {
                let name = PRESETS.iter().find(|(_, known)| known == preset);
                out.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

impl AccessTemplate {
    /// What was expected, in words and where, if `text` is no format.
    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > FORMAT_BYTES_MAX {
            return Err(format!("at most {FORMAT_BYTES_MAX} bytes"));
        }
        let split = split(text)?;
        let fields = split.iter().filter(|piece| matches!(piece, Split::Field(..))).count();
        if !(1..=FIELDS_MAX).contains(&fields) {
            return Err(format!("1 to {FIELDS_MAX} fields, found {fields}"));
        }
        let is_json = text.starts_with("{{");
        let template = Self { text: text.to_owned(), pieces: placed(split, is_json)? };
        if is_json {
            template.check_json()?;
        }
        Ok(template)
    }

    /// Whether the lines are JSON, whatever the values.
    fn check_json(&self) -> Result<(), String> {
        let sample: String = self
            .pieces
            .iter()
            .map(|piece| match piece {
                AccessPiece::Text(text) => text,
                AccessPiece::Field(_, Escape::Json) => "null",
                AccessPiece::Field(..) => "",
            })
            .collect();
        serde_json::from_str::<serde_json::Value>(&sample)
            .map(drop)
            .map_err(|error| format!("JSON, because it begins with `{{{{`: {error}"))
    }
}

/// Further fields, where a line has no place for them.
pub(super) fn wrong_fields(log: &LogConfig) -> Option<Refusal> {
    let has_place = !matches!(log.access_format, AccessFormat::Combined | AccessFormat::Own(_));
    let what = "only \"text\", \"json\" and \"logfmt\" have room for further fields: name them in \
                `log.access_format`, a format of your own";
    let is_wrong = !has_place && !log.access_fields.is_empty();
    is_wrong.then(|| Refusal::of_key(&["log.access_fields"], what))
}

/// A piece as it was found.
enum Split {
    Text(String),
    /// With the number of the character at which it begins.
    Field(AccessField, usize),
}

fn split(text: &str) -> Result<Vec<Split>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars().enumerate().peekable();
    while let Some((at, found)) = rest.next() {
        let at = at + 1;
        let is_twice = rest.peek().is_some_and(|(_, next)| *next == found);
        match found {
            '{' | '}' if is_twice => {
                rest.next();
                literal.push(found);
            }
            '{' => {
                let mut name = String::new();
                loop {
                    match rest.next() {
                        Some((_, '}')) => break,
                        Some((_, letter)) => name.push(letter),
                        None => {
                            return Err(format!(
                                "a `}}` behind the `{{` at character {at}; a brace itself is `{{{{`"
                            ));
                        }
                    }
                }
                let field = AccessField::read(&name)
                    .map_err(|expected| format!("at character {at}: {expected}"))?;
                if !literal.is_empty() {
                    pieces.push(Split::Text(std::mem::take(&mut literal)));
                }
                pieces.push(Split::Field(field, at));
            }
            '}' => {
                return Err(format!(
                    "a `{{` before the `}}` at character {at}; a brace itself is `}}}}`"
                ));
            }
            '\t' => literal.push(found),
            _ if found.is_control() => {
                return Err(format!("no control character, as there is at character {at}"));
            }
            _ => literal.push(found),
        }
    }
    if !literal.is_empty() {
        pieces.push(Split::Text(literal));
    }
    Ok(pieces)
}

/// The pieces, with what has to be escaped where each field stands.
fn placed(split: Vec<Split>, is_json: bool) -> Result<Vec<AccessPiece>, String> {
    let mut pieces = Vec::new();
    let mut quotes = Quotes { is_json, ..Quotes::default() };
    let mut before = None;
    let mut split = split.into_iter().peekable();
    while let Some(piece) = split.next() {
        match piece {
            Split::Text(text) => {
                quotes.pass(&text);
                before = text.bytes().last();
                pieces.push(AccessPiece::Text(text.into()));
            }
            Split::Field(field, at) => {
                let behind = match split.peek() {
                    Some(Split::Text(text)) => text.as_bytes()[0],
                    Some(Split::Field(..)) => {
                        return Err(format!(
                            "something between the field at character {at} and the next one, \
                             which nobody could tell apart"
                        ));
                    }
                    None => b'\n',
                };
                let escape = match (is_json, quotes.is_open) {
                    (true, false) => Escape::Json,
                    (true, true) => Escape::JsonText,
                    (false, true) => Escape::Quoted(behind),
                    (false, false) if before == Some(b'[') && behind == b']' => {
                        Escape::Quoted(behind)
                    }
                    (false, false) => Escape::Bare(behind),
                };
                pieces.push(AccessPiece::Field(field, escape));
            }
        }
    }
    if quotes.is_open {
        return Err("a closing quote".to_owned());
    }
    Ok(pieces)
}

/// Whether what follows stands between quotes.
#[derive(Default)]
struct Quotes {
    is_json: bool,
    is_open: bool,
    is_escaped: bool,
}

impl Quotes {
    fn pass(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if std::mem::take(&mut self.is_escaped) => {}
                b'"' => self.is_open = !self.is_open,
                b'\\' => self.is_escaped = self.is_json,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(text: &str) -> Vec<Escape> {
        let escapes = AccessTemplate::parse(text).unwrap().pieces.into_iter();
        let escapes = escapes.filter_map(|piece| match piece {
            AccessPiece::Field(_, escape) => Some(escape),
            AccessPiece::Text(_) => None,
        });
        escapes.collect()
    }

    #[test]
    fn each_field_knows_what_would_end_it() {
        assert_eq!(
            placed("{client_ip}|{user} [{time_clf}] \"{method} {target}\" {status}"),
            [
                Escape::Bare(b'|'),
                Escape::Bare(b' '),
                Escape::Quoted(b']'),
                Escape::Quoted(b' '),
                Escape::Quoted(b'"'),
                Escape::Bare(b'\n'),
            ]
        );
        assert_eq!(
            placed(r#"{{"a\"b":{status},"c":"{method} {target}"}}"#),
            [Escape::Json, Escape::JsonText, Escape::JsonText]
        );
    }

    #[test]
    fn a_preset_and_a_format_are_spelled_as_they_were_read() {
        for text in ["text", "json", "logfmt", "combined", COMBINED, "{{\"a\":{status}}}"] {
            assert_eq!(AccessFormat::read(text).unwrap().to_string(), text);
        }
        assert!(AccessFormat::Combined.template().is_some());
    }

    #[test]
    fn what_is_no_format_says_where_and_what_was_expected() {
        let long = format!("{{status}}{}", " ".repeat(FORMAT_BYTES_MAX));
        let many = "{status} ".repeat(FIELDS_MAX + 1);
        for (text, expected) in [
            ("clf", "\"text\", \"json\""),
            ("a {status", "a `}` behind the `{` at character 3"),
            ("a } {status}", "a `{` before the `}` at character 3"),
            ("ü {stauts}", "at character 3: a known field, did you mean `status`?"),
            ("{status}{method}", "something between the field at character 1 and the next one"),
            ("\"{status}", "a closing quote"),
            ("{status}\n", "no control character, as there is at character 9"),
            ("{{}}", "1 to 64 fields, found 0"),
            ("{{\"a\":{status}", "JSON, because it begins with `{{`"),
            ("{{{status}:1}}", "JSON, because it begins with `{{`"),
            (&many, "1 to 64 fields, found 65"),
            (&long, "at most 4096 bytes"),
        ] {
            let error = AccessFormat::read(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
