//! A worker's thread: ring, runtime, tasks, and their orderly end.
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

use crate::access_log::AccessLog;
use crate::arbiter;
use crate::ask::Ask;
use crate::connection;
use crate::ledger::Budget;
use crate::listener;
use crate::ring::{Socket, memory, runtime};
use crate::seat::Seat;
use crate::upstream::prewarm;
use crate::worker::{ACTIVE, Accepted, LEAVING, Shared, Worker};

/// What a worker is started with.
pub struct WorkerPlan {
    /// Its place.
    pub index: usize,
    pub access_log: Option<AccessLog>,
    pub shared: Arc<Shared>,
    pub budget: Budget,
    pub inbox: UnboundedReceiver<Accepted>,
    pub asks: UnboundedReceiver<Ask>,
}

/// What a worker has, once it is ready.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub chunks: usize,
    pub is_registered: bool,
}

/// The worker's thread: opens the ring, reports, serves until the drain is over.
pub fn run(plan: WorkerPlan, report: impl FnOnce(io::Result<Ready>)) -> Remains {
    let runtime = match runtime::open() {
        Ok(runtime) => runtime,
        Err(error) => {
            plan.shared.places[plan.index].leave();
            report(Err(error));
            return Remains::default();
        }
    };
    let (shared, index) = (plan.shared.clone(), plan.index);
    let remains = runtime.block_on(serve(plan, report));
    // What is still pending is cancelled, and waited for.
    drop(runtime);
    shared.places[index].leave();
    remains
}

async fn serve(plan: WorkerPlan, report: impl FnOnce(io::Result<Ready>)) -> Remains {
    plan.shared.rings[plan.index].install();
    let created = Worker::new(plan.index, plan.access_log, plan.shared, plan.budget);
    let worker = match created {
        Ok(worker) => Rc::new(worker),
        Err(error) => {
            report(Err(error));
            return Remains::default();
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
    spawn(housekeep(worker.clone()));
    spawn(take_in(worker.clone(), plan.inbox));
    spawn(answer_asks(worker.clone(), plan.asks));
    until_drained(&worker).await
}

/// Spawns on the worker's own thread.
fn spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

/// Keeps connections to the origins of the newest configuration open, until there is a newer one.
fn prewarm(worker: &Rc<Worker>) {
    let generation = worker.generation();
    let members = generation.members().cloned().collect();
    let workers = generation.config.server.workers;
    // Places are taken in any order: a worker that replaces another one counts as that one does.
    let share = prewarm::share(generation.config.pool.prewarm, worker.index % workers, workers);
    let (watched, id) = (worker.clone(), generation.id);
    let is_over = move || watched.is_leaving.get() || watched.generation().id != id;
    spawn(prewarm::run(worker.pool.clone(), members, share, is_over));
}

/// Serves what this and other workers have accepted for this one.
async fn take_in(worker: Rc<Worker>, mut inbox: UnboundedReceiver<Accepted>) {
    while let Some(Accepted { fd, peer, permit, listener }) = inbox.recv().await {
        let socket = Socket::from_fd(fd);
        spawn(connection::serve(Seat::take(&worker, socket, peer, permit, listener)));
    }
}

/// Does what the control thread asks for.
async fn answer_asks(worker: Rc<Worker>, mut asks: UnboundedReceiver<Ask>) {
    // Whoever asked may have given up: nobody minds an answer that nobody reads.
    while let Some(ask) = asks.recv().await {
        match ask {
            Ask::Ping { reply } => {
                let _ = reply.send(());
            }
            Ask::Connections { reply } => {
                let _ = reply.send(worker.list_connections());
            }
            Ask::End { id, reply } => {
                let _ = reply.send(worker.end_connection(id));
            }
            Ask::Offer { reply } => {
                let _ = reply.send(worker.offer());
            }
            Ask::GiveWay { count } => worker.give_way(count),
            Ask::Census { reply } => {
                let _ = reply.send(worker.census());
            }
            Ask::EndHeads { address, count } => worker.end_heads(address, count),
            Ask::Clean { level, reply } => {
                // Beside other questions: it takes its turns.
                let worker = worker.clone();
                spawn(async move {
                    let _ = reply.send(worker.clean(level).await);
                });
            }
            Ask::Adopt { snapshot, budget, reply } => {
                worker.adopt(&snapshot, &budget);
                if !worker.is_leaving.get() {
                    prewarm(&worker);
                }
                let _ = reply.send(());
            }
            Ask::Deafen { index } => worker.stop_listening_to(index),
            Ask::Listen { index, socket } => {
                if !worker.is_leaving.get() {
                    spawn(listener::start(worker.clone(), socket, index));
                }
            }
            Ask::Return { listeners } => {
                // It may have been told to leave once more in the meantime.
                if worker.is_leaving.get() && worker.shared.places[worker.index].state() == ACTIVE {
                    worker.is_leaving.set(false);
                    for (index, socket) in listeners {
                        spawn(listener::start(worker.clone(), socket, index));
                    }
                    prewarm(&worker);
                    worker.shared.drain[worker.index].notify_one();
                }
            }
        }
    }
}

/// Gives memory back that a burst has left behind.
async fn housekeep(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
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
pub struct Remains {
    pub connections: usize,
    pub leased_chunks: usize,
    pub leased_heads: usize,
    pub upstream_connections: usize,
}

async fn until_drained(worker: &Worker) -> Remains {
    let shared = &worker.shared;
    loop {
        while !shared.is_draining.load(Ordering::Acquire)
            && shared.places[worker.index].state() != LEAVING
        {
            shared.drain[worker.index].notified().await;
        }
        worker.is_leaving.set(true);
        worker.stop_listening();
        if finish(worker).await {
            break;
        }
    }
    worker.pool.stop();
    // What is still connecting ahead of requests.
    worker.pool.cut();
    settle(worker).await;
    Remains {
        connections: worker.connections(),
        leased_chunks: worker.chunks.leased(),
        leased_heads: worker.heads.leased(),
        upstream_connections: worker.pool.len(),
    }
}

/// Waits until what is under way has ended, or has to; false where the worker is called back.
async fn finish(worker: &Worker) -> bool {
    let shared = &worker.shared;
    let signal = &shared.drain[worker.index];
    let place = &shared.places[worker.index];
    let is_over = || shared.is_draining.load(Ordering::Acquire);
    let is_idle = || worker.connections() == 0 && worker.live() == 0 && worker.accepting.get() == 0;
    while !(is_idle() && place.end_if(is_idle, is_over())) {
        if !worker.is_leaving.get() {
            return false;
        }
        // Where nobody else listens, a client that rests is told at once by the end of its
        // connection. Where somebody does, that could meet its next request: that one is answered
        // first.
        if is_over() && !shared.is_handed_over.load(Ordering::Acquire) {
            worker.is_draining.set(true);
            worker.interrupt_resting().await;
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
