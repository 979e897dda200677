//! How much of what was sent to a process it has not read yet.
//!
//! Comes in: the two addresses of a TCP connection of this machine. Goes out: the length of the
//! receive queue at the other end, asked of the kernel by `sock_diag(7)`, which looks one socket
//! up instead of listing them all as `/proc/net/tcp` does. Nothing is assumed where it cannot be
//! asked.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

/// A question to the kernel, to be asked as often as needed.
pub(crate) struct Unread {
    netlink: OwnedFd,
    request: Vec<u8>,
}

/// `struct nlmsghdr` and, behind it, `struct inet_diag_req_v2`.
const REQUEST_BYTES: usize = 16 + 56;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;

/// Where `idiag_rqueue` of `struct inet_diag_msg` stands in an answer.
const QUEUE_AT: usize = 16 + 4 + 48 + 4;

impl Unread {
    /// The bytes that `reader` was sent by `writer`; nothing where the kernel has no `sock_diag`.
    pub(crate) fn new(reader: SocketAddr, writer: SocketAddr) -> Option<Self> {
        let family = AddressFamily::Netlink;
        let protocol = SockProtocol::NetlinkSockDiag;
        let netlink = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol).ok()?;
        Some(Self { netlink, request: request(reader, writer) })
    }

    /// The bytes not read yet; nothing once the reader's socket is gone.
    pub(crate) fn count(&self) -> Option<u32> {
        let (netlink, kernel) = (self.netlink.as_raw_fd(), NetlinkAddr::new(0, 0));
        sendto(netlink, &self.request, &kernel, MsgFlags::empty()).ok()?;
        let mut answer = [0; 1_024];
        let length = recv(netlink, &mut answer, MsgFlags::empty()).ok()?;
        let is_found = u16::from_ne_bytes([answer[4], answer[5]]) == SOCK_DIAG_BY_FAMILY;
        let queue = answer[..length].get(QUEUE_AT..QUEUE_AT + 4).filter(|_| is_found)?;
        Some(u32::from_ne_bytes(queue.try_into().expect("four bytes")))
    }
}

fn request(reader: SocketAddr, writer: SocketAddr) -> Vec<u8> {
    let address = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => [&v4.ip().octets()[..], &[0; 12]].concat(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    let family = if reader.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut request = Vec::with_capacity(REQUEST_BYTES);
    request.extend_from_slice(&u32::try_from(REQUEST_BYTES).expect("small").to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence and sender, of which one question at a time needs neither.
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[u8::try_from(family as i32).expect("small"), IPPROTO_TCP, 0, 0]);
    // In any state, through any interface, whatever the cookie.
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&reader.port().to_be_bytes());
    request.extend_from_slice(&writer.port().to_be_bytes());
    request.extend_from_slice(&address(reader));
    request.extend_from_slice(&address(writer));
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request.extend_from_slice(&[0xff; 8]);
    request
}
