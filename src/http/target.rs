//! Request-targets and authorities: which form it is, and whether a host may stand where it does.
//!
//! In come the bytes of a target that holds no white space and no control byte, and of a Host
//! field; out come their parts. Nothing is decoded or normalised: what routing matches is what the
//! origin is sent. A fragment and the user information of an absolute target are in no part.

use std::net::Ipv6Addr;

use super::error::HeadError;
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
        // No URI holds other bytes than those of ASCII: see `repair` for what becomes of them.
        if !text.is_ascii() {
            return None;
        }
        // A fragment is for the client's own use and is never sent (RFC 9110 §7.1).
        let text = if text.contains(&b'#') && method != Method::Connect {
            without_fragment(text)
        } else {
            text
        };
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
        let end = rest.iter().position(|&byte| byte == b'/' || byte == b'?');
        let end = start + end.unwrap_or(rest.len());
        let start = start + user_bytes(&text[start..end])?;
        is_authority(&text[start..end], Port::Optional).then_some(Self {
            form: TargetForm::Absolute,
            authority: (start, end),
            path: (end, text.len()),
        })
    }
}

/// Why there is no target in `text`.
#[cold]
pub(super) fn refusal(method: Method, text: &[u8]) -> HeadError {
    let is_named = || {
        let end = text.iter().rposition(|&byte| byte == b'@');
        end.is_some_and(|end| is_authority(&text[end + 1..], Port::Required))
    };
    if method == Method::Connect && is_named() {
        HeadError::TargetUser
    } else {
        HeadError::TargetForm
    }
}

#[cold]
fn without_fragment(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|byte| *byte == b'#');
    &target[..end.unwrap_or(target.len())]
}

/// The length of `http://` or `https://`, which an absolute target begins with.
pub(super) fn scheme_bytes(target: &[u8]) -> usize {
    target.iter().position(|&byte| byte == b'/').map_or(0, |slash| slash + 2)
}

/// How much of an authority, and of the `@` behind it, says who asks (RFC 3986 §3.2.1). `None`
/// where two readers could take different things for the host.
fn user_bytes(authority: &[u8]) -> Option<usize> {
    let Some(end) = authority.iter().position(|&byte| byte == b'@') else { return Some(0) };
    let is_user = |&byte: &u8| HOST[usize::from(byte)] || matches!(byte, b':' | b'%' | b',');
    authority[..end].iter().all(is_user).then_some(end + 1)
}

/// Whether an authority must name a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Optional,
    Required,
}

/// Whether `text` is `host [":" port]` with a host that is not empty. Stricter than the grammar:
/// no percent-encoding and no comma, with which two readers could see two hosts.
pub(crate) fn is_authority(text: &[u8], port: Port) -> bool {
    let host_length = match text {
        [b'[', ..] => address_length(text).unwrap_or(0),
        _ => text.iter().position(|&byte| !HOST[usize::from(byte)]).unwrap_or(text.len()),
    };
    host_length > 0
        && match &text[host_length..] {
            [] => port == Port::Optional,
            [b':', digits @ ..] => is_port(digits, port),
            _ => false,
        }
}

/// The length of the IPv6 address in brackets that `text` starts with.
fn address_length(text: &[u8]) -> Option<usize> {
    let end = text.iter().position(|&byte| byte == b']')?;
    let address = std::str::from_utf8(&text[1..end]).ok()?;
    address.parse::<Ipv6Addr>().ok()?;
    Some(end + 1)
}

/// `host:` with nothing after the colon is legal where the port is optional (RFC 3986 §3.2.3).
fn is_port(digits: &[u8], port: Port) -> bool {
    const DIGITS_MAX: usize = 5;
    let mut number = 0;
    for &byte in digits {
        let digit = u32::from(byte.wrapping_sub(b'0'));
        number = number * 10 + digit;
        if digit > 9 || number > u32::from(u16::MAX) {
            return false;
        }
    }
    match digits.len() {
        0 => port == Port::Optional,
        1..=DIGITS_MAX => number > 0,
        _ => false,
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
