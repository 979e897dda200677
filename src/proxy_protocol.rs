//! The PROXY protocol, versions 1 and 2: how a balancer says whose connection it passes on.
//!
//! In go the first bytes of a connection; out comes how many more are needed, or who the client is
//! and how long the header is. The other way round, in go two addresses, and out come the bytes of
//! a header. Extensions (TLVs) are passed over. Nothing here touches a socket, and nothing is
//! believed that is not exactly as haproxy's proxy-protocol.txt has it: a reader that repairs would
//! read another client's address than the next one.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// The versions that a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    V1,
    V2,
    V1V2,
}

/// What is known after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing, before there are so many bytes.
    Needs(usize),
    /// The header has so many bytes, of which the last may not have been looked at, and says this
    /// of the client; `None` is the peer itself, such as a balancer that asks how we are.
    Whole(usize, Option<SocketAddr>),
}

/// Why a connection does not begin as it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// There is no header.
    Missing,
    /// There is one that is not right, or of a version that is not taken.
    Invalid,
}

/// Why connections are not taken, as they are counted: the peer is not trusted, there is no header
/// or none that is right, or it took too long.
pub(crate) const REFUSALS: [&str; 4] = ["untrusted", "missing", "invalid", "timeout"];

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// With its CRLF.
const LINE_BYTES_MAX: usize = 107;

/// Before the addresses: the signature, command, family and length.
const FIXED_BYTES: usize = 16;

/// No header needs more than this to be understood.
pub(crate) const LOOKED_AT_MAX: usize = LINE_BYTES_MAX;

impl Accepted {
    fn has(self, version: Version) -> bool {
        matches!(
            (self, version),
            (Self::V1V2, _) | (Self::V1, Version::V1) | (Self::V2, Version::V2)
        )
    }
}

/// What the header that `bytes` begin with says.
pub(crate) fn read(bytes: &[u8], accepted: Accepted) -> Result<Progress, Mistake> {
    for (signature, version) in [(V1, Version::V1), (V2, Version::V2)] {
        let known = signature.len().min(bytes.len());
        if bytes[..known] != signature[..known] {
            continue;
        }
        return match version {
            // A request may begin with the same letters.
            _ if known < signature.len() => Ok(Progress::Needs(known + 1)),
            _ if !accepted.has(version) => Err(Mistake::Invalid),
            Version::V1 => read_line(bytes),
            Version::V2 => read_binary(bytes),
        };
    }
    Err(Mistake::Missing)
}

fn read_line(bytes: &[u8]) -> Result<Progress, Mistake> {
    let looked_at = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = looked_at.iter().position(|byte| *byte == b'\n') else {
        let is_too_long = bytes.len() >= LINE_BYTES_MAX;
        return if is_too_long {
            Err(Mistake::Invalid)
        } else {
            Ok(Progress::Needs(bytes.len() + 1))
        };
    };
    let line = looked_at[..end].strip_suffix(b"\r").ok_or(Mistake::Invalid)?;
    let line = std::str::from_utf8(&line[V1.len()..]).map_err(|_| Mistake::Invalid)?;
    let mut words = line.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Progress::Whole(end + 1, None));
    }
    let [Some(source), Some(destination), Some(port), Some(own_port), None] =
        [words.next(), words.next(), words.next(), words.next(), words.next()]
    else {
        return Err(Mistake::Invalid);
    };
    let client = match family {
        Some("TCP4") => both::<Ipv4Addr>(source, destination).map(IpAddr::V4),
        Some("TCP6") => both::<Ipv6Addr>(source, destination).map(IpAddr::V6),
        _ => None,
    };
    let port = port_of(port).zip(port_of(own_port)).map(|(port, _)| port);
    let client = client.zip(port).ok_or(Mistake::Invalid)?;
    Ok(Progress::Whole(end + 1, Some(client.into())))
}

/// The first of two addresses, if both are some.
fn both<T: std::str::FromStr>(source: &str, destination: &str) -> Option<T> {
    destination.parse::<T>().ok()?;
    source.parse().ok()
}

fn port_of(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

fn read_binary(bytes: &[u8]) -> Result<Progress, Mistake> {
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else {
        return Ok(Progress::Needs(FIXED_BYTES));
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = |client| Ok(Progress::Whole(FIXED_BYTES + length, client));
    let address_bytes = match (command, family) {
        // LOCAL, whatever stands behind it; PROXY, by what has no address of IP.
        (0x20, _) | (0x21, 0x00) => return whole(None),
        (0x21, 0x31) if length >= 216 => return whole(None),
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        _ => return Err(Mistake::Invalid),
    };
    if length < address_bytes {
        return Err(Mistake::Invalid);
    }
    let Some(addresses) = bytes.get(FIXED_BYTES..FIXED_BYTES + address_bytes) else {
        return Ok(Progress::Needs(FIXED_BYTES + address_bytes));
    };
    let (ip, ports): (IpAddr, &[u8]) = match *addresses {
        [a, b, c, d, _, _, _, _, ref ports @ ..] if address_bytes == 12 => {
            (Ipv4Addr::new(a, b, c, d).into(), ports)
        }
        _ => {
            let source = addresses.first_chunk::<16>().ok_or(Mistake::Invalid)?;
            (Ipv6Addr::from(*source).into(), &addresses[32..])
        }
    };
    let [high, low, ..] = *ports else { return Err(Mistake::Invalid) };
    whole(Some((ip, u16::from_be_bytes([high, low])).into()))
}

/// Appends the header that says that the connection is that of a client at the first address, which
/// came to the second; `None` where the client has no address.
pub(crate) fn put(out: &mut Vec<u8>, version: Version, ends: Option<(SocketAddr, SocketAddr)>) {
    let ends = ends.map(alike);
    match version {
        Version::V1 => put_line(out, ends),
        Version::V2 => put_binary(out, ends),
    }
}

/// Both of one family: IPv4 is mapped where the other is of IPv6.
fn alike((client, own): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let canonical = |it: SocketAddr| SocketAddr::new(it.ip().to_canonical(), it.port());
    let (client, own) = (canonical(client), canonical(own));
    let mapped = |it: SocketAddr| match it.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), it.port()),
        IpAddr::V6(_) => it,
    };
    if client.is_ipv4() == own.is_ipv4() { (client, own) } else { (mapped(client), mapped(own)) }
}

fn put_line(out: &mut Vec<u8>, ends: Option<(SocketAddr, SocketAddr)>) {
    let Some((client, own)) = ends else { return out.extend_from_slice(b"PROXY UNKNOWN\r\n") };
    let family = if client.is_ipv4() { 4 } else { 6 };
    let (ip, own_ip, port, own_port) = (client.ip(), own.ip(), client.port(), own.port());
    // Writing to a Vec does not fail.
    let _ = write!(out, "PROXY TCP{family} {ip} {own_ip} {port} {own_port}\r\n");
}

fn put_binary(out: &mut Vec<u8>, ends: Option<(SocketAddr, SocketAddr)>) {
    out.extend_from_slice(V2);
    let Some((client, own)) = ends else {
        return out.extend_from_slice(&[0x21, 0x00, 0, 0]);
    };
    match (client.ip(), own.ip()) {
        (IpAddr::V4(client), IpAddr::V4(own)) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&client.octets());
            out.extend_from_slice(&own.octets());
        }
        (client, own) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            out.extend_from_slice(&octets(client));
            out.extend_from_slice(&octets(own));
        }
    }
    out.extend_from_slice(&client.port().to_be_bytes());
    out.extend_from_slice(&own.port().to_be_bytes());
}

/// What holds for any bytes, for the fuzz target and the tests below: a header is read alike
/// however it is split, and what is read as a client is written so that it is read again.
#[doc(hidden)]
pub(crate) fn check(bytes: &[u8]) {
    for accepted in [Accepted::V1, Accepted::V2, Accepted::V1V2] {
        let whole = read(bytes, accepted);
        for end in 0..bytes.len() {
            match read(&bytes[..end], accepted) {
                Ok(Progress::Needs(count)) => assert!(count > end && count <= LOOKED_AT_MAX),
                known => assert_eq!(known, whole, "cut at {end}"),
            }
        }
        if let Ok(Progress::Whole(_, Some(client))) = whole {
            for version in [Version::V1, Version::V2] {
                let mut out = Vec::new();
                put(&mut out, version, Some((client, client)));
                let again = read(&out, Accepted::V1V2);
                let canonical = SocketAddr::new(client.ip().to_canonical(), client.port());
                assert_eq!(again, Ok(Progress::Whole(out.len(), Some(canonical))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length, rest].concat()
    }

    const FOUR: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x15, 0xb3, 0, 80];

    type Said = Result<Option<&'static str>, Mistake>;

    fn known(bytes: &[u8], said: Said) -> Result<Progress, Mistake> {
        let client = |client: &str| client.parse().unwrap();
        said.map(|said| Progress::Whole(bytes.len(), said.map(client)))
    }

    #[test]
    fn lines_are_read_as_they_are_written_and_no_others() {
        let table: [(&[u8], Said); 21] = [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 5555 80\r\n", Ok(Some("192.0.2.1:5555"))),
            (b"PROXY TCP6 2001:db8::1 ::1 5555 80\r\n", Ok(Some("[2001:db8::1]:5555"))),
            (b"PROXY UNKNOWN\r\n", Ok(None)),
            (b"PROXY UNKNOWN ffff::1 x 1 2 3\r\n", Ok(None)),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 0 80\r\n", Ok(Some("192.0.2.1:0"))),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 5555\r\n", Err(Mistake::Invalid)),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 5555 80 \r\n", Err(Mistake::Invalid)),
            (b"PROXY TCP4  192.0.2.1 10.0.0.1 5555 80\r\n", Err(Mistake::Invalid)),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 05555 80\r\n", Err(Mistake::Invalid)),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 +555 80\r\n", Err(Mistake::Invalid)),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 65536 80\r\n", Err(Mistake::Invalid)),
            (b"PROXY TCP4 192.0.2.01 10.0.0.1 1 80\r\n", Err(Mistake::Invalid)),
            (b"PROXY TCP4 2001:db8::1 ::1 1 80\r\n", Err(Mistake::Invalid)),
            (b"PROXY TCP4 192.0.2.1 x 1 80\r\n", Err(Mistake::Invalid)),
            (b"PROXY UDP4 192.0.2.1 10.0.0.1 1 80\r\n", Err(Mistake::Invalid)),
            (b"PROXY UNKNOWN\n", Err(Mistake::Invalid)),
            (b"PROXY \r\n", Err(Mistake::Invalid)),
            (b"GET / HTTP/1.1\r\n", Err(Mistake::Missing)),
            (b"PROPFIND / HTTP/1.1\r\n", Err(Mistake::Missing)),
            (b"proxy TCP4 192.0.2.1 10.0.0.1 1 80\r\n", Err(Mistake::Missing)),
            (b"\x16\x03\x01", Err(Mistake::Missing)),
        ];
        for (bytes, expected) in table {
            assert_eq!(
                read(bytes, Accepted::V1V2),
                known(bytes, expected),
                "{}",
                bytes.escape_ascii()
            );
            assert_ne!(read(bytes, Accepted::V2), Ok(Progress::Whole(bytes.len(), None)));
            check(bytes);
        }
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100], b"\r\n"].concat();
        assert_eq!(read(&long, Accepted::V1), Err(Mistake::Invalid));
        check(&long);
    }

    #[test]
    fn binary_headers_are_read_and_their_extensions_passed_over() {
        let mut six = [0; 36];
        six[..16].copy_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
        six[33] = 80;
        let extended = [FOUR.as_slice(), &[0x03, 0, 4, 1, 2, 3, 4]].concat();
        let table = [
            (v2(0x21, 0x11, &FOUR), Ok(Some("192.0.2.1:5555"))),
            (v2(0x21, 0x11, &extended), Ok(Some("192.0.2.1:5555"))),
            (v2(0x21, 0x21, &six), Ok(Some("[2001:db8::1]:80"))),
            (v2(0x20, 0x00, &[]), Ok(None)),
            (v2(0x20, 0x11, &FOUR), Ok(None)),
            (v2(0x21, 0x00, &[1, 2, 3]), Ok(None)),
            (v2(0x21, 0x31, &[0; 216]), Ok(None)),
            (v2(0x21, 0x31, &[0; 215]), Err(Mistake::Invalid)),
            (v2(0x21, 0x11, &FOUR[..11]), Err(Mistake::Invalid)),
            (v2(0x21, 0x12, &FOUR), Err(Mistake::Invalid)),
            (v2(0x22, 0x11, &FOUR), Err(Mistake::Invalid)),
            (v2(0x11, 0x11, &FOUR), Err(Mistake::Invalid)),
        ];
        for (bytes, expected) in table {
            assert_eq!(
                read(&bytes, Accepted::V2),
                known(&bytes, expected),
                "{}",
                bytes.escape_ascii()
            );
            assert_eq!(read(&bytes, Accepted::V1), Err(Mistake::Invalid));
            check(&bytes);
        }
        let damaged = [&V2[..11], b"x"].concat();
        assert_eq!(read(&damaged, Accepted::V2), Err(Mistake::Missing));
    }

    #[test]
    fn what_is_written_is_one_family_and_is_read_again() {
        let written = |version, client: &str, own: &str| {
            let mut out = Vec::new();
            put(&mut out, version, Some((client.parse().unwrap(), own.parse().unwrap())));
            out
        };
        assert_eq!(
            written(Version::V1, "192.0.2.1:5", "[::ffff:10.0.0.1]:80"),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 5 80\r\n"
        );
        assert_eq!(
            written(Version::V1, "[2001:db8::1]:5", "10.0.0.1:80"),
            b"PROXY TCP6 2001:db8::1 ::ffff:10.0.0.1 5 80\r\n"
        );
        assert_eq!(written(Version::V2, "192.0.2.1:5555", "10.0.0.1:80"), v2(0x21, 0x11, &FOUR));
        for version in [Version::V1, Version::V2] {
            let mut out = Vec::new();
            put(&mut out, version, None);
            assert_eq!(read(&out, Accepted::V1V2), Ok(Progress::Whole(out.len(), None)));
        }
    }

    fn config() -> ProptestConfig {
        ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn no_bytes_are_read_in_two_ways(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            start in 0..3_usize,
            cut in 0..16_usize,
        ) {
            let start = [&b""[..], V1, V2][start];
            check(&[start, &bytes].concat());
            let mut known = v2(0x21, 0x11, &FOUR);
            known.truncate(known.len() - cut);
            known.extend(&bytes);
            check(&known);
        }
    }
}
