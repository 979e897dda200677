//! The sections that a reverse proxy is made of, from `[server]` to `[[route]]`, as they hold.
//!
//! In: nothing; `check` fills these types in. Out: what the rest of the program reads. Nothing
//! here means "default", and nothing needs to be checked again.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use super::HooksConfig;

/// Where ringway listens and as what it presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// `host` and `port` first, then `listen`. Never empty, no two of them overlap.
    pub listeners: Vec<SocketAddr>,
    /// Threads, each with its ring. At least 1: the file's 0 has become the number of cores.
    pub workers: usize,
    /// Peers whose Forwarded and X-Forwarded fields are believed.
    pub trusted_proxies: Networks,
    /// The pseudonym in Via and Proxy-Status; a token.
    pub via: String,
    /// How long exchanges may go on after the signal to stop. Zero cuts them at once.
    pub drain_timeout: Duration,
    /// How long connections are still accepted after the signal to stop, while /ready fails.
    pub ready_grace: Duration,
    /// The second argument of `listen(2)`, which the kernel trims to `somaxconn`.
    pub backlog: u32,
    /// Whether a change of the file is a reason to read it again.
    pub watch_config: bool,
    pub half_close: HalfClose,
}

/// What it means that a client has ended its side while its answer is awaited, or on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HalfClose {
    /// It has gone.
    #[default]
    Close,
    /// It has no more to send and still wants its answer.
    Keep,
}

/// Networks, asked once per client connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(pub(super) Vec<IpNet>);

/// What a client may ask for at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Client connections of the whole process.
    pub clients: usize,
    /// CONNECT tunnels and upgraded connections of the whole process.
    pub tunnels: usize,
    /// Answers that have been on their way for long, beside `pool.max_connections`.
    pub long_responses: usize,
    /// A larger head is answered 431.
    pub head_bytes: usize,
    /// More fields are answered 431. At most `limits::HEADER_COUNT_MAX`.
    pub header_count: usize,
    /// A longer request-target is answered 414. Never above `head_bytes`.
    pub target_bytes: usize,
    /// A larger request body is answered 413. `u64::MAX` when the file says 0, unlimited.
    pub body_bytes: u64,
    /// Bytes per second that a request body must keep up with. 0 asks for nothing.
    pub min_body_rate: u64,
}

/// Deadlines. None of them is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeoutsConfig {
    /// For the TCP connection to an origin.
    pub connect: Duration,
    /// Between two reads from an origin.
    pub read: Duration,
    /// For an origin that takes nothing while others wait for what the exchange holds.
    pub write: Duration,
    /// For a client that takes nothing of its answer.
    pub client_write: Duration,
    /// For a free connection when the pool is at its limit.
    pub pool: Duration,
    /// What the client is told when `pool` runs out.
    pub pool_status: PoolStatus,
    /// For a whole request head, from its first byte.
    pub client_head: Duration,
    /// Between two requests of a client connection.
    pub client_idle: Duration,
    /// For a tunnel in which neither side sends.
    pub tunnel_idle: Duration,
    /// For one side of a tunnel, after the other has ended its direction.
    pub tunnel_half_closed: Duration,
}

/// The status for a pool that stayed full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolStatus {
    GatewayTimeout,
    ServiceUnavailable,
}

/// Connections to origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// To each upstream and each target of forward requests, busy and idle.
    pub max_connections: usize,
    /// Of the whole process. Never above `max_connections`.
    pub max_idle: usize,
    /// An idle connection older than this is closed.
    pub idle_expiry: Duration,
    /// Connections per origin opened at start-up. Never above `max_idle`.
    pub prewarm: usize,
    /// Idle time before the kernel's first probe of either side, whole seconds. Zero sends none.
    pub tcp_keepalive: Duration,
}

/// The memory that bodies and heads stream through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuffersConfig {
    /// A multiple of the page size, 4 KiB.
    pub chunk_bytes: usize,
    pub chunks_per_worker: usize,
    /// Chunks that one operation may move. Never above `chunks_per_worker`.
    pub operation_chunks: usize,
    /// `READ_FIXED` and `WRITE_FIXED` in place of `RECV` and `SEND`.
    pub fixed_operations: bool,
    /// First size of a head's buffer. Never above `limits.head_bytes`.
    pub head_buffer_bytes: usize,
}

/// The two logs: events, and one line per exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub level: LevelFilter,
    pub format: LogFormat,
    pub target: LogTarget,
    pub access: bool,
    pub access_format: LogFormat,
    /// `target`, unless it has a file of its own.
    pub access_target: LogTarget,
    /// Lines of events, and per worker of exchanges, that may wait for their writer; further ones
    /// are dropped and counted.
    pub queue_lines: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    StandardOutput,
    File(PathBuf),
}

/// A group of origins that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Unique. Letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The built-in demo origin, whose address is known only once it has started.
    pub is_demo: bool,
    /// Never empty, unless `is_demo`: see `Config::place_demo`.
    pub origins: Vec<OriginConfig>,
    pub host: HostPolicy,
    /// How long an origin is passed over after a failure. Zero never passes it over.
    pub fail_timeout: Duration,
    /// In place of `pool.max_connections`, and for long answers too.
    pub max_connections: Option<usize>,
}

/// One address that requests can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginConfig {
    /// A name in lower case or an IP literal without brackets.
    pub host: String,
    pub port: u16,
    /// At least 1.
    pub weight: u32,
    /// `host:port` as a Host field carries it: no port when it is 80, IPv6 in brackets.
    pub authority: String,
}

/// The Host field that an origin sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPolicy {
    /// The client's.
    Pass,
    /// The `authority` of the origin.
    Origin,
    Fixed(String),
}

/// Which requests go to which upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    pub host: HostPattern,
    /// Begins with `/` and holds neither a query nor a fragment.
    pub path: String,
    /// Index in `Config::upstreams`.
    pub upstream: usize,
    pub strip_prefix: bool,
    /// `None` where its table is empty, or there is none.
    pub hooks: Option<Box<HooksConfig>>,
    /// Whether `Config::hooks` hold here too.
    pub inherits_hooks: bool,
}

/// Names are in lower case, without a port and without the root's dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPattern {
    Any,
    Exact(String),
    /// `.example.org` for `*.example.org`, which `example.org` itself does not fit.
    Suffix(String),
}

impl Networks {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of IPv4 or all of IPv6 is among them.
    pub fn has_everybody(&self) -> bool {
        self.0.iter().any(|network| network.prefix_len() == 0)
    }

    /// An IPv4 address mapped into IPv6 counts as the IPv4 address it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl PoolStatus {
    pub fn code(self) -> u16 {
        match self {
            Self::GatewayTimeout => 504,
            Self::ServiceUnavailable => 503,
        }
    }
}
