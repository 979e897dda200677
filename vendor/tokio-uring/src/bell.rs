//! How a loop that sleeps is woken: by its own tasks, by other threads, by timers.
//!
//! In goes whatever calls the waker; out comes the news that there is something to run, and an end
//! of the sleep if there was one. A ring while the loop is awake costs one atomic swap.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Wake};

use futures_util::task::AtomicWaker;

pub(crate) struct Bell {
    is_rung: AtomicBool,
    /// Where the loop sleeps: one of the constants below.
    asleep: AtomicU8,
    /// Ends a sleep in the ring, which polls it.
    event: OwnedFd,
    /// Ends a sleep in tokio.
    waker: AtomicWaker,
}

const NOWHERE: u8 = 0;
const IN_RING: u8 = 1;
const IN_TOKIO: u8 = 2;

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            is_rung: AtomicBool::new(true),
            asleep: AtomicU8::new(NOWHERE),
            event: eventfd()?,
            waker: AtomicWaker::new(),
        })
    }

    /// The descriptor that becomes readable while the loop sleeps in the ring.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Forgets what has been heard: all of it is about to be attended to.
    pub(crate) fn silence(&self) {
        self.is_rung.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_rung(&self) -> bool {
        self.is_rung.load(Ordering::SeqCst)
    }

    /// The loop is about to sleep in the ring; false where it must not, because the bell has rung.
    ///
    /// Whoever rings sets the flag first and looks for a sleeper then, and this is the other way
    /// round: in the one order of these four, one of both sees the other.
    pub(crate) fn lie_down(&self) -> bool {
        self.asleep.store(IN_RING, Ordering::SeqCst);
        if self.is_rung() {
            self.get_up();
            return false;
        }
        true
    }

    /// Asks to be woken in tokio, if the bell has not rung already.
    pub(crate) fn lie_down_in_tokio(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.asleep.store(IN_TOKIO, Ordering::SeqCst);
        !self.is_rung()
    }

    pub(crate) fn get_up(&self) {
        self.asleep.store(NOWHERE, Ordering::SeqCst);
    }

    /// Makes the descriptor silent again.
    pub(crate) fn drain(&self) {
        drain(self.event());
    }
}

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        if self.is_rung.swap(true, Ordering::SeqCst) {
            return;
        }
        match self.asleep.load(Ordering::SeqCst) {
            IN_RING => ring(self.event()),
            IN_TOKIO => self.waker.wake(),
            _ => {}
        }
    }
}

pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes an eventfd readable. It cannot fail but by a counter that is full, and so readable.
fn ring(event: BorrowedFd<'_>) {
    let one = 1_u64;
    // SAFETY: eight bytes are read from a local.
    unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
}

/// Makes an eventfd unreadable.
pub(crate) fn drain(event: BorrowedFd<'_>) {
    let mut count = 0_u64;
    // SAFETY: eight bytes are written to a local.
    unsafe { libc::read(event.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
}
