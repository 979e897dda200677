//! One request of a client, as an exchange serves it.
//!
//! In goes a head that the client's protocol has read; an exchange serves it, and leaves behind
//! what of it was sent on. Whatever the client speaks, its request comes in this form. Nothing here
//! reads.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::Poll;

use crate::exchange::peer::Peer;
use crate::exchange::stream::ClientStream;
use crate::fault::Fault;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::written_cache::WrittenCache;
use crate::observe::connection_stats::WaitsOn;
use crate::relay::{HANG_UP_AFTER, Receiver};
use crate::ring::HeadBuffer;
use crate::ring::hang_up::dropped_if_hung_up;

/// One request, and the response to it. The next one takes its place, with what it had allocated.
pub(crate) struct Request<'c, S> {
    pub peer: Peer<'c>,
    /// How the client is spoken to.
    pub stream: S,
    /// What was received and not yet consumed; begins with the head.
    pub inbox: HeadBuffer,
    pub head: RequestHead,
    /// As it was sent on by a plain route; it depends on the head, the generation and the origin.
    pub(crate) sent_head: RefCell<WrittenCache<(u32, u64, usize)>>,
    pub response: ResponseHead,
    /// Bytes at the front of the inbox that belong to the request: its head and what of its body
    /// came with it.
    pub bytes: usize,
    /// All of the request is in the inbox.
    pub is_whole: bool,
    /// The time at which the first byte of the head had arrived.
    pub head_began_ms: u64,
}

impl<'c, S: ClientStream> Request<'c, S> {
    pub(crate) fn new(peer: Peer<'c>, stream: S) -> Self {
        Self {
            inbox: peer.worker.heads.lease(),
            peer,
            stream,
            head: RequestHead::new(),
            sent_head: RefCell::new(WrittenCache::nothing()),
            response: ResponseHead::new(),
            bytes: 0,
            is_whole: false,
            head_began_ms: 0,
        }
    }

    /// The client, as somebody that is sent to.
    pub(crate) fn receiver(&self) -> Receiver<'_> {
        let config = &self.peer.generation.config;
        Receiver {
            socket: self.stream.socket(),
            deadlines: &self.peer.worker.deadlines,
            stall: config.timeouts.client_write,
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
