//! Waits for a socket: how long they last, how they end, and what they give back.
//!
//! In goes an operation that the ring has; out comes its result, the deadline's, or the news that
//! somebody has interrupted it. What was lent to an operation comes back in each case.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::buffers::HeadBuffer;
use super::deadlines::{Deadline, Deadlines};
use super::ops::{self, InFlight, SharedFd};

/// How a wait ended, apart from success.
#[derive(Debug)]
pub enum Waited {
    /// The deadline passed.
    Expired,
    /// Somebody else cancelled the wait: the connection is to go idle, to drain or to die.
    Interrupted,
    Failed(io::Error),
}

impl From<io::Error> for Waited {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// For how long a wait lasts.
pub(super) struct Term<'a> {
    deadline: Deadline<'a>,
    /// The descriptor's count when the wait began.
    interrupts: u16,
}

impl<'a> Term<'a> {
    pub(super) fn begin(fd: &SharedFd, deadlines: &'a Deadlines, limit: Duration) -> Self {
        Self { deadline: deadlines.arm(fd, limit), interrupts: fd.interrupts.get() }
    }

    /// What `error` says of the wait; `None` where the cancellation was meant for another one on
    /// the same descriptor.
    pub(super) fn ending(&self, error: io::Error) -> Option<Waited> {
        if error.raw_os_error() != Some(libc::ECANCELED) {
            return Some(Waited::Failed(error));
        }
        match self.deadline.status() {
            // Before the deadline where both have come: whoever is told that it is over must not
            // wait again.
            (_, interrupts) if interrupts != self.interrupts => Some(Waited::Interrupted),
            (true, _) => Some(Waited::Expired),
            (false, _) => None,
        }
    }
}

/// A receive in flight; resolves to the count and the buffer, whose filled part has grown by it.
pub struct PendingRecv {
    pub(super) operation: InFlight<(SharedFd, HeadBuffer)>,
}

impl PendingRecv {
    /// Whether it has ended, as far as the loop has heard.
    pub fn has_ended(&self) -> bool {
        self.operation.is_completed()
    }

    /// Whether certainly neither a byte nor the end of the stream has come. The answer is no where
    /// only a look at the socket could tell ([`super::Socket::is_silent`]).
    pub fn is_silent(&self) -> bool {
        self.operation.is_silent()
    }
}

impl Future for PendingRecv {
    type Output = (io::Result<usize>, HeadBuffer);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.operation).poll(cx).map(|(result, (_, mut buffer))| {
            let result = result.map(|count| count as usize);
            if let Ok(count) = result {
                buffer.advance(count);
            }
            (result, buffer)
        })
    }
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

/// A wait with its deadline. An own type and not an `async fn`, because every resting connection
/// holds one.
pub struct Wait<'a> {
    pub(super) operation: InFlight<SharedFd>,
    pub(super) term: Term<'a>,
    pub(super) events: i16,
}

impl Future for Wait<'_> {
    /// The events that are there, as poll(2) reports them: whoever waits for one gets it with
    /// POLLRDHUP, POLLHUP and POLLERR, or gets only those.
    type Output = Result<u32, Waited>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let Poll::Ready((result, fd)) = Pin::new(&mut self.operation).poll(cx) else {
                return Poll::Pending;
            };
            match result {
                Ok(events) => return Poll::Ready(Ok(events)),
                Err(error) => match self.term.ending(error) {
                    Some(waited) => return Poll::Ready(Err(waited)),
                    None => self.operation = ops::poll(&fd, self.events),
                },
            }
        }
    }
}

/// A receive with its deadline; resolves to the count and the buffer.
pub struct Recv<'a> {
    pub(super) operation: InFlight<(SharedFd, HeadBuffer)>,
    pub(super) term: Term<'a>,
}

impl Future for Recv<'_> {
    type Output = (Result<usize, Waited>, HeadBuffer);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let Poll::Ready((result, (fd, mut buffer))) = Pin::new(&mut self.operation).poll(cx)
            else {
                return Poll::Pending;
            };
            match result {
                Ok(count) => {
                    buffer.advance(count as usize);
                    return Poll::Ready((Ok(count as usize), buffer));
                }
                Err(error) => match self.term.ending(error) {
                    Some(waited) => return Poll::Ready((Err(waited), buffer)),
                    None => self.operation = ops::recv(&fd, buffer),
                },
            }
        }
    }
}

/// Gives everybody else on this thread a turn. `yield_now` would not do: the runtime submits and
/// reaps only when it has nothing else to run.
pub async fn turn() {
    let _ = ops::nop().await;
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
            (there, Socket::from_fd(here))
        };
        let loop_of_thread = runtime::open().unwrap();
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
