//! One request of a client, as an exchange serves it.
//!
//! In goes a head that the client's protocol has read; an exchange serves it, and leaves behind
//! what of it was sent on. Whatever the client speaks, its request comes in this form. Nothing here
//! reads.

use std::cell::RefCell;

use crate::exchange::peer::Peer;
use crate::http::Method;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::written_cache::WrittenCache;
use crate::ring::HeadBuffer;

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

impl<'c, S> Request<'c, S> {
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

    /// Whether it has a body where its method has no use for one: there are servers that do not
    /// read it, and take it for the next request.
    #[inline]
    pub(crate) fn has_odd_body(&self) -> bool {
        !self.head.body.is_empty()
            && matches!(
                self.head.method,
                Method::Get | Method::Head | Method::Delete | Method::Options
            )
    }
}
