//! What the access log says of one exchange.
//!
//! In go the facts that an exchange has gathered; out comes what a line is made of, each field as
//! its value. Nothing here is escaped.

use std::time::{SystemTime, UNIX_EPOCH};

use super::access_escape::{ClfTime, Known, Rfc3339, Room, Value};
use super::access_look::Look;
use super::access_notes::{Noted, Notes};
use super::spans::TraceIds;
use crate::address::{Address, PeerAddress};
use crate::config::{AccessFacts, AccessField};
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
    /// The number of the exchange's stream, where the client speaks HTTP/2.
    pub stream: Option<u32>,
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
    /// Its name; empty where none was found.
    pub route: &'a str,
    /// Of HTTP, as the client speaks it.
    pub version: &'static str,
    pub user_agent: &'a [u8],
    pub referer: &'a [u8],
    /// The upstream that a split has chosen; empty where there is none.
    pub arm: &'a str,
    /// Attempts behind the first.
    pub retries: u32,
    /// Bytes that the connection has held at once.
    pub memory_peak: u64,
    pub trace: Option<TraceIds>,
    /// What else the format wants.
    pub notes: &'a Notes,
}

impl<'a> Record<'a> {
    /// What decides whether there is a line.
    pub(super) fn facts(&self) -> AccessFacts<'a> {
        let Phases { pool_us, connect_us, first_byte_us, total_us, .. } = self.phases;
        AccessFacts {
            method: self.method,
            route: self.route,
            upstream: self.upstream,
            status: self.status.into(),
            retries: self.retries.into(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            pool_us,
            connect_us,
            first_byte_us,
            total_us,
            is_error: self.error.is_some(),
        }
    }

    /// The value of a field; one of our own is put together in `room`.
    pub(super) fn value<'v>(
        &'v self,
        field: &AccessField,
        look: &Look,
        room: &'v mut Room,
    ) -> Value<'v> {
        use AccessField as F;
        let Phases { head_us, pool_us, connect_us, first_byte_us, total_us } = self.phases;
        match field {
            F::Time => Value::Text(room.show(Rfc3339(self.time))),
            F::TimeClf => Value::Text(room.show(ClfTime(self.time))),
            F::TimeUnix => {
                let since = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
                let (seconds, millis) = (since.as_secs(), since.subsec_millis());
                Value::Figure(room.show(format_args!("{seconds}.{millis:03}")))
            }
            F::Client => Value::Text(room.show(Known(self.client))),
            F::ClientIp => match self.client {
                PeerAddress::Ip(client) => Value::Text(room.show(client.ip())),
                PeerAddress::Unix => Value::Nothing,
            },
            F::ClientPort => match self.client {
                PeerAddress::Ip(client) if client.port() != 0 => {
                    Value::Figure(room.show(client.port()))
                }
                _ => Value::Nothing,
            },
            F::Peer => self.peer.map_or(Value::Nothing, |peer| Value::Text(room.show(peer))),
            F::Origin => self.origin.map_or(Value::Nothing, |it| Value::Text(room.show(it))),
            F::Status => Value::Figure(room.show(self.status)),
            F::BytesIn => Value::Figure(room.show(self.bytes_in)),
            F::BytesOut => Value::Figure(room.show(self.bytes_out)),
            F::Reused => Value::Figure(room.show(self.is_reused)),
            F::Retries => Value::Figure(room.show(self.retries)),
            F::Stream => self.stream.map_or(Value::Nothing, |it| Value::Figure(room.show(it))),
            F::HeadUs => Value::Figure(room.show(head_us)),
            F::PoolUs => Value::Figure(room.show(pool_us)),
            F::ConnectUs => Value::Figure(room.show(connect_us)),
            F::FirstByteUs => Value::Figure(room.show(first_byte_us)),
            F::TotalUs => Value::Figure(room.show(total_us)),
            F::TotalS => {
                let (seconds, micros) = (total_us / 1_000_000, total_us % 1_000_000);
                Value::Figure(room.show(format_args!("{seconds}.{micros:06}")))
            }
            F::MemoryPeak => Value::Figure(room.show(self.memory_peak)),
            F::TraceId => self.trace.map_or(Value::Nothing, |ids| {
                Value::Text(room.show(format_args!("{:032x}", ids.trace)))
            }),
            F::SpanId => self.trace.map_or(Value::Nothing, |ids| {
                Value::Text(room.show(format_args!("{:016x}", ids.span)))
            }),
            F::Request if self.method.is_empty() => Value::Nothing,
            F::Request => Value::Words([self.method, self.target, self.version.as_bytes()]),
            field => Value::of(self.text(field, look)),
        }
    }

    /// The value of a field that is there as text; empty where there is none.
    fn text(&self, field: &AccessField, look: &Look) -> &[u8] {
        use AccessField as F;
        let place = |names: &[Box<str>], name: &str| {
            names.iter().position(|known| **known == *name).unwrap_or(usize::MAX) as u8
        };
        let noted = |noted| self.notes.find(noted).unwrap_or_default();
        let query = memchr::memchr(b'?', self.target).unwrap_or(self.target.len());
        match field {
            F::User => noted(Noted::User),
            F::RequestId => noted(Noted::RequestId),
            F::RequestHeader(name) => {
                noted(Noted::RequestHeader(place(&look.request_headers, name)))
            }
            F::ResponseHeader(name) => {
                noted(Noted::ResponseHeader(place(&look.response_headers, name)))
            }
            F::Method => self.method,
            F::Scheme if self.tls.is_some() => b"https",
            F::Scheme => b"http",
            F::Host => self.host,
            F::Target => self.target,
            F::Path => &self.target[..query],
            F::Query => self.target.get(query + 1..).unwrap_or_default(),
            F::Version => self.version.as_bytes(),
            F::Route => self.route.as_bytes(),
            F::Upstream => self.upstream.as_bytes(),
            F::Arm => self.arm.as_bytes(),
            F::Hedged => self.hedged.unwrap_or_default().as_bytes(),
            F::Tls(fact) => self.tls.map_or(&[], |facts| facts.text(*fact).as_bytes()),
            F::UserAgent => self.user_agent,
            F::Referer => self.referer,
            F::Error => self.error.unwrap_or_default().as_bytes(),
            F::Details => self.details.unwrap_or_default().as_bytes(),
            _ => &[],
        }
    }
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
