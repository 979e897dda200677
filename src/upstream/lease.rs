//! A connection in the hands of one exchange.
//!
//! In goes what the pool has found or opened; the exchange sends on its socket, waits for the
//! answer through it, and gives it back when the answer has been read to its end. Dropped instead,
//! the connection is closed.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::observe::connection_stats::Moment;
use crate::ring::waits::Recv;
use crate::ring::{HeadBuffer, PendingRecv, Socket, clock};

use super::learnt::UNUSED;
use super::pool::Pool;

/// A connection to an origin, held by one exchange. Dropping it closes the connection.
pub struct Lease {
    pool: Rc<Pool>,
    socket: Socket,
    /// The receive that will bring the next answer, once it has begun.
    pub(super) reply: Option<PendingRecv>,
    /// Its slot in the pool.
    pub(super) key: usize,
    /// What the last answer said of its life, in seconds, or one of the words of `learnt`.
    pub(super) told: u32,
    /// It has carried an exchange before, so that the origin may be closing it just now.
    pub is_reused: bool,
    /// It has been opened for one exchange, and is not given to another.
    pub(super) is_single: bool,
    /// Back in the pool's hands.
    is_kept: bool,
}

impl Lease {
    pub(super) fn new(
        pool: &Rc<Pool>,
        key: usize,
        socket: Socket,
        reply: Option<PendingRecv>,
        is_reused: bool,
    ) -> Self {
        let (is_single, is_kept, told) = (false, false, UNUSED);
        Self { pool: pool.clone(), socket, reply, key, told, is_reused, is_single, is_kept }
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    /// The origin's number, and the address that this connection goes to.
    pub fn origin(&self) -> usize {
        self.pool.slots.borrow()[self.key].origin
    }

    pub fn address(&self) -> Address {
        self.pool.slots.borrow()[self.key].address
    }

    /// When connecting began, where that was for this exchange.
    pub fn connect_began(&self) -> Option<Instant> {
        (!self.is_reused).then(|| self.pool.slots.borrow()[self.key].born)
    }

    /// Makes sure that the receive for the answer is pending.
    pub fn expect_reply(&mut self) {
        if self.reply.is_none() {
            self.reply = Some(self.socket.start_recv(self.pool.heads.lease()));
        }
    }

    /// Looks whether bytes of the answer, or its end, have come, and arranges to be woken by them.
    /// Nothing is lost where nobody looks again: the receive stays with the lease.
    pub fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(std::io::Result<usize>, HeadBuffer)> {
        loop {
            self.expect_reply();
            let reply = self.reply.as_mut().expect("expect_reply has begun one");
            let (received, buffer) = ready!(Pin::new(reply).poll(cx));
            self.reply = match &received {
                // The sweep had told it to give its buffer back just before the checkout.
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                    Some(self.socket.start_recv(buffer))
                }
                _ => {
                    self.reply = None;
                    return Poll::Ready((received, buffer));
                }
            };
        }
    }

    /// Waits for bytes of the answer. Where the sweep had told the receive to give its buffer back
    /// just before the checkout, it begins again by itself.
    pub fn recv(&mut self, limit: Duration) -> Recv<'_> {
        self.expect_reply();
        let reply = self.reply.take().expect("expect_reply has begun one");
        self.socket.finish_recv(reply, &self.pool.deadlines, limit)
    }

    /// Waits for more of an answer of which `buffer` holds the beginning.
    pub fn recv_more(&mut self, buffer: HeadBuffer, limit: Duration) -> Recv<'_> {
        self.socket.recv(buffer, &self.pool.deadlines, limit)
    }

    /// Says how long its origin may take to take some of a request while others wait.
    #[cold]
    pub(crate) fn limit_write(&self, limit: Duration) {
        if let Some(slot) = self.pool.slots.borrow_mut().get_mut(self.key) {
            slot.write_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        }
    }

    /// Says that an answer's body begins that may be long on its way.
    pub fn begin_stream(&self) {
        if let Some(slot) = self.pool.slots.borrow_mut().get_mut(self.key) {
            slot.streams_since = Some(Moment::at_ms(clock::coarse_ms()));
            slot.end_first();
        }
    }

    /// Returns a connection on which the last answer has been read to its end. `buffer` is lent to
    /// the receive for the next one.
    pub fn give_back_with(mut self, buffer: HeadBuffer) {
        debug_assert!(buffer.is_empty());
        // A receive would take what a session has to say by itself.
        if self.socket.is_plain() {
            self.reply = Some(self.socket.start_recv(buffer));
        }
        self.give_back();
    }

    /// Returns a connection on which nothing is outstanding.
    pub fn give_back(self) {
        let pool = self.pool.clone();
        pool.give_back(self);
    }

    /// Takes the connection out of the pool: it has become something else.
    pub fn into_socket(mut self) -> Socket {
        self.is_kept = true;
        let socket = self.socket.clone();
        self.pool.close_slot(self.key);
        socket
    }

    /// Ends the lease without closing the connection; its slot.
    pub(super) fn keep(mut self) -> usize {
        self.is_kept = true;
        self.key
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.is_kept {
            // Ends a pending receive, which holds the descriptor open as long as it is pending.
            self.socket.cut();
            self.pool.close_slot(self.key);
        }
    }
}
