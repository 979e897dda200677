//! Where a request goes: by a route of the configuration, or as a forward request.
//!
//! In goes a request head; out come a connection to the server that shall answer it, and how the
//! request is written for them. CONNECT has a file of its own, and ends in a tunnel.

use std::borrow::Cow;

use crate::exchange::forwarded::{self, ForwardRequest, Hop};
use crate::exchange::hooked::{self, Decided, HookedRequest, ResponseOverride};
use crate::exchange::outcome::Outcome;
use crate::exchange::record::Record;
use crate::exchange::request::Client;
use crate::exchange::upload::RequestBody;
use crate::fault::Fault;
use crate::hooks::RetryTrigger;
use crate::http::head::RequestHead;
use crate::http::rewrite::{self, HostRule, RequestRewrite, ResponseRewrite};
use crate::ring::HeadBuffer;
use crate::routing::Route;
use crate::upstream::h1::AttemptError;
use crate::upstream::host::host_rule;
use crate::upstream::lease::Lease;
use crate::worker::generation::Generation;

/// The destination of one request.
pub(crate) enum Destination {
    Route(Route),
    /// By a route with hooks.
    Hooked(Box<HookedRequest>),
    Forward(Box<ForwardRequest>),
}

/// What became of the search for a destination.
pub(crate) enum Routed {
    To(Destination),
    /// The hooks of the route have answered.
    Answered(Outcome),
}

impl Destination {
    pub(crate) async fn find(
        client: &Client<'_>,
        body: &mut RequestBody,
        record: &mut Record,
    ) -> Result<Routed, Fault> {
        if forwarded::is_forward(client) {
            let forwarded = Box::new(Box::pin(ForwardRequest::judge(client)).await?);
            return Ok(Routed::To(Self::Forward(forwarded)));
        }
        let head = &client.request;
        let text = client.inbox.filled();
        if !client.is_forward
            && let Some(fault) = head.fault_of_server(text)
        {
            return Err(Fault::ClientHead(fault));
        }
        let route = client.generation.routes.find(head.authority.of(text), head.path(text));
        let route = route.ok_or(Fault::NoRoute)?;
        if client.generation.hooks.hooked(route.index).is_some() {
            let decided = Box::pin(hooked::begin(client, route, body, record)).await?;
            return Ok(match decided {
                Decided::GoesOn(hooked) => Routed::To(Self::Hooked(hooked)),
                Decided::Answered(outcome) => Routed::Answered(outcome),
            });
        }
        Ok(Routed::To(Self::Route(route)))
    }

    /// The route, by its index in the configuration.
    pub(crate) fn route(&self) -> Option<u32> {
        match self {
            Self::Route(route) => Some(route.index),
            Self::Hooked(hooked) => Some(hooked.route.index),
            Self::Forward(_) => None,
        }
    }

    /// The upstream of a route, by its index in the configuration.
    pub(crate) fn upstream(&self) -> Option<usize> {
        match self {
            Self::Route(route) => Some(route.upstream),
            Self::Hooked(hooked) => Some(hooked.upstream),
            Self::Forward(_) => None,
        }
    }

    /// A connection of a plain route that is there without a wait.
    pub(crate) fn take_idle(&self, client: &Client<'_>) -> Option<Lease> {
        let Self::Route(route) = self else { return None };
        let upstream = &client.generation.upstreams[route.upstream];
        upstream.take_idle(&client.worker.pool, client.holder)
    }

    /// A connection on which the request can be sent. `is_fresh` asks for one that has carried no
    /// exchange yet.
    pub(crate) async fn checkout(
        &mut self,
        client: &Client<'_>,
        is_fresh: bool,
    ) -> Result<Lease, Fault> {
        match self {
            Self::Route(route) => {
                let upstream = &client.generation.upstreams[route.upstream];
                upstream.checkout(&client.worker.pool, client.holder, is_fresh).await
            }
            Self::Hooked(hooked) => Box::pin(hooked.checkout(client, is_fresh)).await,
            Self::Forward(forwarded) => Box::pin(forwarded.checkout(client, is_fresh)).await,
        }
    }

    /// What a 407 means: a parent proxy wants a password, which is no client's affair.
    pub(crate) fn refuses_us(&self, client: &Client<'_>) -> bool {
        let Self::Forward(forwarded) = self else { return false };
        let Hop::Parent(index) = forwarded.hop() else { return false };
        let parent = forwarded::parent(&client.generation.config, index).name.as_str();
        tracing::warn!(parent, status = 407, "the parent proxy wants other credentials");
        true
    }

    /// The target as it is sent on.
    pub(crate) fn sent_path<'t>(&'t self, head: &RequestHead, text: &'t [u8]) -> Cow<'t, [u8]> {
        match self {
            Self::Route(route) => route.sent_path(head.path(text)),
            Self::Hooked(hooked) => hooked.sent_path(head.path(text)),
            Self::Forward(forwarded) => match forwarded.hop() {
                Hop::Direct | Hop::Socks(_) => Cow::Borrowed(head.path(text)),
                // A proxy is asked as we were (RFC 9112 §3.2.2).
                Hop::Parent(_) => head.plain_target(text),
            },
        }
    }

    /// How the head is written for the server at the other end of `lease`.
    pub(crate) fn rewrite<'a>(
        &'a self,
        client: &'a Client<'_>,
        lease: &Lease,
        path: &'a [u8],
    ) -> RequestRewrite<'a> {
        let Generation { config, access, upstreams, .. } = &*client.generation;
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
            Self::Hooked(hooked) => routed(hooked.upstream),
            Self::Forward(to) => RequestRewrite {
                path,
                // What the target says takes the place of what Host says (RFC 9112 §3.2.2).
                host: match to.hop() {
                    Hop::Direct | Hop::Socks(_) => HostRule::Pass,
                    // As in the target that is sent with it.
                    Hop::Parent(_) => {
                        HostRule::Set(client.request.authority.of(client.inbox.filled()))
                    }
                },
                via,
                forwarded: config.forward.add_forwarded.then_some(forwarded),
                extra: match to.hop() {
                    Hop::Direct | Hop::Socks(_) => b"",
                    Hop::Parent(index) => access.parent_logins[index].as_bytes(),
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
            Self::Hooked(hooked) => hooked.put_request(client, how, out),
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
            Self::Hooked(hooked) => hooked.put_response(client, buf, how, out),
            Self::Route(_) | Self::Forward(_) => {
                rewrite::response(out, &client.response, buf, how);
            }
        }
    }

    /// Whether the route wants another attempt after `trigger`.
    #[inline]
    pub(crate) fn should_retry(&self, client: &Client<'_>, trigger: RetryTrigger) -> bool {
        matches!(self, Self::Hooked(hooked) if hooked.should_retry(client, trigger))
    }

    /// What the route's hooks put in place of the origin's answer, which `buffer` begins with.
    #[inline]
    pub(crate) fn response_override(
        &mut self,
        client: &Client<'_>,
        buffer: &HeadBuffer,
        body: &RequestBody,
    ) -> Option<ResponseOverride> {
        match self {
            Self::Hooked(hooked) => hooked.response_override(client, buffer, body),
            Self::Route(_) | Self::Forward(_) => None,
        }
    }

    /// Does what `response_override` has said.
    pub(crate) async fn apply_override(
        &mut self,
        client: &Client<'_>,
        response_override: ResponseOverride,
        record: &mut Record,
    ) -> Result<Outcome, AttemptError> {
        match (self, response_override) {
            (Self::Hooked(hooked), ResponseOverride::Respond(answer)) => {
                Ok(hooked.answer(client, answer, record).await?)
            }
            _ => Err(AttemptError::RetryRequested),
        }
    }
}
