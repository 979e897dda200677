//! One lane: a socket without a wire, on which one exchange follows another.
//!
//! In go the calls of a socket and what comes on the lane's stream; out come frames by the
//! connection's session, and bytes for whoever reads. A stream's slot is free when its exchange is
//! over in both directions and everything has been read, or when the socket is gone: a peer that
//! gives streams up does not get new ones faster than their work ends.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Multiplex;
use super::inward::Inward;
use super::outward::Outward;
use super::turns::Turns;
use crate::http::head::HeadError;
use crate::http2::error::ErrorCode;
use crate::http2::session::sending::NotOpened;
use crate::http2::{Body, Key, Role};
use crate::limits::HTTP2_OUTBOX_BYTES;
use crate::ring::Socket;
use crate::ring::channel::{Channel, Readiness, Waiters};

/// A lane, for the connection and for its socket.
pub(crate) struct Lane {
    pub(super) connection: Rc<Multiplex>,
    key: Cell<Option<Key>>,
    /// The number of the stream that it has, or had last.
    id: Cell<u32>,
    pub(super) inward: RefCell<Inward>,
    pub(super) outward: RefCell<Outward>,
    /// What the exchange under way asks for.
    pub(super) asked: Cell<Asked>,
    fate: Cell<Fate>,
    /// Why the head that it has to read is none.
    refusal: Cell<Option<HeadError>>,
    /// What the answer to a request for another protocol has to be made from.
    nonce: RefCell<Vec<u8>>,
    waiters: Waiters,
    pub(super) turns: Turns,
}

/// What stands for a head that is refused: no parser takes its first byte.
const NO_HEAD: &[u8] = b"\x01\r\n\r\n";

/// What of a request decides how its answer is framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asked {
    #[default]
    Plain,
    /// HEAD: no body follows.
    Head,
    /// A tunnel, by CONNECT.
    Tunnel,
    /// A tunnel of another protocol (RFC 8441).
    Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sound,
    /// What was sent is not the whole.
    Spoilt,
    /// The answer has come whole, and the peer hears nothing more (RFC 9113 §8.1).
    Unheard,
    /// Nothing will be sent or received any more.
    Broken,
    /// The same, and the peer has not acted upon what it was asked.
    Refused,
    /// The same, and the peer is to ask again in HTTP/1.1.
    NeedsHttp1,
}

/// The answer by which HTTP/1.1 says what `text` says by 200 (RFC 6455 §4.2.2).
fn switched(text: &[u8], nonce: &[u8]) -> Vec<u8> {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(nonce);
    context.update(GUID);
    let accept = BASE64.encode(context.finish());
    let mut out =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            .to_vec();
    out.extend_from_slice(format!("sec-websocket-accept: {accept}\r\n").as_bytes());
    let lines = memchr::memchr(b'\n', text).map_or(text.len(), |end| end + 1);
    out.extend_from_slice(&text[lines..]);
    out
}

/// The socket's hold on a lane: the stream is given up when it is dropped.
struct Hold(Rc<Lane>);

impl Lane {
    /// A lane of `connection` without a stream, and its socket.
    pub(crate) fn open(connection: &Rc<Multiplex>) -> (Rc<Self>, Socket) {
        connection.lane_count.set(connection.lane_count.get() + 1);
        let lane = Rc::new(Self {
            connection: connection.clone(),
            key: Cell::new(None),
            id: Cell::new(0),
            inward: RefCell::default(),
            outward: RefCell::new(Outward::Head),
            asked: Cell::default(),
            fate: Cell::new(Fate::Sound),
            refusal: Cell::new(None),
            nonce: RefCell::default(),
            waiters: Waiters::default(),
            turns: Turns::default(),
        });
        let socket = Socket::of_channel(Rc::new(Hold(lane.clone())));
        (lane, socket)
    }

    pub(super) fn key(&self) -> Option<Key> {
        self.key.get()
    }

    /// Whether an exchange is under way, or about to begin.
    pub(crate) fn is_busy(&self) -> bool {
        self.key.get().is_some()
    }

    /// Waits for a stream, as it does when an exchange is over.
    pub(crate) fn rest(self: &Rc<Self>) {
        self.connection.resting.borrow_mut().push(self.clone());
    }

    pub(super) fn take(&self, key: Key) {
        self.key.set(Some(key));
        self.id.set(key.id());
    }

    /// A request has come for it, whose head is `text`.
    pub(super) fn begin(
        self: &Rc<Self>,
        key: Key,
        (text, extra): (&[u8], &[u8]),
        asked: Asked,
        body: Body,
    ) {
        self.take(key);
        self.connection.attach(key, self.clone());
        self.asked.set(asked);
        *self.outward.borrow_mut() = Outward::Head;
        let is_tunnel = matches!(asked, Asked::Tunnel | Asked::Protocol);
        let is_chunked = body == Body::Open && !is_tunnel;
        self.put(|inward| inward.begin(text, extra, is_chunked, body == Body::Empty));
    }

    /// A request has come for it whose head is refused for `error`: there is none to be read.
    pub(super) fn begin_refused(
        self: &Rc<Self>,
        key: Key,
        error: HeadError,
        asked: Asked,
        has_ended: bool,
    ) {
        self.refusal.set(Some(error));
        let body = if has_ended { Body::Empty } else { Body::Open };
        self.begin(key, (NO_HEAD, b""), asked, body);
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refusal.get().is_some()
    }

    /// A request of ours has been sent for it.
    pub(super) fn begin_request(self: &Rc<Self>, key: Key, asked: Asked, nonce: Option<&[u8]>) {
        self.take(key);
        self.connection.resting.borrow_mut().retain(|lane| !Rc::ptr_eq(lane, self));
        self.connection.attach(key, self.clone());
        self.asked.set(asked);
        *self.nonce.borrow_mut() = nonce.map(<[u8]>::to_vec).unwrap_or_default();
    }

    /// An answer, final or not, has come to what it asked.
    pub(super) fn answer(&self, text: &[u8], status: u16, body: Body) {
        if self.asked.get() == Asked::Protocol {
            if (200..300).contains(&status) {
                let switched = switched(text, &self.nonce.borrow());
                self.put(|inward| inward.begin(&switched, b"", false, body == Body::Empty));
                return;
            }
            if status >= 200 {
                // No tunnel, but an answer as any other; nothing more is sent.
                *self.outward.borrow_mut() = Outward::Ended;
            }
        }
        let has_none =
            status < 200 || matches!(status, 204 | 304) || self.asked.get() == Asked::Head;
        let is_told = memchr::memmem::find(text, b"\r\ncontent-length:").is_some();
        let is_unsaid = body == Body::Empty && !has_none && !is_told;
        let extra = if is_unsaid { &b"content-length: 0\r\n"[..] } else { b"" };
        let is_chunked = body == Body::Open && status >= 200;
        let has_ended = body == Body::Empty && status >= 200;
        self.put(|inward| inward.begin(text, extra, is_chunked, has_ended));
        self.settle();
    }

    /// Changes what is to be read, and tells who waits for it.
    pub(super) fn put(&self, change: impl FnOnce(&mut Inward)) {
        let mut inward = self.inward.borrow_mut();
        let before = inward.held_bytes();
        change(&mut inward);
        self.hold(before, inward.held_bytes());
        drop(inward);
        self.tell();
    }

    fn hold(&self, before: usize, after: usize) {
        let held = &self.connection.held;
        held.set(held.get() + after - before);
    }

    /// Has those go on that can.
    pub(super) fn tell(&self) {
        if !self.waiters.is_empty() {
            self.waiters.tell(self.look());
        }
    }

    /// The stream has ended before its time, or the connection has.
    pub(super) fn break_off(&self) {
        if self.key.get().is_none() {
            // Nothing is under way: it ends as an idle connection does. Who has it, and waits for a
            // stream, has not been heard.
            return match self.connection.role {
                Role::Server => self.put(|inward| inward.is_last = true),
                Role::Client => self.refuse(),
            };
        }
        // A whole answer is one, whatever becomes of its question behind it.
        let is_answered = self.connection.role == Role::Client && self.inward.borrow().has_ended;
        self.set_fate(if is_answered && !self.is_raw() { Fate::Unheard } else { Fate::Broken });
    }

    /// The peer has not acted upon what it was asked.
    pub(super) fn refuse(&self) {
        self.set_fate(Fate::Refused);
    }

    fn set_fate(&self, fate: Fate) {
        if !self.is_broken() {
            self.fate.set(fate);
        }
        self.tell();
    }

    fn is_broken(&self) -> bool {
        matches!(self.fate.get(), Fate::Broken | Fate::Refused | Fate::NeedsHttp1)
    }

    /// What there is for whoever waits. Windows that open are told by themselves, and room in the
    /// outbox to those who were found without it.
    fn look(&self) -> Readiness {
        if self.is_broken() {
            return Readiness::BROKEN.and(Readiness::INPUT).and(Readiness::OUTPUT);
        }
        let inward = self.inward.borrow();
        let mut readiness = Readiness::default();
        if !inward.is_empty() || self.is_at_end(&inward) {
            readiness = Readiness::INPUT;
        }
        if self.has_room() {
            readiness = readiness.and(Readiness::OUTPUT);
        }
        readiness
    }

    /// Whether a read says the end: of a connection at rest, or of a tunnel. Elsewhere the framing
    /// says it.
    fn is_at_end(&self, inward: &Inward) -> bool {
        let is_unheard = self.fate.get() == Fate::Unheard;
        inward.is_last || is_unheard || inward.has_ended && self.is_raw()
    }

    fn is_raw(&self) -> bool {
        matches!(*self.outward.borrow(), Outward::Raw | Outward::RawEnded)
    }

    fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// How much is taken at once. What is no body is taken whole, or refused at once.
    fn room(&self) -> usize {
        if self.fate.get() == Fate::Unheard || self.connection.is_over() {
            return usize::MAX;
        }
        let session = self.connection.session.borrow();
        let left_over = HTTP2_OUTBOX_BYTES.saturating_sub(session.pending().len());
        if left_over == 0 {
            self.connection.is_short.set(true);
            return 0;
        }
        match *self.outward.borrow() {
            // Whoever waits for a stream that will never be opened is told so when it asks.
            Outward::Head if self.connection.role == Role::Client => {
                let is_full = session.can_open() == Err(NotOpened::Full);
                if is_full {
                    self.connection.is_full.set(true);
                }
                if is_full { 0 } else { usize::MAX }
            }
            Outward::Head | Outward::Ended | Outward::RawEnded => usize::MAX,
            _ => self.key.get().map_or(0, |key| session.window(key).min(left_over)),
        }
    }

    /// What a read comes to where there is nothing to be read.
    fn nothing(&self, inward: &Inward) -> io::Result<usize> {
        if self.is_broken() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.is_at_end(inward) { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn read(&self, count: usize) {
        let mut inward = self.inward.borrow_mut();
        let before = inward.held_bytes();
        let freed = inward.take(count);
        self.hold(before, inward.held_bytes());
        drop(inward);
        self.free(freed);
        self.settle();
    }

    /// Opens the window for what has been read.
    fn free(&self, bytes: usize) {
        if bytes > 0
            && let Some(key) = self.key.get()
        {
            let keeps_up = self.connection.session.borrow_mut().taken(key, bytes);
            if keeps_up {
                self.connection.widen(key);
            }
            self.connection.wake();
        }
    }

    /// Gives the stream's slot back where the exchange is over in both directions.
    pub(super) fn settle(&self) {
        let is_over = {
            let inward = self.inward.borrow();
            let has_ended = matches!(*self.outward.borrow(), Outward::Ended);
            let is_sound = matches!(self.fate.get(), Fate::Sound | Fate::Spoilt);
            has_ended && inward.has_ended && inward.is_empty() && is_sound
        };
        let Some(key) = self.key.get().filter(|_| is_over) else { return };
        self.key.set(None);
        let lane = self.connection.detach(key);
        self.connection.drop_stream(key, None);
        *self.outward.borrow_mut() = Outward::Head;
        self.put(|inward| _ = inward.clear());
        if self.connection.is_over() {
            self.put(|inward| inward.is_last = true);
        } else if let Some(lane) = lane {
            lane.rest();
        }
        self.connection.wake();
    }

    /// The socket is gone.
    fn leave(&self) {
        let connection = &self.connection;
        connection.lane_count.set(connection.lane_count.get() - 1);
        let is_self = |lane: &Rc<Self>| std::ptr::eq(&raw const **lane, self);
        connection.resting.borrow_mut().retain(|lane| !is_self(lane));
        self.put(|inward| _ = inward.clear());
        if let Some(key) = self.key.take() {
            connection.detach(key);
            let has_ended = matches!(*self.outward.borrow(), Outward::Ended | Outward::RawEnded);
            // An answer that is cut short is not one that was given up for want of interest.
            let is_cut = connection.role == Role::Server && !has_ended;
            let code = match self.fate.get() {
                Fate::NeedsHttp1 => ErrorCode::Http11Required,
                _ => ErrorCode::InternalError,
            };
            connection.drop_stream(key, is_cut.then_some(code));
        }
        connection.wake();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Channel for Hold {
    fn wire(&self) -> &Socket {
        self.0.connection.wire()
    }

    fn room(&self) -> usize {
        if self.0.is_broken() { usize::MAX } else { self.0.room() }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let is_unheard = self.0.fate.get() == Fate::Unheard;
        if is_unheard || self.0.is_broken() || self.0.connection.is_over() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.0.send(bytes)
    }

    fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.peek(into)?;
        if count > 0 && !into.is_empty() {
            self.0.read(count);
        }
        Ok(count)
    }

    fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        let inward = self.0.inward.borrow();
        if inward.is_empty() || self.0.is_broken() {
            return self.0.nothing(&inward);
        }
        if into.is_empty() { Ok(inward.len()) } else { Ok(inward.peek(into)) }
    }

    fn discard(&self, count: usize) -> io::Result<usize> {
        let count = self.peek(&mut [])?.min(count);
        if count > 0 {
            self.0.read(count);
        }
        Ok(count)
    }

    fn readiness(&self) -> Readiness {
        self.0.look()
    }

    fn finish_sending(&self) {
        self.0.finish();
    }

    fn spoil(&self) {
        if self.0.fate.get() == Fate::Sound {
            self.0.fate.set(Fate::Spoilt);
        }
    }

    fn cut(&self) {
        self.0.set_fate(Fate::Broken);
    }

    fn require_http1(&self) {
        self.0.set_fate(Fate::NeedsHttp1);
    }

    fn is_refused(&self) -> bool {
        self.0.fate.get() == Fate::Refused
    }

    fn stream_id(&self) -> Option<u32> {
        Some(self.0.id.get())
    }

    fn refusal(&self) -> Option<HeadError> {
        self.0.refusal.get()
    }

    fn waiters(&self) -> &Waiters {
        &self.0.waiters
    }
}
