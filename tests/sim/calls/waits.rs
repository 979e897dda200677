//! Calls by which a program waits, and those that open what it waits by.
//!
//! In go sets, events, timers and pipes of a simulated thread, which its world has; those of other
//! threads are the real kernel's.

use super::{answer, is_simulated, open, real, within};
use crate::kernel::{Kind, Set};
use crate::world::{Step, World};
use libc::{c_int, c_void, size_t, ssize_t};
use std::ptr;

/// Sleeps in the world, and does what it wants done outside of it.
pub(super) fn wait(
    set: c_int,
    events: *mut libc::epoll_event,
    room: usize,
    timeout: c_int,
) -> isize {
    let mut limit = None;
    loop {
        match within(|world| world.wait(set, room, timeout, &mut limit)) {
            Some(Step::Told(told)) => {
                // SAFETY: there is room for so many.
                unsafe { ptr::copy_nonoverlapping(told.as_ptr(), events, told.len()) };
                return told.len().cast_signed();
            }
            Some(Step::Call(call)) => call(),
            None => return 0,
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn poll(fds: *mut libc::pollfd, count: libc::nfds_t, timeout: c_int) -> c_int {
    // SAFETY: the caller's word.
    let first = unsafe { &mut *fds };
    if count != 1 || !is_simulated(first.fd) {
        return real!(SYS_poll, fds, count, timeout) as c_int;
    }
    let events = within(|world| world.kernel.poll(first.fd)).unwrap_or(0);
    let always = (libc::POLLHUP | libc::POLLERR) as u32;
    first.revents = (events & (first.events as u16 as u32 | always)) as i16;
    c_int::from(first.revents != 0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_create1(flags: c_int) -> c_int {
    match open(|world| Ok(world.kernel.open(Kind::Set(Set::default())) as usize)) {
        Some(opened) => answer(opened) as c_int,
        None => real!(SYS_epoll_create1, flags) as c_int,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_ctl(
    set: c_int,
    call: c_int,
    fd: c_int,
    event: *mut libc::epoll_event,
) -> c_int {
    let work = |world: &mut World| {
        // SAFETY: the caller's word; none is needed to take one out.
        let (events, data) =
            if event.is_null() { (0, 0) } else { unsafe { ((*event).events, (*event).u64) } };
        world.kernel.control(set, call, fd, events, data)
    };
    ask!(set, work, SYS_epoll_ctl, set, call, fd, event) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(
    set: c_int,
    events: *mut libc::epoll_event,
    room: c_int,
    timeout: c_int,
) -> c_int {
    if is_simulated(set) {
        return wait(set, events, room as usize, timeout) as c_int;
    }
    real!(SYS_epoll_wait, set, events, room, timeout) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn eventfd(count: u32, flags: c_int) -> c_int {
    match open(|world| Ok(world.kernel.open(Kind::Event(count.into())) as usize)) {
        Some(opened) => answer(opened) as c_int,
        None => real!(SYS_eventfd2, count, flags) as c_int,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn timerfd_create(clock: c_int, flags: c_int) -> c_int {
    match open(|world| Ok(world.kernel.open(Kind::Timer { due: None, has_fired: false }) as usize))
    {
        Some(opened) => answer(opened) as c_int,
        None => real!(SYS_timerfd_create, clock, flags) as c_int,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn timerfd_settime(
    fd: c_int,
    flags: c_int,
    new: *const libc::itimerspec,
    old: *mut libc::itimerspec,
) -> c_int {
    // SAFETY: the caller's word.
    let after = || unsafe {
        (*new).it_value.tv_sec as u64 * 1_000_000 + (*new).it_value.tv_nsec as u64 / 1000
    };
    let work = |world: &mut World| world.kernel.set_timer(fd, after());
    ask!(fd, work, SYS_timerfd_settime, fd, flags, new, old) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn read(fd: c_int, into: *mut c_void, size: size_t) -> ssize_t {
    let work = |world: &mut World| {
        let count = world.kernel.hear(fd)?;
        // SAFETY: the caller's word.
        unsafe { ptr::write_unaligned(into.cast(), count) };
        Ok(8)
    };
    ask!(fd, work, SYS_read, fd, into, size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, from: *const c_void, size: size_t) -> ssize_t {
    // SAFETY: the caller's word.
    let count = || unsafe { ptr::read_unaligned(from.cast::<u64>()) };
    ask!(fd, |world| world.kernel.ring(fd, count()), SYS_write, fd, from, size)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pipe2(ends: *mut c_int, flags: c_int) -> c_int {
    let opened = open(|world| {
        if world.kernel.falls_short() {
            return Err(libc::EMFILE);
        }
        let (read, write) = world.kernel.pipe();
        // SAFETY: the caller has room for two.
        unsafe { (*ends, *ends.add(1)) = (read, write) };
        Ok(0)
    });
    match opened {
        Some(opened) => answer(opened) as c_int,
        None => real!(SYS_pipe2, ends, flags) as c_int,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn splice(
    from: c_int,
    from_at: *mut libc::loff_t,
    to: c_int,
    to_at: *mut libc::loff_t,
    count: size_t,
    flags: u32,
) -> ssize_t {
    let work = |world: &mut World| world.kernel.splice(from, to, count);
    ask!(from, work, SYS_splice, from, from_at, to, to_at, count, flags)
}
