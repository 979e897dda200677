//! `[http2]`, HTTP/2 towards clients.
//!
//! In: TOML, JSON and texts, by way of serde. Out: where it is spoken, and how many streams a
//! client may have on one connection. What holds for all connections together is in `[limits]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kinds::plain::Count;

/// HTTP/2 towards clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http2Config {
    /// Whether listeners with TLS offer it (ALPN h2). Hot: new handshakes follow.
    pub enabled: bool,
    /// Whether clients may begin with it on plain listeners (h2c by prior knowledge); `Upgrade:
    /// h2c` is ignored either way.
    pub prior_knowledge: bool,
    /// Requests that a client may have under way on one connection. 1 to 1000.
    #[serde(with = "Count::<u32, 1, 1000>")]
    pub streams: u32,
}

impl Default for Http2Config {
    fn default() -> Self {
        Self { enabled: true, prior_knowledge: true, streams: 100 }
    }
}
