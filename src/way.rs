//! Which way a request goes: by a route of the configuration, or as a forward request.
//!
//! In goes a request head; out come a connection to whoever shall answer it, and how the request is
//! written for them. CONNECT has a way of its own, which ends in a tunnel.

use std::borrow::Cow;

use crate::config::HostPolicy;
use crate::connection::Client;
use crate::exchange::{After, Failed};
use crate::fault::Fault;
use crate::forwarding::{self, Forwarded, Hop};
use crate::generation::Generation;
use crate::hooking::{self, Hooking, Instead};
use crate::hooks::Setback;
use crate::http::head::RequestHead;
use crate::http::rewrite::{self, HostRule, RequestRewrite, ResponseRewrite};
use crate::record::Record;
use crate::ring::HeadBuffer;
use crate::route::Route;
use crate::upload::RequestBody;
use crate::upstream::lease::Lease;

/// The way of one request.
pub enum Way {
    Route(Route),
    /// By a route with hooks.
    Hooked(Box<Hooking>),
    Forward(Box<Forwarded>),
}

/// What became of the search for a way.
pub enum Found {
    Way(Way),
    /// The hooks of the route have answered.
    Answered(After),
}

impl Way {
    pub async fn find(
        client: &Client<'_>,
        body: &mut RequestBody,
        record: &mut Record,
    ) -> Result<Found, Fault> {
        if forwarding::is_forward(client) {
            let forwarded = Box::new(Box::pin(Forwarded::judge(client)).await?);
            return Ok(Found::Way(Self::Forward(forwarded)));
        }
        let head = &client.request;
        let text = client.inbox.filled();
        let route = client.generation.routes.find(head.authority.of(text), head.path(text));
        let route = route.ok_or(Fault::NoRoute)?;
        if client.generation.hooks.hooked(route.index).is_some() {
            return Box::pin(hooking::begin(client, route, body, record)).await;
        }
        Ok(Found::Way(Self::Route(route)))
    }

    /// The upstream of a route, by its index in the configuration.
    pub fn upstream(&self) -> Option<usize> {
        match self {
            Self::Route(route) => Some(route.upstream),
            Self::Hooked(hooking) => Some(hooking.upstream),
            Self::Forward(_) => None,
        }
    }

    /// A connection of a plain route that is there without a wait.
    pub fn take_idle(&self, client: &Client<'_>) -> Option<Lease> {
        let Self::Route(route) = self else { return None };
        let upstream = &client.generation.upstreams[route.upstream];
        upstream.take_idle(&client.worker.pool, client.holder)
    }

    /// A connection on which the request can be sent. `is_fresh` asks for one that has carried no
    /// exchange yet.
    pub async fn checkout(&mut self, client: &Client<'_>, is_fresh: bool) -> Result<Lease, Fault> {
        match self {
            Self::Route(route) => {
                let upstream = &client.generation.upstreams[route.upstream];
                upstream.checkout(&client.worker.pool, client.holder, is_fresh).await
            }
            Self::Hooked(hooking) => Box::pin(hooking.checkout(client, is_fresh)).await,
            Self::Forward(forwarded) => Box::pin(forwarded.checkout(client, is_fresh)).await,
        }
    }

    /// What a 407 means: a parent proxy wants a password, which is no client's affair.
    pub fn refuses_us(&self, client: &Client<'_>) -> bool {
        let Self::Forward(forwarded) = self else { return false };
        let Hop::Parent(index) = forwarded.hop() else { return false };
        let parent = forwarding::parent(&client.generation.config, index).name.as_str();
        tracing::warn!(parent, status = 407, "the parent proxy wants other credentials");
        true
    }

    /// The target as it is sent on.
    pub fn sent_path<'t>(&'t self, head: &RequestHead, text: &'t [u8]) -> Cow<'t, [u8]> {
        match self {
            Self::Route(route) => route.sent_path(head.path(text)),
            Self::Hooked(hooking) => hooking.sent_path(head.path(text)),
            Self::Forward(forwarded) => match forwarded.hop() {
                Hop::Direct => Cow::Borrowed(head.path(text)),
                // A proxy is asked as we were (RFC 9112 §3.2.2).
                Hop::Parent(_) => Cow::Borrowed(head.target.of(text)),
            },
        }
    }

    /// How the head is written for whoever is at the other end of `lease`.
    pub fn rewrite<'a>(
        &'a self,
        client: &'a Client<'_>,
        lease: &Lease,
        path: &'a [u8],
    ) -> RequestRewrite<'a> {
        let Generation { config, gate, upstreams, .. } = &*client.generation;
        let via = config.server.via.as_bytes();
        let forwarded = client.forwarded_for();
        let routed = |upstream: usize| {
            let upstream = &upstreams[upstream];
            let origin = upstream.origin(lease.origin()).map(|it| it.authority.as_str());
            let host = host_rule(upstream.host(), &client.request, origin);
            RequestRewrite { path, host, via, forwarded: Some(forwarded), extra: b"" }
        };
        match self {
            Self::Route(route) => routed(route.upstream),
            Self::Hooked(hooking) => routed(hooking.upstream),
            Self::Forward(to) => RequestRewrite {
                path,
                // What the target says takes the place of what Host says (RFC 9112 §3.2.2).
                host: HostRule::Pass,
                via,
                forwarded: config.forward.add_forwarded.then_some(forwarded),
                extra: match to.hop() {
                    Hop::Direct => b"",
                    Hop::Parent(index) => gate.parent_logins[index].as_bytes(),
                },
            },
        }
    }

    /// Appends the request head to send, as `how` says and the route's hooks want it.
    #[inline]
    pub(crate) fn put_request(
        &self,
        client: &Client<'_>,
        how: &RequestRewrite<'_>,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Hooked(hooking) => hooking.put_request(client, how, out),
            Self::Route(_) | Self::Forward(_) => {
                rewrite::request(out, &client.request, client.inbox.filled(), how);
            }
        }
    }

    /// Appends the head of the origin's answer, which `buf` begins with, as the client gets it.
    #[inline]
    pub(crate) fn put_response(
        &self,
        client: &Client<'_>,
        buf: &[u8],
        how: &ResponseRewrite<'_>,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Hooked(hooking) => hooking.put_response(client, buf, how, out),
            Self::Route(_) | Self::Forward(_) => {
                rewrite::response(out, &client.response, buf, how);
            }
        }
    }

    /// Whether the route wants another attempt after `setback`.
    #[inline]
    pub(crate) fn tries_again(&self, client: &Client<'_>, setback: Setback) -> bool {
        matches!(self, Self::Hooked(hooking) if hooking.tries_again(client, setback))
    }

    /// What the route's hooks put in place of the origin's answer, which `buffer` begins with.
    #[inline]
    pub(crate) fn instead(
        &mut self,
        client: &Client<'_>,
        buffer: &HeadBuffer,
        body: &RequestBody,
    ) -> Option<Instead> {
        match self {
            Self::Hooked(hooking) => hooking.instead(client, buffer, body),
            Self::Route(_) | Self::Forward(_) => None,
        }
    }

    /// Does what `instead` has said.
    pub(crate) async fn answer_instead(
        &mut self,
        client: &Client<'_>,
        instead: Instead,
        record: &mut Record,
    ) -> Result<After, Failed> {
        match (self, instead) {
            (Self::Hooked(hooking), Instead::Answer(answer)) => {
                Ok(hooking.answer(client, answer, record).await?)
            }
            _ => Err(Failed::Unwelcome),
        }
    }
}

/// The Host that an origin sees, whose own is `authority`.
pub fn host_rule<'a>(
    policy: &'a HostPolicy,
    head: &RequestHead,
    authority: Option<&'a str>,
) -> HostRule<'a> {
    match policy {
        HostPolicy::Pass if !head.authority.is_empty() => HostRule::Pass,
        HostPolicy::Fixed(host) => HostRule::Set(host.as_bytes()),
        // An HTTP/1.0 request need not name a host, a request to an origin must.
        HostPolicy::Pass | HostPolicy::Origin => {
            authority.map_or(HostRule::Pass, |authority| HostRule::Set(authority.as_bytes()))
        }
    }
}
