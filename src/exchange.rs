//! One request, one answer, one record: the story of an exchange, straight down the page.
//!
//! In goes a client with a request head in its inbox; out comes whether the connection goes on.
//! Route, check out, send, wait, deliver. A request is repeated once, on a new connection, where
//! a reused one died before any byte of an answer and nothing is lost by asking again.
//!
//! Everything that waits here has a deadline, and every failure is a [`Fault`], whose answer is
//! chosen in one place.

use std::convert::Infallible;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::account::{Ending, WaitsOn};
use crate::answer::{self, Served};
use crate::connect;
use crate::connection::Client;
use crate::delivery::deliver;
use crate::fault::{Close, Fault};
use crate::hooking;
use crate::hooks::Setback;
use crate::http::head::HeadError;
use crate::http::rewrite;
use crate::http::{Method, Version};
use crate::record::Record;
use crate::relay::HANG_UP_AFTER;
use crate::ring::hang_up::{dropped_if_hung_up, unless_hung_up};
use crate::ring::{HeadBuffer, NoRoom, Waited, clock};
use crate::tunnel::Tunnel;
use crate::upgrade;
use crate::upload::{Progress, RequestBody, Upload, upload_rest};
use crate::upstream::lease::Lease;
use crate::way::{Found, Way};
use crate::worker::Unsent;

/// What becomes of the client's connection.
pub enum After {
    Reuse,
    Close(Close),
    /// It is no connection for HTTP any more.
    Tunnel(Box<Tunnel>),
}

/// Carries one exchange out.
pub async fn run(client: &mut Client<'_>) -> After {
    let mut record = Record::begin(client, true);
    let outcome = match client.request.method {
        Method::Connect => connect::run(client, &mut record).await,
        _ => forward(client, &mut record).await,
    };
    let after = match outcome {
        Ok(after) => after,
        Err(fault) => answer::refuse(client, fault, &mut record).await,
    };
    // The record quotes the head, so that this comes before the head is forgotten.
    record.write(client);
    match client.account.ending() {
        Ending::No => {}
        // A tunnel sees it for itself, and has the record.
        Ending::Cut if matches!(after, After::Tunnel(_)) => {}
        Ending::Cut => return After::Close(Close::Cut),
        // It came too late.
        Ending::GiveUp(fault) => {
            client.account.settle(fault);
        }
    }
    if matches!(after, After::Reuse) {
        client.inbox.consume(client.request_bytes);
    }
    after
}

/// Answers a head that could not be taken.
pub async fn refuse_head(client: &mut Client<'_>, fault: Fault) {
    client.request.settle();
    let mut record = Record::begin(client, false);
    answer::refuse(client, fault, &mut record).await;
    record.write(client);
}

async fn forward(client: &mut Client<'_>, record: &mut Record) -> Result<After, Fault> {
    let mut body = RequestBody::of(client)?;
    client.request_bytes = client.request.bytes + body.in_inbox;
    client.is_whole = body.is_whole();
    record.received(client.account, body.in_inbox as u64);
    if let Served::Here(after) = answer::own(client, record).await? {
        return Ok(after);
    }
    let mut way = match Way::find(client, &mut body, record).await? {
        Found::Way(way) => way,
        Found::Answered(after) => return Ok(after),
    };
    let fault = match body.arrive(client, record).await {
        Ok(()) => match try_until_served(client, &mut way, &body, record).await {
            Ok(after) => return Ok(after),
            Err(fault) => fault,
        },
        Err(fault) => fault,
    };
    match &mut way {
        // Its own pages and fields are for the errors of a route too.
        Way::Hooked(hooking) => Ok(Box::pin(hooking::refuse(client, hooking, fault, record)).await),
        Way::Route(_) | Way::Forward(_) => Err(fault),
    }
}

async fn try_until_served(
    client: &mut Client<'_>,
    way: &mut Way,
    body: &RequestBody,
    record: &mut Record,
) -> Result<After, Fault> {
    let is_repeatable = body.is_whole() && client.request.method.is_idempotent();
    let mut is_repeated = false;
    loop {
        record.wait_for_pool(way);
        let at_rest = if is_repeated { None } else { way.take_idle(client) };
        let lease = if let Some(lease) = at_rest {
            Ok(lease)
        } else {
            // Pinned, because a future that is passed by value is copied.
            let checkout = std::pin::pin!(way.checkout(client, is_repeated));
            unless_gone(client, checkout).await
        };
        let lease = match lease {
            Ok(lease) => lease,
            Err(fault) if client.account.is_ended() || fault == Fault::ClientGone => {
                return Err(fault);
            }
            // Of this attempt, nothing has been sent.
            Err(fault) if way.tries_again(client, Setback::Fault(fault)) => continue,
            Err(fault) => return Err(fault),
        };
        record.connected(&lease);
        let may_repeat = lease.is_reused && !is_repeated;
        is_repeated = true;
        match attempt(client, lease, way, body, record).await {
            Ok(after) => return Ok(after),
            Err(failed) if client.account.is_ended() => return Err(failed.fault()),
            Err(Failed::Unsent) if may_repeat => {}
            Err(Failed::Unanswered) if may_repeat && is_repeatable => {}
            Err(Failed::Unwelcome) => {}
            Err(failed) => {
                let fault = failed.fault();
                if !is_repeatable || !way.tries_again(client, Setback::Fault(fault)) {
                    return Err(fault);
                }
            }
        }
    }
}

/// Awaits a connection, unless it is decided that the exchange ends or the client goes away during
/// a wait that is worth watching. What is dropped half-way closes what it has opened.
pub(crate) async fn unless_gone<T>(
    client: &Client<'_>,
    wait: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let mut wait = std::pin::pin!(client.account.unless_ended(wait));
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

/// How one attempt on one connection failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failed {
    /// The connection was dead: not a byte of the request went out.
    Unsent,
    /// The connection died before a byte of an answer.
    Unanswered,
    /// The answer is one after which the route wants another attempt.
    Unwelcome,
    Fault(Fault),
}

impl Failed {
    fn fault(self) -> Fault {
        match self {
            Self::Unsent | Self::Unanswered | Self::Unwelcome => Fault::OriginClosed,
            Self::Fault(fault) => fault,
        }
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

async fn attempt(
    client: &mut Client<'_>,
    lease: Lease,
    way: &mut Way,
    body: &RequestBody,
    record: &mut Record,
) -> Result<After, Failed> {
    let worker = client.worker;
    let mut lease = client.seat.reach(lease);
    client.account.waits_on.set(WaitsOn::OriginToAnswer);
    send_request(client, &lease, way, body).await?;
    lease.expect_reply();
    let generation = client.generation.clone();
    let (client_socket, origin_socket) = (client.socket.clone(), lease.socket().clone());
    let progress = Progress::new(body.is_whole(), client.request.expects_continue);
    let rest = std::pin::pin!(upload_rest(
        worker,
        &generation.config,
        client.account,
        &client_socket,
        &origin_socket,
        body,
        &progress
    ));
    let mut upload =
        Upload::new(rest, &client_socket, &origin_socket, &progress, &worker.deadlines);
    let reply = {
        let reply = std::pin::pin!(read_reply(client, &mut lease, &progress));
        upload.beside(reply).await
    };
    record.sent(client.account, progress.interim_bytes.get());
    if let Some(fault) = upload.fault() {
        record.moved(progress.control.received.get(), 0);
        // The client's side failed, or the origin took nothing for too long: no answer will make
        // sense any more, and the origin must not take what it has for the whole.
        return Err(Failed::Fault(fault));
    }
    let buffer = match reply {
        Ok(buffer) => buffer,
        Err(failed) => {
            record.moved(upload.end().await, 0);
            return Err(failed);
        }
    };
    let is_uploaded = progress.is_complete();
    if client.response.status == 101 {
        record.moved(upload.end().await, 0);
        return Ok(upgrade::switch(client, lease, &buffer, is_uploaded, record).await?);
    }
    if client.response.status == 407 && way.refuses_us(client) {
        record.moved(upload.end().await, 0);
        return Err(Fault::ParentRefused.into());
    }
    if let Some(instead) = way.instead(client, &buffer, body) {
        record.moved(upload.end().await, 0);
        return Box::pin(way.answer_instead(client, instead, record)).await;
    }
    record.answered(client.response.status);
    let delivered = {
        let delivery = std::pin::pin!(deliver(client, lease, buffer, way, &progress, record));
        upload.beside(delivery).await
    };
    if progress.is_running() {
        // The answer was over before the request: the client is told to stop by the close.
        upload.end().await;
    }
    record.moved(progress.control.received.get(), 0);
    delivered
}

/// Sends the head as the origin shall see it, with what of the body came with it.
async fn send_request(
    client: &Client<'_>,
    lease: &Lease,
    way: &Way,
    body: &RequestBody,
) -> Result<(), Failed> {
    let text = client.inbox.filled();
    let head = &client.request;
    send_to_origin(client, lease, |out| {
        let repeated = match way {
            Way::Route(_) => head.repeated().map(|it| (it, client.generation.id, lease.origin())),
            Way::Hooked(_) | Way::Forward(_) => None,
        };
        client.sent_request.borrow_mut().put(repeated, out, |out| {
            let path = way.sent_path(head, text);
            way.put_request(client, &way.rewrite(client, lease, &path), out);
        });
        out.extend_from_slice(&text[head.bytes..head.bytes + body.in_inbox]);
    })
    .await
}

/// Sends what `build` puts together, waiting where the origin is slower.
pub(crate) async fn send_to_origin(
    client: &Client<'_>,
    lease: &Lease,
    build: impl FnOnce(&mut Vec<u8>),
) -> Result<(), Failed> {
    let worker = client.worker;
    let sent = worker.send_built(lease.socket(), |out| {
        build(out);
        Ok::<_, Infallible>(())
    });
    let rest = match sent {
        Ok(sent) => sent.rest,
        // Nothing went out; where the origin has said something before it closed (408, say), a new
        // connection gets the same answer.
        Err(Unsent::Broken) => return Err(Failed::Unsent),
        Err(Unsent::Refused(never)) => match never {},
    };
    if let Some(rest) = rest {
        client.origin(lease.socket()).send_all(&rest).await.map_err(|waited| match waited {
            Waited::Expired => Failed::Fault(Fault::OriginWriteTimeout),
            Waited::Interrupted => Failed::Fault(Fault::Stopping),
            Waited::Failed(_) => Failed::Unanswered,
        })?;
    }
    Ok(())
}

/// Interim answers that one request may get: more are an attack on the client.
pub(crate) const INTERIM_ANSWERS_MAX: usize = 16;

/// Reads until the head of the final answer is in the buffer, passing interim ones on.
async fn read_reply(
    client: &mut Client<'_>,
    lease: &mut Lease,
    progress: &Progress,
) -> Result<HeadBuffer, Failed> {
    let mut interims = 0;
    client.response.reset();
    let read = client.generation.config.timeouts.read;
    let (mut received, mut buffer) = lease.recv(read.min(HANG_UP_AFTER)).await;
    loop {
        if matches!(received, Err(Waited::Expired)) {
            (received, buffer) = wait_on(client, lease, buffer, progress).await?;
        }
        match received {
            Ok(0) if buffer.is_empty() && interims == 0 => return Err(Failed::Unanswered),
            Ok(0) => return Err(Fault::OriginTruncated.into()),
            Ok(_) => {}
            Err(Waited::Expired) => return Err(Fault::OriginReadTimeout.into()),
            Err(Waited::Interrupted) => return Err(Fault::Stopping.into()),
            Err(Waited::Failed(_)) if buffer.is_empty() && interims == 0 => {
                return Err(Failed::Unanswered);
            }
            Err(Waited::Failed(_)) => return Err(Fault::OriginTruncated.into()),
        }
        while client
            .response
            .parse(buffer.filled(), &client.generation.head_limits, client.request.method)
            .map_err(Fault::OriginHead)?
        {
            let is_granted = client.request.is_upgrade && client.response.is_upgrade;
            if client.response.status >= 200 || client.response.status == 101 && is_granted {
                return Ok(buffer);
            }
            interims += 1;
            if client.response.status == 101 || interims > INTERIM_ANSWERS_MAX {
                return Err(Fault::OriginAnswer.into());
            }
            progress.control.is_held_back.set(false);
            let bytes = pass_interim(client, &buffer).await?;
            progress.interim_bytes.set(progress.interim_bytes.get() + bytes as u64);
            buffer.consume(client.response.bytes);
            client.response.reset();
        }
        buffer.make_room(client.generation.head_limits.head_bytes).map_err(no_room)?;
        (received, buffer) = lease.recv_more(buffer, read.min(HANG_UP_AFTER)).await;
    }
}

/// What it means that an answer's head does not fit.
pub(crate) fn no_room(reason: NoRoom) -> Fault {
    match reason {
        NoRoom::TooLarge => Fault::OriginHead(HeadError::HeadTooLarge),
        NoRoom::NoMemory => Fault::Overloaded,
    }
}

/// Goes on waiting for an answer that did not come at once. `timeouts.read` counts from the
/// end of the upload. A client that goes away meanwhile ends the wait, so that a long poll does not
/// keep a connection to the origin for nobody; while the client uploads, the upload sees that.
async fn wait_on(
    client: &Client<'_>,
    lease: &mut Lease,
    mut buffer: HeadBuffer,
    progress: &Progress,
) -> Result<(Result<usize, Waited>, HeadBuffer), Failed> {
    let read = client.generation.config.timeouts.read;
    let began_ms = clock::coarse_ms().saturating_sub(HANG_UP_AFTER.as_millis() as u64);
    let origin = lease.socket().clone();
    while progress.is_running() {
        let mut wait = std::pin::pin!(lease.recv_more(buffer, UPLOAD_POLL));
        let ended = poll_fn(|cx| match wait.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if progress.is_running() => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
        });
        let (received, back) = if let Some(ended) = ended.await {
            ended
        } else {
            origin.interrupt(&client.worker.deadlines);
            wait.await
        };
        match received {
            Err(Waited::Expired) => {}
            Err(Waited::Interrupted) if !client.account.is_ended() => {}
            received => return Ok((received, back)),
        }
        buffer = back;
    }
    let waiting_ms = clock::coarse_ms().saturating_sub(began_ms.max(progress.ended_ms.get()));
    let left = read.saturating_sub(Duration::from_millis(waiting_ms));
    if left.is_zero() {
        return Ok((Err(Waited::Expired), buffer));
    }
    let half_close = client.generation.config.server.half_close;
    let wait = lease.recv_more(buffer, left);
    let received =
        unless_hung_up(wait, &origin, client.socket, (half_close, &client.worker.deadlines)).await;
    received.ok_or(Fault::ClientGone.into())
}

/// How long the wait for an answer lasts at once beside an upload, which has the deadlines.
const UPLOAD_POLL: Duration = Duration::from_secs(10);

async fn pass_interim(client: &Client<'_>, buffer: &HeadBuffer) -> Result<usize, Fault> {
    // An HTTP/1.0 client does not know interim answers (RFC 9110 §15.2).
    if client.request.version == Version::Http10 {
        return Ok(0);
    }
    let worker = client.worker;
    let sent = worker.send_built(client.socket, |out| {
        rewrite::interim(out, &client.response, buffer.filled());
        Ok::<_, Infallible>(out.len())
    });
    answer::finish_sending(client, sent).await
}
