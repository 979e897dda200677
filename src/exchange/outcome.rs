//! What comes of an exchange.
//!
//! In goes how an exchange ended; out comes what the client has got of its response. Whether its
//! connection goes on is for the client's protocol to say. Nothing here waits.

use crate::exchange::tunnel::Tunnel;
use crate::fault::Fault;

/// What the client has got.
pub(crate) enum Outcome {
    /// A whole response.
    Complete,
    /// None, or a part of one, for this reason.
    CutShort(Fault),
    /// A tunnel: no request can follow.
    Tunnel(Box<Tunnel>),
}
