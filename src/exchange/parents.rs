//! The way to a parent proxy, and by one that speaks SOCKS5 to the target.
//!
//! In goes a parent with its backups; out comes a connection to the first that can be reached, or
//! one that a SOCKS server has joined to the target. One that could not be reached is asked last
//! for a while. Each step of SOCKS has to come within `timeouts.connect`, all together.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::config::ParentAddress;
use crate::exchange::peer::Peer;
use crate::fault::Fault;
use crate::forward_proxy::Target;
use crate::http::socks5::{self, Host, Method, Parsed};
use crate::relay::side::{Act, Side};
use crate::ring::{HeadBuffer, Socket, WaitError, clock};
use crate::tls::connector::{Connector, Offers};
use crate::worker::generation::Generation;

/// How long a parent that could not be reached is asked last.
const PENALTY: Duration = Duration::from_secs(10);

/// Connects to the parent with this index, or to a backup of it.
pub(crate) async fn dial(peer: &Peer<'_>, index: usize) -> Result<(Socket, Address), Fault> {
    let Generation { config, access, .. } = &*peer.generation;
    let config = &config.parents[index];
    let names = access.names.as_ref().ok_or(Fault::Internal)?;
    let places: Vec<&ParentAddress> = config.places().collect();
    let health = &access.parent_health[index];
    let mut fault = Fault::OriginUnresolved;
    for place in health.in_order(places.len(), clock::coarse_ms()) {
        let parent = places[place];
        let found = peer.stats.unless_ended(names.look_up(&parent.host, parent.port)).await?;
        let dialled = match found {
            Ok(addresses) => {
                reach(peer, parent, access.parent_tls[index].as_deref(), &addresses).await
            }
            Err(fault) => Err(fault),
        };
        match dialled {
            Ok((socket, address)) => {
                health.reached(place);
                return Ok((socket, address));
            }
            Err(failed) if failed.is_origin_local() || failed == Fault::OriginResolveTimeout => {
                let until_ms = clock::coarse_ms() + PENALTY.as_millis() as u64;
                health.missed(place, until_ms);
                if places.len() > 1 {
                    let (name, url) = (&config.name, &parent.authority);
                    tracing::warn!(parent = name, url, error = failed.name(), "not reached");
                }
                fault = failed;
            }
            Err(failed) => return Err(failed),
        }
    }
    Err(fault)
}

/// A connection to `parent`, which speaks TLS where there is a `connector`.
async fn reach(
    peer: &Peer<'_>,
    parent: &ParentAddress,
    connector: Option<&Connector>,
    addresses: &[SocketAddr],
) -> Result<(Socket, Address), Fault> {
    let pool = &peer.worker.pool;
    let deadline = pool.connect_deadline(Instant::now());
    let (socket, address) = pool.dial(addresses).await?;
    if let Some(connector) = connector {
        let mut opening = Opening(Some(socket.clone()));
        let _watched = pool.watch(&socket);
        let whom = (parent.host.as_str(), parent.authority.as_str());
        // Boxed so that nobody else carries the room for it.
        Box::pin(pool.secure_socket(&socket, (connector, Offers::Http1), whom, b"", deadline))
            .await?;
        opening.0 = None;
    }
    Ok((socket, address))
}

/// A connection that a SOCKS server has joined to `target`, by its address where that is `known`
/// and else by its name, and what has come from there already.
pub(crate) async fn through_socks(
    peer: &Peer<'_>,
    target: &Target,
    known: Option<IpAddr>,
    index: usize,
) -> Result<(Socket, Address, Vec<u8>), Fault> {
    let host = known.map_or(Host::Name(target.host.as_bytes()), Host::Address);
    let (socket, address) = dial(peer, index).await?;
    let _attached = peer.slot.attach(&socket);
    let mut opening = Opening(Some(socket.clone()));
    let deadline = Instant::now() + peer.generation.config.timeouts.connect;
    let buffer = peer.worker.heads.lease();
    let mut talk = Talk { peer, socket: &socket, buffer, deadline };
    talk.ask(index, host, target.port).await?;
    let early = talk.buffer.filled().to_vec();
    drop(talk);
    opening.0 = None;
    Ok((socket, address, early))
}

/// A connection that is not a tunnel yet; dropped meanwhile, its operations end at once.
struct Opening(Option<Socket>);

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.cut();
        }
    }
}

struct Talk<'t, 'c> {
    peer: &'t Peer<'c>,
    socket: &'t Socket,
    buffer: HeadBuffer,
    deadline: Instant,
}

impl Talk<'_, '_> {
    async fn ask(&mut self, index: usize, host: Host<'_>, port: u16) -> Result<(), Fault> {
        let parent = &self.peer.generation.config.parents[index];
        let name = parent.name.as_str();
        let refused = |reason: &str| {
            tracing::warn!(parent = name, reason, "the parent proxy refused a tunnel");
            Fault::ParentRefused
        };
        let mut out = Vec::new();
        socks5::put_offer(&mut out, parent.credentials.is_some());
        match self.exchange(&out, socks5::method).await? {
            Some(Method::Nothing) => {}
            Some(Method::Login) if parent.credentials.is_some() => {
                let credentials = parent.credentials.as_ref().map_or("", |it| it.reveal());
                let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
                let mut out = zeroize::Zeroizing::new(Vec::new());
                socks5::put_login(&mut out, user.as_bytes(), password.as_bytes());
                if !self.exchange(&out, socks5::login_outcome).await? {
                    return Err(refused("it does not know these credentials"));
                }
            }
            _ => return Err(refused("it wants another way of saying who asks")),
        }
        out.clear();
        socks5::put_request(&mut out, host, port);
        match self.exchange(&out, socks5::reply).await? {
            0 => Ok(()),
            2 => Err(refused("its rules do not allow it")),
            3 | 4 => Err(refused("it cannot reach the target")),
            5 => Err(refused("the target refuses connections")),
            6 => Err(refused("the target does not answer")),
            _ => Err(refused("it failed")),
        }
    }

    /// Sends `out` and reads one answer.
    async fn exchange<T>(
        &mut self,
        out: &[u8],
        parse: impl Fn(&[u8]) -> Parsed<T>,
    ) -> Result<T, Fault> {
        let sent = self.peer.origin(self.socket).send_all(out).await;
        sent.map_err(|error| match error {
            WaitError::Failed(_) => Fault::OriginClosed,
            error => error.on(Side::Origin, Act::Take),
        })?;
        loop {
            match parse(self.buffer.filled()) {
                Ok(Some((answer, length))) => {
                    self.buffer.consume(length);
                    return Ok(answer);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(reason = error.text(), "the parent proxy does not speak SOCKS5");
                    return Err(Fault::ParentRefused);
                }
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::OriginReadTimeout);
            }
            self.buffer.make_room(self.buffer.capacity()).map_err(|_| Fault::ParentRefused)?;
            let buffer = std::mem::take(&mut self.buffer);
            let deadlines = &self.peer.worker.deadlines;
            let (received, buffer) = self.socket.recv(buffer, deadlines, left).await;
            self.buffer = buffer;
            match received {
                Ok(1..) => {}
                Ok(0) | Err(WaitError::Failed(_)) => return Err(Fault::OriginClosed),
                Err(error) => return Err(error.on(Side::Origin, Act::Send)),
            }
        }
    }
}
