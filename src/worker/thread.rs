//! A worker's thread: driver, runtime, tasks, and their orderly end.
//!
//! In goes the plan of one worker; the thread accepts from the listening sockets that it is told of
//! once all are ready, serves what is placed on it, watches its pool and its deadlines, and at a
//! drain finishes what is under way. What is left after that is reported.
//!
//! Nothing here may block: names are resolved and logs are written elsewhere.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::address::PeerAddress;
use crate::config::Prewarm;
use crate::ledger::Budget;
use crate::observe::access_log::AccessLog;
use crate::ring::driver::Driver;
use crate::ring::{Socket, memory, runtime};
use crate::upstream::{health, prewarm};
use crate::worker::mailbox::WorkerCommand;
use crate::worker::shared::{Accepted, Shared, WorkerState};
use crate::worker::slot::ConnectionSlot;
use crate::worker::{Worker, accept, arbiter};

/// What a worker is started with.
pub(crate) struct WorkerPlan {
    /// Its slot.
    pub index: usize,
    /// What it waits by.
    pub driver: Driver,
    pub access_log: Option<AccessLog>,
    pub shared: Arc<Shared>,
    pub budget: Budget,
    pub inbox: UnboundedReceiver<Accepted>,
    pub commands: UnboundedReceiver<WorkerCommand>,
}

/// What a worker has, once it is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub chunks: usize,
    pub is_registered: bool,
}

/// The worker's thread: opens the ring, reports, has connections served until all is drained.
pub(crate) fn run<F: Future<Output = ()> + 'static>(
    plan: WorkerPlan,
    connection: impl Fn(ConnectionSlot) -> F + 'static,
    report: impl FnOnce(io::Result<Ready>),
) -> DrainReport {
    let runtime = match runtime::open(plan.driver) {
        Ok(runtime) => runtime,
        Err(error) => {
            plan.shared.slots[plan.index].free();
            report(Err(error));
            return DrainReport::default();
        }
    };
    let (shared, index) = (plan.shared.clone(), plan.index);
    let report = runtime.block_on(serve(plan, connection, report));
    // What is still pending is cancelled, and waited for.
    drop(runtime);
    shared.slots[index].free();
    report
}

async fn serve<F: Future<Output = ()> + 'static>(
    plan: WorkerPlan,
    connection: impl Fn(ConnectionSlot) -> F + 'static,
    report: impl FnOnce(io::Result<Ready>),
) -> DrainReport {
    plan.shared.rings[plan.index].install();
    let created = Worker::new(plan.index, plan.access_log, plan.shared, plan.budget);
    let worker = match created {
        Ok(worker) => Rc::new(worker),
        Err(error) => {
            report(Err(error));
            return DrainReport::default();
        }
    };
    report(Ok(Ready {
        chunks: worker.chunks.count(),
        is_registered: worker.chunks.is_registered(),
    }));
    let deadlines = worker.deadlines.clone();
    spawn(async move { deadlines.run().await });
    let watched = worker.clone();
    spawn(async move {
        let is_current = |origin, address| watched.is_current(origin, address);
        watched.pool.run_janitor(is_current).await;
    });
    spawn(arbiter::run(worker.clone()));
    prewarm(&worker);
    check_health(&worker);
    spawn(housekeep(worker.clone()));
    spawn(take_in(worker.clone(), plan.inbox, connection));
    spawn(obey(worker.clone(), plan.commands));
    until_drained(&worker).await
}

/// Spawns on the worker's own thread.
fn spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

/// Checks the targets of the newest configuration, until there is a newer one.
fn check_health(worker: &Rc<Worker>) {
    let generation = worker.generation();
    let (watched, id) = (worker.clone(), generation.id);
    let is_over = move || watched.is_draining.get() || watched.generation().id != id;
    let upstreams = move || generation.upstreams.clone();
    spawn(health::run(worker.clone(), upstreams, is_over));
}

/// Keeps connections to the origins of the newest configuration open, until there is a newer one.
fn prewarm(worker: &Rc<Worker>) {
    let generation = worker.generation();
    let shared = generation.upstreams.iter().filter(|it| it.proxy_protocol().is_none());
    let upstreams = shared.cloned().collect();
    let workers = generation.config.server.workers;
    // Slots are taken in any order: a worker that replaces another one counts as that one does.
    let config = &generation.config.pool;
    let total = config.prewarm.count().min(config.max_idle);
    let share = prewarm::share(total, worker.index % workers, workers);
    let is_for_all = config.prewarm != Prewarm::Auto;
    let (watched, id) = (worker.clone(), generation.id);
    let is_over = move || watched.is_draining.get() || watched.generation().id != id;
    spawn(prewarm::run(worker.pool.clone(), upstreams, (share, is_for_all), is_over));
}

/// Serves what this and other workers have accepted for this one.
async fn take_in<F: Future<Output = ()> + 'static>(
    worker: Rc<Worker>,
    mut inbox: UnboundedReceiver<Accepted>,
    connection: impl Fn(ConnectionSlot) -> F,
) {
    while let Some(Accepted { fd, peer, permit, listener }) = inbox.recv().await {
        let socket = Socket::from_fd(fd, peer == PeerAddress::Unix);
        spawn(connection(ConnectionSlot::take(&worker, socket, peer, permit, listener)));
    }
}

/// Does what the control thread asks for.
async fn obey(worker: Rc<Worker>, mut commands: UnboundedReceiver<WorkerCommand>) {
    // The control thread may have given up: an answer that it does not read is dropped.
    while let Some(command) = commands.recv().await {
        match command {
            WorkerCommand::Ping { reply } => {
                let _ = reply.send(());
            }
            WorkerCommand::Connections { reply } => {
                let _ = reply.send(worker.list_connections());
            }
            WorkerCommand::Extremes { count, reply } => {
                let _ = reply.send(worker.extremes(count));
            }
            WorkerCommand::Idle { reply } => {
                let _ = reply.send(worker.pool.idle_by_target());
            }
            WorkerCommand::End { id, reply } => {
                let _ = reply.send(worker.end_connection(id));
            }
            WorkerCommand::Offer { reply } => {
                let _ = reply.send(worker.offer());
            }
            WorkerCommand::GiveWay { count } => worker.give_way(count),
            WorkerCommand::Census { reply } => {
                let _ = reply.send(worker.census());
            }
            WorkerCommand::EndHeads { address, count } => worker.end_heads(address, count),
            WorkerCommand::Clean { level, reply } => {
                // Beside other questions: it takes its turns.
                let worker = worker.clone();
                spawn(async move {
                    let _ = reply.send(worker.clean(level).await);
                });
            }
            WorkerCommand::Adopt { snapshot, budget, reply } => {
                worker.adopt(&snapshot, &budget);
                if !worker.is_draining.get() {
                    prewarm(&worker);
                    check_health(&worker);
                }
                let _ = reply.send(());
            }
            WorkerCommand::StopListening { index } => worker.stop_listening_to(index),
            WorkerCommand::Listen { index, socket } => {
                if !worker.is_draining.get() {
                    spawn(accept::start(worker.clone(), socket, index));
                }
            }
            WorkerCommand::Resume { listeners } => {
                // It may have been told to drain once more in the meantime.
                if worker.is_draining.get()
                    && worker.shared.slots[worker.index].state() == WorkerState::Active
                {
                    worker.is_draining.set(false);
                    for (index, socket) in listeners {
                        spawn(accept::start(worker.clone(), socket, index));
                    }
                    prewarm(&worker);
                    check_health(&worker);
                    worker.shared.drain[worker.index].notify_one();
                }
            }
        }
    }
}

/// Gives memory back that a burst has left behind, and connections to addresses that names have
/// left.
async fn housekeep(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        worker.follow_names();
        let freed = worker.released.take() + worker.heads.trim() + worker.pipes.trim();
        if freed >= PURGE_MIN {
            memory::purge();
        } else {
            worker.released.set(freed);
        }
    }
}

const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Connections and buffers that must have been released for a walk over the heap to be worth it.
const PURGE_MIN: usize = 64;

/// What the process had left when a worker stopped; all zero unless something was cut or leaked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    pub connections: usize,
    pub leased_chunks: usize,
    pub leased_heads: usize,
    pub upstream_connections: usize,
}

async fn until_drained(worker: &Worker) -> DrainReport {
    let shared = &worker.shared;
    loop {
        while !shared.is_draining.load(Ordering::Acquire)
            && shared.slots[worker.index].state() != WorkerState::Draining
        {
            shared.drain[worker.index].notified().await;
        }
        worker.is_draining.set(true);
        worker.stop_listening();
        if finish(worker).await {
            break;
        }
    }
    worker.pool.stop();
    // What is still connecting ahead of requests.
    worker.pool.cut();
    settle(worker).await;
    DrainReport {
        connections: worker.connections(),
        leased_chunks: worker.chunks.leased(),
        leased_heads: worker.heads.leased(),
        upstream_connections: worker.pool.len(),
    }
}

/// Waits until what is under way has ended, or has to; false where the worker is told to go on.
async fn finish(worker: &Worker) -> bool {
    let shared = &worker.shared;
    let signal = &shared.drain[worker.index];
    let slot = &shared.slots[worker.index];
    let is_over = || shared.is_draining.load(Ordering::Acquire);
    let is_idle = || worker.connections() == 0 && worker.live() == 0 && worker.accepting.get() == 0;
    while !(is_idle() && slot.end_if(is_idle, is_over())) {
        if !worker.is_draining.get() {
            return false;
        }
        // Where no other process listens, an idle client is told at once by the end of its
        // connection. Where one does, that could meet its next request: that one is answered
        // first.
        if is_over() && !shared.is_handed_over.load(Ordering::Acquire) {
            worker.closes_idle.set(true);
            worker.interrupt_idle().await;
        }
        // Connections end by themselves; the signal says that their time is up.
        let _ = tokio::time::timeout(DRAIN_POLL, signal.notified()).await;
        if worker.shared.is_cutting.load(Ordering::Acquire) {
            cut(worker).await;
            break;
        }
    }
    true
}

/// Ends every exchange that is still under way.
async fn cut(worker: &Worker) {
    worker.pool.stop();
    for _ in 0..CUT_ROUNDS {
        worker.cut_connections().await;
        if worker.connections() == 0 {
            return;
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
}

/// Lets the watches of the connections that were just closed complete.
async fn settle(worker: &Worker) {
    for _ in 0..SETTLE_ROUNDS {
        if worker.heads.leased() == 0 && worker.chunks.leased() == 0 && worker.pool.is_empty() {
            return;
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
}

const DRAIN_POLL: Duration = Duration::from_millis(20);
const SETTLE_POLL: Duration = Duration::from_millis(10);
/// One second for cut exchanges to end.
const CUT_ROUNDS: usize = 100;
const SETTLE_ROUNDS: usize = 50;
