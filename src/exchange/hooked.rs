//! A request of a route with hooks: what they decide before it goes on, and on its way.
//!
//! In goes a request whose route has a plan; out comes its destination, or the answer that it was
//! given here. What has to be waited for is waited for here: a password, a question to an upstream,
//! a hook in Rust; a connection to the route's upstream is looked for meanwhile. No request of a
//! route without hooks ever gets here.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::exchange::logged_in::brings_login;
use crate::exchange::outcome::Outcome;
use crate::exchange::record::Record;
use crate::exchange::request::Request;
use crate::exchange::stream::ClientStream;
use crate::exchange::upload::RequestBody;
use crate::exchange::wanted::wanted;
use crate::exchange::{auth_request, login, mirror, respond};
use crate::fault::Fault;
use crate::forward_proxy::Target;
use crate::hooks::custom::{Changes, Connect, Failure, Response};
use crate::hooks::style::ResponseStyle;
use crate::hooks::{
    AuthDecision, Choice, Hedged, Hedging, HookState, Hooked, LocalResponse, RequestView, Retry,
    RetryTrigger,
};
use crate::http::rewrite::{RequestRewrite, ResponseRewrite};
use crate::http::{Method, grpc};
use crate::ring::{HeadBuffer, clock};
use crate::routing::Route;
use crate::upstream::Who;
use crate::upstream::h1::First;
use crate::upstream::lease::Lease;
use crate::worker::generation::Generation;

/// A request with hooks on its way.
pub(crate) struct HookedRequest {
    generation: Rc<Generation>,
    route: Route,
    /// The one that was chosen, by its index in the configuration.
    pub(crate) upstream: usize,
    state: HookState,
    now_us: u64,
    /// Attempts that have been begun.
    attempts: u32,
    /// The connection that was looked for while something else was waited for.
    early: Option<Result<Lease, Fault>>,
    /// What has come of the answer while two attempts were under way.
    pub(super) first: Option<First>,
    /// There has been a second attempt beside the first, and what became of it.
    pub(super) hedged: Option<Hedged>,
    /// Whose answer it is where that was the better one, and whether its connection was new.
    pub(super) winner: Option<(usize, bool)>,
}

/// What hooks have decided about a request.
pub(crate) enum Decided {
    GoesOn(Box<HookedRequest>),
    Answered(Outcome),
}

/// What comes in place of an origin's answer.
pub(crate) enum ResponseOverride {
    /// Another attempt.
    Retry,
    Respond(LocalResponse<'static>),
}

/// Runs the hooks of a request that `route` takes.
pub(crate) async fn begin(
    request: &Request<'_, impl ClientStream>,
    route: Route,
    body: &mut RequestBody,
    record: &mut Record,
) -> Result<Decided, Fault> {
    record.routed(&route);
    request.peer.worker.metrics.hooked.add(1);
    let mut hooked = Box::new(HookedRequest {
        generation: request.peer.generation.clone(),
        route,
        upstream: route.upstream,
        state: HookState::default(),
        now_us: clock::precise_us(),
        attempts: 0,
        early: None,
        first: None,
        hedged: None,
        winner: None,
    });
    body.bytes_max = hooked.body_bytes_max();
    let decided = hooked.decide(request, body).await;
    record.permits = std::mem::take(&mut hooked.state.permits);
    record.identified(plan(&hooked.generation, route).user(&hooked.state), hooked.state.id());
    match decided {
        Ok(None) => {
            hooked.mirror(request, body);
            Ok(Decided::GoesOn(hooked))
        }
        Ok(Some(answer)) => hooked.answer(request, answer, record).await.map(Decided::Answered),
        Err(fault) => Ok(Decided::Answered(refuse(request, &mut hooked, fault, record).await)),
    }
}

/// Asks the hooks that hold for everybody about a request that is meant for ringway itself; what
/// they have answered, if they have.
pub(crate) async fn guard_own(
    request: &Request<'_, impl ClientStream>,
    record: &mut Record,
) -> Result<Option<Outcome>, Fault> {
    let generation = request.peer.generation.clone();
    let Some(plan) = generation.hooks.own() else { return Ok(None) };
    let view = view(request, clock::precise_us());
    let mut state = HookState::default();
    let judged = judge_own(request, plan, &view, &mut state).await;
    record.permits = std::mem::take(&mut state.permits);
    record.identified(plan.user(&state), state.id());
    let Some(answer) = judged? else { return Ok(None) };
    state.status = answer.status.code;
    if answer.status.code == 429 {
        request.peer.worker.metrics.limited.add(1);
    }
    let style = ResponseStyle::new(plan, view, &state, &answer);
    respond::give(request, &answer, Some(&style), record).await.map(Some)
}

async fn judge_own(
    request: &Request<'_, impl ClientStream>,
    plan: &Hooked,
    view: &RequestView<'_>,
    state: &mut HookState,
) -> Result<Option<LocalResponse<'static>>, Fault> {
    if let Some(answer) = plan.enter(view, state) {
        return Ok(Some(answer));
    }
    if let Some(login) = &plan.login
        && let Some(answer) = login::at_route(&request.peer, login, view, state).await?
    {
        return Ok(Some(answer));
    }
    ask(request, plan, view, state, &Notify::new()).await
}

/// Tells the client what went wrong on a route with hooks.
pub(crate) async fn refuse(
    request: &Request<'_, impl ClientStream>,
    hooked: &mut HookedRequest,
    fault: Fault,
    record: &mut Record,
) -> Outcome {
    let generation = hooked.generation.clone();
    let Some(status) = fault.status(request.peer.times.pool_status.code()) else {
        record.failed(fault);
        return Outcome::CutShort(fault);
    };
    hooked.state.status = status.code;
    let plan = plan(&generation, hooked.route);
    let failure = Failure { status: status.code, error: fault.name() };
    let own = plan.custom.iter().find_map(|custom| custom.on_error(&failure));
    let style = ResponseStyle {
        plan,
        view: view(request, hooked.now_us),
        state: &hooked.state,
        page: own.or_else(|| plan.page(status.code)),
    };
    respond::refuse_as(request, fault, record, Some(&style)).await
}

fn plan(generation: &Generation, route: Route) -> &Hooked {
    generation
        .hooks
        .hooked(route.index)
        .expect("a destination with hooks comes from a route with a plan")
}

fn view<'a>(request: &'a Request<'_, impl ClientStream>, now_us: u64) -> RequestView<'a> {
    RequestView {
        head: &request.head,
        text: request.inbox.filled(),
        client: request.peer.client,
        client_text: request.peer.client_text(),
        is_trusted: request.peer.is_trusted,
        tls: request.peer.tls(),
        now_us,
    }
}

/// Asks the hooks in Rust about a tunnel; what they have answered, if they have.
pub(crate) async fn judge_tunnel(
    request: &Request<'_, impl ClientStream>,
    target: &Target,
    record: &mut Record,
) -> Result<Option<Outcome>, Fault> {
    let client = request.peer.client.ip();
    let asked = Connect { client, host: &target.host, port: target.port };
    for custom in &request.peer.generation.hooks.connect {
        if let Some(answer) = request.peer.stats.unless_ended(custom.on_connect(&asked)).await? {
            return respond::give(request, &answer, None, record).await.map(Some);
        }
    }
    Ok(None)
}

// Before the request goes on.
impl HookedRequest {
    /// An answer, or nothing where the request goes on.
    async fn decide(
        &mut self,
        request: &Request<'_, impl ClientStream>,
        body: &RequestBody,
    ) -> Result<Option<LocalResponse<'static>>, Fault> {
        let generation = self.generation.clone();
        let plan = plan(&generation, self.route);
        let view = view(request, self.now_us);
        if let Some(answer) = plan.enter(&view, &mut self.state) {
            return Ok(Some(answer));
        }
        // A body in chunks says its length bit by bit.
        if body.payload_bytes() > body.bytes_max {
            return Err(Fault::ClientBodyTooLarge);
        }
        if let Some(login) = &plan.login
            && let Some(answer) =
                login::at_route(&request.peer, login, &view, &mut self.state).await?
        {
            return Ok(Some(answer));
        }
        let target = self.route.sent_path(view.path_and_query());
        let choice = plan.choose(&target, &view, &mut self.state);
        if let Choice::Upstream(upstream) = choice {
            self.upstream = upstream;
        }
        if plan.auth_request.is_some() || !plan.custom.is_empty() {
            // A body that is still to come is waited for first.
            let needs_connection = matches!(choice, Choice::Upstream(_)) && body.is_whole();
            let asked = Box::pin(self.ask_all(request, plan, &view, needs_connection)).await?;
            if asked.is_some() {
                return Ok(asked);
            }
        }
        Ok(match choice {
            Choice::Respond(answer) => Some(answer.into_owned()),
            Choice::Upstream(_) => None,
        })
    }

    /// Asks the upstream of `forward_auth` and the hooks in Rust, and looks for a connection
    /// meanwhile.
    ///
    /// A question comes first: where requests that hold a connection wait for another one, all of
    /// `pool.max_connections` may be in the hands of requests that wait. And a client that is
    /// refused is told at once, however long an origin takes to be reached.
    async fn ask_all(
        &mut self,
        request: &Request<'_, impl ClientStream>,
        plan: &Hooked,
        view: &RequestView<'_>,
        needs_connection: bool,
    ) -> Result<Option<LocalResponse<'static>>, Fault> {
        let may_look = Notify::new();
        let mut asking = std::pin::pin!(ask(request, plan, view, &mut self.state, &may_look));
        if !needs_connection {
            return asking.await;
        }
        let upstream = &self.generation.upstreams[self.upstream];
        let mut looking = std::pin::pin!(async {
            may_look.notified().await;
            // The question watches the client.
            let introduction = request.peer.introduction(upstream);
            let place = (Some(self.route.index), Some(self.upstream));
            let times = self.generation.times.at(&self.generation.config, place);
            let holder = request.peer.holder;
            let who = Who { holder, introduction: &introduction, times: &times };
            let wanted = wanted(request, upstream);
            let checkout = upstream.checkout(&request.peer.worker.pool, who, wanted);
            request.peer.stats.unless_ended(checkout).await?
        });
        let mut early = None;
        let asked = tokio::select! {
            biased;
            asked = &mut asking => asked,
            found = &mut looking => {
                early = Some(found);
                asking.await
            }
        };
        match (&asked, early) {
            (Ok(None), Some(found)) => self.early = Some(found),
            (Ok(None), None) => self.early = Some(looking.await),
            // Nothing has been sent on it.
            (_, Some(Ok(lease))) => lease.give_back(),
            (_, _) => {}
        }
        asked
    }

    /// Begins a copy of the request for somebody else, if that is wanted.
    fn mirror(&self, request: &Request<'_, impl ClientStream>, body: &mut RequestBody) {
        let plan = plan(&self.generation, self.route);
        let Some((upstream, bytes_max)) = plan.mirror(body.known_bytes(request)) else { return };
        let view = view(request, self.now_us);
        let target = self.sent_path(view.path_and_query());
        let prefix = self.generation.config.routes[self.route.index as usize].cut_prefix();
        let put = |out: &mut Vec<u8>, how: &RequestRewrite<'_>| {
            plan.put_request(out, how, &view, &self.state);
        };
        let sent_as = (&*target, prefix.as_bytes());
        body.copy = mirror::begin(request, (upstream, bytes_max), sent_as, body.in_inbox, put);
        body.settle_copy();
    }
}

/// `may_look` is told when a connection for the request itself is in no other request's way any
/// more.
async fn ask(
    request: &Request<'_, impl ClientStream>,
    plan: &Hooked,
    view: &RequestView<'_>,
    state: &mut HookState,
    may_look: &Notify,
) -> Result<Option<LocalResponse<'static>>, Fault> {
    if let Some(auth_request) = &plan.auth_request {
        match auth_request::ask(request, auth_request, view, may_look).await? {
            AuthDecision::Granted(lines) => plan.grant(lines, state),
            AuthDecision::Denied(answer) => return Ok(Some(answer)),
            AuthDecision::Failed => {
                if let Some(answer) = auth_request.failed() {
                    return Ok(Some(answer));
                }
            }
        }
    }
    may_look.notify_one();
    for custom in &plan.custom {
        let asked = custom.on_request(view, &mut state.request_changes);
        if let Some(answer) = request.peer.stats.unless_ended(asked).await? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

// On its way.
impl HookedRequest {
    /// The target as it is sent on.
    pub(crate) fn sent_path<'t>(&'t self, path: &'t [u8]) -> Cow<'t, [u8]> {
        match &self.state.target {
            Some(target) => Cow::Borrowed(target),
            None => self.route.sent_path(path),
        }
    }

    /// Counts an attempt; the connection for it that was looked for already, where there is one.
    pub(crate) fn begin_attempt(&mut self, is_fresh: bool) -> Option<Result<Lease, Fault>> {
        self.attempts += 1;
        self.winner = None;
        self.early.take().filter(|_| !is_fresh)
    }

    /// Whether the route wants another attempt after this. That it is harmless is for the caller to
    /// know.
    pub(crate) fn should_retry(
        &self,
        request: &Request<'_, impl ClientStream>,
        trigger: RetryTrigger,
    ) -> bool {
        let tries = self.retry().is_some_and(|retry| retry.may_go_on(trigger, self.attempts));
        if tries {
            request.peer.worker.metrics.retries.add(1);
        }
        tries
    }

    /// Whether the route has any request repeated.
    pub(crate) fn repeats_all(&self) -> bool {
        self.retry().is_some_and(|retry| retry.repeats_all)
    }

    /// How long the answer to the request is waited for before it is sent to another origin too;
    /// `None` where it is not.
    pub(super) fn hedge_after<S>(&self, request: &Request<'_, S>) -> Option<Duration> {
        let hedging = self.hedging()?;
        let head = &request.head;
        let is_harmless = matches!(head.method, Method::Get | Method::Head | Method::Options)
            && head.body.is_empty()
            && !head.is_upgrade
            && !brings_login(&head.fields, request.inbox.filled());
        if !is_harmless || self.hedged.is_some() {
            return None;
        }
        hedging.patience(self.upstream)
    }

    pub(super) fn hedging(&self) -> Option<&Hedging> {
        self.retry()?.hedging.as_ref()
    }

    fn retry(&self) -> Option<&Retry> {
        plan(&self.generation, self.route).retry.as_ref()
    }

    fn body_bytes_max(&self) -> u64 {
        let limit = self.generation.config.limits.body_bytes;
        plan(&self.generation, self.route).body_bytes_max(limit)
    }

    /// Appends the request head to send.
    pub(crate) fn put_request(
        &self,
        request: &Request<'_, impl ClientStream>,
        how: &RequestRewrite<'_>,
        out: &mut Vec<u8>,
    ) {
        let view = view(request, self.now_us);
        plan(&self.generation, self.route).put_request(out, how, &view, &self.state);
    }

    /// Appends the head of an origin's answer, which `buf` begins with.
    pub(crate) fn put_response(
        &self,
        request: &Request<'_, impl ClientStream>,
        buf: &[u8],
        how: &ResponseRewrite<'_>,
        out: &mut Vec<u8>,
    ) {
        let (view, answer) = (view(request, self.now_us), (&request.response, buf));
        let plan = plan(&self.generation, self.route);
        plan.put_response(out, answer, how, &view, &self.state);
    }

    /// What comes in place of the origin's answer, which `client.response` is and `buffer` begins
    /// with; mostly nothing.
    pub(crate) fn response_override(
        &mut self,
        request: &Request<'_, impl ClientStream>,
        buffer: &HeadBuffer,
        body: &RequestBody,
    ) -> Option<ResponseOverride> {
        let status = request.response.status;
        let may_repeat = request.head.method.is_idempotent() || self.repeats_all();
        if body.is_whole() && may_repeat && self.should_retry(request, RetryTrigger::Status(status))
        {
            return Some(ResponseOverride::Retry);
        }
        // What is answered by a status alone has not been acted upon as far as its server says, and
        // the route says by the word that it believes that: calls of gRPC are all POST.
        if body.is_whole()
            && self.retry().is_some_and(Retry::reads_grpc)
            && let Some(status) = grpc::status_alone(&request.response, buffer.filled())
            && self.should_retry(request, RetryTrigger::Grpc(status))
        {
            return Some(ResponseOverride::Retry);
        }
        let generation = self.generation.clone();
        let plan = plan(&generation, self.route);
        self.state.status = status;
        self.state.response_changes = Changes::default();
        for custom in &plan.custom {
            let changes = &mut self.state.response_changes;
            let mut response = Response::new(&request.response, buffer.filled(), changes);
            if let Some(answer) = custom.on_response(&mut response) {
                return Some(ResponseOverride::Respond(answer));
            }
        }
        plan.page_for_origin(status).map(|page| ResponseOverride::Respond(page.into_owned()))
    }

    /// Gives an answer of the route's own.
    pub(crate) async fn answer(
        &mut self,
        request: &Request<'_, impl ClientStream>,
        answer: LocalResponse<'_>,
        record: &mut Record,
    ) -> Result<Outcome, Fault> {
        let generation = self.generation.clone();
        let plan = plan(&generation, self.route);
        self.state.status = answer.status.code;
        if answer.status.code == 429 {
            request.peer.worker.metrics.limited.add(1);
            generation.counts.limited(self.route.index);
        }
        let style = ResponseStyle::new(plan, view(request, self.now_us), &self.state, &answer);
        respond::give(request, &answer, Some(&style), record).await
    }
}
