//! Upgrades: from an origin's 101 to the tunnel (RFC 9110 §7.8).
//!
//! In goes an exchange whose origin has granted the change of protocol that its client asked for;
//! out comes a tunnel that is ready to begin, or the fault that is answered instead.

use std::convert::Infallible;

use crate::answer;
use crate::connection::Client;
use crate::exchange::After;
use crate::fault::Fault;
use crate::http::rewrite;
use crate::record::Record;
use crate::ring::HeadBuffer;
use crate::seat::Reached;
use crate::tunnel::Tunnel;

/// Turns the connection into a tunnel, as the origin has agreed to (RFC 9110 §15.2.2).
///
/// A client may not go on before it has been told: what it has sent already is no part of the new
/// protocol, and could be a request that hides behind the first one.
pub(crate) async fn switch(
    client: &mut Client<'_>,
    lease: Reached<'_>,
    buffer: &HeadBuffer,
    is_uploaded: bool,
    record: &mut Record,
) -> Result<After, Fault> {
    let worker = client.worker;
    let is_early = client.inbox.len() > client.request_bytes
        || matches!(client.socket.try_peek(&mut [0]), Ok(1..));
    if !is_uploaded || is_early {
        return Err(Fault::UpgradeTooEarly);
    }
    let tunnels = worker.shared.tunnels.clone();
    let permit = tunnels.try_acquire_owned().map_err(|_| Fault::TooManyTunnels)?;
    let to_client = buffer.filled()[client.response.bytes..].to_vec();
    let sent = worker.send_built(client.socket, |out| {
        rewrite::switching(out, &client.response, buffer.filled());
        Ok::<_, Infallible>(out.len())
    });
    let bytes = answer::finish_sending(client, sent).await?;
    record.answered(101);
    record.sent(client.account, bytes as u64);
    Ok(After::Tunnel(Box::new(Tunnel {
        origin: lease.into_socket(),
        to_origin: Vec::new(),
        to_client,
        generation: client.generation.clone(),
        record: record.detach(client),
        permit,
    })))
}
