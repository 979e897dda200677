//! The forward proxy's side of an exchange: who may ask, for what, and the way there.
//!
//! In goes a request whose target is not ours; out comes a connection to the target, or to the
//! parent proxy that stands before it. Who asks is settled first (`forward.allow_clients`, the
//! password), then the name, then each address that would be dialled; nothing is sent anywhere
//! before all three. Connections are pooled by scheme, host and port, and by user.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::config::{Config, ParentAddress, ParentConfig, ParentScheme};
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::exchange::{login, parents};
use crate::fault::Fault;
use crate::forward_proxy::{Asked, LoginOutcome, Policy, Target, UserId, Verdict};
use crate::http::TargetForm;
use crate::http::head::RequestHead;
use crate::http::names::FieldName;
use crate::http::rewrite::{HostRule, RequestRewrite};
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
pub(crate) fn is_forward(request: &Request<'_, impl ClientStream>) -> bool {
    let Generation { routes, access, .. } = &*request.peer.generation;
    request.peer.is_forward
        && names_another(routes, &access.policy, &request.head, request.inbox.filled())
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
    pub(crate) async fn judge(
        request: &Request<'_, impl ClientStream>,
        record: &mut Record,
    ) -> Result<Self, Fault> {
        let text = request.inbox.filled();
        let head = &request.head;
        // What is asked for in plain text would travel in plain text.
        if !is_plain(head, text) {
            return Err(Fault::SchemeNotOffered);
        }
        let target = target(request)?;
        let (hop, user) = admit(request, &target, false, record).await?;
        let origin_id = hold(request, &target, hop, user);
        Ok(Self { target, user, origin_id, hop })
    }

    /// A connection on which the request can be sent. `is_fresh` asks for one that has carried no
    /// exchange yet.
    pub(crate) async fn checkout(
        &mut self,
        request: &Request<'_, impl ClientStream>,
        is_fresh: bool,
    ) -> Result<Lease, Fault> {
        match (self.open(request, is_fresh).await, self.hop) {
            (Err(fault), Hop::Parent(index) | Hop::Socks(index))
                if may_go_direct(request, index, fault) =>
            {
                self.hop = Hop::Direct;
                self.origin_id = hold(request, &self.target, self.hop, self.user);
                self.open(request, is_fresh).await
            }
            (opened, _) => opened,
        }
    }

    async fn open(
        &self,
        request: &Request<'_, impl ClientStream>,
        is_fresh: bool,
    ) -> Result<Lease, Fault> {
        let pool = &request.peer.worker.pool;
        if !is_fresh
            && let Some(lease) = pool.take_idle(self.origin_id.origin(), request.peer.holder)
        {
            return Ok(lease);
        }
        let (id, holder) = (&self.origin_id, request.peer.holder);
        match self.hop {
            Hop::Direct => {
                let addresses = addresses(request, &self.target, self.asked()).await?;
                upstream::checkout::open_target(pool, id, pool.dial(&addresses), holder, is_fresh)
                    .await
            }
            Hop::Parent(index) => {
                let dialled = parents::dial(&request.peer, index);
                upstream::checkout::open_target(pool, id, dialled, holder, is_fresh).await
            }
            Hop::Socks(index) => {
                let known = known_address(request, &self.target, index, self.asked()).await?;
                let joined = async {
                    let joined = parents::through_socks(&request.peer, &self.target, known, index);
                    let (socket, address, early) = joined.await?;
                    // No server speaks before it is asked.
                    if early.is_empty() { Ok((socket, address)) } else { Err(Fault::OriginAnswer) }
                };
                upstream::checkout::open_target(pool, id, joined, holder, is_fresh).await
            }
        }
    }

    fn asked(&self) -> Asked {
        Asked { user: self.user, is_connect: false }
    }

    /// The number by which the pool knows whom it goes to.
    pub(crate) fn origin(&self) -> usize {
        self.origin_id.origin()
    }

    /// What a 407 means: a parent proxy wants a password.
    pub(crate) fn refuses_us(&self, request: &Request<'_, impl ClientStream>) -> bool {
        let Hop::Parent(index) = self.hop else { return false };
        let parent = parent(&request.peer.generation.config, index).name.as_str();
        tracing::warn!(parent, status = 407, "the parent proxy wants other credentials");
        true
    }

    /// The target as it is sent on.
    pub(crate) fn sent_target<'t>(&self, head: &RequestHead, text: &'t [u8]) -> Cow<'t, [u8]> {
        match self.hop {
            Hop::Direct | Hop::Socks(_) => Cow::Borrowed(head.path(text)),
            // A proxy is asked as we were (RFC 9112 §3.2.2).
            Hop::Parent(_) => head.plain_target(text),
        }
    }

    /// How the head is written for the next hop.
    pub(crate) fn rewrite<'a>(
        &self,
        request: &'a Request<'_, impl ClientStream>,
        path: &'a [u8],
    ) -> RequestRewrite<'a> {
        let Generation { config, access, .. } = &*request.peer.generation;
        let server = &config.server;
        let (host, extra) = match self.hop {
            // What the target says takes the place of what Host says (RFC 9112 §3.2.2).
            Hop::Direct | Hop::Socks(_) => (HostRule::Pass, &b""[..]),
            // As in the target that is sent with it.
            Hop::Parent(index) => {
                let authority = request.head.authority.of(request.inbox.filled());
                (HostRule::Set(authority), access.parent_logins[index].as_bytes())
            }
        };
        RequestRewrite {
            base: b"",
            path,
            host,
            via: server.add_via.holds(true).then_some(server.via.as_bytes()),
            cdn_loop: None,
            length: None,
            passes_trailers: false,
            is_last: request.has_odd_body(),
            forwarded: config.forward.add_forwarded.then_some(request.peer.forwarded_for()),
            extra,
        }
    }
}

/// What the client asks for, where there can be such a server.
pub(crate) fn target(request: &Request<'_, impl ClientStream>) -> Result<Target, Fault> {
    let authority = request.head.authority.of(request.inbox.filled());
    Target::of(authority).ok_or_else(|| {
        request.peer.worker.metrics.denied.add(1);
        let target = String::from_utf8_lossy(authority);
        tracing::info!(%target, rule = %"number", "denied by the forward policy");
        Fault::TargetForbidden
    })
}

/// What the pool knows the connections by.
fn hold(
    request: &Request<'_, impl ClientStream>,
    target: &Target,
    hop: Hop,
    user: Option<UserId>,
) -> OriginId {
    let Generation { config, access, .. } = &*request.peer.generation;
    let mut key = match hop {
        Hop::Direct => format!("http://{target}"),
        Hop::Parent(index) => {
            let mut key = format!("parent {}", parent(config, index).name);
            put_places(&mut key, parent(config, index));
            if let Some(tls) = &access.parent_tls[index] {
                let _ = write!(key, " tls {:x}", tls.identity());
            }
            key
        }
        Hop::Socks(index) => {
            let mut key = format!("http://{target} by {}", parent(config, index).name);
            put_places(&mut key, parent(config, index));
            key
        }
    };
    // The target is the same for every user.
    let group = key.len();
    if let Some(user) = user {
        let _ = write!(key, " user {}.{}", access.logins, user.index());
    }
    let shared = &request.peer.worker.shared.pool;
    request.peer.worker.origin_ids.hold(&key, || shared.group(&key[..group]))
}

fn put_places(key: &mut String, parent: &ParentConfig) {
    for ParentAddress { host, port, .. } in parent.places() {
        let _ = write!(key, " {host}:{port}");
    }
}

/// Whether a parent that could not be reached, for `fault`, may be left out.
pub(crate) fn may_go_direct(
    request: &Request<'_, impl ClientStream>,
    parent: usize,
    fault: Fault,
) -> bool {
    let parent = &request.peer.generation.config.parents[parent];
    let may = parent.direct_fallback && fault.is_origin_local();
    if may {
        tracing::info!(parent = parent.name, error = fault.name(), "going direct");
    }
    may
}

/// Whether the client may have `target`, by which hop, and as whom.
pub(crate) async fn admit(
    request: &Request<'_, impl ClientStream>,
    target: &Target,
    is_connect: bool,
    record: &mut Record,
) -> Result<(Hop, Option<UserId>), Fault> {
    let Generation { config, access, .. } = &*request.peer.generation;
    let client = request.peer.client;
    if !config.forward.allow_clients.has(client) {
        tracing::info!(%client, "denied: not in forward.allow_clients");
        return Err(Fault::ClientForbidden);
    }
    let user = log_in(request).await?;
    if let (Some(authenticator), Some(user)) = (&access.authenticator, user) {
        record.identified(Some(authenticator.name(user).as_bytes()), b"");
    }
    let asked = Asked { user, is_connect };
    let policy = &access.policy;
    let verdict = policy.judge_name(&target.host, target.port, asked);
    judged(request.peer.worker, target, None, verdict)?;
    let hop = policy.parent(&target.host).map_or(Hop::Direct, |index| by_parent(config, index));
    let is_resolved_here = match hop {
        Hop::Direct => true,
        Hop::Parent(_) => false,
        Hop::Socks(index) => parent(config, index).address.scheme == ParentScheme::Socks5,
    };
    if !is_resolved_here {
        // The parent resolves the name: what is not known now will never be.
        let verdict = policy.judge_unresolved(&target.host, target.port, asked);
        judged(request.peer.worker, target, None, verdict)?;
    }
    Ok((hop, user))
}

fn by_parent(config: &Config, index: usize) -> Hop {
    match parent(config, index).address.scheme {
        ParentScheme::Http | ParentScheme::Https => Hop::Parent(index),
        ParentScheme::Socks5 | ParentScheme::Socks5h => Hop::Socks(index),
    }
}

/// Finds out which user asks, where there are users.
async fn log_in(request: &Request<'_, impl ClientStream>) -> Result<Option<UserId>, Fault> {
    let Some(authenticator) = &request.peer.generation.access.authenticator else {
        return Ok(None);
    };
    let field = request.head.fields.only(FieldName::ProxyAuthorization);
    let credentials = field.map(|field| field.value.of(request.inbox.filled()));
    let peer = &request.peer;
    match login::log_in(peer, peer.client, authenticator, credentials).await? {
        LoginOutcome::Known(user) => Ok(Some(user)),
        LoginOutcome::Missing | LoginOutcome::Wrong => Err(Fault::LoginRequired),
        LoginOutcome::TooManyFailures { .. } => Err(Fault::TooManyLogins),
        LoginOutcome::Busy => Err(Fault::LoginsBusy),
    }
}

/// The addresses at which the target may be dialled; never empty.
pub(crate) async fn addresses(
    request: &Request<'_, impl ClientStream>,
    target: &Target,
    asked: Asked,
) -> Result<Vec<SocketAddr>, Fault> {
    let worker = request.peer.worker;
    let access = &request.peer.generation.access;
    let names = access.names.as_ref().ok_or(Fault::Internal)?;
    let found = names.look_up(&target.host, target.port);
    let mut found = request.peer.stats.unless_ended(found).await??;
    let mut denied = None;
    found.retain(|address| {
        let verdict = access.policy.judge_address(&target.host, *address, asked);
        let verdict = judged(worker, target, Some(*address), verdict);
        denied = denied.or(verdict.err());
        verdict.is_ok()
    });
    if found.is_empty() { Err(denied.unwrap_or(Fault::OriginUnresolved)) } else { Ok(found) }
}

/// The address that a SOCKS server is asked for; none where it is asked for a name.
pub(crate) async fn known_address(
    request: &Request<'_, impl ClientStream>,
    target: &Target,
    index: usize,
    asked: Asked,
) -> Result<Option<IpAddr>, Fault> {
    match parent(&request.peer.generation.config, index).address.scheme {
        // Names are resolved here, and what they lead to is judged here.
        ParentScheme::Socks5 => {
            let found = addresses(request, target, asked).await?;
            Ok(found.first().map(SocketAddr::ip))
        }
        ParentScheme::Socks5h | ParentScheme::Http | ParentScheme::Https => {
            Ok(target.address().map(|it| it.ip()))
        }
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
