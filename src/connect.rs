//! CONNECT: from the request to the tunnel (RFC 9110 §9.3.6).
//!
//! In goes a CONNECT request; out comes a tunnel that is ready to begin, or the fault that is
//! answered instead. Nothing of the client's reaches the target before the client has been told
//! 200. A connection that has asked for a tunnel never carries another request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Instant;

use crate::answer;
use crate::connection::Client;
use crate::exchange::{self, After, INTERIM_ANSWERS_MAX, unless_gone};
use crate::fault::Fault;
use crate::forward::Target;
use crate::forwarding::{self, Hop};
use crate::generation::Generation;
use crate::hooking;
use crate::http::head::ResponseHead;
use crate::http::{Method, rewrite};
use crate::record::Record;
use crate::relay::HANG_UP_AFTER;
use crate::ring::hang_up::unless_hung_up;
use crate::ring::{Socket, Waited};
use crate::tunnel::Tunnel;

/// A connection that reaches the target.
struct Reached {
    socket: Socket,
    address: SocketAddr,
    /// What has come from there already.
    early: Vec<u8>,
}

/// Carries a CONNECT request out.
pub async fn run(client: &mut Client<'_>, record: &mut Record) -> Result<After, Fault> {
    let worker = client.worker;
    client.request_bytes = client.request.bytes;
    if !client.is_forward {
        return Err(Fault::MethodNotOffered);
    }
    // The parser has seen to it that there is a port.
    let target = forwarding::target(client)?;
    let (hop, _) = forwarding::admit(client, &target, true).await?;
    if !client.generation.hooks.connect.is_empty()
        && let Some(after) = Box::pin(hooking::judge_tunnel(client, &target, record)).await?
    {
        return Ok(after);
    }
    let tunnels = worker.shared.tunnels.clone();
    let permit = tunnels.try_acquire_owned().map_err(|_| Fault::TooManyTunnels)?;
    record.connecting();
    let reached = reach(client, &target, hop).await?;
    record.reached(reached.address);
    let sent = worker.send_built(client.socket, |out| {
        out.extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
        Ok::<_, Infallible>(out.len())
    });
    let bytes = answer::finish_sending(client, sent).await?;
    record.answered(200);
    record.sent(client.account, bytes as u64);
    let to_origin = client.inbox.filled()[client.request.bytes..].to_vec();
    Ok(After::Tunnel(Box::new(Tunnel {
        origin: reached.socket,
        to_origin,
        to_client: reached.early,
        generation: client.generation.clone(),
        record: record.detach(client),
        permit,
    })))
}

async fn reach(client: &Client<'_>, target: &Target, hop: Hop) -> Result<Reached, Fault> {
    if let Hop::Parent(index) = hop {
        match by_parent(client, target, index).await {
            Err(fault) if forwarding::may_go_direct(client, index, fault) => {}
            reached => return reached,
        }
    }
    let addresses = forwarding::addresses(client, target, Hop::Direct, true);
    let addresses = unless_gone(client, addresses).await?;
    let (socket, address) = unless_gone(client, client.worker.pool.race(&addresses)).await?;
    Ok(Reached { socket, address, early: Vec::new() })
}

/// Has the parent proxy open the tunnel.
async fn by_parent(client: &Client<'_>, target: &Target, index: usize) -> Result<Reached, Fault> {
    let worker = client.worker;
    let Generation { config, gate, .. } = &*client.generation;
    let addresses = forwarding::addresses(client, target, Hop::Parent(index), true);
    let addresses = unless_gone(client, addresses).await?;
    let (socket, address) = unless_gone(client, worker.pool.race(&addresses)).await?;
    let _attached = client.seat.attach(&socket);
    let parent = forwarding::parent(config, index);
    let mut request = Vec::new();
    let authority = target.to_string();
    let login = gate.parent_logins[index].as_bytes();
    rewrite::connect(&mut request, authority.as_bytes(), login);
    client.origin(&socket).send_all(&request).await.map_err(|waited| match waited {
        Waited::Expired => Fault::OriginWriteTimeout,
        Waited::Interrupted => Fault::Stopping,
        Waited::Failed(_) => Fault::OriginClosed,
    })?;
    let early = parents_answer(client, &socket, &parent.name).await?;
    Ok(Reached { socket, address, early })
}

/// Reads the parent's answer; what came behind it, if it has opened the tunnel.
async fn parents_answer(
    client: &Client<'_>,
    socket: &Socket,
    name: &str,
) -> Result<Vec<u8>, Fault> {
    let worker = client.worker;
    let Generation { config, head_limits, .. } = &*client.generation;
    let deadline = Instant::now() + config.timeouts.read;
    let mut interims = 0;
    let mut head = ResponseHead::new();
    let mut buffer = worker.heads.lease();
    loop {
        let limit = deadline.saturating_duration_since(Instant::now());
        let soon = limit.min(HANG_UP_AFTER);
        let (mut received, mut back) = socket.recv(buffer, &worker.deadlines, soon).await;
        if matches!(received, Err(Waited::Expired)) {
            let wait = socket.recv(back, &worker.deadlines, limit.saturating_sub(soon));
            let watch = (config.server.half_close, &*worker.deadlines);
            let watched = unless_hung_up(wait, socket, client.socket, watch).await;
            (received, back) = watched.ok_or(Fault::ClientGone)?;
        }
        buffer = back;
        match received {
            Ok(1..) => {}
            Err(Waited::Expired) => return Err(Fault::OriginReadTimeout),
            Err(Waited::Interrupted) => return Err(Fault::Stopping),
            Ok(0) | Err(Waited::Failed(_)) => return Err(Fault::OriginClosed),
        }
        while head
            .parse(buffer.filled(), head_limits, Method::Connect)
            .map_err(Fault::OriginHead)?
        {
            match head.status {
                // Interim answers are for whoever asked, which is ringway here.
                100..=199 if interims < INTERIM_ANSWERS_MAX => {
                    interims += 1;
                    buffer.consume(head.bytes);
                }
                200..=299 => return Ok(buffer.filled()[head.bytes..].to_vec()),
                status => {
                    tracing::warn!(parent = name, status, "the parent proxy refused a tunnel");
                    return Err(Fault::ParentRefused);
                }
            }
            head.reset();
        }
        buffer.make_room(head_limits.head_bytes).map_err(exchange::no_room)?;
    }
}
