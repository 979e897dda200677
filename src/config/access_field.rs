//! What a line of the access log may tell, by its name.
//!
//! In goes a name such as `status` or `request.header.x-foo`; out comes the field, or what was
//! expected in its place. What a field's value is, and how it is written, is for `observe` to say.

use std::fmt;

use super::error::nearest;
use super::hooks::TlsFact;
use super::kinds::text_kind;
use super::names::is_token;

/// One of the facts of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessField {
    /// RFC 3339.
    Time,
    /// As the common log format has it.
    TimeClf,
    /// Seconds since 1970.
    TimeUnix,
    Client,
    ClientIp,
    ClientPort,
    Peer,
    User,
    RequestId,
    /// Method, target and version, as the request line had them.
    Request,
    Method,
    Scheme,
    Host,
    Target,
    Path,
    Query,
    Version,
    Status,
    BytesIn,
    BytesOut,
    Route,
    Upstream,
    Arm,
    Origin,
    Reused,
    Hedged,
    Retries,
    Stream,
    Tls(TlsFact),
    UserAgent,
    Referer,
    HeadUs,
    PoolUs,
    ConnectUs,
    FirstByteUs,
    TotalUs,
    TotalS,
    MemoryPeak,
    Error,
    Details,
    TraceId,
    SpanId,
    /// In lower case.
    RequestHeader(Box<str>),
    ResponseHeader(Box<str>),
}

use AccessField as F;

const PLAIN: [(&str, AccessField); 48] = [
    ("time", F::Time),
    ("time_clf", F::TimeClf),
    ("time_unix", F::TimeUnix),
    ("client", F::Client),
    ("client_ip", F::ClientIp),
    ("client_port", F::ClientPort),
    ("peer", F::Peer),
    ("user", F::User),
    ("request_id", F::RequestId),
    ("request", F::Request),
    ("method", F::Method),
    ("scheme", F::Scheme),
    ("host", F::Host),
    ("target", F::Target),
    ("path", F::Path),
    ("query", F::Query),
    ("version", F::Version),
    ("status", F::Status),
    ("bytes_in", F::BytesIn),
    ("bytes_out", F::BytesOut),
    ("route", F::Route),
    ("upstream", F::Upstream),
    ("arm", F::Arm),
    ("origin", F::Origin),
    ("reused", F::Reused),
    ("hedged", F::Hedged),
    ("retries", F::Retries),
    ("stream", F::Stream),
    ("tls_version", F::Tls(TlsFact::Version)),
    ("tls_cipher", F::Tls(TlsFact::Cipher)),
    ("tls_sni", F::Tls(TlsFact::Sni)),
    ("tls_client_verified", F::Tls(TlsFact::ClientVerified)),
    ("tls_client_subject", F::Tls(TlsFact::ClientSubject)),
    ("tls_client_san", F::Tls(TlsFact::ClientSan)),
    ("tls_client_fingerprint", F::Tls(TlsFact::ClientFingerprint)),
    ("user_agent", F::UserAgent),
    ("referer", F::Referer),
    ("head_us", F::HeadUs),
    ("pool_us", F::PoolUs),
    ("connect_us", F::ConnectUs),
    ("first_byte_us", F::FirstByteUs),
    ("total_us", F::TotalUs),
    ("total_s", F::TotalS),
    ("memory_peak", F::MemoryPeak),
    ("error", F::Error),
    ("details", F::Details),
    ("trace_id", F::TraceId),
    ("span_id", F::SpanId),
];

text_kind!(
    /// The name of a field.
    Named: AccessField,
    AccessField::read,
    ToString::to_string
);

impl AccessField {
    /// What was expected, in words, where no field is called `name`.
    pub(super) fn read(name: &str) -> Result<Self, String> {
        for (start, make) in [
            ("request.header.", Self::RequestHeader as fn(Box<str>) -> Self),
            ("response.header.", Self::ResponseHeader),
        ] {
            if let Some(header) = name.strip_prefix(start) {
                let field = make(header.to_ascii_lowercase().into());
                return is_token(header)
                    .then_some(field)
                    .ok_or_else(|| format!("the name of a header behind `{start}`"));
            }
        }
        let known = PLAIN.iter().find(|(known, _)| *known == name);
        known.map(|(_, field)| field.clone()).ok_or_else(|| {
            let names = PLAIN.iter().map(|(known, _)| *known);
            nearest(name, names.clone()).map_or_else(
                || {
                    let names: Vec<_> = names.collect();
                    let names = names.join(", ");
                    format!("one of {names}, request.header.NAME, response.header.NAME")
                },
                |nearest| format!("a known field, did you mean `{nearest}`?"),
            )
        })
    }
}

impl fmt::Display for AccessField {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestHeader(name) => write!(out, "request.header.{name}"),
            Self::ResponseHeader(name) => write!(out, "response.header.{name}"),
            plain => {
                let name = PLAIN.iter().find(|(_, field)| field == plain);
                out.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_spelled_as_it_is_read() {
        let headers = ["request.header.x-a", "response.header.etag"];
        for name in PLAIN.iter().map(|(name, _)| *name).chain(headers) {
            assert_eq!(AccessField::read(name).unwrap().to_string(), name);
        }
        let field = AccessField::read("request.header.X-A");
        assert_eq!(field, Ok(AccessField::RequestHeader("x-a".into())));
    }

    #[test]
    fn what_is_no_field_says_what_was_expected() {
        for (name, expected) in [
            ("stauts", "a known field, did you mean `status`?"),
            ("zzzzzzzz", "one of time, time_clf,"),
            ("request.header.", "the name of a header behind `request.header.`"),
            ("response.header.a b", "the name of a header behind `response.header.`"),
        ] {
            let error = AccessField::read(name).unwrap_err();
            assert!(error.starts_with(expected), "{name}: {error}");
        }
    }
}
