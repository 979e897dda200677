//! Watches the lines of a head or trailer section as its bytes arrive.
//!
//! httparse parses whole heads and takes some liberties (a bare LF ends a line). These machines
//! look at every byte once, keep their state between calls, and say at the first wrong byte what is
//! wrong, however the bytes were split. A head that arrives in one piece and is well-formed is
//! never seen by them; they judge the incomplete and the refused, so that which error is reported
//! depends on the bytes alone. They build nothing and find no ranges.

use super::error::{HeadError, LineError};
use super::limits::HeadLimits;
use super::names::{is_text, is_token};
use crate::limits::{EMPTY_LINES_MAX, HEADER_COUNT_MAX, METHOD_BYTES_MAX};

/// Where the next byte of a field section belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldState {
    #[default]
    Start,
    Name,
    Value,
    /// After the CR of a field line.
    LineEnd,
    /// After the CR of the empty line.
    LastEnd,
    Done,
}

impl FieldState {
    /// Where `byte` leads.
    #[inline]
    pub(crate) fn after(self, byte: u8) -> Result<Self, LineError> {
        match (self, byte) {
            (Self::Start, b'\r') => Ok(Self::LastEnd),
            (Self::Start, b' ' | b'\t') => Err(LineError::Folded),
            (Self::Name, b':') => Ok(Self::Value),
            (Self::Start | Self::Name, _) if is_token(byte) => Ok(Self::Name),
            (Self::Value, b'\r') => Ok(Self::LineEnd),
            (Self::Value, _) if is_text(byte) => Ok(Self::Value),
            (Self::LineEnd, b'\n') => Ok(Self::Start),
            (Self::LastEnd, b'\n') | (Self::Done, _) => Ok(Self::Done),
            (Self::LineEnd | Self::LastEnd, _) => Err(LineError::BareCr),
            (Self::Start | Self::Name | Self::Value, b'\n') => Err(LineError::BareLf),
            (Self::Start | Self::Name, _) => Err(LineError::Name),
            (Self::Value, _) => Err(LineError::Value),
        }
    }
}

/// Whose head it is: the first line differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first line, where a request may be preceded by empty lines.
    Empty,
    EmptyEnd,
    Method,
    Target,
    /// In the version, of which so many bytes were seen.
    Version(u8),
    /// After a response's version: SP, three digits; so many bytes were seen.
    Status(u8),
    Reason,
    FirstEnd,
    Fields(FieldState),
}

/// Follows one head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLines {
    kind: Kind,
    state: State,
    /// Bytes seen, from the start of the buffer.
    seen: usize,
    /// Where the element began that `state` is in. `<= seen`.
    mark: usize,
    empty_lines: u8,
    fields: usize,
    version: [u8; 8],
}

impl HeadLines {
    pub(crate) const fn new(kind: Kind) -> Self {
        let state = match kind {
            Kind::Request => State::Empty,
            Kind::Response => State::Version(0),
        };
        Self { kind, state, seen: 0, mark: 0, empty_lines: 0, fields: 0, version: [0; 8] }
    }

    /// Whether no byte was seen yet.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.seen == 0
    }

    /// Looks at what `buf`, which starts at the head, holds beyond the bytes seen before. Whether
    /// the head is complete.
    pub(crate) fn advance(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<bool, HeadError> {
        while self.state != State::Fields(FieldState::Done) {
            let Some(&byte) = buf.get(self.seen) else { return Ok(false) };
            if self.seen >= limits.head_bytes {
                return Err(HeadError::HeadTooLarge);
            }
            self.state = self.after(byte, limits)?;
            self.seen += 1;
        }
        Ok(true)
    }

    fn after(&mut self, byte: u8, limits: &HeadLimits) -> Result<State, HeadError> {
        match self.state {
            State::Empty => self.after_empty(byte),
            State::EmptyEnd if byte == b'\n' => Ok(State::Empty),
            State::FirstEnd if byte == b'\n' => Ok(State::Fields(FieldState::Start)),
            State::EmptyEnd | State::FirstEnd => Err(HeadError::BareCr),
            State::Method => self.after_method(byte),
            State::Target => self.after_target(byte, limits),
            State::Version(count) => self.after_version(byte, count),
            State::Status(count) => Self::after_status(byte, count),
            State::Reason => match byte {
                b'\r' => Ok(State::FirstEnd),
                b'\n' => Err(HeadError::BareLf),
                _ if is_text(byte) => Ok(State::Reason),
                _ => Err(HeadError::StatusLine),
            },
            State::Fields(state) => {
                let next = state.after(byte)?;
                if state == FieldState::Start && next == FieldState::Name {
                    self.fields += 1;
                    if self.fields > limits.header_count.min(HEADER_COUNT_MAX) {
                        return Err(HeadError::TooManyFields);
                    }
                }
                Ok(State::Fields(next))
            }
        }
    }

    fn after_empty(&mut self, byte: u8) -> Result<State, HeadError> {
        match byte {
            b'\r' if self.empty_lines < EMPTY_LINES_MAX => {
                self.empty_lines += 1;
                Ok(State::EmptyEnd)
            }
            b'\r' => Err(HeadError::EmptyLines),
            b'\n' => Err(HeadError::BareLf),
            _ => {
                self.mark = self.seen;
                self.after_method(byte)
            }
        }
    }

    fn after_method(&mut self, byte: u8) -> Result<State, HeadError> {
        let length = self.seen - self.mark;
        match byte {
            b' ' if length > 0 => {
                self.mark = self.seen + 1;
                Ok(State::Target)
            }
            _ if !is_token(byte) => Err(HeadError::Method),
            _ if length >= METHOD_BYTES_MAX => Err(HeadError::MethodTooLong),
            _ => Ok(State::Method),
        }
    }

    fn after_target(&mut self, byte: u8, limits: &HeadLimits) -> Result<State, HeadError> {
        let length = self.seen - self.mark;
        match byte {
            b' ' if length > 0 => Ok(State::Version(0)),
            // "GET /" and the end of the line was HTTP/0.9.
            b'\r' => Err(HeadError::BadVersion),
            b'\n' => Err(HeadError::BareLf),
            0..=b' ' | 0x7f => Err(HeadError::Target),
            _ if length >= limits.target_bytes => Err(HeadError::TargetTooLong),
            _ => Ok(State::Target),
        }
    }

    fn after_version(&mut self, byte: u8, count: u8) -> Result<State, HeadError> {
        let next = match (count, byte) {
            (8, b'\r') if self.kind == Kind::Request => return Ok(State::FirstEnd),
            (8, b' ') if self.kind == Kind::Response => return Ok(State::Status(1)),
            (_, b'\n') => return Err(HeadError::BareLf),
            (0..5, _) if byte == b"HTTP/"[count as usize] => State::Version(count + 1),
            (5 | 7, b'0'..=b'9') | (6, b'.') => State::Version(count + 1),
            _ => return Err(HeadError::BadVersion),
        };
        self.version[count as usize] = byte;
        match &self.version {
            b"HTTP/1.0" | b"HTTP/1.1" => Ok(next),
            _ if count == 7 => Err(HeadError::OtherVersion),
            _ => Ok(next),
        }
    }

    fn after_status(byte: u8, count: u8) -> Result<State, HeadError> {
        match (count, byte) {
            (1, b'1'..=b'9') | (2 | 3, b'0'..=b'9') => Ok(State::Status(count + 1)),
            (4, b' ') => Ok(State::Reason),
            // The SP before an absent reason is missing often enough to be let pass.
            (4, b'\r') => Ok(State::FirstEnd),
            (_, b'\n') => Err(HeadError::BareLf),
            _ => Err(HeadError::StatusLine),
        }
    }
}
