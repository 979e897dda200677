//! What those who run ringway set: `[dns]` to `[alerts]`.
//!
//! In: those sections as they were written. Out: as they hold, or the first refusal. Whether the
//! machine has as much memory, and whether a socket can be bound, is found out at start-up.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Checked;
use super::values::{duration, duration_or_zero, flag, number, overlap, refusal, share};
use crate::config::error::Problem;
use crate::config::names::{
    ADMIN_ADDRESS_FORM, TOKEN_FORM, WEBHOOK_FORM, is_admin_token, is_webhook, parse_admin_address,
};
use crate::config::raw::{
    Given, Place, RawAdmin, RawAlerts, RawConfig, RawDns, RawMemory, RawServer, RawStats,
};
use crate::config::units::{Span, Whole};
use crate::config::{
    AdminAddress, AdminConfig, AlertsConfig, DnsConfig, MemoryConfig, MemoryMax, StatsConfig,
};

const HOUR: Duration = Duration::from_secs(3600);

/// How often something is looked at.
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=HOUR;

/// For one lookup. Longer than any resolver tries.
const LOOKUP: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);

/// Times that are worth an alert.
const ALERT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

/// 1 TiB, in MiB.
const MEMORY_MB_MAX: u64 = 1 << 20;

pub(super) fn dns(raw: &RawDns) -> Checked<DnsConfig> {
    let default = DnsConfig::default();
    Ok(DnsConfig {
        cache_entries: number(raw.cache_entries.as_ref(), 0..=100_000, default.cache_entries)?,
        negative_ttl: duration(
            raw.negative_ttl.as_ref(),
            Duration::ZERO..=HOUR,
            default.negative_ttl,
        )?,
        timeout: duration(raw.timeout.as_ref(), LOOKUP, default.timeout)?,
    })
}

pub(super) fn memory(raw: &RawMemory) -> Checked<MemoryConfig> {
    let default = MemoryConfig::default();
    Ok(MemoryConfig {
        check_interval: duration(raw.check_interval.as_ref(), INTERVAL, default.check_interval)?,
        cleanup_mb: number(raw.cleanup_mb.as_ref(), 1..=MEMORY_MB_MAX, default.cleanup_mb)?,
        max: raw.max_mb.as_ref().map_or(Ok(default.max), memory_max)?,
    })
}

fn memory_max(given: &Given<Whole>) -> Checked<MemoryMax> {
    let max = match &given.value {
        Whole::Text(word) => (word == "auto").then_some(MemoryMax::Auto),
        Whole::Number(mb) => {
            u64::try_from(*mb).ok().filter(|mb| (1..=MEMORY_MB_MAX).contains(mb)).map(MemoryMax::Mb)
        }
    };
    max.ok_or_else(|| {
        given.refuse(format!("a whole number from 1 to {MEMORY_MB_MAX}, or \"auto\""))
    })
}

pub(super) fn admin(raw: &RawConfig, listeners: &[SocketAddr]) -> Checked<AdminConfig> {
    let default = AdminConfig::default();
    let RawAdmin { enabled, address, token, on_data_port } = &*raw.admin;
    let admin = AdminConfig {
        enabled: flag(enabled.as_ref(), default.enabled),
        address: match address {
            None => default.address,
            Some(given) => {
                parse_admin_address(&given.value).ok_or_else(|| given.refuse(ADMIN_ADDRESS_FORM))?
            }
        },
        token: match token {
            None => None,
            Some(given) if given.value.reveal().is_empty() => None,
            Some(given) if is_admin_token(given.value.reveal()) => Some(given.value.clone()),
            Some(given) => return Err(given.refuse(TOKEN_FORM)),
        },
        on_data_port: flag(on_data_port.as_ref(), default.on_data_port),
    };
    if let AdminAddress::Tcp(own) = admin.address
        && admin.enabled
        && let Some(index) = listeners.iter().position(|other| overlap(own, *other))
    {
        let what =
            format!("the administrator's {own} is taken by the listener {}", listeners[index]);
        let place = address.as_ref().map(|address| &address.place);
        // The defaults do not overlap, so one of the two was given.
        if let Some(place) = place.or_else(|| listener_place(&raw.server, index)) {
            return Err(refusal(place, Problem::Duplicate { what }));
        }
    }
    Ok(admin)
}

/// Where the listener at `index` of `ServerConfig::listeners` was given, if it was.
fn listener_place(raw: &RawServer, index: usize) -> Option<&Place> {
    match index.checked_sub(1) {
        Some(further) => raw.listen.get(further).map(|listen| &listen.place),
        None => raw.port.as_ref().map(|port| &port.place),
    }
}

pub(super) fn stats(raw: &RawStats) -> Checked<StatsConfig> {
    let default = StatsConfig::default();
    Ok(StatsConfig {
        interval: duration_or_zero(raw.interval.as_ref(), INTERVAL, default.interval)?,
        log: flag(raw.log.as_ref(), default.log),
    })
}

pub(super) fn alerts(raw: &RawAlerts) -> Checked<AlertsConfig> {
    let default = AlertsConfig::default();
    let threshold =
        |given: &Option<Given<Span>>, default| duration_or_zero(given.as_ref(), ALERT, default);
    Ok(AlertsConfig {
        error_rate: share(raw.error_rate.as_ref(), default.error_rate)?,
        p95: threshold(&raw.p95, default.p95)?,
        memory_mb: number(raw.memory_mb.as_ref(), 0..=MEMORY_MB_MAX, default.memory_mb)?,
        pool_wait: threshold(&raw.pool_wait, default.pool_wait)?,
        upstream_down: flag(raw.upstream_down.as_ref(), default.upstream_down),
        open_files: share(raw.open_files.as_ref(), default.open_files)?,
        interval: duration(raw.interval.as_ref(), INTERVAL, default.interval)?,
        webhook: match &raw.webhook {
            None => default.webhook,
            Some(given) if given.value.is_empty() => None,
            Some(given) if is_webhook(&given.value) => Some(given.value.clone()),
            Some(given) => return Err(given.refuse(WEBHOOK_FORM)),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{all_refused, parse};
    use crate::config::{MemoryLimits, Secret};

    #[test]
    fn what_the_operator_sets_is_read_as_it_is_written() {
        let config = parse(
            r#"
            [dns]
            cache_entries = 0
            negative_ttl = 0
            timeout = "1m"
            [memory]
            check_interval = "1h"
            cleanup_mb = 1
            max_mb = "auto"
            [admin]
            enabled = false
            address = "unix:/run/ringway.sock"
            token = "0123456789abcdef"
            on_data_port = false
            [stats]
            interval = 0
            log = false
            [alerts]
            error_rate = 0
            p95 = "250ms"
            memory_mb = 450
            pool_wait = 0
            upstream_down = false
            open_files = 1.0
            interval = 1
            webhook = "https://hooks.example/ringway"
            "#,
        )
        .unwrap();
        let (negative_ttl, timeout) = (Duration::ZERO, Duration::from_secs(60));
        assert_eq!(config.dns, DnsConfig { cache_entries: 0, negative_ttl, timeout });
        let memory = MemoryConfig { check_interval: HOUR, cleanup_mb: 1, max: MemoryMax::Auto };
        assert_eq!(config.memory, memory);
        let admin = AdminConfig {
            enabled: false,
            address: AdminAddress::Unix("/run/ringway.sock".into()),
            token: Some(Secret::new("0123456789abcdef")),
            on_data_port: false,
        };
        assert_eq!(config.admin, admin);
        assert_eq!(config.stats, StatsConfig { interval: Duration::ZERO, log: false });
        let alerts = AlertsConfig {
            error_rate: 0.0,
            p95: Duration::from_millis(250),
            memory_mb: 450,
            pool_wait: Duration::ZERO,
            upstream_down: false,
            open_files: 1.0,
            interval: Duration::from_secs(1),
            webhook: Some("https://hooks.example/ringway".to_owned()),
        };
        assert_eq!(config.alerts, alerts);
    }

    #[test]
    fn empty_texts_switch_off() {
        let config = parse("[admin]\ntoken = \"\"\n[alerts]\nwebhook = \"\"").unwrap();
        assert_eq!((config.admin.token, config.alerts.webhook), (None, None));
    }

    #[test]
    fn names_and_memory_out_of_range_are_refused() {
        all_refused(&[
            (
                "[dns]\ncache_entries = 100001",
                "2:17: dns.cache_entries: found 100001, expected a whole number from 0 to 100000",
            ),
            (
                "[dns]\nnegative_ttl = \"2h\"",
                "2:16: dns.negative_ttl: found 2h, expected a duration from 0s to 1h",
            ),
            (
                "[dns]\ntimeout = 0",
                "2:11: dns.timeout: found 0s, expected a duration from 1ms to 1m",
            ),
            ("[dns]\ntime_out = 1", "2:1: dns.time_out: unknown key, did you mean `timeout`?"),
            (
                "[memory]\ncheck_interval = \"10ms\"",
                "2:18: memory.check_interval: found 10ms, expected a duration from 1s to 1h",
            ),
            (
                "[memory]\ncleanup_mb = 0",
                "2:14: memory.cleanup_mb: found 0, expected a whole number from 1 to 1048576",
            ),
            (
                "[memory]\ncleanup_mb = \"auto\"",
                "2:14: memory.cleanup_mb: found \"auto\", expected a whole number from 1 to 10485",
            ),
            (
                "[memory]\nmax_mb = 1048577",
                "2:10: memory.max_mb: found 1048577, expected a whole number from 1 to 1048576, or \
                 \"auto\"",
            ),
            ("[memory]\nmax_mb = \"500MB\"", "2:10: memory.max_mb: found \"500MB\", expected a w"),
            ("[memory]\nmax_mb = 0.5", "2:10: memory.max_mb: invalid type: floating point `0.5`"),
        ]);
    }

    #[test]
    fn an_administration_that_cannot_be_is_refused() {
        all_refused(&[
            (
                "[admin]\naddress = \"/run/x\"",
                "2:11: admin.address: found \"/run/x\", expected an address and port such as",
            ),
            (
                "[admin]\naddress = \"127.0.0.1:8000\"",
                "2:11: admin.address: the administrator's 127.0.0.1:8000 is taken by the listener \
                 0.0.0.0:8000",
            ),
            (
                "[server]\nport = 9901",
                "2:8: server.port: the administrator's 127.0.0.1:9901 is taken by the listener",
            ),
            (
                "[server]\nlisten = [\"[::1]:9901\", \"127.0.0.1:9901\"]",
                "2:25: server.listen[1]: the administrator's 127.0.0.1:9901 is taken by the",
            ),
            ("[admin]\nadress = \"\"", "2:1: admin.adress: unknown key, did you mean `address`?"),
            (
                "[stats]\ninterval = 0.5",
                "2:12: stats.interval: found 500ms, expected 0, or a durat",
            ),
            ("[stats]\nlog = \"no\"", "2:7: stats.log: invalid type: string \"no\", expected a b"),
        ]);
        assert!(parse("[server]\nport = 9901\n[admin]\nenabled = false").is_ok());
    }

    #[test]
    fn no_error_shows_a_token() {
        let error = parse("[admin]\ntoken = \"hunter2\"").unwrap_err().to_string();
        let expected = "a.toml:2:9: admin.token: found ***, expected at least 16 printable ASCII";
        assert!(error.starts_with(expected), "{error}");
        let error = parse("[admin]\ntoken = 7742").unwrap_err().to_string();
        assert!(!error.contains("7742"), "{error}");
    }

    #[test]
    fn thresholds_that_cannot_be_reached_are_refused() {
        all_refused(&[
            (
                "[alerts]\nerror_rate = 5",
                "2:14: alerts.error_rate: found 5, expected a number from 0 to 1",
            ),
            (
                "[alerts]\nerror_rate = -0.1",
                "2:14: alerts.error_rate: found -0.1, expected a numbe",
            ),
            ("[alerts]\nopen_files = nan", "2:14: alerts.open_files: found NaN, expected a number"),
            (
                "[alerts]\nopen_files = \"90%\"",
                "2:14: alerts.open_files: invalid type: string \"90%\", expected a number from 0 t",
            ),
            (
                "[alerts]\np95 = \"2d\"",
                "2:7: alerts.p95: found 2d, expected 0, or a duration from 1m",
            ),
            (
                "[alerts]\nmemory_mb = -1",
                "2:13: alerts.memory_mb: found -1, expected a whole number from 0 to 1048576",
            ),
            (
                "[alerts]\ninterval = 0",
                "2:12: alerts.interval: found 0s, expected a duration from 1s to 1h",
            ),
            (
                "[alerts]\nwebhook = \"hooks.example\"",
                "2:11: alerts.webhook: found \"hooks.example\", expected a URL that begins with",
            ),
        ]);
    }

    #[test]
    fn a_threshold_for_cleaning_up_stays_below_the_maximum() {
        let limits = |max, automatic_mb| {
            let memory = MemoryConfig { max, ..MemoryConfig::default() };
            let MemoryLimits { cleanup_mb, max_mb, is_cleanup_lowered } =
                memory.limits(automatic_mb);
            (cleanup_mb, max_mb, is_cleanup_lowered)
        };
        assert_eq!(limits(MemoryMax::Mb(500), 100), (400, 500, false));
        assert_eq!(limits(MemoryMax::Mb(401), 100), (400, 401, false));
        assert_eq!(limits(MemoryMax::Mb(400), 900), (320, 400, true));
        assert_eq!(limits(MemoryMax::Mb(300), 900), (240, 300, true));
        assert_eq!(limits(MemoryMax::Auto, 819), (400, 819, false));
        assert_eq!(limits(MemoryMax::Auto, 204), (163, 204, true));
        assert_eq!(limits(MemoryMax::Mb(1), 900), (1, 1, true));
    }
}
