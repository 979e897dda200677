//! What a connection asks of whoever has it driven, and what it tells.
//!
//! In go needs, such as a lane for a request, and news; out come lanes, limits and decisions.
//! Nothing here moves a byte.

use std::rc::Rc;
use std::time::Duration;

use super::lane::Lane;
use crate::http2::error::{Cause, ConnectionError, ErrorCode};

/// Whoever has a connection driven.
pub(crate) trait Host {
    /// Makes a lane on which somebody works; `None` where there is no room for one more.
    fn open_lane(&self) -> Option<Rc<Lane>>;
    /// A stream was given up, by the peer or for what it did.
    fn stream_ended(&self, code: ErrorCode, cause: Cause);
    /// The same of a request that nobody has seen, on the stream with this number.
    fn rejected(&self, id: u32, code: ErrorCode, cause: Cause);
    /// A stream was sent back untouched, because there was no room for it.
    fn refused(&self);
}

/// How long each may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// The rest of a frame that is of no use before it is whole, and the peer's first words.
    pub head: Duration,
    /// Without a stream.
    pub idle: Duration,
    /// For the peer to take anything.
    pub stall: Duration,
}

/// What the driver asks whoever has a connection driven.
pub(crate) trait Keeper: Host {
    fn patience(&self) -> Patience;
    /// No more streams are to be taken.
    fn is_closing(&self) -> bool;
    /// Nobody will ever use it again.
    fn is_unused(&self) -> bool;
    /// Nothing is under way, or something is again.
    fn set_idle(&self, is_idle: bool);
    /// Why a wait that somebody has interrupted is over, where it is.
    fn interrupted(&self) -> Option<End>;
    /// Bytes have moved on the wire: received, or sent.
    fn moved(&self, received: usize, sent: usize);
}

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer has closed it.
    Gone,
    /// The peer is at fault, and has been told by GOAWAY.
    Fault(ConnectionError),
    /// Nothing was asked for too long.
    Idle,
    /// The peer said nothing, or took nothing, where it had to.
    Silent(Silence),
    /// Drained to the last stream.
    Drained,
    /// Somebody has decided so.
    Cut,
    /// It makes room for somebody else.
    GaveWay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    Head,
    Settings,
    Ping,
    Stall,
}
