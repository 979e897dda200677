//! What comes of an exchange, and of one attempt at it.
//!
//! In goes how a part of it ended; out comes what may follow: another request on the connection,
//! another attempt, or neither. Nothing here waits.

use crate::exchange::tunnel::Tunnel;
use crate::fault::Close;

/// What becomes of the client's connection.
pub(crate) enum Outcome {
    Reuse,
    Close(Close),
    /// It is no connection for HTTP any more.
    Tunnel(Box<Tunnel>),
}
