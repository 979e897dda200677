//! A request of a route with hooks: what they decide before it goes on, and on its way.
//!
//! In goes a request whose route has a plan; out comes its destination, or the answer that it was
//! given here. What has to be waited for is waited for here: a password, a question to an upstream,
//! a hook in Rust; a connection to the route's upstream is looked for meanwhile. No request of a
//! route without hooks ever gets here.

use std::borrow::Cow;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::exchange::outcome::Outcome;
use crate::exchange::record::Record;
use crate::exchange::request::Client;
use crate::exchange::upload::RequestBody;
use crate::exchange::{auth_request, mirror, respond};
use crate::fault::{Close, Fault};
use crate::forward_proxy::{Checked, LoginOutcome, Target};
use crate::hooks::custom::{Changes, Connect, Failure, Response};
use crate::hooks::style::ResponseStyle;
use crate::hooks::{
    AuthDecision, Choice, HookState, Hooked, LocalResponse, Login, RequestView, RetryTrigger,
};
use crate::http::rewrite::{RequestRewrite, ResponseRewrite};
use crate::ring::{HeadBuffer, clock};
use crate::routing::Route;
use crate::upstream::lease::Lease;
use crate::worker::generation::Generation;

/// A request with hooks on its way.
pub(crate) struct HookedRequest {
    generation: Rc<Generation>,
    pub(crate) route: Route,
    /// The one that was chosen, by its index in the configuration.
    pub(crate) upstream: usize,
    state: HookState,
    now_us: u64,
    /// Attempts that have been begun.
    attempts: u32,
    /// The connection that was looked for while something else was waited for.
    early: Option<Result<Lease, Fault>>,
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
    client: &Client<'_>,
    route: Route,
    body: &mut RequestBody,
    record: &mut Record,
) -> Result<Decided, Fault> {
    record.routed(&route);
    client.worker.metrics.hooked.add(1);
    let mut hooked = Box::new(HookedRequest {
        generation: client.generation.clone(),
        route,
        upstream: route.upstream,
        state: HookState::default(),
        now_us: clock::precise_us(),
        attempts: 0,
        early: None,
    });
    body.bytes_max = hooked.body_bytes_max();
    let decided = hooked.decide(client, body).await;
    record.permits = std::mem::take(&mut hooked.state.permits);
    match decided {
        Ok(None) => {
            hooked.mirror(client, body);
            Ok(Decided::GoesOn(hooked))
        }
        Ok(Some(answer)) => hooked.answer(client, answer, record).await.map(Decided::Answered),
        Err(fault) => Ok(Decided::Answered(refuse(client, &mut hooked, fault, record).await)),
    }
}

/// Tells the client what went wrong on a route with hooks.
pub(crate) async fn refuse(
    client: &Client<'_>,
    hooked: &mut HookedRequest,
    fault: Fault,
    record: &mut Record,
) -> Outcome {
    let generation = hooked.generation.clone();
    let Some(status) = fault.status(generation.config.timeouts.pool_status.code()) else {
        record.failed(fault);
        return Outcome::Close(Close::ClientGone);
    };
    hooked.state.status = status.code;
    let plan = plan(&generation, hooked.route);
    let failure = Failure { status: status.code, error: fault.name() };
    let own = plan.custom.iter().find_map(|custom| custom.on_error(&failure));
    let style = ResponseStyle {
        plan,
        view: view(client, hooked.now_us),
        state: &hooked.state,
        page: own.or_else(|| plan.page(status.code)),
    };
    respond::refuse_as(client, fault, record, Some(&style)).await
}

fn plan(generation: &Generation, route: Route) -> &Hooked {
    generation
        .hooks
        .hooked(route.index)
        .expect("a destination with hooks comes from a route with a plan")
}

fn view<'a>(client: &'a Client<'_>, now_us: u64) -> RequestView<'a> {
    RequestView {
        head: &client.request,
        text: client.inbox.filled(),
        client: client.peer.ip().to_canonical(),
        client_text: client.text.address(),
        is_trusted: client.is_trusted,
        now_us,
    }
}

/// Asks the hooks in Rust about a tunnel; what they have answered, if they have.
pub(crate) async fn judge_tunnel(
    client: &Client<'_>,
    target: &Target,
    record: &mut Record,
    is_http: bool,
) -> Result<Option<Outcome>, Fault> {
    let asked = Connect { client: view(client, 0).client, host: &target.host, port: target.port };
    for custom in &client.generation.hooks.connect {
        if let Some(answer) = client.stats.unless_ended(custom.on_connect(&asked)).await? {
            // A client that speaks SOCKS is told no more than that.
            if !is_http {
                return Err(Fault::TargetForbidden);
            }
            return respond::give(client, &answer, None, record).await.map(Some);
        }
    }
    Ok(None)
}

// Before the request goes on.
impl HookedRequest {
    /// An answer, or nothing where the request goes on.
    async fn decide(
        &mut self,
        client: &Client<'_>,
        body: &RequestBody,
    ) -> Result<Option<LocalResponse<'static>>, Fault> {
        let generation = self.generation.clone();
        let plan = plan(&generation, self.route);
        let view = view(client, self.now_us);
        if let Some(answer) = plan.enter(&view, &mut self.state) {
            return Ok(Some(answer));
        }
        // A body in chunks says its length bit by bit.
        if body.payload_bytes() > body.bytes_max {
            return Err(Fault::ClientBodyTooLarge);
        }
        if let Some(login) = &plan.login
            && let Some(answer) = log_in(client, login, &view).await?
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
            let asked = Box::pin(self.ask_all(client, plan, &view, needs_connection)).await?;
            if asked.is_some() {
                return Ok(asked);
            }
        }
        Ok(match choice {
            Choice::Respond(answer) => Some(answer.into_owned()),
            Choice::Upstream(_) => None,
        })
    }

    /// Asks everybody who may have something against it, and looks for a connection meanwhile.
    ///
    /// A question comes first: where requests that hold a connection wait for another one, all of
    /// `pool.max_connections` may be in the hands of requests that wait. And a client that is
    /// refused is told at once, however long an origin takes to be reached.
    async fn ask_all(
        &mut self,
        client: &Client<'_>,
        plan: &Hooked,
        view: &RequestView<'_>,
        needs_connection: bool,
    ) -> Result<Option<LocalResponse<'static>>, Fault> {
        let may_look = Notify::new();
        let mut asking = std::pin::pin!(ask(client, plan, view, &mut self.state, &may_look));
        if !needs_connection {
            return asking.await;
        }
        let upstream = &self.generation.upstreams[self.upstream];
        let mut looking = std::pin::pin!(async {
            may_look.notified().await;
            // The question watches the client.
            let checkout = upstream.checkout(&client.worker.pool, client.holder, false);
            client.stats.unless_ended(checkout).await?
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

    /// Sends a copy of the request elsewhere, if that is wanted.
    fn mirror(&self, client: &Client<'_>, body: &RequestBody) {
        let plan = plan(&self.generation, self.route);
        let body_bytes = if body.is_whole() { body.in_inbox as u64 } else { u64::MAX };
        let Some(upstream) = plan.mirror(body_bytes) else { return };
        let view = view(client, self.now_us);
        let target = self.sent_path(view.path_and_query());
        mirror::send(client, upstream, &target, body.in_inbox, |out, how| {
            plan.put_request(out, how, &view, &self.state);
        });
    }
}

/// `may_look` is told when a connection for the request itself is in no other request's way any
/// more.
async fn ask(
    client: &Client<'_>,
    plan: &Hooked,
    view: &RequestView<'_>,
    state: &mut HookState,
    may_look: &Notify,
) -> Result<Option<LocalResponse<'static>>, Fault> {
    if let Some(auth_request) = &plan.auth_request {
        match auth_request::ask(client, auth_request, view, may_look).await? {
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
        if let Some(answer) = client.stats.unless_ended(asked).await? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// An answer where the route does not want the client.
async fn log_in(
    client: &Client<'_>,
    login: &Login,
    view: &RequestView<'_>,
) -> Result<Option<LocalResponse<'static>>, Fault> {
    let Some(credentials) = login.credentials(view) else { return Ok(Some(login.refused())) };
    let outcome = match login.authenticator.check(view.client, credentials) {
        Checked::Done(outcome) => outcome,
        Checked::Pending(verification) => client.stats.unless_ended(verification.outcome()).await?,
    };
    Ok(match outcome {
        LoginOutcome::Known(_) => None,
        LoginOutcome::Wrong => {
            client.worker.metrics.auth_failures.add(1);
            Some(login.refused())
        }
        LoginOutcome::TooManyFailures { retry_after_s } => Some(LocalResponse::plain(
            429,
            format!("Retry-After: {retry_after_s}\r\n").into_bytes(),
        )),
        LoginOutcome::Busy => Some(LocalResponse::plain(503, b"Retry-After: 1\r\n".to_vec())),
    })
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

    pub(crate) async fn checkout(
        &mut self,
        client: &Client<'_>,
        is_fresh: bool,
    ) -> Result<Lease, Fault> {
        self.attempts += 1;
        match self.early.take() {
            Some(early) if !is_fresh => early,
            _ => {
                let upstream = &self.generation.upstreams[self.upstream];
                upstream.checkout(&client.worker.pool, client.holder, is_fresh).await
            }
        }
    }

    /// Whether the route wants another attempt after this. That it is harmless is for the caller to
    /// know.
    pub(crate) fn should_retry(&self, client: &Client<'_>, trigger: RetryTrigger) -> bool {
        let retry = plan(&self.generation, self.route).retry.as_ref();
        let tries = retry.is_some_and(|retry| retry.may_go_on(trigger, self.attempts));
        if tries {
            client.worker.metrics.retries.add(1);
        }
        tries
    }

    fn body_bytes_max(&self) -> u64 {
        let limit = self.generation.config.limits.body_bytes;
        plan(&self.generation, self.route).body_bytes_max(limit)
    }

    /// Appends the request head to send.
    pub(crate) fn put_request(
        &self,
        client: &Client<'_>,
        how: &RequestRewrite<'_>,
        out: &mut Vec<u8>,
    ) {
        let view = view(client, self.now_us);
        plan(&self.generation, self.route).put_request(out, how, &view, &self.state);
    }

    /// Appends the head of an origin's answer, which `buf` begins with.
    pub(crate) fn put_response(
        &self,
        client: &Client<'_>,
        buf: &[u8],
        how: &ResponseRewrite<'_>,
        out: &mut Vec<u8>,
    ) {
        let (view, answer) = (view(client, self.now_us), (&client.response, buf));
        let plan = plan(&self.generation, self.route);
        plan.put_response(out, answer, how, &view, &self.state);
    }

    /// What comes in place of the origin's answer, which `client.response` is and `buffer` begins
    /// with; mostly nothing.
    pub(crate) fn response_override(
        &mut self,
        client: &Client<'_>,
        buffer: &HeadBuffer,
        body: &RequestBody,
    ) -> Option<ResponseOverride> {
        let status = client.response.status;
        let is_repeatable = body.is_whole() && client.request.method.is_idempotent();
        if is_repeatable && self.should_retry(client, RetryTrigger::Status(status)) {
            return Some(ResponseOverride::Retry);
        }
        let generation = self.generation.clone();
        let plan = plan(&generation, self.route);
        self.state.status = status;
        self.state.response_changes = Changes::default();
        for custom in &plan.custom {
            let changes = &mut self.state.response_changes;
            let mut response = Response::new(&client.response, buffer.filled(), changes);
            if let Some(answer) = custom.on_response(&mut response) {
                return Some(ResponseOverride::Respond(answer));
            }
        }
        plan.page_for_origin(status).map(|page| ResponseOverride::Respond(page.into_owned()))
    }

    /// Gives an answer of the route's own.
    pub(crate) async fn answer(
        &mut self,
        client: &Client<'_>,
        answer: LocalResponse<'_>,
        record: &mut Record,
    ) -> Result<Outcome, Fault> {
        let generation = self.generation.clone();
        let plan = plan(&generation, self.route);
        self.state.status = answer.status.code;
        if answer.status.code == 429 {
            client.worker.metrics.limited.add(1);
        }
        let style = ResponseStyle::new(plan, view(client, self.now_us), &self.state, &answer);
        respond::give(client, &answer, Some(&style), record).await
    }
}
