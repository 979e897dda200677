//! SOCKS5 on the wire (RFC 1928), with names and passwords (RFC 1929), for both of its sides.
//!
//! In: what has been received so far; facts to be written. Out: a message with its length, that
//! more is needed, or why these bytes are no SOCKS5; bytes to send. CONNECT is the one command that
//! is known, and names are not judged here. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is wrong with the bytes of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocksError {
    /// Not version 5: SOCKS4, HTTP, TLS, or anything else.
    Version,
    /// A kind of address that there is not.
    AddressKind,
    /// A length of zero, or a byte that must be zero and is not.
    Malformed,
}

impl SocksError {
    /// For logs.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Version => "not SOCKS version 5",
            Self::AddressKind => "unknown kind of address",
            Self::Malformed => "malformed SOCKS message",
        }
    }
}

/// A message and its length; `None` where more has to come.
pub(crate) type Parsed<T> = Result<Option<(T, usize)>, SocksError>;

/// How a client may say who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Nothing,
    /// By name and password.
    Login,
}

/// What a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub nothing: bool,
    pub login: bool,
}

/// A name and a password, as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Login<'b> {
    pub user: &'b [u8],
    pub password: &'b [u8],
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request<'b> {
    pub is_connect: bool,
    pub host: Host<'b>,
    pub port: u16,
}

/// An address, or a name in whatever bytes came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host<'b> {
    Address(IpAddr),
    Name(&'b [u8]),
}

/// RFC 1928 §6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reply {
    Succeeded = 0,
    Failed = 1,
    NotAllowed = 2,
    HostUnreachable = 4,
    Refused = 5,
    Expired = 6,
    CommandUnknown = 7,
    AddressKindUnknown = 8,
}

const VERSION: u8 = 5;
/// Of a request or a reply, before its address.
const FRONT_BYTES: usize = 4;
/// Of the exchange of name and password.
const LOGIN_VERSION: u8 = 1;
const NOTHING: u8 = 0;
const LOGIN: u8 = 2;
const UNACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// A client's first message.
pub(crate) fn offer(bytes: &[u8]) -> Parsed<Offer> {
    let Some(version) = bytes.first() else { return Ok(None) };
    if *version != VERSION {
        return Err(SocksError::Version);
    }
    let Some((methods, length)) = counted(bytes, 1) else { return Ok(None) };
    let offer = Offer { nothing: methods.contains(&NOTHING), login: methods.contains(&LOGIN) };
    Ok(Some((offer, length)))
}

/// The answer to it; `None` has nothing of what was offered.
pub(crate) fn put_method(out: &mut Vec<u8>, method: Option<Method>) {
    let method = method.map_or(UNACCEPTABLE, code);
    out.extend_from_slice(&[VERSION, method]);
}

/// A client's name and password.
pub(crate) fn login(bytes: &[u8]) -> Parsed<Login<'_>> {
    match bytes.first() {
        None => return Ok(None),
        Some(&LOGIN_VERSION) => {}
        Some(_) => return Err(SocksError::Version),
    }
    let Some((user, length)) = counted(bytes, 1) else { return Ok(None) };
    let Some((password, length)) = counted(bytes, length) else { return Ok(None) };
    Ok(Some((Login { user, password }, length)))
}

pub(crate) fn put_login_outcome(out: &mut Vec<u8>, is_known: bool) {
    out.extend_from_slice(&[LOGIN_VERSION, u8::from(!is_known)]);
}

/// What a client wants.
pub(crate) fn request(bytes: &[u8]) -> Parsed<Request<'_>> {
    let Some((command, host, port, length)) = addressed(bytes)? else { return Ok(None) };
    Ok(Some((Request { is_connect: command == CONNECT, host, port }, length)))
}

/// The answer to it. Where the tunnel comes from is nobody's business.
pub(crate) fn put_reply(out: &mut Vec<u8>, reply: Reply) {
    out.extend_from_slice(&[VERSION, reply as u8, 0, IPV4, 0, 0, 0, 0, 0, 0]);
}

/// The first message to a server.
pub(crate) fn put_offer(out: &mut Vec<u8>, has_login: bool) {
    let offer: &[u8] =
        if has_login { &[VERSION, 2, NOTHING, LOGIN] } else { &[VERSION, 1, NOTHING] };
    out.extend_from_slice(offer);
}

/// What the server has chosen; `None` inside: nothing of what was offered.
pub(crate) fn method(bytes: &[u8]) -> Parsed<Option<Method>> {
    match bytes {
        [] => Ok(None),
        [VERSION, ..] if bytes.len() < 2 => Ok(None),
        [VERSION, NOTHING, ..] => Ok(Some((Some(Method::Nothing), 2))),
        [VERSION, LOGIN, ..] => Ok(Some((Some(Method::Login), 2))),
        [VERSION, UNACCEPTABLE, ..] => Ok(Some((None, 2))),
        [VERSION, ..] => Err(SocksError::Malformed),
        _ => Err(SocksError::Version),
    }
}

/// Says who asks. Both are cut to the 255 bytes that there is room for.
pub(crate) fn put_login(out: &mut Vec<u8>, user: &[u8], password: &[u8]) {
    out.push(LOGIN_VERSION);
    put_counted(out, user);
    put_counted(out, password);
}

/// Whether the server knows who asks.
pub(crate) fn login_outcome(bytes: &[u8]) -> Parsed<bool> {
    match bytes {
        [] | [_] => Ok(None),
        // Some servers repeat the version of the rest.
        [LOGIN_VERSION | VERSION, status, ..] => Ok(Some((*status == 0, 2))),
        _ => Err(SocksError::Version),
    }
}

/// Asks for a tunnel. A name is cut to the 255 bytes that there is room for.
pub(crate) fn put_request(out: &mut Vec<u8>, host: Host<'_>, port: u16) {
    out.extend_from_slice(&[VERSION, CONNECT, 0]);
    match host {
        Host::Address(IpAddr::V4(address)) => {
            out.push(IPV4);
            out.extend_from_slice(&address.octets());
        }
        Host::Address(IpAddr::V6(address)) => {
            out.push(IPV6);
            out.extend_from_slice(&address.octets());
        }
        Host::Name(name) => {
            out.push(NAME);
            put_counted(out, name);
        }
    }
    out.extend_from_slice(&port.to_be_bytes());
}

/// The code that a server answers with, 0 for success; its length includes the address.
pub(crate) fn reply(bytes: &[u8]) -> Parsed<u8> {
    if let [VERSION, code @ 1..=u8::MAX, ..] = bytes {
        // What follows a refusal is cut short by some servers, and says nothing.
        return Ok(Some((*code, 2)));
    }
    let Some((code, _, _, length)) = addressed(bytes)? else { return Ok(None) };
    Ok(Some((code, length)))
}

/// The message that requests and replies share (RFC 1928 §4, §6).
fn addressed(bytes: &[u8]) -> Result<Option<(u8, Host<'_>, u16, usize)>, SocksError> {
    match bytes.first() {
        None => return Ok(None),
        Some(&VERSION) => {}
        Some(_) => return Err(SocksError::Version),
    }
    let [_, code, reserved, kind, rest @ ..] = bytes else { return Ok(None) };
    if *reserved != 0 {
        return Err(SocksError::Malformed);
    }
    let (host, end) = match *kind {
        IPV4 => {
            let Some(octets) = rest.first_chunk::<4>() else { return Ok(None) };
            (Host::Address(Ipv4Addr::from(*octets).into()), FRONT_BYTES + 4)
        }
        IPV6 => {
            let Some(octets) = rest.first_chunk::<16>() else { return Ok(None) };
            (Host::Address(Ipv6Addr::from(*octets).into()), FRONT_BYTES + 16)
        }
        NAME => match counted(bytes, FRONT_BYTES) {
            None => return Ok(None),
            Some(([], _)) => return Err(SocksError::Malformed),
            Some((name, end)) => (Host::Name(name), end),
        },
        _ => return Err(SocksError::AddressKind),
    };
    let Some(port) = bytes[end..].first_chunk::<2>() else { return Ok(None) };
    Ok(Some((*code, host, u16::from_be_bytes(*port), end + 2)))
}

/// The bytes whose number stands at `at`, and where they end.
fn counted(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let count = usize::from(*bytes.get(at)?);
    let end = at + 1 + count;
    Some((bytes.get(at + 1..end)?, end))
}

fn put_counted(out: &mut Vec<u8>, text: &[u8]) {
    let text = &text[..text.len().min(usize::from(u8::MAX))];
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

fn code(method: Method) -> u8 {
    match method {
        Method::Nothing => NOTHING,
        Method::Login => LOGIN,
    }
}

/// What holds for any bytes, for the fuzz target and the tests below: no reader takes what is not
/// there, and what it has taken is taken alike however much follows.
#[doc(hidden)]
pub(crate) fn check(bytes: &[u8]) {
    fn judge<'b, T: PartialEq + std::fmt::Debug>(
        bytes: &'b [u8],
        read: impl Fn(&'b [u8]) -> Parsed<T>,
    ) {
        let whole = read(bytes);
        let Ok(Some((_, end))) = &whole else { return };
        assert!(*end <= bytes.len());
        assert_eq!(read(&bytes[..*end]), whole);
        for cut in 0..*end {
            assert_eq!(read(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
    }
    judge(bytes, offer);
    judge(bytes, login);
    judge(bytes, request);
    judge(bytes, method);
    judge(bytes, login_outcome);
    judge(bytes, reply);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_client_says_what_it_offers_who_it_is_and_what_it_wants() {
        let both = Offer { nothing: true, login: true };
        assert_eq!(offer(&[5, 3, 0, 1, 2, 9]), Ok(Some((both, 5))));
        let none = Offer { nothing: false, login: false };
        assert_eq!(offer(&[5, 0]), Ok(Some((none, 2))));
        let who = Login { user: b"ab", password: b"" };
        assert_eq!(login(&[1, 2, b'a', b'b', 0]), Ok(Some((who, 5))));
        let table: [(&[u8], Host<'_>, usize); 3] = [
            (&[5, 1, 0, 1, 10, 0, 0, 1, 1, 187], Host::Address([10, 0, 0, 1].into()), 10),
            (&[5, 1, 0, 3, 2, b'a', b'b', 1, 187, 7], Host::Name(b"ab"), 9),
            (
                &[5, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 187],
                Host::Address(Ipv6Addr::LOCALHOST.into()),
                22,
            ),
        ];
        for (bytes, host, length) in table {
            let wanted = Request { is_connect: true, host, port: 443 };
            assert_eq!(request(bytes), Ok(Some((wanted, length))));
            for end in 0..length {
                assert_eq!(request(&bytes[..end]), Ok(None), "{end}");
            }
        }
        let bind = request(&[5, 2, 0, 1, 10, 0, 0, 1, 1, 187]).unwrap().unwrap().0;
        assert!(!bind.is_connect);
    }

    #[test]
    fn what_is_no_socks5_is_named() {
        use SocksError as E;
        for first in [0, 4, b'G', 22] {
            assert_eq!(offer(&[first]), Err(E::Version));
            assert_eq!(request(&[first]), Err(E::Version));
            assert_eq!(reply(&[first]), Err(E::Version));
            assert_eq!(method(&[first]), Err(E::Version));
        }
        assert_eq!(login(&[5]), Err(E::Version));
        assert_eq!(request(&[5, 1, 1, 1]), Err(E::Malformed));
        assert_eq!(request(&[5, 1, 0, 2]), Err(E::AddressKind));
        assert_eq!(request(&[5, 1, 0, 3, 0]), Err(E::Malformed));
        assert_eq!(method(&[5, 7]), Err(E::Malformed));
    }

    #[test]
    fn a_server_is_understood() {
        assert_eq!(method(&[5, 2]), Ok(Some((Some(Method::Login), 2))));
        assert_eq!(method(&[5, 0xff]), Ok(Some((None, 2))));
        assert_eq!((method(&[5]), login_outcome(&[1])), (Ok(None), Ok(None)));
        assert_eq!(login_outcome(&[1, 0]), Ok(Some((true, 2))));
        assert_eq!(login_outcome(&[1, 1]), Ok(Some((false, 2))));
        assert_eq!(reply(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9]), Ok(Some((0, 10))));
        assert_eq!(reply(&[5, 0, 0, 1, 0, 0, 0]), Ok(None));
        assert_eq!(reply(&[5, 5]), Ok(Some((5, 2))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic_or_take_what_is_not_there(bytes: Vec<u8>) {
            check(&bytes);
        }

        #[test]
        fn what_one_side_writes_the_other_reads(
            user in prop::collection::vec(any::<u8>(), 0..300),
            password in prop::collection::vec(any::<u8>(), 0..300),
            name in prop::collection::vec(any::<u8>(), 1..=255),
            port: u16,
        ) {
            let mut out = Vec::new();
            put_login(&mut out, &user, &password);
            let (read, length) = login(&out).unwrap().unwrap();
            prop_assert_eq!(read.user, &user[..user.len().min(255)]);
            prop_assert_eq!(read.password, &password[..password.len().min(255)]);
            prop_assert_eq!(length, out.len());
            for host in [Host::Name(&name), Host::Address([10, 0, 0, 1].into())] {
                let mut out = Vec::new();
                put_request(&mut out, host, port);
                let expected = Request { is_connect: true, host, port };
                prop_assert_eq!(request(&out), Ok(Some((expected, out.len()))));
            }
        }
    }
}
