//! Copies of requests for another upstream, whose answers are not passed on.
//!
//! In goes a request that has been decided on; its copy is made at once and sent by a task of its
//! own, so that the exchange never waits for it. Copies are bounded in number and in size: where
//! there are too many, the copy is left out and counted. What goes wrong with one is only counted.

use std::rc::Rc;
use std::time::Instant;

use crate::config::HalfClose;
use crate::exchange::logged_in;
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::exchange::upload::put_body;
use crate::fault::Fault;
use crate::http::Method;
use crate::http::head::ResponseHead;
use crate::http::rewrite::RequestRewrite;
use crate::ledger::Kind;
use crate::relay::Receiver;
use crate::ring::HeadBuffer;
use crate::ring::waits::Recv;
use crate::upstream::h1::{self, AttemptError, Reply, Terms};
use crate::upstream::host::host_rule;
use crate::upstream::lease::Lease;
use crate::upstream::queue::Holder;
use crate::upstream::{Origin, Upstream, Wanted, Who};
use crate::worker::Worker;
use crate::worker::generation::Generation;

/// Copies under way per worker. Each holds its head, its body and a connection.
const COPIES_MAX: usize = 64;

/// Copies may hold so much of `pool.max_connections`: an upstream that is slow to take them must
/// not keep connections from those who wait for an answer.
const POOL_SHARE: usize = 4;

/// Sends a copy of the client's request, of whose body `body_bytes` follow the head, to `upstream`.
/// `put` appends the head to send.
pub(crate) fn send(
    request: &Request<'_, impl ClientStream>,
    upstream: usize,
    target: &[u8],
    body_bytes: usize,
    put: impl FnOnce(&mut Vec<u8>, &RequestRewrite<'_>),
) {
    let worker = request.peer.worker;
    let config = &request.peer.generation.config;
    let share = config.pool.max_connections / POOL_SHARE / config.server.workers;
    if worker.mirroring.get() >= share.clamp(1, COPIES_MAX) || worker.is_closing() {
        worker.metrics.mirrors_dropped.add(1);
        return;
    }
    let mut copy = Vec::new();
    let generation = request.peer.generation.clone();
    let to = &generation.upstreams[upstream];
    let mut introduction = Vec::new();
    if let Some(version) = to.proxy_protocol() {
        request.peer.put_proxy_protocol(version, &mut introduction);
    }
    // Which origin it will be is not known yet.
    let first = to.any_origin();
    put(&mut copy, &how(request, (to, first.as_deref()), target));
    put_body(request, body_bytes, to.traits.request_chunks(), &mut copy);
    let bytes = copy.len() as u64;
    if !worker.budget.grow(&worker.ledger, bytes) {
        worker.metrics.mirrors_dropped.add(1);
        return;
    }
    worker.ledger.add(Kind::HeadBuffers, bytes);
    worker.mirroring.set(worker.mirroring.get() + 1);
    worker.metrics.mirrors.add(1);
    let worker = worker.clone();
    let method = request.head.method;
    let may_rest = may_rest(request, to);
    tokio::task::spawn_local(async move {
        let upstream = &generation.upstreams[upstream];
        if let Err(fault) =
            send_copy(&worker, &generation, upstream, (&introduction, &copy), (method, may_rest))
                .await
        {
            tracing::debug!(upstream = upstream.name(), error = fault.name(), "a copy failed");
            worker.metrics.mirrors_failed.add(1);
        }
        worker.mirroring.set(worker.mirroring.get() - 1);
        worker.ledger.sub(Kind::HeadBuffers, bytes);
        worker.budget.shrink(bytes);
    });
}

/// Whether the connection that carries the copy may carry another request: the origin reads its
/// body, and nobody logs in on it.
fn may_rest(request: &Request<'_, impl ClientStream>, upstream: &Upstream) -> bool {
    (!request.has_odd_body() || upstream.traits.reads_all_bodies)
        && !logged_in::brings_login(&request.head.fields, request.inbox.filled())
}

/// How the head of the copy is written.
fn how<'a>(
    request: &'a Request<'_, impl ClientStream>,
    (upstream, first): (&'a Upstream, Option<&'a Origin>),
    target: &'a [u8],
) -> RequestRewrite<'a> {
    let server = &request.peer.generation.config.server;
    let origin = first.map(|first| first.authority.as_str());
    RequestRewrite {
        path: target,
        base: first.map_or(b"", |first| first.base.as_bytes()),
        host: host_rule(upstream.host(), &request.head, origin),
        via: server.add_via.holds(false).then_some(server.via.as_bytes()),
        cdn_loop: Some(server.via.as_bytes()),
        length: None,
        passes_trailers: upstream.traits.reads_trailers,
        is_last: !may_rest(request, upstream),
        forwarded: Some(request.peer.forwarded_for()),
        extra: b"",
    }
}

/// Sends the copy and reads the head of its answer, after which the connection is closed, unless
/// all of the answer came with it: a body that is not passed on is not worth reading.
async fn send_copy(
    worker: &Rc<Worker>,
    generation: &Generation,
    upstream: &Upstream,
    (introduction, copy): (&[u8], &[u8]),
    (method, may_rest): (Method, bool),
) -> Result<(), Fault> {
    let timeouts = &*upstream.times;
    let who = Who { holder: Holder::NOBODY, introduction, times: timeouts };
    let mut lease = upstream.checkout(&worker.pool, who, Wanted::default()).await?;
    let origin = Receiver {
        socket: lease.socket(),
        deadlines: &worker.deadlines,
        stall: timeouts.write,
        half_close: HalfClose::Keep,
        stats: None,
    };
    let sent = h1::send(&worker.outbox, origin, |out| {
        if lease.socket().is_plain() {
            out.extend_from_slice(introduction);
        }
        out.extend_from_slice(copy);
    });
    sent.await.map_err(AttemptError::fault)?;
    let deadline = Instant::now() + timeouts.read;
    let is_strict = upstream.traits.is_strict;
    let mut reply = CopyReply { lease: &mut lease, head: ResponseHead::new(), is_strict, deadline };
    let terms = Terms { limits: generation.response_limits, metrics: &worker.metrics };
    let read = h1::read_head(&mut reply, terms, method).await;
    let (head, buffer) = (reply.head, read.map_err(AttemptError::fault)?);
    lease.hear(&head, buffer.filled());
    if may_rest
        && !logged_in::asks(&head, buffer.filled())
        && let Some(buffer) = h1::emptied(&head, buffer)
    {
        lease.give_back_with(buffer);
    }
    Ok(())
}

/// The response to a copy.
struct CopyReply<'r> {
    lease: &'r mut Lease,
    head: ResponseHead,
    is_strict: bool,
    deadline: Instant,
}

impl Reply for CopyReply<'_> {
    fn head(&mut self) -> &mut ResponseHead {
        &mut self.head
    }

    fn is_strict(&self) -> bool {
        self.is_strict
    }

    fn recv(&mut self, buffer: Option<HeadBuffer>) -> Result<Recv<'_>, Fault> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        Ok(match buffer {
            None => self.lease.recv(left),
            Some(_) if left.is_zero() => return Err(Fault::OriginReadTimeout),
            Some(buffer) => self.lease.recv_more(buffer, left),
        })
    }
}
