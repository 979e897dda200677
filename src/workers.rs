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

use crate::ask::Ask;
use crate::memory::{Plan, Usage};
use crate::ring::refusal;
use crate::server::{POLL, Server, StartError};
use crate::thread::{self, Ready, WorkerPlan};
use crate::worker::{ACTIVE, FREE, Mail, Place};

/// How long a worker may take to close its ring.
const ENDING_PATIENCE: Duration = Duration::from_secs(5);

impl Server {
    /// Starts as many workers as it takes to have `count` that stay, or none where one of them
    /// cannot start. What they accept goes to those that are ready, and only to them.
    pub(crate) fn grow(&mut self, count: usize) -> Result<(), StartError> {
        let before = self.active_workers().len();
        let grown = (before..count).try_for_each(|_| {
            // One that leaves has what another one would have to build up.
            if self.recall_worker()? {
                return Ok(());
            }
            let worker = self.start_worker()?;
            self.let_accept(worker)
        });
        if grown.is_err() {
            for _ in before..self.active_workers().len() {
                self.retire_worker();
            }
        }
        grown
    }

    /// Calls a worker back that leaves, if there is one.
    fn recall_worker(&self) -> Result<bool, StartError> {
        let listeners = self.sockets.share().map_err(StartError)?;
        let Some(place) = self.shared.places.iter().find(|place| place.recall()) else {
            return Ok(false);
        };
        place.ask(Ask::Return { listeners });
        Ok(true)
    }

    /// Starts one more worker, with the newest configuration; its place. It takes what others have
    /// accepted, and accepts nothing itself yet.
    pub(crate) fn start_worker(&mut self) -> Result<usize, StartError> {
        let shared = self.shared.clone();
        let index = self.free_place()?;
        let config = shared.snapshot.load().config.clone();
        let (inbox, inboxes) = queue::unbounded_channel();
        let (ask, asks) = queue::unbounded_channel();
        let plan = WorkerPlan {
            index,
            access_log: self.access_log.clone(),
            shared: shared.clone(),
            budget: Plan::of(&config, &Usage::read()).budget(),
            inbox: inboxes,
            asks,
        };
        // Whatever one that worked here before has been told does not concern this one.
        let _ = shared.drain[index].notified().now_or_never();
        shared.places[index].occupy(Mail { inbox, asks: ask });
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || thread::run(plan, |ready| drop(sender.send(ready))));
        let started = thread.and_then(|thread| {
            let early = |_| Err(io::Error::other("it ended early"));
            let ready = receiver.recv().unwrap_or_else(early);
            match &ready {
                Ok(_) => self.workers.push(thread),
                // Nobody knows of it: it has nothing to end but itself.
                Err(_) => drop(thread.join()),
            }
            ready
        });
        match started {
            Ok(ready) => {
                shared.places[index].activate();
                report_worker(index, config.buffers.chunks_per_worker, ready);
                Ok(index)
            }
            Err(error) => {
                shared.places[index].leave();
                Err(StartError(format!("worker {index}: {}", refusal::diagnose(&error))))
            }
        }
    }

    /// A place where nobody works; waits for one where somebody is about to end.
    fn free_place(&self) -> Result<usize, StartError> {
        let deadline = Instant::now() + ENDING_PATIENCE;
        loop {
            let mut states = self.shared.places.iter().map(Place::state);
            if let Some(index) = states.position(|state| state == FREE) {
                return Ok(index);
            }
            if Instant::now() >= deadline {
                return Err(StartError("there is no place for another worker: restart".to_owned()));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Lets the worker that was started last finish what it has, and no more.
    pub(crate) fn retire_worker(&mut self) {
        let places = &self.shared.places;
        let last = (0..places.len()).rev().find(|index| places[*index].state() == ACTIVE);
        if let Some(index) = last {
            places[index].retire();
            self.shared.drain[index].notify_one();
        }
        self.workers.retain(|worker| !worker.is_finished());
    }

    /// Has `worker` accept from all listening sockets.
    pub(crate) fn let_accept(&self, worker: usize) -> Result<(), StartError> {
        for (index, socket) in self.sockets.share().map_err(StartError)? {
            self.shared.places[worker].ask(Ask::Listen { index, socket });
        }
        Ok(())
    }

    pub(crate) fn active_workers(&self) -> Vec<usize> {
        let places = self.shared.places.iter().enumerate();
        places.filter(|(_, place)| place.state() == ACTIVE).map(|(index, _)| index).collect()
    }
}

fn report_worker(index: usize, wanted: usize, ready: Ready) {
    let Ready { chunks, is_registered } = ready;
    tracing::info!(index, chunks, is_registered, "worker");
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
