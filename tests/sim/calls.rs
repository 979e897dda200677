//! The C library's functions by which a program asks its kernel, in place of those of the C
//! library: what this program defines is what it is linked with.
//!
//! In go the calls of all threads. Those of a thread that simulates, about what is simulated, go to
//! its world; all others go to the real kernel as they are. So the program under test has no seam
//! for this, and pays for none.

use crate::chance::Chance;
use crate::kernel::{FIRST, Kind};
use crate::world::World;
use libc::{c_int, c_long, c_void, size_t, sockaddr, socklen_t, ssize_t};
use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ptr;

thread_local! {
    static WORLD: Cell<*mut World> = const { Cell::new(ptr::null_mut()) };
    static NOW_US: Cell<u64> = const { Cell::new(0) };
    /// What is opened is for other threads, and real.
    static IS_PLANNING: Cell<bool> = const { Cell::new(false) };
    static SECRETS: RefCell<Option<Chance>> = const { RefCell::new(None) };
}

/// Lets `work` run in `world`: what it asks of the kernel is asked there.
pub(crate) fn simulate<T>(world: &mut World, seed: u64, work: impl FnOnce() -> T) -> T {
    NOW_US.set(world.kernel.now_us);
    SECRETS.set(Some(Chance::new(seed, 77)));
    WORLD.set(world);
    let output = work();
    WORLD.set(ptr::null_mut());
    NOW_US.set(0);
    SECRETS.set(None);
    output
}

/// Has the thread's world do something; `None` where there is none, or it is at something already.
pub(crate) fn within<T>(work: impl FnOnce(&mut World) -> T) -> Option<T> {
    let world = WORLD.replace(ptr::null_mut());
    if world.is_null() {
        return None;
    }
    // SAFETY: `simulate` has it, and waits for its work to end; nobody else finds it meanwhile.
    let it = unsafe { &mut *world };
    it.kernel.calls += 1;
    let output = work(it);
    NOW_US.set(it.kernel.now_us);
    WORLD.set(world);
    Some(output)
}

/// Lets `work` open what other threads wait by. Sockets are the world's all the same.
pub(crate) fn plan<T>(work: impl FnOnce() -> T) -> T {
    IS_PLANNING.set(true);
    let output = work();
    IS_PLANNING.set(false);
    output
}

/// Has the world open something that its own thread waits by.
fn open(work: impl FnOnce(&mut World) -> Result<usize, i32>) -> Option<Result<usize, i32>> {
    if IS_PLANNING.get() { None } else { within(work) }
}

fn is_simulated(fd: c_int) -> bool {
    fd >= FIRST && !WORLD.get().is_null()
}

fn fail(error: c_int) {
    // SAFETY: the thread's own.
    unsafe { *libc::__errno_location() = error };
}

/// As the C library gives it.
fn answer(outcome: Result<usize, i32>) -> isize {
    match outcome {
        Ok(count) => count.cast_signed(),
        Err(error) => {
            fail(error);
            -1
        }
    }
}

/// The real kernel.
unsafe fn real(call: c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the caller's word for its pointers.
    unsafe {
        std::arch::asm!(
            "syscall", inlateout("rax") call as isize => result, in("rdi") a, in("rsi") b,
            in("rdx") c, in("r10") d, in("r8") e, in("r9") f, out("rcx") _, out("r11") _,
            options(nostack)
        );
    }
    if (-4095..0).contains(&result) {
        fail(-result as c_int);
        return -1;
    }
    result
}

macro_rules! real {
    ($call:ident $(, $argument:expr)*) => {{
        #[allow(unused_mut)]
        let mut arguments = [0_usize; 6];
        let given: &[usize] = &[$($argument as usize),*];
        arguments[..given.len()].copy_from_slice(given);
        // SAFETY: as the caller of the C library's function has it.
        unsafe { real(libc::$call, arguments) }
    }};
}

/// Asks the world, or the kernel where the descriptor is a real one.
macro_rules! ask {
    ($fd:expr, $work:expr, $($real:tt)*) => {
        if is_simulated($fd) && let Some(outcome) = within($work) {
            answer(outcome)
        } else {
            real!($($real)*)
        }
    };
}

mod addresses;
mod waits;

use addresses::{read_address, write_address};
use waits::wait;

#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    call: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let fd = a as c_int;
    if is_simulated(fd) {
        match call {
            libc::SYS_recvfrom => return unsafe { recv(fd, b as *mut c_void, c, d as c_int) as _ },
            libc::SYS_sendto => return unsafe { send(fd, b as *const c_void, c, d as c_int) as _ },
            libc::SYS_epoll_pwait => return wait(fd, b as *mut _, c, d as c_int) as _,
            _ => {}
        }
    }
    if call == libc::SYS_getrandom {
        return unsafe { getrandom(a as *mut c_void, b, c as u32) as _ };
    }
    // SAFETY: the caller's.
    unsafe { real(call, [a, b, c, d, e, f]) as c_long }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn recv(fd: c_int, into: *mut c_void, size: size_t, flags: c_int) -> ssize_t {
    let is_peek = flags & libc::MSG_PEEK != 0;
    let work = |world: &mut World| {
        if into.is_null() {
            return world.kernel.discard(fd, size);
        }
        // SAFETY: the caller's word.
        let into = unsafe { std::slice::from_raw_parts_mut(into.cast(), size) };
        world.kernel.receive(fd, into, is_peek)
    };
    ask!(fd, work, SYS_recvfrom, fd, into, size, flags, 0, 0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn send(fd: c_int, from: *const c_void, size: size_t, flags: c_int) -> ssize_t {
    // SAFETY: the caller's word.
    let bytes = || unsafe { std::slice::from_raw_parts(from.cast(), size) };
    ask!(fd, |world| world.kernel.send(fd, bytes()), SYS_sendto, fd, from, size, flags, 0, 0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendmsg(fd: c_int, message: *const libc::msghdr, flags: c_int) -> ssize_t {
    let work = |world: &mut World| {
        // SAFETY: the caller's word.
        let parts =
            unsafe { std::slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen) };
        let mut sent = 0;
        for part in parts {
            // SAFETY: the same.
            let bytes =
                unsafe { std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len) };
            match world.kernel.send(fd, bytes) {
                Ok(count) if count == bytes.len() => sent += count,
                Ok(count) => return Ok(sent + count),
                Err(_) if sent > 0 => return Ok(sent),
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    };
    ask!(fd, work, SYS_sendmsg, fd, message, flags)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let opened = within(|world| {
        if world.kernel.falls_short() {
            return Err([libc::EMFILE, libc::ENFILE, libc::ENOBUFS][world.kernel.chance.below(3)]);
        }
        let is_datagrams = kind & 0xf == libc::SOCK_DGRAM;
        let kernel = &mut world.kernel;
        let fd = if is_datagrams { kernel.open_datagrams() } else { kernel.open(Kind::Fresh) };
        Ok(fd as usize)
    });
    match opened {
        Some(opened) => answer(opened) as c_int,
        None => real!(SYS_socket, domain, kind, protocol) as c_int,
    }
}

fn on_loopback(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    let work = |world: &mut World| world.connect(fd, read_address(address));
    ask!(fd, work, SYS_connect, fd, address, length) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    let work = |world: &mut World| world.kernel.listen(fd, read_address(address).port());
    ask!(fd, work, SYS_bind, fd, address, length) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    ask!(fd, |_| Ok(0), SYS_listen, fd, backlog) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn accept4(
    fd: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
    flags: c_int,
) -> c_int {
    let work = |world: &mut World| {
        let (accepted, port) = world.kernel.accept(fd)?;
        write_address(on_loopback(port), address, length);
        Ok(accepted as usize)
    };
    ask!(fd, work, SYS_accept4, fd, address, length, flags) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getsockname(
    fd: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> c_int {
    let work = |world: &mut World| {
        write_address(on_loopback(world.own_port(fd)), address, length);
        Ok(0)
    };
    ask!(fd, work, SYS_getsockname, fd, address, length) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    ask!(fd, |world| world.kernel.shut(fd, how), SYS_shutdown, fd, how) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    ask!(fd, |world| world.kernel.close(fd), SYS_close, fd) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> c_int {
    let work = |world: &mut World| {
        let number = match option {
            libc::SO_ERROR => world.kernel.take_error(fd)?,
            libc::SO_DOMAIN => libc::AF_INET,
            _ => return Err(libc::ENOPROTOOPT),
        };
        // SAFETY: both of these are one int.
        unsafe { *value.cast::<c_int>() = number };
        Ok(0)
    };
    ask!(fd, work, SYS_getsockopt, fd, level, option, value, length) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *const c_void,
    length: socklen_t,
) -> c_int {
    let work = |world: &mut World| {
        if (level, option) == (libc::SOL_SOCKET, libc::SO_LINGER) {
            // SAFETY: it is what the option takes.
            let linger = unsafe { *value.cast::<libc::linger>() };
            world.kernel.set_linger(fd, linger.l_onoff != 0 && linger.l_linger == 0);
        }
        Ok(0)
    };
    ask!(fd, work, SYS_setsockopt, fd, level, option, value, length) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ioctl(fd: c_int, request: usize, argument: usize) -> c_int {
    let work = |world: &mut World| {
        if request == libc::TIOCOUTQ as usize {
            let connection = world.kernel.connection_of(fd)?;
            let pending = world.kernel.peer_pending(connection);
            // SAFETY: the caller's word.
            unsafe { *(argument as *mut c_int) = pending as c_int };
        }
        Ok(0)
    };
    ask!(fd, work, SYS_ioctl, fd, request, argument) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    let work = |world: &mut World| match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => Ok(world.kernel.duplicate(fd)? as usize),
        libc::F_GETFL => Ok((libc::O_RDWR | libc::O_NONBLOCK) as usize),
        _ => Ok(0),
    };
    ask!(fd, work, SYS_fcntl, fd, command, argument) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let now = NOW_US.get();
    if now == 0 {
        return real!(SYS_clock_gettime, clock, time) as c_int;
    }
    let is_wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let now = if is_wall { now + 1_700_000_000_000_000 } else { now };
    let now = if clock == libc::CLOCK_MONOTONIC_COARSE { now / 4000 * 4000 } else { now };
    // SAFETY: the caller has room for one.
    unsafe {
        (*time).tv_sec = (now / 1_000_000) as _;
        (*time).tv_nsec = (now % 1_000_000 * 1000) as _;
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(into: *mut c_void, size: size_t, flags: u32) -> ssize_t {
    let is_filled = SECRETS.with_borrow_mut(|chance| {
        let Some(chance) = chance else { return false };
        for index in 0..size {
            // SAFETY: the caller has room for so many.
            unsafe { *into.cast::<u8>().add(index) = chance.next() as u8 };
        }
        true
    });
    if is_filled {
        return size.cast_signed();
    }
    real!(SYS_getrandom, into, size, flags)
}
