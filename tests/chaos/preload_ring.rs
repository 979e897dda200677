//! Operations of a ring that fail: the part of `preload` that completions need.
//!
//! A ring's operations are no calls, and its completions are written by the kernel into memory that
//! the program reads. In go the entries that a call of io_uring_enter(2) hands over; the kernel
//! gets a NOP in the place of each that is to fail, so that it does nothing of it, and what it says
//! of the NOP is made the error before the program looks. So no byte and no connection is lost that
//! the kernel would not have lost. Nothing else of a ring is touched.

use crate::{failing, real};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_long};
use core::mem::zeroed;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

pub(crate) const RECEIVE: usize = 14;
pub(crate) const POLL: usize = 15;
pub(crate) const ACCEPT: usize = 16;
pub(crate) const TIMEOUT: usize = 17;
pub(crate) const FIXED: usize = 18;

const SETUP: c_long = 425;
const ENTER: c_long = 426;

/// A ring, which one thread alone uses.
struct Ring {
    /// That thread; 0 where there is none.
    owner: AtomicUsize,
    parts: UnsafeCell<Parts>,
}

// SAFETY: the owner alone looks at the parts.
unsafe impl Sync for Ring {}

struct Parts {
    fd: c_int,
    offsets: Offsets,
    /// Both queues, and the entries that the one names.
    queues: *mut u8,
    entries: *mut u8,
    /// What is to fail: what its completion will carry, and the error.
    failing: [(u64, i32); FAILING_MAX],
    count: usize,
}

const FAILING_MAX: usize = 64;

/// `struct io_uring_params` (io_uring_setup(2)).
#[repr(C)]
#[derive(Clone, Copy)]
struct Offsets {
    counts: [u32; 2],
    flags: u32,
    others: [u32; 7],
    submissions: Submissions,
    completions: Completions,
}

/// `struct io_sqring_offsets`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Submissions {
    head: u32,
    tail: u32,
    mask: u32,
    others: [u32; 3],
    /// The numbers of the entries that are queued.
    list: u32,
    rest: [u32; 3],
}

/// `struct io_cqring_offsets`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Completions {
    head: u32,
    tail: u32,
    mask: u32,
    others: [u32; 2],
    list: u32,
    rest: [u32; 4],
}

/// `struct io_uring_sqe`, as far as it is read here.
#[repr(C)]
struct Entry {
    opcode: u8,
    rest: [u8; 31],
    number: u64,
    more: [u64; 3],
}

/// `struct io_uring_cqe`.
#[repr(C)]
struct Completion {
    number: u64,
    result: i32,
    flags: u32,
}

static RINGS: [Ring; 16] = [const {
    // SAFETY: numbers and pointers.
    let parts = UnsafeCell::new(unsafe { zeroed() });
    Ring { owner: AtomicUsize::new(0), parts }
}; 16];

/// The calling thread, by the address of its control block.
fn thread() -> usize {
    let thread;
    unsafe { core::arch::asm!("mov {}, fs:0", out(reg) thread, options(nostack, readonly)) };
    thread
}

/// The ring of the calling thread.
fn own() -> Option<&'static mut Parts> {
    let thread = thread();
    let ring = RINGS.iter().find(|ring| ring.owner.load(Ordering::Acquire) == thread)?;
    Some(unsafe { &mut *ring.parts.get() })
}

/// io_uring_setup(2). A thread has one ring at a time: the one that it opened last.
pub(crate) unsafe fn set_up(arguments: [usize; 6]) -> isize {
    let result = unsafe { real(SETUP, arguments) };
    if result < 0 {
        return result;
    }
    if own().is_none() {
        let _ = RINGS.iter().find(|ring| {
            let (none, owner) = (0, thread());
            ring.owner.compare_exchange(none, owner, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
    }
    if let Some(parts) = own() {
        parts.fd = result as c_int;
        parts.offsets = unsafe { *(arguments[1] as *const Offsets) };
        (parts.queues, parts.entries, parts.count) = (null_mut(), null_mut(), 0);
    }
    result
}

/// The calling thread has mapped a part of the file `fd` at `address`.
pub(crate) fn mapped(fd: c_int, offset: i64, address: isize) {
    const QUEUES: i64 = 0;
    const ENTRIES: i64 = 0x1000_0000;
    let Some(parts) = own().filter(|parts| parts.fd == fd && fd >= 0) else { return };
    match offset {
        QUEUES => parts.queues = address as *mut u8,
        ENTRIES => parts.entries = address as *mut u8,
        _ => {}
    }
}

/// io_uring_enter(2).
pub(crate) unsafe fn enter(arguments: [usize; 6]) -> isize {
    let parts = own().filter(|parts| !parts.queues.is_null() && !parts.entries.is_null());
    let Some(parts) = parts else { return unsafe { real(ENTER, arguments) } };
    unsafe { parts.replace(arguments[1] as u32) };
    let result = unsafe { real(ENTER, arguments) };
    unsafe { parts.tell() };
    result
}

impl Parts {
    unsafe fn word(&self, offset: u32) -> &AtomicU32 {
        unsafe { &*self.queues.add(offset as usize).cast() }
    }

    /// Takes the place of what fails among the next `count` entries.
    unsafe fn replace(&mut self, count: u32) {
        const NO_LIST: u32 = 1 << 16;
        let queue = self.offsets.submissions;
        let (head, mask) = unsafe { (self.word(queue.head), self.word(queue.mask)) };
        let (head, mask) = (head.load(Ordering::Acquire), mask.load(Ordering::Relaxed));
        for place in 0..count {
            let place = head.wrapping_add(place) & mask;
            let index = if self.offsets.flags & NO_LIST == 0 {
                unsafe { self.word(queue.list + 4 * place) }.load(Ordering::Relaxed)
            } else {
                place
            };
            let entry = unsafe { &mut *self.entries.cast::<Entry>().add(index as usize) };
            let kind = match entry.opcode {
                4 | 5 => FIXED,
                6 => POLL,
                11 => TIMEOUT,
                13 => ACCEPT,
                27 => RECEIVE,
                _ => continue,
            };
            if self.count < FAILING_MAX
                && let Some(error) = failing(kind)
            {
                let number = entry.number;
                *entry = Entry { opcode: 0, rest: [0; 31], number, more: [0; 3] };
                self.failing[self.count] = (number, error);
                self.count += 1;
            }
        }
    }

    /// Has the completions of what fails say so.
    unsafe fn tell(&mut self) {
        if self.count == 0 {
            return;
        }
        let queue = self.offsets.completions;
        let (head, tail, mask) =
            unsafe { (self.word(queue.head), self.word(queue.tail), self.word(queue.mask)) };
        let (head, tail) = (head.load(Ordering::Relaxed), tail.load(Ordering::Acquire));
        let mask = mask.load(Ordering::Relaxed);
        let list = unsafe { self.queues.add(queue.list as usize) }.cast::<Completion>();
        for place in 0..tail.wrapping_sub(head) {
            let place = head.wrapping_add(place) & mask;
            let completion = unsafe { &mut *list.add(place as usize) };
            let mut failing = self.failing[..self.count].iter();
            if let Some(found) = failing.position(|(number, _)| *number == completion.number) {
                completion.result = -self.failing[found].1;
                self.count -= 1;
                self.failing[found] = self.failing[self.count];
            }
        }
    }
}
