//! What it means for a request that its connection has TLS, or that it should have.
//!
//! In goes a request head; out comes whether it belongs on its session, or where it is sent to
//! instead. Nothing is answered here.

use crate::exchange::request::Request;
use crate::fault::Fault;
use crate::tls::certificates::covers;

/// A request for another name than the session's, which its certificate does not cover either, is
/// for another server, with other rules for its clients (RFC 9110 §7.4). A client that has asked
/// for no name is taken at its word.
pub(crate) fn judge<S>(request: &Request<'_, S>) -> Result<(), Fault> {
    let host = bare(request.head.authority.of(request.inbox.filled()));
    let is_ours = request.peer.slot.socket().session(|session| {
        let Some(asked) = session.asked() else { return true };
        let Some(name) = &asked.name else { return true };
        let host = std::str::from_utf8(host).unwrap_or_default();
        name.eq_ignore_ascii_case(host) || covers(&asked.covered, host)
    });
    if is_ours == Some(false) { Err(Fault::Misdirected) } else { Ok(()) }
}

/// The field that sends a plain request to where TLS is spoken; `None` where it is spoken nowhere.
pub(crate) fn location<S>(request: &Request<'_, S>) -> Result<Option<String>, Fault> {
    let Some(acceptor) = &request.peer.generation.tls else { return Ok(None) };
    let text = request.inbox.filled();
    let host = String::from_utf8_lossy(bare(request.head.authority.of(text)));
    if host.is_empty() {
        return Err(Fault::Misdirected);
    }
    let path = String::from_utf8_lossy(request.head.path(text));
    Ok(Some(match acceptor.port() {
        443 => format!("Location: https://{host}{path}\r\n"),
        port => format!("Location: https://{host}:{port}{path}\r\n"),
    }))
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
