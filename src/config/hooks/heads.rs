//! Hooks that change heads: fields, paths, redirects.
//!
//! In: TOML, JSON and texts, by way of serde. Out: the tables of these hooks, a struct each, and
//! the kinds of their values. What frames a message, or concerns one connection only, is out of
//! reach of any edit.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::template::{Scope, Template};
use super::{is_editable, pattern};
use crate::config::error::quoted;
use crate::config::kinds::own::Path;
use crate::config::kinds::{
    As, Given, Kind, List, Members, Optional, Pair, Switched, Wrong, number, scalar_kind, text_kind,
};
use crate::config::names::{is_token, split_authority};
use crate::http::names::FieldName as KnownName;

const FIELD_FORM: &str = "a field name: 1 to 64 letters, digits, \"-\" and \"_\"";
const VALUE_FORM: &str = "text without control characters, of at most 4096 bytes";
const EDITABLE_FORM: &str =
    "a field that may be edited: what frames a message or concerns one connection is ringway's own";
const HOST_FORM: &str = "another field: the Host that an origin sees is `upstream.host`";
const REMOVE_FORM: &str = "a value: `remove` takes a field away";
const TO_FORM: &str = "a path that begins with one /, ${path} or ${target}, or http:// or https:// \
     with a host: its name, or ${host}";
const REPLACEMENT_FORM: &str = "a path that begins with a literal /";

const VALUE_BYTES_MAX: usize = 4096;

/// Of one kind in one table. Each is compared with every line of a head.
const EDITS_MAX: usize = 64;

text_kind!(FieldName: String, field_name, Clone::clone);
text_kind!(FieldValue = is_field_value, VALUE_FORM);
text_kind!(
    /// The name of a field that may be edited.
    Editable: String, |text| editable(text).map(|()| text.to_owned()), Clone::clone
);
text_kind!(
    /// Where a redirect leads.
    To: Template,
    |text| {
        if !is_place(text) || !is_target(text) {
            return Err(TO_FORM.to_owned());
        }
        Template::parse(text, Scope::Redirect)
    },
    ToString::to_string
);
text_kind!(
    /// A path in which the groups of a pattern may stand: `check` puts the two together.
    Replacement = is_replacement, REPLACEMENT_FORM
);
text_kind!(Pattern: String, |text| pattern(text).map(|_| text.to_owned()), Clone::clone);

pub(super) fn is_field_name(name: &str) -> bool {
    name.len() <= 64 && is_token(name)
}

pub(super) fn field_name(text: &str) -> Result<String, String> {
    is_field_name(text).then(|| text.to_owned()).ok_or_else(|| FIELD_FORM.to_owned())
}

pub(super) fn is_field_value(text: &str) -> bool {
    let is_trimmed = text.trim_matches([' ', '\t']).len() == text.len();
    text.len() <= VALUE_BYTES_MAX && is_trimmed && !text.chars().any(char::is_control)
}

fn editable(name: &str) -> Result<(), String> {
    Err(match KnownName::of(name.as_bytes()) {
        _ if !is_field_name(name) => FIELD_FORM,
        _ if is_editable(name) => return Ok(()),
        KnownName::Host => HOST_FORM,
        _ => EDITABLE_FORM,
    }
    .to_owned())
}

/// The same for a key, which is shown in place of its value.
pub(super) fn editable_key(name: &str) -> Result<(), Wrong> {
    editable(name).map_err(|expected| Wrong::unlike(&quoted(name), expected))
}

/// Another place for the client to ask.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedirectConfig {
    /// A path or a URL, with variables.
    #[serde(with = "As::<To>")]
    pub to: Template,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "number::<u16, 308>", with = "As::<RedirectStatus>")]
    pub status: u16,
}

const REDIRECT_STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

scalar_kind!(
    RedirectStatus: u16, "a whole number",
    json!({ "type": "integer", "enum": REDIRECT_STATUSES }),
    |given| {
        let status = match given {
            Given::Whole(status) => u16::try_from(status).ok(),
            Given::Text(_) => None,
            Given::Real(_) | Given::Truth(_) => return Err(Wrong::Type),
        };
        let status = status.filter(|status| REDIRECT_STATUSES.contains(status));
        status.ok_or_else(|| given.unlike("301, 302, 303, 307 or 308"))
    },
    |value| (*value).into()
);

/// Whether it is for the configuration to say, or for the request's own Host, which host a redirect
/// leads to: any other value of a client's could become the name of another one.
fn is_place(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://").filter(|(scheme, _)| is_web(scheme)) else {
        let is_path = ["/", "${path}", "${target}"].iter().any(|start| text.starts_with(start));
        return is_path && !text.starts_with("//") && !text.starts_with("/\\");
    };
    let ends = ["/", "?", "${path}", "${target}"].iter().filter_map(|end| rest.find(end));
    let authority = &rest[..ends.min().unwrap_or(rest.len())];
    split_authority(&authority.replacen("${host}", "host", 1)).is_some()
}

fn is_replacement(text: &str) -> bool {
    text.starts_with('/') && is_target(text) && !text.contains('#')
}

fn is_web(scheme: &str) -> bool {
    matches!(scheme, "http" | "https")
}

fn is_target(text: &str) -> bool {
    text.len() <= 2048 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Another path for the origin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "RewriteTable", into = "RewriteTable")]
pub enum RewriteConfig {
    /// In place of the route's own path. Begins with `/`.
    Prefix(String),
    Regex {
        /// One that compiles within `REGEX_BYTES_MAX`.
        pattern: String,
        /// Begins with a literal `/`.
        replacement: Template,
    },
}

/// Another path for the origin: by `prefix`, or by `regex` and `replacement`.
#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RewriteTable {
    /// In place of the route's own path.
    #[serde(with = "Optional::<Path>", skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    /// A regular expression for the path.
    #[serde(with = "Optional::<Pattern>", skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
    /// What takes its place, with the groups $1, ${name} and variables.
    #[serde(with = "Optional::<Replacement>", skip_serializing_if = "Option::is_none")]
    replacement: Option<String>,
}

impl TryFrom<RewriteTable> for RewriteConfig {
    type Error = &'static str;

    fn try_from(table: RewriteTable) -> Result<Self, &'static str> {
        match table {
            RewriteTable { prefix: Some(prefix), regex: None, replacement: None } => {
                Ok(Self::Prefix(prefix))
            }
            RewriteTable { prefix: None, regex: Some(pattern), replacement: Some(text) } => {
                Ok(Self::Regex { pattern, replacement: Template::unread(&text) })
            }
            _ => Err("a rewrite has either `prefix`, or `regex` and `replacement`"),
        }
    }
}

impl From<RewriteConfig> for RewriteTable {
    fn from(config: RewriteConfig) -> Self {
        match config {
            RewriteConfig::Prefix(prefix) => Self { prefix: Some(prefix), ..Self::default() },
            RewriteConfig::Regex { pattern, replacement } => Self {
                prefix: None,
                regex: Some(pattern),
                replacement: Some(replacement.to_string()),
            },
        }
    }
}

/// Edits to a head, in the order of the keys here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeadersConfig {
    /// Fields and their new names.
    #[serde(with = "Members::<Renamed>", skip_serializing_if = "Vec::is_empty")]
    pub rename: Vec<(String, String)>,
    /// Fields that are taken away.
    #[serde(with = "List::<Editable>", skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Fields and the values that take the place of theirs; variables may stand in them.
    #[serde(with = "Members::<EditedField>", skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(String, Template)>,
    /// Fields that are added, with their values; variables may stand in them.
    #[serde(with = "Members::<EditedField>", skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(String, Template)>,
}

impl HeadersConfig {
    pub fn is_empty(&self) -> bool {
        self.rename.is_empty()
            && self.remove.is_empty()
            && self.set.is_empty()
            && self.add.is_empty()
    }

    /// The place of the first one too many, and what it says.
    pub(in crate::config) fn one_too_many(&self) -> Option<(usize, String)> {
        self.remove
            .get(EDITS_MAX)
            .map(|name| (EDITS_MAX, format!("found {}, expected {}", quoted(name), too_many())))
    }
}

fn too_many() -> String {
    format!("at most {EDITS_MAX} edits of a kind")
}

struct Renamed;
struct EditedField;

impl Pair for Renamed {
    type Value = (String, String);

    fn take(
        key: &str,
        given: Given<'_>,
        before: &[(String, String)],
    ) -> Result<(String, String), Wrong> {
        if before.len() >= EDITS_MAX {
            return Err(given.unlike(too_many()));
        }
        editable_key(key)?;
        Ok((key.to_owned(), Editable::take(given)?))
    }

    fn spell((from, to): &(String, String)) -> (String, Json) {
        (from.clone(), to.as_str().into())
    }
}

impl Pair for EditedField {
    type Value = (String, Template);

    fn take(
        key: &str,
        given: Given<'_>,
        before: &[(String, Template)],
    ) -> Result<(String, Template), Wrong> {
        editable_key(key)?;
        if before.len() >= EDITS_MAX {
            return Err(given.unlike(too_many()));
        }
        if before.iter().any(|(other, _)| other.eq_ignore_ascii_case(key)) {
            let what = "is there already: field names are the same in any case";
            return Err(Wrong::Because(format!("{key} {what}")));
        }
        if let Given::Text("") = given {
            return Err(given.unlike(REMOVE_FORM));
        }
        let text = FieldValue::take(given)?;
        // What only answers know is refused to requests by `check`, which knows whose edits these
        // are.
        let template = Template::parse(&text, Scope::Response);
        template.map(|value| (key.to_owned(), value)).map_err(|expected| given.unlike(expected))
    }

    fn spell((name, value): &(String, Template)) -> (String, Json) {
        (name.clone(), value.to_string().into())
    }
}

/// Policies that browsers keep. "" leaves the origin's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityConfig {
    /// Strict-Transport-Security.
    // Off unless it is asked for: browsers would refuse plain HTTP for its time.
    #[serde(with = "Switched::<FieldValue>")]
    pub hsts: Option<String>,
    /// Whether X-Content-Type-Options is "nosniff".
    pub nosniff: bool,
    /// X-Frame-Options.
    #[serde(with = "Switched::<FieldValue>")]
    pub frame_options: Option<String>,
    /// Referrer-Policy.
    #[serde(with = "Switched::<FieldValue>")]
    pub referrer_policy: Option<String>,
    /// Content-Security-Policy.
    #[serde(with = "Switched::<FieldValue>")]
    pub content_security_policy: Option<String>,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            hsts: None,
            nosniff: true,
            frame_options: Some("SAMEORIGIN".to_owned()),
            referrer_policy: Some("strict-origin-when-cross-origin".to_owned()),
            content_security_policy: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{all_refused, hooks, parse};

    #[test]
    fn edits_are_read_as_they_are_written() {
        let edits = hooks(
            "[hooks.request_headers]\nset = { X-A = \"${client_ip}\", X-B = \"b\" }\n\
             add = { X-C = \"c\" }\nremove = [\"X-D\"]\nrename = { X-E = \"X-F\" }",
        )
        .request_headers;
        let names: Vec<_> = edits.set.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["X-A", "X-B"]);
        assert_eq!(edits.add[0].1.fixed(), Some("c"));
        assert_eq!(edits.remove, ["X-D"]);
        assert_eq!(edits.rename, [("X-E".to_owned(), "X-F".to_owned())]);
    }

    #[test]
    fn a_field_that_is_not_to_be_edited_is_refused() {
        let ours = [
            "Connection",
            "Content-Length",
            "transfer-encoding",
            "TE",
            "Trailer",
            "Upgrade",
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authorization",
            "Expect",
            "Date",
            "Via",
            "Max-Forwards",
        ];
        for name in ours {
            for edit in [
                format!("set = {{ {name} = \"a\" }}"),
                format!("add = {{ {name} = \"a\" }}"),
                format!("remove = [\"{name}\"]"),
                format!("rename = {{ {name} = \"X-A\" }}"),
                format!("rename = {{ X-A = \"{name}\" }}"),
            ] {
                for head in ["request", "response"] {
                    let error = parse(&format!("[hooks.{head}_headers]\n{edit}")).unwrap_err();
                    let error = error.to_string();
                    assert!(error.contains("expected a field that may be edited"), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_field_that_cannot_be_is_refused_at_its_place() {
        let set = |field: &str| format!("[hooks.request_headers]\nset = {{ {field} }}");
        all_refused(&[
            (
                &set("Host = \"a\""),
                "2:16: hooks.request_headers.set.Host: found \"Host\", expected",
            ),
            (
                &set("\"a b\" = \"c\""),
                "2:17: hooks.request_headers.set.a b: found \"a b\", expecte",
            ),
            (&set("\"a\\r\\nb\" = \"c\""), "2:20: hooks.request_headers.set.a"),
            (&set("X = \"a\\r\\nY: b\""), "2:13: hooks.request_headers.set.X: found \"a\\r\\nY: b"),
            (
                &set("X = \"a\\u0000\""),
                "2:13: hooks.request_headers.set.X: found \"a\\0\", expected",
            ),
            (&set("X = \"\""), "2:13: hooks.request_headers.set.X: found \"\", expected a value"),
            (
                &set("X = \" a\""),
                "2:13: hooks.request_headers.set.X: found \" a\", expected text w",
            ),
            (
                &set("X = \"${hots}\""),
                "2:13: hooks.request_headers.set.X: found \"${hots}\", expec",
            ),
            (&set("X = \"${status}\""), "2:13: hooks.request_headers.set.X: found \"${status}\""),
            (&set("X = \"a\", x = \"b\""), "2:22: hooks.request_headers.set.x: x is there already"),
        ]);
    }

    #[test]
    fn redirects_and_rewrites_that_lead_nowhere_are_refused() {
        all_refused(&[
            ("[hooks]\nredirect = {}", "2:12: hooks.redirect: missing key `to`"),
            ("[hooks.redirect]\nto = \"ftp://a\"", "2:6: hooks.redirect.to: found \"ftp://a\""),
            ("[hooks.redirect]\nto = \"${host}/\"", "2:6: hooks.redirect.to: found \"${host}/\""),
            ("[hooks.redirect]\nto = \"/a b\"", "2:6: hooks.redirect.to: found \"/a b\", expected"),
            ("[hooks.redirect]\nto = \"/${upstream}\"", "2:6: hooks.redirect.to: found"),
            ("[hooks.redirect]\nto = \"//a\"", "2:6: hooks.redirect.to: found \"//a\", expect"),
            ("[hooks.redirect]\nto = '/\\a'", "2:6: hooks.redirect.to: found \"/\\\\a\", expect"),
            ("[hooks.redirect]\nto = \"https://\"", "2:6: hooks.redirect.to: found \"https://\""),
            ("[hooks.redirect]\nto = \"https:///a\"", "2:6: hooks.redirect.to: found \"https:"),
            (
                "[hooks.redirect]\nto = \"https://${header.x}/\"",
                "2:6: hooks.redirect.to: found \"https://${header.x}/\", expected a path",
            ),
            (
                "[hooks.redirect]\nto = \"https://a.example${query}\"",
                "2:6: hooks.redirect.to: found \"https://a.example${query}\", expected a path",
            ),
            (
                "[hooks.redirect]\nto = \"/\"\nstatus = 304",
                "3:10: hooks.redirect.status: found 304, expected 301, 302, 303, 307 or 308",
            ),
            ("[hooks]\nrewrite = {}", "2:11: hooks.rewrite: a rewrite has either `prefix`, or"),
            ("[hooks.rewrite]\nprefix = \"a\"", "2:10: hooks.rewrite.prefix: found \"a\", expecte"),
            (
                "[hooks.rewrite]\nregex = \"(\"\nreplacement = \"/\"",
                "2:9: hooks.rewrite.regex: found \"(\", expected a regular expression (unclosed gr",
            ),
            (
                "[hooks.rewrite]\nregex = \"(a{1000}){1000}\"\nreplacement = \"/\"",
                "2:9: hooks.rewrite.regex: found \"(a{1000}){1000}\", expected a pattern that com",
            ),
            (
                "[hooks.rewrite]\nregex = \"a\"\nreplacement = \"$0\"",
                "3:15: hooks.rewrite.replacement: found \"$0\", expected a path that begins with",
            ),
            (
                "[hooks.rewrite]\nregex = \"a\"\nreplacement = \"/$1\"",
                "3:15: hooks.rewrite.replacement: found \"/$1\", expected a group that the pattern",
            ),
        ]);
    }

    #[test]
    fn a_redirect_names_its_host_or_the_one_that_was_asked() {
        for to in [
            "/",
            "/a?b=${query}",
            "${path}",
            "${target}",
            "http://a",
            "https://a.example:8443${target}",
            "https://${host}/",
            "https://${host}:8443${path}?x=${header.x}",
            "https://www.${host}${target}",
            "https://[::1]/${header.x}",
            "https://a.example?${query}",
        ] {
            let redirect = hooks(&format!("[hooks.redirect]\nto = {to:?}")).redirect.unwrap();
            assert_eq!(redirect.to.to_string(), to);
        }
    }
}
