//! The configuration, parsed once and never checked again.
//!
//! In: the built-in defaults, a TOML file and the command line's flags, each overriding the one
//! before it. Out: a `Config` in which every value is in range, every name is resolved to an
//! index and nothing means "default". It is shared as an `Arc` and read on the data path.
//! This is the only module that knows TOML. It never opens a socket and never asks DNS.

mod check;
mod defaults;
mod error;
mod names;
mod raw;
mod units;

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use self::error::Problem;
use self::raw::{Given, RawConfig, RawOrigin, RawUpstream, Table};
use self::units::Whole;

pub use self::error::{ConfigError, EXIT_CONFIG};

/// Read when no file is named and the command line names no upstream.
pub const DEFAULT_FILE: &str = "config.toml";

/// Name of the upstream that `--upstream` flags make up.
pub const FLAG_UPSTREAM: &str = "default";

/// A file of 10,000 routes is below this. A larger one is not a configuration.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub server: ServerConfig,
    pub limits: LimitsConfig,
    pub timeouts: TimeoutsConfig,
    pub pool: PoolConfig,
    pub buffers: BuffersConfig,
    pub log: LogConfig,
    /// Never empty. Routes and the data path name an upstream by its index here.
    pub upstreams: Vec<UpstreamConfig>,
    /// Never empty: without a `[[route]]` one route sends everything to the first upstream.
    pub routes: Vec<RouteConfig>,
}

/// Where ringway listens and as what it presents itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// `host` and `port` first, then `listen`. Never empty, no two of them overlap.
    pub listeners: Vec<SocketAddr>,
    /// Threads, each with its ring. At least 1: the file's 0 has become the number of cores.
    pub workers: usize,
    /// Peers whose Forwarded and X-Forwarded fields are believed.
    pub trusted_proxies: TrustedProxies,
    /// The pseudonym in Via and Proxy-Status; a token.
    pub via: String,
    /// How long exchanges may go on after the signal to stop. Zero cuts them at once.
    pub drain_timeout: Duration,
    /// The second argument of `listen(2)`, which the kernel trims to `somaxconn`.
    pub backlog: u32,
}

/// Networks, asked once per client connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// What a client may ask for at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Client connections of the whole process.
    pub clients: usize,
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
    /// For one write that makes no progress, to either side.
    pub write: Duration,
    /// For a free connection when the pool is at its limit.
    pub pool: Duration,
    /// What the client is told when `pool` runs out.
    pub pool_status: PoolStatus,
    /// For a whole request head, from its first byte.
    pub client_head: Duration,
    /// Between two requests of a client connection.
    pub client_idle: Duration,
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
    /// Of the whole process, busy and idle.
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
}

/// Names are in lower case, without a port and without the root's dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPattern {
    Any,
    Exact(String),
    /// `.example.org` for `*.example.org`, which `example.org` itself does not fit.
    Suffix(String),
}

/// What the command line sets. It overrides the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Flags {
    /// Address to listen on, in place of server.host
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Port to listen on, in place of server.port; 0 lets the system choose
    #[arg(long, global = true, value_name = "PORT")]
    pub port: Option<u16>,
    /// Origin to forward to; may be repeated. Replaces every upstream and route of the file,
    /// and without --config no file is read
    #[arg(long, global = true, value_name = "URL")]
    pub upstream: Vec<String>,
    /// Threads, each with its own ring, in place of server.workers; 0 is one per core
    #[arg(long, global = true, value_name = "COUNT")]
    pub workers: Option<u32>,
}

impl Config {
    /// Reads `path`, or without one what `file_in_use` finds, and lets `flags` override it.
    pub fn load(path: Option<&Path>, flags: &Flags) -> Result<Self, ConfigError> {
        let Some(path) = file_in_use(path, flags) else {
            return Self::merge(Path::new(DEFAULT_FILE), "", flags);
        };
        let text = read(&path).map_err(|problem| ConfigError::of_file(&path, problem))?;
        Self::merge(&path, &text, flags)
    }

    /// The one place where sources meet. A further source overrides the fields of the raw
    /// configuration here, between the weaker and the stronger one.
    fn merge(path: &Path, text: &str, flags: &Flags) -> Result<Self, ConfigError> {
        let mut raw: RawConfig =
            toml::from_str(text).map_err(|error| ConfigError::of_toml(path, text, &error))?;
        raw.apply_flags(flags);
        check::config(&raw).map_err(|refusal| ConfigError::of_refusal(path, text, refusal))
    }

    /// Whether the demo origin has to be started.
    pub fn needs_demo(&self) -> bool {
        self.upstreams.iter().any(|upstream| upstream.is_demo)
    }

    /// Makes `address` the origin of every upstream that is the built-in demo.
    pub fn place_demo(&mut self, address: SocketAddr) {
        for upstream in self.upstreams.iter_mut().filter(|upstream| upstream.is_demo) {
            upstream.origins = vec![OriginConfig {
                host: address.ip().to_string(),
                port: address.port(),
                weight: 1,
                authority: address.to_string(),
            }];
        }
    }
}

/// The file that `Config::load` reads: the one named, else `config.toml` if it is there. Flags
/// that name an upstream are a whole configuration, so they need no file and look for none.
pub fn file_in_use(path: Option<&Path>, flags: &Flags) -> Option<PathBuf> {
    match path {
        Some(path) => Some(path.to_owned()),
        None if flags.upstream.is_empty() => {
            Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists())
        }
        None => None,
    }
}

fn read(path: &Path) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(Problem::Unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Problem::TooLarge { bytes_max: FILE_BYTES_MAX });
    }
    String::from_utf8(bytes).map_err(|_| Problem::NotText)
}

impl RawConfig {
    fn apply_flags(&mut self, flags: &Flags) {
        if let Some(host) = &flags.host {
            self.server.host = Some(Given::by_flag("--host", host.clone()));
        }
        if let Some(port) = flags.port {
            self.server.port = Some(Given::by_flag("--port", Whole(port.into())));
        }
        if let Some(workers) = flags.workers {
            self.server.workers = Some(Given::by_flag("--workers", Whole(workers.into())));
        }
        if !flags.upstream.is_empty() {
            let flag = "--upstream";
            let origin =
                |url: &String| Given::by_flag(flag, RawOrigin { url: url.clone(), weight: None });
            let origins = flags.upstream.iter().map(origin).collect();
            let upstream = RawUpstream {
                name: Some(Given::by_flag(flag, FLAG_UPSTREAM.to_owned())),
                origins: Some(Given::by_flag(flag, origins)),
                ..RawUpstream::default()
            };
            self.upstream = Some(Given::by_flag(flag, vec![Given::by_flag(flag, Table(upstream))]));
            self.route.clear();
        }
    }
}

impl TrustedProxies {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../config.toml");

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::merge(Path::new("a.toml"), text, &Flags::default())
    }

    /// Each entry: a file, and how the error for it begins after the file's name.
    #[track_caller]
    fn all_refused(table: &[(&str, &str)]) {
        for (text, expected) in table {
            let error = parse(text).expect_err(text).to_string();
            let error = error.strip_prefix("a.toml:").unwrap_or(&error);
            assert!(
                error.starts_with(expected),
                "\n{text}\n  found: {error}\n  wanted: {expected}"
            );
        }
    }

    #[test]
    fn the_shipped_file_and_an_empty_one_are_the_defaults() {
        assert_eq!(parse(SHIPPED).unwrap(), Config::default());
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_names_its_place_and_the_nearest_known_one() {
        all_refused(&[
            ("[servr]", "1:2: servr: unknown key, did you mean `server`?"),
            ("[server]\nprot = 1", "2:1: server.prot: unknown key, did you mean `port`?"),
            ("port = 1", "1:1: port: unknown key, expected one of server, limits, timeouts,"),
            ("a.b.c = 1", "1:1: a: unknown key, expected one of server,"),
            ("[pool]\nsize = 1", "2:1: pool.size: unknown key, expected one of max_connections,"),
            (
                "[[upstream]]\nname = \"a\"\norigins = [\"http://a\", { ulr = \"\" }]",
                "3:26: upstream[0].origins[1].ulr: unknown key, did you mean `url`?",
            ),
            (
                "[[route]]\nupstream = \"demo\"\n[[route]]\nstrip_prefx = true",
                "4:1: route[1].strip_prefx: unknown key, did you mean `strip_prefix`?",
            ),
        ]);
    }

    #[test]
    fn a_value_of_the_wrong_type_names_what_was_expected() {
        all_refused(&[
            ("server = 1", "1:10: server: invalid type: integer `1`, expected a table"),
            ("server = [\"::\", 1]", "1:10: server: invalid type: array, expected a table"),
            ("[[server]]\nport = 1", "1:1: server[0]: invalid type: array, expected a table"),
            ("upstream = 5", "1:12: upstream: invalid type: integer `5`, expected an array"),
            (
                "[server]\nport = \"x\"",
                "2:8: server.port: invalid type: string \"x\", expected a w",
            ),
            ("[server]\nport = 1.5", "2:8: server.port: invalid type: floating point `1.5`, exp"),
            ("[log]\naccess = 1", "2:10: log.access: invalid type: integer `1`, expected a bool"),
            ("[log]\nfile = 1", "2:8: log.file: invalid type: integer `1`, expected a string"),
            (
                "[timeouts]\nread = \"5 parsecs\"",
                "2:8: timeouts.read: invalid value: string \"5 parsecs\", expected a duration such",
            ),
            (
                "[buffers]\nchunk_bytes = -1",
                "2:15: buffers.chunk_bytes: invalid value: integer `-1`, expected a size such as",
            ),
            (
                "[[upstream]]\nname = \"a\"\norigins = [\"http://a\", 5]",
                "3:24: upstream[0].origins[1]: invalid type: integer `5`, expected a URL such as",
            ),
            (
                "[[upstream]]\nname = \"a\"\norigins = [{ weight = 1 }]",
                "3:12: upstream[0].origins[0]: missing key `url`",
            ),
        ]);
    }

    #[test]
    fn a_value_out_of_range_names_the_range() {
        all_refused(&[
            ("[server]\nport = 70000", "2:8: server.port: found 70000, expected a whole number f"),
            ("[server]\r\n\r\n# é\r\n  port = -1", "4:10: server.port: found -1, expected"),
            ("server = { via = \"é\", port = -1 }", "1:30: server.port: found -1, expected"),
            ("[limits]\nclients = 0", "2:11: limits.clients: found 0, expected a whole number"),
            ("[limits]\nheader_count = 257", "2:16: limits.header_count: found 257, expected a"),
            (
                "[timeouts]\nread = 0",
                "2:8: timeouts.read: found 0s, expected a duration from 1ms to 1d",
            ),
            ("[timeouts]\npool_status = 500", "2:15: timeouts.pool_status: found 500, expected 5"),
            (
                "[pool]\ntcp_keepalive = 0.5",
                "2:17: pool.tcp_keepalive: found 500ms, expected 0, or a duration from 1s to 327",
            ),
            (
                "[buffers]\nchunk_bytes = 5000",
                "2:15: buffers.chunk_bytes: found 5000B, expected a multiple of 4KiB",
            ),
            ("[buffers]\nchunk_bytes = \"2MiB\"", "2:15: buffers.chunk_bytes: found 2MiB, expec"),
            (
                "[log]\nlevel = \"loud\"",
                "2:9: log.level: found \"loud\", expected \"off\", \"error\", \"warn\", \"info\", \
                 \"debug\" or \"trace\"",
            ),
        ]);
    }

    #[test]
    fn text_that_is_not_toml_is_refused_at_its_place() {
        all_refused(&[
            ("[server]\nport = 1\nport = 2", "3:1: duplicate key"),
            ("[server", "1:8: unclosed table, expected `]`"),
            ("x = ", "1:5: "),
            ("\0", "1:"),
            (&"[".repeat(100_000), "1:"),
            (&format!("x = {}", "[".repeat(100_000)), "1:"),
            (&format!("x = {}", "{a=".repeat(100_000)), "1:"),
        ]);
    }

    #[test]
    fn contradictions_between_keys_are_refused() {
        let app = "[[upstream]]\nname = \"app\"\n";
        let own = |rest: &str| format!("{app}{rest}");
        all_refused(&[
            ("upstream = []", "1:12: upstream: missing an upstream: there must be one"),
            ("[[upstream]]\nbuiltin = \"demo\"", "1:1: upstream[0]: missing key `name`"),
            (app, "1:1: upstream[0]: missing key `origins`, or `builtin = \"demo\"`"),
            (&own("origins = []"), "3:11: upstream[0].origins: missing an origin"),
            (&own("builtin = \"x\""), "3:11: upstream[0].builtin: found \"x\", expected \"demo\""),
            (
                &own("builtin = \"demo\"\norigins = [\"http://a\"]"),
                "4:11: upstream[0].origins: an upstream has either `builtin` or `origins`",
            ),
            (
                &own("origins = [\"https://a\"]"),
                "3:12: upstream[0].origins[0]: found \"https://a\", expected an http:// URL",
            ),
            (
                &own("origins = [\"http://a\", { url = \"http://A:80/\" }]"),
                "3:24: upstream[0].origins[1]: there is already an origin \"http://A:80/\"",
            ),
            (
                &own("origins = [{ url = \"http://a\", weight = 0 }]"),
                "3:41: upstream[0].origins[0].weight: found 0, expected a whole number from 1",
            ),
            (&own("builtin = \"demo\"\nhost = \"a b\""), "4:8: upstream[0].host: found \"a b\""),
            (
                &format!("{app}builtin = \"demo\"\n{app}builtin = \"demo\""),
                "5:8: upstream[1].name: there is already an upstream named \"app\"",
            ),
            ("[[route]]", "1:1: route[0]: missing key `upstream`"),
            (
                "[[route]]\nupstream = \"dmeo\"",
                "2:12: route[0].upstream: there is no upstream \"dmeo\", did you mean \"demo\"?",
            ),
            (
                "[[route]]\nupstream = \"\\u001b[2J\"",
                "2:12: route[0].upstream: there is no upstream \"\\u{1b}[2J\"",
            ),
            (
                "[[route]]\nupstream = \"demo\"\n[[route]]\npath = \"/\"\nupstream = \"demo\"",
                "3:1: route[1]: there is already a route with this host and path",
            ),
            ("[[route]]\nupstream = \"demo\"\npath = \"a\"", "3:8: route[0].path: found \"a\""),
            (
                "[[route]]\nupstream = \"demo\"\nhost = \"a:80\"",
                "3:8: route[0].host: found \"a:80\", expected a host name without a port",
            ),
            (
                "[server]\nlisten = [\"[::]:8000\", \"127.0.0.1:8000\"]",
                "2:24: server.listen[1]: 127.0.0.1:8000 is taken by the listener 0.0.0.0:8000",
            ),
            (
                "[server]\ntrusted_proxies = [\"10.0.0.0/33\"]",
                "2:20: server.trusted_proxies[0]: found \"10.0.0.0/33\", expected a network such",
            ),
            ("[server]\nvia = \"a b\"", "2:7: server.via: found \"a b\", expected a name"),
            ("[server]\nhost = \"nowhere\"", "2:8: server.host: found \"nowhere\", expected an"),
        ]);
    }

    #[test]
    fn a_full_file_is_read_as_it_is_written() {
        let config = parse(
            r#"
            [server]
            host = "127.0.0.1"
            port = 0
            listen = ["127.0.0.1:0", "[::1]:8001"]
            workers = 3
            trusted_proxies = ["10.1.2.3/8", "::1"]
            drain_timeout = 0
            [limits]
            body_bytes = "1MiB"
            [timeouts]
            read = "1m30s"
            write = 0.25
            pool_status = 503
            [log]
            level = "off"
            format = "json"
            file = "/var/log/ringway.log"
            [[upstream]]
            name = "a"
            origins = ["http://10.0.0.1:8080", { url = "http://b", weight = 3 }]
            host = "origin"
            fail_timeout = 0
            [[upstream]]
            name = "b"
            origins = ["http://[::1]:81"]
            host = "app.example:8080"
            [[route]]
            host = "*.example.org"
            path = "/api"
            upstream = "b"
            strip_prefix = true
            [[route]]
            upstream = "a"
            "#,
        )
        .unwrap();
        let listeners = ["127.0.0.1:0", "127.0.0.1:0", "[::1]:8001"];
        assert_eq!(config.server.listeners, listeners.map(|text| text.parse().unwrap()));
        assert_eq!(config.server.workers, 3);
        assert_eq!(config.server.drain_timeout, Duration::ZERO);
        assert_eq!(config.limits.body_bytes, 1 << 20);
        assert_eq!(config.timeouts.read, Duration::from_secs(90));
        assert_eq!(config.timeouts.write, Duration::from_millis(250));
        assert_eq!(config.timeouts.pool_status.code(), 503);
        assert_eq!(config.log.level, LevelFilter::OFF);
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.log.target, LogTarget::File("/var/log/ringway.log".into()));
        let origin = |host: &str, port, weight, authority: &str| OriginConfig {
            host: host.to_owned(),
            port,
            weight,
            authority: authority.to_owned(),
        };
        let [a, b] = config.upstreams.as_slice() else { panic!("{:?}", config.upstreams) };
        let origins = [origin("10.0.0.1", 8080, 1, "10.0.0.1:8080"), origin("b", 80, 3, "b")];
        assert_eq!(a.origins, origins);
        assert_eq!((&a.host, a.fail_timeout), (&HostPolicy::Origin, Duration::ZERO));
        assert_eq!(b.origins, [origin("::1", 81, 1, "[::1]:81")]);
        assert_eq!(b.host, HostPolicy::Fixed("app.example:8080".to_owned()));
        let [first, second] = config.routes.as_slice() else { panic!("{:?}", config.routes) };
        assert_eq!(first.host, HostPattern::Suffix(".example.org".to_owned()));
        assert_eq!((first.path.as_str(), first.upstream, first.strip_prefix), ("/api", 1, true));
        assert_eq!((&second.host, second.path.as_str()), (&HostPattern::Any, "/"));
        assert!(!config.needs_demo());
    }

    #[test]
    fn a_limit_that_another_makes_pointless_is_trimmed() {
        let config = parse(
            "[pool]\nmax_connections = 3\n[limits]\nhead_bytes = \"4KiB\"\n\
             [buffers]\nchunks_per_worker = 2",
        )
        .unwrap();
        assert_eq!((config.pool.max_idle, config.pool.prewarm), (3, 3));
        assert_eq!(config.limits.target_bytes, 4096);
        assert_eq!(config.buffers.head_buffer_bytes, 4096);
        assert_eq!(config.buffers.operation_chunks, 2);
    }

    #[test]
    fn trusted_proxies_are_networks_of_both_families() {
        let text = "[server]\ntrusted_proxies = [\"10.1.2.3/8\", \"192.0.2.7\", \"fd00::/8\"]";
        let trusted = parse(text).unwrap().server.trusted_proxies;
        let table = [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:11.0.0.1", false),
        ];
        for (address, is_trusted) in table {
            assert_eq!(trusted.contains(address.parse().unwrap()), is_trusted, "{address}");
        }
        assert!(!TrustedProxies::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn flags_override_the_file() {
        let flags = Flags {
            host: Some("::1".to_owned()),
            port: Some(0),
            upstream: vec!["http://a:1".to_owned(), "http://b:2".to_owned()],
            workers: Some(2),
        };
        let text = "[server]\nport = 99\nworkers = 9\n[pool]\nmax_idle = 7\n\
                    [[upstream]]\nname = \"x\"\norigins = [\"http://x\"]\n\
                    [[route]]\nhost = \"x\"\nupstream = \"x\"";
        let config = Config::merge(Path::new("a.toml"), text, &flags).unwrap();
        assert_eq!(config.server.listeners, ["[::1]:0".parse().unwrap()]);
        assert_eq!(config.server.workers, 2);
        assert_eq!(config.pool.max_idle, 7);
        assert_eq!(config.routes, Config::default().routes);
        let [upstream] = config.upstreams.as_slice() else { panic!("{:?}", config.upstreams) };
        assert_eq!(upstream.name, FLAG_UPSTREAM);
        let authorities: Vec<_> = upstream.origins.iter().map(|o| o.authority.as_str()).collect();
        assert_eq!(authorities, ["a:1", "b:2"]);
    }

    #[test]
    fn a_mistake_in_a_flag_names_the_flag() {
        let table = [
            (
                Flags { upstream: vec!["b:80".to_owned()], ..Flags::default() },
                "--upstream: found \"b:80\", expected a URL of the form http://HOST:PORT",
            ),
            (
                Flags { host: Some("b".to_owned()), ..Flags::default() },
                "--host: found \"b\", expected an IP address",
            ),
            (
                Flags { workers: Some(5000), ..Flags::default() },
                "--workers: found 5000, expected a whole number from 0 to 1024",
            ),
        ];
        for (flags, expected) in table {
            let error = Config::merge(Path::new("a.toml"), "", &flags).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_mistake_in_what_a_flag_replaces_is_still_refused_when_it_is_not_toml() {
        let flags = Flags { upstream: vec!["http://a".to_owned()], ..Flags::default() };
        let text = "[[upstream]]\nnmae = \"x\"";
        assert!(Config::merge(Path::new("a.toml"), text, &flags).is_err());
    }

    #[test]
    fn upstream_flags_need_no_file_and_look_for_none() {
        let with = Flags { upstream: vec!["http://a".to_owned()], ..Flags::default() };
        let named = Path::new("named.toml");
        assert_eq!(file_in_use(None, &with), None);
        assert_eq!(file_in_use(Some(named), &with).as_deref(), Some(named));
        assert_eq!(file_in_use(Some(named), &Flags::default()).as_deref(), Some(named));
    }

    #[test]
    fn a_file_that_cannot_be_a_configuration_is_named() {
        let directory = std::env::temp_dir().join(format!("ringway-config-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let large = directory.join("large.toml");
        std::fs::write(&large, vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
        let binary = directory.join("binary.toml");
        std::fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
        let table = [
            (directory.join("absent.toml"), "cannot be read: No such file or directory"),
            (directory.clone(), "cannot be read: Is a directory"),
            (large, "is larger than 4194304 bytes"),
            (binary, "is not UTF-8 text"),
        ];
        for (path, expected) in table {
            let error = Config::load(Some(&path), &Flags::default()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}: {expected}", path.display())), "{error}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_demo_gets_its_address_when_it_has_started() {
        let mut config = Config::default();
        assert!(config.needs_demo());
        config.place_demo("127.0.0.1:4321".parse().unwrap());
        let origin = &config.upstreams[0].origins[0];
        assert_eq!((origin.host.as_str(), origin.port), ("127.0.0.1", 4321));
        assert_eq!(origin.authority, "127.0.0.1:4321");
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        // Every prefix, and the shipped file with each of its bytes replaced: errors or not, but
        // a position that can be computed.
        for end in (0..SHIPPED.len()).filter(|end| SHIPPED.is_char_boundary(*end)) {
            let _ = parse(&SHIPPED[..end]).map_err(|error| error.to_string());
        }
        for (at, _) in SHIPPED.char_indices() {
            for with in ["\"", "é"] {
                let text = format!("{}{with}{}", &SHIPPED[..at], &SHIPPED[at + 1..]);
                let _ = parse(&text).map_err(|error| error.to_string());
            }
        }
    }
}
