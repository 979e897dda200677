//! Answers that ringway gives by itself: refusals, and the few requests meant for it.
//!
//! In goes a fault or a request; out goes a short answer with `Proxy-Status` (RFC 9209), and the
//! client's connection goes on where that is safe: what the client sent has been read to its end
//! and the fault was not its own.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::admin_guard::{self, Caller, Denied};
use crate::config::AdminConfig;
use crate::exchange::outcome::Outcome;
use crate::exchange::record::Record;
use crate::exchange::request::Client;
use crate::fault::{Close, Fault, Status};
use crate::hooks::LocalResponse;
use crate::hooks::style::ResponseStyle;
use crate::http::head::RequestHead;
use crate::http::names::FieldName;
use crate::http::rewrite::{self, ConnectionOut, Simple};
use crate::http::{Method, TargetForm};
use crate::relay::outbox::{Sent, Unsent};
use crate::ring::WaitError;
use crate::worker::mailbox::ControlQuery;
use crate::worker::slot::ConnectionSlot;

/// Whether a request was answered without an origin.
pub(crate) enum Served {
    Here(Outcome),
    Elsewhere,
}

/// Answers what is meant for this hop: OPTIONS or TRACE whose Max-Forwards is used up (RFC 9110
/// §7.6.2).
pub(crate) async fn serve_local(
    client: &mut Client<'_>,
    record: &mut Record,
) -> Result<Served, Fault> {
    let request = &client.request;
    if let Some(endpoint) = LocalEndpoint::of(client) {
        return Box::pin(serve_endpoint(client, endpoint, record)).await;
    }
    let answer = match request.method {
        Method::Options if request.max_forwards == Some(0) => Own {
            status: Status { code: 200, reason: "OK" },
            extra: "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
        },
        // Reflecting a request's fields to the client is how credentials leak; refusing is what RFC
        // 9110 §9.3.8 leaves to the final recipient.
        Method::Trace if request.max_forwards == Some(0) => Own {
            status: Status { code: 405, reason: "Method Not Allowed" },
            extra: "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
        },
        _ => return Ok(Served::Elsewhere),
    };
    let outcome = outcome_after(client, true);
    let is_last = !matches!(outcome, Outcome::Reuse);
    let extra = answer.extra.as_bytes();
    let words = Words { status: answer.status, body: "", extra, style: None };
    send(client, words, is_last, record).await?;
    Ok(Served::Here(outcome))
}

struct Own {
    status: Status,
    extra: &'static str,
}

/// What a request on a data port may want of ringway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalEndpoint {
    Health,
    Cleanup,
}

impl LocalEndpoint {
    /// Only in origin form: who asks a forward proxy asks for somebody else.
    fn of(client: &Client<'_>) -> Option<Self> {
        Self::in_head(&client.request, client.inbox.filled(), &client.generation.config.admin)
    }

    /// The same for a head that lies in `text`.
    pub(crate) fn in_head(head: &RequestHead, text: &[u8], admin: &AdminConfig) -> Option<Self> {
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
async fn serve_endpoint(
    client: &Client<'_>,
    endpoint: LocalEndpoint,
    record: &mut Record,
) -> Result<Served, Fault> {
    let worker = client.worker;
    let head = &client.request;
    let is_cleanup = endpoint == LocalEndpoint::Cleanup;
    let is_allowed = match head.method {
        Method::Get | Method::Head => !is_cleanup,
        Method::Post => is_cleanup,
        _ => false,
    };
    let (reply, answer) = oneshot::channel();
    let query = if !is_allowed {
        let allow = if is_cleanup { "Allow: POST\r\n" } else { "Allow: GET, HEAD\r\n" };
        return respond_with(client, 405, "Method Not Allowed\n", allow, record).await;
    } else if !is_cleanup {
        ControlQuery::Health { reply }
    } else if let Err(denied) = may_change(client) {
        let code = denied.status();
        let extra = if code == 401 { "WWW-Authenticate: Bearer\r\n" } else { "" };
        return respond_with(client, code, denied.cause(), extra, record).await;
    } else {
        ControlQuery::Cleanup { reply }
    };
    let _ = worker.shared.control.send(query);
    let answered = tokio::time::timeout(CONTROL_PATIENCE, answer);
    let Ok(Ok(body)) = client.stats.unless_ended(answered).await? else {
        return Err(Fault::Internal);
    };
    respond_with(client, 200, &body, JSON, record).await
}

/// How long the control thread may take; a cleanup walks over the heaps of all workers.
const CONTROL_PATIENCE: Duration = Duration::from_secs(10);

const JSON: &str = "Content-Type: application/json\r\nCache-Control: no-store\r\n";

/// Whether a change may be asked for: from this machine, unless another proxy passes it on, or with
/// the token.
fn may_change(client: &Client<'_>) -> Result<(), Denied> {
    let fields = &client.request.fields;
    let token = client.generation.config.admin.token.as_ref();
    let passed_on = [FieldName::Forwarded, FieldName::XForwardedFor, FieldName::Via];
    if token.is_none() && passed_on.into_iter().any(|known| fields.has(known)) {
        return Err(Denied::NotLocal);
    }
    let text = client.inbox.filled();
    let value = |name| fields.values(text, name).next();
    admin_guard::may_change(
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

async fn respond_with(
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
    let outcome = outcome_after(client, true);
    let is_last = !matches!(outcome, Outcome::Reuse);
    let status = Status { code, reason };
    let words = Words { status, body, extra: extra.as_bytes(), style: None };
    send(client, words, is_last, record).await?;
    Ok(Served::Here(outcome))
}

/// Tells a client that there is no room for it, without taking its request in.
pub(crate) async fn turn_away(slot: &ConnectionSlot) {
    let worker = slot.worker();
    worker.metrics.clients_refused.add(1);
    if slot.is_new() && slot.park(Duration::ZERO).await.is_err() {
        slot.set_parked(false);
        return;
    }
    slot.set_parked(false);
    let generation = worker.generation();
    let via = &generation.config.server.via;
    let extra = format!("Proxy-Status: {via}; error=proxy_internal_error\r\nRetry-After: 5\r\n");
    // A client that does not even take this has left.
    let _ = worker.outbox.send(slot.socket(), |out| {
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
pub(crate) async fn refuse(client: &mut Client<'_>, fault: Fault, record: &mut Record) -> Outcome {
    refuse_as(client, fault, record, None).await
}

/// The same on a route with hooks, which have a say in what it looks like.
pub(crate) async fn refuse_as(
    client: &Client<'_>,
    fault: Fault,
    record: &mut Record,
    style: Option<&ResponseStyle<'_>>,
) -> Outcome {
    let fault = client.stats.settle(fault);
    record.failed(fault);
    if client.stats.is_cut() {
        client.socket.reset_on_close();
        return Outcome::Close(Close::Cut);
    }
    let pool_status = client.generation.config.timeouts.pool_status.code();
    let Some(status) = fault.status(pool_status) else {
        return Outcome::Close(Close::ClientGone);
    };
    let via = &client.generation.config.server.via;
    let error = fault.proxy_error();
    let mut extra = match fault {
        Fault::ClientHead(head) => {
            format!("Proxy-Status: {via}; error={error}; details=\"{}\"\r\n", head.text())
        }
        _ => match fault.received_status() {
            Some(status) => {
                format!("Proxy-Status: {via}; error={error}; received-status={status}\r\n")
            }
            None => format!("Proxy-Status: {via}; error={error}\r\n"),
        },
    };
    match status.code {
        407 => extra.push_str(&client.generation.access.challenge),
        429 => extra.push_str("Retry-After: 60\r\n"),
        503 => extra.push_str("Retry-After: 1\r\n"),
        _ => {}
    }
    let outcome = outcome_after(client, fault.keeps_connection());
    let is_last = !matches!(outcome, Outcome::Reuse);
    let words = Words { status, body: status.reason, extra: extra.as_bytes(), style };
    match send(client, words, is_last, record).await {
        Ok(()) => outcome,
        Err(_) => Outcome::Close(Close::ClientGone),
    }
}

/// What may become of the connection once the request has been answered here.
fn outcome_after(client: &Client<'_>, keeps_connection: bool) -> Outcome {
    let may_go_on = keeps_connection
        && client.is_whole
        && client.request.is_persistent
        // What follows may be meant for the tunnel that was refused.
        && client.request.method != Method::Connect
        && !client.worker.is_closing();
    if may_go_on { Outcome::Reuse } else { Outcome::Close(Close::Refused) }
}

/// Gives an answer that the hooks of a route have chosen.
pub(crate) async fn give(
    client: &Client<'_>,
    answer: &LocalResponse<'_>,
    style: Option<&ResponseStyle<'_>>,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    let outcome = outcome_after(client, true);
    let is_last = !matches!(outcome, Outcome::Reuse);
    let words = Words { status: answer.status, body: &answer.body, extra: &answer.fields, style };
    send(client, words, is_last, record).await?;
    Ok(outcome)
}

/// What an answer of our own says.
struct Words<'a> {
    status: Status,
    body: &'a str,
    /// Whole field lines.
    extra: &'a [u8],
    /// What the hooks of its route make of it.
    style: Option<&'a ResponseStyle<'a>>,
}

async fn send(
    client: &Client<'_>,
    words: Words<'_>,
    is_last: bool,
    record: &mut Record,
) -> Result<(), Fault> {
    let Words { status, body, extra, style } = words;
    let worker = client.worker;
    let connection = if is_last { ConnectionOut::Close } else { client.kept_alive() };
    let sent = worker.outbox.send(client.socket, |out| {
        let simple = Simple {
            status: status.code,
            reason: status.reason,
            body,
            extra,
            connection,
            date: &worker.date.now(),
            is_head_only: client.request.method == Method::Head,
        };
        match style {
            None => rewrite::simple(out, &simple),
            Some(style) => style.put(out, &simple),
        }
        Ok::<_, Infallible>(out.len())
    });
    let bytes = finish_sending(client, sent).await?;
    record.answered(status.code);
    record.sent(client.stats, bytes as u64);
    Ok(())
}

/// Waits until the client has taken what it did not take at once.
pub(crate) async fn finish_sending<T>(
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
pub(crate) async fn send_rest(client: &Client<'_>, rest: &[u8]) -> Result<(), Fault> {
    match client.receiver().send_all(rest).await {
        Ok(()) => Ok(()),
        Err(WaitError::Expired) => Err(Fault::ClientWriteTimeout),
        Err(WaitError::Interrupted | WaitError::Failed(_)) => Err(Fault::ClientGone),
    }
}
