//! The built-in defaults, each stated here and nowhere else in the code.
//!
//! In: nothing but the number of cores. Out: `Config::default()` and the parts that `check`
//! falls back on key by key. `config.toml` repeats every value for the reader; a test compares
//! the two, so neither can change alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::{
    BuffersConfig, Config, HostPattern, HostPolicy, LimitsConfig, LogConfig, LogFormat, LogTarget,
    PoolConfig, PoolStatus, RouteConfig, ServerConfig, TimeoutsConfig, TrustedProxies,
    UpstreamConfig,
};

pub(super) const DEFAULT_HOST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
pub(super) const DEFAULT_PORT: u16 = 8000;

impl Default for Config {
    fn default() -> Self {
        Self {
            server: ServerConfig::default(),
            limits: LimitsConfig::default(),
            timeouts: TimeoutsConfig::default(),
            pool: PoolConfig::default(),
            buffers: BuffersConfig::default(),
            log: LogConfig::default(),
            upstreams: vec![UpstreamConfig::demo()],
            routes: vec![RouteConfig::everything_to_the_first()],
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listeners: vec![SocketAddr::new(DEFAULT_HOST, DEFAULT_PORT)],
            workers: cores(),
            trusted_proxies: TrustedProxies::default(),
            via: "ringway".to_owned(),
            drain_timeout: Duration::from_secs(30),
            backlog: 4096,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            clients: 10_000,
            head_bytes: 32 * 1024,
            header_count: 100,
            target_bytes: 8 * 1024,
            body_bytes: u64::MAX,
            min_body_rate: 240,
        }
    }
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(60),
            write: Duration::from_secs(10),
            pool: Duration::from_secs(5),
            pool_status: PoolStatus::GatewayTimeout,
            client_head: Duration::from_secs(10),
            client_idle: Duration::from_secs(60),
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_connections: 100,
            max_idle: 20,
            idle_expiry: Duration::from_secs(30),
            prewarm: 5,
            tcp_keepalive: Duration::from_secs(30),
        }
    }
}

impl Default for BuffersConfig {
    fn default() -> Self {
        Self {
            chunk_bytes: 64 * 1024,
            chunks_per_worker: 32,
            operation_chunks: 8,
            fixed_operations: false,
            head_buffer_bytes: 8 * 1024,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: LevelFilter::INFO,
            format: LogFormat::Text,
            target: LogTarget::StandardOutput,
            access: false,
            access_format: LogFormat::Text,
            access_target: LogTarget::StandardOutput,
            queue_lines: 8192,
        }
    }
}

impl UpstreamConfig {
    pub(super) const FAIL_TIMEOUT: Duration = Duration::from_secs(10);

    pub(super) fn demo() -> Self {
        Self {
            name: "demo".to_owned(),
            is_demo: true,
            origins: Vec::new(),
            host: HostPolicy::Pass,
            fail_timeout: Self::FAIL_TIMEOUT,
        }
    }
}

impl RouteConfig {
    pub(super) fn everything_to_the_first() -> Self {
        Self { host: HostPattern::Any, path: "/".to_owned(), upstream: 0, strip_prefix: false }
    }
}

/// The cores that this process may use: affinity and cgroup quota count.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
