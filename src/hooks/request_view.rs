//! What is known of a request while hooks run, and what they leave behind for one another.
//!
//! In: the request's head and who sent it, borrowed; out: the values of variables, as bytes in the
//! caller's buffer. What a variable gives comes from the network: the code that puts it somewhere
//! says where (`Context`), and bytes that could end a line, a target or a host there never arrive.
//! No clock is read here.

use std::sync::Arc;

use super::changes::Changes;
use super::clients::ClientPermit;
use super::rate::Standing;
use crate::address::ClientAddress;
use crate::config::hooks::{Part, Template, Variable};
use crate::forward_proxy::UserId;
use crate::http::head::RequestHead;
use crate::http::names::{cookies, is_text, trim};
use crate::http::path::percent;
use crate::tls::facts::TlsFacts;

/// A request, as its hooks see it.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    pub head: &'a RequestHead,
    /// The buffer that `head` was read from.
    pub text: &'a [u8],
    pub client: ClientAddress,
    /// The same as text, without a port or brackets.
    pub client_text: &'a str,
    /// Whether the client is one of `server.trusted_proxies`.
    pub is_trusted: bool,
    /// Of the client's session, where its connection has TLS.
    pub tls: Option<&'a TlsFacts>,
    /// The precise clock, read once for all hooks.
    pub now_us: u64,
}

/// What the hooks of one request know of each other. Lives as long as the exchange.
#[derive(Default)]
pub struct HookState {
    pub(crate) id: RequestId,
    /// The name of the upstream that was chosen.
    pub(crate) upstream: Option<Arc<str>>,
    /// Of the answer; 0 while there is none.
    pub status: u16,
    /// The target to send, where a hook changed it.
    pub target: Option<Vec<u8>>,
    /// What the rate limits of the two layers had to say.
    pub(crate) standings: [Option<Standing>; 2],
    /// Who has logged in at the route.
    pub(crate) user: Option<UserId>,
    /// Field lines that the answer to a question brought for the origin.
    pub(crate) granted: Vec<u8>,
    /// The value of a new cohort's cookie.
    pub(crate) cohort: Option<[u8; 32]>,
    /// The client's places under its caps, until the end of the exchange takes them.
    pub(crate) permits: [Option<ClientPermit>; 2],
    /// What custom hooks want of the request's head, and of the answer's.
    pub request_changes: Changes,
    pub response_changes: Changes,
}

/// Where a value is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Context {
    /// A field value: no control bytes, no white space around it.
    Field,
    /// A request-target or a URI: visible ASCII, and nothing that a reader might take for an end.
    Target,
}

/// The longest request id that is kept, or made.
pub(crate) const ID_BYTES_MAX: usize = 64;

#[derive(Clone, Copy)]
pub(crate) struct RequestId {
    text: [u8; ID_BYTES_MAX],
    length: u8,
}

impl Default for RequestId {
    fn default() -> Self {
        Self { text: [0; ID_BYTES_MAX], length: 0 }
    }
}

impl<'a> RequestView<'a> {
    pub fn path_and_query(&self) -> &'a [u8] {
        self.head.path(self.text)
    }

    pub fn path(&self) -> &'a [u8] {
        let target = self.path_and_query();
        &target[..query_start(target)]
    }

    /// Without its question mark.
    pub fn query(&self) -> &'a [u8] {
        let target = self.path_and_query();
        target.get(query_start(target) + 1..).unwrap_or_default()
    }

    /// Without a port.
    pub fn host(&self) -> &'a [u8] {
        let authority = self.head.authority.of(self.text);
        // From the back: mostly there is no port, and a name or a bracket ends in no digit.
        let digits = authority.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        match authority.split_at(authority.len() - digits) {
            ([host @ .., b':'], _) => host,
            _ => authority,
        }
    }

    /// The first field called `name`, which is in lower case.
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        let lines = self.head.fields.lines.of(self.text);
        lines.split(|byte| *byte == b'\n').find_map(|line| {
            let (start, rest) = line.split_at_checked(name.len())?;
            let value = rest.strip_prefix(b":")?;
            let value = value.strip_suffix(b"\r").unwrap_or(value);
            start.eq_ignore_ascii_case(name.as_bytes()).then(|| trim(value))
        })
    }

    /// The first cookie called `name`.
    pub fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        cookies(self.field("cookie")?, name.as_bytes()).next()
    }
}

impl HookState {
    pub fn id(&self) -> &[u8] {
        &self.id.text[..usize::from(self.id.length)]
    }

    /// Keeps the id that a client gave, if it is one that every log can show.
    pub(crate) fn adopt_id(&mut self, id: &[u8]) -> bool {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(byte);
        let is_fit = (1..=ID_BYTES_MAX).contains(&id.len()) && id.iter().all(is_plain);
        if is_fit {
            self.id.text[..id.len()].copy_from_slice(id);
            self.id.length = id.len() as u8;
        }
        is_fit
    }

    /// Appends what `template` comes to. False, and `out` as it was, where that would be longer
    /// than `VALUE_BYTES_MAX`.
    pub(crate) fn expand(
        &self,
        template: &Template,
        context: Context,
        route: &str,
        view: &RequestView<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let start = out.len();
        for part in &template.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => self.put(variable, context, route, view, out),
            }
            if out.len() - start > VALUE_BYTES_MAX {
                out.truncate(start);
                return false;
            }
        }
        true
    }

    pub(crate) fn put(
        &self,
        variable: &Variable,
        context: Context,
        route: &str,
        view: &RequestView<'_>,
        out: &mut Vec<u8>,
    ) {
        let mut digits = [0; 3];
        let (value, kind) = self.value(variable, route, view, &mut digits);
        match context {
            Context::Field => put_field(value, out),
            Context::Target => put_target(value, kind, out),
        }
    }

    /// Appends a field line whose value is that of one variable. `name` has its colon and the space
    /// behind it. False, and nothing, where the value is not as it should be in every respect.
    #[inline]
    pub(crate) fn put_line(
        &self,
        name: &[u8],
        variable: &Variable,
        route: &str,
        view: &RequestView<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut digits = [0; 3];
        let (value, _) = self.value(variable, route, view, &mut digits);
        let ends_well = value.last().is_some_and(|last| !matches!(last, b' ' | b'\t'));
        // The client's address is text of our own.
        let is_clean = matches!(variable, Variable::ClientIp) || has_no_control(value);
        if !ends_well || value.len() > VALUE_BYTES_MAX || !is_clean {
            return false;
        }
        out.reserve(name.len() + value.len() + 2);
        out.extend_from_slice(name);
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
        true
    }

    /// The value of `variable`; that of a status is put into `digits`.
    #[inline]
    fn value<'v>(
        &'v self,
        variable: &Variable,
        route: &'v str,
        view: &RequestView<'v>,
        digits: &'v mut [u8; 3],
    ) -> (&'v [u8], Kind) {
        match variable {
            Variable::ClientIp => (view.client_text.as_bytes(), Kind::Host),
            Variable::Host => (view.host(), Kind::Host),
            Variable::Path => (view.path(), Kind::Path),
            Variable::Query => (view.query(), Kind::Path),
            Variable::Target => (view.path_and_query(), Kind::Path),
            Variable::Method => (view.head.method_text.of(view.text), Kind::Other),
            Variable::RequestId => (self.id(), Kind::Other),
            Variable::Route => (route.as_bytes(), Kind::Other),
            Variable::Upstream => {
                (self.upstream.as_deref().unwrap_or_default().as_bytes(), Kind::Other)
            }
            Variable::Status => (decimal(self.status, digits), Kind::Other),
            Variable::Header(name) => (view.field(name).unwrap_or_default(), Kind::Other),
            Variable::Cookie(name) => (view.cookie(name).unwrap_or_default(), Kind::Other),
            Variable::Tls(fact) => {
                (view.tls.map_or(&[], |facts| facts.text(*fact).as_bytes()), Kind::Other)
            }
            // Groups are the business of the rewrite that has the pattern.
            Variable::Capture(_) => (&[][..], Kind::Other),
        }
    }
}

/// What a variable's bytes were before, which says how much of them may stay in a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Part of a target already: what is encoded stays as it is.
    Path,
    /// An address or a validated host.
    Host,
    /// Anything: it becomes one part of a segment.
    Other,
}

/// Longer values are left out, with their field: half a value says something else.
pub(crate) const VALUE_BYTES_MAX: usize = 8 * 1024;

/// Appends `value` without the bytes that no field value has.
pub(crate) fn put_field(value: &[u8], out: &mut Vec<u8>) {
    // Nearly every value is clean, and then one run over it is all.
    if has_no_control(value) {
        out.extend_from_slice(value);
    } else {
        out.extend(value.iter().filter(|byte| is_text(**byte)));
    }
}

/// Whether there is no byte below a space and no DEL; eight bytes at a time, the last eight twice
/// where they do not come out even.
fn has_no_control(value: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let Some(last) = value.last_chunk() else {
        return !value.iter().any(u8::is_ascii_control);
    };
    let (words, _) = value.as_chunks();
    let wrong = words.iter().chain([last]).fold(0, |wrong, word| {
        let word = u64::from_ne_bytes(*word);
        // The high bits of bytes that are below what is taken from them; others only where one
        // before them is.
        let below = word.wrapping_sub(ONES * u64::from(b' ')) & !word;
        let del = word ^ (ONES * 0x7f);
        wrong | below | del.wrapping_sub(ONES) & !del
    });
    wrong & (ONES << 7) == 0
}

/// Appends `value`, percent-encoded as far as `kind` needs it.
pub(crate) fn put_target(value: &[u8], kind: Kind, out: &mut Vec<u8>) {
    let is_kept = |byte: u8| match kind {
        Kind::Path => byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte),
        Kind::Host => byte.is_ascii_alphanumeric() || b"-._~[]:!$&'()*+;=".contains(&byte),
        Kind::Other => byte.is_ascii_alphanumeric() || b"-._~".contains(&byte),
    };
    for &byte in value {
        if is_kept(byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&percent(byte));
        }
    }
}

/// Where the question mark of a target stands, or its end.
pub(crate) fn query_start(target: &[u8]) -> usize {
    memchr::memchr(b'?', target).unwrap_or(target.len())
}

fn decimal(number: u16, digits: &mut [u8; 3]) -> &[u8] {
    if number < 100 {
        return &[];
    }
    *digits = [number / 100, number / 10 % 10, number % 10].map(|digit| b'0' + (digit % 10) as u8);
    digits
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::hooks::Scope;
    use crate::http::head::HeadLimits;

    pub(crate) const LIMITS: HeadLimits =
        HeadLimits { head_bytes: 1 << 16, target_bytes: 1 << 15, header_count: 256 };

    /// Runs `check` with the facts of a request.
    #[track_caller]
    pub(crate) fn with_facts<T>(text: &str, check: impl FnOnce(&RequestView<'_>) -> T) -> T {
        let mut head = RequestHead::new();
        assert_eq!(head.parse(text.as_bytes(), &LIMITS), Ok(true), "{text:?}");
        check(&RequestView {
            head: &head,
            text: text.as_bytes(),
            client: [192, 0, 2, 1].into(),
            client_text: "192.0.2.1",
            is_trusted: false,
            tls: None,
            now_us: 1_000_000_000,
        })
    }

    const REQUEST: &str = "PUT /a/b%20c?x=1&y HTTP/1.1\r\nHost: Example.org:8080\r\n\
        X-Who: me\u{a0}\tx\r\nCookie: a=1; sid=s=2;b\r\nx-who: you\r\n\r\n";

    #[test]
    fn variables_have_the_values_of_the_request() {
        let table = [
            ("${client_ip}", "192.0.2.1"),
            ("${host}", "Example.org"),
            ("${path}", "/a/b%20c"),
            ("${query}", "x=1&y"),
            ("${target}", "/a/b%20c?x=1&y"),
            ("${method}", "PUT"),
            ("${request_id}", "abc-1"),
            ("${route}", "r"),
            ("${upstream}", "u"),
            ("${status}", "404"),
            ("${header.X-Who}", "me\u{a0}\tx"),
            ("${header.x-none}", ""),
            ("${cookie.sid}", "s=2"),
            ("${cookie.si}", ""),
            ("${cookie.SID}", ""),
            ("a $$ ${method}-${status}", "a $ PUT-404"),
        ];
        let mut state =
            HookState { upstream: Some("u".into()), status: 404, ..HookState::default() };
        assert!(state.adopt_id(b"abc-1"));
        with_facts(REQUEST, |view| {
            for (written, expected) in table {
                let template = Template::parse(written, Scope::Response).unwrap();
                let mut out = Vec::new();
                assert!(state.expand(&template, Context::Field, "r", view, &mut out));
                assert_eq!(String::from_utf8(out).unwrap(), expected, "{written}");
            }
        });
    }

    #[test]
    fn hosts_lose_their_port_only() {
        for (host, expected) in
            [("a", "a"), ("a:80", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")]
        {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            with_facts(&text, |view| assert_eq!(view.host(), expected.as_bytes()));
        }
        with_facts("GET / HTTP/1.0\r\n\r\n", |view| assert_eq!(view.host(), b""));
    }

    #[test]
    fn no_byte_that_ends_something_gets_anywhere() {
        let every: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();
        put_field(&every, &mut out);
        assert!(out.iter().all(|byte| is_text(*byte)));
        assert_eq!(out.len(), 256 - 32);
        for kind in [Kind::Path, Kind::Host, Kind::Other] {
            let mut out = Vec::new();
            put_target(&every, kind, &mut out);
            assert!(out.iter().all(u8::is_ascii_graphic), "{kind:?}");
            for (byte, encoded) in [(b' ', "%20"), (b'\r', "%0D"), (0, "%00"), (255, "%FF")] {
                let mut out = Vec::new();
                put_target(&[byte], kind, &mut out);
                assert_eq!(out, encoded.as_bytes());
            }
        }
        let mut out = Vec::new();
        put_target(b"../x?y#z%2f", Kind::Other, &mut out);
        assert_eq!(out, b"..%2Fx%3Fy%23z%252f");
    }

    #[test]
    fn a_control_byte_is_seen_wherever_it_stands() {
        for length in 0..40 {
            let clean: Vec<u8> = (0..length).map(|at| b" ~\x80\xff!a"[at % 6]).collect();
            assert!(has_no_control(&clean), "{length}");
            for at in 0..length {
                for byte in 0..=255_u8 {
                    let mut value = clean.clone();
                    value[at] = byte;
                    assert_eq!(has_no_control(&value), !byte.is_ascii_control(), "{value:?}");
                }
            }
        }
    }

    #[test]
    fn a_value_that_is_too_long_is_left_out() {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", "b".repeat(5000));
        with_facts(&text, |view| {
            let expand = |written: &str| {
                let template = Template::parse(written, Scope::Request).unwrap();
                let mut out = b"before".to_vec();
                let is_whole =
                    HookState::default().expand(&template, Context::Field, "", view, &mut out);
                (is_whole, out.len())
            };
            assert_eq!(expand("${header.x-a}"), (true, 5006));
            assert_eq!(expand("${header.x-a}${header.x-a}"), (false, 6));
        });
    }

    #[test]
    fn only_ids_that_logs_can_show_are_kept() {
        let table = [
            ("", false),
            ("0af7651916cd43dd8448eb211c80319c", true),
            ("a/b+c=:d", true),
            ("a b", false),
            ("a\"b", false),
            ("<script>", false),
            (&"a".repeat(64), true),
            (&"a".repeat(65), false),
        ];
        for (id, is_kept) in table {
            let mut state = HookState::default();
            assert_eq!(state.adopt_id(id.as_bytes()), is_kept, "{id}");
            assert_eq!(state.id(), if is_kept { id.as_bytes() } else { b"" });
        }
    }
}
