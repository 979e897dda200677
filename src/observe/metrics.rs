//! What a worker counts: requests, bytes, latencies, faults.
//!
//! In go events from the one thread that owns the numbers, a plain load and store each; out come
//! totals that any thread may read at any time. Totals are never reset: a window is the difference
//! of two readings. Nothing here locks, allocates while it counts, or reads a clock.

use std::array;

use hdrhistogram::Histogram;

pub(crate) use crate::counters::{Counter, Gauge};
use crate::fault::ProxyError;
use crate::http::repair::{Repair, Repairs};
use crate::http2::error::GuardReason;
use crate::tls::problem::Problem;

/// Answers by status class. The index is the status divided by 100; 0 are exchanges that ended
/// without an answer.
pub(crate) type Classes = [Counter; CLASS_COUNT];

pub(crate) const CLASS_COUNT: usize = 6;

/// One worker's numbers: its thread writes, any thread reads.
// Two cache lines, which is what adjacent-line prefetching makes two workers share.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    pub accepted: Counter,
    pub accept_errors: Counter,
    /// Connections that were answered 503 at the door.
    pub clients_refused: Counter,
    /// Connections that gave way to new ones: idle ones, and heads that did not get on.
    pub gave_way: [Counter; 2],
    /// Connections without a PROXY protocol header that is taken, by why.
    pub not_introduced: [Counter; 4],
    pub requests: Classes,
    /// Requests in absolute form, which have no route.
    pub forwarded: Classes,
    pub faults: FaultCounts,
    /// From and to clients.
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
    /// From the first byte of a request to the last byte of its answer. Exchanges without an
    /// answer are left out: their time says how patient the client was.
    pub latency: Latency,
    pub pool_wait: Latency,
    pub pool_reused: Counter,
    pub pool_opened: Counter,
    pub pool_waits: Counter,
    pub pool_timeouts: Counter,
    /// Exchanges that were ended for others: for being slow, and for being beyond a share.
    pub pool_slow: Counter,
    pub pool_excess: Counter,
    /// Reused connections that turned out to be dead.
    pub pool_stale: Counter,
    /// Open now.
    pub tunnels: Gauge,
    pub tunnels_opened: Counter,
    pub tunnel_bytes: Counter,
    pub auth_failures: Counter,
    pub denied: Counter,
    /// Connections of clients now, and those of them that rest.
    pub clients: Gauge,
    pub parked: Gauge,
    /// Exchanges that a forced cleanup has ended.
    pub cuts: Counter,
    /// Requests of routes with hooks.
    pub hooked: Counter,
    /// Requests that a route answered 429.
    pub limited: Counter,
    /// Attempts beyond the first that a route's retry policy asked for.
    pub retries: Counter,
    /// Second attempts beside the first that have won, lost and failed.
    pub hedges: [Counter; 3],
    /// Copies of requests that were sent elsewhere, those that failed, and those left out.
    pub mirrors: Counter,
    pub mirrors_failed: Counter,
    pub mirrors_dropped: Counter,
    /// What of answers was not as it should be and taken all the same, by [`Repair`].
    pub repairs: [Counter; Repair::COUNT],
    /// TLS handshakes of clients that are under way, have come to their end, and of those the ones
    /// that went on with an earlier session.
    pub handshaking: Gauge,
    pub handshakes: Counter,
    pub handshakes_resumed: Counter,
    /// Those that failed, in the order of [`Problem::ALL`].
    pub handshakes_failed: [Counter; Problem::ALL.len()],
    /// Sessions that ended by what is no session, in the same order.
    pub sessions_broken: [Counter; Problem::ALL.len()],
    /// Connections of clients that speak HTTP/2, now and ever, and lanes for their requests now.
    pub http2_connections: Gauge,
    pub http2_opened: Counter,
    pub http2_streams: Gauge,
    /// Connections to origins that speak it, now.
    pub http2_origins: Gauge,
    /// Requests that were sent back untouched.
    pub http2_refused: Counter,
    /// Streams that clients gave up, and that ended for what was wrong with them.
    pub http2_resets: Counter,
    pub http2_stream_errors: Counter,
    /// Connections that ended for what was wrong with them, and by which guard.
    pub http2_connection_errors: Counter,
    pub http2_guards: [Counter; GuardReason::ALL.len()],
}

impl WorkerMetrics {
    /// Counts what was mended in an answer.
    #[cold]
    pub fn repaired(&self, repairs: Repairs) {
        repairs.iter().for_each(|repair| self.repairs[repair as usize].add(1));
    }

    /// Counts a handshake that did not come to its end.
    #[cold]
    pub(crate) fn handshake_failed(&self, problem: Problem) {
        self.handshakes_failed[problem as usize].add(1);
    }

    /// Counts a session that could not go on.
    #[cold]
    pub(crate) fn session_broken(&self, problem: Problem) {
        self.sessions_broken[problem as usize].add(1);
    }

    /// Counts an exchange that is over. `status` is 0 where nothing was sent, and `us` its length.
    #[inline]
    pub fn answered(&self, status: u16, us: u64) {
        self.requests[class_of(status)].add(1);
        if status != 0 {
            self.latency.record(us);
        }
    }
}

/// The index into [`Classes`]. What is no status counts as 5xx.
#[inline]
pub(crate) fn class_of(status: u16) -> usize {
    usize::from(status / 100).min(CLASS_COUNT - 1)
}

/// Faults by their error type.
#[derive(Debug)]
pub struct FaultCounts([Counter; ProxyError::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self(array::from_fn(|_| Counter::default()))
    }
}

impl FaultCounts {
    #[cold]
    pub fn count(&self, error: ProxyError) {
        self.0[error as usize].add(1);
    }

    pub fn get(&self, error: ProxyError) -> u64 {
        self.0[error as usize].get()
    }
}

/// A histogram of durations from 1 us to [`LATENCY_US_MAX`].
///
/// Buckets grow with the value: 64 to each power of two, so that one is never wider than 1/64 of
/// what it holds, and its middle never further than 0.8 % from any of it. Below 128 us every
/// microsecond has its own. 13.4 KiB in all.
#[derive(Debug)]
pub struct Latency {
    buckets: [Counter; BUCKET_COUNT],
    sum_us: Counter,
}

/// Longer durations count as this: an hour.
pub(crate) const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Buckets per power of two, as a power of two.
const STEP_BITS: u32 = 6;

const STEPS: u64 = 1 << STEP_BITS;

const BUCKET_COUNT: usize = bucket_of(LATENCY_US_MAX) + 1;

const _: () = assert!(size_of::<Latency>() <= 16 * 1024);

/// Digits of [`Latency::snapshot`]'s histogram: 0.8 %, so that both together stay below 2 %.
const SNAPSHOT_DIGITS: u8 = 2;

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| Counter::default()), sum_us: Counter::default() }
    }
}

impl Latency {
    #[inline]
    pub fn record(&self, us: u64) {
        let us = us.min(LATENCY_US_MAX);
        self.buckets[bucket_of(us)].add(1);
        self.sum_us.add(us);
    }

    /// Everything recorded so far. Snapshots of several workers can be added, and an earlier one
    /// subtracted from a later one: no bucket ever shrinks.
    pub fn snapshot(&self) -> Histogram<u64> {
        let mut histogram = empty_histogram();
        for (index, count) in self.buckets.iter().map(Counter::get).enumerate() {
            if count > 0 {
                histogram.saturating_record_n(middle_of(index), count);
            }
        }
        histogram
    }

    /// The sum of all durations recorded, exactly.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }
}

/// What snapshots can be added to.
pub(crate) fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, SNAPSHOT_DIGITS).expect("1 us is below an hour")
}

/// The step within its power of two, behind all steps of the smaller powers.
const fn bucket_of(us: u64) -> usize {
    let shift = (us | STEPS).ilog2() - STEP_BITS;
    shift as usize * STEPS as usize + (us >> shift) as usize
}

/// The value that stands for all of a bucket.
fn middle_of(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index / STEPS).saturating_sub(1);
    let lowest = (index - shift * STEPS) << shift;
    lowest + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    #[test]
    fn a_bucket_is_within_two_percent_of_what_it_holds() {
        let mut us = 1;
        while us <= LATENCY_US_MAX {
            for us in [us - 1, us, us + 1] {
                let middle = middle_of(bucket_of(us.min(LATENCY_US_MAX)));
                let error = middle.abs_diff(us.min(LATENCY_US_MAX));
                assert!(error * 128 <= us.min(LATENCY_US_MAX), "{us} is counted as {middle}");
            }
            us += us / 50 + 1;
        }
        assert_eq!(bucket_of(LATENCY_US_MAX), BUCKET_COUNT - 1);
    }

    #[test]
    fn buckets_ascend_and_none_is_left_out() {
        for index in 0..BUCKET_COUNT - 1 {
            assert_eq!(bucket_of(middle_of(index)), index);
            assert!(middle_of(index) < middle_of(index + 1), "{index}");
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let latency = Latency::default();
        for us in 1..=100_000 {
            latency.record(us);
        }
        let snapshot = latency.snapshot();
        assert_eq!(snapshot.len(), 100_000);
        assert_eq!(latency.sum_us(), 100_000 * 100_001 / 2);
        for percent in [1_u32, 10, 50, 90, 95, 99] {
            let expected = u64::from(percent) * 1_000;
            let found = snapshot.value_at_quantile(f64::from(percent) / 100.0);
            assert!(found.abs_diff(expected) * 50 <= expected, "p{percent}: {found}");
        }
    }

    #[test]
    fn durations_beyond_an_hour_count_as_one() {
        let latency = Latency::default();
        latency.record(0);
        latency.record(u64::MAX);
        let snapshot = latency.snapshot();
        assert_eq!(snapshot.len(), 2);
        assert_eq!(latency.sum_us(), LATENCY_US_MAX);
        assert!(snapshot.max().abs_diff(LATENCY_US_MAX) * 50 <= LATENCY_US_MAX);
    }

    #[test]
    fn snapshots_can_be_merged_and_subtracted() {
        let (one, two) = (Latency::default(), Latency::default());
        one.record(100);
        let before = one.snapshot();
        one.record(5_000);
        two.record(5_000);
        let mut window = one.snapshot();
        window.subtract(&before).unwrap();
        window += two.snapshot();
        assert_eq!(window.len(), 2);
        assert!(window.value_at_quantile(0.0).abs_diff(5_000) <= 100);
    }

    #[test]
    fn an_exchange_without_an_answer_has_no_length() {
        let metrics = WorkerMetrics::default();
        for (status, us) in [(204, 10), (503, 20), (0, 30), (999, 40)] {
            metrics.answered(status, us);
        }
        let counts = metrics.requests.each_ref().map(Counter::get);
        assert_eq!(counts, [1, 0, 1, 0, 0, 2]);
        assert_eq!(metrics.latency.snapshot().len(), 3);
    }

    #[test]
    fn a_fault_is_counted_by_its_error_type() {
        let counts = FaultCounts::default();
        for fault in [Fault::NoRoute, Fault::OriginClosed, Fault::Internal, Fault::Overloaded] {
            counts.count(fault.proxy_error());
        }
        assert_eq!(counts.get(ProxyError::DestinationNotFound), 1);
        assert_eq!(counts.get(ProxyError::ConnectionTerminated), 1);
        assert_eq!(counts.get(ProxyError::ProxyInternalError), 2);
        assert_eq!(ProxyError::ALL.map(|(error, _)| counts.get(error)).iter().sum::<u64>(), 4);
    }
}
