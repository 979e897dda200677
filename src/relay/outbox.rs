//! Heads and other bytes that are built whole and sent at once.
//!
//! In go a socket and what builds the bytes; they are sent as far as the socket takes them, and out
//! comes the rest, which is counted for as long as a slow receiver has it wait. The space they are
//! built in is free again before anything waits.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::ledger::{Budget, Counted, Ledger};
use crate::ring::Socket;

/// What became of bytes that [`Outbox::send`] built.
pub(crate) struct Sent<T> {
    /// What the builder had to say.
    pub about: T,
    /// What the socket did not take at once.
    pub rest: Option<Counted>,
}

/// Why not all was sent.
pub(crate) enum Unsent<E> {
    /// The builder refused.
    Refused(E),
    /// The connection is broken.
    Broken,
    /// There is no memory for what its receiver does not take; some may have gone out, and the rest
    /// never will.
    NoMemory,
}

/// Where a worker builds what it sends.
pub(crate) struct Outbox {
    scratch: RefCell<Vec<u8>>,
    ledger: Arc<Ledger>,
    budget: Rc<Budget>,
}

impl Outbox {
    /// `bytes` are what a head mostly needs.
    pub(crate) fn new(bytes: usize, ledger: Arc<Ledger>, budget: Rc<Budget>) -> Self {
        Self { scratch: RefCell::new(Vec::with_capacity(bytes)), ledger, budget }
    }

    /// Builds bytes and sends what the socket takes of them at once.
    pub(crate) fn send<T, E>(
        &self,
        socket: &Socket,
        build: impl FnOnce(&mut Vec<u8>) -> Result<T, E>,
    ) -> Result<Sent<T>, Unsent<E>> {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        let about = build(&mut scratch).map_err(Unsent::Refused)?;
        let sent = match socket.try_send(&scratch) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(Unsent::Broken),
        };
        if sent == scratch.len() {
            return Ok(Sent { about, rest: None });
        }
        let rest = Counted::copy(&scratch[sent..], &self.ledger, &self.budget);
        Ok(Sent { about, rest: Some(rest.ok_or(Unsent::NoMemory)?) })
    }
}
