//! What a client connection holds while it is busy: the client, and its request under way.
//!
//! In go heads that the connection has read; an exchange serves the one that is there, and leaves
//! behind what of it was sent on. Nothing here reads or waits.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use crate::config::HalfClose;
use crate::fault::Fault;
use crate::http::Version;
use crate::http::forwarded_header::ClientText;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::rewrite::{BodyOut, ConnectionOut, ForwardedFor};
use crate::http::written_cache::WrittenCache;
use crate::observe::connection_stats::{ConnectionStats, WaitsOn};
use crate::relay::{HANG_UP_AFTER, Receiver};
use crate::ring::hang_up::dropped_if_hung_up;
use crate::ring::{HeadBuffer, Socket};
use crate::upstream::h1::Terms;
use crate::upstream::queue::Holder;
use crate::worker::Worker;
use crate::worker::generation::Generation;
use crate::worker::slot::ConnectionSlot;

/// What a client connection holds while it is busy.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Client<'a> {
    pub worker: &'a Rc<Worker>,
    pub slot: &'a ConnectionSlot,
    /// By which the request under way is served.
    pub generation: Rc<Generation>,
    pub socket: &'a Socket,
    pub peer: SocketAddr,
    pub stats: &'a ConnectionStats,
    /// As the pool knows it.
    pub holder: Holder,
    /// What was received and not yet consumed; begins with the head of the request under way.
    pub inbox: HeadBuffer,
    pub request: RequestHead,
    /// As it was sent on by a plain route; it depends on the head, the generation and the origin.
    pub(crate) sent_request: RefCell<WrittenCache<(u32, u64, usize)>>,
    pub response: ResponseHead,
    /// As it was sent on where the origin had dated it.
    pub(crate) sent_response: RefCell<WrittenCache<(u32, BodyOut, ConnectionOut)>>,
    /// What origins are told of the client.
    pub text: ClientText,
    pub(crate) listener: u16,
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
    pub(crate) is_expecting: bool,
}

impl Client<'_> {
    /// The client, as somebody that is sent to.
    pub(crate) fn receiver(&self) -> Receiver<'_> {
        let config = &self.generation.config;
        Receiver {
            socket: self.socket,
            deadlines: &self.worker.deadlines,
            stall: config.timeouts.client_write,
            half_close: config.server.half_close,
            stats: Some((self.stats, WaitsOn::ClientToTake)),
        }
    }

    /// An origin on whose `socket` the request is sent, as somebody that is sent to.
    pub(crate) fn origin<'s>(&'s self, socket: &'s Socket) -> Receiver<'s> {
        let config = &self.generation.config;
        Receiver {
            socket,
            deadlines: &self.worker.deadlines,
            stall: config.timeouts.read,
            half_close: HalfClose::Keep,
            stats: Some((self.stats, WaitsOn::OriginToTake)),
        }
    }

    /// What the heads of answers are held to.
    pub(crate) fn terms(&self) -> Terms<'_> {
        let limits = self.generation.response_limits;
        Terms { limits, metrics: &self.worker.metrics }
    }

    /// What of it an origin is told.
    pub(crate) fn forwarded_for(&self) -> ForwardedFor<'_> {
        ForwardedFor { client: &self.text, is_trusted: self.is_trusted }
    }

    /// How the client is told that its connection goes on.
    pub(crate) fn kept_alive(&self) -> ConnectionOut {
        match self.request.version {
            Version::Http10 => ConnectionOut::KeepAlive,
            Version::Http11 => ConnectionOut::Implicit,
        }
    }
}

/// Awaits a connection, unless it is decided that the exchange ends or the client goes away during
/// a wait that is worth watching. What is dropped half-way closes what it has opened.
pub(crate) async fn unless_gone<T>(
    client: &Client<'_>,
    wait: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let mut wait = std::pin::pin!(client.stats.unless_ended(wait));
    // Mostly its origin answers at once.
    if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await {
        return output?;
    }
    if let Ok(output) = tokio::time::timeout(HANG_UP_AFTER, wait.as_mut()).await {
        return output?;
    }
    let half_close = client.generation.config.server.half_close;
    let watch = (half_close, &*client.worker.deadlines);
    let watched = dropped_if_hung_up(wait, client.socket, watch).await;
    watched.ok_or(Fault::ClientGone)??
}
