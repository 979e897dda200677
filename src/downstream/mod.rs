//! One client connection: a request, an answer, and so on until one side has had enough.
//!
//! In goes an accepted socket; the task reads heads, hands each to [`exchange`], and ends the
//! connection for exactly one reason ([`Close`]). A connection that is idle for a second gives its
//! buffers back and waits on a poll: what it then holds is a small task and a deadline.

mod socks;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::exchange::outcome::Outcome;
use crate::exchange::request::Client;
use crate::exchange::tunnel::{self, Tunnel};
use crate::exchange::{self, respond};
use crate::fault::{Close, Fault};
use crate::http::forwarded_header::{ClientText, Scheme};
use crate::http::head::{HeadError, RequestHead, ResponseHead};
use crate::http::written_cache::WrittenCache;
use crate::ledger::Kind;
use crate::observe::connection_stats::{Moment, Phase};
use crate::ring::waits::turn;
use crate::ring::{NoRoom, Socket, WaitError, clock};
use crate::worker::Worker;
use crate::worker::generation::Generation;
use crate::worker::slot::ConnectionSlot;

/// Silence after which a connection gives its buffers back. A busy client is never that slow, and
/// an idle one costs a turn of the loop more when it wakes.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// While more head buffers than this are out, a connection gives its own back at once: ten thousand
/// clients would hold 100 MB for that second.
const HELD_HEAD_BUFFERS_MAX: usize = 2048;

/// Requests that are answered in one go where the client did not wait for the answers.
const PIPELINED_MAX: usize = 16;

/// Serves one client connection to its end.
///
/// What this future holds across its waits is what an idle connection costs, so it holds little:
/// the slot, and either a box or a wait. An `async fn` would hold its argument twice.
#[expect(clippy::manual_async_fn, reason = "its future is larger")]
pub(crate) fn serve(slot: ConnectionSlot) -> impl Future<Output = ()> + 'static {
    async move {
        let close = loop {
            let Some(busy) = slot.begin(future_bytes(converse), Kind::Connections) else {
                Box::pin(respond::turn_away(&slot)).await;
                break Close::Refused;
            };
            // Boxed so that an idle connection does not carry the room for a busy one.
            let pause = Box::pin(converse(&slot)).await;
            drop(busy);
            let spent = match pause {
                Pause::Closed(close) => break close,
                // What the conversation held has been given back.
                Pause::Tunnel(tunnel) => {
                    let _busy = slot.hold(tunnel::TUNNEL_BYTES, Kind::Tunnels);
                    break Box::pin(tunnel::run(&slot, tunnel)).await;
                }
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
        let is_lingering = match close {
            Close::Refused => true,
            // Unread input would turn the close into a reset, which can take the answer's tail with
            // it (RFC 9112 §9.6).
            Close::Answered => matches!(slot.socket().try_peek(&mut [0]), Ok(1..)),
            Close::Cut
            | Close::ClientDone
            | Close::Idle
            | Close::ClientGone
            | Close::GaveWay
            | Close::Stopping => false,
        };
        if is_lingering {
            slot.stats().enter(Phase::Linger, clock::coarse_ms());
            Box::pin(linger(slot.worker(), slot.socket())).await;
        }
    }
}

/// The size of the future that `conversation` makes. Asking a future itself would keep room for it
/// in the one that asks.
fn future_bytes<'a, F>(conversation: impl Fn(&'a ConnectionSlot) -> F) -> usize {
    let _ = conversation;
    size_of::<F>()
}

/// Why a conversation paused.
enum Pause {
    /// After so much of the silence that it may keep.
    Parked(Duration),
    Closed(Close),
    Tunnel(Box<Tunnel>),
}

async fn converse(slot: &ConnectionSlot) -> Pause {
    let worker = slot.worker();
    let address = slot.peer().ip().to_canonical();
    let mut client = Client {
        worker,
        slot,
        generation: worker.generation(),
        socket: slot.socket(),
        peer: slot.peer(),
        stats: slot.stats(),
        holder: slot.holder(),
        inbox: worker.heads.lease(),
        request: RequestHead::new(),
        sent_request: RefCell::new(WrittenCache::nothing()),
        response: ResponseHead::new(),
        sent_response: RefCell::new(WrittenCache::nothing()),
        text: ClientText::new(address, Scheme::Http),
        listener: slot.listener(),
        is_trusted: false,
        is_forward: false,
        request_bytes: 0,
        is_whole: false,
        head_began_ms: 0,
        is_expecting: true,
    };
    client.apply_generation();
    if client.generation.access.is_socks(client.listener) {
        return match Box::pin(socks::open(&mut client)).await {
            Ok(tunnel) => Pause::Tunnel(tunnel),
            Err(close) => Pause::Closed(close),
        };
    }
    let mut pipelined = 0_usize;
    loop {
        match client.next_head(slot).await {
            NextHead::Head => slot.set_served(),
            NextHead::Park(spent) => return Pause::Parked(spent),
            NextHead::Close(close) => return Pause::Closed(close),
            NextHead::Fault(fault) => {
                exchange::refuse_head(&mut client, fault).await;
                return Pause::Closed(Close::Refused);
            }
        }
        match exchange::run(&mut client).await {
            // A client that has sent many requests at once is served in turns with the others.
            Outcome::Reuse if !client.inbox.is_empty() => {
                pipelined += 1;
                if pipelined.is_multiple_of(PIPELINED_MAX) {
                    turn().await;
                }
            }
            Outcome::Reuse => {}
            Outcome::Close(close) => return Pause::Closed(close),
            Outcome::Tunnel(tunnel) => return Pause::Tunnel(tunnel),
        }
    }
}

/// What came instead of, or as, the next request.
enum NextHead {
    Head,
    /// Nothing, for so long.
    Park(Duration),
    Close(Close),
    Fault(Fault),
}

impl Client<'_> {
    /// What depends on the configuration and not on the request.
    fn apply_generation(&mut self) {
        let Generation { config, access, hooks, .. } = &*self.generation;
        let address = self.peer.ip().to_canonical();
        self.is_trusted = config.server.trusted_proxies.contains(address);
        self.is_forward = access.is_offered(self.listener);
        let [requests, responses] = &hooks.interest;
        self.request.want(requests.clone());
        self.response.want(responses.clone());
    }

    /// Reads until a whole head is in the inbox.
    async fn next_head(&mut self, slot: &ConnectionSlot) -> NextHead {
        self.request.reset();
        self.is_whole = false;
        self.head_began_ms = 0;
        loop {
            if !self.inbox.is_empty() {
                if self.head_began_ms == 0 && self.worker.refresh(&mut self.generation) {
                    self.apply_generation();
                }
                match self.request.parse(self.inbox.filled(), &self.generation.head_limits) {
                    Ok(true) => return NextHead::Head,
                    // Most heads come in one piece, and then the clock is not asked.
                    Ok(false) if self.head_began_ms == 0 => {
                        self.head_began_ms = clock::coarse_ms();
                        self.stats.enter(Phase::Head, self.head_began_ms);
                    }
                    Ok(false) => self.stats.moved.set(Moment::at_ms(clock::coarse_ms())),
                    Err(error) => return NextHead::Fault(Fault::ClientHead(error)),
                }
            }
            if let Err(no_room) = self.inbox.make_room(self.generation.head_limits.head_bytes) {
                return NextHead::Fault(match no_room {
                    NoRoom::TooLarge => Fault::ClientHead(HeadError::HeadTooLarge),
                    NoRoom::NoMemory => Fault::Overloaded,
                });
            }
            let limit = self.head_patience();
            if limit.is_zero() {
                return NextHead::Fault(Fault::ClientHeadTimeout);
            }
            // What a client sends with its first packets is there by now, more often than not, and
            // so is what has woken a parked connection.
            let mut is_nothing_there = true;
            if std::mem::take(&mut self.is_expecting) {
                match self.socket.try_fill(&mut self.inbox) {
                    Ok(1..) => continue,
                    // A parked connection is woken by the end of the stream at once.
                    ended => is_nothing_there = ended.is_err(),
                }
            }
            if is_nothing_there
                && self.inbox.is_empty()
                && self.worker.heads.leased() > HELD_HEAD_BUFFERS_MAX
            {
                return NextHead::Park(Duration::ZERO);
            }
            let inbox = std::mem::take(&mut self.inbox);
            let (received, inbox) = self.socket.recv(inbox, &self.worker.deadlines, limit).await;
            self.inbox = inbox;
            match received {
                Ok(0) if self.inbox.is_empty() && slot.is_new() => {
                    return NextHead::Close(Close::ClientGone);
                }
                Ok(0) if self.inbox.is_empty() => return NextHead::Close(Close::ClientDone),
                Ok(0) => return NextHead::Fault(Fault::ClientGone),
                Err(WaitError::Interrupted) if self.stats.is_cut() => {
                    return NextHead::Close(Close::Cut);
                }
                Err(WaitError::Interrupted) if slot.gives_way() => {
                    return NextHead::Close(Close::GaveWay);
                }
                Ok(_) | Err(WaitError::Interrupted) => {}
                Err(WaitError::Expired) if self.inbox.is_empty() => return NextHead::Park(limit),
                Err(WaitError::Expired) => return NextHead::Fault(Fault::ClientHeadTimeout),
                Err(WaitError::Failed(_)) => return NextHead::Close(Close::ClientGone),
            }
        }
    }

    /// How long the next piece of the head may take: all of it has one deadline.
    fn head_patience(&self) -> Duration {
        if self.head_began_ms == 0 {
            return PARK_AFTER;
        }
        let spent = clock::coarse_ms().saturating_sub(self.head_began_ms);
        self.generation.config.timeouts.client_head.saturating_sub(Duration::from_millis(spent))
    }
}

/// How long a refused client may go on sending. Many read the answer only when they have sent all
/// of an upload, so that its size is no measure.
const LINGER: Duration = Duration::from_secs(30);
/// The same while new clients wait for a place.
const LINGER_CROWDED: Duration = Duration::from_secs(5);
const LINGER_SILENCE: Duration = Duration::from_secs(2);
/// What is thrown away before others have a turn.
const DISCARDED_AT_ONCE: usize = 16 * 1024 * 1024;

/// Says that nothing more will come and throws away what the client still sends, so that it gets to
/// read the answer (RFC 9112 §9.6).
async fn linger(worker: &Worker, socket: &Socket) {
    socket.finish_sending();
    let began = Instant::now();
    let limit = || {
        let is_crowded = worker.shared.clients.available_permits() == 0;
        if is_crowded { LINGER_CROWDED } else { LINGER }
    };
    while began.elapsed() < limit() && !worker.closes_idle.get() {
        match socket.try_discard(DISCARDED_AT_ONCE) {
            Ok(0) => return,
            Ok(_) => turn().await,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if socket.readable(&worker.deadlines, LINGER_SILENCE).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
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
        let bytes = future_bytes(converse) as u64;
        // With a margin for what its heads' lists allocate, and less than twice what is needed.
        assert!(bytes + bytes / 10 <= CONVERSATION_BYTES, "{bytes}");
        assert!(bytes * 2 > CONVERSATION_BYTES, "{bytes}");
    }
}
