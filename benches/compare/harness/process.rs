//! Processes: started on a core, found with their children, ended.
//!
//! In: commands. Out: children that end when they are dropped, with everything they have started.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Sub;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the two sides run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) proxy: usize,
    /// And the origin.
    pub(crate) load: usize,
}

impl Cores {
    /// The first and the last that this process may use; the same one where there is one only.
    pub(crate) fn of_machine() -> Result<Self, String> {
        let set = sched_getaffinity(Pid::from_raw(0)).map_err(|error| error.to_string())?;
        let usable = |core: &usize| set.is_set(*core).unwrap_or(false);
        let proxy = (0..CpuSet::count()).find(usable).ok_or("no core to run on")?;
        let load = (0..CpuSet::count()).rfind(usable).unwrap_or(proxy);
        if proxy == load {
            eprintln!("compare: one core only: proxy and load share it");
        }
        Ok(Self { proxy, load })
    }
}

/// A folder in memory where there is one, removed when it is dropped.
pub(crate) struct Home(PathBuf);

impl Home {
    pub(crate) fn new() -> io::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("ringway-compare-{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child and its children.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command, core: usize) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A child inherits the core of the thread that starts it, before it can start any itself.
        let own = Pid::from_raw(0);
        let before = sched_getaffinity(own)?;
        let mut set = CpuSet::new();
        set.set(core)?;
        sched_setaffinity(own, &set)?;
        let child = command.spawn();
        sched_setaffinity(own, &before)?;
        Ok(Self(child?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until somebody listens at `address`; false where the process ended, or never does.
    pub(crate) fn listens(&mut self, address: SocketAddr) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && matches!(self.0.try_wait(), Ok(None)) {
            if TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for pid in tree(self.pid()) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// A process and all that descend from it.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((parent_of(pid)?, pid)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(of, _)| *of == parent).map(|(_, pid)| *pid));
        next += 1;
    }
    found
}

fn parent_of(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, parentheses included.
    text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Memory of a process and its children.
pub(crate) fn resident_bytes(root: u32) -> u64 {
    status_bytes(root, "VmRSS:")
}

/// The most that each of them has had.
pub(crate) fn peak_resident_bytes(root: u32) -> u64 {
    status_bytes(root, "VmHWM:")
}

fn status_bytes(root: u32, name: &str) -> u64 {
    let of = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    tree(root).into_iter().filter_map(of).sum::<u64>() * 1024
}

/// Processor time in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuTime {
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
}

impl Sub for CpuTime {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let (user_us, system_us) =
            (self.user_us - before.user_us, self.system_us - before.system_us);
        Self { user_us, system_us }
    }
}

/// What a process and its children have taken so far: utime and stime of proc(5), in ticks of 10
/// ms.
pub(crate) fn cpu_time(root: u32) -> CpuTime {
    const TICK_US: f64 = 10_000.0;
    let of = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = text.rsplit_once(") ")?.1.split(' ').skip(11);
        let mut next = || fields.next()?.parse::<f64>().ok();
        Some((next()?, next()?))
    };
    tree(root).into_iter().filter_map(of).fold(CpuTime::default(), |sum, (user, system)| CpuTime {
        user_us: sum.user_us + user * TICK_US,
        system_us: sum.system_us + system * TICK_US,
    })
}

pub(crate) fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

pub(crate) fn open_files_max() -> u32 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft.min(1_000_000) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & sleep 1000 & wait"]);
        let process = Process::start(&mut command, Cores::of_machine().unwrap().load).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while tree(process.pid()).len() < 3 {
            assert!(Instant::now() < deadline, "the shell has started nothing");
            std::thread::yield_now();
        }
        assert!(resident_bytes(process.pid()) > 0);
        assert!(peak_resident_bytes(process.pid()) > 0);
        let all = tree(process.pid());
        drop(process);
        let is_alive = |pid: &u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            text.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
        };
        while all.iter().any(is_alive) {
            assert!(Instant::now() < deadline, "something of {all:?} lives on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn processor_time_is_counted() {
        let own = std::process::id();
        let before = cpu_time(own);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let CpuTime { user_us, system_us } = cpu_time(own) - before;
            if user_us + system_us > 0.0 {
                break;
            }
            assert!(Instant::now() < deadline, "nothing is counted");
        }
    }

    #[test]
    fn a_home_goes_with_its_owner() {
        let home = Home::new().unwrap();
        let path = home.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        drop(home);
        assert!(!path.exists());
    }
}
