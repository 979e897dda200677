//! HTTP/1 towards a client: heads come in, responses go out, and the connection is used again.
//!
//! In go the bytes of a connection and, from each exchange, what the client is to be told; out come
//! requests one by one, responses in HTTP/1's framing, and why the conversation paused. Keep-alive,
//! pipelining and chunks towards the client are known here and nowhere above or below. A request is
//! never read before the one in front of it has been answered.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::time::Duration;

use crate::exchange;
use crate::exchange::outcome::Outcome;
use crate::exchange::peer::Peer;
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::respond::finish_sending;
use crate::exchange::stream::{Begun, Body, ClientStream, Incoming, Words};
use crate::exchange::tunnel::Tunnel;
use crate::fault::{Close, Fault};
use crate::http::chunked::{ChunkError, LAST_CHUNK};
use crate::http::head::HeadError;
use crate::http::repair;
use crate::http::rewrite::{self, BodyOut, ConnectionOut, ResponseRewrite, Simple};
use crate::http::written_cache::WrittenCache;
use crate::http::{BodyLength, Method, Version};
use crate::observe::connection_stats::{Moment, Phase};
use crate::observe::date::DATE_BYTES;
use crate::relay::outbox::{Sent, Unsent};
use crate::relay::{Decoder, Encoding, RelayError};
use crate::ring::waits::turn;
use crate::ring::{HeadBuffer, NoRoom, Socket, WaitError, clock};
use crate::worker::slot::ConnectionSlot;

/// Silence after which a connection gives its buffers back. A busy client is never that slow, and
/// an idle one costs a turn of the loop more when it wakes.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// While more head buffers than this are out, a connection gives its own back at once: ten thousand
/// clients would hold 100 MB for that second.
const HELD_HEAD_BUFFERS_MAX: usize = 2048;

/// Requests that are answered in one go where the client did not wait for the answers.
const PIPELINED_MAX: usize = 16;

/// Writes down a request of HTTP/2 that its client is refused by frames: on the stream with that
/// number, or with all of its connection.
#[cold]
pub(super) fn note_refused(slot: &ConnectionSlot, stream: Option<u32>, error: HeadError) {
    let mut request = Request::new(Peer::new(slot), Connection::new(slot.socket()));
    request.head.version = Version::Http2;
    request.head.settle();
    Record::refused(&request, stream, Fault::ClientHead(error));
}

/// Why a conversation paused.
pub(super) enum Pause {
    /// After so much of the silence that it may keep.
    Parked(Duration),
    Closed(Close),
    Tunnel(Box<Tunnel>),
    /// The client speaks HTTP/2, and has begun with this.
    Http2(Vec<u8>),
}

/// Serves the requests of a connection one after the other.
///
/// Whether the connection is a lane is known beforehand: the compiler lays this future into that of
/// whoever has it, as long as it is the only one.
pub(super) async fn converse<const IS_LANE: bool>(slot: &ConnectionSlot) -> Pause {
    let mut request = Request::new(Peer::new(slot), Connection::new(slot.socket()));
    request.want_fields();
    let mut pipelined = 0_usize;
    loop {
        match request.next_head::<IS_LANE>().await {
            NextHead::Head => slot.set_served(),
            NextHead::Park(spent) => return Pause::Parked(spent),
            NextHead::Close(close) => return Pause::Closed(close),
            NextHead::Http2 => return Pause::Http2(request.inbox.filled().to_vec()),
            NextHead::Fault(fault) => {
                exchange::respond::refuse_head(&mut request, fault).await;
                return Pause::Closed(Close::Refused);
            }
        }
        match exchange::run(&mut request).await {
            Outcome::Complete => {}
            Outcome::CutShort(fault) => return Pause::Closed(close_after(fault)),
            Outcome::Tunnel(tunnel) => return Pause::Tunnel(tunnel),
        }
        if let Some(close) = request.stream.ends.get() {
            return Pause::Closed(close);
        }
        request.inbox.consume(request.bytes);
        if IS_LANE {
            request.inbox.restore();
        }
        // A client that has sent many requests at once is served in turns with the others.
        if !request.inbox.is_empty() {
            pipelined += 1;
            if pipelined.is_multiple_of(PIPELINED_MAX) {
                turn().await;
            }
        }
    }
}

/// How a connection ends on which a response was cut short.
fn close_after(fault: Fault) -> Close {
    match fault {
        Fault::ClientGone | Fault::ClientWriteTimeout => Close::ClientGone,
        _ => Close::Cut,
    }
}

/// A connection that carries one exchange after the other.
struct Connection<'c> {
    socket: &'c Socket,
    /// Nothing has been received yet.
    is_expecting: bool,
    /// Why it ends behind the response that was sent last; `None` where it goes on.
    ends: Cell<Option<Close>>,
    /// The head of the last response, as it was sent on where the origin had dated it.
    sent_response: RefCell<WrittenCache<(u32, BodyOut, ConnectionOut)>>,
}

/// What came instead of, or as, the next request.
enum NextHead {
    Head,
    /// Nothing, for so long.
    Park(Duration),
    Close(Close),
    Fault(Fault),
    /// No request, but the beginning of HTTP/2.
    Http2,
}

impl Request<'_, Connection<'_>> {
    /// Has the heads keep what the hooks of the configuration ask for.
    fn want_fields(&mut self) {
        let [requests, responses] = &self.peer.generation.hooks.interest;
        self.head.want(requests.clone());
        self.head.set_underscores(self.peer.generation.config.limits.underscores);
        self.response.want(responses.clone());
    }

    /// Reads until a whole head is in the inbox.
    async fn next_head<const IS_LANE: bool>(&mut self) -> NextHead {
        self.head.reset();
        self.is_whole = false;
        self.head_began_ms = 0;
        loop {
            if !self.inbox.is_empty() {
                if self.head_began_ms == 0 && self.peer.refresh() {
                    self.want_fields();
                }
                match self.head.parse(self.inbox.filled(), &self.peer.generation.head_limits) {
                    Ok(true) => {
                        self.peer.identify(&self.head, self.inbox.filled());
                        if IS_LANE {
                            self.head.version = Version::Http2;
                        }
                        return NextHead::Head;
                    }
                    // Most heads come in one piece, and then the clock is not asked.
                    Ok(false) if self.head_began_ms == 0 => {
                        self.head_began_ms = clock::coarse_ms();
                        self.peer.stats.enter(Phase::Head, self.head_began_ms);
                    }
                    Ok(false) => self.peer.stats.moved.set(Moment::at_ms(clock::coarse_ms())),
                    Err(_) if has_http2_begun(self.peer.slot, self.inbox.filled()) => {
                        return NextHead::Http2;
                    }
                    Err(error) if self.mend_target(error) => continue,
                    Err(error) => {
                        let error = self.stream.socket.refusal().unwrap_or(error);
                        self.peer.believe_nothing();
                        return NextHead::Fault(Fault::ClientHead(error));
                    }
                }
            }
            let bytes_max = self.peer.generation.head_limits.head_bytes;
            if let Err(no_room) = self.inbox.make_room(bytes_max) {
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
            if std::mem::take(&mut self.stream.is_expecting) {
                match self.stream.socket.try_fill(&mut self.inbox) {
                    Ok(1..) => continue,
                    // A parked connection is woken by the end of the stream at once.
                    ended => is_nothing_there = ended.is_err(),
                }
            }
            let worker = self.peer.worker;
            if is_nothing_there
                && self.inbox.is_empty()
                && worker.heads.leased() > HELD_HEAD_BUFFERS_MAX
            {
                return NextHead::Park(Duration::ZERO);
            }
            let inbox = std::mem::take(&mut self.inbox);
            let (received, inbox) = self.stream.socket.recv(inbox, &worker.deadlines, limit).await;
            self.inbox = inbox;
            if let Some(next) = self.instead_of_bytes(received, limit) {
                return next;
            }
        }
    }

    /// What a wait for bytes of the head, of at most `limit`, has come to where it brought none.
    fn instead_of_bytes(
        &self,
        received: Result<usize, WaitError>,
        limit: Duration,
    ) -> Option<NextHead> {
        let Peer { slot, stats, .. } = self.peer;
        Some(match received {
            Ok(0) if self.inbox.is_empty() && slot.is_new() => NextHead::Close(Close::ClientGone),
            Ok(0) if self.inbox.is_empty() => NextHead::Close(Close::ClientDone),
            Ok(0) => NextHead::Fault(Fault::ClientGone),
            Err(WaitError::Interrupted) if stats.is_cut() => NextHead::Close(Close::Cut),
            Err(WaitError::Interrupted) if slot.gives_way() => NextHead::Close(Close::GaveWay),
            Ok(_) | Err(WaitError::Interrupted) => return None,
            Err(WaitError::Expired) if self.inbox.is_empty() => NextHead::Park(limit),
            Err(WaitError::Expired) => NextHead::Fault(Fault::ClientHeadTimeout),
            Err(WaitError::Failed(_)) => NextHead::Close(Close::ClientGone),
        })
    }

    /// Puts the target of a head that was refused for it into the form that every server takes;
    /// false where there is nothing to be done.
    #[cold]
    fn mend_target(&mut self, error: HeadError) -> bool {
        if !matches!(error, HeadError::Target | HeadError::TargetForm) {
            return false;
        }
        let Some((span, target)) = repair::target(self.inbox.filled()) else { return false };
        let before = &self.inbox.filled()[..span.start as usize];
        let front = [before, &target].concat();
        self.inbox.replace_front(span.end as usize, &front).is_ok()
    }

    /// How long the next piece of the head may take: all of it has one deadline.
    fn head_patience(&self) -> Duration {
        if self.head_began_ms == 0 {
            return PARK_AFTER;
        }
        let spent = clock::coarse_ms().saturating_sub(self.head_began_ms);
        let limit = self.peer.generation.config.timeouts.client_head;
        limit.saturating_sub(Duration::from_millis(spent))
    }
}

impl ClientStream for Connection<'_> {
    fn socket(&self) -> &Socket {
        self.socket
    }

    fn has_gone_on(&self, request: &Request<'_, Self>) -> bool {
        request.inbox.len() > request.bytes || matches!(self.socket.try_peek(&mut [0]), Ok(1..))
    }

    async fn send_interim(
        &self,
        request: &Request<'_, Self>,
        buffer: &HeadBuffer,
    ) -> Result<usize, Fault> {
        // An HTTP/1.0 client does not know interim answers (RFC 9110 §15.2).
        if request.head.version == Version::Http10 {
            return Ok(0);
        }
        self.send(request, |out| rewrite::interim(out, &request.response, buffer.filled())).await
    }

    async fn grant_continue(&self, request: &Request<'_, Self>) -> Result<usize, Fault> {
        self.send(request, |out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n")).await
    }

    #[inline]
    fn send_head(
        &self,
        request: &Request<'_, Self>,
        response: &Incoming<'_>,
        put: impl FnOnce(&ResponseRewrite<'_>, &mut Vec<u8>),
    ) -> Result<Begun, Unsent<ChunkError>> {
        let (worker, head) = (request.peer.worker, &request.response);
        let (body, encoding) = framing(request);
        let mut decoder = Decoder::of(head.body).with(response.rules);
        let is_last = matches!(body, BodyOut::UntilClose)
            || !request.head.is_persistent
            || !response.is_uploaded
            || worker.is_closing();
        let connection = if is_last { ConnectionOut::Close } else { kept_alive(request) };
        let close = if response.is_uploaded { Close::Answered } else { Close::Refused };
        self.ends.set(is_last.then_some(close));
        let sent = worker.outbox.send(self.socket, |out| {
            let is_repeated = response.is_plain && head.has_date;
            let repeated = if is_repeated { head.repeated() } else { None };
            let key = repeated.map(|it| (it, body, connection));
            self.sent_response.borrow_mut().put(key, out, |out| {
                let date = if head.has_date { [0; DATE_BYTES] } else { worker.date.now() };
                let (date, via, seen) = (&date[..], response.via, response.seen);
                put(&ResponseRewrite { body, connection, date, via, seen }, out);
            });
            if decoder.is_done() {
                return Ok((0, out.len()));
            }
            let behind_head = &response.buffer.filled()[head.bytes..];
            let appended = encoding.append(&mut decoder, behind_head, out)?;
            Ok((appended.used, out.len()))
        });
        let Sent { about: (used, sent), rest } = sent?;
        Ok(Begun { body: Body { decoder, encoding }, used, sent, rest })
    }

    async fn end_body(
        &self,
        request: &Request<'_, Self>,
        encoding: Encoding,
    ) -> Result<usize, RelayError> {
        if encoding != Encoding::Chunked {
            return Ok(0);
        }
        request.receiver().send_all(LAST_CHUNK).await.map_err(|_| RelayError::ToFailed)?;
        Ok(LAST_CHUNK.len())
    }

    async fn respond(
        &self,
        request: &Request<'_, Self>,
        words: &Words<'_>,
        is_innocent: bool,
    ) -> Result<usize, Fault> {
        let worker = request.peer.worker;
        let goes_on = is_innocent
            && request.is_whole
            && request.head.is_persistent
            // What follows may be meant for the tunnel that was refused.
            && request.head.method != Method::Connect
            && !worker.is_closing();
        self.ends.set((!goes_on).then_some(Close::Refused));
        let connection = if goes_on { kept_alive(request) } else { ConnectionOut::Close };
        let Words { status, body, extra, style, notes } = *words;
        self.send(request, |out| {
            let simple = Simple {
                status: status.code,
                reason: status.reason,
                body,
                extra,
                connection,
                date: &worker.date.now(),
                is_head_only: request.head.method == Method::Head,
            };
            match style {
                None => rewrite::simple(out, &simple),
                Some(style) => style.put(out, &simple),
            }
            if let Some(notes) = notes {
                notes.take(out);
            }
        })
        .await
    }

    async fn accept_tunnel(&self, request: &Request<'_, Self>) -> Result<usize, Fault> {
        self.send(request, |out| {
            out.extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
        })
        .await
    }

    async fn switch_protocols(
        &self,
        request: &Request<'_, Self>,
        buffer: &HeadBuffer,
    ) -> Result<usize, Fault> {
        self.send(request, |out| rewrite::switching(out, &request.response, buffer.filled())).await
    }

    /// Where the end of the connection is the end of the body, only a reset says that this was not
    /// it.
    fn reset(&self) {
        self.socket.reset_on_close();
    }
}

impl<'c> Connection<'c> {
    fn new(socket: &'c Socket) -> Self {
        Self {
            socket,
            is_expecting: true,
            ends: Cell::new(None),
            sent_response: RefCell::new(WrittenCache::nothing()),
        }
    }

    /// Sends what `build` puts together, waiting where the client is slower; how much it was.
    async fn send(
        &self,
        request: &Request<'_, Self>,
        build: impl FnOnce(&mut Vec<u8>),
    ) -> Result<usize, Fault> {
        let sent = request.peer.worker.outbox.send(self.socket, |out| {
            build(out);
            Ok::<_, Infallible>(out.len())
        });
        finish_sending(request, sent).await
    }
}

/// How the body of the response goes out.
fn framing(request: &Request<'_, impl ClientStream>) -> (BodyOut, Encoding) {
    let is_modern = request.head.version != Version::Http10;
    match request.response.body {
        BodyLength::Empty => (BodyOut::Empty, Encoding::AsIs),
        BodyLength::Exact(_) => (BodyOut::AsIs, Encoding::AsIs),
        BodyLength::Chunked if is_modern => (BodyOut::AsIs, Encoding::AsIs),
        // HTTP/1.0 knows no chunks: the payload ends with the connection.
        BodyLength::Chunked => (BodyOut::UntilClose, Encoding::Payload),
        BodyLength::UntilClose if is_modern => (BodyOut::Chunked, Encoding::Chunked),
        BodyLength::UntilClose => (BodyOut::UntilClose, Encoding::AsIs),
    }
}

/// How the client is told that its connection goes on.
fn kept_alive(request: &Request<'_, impl ClientStream>) -> ConnectionOut {
    match request.head.version {
        Version::Http10 => ConnectionOut::KeepAlive,
        Version::Http11 | Version::Http2 => ConnectionOut::Implicit,
    }
}

/// How HTTP/2 begins (RFC 9113 §3.4); no request of HTTP/1 does.
const HTTP2_BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Whether a client of a plain listener has begun with HTTP/2. Its version is no HTTP/1 before the
/// line has come whole.
#[cold]
fn has_http2_begun(slot: &ConnectionSlot, received: &[u8]) -> bool {
    let part = received.len().min(HTTP2_BEGINNING.len());
    received.starts_with(&HTTP2_BEGINNING[..part])
        && slot.is_new()
        && !slot.is_lane()
        && slot.worker().generation().config.http2.prior_knowledge
}

/// The size of the future that `conversation` makes. Asking a future itself would keep room for it
/// in the one that asks.
pub(super) fn future_bytes<'a, F>(conversation: impl Fn(&'a ConnectionSlot) -> F) -> usize {
    let _ = conversation;
    size_of::<F>()
}

/// Tells a client that there is no room for it, without taking its request in.
pub(super) async fn turn_away(slot: &ConnectionSlot) {
    let worker = slot.worker();
    worker.metrics.clients_refused.add(1);
    if slot.is_new() && slot.park(Duration::ZERO).await.is_err() {
        slot.set_parked(false);
        return;
    }
    slot.set_parked(false);
    let generation = worker.generation();
    let via = &generation.config.server.via;
    let extra = format!("Proxy-Status: {via}; error=proxy_internal_error\r\nRetry-After: 5\r\n");
    // A client that does not even take this has left.
    let _ = worker.outbox.send(slot.socket(), |out| {
        rewrite::simple(
            out,
            &Simple {
                status: 503,
                reason: "Service Unavailable",
                body: "Service Unavailable",
                extra: extra.as_bytes(),
                connection: ConnectionOut::Close,
                date: &worker.date.now(),
                is_head_only: false,
            },
        );
        Ok::<_, Infallible>(())
    });
    worker.metrics.requests[5].add(1);
}
