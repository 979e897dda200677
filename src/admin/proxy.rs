//! The running proxy, as the control thread sees it.
//!
//! In go the configuration, what the workers share and the moment of the start; out come readings
//! that several parts of `admin` need, and answers of workers that were asked something. It
//! holds no task and decides nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use tokio::sync::{Semaphore, oneshot};

use super::accounting::Cleanups;
use super::alerts::Alerts;
use super::course::Course;
use super::process;
use super::stats::{Stats, Totals};
use super::webhook::Webhook;
use crate::admin::setup::{ControlSetup, Logs};
use crate::admin::units::lock;
use crate::memory::usage::{Probe, Usage};
use crate::worker::generation::Snapshot;
use crate::worker::mailbox::{ConnectionInfo, WorkerCommand};
use crate::worker::shared::Shared;

/// How long a worker may take to answer. It answers between two requests: within microseconds.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Lists of all connections that may be held at a time: one has 100 bytes for each of them.
const LISTS_MAX: usize = 2;

pub(super) struct Proxy {
    pub(super) shared: Arc<Shared>,
    pub(super) logs: Logs,
    /// Each drops one cache.
    pub(super) caches: Mutex<Vec<Box<dyn Fn() + Send>>>,
    pub(super) started: Instant,
    pub(super) started_at: SystemTime,
    pub(super) stats: Mutex<Stats>,
    pub(super) alerts: Mutex<Alerts>,
    pub(super) cleanups: Cleanups,
    pub(super) webhook: Mutex<Option<Webhook>>,
    /// The last minute.
    pub(super) course: Mutex<Course>,
    /// When each worker has last answered.
    pub(super) heard: Mutex<HashMap<usize, Instant>>,
    /// The last answer to `GET /snapshot`, with when it was made.
    pub(super) snapshot_text: tokio::sync::Mutex<Option<(Instant, Arc<str>)>>,
    probe: Probe,
    lists: Semaphore,
}

/// What the workers had to say, and which of them were silent.
pub(super) struct Answers<T> {
    pub(super) given: Vec<T>,
    pub(super) silent: Vec<usize>,
}

impl Proxy {
    pub(super) fn new(setup: ControlSetup, webhook: Option<Webhook>) -> Self {
        let snapshot = setup.shared.snapshot.load_full();
        Self {
            stats: Stats::new(&setup.shared),
            alerts: Mutex::new(Alerts::new(&snapshot.config)),
            cleanups: Cleanups::new(&snapshot.config.memory),
            probe: Probe::new(),
            shared: setup.shared,
            logs: setup.logs,
            caches: Mutex::new(setup.caches),
            started: Instant::now(),
            started_at: SystemTime::now(),
            webhook: Mutex::new(webhook),
            course: Mutex::default(),
            heard: Mutex::default(),
            snapshot_text: tokio::sync::Mutex::default(),
            lists: Semaphore::new(LISTS_MAX),
        }
    }

    /// The configuration in use, with what was made of it.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// What the kernel says about memory.
    pub(super) fn usage(&self) -> Usage {
        self.probe.read()
    }

    /// The same with what is counted by name.
    pub(super) fn named_totals(&self) -> Totals {
        Totals::read_named(&self.shared, Instant::now(), process::cpu())
    }

    pub(super) fn totals(&self) -> Totals {
        Totals::read(&self.shared, Instant::now(), process::cpu())
    }

    /// Asks every worker at once, and waits for all of them together.
    pub(super) async fn ask<T>(
        &self,
        command: impl Fn(oneshot::Sender<T>) -> WorkerCommand,
    ) -> Answers<T> {
        let workers: Vec<_> = self.shared.occupied().collect();
        let questions = workers.iter().map(|worker| {
            let (reply, answer) = oneshot::channel();
            let is_sent = self.shared.slots[*worker].send(command(reply));
            async move {
                let answer = tokio::time::timeout(ANSWER_MAX, answer);
                if is_sent { answer.await.ok()?.ok() } else { None }
            }
        });
        let mut answers = Answers { given: Vec::new(), silent: Vec::new() };
        for (worker, answer) in workers.iter().zip(join_all(questions).await) {
            match answer {
                Some(answer) => {
                    lock(&self.heard).insert(*worker, Instant::now());
                    answers.given.push(answer);
                }
                None => answers.silent.push(*worker),
            }
        }
        answers
    }

    /// Every client connection of the process.
    pub(super) async fn connections(&self) -> Answers<ConnectionInfo> {
        // Never closed, so there is always a permit to come.
        let _permit = self.lists.acquire().await;
        let Answers { given, silent } =
            self.ask(|reply| WorkerCommand::Connections { reply }).await;
        Answers { given: given.into_iter().flatten().collect(), silent }
    }
}
