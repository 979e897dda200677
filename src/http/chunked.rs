//! Follows a chunked body (RFC 9112 §7.1) to its end.
//!
//! In come the bytes of the body as they arrive, split anywhere; out comes how many of them belong
//! to the message and whether it is complete, and on demand where the payload lies, or what of the
//! bytes goes on. Payload is passed over in one step however long it is; only size lines and
//! trailers are looked at byte by byte. Nothing is allocated and nothing is buffered but the start
//! of a trailer's name. What one reader could take for a chunk's end and another could not is an
//! error, or it does not go on: that is for [`ChunkRules`] to say.

use std::ops::Range;

use super::chunk_rules::{ChunkRules, Trailers};
use super::error::LineError;
use super::lines::FieldState;
use super::names::is_essential;
use super::repair::{Repair, Repairs};
use crate::limits::{
    CHUNK_LINE_BYTES_MAX, CHUNK_OVERHEAD_BYTES_MAX, TRAILER_BYTES_MAX, TRAILER_COUNT_MAX,
};

/// Ends a chunked body without trailers.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Why a chunked body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// A chunk size is missing, is not hexadecimal, or has something odd behind it.
    Size,
    /// A chunk size, or the sum of all, is not below 2^63.
    SizeOverflow,
    /// A control byte in a chunk extension.
    Extension,
    /// A size line is longer than [`CHUNK_LINE_BYTES_MAX`].
    LineTooLong,
    /// Extensions outweigh the payload by [`CHUNK_OVERHEAD_BYTES_MAX`].
    Overhead,
    /// A chunk's payload is not followed by CRLF.
    PayloadEnd,
    BareLf,
    BareCr,
    /// A trailer line that is no field line.
    Trailer,
    /// A trailer that would change framing, routing or credentials.
    TrailerForbidden,
    /// More than [`TRAILER_BYTES_MAX`] bytes or [`TRAILER_COUNT_MAX`] lines of trailers.
    TrailersTooLong,
}

impl ChunkError {
    /// The cause in a few words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Size => "invalid chunk size",
            Self::SizeOverflow => "chunk size too large",
            Self::Extension => "invalid chunk extension",
            Self::LineTooLong => "chunk size line too long",
            Self::Overhead => "too many chunk extensions",
            Self::PayloadEnd => "chunk longer than its size",
            Self::BareLf => "chunk line ends without CR",
            Self::BareCr => "CR without LF in a chunk line",
            Self::Trailer => "invalid trailer",
            Self::TrailerForbidden => "forbidden trailer",
            Self::TrailersTooLong => "trailers too long",
        }
    }
}

impl From<LineError> for ChunkError {
    fn from(error: LineError) -> Self {
        match error {
            LineError::BareLf => Self::BareLf,
            LineError::BareCr => Self::BareCr,
            LineError::Name | LineError::Value | LineError::Folded => Self::Trailer,
        }
    }
}

/// What of the input goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Payload,
    Framing,
    Dropped,
    /// It goes on, behind the name that was held back.
    Released,
}

/// What becomes of the trailer line under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineFate {
    /// Not known before its name is.
    Held,
    Kept,
    Dropped,
}

/// A part of what goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// This range of the input.
    Input(Range<usize>),
    /// The start of a trailer's name, which may have come before the input.
    Held([u8; HELD_BYTES_MAX], usize),
}

/// The most that goes on beyond what has just come.
pub(crate) const HELD_BYTES_MAX: usize = TrailerName::START_BYTES;

/// What one call found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belong to this message: all of them unless `is_done`.
    pub used: usize,
    /// The message ends with those bytes.
    pub is_done: bool,
}

/// Where the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Size,
    Digits,
    /// In the white space behind it.
    Padding,
    Extension,
    /// After the CR of a size line.
    LineEnd,
    Payload,
    PayloadCr,
    PayloadLf,
    Trailers(FieldState),
}

/// Follows one chunked body. Of no use after an error.
#[derive(Clone, Copy, Debug)]
pub struct ChunkScanner {
    state: State,
    /// The size being read, then what is left of the payload. `< 2^63`.
    size: u64,
    /// Bytes of the current size line, or of the trailer section.
    line: usize,
    trailers: usize,
    /// What size lines cost beyond their allowance. `<= CHUNK_OVERHEAD_BYTES_MAX`.
    overhead: u64,
    /// All payload passed so far. `< 2^63`.
    payload: u64,
    name: TrailerName,
    line_fate: LineFate,
    rules: ChunkRules,
    repairs: Repairs,
}

impl Default for ChunkScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkScanner {
    /// At the first byte of a body.
    pub const fn new() -> Self {
        Self::by(ChunkRules::STRICT)
    }

    /// The same, by other rules.
    pub const fn by(rules: ChunkRules) -> Self {
        Self {
            state: State::Size,
            size: 0,
            line: 0,
            trailers: 0,
            overhead: 0,
            payload: 0,
            name: TrailerName::EMPTY,
            line_fate: LineFate::Kept,
            rules,
            repairs: Repairs::NONE,
        }
    }

    /// Goes on by other rules.
    #[must_use]
    pub const fn with(self, rules: ChunkRules) -> Self {
        Self { rules, ..self }
    }

    /// What was not as it should be, and taken all the same.
    pub fn repairs(&self) -> Repairs {
        self.repairs
    }

    /// Whether all that is taken goes on.
    pub fn passes_all(&self) -> bool {
        self.rules == ChunkRules::STRICT
    }

    /// Whether trailers are under way of which some may not go on.
    pub fn is_sifting(&self) -> bool {
        self.rules.trailers == Trailers::Sift && matches!(self.state, State::Trailers(_))
    }

    /// Passes over `input`, the bytes that follow those of the last call.
    pub fn advance(&mut self, input: &[u8]) -> Result<Progress, ChunkError> {
        self.advance_with(input, |_| {})
    }

    /// As [`ChunkScanner::advance`], and hands each run of payload to `each` as a range of `input`.
    pub fn advance_with(
        &mut self,
        input: &[u8],
        mut each: impl FnMut(Range<usize>),
    ) -> Result<Progress, ChunkError> {
        let mut at = 0;
        while at < input.len() && !self.is_done() {
            let (length, fate) = self.step(&input[at..])?;
            if fate == Fate::Payload {
                each(at..at + length);
            }
            at += length;
        }
        Ok(Progress { used: at, is_done: self.is_done() })
    }

    /// As [`ChunkScanner::advance`], and hands what goes on to `each`, in order. Stops before
    /// trailers that are to be sifted where it `stops`.
    pub fn advance_kept(
        &mut self,
        input: &[u8],
        stops: bool,
        mut each: impl FnMut(Kept),
    ) -> Result<Progress, ChunkError> {
        let (mut at, mut kept) = (0, 0);
        while at < input.len() && !self.is_done() && !(stops && self.is_sifting()) {
            let (length, fate) = self.step(&input[at..])?;
            if matches!(fate, Fate::Dropped | Fate::Released) {
                if kept < at {
                    each(Kept::Input(kept..at));
                }
                kept = at;
            }
            match fate {
                Fate::Dropped => kept = at + length,
                Fate::Released => {
                    each(Kept::Held(self.name.start, self.name.length.min(HELD_BYTES_MAX)));
                }
                Fate::Payload | Fate::Framing => {}
            }
            at += length;
        }
        if kept < at {
            each(Kept::Input(kept..at));
        }
        Ok(Progress { used: at, is_done: self.is_done() })
    }

    #[inline]
    fn step(&mut self, rest: &[u8]) -> Result<(usize, Fate), ChunkError> {
        match self.state {
            State::Payload => {
                let length = self.size.min(rest.len() as u64) as usize;
                self.pass(length);
                Ok((length, Fate::Payload))
            }
            State::PayloadCr if rest.starts_with(b"\r\n") => {
                self.state = State::Size;
                Ok((2, Fate::Framing))
            }
            State::Size => self.read_line(rest),
            _ => self.read_byte(rest[0]),
        }
    }

    /// Payload bytes passed so far.
    pub fn payload_bytes(&self) -> u64 {
        self.payload
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Trailers(FieldState::Done)
    }

    fn pass(&mut self, length: usize) {
        self.size -= length as u64;
        self.payload += length as u64;
        if self.size == 0 {
            self.state = State::PayloadCr;
        }
    }

    /// Passes over a size line in one go where it is whole and has no extension, as nearly all
    /// are, and over its first byte elsewhere.
    fn read_line(&mut self, input: &[u8]) -> Result<(usize, Fate), ChunkError> {
        let Some((size, digits)) = plain_size(input) else { return self.read_byte(input[0]) };
        self.size = size;
        self.line = digits + 1;
        self.state = self.end_line()?;
        Ok((digits + 2, Fate::Framing))
    }

    fn read_byte(&mut self, byte: u8) -> Result<(usize, Fate), ChunkError> {
        let before = self.state;
        self.state = self.after(byte)?;
        let fate = match (before, self.state) {
            (_, State::Padding) => Fate::Dropped,
            (_, State::Extension) if self.rules.drops_extensions => Fate::Dropped,
            (State::Trailers(from), State::Trailers(to)) => self.trailer_fate(from, to),
            _ => Fate::Framing,
        };
        Ok((1, fate))
    }

    fn trailer_fate(&mut self, from: FieldState, to: FieldState) -> Fate {
        use FieldState as F;
        match (self.rules.trailers, from, to) {
            (Trailers::Pass, ..) | (_, F::Start, F::LastEnd) | (_, F::LastEnd, F::Done) => {
                Fate::Framing
            }
            (Trailers::Drop, ..) => Fate::Dropped,
            (Trailers::Sift, F::Start, _) => {
                self.line_fate = LineFate::Held;
                Fate::Dropped
            }
            (Trailers::Sift, ..) => match self.line_fate {
                LineFate::Kept => Fate::Framing,
                LineFate::Dropped => Fate::Dropped,
                // The longest name that is told apart is shorter than what is held back.
                LineFate::Held if to == F::Name && self.name.length <= HELD_BYTES_MAX => {
                    Fate::Dropped
                }
                LineFate::Held if self.name.is_forbidden() => {
                    self.line_fate = LineFate::Dropped;
                    self.repairs.add(Repair::ForbiddenTrailer);
                    Fate::Dropped
                }
                LineFate::Held => {
                    self.line_fate = LineFate::Kept;
                    Fate::Released
                }
            },
        }
    }

    fn after(&mut self, byte: u8) -> Result<State, ChunkError> {
        match self.state {
            State::Size | State::Digits | State::Padding => self.after_size(byte),
            State::Extension => self.after_extension(byte),
            State::LineEnd if byte == b'\n' => self.end_line(),
            State::LineEnd => Err(ChunkError::BareCr),
            State::PayloadCr if byte == b'\r' => Ok(State::PayloadLf),
            State::PayloadLf if byte == b'\n' => Ok(State::Size),
            State::Payload | State::PayloadCr | State::PayloadLf => Err(ChunkError::PayloadEnd),
            State::Trailers(state) => self.after_trailer(state, byte).map(State::Trailers),
        }
    }

    fn after_size(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.line += 1;
        let is_padded = self.state == State::Padding;
        let Some(digit) = hex_digit(byte).filter(|_| !is_padded) else {
            return match (self.state, byte) {
                (State::Size, _) => Err(ChunkError::Size),
                (_, b' ' | b'\t') if self.rules.takes_padding => {
                    self.repairs.add(Repair::PaddedChunk);
                    if self.line > CHUNK_LINE_BYTES_MAX {
                        return Err(ChunkError::LineTooLong);
                    }
                    Ok(State::Padding)
                }
                (_, b';') => Ok(State::Extension),
                (_, b'\r') => Ok(State::LineEnd),
                (_, b'\n') => Err(ChunkError::BareLf),
                _ => Err(ChunkError::Size),
            };
        };
        // Sixteen digits: zeros in front are legal, endless ones are an attack.
        if self.line > 16 || self.size >> 59 != 0 {
            return Err(ChunkError::SizeOverflow);
        }
        self.size = self.size << 4 | digit;
        Ok(State::Digits)
    }

    fn after_extension(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.line += 1;
        if self.line > CHUNK_LINE_BYTES_MAX {
            return Err(ChunkError::LineTooLong);
        }
        match byte {
            b'\r' => Ok(State::LineEnd),
            b'\n' => Err(ChunkError::BareLf),
            0..b' ' | 0x7f if byte != b'\t' => Err(ChunkError::Extension),
            _ => Ok(State::Extension),
        }
    }

    fn end_line(&mut self) -> Result<State, ChunkError> {
        const LINE_ALLOWANCE: u64 = 16;
        let allowance = self.size.saturating_mul(2).saturating_add(LINE_ALLOWANCE);
        self.overhead = (self.overhead + self.line as u64).saturating_sub(allowance);
        if self.overhead > CHUNK_OVERHEAD_BYTES_MAX {
            return Err(ChunkError::Overhead);
        }
        self.line = 0;
        if self.size == 0 {
            return Ok(State::Trailers(FieldState::Start));
        }
        if self.payload + self.size > i64::MAX as u64 {
            return Err(ChunkError::SizeOverflow);
        }
        Ok(State::Payload)
    }

    fn after_trailer(&mut self, state: FieldState, byte: u8) -> Result<FieldState, ChunkError> {
        let next = state.after(byte)?;
        self.line += 1;
        if self.line > TRAILER_BYTES_MAX {
            return Err(ChunkError::TrailersTooLong);
        }
        match (state, next) {
            (FieldState::Start, FieldState::Name) => {
                self.trailers += 1;
                if self.trailers > TRAILER_COUNT_MAX {
                    return Err(ChunkError::TrailersTooLong);
                }
                self.name = TrailerName::EMPTY;
                self.name.push(byte);
            }
            (_, FieldState::Name) => self.name.push(byte),
            (FieldState::Name, _)
                if self.rules.trailers != Trailers::Sift && self.name.is_forbidden() =>
            {
                return Err(ChunkError::TrailerForbidden);
            }
            _ => {}
        }
        Ok(next)
    }
}

/// Size and number of digits of a line that `input` holds whole, if it has nothing but a size.
fn plain_size(input: &[u8]) -> Option<(u64, usize)> {
    /// So few that no size overflows.
    const DIGITS_MAX: usize = 15;
    let mut size = 0;
    for digits in 0..=DIGITS_MAX {
        match hex_digit(*input.get(digits)?) {
            Some(digit) => size = size << 4 | digit,
            None if digits > 0 && input[digits..].starts_with(b"\r\n") => {
                return Some((size, digits));
            }
            None => return None,
        }
    }
    None
}

#[inline]
fn hex_digit(byte: u8) -> Option<u64> {
    match byte {
        b'0'..=b'9' => Some(u64::from(byte - b'0')),
        b'a'..=b'f' => Some(u64::from(byte - b'a' + 10)),
        b'A'..=b'F' => Some(u64::from(byte - b'A' + 10)),
        _ => None,
    }
}

/// The start of a trailer's name, as much as it takes to tell the forbidden ones.
#[derive(Clone, Copy, Debug)]
struct TrailerName {
    start: [u8; Self::START_BYTES],
    /// Of the whole name.
    length: usize,
}

impl TrailerName {
    /// One more than the longest name that is told apart, so that a longer one never equals it.
    const START_BYTES: usize = 20;
    const EMPTY: Self = Self { start: [0; Self::START_BYTES], length: 0 };

    fn push(&mut self, byte: u8) {
        if let Some(next) = self.start.get_mut(self.length) {
            *next = byte;
        }
        self.length += 1;
    }

    /// RFC 9110 §6.5.1: trailers may not bring what the message had to be understood by.
    fn is_forbidden(&self) -> bool {
        is_essential(&self.start[..self.length.min(Self::START_BYTES)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a scan leads to: payload, bytes used and whether it is done; or the error.
    type Outcome = Result<(Vec<u8>, usize, bool), ChunkError>;

    /// Scans `text` in parts that end at `ends`.
    fn scan(text: &[u8], ends: &[usize]) -> Outcome {
        let mut scanner = ChunkScanner::new();
        let mut payload = Vec::new();
        let mut start = 0;
        for &end in ends {
            let input = &text[start..end];
            let progress =
                scanner.advance_with(input, |range| payload.extend_from_slice(&input[range]))?;
            start += progress.used;
            assert_eq!(progress.is_done, scanner.is_done());
            if progress.is_done {
                break;
            }
            assert_eq!(start, end);
        }
        assert_eq!(scanner.payload_bytes(), payload.len() as u64);
        Ok((payload, start, scanner.is_done()))
    }

    /// Scans in one piece, in all pairs of pieces and byte by byte: all must agree.
    fn scan_every_way(text: &[u8]) -> Outcome {
        let whole = scan(text, &[text.len()]);
        for cut in 0..=text.len() {
            assert_eq!(scan(text, &[cut, text.len()]), whole, "cut at {cut} of {text:?}");
        }
        let bytes: Vec<usize> = (1..=text.len()).collect();
        assert_eq!(scan(text, &bytes), whole, "byte by byte: {text:?}");
        whole
    }

    #[test]
    fn chunks_are_followed_to_their_end_and_no_further() {
        let cases: &[(&str, &str)] = &[
            ("0\r\n\r\n", ""),
            ("000000\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            ("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world"),
            ("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"),
            ("0000000000000005\r\nhello\r\n0\r\n\r\n", "hello"),
            ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
            ("5;name=value;x\r\nhello\r\n0;last\r\n\r\n", "hello"),
            ("5;a=\"b c\"\r\nhello\r\n0\r\n\r\n", "hello"),
            ("5;\t\u{e9}\r\nhello\r\n0\r\n\r\n", "hello"),
            ("5\r\nhello\r\n0\r\nDigest: x\r\nServer-Timing:\t a b \r\n\r\n", "hello"),
            ("0\r\nEmpty:\r\n\r\n", ""),
            ("0\r\nConnections: a-name-longer-than-any-known-one\r\n\r\n", ""),
            ("0\r\nTransfer-Encoding-Of-The-Body: x\r\n\r\n", ""),
        ];
        for &(body, payload) in cases {
            let text = format!("{body}GET / HTTP/1.1\r\n");
            let found = scan_every_way(text.as_bytes());
            assert_eq!(found, Ok((payload.as_bytes().to_vec(), body.len(), true)), "{body:?}");
        }
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        use ChunkError as E;
        let cases: &[(&str, E)] = &[
            ("\r\n", E::Size),
            ("\n", E::Size),
            (";a\r\n", E::Size),
            (" 5\r\nhello\r\n", E::Size),
            ("+5\r\n", E::Size),
            ("-5\r\n", E::Size),
            ("0x5\r\n", E::Size),
            ("5x\r\n", E::Size),
            ("g\r\n", E::Size),
            ("5,5\r\n", E::Size),
            ("5_0\r\n", E::Size),
            ("5 \r\n", E::Size),
            ("5\t\r\n", E::Size),
            ("5 5\r\n", E::Size),
            ("5\u{b}\r\n", E::Size),
            ("5\0\r\n", E::Size),
            ("5\n", E::BareLf),
            ("5\r5", E::BareCr),
            ("5\r\r\n", E::BareCr),
            ("5;a\n", E::BareLf),
            ("5;a\rb", E::BareCr),
            ("5;a\0\r\n", E::Extension),
            ("5;a\x7f\r\n", E::Extension),
            ("8000000000000000\r\n", E::SizeOverflow),
            ("ffffffffffffffff\r\n", E::SizeOverflow),
            ("10000000000000005\r\n", E::SizeOverflow),
            ("00000000000000005\r\n", E::SizeOverflow),
            ("1\r\na\r\n7fffffffffffffff\r\n", E::SizeOverflow),
            ("5\r\nhellox\r\n", E::PayloadEnd),
            ("5\r\nhello\n", E::PayloadEnd),
            ("5\r\nhello\rx", E::PayloadEnd),
            ("5\r\nhello0\r\n\r\n", E::PayloadEnd),
            ("5\r\nhello\r\n\r\n", E::Size),
            ("0\r\nA\r\n\r\n", E::Trailer),
            ("0\r\nA : b\r\n\r\n", E::Trailer),
            ("0\r\n A: b\r\n\r\n", E::Trailer),
            ("0\r\nA: b\r\n c\r\n\r\n", E::Trailer),
            ("0\r\nA: \0\r\n\r\n", E::Trailer),
            ("0\r\n: b\r\n\r\n", E::Trailer),
            ("0\r\nA: b\n\r\n", E::BareLf),
            ("0\r\n\n", E::BareLf),
            ("0\r\n\rx", E::BareCr),
            ("0\r\nA: b\rc\r\n", E::BareCr),
            ("0\r\nContent-Length: 5\r\n\r\n", E::TrailerForbidden),
            ("0\r\ntransfer-ENCODING: chunked\r\n\r\n", E::TrailerForbidden),
            ("0\r\nHost: b\r\n\r\n", E::TrailerForbidden),
            ("0\r\nConnection: close\r\n\r\n", E::TrailerForbidden),
            ("0\r\nA: b\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n", E::TrailerForbidden),
            ("0\r\nX-Forwarded-Whatever-It-Is: b\r\n\r\n", E::TrailerForbidden),
            ("0\r\nProxy-Authorization: b\r\n\r\n", E::TrailerForbidden),
            ("0\r\nAuthorization: b\r\n\r\n", E::TrailerForbidden),
            ("0\r\nSet-Cookie: b\r\n\r\n", E::TrailerForbidden),
        ];
        for &(text, error) in cases {
            assert_eq!(scan_every_way(text.as_bytes()), Err(error), "{text:?}");
        }
    }

    #[test]
    fn an_incomplete_body_is_never_done() {
        let text = b"5;x\r\nhello\r\n0\r\nA: b\r\n\r\n";
        for length in 0..text.len() {
            let (_, used, is_done) = scan_every_way(&text[..length]).unwrap();
            assert_eq!((used, is_done), (length, false));
        }
    }

    /// Any byte anywhere: every split agrees, and what is taken never holds a bare CR or LF
    /// outside of the payload.
    #[test]
    fn every_byte_at_every_place_means_the_same_for_every_split() {
        let sample = b"4;x\r\nab\r\n\r\n1\r\nc\r\n0\r\nA: b\r\n\r\n";
        for at in 0..sample.len() {
            for byte in 0..=255 {
                let mut text = sample.to_vec();
                text[at] = byte;
                let _ = scan_every_way(&text);
            }
        }
    }

    #[test]
    fn lines_and_trailers_are_bounded() {
        let line = |length: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(length - 3));
        assert!(scan(line(4096).as_bytes(), &[line(4096).len()]).is_ok());
        assert_eq!(scan(line(4097).as_bytes(), &[line(4097).len()]), Err(ChunkError::LineTooLong));

        let count = |lines: usize| format!("0\r\n{}\r\n", "A: b\r\n".repeat(lines));
        assert!(scan(count(64).as_bytes(), &[count(64).len()]).is_ok());
        assert_eq!(
            scan(count(65).as_bytes(), &[count(65).len()]),
            Err(ChunkError::TrailersTooLong)
        );

        // The section: "A: " + value + CRLF, and the last CRLF.
        let bytes = |section: usize| format!("0\r\nA: {}\r\n\r\n", "b".repeat(section - 7));
        assert!(scan(bytes(16384).as_bytes(), &[bytes(16384).len()]).is_ok());
        assert_eq!(
            scan(bytes(16385).as_bytes(), &[bytes(16385).len()]),
            Err(ChunkError::TrailersTooLong)
        );
    }

    #[test]
    fn single_byte_chunks_pass_and_extensions_that_outweigh_the_payload_do_not() {
        let plain = "1\r\na\r\n".repeat(100_000);
        assert!(scan(plain.as_bytes(), &[plain.len()]).is_ok());
        let padded = format!("1;{}\r\na\r\n", "x".repeat(100)).repeat(1000);
        assert_eq!(scan(padded.as_bytes(), &[padded.len()]), Err(ChunkError::Overhead));
    }

    #[test]
    fn a_copy_looks_ahead_without_moving_the_original() {
        let text = b"5\r\nhello\r\n0\r\n\r\n";
        let scanner = ChunkScanner::new();
        let mut ahead = scanner;
        assert!(ahead.advance(text).unwrap().is_done);
        assert!(!scanner.is_done());
        assert_eq!(scanner.payload_bytes(), 0);
    }

    /// What goes on of `text`, in parts that end at `ends`, and what is left of it.
    fn sieve(rules: ChunkRules, text: &[u8], ends: &[usize]) -> Result<Vec<u8>, ChunkError> {
        let mut scanner = ChunkScanner::by(rules);
        let (mut out, mut start) = (Vec::new(), 0);
        for &end in ends {
            let input = &text[start..end];
            let progress = scanner.advance_kept(input, false, |kept| match kept {
                Kept::Input(range) => out.extend_from_slice(&input[range]),
                Kept::Held(name, count) => out.extend_from_slice(&name[..count]),
            })?;
            start += progress.used;
        }
        assert_eq!(start, text.len());
        assert!(scanner.is_done());
        Ok(out)
    }

    #[test]
    fn what_goes_on_is_the_same_body_without_what_may_not() {
        const LONG: &str = "A-Name-Longer-Than-Any-That-Is-Held";
        let text =
            format!("5;a=b\r\nhello\r\n1;c\r\n!\r\n0;d\r\nX: y\r\n{LONG}: z\r\nX-Two:\r\n\r\n");
        let bare = "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
        let padded =
            "5 \t\r\nhello\r\n0  ;x\r\nHost: a\r\nX: y\r\nX-Forwarded-For-All-Of-Them: b\r\n\
            Content-Length: 3\r\nX-Real-IP: c\r\n{LONG}: z\r\n\r\n"
                .replace("{LONG}", LONG);
        let sifted = format!("5\r\nhello\r\n0;x\r\nX: y\r\n{LONG}: z\r\n\r\n");
        let cases = [
            (ChunkRules::STRICT, text.as_str(), text.as_str()),
            (ChunkRules::BARE, &text, bare),
            (ChunkRules::LENIENT, &text, &text),
            (ChunkRules::LENIENT, &padded, &sifted),
        ];
        for (rules, text, expected) in cases {
            let expected = Ok(expected.as_bytes().to_vec());
            let text = text.as_bytes();
            for cut in 0..=text.len() {
                assert_eq!(sieve(rules, text, &[cut, text.len()]), expected, "{rules:?} {cut}");
            }
            let bytes: Vec<usize> = (1..=text.len()).collect();
            assert_eq!(sieve(rules, text, &bytes), expected, "{rules:?}");
        }
        for rules in [ChunkRules::STRICT, ChunkRules::BARE] {
            let refused = sieve(rules, padded.as_bytes(), &[padded.len()]);
            assert_eq!(refused, Err(ChunkError::Size));
            let trailer = b"0\r\nHost: a\r\n\r\n";
            let refused = sieve(rules, trailer, &[trailer.len()]);
            assert_eq!(refused, Err(ChunkError::TrailerForbidden));
        }
    }
}
