//! One request, one answer, one record: the story of an exchange, straight down the page.
//!
//! In goes a request whose head is there; out comes what its client has got ([`Outcome`]).
//! Route, check out, send, wait, deliver. A request is repeated once, on a new connection, where
//! a reused one died before any byte of an answer and nothing is lost by asking again; and where
//! its route says so, at another origin first.
//!
//! Everything that waits here has a deadline, and every failure is a [`Fault`], whose answer is
//! chosen in one place.

mod ahead;
pub(crate) mod auth_request;
mod buffered;
pub(crate) mod connect;
pub(crate) mod destination;
pub(crate) mod download;
mod failed;
pub(crate) mod forwarded;
mod hedge;
pub(crate) mod hooked;
pub(crate) mod line;
pub(crate) mod logged_in;
pub(crate) mod login;
pub(crate) mod loops;
pub(crate) mod mirror;
pub(crate) mod outcome;
pub(crate) mod parents;
pub(crate) mod peer;
pub(crate) mod record;
pub(crate) mod request;
pub(crate) mod respond;
mod response_notes;
pub(crate) mod secure;
mod seen;
pub(crate) mod send;
pub(crate) mod stream;
pub(crate) mod trace;
pub(crate) mod tunnel;
pub(crate) mod upgrade;
pub(crate) mod upload;
mod wanted;

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use self::destination::{Destination, Routed, Way};
use self::download::{Part, begin_response, finish_response};
use self::failed::Failed;
use self::hooked::ResponseOverride;
use self::outcome::Outcome;
use self::record::Record;
use self::request::Request;
use self::respond::{Local, LocalEndpoint};
use self::send::{begin_request, finish_request};
use self::stream::{ClientStream, unless_gone};
use self::upload::{Parties, Progress, RequestBody, Upload, upload_rest};
use crate::fault::Fault;
use crate::hooks::RetryTrigger;
use crate::http::head::ResponseHead;
use crate::http::{BodyLength, Method};
use crate::observe::connection_stats::{Ending, WaitsOn};
use crate::relay::HANG_UP_AFTER;
use crate::ring::hang_up::unless_hung_up;
use crate::ring::{HeadBuffer, WaitError, clock};
use crate::upstream::h1::{self, AttemptError, First, Received, Reply, Terms};
use crate::upstream::lease::{Answer, Lease};
use crate::worker::slot::Reached;

/// How often one request is sent again that comes back untouched: its origin had no room for it
/// just then, or was leaving, which says nothing against either.
const REFUSALS_MAX: u32 = 3;

/// Carries one exchange out.
pub(crate) async fn run(request: &mut Request<'_, impl ClientStream>) -> Outcome {
    request.enter_trace();
    let mut record = Record::begin(request, true);
    let result = match request.head.method {
        _ if loops::is_loop(request) => Err(Fault::ProxyLoop),
        Method::Connect => connect::run(request, &mut record).await,
        _ => proxy(request, &mut record).await,
    };
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(fault) => respond::refuse(request, fault, &mut record).await,
    };
    // The record quotes the head, so that this comes before the head is forgotten.
    record.write(request);
    request.leave_trace();
    match request.peer.stats.ending() {
        Ending::No => {}
        // A tunnel sees it for itself, and has the record.
        Ending::Cut if matches!(outcome, Outcome::Tunnel(_)) => {}
        Ending::Cut => return Outcome::CutShort(Fault::Stopping),
        // It came too late.
        Ending::GiveUp(fault) => {
            request.peer.stats.settle(fault);
        }
    }
    outcome
}

async fn proxy(
    request: &mut Request<'_, impl ClientStream>,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    // Those of the request before.
    request.peer.go_by((None, None));
    let mut body = RequestBody::of(request);
    body.begin(request)?;
    request.bytes = request.head.bytes + body.in_inbox;
    request.is_whole = body.is_whole();
    record.received(request.peer.stats, body.in_inbox as u64);
    if request.peer.generation.hooks.own().is_some()
        && LocalEndpoint::of(request).is_some()
        && let Some(outcome) = Box::pin(hooked::guard_own(request, record)).await?
    {
        return Ok(outcome);
    }
    if let Some(local) = Local::of(request)? {
        return Box::pin(local.serve(request, record)).await;
    }
    let mut destination = match Way::of(request)? {
        Way::Plain(route) => Destination::plain(route),
        way => match Box::pin(way.find(request, &mut body, record)).await? {
            Routed::To(destination) => destination,
            Routed::Answered(outcome) => return Ok(outcome),
        },
    };
    request.peer.go_by(destination.indexes());
    if request.head.body == BodyLength::Chunked {
        body.rules = destination.traits(request).request_chunks();
    }
    let buffer = if body.goes_unchanged(request) { 0 } else { destination.buffers(request).0 };
    let arrived = if buffer != 0 {
        Box::pin(buffered::arrive(&mut body, request, record, buffer)).await
    } else if body.is_awaited(request) {
        Box::pin(body.arrive(request, record)).await
    } else {
        Ok(())
    };
    let served = match arrived {
        Ok(()) => try_until_served(request, &mut destination, &body, record).await,
        Err(fault) => Err(fault),
    };
    body.release(request.peer.stats);
    let fault = match served {
        Ok(outcome) => return Ok(outcome),
        Err(fault) => fault,
    };
    match &mut destination.hooks {
        // Its own pages and fields are for the errors of a route too.
        Some(hooks) => Ok(Box::pin(hooked::refuse(request, hooks, fault, record)).await),
        None => Err(fault),
    }
}

async fn try_until_served(
    request: &mut Request<'_, impl ClientStream>,
    destination: &mut Destination,
    body: &RequestBody,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    logged_in::refuse_http2(request)?;
    let is_repeatable = body.is_whole() && request.head.method.is_idempotent();
    let may_retry = is_repeatable || body.is_whole() && destination.repeats_all();
    let (mut is_repeated, mut refusals) = (false, 0);
    let mut failed = None;
    loop {
        record.wait_for_pool(destination.indexes());
        let at_rest = if is_repeated { None } else { destination.take_at_rest(request) };
        let lease = if let Some(lease) = at_rest {
            lease
        } else {
            let checked_out = {
                let checkout = check_out(request, destination, is_repeated, failed.as_deref());
                // Pinned, because a future that is passed by value is copied.
                unless_gone(request, pin!(checkout)).await
            };
            match checked_out {
                Ok(lease) => lease,
                Err(fault) if request.peer.stats.is_ended() || fault == Fault::ClientGone => {
                    return Err(fault);
                }
                // Of this attempt, nothing has been sent.
                Err(fault) if destination.should_retry(request, RetryTrigger::Fault(fault)) => {
                    continue;
                }
                Err(fault) => return Err(Failed::fault(failed.as_deref(), fault)),
            }
        };
        record.connected(&lease);
        let (is_new, origin) = (!lease.is_reused, lease.origin());
        let may_repeat = !is_new && !is_repeated;
        is_repeated = true;
        let attempted = attempt(request, lease, destination, body, record).await;
        let (is_new, origin) = match &attempted {
            Ok(_) => (is_new, origin),
            Err(failed) => blame(request, destination, *failed, (is_new, origin)),
        };
        match attempted {
            Ok(outcome) => return Ok(outcome),
            Err(failed) if request.peer.stats.is_ended() => return Err(failed.fault()),
            Err(AttemptError::NotSent) if may_repeat => {}
            Err(AttemptError::NoResponse(_)) if may_repeat && is_repeatable => {}
            Err(AttemptError::Refused) if refusals < REFUSALS_MAX => refusals += 1,
            Err(AttemptError::RetryRequested) => _ = Failed::add(&mut failed, origin, false),
            Err(error @ (AttemptError::NotSent | AttemptError::NoResponse(_)))
                if is_new
                    && destination.failed(request, origin)
                    && !Failed::has_moved(failed.as_deref())
                    && (is_repeatable || matches!(error, AttemptError::NotSent)) =>
            {
                Failed::add(&mut failed, origin, true).fault = Some(error.fault());
            }
            Err(error) => {
                let fault = error.fault();
                if !may_retry || !destination.should_retry(request, RetryTrigger::Fault(fault)) {
                    return Err(fault);
                }
                Failed::add(&mut failed, origin, false);
            }
        }
    }
}

/// Says of whom a failed attempt speaks badly, which was begun with an origin on a new connection
/// or not; whose failure it was in the end.
#[cold]
fn blame<S>(
    request: &Request<'_, S>,
    destination: &Destination,
    failed: AttemptError,
    begun: (bool, usize),
) -> (bool, usize) {
    let (is_new, origin) = destination.failing(begun);
    if failed.is_of_origin(is_new)
        && let Some(upstream) = destination.listener(request)
    {
        upstream.hear(origin, false);
    }
    (is_new, origin)
}

async fn check_out(
    request: &Request<'_, impl ClientStream>,
    destination: &mut Destination,
    is_fresh: bool,
    failed: Option<&Failed>,
) -> Result<Lease, Fault> {
    match failed {
        Some(Failed { origins, needs_other, .. }) => {
            Box::pin(destination.checkout_other(request, (origins, *needs_other))).await
        }
        None => destination.checkout(request, is_fresh).await,
    }
}

async fn attempt(
    request: &mut Request<'_, impl ClientStream>,
    lease: Lease,
    destination: &mut Destination,
    body: &RequestBody,
    record: &mut Record,
) -> Result<Outcome, AttemptError> {
    let worker = request.peer.worker;
    let mut lease = request.peer.slot.reach(lease);
    request.peer.stats.waits_on.set(WaitsOn::OriginToAnswer);
    let mut began_us = destination.is_timed(request).then(clock::precise_us);
    if let Some(rest) = begin_request(request, &lease, destination, body)? {
        finish_request(request, &lease, (rest, body.is_whole())).await?;
    }
    if let Some(after) = destination.hedge_after(request) {
        let hedged = hedge::race(request, &mut lease, destination, (body, after), record);
        began_us = Box::pin(hedged).await?.or(began_us);
    }
    let progress = Progress::new(body.goes_with_head(), request.head.expects_continue);
    let parties = progress.is_running().then(|| Parties::of(request, lease.socket()));
    let stats = request.peer.stats;
    let rest = pin!(parties.as_ref().map(|it| upload_rest(worker, it, stats, body, &progress)));
    let mut upload = Upload::new(rest, parties.as_ref(), &progress, &worker.deadlines);
    let mut buffer = HeadBuffer::default();
    let read = {
        let limits = request.peer.generation.response_limits;
        let terms = Terms { limits, metrics: &worker.metrics };
        let method = request.head.method;
        let mut reply =
            ExchangeReply { request, lease: &mut lease, progress: &progress, destination };
        upload.beside(pin!(h1::read_head(&mut reply, &mut buffer, terms, method))).await
    };
    record.sent(stats, progress.interim_bytes.get());
    let is_uploaded = progress.is_complete();
    // The client's side failed, or the origin took nothing for too long: no answer will make sense
    // any more, and the origin must not take what it has for the whole.
    let read = upload.fault().map_or(read, |fault| Err(fault.into()));
    let read = heard(request, destination, (&lease, began_us, body.is_whole()), read);
    let next = match read.and_then(|()| judge(request, destination, &buffer, body)) {
        Ok(Verdict::Pass) => {
            record.answered(request.response.status);
            if is_uploaded {
                body.release(stats);
            }
            let (from, mut left) = ((lease, buffer), None);
            match begin_response(request, from, destination, &progress, record, &mut left) {
                Ok(Part::Whole) => Ok(Next::End(Outcome::Complete)),
                Ok(Part::CutShort(fault)) => Ok(Next::End(Outcome::CutShort(fault))),
                Ok(Part::First) => {
                    request.rest();
                    let rest = finish_response(request, &mut left, destination, &progress, record);
                    Ok(Next::End(upload.beside(pin!(rest)).await))
                }
                Err(failed) => Err(failed),
            }
        }
        Ok(Verdict::Switch) => Ok(Next::Switch(Box::new((lease, buffer)))),
        Ok(Verdict::Override(response_override)) => Ok(Next::Override(response_override)),
        Err(failed) => Err(failed),
    };
    if progress.is_running() {
        // What is answered before it has been read is told to stop by the close.
        upload.end().await;
    }
    record.moved(progress.control.received.get(), 0);
    match next? {
        Next::End(outcome) => Ok(outcome),
        next => Box::pin(conclude(request, destination, (next, is_uploaded), record)).await,
    }
}

/// Does what is rarely left when the upload has ended.
async fn conclude(
    request: &mut Request<'_, impl ClientStream>,
    destination: &mut Destination,
    (next, is_uploaded): (Next<'_>, bool),
    record: &mut Record,
) -> Result<Outcome, AttemptError> {
    match next {
        Next::End(outcome) => Ok(outcome),
        Next::Switch(granted) => Ok(upgrade::switch(request, granted, is_uploaded, record).await?),
        Next::Override(response_override) => {
            destination.apply_override(request, response_override, record).await
        }
    }
}

/// Tells whoever wants to know how the wait for an answer has ended.
fn heard(
    request: &Request<'_, impl ClientStream>,
    destination: &Destination,
    (lease, began_us, is_whole): (&Lease, Option<u64>, bool),
    read: Result<(), AttemptError>,
) -> Result<(), AttemptError> {
    if let Err(error) = read {
        return Err(error.on(lease.socket(), is_whole));
    }
    if let Some(began_us) = began_us {
        let us = clock::precise_us().saturating_sub(began_us);
        destination.answered(request, lease, us);
    }
    Ok(())
}

/// What an exchange makes of an origin's final response.
enum Verdict {
    Pass,
    Switch,
    /// Boxed, as all that is rare: it is held while an upload ends.
    Override(Box<ResponseOverride>),
}

/// What is left to do when the upload has ended.
enum Next<'c> {
    End(Outcome),
    Switch(Box<(Reached<'c>, HeadBuffer)>),
    Override(Box<ResponseOverride>),
}

fn judge(
    request: &Request<'_, impl ClientStream>,
    destination: &mut Destination,
    buffer: &HeadBuffer,
    body: &RequestBody,
) -> Result<Verdict, AttemptError> {
    match request.response.status {
        101 => return Ok(Verdict::Switch),
        407 if destination.refuses_us(request) => return Err(Fault::ParentLogin.into()),
        _ => {}
    }
    Ok(match destination.response_override(request, buffer, body) {
        Some(response_override) => Verdict::Override(Box::new(response_override)),
        None => Verdict::Pass,
    })
}

/// The response of an exchange.
struct ExchangeReply<'r, 'c, S> {
    request: &'r mut Request<'c, S>,
    lease: &'r mut Lease,
    progress: &'r Progress,
    destination: &'r mut Destination,
}

impl<S: ClientStream> Reply for ExchangeReply<'_, '_, S> {
    type Wait<'w>
        = Answer<'w>
    where
        Self: 'w;

    fn head(&mut self) -> &mut ResponseHead {
        &mut self.request.response
    }

    fn begun(&mut self) -> Option<First> {
        self.destination.hooks.as_mut()?.first.take()
    }

    fn recv(&mut self, buffer: Option<HeadBuffer>) -> Result<Answer<'_>, Fault> {
        let soon = self.request.peer.times.read.min(HANG_UP_AFTER);
        Ok(match buffer {
            None => self.lease.recv(soon),
            Some(buffer) => self.lease.recv_more(buffer, soon),
        })
    }

    fn is_strict(&self) -> bool {
        self.destination.traits(self.request).is_strict
    }

    async fn recv_late(&mut self, buffer: HeadBuffer) -> Received {
        wait_on(self.request, self.lease, buffer, self.progress).await
    }

    fn is_final(&mut self) -> bool {
        let (head, response) = (&self.request.head, &self.request.response);
        let is_granted = head.is_upgrade && response.is_upgrade;
        response.status >= 200 || response.status == 101 && is_granted
    }

    async fn interim(&mut self, buffer: &HeadBuffer) -> Result<(), Fault> {
        self.progress.control.is_held_back.set(false);
        let bytes = self.request.stream.send_interim(self.request, buffer).await? as u64;
        self.progress.interim_bytes.set(self.progress.interim_bytes.get() + bytes);
        Ok(())
    }
}

/// Goes on waiting for an answer that did not come at once. `timeouts.read` counts from the end of
/// the upload. A client that goes away meanwhile ends the wait, so that a long poll does not keep a
/// connection to the origin that no client waits for; while the client uploads, the upload sees
/// that.
async fn wait_on(
    request: &Request<'_, impl ClientStream>,
    lease: &mut Lease,
    mut buffer: HeadBuffer,
    progress: &Progress,
) -> Received {
    let read = request.peer.times.read;
    let began_ms = clock::coarse_ms().saturating_sub(HANG_UP_AFTER.as_millis() as u64);
    let origin = lease.socket().clone();
    while progress.is_running() {
        let mut wait = pin!(lease.recv_more(buffer, UPLOAD_POLL));
        let ended = poll_fn(|cx| match wait.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if progress.is_running() => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
        });
        let (received, back) = if let Some(ended) = ended.await {
            ended
        } else {
            origin.interrupt(&request.peer.worker.deadlines);
            wait.await
        };
        match received {
            Err(WaitError::Expired) => {}
            Err(WaitError::Interrupted) if !request.peer.stats.is_ended() => {}
            received => return Ok((received, back)),
        }
        buffer = back;
    }
    let waiting_ms = clock::coarse_ms().saturating_sub(began_ms.max(progress.ended_ms.get()));
    let left = read.saturating_sub(Duration::from_millis(waiting_ms));
    if left.is_zero() {
        return Ok((Err(WaitError::Expired), buffer));
    }
    let half_close = request.peer.generation.config.server.half_close;
    let wait = lease.recv_more(buffer, left);
    let received = unless_hung_up(
        wait,
        &origin,
        request.stream.socket(),
        (half_close, &request.peer.worker.deadlines),
    )
    .await;
    received.ok_or(Fault::ClientGone)
}

/// How long the wait for an answer lasts at once beside an upload, which has the deadlines.
const UPLOAD_POLL: Duration = Duration::from_secs(10);
