//! The sections that hold for every client and origin, from `[server]` to `[log]`.
//!
//! In: TOML, JSON and texts, by way of serde. Out: what the rest of the program reads: a section is
//! one struct, whose fields are its keys with their kinds, and whose comments are the reference
//! (`config.toml`, docs/reference/keys.md). Each default stands here once. What one key means for
//! another is settled in `check`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

use super::access_field::{AccessField, Named};
use super::access_format::{AccessFormat, Format};
use super::access_when::{AccessWhen, When};
use super::introduction::{AddVia, ForwardedForms};
use super::kinds::own::{
    Account, Address, ClientHeader, File, Keepalive, NetworkList, Output, Pages, PrewarmCount,
    Pseudonym,
};
use super::kinds::plain::{AnyBytes, Count, Size, Timeout, UpToAnHour, Word, Words};
use super::kinds::{As, List, Switched};
use super::listener::{Listener, ListenerConfig};
use super::networks::Networks;
use super::origins::Zone;
use crate::http::fields::Underscores;
use crate::limits::HEADER_COUNT_MAX;

#[expect(clippy::cast_possible_wrap, reason = "a few hundred")]
const HEADERS_MAX: i64 = HEADER_COUNT_MAX as i64;

/// Where ringway listens and as what it presents itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct ServerConfig {
    /// Address of the first listener: an IP address or "localhost". "" is no such listener: then
    /// `listen` names them all.
    #[serde(with = "Switched::<Address>")]
    #[schemars(extend("x-reload" = "drain"))]
    pub host: Option<IpAddr>,
    /// Its port. 0 to 65535; 0 lets the system choose one.
    #[serde(with = "Count::<u16, 0, 65_535>")]
    #[schemars(extend("x-reload" = "drain"))]
    pub port: u16,
    /// Further listeners, such as ["127.0.0.1:8001", "[::]:8000", "unix:/run/ringway/http.sock"].
    /// An IPv6 listener takes IPv6 only. A table says more of one: { address = "unix:/run/a.sock",
    /// mode = "0666" }; the file of a Unix socket has the mode 0660 unless told otherwise.
    #[serde(with = "List::<Listener>")]
    #[schemars(extend("x-reload" = "drain"))]
    pub listen: Vec<ListenerConfig>,
    /// Listeners that speak TLS, such as ["0.0.0.0:8443"]: see [tls]. Each is written as one of
    /// listen.
    #[serde(with = "List::<Listener>")]
    #[schemars(extend("x-reload" = "drain"))]
    pub listen_tls: Vec<ListenerConfig>,
    /// Whether a request that comes without TLS is sent to the first of listen_tls, by a 308 to
    /// https://.
    pub redirect_https: bool,
    /// Threads, each with its own ring and connections. 0 is one per core; at most 1024.
    #[serde(with = "Count::<usize, 0, 1024>")]
    #[schemars(extend("x-reload" = "drain"))]
    pub workers: usize,
    /// Whom the process becomes, for good, when all is bound: a name or number; "" is nobody else.
    #[serde(with = "As::<Account>")]
    #[schemars(extend("x-reload" = "restart"))]
    pub user: String,
    /// Its group. "" is the user's own, with those that the user is a member of.
    #[serde(with = "As::<Account>")]
    #[schemars(extend("x-reload" = "restart"))]
    pub group: String,
    /// Whether Landlock keeps it to the system's files and those that the configuration names.
    #[schemars(extend("x-reload" = "restart"))]
    pub landlock: bool,
    /// Whether seccomp refuses calls that no proxy makes: mounts, tracing, modules, clocks.
    #[schemars(extend("x-reload" = "restart"))]
    pub seccomp: bool,
    /// What the workers wait by: "io_uring"; "epoll", which costs a request two more system calls;
    /// or "auto", which is io_uring where it can be had, and else epoll with a warning that says
    /// why.
    #[serde(with = "Word::<DriverChoice>")]
    #[schemars(extend("x-reload" = "restart"))]
    pub driver: DriverChoice,
    /// Networks whose Forwarded and X-Forwarded fields are believed, such as ["10.0.0.0/8"], and
    /// "unix" for who comes by a Unix socket. What any other client says in them is dropped.
    #[serde(with = "As::<NetworkList>")]
    pub trusted_proxies: Networks,
    /// The one field by which a trusted proxy says who the client is: its last address that is not
    /// trusted. X-Forwarded-For, Forwarded, or that of a CDN, such as "CF-Connecting-IP", which
    /// anybody else's request then loses.
    #[serde(with = "As::<ClientHeader>")]
    pub client_ip_header: String,
    /// How origins are told of the client: "x" by X-Forwarded-For, -Proto and -Host, "rfc" by
    /// Forwarded, or "both". What a trusted proxy says in one form is carried over to the other,
    /// and what it does not say is left out.
    #[serde(with = "Word::<ForwardedForms>")]
    pub forwarded: ForwardedForms,
    /// Whether origins get the client's address in X-Real-IP too.
    pub add_real_ip: bool,
    /// Whether origins get the port that the client asked in X-Forwarded-Port, unless a trusted
    /// proxy says it.
    pub add_forwarded_port: bool,
    /// Whether origins get X-Forwarded-Ssl, "on" or "off", unless a trusted proxy says it.
    pub add_forwarded_ssl: bool,
    /// What of a path decides about routes and their hooks: "normal" is its normal form, and where
    /// an origin could read it as a path of another route whose hooks guard, the request is
    /// answered 400; "raw" is the bytes of the client.
    #[serde(with = "Word::<PathMatch>")]
    pub path_match: PathMatch,
    /// Where this ringway is: origins with the same `zone` are asked first. "" is nowhere.
    #[serde(with = "As::<Zone>")]
    pub zone: String,
    /// The name under which ringway appears in Via and Proxy-Status.
    #[serde(with = "As::<Pseudonym>")]
    pub via: String,
    /// Who is told in Via what a message came through: "forward", both sides of the forward proxy,
    /// "both", every origin and client, or "off", nobody. Servers do not compress for proxies.
    #[serde(with = "Word::<AddVia>")]
    pub add_via: AddVia,
    /// How long exchanges may go on after SIGTERM. 0 to 1h; 0 cuts them at once.
    #[serde(with = "UpToAnHour")]
    pub drain_timeout: Duration,
    /// How long connections are still accepted after SIGTERM, while /ready fails already. 0 to 1h.
    #[serde(with = "UpToAnHour")]
    pub ready_grace: Duration,
    /// Connections that the kernel queues for each listener, up to net.core.somaxconn. 1 to 65535.
    #[serde(with = "Count::<u32, 1, 65_535>")]
    pub backlog: u32,
    /// Whether to read this file again, and follow it, whenever it changes.
    pub watch_config: bool,
    /// What a client means that ends its side while its answer is awaited or on its way: "close",
    /// that it has gone, or "keep", that it still wants its answer. Of HTTP/1: a stream of HTTP/2
    /// says by itself whether it is given up.
    #[serde(with = "Word::<HalfClose>")]
    pub half_close: HalfClose,
    // `host` and `port` first, then `listen`, then `listen_tls`. Never empty, no two overlap.
    #[serde(skip)]
    pub listeners: Vec<ListenerConfig>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        let (host, port) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8000);
        Self {
            host: Some(host),
            port,
            listen: Vec::new(),
            listen_tls: Vec::new(),
            redirect_https: false,
            workers: 0,
            user: String::new(),
            group: String::new(),
            landlock: false,
            seccomp: false,
            driver: DriverChoice::Auto,
            trusted_proxies: Networks::default(),
            client_ip_header: "X-Forwarded-For".to_owned(),
            forwarded: ForwardedForms::Both,
            add_real_ip: false,
            add_forwarded_port: false,
            add_forwarded_ssl: false,
            path_match: PathMatch::Normal,
            zone: String::new(),
            via: "ringway".to_owned(),
            add_via: AddVia::Forward,
            drain_timeout: Duration::from_secs(30),
            ready_grace: Duration::ZERO,
            backlog: 4096,
            watch_config: false,
            half_close: HalfClose::Close,
            listeners: vec![ListenerConfig::tcp(SocketAddr::new(host, port))],
        }
    }
}

/// What a client may ask for at most.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Client connections of the whole process. 1 to 1000000.
    #[serde(with = "Count::<usize, 1, 1_000_000>")]
    pub clients: usize,
    /// CONNECT tunnels and upgraded connections of the whole process; further ones are answered
    /// 503. 1 to 1000000.
    #[serde(with = "Count::<usize, 1, 1_000_000>")]
    pub tunnels: usize,
    /// Requests under way by HTTP/2 in the whole process; further ones are sent back unheard
    /// (REFUSED_STREAM), which clients may repeat. 1 to 1000000.
    #[serde(with = "Count::<usize, 1, 1_000_000>")]
    pub streams: usize,
    /// Answers that have been on their way for longer than 10 s, beside pool.max_connections: they
    /// move here when others wait. 0 to 1000000.
    #[serde(with = "Count::<usize, 0, 1_000_000>")]
    pub long_responses: usize,
    /// A larger request head is answered 431. 1KiB to 1MiB.
    #[serde(with = "Size::<usize, 1024, 1_048_576>")]
    pub head_bytes: usize,
    /// More header fields are answered 431. 1 to 256.
    #[serde(with = "Count::<usize, 1, HEADERS_MAX>")]
    pub header_count: usize,
    /// An answer with a larger head is refused with 502. 1KiB to 1MiB, and never below head_bytes.
    #[serde(with = "Size::<usize, 1024, 1_048_576>")]
    pub response_head_bytes: usize,
    /// An answer with more header fields is refused with 502. 1 to 256.
    #[serde(with = "Count::<usize, 1, HEADERS_MAX>")]
    pub response_header_count: usize,
    /// What becomes of fields with a "_" in their name, which CGI, WSGI and PHP cannot tell from a
    /// "-": "drop_shadowing" drops those that would pass for a field that ringway sets, drops or
    /// believes, such as X_Forwarded_For, and SCRIPT_NAME, PATH_INFO and REMOTE_USER, which
    /// gunicorn believes; "keep", "drop_all", or "refuse" with 400.
    #[serde(with = "Word::<Underscores>")]
    pub underscores: Underscores,
    /// A longer request-target is answered 414. 64B to 1MiB, and never above head_bytes.
    #[serde(with = "Size::<usize, 64, 1_048_576>")]
    pub target_bytes: usize,
    /// A larger request body is answered 413. 0 is unlimited.
    #[serde(with = "As::<AnyBytes>")]
    pub body_bytes: u64,
    /// Bytes per second that have to move over 10 s, in either direction, while somebody waits for
    /// a connection to an origin; else the client that holds one is cut. 0 to 1GiB; 0 is off.
    #[serde(with = "Size::<u64, 0, { 1 << 30 }>")]
    pub min_body_rate: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            clients: 10_000,
            tunnels: 10_000,
            streams: 10_000,
            long_responses: 1000,
            head_bytes: 32 * 1024,
            header_count: 100,
            response_head_bytes: 64 * 1024,
            response_header_count: HEADER_COUNT_MAX,
            underscores: Underscores::DropShadowing,
            target_bytes: 8 * 1024,
            body_bytes: u64::MAX,
            min_body_rate: 240,
        }
    }
}

/// Connections to origins.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// Connections to each upstream, and to each target of forward requests, busy and idle. 1 to
    /// 1000000.
    #[serde(with = "Count::<usize, 1, 1_000_000>")]
    pub max_connections: usize,
    /// Idle ones in the whole process. 0 to 1000000, and never above max_connections; 0 keeps none.
    #[serde(with = "Count::<usize, 0, 1_000_000>")]
    pub max_idle: usize,
    /// An idle connection older than this is closed. 1ms to 1d.
    #[serde(with = "Timeout")]
    pub idle_expiry: Duration,
    /// Connections to each origin that are kept open before a request asks for them. "auto" is up
    /// to 5, and only to origins that have shown that they keep connections and serve several at
    /// once; a number, 0 to 1000, is for every origin. Never above max_idle.
    #[serde(with = "As::<PrewarmCount>")]
    pub prewarm: Prewarm,
    /// Idle time before the kernel probes an origin or a client: 1s to 32767s, whole; 0 is never.
    #[serde(with = "As::<Keepalive>")]
    #[schemars(extend("x-reload" = "drain"))]
    pub tcp_keepalive: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_connections: 100,
            max_idle: 20,
            idle_expiry: Duration::from_secs(30),
            prewarm: Prewarm::Auto,
            tcp_keepalive: Duration::from_secs(30),
        }
    }
}

/// How many connections are kept open before a request asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prewarm {
    /// A few, to those that have shown that they have use for them.
    Auto,
    Count(usize),
}

impl Prewarm {
    /// To one origin, at most.
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Auto => 5,
            Self::Count(count) => count,
        }
    }
}

/// The memory that bodies and heads stream through.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BuffersConfig {
    /// One chunk of registered memory. 4KiB to 1MiB, a multiple of 4KiB.
    #[serde(with = "As::<Pages>")]
    #[schemars(extend("x-reload" = "restart"))]
    pub chunk_bytes: usize,
    /// Chunks per worker. They are locked memory: 8MiB per user is a common limit. 1 to 1024.
    #[serde(with = "Count::<usize, 1, 1024>")]
    #[schemars(extend("x-reload" = "restart"))]
    pub chunks_per_worker: usize,
    /// Chunks that one operation may move at once. 1 to 64, and never above chunks_per_worker.
    #[serde(with = "Count::<usize, 1, 64>")]
    pub operation_chunks: usize,
    /// READ_FIXED and WRITE_FIXED in place of RECV and SEND. On sockets that costs more.
    pub fixed_operations: bool,
    /// First size of the buffer that a head is read into. 1KiB to 64KiB, never above
    /// limits.head_bytes.
    #[serde(with = "Size::<usize, 1024, 65_536>")]
    #[schemars(extend("x-reload" = "restart"))]
    pub head_buffer_bytes: usize,
    /// Where bodies wait of which more has come than their route holds in memory, in files without
    /// a name. "" is the system's folder: $TMPDIR, else /var/tmp or /tmp.
    #[serde(with = "Switched::<File>")]
    pub temp_folder: Option<PathBuf>,
    /// For such files together. 0 to 1TiB; 0 is no files: such a body goes on as it comes.
    #[serde(with = "Size::<u64, 0, 1_099_511_627_776>")]
    pub temp_bytes: u64,
    /// For one such file; what is beyond goes on as it comes. 0 to 1TiB.
    #[serde(with = "Size::<u64, 0, 1_099_511_627_776>")]
    pub temp_body_bytes: u64,
}

impl Default for BuffersConfig {
    fn default() -> Self {
        Self {
            chunk_bytes: 64 * 1024,
            chunks_per_worker: 32,
            operation_chunks: 8,
            fixed_operations: false,
            head_buffer_bytes: 8 * 1024,
            temp_folder: None,
            temp_bytes: 1 << 30,
            temp_body_bytes: 256 << 20,
        }
    }
}

/// The two logs: events, and one line per exchange.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
// The filter is part of the writers, which are made once.
#[schemars(extend("x-reload" = "restart"))]
pub struct LogConfig {
    /// "off", "error", "warn", "info", "debug" or "trace".
    #[serde(with = "Word::<LevelFilter>")]
    pub level: LevelFilter,
    /// "text" or "json".
    #[serde(with = "Word::<LogFormat>")]
    pub format: LogFormat,
    /// A file to append to. "" is standard output.
    #[serde(rename = "file", with = "As::<Output>")]
    pub target: LogTarget,
    /// One line per exchange.
    pub access: bool,
    /// "text", "json", "logfmt", or "combined", which goaccess, fail2ban and others read; or a
    /// format of one's own with fields in braces, such as
    /// '{client_ip} "{request}" {status} {total_s}'. One that begins with "{{" is JSON.
    #[serde(with = "As::<Format>")]
    pub access_format: AccessFormat,
    /// Further fields of the lines of "text", "json" and "logfmt", such as ["user", "request_id",
    /// "request.header.x-tenant"].
    #[serde(with = "List::<Named>")]
    pub access_fields: Vec<AccessField>,
    /// Which exchanges have a line, such as "status >= 500 or total > 1s or 1 in 100". "" is all.
    /// A route can say otherwise (`route.access_when`).
    #[serde(with = "Switched::<When>")]
    pub access_when: Option<AccessWhen>,
    /// A file to append to. "" is where `file` says.
    #[serde(with = "As::<Output>")]
    pub access_file: LogTarget,
    /// Lines of events, and per worker of exchanges, that may wait for a slow disk or pipe; further
    /// ones are dropped and counted. 1 to 1000000.
    #[serde(with = "Count::<usize, 1, 1_000_000>")]
    pub queue_lines: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: LevelFilter::INFO,
            format: LogFormat::Text,
            target: LogTarget::StandardOutput,
            access: false,
            access_format: AccessFormat::Text,
            access_fields: Vec::new(),
            access_when: None,
            access_file: LogTarget::StandardOutput,
            queue_lines: 8192,
        }
    }
}

impl LogConfig {
    /// `target`, unless exchanges have a file of their own.
    pub fn access_target(&self) -> &LogTarget {
        match &self.access_file {
            LogTarget::StandardOutput => &self.target,
            own @ LogTarget::File(_) => own,
        }
    }
}

/// What the workers are to wait by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// The ring, or epoll where there is none to be had.
    #[default]
    Auto,
    IoUring,
    Epoll,
}

impl Words for DriverChoice {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("io_uring", Self::IoUring), ("epoll", Self::Epoll)];
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

impl Words for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// By what of its path a request finds its route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathMatch {
    #[default]
    Normal,
    Raw,
}

impl Words for PathMatch {
    const WORDS: &'static [(&'static str, Self)] = &[("normal", Self::Normal), ("raw", Self::Raw)];
}

impl Words for HalfClose {
    const WORDS: &'static [(&'static str, Self)] = &[("close", Self::Close), ("keep", Self::Keep)];
}

impl Words for LevelFilter {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::OFF),
        ("error", Self::ERROR),
        ("warn", Self::WARN),
        ("info", Self::INFO),
        ("debug", Self::DEBUG),
        ("trace", Self::TRACE),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{all_refused, parse};

    #[test]
    fn a_value_out_of_range_names_the_range() {
        all_refused(&[
            ("[server]\nport = 70000", "2:8: server.port: found 70000, expected a whole number f"),
            ("[server]\r\n\r\n# é\r\n  port = -1", "4:10: server.port: found -1, expected"),
            (
                "log = { file = \"é\", queue_lines = -1 }",
                "1:35: log.queue_lines: found -1, expected",
            ),
            ("[server]\nport = \"x\"", "2:8: server.port: found \"x\", expected a whole number f"),
            ("[server]\nport = \"8000\"", "2:8: server.port: found \"8000\", expected a whole n"),
            (
                "[server]\nready_grace = \"61m\"",
                "2:15: server.ready_grace: found 1h1m, expected a duration from 0s to 1h",
            ),
            (
                "[limits]\ntunnels = 1000001",
                "2:11: limits.tunnels: found 1000001, expected a whole number from 1 to 1000000",
            ),
            (
                "[timeouts]\ntunnel_idle = \"8d\"",
                "2:15: timeouts.tunnel_idle: found 8d, expected a duration from 1ms to 7d",
            ),
            (
                "[timeouts]\ntunnel_half_closed = 0",
                "2:22: timeouts.tunnel_half_closed: found 0s, expected a duration from 1ms to 7d",
            ),
            (
                "[server]\nhalf_close = \"open\"",
                "2:14: server.half_close: found \"open\", expected \"close\" or \"keep\"",
            ),
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
    fn listeners_and_names_that_cannot_be_are_refused() {
        all_refused(&[
            (
                "[server]\nlisten = [\"[::]:8000\", \"127.0.0.1:8000\"]",
                "2:24: server.listen[1]: 127.0.0.1:8000 is taken by the listener 0.0.0.0:8000",
            ),
            (
                "[server]\ntrusted_proxies = [\"10.0.0.0/33\"]",
                "2:20: server.trusted_proxies[0]: found \"10.0.0.0/33\", expected a network such",
            ),
            (
                "[server]\nforwarded = \"xff\"",
                "2:13: server.forwarded: found \"xff\", expected \"x\", \"rfc\" or \"both\"",
            ),
            (
                "[server]\nclient_ip_header = \"Host\"",
                "2:20: server.client_ip_header: found \"Host\", expected a field by which a proxy",
            ),
            (
                "[server]\nclient_ip_header = \"X_Forwarded_For\"",
                "2:20: server.client_ip_header: found \"X_Forwarded_For\", expected a field by",
            ),
            (
                "[limits]\nunderscores = \"drop\"",
                "2:15: limits.underscores: found \"drop\", expected \"drop_shadowing\", \"keep\", \
                 \"drop_all\" or \"refuse\"",
            ),
            ("[server]\nvia = \"a b\"", "2:7: server.via: found \"a b\", expected a name"),
            ("[server]\nhost = \"nowhere\"", "2:8: server.host: found \"nowhere\", expected an"),
        ]);
    }

    #[test]
    fn a_limit_that_another_makes_pointless_is_trimmed() {
        let config = parse(
            "[pool]\nmax_connections = 3\nprewarm = 5\n[limits]\nhead_bytes = \"4KiB\"\n\
             [buffers]\nchunks_per_worker = 2",
        )
        .unwrap();
        assert_eq!((config.pool.max_idle, config.pool.prewarm), (3, Prewarm::Count(3)));
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
        assert!(!Networks::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_holds_for_tunnels_is_read() {
        let config = parse(
            "[server]\nready_grace = 5\n[limits]\ntunnels = 1\n\
             [timeouts]\ntunnel_idle = \"7d\"\ntunnel_half_closed = \"1ms\"",
        )
        .unwrap();
        assert_eq!(config.server.ready_grace, Duration::from_secs(5));
        assert_eq!(config.limits.tunnels, 1);
        assert_eq!(config.timeouts.tunnel_idle, Duration::from_secs(7 * 86_400));
        assert_eq!(config.timeouts.tunnel_half_closed, Duration::from_millis(1));
    }

    #[test]
    fn the_access_log_shares_the_file_of_events_unless_it_has_its_own() {
        let file = |name: &str| LogTarget::File(PathBuf::from(name));
        let table = [
            ("", LogTarget::StandardOutput, LogTarget::StandardOutput),
            ("file = \"a\"", file("a"), file("a")),
            ("file = \"a\"\naccess_file = \"\"", file("a"), file("a")),
            ("file = \"a\"\naccess_file = \"b\"", file("a"), file("b")),
            ("access_file = \"b\"", LogTarget::StandardOutput, file("b")),
        ];
        for (keys, events, exchanges) in table {
            let log = parse(&format!("[log]\n{keys}")).unwrap().log;
            let access = log.access_target().clone();
            assert_eq!((log.target, access), (events, exchanges), "{keys}");
        }
    }
}
