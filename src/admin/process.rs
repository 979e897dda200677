//! What the kernel says about this process: CPU time, open files, the queues of its rings.
//!
//! In go files of /proc and one system call; out come plain figures, 0 or nothing where the kernel
//! does not tell. Memory is `memory::usage`'s part. Nothing here is called by a worker.

use std::fs::{self, File};
use std::io::Read;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;

/// The process at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessReading {
    pub(super) cpu: Duration,
    pub(super) open_files: u64,
    /// The soft limit; 0 if it is not known.
    pub(super) open_files_max: u64,
}

impl ProcessReading {
    pub(super) fn read() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        Self { cpu: cpu(), open_files: open_files(), open_files_max: limit }
    }

    /// From 0 to 1; 0 where there is no limit.
    pub(super) fn open_files_share(&self) -> f64 {
        if self.open_files_max == 0 {
            return 0.0;
        }
        self.open_files as f64 / self.open_files_max as f64
    }
}

/// User and system time of all threads so far.
pub(super) fn cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = |time: TimeVal| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000 + time.tv_usec().unsigned_abs()
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

fn open_files() -> u64 {
    const FOLDER: &str = "/proc/self/fd";
    // Since Linux 6.2 the folder's size is the number of its entries: no need to list thousands.
    match fs::metadata(FOLDER).map(|folder| folder.len()) {
        Ok(count) if count > 0 => count,
        _ => fs::read_dir(FOLDER).map_or(0, |entries| entries.count() as u64),
    }
}

/// How full a ring's queues are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queues {
    /// Entries that the kernel has not taken yet.
    pub(super) submissions: u32,
    /// Completions that the worker has not taken yet.
    pub(super) completions: u32,
    /// Completions that found their queue full and wait outside it.
    pub(super) overflow: u64,
}

/// A ring with more operations pending is not inspected: its worker would have to wait.
pub(super) const INSPECTED_PENDING_MAX: u64 = 256;

/// A listing is as long as the ring has operations pending; more than this is not read.
const LISTING_BYTES_MAX: u64 = 64 * 1024;

/// Asks the kernel about the ring behind `ring_fd`.
///
/// The kernel holds the ring's lock while it lists what is pending, 0.4 us each, and the ring's
/// worker waits for that lock: not to be called for a ring with thousands of them.
pub(super) fn queues(ring_fd: i32) -> Option<Queues> {
    let mut text = String::new();
    let file = File::open(format!("/proc/self/fdinfo/{ring_fd}")).ok()?;
    file.take(LISTING_BYTES_MAX).read_to_string(&mut text).ok()?;
    parse_queues(&text)
}

fn parse_queues(text: &str) -> Option<Queues> {
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().parse::<u32>().ok()
    };
    // Heads and tails count on for ever and wrap around.
    let between = |head, tail| Some(number(tail)?.wrapping_sub(number(head)?));
    let overflow = text.lines().skip_while(|line| *line != "CqOverflowList:").skip(1);
    Some(Queues {
        submissions: between("SqHead", "SqTail")?,
        completions: between("CqHead", "CqTail")?,
        overflow: overflow.take_while(|line| line.starts_with(' ')).count() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_used_some_time_and_has_some_files() {
        let reading = ProcessReading::read();
        assert!(reading.cpu > Duration::ZERO);
        assert!(reading.open_files >= 3 && reading.open_files <= reading.open_files_max);
        assert!(reading.open_files_share() > 0.0 && reading.open_files_share() <= 1.0);
        let held: Vec<_> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
        assert!(open_files() >= 20);
        drop(held);
        assert!(ProcessReading { open_files_max: 0, ..reading }.open_files_share() < f64::EPSILON);
    }

    #[test]
    fn queues_are_read_from_the_kernels_listing() {
        let text = "pos:\t0\nSqMask:\t0xff\nSqHead:\t4294967295\nSqTail:\t3\nCachedSqHead:\t3\n\
                    CqMask:\t0xfff\nCqHead:\t10\nCqTail:\t12\nCachedCqTail:\t12\nSQEs:\t0\n\
                    UserBufs:\t1\n    0: 0x7f2a0a800000/65536\nPollList:\n  op=13, task_works=0\n\
                    CqOverflowList:\n  user_data=1, res=0, flags=0\n  user_data=2, res=0, flags=0\n\
                    NAPI:\tdisabled\n";
        let expected = Queues { submissions: 4, completions: 2, overflow: 2 };
        assert_eq!(parse_queues(text), Some(expected));
        let without =
            text.replace("  user_data=1, res=0, flags=0\n  user_data=2, res=0, flags=0\n", "");
        assert_eq!(parse_queues(&without).map(|queues| queues.overflow), Some(0));
        assert_eq!(parse_queues("pos:\t0\n"), None);
        assert_eq!(queues(-1), None);
    }
}
