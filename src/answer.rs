//! Answers that ringway gives by itself: refusals, and the few requests meant for it.
//!
//! In goes a fault or a request; out goes a short answer with `Proxy-Status` (RFC 9209), and the
//! client's connection goes on where that is safe: what the client sent has been read to its end
//! and the fault was not its own.

use std::convert::Infallible;

use crate::connection::Client;
use crate::exchange::After;
use crate::fault::{Close, Fault, Status};
use crate::http::Method;
use crate::http::rewrite::{self, ConnectionOut, Simple};
use crate::record::Record;
use crate::relay;
use crate::ring::Waited;
use crate::worker::{Sent, Unsent};

/// Whether a request was answered without an origin.
pub enum Served {
    Here(After),
    Elsewhere,
}

/// Answers what is meant for this hop: CONNECT (refused, this is no forward proxy), and OPTIONS or
/// TRACE whose Max-Forwards is used up (RFC 9110 §7.6.2).
pub async fn own(client: &mut Client<'_>, record: &mut Record) -> Result<Served, Fault> {
    let request = &client.request;
    let answer = match request.method {
        Method::Connect => return Err(Fault::MethodNotOffered),
        Method::Options if request.max_forwards == Some(0) => Own {
            status: Status { code: 200, reason: "OK" },
            extra: "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
        },
        // Reflecting a request's fields to whoever asks is how credentials leak; refusing is what
        // RFC 9110 §9.3.8 leaves to the final recipient.
        Method::Trace if request.max_forwards == Some(0) => Own {
            status: Status { code: 405, reason: "Method Not Allowed" },
            extra: "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
        },
        _ => return Ok(Served::Elsewhere),
    };
    let After::Reuse = after(client, true) else {
        send(client, answer.status, "", answer.extra, true, record).await?;
        return Ok(Served::Here(After::Close(Close::Refused)));
    };
    send(client, answer.status, "", answer.extra, false, record).await?;
    Ok(Served::Here(After::Reuse))
}

struct Own {
    status: Status,
    extra: &'static str,
}

/// Tells the client what went wrong, if anybody is left to tell.
pub async fn refuse(client: &mut Client<'_>, fault: Fault, record: &mut Record) -> After {
    record.failed(fault);
    let worker = client.worker;
    let pool_status = worker.config.timeouts.pool_status.code();
    let Some(status) = fault.status(pool_status) else {
        return After::Close(Close::ClientGone);
    };
    let via = &worker.config.server.via;
    let error = fault.proxy_error();
    let mut extra = match fault {
        Fault::ClientHead(head) => {
            format!("Proxy-Status: {via}; error={error}; details=\"{}\"\r\n", head.text())
        }
        _ => format!("Proxy-Status: {via}; error={error}\r\n"),
    };
    if status.code == 503 {
        extra.push_str("Retry-After: 1\r\n");
    }
    let after = after(client, fault.spares_client());
    let is_last = after != After::Reuse;
    match send(client, status, status.reason, &extra, is_last, record).await {
        Ok(()) => after,
        Err(_) => After::Close(Close::ClientGone),
    }
}

/// What may become of the connection once the request has been answered here.
fn after(client: &Client<'_>, is_spared: bool) -> After {
    let may_go_on = is_spared
        && client.is_whole
        && client.request.is_persistent
        && !client.worker.is_draining.get();
    if may_go_on { After::Reuse } else { After::Close(Close::Refused) }
}

async fn send(
    client: &Client<'_>,
    status: Status,
    body: &str,
    extra: &str,
    is_last: bool,
    record: &mut Record,
) -> Result<(), Fault> {
    let worker = client.worker;
    let connection = if is_last { ConnectionOut::Close } else { client.kept_alive() };
    let sent = worker.send_built(client.socket, |out| {
        rewrite::simple(
            out,
            &Simple {
                status: status.code,
                reason: status.reason,
                body,
                extra: extra.as_bytes(),
                connection,
                date: &worker.date.now(),
                is_head_only: client.request.method == Method::Head,
            },
        );
        Ok::<_, Infallible>(out.len())
    });
    let bytes = finish_sending(client, sent).await?;
    record.answered(status.code);
    record.sent(bytes as u64);
    Ok(())
}

/// Waits until the client has taken what it did not take at once.
pub async fn finish_sending<T>(
    client: &Client<'_>,
    sent: Result<Sent<T>, Unsent<Infallible>>,
) -> Result<T, Fault> {
    match sent {
        Ok(Sent { about, rest: None }) => Ok(about),
        Ok(Sent { about, rest: Some(rest) }) => send_rest(client, &rest).await.map(|()| about),
        Err(Unsent::Refused(never)) => match never {},
        Err(Unsent::Broken) => Err(Fault::ClientGone),
    }
}

/// Sends `rest` to a client that is slower than the answer.
pub async fn send_rest(client: &Client<'_>, rest: &[u8]) -> Result<(), Fault> {
    let worker = client.worker;
    let stall = worker.config.timeouts.write;
    match relay::send_all(client.socket, rest, &worker.deadlines, stall).await {
        Ok(_) => Ok(()),
        Err(Waited::Expired) => Err(Fault::ClientWriteTimeout),
        Err(Waited::Interrupted | Waited::Failed(_)) => Err(Fault::ClientGone),
    }
}
