//! The kernel and its io_uring: whether ringway may use it, and how much of it.
//!
//! In: facts and the configuration. Out: one finding per check. Pure.

use crate::config::{Config, DriverChoice};
use crate::ring::driver::Driver;

use super::facts::Facts;
use super::finding::{Cure, Finding, Severity};
use super::setting::IO_URING;

/// What ringway is written for.
const RELEASE: (u64, u64) = (6, 1);

/// What one ring's queues count as: 256 entries of 64 bytes and 4096 completions of 16, rounded up
/// by the kernel. Measured on Linux 6.18: between 112 and 122 KiB.
const RING_BYTES: u64 = 128 * 1024;

const CAP_IPC_LOCK: u32 = 14;

pub(super) fn version(facts: &Facts, _: &Config) -> Finding {
    let finding = Finding::fine("kernel", &facts.release, "6.1 or later");
    let mut numbers = facts.release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return finding;
    };
    if (major, minor) >= RELEASE {
        finding
    } else {
        finding.but(
            Severity::Warning,
            "older kernels have less of io_uring, and ringway is not tested on them",
            Cure::new(
                "reboot into a newer kernel, if one is installed",
                "install the distribution's current kernel (Debian: apt-get install \
                 linux-image-amd64)",
            ),
        )
    }
}

/// How bad it is that there is no ring, where there is none.
fn severity(config: &Config) -> Severity {
    match config.server.driver {
        DriverChoice::Auto => Severity::Warning,
        DriverChoice::IoUring => Severity::Error,
        DriverChoice::Epoll => Severity::Ok,
    }
}

/// What the workers of this configuration would wait by.
pub(super) fn driver(facts: &Facts, config: &Config) -> Finding {
    let has_ring = facts.ring.refusal.is_none() && facts.ring.missing.operations.is_empty();
    let driver = match config.server.driver {
        DriverChoice::Auto if has_ring => Driver::IoUring,
        DriverChoice::IoUring => Driver::IoUring,
        DriverChoice::Auto | DriverChoice::Epoll => Driver::Epoll,
    };
    let finding = Finding::fine("driver", driver.name(), "io_uring");
    if driver == Driver::IoUring || config.server.driver == DriverChoice::Epoll {
        return finding;
    }
    finding.but(
        Severity::Hint,
        "ringway runs without io_uring, and a request takes two more system calls",
        Cure::new("what the lines below say", "docs/deploy/driver.md has a line for each platform"),
    )
}

pub(super) fn io_uring(facts: &Facts, config: &Config) -> Finding {
    const WANTED: &str = "usable";
    let because = |current: &str, why: String, now: &str| {
        let cure = Cure::new(now, "docs/deploy/platforms.md has a line for each platform");
        let finding = Finding::fine("io_uring", current, WANTED);
        match severity(config) {
            // Nobody asks for it.
            Severity::Ok => finding,
            severity => finding.but(severity, why, cure),
        }
    };
    let operations = &facts.ring.missing.operations;
    match &facts.ring.refusal {
        Some(refusal) => because("refused", refusal.clone(), "what the line above says"),
        None if !operations.is_empty() => because(
            &format!("without {}", operations.join(", ")),
            "ringway works by these operations".to_owned(),
            "reboot into Linux 6.1 or later",
        ),
        None => Finding::fine("io_uring", WANTED, WANTED),
    }
}

pub(super) fn ring_features(facts: &Facts, _: &Config) -> Option<Finding> {
    let flags = &facts.ring.missing.flags;
    if facts.ring.refusal.is_some() {
        return None;
    }
    let wanted = "every flag that pays";
    if flags.is_empty() {
        return Some(Finding::fine("io_uring_flags", "every one", wanted));
    }
    let cure =
        Cure::new("reboot into Linux 6.1 or later", "install the distribution's current kernel");
    let current = format!("without {}", flags.join(", "));
    let why = "these flags spare interrupts and locks, a sixth of the CPU under load";
    Some(Finding::fine("io_uring_flags", current, wanted).but(Severity::Hint, why, cure))
}

pub(super) fn io_uring_disabled(facts: &Facts, config: &Config) -> Option<Finding> {
    if config.server.driver == DriverChoice::Epoll {
        return None;
    }
    // Before Linux 6.6 there is none.
    let value = facts.io_uring_disabled?;
    let finding = Finding::fine("io_uring_disabled", value, IO_URING.value);
    let cure = || IO_URING.cure(facts, IO_URING.value);
    Some(match (value, &facts.ring.refusal) {
        (0, _) => finding,
        (1, None) => finding.but(
            Severity::Hint,
            "only the privileged and the members of kernel.io_uring_group may use io_uring: this \
             user may, the one that ringway runs as perhaps not",
            cure(),
        ),
        _ => finding.but(
            severity(config),
            "this setting of the machine keeps io_uring from this user",
            cure(),
        ),
    })
}

pub(super) fn seccomp(facts: &Facts, config: &Config) -> Option<Finding> {
    if config.server.driver == DriverChoice::Epoll {
        return None;
    }
    let wanted = "none, or one that lets io_uring pass";
    let finding = |current| Finding::fine("seccomp", current, wanted);
    Some(match (facts.seccomp?, &facts.ring.refusal) {
        (0, _) => finding("none"),
        (_, None) => finding("a filter, and io_uring passes"),
        (_, Some(_)) => finding("a filter").but(
            Severity::Warning,
            "io_uring does not work here, and filters of containers are the usual reason",
            Cure::new(
                "docker run --security-opt seccomp=docker/seccomp.json",
                "compose: `security_opt: [seccomp=docker/seccomp.json]`, Kubernetes: \
                 docker/kubernetes, systemd: SystemCallFilter=@system-service @aio",
            ),
        ),
    })
}

pub(super) fn locked_memory(facts: &Facts, config: &Config) -> Option<Finding> {
    if driver(facts, config).current == Driver::Epoll.name() {
        // Nothing is locked.
        return None;
    }
    let buffers = &config.buffers;
    let chunks = (buffers.chunk_bytes as u64).saturating_mul(buffers.chunks_per_worker as u64);
    let workers = config.server.workers as u64;
    let needed = chunks.saturating_add(RING_BYTES).saturating_mul(workers);
    let wanted = format!("{} KiB", needed.div_ceil(1024));
    let finding = |current: String| Finding::fine("locked_memory", current, &wanted);
    if facts.has_capability(CAP_IPC_LOCK) {
        return Some(finding("no limit (CAP_IPC_LOCK)".to_owned()));
    }
    let limit = facts.memlock?.soft;
    Some(match limit {
        u64::MAX => finding("unlimited".to_owned()),
        _ if limit >= needed => finding(format!("{} KiB", limit / 1024)),
        _ => finding(format!("{} KiB", limit / 1024)).but(
            Severity::Warning,
            "rings and chunks are locked memory, counted for all that this user runs: ringway \
             takes fewer chunks",
            Cure::new(
                "ulimit -l unlimited, or docker run --ulimit memlock=-1:-1",
                "systemd LimitMEMLOCK=infinity, compose `ulimits: {memlock: -1}`, or lower \
                 buffers.chunks_per_worker",
            ),
        ),
    })
}
