//! How a connection is left whose client may still send, or read.
//!
//! In go connections of which nothing more is wanted; what their clients go on sending is thrown
//! away, because unread input would turn the close into a reset, which can take the end of an
//! answer with it (RFC 9112 §9.6). Each wait has its end.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::ring::waits::turn;
use crate::ring::{Socket, WaitError};
use crate::worker::Worker;
use crate::worker::slot::ConnectionSlot;

/// How long a refused client may go on sending. Many read the answer only when they have sent all
/// of an upload, so that its size is no measure.
const LINGER: Duration = Duration::from_secs(30);
/// The same while new clients wait for a place.
const LINGER_CROWDED: Duration = Duration::from_secs(5);
const LINGER_SILENCE: Duration = Duration::from_secs(2);
/// Whoever has heard that the connection ends ends it, or opens windows for what it still reads.
const SILENCE: Duration = Duration::from_secs(1);
/// Nothing tells of acknowledgements.
const SEEN_OFF_EVERY: Duration = Duration::from_millis(50);
/// What is thrown away before others have a turn.
const DISCARDED_AT_ONCE: usize = 16 * 1024 * 1024;

/// Says that nothing more will come, and has a client that was refused read why.
pub(super) async fn linger(worker: &Worker, socket: &Socket) {
    let began = Instant::now();
    let may_go_on = || {
        let is_crowded = worker.shared.clients.available_permits() == 0;
        let limit = if is_crowded { LINGER_CROWDED } else { LINGER };
        began.elapsed() < limit && !worker.closes_idle.get()
    };
    let_end(worker, socket, LINGER_SILENCE, may_go_on).await;
}

/// Waits until the client's kernel has what it was sent.
pub(super) async fn see_off(slot: &ConnectionSlot) {
    let (socket, worker) = (slot.socket(), slot.worker());
    let patience = worker.generation().config.timeouts.client_write;
    let (mut left, mut since) = (socket.unacknowledged(), Instant::now());
    while left > 0 && since.elapsed() < patience && !slot.stats().is_cut() {
        match socket.try_discard(DISCARDED_AT_ONCE) {
            Ok(0) => return,
            Ok(_) => turn().await,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let waited = socket.readable(&worker.deadlines, SEEN_OFF_EVERY).await;
                if matches!(waited, Err(WaitError::Failed(_))) {
                    return;
                }
            }
            Err(_) => return,
        }
        let now = socket.unacknowledged();
        if now < left {
            since = Instant::now();
        }
        left = now;
    }
}

/// Says that nothing more will come, and waits until the client ends its side: what its kernel has
/// it may still read, and open windows for that. A reset would have it fail there.
pub(super) async fn wait_for_client(slot: &ConnectionSlot) {
    let worker = slot.worker();
    let patience = worker.generation().config.timeouts.client_write;
    let began = Instant::now();
    let may_go_on = || began.elapsed() < patience && !slot.stats().is_cut();
    let_end(worker, slot.socket(), SILENCE, may_go_on).await;
}

/// Says that nothing more will come, and throws away what does until the client ends its side, is
/// silent for as long as `silence`, or `may_go_on` no longer.
async fn let_end(
    worker: &Worker,
    socket: &Socket,
    silence: Duration,
    may_go_on: impl Fn() -> bool,
) {
    socket.take_leave(&worker.deadlines, silence).await;
    socket.finish_sending();
    while may_go_on() {
        match socket.try_discard(DISCARDED_AT_ONCE) {
            Ok(1..) => turn().await,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if socket.readable(&worker.deadlines, silence).await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => return,
        }
    }
}
