//! What the access log says of one exchange.
//!
//! In go the facts that an exchange has gathered; out comes what a line is made of. Nothing here is
//! formatted.

use std::time::SystemTime;

use crate::address::{Address, PeerAddress};
use crate::tls::facts::TlsFacts;

/// One exchange, as its line tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// When the first byte of the request was read.
    pub time: SystemTime,
    /// The port is 0 where a peer speaks for somebody whose port is not known.
    pub client: PeerAddress,
    /// Who is connected, where that is not the client.
    pub peer: Option<PeerAddress>,
    /// Of the connection's session, where it has one.
    pub tls: Option<&'a TlsFacts>,
    /// These three are empty when the head was refused before they were known.
    pub method: &'a [u8],
    pub host: &'a [u8],
    pub target: &'a [u8],
    /// What the client was told; 0 when nothing was sent.
    pub status: u16,
    /// From the client and to it, heads included.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Empty when no route was found.
    pub upstream: &'a str,
    pub origin: Option<Address>,
    /// Whether the connection to the origin had carried an exchange before.
    pub is_reused: bool,
    /// What became of a second attempt beside the first. Left out where there was none.
    pub hedged: Option<&'static str>,
    pub phases: Phases,
    /// The kind of fault that ended the exchange, in one word.
    pub error: Option<&'static str>,
    /// What more is known of it, escaped. Left out where that is nothing.
    pub details: Option<&'a str>,
}

/// Where the time went, in microseconds. A phase that was not reached is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Phases {
    /// From the first byte of the request's head to the last.
    pub head_us: u64,
    /// Waiting for the right to a connection.
    pub pool_us: u64,
    /// Connecting to the origin.
    pub connect_us: u64,
    /// From the request's head being sent to the first byte of the answer.
    pub first_byte_us: u64,
    /// From the first byte of the request to the last byte of the answer.
    pub total_us: u64,
}
