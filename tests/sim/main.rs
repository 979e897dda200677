//! The real data path in a world of its own: `cargo test --test sim`.
//!
//! In goes a seed; out comes nothing, or what must not be, with the seed that shows it again:
//! `RINGWAY_SIM_SEED=7 cargo test --test sim`. One thread runs a worker as the program does, with
//! all that it consists of: HTTP/1, exchanges, pools, relays, health, balance, reloads and drains.
//! Its system calls end in this program (`calls`), where a kernel in memory answers them and time
//! passes as soon as everybody sleeps. `RINGWAY_SIM_SECONDS` goes on with further seeds for so
//! long, from `RINGWAY_SIM_FROM` on.
#![allow(unsafe_code)]
#![allow(
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_ptr_alignment,
    clippy::many_single_char_names,
    clippy::struct_excessive_bools,
    reason = "calls of the C library, and what a kernel keeps of a connection"
)]
#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

mod calls;
mod chance;
mod client;
mod facts;
mod kernel;
mod origin;
mod pipe;
mod streams;
mod wire;
mod world;

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Once};
use std::thread;
use std::time::{Duration, Instant};

use facts::Counts;
use ringway::internals::server::{Alone, Held};
use ringway::internals::worker::thread::DrainReport;
use world::{Weather, World};

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    offences: Vec<String>,
    calls: u64,
    happened: u64,
    virtual_us: u64,
    requests: usize,
    whole: u64,
    refused: u64,
    cut: u64,
    tunnels: u64,
    bytes: u64,
    counts: Counts,
}

impl Outcome {
    fn steps(&self) -> u64 {
        self.calls + self.happened
    }
}

/// Says it with the seed, also where nothing else will be said any more.
fn report(what: &str) {
    let seed = SEED.get();
    let line = format!(
        "seed {seed}: {what}\nagain: RINGWAY_SIM_SEED={seed} cargo test --test sim -- --nocapture\n"
    );
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Each seed has a thread of its own: what a thread remembers is not the next one's.
fn run(seed: u64) -> Outcome {
    run_with(seed, |_| ())
}

/// The same in a world that is made otherwise.
fn run_with(seed: u64, make: impl FnOnce(&mut World) + Send + 'static) -> Outcome {
    let run = thread::Builder::new().stack_size(16 << 20).spawn(move || run_here(seed, make));
    let outcome = run.expect("a thread").join().ok();
    outcome.unwrap_or_else(|| {
        panic!("seed {seed} panicked: RINGWAY_SIM_SEED={seed} cargo test --test sim")
    })
}

fn run_here(seed: u64, make: impl FnOnce(&mut World)) -> Outcome {
    SEED.set(seed);
    let weather = if seed.is_multiple_of(3) { Weather::Calm } else { Weather::Wild };
    let mut world = World::new(seed, weather);
    make(&mut world);
    let text = world.config();
    let began = world.kernel.now_us;
    let (report, held) = calls::simulate(&mut world, seed, || {
        let alone = calls::plan(|| Alone::new(&text)).expect("a configuration");
        let alone = Rc::new(alone);
        calls::within(|world| world.set_alone(alone.clone()));
        let report = alone.run();
        calls::within(World::forget_alone);
        (report, alone.held())
    });
    world.settle_down();
    if report != DrainReport::default() {
        world.facts.offend(format!("the drain left something: {report:?}"));
    }
    if held != Held::default() {
        world.facts.offend(format!("something is held after the end: {held:?}"));
    }
    if world.kernel.open_count() > 0 {
        let count = world.kernel.open_count();
        world.facts.offend(format!("{count} descriptors were left open"));
    }
    PANICS.with(|panics| {
        for panic in panics.take() {
            world.facts.offend(panic);
        }
    });
    let facts = world.facts;
    Outcome {
        offences: facts.offences,
        calls: world.kernel.calls,
        happened: world.happened,
        virtual_us: world.kernel.now_us - began,
        requests: facts.requests.len(),
        whole: facts.whole,
        refused: facts.refused,
        cut: facts.cut,
        tunnels: facts.tunnels,
        bytes: facts.bytes,
        counts: facts.counts,
    }
}

thread_local! {
    /// What has panicked on the thread; the runtime keeps it from others.
    static PANICS: Cell<Vec<String>> = const { Cell::new(Vec::new()) };
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed and says what is wrong with it.
fn check(seed: u64) -> Outcome {
    let outcome = run(seed);
    let offences = outcome.offences.join("\n  ");
    assert!(
        outcome.offences.is_empty(),
        "seed {seed}:\n  {offences}\nagain: RINGWAY_SIM_SEED={seed} cargo test --test sim"
    );
    outcome
}

/// The seeds of every run of the tests.
const SEEDS: u64 = 60;

/// What they came to, with the time that they took.
static STANDARD: LazyLock<(Vec<Outcome>, Duration)> = LazyLock::new(|| {
    keep_panics();
    let began = Instant::now();
    let outcomes = (1..=SEEDS).map(check).collect();
    (outcomes, began.elapsed())
});

/// How often something happened in the standard seeds.
fn count(of: impl Fn(&Counts) -> u64) -> u64 {
    STANDARD.0.iter().map(|outcome| of(&outcome.counts)).sum()
}

#[test]
fn whatever_the_peers_do_no_byte_and_no_lease_is_lost() {
    keep_panics();
    let total = Total::default();
    if let Some(seed) = number("RINGWAY_SIM_SEED") {
        let outcome = check(seed);
        let _ = writeln!(std::io::stderr(), "{outcome:#?}");
    } else if let Some(seconds) = number("RINGWAY_SIM_SECONDS") {
        let limit = Duration::from_secs(seconds);
        let (began, from) = (Instant::now(), number("RINGWAY_SIM_FROM").unwrap_or(1));
        let next = AtomicU64::new(from);
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while began.elapsed() < limit {
                        total.add(&check(next.fetch_add(1, Ordering::Relaxed)));
                    }
                });
            }
        });
        total.say(began.elapsed());
    } else {
        STANDARD.0.iter().for_each(|outcome| total.add(outcome));
        total.say(STANDARD.1);
    }
}

#[derive(Default)]
struct Total {
    seeds: AtomicU64,
    steps: AtomicU64,
    requests: AtomicU64,
    whole: AtomicU64,
    virtual_ms: AtomicU64,
}

impl Total {
    fn add(&self, outcome: &Outcome) {
        self.seeds.fetch_add(1, Ordering::Relaxed);
        self.steps.fetch_add(outcome.steps(), Ordering::Relaxed);
        self.requests.fetch_add(outcome.requests as u64, Ordering::Relaxed);
        self.whole.fetch_add(outcome.whole + outcome.tunnels, Ordering::Relaxed);
        self.virtual_ms.fetch_add(outcome.virtual_us / 1000, Ordering::Relaxed);
    }

    fn say(&self, took: Duration) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let per_minute = of(&self.steps) as f64 / took.as_secs_f64() * 60.0;
        let _ = writeln!(
            std::io::stderr(),
            "{} seeds, {} steps ({:.1} million a minute), {} requests, {} of them answered whole, \
             {} s of their time in {:.1} s",
            of(&self.seeds),
            of(&self.steps),
            per_minute / 1e6,
            of(&self.requests),
            of(&self.whole),
            of(&self.virtual_ms) / 1000,
            took.as_secs_f64()
        );
    }
}

/// A task that panics is one of many to the runtime, and a defect here.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with(|panics| {
                let mut list = panics.take();
                list.push(panic.to_string());
                panics.set(list);
            });
            before(panic);
        }));
    });
}

/// Without it a seed would be of no use.
#[test]
fn a_seed_has_the_same_outcome_each_time() {
    keep_panics();
    for seed in [3, 4, 5] {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first, second, "seed {seed}");
        assert!(first.steps() > 1000, "{first:?}");
    }
}

/// What finds nothing must be shown to find something.
#[test]
fn a_byte_that_is_another_one_does_not_go_unseen() {
    keep_panics();
    let found = (1..8).map(|seed| run_with(seed, |world| world.kernel.spoils = Some(40)));
    let found = found
        .filter(|outcome| outcome.offences.iter().any(|offence| offence.contains("other bytes")));
    assert!(found.count() >= 4, "spoilt bytes of bodies are seen in most runs");
}

/// A world that changes nothing proves nothing.
fn expect_each(counts: &[(&str, u64)]) {
    for (what, count) in counts {
        assert!(*count > 0, "{what}: none");
    }
}

#[test]
fn names_lead_elsewhere_in_the_worlds_of_every_run() {
    let least = [
        ("names that lead elsewhere", count(|it| it.renames)),
        ("answers", count(|it| it.answers)),
        ("answers without an address", count(|it| it.empty_answers)),
        ("failures of the name server", count(|it| it.failures)),
        ("requests to a host that has just gone", count(|it| it.to_gone)),
    ];
    expect_each(&least);
}

#[test]
fn memory_is_short_in_the_worlds_of_every_run() {
    let least = [
        ("looks that found light pressure", count(|it| it.looks_light)),
        ("looks that found forced pressure", count(|it| it.looks_forced)),
        ("light cleanups", count(|it| it.cleanups_light)),
        ("forced cleanups", count(|it| it.cleanups_forced)),
        ("budgets that were cut", count(|it| it.squeezes)),
        ("idle connections that cleanups ended", count(|it| it.freed_idle)),
        ("clients that cleanups ended", count(|it| it.freed_clients)),
        ("transfers that cleanups cut", count(|it| it.cut_transfers)),
        ("answers that there is no room", count(|it| it.no_room)),
    ];
    expect_each(&least);
}

#[test]
fn somebody_is_served_at_the_end_of_the_worlds_of_every_run() {
    assert!(count(|it| it.probes) > SEEDS, "two come to each world that is not drained before");
}

/// How many of the first seeds offend in these words in a world that is made otherwise.
fn offending(seeds: u64, words: &str, make: fn(&mut World)) -> usize {
    keep_panics();
    let outcomes = (1..=seeds).map(|seed| run_with(seed, make));
    outcomes.filter(|it| it.offences.iter().any(|offence| offence.contains(words))).count()
}

#[test]
fn a_host_that_is_asked_although_it_is_gone_does_not_go_unseen() {
    assert!(offending(8, ", which is gone for", World::lie_about_names) > 0);
}

#[test]
fn a_ledger_above_its_bound_does_not_go_unseen() {
    assert_eq!(offending(3, "the ledger has", |world| world.bound_ledger(1000)), 3);
}

#[test]
fn memory_that_stays_short_does_not_go_unseen() {
    assert!(offending(8, "without cause", World::press_for_ever) > 0);
}
