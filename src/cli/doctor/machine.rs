//! Memory, processors and clocks.
//!
//! In: facts and the configuration. Out: one finding per check. Pure.

use crate::config::{Config, MemoryMax};

use super::facts::Facts;
use super::finding::{Cure, Finding, Severity};
use super::setting::OVERCOMMIT;

const MIB: u64 = 1024 * 1024;

/// Of a limit, in percent: what memory.max_mb = "auto" takes. The rest is for the kernel's own.
const CEILING_PERCENT: u64 = 80;

/// Threads beside the workers: control, names, logs, passwords, webhook, the ring's own helpers.
const THREADS_BESIDE: u64 = 32;

/// Of the periods of a quota, in percent, that may end with it used up.
const THROTTLED_PERCENT: u64 = 5;

/// Below this, memory is swapped out only in need.
const SWAPPINESS_MAX: u64 = 10;

pub(super) fn memory_plan(fitted: &Result<Vec<String>, String>) -> Finding {
    let finding = |current| Finding::fine("memory_plan", current, "room for the worst case");
    let lasting = "lower what `ringway check` lists first, or raise memory.max_mb and the limit \
                   above it";
    match fitted {
        Ok(notices) if notices.is_empty() => finding("room for the worst case"),
        // Only what the operator has not chosen is lowered; a choice that does not fit is an error.
        Ok(notices) => finding("lowered until it fits").but(
            Severity::Hint,
            notices.join("; "),
            Cure::new("ringway check shows the sum", lasting),
        ),
        Err(error) => finding("no room").but(
            Severity::Error,
            error.clone(),
            Cure::new("what the line above says", lasting),
        ),
    }
}

pub(super) fn memory_ceiling(facts: &Facts, config: &Config) -> Option<Finding> {
    let limit = facts.memory.cgroup_limit?;
    let share_mb = limit / 100 * CEILING_PERCENT / MIB;
    let current = match config.memory.max {
        MemoryMax::Auto => "auto".to_owned(),
        MemoryMax::Mb(mb) => format!("{mb} MiB"),
    };
    let current = format!("{current} of {} MiB", limit / MIB);
    let finding = Finding::fine("memory_ceiling", current, format!("{share_mb} MiB or auto"));
    Some(match config.memory.max {
        MemoryMax::Mb(mb) if mb > share_mb => finding.but(
            Severity::Warning,
            "the kernel's memory for sockets counts too: it kills ringway at the limit, before \
             ringway turns anybody away",
            Cure::new(
                "--set memory.max_mb=auto",
                "memory.max_mb = \"auto\" in the configuration, or a higher limit (docker \
                 --memory, systemd MemoryMax=)",
            ),
        ),
        _ => finding,
    })
}

/// Processors' worth of time that there is, in whole workers.
fn processors_available(facts: &Facts) -> u64 {
    let quota = facts.groups.cpus.map_or(u64::MAX, |cpus| cpus.ceil() as u64);
    facts.cores.min(quota).max(1)
}

pub(super) fn processors(facts: &Facts, config: &Config) -> Finding {
    let (workers, available) = (config.server.workers as u64, processors_available(facts));
    let current = format!("{workers} workers on {available}");
    let finding = Finding::fine("processors", current, format!("{available} workers at most"));
    if workers <= available {
        return finding;
    }
    let cure = Cure::new(
        format!("--workers {available}"),
        "server.workers = 0 (one per core), or a higher quota (docker --cpus, systemd CPUQuota=)",
    );
    let why =
        "workers that share a core wait for each other, and a quota stops all of them at once";
    finding.but(Severity::Warning, why, cure)
}

pub(super) fn throttling(facts: &Facts, _: &Config) -> Option<Finding> {
    let percent = facts.groups.throttled_percent?;
    let wanted = format!("{THROTTLED_PERCENT} % of the periods or less");
    let finding = Finding::fine("cpu_throttling", format!("{percent} % of the periods"), wanted);
    if percent <= THROTTLED_PERCENT {
        return Some(finding);
    }
    let cure = Cure::new(
        "docker update --cpus, systemctl set-property ringway.service CPUQuota=",
        "a higher quota, or none (Kubernetes: a request for cpu without a limit)",
    );
    let why = "the group has used up its time, and everything in it stood still until the next \
               period: tens of milliseconds";
    Some(finding.but(Severity::Hint, why, cure))
}

pub(super) fn processes(facts: &Facts, config: &Config) -> Option<Finding> {
    let most = facts.groups.pids?;
    let needed = (config.server.workers as u64).saturating_add(THREADS_BESIDE);
    let finding = Finding::fine("processes", most, needed);
    if most >= needed {
        return Some(finding);
    }
    let cure = Cure::new(
        format!(
            "docker update --pids-limit {needed}, or systemctl set-property ringway.service \
             TasksMax={needed}"
        ),
        format!("compose `pids_limit: {needed}`, systemd TasksMax={needed}"),
    );
    let why = "a thread for each worker and a few more; without them ringway does not start";
    Some(finding.but(Severity::Warning, why, cure))
}

pub(super) fn swap(facts: &Facts, _: &Config) -> Option<Finding> {
    let (swap_kib, swappiness) = (facts.swap_kib?, facts.swappiness.unwrap_or(60));
    if swap_kib == 0 {
        return Some(Finding::fine("swap", "none", "none, or a low swappiness"));
    }
    let current = format!("{} MiB, swappiness {swappiness}", swap_kib / 1024);
    let finding = Finding::fine("swap", current, "none, or a low swappiness");
    if swappiness <= SWAPPINESS_MAX {
        return Some(finding);
    }
    let why = "a worker that waits for a page from a disk keeps all its connections waiting";
    let cure = Cure::new(
        "systemctl set-property ringway.service MemorySwapMax=0, or docker run --memory-swap as \
         large as --memory",
        "the same in the unit or in compose (`memswap_limit`)",
    );
    Some(finding.but(Severity::Hint, why, cure))
}

pub(super) fn overcommit(facts: &Facts, _: &Config) -> Option<Finding> {
    let value = facts.overcommit?;
    let finding = Finding::fine("overcommit_memory", value, "0 or 1");
    if value < 2 {
        return Some(finding);
    }
    let why = "addresses count as memory: the allocator takes more of them than it uses, and may \
               be refused";
    Some(finding.but(Severity::Hint, why, OVERCOMMIT.cure(facts, OVERCOMMIT.value)))
}

pub(super) fn huge_pages(facts: &Facts, _: &Config) -> Option<Finding> {
    let mode = facts.huge_pages.as_deref()?;
    let wanted = "any, as ringway turns them off for itself";
    if mode != "always" || facts.has_no_huge_pages {
        return Some(Finding::fine("huge_pages", mode, wanted));
    }
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let cure = Cure::new(
        format!("echo madvise >{path}"),
        "transparent_hugepage=madvise on the kernel's command line",
    );
    let why = "PR_SET_THP_DISABLE was refused: at rest the process is twice as large";
    Some(Finding::fine("huge_pages", mode, wanted).but(Severity::Hint, why, cure))
}

pub(super) fn clock_source(facts: &Facts, _: &Config) -> Option<Finding> {
    let source = facts.clock_source.as_deref()?;
    let wanted = "tsc, or the hypervisor's";
    let finding = Finding::fine("clock_source", source, wanted);
    if !["hpet", "acpi_pm", "jiffies", "refined-jiffies"].contains(&source) {
        return Some(finding);
    }
    let folder = "/sys/devices/system/clocksource/clocksource0";
    let cure = Cure::new(
        format!(
            "echo tsc >{folder}/current_clocksource (if {folder}/available_clocksource has it)"
        ),
        "clocksource=tsc on the kernel's command line; the kernel's log says why it left it",
    );
    let why =
        "every look at the clock is a system call and a slow device, several for each request";
    Some(finding.but(Severity::Warning, why, cure))
}
