//! One client connection: a request, an answer, and so on until one side has had enough.
//!
//! In goes an accepted socket; the task has its protocol ([`h1`]) converse with the client, and
//! ends the connection for exactly one reason ([`Close`]). A connection that is idle for a second
//! gives its buffers back and waits on a poll: what it then holds is a small task and a deadline.

mod h1;
mod h2;
mod handshake;
mod introduction;
mod leave;
mod socks;

use self::h1::{Pause, converse, future_bytes, turn_away};
use crate::exchange::tunnel;
use crate::fault::Close;
use crate::ledger::Kind;
use crate::observe::connection_stats::Phase;
use crate::ring::{WaitError, clock};
use crate::worker::slot::ConnectionSlot;

/// Serves one client connection to its end.
///
/// What this future holds across its waits is what an idle connection costs, so it holds little:
/// the slot, and either a box or a wait. An `async fn` would hold its argument twice.
#[expect(clippy::manual_async_fn, reason = "its future is larger")]
pub(crate) fn serve(slot: ConnectionSlot) -> impl Future<Output = ()> + 'static {
    async move {
        let begun = if slot.proxy_protocol().is_some() || handshake::is_due(&slot) {
            Box::pin(begin(&slot)).await
        } else {
            Ok(())
        };
        let close = loop {
            if let Err(close) = begun {
                break close;
            }
            if slot.is_new() && h2::is_chosen(&slot) {
                break Box::pin(h2::serve(&slot, Vec::new())).await;
            }
            let is_socks = slot.is_new() && speaks_socks(&slot);
            let bytes = if is_socks {
                future_bytes(socks::converse)
            } else {
                future_bytes(converse::<false>)
            };
            let Some(busy) = slot.begin(bytes, Kind::Connections) else {
                Box::pin(turn_away(&slot)).await;
                break Close::Refused;
            };
            // Boxed so that an idle connection does not carry the room for a busy one.
            let pause = if is_socks {
                Box::pin(socks::converse(&slot)).await
            } else {
                Box::pin(converse::<false>(&slot)).await
            };
            drop(busy);
            let spent = match pause {
                Pause::Closed(close) => break close,
                // What the conversation held has been given back.
                Pause::Tunnel(tunnel) => {
                    let _busy = slot.hold(tunnel::TUNNEL_BYTES, Kind::Tunnels);
                    break Box::pin(tunnel::run(&slot, tunnel)).await;
                }
                Pause::Http2(early) => break Box::pin(h2::serve(&slot, early)).await,
                Pause::Parked(spent) => spent,
            };
            if slot.worker().closes_idle.get() {
                break Close::Stopping;
            }
            let woken = slot.park(spent).await;
            slot.set_parked(false);
            match woken {
                Ok(_) => {}
                Err(WaitError::Expired) => break Close::Idle,
                Err(WaitError::Interrupted) if slot.gives_way() => break Close::GaveWay,
                // A drain ends what is idle; what has arrived in the meantime is still answered.
                Err(WaitError::Interrupted) => match slot.socket().try_peek(&mut [0]) {
                    Ok(1..) if !slot.stats().is_cut() => {}
                    _ => break Close::Stopping,
                },
                Err(WaitError::Failed(_)) => break Close::ClientGone,
            }
        };
        tracing::trace!(?close, "a client connection ends");
        handshake::count_broken(&slot);
        let is_lingering = lingers(close, &slot);
        if !is_lingering && close.is_orderly() {
            take_leave(&slot, close).await;
        }
        if is_lingering {
            slot.stats().enter(Phase::Linger, clock::coarse_ms());
            Box::pin(leave::linger(slot.worker(), slot.socket())).await;
        }
    }
}

/// Whether what the client still sends is to be read first.
fn lingers(close: Close, slot: &ConnectionSlot) -> bool {
    match close {
        Close::Refused | Close::Handshake => true,
        // Unread input would turn the close into a reset, which can take the answer's tail with
        // it (RFC 9112 §9.6).
        Close::Answered => matches!(slot.socket().try_peek(&mut [0]), Ok(1..)),
        Close::Cut
        | Close::ClientDone
        | Close::Idle
        | Close::ClientGone
        | Close::GaveWay
        | Close::NotIntroduced
        | Close::Stopping => false,
    }
}

/// Tells a client with a session that it has got all that it was to get. One that was answered is
/// waited for.
async fn take_leave(slot: &ConnectionSlot, close: Close) {
    let (socket, worker) = (slot.socket(), slot.worker());
    if close != Close::Answered {
        socket.say_goodbye();
    } else if !socket.is_plain() {
        let patience = worker.generation().config.timeouts.write;
        Box::pin(socket.take_leave(&worker.deadlines, patience)).await;
    }
}

/// What a connection begins with before the first request: a PROXY protocol header, a handshake.
async fn begin(slot: &ConnectionSlot) -> Result<(), Close> {
    if let Some(accepted) = slot.proxy_protocol() {
        introduction::introduce(slot, accepted).await?;
    }
    if handshake::is_due(slot) {
        handshake::accept(slot).await?;
    }
    Ok(())
}

/// Whether it came in by a listener at which SOCKS is spoken.
fn speaks_socks(slot: &ConnectionSlot) -> bool {
    slot.worker().generation().access.is_socks(slot.listener())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::plan::CONVERSATION_BYTES;

    #[test]
    fn an_idle_connection_is_a_small_task() {
        fn size_of_output<F>(_: impl Fn(ConnectionSlot) -> F) -> usize {
            size_of::<F>()
        }
        // The runtime adds 104 bytes and rounds up to a multiple of 128.
        assert!(size_of_output(serve) + 104 <= 256, "{}", size_of_output(serve));
    }

    #[test]
    fn a_conversation_is_no_larger_than_planned() {
        let bytes = future_bytes(converse::<false>) as u64;
        // With a margin for what its heads' lists allocate, and less than twice what is needed.
        assert!(bytes + bytes / 10 <= CONVERSATION_BYTES, "{bytes}");
        assert!(bytes * 2 > CONVERSATION_BYTES, "{bytes}");
    }
}
