//! Connections to origins on which a user logs in, rather than with each request.
//!
//! In goes a request, with its answer where that has come; out comes whether they speak of NTLM or
//! Negotiate, by which whoever sends the next request on the connection is answered as the one who
//! logged in. Such a connection belongs to its client from then on. Nothing here decides who that
//! is. In HTTP/2, where there is no such connection, a client is told to come by HTTP/1.1, before
//! its origin has acted upon anything.

use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::fault::Fault;
use crate::http::fields::Fields;
use crate::http::head::ResponseHead;
use crate::http::names::{FieldName, elements};

/// Whether the connection that carried a request, and the answer whose head is `response`, is one
/// that a user logs in on: the origin asks for that, or the client has begun by itself. The heads
/// lie in `text` and in `buf`.
#[inline]
pub(crate) fn logs_in(request: &Fields, text: &[u8], response: &ResponseHead, buf: &[u8]) -> bool {
    brings_login(request, text) || matches!(response.status, 401 | 407) && asks(response, buf)
}

/// Whether a request logs its connection in.
#[inline]
pub(crate) fn brings_login(request: &Fields, text: &[u8]) -> bool {
    request.has(FieldName::Authorization)
        && request.all(FieldName::Authorization).any(|field| is_by_connection(field.value.of(text)))
}

/// Refuses a request that logs its connection in, where that is one of HTTP/2.
#[inline]
pub(crate) fn refuse_http2(request: &Request<'_, impl ClientStream>) -> Result<(), Fault> {
    let is_refused = brings_login(&request.head.fields, request.inbox.filled())
        && request.stream.socket().require_http1();
    if is_refused { Err(Fault::NeedsHttp1) } else { Ok(()) }
}

/// The same where `buf` begins with the answer of an origin that asks for that.
#[inline]
pub(crate) fn refuse_challenge(
    request: &Request<'_, impl ClientStream>,
    buf: &[u8],
) -> Result<(), Fault> {
    let is_refused = matches!(request.response.status, 401 | 407)
        && asks(&request.response, buf)
        && request.stream.socket().require_http1();
    if is_refused { Err(Fault::NeedsHttp1) } else { Ok(()) }
}

/// Whether an origin asks for a login by its connection.
#[cold]
pub(crate) fn asks(response: &ResponseHead, buf: &[u8]) -> bool {
    [&b"www-authenticate"[..], b"proxy-authenticate"]
        .into_iter()
        .flat_map(|name| response.fields.values(buf, name))
        .any(|value| elements(value).any(is_by_connection))
}

/// Whether a challenge, or credentials, are of a scheme that logs a connection in.
fn is_by_connection(value: &[u8]) -> bool {
    let scheme = value.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
}
