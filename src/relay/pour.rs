//! Sends what is held of a body, and keeps it: it may have to be sent again.
//!
//! In go the bytes that are held, where in the body they begin, and how they are framed on the way
//! out; out they go, as fast as they are taken. Whether there is more to come is not known here.

use super::Control;
use super::coding::{Decoder, Encoding};
use super::error::RelayError;
use super::held::Held;
use super::steps::add;
use super::waiting::{Receiver, Stall};
use crate::ring::clock;

/// Sends all that is held, which begins where `decoder` stands.
pub(crate) async fn pour(
    held: &Held,
    (mut decoder, encoding): (Decoder, Encoding),
    to: Receiver<'_>,
    control: &Control,
) -> Result<(), RelayError> {
    let (stall, began_ms) = (Stall::default(), clock::coarse_ms());
    let mut framed = Vec::new();
    for piece in held.pieces() {
        let bytes = if matches!(decoder, Decoder::Sized(_)) {
            piece
        } else {
            framed.clear();
            encoding.append(&mut decoder, piece, &mut framed).map_err(RelayError::Framing)?;
            &framed
        };
        let sent = to.send(bytes, &stall, began_ms, || control.is_over.get()).await;
        sent.map_err(RelayError::of_receiver)?;
        add(&control.sent, bytes.len());
    }
    Ok(())
}
