//! The answer on its way to the client: head, body, and what becomes of both connections.
//!
//! In goes a final response head with what came behind it; out comes whether the client has got all
//! of it. The origin's connection goes back to its pool as soon as the answer has been
//! read to its end, before a slow client has taken it. An answer that its origin cuts short is cut
//! short for the client too, in a way that cannot be taken for its end.

use crate::exchange::ahead;
use crate::exchange::destination::Destination;
use crate::exchange::logged_in::{logs_in, refuse_challenge};
use crate::exchange::outcome::Outcome;
use crate::exchange::peer::Peer;
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::respond::send_rest;
use crate::exchange::stream::{Begun, Body, ClientStream, Incoming};
use crate::exchange::upload::Progress;
use crate::fault::Fault;
use crate::http::BodyLength;
use crate::http::chunk_rules::ChunkRules;
use crate::http::repair::Repairs;
use crate::ledger::Counted;
use crate::observe::connection_stats::WaitsOn;
use crate::relay::held::Held;
use crate::relay::outbox::Unsent;
use crate::relay::side::Side;
use crate::relay::{Control, Leftover, RelayError, Sender, Transfer};
use crate::ring::{HeadBuffer, Socket};
use crate::upstream::h1::AttemptError;
use crate::worker::slot::Reached;

/// How much of an answer has gone out at once.
pub(crate) enum Part {
    Whole,
    /// The rest is in a [`Remainder`].
    First,
    CutShort(Fault),
}

/// What of an answer is still to go to its client when its head has gone out.
pub(crate) struct Remainder<'c> {
    /// From where it comes; `None` where it has come whole.
    lease: Option<Reached<'c>>,
    body: Body,
    /// What the client did not take at once.
    rest: Option<Counted>,
}

/// Passes the answer in `request.response`, whose bytes begin `buffer`, on to the client, as far as
/// that has come and the client takes it at once: most answers whole, and nothing is awaited. What
/// there is more goes into `left`, for [`finish_response`].
pub(crate) fn begin_response<'c>(
    request: &Request<'_, impl ClientStream>,
    (mut lease, mut buffer): (Reached<'c>, HeadBuffer),
    destination: &Destination,
    progress: &Progress,
    record: &mut Record,
    left: &mut Option<Remainder<'c>>,
) -> Result<Part, AttemptError> {
    refuse_challenge(request, buffer.filled())?;
    let stats = request.peer.stats;
    let is_uploaded = progress.is_complete();
    let via = destination.response_via(request);
    let rules = match request.response.body {
        BodyLength::Chunked => destination.traits(request).response_chunks(),
        _ => ChunkRules::STRICT,
    };
    let begun = {
        let seen = destination.seen(request, &lease, buffer.filled());
        let seen = seen.as_ref().map(|seen| seen.as_seen());
        let notes = record.response_notes(request.peer.worker);
        let is_plain = destination.is_plain() && via.is_none() && seen.is_none() && notes.is_none();
        let incoming = Incoming { buffer: &buffer, is_uploaded, is_plain, rules, via, seen };
        request.stream.send_head(request, &incoming, |how, out| {
            let start = out.len();
            destination.put_response(request, buffer.filled(), how, out);
            if let Some(notes) = notes {
                notes.take(&out[start..]);
            }
        })
    };
    let Begun { body, used, sent, rest } = match begun {
        Ok(begun) => begun,
        // A chunk that is bad right behind the head is refused as long as nothing has been sent.
        Err(Unsent::Refused(error)) => return Err(Fault::OriginChunk(error).into()),
        Err(error) => {
            let fault = match error {
                Unsent::NoMemory => Fault::Overloaded,
                _ => Fault::ClientGone,
            };
            gone(request, record, fault);
            return Ok(Part::CutShort(fault));
        }
    };
    record.sent(stats, sent as u64);
    heed(request, &mut lease, buffer.filled());
    buffer.consume(request.response.bytes + used);
    if !body.decoder.is_done() {
        *left = Some(Remainder { lease: Some(lease), body, rest });
        return Ok(Part::First);
    }
    if is_sound(request, body.decoder.repairs()) && destination.reads_body(request, &lease) {
        lease.finish_with(&request.response, is_uploaded, buffer);
    }
    if rest.is_some() {
        *left = Some(Remainder { lease: None, body, rest });
        return Ok(Part::First);
    }
    Ok(Part::Whole)
}

/// Passes what [`begin_response`] has left on.
pub(crate) async fn finish_response(
    request: &Request<'_, impl ClientStream>,
    left: &mut Option<Remainder<'_>>,
    destination: &Destination,
    progress: &Progress,
    record: &mut Record,
) -> Outcome {
    let Some(Remainder { lease, body, rest }) = left else { return Outcome::Complete };
    let is_uploaded = progress.is_complete();
    let reads_body = lease.as_ref().is_some_and(|it| destination.reads_body(request, it));
    if lease.is_some()
        && let Some(held) = ahead::begin(request, destination.buffers(request).1, rest.as_deref())
        && let Some(lease) = lease.take()
    {
        *rest = None;
        let passed = pass_ahead(request, (lease, held), body, (progress, reads_body), record);
        return Box::pin(passed).await;
    }
    if let Some(rest) = rest.take()
        && let Err(fault) = send_rest(request, &rest).await
    {
        return gone(request, record, fault);
    }
    let Some(lease) = lease.take() else { return Outcome::Complete };
    lease.begin_stream();
    let passed = pass_body(request, lease.socket(), body, &progress.download).await;
    record.moved(0, progress.download.sent.get());
    let moved = match passed {
        Ok(moved) => moved,
        Err(broken) => return cut(request, &broken, record),
    };
    if is_sound(request, progress.download.repairs.get()) && reads_body {
        let is_clean = moved == Leftover::Nothing;
        lease.finish(&request.response, is_uploaded, is_clean);
    }
    Outcome::Complete
}

/// Takes in what the head of an answer, which `text` begins with, says of its connection.
#[inline]
fn heed(request: &Request<'_, impl ClientStream>, lease: &mut Reached<'_>, text: &[u8]) {
    let (head, asked) = (&request.response, request.inbox.filled());
    if logs_in(&request.head.fields, asked, head, text) {
        lease.bind();
    }
    lease.hear(head, text);
}

/// Passes the rest of a body on whose route buffers it.
async fn pass_ahead(
    request: &Request<'_, impl ClientStream>,
    (lease, held): (Reached<'_>, Held),
    body: &Body,
    (progress, reads_body): (&Progress, bool),
    record: &mut Record,
) -> Outcome {
    let is_uploaded = progress.is_complete();
    lease.begin_stream();
    let control = &progress.download;
    // It has been counted with the head.
    let counted = held.len();
    let finish = |lease: Reached<'_>, leftover| {
        if is_sound(request, control.repairs.get()) && reads_body {
            lease.finish(&request.response, is_uploaded, leftover == Leftover::Nothing);
        }
    };
    let passed = ahead::pass(request, (lease, held), body, control, finish).await;
    record.moved(0, control.sent.get().saturating_sub(counted));
    match passed {
        Ok(()) => Outcome::Complete,
        Err(broken) => cut(request, &broken, record),
    }
}

/// Counts what was mended in a body; whether its end is where its sender has meant it to be.
fn is_sound<S>(request: &Request<'_, S>, repairs: Repairs) -> bool {
    if repairs.is_none() {
        return true;
    }
    request.peer.worker.metrics.repaired(repairs);
    !repairs.touch_framing()
}

async fn pass_body(
    request: &Request<'_, impl ClientStream>,
    origin: &Socket,
    body: &Body,
    control: &Control,
) -> Result<Leftover, RelayError> {
    let Peer { worker, stats, generation, times, .. } = &request.peer;
    let config = &generation.config;
    let from = Sender {
        socket: origin,
        silence: times.read,
        stats: (stats, WaitsOn::OriginToAnswer),
        flow: &stats.sent,
    };
    let to = request.receiver();
    let transfer = Transfer::new(worker.means(), &config.buffers, from, to, control);
    let moved = transfer.run(body.decoder, body.encoding).await?;
    let ended = request.stream.end_body(request, body.encoding).await? as u64;
    control.sent.set(control.sent.get() + ended);
    Ok(moved)
}

/// Ends an answer whose client does not take it, by a reset: a close might pass for its end.
fn gone(request: &Request<'_, impl ClientStream>, record: &mut Record, fault: Fault) -> Outcome {
    request.stream.reset();
    record.failed(request.peer.stats.settle(fault));
    Outcome::CutShort(fault)
}

/// Ends an answer that could not be completed.
fn cut(
    request: &Request<'_, impl ClientStream>,
    broken: &RelayError,
    record: &mut Record,
) -> Outcome {
    let fault = broken.of_body(Side::Origin);
    record.failed(request.peer.stats.settle(fault));
    request.stream.reset();
    Outcome::CutShort(fault)
}
