//! A connection in the hands of one exchange.
//!
//! In goes what the pool has found or opened; the exchange sends on its socket, waits for the
//! answer through it, and gives it back when the answer has been read to its end. Dropped instead,
//! the connection is closed.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::observe::connection_stats::Moment;
use crate::ring::waits::{RecvTerm, WaitError};
use crate::ring::{HeadBuffer, HeadPool, PendingRecv, Socket, clock};

use super::learnt::UNUSED;
use super::origin::Origin;
use super::origin_ids::Account;
use super::pool::{Pool, Slot};

/// A connection to an origin, held by one exchange. Dropping it closes the connection.
pub struct Lease {
    pool: Rc<Pool>,
    socket: Socket,
    /// Its slot in the pool, which has the receive that will bring the next answer: a lease is
    /// handed on many times, and is small.
    pub(super) key: usize,
    origin: u32,
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
        (socket, origin): (Socket, usize),
        is_reused: bool,
    ) -> Self {
        let (is_single, is_kept, told) = (false, false, UNUSED);
        let (pool, origin) = (pool.clone(), origin as u32);
        Self { pool, socket, key, origin, told, is_reused, is_single, is_kept }
    }

    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    /// Goes on with another socket, which carries it from now on.
    pub(super) fn replace_socket(&mut self, socket: Socket) {
        self.socket = socket;
    }

    /// Carries this exchange and no other.
    pub(super) fn only_once(mut self) -> Self {
        self.is_single = true;
        self
    }

    /// The origin's number.
    pub fn origin(&self) -> usize {
        self.origin as usize
    }

    /// The origin at its other end, where that is one of an upstream.
    pub(crate) fn whose(&self) -> Option<Arc<Origin>> {
        self.pool.slots.borrow()[self.key].origin_id.whose().cloned()
    }

    /// Its target has answered after `us` microseconds.
    pub(crate) fn measured(&self, us: u32) {
        if let Some(target) = self.pool.slots.borrow()[self.key].origin_id.target() {
            target.measured(us);
        }
    }

    /// Where the exchange is counted, if it goes to an origin of an upstream.
    #[inline]
    pub(crate) fn account(&self) -> Option<Account> {
        self.pool.slots.borrow()[self.key].origin_id.account()
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
        self.pool.slots.borrow_mut()[self.key].expect_reply(&self.pool.heads);
    }

    /// Looks whether bytes of the answer, or its end, have come, and arranges to be woken by them.
    /// Nothing is lost where nobody looks again: the receive stays with the lease.
    pub fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(std::io::Result<usize>, HeadBuffer)> {
        let slot = &mut self.pool.slots.borrow_mut()[self.key];
        loop {
            let reply = slot.expect_reply(&self.pool.heads);
            let (received, buffer) = ready!(Pin::new(reply).poll(cx));
            match &received {
                // The sweep had told it to give its buffer back just before the checkout.
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {
                    slot.reply = Some(self.socket.start_recv(buffer));
                }
                _ => {
                    slot.reply = None;
                    return Poll::Ready((received, buffer));
                }
            }
        }
    }

    /// Waits for bytes of the answer. Where the sweep had told the receive to give its buffer back
    /// just before the checkout, it begins again by itself.
    pub fn recv(&mut self, limit: Duration) -> Answer<'_> {
        let slot = &mut self.pool.slots.borrow_mut()[self.key];
        let reply = slot.expect_reply(&self.pool.heads);
        let term = self.socket.limit_recv(reply, &self.pool.deadlines, limit);
        Answer { pool: &self.pool, key: self.key, term }
    }

    /// Waits for more of an answer of which `buffer` holds the beginning.
    pub fn recv_more(&mut self, buffer: HeadBuffer, limit: Duration) -> Answer<'_> {
        self.pool.slots.borrow_mut()[self.key].reply = Some(self.socket.start_recv(buffer));
        self.recv(limit)
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
    pub fn give_back_with(self, buffer: HeadBuffer) {
        debug_assert!(buffer.is_empty());
        // A receive would take what a session has to say by itself.
        if self.socket.is_plain() {
            let slot = &mut self.pool.slots.borrow_mut()[self.key];
            slot.reply = Some(self.socket.start_recv(buffer));
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

impl Slot {
    /// The receive for the next answer, which begins where it has not.
    #[inline]
    pub(super) fn expect_reply(&mut self, heads: &Rc<HeadPool>) -> &mut PendingRecv {
        let Self { reply, socket, .. } = self;
        reply.get_or_insert_with(|| socket.start_recv(heads.lease()))
    }
}

/// A wait for bytes of an answer.
pub struct Answer<'a> {
    pool: &'a Pool,
    key: usize,
    term: RecvTerm<'a>,
}

impl Future for Answer<'_> {
    type Output = (Result<usize, WaitError>, HeadBuffer);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { pool, key, term } = self.get_mut();
        term.poll(&mut pool.slots.borrow_mut()[*key].reply, cx)
    }
}
