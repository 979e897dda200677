//! What a worker counts by name: of routes, upstreams, origins, and the arms of splits.
//!
//! In goes the end of an exchange, with its status and its length, from the one thread that owns
//! the numbers; out come totals that any thread may read. To count costs an index that is found
//! once for all names, and three additions for each of them. It never locks, allocates or reads a
//! clock while it counts.

use std::sync::{Arc, Mutex, PoisonError};

use crate::counters::Counter;
use crate::observe::metrics::{Classes, Latency, class_of};

/// Upper bounds of the buckets, in microseconds and as Prometheus has them. No two lie between one
/// power of two and the next: so a bucket is found without a search.
pub(crate) const BOUNDS: [(u64, &str); 18] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (30_000_000, "30"),
    (60_000_000, "60"),
];

/// One for each bound, and one for what is beyond the last.
pub(crate) const BUCKET_COUNT: usize = BOUNDS.len() + 1;

/// By power of two: the first bucket that may hold it, and the bound of that.
const FIRST: [(u64, u8); 64] = {
    let mut first = [(u64::MAX, BOUNDS.len() as u8); 64];
    let mut power = 0;
    while power < 64 {
        let mut index = 0;
        while index < BOUNDS.len() && BOUNDS[index].0 < 1 << power {
            index += 1;
        }
        if index < BOUNDS.len() {
            first[power] = (BOUNDS[index].0, index as u8);
        }
        power += 1;
    }
    first
};

/// The end of an exchange, as every name counts it.
#[derive(Clone, Copy)]
pub struct Ended {
    class: u8,
    bucket: u8,
    /// 1, or 0 where nothing was sent: to add nothing is cheaper than to ask.
    timed: u64,
    /// 0 where nothing was sent.
    us: u64,
}

impl Ended {
    /// `status` is 0 where nothing was sent: its length, which says how patient the client was, is
    /// left out.
    #[inline]
    pub fn new(status: u16, us: u64) -> Self {
        let (bound, first) = FIRST[(us | 1).ilog2() as usize];
        // It is never more; so said, nobody has to look again for each name.
        let bucket = (first + u8::from(us > bound)).min(BUCKET_COUNT as u8 - 1);
        let class = class_of(status) as u8;
        let timed = u64::from(class != 0);
        Self { class, bucket, timed, us: us * timed }
    }
}

/// One worker's exchanges of one name.
#[derive(Debug, Default)]
pub struct Traffic {
    pub classes: Classes,
    pub buckets: [Counter; BUCKET_COUNT],
    pub sum_us: Counter,
    /// Of a route: requests that it answered 429.
    pub limited: Counter,
    /// Of an origin: connections that were opened to it.
    pub opened: Counter,
}

impl Traffic {
    #[inline]
    pub fn add(&self, ended: Ended) {
        self.classes[usize::from(ended.class)].add(1);
        self.buckets[usize::from(ended.bucket)].add(ended.timed);
        self.sum_us.add(ended.us);
    }
}

/// One worker's exchanges of one arm of one route's split.
#[derive(Debug)]
pub struct ArmTraffic {
    /// Its index in `Config::upstreams`.
    pub upstream: usize,
    pub traffic: Arc<Traffic>,
    /// As fine as the whole's: what is compared here differs by little.
    pub latency: Arc<Latency>,
}

/// One worker's exchanges by what one configuration names. Whatever the next one names too goes on
/// counting where it was.
#[derive(Debug, Default)]
pub struct NamedCounts {
    /// By index in `Config::routes`.
    pub routes: Vec<Arc<Traffic>>,
    /// By index in `Config::upstreams`.
    pub upstreams: Vec<Arc<Traffic>>,
    /// By route: nothing where that has no split. Empty where none has.
    pub arms: Vec<Vec<ArmTraffic>>,
}

impl NamedCounts {
    #[inline]
    pub fn ended(&self, route: Option<usize>, upstream: Option<usize>, ended: Ended) {
        if let Some(route) = route.and_then(|index| self.routes.get(index)) {
            route.add(ended);
        }
        let Some(upstream) = upstream else { return };
        if let Some(traffic) = self.upstreams.get(upstream) {
            traffic.add(ended);
        }
        if !self.arms.is_empty() {
            self.arm_ended(route, upstream, ended);
        }
    }

    #[cold]
    fn arm_ended(&self, route: Option<usize>, upstream: usize, ended: Ended) {
        if let Some(arms) = route.and_then(|index| self.arms.get(index)) {
            let arm = arms.iter().find(|arm| arm.upstream == upstream);
            arm.inspect(|arm| arm.add(ended));
        }
    }

    /// The route with this index has answered 429.
    #[cold]
    pub(crate) fn limited(&self, route: u32) {
        if let Some(route) = self.routes.get(route as usize) {
            route.limited.add(1);
        }
    }
}

impl ArmTraffic {
    fn add(&self, ended: Ended) {
        self.traffic.add(ended);
        if ended.timed > 0 {
            self.latency.record(ended.us);
        }
    }
}

/// All workers' exchanges with one origin, for as long as configurations name it.
#[derive(Debug, Default)]
pub(crate) struct OriginTraffic(Mutex<Vec<Arc<Traffic>>>);

impl OriginTraffic {
    /// What the worker with this number counts.
    pub(crate) fn of(&self, worker: usize) -> Arc<Traffic> {
        let mut workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while workers.len() <= worker {
            workers.push(Arc::default());
        }
        workers[worker].clone()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Traffic>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_of_the_first_bound_that_is_not_below_it() {
        let mut tried: Vec<u64> = (0..64).map(|power| 1 << power).collect();
        tried.extend(BOUNDS.map(|(bound, _)| bound));
        for us in tried.iter().flat_map(|us| [us - 1, *us, us + 1]).chain([0, u64::MAX]) {
            let expected = BOUNDS.iter().position(|(bound, _)| us <= *bound);
            let found = usize::from(Ended::new(200, us).bucket);
            assert_eq!(found, expected.unwrap_or(BOUNDS.len()), "{us}");
        }
    }

    #[test]
    fn bounds_are_what_prometheus_is_told() {
        for (us, text) in BOUNDS {
            let seconds: f64 = text.parse().unwrap();
            assert_eq!(Duration::from_secs_f64(seconds), Duration::from_micros(us), "{text}");
        }
    }

    #[test]
    fn an_exchange_is_counted_once_by_each_name_that_it_has() {
        let arm =
            |upstream| ArmTraffic { upstream, traffic: Arc::default(), latency: Arc::default() };
        let named = NamedCounts {
            routes: vec![Arc::default(), Arc::default()],
            upstreams: vec![Arc::default(), Arc::default()],
            arms: vec![Vec::new(), vec![arm(0), arm(1)]],
        };
        // A route that is not there, and a status that is none, must not panic.
        for (route, upstream, status, us) in [
            (Some(1), Some(0), 204, 10),
            (Some(1), Some(1), 502, 700),
            (None, None, 503, 20),
            (Some(0), Some(0), 0, 30),
            (Some(9), Some(9), 999, 40),
        ] {
            named.ended(route, upstream, Ended::new(status, us));
        }
        let counts = |classes: &Classes| classes.each_ref().map(Counter::get);
        let times = |traffic: &Traffic| {
            (traffic.buckets.iter().map(Counter::get).sum::<u64>(), traffic.sum_us.get())
        };
        assert_eq!(counts(&named.routes[0].classes), [1, 0, 0, 0, 0, 0]);
        assert_eq!(times(&named.routes[0]), (0, 0));
        assert_eq!(counts(&named.routes[1].classes), [0, 0, 1, 0, 0, 1]);
        assert_eq!(times(&named.routes[1]), (2, 710));
        assert_eq!(named.routes[1].buckets[3].get(), 1);
        assert_eq!(counts(&named.upstreams[0].classes), [1, 0, 1, 0, 0, 0]);
        let [first, second] = [0, 1].map(|index| &named.arms[1][index]);
        assert_eq!(counts(&first.traffic.classes), [0, 0, 1, 0, 0, 0]);
        assert_eq!(counts(&second.traffic.classes), [0, 0, 0, 0, 0, 1]);
        assert_eq!(second.latency.sum_us(), 700);
    }

    #[test]
    fn an_origin_counts_by_worker_and_in_one_place() {
        let origin = OriginTraffic::default();
        origin.of(2).add(Ended::new(200, 5));
        origin.of(2).add(Ended::new(200, 5));
        let counts: Vec<u64> = origin.all().iter().map(|one| one.classes[2].get()).collect();
        assert_eq!(counts, [0, 0, 2]);
    }
}
