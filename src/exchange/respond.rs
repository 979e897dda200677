//! Answers that ringway gives by itself: refusals, and the few requests meant for it.
//!
//! In goes a fault or a request; out goes a short answer with `Proxy-Status` (RFC 9209), and
//! whether the fault was the client's own, which would speak against another request of its. What
//! an origin has answered is never changed here.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::address::{ClientAddress, PeerAddress};
use crate::admin_guard::{self, Caller, Denied, Rules};
use crate::config::{AdminConfig, OnDataPort};
use crate::exchange::outcome::Outcome;
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::secure;
use crate::exchange::stream::{ClientStream, Words};
use crate::fault::{Fault, Status};
use crate::hooks::LocalResponse;
use crate::hooks::style::ResponseStyle;
use crate::http::grpc;
use crate::http::head::RequestHead;
use crate::http::names::FieldName;
use crate::http::{Method, TargetForm};
use crate::observe::log_limit;
use crate::relay::outbox::{Sent, Unsent};
use crate::relay::side::{Act, Side};
use crate::ring::clock;
use crate::worker::mailbox::ControlQuery;

/// What is meant for this hop, and answered without an origin.
pub(crate) enum Local {
    Endpoint(LocalEndpoint),
    /// What proves that a name is ours, to an authority that asks.
    Proof(String),
    /// It has to be sent to where TLS is spoken.
    Misplaced,
    /// OPTIONS whose Max-Forwards is used up (RFC 9110 §7.6.2).
    LastOptions,
    /// TRACE likewise.
    LastTrace,
}

impl Local {
    /// What of that a request is; nearly all are for an origin.
    #[inline]
    pub(crate) fn of(request: &Request<'_, impl ClientStream>) -> Result<Option<Self>, Fault> {
        if let Some(endpoint) = LocalEndpoint::of(request) {
            return Ok(Some(Self::Endpoint(endpoint)));
        }
        if let Some(proof) = secure::proof(request) {
            return Ok(Some(Self::Proof(proof)));
        }
        if secure::is_misplaced(request)? {
            return Ok(Some(Self::Misplaced));
        }
        let head = &request.head;
        Ok(match head.method {
            Method::Options if head.max_forwards == Some(0) => Some(Self::LastOptions),
            Method::Trace if head.max_forwards == Some(0) => Some(Self::LastTrace),
            _ => None,
        })
    }

    pub(crate) async fn serve(
        self,
        request: &Request<'_, impl ClientStream>,
        record: &mut Record,
    ) -> Result<Outcome, Fault> {
        let (code, reason) = match self {
            Self::Endpoint(endpoint) => return serve_endpoint(request, endpoint, record).await,
            Self::Proof(proof) => {
                let extra = "Content-Type: application/octet-stream\r\n";
                return respond_with(request, 200, &proof, extra, record).await;
            }
            Self::Misplaced => return redirect(request, record).await,
            Self::LastOptions => (200, "OK"),
            // Reflecting a request's fields to the client is how credentials leak; refusing is what
            // RFC 9110 §9.3.8 leaves to the final recipient.
            Self::LastTrace => (405, "Method Not Allowed"),
        };
        let extra = b"Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n";
        let words =
            Words { status: Status { code, reason }, body: "", extra, style: None, notes: None };
        send(request, words, true, record).await
    }
}

/// What a request on a data port may want of ringway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalEndpoint {
    Health,
    Cleanup,
}

impl LocalEndpoint {
    /// Only in origin form: who asks a forward proxy asks for somebody else.
    #[inline]
    pub(crate) fn of(request: &Request<'_, impl ClientStream>) -> Option<Self> {
        // Nearly all paths end here: the whole of it costs a hundred instructions.
        let path = request.head.path(request.inbox.filled());
        if !matches!(path.get(1), Some(b'h' | b'a')) {
            return None;
        }
        Self::in_request(request)
    }

    #[cold]
    fn in_request(request: &Request<'_, impl ClientStream>) -> Option<Self> {
        let (admin, peer) = (&request.peer.generation.config.admin, request.peer.address.client());
        Self::in_head(&request.head, request.inbox.filled(), admin, peer)
    }

    /// The same for a head that lies in `text` and comes from `peer`.
    pub(crate) fn in_head(
        head: &RequestHead,
        text: &[u8],
        admin: &AdminConfig,
        peer: ClientAddress,
    ) -> Option<Self> {
        if head.form != TargetForm::Origin || admin.on_data_port == OnDataPort::Off {
            return None;
        }
        let path = head.path(text);
        let is = |own: &[u8]| matches!(path.strip_prefix(own), Some([] | [b'?', ..]));
        let endpoint = if is(b"/health") {
            Self::Health
        } else if is(b"/admin/cleanup") {
            Self::Cleanup
        } else {
            return None;
        };
        let is_ours = admin.on_data_port == OnDataPort::All || is_local(head, text, peer);
        is_ours.then_some(endpoint)
    }
}

/// Whether somebody on this machine asks this machine, and no proxy asks for somebody else.
fn is_local(head: &RequestHead, text: &[u8], peer: ClientAddress) -> bool {
    let is_forwarded = |line: &[u8]| {
        let is = |name: &[u8]| {
            line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        is(b"x-forwarded-") || is(b"x-real-ip:") || is(b"forwarded:") || is(b"via:")
    };
    // Whoever may connect to a listener's file may be a proxy, whom the whole world asks.
    peer.ip().is_some_and(|peer| peer.is_loopback())
        && admin_guard::is_loopback(head.authority.of(text))
        && !head.fields.lines.of(text).split(|byte| *byte == b'\n').any(is_forwarded)
}

/// Answers what is meant for ringway itself and not for an origin: its health, and the wish that it
/// gives memory back.
async fn serve_endpoint(
    request: &Request<'_, impl ClientStream>,
    endpoint: LocalEndpoint,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    let worker = request.peer.worker;
    let head = &request.head;
    let is_cleanup = endpoint == LocalEndpoint::Cleanup;
    let is_allowed = match head.method {
        Method::Get | Method::Head => !is_cleanup,
        Method::Post => is_cleanup,
        _ => false,
    };
    if !is_allowed {
        let allow = if is_cleanup { "Allow: POST\r\n" } else { "Allow: GET, HEAD\r\n" };
        return respond_with(request, 405, "Method Not Allowed\n", allow, record).await;
    }
    let (reply, answer) = oneshot::channel();
    let query = match (may_change(request), is_cleanup) {
        (Ok(()), true) => ControlQuery::Cleanup { reply },
        (Ok(()), false) => {
            let is_whole = request.peer.generation.config.admin.token.is_some();
            ControlQuery::Health { is_whole, reply }
        }
        (Err(denied), false) if denied.status() == 403 || denied == Denied::TokenMissing => {
            ControlQuery::Health { is_whole: false, reply }
        }
        (Err(denied), _) => return deny(request, denied, record).await,
    };
    let _ = worker.shared.control.send(query);
    let answered = tokio::time::timeout(CONTROL_PATIENCE, answer);
    let Ok(Ok(body)) = request.peer.stats.unless_ended(answered).await? else {
        return Err(Fault::Internal);
    };
    respond_with(request, 200, &body, JSON, record).await
}

async fn deny(
    request: &Request<'_, impl ClientStream>,
    denied: Denied,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    if denied.is_news() {
        let client = request.peer.address;
        tracing::warn!(%client, ?denied, "admin request refused on the data port");
    }
    let code = denied.status();
    let extra = match code {
        401 => "WWW-Authenticate: Bearer\r\n",
        429 => "Retry-After: 60\r\n",
        _ => "",
    };
    respond_with(request, code, denied.cause(), extra, record).await
}

/// How long the control thread may take; a cleanup walks over the heaps of all workers.
const CONTROL_PATIENCE: Duration = Duration::from_secs(10);

const JSON: &str = "Content-Type: application/json\r\nCache-Control: no-store\r\n";

/// Whether a change may be asked for: from this machine, unless another proxy passes it on, or with
/// the token.
fn may_change(request: &Request<'_, impl ClientStream>) -> Result<(), Denied> {
    use FieldName as K;
    let fields = &request.head.fields;
    let token = request.peer.generation.config.admin.token.as_ref();
    let passed_on = [K::Forwarded, K::XForwardedFor, K::XRealIp, K::ClientIp, K::Via];
    if token.is_none() && passed_on.into_iter().any(|known| fields.has(known)) {
        return Err(Denied::NotLocal);
    }
    // Whoever may connect to a listener's file may be a proxy, whom the whole world asks.
    if token.is_none() && request.peer.address == PeerAddress::Unix {
        return Err(Denied::NotLocal);
    }
    let text = request.inbox.filled();
    let value = |name| fields.values(text, name).next();
    let rules = Rules {
        token,
        read_token: None,
        hosts: &request.peer.generation.config.admin.hosts,
        tries: &request.peer.worker.shared.token_tries,
        now_ms: clock::coarse_ms(),
    };
    admin_guard::may_change(
        &Caller {
            peer: request.peer.client.ip(),
            host: Some(request.head.authority.of(text)),
            origin: value(b"origin"),
            fetch_site: value(b"sec-fetch-site"),
            authorization: value(b"authorization"),
        },
        &rules,
    )
}

/// Sends a request to where TLS is spoken.
async fn redirect(
    request: &Request<'_, impl ClientStream>,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    let location = secure::location(request)?;
    respond_with(request, 308, "", &location, record).await
}

async fn respond_with(
    request: &Request<'_, impl ClientStream>,
    code: u16,
    body: &str,
    extra: &str,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    let reason = match code {
        200 => "OK",
        308 => "Permanent Redirect",
        401 => "Unauthorized",
        403 => "Forbidden",
        429 => "Too Many Requests",
        _ => "Method Not Allowed",
    };
    let status = Status { code, reason };
    let words = Words { status, body, extra: extra.as_bytes(), style: None, notes: None };
    send(request, words, true, record).await
}

/// Answers a head that could not be taken.
pub(crate) async fn refuse_head(request: &mut Request<'_, impl ClientStream>, fault: Fault) {
    request.head.settle();
    if request.inbox.filled().starts_with(&TLS_HANDSHAKE) {
        log_limit::tls_on_a_plain_port(request.peer.address);
    }
    let mut record = Record::begin(request, false);
    refuse(request, fault, &mut record).await;
    record.write(request);
}

/// How a TLS client begins: a handshake record of version 3 (RFC 8446 §5.1).
const TLS_HANDSHAKE: [u8; 2] = [22, 3];

/// Tells the client what went wrong, if it is still there.
pub(crate) async fn refuse(
    request: &mut Request<'_, impl ClientStream>,
    fault: Fault,
    record: &mut Record,
) -> Outcome {
    refuse_as(request, fault, record, None).await
}

/// The same on a route with hooks, which have a say in what it looks like.
pub(crate) async fn refuse_as(
    request: &Request<'_, impl ClientStream>,
    fault: Fault,
    record: &mut Record,
    style: Option<&ResponseStyle<'_>>,
) -> Outcome {
    let fault = request.peer.stats.settle(fault);
    record.failed(fault);
    if request.peer.stats.is_cut() {
        request.stream.reset();
        return Outcome::CutShort(Fault::Stopping);
    }
    let pool_status = request.peer.times.pool_status.code();
    let Some(status) = fault.status(pool_status) else {
        return Outcome::CutShort(fault);
    };
    let via = &request.peer.generation.config.server.via;
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
        407 => extra.push_str(&request.peer.generation.access.challenge),
        429 => extra.push_str("Retry-After: 60\r\n"),
        503 => extra.push_str("Retry-After: 1\r\n"),
        _ => {}
    }
    // A client of gRPC may see nothing else.
    let told = request.grpc_type().map(|_| format!("{}: {error}", status.reason));
    let body = told.as_deref().unwrap_or(status.reason);
    let words = Words { status, body, extra: extra.as_bytes(), style, notes: None };
    match send(request, words, fault.keeps_connection(), record).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::CutShort(Fault::ClientGone),
    }
}

/// Gives an answer that the hooks of a route have chosen.
pub(crate) async fn give(
    request: &Request<'_, impl ClientStream>,
    answer: &LocalResponse<'_>,
    style: Option<&ResponseStyle<'_>>,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    let words = Words {
        status: answer.status,
        body: &answer.body,
        extra: &answer.fields,
        style,
        notes: None,
    };
    send(request, words, true, record).await
}

async fn send(
    request: &Request<'_, impl ClientStream>,
    words: Words<'_>,
    is_innocent: bool,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    let words = Words { notes: record.response_notes(request.peer.worker), ..words };
    let bytes = match request.grpc_type().filter(|_| words.status.code >= 400) {
        Some(content_type) => {
            Box::pin(send_as_grpc(request, &words, is_innocent, content_type)).await?
        }
        None => request.stream.respond(request, &words, is_innocent).await?,
    };
    record.answered(words.status.code);
    record.sent(request.peer.stats, bytes as u64);
    Ok(Outcome::Complete)
}

/// Says what `words` say as gRPC says it: by a status of its own, in a head with which the answer
/// ends. A page of the route's is of no use to a program; what its hooks add to any answer is.
async fn send_as_grpc(
    request: &Request<'_, impl ClientStream>,
    words: &Words<'_>,
    is_innocent: bool,
    content_type: &[u8],
) -> Result<usize, Fault> {
    let Status { code, reason } = words.status;
    let mut extra = grpc::failure(content_type, code, message(words.body, reason));
    let is_type = |line: &&[u8]| {
        line.get(..13).is_some_and(|name| name.eq_ignore_ascii_case(b"content-type:"))
    };
    let lines = words.extra.split_inclusive(|byte| *byte == b'\n');
    extra.extend(lines.filter(|line| !is_type(line)).flatten());
    let style = words.style.map(|style| ResponseStyle {
        plan: style.plan,
        view: style.view,
        state: style.state,
        page: None,
    });
    let status = Status { code: 200, reason: "OK" };
    let words =
        Words { status, body: "", extra: &extra, style: style.as_ref(), notes: words.notes };
    request.stream.respond(request, &words, is_innocent).await
}

/// What went wrong, in a line.
fn message<'w>(body: &'w str, reason: &'w str) -> &'w str {
    let is_line = !body.trim().is_empty() && !body.trim_end().contains(['\n', '<', '{']);
    if is_line { body } else { reason }
}

/// Waits until the client has taken what it did not take at once.
pub(crate) async fn finish_sending<T>(
    request: &Request<'_, impl ClientStream>,
    sent: Result<Sent<T>, Unsent<Infallible>>,
) -> Result<T, Fault> {
    match sent {
        Ok(Sent { about, rest: None }) => Ok(about),
        Ok(Sent { about, rest: Some(rest) }) => send_rest(request, &rest).await.map(|()| about),
        Err(Unsent::Refused(never)) => match never {},
        Err(Unsent::Broken) => Err(Fault::ClientGone),
        // What has gone out may be half of a head: nothing may follow, and its end is none.
        Err(Unsent::NoMemory) => {
            request.stream.reset();
            Err(Fault::ClientGone)
        }
    }
}

/// Sends `rest` to a client that is slower than the answer.
pub(crate) async fn send_rest(
    request: &Request<'_, impl ClientStream>,
    rest: &[u8],
) -> Result<(), Fault> {
    let sent = request.receiver().send_all(rest).await;
    sent.map_err(|error| error.on(Side::Client, Act::Take))
}
