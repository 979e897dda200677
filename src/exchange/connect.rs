//! CONNECT: from the request to the tunnel (RFC 9110 §9.3.6).
//!
//! In goes a CONNECT request; out comes a tunnel that is ready to begin, or the fault that is
//! answered instead. Nothing of the client's reaches the target before the client has been told
//! 200. A connection that has asked for a tunnel never carries another request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Instant;

use crate::exchange::forwarded::{self, Hop};
use crate::exchange::outcome::Outcome;
use crate::exchange::record::Record;
use crate::exchange::request::{Client, unless_gone};
use crate::exchange::tunnel::Tunnel;
use crate::exchange::{hooked, parents, respond};
use crate::fault::Fault;
use crate::forward_proxy::Target;
use crate::http::head::ResponseHead;
use crate::http::{Method, rewrite};
use crate::relay::HANG_UP_AFTER;
use crate::ring::hang_up::unless_hung_up;
use crate::ring::{HeadBuffer, Socket, WaitError};
use crate::upstream::h1::{self, AttemptError, Received, Reply};
use crate::worker::generation::Generation;

/// A connection that reaches the target.
struct Reached {
    socket: Socket,
    address: SocketAddr,
    /// What has come from there already.
    early: Vec<u8>,
}

/// What a client is told when its tunnel is open.
pub(crate) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Carries a CONNECT request out; `granted` is what the client is told then, in HTTP or not.
pub(crate) async fn run(
    client: &mut Client<'_>,
    record: &mut Record,
    granted: &[u8],
) -> Result<Outcome, Fault> {
    let worker = client.worker;
    client.request_bytes = client.request.bytes;
    if !client.is_forward {
        return Err(Fault::MethodNotOffered);
    }
    let is_http = std::ptr::eq(granted, ESTABLISHED);
    // The parser has seen to it that there is a port.
    let target = forwarded::target(client)?;
    let (hop, _) = forwarded::admit(client, &target, true).await?;
    if !client.generation.hooks.connect.is_empty()
        && let Some(outcome) =
            Box::pin(hooked::judge_tunnel(client, &target, record, is_http)).await?
    {
        return Ok(outcome);
    }
    let tunnels = worker.shared.tunnels.clone();
    let permit = tunnels.try_acquire_owned().map_err(|_| Fault::TooManyTunnels)?;
    record.connecting();
    let reached = reach(client, &target, hop).await?;
    record.reached(reached.address);
    let sent = worker.outbox.send(client.socket, |out| {
        out.extend_from_slice(granted);
        Ok::<_, Infallible>(out.len())
    });
    let bytes = respond::finish_sending(client, sent).await?;
    record.answered(200);
    record.sent(client.stats, bytes as u64);
    let to_origin = client.inbox.filled()[client.request.bytes..].to_vec();
    Ok(Outcome::Tunnel(Box::new(Tunnel {
        origin: reached.socket,
        to_origin,
        to_client: reached.early,
        generation: client.generation.clone(),
        record: record.detach(client),
        permit,
    })))
}

async fn reach(client: &Client<'_>, target: &Target, hop: Hop) -> Result<Reached, Fault> {
    let by_another = match hop {
        Hop::Direct => None,
        Hop::Parent(index) => Some((index, by_parent(client, target, index).await)),
        Hop::Socks(index) => {
            let joined = async {
                let known = forwarded::known_address(client, target, index, true).await?;
                parents::through_socks(client, target, known, index).await
            };
            let joined = unless_gone(client, joined).await;
            let reached = joined.map(|(socket, address, early)| Reached { socket, address, early });
            Some((index, reached))
        }
    };
    match by_another {
        Some((index, Err(fault))) if forwarded::may_go_direct(client, index, fault) => {}
        Some((_, reached)) => return reached,
        None => {}
    }
    let addresses = forwarded::addresses(client, target, true);
    let addresses = unless_gone(client, addresses).await?;
    let (socket, address) = unless_gone(client, client.worker.pool.dial(&addresses)).await?;
    Ok(Reached { socket, address, early: Vec::new() })
}

/// Has the parent proxy open the tunnel.
async fn by_parent(client: &Client<'_>, target: &Target, index: usize) -> Result<Reached, Fault> {
    let worker = client.worker;
    let Generation { config, access, .. } = &*client.generation;
    let (socket, address) = unless_gone(client, parents::dial(client, index)).await?;
    let _attached = client.slot.attach(&socket);
    let parent = forwarded::parent(config, index);
    let authority = target.to_string();
    let login = access.parent_logins[index].as_bytes();
    let sent = h1::send(&worker.outbox, client.origin(&socket), |out| {
        rewrite::connect(out, authority.as_bytes(), login);
    });
    sent.await.map_err(AttemptError::fault)?;
    let early = parents_answer(client, &socket, &parent.name).await?;
    Ok(Reached { socket, address, early })
}

/// Reads the parent's answer; what came behind it, if it has opened the tunnel.
async fn parents_answer(
    client: &Client<'_>,
    socket: &Socket,
    name: &str,
) -> Result<Vec<u8>, Fault> {
    let Generation { config, head_limits, .. } = &*client.generation;
    let deadline = Instant::now() + config.timeouts.read;
    let mut reply = ParentReply { client, socket, head: ResponseHead::new(), deadline };
    let read = h1::read_head(&mut reply, *head_limits, Method::Connect).await;
    let status = reply.head.status;
    match read.map_err(AttemptError::fault) {
        Ok(buffer) if (200..=299).contains(&status) => {
            Ok(buffer.filled()[reply.head.bytes..].to_vec())
        }
        Ok(_) | Err(Fault::OriginAnswer) => {
            tracing::warn!(parent = name, status, "the parent proxy refused a tunnel");
            Err(match status {
                403 => Fault::ParentForbids,
                407 => Fault::ParentLogin,
                503 => Fault::ParentUnavailable,
                _ => Fault::ParentRefused,
            })
        }
        Err(Fault::OriginTruncated) => Err(Fault::OriginClosed),
        Err(fault) => Err(fault),
    }
}

/// A parent's answer to CONNECT. Interim ones are for its client, which is ringway here.
struct ParentReply<'r, 'c> {
    client: &'r Client<'c>,
    socket: &'r Socket,
    head: ResponseHead,
    deadline: Instant,
}

impl Reply for ParentReply<'_, '_> {
    fn head(&mut self) -> &mut ResponseHead {
        &mut self.head
    }

    async fn recv(&mut self, buffer: Option<HeadBuffer>) -> Received {
        let worker = self.client.worker;
        let limit = self.deadline.saturating_duration_since(Instant::now());
        let soon = limit.min(HANG_UP_AFTER);
        let buffer = buffer.unwrap_or_else(|| worker.heads.lease());
        let (received, buffer) = self.socket.recv(buffer, &worker.deadlines, soon).await;
        if !matches!(received, Err(WaitError::Expired)) {
            return Ok((received, buffer));
        }
        let wait = self.socket.recv(buffer, &worker.deadlines, limit.saturating_sub(soon));
        let half_close = self.client.generation.config.server.half_close;
        let watch = (half_close, &*worker.deadlines);
        unless_hung_up(wait, self.socket, self.client.socket, watch)
            .await
            .ok_or(Fault::ClientGone.into())
    }
}
