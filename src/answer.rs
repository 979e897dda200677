//! Answers that ringway gives by itself: refusals, and the few requests meant for it.
//!
//! In goes a fault or a request; out goes a short answer with `Proxy-Status` (RFC 9209), and the
//! client's connection goes on where that is safe: what the client sent has been read to its end
//! and the fault was not its own.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::ask::ControlAsk;
use crate::config::AdminConfig;
use crate::connection::Client;
use crate::exchange::After;
use crate::fault::{Close, Fault, Status};
use crate::guard::{self, Caller, Denied};
use crate::hooking::Dress;
use crate::hooks::Answer;
use crate::http::head::RequestHead;
use crate::http::names::Known;
use crate::http::rewrite::{self, ConnectionOut, Simple};
use crate::http::{Method, TargetForm};
use crate::record::Record;
use crate::ring::Waited;
use crate::seat::Seat;
use crate::worker::{Sent, Unsent};

/// Whether a request was answered without an origin.
pub enum Served {
    Here(After),
    Elsewhere,
}

/// Answers what is meant for this hop: OPTIONS or TRACE whose Max-Forwards is used up (RFC 9110
/// §7.6.2).
pub async fn own(client: &mut Client<'_>, record: &mut Record) -> Result<Served, Fault> {
    let request = &client.request;
    if let Some(wish) = Wish::of(client) {
        return Box::pin(for_ringway(client, wish, record)).await;
    }
    let answer = match request.method {
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
    let after = after(client, true);
    let is_last = !matches!(after, After::Reuse);
    let extra = answer.extra.as_bytes();
    let words = Words { status: answer.status, body: "", extra, dress: None };
    send(client, words, is_last, record).await?;
    Ok(Served::Here(after))
}

struct Own {
    status: Status,
    extra: &'static str,
}

/// What a request on a data port may want of ringway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Health,
    Cleanup,
}

impl Wish {
    /// Only in origin form: who asks a forward proxy asks for somebody else.
    fn of(client: &Client<'_>) -> Option<Self> {
        Self::in_head(&client.request, client.inbox.filled(), &client.generation.config.admin)
    }

    /// The same for a head that lies in `text`.
    pub fn in_head(head: &RequestHead, text: &[u8], admin: &AdminConfig) -> Option<Self> {
        if head.form != TargetForm::Origin || !admin.on_data_port {
            return None;
        }
        let path = head.path(text);
        let is = |own: &[u8]| matches!(path.strip_prefix(own), Some([] | [b'?', ..]));
        if is(b"/health") {
            return Some(Self::Health);
        }
        is(b"/admin/cleanup").then_some(Self::Cleanup)
    }
}

/// Answers what is meant for ringway itself and not for an origin: its health, and the wish that it
/// gives memory back.
async fn for_ringway(
    client: &Client<'_>,
    wish: Wish,
    record: &mut Record,
) -> Result<Served, Fault> {
    let worker = client.worker;
    let head = &client.request;
    let is_cleanup = wish == Wish::Cleanup;
    let is_allowed = match head.method {
        Method::Get | Method::Head => !is_cleanup,
        Method::Post => is_cleanup,
        _ => false,
    };
    let (reply, answer) = oneshot::channel();
    let ask = if !is_allowed {
        let allow = if is_cleanup { "Allow: POST\r\n" } else { "Allow: GET, HEAD\r\n" };
        return own_answer(client, 405, "Method Not Allowed\n", allow, record).await;
    } else if !is_cleanup {
        ControlAsk::Health { reply }
    } else if let Err(denied) = may_change(client) {
        let code = denied.status();
        let extra = if code == 401 { "WWW-Authenticate: Bearer\r\n" } else { "" };
        return own_answer(client, code, denied.cause(), extra, record).await;
    } else {
        ControlAsk::Cleanup { reply }
    };
    let _ = worker.shared.control.send(ask);
    let answered = tokio::time::timeout(CONTROL_PATIENCE, answer);
    let Ok(Ok(body)) = client.account.unless_ended(answered).await? else {
        return Err(Fault::Internal);
    };
    own_answer(client, 200, &body, JSON, record).await
}

/// How long the control thread may take; a cleanup walks over the heaps of all workers.
const CONTROL_PATIENCE: Duration = Duration::from_secs(10);

const JSON: &str = "Content-Type: application/json\r\nCache-Control: no-store\r\n";

/// Whether a change may be asked for: from this machine, unless another proxy passes it on, or with
/// the token.
fn may_change(client: &Client<'_>) -> Result<(), Denied> {
    let fields = &client.request.fields;
    let token = client.generation.config.admin.token.as_ref();
    let passed_on = [Known::Forwarded, Known::XForwardedFor, Known::Via];
    if token.is_none() && passed_on.into_iter().any(|known| fields.has(known)) {
        return Err(Denied::NotLocal);
    }
    let text = client.inbox.filled();
    let value = |name| fields.values(text, name).next();
    guard::may_change(
        &Caller {
            peer: Some(client.peer.ip()),
            host: Some(client.request.authority.of(text)),
            origin: value(b"origin"),
            fetch_site: value(b"sec-fetch-site"),
            authorization: value(b"authorization"),
        },
        token,
    )
}

async fn own_answer(
    client: &Client<'_>,
    code: u16,
    body: &str,
    extra: &str,
    record: &mut Record,
) -> Result<Served, Fault> {
    let reason = match code {
        200 => "OK",
        401 => "Unauthorized",
        403 => "Forbidden",
        _ => "Method Not Allowed",
    };
    let after = after(client, true);
    let is_last = !matches!(after, After::Reuse);
    let status = Status { code, reason };
    let words = Words { status, body, extra: extra.as_bytes(), dress: None };
    send(client, words, is_last, record).await?;
    Ok(Served::Here(after))
}

/// Tells a client that there is no room for it, without taking its request in.
pub async fn turn_away(seat: &Seat) {
    let worker = seat.worker();
    worker.metrics.clients_refused.add(1);
    if seat.is_new() && seat.rest(Duration::ZERO).await.is_err() {
        seat.set_resting(false);
        return;
    }
    seat.set_resting(false);
    let generation = worker.generation();
    let via = &generation.config.server.via;
    let extra = format!("Proxy-Status: {via}; error=proxy_internal_error\r\nRetry-After: 5\r\n");
    // A client that does not even take this has left.
    let _ = worker.send_built(seat.socket(), |out| {
        rewrite::simple(
            out,
            &Simple {
                status: 503,
                reason: "Service Unavailable",
                body: "Service Unavailable",
                extra: extra.as_bytes(),
                connection: ConnectionOut::Close,
                date: &worker.date.now(),
                is_head_only: false,
            },
        );
        Ok::<_, Infallible>(())
    });
    worker.metrics.requests[5].add(1);
}

/// Tells the client what went wrong, if anybody is left to tell.
pub async fn refuse(client: &mut Client<'_>, fault: Fault, record: &mut Record) -> After {
    refuse_as(client, fault, record, None).await
}

/// The same on a route with hooks, which have a say in what it looks like.
pub(crate) async fn refuse_as(
    client: &Client<'_>,
    fault: Fault,
    record: &mut Record,
    dress: Option<&Dress<'_>>,
) -> After {
    let fault = client.account.settle(fault);
    record.failed(fault);
    if client.account.is_cut() {
        client.socket.reset_on_close();
        return After::Close(Close::Cut);
    }
    let pool_status = client.generation.config.timeouts.pool_status.code();
    let Some(status) = fault.status(pool_status) else {
        return After::Close(Close::ClientGone);
    };
    let via = &client.generation.config.server.via;
    let error = fault.proxy_error();
    let mut extra = match fault {
        Fault::ClientHead(head) => {
            format!("Proxy-Status: {via}; error={error}; details=\"{}\"\r\n", head.text())
        }
        _ => format!("Proxy-Status: {via}; error={error}\r\n"),
    };
    match status.code {
        407 => extra.push_str(&client.generation.gate.challenge),
        429 => extra.push_str("Retry-After: 60\r\n"),
        503 => extra.push_str("Retry-After: 1\r\n"),
        _ => {}
    }
    let after = after(client, fault.spares_client());
    let is_last = !matches!(after, After::Reuse);
    let words = Words { status, body: status.reason, extra: extra.as_bytes(), dress };
    match send(client, words, is_last, record).await {
        Ok(()) => after,
        Err(_) => After::Close(Close::ClientGone),
    }
}

/// What may become of the connection once the request has been answered here.
fn after(client: &Client<'_>, is_spared: bool) -> After {
    let may_go_on = is_spared
        && client.is_whole
        && client.request.is_persistent
        // What follows may be meant for the tunnel that was refused.
        && client.request.method != Method::Connect
        && !client.worker.is_closing();
    if may_go_on { After::Reuse } else { After::Close(Close::Refused) }
}

/// Gives an answer that the hooks of a route have chosen.
pub(crate) async fn give(
    client: &Client<'_>,
    answer: &Answer<'_>,
    dress: Option<&Dress<'_>>,
    record: &mut Record,
) -> Result<After, Fault> {
    let after = after(client, true);
    let is_last = !matches!(after, After::Reuse);
    let words = Words { status: answer.status, body: &answer.body, extra: &answer.fields, dress };
    send(client, words, is_last, record).await?;
    Ok(after)
}

/// What an answer of our own says.
struct Words<'a> {
    status: Status,
    body: &'a str,
    /// Whole field lines.
    extra: &'a [u8],
    /// What the hooks of its route make of it.
    dress: Option<&'a Dress<'a>>,
}

async fn send(
    client: &Client<'_>,
    words: Words<'_>,
    is_last: bool,
    record: &mut Record,
) -> Result<(), Fault> {
    let Words { status, body, extra, dress } = words;
    let worker = client.worker;
    let connection = if is_last { ConnectionOut::Close } else { client.kept_alive() };
    let sent = worker.send_built(client.socket, |out| {
        let simple = Simple {
            status: status.code,
            reason: status.reason,
            body,
            extra,
            connection,
            date: &worker.date.now(),
            is_head_only: client.request.method == Method::Head,
        };
        match dress {
            None => rewrite::simple(out, &simple),
            Some(dress) => dress.put(out, &simple),
        }
        Ok::<_, Infallible>(out.len())
    });
    let bytes = finish_sending(client, sent).await?;
    record.answered(status.code);
    record.sent(client.account, bytes as u64);
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
    match client.receiver().send_all(rest).await {
        Ok(()) => Ok(()),
        Err(Waited::Expired) => Err(Fault::ClientWriteTimeout),
        Err(Waited::Interrupted | Waited::Failed(_)) => Err(Fault::ClientGone),
    }
}
