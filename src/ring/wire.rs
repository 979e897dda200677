//! Bytes of a socket as they are on the wire, moved by plain calls that never block.
//!
//! In go a descriptor and a slice; out comes how much of it was sent or filled. Nothing is kept and
//! nothing waits: what a session makes of the bytes is `layered`'s affair.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;

use super::ops::Descriptor;

/// Sends what the socket takes at once.
#[inline]
pub(super) fn send(fd: &Descriptor, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let (fd, start, length) = (fd.as_raw_fd(), bytes.as_ptr(), bytes.len());
    // SAFETY: these are the slice's bytes.
    uninterrupted(|| unsafe { call_with(libc::SYS_sendto, fd, start, length, flags) })
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
    let (fd, start, length) = (fd.as_raw_fd(), bytes.as_mut_ptr(), bytes.len());
    // SAFETY: these are the slice's bytes, and nothing else has it.
    uninterrupted(|| unsafe { call_with(libc::SYS_recvfrom, fd, start, length, flags) })
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
