//! A client that speaks SOCKS5: from its first byte to its tunnel.
//!
//! In goes a connection of a listener of `forward.socks_listeners`; out comes a tunnel, or why the
//! connection ends. What it asks for is put as the CONNECT that it amounts to, so that policy,
//! users, parents, limits, hooks, logs and counts are the same. Each message has to come within
//! `timeouts.client_head`. What is no SOCKS5 is not answered.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use crate::exchange::connect;
use crate::exchange::outcome::Outcome;
use crate::exchange::record::Record;
use crate::exchange::request::Client;
use crate::exchange::tunnel::Tunnel;
use crate::fault::{Close, Fault};
use crate::forward_proxy::{LoginOutcome, Target};
use crate::http::socks5::{self, Host, Method, Parsed, Reply, SocksError};
use crate::observe::connection_stats::Phase;
use crate::ring::{WaitError, clock};
use crate::worker::generation::Generation;

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
pub(super) async fn open(client: &mut Client<'_>) -> Result<Box<Tunnel>, Close> {
    client.stats.enter(Phase::Head, clock::coarse_ms());
    let wish = match listen(client).await {
        Ok(wish) => wish,
        Err(refusal) => return Err(refuse(client, refusal)),
    };
    // What the client has sent behind its request is the target's.
    let early = client.inbox.filled().to_vec();
    let Wish { target, credentials } = wish;
    let mut head = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
    if let Some(credentials) = &credentials {
        head.push_str("Proxy-Authorization: ");
        head.push_str(credentials);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    client.request.reset();
    let limits = client.generation.head_limits;
    let is_head = client.inbox.replace(head.as_bytes())
        && client.request.parse(client.inbox.filled(), &limits) == Ok(true);
    if !is_head {
        return Err(refuse(client, told(Fault::TargetForbidden, Reply::NotAllowed)));
    }
    let mut granted = Vec::new();
    socks5::put_reply(&mut granted, Reply::Succeeded);
    client.is_forward = true;
    let mut record = Record::begin(client, true);
    match connect::run(client, &mut record, &granted).await {
        Ok(Outcome::Tunnel(mut tunnel)) => {
            record.write(client);
            tunnel.to_origin = early;
            Ok(tunnel)
        }
        Ok(Outcome::Close(close)) => Err(close),
        Ok(Outcome::Reuse) => Err(Close::Answered),
        Err(fault) => {
            let fault = client.stats.settle(fault);
            record.failed(fault);
            record.write(client);
            say(client, |out| socks5::put_reply(out, reply(fault)));
            Err(Close::Refused)
        }
    }
}

/// Reads all that comes before a tunnel.
async fn listen(client: &mut Client<'_>) -> Result<Wish, Refusal> {
    let offer = read(client, socks5::offer).await?;
    let Generation { config, access, .. } = &*client.generation.clone();
    let unacceptable = |fault| {
        let mut out = Vec::new();
        socks5::put_method(&mut out, None);
        Refusal::Told(fault, out)
    };
    if !config.forward.allow_clients.contains(client.peer.ip()) {
        tracing::info!(client = %client.peer.ip(), "denied: not in forward.allow_clients");
        return Err(unacceptable(Fault::ClientForbidden));
    }
    let method = match (access.authenticator.is_some(), offer) {
        (true, offer) if offer.login => Method::Login,
        (false, offer) if offer.nothing => Method::Nothing,
        // Nobody is asked, and some clients offer nothing else.
        (false, offer) if offer.login => Method::Login,
        _ => return Err(unacceptable(Fault::LoginRequired)),
    };
    say(client, |out| socks5::put_method(out, Some(method)));
    let mut credentials = None;
    if method == Method::Login {
        let field = read(client, |bytes| {
            let login = socks5::login(bytes)?;
            Ok(login.map(|(login, length)| (field_of(&login), length)))
        });
        let field = field.await?;
        let known = log_in(client, field.as_ref()).await;
        let is_known = known.is_ok();
        let mut out = Vec::new();
        socks5::put_login_outcome(&mut out, is_known);
        if let Err(fault) = known {
            return Err(Refusal::Told(fault, out));
        }
        say(client, |all| all.extend_from_slice(&out));
        credentials = field;
    }
    let asked = read(client, |bytes| {
        let request = socks5::request(bytes)?;
        Ok(request.map(|(request, length)| {
            ((request.is_connect, target_of(request.host, request.port)), length)
        }))
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
async fn read<T>(
    client: &mut Client<'_>,
    parse: impl Fn(&[u8]) -> Parsed<T>,
) -> Result<T, Refusal> {
    let deadline = Instant::now() + client.generation.config.timeouts.client_head;
    loop {
        match parse(client.inbox.filled()) {
            Ok(Some((message, length))) => {
                client.inbox.consume(length);
                return Ok(message);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(client = %client.peer, reason = error.text(), "no SOCKS5");
                return Err(Refusal::Garbage(error));
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            return Err(Fault::ClientHeadTimeout.into());
        }
        let most = client.inbox.capacity();
        client.inbox.make_room(most).map_err(|_| Refusal::Garbage(SocksError::Malformed))?;
        let inbox = std::mem::take(&mut client.inbox);
        let (received, inbox) = client.socket.recv(inbox, &client.worker.deadlines, left).await;
        client.inbox = inbox;
        match received {
            Ok(0) if client.inbox.is_empty() => return Err(Refusal::Close(Close::ClientDone)),
            Ok(0) | Err(WaitError::Failed(_)) => return Err(Refusal::Close(Close::ClientGone)),
            Err(WaitError::Expired) => return Err(Fault::ClientHeadTimeout.into()),
            Err(WaitError::Interrupted) if client.stats.is_cut() => {
                return Err(Refusal::Close(Close::Cut));
            }
            Err(WaitError::Interrupted) if client.slot.gives_way() => {
                return Err(Refusal::Close(Close::GaveWay));
            }
            Err(WaitError::Interrupted) if client.worker.closes_idle.get() => {
                return Err(Refusal::Close(Close::Stopping));
            }
            Ok(_) | Err(WaitError::Interrupted) => {}
        }
    }
}

/// Whether the client is who it says. Where nobody is asked, it may say what it likes.
async fn log_in(client: &Client<'_>, field: Option<&Zeroizing<String>>) -> Result<(), Fault> {
    let generation = client.generation.clone();
    let Some(authenticator) = &generation.access.authenticator else { return Ok(()) };
    let field = field.map_or("", |field| field.as_str());
    let checked = authenticator.check(client.peer.ip(), field.as_bytes());
    match client.stats.unless_ended(checked.outcome()).await? {
        LoginOutcome::Known(_) => Ok(()),
        LoginOutcome::Wrong => {
            client.worker.metrics.auth_failures.add(1);
            Err(Fault::LoginRequired)
        }
        LoginOutcome::TooManyFailures { .. } => Err(Fault::TooManyLogins),
        LoginOutcome::Busy => Err(Fault::LoginsBusy),
    }
}

/// The same as a field of CONNECT has it. A name with a colon is nobody's.
fn field_of(login: &socks5::Login<'_>) -> Option<Zeroizing<String>> {
    let pair = Zeroizing::new([login.user, b":", login.password].concat());
    let is_name = !login.user.contains(&b':');
    is_name.then(|| Zeroizing::new(format!("Basic {}", BASE64.encode(pair.as_slice()))))
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
fn refuse(client: &mut Client<'_>, refusal: Refusal) -> Close {
    let (fault, words) = match refusal {
        Refusal::Close(close) => return close,
        Refusal::Fault(fault) => (fault, Vec::new()),
        Refusal::Garbage(_) => (Fault::ClientSocks, Vec::new()),
        Refusal::Told(fault, words) => (fault, words),
    };
    client.request.settle();
    let mut record = Record::begin(client, false);
    record.failed(fault);
    record.write(client);
    say(client, |out| out.extend_from_slice(&words));
    Close::Refused
}

/// Sends a few bytes; a client that does not take them has left.
fn say(client: &Client<'_>, put: impl FnOnce(&mut Vec<u8>)) {
    let _ = client.worker.outbox.send(client.socket, |out| {
        put(out);
        Ok::<_, std::convert::Infallible>(())
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
