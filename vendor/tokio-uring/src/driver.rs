//! The ring and what is under way on it.
//!
//! In go entries, each remembered in a slab under the [`Key`] that its completion will carry; out
//! come completions, each handed to whoever waits for it. Two entries are the driver's own: a poll
//! of the bell, and a tick that says whether anything has happened lately.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use io_uring::types::{Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

use crate::Builder;
use crate::bell::Bell;

/// How long the loop goes on sleeping in the ring without a completion, and how late tokio's timers
/// may be meanwhile.
const TICK_NS: u32 = 10_000_000;

/// What the completions of the driver's own entries carry; operations have small numbers.
const CANCELLED: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;
const TICK: u64 = u64::MAX - 2;

/// IORING_ENTER_GETEVENTS (io_uring_enter(2)): completions that were put off are posted.
const GETEVENTS: libc::c_uint = 1;
/// IORING_ENTER_REGISTERED_RING: the number is one of the thread's registered rings.
const REGISTERED_RING: libc::c_uint = 1 << 4;

pub(crate) struct Driver {
    uring: IoUring,
    door: Door,
    operations: Slab<Operation>,
    /// Of the operation that was begun last: tells those apart that have a place one after another.
    serial: u32,
    /// Entries that have ever been queued, with wrap-around.
    queued: u32,
    /// The ring says when the kernel has put work off.
    tells_of_work: bool,
    /// What is registered with the ring.
    buffers: Option<Rc<dyn Any>>,
    bell: Arc<Bell>,
    is_bell_polled: bool,
    tick: Box<Timespec>,
    is_ticking: bool,
    /// The tick has come.
    has_ticked: bool,
    /// Completions of operations since the last tick.
    completions: u32,
    /// Of two ticks in a row nothing has been heard but the second.
    is_quiet: bool,
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

    /// Else the ring would live as long as the thread.
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

/// Names one operation, and none that has its place in the slab later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    index: u32,
    /// Below 2³¹, so that no key is one of the driver's own numbers.
    serial: u32,
}

impl Key {
    fn of(user_data: u64) -> Self {
        Self { index: user_data as u32, serial: (user_data >> 32) as u32 }
    }

    fn user_data(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.index)
    }

    fn index(self) -> usize {
        self.index as usize
    }
}

/// An operation, with its key's serial number.
enum Operation {
    /// Under way; nobody has asked yet.
    Submitted(u32),
    /// Under way, and somebody waits.
    Waiting(u32, Waker),
    /// Under way, and nobody waits any more. Keeps what the kernel may still use.
    Forgotten(u32, #[expect(dead_code, reason = "kept, not used")] Box<dyn Any>),
    /// A poll of several completions has said what was waited for, and has been cancelled; its last
    /// completion is still to come.
    Early(u32, cqueue::Entry),
    Completed(cqueue::Entry),
}

/// Threads of the kernel for operations that would block, by kind (bounded and unbounded work). No
/// operation of ours should; where one does all the same, there must not be a thread for each.
const KERNEL_THREADS_MAX: u32 = 2;

impl Operation {
    /// Of what the kernel still has; `None` where it has said its last word.
    fn serial(&self) -> Option<u32> {
        match self {
            Self::Submitted(serial)
            | Self::Waiting(serial, _)
            | Self::Forgotten(serial, _)
            | Self::Early(serial, _) => Some(*serial),
            Self::Completed(_) => None,
        }
    }

    /// Whether its future can have its result.
    fn has_result(&self) -> bool {
        matches!(self, Self::Early(..) | Self::Completed(_))
    }
}

/// What a poll of several completions is for. It says each event once: what has been there since
/// before is not worth waking anybody for.
const OUTPUT_EVENTS: i32 = (libc::POLLOUT | libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) as i32;

impl Driver {
    fn new(builder: &Builder, bell: Arc<Bell>) -> io::Result<Self> {
        let uring = builder.uring.build(builder.entries)?;
        // Refused by kernels before 5.15.
        let _ = uring.submitter().register_iowq_max_workers(&mut [KERNEL_THREADS_MAX; 2]);
        let door = Door::register(uring.as_raw_fd());
        Ok(Self {
            uring,
            door,
            tells_of_work: builder.tells_of_work,
            operations: Slab::with_capacity(64),
            serial: 0,
            queued: 0,
            buffers: None,
            bell,
            is_bell_polled: false,
            tick: Box::new(Timespec::new().nsec(TICK_NS)),
            is_ticking: false,
            has_ticked: false,
            completions: 0,
            is_quiet: false,
        })
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to is owned by the operation, or by this driver, until the
        // completion.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.submit();
        }
        self.queued = self.queued.wrapping_add(1);
    }

    /// Hands what is queued to the kernel, and does not wait. What has completed has to be taken
    /// before the next call, for which the completion queue has to have room.
    fn flush(&mut self) {
        let queued = self.uring.submission().len() as u32;
        // A bad entry is told by its completion; EINTR and a full completion queue (EBUSY) are met
        // by the next call.
        let _ = self.enter(queued, 0);
    }

    fn submit(&mut self) {
        self.flush();
        self.dispatch();
    }

    /// Takes every completion that the kernel has posted, those included for which the queue had no
    /// room (IORING_SQ_CQ_OVERFLOW): they are in it after the next call.
    fn take_posted(&mut self) {
        self.dispatch();
        while self.uring.submission().cq_overflow() {
            self.submit();
        }
    }

    /// Whether the kernel has the entry that was the `place`th to be queued, nothing is to be
    /// reaped, and the kernel has put no work off (IORING_SQ_TASKRUN, which a ring has to be set up
    /// with) and holds no completion back for want of room.
    fn has_heard_all(&mut self, place: u32) -> bool {
        let queue = self.uring.submission();
        let taken = self.queued.wrapping_sub(queue.len() as u32);
        let has_work = !self.tells_of_work || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        !has_work
            && taken.wrapping_sub(place).cast_signed() >= 0
            && self.uring.completion().is_empty()
    }

    fn enter(&self, submit: u32, complete: u32) -> io::Result<usize> {
        let Door { number, flags } = self.door;
        let none = std::ptr::null::<libc::sigset_t>();
        let call = libc::SYS_io_uring_enter;
        // SAFETY: no argument is passed by pointer.
        let result = unsafe { libc::syscall(call, number, submit, complete, flags, none, 0) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Hands what is queued to the kernel and sleeps until something completes.
    fn wait(&mut self) {
        if !mem::replace(&mut self.is_bell_polled, true) {
            let bell = Fd(self.bell.event().as_raw_fd());
            let poll = opcode::PollAdd::new(bell, libc::POLLIN as u32).multi(true).build();
            self.push(&poll.user_data(BELL));
        }
        self.start_tick();
        let queued = self.uring.submission().len() as u32;
        // EINTR and EBUSY end the sleep early; the loop then looks around and comes back.
        let _ = self.enter(queued, 1);
    }

    /// Has the kernel end the operation `key`, which it finds by its number; nothing happens where
    /// it has ended. Entries are carried out in the order in which they were queued, so that it
    /// need not have been submitted yet.
    fn cancel(&mut self, key: Key) {
        let operation = self.operations.get(key.index());
        if operation.and_then(Operation::serial) == Some(key.serial) {
            let cancel = opcode::AsyncCancel::new(key.user_data()).build();
            let cancel = cancel.flags(squeue::Flags::SKIP_SUCCESS);
            self.push(&cancel.user_data(CANCELLED));
        }
    }

    fn start_tick(&mut self) {
        if !mem::replace(&mut self.is_ticking, true) {
            let tick = opcode::Timeout::new(&raw const *self.tick).build();
            self.push(&tick.user_data(TICK));
        }
    }

    /// Hands completions to those who wait for them.
    fn dispatch(&mut self) {
        let Self { uring, operations, .. } = self;
        let mut others = 0_u32;
        for completion in uring.completion() {
            let number = completion.user_data();
            if number >= TICK {
                match number {
                    TICK => {
                        self.is_ticking = false;
                        self.has_ticked = true;
                    }
                    BELL => {
                        self.bell.drain();
                        self.is_bell_polled = cqueue::more(completion.flags());
                        others += 1;
                    }
                    _ => {}
                }
                continue;
            }
            others += 1;
            let key = Key::of(number);
            let operation = &mut operations[key.index()];
            debug_assert_eq!(operation.serial(), Some(key.serial), "it is under way");
            if cqueue::more(completion.flags()) {
                if completion.result() & OUTPUT_EVENTS == 0
                    || matches!(operation, Operation::Forgotten(..) | Operation::Early(..))
                {
                    continue;
                }
                let early = Operation::Early(key.serial, completion);
                if let Operation::Waiting(_, waker) = mem::replace(operation, early) {
                    waker.wake();
                }
                continue;
            }
            match mem::replace(operation, Operation::Completed(completion)) {
                Operation::Waiting(_, waker) => waker.wake(),
                Operation::Submitted(_) => {}
                Operation::Forgotten(..) => {
                    operations.remove(key.index());
                }
                // What has been said early stays what is said.
                Operation::Early(_, said) => *operation = Operation::Completed(said),
                Operation::Completed(_) => unreachable!("one last completion for each operation"),
            }
        }
        self.completions += others;
        if others > 0 {
            self.is_quiet = false;
        }
    }
}

/// A ring that does not know yet who has lost interest is not to be closed: operations end first,
/// and what they use lives until they have.
impl Drop for Driver {
    fn drop(&mut self) {
        let under_way = self.operations.iter().filter_map(|(index, operation)| {
            Some(Key { index: index as u32, serial: operation.serial()? })
        });
        let under_way = under_way.collect::<Vec<_>>();
        for key in under_way {
            self.cancel(key);
        }
        let is_over = |operations: &Slab<Operation>| {
            operations.iter().all(|(_, operation)| operation.serial().is_none())
        };
        while !is_over(&self.operations) {
            let queued = self.uring.submission().len() as u32;
            let _ = self.enter(queued, 1);
            self.dispatch();
        }
        self.door.unregister(self.uring.as_raw_fd());
    }
}

/// A counted reference to the driver.
#[derive(Clone)]
pub(crate) struct Handle {
    driver: Rc<RefCell<Driver>>,
}

impl Handle {
    pub(crate) fn new(builder: &Builder, bell: Arc<Bell>) -> io::Result<Self> {
        Ok(Self { driver: Rc::new(RefCell::new(Driver::new(builder, bell)?)) })
    }

    /// Queues `entry`; its key, and how many entries have been queued with it.
    #[inline(always)]
    pub(crate) fn begin(&self, entry: squeue::Entry) -> (Key, u32) {
        let mut driver = self.driver.borrow_mut();
        let serial = (driver.serial + 1) & (u32::MAX >> 1);
        driver.serial = serial;
        let index = driver.operations.insert(Operation::Submitted(serial));
        let index = u32::try_from(index).expect("there is no memory for so many operations");
        let key = Key { index, serial };
        driver.push(&entry.user_data(key.user_data()));
        (key, driver.queued)
    }

    /// Has the kernel end the operation `key`, whose completion then says so (ECANCELED).
    pub(crate) fn cancel(&self, key: Key) {
        self.driver.borrow_mut().cancel(key);
    }

    /// Whether the operation `key`, the `place`th to be queued, is certainly pending.
    pub(crate) fn is_silent(&self, key: Key, place: u32) -> bool {
        let driver = &mut *self.driver.borrow_mut();
        if !driver.has_heard_all(place) {
            // One call for all of them: who asks next in this turn need not make it.
            if !driver.tells_of_work {
                return false;
            }
            driver.submit();
            if !driver.has_heard_all(place) {
                return false;
            }
        }
        !driver.operations[key.index()].has_result()
    }

    #[inline]
    pub(crate) fn poll(&self, key: Key, cx: &mut Context<'_>) -> Poll<cqueue::Entry> {
        let driver = &mut *self.driver.borrow_mut();
        let operation = &mut driver.operations[key.index()];
        match operation {
            Operation::Waiting(_, waker) if waker.will_wake(cx.waker()) => Poll::Pending,
            Operation::Submitted(_) | Operation::Waiting(..) => {
                *operation = Operation::Waiting(key.serial, cx.waker().clone());
                Poll::Pending
            }
            Operation::Completed(_) => match driver.operations.remove(key.index()) {
                Operation::Completed(completion) => Poll::Ready(completion),
                _ => unreachable!("it was completed just now"),
            },
            Operation::Early(_, completion) => {
                let completion = completion.clone();
                *operation = Operation::Forgotten(key.serial, Box::new(()));
                driver.cancel(key);
                Poll::Ready(completion)
            }
            Operation::Forgotten(..) => unreachable!("nobody polls what has been dropped"),
        }
    }

    /// Whether the operation has completed, as far as the kernel has posted completions.
    pub(crate) fn is_completed(&self, key: Key) -> bool {
        let driver = &mut *self.driver.borrow_mut();
        driver.operations[key.index()].has_result() || {
            driver.take_posted();
            driver.operations[key.index()].has_result()
        }
    }

    /// Nobody waits for the operation any more; `data` are kept for as long as it goes on.
    pub(crate) fn forget<D: 'static>(&self, key: Key, data: D) {
        let mut driver = self.driver.borrow_mut();
        let operation = &mut driver.operations[key.index()];
        if let Operation::Completed(_) = operation {
            driver.operations.remove(key.index());
            // What is dropped may begin or forget operations itself.
            drop(driver);
            drop(data);
        } else {
            let forgotten = Operation::Forgotten(key.serial, Box::new(data));
            let waiting = mem::replace(operation, forgotten);
            if matches!(waiting, Operation::Early(..)) {
                driver.cancel(key);
            }
            drop(driver);
            drop(waiting);
        }
    }

    pub(crate) fn register_buffers(
        &self,
        vectors: &[libc::iovec],
        buffers: Rc<dyn Any>,
    ) -> io::Result<()> {
        let mut driver = self.driver.borrow_mut();
        // SAFETY: `buffers` owns what the vectors point to, and is kept until the ring is closed.
        unsafe { driver.uring.submitter().register_buffers(vectors) }?;
        driver.buffers = Some(buffers);
        Ok(())
    }

    pub(crate) fn dispatch(&self) {
        self.driver.borrow_mut().dispatch();
    }

    /// Completions are left to the next [`Handle::dispatch`].
    pub(crate) fn flush(&self) {
        self.driver.borrow_mut().flush();
    }

    /// Flushes between two turns of a loop that does not come to sleep. The tick goes on, so that
    /// tokio is looked at all the same.
    pub(crate) fn flush_and_tick(&self) {
        let mut driver = self.driver.borrow_mut();
        driver.start_tick();
        driver.flush();
    }

    pub(crate) fn wait(&self) {
        self.driver.borrow_mut().wait();
    }

    /// Whether the tick has come since the last call, which then also decides whether it is quiet.
    pub(crate) fn take_tick(&self) -> bool {
        let mut driver = self.driver.borrow_mut();
        let has_ticked = mem::take(&mut driver.has_ticked);
        if has_ticked {
            driver.is_quiet = mem::take(&mut driver.completions) == 0;
        }
        has_ticked
    }

    /// Whether nothing has completed for a while.
    pub(crate) fn is_quiet(&self) -> bool {
        self.driver.borrow().is_quiet
    }

    pub(crate) fn has_completions(&self) -> bool {
        !self.driver.borrow_mut().uring.completion().is_empty()
    }

    /// Has the kernel say by `event` that something has completed.
    pub(crate) fn announce_by(&self, event: BorrowedFd<'_>) -> io::Result<()> {
        self.driver.borrow().uring.submitter().register_eventfd(event.as_raw_fd())
    }

    /// Has it say so no more.
    pub(crate) fn announce_no_more(&self) {
        let _ = self.driver.borrow().uring.submitter().unregister_eventfd();
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.driver.borrow().uring.as_raw_fd()
    }
}
