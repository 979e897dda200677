//! What it means for a request that its connection has TLS, or that it should have.
//!
//! In goes a request head; out comes whether it belongs on its session, or where it is sent to
//! instead. Nothing is answered here.

use crate::exchange::forwarded;
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::fault::Fault;
use crate::http::TargetForm;
use crate::tls::certificates::covers;

/// Whether the request has to be sent to where TLS is spoken; refuses one on a session that was
/// made for somebody else.
#[inline]
pub(crate) fn is_misplaced(request: &Request<'_, impl ClientStream>) -> Result<bool, Fault> {
    if request.peer.slot.socket().is_secure() {
        return judge(request).map(|()| false);
    }
    let generation = &request.peer.generation;
    let is_wanted = generation.config.server.redirect_https && generation.tls.is_some();
    Ok(is_wanted && request.head.form == TargetForm::Origin)
}

/// What an authority is answered that comes to find out whose a name is.
#[inline]
pub(crate) fn proof<S>(request: &Request<'_, S>) -> Option<String> {
    let tls = request.peer.generation.tls.as_ref()?;
    tls.proof(request.head.path(request.inbox.filled()))
}

/// A request for another name than the session's, which its certificate does not cover either, is
/// for another server, with other rules for its clients (RFC 9110 §7.4). A client that has asked
/// for no name is taken at its word.
fn judge(request: &Request<'_, impl ClientStream>) -> Result<(), Fault> {
    // The session is one with the proxy, whatever lies behind it.
    if forwarded::is_forward(request) {
        return Ok(());
    }
    let host = bare(request.head.authority.of(request.inbox.filled()));
    let is_ours = request.peer.slot.socket().session(|session| {
        let Some(asked) = session.asked() else { return true };
        let Some(name) = &asked.name else { return true };
        let host = std::str::from_utf8(host).unwrap_or_default();
        name.eq_ignore_ascii_case(host) || covers(&asked.covered, host)
    });
    if is_ours == Some(false) { Err(Fault::Misdirected) } else { Ok(()) }
}

/// The field that sends a request to where TLS is spoken.
pub(crate) fn location<S>(request: &Request<'_, S>) -> Result<String, Fault> {
    let text = request.inbox.filled();
    let host = String::from_utf8_lossy(bare(request.head.authority.of(text)));
    let acceptor = request.peer.generation.tls.as_ref().filter(|_| !host.is_empty());
    let port = acceptor.ok_or(Fault::Misdirected)?.port();
    let path = String::from_utf8_lossy(request.head.path(text));
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    Ok(format!("Location: https://{host}{port}{path}\r\n"))
}

/// An authority without its port.
fn bare(authority: &[u8]) -> &[u8] {
    let colon = authority.iter().rposition(|byte| *byte == b':');
    match colon {
        // A colon before the bracket is one of an address.
        Some(colon) if !authority[colon..].contains(&b']') => &authority[..colon],
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::bare;

    #[test]
    fn a_port_is_no_part_of_a_name() {
        for (authority, host) in
            [("a", "a"), ("a:1", "a"), ("[::1]", "[::1]"), ("[::1]:8443", "[::1]"), ("", "")]
        {
            assert_eq!(bare(authority.as_bytes()), host.as_bytes());
        }
    }
}
