//! From what was written to what holds: ranges, names and the rules between keys.
//!
//! In: a `RawConfig` merged from every source. Out: a `Config`, or the first refusal with its
//! place and what was expected. A limit that another limit makes pointless is trimmed (a pool of
//! 10 connections keeps at most 10 idle), so that lowering one key never asks for a second.
//! Nothing here reads a file, asks DNS or knows a default.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tracing::level_filters::LevelFilter;

use crate::limits::HEADER_COUNT_MAX;

use super::defaults::{DEFAULT_HOST, DEFAULT_PORT, cores};
use super::error::{Problem, Refusal, nearest, quoted};
use super::names::{
    ADDRESS_FORM, HOST_POLICY_FORM, LISTEN_FORM, NETWORK_FORM, ROUTE_HOST_FORM, ROUTE_PATH_FORM,
    authority, host_pattern, is_route_path, is_token, is_upstream_name, parse_address,
    parse_listen, parse_origin, split_authority,
};
use super::raw::{
    Given, Place, RawBuffers, RawConfig, RawLimits, RawLog, RawOrigin, RawPool, RawRoute,
    RawServer, RawTimeouts, RawUpstream, Table,
};
use super::units::{Bytes, Span, Whole, bytes_text, duration_text};
use super::{
    BuffersConfig, Config, HostPolicy, LimitsConfig, LogConfig, LogFormat, LogTarget, OriginConfig,
    PoolConfig, PoolStatus, RouteConfig, ServerConfig, TimeoutsConfig, TrustedProxies,
    UpstreamConfig,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Deadlines tick every 100 ms at best, but a test may ask for less and get the next tick.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

/// `TCP_KEEPIDLE` takes no more.
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

/// Registered memory is pinned page by page.
const PAGE_BYTES: usize = 4096;

type Checked<T> = Result<T, Refusal>;

pub(super) fn config(raw: &RawConfig) -> Checked<Config> {
    let limits = limits(&raw.limits)?;
    let upstreams = upstreams(raw)?;
    Ok(Config {
        server: server(&raw.server)?,
        timeouts: timeouts(&raw.timeouts)?,
        pool: pool(&raw.pool)?,
        buffers: buffers(&raw.buffers, &limits)?,
        log: log(&raw.log)?,
        routes: routes(&raw.route, &upstreams)?,
        limits,
        upstreams,
    })
}

fn server(raw: &RawServer) -> Checked<ServerConfig> {
    let default = ServerConfig::default();
    let workers = number(raw.workers.as_ref(), 0..=1024, 0)?;
    Ok(ServerConfig {
        listeners: listeners(raw)?,
        workers: if workers == 0 { cores() } else { workers },
        trusted_proxies: trusted_proxies(&raw.trusted_proxies)?,
        via: match &raw.via {
            None => default.via,
            Some(via) if is_token(&via.value) => via.value.clone(),
            Some(via) => return Err(via.refuse("a name of letters, digits, \"-\", \"_\", \".\"")),
        },
        drain_timeout: duration(
            raw.drain_timeout.as_ref(),
            Duration::ZERO..=HOUR,
            default.drain_timeout,
        )?,
        backlog: number(raw.backlog.as_ref(), 1..=65_535, default.backlog)?,
    })
}

fn listeners(raw: &RawServer) -> Checked<Vec<SocketAddr>> {
    let host = match &raw.host {
        None => DEFAULT_HOST,
        Some(host) => parse_address(&host.value).ok_or_else(|| host.refuse(ADDRESS_FORM))?,
    };
    let port = number(raw.port.as_ref(), 0..=u16::MAX, DEFAULT_PORT)?;
    let mut listeners = vec![SocketAddr::new(host, port)];
    for listen in &raw.listen {
        let address = parse_listen(&listen.value).ok_or_else(|| listen.refuse(LISTEN_FORM))?;
        if let Some(other) = listeners.iter().find(|other| overlap(address, **other)) {
            let what = format!("{address} is taken by the listener {other}");
            return Err(listen.refuse_for(Problem::Duplicate { what }));
        }
        listeners.push(address);
    }
    Ok(listeners)
}

/// Whether the kernel would refuse the second of two binds. IPv6 listeners are IPv6 only.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn trusted_proxies(raw: &[Given<String>]) -> Checked<TrustedProxies> {
    let network = |given: &Given<String>| {
        let text = given.value.as_str();
        let network = text.parse::<IpNet>().ok();
        let network = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network.map(|network| network.trunc()).ok_or_else(|| given.refuse(NETWORK_FORM))
    };
    raw.iter().map(network).collect::<Checked<Vec<_>>>().map(TrustedProxies)
}

fn limits(raw: &RawLimits) -> Checked<LimitsConfig> {
    let default = LimitsConfig::default();
    let head_bytes = size(raw.head_bytes.as_ref(), KIB..=MIB, default.head_bytes as u64)?;
    let target_bytes = size(raw.target_bytes.as_ref(), 64..=MIB, default.target_bytes as u64)?;
    let body_bytes = size(raw.body_bytes.as_ref(), 0..=u64::MAX, default.body_bytes)?;
    Ok(LimitsConfig {
        clients: number(raw.clients.as_ref(), 1..=1_000_000, default.clients)?,
        head_bytes: head_bytes as usize,
        header_count: number(
            raw.header_count.as_ref(),
            1..=HEADER_COUNT_MAX,
            default.header_count,
        )?,
        target_bytes: target_bytes.min(head_bytes) as usize,
        body_bytes: if body_bytes == 0 { u64::MAX } else { body_bytes },
        min_body_rate: size(raw.min_body_rate.as_ref(), 0..=KIB * MIB, default.min_body_rate)?,
    })
}

fn timeouts(raw: &RawTimeouts) -> Checked<TimeoutsConfig> {
    let default = TimeoutsConfig::default();
    let pool_status = match &raw.pool_status {
        None => default.pool_status,
        Some(Given { value: Whole(504), .. }) => PoolStatus::GatewayTimeout,
        Some(Given { value: Whole(503), .. }) => PoolStatus::ServiceUnavailable,
        Some(other) => return Err(other.refuse("504 or 503")),
    };
    let timeout = |given: &Option<Given<Span>>, default| duration(given.as_ref(), TIMEOUT, default);
    Ok(TimeoutsConfig {
        connect: timeout(&raw.connect, default.connect)?,
        read: timeout(&raw.read, default.read)?,
        write: timeout(&raw.write, default.write)?,
        pool: timeout(&raw.pool, default.pool)?,
        pool_status,
        client_head: timeout(&raw.client_head, default.client_head)?,
        client_idle: timeout(&raw.client_idle, default.client_idle)?,
    })
}

fn pool(raw: &RawPool) -> Checked<PoolConfig> {
    let default = PoolConfig::default();
    let max_connections =
        number(raw.max_connections.as_ref(), 1..=1_000_000, default.max_connections)?;
    let max_idle = number(raw.max_idle.as_ref(), 0..=1_000_000, default.max_idle)?;
    let max_idle = max_idle.min(max_connections);
    let prewarm = number(raw.prewarm.as_ref(), 0..=1000, default.prewarm)?;
    let tcp_keepalive = match &raw.tcp_keepalive {
        None => default.tcp_keepalive,
        Some(Given { value: Span(time), .. }) if time.is_zero() => Duration::ZERO,
        Some(Given { value: Span(time), .. }) if (SECOND..=KEEPALIVE_MAX).contains(time) => *time,
        Some(other) => return Err(other.refuse("0, or a duration from 1s to 32767s")),
    };
    Ok(PoolConfig {
        max_connections,
        max_idle,
        idle_expiry: duration(raw.idle_expiry.as_ref(), TIMEOUT, default.idle_expiry)?,
        prewarm: prewarm.min(max_idle),
        // The socket option counts whole seconds.
        tcp_keepalive: Duration::from_secs(tcp_keepalive.as_secs()),
    })
}

fn buffers(raw: &RawBuffers, limits: &LimitsConfig) -> Checked<BuffersConfig> {
    let default = BuffersConfig::default();
    let chunk_bytes =
        size(raw.chunk_bytes.as_ref(), 4 * KIB..=MIB, default.chunk_bytes as u64)? as usize;
    if let Some(given) =
        raw.chunk_bytes.as_ref().filter(|_| !chunk_bytes.is_multiple_of(PAGE_BYTES))
    {
        return Err(given.refuse("a multiple of 4KiB, the page size"));
    }
    let chunks_per_worker =
        number(raw.chunks_per_worker.as_ref(), 1..=1024, default.chunks_per_worker)?;
    let operation_chunks = number(raw.operation_chunks.as_ref(), 1..=64, default.operation_chunks)?;
    let head_buffer_bytes =
        size(raw.head_buffer_bytes.as_ref(), KIB..=64 * KIB, default.head_buffer_bytes as u64)?;
    Ok(BuffersConfig {
        chunk_bytes,
        chunks_per_worker,
        operation_chunks: operation_chunks.min(chunks_per_worker),
        fixed_operations: flag(raw.fixed_operations.as_ref(), default.fixed_operations),
        head_buffer_bytes: (head_buffer_bytes as usize).min(limits.head_bytes),
    })
}

fn log(raw: &RawLog) -> Checked<LogConfig> {
    let default = LogConfig::default();
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let levels = [
        ("off", LevelFilter::OFF),
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("info", LevelFilter::INFO),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
    ];
    Ok(LogConfig {
        level: word(raw.level.as_ref(), &levels, default.level)?,
        format: word(raw.format.as_ref(), &formats, default.format)?,
        target: log_target(raw.file.as_ref()),
        access: flag(raw.access.as_ref(), default.access),
        access_format: word(raw.access_format.as_ref(), &formats, default.access_format)?,
        access_target: log_target(raw.access_file.as_ref()),
        queue_lines: number(raw.queue_lines.as_ref(), 1..=1_000_000, default.queue_lines)?,
    })
}

fn log_target(given: Option<&Given<String>>) -> LogTarget {
    match given {
        Some(file) if !file.value.is_empty() => LogTarget::File(PathBuf::from(&file.value)),
        _ => LogTarget::StandardOutput,
    }
}

fn upstreams(raw: &RawConfig) -> Checked<Vec<UpstreamConfig>> {
    let Some(given) = &raw.upstream else {
        return Ok(vec![UpstreamConfig::demo()]);
    };
    if given.value.is_empty() {
        return Err(given.refuse_for(Problem::Missing { what: "an upstream: there must be one" }));
    }
    let mut upstreams: Vec<UpstreamConfig> = Vec::with_capacity(given.value.len());
    for given in &given.value {
        let upstream = upstream(given)?;
        if upstreams.iter().any(|other| other.name == upstream.name) {
            let what = format!("there is already an upstream named {:?}", upstream.name);
            let name = given.value.name.as_ref().map_or(&given.place, |name| &name.place);
            return Err(refusal(name, Problem::Duplicate { what }));
        }
        upstreams.push(upstream);
    }
    Ok(upstreams)
}

fn upstream(given: &Given<Table<RawUpstream>>) -> Checked<UpstreamConfig> {
    let raw = &given.value;
    let Some(name) = &raw.name else {
        return Err(given.refuse_for(Problem::Missing { what: "key `name`" }));
    };
    if !is_upstream_name(&name.value) {
        return Err(name.refuse("1 to 64 letters, digits, \"-\", \"_\" or \".\""));
    }
    let is_demo = word(raw.builtin.as_ref(), &[("demo", true)], false)?;
    let origins = match &raw.origins {
        Some(origins) if is_demo => {
            let rule = "an upstream has either `builtin` or `origins`, not both";
            return Err(origins.refuse_for(Problem::Conflict { rule }));
        }
        Some(list) => origins(list)?,
        None if is_demo => Vec::new(),
        None => {
            let what = "key `origins`, or `builtin = \"demo\"`";
            return Err(given.refuse_for(Problem::Missing { what }));
        }
    };
    Ok(UpstreamConfig {
        name: name.value.clone(),
        is_demo,
        origins,
        host: raw.host.as_ref().map_or(Ok(HostPolicy::Pass), host_policy)?,
        fail_timeout: duration(
            raw.fail_timeout.as_ref(),
            Duration::ZERO..=HOUR,
            UpstreamConfig::FAIL_TIMEOUT,
        )?,
    })
}

fn origins(list: &Given<Vec<Given<RawOrigin>>>) -> Checked<Vec<OriginConfig>> {
    if list.value.is_empty() {
        return Err(list.refuse_for(Problem::Missing { what: "an origin: there must be one" }));
    }
    let mut origins: Vec<OriginConfig> = Vec::with_capacity(list.value.len());
    for given in &list.value {
        let url = &given.value.url;
        let (host, port) = parse_origin(url).map_err(|expected| {
            given.refuse_for(Problem::Unexpected { found: quoted(url), expected: expected.into() })
        })?;
        if origins.iter().any(|other| other.host == host && other.port == port) {
            let what = format!("there is already an origin {url:?}; `weight` gives it more");
            return Err(given.refuse_for(Problem::Duplicate { what }));
        }
        let weight = number(given.value.weight.as_ref(), 1..=1000, 1)?;
        let authority = authority(&host, port);
        origins.push(OriginConfig { host, port, weight, authority });
    }
    Ok(origins)
}

fn host_policy(given: &Given<String>) -> Checked<HostPolicy> {
    match given.value.as_str() {
        "pass" => Ok(HostPolicy::Pass),
        "origin" => Ok(HostPolicy::Origin),
        fixed if split_authority(fixed).is_some() => Ok(HostPolicy::Fixed(fixed.to_owned())),
        _ => Err(given.refuse(HOST_POLICY_FORM)),
    }
}

fn routes(
    raw: &[Given<Table<RawRoute>>],
    upstreams: &[UpstreamConfig],
) -> Checked<Vec<RouteConfig>> {
    if raw.is_empty() {
        return Ok(vec![RouteConfig::everything_to_the_first()]);
    }
    let mut routes: Vec<RouteConfig> = Vec::with_capacity(raw.len());
    for given in raw {
        let route = route(given, upstreams)?;
        if routes.iter().any(|other| other.host == route.host && other.path == route.path) {
            let what = "there is already a route with this host and path".to_owned();
            return Err(given.refuse_for(Problem::Duplicate { what }));
        }
        routes.push(route);
    }
    Ok(routes)
}

fn route(given: &Given<Table<RawRoute>>, upstreams: &[UpstreamConfig]) -> Checked<RouteConfig> {
    let raw = &given.value;
    let default = RouteConfig::everything_to_the_first();
    let Some(name) = &raw.upstream else {
        return Err(given.refuse_for(Problem::Missing { what: "key `upstream`" }));
    };
    let index = upstreams.iter().position(|upstream| upstream.name == name.value);
    let upstream = index.ok_or_else(|| {
        let known = upstreams.iter().map(|upstream| upstream.name.as_str());
        let nearest = nearest(&name.value, known);
        name.refuse_for(Problem::UnknownUpstream { name: name.value.clone(), nearest })
    })?;
    Ok(RouteConfig {
        host: match &raw.host {
            None => default.host,
            Some(host) => host_pattern(&host.value).ok_or_else(|| host.refuse(ROUTE_HOST_FORM))?,
        },
        path: match &raw.path {
            None => default.path,
            Some(path) if is_route_path(&path.value) => path.value.clone(),
            Some(path) => return Err(path.refuse(ROUTE_PATH_FORM)),
        },
        upstream,
        strip_prefix: flag(raw.strip_prefix.as_ref(), default.strip_prefix),
    })
}

fn number<T>(given: Option<&Given<Whole>>, range: RangeInclusive<T>, default: T) -> Checked<T>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    let Some(given) = given else { return Ok(default) };
    match T::try_from(given.value.0) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(given.refuse(format!("a whole number from {} to {}", range.start(), range.end()))),
    }
}

fn duration(
    given: Option<&Given<Span>>,
    range: RangeInclusive<Duration>,
    default: Duration,
) -> Checked<Duration> {
    match given {
        None => Ok(default),
        Some(given) if range.contains(&given.value.0) => Ok(given.value.0),
        Some(given) => Err(given.refuse(format!(
            "a duration from {} to {}",
            duration_text(*range.start()),
            duration_text(*range.end())
        ))),
    }
}

fn size(given: Option<&Given<Bytes>>, range: RangeInclusive<u64>, default: u64) -> Checked<u64> {
    match given {
        None => Ok(default),
        Some(given) if range.contains(&given.value.0) => Ok(given.value.0),
        Some(given) => Err(given.refuse(format!(
            "a size from {} to {}",
            bytes_text(*range.start()),
            bytes_text(*range.end())
        ))),
    }
}

fn word<T: Copy>(given: Option<&Given<String>>, words: &[(&str, T)], default: T) -> Checked<T> {
    let Some(given) = given else { return Ok(default) };
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == given.value) {
        return Ok(*meaning);
    }
    let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    Err(given.refuse(match known.as_slice() {
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
        [] => String::new(),
    }))
}

fn flag(given: Option<&Given<bool>>, default: bool) -> bool {
    given.map_or(default, |given| given.value)
}

fn refusal(place: &Place, problem: Problem) -> Refusal {
    Refusal { place: place.clone(), problem }
}

impl<T> Given<T> {
    fn refuse_for(&self, problem: Problem) -> Refusal {
        refusal(&self.place, problem)
    }
}

impl<T: Shown> Given<T> {
    fn refuse(&self, expected: impl Into<String>) -> Refusal {
        self.refuse_for(Problem::Unexpected {
            found: self.value.shown(),
            expected: expected.into(),
        })
    }
}

/// A value as an error text shows it.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for String {
    fn shown(&self) -> String {
        quoted(self)
    }
}

impl Shown for Whole {
    fn shown(&self) -> String {
        self.0.to_string()
    }
}

impl Shown for Span {
    fn shown(&self) -> String {
        duration_text(self.0)
    }
}

impl Shown for Bytes {
    fn shown(&self) -> String {
        bytes_text(self.0)
    }
}
