//! Messages (RFC 9113 §8): what the fields of a block make of a request, a response or trailers.
//!
//! In go the lines of a block, one by one; out comes the head as canonical HTTP/1.1 text, so that
//! whoever reads HTTP/1 reads it with all its own checks, or why it is no message. Rules of HTTP/2
//! are judged here, and none of HTTP/1's: two hosts, or none, are said as they are. A head that is
//! too large is no longer written from there on, but read to its end.

use std::ops::Range;

use super::error::Malformed;
use super::hpack::{Line, Sink};
use super::names::{Kind, is_token};
use super::priority::Priority;

/// What a block is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// `allows_protocol`: we have said that other protocols may be asked for (RFC 8441).
    Request {
        allows_protocol: bool,
        /// The target is written in absolute form: whoever reads it may have to pass it on.
        is_absolute: bool,
    },
    Response,
    Trailers,
    /// Nothing: it is decoded because the table must stay in step.
    Nothing,
}

/// How large a head may be, by RFC 9113 §6.5.2: names, values and 32 bytes for each field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadBounds {
    pub bytes: u32,
    pub count: u16,
}

/// Why a head is answered 431.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oversize {
    Bytes,
    Count,
}

/// What a request asks of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Plain,
    /// CONNECT: its text is that of HTTP/1.
    Connect,
    /// Extended CONNECT: its text is a GET; the protocol is said beside it.
    Extended,
}

/// A message that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Where its text stands: a head with its empty line, or the lines of trailers without one.
    pub text: Range<usize>,
    pub kind: RequestKind,
    /// Where the protocol of an extended CONNECT stands.
    pub protocol: Option<Range<usize>>,
    /// Of a response.
    pub status: u16,
    pub is_head_request: bool,
    pub length: Option<u64>,
    pub priority: Option<Priority>,
}

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoMessage {
    Malformed(Malformed),
    Oversize(Oversize),
}

/// A place in the text.
type Place = Option<(u32, u32)>;

/// Reads one block.
#[derive(Debug)]
pub(crate) struct Reader {
    expected: Expected,
    bounds: HeadBounds,
    start: usize,
    method: Place,
    scheme: Place,
    path: Place,
    authority: Place,
    protocol: Place,
    status: u16,
    /// Where the head begins, as soon as its first line is written.
    head: Option<u32>,
    /// The first line is written, and nothing was wrong so far.
    is_writing: bool,
    fields: u16,
    bytes: u32,
    cookies: Cookies,
    length: Option<u64>,
    priority: Option<Priority>,
    malformed: Option<Malformed>,
    oversize: Option<Oversize>,
}

/// Where crumbs of a cookie stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cookies {
    Nowhere,
    /// In one line, which ends here.
    Together(u32),
    /// In several lines.
    Scattered,
}

impl Reader {
    /// A reader of a block whose lines follow what `text` holds.
    pub(crate) fn new(expected: Expected, bounds: HeadBounds, text: &[u8]) -> Self {
        Self {
            expected,
            bounds,
            start: text.len(),
            method: None,
            scheme: None,
            path: None,
            authority: None,
            protocol: None,
            status: 0,
            head: (expected == Expected::Trailers).then_some(text.len() as u32),
            is_writing: expected == Expected::Trailers,
            fields: 0,
            bytes: 0,
            cookies: Cookies::Nowhere,
            length: None,
            priority: None,
            malformed: None,
            oversize: None,
        }
    }

    /// All fields have come. Where there is no message, nothing is left of its text.
    pub(crate) fn finish(mut self, text: &mut Vec<u8>) -> Result<Message, NoMessage> {
        if self.malformed.is_none() && self.oversize.is_none() && self.head.is_none() {
            self.begin(text);
        }
        if self.cookies == Cookies::Scattered {
            self.join_cookies(text);
        }
        let failed = match (self.malformed, self.oversize) {
            (Some(malformed), _) => Some(NoMessage::Malformed(malformed)),
            (None, Some(oversize)) => Some(NoMessage::Oversize(oversize)),
            (None, None) => None,
        };
        if let Some(failed) = failed {
            text.truncate(self.start);
            return Err(failed);
        }
        if matches!(self.expected, Expected::Request { .. } | Expected::Response) {
            text.extend_from_slice(b"\r\n");
        }
        let is_connect = self.is_method(text, b"CONNECT");
        let kind = match self.protocol {
            Some(_) => RequestKind::Extended,
            None if is_connect => RequestKind::Connect,
            None => RequestKind::Plain,
        };
        let protocol = self.protocol.map(|(start, end)| start as usize..end as usize);
        Ok(Message {
            text: self.head.map_or(self.start, |head| head as usize)..text.len(),
            kind,
            protocol,
            status: self.status,
            is_head_request: self.is_head_request(text),
            length: self.length,
            priority: self.priority,
        })
    }

    /// Whether it is more than may be.
    #[inline]
    pub(crate) fn is_oversize(&self) -> bool {
        self.oversize.is_some()
    }

    /// Whether it is the head of a HEAD, as far as it has come.
    pub(crate) fn is_head_request(&self, text: &[u8]) -> bool {
        self.is_method(text, b"HEAD")
    }

    fn is_method(&self, text: &[u8], method: &[u8]) -> bool {
        self.method.is_some_and(|place| at(text, place) == method)
    }

    fn refuse(&mut self, malformed: Malformed) {
        self.is_writing = false;
        self.malformed.get_or_insert(malformed);
    }

    /// A field that is more than a line to be kept.
    fn judge_field(&mut self, text: &mut Vec<u8>, line: Line) {
        if self.bytes > self.bounds.bytes {
            self.outgrow(Oversize::Bytes);
        } else if self.fields > self.bounds.count {
            self.outgrow(Oversize::Count);
        }
        if !line.is_valid {
            self.refuse(reason(line.kind));
        }
        let is_over = self.oversize.is_some() || self.malformed.is_some();
        if is_over || self.expected == Expected::Nothing {
            text.truncate(line.at);
        } else if line.kind.is_pseudo() {
            self.pseudo(text, line);
        } else if self.head.is_some() {
            self.keep(text, line);
        } else {
            // The first field stands where the first line should: it is said again behind that.
            let end = text.len();
            self.begin(text);
            let at = text.len();
            text.extend_from_within(line.at..end);
            self.keep(text, Line { at, ..line });
        }
    }

    fn outgrow(&mut self, oversize: Oversize) {
        self.is_writing = false;
        self.oversize.get_or_insert(oversize);
    }

    /// A field whose name begins with a colon; its value stays in the text, in front of the head.
    fn pseudo(&mut self, text: &[u8], line: Line) {
        if self.head.is_some() {
            let is_trailer = self.expected == Expected::Trailers;
            self.refuse(if is_trailer { Malformed::Pseudo } else { Malformed::PseudoOrder });
            return;
        }
        let is_response = self.expected == Expected::Response;
        if is_response != (line.kind == Kind::Status) || line.kind == Kind::UnknownPseudo {
            self.refuse(Malformed::Pseudo);
            return;
        }
        let value = ((line.at + line.name + 2) as u32, (text.len() - 2) as u32);
        let place = match line.kind {
            Kind::Method => &mut self.method,
            Kind::Scheme => &mut self.scheme,
            Kind::Path => &mut self.path,
            Kind::Authority => &mut self.authority,
            Kind::Protocol => &mut self.protocol,
            _ => {
                let repeated = self.status != 0;
                self.status = at(text, value)
                    .iter()
                    .fold(0, |sum, digit| sum * 10 + u16::from(digit.wrapping_sub(b'0')));
                if repeated {
                    self.refuse(Malformed::PseudoRepeated);
                }
                return;
            }
        };
        if place.replace(value).is_some() {
            self.refuse(Malformed::PseudoRepeated);
        }
    }

    /// Writes a head's first line, and the host that its pseudo-fields name.
    fn begin(&mut self, text: &mut Vec<u8>) {
        let head = text.len() as u32;
        let written = match self.expected {
            Expected::Request { allows_protocol, is_absolute } => {
                self.begin_request(text, allows_protocol, is_absolute)
            }
            Expected::Response if self.status == 0 => Err(Malformed::PseudoMissing),
            Expected::Response => {
                let digit = |at: u16| b'0' + (self.status / at % 10) as u8;
                text.extend_from_slice(b"HTTP/1.1 ");
                text.extend_from_slice(&[digit(100), digit(10), digit(1), b' ', b'\r', b'\n']);
                Ok(())
            }
            Expected::Trailers | Expected::Nothing => Ok(()),
        };
        match written {
            Ok(()) => (self.head, self.is_writing) = (Some(head), true),
            Err(malformed) => self.refuse(malformed),
        }
    }

    fn begin_request(
        &mut self,
        text: &mut Vec<u8>,
        allows_protocol: bool,
        is_absolute: bool,
    ) -> Result<(), Malformed> {
        let method = self.method.ok_or(Malformed::PseudoMissing)?;
        let is_connect = at(text, method) == b"CONNECT";
        if self.protocol.is_some() && !(is_connect && allows_protocol) {
            return Err(Malformed::Protocol);
        }
        let target = if is_connect && self.protocol.is_none() {
            if self.scheme.is_some() || self.path.is_some() {
                return Err(Malformed::Pseudo);
            }
            self.authority
        } else {
            self.scheme.and(self.path)
        };
        let target = target.ok_or(Malformed::PseudoMissing)?;
        if self.protocol.is_some() {
            if self.authority.is_none() {
                return Err(Malformed::PseudoMissing);
            }
            text.extend_from_slice(b"GET ");
        } else {
            text.extend_from_within(method.0 as usize..method.1 as usize);
            text.push(b' ');
        }
        if let (true, false, None, Some(scheme), Some(authority)) =
            (is_absolute, is_connect, self.protocol, self.scheme, self.authority)
        {
            text.extend_from_within(scheme.0 as usize..scheme.1 as usize);
            text.extend_from_slice(b"://");
            text.extend_from_within(authority.0 as usize..authority.1 as usize);
            // The asterisk has no place behind an authority (RFC 9112 §3.2.4).
            if at(text, target) != b"*" {
                text.extend_from_within(target.0 as usize..target.1 as usize);
            }
        } else {
            text.extend_from_within(target.0 as usize..target.1 as usize);
        }
        text.extend_from_slice(b" HTTP/1.1\r\n");
        if let Some((start, end)) = self.authority {
            text.extend_from_slice(b"host: ");
            // The value is still followed by the end of its line.
            text.extend_from_within(start as usize..end as usize + 2);
        }
        Ok(())
    }

    /// A field that stays, as the last line of the text.
    fn keep(&mut self, text: &mut Vec<u8>, line: Line) {
        match line.kind {
            Kind::Host => {
                let host = &text[line.at + line.name + 2..text.len() - 2];
                // The authority is said by our own line; another host is for HTTP/1 to refuse.
                if self.authority.is_some_and(|it| at(text, it).eq_ignore_ascii_case(host)) {
                    text.truncate(line.at);
                }
            }
            Kind::Cookie => self.add_cookie(text, line),
            Kind::ContentLength => {
                let length = decimal(&text[line.at + line.name + 2..text.len() - 2]);
                if length.is_none() || self.length.is_some() {
                    self.refuse(Malformed::ContentLength);
                }
                self.length = length;
            }
            Kind::Priority => {
                let value = &text[line.at + line.name + 2..text.len() - 2];
                self.priority = Some(self.priority.unwrap_or_default().and(value));
            }
            _ => {}
        }
    }

    /// Crumbs are one cookie again for those who do not speak HTTP/2 (RFC 9113 §8.2.3).
    fn add_cookie(&mut self, text: &mut Vec<u8>, line: Line) {
        if self.expected == Expected::Trailers {
            return;
        }
        let end = line.at as u32;
        match self.cookies {
            Cookies::Nowhere => self.cookies = Cookies::Together(text.len() as u32),
            Cookies::Together(before) if before == end => {
                // `\r\ncookie: b` becomes `; b`.
                let value = line.at + line.name + 2;
                text[line.at - 2..line.at].copy_from_slice(b"; ");
                text.copy_within(value.., line.at);
                text.truncate(text.len() - line.name - 2);
                self.cookies = Cookies::Together(text.len() as u32);
            }
            Cookies::Together(_) | Cookies::Scattered => self.cookies = Cookies::Scattered,
        }
    }

    /// Writes the head once more, with the crumbs in one line at its end.
    fn join_cookies(&mut self, text: &mut Vec<u8>) {
        let Some(head) = self.head else {
            return;
        };
        let (start, end) = (head as usize, text.len());
        let mut crumbs = Vec::new();
        let mut at = start;
        while at < end {
            let line = text[at..end].iter().position(|byte| *byte == b'\n');
            let next = line.map_or(end, |line| at + line + 1);
            match text[at..next].strip_prefix(b"cookie: ") {
                Some(value) => crumbs.push((at + 8, value.len() - 2)),
                None => text.extend_from_within(at..next),
            }
            at = next;
        }
        for (index, (value, bytes)) in crumbs.into_iter().enumerate() {
            text.extend_from_slice(if index == 0 { b"cookie: " } else { b"; " });
            text.extend_from_within(value..value + bytes);
        }
        text.extend_from_slice(b"\r\n");
        self.head = Some(end as u32);
    }
}

impl Sink for Reader {
    fn judge(kind: Kind, value: &[u8]) -> bool {
        match kind {
            Kind::Plain | Kind::Cookie | Kind::Host | Kind::Priority => is_value(value),
            Kind::Method => is_token(value),
            Kind::Scheme => {
                value.eq_ignore_ascii_case(b"https") || value.eq_ignore_ascii_case(b"http")
            }
            Kind::Path => matches!(value, [b'/', ..] | b"*") && is_word(value),
            Kind::Authority | Kind::Protocol => !value.is_empty() && is_word(value),
            // 101 has no place here (RFC 9113 §8.6).
            Kind::Status => {
                matches!(value, [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9']) && value != b"101"
            }
            Kind::Te => value.eq_ignore_ascii_case(b"trailers"),
            Kind::ContentLength => decimal(value).is_some(),
            Kind::UnknownPseudo | Kind::OfConnection | Kind::Malformed => false,
        }
    }

    #[inline]
    fn field(&mut self, text: &mut Vec<u8>, line: Line) {
        self.bytes = self.bytes.saturating_add((text.len() - line.at) as u32 + 28);
        self.fields = self.fields.saturating_add(1);
        let fits = self.bytes <= self.bounds.bytes && self.fields <= self.bounds.count;
        // Most fields stay as they are.
        if !(fits && line.is_valid && line.kind == Kind::Plain && self.is_writing) {
            self.judge_field(text, line);
        }
    }

    fn too_long(&mut self) {
        self.outgrow(Oversize::Bytes);
    }
}

/// Why a field of that kind is never valid with the value that it has.
fn reason(kind: Kind) -> Malformed {
    match kind {
        Kind::Plain | Kind::Cookie | Kind::Host | Kind::Priority => Malformed::Value,
        Kind::Method => Malformed::Method,
        Kind::Scheme => Malformed::Scheme,
        Kind::Path => Malformed::Path,
        Kind::Authority => Malformed::Authority,
        Kind::Protocol => Malformed::Protocol,
        Kind::Status => Malformed::Status,
        Kind::Te => Malformed::Te,
        Kind::ContentLength => Malformed::ContentLength,
        Kind::OfConnection => Malformed::ConnectionField,
        Kind::UnknownPseudo => Malformed::Pseudo,
        Kind::Malformed => Malformed::Name,
    }
}

fn at(text: &[u8], place: (u32, u32)) -> &[u8] {
    &text[place.0 as usize..place.1 as usize]
}

/// RFC 9113 §8.2.1: no NUL, CR or LF, and no blanks at the ends. All else is for HTTP/1 to judge.
fn is_value(value: &[u8]) -> bool {
    let has_end = value.iter().fold(false, |found, byte| found | matches!(byte, 0 | b'\r' | b'\n'));
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !has_end && !is_blank(value.first()) && !is_blank(value.last())
}

/// What stands in a line between blanks: it must not bring any of its own.
fn is_word(text: &[u8]) -> bool {
    !text.iter().fold(false, |found, byte| found | matches!(byte, 0..=b' ' | 0x7f))
}

/// Digits, and no more of them than a length has.
fn decimal(value: &[u8]) -> Option<u64> {
    let sum = |sum: u64, digit: &u8| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    };
    if value.is_empty() { None } else { value.iter().try_fold(0, sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: HeadBounds = HeadBounds { bytes: 400, count: 12 };
    const REQUEST: Expected = Expected::Request { allows_protocol: false, is_absolute: false };

    /// Reads lines `name: value`, the first of them being in front of what the text holds.
    fn read(expected: Expected, fields: &[(&str, &str)]) -> Result<(Message, String), NoMessage> {
        let mut text = b"before".to_vec();
        let mut reader = Reader::new(expected, BOUNDS, &text);
        for (name, value) in fields {
            let (kind, at) = (Kind::of(name.as_bytes()), text.len());
            text.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            let is_valid = Reader::judge(kind, value.as_bytes());
            reader.field(&mut text, Line { at, name: name.len(), kind, is_valid });
        }
        let message = reader.finish(&mut text);
        assert!(text.starts_with(b"before"));
        assert!(message.is_ok() || text == b"before");
        let message = message?;
        let found = String::from_utf8(text[message.text.clone()].to_vec()).expect("text");
        if let Some(protocol) = message.protocol.clone() {
            assert_eq!(&text[protocol], b"websocket");
        }
        Ok((message, found))
    }

    fn request(more: &[(&str, &str)]) -> Result<String, NoMessage> {
        let mut fields =
            vec![(":method", "GET"), (":scheme", "https"), (":path", "/p"), (":authority", "a")];
        fields.extend(more);
        read(REQUEST, &fields).map(|(_, text)| text)
    }

    fn malformed<T>(malformed: Malformed) -> Result<T, NoMessage> {
        Err(NoMessage::Malformed(malformed))
    }

    #[test]
    fn a_target_in_absolute_form_has_scheme_and_authority() {
        let expected = Expected::Request { allows_protocol: false, is_absolute: true };
        let cases = [
            ("GET", "/p?q", "GET https://a/p?q HTTP/1.1\r\nhost: a\r\n\r\n"),
            ("OPTIONS", "*", "OPTIONS https://a HTTP/1.1\r\nhost: a\r\n\r\n"),
        ];
        for (method, path, text) in cases {
            let fields =
                [(":method", method), (":scheme", "https"), (":path", path), (":authority", "a")];
            let found = read(expected, &fields).map(|(_, text)| text);
            assert_eq!(found, Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_request_becomes_text_of_http_1() {
        let head = "GET /p HTTP/1.1\r\nhost: a\r\n";
        assert_eq!(request(&[]), Ok(format!("{head}\r\n")));
        let text = request(&[("accept", "*/*"), ("x", ""), ("te", "trailers")]);
        assert_eq!(text, Ok(format!("{head}accept: */*\r\nx: \r\nte: trailers\r\n\r\n")));
        let fields = [(":path", "*"), (":method", "OPTIONS"), (":scheme", "http"), ("host", "b")];
        let text = read(REQUEST, &fields).map(|(_, text)| text);
        assert_eq!(text.as_deref(), Ok("OPTIONS * HTTP/1.1\r\nhost: b\r\n\r\n"));
    }

    #[test]
    fn a_host_is_said_once_where_both_agree_and_for_http_1_to_refuse_where_not() {
        let head = "GET /p HTTP/1.1\r\nhost: a\r\n";
        assert_eq!(request(&[("host", "A")]), Ok(format!("{head}\r\n")));
        assert_eq!(request(&[("x", "y"), ("host", "a")]), Ok(format!("{head}x: y\r\n\r\n")));
        assert_eq!(request(&[("host", "b")]), Ok(format!("{head}host: b\r\n\r\n")));
        let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
        let text = read(REQUEST, &fields).map(|(_, text)| text);
        assert_eq!(text.as_deref(), Ok("GET / HTTP/1.1\r\n\r\n"));
    }

    #[test]
    fn crumbs_are_one_cookie_wherever_they_stand() {
        let head = "GET /p HTTP/1.1\r\nhost: a\r\n";
        let text = request(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c"), ("x", "y")]);
        assert_eq!(text, Ok(format!("{head}cookie: a=1; b=2; c\r\nx: y\r\n\r\n")));
        let text = request(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c")]);
        assert_eq!(text, Ok(format!("{head}x: y\r\ncookie: a=1; b=2; c\r\n\r\n")));
        let text = request(&[("cookie", "a"), ("cookie", ""), ("x", "y"), ("cookie", "b")]);
        assert_eq!(text, Ok(format!("{head}x: y\r\ncookie: a; ; b\r\n\r\n")));
    }

    #[test]
    fn pseudo_fields_come_once_first_and_all() {
        use Malformed as M;
        let cases: [(&[(&str, &str)], Malformed); 22] = [
            (&[], M::PseudoMissing),
            (&[("x", "y")], M::PseudoMissing),
            (&[(":method", "GET"), (":path", "/")], M::PseudoMissing),
            (&[(":method", "GET"), (":scheme", "http")], M::PseudoMissing),
            (&[(":scheme", "http"), (":path", "/")], M::PseudoMissing),
            (&[(":method", "GET"), (":method", "GET")], M::PseudoRepeated),
            (&[(":path", "/"), (":path", "/")], M::PseudoRepeated),
            (&[(":authority", "a"), (":authority", "a")], M::PseudoRepeated),
            (&[(":scheme", "http"), (":scheme", "http")], M::PseudoRepeated),
            (&[(":status", "200")], M::Pseudo),
            (&[(":other", "x")], M::Pseudo),
            (&[(":method", "CONNECT")], M::PseudoMissing),
            (&[(":method", "CONNECT"), (":authority", "a"), (":path", "/")], M::Pseudo),
            (&[(":method", "CONNECT"), (":authority", "a"), (":scheme", "http")], M::Pseudo),
            (&[(":method", "CONNECT"), (":protocol", "websocket")], M::Protocol),
            (&[(":method", "G T")], M::Method),
            (&[(":method", "")], M::Method),
            (&[(":scheme", "ftp")], M::Scheme),
            (&[(":path", "")], M::Path),
            (&[(":path", "p")], M::Path),
            (&[(":path", "/a b")], M::Path),
            (&[(":authority", "")], M::Authority),
        ];
        for (fields, reason) in cases {
            let found = read(REQUEST, fields).map(|_| ());
            assert_eq!(found, malformed(reason), "{fields:?}");
        }
        assert_eq!(request(&[("x", "y"), (":path", "/")]), malformed(M::PseudoOrder));
        assert_eq!(request(&[("x", "y"), (":other", "/")]), malformed(M::Pseudo));
    }

    #[test]
    fn fields_are_lower_case_and_not_of_a_connection() {
        use Malformed as M;
        let cases = [
            ("X", "y", M::Name),
            ("", "y", M::Name),
            ("a b", "y", M::Name),
            ("a:", "y", M::Name),
            ("a\r\nb", "y", M::Name),
            ("x", "a\r\nb", M::Value),
            ("x", "a\nb", M::Value),
            ("x", "a\0", M::Value),
            ("x", " a", M::Value),
            ("x", "a\t", M::Value),
            ("connection", "close", M::ConnectionField),
            ("keep-alive", "x", M::ConnectionField),
            ("proxy-connection", "x", M::ConnectionField),
            ("transfer-encoding", "chunked", M::ConnectionField),
            ("upgrade", "x", M::ConnectionField),
            ("te", "gzip", M::Te),
            ("te", "trailers, gzip", M::Te),
            ("content-length", "", M::ContentLength),
            ("content-length", "+1", M::ContentLength),
            ("content-length", "1, 1", M::ContentLength),
            ("content-length", "18446744073709551616", M::ContentLength),
        ];
        for (name, value, reason) in cases {
            assert_eq!(request(&[(name, value)]), malformed(reason), "{name:?} {value:?}");
        }
        let twice = [("content-length", "1"), ("content-length", "1")];
        assert_eq!(request(&twice), malformed(M::ContentLength));
    }

    #[test]
    fn tunnels_and_other_protocols_are_told_apart() {
        let connect = [(":method", "CONNECT"), (":authority", "a:443"), ("x", "y")];
        let (message, text) = read(REQUEST, &connect).expect("a tunnel");
        assert_eq!(message.kind, RequestKind::Connect);
        assert_eq!(text, "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\nx: y\r\n\r\n");
        let extended = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":path", "/chat"),
            (":authority", "a"),
        ];
        let allowed = Expected::Request { allows_protocol: true, is_absolute: false };
        let (message, text) = read(allowed, &extended).expect("a protocol");
        assert_eq!(message.kind, RequestKind::Extended);
        assert_eq!(text, "GET /chat HTTP/1.1\r\nhost: a\r\n\r\n");
        let missing = |fields: &[(&str, &str)]| read(allowed, fields).map(|_| ());
        assert_eq!(missing(&extended[..4]), malformed(Malformed::PseudoMissing));
        assert_eq!(missing(&extended[1..]), malformed(Malformed::PseudoMissing));
        let get = [(":method", "GET"), extended[1], extended[2], extended[3], extended[4]];
        assert_eq!(missing(&get), malformed(Malformed::Protocol));
    }

    #[test]
    fn a_response_becomes_text_of_http_1() {
        let fields = [(":status", "200"), ("content-length", "3"), ("priority", "u=1")];
        let (message, text) = read(Expected::Response, &fields).expect("a response");
        assert_eq!((message.status, message.length), (200, Some(3)));
        assert_eq!(text, "HTTP/1.1 200 \r\ncontent-length: 3\r\npriority: u=1\r\n\r\n");
        let status = |status: &str| read(Expected::Response, &[(":status", status)]).map(|_| ());
        assert_eq!(status("103"), Ok(()));
        for wrong in ["101", "99", "1000", "2x0", "", "000", "099"] {
            assert_eq!(status(wrong), malformed(Malformed::Status), "{wrong}");
        }
        let none = read(Expected::Response, &[("x", "y")]).map(|_| ());
        assert_eq!(none, malformed(Malformed::PseudoMissing));
        let path = read(Expected::Response, &[(":status", "200"), (":path", "/")]).map(|_| ());
        assert_eq!(path, malformed(Malformed::Pseudo));
        let twice = [(":status", "200"), (":status", "200")];
        let twice = read(Expected::Response, &twice).map(|_| ());
        assert_eq!(twice, malformed(Malformed::PseudoRepeated));
    }

    #[test]
    fn trailers_are_lines_without_pseudo_fields() {
        let (_, text) = read(Expected::Trailers, &[("a", "1"), ("b", "2")]).expect("trailers");
        assert_eq!(text, "a: 1\r\nb: 2\r\n");
        let pseudo = read(Expected::Trailers, &[("a", "1"), (":path", "/")]).map(|_| ());
        assert_eq!(pseudo, malformed(Malformed::Pseudo));
        let connection = read(Expected::Trailers, &[("connection", "x")]).map(|_| ());
        assert_eq!(connection, malformed(Malformed::ConnectionField));
    }

    #[test]
    fn a_head_is_bounded_by_bytes_and_by_count_and_nothing_of_it_is_left() {
        let value = "v".repeat(100);
        let found = request(&[("x", &value), ("y", &value), ("z", &value)]);
        assert_eq!(found, Err(NoMessage::Oversize(Oversize::Bytes)));
        let many = [("a", "b"); 13];
        let found = read(Expected::Trailers, &many).map(|_| ());
        assert_eq!(found, Err(NoMessage::Oversize(Oversize::Bytes)));
        let mut text = Vec::new();
        let bounds = HeadBounds { bytes: 4000, count: 12 };
        let mut reader = Reader::new(Expected::Trailers, bounds, &text);
        for _ in 0..13 {
            let at = text.len();
            text.extend_from_slice(b"a: b\r\n");
            reader.field(&mut text, Line { at, name: 1, kind: Kind::Plain, is_valid: true });
        }
        let found = reader.finish(&mut text).map(|_| ());
        assert_eq!(found, Err(NoMessage::Oversize(Oversize::Count)));
    }

    #[test]
    fn priorities_in_several_lines_are_one() {
        let fields = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            ("priority", "u=1"),
            ("priority", "i"),
        ];
        let (message, _) = read(REQUEST, &fields).expect("a request");
        assert_eq!(message.priority, Some(Priority { urgency: 1, is_incremental: true }));
    }
}
