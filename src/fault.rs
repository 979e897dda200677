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
    /// The client ended its side in the middle of a body.
    ClientBodyIncomplete,
    ClientHeadTimeout,
    /// The client sent less of a body than `limits.min_body_rate` or nothing for `timeouts.read`.
    ClientBodyTimeout,
    /// The client took nothing of the answer for `timeouts.write`.
    ClientWriteTimeout,
    ClientGone,
    // Between the sides.
    NoRoute,
    /// CONNECT, where this listener is no forward proxy.
    MethodNotOffered,
    PoolTimeout,
    Stopping,
    TooManyFiles,
    Internal,
    // The origin's side.
    OriginUnresolved,
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
            F::ClientChunk(_) | F::ClientBodyIncomplete => 400,
            F::NoRoute => 404,
            F::ClientHeadTimeout | F::ClientBodyTimeout => 408,
            F::ClientBodyTooLarge => 413,
            F::Internal => 500,
            F::MethodNotOffered => 501,
            F::OriginUnresolved
            | F::OriginRefused
            | F::OriginUnreachable
            | F::OriginClosed
            | F::OriginHead(_)
            | F::OriginChunk(_)
            | F::OriginAnswer
            | F::OriginTruncated => 502,
            F::Stopping | F::TooManyFiles => 503,
            F::OriginConnectTimeout | F::OriginReadTimeout | F::OriginWriteTimeout => 504,
            F::PoolTimeout => pool,
            F::ClientGone | F::ClientWriteTimeout => return None,
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
            | F::ClientGone => "http_request_error",
            F::NoRoute => "destination_not_found",
            F::MethodNotOffered => "http_request_denied",
            F::PoolTimeout => "connection_limit_reached",
            F::Stopping | F::OriginUnreachable => "destination_unavailable",
            F::TooManyFiles | F::Internal => "proxy_internal_error",
            F::OriginUnresolved => "dns_error",
            F::OriginRefused => "connection_refused",
            F::OriginConnectTimeout => "connection_timeout",
            F::OriginClosed => "connection_terminated",
            F::OriginHead(_) | F::OriginChunk(_) | F::OriginAnswer => "http_protocol_error",
            F::OriginReadTimeout => "http_response_timeout",
            F::OriginWriteTimeout => "connection_write_timeout",
            F::OriginTruncated => "http_response_incomplete",
        }
    }

    /// The name in the access log.
    pub fn name(self) -> &'static str {
        use Fault as F;
        match self {
            F::ClientHead(error) => error.text(),
            F::ClientChunk(_) => "client_bad_chunk",
            F::ClientBodyTooLarge => "client_body_too_large",
            F::ClientBodyIncomplete => "client_body_incomplete",
            F::ClientHeadTimeout => "client_head_timeout",
            F::ClientBodyTimeout => "client_body_timeout",
            F::ClientWriteTimeout => "client_write_timeout",
            F::ClientGone => "client_gone",
            F::NoRoute => "no_route",
            F::MethodNotOffered => "method_not_offered",
            F::PoolTimeout => "pool_timeout",
            F::Stopping => "stopping",
            F::TooManyFiles => "too_many_files",
            F::Internal => "internal",
            F::OriginUnresolved => "origin_unresolved",
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
        }
    }

    /// The client's connection may go on: what went wrong was not its doing.
    pub fn spares_client(self) -> bool {
        use Fault as F;
        match self {
            F::ClientHead(_)
            | F::ClientChunk(_)
            | F::ClientBodyTooLarge
            | F::ClientBodyIncomplete
            | F::ClientHeadTimeout
            | F::ClientBodyTimeout
            | F::ClientWriteTimeout
            | F::ClientGone
            | F::MethodNotOffered
            | F::Stopping
            | F::Internal => false,
            F::NoRoute
            | F::PoolTimeout
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
    pub fn is_of_one_origin(self) -> bool {
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

fn reason(code: u16) -> &'static str {
    match code {
        400 => "Bad Request",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
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
pub enum Close {
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
