//! CONNECT: from the request to the tunnel (RFC 9110 §9.3.6).
//!
//! In goes a CONNECT request; out comes a tunnel that is ready to begin, or the fault that is
//! answered instead. Nothing of the client's reaches the target before the client has been told
//! 200. A connection that has asked for a tunnel never carries another request.

use std::time::{Duration, Instant};

use crate::address::Address;
use crate::exchange::forwarded::{self, Hop};
use crate::exchange::hooked;
use crate::exchange::outcome::Outcome;
use crate::exchange::parents;
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::stream::{ClientStream, unless_gone};
use crate::exchange::tunnel::Tunnel;
use crate::fault::Fault;
use crate::forward_proxy::{Asked, Target};
use crate::http::head::ResponseHead;
use crate::http::names::FieldName;
use crate::http::{Method, rewrite};
use crate::relay::HANG_UP_AFTER;
use crate::ring::hang_up::unless_hung_up;
use crate::ring::waits::Recv;
use crate::ring::{HeadBuffer, Socket, WaitError};
use crate::upstream::h1::{self, AttemptError, Received, Reply};
use crate::worker::generation::Generation;

/// A connection that reaches the target.
struct Reached {
    socket: Socket,
    address: Address,
    /// What has come from there already.
    early: Vec<u8>,
}

/// Carries a CONNECT request out.
pub(crate) async fn run(
    request: &mut Request<'_, impl ClientStream>,
    record: &mut Record,
) -> Result<Outcome, Fault> {
    let worker = request.peer.worker;
    request.bytes = request.head.bytes;
    if !request.peer.is_forward {
        return Err(Fault::MethodNotOffered);
    }
    // The parser has seen to it that there is a port.
    let target = forwarded::target(request)?;
    let (hop, user) = forwarded::admit(request, &target, true, record).await?;
    if !request.peer.generation.hooks.connect.is_empty()
        && let Some(outcome) = Box::pin(hooked::judge_tunnel(request, &target, record)).await?
    {
        return Ok(outcome);
    }
    let tunnels = worker.shared.tunnels.clone();
    let permit = tunnels.try_acquire_owned().map_err(|_| Fault::TooManyTunnels)?;
    record.connecting();
    let reached = reach(request, &target, hop, Asked { user, is_connect: true }).await?;
    record.reached(reached.address);
    let bytes = request.stream.accept_tunnel(request).await?;
    record.answered(200);
    record.sent(request.peer.stats, bytes as u64);
    let to_origin = request.inbox.filled()[request.head.bytes..].to_vec();
    Ok(Outcome::Tunnel(Box::new(Tunnel {
        origin: reached.socket,
        to_origin,
        to_client: reached.early,
        generation: request.peer.generation.clone(),
        times: request.peer.times.clone(),
        record: record.detach(request),
        permit,
    })))
}

async fn reach(
    request: &Request<'_, impl ClientStream>,
    target: &Target,
    hop: Hop,
    asked: Asked,
) -> Result<Reached, Fault> {
    let by_another = match hop {
        Hop::Direct => None,
        Hop::Parent(index) => Some((index, by_parent(request, target, index).await)),
        Hop::Socks(index) => {
            let joined = async {
                let known = forwarded::known_address(request, target, index, asked).await?;
                parents::through_socks(&request.peer, target, known, index).await
            };
            let joined = unless_gone(request, joined).await;
            let reached = joined.map(|(socket, address, early)| Reached { socket, address, early });
            Some((index, reached))
        }
    };
    match by_another {
        Some((index, Err(fault))) if forwarded::may_go_direct(request, index, fault) => {}
        Some((_, reached)) => return reached,
        None => {}
    }
    let addresses = forwarded::addresses(request, target, asked);
    let addresses = unless_gone(request, addresses).await?;
    let (socket, address) = unless_gone(request, request.peer.worker.pool.dial(&addresses)).await?;
    Ok(Reached { socket, address, early: Vec::new() })
}

/// Has the parent proxy open the tunnel.
async fn by_parent(
    request: &Request<'_, impl ClientStream>,
    target: &Target,
    index: usize,
) -> Result<Reached, Fault> {
    let worker = request.peer.worker;
    let Generation { config, access, .. } = &*request.peer.generation;
    let (socket, address) = unless_gone(request, parents::dial(&request.peer, index)).await?;
    let _attached = request.peer.slot.attach(&socket);
    let parent = forwarded::parent(config, index);
    let authority = target.to_string();
    let mut extra = access.parent_logins[index].clone().into_bytes();
    put_via(request, &mut extra);
    let sent = h1::send(&worker.outbox, request.peer.origin(&socket), |out| {
        rewrite::connect(out, authority.as_bytes(), &extra);
    });
    sent.await.map_err(AttemptError::fault)?;
    let early = parents_answer(request, &socket, &parent.name).await?;
    Ok(Reached { socket, address, early })
}

/// Appends what the request came through, ourselves included, if that is to be said: proxies that
/// are each other's parent would ask each other for ever.
fn put_via<S>(request: &Request<'_, S>, out: &mut Vec<u8>) {
    let server = &request.peer.generation.config.server;
    let head = &request.head;
    if !server.add_via.holds(true) {
        return;
    }
    for field in head.fields.all(FieldName::Via) {
        out.extend_from_slice(field.line.of(request.inbox.filled()));
    }
    rewrite::via(out, head.version, server.via.as_bytes());
}

/// Reads the parent's answer; what came behind it, if it has opened the tunnel.
async fn parents_answer(
    request: &Request<'_, impl ClientStream>,
    socket: &Socket,
    name: &str,
) -> Result<Vec<u8>, Fault> {
    let Generation { config, .. } = &*request.peer.generation;
    let deadline = Instant::now() + config.timeouts.read;
    let mut reply = ParentReply { request, socket, head: ResponseHead::new(), deadline };
    let mut buffer = HeadBuffer::default();
    let terms = request.peer.terms();
    let read = h1::read_head(&mut reply, &mut buffer, terms, Method::Connect).await;
    let status = reply.head.status;
    match read.map_err(AttemptError::fault) {
        Ok(()) if (200..=299).contains(&status) => Ok(buffer.filled()[reply.head.bytes..].to_vec()),
        Ok(()) if status == 508 => Err(Fault::ProxyLoop),
        Ok(()) | Err(Fault::OriginAnswer) => {
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
struct ParentReply<'r, 'c, S> {
    request: &'r Request<'c, S>,
    socket: &'r Socket,
    head: ResponseHead,
    deadline: Instant,
}

impl<S: ClientStream> Reply for ParentReply<'_, '_, S> {
    type Wait<'w>
        = Recv<'w>
    where
        Self: 'w;

    fn head(&mut self) -> &mut ResponseHead {
        &mut self.head
    }

    fn is_strict(&self) -> bool {
        false
    }

    fn recv(&mut self, buffer: Option<HeadBuffer>) -> Result<Recv<'_>, Fault> {
        let worker = self.request.peer.worker;
        let soon = self.left().min(HANG_UP_AFTER);
        if buffer.is_some() && soon.is_zero() {
            return Err(Fault::OriginReadTimeout);
        }
        let buffer = buffer.unwrap_or_else(|| worker.heads.lease());
        Ok(self.socket.recv(buffer, &worker.deadlines, soon))
    }

    async fn recv_late(&mut self, buffer: HeadBuffer) -> Received {
        let left = self.left();
        if left.is_zero() {
            return Ok((Err(WaitError::Expired), buffer));
        }
        let peer = &self.request.peer;
        let wait = self.socket.recv(buffer, &peer.worker.deadlines, left);
        let watch = (peer.generation.config.server.half_close, &*peer.worker.deadlines);
        unless_hung_up(wait, self.socket, self.request.stream.socket(), watch)
            .await
            .ok_or(Fault::ClientGone)
    }
}

impl<S> ParentReply<'_, '_, S> {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
