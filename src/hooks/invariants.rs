//! What holds for any template, any pattern and any request: the check behind a fuzz target.
//!
//! In go a pattern, a template, and what a client may write; the check panics where a target names
//! another host, ends early, or leads out of what the configuration wrote, and where a field's
//! value ends its line. Nothing here runs in the proxy.

use super::request_view::{Context, HookState, RequestView};
use super::target::{Rewrite, location};
use crate::config::RewriteConfig;
use crate::config::hooks::{Scope, Template, pattern};
use crate::http::head::{HeadLimits, RequestHead};
use crate::routing::climbs_out;

const LIMITS: HeadLimits =
    HeadLimits { head_bytes: 1 << 16, target_bytes: 1 << 15, header_count: 64 };

/// A pattern, a template, a path of a route, a target and the value of a header, a line each.
pub(crate) fn target(input: &[u8]) {
    let mut lines = input.splitn(5, |byte| *byte == b'\n');
    let mut line = || std::str::from_utf8(lines.next().unwrap_or_default());
    let (Ok(regex), Ok(template), Ok(from), Ok(target)) = (line(), line(), line(), line()) else {
        return;
    };
    let value = lines.next().unwrap_or_default();
    let mut text = format!("GET {target} HTTP/1.1\r\nHost: example.org:81\r\nX-A: ").into_bytes();
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\nCookie: c=");
    text.extend_from_slice(value);
    text.extend_from_slice(b"\r\n\r\n");
    let mut head = RequestHead::new();
    if head.parse(&text, &LIMITS) != Ok(true) || head.bytes != text.len() {
        return;
    }
    let view = RequestView {
        head: &head,
        text: &text,
        client: [192, 0, 2, 1].into(),
        client_text: "192.0.2.1",
        is_trusted: false,
        tls: None,
        now_us: 1_000_000_000,
    };
    check_prefix(template, from, &view);
    check_pattern(regex, template, &view);
    check_value(template, &view);
}

/// As the configuration lets paths and replacements in.
fn is_written(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

fn check_prefix(to: &str, from: &str, view: &RequestView<'_>) {
    let is_path = |text: &str| is_written(text) && !text.contains('?');
    if !is_path(to) || !is_path(from) {
        return;
    }
    let rewrite = Rewrite::new(&RewriteConfig::Prefix(to.to_owned()), from).expect("a prefix");
    let path = view.path_and_query();
    if let Ok(Some(found)) = rewrite.apply(path, "r", view, &HookState::default()) {
        let to = to.trim_end_matches('/');
        assert!(found.starts_with(to.as_bytes()));
        check_target(&found, to);
        assert!(!climbs_out(&found[to.len()..]), "{}", found.escape_ascii());
    }
}

fn check_pattern(regex: &str, replacement: &str, view: &RequestView<'_>) {
    let Ok(compiled) = pattern(regex) else { return };
    let Ok(template) = Template::parse(replacement, Scope::Replacement(&compiled)) else { return };
    // A literal slash first, in the text and in what is read of it.
    if !is_written(replacement) || !template.start().starts_with('/') {
        return;
    }
    let config = RewriteConfig::Regex { pattern: regex.to_owned(), replacement: template.clone() };
    let rewrite = Rewrite::new(&config, "/").expect("a pattern that compiles");
    let path = view.path_and_query();
    if let Ok(Some(found)) = rewrite.apply(path, "r", view, &HookState::default()) {
        let start = template.start();
        check_target(&found, start);
        let sure = start.split('?').next().and_then(|path| path.rfind('/')).unwrap_or(0);
        assert!(!climbs_out(&found[sure..]), "{}", found.escape_ascii());
    }
}

/// Begins with one slash, unless more were written there, and has visible ASCII without what ends a
/// target, beside what was written.
fn check_target(found: &[u8], written: &str) {
    let shown = found.escape_ascii();
    assert_eq!(found.first(), Some(&b'/'), "{shown}");
    assert!(written.starts_with("//") || !found.starts_with(b"//"), "{shown}");
    assert!(found.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#'), "{shown}");
}

fn check_value(text: &str, view: &RequestView<'_>) {
    let state = HookState { status: 200, ..HookState::default() };
    let Ok(template) = Template::parse(text, Scope::Redirect) else { return };
    let mut value = Vec::new();
    if state.expand(&template, Context::Field, "r", view, &mut value)
        && !text.chars().any(char::is_control)
    {
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
    if !is_written(text) || !template.start().starts_with('/') {
        return;
    }
    if let Ok(found) = location(&template, "r", view, &state) {
        check_target(&found, "/");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    fn rules() -> ProptestConfig {
        ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
    }

    fn part() -> impl Strategy<Value = String> {
        let known =
            select(&["/", "..", "%2e", "%2F", "//", "a", "?", "#", ";", "\\", "$1", "."][..]);
        let names = select(&["${path}", "${target}", "${header.x-a}", "${host}", "${query}"][..]);
        prop_oneof![6 => known.prop_map(str::to_owned), 2 => names.prop_map(str::to_owned),
            1 => any::<String>()]
    }

    fn text() -> impl Strategy<Value = String> {
        proptest::collection::vec(part(), 0..6).prop_map(|parts| format!("/{}", parts.concat()))
    }

    proptest! {
        #![proptest_config(rules())]

        #[test]
        fn no_request_leads_out_of_what_was_written(
            regex in select(&["^/(.*)$", "(.)", "/a", "^/a/?([^/]*)/(.*)"][..]),
            to in text(),
            from in text(),
            target in text(),
            value in part(),
        ) {
            let to = to.replace('\n', "");
            let input = format!("{regex}\n{to}\n{}\n{target}\n{value}", from.replace('\n', ""));
            super::target(input.as_bytes());
        }
    }
}
