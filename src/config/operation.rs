//! The sections for those who run ringway, from `[dns]` to `[alerts]`, as they hold.
//!
//! In: nothing; `check` fills these types in. Out: bounds on memory and names, where the
//! administrator is listened to, what is counted and what is worth an alert. Durations and
//! numbers in which 0 means "off" keep that 0: there is no other value that could say it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;

/// Names of forward targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Names kept. 0 keeps none.
    pub cache_entries: usize,
    /// How long "no such name" is kept.
    pub negative_ttl: Duration,
    /// For one lookup.
    pub timeout: Duration,
}

/// How much memory the process may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    pub check_interval: Duration,
    /// As it was given, which may be above the maximum: see `MemoryConfig::limits`.
    pub cleanup_mb: u64,
    pub max: MemoryMax,
}

/// In MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMax {
    /// A share of what the system allows, which is known only at start-up.
    Auto,
    Mb(u64),
}

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    pub enabled: bool,
    pub address: AdminAddress,
    /// Without one, changes are taken from this machine only.
    pub token: Option<Secret>,
    /// Whether /health and /admin/cleanup are offered on the data port as well.
    pub on_data_port: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// Port 0 lets the system choose.
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The report in regular intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsConfig {
    /// Zero reports nothing.
    pub interval: Duration,
    pub log: bool,
}

/// Thresholds. 0 switches each of them off.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertsConfig {
    /// Share of 5xx among the answers of a window. From 0 to 1.
    pub error_rate: f64,
    pub p95: Duration,
    /// Resident memory, in MiB.
    pub memory_mb: u64,
    /// 95th percentile of the wait for a connection to an origin.
    pub pool_wait: Duration,
    /// Whether an upstream without a usable origin is one.
    pub upstream_down: bool,
    /// Share of the limit on open files. From 0 to 1.
    pub open_files: f64,
    /// The window, and the time between two looks.
    pub interval: Duration,
    /// An http or https URL that is told when an alert begins or ends.
    pub webhook: Option<String>,
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
