//! Copies of requests for another upstream, whose answers are not passed on.
//!
//! In goes a request that has been decided on, then its body as it passes on its way to the origin;
//! when all of it has passed, the copy is sent by a task of its own, so that the exchange never
//! waits for it. Copies are bounded in number and in size: where there are too many, the copy is
//! left out and counted. What goes wrong with one is only counted.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use crate::config::{HalfClose, HostPolicy};
use crate::exchange::logged_in;
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::fault::Fault;
use crate::http::head::ResponseHead;
use crate::http::rewrite::{ForwardedFor, RequestRewrite};
use crate::http::{BodyLength, Method};
use crate::ledger::Kind;
use crate::memory::Pressure;
use crate::relay::copied::{Copied, Progress};
use crate::relay::held::Held;
use crate::relay::{Decoder, Encoding, Receiver};
use crate::ring::HeadBuffer;
use crate::upstream::h1::{self, AttemptError, Reply, Terms};
use crate::upstream::host::{host, host_rule};
use crate::upstream::lease::{Answer, Lease};
use crate::upstream::queue::Holder;
use crate::upstream::{Origin, Upstream, Wanted, Who};
use crate::worker::Worker;
use crate::worker::generation::Generation;

/// Copies under way per worker. Each holds its head, its body and a connection.
const COPIES_MAX: usize = 64;

/// Copies may hold so much of `pool.max_connections`: an upstream that is slow to take them must
/// not keep connections from those who wait for an answer.
const POOL_SHARE: usize = 4;

/// Stands in the head of a copy for what depends on the origin, which is chosen when the copy is
/// sent: what its paths begin with, in the first line, and its name. No head has it otherwise (RFC
/// 9110 §5.5).
const UNKNOWN: &str = "\0";

/// A copy of a request whose body passes.
pub(crate) struct Copying {
    pub(crate) body: Copied,
    order: Cell<Option<Box<Order>>>,
}

/// What a copy is made of, but for its body, and for whom.
struct Order {
    worker: Rc<Worker>,
    generation: Rc<Generation>,
    upstream: usize,
    introduction: Vec<u8>,
    head: Vec<u8>,
    framing: BodyLength,
    method: Method,
    may_rest: bool,
}

/// Begins a copy of the client's request, of whose body `in_inbox` bytes have come, for the
/// upstream with that index, of a body of no more than so many bytes. `put` appends the head to
/// send, which has that target and was cut so much shorter. `None` where there is no memory for it.
pub(crate) fn begin(
    request: &Request<'_, impl ClientStream>,
    (upstream, body_bytes_max): (usize, u64),
    sent_as: (&[u8], &[u8]),
    in_inbox: usize,
    put: impl FnOnce(&mut Vec<u8>, &RequestRewrite<'_>),
) -> Option<Box<Copying>> {
    let (worker, generation) = (request.peer.worker, request.peer.generation.clone());
    let to = &generation.upstreams[upstream];
    let mut introduction = Vec::new();
    if let Some(version) = to.proxy_protocol() {
        request.peer.put_proxy_protocol(version, &mut introduction);
    }
    let mut head = Vec::new();
    put(&mut head, &how(request, to, sent_as));
    if let Some(trace) = &request.trace {
        trace.put_in_copy(&mut head);
    }
    let bytes = head.len() as u64;
    if worker.shared.pressure.get() != Pressure::Normal
        || !worker.budget.grow(&worker.ledger, bytes)
    {
        worker.metrics.mirrors_dropped.add(1);
        return None;
    }
    worker.ledger.add(Kind::HeadBuffers, bytes);
    let framing = request.head.body;
    let order = Order {
        worker: worker.clone(),
        upstream,
        introduction,
        head,
        framing,
        method: request.head.method,
        may_rest: may_rest(request, to),
        generation: generation.clone(),
    };
    // What it may hold is bounded by what it may be.
    let memory = (&worker.ledger, &worker.budget);
    let empty = Held::new(u64::MAX, memory);
    let body = Copied::new(Decoder::of(framing), empty, body_bytes_max);
    let begins = request.head.bytes;
    body.add(&request.inbox.filled()[begins..begins + in_inbox]);
    Some(Box::new(Copying { body, order: Cell::new(Some(Box::new(order))) }))
}

impl Copying {
    /// Sends it, where all of the body has passed.
    pub(crate) fn settle(&self) {
        match self.body.take() {
            Progress::Coming => {}
            Progress::Whole(body) => {
                if let Some(order) = self.order.take() {
                    order.send(body);
                }
            }
            Progress::NoMemory => {
                if let Some(order) = self.order.take() {
                    order.worker.metrics.mirrors_dropped.add(1);
                }
            }
        }
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        let bytes = self.head.len() as u64;
        self.worker.ledger.sub(Kind::HeadBuffers, bytes);
        self.worker.budget.shrink(bytes);
    }
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
    upstream: &'a Upstream,
    (target, prefix): (&'a [u8], &'a [u8]),
) -> RequestRewrite<'a> {
    let server = &request.peer.generation.config.server;
    let host = host_rule(upstream.host(), &request.head, Some(UNKNOWN));
    RequestRewrite {
        path: target,
        base: if upstream.traits.differ { UNKNOWN.as_bytes() } else { b"" },
        host,
        via: server.add_via.holds(false).then_some(server.via.as_bytes()),
        cdn_loop: Some(server.via.as_bytes()),
        length: None,
        passes_trailers: upstream.traits.reads_trailers,
        is_last: !may_rest(request, upstream),
        forwarded: Some(ForwardedFor { prefix, ..request.peer.forwarded_for() }),
        extra: b"",
    }
}

impl Order {
    /// Sends the copy with this body, if not too many are under way.
    fn send(self: Box<Self>, body: Held) {
        let worker = self.worker.clone();
        let config = &self.generation.config;
        let share = config.pool.max_connections / POOL_SHARE / config.server.workers;
        if worker.mirroring.get() >= share.clamp(1, COPIES_MAX) || worker.is_closing() {
            worker.metrics.mirrors_dropped.add(1);
            return;
        }
        worker.mirroring.set(worker.mirroring.get() + 1);
        worker.metrics.mirrors.add(1);
        tokio::task::spawn_local(async move {
            if let Err(fault) = self.carry_out(body).await {
                let upstream = self.generation.upstreams[self.upstream].name();
                tracing::debug!(upstream, error = fault.name(), "a copy failed");
                worker.metrics.mirrors_failed.add(1);
            }
            worker.mirroring.set(worker.mirroring.get() - 1);
        });
    }

    /// Sends it and reads the head of its answer, after which the connection is closed, unless all
    /// of the answer came with it: a body that is not passed on is not worth reading.
    async fn carry_out(&self, body: Held) -> Result<(), Fault> {
        let (worker, upstream) = (&self.worker, &*self.generation.upstreams[self.upstream]);
        let timeouts = &*upstream.times;
        let who = Who { holder: Holder::NOBODY, introduction: &self.introduction, times: timeouts };
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
                out.extend_from_slice(&self.introduction);
            }
            put_head(&self.head, lease.whose().as_deref(), out);
            self.put_body(&body, out);
        });
        sent.await.map_err(AttemptError::fault)?;
        drop(body);
        let deadline = Instant::now() + timeouts.read;
        let is_strict = upstream.traits.is_strict;
        let mut reply =
            CopyReply { lease: &mut lease, head: ResponseHead::new(), is_strict, deadline };
        let terms = Terms { limits: self.generation.response_limits, metrics: &worker.metrics };
        let mut buffer = HeadBuffer::default();
        let read = h1::read_head(&mut reply, &mut buffer, terms, self.method).await;
        read.map_err(AttemptError::fault)?;
        let head = reply.head;
        lease.hear(&head, buffer.filled());
        if self.may_rest
            && !logged_in::asks(&head, buffer.filled())
            && let Some(buffer) = h1::emptied(&head, buffer)
        {
            lease.give_back_with(buffer);
        }
        Ok(())
    }

    /// Appends what of the body goes on.
    fn put_body(&self, body: &Held, out: &mut Vec<u8>) {
        let rules = self.generation.upstreams[self.upstream].traits.request_chunks();
        let mut decoder = Decoder::of(self.framing).with(rules);
        for piece in body.pieces() {
            let put = Encoding::AsIs.append(&mut decoder, piece, out);
            debug_assert!(put.is_ok(), "it has been looked at when it passed");
        }
    }
}

/// Appends the head of a copy as `origin` is to see it.
fn put_head(head: &[u8], origin: Option<&Origin>, out: &mut Vec<u8>) {
    let mut parts = head.split(|byte| [*byte] == *UNKNOWN.as_bytes());
    let first = parts.next().unwrap_or_default();
    out.extend_from_slice(first);
    let mut is_first_line = !first.contains(&b'\n');
    for part in parts {
        let known = match origin {
            Some(origin) if is_first_line => origin.base.as_str(),
            Some(origin) => host(&HostPolicy::Origin, Some(&origin.authority)),
            None => "",
        };
        out.extend_from_slice(known.as_bytes());
        out.extend_from_slice(part);
        is_first_line &= !part.contains(&b'\n');
    }
}

/// The response to a copy.
struct CopyReply<'r> {
    lease: &'r mut Lease,
    head: ResponseHead,
    is_strict: bool,
    deadline: Instant,
}

impl Reply for CopyReply<'_> {
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
        let left = self.deadline.saturating_duration_since(Instant::now());
        Ok(match buffer {
            None => self.lease.recv(left),
            Some(_) if left.is_zero() => return Err(Fault::OriginReadTimeout),
            Some(buffer) => self.lease.recv_more(buffer, left),
        })
    }
}
