//! The right to open a connection, and the wait for it.
//!
//! In goes a request that found no idle connection; out comes a permit, one of `max_connections`
//! for the whole process, or a connection that another request has just given back. Waiting
//! requests are served in their order, for `timeouts.pool` at most.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::fault::Fault;
use crate::ring::clock;

use super::lease::Lease;
use super::pool::Pool;

/// What the pools of all workers share.
pub struct PoolShared {
    pub(super) permits: Arc<Semaphore>,
    max_connections: AtomicUsize,
    /// Permits that are to go as soon as they come back.
    owed: AtomicUsize,
    /// Requests that wait for a permit, in any worker.
    pub(super) wanted: AtomicUsize,
    /// By worker, since when its first waiting request has waited; `NOBODY` where none waits.
    waiting_since: Vec<AtomicU64>,
    /// Idle connections, as each worker's last sweep counted them.
    pub(super) idle: AtomicUsize,
    /// One per worker: asks its janitor to give up idle connections.
    pub(super) shed: Vec<Notify>,
}

impl PoolShared {
    pub fn new(max_connections: usize, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(max_connections)),
            max_connections: AtomicUsize::new(max_connections),
            owed: AtomicUsize::new(0),
            wanted: AtomicUsize::new(0),
            waiting_since: (0..workers).map(|_| AtomicU64::new(NOBODY)).collect(),
            idle: AtomicUsize::new(0),
            shed: (0..workers).map(|_| Notify::new()).collect(),
        })
    }

    pub fn max(&self) -> usize {
        self.max_connections.load(Ordering::Relaxed)
    }

    /// Lets the process have `max_connections` from now on; what comes out is to be awaited where
    /// more than that are open.
    pub fn resize(
        self: &Arc<Self>,
        max_connections: usize,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let before = self.max_connections.swap(max_connections, Ordering::Relaxed);
        let debt = resize(&self.permits, before, max_connections)?;
        self.owed.fetch_add(debt, Ordering::Relaxed);
        let shared = self.clone();
        Some(async move {
            settle(shared.permits.clone(), debt).await;
            shared.owed.fetch_sub(debt, Ordering::Relaxed);
        })
    }

    /// Idle connections, as the workers last counted them.
    pub fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    /// Requests that wait for a connection now.
    pub fn waiting(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Connections open now, idle or leased, in all workers.
    pub fn open(&self) -> usize {
        let all = self.max() + self.owed.load(Ordering::Relaxed);
        all.saturating_sub(self.permits.available_permits())
    }
}

/// Changes how many permits there are; how many of them are still out and have to be awaited by
/// [`settle`].
pub fn resize(permits: &Semaphore, before: usize, after: usize) -> Option<usize> {
    permits.add_permits(after.saturating_sub(before));
    let surplus = before.saturating_sub(after);
    let debt = surplus - permits.forget_permits(surplus);
    (debt > 0).then_some(debt)
}

/// Takes `debt` permits out of use as they come back, before anybody else gets them.
pub async fn settle(permits: Arc<Semaphore>, debt: usize) {
    let debt = u32::try_from(debt).unwrap_or(u32::MAX);
    if let Ok(permits) = permits.acquire_many_owned(debt).await {
        permits.forget();
    }
}

/// A request that waits because the process has `max_connections` open.
pub(super) struct Waiter {
    pub(super) origin: usize,
    pub(super) since_ms: u64,
    pub(super) handed: RefCell<Option<Lease>>,
    pub(super) waker: RefCell<Option<Waker>>,
}

impl Pool {
    /// Waits for the right to open a connection to `origin`, or for one that is handed over.
    pub async fn permit(self: &Rc<Self>, origin: usize) -> Result<Permitted, Fault> {
        if self.is_stopping.get() {
            return Err(Fault::Stopping);
        }
        let permits = &self.shared.permits;
        if self.waiters.borrow().is_empty()
            && let Some(permit) = self.try_permit()
        {
            return Ok(Permitted::Open(permit));
        }
        self.metrics.pool_waits.add(1);
        let began_us = clock::precise_us();
        let waiter = Rc::new(Waiter {
            origin,
            since_ms: clock::coarse_ms(),
            handed: RefCell::default(),
            waker: RefCell::default(),
        });
        let _place = WaitingPlace::take(self, &waiter);
        let mut acquire = std::pin::pin!(permits.clone().acquire_owned());
        let mut patience = std::pin::pin!(tokio::time::sleep(self.limits.get().acquire));
        let outcome = poll_fn(|cx| {
            if let Some(lease) = waiter.handed.borrow_mut().take() {
                return Poll::Ready(Ok(Permitted::Handed(lease)));
            }
            if self.is_stopping.get() {
                return Poll::Ready(Err(Fault::Stopping));
            }
            if let Poll::Ready(permit) = acquire.as_mut().poll(cx) {
                return Poll::Ready(permit.map(Permitted::Open).map_err(|_| Fault::Stopping));
            }
            if patience.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Fault::PoolTimeout));
            }
            *waiter.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        self.metrics.pool_wait.record(clock::precise_us().saturating_sub(began_us));
        if let Err(Fault::PoolTimeout) = outcome {
            self.metrics.pool_timeouts.add(1);
        }
        outcome
    }

    /// A permit that is free, or that closing one of our own idle connections frees.
    fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        let permits = &self.shared.permits;
        permits.clone().try_acquire_owned().ok().or_else(|| {
            self.close_oldest_idle().then(|| permits.clone().try_acquire_owned().ok()).flatten()
        })
    }
}

/// How much longer than one that a connection could be handed to another request must have waited
/// for the connection to be given up for it. Handing over is cheap and closing is not; this bounds
/// what the one saves at the expense of the others.
const UNFAIR_MS: u64 = 50;

const NOBODY: u64 = u64::MAX;

impl Pool {
    pub(super) fn publish_waiting(&self) {
        let since = self.waiters.borrow().front().map_or(NOBODY, |waiter| waiter.since_ms);
        self.shared.waiting_since[self.worker].store(since, Ordering::Relaxed);
    }

    /// Whether a connection may go to a request that has waited since `since_ms` although requests
    /// of other workers, or for other origins, wait too.
    pub(super) fn is_fair(&self, since_ms: u64) -> bool {
        let first = self.shared.waiting_since.iter().map(|since| since.load(Ordering::Relaxed));
        first.min().is_none_or(|first| since_ms <= first.saturating_add(UNFAIR_MS))
    }
}

/// Counts a waiting request in and out.
struct WaitingPlace<'a> {
    pool: &'a Pool,
    waiter: Rc<Waiter>,
}

impl<'a> WaitingPlace<'a> {
    fn take(pool: &'a Rc<Pool>, waiter: &Rc<Waiter>) -> Self {
        pool.waiters.borrow_mut().push_back(waiter.clone());
        pool.publish_waiting();
        pool.shared.wanted.fetch_add(1, Ordering::Relaxed);
        for (worker, shed) in pool.shared.shed.iter().enumerate() {
            if worker != pool.worker {
                shed.notify_one();
            }
        }
        Self { pool, waiter: waiter.clone() }
    }
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        self.pool.shared.wanted.fetch_sub(1, Ordering::Relaxed);
        self.pool.waiters.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.waiter));
        self.pool.publish_waiting();
        // Handed over at the moment at which the wait ended otherwise: back to the pool.
        if let Some(lease) = self.waiter.handed.borrow_mut().take() {
            lease.give_back();
        }
    }
}

/// What a wait for a connection ended with.
pub enum Permitted {
    /// The right to open a new one.
    Open(OwnedSemaphorePermit),
    /// One that another exchange has just given back.
    Handed(Lease),
}
