//! One connection of the load: opens it, sends a request, reads the answer.
//!
//! In come readiness and a plan; out comes, for each turn, what it has come to. Sockets are those
//! of a ring without the ring, under an edge-triggered epoll: their calls that never wait need
//! none, and speak TLS where they are told to. A small exchange costs one send, one receive and its
//! share of a wait. Nothing here waits, reads a clock or decides what comes next.

mod streaming;

use std::io::ErrorKind as IoError;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::{Domain, Protocol, SockAddr, Type};

use super::answer::{Answer, Flaw, Reader};
use super::options::Plan;
use super::script::{Cursor, Script};
use super::streams::{Outcome, Streams};
use super::tally::ErrorKind;
use crate::http::Method;
use crate::http::head::ResponseHead;
use crate::ledger::Ledger;
use crate::ring::{Handshake, Socket};
use crate::tls::problem::Problem;
use crate::tls::session::Session;

const BUFFER_BYTES: usize = 64 * 1024;

/// The most that is thrown away by one call: with MSG_TRUNC no byte is copied.
const DISCARD_BYTES: usize = 1024 * 1024;

/// Calls that move bytes in one turn of a connection, before it is another one's.
const CALLS_PER_TURN: u32 = 16;

/// A slow reader's receive buffer holds this part of what it reads in a second, so that the sender
/// feels how slow it is.
const SLOW_BUFFER_SHARE: u64 = 4;

const SLOW_BUFFER_BYTES_MIN: usize = 4096;

/// What the connections of a thread share.
pub(super) struct Tools {
    buffer: Vec<u8>,
    /// Of what sessions hold, which nobody asks for here.
    ledger: Arc<Ledger>,
    head: ResponseHead,
    /// What has become of requests on streams.
    pub(super) outcomes: Vec<Outcome>,
    /// A clock, for streams.
    pub(super) now_ms: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES],
            ledger: Arc::default(),
            head: ResponseHead::new(),
            outcomes: Vec::new(),
            now_ms: 0,
            bytes_read: 0,
            bytes_written: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Closed,
    Connecting,
    /// Does the handshake of TLS.
    Securing,
    /// Asks the proxy for a tunnel.
    Tunnelling,
    /// Speaks HTTP/2, and waits for what the server allows.
    Settling,
    /// Asks on streams.
    Streaming,
    /// Open, with nothing to do.
    Ready,
    Sending,
    Receiving,
}

impl Stage {
    /// Nothing can be asked yet.
    pub(super) fn is_opening(self) -> bool {
        matches!(self, Self::Connecting | Self::Securing | Self::Tunnelling | Self::Settling)
    }
}

/// What a turn has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Waiting,
    /// There is more to do at once.
    Again,
    /// The connection can be used.
    Opened,
    Answered(Answer),
    /// What has become of its streams is told beside it.
    Streamed {
        is_more: bool,
    },
    Failed(ErrorKind),
    /// The other side closed it while nothing was asked of it.
    Closed,
}

pub(super) struct Connection {
    socket: Option<Socket>,
    pub(super) stage: Stage,
    /// Changes with each socket, so that what was said of the last one is not taken for this one.
    pub(super) generation: u32,
    cursor: Cursor,
    reader: Reader,
    /// Where it speaks HTTP/2.
    streams: Option<Box<Streams>>,
    /// A request waits for this connection to open, or is under way on it; of one with streams,
    /// that an open loop has it in its queue.
    pub(super) has_request: bool,
    /// When that request was to be sent.
    pub(super) intended: Instant,
    /// When the connection began to open.
    pub(super) opened: Instant,
    /// When what is under way is given up.
    pub(super) deadline: Instant,
    /// Bytes that may be read now.
    allowance: u64,
    is_readable: bool,
}

impl Connection {
    pub(super) fn new(now: Instant, allowance: u64) -> Self {
        Self {
            socket: None,
            stage: Stage::Closed,
            generation: 0,
            cursor: Cursor::default(),
            reader: Reader::default(),
            streams: None,
            has_request: false,
            intended: now,
            opened: now,
            deadline: now,
            allowance,
            is_readable: false,
        }
    }

    /// Begins to connect. `index` comes back with every event of the socket.
    pub(super) fn open(&mut self, plan: &Plan, epoll: &Epoll, index: u32) -> Turn {
        self.close();
        self.generation = self.generation.wrapping_add(1);
        match self.connect(plan, epoll, index) {
            Ok(()) => Turn::Waiting,
            Err(_) => Turn::Failed(ErrorKind::Connect),
        }
    }

    fn connect(&mut self, plan: &Plan, epoll: &Epoll, index: u32) -> std::io::Result<()> {
        let domain = Domain::for_address(plan.address);
        let kind = Type::STREAM.nonblocking();
        let socket = socket2::Socket::new(domain, kind, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(rate) = plan.slow_read {
            let bytes = usize::try_from(rate / SLOW_BUFFER_SHARE).unwrap_or(usize::MAX);
            socket.set_recv_buffer_size(bytes.clamp(SLOW_BUFFER_BYTES_MIN, DISCARD_BYTES))?;
        }
        match socket.connect(&SockAddr::from(plan.address)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        let token = u64::from(self.generation) << 32 | u64::from(index);
        epoll.add(&socket, EpollEvent::new(flags, token))?;
        self.socket = Some(Socket::from_fd(socket.into(), false));
        self.stage = Stage::Connecting;
        Ok(())
    }

    /// Gives the connection back to the kernel, which takes it from the epoll too.
    pub(super) fn close(&mut self) {
        self.socket = None;
        self.streams = None;
        self.stage = Stage::Closed;
        self.is_readable = false;
        self.reader.reset();
    }

    /// Begins to send the request, on a connection that is ready.
    #[inline]
    pub(super) fn send_request(&mut self, plan: &Plan, tools: &mut Tools) -> Turn {
        self.cursor = Cursor::default();
        self.stage = Stage::Sending;
        self.send(&plan.script, tools)
    }

    /// Lets a slow reader read so many bytes more.
    pub(super) fn allow(&mut self, bytes: u64, bytes_max: u64) -> bool {
        self.allowance = (self.allowance + bytes).min(bytes_max);
        self.is_readable && self.stage != Stage::Closed
    }

    /// Goes on after the socket has become readable, writable or dead.
    #[inline]
    pub(super) fn turn(&mut self, events: EpollFlags, plan: &Plan, tools: &mut Tools) -> Turn {
        let ends = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let is_input = events.intersects(EpollFlags::EPOLLIN | ends);
        match self.stage {
            Stage::Connecting if events.intersects(EpollFlags::EPOLLOUT | ends) => {
                self.connected(plan, tools)
            }
            Stage::Receiving if is_input => {
                let is_ending = events.intersects(ends);
                match self.receive(plan, tools, is_ending) {
                    // It has closed without saying so in the head.
                    Turn::Answered(answer) if is_ending => {
                        Turn::Answered(Answer { is_persistent: false, ..answer })
                    }
                    turn => turn,
                }
            }
            Stage::Ready if is_input => self.look(tools),
            Stage::Securing => self.shake(plan, tools),
            Stage::Tunnelling => self.tunnel(plan, tools, is_input),
            Stage::Settling | Stage::Streaming if is_input => self.stream(plan, tools),
            Stage::Settling | Stage::Streaming => Turn::Streamed { is_more: false },
            Stage::Sending => {
                // The answer may come before all is sent (413), and nothing more is sent then.
                if is_input {
                    match self.receive(plan, tools, events.intersects(ends)) {
                        Turn::Waiting => {}
                        Turn::Answered(answer) => {
                            return Turn::Answered(Answer { is_persistent: false, ..answer });
                        }
                        other => return other,
                    }
                }
                self.send(&plan.script, tools)
            }
            Stage::Closed | Stage::Connecting | Stage::Receiving | Stage::Ready => Turn::Waiting,
        }
    }

    fn connected(&mut self, plan: &Plan, tools: &mut Tools) -> Turn {
        let Some(socket) = &self.socket else { return Turn::Waiting };
        if socket.has_failed() {
            return Turn::Failed(ErrorKind::Connect);
        }
        match &plan.tls {
            Some(tls) if !tls.is_in_tunnel => self.secure(plan, tools),
            _ => self.reached(plan, tools),
        }
    }

    /// Whoever is connected to can be spoken to.
    fn reached(&mut self, plan: &Plan, tools: &mut Tools) -> Turn {
        if plan.tunnel.is_none() {
            return self.ready(plan, tools);
        }
        self.cursor = Cursor::default();
        self.stage = Stage::Tunnelling;
        self.tunnel(plan, tools, false)
    }

    /// The server can be asked.
    fn ready(&mut self, plan: &Plan, tools: &mut Tools) -> Turn {
        if let Some(http2) = &plan.http2 {
            return self.begin_streams(plan, http2, tools);
        }
        self.stage = Stage::Ready;
        Turn::Opened
    }

    /// Begins the handshake.
    fn secure(&mut self, plan: &Plan, tools: &mut Tools) -> Turn {
        let (Some(socket), Some(tls)) = (&self.socket, &plan.tls) else { return Turn::Waiting };
        let Ok(session) = tls.client.session() else {
            return Turn::Failed(ErrorKind::Handshake);
        };
        socket.secure(session, tools.ledger.clone());
        self.stage = Stage::Securing;
        self.shake(plan, tools)
    }

    fn shake(&mut self, plan: &Plan, tools: &mut Tools) -> Turn {
        let Some(socket) = &self.socket else { return Turn::Waiting };
        match socket.try_handshake() {
            Ok(Handshake::Reads | Handshake::Writes) => Turn::Waiting,
            Ok(Handshake::Done) if plan.has_tls_in_tunnel() => self.ready(plan, tools),
            Ok(Handshake::Done) => self.reached(plan, tools),
            Err(error) => Turn::Failed(match Problem::of(&error) {
                Problem::Certificate => ErrorKind::Certificate,
                _ => ErrorKind::Handshake,
            }),
        }
    }

    /// Whether its session goes on from an earlier one; `None` where it has none.
    pub(super) fn is_resumed(&self) -> Option<bool> {
        self.socket.as_ref()?.session(Session::is_resumed)
    }

    fn tunnel(&mut self, plan: &Plan, tools: &mut Tools, is_input: bool) -> Turn {
        let Some(script) = &plan.tunnel else { return Turn::Failed(ErrorKind::Tunnel) };
        if self.cursor.next(script).is_some() {
            let turn = self.send(script, tools);
            // Sending leaves the stage of a request's own bytes.
            if turn == Turn::Waiting && self.stage == Stage::Receiving {
                self.stage = Stage::Tunnelling;
            }
            if turn != Turn::Waiting || !is_input {
                return turn;
            }
        }
        let Some(socket) = &self.socket else { return Turn::Waiting };
        let count = match socket.try_recv(&mut tools.buffer) {
            Ok(0) => return Turn::Failed(ErrorKind::Tunnel),
            Ok(count) => count,
            Err(error) if error.kind() == IoError::WouldBlock => return Turn::Waiting,
            Err(_) => return Turn::Failed(ErrorKind::Tunnel),
        };
        tools.bytes_read += count as u64;
        let bytes = &tools.buffer[..count];
        match self.reader.advance(bytes, &mut tools.head, Method::Connect) {
            Ok(Some(answer)) if answer.status / 100 == 2 => {
                if plan.has_tls_in_tunnel() {
                    return self.secure(plan, tools);
                }
                self.ready(plan, tools)
            }
            Ok(None) if self.reader.is_in_head() => Turn::Waiting,
            _ => Turn::Failed(ErrorKind::Tunnel),
        }
    }

    /// Something happened to a connection of which nothing was asked: it has ended, or is of no
    /// use, because what came answers nothing.
    fn look(&mut self, tools: &mut Tools) -> Turn {
        let Some(socket) = &self.socket else { return Turn::Waiting };
        match socket.try_recv(&mut tools.buffer) {
            Err(error) if error.kind() == IoError::WouldBlock => Turn::Waiting,
            _ => Turn::Closed,
        }
    }

    #[inline]
    fn send(&mut self, script: &Script, tools: &mut Tools) -> Turn {
        let Some(socket) = &self.socket else { return Turn::Waiting };
        for _ in 0..CALLS_PER_TURN {
            let Some(bytes) = self.cursor.next(script) else {
                self.stage = Stage::Receiving;
                return Turn::Waiting;
            };
            match socket.try_send(bytes) {
                Ok(count) => {
                    tools.bytes_written += count as u64;
                    self.cursor.advance(script, count);
                }
                Err(error) if error.kind() == IoError::WouldBlock => return Turn::Waiting,
                Err(_) => return Turn::Failed(ErrorKind::Reset),
            }
        }
        if self.cursor.next(script).is_some() {
            return Turn::Again;
        }
        self.stage = Stage::Receiving;
        Turn::Waiting
    }

    /// Reads what is there. `is_ending`: the end of the stream is among it.
    #[inline]
    fn receive(&mut self, plan: &Plan, tools: &mut Tools, is_ending: bool) -> Turn {
        self.is_readable = true;
        for _ in 0..CALLS_PER_TURN {
            let room = match plan.slow_read {
                None => usize::MAX,
                Some(_) if self.allowance == 0 => return Turn::Waiting,
                Some(_) => usize::try_from(self.allowance).unwrap_or(usize::MAX),
            };
            let Some(socket) = &self.socket else { return Turn::Waiting };
            let opaque = usize::try_from(self.reader.opaque_bytes()).unwrap_or(usize::MAX);
            let is_plain = socket.is_plain();
            // Without a copy: what is sealed has to be opened to be counted.
            let is_discarded = opaque > BUFFER_BYTES && is_plain;
            let (wanted, result) = if is_discarded {
                let wanted = opaque.min(DISCARD_BYTES).min(room);
                (wanted, socket.try_discard(wanted))
            } else {
                let wanted = BUFFER_BYTES.min(room);
                (wanted, socket.try_recv(&mut tools.buffer[..wanted]))
            };
            let count = match result {
                Ok(0) => return self.ended(),
                Ok(count) => count,
                Err(error) if error.kind() == IoError::WouldBlock => {
                    self.is_readable = false;
                    return Turn::Waiting;
                }
                // Nobody has said that this is all, which a body without a length needs.
                Err(error) if error.kind() == IoError::UnexpectedEof => {
                    return match self.ended() {
                        Turn::Answered(_) => Turn::Failed(ErrorKind::ShortBody),
                        turn => turn,
                    };
                }
                Err(error) if error.kind() == IoError::InvalidData => {
                    return Turn::Failed(ErrorKind::BadRecord);
                }
                Err(_) => return Turn::Failed(ErrorKind::Reset),
            };
            tools.bytes_read += count as u64;
            if plan.slow_read.is_some() {
                self.allowance -= count as u64;
            }
            let read = if is_discarded {
                Ok(self.reader.pass(count as u64))
            } else {
                let bytes = &tools.buffer[..count];
                self.reader.advance(bytes, &mut tools.head, plan.script.method)
            };
            match read {
                // Of records, a part may be held back.
                Ok(None) if count < wanted && !is_ending && is_plain => {
                    self.is_readable = false;
                    return Turn::Waiting;
                }
                Ok(None) => {}
                Ok(Some(answer)) => return Turn::Answered(answer),
                Err(flaw) => return Turn::Failed(kind_of(flaw)),
            }
        }
        Turn::Again
    }

    fn ended(&mut self) -> Turn {
        match self.reader.end() {
            Ok(answer) => Turn::Answered(answer),
            Err(flaw) => Turn::Failed(kind_of(flaw)),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }
}

fn kind_of(flaw: Flaw) -> ErrorKind {
    match flaw {
        Flaw::Silence => ErrorKind::Reset,
        Flaw::Short => ErrorKind::ShortBody,
        Flaw::Head => ErrorKind::BadHead,
        Flaw::Body => ErrorKind::BadBody,
    }
}
