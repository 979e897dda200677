//! Copies of requests for another upstream, whose answers nobody gets.
//!
//! In goes a request that has been decided on; its copy is made at once and sent by a task of its
//! own, so that the exchange never waits for it. Copies are bounded in number and in size: where
//! there are too many, the copy is left out and counted. What goes wrong with one is only counted.

use std::convert::Infallible;
use std::rc::Rc;

use crate::config::HalfClose;
use crate::connection::Client;
use crate::fault::Fault;
use crate::generation::Generation;
use crate::http::Method;
use crate::http::head::ResponseHead;
use crate::http::rewrite::RequestRewrite;
use crate::ledger::Kind;
use crate::relay::Receiver;
use crate::upstream::Upstream;
use crate::upstream::queue::Holder;
use crate::way::host_rule;
use crate::worker::Worker;

/// Copies under way per worker. Each holds its head, its body and a connection.
const COPIES_MAX: usize = 64;

/// Copies may hold so much of `pool.max_connections`: an upstream that is slow to take them must
/// not keep connections from those who wait for an answer.
const POOL_SHARE: usize = 4;

/// Sends a copy of the client's request, of whose body `body_bytes` follow the head, to `upstream`.
/// `put` appends the head to send.
pub(crate) fn send(
    client: &Client<'_>,
    upstream: usize,
    target: &[u8],
    body_bytes: usize,
    put: impl FnOnce(&mut Vec<u8>, &RequestRewrite<'_>),
) {
    let worker = client.worker;
    let config = &client.generation.config;
    let share = config.pool.max_connections / POOL_SHARE / config.server.workers;
    if worker.mirroring.get() >= share.clamp(1, COPIES_MAX) || worker.is_closing() {
        worker.metrics.mirrors_dropped.add(1);
        return;
    }
    let mut copy = Vec::new();
    let generation = client.generation.clone();
    put(&mut copy, &how(client, &generation.upstreams[upstream], target));
    let text = client.inbox.filled();
    let head_bytes = client.request.bytes;
    copy.extend_from_slice(&text[head_bytes..head_bytes + body_bytes]);
    let bytes = copy.len() as u64;
    if !worker.budget.grow(&worker.ledger, bytes) {
        worker.metrics.mirrors_dropped.add(1);
        return;
    }
    worker.ledger.add(Kind::HeadBuffers, bytes);
    worker.mirroring.set(worker.mirroring.get() + 1);
    worker.metrics.mirrors.add(1);
    let worker = worker.clone();
    let method = client.request.method;
    tokio::task::spawn_local(async move {
        let upstream = &generation.upstreams[upstream];
        if let Err(fault) = deliver(&worker, &generation, upstream, &copy, method).await {
            tracing::debug!(upstream = upstream.name(), error = fault.name(), "a copy failed");
            worker.metrics.mirrors_failed.add(1);
        }
        worker.mirroring.set(worker.mirroring.get() - 1);
        worker.ledger.sub(Kind::HeadBuffers, bytes);
        worker.budget.shrink(bytes);
    });
}

/// How the head of the copy is written.
fn how<'a>(client: &'a Client<'_>, upstream: &'a Upstream, target: &'a [u8]) -> RequestRewrite<'a> {
    // Which origin it will be is not known yet.
    let origin = upstream.members().first().map(|first| first.origin.authority.as_str());
    RequestRewrite {
        path: target,
        host: host_rule(upstream.host(), &client.request, origin),
        via: client.generation.config.server.via.as_bytes(),
        forwarded: Some(client.forwarded_for()),
        extra: b"",
    }
}

/// Sends the copy and reads the head of its answer, after which the connection is closed: a body
/// that nobody wants is not worth reading.
async fn deliver(
    worker: &Rc<Worker>,
    generation: &Generation,
    upstream: &Upstream,
    copy: &[u8],
    method: Method,
) -> Result<(), Fault> {
    let timeouts = &generation.config.timeouts;
    let mut lease = upstream.checkout(&worker.pool, Holder::NOBODY, false).await?;
    let sent = worker.send_built(lease.socket(), |out| {
        out.extend_from_slice(copy);
        Ok::<_, Infallible>(())
    });
    let sent = sent.map_err(|_| Fault::OriginClosed)?;
    if let Some(rest) = sent.rest {
        let origin = Receiver {
            socket: lease.socket(),
            deadlines: &worker.deadlines,
            stall: timeouts.write,
            half_close: HalfClose::Keep,
            account: None,
        };
        origin.send_all(&rest).await.map_err(|_| Fault::OriginWriteTimeout)?;
    }
    let mut head = ResponseHead::new();
    let (received, mut buffer) = lease.recv(timeouts.read).await;
    if !matches!(received, Ok(1..)) {
        return Err(Fault::OriginClosed);
    }
    let parsed = head.parse(buffer.filled(), &generation.head_limits, method);
    // Only an answer without a body, in one piece, leaves a connection that can be used again.
    if parsed.map_err(Fault::OriginHead)?
        && head.status >= 200
        && head.is_persistent
        && head.body.is_empty()
        && buffer.len() == head.bytes
    {
        buffer.consume(head.bytes);
        lease.give_back_with(buffer);
    }
    Ok(())
}
