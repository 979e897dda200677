//! tokio-uring 0.5, cut down to what ringway uses, with a loop that sleeps in the ring.
//!
//! A [`Runtime`] runs the tasks of one thread. They begin operations ([`UnsubmittedOneshot`]) that
//! the kernel carries out while the thread sleeps in io_uring_enter(2), which also submits what has
//! been queued: one system call for a turn of the loop. Where there is no ring, an epoll set does the
//! same for the operations that ringway begins. `README.md` beside this crate says what
//! differs from the crate as published, and why.

mod bell;
mod buf;
mod driver;
mod epoll;
mod oneshot;
mod ring;
mod runtime;

pub use buf::{FixedBufRegistry, IoBufMut};
pub use driver::Key;
pub use oneshot::{
    InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot, cancel, complete, is_held, release,
};
pub use runtime::{Foreign, Runtime, Waits};

/// What a ring is set up with.
#[must_use]
pub fn uring_builder() -> io_uring::Builder {
    io_uring::IoUring::builder()
}

/// What a runtime is made with.
pub struct Builder {
    entries: u32,
    uring: io_uring::Builder,
    tells_of_work: bool,
    is_epoll: bool,
    before_turn: fn(),
}

/// A builder for a ring of 256 entries without any flag.
#[must_use]
pub fn builder() -> Builder {
    Builder {
        entries: 256,
        uring: uring_builder(),
        tells_of_work: false,
        is_epoll: false,
        before_turn: || (),
    }
}

impl Builder {
    /// Entries of the submission queue: a power of two.
    pub fn entries(&mut self, entries: u32) -> &mut Self {
        self.entries = entries;
        self
    }

    /// How the ring is set up.
    pub fn uring_builder(&mut self, uring: &io_uring::Builder) -> &mut Self {
        self.uring = uring.clone();
        self
    }

    /// What is done before each turn of the loop.
    pub fn before_turn(&mut self, task: fn()) -> &mut Self {
        self.before_turn = task;
        self
    }

    /// Says that the ring is set up with IORING_SETUP_TASKRUN_FLAG, so that
    /// [`InFlightOneshot::is_silent`] can tell.
    pub fn tells_of_work(&mut self, tells: bool) -> &mut Self {
        self.tells_of_work = tells;
        self
    }

    /// Has the runtime do without a ring, whatever that would be set up with: operations are
    /// carried out by an epoll set and direct calls.
    pub fn epoll(&mut self, is_on: bool) -> &mut Self {
        self.is_epoll = is_on;
        self
    }
}
