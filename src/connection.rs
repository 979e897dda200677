//! One client connection: a request, an answer, and so on until one side has had enough.
//!
//! In goes an accepted socket; the task reads heads, hands each to [`exchange`], and ends the
//! connection for exactly one reason ([`Close`]). A connection that rests for a second gives its
//! buffers back and waits on a poll: what it then holds is a small task and a deadline.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::account::{Account, Moment, Phase, WaitsOn};
use crate::answer;
use crate::config::HalfClose;
use crate::exchange::{self, After};
use crate::fault::{Close, Fault};
use crate::generation::Generation;
use crate::http::Version;
use crate::http::forwarded::{ClientText, Scheme};
use crate::http::head::{HeadError, RequestHead, ResponseHead};
use crate::http::rewrite::{BodyOut, ConnectionOut, ForwardedFor};
use crate::http::written::Written;
use crate::ledger::Kind;
use crate::relay::Receiver;
use crate::ring::waits::turn;
use crate::ring::{HeadBuffer, NoRoom, Socket, Waited, clock};
use crate::seat::Seat;
use crate::tunnel::{self, Tunnel};
use crate::upstream::queue::Holder;
use crate::worker::Worker;

/// Silence after which a connection gives its buffers back. A busy client is never that slow, and
/// a resting one costs a turn of the loop more when it wakes.
const REST_AFTER: Duration = Duration::from_secs(1);

/// While more head buffers than this are out, a connection gives its own back at once: ten thousand
/// clients would hold 100 MB for that second.
const HELD_HEAD_BUFFERS_MAX: usize = 2048;

/// Requests that are answered in one go where the client did not wait for the answers.
const PIPELINED_MAX: usize = 16;

/// Serves one client connection to its end.
///
/// What this future holds across its waits is what an idle connection costs, so it holds little:
/// the seat, and either a box or a wait. An `async fn` would hold its argument twice.
#[expect(clippy::manual_async_fn, reason = "its future is larger")]
pub fn serve(seat: Seat) -> impl Future<Output = ()> + 'static {
    async move {
        let close = loop {
            let Some(busy) = seat.begin(future_bytes(converse), Kind::Connections) else {
                Box::pin(answer::turn_away(&seat)).await;
                break Close::Refused;
            };
            // Boxed so that a resting connection does not carry the room for a busy one.
            let pause = Box::pin(converse(&seat)).await;
            drop(busy);
            let spent = match pause {
                Pause::Closed(close) => break close,
                // What the conversation held has been given back.
                Pause::Tunnel(tunnel) => {
                    let _busy = seat.hold(tunnel::TUNNEL_BYTES, Kind::Tunnels);
                    break Box::pin(tunnel::run(&seat, tunnel)).await;
                }
                Pause::Resting(spent) => spent,
            };
            if seat.worker().is_draining.get() {
                break Close::Stopping;
            }
            let rested = seat.rest(spent).await;
            seat.set_resting(false);
            match rested {
                Ok(_) => {}
                Err(Waited::Expired) => break Close::Idle,
                Err(Waited::Interrupted) if seat.gives_way() => break Close::GaveWay,
                // A drain ends what rests; what has arrived in the meantime is still answered.
                Err(Waited::Interrupted) => match seat.socket().try_peek(&mut [0]) {
                    Ok(1..) if !seat.account().is_cut() => {}
                    _ => break Close::Stopping,
                },
                Err(Waited::Failed(_)) => break Close::ClientGone,
            }
        };
        tracing::trace!(?close, "a client connection ends");
        let is_lingering = match close {
            Close::Refused => true,
            // Unread input would turn the close into a reset, which can take the answer's tail with
            // it (RFC 9112 §9.6).
            Close::Answered => matches!(seat.socket().try_peek(&mut [0]), Ok(1..)),
            Close::Cut
            | Close::ClientDone
            | Close::Idle
            | Close::ClientGone
            | Close::GaveWay
            | Close::Stopping => false,
        };
        if is_lingering {
            seat.account().enter(Phase::Linger, clock::coarse_ms());
            Box::pin(linger(seat.worker(), seat.socket())).await;
        }
    }
}

/// The size of the future that `conversation` makes. Asking a future itself would keep room for it
/// in the one that asks.
fn future_bytes<'a, F>(conversation: impl Fn(&'a Seat) -> F) -> usize {
    let _ = conversation;
    size_of::<F>()
}

/// Why a conversation paused.
enum Pause {
    /// After so much of the silence that it may keep.
    Resting(Duration),
    Closed(Close),
    Tunnel(Box<Tunnel>),
}

/// What a client connection holds while it is busy.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Client<'a> {
    pub worker: &'a Rc<Worker>,
    pub seat: &'a Seat,
    /// By which the request under way is served.
    pub generation: Rc<Generation>,
    pub socket: &'a Socket,
    pub peer: SocketAddr,
    pub account: &'a Account,
    /// As the pool knows it.
    pub holder: Holder,
    /// What was received and not yet consumed; begins with the head of the request under way.
    pub inbox: HeadBuffer,
    pub request: RequestHead,
    /// As it was sent on by a plain route; it depends on the head, the generation and the origin.
    pub(crate) sent_request: RefCell<Written<(u32, u64, usize)>>,
    pub response: ResponseHead,
    /// As it was sent on where the origin had dated it.
    pub(crate) sent_response: RefCell<Written<(u32, BodyOut, ConnectionOut)>>,
    /// What origins are told of the client.
    pub text: ClientText,
    listener: u16,
    pub is_trusted: bool,
    /// It came in by a listener at which it may ask for what is not ours.
    pub is_forward: bool,
    /// Bytes at the front of the inbox that belong to the request under way: its head and what of
    /// its body came with it.
    pub request_bytes: usize,
    /// All of the request is in the inbox.
    pub is_whole: bool,
    /// The time at which the first byte of the head under way had arrived.
    pub head_began_ms: u64,
    /// Nothing has been received yet.
    is_expecting: bool,
}

async fn converse(seat: &Seat) -> Pause {
    let worker = seat.worker();
    let address = seat.peer().ip().to_canonical();
    let mut client = Client {
        worker,
        seat,
        generation: worker.generation(),
        socket: seat.socket(),
        peer: seat.peer(),
        account: seat.account(),
        holder: seat.holder(),
        inbox: worker.heads.lease(),
        request: RequestHead::new(),
        sent_request: RefCell::new(Written::nothing()),
        response: ResponseHead::new(),
        sent_response: RefCell::new(Written::nothing()),
        text: ClientText::new(address, Scheme::Http),
        listener: seat.listener(),
        is_trusted: false,
        is_forward: false,
        request_bytes: 0,
        is_whole: false,
        head_began_ms: 0,
        is_expecting: true,
    };
    client.apply_generation();
    let mut pipelined = 0_usize;
    loop {
        match client.next_head(seat).await {
            Next::Head => seat.set_served(),
            Next::Rest(spent) => return Pause::Resting(spent),
            Next::Close(close) => return Pause::Closed(close),
            Next::Fault(fault) => {
                exchange::refuse_head(&mut client, fault).await;
                return Pause::Closed(Close::Refused);
            }
        }
        match exchange::run(&mut client).await {
            // A client that has sent many requests at once is served in turns with the others.
            After::Reuse if !client.inbox.is_empty() => {
                pipelined += 1;
                if pipelined.is_multiple_of(PIPELINED_MAX) {
                    turn().await;
                }
            }
            After::Reuse => {}
            After::Close(close) => return Pause::Closed(close),
            After::Tunnel(tunnel) => return Pause::Tunnel(tunnel),
        }
    }
}

/// What came instead of, or as, the next request.
enum Next {
    Head,
    /// Nothing, for so long.
    Rest(Duration),
    Close(Close),
    Fault(Fault),
}

impl Client<'_> {
    /// What depends on the configuration and not on the request.
    fn apply_generation(&mut self) {
        let Generation { config, gate, hooks, .. } = &*self.generation;
        let address = self.peer.ip().to_canonical();
        self.is_trusted = config.server.trusted_proxies.contains(address);
        self.is_forward = gate.is_offered(self.listener);
        let [requests, responses] = &hooks.wanted;
        self.request.want(requests.clone());
        self.response.want(responses.clone());
    }

    /// Reads until a whole head is in the inbox.
    async fn next_head(&mut self, seat: &Seat) -> Next {
        self.request.reset();
        self.is_whole = false;
        self.head_began_ms = 0;
        loop {
            if !self.inbox.is_empty() {
                if self.head_began_ms == 0 && self.worker.refresh(&mut self.generation) {
                    self.apply_generation();
                }
                match self.request.parse(self.inbox.filled(), &self.generation.head_limits) {
                    Ok(true) => return Next::Head,
                    // Most heads come in one piece, and then the clock is not asked.
                    Ok(false) if self.head_began_ms == 0 => {
                        self.head_began_ms = clock::coarse_ms();
                        self.account.enter(Phase::Head, self.head_began_ms);
                    }
                    Ok(false) => self.account.moved.set(Moment::at_ms(clock::coarse_ms())),
                    Err(error) => return Next::Fault(Fault::ClientHead(error)),
                }
            }
            if let Err(no_room) = self.inbox.make_room(self.generation.head_limits.head_bytes) {
                return Next::Fault(match no_room {
                    NoRoom::TooLarge => Fault::ClientHead(HeadError::HeadTooLarge),
                    NoRoom::NoMemory => Fault::Overloaded,
                });
            }
            let limit = self.head_patience();
            if limit.is_zero() {
                return Next::Fault(Fault::ClientHeadTimeout);
            }
            // What a client sends with its first packets is there by now, more often than not, and
            // so is what has woken a connection that rested.
            let mut is_nothing_there = true;
            if std::mem::take(&mut self.is_expecting) {
                match self.socket.try_fill(&mut self.inbox) {
                    Ok(1..) => continue,
                    // Whoever rests is woken by the end of the stream at once.
                    ended => is_nothing_there = ended.is_err(),
                }
            }
            if is_nothing_there
                && self.inbox.is_empty()
                && self.worker.heads.leased() > HELD_HEAD_BUFFERS_MAX
            {
                return Next::Rest(Duration::ZERO);
            }
            let inbox = std::mem::take(&mut self.inbox);
            let (received, inbox) = self.socket.recv(inbox, &self.worker.deadlines, limit).await;
            self.inbox = inbox;
            match received {
                Ok(0) if self.inbox.is_empty() && seat.is_new() => {
                    return Next::Close(Close::ClientGone);
                }
                Ok(0) if self.inbox.is_empty() => return Next::Close(Close::ClientDone),
                Ok(0) => return Next::Fault(Fault::ClientGone),
                Err(Waited::Interrupted) if self.account.is_cut() => {
                    return Next::Close(Close::Cut);
                }
                Err(Waited::Interrupted) if seat.gives_way() => return Next::Close(Close::GaveWay),
                Ok(_) | Err(Waited::Interrupted) => {}
                Err(Waited::Expired) if self.inbox.is_empty() => return Next::Rest(limit),
                Err(Waited::Expired) => return Next::Fault(Fault::ClientHeadTimeout),
                Err(Waited::Failed(_)) => return Next::Close(Close::ClientGone),
            }
        }
    }

    /// The client, as somebody that is sent to.
    pub fn receiver(&self) -> Receiver<'_> {
        let config = &self.generation.config;
        Receiver {
            socket: self.socket,
            deadlines: &self.worker.deadlines,
            stall: config.timeouts.client_write,
            half_close: config.server.half_close,
            account: Some((self.account, WaitsOn::ClientToTake)),
        }
    }

    /// An origin on whose `socket` the request is sent, as somebody that is sent to.
    pub fn origin<'s>(&'s self, socket: &'s Socket) -> Receiver<'s> {
        let config = &self.generation.config;
        Receiver {
            socket,
            deadlines: &self.worker.deadlines,
            stall: config.timeouts.read,
            half_close: HalfClose::Keep,
            account: Some((self.account, WaitsOn::OriginToTake)),
        }
    }

    /// What of it an origin is told.
    pub fn forwarded_for(&self) -> ForwardedFor<'_> {
        ForwardedFor { client: &self.text, is_trusted: self.is_trusted }
    }

    /// How the client is told that its connection goes on.
    pub fn kept_alive(&self) -> ConnectionOut {
        match self.request.version {
            Version::Http10 => ConnectionOut::KeepAlive,
            Version::Http11 => ConnectionOut::Implicit,
        }
    }

    /// How long the next piece of the head may take: all of it has one deadline.
    fn head_patience(&self) -> Duration {
        if self.head_began_ms == 0 {
            return REST_AFTER;
        }
        let spent = clock::coarse_ms().saturating_sub(self.head_began_ms);
        self.generation.config.timeouts.client_head.saturating_sub(Duration::from_millis(spent))
    }
}

/// How long, and for how many bytes, a refused client may go on sending.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_SILENCE: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Says that nothing more will come and throws away what the client still sends, so that it gets to
/// read the answer (RFC 9112 §9.6).
async fn linger(worker: &Worker, socket: &Socket) {
    socket.finish_sending();
    let began = Instant::now();
    let mut discarded = 0;
    while discarded < LINGER_BYTES && began.elapsed() < LINGER && !worker.is_draining.get() {
        match socket.try_discard(LINGER_BYTES) {
            Ok(0) => return,
            Ok(count) => discarded += count,
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
    fn a_connection_at_rest_is_a_small_task() {
        fn size_of_output<F>(_: impl Fn(Seat) -> F) -> usize {
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
