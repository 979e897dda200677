//! The forward proxy's side of an exchange: who may ask, for what, and the way there.
//!
//! In goes a request whose target is not ours; out comes a connection to the target, or to the
//! parent proxy that stands before it. Who asks is settled first (`forward.allow_clients`, the
//! password), then the name, then each address that would be dialled; nothing is sent anywhere
//! before all three. Connections are pooled by scheme, host and port, and by user.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::config::{Config, ParentAddress, ParentConfig, ParentScheme};
use crate::exchange::parents;
use crate::exchange::request::Client;
use crate::fault::Fault;
use crate::forward_proxy::{Checked, LoginOutcome, Policy, Target, UserId, Verdict};
use crate::http::TargetForm;
use crate::http::head::RequestHead;
use crate::http::names::FieldName;
use crate::routing::Routes;
use crate::upstream;
use crate::upstream::lease::Lease;
use crate::upstream::origin_ids::OriginId;
use crate::worker::Worker;
use crate::worker::generation::Generation;

/// A forward request on its way.
pub(crate) struct ForwardRequest {
    target: Target,
    user: Option<UserId>,
    origin_id: OriginId,
    hop: Hop,
}

/// What stands before the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    Direct,
    /// Index in the configuration.
    Parent(usize),
    /// One that speaks SOCKS: what is sent through it is for the target. Index likewise.
    Socks(usize),
}

/// Whether the request in the inbox asks for something that is not ours.
pub(crate) fn is_forward(client: &Client<'_>) -> bool {
    let Generation { routes, access, .. } = &*client.generation;
    client.is_forward
        && names_another(routes, &access.policy, &client.request, client.inbox.filled())
}

/// Whether the target of `head`, which lies in `text`, names a server that is not ours.
pub(crate) fn names_another(
    routes: &Routes,
    policy: &Policy,
    head: &RequestHead,
    text: &[u8],
) -> bool {
    head.form == TargetForm::Absolute && !is_own(routes, policy, head.authority.of(text))
}

/// Whether `authority` is one of our own: a route names it, or it is the address of a listener.
fn is_own(routes: &Routes, policy: &Policy, authority: &[u8]) -> bool {
    let is_listener = || {
        let address = Target::of(authority).and_then(|target| target.address());
        address.is_some_and(|address| policy.is_own(address.ip(), address.port()))
    };
    routes.names(authority) || is_listener()
}

/// Whether what the target of `head` names is spoken to without TLS.
pub(crate) fn is_plain(head: &RequestHead, text: &[u8]) -> bool {
    starts_with_ignoring_case(head.target.of(text), b"http://")
}

impl ForwardRequest {
    /// Judges an absolute-form request.
    pub(crate) async fn judge(client: &Client<'_>) -> Result<Self, Fault> {
        let text = client.inbox.filled();
        let head = &client.request;
        // What is asked for in plain text would travel in plain text.
        if !is_plain(head, text) {
            return Err(Fault::SchemeNotOffered);
        }
        let target = target(client)?;
        let (hop, user) = admit(client, &target, false).await?;
        let origin_id = hold(client, &target, hop, user);
        Ok(Self { target, user, origin_id, hop })
    }

    /// A connection on which the request can be sent. `is_fresh` asks for one that has carried no
    /// exchange yet.
    pub(crate) async fn checkout(
        &mut self,
        client: &Client<'_>,
        is_fresh: bool,
    ) -> Result<Lease, Fault> {
        match (self.open(client, is_fresh).await, self.hop) {
            (Err(fault), Hop::Parent(index) | Hop::Socks(index))
                if may_go_direct(client, index, fault) =>
            {
                self.hop = Hop::Direct;
                self.origin_id = hold(client, &self.target, self.hop, self.user);
                self.open(client, is_fresh).await
            }
            (opened, _) => opened,
        }
    }

    async fn open(&self, client: &Client<'_>, is_fresh: bool) -> Result<Lease, Fault> {
        let pool = &client.worker.pool;
        if !is_fresh && let Some(lease) = pool.take_idle(self.origin_id.origin(), client.holder) {
            return Ok(lease);
        }
        let (id, holder) = (&self.origin_id, client.holder);
        match self.hop {
            Hop::Direct => {
                let addresses = addresses(client, &self.target, false).await?;
                upstream::open_target(pool, id, pool.dial(&addresses), holder, is_fresh).await
            }
            Hop::Parent(index) => {
                let dialled = parents::dial(client, index);
                upstream::open_target(pool, id, dialled, holder, is_fresh).await
            }
            Hop::Socks(index) => {
                let known = known_address(client, &self.target, index, false).await?;
                let joined = async {
                    let joined = parents::through_socks(client, &self.target, known, index);
                    let (socket, address, early) = joined.await?;
                    // No server speaks before it is asked.
                    if early.is_empty() { Ok((socket, address)) } else { Err(Fault::OriginAnswer) }
                };
                upstream::open_target(pool, id, joined, holder, is_fresh).await
            }
        }
    }

    pub(crate) fn hop(&self) -> Hop {
        self.hop
    }
}

/// What the client asks for, where there can be such a server.
pub(crate) fn target(client: &Client<'_>) -> Result<Target, Fault> {
    let authority = client.request.authority.of(client.inbox.filled());
    Target::of(authority).ok_or_else(|| {
        client.worker.metrics.denied.add(1);
        let target = String::from_utf8_lossy(authority);
        tracing::info!(%target, rule = %"number", "denied by the forward policy");
        Fault::TargetForbidden
    })
}

/// What the pool knows the connections by.
fn hold(client: &Client<'_>, target: &Target, hop: Hop, user: Option<UserId>) -> OriginId {
    let Generation { config, access, .. } = &*client.generation;
    let mut key = match hop {
        Hop::Direct => format!("http://{target}"),
        Hop::Parent(index) => {
            let mut key = format!("parent {}", parent(config, index).name);
            put_places(&mut key, parent(config, index));
            key
        }
        Hop::Socks(index) => {
            let mut key = format!("http://{target} by {}", parent(config, index).name);
            put_places(&mut key, parent(config, index));
            key
        }
    };
    // The target is the same, whoever asks.
    let group = key.len();
    if let Some(user) = user {
        let _ = write!(key, " user {}.{}", access.logins, user.index());
    }
    let shared = &client.worker.shared.pool;
    client.worker.origin_ids.hold(&key, || shared.group(&key[..group]))
}

fn put_places(key: &mut String, parent: &ParentConfig) {
    for ParentAddress { host, port, .. } in parent.places() {
        let _ = write!(key, " {host}:{port}");
    }
}

/// Whether a parent that could not be reached, for `fault`, may be left out.
pub(crate) fn may_go_direct(client: &Client<'_>, parent: usize, fault: Fault) -> bool {
    let parent = &client.generation.config.parents[parent];
    let may = parent.direct_fallback && fault.is_origin_local();
    if may {
        tracing::info!(parent = parent.name, error = fault.name(), "going direct");
    }
    may
}

/// Whether the client may have `target`, by which hop, and as whom.
pub(crate) async fn admit(
    client: &Client<'_>,
    target: &Target,
    is_connect: bool,
) -> Result<(Hop, Option<UserId>), Fault> {
    let Generation { config, access, .. } = &*client.generation;
    if !config.forward.allow_clients.contains(client.peer.ip()) {
        tracing::info!(client = %client.peer.ip(), "denied: not in forward.allow_clients");
        return Err(Fault::ClientForbidden);
    }
    let user = log_in(client).await?;
    let policy = &access.policy;
    let verdict = policy.judge_name(&target.host, target.port, is_connect);
    judged(client.worker, target, None, verdict)?;
    let hop = policy.parent(&target.host).map_or(Hop::Direct, |index| by_parent(config, index));
    let is_resolved_here = match hop {
        Hop::Direct => true,
        Hop::Parent(_) => false,
        Hop::Socks(index) => parent(config, index).address.scheme == ParentScheme::Socks5,
    };
    if !is_resolved_here {
        // The parent resolves the name: what is not known now will never be.
        let verdict = policy.judge_unresolved(&target.host, target.port, is_connect);
        judged(client.worker, target, None, verdict)?;
    }
    Ok((hop, user))
}

fn by_parent(config: &Config, index: usize) -> Hop {
    match parent(config, index).address.scheme {
        ParentScheme::Http => Hop::Parent(index),
        ParentScheme::Socks5 | ParentScheme::Socks5h => Hop::Socks(index),
    }
}

/// Finds out who asks, where anybody is to be asked.
async fn log_in(client: &Client<'_>) -> Result<Option<UserId>, Fault> {
    let worker = client.worker;
    let Some(authenticator) = &client.generation.access.authenticator else { return Ok(None) };
    let fields = &client.request.fields;
    if fields.has_many(FieldName::ProxyAuthorization) {
        return Err(Fault::LoginRequired);
    }
    let Some(field) = fields.find(FieldName::ProxyAuthorization) else {
        return Err(Fault::LoginRequired);
    };
    let credentials = field.value.of(client.inbox.filled());
    let outcome = match authenticator.check(client.peer.ip(), credentials) {
        Checked::Done(outcome) => outcome,
        Checked::Pending(verification) => client.stats.unless_ended(verification.outcome()).await?,
    };
    match outcome {
        LoginOutcome::Known(user) => return Ok(Some(user)),
        LoginOutcome::Wrong => worker.metrics.auth_failures.add(1),
        LoginOutcome::TooManyFailures { .. } => return Err(Fault::TooManyLogins),
        LoginOutcome::Busy => return Err(Fault::LoginsBusy),
    }
    Err(Fault::LoginRequired)
}

/// The addresses at which the target may be dialled; never empty.
pub(crate) async fn addresses(
    client: &Client<'_>,
    target: &Target,
    is_connect: bool,
) -> Result<Vec<SocketAddr>, Fault> {
    let worker = client.worker;
    let access = &client.generation.access;
    let names = access.names.as_ref().ok_or(Fault::Internal)?;
    let found = names.look_up(&target.host, target.port);
    let mut found = client.stats.unless_ended(found).await??;
    let mut denied = None;
    found.retain(|address| {
        let verdict = access.policy.judge_address(&target.host, *address, is_connect);
        let verdict = judged(worker, target, Some(*address), verdict);
        denied = denied.or(verdict.err());
        verdict.is_ok()
    });
    if found.is_empty() { Err(denied.unwrap_or(Fault::OriginUnresolved)) } else { Ok(found) }
}

/// The address that a SOCKS server is asked for; none where it is asked for a name.
pub(crate) async fn known_address(
    client: &Client<'_>,
    target: &Target,
    index: usize,
    is_connect: bool,
) -> Result<Option<IpAddr>, Fault> {
    match parent(&client.generation.config, index).address.scheme {
        // Names are resolved here, and what they lead to is judged here.
        ParentScheme::Socks5 => {
            let found = addresses(client, target, is_connect).await?;
            Ok(found.first().map(SocketAddr::ip))
        }
        ParentScheme::Socks5h | ParentScheme::Http => Ok(target.address().map(|it| it.ip())),
    }
}

/// Says in the log, and there only, which rule it was.
fn judged(
    worker: &Worker,
    target: &Target,
    address: Option<SocketAddr>,
    verdict: Verdict<'_>,
) -> Result<(), Fault> {
    match verdict {
        Verdict::Allowed => Ok(()),
        Verdict::Denied(rule) => {
            worker.metrics.denied.add(1);
            let address = address.map(tracing::field::display);
            tracing::info!(%target, address, %rule, "denied by the forward policy");
            Err(Fault::TargetForbidden)
        }
    }
}

pub(crate) fn parent(config: &Config, index: usize) -> &ParentConfig {
    &config.parents[index]
}

fn starts_with_ignoring_case(text: &[u8], start: &[u8]) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}
