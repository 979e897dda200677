//! Answers of the admin API, and how it refuses.
//!
//! In go values and causes; out come responses in JSON. Nothing is decided here.

use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

pub(super) fn bad_query(rejection: &QueryRejection, expected: &str) -> Response {
    refuse(StatusCode::BAD_REQUEST, &format!("{rejection}; expected {expected}"))
}

pub(super) fn refuse(status: StatusCode, cause: &str) -> Response {
    (status, json(&json!({ "status": status.as_u16(), "error": cause }))).into_response()
}

pub(super) fn json(value: &impl Serialize) -> Response {
    // Cannot fail: every key is text and no number is infinite.
    json_text(serde_json::to_string(value).unwrap_or_default())
}

pub(super) fn json_text(mut text: String) -> Response {
    text.push('\n');
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}
