//! The TLS handshake with an origin, on a connection that has just been opened.
//!
//! In goes a lease with the origin that it leads to; out comes the same lease, secured, or why the
//! origin is not believed. It has what is left of `timeouts.connect`. Nothing is sent before.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::fault::{Fault, TlsFault};
use crate::observe::log_limit;
use crate::ring::{Handshake, WaitError};
use crate::tls::problem::{self, Problem};

use super::Origin;
use super::lease::Lease;
use super::pool::Pool;

const PROTOCOL: Fault = Fault::OriginTls(TlsFault::Protocol);

impl Pool {
    /// Does the handshake where `origin` speaks TLS; the connection was begun at `began`.
    pub(super) async fn secure(
        self: &Rc<Self>,
        lease: Lease,
        origin: &Origin,
        began: Instant,
    ) -> Result<Lease, Fault> {
        let Some(connector) = &origin.tls else { return Ok(lease) };
        let session = connector.session(&origin.host).map_err(|_| PROTOCOL)?;
        let socket = lease.socket();
        socket.secure(session, self.ledger.clone());
        let limit = self.limits.get().connect;
        loop {
            let waited = match socket.try_handshake() {
                Ok(Handshake::Done) => return Ok(lease),
                Ok(Handshake::Reads) => {
                    let left = left(limit, began)?;
                    socket.readable(&self.deadlines, left).await
                }
                Ok(Handshake::Writes) => {
                    let left = left(limit, began)?;
                    socket.writable(&self.deadlines, left).await
                }
                Err(error) => {
                    let problem = Problem::of(&error);
                    log_limit::origin_not_secured(&origin.url, &problem::detail(&error));
                    return Err(fault(problem));
                }
            };
            waited.map_err(|error| match error {
                WaitError::Expired => Fault::OriginConnectTimeout,
                WaitError::Interrupted => Fault::Stopping,
                WaitError::Failed(_) => Fault::OriginClosed,
            })?;
        }
    }
}

fn left(limit: Duration, began: Instant) -> Result<Duration, Fault> {
    let left = limit.saturating_sub(began.elapsed());
    if left.is_zero() { Err(Fault::OriginConnectTimeout) } else { Ok(left) }
}

pub(super) fn fault(problem: Problem) -> Fault {
    match problem {
        Problem::Certificate | Problem::NoCertificate => Fault::OriginTls(TlsFault::Certificate),
        Problem::Alert => Fault::OriginTls(TlsFault::Alert),
        Problem::Gone => Fault::OriginClosed,
        _ => PROTOCOL,
    }
}
