//! Instructions and cycles of a process, where the machine has counters for them.
//!
//! In: a process. Out: counts since the start, by metric. Many virtual machines have no counters;
//! then there are no figures, and never made-up ones.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Metric, process};

const EVENTS: &str = "instructions:u,instructions:k,cycles:u,cycles:k";

/// `perf stat`, attached to a process and its children.
pub(crate) struct Counters(Child);

impl Counters {
    pub(crate) fn are_available() -> bool {
        let output = Command::new("perf").args(["stat", "-x,", "-e", EVENTS, "true"]).output();
        output.is_ok_and(|output| !read(&String::from_utf8_lossy(&output.stderr)).is_empty())
    }

    pub(crate) fn start(root: u32) -> Result<Self, String> {
        let pids: Vec<_> = process::tree(root).iter().map(u32::to_string).collect();
        let mut command = Command::new("perf");
        command.args(["stat", "-x,", "-e", EVENTS, "-p", &pids.join(",")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| format!("perf: {error}"))?;
        // It says nothing when it has attached.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Ok(Self(child))
    }

    /// Ends the counting.
    pub(crate) fn stop(self) -> Result<BTreeMap<Metric, f64>, String> {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT);
        let output = self.0.wait_with_output().map_err(|error| format!("perf: {error}"))?;
        Ok(read(&String::from_utf8_lossy(&output.stderr)))
    }
}

/// What stands in perf's lines of `count,unit,event,…`. Events that were not counted are left out.
fn read(text: &str) -> BTreeMap<Metric, f64> {
    let metric = |line: &str| {
        let mut fields = line.split(',');
        let count = fields.next()?.parse().ok()?;
        let metric = match fields.nth(1)? {
            "instructions:u" => Metric::InstructionsUser,
            "instructions:k" => Metric::InstructionsKernel,
            "cycles:u" => Metric::CyclesUser,
            "cycles:k" => Metric::CyclesKernel,
            _ => return None,
        };
        Some((metric, count))
    };
    text.lines().filter_map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_and_what_was_not_counted_is_left_out() {
        let text = "1234,,instructions:u,1000,100.00,,\n<not supported>,,cycles:u,0,100.00,,\n\
            56,,cycles:k,1000,100.00,,\nsome words\n";
        let expected = [(Metric::InstructionsUser, 1234.0), (Metric::CyclesKernel, 56.0)];
        assert_eq!(read(text), expected.into());
    }
}
