//! Hooks that change heads or stand in for an origin's: fields, paths, redirects, pages.
//!
//! In: those tables as they were written. Out: as they hold, or the first refusal. What frames a
//! message, or concerns one connection only, is out of reach of any edit.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::Checked;
use super::super::values::{flag, number};
use super::{FIELD_FORM, VALUE_FORM, field_value, is_field_name, is_field_value};
use crate::config::error::Problem;
use crate::config::hooks::raw::{
    RawHeaders, RawHooks, RawRedirect, RawRespond, RawRewrite, RawSecurity,
};
use crate::config::hooks::{Scope, Template, is_editable, pattern};
use crate::config::names::{ROUTE_PATH_FORM, is_route_path, split_authority};
use crate::config::raw::{Given, Table};
use crate::config::{
    ErrorPagesConfig, HeadersConfig, PageSource, RedirectConfig, RespondConfig, RewriteConfig,
    SecurityConfig, Statuses,
};
use crate::http::names::FieldName;

const EDITABLE_FORM: &str =
    "a field that may be edited: what frames a message or concerns one connection is ringway's own";
const HOST_FORM: &str = "another field: the Host that an origin sees is `upstream.host`";
const REMOVE_FORM: &str = "a value: `remove` takes a field away";
const TO_FORM: &str = "a path that begins with one /, ${path} or ${target}, or http:// or https:// \
     with a host: its name, or ${host}";
const REPLACEMENT_FORM: &str = "a path that begins with a literal /";
const STATUS_FORM: &str = "a status from 400 to 599, \"4xx\" or \"5xx\"";

/// Of one kind in one table. Each is compared with every line of a head.
const EDITS_MAX: usize = 64;

/// Pages and answers are kept in memory.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Which head is edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Request,
    Response,
}

pub(super) fn headers(raw: &RawHeaders, head: Head) -> Checked<HeadersConfig> {
    let mut rename = Vec::with_capacity(raw.rename.len());
    for (name, to) in &raw.rename {
        if rename.len() >= EDITS_MAX {
            return Err(too_many(to));
        }
        editable(name, to)?;
        rename.push((name.clone(), editable_name(to)?));
    }
    if let Some(given) = raw.remove.get(EDITS_MAX) {
        return Err(too_many(given));
    }
    Ok(HeadersConfig {
        rename,
        remove: raw.remove.iter().map(editable_name).collect::<Checked<_>>()?,
        set: values(&raw.set, head)?,
        add: values(&raw.add, head)?,
    })
}

fn values(raw: &BTreeMap<String, Given<String>>, head: Head) -> Checked<Vec<(String, Template)>> {
    let mut fields: Vec<(String, Template)> = Vec::with_capacity(raw.len());
    for (name, given) in raw {
        editable(name, given)?;
        if fields.len() >= EDITS_MAX {
            return Err(too_many(given));
        }
        if fields.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            let what = format!("{name} is there already: field names are the same in any case");
            return Err(given.refuse_for(Problem::Duplicate { what }));
        }
        if given.value.is_empty() {
            return Err(given.refuse(REMOVE_FORM));
        }
        field_value(given)?;
        let scope = if head == Head::Request { Scope::Request } else { Scope::Response };
        fields.push((name.clone(), template(given, scope)?));
    }
    Ok(fields)
}

fn too_many(given: &Given<String>) -> super::super::super::error::Refusal {
    given.refuse(format!("at most {EDITS_MAX} edits of a kind"))
}

fn template(given: &Given<String>, scope: Scope<'_>) -> Checked<Template> {
    Template::parse(&given.value, scope).map_err(|expected| given.refuse(expected))
}

/// `place` is shown where `name` may not be edited.
fn editable(name: &str, place: &Given<String>) -> Checked<()> {
    let expected = match FieldName::of(name.as_bytes()) {
        _ if !is_field_name(name) => FIELD_FORM,
        _ if is_editable(name) => return Ok(()),
        FieldName::Host => HOST_FORM,
        _ => EDITABLE_FORM,
    };
    let found = crate::config::error::quoted(name);
    Err(place.refuse_for(Problem::Unexpected { found, expected: expected.to_owned() }))
}

pub(super) fn editable_name(given: &Given<String>) -> Checked<String> {
    editable(&given.value, given).map(|()| given.value.clone())
}

pub(super) fn redirect(given: &Given<Table<RawRedirect>>) -> Checked<RedirectConfig> {
    let raw = &given.value;
    let Some(to) = &raw.to else {
        return Err(given.refuse_for(Problem::Missing { what: "key `to`" }));
    };
    if !is_place(&to.value) || !is_target(&to.value) {
        return Err(to.refuse(TO_FORM));
    }
    let status = number(raw.status.as_ref(), 301..=308, 308)?;
    if let Some(given) = raw.status.as_ref().filter(|_| matches!(status, 304..=306)) {
        return Err(given.refuse("301, 302, 303, 307 or 308"));
    }
    Ok(RedirectConfig { to: template(to, Scope::Redirect)?, status })
}

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

fn is_web(scheme: &str) -> bool {
    matches!(scheme, "http" | "https")
}

fn is_target(text: &str) -> bool {
    text.len() <= 2048 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

pub(super) fn respond(raw: &RawRespond) -> Checked<RespondConfig> {
    let status = number(raw.status.as_ref(), 200..=599, 200)?;
    let body = raw.body.as_ref().map_or("", |body| &body.value);
    if let Some(given) = raw.body.as_ref() {
        if body.len() > BODY_BYTES_MAX {
            return Err(given.refuse(format!("at most {BODY_BYTES_MAX} bytes")));
        }
        if matches!(status, 204 | 205 | 304) && !body.is_empty() {
            let rule = "an answer with this status has no body";
            return Err(given.refuse_for(Problem::Conflict { rule }));
        }
    }
    let mut headers = Vec::with_capacity(raw.headers.len());
    for (name, value) in &raw.headers {
        editable(name, value)?;
        if name.eq_ignore_ascii_case("content-type") {
            let rule = "the type of the body is the key `content_type`";
            return Err(value.refuse_for(Problem::Conflict { rule }));
        }
        headers.push((name.clone(), field_value(value)?));
    }
    Ok(RespondConfig {
        status,
        body: body.to_owned(),
        content_type: match &raw.content_type {
            None => "text/plain; charset=utf-8".to_owned(),
            Some(given) if is_filled_value(&given.value) => given.value.clone(),
            Some(given) => return Err(given.refuse("a media type such as \"text/html\"")),
        },
        headers,
    })
}

fn is_filled_value(text: &str) -> bool {
    !text.is_empty() && is_field_value(text)
}

pub(super) fn rewrite(given: &Given<Table<RawRewrite>>) -> Checked<RewriteConfig> {
    let raw = &given.value;
    match (&raw.prefix, &raw.regex, &raw.replacement) {
        (Some(prefix), None, None) if is_route_path(&prefix.value) => {
            Ok(RewriteConfig::Prefix(prefix.value.clone()))
        }
        (Some(prefix), None, None) => Err(prefix.refuse(ROUTE_PATH_FORM)),
        (None, Some(regex), Some(replacement)) => {
            let compiled = pattern(&regex.value).map_err(|error| regex.refuse(error))?;
            let is_path = replacement.value.starts_with('/') && is_target(&replacement.value);
            if !is_path || replacement.value.contains('#') {
                return Err(replacement.refuse(REPLACEMENT_FORM));
            }
            let replacement = template(replacement, Scope::Replacement(&compiled))?;
            Ok(RewriteConfig::Regex { pattern: regex.value.clone(), replacement })
        }
        _ => {
            let rule = "a rewrite has either `prefix`, or `regex` and `replacement`";
            Err(given.refuse_for(Problem::Conflict { rule }))
        }
    }
}

pub(super) fn security(raw: &RawSecurity) -> Checked<SecurityConfig> {
    let value = |given: &Option<Given<String>>, default: &str| match given {
        None => Ok(Some(default.to_owned())),
        Some(given) if given.value.is_empty() => Ok(None),
        Some(given) if is_field_value(&given.value) => Ok(Some(given.value.clone())),
        Some(given) => Err(given.refuse(VALUE_FORM)),
    };
    Ok(SecurityConfig {
        // Off unless it is asked for: browsers would refuse plain HTTP for its time.
        hsts: value(&raw.hsts, "")?.filter(|text| !text.is_empty()),
        nosniff: flag(raw.nosniff.as_ref(), true),
        frame_options: value(&raw.frame_options, "SAMEORIGIN")?,
        referrer_policy: value(&raw.referrer_policy, "strict-origin-when-cross-origin")?,
        content_security_policy: value(&raw.content_security_policy, "")?
            .filter(|text| !text.is_empty()),
    })
}

pub(super) fn error_pages(raw: &RawHooks) -> Checked<Option<ErrorPagesConfig>> {
    let intercept = flag(raw.intercept_errors.as_ref(), false);
    let Some(given) = &raw.error_pages else {
        return match &raw.intercept_errors {
            Some(given) if intercept => {
                let rule = "`intercept_errors` needs `error_pages`";
                Err(given.refuse_for(Problem::Conflict { rule }))
            }
            _ => Ok(None),
        };
    };
    let mut pages = Vec::with_capacity(given.len());
    for (statuses, source) in given {
        let Some(statuses) = parse_statuses(statuses) else {
            let found = crate::config::error::quoted(statuses);
            let expected = STATUS_FORM.to_owned();
            return Err(source.refuse_for(Problem::Unexpected { found, expected }));
        };
        let text = &source.value;
        let page = match text.strip_prefix("file:") {
            Some("") => return Err(source.refuse("a path behind \"file:\"")),
            Some(path) => PageSource::File(PathBuf::from(path)),
            None if text.len() > BODY_BYTES_MAX => {
                return Err(source.refuse(format!("at most {BODY_BYTES_MAX} bytes")));
            }
            None => PageSource::Inline(text.clone()),
        };
        pages.push((statuses, page));
    }
    Ok(Some(ErrorPagesConfig { pages, intercept }))
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
    use crate::config::HooksConfig;
    use crate::config::tests::{all_refused, parse};

    fn hooks(keys: &str) -> HooksConfig {
        match parse(keys) {
            Ok(config) => *config.hooks.unwrap(),
            Err(error) => panic!("{error}"),
        }
    }

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
