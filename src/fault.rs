//! What can go wrong in an exchange, and how a connection can end: two closed sets.
//!
//! In goes what the head parser, the pool, the relay and the ring report; out come the status for
//! the client (if it is still there), the error type for `Proxy-Status` (RFC 9209 §2.3) and
//! the name for the access log. A new fault does not compile until its answer has been chosen.
//! Nothing here does I/O or formats a message.

use std::fmt;

use crate::http::chunked::ChunkError;
use crate::http::head::HeadError;

/// Why an exchange did not go as the client wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    ClientHead(HeadError),
    ClientChunk(ChunkError),
    ClientBodyTooLarge,
    /// What came at a listener for SOCKS is none.
    ClientSocks,
    ClientBodyIncomplete,
    ClientHeadTimeout,
    /// The client sent nothing of a body for `timeouts.read`.
    ClientBodyTimeout,
    /// The client took nothing of the answer for `timeouts.client_write`.
    ClientWriteTimeout,
    ClientGone,
    NoRoute,
    /// An origin could take the path for one of another route, whose hooks guard.
    PathAmbiguous,
    /// CONNECT, where this listener is no forward proxy.
    MethodNotOffered,
    /// The session was made for another name, and its certificate does not cover this one.
    Misdirected,
    /// A login by the connection, in HTTP/2.
    NeedsHttp1,
    /// A target whose scheme is not spoken: `https` without CONNECT.
    SchemeNotOffered,
    ClientForbidden,
    /// The policy forbids the target.
    TargetForbidden,
    /// The forward proxy wants to know who asks.
    LoginRequired,
    TooManyLogins,
    /// Passwords cannot be verified as fast as they come.
    LoginsBusy,
    /// `limits.tunnels` are open.
    TooManyTunnels,
    /// The client went on before it was told that the protocol changes.
    UpgradeTooEarly,
    PoolTimeout,
    PoolQueueFull,
    /// Others waited for the connection to the origin, and the client held more than its share.
    PoolYielded,
    Stopping,
    TooManyFiles,
    /// There is no memory for it: `memory.max_mb`.
    Overloaded,
    Internal,
    /// The request has come round too often.
    ProxyLoop,
    OriginUnresolved,
    /// All that could be asked are taken out by their operator.
    OriginsDown,
    OriginResolveTimeout,
    OriginRefused,
    OriginUnreachable,
    OriginConnectTimeout,
    /// The origin cannot be spoken to over TLS.
    OriginTls(TlsFault),
    /// The origin speaks HTTP/2 alone, and not what the client wants to change to.
    OriginUpgrade,
    /// The origin closed or reset the connection before its answer began.
    OriginClosed,
    OriginHead(HeadError),
    OriginChunk(ChunkError),
    /// An answer that HTTP allows, but not here: 101 unasked, or a flood of interim answers.
    OriginAnswer,
    OriginReadTimeout,
    OriginWriteTimeout,
    /// The origin's body ended before its framing said so.
    OriginTruncated,
    /// The parent proxy refused the tunnel.
    ParentRefused,
    /// Its policy forbids the target: 403.
    ParentForbids,
    /// It wants other credentials than it was given: 407.
    ParentLogin,
    /// It cannot do it now: 503.
    ParentUnavailable,
    /// Neither side had anything to say for `timeouts.tunnel_idle`.
    TunnelIdle,
}

/// What is wrong with an origin's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// Its certificate is not believed.
    Certificate,
    /// It ended the handshake with an alert.
    Alert,
    /// It does not speak TLS, or not as it should.
    Protocol,
}

impl TlsFault {
    const fn error(self) -> ProxyError {
        match self {
            Self::Certificate => ProxyError::TlsCertificateError,
            Self::Alert => ProxyError::TlsAlertReceived,
            Self::Protocol => ProxyError::TlsProtocolError,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "origin_bad_certificate",
            Self::Alert => "origin_tls_alert",
            Self::Protocol => "origin_bad_tls",
        }
    }
}

/// Status of an answer and the reason phrase that is its body too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
}

/// What follows from a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    status: Told,
    error: ProxyError,
    /// The name in the access log.
    name: &'static str,
    /// The client's connection may go on: what went wrong was not the client's doing.
    keeps_connection: bool,
    /// Met while connecting, it says that another origin may do better.
    is_origin_local: bool,
}

/// The status that the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Code(u16),
    /// `timeouts.pool_status`.
    PoolStatus,
    /// The client has gone, or has its answer already.
    Nothing,
}

impl Facts {
    const fn of(code: u16, error: ProxyError, name: &'static str) -> Self {
        Self::told(Told::Code(code), error, name)
    }

    const fn bad_request(name: &'static str) -> Self {
        Self::of(400, ProxyError::HttpRequestError, name)
    }

    const fn denied(code: u16, name: &'static str) -> Self {
        Self::of(code, ProxyError::HttpRequestDenied, name)
    }

    /// The next hop does not speak as it should.
    const fn bad_gateway(name: &'static str) -> Self {
        Self::of(502, ProxyError::HttpProtocolError, name).kept()
    }

    /// The next hop takes too long.
    const fn late(error: ProxyError, name: &'static str) -> Self {
        Self::of(504, error, name).kept()
    }

    const fn silent(error: ProxyError, name: &'static str) -> Self {
        Self::told(Told::Nothing, error, name)
    }

    const fn told(status: Told, error: ProxyError, name: &'static str) -> Self {
        Self { status, error, name, keeps_connection: false, is_origin_local: false }
    }

    const fn kept(self) -> Self {
        Self { keeps_connection: true, ..self }
    }

    /// For the time in which nothing has been sent: another origin may be asked.
    const fn kept_local(self) -> Self {
        Self { keeps_connection: true, is_origin_local: true, ..self }
    }
}

impl Fault {
    /// The table of faults, a row each.
    const fn facts(self) -> Facts {
        use {Fault as F, ProxyError as E};
        match self {
            F::ClientHead(error) => Facts::of(error.status(), E::HttpRequestError, error.text()),
            F::ClientChunk(_) => Facts::bad_request("client_bad_chunk"),
            F::ClientBodyTooLarge => Facts::of(413, E::HttpRequestError, "client_body_too_large"),
            F::ClientSocks => Facts::silent(E::HttpRequestError, "client_bad_socks"),
            F::ClientBodyIncomplete => Facts::bad_request("client_body_incomplete"),
            F::ClientHeadTimeout => Facts::of(408, E::HttpRequestError, "client_head_timeout"),
            F::ClientBodyTimeout => Facts::of(408, E::HttpRequestError, "client_body_timeout"),
            F::ClientWriteTimeout => Facts::silent(E::HttpRequestError, "client_write_timeout"),
            F::ClientGone => Facts::silent(E::HttpRequestError, "client_gone"),
            F::NoRoute => Facts::of(404, E::DestinationNotFound, "no_route").kept(),
            F::PathAmbiguous => Facts::bad_request("path_ambiguous").kept(),
            F::Misdirected => Facts::denied(421, "misdirected").kept(),
            F::NeedsHttp1 => Facts::silent(E::HttpRequestError, "needs_http1"),
            F::MethodNotOffered => Facts::denied(501, "method_not_offered"),
            F::SchemeNotOffered => Facts::denied(501, "scheme_not_offered").kept(),
            F::ClientForbidden => Facts::denied(403, "client_forbidden").kept(),
            F::TargetForbidden => Facts::denied(403, "target_forbidden").kept(),
            F::LoginRequired => Facts::denied(407, "login_required").kept(),
            F::TooManyLogins => Facts::denied(429, "too_many_logins").kept(),
            F::LoginsBusy => Facts::of(503, E::ProxyInternalError, "logins_busy").kept(),
            F::TooManyTunnels => {
                Facts::of(503, E::ConnectionLimitReached, "too_many_tunnels").kept()
            }
            F::UpgradeTooEarly => Facts::bad_request("upgrade_too_early"),
            F::PoolTimeout => {
                Facts::told(Told::PoolStatus, E::ConnectionLimitReached, "pool_timeout").kept()
            }
            F::PoolQueueFull => Facts::of(503, E::ConnectionLimitReached, "pool_queue_full").kept(),
            F::PoolYielded => Facts::of(503, E::ConnectionLimitReached, "pool_yielded").kept(),
            F::Stopping => Facts::of(503, E::DestinationUnavailable, "stopping"),
            F::TooManyFiles => Facts::of(503, E::ProxyInternalError, "too_many_files").kept(),
            F::Overloaded => Facts::of(503, E::ProxyInternalError, "overloaded"),
            F::Internal => Facts::of(500, E::ProxyInternalError, "internal"),
            F::ProxyLoop => Facts::of(508, E::ProxyLoopDetected, "proxy_loop").kept(),
            F::OriginsDown => Facts::of(503, E::DestinationUnavailable, "origins_down").kept(),
            F::OriginUnresolved => Facts::of(502, E::DnsError, "origin_unresolved").kept_local(),
            F::OriginResolveTimeout => Facts::late(E::DnsTimeout, "origin_resolve_timeout"),
            F::OriginRefused => Facts::of(502, E::ConnectionRefused, "origin_refused").kept_local(),
            F::OriginUnreachable => {
                Facts::of(502, E::DestinationUnavailable, "origin_unreachable").kept_local()
            }
            F::OriginConnectTimeout => {
                Facts::of(504, E::ConnectionTimeout, "origin_connect_timeout").kept_local()
            }
            F::OriginTls(fault) => Facts::of(502, fault.error(), fault.name()).kept_local(),
            F::OriginUpgrade => Facts::of(502, E::HttpUpgradeFailed, "origin_no_upgrade").kept(),
            F::OriginClosed => {
                Facts::of(502, E::ConnectionTerminated, "origin_closed").kept_local()
            }
            F::OriginHead(_) => Facts::bad_gateway("origin_bad_head"),
            F::OriginChunk(_) => Facts::bad_gateway("origin_bad_chunk"),
            F::OriginAnswer => Facts::bad_gateway("origin_bad_answer"),
            F::OriginReadTimeout => Facts::late(E::HttpResponseTimeout, "origin_read_timeout"),
            F::OriginWriteTimeout => Facts::late(E::ConnectionWriteTimeout, "origin_write_timeout"),
            F::OriginTruncated => {
                Facts::of(502, E::HttpResponseIncomplete, "origin_truncated").kept()
            }
            F::ParentRefused => Facts::bad_gateway("parent_refused"),
            F::ParentForbids => Facts::bad_gateway("parent_forbids"),
            F::ParentLogin => Facts::bad_gateway("parent_login"),
            F::ParentUnavailable => {
                Facts::of(502, E::DestinationUnavailable, "parent_unavailable").kept()
            }
            F::TunnelIdle => Facts::silent(E::ConnectionReadTimeout, "tunnel_idle"),
        }
    }

    /// What the client is told, or `None` where it can be told nothing. `pool` is
    /// `timeouts.pool_status`.
    pub fn status(self, pool: u16) -> Option<Status> {
        let code = match self.facts().status {
            Told::Code(code) => code,
            Told::PoolStatus => pool,
            Told::Nothing => return None,
        };
        Some(Status { code, reason: reason(code) })
    }

    /// Whether it says that an origin that was reached is ill.
    pub(crate) fn blames_origin(self) -> bool {
        matches!(
            self,
            Self::OriginClosed
                | Self::OriginHead(_)
                | Self::OriginChunk(_)
                | Self::OriginAnswer
                | Self::OriginReadTimeout
                | Self::OriginWriteTimeout
                | Self::OriginTruncated
        )
    }

    /// The error type for the `Proxy-Status` field.
    pub fn proxy_error(self) -> ProxyError {
        self.facts().error
    }

    /// The status that another server gave as its reason (RFC 9209 §2.1.4).
    pub fn received_status(self) -> Option<u16> {
        match self {
            Self::ParentForbids => Some(403),
            Self::ParentLogin => Some(407),
            Self::ParentUnavailable => Some(503),
            _ => None,
        }
    }

    /// The name in the access log.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// The client's connection may go on: what went wrong was not the client's doing.
    pub fn keeps_connection(self) -> bool {
        self.facts().keeps_connection
    }

    /// Met while connecting, it says that another origin may do better.
    pub fn is_origin_local(self) -> bool {
        self.facts().is_origin_local
    }
}

/// The error types of RFC 9209 §2.3, and what is none of them. The number of one is its index among
/// counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    HttpRequestError,
    ConnectionRefused,
    ConnectionTerminated,
    ConnectionTimeout,
    ConnectionLimitReached,
    ConnectionReadTimeout,
    ConnectionWriteTimeout,
    DestinationNotFound,
    DestinationUnavailable,
    DestinationIpProhibited,
    DestinationIpUnroutable,
    DnsError,
    DnsTimeout,
    HttpProtocolError,
    HttpRequestDenied,
    HttpResponseContentCoding,
    HttpResponseBodySize,
    HttpResponseHeaderSectionSize,
    HttpResponseHeaderSize,
    HttpResponseIncomplete,
    HttpResponseTimeout,
    HttpResponseTrailerSectionSize,
    HttpResponseTrailerSize,
    HttpResponseTransferCoding,
    HttpUpgradeFailed,
    ProxyConfigurationError,
    ProxyInternalError,
    ProxyInternalResponse,
    ProxyLoopDetected,
    TlsAlertReceived,
    TlsCertificateError,
    TlsProtocolError,
    Other,
}

impl ProxyError {
    pub(crate) const ALL: [(Self, &'static str); 33] = [
        (Self::HttpRequestError, "http_request_error"),
        (Self::ConnectionRefused, "connection_refused"),
        (Self::ConnectionTerminated, "connection_terminated"),
        (Self::ConnectionTimeout, "connection_timeout"),
        (Self::ConnectionLimitReached, "connection_limit_reached"),
        (Self::ConnectionReadTimeout, "connection_read_timeout"),
        (Self::ConnectionWriteTimeout, "connection_write_timeout"),
        (Self::DestinationNotFound, "destination_not_found"),
        (Self::DestinationUnavailable, "destination_unavailable"),
        (Self::DestinationIpProhibited, "destination_ip_prohibited"),
        (Self::DestinationIpUnroutable, "destination_ip_unroutable"),
        (Self::DnsError, "dns_error"),
        (Self::DnsTimeout, "dns_timeout"),
        (Self::HttpProtocolError, "http_protocol_error"),
        (Self::HttpRequestDenied, "http_request_denied"),
        (Self::HttpResponseContentCoding, "http_response_content_coding"),
        (Self::HttpResponseBodySize, "http_response_body_size"),
        (Self::HttpResponseHeaderSectionSize, "http_response_header_section_size"),
        (Self::HttpResponseHeaderSize, "http_response_header_size"),
        (Self::HttpResponseIncomplete, "http_response_incomplete"),
        (Self::HttpResponseTimeout, "http_response_timeout"),
        (Self::HttpResponseTrailerSectionSize, "http_response_trailer_section_size"),
        (Self::HttpResponseTrailerSize, "http_response_trailer_size"),
        (Self::HttpResponseTransferCoding, "http_response_transfer_coding"),
        (Self::HttpUpgradeFailed, "http_upgrade_failed"),
        (Self::ProxyConfigurationError, "proxy_configuration_error"),
        (Self::ProxyInternalError, "proxy_internal_error"),
        (Self::ProxyInternalResponse, "proxy_internal_response"),
        (Self::ProxyLoopDetected, "proxy_loop_detected"),
        (Self::TlsAlertReceived, "tls_alert_received"),
        (Self::TlsCertificateError, "tls_certificate_error"),
        (Self::TlsProtocolError, "tls_protocol_error"),
        (Self::Other, "other"),
    ];

    /// As the field and the metrics have it.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// The phrases of RFC 9110 §15; for others, that of their class (§15: x00 stands for it).
pub(crate) fn reason(code: u16) -> &'static str {
    match code {
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        205 => "Reset Content",
        200..=299 => "OK",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        300..=399 => "Multiple Choices",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        400..=499 => "Bad Request",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "Internal Server Error",
    }
}

/// Why a client connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// The client closed between two requests: the normal end.
    ClientDone,
    /// `timeouts.client_idle` passed without a request.
    Idle,
    /// The exchange said so: `Connection: close`, HTTP/1.0, or an answer that ends with it.
    Answered,
    /// An answer had to be cut short, so that the client sees that it is incomplete.
    Cut,
    /// A fault was answered; what the client still sends is read and thrown away for a while.
    Refused,
    /// The client and this side did not come to speak TLS with each other.
    Handshake,
    /// The client vanished in the middle of something.
    ClientGone,
    /// A new client has its place.
    GaveWay,
    /// It did not begin with a PROXY protocol header that its listener takes.
    NotIntroduced,
    /// ringway is stopping.
    Stopping,
}

impl Close {
    /// Whether the client has got all that it was to get, and may be told so.
    pub(crate) fn is_orderly(self) -> bool {
        match self {
            Self::ClientDone
            | Self::Idle
            | Self::Answered
            | Self::Refused
            | Self::GaveWay
            | Self::Stopping => true,
            Self::Cut | Self::Handshake | Self::ClientGone | Self::NotIntroduced => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_answer_as_documented() {
        let answer = |fault: Fault| fault.status(504).map(|status| (status.code, status.reason));
        assert_eq!(answer(Fault::OriginRefused), Some((502, "Bad Gateway")));
        assert_eq!(answer(Fault::OriginReadTimeout), Some((504, "Gateway Timeout")));
        assert_eq!(answer(Fault::Internal), Some((500, "Internal Server Error")));
        assert_eq!(answer(Fault::ClientGone), None);
        assert_eq!(Fault::PoolTimeout.status(503).map(|s| s.reason), Some("Service Unavailable"));
    }

    #[test]
    fn every_error_type_has_its_own_index_and_name() {
        let mut names: Vec<_> = ProxyError::ALL.into_iter().map(|(_, name)| name).collect();
        for (index, (error, name)) in ProxyError::ALL.into_iter().enumerate() {
            assert_eq!((error as usize, error.name()), (index, name));
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ProxyError::ALL.len());
    }
}
