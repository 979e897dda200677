//! Operations with one result.
//!
//! In go an entry and the data that its pointers point to; out comes what the completion says, with
//! the data. An operation whose future is dropped goes on, and the driver keeps its data until the
//! kernel has no more use for them. Whoever has an operation's [`Key`] can end it early.

use std::future::Future;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use io_uring::squeue;

use crate::driver::{Handle, Key};
use crate::runtime::{current, without_ring};

/// An operation that has not been queued yet.
pub struct UnsubmittedOneshot<D: 'static, T: OneshotOutputTransform<StoredData = D>> {
    stable_data: D,
    post_op: T,
    entry: squeue::Entry,
}

impl<D, T: OneshotOutputTransform<StoredData = D>> UnsubmittedOneshot<D, T> {
    /// An operation of one completion, or a poll for output of several (IORING_POLL_ADD_MULTI).
    ///
    /// # Safety
    ///
    /// `stable_data` owns, on the heap and by raw pointer, whatever `entry` points to, and keeps
    /// the descriptor in it open: the kernel uses both until the operation has completed, and
    /// `stable_data` is moved meanwhile.
    pub unsafe fn new(stable_data: D, post_op: T, entry: squeue::Entry) -> Self {
        Self { stable_data, post_op, entry }
    }

    /// Begins an operation that the kernel never hears of: it completes by [`complete`], or by
    /// [`cancel`].
    ///
    /// # Panics
    ///
    /// Outside a [`Runtime`](crate::Runtime).
    pub fn hold(stable_data: D, post_op: T) -> InFlightOneshot<D, T> {
        let driver = current().expect("operations are begun inside a runtime");
        let (key, place) = driver.hold();
        InFlightOneshot { started: Some(Started { driver, key, place, stable_data, post_op }) }
    }

    /// Queues it for the next submission.
    ///
    /// # Panics
    ///
    /// Outside a [`Runtime`](crate::Runtime).
    #[inline(always)]
    pub fn submit(self) -> InFlightOneshot<D, T> {
        let driver = current().expect("operations are begun inside a runtime");
        let (key, place) = driver.begin(self.entry);
        let Self { stable_data, post_op, .. } = self;
        InFlightOneshot { started: Some(Started { driver, key, place, stable_data, post_op }) }
    }
}

/// An operation under way. Dropping it ends the interest in it, not the operation.
pub struct InFlightOneshot<D: 'static, T: OneshotOutputTransform<StoredData = D>> {
    started: Option<Started<D, T>>,
}

impl<D, T: OneshotOutputTransform<StoredData = D>> InFlightOneshot<D, T> {
    /// What it can be cancelled by.
    ///
    /// # Panics
    ///
    /// After it has resolved.
    pub fn key(&self) -> Key {
        self.started.as_ref().expect("an operation has a key until it has resolved").key
    }

    /// What it owns; `None` after it has resolved.
    pub fn data(&self) -> Option<&D> {
        Some(&self.started.as_ref()?.stable_data)
    }

    /// Whether the kernel has said that it has completed; other than a poll, this leaves whoever
    /// waits waiting. Work that the kernel has put off has not been done: bytes that a receive
    /// would take are still with the socket.
    pub fn is_completed(&self) -> bool {
        self.started.as_ref().is_none_or(|started| started.driver.is_completed(started.key))
    }

    /// Whether what it waits for has certainly not happened yet. The kernel is asked at most once
    /// for all that completes in a turn; where it has more to say than it says in one go, and on a
    /// ring that does not tell of work, the answer is no.
    pub fn is_silent(&self) -> bool {
        let started = self.started.as_ref();
        started.is_some_and(|it| it.driver.is_silent(it.key, it.place))
    }
}

struct Started<D, T> {
    driver: Handle,
    key: Key,
    /// How many entries had been queued with its own.
    place: u32,
    stable_data: D,
    post_op: T,
}

impl<D: Unpin, T: OneshotOutputTransform<StoredData = D> + Unpin> Future for InFlightOneshot<D, T> {
    type Output = T::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let started = this.started.as_ref().expect("an operation completes once");
        let Poll::Ready(result) = started.driver.poll(started.key, cx) else {
            return Poll::Pending;
        };
        let Some(Started { stable_data, post_op, .. }) = this.started.take() else {
            unreachable!("it was there just now");
        };
        Poll::Ready(post_op.transform_oneshot_output(stable_data, result))
    }
}

impl<D: 'static, T: OneshotOutputTransform<StoredData = D>> Drop for InFlightOneshot<D, T> {
    fn drop(&mut self) {
        if let Some(Started { driver, key, stable_data, .. }) = self.started.take() {
            driver.forget(key, stable_data);
        }
    }
}

/// Ends the operation `key` of the runtime that runs on this thread: it completes with ECANCELED,
/// or with what it has come to by then. Nothing happens where it has completed already, whatever
/// has begun since, or outside a runtime. Costs the same however much is pending.
pub fn cancel(key: Key) {
    if let Some(driver) = current() {
        driver.cancel(key);
    }
}

/// Has the operation `key`, which was begun by [`UnsubmittedOneshot::hold`] on this thread, come to
/// `result`, as the kernel says results. Nothing happens where it has come to its end before.
pub fn complete(key: Key, result: i32) {
    if let Some(driver) = current() {
        driver.complete(key, result);
    }
}

/// Whether the operation `key` was begun by [`UnsubmittedOneshot::hold`] and goes on.
pub fn is_held(key: Key) -> bool {
    current().is_some_and(|driver| driver.is_held(key))
}

/// The descriptor `number` is about to be closed, and no operation names it any more: the runtime
/// that runs on this thread forgets what it knows of it. Where it has a ring, that is nothing.
pub fn release(number: RawFd) {
    if let Some(driver) = without_ring() {
        driver.release(number);
    }
}

/// Makes of a completion, and the data that its operation owned, what its future resolves to.
pub trait OneshotOutputTransform {
    type Output;
    type StoredData;

    /// `result` is what the completion says: a count, or an error's number below zero.
    fn transform_oneshot_output(self, data: Self::StoredData, result: i32) -> Self::Output;
}
