//! A second reader of request heads: httparse, which takes liberties, and a list of rules.
//!
//! In go the bytes of a head; out comes what is understood of it, or nothing where it is to be
//! refused. It is slow, copies everything and shares no code with `head`, `target`, `fields` and
//! `framing`, which it is held against: the two must agree. Nothing here runs in the proxy.

use std::net::Ipv6Addr;

use super::BodyLength;
use super::limits::HeadLimits;

/// What a request's head means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Understood {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    /// `host[:port]`, or nothing.
    pub authority: Vec<u8>,
    pub body: BodyLength,
    pub bytes: usize,
}

/// Reads a head that has come completely.
pub(crate) fn read(input: &[u8], limits: &HeadLimits) -> Option<Understood> {
    let start = input.chunks(2).take(4).take_while(|two| *two == b"\r\n").count() * 2;
    let mut headers = vec![httparse::EMPTY_HEADER; limits.header_count];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(&input[start..]).ok()? else {
        return None;
    };
    let bytes = start + length;
    let head = &input[start..bytes];
    let (method, target) = (request.method?, request.path?);
    let is_http_1_1 = request.version == Some(1);
    let is_sized = bytes <= limits.head_bytes
        && method.len() <= 32
        && target.len() <= limits.target_bytes
        && head.starts_with(method.as_bytes());
    if !is_sized || !has_whole_lines(head) {
        return None;
    }
    let all = |name: &str| -> Vec<&[u8]> {
        let named = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value.trim_ascii()).collect()
    };
    let named = Some(authority_of(method, target)?).filter(|named| !named.is_empty());
    let authority = match (all("host").as_slice(), named) {
        ([], None) if is_http_1_1 => return None,
        ([], named) => named.unwrap_or_default(),
        ([b""], Some(named)) => named,
        ([host], named) if is_authority(host) => named.unwrap_or(host),
        _ => return None,
    };
    let body = body_of(method, is_http_1_1, &all("content-length"), &all("transfer-encoding"))?;
    if is_http_1_1 && !all("expect").iter().all(|one| is_expected(one)) {
        return None;
    }
    let forwards = all("max-forwards");
    let counts = method == "OPTIONS" || method == "TRACE";
    if counts && (forwards.len() > 1 || forwards.iter().any(|one| number(one).is_none())) {
        return None;
    }
    Some(Understood {
        method: method.into(),
        target: target.into(),
        authority: authority.to_vec(),
        body,
        bytes,
    })
}

/// Each line ends in CRLF, and neither stands anywhere else.
fn has_whole_lines(head: &[u8]) -> bool {
    let Some(lines) = head.strip_suffix(b"\r\n") else { return false };
    let mut lines = lines.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        match line.strip_suffix(b"\r") {
            Some(line) if !line.contains(&b'\r') => {}
            None if is_last && line.is_empty() => {}
            _ => return false,
        }
    }
    true
}

/// `None` where the target is none for the method; what it names as the authority, or nothing.
fn authority_of<'t>(method: &str, target: &'t str) -> Option<&'t [u8]> {
    if !target.is_ascii() {
        return None;
    }
    if method == "CONNECT" {
        let (_, port) = target.rsplit_once(':')?;
        let is_right = is_authority(target.as_bytes()) && port.parse::<u16>().is_ok();
        return is_right.then_some(target.as_bytes());
    }
    let target = target.split('#').next().unwrap_or_default();
    if target.starts_with('/') || method == "OPTIONS" && target == "*" {
        return Some(b"");
    }
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return None;
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let (user, host) = authority.split_once('@').unwrap_or(("", authority));
    let is_user = |byte: u8| is_host_byte(byte) || b":%,".contains(&byte);
    let is_right = user.bytes().all(is_user) && is_authority(host.as_bytes());
    is_right.then_some(host.as_bytes())
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte)
}

fn is_authority(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, behind)) = rest.split_once(']') else { return false };
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            ("address", behind)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some("") => true,
        Some(digits) => {
            let is_short = digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_short && digits.parse::<u16>().is_ok_and(|port| port > 0)
        }
    };
    !host.is_empty() && host.bytes().all(is_host_byte) && is_port
}

/// RFC 9112 §6.3, and a refusal wherever it leaves a choice.
fn body_of(
    method: &str,
    is_http_1_1: bool,
    lengths: &[&[u8]],
    codings: &[&[u8]],
) -> Option<BodyLength> {
    let body = match (lengths, codings) {
        ([], []) => BodyLength::Empty,
        ([length], []) => BodyLength::Exact(number(length)?),
        ([], [coding]) if is_http_1_1 && coding.eq_ignore_ascii_case(b"chunked") => {
            BodyLength::Chunked
        }
        _ => return None,
    };
    match (method, body) {
        ("CONNECT", BodyLength::Exact(0)) => Some(BodyLength::Empty),
        ("CONNECT" | "TRACE", BodyLength::Exact(1..) | BodyLength::Chunked) => None,
        (_, body) => Some(body),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number: i64 = std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()?;
    u64::try_from(number).ok()
}

fn is_expected(value: &[u8]) -> bool {
    value.is_empty() || value.eq_ignore_ascii_case(b"100-continue")
}
