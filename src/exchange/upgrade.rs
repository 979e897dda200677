//! Upgrades: from an origin's 101 to the tunnel (RFC 9110 §7.8).
//!
//! In goes an exchange whose origin has granted the change of protocol that its client asked for;
//! out comes a tunnel that is ready to begin, or the fault that is answered instead.

use crate::exchange::outcome::Outcome;
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::exchange::tunnel::Tunnel;
use crate::fault::Fault;
use crate::ring::HeadBuffer;
use crate::worker::slot::Reached;

/// Turns the connection into a tunnel, as the origin has agreed to (RFC 9110 §15.2.2).
///
/// A client may not go on before it has been told: what it has sent already is no part of the new
/// protocol, and could be a request that hides behind the first one.
pub(crate) async fn switch(
    request: &mut Request<'_, impl ClientStream>,
    granted: Box<(Reached<'_>, HeadBuffer)>,
    is_uploaded: bool,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    let worker = request.peer.worker;
    let (lease, buffer) = *granted;
    if !is_uploaded || request.stream.has_gone_on(request) {
        return Err(Fault::UpgradeTooEarly);
    }
    let tunnels = worker.shared.tunnels.clone();
    let permit = tunnels.try_acquire_owned().map_err(|_| Fault::TooManyTunnels)?;
    let to_client = buffer.filled()[request.response.bytes..].to_vec();
    let bytes = request.stream.switch_protocols(request, &buffer).await?;
    record.answered(101);
    record.sent(request.peer.stats, bytes as u64);
    Ok(Outcome::Tunnel(Box::new(Tunnel {
        origin: lease.into_socket(),
        to_origin: Vec::new(),
        to_client,
        generation: request.peer.generation.clone(),
        times: request.peer.times.clone(),
        record: record.detach(request),
        permit,
    })))
}
