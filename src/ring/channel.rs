//! Sockets without a descriptor: the bytes of one stream of a connection that carries many.
//!
//! In go the calls and waits of a [`Socket`](super::Socket); a [`Channel`] answers them from
//! memory, and has those that wait go on when something has happened. Whoever uses the socket does
//! not know. No call here reaches the kernel.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;

use super::heads::HeadBuffer;
use super::meters::Operation;
use super::net::Socket;
use super::ops::{InFlight, Key, SharedFd, hold};
use crate::http::head::HeadError;

/// What is there, as poll(2) says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness(i16);

impl Readiness {
    /// Bytes, or the end of them.
    pub(crate) const INPUT: Self = Self(libc::POLLIN);
    pub(crate) const OUTPUT: Self = Self(libc::POLLOUT);
    /// Nothing will be sent or received any more.
    pub(crate) const BROKEN: Self = Self(libc::POLLHUP | libc::POLLERR);

    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn is_broken(self) -> bool {
        self.0 & Self::BROKEN.0 != 0
    }

    /// Of what somebody waits for, and of what ends every wait.
    fn of(self, events: i16) -> i32 {
        i32::from(self.0 & (events | Self::BROKEN.0))
    }
}

/// What stands for the peer of a socket without a descriptor. All of it at once: nothing waits.
pub(crate) trait Channel {
    /// The socket of the connection that carries this one.
    fn wire(&self) -> &Socket;
    /// Bytes of a body that [`Channel::send`] takes at once.
    fn room(&self) -> usize;
    /// As send(2).
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;
    /// As recv(2).
    fn receive(&self, into: &mut [u8]) -> io::Result<usize>;
    /// As recv(2) with MSG_PEEK; a count with an empty slice, too, where there is something.
    fn peek(&self, into: &mut [u8]) -> io::Result<usize>;
    /// Throws up to `count` received bytes away.
    fn discard(&self, count: usize) -> io::Result<usize>;
    fn readiness(&self) -> Readiness;
    /// Nothing more will be sent.
    fn finish_sending(&self);
    /// What has been sent is not the whole, wherever it ends.
    fn spoil(&self);
    /// Ends it in both directions.
    fn cut(&self);
    /// Ends it, and has the peer ask again in HTTP/1.1.
    fn require_http1(&self);
    /// The peer has said that it has not acted upon what it was asked, and will not.
    fn is_refused(&self) -> bool;
    /// The number of the stream, where one is under way.
    fn stream_id(&self) -> Option<u32>;
    /// Why the request that there is to be received is refused, where it is for what it is.
    fn refusal(&self) -> Option<HeadError>;
    fn waiters(&self) -> &Waiters;
}

/// Those that wait for a channel.
#[derive(Default)]
pub(crate) struct Waiters(RefCell<Vec<(Key, i16)>>);

impl Waiters {
    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Has those go on that wait for what `readiness` says is there.
    pub(crate) fn tell(&self, readiness: Readiness) {
        self.0.borrow_mut().retain(|(key, events)| {
            let found = readiness.of(*events);
            if found != 0 {
                tokio_uring::complete(*key, found);
            }
            found == 0
        });
    }

    /// Adds one. Of those that have ended otherwise nobody says so: a few are kept.
    fn add(&self, key: Key, events: i16) {
        let mut waiting = self.0.borrow_mut();
        if waiting.len() >= WAITERS_MAX {
            waiting.retain(|(key, _)| tokio_uring::is_held(*key));
        }
        waiting.push((key, events));
    }
}

/// A socket has two directions and a watch.
const WAITERS_MAX: usize = 8;

fn begin<D: Unpin + 'static>(channel: &dyn Channel, events: i16, data: D) -> InFlight<D> {
    let waiting = hold(Operation::Poll, data);
    match channel.readiness().of(events) {
        0 => channel.waiters().add(waiting.key(), events),
        found => tokio_uring::complete(waiting.key(), found),
    }
    waiting
}

/// Waits for one of `events`.
pub(super) fn poll(channel: &dyn Channel, fd: &SharedFd, events: i16) -> InFlight<SharedFd> {
    begin(channel, events & (libc::POLLIN | libc::POLLOUT), fd.clone())
}

/// Waits for something to receive, with the buffer that it is to be received into.
pub(super) fn recv(
    channel: &dyn Channel,
    fd: &SharedFd,
    buffer: HeadBuffer,
) -> InFlight<(SharedFd, HeadBuffer)> {
    begin(channel, libc::POLLIN, (fd.clone(), buffer))
}

/// What there is to receive, when a wait says that there is something; `None` where somebody else
/// was faster.
pub(super) fn take_in(channel: &dyn Channel, buffer: &mut HeadBuffer) -> io::Result<Option<usize>> {
    match channel.receive(buffer.free()) {
        Ok(count) => {
            buffer.advance(count);
            Ok(Some(count))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// The address of this end of the connection.
pub(super) fn own_address(channel: &dyn Channel) -> Option<SocketAddr> {
    channel.wire().own_address()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::ledger::Budget;
    use crate::ring::waits::poll_now;
    use crate::ring::{Deadlines, HeadPool, WaitError, runtime};

    const LIMIT: Duration = Duration::from_secs(20);

    /// A peer that says one byte when it is told to, and takes nothing before.
    #[derive(Default)]
    struct Peer {
        has_byte: Cell<bool>,
        is_broken: Cell<bool>,
        waiters: Waiters,
    }

    impl Peer {
        fn speak(&self) {
            self.has_byte.set(true);
            self.waiters.tell(Readiness::INPUT.and(Readiness::OUTPUT));
        }
    }

    impl Channel for Peer {
        fn wire(&self) -> &Socket {
            unreachable!("nobody asks for it here")
        }

        fn room(&self) -> usize {
            if self.has_byte.get() { usize::MAX } else { 0 }
        }

        fn send(&self, bytes: &[u8]) -> io::Result<usize> {
            if self.has_byte.get() {
                Ok(bytes.len())
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        }

        fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.peek(into)?;
            self.has_byte.set(false);
            Ok(count)
        }

        fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
            if self.is_broken.get() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if !self.has_byte.get() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            into[0] = b'x';
            Ok(1)
        }

        fn discard(&self, _count: usize) -> io::Result<usize> {
            self.receive(&mut [0])
        }

        fn readiness(&self) -> Readiness {
            match (self.is_broken.get(), self.has_byte.get()) {
                (true, _) => Readiness::BROKEN,
                (false, true) => Readiness::INPUT.and(Readiness::OUTPUT),
                (false, false) => Readiness::default(),
            }
        }

        fn finish_sending(&self) {}

        fn spoil(&self) {}

        fn cut(&self) {
            self.is_broken.set(true);
            self.waiters.tell(Readiness::BROKEN);
        }

        fn require_http1(&self) {
            self.cut();
        }

        fn is_refused(&self) -> bool {
            false
        }

        fn stream_id(&self) -> Option<u32> {
            None
        }

        fn refusal(&self) -> Option<HeadError> {
            None
        }

        fn waiters(&self) -> &Waiters {
            &self.waiters
        }
    }

    fn with_peer(test: impl AsyncFnOnce(Rc<Peer>, Socket, Rc<Deadlines>, Rc<HeadPool>)) {
        runtime::tested().block_on(async {
            let deadlines = Rc::new(Deadlines::default());
            let carried_out = deadlines.clone();
            let task = tokio::task::spawn_local(async move { carried_out.run().await });
            let peer = Rc::new(Peer::default());
            let socket = Socket::of_channel(peer.clone());
            let heads = HeadPool::new(64, Arc::default(), Rc::new(Budget::unlimited()));
            test(peer, socket, deadlines, heads).await;
            task.abort();
        });
    }

    #[test]
    fn a_wait_ends_with_what_it_waits_for() {
        with_peer(async |peer, socket, deadlines, heads| {
            let mut readable = socket.readable(&deadlines, LIMIT);
            let mut writable = socket.writable(&deadlines, LIMIT);
            let mut received = socket.recv(heads.lease(), &deadlines, LIMIT);
            assert!(poll_now(&mut readable).is_none() && poll_now(&mut writable).is_none());
            assert!(poll_now(&mut received).is_none());
            peer.speak();
            assert!(readable.await.unwrap().is_readable());
            assert!(writable.await.unwrap().is_writable());
            let (count, buffer) = received.await;
            assert_eq!((count.unwrap(), buffer.filled()), (1, &b"x"[..]));
            // What somebody else has taken is waited for again.
            let mut late = socket.recv(buffer, &deadlines, LIMIT);
            assert!(poll_now(&mut late).is_none());
            peer.waiters.tell(Readiness::INPUT);
            assert!(poll_now(&mut late).is_none());
            peer.speak();
            assert_eq!(late.await.0.unwrap(), 1);
        });
    }

    #[test]
    fn a_wait_has_its_deadline_and_can_be_interrupted() {
        with_peer(async |_peer, socket, deadlines, heads| {
            let expired = socket.readable(&deadlines, Duration::from_millis(50)).await;
            assert!(matches!(expired, Err(WaitError::Expired)), "{expired:?}");
            let mut received = socket.recv(heads.lease(), &deadlines, LIMIT);
            assert!(poll_now(&mut received).is_none());
            socket.interrupt(&deadlines);
            assert!(matches!(received.await.0, Err(WaitError::Interrupted)));
            socket.interrupt_for_good(&deadlines);
            let cut = socket.writable(&deadlines, LIMIT).await;
            assert!(matches!(cut, Err(WaitError::Interrupted)), "{cut:?}");
        });
    }

    #[test]
    fn a_cut_ends_every_wait() {
        with_peer(async |_peer, socket, deadlines, heads| {
            let mut hang_up = socket.hang_up(&deadlines);
            let mut received = socket.recv(heads.lease(), &deadlines, LIMIT);
            assert!(poll_now(&mut hang_up).is_none() && poll_now(&mut received).is_none());
            assert!(!socket.has_hung_up());
            socket.cut();
            assert!(hang_up.await.unwrap().is_broken());
            assert!(matches!(received.await.0, Err(WaitError::Failed(_))));
            assert!(socket.has_hung_up() && socket.has_failed());
        });
    }

    /// Whoever waits and gives up says so to nobody: what is left of it must not pile up.
    #[test]
    fn waits_that_are_dropped_are_forgotten() {
        with_peer(async |peer, socket, deadlines, _heads| {
            for _ in 0..1000 {
                drop(socket.readable(&deadlines, LIMIT));
            }
            assert!(peer.waiters.0.borrow().len() <= WAITERS_MAX);
        });
    }
}
