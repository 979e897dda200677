//! Waits for a socket: how long they last, how they end, and what they give back.
//!
//! In goes an operation that the ring has; out comes its result, the deadline's, or the news that
//! somebody has interrupted it. What was lent to an operation comes back in each case.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::buffers::Run;
use super::deadlines::{Deadlines, Reason};
use super::heads::HeadBuffer;
pub(crate) use super::ops::turn;
use super::ops::{self, INPUT_HELD, InFlight, Key, NO_WAIT, SharedFd};
use super::over;
use crate::ring::ops::begin_poll;

/// How a wait ended, apart from success.
#[derive(Debug)]
pub enum WaitError {
    /// The deadline passed.
    Expired,
    /// Somebody else cancelled the wait: the connection is to go idle, to drain or to die.
    Interrupted,
    Failed(io::Error),
}

impl From<io::Error> for WaitError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// For how long a wait lasts. It has to be ended where it was begun: [`Term::end`].
#[derive(Clone, Copy)]
pub(super) struct Term<'a> {
    deadlines: &'a Deadlines,
    /// Its entry there; [`NO_WAIT`] once it has ended.
    index: u32,
}

impl<'a> Term<'a> {
    pub(super) fn begin(
        fd: &SharedFd,
        key: Key,
        deadlines: &'a Deadlines,
        limit: Duration,
    ) -> Self {
        Self { deadlines, index: deadlines.arm(fd, key, limit) }
    }

    pub(super) fn end(&mut self, fd: &SharedFd) {
        if self.index != NO_WAIT {
            self.deadlines.disarm(fd, self.index);
            self.index = NO_WAIT;
        }
    }

    /// The wait goes on with another operation.
    pub(super) fn go_on(&self, key: Key) {
        self.deadlines.set_key(self.index, key);
    }

    /// What `error` says of the wait; `None` where its operation was cancelled for a reason that
    /// has passed, or interrupted by a signal (EINTR), and is to be made again.
    pub(super) fn ending(&self, error: io::Error) -> Option<WaitError> {
        if !matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR)) {
            return Some(WaitError::Failed(error));
        }
        self.deadlines.reason(self.index).map(|reason| match reason {
            Reason::Expired => WaitError::Expired,
            Reason::Interrupted => WaitError::Interrupted,
        })
    }
}

/// A receive in flight; resolves to the count and the buffer, whose filled part has grown by it.
pub struct PendingRecv {
    pub(super) operation: InFlight<(SharedFd, HeadBuffer)>,
}

impl PendingRecv {
    /// Has it end and give its buffer back; with ECANCELED, where nothing has come.
    pub fn cancel(&self) {
        ops::cancel(self.operation.key());
    }

    /// Whether it has ended. Where it has not, bytes that have come are still with the socket.
    pub fn has_ended(&self) -> bool {
        self.operation.is_completed()
    }

    /// Whether certainly neither a byte nor the end of the stream has come. The answer is no where
    /// only a look at the socket could tell ([`super::Socket::is_silent`]).
    pub fn is_silent(&self) -> bool {
        self.operation.is_silent()
    }
}

impl PendingRecv {
    /// As its `poll`, with a deadline, which is over with it.
    #[inline]
    fn poll_within(
        &mut self,
        term: &mut Term<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<(Result<usize, WaitError>, HeadBuffer)> {
        loop {
            let Poll::Ready((result, (fd, mut buffer))) = Pin::new(&mut self.operation).poll(cx)
            else {
                return Poll::Pending;
            };
            let ended = match result {
                Ok(count) => match take_in(&fd, count as usize, &mut buffer) {
                    Ok(count) => count.map(Ok),
                    Err(error) => Some(Err(WaitError::Failed(error))),
                },
                Err(error) => term.ending(error).map(Err),
            };
            if let Some(result) = ended {
                term.end(&fd);
                return Poll::Ready((result, buffer));
            }
            self.operation = ops::recv(&fd, buffer);
            term.go_on(self.operation.key());
        }
    }
}

impl Future for PendingRecv {
    type Output = (io::Result<usize>, HeadBuffer);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let Poll::Ready((result, (fd, mut buffer))) = Pin::new(&mut self.operation).poll(cx)
            else {
                return Poll::Pending;
            };
            match result.and_then(|count| take_in(&fd, count as usize, &mut buffer)) {
                Ok(None) => self.operation = ops::recv(&fd, buffer),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.operation = ops::recv(&fd, buffer);
                }
                Ok(Some(count)) => return Poll::Ready((Ok(count), buffer)),
                Err(error) => return Poll::Ready((Err(error), buffer)),
            }
        }
    }
}

/// `count` bytes have been received into the free part of `buffer`: what they are to whoever reads
/// it; `None` where that is nothing yet.
#[inline]
fn take_in(fd: &SharedFd, count: usize, buffer: &mut HeadBuffer) -> io::Result<Option<usize>> {
    if let Some(over) = fd.over.get() {
        return over::take_in(fd, over, count, buffer);
    }
    buffer.advance(count);
    Ok(Some(count))
}

/// A wait for input in flight.
pub struct PendingPoll {
    pub(super) operation: InFlight<SharedFd>,
}

impl Future for PendingPoll {
    /// The events that are there, as poll(2) reports them.
    type Output = io::Result<u32>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.operation).poll(cx).map(|(result, _)| result)
    }
}

/// What a wait for a socket has found to be there (poll(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    /// Bytes to receive, or the end of the stream.
    pub fn is_readable(self) -> bool {
        self.has(libc::POLLIN)
    }

    /// Room for bytes to send.
    pub fn is_writable(self) -> bool {
        self.has(libc::POLLOUT)
    }

    /// The peer has said that it has no more to send, or more than that.
    pub fn has_ended(self) -> bool {
        self.has(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL)
    }

    /// Neither side will receive anything any more.
    pub fn is_broken(self) -> bool {
        self.has(libc::POLLHUP | libc::POLLERR | libc::POLLNVAL)
    }

    fn has(self, events: i16) -> bool {
        self.0 & u32::from(events.cast_unsigned()) != 0
    }
}

/// A wait with its deadline. An own type and not an `async fn`, because every idle connection holds
/// one.
pub struct Wait<'a> {
    pub(super) operation: InFlight<SharedFd>,
    pub(super) term: Term<'a>,
    pub(super) events: i16,
}

impl Wait<'_> {
    /// Has it end, for somebody who does not await it any more.
    pub(super) fn cancel(&self) {
        if self.operation.data().is_some() {
            ops::cancel(self.operation.key());
        }
    }
}

impl Future for Wait<'_> {
    type Output = Result<Events, WaitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let Poll::Ready((result, fd)) = Pin::new(&mut self.operation).poll(cx) else {
                return Poll::Pending;
            };
            let result = match result {
                Ok(_) if self.events == INPUT_HELD => {
                    Ok(Events(u32::from(libc::POLLIN.cast_unsigned())))
                }
                Ok(events) => Ok(Events(events)),
                Err(error) => {
                    if let Some(error) = self.term.ending(error) {
                        Err(error)
                    } else {
                        self.operation = begin_poll(&fd, self.events);
                        self.term.go_on(self.operation.key());
                        continue;
                    }
                }
            };
            self.term.end(&fd);
            return Poll::Ready(result);
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(fd) = self.operation.data() {
            self.term.end(fd);
        }
    }
}

/// A receive with its deadline; resolves to the count and the buffer.
pub struct Recv<'a> {
    pub(super) pending: PendingRecv,
    pub(super) term: Term<'a>,
}

impl Future for Recv<'_> {
    type Output = (Result<usize, WaitError>, HeadBuffer);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { pending, term } = self.get_mut();
        pending.poll_within(term, cx)
    }
}

impl Drop for Recv<'_> {
    fn drop(&mut self) {
        if let Some((fd, _)) = self.pending.operation.data() {
            self.term.end(fd);
        }
    }
}

/// The deadline of a receive that stays where it is: what is not moved costs nothing.
pub struct RecvTerm<'a> {
    pub(super) fd: &'a SharedFd,
    pub(super) term: Term<'a>,
}

impl RecvTerm<'_> {
    /// Looks whether the receive in `place`, for which it was made, is over, and arranges to be
    /// woken. One that is over is taken out.
    #[inline]
    pub fn poll(
        &mut self,
        place: &mut Option<PendingRecv>,
        cx: &mut Context<'_>,
    ) -> Poll<(Result<usize, WaitError>, HeadBuffer)> {
        let pending = place.as_mut().expect("nobody looks at a receive that is over");
        let received = pending.poll_within(&mut self.term, cx);
        if received.is_ready() {
            *place = None;
        }
        received
    }
}

impl Drop for RecvTerm<'_> {
    fn drop(&mut self) {
        self.term.end(self.fd);
    }
}

/// An operation on registered memory with its deadline; resolves to the count and the memory.
pub(super) struct FixedWait<'a> {
    pub(super) operation: InFlight<(SharedFd, Run)>,
    pub(super) term: Term<'a>,
}

impl Future for FixedWait<'_> {
    type Output = (Result<usize, WaitError>, Run);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.operation).poll(cx).map(|(result, (fd, run))| {
            let result = fd.sent(result.map(|count| count as usize));
            // What others make again has failed here: the caller alone knows the part of the memory
            // that it was for.
            let result = result.map_err(|error| {
                let failed = || WaitError::Failed(io::ErrorKind::Interrupted.into());
                self.term.ending(error).unwrap_or_else(failed)
            });
            self.term.end(&fd);
            (result, run)
        })
    }
}

impl Drop for FixedWait<'_> {
    fn drop(&mut self) {
        if let Some((fd, _)) = self.operation.data() {
            self.term.end(fd);
        }
    }
}

/// Polls `future` once, without arranging to be woken.
pub(crate) fn poll_now<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match Pin::new(future).poll(&mut cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::rc::Rc;
    use std::sync::Arc;

    use crate::ledger::Budget;
    use crate::ring::{HeadPool, Socket, runtime};

    /// What has come is noticed whether or not the loop has had a turn since.
    #[test]
    fn a_watched_socket_is_silent_until_something_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let here = OwnedFd::from(listener.accept().unwrap().0);
            (there, Socket::from_fd(here, false))
        };
        let loop_of_thread = runtime::tested();
        loop_of_thread.block_on(async {
            let pool = HeadPool::new(64, Arc::default(), Rc::new(Budget::unlimited()));
            let (mut speaking, speaker) = pair();
            let (closing, closer) = pair();
            let (_mute, silent) = pair();
            let watches = [&speaker, &closer, &silent].map(|it| it.start_recv(pool.lease()));
            // A kernel that does not tell of work leaves it to the look.
            let tells = watches.iter().all(super::PendingRecv::is_silent);
            assert!(watches.iter().all(|watch| watch.is_silent() == tells));
            speaking.write_all(b"x").unwrap();
            drop(closing);
            // Over loopback both have arrived when the calls return.
            assert!(!watches[0].is_silent() && !watches[1].is_silent());
            assert_eq!(watches[2].is_silent(), tells);
            silent.cut();
        });
    }
}
