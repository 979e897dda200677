//! One request, one answer, one record: the story of an exchange, straight down the page.
//!
//! In goes a client with a request head in its inbox; out comes whether the connection goes on.
//! Route, check out, send, wait, deliver. A request is repeated once, on a new connection, where
//! a reused one died before any byte of an answer and nothing is lost by asking again.
//!
//! Everything that waits here has a deadline, and every failure is a [`Fault`], whose answer is
//! chosen in one place.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::answer::{self, Served};
use crate::config::HostPolicy;
use crate::connection::Client;
use crate::delivery::deliver;
use crate::fault::{Close, Fault};
use crate::http::chunked::ChunkScanner;
use crate::http::head::HeadError;
use crate::http::rewrite::{self, ForwardedFor, HostRule, RequestRewrite, Scheme};
use crate::http::{BodyLength, Version};
use crate::record::Record;
use crate::relay::{self, Broken, Control, Decoder, Encoding, Patience, Transfer, WATCH_AFTER};
use crate::ring::net::unless_hung_up;
use crate::ring::{HeadBuffer, Socket, Waited, clock};
use crate::route::Route;
use crate::upstream::lease::Lease;
use crate::worker::{Unsent, Worker};

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Reuse,
    Close(Close),
}

/// Carries one exchange out.
pub async fn run(client: &mut Client<'_>) -> After {
    let mut record = Record::begin(client, true);
    let after = match forward(client, &mut record).await {
        Ok(after) => after,
        Err(fault) => answer::refuse(client, fault, &mut record).await,
    };
    // The record quotes the head, so that this comes before the head is forgotten.
    record.write(client);
    if after == After::Reuse {
        client.inbox.consume(client.request_bytes);
    }
    after
}

/// Answers a head that could not be taken.
pub async fn refuse_head(client: &mut Client<'_>, fault: Fault) {
    let mut record = Record::begin(client, false);
    answer::refuse(client, fault, &mut record).await;
    record.write(client);
}

async fn forward(client: &mut Client<'_>, record: &mut Record) -> Result<After, Fault> {
    let worker = client.worker;
    let body = RequestBody::in_inbox(client)?;
    client.request_bytes = client.request.bytes + body.in_inbox;
    client.is_whole = body.is_whole();
    record.received(body.in_inbox as u64);
    if let Served::Here(after) = answer::own(client, record).await? {
        return Ok(after);
    }
    let head = &client.request;
    let text = client.inbox.filled();
    let route =
        worker.routes.find(head.authority.of(text), head.path(text)).ok_or(Fault::NoRoute)?;
    let upstream = &worker.upstreams[route.upstream];
    let mut is_repeated = false;
    loop {
        record.wait_for_pool(route.upstream);
        let lease = upstream.checkout(&worker.pool, is_repeated).await?;
        record.connected(&lease);
        let may_repeat = lease.is_reused && !is_repeated;
        match attempt(client, lease, route, &body, record).await {
            Ok(after) => return Ok(after),
            Err(Failed::Fault(fault)) => return Err(fault),
            Err(Failed::Unsent) if may_repeat => is_repeated = true,
            Err(Failed::Unanswered)
                if may_repeat && body.is_whole() && client.request.method.is_idempotent() =>
            {
                is_repeated = true;
            }
            Err(Failed::Unsent | Failed::Unanswered) => return Err(Fault::OriginClosed),
        }
    }
}

/// How one attempt on one connection failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failed {
    /// The connection was dead: not a byte of the request went out.
    Unsent,
    /// The connection died before a byte of an answer.
    Unanswered,
    Fault(Fault),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

async fn attempt(
    client: &mut Client<'_>,
    mut lease: Lease,
    route: Route,
    body: &RequestBody,
    record: &mut Record,
) -> Result<After, Failed> {
    let worker = client.worker;
    send_request(client, &lease, route, body).await?;
    lease.expect_reply();
    let (client_socket, origin_socket) = (client.socket.clone(), lease.socket().clone());
    let progress = Progress::new(body.is_whole(), client.request.expects_continue);
    let rest =
        std::pin::pin!(upload_rest(worker, &client_socket, &origin_socket, body.rest(), &progress));
    let mut upload = Upload::new(rest, &client_socket, &origin_socket, &progress);
    let reply = {
        let reply = std::pin::pin!(read_reply(client, &mut lease, &progress));
        upload.beside(reply).await
    };
    record.sent(progress.interim_bytes.get());
    if let Some(fault) = upload.fault() {
        record.received(progress.control.received.get());
        // The client's side failed, or the origin took nothing for too long: no answer will make
        // sense any more, and the origin must not take what it has for the whole.
        return Err(Failed::Fault(fault));
    }
    let buffer = match reply {
        Ok(buffer) => buffer,
        Err(failed) => {
            upload.end().await;
            record.received(progress.control.received.get());
            return Err(failed);
        }
    };
    record.answered(client.response.status);
    let is_uploaded = !progress.is_running();
    let delivered = {
        let delivery =
            std::pin::pin!(deliver(client, lease, buffer, is_uploaded, &progress.delivery, record));
        upload.beside(delivery).await
    };
    if progress.is_running() {
        // The answer was over before the request: the client is told to stop by the close.
        upload.end().await;
    }
    record.received(progress.control.received.get());
    delivered
}

/// What is known of the request's body when its head has been read.
pub struct RequestBody {
    /// Bytes of it that came with the head and are in the inbox behind it.
    pub in_inbox: usize,
    decoder: Decoder,
}

impl RequestBody {
    /// Looks at what came with the head, so that a bad chunk is refused before anything of the
    /// request has been forwarded.
    fn in_inbox(client: &Client<'_>) -> Result<Self, Fault> {
        let limit = client.worker.config.limits.body_bytes;
        let mut decoder = match client.request.body {
            BodyLength::Empty | BodyLength::UntilClose => Decoder::Sized(0),
            BodyLength::Exact(bytes) if bytes > limit => return Err(Fault::ClientBodyTooLarge),
            BodyLength::Exact(bytes) => Decoder::Sized(bytes),
            BodyLength::Chunked => Decoder::Chunked(ChunkScanner::new()),
        };
        let behind_head = &client.inbox.filled()[client.request.bytes..];
        let used = decoder.advance(behind_head).map_err(Fault::ClientChunk)?.used;
        if matches!(decoder, Decoder::Chunked(scanner) if scanner.payload_bytes() > limit) {
            return Err(Fault::ClientBodyTooLarge);
        }
        Ok(Self { in_inbox: used, decoder })
    }

    /// All of it came with the head.
    pub fn is_whole(&self) -> bool {
        self.decoder.is_done()
    }

    fn rest(&self) -> Option<Decoder> {
        (!self.is_whole()).then_some(self.decoder)
    }
}

/// Sends the head as the origin shall see it, with what of the body came with it.
async fn send_request(
    client: &Client<'_>,
    lease: &Lease,
    route: Route,
    body: &RequestBody,
) -> Result<(), Failed> {
    let worker = client.worker;
    let text = client.inbox.filled();
    let head = &client.request;
    let upstream = &worker.upstreams[route.upstream];
    let host = match upstream.host() {
        HostPolicy::Pass if !head.authority.is_empty() => HostRule::Pass,
        HostPolicy::Fixed(host) => HostRule::Set(host.as_bytes()),
        // An HTTP/1.0 request need not name a host, a request to an origin must.
        HostPolicy::Pass | HostPolicy::Origin => upstream
            .origin(lease.origin())
            .map_or(HostRule::Pass, |origin| HostRule::Set(origin.authority.as_bytes())),
    };
    let how = RequestRewrite {
        path: &route.sent_path(head.path(text)),
        host,
        via: worker.config.server.via.as_bytes(),
        forwarded: ForwardedFor {
            client: &client.address_text,
            is_v6: client.address_text.contains(':'),
            is_trusted: client.is_trusted,
            scheme: Scheme::Http,
        },
    };
    let built = worker.send_built(lease.socket(), |out| {
        rewrite::request(out, head, text, &how);
        out.extend_from_slice(&text[head.bytes..head.bytes + body.in_inbox]);
        Ok::<_, Infallible>(())
    });
    let rest = match built {
        Ok(sent) => sent.rest,
        // Nothing went out; where the origin has said something before it closed (408, say), a new
        // connection gets the same answer.
        Err(Unsent::Broken) => return Err(Failed::Unsent),
        Err(Unsent::Refused(never)) => match never {},
    };
    if let Some(rest) = rest {
        let stall = worker.config.timeouts.write;
        relay::send_all(lease.socket(), &rest, &worker.deadlines, stall).await.map_err(
            |waited| match waited {
                Waited::Expired => Failed::Fault(Fault::OriginWriteTimeout),
                Waited::Interrupted => Failed::Fault(Fault::Stopping),
                Waited::Failed(_) => Failed::Unanswered,
            },
        )?;
    }
    Ok(())
}

/// Moves what of the request's body did not come with the head.
async fn upload_rest(
    worker: &Worker,
    client: &Socket,
    origin: &Socket,
    rest: Option<Decoder>,
    progress: &Progress,
) -> Result<(), Broken> {
    let Some(decoder) = rest else { return Ok(()) };
    let config = &worker.config;
    let transfer = Transfer {
        chunks: &worker.chunks,
        deadlines: &worker.deadlines,
        from: client,
        to: origin,
        patience: Patience { silence: config.timeouts.read, rate_min: config.limits.min_body_rate },
        stall: config.timeouts.write,
        operation_chunks: config.buffers.operation_chunks,
        is_fixed: config.buffers.fixed_operations,
        is_exact: true,
        is_watching: false,
        payload_bytes_max: config.limits.body_bytes,
        control: &progress.control,
    };
    transfer.run(decoder, Encoding::AsIs).await.map(drop)
}

/// The upload beside the wait for, and the delivery of, the answer.
struct Upload<'a, F> {
    future: Pin<&'a mut F>,
    client: &'a Socket,
    origin: &'a Socket,
    progress: &'a Progress,
    outcome: Option<Result<(), Broken>>,
}

impl<'a, F: Future<Output = Result<(), Broken>>> Upload<'a, F> {
    fn new(
        future: Pin<&'a mut F>,
        client: &'a Socket,
        origin: &'a Socket,
        progress: &'a Progress,
    ) -> Self {
        let outcome = (!progress.is_running()).then_some(Ok(()));
        Self { future, client, origin, progress, outcome }
    }

    /// Drives the upload while `foreground` is under way, which comes pinned because a future that
    /// is passed by value is copied.
    async fn beside<T>(&mut self, mut foreground: Pin<&mut impl Future<Output = T>>) -> T {
        std::future::poll_fn(|cx| {
            if self.outcome.is_none()
                && let Poll::Ready(outcome) = self.future.as_mut().poll(cx)
            {
                self.outcome = Some(outcome);
                self.progress.end();
                if self.fault().is_some() {
                    // Ends the wait for an answer that cannot come, whether or not it has begun: an
                    // interruption would only end what is pending now. The end of the connection is
                    // then not the end of an answer.
                    self.progress.delivery.is_over.set(true);
                    self.origin.cut();
                }
            }
            foreground.as_mut().poll(cx)
        })
        .await
    }

    /// Why there is no point in waiting for an answer. An origin that stops taking the body is no
    /// reason: it may have answered already.
    fn fault(&self) -> Option<Fault> {
        match self.outcome.as_ref()?.as_ref().err()? {
            Broken::ToFailed => None,
            Broken::FromEnded => Some(Fault::ClientBodyIncomplete),
            Broken::FromFailed => Some(Fault::ClientGone),
            // It waits for a 100 that the origin does not send.
            Broken::FromExpired if self.progress.control.is_held_back.get() => {
                Some(Fault::OriginReadTimeout)
            }
            Broken::FromExpired => Some(Fault::ClientBodyTimeout),
            Broken::ToExpired => Some(Fault::OriginWriteTimeout),
            Broken::Interrupted => Some(Fault::Stopping),
            Broken::Framing(error) => Some(Fault::ClientChunk(*error)),
            Broken::TooLarge => Some(Fault::ClientBodyTooLarge),
        }
    }

    /// Ends an upload that nobody needs any more.
    async fn end(&mut self) {
        if self.outcome.is_none() {
            // An interruption ends what is pending; the flag, what would begin after it.
            self.progress.control.is_over.set(true);
            self.client.interrupt();
            self.origin.interrupt();
            self.outcome = Some(self.future.as_mut().await);
            self.progress.end();
        }
    }
}

/// How far an upload is, for those that wait beside it.
struct Progress {
    /// When it ended, on the coarse clock: `RUNNING` while it has not, 0 where there was none.
    ended_ms: Cell<u64>,
    control: Control,
    /// Of the answer's body, which goes the other way.
    delivery: Control,
    /// Bytes of interim answers that the client has been sent.
    interim_bytes: Cell<u64>,
}

const RUNNING: u64 = u64::MAX;

impl Progress {
    fn new(is_whole: bool, expects_continue: bool) -> Self {
        let control = Control::default();
        control.is_held_back.set(expects_continue);
        Self {
            ended_ms: Cell::new(if is_whole { 0 } else { RUNNING }),
            control,
            delivery: Control::default(),
            interim_bytes: Cell::new(0),
        }
    }

    fn is_running(&self) -> bool {
        self.ended_ms.get() == RUNNING
    }

    fn end(&self) {
        self.ended_ms.set(clock::coarse_ms());
    }
}

/// Interim answers that one request may get: more are an attack on the client.
const INTERIM_ANSWERS_MAX: usize = 16;

/// Reads until the head of the final answer is in the buffer, passing interim ones on.
async fn read_reply(
    client: &mut Client<'_>,
    lease: &mut Lease,
    progress: &Progress,
) -> Result<HeadBuffer, Failed> {
    let worker = client.worker;
    let mut interims = 0;
    client.response.reset();
    let read = worker.config.timeouts.read;
    let (mut received, mut buffer) = lease.recv(read.min(WATCH_AFTER)).await;
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
            .parse(buffer.filled(), &worker.head_limits, client.request.method)
            .map_err(Fault::OriginHead)?
        {
            if client.response.status >= 200 {
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
        if !buffer.make_room(worker.head_limits.head_bytes) {
            return Err(Fault::OriginHead(HeadError::HeadTooLarge).into());
        }
        (received, buffer) = lease.recv_more(buffer, read.min(WATCH_AFTER)).await;
    }
}

/// Goes on waiting for an answer that did not come within a second. `timeouts.read` counts from the
/// end of the upload. A client that goes away meanwhile ends the wait, so that a long poll does not
/// keep a connection to the origin for nobody; while the client uploads, the upload sees that.
async fn wait_on(
    client: &Client<'_>,
    lease: &mut Lease,
    mut buffer: HeadBuffer,
    progress: &Progress,
) -> Result<(Result<usize, Waited>, HeadBuffer), Failed> {
    let read = client.worker.config.timeouts.read;
    let began_ms = clock::coarse_ms().saturating_sub(WATCH_AFTER.as_millis() as u64);
    while progress.is_running() {
        let (received, back) = lease.recv_more(buffer, WATCH_AFTER).await;
        if !matches!(received, Err(Waited::Expired)) {
            return Ok((received, back));
        }
        buffer = back;
    }
    let waiting_ms = clock::coarse_ms().saturating_sub(began_ms.max(progress.ended_ms.get()));
    let left = read.saturating_sub(Duration::from_millis(waiting_ms));
    if left.is_zero() {
        return Ok((Err(Waited::Expired), buffer));
    }
    let origin = lease.socket().clone();
    let received = unless_hung_up(lease.recv_more(buffer, left), &origin, client.socket).await;
    received.ok_or(Fault::ClientGone.into())
}

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
