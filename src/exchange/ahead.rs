//! The body of an answer that its route buffers: its origin's connection is free before a slow
//! client has taken all of it.
//!
//! In goes an answer whose head has been sent, with the connection that it comes on; out comes
//! whether the client has got all of it. The connection goes back as soon as the body has come to
//! its end. Where memory is short, the rest goes on as that of a route that buffers nothing.

use std::cell::Cell;

use crate::exchange::peer::Peer;
use crate::exchange::request::Request;
use crate::exchange::stream::{Body, ClientStream};
use crate::memory::Pressure;
use crate::observe::connection_stats::WaitsOn;
use crate::relay::ahead::Come;
use crate::relay::held::Held;
use crate::relay::spool::Terms;
use crate::relay::{Control, Leftover, RelayError, Sender, Transfer};
use crate::worker::slot::Reached;

/// What is to be held of an answer's body, which begins with what the client has not taken with the
/// head; `None` where that is nothing.
pub(super) fn begin<S>(request: &Request<'_, S>, buffer: u64, rest: Option<&[u8]>) -> Option<Held> {
    let worker = request.peer.worker;
    if buffer == 0 || worker.shared.pressure.get() != Pressure::Normal {
        return None;
    }
    let mut held = Held::new(buffer, (&worker.ledger, &worker.budget));
    held.push(rest.unwrap_or_default()).then_some(held)
}

/// Passes the rest of the body on through `held`. `finish` ends the exchange on the connection.
pub(super) async fn pass(
    request: &Request<'_, impl ClientStream>,
    (lease, held): (Reached<'_>, Held),
    body: &Body,
    control: &Control,
    finish: impl Fn(Reached<'_>, Leftover),
) -> Result<(), RelayError> {
    let Peer { worker, stats, generation, times, .. } = &request.peer;
    let config = &generation.config;
    let origin = lease.socket().clone();
    let lease = Cell::new(Some(lease));
    // One that has failed is closed at once too, however much its client has still to take.
    let has_come = |leftover: Option<Leftover>| {
        if let (Some(lease), Some(leftover)) = (lease.take(), leftover) {
            finish(lease, leftover);
        }
    };
    let from = Sender {
        socket: &origin,
        silence: times.read,
        stats: (stats, WaitsOn::OriginToAnswer),
        flow: &stats.sent,
    };
    let transfer =
        Transfer::new(worker.means(), &config.buffers, from, request.receiver(), control);
    let terms = Terms::of(&worker.shared.spool, &config.buffers);
    let rest = (body.decoder, body.encoding);
    if let Come::Some(decoder) = transfer.run_ahead(rest, (held, terms), &has_come).await? {
        has_come(Some(transfer.run(decoder, body.encoding).await?));
    }
    let ended = request.stream.end_body(request, body.encoding).await? as u64;
    control.sent.set(control.sent.get() + ended);
    Ok(())
}
