//! The program under attack, and what it spends meanwhile.
//!
//! Comes in: a configuration. Goes out: a process whose processor time, threads, memory, files and
//! own figures were noted before the attack and are compared with during and after it. Nothing here
//! attacks.

use crate::admin::Admin;
use crate::support::{Proxy, Setup, wait_until};
use std::fs;
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

/// The share of the time for which a process that has nothing to do may be busy.
const IDLE_SHARE_MAX: f64 = 0.3;

/// Threads that a hostile peer may cause, all of them of the kernel.
const MORE_THREADS_MAX: usize = 8;

/// What a process keeps for the next burst: buffers for heads, connections to origins.
const KEPT_LEDGER_BYTES: u64 = 2_000_000;

/// The kept connections to origins, and pipes.
const KEPT_FILES: usize = 96;

/// The allocator's own, and a debug build's tables.
const KEPT_RESIDENT_BYTES: usize = 96 << 20;

/// Cases that measure how long others wait have the machine to themselves.
static MACHINE: RwLock<()> = RwLock::new(());

/// The machine, shared with other cases.
pub fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// The machine alone.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

pub struct Subject {
    proxy: Proxy,
    pub admin: Admin,
    before: Figures,
}

#[derive(Clone, Copy, Debug)]
struct Figures {
    threads: usize,
    files: usize,
    resident_bytes: usize,
    ledger_bytes: u64,
}

impl Subject {
    #[track_caller]
    pub fn start(setup: Setup) -> Self {
        let proxy = setup.start();
        let admin = Admin::of(&proxy);
        let before = Figures {
            threads: threads(&proxy),
            files: proxy.open_files(),
            resident_bytes: proxy.resident_bytes(),
            ledger_bytes: ledger_bytes(admin),
        };
        Self { proxy, admin, before }
    }

    /// The time for which its threads have run, those of the kernel included.
    #[track_caller]
    pub fn cpu_seconds(&self) -> f64 {
        self.scheduled_seconds(1)
    }

    /// The time for which its threads have run or wanted to run. On a busy machine a spin shows in
    /// the sum of both, as the time that it was given may be little.
    #[track_caller]
    fn busy_seconds(&self) -> f64 {
        self.scheduled_seconds(2)
    }

    /// The first figures of `schedstat`, which are in nanoseconds.
    #[track_caller]
    fn scheduled_seconds(&self, count: usize) -> f64 {
        let tasks = fs::read_dir(self.file_of_process("task")).expect("the process is there");
        let figures = tasks.flatten().map(|task| {
            // A thread that has ended meanwhile spins no more.
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let first = text.split(' ').take(count).filter_map(|text| text.parse::<f64>().ok());
            first.sum::<f64>()
        });
        figures.sum::<f64>() / 1e9
    }

    /// The attackers are silent, so it has nothing to do. A spin keeps its thread busy in every
    /// window; a burst of work that is still due may fill a few.
    #[track_caller]
    pub fn expect_rest(&self) {
        const WINDOW: Duration = Duration::from_millis(400);
        let mut shares = Vec::new();
        for _ in 0..16 {
            let (busy, started) = (self.busy_seconds(), Instant::now());
            thread::sleep(WINDOW);
            let share = (self.busy_seconds() - busy) / started.elapsed().as_secs_f64();
            if share < IDLE_SHARE_MAX {
                self.expect_few_threads();
                return;
            }
            shares.push(share);
        }
        panic!("the process is busy while nobody says a word: {shares:.2?} of the time");
    }

    #[track_caller]
    pub fn expect_few_threads(&self) {
        let (now, before) = (threads(&self.proxy), self.before.threads);
        assert!(now <= before + MORE_THREADS_MAX, "{now} threads, {before} before the attack");
    }

    /// Resident memory is at most `bytes` above what it was before the attack.
    #[track_caller]
    pub fn expect_resident_below(&self, bytes: usize) {
        let (now, before) = (self.resident_bytes(), self.before.resident_bytes);
        assert!(now <= before + bytes, "{now} bytes resident, {before} before the attack");
    }

    /// Waits until the figure is what is wanted.
    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, is_wanted: impl Fn(u64) -> bool) {
        let mut last = None;
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            last = self.admin.metric(name, "");
            if last.is_some_and(&is_wanted) {
                return;
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        panic!("{name} is {last:?} in the end");
    }

    /// The attackers have gone: everything comes home.
    #[track_caller]
    pub fn expect_home(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Some(missing) = self.missing() {
            assert!(Instant::now() < deadline, "20 s after the attack: {missing}");
            thread::park_timeout(Duration::from_millis(25));
        }
        self.expect_resident_below(KEPT_RESIDENT_BYTES);
        self.expect_rest();
    }

    /// What has not come home yet.
    fn missing(&self) -> Option<String> {
        let metrics = self.admin.metrics();
        let open = metrics.get("ringway_pool_connections", "");
        let busy = open.saturating_sub(metrics.get("ringway_pool_idle_connections", ""));
        let figures = [
            ("clients", metrics.get("ringway_clients", "")),
            ("tunnels", metrics.get("ringway_tunnels", "")),
            ("busy connections to origins", busy),
            ("waiting requests", metrics.get("ringway_pool_waiting_requests", "")),
            ("leased bytes", metrics.get("ringway_memory_ledger_bytes", "leased_chunks")),
        ];
        if let Some((what, count)) = figures.into_iter().find(|(_, count)| *count != 0) {
            return Some(format!("{count} {what}"));
        }
        let (files, before) = (self.open_files(), self.before.files);
        if files > before + KEPT_FILES {
            return Some(format!("{files} open files, {before} before"));
        }
        let (ledger, before) = (ledger_bytes(self.admin), self.before.ledger_bytes);
        (ledger > before + KEPT_LEDGER_BYTES)
            .then(|| format!("a ledger of {ledger} bytes, {before} before"))
    }

    /// Every client of the proxy is in the phase.
    #[track_caller]
    pub fn wait_for_phase(&self, phase: &str, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        wait_until(&format!("{count} connections are in phase {phase}"), || {
            let all = self.admin.connections();
            ids = all.iter().filter(|(_, _, is)| is == phase).map(|(id, ..)| *id).collect();
            ids.len() >= count
        });
        ids
    }
}

impl Deref for Subject {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.proxy
    }
}

impl DerefMut for Subject {
    fn deref_mut(&mut self) -> &mut Proxy {
        &mut self.proxy
    }
}

/// All of them, those that the kernel runs for its rings included.
fn threads(proxy: &Proxy) -> usize {
    fs::read_dir(proxy.file_of_process("task")).expect("the process is there").count()
}

/// What is held for connections and transfers. Connections to origins and looked-up names are kept
/// on purpose, and lines of the log come and go.
fn ledger_bytes(admin: Admin) -> u64 {
    let metrics = admin.metrics();
    let kinds = ["leased_chunks", "head_buffers", "connections", "tunnels"];
    kinds.iter().map(|kind| metrics.get("ringway_memory_ledger_bytes", kind)).sum()
}
