//! What holds for every request, however hostile, and for every hook that takes something from it.
//!
//! Comes in: a plan that puts every variable into every place where one may stand, and requests
//! whose values are random bytes, which even the parser would not have let in. Goes out: heads with
//! the lines that the plan wants and no other, and targets of visible ASCII.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::auth_request::AuthDecision;
use super::request_view::tests::LIMITS;
use super::tests::plans;
use super::*;
use crate::http::Method;
use crate::http::head::{RequestHead, ResponseHead};

/// Every variable that is known before an upstream is.
const EARLY: &str = "${client_ip}-${host}-${path}-${query}-${target}-${method}-${request_id}-\
                     ${route}-${header.x-evil}-${cookie.c}";

/// As long as each value may be: it takes the place of as many of these.
const ROOM: usize = 24;

/// A request with room for hostile values, which parses as it stands.
fn harmless(method: &str) -> String {
    let room = "a".repeat(ROOM);
    format!(
        "{method} /p/{room}?q={room} HTTP/1.1\r\nHost: {room}\r\nX-Evil: {room}\r\n\
         X-Request-Id: {room}\r\nOrigin: {room}\r\nCookie: c={room}; cohort={room}\r\n\
         Authorization: {room}\r\nAccess-Control-Request-Method: {room}\r\n\
         Access-Control-Request-Headers: {room}\r\n\r\n"
    )
}

/// Where the room is.
fn rooms(text: &str) -> Vec<Range<usize>> {
    let room = "a".repeat(ROOM);
    text.match_indices(&room).map(|(start, _)| start..start + ROOM).collect()
}

/// Bytes that end something, more often than others.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => select(&b"\r\n\0 \t/?#%:;.@\\\"<>&=,\x7f\x80\xff"[..]).prop_map(|byte| vec![byte]),
        2 => select(&["\r\nX-Bad: 1\r\n", "\r\n\r\n", "%0d%0a", "../", "//", "HTTP/1.1"][..])
            .prop_map(|text| text.as_bytes().to_vec()),
        2 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => "[a-z]{1,6}".prop_map(String::into_bytes),
    ];
    vec(piece, ROOM).prop_map(|pieces| pieces.concat()[..ROOM].to_vec())
}

/// The request with `values` in its rooms, and the head that it had before.
fn request(method: &str, values: &[Vec<u8>]) -> (RequestHead, Vec<u8>) {
    let text = harmless(method);
    let mut head = RequestHead::new();
    assert_eq!(head.parse(text.as_bytes(), &LIMITS), Ok(true));
    let mut bytes = text.clone().into_bytes();
    let rooms = rooms(&text);
    assert_eq!(rooms.len(), values.len());
    for (room, value) in rooms.into_iter().zip(values) {
        bytes[room].copy_from_slice(value);
    }
    (head, bytes)
}

const ROOMS: usize = 11;

fn with_hostile_facts<T>(
    method: &str,
    values: &[Vec<u8>],
    check: impl FnOnce(&RequestView<'_>) -> T,
) -> T {
    let (head, text) = request(method, values);
    check(&RequestView {
        head: &head,
        text: &text,
        client: [192, 0, 2, 1].into(),
        client_text: "192.0.2.1",
        is_trusted: true,
        tls: None,
        now_us: 1_000_000,
    })
}

/// The names of a head's fields, if it is one head whose lines nothing ends early.
fn names(head: &[u8]) -> Result<Vec<String>, TestCaseError> {
    let text = head.strip_suffix(b"\r\n\r\n");
    let Some(text) = text else { return Err(TestCaseError::fail("no end")) };
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        rest = &rest[end + 2..];
        let line = &rest[..memchr::memmem::find(rest, b"\r\n").unwrap_or(rest.len())];
        let colon = memchr::memchr(b':', line).ok_or_else(|| TestCaseError::fail("no name"))?;
        let (name, value) = line.split_at(colon);
        prop_assert!(name.iter().all(u8::is_ascii_graphic), "{}", line.escape_ascii());
        let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
        prop_assert!(value.iter().all(is_text), "{}", line.escape_ascii());
        names.push(String::from_utf8_lossy(name).into_owned());
    }
    Ok(names)
}

fn check_lines(lines: &[u8], allowed: &[&str]) -> Result<(), TestCaseError> {
    let head = [b"HTTP/1.1 200 OK\r\n", lines, b"\r\n"].concat();
    for name in names(&head)? {
        prop_assert!(allowed.contains(&name.as_str()), "{name} in {}", lines.escape_ascii());
    }
    Ok(())
}

fn check_target(target: &[u8]) -> Result<(), TestCaseError> {
    prop_assert!(target.iter().all(u8::is_ascii_graphic), "{}", target.escape_ascii());
    prop_assert!(!target.contains(&b'#'), "{}", target.escape_ascii());
    Ok(())
}

/// What a plan with every hook makes of a request: its answer's lines, or both edited heads.
fn check_plan(hooked: &Hooked, view: &RequestView<'_>) -> Result<(), TestCaseError> {
    let mut state = HookState::default();
    if let Some(answer) = hooked.enter(view, &mut state) {
        let allowed = ["Location", "Vary", "Access-Control-Allow-Headers"];
        let rendered = ["Access-Control-Allow-Methods", "Access-Control-Max-Age"];
        check_lines(&answer.fields, &[&allowed[..], &rendered].concat())?;
        if let Some(location) = answer.fields.strip_prefix(b"Location: ") {
            check_target(location.strip_suffix(b"\r\n").expect("one line"))?;
        }
    }
    if let Choice::Respond(answer) = hooked.choose(view.path_and_query(), view, &mut state) {
        check_lines(&answer.fields, &[])?;
    }
    if let Some(target) = &state.target {
        check_target(target)?;
        prop_assert!(target.starts_with(b"/") && !target.starts_with(b"//"));
    }
    let request = ["Host", "X-Request-Id", "X-All", "X-More", "X-User"];
    let response = ["Vary", "X-Request-Id", "Set-Cookie", "X-All", "X-More"];
    let cors = ["Access-Control-Allow-Origin", "Access-Control-Expose-Headers"];
    let mut out = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
    hooked.edit_request(&mut out, 0, view, &state);
    for name in names(&out)? {
        prop_assert!(request.contains(&name.as_str()), "{name}");
    }
    state.status = 200;
    let mut back = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    hooked.edit_response(&mut back, 0, view, &state);
    for name in names(&back)? {
        prop_assert!([&response[..], &cors].concat().contains(&name.as_str()), "{name}");
    }
    Ok(())
}

/// Every place of a template, and every other hook that repeats something of a request.
fn every_plan() -> Plans {
    let edits = |more: &str| {
        format!("set = {{ X-All = \"{EARLY}{more}\" }}, add = {{ X-More = \"{EARLY}{more}\" }}")
    };
    let everywhere = format!(
        "request_id = {{ trust = \"everybody\" }}, \
         split = {{ weights = {{ a = 1, b = 1 }}, sticky = \"cookie:cohort\" }}, \
         forward_auth = {{ upstream = \"b\", response_headers = [\"X-User\"], \
         request_headers = [\"Cookie\", \"Authorization\", \"X-Evil\"] }}, \
         request_headers = {{ {} }}, response_headers = {{ {} }}",
        edits("-${upstream}"),
        edits("-${upstream}-${status}")
    );
    let further = [
        format!("rewrite = {{ regex = \"^/p/(.*)$\", replacement = \"/x/$1-{EARLY}/y\" }}"),
        format!("rewrite = {{ regex = \"(.)\", replacement = \"/x?y={EARLY}$1\" }}"),
        "rewrite = { prefix = \"/\" }".to_owned(),
        "rewrite = { prefix = \"/v2\" }".to_owned(),
        format!("redirect = {{ to = \"https://a.example/{EARLY}\" }}"),
        "redirect = { to = \"https://${host}${target}\" }".to_owned(),
        "redirect = { to = \"${path}\" }".to_owned(),
        "redirect = { to = \"${target}\" }".to_owned(),
        "cors = { expose = [\"X-All\"] }".to_owned(),
        "cors = { origins = [\"http://a\"], expose = [\"X-All\"] }".to_owned(),
    ];
    let routes: Vec<_> = further
        .iter()
        .enumerate()
        .map(|(index, hooks)| {
            format!(
                "[[route]]\nhost = \"h{index}\"\nupstream = \"a\"\n\
                 hooks = {{ {everywhere}, {hooks} }}\n"
            )
        })
        .collect();
    plans(&routes.concat())
}

proptest! {
    // A failure is kept as a test with a name, not as a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_value_of_a_request_ends_a_line_or_a_target(
        values in vec(value(), ROOMS),
        is_preflight: bool,
    ) {
        let method = if is_preflight { "OPTIONS" } else { "GET" };
        thread_local!(static PLANS: Plans = every_plan());
        PLANS.with(|plans| with_hostile_facts(method, &values, |view| {
            for plan in plans.all() {
                let Plan::Hooked(hooked) = plan else { panic!("a plan without hooks") };
                check_plan(hooked, view)?;
                let auth_request = hooked.auth_request.as_ref().expect("a question");
                let mut asked = Vec::new();
                auth_request.put(("", b"b"), view, &mut asked);
                let quoted = ["cookie", "authorization", "x-evil"];
                for name in names(&asked)? {
                    let is_ours = name == "Host" || name.starts_with("X-Forwarded-");
                    prop_assert!(is_ours || quoted.contains(&name.as_str()), "{name}");
                }
            }
            Ok(())
        }))?;
    }

    #[test]
    fn no_answer_to_a_question_ends_a_line(values in vec(value(), 3)) {
        thread_local!(static PLANS: Plans = every_plan());
        let room = "a".repeat(ROOM);
        let text = format!(
            "HTTP/1.1 200 OK\r\nX-User: {room}\r\nLocation: {room}\r\nSet-Cookie: {room}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let mut bytes = text.clone().into_bytes();
        let mut head = ResponseHead::new();
        prop_assert_eq!(head.parse(&bytes, &LIMITS, Method::Get), Ok(true));
        for (room, value) in rooms(&text).into_iter().zip(&values) {
            bytes[room].copy_from_slice(value);
        }
        PLANS.with(|plans| {
            let hooked = plans.hooked(0).expect("a plan with hooks");
            let auth_request = hooked.auth_request.as_ref().expect("a question");
            match auth_request.judge(&head, &bytes) {
                AuthDecision::Granted(lines) => {
                    check_lines(&lines, &["X-User"])?;
                    let state = HookState { granted: lines, ..HookState::default() };
                    with_hostile_facts("GET", &vec![vec![b'a'; ROOM]; ROOMS], |view| {
                        let mut out = b"GET / HTTP/1.1\r\n\r\n".to_vec();
                        hooked.edit_request(&mut out, 0, view, &state);
                        names(&out).map(drop)
                    })?;
                }
                judged => panic!("{judged:?}"),
            }
            head.status = 302;
            match auth_request.judge(&head, &bytes) {
                AuthDecision::Denied(answer) => {
                    check_lines(&answer.fields, &["Location", "Set-Cookie"])
                }
                judged => panic!("{judged:?}"),
            }
        })?;
    }
}
