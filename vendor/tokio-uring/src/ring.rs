//! The kernel's ring: how entries go in, and how the thread sleeps until something comes out.
//!
//! In go entries that somebody else remembers; out come completions, which the driver hands out.
//! Nothing here knows what an entry is for.

use std::any::Any;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;

use io_uring::types::Timespec;
use io_uring::{IoUring, opcode, squeue};

use crate::Builder;
use crate::driver::{TICK, TICK_NS};

/// IORING_ENTER_GETEVENTS (io_uring_enter(2)): completions that were put off are posted.
const GETEVENTS: libc::c_uint = 1;
/// IORING_ENTER_REGISTERED_RING: the number is one of the thread's registered rings.
const REGISTERED_RING: libc::c_uint = 1 << 4;

/// Threads of the kernel for operations that would block, by kind (bounded and unbounded work). No
/// operation of ours should; where one does all the same, there must not be a thread for each.
const KERNEL_THREADS_MAX: u32 = 2;

pub(crate) struct Ring {
    pub(crate) uring: IoUring,
    door: Door,
    /// The ring says when the kernel has put work off.
    pub(crate) tells_of_work: bool,
    /// What is registered with the ring.
    buffers: Option<Rc<dyn Any>>,
    pub(crate) is_bell_polled: bool,
    tick: Box<Timespec>,
}

/// How io_uring_enter(2) is called.
#[derive(Clone, Copy)]
struct Door {
    number: RawFd,
    flags: libc::c_uint,
}

/// `struct io_uring_rsrc_update`, which names one ring of the thread.
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

impl Door {
    /// Registers the ring with the calling thread, so that the kernel need not look the descriptor
    /// up at each call (IORING_REGISTER_RING_FDS, Linux 5.18); where it cannot, it looks.
    fn register(ring: RawFd) -> Self {
        const REGISTER_RING_FDS: libc::c_uint = 20;
        let wherever = u32::MAX;
        let mut update = RingUpdate { offset: wherever, reserved: 0, data: ring as u64 };
        if Self::update(ring, REGISTER_RING_FDS, &mut update) {
            Self { number: update.offset as RawFd, flags: GETEVENTS | REGISTERED_RING }
        } else {
            Self { number: ring, flags: GETEVENTS }
        }
    }

    fn unregister(self, ring: RawFd) {
        const UNREGISTER_RING_FDS: libc::c_uint = 21;
        if self.flags & REGISTERED_RING != 0 {
            let mut update = RingUpdate { offset: self.number as u32, reserved: 0, data: 0 };
            Self::update(ring, UNREGISTER_RING_FDS, &mut update);
        }
    }

    fn update(ring: RawFd, operation: libc::c_uint, update: &mut RingUpdate) -> bool {
        let (call, update) = (libc::SYS_io_uring_register, std::ptr::from_mut(update));
        // SAFETY: the kernel reads and writes one update.
        unsafe { libc::syscall(call, ring, operation, update, 1) == 1 }
    }
}

impl Ring {
    pub(crate) fn new(builder: &Builder) -> io::Result<Self> {
        let uring = builder.uring.build(builder.entries)?;
        // Refused by kernels before 5.15.
        let _ = uring.submitter().register_iowq_max_workers(&mut [KERNEL_THREADS_MAX; 2]);
        let door = Door::register(uring.as_raw_fd());
        Ok(Self {
            uring,
            door,
            tells_of_work: builder.tells_of_work,
            buffers: None,
            is_bell_polled: false,
            tick: Box::new(Timespec::new().nsec(TICK_NS)),
        })
    }

    /// False where the queue is full.
    #[inline]
    pub(crate) fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: what the entry points to is owned by the operation, or by this ring, until the
        // completion.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Hands what is queued to the kernel, and returns once so many operations have completed.
    ///
    /// A bad entry is told by its completion; EINTR and a full completion queue (EBUSY) end the
    /// call early, and are met by the next one.
    pub(crate) fn enter(&mut self, complete: u32) {
        let queued = self.uring.submission().len() as u32;
        let Door { number, flags } = self.door;
        let none = std::ptr::null::<libc::sigset_t>();
        let call = libc::SYS_io_uring_enter;
        // SAFETY: no argument is passed by pointer.
        unsafe { libc::syscall(call, number, queued, complete, flags, none, 0) };
    }

    /// Whether the kernel has the entry that was the `place`th of `queued` to be queued, nothing is
    /// to be reaped, and the kernel has put no work off (IORING_SQ_TASKRUN, which a ring has to be
    /// set up with) and holds no completion back for want of room.
    pub(crate) fn has_heard_all(&mut self, place: u32, queued: u32) -> bool {
        let queue = self.uring.submission();
        let taken = queued.wrapping_sub(queue.len() as u32);
        let has_work = !self.tells_of_work || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        !has_work
            && taken.wrapping_sub(place).cast_signed() >= 0
            && self.uring.completion().is_empty()
    }

    /// An entry that completes after a tick.
    pub(crate) fn tick(&self) -> squeue::Entry {
        opcode::Timeout::new(&raw const *self.tick).build().user_data(TICK)
    }

    pub(crate) fn register_buffers(
        &mut self,
        vectors: &[libc::iovec],
        buffers: Rc<dyn Any>,
    ) -> io::Result<()> {
        // SAFETY: `buffers` owns what the vectors point to, and is kept until the ring is closed.
        unsafe { self.uring.submitter().register_buffers(vectors) }?;
        self.buffers = Some(buffers);
        Ok(())
    }

    /// Has the kernel say by `event` that something has completed.
    pub(crate) fn announce_by(&self, event: BorrowedFd<'_>) -> io::Result<()> {
        self.uring.submitter().register_eventfd(event.as_raw_fd())
    }

    /// Has it say so no more.
    pub(crate) fn announce_no_more(&self) {
        let _ = self.uring.submitter().unregister_eventfd();
    }
}

/// Else the ring would live as long as the thread.
impl Drop for Ring {
    fn drop(&mut self) {
        self.door.unregister(self.uring.as_raw_fd());
    }
}
