//! Addresses, and the calls that send to one and receive from one.
//!
//! In go those of IPv4, as the C library has them: nobody here has another one. Out come datagrams
//! to and from the world, or the real kernel's.

use super::{answer, is_simulated, real, within};
use crate::world::World;
use libc::{c_int, c_void, size_t, sockaddr, socklen_t, ssize_t};
use std::net::SocketAddrV4;
use std::ptr;

pub(super) fn read_address(address: *const sockaddr) -> SocketAddrV4 {
    // SAFETY: everything here is IPv4.
    let address = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in>()) };
    let ip = address.sin_addr.s_addr.to_ne_bytes();
    SocketAddrV4::new(ip.into(), u16::from_be(address.sin_port))
}

pub(super) fn write_address(from: SocketAddrV4, address: *mut sockaddr, length: *mut socklen_t) {
    if address.is_null() {
        return;
    }
    let written = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: from.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(from.ip().octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: the caller has room for any address.
    unsafe {
        ptr::write_unaligned(address.cast(), written);
        *length = size_of::<libc::sockaddr_in>() as socklen_t;
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendto(
    fd: c_int,
    from: *const c_void,
    size: size_t,
    flags: c_int,
    address: *const sockaddr,
    length: socklen_t,
) -> ssize_t {
    let work = |world: &mut World| {
        // SAFETY: the caller's word.
        let bytes = unsafe { std::slice::from_raw_parts(from.cast(), size) };
        world.send_to(fd, bytes, read_address(address))
    };
    ask!(fd, work, SYS_sendto, fd, from, size, flags, address, length)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn recvfrom(
    fd: c_int,
    into: *mut c_void,
    size: size_t,
    flags: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> ssize_t {
    let work = |world: &mut World| {
        // SAFETY: the caller's word.
        let into = unsafe { std::slice::from_raw_parts_mut(into.cast(), size) };
        let (count, from) = world.receive_from(fd, into)?;
        write_address(from, address, length);
        Ok(count)
    };
    ask!(fd, work, SYS_recvfrom, fd, into, size, flags, address, length)
}
