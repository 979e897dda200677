//! Room for new clients at `limits.clients`: taken back from those that have the least use for it,
//! when, and only when, somebody waits.
//!
//! In goes a client that was accepted and has no right to be one; out comes that right. Connections
//! on which nothing is under way give way first, the oldest of all workers before the others; one
//! whose next request has arrived is answered instead. Where nothing rests, heads that do not get
//! on give way: those of the address that holds most connections. Connections are looked at only
//! while somebody waits, many at a time.
//!
//! No exchange that has begun is ended here.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout;

use crate::observe::connection_stats::Phase;
use crate::observe::log_limit;
use crate::ring::clock;
use crate::worker::Worker;
use crate::worker::census::{Census, Idle, Offer};
use crate::worker::connections::ConnectionEntry;
use crate::worker::mailbox::WorkerCommand;
use crate::worker::shared::Shared;

/// How long a place may take to become free before it is asked for again.
const AGAIN: Duration = Duration::from_millis(25);
/// How long another worker may take to answer.
const PATIENCE: Duration = Duration::from_millis(100);
/// The least time between two looks at every connection of a worker.
const LOOK_MS: u64 = 50;
const CENSUS_MS: u64 = 100;
/// What it takes at most until a connection has heard that it is to give way.
const HEARD_MS: u64 = 1000;
/// Silence below which the next request of a client is taken to be on its way.
const IDLE_MS: u64 = 100;
/// Silence of a client that has not sent anything yet, and of a head that has begun.
const SILENT_MS: u64 = 1000;
/// What a head may take, however often a byte of it comes.
const HEAD_MS: u64 = 5000;
/// Connections that give way at once: as many as a burst brings, an eighth of what rests at most.
const BATCH_MAX: usize = 32;
const BATCH_SHARE: usize = 8;
/// Of its connections, a worker remembers so many that are next: at least, and as a share.
const QUEUE_MIN: usize = 2 * BATCH_MAX;
const QUEUE_SHARE: usize = 16;

/// The right to be a client, for one that has been accepted. `None` where nobody is one any more.
pub(crate) async fn claim(worker: &Worker) -> Option<OwnedSemaphorePermit> {
    let clients = &worker.shared.clients;
    if let Ok(permit) = clients.clone().try_acquire_owned() {
        return Some(permit);
    }
    let mut permit = pin!(clients.clone().acquire_owned());
    loop {
        make(&worker.shared).await;
        if let Ok(permit) = timeout(AGAIN, permit.as_mut()).await {
            return permit.ok();
        }
    }
}

/// Has some connections give way, unless somebody sees to that already.
async fn make(shared: &Shared) {
    if shared.room.is_being_made.swap(true, Ordering::AcqRel) {
        return;
    }
    let _end = Making(&shared.room.is_being_made);
    let offers = ask(shared, |reply| WorkerCommand::Offer { reply }).await;
    if offers.iter().any(|(_, offer)| offer.is_under_way) {
        return;
    }
    let count: usize = offers.iter().map(|(_, offer)| offer.count).sum();
    let mut next: Vec<_> = offers
        .iter()
        .flat_map(|(worker, offer)| offer.since_ms.iter().map(|since_ms| (*since_ms, *worker)))
        .collect();
    if next.is_empty() {
        return end_heads(shared).await;
    }
    next.sort_unstable();
    next.truncate((count / BATCH_SHARE).clamp(1, BATCH_MAX));
    log_limit::clients_give_way("rested");
    for (worker, _) in offers {
        let count = next.iter().filter(|(_, of)| *of == worker).count();
        if count > 0 {
            shared.slots[worker].send(WorkerCommand::GiveWay { count });
        }
    }
}

/// Ends heads that do not get on, of the address that holds most.
async fn end_heads(shared: &Shared) {
    let (counted, now) = (&shared.room.counted_ms, clock::coarse_ms());
    if now.saturating_sub(counted.load(Ordering::Relaxed)) < CENSUS_MS {
        return;
    }
    counted.store(now, Ordering::Relaxed);
    let censuses = ask(shared, |reply| WorkerCommand::Census { reply }).await;
    let mut all = Census::new();
    for (address, (held, stalled)) in censuses.iter().flat_map(|(_, census)| census) {
        let sum = all.entry(*address).or_default();
        *sum = (sum.0 + held, sum.1 + stalled);
    }
    let guilty = all.into_iter().filter(|(_, (_, stalled))| *stalled > 0);
    let Some((address, (_, stalled))) = guilty.max_by_key(|(_, counts)| *counts) else { return };
    log_limit::clients_give_way("were slow to send a head");
    let mut left = stalled.div_ceil(BATCH_SHARE);
    for (worker, census) in censuses {
        let count = census.get(&address).map_or(0, |(_, stalled)| left.min(*stalled));
        left -= count;
        if count > 0 {
            shared.slots[worker].send(WorkerCommand::EndHeads { address, count });
        }
    }
}

/// What the workers answer, each in time.
async fn ask<T>(
    shared: &Shared,
    question: impl Fn(oneshot::Sender<T>) -> WorkerCommand,
) -> Vec<(usize, T)> {
    let asked: Vec<_> = shared
        .occupied()
        .filter_map(|worker| {
            let (reply, answer) = oneshot::channel();
            shared.slots[worker].send(question(reply)).then_some((worker, answer))
        })
        .collect();
    let mut answers = Vec::new();
    for (worker, answer) in asked {
        if let Ok(Ok(answer)) = timeout(PATIENCE, answer).await {
            answers.push((worker, answer));
        }
    }
    answers
}

/// While one lives, somebody sees to it.
struct Making<'a>(&'a AtomicBool);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl ConnectionEntry {
    /// Since when nothing has been under way, where that is long enough.
    fn idle_since_ms(&self, now_ms: u64) -> Option<u64> {
        let stats = &self.stats;
        let age_ms = stats.phase_began().age_ms(now_ms);
        let least_ms = if stats.is_new() { SILENT_MS } else { IDLE_MS };
        // A lane is no client.
        let is_idle = stats.phase() == Phase::Idle && age_ms >= least_ms && !self.socket.is_lane();
        is_idle.then(|| now_ms.saturating_sub(age_ms))
    }

    /// Whether it has begun a head and does not get on with it.
    fn is_slow(&self, now_ms: u64) -> bool {
        let stats = &self.stats;
        let age_ms = stats.phase_began().age_ms(now_ms);
        let silent_ms = stats.moved.get().age_ms(now_ms).min(age_ms);
        let is_beginning = matches!(stats.phase(), Phase::Head | Phase::Handshake);
        is_beginning && (silent_ms >= SILENT_MS || age_ms >= HEAD_MS)
    }
}

impl Worker {
    /// The connections that would give way first.
    pub(crate) fn offer(&self) -> Offer {
        let now = clock::coarse_ms();
        let room = &self.room;
        let mut queue = room.queue.borrow_mut();
        queue.retain(|idle| self.is_still(*idle, now));
        if queue.len() < BATCH_MAX && now.saturating_sub(room.looked_ms.get()) >= LOOK_MS {
            room.looked_ms.set(now);
            let mut all = self.all_idle(now);
            room.count.set(all.len());
            let kept = QUEUE_MIN.max(all.len() / QUEUE_SHARE);
            if all.len() > kept {
                all.select_nth_unstable(kept);
                all.truncate(kept);
            }
            all.sort_unstable();
            *queue = all.into();
        }
        let since_ms: Vec<_> = queue.iter().take(BATCH_MAX).map(|idle| idle.since_ms).collect();
        let connections = self.connections.borrow();
        let mut asked = room.asked.borrow_mut();
        asked.retain(|id, key| connections.get(*key).is_some_and(|entry| entry.id == *id));
        let is_under_way = !asked.is_empty() && now.saturating_sub(room.asked_ms.get()) < HEARD_MS;
        Offer { is_under_way, count: room.count.get().max(since_ms.len()), since_ms }
    }

    fn all_idle(&self, now_ms: u64) -> Vec<Idle> {
        let connections = self.connections.borrow();
        let idle = connections.iter().filter_map(|(key, entry)| {
            let since_ms = entry.idle_since_ms(now_ms)?;
            Some(Idle { since_ms, id: entry.id, key })
        });
        idle.collect()
    }

    fn is_still(&self, idle: Idle, now_ms: u64) -> bool {
        self.connections.borrow().get(idle.key).is_some_and(|entry| {
            let since_ms = entry.idle_since_ms(now_ms);
            // Ages are rounded, each time anew.
            entry.id == idle.id && since_ms.is_some_and(|ms| ms.abs_diff(idle.since_ms) <= 32)
        })
    }

    /// Has the `count` connections that have been idle for longest give way.
    pub(crate) fn give_way(&self, count: usize) {
        let now = clock::coarse_ms();
        let mut asked = self.room.asked.borrow_mut();
        // Whoever was told before has heard it.
        asked.clear();
        self.room.asked_ms.set(now);
        let mut queue = self.room.queue.borrow_mut();
        while asked.len() < count {
            let Some(idle) = queue.pop_front() else { return };
            let connections = self.connections.borrow();
            if let Some(entry) = connections.get(idle.key).filter(|_| self.is_still(idle, now))
                && entry.socket.is_silent()
            {
                asked.insert(idle.id, idle.key);
                entry.socket.interrupt(&self.deadlines);
            }
        }
    }

    /// How many connections each address holds here.
    pub(crate) fn census(&self) -> Census {
        let now = clock::coarse_ms();
        let mut census = Census::new();
        for (_, entry) in self.connections.borrow().iter() {
            let counts = census.entry(entry.address()).or_default();
            counts.0 += 1;
            counts.1 += usize::from(entry.is_slow(now));
        }
        census
    }

    /// Ends up to `count` heads of `address` that do not get on, the oldest first.
    pub(crate) fn end_heads(&self, address: u128, count: usize) {
        let now = clock::coarse_ms();
        let connections = self.connections.borrow();
        let slow = connections.iter();
        let slow = slow.filter(|(_, entry)| entry.address() == address && entry.is_slow(now));
        let mut slow: Vec<_> = slow.collect();
        slow.sort_unstable_by_key(|(_, entry)| {
            std::cmp::Reverse(entry.stats.phase_began().age_ms(now))
        });
        let mut asked = self.room.asked.borrow_mut();
        asked.clear();
        self.room.asked_ms.set(now);
        for (key, entry) in slow.into_iter().take(count) {
            asked.insert(entry.id, key);
            entry.socket.interrupt(&self.deadlines);
        }
    }

    /// Whether the connection `id` is to give way, because it was told so and still has nothing.
    pub(crate) fn gives_way(&self, entry: &ConnectionEntry) -> bool {
        if self.room.asked.borrow_mut().remove(&entry.id).is_none() || !entry.socket.is_silent() {
            return false;
        }
        let [idle, heads] = &self.metrics.gave_way;
        let is_rest = entry.stats.phase() == Phase::Idle;
        if is_rest { idle } else { heads }.add(1);
        true
    }
}
