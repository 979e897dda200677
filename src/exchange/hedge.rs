//! A second attempt beside the first, at another origin, where the first is silent for longer than
//! most.
//!
//! In goes a request that is out, and how long its answer is waited for alone; out comes the
//! connection on which a good answer begins first. The other one is closed: an answer that is under
//! way is no rest to give to anybody. An answer that is bad waits for a good one for as long as the
//! first attempt has had alone, and no longer. Nothing that changes something at its origin is sent
//! twice here, no connection is waited for, and no third attempt is made.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::exchange::destination::Destination;
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::send::{begin_request, finish_request};
use crate::exchange::stream::{ClientStream, unless_gone};
use crate::exchange::upload::RequestBody;
use crate::exchange::wanted::wanted;
use crate::fault::Fault;
use crate::hooks::{Hedged, Hedging};
use crate::memory::Pressure;
use crate::ring::{HeadBuffer, WaitError, clock};
use crate::upstream::Who;
use crate::upstream::h1::{AttemptError, First};
use crate::upstream::lease::Lease;
use crate::worker::slot::Reached;

/// What has come first.
enum Raced {
    First(First),
    /// Sent at this time, in microseconds; the first attempt has had a bad answer, if it
    /// `has_failed`.
    Second {
        lease: Lease,
        first: First,
        began: u64,
        has_failed: bool,
    },
    /// Nothing, and there is no second attempt any more.
    Nothing,
}

/// Waits for the first bytes of an answer on `lease` and, after so long, on another one beside it,
/// which then takes its place if it wins: when that one was sent.
pub(super) async fn race(
    request: &Request<'_, impl ClientStream>,
    lease: &mut Reached<'_>,
    destination: &mut Destination,
    (body, after): (&RequestBody, Duration),
    record: &mut Record,
) -> Result<Option<u64>, AttemptError> {
    let began = Instant::now();
    let (origin, mut hedged) = (lease.origin(), None);
    let raced = {
        let limit = request.peer.times.read;
        let raced = raced(request, lease, destination, (body, after, began + limit), &mut hedged);
        let raced = tokio::time::timeout(limit, raced);
        unless_gone(request, async { raced.await.unwrap_or(Err(Fault::OriginReadTimeout)) }).await
    };
    let metrics = &request.peer.worker.metrics;
    if let Some(hedged) = hedged {
        metrics.hedges[hedged as usize].add(1);
        record.hedged(hedged.name());
    }
    let Some(hooks) = &mut destination.hooks else { return Ok(None) };
    hooks.hedged = hedged;
    match raced? {
        Raced::First(first) => hooks.first = Some(first),
        Raced::Nothing => {}
        Raced::Second { lease: second, first, began: sent, has_failed } => {
            // It would have taken at least that long.
            let late = began.elapsed();
            hooks.first = Some(first);
            hooks.winner = Some((second.origin(), !second.is_reused));
            if let Some(hedging) = hooks.hedging() {
                hedging.learn(hooks.upstream, late);
            }
            match destination.listener(request) {
                Some(upstream) if has_failed => upstream.hear(origin, false),
                Some(upstream) => {
                    let us = u32::try_from(late.as_micros()).unwrap_or(u32::MAX);
                    upstream.was_slow(origin, us);
                }
                None => {}
            }
            record.connected(&second);
            lease.replace(second);
            return Ok(Some(sent));
        }
    }
    Ok(None)
}

async fn raced(
    request: &Request<'_, impl ClientStream>,
    lease: &mut Lease,
    destination: &Destination,
    (body, after, until): (&RequestBody, Duration, Instant),
    hedged: &mut Option<Hedged>,
) -> Result<Raced, Fault> {
    let mut patience = std::pin::pin!(tokio::time::sleep(after));
    let early = poll_fn(|cx| match lease.poll_reply(cx) {
        Poll::Ready(first) => Poll::Ready(Some(first)),
        Poll::Pending => patience.as_mut().poll(cx).map(|()| None),
    });
    if let Some(first) = early.await {
        return Ok(Raced::First(of(first)));
    }
    if lease.is_bound() || !may_begin(request, destination, lease.origin()) {
        return Ok(Raced::Nothing);
    }
    *hedged = Some(Hedged::Failed);
    let mut grace = std::pin::pin!(tokio::time::sleep_until(until.into()));
    let mut second = std::pin::pin!(second(request, destination, body, lease.origin()));
    let (mut bad, mut has_failed) = (None, false);
    let raced = poll_fn(|cx| {
        if bad.is_none()
            && let Poll::Ready(first) = lease.poll_reply(cx)
        {
            if is_good(&first) || has_failed {
                return Poll::Ready(Raced::First(of(first)));
            }
            bad = Some(of(first));
            grace.as_mut().reset(until.min(Instant::now() + after).into());
        }
        if !has_failed && let Poll::Ready(ended) = second.as_mut().poll(cx) {
            match ended {
                Ok((lease, first, began)) if is_good(&first) => {
                    let (first, has_failed) = (of(first), bad.is_some());
                    return Poll::Ready(Raced::Second { lease, first, began, has_failed });
                }
                _ => has_failed = true,
            }
        }
        let is_late = bad.is_some() && grace.as_mut().poll(cx).is_ready();
        match (has_failed || is_late, bad.take()) {
            (true, Some(first)) => Poll::Ready(Raced::First(first)),
            (_, waiting) => {
                bad = waiting;
                Poll::Pending
            }
        }
    })
    .await;
    *hedged = Some(match &raced {
        Raced::Second { .. } => Hedged::Won,
        _ if has_failed => Hedged::Failed,
        _ => Hedged::Lost,
    });
    Ok(raced)
}

/// Whether there may be a second attempt: nobody waits for a connection or for memory, somebody
/// else can be asked by a client that is not kept with one, and the route has not had too many.
fn may_begin<S>(request: &Request<'_, S>, destination: &Destination, origin: usize) -> bool {
    let worker = request.peer.worker;
    let is_scarce =
        worker.shared.pool.is_wanted() || worker.shared.pressure.get() != Pressure::Normal;
    let hedging = destination.hooks.as_ref().and_then(|hooks| hooks.hedging());
    let has_second = destination.upstream(request).is_some_and(|upstream| {
        upstream.has_second(origin) && wanted(request, upstream).mark.is_none()
    });
    !is_scarce && has_second && hedging.is_some_and(Hedging::may_begin)
}

/// Sends the request to another origin than `origin`, and waits for its answer to begin; when it
/// was sent.
async fn second(
    request: &Request<'_, impl ClientStream>,
    destination: &Destination,
    body: &RequestBody,
    origin: usize,
) -> Result<(Lease, (std::io::Result<usize>, HeadBuffer), u64), Fault> {
    let upstream = destination.upstream(request).ok_or(Fault::OriginsDown)?;
    let introduction = request.peer.introduction(upstream);
    let times = &request.peer.times;
    let who = Who { holder: request.peer.holder, introduction: &introduction, times };
    let which = (wanted(request, upstream).key, origin);
    let mut lease = upstream.second(&request.peer.worker.pool, who, which).await?;
    let began = clock::precise_us();
    let left = begin_request(request, &lease, destination, body);
    if let Some(rest) = left.map_err(AttemptError::fault)? {
        let rest = (rest, body.is_whole());
        finish_request(request, &lease, rest).await.map_err(AttemptError::fault)?;
    }
    let first = poll_fn(|cx| lease.poll_reply(cx)).await;
    Ok((lease, first, began))
}

/// As the reader of heads has it.
fn of((received, buffer): (std::io::Result<usize>, HeadBuffer)) -> First {
    (received.map_err(WaitError::Failed), buffer)
}

/// Where the class of the status stands in "HTTP/1.1 200".
const CLASS_AT: usize = 9;

/// Whether an answer begins that is no server's error.
fn is_good((received, buffer): &(std::io::Result<usize>, HeadBuffer)) -> bool {
    matches!(received, Ok(1..)) && buffer.filled().get(CLASS_AT) != Some(&b'5')
}
