//! `[upstream.health]` and `[upstream.eject]`, and by what requests are alike.
//!
//! In: TOML, JSON and texts, by way of serde. Out: what a check sends and expects, and when an
//! origin is passed over for its answers. Nothing here asks anybody.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kinds::plain::{Count, Time, Words};
use super::kinds::{As, Optional, text_kind};
use super::names::is_route_path;
use crate::http::grpc::SERVICE_BYTES_MAX;
use crate::http::names::is_token;

/// How a target is chosen among those of its priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Smooth weighted round robin: weights 5, 1, 1 give `a a b a c a a`, not five in a row.
    #[default]
    RoundRobin,
    /// The fewest requests for its weight.
    LeastConnections,
    /// Of two at random, the one that promises to answer sooner: latency times requests
    /// (Mitzenmacher, The Power of Two Choices, 2001; Finagle's peak EWMA).
    P2cEwma,
    /// What is alike goes to the same one; what a lost target moves is its own share only
    /// (rendezvous hashing, Thaler and Ravishankar 1998).
    ConsistentHash,
    Random,
    /// The first in the order of the configuration.
    First,
}

impl Policy {
    /// Whether it goes by the requests that a target has.
    pub(crate) fn counts_requests(self) -> bool {
        matches!(self, Self::LeastConnections | Self::P2cEwma)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, policy)| policy == self);
        out.write_str(word.map_or("", |(word, _)| word))
    }
}

impl Words for Policy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round_robin", Self::RoundRobin),
        ("least_connections", Self::LeastConnections),
        ("p2c_ewma", Self::P2cEwma),
        ("consistent_hash", Self::ConsistentHash),
        ("random", Self::Random),
        ("first", Self::First),
    ];
}

/// By what requests are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashKey {
    #[default]
    Client,
    /// Without the query.
    Path,
    /// In lower case.
    Header(String),
    Cookie(String),
}

impl fmt::Display for HashKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => out.write_str("client"),
            Self::Path => out.write_str("path"),
            Self::Header(name) => write!(out, "header:{name}"),
            Self::Cookie(name) => write!(out, "cookie:{name}"),
        }
    }
}

text_kind!(
    HashBy: HashKey = |text| {
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_token);
        match text.split_once(':') {
            None if text == "client" => Some(HashKey::Client),
            None if text == "path" => Some(HashKey::Path),
            Some(("header", name)) if is_name(name) => {
                Some(HashKey::Header(name.to_ascii_lowercase()))
            }
            Some(("cookie", name)) if is_name(name) => Some(HashKey::Cookie(name.to_owned())),
            _ => None,
        }
    },
    "\"client\", \"path\", \"header:NAME\" or \"cookie:NAME\""
);

/// Statuses from one to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRanges(Vec<(u16, u16)>);

impl StatusRanges {
    pub(crate) fn has(&self, status: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (from, to)) in self.0.iter().enumerate() {
            out.write_str(if index == 0 { "" } else { "," })?;
            write!(out, "{from}")?;
            if from != to {
                write!(out, "-{to}")?;
            }
        }
        Ok(())
    }
}

text_kind!(
    Statuses: StatusRanges = |text| {
        let status = |text: &str| {
            let is_right = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|status| is_right && (200..=599).contains(status))
        };
        let range = |text: &str| {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            Some((status(from.trim())?, status(to.trim())?)).filter(|(from, to)| from <= to)
        };
        text.split(',').map(|part| range(part.trim())).collect::<Option<_>>().map(StatusRanges)
    },
    "statuses from 200 to 599, such as \"200-399\" or \"200,204\""
);
text_kind!(
    /// "" is connecting alone.
    CheckPath = |text: &str| text.is_empty() || is_check_path(text),
    "a path that begins with / and has no fragment or space, or \"\" for connecting alone"
);
text_kind!(
    CheckMethod = |text: &str| ["GET", "HEAD", "OPTIONS"].contains(&text),
    "\"GET\", \"HEAD\" or \"OPTIONS\""
);
text_kind!(
    /// "" is the origin's own.
    CheckHost = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic()),
    "a host name with or without a port, or \"\" for the origin's own"
);
text_kind!(
    /// "" is the whole server.
    GrpcService = |text: &str| {
        text.len() <= SERVICE_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
    },
    "the full name of a service such as \"shop.Cart\", of 100 bytes at most, or \"\" for the whole \
     server"
);
text_kind!(Needle = |text: &str| text.len() <= 256, "a text of 256 bytes at most");

/// A query is welcome.
fn is_check_path(text: &str) -> bool {
    let path = text.split('?').next().unwrap_or_default();
    is_route_path(path) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// What a check sends, and what it expects.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// What is asked for; "" is connecting alone.
    #[serde(with = "As::<CheckPath>")]
    pub path: String,
    /// The service of gRPC that has to be SERVING (grpc.health.v1), in place of `path`; "" is the
    /// whole server. Needs `http` "2", or "auto" with TLS.
    #[serde(with = "Optional::<GrpcService>", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "\"shop.Cart\""))]
    pub grpc: Option<String>,
    /// Between two checks of one origin, give or take a tenth. 100ms to 1h.
    #[serde(with = "Time::<100, 3_600_000>")]
    pub interval: Duration,
    /// For all of a check. 1ms to 1m.
    #[serde(with = "Time::<1, 60_000>")]
    pub timeout: Duration,
    /// Good checks in a row that bring an origin back. 1 to 100.
    #[serde(with = "Count::<u32, 1, 100>")]
    pub rise: u32,
    /// Bad checks in a row that put it out. 1 to 100; the very first check counts at once.
    #[serde(with = "Count::<u32, 1, 100>")]
    pub fall: u32,
    /// The statuses of a good answer.
    #[serde(with = "As::<Statuses>")]
    pub status: StatusRanges,
    /// What has to be in the first 64 KiB of the body; "" is anything.
    #[serde(with = "As::<Needle>")]
    pub body: String,
    /// "GET", "HEAD" or "OPTIONS".
    #[serde(with = "As::<CheckMethod>")]
    pub method: String,
    /// The Host of the check; "" is the origin's own.
    #[serde(with = "As::<CheckHost>")]
    pub host: String,
    /// Where the check goes, if not to the origin's own port. 0 to 65535; 0 is the origin's own.
    #[serde(with = "Count::<u16, 0, 65_535>")]
    pub port: u16,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            path: String::new(),
            grpc: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            status: StatusRanges(vec![(200, 399)]),
            body: String::new(),
            method: "GET".to_owned(),
            host: String::new(),
            port: 0,
        }
    }
}

/// When an origin is passed over for its answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EjectConfig {
    /// Errors in a row. 0 to 1000; 0 is not.
    #[serde(with = "Count::<u32, 0, 1000>")]
    pub errors: u32,
    /// Percent of errors within the window. 0 to 100; 0 is not.
    #[serde(with = "Count::<u32, 0, 100>")]
    pub percent: u32,
    /// 1s to 1h.
    #[serde(with = "Time::<1_000, 3_600_000>")]
    pub window: Duration,
    /// Answers within the window below which `percent` says nothing. 1 to 1000000.
    #[serde(with = "Count::<u32, 1, 1_000_000>")]
    pub requests: u32,
    /// Times the median latency of the others. 0 to 1000; 0 is not.
    #[serde(with = "Count::<u32, 0, 1000>")]
    pub slower: u32,
    /// The first pause. 100ms to 1h.
    #[serde(with = "Time::<100, 3_600_000>")]
    pub pause: Duration,
    /// The longest. 100ms to 1d.
    #[serde(with = "Time::<100, 86_400_000>")]
    pub pause_max: Duration,
    /// Percent of an upstream's origins that may be out for their answers. 0 to 100.
    #[serde(with = "Count::<u32, 0, 100>")]
    pub at_most: u32,
}

impl Default for EjectConfig {
    fn default() -> Self {
        Self {
            errors: 0,
            percent: 0,
            window: Duration::from_secs(10),
            requests: 20,
            slower: 0,
            pause: Duration::from_secs(10),
            pause_max: Duration::from_secs(300),
            at_most: 50,
        }
    }
}
