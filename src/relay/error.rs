//! Which side ended a transfer early, and how.
//!
//! In goes what a wait, a scanner or a socket has said; out comes one of a closed set, which
//! becomes a fault where the sides are known.

use crate::http::chunked::ChunkError;
use crate::ring::WaitError;

/// Which side ended a transfer early, and how.
#[derive(Debug)]
pub(crate) enum RelayError {
    /// The sender ended its side before the body was complete.
    FromEnded,
    FromFailed,
    FromExpired,
    /// There was no memory to move bytes through for as long as a sender may be silent.
    NoChunk,
    /// What was held in a temporary file cannot be read.
    File,
    ToFailed,
    ToExpired,
    /// Somebody ended the wait from outside.
    Interrupted,
    Framing(ChunkError),
    /// More payload than `payload_bytes_max`.
    TooLarge,
}

impl RelayError {
    /// What a wait for the sender has come to.
    pub(crate) fn of_sender(error: WaitError) -> Self {
        match error {
            WaitError::Expired => Self::FromExpired,
            WaitError::Interrupted => Self::Interrupted,
            WaitError::Failed(_) => Self::FromFailed,
        }
    }

    /// What a wait for the receiver has come to.
    pub(crate) fn of_receiver(error: WaitError) -> Self {
        match error {
            WaitError::Expired => Self::ToExpired,
            WaitError::Interrupted => Self::Interrupted,
            WaitError::Failed(_) => Self::ToFailed,
        }
    }
}
