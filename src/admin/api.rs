//! The admin API: what can be seen of a running ringway, and the little that can be changed.
//!
//! In go requests from the admin address; out come JSON, text and metrics. Who may change something
//! is [`crate::admin_guard`]'s decision. Bodies of requests are not read, lists have limits, and
//! workers are asked only where their connections are listed or ended: nothing here can make
//! ringway slow or large.

use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::answer::{bad_query, json, json_text, refuse};
use super::guard::{guard_change, guard_read};
use super::health::{self, Health};
use super::proxy::{Answers, Proxy};
use super::stats::Stats;
use super::upstreams::{self, OriginChange};
use super::{arms, exposition, operate, page, prometheus, snapshot, tls};
use crate::admin::cleaning;
use crate::admin::units::unix_seconds;
use crate::upstream::target::Wish;
use crate::worker::mailbox::{ConnectionInfo, Level, Reloaded, ServerCommand, WorkerCommand};

const INDEX: &str = "\
ringway's admin API; a browser gets a status page here

GET    /health            how ringway is, as JSON
GET    /ready             200 while new connections may be sent here, else 503
GET    /stats             the last window of stats.interval, and the running one
GET    /snapshot          all of it as one JSON object, cheap enough for once a second
GET    /arms              what the arms of a split have come to (?route=NAME)
GET    /metrics           everything that is counted, for Prometheus
GET    /certificates      the certificates that clients are shown
GET    /memory            what memory is held for, and the connections that hold most (?limit=20)
GET    /upstreams         origins by their addresses: who is asked, and why not
POST   /upstreams/{name}  has an origin be asked or not (?origin=URL&state=up|drain|down&weight=N)
GET    /connections       connections of clients (?limit=100&sort=age|memory)
DELETE /connections/{id}  ends one
POST   /admin/cleanup     gives memory back (?level=light|forced)
GET    /admin/generations the last configurations, the newest at the end
POST   /admin/reload      reads the configuration again and puts it in use
POST   /admin/rollback    puts an earlier configuration in use again (?id=N&save=true)
GET    /admin/log         the level of the event log
POST   /admin/log         changes it until a restart (?level=off|error|warn|info|debug|trace)
POST   /admin/silence     keeps an alert quiet (?alert=NAME&for=1h&upstream=NAME; for=0 ends it)

POST and DELETE need `Authorization: Bearer` with admin.token; if none is set, they work from this
machine only. Where admin.read_token is set, everything else but / and /ready needs one of both.
";

/// What one answer lists at most: 300 bytes each.
const LISTED_MAX: usize = 1_000;

pub(super) fn router(proxy: Arc<Proxy>) -> Router {
    let guarded = || middleware::from_fn_with_state(proxy.clone(), guard_change);
    Router::new()
        .route("/", get(|headers: HeaderMap| async move { page::answer(&headers, INDEX) }))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/stats", get(stats))
        .route("/arms", get(list_arms))
        .route("/snapshot", get(whole))
        .route("/metrics", get(metrics))
        .route("/certificates", get(certificates))
        .route("/memory", get(memory))
        .route("/upstreams", get(list_upstreams))
        .route("/upstreams/{name}", post(set_origin).route_layer(guarded()))
        .route("/connections", get(connections))
        .route("/connections/{id}", delete(end).route_layer(guarded()))
        .route("/admin/cleanup", post(cleanup).route_layer(guarded()))
        .route("/admin/generations", get(generations))
        .route("/admin/reload", post(reload).route_layer(guarded()))
        .route("/admin/rollback", post(roll_back).route_layer(guarded()))
        .route(
            "/admin/log",
            post(operate::set_level).route_layer(guarded()).get(operate::show_level),
        )
        .route("/admin/silence", post(operate::silence).route_layer(guarded()))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "no such path; GET / lists all") })
        .method_not_allowed_fallback(|| async {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "the Allow field lists the methods of this path")
        })
        .layer(middleware::from_fn_with_state(proxy.clone(), guard_read))
        .with_state(proxy)
}

async fn health(State(proxy): State<Arc<Proxy>>) -> Response {
    json_text(Health::of(&proxy).to_json())
}

async fn ready(State(proxy): State<Arc<Proxy>>) -> Response {
    match health::readiness(&proxy) {
        Ok(()) => "ready\n".into_response(),
        Err(cause) => (StatusCode::SERVICE_UNAVAILABLE, format!("{cause}\n")).into_response(),
    }
}

async fn stats(State(proxy): State<Arc<Proxy>>) -> Response {
    json(&Stats::answer(&proxy))
}

async fn metrics(State(proxy): State<Arc<Proxy>>) -> Response {
    ([(CONTENT_TYPE, exposition::CONTENT_TYPE)], prometheus::text(&proxy)).into_response()
}

async fn whole(State(proxy): State<Arc<Proxy>>) -> Response {
    json_text(snapshot::text(&proxy).await.to_string())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmsQuery {
    route: Option<String>,
}

async fn list_arms(
    State(proxy): State<Arc<Proxy>>,
    query: Result<Query<ArmsQuery>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(ArmsQuery { route })) => match arms::report(&proxy, route.as_deref()) {
            Ok(report) => json(&report),
            Err(error) => refuse(StatusCode::NOT_FOUND, &error),
        },
        Err(rejection) => bad_query(&rejection, "route=NAME, as GET /stats calls it"),
    }
}

async fn certificates(State(proxy): State<Arc<Proxy>>) -> Response {
    json(&tls::report(&proxy))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryQuery {
    limit: Option<usize>,
}

async fn memory(
    State(proxy): State<Arc<Proxy>>,
    query: Result<Query<MemoryQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return bad_query(&rejection, "limit=1..1000"),
    };
    let Answers { given, silent } = proxy.connections().await;
    let by_worker = proxy.shared.occupied().map(|worker| {
        let ledger = &proxy.shared.ledgers.workers()[worker];
        let kinds = crate::ledger::Kind::ALL.into_iter();
        let by_kind: serde_json::Map<String, Value> =
            kinds.map(|kind| (kind.name().to_owned(), ledger.get(kind).into())).collect();
        json!({ "worker": worker, "ledger_bytes": ledger.total(), "by_kind": by_kind })
    });
    json(&json!({
        "rss_bytes": proxy.usage().rss_bytes,
        "ceiling_bytes": proxy.cleanups.ceiling_bytes(),
        "ledger_bytes": proxy.shared.ledgers.total(),
        "state": health::pressure(&proxy),
        "by_kind": health::by_kind(&proxy),
        "by_worker": by_worker.collect::<Vec<_>>(),
        "connections": given.len(),
        "silent_workers": silent,
        "largest": listed(given, Sort::Memory, query.limit.unwrap_or(20)),
    }))
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sort {
    /// The one that holds most first.
    Memory,
    /// The oldest first.
    Age,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectionsQuery {
    limit: Option<usize>,
    sort: Option<Sort>,
}

async fn connections(
    State(proxy): State<Arc<Proxy>>,
    query: Result<Query<ConnectionsQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return bad_query(&rejection, "limit=1..1000 and sort=age or memory"),
    };
    let Answers { given, silent } = proxy.connections().await;
    json(&json!({
        "total": given.len(),
        "silent_workers": silent,
        "connections":
            listed(given, query.sort.unwrap_or(Sort::Age), query.limit.unwrap_or(100)),
    }))
}

fn listed(mut all: Vec<ConnectionInfo>, sort: Sort, limit: usize) -> Vec<ConnectionInfo> {
    match sort {
        Sort::Memory => all.sort_by_key(|one| (Reverse(one.memory_bytes), one.id)),
        Sort::Age => all.sort_by_key(|one| (Reverse(one.age_ms), one.id)),
    }
    all.truncate(limit.min(LISTED_MAX));
    all
}

async fn end(State(proxy): State<Arc<Proxy>>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<u64>() else {
        return refuse(StatusCode::NOT_FOUND, "no connection has this id; it is a number");
    };
    let Answers { given, silent } = proxy.ask(|reply| WorkerCommand::End { id, reply }).await;
    if given.contains(&true) {
        tracing::info!(id, "connection ended by the admin API");
        StatusCode::NO_CONTENT.into_response()
    } else if silent.is_empty() {
        refuse(StatusCode::NOT_FOUND, "no connection has this id; it may have ended")
    } else {
        refuse(StatusCode::SERVICE_UNAVAILABLE, "not every worker answered; try again")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CleanupQuery {
    level: Option<CleanupLevel>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CleanupLevel {
    Light,
    Forced,
}

async fn cleanup(
    State(proxy): State<Arc<Proxy>>,
    query: Result<Query<CleanupQuery>, QueryRejection>,
) -> Response {
    let level = match query {
        Ok(Query(CleanupQuery { level: None | Some(CleanupLevel::Light) })) => Level::Light,
        Ok(Query(CleanupQuery { level: Some(CleanupLevel::Forced) })) => Level::Forced,
        Err(rejection) => return bad_query(&rejection, "level=light or forced"),
    };
    json(&cleaning::clean(&proxy, level, "asked").await.answer())
}

async fn generations(State(proxy): State<Arc<Proxy>>) -> Response {
    let list = proxy.shared.history.list();
    let list: Vec<_> = list
        .iter()
        .map(
            |past| json!({ "id": past.id, "since": unix_seconds(past.since), "cause": past.cause }),
        )
        .collect();
    json(&json!({ "current": proxy.snapshot().id, "generations": list }))
}

async fn list_upstreams(State(proxy): State<Arc<Proxy>>) -> Response {
    json(&upstreams::listed(&proxy).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OriginQuery {
    origin: String,
    state: Option<String>,
    weight: Option<u32>,
    keep: Option<bool>,
}

async fn set_origin(
    State(proxy): State<Arc<Proxy>>,
    Path(name): Path<String>,
    query: Result<Query<OriginQuery>, QueryRejection>,
) -> Response {
    const FORM: &str = "origin=URL-or-ADDRESS with state=up|drain|down, weight=0 to 1000, or both, \
                        as GET /upstreams lists them, and keep=false for until the next reload";
    let OriginQuery { origin, state, weight, keep } = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return bad_query(&rejection, FORM),
    };
    let wish = state.as_ref().map(|state| Wish::ALL.into_iter().find(|wish| wish.name() == state));
    if wish == Some(None)
        || wish.is_none() && weight.is_none()
        || weight.is_some_and(|weight| weight > 1000)
    {
        return refuse(StatusCode::BAD_REQUEST, &format!("expected {FORM}"));
    }
    let change = OriginChange { wish: wish.flatten(), weight, is_kept: keep.unwrap_or(true) };
    match upstreams::change(&proxy, &name, &origin, change) {
        Ok(targets) => json(&json!({ "targets": targets, "state": state, "weight": weight })),
        Err(error) => refuse(StatusCode::NOT_FOUND, &error),
    }
}

/// What became of a configuration, and where.
#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    reloaded: Reloaded,
    pid: u32,
    config_file: Option<PathBuf>,
    uptime_seconds: u64,
    /// Whether the file says something else than what is in use; `None` where nobody knows.
    is_file_other: Option<bool>,
    /// The file that has been written, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<PathBuf>,
}

impl Done {
    fn of(proxy: &Proxy, reloaded: Reloaded, saved: Option<PathBuf>) -> Self {
        let history = &proxy.shared.history;
        Self {
            reloaded,
            pid: std::process::id(),
            config_file: history.file.clone(),
            uptime_seconds: proxy.started.elapsed().as_secs(),
            is_file_other: history.is_file_other(),
            saved,
        }
    }
}

async fn reload(State(proxy): State<Arc<Proxy>>) -> Response {
    match command(&proxy, |reply| ServerCommand::Reload { reply }).await {
        Ok(reloaded) => json(&Done::of(&proxy, reloaded, None)),
        Err(refusal) => *refusal,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackQuery {
    id: Option<u64>,
    save: Option<bool>,
}

async fn roll_back(
    State(proxy): State<Arc<Proxy>>,
    query: Result<Query<RollbackQuery>, QueryRejection>,
) -> Response {
    const FORM: &str = "id=N, a number that GET /admin/generations lists, and save=true to write \
                        it to the file";
    let RollbackQuery { id, save } = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return bad_query(&rejection, FORM),
    };
    let (save, now) = (save.unwrap_or(false), proxy.snapshot().id);
    let reloaded = if save && id == Some(now) {
        // It is in use already, and only the file has another one.
        Reloaded { generation: now, changed: Vec::new(), waiting: Vec::new() }
    } else {
        match command(&proxy, |reply| ServerCommand::Rollback { id, reply }).await {
            Ok(reloaded) => reloaded,
            Err(refusal) => return *refusal,
        }
    };
    let saved = match save.then(|| proxy.shared.history.save()) {
        Some(Err(error)) => {
            let error = format!("it is in use again, but not in the file: {error}");
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, &error);
        }
        Some(Ok(file)) => {
            tracing::info!(file = %file.display(), "the configuration in use was written");
            Some(file)
        }
        None => None,
    };
    json(&Done::of(&proxy, reloaded, saved))
}

/// Has the thread that owns the server do something, and waits for what becomes of it.
async fn command(
    proxy: &Proxy,
    command: impl FnOnce(oneshot::Sender<Result<Reloaded, String>>) -> ServerCommand,
) -> Result<Reloaded, Box<Response>> {
    let (reply, answer) = oneshot::channel();
    let is_sent = proxy.shared.server_commands.send(command(reply)).is_ok();
    let (status, error) = match tokio::time::timeout(ORDER_PATIENCE, answer).await {
        Ok(Ok(Ok(reloaded))) => return Ok(reloaded),
        Ok(Ok(Err(error))) => (StatusCode::UNPROCESSABLE_ENTITY, error),
        _ if is_sent => {
            (StatusCode::SERVICE_UNAVAILABLE, "not done: ringway is stopping".to_owned())
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "nobody here reloads configurations".to_owned()),
    };
    Err(Box::new(refuse(status, &error)))
}

/// Names of origins are waited for, workers told, and rings opened.
const ORDER_PATIENCE: Duration = Duration::from_secs(30);
