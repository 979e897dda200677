//! Hooks that answer in place of an origin: fixed answers, pages for errors.
//!
//! In: TOML, JSON and texts, by way of serde. Out: the tables of these hooks, and the kinds of
//! their values. Files are named here and not opened.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;

use super::heads::{FieldValue, editable_key, is_field_value};
use crate::config::error::quoted;
use crate::config::kinds::plain::Count;
use crate::config::kinds::{As, Given, Kind, Members, Pair, Pairs, Wrong, text_kind};

const STATUS_FORM: &str = "a status from 400 to 599, \"4xx\" or \"5xx\"";

/// Pages and answers are kept in memory.
const BODY_BYTES_MAX: usize = 64 * 1024;

text_kind!(
    Body: String,
    |text| match text.len() {
        0..=BODY_BYTES_MAX => Ok(text.to_owned()),
        _ => Err(format!("at most {BODY_BYTES_MAX} bytes")),
    },
    Clone::clone
);
text_kind!(MediaType = is_media_type, "a media type such as \"text/html\"");

fn is_media_type(text: &str) -> bool {
    !text.is_empty() && is_field_value(text)
}

/// An answer without an origin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RespondConfig {
    /// 200 to 599.
    #[serde(with = "Count::<u16, 200, 599>")]
    pub status: u16,
    /// At most 64 KiB.
    #[serde(with = "As::<Body>")]
    pub body: String,
    /// What the body is.
    #[serde(with = "As::<MediaType>")]
    pub content_type: String,
    /// Further fields and their values.
    #[serde(with = "Members::<AnswerField>")]
    pub headers: Vec<(String, String)>,
}

impl Default for RespondConfig {
    fn default() -> Self {
        Self {
            status: 200,
            body: String::new(),
            content_type: "text/plain; charset=utf-8".to_owned(),
            headers: Vec::new(),
        }
    }
}

struct AnswerField;

impl Pair for AnswerField {
    type Value = (String, String);

    fn take(
        key: &str,
        given: Given<'_>,
        _: &[(String, String)],
    ) -> Result<(String, String), Wrong> {
        editable_key(key)?;
        if key.eq_ignore_ascii_case("content-type") {
            let rule = "the type of the body is the key `content_type`";
            return Err(Wrong::Because(rule.to_owned()));
        }
        Ok((key.to_owned(), FieldValue::take(given)?))
    }

    fn spell((name, value): &(String, String)) -> (String, Json) {
        (name.clone(), value.as_str().into())
    }
}

/// What stands in answers that are errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPagesConfig {
    pub pages: Vec<(Statuses, PageSource)>,
    /// Whether an origin's errors are answered so too. `check` has it from `intercept_errors`.
    pub intercept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statuses {
    Exact(u16),
    /// 4 or 5.
    Class(u16),
}

impl fmt::Display for Statuses {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(code) => write!(out, "{code}"),
            Self::Class(class) => write!(out, "{class}xx"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageSource {
    Inline(String),
    File(PathBuf),
}

/// Statuses and their pages.
pub(super) struct Pages;
struct Page;

impl Kind for Pages {
    type Value = ErrorPagesConfig;

    fn schema() -> Json {
        Pairs::<Page>::schema()
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<ErrorPagesConfig, D::Error> {
        let pages = Members::<Page>::deserialize(from)?;
        Ok(ErrorPagesConfig { pages, intercept: false })
    }

    fn spell(value: &ErrorPagesConfig) -> Json {
        Json::Object(value.pages.iter().map(Page::spell).collect())
    }
}

impl Pair for Page {
    type Value = (Statuses, PageSource);

    fn take(
        key: &str,
        given: Given<'_>,
        _: &[(Statuses, PageSource)],
    ) -> Result<(Statuses, PageSource), Wrong> {
        let statuses = parse_statuses(key);
        let statuses = statuses.ok_or_else(|| Wrong::unlike(&quoted(key), STATUS_FORM))?;
        let page = match given.text()?.strip_prefix("file:") {
            Some("") => return Err(given.unlike("a path behind \"file:\"")),
            Some(path) => PageSource::File(PathBuf::from(path)),
            None => PageSource::Inline(Body::take(given)?),
        };
        Ok((statuses, page))
    }

    fn spell((statuses, source): &(Statuses, PageSource)) -> (String, Json) {
        let source = match source {
            PageSource::Inline(text) => text.clone(),
            PageSource::File(path) => format!("file:{}", path.to_string_lossy()),
        };
        (statuses.to_string(), source.into())
    }
}

/// Of `STATUS_FORM`.
fn parse_statuses(text: &str) -> Option<Statuses> {
    match text {
        "4xx" => Some(Statuses::Class(4)),
        "5xx" => Some(Statuses::Class(5)),
        _ if text.len() == 3 => {
            let status = text.parse().ok().filter(|status| (400..=599).contains(status));
            status.map(Statuses::Exact)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{all_refused, hooks};

    #[test]
    fn answers_and_pages_are_checked() {
        let pages = hooks(
            "[hooks]\nerror_pages = { 404 = \"gone\", 5xx = \"file:/a.html\" }\n\
                           intercept_errors = true",
        )
        .error_pages
        .unwrap();
        assert!(pages.intercept);
        assert_eq!(
            pages.pages,
            [
                (Statuses::Exact(404), PageSource::Inline("gone".to_owned())),
                (Statuses::Class(5), PageSource::File("/a.html".into())),
            ]
        );
        all_refused(&[
            (
                "[hooks.error_pages]\n200 = \"a\"",
                "2:7: hooks.error_pages.200: found \"200\", expect",
            ),
            ("[hooks.error_pages]\n+404 = \"a\"", "2:"),
            ("[hooks.error_pages]\n404 = \"file:\"", "2:7: hooks.error_pages.404: found \"file:\""),
            (
                "[hooks]\nintercept_errors = true",
                "2:20: hooks.intercept_errors: `intercept_errors`",
            ),
            ("[hooks.respond]\nstatus = 101", "2:10: hooks.respond.status: found 101, expected a"),
            (
                "[hooks.respond]\nstatus = 204\nbody = \"a\"",
                "3:8: hooks.respond.body: an answer with this status has no body",
            ),
            (
                "[hooks.respond]\nheaders = { Content-Length = \"5\" }",
                "2:30: hooks.respond.headers.Content-Length: found \"Content-Length\", expected a",
            ),
            (
                "[hooks.respond]\nheaders = { Content-Type = \"a/b\" }",
                "2:28: hooks.respond.headers.Content-Type: the type of the body is the key",
            ),
            (
                "[hooks.security_headers]\nhsts = \"a\\nb\"",
                "2:8: hooks.security_headers.hsts: found \"a\\nb\", expected text without control",
            ),
        ]);
    }
}
