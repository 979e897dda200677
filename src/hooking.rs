//! A request of a route with hooks: what they decide before it goes on, and on its way.
//!
//! In goes a request whose route has a plan; out comes the way that it takes, or the answer that it
//! was given here. What has to be waited for is waited for here: a password, a question to an
//! upstream, a hook in Rust; a connection to the route's upstream is looked for meanwhile. No
//! request of a route without hooks ever gets here.

use std::borrow::Cow;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::answer;
use crate::connection::Client;
use crate::exchange::After;
use crate::fault::{Close, Fault};
use crate::forward::{Checked, Outcome, Target};
use crate::generation::Generation;
use crate::hooks::custom::{Changes, Connect, Failure, Response};
use crate::hooks::{Answer, Choice, Facts, Hooked, Judgement, Login, Passage, Setback};
use crate::http::rewrite::{self, RequestRewrite, ResponseRewrite, Simple};
use crate::inquiry;
use crate::mirror;
use crate::record::Record;
use crate::ring::{HeadBuffer, clock};
use crate::route::Route;
use crate::upload::RequestBody;
use crate::upstream::lease::Lease;
use crate::way::{Found, Way};

/// A request with hooks on its way.
pub struct Hooking {
    generation: Rc<Generation>,
    pub(crate) route: Route,
    /// The one that was chosen, by its index in the configuration.
    pub(crate) upstream: usize,
    passage: Passage,
    now_us: u64,
    /// Attempts that have been begun.
    attempts: u32,
    /// The connection that was looked for while something else was waited for.
    early: Option<Result<Lease, Fault>>,
}

/// What comes in place of an origin's answer.
pub(crate) enum Instead {
    /// Another attempt.
    Again,
    Answer(Answer<'static>),
}

/// What our own answers on a route with hooks look like.
pub(crate) struct Dress<'a> {
    plan: &'a Hooked,
    facts: Facts<'a>,
    passage: &'a Passage,
    /// What stands in it in place of our own words.
    page: Option<Answer<'a>>,
}

/// Runs the hooks of a request that `route` takes.
pub(crate) async fn begin(
    client: &Client<'_>,
    route: Route,
    body: &mut RequestBody,
    record: &mut Record,
) -> Result<Found, Fault> {
    record.routed(&route);
    client.worker.metrics.hooked.add(1);
    let mut hooking = Box::new(Hooking {
        generation: client.generation.clone(),
        route,
        upstream: route.upstream,
        passage: Passage::default(),
        now_us: clock::precise_us(),
        attempts: 0,
        early: None,
    });
    body.bytes_max = hooking.body_bytes_max();
    let decided = hooking.decide(client, body).await;
    record.held = std::mem::take(&mut hooking.passage.held);
    match decided {
        Ok(None) => {
            hooking.mirror(client, body);
            Ok(Found::Way(Way::Hooked(hooking)))
        }
        Ok(Some(answer)) => hooking.answer(client, answer, record).await.map(Found::Answered),
        Err(fault) => Ok(Found::Answered(refuse(client, &mut hooking, fault, record).await)),
    }
}

/// Tells the client what went wrong on a route with hooks.
pub(crate) async fn refuse(
    client: &Client<'_>,
    hooking: &mut Hooking,
    fault: Fault,
    record: &mut Record,
) -> After {
    let generation = hooking.generation.clone();
    let Some(status) = fault.status(generation.config.timeouts.pool_status.code()) else {
        record.failed(fault);
        return After::Close(Close::ClientGone);
    };
    hooking.passage.status = status.code;
    let plan = plan(&generation, hooking.route);
    let failure = Failure { status: status.code, error: fault.name() };
    let own = plan.custom.iter().find_map(|custom| custom.on_error(&failure));
    let dress = Dress {
        plan,
        facts: facts(client, hooking.now_us),
        passage: &hooking.passage,
        page: own.or_else(|| plan.page(status.code)),
    };
    answer::refuse_as(client, fault, record, Some(&dress)).await
}

fn plan(generation: &Generation, route: Route) -> &Hooked {
    generation.hooks.hooked(route.index).expect("a way with hooks comes from a route with a plan")
}

fn facts<'a>(client: &'a Client<'_>, now_us: u64) -> Facts<'a> {
    Facts {
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
) -> Result<Option<After>, Fault> {
    let asked = Connect { client: facts(client, 0).client, host: &target.host, port: target.port };
    for custom in &client.generation.hooks.connect {
        if let Some(answer) = client.account.unless_ended(custom.on_connect(&asked)).await? {
            return answer::give(client, &answer, None, record).await.map(Some);
        }
    }
    Ok(None)
}

// Before the request goes on.
impl Hooking {
    /// An answer, or nothing where the request goes on.
    async fn decide(
        &mut self,
        client: &Client<'_>,
        body: &RequestBody,
    ) -> Result<Option<Answer<'static>>, Fault> {
        let generation = self.generation.clone();
        let plan = plan(&generation, self.route);
        let facts = facts(client, self.now_us);
        if let Some(answer) = plan.enter(&facts, &mut self.passage) {
            return Ok(Some(answer));
        }
        // A body in chunks says its length bit by bit.
        if body.payload_bytes() > body.bytes_max {
            return Err(Fault::ClientBodyTooLarge);
        }
        if let Some(login) = &plan.login
            && let Some(answer) = log_in(client, login, &facts).await?
        {
            return Ok(Some(answer));
        }
        let target = self.route.sent_path(facts.path_and_query());
        let choice = plan.choose(&target, &facts, &mut self.passage);
        if let Choice::Upstream(upstream) = choice {
            self.upstream = upstream;
        }
        if plan.question.is_some() || !plan.custom.is_empty() {
            // A body that is still to come is waited for first.
            let needs_connection = matches!(choice, Choice::Upstream(_)) && body.is_whole();
            let asked = Box::pin(self.ask_all(client, plan, &facts, needs_connection)).await?;
            if asked.is_some() {
                return Ok(asked);
            }
        }
        Ok(match choice {
            Choice::Answer(answer) => Some(answer.into_owned()),
            Choice::Upstream(_) => None,
        })
    }

    /// Asks everybody who may have something against it, and looks for a connection meanwhile.
    ///
    /// A question comes first: where requests that hold a connection wait for another one, all of
    /// `pool.max_connections` may be in the hands of requests that wait. And whoever is refused is
    /// told at once, however long an origin takes to be reached.
    async fn ask_all(
        &mut self,
        client: &Client<'_>,
        plan: &Hooked,
        facts: &Facts<'_>,
        needs_connection: bool,
    ) -> Result<Option<Answer<'static>>, Fault> {
        let may_look = Notify::new();
        let mut asking = std::pin::pin!(ask(client, plan, facts, &mut self.passage, &may_look));
        if !needs_connection {
            return asking.await;
        }
        let upstream = &self.generation.upstreams[self.upstream];
        let mut looking = std::pin::pin!(async {
            may_look.notified().await;
            // The question watches the client.
            let checkout = upstream.checkout(&client.worker.pool, client.holder, false);
            client.account.unless_ended(checkout).await?
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
        let facts = facts(client, self.now_us);
        let target = self.sent_path(facts.path_and_query());
        mirror::send(client, upstream, &target, body.in_inbox, |out, how| {
            plan.put_request(out, how, &facts, &self.passage);
        });
    }
}

/// `may_look` is told when a connection for the request itself is in nobody's way any more.
async fn ask(
    client: &Client<'_>,
    plan: &Hooked,
    facts: &Facts<'_>,
    passage: &mut Passage,
    may_look: &Notify,
) -> Result<Option<Answer<'static>>, Fault> {
    if let Some(question) = &plan.question {
        match inquiry::ask(client, question, facts, may_look).await? {
            Judgement::Granted(lines) => plan.grant(lines, passage),
            Judgement::Denied(answer) => return Ok(Some(answer)),
            Judgement::Failed => {
                if let Some(answer) = question.failed() {
                    return Ok(Some(answer));
                }
            }
        }
    }
    may_look.notify_one();
    for custom in &plan.custom {
        let asked = custom.on_request(facts, &mut passage.request_changes);
        if let Some(answer) = client.account.unless_ended(asked).await? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

/// An answer where the route does not want whoever asks.
async fn log_in(
    client: &Client<'_>,
    login: &Login,
    facts: &Facts<'_>,
) -> Result<Option<Answer<'static>>, Fault> {
    let Some(credentials) = login.credentials(facts) else { return Ok(Some(login.refused())) };
    let outcome = match login.authenticator.check(facts.client, credentials) {
        Checked::Done(outcome) => outcome,
        Checked::Pending(verification) => {
            client.account.unless_ended(verification.outcome()).await?
        }
    };
    Ok(match outcome {
        Outcome::Known(_) => None,
        Outcome::Wrong => {
            client.worker.metrics.auth_failures.add(1);
            Some(login.refused())
        }
        Outcome::TooManyFailures { retry_after_s } => {
            Some(Answer::plain(429, format!("Retry-After: {retry_after_s}\r\n").into_bytes()))
        }
        Outcome::Busy => Some(Answer::plain(503, b"Retry-After: 1\r\n".to_vec())),
    })
}

// On its way.
impl Hooking {
    /// The target as it is sent on.
    pub(crate) fn sent_path<'t>(&'t self, path: &'t [u8]) -> Cow<'t, [u8]> {
        match &self.passage.target {
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

    /// Whether the route wants another attempt after this. That it harms nobody is for the caller
    /// to know.
    pub(crate) fn tries_again(&self, client: &Client<'_>, setback: Setback) -> bool {
        let retry = plan(&self.generation, self.route).retry.as_ref();
        let tries = retry.is_some_and(|retry| retry.may_go_on(setback, self.attempts));
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
        let facts = facts(client, self.now_us);
        plan(&self.generation, self.route).put_request(out, how, &facts, &self.passage);
    }

    /// Appends the head of an origin's answer, which `buf` begins with.
    pub(crate) fn put_response(
        &self,
        client: &Client<'_>,
        buf: &[u8],
        how: &ResponseRewrite<'_>,
        out: &mut Vec<u8>,
    ) {
        let (facts, answer) = (facts(client, self.now_us), (&client.response, buf));
        let plan = plan(&self.generation, self.route);
        plan.put_response(out, answer, how, &facts, &self.passage);
    }

    /// What comes in place of the origin's answer, which `client.response` is and `buffer` begins
    /// with; mostly nothing.
    pub(crate) fn instead(
        &mut self,
        client: &Client<'_>,
        buffer: &HeadBuffer,
        body: &RequestBody,
    ) -> Option<Instead> {
        let status = client.response.status;
        let is_repeatable = body.is_whole() && client.request.method.is_idempotent();
        if is_repeatable && self.tries_again(client, Setback::Status(status)) {
            return Some(Instead::Again);
        }
        let generation = self.generation.clone();
        let plan = plan(&generation, self.route);
        self.passage.status = status;
        self.passage.response_changes = Changes::default();
        for custom in &plan.custom {
            let changes = &mut self.passage.response_changes;
            let mut response = Response::new(&client.response, buffer.filled(), changes);
            if let Some(answer) = custom.on_response(&mut response) {
                return Some(Instead::Answer(answer));
            }
        }
        plan.page_for_origin(status).map(|page| Instead::Answer(page.into_owned()))
    }

    /// Gives an answer of the route's own.
    pub(crate) async fn answer(
        &mut self,
        client: &Client<'_>,
        answer: Answer<'_>,
        record: &mut Record,
    ) -> Result<After, Fault> {
        let generation = self.generation.clone();
        let plan = plan(&generation, self.route);
        self.passage.status = answer.status.code;
        if answer.status.code == 429 {
            client.worker.metrics.limited.add(1);
        }
        let dress = Dress::new(plan, facts(client, self.now_us), &self.passage, &answer);
        answer::give(client, &answer, Some(&dress), record).await
    }
}

impl<'a> Dress<'a> {
    /// What `answer` looks like, which may have been given in ringway's own words.
    pub(crate) fn new(
        plan: &'a Hooked,
        facts: Facts<'a>,
        passage: &'a Passage,
        answer: &Answer<'_>,
    ) -> Self {
        let page = if answer.is_stock { plan.page(answer.status.code) } else { None };
        Self { plan, facts, passage, page }
    }

    /// Appends an answer of our own, body included.
    pub(crate) fn put(&self, out: &mut Vec<u8>, simple: &Simple<'_>) {
        let (extra, body) = match &self.page {
            Some(page) => ([&*page.fields, simple.extra].concat(), &*page.body),
            None => (simple.extra.to_vec(), simple.body),
        };
        rewrite::simple_head(out, &Simple { extra: &extra, body, ..*simple });
        self.plan.edit_response(out, 0, &self.facts, self.passage);
        if !simple.is_head_only && rewrite::may_have_body(simple.status) {
            out.extend_from_slice(body.as_bytes());
        }
    }
}
