//! The workers of a server: as many as the configuration wants, each ready before it is given
//! anything.
//!
//! In goes how many there are to be; out come threads that accept and serve, or one line that says
//! why there are no more than before. A connection that was accepted is never in the hands of a
//! worker that may yet fail to start.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::mpsc as queue;

use crate::config::DriverChoice;
use crate::downstream;
use crate::memory::{Plan, Usage};
use crate::ring::diagnose;
use crate::ring::driver::{self, Driver};
use crate::server::{POLL, Server, StartError};
use crate::worker::mailbox::WorkerCommand;
use crate::worker::shared::{WorkerHandle, WorkerSlot, WorkerState};
use crate::worker::thread::{self, Ready, WorkerPlan};

/// How long a worker may take to close its ring.
const ENDING_PATIENCE: Duration = Duration::from_secs(5);

impl Server {
    /// Starts as many workers as it takes to have `count` that stay, or none where one of them
    /// cannot start. What they accept goes to those that are ready, and only to them.
    pub(crate) fn grow(&mut self, count: usize) -> Result<(), StartError> {
        let before = self.active_workers().len();
        let grown = (before..count).try_for_each(|_| {
            // One that drains has what another one would have to build up.
            if self.undrain_worker()? {
                return Ok(());
            }
            let worker = self.start_worker()?;
            self.let_accept(worker)
        });
        if grown.is_err() {
            for _ in before..self.active_workers().len() {
                self.drain_worker();
            }
        }
        grown
    }

    /// Has a worker that drains go on, if there is one.
    fn undrain_worker(&self) -> Result<bool, StartError> {
        let listeners = self.sockets.share().map_err(StartError)?;
        let Some(slot) = self.shared.slots.iter().find(|slot| slot.undrain()) else {
            return Ok(false);
        };
        slot.send(WorkerCommand::Resume { listeners });
        Ok(true)
    }

    /// Starts one more worker, with the newest configuration; its slot. It takes what others have
    /// accepted, and accepts nothing itself yet.
    pub(crate) fn start_worker(&mut self) -> Result<usize, StartError> {
        let index = self.free_slot()?;
        let failed = |error| StartError(format!("worker {index}: {}", diagnose::diagnose(&error)));
        let error = match self.start_worker_by(self.driver, index) {
            Ok(()) => return Ok(index),
            Err(error) => error,
        };
        let choice = self.shared.snapshot.load().config.server.driver;
        let is_settled = self.driver == Driver::Epoll || choice != DriverChoice::Auto;
        if is_settled || !driver::is_of_ring(&error) {
            return Err(failed(error));
        }
        // The limit on locked memory is one for all: what was there at the start may be taken.
        tracing::warn!("{}", driver::instead_of_one_ring(&error));
        self.driver = Driver::Epoll;
        self.start_worker_by(self.driver, index).map(|()| index).map_err(failed)
    }

    fn start_worker_by(&mut self, driver: Driver, index: usize) -> io::Result<()> {
        let shared = self.shared.clone();
        let config = shared.snapshot.load().config.clone();
        let (inbox, inboxes) = queue::unbounded_channel();
        let (sender, commands) = queue::unbounded_channel();
        let plan = WorkerPlan {
            index,
            driver,
            access_log: self.access_log.clone(),
            shared: shared.clone(),
            budget: Plan::of(&config, &Usage::read()).budget(),
            inbox: inboxes,
            commands,
        };
        // Whatever one that worked here before has been told does not concern this one.
        let _ = shared.drain[index].notified().now_or_never();
        shared.slots[index].occupy(WorkerHandle { inbox, commands: sender });
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || thread::run(plan, downstream::serve, |ready| drop(sender.send(ready))));
        let started = thread.and_then(|thread| {
            let early = |_| Err(io::Error::other("it ended early"));
            let ready = receiver.recv().unwrap_or_else(early);
            match &ready {
                Ok(_) => self.workers.push(thread),
                // No other thread knows of it: it has nothing to end but itself.
                Err(_) => drop(thread.join()),
            }
            ready
        });
        match started {
            Ok(ready) => {
                shared.slots[index].activate();
                report_worker(index, driver, config.buffers.chunks_per_worker, ready);
                Ok(())
            }
            Err(error) => {
                shared.slots[index].free();
                Err(error)
            }
        }
    }

    /// A free slot; waits for one whose worker is about to end.
    fn free_slot(&self) -> Result<usize, StartError> {
        let deadline = Instant::now() + ENDING_PATIENCE;
        loop {
            let mut states = self.shared.slots.iter().map(WorkerSlot::state);
            if let Some(index) = states.position(|state| state == WorkerState::Free) {
                return Ok(index);
            }
            if Instant::now() >= deadline {
                return Err(StartError("there is no place for another worker: restart".to_owned()));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Lets the worker that was started last finish what it has, and no more.
    pub(crate) fn drain_worker(&mut self) {
        let slots = &self.shared.slots;
        let last =
            (0..slots.len()).rev().find(|index| slots[*index].state() == WorkerState::Active);
        if let Some(index) = last {
            slots[index].drain();
            self.shared.drain[index].notify_one();
        }
        self.workers.retain(|worker| !worker.is_finished());
    }

    /// Has `worker` accept from all listening sockets.
    pub(crate) fn let_accept(&self, worker: usize) -> Result<(), StartError> {
        for (index, socket) in self.sockets.share().map_err(StartError)? {
            self.shared.slots[worker].send(WorkerCommand::Listen { index, socket });
        }
        Ok(())
    }

    pub(crate) fn active_workers(&self) -> Vec<usize> {
        let slots = self.shared.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.state() == WorkerState::Active)
            .map(|(index, _)| index)
            .collect()
    }
}

fn report_worker(index: usize, driver: Driver, wanted: usize, ready: Ready) {
    let Ready { chunks, is_registered } = ready;
    tracing::info!(index, driver = driver.name(), chunks, is_registered, "worker");
    if driver == Driver::Epoll {
        // Nothing is locked, and there is nothing to register it with.
        return;
    }
    if !is_registered {
        tracing::warn!(
            "worker {index} could not register its buffers with the ring and runs with ordinary \
             memory: RLIMIT_MEMLOCK is too small. Raise it (`ulimit -l unlimited`, docker \
             `--ulimit memlock=-1:-1`, systemd `LimitMEMLOCK=infinity`) or grant CAP_IPC_LOCK"
        );
    } else if chunks < wanted {
        tracing::warn!(
            "worker {index} registered {chunks} of {wanted} chunks: RLIMIT_MEMLOCK is too small \
             for buffers.chunks_per_worker. Raise it (`ulimit -l unlimited`, docker `--ulimit \
             memlock=-1:-1`, systemd `LimitMEMLOCK=infinity`) or grant CAP_IPC_LOCK"
        );
    }
}
