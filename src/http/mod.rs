//! HTTP/1 as facts about bytes.
//!
//! In come slices of a receive buffer; out go facts (method, ranges, framing) and, from `rewrite`,
//! the bytes of the head to send on. Nothing here touches a socket, a clock or the configuration,
//! and nothing keeps a reference to a buffer: what was found is remembered as ranges, so the same
//! buffer may move between two calls.
//!
//! This file holds the words the other files share; the only logic is what a word itself means.

mod absolute;
pub(crate) mod chunk_rules;
pub(crate) mod chunked;
pub(crate) mod client_chain;
pub(crate) mod edit;
mod error;
mod expect;
pub(crate) mod fields;
pub(crate) mod forwarded_header;
pub(crate) mod framing;
pub(crate) mod grpc;
pub(crate) mod head;
pub(crate) mod interest;
#[doc(hidden)]
pub(crate) mod invariants;
pub(crate) mod limits;
mod lines;
pub(crate) mod moved;
pub(crate) mod names;
mod parsed_cache;
pub(crate) mod path;
pub(crate) mod readings;
pub(crate) mod repair;
pub(crate) mod rewrite;
pub(crate) mod second_reader;
pub(crate) mod socks5;
mod target;
pub(crate) mod trace_context;
pub(crate) mod written_cache;

/// The protocol versions that are spoken. Any other is refused while it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    /// As a client speaks it whose request has come as HTTP/1.1's text.
    Http2,
}

impl Version {
    /// As a request line has it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }
}

/// What a request asks for, as far as a proxy must know. A method without a name here is
/// [`Method::Other`] and is passed on by its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other,
}

impl Method {
    /// Methods are case-sensitive (RFC 9110 §9.1): `get` is some other method.
    pub fn of(text: &[u8]) -> Self {
        match text {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// Whether a request may be sent a second time when its fate is unknown (RFC 9110 §9.2.2).
    pub fn is_idempotent(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace => true,
            Self::Post | Self::Patch | Self::Connect | Self::Other => false,
        }
    }
}

/// How the end of a body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    #[default]
    Empty,
    /// Content-Length said so; may be zero.
    Exact(u64),
    Chunked,
    /// The sender closes the connection. Responses only.
    UntilClose,
}

impl BodyLength {
    /// Whether no body byte follows the head.
    pub fn is_empty(self) -> bool {
        matches!(self, Self::Empty | Self::Exact(0))
    }
}

/// The four forms of a request-target (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetForm {
    #[default]
    Origin,
    Absolute,
    Authority,
    Asterisk,
}

/// A range of a receive buffer: `start <= end <=` the length of the buffer it was found in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// A span of nothing, which is valid for every buffer.
    pub const EMPTY: Self = Self { start: 0, end: 0 };

    /// The bytes meant. `buf` must be the buffer the span was found in, or hold the same bytes.
    #[inline]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        &buf[self.start as usize..self.end as usize]
    }

    #[inline]
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Where `part`, a sub-slice of `buf`, lies in it.
    #[inline]
    pub(crate) fn within(buf: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr() as usize - buf.as_ptr() as usize;
        debug_assert!(start + part.len() <= buf.len());
        Self { start: start as u32, end: (start + part.len()) as u32 }
    }

    /// The sub-span `from..to`, counted from this span's start.
    #[inline]
    pub(crate) fn slice(self, from: usize, to: usize) -> Self {
        debug_assert!(from <= to && to <= self.len());
        Self { start: self.start + from as u32, end: self.start + to as u32 }
    }
}
