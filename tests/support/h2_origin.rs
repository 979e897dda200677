//! One end of an HTTP/2 connection that speaks raw frames: mostly an origin's.
//!
//! Comes in: a connection, and frames that a test writes down. Goes out: the frames of the other
//! end, as they came. It acknowledges settings and pings by itself and does nothing else: it opens
//! no window and never decodes what is compressed. That our own encoder compresses nothing is why
//! texts can be looked for in its blocks.

use super::h2::{ACK, PREFACE};
use super::origin::Peer;
use super::tls::TlsPeer;
use super::{Client, show};
use std::io::{Read, Write};

pub(crate) use super::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame,
};
/// Both.
pub(crate) const WHOLE: u8 = END_STREAM | END_HEADERS;

/// What carries the bytes.
pub(crate) trait Line {
    /// Fewer at the end.
    fn take(&mut self, count: usize) -> Vec<u8>;
    fn put(&mut self, bytes: &[u8]);
}

impl Line for Peer {
    fn take(&mut self, count: usize) -> Vec<u8> {
        self.read_up_to(count)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.send(bytes);
    }
}

impl Line for Client {
    fn take(&mut self, count: usize) -> Vec<u8> {
        self.read_up_to(count)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.send(bytes);
    }
}

impl Line for TlsPeer {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) | Err(_) => break,
                Ok(more) => filled += more,
            }
        }
        bytes.truncate(filled);
        bytes
    }

    fn put(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
        let _ = self.stream.flush();
    }
}

pub(crate) struct Frames<L> {
    pub(crate) line: L,
    /// The payloads of the other end's SETTINGS, one behind the other.
    pub(crate) settings: Vec<u8>,
}

impl<L: Line> Frames<L> {
    /// The server's end, which says these settings.
    #[track_caller]
    pub(crate) fn serve(mut line: L, settings: &[(u16, u32)]) -> Self {
        let preface = line.take(PREFACE.len());
        assert!(preface == PREFACE, "not the preface: {}", show(&preface));
        Self::begin(line, settings)
    }

    /// The client's end.
    pub(crate) fn ask(mut line: L) -> Self {
        line.put(PREFACE);
        Self::begin(line, &[])
    }

    fn begin(line: L, settings: &[(u16, u32)]) -> Self {
        let mut this = Self { line, settings: Vec::new() };
        let pairs = settings.iter();
        let payload: Vec<u8> = pairs
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        this.send(SETTINGS, 0, 0, &payload);
        this
    }

    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.line.put(&frame(kind, flags, stream, payload));
        self
    }

    /// The next frame that says something of a stream, or a GOAWAY; nothing at the end.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next_or_window()?;
            if frame.kind != WINDOW_UPDATE {
                return Some(frame);
            }
        }
    }

    /// The same, and what opens windows.
    pub(crate) fn next_or_window(&mut self) -> Option<Frame> {
        loop {
            let frame = self.any()?;
            match frame.kind {
                SETTINGS if !frame.has(ACK) => {
                    self.settings.extend_from_slice(&frame.payload);
                    self.send(SETTINGS, ACK, 0, b"");
                }
                PING if !frame.has(ACK) => {
                    self.send(PING, ACK, 0, &frame.payload);
                }
                SETTINGS | PING => {}
                _ => return Some(frame),
            }
        }
    }

    fn any(&mut self) -> Option<Frame> {
        let head = self.line.take(9);
        if head.len() < 9 {
            return None;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.line.take(length);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Asks the other end for a sign, and has no new stream come before it.
    #[track_caller]
    pub(crate) fn expect_no_stream(&mut self) {
        self.send(PING, 0, 0, b"any more");
        loop {
            let frame = self.any().expect("the end has come before a pong");
            assert_ne!(frame.kind, HEADERS, "stream {}", frame.stream);
            if frame.kind == PING && frame.has(ACK) {
                return;
            }
        }
    }

    /// The next frame of this kind.
    pub(crate) fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// The next request's head.
    pub(crate) fn head(&mut self) -> Option<Frame> {
        self.next_of(HEADERS)
    }

    /// The next request, whole, and the payload of its DATA.
    pub(crate) fn request(&mut self) -> Option<(Frame, Vec<u8>)> {
        let head = self.head()?;
        let mut body = Vec::new();
        let mut has_ended = head.has(END_STREAM);
        while !has_ended {
            let frame = self.next()?;
            has_ended = frame.stream == head.stream && frame.has(END_STREAM);
            if frame.kind == DATA {
                body.extend_from_slice(&frame.payload);
            }
        }
        Some((head, body))
    }

    /// A whole answer.
    pub(crate) fn answer(&mut self, stream: u32, status: u16, body: &str) -> &mut Self {
        self.send(HEADERS, END_HEADERS, stream, &block(status, &[]));
        self.send(DATA, END_STREAM, stream, body.as_bytes())
    }

    /// Gives up a stream.
    pub(crate) fn reset(&mut self, stream: u32, code: u32) -> &mut Self {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes())
    }

    pub(crate) fn goaway(&mut self, last: u32, code: u32) -> &mut Self {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
    }

    /// Answers every request by its end.
    pub(crate) fn answer_all(&mut self, body: &str) {
        while let Some((head, _)) = self.request() {
            self.answer(head.stream, 200, body);
        }
    }
}

/// The head of an answer.
pub(crate) fn block(status: u16, others: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = fields(&[(":status", &status.to_string())]);
    bytes.extend(fields(others));
    bytes
}

/// Literals, which no table keeps.
pub(crate) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127, "{name} is too long for this");
        bytes.push(0);
        for text in [name, value] {
            bytes.push(text.len() as u8);
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}
