//! Where a request goes: by a route of the configuration, or as a forward request.
//!
//! In goes a request head; out come a connection to the server that shall answer it, and how the
//! request is written for them. CONNECT has a file of its own, and ends in a tunnel.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::exchange::forwarded::{self, ForwardRequest};
use crate::exchange::hooked::{self, Decided, HookedRequest, ResponseOverride};
use crate::exchange::outcome::Outcome;
use crate::exchange::peer::Peer;
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::seen::SeenOtherwise;
use crate::exchange::stream::ClientStream;
use crate::exchange::upload::RequestBody;
use crate::exchange::wanted::wanted;
use crate::fault::Fault;
use crate::hooks::{Hedged, RetryTrigger};
use crate::http::head::RequestHead;
use crate::http::rewrite::{self, ForwardedFor, RequestRewrite, ResponseRewrite};
use crate::proxy_protocol::Version;
use crate::ring::HeadBuffer;
use crate::routing::{Asked, Route};
use crate::upstream::h1::AttemptError;
use crate::upstream::host::host_rule;
use crate::upstream::lease::Lease;
use crate::upstream::{Origin, Traits, Upstream, Wanted, Who};
use crate::worker::generation::Generation;

/// The destination of one request.
pub(crate) struct Destination {
    to: To,
    /// What the hooks of its route have decided, and what they have to say on the way.
    pub(crate) hooks: Option<Box<HookedRequest>>,
}

/// Who shall answer.
enum To {
    /// The upstream of a route or, where its hooks have chosen another one, that: by its index in
    /// the configuration.
    Upstream(Route, usize),
    /// What the target of a forward request names.
    Target(Box<ForwardRequest>),
}

/// What became of the search for a destination.
pub(crate) enum Routed {
    To(Destination),
    /// The hooks of the route have answered.
    Answered(Outcome),
}

/// By what a request gets its destination.
pub(crate) enum Way {
    /// A route without hooks: most requests, and nothing is awaited.
    Plain(Route),
    Hooked(Route),
    /// None: it asks for something that is not ours.
    Forward,
}

impl Way {
    #[inline]
    pub(crate) fn of(request: &Request<'_, impl ClientStream>) -> Result<Self, Fault> {
        if forwarded::is_forward(request) {
            return Ok(Self::Forward);
        }
        let (head, text) = (&request.head, request.inbox.filled());
        if !request.peer.is_forward
            && let Some(fault) = head.fault_of_server(text)
        {
            return Err(Fault::ClientHead(fault));
        }
        let Generation { routes, hooks, .. } = &*request.peer.generation;
        let route = match routes.only() {
            Some(only) => only,
            None => routes.choose(&Asked { head, text, client: request.peer.client })?,
        };
        let is_hooked = hooks.hooked(route.index).is_some();
        Ok(if is_hooked { Self::Hooked(route) } else { Self::Plain(route) })
    }

    /// Where it leads.
    pub(crate) async fn find(
        self,
        request: &Request<'_, impl ClientStream>,
        body: &mut RequestBody,
        record: &mut Record,
    ) -> Result<Routed, Fault> {
        let route = match self {
            Self::Plain(route) => return Ok(Routed::To(Destination::plain(route))),
            Self::Hooked(route) => route,
            Self::Forward => {
                let forwarded = Box::new(ForwardRequest::judge(request, record).await?);
                return Ok(Routed::To(Destination { to: To::Target(forwarded), hooks: None }));
            }
        };
        Ok(match hooked::begin(request, route, body, record).await? {
            Decided::GoesOn(hooked) => {
                let to = To::Upstream(route, hooked.upstream);
                Routed::To(Destination { to, hooks: Some(hooked) })
            }
            Decided::Answered(outcome) => Routed::Answered(outcome),
        })
    }
}

impl Destination {
    /// That of a route without hooks.
    #[inline]
    pub(crate) fn plain(route: Route) -> Self {
        Self { to: To::Upstream(route, route.upstream), hooks: None }
    }

    /// Whether what is sent on depends on nothing but what was received and the configuration.
    pub(crate) fn is_plain(&self) -> bool {
        self.hooks.is_none() && matches!(self.to, To::Upstream(..))
    }

    /// The route and its upstream, by their indexes in the configuration.
    pub(crate) fn indexes(&self) -> (Option<u32>, Option<usize>) {
        match &self.to {
            To::Upstream(route, upstream) => (Some(route.index), Some(*upstream)),
            To::Target(_) => (None, None),
        }
    }

    /// What is known of those who may answer.
    pub(crate) fn traits<S>(&self, request: &Request<'_, S>) -> Traits {
        self.upstream(request).map(|upstream| upstream.traits).unwrap_or_default()
    }

    pub(super) fn upstream<'r, S>(&self, request: &'r Request<'_, S>) -> Option<&'r Upstream> {
        match self.to {
            To::Upstream(_, upstream) => Some(&request.peer.generation.upstreams[upstream]),
            To::Target(_) => None,
        }
    }

    /// A connection that is there without a wait.
    #[inline]
    pub(crate) fn take_at_rest(&self, request: &Request<'_, impl ClientStream>) -> Option<Lease> {
        self.take_own(request).or_else(|| self.take_idle(request))
    }

    /// A connection on which the client itself has logged in.
    #[inline]
    fn take_own<S>(&self, request: &Request<'_, S>) -> Option<Lease> {
        let Peer { worker, generation, holder, .. } = &request.peer;
        if !worker.pool.has_bonds() {
            return None;
        }
        worker.pool.take_own(*holder, |origin| match &self.to {
            To::Upstream(_, upstream) => generation.upstreams[*upstream].has(origin),
            To::Target(forwarded) => forwarded.origin() == origin,
        })
    }

    /// A connection of a plain route.
    #[inline]
    fn take_idle(&self, request: &Request<'_, impl ClientStream>) -> Option<Lease> {
        let (To::Upstream(_, upstream), None) = (&self.to, &self.hooks) else { return None };
        let Peer { worker, generation, holder, .. } = &request.peer;
        let upstream = &generation.upstreams[*upstream];
        if request.head.is_upgrade && upstream.may_speak_http2() {
            return None;
        }
        upstream.take_idle(&worker.pool, *holder, || wanted(request, upstream))
    }

    /// A connection on which the request can be sent. `is_fresh` asks for one that has carried no
    /// exchange yet.
    pub(crate) async fn checkout(
        &mut self,
        request: &Request<'_, impl ClientStream>,
        is_fresh: bool,
    ) -> Result<Lease, Fault> {
        if let Some(hooks) = &mut self.hooks
            && let Some(early) = hooks.begin_attempt(is_fresh)
        {
            return early;
        }
        match &mut self.to {
            To::Upstream(_, upstream) => {
                let Peer { worker, generation, holder, .. } = &request.peer;
                let upstream = &generation.upstreams[*upstream];
                let introduction = request.peer.introduction(upstream);
                let times = &request.peer.times;
                let who = Who { holder: *holder, introduction: &introduction, times };
                let wanted = Wanted { is_fresh, ..wanted(request, upstream) };
                upstream.checkout(&worker.pool, who, wanted).await
            }
            To::Target(forwarded) => Box::pin(forwarded.checkout(request, is_fresh)).await,
        }
    }

    /// The origin with the number `number` has ended a new connection before it answered. Whether
    /// another one can be asked.
    #[cold]
    pub(crate) fn failed<S>(&self, request: &Request<'_, S>, number: usize) -> bool {
        self.upstream(request).is_some_and(|upstream| upstream.failed(number))
    }

    /// A new connection to another target than those in `but`, or to one of them where nobody else
    /// may be asked, unless it `needs_other`.
    pub(crate) async fn checkout_other(
        &mut self,
        request: &Request<'_, impl ClientStream>,
        (but, needs_other): (&[usize], bool),
    ) -> Result<Lease, Fault> {
        if let Some(hooks) = &mut self.hooks {
            hooks.begin_attempt(true);
        }
        let upstream = self.upstream(request).ok_or(Fault::OriginClosed)?;
        let Peer { worker, holder, .. } = &request.peer;
        let introduction = request.peer.introduction(upstream);
        let times = &request.peer.times;
        let who = Who { holder: *holder, introduction: &introduction, times };
        let wanted = Wanted { is_fresh: true, but, needs_other, ..wanted(request, upstream) };
        upstream.checkout(&worker.pool, who, wanted).await
    }

    /// Whether the route has requests repeated that may do again what they have done.
    #[inline]
    pub(crate) fn repeats_all(&self) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| hooks.repeats_all())
    }

    /// The upstream, if it wants to know how exchanges end.
    pub(crate) fn listener<'r, S>(&self, request: &'r Request<'_, S>) -> Option<&'r Upstream> {
        self.upstream(request).filter(|upstream| upstream.listens())
    }

    /// Whether the time to the head of its answer is of use.
    #[inline]
    pub(crate) fn is_timed<S>(&self, request: &Request<'_, S>) -> bool {
        self.listener(request).is_some()
            || self.hooks.as_ref().is_some_and(|hooks| hooks.hedging().is_some())
    }

    /// Whose failure the one of an attempt is that was begun with the origin with the number
    /// `begun`, on a new connection or not: another one may have taken over.
    #[cold]
    pub(crate) fn failing(&self, begun: (bool, usize)) -> (bool, usize) {
        let winner = self.hooks.as_ref().and_then(|hooks| hooks.winner);
        winner.map_or(begun, |(origin, is_new)| (is_new, origin))
    }

    /// The origin at the other end of `lease` has answered after `us` microseconds.
    pub(crate) fn answered<S>(&self, request: &Request<'_, S>, lease: &Lease, us: u64) {
        if let Some(hooks) = &self.hooks
            && hooks.hedged != Some(Hedged::Won)
            && let Some(hedging) = hooks.hedging()
        {
            hedging.learn(hooks.upstream, Duration::from_micros(us));
        }
        if let Some(upstream) = self.listener(request) {
            lease.measured(u32::try_from(us).unwrap_or(u32::MAX));
            upstream.hear(lease.origin(), request.response.status < 500);
        }
    }

    /// How long the first attempt is waited for alone, where there may be a second one beside it.
    #[inline]
    pub(crate) fn hedge_after<S>(&self, request: &Request<'_, S>) -> Option<Duration> {
        self.hooks.as_ref()?.hedge_after(request)
    }

    /// What a 407 means: a parent proxy wants a password, which is no client's affair.
    pub(crate) fn refuses_us(&self, request: &Request<'_, impl ClientStream>) -> bool {
        matches!(&self.to, To::Target(forwarded) if forwarded.refuses_us(request))
    }

    /// How much of a request, and of an answer, its route buffers.
    pub(crate) fn buffers<S>(&self, request: &Request<'_, S>) -> (u64, u64) {
        let (Some(route), _) = self.indexes() else { return (0, 0) };
        let routes = &request.peer.generation.config.routes;
        let route = routes.get(route as usize);
        route.map_or((0, 0), |route| (route.buffer_requests, route.buffer_responses))
    }

    /// The target as it is sent on.
    pub(crate) fn sent_path<'t>(&'t self, head: &RequestHead, text: &'t [u8]) -> Cow<'t, [u8]> {
        match (&self.to, &self.hooks) {
            (_, Some(hooks)) => hooks.sent_path(head.path(text)),
            (To::Upstream(route, _), None) => route.sent_path(head.path(text)),
            (To::Target(forwarded), None) => forwarded.sent_target(head, text),
        }
    }

    /// How a connection to the upstream says whose request it carries, if it does and has not done
    /// so already.
    #[inline]
    pub(crate) fn proxy_protocol(
        &self,
        request: &Request<'_, impl ClientStream>,
        lease: &Lease,
    ) -> Option<Version> {
        match &self.to {
            To::Upstream(_, upstream) => {
                let version = request.peer.generation.upstreams[*upstream].proxy_protocol()?;
                lease.socket().is_plain().then_some(version)
            }
            To::Target(_) => None,
        }
    }

    /// The number of the origin at the other end of `lease`, where the head depends on that.
    #[inline]
    pub(crate) fn origin_number<S>(
        &self,
        request: &Request<'_, S>,
        lease: &Lease,
    ) -> Option<usize> {
        let upstream = self.upstream(request)?;
        // A request of HTTP/1.0 need not have a Host.
        let asks = upstream.traits.differ || request.head.authority.is_empty();
        asks.then(|| lease.origin())
    }

    /// That origin.
    #[inline]
    pub(crate) fn origin<S>(&self, request: &Request<'_, S>, lease: &Lease) -> Option<Arc<Origin>> {
        self.origin_number(request, lease)?;
        lease.whose()
    }

    /// How the head is written for `origin`, which is the server at the other end, where the head
    /// depends on that.
    pub(crate) fn rewrite<'a>(
        &'a self,
        request: &'a Request<'_, impl ClientStream>,
        origin: Option<&'a Origin>,
        path: &'a [u8],
    ) -> RequestRewrite<'a> {
        let config = &request.peer.generation.config;
        let (upstream, prefix) = match &self.to {
            To::Upstream(route, upstream) => {
                let prefix = config.routes[route.index as usize].cut_prefix();
                (&*request.peer.generation.upstreams[*upstream], prefix.as_bytes())
            }
            To::Target(forwarded) => return forwarded.rewrite(request, path),
        };
        let server = &config.server;
        RequestRewrite {
            path,
            base: origin.map_or(b"", |origin| origin.base.as_bytes()),
            host: host_rule(upstream.host(), &request.head, origin.map(|it| &*it.authority)),
            via: server.add_via.holds(false).then_some(server.via.as_bytes()),
            cdn_loop: Some(server.via.as_bytes()),
            length: None,
            passes_trailers: upstream.traits.reads_trailers,
            is_last: request.has_odd_body() && !upstream.traits.reads_all_bodies,
            forwarded: Some(ForwardedFor { prefix, ..request.peer.forwarded_for() }),
            extra: b"",
        }
    }

    /// Appends the request head to send, as `how` says and the route's hooks want it.
    #[inline]
    pub(crate) fn put_request(
        &self,
        request: &Request<'_, impl ClientStream>,
        how: &RequestRewrite<'_>,
        out: &mut Vec<u8>,
    ) {
        match &self.hooks {
            Some(hooks) => hooks.put_request(request, how, out),
            None => rewrite::request(out, &request.head, request.inbox.filled(), how),
        }
    }

    /// Appends the head of the origin's answer, which `buf` begins with, as the client gets it.
    #[inline]
    pub(crate) fn put_response(
        &self,
        request: &Request<'_, impl ClientStream>,
        buf: &[u8],
        how: &ResponseRewrite<'_>,
        out: &mut Vec<u8>,
    ) {
        match &self.hooks {
            Some(hooks) => hooks.put_response(request, buf, how, out),
            None => rewrite::response(out, &request.response, buf, how),
        }
    }

    /// What the client sees of the answer on `lease`, whose head `buf` begins with, otherwise than
    /// it says; mostly nothing.
    #[inline]
    pub(crate) fn seen<S>(
        &self,
        request: &Request<'_, S>,
        lease: &Lease,
        buf: &[u8],
    ) -> Option<Box<SeenOtherwise>> {
        let To::Upstream(route, upstream) = &self.to else { return None };
        let upstream = &*request.peer.generation.upstreams[*upstream];
        let traits = upstream.traits;
        traits.are_seen.then(|| Box::new(SeenOtherwise::of(request, route, upstream, (lease, buf))))
    }

    /// Our name in the Via of an answer, if it is to be said.
    #[inline]
    pub(crate) fn response_via<'r, S>(&self, request: &'r Request<'_, S>) -> Option<&'r [u8]> {
        let server = &request.peer.generation.config.server;
        let is_forward = matches!(self.to, To::Target(_));
        server.add_via.holds(is_forward).then_some(server.via.as_bytes())
    }

    /// Whether the connection that carried the request may carry another one as far as its body is
    /// concerned.
    ///
    /// Nothing that an origin says in HTTP/1 shows that it reads the body of a GET: some send `100
    /// Continue` to whoever expects that and leave the body unread (wsgiref, http.server), and what
    /// the handler of one path has read says nothing of the next one. HTTP/2 shows it, because
    /// there a body ends with its stream, read or not.
    #[inline]
    pub(crate) fn reads_body<S>(&self, request: &Request<'_, S>, lease: &Lease) -> bool {
        !request.has_odd_body() || lease.socket().is_lane() || self.traits(request).reads_all_bodies
    }

    /// Whether the route wants another attempt after `trigger`.
    #[inline]
    pub(crate) fn should_retry(
        &self,
        request: &Request<'_, impl ClientStream>,
        trigger: RetryTrigger,
    ) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| hooks.should_retry(request, trigger))
    }

    /// What the route's hooks put in place of the origin's answer, which `buffer` begins with.
    #[inline]
    pub(crate) fn response_override(
        &mut self,
        request: &Request<'_, impl ClientStream>,
        buffer: &HeadBuffer,
        body: &RequestBody,
    ) -> Option<ResponseOverride> {
        self.hooks.as_mut()?.response_override(request, buffer, body)
    }

    /// Does what `response_override` has said.
    pub(crate) async fn apply_override(
        &mut self,
        request: &Request<'_, impl ClientStream>,
        response_override: Box<ResponseOverride>,
        record: &mut Record,
    ) -> Result<Outcome, AttemptError> {
        match (&mut self.hooks, *response_override) {
            (Some(hooks), ResponseOverride::Respond(answer)) => {
                Ok(hooks.answer(request, answer, record).await?)
            }
            _ => Err(AttemptError::RetryRequested),
        }
    }
}
