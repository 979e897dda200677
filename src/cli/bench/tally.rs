//! What a run counts: answers, errors by kind, bytes, latencies.
//!
//! In go events from one thread; out come sums that can be added to those of other threads.
//! Latencies are kept in nanoseconds, to three digits. Counting allocates nothing, except that the
//! course over time, where it is asked for, grows to a fixed number of intervals.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer durations count as this: an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

const DIGITS: u8 = 3;

/// For the course over time, of which a picture shows pixels.
const COURSE_DIGITS: u8 = 2;

/// Two neighbours become one when there would be more.
const COURSE_INTERVALS_MAX: usize = 120;

const COURSE_INTERVAL: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorKind {
    /// The connection could not be made.
    Connect,
    Timeout,
    /// The connection ended, or was reset, before an answer began or while a request was sent.
    Reset,
    /// The connection ended within a body.
    ShortBody,
    BadHead,
    /// Chunks that are none, or more bytes than were announced.
    BadBody,
    /// The proxy made no tunnel.
    Tunnel,
    /// The handshake of TLS did not come to its end.
    Handshake,
    /// The server's certificate is not believed.
    Certificate,
    /// After the handshake, what came is no TLS.
    BadRecord,
    /// HTTP/2: the server gave the stream up.
    StreamReset,
    /// HTTP/2: the server gave the stream up, and has not acted upon it.
    Refused,
    /// HTTP/2: the server takes no more, and has not acted upon it.
    GoAway,
    /// The server does not speak HTTP/2, or breaks its rules.
    Http2,
}

impl ErrorKind {
    pub(super) const ALL: [Self; 14] = [
        Self::Connect,
        Self::Timeout,
        Self::Reset,
        Self::ShortBody,
        Self::BadHead,
        Self::BadBody,
        Self::Tunnel,
        Self::Handshake,
        Self::Certificate,
        Self::BadRecord,
        Self::StreamReset,
        Self::Refused,
        Self::GoAway,
        Self::Http2,
    ];

    /// The key in the JSON report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::ShortBody => "short_body",
            Self::BadHead => "bad_head",
            Self::BadBody => "bad_body",
            Self::Tunnel => "tunnel",
            Self::Handshake => "handshake",
            Self::Certificate => "certificate",
            Self::BadRecord => "bad_record",
            Self::StreamReset => "stream_reset",
            Self::Refused => "refused_stream",
            Self::GoAway => "goaway",
            Self::Http2 => "http2",
        }
    }
}

/// Sums of one thread, or of all.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Whole and sound answers.
    pub(super) requests: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    /// By index in [`ErrorKind::ALL`].
    pub(super) errors: [u64; ErrorKind::ALL.len()],
    /// By the first digit of the status; the first stays empty.
    pub(super) status: [u64; 6],
    pub(super) latency: Histogram<u64>,
    /// How long it took to open connections, tunnels included.
    pub(super) connect: Histogram<u64>,
    pub(super) course: Option<Course>,
    /// Requests of an open loop that were due and never sent.
    pub(super) unsent: u64,
    /// The latest that any was sent, or was not sent at the end.
    pub(super) late_ns_max: u64,
    /// Idle connections that answered again, and those that did not.
    pub(super) held: u64,
    pub(super) lost: u64,
    /// Handshakes of TLS: those in full, and those that went on from an earlier session.
    pub(super) full: u64,
    pub(super) resumed: u64,
    /// Processor time of the threads that made the load.
    pub(super) cpu: Duration,
}

impl Tally {
    pub(super) fn new(has_course: bool) -> Self {
        Self {
            requests: 0,
            bytes_read: 0,
            bytes_written: 0,
            errors: Default::default(),
            status: Default::default(),
            latency: histogram(),
            connect: histogram(),
            course: has_course.then(Course::default),
            unsent: 0,
            late_ns_max: 0,
            held: 0,
            lost: 0,
            full: 0,
            resumed: 0,
            cpu: Duration::ZERO,
        }
    }

    #[inline]
    pub(super) fn answered(&mut self, status: u16, latency: Duration, after: Duration) {
        self.requests += 1;
        self.status[usize::from(status / 100).min(5)] += 1;
        let latency_ns = latency.as_nanos() as u64;
        self.latency.saturating_record(latency_ns);
        if let Some(course) = &mut self.course {
            course.record(latency_ns, after);
        }
    }

    /// A connection is open; `None` where it speaks no TLS.
    pub(super) fn secured(&mut self, is_resumed: Option<bool>) {
        match is_resumed {
            Some(true) => self.resumed += 1,
            Some(false) => self.full += 1,
            None => {}
        }
    }

    pub(super) fn failed(&mut self, kind: ErrorKind) {
        self.errors[kind as usize] += 1;
    }

    pub(super) fn errors(&self) -> u64 {
        self.errors.iter().sum()
    }

    /// Adds what another thread counted.
    pub(super) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        for (sum, count) in self.errors.iter_mut().zip(other.errors) {
            *sum += count;
        }
        for (sum, count) in self.status.iter_mut().zip(other.status) {
            *sum += count;
        }
        // Both have the same bounds, so that neither addition can fail.
        let _ = self.latency.add(&other.latency);
        let _ = self.connect.add(&other.connect);
        if let (Some(course), Some(other)) = (&mut self.course, &other.course) {
            course.merge(other);
        }
        self.unsent += other.unsent;
        self.late_ns_max = self.late_ns_max.max(other.late_ns_max);
        self.held += other.held;
        self.lost += other.lost;
        self.full += other.full;
        self.resumed += other.resumed;
        self.cpu += other.cpu;
    }
}

/// The shape of every histogram here, whose bounds are constants.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("1 ns is below an hour")
}

/// Latencies by when the answer came.
#[derive(Clone, Debug)]
pub(super) struct Course {
    interval: Duration,
    intervals: Vec<Histogram<u32>>,
}

impl Default for Course {
    fn default() -> Self {
        Self { interval: COURSE_INTERVAL, intervals: Vec::new() }
    }
}

impl Course {
    fn record(&mut self, latency_ns: u64, after: Duration) {
        let index = loop {
            let index = (after.as_nanos() / self.interval.as_nanos()) as usize;
            if index < COURSE_INTERVALS_MAX {
                break index;
            }
            self.halve();
        };
        while self.intervals.len() <= index {
            self.intervals.push(interval());
        }
        self.intervals[index].saturating_record(latency_ns);
    }

    /// Makes one of every two neighbours.
    fn halve(&mut self) {
        self.interval *= 2;
        let pairs = self.intervals.chunks(2).map(|pair| {
            let mut sum = pair[0].clone();
            for other in &pair[1..] {
                let _ = sum.add(other);
            }
            sum
        });
        self.intervals = pairs.collect();
    }

    fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        while self.interval < other.interval {
            self.halve();
        }
        while other.interval < self.interval {
            other.halve();
        }
        while self.intervals.len() < other.intervals.len() {
            self.intervals.push(interval());
        }
        for (sum, other) in self.intervals.iter_mut().zip(&other.intervals) {
            let _ = sum.add(other);
        }
    }

    /// Answers per second of each interval, with its middle in seconds. The last one is left out:
    /// it has hardly been a whole one.
    pub(super) fn rates(&self) -> impl Iterator<Item = (f64, f64)> {
        let seconds = self.interval.as_secs_f64();
        let whole = self.intervals.len().saturating_sub(1).max(1);
        let rate = move |(index, latencies): (usize, &Histogram<u32>)| {
            ((index as f64 + 0.5) * seconds, latencies.len() as f64 / seconds)
        };
        self.intervals.iter().take(whole).enumerate().map(rate)
    }

    /// The intervals in which answers came, each with its middle in seconds.
    pub(super) fn iter(&self) -> impl Iterator<Item = (f64, &Histogram<u32>)> {
        let seconds = self.interval.as_secs_f64();
        let middles = self.intervals.iter().enumerate();
        middles
            .filter(|(_, latencies)| !latencies.is_empty())
            .map(move |(index, latencies)| ((index as f64 + 0.5) * seconds, latencies))
    }
}

fn interval() -> Histogram<u32> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, COURSE_DIGITS).expect("1 ns is below an hour")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn sums_of_two_threads_are_those_of_one() {
        let (mut one, mut two, mut both) = (Tally::new(true), Tally::new(true), Tally::new(true));
        for index in 0..1_000_u32 {
            let part = if index % 3 == 0 { &mut one } else { &mut two };
            for tally in [part, &mut both] {
                tally.answered(200 + 100 * (index % 4) as u16, MS * index, MS * 20 * index);
                tally.bytes_read += 7;
            }
        }
        one.failed(ErrorKind::Reset);
        two.failed(ErrorKind::Reset);
        two.failed(ErrorKind::Tunnel);
        (one.late_ns_max, two.late_ns_max) = (3, 5);
        one.merge(&two);
        assert_eq!((one.requests, one.bytes_read), (1_000, 7_000));
        assert_eq!(one.status, [0, 0, 250, 250, 250, 250]);
        assert_eq!(one.errors, [0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((one.errors(), one.late_ns_max), (3, 5));
        assert_eq!(one.latency, both.latency);
        let course = |tally: &Tally| -> Vec<(u64, u64)> {
            let course = tally.course.iter().flat_map(Course::iter);
            course.map(|(at, latencies)| ((at * 1000.0) as u64, latencies.len())).collect()
        };
        assert_eq!(course(&one), course(&both));
    }

    #[test]
    fn latencies_keep_three_digits() {
        let mut tally = Tally::new(false);
        for us in 1..=1_000_u64 {
            tally.answered(200, Duration::from_micros(us), MS);
        }
        for (quantile, us) in [(0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1_000)] {
            let found = tally.latency.value_at_quantile(quantile);
            assert!(found.abs_diff(us * 1_000) <= us, "{quantile}: {found} ns");
        }
    }

    #[test]
    fn the_course_of_a_long_run_does_not_grow_for_ever() {
        let mut course = Course::default();
        for second in 0..100_000_u32 {
            course.record(1_000, Duration::from_secs(u64::from(second)));
        }
        assert!(course.intervals.len() <= COURSE_INTERVALS_MAX);
        assert_eq!(course.iter().map(|(_, latencies)| latencies.len()).sum::<u64>(), 100_000);
        let last = course.iter().last().map(|(middle, _)| middle).unwrap();
        assert!(last > 90_000.0 && last < 101_000.0, "{last} s");
    }

    #[test]
    fn an_hour_is_the_most() {
        let mut tally = Tally::new(false);
        tally.answered(200, Duration::MAX, MS);
        assert_eq!(tally.requests, 1);
        assert!(tally.latency.max() >= LATENCY_NS_MAX / 1_000 * 999);
    }
}
