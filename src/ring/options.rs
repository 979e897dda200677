//! How sockets are set, and what the kernel calls the address of a Unix one.
//!
//! In go sockets and addresses; out come the same sockets with their options, and addresses as
//! bind(2) and connect(2) take them. Nothing here waits.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockAddr, SockRef};

use crate::address::UnixAddress;

/// As the kernel wants it.
pub(crate) fn unix_address(address: UnixAddress) -> io::Result<SockAddr> {
    match address.name().strip_prefix('@') {
        Some(name) => SockAddr::unix(format!("\0{name}")),
        None => SockAddr::unix(address.name()),
    }
}

/// How sockets of clients and origins are set: heads and bodies leave in separate writes, and Nagle
/// would hold the second for a round trip; after `keepalive` of silence the kernel probes, unless
/// that is zero. What a listening socket accepts inherits all of it (tcp(7)).
pub(crate) fn set_options(socket: impl AsFd, keepalive: Duration) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    socket.set_tcp_nodelay(true)?;
    // An urgent byte is a byte like others (RFC 6093 §3): apart from them, it would be lost, and
    // splice(2) and the ring's RECV go round in circles where it is.
    socket.set_out_of_band_inline(true)?;
    if keepalive.is_zero() {
        // A listening socket may have been set up otherwise before.
        return socket.set_keepalive(false);
    }
    let probes = socket2::TcpKeepalive::new().with_time(keepalive).with_interval(keepalive);
    socket.set_tcp_keepalive(&probes)
}
