//! What an operator changes of what ringway says: how much is logged, and which alerts are heard.
//!
//! In go queries of the admin API; out come answers in JSON. Both last until a restart at most, and
//! the configuration knows nothing of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use tracing::level_filters::LevelFilter;

use super::answer::{bad_query, json, refuse};
use super::proxy::Proxy;
use crate::admin::units::lock;
use crate::config;

/// The longest silence: whoever wants more of it changes the configuration.
const SILENCE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LevelQuery {
    level: String,
}

pub(super) async fn show_level(State(proxy): State<Arc<Proxy>>) -> Response {
    json(&json!({ "level": proxy.logs.level(), "configured": configured(&proxy) }))
}

fn configured(proxy: &Proxy) -> String {
    proxy.snapshot().config.log.level.to_string()
}

/// Changes how much is logged, until a restart.
pub(super) async fn set_level(
    State(proxy): State<Arc<Proxy>>,
    query: Result<Query<LevelQuery>, QueryRejection>,
) -> Response {
    const FORM: &str = "level=off, error, warn, info, debug or trace";
    let level = match query {
        Ok(Query(LevelQuery { level })) => level,
        Err(rejection) => return bad_query(&rejection, FORM),
    };
    let Some(level) = level_of(&level) else {
        return refuse(StatusCode::BAD_REQUEST, &format!("expected {FORM}"));
    };
    if proxy.logs.set_level(level) {
        json(&json!({ "level": proxy.logs.level(), "configured": configured(&proxy) }))
    } else {
        refuse(StatusCode::SERVICE_UNAVAILABLE, "there is no event log")
    }
}

fn level_of(text: &str) -> Option<LevelFilter> {
    Some(match text {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SilenceQuery {
    alert: String,
    upstream: Option<String>,
    r#for: String,
}

/// Keeps an alert quiet for a while: it is listed, and neither logged nor sent.
pub(super) async fn silence(
    State(proxy): State<Arc<Proxy>>,
    query: Result<Query<SilenceQuery>, QueryRejection>,
) -> Response {
    const FORM: &str = "alert=NAME&for=30m, and perhaps upstream=NAME; for=0 ends a silence";
    let SilenceQuery { alert, upstream, r#for: time } = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return bad_query(&rejection, FORM),
    };
    let time = match &*time {
        "0" => Some(Duration::ZERO),
        text => config::parse_duration(text).filter(|time| *time <= SILENCE_MAX),
    };
    let Some(time) = time else {
        let text = format!("`for` is no duration of at most 30 days; expected {FORM}");
        return refuse(StatusCode::BAD_REQUEST, &text);
    };
    let now = SystemTime::now();
    let mut alerts = lock(&proxy.alerts);
    match alerts.silence(&alert, upstream.as_deref(), now + time) {
        Ok(count) => json(&json!({ "alerts": count, "silences": alerts.silences(now) })),
        Err(error) => refuse(StatusCode::NOT_FOUND, &error),
    }
}
