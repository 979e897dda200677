//! Operations that post one completion.
//!
//! In go an entry and the data that its pointers point to; out comes what the completion says, with
//! the data. An operation whose future is dropped goes on, and the driver keeps its data until the
//! kernel has no more use for them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use io_uring::{cqueue, squeue};

use crate::driver::Handle;
use crate::runtime::current;

/// An operation that has not been queued yet.
pub struct UnsubmittedOneshot<D: 'static, T: OneshotOutputTransform<StoredData = D>> {
    stable_data: D,
    post_op: T,
    entry: squeue::Entry,
}

impl<D, T: OneshotOutputTransform<StoredData = D>> UnsubmittedOneshot<D, T> {
    /// `stable_data` owns, on the heap, whatever `entry` points to.
    pub fn new(stable_data: D, post_op: T, entry: squeue::Entry) -> Self {
        Self { stable_data, post_op, entry }
    }

    /// Queues it for the next submission.
    ///
    /// # Panics
    ///
    /// Outside a [`Runtime`](crate::Runtime).
    pub fn submit(self) -> InFlightOneshot<D, T> {
        let driver = current().expect("operations are begun inside a runtime");
        let (index, place) = driver.begin(self.entry);
        let index = u32::try_from(index).expect("there is no memory for so many operations");
        let Self { stable_data, post_op, .. } = self;
        InFlightOneshot { started: Some(Started { driver, index, place, stable_data, post_op }) }
    }
}

/// An operation under way. Dropping it ends the interest in it, not the operation.
pub struct InFlightOneshot<D: 'static, T: OneshotOutputTransform<StoredData = D>> {
    started: Option<Started<D, T>>,
}

impl<D, T: OneshotOutputTransform<StoredData = D>> InFlightOneshot<D, T> {
    /// Whether it has completed; other than a poll, this leaves whoever waits waiting.
    pub fn is_completed(&self) -> bool {
        self.started.as_ref().is_none_or(|started| started.driver.is_completed(started.number()))
    }

    /// Whether what it waits for has certainly not happened yet. The kernel is asked at most once
    /// for all that completes in a turn; where it has more to say than it says in one go, and on a
    /// ring that does not tell of work, the answer is no.
    pub fn is_silent(&self) -> bool {
        let started = self.started.as_ref();
        started.is_some_and(|it| it.driver.is_silent(it.number(), it.place))
    }
}

struct Started<D, T> {
    driver: Handle,
    index: u32,
    /// How many entries had been queued with its own.
    place: u32,
    stable_data: D,
    post_op: T,
}

impl<D, T> Started<D, T> {
    fn number(&self) -> usize {
        self.index as usize
    }
}

impl<D: Unpin, T: OneshotOutputTransform<StoredData = D> + Unpin> Future for InFlightOneshot<D, T> {
    type Output = T::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let started = this.started.as_ref().expect("an operation completes once");
        let Poll::Ready(completion) = started.driver.poll(started.number(), cx) else {
            return Poll::Pending;
        };
        let Some(Started { stable_data, post_op, .. }) = this.started.take() else {
            unreachable!("it was there just now");
        };
        Poll::Ready(post_op.transform_oneshot_output(stable_data, completion))
    }
}

impl<D: 'static, T: OneshotOutputTransform<StoredData = D>> Drop for InFlightOneshot<D, T> {
    fn drop(&mut self) {
        if let Some(Started { driver, index, stable_data, .. }) = self.started.take() {
            driver.forget(index as usize, stable_data);
        }
    }
}

/// Makes of a completion, and the data that its operation owned, what its future resolves to.
pub trait OneshotOutputTransform {
    type Output;
    type StoredData;

    fn transform_oneshot_output(self, data: Self::StoredData, cqe: cqueue::Entry) -> Self::Output;
}
