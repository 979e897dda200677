//! Rate limits: how many requests each key may make.
//!
//! In: a key's hash and the precise clock. Out: whether the request may go on, and what is left.
//! Every key has a bucket of `burst` tokens that fills at the configured rate, kept as the single
//! number that says when it will be full again (the generic cell rate algorithm). A limit holds for
//! the whole process: a client's connections are spread over the workers, and a share of the limit
//! per worker would let a client with one connection have a fraction of its rate.
//!
//! The table is an array of 64-bit words, eight to a cache line, allocated once: 24 bits of the
//! key's hash and 40 of its time. One word changes with one compare-and-swap, so no thread ever
//! waits for another, and a million keys take the memory of none. A key looks at one line only;
//! where all eight words are in use, the one that is nearest to full gives way. What that key gets
//! back is what it had used, at most its burst; a key that is blocked has used all of it and is the
//! last to go. Keys whose hashes agree in 24 bits and the line's number share a bucket: with the
//! key of the hash unknown outside, one in two million pairs.

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{Rate, RateLimitConfig};

/// Whom a limit counts, already hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyHash(u64);

/// The buckets of one rate limit.
pub struct RateLimit {
    lines: Box<[Line]>,
    hasher: RandomState,
    /// For numbers that no client knows.
    secrets: [u64; 2],
    /// Nanoseconds that one tick of the table has.
    tick_ns: u64,
    /// Ticks that one token takes to come.
    token: u64,
    /// Ticks that an empty bucket takes to fill.
    full: u64,
    burst: u64,
    evicted: AtomicU64,
}

/// A cache line of buckets.
#[repr(align(64))]
#[derive(Default)]
struct Line([AtomicU64; WAYS]);

const WAYS: usize = 8;

/// A token is never less than half of this in ticks, so that rounding costs at most 0.03 %.
const TOKEN_TICKS: u64 = 4096;

const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// How far the clocks that two threads have read may lie apart before a bucket counts as one of a
/// round of the 40 bits ago.
const SKEW_NS: u64 = 10_000_000_000;

/// A lost race means that another thread has taken a token. A request that loses so many in a row
/// is let through rather than kept busy.
const RACES_MAX: usize = 64;

/// What a limit had to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub is_allowed: bool,
    left_ticks: u64,
    /// Until the next token where there is none, else until the bucket is full.
    wait_ticks: u64,
    token: u64,
    tick_ns: u64,
}

impl RateLimit {
    pub fn new(config: &RateLimitConfig) -> Self {
        let Rate { requests, period } = config.rate;
        let token_ns = (period.as_nanos() as u64 / u64::from(requests)).max(1);
        let tick_ns = (token_ns / TOKEN_TICKS).max(1);
        let token = (token_ns + tick_ns / 2) / tick_ns;
        let burst = u64::from(config.burst);
        let full = token * burst;
        let hasher = RandomState::new();
        Self {
            lines: (0..config.table_entries.div_ceil(WAYS).next_power_of_two())
                .map(|_| Line::default())
                .collect(),
            secrets: [0, 1].map(|number: u64| hasher.hash_one(number)),
            hasher,
            tick_ns,
            token,
            full,
            burst,
            evicted: AtomicU64::new(0),
        }
    }

    /// What the table takes, full or empty.
    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// Keys that were forgotten before their buckets were full.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    pub(crate) fn hash_number(&self, number: u64) -> KeyHash {
        // Two rounds of multiply and fold. Text that a client makes up needs the hash of the
        // standard library, which withstands those who choose it; a number is an address, which no
        // client chooses freely, and one that has many of them may try them out with any hash.
        let [first, second] = self.secrets;
        KeyHash(fold(fold(number ^ first) ^ second))
    }

    pub(crate) fn hash_bytes(&self, bytes: &[u8]) -> KeyHash {
        KeyHash(self.hasher.hash_one(bytes))
    }

    /// Takes a token out of the key's bucket, if there is one.
    pub(crate) fn take(&self, key: KeyHash, now_us: u64) -> Standing {
        let now = (now_us.wrapping_mul(1000) / self.tick_ns) & TIME_MASK;
        let line = &self.lines[(key.0 as usize) & (self.lines.len() - 1)].0;
        // 0 marks a word that was never used.
        let tag = (key.0 >> TIME_BITS).max(1);
        for _ in 0..RACES_MAX {
            let (at, word, used, is_evicting) = self.find(line, tag, now);
            let used_after = used + self.token;
            if used_after > self.full {
                return self.standing(false, 0, used_after - self.full);
            }
            let after = tag << TIME_BITS | (now + used_after) & TIME_MASK;
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            if line[at].compare_exchange(word, after, success, failure).is_ok() {
                if is_evicting {
                    self.evicted.fetch_add(1, Ordering::Relaxed);
                }
                return self.standing(true, self.full - used_after, used_after);
            }
        }
        self.standing(true, 0, self.full)
    }

    /// The key's word, or the one that gives way to it: its place, what it is, the ticks that the
    /// key has used, and whether it is another's that was still in use.
    fn find(&self, line: &[AtomicU64; WAYS], tag: u64, now: u64) -> (usize, u64, u64, bool) {
        // Mostly the key is there, and then no other matters.
        for (at, word) in line.iter().enumerate() {
            let word = word.load(Ordering::Relaxed);
            if word >> TIME_BITS == tag {
                return (at, word, self.used(word, now), false);
            }
        }
        let mut best = (0, 0, u64::MAX);
        for (at, word) in line.iter().enumerate() {
            let word = word.load(Ordering::Relaxed);
            let used = self.used(word, now);
            if word >> TIME_BITS == tag {
                return (at, word, used, false);
            }
            if used < best.2 {
                best = (at, word, used);
            }
        }
        (best.0, best.1, 0, best.2 > 0)
    }

    /// Ticks until the bucket is full again.
    fn used(&self, word: u64, now: u64) -> u64 {
        let ahead = (word & TIME_MASK).wrapping_sub(now) & TIME_MASK;
        // Further ahead than any bucket can be: it has been full for long.
        let is_current = ahead <= self.full + SKEW_NS / self.tick_ns;
        if word != 0 && is_current { ahead } else { 0 }
    }

    fn standing(&self, is_allowed: bool, left_ticks: u64, wait_ticks: u64) -> Standing {
        let (token, tick_ns) = (self.token, self.tick_ns);
        Standing { is_allowed, left_ticks, wait_ticks, token, tick_ns }
    }

    /// The line that says how much there is, and in which time.
    pub(crate) fn policy(&self) -> Box<[u8]> {
        let (burst, window_s) = (self.burst, seconds(self.full, self.tick_ns));
        format!("RateLimit-Policy: \"default\";q={burst};w={window_s}\r\n").into_bytes().into()
    }
}

/// A product with a large odd number, of which both halves count.
fn fold(number: u64) -> u64 {
    let product = u128::from(number) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

/// Rounded up.
fn seconds(ticks: u64, tick_ns: u64) -> u64 {
    // A million requests a day apart come to more than fits: 584 years are as good as never.
    ticks.saturating_mul(tick_ns).div_ceil(1_000_000_000).max(1)
}

// Worked out where it is said: most answers say nothing of it, and a division takes as long as
// twenty other instructions.
impl Standing {
    /// Requests that may follow at once.
    pub(crate) fn left(self) -> u64 {
        self.left_ticks / self.token
    }

    /// Seconds until the next token where there is none, else until the bucket is full; rounded up.
    pub(crate) fn wait_s(self) -> u64 {
        seconds(self.wait_ticks, self.tick_ns)
    }

    /// Appends the field of draft-ietf-httpapi-ratelimit-headers-10 that goes with the policy.
    pub(crate) fn put(self, out: &mut Vec<u8>) {
        let (left, wait_s) = (self.left(), self.wait_s());
        // Writing to a Vec does not fail.
        let _ = write!(out, "RateLimit: \"default\";r={left};t={wait_s}\r\n");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::ClientKey;

    fn limit(requests: u32, seconds: u64, burst: u32, table_entries: usize) -> RateLimit {
        RateLimit::new(&RateLimitConfig {
            key: ClientKey::Ip,
            rate: Rate { requests, period: Duration::from_secs(seconds) },
            burst,
            table_entries,
            announce: false,
        })
    }

    const SECOND_US: u64 = 1_000_000;

    /// Requests that are let through at `now_us`, of many.
    fn let_through(limit: &RateLimit, key: u64, now_us: u64, tries: usize) -> usize {
        let key = limit.hash_number(key);
        (0..tries).filter(|_| limit.take(key, now_us).is_allowed).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        for (requests, seconds, burst) in
            [(100, 1, 100), (10, 1, 1), (3, 1, 5), (1, 86_400, 2), (1_000_000, 1, 1000), (7, 60, 3)]
        {
            let limit = limit(requests, seconds, burst, 64);
            let began_us = 5 * SECOND_US;
            assert_eq!(let_through(&limit, 1, began_us, 2000), burst as usize);
            // Refusals cost nothing: the bucket fills although somebody keeps asking.
            let token_us = seconds * SECOND_US / u64::from(requests);
            let mut passed = 0;
            for round in 1..=50 {
                // What is lost where a token is no whole number of microseconds.
                let lost_us = round.min(token_us / 100);
                passed += let_through(&limit, 1, began_us + round * token_us + lost_us, 3);
            }
            assert!((49..=51).contains(&passed), "{requests}/{seconds}s: {passed}");
            // A full bucket again after a rest, and no more than that.
            let rested_us = began_us + 1000 * seconds * SECOND_US;
            assert_eq!(let_through(&limit, 1, rested_us, 2000), burst as usize);
        }
    }

    #[test]
    fn what_is_left_and_how_long_to_wait_is_told() {
        let limit = limit(1, 10, 2, 64);
        let key = limit.hash_number(1);
        let told = |now_ms: u64| {
            let standing = limit.take(key, now_ms * 1000);
            (standing.is_allowed, standing.left(), standing.wait_s())
        };
        assert_eq!(told(100_000), (true, 1, 10));
        assert_eq!(told(100_000), (true, 0, 20));
        assert_eq!(told(100_000), (false, 0, 10));
        assert_eq!(told(107_500), (false, 0, 3));
        assert_eq!(told(111_500), (true, 0, 19));
        let mut out = Vec::new();
        limit.take(key, 111_500_000).put(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "RateLimit: \"default\";r=0;t=9\r\n");
        assert_eq!(*limit.policy(), *b"RateLimit-Policy: \"default\";q=2;w=20\r\n");
    }

    #[test]
    fn a_bucket_that_takes_millennia_to_fill_has_a_time_all_the_same() {
        let limit = limit(1, 86_400, 1_000_000, 64);
        assert!(limit.policy().starts_with(b"RateLimit-Policy: \"default\";q=1000000;w=184467440"));
        let standing = limit.take(limit.hash_number(1), SECOND_US);
        assert_eq!((standing.is_allowed, standing.left()), (true, 999_999));
    }

    #[test]
    fn keys_do_not_know_each_other() {
        let limit = limit(1, 1, 1, 1024);
        for key in 0..100 {
            assert_eq!(let_through(&limit, key, SECOND_US, 3), 1, "{key}");
        }
        assert_eq!(limit.evicted(), 0);
    }

    #[test]
    fn a_million_keys_take_no_memory_and_free_no_blocked_one() {
        let limit = limit(10, 1, 10, 1024);
        let bytes = limit.bytes();
        assert_eq!(bytes, 1024 * 8);
        let persistent = u64::MAX;
        let mut passed = 0;
        let mut now_us = SECOND_US;
        for key in 0..1_000_000_u64 {
            limit.take(limit.hash_number(key), now_us);
            now_us += 10;
            if key % 100 == 0 {
                passed += let_through(&limit, persistent, now_us, 1);
            }
        }
        // Ten seconds at ten a second, and the burst at the beginning.
        assert!((100..=111).contains(&passed), "{passed}");
        assert!(limit.evicted() > 500_000);
        assert_eq!(limit.bytes(), bytes);
    }

    #[test]
    fn an_eviction_gives_a_key_at_most_its_burst() {
        // One line, so that every key beyond the eighth puts another out.
        let limit = limit(1, 3600, 5, 8);
        for key in 0..8 {
            assert_eq!(let_through(&limit, key, SECOND_US, 9), 5);
        }
        assert_eq!(limit.evicted(), 0);
        let passed = let_through(&limit, 100, SECOND_US, 9);
        assert_eq!((passed, limit.evicted()), (5, 1));
        let again: usize = (0..8).map(|key| let_through(&limit, key, SECOND_US, 9)).sum();
        // Each eviction has freed one key, and each of those five requests.
        assert!(again as u64 <= 5 * limit.evicted(), "{again}");
    }

    #[test]
    fn threads_together_get_no_more_than_one_would() {
        let limit = Arc::new(limit(1, 3600, 1000, 64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let limit = limit.clone();
                std::thread::spawn(move || let_through(&limit, 7, SECOND_US, 2000))
            })
            .collect();
        let passed: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(passed, 1000);
    }

    #[test]
    fn a_clock_that_lags_a_little_forgets_nothing() {
        let limit = limit(1, 1, 3, 64);
        assert_eq!(let_through(&limit, 1, 10 * SECOND_US, 9), 3);
        assert_eq!(let_through(&limit, 1, 10 * SECOND_US - 5_000, 9), 0);
        assert_eq!(let_through(&limit, 1, 8 * SECOND_US, 9), 0);
    }

    #[test]
    fn a_key_that_was_away_finds_a_full_bucket() {
        let limit = limit(100, 1, 10, 64);
        let mut now_us = SECOND_US;
        for step in 0..5000_u64 {
            now_us += 20_000_003 + step * 997_001;
            assert_eq!(let_through(&limit, 1, now_us, 20), 10, "{step}");
        }
    }

    /// The 40 bits come round: a word as old as that may be taken for a new one, but not for long.
    #[test]
    fn a_key_that_was_away_for_a_whole_round_waits_for_seconds_at_most() {
        let limit = limit(100, 1, 10, 64);
        assert_eq!(let_through(&limit, 1, SECOND_US, 20), 10);
        let round_us = (1 << TIME_BITS) * limit.tick_ns / 1000;
        let back_us = SECOND_US + round_us;
        assert_eq!(let_through(&limit, 1, back_us - 11 * SECOND_US, 1), 1);
        let limit = self::limit(100, 1, 10, 64);
        assert_eq!(let_through(&limit, 1, SECOND_US, 20), 10);
        assert_eq!(let_through(&limit, 1, back_us + SECOND_US, 20), 10);
    }
}
