//! Request-targets and authorities: which form it is, and whether a host may stand where it does.
//!
//! In come the bytes of a target that holds no white space and no control byte, and of a Host
//! field; out come their parts. Nothing is decoded or normalised: what routing matches is what the
//! origin is sent.

use std::net::Ipv6Addr;

use super::{Method, TargetForm};

/// A request-target taken apart. The ranges count from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub form: TargetForm,
    /// Empty for the origin and asterisk forms.
    pub authority: (usize, usize),
    /// Path and query. Empty for the authority form, and where an absolute form has neither.
    pub path: (usize, usize),
}

impl Target {
    /// `None`: no form that fits the method (RFC 9112 §3.2).
    #[inline]
    pub(crate) fn of(method: Method, text: &[u8]) -> Option<Self> {
        // A fragment is for the client's own use and is never sent (RFC 9110 §7.1).
        if memchr::memchr(b'#', text).is_some() {
            return None;
        }
        let form = match (method, text) {
            (Method::Connect, _) => {
                return is_authority(text, Port::Required).then_some(Self {
                    form: TargetForm::Authority,
                    authority: (0, text.len()),
                    path: (text.len(), text.len()),
                });
            }
            (_, [b'/', ..]) => TargetForm::Origin,
            (Method::Options, b"*") => TargetForm::Asterisk,
            _ => return Self::absolute(text),
        };
        Some(Self { form, authority: (0, 0), path: (0, text.len()) })
    }

    fn absolute(text: &[u8]) -> Option<Self> {
        const SCHEMES: [&[u8]; 2] = [b"http://", b"https://"];
        let start = SCHEMES.iter().find_map(|scheme| {
            let start = text.get(..scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(scheme.len())
        })?;
        let rest = &text[start..];
        let end = start + memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
        is_authority(&text[start..end], Port::Optional).then_some(Self {
            form: TargetForm::Absolute,
            authority: (start, end),
            path: (end, text.len()),
        })
    }
}

/// Whether an authority must name a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Optional,
    Required,
}

/// Whether `text` is `host [":" port]` with a host that is not empty. Stricter than the grammar:
/// no percent-encoding and no comma, with which two readers could see two hosts.
#[inline]
pub(crate) fn is_authority(text: &[u8], port: Port) -> bool {
    let host_length = match text {
        [b'[', ..] => match address_length(text) {
            Some(length) => length,
            None => return false,
        },
        _ => text.iter().take_while(|&&byte| HOST[byte as usize]).count(),
    };
    let (host, rest) = text.split_at(host_length);
    !host.is_empty()
        && match rest {
            [] => port == Port::Optional,
            [b':', digits @ ..] => is_port(digits, port),
            _ => false,
        }
}

/// The length of the IPv6 address in brackets that `text` starts with.
fn address_length(text: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b']', text)?;
    let address = std::str::from_utf8(&text[1..end]).ok()?;
    address.parse::<Ipv6Addr>().ok()?;
    Some(end + 1)
}

/// `host:` with nothing after the colon is legal where the port is optional (RFC 3986 §3.2.3).
fn is_port(digits: &[u8], port: Port) -> bool {
    if digits.is_empty() {
        return port == Port::Optional;
    }
    let is_short = digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit);
    is_short && {
        let number = digits.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        (1..=65535).contains(&number)
    }
}

/// Bytes of a name or IPv4 address: unreserved and sub-delims (RFC 3986), the comma excepted.
const HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=');
        byte += 1;
    }
    table
};
