//! Names and addresses in the configuration: which texts are hosts, origins and paths.
//!
//! In: text from the file or a flag. Out: its parts, or `None`; each `_FORM` says in words what
//! would have been accepted. Syntax only: whether a name exists is for `upstream::resolver`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::{AdminAddress, HostPattern, ParentScheme};
use crate::address::{Address, UNIX_BYTES_MAX};

/// RFC 1035 §2.3.4, without the root's dot.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

pub(super) const ORIGIN_FORM: &str = "a URL of the form http://HOST:PORT without a path";
/// The same where it may be a Unix socket too.
pub(super) const ORIGIN_OR_UNIX_FORM: &str = "a URL of the form http://HOST:PORT or https://HOST:PORT, with or without a path, \
     srv+http:// or srv+https:// and the name of a service, or \"unix:\" and an absolute path";
pub(super) const LISTEN_FORM: &str = "an address and port such as \"0.0.0.0:8000\" or \
     \"[::]:8000\", or \"unix:\" and an absolute path";
pub(super) const MODE_FORM: &str =
    "an octal mode in quotes, such as \"0660\", with which its owner may read and write";
pub(super) const ADDRESS_FORM: &str =
    "an IP address such as \"0.0.0.0\" or \"::\", or \"localhost\"";
pub(super) const NETWORK_FORM: &str = "a network such as \"10.0.0.0/8\" or \"fd00::/8\"";
/// Of upstreams and parents.
pub(super) const NAME_FORM: &str = "1 to 64 letters, digits, \"-\", \"_\" or \".\"";
pub(super) const ROUTE_HOST_FORM: &str =
    "a host name without a port, \"*.\" and a host name, or \"\" for any";
pub(super) const ROUTE_PATH_FORM: &str =
    "a path that begins with / and has no query, fragment or space";
pub(super) const HOST_POLICY_FORM: &str =
    "\"pass\", \"origin\" or a host name with or without a port";
pub(super) const ADMIN_ADDRESS_FORM: &str =
    "an address and port such as \"127.0.0.1:9901\", or \"unix:\" and a path of 1 to 107 bytes";
pub(super) const WEBHOOK_FORM: &str =
    "a URL that begins with http:// or https:// and has no user, fragment or space, or \"\"";
pub(super) const REALM_FORM: &str = "printable ASCII without \" and \\";
pub(super) const TOKEN_FORM: &str =
    "at least 16 printable ASCII characters without a space, or \"\" for none";
pub(super) const CREDENTIALS_FORM: &str =
    "\"user:password\" without control characters, or \"\" for none";

const ADMIN_TOKEN_BYTES_MIN: usize = 16;

pub(super) fn parse_address(text: &str) -> Option<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

pub(super) fn parse_listen(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    let host = host.eq_ignore_ascii_case("localhost").then_some(Ipv4Addr::LOCALHOST)?;
    Some(SocketAddr::new(host.into(), port.parse().ok()?))
}

/// A listener's address, or what was expected.
pub(super) fn parse_listener(text: &str) -> Result<Address, String> {
    if text.starts_with("unix:") {
        return text.parse();
    }
    parse_listen(text).map(Address::Tcp).ok_or_else(|| LISTEN_FORM.to_owned())
}

/// The bits of a file's mode.
pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    // Without the first of these, ringway itself could not tell whether it lives.
    mode.filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600).ok_or_else(|| MODE_FORM.to_owned())
}

/// The same as [`parse_origin`] for one whose paths may begin with something, and that: `/base`
/// without a slash at its end, or nothing.
pub(super) fn parse_origin_below(url: &str) -> Result<((bool, String, u16), String), &'static str> {
    const FORM: &str = "a path without query, fragment, spaces and dot segments behind the port, \
                        such as http://HOST:PORT/base";
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let (origin, path) = url.split_at(end);
    let base = path.trim_end_matches('/');
    let is_right = base.is_empty()
        || base.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\\"<>".contains(&byte))
            && crate::http::path::normal(base.as_bytes()) == base.as_bytes();
    let parsed = parse_origin(origin)?;
    if is_right { Ok((parsed, base.to_owned())) } else { Err(FORM) }
}

/// Whether it speaks TLS, its host without brackets and its port, or what was expected.
pub(super) fn parse_origin(url: &str) -> Result<(bool, String, u16), &'static str> {
    let (scheme, rest) = url.split_once("://").ok_or(ORIGIN_FORM)?;
    let is_tls = scheme.eq_ignore_ascii_case("https");
    if !is_tls && !scheme.eq_ignore_ascii_case("http") {
        return Err(ORIGIN_FORM);
    }
    let (host, port) = host_and_port(rest, if is_tls { 443 } else { 80 })?;
    Ok((is_tls, host, port))
}

/// Whether a service speaks TLS, its name, and what its paths begin with; or what was expected.
pub(super) fn parse_service(url: &str) -> Result<(bool, String, String), &'static str> {
    const FORM: &str = "a service without a port behind \"srv+\", such as \
                        srv+http://_http._tcp.example.org";
    let ((is_tls, host, _), base) = parse_origin_below(url).map_err(|_| FORM)?;
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split('/').next().unwrap_or_default();
    let is_name = !authority.contains(':') && host.parse::<IpAddr>().is_err();
    if is_name { Ok((is_tls, host, base)) } else { Err(FORM) }
}

fn host_and_port(rest: &str, standard: u16) -> Result<(String, u16), &'static str> {
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("a URL without a path: http://HOST:PORT");
    }
    if authority.contains('@') {
        return Err("a URL without a user or password: http://HOST:PORT");
    }
    let (host, port) = split_authority(authority).ok_or(ORIGIN_FORM)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    Ok((host, port.unwrap_or(standard)))
}

/// How a parent is spoken to, its host without brackets and its port, or what was expected.
pub(super) fn parse_parent(url: &str) -> Result<(ParentScheme, String, u16), &'static str> {
    const FORM: &str = "a URL of the form http://HOST:PORT, https://HOST:PORT, \
                        socks5://HOST:PORT or socks5h://HOST:PORT without a path";
    let scheme = |name: &str| url.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name));
    let (scheme, rest) = match url.split_once("://") {
        Some((_, rest)) if scheme("socks5://") => (ParentScheme::Socks5, rest),
        Some((_, rest)) if scheme("socks5h://") => (ParentScheme::Socks5h, rest),
        _ => {
            let (is_tls, host, port) = parse_origin(url).map_err(|form| match form {
                ORIGIN_FORM => FORM,
                form => form,
            })?;
            let scheme = if is_tls { ParentScheme::Https } else { ParentScheme::Http };
            return Ok((scheme, host, port));
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = split_authority(authority).ok_or(FORM)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    Ok((scheme, host, port.unwrap_or(1080)))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`, with a host that can exist.
pub(super) fn split_authority(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = match port {
        // `parse` would take "+80".
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse().ok().filter(|port| *port != 0)?)
        }
        Some(_) => return None,
        None => None,
    };
    is_host(host).then_some((host, port))
}

pub(super) fn authority(host: &str, port: u16) -> String {
    authority_beside(host, port, 80)
}

/// Without the port that goes without saying.
pub(super) fn authority_beside(host: &str, port: u16, standard: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    if port == standard { host } else { format!("{host}:{port}") }
}

pub(super) fn host_pattern(text: &str) -> Option<HostPattern> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if text.is_empty() {
        return Some(HostPattern::Any);
    }
    match name.strip_prefix("*.") {
        Some(suffix) => is_host(suffix).then(|| HostPattern::Suffix(format!(".{suffix}"))),
        None => is_host(&name).then_some(HostPattern::Exact(name)),
    }
}

/// A name, an IPv4 address or an IPv6 address in brackets.
pub(super) fn is_host(text: &str) -> bool {
    if let Some(bare) = text.strip_prefix('[') {
        return bare.strip_suffix(']').is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok());
    }
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    // "10.0.0.256" is a slip in an address, not a name: no top-level domain is a number.
    let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return text.parse::<Ipv4Addr>().is_ok();
    }
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label)
}

pub(super) fn is_route_path(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
    text.starts_with('/') && text.bytes().all(is_plain)
}

pub(super) fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
}

pub(super) fn parse_admin_address(text: &str) -> Option<AdminAddress> {
    let Some(path) = text.strip_prefix("unix:") else {
        return parse_listen(text).map(AdminAddress::Tcp);
    };
    let can_be_bound = (1..=UNIX_BYTES_MAX).contains(&path.len()) && !path.contains('\0');
    can_be_bound.then(|| AdminAddress::Unix(PathBuf::from(path)))
}

pub(super) fn is_webhook(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    is_http && split_authority(authority).is_some() && rest.bytes().all(is_plain)
}

/// What may stand between quotation marks without an escape.
pub(super) fn is_realm(text: &str) -> bool {
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
    !text.is_empty() && text.bytes().all(is_plain)
}

pub(super) fn is_admin_token(text: &str) -> bool {
    text.len() >= ADMIN_TOKEN_BYTES_MIN && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// RFC 7617 §2: the first colon ends the user.
pub(super) fn is_credentials(text: &str) -> bool {
    text.contains(':') && !text.chars().any(char::is_control)
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_with_their_ports() {
        let table = [
            ("http://a", (false, "a", 80)),
            ("http://A.Example:8080/", (false, "a.example", 8080)),
            ("HTTP://10.0.0.1:1", (false, "10.0.0.1", 1)),
            ("http://[::1]:65535", (false, "::1", 65_535)),
            ("http://[FD00::1]", (false, "fd00::1", 80)),
            ("http://my_service:80", (false, "my_service", 80)),
            ("https://a", (true, "a", 443)),
            ("HTTPS://[::1]:80/", (true, "::1", 80)),
        ];
        for (url, (is_tls, host, port)) in table {
            assert_eq!(parse_origin(url), Ok((is_tls, host.to_owned(), port)), "{url}");
        }
    }

    #[test]
    fn what_is_no_origin_is_told_what_one_is() {
        let table = [
            ("", ORIGIN_FORM),
            ("a:80", ORIGIN_FORM),
            ("ftp://a", ORIGIN_FORM),
            ("http://", ORIGIN_FORM),
            ("http://:80", ORIGIN_FORM),
            ("http://a:", ORIGIN_FORM),
            ("http://a:0", ORIGIN_FORM),
            ("http://a:+80", ORIGIN_FORM),
            ("http://a:65536", ORIGIN_FORM),
            ("http://a b", ORIGIN_FORM),
            ("http://a..b", ORIGIN_FORM),
            ("http://10.0.0.256", ORIGIN_FORM),
            ("http://::1", ORIGIN_FORM),
            ("http://[::1", ORIGIN_FORM),
            ("http://[::1]x:80", ORIGIN_FORM),
            ("http://[10.0.0.1]", ORIGIN_FORM),
            ("http://é", ORIGIN_FORM),
            ("httpss://a", ORIGIN_FORM),
            ("http://a/b", "a URL without a path: http://HOST:PORT"),
            ("http://a//", "a URL without a path: http://HOST:PORT"),
            ("http://a?b", "a URL without a path: http://HOST:PORT"),
            ("http://u:p@a", "a URL without a user or password: http://HOST:PORT"),
        ];
        for (url, expected) in table {
            assert_eq!(parse_origin(url), Err(expected), "{url}");
        }
    }

    #[test]
    fn an_authority_is_what_a_host_field_carries() {
        let table = [
            (("a", 80), "a"),
            (("a", 81), "a:81"),
            (("::1", 80), "[::1]"),
            (("::1", 81), "[::1]:81"),
        ];
        for ((host, port), expected) in table {
            assert_eq!(authority(host, port), expected);
        }
    }

    #[test]
    fn route_hosts_are_names_suffixes_or_any() {
        let exact = |name: &str| Some(HostPattern::Exact(name.to_owned()));
        let suffix = |name: &str| Some(HostPattern::Suffix(name.to_owned()));
        let table = [
            ("", Some(HostPattern::Any)),
            ("Example.ORG", exact("example.org")),
            ("example.org.", exact("example.org")),
            ("[::1]", exact("[::1]")),
            ("10.0.0.1", exact("10.0.0.1")),
            ("*.Example.org", suffix(".example.org")),
            ("*", None),
            ("*.", None),
            (".", None),
            ("*example.org", None),
            ("a.*.org", None),
            ("example.org:80", None),
            ("http://a", None),
            ("a b", None),
            ("-", exact("-")),
        ];
        for (text, expected) in table {
            assert_eq!(host_pattern(text), expected, "{text}");
        }
        assert_eq!(host_pattern(&"a".repeat(LABEL_BYTES_MAX + 1)), None);
        assert_eq!(host_pattern(&"a.".repeat(NAME_BYTES_MAX)), None);
    }

    #[test]
    fn listeners_are_addresses_with_ports() {
        let table = [
            ("0.0.0.0:8000", Some("0.0.0.0:8000")),
            ("[::]:0", Some("[::]:0")),
            ("localhost:80", Some("127.0.0.1:80")),
            ("8000", None),
            (":8000", None),
            ("example.org:80", None),
            ("0.0.0.0", None),
            ("0.0.0.0:65536", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_listen(text), expected.map(|text| text.parse().unwrap()), "{text}");
        }
        for text in ["::", "[::]"] {
            assert_eq!(parse_address(text), Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        }
        for text in ["", "[0.0.0.0]", "0.0.0.0:1", "example.org"] {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }

    #[test]
    fn route_paths_are_plain_prefixes() {
        for text in ["/", "/a/b/", "/%20", "/a;b=c,d"] {
            assert!(is_route_path(text), "{text}");
        }
        for text in ["", "a", "/a?b", "/a#b", "/a b", "/é", "/\n", "*"] {
            assert!(!is_route_path(text), "{text}");
        }
    }

    #[test]
    fn the_administrator_listens_on_a_port_or_a_socket() {
        let table = [
            ("127.0.0.1:9901", Some(AdminAddress::Tcp("127.0.0.1:9901".parse().unwrap()))),
            ("[::1]:0", Some(AdminAddress::Tcp("[::1]:0".parse().unwrap()))),
            ("unix:/run/ringway.sock", Some(AdminAddress::Unix("/run/ringway.sock".into()))),
            ("", None),
            ("9901", None),
            ("unix:", None),
            ("unix:/a\0b", None),
            ("/run/ringway.sock", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_admin_address(text), expected, "{text}");
        }
        for (bytes, can_be_bound) in [(107, true), (108, false)] {
            let address = parse_admin_address(&format!("unix:{}", "a".repeat(bytes)));
            assert_eq!(address.is_some(), can_be_bound, "{bytes}");
        }
    }

    #[test]
    fn webhooks_are_urls_of_either_scheme() {
        for text in ["http://a", "HTTPS://a.example:8443/x?y=z", "http://[::1]:80/", "http://a?b"] {
            assert!(is_webhook(text), "{text}");
        }
        for text in
            ["", "a", "ftp://a", "http://", "http://a b", "http://u@a", "http://a/#b", "http://a/é"]
        {
            assert!(!is_webhook(text), "{text}");
        }
    }

    #[test]
    fn secrets_and_realms_fit_into_a_header_field() {
        for text in ["a", "two words", "~!"] {
            assert!(is_realm(text), "{text}");
        }
        for text in ["", "a\"b", "a\\b", "a\nb", "é"] {
            assert!(!is_realm(text), "{text}");
        }
        assert!(is_admin_token("0123456789abcdef"));
        for text in ["", "0123456789abcde", "0123456789abcde f", "0123456789abcdé"] {
            assert!(!is_admin_token(text), "{text}");
        }
        for text in ["a:b", "a:", ":b", "a:b:c", "ü:ö"] {
            assert!(is_credentials(text), "{text}");
        }
        for text in ["", "a", "a:b\n"] {
            assert!(!is_credentials(text), "{text}");
        }
    }
}
