//! HTTP/2 (RFC 9113) without sockets: bytes and words in, events and bytes out, for both roles.
//!
//! In go the bytes of a connection as they come, however they are split, and the caller's words:
//! send this head, these bytes were taken, that stream's task has ended. Out come events, and bytes
//! in an outbox that the caller sends. Nothing here waits, reads a clock or knows a socket; what
//! comes of a peer cannot make it panic, and everything that it makes us hold is bounded and told.
//!
//! - [`session::Session`] is one connection, as a server towards clients or as a client towards
//!   origins.
//! - A block of fields becomes canonical HTTP/1.1 text (`fields`), which the strict parser of
//!   `http::head` reads again; what goes out is encoded field by field (`hpack::encode`).
//! - Bodies are not copied: [`Event::Data`] borrows from the input, and for what is sent
//!   [`session::Session::data_head`] gives the nine bytes that go in front.
//! - Windows are opened for what was taken ([`session::Session::taken`]), not for what has come.
//! - A stream's slot is free when [`session::Session::release`] says that its task has ended.
//!
//! ```text
//! let mut session = Session::new(Role::Server, terms, now_ms);
//! loop {
//!     let mut input = received.as_slice();
//!     while let Some(event) = session.next(&mut input, &mut text, now_ms)? {
//!         match event {
//!             Event::Request { stream, head, body, .. } => spawn(stream, &text[head], body),
//!             Event::Data { stream, bytes, is_end } => hand_over(stream, bytes, is_end),
//!             Event::Writable { stream } => wake(stream),
//!             ..
//!         }
//!         text.clear();
//!     }
//!     // The tasks that have run meanwhile:
//!     session.send_response(stream, 200, false, |block| block.field(b"server", b"ringway"))?;
//!     let bytes = chunk.len().min(session.room(stream));
//!     session.send_data(stream, &chunk[..bytes], bytes == chunk.len())?;
//!     session.taken(stream, uploaded);
//!     session.release(stream);
//!     let sent = socket.try_send(session.pending())?;
//!     session.consume(sent);
//! }
//! ```
//!
//! A large chunk goes out without a copy, by one call, where nothing is pending: first
//! `data_head`, then the chunk.

pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod flow;
pub(crate) mod frames;
pub(crate) mod guard;
pub(crate) mod hpack;
#[doc(hidden)]
pub(crate) mod invariants;
pub(crate) mod names;
pub(crate) mod priority;
pub(crate) mod session;

use std::ops::Range;

use error::{Cause, ErrorCode};
use fields::{Oversize, RequestKind};
use priority::Priority;

/// Which side of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Clients ask us.
    Server,
    /// We ask an origin.
    Client,
}

/// A stream that somebody holds: its slot and its number, which no other stream will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(self) index: u32,
    pub(self) id: u32,
}

impl Key {
    /// The stream's number.
    pub(crate) fn id(self) -> u32 {
        self.id
    }

    /// A small number that no other stream has as long as this one is held.
    pub(crate) fn index(self) -> usize {
        self.index as usize
    }
}

/// What is known of a body when its head has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// There is none.
    Empty,
    /// Its length was said, and is checked.
    Sized(u64),
    /// It ends when it ends.
    Open,
}

/// What a peer has done. Ranges are of the text that [`session::Session::next`] appends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event<'i> {
    /// A client asks for something. The caller holds the stream from now on.
    Request {
        stream: Key,
        head: Range<usize>,
        kind: RequestKind,
        /// What an extended CONNECT asks for.
        protocol: Option<Range<usize>>,
        body: Body,
        priority: Priority,
    },
    /// A client's head is too large: 431. The caller holds the stream from now on.
    Oversize { stream: Key, what: Oversize, is_head: bool, is_end: bool },
    /// An origin answers. Below 200 it will answer again.
    Response { stream: Key, head: Range<usize>, status: u16, body: Body },
    /// A piece of a body; with `is_end`, which may come alone, the last.
    Data { stream: Key, bytes: &'i [u8], is_end: bool },
    /// A body has ended, and these lines follow it.
    Trailers { stream: Key, lines: Range<usize> },
    /// A stream that the caller holds has ended before its time. It stays held.
    Reset { stream: Key, code: ErrorCode, cause: Cause },
    /// A stream that the caller has never seen was refused.
    Rejected { id: u32, code: ErrorCode, cause: Cause },
    /// There was no room to send, and now there is: for one stream, or for all.
    Writable { stream: Option<Key> },
    /// The peer's settings have changed: windows and limits may have.
    Settings,
    /// Our first settings are acknowledged.
    SettingsAcked,
    /// The client wants a response sooner or later than it has said.
    Reprioritized { stream: Key, priority: Priority },
    /// A ping of ours came back.
    Pong { payload: [u8; 8] },
    /// The peer takes no streams above `last`; those that are have not been acted upon.
    GoAway { last: u32, code: ErrorCode },
}
