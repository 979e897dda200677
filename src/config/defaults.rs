//! The built-in defaults, each stated here and nowhere else in the code.
//!
//! In: nothing but the number of cores. Out: `Config::default()` and the parts that `check`
//! falls back on key by key. `config.toml` repeats every value for the reader; a test compares
//! the two, so neither can change alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use tracing::level_filters::LevelFilter;

use super::forward::{Rule, RuleTarget};
use super::rules::ANY_PORT;
use super::{
    AdminAddress, AdminConfig, AlertsConfig, BuffersConfig, Config, DnsConfig, ForwardConfig,
    HalfClose, HostPattern, HostPolicy, LimitsConfig, LogConfig, LogFormat, LogTarget,
    MemoryConfig, MemoryMax, Networks, ParentConfig, PoolConfig, PoolStatus, RouteConfig,
    ServerConfig, StatsConfig, TimeoutsConfig, UpstreamConfig,
};

pub(super) const DEFAULT_HOST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
pub(super) const DEFAULT_PORT: u16 = 8000;

const MINUTE: Duration = Duration::from_secs(60);

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
            forward: ForwardConfig::default(),
            parents: Vec::new(),
            dns: DnsConfig::default(),
            memory: MemoryConfig::default(),
            admin: AdminConfig::default(),
            stats: StatsConfig::default(),
            alerts: AlertsConfig::default(),
            hooks: None,
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listeners: vec![SocketAddr::new(DEFAULT_HOST, DEFAULT_PORT)],
            workers: cores(),
            trusted_proxies: Networks::default(),
            via: "ringway".to_owned(),
            drain_timeout: Duration::from_secs(30),
            ready_grace: Duration::ZERO,
            backlog: 4096,
            watch_config: false,
            half_close: HalfClose::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            clients: 10_000,
            tunnels: 10_000,
            long_responses: 1000,
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
            read: MINUTE,
            write: Duration::from_secs(10),
            client_write: MINUTE,
            pool: Duration::from_secs(5),
            pool_status: PoolStatus::GatewayTimeout,
            client_head: Duration::from_secs(10),
            client_idle: MINUTE,
            tunnel_idle: MINUTE * 60,
            tunnel_half_closed: MINUTE,
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
            max_connections: None,
        }
    }
}

impl RouteConfig {
    pub(super) fn everything_to_the_first() -> Self {
        Self {
            host: HostPattern::Any,
            path: "/".to_owned(),
            upstream: 0,
            strip_prefix: false,
            hooks: None,
            inherits_hooks: true,
        }
    }
}

impl Default for ForwardConfig {
    fn default() -> Self {
        let loopback_v4 = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
        let loopback_v6 = IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST));
        Self {
            enabled: false,
            listeners: Vec::new(),
            allow_clients: Networks(vec![loopback_v4, loopback_v6]),
            allow_loopback: false,
            allow_private: true,
            connect_ports: vec![443..=443],
            allow: Vec::new(),
            deny: Vec::new(),
            users_file: None,
            realm: "ringway".to_owned(),
            auth_failures: 10,
            add_forwarded: false,
        }
    }
}

impl ParentConfig {
    pub(super) fn every_domain() -> Vec<Rule> {
        vec![Rule { text: "*".to_owned(), target: RuleTarget::Any, ports: ANY_PORT }]
    }
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            cache_entries: 1024,
            negative_ttl: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { check_interval: MINUTE / 2, cleanup_mb: 400, max: MemoryMax::Mb(500) }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            address: AdminAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9901))),
            token: None,
            on_data_port: true,
        }
    }
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self { interval: MINUTE, log: true }
    }
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            error_rate: 0.05,
            p95: Duration::ZERO,
            memory_mb: 0,
            pool_wait: Duration::from_secs(1),
            upstream_down: true,
            open_files: 0.9,
            interval: Duration::from_secs(10),
            webhook: None,
        }
    }
}

/// The cores that this process may use: affinity and cgroup quota count.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
