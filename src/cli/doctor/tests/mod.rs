//! Every check with a machine that is in order and with one that is not.
//!
//! Comes in: trees of files in place of `/proc` and `/sys`. Goes out: findings. A case changes one
//! thing of a machine in perfect order, and only the finding that is about it may change.

mod cases;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use self::cases::{GROUP, cases, disabled, held_by, listen, locked, secured};
use super::finding::Severity;
use super::*;
use crate::config::{DriverChoice, MemoryMax};
use crate::ring::features::Missing;

const STATUS: &str = "THP_enabled:\t1\nCapEff:\t0000000000000000\nSeccomp:\t2\n\
                      Cpus_allowed_list:\t0-1\n";

const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
    Max open files            1024                 1048576              files\n\
    Max locked memory         unlimited            unlimited            bytes\n";

const CGROUP2: &str = "31 23 0:28 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate";

/// Something that listens on port 22, on a little-endian machine.
const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n   \
    0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1";

/// A machine at which there is nothing to mend.
const IN_ORDER: [(&str, &str); 26] = [
    ("proc/self/status", STATUS),
    ("proc/self/limits", LIMITS),
    ("proc/self/cgroup", "0::/ringway.service\n"),
    ("proc/self/mountinfo", CGROUP2),
    ("proc/self/statm", "100 100 1 1 0 1 0"),
    ("proc/self/net/tcp", TCP),
    ("proc/meminfo", "MemTotal: 1000 kB\nSwapTotal:       0 kB\n"),
    ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/net/core/somaxconn", "65536\n"),
    ("proc/sys/net/core/netdev_max_backlog", "5000\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "65536\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "10240\t65535\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "\n"),
    ("proc/sys/net/ipv4/ip_unprivileged_port_start", "1024\n"),
    ("proc/sys/net/ipv4/tcp_tw_reuse", "1\n"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
    ("proc/sys/net/netfilter/nf_conntrack_count", "100\n"),
    ("proc/sys/vm/swappiness", "60\n"),
    ("proc/sys/vm/overcommit_memory", "0\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
    ("sys/fs/cgroup/ringway.service/memory.max", "1073741824\n"),
    ("sys/fs/cgroup/ringway.service/cpu.max", "200000 100000\n"),
    ("sys/fs/cgroup/ringway.service/cpu.stat", "usage_usec 5\nnr_periods 100\nnr_throttled 5\n"),
    ("sys/fs/cgroup/ringway.service/pids.max", "256\n"),
];

/// A machine, a configuration and what was learned of them.
struct Machine {
    folder: PathBuf,
    config: Config,
    ring: RingFacts,
    fitted: Result<Vec<String>, String>,
}

impl Machine {
    fn bare() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringway-doctor-{}-{count}", std::process::id());
        let mut config = Config::default();
        config.server.workers = 2;
        Self {
            folder: std::env::temp_dir().join(name),
            config,
            ring: RingFacts::default(),
            fitted: Ok(Vec::new()),
        }
    }

    fn in_order() -> Self {
        IN_ORDER.iter().fold(Self::bare(), |machine, (path, text)| machine.with(path, text))
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Replaces a part of one of the files.
    fn but(self, path: &str, old: &str, new: &str) -> Self {
        let text = fs::read_to_string(self.folder.join(path)).unwrap();
        assert!(text.contains(old), "{path} has no {old}");
        self.with(path, &text.replace(old, new))
    }

    fn link(self, path: &str, target: &str) -> Self {
        let path = self.folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }

    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    fn refused(mut self) -> Self {
        self.ring.refusal = Some("io_uring is blocked. Allow it".to_owned());
        self
    }

    fn missing(mut self, operations: &[&'static str], flags: &[&'static str]) -> Self {
        self.ring.missing = Missing { operations: operations.to_vec(), flags: flags.to_vec() };
        self
    }

    fn fitted(mut self, fitted: Result<Vec<String>, String>) -> Self {
        self.fitted = fitted;
        self
    }

    fn report(&self) -> Report {
        examine(&self.config, &Root::within(&self.folder), self.ring.clone(), &self.fitted)
    }

    fn finding(&self, id: &str) -> Finding {
        let found = self.report().findings.into_iter().find(|finding| finding.id == id);
        found.unwrap_or_else(|| panic!("no finding {id}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_machine_in_order_has_nothing_to_mend() {
    let report = Machine::in_order().report();
    assert_eq!(report.severity, Severity::Ok, "{report}");
    assert_eq!(report.exit_code(), 0);
    assert!(report.findings.iter().all(|finding| finding.cure.is_none()));
}

#[test]
fn each_thing_that_is_wrong_is_found_alone_and_with_its_cure() {
    for (index, (change, ids, severity, words)) in cases().enumerate() {
        let report = change(Machine::in_order()).report();
        let bad: Vec<_> =
            report.findings.iter().filter(|finding| finding.severity != Severity::Ok).collect();
        let found: BTreeSet<_> = bad.iter().map(|finding| finding.id).collect();
        assert_eq!(found, ids.iter().copied().collect(), "case {index}: {report}");
        let first = bad.iter().find(|finding| finding.id == ids[0]).unwrap();
        assert_eq!(first.severity, *severity, "case {index}: {report}");
        let text = report.to_string();
        for word in *words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
        for finding in bad {
            assert!(!finding.why.contains('\n') && !finding.why.contains("  "), "{finding:?}");
        }
    }
}

#[test]
fn every_check_has_a_case() {
    let cases: BTreeSet<_> = cases().flat_map(|(_, ids, ..)| *ids).copied().collect();
    let machine = Machine::in_order().set(|config| listen(config, "[::]:30000"));
    let mut all: BTreeSet<_> = machine.report().findings.iter().map(|it| it.id).collect();
    all.extend(["low_ports", "unix_sockets"]);
    all.extend(["certificates", "certificate_keys", "key_files", "certificate_names"]);
    assert_eq!(cases, all);
    assert_eq!(all.len(), CHECKS.len() + 1);
}

#[test]
fn a_certificate_in_order_has_nothing_to_mend() {
    let key = rcgen::KeyPair::generate().unwrap();
    let report = secured(Machine::in_order(), key, 90, 0o640).report();
    assert_eq!(report.severity, Severity::Ok, "{report}");
}

#[test]
fn who_wants_epoll_has_no_use_for_what_a_ring_needs() {
    let machine = locked(disabled(Machine::in_order().refused(), "2"), "0 0");
    let report = machine.set(|config| config.server.driver = DriverChoice::Epoll).report();
    assert_eq!(report.severity, Severity::Ok, "{report}");
    let driver = report.findings.iter().find(|finding| finding.id == "driver").unwrap();
    assert_eq!(driver.current, "epoll");
    // Where it has to do, nothing is locked either.
    let machine = locked(Machine::in_order().refused(), "0 0");
    assert!(machine.report().findings.iter().all(|finding| finding.id != "locked_memory"));
}

#[test]
fn a_plan_that_cannot_fit_is_an_error() {
    let machine = Machine::in_order().fitted(Err("lower limits.clients".to_owned()));
    let finding = machine.finding("memory_plan");
    assert_eq!((finding.severity, finding.why.as_str()), (Severity::Error, "lower limits.clients"));
    assert_eq!(machine.report().exit_code(), 1);
}

#[test]
fn what_ringway_itself_holds_or_may_do_is_in_order() {
    let own = held_by(Machine::in_order(), "ringway\n");
    assert_eq!(own.finding("listeners").current, "0.0.0.0:22 by ringway");
    assert_eq!(own.finding("low_ports").severity, Severity::Ok);
    assert_eq!(own.report().severity, Severity::Ok);
    let machine = Machine::in_order();
    let capable = locked(machine, "0 0").but("proc/self/status", "0000000000000000", "4000");
    assert_eq!(capable.finding("locked_memory").current, "no limit (CAP_IPC_LOCK)");
    let machine = locked(Machine::in_order(), "4456448 8388608");
    assert_eq!(machine.finding("locked_memory").severity, Severity::Ok);
    let machine = Machine::in_order().with(&format!("{GROUP}memory.max"), "134217728");
    let machine = machine.set(|config| config.memory.max = MemoryMax::Auto);
    assert_eq!(machine.finding("memory_ceiling").current, "auto of 128 MiB");
    assert_eq!(machine.finding("memory_ceiling").severity, Severity::Ok);
    let path = "sys/kernel/mm/transparent_hugepage/enabled";
    let machine = Machine::in_order().with(path, "[always] madvise never");
    let machine = machine.but("proc/self/status", "THP_enabled:\t1", "THP_enabled:\t0");
    assert_eq!(machine.finding("huge_pages").severity, Severity::Ok);
    let machine = Machine::in_order().set(|config| listen(config, "0.0.0.0:30000"));
    let machine = machine.with("proc/sys/net/ipv4/ip_local_reserved_ports", "29000-31000");
    assert_eq!(machine.report().severity, Severity::Ok);
}

#[test]
fn groups_of_version_one_and_of_containers_are_read() {
    let old = Machine::in_order()
        .with("proc/self/cgroup", "4:cpu,cpuacct:/a/b\n3:pids:/a\n0::/../x\n")
        .with("sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us", "-1")
        .with("sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us", "100000")
        .with("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "150000")
        .with("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000")
        .with("sys/fs/cgroup/pids/a/pids.max", "max")
        .with("sys/fs/cgroup/pids/pids.max", "40");
    assert_eq!(old.finding("processors").current, "2 workers on 2");
    assert_eq!(old.finding("processes").current, "40");
    // The path is the host's, the mount shows the container's own group.
    let container = Machine::in_order()
        .with("proc/self/cgroup", "0::/docker/abc\n")
        .with("sys/fs/cgroup/cpu.max", "50000 100000")
        .with("sys/fs/cgroup/pids.max", "20");
    assert_eq!(container.finding("processors").current, "2 workers on 1");
    assert_eq!(container.finding("processes").current, "20");
    let tight = Machine::in_order().with("sys/fs/cgroup/cpu.max", "90000 100000");
    assert_eq!(tight.finding("processors").current, "2 workers on 1");
}

#[test]
fn what_cannot_be_seen_is_neither_wrong_nor_a_panic() {
    let nothing = Machine::bare().set(|config| config.server.workers = 1).report();
    assert_eq!(nothing.severity, Severity::Ok, "{nothing}");
    let mut machine = Machine::in_order();
    for (path, text) in IN_ORDER {
        for odd in ["", "\n", "max", "-1", "\u{0}", ": : :", "99999999999999999999", "1-0,,-"] {
            machine = machine.with(path, odd);
            assert!(!machine.report().findings.is_empty(), "{path} {odd}");
        }
        machine = machine.with(path, text);
    }
    assert_eq!(machine.report().severity, Severity::Ok);
}

#[test]
fn the_shipped_settings_are_the_wanted_ones() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/sysctl.d/60-ringway.conf");
    let shipped = fs::read_to_string(path).unwrap();
    // Those behind a # are not set, and yet named with the value to set.
    let shipped: BTreeSet<_> = (shipped.lines())
        .filter_map(|line| line.trim_start_matches(['#', '-']).split_once(" = "))
        .filter(|(name, _)| !name.contains(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let wanted: BTreeSet<_> = cases()
        .flat_map(|(change, ..)| change(Machine::in_order()).report().findings)
        .filter_map(|finding| finding.cure)
        .filter_map(|cure| {
            let setting = cure.lasting.strip_prefix("echo '")?.split_once("' >>")?.0;
            let (name, value) = setting.split_once(" = ")?;
            Some((name.to_owned(), value.to_owned()))
        })
        // These depend on what listens, and on how full a table is.
        .filter(|(name, value)| name != setting::RESERVED_PORTS_NAME && value != "524288")
        .collect();
    assert_eq!(wanted, shipped);
}

#[test]
fn this_machine_can_be_looked_at() {
    let report = examine(&Config::default(), &Root::system(), RingFacts::probe(), &Ok(Vec::new()));
    let found = |id| report.findings.iter().find(|finding| finding.id == id);
    assert_eq!(found("io_uring").unwrap().severity, Severity::Ok, "{report}");
    for id in ["kernel", "open_files", "processors", "somaxconn", "ports"] {
        assert_ne!(found(id).unwrap().current, "", "{id}");
    }
}
