//! Decides how a message's body ends: the whole smuggling policy, on one page.
//!
//! In come the values of all Content-Length and Transfer-Encoding fields of one head, its version
//! and, for a response, its status and the method it answers; out comes a [`BodyLength`] or a
//! refusal. It never repairs and never prefers one field to another: where two readers of the same
//! head could disagree, the message is refused.

use super::names::elements;
use super::{BodyLength, Method, Version};

/// Why a message's framing is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingError {
    /// Content-Length beside Transfer-Encoding.
    LengthAndCoding,
    /// More than one Content-Length, equal or not.
    LengthRepeated,
    /// A Content-Length that is no decimal number below 2^63.
    LengthInvalid,
    /// Transfer-Encoding in an HTTP/1.0 message.
    CodingInHttp10,
    /// A Transfer-Encoding that does not end in `chunked`, once and without parameters.
    CodingInvalid,
    /// A registered coding below `chunked`. Status 501.
    CodingUnsupported,
    /// A request that can have no body (TRACE, CONNECT), or an answer that can have none
    /// (1xx, 204) and is chunked.
    BodyForbidden,
}

impl FramingError {
    /// The cause in a few words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::LengthAndCoding => "Content-Length and Transfer-Encoding",
            Self::LengthRepeated => "more than one Content-Length",
            Self::LengthInvalid => "invalid Content-Length",
            Self::CodingInHttp10 => "Transfer-Encoding in HTTP/1.0",
            Self::CodingInvalid => "invalid Transfer-Encoding",
            Self::CodingUnsupported => "unsupported Transfer-Encoding",
            Self::BodyForbidden => "body not allowed",
        }
    }
}

/// What the Content-Length fields of a head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    #[default]
    Absent,
    Exact(u64),
    /// More than one field, or a list of numbers.
    Repeated,
    Invalid,
}

impl Length {
    /// What one field with this value says.
    pub fn of(value: &[u8]) -> Self {
        match decimal(value) {
            Some(length) => Self::Exact(length),
            None if value.contains(&b',') => Self::Repeated,
            None => Self::Invalid,
        }
    }
}

/// What the Transfer-Encoding fields of a head say: their values are one list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    #[default]
    Absent,
    /// Just `chunked`.
    Chunked,
    /// Registered codings only, the last of which is not `chunked`: a further field may follow.
    Other,
    /// Registered codings and then `chunked`.
    OtherChunked,
    Invalid,
}

impl Coding {
    /// What is said once a further field with this value is seen.
    #[must_use]
    pub fn and(self, value: &[u8]) -> Self {
        elements(value).fold(self, Self::and_element)
    }

    fn and_element(self, element: &[u8]) -> Self {
        const REGISTERED: [&[u8]; 5] = [b"gzip", b"deflate", b"compress", b"x-gzip", b"x-compress"];
        let is_chunked = element.eq_ignore_ascii_case(b"chunked");
        let is_registered = REGISTERED.iter().any(|name| element.eq_ignore_ascii_case(name));
        match self {
            Self::Absent if is_chunked => Self::Chunked,
            Self::Other if is_chunked => Self::OtherChunked,
            Self::Absent | Self::Other if is_registered => Self::Other,
            // An empty element, a parameter, an unknown name, or anything after `chunked`.
            _ => Self::Invalid,
        }
    }
}

/// How a request's body ends.
pub fn request_body(
    version: Version,
    method: Method,
    coding: Coding,
    length: Length,
) -> Result<BodyLength, FramingError> {
    let body = match (coding, length) {
        (_, Length::Invalid) => return Err(FramingError::LengthInvalid),
        (_, Length::Repeated) => return Err(FramingError::LengthRepeated),
        (Coding::Absent, Length::Absent) => BodyLength::Empty,
        (Coding::Absent, Length::Exact(length)) => BodyLength::Exact(length),
        // Both present is how requests are smuggled past a proxy (RFC 9112 §6.1).
        (_, Length::Exact(_)) => return Err(FramingError::LengthAndCoding),
        (coding, Length::Absent) => only_chunked(version, coding)?,
    };
    match method {
        Method::Trace if !body.is_empty() => Err(FramingError::BodyForbidden),
        // What follows is the tunnel's, whatever a field says (RFC 9110 §9.3.6). A length of zero
        // says nothing else.
        Method::Connect if body.is_empty() => Ok(BodyLength::Empty),
        Method::Connect => Err(FramingError::BodyForbidden),
        _ => Ok(body),
    }
}

/// How the body ends of a response with this `status` to a request with this `method`.
pub fn response_body(
    version: Version,
    method: Method,
    status: u16,
    coding: Coding,
    length: Length,
) -> Result<BodyLength, FramingError> {
    if method == Method::Connect && (200..300).contains(&status) {
        // What follows is the tunnel, whatever a field says (RFC 9110 §9.3.6).
        return Ok(BodyLength::Empty);
    }
    let body = match (coding, length) {
        (_, Length::Invalid) => return Err(FramingError::LengthInvalid),
        (_, Length::Repeated) => return Err(FramingError::LengthRepeated),
        (Coding::Absent, Length::Absent) => BodyLength::UntilClose,
        (Coding::Absent, Length::Exact(length)) => BodyLength::Exact(length),
        (_, Length::Exact(_)) => return Err(FramingError::LengthAndCoding),
        (coding, Length::Absent) => only_chunked(version, coding)?,
    };
    // Without a body by definition, whatever the fields say (RFC 9112 §6.3, rules 1 and 2).
    match (status, body) {
        (100..200 | 204, BodyLength::Chunked) => Err(FramingError::BodyForbidden),
        (100..200 | 204 | 304, _) => Ok(BodyLength::Empty),
        _ if method == Method::Head => Ok(BodyLength::Empty),
        _ => Ok(body),
    }
}

fn only_chunked(version: Version, coding: Coding) -> Result<BodyLength, FramingError> {
    match (version, coding) {
        // Such a message has been through something that did not understand it (§6.1).
        (Version::Http10, _) => Err(FramingError::CodingInHttp10),
        (_, Coding::Chunked) => Ok(BodyLength::Chunked),
        (_, Coding::OtherChunked) => Err(FramingError::CodingUnsupported),
        (_, Coding::Absent | Coding::Other | Coding::Invalid) => Err(FramingError::CodingInvalid),
    }
}

/// A decimal number as Content-Length and Max-Forwards have it: digits only, below 2^63 so that
/// every later sum fits.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut number: u64 = 0;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(digit as u64)?;
    }
    i64::try_from(number).is_ok().then_some(number)
}

/// Whether framing fields speak of a body that the status rules out. What 304 says of a length is
/// what 200 would have had, and what 204 says of none is true (RFC 9110 §8.6).
pub(super) fn is_bodiless_framed(status: u16, coding: Coding, length: Length) -> bool {
    match status {
        204 => !matches!(length, Length::Absent | Length::Exact(0)),
        304 => coding != Coding::Absent,
        _ => false,
    }
}
