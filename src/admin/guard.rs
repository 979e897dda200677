//! Who may ask the admin API, and what is kept of changes.
//!
//! In go requests on their way to the routes; out come those that may go on, or refusals, and a log
//! line for each change: who, what, and in which generation. The rules are
//! [`crate::admin_guard`]'s.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, HOST, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::answer::{json_text, refuse};
use super::health::Health;
use super::proxy::Proxy;
use crate::admin_guard::{self, Caller, Denied, Rules};
use crate::observe::events;
use crate::ring::clock;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Unix,
    Tcp(IpAddr),
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Keeps pages of other sites out, and answers out of caches.
pub(super) async fn guard_read(
    State(proxy): State<Arc<Proxy>>,
    request: Request,
    next: Next,
) -> Response {
    // The page has nothing in it, and a probe learns no more than whether to come back.
    let is_open = matches!(request.uri().path(), "/" | "/ready");
    let mut response = match guarded(&proxy, &request, !is_open, admin_guard::may_read) {
        Ok(()) => next.run(request).await,
        // What anybody may know.
        Err(Denied::TokenMissing)
            if request.uri().path() == "/health"
                && guarded(&proxy, &request, false, admin_guard::may_read).is_ok() =>
        {
            json_text(Health::of(&proxy).outline())
        }
        Err(denied) => deny(denied),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Lets those change something who may, and says what they did.
pub(super) async fn guard_change(
    State(proxy): State<Arc<Proxy>>,
    request: Request,
    next: Next,
) -> Response {
    if let Err(denied) = guarded(&proxy, &request, true, admin_guard::may_change) {
        return deny(denied);
    }
    let who = match request.extensions().get::<Peer>() {
        Some(Peer::Tcp(address)) => address.to_string(),
        Some(Peer::Unix) => "unix".to_owned(),
        None => "unknown".to_owned(),
    };
    let has_token = request.headers().contains_key(AUTHORIZATION);
    // Percent-encoded, and without a byte that would end a line.
    let what = format!("{} {}", request.method(), request.uri());
    let response = next.run(request).await;
    let (status, generation) = (response.status().as_u16(), proxy.snapshot().id);
    tracing::info!(who, has_token, what, status, generation, "admin change");
    events::note(events::Kind::Change, &format!("{who}: {what} ({status})"));
    response
}

/// What `rule` says of a request. Who guesses at the token is one line in the log a minute.
fn guarded(
    proxy: &Proxy,
    request: &Request,
    asks_for_token: bool,
    rule: fn(&Caller<'_>, &Rules<'_>) -> Result<(), Denied>,
) -> Result<(), Denied> {
    let peer = match request.extensions().get::<Peer>() {
        Some(Peer::Unix) => None,
        Some(Peer::Tcp(address)) => Some(*address),
        // Unknown is not local.
        None => Some(Ipv4Addr::UNSPECIFIED.into()),
    };
    let snapshot = proxy.snapshot();
    let admin = &snapshot.config.admin;
    let rules = Rules {
        token: admin.token.as_ref(),
        read_token: admin.read_token.as_ref().filter(|_| asks_for_token),
        hosts: &admin.hosts,
        tries: &proxy.shared.token_tries,
        now_ms: clock::coarse_ms(),
    };
    let verdict = rule(&caller(request.headers(), peer), &rules);
    if let Err(denied) = verdict
        && denied.is_news()
    {
        let peer = peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
        let (why, path) = (denied.text(), request.uri().path());
        tracing::warn!(peer, why, path, "admin request refused");
    }
    verdict
}

fn caller(headers: &HeaderMap, peer: Option<IpAddr>) -> Caller<'_> {
    // A field that comes twice is none that can be trusted: the empty value fits nothing.
    let field = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        let first = values.next().map(HeaderValue::as_bytes);
        if values.next().is_some() { Some(&b""[..]) } else { first }
    };
    Caller {
        peer,
        host: field(HOST),
        origin: field(ORIGIN),
        fetch_site: field(FETCH_SITE),
        authorization: field(AUTHORIZATION),
    }
}

fn deny(denied: Denied) -> Response {
    let status = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = refuse(status, denied.cause());
    if status == StatusCode::UNAUTHORIZED {
        let challenge = match denied {
            Denied::TokenWrong { .. } => "Bearer realm=\"ringway\", error=\"invalid_token\"",
            _ => "Bearer realm=\"ringway\"",
        };
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60"));
    }
    response
}
