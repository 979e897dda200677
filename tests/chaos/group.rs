//! A control group of memory of a test's own (cgroups(7)), of either version.
//!
//! In go a limit and a neighbour that takes more than that; out come launchers that put a program
//! into the group, and the kernel's word that it has killed the neighbour and nobody else. The
//! group goes away with the test.

use crate::support::wait_until;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) struct Group {
    path: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Group {
    /// `None` where this process may not make one, with a line that says so.
    pub(crate) fn new(limit_bytes: u64) -> Option<Self> {
        let made = Self::try_new(limit_bytes);
        if let Err(why) = &made {
            eprintln!("skipped: no control group of memory can be made: {why}");
        }
        made.ok()
    }

    fn try_new(limit_bytes: u64) -> Result<Self, String> {
        let (folder, version) = folder().ok_or("there is no hierarchy for it")?;
        let path = folder.join(format!("ringway-test-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let group = Self { path, version };
        let (limit, swap) = match version {
            Version::V1 => ("memory.limit_in_bytes", ("memory.swappiness", "0")),
            Version::V2 => ("memory.max", ("memory.swap.max", "0")),
        };
        let write = |name: &str, value: &str| {
            let path = group.path.join(name);
            // A file that is not there must not be made.
            let written = fs::OpenOptions::new().write(true).open(&path);
            let written =
                written.and_then(|mut it| std::io::Write::write_all(&mut it, value.as_bytes()));
            written.map_err(|error| format!("{}: {error}", path.display()))
        };
        write(limit, &limit_bytes.to_string())?;
        // Where there is no swap there is nothing to forbid.
        let _ = write(swap.0, swap.1);
        Ok(group)
    }

    /// What a shell does to start a program (`"$0" "$@"`) in the group.
    pub(crate) fn launcher(&self) -> String {
        format!("echo $$ > '{}/cgroup.procs' && exec \"$0\" \"$@\"", self.path.display())
    }

    /// Starts somebody in the group who takes 512 MiB, and whom the kernel kills for it.
    #[track_caller]
    pub(crate) fn kill_a_neighbour(&self) {
        let before = self.killed();
        let script = format!("echo 1000 > /proc/self/oom_score_adj && {}", self.launcher());
        let mut neighbour = Command::new("sh");
        neighbour.args(["-c", &script, "dd", "if=/dev/zero", "of=/dev/null", "bs=512M", "count=1"]);
        let neighbour = neighbour.stdin(Stdio::null()).stdout(Stdio::null());
        let status = neighbour.status().expect("a shell");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
        assert_eq!(self.killed(), before + 1, "the kernel has killed one");
    }

    /// How many the kernel has killed for want of memory in the group.
    fn killed(&self) -> u64 {
        let name = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(self.path.join(name)).expect("the group is there");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no kills in {text}"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Who has ended is in it for a moment longer.
        let is_gone = || fs::remove_dir(&self.path).is_ok() || !self.path.exists();
        if std::thread::panicking() {
            is_gone();
        } else {
            wait_until("the control group is empty", is_gone);
        }
    }
}

/// Where a group can be made: below this process's own, or with version 2, where a group with
/// processes has no groups with limits, beside it.
fn folder() -> Option<(PathBuf, Version)> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = |is_it: &dyn Fn(&str) -> bool| {
        own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            is_it(controllers).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let has_memory = |list: &str| list.split([',', ' ', '\n']).any(|it| it == "memory");
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (mount, kind, options) = (Path::new(words.next()?), words.next()?, words.next()?);
        match kind {
            "cgroup" if has_memory(options) => {
                let below = mount.join(own(&has_memory)?);
                // In a container the path may be one of outside.
                let folder = if below.is_dir() { below } else { mount.to_owned() };
                Some((folder, Version::V1))
            }
            "cgroup2" => {
                let controllers = fs::read_to_string(mount.join("cgroup.controllers")).ok()?;
                let below = mount.join(own(&str::is_empty)?);
                let beside = below.parent().filter(|it| it.starts_with(mount)).unwrap_or(mount);
                has_memory(&controllers).then(|| (beside.to_owned(), Version::V2))
            }
            _ => None,
        }
    })
}
