//! Connecting to the first of several addresses that answers (Happy Eyeballs, RFC 8305 §5).
//!
//! In go addresses in the order in which they are to be tried; out comes one connected socket. The
//! next attempt begins when one fails, or a quarter of a second after the last began; the first to
//! connect wins, and the others are ended and awaited, so that nothing of them is left behind.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::address::Address;
use crate::fault::Fault;
use crate::ring::Socket;

use super::pool::{Pool, connect_fault, open_fault};

/// RFC 8305 §5, Connection Attempt Delay.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of one target that a single request tries.
const ADDRESSES_TRIED_MAX: usize = 8;

impl Pool {
    /// Connects within `timeouts.connect` for all attempts together. The socket is the caller's
    /// and has no slot yet.
    pub async fn dial(&self, addresses: &[SocketAddr]) -> Result<(Socket, Address), Fault> {
        let began = Instant::now();
        let mut waiting = addresses.iter().take(ADDRESSES_TRIED_MAX);
        let mut sockets: Vec<Socket> = Vec::new();
        let mut attempts = FuturesUnordered::new();
        let mut fault = Fault::OriginUnresolved;
        loop {
            if self.is_stopping.get() {
                fault = Fault::Stopping;
            }
            let left = self.limits.get().connect.saturating_sub(began.elapsed());
            let may_begin = !left.is_zero() && !self.is_stopping.get();
            if let Some(address) = waiting.next().filter(|_| may_begin) {
                let address = Address::Tcp(*address);
                match Socket::open(address, self.limits.get().keepalive) {
                    Ok(socket) => {
                        sockets.push(socket.clone());
                        attempts.push(self.attempt(socket, address, left));
                    }
                    Err(error) => fault = open_fault(&error),
                }
            } else if attempts.is_empty() {
                return Err(fault);
            }
            match first_of(&mut attempts, waiting.len() > 0).await {
                Some(Ok(connected)) => {
                    if !attempts.is_empty() {
                        for socket in &sockets {
                            socket.interrupt(&self.deadlines);
                        }
                    }
                    // One that connected all the same is closed by its drop.
                    while attempts.next().await.is_some() {}
                    return Ok(connected);
                }
                Some(Err(failed)) => fault = failed,
                None => {}
            }
        }
    }

    /// Has `socket`, which has no slot, interrupted when the pool is cut.
    pub fn watch(&self, socket: &Socket) -> Dial<'_> {
        Dial { pool: self, key: self.dials.borrow_mut().insert(socket.clone()) }
    }

    async fn attempt(
        &self,
        socket: Socket,
        address: Address,
        limit: Duration,
    ) -> Result<(Socket, Address), Fault> {
        let _dial = self.watch(&socket);
        let mut opening = Opening(Some(socket.clone()));
        match socket.connect(address, &self.deadlines, limit).await {
            Ok(()) => {
                opening.0 = None;
                Ok((socket, address))
            }
            Err(error) => Err(connect_fault(address, &error)),
        }
    }
}

/// A socket that is on its way to a target; dropping it ends the watch, not the socket.
pub struct Dial<'a> {
    pool: &'a Pool,
    key: usize,
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        self.pool.dials.borrow_mut().remove(self.key);
    }
}

/// A socket that is being connected; dropping it meanwhile ends the attempt, which else would keep
/// the descriptor open for as long as the kernel tries.
struct Opening(Option<Socket>);

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.cut();
        }
    }
}

/// What the first attempt to end came to; `None` where there `is_another` to begin first.
pub(super) async fn first_of<F: Future>(
    attempts: &mut FuturesUnordered<F>,
    is_another: bool,
) -> Option<F::Output> {
    let mut delay = std::pin::pin!(tokio::time::sleep(ATTEMPT_DELAY));
    poll_fn(|cx| match attempts.poll_next_unpin(cx) {
        Poll::Ready(ended) => Poll::Ready(ended),
        Poll::Pending if is_another && delay.as_mut().poll(cx).is_ready() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}
