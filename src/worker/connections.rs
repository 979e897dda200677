//! What a worker knows of a client connection, whatever that is doing.
//!
//! In goes a socket with where it came from; out comes what an operator may see of it, and what can
//! be done to it from outside: waking it, or ending it with the connection to an origin that it is
//! using. Nothing here waits.

use std::cell::Cell;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::address::{ClientAddress, PeerAddress};
use crate::fault::Fault;
use crate::observe::connection_stats::{ConnectionStats, Ending};
use crate::ring::{Deadlines, Socket};
use crate::worker::mailbox::ConnectionInfo;

/// One client connection, as the worker sees it from outside.
pub(crate) struct ConnectionEntry {
    pub(crate) socket: Socket,
    pub(super) arrival: Arrival,
    /// No other connection of the process has it, now or later.
    pub(crate) id: u64,
    pub stats: ConnectionStats,
    /// The connection to an origin, or to a proxy on the way there, of the exchange or the tunnel
    /// under way.
    pub(super) other_end: Cell<Option<Socket>>,
}

/// Where a connection comes from, and by which listener, in 24 bytes; a `SocketAddr` has 32.
pub(super) struct Arrival {
    /// IPv4 as it is mapped into IPv6 (RFC 4291 §2.5.5.2).
    ip: Ipv6Addr,
    /// [`IS_V4`] where the address is one of IPv4, [`IS_UNIX`] where there is none.
    scope_id: u32,
    port: u16,
    pub(super) listener: u16,
}

/// No interface has this number: Linux gives out those that a positive `int` holds.
const IS_V4: u32 = u32::MAX;
const IS_UNIX: u32 = u32::MAX - 1;

impl Arrival {
    pub(super) fn new(peer: PeerAddress, listener: u16) -> Self {
        let (ip, scope_id, port) = match peer {
            PeerAddress::Ip(SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped(), IS_V4, v4.port()),
            PeerAddress::Ip(SocketAddr::V6(v6)) => (*v6.ip(), v6.scope_id(), v6.port()),
            PeerAddress::Unix => (Ipv6Addr::UNSPECIFIED, IS_UNIX, 0),
        };
        Self { ip, scope_id, port, listener }
    }

    pub(super) fn peer(&self) -> PeerAddress {
        if self.scope_id == IS_UNIX {
            return PeerAddress::Unix;
        }
        PeerAddress::Ip(match self.ip.to_ipv4_mapped() {
            Some(ip) if self.scope_id == IS_V4 => (ip, self.port).into(),
            _ => SocketAddrV6::new(self.ip, self.port, 0, self.scope_id).into(),
        })
    }
}

impl ConnectionEntry {
    /// Ends an idle connection.
    pub(crate) fn close(&self, deadlines: &Deadlines) {
        self.stats.end(Ending::Cut);
        self.socket.interrupt_for_good(deadlines);
    }

    /// What stands for its client: an address, the prefix of 64 bits that one subscriber has, or 0
    /// for all processes of this machine.
    pub(crate) fn address(&self) -> u128 {
        match self.arrival.ip.to_ipv4_mapped() {
            Some(_) => self.arrival.ip.to_bits(),
            None => self.arrival.ip.to_bits() >> 64 << 64,
        }
    }

    pub(crate) fn peer(&self) -> PeerAddress {
        self.arrival.peer()
    }

    pub(super) fn describe(
        &self,
        worker: usize,
        client: Option<IpAddr>,
        streams: Option<usize>,
        now_ms: u64,
    ) -> ConnectionInfo {
        let stats = &self.stats;
        let stream = self.socket.stream_id();
        let speaks_http2 = streams.is_some() || stream.is_some();
        ConnectionInfo {
            id: self.id,
            worker,
            peer: self.arrival.peer(),
            client: client.map_or(self.arrival.peer().client(), ClientAddress::of),
            phase: stats.phase().name(),
            age_ms: stats.born.age_ms(now_ms),
            phase_ms: stats.phase_began().age_ms(now_ms),
            requests: u64::from(stats.requests.get()),
            protocol: if speaks_http2 { "h2" } else { "http/1.1" },
            streams,
            stream,
            bytes_received: stats.received.get(),
            bytes_sent: stats.sent.get(),
            memory_bytes: stats.bytes(),
            route: None,
            target: None,
        }
    }

    /// Ends the connection, in whatever it is.
    pub(crate) fn cut(&self, deadlines: &Deadlines) {
        self.stats.end(Ending::Cut);
        // A shutdown would look like the end of an answer that ends with its connection.
        self.socket.reset_on_close();
        self.socket.interrupt_for_good(deadlines);
        self.end_other(deadlines);
    }

    /// Ends the exchange under way, which holds a connection to an origin, by `fault`: it is
    /// answered where nothing of an answer has been sent yet, and else the client is reset. False
    /// where nothing of that kind is under way.
    pub(crate) fn give_up(&self, fault: Fault, deadlines: &Deadlines) -> bool {
        let is_under_way = {
            let other = self.other_end.take();
            let is_some = other.is_some();
            self.other_end.set(other);
            is_some
        };
        if is_under_way {
            self.stats.end(Ending::GiveUp(fault));
            self.socket.interrupt(deadlines);
            self.end_other(deadlines);
        }
        is_under_way
    }

    pub(super) fn end_other(&self, deadlines: &Deadlines) {
        if let Some(other) = self.other_end.take() {
            other.reset_on_close();
            other.interrupt_for_good(deadlines);
            self.other_end.set(Some(other));
        }
    }
}

/// The other end's place in its connection; dropping it says that there is none any more.
pub(crate) struct Attached<'a>(pub(super) &'a ConnectionEntry);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.0.other_end.set(None);
    }
}

impl Attached<'_> {
    /// The exchange goes on with another connection.
    pub(super) fn point_to(&self, other: &Socket) {
        self.0.other_end.set(Some(other.clone()));
    }

    pub(super) fn is_ended(&self) -> bool {
        self.0.stats.is_ended()
    }
}
