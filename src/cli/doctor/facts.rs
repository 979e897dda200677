//! Everything that the checks want to know about this machine and this process, read once.
//!
//! In: the files below a [`Root`], and what the ring says of itself. Out: plain values, `None`
//! where the kernel does not tell. It judges nothing, opens no connection and changes nothing.

use crate::memory::Usage;
use crate::memory::usage::Probe;
use crate::ring::features::{self, Missing};
use crate::ring::runtime;

use super::cgroup::Groups;
use super::root::Root;
use super::sockets::{self, Listening};

/// What a ring of this process's own has shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct RingFacts {
    /// Why io_uring cannot be used, with its cure.
    pub(super) refusal: Option<String>,
    pub(super) missing: Missing,
}

impl RingFacts {
    /// Opens rings and closes them again.
    pub(crate) fn probe() -> Self {
        let refusal = runtime::probe().err();
        let missing = if refusal.is_none() { features::missing().ok() } else { None };
        Self { refusal, missing: missing.unwrap_or_default() }
    }
}

/// A resource limit; `u64::MAX` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// Ports from which the kernel takes those of outgoing connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortRange {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) ring: RingFacts,
    /// What uname(2) calls the release.
    pub(super) release: String,
    /// `kernel.io_uring_disabled`, since Linux 6.6.
    pub(super) io_uring_disabled: Option<u64>,
    /// 0 is none, 1 is strict, 2 is a filter.
    pub(super) seccomp: Option<u64>,
    pub(super) capabilities: u64,
    /// prctl(2) has taken huge pages from this process, as it does from every ringway.
    pub(super) has_no_huge_pages: bool,
    pub(super) huge_pages: Option<String>,
    pub(super) memlock: Option<Limit>,
    pub(super) open_files: Option<Limit>,
    pub(super) somaxconn: Option<u64>,
    pub(super) syn_backlog: Option<u64>,
    pub(super) netdev_backlog: Option<u64>,
    pub(super) port_range: Option<PortRange>,
    /// Ports of that range that the kernel leaves alone, such as `8000,9000-9010`.
    pub(super) reserved_ports: String,
    pub(super) first_unprivileged_port: u64,
    pub(super) time_wait_reuse: Option<u64>,
    /// `None` where connections are not tracked.
    pub(super) conntrack_max: Option<u64>,
    pub(super) conntrack_count: Option<u64>,
    pub(super) memory: Usage,
    pub(super) groups: Groups,
    pub(super) cores: u64,
    pub(super) swap_kib: Option<u64>,
    pub(super) swappiness: Option<u64>,
    pub(super) overcommit: Option<u64>,
    pub(super) clock_source: Option<String>,
    pub(super) listening: Vec<Listening>,
    /// The settings of the machine can only be changed outside.
    pub(super) is_container: bool,
}

impl Facts {
    pub(super) fn read(root: &Root, ring: RingFacts) -> Self {
        let status = |name| root.field("proc/self/status", name);
        let number = |name| status(name)?.parse().ok();
        let capabilities = status("CapEff").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
        let conntrack = |name| root.sysctl(&format!("net.netfilter.nf_conntrack_{name}"));
        let kib = |text: String| text.split_whitespace().next()?.parse().ok();
        Self {
            ring,
            release: root.text("proc/sys/kernel/osrelease").unwrap_or_default(),
            io_uring_disabled: root.sysctl("kernel.io_uring_disabled"),
            seccomp: number("Seccomp"),
            capabilities: capabilities.unwrap_or(0),
            has_no_huge_pages: number("THP_enabled") == Some(0),
            huge_pages: root.text("sys/kernel/mm/transparent_hugepage/enabled").map(chosen),
            memlock: limit(root, "Max locked memory"),
            open_files: limit(root, "Max open files"),
            somaxconn: root.sysctl("net.core.somaxconn"),
            syn_backlog: root.sysctl("net.ipv4.tcp_max_syn_backlog"),
            netdev_backlog: root.sysctl("net.core.netdev_max_backlog"),
            port_range: port_range(root),
            reserved_ports: root
                .text("proc/sys/net/ipv4/ip_local_reserved_ports")
                .unwrap_or_default(),
            first_unprivileged_port: root
                .sysctl("net.ipv4.ip_unprivileged_port_start")
                .unwrap_or(1024),
            time_wait_reuse: root.sysctl("net.ipv4.tcp_tw_reuse"),
            conntrack_max: conntrack("max"),
            conntrack_count: conntrack("count"),
            memory: Probe::within(root.path()).read(),
            groups: Groups::read(root),
            cores: cores(root),
            swap_kib: root.field("proc/meminfo", "SwapTotal").and_then(kib),
            swappiness: root.sysctl("vm.swappiness"),
            overcommit: root.sysctl("vm.overcommit_memory"),
            clock_source: root
                .text("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            listening: sockets::listening(root),
            is_container: [".dockerenv", "run/.containerenv", "run/secrets/kubernetes.io"]
                .into_iter()
                .any(|path| root.has(path)),
        }
    }

    /// By its number in linux/capability.h.
    pub(super) fn has_capability(&self, number: u32) -> bool {
        self.capabilities & (1 << number) != 0
    }
}

/// A line of /proc/self/limits: the name, the soft and the hard limit, the unit.
fn limit(root: &Root, name: &str) -> Option<Limit> {
    let limits = root.text("proc/self/limits")?;
    let values = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let number = |text: &str| if text == "unlimited" { Some(u64::MAX) } else { text.parse().ok() };
    let mut values = values.split_whitespace();
    Some(Limit { soft: number(values.next()?)?, hard: number(values.next()?)? })
}

fn port_range(root: &Root) -> Option<PortRange> {
    let text = root.text("proc/sys/net/ipv4/ip_local_port_range")?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let (Some(Ok(first)), Some(Ok(last))) = (numbers.next(), numbers.next()) else { return None };
    Some(PortRange { first, last })
}

/// The one in brackets of `always [madvise] never`.
fn chosen(text: String) -> String {
    let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    word.map_or(text.clone(), |(word, _)| word.to_owned())
}

/// Those that this process may run on: `Cpus_allowed_list: 0-3,8`.
fn cores(root: &Root) -> u64 {
    let cores = root.field("proc/self/status", "Cpus_allowed_list").unwrap_or_default();
    let count = |range: &str| -> Option<u64> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(last.saturating_sub(first) + 1)
    };
    cores.split(',').filter_map(count).sum::<u64>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_word_stands_in_brackets() {
        assert_eq!(chosen("always [madvise] never".to_owned()), "madvise");
        assert_eq!(chosen("never".to_owned()), "never");
    }
}
