//! One request, one answer, one record: the story of an exchange, straight down the page.
//!
//! In goes a client with a request head in its inbox; out comes whether the connection goes on.
//! Route, check out, send, wait, deliver. A request is repeated once, on a new connection, where
//! a reused one died before any byte of an answer and nothing is lost by asking again.
//!
//! Everything that waits here has a deadline, and every failure is a [`Fault`], whose answer is
//! chosen in one place.

pub(crate) mod auth_request;
pub(crate) mod connect;
pub(crate) mod destination;
pub(crate) mod download;
pub(crate) mod forwarded;
pub(crate) mod hooked;
pub(crate) mod mirror;
pub(crate) mod outcome;
pub(crate) mod parents;
pub(crate) mod record;
pub(crate) mod request;
pub(crate) mod respond;
pub(crate) mod tunnel;
pub(crate) mod upgrade;
pub(crate) mod upload;

use std::convert::Infallible;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use self::destination::{Destination, Routed};
use self::download::send_response;
use self::outcome::Outcome;
use self::record::Record;
use self::request::{Client, unless_gone};
use self::respond::Served;
use self::upload::{Progress, RequestBody, Upload, upload_rest};
use crate::fault::{Close, Fault};
use crate::hooks::RetryTrigger;
use crate::http::head::ResponseHead;
use crate::http::{Method, Version, rewrite};
use crate::observe::connection_stats::{Ending, WaitsOn};
use crate::observe::log_limit;
use crate::relay::HANG_UP_AFTER;
use crate::ring::hang_up::unless_hung_up;
use crate::ring::{HeadBuffer, WaitError, clock};
use crate::upstream::h1::{self, AttemptError, Received, Reply};
use crate::upstream::lease::Lease;

/// Carries one exchange out.
pub(crate) async fn run(client: &mut Client<'_>) -> Outcome {
    let mut record = Record::begin(client, true);
    let result = match client.request.method {
        Method::Connect => connect::run(client, &mut record, connect::ESTABLISHED).await,
        _ => proxy(client, &mut record).await,
    };
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(fault) => respond::refuse(client, fault, &mut record).await,
    };
    // The record quotes the head, so that this comes before the head is forgotten.
    record.write(client);
    match client.stats.ending() {
        Ending::No => {}
        // A tunnel sees it for itself, and has the record.
        Ending::Cut if matches!(outcome, Outcome::Tunnel(_)) => {}
        Ending::Cut => return Outcome::Close(Close::Cut),
        // It came too late.
        Ending::GiveUp(fault) => {
            client.stats.settle(fault);
        }
    }
    if matches!(outcome, Outcome::Reuse) {
        client.inbox.consume(client.request_bytes);
    }
    outcome
}

/// Answers a head that could not be taken.
pub(crate) async fn refuse_head(client: &mut Client<'_>, fault: Fault) {
    client.request.settle();
    if client.inbox.filled().starts_with(&TLS_HANDSHAKE) {
        log_limit::tls_on_a_plain_port(client.peer);
    }
    let mut record = Record::begin(client, false);
    respond::refuse(client, fault, &mut record).await;
    record.write(client);
}

/// How a TLS client begins: a handshake record of version 3 (RFC 8446 §5.1).
const TLS_HANDSHAKE: [u8; 2] = [22, 3];

async fn proxy(client: &mut Client<'_>, record: &mut Record) -> Result<Outcome, Fault> {
    let mut body = RequestBody::of(client)?;
    client.request_bytes = client.request.bytes + body.in_inbox;
    client.is_whole = body.is_whole();
    record.received(client.stats, body.in_inbox as u64);
    if let Served::Here(outcome) = respond::serve_local(client, record).await? {
        return Ok(outcome);
    }
    let mut destination = match Destination::find(client, &mut body, record).await? {
        Routed::To(destination) => destination,
        Routed::Answered(outcome) => return Ok(outcome),
    };
    let fault = match body.arrive(client, record).await {
        Ok(()) => match try_until_served(client, &mut destination, &body, record).await {
            Ok(outcome) => return Ok(outcome),
            Err(fault) => fault,
        },
        Err(fault) => fault,
    };
    match &mut destination {
        // Its own pages and fields are for the errors of a route too.
        Destination::Hooked(hooked) => {
            Ok(Box::pin(hooked::refuse(client, hooked, fault, record)).await)
        }
        Destination::Route(_) | Destination::Forward(_) => Err(fault),
    }
}

async fn try_until_served(
    client: &mut Client<'_>,
    destination: &mut Destination,
    body: &RequestBody,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    let is_repeatable = body.is_whole() && client.request.method.is_idempotent();
    let mut is_repeated = false;
    loop {
        record.wait_for_pool(destination.route(), destination.upstream());
        let at_rest = if is_repeated { None } else { destination.take_idle(client) };
        let lease = if let Some(lease) = at_rest {
            Ok(lease)
        } else {
            // Pinned, because a future that is passed by value is copied.
            let checkout = std::pin::pin!(destination.checkout(client, is_repeated));
            unless_gone(client, checkout).await
        };
        let lease = match lease {
            Ok(lease) => lease,
            Err(fault) if client.stats.is_ended() || fault == Fault::ClientGone => {
                return Err(fault);
            }
            // Of this attempt, nothing has been sent.
            Err(fault) if destination.should_retry(client, RetryTrigger::Fault(fault)) => continue,
            Err(fault) => return Err(fault),
        };
        record.connected(&lease);
        let may_repeat = lease.is_reused && !is_repeated;
        is_repeated = true;
        match attempt(client, lease, destination, body, record).await {
            Ok(outcome) => return Ok(outcome),
            Err(failed) if client.stats.is_ended() => return Err(failed.fault()),
            Err(AttemptError::NotSent) if may_repeat => {}
            Err(AttemptError::NoResponse) if may_repeat && is_repeatable => {}
            Err(AttemptError::RetryRequested) => {}
            Err(failed) => {
                let fault = failed.fault();
                if !is_repeatable || !destination.should_retry(client, RetryTrigger::Fault(fault)) {
                    return Err(fault);
                }
            }
        }
    }
}

async fn attempt(
    client: &mut Client<'_>,
    lease: Lease,
    destination: &mut Destination,
    body: &RequestBody,
    record: &mut Record,
) -> Result<Outcome, AttemptError> {
    let worker = client.worker;
    let mut lease = client.slot.reach(lease);
    client.stats.waits_on.set(WaitsOn::OriginToAnswer);
    send_request(client, &lease, destination, body).await?;
    lease.expect_reply();
    let generation = client.generation.clone();
    let (client_socket, origin_socket) = (client.socket.clone(), lease.socket().clone());
    let progress = Progress::new(body.is_whole(), client.request.expects_continue);
    let rest = std::pin::pin!(upload_rest(
        worker,
        &generation.config,
        client.stats,
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
    record.sent(client.stats, progress.interim_bytes.get());
    if let Some(fault) = upload.fault() {
        record.moved(progress.control.received.get(), 0);
        // The client's side failed, or the origin took nothing for too long: no answer will make
        // sense any more, and the origin must not take what it has for the whole.
        return Err(AttemptError::Fault(fault));
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
    if client.response.status == 407 && destination.refuses_us(client) {
        record.moved(upload.end().await, 0);
        return Err(Fault::ParentLogin.into());
    }
    if let Some(response_override) = destination.response_override(client, &buffer, body) {
        record.moved(upload.end().await, 0);
        return Box::pin(destination.apply_override(client, response_override, record)).await;
    }
    record.answered(client.response.status);
    let sent = {
        let download =
            std::pin::pin!(send_response(client, lease, buffer, destination, &progress, record));
        upload.beside(download).await
    };
    if progress.is_running() {
        // The answer was over before the request: the client is told to stop by the close.
        upload.end().await;
    }
    record.moved(progress.control.received.get(), 0);
    sent
}

/// Sends the head as the origin shall see it, with what of the body came with it.
async fn send_request(
    client: &Client<'_>,
    lease: &Lease,
    destination: &Destination,
    body: &RequestBody,
) -> Result<(), AttemptError> {
    let text = client.inbox.filled();
    let head = &client.request;
    h1::send(&client.worker.outbox, client.origin(lease.socket()), |out| {
        let repeated = match destination {
            Destination::Route(_) => {
                head.repeated().map(|it| (it, client.generation.id, lease.origin()))
            }
            Destination::Hooked(_) | Destination::Forward(_) => None,
        };
        client.sent_request.borrow_mut().put(repeated, out, |out| {
            let path = destination.sent_path(head, text);
            destination.put_request(client, &destination.rewrite(client, lease, &path), out);
        });
        out.extend_from_slice(&text[head.bytes..head.bytes + body.in_inbox]);
    })
    .await
}

/// Reads until the head of the final answer is in the buffer, passing interim ones on.
async fn read_reply(
    client: &mut Client<'_>,
    lease: &mut Lease,
    progress: &Progress,
) -> Result<HeadBuffer, AttemptError> {
    let (limits, method) = (client.generation.head_limits, client.request.method);
    h1::read_head(&mut ExchangeReply { client, lease, progress }, limits, method).await
}

/// The response of an exchange.
struct ExchangeReply<'r, 'c> {
    client: &'r mut Client<'c>,
    lease: &'r mut Lease,
    progress: &'r Progress,
}

impl Reply for ExchangeReply<'_, '_> {
    fn head(&mut self) -> &mut ResponseHead {
        &mut self.client.response
    }

    async fn recv(&mut self, buffer: Option<HeadBuffer>) -> Received {
        let soon = self.client.generation.config.timeouts.read.min(HANG_UP_AFTER);
        let wait = match buffer {
            None => self.lease.recv(soon),
            Some(buffer) => self.lease.recv_more(buffer, soon),
        };
        match wait.await {
            (Err(WaitError::Expired), buffer) => {
                wait_on(self.client, self.lease, buffer, self.progress).await
            }
            received => Ok(received),
        }
    }

    fn is_final(&mut self) -> bool {
        let (request, response) = (&self.client.request, &self.client.response);
        let is_granted = request.is_upgrade && response.is_upgrade;
        response.status >= 200 || response.status == 101 && is_granted
    }

    async fn interim(&mut self, buffer: &HeadBuffer) -> Result<(), Fault> {
        self.progress.control.is_held_back.set(false);
        let bytes = pass_interim(self.client, buffer).await? as u64;
        self.progress.interim_bytes.set(self.progress.interim_bytes.get() + bytes);
        Ok(())
    }
}

/// Goes on waiting for an answer that did not come at once. `timeouts.read` counts from the end of
/// the upload. A client that goes away meanwhile ends the wait, so that a long poll does not keep a
/// connection to the origin that no client waits for; while the client uploads, the upload sees
/// that.
async fn wait_on(
    client: &Client<'_>,
    lease: &mut Lease,
    mut buffer: HeadBuffer,
    progress: &Progress,
) -> Received {
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
            Err(WaitError::Expired) => {}
            Err(WaitError::Interrupted) if !client.stats.is_ended() => {}
            received => return Ok((received, back)),
        }
        buffer = back;
    }
    let waiting_ms = clock::coarse_ms().saturating_sub(began_ms.max(progress.ended_ms.get()));
    let left = read.saturating_sub(Duration::from_millis(waiting_ms));
    if left.is_zero() {
        return Ok((Err(WaitError::Expired), buffer));
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
    let sent = worker.outbox.send(client.socket, |out| {
        rewrite::interim(out, &client.response, buffer.filled());
        Ok::<_, Infallible>(out.len())
    });
    respond::finish_sending(client, sent).await
}
