//! Which side of an exchange a socket is, and what it means that a wait for it has failed.
//!
//! In goes how a wait or a transfer ended, with the side that was waited for or sent; out comes the
//! fault of the exchange. What may be tried again in spite of it is the caller's affair.

use std::io;

use crate::fault::Fault;
use crate::observe::log_limit;
use crate::relay::error::RelayError;
use crate::ring::WaitError;

/// A side of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Origin,
}

/// What a side was waited for to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Only an origin is connected to.
    Connect,
    /// To take what it is sent.
    Take,
    /// To send the rest of what it has begun.
    Send,
}

impl WaitError {
    /// The fault of an exchange that has waited in vain for `side` to `act`.
    pub(crate) fn on(&self, side: Side, act: Act) -> Fault {
        match (side, act, self) {
            // Part of a response is out: the client can be told nothing else any more.
            (Side::Client, Act::Take, Self::Interrupted) | (Side::Client, _, Self::Failed(_)) => {
                Fault::ClientGone
            }
            (_, _, Self::Interrupted) => Fault::Stopping,
            (Side::Client, Act::Take, Self::Expired) => Fault::ClientWriteTimeout,
            (Side::Client, _, Self::Expired) => Fault::ClientBodyTimeout,
            (Side::Origin, Act::Connect, Self::Failed(error)) => connect_fault(error),
            (Side::Origin, Act::Connect, Self::Expired) => Fault::OriginConnectTimeout,
            (Side::Origin, _, Self::Failed(_)) => Fault::OriginTruncated,
            (Side::Origin, Act::Take, Self::Expired) => Fault::OriginWriteTimeout,
            (Side::Origin, Act::Send, Self::Expired) => Fault::OriginReadTimeout,
        }
    }
}

/// Why an origin could not be connected to.
fn connect_fault(error: &io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Fault::OriginRefused,
        Some(libc::ECONNRESET | libc::EPIPE) => Fault::OriginClosed,
        Some(libc::ETIMEDOUT) => Fault::OriginConnectTimeout,
        Some(libc::EADDRNOTAVAIL) => {
            log_limit::no_free_port(error);
            Fault::OriginUnreachable
        }
        _ => Fault::OriginUnreachable,
    }
}

impl RelayError {
    /// The fault of an exchange whose body came `from` this side, for the other one.
    pub(crate) fn of_body(&self, from: Side) -> Fault {
        match (self, from) {
            (Self::Interrupted, _) => Fault::Stopping,
            (Self::NoChunk, _) => Fault::Overloaded,
            (Self::FromEnded, Side::Client) => Fault::ClientBodyIncomplete,
            (Self::FromFailed, Side::Client) | (Self::ToFailed, Side::Origin) => Fault::ClientGone,
            (Self::FromExpired, Side::Client) => Fault::ClientBodyTimeout,
            (Self::Framing(error), Side::Client) => Fault::ClientChunk(*error),
            (Self::TooLarge, Side::Client) => Fault::ClientBodyTooLarge,
            (Self::ToExpired, Side::Client) => Fault::OriginWriteTimeout,
            (Self::ToFailed, Side::Client) | (Self::FromEnded | Self::FromFailed, Side::Origin) => {
                Fault::OriginTruncated
            }
            (Self::FromExpired, Side::Origin) => Fault::OriginReadTimeout,
            (Self::Framing(error), Side::Origin) => Fault::OriginChunk(*error),
            (Self::File, _) | (Self::TooLarge, Side::Origin) => Fault::Internal,
            (Self::ToExpired, Side::Origin) => Fault::ClientWriteTimeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_that_was_waited_for_is_to_blame() {
        let failed = || WaitError::Failed(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        let cases = [
            (Side::Client, Act::Send, failed(), Fault::ClientGone),
            (Side::Client, Act::Send, WaitError::Expired, Fault::ClientBodyTimeout),
            (Side::Client, Act::Take, WaitError::Expired, Fault::ClientWriteTimeout),
            (Side::Client, Act::Send, WaitError::Interrupted, Fault::Stopping),
            (Side::Client, Act::Take, WaitError::Interrupted, Fault::ClientGone),
            (Side::Origin, Act::Connect, failed(), Fault::OriginRefused),
            (Side::Origin, Act::Connect, WaitError::Expired, Fault::OriginConnectTimeout),
            (Side::Origin, Act::Take, WaitError::Expired, Fault::OriginWriteTimeout),
            (Side::Origin, Act::Send, WaitError::Expired, Fault::OriginReadTimeout),
            (Side::Origin, Act::Send, failed(), Fault::OriginTruncated),
            (Side::Origin, Act::Take, WaitError::Interrupted, Fault::Stopping),
        ];
        for (side, act, error, fault) in cases {
            assert_eq!(error.on(side, act), fault, "{side:?} {act:?} {error:?}");
        }
    }

    #[test]
    fn a_body_that_its_receiver_does_not_take_is_the_receivers_fault() {
        let cases = [
            (RelayError::ToFailed, Fault::OriginTruncated, Fault::ClientGone),
            (RelayError::ToExpired, Fault::OriginWriteTimeout, Fault::ClientWriteTimeout),
            (RelayError::FromFailed, Fault::ClientGone, Fault::OriginTruncated),
            (RelayError::FromExpired, Fault::ClientBodyTimeout, Fault::OriginReadTimeout),
            (RelayError::FromEnded, Fault::ClientBodyIncomplete, Fault::OriginTruncated),
            (RelayError::Interrupted, Fault::Stopping, Fault::Stopping),
        ];
        for (broken, upward, downward) in cases {
            assert_eq!(broken.of_body(Side::Client), upward, "{broken:?}");
            assert_eq!(broken.of_body(Side::Origin), downward, "{broken:?}");
        }
    }
}
