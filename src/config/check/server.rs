//! The sections that hold for every client and origin: `[server]` to `[log]`.
//!
//! In: those sections as they were written. Out: as they hold, or the first refusal. What one
//! section's limit means for another's is trimmed here; upstreams and routes are not looked at.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::Checked;
use super::values::{
    duration, filled, flag, listen_address, networks, number, overlap, size, word,
};
use crate::config::defaults::{DEFAULT_HOST, DEFAULT_PORT, cores};
use crate::config::error::Problem;
use crate::config::names::{ADDRESS_FORM, is_token, parse_address};
use crate::config::raw::{Given, RawBuffers, RawLimits, RawLog, RawPool, RawServer, RawTimeouts};
use crate::config::units::{Span, Whole};
use crate::config::{
    BuffersConfig, HalfClose, LimitsConfig, LogConfig, LogFormat, LogTarget, PoolConfig,
    PoolStatus, ServerConfig, TimeoutsConfig,
};
use crate::limits::HEADER_COUNT_MAX;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);

/// Deadlines tick every 100 ms at best, but a test may ask for less and get the next tick.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

/// A tunnel may rest over a weekend.
const SILENCE: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(7 * 86_400);

/// `TCP_KEEPIDLE` takes no more.
const KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);

/// Registered memory is pinned page by page.
const PAGE_BYTES: usize = 4096;

pub(super) fn server(raw: &RawServer) -> Checked<ServerConfig> {
    let default = ServerConfig::default();
    let workers = number(raw.workers.as_ref(), 0..=1024, 0)?;
    let half_closes = [("close", HalfClose::Close), ("keep", HalfClose::Keep)];
    Ok(ServerConfig {
        listeners: listeners(raw)?,
        workers: if workers == 0 { cores() } else { workers },
        trusted_proxies: networks(&raw.trusted_proxies)?,
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
        ready_grace: duration(
            raw.ready_grace.as_ref(),
            Duration::ZERO..=HOUR,
            default.ready_grace,
        )?,
        backlog: number(raw.backlog.as_ref(), 1..=65_535, default.backlog)?,
        watch_config: flag(raw.watch_config.as_ref(), default.watch_config),
        half_close: word(raw.half_close.as_ref(), &half_closes, default.half_close)?,
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
        let address = listen_address(listen)?;
        if let Some(other) = listeners.iter().find(|other| overlap(address, **other)) {
            let what = format!("{address} is taken by the listener {other}");
            return Err(listen.refuse_for(Problem::Duplicate { what }));
        }
        listeners.push(address);
    }
    Ok(listeners)
}

pub(super) fn limits(raw: &RawLimits) -> Checked<LimitsConfig> {
    let default = LimitsConfig::default();
    let head_bytes = size(raw.head_bytes.as_ref(), KIB..=MIB, default.head_bytes as u64)?;
    let target_bytes = size(raw.target_bytes.as_ref(), 64..=MIB, default.target_bytes as u64)?;
    let body_bytes = size(raw.body_bytes.as_ref(), 0..=u64::MAX, default.body_bytes)?;
    Ok(LimitsConfig {
        clients: number(raw.clients.as_ref(), 1..=1_000_000, default.clients)?,
        tunnels: number(raw.tunnels.as_ref(), 1..=1_000_000, default.tunnels)?,
        long_responses: number(raw.long_responses.as_ref(), 0..=1_000_000, default.long_responses)?,
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

pub(super) fn timeouts(raw: &RawTimeouts) -> Checked<TimeoutsConfig> {
    let default = TimeoutsConfig::default();
    let pool_status = match &raw.pool_status {
        None => default.pool_status,
        Some(Given { value: Whole::Number(504), .. }) => PoolStatus::GatewayTimeout,
        Some(Given { value: Whole::Number(503), .. }) => PoolStatus::ServiceUnavailable,
        Some(other) => return Err(other.refuse("504 or 503")),
    };
    let timeout = |given: &Option<Given<Span>>, default| duration(given.as_ref(), TIMEOUT, default);
    let silence = |given: &Option<Given<Span>>, default| duration(given.as_ref(), SILENCE, default);
    Ok(TimeoutsConfig {
        connect: timeout(&raw.connect, default.connect)?,
        read: timeout(&raw.read, default.read)?,
        write: timeout(&raw.write, default.write)?,
        client_write: timeout(&raw.client_write, default.client_write)?,
        pool: timeout(&raw.pool, default.pool)?,
        pool_status,
        client_head: timeout(&raw.client_head, default.client_head)?,
        client_idle: timeout(&raw.client_idle, default.client_idle)?,
        tunnel_idle: silence(&raw.tunnel_idle, default.tunnel_idle)?,
        tunnel_half_closed: silence(&raw.tunnel_half_closed, default.tunnel_half_closed)?,
    })
}

pub(super) fn pool(raw: &RawPool) -> Checked<PoolConfig> {
    let default = PoolConfig::default();
    let max_connections =
        number(raw.max_connections.as_ref(), 1..=1_000_000, default.max_connections)?;
    let max_idle = number(raw.max_idle.as_ref(), 0..=1_000_000, default.max_idle)?;
    let max_idle = max_idle.min(max_connections);
    let prewarm = number(raw.prewarm.as_ref(), 0..=1000, default.prewarm)?;
    let tcp_keepalive = match &raw.tcp_keepalive {
        None => default.tcp_keepalive,
        Some(Given { value: Span(time), .. }) if time.is_zero() => Duration::ZERO,
        Some(Given { value: Span(time), .. }) if KEEPALIVE.contains(time) => *time,
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

pub(super) fn buffers(raw: &RawBuffers, limits: &LimitsConfig) -> Checked<BuffersConfig> {
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

pub(super) fn log(raw: &RawLog) -> Checked<LogConfig> {
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
    let target = match filled(raw.file.as_ref()) {
        Some(file) => LogTarget::File(PathBuf::from(file)),
        None => LogTarget::StandardOutput,
    };
    Ok(LogConfig {
        level: word(raw.level.as_ref(), &levels, default.level)?,
        format: word(raw.format.as_ref(), &formats, default.format)?,
        access: flag(raw.access.as_ref(), default.access),
        access_format: word(raw.access_format.as_ref(), &formats, default.access_format)?,
        access_target: match filled(raw.access_file.as_ref()) {
            Some(file) => LogTarget::File(PathBuf::from(file)),
            None => target.clone(),
        },
        target,
        queue_lines: number(raw.queue_lines.as_ref(), 1..=1_000_000, default.queue_lines)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Networks;
    use crate::config::tests::{all_refused, parse};

    #[test]
    fn a_value_out_of_range_names_the_range() {
        all_refused(&[
            ("[server]\nport = 70000", "2:8: server.port: found 70000, expected a whole number f"),
            ("[server]\r\n\r\n# é\r\n  port = -1", "4:10: server.port: found -1, expected"),
            ("server = { via = \"é\", port = -1 }", "1:30: server.port: found -1, expected"),
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
            ("[server]\nvia = \"a b\"", "2:7: server.via: found \"a b\", expected a name"),
            ("[server]\nhost = \"nowhere\"", "2:8: server.host: found \"nowhere\", expected an"),
        ]);
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
        assert_eq!(config.timeouts.tunnel_idle, *SILENCE.end());
        assert_eq!(config.timeouts.tunnel_half_closed, *SILENCE.start());
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
            assert_eq!((log.target, log.access_target), (events, exchanges), "{keys}");
        }
    }
}
