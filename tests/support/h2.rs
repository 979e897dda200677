//! A scripted HTTP/2 client: frames as a test writes them, frames as they come.
//!
//! Comes in: frames and expectations, in the order of a conversation. Goes out: the frames of the
//! other side, or whole answers, or a panic that shows what came instead. Of itself it says the
//! preface, SETTINGS and what acknowledges the other side's, and nothing else: no window opens
//! unless a test opens it.

use super::h2_fields::{Fields, block, fields};
use super::wire::{Arrival, Wire};
use super::{DEADLINE, show};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const PRIORITY_UPDATE: u8 = 0x10;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// Codes of RFC 9113 §7.
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const COMPRESSION_ERROR: u32 = 9;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether its payload has this text in it.
    pub(crate) fn says(&self, text: &str) -> bool {
        memchr::memmem::find(&self.payload, text.as_bytes()).is_some()
    }

    /// The number at `at` of the payload: a code, an increment.
    pub(crate) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// The bytes of a SETTINGS frame.
pub(crate) fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in pairs {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, payload)
}

/// A whole head in one frame.
pub(crate) fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, block(fields))
}

/// A request for `path` without a body.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, END_STREAM, &request("GET", path))
}

/// The fields that each request has.
pub(crate) fn request<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
}

pub(crate) fn rst_stream(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, code.to_be_bytes())
}

/// An answer as it has come on a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) interim: Vec<u16>,
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    /// The code with which the stream was given up.
    pub(crate) reset: Option<u32>,
    pub(crate) has_ended: bool,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn expect_status(&self, status: u16) -> &Self {
        assert!(self.status == status, "expected {status}, got {self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn expect_body(&self, body: impl AsRef<[u8]>) -> &Self {
        assert!(self.body == body.as_ref(), "expected {}, got {self:?}", show(body.as_ref()));
        assert!(self.has_ended && self.reset.is_none(), "not whole: {self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn expect_field(&self, name: &str, value: &str) -> &Self {
        assert!(self.field(name) == Some(value), "expected {name}: {value} in {self:?}");
        self
    }

    /// Takes what a frame of its stream adds.
    pub(crate) fn take(&mut self, frame: &Frame) {
        match frame.kind {
            HEADERS => {
                assert!(frame.has(END_HEADERS), "a head in several frames");
                let mut fields = fields(&frame.payload);
                if self.status == 0 {
                    assert!(fields[0].0 == ":status", "no status: {fields:?}");
                    let status = fields.remove(0).1.parse().expect("a status");
                    if status < 200 {
                        assert!(!frame.has(END_STREAM), "the end with {status}");
                        self.interim.push(status);
                    } else {
                        (self.status, self.fields) = (status, fields);
                    }
                } else {
                    assert!(frame.has(END_STREAM), "a second head: {fields:?}");
                    self.trailers = fields;
                }
                self.has_ended |= frame.has(END_STREAM);
            }
            DATA => {
                assert!(self.status != 0 && !self.has_ended, "a body without a head");
                self.body.extend_from_slice(&frame.payload);
                self.has_ended |= frame.has(END_STREAM);
            }
            RST_STREAM => self.reset = Some(frame.number(0)),
            WINDOW_UPDATE => {}
            kind => panic!("a frame of type {kind} in an answer"),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.has_ended || self.reset.is_some()
    }
}

pub(crate) struct H2Client {
    wire: Wire,
    /// Read, and not yet asked for.
    frames: VecDeque<Frame>,
    /// Opens windows for what comes.
    takes_bodies: bool,
    /// By how much the other side has opened the window of the connection since it began.
    opened: i64,
}

impl H2Client {
    /// A connection on which nothing has been said.
    #[track_caller]
    pub(crate) fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE);
        Self::over(stream.unwrap_or_else(|error| panic!("connecting to {address}: {error}")))
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        Self {
            wire: Wire::new(stream, |_| ()),
            frames: VecDeque::new(),
            takes_bodies: true,
            opened: 0,
        }
    }

    /// A connection that has been introduced from both sides.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::with_settings(address, &[])
    }

    #[track_caller]
    pub(crate) fn with_settings(address: SocketAddr, pairs: &[(u16, u32)]) -> Self {
        let mut client = Self::silent(address);
        client.greet(pairs);
        client
    }

    /// Says the preface and SETTINGS, and hears what the other side says.
    #[track_caller]
    pub(crate) fn greet(&mut self, pairs: &[(u16, u32)]) {
        self.send(PREFACE).send(settings(pairs));
        let theirs = self.read_frame().expect("SETTINGS");
        assert!(theirs.kind == SETTINGS && !theirs.has(ACK), "{theirs:?}");
        self.send(frame(SETTINGS, ACK, 0, b""));
        loop {
            let next = self.read_frame().expect("an acknowledgement");
            if next.kind == SETTINGS {
                assert!(next.has(ACK), "{next:?}");
                return;
            }
        }
    }

    /// All that the other side has let us send on this connection.
    pub(crate) fn allowed(&self) -> i64 {
        65_535 + self.opened
    }

    /// From now on no window opens for what comes.
    pub(crate) fn keep_windows(&mut self) -> &mut Self {
        self.takes_bodies = false;
        self
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.wire.send(bytes);
        self
    }

    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The next frame, or nothing when the connection has ended before it begins.
    #[track_caller]
    pub(crate) fn read_frame(&mut self) -> Option<Frame> {
        let head = self.wire.read_up_to(9);
        if head.len() < 9 {
            assert!(head.is_empty(), "the connection ends inside a frame: {}", show(&head));
            return None;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.wire.read_exact(length);
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        self.answer(&frame);
        Some(frame)
    }

    /// What every client says to a frame.
    fn answer(&mut self, came: &Frame) {
        match came.kind {
            WINDOW_UPDATE if came.stream == 0 => self.opened += i64::from(came.number(0)),
            PING if !came.has(ACK) => {
                self.wire.send(frame(PING, ACK, 0, &came.payload));
            }
            DATA if self.takes_bodies && !came.payload.is_empty() => {
                let length = u32::try_from(came.payload.len()).expect("a length");
                self.wire.send(window_update(0, length));
                if !came.has(END_STREAM) {
                    self.wire.send(window_update(came.stream, length));
                }
            }
            _ => {}
        }
    }

    /// The next frame for which `is_wanted`; the others are kept.
    #[track_caller]
    pub(crate) fn find(&mut self, what: &str, is_wanted: impl Fn(&Frame) -> bool) -> Frame {
        if let Some(at) = self.frames.iter().position(&is_wanted) {
            return self.frames.remove(at).expect("it is there");
        }
        loop {
            let Some(frame) = self.read_frame() else {
                panic!("the connection ended before {what}; unasked: {:?}", self.frames);
            };
            if is_wanted(&frame) {
                return frame;
            }
            self.frames.push_back(frame);
        }
    }

    /// What is said on `stream`, to its end.
    #[track_caller]
    pub(crate) fn read_answer(&mut self, stream: u32) -> Answer {
        let mut answer = Answer::default();
        while !answer.is_over() {
            answer.take(&self.find_of(stream));
        }
        answer
    }

    /// The next frame of `stream` that is no window.
    #[track_caller]
    pub(crate) fn find_of(&mut self, stream: u32) -> Frame {
        self.find(&format!("the end of stream {stream}"), |frame| {
            frame.stream == stream && frame.kind != WINDOW_UPDATE
        })
    }

    /// Asks for `path` and reads the answer.
    #[track_caller]
    pub(crate) fn get(&mut self, stream: u32, path: &str) -> Answer {
        self.send(get(stream, path));
        self.read_answer(stream)
    }

    /// The stream is given up with that code.
    #[track_caller]
    pub(crate) fn expect_reset(&mut self, stream: u32, code: u32) -> &mut Self {
        let came = self.find("RST_STREAM", |it| {
            it.kind == RST_STREAM && it.stream == stream || it.kind == GOAWAY
        });
        assert!(came.kind == RST_STREAM, "GOAWAY instead of RST_STREAM: {came:?}");
        assert_eq!(came.number(0), code, "of stream {stream}");
        self
    }

    /// The connection is given up with that code, and ends.
    #[track_caller]
    pub(crate) fn expect_failure(&mut self, code: u32) {
        let came = self.find("GOAWAY", |it| it.kind == GOAWAY);
        assert_eq!(came.number(4), code, "{:?}", show(&came.payload));
        self.expect_end();
    }

    /// Nothing but frames of streams, then the end.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        loop {
            match self.wire.receive() {
                Arrival::Bytes => self.wire.forget(),
                Arrival::End | Arrival::Reset => return,
            }
        }
    }

    /// Whether the other side answers a ping.
    #[track_caller]
    pub(crate) fn expect_alive(&mut self) -> &mut Self {
        self.send(frame(PING, 0, 0, b"12345678"));
        let pong = self.find("a pong", |it| it.kind == PING && it.has(ACK) || it.kind == GOAWAY);
        assert!(pong.kind == PING, "GOAWAY instead of a pong: {pong:?}");
        assert_eq!(pong.payload, b"12345678");
        self
    }

    pub(crate) fn is_quiet_for(&mut self, time: Duration) -> bool {
        self.frames.is_empty() && self.wire.is_quiet_for(time)
    }
}
