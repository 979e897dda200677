//! A question to an upstream before a request may go on, on the wire.
//!
//! In goes a question with the facts that it quotes; out comes what the answer means. The question
//! goes through the pool like any request, and has one deadline, from the search for a connection
//! to the head of the answer; a connection on which an answer has come whole goes back. Whatever
//! goes wrong is no answer, and what that means is for the configuration to say.

use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::config::HostPolicy;
use crate::connection::Client;
use crate::exchange::{Failed, INTERIM_ANSWERS_MAX, no_room, send_to_origin, unless_gone};
use crate::fault::Fault;
use crate::hooks::{Facts, Judgement, Question};
use crate::http::head::ResponseHead;
use crate::http::{BodyLength, Method};
use crate::relay::HANG_UP_AFTER;
use crate::ring::hang_up::unless_hung_up;
use crate::ring::{HeadBuffer, Waited};
use crate::seat::Reached;
use crate::upstream::Upstream;
use crate::upstream::lease::Lease;

/// Asks. The only faults are that the worker ends and that the client has left. `is_connected` is
/// told as soon as the question has a connection.
pub(crate) async fn ask(
    client: &Client<'_>,
    question: &Question,
    facts: &Facts<'_>,
    is_connected: &Notify,
) -> Result<Judgement, Fault> {
    let upstream = &client.generation.upstreams[question.upstream()];
    match answered(client, upstream, question, facts, is_connected).await {
        Ok(judgement) => Ok(judgement),
        Err(fault @ (Fault::Stopping | Fault::ClientGone)) => Err(fault),
        Err(fault) => {
            let upstream = upstream.name();
            tracing::warn!(upstream, error = fault.name(), "forward_auth got no answer");
            Ok(Judgement::Failed)
        }
    }
}

async fn answered(
    client: &Client<'_>,
    upstream: &Upstream,
    question: &Question,
    facts: &Facts<'_>,
    is_connected: &Notify,
) -> Result<Judgement, Fault> {
    let deadline = Instant::now() + question.timeout();
    let mut is_fresh = false;
    loop {
        // A connection that is given up on its way is closed, and a place in the queue is left.
        let checkout = upstream.checkout(&client.worker.pool, client.holder, is_fresh);
        let lease = tokio::time::timeout_at(deadline.into(), unless_gone(client, checkout)).await;
        let lease = lease.map_err(|_| Fault::OriginConnectTimeout)??;
        is_connected.notify_one();
        let may_repeat = lease.is_reused && !is_fresh;
        match attempt(client, upstream, lease, question, facts, deadline).await {
            Ok(judgement) => return Ok(judgement),
            Err(Failed::Fault(fault)) => return Err(fault),
            Err(_) if may_repeat => is_fresh = true,
            Err(_) => return Err(Fault::OriginClosed),
        }
    }
}

async fn attempt(
    client: &Client<'_>,
    upstream: &Upstream,
    lease: Lease,
    question: &Question,
    facts: &Facts<'_>,
    deadline: Instant,
) -> Result<Judgement, Failed> {
    let mut lease = client.seat.reach(lease);
    let origin = upstream.origin(lease.origin()).map(|origin| origin.authority.as_str());
    let host = host(upstream.host(), origin);
    send_to_origin(client, &lease, |out| question.put(host.as_bytes(), facts, out)).await?;
    let (head, buffer) = read_answer(client, &mut lease, deadline).await?;
    let judgement = question.judge(&head, buffer.filled());
    give_back(lease, &head, buffer);
    Ok(judgement)
}

/// The Host of a question to an origin whose own is `authority`.
pub(crate) fn host<'a>(policy: &'a HostPolicy, authority: Option<&'a str>) -> &'a str {
    match policy {
        HostPolicy::Fixed(host) => host,
        HostPolicy::Pass | HostPolicy::Origin => authority.unwrap_or_default(),
    }
}

/// Reads the head of the final answer, which the buffer then begins with.
async fn read_answer(
    client: &Client<'_>,
    lease: &mut Lease,
    deadline: Instant,
) -> Result<(ResponseHead, HeadBuffer), Failed> {
    let limits = &client.generation.head_limits;
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut interims = 0;
    let mut head = ResponseHead::new();
    let (mut received, mut buffer) = lease.recv(left().min(HANG_UP_AFTER)).await;
    loop {
        if matches!(received, Err(Waited::Expired)) && !left().is_zero() {
            (received, buffer) = wait_on(client, lease, buffer, left()).await?;
        }
        match received {
            Ok(0) | Err(Waited::Failed(_)) if buffer.is_empty() && interims == 0 => {
                return Err(Failed::Unanswered);
            }
            Ok(0) | Err(Waited::Failed(_)) => return Err(Fault::OriginTruncated.into()),
            Ok(_) => {}
            Err(Waited::Expired) => return Err(Fault::OriginReadTimeout.into()),
            Err(Waited::Interrupted) => return Err(Fault::Stopping.into()),
        }
        while head.parse(buffer.filled(), limits, Method::Get).map_err(Fault::OriginHead)? {
            if head.status >= 200 {
                return Ok((head, buffer));
            }
            interims += 1;
            if head.status == 101 || interims > INTERIM_ANSWERS_MAX {
                return Err(Fault::OriginAnswer.into());
            }
            buffer.consume(head.bytes);
            head.reset();
        }
        buffer.make_room(limits.head_bytes).map_err(no_room)?;
        if left().is_zero() {
            return Err(Fault::OriginReadTimeout.into());
        }
        (received, buffer) = lease.recv_more(buffer, left().min(HANG_UP_AFTER)).await;
    }
}

/// Goes on waiting for an answer that did not come at once, unless the client goes away:
/// nobody wants to know any more whether it may have what it asked for.
async fn wait_on(
    client: &Client<'_>,
    lease: &mut Lease,
    buffer: HeadBuffer,
    limit: Duration,
) -> Result<(Result<usize, Waited>, HeadBuffer), Failed> {
    let origin = lease.socket().clone();
    let half_close = client.generation.config.server.half_close;
    let wait = lease.recv_more(buffer, limit);
    let received =
        unless_hung_up(wait, &origin, client.socket, (half_close, &client.worker.deadlines)).await;
    received.ok_or(Fault::ClientGone.into())
}

/// Keeps the connection if the whole answer is there and nothing else.
fn give_back(lease: Reached<'_>, head: &ResponseHead, mut buffer: HeadBuffer) {
    let behind_head = (buffer.len() - head.bytes) as u64;
    let is_whole = match head.body {
        BodyLength::Empty => behind_head == 0,
        BodyLength::Exact(bytes) => behind_head == bytes,
        BodyLength::Chunked | BodyLength::UntilClose => false,
    };
    if head.is_persistent && is_whole {
        buffer.consume(buffer.len());
        lease.give_back_with(buffer);
    }
}
