//! What holds for every input, however hostile: the checks behind the fuzz targets in `tests/fuzz`
//! and behind the seeded tests of the session.
//!
//! In come arbitrary bytes; a check panics if a promise of this directory is broken: what happens
//! does not depend on how the bytes were split, what is held is bounded, and what is encoded means
//! what it meant. At the end stands a conversation by which costs are counted. Nothing here runs in
//! the proxy.

use std::fmt::Write;
use std::rc::Rc;

use super::fields::HeadBounds;
use super::frames::{self, END_HEADERS, FRAME_HEAD_BYTES, FrameHead, FrameType};
use super::hpack::decode::Decoder;
use super::hpack::encode::{Block, Question, QuestionKind};
use super::hpack::table::{ENTRY_OVERHEAD, TABLE_BYTES_MAX};
use super::hpack::{HpackError, Line, Sink};
use super::names::Kind;
use super::session::Session;
use super::session::terms::Terms;
use super::{Event, Key, Role};

/// Small, so that short inputs reach them.
fn terms() -> Terms {
    Terms {
        streams_max: 4,
        stream_window: 1000,
        connection_window: 65_535,
        head: HeadBounds { bytes: 600, count: 12 },
        block_bytes_max: 2000,
        ..Terms::default()
    }
}

/// What a session with those terms may hold, whatever comes: a head of which half has come in
/// frames and half in bytes, twice as allocated, the outbox, the table and the streams.
const HELD_MAX: usize = 4 * 2000 + 2 * (16 * 1024 + 4000) + 4096 + 1024 + 4096;

/// A connection's bytes behind what both sides begin with, for both roles, in pieces of any size.
pub fn session(input: &[u8]) {
    for role in [Role::Server, Role::Client] {
        let whole = converse(role, input, usize::MAX);
        for piece in [1, 2, 7, 10, 33] {
            let pieces = converse(role, input, piece);
            assert_eq!(pieces, whole, "{role:?} in pieces of {piece}: {}", input.escape_ascii());
        }
    }
}

/// What has happened in a conversation of which the other side is `input`.
fn converse(role: Role, input: &[u8], piece: usize) -> (String, Vec<u8>) {
    let mut session = Session::new(role, Rc::new(terms()), 0);
    let mut told = String::new();
    let mut held = Vec::new();
    if role == Role::Client {
        for method in [&b"GET"[..], b"HEAD", b"POST"] {
            let kind = QuestionKind::Plain { scheme: b"http", path: b"/" };
            let question = Question { method, authority: b"a", kind };
            held.extend(session.open(&question, method != b"POST", |_| {}));
        }
    }
    let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    if role == Role::Client {
        begin.clear();
    }
    begin.extend(b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0");
    for part in std::iter::once(&begin[..]).chain(input.chunks(piece.min(input.len().max(1)))) {
        let mut rest = part;
        loop {
            let mut text = Vec::new();
            let event = session.next(&mut rest, &mut text, 0);
            assert!(text.len() <= 2 * 600 + 200, "a head is bounded");
            assert!(session.held_bytes() <= HELD_MAX, "{}", session.held_bytes());
            assert!(session.streams() <= 4);
            match event {
                Ok(Some(event)) => react(&mut session, &event, &text, &mut held, &mut told),
                Ok(None) => break,
                Err(error) => {
                    let _ = write!(told, "{error:?}");
                    assert_eq!(session.next(&mut rest, &mut text, 0), Err(error));
                    return (told, session.pending().to_vec());
                }
            }
        }
        assert!(rest.is_empty());
    }
    for key in held {
        session.release(key);
    }
    assert_eq!(session.streams(), 0);
    (told, session.pending().to_vec())
}

/// Keeps what an event says, and does what a caller would, by what it says alone.
fn react(
    session: &mut Session,
    event: &Event<'_>,
    text: &[u8],
    held: &mut Vec<Key>,
    told: &mut String,
) {
    match event {
        // Pieces are not told apart.
        Event::Data { stream, bytes, is_end } => {
            for byte in *bytes {
                let _ = write!(told, "{}:{byte:02x} ", stream.id());
            }
            if *is_end {
                let _ = write!(told, "{}:$ ", stream.id());
                session.release(*stream);
                held.retain(|key| key != stream);
            }
            return;
        }
        Event::Request { stream, .. } | Event::Oversize { stream, .. } => {
            held.push(*stream);
            let is_end = stream.id() & 2 == 0;
            let _ = session.send_response(*stream, 200, is_end, |block| block.field(b"a", b"b"));
            if is_end {
                session.release(*stream);
                held.retain(|key| key != stream);
            }
        }
        Event::Reset { stream, .. } => {
            session.release(*stream);
            held.retain(|key| key != stream);
        }
        Event::Settings | Event::Writable { .. } => {
            for key in held {
                let room = session.room(*key).min(100);
                let _ = session.send_data(*key, &[b'x'; 100][..room], room == 0);
            }
        }
        _ => {}
    }
    let _ = write!(told, "{event:?} {} ", text.escape_ascii());
}

/// The nine bytes that a frame begins with, read and written again; and what is behind them as a
/// block of fields, in frames of as many bytes as the first one says.
pub fn frames(input: &[u8]) {
    let Some((head, block)) = input.split_first_chunk::<FRAME_HEAD_BYTES>() else { return };
    let read = FrameHead::read(head);
    assert!(read.length <= frames::FRAME_BYTES_MAX && read.stream <= frames::STREAM_MAX);
    if read.kind != FrameType::Unknown {
        let length = read.length as usize;
        let mut again = frames::frame_head(length, read.kind, read.flags, read.stream);
        assert_eq!(FrameHead::read(&again), read);
        again[5] |= head[5] & 0x80;
        assert_eq!(again, *head, "but for the reserved bit, all of it is kept");
    }
    let frame_bytes_max = usize::from(head[0]).max(1);
    let mut out = b"before".to_vec();
    out.extend([0; FRAME_HEAD_BYTES]);
    out.extend_from_slice(block);
    frames::frame_block(&mut out, 6, read.stream, head[4] & 1 != 0, frame_bytes_max);
    let (before, mut rest) = out.split_at(6);
    assert_eq!(before, b"before");
    let (mut joined, mut kind) = (Vec::new(), FrameType::Headers);
    loop {
        let (head, behind) = rest.split_first_chunk().expect("a frame");
        let head = FrameHead::read(head);
        assert!(head.kind == kind && head.stream == read.stream);
        assert!(head.length as usize <= frame_bytes_max);
        let (part, behind) = behind.split_at(head.length as usize);
        joined.extend_from_slice(part);
        (rest, kind) = (behind, FrameType::Continuation);
        if head.has(END_HEADERS) {
            break;
        }
    }
    assert!(rest.is_empty() && joined == block);
}

/// What we make of each of some blocks, which come as for [`hpack`], up to one that is refused.
pub fn hpack_blocks(input: &[u8]) -> Vec<HpackBlock<'_>> {
    let (mut decoder, mut all, mut rest) = (Decoder::default(), Vec::new(), input);
    while let Some((length, behind)) = rest.split_first() {
        let (bytes, behind) = behind.split_at(behind.len().min(usize::from(*length)));
        rest = behind;
        let (mut text, mut fields) = (Vec::new(), Fields::default());
        let result = decoder.decode(bytes, &mut text, 100, &mut fields);
        all.push(HpackBlock {
            bytes,
            fields: fields.0,
            is_refused: result.is_err(),
            // RFC 7541 leaves these two to whoever reads.
            is_rule: matches!(result, Err(HpackError::Integer | HpackError::TableUpdate)),
        });
        if result.is_err() {
            break;
        }
    }
    all
}

/// A block of HPACK and what we have read in it.
#[derive(Debug)]
pub struct HpackBlock<'a> {
    pub bytes: &'a [u8],
    /// Names and values, without those that are too long for any table.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub is_refused: bool,
    /// Refused by a rule that another reader may not have.
    pub is_rule: bool,
}

/// Blocks of HPACK, each behind a byte that says how long it is, and the same fields encoded.
pub fn hpack(input: &[u8]) {
    let mut decoder = Decoder::default();
    let mut rest = input;
    while let Some((length, behind)) = rest.split_first() {
        let (block, behind) = behind.split_at(behind.len().min(usize::from(*length)));
        rest = behind;
        let (mut text, mut fields) = (b"before".to_vec(), Fields::default());
        if decoder.decode(block, &mut text, 100, &mut fields).is_err() {
            return;
        }
        assert_eq!(text, b"before");
        assert!(decoder.held_bytes() <= TABLE_BYTES_MAX + TABLE_BYTES_MAX / ENTRY_OVERHEAD * 8);
        let mut encoded = Vec::new();
        let mut again = Block::new(&mut encoded);
        for (name, value) in &fields.0 {
            again.field(name, value);
        }
        let mut read = Fields::default();
        let result = Decoder::default().decode(&encoded, &mut text, 100_000, &mut read);
        assert_eq!(result, Ok(()));
        let is_said = |(name, _): &&(Vec<u8>, Vec<u8>)| {
            !matches!(Kind::of(&name.to_ascii_lowercase()), Kind::OfConnection | Kind::Te)
        };
        let lower = |(name, value): &(Vec<u8>, Vec<u8>)| (name.to_ascii_lowercase(), value.clone());
        let said: Vec<_> = fields.0.iter().filter(is_said).map(lower).collect();
        read.0.retain(|(name, _)| name != b"te");
        assert_eq!(read.0, said);
    }
}

/// Names and values.
#[derive(Default)]
struct Fields(Vec<(Vec<u8>, Vec<u8>)>);

impl Sink for Fields {
    fn judge(_: Kind, _: &[u8]) -> bool {
        true
    }

    fn field(&mut self, text: &mut Vec<u8>, line: Line) {
        let (name, value) = text[line.at..].split_at(line.name);
        let value = value.strip_prefix(b": ").and_then(|value| value.strip_suffix(b"\r\n"));
        self.0.push((name.to_vec(), value.expect("a line").to_vec()));
        text.truncate(line.at);
    }

    fn too_long(&mut self) {}
}

/// By how much the client of a [`Conversation`] opens its window.
const WINDOW_STEP: u32 = 50_000;

/// A client that asks again and again, as a load generator or a browser does, and what we do for
/// it: by this the core's own costs are counted.
pub struct Conversation {
    session: Session,
    text: Vec<u8>,
    /// The first request's block fills the table, the others refer to it.
    first: Vec<u8>,
    block: Vec<u8>,
    id: u32,
    /// What the client was sent since it last opened its window.
    unread: u32,
}

impl Default for Conversation {
    fn default() -> Self {
        let mut session = Session::new(Role::Server, Rc::new(Terms::default()), 0);
        let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let event = session.next(&mut &begin[..], &mut Vec::new(), 0);
        assert_eq!(event, Ok(Some(Event::Settings)));
        let sent = session.pending().len();
        session.consume(sent);
        let mut first = b"\x82\x87\x41\x0bexample.com\x44\x0d/some/thing?x".to_vec();
        first.extend(b"\x7a\x0bcurl/7.88.1\x53\x03*/*\x50\x08gzip, br");
        let block = b"\x82\x87\xc2\xc1\xc0\xbf\xbe".to_vec();
        Self { session, text: Vec::new(), first, block, id: 1, unread: 0 }
    }
}

impl Conversation {
    /// One request and its answer; the bytes that go out.
    pub fn exchange(&mut self) -> usize {
        let block = if self.id == 1 { &self.first } else { &self.block };
        let mut frame = [0; 128];
        frame[2] = block.len() as u8;
        frame[3..5].copy_from_slice(&[1, 5]);
        frame[5..9].copy_from_slice(&self.id.to_be_bytes());
        frame[9..9 + block.len()].copy_from_slice(block);
        let mut input = &frame[..9 + block.len()];
        self.id += 2;
        self.text.clear();
        let event = self.session.next(&mut input, &mut self.text, 0);
        let Ok(Some(Event::Request { stream, head, .. })) = event else {
            panic!("no request: {event:?}");
        };
        assert!(
            self.text[head].starts_with(b"GET /some/thing?x HTTP/1.1\r\nhost: example.com\r\n")
        );
        let answered = self.session.send_response(stream, 200, false, |block| {
            block.field(b"Server", b"nginx");
            block.field(b"Date", b"Sun, 06 Nov 1994 08:49:37 GMT");
            block.field(b"Content-Type", b"text/html");
            block.field(b"Content-Length", b"100");
            block.field(b"ETag", b"\"65a-1b2\"");
            block.field(b"X-Request-Id", b"1234567890");
        });
        assert!(answered.is_ok() && self.session.room(stream) >= 100);
        let sent = self.session.send_data(stream, &[b'x'; 100], true);
        assert!(sent.is_ok());
        self.session.release(stream);
        self.unread += 100;
        if self.unread == WINDOW_STEP {
            self.unread = 0;
            self.open_window();
        }
        let bytes = self.session.pending().len();
        self.session.consume(bytes);
        bytes
    }

    /// The client has read what it was sent.
    fn open_window(&mut self) {
        let mut update = *b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0";
        update[9..].copy_from_slice(&WINDOW_STEP.to_be_bytes());
        let event = self.session.next(&mut &update[..], &mut self.text, 0);
        assert!(event.is_ok());
    }

    /// Bytes that are allocated for it, in use.
    pub fn held_bytes(&self) -> usize {
        self.session.held_bytes() + self.text.capacity()
    }

    /// The bytes of a connection at rest: its own, and those that are allocated for it.
    pub fn rest(&mut self) -> (usize, usize) {
        self.session.rest();
        (size_of::<Session>(), self.session.held_bytes())
    }
}
