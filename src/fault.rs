//! What can go wrong in an exchange, and how a connection can end: two closed sets.
//!
//! In goes what the head parser, the pool, the relay and the ring report; out come the status for
//! the client (if anybody is left to tell), the error type for `Proxy-Status` (RFC 9209 §2.3) and
//! the name for the access log. A new fault does not compile until its answer has been chosen.
//!
//! Nothing here does I/O or formats a message.

use crate::http::chunked::ChunkError;
use crate::http::head::HeadError;

/// Why an exchange did not go as the client wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    // The client's side.
    ClientHead(HeadError),
    ClientChunk(ChunkError),
    ClientBodyTooLarge,
    /// What came at a listener for SOCKS is none.
    ClientSocks,
    /// The client ended its side in the middle of a body.
    ClientBodyIncomplete,
    ClientHeadTimeout,
    /// The client sent nothing of a body for `timeouts.read`.
    ClientBodyTimeout,
    /// The client took nothing of the answer for `timeouts.client_write`.
    ClientWriteTimeout,
    ClientGone,
    // Between the sides.
    NoRoute,
    /// CONNECT, where this listener is no forward proxy.
    MethodNotOffered,
    /// A target whose scheme is not spoken: `https` without CONNECT.
    SchemeNotOffered,
    /// The client may not use the forward proxy.
    ClientForbidden,
    /// The policy forbids the target.
    TargetForbidden,
    /// The forward proxy wants to know who asks.
    LoginRequired,
    /// Too many wrong passwords from the client's address.
    TooManyLogins,
    /// Passwords cannot be verified as fast as they come.
    LoginsBusy,
    /// `limits.tunnels` are open.
    TooManyTunnels,
    /// The client went on before it was told that the protocol changes.
    UpgradeTooEarly,
    PoolTimeout,
    /// Others waited for the connection to the origin, and the client held more than its share.
    PoolYielded,
    Stopping,
    TooManyFiles,
    /// There is no memory for it: `memory.max_mb`.
    Overloaded,
    Internal,
    // The origin's side.
    OriginUnresolved,
    OriginResolveTimeout,
    OriginRefused,
    OriginUnreachable,
    OriginConnectTimeout,
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

/// Status of an answer and the reason phrase that is its body too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
}

impl Fault {
    /// What the client is told, or `None` where it can be told nothing. `pool` is
    /// `timeouts.pool_status`.
    pub fn status(self, pool: u16) -> Option<Status> {
        use Fault as F;
        let code = match self {
            F::ClientHead(error) => error.status(),
            F::ClientChunk(_) | F::ClientBodyIncomplete | F::UpgradeTooEarly => 400,
            F::ClientForbidden | F::TargetForbidden => 403,
            F::NoRoute => 404,
            F::LoginRequired => 407,
            F::ClientHeadTimeout | F::ClientBodyTimeout => 408,
            F::ClientBodyTooLarge => 413,
            F::TooManyLogins => 429,
            F::Internal => 500,
            F::MethodNotOffered | F::SchemeNotOffered => 501,
            F::OriginUnresolved
            | F::OriginRefused
            | F::OriginUnreachable
            | F::OriginClosed
            | F::OriginHead(_)
            | F::OriginChunk(_)
            | F::OriginAnswer
            | F::OriginTruncated
            | F::ParentRefused
            | F::ParentForbids
            | F::ParentLogin
            | F::ParentUnavailable => 502,
            F::Stopping
            | F::TooManyFiles
            | F::Overloaded
            | F::TooManyTunnels
            | F::LoginsBusy
            | F::PoolYielded => 503,
            F::OriginResolveTimeout
            | F::OriginConnectTimeout
            | F::OriginReadTimeout
            | F::OriginWriteTimeout => 504,
            F::PoolTimeout => pool,
            F::ClientGone | F::ClientWriteTimeout | F::TunnelIdle | F::ClientSocks => {
                return None;
            }
        };
        Some(Status { code, reason: reason(code) })
    }

    /// The error type of RFC 9209 §2.3 for the `Proxy-Status` field.
    pub fn proxy_error(self) -> &'static str {
        use Fault as F;
        match self {
            F::ClientHead(_)
            | F::ClientChunk(_)
            | F::ClientBodyTooLarge
            | F::ClientBodyIncomplete
            | F::ClientHeadTimeout
            | F::ClientBodyTimeout
            | F::ClientWriteTimeout
            | F::UpgradeTooEarly
            | F::ClientSocks
            | F::ClientGone => "http_request_error",
            F::NoRoute => "destination_not_found",
            F::MethodNotOffered
            | F::SchemeNotOffered
            | F::ClientForbidden
            | F::TargetForbidden
            | F::LoginRequired
            | F::TooManyLogins => "http_request_denied",
            F::PoolTimeout | F::PoolYielded | F::TooManyTunnels => "connection_limit_reached",
            F::Stopping | F::OriginUnreachable | F::ParentUnavailable => "destination_unavailable",
            F::TooManyFiles | F::Overloaded | F::LoginsBusy | F::Internal => "proxy_internal_error",
            F::OriginUnresolved => "dns_error",
            F::OriginResolveTimeout => "dns_timeout",
            F::OriginRefused => "connection_refused",
            F::OriginConnectTimeout => "connection_timeout",
            F::OriginClosed => "connection_terminated",
            F::OriginHead(_)
            | F::OriginChunk(_)
            | F::OriginAnswer
            | F::ParentRefused
            | F::ParentForbids
            | F::ParentLogin => "http_protocol_error",
            F::OriginReadTimeout => "http_response_timeout",
            F::OriginWriteTimeout => "connection_write_timeout",
            F::OriginTruncated => "http_response_incomplete",
            F::TunnelIdle => "connection_read_timeout",
        }
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
        use Fault as F;
        match self {
            F::ClientHead(error) => error.text(),
            F::ClientChunk(_) => "client_bad_chunk",
            F::ClientBodyTooLarge => "client_body_too_large",
            F::ClientSocks => "client_bad_socks",
            F::ClientBodyIncomplete => "client_body_incomplete",
            F::ClientHeadTimeout => "client_head_timeout",
            F::ClientBodyTimeout => "client_body_timeout",
            F::ClientWriteTimeout => "client_write_timeout",
            F::ClientGone => "client_gone",
            F::NoRoute => "no_route",
            F::MethodNotOffered => "method_not_offered",
            F::SchemeNotOffered => "scheme_not_offered",
            F::ClientForbidden => "client_forbidden",
            F::TargetForbidden => "target_forbidden",
            F::LoginRequired => "login_required",
            F::TooManyLogins => "too_many_logins",
            F::LoginsBusy => "logins_busy",
            F::TooManyTunnels => "too_many_tunnels",
            F::UpgradeTooEarly => "upgrade_too_early",
            F::PoolTimeout => "pool_timeout",
            F::PoolYielded => "pool_yielded",
            F::Stopping => "stopping",
            F::TooManyFiles => "too_many_files",
            F::Overloaded => "overloaded",
            F::Internal => "internal",
            F::OriginUnresolved => "origin_unresolved",
            F::OriginResolveTimeout => "origin_resolve_timeout",
            F::OriginRefused => "origin_refused",
            F::OriginUnreachable => "origin_unreachable",
            F::OriginConnectTimeout => "origin_connect_timeout",
            F::OriginClosed => "origin_closed",
            F::OriginHead(_) => "origin_bad_head",
            F::OriginChunk(_) => "origin_bad_chunk",
            F::OriginAnswer => "origin_bad_answer",
            F::OriginReadTimeout => "origin_read_timeout",
            F::OriginWriteTimeout => "origin_write_timeout",
            F::OriginTruncated => "origin_truncated",
            F::ParentRefused => "parent_refused",
            F::ParentForbids => "parent_forbids",
            F::ParentLogin => "parent_login",
            F::ParentUnavailable => "parent_unavailable",
            F::TunnelIdle => "tunnel_idle",
        }
    }

    /// The client's connection may go on: what went wrong was not its doing.
    pub fn keeps_connection(self) -> bool {
        use Fault as F;
        match self {
            F::ClientHead(_)
            | F::ClientChunk(_)
            | F::ClientBodyTooLarge
            | F::ClientSocks
            | F::ClientBodyIncomplete
            | F::ClientHeadTimeout
            | F::ClientBodyTimeout
            | F::ClientWriteTimeout
            | F::ClientGone
            | F::MethodNotOffered
            | F::UpgradeTooEarly
            | F::TunnelIdle
            | F::Overloaded
            | F::Stopping
            | F::Internal => false,
            F::NoRoute
            | F::SchemeNotOffered
            | F::ClientForbidden
            | F::TargetForbidden
            | F::LoginRequired
            | F::TooManyLogins
            | F::LoginsBusy
            | F::TooManyTunnels
            | F::ParentRefused
            | F::ParentForbids
            | F::ParentLogin
            | F::ParentUnavailable
            | F::OriginResolveTimeout
            | F::PoolTimeout
            | F::PoolYielded
            | F::TooManyFiles
            | F::OriginUnresolved
            | F::OriginRefused
            | F::OriginUnreachable
            | F::OriginConnectTimeout
            | F::OriginClosed
            | F::OriginHead(_)
            | F::OriginChunk(_)
            | F::OriginAnswer
            | F::OriginReadTimeout
            | F::OriginWriteTimeout
            | F::OriginTruncated => true,
        }
    }

    /// Met while connecting, it says that another origin may do better.
    pub fn is_origin_local(self) -> bool {
        matches!(
            self,
            Fault::OriginUnresolved
                | Fault::OriginRefused
                | Fault::OriginUnreachable
                | Fault::OriginConnectTimeout
                | Fault::OriginClosed
        )
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
    /// The client vanished in the middle of something.
    ClientGone,
    /// A new client has its place.
    GaveWay,
    /// ringway is stopping.
    Stopping,
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
}
