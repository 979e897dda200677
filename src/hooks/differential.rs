//! Edits beside a plain account of what they are, on random heads.
//!
//! Comes in: lists of edits and heads, made up from few names that are alike, in any case and as
//! often as a head may hold. Goes out: the same lines by each of the three ways to edit a head,
//! which are the pen that writes one, the walk over one that is there, and, for comparison, a list
//! of lines to which one edit after the other is done.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::edits::{Edits, Wishes};
use super::request_view::tests::LIMITS;
use super::{HookState, RequestView};
use crate::config::Networks;
use crate::config::hooks::{Scope, Template};
use crate::http::Method;
use crate::http::client_chain::Trust;
use crate::http::forwarded_header::{ClientText, Introduction, Scheme};
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::interest::FieldInterest;
use crate::http::names::FieldName;
use crate::http::rewrite::{
    self, BodyOut, ConnectionOut, ForwardedFor, HostRule, RequestRewrite, ResponseRewrite,
};

/// Of names with one first letter and length, of one that others begin with, of fields that ringway
/// says itself, of names that no table has.
const NAMES: [&str; 14] = [
    "X-A",
    "x-b",
    "X-Ab",
    "server",
    "X-Frame-Options",
    "x-forwarded-for",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "Forwarded",
    "x-a~b",
    "x-a^b",
    "Y",
    "Strict-Transport-Security",
    "x-a-name-that-is-longer-than-any-that-a-table-of-names-has-room-for",
];

#[derive(Clone, Debug)]
enum Step {
    Remove(String),
    Rename(String, String),
    Set(String, &'static str),
    Add(String, &'static str),
}

fn name() -> impl Strategy<Value = String> {
    (select(&NAMES[..]), any::<u64>()).prop_map(|(name, cases)| {
        let spell = |(at, letter): (usize, char)| {
            if cases >> (at % 64) & 1 == 0 { letter } else { letter.to_ascii_uppercase() }
        };
        name.to_ascii_lowercase().chars().enumerate().map(spell).collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let value =
        select(&["1", "${client_ip}", "${header.x-a}", "a ${header.server} ", "${query}"][..]);
    prop_oneof![
        2 => name().prop_map(Step::Remove),
        2 => (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (name(), value.clone()).prop_map(|(name, value)| Step::Set(name, value)),
        1 => (name(), value).prop_map(|(name, value)| Step::Add(name, value)),
    ]
}

/// Field lines, in any number and order; some are named by a Connection field.
fn fields() -> impl Strategy<Value = String> {
    let other = select(&["Accept", "Cookie", "Date", "Via", "TE", "Connection", "Keep-Alive"][..]);
    let name = prop_oneof![3 => name(), 1 => other.prop_map(str::to_owned)];
    let value = select(&["", "1", "x-a", "close, X-B, server", " a\tb: c ", "\u{e9}"][..]);
    let line = (name, value).prop_map(|(name, value)| format!("{name}: {value}\r\n"));
    prop_oneof![3 => vec(line.clone(), 0..8), 1 => vec(line, 90..100)]
        .prop_map(|lines| lines.concat())
}

fn template(text: &str) -> Template {
    Template::parse(text, Scope::Response).unwrap()
}

/// What a value comes to for a request with these field lines.
fn value(written: &str, fields: &str) -> String {
    let field = |name: &str| {
        let found = fields.split_terminator("\r\n").find_map(|line| {
            let (called, value) = line.split_once(':')?;
            called.eq_ignore_ascii_case(name).then(|| value.trim_matches([' ', '\t']))
        });
        found.unwrap_or_default()
    };
    let text = match written {
        "${client_ip}" => "192.0.2.1".to_owned(),
        "${header.x-a}" => field("x-a").to_owned(),
        "a ${header.server} " => format!("a {}", field("server")),
        "${query}" => String::new(),
        fixed => fixed.to_owned(),
    };
    text.trim_end_matches([' ', '\t']).to_owned()
}

/// Where a line of the account stands: among those that were there, those that were renamed, or
/// those that were added.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    There,
    Renamed,
    Added,
}

/// The head after one step and the next, each done to a list of lines.
fn account(head: &str, steps: &[Step], fields: &str) -> String {
    let text = head.strip_suffix("\r\n\r\n").expect("a head");
    let mut all = text.split("\r\n");
    let first = all.next().unwrap_or_default();
    let mut lines: Vec<(Part, String, String)> = all
        .map(|line| {
            let (name, rest) = line.split_once(':').expect("a field line");
            (Part::There, name.to_owned(), format!(":{rest}"))
        })
        .collect();
    let added = |name: &String, written: &str| {
        let value = value(written, fields);
        (Part::Added, name.clone(), if value.is_empty() { value } else { format!(": {value}") })
    };
    for step in steps {
        match step {
            Step::Remove(name) => lines.retain(|line| !line.1.eq_ignore_ascii_case(name)),
            Step::Rename(from, to) if !from.eq_ignore_ascii_case(to) => {
                lines.retain(|line| !line.1.eq_ignore_ascii_case(to));
                for (part, name, _) in &mut lines {
                    if name.eq_ignore_ascii_case(from) {
                        name.clone_from(to);
                        *part = part.clone().max(Part::Renamed);
                    }
                }
            }
            Step::Rename(..) => {}
            Step::Set(name, written) => {
                lines.retain(|line| !line.1.eq_ignore_ascii_case(name));
                lines.push(added(name, written));
            }
            Step::Add(name, written) => lines.push(added(name, written)),
        }
    }
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    let lines = lines.into_iter().filter(|(_, _, value)| !value.is_empty());
    let lines = lines.map(|(_, name, value)| format!("{name}{value}\r\n"));
    format!("{first}\r\n{}\r\n", lines.collect::<String>())
}

/// The compiled edits, and the names by which heads are to be read for them. `others` are wanted as
/// well, by somebody else.
fn compile(steps: &[Step], others: &[String]) -> (Edits, Arc<FieldInterest>) {
    let mut wishes = Wishes::default();
    for step in steps {
        match step {
            Step::Remove(name) => wishes.remove(name),
            Step::Rename(from, to) => wishes.rename(from, to),
            Step::Set(name, value) => wishes.set(name, template(value)),
            Step::Add(name, value) => wishes.add(name, template(value)),
        }
    }
    let mut edits = wishes.compile();
    let others: Vec<_> = others.iter().map(|name| name.to_ascii_lowercase()).collect();
    let others = others.iter().map(String::as_bytes);
    let interest = Arc::new(FieldInterest::new(edits.names().chain(others)));
    edits.read_by(&interest, Introduction::default());
    (edits, interest)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("all that went in was text")
}

fn view<'a>(head: &'a RequestHead, text: &'a str) -> RequestView<'a> {
    RequestView {
        head,
        text: text.as_bytes(),
        client: [192, 0, 2, 1].into(),
        client_text: "192.0.2.1",
        is_trusted: false,
        tls: None,
        now_us: 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_is_edited_as_its_steps_say(
        steps in vec(step(), 0..8),
        others in vec(name(), 0..4),
        fields in fields(),
        (is_trusted, is_old, is_host_set, is_kept) in any::<(bool, bool, bool, bool)>(),
    ) {
        let version = if is_old { "1.0" } else { "1.1" };
        let sent = format!("GET /x HTTP/{version}\r\nHost: h\r\n{fields}\r\n");
        let (edits, interest) = compile(&steps, &others);
        let mut head = RequestHead::new();
        head.want(Some(interest));
        let parsed = head.parse(sent.as_bytes(), &LIMITS);
        prop_assume!(parsed == Ok(true));
        if is_kept {
            // Known from before.
            prop_assert_eq!(head.parse(sent.as_bytes(), &LIMITS), Ok(true));
        }
        let client = ClientText::new([192, 0, 2, 1].into(), Scheme::Http, Introduction::default());
        let nobody = Networks::default();
        let how = RequestRewrite {
            base: b"",
            path: head.path(sent.as_bytes()),
            host: if is_host_set { HostRule::Set(b"o:1") } else { HostRule::Pass },
            via: Some(b"ringway"),
            cdn_loop: None,
            length: None,
            passes_trailers: false,
            is_last: false,
            forwarded: Some(ForwardedFor {
                trust: is_trusted.then_some(&nobody as &dyn Trust),
                ..ForwardedFor::of(&client)
            }),
            extra: b"",
        };
        let (view, state) = (view(&head, &sent), HookState::default());
        let mut plain = Vec::new();
        rewrite::request(&mut plain, &head, sent.as_bytes(), &how);
        let expected = account(&text(plain.clone()), &steps, &format!("Host: h\r\n{fields}"));
        edits.apply(&mut plain, 0, "r", &view, &state);
        prop_assert_eq!(text(plain), expected.as_str());
        if let Some(mut pen) = edits.pen(&head.fields, "r", &view, &state) {
            let mut out = b"before\r\n".to_vec();
            rewrite::request_edited(&mut out, &head, sent.as_bytes(), &how, &mut pen);
            prop_assert_eq!(text(out.split_off(8)), expected);
        }
        // A head that was not read by these names is left to the walk, unless all is noted anyway.
        let mut other = RequestHead::new();
        prop_assert_eq!(other.parse(sent.as_bytes(), &LIMITS), Ok(true));
        let none = FieldInterest::new([]);
        let is_needed = edits.names().any(|name| none.class(name) == FieldName::Other);
        let pen = edits.pen(&other.fields, "r", &view, &state);
        prop_assert_eq!(pen.is_some(), !is_needed);
    }

    #[test]
    fn an_answer_is_edited_as_its_steps_say(
        steps in vec(step(), 0..8),
        fields in fields(),
        body in select(&[BodyOut::AsIs, BodyOut::Empty][..]),
    ) {
        let got = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 3\r\n\r\n");
        let (edits, interest) = compile(&steps, &[]);
        let mut head = ResponseHead::new();
        head.want(Some(interest));
        prop_assume!(head.parse(got.as_bytes(), &LIMITS, Method::Get) == Ok(true));
        let how = ResponseRewrite {
            seen: None,
            body,
            connection: ConnectionOut::Close,
            date: b"Sun, 06 Nov 1994 08:49:37 GMT",
            via: Some(b"ringway"),
        };
        let asked = "GET / HTTP/1.1\r\nHost: h\r\nX-A: q\r\n\r\n";
        let mut request = RequestHead::new();
        prop_assert_eq!(request.parse(asked.as_bytes(), &LIMITS), Ok(true));
        let (view, state) = (view(&request, asked), HookState::default());
        let mut plain = Vec::new();
        rewrite::response(&mut plain, &head, got.as_bytes(), &how);
        let expected = account(&text(plain.clone()), &steps, "X-A: q\r\n");
        edits.apply(&mut plain, 0, "r", &view, &state);
        prop_assert_eq!(text(plain), expected.as_str());
        if let Some(mut pen) = edits.pen(&head.fields, "r", &view, &state) {
            let mut out = Vec::new();
            rewrite::response_edited(&mut out, &head, got.as_bytes(), &how, &mut pen);
            prop_assert_eq!(text(out), expected);
        }
    }
}
