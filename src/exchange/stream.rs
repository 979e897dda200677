//! What an exchange asks of the protocol that its client speaks.
//!
//! In goes what the client is to be told: an interim response, the origin's response, one of our
//! own, a tunnel. Out it goes in that protocol's framing. What the client has been told of its
//! connection, and what becomes of that, the protocol keeps to itself: an exchange asks only that
//! what it says arrives, or is cut short so that nobody takes it for the whole.

use std::future::poll_fn;
use std::task::Poll;

use crate::exchange::request::Request;
use crate::exchange::response_notes::ResponseNotes;
use crate::fault::{Fault, Status};
use crate::hooks::style::ResponseStyle;
use crate::http::chunk_rules::ChunkRules;
use crate::http::chunked::ChunkError;
use crate::http::rewrite::{ResponseRewrite, Seen};
use crate::ledger::Counted;
use crate::observe::connection_stats::WaitsOn;
use crate::relay::outbox::Unsent;
use crate::relay::{Decoder, Encoding, HANG_UP_AFTER, Receiver, RelayError};
use crate::ring::hang_up::dropped_if_hung_up;
use crate::ring::{HeadBuffer, Socket};

/// The client's side of one exchange.
pub(crate) trait ClientStream: Sized {
    /// Through which the request's body comes and the response's goes, and which ends where the
    /// client goes away.
    fn socket(&self) -> &Socket;

    /// Whether the client has gone on behind its request, before it was answered.
    fn has_gone_on(&self, request: &Request<'_, Self>) -> bool;

    /// Passes the interim response on whose head is `request.response` and begins `buffer`, where
    /// the client knows such responses; the bytes that were sent.
    async fn send_interim(
        &self,
        request: &Request<'_, Self>,
        buffer: &HeadBuffer,
    ) -> Result<usize, Fault>;

    /// Tells a client that waits for leave to send its body that it may; the bytes that were sent.
    async fn grant_continue(&self, request: &Request<'_, Self>) -> Result<usize, Fault>;

    /// Passes an origin's response on whose head is `request.response`, with what of its body came
    /// behind the head. `put` appends the head as it is said how.
    fn send_head(
        &self,
        request: &Request<'_, Self>,
        response: &Incoming<'_>,
        put: impl FnOnce(&ResponseRewrite<'_>, &mut Vec<u8>),
    ) -> Result<Begun, Unsent<ChunkError>>;

    /// Says that the body that was sent in `encoding` is complete; the bytes that took.
    async fn end_body(
        &self,
        request: &Request<'_, Self>,
        encoding: Encoding,
    ) -> Result<usize, RelayError>;

    /// Gives a response of our own; the bytes that were sent. `is_innocent` says that what the
    /// client did is no reason against another request on its connection.
    async fn respond(
        &self,
        request: &Request<'_, Self>,
        words: &Words<'_>,
        is_innocent: bool,
    ) -> Result<usize, Fault>;

    /// Tells the client that CONNECT has made a tunnel; the bytes that were sent.
    async fn accept_tunnel(&self, request: &Request<'_, Self>) -> Result<usize, Fault>;

    /// Tells the client that its origin has agreed to another protocol, by the 101 that
    /// `request.response` is and `buffer` begins with; the bytes that were sent.
    async fn switch_protocols(
        &self,
        request: &Request<'_, Self>,
        buffer: &HeadBuffer,
    ) -> Result<usize, Fault>;

    /// Sees to it that the client takes the end for no end of a response.
    fn reset(&self);
}

impl<S: ClientStream> Request<'_, S> {
    /// The client, as somebody that is sent to.
    pub(crate) fn receiver(&self) -> Receiver<'_> {
        let config = &self.peer.generation.config;
        Receiver {
            socket: self.stream.socket(),
            deadlines: &self.peer.worker.deadlines,
            stall: self.peer.times.client_write,
            half_close: config.server.half_close,
            stats: Some((self.peer.stats, WaitsOn::ClientToTake)),
        }
    }
}

/// Awaits a connection, unless it is decided that the exchange ends or the client goes away during
/// a wait that is worth watching. What is dropped half-way closes what it has opened.
pub(crate) async fn unless_gone<T>(
    request: &Request<'_, impl ClientStream>,
    wait: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let peer = &request.peer;
    let mut wait = std::pin::pin!(peer.stats.unless_ended(wait));
    // Mostly its origin answers at once.
    if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await {
        return output?;
    }
    if let Ok(output) = tokio::time::timeout(HANG_UP_AFTER, wait.as_mut()).await {
        return output?;
    }
    let half_close = peer.generation.config.server.half_close;
    let watch = (half_close, &*peer.worker.deadlines);
    let watched = dropped_if_hung_up(wait, request.stream.socket(), watch).await;
    watched.ok_or(Fault::ClientGone)??
}

/// A response of an origin that is to be passed on.
pub(crate) struct Incoming<'a> {
    /// What has come of it.
    pub buffer: &'a HeadBuffer,
    /// The request has gone out to its end.
    pub is_uploaded: bool,
    /// What is sent depends on nothing but the head and how it goes out.
    pub is_plain: bool,
    /// What of its chunks is taken, and goes on.
    pub rules: ChunkRules,
    /// Our name, where it is to be said that the response came through us.
    pub via: Option<&'a [u8]>,
    /// What the client sees otherwise, if anything.
    pub seen: Option<Seen<'a>>,
}

/// A response whose head has been sent.
pub(crate) struct Begun {
    /// What of its body is still to come.
    pub body: Body,
    /// Bytes of the body that came behind the head.
    pub used: usize,
    /// Bytes that were sent, `rest` included.
    pub sent: usize,
    /// What the client did not take at once.
    pub rest: Option<Counted>,
}

/// The rest of a body: how it is framed where it comes from, and where it goes.
pub(crate) struct Body {
    pub decoder: Decoder,
    pub encoding: Encoding,
}

/// What a response of our own says.
pub(crate) struct Words<'a> {
    pub status: Status,
    pub body: &'a str,
    /// Whole field lines.
    pub extra: &'a [u8],
    /// What the hooks of its route make of it.
    pub style: Option<&'a ResponseStyle<'a>>,
    /// Who wants to know what is sent.
    pub notes: Option<ResponseNotes<'a>>,
}
