//! gRPC, as far as a proxy has to speak it itself.
//!
//! In go content types, statuses of HTTP and texts; out come statuses of gRPC, the fields that say
//! them, and the question whether a server is well with what its answer means. What clients and
//! servers say to each other is never looked at.

use super::BodyLength;
use super::chunked::ChunkScanner;
use super::head::ResponseHead;

/// Statuses (grpc.io/docs/guides/status-codes) that something here depends on.
pub(crate) const OK: u8 = 0;
pub(crate) const CANCELLED: u8 = 1;
const UNKNOWN: u8 = 2;
pub(crate) const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
pub(crate) const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
pub(crate) const INTERNAL: u8 = 13;
pub(crate) const UNAVAILABLE: u8 = 14;
const UNAUTHENTICATED: u8 = 16;

const CONTENT_TYPE: &[u8] = b"application/grpc";
/// A longer one is not said back.
const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// What is said of a failure.
const MESSAGE_BYTES_MAX: usize = 256;

/// Whether a message with this content type is one of gRPC, or of gRPC-Web.
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    let Some((start, rest)) = content_type.split_at_checked(CONTENT_TYPE.len()) else {
        return false;
    };
    start.eq_ignore_ascii_case(CONTENT_TYPE)
        && (matches!(rest.first(), None | Some(b'+' | b';' | b' '))
            || rest.get(..4).is_some_and(|web| web.eq_ignore_ascii_case(b"-web")))
}

/// What a status of HTTP means to a client of gRPC (grpc: http-grpc-status-mapping.md).
pub(crate) fn status_of(http: u16) -> u8 {
    match http {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// The fields of a failure that a client of gRPC understands, whole lines, the first of which says
/// the content type of its request.
pub(crate) fn failure(content_type: &[u8], http: u16, message: &str) -> Vec<u8> {
    let is_short = content_type.len() <= CONTENT_TYPE_BYTES_MAX;
    let content_type = if is_short { content_type } else { CONTENT_TYPE };
    let mut out = b"Content-Type: ".to_vec();
    out.extend_from_slice(content_type);
    out.extend_from_slice(format!("\r\ngrpc-status: {}\r\n", status_of(http)).as_bytes());
    out.extend_from_slice(b"grpc-message: ");
    put_message(&mut out, message);
    out.extend_from_slice(b"\r\n");
    out
}

/// Percent-encoded as gRPC has it: all but printable ASCII, and the percent sign.
fn put_message(out: &mut Vec<u8>, message: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    for byte in message[..end].trim_end().bytes() {
        match byte {
            b'%' | 0..b' ' | 0x7f.. => {
                let digits = [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
                out.push(b'%');
                out.extend_from_slice(&digits);
            }
            _ => out.push(byte),
        }
    }
}

/// The status that an answer is, whose head is at the beginning of `text`, where it is nothing
/// else.
pub(crate) fn status_alone(head: &ResponseHead, text: &[u8]) -> Option<u8> {
    let content_type = head.fields.only_value(text, b"content-type")?;
    let status = head.fields.only_value(text, b"grpc-status")?;
    (head.status == 200 && is_grpc(content_type)).then(|| parse_status(status)).flatten()
}

/// A value of grpc-status.
fn parse_status(value: &[u8]) -> Option<u8> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// What a server is asked (grpc.health.v1.Health).
pub(crate) const HEALTH_PATH: &str = "/grpc.health.v1.Health/Check";

/// Longer names are not asked for.
pub(crate) const SERVICE_BYTES_MAX: usize = 100;

/// The body of the question whether `service` is well; "" is the whole server. It is a message with
/// one string, field 1.
pub(crate) fn health_question(service: &str) -> Vec<u8> {
    debug_assert!(service.len() <= SERVICE_BYTES_MAX);
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend_from_slice(&[0x0a, service.len() as u8]);
        message.extend_from_slice(service.as_bytes());
    }
    let mut body = vec![0, 0, 0, 0, message.len() as u8];
    body.extend_from_slice(&message);
    body
}

/// What an answer to that question says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// More of it has to come.
    Unsaid,
    Good,
    Bad(String),
}

/// What the body of an answer says that is framed by `length`, and of which `body` has come.
pub(crate) fn health(body: &[u8], length: BodyLength) -> Health {
    let unread = || Health::Bad("an answer that cannot be read".to_owned());
    let mut payload = Vec::new();
    if let BodyLength::Exact(bytes) = length {
        // Its trailers are not to be seen.
        match usize::try_from(bytes).ok().and_then(|bytes| body.get(..bytes)) {
            Some(whole) => payload.extend_from_slice(whole),
            None => return Health::Unsaid,
        }
    } else {
        let mut end = 0;
        let looked = ChunkScanner::new().advance_with(body, |part| {
            end = part.end;
            payload.extend_from_slice(&body[part]);
        });
        match looked {
            Err(_) => return unread(),
            Ok(progress) if !progress.is_done => return Health::Unsaid,
            Ok(_) => {}
        }
        if let Some(status) = status_in(&body[end..]).filter(|status| *status != OK) {
            return Health::Bad(format!("grpc-status {status}"));
        }
    }
    match serving_status(&payload) {
        Some(1) => Health::Good,
        Some(0) => Health::Bad("UNKNOWN".to_owned()),
        Some(2) => Health::Bad("NOT_SERVING".to_owned()),
        Some(3) => Health::Bad("SERVICE_UNKNOWN".to_owned()),
        _ => unread(),
    }
}

/// The grpc-status among `lines`.
pub(crate) fn status_in(lines: &[u8]) -> Option<u8> {
    lines.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        name.eq_ignore_ascii_case(b"grpc-status").then(|| parse_status(value)).flatten()
    })
}

/// The status in a message of one enumeration, field 1, that is not there where it is 0. Other
/// fields are skipped, as protobuf wants it.
fn serving_status(payload: &[u8]) -> Option<u64> {
    let (head, mut rest) = payload.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    // A compressed one was not asked for.
    if head[0] != 0 || length as usize != rest.len() {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let skipped = match key & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if key == 8 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return None,
        };
        rest = rest.get(skipped..)?;
    }
    Some(status)
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_grpc_are_known() {
        for good in [
            "application/grpc",
            "Application/GRPC",
            "application/grpc+proto",
            "application/grpc; charset=utf-8",
            "application/grpc-web",
            "application/grpc-web-text+proto",
        ] {
            assert!(is_grpc(good.as_bytes()), "{good}");
        }
        for other in ["", "application/json", "application/grp", "application/grpcs", "text/html"] {
            assert!(!is_grpc(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn statuses_of_http_become_those_of_grpc() {
        let table = [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
            (500, 2),
            (413, 2),
        ];
        for (http, grpc) in table {
            assert_eq!(status_of(http), grpc, "{http}");
        }
    }

    #[test]
    fn a_failure_says_the_type_of_its_request_and_an_encoded_message() {
        let lines = failure(b"application/grpc+proto", 502, "100 % b\u{e9}d\n");
        let expected = "Content-Type: application/grpc+proto\r\ngrpc-status: 14\r\n\
                        grpc-message: 100 %25 b%C3%A9d\r\n";
        assert_eq!(String::from_utf8(lines).unwrap(), expected);
        let long = failure(&[b'a'; 200], 503, &"\u{e9}".repeat(200));
        let long = String::from_utf8(long).unwrap();
        assert!(long.starts_with("Content-Type: application/grpc\r\n"));
        assert!(long.ends_with(&format!("grpc-message: {}\r\n", "%C3%A9".repeat(128))));
    }

    #[test]
    fn the_question_for_health_is_a_message_with_one_string() {
        assert_eq!(health_question(""), [0, 0, 0, 0, 0]);
        assert_eq!(health_question("a.B"), b"\0\0\0\0\x05\x0a\x03a.B");
    }

    #[test]
    fn serving_alone_is_good() {
        let answer = |payload: &[u8], trailers: &str| {
            let mut body = format!("{:x}\r\n", payload.len()).into_bytes();
            body.extend_from_slice(payload);
            body.extend_from_slice(format!("\r\n0\r\n{trailers}\r\n").as_bytes());
            body
        };
        let good = answer(b"\0\0\0\0\x02\x08\x01", "grpc-status: 0\r\n");
        assert_eq!(health(&good, BodyLength::Chunked), Health::Good);
        for end in 0..good.len() {
            assert_eq!(health(&good[..end], BodyLength::Chunked), Health::Unsaid, "{end}");
        }
        let bad = |payload: &[u8], trailers| match health(
            &answer(payload, trailers),
            BodyLength::Chunked,
        ) {
            Health::Bad(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(bad(b"\0\0\0\0\x02\x08\x02", ""), "NOT_SERVING");
        assert_eq!(bad(b"\0\0\0\0\x02\x08\x03", ""), "SERVICE_UNKNOWN");
        assert_eq!(bad(b"\0\0\0\0\0", "grpc-status: 0\r\n"), "UNKNOWN");
        assert_eq!(bad(b"\0\0\0\0\x02\x08\x01", "grpc-status: 13\r\n"), "grpc-status 13");
        let unread = "an answer that cannot be read";
        for payload in [
            &b"\0"[..],
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x03\x08\x01",
            b"\0\0\0\0\x01\x08",
            b"\0\0\0\0\x02\x0b\x01",
            b"\0\0\0\0\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\0\0\0\0\x03\x12\x7fa",
        ] {
            assert_eq!(bad(payload, ""), unread, "{payload:?}");
        }
        assert_eq!(health(b"x", BodyLength::Chunked), Health::Bad(unread.to_owned()));
        // Fields that a later version may have are skipped.
        let answer = answer(b"\0\0\0\0\x05\x12\x01a\x08\x01", "");
        assert_eq!(health(&answer, BodyLength::Chunked), Health::Good);
        // One that says its length.
        let sized = |body: &[u8]| health(body, BodyLength::Exact(7));
        assert_eq!(sized(b"\0\0\0\0\x02\x08\x01"), Health::Good);
        assert_eq!(sized(b"\0\0\0\0\x02\x08"), Health::Unsaid);
        assert_eq!(sized(b"\0\0\0\0\x02\x08\x02"), Health::Bad("NOT_SERVING".to_owned()));
    }
}
