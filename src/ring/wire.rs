//! Bytes of a socket as they are on the wire, moved by plain calls that never block.
//!
//! In go a descriptor and a slice; out comes how much of it was sent or filled. Nothing is kept and
//! nothing waits: what a session makes of the bytes is `layered`'s affair.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, sendmsg};

use super::ops::Descriptor;

/// Sends what the socket takes at once.
#[inline]
pub(super) fn send(fd: &Descriptor, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let (raw, start, length) = (fd.as_raw_fd(), bytes.as_ptr(), bytes.len());
    // SAFETY: these are the slice's bytes.
    fd.sent(uninterrupted(|| unsafe { call_with(libc::SYS_sendto, raw, start, length, flags) }))
}

/// The same, of bytes that lie in several places.
pub(super) fn send_parts(fd: &Descriptor, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    fd.sent(uninterrupted(|| sendmsg::<()>(fd.as_raw_fd(), parts, &[], flags, None)))
}

/// Receives what is there.
#[inline]
pub(super) fn receive(fd: &Descriptor, bytes: &mut [u8]) -> io::Result<usize> {
    receive_with(fd, bytes, libc::MSG_DONTWAIT)
}

/// The same, and leaves the bytes where they are.
pub(super) fn peek(fd: &Descriptor, bytes: &mut [u8]) -> io::Result<usize> {
    receive_with(fd, bytes, libc::MSG_DONTWAIT | libc::MSG_PEEK)
}

#[inline]
fn receive_with(fd: &Descriptor, bytes: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    let (raw, start, length) = (fd.as_raw_fd(), bytes.as_mut_ptr(), bytes.len());
    // SAFETY: these are the slice's bytes, and nothing else has it.
    let call = || unsafe { call_with(libc::SYS_recvfrom, raw, start, length, flags) };
    let result = uninterrupted(call);
    if length == 0 { result } else { fd.received(result) }
}

/// Bytes that the send buffer has room for, about (SO_MEMINFO, socket(7)); as good as endless where
/// the kernel does not say.
pub(super) fn send_room(fd: &Descriptor) -> usize {
    const SNDBUF: usize = 3;
    const WMEM_QUEUED: usize = 5;
    let mut info = [0_u32; 9];
    let mut length = size_of_val(&info) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
    let (room, size) = (info.as_mut_ptr().cast(), &raw mut length);
    // SAFETY: the kernel writes `length` bytes at most to the array, and the length that it wrote.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, room, size) };
    if result == 0 && length as usize > WMEM_QUEUED * size_of::<u32>() {
        info[SNDBUF].saturating_sub(info[WMEM_QUEUED]) as usize
    } else {
        usize::MAX
    }
}

/// sendto(2) or recvfrom(2) without an address. The C library's functions are places at which a
/// thread can be cancelled, which costs each call of a process with threads 50 instructions.
///
/// # Safety
///
/// The `length` bytes from `start` on may be read, and written to for recvfrom.
#[inline]
unsafe fn call_with(
    number: libc::c_long,
    fd: RawFd,
    start: *const u8,
    length: usize,
    flags: libc::c_int,
) -> nix::Result<usize> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the caller's; a null address is none.
    let result = unsafe { libc::syscall(number, fd, start, length, flags, none, none) };
    Errno::result(result as isize).map(isize::cast_unsigned)
}

pub(super) fn uninterrupted(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use socket2::SockRef;

    use super::*;
    use crate::ring::{PipePool, Socket, Spliced};

    /// A socket whose peer has reset its connection, which nobody has been told of.
    fn reset() -> Socket {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let here = OwnedFd::from(listener.accept().unwrap().0);
        SockRef::from(&there).set_linger(Some(Duration::ZERO)).unwrap();
        drop(there);
        let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(&here), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::from(10_000_u16)).unwrap();
        Socket::from_fd(here, false)
    }

    /// An answer without a length was taken for a whole one: the upload had met the reset.
    #[test]
    fn whoever_receives_is_told_of_a_reset_that_another_call_has_met() {
        let tellers: [fn(&Socket); 4] = [
            |socket| assert!(socket.try_send(b"x").is_err()),
            |socket| assert!(socket.try_recv(&mut [0]).is_err()),
            |socket| assert!(socket.try_peek(&mut [0]).is_err()),
            |socket| assert!(socket.has_failed()),
        ];
        for tell in tellers {
            let socket = reset();
            tell(&socket);
            for _ in 0..2 {
                let kinds = [socket.try_peek(&mut [0]), socket.try_recv(&mut [0])];
                let kinds = kinds.map(|result| result.unwrap_err().kind());
                assert_eq!(kinds, [io::ErrorKind::ConnectionReset; 2]);
            }
            let pool = PipePool::new(1);
            let mut pipe = pool.try_lease().unwrap();
            let filled = pipe.fill(&Spliced::new(&socket).unwrap(), 1);
            assert_eq!(filled.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
