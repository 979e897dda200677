//! One request of a client, as an exchange serves it.
//!
//! In goes a head that the client's protocol has read; an exchange serves it, and leaves behind
//! what of it was sent on. Whatever the client speaks, its request comes in this form. Nothing here
//! reads.

use std::cell::RefCell;
use std::rc::Rc;

use crate::exchange::peer::Peer;
use crate::exchange::trace::Trace;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::written_cache::WrittenCache;
use crate::http::{Method, grpc};
use crate::ring::HeadBuffer;

/// One request, and the response to it. The next one takes its place, with what it had allocated.
pub(crate) struct Request<'c, S> {
    pub peer: Peer<'c>,
    /// How the client is spoken to.
    pub stream: S,
    /// What was received and not yet consumed; begins with the head.
    pub inbox: HeadBuffer,
    pub head: RequestHead,
    /// As it was sent on by a plain route; it depends on the head, by which the route is chosen, on
    /// the generation and, in places, on the origin.
    pub(crate) sent_head: RefCell<WrittenCache<(u32, u64, Option<usize>)>>,
    pub response: ResponseHead,
    /// The trace that it belongs to, where there are any.
    pub(crate) trace: Option<Rc<Trace>>,
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
            trace: None,
            bytes: 0,
            is_whole: false,
            head_began_ms: 0,
        }
    }

    /// Holds no more than it needs: what is left of its answer may be left for long, and of streams
    /// there are many.
    pub(crate) fn rest(&mut self) {
        if self.peer.slot.is_lane() {
            self.inbox.shrink();
        }
    }

    /// Its content type where it is one of gRPC.
    #[cold]
    pub(crate) fn grpc_type(&self) -> Option<&[u8]> {
        let content_type = self.head.fields.only_value(self.inbox.filled(), b"content-type")?;
        grpc::is_grpc(content_type).then_some(content_type)
    }

    /// Gives it a trace, if there are any.
    #[inline]
    pub(crate) fn enter_trace(&mut self) {
        let config = &self.peer.generation.config.tracing;
        if config.enabled {
            let said = (&self.head.fields, self.inbox.filled());
            self.trace = Some(Trace::begin(config, self.peer.is_trusted, said));
        }
    }

    /// Its exchange is over.
    #[inline]
    pub(crate) fn leave_trace(&mut self) {
        if self.trace.is_some() {
            self.trace = None;
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
