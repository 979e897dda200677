//! A client that speaks SOCKS5: from its first byte to its tunnel.
//!
//! In goes a connection of a listener of `forward.socks_listeners`; out comes a tunnel, or why the
//! connection ends. What it asks for is put as the CONNECT that it amounts to, so that policy,
//! users, parents, limits, hooks, logs and counts are the same. Each message has to come within
//! `timeouts.client_head`. What is no SOCKS5 is not answered.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::h1::Pause;
use crate::exchange::outcome::Outcome;
use crate::exchange::peer::Peer;
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::respond::finish_sending;
use crate::exchange::stream::{Begun, ClientStream, Incoming, Words};
use crate::exchange::tunnel::Tunnel;
use crate::exchange::{connect, login};
use crate::fault::{Close, Fault};
use crate::forward_proxy::{LoginOutcome, Target};
use crate::http::chunked::ChunkError;
use crate::http::rewrite::ResponseRewrite;
use crate::http::socks5::{self, Host, Method, Parsed, Reply, SocksError};
use crate::observe::connection_stats::{Ending, Phase};
use crate::relay::outbox::Unsent;
use crate::relay::{Encoding, RelayError};
use crate::ring::{HeadBuffer, Socket, WaitError, clock};
use crate::worker::generation::Generation;
use crate::worker::slot::ConnectionSlot;

/// A connection whose client is told in SOCKS what becomes of its CONNECT, and nothing else.
struct Connection<'c>(&'c Socket);

type Talk<'c> = Request<'c, Connection<'c>>;

/// Why there is no tunnel.
enum Refusal {
    /// Without a word.
    Close(Close),
    Fault(Fault),
    /// What came is no SOCKS5.
    Garbage(SocksError),
    /// After a message.
    Told(Fault, Vec<u8>),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What a client asks for, and as whom.
struct Wish {
    target: String,
    /// The value of the field that says who asks.
    credentials: Option<Zeroizing<String>>,
}

/// Serves the connection until it is a tunnel.
pub(super) async fn converse(slot: &ConnectionSlot) -> Pause {
    let mut request = Request::new(Peer::new(slot), Connection(slot.socket()));
    match open(&mut request).await {
        Ok(tunnel) => Pause::Tunnel(tunnel),
        Err(close) => Pause::Closed(close),
    }
}

async fn open(request: &mut Talk<'_>) -> Result<Box<Tunnel>, Close> {
    request.peer.stats.enter(Phase::Head, clock::coarse_ms());
    let wish = match listen(request).await {
        Ok(wish) => wish,
        Err(refusal) => return Err(refuse(request, refusal)),
    };
    // What the client has sent behind its request is the target's.
    let early = request.inbox.filled().to_vec();
    if !put_connect(request, &wish) {
        return Err(refuse(request, told(Fault::TargetForbidden, Reply::NotAllowed)));
    }
    request.peer.slot.set_served();
    request.peer.is_forward = true;
    // Ends with the connection's request, which is the only one.
    request.enter_trace();
    let mut record = Record::begin(request, true);
    let outcome = connect::run(request, &mut record).await;
    match outcome {
        Ok(Outcome::Tunnel(mut tunnel)) => {
            record.write(request);
            // It came too late.
            if let Ending::GiveUp(fault) = request.peer.stats.ending() {
                request.peer.stats.settle(fault);
            }
            tunnel.to_origin = early;
            Ok(tunnel)
        }
        // A hook in Rust has answered.
        Ok(Outcome::Complete) => {
            record.write(request);
            Err(Close::Refused)
        }
        Ok(Outcome::CutShort(fault)) | Err(fault) => {
            let fault = request.peer.stats.settle(fault);
            record.failed(fault);
            record.write(request);
            say(request, |out| socks5::put_reply(out, reply(fault)));
            Err(Close::Refused)
        }
    }
}

/// Puts the wish into the inbox, as the CONNECT that it amounts to; false where it cannot be one.
fn put_connect(request: &mut Talk<'_>, wish: &Wish) -> bool {
    let Wish { target, credentials } = wish;
    let mut head = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
    if let Some(credentials) = credentials {
        head.push_str("Proxy-Authorization: ");
        head.push_str(credentials);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    request.head.reset();
    let limits = request.peer.generation.head_limits;
    request.inbox.replace(head.as_bytes())
        && request.head.parse(request.inbox.filled(), &limits) == Ok(true)
}

impl ClientStream for Connection<'_> {
    fn socket(&self) -> &Socket {
        self.0
    }

    fn has_gone_on(&self, _: &Request<'_, Self>) -> bool {
        false
    }

    async fn grant_continue(&self, _: &Request<'_, Self>) -> Result<usize, Fault> {
        Ok(0)
    }

    async fn send_interim(&self, _: &Request<'_, Self>, _: &HeadBuffer) -> Result<usize, Fault> {
        Ok(0)
    }

    /// SOCKS has no words for a response.
    fn send_head(
        &self,
        _: &Request<'_, Self>,
        _: &Incoming<'_>,
        _: impl FnOnce(&ResponseRewrite<'_>, &mut Vec<u8>),
    ) -> Result<Begun, Unsent<ChunkError>> {
        Err(Unsent::Broken)
    }

    async fn end_body(&self, _: &Request<'_, Self>, _: Encoding) -> Result<usize, RelayError> {
        Ok(0)
    }

    /// A client that speaks SOCKS is told no more than that it may not.
    async fn respond(
        &self,
        request: &Request<'_, Self>,
        _: &Words<'_>,
        _: bool,
    ) -> Result<usize, Fault> {
        self.reply(request, Reply::NotAllowed).await
    }

    async fn accept_tunnel(&self, request: &Request<'_, Self>) -> Result<usize, Fault> {
        self.reply(request, Reply::Succeeded).await
    }

    async fn switch_protocols(
        &self,
        _: &Request<'_, Self>,
        _: &HeadBuffer,
    ) -> Result<usize, Fault> {
        Err(Fault::Internal)
    }

    fn reset(&self) {
        self.0.reset_on_close();
    }
}

impl Connection<'_> {
    async fn reply(&self, request: &Request<'_, Self>, reply: Reply) -> Result<usize, Fault> {
        let sent = request.peer.worker.outbox.send(self.0, |out| {
            socks5::put_reply(out, reply);
            Ok::<_, Infallible>(out.len())
        });
        finish_sending(request, sent).await
    }
}

/// Reads all that comes before a tunnel.
async fn listen(request: &mut Talk<'_>) -> Result<Wish, Refusal> {
    let offer = read(request, socks5::offer).await?;
    let Generation { config, access, .. } = &*request.peer.generation.clone();
    let unacceptable = |fault| {
        let mut out = Vec::new();
        socks5::put_method(&mut out, None);
        Refusal::Told(fault, out)
    };
    let client = request.peer.client;
    if !config.forward.allow_clients.has(client) {
        tracing::info!(%client, "denied: not in forward.allow_clients");
        return Err(unacceptable(Fault::ClientForbidden));
    }
    let method = match (access.authenticator.is_some(), offer) {
        (true, offer) if offer.login => Method::Login,
        (false, offer) if offer.nothing => Method::Nothing,
        // Nobody is asked, and some clients offer nothing else.
        (false, offer) if offer.login => Method::Login,
        _ => return Err(unacceptable(Fault::LoginRequired)),
    };
    say(request, |out| socks5::put_method(out, Some(method)));
    let mut credentials = None;
    if method == Method::Login {
        let field = read(request, |bytes| {
            let login = socks5::login(bytes)?;
            Ok(login.map(|(login, length)| (field_of(&login), length)))
        });
        let field = field.await?;
        let known = log_in(request, &field).await;
        let is_known = known.is_ok();
        let mut out = Vec::new();
        socks5::put_login_outcome(&mut out, is_known);
        if let Err(fault) = known {
            return Err(Refusal::Told(fault, out));
        }
        say(request, |all| all.extend_from_slice(&out));
        credentials = Some(field);
    }
    let asked = read(request, |bytes| {
        let asked = socks5::request(bytes)?;
        Ok(asked
            .map(|(asked, length)| ((asked.is_connect, target_of(asked.host, asked.port)), length)))
    });
    match asked.await {
        Ok((true, Some(target))) => Ok(Wish { target, credentials }),
        Ok((true, None)) => Err(told(Fault::TargetForbidden, Reply::NotAllowed)),
        Ok((false, _)) => Err(told(Fault::MethodNotOffered, Reply::CommandUnknown)),
        Err(Refusal::Garbage(SocksError::AddressKind)) => {
            Err(told(Fault::ClientSocks, Reply::AddressKindUnknown))
        }
        Err(refusal) => Err(refusal),
    }
}

/// Reads one message.
async fn read<T>(request: &mut Talk<'_>, parse: impl Fn(&[u8]) -> Parsed<T>) -> Result<T, Refusal> {
    let deadline = Instant::now() + request.peer.generation.config.timeouts.client_head;
    loop {
        match parse(request.inbox.filled()) {
            Ok(Some((message, length))) => {
                request.inbox.consume(length);
                return Ok(message);
            }
            Ok(None) => {}
            Err(error) => {
                let client = request.peer.sender();
                tracing::debug!(%client, reason = error.text(), "no SOCKS5");
                return Err(Refusal::Garbage(error));
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            return Err(Fault::ClientHeadTimeout.into());
        }
        let most = request.inbox.capacity();
        request.inbox.make_room(most).map_err(|_| Refusal::Garbage(SocksError::Malformed))?;
        let inbox = std::mem::take(&mut request.inbox);
        let (received, inbox) =
            request.stream.0.recv(inbox, &request.peer.worker.deadlines, left).await;
        request.inbox = inbox;
        match received {
            Ok(0) if request.inbox.is_empty() => return Err(Refusal::Close(Close::ClientDone)),
            Ok(0) | Err(WaitError::Failed(_)) => return Err(Refusal::Close(Close::ClientGone)),
            Err(WaitError::Expired) => return Err(Fault::ClientHeadTimeout.into()),
            Err(WaitError::Interrupted) if request.peer.stats.is_cut() => {
                return Err(Refusal::Close(Close::Cut));
            }
            Err(WaitError::Interrupted) if request.peer.slot.gives_way() => {
                return Err(Refusal::Close(Close::GaveWay));
            }
            Err(WaitError::Interrupted) if request.peer.worker.closes_idle.get() => {
                return Err(Refusal::Close(Close::Stopping));
            }
            Ok(_) | Err(WaitError::Interrupted) => {}
        }
    }
}

/// Whether the client is who it says. Where nobody is asked, it may say what it likes.
async fn log_in(request: &Talk<'_>, field: &str) -> Result<(), Fault> {
    let peer = &request.peer;
    let Some(authenticator) = &peer.generation.access.authenticator else { return Ok(()) };
    match login::log_in(peer, peer.client, authenticator, Some(field.as_bytes())).await? {
        LoginOutcome::Known(_) => Ok(()),
        LoginOutcome::Missing | LoginOutcome::Wrong => Err(Fault::LoginRequired),
        LoginOutcome::TooManyFailures { .. } => Err(Fault::TooManyLogins),
        LoginOutcome::Busy => Err(Fault::LoginsBusy),
    }
}

/// The same as a field of CONNECT has it. A name with a colon is nobody's.
fn field_of(login: &socks5::Login<'_>) -> Zeroizing<String> {
    if login.user.contains(&b':') {
        return Zeroizing::new("Basic".to_owned());
    }
    let pair = Zeroizing::new([login.user, b":", login.password].concat());
    Zeroizing::new(format!("Basic {}", BASE64.encode(pair.as_slice())))
}

/// The target as CONNECT has it, where there can be such a server.
fn target_of(host: Host<'_>, port: u16) -> Option<String> {
    let text = match host {
        Host::Address(address) => std::net::SocketAddr::new(address, port).to_string(),
        Host::Name(name) => {
            let name = std::str::from_utf8(name).ok()?;
            // Some clients write every address as a name.
            let is_v6 = name.parse::<Ipv6Addr>().is_ok();
            if is_v6 { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
        }
    };
    Target::of(text.as_bytes()).filter(|target| target.port == port).map(|it| it.to_string())
}

fn told(fault: Fault, reply: Reply) -> Refusal {
    let mut out = Vec::new();
    socks5::put_reply(&mut out, reply);
    Refusal::Told(fault, out)
}

/// Ends a connection that has asked for nothing that could be done.
fn refuse(request: &mut Talk<'_>, refusal: Refusal) -> Close {
    let (fault, words) = match refusal {
        Refusal::Close(close) => return close,
        Refusal::Fault(fault) => (fault, Vec::new()),
        Refusal::Garbage(_) => (Fault::ClientSocks, Vec::new()),
        Refusal::Told(fault, words) => (fault, words),
    };
    request.head.settle();
    let mut record = Record::begin(request, false);
    record.failed(fault);
    record.write(request);
    say(request, |out| out.extend_from_slice(&words));
    Close::Refused
}

/// Sends a few bytes; a client that does not take them has left.
fn say(request: &Talk<'_>, put: impl FnOnce(&mut Vec<u8>)) {
    let _ = request.peer.worker.outbox.send(request.stream.0, |out| {
        put(out);
        Ok::<_, Infallible>(())
    });
}

/// What SOCKS has for a fault.
fn reply(fault: Fault) -> Reply {
    match fault {
        Fault::ClientForbidden
        | Fault::TargetForbidden
        | Fault::LoginRequired
        | Fault::TooManyLogins
        | Fault::ParentForbids => Reply::NotAllowed,
        Fault::OriginRefused => Reply::Refused,
        Fault::OriginUnreachable | Fault::OriginUnresolved => Reply::HostUnreachable,
        Fault::OriginConnectTimeout | Fault::OriginResolveTimeout => Reply::Expired,
        _ => Reply::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_spelled_as_connect_has_it() {
        let v6: std::net::IpAddr = "::1".parse().unwrap();
        let table = [
            (Host::Name(b"Far.Test."), 443, Some("far.test:443")),
            (Host::Name(b"10.0.0.1"), 80, Some("10.0.0.1:80")),
            (Host::Name(b"::1"), 1, Some("[::1]:1")),
            (Host::Address(v6), 1, Some("[::1]:1")),
            (Host::Address([10, 0, 0, 1].into()), 65535, Some("10.0.0.1:65535")),
            (Host::Name(b"far.test"), 0, None),
            (Host::Name(b"far.test:80"), 443, None),
            (Host::Name(b"a b"), 443, None),
            (Host::Name(b"a\r\nX: y"), 443, None),
            (Host::Name(b"u@a"), 443, None),
            (Host::Name(b"127.1"), 443, None),
            (Host::Name(b"\xff"), 443, None),
        ];
        for (host, port, expected) in table {
            assert_eq!(target_of(host, port).as_deref(), expected, "{host:?}");
        }
    }
}
