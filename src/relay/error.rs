//! Which side ended a transfer early, and how.
//!
//! In goes what a wait, a scanner or a socket has said; out comes one of a closed set, which
//! becomes a fault where the sides are known.

use crate::http::chunked::ChunkError;

/// Which side ended a transfer early, and how.
#[derive(Debug)]
pub(crate) enum RelayError {
    /// The sender ended its side before the body was complete.
    FromEnded,
    FromFailed,
    FromExpired,
    /// There was no memory to move bytes through for as long as a sender may be silent.
    NoChunk,
    ToFailed,
    ToExpired,
    /// Somebody ended the wait from outside.
    Interrupted,
    Framing(ChunkError),
    /// More payload than `payload_bytes_max`.
    TooLarge,
}
