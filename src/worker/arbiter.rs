//! The arbiter of one worker: who has to give a connection up that others wait for.
//!
//! It sleeps until a request waits for a connection to an origin, in any worker, and looks then,
//! and again every moment while one does, at its worker's exchanges: what they have moved and for
//! whom they wait. Whoever is slow may be slow for as long as no request waits for what it holds.
//! The pool's book judges; here the guilty are ended, each by the fault that fits.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use crate::fault::Fault;
use crate::observe::connection_stats::{ConnectionStats, Ending, Moment, WaitsOn};
use crate::observe::log_limit;
use crate::ring::clock;
use crate::upstream::queue::Holder;
use crate::upstream::tallies::{Verdict, View};
use crate::worker::Worker;
use crate::worker::connections::ConnectionEntry;

/// How often it looks while a request waits.
const ROUND: Duration = Duration::from_millis(50);

/// Over so long `limits.min_body_rate` counts, and for so long an answer is not a long one.
const LONG_MS: u64 = 10_000;

/// Whoever moves less than so much in such a time may be asked to yield what is beyond his share:
/// 2.5 KiB in a second is slower than any download that a user watches.
const STILL_MS: u64 = 400;
const STILL_BYTES: u64 = 1024;

/// The same for a client that owes a body: it has the connection because it said that one comes.
const OWING_MS: u64 = 100;

/// What an exchange had moved at some time.
#[derive(Clone, Copy)]
struct Sample {
    at_ms: u64,
    bytes: u64,
}

/// What was seen of an exchange while a request waited.
struct Track {
    /// The number of its connection, which no other one ever has.
    connection: u64,
    /// Which exchange of its connection it is.
    exchange: u32,
    /// At least [`LONG_MS`] ago, or when it was first seen.
    long: Sample,
    /// At least [`STILL_MS`] ago, or when it was first seen.
    short: Sample,
    /// Since when it has moved next to nothing.
    still_since_ms: u64,
    /// It has moved less than `min_body_rate` over the last [`LONG_MS`].
    is_slow: bool,
    /// The round in which it was last seen.
    round: u64,
}

impl Track {
    fn begin(
        connection: u64,
        stats: &ConnectionStats,
        streams_since: Option<Moment>,
        now_ms: u64,
    ) -> Self {
        let still_ms = quiet_ms(stats, streams_since, now_ms);
        // It had moved as much then: a window that began later would end after the verdict.
        let sample = Sample { at_ms: now_ms.saturating_sub(still_ms), bytes: moved(stats) };
        Self {
            connection,
            exchange: stats.requests.get(),
            long: sample,
            short: sample,
            still_since_ms: sample.at_ms,
            is_slow: still_ms >= LONG_MS,
            round: 0,
        }
    }

    /// Whether it is of the exchange that `connection` has now. What was seen in an earlier dispute
    /// may be of a connection that had the same place then.
    fn is_of(&self, connection: u64, stats: &ConnectionStats) -> bool {
        (self.connection, self.exchange) == (connection, stats.requests.get())
    }

    fn step(&mut self, stats: &ConnectionStats, now_ms: u64, rate_min: u64) {
        let now = Sample { at_ms: now_ms, bytes: moved(stats) };
        let since = |before: Sample| {
            (now_ms.saturating_sub(before.at_ms), now.bytes.saturating_sub(before.bytes))
        };
        let (ms, bytes) = since(self.short);
        if ms >= STILL_MS {
            // A window that the arbiter did not look at for long says nothing of its end.
            if bytes.saturating_mul(STILL_MS) >= STILL_BYTES.saturating_mul(ms) {
                self.still_since_ms = now_ms;
            }
            self.short = now;
        }
        let (ms, bytes) = since(self.long);
        if ms >= LONG_MS {
            // What has not moved so much in a longer time has not in the last part of it.
            self.is_slow = bytes < rate_min.saturating_mul(LONG_MS / 1000);
            self.long = now;
        }
    }
}

/// For how long nothing at all has moved.
fn quiet_ms(stats: &ConnectionStats, streams_since: Option<Moment>, now_ms: u64) -> u64 {
    // The head of an answer goes out with what of the body came with it.
    let steps = [Some(stats.moved.get()), Some(stats.phase_began()), streams_since];
    steps.into_iter().flatten().map(|step| step.age_ms(now_ms)).min().unwrap_or_default()
}

/// Bytes from and to the client, on its whole connection.
fn moved(stats: &ConnectionStats) -> u64 {
    stats.received.get().wrapping_add(stats.sent.get())
}

/// The task; one per worker, ends with it.
pub(crate) async fn run(worker: Rc<Worker>) {
    let mut arbiter = Arbiter { worker: worker.clone(), tracks: HashMap::new(), round: 0 };
    let shared = worker.shared.pool.clone();
    loop {
        shared.disputed(worker.index).await;
        while shared.is_wanted() {
            arbiter.look();
            // A request that begins to wait meanwhile is not kept waiting.
            let _ = tokio::time::timeout(ROUND, shared.disputed(worker.index)).await;
        }
    }
}

struct Arbiter {
    worker: Rc<Worker>,
    /// By the place of the client connection.
    tracks: HashMap<u32, Track>,
    round: u64,
}

impl Arbiter {
    /// Looks at everything that holds a connection, and ends what has to end.
    fn look(&mut self) {
        let worker = self.worker.clone();
        let now_ms = clock::coarse_ms();
        self.round += 1;
        let views = {
            let connections = worker.connections.borrow();
            worker.pool.view(|holder, streams_since, view| {
                if let Some(entry) = connections.get(holder.slot as usize) {
                    self.describe(entry, holder, streams_since, now_ms, view);
                } else {
                    view.is_still = true;
                }
            })
        };
        self.tracks.retain(|_, track| track.round == self.round);
        for (holder, verdict, socket) in worker.pool.judge(&views) {
            if !self.end(holder, verdict)
                && let Some(socket) = socket
            {
                socket.interrupt(&worker.deadlines);
            }
        }
    }

    fn describe(
        &mut self,
        entry: &ConnectionEntry,
        holder: Holder,
        streams_since: Option<Moment>,
        now_ms: u64,
        view: &mut View,
    ) {
        let stats = &entry.stats;
        let generation = self.worker.generation();
        let config = &generation.config;
        let is_known = self.tracks.get(&holder.slot).is_some_and(|it| it.is_of(entry.id, stats));
        if !is_known {
            let track = Track::begin(entry.id, stats, streams_since, now_ms);
            self.tracks.insert(holder.slot, track);
        }
        let Some(track) = self.tracks.get_mut(&holder.slot) else { return };
        // An exchange may hold two connections.
        if track.round != self.round {
            track.step(stats, now_ms, config.limits.min_body_rate);
            track.round = self.round;
        }
        // The samples say it of a trickle, and late.
        let still_ms = now_ms.saturating_sub(track.still_since_ms);
        view.still_ms = still_ms.max(quiet_ms(stats, streams_since, now_ms));
        let waits_on = stats.waits_on.get();
        let bound_ms = if waits_on == WaitsOn::ClientToSend { OWING_MS } else { STILL_MS };
        view.is_still = view.still_ms >= bound_ms;
        view.is_streaming = streams_since.is_some_and(|since| since.age_ms(now_ms) >= LONG_MS);
        view.is_slow = track.is_slow
            && config.limits.min_body_rate > 0
            && match waits_on {
                WaitsOn::ClientToSend | WaitsOn::ClientToTake => true,
                WaitsOn::OriginToTake => {
                    let own = Some(u128::from(view.write_ms)).filter(|own| *own != 0);
                    let limit = own.unwrap_or(config.timeouts.write.as_millis());
                    u128::from(view.still_ms) >= limit
                }
                WaitsOn::OriginToAnswer | WaitsOn::Nobody => false,
            };
    }

    /// Ends an exchange for the sake of others; false where it can only be told by what it waits
    /// for.
    fn end(&self, holder: Holder, verdict: Verdict) -> bool {
        let metrics = &self.worker.metrics;
        match verdict {
            Verdict::Long => return true,
            Verdict::Slow => metrics.pool_slow.add(1),
            Verdict::Excess => metrics.pool_excess.add(1),
        }
        let entry = self.worker.connections.borrow().get(holder.slot as usize).cloned();
        // A copy has no client.
        let Some(entry) = entry else { return false };
        let fault = match entry.stats.waits_on.get() {
            WaitsOn::ClientToSend => Fault::ClientBodyTimeout,
            WaitsOn::ClientToTake => Fault::ClientWriteTimeout,
            WaitsOn::OriginToTake => Fault::OriginWriteTimeout,
            WaitsOn::OriginToAnswer | WaitsOn::Nobody => Fault::PoolYielded,
        };
        log_limit::yielded(entry.peer().client(), fault.name());
        let is_told = entry.give_up(fault, &self.worker.deadlines);
        if !is_told {
            // It has no connection yet.
            entry.stats.end(Ending::GiveUp(fault));
        }
        is_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a track says of an exchange that moves `bytes` every 25 ms, at each of 200 looks.
    fn looks(bytes: u64, look_ms: u64) -> Vec<(u64, bool)> {
        let stats = ConnectionStats::default();
        stats.enter(crate::observe::connection_stats::Phase::Exchange, 1_000_000);
        stats.moved.set(Moment::at_ms(1_000_000));
        let mut track = Track::begin(1, &stats, None, 1_000_020);
        let mut looks = Vec::new();
        for step in 1..=600_u64 {
            let now_ms = 1_000_020 + step * 25;
            stats.sent.set(stats.sent.get() + bytes);
            stats.moved.set(Moment::at_ms(now_ms));
            if (step * 25).is_multiple_of(look_ms) {
                track.step(&stats, now_ms, 240);
                looks.push((now_ms - track.still_since_ms, track.is_slow));
            }
        }
        looks
    }

    #[test]
    fn what_was_seen_of_a_connection_says_nothing_of_the_next_one_in_its_place() {
        let stats = ConnectionStats::default();
        stats.requests.set(1);
        let track = Track::begin(1, &stats, None, 1_000);
        assert!(track.is_of(1, &stats));
        assert!(!track.is_of(2, &stats), "the first request of another connection");
        stats.requests.set(2);
        assert!(!track.is_of(1, &stats));
    }

    #[test]
    fn whoever_moves_is_neither_still_nor_slow_at_any_look() {
        for look_ms in [25, 50, 100, 300] {
            let looks = looks(4096, look_ms);
            assert!(looks.iter().all(|(still_ms, _)| *still_ms < STILL_MS), "{looks:?}");
            assert!(looks.iter().all(|(_, is_slow)| !is_slow));
        }
    }

    #[test]
    fn whoever_moves_a_few_bytes_at_a_time_is_still_and_in_the_end_slow() {
        // 40 and 400 bytes in a second: beside 2.5 KiB and 240 bytes in a second.
        for (bytes, is_slow_in_the_end) in [(1, true), (10, false)] {
            let looks = looks(bytes, 50);
            assert!(looks.iter().skip(10).all(|(still_ms, _)| *still_ms >= STILL_MS));
            assert_eq!(looks.last().unwrap().1, is_slow_in_the_end);
        }
    }
}
