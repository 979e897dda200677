//! What is under way, on a ring or, where there is none, on an epoll set.
//!
//! In go entries, each remembered in a slab under the [`Key`] that its completion will carry; out
//! come completions, each handed to whoever waits for it. Two entries are the driver's own: a poll
//! of the bell, and a tick that says whether anything has happened lately.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use slab::Slab;

use crate::Builder;
use crate::bell::{self, Bell};
use crate::epoll::Epoll;
use crate::ring::Ring;

/// How long the loop goes on sleeping in the ring without a completion, and how late tokio's timers
/// may be meanwhile.
pub(crate) const TICK_NS: u32 = 10_000_000;

/// What the completions of the driver's own entries carry; operations have small numbers.
const CANCELLED: u64 = u64::MAX;
pub(crate) const BELL: u64 = u64::MAX - 1;
pub(crate) const TICK: u64 = u64::MAX - 2;

pub(crate) struct Driver {
    engine: Engine,
    operations: Slab<Operation>,
    /// Of the operation that was begun last: tells those apart that have a place one after another.
    serial: u32,
    /// Entries that have ever been queued, with wrap-around.
    queued: u32,
    bell: Arc<Bell>,
    is_ticking: bool,
    /// The tick has come.
    has_ticked: bool,
    /// Completions of operations since the last tick.
    completions: u32,
    /// Of two ticks in a row nothing has been heard but the second.
    is_quiet: bool,
}

/// Who carries entries out.
#[expect(clippy::large_enum_variant, reason = "a thread has one")]
enum Engine {
    Ring(Ring),
    Epoll(Epoll),
}

impl Engine {
    /// False where the queue is full.
    #[inline]
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        match self {
            Self::Ring(ring) => ring.push(entry),
            Self::Epoll(epoll) => {
                epoll.begin(entry);
                true
            }
        }
    }

    /// Whether everything has been heard that has happened, and the operation that was the
    /// `place`th of `queued` to be queued has been under way.
    fn has_heard_all(&mut self, place: u32, queued: u32) -> bool {
        match self {
            Self::Ring(ring) => ring.has_heard_all(place, queued),
            // Nothing tells without a call.
            Self::Epoll(_) => false,
        }
    }

    /// The same, just after it was asked for all there is.
    fn has_told_all(&mut self, place: u32, queued: u32) -> bool {
        match self {
            Self::Ring(ring) => ring.has_heard_all(place, queued),
            Self::Epoll(epoll) => epoll.has_heard_all(),
        }
    }

    /// Whether it is of use to ask.
    fn tells(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.tells_of_work,
            Self::Epoll(_) => true,
        }
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

/// An operation, with its key's serial number or its result.
enum Operation {
    /// Begun by [`Handle::hold`], and not completed; the kernel knows nothing of it.
    Held(u32, Option<Waker>),
    /// Under way; nobody has asked yet.
    Submitted(u32),
    /// Under way, and somebody waits.
    Waiting(u32, Waker),
    /// Under way, and nobody waits any more. Keeps what the kernel may still use.
    Forgotten(u32, #[expect(dead_code, reason = "kept, not used")] Box<dyn Any>),
    /// A poll of several completions has said what was waited for, and has been cancelled; its last
    /// completion is still to come.
    Early(u32, i32),
    Completed(i32),
}

impl Operation {
    /// Of what has not come to its end; `None` where the last word has been said.
    fn serial(&self) -> Option<u32> {
        match self {
            Self::Held(serial, _)
            | Self::Submitted(serial)
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

/// What has come of the entry that was queued with `number`.
#[derive(Clone, Copy)]
pub(crate) struct Completion {
    pub(crate) number: u64,
    pub(crate) result: i32,
    /// It is not the last one of its entry.
    pub(crate) has_more: bool,
}

impl Driver {
    /// Gives an operation its place, and its number.
    #[inline]
    fn insert(&mut self, operation: impl FnOnce(u32) -> Operation) -> Key {
        let serial = (self.serial + 1) & (u32::MAX >> 1);
        self.serial = serial;
        let index = self.operations.insert(operation(serial));
        let index = u32::try_from(index).expect("there is no memory for so many operations");
        Key { index, serial }
    }

    fn new(builder: &Builder, bell: Arc<Bell>) -> io::Result<Self> {
        let engine = if builder.is_epoll {
            Engine::Epoll(Epoll::new(bell.event())?)
        } else {
            Engine::Ring(Ring::new(builder)?)
        };
        Ok(Self {
            engine,
            operations: Slab::with_capacity(64),
            serial: 0,
            queued: 0,
            bell,
            is_ticking: false,
            has_ticked: false,
            completions: 0,
            is_quiet: false,
        })
    }

    #[inline]
    fn push(&mut self, entry: &squeue::Entry) {
        while !self.engine.push(entry) {
            self.submit();
        }
        self.queued = self.queued.wrapping_add(1);
    }

    /// Hands what is queued to the kernel, and does not wait. What has completed has to be taken
    /// before the next call, for which the completion queue has to have room.
    fn flush(&mut self) {
        match &mut self.engine {
            Engine::Ring(ring) => ring.enter(0),
            Engine::Epoll(epoll) => epoll.carry_out(false),
        }
    }

    fn submit(&mut self) {
        self.flush();
        self.dispatch();
    }

    /// Takes every completion that the kernel has posted, those included for which the queue had no
    /// room (IORING_SQ_CQ_OVERFLOW): they are in it after the next call.
    fn take_posted(&mut self) {
        self.dispatch();
        while let Engine::Ring(ring) = &mut self.engine
            && ring.uring.submission().cq_overflow()
        {
            self.submit();
        }
    }

    /// Hands what is queued to the kernel and sleeps until something completes.
    fn wait(&mut self) {
        if let Engine::Ring(ring) = &mut self.engine
            && !mem::replace(&mut ring.is_bell_polled, true)
        {
            let bell = Fd(self.bell.event().as_raw_fd());
            let poll = opcode::PollAdd::new(bell, libc::POLLIN as u32).multi(true).build();
            self.push(&poll.user_data(BELL));
        }
        self.start_tick();
        match &mut self.engine {
            Engine::Ring(ring) => ring.enter(1),
            Engine::Epoll(epoll) => epoll.carry_out(true),
        }
    }

    /// Has the operation `key` ended, which the kernel finds by its number; nothing happens where
    /// it has ended. Entries are carried out in the order in which they were queued, so that it
    /// need not have been submitted yet.
    fn cancel(&mut self, key: Key) {
        if self.complete(key, -libc::ECANCELED) {
            return;
        }
        let operation = self.operations.get(key.index());
        if operation.and_then(Operation::serial) != Some(key.serial) {
            return;
        }
        if let Engine::Epoll(epoll) = &mut self.engine {
            return epoll.cancel(key.index());
        }
        let cancel = opcode::AsyncCancel::new(key.user_data()).build();
        let cancel = cancel.flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&cancel.user_data(CANCELLED));
    }

    /// Has the operation `key` of [`Handle::hold`] come to `result`; false where it is none, or has
    /// come to its end before.
    fn complete(&mut self, key: Key, result: i32) -> bool {
        let Some(operation) = self.operations.get_mut(key.index()) else { return false };
        if !matches!(operation, Operation::Held(serial, _) if *serial == key.serial) {
            return false;
        }
        if let Operation::Held(_, Some(waker)) =
            mem::replace(operation, Operation::Completed(result))
        {
            waker.wake();
        }
        true
    }

    fn start_tick(&mut self) {
        if mem::replace(&mut self.is_ticking, true) {
            return;
        }
        let tick = match &mut self.engine {
            Engine::Ring(ring) => ring.tick(),
            Engine::Epoll(epoll) => return epoll.start_tick(),
        };
        self.push(&tick);
    }

    /// Hands completions to those who wait for them.
    fn dispatch(&mut self) {
        let others = match &mut self.engine {
            Engine::Ring(ring) => {
                let mut others = 0;
                for completion in ring.uring.completion() {
                    let has_more = cqueue::more(completion.flags());
                    let (number, result) = (completion.user_data(), completion.result());
                    if number < TICK {
                        others += 1;
                        complete(&mut self.operations, Completion { number, result, has_more });
                    } else if number == TICK {
                        self.is_ticking = false;
                        self.has_ticked = true;
                    } else if number == BELL {
                        others += 1;
                        self.bell.drain();
                        ring.is_bell_polled = has_more;
                    }
                }
                others
            }
            Engine::Epoll(epoll) => {
                let mut others = 0;
                for completion in epoll.completed.drain(..) {
                    if completion.number < TICK {
                        others += 1;
                        complete(&mut self.operations, completion);
                    } else if completion.number == TICK {
                        self.is_ticking = false;
                        self.has_ticked = true;
                    } else {
                        others += 1;
                        self.bell.drain();
                    }
                }
                others
            }
        };
        self.completions += others;
        if others > 0 {
            self.is_quiet = false;
        }
    }
}

/// Hands one completion of an operation to whoever waits for it.
#[inline]
fn complete(operations: &mut Slab<Operation>, completion: Completion) {
    let Completion { number, result, has_more } = completion;
    let key = Key::of(number);
    let operation = &mut operations[key.index()];
    debug_assert_eq!(operation.serial(), Some(key.serial), "it is under way");
    if has_more {
        if result & OUTPUT_EVENTS == 0
            || matches!(operation, Operation::Forgotten(..) | Operation::Early(..))
        {
            return;
        }
        let early = Operation::Early(key.serial, result);
        if let Operation::Waiting(_, waker) = mem::replace(operation, early) {
            waker.wake();
        }
        return;
    }
    match mem::replace(operation, Operation::Completed(result)) {
        Operation::Waiting(_, waker) => waker.wake(),
        Operation::Submitted(_) => {}
        Operation::Forgotten(..) => {
            operations.remove(key.index());
        }
        // What has been said early stays what is said.
        Operation::Early(_, said) => *operation = Operation::Completed(said),
        Operation::Completed(_) | Operation::Held(..) => {
            unreachable!("one last completion for each operation that the kernel has")
        }
    }
}

/// A ring that does not know yet who has lost interest is not to be closed: operations end first,
/// and what they use lives until they have. Without a ring the kernel has none of them.
impl Drop for Driver {
    fn drop(&mut self) {
        if matches!(self.engine, Engine::Epoll(_)) {
            return;
        }
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
            if let Engine::Ring(ring) = &mut self.engine {
                ring.enter(1);
            }
            self.dispatch();
        }
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
        let key = driver.insert(Operation::Submitted);
        driver.push(&entry.user_data(key.user_data()));
        (key, driver.queued)
    }

    /// Begins an operation that the kernel never hears of: whoever has its key completes it.
    pub(crate) fn hold(&self) -> (Key, u32) {
        let mut driver = self.driver.borrow_mut();
        let key = driver.insert(|serial| Operation::Held(serial, None));
        (key, driver.queued)
    }

    pub(crate) fn complete(&self, key: Key, result: i32) {
        self.driver.borrow_mut().complete(key, result);
    }

    pub(crate) fn is_held(&self, key: Key) -> bool {
        let driver = self.driver.borrow();
        let operation = driver.operations.get(key.index());
        matches!(operation, Some(Operation::Held(serial, _)) if *serial == key.serial)
    }

    /// Has the kernel end the operation `key`, whose completion then says so (ECANCELED).
    pub(crate) fn cancel(&self, key: Key) {
        self.driver.borrow_mut().cancel(key);
    }

    /// Whether the operation `key`, the `place`th to be queued, is certainly pending.
    pub(crate) fn is_silent(&self, key: Key, place: u32) -> bool {
        let driver = &mut *self.driver.borrow_mut();
        if let Operation::Held(..) = driver.operations[key.index()] {
            return true;
        }
        let queued = driver.queued;
        if !driver.engine.has_heard_all(place, queued) {
            // One call for all of them: who asks next in this turn need not make it.
            if !driver.engine.tells() {
                return false;
            }
            driver.submit();
            if !driver.engine.has_told_all(place, queued) {
                return false;
            }
        }
        !driver.operations[key.index()].has_result()
    }

    #[inline]
    pub(crate) fn poll(&self, key: Key, cx: &mut Context<'_>) -> Poll<i32> {
        let driver = &mut *self.driver.borrow_mut();
        let operation = &mut driver.operations[key.index()];
        match operation {
            Operation::Held(_, waker) => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Operation::Waiting(_, waker) if waker.will_wake(cx.waker()) => Poll::Pending,
            Operation::Submitted(_) | Operation::Waiting(..) => {
                *operation = Operation::Waiting(key.serial, cx.waker().clone());
                Poll::Pending
            }
            Operation::Completed(_) => match driver.operations.remove(key.index()) {
                Operation::Completed(result) => Poll::Ready(result),
                _ => unreachable!("it was completed just now"),
            },
            Operation::Early(_, result) => {
                let result = *result;
                *operation = Operation::Forgotten(key.serial, Box::new(()));
                driver.cancel(key);
                Poll::Ready(result)
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
        let Driver { engine, operations, .. } = &mut *driver;
        let operation = &mut operations[key.index()];
        if let Operation::Completed(_) | Operation::Held(..) = operation {
            let ended = operations.remove(key.index());
            // What is dropped may begin or forget operations itself.
            drop(driver);
            drop((data, ended));
            return;
        }
        let forgotten = match engine {
            Engine::Ring(_) => Operation::Forgotten(key.serial, Box::new(data)),
            Engine::Epoll(epoll) => {
                // The kernel knows nothing of it, but its completion may be on its way.
                let waiting = if epoll.end(key.index()) {
                    operations.remove(key.index())
                } else {
                    mem::replace(operation, Operation::Forgotten(key.serial, Box::new(())))
                };
                drop(driver);
                drop(waiting);
                drop(data);
                return;
            }
        };
        let waiting = mem::replace(operation, forgotten);
        if matches!(waiting, Operation::Early(..)) {
            driver.cancel(key);
        }
        drop(driver);
        drop(waiting);
    }

    /// The descriptor `number` is about to be closed; no operation names it any more.
    pub(crate) fn release(&self, number: RawFd) {
        if let Engine::Epoll(epoll) = &mut self.driver.borrow_mut().engine {
            epoll.release(number);
        }
    }

    pub(crate) fn register_buffers(
        &self,
        vectors: &[libc::iovec],
        buffers: Rc<dyn Any>,
    ) -> io::Result<()> {
        match &mut self.driver.borrow_mut().engine {
            Engine::Ring(ring) => ring.register_buffers(vectors, buffers),
            Engine::Epoll(_) => Err(io::ErrorKind::Unsupported.into()),
        }
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
        match &mut self.driver.borrow_mut().engine {
            Engine::Ring(ring) => !ring.uring.completion().is_empty(),
            Engine::Epoll(epoll) => !epoll.completed.is_empty(),
        }
    }

    /// What becomes readable when something has completed, between [`Handle::announce_by`] and
    /// [`Handle::announce_no_more`].
    pub(crate) fn announcer(&self) -> io::Result<OwnedFd> {
        match &self.driver.borrow().engine {
            Engine::Ring(_) => bell::eventfd(),
            Engine::Epoll(epoll) => epoll.share(),
        }
    }

    /// Has the kernel say by the announcer that something has completed.
    pub(crate) fn announce_by(&self, announcer: BorrowedFd<'_>) -> io::Result<()> {
        match &self.driver.borrow().engine {
            Engine::Ring(ring) => ring.announce_by(announcer),
            Engine::Epoll(_) => Ok(()),
        }
    }

    /// Has it say so no more.
    pub(crate) fn announce_no_more(&self) {
        if let Engine::Ring(ring) = &self.driver.borrow().engine {
            ring.announce_no_more();
        }
    }

    /// The announcement has been heard.
    pub(crate) fn drain(&self, announcer: BorrowedFd<'_>) {
        if let Engine::Ring(_) = &self.driver.borrow().engine {
            bell::drain(announcer);
        }
    }

    /// The ring's, where there is one.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        match &self.driver.borrow().engine {
            Engine::Ring(ring) => Some(ring.uring.as_raw_fd()),
            Engine::Epoll(_) => None,
        }
    }
}
