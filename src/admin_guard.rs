//! Who may change something: the rules for cleanups and for ending connections.
//!
//! In go where a request comes from and the fields that tell a program from a page in a browser;
//! out comes yes, or why not. A token decides if one is configured; without it, being on this
//! machine does, and then a browser must not be talked into it (DNS rebinding, forged requests).
//!
//! Pure: nothing here knows a socket or a route, and a secret is never part of a text.

use std::net::{IpAddr, Ipv6Addr};
use std::str;

use subtle::ConstantTimeEq;

use crate::config::Secret;

/// What a decision rests on. Fields are as the request has them; `None` where it has none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Caller<'a> {
    /// `None` is a Unix socket: a process that may open the file may ask.
    pub peer: Option<IpAddr>,
    pub host: Option<&'a [u8]>,
    pub origin: Option<&'a [u8]>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<&'a [u8]>,
    pub authorization: Option<&'a [u8]>,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    TokenMissing,
    TokenWrong,
    NotLocal,
    ForeignHost,
    ForeignOrigin,
}

impl Denied {
    /// 401 wants a `WWW-Authenticate` field.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::TokenMissing | Self::TokenWrong => 401,
            Self::NotLocal | Self::ForeignHost | Self::ForeignOrigin => 403,
        }
    }

    /// Cause and cure, for the caller.
    pub(crate) fn cause(self) -> &'static str {
        match self {
            Self::TokenMissing => {
                "this needs `Authorization: Bearer` with the value of admin.token"
            }
            Self::TokenWrong => "the token is not that of admin.token",
            Self::NotLocal => {
                "without admin.token, changes are allowed from this machine only; set one, or ask \
                 from the loopback address or the Unix socket"
            }
            Self::ForeignHost => {
                "the Host field names another site; use an IP address or localhost, or set \
                 admin.token"
            }
            Self::ForeignOrigin => "a page of another site may not ask this",
        }
    }
}

/// Whether `caller` may see anything at all.
pub(crate) fn may_read(caller: &Caller<'_>) -> Result<(), Denied> {
    match caller.origin {
        Some(origin) if !is_same_site(origin, caller.host) => Err(Denied::ForeignOrigin),
        _ => Ok(()),
    }
}

/// Whether `caller` may change something.
pub(crate) fn may_change(caller: &Caller<'_>, token: Option<&Secret>) -> Result<(), Denied> {
    may_read(caller)?;
    if let Some(token) = token {
        return has_token(caller.authorization, token);
    }
    if !caller.peer.is_none_or(|peer| peer.to_canonical().is_loopback()) {
        return Err(Denied::NotLocal);
    }
    // Browsers that are too old to send it send an Origin with a POST.
    if caller.fetch_site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return Err(Denied::ForeignOrigin);
    }
    match caller.host {
        Some(host) if !is_own_name(host) => Err(Denied::ForeignHost),
        _ => Ok(()),
    }
}

fn has_token(authorization: Option<&[u8]>, token: &Secret) -> Result<(), Denied> {
    let Some(given) = authorization else { return Err(Denied::TokenMissing) };
    let Some((scheme, given)) = given.split_at_checked(BEARER.len()) else {
        return Err(Denied::TokenWrong);
    };
    // The time tells how long the token is, and nothing of what it is.
    let is_equal = given.trim_ascii().ct_eq(token.reveal().as_bytes());
    if scheme.eq_ignore_ascii_case(BEARER) && bool::from(is_equal) {
        Ok(())
    } else {
        Err(Denied::TokenWrong)
    }
}

const BEARER: &[u8] = b"Bearer ";

/// Names that no other site can have: those that no name server is asked for.
fn is_own_name(host: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host) else { return false };
    if let Some(bracketed) = host.strip_prefix('[') {
        let Some((address, port)) = bracketed.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'));
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// Whether an `Origin` is the very server that is asked, port included.
fn is_same_site(origin: &[u8], host: Option<&[u8]>) -> bool {
    let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    matches!((authority, host), (Some(origin), Some(host)) if origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Caller<'_> = Caller {
        peer: Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        host: Some(b"localhost:9901"),
        origin: None,
        fetch_site: None,
        authorization: None,
    };

    fn with_host(host: &str) -> Result<(), Denied> {
        may_change(&Caller { host: Some(host.as_bytes()), ..LOCAL }, None)
    }

    #[test]
    fn without_a_token_only_this_machine_may_change() {
        let from = |peer: &str| may_change(&Caller { peer: peer.parse().ok(), ..LOCAL }, None);
        for peer in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(from(peer), Ok(()), "{peer}");
        }
        for peer in ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "0.0.0.0"] {
            assert_eq!(from(peer), Err(Denied::NotLocal), "{peer}");
        }
        assert_eq!(may_change(&Caller { peer: None, ..LOCAL }, None), Ok(()));
    }

    #[test]
    fn a_name_that_somebody_else_can_own_is_refused() {
        for host in ["localhost", "LocalHost:9901", "127.0.0.1:9901", "10.1.2.3", "[::1]:9901"] {
            assert_eq!(with_host(host), Ok(()), "{host}");
        }
        for host in ["rebind.example", "rebind.example:9901", "localhost.evil.example", "", "[::1"]
        {
            assert_eq!(with_host(host), Err(Denied::ForeignHost), "{host}");
        }
        for host in ["127.0.0.1.evil.example", "[::1]evil.example", "[evil]:1", "::1", "\u{e9}"] {
            assert_eq!(with_host(host), Err(Denied::ForeignHost), "{host}");
        }
        // A program that names no host is no browser.
        assert_eq!(may_change(&Caller { host: None, ..LOCAL }, None), Ok(()));
    }

    #[test]
    fn a_page_of_another_site_may_neither_read_nor_change() {
        let from = |origin: &'static str| Caller { origin: Some(origin.as_bytes()), ..LOCAL };
        for origin in ["http://localhost:9901", "https://LOCALHOST:9901"] {
            assert_eq!(may_change(&from(origin), None), Ok(()), "{origin}");
        }
        let foreign = [
            "http://evil.example",
            "http://localhost",
            "http://localhost:99",
            "null",
            "file://",
            "",
        ];
        for origin in foreign {
            assert_eq!(may_read(&from(origin)), Err(Denied::ForeignOrigin), "{origin}");
            assert_eq!(may_change(&from(origin), None), Err(Denied::ForeignOrigin), "{origin}");
        }
        let no_host = Caller { host: None, ..from("http://localhost:9901") };
        assert_eq!(may_read(&no_host), Err(Denied::ForeignOrigin));
        for (site, is_allowed) in
            [("same-origin", true), ("none", true), ("cross-site", false), ("same-site", false)]
        {
            let caller = Caller { fetch_site: Some(site.as_bytes()), ..LOCAL };
            assert_eq!(may_change(&caller, None).is_ok(), is_allowed, "{site}");
        }
    }

    #[test]
    fn a_configured_token_is_asked_of_everybody_and_enough_for_anybody() {
        let token = Secret::new("0123456789abcdef");
        let with = |field: &'static str| {
            let caller = Caller {
                peer: "192.0.2.1".parse().ok(),
                host: Some(b"ringway.example"),
                authorization: Some(field.as_bytes()),
                ..LOCAL
            };
            may_change(&caller, Some(&token))
        };
        for field in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
            assert_eq!(with(field), Ok(()), "{field}");
        }
        let wrong = [
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
            "Bearer ",
            "Bearer",
            "0123456789abcdef",
            "",
        ];
        for field in wrong {
            assert_eq!(with(field), Err(Denied::TokenWrong), "{field}");
        }
        assert_eq!(may_change(&LOCAL, Some(&token)), Err(Denied::TokenMissing));
        // A token that a page has got hold of is no licence for the page.
        let page = Caller {
            origin: Some(b"http://evil.example"),
            authorization: Some(b"Bearer 0123456789abcdef"),
            ..LOCAL
        };
        assert_eq!(may_change(&page, Some(&token)), Err(Denied::ForeignOrigin));
    }

    #[test]
    fn every_refusal_has_a_status_and_a_cure() {
        for denied in [Denied::TokenMissing, Denied::TokenWrong] {
            assert_eq!(denied.status(), 401);
            assert!(denied.cause().contains("admin.token"));
        }
        for denied in [Denied::NotLocal, Denied::ForeignHost, Denied::ForeignOrigin] {
            assert_eq!(denied.status(), 403);
        }
    }
}
