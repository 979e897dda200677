//! The server that a forward request is for: a host in one spelling, and a port.
//!
//! In: an authority as `http::target` lets it through. Out: a `Target`, or `None` where no such
//! host can exist. One spelling each: names in lower case without the root's dot, addresses as
//! the standard library writes them, an IPv4 address mapped into IPv6 as the IPv4 address it is.
//! Rules, pool keys and caches compare targets byte by byte and rely on that.
//!
//! Texts that inet_aton(3) takes for an IPv4 address but that are not written as four decimal
//! numbers (`127.1`, `0x7f.0.0.1`, `2130706433`, `0177.0.0.1`) are no hosts: one reader would see
//! a name in them and the next one an address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The port of an `http` authority that names none.
const PORT: u16 = 80;

/// RFC 1035 §2.3.4, without the root's dot.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Where a forward request wants to go. `Display` writes `host:port`, IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// Never empty, without brackets.
    pub host: Box<str>,
    /// Never 0.
    pub port: u16,
}

impl Target {
    /// `authority` is `host`, `host:port`, `[v6]` or `[v6]:port`; `host:` has port 80 too
    /// (RFC 9110 §4.2.1).
    pub(crate) fn of(authority: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(authority).ok()?;
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (literal, port) = rest.split_once(']')?;
                (IpAddr::V6(literal.parse::<Ipv6Addr>().ok()?), port)
            }
            None => return Self::of_name(text),
        };
        Some(Self { host: host.to_canonical().to_string().into(), port: port_of(port)? })
    }

    fn of_name(text: &str) -> Option<Self> {
        let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_host =
            if ends_in_number(host) { host.parse::<Ipv4Addr>().is_ok() } else { is_name(host) };
        is_host.then_some(())?;
        Some(Self { host: host.to_ascii_lowercase().into(), port: port_of(port)? })
    }

    /// Where there is nothing to resolve.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

/// Whether the last label is a number, decimal or with `0x`. No top-level domain is one, and
/// every text that inet_aton(3) accepts ends in one.
pub(super) fn ends_in_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default().as_bytes();
    match last {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        digits => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
    }
}

/// What follows the host: nothing, or a colon and perhaps a number.
fn port_of(text: &str) -> Option<u16> {
    if text.is_empty() || text == ":" {
        return Some(PORT);
    }
    let digits = text.strip_prefix(':')?;
    // `parse` would take "+80".
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| is_number && *port != 0)
}

fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(authority: &str) -> Option<String> {
        Target::of(authority.as_bytes()).map(|target| target.to_string())
    }

    #[test]
    fn a_target_has_one_spelling() {
        let table = [
            ("example.org", "example.org:80"),
            ("Example.ORG:8080", "example.org:8080"),
            ("example.org.", "example.org:80"),
            ("example.org.:443", "example.org:443"),
            ("example.org:", "example.org:80"),
            ("example.org:00080", "example.org:80"),
            ("my_service:1", "my_service:1"),
            ("xn--bcher-kva.example:65535", "xn--bcher-kva.example:65535"),
            ("10.0.0.1", "10.0.0.1:80"),
            ("10.0.0.1.:81", "10.0.0.1:81"),
            ("[::1]", "[::1]:80"),
            ("[::1]:", "[::1]:80"),
            ("[0:0:0:0:0:0:0:1]:443", "[::1]:443"),
            ("[FD00::00A]:443", "[fd00::a]:443"),
            ("[::ffff:127.0.0.1]:443", "127.0.0.1:443"),
            ("[::FFFF:7f00:1]", "127.0.0.1:80"),
            ("0x7f.example", "0x7f.example:80"),
            ("1.2.3.4.example", "1.2.3.4.example:80"),
            ("0xg", "0xg:80"),
        ];
        for (authority, expected) in table {
            assert_eq!(text(authority).as_deref(), Some(expected), "{authority}");
        }
    }

    #[test]
    fn what_cannot_be_a_host_is_no_target() {
        let table = [
            "",
            ".",
            ":80",
            "..",
            "a..b",
            ".a",
            "a..",
            "a b",
            "a/b",
            "a@b",
            "a!b",
            "a*b",
            "*.a",
            "a,b",
            "a%2eb",
            "a:0",
            "a:+80",
            "a:-1",
            "a:65536",
            "a:8 0",
            "a:80:90",
            "a:x",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[::1]:0",
            "[::1]80",
            "[]",
            "[]:80",
            "[::1%25eth0]",
            "[::1%1]",
            "[127.0.0.1]",
            "[a]",
            "[[::1]]",
            "::1",
            "::1:80",
            "é",
            "a\0b",
        ];
        for authority in table {
            assert_eq!(text(authority), None, "{authority:?}");
        }
        assert_eq!(Target::of(b"\xff\xfe"), None);
        assert!(text(&"a".repeat(LABEL_BYTES_MAX)).is_some());
        assert_eq!(text(&"a".repeat(LABEL_BYTES_MAX + 1)), None);
        let long = format!("{}bc", "a.".repeat(NAME_BYTES_MAX / 2));
        assert_eq!((long.len(), text(&long)), (NAME_BYTES_MAX + 1, None));
        assert!(text(&long[1..].replacen('.', "x", 1)).is_some());
    }

    #[test]
    fn other_spellings_of_ipv4_addresses_are_no_hosts() {
        let table = [
            "2130706433",
            "017700000001",
            "0x7f000001",
            "0X7F000001",
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "0177.0.0.01",
            "127.0.0.01",
            "0x7f.1",
            "0x7f.0x0.0x0.0x1",
            "127.0.0.0x1",
            "127.0.0.0x",
            "0x",
            "0",
            "1",
            "00",
            "256.0.0.1",
            "127.0.0.256",
            "1.2.3.4.5",
            "a.1",
            "127.0.0.1..",
            "4294967296",
            "127.1.",
            "1.",
        ];
        for authority in table {
            assert_eq!(text(authority), None, "{authority}");
        }
    }

    #[test]
    fn only_an_address_needs_no_resolving() {
        let address = |authority: &str| Target::of(authority.as_bytes()).unwrap().address();
        assert_eq!(address("10.0.0.1:81"), Some("10.0.0.1:81".parse().unwrap()));
        assert_eq!(address("[fd00::1]"), Some("[fd00::1]:80".parse().unwrap()));
        assert_eq!(address("localhost"), None);
    }
}
