//! tokio-uring 0.5, cut down to what ringway uses, with a loop that sleeps in the ring.
//!
//! A [`Runtime`] runs the tasks of one thread. They begin operations ([`UnsubmittedOneshot`]) that
//! the kernel carries out while the thread sleeps in io_uring_enter(2), which also submits what has
//! been queued: one system call for a turn of the loop. `README.md` beside this crate says what
//! differs from the crate as published, and why.

mod bell;
mod buf;
mod driver;
mod oneshot;
mod runtime;

pub use buf::{FixedBufRegistry, IoBufMut};
pub use oneshot::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};
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
}

/// A builder for a ring of 256 entries without any flag.
#[must_use]
pub fn builder() -> Builder {
    Builder { entries: 256, uring: uring_builder() }
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
}
