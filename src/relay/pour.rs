//! Sends what is held of a body, and keeps it: it may have to be sent again.
//!
//! In go the bytes that are held, in memory and in a file, where in the body they begin, and how
//! they are framed on the way out; out they go, as fast as they are taken, in turns with the others
//! of the thread. Whether there is more to come is not known here. A framing is made anew after
//! each wait, so that a slow receiver costs no memory.

use std::io;

use super::coding::{Decoder, Encoding};
use super::error::RelayError;
use super::held::Held;
use super::steps::add;
use super::stored::{Overflow, Stored};
use super::waiting::{Receiver, Stall};
use super::{Control, TURN_BYTES, scratch};
use crate::ring::clock;
use crate::ring::waits::turn;

/// Sends all that is held, which begins where `decoder` stands.
pub(crate) async fn pour(
    held: &Stored,
    (mut decoder, encoding): (Decoder, Encoding),
    to: Receiver<'_>,
    control: &Control,
) -> Result<(), RelayError> {
    pour_pieces(&held.front, (&mut decoder, encoding), to, control).await?;
    if let Some(overflow) = &held.overflow {
        let window = held.take_window().ok_or(RelayError::NoChunk)?;
        let poured = pour_file(overflow, window, (&mut decoder, encoding), to, control);
        held.give_window_back(poured.await?);
        pour_pieces(&overflow.tail, (&mut decoder, encoding), to, control).await?;
    }
    Ok(())
}

/// Sends what is in the file, through `window`, which comes back.
async fn pour_file(
    overflow: &Overflow,
    mut window: Held,
    (decoder, encoding): (&mut Decoder, Encoding),
    to: Receiver<'_>,
    control: &Control,
) -> Result<Held, RelayError> {
    let (mut at, end, file) = (0, overflow.written, overflow.file.handle());
    while at < end {
        let count = file.read(&mut window, at, end - at).await.ok_or(RelayError::File)?;
        pour_pieces(&window, (&mut *decoder, encoding), to, control).await?;
        window.clear();
        at += count;
    }
    Ok(window)
}

async fn pour_pieces(
    held: &Held,
    (decoder, encoding): (&mut Decoder, Encoding),
    to: Receiver<'_>,
    control: &Control,
) -> Result<(), RelayError> {
    let (stall, began_ms) = (Stall::default(), clock::coarse_ms());
    let mut turn_bytes = 0;
    for piece in held.pieces() {
        let (before, mut piece_sent) = (*decoder, 0);
        loop {
            if turn_bytes >= TURN_BYTES {
                turn_bytes = 0;
                turn().await;
            }
            if control.is_over.get() {
                return Err(RelayError::Interrupted);
            }
            let poured = if matches!(before, Decoder::Sized(_)) {
                part(to, piece, piece_sent)
            } else {
                scratch::with(|scratch| {
                    *decoder = before;
                    let framed = encoding.append(decoder, piece, &mut scratch.framed);
                    framed.map_err(RelayError::Framing)?;
                    part(to, &scratch.framed, piece_sent)
                })
            };
            match poured? {
                Poured::All(count) => {
                    stall.end();
                    add(&control.sent, count);
                    turn_bytes += count;
                    break;
                }
                Poured::Some(count) => {
                    stall.end();
                    add(&control.sent, count);
                    (piece_sent, turn_bytes) = (piece_sent + count, turn_bytes + count);
                }
                Poured::Nothing => {
                    turn_bytes = 0;
                    let wait = to.writable(&stall, began_ms, || control.is_over.get()).await;
                    wait.map_err(RelayError::of_receiver)?;
                }
            }
        }
    }
    Ok(())
}

/// How much of a piece was taken at once.
enum Poured {
    All(usize),
    Some(usize),
    Nothing,
}

/// Sends `bytes` from `start` on as far as they are taken.
fn part(to: Receiver<'_>, bytes: &[u8], start: usize) -> Result<Poured, RelayError> {
    let rest = &bytes[start..];
    if rest.is_empty() {
        return Ok(Poured::All(0));
    }
    match to.socket.try_send(rest) {
        Ok(count) if count == rest.len() => Ok(Poured::All(count)),
        Ok(count) => Ok(Poured::Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Poured::Nothing),
        Err(_) => Err(RelayError::ToFailed),
    }
}
