//! Puts a sloppy head into the one form that every reader takes alike.
//!
//! In goes the head of an answer that the strict parser has refused, as its bytes arrive; out comes
//! the same head in normal form, with the kinds of what was mended, or that there is no mending it.
//! Only the strict parser says afterwards what the head means, and only its bytes are sent on, so
//! that nobody can read another message than we do. What could be read as two messages is never
//! mended. Of requests, only the target is: see [`target`].

use super::Span;
use super::framing::decimal;
use super::names::{FieldName, elements, is_text, is_token, trim};
use super::path::percent;
use crate::limits::{EMPTY_LINES_MAX, HEADER_COUNT_MAX};

/// What was mended in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Repair {
    /// A line of the head ends in LF alone.
    BareLf,
    /// Empty lines before the status line.
    EmptyLine,
    /// A field goes on in the next line.
    FoldedField,
    /// White space between a field's name and its colon.
    SpaceBeforeColon,
    /// The same Content-Length more than once.
    RepeatedLength,
    /// Content-Length beside chunks.
    LengthBesideCoding,
    /// `chunked` more than once.
    RepeatedCoding,
    /// Chunks in an HTTP/1.0 answer.
    CodingInHttp10,
    /// Framing fields of an answer that can have no body.
    BodilessFraming,
    /// A status above 599.
    UnknownStatus,
    /// White space behind a chunk's size.
    PaddedChunk,
    /// A trailer that would change framing, routing or credentials.
    ForbiddenTrailer,
}

impl Repair {
    pub const COUNT: usize = 12;

    pub const ALL: [Self; Self::COUNT] = [
        Self::BareLf,
        Self::EmptyLine,
        Self::FoldedField,
        Self::SpaceBeforeColon,
        Self::RepeatedLength,
        Self::LengthBesideCoding,
        Self::RepeatedCoding,
        Self::CodingInHttp10,
        Self::BodilessFraming,
        Self::UnknownStatus,
        Self::PaddedChunk,
        Self::ForbiddenTrailer,
    ];

    /// The name in a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::BareLf => "bare_lf",
            Self::EmptyLine => "empty_line",
            Self::FoldedField => "folded_field",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::RepeatedLength => "repeated_length",
            Self::LengthBesideCoding => "length_beside_coding",
            Self::RepeatedCoding => "repeated_coding",
            Self::CodingInHttp10 => "coding_in_http10",
            Self::BodilessFraming => "bodiless_framing",
            Self::UnknownStatus => "unknown_status",
            Self::PaddedChunk => "padded_chunk",
            Self::ForbiddenTrailer => "forbidden_trailer",
        }
    }
}

/// A set of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs(u16);

impl Repairs {
    pub const NONE: Self = Self(0);

    /// What is to be said of an answer with this status.
    #[inline]
    pub(crate) fn of_status(status: u16) -> Self {
        if status < 600 { Self::NONE } else { Self(1 << Repair::UnknownStatus as u8) }
    }

    pub fn add(&mut self, repair: Repair) {
        self.0 |= 1 << repair as u8;
    }

    pub fn has(self, repair: Repair) -> bool {
        self.0 & (1 << repair as u8) != 0
    }

    #[inline]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Says that a repair has touched the framing in a way of its own.
    fn bend(&mut self) {
        self.0 |= BENT;
    }

    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Repair> {
        Repair::ALL.into_iter().filter(move |repair| self.has(*repair))
    }

    /// Whether the end of the message was found in another way than its sender may have meant: its
    /// connection is not to be used again.
    pub fn touch_framing(self) -> bool {
        const HARMLESS: u16 = 1 << Repair::UnknownStatus as u8
            | 1 << Repair::FoldedField as u8
            | 1 << Repair::SpaceBeforeColon as u8
            | 1 << Repair::ForbiddenTrailer as u8;
        self.0 & !HARMLESS != 0
    }
}

const BENT: u16 = 1 << 15;

/// The way through the lines of a head that is still arriving.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Search {
    /// Bytes looked at.
    seen: u32,
    /// Where the line begins that is being looked at.
    line: u32,
    /// Lines before it, empty ones before the status line left out.
    lines: u16,
    empty_lines: u8,
    is_begun: bool,
}

/// What became of the search for the end of a head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mended {
    /// It has not arrived yet.
    Incomplete,
    /// It is beyond repair.
    Hopeless,
    Head(MendedHead),
}

/// A head in normal form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MendedHead {
    pub bytes: Vec<u8>,
    /// The length of what it takes the place of.
    pub taken: usize,
    pub repairs: Repairs,
}

impl Search {
    /// Whether a head is being searched that the strict parser has refused.
    #[inline]
    pub(crate) fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// Looks for the end of the head that `buf` begins with, and mends it.
    pub(crate) fn response(&mut self, buf: &[u8]) -> Mended {
        self.is_begun = true;
        while let Some(&byte) = buf.get(self.seen as usize) {
            let before = (self.seen > self.line).then(|| buf[self.seen as usize - 1]);
            let is_wrong = before == Some(b'\r') && byte != b'\n';
            if is_wrong || !(is_text(byte) || byte == b'\r' || byte == b'\n') {
                return Mended::Hopeless;
            }
            self.seen += 1;
            if byte != b'\n' {
                continue;
            }
            let line = without_end(&buf[self.line as usize..self.seen as usize]);
            self.line = self.seen;
            match self.lines {
                0 if line.is_empty() && self.empty_lines < EMPTY_LINES_MAX => self.empty_lines += 1,
                0 if !is_status_line(line) => return Mended::Hopeless,
                1.. if line.is_empty() => {
                    let head = &buf[..self.seen as usize];
                    *self = Self::default();
                    return mend(head).map_or(Mended::Hopeless, Mended::Head);
                }
                0 => self.lines = 1,
                1.. if usize::from(self.lines) > 2 * HEADER_COUNT_MAX => return Mended::Hopeless,
                1.. => self.lines += 1,
            }
        }
        // What speaks another protocol is told at once.
        let start = &buf[self.line as usize..];
        let is_empty_line = start == b"\r" && self.empty_lines < EMPTY_LINES_MAX;
        if self.lines == 0
            && !is_empty_line
            && !STATUS_LINE.iter().zip(start).all(|(known, byte)| known == byte)
        {
            return Mended::Hopeless;
        }
        Mended::Incomplete
    }
}

const STATUS_LINE: &[u8] = b"HTTP/1.";

/// Where the version's last digit stands, and the status.
const VERSION_AT: usize = 7;
const STATUS: std::ops::Range<usize> = 9..12;

fn is_status_line(line: &[u8]) -> bool {
    line.starts_with(STATUS_LINE)
        && line.get(VERSION_AT..9).is_some_and(|version| matches!(version, b"0 " | b"1 "))
        && line.get(STATUS).is_some_and(|status| status.iter().all(u8::is_ascii_digit))
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// One field, its lines put together.
struct MendedField<'a> {
    name: &'a [u8],
    value: Vec<u8>,
    known: FieldName,
    is_dropped: bool,
}

/// `None`: it is beyond repair.
fn mend(head: &[u8]) -> Option<MendedHead> {
    let mut repairs = Repairs::NONE;
    let mut lines = head.split_inclusive(|byte| *byte == b'\n').map(|line| {
        if !line.ends_with(b"\r\n") {
            repairs.add(Repair::BareLf);
        }
        without_end(line)
    });
    let mut status_line = lines.next()?;
    let mut has_empty_line = false;
    while status_line.is_empty() {
        has_empty_line = true;
        status_line = lines.next()?;
    }
    let mut fields: Vec<MendedField<'_>> = Vec::new();
    let (mut is_folded, mut is_spaced, mut is_framing_bent) = (false, false, false);
    for line in lines {
        if line.is_empty() {
            continue;
        }
        if matches!(line[0], b' ' | b'\t') {
            let field = fields.last_mut()?;
            is_folded = true;
            is_framing_bent |= frames(field.known);
            match trim(line) {
                [] => {}
                more => {
                    if !field.value.is_empty() {
                        field.value.push(b' ');
                    }
                    field.value.extend_from_slice(more);
                }
            }
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (trim(&line[..colon]), trim(&line[colon + 1..]));
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return None;
        }
        let known = FieldName::of(name);
        if name.len() != colon {
            is_spaced = true;
            is_framing_bent |= frames(known);
        }
        fields.push(MendedField { name, value: value.to_vec(), known, is_dropped: false });
    }
    let status = decimal(status_line.get(STATUS)?)?;
    let is_old = status_line.get(VERSION_AT) == Some(&b'0');
    let added = [
        (has_empty_line, Repair::EmptyLine),
        (is_folded, Repair::FoldedField),
        (is_spaced, Repair::SpaceBeforeColon),
    ];
    added.into_iter().filter(|(is_there, _)| *is_there).for_each(|(_, it)| repairs.add(it));
    if is_framing_bent {
        repairs.bend();
    }
    let is_chunked = settle_framing(&mut fields, status, &mut repairs)?;
    if is_chunked && is_old {
        repairs.add(Repair::CodingInHttp10);
    }
    let bytes = write(status_line, is_chunked && is_old, &fields, head.len());
    Some(MendedHead { bytes, taken: head.len(), repairs })
}

fn frames(known: FieldName) -> bool {
    matches!(known, FieldName::ContentLength | FieldName::TransferEncoding | FieldName::Connection)
}

/// Leaves at most one framing field, where it is beyond doubt what was meant. Whether that says
/// that the body comes in chunks; `None` where it is in doubt.
fn settle_framing(
    fields: &mut [MendedField<'_>],
    status: u64,
    repairs: &mut Repairs,
) -> Option<bool> {
    let is_bodiless = matches!(status, 100..200 | 204 | 304);
    let lengths = said(fields, FieldName::ContentLength);
    let codings = said(fields, FieldName::TransferEncoding);
    let length = agreed(&lengths);
    if is_bodiless && !(lengths.is_empty() && codings.is_empty()) {
        // What 304 says of a length is what 200 would have had (RFC 9110 §8.6).
        let is_fact = status == 304 && length.is_some();
        if !is_fact {
            keep(fields, FieldName::ContentLength, None);
        } else if lengths.len() > 1 {
            repairs.add(Repair::RepeatedLength);
            keep(fields, FieldName::ContentLength, lengths.first().map(Vec::as_slice));
        }
        keep(fields, FieldName::TransferEncoding, None);
        if !is_fact || !codings.is_empty() {
            repairs.add(Repair::BodilessFraming);
        }
        return Some(false);
    }
    let is_chunked =
        !codings.is_empty() && codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    if !is_chunked {
        if lengths.len() > 1 {
            length?;
            repairs.add(Repair::RepeatedLength);
            keep(fields, FieldName::ContentLength, lengths.first().map(Vec::as_slice));
        }
        return Some(false);
    }
    if codings.len() > 1 {
        repairs.add(Repair::RepeatedCoding);
        keep(fields, FieldName::TransferEncoding, Some(b"chunked"));
    }
    if !lengths.is_empty() {
        length?;
        repairs.add(Repair::LengthBesideCoding);
        keep(fields, FieldName::ContentLength, None);
    }
    Some(true)
}

/// The elements of all fields of this class.
fn said(fields: &[MendedField<'_>], known: FieldName) -> Vec<Vec<u8>> {
    let fields = fields.iter().filter(|field| field.known == known);
    fields.flat_map(|field| elements(&field.value).map(<[u8]>::to_vec)).collect()
}

/// The number that all of them are.
fn agreed(numbers: &[Vec<u8>]) -> Option<u64> {
    let (first, others) = numbers.split_first()?;
    let number = decimal(first)?;
    others.iter().all(|other| decimal(other) == Some(number)).then_some(number)
}

/// Drops the fields of this class but the first, which gets this value, if there is one.
fn keep(fields: &mut [MendedField<'_>], known: FieldName, value: Option<&[u8]>) {
    let mut value = value;
    for field in fields.iter_mut().filter(|field| field.known == known) {
        match value.take() {
            Some(value) => field.value = value.to_vec(),
            None => field.is_dropped = true,
        }
    }
}

fn write(
    status_line: &[u8],
    is_renewed: bool,
    fields: &[MendedField<'_>],
    bytes: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 2 * fields.len() + 4);
    out.extend_from_slice(status_line);
    if is_renewed {
        out[VERSION_AT] = b'1';
    }
    for field in fields.iter().filter(|field| !field.is_dropped) {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(field.name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(&field.value);
    }
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// The request line that `buf` begins with, behind empty lines, in the form in which every server
/// takes it: bytes above 127 of the target percent-encoded, its fragment dropped, which no server
/// is ever meant to see (RFC 9110 §7.1). `None` where nothing of that kind is there. With it comes
/// the place of the target.
pub(crate) fn target(buf: &[u8]) -> Option<(Span, Vec<u8>)> {
    let start = buf.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let line = buf[start..].split(|byte| *byte == b'\r').next()?;
    let mut parts = line.split(|byte| *byte == b' ');
    let (_, target, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let is_named = target.first() == Some(&b'/') || target.get(..4)?.eq_ignore_ascii_case(b"http");
    if !is_named || !target.iter().any(|byte| *byte == b'#' || !byte.is_ascii()) {
        return None;
    }
    let sent = target.split(|byte| *byte == b'#').next()?;
    let mut mended = Vec::with_capacity(3 * sent.len());
    for &byte in sent {
        if byte.is_ascii() {
            mended.push(byte);
        } else {
            mended.extend_from_slice(&percent(byte));
        }
    }
    Some((Span::within(buf, target), mended))
}

/// So much of what was refused is quoted.
pub(crate) const QUOTED_BYTES: usize = 64;

/// The first bytes of what was refused, escaped.
pub(crate) fn quote(buf: &[u8]) -> String {
    buf[..buf.len().min(QUOTED_BYTES)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn mended(head: &str) -> Option<(String, Vec<&'static str>)> {
        match Search::default().response(head.as_bytes()) {
            Mended::Head(head) => {
                let text = String::from_utf8(head.bytes).unwrap();
                Some((text, head.repairs.iter().map(Repair::name).collect()))
            }
            Mended::Hopeless => None,
            Mended::Incomplete => panic!("incomplete: {head:?}"),
        }
    }

    #[test]
    fn what_is_meant_beyond_doubt_is_said_in_the_one_way() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("HTTP/1.1 200 OK\nA: b\n\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n", &["bare_lf"]),
            ("\n\r\nHTTP/1.1 200\r\n\r\n", "HTTP/1.1 200\r\n\r\n", &["bare_lf", "empty_line"]),
            (
                "HTTP/1.1 200 OK\r\nA\t :b \r\n  c\r\n \r\n\td\r\n\r\n",
                "HTTP/1.1 200 OK\r\nA: b c d\r\n\r\n",
                &["folded_field", "space_before_colon"],
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 05\r\ncontent-length:5,5\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 05\r\n\r\n",
                &["repeated_length"],
            ),
            (
                "HTTP/1.0 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 5\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
                &["length_beside_coding", "coding_in_http10"],
            ),
            (
                "HTTP/1.1 304 X\r\nContent-Length: 5, 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n",
                &["repeated_length", "bodiless_framing"],
            ),
            (
                "HTTP/1.1 101 X\r\nContent-Length: x\r\nTransfer-Encoding: y\r\nA: b\r\n\r\n",
                "HTTP/1.1 101 X\r\nA: b\r\n\r\n",
                &["bodiless_framing"],
            ),
        ];
        for &(sloppy, normal, kinds) in cases {
            assert_eq!(mended(sloppy), Some((normal.to_owned(), kinds.to_vec())), "{sloppy:?}");
        }
    }

    #[test]
    fn what_becomes_of_a_head_does_not_depend_on_how_it_arrives() {
        for text in [
            "\r\n\nHTTP/1.1 200 OK\nA: b\r\n c\r\n\n",
            "\r\nHTTP/1.1 200\r\n\r\n",
            "\r\nSSH-2\r\n\r\n",
        ] {
            let whole = Search::default().response(text.as_bytes());
            for cut in 0..text.len() {
                let mut search = Search::default();
                match search.response(&text.as_bytes()[..cut]) {
                    Mended::Incomplete => {
                        assert_eq!(search.response(text.as_bytes()), whole, "{cut} of {text:?}");
                    }
                    early => assert_eq!(early, whole, "{cut} of {text:?}"),
                }
            }
        }
    }

    #[test]
    fn what_could_be_meant_in_two_ways_is_hopeless() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5,\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "\r\n\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "SSH-",
            "H\0",
        ] {
            assert_eq!(mended(head), None, "{head:?}");
        }
    }

    #[test]
    fn only_a_target_that_needs_it_is_put_in_another_form() {
        let sent = |line: &str| {
            let text = format!("\r\nGET {line} HTTP/1.1\r\nHost: a\r\n\r\n");
            target(text.as_bytes()).map(|(span, sent)| {
                assert_eq!(span.of(text.as_bytes()), line.as_bytes());
                String::from_utf8(sent).unwrap()
            })
        };
        assert_eq!(sent("/\u{e9}?\u{e9}#\u{e9}").as_deref(), Some("/%C3%A9?%C3%A9"));
        assert_eq!(sent("HTTP://a#").as_deref(), Some("HTTP://a"));
        for line in ["/a", "*", "a:1#", "#", "/a b#"] {
            assert_eq!(sent(line), None, "{line}");
        }
    }

    fn head() -> impl Strategy<Value = String> {
        let line = select(
            &[
                "Content-Length: 5",
                "Content-Length : 5",
                "Content-Length: 5, 5",
                "Content-Length: 6",
                "Content-Length:\r\n 5",
                "Content-Length: x",
                "Transfer-Encoding: chunked",
                "transfer-encoding\t:chunked, chunked",
                "Transfer-Encoding: gzip",
                "Transfer-Encoding:\n\tchunked",
                "Connection: close",
                "Connection: content-length, x",
                "X: y",
                "X: Transfer-Encoding: chunked",
                " Content-Length: 7",
                "\tfolded",
                "no colon",
                "",
            ][..],
        );
        let end = select(&["\r\n", "\n", "\r\n", "\r"][..]);
        let start = select(
            &[
                "HTTP/1.1 200 OK",
                "HTTP/1.0 200 OK",
                "HTTP/1.1 204",
                "HTTP/1.1 304 X",
                "HTTP/1.1 100 X",
                "HTTP/1.1 999 X",
                "\r\nHTTP/1.1 200 OK",
            ][..],
        );
        (start, vec((line, end.clone()), 0..6), end).prop_map(|(start, lines, end)| {
            let lines: String = lines.into_iter().flat_map(|(line, end)| [line, end]).collect();
            format!("{start}{end}{lines}\r\n\r\n")
        })
    }

    proptest! {
        /// Whoever reads what we send on, reads the message that we have read: it is the strict
        /// parser's, and holds one framing field at most.
        #[test]
        fn no_repair_lets_an_answer_be_framed_in_two_ways(text in head(), cut in 0..200_usize) {
            crate::http::invariants::mended_response(text.as_bytes(), cut);
        }
    }
}
