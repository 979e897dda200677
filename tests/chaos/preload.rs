//! Loaded before the C library by the program under test: calls that fail when somebody says so.
//!
//! In go the program's calls, and what the file that `CHAOS_FILE` names says of each kind of them:
//! every how manieth fails, with which error. Out go the kernel's answers, or that error; the file
//! tells how many failed. Built by the suite itself, with nothing but `core`, so that nothing here
//! calls what it stands for. The operations of a ring are `preload_ring`'s.
#![no_std]
#![allow(non_snake_case)]

mod preload_ring;

use core::ffi::{c_char, c_int, c_long, c_void};
use core::panic::PanicInfo;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

/// What the file says of one kind of call, and what became of it.
#[repr(C)]
struct Slot {
    /// Every so manieth fails; 0 is none.
    every: AtomicU32,
    error: AtomicI32,
    seen: AtomicU32,
    failed: AtomicU32,
}

const SLOTS: usize = 32;
const ACCEPT: usize = 0;
const SOCKET: usize = 1;
const CONNECT: usize = 2;
const SEND: usize = 3;
const RECEIVE: usize = 4;
const EPOLL_CTL: usize = 5;
const EPOLL_WAIT: usize = 6;
const RING_ENTER: usize = 7;
const OPEN: usize = 8;
const PIPE: usize = 9;
const WRITE: usize = 10;
/// Its error is what the wall clock is off by, in seconds.
const CLOCK: usize = 11;
const MAP: usize = 12;
const TIMER: usize = 13;
// 14 to 18 are a ring's.
const RING_REGISTER: usize = 19;

static FILE: AtomicPtr<Slot> = AtomicPtr::new(null_mut());

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    fn getenv(name: *const c_char) -> *const c_char;
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

unsafe fn raw(call: c_long, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    unsafe {
        core::arch::asm!(
            "syscall", inlateout("rax") call as isize => result, in("rdi") a, in("rsi") b,
            in("rdx") c, in("r10") d, in("r8") e, in("r9") f, out("rcx") _, out("r11") _,
            options(nostack)
        );
    }
    result
}

pub(crate) unsafe fn real(call: c_long, arguments: [usize; 6]) -> isize {
    let result = unsafe { raw(call, arguments) };
    if (-4095..0).contains(&result) {
        unsafe { *__errno_location() = -result as c_int };
        return -1;
    }
    result
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    const OPEN_READ_WRITE: usize = 2;
    const READ_WRITE_SHARED: (usize, usize) = (3, 1);
    unsafe {
        let path = getenv(c"CHAOS_FILE".as_ptr());
        if path == null() {
            return;
        }
        let fd = raw(2, [path as usize, OPEN_READ_WRITE, 0, 0, 0, 0]);
        let bytes = SLOTS * size_of::<Slot>();
        let (access, shared) = READ_WRITE_SHARED;
        let map = raw(9, [0, bytes, access, shared, fd as usize, 0]);
        raw(3, [fd as usize, 0, 0, 0, 0, 0]);
        if map > 0 {
            FILE.store(map as *mut Slot, Ordering::Release);
        }
    }
}

fn slot(kind: usize) -> Option<&'static Slot> {
    let slots = FILE.load(Ordering::Acquire);
    if slots.is_null() { None } else { Some(unsafe { &*slots.add(kind) }) }
}

/// The error with which this call of that kind fails, if it does.
pub(crate) fn failing(kind: usize) -> Option<c_int> {
    let slot = slot(kind)?;
    let every = slot.every.load(Ordering::Relaxed);
    if every == 0 {
        return None;
    }
    let seen = slot.seen.fetch_add(1, Ordering::Relaxed);
    if seen % every != every - 1 {
        return None;
    }
    slot.failed.fetch_add(1, Ordering::Relaxed);
    Some(slot.error.load(Ordering::Relaxed))
}

/// Whether this call of that kind fails; the error is set.
fn fails(kind: usize) -> bool {
    let error = failing(kind);
    if let Some(error) = error {
        unsafe { *__errno_location() = error };
    }
    error.is_some()
}

macro_rules! stand_in {
    ($kind:expr, $number:expr, fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            if fails($kind) {
                return -1;
            }
            let given = [$($argument as usize),*];
            let mut arguments = [0; 6];
            arguments[..given.len()].copy_from_slice(&given);
            unsafe { real($number, arguments) as $result }
        }
    };
}

stand_in!(ACCEPT, 288,
    fn accept4(fd: c_int, at: *mut c_void, size: *mut u32, how: c_int) -> c_int);
stand_in!(SOCKET, 41, fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int);
stand_in!(CONNECT, 42, fn connect(fd: c_int, at: *const c_void, length: u32) -> c_int);
stand_in!(SEND, 46, fn sendmsg(fd: c_int, message: *const c_void, flags: c_int) -> isize);
stand_in!(EPOLL_CTL, 233,
    fn epoll_ctl(set: c_int, call: c_int, fd: c_int, e: *mut c_void) -> c_int);
stand_in!(TIMER, 286,
    fn timerfd_settime(fd: c_int, how: c_int, to: *const c_void, was: *mut c_void) -> c_int);
stand_in!(TIMER, 283, fn timerfd_create(clock: c_int, flags: c_int) -> c_int);
stand_in!(PIPE, 293, fn pipe2(ends: *mut c_int, flags: c_int) -> c_int);
stand_in!(OPEN, 2, fn open(path: *const c_char, flags: c_int, mode: u32) -> c_int);
stand_in!(OPEN, 2, fn open64(path: *const c_char, flags: c_int, mode: u32) -> c_int);

/// All but small pieces without a file: Rust's library ends the process where there is none for the
/// stack on which a new thread handles signals.
unsafe fn map(arguments: [usize; 6]) -> *mut c_void {
    const SMALL: usize = 64 * 1024;
    let [_, bytes, _, _, fd, offset] = arguments;
    let fd = fd as c_int;
    if (fd >= 0 || bytes >= SMALL) && fails(MAP) {
        return usize::MAX as *mut c_void;
    }
    let address = unsafe { real(9, arguments) };
    if address != -1 {
        preload_ring::mapped(fd, offset as i64, address);
    }
    address as *mut c_void
}

macro_rules! stand_in_for_mmap {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            at: *mut c_void,
            bytes: usize,
            access: c_int,
            flags: c_int,
            fd: c_int,
            offset: i64,
        ) -> *mut c_void {
            let (access, flags) = (access as usize, flags as usize);
            unsafe { map([at as usize, bytes, access, flags, fd as usize, offset as usize]) }
        }
    )*};
}

stand_in_for_mmap!(mmap mmap64);

/// To a regular file: wake-ups go by write(2) too, and they do not fail.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    const MODE: usize = 24;
    const KIND: u32 = 0o170_000;
    const REGULAR: u32 = 0o100_000;
    let mut facts = [0_u8; 256];
    let is_file = unsafe {
        raw(5, [fd as usize, facts.as_mut_ptr() as usize, 0, 0, 0, 0]) == 0 && {
            let mode = [facts[MODE], facts[MODE + 1], facts[MODE + 2], facts[MODE + 3]];
            u32::from_ne_bytes(mode) & KIND == REGULAR
        }
    };
    if is_file && fails(WRITE) {
        return -1;
    }
    unsafe { real(1, [fd as usize, bytes as usize, count, 0, 0, 0]) }
}

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
    let kind = match call {
        44 => Some(SEND),
        45 => Some(RECEIVE),
        281 => Some(EPOLL_WAIT),
        426 => Some(RING_ENTER),
        427 => Some(RING_REGISTER),
        _ => None,
    };
    if kind.is_some_and(fails) {
        return -1;
    }
    let arguments = [a, b, c, d, e, f];
    let result = match call {
        425 => unsafe { preload_ring::set_up(arguments) },
        426 => unsafe { preload_ring::enter(arguments) },
        _ => unsafe { real(call, arguments) },
    };
    result as c_long
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut [i64; 2]) -> c_int {
    const WALL: [c_int; 2] = [0, 5];
    let result = unsafe { real(228, [clock as usize, time as usize, 0, 0, 0, 0]) } as c_int;
    if result == 0
        && WALL.contains(&clock)
        && let Some(slot) = slot(CLOCK)
    {
        unsafe { (*time)[0] += i64::from(slot.error.load(Ordering::Relaxed)) };
        slot.failed.fetch_add(1, Ordering::Relaxed);
    }
    result
}
