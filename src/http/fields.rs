//! Header fields: which ones a proxy must know, and what their lists say.
//!
//! In come field names and values that were checked byte by byte before (tokens, no control
//! bytes); out come a name's class ([`Known`]), sets of classes, and the facts that Connection
//! options state. Values are never decoded and names are never copied.

use super::Span;
use crate::limits::CONNECTION_OPTIONS_MAX;

/// One field line, as ranges of the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Starts its line: the line ends two bytes (CRLF) before the next one starts.
    pub name: Span,
    /// Without the white space around it.
    pub value: Span,
    pub known: Known,
}

/// The class of a field name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    /// End-to-end and of no interest to a proxy.
    Other,
    /// Not known by name, but named by this head's Connection field: hop-by-hop here.
    Named,
    /// A Content-Length with leading zeros: legal, but said anew rather than passed on.
    PaddedLength,
    Connection,
    ContentLength,
    Date,
    Expect,
    Forwarded,
    Host,
    KeepAlive,
    MaxForwards,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
}

impl Known {
    /// Classifies a field name, which must be a token. Length and first letter leave one
    /// candidate at most, so that an unknown name costs one jump and no comparison.
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Other };
        let (known, is_same) = match (name.len(), first | 0x20) {
            (2, b't') => (Self::Te, is_name(name, b"te")),
            (3, b'v') => (Self::Via, is_name(name, b"via")),
            (4, b'd') => (Self::Date, is_name(name, b"date")),
            (4, b'h') => (Self::Host, is_name(name, b"host")),
            (6, b'e') => (Self::Expect, is_name(name, b"expect")),
            (7, b't') => (Self::Trailer, is_name(name, b"trailer")),
            (7, b'u') => (Self::Upgrade, is_name(name, b"upgrade")),
            (9, b'f') => (Self::Forwarded, is_name(name, b"forwarded")),
            (10, b'c') => (Self::Connection, is_name(name, b"connection")),
            (10, b'k') => (Self::KeepAlive, is_name(name, b"keep-alive")),
            (12, b'm') => (Self::MaxForwards, is_name(name, b"max-forwards")),
            (14, b'c') => (Self::ContentLength, is_name(name, b"content-length")),
            (15, b'x') => (Self::XForwardedFor, is_name(name, b"x-forwarded-for")),
            (16, b'p') => (Self::ProxyConnection, is_name(name, b"proxy-connection")),
            (16, b'x') => (Self::XForwardedHost, is_name(name, b"x-forwarded-host")),
            (17, b't') => (Self::TransferEncoding, is_name(name, b"transfer-encoding")),
            (17, b'x') => (Self::XForwardedProto, is_name(name, b"x-forwarded-proto")),
            (18, b'p') => (Self::ProxyAuthenticate, is_name(name, b"proxy-authenticate")),
            (19, b'p') => (Self::ProxyAuthorization, is_name(name, b"proxy-authorization")),
            _ => return Self::Other,
        };
        if is_same { known } else { Self::Other }
    }
}

/// A set of field classes, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownSet(u32);

impl KnownSet {
    pub const EMPTY: Self = Self(0);

    #[must_use]
    pub const fn with(self, known: Known) -> Self {
        Self(self.0 | 1 << known as u8)
    }

    #[must_use]
    pub const fn without(self, known: Known) -> Self {
        Self(self.0 & !(1 << known as u8))
    }

    #[inline]
    pub const fn has(self, known: Known) -> bool {
        self.0 & (1 << known as u8) != 0
    }

    /// Whether the sets share a member.
    #[inline]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What the Connection fields of one head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionOptions {
    pub lifetime: Lifetime,
    pub has_upgrade: bool,
    /// There are names for [`mark_named`] to look for.
    pub has_names: bool,
    /// Elements seen so far, empty ones included.
    count: usize,
}

/// Whether the sender means to go on with the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lifetime {
    #[default]
    Unsaid,
    KeepAlive,
    /// Wins over `KeepAlive` (RFC 9112 §9.3).
    Close,
}

impl ConnectionOptions {
    /// What is said once a further field with this value is seen. `None`: more elements than are
    /// looked at.
    #[must_use]
    pub(crate) fn and(mut self, value: &[u8]) -> Option<Self> {
        for option in elements(value) {
            self.count += 1;
            if self.count > CONNECTION_OPTIONS_MAX {
                return None;
            }
            self.add_option(option);
        }
        Some(self)
    }

    fn add_option(&mut self, option: &[u8]) {
        if option.eq_ignore_ascii_case(b"close") {
            self.lifetime = Lifetime::Close;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            if self.lifetime == Lifetime::Unsaid {
                self.lifetime = Lifetime::KeepAlive;
            }
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            self.has_upgrade = true;
        } else if !option.is_empty() && !is_essential(option) {
            self.has_names = true;
        }
    }
}

/// Turns the fields that the Connection fields name from [`Known::Other`] into [`Known::Named`].
pub(crate) fn mark_named(fields: &mut [Field], buf: &[u8]) {
    for at in 0..fields.len() {
        if fields[at].known != Known::Connection {
            continue;
        }
        for option in elements(fields[at].value.of(buf)) {
            if is_essential(option) {
                continue;
            }
            for field in fields.iter_mut() {
                if field.known == Known::Other && field.name.of(buf).eq_ignore_ascii_case(option) {
                    field.known = Known::Named;
                }
            }
        }
    }
}

/// Whether a Connection option may not take this field away, and a trailer may not bring it:
/// fields that frame, route, authorise or describe the message for everybody (RFC 9110 §7.6.1).
/// Stripping credentials or addresses by naming them in Connection is a known attack.
pub(crate) fn is_essential(name: &[u8]) -> bool {
    const ESSENTIAL: [&[u8]; 14] = [
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"location",
        b"origin",
        b"pragma",
        b"range",
        b"set-cookie",
        b"vary",
        b"www-authenticate",
        b"x-real-ip",
    ];
    const FORWARDED: &[u8] = b"x-forwarded-";
    Known::of(name) != Known::Other
        || ESSENTIAL.iter().any(|essential| name.eq_ignore_ascii_case(essential))
        || name.get(..FORWARDED.len()).is_some_and(|start| start.eq_ignore_ascii_case(FORWARDED))
}

/// The elements of a comma-separated list, without the white space around them; empty ones are
/// given too. Not for lists whose elements may hold quoted commas.
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

/// `value` without the spaces and tabs around it.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether `byte` may be part of a token (RFC 9110 §5.6.2).
#[inline]
pub(crate) fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether `byte` may be part of a field value: anything but control bytes, tab excepted.
#[inline]
pub(crate) fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

/// Compares without regard to case, by words rather than bytes. Both sides are tokens: only
/// letters then differ in the bit that is ignored (`^` and `~` too, which no `lower` contains).
#[inline]
pub(crate) fn is_name<const N: usize>(name: &[u8], lower: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else { return false };
    let mut difference = 0;
    for at in 0..N {
        difference |= (name[at] | 0x20) ^ lower[at];
    }
    difference == 0
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\''
            | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};
