//! What a process tree costs: processor time, memory, switches, read from /proc.
//!
//! In comes the process to look at; out come two readings and their difference. Threads are read
//! one by one, because only their schedstat is finer than a tick; a process one of whose threads
//! ended between the readings is counted in ticks. What a process had used when it first appeared
//! is its own, because it began after the first reading. Nothing here is fast: it is read twice.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde::Serialize;

/// USER_HZ, which is 100 on every architecture that Linux offers it on (time(7)).
const TICK: Duration = Duration::from_millis(10);

/// Which process, so that a number that is used again is not taken for the same.
type Key = (u32, u64);

/// A process tree at one moment.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    processes: BTreeMap<Key, Process>,
}

#[derive(Clone, Debug, Default)]
struct Process {
    /// Time on a processor, by thread, in nanoseconds.
    threads: BTreeMap<u32, u64>,
    /// In ticks, those of ended threads included.
    user: u64,
    system: u64,
    rss_bytes: u64,
    peak_rss_bytes: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
}

/// What lies between two readings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Cost {
    pub(super) pid: u32,
    pub(super) cpu_us: f64,
    pub(super) user_us: f64,
    pub(super) system_us: f64,
    pub(super) cpu_us_per_request: f64,
    /// The sum over the tree, of each process since its start.
    pub(super) peak_rss_bytes: u64,
    pub(super) rss_bytes: u64,
    pub(super) processes: usize,
    pub(super) voluntary_switches: u64,
    pub(super) involuntary_switches: u64,
}

impl Reading {
    /// Reads `root` and everything below it.
    pub(super) fn take(root: u32) -> Result<Self, String> {
        let parents = parents();
        if !parents.contains_key(&root) {
            return Err(format!("--pid {root}: there is no such process"));
        }
        let is_below = |pid: &u32| {
            let mut pid = *pid;
            // Bounded, because the tree may change while it is read.
            for _ in 0..parents.len() {
                if pid == root {
                    return true;
                }
                let Some(parent) = parents.get(&pid) else { return false };
                pid = *parent;
            }
            false
        };
        let processes = parents.keys().filter(|pid| is_below(pid)).filter_map(|pid| read(*pid));
        Ok(Self { processes: processes.collect() })
    }

    /// The cost of what happened since `before`, when `requests` were answered.
    pub(super) fn since(&self, before: &Self, pid: u32, requests: u64) -> Cost {
        let none = Process::default();
        let (mut busy_ns, mut user, mut system) = (0.0, 0.0, 0.0);
        let (mut voluntary, mut involuntary) = (0, 0);
        for (key, process) in &self.processes {
            let start = before.processes.get(key).unwrap_or(&none);
            busy_ns += process.cpu_ns_since(start);
            user += process.user.saturating_sub(start.user) as f64;
            system += process.system.saturating_sub(start.system) as f64;
            voluntary += process.voluntary_switches.saturating_sub(start.voluntary_switches);
            involuntary += process.involuntary_switches.saturating_sub(start.involuntary_switches);
        }
        let cpu_us = busy_ns / 1000.0;
        let share_of_user = if user + system > 0.0 { user / (user + system) } else { 0.0 };
        let sum = |part: fn(&Process) -> u64| self.processes.values().map(part).sum::<u64>();
        Cost {
            pid,
            cpu_us,
            user_us: cpu_us * share_of_user,
            system_us: cpu_us * (1.0 - share_of_user),
            cpu_us_per_request: if requests == 0 { 0.0 } else { cpu_us / requests as f64 },
            peak_rss_bytes: sum(|process| process.peak_rss_bytes),
            rss_bytes: sum(|process| process.rss_bytes),
            processes: self.processes.len(),
            voluntary_switches: voluntary,
            involuntary_switches: involuntary,
        }
    }
}

impl Process {
    fn cpu_ns_since(&self, before: &Self) -> f64 {
        let has_lost_a_thread = before.threads.keys().any(|tid| !self.threads.contains_key(tid));
        if has_lost_a_thread || self.threads.is_empty() {
            let ticks = (self.user + self.system).saturating_sub(before.user + before.system);
            return ticks as f64 * TICK.as_nanos() as f64;
        }
        let since = |(tid, ns): (&u32, &u64)| {
            ns.saturating_sub(before.threads.get(tid).copied().unwrap_or(0)) as f64
        };
        self.threads.iter().map(since).sum()
    }
}

/// Every process with its parent.
fn parents() -> BTreeMap<u32, u32> {
    let pids = numbers("/proc");
    pids.filter_map(|pid| Some((pid, Stat::read(pid)?.parent))).collect()
}

/// The entries of a folder that are numbers.
fn numbers(folder: &str) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn read(pid: u32) -> Option<(Key, Process)> {
    let stat = Stat::read(pid)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut process = Process {
        user: stat.user,
        system: stat.system,
        rss_bytes: field(&status, "VmRSS") * 1024,
        peak_rss_bytes: field(&status, "VmHWM") * 1024,
        ..Process::default()
    };
    for tid in numbers(&format!("/proc/{pid}/task")) {
        let file = |name| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}")).ok();
        let on_cpu = |text: String| text.split(' ').next()?.parse::<u64>().ok();
        if let Some(ns) = file("schedstat").and_then(on_cpu) {
            process.threads.insert(tid, ns);
        }
        if let Some(status) = file("status") {
            process.voluntary_switches += field(&status, "voluntary_ctxt_switches");
            process.involuntary_switches += field(&status, "nonvoluntary_ctxt_switches");
        }
    }
    Some(((pid, stat.started), process))
}

/// A number in a `status` file; 0 where it is missing, as it is for a process that has ended.
fn field(status: &str, name: &str) -> u64 {
    let values = status.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let mut numbers = values.filter_map(|value| value.split_whitespace().next()?.parse().ok());
    numbers.next().unwrap_or(0)
}

/// What is needed of /proc/PID/stat.
struct Stat {
    parent: u32,
    user: u64,
    system: u64,
    /// Ticks after the machine's start.
    started: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, in parentheses, may contain anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // Counted from the third field, which is the state (proc_pid_stat(5)).
        let parent = u32::try_from(number(1)?).ok()?;
        Some(Self { parent, user: number(11)?, system: number(12)?, started: number(19)? })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn process(threads: &[(u32, u64)], user: u64, system: u64) -> Process {
        Process { threads: threads.iter().copied().collect(), user, system, ..Process::default() }
    }

    fn reading(processes: &[(Key, Process)]) -> Reading {
        Reading { processes: processes.iter().cloned().collect() }
    }

    #[test]
    fn a_cost_is_the_difference_thread_by_thread() {
        let before = reading(&[((7, 1), process(&[(7, 1_000_000), (8, 500_000)], 10, 10))]);
        let threads = [(7, 3_000_000), (8, 500_000), (9, 250_000)];
        let after = reading(&[((7, 1), process(&threads, 13, 11))]);
        let cost = after.since(&before, 7, 10);
        assert!((cost.cpu_us - 2_250.0).abs() < 1e-6, "{cost:?}");
        assert!((cost.cpu_us_per_request - 225.0).abs() < 1e-6);
        assert!((cost.user_us - 2_250.0 * 0.75).abs() < 1e-6);
        assert!((cost.user_us + cost.system_us - cost.cpu_us).abs() < 1e-6);
    }

    #[test]
    fn a_thread_that_ended_is_counted_in_ticks() {
        let before = reading(&[((7, 1), process(&[(7, 1_000_000), (8, 9_000_000)], 10, 10))]);
        let after = reading(&[((7, 1), process(&[(7, 1_500_000)], 12, 11))]);
        assert!((after.since(&before, 7, 1).cpu_us - 30_000.0).abs() < 1e-6);
    }

    #[test]
    fn a_child_that_began_is_counted_from_nothing_and_a_number_used_again_too() {
        let before = reading(&[((7, 1), process(&[(7, 0)], 0, 0)), ((8, 2), process(&[], 99, 0))]);
        let after =
            reading(&[((7, 1), process(&[(7, 0)], 0, 0)), ((8, 5), process(&[(8, 4_000)], 0, 0))]);
        let cost = after.since(&before, 7, 0);
        assert!((cost.cpu_us - 4.0).abs() < 1e-6, "{cost:?}");
        assert_eq!((cost.processes, cost.cpu_us_per_request.to_bits()), (2, 0.0_f64.to_bits()));
    }

    #[test]
    fn a_name_may_contain_anything() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 0 0 0 12 34 0 0 20 0 1 0 5678 9 9";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.parent, stat.user, stat.system, stat.started), (7, 12, 34, 5678));
        assert!(Stat::parse("42 (cut").is_none());
    }

    #[test]
    fn a_tree_is_this_process_and_its_children() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let reading = Reading::take(std::process::id());
        drop(child.stdin.take());
        child.wait().unwrap();
        let reading = reading.unwrap();
        let pids: Vec<u32> = reading.processes.keys().map(|key| key.0).collect();
        assert!(pids.contains(&std::process::id()) && pids.contains(&child.id()), "{pids:?}");
        let own = reading.processes.iter().find(|(key, _)| key.0 == std::process::id()).unwrap().1;
        assert!(own.rss_bytes > 0 && own.peak_rss_bytes >= own.rss_bytes);
        assert!(own.threads.values().sum::<u64>() > 0);
    }

    #[test]
    fn nobody_is_said_to_be_nobody() {
        // Above the largest that a kernel gives out.
        assert!(Reading::take(4_194_305).unwrap_err().contains("--pid 4194305"));
    }
}
