//! Who may change something: the rules for cleanups and for ending connections.
//!
//! In go where a request comes from and the fields that tell a program from a page in a browser;
//! out comes yes, or why not. A token decides if one is configured; without it, being on this
//! machine does, and then a browser must not be talked into it (DNS rebinding, forged requests).
//! Who guesses at it is told no more than that after a few tries a minute; the right one is always
//! let in, or anybody behind the same address could lock the operator out.
//!
//! Nothing here knows a socket, a route or a clock, and a secret is never part of a text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::str;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use subtle::{Choice, ConstantTimeEq};

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

/// What the administration asks of its callers.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub token: Option<&'a Secret>,
    /// With which, or with the other, whoever only looks has to come.
    pub read_token: Option<&'a Secret>,
    /// Names beside localhost and addresses that it may be asked by.
    pub hosts: &'a [String],
    pub tries: &'a TokenTries,
    pub now_ms: u64,
}

/// Wrong tokens by address, within a minute.
pub(crate) struct TokenTries(Mutex<LruCache<IpAddr, Tally>>);

#[derive(Clone, Copy)]
struct Tally {
    begun_ms: u64,
    wrong: u32,
}

/// Further ones in a minute are answered 429.
const TRIES_MAX: u32 = 10;

const WINDOW_MS: u64 = 60_000;

/// The address that has been silent for longest makes room.
const ADDRESSES_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

impl TokenTries {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::sparse(ADDRESSES_MAX)))
    }

    /// Counts a wrong one; how many that makes in a minute.
    fn count(&self, peer: IpAddr, now_ms: u64) -> u32 {
        let mut tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Tally { begun_ms: now_ms, wrong: 0 };
        let tally = tries.get_or_insert_mut(peer, || new);
        if tally.is_over(now_ms) {
            *tally = new;
        }
        tally.wrong = tally.wrong.saturating_add(1);
        tally.wrong
    }
}

impl Tally {
    fn is_over(self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.begun_ms) >= WINDOW_MS
    }
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    TokenMissing,
    /// `is_first`: within a minute, and worth a line in the log.
    TokenWrong {
        is_first: bool,
    },
    TooManyTokens,
    NotLocal,
    ForeignHost,
    ForeignOrigin,
}

impl Denied {
    /// In a word or two, for the log.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::TokenMissing => "no token",
            Self::TokenWrong { .. } => "wrong token",
            Self::TooManyTokens => "too many wrong tokens",
            Self::NotLocal => "from another machine, and there is no admin.token",
            Self::ForeignHost => "the Host names another site",
            Self::ForeignOrigin => "from a page of another site",
        }
    }

    /// 401 wants a `WWW-Authenticate` field.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::TokenMissing | Self::TokenWrong { .. } => 401,
            Self::TooManyTokens => 429,
            Self::NotLocal | Self::ForeignHost | Self::ForeignOrigin => 403,
        }
    }

    /// Whether it is worth a line in the log: guesses come in thousands.
    pub(crate) fn is_news(self) -> bool {
        !matches!(self, Self::TokenWrong { is_first: false } | Self::TooManyTokens)
    }

    /// Cause and cure, for the caller.
    pub(crate) fn cause(self) -> &'static str {
        match self {
            Self::TokenMissing => {
                "this needs `Authorization: Bearer` with the value of admin.token, or of \
                 admin.read_token where nothing is changed"
            }
            Self::TokenWrong { .. } => {
                "the token is not that of admin.token, nor of admin.read_token where nothing is \
                 changed"
            }
            Self::TooManyTokens => "too many wrong tokens from this address; try again in a minute",
            Self::NotLocal => {
                "without admin.token, changes are allowed from this machine only; set one, or ask \
                 from the loopback address or the Unix socket"
            }
            Self::ForeignHost => {
                "the Host field names another site; use an IP address or localhost, list the name \
                 in admin.hosts, or send the token"
            }
            Self::ForeignOrigin => "a page of another site may not ask this",
        }
    }
}

/// Whether `caller` may see anything at all.
pub(crate) fn may_read(caller: &Caller<'_>, rules: &Rules<'_>) -> Result<(), Denied> {
    is_not_foreign(caller)?;
    if let Some(token) = rules.read_token {
        return has_one_of([Some(token), rules.token], caller, rules);
    }
    if is_own_host(caller, rules) {
        return Ok(());
    }
    // No page has the token.
    match rules.token {
        Some(token) => has_token(caller, token, rules),
        None => Err(Denied::ForeignHost),
    }
}

/// Whether `caller` may change something.
pub(crate) fn may_change(caller: &Caller<'_>, rules: &Rules<'_>) -> Result<(), Denied> {
    is_not_foreign(caller)?;
    if let Some(token) = rules.token {
        return has_token(caller, token, rules);
    }
    if !caller.peer.is_none_or(|peer| peer.to_canonical().is_loopback()) {
        return Err(Denied::NotLocal);
    }
    // Browsers that are too old to send it send an Origin with a POST.
    if caller.fetch_site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return Err(Denied::ForeignOrigin);
    }
    if is_own_host(caller, rules) { Ok(()) } else { Err(Denied::ForeignHost) }
}

fn is_not_foreign(caller: &Caller<'_>) -> Result<(), Denied> {
    match caller.origin {
        Some(origin) if !is_same_site(origin, caller.host) => Err(Denied::ForeignOrigin),
        _ => Ok(()),
    }
}

/// Whether the Host is none that somebody else could have. A program that names no host is no
/// browser.
fn is_own_host(caller: &Caller<'_>, rules: &Rules<'_>) -> bool {
    let Some(host) = caller.host else { return true };
    is_own_name(host) || rules.hosts.iter().any(|known| is_called(host, known))
}

/// Whether `host`, perhaps with a port, is `name`.
fn is_called(host: &[u8], name: &str) -> bool {
    let Some((start, rest)) = host.split_at_checked(name.len()) else { return false };
    let rest = rest.strip_prefix(b".").unwrap_or(rest);
    start.eq_ignore_ascii_case(name.as_bytes()) && matches!(rest, [] | [b':', ..])
}

fn has_token(caller: &Caller<'_>, token: &Secret, rules: &Rules<'_>) -> Result<(), Denied> {
    has_one_of([Some(token), None], caller, rules)
}

fn has_one_of(
    tokens: [Option<&Secret>; 2],
    caller: &Caller<'_>,
    rules: &Rules<'_>,
) -> Result<(), Denied> {
    let Some(given) = caller.authorization else { return Err(Denied::TokenMissing) };
    let is_right = given.split_at_checked(BEARER.len()).is_some_and(|(scheme, given)| {
        // The time tells how long the token is, and nothing of what it is.
        let is_equal = |token: &Secret| given.trim_ascii().ct_eq(token.reveal().as_bytes());
        let is_any =
            tokens.into_iter().flatten().map(is_equal).fold(Choice::from(0), |any, it| any | it);
        scheme.eq_ignore_ascii_case(BEARER) && bool::from(is_any)
    });
    if is_right {
        return Ok(());
    }
    let peer = caller.peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.to_canonical());
    match rules.tries.count(peer, rules.now_ms) {
        count if count > TRIES_MAX => Err(Denied::TooManyTokens),
        count => Err(Denied::TokenWrong { is_first: count == 1 }),
    }
}

/// Whether `host`, perhaps with a port, is this machine to whoever asks for it.
pub(crate) fn is_loopback(host: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host) else { return false };
    if let Some(bracketed) = host.strip_prefix('[') {
        let address = bracketed.split_once(']').map(|(address, _)| address.parse::<Ipv6Addr>());
        let is_loopback = |address| IpAddr::V6(address).to_canonical().is_loopback();
        return address.is_some_and(|address| address.is_ok_and(is_loopback));
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name).trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
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

    fn rules<'a>(token: Option<&'a Secret>, tries: &'a TokenTries) -> Rules<'a> {
        Rules { token, read_token: None, hosts: &[], tries, now_ms: 1000 }
    }

    fn may_change(caller: &Caller<'_>, token: Option<&Secret>) -> Result<(), Denied> {
        super::may_change(caller, &rules(token, &TokenTries::new()))
    }

    fn may_read(caller: &Caller<'_>) -> Result<(), Denied> {
        super::may_read(caller, &rules(None, &TokenTries::new()))
    }

    fn with_host(host: &str) -> Result<(), Denied> {
        let caller = Caller { host: Some(host.as_bytes()), ..LOCAL };
        assert_eq!(may_read(&caller), may_change(&caller, None), "{host}");
        may_change(&caller, None)
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
            let wrong = Denied::TokenWrong { is_first: true };
            assert_eq!(with(field), Err(wrong), "{field}");
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
    fn a_token_for_reading_lets_nobody_change() {
        let (token, read) = (Secret::new("0123456789abcdef"), Secret::new("read-0123456789ab"));
        let tries = TokenTries::new();
        let rules = Rules { read_token: Some(&read), ..rules(Some(&token), &tries) };
        let with = |field: Option<&'static str>| Caller {
            authorization: field.map(str::as_bytes),
            ..LOCAL
        };
        let (reader, owner) =
            (with(Some("Bearer read-0123456789ab")), with(Some("Bearer 0123456789abcdef")));
        assert_eq!(super::may_read(&with(None), &rules), Err(Denied::TokenMissing));
        for caller in [&reader, &owner] {
            assert_eq!(super::may_read(caller, &rules), Ok(()));
        }
        assert_eq!(super::may_change(&owner, &rules), Ok(()));
        let wrong = Err(Denied::TokenWrong { is_first: true });
        assert_eq!(super::may_change(&reader, &rules), wrong);
        assert!(super::may_read(&with(Some("Bearer read-0123456789aB")), &rules).is_err());
    }

    #[test]
    fn every_refusal_has_a_status_and_a_cure() {
        for denied in [Denied::TokenMissing, Denied::TokenWrong { is_first: false }] {
            assert_eq!(denied.status(), 401);
            assert!(denied.cause().contains("admin.token"));
        }
        for denied in [Denied::NotLocal, Denied::ForeignHost, Denied::ForeignOrigin] {
            assert_eq!(denied.status(), 403);
        }
    }

    #[test]
    fn a_name_that_is_listed_may_be_asked_for() {
        let (tries, hosts) = (TokenTries::new(), ["ringway.svc".to_owned()]);
        let read = |host: &str| {
            let rules = Rules { hosts: &hosts, ..rules(None, &tries) };
            super::may_read(&Caller { host: Some(host.as_bytes()), ..LOCAL }, &rules)
        };
        for host in ["ringway.svc", "RINGWAY.svc:9901", "ringway.svc.", "ringway.svc.:9901"] {
            assert_eq!(read(host), Ok(()), "{host}");
        }
        for host in ["ringway.svc.evil.example", "xringway.svc", "ringway", ""] {
            assert_eq!(read(host), Err(Denied::ForeignHost), "{host}");
        }
    }

    const RIGHT: &str = "Bearer 0123456789abcdef";

    #[test]
    fn who_guesses_at_the_token_is_told_little_and_locks_nobody_out() {
        let (tries, token) = (TokenTries::new(), Secret::new("0123456789abcdef"));
        let ask = |peer: &str, field: &'static str, now_ms| {
            let peer = peer.parse().ok();
            let caller = Caller { peer, authorization: Some(field.as_bytes()), ..LOCAL };
            let rules = Rules { now_ms, ..rules(Some(&token), &tries) };
            super::may_change(&caller, &rules)
        };
        for number in 0..10 {
            let is_first = number == 0;
            let found = ask("192.0.2.1", "Bearer x", 1000 + number);
            assert_eq!(found, Err(Denied::TokenWrong { is_first }), "{number}");
        }
        for peer in ["192.0.2.1", "::ffff:192.0.2.1"] {
            assert_eq!(ask(peer, "Bearer x", 2000), Err(Denied::TooManyTokens));
            assert_eq!(
                ask(peer, RIGHT, 2000),
                Ok(()),
                "who guesses may be behind the same address"
            );
        }
        assert_eq!(Denied::TooManyTokens.status(), 429);
        let wrong = Err(Denied::TokenWrong { is_first: true });
        assert_eq!(ask("192.0.2.2", "Bearer x", 2000), wrong);
        assert_eq!(ask("192.0.2.1", "Bearer x", 61_000), wrong, "a minute is over");
    }

    #[test]
    fn this_machine_has_few_names() {
        for host in
            ["localhost", "LOCALHOST:80", "localhost.", "127.0.0.1:8000", "127.9.9.9", "[::1]:1"]
        {
            assert!(is_loopback(host.as_bytes()), "{host}");
        }
        for host in ["", "10.0.0.1", "a", "localhost.example", "[::2]", "[::1", "0.0.0.0"] {
            assert!(!is_loopback(host.as_bytes()), "{host}");
        }
    }
}
