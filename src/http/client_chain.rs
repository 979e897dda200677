//! Whom a request came through, as the proxies before us have said it.
//!
//! In go the values of X-Forwarded-For, of a field that a CDN sets, or of Forwarded (RFC 7239); out
//! come their elements from the last to the first, the addresses in them, and the one address that
//! counts as the client's: the last that is nobody's whom we trust. What lies before an element
//! that cannot be read is never looked at, because a stranger may have written it. Nothing is
//! allocated.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::fields::Fields;
use super::names::{FieldName, trim};

/// Whose word is taken.
pub trait Trust: Debug {
    fn trusts(&self, address: IpAddr) -> bool;
}

/// The address of the client whose request a trusted peer has passed on, as the fields of one class
/// say it; `None` where they name no address at the end.
pub(crate) fn client_address(
    fields: &Fields,
    buf: &[u8],
    class: FieldName,
    trust: &dyn Trust,
) -> Option<IpAddr> {
    let mut client = None;
    for element in elements_from_end(fields, buf, class) {
        let Some(address) = address_in(class, element) else { return client };
        client = Some(address);
        if !trust.trusts(address) {
            break;
        }
    }
    client
}

/// The elements of all fields of one class, the last first; empty ones are left out.
pub(super) fn elements_from_end<'a>(
    fields: &'a Fields,
    buf: &'a [u8],
    class: FieldName,
) -> impl Iterator<Item = &'a [u8]> {
    let values = fields.all(class).rev().map(move |field| field.value.of(buf));
    values.flat_map(|value| from_end(value, b',')).filter(|element| !element.is_empty())
}

/// The address in an element of a field of this class.
pub(super) fn address_in(class: FieldName, element: &[u8]) -> Option<IpAddr> {
    match class {
        FieldName::Forwarded => address(parameter(element, b"for")?),
        _ => address(element),
    }
}

/// The parts of `value` between separators that no quotes enclose, trimmed, the last first. Quotes
/// that do not match leave one part of all that is left.
fn from_end(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        for at in (0..text.len()).rev() {
            if text[at] == b'"' && !is_escaped(&text[..at]) {
                is_quoted = !is_quoted;
            } else if text[at] == separator && !is_quoted {
                rest = Some(&text[..at]);
                return Some(trim(&text[at + 1..]));
            }
        }
        rest = None;
        Some(trim(text))
    })
}

/// Whether what follows `before` is escaped by a backslash.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// A parameter of an element of Forwarded, without quotes. `None` too where it is there twice, or
/// holds an escape: no address, scheme or host does.
pub(super) fn parameter<'a>(element: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut values = from_end(element, b';').filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        pair[..equals].eq_ignore_ascii_case(name).then(|| &pair[equals + 1..])
    });
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    unquoted(value)
}

fn unquoted(value: &[u8]) -> Option<&[u8]> {
    let inner = match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    };
    (!inner.is_empty() && !inner.iter().any(|byte| b"\"\\".contains(byte))).then_some(inner)
}

/// An address as proxies write it: bare, or with a port, and then, where it is one of IPv6, in
/// brackets. Canonical: IPv4 is not mapped into IPv6.
pub(super) fn address(text: &[u8]) -> Option<IpAddr> {
    let text = unquoted(text)?;
    let parsed: IpAddr = if let Some(rest) = text.strip_prefix(b"[") {
        let end = rest.iter().position(|byte| *byte == b']')?;
        is_port(&rest[end + 1..]).then_some(())?;
        parse::<Ipv6Addr>(&rest[..end])?.into()
    } else if let Some(colon) = only_colon(text) {
        is_port(&text[colon..]).then_some(())?;
        parse::<Ipv4Addr>(&text[..colon])?.into()
    } else {
        parse(text)?
    };
    Some(parsed.to_canonical())
}

/// Where the colon is of a text that has one: those of IPv6 have two at least.
fn only_colon(text: &[u8]) -> Option<usize> {
    let mut colons = text.iter().enumerate().filter(|(_, byte)| **byte == b':');
    let (at, _) = colons.next()?;
    colons.next().is_none().then_some(at)
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Nothing, or a colon and a port, which may be a made-up one (RFC 7239 §6).
fn is_port(text: &[u8]) -> bool {
    let is_obfuscated = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    match text {
        [] => true,
        [b':', b'_', name @ ..] => !name.is_empty() && name.iter().all(is_obfuscated),
        [b':', digits @ ..] => {
            (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::head::{HeadLimits, RequestHead};

    const LIMITS: HeadLimits =
        HeadLimits { head_bytes: 4096, target_bytes: 100, header_count: 100 };

    #[derive(Debug)]
    struct Tens;

    impl Trust for Tens {
        fn trusts(&self, address: IpAddr) -> bool {
            matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10)
        }
    }

    fn found(lines: &str, class: FieldName) -> Option<String> {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let mut head = RequestHead::new();
        assert_eq!(head.parse(text.as_bytes(), &LIMITS), Ok(true), "{text:?}");
        let address = client_address(&head.fields, text.as_bytes(), class, &Tens);
        address.map(|address| address.to_string())
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_trusted() {
        let table = [
            ("192.0.2.1", Some("192.0.2.1")),
            ("6.6.6.6, 192.0.2.1", Some("192.0.2.1")),
            ("6.6.6.6,192.0.2.1 ,\t10.0.0.1, 10.0.0.2", Some("192.0.2.1")),
            ("10.0.0.1, 10.0.0.2", Some("10.0.0.1")),
            ("192.0.2.1:8080", Some("192.0.2.1")),
            ("[2001:db8::1]:443, 10.0.0.1", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("192.0.2.1,, ,", Some("192.0.2.1")),
            // What is before garbage may be a stranger's.
            ("192.0.2.1, unknown, 10.0.0.1", Some("10.0.0.1")),
            ("192.0.2.1, x", None),
            ("192.0.2.1, 192.0.2.2:", None),
            ("192.0.2.1, 1.2.3", None),
            ("192.0.2.1, fe80::1%eth0", None),
            ("192.0.2.1, \"", None),
            ("\", 192.0.2.1", Some("192.0.2.1")),
            ("", None),
        ];
        for (value, client) in table {
            let lines = format!("X-Forwarded-For: {value}\r\n");
            assert_eq!(found(&lines, FieldName::XForwardedFor).as_deref(), client, "{value:?}");
        }
        let lines = "X-Forwarded-For: 192.0.2.1\r\nX-Other: 1\r\nx-forwarded-for: 192.0.2.2\r\n\
                     X-Forwarded-For: 10.0.0.1\r\n";
        assert_eq!(found(lines, FieldName::XForwardedFor).as_deref(), Some("192.0.2.2"));
    }

    #[test]
    fn forwarded_is_read_with_its_quotes_ports_and_brackets() {
        let table = [
            ("for=192.0.2.1", Some("192.0.2.1")),
            ("For=\"192.0.2.1:80\";proto=http", Some("192.0.2.1")),
            ("for=6.6.6.6, for=\"[2001:db8::1]:4711\"; by=10.0.0.3", Some("2001:db8::1")),
            ("for=192.0.2.1;secret=\"a,b;for=6.6.6.6\", for=10.0.0.1", Some("192.0.2.1")),
            ("for=192.0.2.1;x=\"\\\",for=6.6.6.6\"", Some("192.0.2.1")),
            ("for=192.0.2.1;for=192.0.2.2", None),
            ("for=192.0.2.1, for=_hidden, for=10.0.0.1", Some("10.0.0.1")),
            ("for=192.0.2.1, for=unknown", None),
            ("for=192.0.2.1, proto=https", None),
            ("for=\"[2001:db8::1]:_port\"", Some("2001:db8::1")),
            // A stranger's open quote hides nobody.
            ("for=\", for=192.0.2.1", Some("192.0.2.1")),
            ("for=\", for=\"[2001:db8::1]\"", Some("2001:db8::1")),
        ];
        for (value, client) in table {
            let lines = format!("Forwarded: {value}\r\n");
            assert_eq!(found(&lines, FieldName::Forwarded).as_deref(), client, "{value:?}");
        }
    }

    #[test]
    fn only_one_kind_of_field_is_asked() {
        let lines = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.2\r\n\
                     X-Real-IP: 192.0.2.3\r\n";
        let table = [
            (FieldName::XForwardedFor, Some("192.0.2.1")),
            (FieldName::Forwarded, Some("192.0.2.2")),
            (FieldName::XRealIp, Some("192.0.2.3")),
            (FieldName::ClientIp, None),
        ];
        for (class, client) in table {
            assert_eq!(found(lines, class).as_deref(), client, "{class:?}");
        }
    }

    fn config() -> ProptestConfig {
        ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(config())]

        /// Whatever a stranger has written before what a proxy has added.
        #[test]
        fn nothing_before_an_untrusted_address_changes_the_client(
            before in "[ -~]{0,40}",
            is_v6 in any::<bool>(),
            is_forwarded in any::<bool>(),
        ) {
            let (class, name, added) = match (is_forwarded, is_v6) {
                (false, false) => (FieldName::XForwardedFor, "X-Forwarded-For", "192.0.2.1"),
                (false, true) => (FieldName::XForwardedFor, "X-Forwarded-For", "2001:db8::1"),
                (true, false) => (FieldName::Forwarded, "Forwarded", "for=192.0.2.1"),
                (true, true) => (FieldName::Forwarded, "Forwarded", "for=\"[2001:db8::1]:1\""),
            };
            let client = if is_v6 { "2001:db8::1" } else { "192.0.2.1" };
            let lines = format!("{name}: {before}, {added}\r\n");
            prop_assert_eq!(found(&lines, class), Some(client.to_owned()));
        }

        #[test]
        fn every_address_is_read_as_it_is_written(bits in any::<u128>(), is_v4 in any::<bool>()) {
            let ip: IpAddr = if is_v4 {
                Ipv4Addr::from_bits(bits as u32).into()
            } else {
                Ipv6Addr::from_bits(bits).into()
            };
            let at_port = std::net::SocketAddr::new(ip, 80).to_string();
            for text in [ip.to_string(), at_port.clone(), format!("\"{at_port}\"")] {
                prop_assert_eq!(address(text.as_bytes()), Some(ip.to_canonical()));
            }
        }
    }
}
