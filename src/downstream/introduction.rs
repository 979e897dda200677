//! Who a connection is for, by the PROXY protocol, before the first request on it.
//!
//! In goes a connection whose listener takes such headers; out comes nothing but a slot that knows
//! the client, or why the connection ends. The header is taken off the socket to its last byte and
//! no further, has one deadline, and is believed from trusted peers alone: anybody else is let go
//! without an answer, since whoever has no header to send does not speak HTTP here either.

use std::io;
use std::time::Instant;

use crate::fault::Close;
use crate::observe::connection_stats::Phase;
use crate::observe::log_limit;
use crate::proxy_protocol::{self, Accepted, LOOKED_AT_MAX, Mistake, Progress, REFUSALS};
use crate::ring::{WaitError, clock};
use crate::worker::slot::ConnectionSlot;

/// Why a connection was not taken, in the order of [`REFUSALS`].
#[derive(Clone, Copy)]
enum Stranger {
    Untrusted,
    Missing,
    Invalid,
    TimedOut,
}

/// Waits for the header, if the listener takes one.
pub(super) async fn introduce(slot: &ConnectionSlot, accepted: Accepted) -> Result<(), Close> {
    let generation = slot.worker().generation();
    let config = &generation.config;
    if !config.server.trusted_proxies.has(slot.peer().client()) {
        return Err(turn_off(slot, Stranger::Untrusted));
    }
    slot.stats().enter(Phase::Head, clock::coarse_ms());
    let deadline = Instant::now() + config.timeouts.client_head;
    let mut header = [0; LOOKED_AT_MAX];
    // Bytes of it that have been taken off the socket.
    let mut taken = 0;
    loop {
        let seen = match slot.socket().try_peek(&mut header[taken..]) {
            Ok(0) => return Err(Close::ClientGone),
            Ok(seen) => seen,
            Err(error) => {
                wait_after(slot, &error, deadline).await?;
                continue;
            }
        };
        match proxy_protocol::read(&header[..taken + seen], accepted) {
            Ok(Progress::Whole(bytes, client)) => {
                take(slot, bytes - taken, deadline).await?;
                if let Some(client) = client {
                    slot.introduce(client);
                }
                return Ok(());
            }
            // All of what is not enough belongs to it.
            Ok(Progress::Needs(_)) => {
                take(slot, seen, deadline).await?;
                taken += seen;
            }
            Err(Mistake::Missing) => return Err(turn_off(slot, Stranger::Missing)),
            Err(Mistake::Invalid) => return Err(turn_off(slot, Stranger::Invalid)),
        }
    }
}

/// Takes so many bytes off the socket; those behind the addresses may be still on their way.
async fn take(slot: &ConnectionSlot, mut count: usize, deadline: Instant) -> Result<(), Close> {
    while count > 0 {
        match slot.socket().try_discard(count) {
            Ok(0) => return Err(Close::ClientGone),
            Ok(taken) => count -= taken,
            Err(error) => wait_after(slot, &error, deadline).await?,
        }
    }
    Ok(())
}

/// Waits for bytes where none have come yet.
async fn wait_after(
    slot: &ConnectionSlot,
    error: &io::Error,
    deadline: Instant,
) -> Result<(), Close> {
    if error.kind() != io::ErrorKind::WouldBlock {
        return Err(Close::ClientGone);
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(turn_off(slot, Stranger::TimedOut));
    }
    match slot.socket().readable(&slot.worker().deadlines, left).await {
        Ok(_) => Ok(()),
        Err(WaitError::Expired) => Err(turn_off(slot, Stranger::TimedOut)),
        Err(WaitError::Interrupted) if slot.stats().is_cut() => Err(Close::Cut),
        Err(WaitError::Interrupted) if slot.gives_way() => Err(Close::GaveWay),
        Err(WaitError::Interrupted) => Err(Close::Stopping),
        Err(WaitError::Failed(_)) => Err(Close::ClientGone),
    }
}

/// Counts a connection that is not taken, and says so.
fn turn_off(slot: &ConnectionSlot, stranger: Stranger) -> Close {
    slot.worker().metrics.not_introduced[stranger as usize].add(1);
    log_limit::not_introduced(slot.peer(), REFUSALS[stranger as usize]);
    Close::NotIntroduced
}
