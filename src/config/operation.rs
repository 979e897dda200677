//! The sections for those who run ringway, from `[dns]` to `[alerts]`.
//!
//! In: TOML, JSON and texts, by way of serde. Out: bounds on memory and names, where the
//! administrator is listened to, what is counted and what is worth an alert. Durations and
//! numbers in which 0 means "off" keep that 0: there is no other value that could say it. Whether
//! the machine has as much memory, and whether a socket can be bound, is found out at start-up.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Secret;
use super::kinds::plain::{
    Count, Interval, IntervalOrOff, Share, Time, TimeoutOrOff, UpToAnHour, Whole, Word, Words,
};
use super::kinds::{As, Given, List, Switched, Wrong, scalar_kind, text_kind};
use super::names::{ADMIN_ADDRESS_FORM, is_host, parse_admin_address};
use super::scope::{Token, Webhook};

const MINUTE: Duration = Duration::from_secs(60);

/// 1 TiB, in MiB.
const MEMORY_MB_MAX: i64 = 1 << 20;

text_kind!(
    Address: AdminAddress,
    |text| parse_admin_address(text).ok_or_else(|| ADMIN_ADDRESS_FORM.to_owned()),
    |address| match address {
        AdminAddress::Tcp(address) => address.to_string(),
        AdminAddress::Unix(path) => format!("unix:{}", path.to_string_lossy()),
    }
);

text_kind!(
    NameServer: SocketAddr,
    |text| {
        let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let server = bare.map(|address| SocketAddr::new(address, 53));
        let server = server.ok().or_else(|| text.parse().ok()).filter(|it| it.port() != 0);
        server.ok_or_else(|| "an address such as \"192.0.2.53\", with or without a port".to_owned())
    },
    |server| if server.port() == 53 { server.ip().to_string() } else { server.to_string() }
);
text_kind!(
    Domain: String,
    |text| {
        let is_name = is_host(text.strip_suffix('.').unwrap_or(text));
        let is_name = is_name && text.parse::<IpAddr>().is_err() && !text.starts_with('[');
        let name = is_name.then(|| text.to_owned());
        name.ok_or_else(|| "a domain such as \"example.org\"".to_owned())
    },
    |name| name.clone()
);

/// Names of origins, parents and forward targets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DnsConfig {
    /// Names of forward targets that are kept. 0 to 100000; 0 keeps none.
    #[serde(with = "Count::<usize, 0, 100_000>")]
    pub cache_entries: usize,
    /// How long it is kept that there is no such name. 0 to 1h.
    #[serde(with = "UpToAnHour")]
    pub negative_ttl: Duration,
    /// For one lookup, else 504. 1ms to 1m.
    // Longer than any resolver tries.
    #[serde(with = "Time::<1, 60_000>")]
    pub timeout: Duration,
    /// Name servers to ask, "192.0.2.53" or "192.0.2.53:5353". [] is those of /etc/resolv.conf.
    #[serde(with = "List::<NameServer>")]
    pub servers: Vec<SocketAddr>,
    /// Domains in which names of origins and parents without a last dot are looked for. [] is those
    /// of /etc/resolv.conf.
    #[serde(with = "List::<Domain>")]
    pub search: Vec<String>,
    /// Addresses that are asked for and tried: "auto" is both, "prefer_v4" both with IPv4 first,
    /// "v4" or "v6" one of them.
    #[serde(with = "Word::<DnsFamily>")]
    pub family: DnsFamily,
}

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsFamily {
    #[default]
    Auto,
    V4,
    V6,
    PreferV4,
}

impl Words for DnsFamily {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("v4", Self::V4), ("v6", Self::V6), ("prefer_v4", Self::PreferV4)];
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            cache_entries: 1024,
            negative_ttl: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            servers: Vec::new(),
            search: Vec::new(),
            family: DnsFamily::Auto,
        }
    }
}

/// How much memory the process may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// How often the memory in use is looked at. 1s to 1h.
    #[serde(with = "Interval")]
    pub check_interval: Duration,
    /// MiB above which idle connections and caches are given up. 1 to 1048576. At or above max_mb
    /// it counts as 80 % of that.
    // As it was given: see `MemoryConfig::limits`.
    #[serde(with = "Count::<u64, 1, MEMORY_MB_MAX>")]
    pub cleanup_mb: u64,
    /// MiB above which connections are refused and transfers cut. 1 to 1048576, or "auto" for 80 %
    /// of what the cgroup or RLIMIT_AS allows.
    #[serde(rename = "max_mb", with = "As::<Max>")]
    pub max: MemoryMax,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { check_interval: MINUTE / 2, cleanup_mb: 400, max: MemoryMax::Mb(500) }
    }
}

/// In MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMax {
    /// A share of what the system allows, which is known only at start-up.
    Auto,
    Mb(u64),
}

type Mb = Whole<u64, 1, MEMORY_MB_MAX>;

scalar_kind!(
    Max: MemoryMax, Mb::EXPECTED, json!({ "anyOf": [Mb::schema(), { "enum": ["auto"] }] }),
    |given| match given {
        Given::Text("auto") => Ok(MemoryMax::Auto),
        _ => Mb::take(given).map(MemoryMax::Mb).map_err(|wrong| match wrong {
            Wrong::Because(why) => Wrong::Because(format!("{why}, or \"auto\"")),
            other => other,
        }),
    },
    |value| match value {
        MemoryMax::Auto => "auto".into(),
        MemoryMax::Mb(mb) => (*mb).into(),
    }
);

/// The two thresholds of the memory, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Below `max_mb`, unless that is 1.
    pub cleanup_mb: u64,
    pub max_mb: u64,
    /// Whether `cleanup_mb` is not what was configured, which deserves a warning.
    pub is_cleanup_lowered: bool,
}

/// Where the administrator is listened to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Whether there is an administration interface.
    #[schemars(extend("x-reload" = "restart"))]
    pub enabled: bool,
    /// Its address and port, or "unix:/run/ringway.sock". Port 0 lets the system choose one.
    #[serde(with = "As::<Address>")]
    #[schemars(extend("x-reload" = "restart"))]
    pub address: AdminAddress,
    /// Whether it speaks TLS, with the certificates of [tls]. For an address and a port alone.
    #[schemars(extend("x-reload" = "restart"))]
    pub tls: bool,
    /// What changes have to be asked with, as a bearer token of 16 characters or more. "" lets
    /// clients on this machine ask without one, and no others.
    #[serde(with = "Switched::<Token>")]
    #[schemars(extend("x-secret" = true))]
    pub token: Option<Secret>,
    /// What has to be shown to see anything, as a bearer token of 16 characters or more; that of
    /// changes will do as well. "" lets everybody see who may ask. Needs admin.token.
    #[serde(with = "Switched::<Token>")]
    #[schemars(extend("x-secret" = true))]
    pub read_token: Option<Secret>,
    /// Names beside localhost and IP addresses by which the administration may be asked, such as
    /// ["ringway.monitoring.svc"]. Any other Host is refused, unless the token comes with it.
    #[serde(with = "List::<AdminHost>")]
    #[schemars(extend("x-example" = r#"["ringway.internal"]"#))]
    pub hosts: Vec<String>,
    /// For whom GET /health and POST /admin/cleanup are answered on the listeners above as well:
    /// "local" is a client on this machine that asks for a Host on it and that no proxy speaks for,
    /// "all" is everybody, "off" is nobody. true is "local", false is "off".
    #[serde(with = "As::<DataPort>")]
    pub on_data_port: OnDataPort,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            address: AdminAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9901))),
            tls: false,
            token: None,
            read_token: None,
            hosts: Vec::new(),
            on_data_port: OnDataPort::Local,
        }
    }
}

impl AdminConfig {
    /// With what whoever only looks may come, if anything has to be shown.
    pub fn reader(&self) -> Option<&Secret> {
        self.read_token.as_ref().or(self.token.as_ref())
    }

    /// Whether its clients have to speak TLS.
    pub fn is_tls(&self) -> bool {
        self.enabled && self.tls
    }
}

/// For whom a part of the administration is on the data port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDataPort {
    Local,
    All,
    Off,
}

text_kind!(AdminHost = is_host, "a host name without a port");
scalar_kind!(
    DataPort: OnDataPort, "\"local\", \"all\" or \"off\"",
    json!({ "anyOf": [{ "enum": ["local", "all", "off"] }, { "type": "boolean" }] }),
    |given| match given {
        Given::Text("local" | "true") | Given::Truth(true) => Ok(OnDataPort::Local),
        Given::Text("all") => Ok(OnDataPort::All),
        Given::Text("off" | "false") | Given::Truth(false) => Ok(OnDataPort::Off),
        _ => Err(given.unlike("\"local\", \"all\" or \"off\"")),
    },
    |value| match value {
        OnDataPort::Local => "local".into(),
        OnDataPort::All => "all".into(),
        OnDataPort::Off => "off".into(),
    }
);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// Port 0 lets the system choose.
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The report in regular intervals.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StatsConfig {
    /// How often what has been counted is summed up. 1s to 1h; 0 is never.
    #[serde(with = "IntervalOrOff")]
    pub interval: Duration,
    /// One line of the log for each sum.
    pub log: bool,
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self { interval: MINUTE, log: true }
    }
}

/// Alerts: lines in the log, and messages to `webhook`, when a threshold is crossed. An alert ends
/// below 80 % of its threshold.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct AlertsConfig {
    /// Share of 5xx among the answers. 0 to 1; 0 is off.
    #[serde(with = "As::<Share>")]
    pub error_rate: f64,
    /// 95th percentile of the time that answers take. 1ms to 1d; 0 is off.
    #[serde(with = "TimeoutOrOff")]
    pub p95: Duration,
    /// MiB of resident memory. 0 to 1048576; 0 is off.
    #[serde(with = "Count::<u64, 0, MEMORY_MB_MAX>")]
    pub memory_mb: u64,
    /// 95th percentile of the wait for a connection to an origin. 1ms to 1d; 0 is off.
    #[serde(with = "TimeoutOrOff")]
    pub pool_wait: Duration,
    /// An upstream of which no origin can be used.
    pub upstream_down: bool,
    /// An origin that is passed over for its checks or its answers.
    pub origins_out: bool,
    /// A certificate that ends within 14 days or a third of its life, or whose files cannot be
    /// used; and one of tls.acme that was not issued.
    pub certificates: bool,
    /// A file of origins that is missing or wrong; and a Docker engine that does not answer.
    pub discovery: bool,
    /// Share of the limit on open files (RLIMIT_NOFILE). 0 to 1; 0 is off.
    #[serde(with = "As::<Share>")]
    pub open_files: f64,
    /// How often all that is looked at, and what the shares are of. 1s to 1h.
    #[serde(with = "Interval")]
    pub interval: Duration,
    /// An http:// or https:// URL that gets a POST with JSON when an alert begins or ends. "" is
    /// none.
    #[serde(with = "Switched::<Webhook>")]
    #[schemars(extend("x-secret" = true))]
    pub webhook: Option<String>,
    /// What it is sent: "json", the alert as /health lists it, "slack", a text for people, as
    /// Slack, Mattermost and others take it, or "alertmanager", for /api/v2/alerts of Prometheus'
    /// Alertmanager, which is told again every minute while an alert lasts.
    #[serde(with = "Word::<WebhookFormat>")]
    pub webhook_format: WebhookFormat,
}

/// What a webhook is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookFormat {
    Json,
    Slack,
    Alertmanager,
}

impl Words for WebhookFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("json", Self::Json), ("slack", Self::Slack), ("alertmanager", Self::Alertmanager)];
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            error_rate: 0.05,
            p95: Duration::ZERO,
            memory_mb: 0,
            pool_wait: Duration::from_secs(1),
            upstream_down: true,
            origins_out: true,
            certificates: true,
            discovery: true,
            open_files: 0.9,
            interval: Duration::from_secs(10),
            webhook: None,
            webhook_format: WebhookFormat::Json,
        }
    }
}

/// The shares are numbers from 0 to 1, so each equals itself.
impl Eq for AlertsConfig {}

impl MemoryConfig {
    /// The thresholds, given what `MemoryMax::Auto` stands for on this machine. A threshold for
    /// cleaning up at or above the maximum would never be reached, so it becomes 80 % of that.
    pub fn limits(&self, automatic_mb: u64) -> MemoryLimits {
        let max_mb = match self.max {
            MemoryMax::Auto => automatic_mb,
            MemoryMax::Mb(mb) => mb,
        };
        let is_cleanup_lowered = self.cleanup_mb >= max_mb;
        let cleanup_mb = if is_cleanup_lowered { (max_mb * 4 / 5).max(1) } else { self.cleanup_mb };
        MemoryLimits { cleanup_mb, max_mb, is_cleanup_lowered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::config::tests::{all_refused, parse};

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
            certificates = false
            open_files = 1.0
            interval = 1
            webhook = "https://hooks.example/ringway"
            "#,
        )
        .unwrap();
        let (negative_ttl, timeout) = (Duration::ZERO, Duration::from_secs(60));
        assert_eq!(
            config.dns,
            DnsConfig { cache_entries: 0, negative_ttl, timeout, ..DnsConfig::default() }
        );
        let memory = MemoryConfig {
            check_interval: Duration::from_secs(3600),
            cleanup_mb: 1,
            max: MemoryMax::Auto,
        };
        assert_eq!(config.memory, memory);
        let admin = AdminConfig {
            enabled: false,
            address: AdminAddress::Unix("/run/ringway.sock".into()),
            tls: false,
            token: Some(Secret::new("0123456789abcdef")),
            read_token: None,
            hosts: Vec::new(),
            on_data_port: OnDataPort::Off,
        };
        assert_eq!(config.admin, admin);
        assert_eq!(config.stats, StatsConfig { interval: Duration::ZERO, log: false });
        let alerts = AlertsConfig {
            discovery: true,
            origins_out: true,
            error_rate: 0.0,
            p95: Duration::from_millis(250),
            memory_mb: 450,
            pool_wait: Duration::ZERO,
            upstream_down: false,
            certificates: false,
            open_files: 1.0,
            interval: Duration::from_secs(1),
            webhook: Some("https://hooks.example/ringway".to_owned()),
            webhook_format: WebhookFormat::Json,
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
