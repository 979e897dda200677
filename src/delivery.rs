//! The answer on its way to the client: head, body, and what becomes of both connections.
//!
//! In goes a final response head with what came behind it; out comes whether the client's
//! connection goes on. The origin's connection goes back to its pool as soon as the answer has been
//! read to its end, before a slow client has taken it. An answer that its origin cuts short is cut
//! short for the client too, in a way that cannot be taken for its end.

use crate::account::WaitsOn;
use crate::answer::send_rest;
use crate::connection::Client;
use crate::date::DATE_BYTES;
use crate::exchange::{After, Failed};
use crate::fault::{Close, Fault};
use crate::http::chunked::{ChunkScanner, LAST_CHUNK};
use crate::http::rewrite::{BodyOut, ConnectionOut, ResponseRewrite};
use crate::http::{BodyLength, Version};
use crate::record::Record;
use crate::relay::{Broken, Control, Decoder, Encoding, Moved, Transfer};
use crate::ring::{HeadBuffer, Socket};
use crate::seat::Reached;
use crate::upload::Progress;
use crate::way::Way;
use crate::worker::{Sent, Unsent};

/// How an answer is to be passed on.
struct Plan {
    body: BodyOut,
    encoding: Encoding,
    decoder: Decoder,
    connection: ConnectionOut,
}

impl Plan {
    fn of(client: &Client<'_>, is_uploaded: bool) -> Self {
        let is_modern = client.request.version == Version::Http11;
        let (body, encoding, decoder) = match (client.response.body, is_modern) {
            (BodyLength::Empty, _) => (BodyOut::Empty, Encoding::AsIs, Decoder::Sized(0)),
            (BodyLength::Exact(n), _) => (BodyOut::AsIs, Encoding::AsIs, Decoder::Sized(n)),
            (BodyLength::Chunked, true) => {
                (BodyOut::AsIs, Encoding::AsIs, Decoder::Chunked(ChunkScanner::new()))
            }
            // HTTP/1.0 knows no chunks: the payload ends with the connection.
            (BodyLength::Chunked, false) => {
                (BodyOut::UntilClose, Encoding::Payload, Decoder::Chunked(ChunkScanner::new()))
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
pub(crate) async fn deliver(
    client: &Client<'_>,
    lease: Reached<'_>,
    mut buffer: HeadBuffer,
    way: &Way,
    progress: &Progress,
    record: &mut Record,
) -> Result<After, Failed> {
    let (worker, control) = (client.worker, &progress.delivery);
    let is_uploaded = progress.is_complete();
    let mut plan = Plan::of(client, is_uploaded);
    let head_bytes = client.response.bytes;
    let sent = worker.send_built(client.socket, |out| {
        put_head(client, &buffer, way, &plan, out);
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
    record.sent(client.account, out_bytes as u64);
    buffer.consume(head_bytes + used);
    let may_reuse = client.response.is_persistent && is_uploaded && buffer.is_empty();
    let after = if plan.is_last() { last(is_uploaded) } else { After::Reuse };
    if plan.decoder.is_done() {
        if may_reuse {
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
        if may_reuse && moved == Moved::Clean && plan.encoding != Encoding::Chunked {
            lease.give_back();
        }
    }
    Ok(after)
}

/// Appends the head of the answer as the client shall see it.
fn put_head(client: &Client<'_>, buffer: &HeadBuffer, way: &Way, plan: &Plan, out: &mut Vec<u8>) {
    let head = &client.response;
    let repeated = match way {
        Way::Route(_) if head.has_date => {
            head.repeated().map(|it| (it, plan.body, plan.connection))
        }
        _ => None,
    };
    client.sent_response.borrow_mut().put(repeated, out, |out| {
        let date = if head.has_date { [0; DATE_BYTES] } else { client.worker.date.now() };
        let (body, connection) = (plan.body, plan.connection);
        let how = ResponseRewrite { body, connection, date: &date, via: None };
        way.put_response(client, buffer.filled(), &how, out);
    });
}

fn last(is_uploaded: bool) -> After {
    After::Close(if is_uploaded { Close::Answered } else { Close::Refused })
}

async fn pass_body(
    client: &Client<'_>,
    origin: &Socket,
    plan: &Plan,
    control: &Control,
) -> Result<Moved, Broken> {
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
        account: client.account,
        flow: &client.account.sent,
    };
    let moved = transfer.run(plan.decoder, plan.encoding).await?;
    if plan.encoding == Encoding::Chunked {
        client.receiver().send_all(LAST_CHUNK).await.map_err(|_| Broken::ToFailed)?;
        control.sent.set(control.sent.get() + LAST_CHUNK.len() as u64);
    }
    Ok(moved)
}

/// Ends a connection whose client does not take its answer; by a reset, because a close might pass
/// for the answer's end.
fn gone(client: &Client<'_>, record: &mut Record, fault: Fault) -> After {
    client.socket.reset_on_close();
    record.failed(client.account.settle(fault));
    After::Close(Close::ClientGone)
}

/// Ends a connection whose answer could not be completed. Where the end of the connection is the
/// end of the body, only a reset says that this was not it.
fn cut(client: &Client<'_>, broken: &Broken, record: &mut Record) -> After {
    let (fault, close) = match broken {
        Broken::FromEnded | Broken::FromFailed => (Fault::OriginTruncated, Close::Cut),
        Broken::FromExpired => (Fault::OriginReadTimeout, Close::Cut),
        Broken::Framing(error) => (Fault::OriginChunk(*error), Close::Cut),
        Broken::TooLarge => (Fault::Internal, Close::Cut),
        Broken::NoChunk => (Fault::Overloaded, Close::Cut),
        Broken::Interrupted => (Fault::Stopping, Close::Cut),
        Broken::ToExpired => (Fault::ClientWriteTimeout, Close::ClientGone),
        Broken::ToFailed => (Fault::ClientGone, Close::ClientGone),
    };
    record.failed(client.account.settle(fault));
    client.socket.reset_on_close();
    After::Close(close)
}
