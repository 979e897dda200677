//! The TLS handshake with an origin, on a connection that has just been opened.
//!
//! In goes a socket with whom it leads to, an origin or a parent proxy; it comes out secured, or
//! why its peer is not believed. It has what is left of `timeouts.connect`. Nothing is sent before
//! but whose connection it is, where an origin wants to know.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::fault::{Fault, TlsFault};
use crate::observe::log_limit;
use crate::relay::side::{Act, Side};
use crate::ring::{Handshake, Socket, WaitError};
use crate::tls::connector::{Connector, Offers};
use crate::tls::problem::{self, Problem};

use super::Member;
use super::lease::Lease;
use super::pool::Pool;

const PROTOCOL: Fault = Fault::OriginTls(TlsFault::Protocol);

impl Pool {
    /// Does the handshake where the origin of `member` speaks TLS, offering `offers`, behind
    /// `introduction`, until `deadline`.
    pub(super) async fn secure(
        self: &Rc<Self>,
        lease: Lease,
        (member, offers): (&Member, Offers),
        introduction: &[u8],
        deadline: Instant,
    ) -> Result<Lease, Fault> {
        let origin = &member.origin;
        if let Some(connector) = &origin.tls {
            let whom = (origin.host.as_str(), origin.url.as_str());
            let socket = lease.socket();
            self.secure_socket(socket, (connector, offers), whom, introduction, deadline).await?;
        }
        Ok(lease)
    }

    /// When a connection that was begun at `began` has to be there.
    pub(crate) fn connect_deadline(&self, began: Instant) -> Instant {
        began + self.limits.get().connect
    }

    /// The same for a socket that is connected to `host`, which the configuration calls `url`,
    /// until `deadline`.
    pub(crate) async fn secure_socket(
        &self,
        socket: &Socket,
        (connector, offers): (&Connector, Offers),
        (host, url): (&str, &str),
        introduction: &[u8],
        deadline: Instant,
    ) -> Result<(), Fault> {
        // The kernel has room for so little on a connection that has carried nothing.
        if !introduction.is_empty()
            && socket.try_send(introduction).ok() != Some(introduction.len())
        {
            return Err(Fault::OriginClosed);
        }
        let session = connector.session(host, offers).map_err(|_| PROTOCOL)?;
        socket.secure(session, self.ledger.clone());
        loop {
            let waited = match socket.try_handshake() {
                Ok(Handshake::Done) => return Ok(()),
                Ok(Handshake::Reads) => {
                    let left = left(deadline)?;
                    socket.readable(&self.deadlines, left).await
                }
                Ok(Handshake::Writes) => {
                    let left = left(deadline)?;
                    socket.writable(&self.deadlines, left).await
                }
                Err(error) => {
                    let problem = Problem::of(&error);
                    log_limit::origin_not_secured(url, &problem::detail(&error));
                    return Err(fault(problem));
                }
            };
            waited.map_err(|error| match error {
                WaitError::Failed(_) => Fault::OriginClosed,
                error => error.on(Side::Origin, Act::Connect),
            })?;
        }
    }
}

fn left(deadline: Instant) -> Result<Duration, Fault> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Fault::OriginConnectTimeout) } else { Ok(left) }
}

/// What it means that a connection has ended with `error` where an answer was due: an origin that
/// has no use for our certificate may say so only now (RFC 8446 §4.4.2.4).
pub(super) fn broken(error: &io::Error) -> Fault {
    if problem::is_of_session(error) { fault(Problem::of(error)) } else { Fault::OriginClosed }
}

pub(super) fn fault(problem: Problem) -> Fault {
    match problem {
        Problem::Certificate | Problem::NoCertificate => Fault::OriginTls(TlsFault::Certificate),
        Problem::Alert => Fault::OriginTls(TlsFault::Alert),
        Problem::Gone => Fault::OriginClosed,
        _ => PROTOCOL,
    }
}
