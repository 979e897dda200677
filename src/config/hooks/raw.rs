//! Hooks as they are written, every key optional: what `[hooks]` and `[route.hooks]` hold.
//!
//! In: TOML text, by way of `config::raw`. Out: `RawHooks`, in which each value remembers where it
//! was given. Unknown keys are refused here; nothing here knows a default or a range.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::raw::{Given, Table};
use crate::config::units::{Bytes, Span, Whole};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawHooks {
    pub(in crate::config) allow: Option<Vec<Given<String>>>,
    pub(in crate::config) deny: Option<Vec<Given<String>>>,
    pub(in crate::config) methods: Option<Given<Vec<Given<String>>>>,
    pub(in crate::config) request_id: Option<Table<RawRequestId>>,
    pub(in crate::config) cors: Option<Table<RawCors>>,
    pub(in crate::config) rate_limit: Option<Given<Table<RawRateLimit>>>,
    pub(in crate::config) connections_per_client: Option<Given<Whole>>,
    pub(in crate::config) body_bytes: Option<Given<Bytes>>,
    pub(in crate::config) redirect: Option<Given<Table<RawRedirect>>>,
    pub(in crate::config) basic_auth: Option<Given<Table<RawBasicAuth>>>,
    pub(in crate::config) forward_auth: Option<Given<Table<RawForwardAuth>>>,
    pub(in crate::config) custom: Option<Vec<Given<Table<RawCustom>>>>,
    pub(in crate::config) respond: Option<Table<RawRespond>>,
    pub(in crate::config) split: Option<Given<Table<RawSplit>>>,
    pub(in crate::config) mirror: Option<Given<Table<RawMirror>>>,
    pub(in crate::config) retry: Option<Table<RawRetry>>,
    pub(in crate::config) rewrite: Option<Given<Table<RawRewrite>>>,
    pub(in crate::config) request_headers: Table<RawHeaders>,
    pub(in crate::config) response_headers: Table<RawHeaders>,
    pub(in crate::config) security_headers: Option<Table<RawSecurity>>,
    pub(in crate::config) error_pages: Option<BTreeMap<String, Given<String>>>,
    pub(in crate::config) intercept_errors: Option<Given<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawRequestId {
    pub(in crate::config) header: Option<Given<String>>,
    pub(in crate::config) trust: Option<Given<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawCors {
    pub(in crate::config) origins: Option<Given<Vec<Given<String>>>>,
    pub(in crate::config) methods: Option<Given<Vec<Given<String>>>>,
    pub(in crate::config) headers: Option<Given<Vec<Given<String>>>>,
    pub(in crate::config) expose: Option<Given<Vec<Given<String>>>>,
    pub(in crate::config) credentials: Option<Given<bool>>,
    pub(in crate::config) max_age: Option<Given<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawRateLimit {
    pub(in crate::config) key: Option<Given<String>>,
    pub(in crate::config) rate: Option<Given<String>>,
    pub(in crate::config) burst: Option<Given<Whole>>,
    pub(in crate::config) table_entries: Option<Given<Whole>>,
    pub(in crate::config) announce: Option<Given<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawRedirect {
    pub(in crate::config) to: Option<Given<String>>,
    pub(in crate::config) status: Option<Given<Whole>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawBasicAuth {
    pub(in crate::config) users_file: Option<Given<String>>,
    pub(in crate::config) realm: Option<Given<String>>,
    pub(in crate::config) auth_failures: Option<Given<Whole>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawForwardAuth {
    pub(in crate::config) upstream: Option<Given<String>>,
    pub(in crate::config) path: Option<Given<String>>,
    pub(in crate::config) request_headers: Option<Given<Vec<Given<String>>>>,
    pub(in crate::config) response_headers: Option<Given<Vec<Given<String>>>>,
    pub(in crate::config) timeout: Option<Given<Span>>,
    pub(in crate::config) on_failure: Option<Given<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawCustom {
    pub(in crate::config) hook: Option<Given<String>>,
    pub(in crate::config) timeout: Option<Given<Span>>,
    pub(in crate::config) on_failure: Option<Given<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawRespond {
    pub(in crate::config) status: Option<Given<Whole>>,
    pub(in crate::config) body: Option<Given<String>>,
    pub(in crate::config) content_type: Option<Given<String>>,
    pub(in crate::config) headers: BTreeMap<String, Given<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawSplit {
    pub(in crate::config) weights: Option<Given<BTreeMap<String, Given<Whole>>>>,
    pub(in crate::config) sticky: Option<Given<String>>,
    pub(in crate::config) max_age: Option<Given<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawMirror {
    pub(in crate::config) upstream: Option<Given<String>>,
    pub(in crate::config) percent: Option<Given<f64>>,
    pub(in crate::config) body_bytes: Option<Given<Bytes>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawRetry {
    pub(in crate::config) attempts: Option<Given<Whole>>,
    pub(in crate::config) on: Option<Given<Vec<Given<String>>>>,
    pub(in crate::config) budget_percent: Option<Given<Whole>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawRewrite {
    pub(in crate::config) prefix: Option<Given<String>>,
    pub(in crate::config) regex: Option<Given<String>>,
    pub(in crate::config) replacement: Option<Given<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawHeaders {
    pub(in crate::config) rename: BTreeMap<String, Given<String>>,
    pub(in crate::config) remove: Vec<Given<String>>,
    pub(in crate::config) set: BTreeMap<String, Given<String>>,
    pub(in crate::config) add: BTreeMap<String, Given<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RawSecurity {
    pub(in crate::config) hsts: Option<Given<String>>,
    pub(in crate::config) nosniff: Option<Given<bool>>,
    pub(in crate::config) frame_options: Option<Given<String>>,
    pub(in crate::config) referrer_policy: Option<Given<String>>,
    pub(in crate::config) content_security_policy: Option<Given<String>>,
}
