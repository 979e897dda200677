//! Machines with one thing wrong.
//!
//! In: a machine in perfect order. Out: the same with one change, the findings that the change
//! makes, how bad the first of them is, and words of the report. Nothing is judged here.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::Machine;
use crate::cli::doctor::finding::Severity;
use crate::config::{
    CertificateConfig, Config, DriverChoice, HostPattern, OriginConfig, RouteConfig, UpstreamConfig,
};

/// What is wrong, the findings that say so, and words that the first of them says.
pub(super) type Case =
    (fn(Machine) -> Machine, &'static [&'static str], Severity, &'static [&'static str]);

pub(super) const GROUP: &str = "sys/fs/cgroup/ringway.service/";

pub(super) fn listen(config: &mut Config, address: &str) {
    config.server.listeners = vec![address.parse().unwrap()];
}

fn upstream(url: &str) -> UpstreamConfig {
    let (host, authority) = (url.to_owned(), url.to_owned());
    let origins = vec![OriginConfig { host, authority, ..OriginConfig::default() }];
    UpstreamConfig { origins, ..Config::default().upstreams.remove(0) }
}

pub(super) fn disabled(machine: Machine, value: &str) -> Machine {
    machine.with("proc/sys/kernel/io_uring_disabled", value)
}

/// Descriptor 7 of process 42 is the socket that listens on port 22.
pub(super) fn held_by(machine: Machine, name: &str) -> Machine {
    let machine = machine.set(|config| listen(config, "127.0.0.1:22"));
    let machine = machine.but("proc/self/status", "CapEff:\t0000000000000000", "CapEff:\t400");
    machine.with("proc/42/comm", name).link("proc/42/fd/7", "socket:[100]")
}

pub(super) fn locked(machine: Machine, bytes: &str) -> Machine {
    machine.but("proc/self/limits", "unlimited            unlimited", bytes)
}

/// Wants the ring, or nothing.
fn demanding(machine: Machine) -> Machine {
    machine.set(|config| config.server.driver = DriverChoice::IoUring)
}

const KERNEL: [Case; 14] = [
    (
        |it| it.with("proc/sys/kernel/osrelease", "5.15.0-91-generic"),
        &["kernel"],
        Severity::Warning,
        &["5.15.0-91-generic (wanted: 6.1 or later)"],
    ),
    (
        |it| it.missing(&["ACCEPT"], &[]),
        &["io_uring", "driver"],
        Severity::Warning,
        &["without ACCEPT", "6.1", "epoll (wanted: io_uring)"],
    ),
    (
        |it| demanding(it.missing(&["ACCEPT"], &[])),
        &["io_uring"],
        Severity::Error,
        &["without ACCEPT", "6.1"],
    ),
    (
        |it| it.missing(&[], &["COOP_TASKRUN", "SUBMIT_ALL"]),
        &["io_uring_flags"],
        Severity::Hint,
        &["without COOP_TASKRUN, SUBMIT_ALL"],
    ),
    (
        |it| disabled(it, "1"),
        &["io_uring_disabled"],
        Severity::Hint,
        &["io_uring_group", "sysctl -w kernel.io_uring_disabled=0"],
    ),
    (
        |it| disabled(it, "2"),
        &["io_uring_disabled"],
        Severity::Warning,
        &["2 (wanted: 0)", "echo 'kernel.io_uring_disabled = 0' >>/etc/sysctl.d/60-ringway.conf"],
    ),
    // Refused by a filter, and by the sysctl on a machine without filters.
    (
        Machine::refused,
        &["io_uring", "driver", "seccomp"],
        Severity::Warning,
        &["blocked. Allow it", "two more system calls"],
    ),
    (
        |it| demanding(it.refused()),
        &["io_uring", "seccomp"],
        Severity::Error,
        &["blocked. Allow it"],
    ),
    (
        |it| {
            let it = it.refused().but("proc/self/status", "Seccomp:\t2", "Seccomp:\t0");
            demanding(disabled(it, "1"))
        },
        &["io_uring", "io_uring_disabled"],
        Severity::Error,
        &["blocked. Allow it"],
    ),
    // Two workers with 2 MiB of chunks and a ring each.
    (
        |it| locked(it, "4456447 8388608"),
        &["locked_memory"],
        Severity::Warning,
        &["4351 KiB (wanted: 4352 KiB)", "ulimit -l unlimited", "memlock=-1:-1"],
    ),
    (
        |it| it.with("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet"),
        &["clock_source"],
        Severity::Warning,
        &["hpet", "echo tsc >"],
    ),
    (
        |it| it.with("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never"),
        &["huge_pages"],
        Severity::Hint,
        &["always", "echo madvise >"],
    ),
    (
        |it| it.but("proc/meminfo", "       0 kB", " 2097152 kB"),
        &["swap"],
        Severity::Hint,
        &["2048 MiB, swappiness 60", "MemorySwapMax=0"],
    ),
    (
        |it| it.with("proc/sys/vm/overcommit_memory", "2"),
        &["overcommit_memory"],
        Severity::Hint,
        &["sysctl -w vm.overcommit_memory=0"],
    ),
];

const GROUPS: [Case; 6] = [
    (
        |it| it.with(&format!("{GROUP}memory.max"), "268435456"),
        &["memory_ceiling"],
        Severity::Warning,
        &["500 MiB of 256 MiB (wanted: 204 MiB or auto)", "--set memory.max_mb=auto"],
    ),
    (
        |it| it.with(&format!("{GROUP}cpu.max"), "100000 100000"),
        &["processors"],
        Severity::Warning,
        &["2 workers on 1", "--workers 1"],
    ),
    (
        |it| it.but("proc/self/status", "0-1", "1"),
        &["processors"],
        Severity::Warning,
        &["2 workers on 1"],
    ),
    (
        |it| it.but(&format!("{GROUP}cpu.stat"), "nr_throttled 5", "nr_throttled 6"),
        &["cpu_throttling"],
        Severity::Hint,
        &["6 % of the periods", "--cpus"],
    ),
    (
        |it| it.with(&format!("{GROUP}pids.max"), "33"),
        &["processes"],
        Severity::Warning,
        &["33 (wanted: 34)", "--pids-limit 34", "TasksMax=34"],
    ),
    (
        |it| it.fitted(Ok(vec!["limits.clients is lowered".to_owned()])),
        &["memory_plan"],
        Severity::Hint,
        &["limits.clients is lowered", "ringway check"],
    ),
];

const NETWORK: [Case; 20] = [
    (
        |it| it.set(|config| listen(config, "unix:/no-folder-here/http")),
        &["unix_sockets"],
        Severity::Error,
        &["unix:/no-folder-here/http: there is no folder /no-folder-here", "mkdir -p"],
    ),
    (
        |it| it.set(|config| config.upstreams = vec![upstream("unix:/no-folder-here/app")]),
        &["unix_sockets"],
        Severity::Warning,
        &["unix:/no-folder-here/app: there is no such file now", "start the origin"],
    ),
    (
        |it| held_by(it, "sshd\n"),
        &["listeners"],
        Severity::Error,
        &["0.0.0.0:22 by sshd (42)", "ss -ltnp", "server.port"],
    ),
    (
        |it| {
            let it = it.set(|config| listen(config, "0.0.0.0:22"));
            it.but("proc/self/status", "CapEff:\t0000000000000000", "CapEff:\t400")
        },
        &["listeners"],
        Severity::Warning,
        &["another user's process"],
    ),
    (
        |it| it.set(|config| listen(config, "0.0.0.0:80")),
        &["low_ports"],
        Severity::Error,
        &["port 80 (wanted: 1024 or above)", "--port 1024", "--cap-add NET_BIND_SERVICE"],
    ),
    // 10,000 clients, 100 connections to origins and 64 more.
    (
        |it| it.but("proc/self/limits", "1048576", "11163"),
        &["open_files"],
        Severity::Warning,
        &["11163 (wanted: 11164)", "--ulimit nofile=11164:11164", "LimitNOFILE=11164"],
    ),
    (
        |it| {
            let it = it.set(|config| config.forward.enabled = true);
            it.but("proc/self/limits", "1048576", "22163")
        },
        &["open_files"],
        Severity::Warning,
        &["22163 (wanted: 22164)"],
    ),
    (
        |it| it.with("proc/sys/net/core/somaxconn", "4096"),
        &["somaxconn"],
        Severity::Hint,
        &["4096 (wanted: 65536)", "sysctl -w net.core.somaxconn=65536"],
    ),
    (
        |it| it.with("proc/sys/net/core/somaxconn", "4095"),
        &["somaxconn"],
        Severity::Warning,
        &["server.backlog = 4096 is cut"],
    ),
    (
        |it| it.with("proc/sys/net/core/somaxconn", "128").with(".dockerenv", ""),
        &["somaxconn"],
        Severity::Warning,
        &["docker run --sysctl net.core.somaxconn=65536", "securityContext.sysctls"],
    ),
    (
        |it| it.with("proc/sys/net/ipv4/tcp_max_syn_backlog", "2048"),
        &["tcp_max_syn_backlog"],
        Severity::Hint,
        &["sysctl -w net.ipv4.tcp_max_syn_backlog=65536"],
    ),
    (
        |it| it.with("proc/sys/net/core/netdev_max_backlog", "1000"),
        &["netdev_max_backlog"],
        Severity::Hint,
        &["1000 (wanted: 5000)", "sysctl -w net.core.netdev_max_backlog=5000"],
    ),
    (
        |it| it.with("proc/sys/net/core/netdev_max_backlog", "1000").with(".dockerenv", ""),
        &["netdev_max_backlog"],
        Severity::Hint,
        &["on the host: sysctl -w net.core.netdev_max_backlog=5000"],
    ),
    (
        |it| it.with("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999"),
        &["ports"],
        Severity::Hint,
        &["32768 60999", "sysctl -w net.ipv4.ip_local_port_range='10240 65535'"],
    ),
    (
        |it| it.with("proc/sys/net/ipv4/ip_local_port_range", "61000\t61098"),
        &["ports"],
        Severity::Warning,
        &["a port of 99, and pool.max_connections = 100"],
    ),
    (
        |it| it.set(|config| listen(config, "[::]:30000")),
        &["ports_of_listeners"],
        Severity::Hint,
        &["sysctl -w net.ipv4.ip_local_reserved_ports=30000"],
    ),
    (
        |it| {
            let it = it.set(|config| listen(config, "[::]:30000"));
            it.with("proc/sys/net/ipv4/ip_local_reserved_ports", "29999,30001-30010")
        },
        &["ports_of_listeners"],
        Severity::Hint,
        &["ip_local_reserved_ports=29999,30001-30010,30000"],
    ),
    (
        |it| it.with("proc/sys/net/ipv4/tcp_tw_reuse", "2"),
        &["tcp_tw_reuse"],
        Severity::Hint,
        &["sysctl -w net.ipv4.tcp_tw_reuse=1"],
    ),
    (
        |it| it.with("proc/sys/net/netfilter/nf_conntrack_max", "20199"),
        &["conntrack"],
        Severity::Warning,
        &["100 of 20199 (wanted: 262144)", "sysctl -w net.netfilter.nf_conntrack_max=262144"],
    ),
    (
        |it| it.with("proc/sys/net/netfilter/nf_conntrack_count", "250000"),
        &["conntrack"],
        Severity::Warning,
        &["250000 of 262144", "sysctl -w net.netfilter.nf_conntrack_max=524288"],
    ),
];

/// Shows a certificate of `key` for a.test that lasts for `days`, whose key may be read as `mode`
/// says.
pub(super) fn secured(machine: Machine, key: rcgen::KeyPair, days: i64, mode: u32) -> Machine {
    let mut wanted = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let now = std::time::SystemTime::now();
    wanted.not_before = (now - Duration::from_secs(30 * 86_400)).into();
    wanted.not_after = (now + Duration::from_secs(days as u64 * 86_400 + 60)).into();
    let chain = wanted.self_signed(&key).unwrap().pem();
    let machine = machine.with("a.pem", &chain).with("a.key", &key.serialize_pem());
    let (chain, key) = (machine.folder.join("a.pem"), machine.folder.join("a.key"));
    fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
    let shown = CertificateConfig { chain, key, names: Vec::new(), ocsp: None };
    machine.set(|config| {
        config.tls.certificates = vec![shown];
        config.server.listen_tls = vec!["127.0.0.1:30443".parse().unwrap()];
    })
}

fn quick() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().unwrap()
}

const CERTIFICATES: [Case; 5] = [
    (
        |it| {
            let it = secured(it, quick(), 90, 0o600);
            it.but("a.pem", "CERTIFICATE", "NOTHING")
        },
        &["certificates"],
        Severity::Error,
        &["a.pem: there is no certificate in it"],
    ),
    (
        |it| secured(it, quick(), 13, 0o600),
        &["certificates"],
        Severity::Warning,
        &["a.pem ends", "(in 13 days)"],
    ),
    (
        |it| secured(it, quick(), 90, 0o604),
        &["key_files"],
        Severity::Warning,
        &["chmod o=", "a.key"],
    ),
    (
        |it| {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
            secured(it, key, 90, 0o600)
        },
        &["certificate_keys"],
        Severity::Hint,
        &["rsa for a.test", "five times"],
    ),
    (
        |it| {
            let it = secured(it, quick(), 90, 0o640);
            let route = |host: &str| RouteConfig {
                host: match host.strip_prefix('*') {
                    Some(suffix) => HostPattern::Suffix(suffix.to_owned()),
                    None => HostPattern::Exact(host.to_owned()),
                },
                ..Config::default().routes.remove(0)
            };
            it.set(|config| config.routes = ["a.test", "b.test", "*.c.test"].map(route).into())
        },
        &["certificate_names"],
        Severity::Warning,
        &["none for b.test, *.c.test"],
    ),
];

pub(super) fn cases() -> impl Iterator<Item = &'static Case> {
    KERNEL.iter().chain(&GROUPS).chain(&NETWORK).chain(&CERTIFICATES)
}
