//! Tests of the session as a whole: scripted frames in, events and frames out.
//!
//! In this file: a peer that writes frames by hand, and a reader of what we send. Neither uses the
//! code that is tested, but for names of types.

mod bodies;
mod guards;
mod messages;
mod oracle;
mod random;
mod rfc9113;
mod warm;

use std::rc::Rc;

use super::Session;
use super::terms::Terms;
use crate::http2::error::ConnectionError;
use crate::http2::{Event, Key, Role};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const PRIORITY_UPDATE: u8 = 16;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const END: u8 = END_STREAM | END_HEADERS;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A block of plain literals.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127);
        block.extend([0, name.len() as u8]);
        block.extend(name.bytes());
        block.push(value.len() as u8);
        block.extend(value.bytes());
    }
    block
}

/// `GET / HTTP/1.1` and `host: a`, or a POST.
pub(super) const GET: &[u8] = b"\x82\x86\x84\x01\x01a";
pub(super) const POST: &[u8] = b"\x83\x86\x84\x01\x01a";
/// `200`.
pub(super) const OK: &[u8] = b"\x88";

pub(super) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END, stream, GET)
}

pub(super) fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, POST)
}

pub(super) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let bytes =
        |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &settings.iter().flat_map(bytes).collect::<Vec<_>>())
}

pub(super) fn settings_ack() -> Vec<u8> {
    frame(SETTINGS, 1, 0, b"")
}

pub(super) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub(super) fn rst_stream(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A session and what has come of it.
pub(super) struct Wire {
    pub session: Session,
    pub events: Vec<String>,
    /// Streams that the session gave us.
    pub keys: Vec<Key>,
    pub failed: Option<ConnectionError>,
    pub now_ms: u64,
    text: Vec<u8>,
    /// The piece of a body that the last event was.
    last_data: Option<u32>,
}

impl Wire {
    /// A session that has begun, with nothing pending.
    pub(super) fn new(role: Role) -> Self {
        Self::with(role, Terms::default())
    }

    pub(super) fn with(role: Role, terms: Terms) -> Self {
        let mut wire = Self::fresh(role, terms);
        if role == Role::Server {
            wire.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        wire.feed(&[settings(&[]), settings_ack()].concat());
        wire.events.clear();
        wire.sent();
        wire
    }

    /// A session of which the peer has heard nothing.
    pub(super) fn fresh(role: Role, terms: Terms) -> Self {
        Self {
            session: Session::new(role, Rc::new(terms), 0),
            events: Vec::new(),
            keys: Vec::new(),
            failed: None,
            now_ms: 0,
            text: Vec::new(),
            last_data: None,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut input = bytes;
        loop {
            self.text.clear();
            match self.session.next(&mut input, &mut self.text, self.now_ms) {
                Ok(Some(event)) => {
                    let told = tell(&event, &self.text);
                    if let Event::Request { stream, .. } | Event::Oversize { stream, .. } = event {
                        self.keys.push(stream);
                    }
                    self.tell(&event, told);
                }
                Ok(None) => {
                    assert!(input.is_empty(), "all of the input was read");
                    return;
                }
                Err(error) => {
                    self.failed = Some(error);
                    return;
                }
            }
        }
    }

    /// Keeps an event; pieces of a body become one.
    fn tell(&mut self, event: &Event<'_>, told: String) {
        let (piece, was) = match event {
            Event::Data { stream, is_end, .. } => {
                (Some(stream.id()).filter(|_| !is_end), self.last_data == Some(stream.id()))
            }
            _ => (None, false),
        };
        self.last_data = piece;
        match self.events.last_mut() {
            Some(before) if was => {
                let (_, text) = told.split_once(": ").expect("a piece");
                before.push_str(text);
            }
            _ => self.events.push(told),
        }
    }

    /// The frames that are pending, which are then sent.
    pub(super) fn sent(&mut self) -> Vec<String> {
        let frames = frames(self.session.pending());
        let bytes = self.session.pending().len();
        self.session.consume(bytes);
        assert!(self.session.pending().is_empty());
        frames
    }

    /// What ended, and by which code.
    pub(super) fn verdict(&mut self) -> String {
        let frames = self.sent();
        let ends = |frame: &&String| frame.starts_with("GOAWAY") || frame.starts_with("RST_STREAM");
        let ends: Vec<_> = frames.iter().filter(ends).cloned().collect();
        if let Some(error) = self.failed {
            let last = ends.last().expect("a GOAWAY says why");
            assert!(last.starts_with("GOAWAY") && last.ends_with(error.code.as_str()), "{last}");
        }
        if ends.is_empty() { "nothing".to_owned() } else { ends.join(", ") }
    }
}

pub(super) fn tell(event: &Event<'_>, text: &[u8]) -> String {
    let shown = |range: &std::ops::Range<usize>| text[range.clone()].escape_ascii().to_string();
    match event {
        Event::Request { stream, head, kind, protocol, body, priority } => {
            let protocol = protocol.as_ref().map(shown);
            let (id, head) = (stream.id(), shown(head));
            format!("request {id} {kind:?} {protocol:?} {body:?} {priority:?} {head}")
        }
        Event::Oversize { stream, what, is_end, .. } => {
            format!("oversize {} {what:?} {is_end}", stream.id())
        }
        Event::Response { stream, head, status, body } => {
            format!("response {} {status} {body:?} {}", stream.id(), shown(head))
        }
        Event::Data { stream, bytes, is_end } => {
            let end = if *is_end { "$" } else { "" };
            format!("data {}: {}{end}", stream.id(), bytes.escape_ascii())
        }
        Event::Trailers { stream, lines } => {
            format!("trailers {} {}", stream.id(), shown(lines))
        }
        Event::Reset { stream, code, cause } => {
            format!("reset {} {} {}", stream.id(), code.as_str(), cause.as_str())
        }
        Event::Rejected { id, code, cause } => {
            format!("rejected {id} {} {}", code.as_str(), cause.as_str())
        }
        Event::Writable { stream } => format!("writable {:?}", stream.map(Key::id)),
        Event::Settings => "settings".to_owned(),
        Event::SettingsAcked => "settings acked".to_owned(),
        Event::Reprioritized { stream, priority } => {
            format!("priority {} {priority:?}", stream.id())
        }
        Event::Pong { payload } => format!("pong {}", payload.escape_ascii()),
        Event::GoAway { last, code } => format!("goaway {last} {}", code.as_str()),
    }
}

/// What frames say, in words.
pub(super) fn frames(mut bytes: &[u8]) -> Vec<String> {
    const CODES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    let mut found = Vec::new();
    if let Some(rest) = bytes.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
        found.push("PREFACE".to_owned());
        bytes = rest;
    }
    while !bytes.is_empty() {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let (kind, flags) = (bytes[3], bytes[4]);
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        let payload = &bytes[9..9 + length];
        let number = |at: usize| {
            let four = &payload[at..at + 4];
            u32::from_be_bytes([four[0], four[1], four[2], four[3]])
        };
        let code = |at: usize| CODES[number(at) as usize];
        let shown = payload.escape_ascii();
        found.push(match kind {
            DATA => format!("DATA {stream} {flags} {shown}"),
            HEADERS => format!("HEADERS {stream} {flags} {shown}"),
            RST_STREAM => format!("RST_STREAM {stream} {}", code(0)),
            SETTINGS => format!("SETTINGS {flags} {shown}"),
            PING => format!("PING {flags} {shown}"),
            GOAWAY => format!("GOAWAY {} {}", number(0), code(4)),
            WINDOW_UPDATE => format!("WINDOW_UPDATE {stream} {}", number(0)),
            CONTINUATION => format!("CONTINUATION {stream} {flags} {shown}"),
            _ => panic!("we do not send frames of type {kind}"),
        });
        bytes = &bytes[9 + length..];
    }
    found
}
