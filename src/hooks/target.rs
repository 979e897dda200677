//! Other targets: the path that an origin is sent, and where a client is redirected to.
//!
//! In: a request and a template, both known not to be trusted. Out: a target or a URI of visible
//! ASCII, or the status of a refusal. What a client wrote is percent-encoded where it could end the
//! target, name another host or, where it was no part of a path, be more than a part of one; and a
//! path that would climb out of the part that the configuration wrote is refused, because a rewrite
//! is often meant to keep clients below it.

use regex::bytes::Regex;

use super::request_view::{
    Context, HookState, Kind, RequestView, VALUE_BYTES_MAX, put_target, query_start,
};
use crate::config::RewriteConfig;
use crate::config::hooks::{self, Part, Template, Variable};
use crate::routing::climbs_out;

/// A rewrite, compiled.
#[derive(Clone, Debug)]
pub(crate) enum Rewrite {
    Prefix {
        /// What it takes the place of; no slash at its end.
        from: Box<str>,
        /// No slash at its end.
        to: Box<str>,
    },
    Regex {
        pattern: Box<Regex>,
        replacement: Template,
    },
}

/// Why a target cannot be had from a request, as the status of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadTarget {
    /// It climbs out, or there is no host to name: 400.
    Refused,
    /// 414.
    TooLong,
}

impl Rewrite {
    /// `from` is the route's path. The error says what is wrong with a pattern.
    pub(crate) fn new(config: &RewriteConfig, from: &str) -> Result<Self, String> {
        Ok(match config {
            RewriteConfig::Prefix(to) => Self::Prefix {
                from: from.trim_end_matches('/').into(),
                to: to.trim_end_matches('/').into(),
            },
            RewriteConfig::Regex { pattern, replacement } => Self::Regex {
                pattern: Box::new(hooks::pattern(pattern)?),
                replacement: replacement.clone(),
            },
        })
    }

    /// The target to send in place of `target`, which begins with `/`. `None` leaves it.
    pub(crate) fn apply(
        &self,
        target: &[u8],
        route: &str,
        view: &RequestView<'_>,
        state: &HookState,
    ) -> Result<Option<Vec<u8>>, BadTarget> {
        if target.first() != Some(&b'/') {
            return Ok(None);
        }
        let (path, query) = target.split_at(query_start(target));
        let mut out = Vec::with_capacity(target.len() + 64);
        match self {
            Self::Prefix { from, to } => {
                let rest = path.strip_prefix(from.as_bytes()).unwrap_or(path);
                out.extend_from_slice(to.as_bytes());
                let mut rest = rest;
                if out.is_empty() {
                    // `//a` is a host to some readers.
                    let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
                    rest = &rest[slashes..];
                    out.push(b'/');
                }
                put_target(rest, Kind::Path, &mut out);
                if climbs_out(&out[to.len()..]) {
                    return Err(BadTarget::Refused);
                }
            }
            Self::Regex { pattern, replacement } => {
                let Some(groups) = pattern.captures(path) else { return Ok(None) };
                // Where the last of what was written ends: what stands behind it must stay there.
                let mut written = 0;
                for part in &replacement.parts {
                    match part {
                        Part::Text(text) => {
                            if climbs_out(&out[written..]) {
                                return Err(BadTarget::Refused);
                            }
                            out.extend_from_slice(text.as_bytes());
                            written = out.len();
                        }
                        Part::Variable(Variable::Capture(group)) => {
                            let group = groups.get(*group).map_or(&[][..], |it| it.as_bytes());
                            put_target(group, Kind::Path, &mut out);
                        }
                        Part::Variable(variable) => {
                            state.put(variable, Context::Target, route, view, &mut out);
                        }
                    }
                    if out.len() > VALUE_BYTES_MAX {
                        return Err(BadTarget::TooLong);
                    }
                }
                if climbs_out(&out[written..]) {
                    return Err(BadTarget::Refused);
                }
                judge_path(&mut out, replacement)?;
            }
        }
        // A replacement with a query of its own takes the place of the client's.
        if query_start(&out) == out.len() {
            put_target(query, Kind::Path, &mut out);
        }
        Ok(Some(out))
    }
}

/// Makes one slash of several at the start, unless they were written there: `//a` is a host to some
/// readers. Refuses what climbs out of what was written.
fn judge_path(out: &mut Vec<u8>, written: &Template) -> Result<(), BadTarget> {
    let start = written.start();
    if !start.starts_with("//") {
        let slashes = out.iter().take_while(|byte| **byte == b'/').count();
        out.drain(1..slashes.max(1));
    }
    // Up to the last slash that is sure to be there: the rest may be part of a longer name.
    let sure = start[..query_start(start.as_bytes())].rfind('/').unwrap_or(0);
    match out.get(sure..) {
        Some(rest) if !climbs_out(rest) => Ok(()),
        _ => Err(BadTarget::Refused),
    }
}

/// Where a redirect leads for this request.
pub(crate) fn location(
    to: &Template,
    route: &str,
    view: &RequestView<'_>,
    state: &HookState,
) -> Result<Vec<u8>, BadTarget> {
    if to.has(&Variable::Host) && view.host().is_empty() {
        return Err(BadTarget::Refused);
    }
    let mut out = Vec::with_capacity(256);
    if !state.expand(to, Context::Target, route, view, &mut out) {
        return Err(BadTarget::TooLong);
    }
    // An absolute target may have a query and no path; and where the client's path stands first,
    // a second slash would make a host of what follows.
    let is_absolute = to.start().starts_with("http");
    if !is_absolute {
        if out.first() != Some(&b'/') {
            out.insert(0, b'/');
        }
        let slashes = out.iter().take_while(|byte| **byte == b'/').count();
        out.drain(1..slashes.max(1));
    }
    // "?" stands before a query, and there is none.
    if to.parts.last() == Some(&Part::Variable(Variable::Query)) && out.ends_with(b"?") {
        out.pop();
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::request_view::tests::with_facts;
    use super::*;
    use crate::config::hooks::Scope;

    fn request(target: &str) -> String {
        format!(
            "GET {target} HTTP/1.1\r\nHost: example.org:81\r\nX-Tenant: x/a b?#%2f\r\n\
             X-Climb: ../a\r\n\r\n"
        )
    }

    #[track_caller]
    fn rewritten(rewrite: &Rewrite, target: &str) -> Result<Option<String>, BadTarget> {
        with_facts(&request(target), |view| {
            let found = rewrite.apply(view.path_and_query(), "r", view, &HookState::default())?;
            Ok(found.map(|target| String::from_utf8(target).unwrap()))
        })
    }

    fn prefix(from: &str, to: &str) -> Rewrite {
        Rewrite::new(&RewriteConfig::Prefix(to.to_owned()), from).unwrap()
    }

    fn regex(pattern: &str, replacement: &str) -> Rewrite {
        let compiled = Regex::new(pattern).unwrap();
        let replacement = Template::parse(replacement, Scope::Replacement(&compiled)).unwrap();
        let config = RewriteConfig::Regex { pattern: pattern.to_owned(), replacement };
        Rewrite::new(&config, "/").unwrap()
    }

    #[test]
    fn a_prefix_takes_the_place_of_the_routes_path() {
        let table = [
            ("/api", "/v2", "/api/x?y=1", "/v2/x?y=1"),
            ("/api", "/v2", "/api", "/v2"),
            ("/api", "/v2", "/api?x", "/v2?x"),
            ("/api/", "/v2/", "/api/x", "/v2/x"),
            ("/api", "/", "/api/x", "/x"),
            ("/api", "/", "/api", "/"),
            ("/api", "/", "/api?x", "/?x"),
            ("/api", "/", "/api//evil.example/x", "/evil.example/x"),
            ("/api", "/v2", "/api//x", "/v2//x"),
            ("/", "/v2", "/x", "/v2/x"),
            ("/", "/v2", "/", "/v2/"),
            ("/api", "/v2", "/api/%C3%A9%20", "/v2/%C3%A9%20"),
        ];
        for (from, to, target, expected) in table {
            let found = rewritten(&prefix(from, to), target);
            assert_eq!(found, Ok(Some(expected.to_owned())), "{from} {to} {target}");
        }
        assert_eq!(rewritten(&prefix("/", "/tenant"), "/../other"), Err(BadTarget::Refused));
        assert_eq!(rewritten(&prefix("/", "/tenant"), "/x/%2e%2e/..;/y"), Err(BadTarget::Refused));
    }

    #[test]
    fn a_pattern_puts_its_groups_where_they_belong() {
        let table = [
            ("^/old/(.*)$", "/new/$1", "/old/a/b?c=d", Some("/new/a/b?c=d")),
            ("^/old/(.*)$", "/new/$1", "/other", None),
            ("^/(?<a>[^/]+)/(?<b>.*)$", "/${b}/${a}", "/x/y", Some("/y/x")),
            ("^/(.*)$", "/x?path=$1", "/a?b=c", Some("/x?path=a")),
            ("^/x(.*)$", "/${method}/$1", "/x", Some("/GET/")),
            ("x+", "/y", "/axxxb", Some("/y")),
            // A group that took no part is nothing.
            ("^/(a)|(b)$", "/_$2", "/a", Some("/_")),
            ("^(.*)$", "/$1", "/a", Some("/a")),
        ];
        for (pattern, replacement, target, expected) in table {
            let found = rewritten(&regex(pattern, replacement), target);
            assert_eq!(found, Ok(expected.map(str::to_owned)), "{pattern} {replacement} {target}");
        }
    }

    #[test]
    fn what_is_no_path_becomes_one_part_of_one() {
        let rewrite = regex("^/", "/t/${header.x-tenant}/end");
        let found = rewritten(&rewrite, "/a").unwrap().unwrap();
        assert_eq!(found, "/t/x%2Fa%20b%3F%23%252f/end");
        // Encoded or not, it would lead an origin that decodes it out of there.
        let climbing = regex("^/", "/t/${header.x-climb}");
        assert_eq!(rewritten(&climbing, "/a"), Err(BadTarget::Refused));
    }

    #[test]
    fn a_rewrite_keeps_requests_below_what_was_written() {
        let rewrite = regex("^/(.*)$", "/tenant/a/$1");
        for target in ["/../b", "/x/../../b", "/%2e%2e/b", "/..%2fb", "/..;x/b"] {
            assert_eq!(rewritten(&rewrite, target), Err(BadTarget::Refused), "{target}");
        }
        for target in ["/x/../y", "/...", "/x?/../.."] {
            assert!(rewritten(&rewrite, target).unwrap().is_some(), "{target}");
        }
        // Nor out of what a variable before it has named.
        let rewrite = regex("^/([^/]*)(.*)$", "/tenant/${header.x-tenant}/$1$2");
        for target in ["/../b", "/x/../../b", "/%2e%2e/b", "/..;x/b", "/./../b"] {
            assert_eq!(rewritten(&rewrite, target), Err(BadTarget::Refused), "{target}");
        }
        assert!(rewritten(&rewrite, "/x/../y").unwrap().is_some());
    }

    #[test]
    fn no_target_ends_early_or_names_a_host() {
        let rewrite = regex("^(/.*)$", "/$1");
        assert_eq!(rewritten(&rewrite, "//evil.example/x"), Ok(Some("/evil.example/x".into())));
        let long = format!("/{}", "a".repeat(5000));
        let twice = regex("^(.*)$", "/$1$1");
        assert_eq!(rewritten(&twice, &long), Err(BadTarget::TooLong));
        // Every byte that a target can have arrives as something that ends nothing.
        for byte in (0x21..=0x7e_u8).filter(|byte| !b"?#\x7f".contains(byte)) {
            let target = format!("/a{}b", char::from(byte));
            for rewrite in [regex("^/(.*)$", "/x/$1"), prefix("/", "/x")] {
                let Ok(Some(found)) = rewritten(&rewrite, &target) else { panic!("{target}") };
                let is_clean =
                    |byte: u8| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte);
                assert!(found.bytes().all(is_clean), "{found}");
            }
        }
    }

    #[track_caller]
    fn redirected(to: &str, text: &str) -> Result<String, BadTarget> {
        let to = Template::parse(to, Scope::Redirect).unwrap();
        with_facts(text, |view| {
            let found = location(&to, "r", view, &HookState::default())?;
            Ok(String::from_utf8(found).unwrap())
        })
    }

    #[test]
    fn a_redirect_leads_where_it_says() {
        let table = [
            ("https://${host}${target}", "/a?b=c", "https://example.org/a?b=c"),
            ("https://new.example${path}", "/a?b=c", "https://new.example/a"),
            ("/login?back=${path}", "/a/b", "/login?back=/a/b"),
            ("/a/?${query}", "/a?b=c", "/a/?b=c"),
            ("/a/?${query}", "/a", "/a/"),
            ("${path}", "//evil.example/x", "/evil.example/x"),
            ("${target}", "///evil.example", "/evil.example"),
            ("/${path}", "/x", "/x"),
            ("/${header.x-tenant}", "/x", "/x%2Fa%20b%3F%23%252f"),
            ("${path}", "/\\evil.example", "/%5Cevil.example"),
            ("https://a/${path}", "/\"<>", "https://a//%22%3C%3E"),
        ];
        for (to, target, expected) in table {
            assert_eq!(redirected(to, &request(target)), Ok(expected.to_owned()), "{to} {target}");
        }
    }

    #[test]
    fn a_redirect_that_needs_a_host_refuses_a_request_without_one() {
        let old = "GET /a HTTP/1.0\r\n\r\n";
        assert_eq!(redirected("https://${host}${path}", old), Err(BadTarget::Refused));
        assert_eq!(redirected("https://a${path}", old), Ok("https://a/a".to_owned()));
        let absolute = "GET http://h?x=1 HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(redirected("${target}", absolute), Ok("/?x=1".to_owned()));
    }
}
