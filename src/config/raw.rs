//! The file as it is written: one struct per section, every key optional.
//!
//! In: TOML text. Out: `RawConfig`, in which each value remembers where it was given, so that a
//! value out of range is reported at its own line and column. Unknown keys are refused here.
//! Nothing here knows a default or a range; after `check` these types are out of sight.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use toml::Spanned;

use super::forward::Secret;
use super::hooks::raw::RawHooks;
use super::units::{Bytes, Share, Span, Whole};

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// Where a value was given: bytes of the file, or beyond its end the number of a setting. Only
/// `Sources` can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) Range<usize>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(from)?;
        let place = Place(spanned.span());
        Ok(Self { value: spanned.into_inner(), place })
    }
}

/// A section. Without this, serde would also take an array whose items stand for the keys in
/// the order of their declaration.
#[derive(Debug, Default)]
pub(super) struct Table<T>(pub(super) T);

impl<T> Deref for Table<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TableVisitor(PhantomData))
    }
}

struct TableVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
    type Value = Table<T>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Table)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) server: Table<RawServer>,
    pub(super) limits: Table<RawLimits>,
    pub(super) timeouts: Table<RawTimeouts>,
    pub(super) pool: Table<RawPool>,
    pub(super) buffers: Table<RawBuffers>,
    pub(super) log: Table<RawLog>,
    pub(super) upstream: Option<Given<Vec<Given<Table<RawUpstream>>>>>,
    pub(super) route: Vec<Given<Table<RawRoute>>>,
    pub(super) hooks: Table<RawHooks>,
    pub(super) forward: Table<RawForward>,
    pub(super) parent: Vec<Given<Table<RawParent>>>,
    pub(super) dns: Table<RawDns>,
    pub(super) memory: Table<RawMemory>,
    pub(super) admin: Table<RawAdmin>,
    pub(super) stats: Table<RawStats>,
    pub(super) alerts: Table<RawAlerts>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServer {
    pub(super) host: Option<Given<String>>,
    pub(super) port: Option<Given<Whole>>,
    pub(super) listen: Vec<Given<String>>,
    pub(super) workers: Option<Given<Whole>>,
    pub(super) trusted_proxies: Vec<Given<String>>,
    pub(super) via: Option<Given<String>>,
    pub(super) drain_timeout: Option<Given<Span>>,
    pub(super) ready_grace: Option<Given<Span>>,
    pub(super) backlog: Option<Given<Whole>>,
    pub(super) watch_config: Option<Given<bool>>,
    pub(super) half_close: Option<Given<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    pub(super) clients: Option<Given<Whole>>,
    pub(super) tunnels: Option<Given<Whole>>,
    pub(super) long_responses: Option<Given<Whole>>,
    pub(super) head_bytes: Option<Given<Bytes>>,
    pub(super) header_count: Option<Given<Whole>>,
    pub(super) target_bytes: Option<Given<Bytes>>,
    pub(super) body_bytes: Option<Given<Bytes>>,
    pub(super) min_body_rate: Option<Given<Bytes>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTimeouts {
    pub(super) connect: Option<Given<Span>>,
    pub(super) read: Option<Given<Span>>,
    pub(super) write: Option<Given<Span>>,
    pub(super) client_write: Option<Given<Span>>,
    pub(super) pool: Option<Given<Span>>,
    pub(super) pool_status: Option<Given<Whole>>,
    pub(super) client_head: Option<Given<Span>>,
    pub(super) client_idle: Option<Given<Span>>,
    pub(super) tunnel_idle: Option<Given<Span>>,
    pub(super) tunnel_half_closed: Option<Given<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPool {
    pub(super) max_connections: Option<Given<Whole>>,
    pub(super) max_idle: Option<Given<Whole>>,
    pub(super) idle_expiry: Option<Given<Span>>,
    pub(super) prewarm: Option<Given<Whole>>,
    pub(super) tcp_keepalive: Option<Given<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBuffers {
    pub(super) chunk_bytes: Option<Given<Bytes>>,
    pub(super) chunks_per_worker: Option<Given<Whole>>,
    pub(super) operation_chunks: Option<Given<Whole>>,
    pub(super) fixed_operations: Option<Given<bool>>,
    pub(super) head_buffer_bytes: Option<Given<Bytes>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) level: Option<Given<String>>,
    pub(super) format: Option<Given<String>>,
    pub(super) file: Option<Given<String>>,
    pub(super) access: Option<Given<bool>>,
    pub(super) access_format: Option<Given<String>>,
    pub(super) access_file: Option<Given<String>>,
    pub(super) queue_lines: Option<Given<Whole>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawUpstream {
    pub(super) name: Option<Given<String>>,
    pub(super) builtin: Option<Given<String>>,
    pub(super) origins: Option<Given<Vec<Given<RawOrigin>>>>,
    pub(super) host: Option<Given<String>>,
    pub(super) fail_timeout: Option<Given<Span>>,
    pub(super) max_connections: Option<Given<Whole>>,
}

/// `"http://a:80"` or `{ url = "http://a:80", weight = 3 }`.
#[derive(Debug)]
pub(super) struct RawOrigin {
    pub(super) url: String,
    pub(super) weight: Option<Given<Whole>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOriginTable {
    url: String,
    weight: Option<Given<Whole>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRoute {
    pub(super) host: Option<Given<String>>,
    pub(super) path: Option<Given<String>>,
    pub(super) upstream: Option<Given<String>>,
    pub(super) strip_prefix: Option<Given<bool>>,
    pub(super) inherit_hooks: Option<Given<bool>>,
    pub(super) hooks: Table<RawHooks>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawForward {
    pub(super) enabled: Option<Given<bool>>,
    pub(super) listeners: Option<Vec<Given<String>>>,
    pub(super) allow_clients: Option<Vec<Given<String>>>,
    pub(super) allow_loopback: Option<Given<bool>>,
    pub(super) allow_private: Option<Given<bool>>,
    pub(super) connect_ports: Option<Vec<Given<Whole>>>,
    pub(super) allow: Option<Vec<Given<String>>>,
    pub(super) deny: Option<Vec<Given<String>>>,
    pub(super) users_file: Option<Given<String>>,
    pub(super) realm: Option<Given<String>>,
    pub(super) auth_failures: Option<Given<Whole>>,
    pub(super) add_forwarded: Option<Given<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawParent {
    pub(super) name: Option<Given<String>>,
    pub(super) url: Option<Given<String>>,
    pub(super) credentials: Option<Given<Secret>>,
    pub(super) domains: Option<Vec<Given<String>>>,
    pub(super) except: Option<Vec<Given<String>>>,
    pub(super) direct_fallback: Option<Given<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDns {
    pub(super) cache_entries: Option<Given<Whole>>,
    pub(super) negative_ttl: Option<Given<Span>>,
    pub(super) timeout: Option<Given<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMemory {
    pub(super) check_interval: Option<Given<Span>>,
    pub(super) cleanup_mb: Option<Given<Whole>>,
    pub(super) max_mb: Option<Given<Whole>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAdmin {
    pub(super) enabled: Option<Given<bool>>,
    pub(super) address: Option<Given<String>>,
    pub(super) token: Option<Given<Secret>>,
    pub(super) on_data_port: Option<Given<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStats {
    pub(super) interval: Option<Given<Span>>,
    pub(super) log: Option<Given<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAlerts {
    pub(super) error_rate: Option<Given<Share>>,
    pub(super) p95: Option<Given<Span>>,
    pub(super) memory_mb: Option<Given<Whole>>,
    pub(super) pool_wait: Option<Given<Span>>,
    pub(super) upstream_down: Option<Given<bool>>,
    pub(super) open_files: Option<Given<Share>>,
    pub(super) interval: Option<Given<Span>>,
    pub(super) webhook: Option<Given<String>>,
}

impl<'de> Deserialize<'de> for RawOrigin {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RawOriginVisitor)
    }
}

// Written out because an untagged enum would lose the position of what is wrong inside it.
struct RawOriginVisitor;

impl<'de> Visitor<'de> for RawOriginVisitor {
    type Value = RawOrigin;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(
            "a URL such as \"http://10.0.0.1:8080\" or a table { url = \"...\", weight = 1 }",
        )
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<RawOrigin, E> {
        Ok(RawOrigin { url: url.to_owned(), weight: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawOrigin, A::Error> {
        let table = RawOriginTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(RawOrigin { url: table.url, weight: table.weight })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    // Written out because serde's own error would show the number.
    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Err(E::invalid_type(Unexpected::Other("number"), &self))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        Err(E::invalid_type(Unexpected::Other("number"), &self))
    }
}
