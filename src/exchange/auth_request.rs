//! A request to an upstream that says whether another one may go on, on the wire.
//!
//! In goes an auth request with what it quotes of the request; out comes what the answer means. It
//! goes through the pool like any request, and has one deadline, from the search for a connection
//! to the head of the answer; a connection on which an answer has come whole goes back. Whatever
//! goes wrong is no answer, and what that means is for the configuration to say.

use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::exchange::logged_in;
use crate::exchange::request::Request;
use crate::exchange::stream::{ClientStream, unless_gone};
use crate::fault::Fault;
use crate::hooks::{AuthDecision, AuthRequest, RequestView};
use crate::http::Method;
use crate::http::head::ResponseHead;
use crate::relay::HANG_UP_AFTER;
use crate::ring::hang_up::unless_hung_up;
use crate::ring::{HeadBuffer, WaitError};
use crate::upstream::h1::{self, AttemptError, Received, Reply};
use crate::upstream::host::host;
use crate::upstream::lease::{Answer, Lease};
use crate::upstream::{Upstream, Wanted, Who};

/// Asks. The only faults are that the worker ends and that the client has left. `is_connected` is
/// told as soon as the question has a connection.
pub(crate) async fn ask(
    request: &Request<'_, impl ClientStream>,
    auth_request: &AuthRequest,
    view: &RequestView<'_>,
    is_connected: &Notify,
) -> Result<AuthDecision, Fault> {
    let upstream = &request.peer.generation.upstreams[auth_request.upstream()];
    match answered(request, upstream, auth_request, view, is_connected).await {
        Ok(decision) => Ok(decision),
        Err(fault @ (Fault::Stopping | Fault::ClientGone)) => Err(fault),
        Err(fault) => {
            let upstream = upstream.name();
            tracing::warn!(upstream, error = fault.name(), "forward_auth got no answer");
            Ok(AuthDecision::Failed)
        }
    }
}

async fn answered(
    request: &Request<'_, impl ClientStream>,
    upstream: &Upstream,
    auth_request: &AuthRequest,
    view: &RequestView<'_>,
    is_connected: &Notify,
) -> Result<AuthDecision, Fault> {
    let deadline = Instant::now() + auth_request.timeout();
    let introduction = request.peer.introduction(upstream);
    let mut is_fresh = false;
    loop {
        // A connection that is given up on its way is closed, and a place in the queue is left.
        let (holder, times) = (request.peer.holder, &upstream.times);
        let who = Who { holder, introduction: &introduction, times };
        let wanted = Wanted { is_fresh, ..Wanted::default() };
        let checkout = upstream.checkout(&request.peer.worker.pool, who, wanted);
        let lease = tokio::time::timeout_at(deadline.into(), unless_gone(request, checkout)).await;
        let lease = lease.map_err(|_| Fault::OriginConnectTimeout)??;
        is_connected.notify_one();
        let may_repeat = lease.is_reused && !is_fresh;
        match attempt(request, upstream, lease, auth_request, view, deadline).await {
            Ok(decision) => return Ok(decision),
            Err(AttemptError::Fault(fault)) => return Err(fault),
            Err(_) if may_repeat => is_fresh = true,
            Err(_) => return Err(Fault::OriginClosed),
        }
    }
}

async fn attempt(
    request: &Request<'_, impl ClientStream>,
    upstream: &Upstream,
    lease: Lease,
    auth_request: &AuthRequest,
    view: &RequestView<'_>,
    deadline: Instant,
) -> Result<AuthDecision, AttemptError> {
    let mut lease = request.peer.slot.reach(lease);
    let origin = lease.whose();
    let host = host(upstream.host(), origin.as_ref().map(|origin| &*origin.authority));
    let base = origin.as_ref().map_or("", |origin| &*origin.base);
    let to = request.peer.origin(lease.socket());
    h1::send(&request.peer.worker.outbox, to, |out| {
        if let Some(version) = upstream.proxy_protocol().filter(|_| lease.socket().is_plain()) {
            request.peer.put_proxy_protocol(version, out);
        }
        auth_request.put((base, host.as_bytes()), view, out);
    })
    .await?;
    let (head, is_strict) = (ResponseHead::new(), upstream.traits.is_strict);
    let mut reply = AuthReply { request, lease: &mut lease, head, is_strict, deadline };
    let mut buffer = HeadBuffer::default();
    h1::read_head(&mut reply, &mut buffer, request.peer.terms(), Method::Get).await?;
    let head = reply.head;
    let decision = auth_request.judge(&head, buffer.filled());
    lease.hear(&head, buffer.filled());
    let (fields, text) = (&request.head.fields, request.inbox.filled());
    if !logged_in::logs_in(fields, text, &head, buffer.filled())
        && let Some(buffer) = h1::emptied(&head, buffer)
    {
        lease.give_back_with(buffer);
    }
    Ok(decision)
}

/// The response to an auth request. One that does not come at once is waited for until the deadline
/// unless the client goes away: it is not there any more to be told whether it may have what it
/// asked for.
struct AuthReply<'r, 'c, S> {
    request: &'r Request<'c, S>,
    lease: &'r mut Lease,
    head: ResponseHead,
    is_strict: bool,
    deadline: Instant,
}

impl<S: ClientStream> Reply for AuthReply<'_, '_, S> {
    type Wait<'w>
        = Answer<'w>
    where
        Self: 'w;

    fn head(&mut self) -> &mut ResponseHead {
        &mut self.head
    }

    fn is_strict(&self) -> bool {
        self.is_strict
    }

    fn recv(&mut self, buffer: Option<HeadBuffer>) -> Result<Answer<'_>, Fault> {
        let soon = self.left().min(HANG_UP_AFTER);
        Ok(match buffer {
            None => self.lease.recv(soon),
            Some(_) if soon.is_zero() => return Err(Fault::OriginReadTimeout),
            Some(buffer) => self.lease.recv_more(buffer, soon),
        })
    }

    async fn recv_late(&mut self, buffer: HeadBuffer) -> Received {
        let left = self.left();
        if left.is_zero() {
            return Ok((Err(WaitError::Expired), buffer));
        }
        let peer = &self.request.peer;
        let origin = self.lease.socket().clone();
        let wait = self.lease.recv_more(buffer, left);
        let watch = (peer.generation.config.server.half_close, &*peer.worker.deadlines);
        unless_hung_up(wait, &origin, self.request.stream.socket(), watch)
            .await
            .ok_or(Fault::ClientGone)
    }
}

impl<S> AuthReply<'_, '_, S> {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
