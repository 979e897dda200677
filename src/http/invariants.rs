//! What holds for every input, however hostile: the checks behind the fuzz targets in `tests/fuzz`
//! and behind the seeded tests below.
//!
//! In come arbitrary bytes; a check panics if a promise of this directory is broken: what is found
//! does not depend on how the bytes were split, what is accepted holds no ambiguity, and what is
//! sent on means to its reader what the original meant to us. Nothing here runs in the proxy.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv6Addr};

use super::chunked::{ChunkError, ChunkScanner};
use super::client_chain::Trust;
use super::forwarded_header::{ClientText, Introduction, Scheme};
use super::framing::{self, Coding, Length};
use super::head::{HeadError, HeadLimits, RequestHead, ResponseHead};
use super::names::{FieldName, trim};
use super::repair::{Mended, Search};
use super::rewrite::{
    self, BodyOut, ConnectionOut, ForwardedFor, HostRule, RequestRewrite, ResponseRewrite,
};
use super::second_reader;
use super::{BodyLength, Method, Version};
use crate::limits::HEADER_COUNT_MAX;

/// Small, so that short inputs reach them.
const LIMITS: HeadLimits = HeadLimits { head_bytes: 512, target_bytes: 64, header_count: 12 };

/// For heads with our own lines in them.
const LIMITS_SENT: HeadLimits = HeadLimits { head_bytes: 4096, target_bytes: 65, header_count: 24 };

/// Parses a request head in every way, and what it becomes.
pub fn request_head(input: &[u8]) {
    let parse = |ends: &[usize]| {
        let mut head = RequestHead::new();
        let is_complete = is_completed(ends, |end| head.parse(&input[..end], &LIMITS))?;
        Ok::<_, HeadError>(is_complete.then_some(head.bytes))
    };
    check_splits(input.len(), parse);
    let mut head = RequestHead::new();
    let parsed = head.parse(input, &LIMITS);
    check_agreement(&head, input, parsed);
    if parsed != Ok(true) || head.method == Method::Connect {
        return;
    }
    check_lines(&input[..head.bytes]);
    assert_ne!(head.body, BodyLength::UntilClose);
    // Each bit says one thing.
    for ways in [0b00_0000, 0b01_0011, 0b11_1110, 0b11_1011, 0b01_1101_u8] {
        let is = |bit: u32| ways & 1 << bit != 0;
        let introduction = Introduction {
            says_x: is(0) || !is(1),
            says_rfc: is(1),
            says_real_ip: is(2),
            says_port: is(2),
            says_ssl: is(2),
            believed: if is(3) { FieldName::Forwarded } else { FieldName::XForwardedFor },
        };
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        let client = ClientText::new(address.into(), Scheme::Http, introduction);
        let trust = is(4).then_some(&Everybody as &dyn Trust);
        let prefix: &[u8] = if is(5) { b"/p" } else { b"" };
        let forwarded = ForwardedFor { trust, prefix, ..ForwardedFor::of(&client) };
        for host in [HostRule::Pass, HostRule::Set(b"origin.example:8080")] {
            let how = RequestRewrite {
                base: b"",
                path: head.path(input),
                host,
                via: Some(b"ringway"),
                cdn_loop: None,
                length: None,
                passes_trailers: false,
                is_last: false,
                forwarded: Some(forwarded),
                extra: b"",
            };
            check_request_sent(&head, input, &how);
        }
    }
}

/// Another reader, made of httparse and a list of rules, understands the same or nothing.
fn check_agreement(head: &RequestHead, input: &[u8], parsed: Result<bool, HeadError>) {
    let theirs = second_reader::read(input, &LIMITS);
    // A head may ask for so much that is of no further interest to that one.
    if parsed == Err(HeadError::ConnectionOptions) {
        return;
    }
    let ours = (parsed == Ok(true)).then(|| second_reader::Understood {
        method: head.method_text.of(input).to_vec(),
        target: head.target.of(input).to_vec(),
        authority: head.authority.of(input).to_vec(),
        body: head.body,
        bytes: head.bytes,
    });
    assert_eq!(ours, theirs, "{parsed:?}: {}", input.escape_ascii());
}

/// How a message's body ends, by its framing fields alone: what is accepted has one such field at
/// most, of one meaning. The first two bytes choose method, version and status; each line behind
/// them that begins with a digit or a comma is a length, each other one a coding.
pub fn framing(input: &[u8]) {
    let Some((&[first, second], lines)) = input.split_first_chunk() else { return };
    let method = [Method::Get, Method::Head, Method::Post, Method::Connect, Method::Trace]
        [usize::from(first % 5)];
    let version = if first & 0x80 == 0 { Version::Http11 } else { Version::Http10 };
    let status = 100 + u16::from(second) * 4 + u16::from(first & 3);
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let is_length = line[0].is_ascii_digit() || line[0] == b',';
        if is_length { lengths.push(line) } else { codings.push(line) }
    }
    let length = match lengths.as_slice() {
        [] => Length::Absent,
        [one] => Length::of(one),
        _ => Length::Repeated,
    };
    let coding = codings.iter().fold(Coding::Absent, |coding, line| coding.and(line));
    let is_chunked = matches!(codings[..], [one] if trim(one).eq_ignore_ascii_case(b"chunked"));
    let is_one = lengths.len() + codings.len() == 1;
    for found in [
        framing::request_body(version, method, coding, length),
        framing::response_body(version, method, status, coding, length),
    ] {
        match found {
            Ok(BodyLength::Exact(bytes)) => {
                assert!(is_one && i64::try_from(bytes).is_ok());
                let digits = std::str::from_utf8(lengths[0]).expect("digits");
                assert_eq!(digits.parse(), Ok(bytes));
            }
            Ok(BodyLength::Chunked) => {
                assert!(is_one && is_chunked && version == Version::Http11);
            }
            Ok(BodyLength::UntilClose) => assert!(lengths.is_empty() && codings.is_empty()),
            Ok(BodyLength::Empty) | Err(_) => {}
        }
    }
    let request = framing::request_body(version, method, coding, length);
    if request == Ok(BodyLength::Empty) {
        let is_silent = lengths.is_empty() && codings.is_empty();
        assert!(is_silent || method == Method::Connect && length == Length::Exact(0));
    }
}

/// Believes all that it is told.
#[derive(Debug)]
struct Everybody;

impl Trust for Everybody {
    fn trusts(&self, _: IpAddr) -> bool {
        true
    }
}

fn check_request_sent(head: &RequestHead, input: &[u8], how: &RequestRewrite) {
    let host = match how.host {
        HostRule::Pass => head.authority.of(input),
        HostRule::Set(host) => host,
    };
    let without_port =
        host.strip_suffix(b":80").filter(|_| head.form == super::TargetForm::Absolute);
    if host.is_empty() {
        return;
    }
    let mut out = Vec::new();
    rewrite::request(&mut out, head, input, how);
    check_lines(&out);
    let mut sent = RequestHead::new();
    assert_eq!(sent.parse(&out, &LIMITS_SENT), Ok(true), "{}", out.escape_ascii());
    assert_eq!((sent.bytes, sent.method, sent.body), (out.len(), head.method, head.body));
    assert_eq!(sent.method_text.of(&out), head.method_text.of(input));
    let authority = sent.authority.of(&out);
    assert!(authority == host || without_port == Some(authority), "{}", out.escape_ascii());
    assert!(sent.is_persistent, "how long the connection to the origin lives is our business");
}

/// A request as an origin gets it.
#[derive(Debug)]
pub struct SentOn {
    pub method: Vec<u8>,
    /// As the client wrote it.
    pub raw: Vec<u8>,
    /// Its head, and its body as its framing says.
    pub text: Vec<u8>,
    pub payload: Vec<u8>,
}

/// The requests that `input` holds, one behind the other, up to the first that is refused, cut
/// short, or not followed by another on the same connection.
pub fn sent_on(input: &[u8]) -> Vec<SentOn> {
    let mut all = Vec::new();
    let mut rest = input;
    loop {
        let mut head = RequestHead::new();
        if head.parse(rest, &LIMITS_SENT) != Ok(true) || head.method == Method::Connect {
            return all;
        }
        let body = &rest[head.bytes..];
        let (used, payload) = match head.body {
            BodyLength::Empty => (0, Vec::new()),
            BodyLength::Exact(length) => match body.get(..length as usize) {
                Some(payload) => (payload.len(), payload.to_vec()),
                None => return all,
            },
            BodyLength::Chunked => match scan(body, &[body.len()]) {
                Ok((true, used, payload)) => (used, payload),
                _ => return all,
            },
            BodyLength::UntilClose => unreachable!("a request's body never ends so"),
        };
        let authority = head.authority.of(rest);
        let host = if authority.is_empty() { &b"origin"[..] } else { authority };
        let how = RequestRewrite {
            base: b"",
            path: head.path(rest),
            host: HostRule::Set(host),
            via: None,
            cdn_loop: None,
            length: None,
            passes_trailers: false,
            is_last: false,
            forwarded: None,
            extra: b"",
        };
        let mut text = Vec::new();
        rewrite::request(&mut text, &head, rest, &how);
        // As the relay writes it: extensions and trailers do not go on.
        match head.body {
            BodyLength::Chunked => {
                if !payload.is_empty() {
                    text.extend_from_slice(format!("{:x}\r\n", payload.len()).as_bytes());
                    text.extend_from_slice(&payload);
                    text.extend_from_slice(b"\r\n");
                }
                text.extend_from_slice(b"0\r\n\r\n");
            }
            _ => text.extend_from_slice(&payload),
        }
        let method = head.method_text.of(rest).to_vec();
        all.push(SentOn { method, raw: rest[..head.bytes + used].to_vec(), text, payload });
        if !head.is_persistent {
            return all;
        }
        rest = &rest[head.bytes + used..];
    }
}

/// Parses a response head to two kinds of request in every way, and what it becomes.
pub fn response_head(input: &[u8]) {
    for method in [Method::Get, Method::Head] {
        let parse = |ends: &[usize]| {
            let mut head = ResponseHead::new();
            let is_complete = is_completed(ends, |end| head.parse(&input[..end], &LIMITS, method))?;
            Ok::<_, HeadError>(is_complete.then_some(head.bytes))
        };
        check_splits(input.len(), parse);
        let mut head = ResponseHead::new();
        if head.parse(input, &LIMITS, method) == Ok(true) {
            check_lines(&input[..head.bytes]);
            check_response_sent(&head, input, method);
        }
    }
}

/// What we read of an answer to GET: its status, and its body where all of that is there.
pub fn answer_read(input: &[u8]) -> Option<(u16, BodyLength, Option<Vec<u8>>)> {
    let mut head = ResponseHead::new();
    if head.parse(input, &LIMITS_SENT, Method::Get) != Ok(true) {
        return None;
    }
    let rest = &input[head.bytes..];
    let body = match head.body {
        BodyLength::Empty => Some(Vec::new()),
        BodyLength::Exact(bytes) => {
            usize::try_from(bytes).ok().and_then(|bytes| rest.get(..bytes)).map(<[u8]>::to_vec)
        }
        BodyLength::UntilClose => Some(rest.to_vec()),
        BodyLength::Chunked => match scan(rest, &[rest.len()]) {
            Ok((true, _, payload)) => Some(payload),
            _ => None,
        },
    };
    Some((head.status, head.body, body))
}

fn check_response_sent(head: &ResponseHead, input: &[u8], method: Method) {
    let bodies: &[(BodyOut, BodyLength)] = match head.body {
        BodyLength::Empty => &[(BodyOut::Empty, BodyLength::Empty)],
        BodyLength::Exact(_) => &[(BodyOut::AsIs, head.body)],
        BodyLength::Chunked | BodyLength::UntilClose => &[
            (BodyOut::AsIs, head.body),
            (BodyOut::Chunked, BodyLength::Chunked),
            (BodyOut::UntilClose, BodyLength::UntilClose),
        ],
    };
    for &(body, length) in bodies {
        let how = ResponseRewrite {
            seen: None,
            body,
            connection: ConnectionOut::Close,
            date: b"Sun, 06 Nov 1994 08:49:37 GMT",
            via: Some(b"ringway"),
        };
        let mut out = Vec::new();
        rewrite::response(&mut out, head, input, &how);
        check_lines(&out);
        let mut sent = ResponseHead::new();
        assert_eq!(sent.parse(&out, &LIMITS_SENT, method), Ok(true), "{}", out.escape_ascii());
        assert_eq!((sent.bytes, sent.status, sent.body), (out.len(), head.status, length));
        assert_eq!(sent.reason.of(&out), head.reason.of(input));
        assert!(sent.has_date && !sent.is_persistent);
    }
}

/// [`mended_response`], cut where the first two bytes say.
pub fn mended(input: &[u8]) {
    if let Some((cut, bytes)) = input.split_first_chunk() {
        mended_response(bytes, usize::from(u16::from_le_bytes(*cut)));
    }
}

/// Mends an answer: whoever reads what we send on reads the message that we have read. It is the
/// strict parser's, holds one framing field at most, and is the same where the bytes come in two
/// parts, of which the first has `cut` bytes.
pub fn mended_response(bytes: &[u8], cut: usize) {
    let limits =
        HeadLimits { head_bytes: 1 << 16, target_bytes: 1 << 16, header_count: HEADER_COUNT_MAX };
    let mut whole = Search::default();
    let found = whole.response(bytes);
    let mut parts = Search::default();
    let early = parts.response(&bytes[..cut.min(bytes.len())]);
    let again = if early == Mended::Incomplete { parts.response(bytes) } else { early };
    assert_eq!(again, found, "cut at {cut}");
    let Mended::Head(mended) = found else { return };
    for method in [Method::Get, Method::Head] {
        let mut head = ResponseHead::new();
        if head.parse_mended(&mended.bytes, &limits, method, mended.repairs).is_err() {
            continue;
        }
        assert_eq!(head.bytes, mended.bytes.len());
        let sent = String::from_utf8_lossy(&mended.bytes).to_ascii_lowercase();
        let count = |name| sent.matches(name).count();
        assert!(count("\r\ncontent-length:") + count("\r\ntransfer-encoding:") <= 1, "{sent}");
        assert!(!sent.replace("\r\n", "").contains(['\r', '\n']), "{sent}");
        assert!(!sent.contains("\n ") && !sent.contains("\n\t"), "{sent}");
        // What the strict parser takes as it is, means the same once mended.
        let mut strict = ResponseHead::new();
        if strict.parse(bytes, &limits, method) == Ok(true) {
            assert_eq!((strict.status, strict.body), (head.status, head.body));
            assert_eq!(strict.bytes, mended.taken);
        }
        if mended.repairs.touch_framing() {
            assert!(!head.is_persistent);
        }
        if matches!(head.status, 100..=199 | 204 | 304) {
            assert_eq!(head.body, BodyLength::Empty);
        }
    }
}

/// Follows a chunked body in every way, and decodes it by other means.
pub fn chunked(input: &[u8]) {
    check_splits(input.len(), |ends| scan(input, ends));
    if let Ok((true, used, payload)) = scan(input, &[input.len()]) {
        assert_eq!(decode(&input[..used]), Some(payload));
    }
}

/// Whether a body that arrives in parts is complete, how long it is, and its payload.
fn scan(input: &[u8], ends: &[usize]) -> Result<(bool, usize, Vec<u8>), ChunkError> {
    let mut scanner = ChunkScanner::new();
    let mut payload = Vec::new();
    let mut used = 0;
    for &end in ends {
        let part = &input[used..end];
        let progress =
            scanner.advance_with(part, |range| payload.extend_from_slice(&part[range]))?;
        used += progress.used;
        if progress.is_done {
            break;
        }
        assert_eq!(used, end, "all of an incomplete body belongs to it");
    }
    assert_eq!(scanner.payload_bytes(), payload.len() as u64);
    Ok((scanner.is_done(), used, payload))
}

/// Decodes a whole chunked body that was accepted, by a search for line ends.
fn decode(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    loop {
        let line_end = body.windows(2).position(|pair| pair == b"\r\n")?;
        let digits = body.iter().position(|byte| !byte.is_ascii_hexdigit())?;
        let digits = std::str::from_utf8(&body[..digits]).ok()?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        body = &body[line_end + 2..];
        if size == 0 {
            let trailers_end = body.windows(4).position(|four| four == b"\r\n\r\n");
            let is_whole = body == b"\r\n" || trailers_end == body.len().checked_sub(4);
            return is_whole.then_some(payload);
        }
        payload.extend_from_slice(body.get(..size)?);
        body = body[size..].strip_prefix(b"\r\n")?;
    }
}

/// Whether one of growing parts of a message completes it.
fn is_completed(
    ends: &[usize],
    mut parse: impl FnMut(usize) -> Result<bool, HeadError>,
) -> Result<bool, HeadError> {
    for &end in ends {
        if parse(end)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One piece, two pieces, and single bytes must lead to the same.
fn check_splits<T: PartialEq + Debug>(length: usize, parse: impl Fn(&[usize]) -> T) {
    let whole = parse(&[length]);
    let bytes: Vec<usize> = (1..=length).collect();
    assert_eq!(parse(&bytes), whole, "byte by byte");
    for cut in bytes {
        assert_eq!(parse(&[cut, length]), whole, "cut at {cut}");
    }
}

/// A head that was accepted or written has lines that no reader can see differently.
fn check_lines(head: &[u8]) {
    let text = head.strip_suffix(b"\n").expect("a head ends with a line");
    for line in text.split(|&byte| byte == b'\n') {
        let text = line.strip_suffix(b"\r").expect("a line ends in CRLF");
        assert!(text.iter().all(|&byte| byte >= b' ' && byte != 0x7f || byte == b'\t'));
        assert!(!text.starts_with(b" ") && !text.starts_with(b"\t"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: &[&[u8]] = &[
        b"GET /a?b HTTP/1.1\r\nHost: a:1\r\nX-Y:\t z \r\n\r\nGET",
        b"POST http://a/b HTTP/1.1\r\nHost: c\r\nContent-Length: 03\r\nExpect: 100-continue\r\n\
            \r\nabc",
        b"\r\nPUT / HTTP/1.1\r\nConnection: x-y, close\r\nHost: a\r\n\
            Transfer-Encoding: chunked\r\nX-Y: 1\r\n\r\n",
        b"OPTIONS * HTTP/1.0\r\nMax-Forwards: 5\r\nForwarded: for=1\r\nX-Forwarded-For: 1\r\n\r\n",
    ];

    const RESPONSES: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
        b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\nTrailer: x\r\nConnection: x-y\r\n\
            X-Y: 1\r\n\r\n",
        b"HTTP/1.0 304\r\nContent-Length: 007\r\n\r\n",
        b"HTTP/1.1 103 Early\r\nLink: <a>\r\n\r\nHTTP/1.1 204 X\r\n\r\n",
    ];

    const BODIES: &[&[u8]] = &[
        b"4 ;x=\"y\"\r\nab\r\n\r\n0a\r\n0123456789\r\n0\r\n\r\nGET",
        b"1\r\na\r\n00;x\r\nA: b\r\nC:\r\n\r\n",
    ];

    /// What mutation puts in: what the grammars are made of, and what attacks are.
    const PIECES: &[&[u8]] = &[
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"\0",
        b"\x0b",
        b"\x7f",
        b"\xff",
        b"/",
        b"#",
        b"?",
        b"*",
        b"@",
        b"0",
        b"1",
        b"9",
        b"f",
        b"+",
        b"-",
        b"chunked",
        b"gzip",
        b"close",
        b"keep-alive",
        b"Host: b\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: host\r\n",
        b"Upgrade: h2c\r\n",
        b"X-Forwarded-For: 6\r\n",
        b"Via: 1.0 x\r\n",
        b"TE: trailers\r\n",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"HTTP/2.0",
        b"http://",
        b"[::1]",
        b"99999999999999999999",
        b"HEAD",
    ];

    /// xorshift64: the same inputs in every run.
    struct Seeded(u64);

    impl Seeded {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % end as u64) as usize
        }

        /// One of `corpus` after one to four changes.
        fn mutated(&mut self, corpus: &[&[u8]]) -> Vec<u8> {
            let mut text = corpus[self.below(corpus.len())].to_vec();
            for _ in 0..=self.below(4) {
                let at = self.below(text.len() + 1);
                let end = (at + self.below(8)).min(text.len());
                let piece = PIECES[self.below(PIECES.len())];
                match self.below(4) {
                    0 => drop(text.splice(at..at, piece.iter().copied())),
                    1 => drop(text.splice(at..end, piece.iter().copied())),
                    2 => drop(text.drain(at..end)),
                    _ => {
                        let copy = text[at..end].to_vec();
                        let to = self.below(text.len() + 1);
                        drop(text.splice(to..to, copy));
                    }
                }
            }
            text
        }
    }

    fn check_mutations(corpus: &[&[u8]], check: fn(&[u8])) {
        const ROUNDS: usize = 20_000;
        for text in corpus {
            check(text);
        }
        let mut seeded = Seeded(0x9e37_79b9_7f4a_7c15);
        for _ in 0..ROUNDS {
            check(&seeded.mutated(corpus));
        }
    }

    #[test]
    fn requests_hold_under_mutation() {
        check_mutations(REQUESTS, request_head);
    }

    #[test]
    fn responses_hold_under_mutation() {
        check_mutations(RESPONSES, response_head);
    }

    #[test]
    fn requests_are_sent_on_one_by_one() {
        let text = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n\
                    GET /b HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\nGET /c HTTP/1.1\r\n";
        let all = sent_on(text.as_bytes());
        let seen: Vec<_> = all.iter().map(|one| (&one.method[..], &one.payload[..])).collect();
        assert_eq!(seen, [(&b"POST"[..], &b"abc"[..]), (b"GET", b"")]);
        assert!(all[0].text.ends_with(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
    }

    #[test]
    fn framing_fields_are_believed_only_where_they_agree() {
        let lines: &[&[u8]] = &[
            b"\x00\x005",
            b"\x01\x19chunked\n5",
            b"\x02\x19gzip, chunked",
            b"\x83\x1aChunked\nchunked",
            b"\x04\x05,5\n0x5",
        ];
        check_mutations(lines, framing);
    }

    #[test]
    fn chunked_bodies_hold_under_mutation() {
        check_mutations(BODIES, chunked);
    }
}
