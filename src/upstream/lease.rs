//! A connection in the hands of one exchange.
//!
//! In goes what the pool has found or opened; the exchange sends on its socket, waits for the answer
//! through it, and gives it back when the answer has been read to its end. Dropped instead, the
//! connection is closed.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::ring::{HeadBuffer, PendingRecv, Socket, Waited};

use super::pool::{Link, Pool};

/// A connection to an origin, held by one exchange. Dropping it closes the connection.
pub struct Lease {
    pub(super) pool: Rc<Pool>,
    pub(super) key: usize,
    /// `Some` until the connection is given back.
    pub(super) link: Option<Link>,
    pub(super) reply: Option<PendingRecv>,
    /// It has carried an exchange before, so that the origin may be closing it just now.
    pub is_reused: bool,
    /// When connecting began, where that was for this exchange.
    pub connect_began: Option<Instant>,
}

impl Lease {
    pub fn socket(&self) -> &Socket {
        &self.link().socket
    }

    pub fn origin(&self) -> usize {
        self.link().origin
    }

    pub fn address(&self) -> SocketAddr {
        self.link().address
    }

    fn link(&self) -> &Link {
        self.link.as_ref().expect("a lease has its link until give_back consumes it")
    }

    /// Makes sure that the receive for the answer is pending.
    pub fn expect_reply(&mut self) {
        if self.reply.is_none() {
            self.reply = Some(self.socket().start_recv(self.pool.heads.lease()));
        }
    }

    /// Waits for bytes of the answer.
    pub async fn recv(&mut self, limit: Duration) -> (Result<usize, Waited>, HeadBuffer) {
        self.expect_reply();
        let reply = self.reply.take().expect("expect_reply has begun one");
        // Where the sweep has told it to give its buffer back just before the checkout, it begins
        // again by itself.
        self.socket().finish_recv(reply, &self.pool.deadlines, limit).await
    }

    /// Waits for more of an answer of which `buffer` holds the beginning.
    pub async fn recv_more(
        &mut self,
        buffer: HeadBuffer,
        limit: Duration,
    ) -> (Result<usize, Waited>, HeadBuffer) {
        self.socket().recv(buffer, &self.pool.deadlines, limit).await
    }

    /// Returns a connection on which the last answer has been read to its end. `buffer` is lent to
    /// the receive for the next one.
    pub fn give_back_with(mut self, buffer: HeadBuffer) {
        debug_assert!(buffer.is_empty());
        self.reply = Some(self.socket().start_recv(buffer));
        self.give_back();
    }

    /// Returns a connection on which nothing is outstanding.
    pub fn give_back(self) {
        let pool = self.pool.clone();
        pool.give_back(self);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else { return };
        // Ends a pending receive, which holds the descriptor open as long as it is pending.
        link.socket.cut();
        self.pool.slots.borrow_mut().try_remove(self.key);
    }
}
