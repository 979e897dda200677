//! The answer on its way to the client: head, body, and what becomes of both connections.
//!
//! In goes a final response head with what came behind it; out comes whether the client's
//! connection goes on. The origin's connection goes back to its pool as soon as the answer has been
//! read to its end, before a slow client has taken it. An answer that its origin cuts short is cut
//! short for the client too, in a way that cannot be taken for its end.

use crate::exchange::destination::Destination;
use crate::exchange::outcome::Outcome;
use crate::exchange::record::Record;
use crate::exchange::request::Client;
use crate::exchange::respond::send_rest;
use crate::exchange::upload::Progress;
use crate::fault::{Close, Fault};
use crate::http::chunk_rules::ChunkRules;
use crate::http::chunked::{ChunkScanner, LAST_CHUNK};
use crate::http::names::{FieldName, elements};
use crate::http::repair::Repairs;
use crate::http::rewrite::{BodyOut, ConnectionOut, ResponseRewrite};
use crate::http::{BodyLength, Version};
use crate::observe::connection_stats::WaitsOn;
use crate::observe::date::DATE_BYTES;
use crate::relay::outbox::{Sent, Unsent};
use crate::relay::{Control, Decoder, Encoding, Leftover, RelayError, Transfer};
use crate::ring::{HeadBuffer, Socket};
use crate::upstream::h1::{self, AttemptError};
use crate::worker::slot::Reached;

/// How an answer is to be passed on.
struct Plan {
    body: BodyOut,
    encoding: Encoding,
    decoder: Decoder,
    connection: ConnectionOut,
}

impl Plan {
    fn of(client: &Client<'_>, is_uploaded: bool, destination: &Destination) -> Self {
        let rules = match client.response.body {
            BodyLength::Chunked => destination.traits(client).response_chunks(),
            _ => ChunkRules::STRICT,
        };
        let is_modern = client.request.version == Version::Http11;
        let (body, encoding, decoder) = match (client.response.body, is_modern) {
            (BodyLength::Empty, _) => (BodyOut::Empty, Encoding::AsIs, Decoder::Sized(0)),
            (BodyLength::Exact(n), _) => (BodyOut::AsIs, Encoding::AsIs, Decoder::Sized(n)),
            (BodyLength::Chunked, true) => {
                (BodyOut::AsIs, Encoding::AsIs, Decoder::Chunked(ChunkScanner::by(rules)))
            }
            // HTTP/1.0 knows no chunks: the payload ends with the connection.
            (BodyLength::Chunked, false) => {
                (BodyOut::UntilClose, Encoding::Payload, Decoder::Chunked(ChunkScanner::by(rules)))
            }
            (BodyLength::UntilClose, true) => {
                (BodyOut::Chunked, Encoding::Chunked, Decoder::UntilClose)
            }
            (BodyLength::UntilClose, false) => {
                (BodyOut::UntilClose, Encoding::AsIs, Decoder::UntilClose)
            }
        };
        let is_last = matches!(body, BodyOut::UntilClose)
            || !client.request.is_persistent
            || !is_uploaded
            || client.worker.is_closing();
        let connection = if is_last { ConnectionOut::Close } else { client.kept_alive() };
        Self { body, encoding, decoder, connection }
    }

    fn is_last(&self) -> bool {
        matches!(self.connection, ConnectionOut::Close)
    }
}

/// Passes the answer in `client.response`, whose bytes begin `buffer`, on to the client.
pub(crate) async fn send_response(
    client: &Client<'_>,
    lease: Reached<'_>,
    mut buffer: HeadBuffer,
    destination: &Destination,
    progress: &Progress,
    record: &mut Record,
) -> Result<Outcome, AttemptError> {
    let (worker, control) = (client.worker, &progress.download);
    let is_uploaded = progress.is_complete();
    let mut plan = Plan::of(client, is_uploaded, destination);
    let head_bytes = client.response.bytes;
    let sent = worker.outbox.send(client.socket, |out| {
        put_head(client, &buffer, destination, &plan, out);
        let behind_head = &buffer.filled()[head_bytes..];
        if plan.decoder.is_done() {
            return Ok((0, out.len()));
        }
        let decoded = plan.encoding.append(&mut plan.decoder, behind_head, out)?;
        Ok((decoded.used, out.len()))
    });
    // A chunk that is bad right behind the head is refused as long as nothing has been sent.
    let Sent { about: (used, out_bytes), rest } = match sent {
        Ok(sent) => sent,
        Err(Unsent::Refused(error)) => return Err(Fault::OriginChunk(error).into()),
        Err(Unsent::Broken) => return Ok(gone(client, record, Fault::ClientGone)),
    };
    record.sent(client.stats, out_bytes as u64);
    if logs_in(client, buffer.filled()) {
        lease.bind();
    }
    buffer.consume(head_bytes + used);
    let may_reuse = h1::is_reusable(&client.response, is_uploaded, buffer.is_empty())
        && destination.reads_body(client);
    let outcome = if plan.is_last() { last(is_uploaded) } else { Outcome::Reuse };
    if plan.decoder.is_done() {
        if may_reuse && is_sound(client, plan.decoder.repairs()) {
            lease.give_back_with(buffer);
        }
        if let Some(rest) = rest
            && let Err(fault) = send_rest(client, &rest).await
        {
            return Ok(gone(client, record, fault));
        }
    } else {
        drop(buffer);
        if let Some(rest) = rest
            && let Err(fault) = send_rest(client, &rest).await
        {
            return Ok(gone(client, record, fault));
        }
        lease.begin_stream();
        let passed = pass_body(client, lease.socket(), &plan, control).await;
        record.moved(0, control.sent.get());
        let moved = match passed {
            Ok(moved) => moved,
            Err(broken) => return Ok(cut(client, &broken, record)),
        };
        // Excess behind an answer is what a smuggled one looks like.
        if is_sound(client, control.repairs.get())
            && may_reuse
            && moved == Leftover::Nothing
            && plan.encoding != Encoding::Chunked
        {
            lease.give_back();
        }
    }
    Ok(outcome)
}

/// Whether the connection to the origin is one that a user logs in on, rather than a request: the
/// origin asks for that, or the client has begun by itself. `head` is the origin's.
#[inline]
fn logs_in(client: &Client<'_>, head: &[u8]) -> bool {
    let (request, response) = (&client.request, &client.response);
    let is_asked = matches!(response.status, 401 | 407);
    if !is_asked && !request.fields.has(FieldName::Authorization) {
        return false;
    }
    let mut credentials = request.fields.all(FieldName::Authorization);
    let text = client.inbox.filled();
    credentials.any(|field| is_by_connection(field.value.of(text)))
        || is_asked
            && [&b"www-authenticate"[..], b"proxy-authenticate"]
                .into_iter()
                .flat_map(|name| response.fields.values(head, name))
                .any(|value| elements(value).any(is_by_connection))
}

/// Whether a challenge, or credentials, are of a scheme that logs a connection in.
fn is_by_connection(value: &[u8]) -> bool {
    let scheme = value.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
}

/// Counts what was mended in a body; whether its end is where its sender has meant it to be.
fn is_sound(client: &Client<'_>, repairs: Repairs) -> bool {
    if repairs.is_none() {
        return true;
    }
    client.worker.metrics.repaired(repairs);
    !repairs.touch_framing()
}

/// Appends the head of the answer as the client shall see it.
fn put_head(
    client: &Client<'_>,
    buffer: &HeadBuffer,
    destination: &Destination,
    plan: &Plan,
    out: &mut Vec<u8>,
) {
    let head = &client.response;
    let via = destination.response_via(client);
    let repeated = match destination {
        Destination::Route(_) if head.has_date && via.is_none() => {
            head.repeated().map(|it| (it, plan.body, plan.connection))
        }
        _ => None,
    };
    client.sent_response.borrow_mut().put(repeated, out, |out| {
        let date = if head.has_date { [0; DATE_BYTES] } else { client.worker.date.now() };
        let (body, connection) = (plan.body, plan.connection);
        let how = ResponseRewrite { body, connection, date: &date, via };
        destination.put_response(client, buffer.filled(), &how, out);
    });
}

fn last(is_uploaded: bool) -> Outcome {
    Outcome::Close(if is_uploaded { Close::Answered } else { Close::Refused })
}

async fn pass_body(
    client: &Client<'_>,
    origin: &Socket,
    plan: &Plan,
    control: &Control,
) -> Result<Leftover, RelayError> {
    let worker = client.worker;
    let config = &client.generation.config;
    let transfer = Transfer {
        chunks: &worker.chunks,
        from: origin,
        to: client.receiver(),
        silence: config.timeouts.read,
        sender: WaitsOn::OriginToAnswer,
        memory: (&worker.ledger, &worker.budget),
        operation_chunks: config.buffers.operation_chunks,
        is_fixed: config.buffers.fixed_operations,
        pipes: Some(&worker.pipes),
        is_exact: false,
        payload_bytes_max: u64::MAX,
        control,
        stats: client.stats,
        flow: &client.stats.sent,
    };
    let moved = transfer.run(plan.decoder, plan.encoding).await?;
    if plan.encoding == Encoding::Chunked {
        client.receiver().send_all(LAST_CHUNK).await.map_err(|_| RelayError::ToFailed)?;
        control.sent.set(control.sent.get() + LAST_CHUNK.len() as u64);
    }
    Ok(moved)
}

/// Ends a connection whose client does not take its answer; by a reset, because a close might pass
/// for the answer's end.
fn gone(client: &Client<'_>, record: &mut Record, fault: Fault) -> Outcome {
    client.socket.reset_on_close();
    record.failed(client.stats.settle(fault));
    Outcome::Close(Close::ClientGone)
}

/// Ends a connection whose answer could not be completed. Where the end of the connection is the
/// end of the body, only a reset says that this was not it.
fn cut(client: &Client<'_>, broken: &RelayError, record: &mut Record) -> Outcome {
    let (fault, close) = match broken {
        RelayError::FromEnded | RelayError::FromFailed => (Fault::OriginTruncated, Close::Cut),
        RelayError::FromExpired => (Fault::OriginReadTimeout, Close::Cut),
        RelayError::Framing(error) => (Fault::OriginChunk(*error), Close::Cut),
        RelayError::TooLarge => (Fault::Internal, Close::Cut),
        RelayError::NoChunk => (Fault::Overloaded, Close::Cut),
        RelayError::Interrupted => (Fault::Stopping, Close::Cut),
        RelayError::ToExpired => (Fault::ClientWriteTimeout, Close::ClientGone),
        RelayError::ToFailed => (Fault::ClientGone, Close::ClientGone),
    };
    record.failed(client.stats.settle(fault));
    client.socket.reset_on_close();
    Outcome::Close(close)
}
