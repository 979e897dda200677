//! Writes the head that is sent on, and the answers that are our own.
//!
//! In come a parsed head, the buffer it lies in and what the exchange decided; out comes a whole
//! head, appended to the caller's buffer. End-to-end fields keep their order and their bytes: the
//! lines between two that must go are copied as one run. What goes are hop-by-hop fields, whatever
//! Connection names, and what is said anew. Nothing is read from anywhere else, and nothing is
//! allocated but the growth of `out`.

use super::edit::{Edit, Unedited};
use super::fields::Fields;
pub use super::forwarded_header::ForwardedFor;
use super::forwarded_header::put;
use super::head::{RequestHead, ResponseHead};
use super::moved::{Moved, MovedEdit};
use super::names::{FieldName, FieldNameSet, elements};
use super::{BodyLength, Span, TargetForm, Version};

/// Fields that concern one connection only (RFC 9110 §7.6.1), or one proxy (§11.7).
const HOP_BY_HOP: FieldNameSet = FieldNameSet::EMPTY
    .with(FieldName::Named)
    .with(FieldName::Connection)
    .with(FieldName::KeepAlive)
    .with(FieldName::PaddedLength)
    .with(FieldName::ProxyAuthenticate)
    .with(FieldName::ProxyAuthorization)
    .with(FieldName::ProxyConnection)
    .with(FieldName::Te)
    // Said anew wherever it applies, in the one spelling that no reader takes for another coding.
    .with(FieldName::TransferEncoding)
    .with(FieldName::Upgrade);

/// Which Host the origin is sent.
#[derive(Clone, Copy, Debug)]
pub enum HostRule<'a> {
    /// The client's, which is empty if an HTTP/1.0 client sent none.
    Pass,
    Set(&'a [u8]),
}

/// How a request is sent on.
#[derive(Clone, Copy, Debug)]
pub struct RequestRewrite<'a> {
    /// The target to send: [`RequestHead::path`] or a part of it.
    pub path: &'a [u8],
    /// What stands before it where the origin's paths begin with something; mostly nothing.
    pub base: &'a [u8],
    pub host: HostRule<'a>,
    /// Our name in Via, if it is to be said.
    pub via: Option<&'a [u8]>,
    /// Our name in CDN-Loop (RFC 8586), if it is to be said.
    pub cdn_loop: Option<&'a [u8]>,
    /// Trailers of the request go on: what is said of them does too.
    pub passes_trailers: bool,
    /// The length of a body that came in chunks and goes on without them.
    pub length: Option<u64>,
    /// Say that no other request follows.
    pub is_last: bool,
    /// `None` leaves it to the client what it says of itself and of those before it.
    pub forwarded: Option<ForwardedFor<'a>>,
    /// Further field lines, each with its CRLF. Must come from us.
    pub extra: &'a [u8],
}

/// Appends the request head to send to the origin.
pub fn request(out: &mut Vec<u8>, head: &RequestHead, buf: &[u8], how: &RequestRewrite) {
    request_edited(out, head, buf, how, &mut Unedited);
}

/// The same with edits.
pub fn request_edited(
    out: &mut Vec<u8>,
    head: &RequestHead,
    buf: &[u8],
    how: &RequestRewrite,
    edit: &mut impl Edit,
) {
    out.reserve(head.bytes + LINES_ADDED_BYTES);
    let mut dropped = HOP_BY_HOP.with(FieldName::Shadow);
    if let Some(forwarded) = &how.forwarded {
        dropped = dropped.and(forwarded.dropped());
    }
    if head.body == BodyLength::Chunked && !how.passes_trailers {
        dropped = dropped.with(FieldName::Trailer);
    }
    if head.max_forwards.is_some() {
        dropped = dropped.with(FieldName::MaxForwards);
    }
    if head.version == Version::Http10 || head.has_empty_expect {
        // To be ignored there (RFC 9110 §10.1.1), but an origin would heed it in HTTP/1.1.
        dropped = dropped.with(FieldName::Expect);
    }

    let host = match how.host {
        HostRule::Pass if head.form == TargetForm::Origin && head.fields.has(FieldName::Host) => {
            None
        }
        HostRule::Pass => Some(named_host(head, buf)),
        HostRule::Set(host) => Some(host),
    };
    match host {
        None if is_line_kept(head, buf, how) => {
            copy_lines(out, buf, head.method_text.start, &head.fields, dropped, edit);
        }
        None => {
            put_request_line(out, head, buf, how);
            copy_lines(out, buf, head.fields.lines.start, &head.fields, dropped, edit);
        }
        Some(host) => {
            put_request_line(out, head, buf, how);
            put(out, [b"Host: ", host, LINE_END]);
            let dropped = dropped.with(FieldName::Host);
            copy_lines(out, buf, head.fields.lines.start, &head.fields, dropped, edit);
        }
    }

    let added = out.len();
    match how.length {
        None => put_framing(out, head.body, &head.fields),
        Some(length) => put_length(out, length),
    }
    if let Some(forwards) = head.max_forwards {
        put(out, [b"Max-Forwards: "]);
        put_decimal(out, forwards.saturating_sub(1));
        put(out, [LINE_END]);
    }
    if head.is_upgrade {
        put_upgrade(out, &head.fields, buf);
    }
    if let Some(forwarded) = &how.forwarded {
        forwarded.put(out, head, buf);
    }
    put_hop(out, head, buf, how);
    out.extend_from_slice(how.extra);
    edit.finish(out, added);
    out.extend_from_slice(LINE_END);
}

/// What is said of us, and of the connection to the origin.
#[expect(clippy::inline_always, reason = "a call costs a twentieth of all that is written")]
#[inline(always)]
fn put_hop(out: &mut Vec<u8>, head: &RequestHead, buf: &[u8], how: &RequestRewrite) {
    if let Some(via) = how.via {
        put_via(out, head.version, via);
    }
    if let Some(name) = how.cdn_loop {
        put(out, [b"CDN-Loop: ", name, LINE_END]);
    }
    if how.is_last && !head.is_upgrade {
        out.extend_from_slice(connection_line(ConnectionOut::Close));
    } else if how.passes_trailers && head.fields.has(FieldName::Te) {
        put_te(out, &head.fields, buf);
    }
}

/// How a response's body goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyOut {
    /// As the origin framed it.
    AsIs,
    /// In chunks that are ours: the origin's body ends with its connection.
    Chunked,
    /// Raw, up to the end of the connection.
    UntilClose,
    /// There is none; a Content-Length that says what GET would have got stays.
    Empty,
}

/// What the client is told about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionOut {
    /// Nothing, which for HTTP/1.1 means that it lives on.
    Implicit,
    /// That it lives on: an HTTP/1.0 client that asked for it must be told.
    KeepAlive,
    Close,
}

/// How a response is sent on.
#[derive(Clone, Copy, Debug)]
pub struct ResponseRewrite<'a> {
    pub body: BodyOut,
    pub connection: ConnectionOut,
    /// An IMF-fixdate, used if the origin sent none.
    pub date: &'a [u8],
    /// Our name in Via, if it is to be said.
    pub via: Option<&'a [u8]>,
    /// What the client has to see otherwise, if anything.
    pub seen: Option<Seen<'a>>,
}

/// What of an answer its client sees otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Where the origin is, if the client sees it elsewhere.
    pub moved: Option<Moved<'a>>,
    /// The value of a Set-Cookie of ours; empty where there is none.
    pub cookie: &'a [u8],
}

/// Appends the response head to send to the client.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead, buf: &[u8], how: &ResponseRewrite) {
    match how.seen {
        None => response_edited(out, head, buf, how, &mut Unedited),
        Some(seen) => {
            let mut edit = MovedEdit::new(seen.moved, seen.cookie, Unedited);
            response_edited(out, head, buf, how, &mut edit);
        }
    }
}

/// The same with edits.
pub fn response_edited(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    buf: &[u8],
    how: &ResponseRewrite,
    edit: &mut impl Edit,
) {
    out.reserve(head.bytes + LINES_ADDED_BYTES);
    let mut dropped = HOP_BY_HOP;
    let body = match how.body {
        BodyOut::AsIs => head.body,
        BodyOut::Chunked => BodyLength::Chunked,
        BodyOut::UntilClose => BodyLength::UntilClose,
        BodyOut::Empty => BodyLength::Empty,
    };
    // The fields speak of the body as the origin sent it.
    if body != head.body || may_not_have_length(head.status) {
        dropped = dropped.with(FieldName::ContentLength);
    }
    if body != BodyLength::Chunked {
        dropped = dropped.with(FieldName::Trailer);
    }
    copy_response(out, head, buf, dropped, edit);

    let added = out.len();
    put_framing(out, body, &head.fields);
    if !head.has_date {
        put(out, [b"Date: ", how.date, LINE_END]);
    }
    if let Some(via) = how.via {
        put_via(out, head.version, via);
    }
    out.extend_from_slice(connection_line(how.connection));
    edit.finish(out, added);
    out.extend_from_slice(LINE_END);
}

/// Appends an interim response (1xx), which has no body and says nothing of the connection.
pub fn interim(out: &mut Vec<u8>, head: &ResponseHead, buf: &[u8]) {
    let dropped = HOP_BY_HOP.with(FieldName::ContentLength).with(FieldName::Trailer);
    copy_response(out, head, buf, dropped, &mut Unedited);
    out.extend_from_slice(LINE_END);
}

/// Appends the response that changes the protocol (101), with what it says of the new one.
pub fn switching(out: &mut Vec<u8>, head: &ResponseHead, buf: &[u8]) {
    let dropped = HOP_BY_HOP.with(FieldName::ContentLength).with(FieldName::Trailer);
    copy_response(out, head, buf, dropped, &mut Unedited);
    put_upgrade(out, &head.fields, buf);
    out.extend_from_slice(LINE_END);
}

/// Appends the request for a tunnel to `authority`, as a parent proxy is sent it.
pub fn connect(out: &mut Vec<u8>, authority: &[u8], extra: &[u8]) {
    put(
        out,
        [b"CONNECT ", authority, b" HTTP/1.1\r\nHost: ", authority, LINE_END, extra, LINE_END],
    );
}

/// Appends us to those a request in `version` came through.
pub fn via(out: &mut Vec<u8>, version: Version, name: &[u8]) {
    put_via(out, version, name);
}

/// An answer of our own.
#[derive(Clone, Copy, Debug)]
pub struct Simple<'a> {
    pub status: u16,
    pub reason: &'a str,
    /// Plain text, unless `extra` begins with another Content-Type.
    pub body: &'a str,
    /// Further field lines, each with its CRLF. Must come from us.
    pub extra: &'a [u8],
    pub connection: ConnectionOut,
    /// An IMF-fixdate.
    pub date: &'a [u8],
    /// Leave the body out: the request was HEAD.
    pub is_head_only: bool,
}

/// Appends an answer of our own, body included.
pub fn simple(out: &mut Vec<u8>, answer: &Simple) {
    simple_head(out, answer);
    if !answer.is_head_only {
        out.extend_from_slice(answer.body.as_bytes());
    }
}

/// Whether an answer with this status can have a body.
pub fn may_have_body(status: u16) -> bool {
    !matches!(status, 100..200 | 204 | 205 | 304)
}

/// Appends the head of an answer of our own. With 204 and 304 it says nothing of a body, which
/// they cannot have.
pub fn simple_head(out: &mut Vec<u8>, answer: &Simple) {
    put(out, [b"HTTP/1.1 "]);
    put_decimal(out, u64::from(answer.status));
    put(out, [b" ", answer.reason.as_bytes(), LINE_END]);
    match answer.status {
        204 | 304 => {}
        205 => put(out, [b"Content-Length: 0\r\n"]),
        _ => {
            if !answer.extra.starts_with(b"Content-Type: ") {
                put(out, [b"Content-Type: text/plain; charset=utf-8\r\n"]);
            }
            put(out, [b"Content-Length: "]);
            put_decimal(out, answer.body.len() as u64);
            put(out, [LINE_END]);
        }
    }
    put(out, [b"Date: ", answer.date, LINE_END, connection_line(answer.connection)]);
    put(out, [answer.extra, LINE_END]);
}

const LINE_END: &[u8] = b"\r\n";

/// Room for what is said anew: address, host and our name, each twice or thrice, with their words.
const LINES_ADDED_BYTES: usize = 384;

/// Whether the request line can go as it came, as part of the first run of lines.
fn is_line_kept(head: &RequestHead, buf: &[u8], how: &RequestRewrite) -> bool {
    head.version != Version::Http10
        && how.base.is_empty()
        && std::ptr::eq(how.path, head.target.of(buf))
}

/// The host that the target names, or that an HTTP/1.0 request did not name. Without the port of
/// `http` unless Host has it too: origins compare names, and clients write both.
fn named_host<'a>(head: &RequestHead, buf: &'a [u8]) -> &'a [u8] {
    let authority = head.authority.of(buf);
    let host = head.fields.find(FieldName::Host).map(|host| host.value.of(buf));
    match authority.strip_suffix(b":80") {
        Some(bare) if host != Some(authority) => bare,
        _ => authority,
    }
}

fn put_request_line(out: &mut Vec<u8>, head: &RequestHead, buf: &[u8], how: &RequestRewrite) {
    let path = how.path;
    // An absolute target may have a query and no path.
    let slash: &[u8] = if path.starts_with(b"?") { b"/" } else { b"" };
    // OPTIONS asks the server as a whole (RFC 9112 §3.2.4).
    let base = if path == b"*" { b"" } else { how.base };
    put(out, [head.method_text.of(buf), b" ", base, slash, path, b" HTTP/1.1\r\n"]);
}

/// The status line and the lines of all fields but those in `dropped`.
fn copy_response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    buf: &[u8],
    dropped: FieldNameSet,
    edit: &mut impl Edit,
) {
    /// "HTTP/1.1 200 ": a line that has its last space goes as it came.
    const LINE_START_BYTES: u32 = 13;
    if head.version == Version::Http11 && head.reason.start == LINE_START_BYTES {
        copy_lines(out, buf, 0, &head.fields, dropped, edit);
    } else {
        put(out, [b"HTTP/1.1 "]);
        put_decimal(out, u64::from(head.status));
        put(out, [b" ", head.reason.of(buf), LINE_END]);
        copy_lines(out, buf, head.fields.lines.start, &head.fields, dropped, edit);
    }
}

/// Copies `buf[start..]` up to the end of the field lines, but for the lines of fields in
/// `dropped` and those that `edit` does not keep. `start` is that of the first line, or before it.
fn copy_lines(
    out: &mut Vec<u8>,
    buf: &[u8],
    start: u32,
    fields: &Fields,
    dropped: FieldNameSet,
    edit: &mut impl Edit,
) {
    let mut run = Span { start, end: fields.lines.end };
    for field in fields.any(dropped.and(edit.asks())) {
        if !dropped.has(field.known) && edit.keeps(field.line.of(buf)) {
            continue;
        }
        run.end = field.line.start;
        out.extend_from_slice(run.of(buf));
        run = Span { start: field.line.end, end: fields.lines.end };
    }
    out.extend_from_slice(run.of(buf));
}

/// The framing field that the copied lines do not hold.
#[expect(clippy::inline_always, reason = "a call costs a twentieth of all that is written")]
#[inline(always)]
fn put_framing(out: &mut Vec<u8>, body: BodyLength, fields: &Fields) {
    match body {
        BodyLength::Chunked => put(out, [b"Transfer-Encoding: chunked\r\n"]),
        BodyLength::Exact(length) if fields.has(FieldName::PaddedLength) => {
            put_length(out, length);
        }
        BodyLength::Exact(_) | BodyLength::Empty | BodyLength::UntilClose => {}
    }
}

#[cold]
fn put_length(out: &mut Vec<u8>, length: u64) {
    put(out, [b"Content-Length: "]);
    put_decimal(out, length);
    put(out, [LINE_END]);
}

/// The offer, or the choice, of another protocol (RFC 9110 §7.8).
fn put_upgrade(out: &mut Vec<u8>, fields: &Fields, buf: &[u8]) {
    put(out, [b"Connection: upgrade\r\n"]);
    for field in fields.all(FieldName::Upgrade) {
        put(out, [b"Upgrade: ", field.value.of(buf), LINE_END]);
    }
}

/// Passes on that the client takes trailers, which is all of TE that means anything to an origin.
#[cold]
fn put_te(out: &mut Vec<u8>, fields: &Fields, buf: &[u8]) {
    let mut values = fields.all(FieldName::Te).flat_map(|field| elements(field.value.of(buf)));
    if values.any(|value| value.eq_ignore_ascii_case(b"trailers")) {
        out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n");
    }
}

/// Adds us to those a message came through, by the version it came in.
#[expect(clippy::inline_always, reason = "a call costs a twentieth of all that is written")]
#[inline(always)]
fn put_via(out: &mut Vec<u8>, version: Version, name: &[u8]) {
    match version {
        Version::Http10 => put(out, [b"Via: 1.0 ", name, LINE_END]),
        Version::Http11 => put(out, [b"Via: 1.1 ", name, LINE_END]),
        Version::Http2 => put(out, [b"Via: 2.0 ", name, LINE_END]),
    }
}

fn connection_line(connection: ConnectionOut) -> &'static [u8] {
    match connection {
        ConnectionOut::Implicit => b"",
        ConnectionOut::KeepAlive => b"Connection: keep-alive\r\n",
        ConnectionOut::Close => b"Connection: close\r\n",
    }
}

/// RFC 9110 §8.6.
fn may_not_have_length(status: u16) -> bool {
    matches!(status, 100..200 | 204)
}

fn put_decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = number;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Method;
    use crate::http::client_chain::Trust;
    use crate::http::forwarded_header::{ClientText, Introduction, Scheme};
    use crate::http::head::{HeadError, HeadLimits};

    const LIMITS: HeadLimits =
        HeadLimits { head_bytes: 4096, target_bytes: 1024, header_count: 100 };

    /// A stranger, and one whose word is taken.
    const UNTRUSTED: (&str, bool) = ("192.0.2.1", false);
    const TRUSTED: (&str, bool) = ("192.0.2.1", true);

    const ADDED: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n\
        X-Forwarded-Host: a\r\nForwarded: for=192.0.2.1;proto=http;host=\"a\"\r\n\
        Via: 1.1 ringway\r\n\r\n";

    const REQUEST_LINE: &str = "GET / HTTP/1.1\r\n";

    /// Trusts 10.0.0.0/8.
    #[derive(Debug)]
    struct Tens;

    impl Trust for Tens {
        fn trusts(&self, address: std::net::IpAddr) -> bool {
            address.to_string().starts_with("10.")
        }
    }

    /// What the origin is sent for `text`.
    fn sent(text: &str, host: HostRule, who: (&str, bool)) -> String {
        told(text, host, who, Introduction::default(), b"")
    }

    fn told(
        text: &str,
        host: HostRule,
        (client, is_trusted): (&str, bool),
        introduction: Introduction,
        prefix: &[u8],
    ) -> String {
        let buf = text.as_bytes();
        let mut head = RequestHead::new();
        assert_eq!(head.parse(buf, &LIMITS), Ok(true), "{text:?}");
        let client = ClientText::new(client.parse().unwrap(), Scheme::Http, introduction);
        let how = RequestRewrite {
            base: b"",
            path: head.path(buf),
            host,
            via: Some(b"ringway"),
            cdn_loop: None,
            length: None,
            passes_trailers: false,
            is_last: false,
            forwarded: Some(ForwardedFor {
                trust: is_trusted.then_some(&Tens),
                address: "198.51.100.7",
                prefix,
                ..ForwardedFor::of(&client)
            }),
            extra: b"",
        };
        let mut out = Vec::new();
        request(&mut out, &head, buf, &how);
        let out = String::from_utf8(out).unwrap();
        // Whatever was sent must be a head that we would take ourselves, framed alike.
        let mut again = RequestHead::new();
        if !head.authority.is_empty() || matches!(host, HostRule::Set(_)) {
            assert_eq!(again.parse(out.as_bytes(), &LIMITS), Ok(true), "{out:?}");
            assert_eq!((again.body, again.bytes), (head.body, out.len()));
        }
        out
    }

    /// What the origin is sent for a GET with Host "a" and these further lines, without the
    /// request line, the Host and what is always added.
    fn lines_sent(lines: &str) -> String {
        let out = sent(&format!("{REQUEST_LINE}Host: a\r\n{lines}\r\n"), HostRule::Pass, UNTRUSTED);
        let out = out.strip_prefix(&format!("{REQUEST_LINE}Host: a\r\n")).unwrap();
        out.strip_suffix(ADDED).unwrap_or_else(|| panic!("{out:?}")).to_owned()
    }

    #[test]
    fn end_to_end_fields_keep_their_order_and_bytes() {
        let lines = "X-A:1\r\nx-B: \t2 \t\r\nCookie: a=b\r\nCookie: c\r\nX-Empty:\r\n";
        assert_eq!(lines_sent(lines), lines);
        assert_eq!(lines_sent(""), "");
    }

    #[test]
    fn hop_by_hop_fields_go_and_those_around_them_stay() {
        let cases = [
            ("Connection: close\r\nA: b\r\n", "A: b\r\n"),
            ("A: b\r\nConnection: keep-alive\r\n", "A: b\r\n"),
            (
                "A: 1\r\nKeep-Alive: timeout=5\r\nB: 2\r\nTE: trailers\r\nC: 3\r\n",
                "A: 1\r\nB: 2\r\nC: 3\r\n",
            ),
            ("Connection: X-Hop, close\r\nX-Hop: 1\r\nx-hop: 2\r\nX-Hops: 3\r\n", "X-Hops: 3\r\n"),
            (
                "Connection: upgrade\r\nUpgrade: websocket\r\nA: b\r\n",
                "A: b\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
            ),
            ("Upgrade: websocket\r\nA: b\r\n", "A: b\r\n"),
            ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n", ""),
            ("Proxy-Connection: close\r\nProxy-Authorization: x\r\n", ""),
            ("Trailer: Digest\r\n", "Trailer: Digest\r\n"),
            ("Max-Forwards: 7\r\n", "Max-Forwards: 7\r\n"),
        ];
        for (lines, rest) in cases {
            assert_eq!(lines_sent(lines), rest, "{lines:?}");
        }
    }

    #[test]
    fn essential_fields_cannot_be_named_away() {
        let lines = "Authorization: x\r\nCookie: y\r\nContent-Length: 3\r\n";
        let attack =
            format!("Connection: authorization, cookie, content-length, host, via\r\n{lines}");
        assert_eq!(lines_sent(&attack), lines);
    }

    #[test]
    fn framing_is_said_once_and_canonically() {
        let cases = [
            ("Content-Length: 3\r\n", "Content-Length: 3\r\n"),
            ("Content-Length: 0003\r\nA: b\r\n", "A: b\r\nContent-Length: 3\r\n"),
            ("Content-Length: 000\r\n", "Content-Length: 0\r\n"),
            ("Transfer-encoding: \tCHUNKED\r\nA: b\r\n", "A: b\r\nTransfer-Encoding: chunked\r\n"),
        ];
        for (lines, rest) in cases {
            assert_eq!(lines_sent(lines), rest, "{lines:?}");
        }
    }

    #[test]
    fn host_is_passed_or_set_and_stands_once() {
        let text = "GET / HTTP/1.1\r\nA: b\r\nHost: a\r\n\r\n";
        let passed = sent(text, HostRule::Pass, UNTRUSTED);
        assert_eq!(passed, format!("GET / HTTP/1.1\r\nA: b\r\nHost: a\r\n{ADDED}"));
        let set = sent(text, HostRule::Set(b"origin:81"), UNTRUSTED);
        assert_eq!(set, format!("GET / HTTP/1.1\r\nHost: origin:81\r\nA: b\r\n{ADDED}"));
        // The authority of an absolute target wins.
        let absolute = "GET http://a/p HTTP/1.1\r\nHost: other\r\nA: b\r\n\r\n";
        let passed = sent(absolute, HostRule::Pass, UNTRUSTED);
        assert_eq!(passed, format!("GET /p HTTP/1.1\r\nHost: a\r\nA: b\r\n{ADDED}"));
        // With the port of http only where Host has it too.
        for (target, host, expected) in [
            ("a:80", "Host: a\r\n", "a"),
            ("a:80", "Host: A\r\n", "a"),
            ("a:80", "", "a"),
            ("a:80", "Host: a:80\r\n", "a:80"),
            ("a:8080", "Host: a\r\n", "a:8080"),
            ("[::1]:80", "Host: [::1]\r\n", "[::1]"),
            ("u:p@a:80", "Host: a\r\n", "a"),
        ] {
            let text = format!("GET http://{target}/ HTTP/1.1\r\n{host}\r\n");
            let passed = sent(&text, HostRule::Pass, UNTRUSTED);
            assert!(passed.starts_with(&format!("GET / HTTP/1.1\r\nHost: {expected}\r\n")));
        }
        let query = sent("GET http://a?q HTTP/1.1\r\nHost: b\r\n\r\n", HostRule::Pass, UNTRUSTED);
        assert!(query.starts_with("GET /?q HTTP/1.1\r\nHost: a\r\n"));
        let star = sent("OPTIONS http://a HTTP/1.1\r\nHost: b\r\n\r\n", HostRule::Pass, UNTRUSTED);
        assert!(star.starts_with("OPTIONS * HTTP/1.1\r\nHost: a\r\n"));
    }

    #[test]
    fn a_request_of_http_1_0_goes_out_as_1_1() {
        let old = "GET / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n";
        assert_eq!(
            sent(old, HostRule::Pass, UNTRUSTED),
            "GET / HTTP/1.1\r\nHost: \r\nX-Forwarded-For: 192.0.2.1\r\n\
             X-Forwarded-Proto: http\r\nForwarded: for=192.0.2.1;proto=http\r\n\
             Via: 1.0 ringway\r\n\r\n"
        );
    }

    #[test]
    fn empty_lines_before_a_request_are_not_sent_on() {
        let text = "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let out = sent(text, HostRule::Pass, UNTRUSTED);
        assert_eq!(out, format!("GET / HTTP/1.1\r\nHost: a\r\n{ADDED}"));
    }

    #[test]
    fn what_strangers_say_of_the_path_is_replaced_and_what_trusted_peers_say_is_kept() {
        let said = "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Host: evil\r\n\
            X-Forwarded-Proto: https\r\nForwarded: for=10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\n\
            X-Forwarded-For:\r\nVia: 1.1 first\r\n";
        assert_eq!(lines_sent(said), "Via: 1.1 first\r\n");
        let text = format!("{REQUEST_LINE}Host: a\r\n{said}\r\n");
        assert_eq!(
            sent(&text, HostRule::Pass, TRUSTED),
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\n\
             Via: 1.1 first\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2, 192.0.2.1\r\n\
             Forwarded: for=10.0.0.1;proto=https;host=\"evil\", for=10.0.0.2, for=192.0.2.1\r\n\
             Via: 1.1 ringway\r\n\r\n"
        );
        let silent = format!("{REQUEST_LINE}Host: a\r\n\r\n");
        assert_eq!(
            sent(&silent, HostRule::Pass, TRUSTED),
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: a\r\n\
             Forwarded: for=192.0.2.1;host=\"a\"\r\nVia: 1.1 ringway\r\n\r\n",
            "by which scheme the client of a trusted peer came is not known"
        );
    }

    /// The lines that are added to those that a trusted peer has sent, without Via.
    fn told_of(lines: &str, introduction: Introduction) -> String {
        let text = format!("{REQUEST_LINE}Host: a\r\n{lines}\r\n");
        let out = told(&text, HostRule::Pass, ("10.0.0.9", true), introduction, b"");
        let out = out.strip_prefix(&format!("{REQUEST_LINE}Host: a\r\n")).unwrap();
        out.strip_suffix("Via: 1.1 ringway\r\n\r\n").unwrap().to_owned()
    }

    const X: Introduction = Introduction {
        says_x: true,
        says_rfc: false,
        says_real_ip: false,
        says_port: false,
        says_ssl: false,
        believed: FieldName::XForwardedFor,
    };
    const RFC: Introduction = Introduction { says_x: false, says_rfc: true, ..X };
    const BOTH: Introduction = Introduction { says_x: true, says_rfc: true, ..X };

    #[test]
    fn what_a_trusted_peer_says_in_one_form_is_carried_over_to_the_other() {
        let x = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n";
        let rfc = "Forwarded: for=\"[2001:db8::1]:80\";proto=https;host=b\r\n";
        let proto = "X-Forwarded-Proto: https\r\n";
        let table = [
            (
                x,
                BOTH,
                "X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.1, 10.0.0.9\r\n\
                 X-Forwarded-Host: a\r\n\
                 Forwarded: for=192.0.2.1;proto=https;host=\"a\", for=10.0.0.9\r\n",
            ),
            (
                x,
                X,
                "X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.1, 10.0.0.9\r\n\
                 X-Forwarded-Host: a\r\n",
            ),
            (x, RFC, "Forwarded: for=192.0.2.1;proto=https;host=\"a\", for=10.0.0.9\r\n"),
            (
                rfc,
                BOTH,
                "X-Forwarded-For: 2001:db8::1, 10.0.0.9\r\nX-Forwarded-Proto: https\r\n\
                 X-Forwarded-Host: b\r\n\
                 Forwarded: for=\"[2001:db8::1]:80\";proto=https;host=b, for=10.0.0.9\r\n",
            ),
            (
                rfc,
                X,
                "X-Forwarded-For: 2001:db8::1, 10.0.0.9\r\nX-Forwarded-Proto: https\r\n\
                 X-Forwarded-Host: b\r\n",
            ),
            (rfc, RFC, "Forwarded: for=\"[2001:db8::1]:80\";proto=https;host=b, for=10.0.0.9\r\n"),
            (
                proto,
                BOTH,
                "X-Forwarded-Proto: https\r\nX-Forwarded-For: 10.0.0.9\r\n\
                 X-Forwarded-Host: a\r\nForwarded: for=10.0.0.9;proto=https;host=\"a\"\r\n",
            ),
        ];
        for (lines, introduction, added) in table {
            assert_eq!(told_of(lines, introduction), added, "{lines:?} {introduction:?}");
        }
    }

    #[test]
    fn what_a_stranger_slips_past_a_trusted_peer_in_the_other_form_is_not_passed_on() {
        let lines = "Forwarded: for=6.6.6.6;proto=ftp;host=evil\r\n\
                     X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n";
        for introduction in [X, RFC, BOTH] {
            let added = told_of(lines, introduction);
            assert!(!added.contains("6.6.6.6") && !added.contains("evil"), "{added}");
            assert!(!added.contains("ftp") && added.contains("192.0.2.1"), "{added}");
        }
        let believed = FieldName::Forwarded;
        let lines = "Forwarded: for=192.0.2.1;proto=https\r\nX-Forwarded-For: 6.6.6.6\r\n";
        for introduction in [X, RFC, BOTH] {
            let added = told_of(lines, Introduction { believed, ..introduction });
            assert!(!added.contains("6.6.6.6") && added.contains("192.0.2.1"), "{added}");
        }
    }

    #[test]
    fn strangers_cannot_say_what_only_a_proxy_knows() {
        let lines = "X-Real-IP: 6.6.6.6\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /e\r\n\
            X-Forwarded-Ssl: on\r\nX-Forwarded-Scheme: https\r\nX-Forwarded-Protocol: ssl\r\n\
            X-Forwarded-Server: e\r\nFront-End-Https: on\r\nProxy: http://evil\r\n\
            X-Forwarded_For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nContent_Length: 9\r\n\
            Transfer_Encoding: chunked\r\n";
        assert_eq!(lines_sent(lines), "");
        assert_eq!(lines_sent("X_Other: 1\r\n"), "X_Other: 1\r\n");
        let kept = told_of("X-Real-IP: 192.0.2.1\r\nProxy: x\r\nX-Forwarded-Port: 8\r\n", X);
        assert!(kept.starts_with("X-Real-IP: 192.0.2.1\r\nX-Forwarded-Port: 8\r\n"), "{kept}");
        assert!(!kept.contains("Proxy"), "{kept}");
    }

    #[test]
    fn what_is_configured_is_said_beside() {
        let all = Introduction { says_real_ip: true, says_port: true, says_ssl: true, ..X };
        let text = "GET /api/x HTTP/1.1\r\nHost: a:8080\r\nX-Forwarded-Prefix: /e\r\n\r\n";
        assert_eq!(
            told(text, HostRule::Pass, UNTRUSTED, all, b"/api"),
            "GET /api/x HTTP/1.1\r\nHost: a:8080\r\nX-Forwarded-For: 192.0.2.1\r\n\
             X-Forwarded-Proto: http\r\nX-Forwarded-Host: a:8080\r\nX-Real-IP: 198.51.100.7\r\n\
             X-Forwarded-Port: 8080\r\nX-Forwarded-Ssl: off\r\nX-Forwarded-Prefix: /api\r\n\
             Via: 1.1 ringway\r\n\r\n"
        );
        let lines = "X-Forwarded-Prefix: /outer\r\nX-Forwarded-Ssl: on\r\nX-Real-IP: 6.6.6.6\r\n\
                     X-Forwarded-Proto: https\r\n";
        let text = format!("{REQUEST_LINE}Host: a\r\n{lines}\r\n");
        assert_eq!(
            told(&text, HostRule::Pass, TRUSTED, all, b"/api"),
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Ssl: on\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: a\r\nX-Real-IP: 198.51.100.7\r\n\
             X-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /outer, /api\r\n\
             Via: 1.1 ringway\r\n\r\n"
        );
    }

    #[test]
    fn each_form_alone_is_whole() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let told = |who, introduction| told(text, HostRule::Pass, who, introduction, b"");
        assert_eq!(
            told(UNTRUSTED, X),
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\
             X-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nVia: 1.1 ringway\r\n\r\n"
        );
        assert_eq!(
            told(("2001:db8::1", false), RFC),
            "GET / HTTP/1.1\r\nHost: a\r\n\
             Forwarded: for=\"[2001:db8::1]\";proto=http;host=\"a\"\r\n\
             Via: 1.1 ringway\r\n\r\n"
        );
    }

    #[test]
    fn names_with_underscores_go_as_they_are_configured() {
        use crate::http::fields::Underscores;
        let text = "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1\r\nX_Other: 2\r\nA: 3\r\n\r\n";
        let kept = |underscores| {
            let mut head = RequestHead::new();
            head.set_underscores(underscores);
            let parsed = head.parse(text.as_bytes(), &LIMITS)?;
            assert!(parsed);
            let how = RequestRewrite {
                base: b"",
                path: head.path(text.as_bytes()),
                host: HostRule::Pass,
                via: Some(b"r"),
                cdn_loop: None,
                length: None,
                passes_trailers: false,
                is_last: false,
                forwarded: None,
                extra: b"",
            };
            let mut out = Vec::new();
            request(&mut out, &head, text.as_bytes(), &how);
            let out = String::from_utf8(out).unwrap();
            Ok(["X_Forwarded_For", "X_Other", "A:"].map(|name| out.contains(name)))
        };
        assert_eq!(kept(Underscores::Keep), Ok([true, true, true]));
        assert_eq!(kept(Underscores::DropShadowing), Ok([false, true, true]));
        assert_eq!(kept(Underscores::DropAll), Ok([false, false, true]));
        assert_eq!(kept(Underscores::Refuse), Err(HeadError::Underscore));
    }

    #[test]
    fn a_v6_client_is_quoted_in_forwarded_only() {
        let v6 = "2001:db8::1";
        let out = sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n", HostRule::Pass, (v6, false));
        assert!(out.contains("\r\nX-Forwarded-For: 2001:db8::1\r\n"));
        assert!(out.contains("\r\nForwarded: for=\"[2001:db8::1]\";proto=http;host=\"a\"\r\n"));
    }

    #[test]
    fn max_forwards_counts_down_where_it_means_something() {
        let text = "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 5\r\n\r\n";
        assert!(sent(text, HostRule::Pass, UNTRUSTED).contains("\r\nMax-Forwards: 4\r\n"));
    }

    const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    const PLAIN: ResponseRewrite = ResponseRewrite {
        seen: None,
        body: BodyOut::AsIs,
        connection: ConnectionOut::Implicit,
        date: DATE,
        via: None,
    };

    fn parsed(text: &str, method: Method) -> ResponseHead {
        let mut head = ResponseHead::new();
        assert_eq!(head.parse(text.as_bytes(), &LIMITS, method), Ok(true), "{text:?}");
        head
    }

    fn answered(text: &str, method: Method, how: &ResponseRewrite) -> String {
        let head = parsed(text, method);
        let mut out = Vec::new();
        response(&mut out, &head, text.as_bytes(), how);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(parsed(&out, method).bytes, out.len());
        out
    }

    #[test]
    fn a_response_passes_without_its_hop_by_hop_fields() {
        let text = "HTTP/1.1 200 Very OK\r\nServer: x\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
            Keep-Alive: timeout=5\r\nDate: d\r\nContent-Length: 3\r\nProxy-Authenticate: y\r\n\
            Upgrade: h2c\r\nTrailer: z\r\nSet-Cookie: a\r\n\r\n";
        assert_eq!(
            answered(text, Method::Get, &PLAIN),
            "HTTP/1.1 200 Very OK\r\nServer: x\r\nDate: d\r\nContent-Length: 3\r\n\
             Set-Cookie: a\r\n\r\n"
        );
    }

    #[test]
    fn a_response_says_its_date_via_and_connection() {
        let text = "HTTP/1.0 200\r\nContent-Length: 3\r\n\r\n";
        let how =
            ResponseRewrite { connection: ConnectionOut::Close, via: Some(b"ringway"), ..PLAIN };
        assert_eq!(
            answered(text, Method::Get, &how),
            "HTTP/1.1 200 \r\nContent-Length: 3\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Via: 1.0 ringway\r\nConnection: close\r\n\r\n"
        );
        let how = ResponseRewrite { connection: ConnectionOut::KeepAlive, ..PLAIN };
        let out =
            answered("HTTP/1.1 200 \r\nDate: d\r\nContent-Length: 0\r\n\r\n", Method::Get, &how);
        assert_eq!(
            out,
            "HTTP/1.1 200 \r\nDate: d\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn the_framing_field_follows_how_the_body_goes_out() {
        let chunked = "Transfer-Encoding: Chunked\r\nTrailer: x\r\n";
        let length = "Content-Length: 3\r\n";
        let canonical = "Trailer: x\r\nTransfer-Encoding: chunked\r\n";
        let cases = [
            (Method::Get, 200, chunked, BodyOut::AsIs, canonical),
            (Method::Get, 200, chunked, BodyOut::UntilClose, ""),
            (Method::Get, 200, length, BodyOut::AsIs, length),
            (Method::Get, 200, "Content-Length: 03\r\n", BodyOut::AsIs, length),
            (Method::Get, 200, "", BodyOut::Chunked, "Transfer-Encoding: chunked\r\n"),
            (Method::Get, 200, "", BodyOut::UntilClose, ""),
            (Method::Get, 200, "", BodyOut::AsIs, ""),
            (Method::Head, 200, length, BodyOut::Empty, length),
            (Method::Head, 200, chunked, BodyOut::Empty, ""),
            (Method::Head, 200, length, BodyOut::AsIs, length),
            (Method::Get, 304, length, BodyOut::Empty, length),
            (Method::Get, 204, length, BodyOut::Empty, ""),
            (Method::Get, 204, length, BodyOut::AsIs, ""),
        ];
        for (method, status, lines, body, framing) in cases {
            let text = format!("HTTP/1.1 {status} X\r\nDate: d\r\n{lines}\r\n");
            let out = answered(&text, method, &ResponseRewrite { body, ..PLAIN });
            assert_eq!(out, format!("HTTP/1.1 {status} X\r\nDate: d\r\n{framing}\r\n"), "{text:?}");
        }
    }

    #[test]
    fn an_interim_response_has_its_own_fields_and_no_others() {
        let text = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close\r\n\
            Content-Length: 0\r\n\r\n";
        let mut out = Vec::new();
        interim(&mut out, &parsed(text, Method::Get), text.as_bytes());
        assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    }

    #[test]
    fn our_own_answers_are_whole_messages() {
        let answer = Simple {
            status: 502,
            reason: "Bad Gateway",
            body: "Bad Gateway\n",
            extra: b"Proxy-Status: ringway\r\n",
            connection: ConnectionOut::Close,
            date: DATE,
            is_head_only: false,
        };
        let head = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Length: 12\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n\
            Proxy-Status: ringway\r\n\r\n";
        let mut out = Vec::new();
        simple(&mut out, &answer);
        assert_eq!(out, format!("{head}Bad Gateway\n").into_bytes());
        out.clear();
        simple(&mut out, &Simple { is_head_only: true, ..answer });
        assert_eq!(out, head.as_bytes());
    }
}
