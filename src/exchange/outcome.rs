//! What comes of an exchange, and of one attempt at it.
//!
//! In goes how a part of it ended; out comes what may follow: another request on the connection,
//! another attempt, or neither. Nothing here waits.

use crate::exchange::tunnel::Tunnel;
use crate::fault::{Close, Fault};

/// What becomes of the client's connection.
pub enum Outcome {
    Reuse,
    Close(Close),
    /// It is no connection for HTTP any more.
    Tunnel(Box<Tunnel>),
}

/// How one attempt on one connection failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AttemptError {
    /// The connection was dead: not a byte of the request went out.
    NotSent,
    /// The connection died before a byte of an answer.
    NoResponse,
    /// The answer is one after which the route wants another attempt.
    RetryRequested,
    Fault(Fault),
}

impl From<Fault> for AttemptError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl AttemptError {
    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::NotSent | Self::NoResponse | Self::RetryRequested => Fault::OriginClosed,
            Self::Fault(fault) => fault,
        }
    }
}
