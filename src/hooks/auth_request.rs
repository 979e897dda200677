//! A question to an upstream before a request may go on: forward authentication.
//!
//! In: the facts of a request; out: the head of the question, which has no body. In again: the head
//! of its answer; out: whether the request goes on, with which fields for the origin, or what the
//! client is told instead. Nothing is sent here. A body of the answer is never passed on.

use std::borrow::Cow;

use super::edits::{Own, Wishes};
use super::request_view::{RequestView, put_field};
use super::responses::LocalResponse;
use crate::config::{ForwardAuthConfig, OnFailure, PathMatch};
use crate::http::forwarded_header::scheme_said;
use crate::http::head::ResponseHead;
use crate::http::names::{FieldName, trim};
use crate::http::path::{is_plain, normal_target};

/// What is asked, and whom.
#[derive(Clone, Debug)]
pub struct AuthRequest {
    config: ForwardAuthConfig,
    /// In lower case.
    quoted: Box<[Box<str>]>,
    /// Names of fields for the origin, as they are sent and in lower case.
    granted: Box<[(Box<str>, Box<str>)]>,
    /// By what a route is found, it is asked about.
    path_match: PathMatch,
}

/// What the answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthDecision {
    /// The request goes on, with these field lines for the origin.
    Granted(Vec<u8>),
    Denied(LocalResponse<'static>),
    /// It could not be answered.
    Failed,
}

/// What a denial tells the client beside its status.
const PASSED_ON: [&str; 4] = ["WWW-Authenticate", "Location", "Set-Cookie", "Retry-After"];

impl AuthRequest {
    pub(crate) fn new(config: &ForwardAuthConfig, path_match: PathMatch) -> Self {
        let granted = config.response_headers.iter();
        Self {
            path_match,
            config: config.clone(),
            quoted: config
                .request_headers
                .iter()
                .map(|it| it.to_ascii_lowercase().into())
                .collect(),
            granted: granted
                .map(|it| (it.as_str().into(), it.to_ascii_lowercase().into()))
                .collect(),
        }
    }

    /// Index in `Config::upstreams`.
    pub fn upstream(&self) -> usize {
        self.config.upstream
    }

    pub fn timeout(&self) -> std::time::Duration {
        self.config.timeout
    }

    /// The fields that an answer grants take the place of the client's, whatever the answer.
    pub(crate) fn edit(&self, wishes: &mut Wishes) {
        for (name, lower) in &self.granted {
            wishes.remove(name);
            wishes.add_own(name, Own::Granted(lower.as_bytes().into()));
        }
    }

    /// Appends the question's head. `host` is that of the upstream.
    pub fn put(&self, (base, host): (&str, &[u8]), view: &RequestView<'_>, out: &mut Vec<u8>) {
        let head = view.head;
        let target = view.path_and_query();
        // What the question is about must be what the origin will take the path for.
        let target = match self.path_match {
            PathMatch::Normal if !is_plain(target) => Cow::Owned(normal_target(target)),
            PathMatch::Normal | PathMatch::Raw => Cow::Borrowed(target),
        };
        let mut field = |name: &str, value: &[u8]| {
            out.extend_from_slice(name.as_bytes());
            put_field(value, out);
            out.extend_from_slice(b"\r\n");
        };
        field(&format!("GET {base}{} HTTP/1.1\r\nHost: ", self.config.path), host);
        field("X-Forwarded-Method: ", head.method_text.of(view.text));
        field("X-Forwarded-Host: ", head.authority.of(view.text));
        field("X-Forwarded-Uri: ", &target);
        field("X-Forwarded-For: ", view.client_text.as_bytes());
        let proto = if view.is_trusted { scheme_said(head, view.text) } else { Some(&b"http"[..]) };
        if let Some(proto) = proto {
            field("X-Forwarded-Proto: ", proto);
        }
        for name in &self.quoted {
            // What is about this connection, or was said above, is not the client's to say.
            let known = FieldName::of(name.as_bytes());
            if matches!(known, FieldName::Other | FieldName::Authorization)
                || known.is_claim() && view.is_trusted
            {
                for value in head.fields.values(view.text, name.as_bytes()) {
                    field(&format!("{name}: "), value);
                }
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    /// `buf` is the buffer that `head`, a final answer's, was read from.
    pub fn judge(&self, head: &ResponseHead, buf: &[u8]) -> AuthDecision {
        let mut fields = Vec::new();
        let mut copy = |name: &str, lower: &str| {
            for value in head.fields.values(buf, lower.as_bytes()) {
                fields.extend_from_slice(name.as_bytes());
                fields.extend_from_slice(b": ");
                put_field(value, &mut fields);
                fields.extend_from_slice(b"\r\n");
            }
        };
        match head.status {
            200..300 => {
                for (name, lower) in &self.granted {
                    copy(name, lower);
                }
                AuthDecision::Granted(fields)
            }
            // These say something of the question itself, and a 304 would make a client use what it
            // must not see any more.
            304 | 407 | 408 => AuthDecision::Failed,
            300..500 => {
                for name in PASSED_ON {
                    copy(name, &name.to_ascii_lowercase());
                }
                AuthDecision::Denied(LocalResponse::plain(head.status, fields))
            }
            _ => AuthDecision::Failed,
        }
    }

    /// Who the client is, as these lines that were granted say.
    pub(crate) fn user<'l>(&self, granted: &'l [u8]) -> Option<&'l [u8]> {
        let name = self.config.user_header.as_bytes();
        granted.split(|byte| *byte == b'\n').find_map(|line| {
            let (start, rest) = line.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":")?;
            let is_it = !name.is_empty() && start.eq_ignore_ascii_case(name);
            is_it.then(|| trim(value.strip_suffix(b"\r").unwrap_or(value)))
        })
    }

    /// What becomes of the request when the upstream fails: `None` lets it go on.
    pub fn failed(&self) -> Option<LocalResponse<'static>> {
        match self.config.on_failure {
            OnFailure::Open => None,
            OnFailure::Closed => Some(LocalResponse::plain(503, b"Retry-After: 1\r\n".to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::request_view::HookState;
    use super::super::request_view::tests::with_facts;
    use super::*;
    use crate::http::Method;
    use crate::http::head::HeadLimits;

    fn auth_request(on_failure: OnFailure) -> AuthRequest {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        let config = ForwardAuthConfig {
            upstream: 3,
            path: "/verify".to_owned(),
            request_headers: list(&["Cookie", "Authorization", "Connection", "X-Forwarded-For"]),
            response_headers: list(&["X-User"]),
            user_header: "X-User".to_owned(),
            timeout: Duration::from_secs(1),
            on_failure,
        };
        AuthRequest::new(&config, PathMatch::Normal)
    }

    #[test]
    fn a_question_is_about_the_normal_form_of_the_path() {
        let text = "GET /open/../%61dmin//x?y=%61/.. HTTP/1.1\r\nHost: a\r\n\r\n";
        with_facts(text, |view| {
            let mut out = Vec::new();
            auth_request(OnFailure::Closed).put(("", b"auth:9"), view, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains("\r\nX-Forwarded-Uri: /admin/x?y=%61/..\r\n"), "{text}");
        });
    }

    #[test]
    fn a_question_quotes_the_request_and_no_more() {
        let text = "POST http://app.example/a?b=c HTTP/1.1\r\nHost: app.example\r\nCookie: x=1\r\n\
                    Connection: close\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
                    X-Secret: s\r\nContent-Length: 5\r\n\r\n";
        with_facts(text, |view| {
            let mut out = Vec::new();
            auth_request(OnFailure::Closed).put(("", b"auth:9"), view, &mut out);
            assert_eq!(
                String::from_utf8(out).unwrap(),
                "GET /verify HTTP/1.1\r\nHost: auth:9\r\nX-Forwarded-Method: POST\r\n\
                 X-Forwarded-Host: app.example\r\nX-Forwarded-Uri: /a?b=c\r\n\
                 X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\ncookie: x=1\r\n\r\n"
            );
        });
    }

    fn judged(text: &str) -> AuthDecision {
        let limits = HeadLimits { head_bytes: 4096, target_bytes: 100, header_count: 50 };
        let mut head = ResponseHead::new();
        assert_eq!(head.parse(text.as_bytes(), &limits, Method::Get), Ok(true));
        auth_request(OnFailure::Closed).judge(&head, text.as_bytes())
    }

    #[test]
    fn the_answer_decides() {
        let ok = "HTTP/1.1 200 OK\r\nX-User: bob\r\nX-Other: x\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(judged(ok), AuthDecision::Granted(b"X-User: bob\r\n".to_vec()));
        let login = "HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=1\r\nX-User: eve\r\n\
                     Set-Cookie: b=2\r\nContent-Length: 5\r\n\r\n";
        let AuthDecision::Denied(answer) = judged(login) else { panic!() };
        let fields = b"Location: /login\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n";
        assert_eq!((answer.status.code, &*answer.fields), (302, &fields[..]));
        for status in [304, 407, 408, 500, 503, 599] {
            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(judged(&text), AuthDecision::Failed, "{status}");
        }
    }

    #[test]
    fn a_failure_closes_or_opens_as_configured() {
        assert_eq!(auth_request(OnFailure::Closed).failed().unwrap().status.code, 503);
        assert_eq!(auth_request(OnFailure::Open).failed(), None);
    }

    #[test]
    fn a_client_cannot_grant_itself_anything() {
        let mut wishes = Wishes::default();
        auth_request(OnFailure::Open).edit(&mut wishes);
        let edits = wishes.compile();
        for granted in [&b""[..], b"X-User: bob\r\n"] {
            let state = HookState { granted: granted.to_vec(), ..HookState::default() };
            with_facts("GET / HTTP/1.1\r\nHost: a\r\n\r\n", |view| {
                let mut out = b"GET / HTTP/1.1\r\nx-USER: eve\r\n\r\n".to_vec();
                edits.apply(&mut out, 0, "r", view, &state);
                let expected = [b"GET / HTTP/1.1\r\n", granted, b"\r\n"].concat();
                assert_eq!(out, expected);
            });
        }
    }

    #[test]
    fn the_user_is_whom_the_answer_names() {
        let question = auth_request(OnFailure::Closed);
        let granted = b"X-Users: no\r\nx-user: ann \r\n";
        assert_eq!(question.user(granted), Some(&b"ann"[..]));
        assert_eq!(question.user(b"X-Other: ann\r\n"), None);
    }
}
