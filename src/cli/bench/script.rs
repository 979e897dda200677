//! The bytes of a request, made once and sent many times.
//!
//! In come the target, the fields and the body; out comes a list of parts, each to be sent so many
//! times in a row, so that a body of any size costs no more memory than one block. A small request
//! is one part: one call sends it. Nothing here touches a socket.

use std::fmt::Write;

use crate::http::Method;
use crate::http::chunked::LAST_CHUNK;

/// What a body of a given size repeats, and the payload of one chunk of it.
const BLOCK_BYTES: usize = 64 * 1024;

/// A body up to this size leaves together with its head.
const JOINED_BYTES_MAX: usize = 16 * 1024;

/// What is sent after the head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Body {
    #[default]
    None,
    Bytes(Vec<u8>),
    /// So many bytes that mean nothing.
    Size(u64),
}

impl Body {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Size(length) => *length,
        }
    }

    /// What it repeats, the last time perhaps in part.
    pub(super) fn block(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Size(_) => (b'a'..=b'z').cycle().take(BLOCK_BYTES).collect(),
        }
    }
}

/// What makes up a request, checked already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// What stands in the request line: a path, or a whole URL for a proxy.
    pub(super) target: String,
    /// The value of Host, unless one of `fields` is a Host.
    pub(super) authority: String,
    /// Names and values, in their order.
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Body,
    pub(super) is_chunked: bool,
    /// Whether the connection is to live on after the answer.
    pub(super) is_keepalive: bool,
}

/// Bytes, and how often they are sent in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    bytes: Vec<u8>,
    /// At least 1.
    times: u64,
}

/// A request as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Script {
    /// None of them is empty.
    parts: Vec<Part>,
    /// The method, on which depends what follows the answer's head.
    pub(super) method: Method,
}

impl Script {
    pub(super) fn of(request: &Request) -> Self {
        let mut parts = vec![Part { bytes: head(request).into_bytes(), times: 1 }];
        match (&request.body, request.is_chunked) {
            (Body::None, _) => {}
            (Body::Bytes(bytes), false) => join(&mut parts, bytes.clone(), 1),
            (Body::Bytes(bytes), true) => {
                if !bytes.is_empty() {
                    join(&mut parts, chunk(bytes), 1);
                }
                join(&mut parts, LAST_CHUNK.to_vec(), 1);
            }
            (Body::Size(length), is_chunked) => {
                repeat(&mut parts, request.body.block(), *length, is_chunked);
            }
        }
        Self { parts, method: Method::of(request.method.as_bytes()) }
    }

    /// The request for a tunnel to `authority`; `fields` are whole lines for the proxy.
    pub(super) fn tunnel(authority: &str, fields: &str) -> Self {
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n");
        Self { parts: vec![Part { bytes: head.into_bytes(), times: 1 }], method: Method::Connect }
    }
}

fn head(request: &Request) -> String {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    if !request.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        let _ = write!(head, "Host: {}\r\n", request.authority);
    }
    for (name, value) in &request.fields {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    match request.body {
        Body::None => {}
        _ if request.is_chunked => head += "Transfer-Encoding: chunked\r\n",
        _ => {
            let _ = write!(head, "Content-Length: {}\r\n", request.body.length());
        }
    }
    if !request.is_keepalive {
        head += "Connection: close\r\n";
    }
    head + "\r\n"
}

/// Adds bytes to the part before them where that makes one short part, and as a new one elsewhere.
fn join(parts: &mut Vec<Part>, bytes: Vec<u8>, times: u64) {
    if bytes.is_empty() || times == 0 {
        return;
    }
    match parts.last_mut() {
        Some(last)
            if last.times == 1
                && times == 1
                && last.bytes.len() + bytes.len() <= JOINED_BYTES_MAX =>
        {
            last.bytes.extend_from_slice(&bytes);
        }
        _ => parts.push(Part { bytes, times }),
    }
}

fn repeat(parts: &mut Vec<Part>, block: Vec<u8>, length: u64, is_chunked: bool) {
    let rest = block[..(length % BLOCK_BYTES as u64) as usize].to_vec();
    let times = length / BLOCK_BYTES as u64;
    if !is_chunked {
        join(parts, block, times);
        join(parts, rest, 1);
        return;
    }
    join(parts, chunk(&block), times);
    if !rest.is_empty() {
        join(parts, chunk(&rest), 1);
    }
    join(parts, LAST_CHUNK.to_vec(), 1);
}

fn chunk(payload: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", payload.len()).into_bytes();
    chunk.extend_from_slice(payload);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// How far a script has been sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    part: usize,
    /// How often that part has been sent whole.
    times: u64,
    /// Bytes of it sent since then.
    offset: usize,
}

impl Cursor {
    /// What is to be sent next; `None` once all is sent.
    #[inline]
    pub(super) fn next<'a>(&self, script: &'a Script) -> Option<&'a [u8]> {
        script.parts.get(self.part).map(|part| &part.bytes[self.offset..])
    }

    /// Notes that `count` bytes of what `next` gave were sent.
    #[inline]
    pub(super) fn advance(&mut self, script: &Script, count: usize) {
        let part = &script.parts[self.part];
        self.offset += count;
        debug_assert!(self.offset <= part.bytes.len());
        if self.offset == part.bytes.len() {
            self.offset = 0;
            self.times += 1;
            if self.times == part.times {
                *self = Self { part: self.part + 1, times: 0, offset: 0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::BodyLength;
    use crate::http::chunked::ChunkScanner;
    use crate::http::head::{HeadLimits, RequestHead};

    fn request(body: Body, is_chunked: bool) -> Request {
        Request {
            method: "POST".to_owned(),
            target: "/a".to_owned(),
            authority: "h:1".to_owned(),
            fields: vec![("X-Y".to_owned(), "z".to_owned())],
            body,
            is_chunked,
            is_keepalive: true,
        }
    }

    /// Everything that is sent, `step` bytes at a time.
    fn sent(script: &Script, step: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut cursor = Cursor::default();
        while let Some(next) = cursor.next(script) {
            let count = next.len().min(step);
            bytes.extend_from_slice(&next[..count]);
            cursor.advance(script, count);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> (RequestHead, &[u8]) {
        let limits = HeadLimits { head_bytes: 4096, target_bytes: 1024, header_count: 10 };
        let mut head = RequestHead::new();
        assert_eq!(head.parse(bytes, &limits), Ok(true), "{}", bytes.escape_ascii());
        let body = &bytes[head.bytes..];
        (head, body)
    }

    #[test]
    fn a_small_request_is_sent_in_one_piece() {
        for body in [Body::None, Body::Bytes(b"hello".to_vec()), Body::Size(4_000)] {
            for is_chunked in [false, true] {
                let script = Script::of(&request(body.clone(), is_chunked));
                assert_eq!(script.parts.len(), 1, "{body:?} {is_chunked}");
            }
        }
    }

    #[test]
    fn a_get_is_as_short_as_can_be() {
        let request =
            Request { method: "GET".to_owned(), fields: Vec::new(), ..request(Body::None, false) };
        assert_eq!(sent(&Script::of(&request), 99), b"GET /a HTTP/1.1\r\nHost: h:1\r\n\r\n");
        let request = Request { is_keepalive: false, ..request };
        assert_eq!(
            sent(&Script::of(&request), 99),
            b"GET /a HTTP/1.1\r\nHost: h:1\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn a_host_that_is_given_takes_the_place_of_the_urls() {
        let mut request = request(Body::None, false);
        request.fields.push(("host".to_owned(), "other".to_owned()));
        let text = String::from_utf8(sent(&Script::of(&request), 99)).unwrap();
        assert!(text.contains("host: other\r\n") && !text.contains("h:1"), "{text}");
    }

    #[test]
    fn bodies_have_the_length_that_their_head_says_however_they_are_split() {
        for length in [0, 1, 65_535, 65_536, 65_537, 200_000, 1 << 20] {
            for step in [1_000, 65_536, usize::MAX] {
                let bytes = sent(&Script::of(&request(Body::Size(length), false)), step);
                let (head, body) = read(&bytes);
                assert_eq!(head.body, BodyLength::Exact(length));
                assert_eq!(body.len() as u64, length);
                let bytes = sent(&Script::of(&request(Body::Size(length), true)), step);
                let (head, body) = read(&bytes);
                assert_eq!(head.body, BodyLength::Chunked);
                let mut scanner = ChunkScanner::new();
                let progress = scanner.advance(body).unwrap();
                assert_eq!((progress.used, progress.is_done), (body.len(), true), "{length}");
                assert_eq!(scanner.payload_bytes(), length);
            }
        }
    }

    #[test]
    fn a_text_is_sent_as_it_is_or_in_one_chunk() {
        let body = Body::Bytes(b"hello".to_vec());
        let plain = sent(&Script::of(&request(body.clone(), false)), 7);
        assert!(plain.ends_with(b"Content-Length: 5\r\n\r\nhello"));
        let chunked = sent(&Script::of(&request(body, true)), 7);
        assert!(chunked.ends_with(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
        let empty = sent(&Script::of(&request(Body::Bytes(Vec::new()), true)), 7);
        assert!(empty.ends_with(b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"));
    }

    #[test]
    fn a_tunnel_is_asked_for_with_the_fields_for_the_proxy() {
        let script = Script::tunnel("h:1", "Proxy-Authorization: Basic YQ==\r\n");
        let expected: &[u8] =
            b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\nProxy-Authorization: Basic YQ==\r\n\r\n";
        assert_eq!(sent(&script, 99), expected);
    }
}
