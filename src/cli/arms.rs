//! `ringway compare-arms`: which of the two upstreams that a split chooses from does better.
//!
//! In go counts of a running ringway, read again and again; out come both arms' rates, errors and
//! latencies, each with a verdict, by the statistics of `bench --ab`: both arms have their part of
//! the same seconds, so that what slows both is no difference. Nothing is changed there, and no
//! request is sent but to the administration.

// Figures for people: fifteen digits are more than anybody counts.
#![allow(clippy::cast_precision_loss)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::args::ArmsQuestion;
use super::client::{self, Target};
use super::output::{Done, Failure};
use super::query::escaped;
use super::statistics::{Figure, Line, Shares, compare_shares};
use crate::config::{Config, Secret};

/// B does worse.
const WORSE: u8 = 3;

/// The answer of `GET /arms`.
#[derive(Deserialize)]
struct Counts {
    route: String,
    generation: u64,
    at_us: u64,
    arms: Vec<Arm>,
}

#[derive(Deserialize)]
struct Arm {
    upstream: String,
    classes: BTreeMap<String, u64>,
    sum_us: u64,
    latencies: Vec<(u64, u64)>,
}

/// What one arm has come to in one round.
#[derive(Clone)]
struct Round {
    seconds: f64,
    answered: u64,
    unanswered: u64,
    /// The latter, and 5xx.
    failed: u64,
    sum_us: u64,
    latencies: Histogram<u64>,
}

const FIGURES: [Figure<Round>; 5] = [
    Figure {
        name: "requests_per_second",
        less: "asked less",
        more: "asked more",
        of: |round| round.answered as f64 / round.seconds,
    },
    Figure {
        name: "mean_ms",
        less: "sooner",
        more: "later",
        of: |round| round.sum_us as f64 / 1e3 / round.latencies.len() as f64,
    },
    Figure { name: "p50_ms", less: "sooner", more: "later", of: |round| round.quantile_ms(0.5) },
    Figure { name: "p95_ms", less: "sooner", more: "later", of: |round| round.quantile_ms(0.95) },
    Figure { name: "p99_ms", less: "sooner", more: "later", of: |round| round.quantile_ms(0.99) },
];

/// What arms are judged by when they fail alike.
const JUDGED_BY: usize = 1;

/// The whole comparison.
#[derive(Serialize)]
struct Outcome {
    route: String,
    a: String,
    b: String,
    rounds: usize,
    seconds: f64,
    requests: [u64; 2],
    /// Shares of 5xx and of exchanges without an answer.
    error_rates: [f64; 2],
    errors: Option<Shares>,
    errors_verdict: String,
    figures: Vec<Line>,
    /// `better`, `worse`, `alike` or `unknown`: how B does compared with A.
    result: &'static str,
    verdict: String,
}

pub(crate) fn run(
    config: &Config,
    named: Option<Result<Target, String>>,
    question: &ArmsQuestion,
) -> ExitCode {
    let targets = match named {
        Some(target) => target.map(|target| vec![target]),
        None => Ok(Target::admin(config).into_iter().collect()),
    };
    let done = targets.map_err(Failure::wrong).and_then(|targets| {
        let token = config.admin.reader().map(Secret::reveal);
        watch(&Whom { targets: &targets, token }, question)
    });
    let done = done.map(|outcome| Done {
        // Cannot fail: every key is text and no number is infinite.
        text: if question.json {
            format!("{}\n", serde_json::to_string(&outcome).unwrap_or_default())
        } else {
            table(&outcome)
        },
        code: if outcome.result == "worse" { WORSE } else { 0 },
    });
    done.and_then(Done::print).unwrap_or_else(Failure::print)
}

/// Whom to ask, and what to show them.
struct Whom<'a> {
    targets: &'a [Target],
    token: Option<&'a str>,
}

fn ask(whom: &Whom<'_>, route: Option<&str>) -> Result<Counts, Failure> {
    let query = route.map_or_else(String::new, |route| format!("?route={}", escaped(route)));
    let report = client::ask_for(whom.targets, &format!("/arms{query}"), whom.token)
        .map_err(Failure::unable)?;
    if report.code != 200 {
        return Err(Failure::unable(report));
    }
    serde_json::from_str(&report.body)
        .map_err(|error| Failure::unable(format!("the answer is not ringway's: {error}")))
}

fn watch(whom: &Whom<'_>, question: &ArmsQuestion) -> Result<Outcome, Failure> {
    let first = ask(whom, question.route.as_deref())?;
    let [a, b] = sides(&first, question)?;
    let route = first.route.clone();
    let mut before = first;
    let mut rounds: Vec<[Round; 2]> = Vec::new();
    for _ in 0..question.rounds {
        thread::sleep(Duration::from_millis(question.round_ms));
        let now = ask(whom, Some(&route))?;
        // Another configuration begins counts anew where it has other names.
        if now.generation == before.generation {
            let pair = [&a, &b].map(|name| round(&before, &now, name));
            if let [Some(a), Some(b)] = pair {
                rounds.push([a, b]);
            }
        }
        before = now;
    }
    Ok(judge(route, [a, b], &rounds))
}

/// Which upstreams are A and B.
fn sides(counts: &Counts, question: &ArmsQuestion) -> Result<[String; 2], Failure> {
    let names: Vec<&str> = counts.arms.iter().map(|arm| &*arm.upstream).collect();
    for wanted in [&question.a, &question.b].into_iter().flatten() {
        if !names.contains(&&**wanted) {
            let known = names.join(", ");
            return Err(Failure::wrong(format!(
                "{wanted:?} is no arm of this split, only: {known}"
            )));
        }
    }
    let other = |than: Option<&String>, mut all: Box<dyn Iterator<Item = &&str> + '_>| {
        all.find(|name| than.is_none_or(|than| than != **name)).map(|name| (*name).to_owned())
    };
    let a = question.a.clone().or_else(|| other(question.b.as_ref(), Box::new(names.iter())));
    let b = question.b.clone().or_else(|| other(a.as_ref(), Box::new(names.iter().rev())));
    match (a, b) {
        (Some(a), Some(b)) if a != b => Ok([a, b]),
        _ => Err(Failure::wrong("the split has one arm, or A and B are the same")),
    }
}

fn round(before: &Counts, now: &Counts, name: &str) -> Option<Round> {
    let find = |counts: &Counts| counts.arms.iter().position(|arm| arm.upstream == name);
    let (before_arm, arm) = (&before.arms[find(before)?], &now.arms[find(now)?]);
    let count = |class: &str| {
        let of = |arm: &Arm| arm.classes.get(class).copied().unwrap_or(0);
        of(arm).saturating_sub(of(before_arm))
    };
    let answered = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().map(count).sum();
    Some(Round {
        seconds: now.at_us.saturating_sub(before.at_us) as f64 / 1e6,
        answered,
        unanswered: count("none"),
        failed: count("5xx") + count("none"),
        sum_us: arm.sum_us.saturating_sub(before_arm.sum_us),
        latencies: difference(&before_arm.latencies, &arm.latencies),
    })
}

/// What has come since, by the same buckets.
fn difference(before: &[(u64, u64)], now: &[(u64, u64)]) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("three digits are few");
    let before: BTreeMap<u64, u64> = before.iter().copied().collect();
    for (us, count) in now {
        let more = count.saturating_sub(before.get(us).copied().unwrap_or(0));
        // A value that is too large for it grows it.
        let _ = histogram.record_n(*us, more);
    }
    histogram
}

impl Round {
    fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    fn all(&self) -> u64 {
        self.answered + self.unanswered
    }
}

fn judge(route: String, [a, b]: [String; 2], rounds: &[[Round; 2]]) -> Outcome {
    let sum = |side: usize, of: fn(&Round) -> u64| -> u64 {
        rounds.iter().map(|round| of(&round[side])).sum()
    };
    let requests = [0, 1].map(|side| sum(side, Round::all));
    let failed = [0, 1].map(|side| sum(side, |round| round.failed));
    let errors = compare_shares((failed[0], requests[0]), (failed[1], requests[1]));
    // A round in which one of them was not asked says nothing.
    let was_asked = |pair: &&[Round; 2]| pair.iter().all(|one| !one.latencies.is_empty());
    let asked = || rounds.iter().filter(was_asked);
    let figures: Vec<Line> = FIGURES.iter().map(|figure| figure.line(asked())).collect();
    let (result, verdict) = result(errors, &figures[JUDGED_BY]);
    let share = |side: usize| failed[side] as f64 / requests[side].max(1) as f64;
    Outcome {
        route,
        a,
        b,
        rounds: rounds.len(),
        seconds: rounds.iter().map(|round| round[0].seconds).sum(),
        requests,
        error_rates: [share(0), share(1)],
        errors,
        errors_verdict: errors.map_or_else(
            || "cannot be compared: one of them was not asked".to_owned(),
            |errors| errors.verdict("fails less", "fails more"),
        ),
        figures,
        result,
        verdict,
    }
}

/// Failures weigh more than time.
fn result(errors: Option<Shares>, time: &Line) -> (&'static str, String) {
    if let Some(errors) = errors.filter(Shares::shows_a_difference) {
        let result = if errors.difference > 0.0 { "worse" } else { "better" };
        return (result, errors.verdict("fails less", "fails more"));
    }
    match time.comparison {
        Some(comparison) if comparison.shows_a_difference() => {
            let result = if comparison.ratio > 1.0 { "worse" } else { "better" };
            (result, format!("by mean latency: {}", time.verdict))
        }
        Some(_) => ("alike", format!("by errors and mean latency: {}", time.verdict)),
        None => {
            let cure = "both arms have to be asked in at least three rounds; take longer ones";
            ("unknown", format!("cannot be compared: {cure}"))
        }
    }
}

fn table(outcome: &Outcome) -> String {
    let Outcome { route, a, b, rounds, seconds, requests, error_rates, .. } = outcome;
    // Writing to a String does not fail. Names are quoted: no line of theirs is one of ours.
    let mut text =
        format!("route {route:?}, {rounds} rounds, {seconds:.1} s\nA: {a:?}\nB: {b:?}\n");
    let _ = writeln!(text, "{:<20} A {:>10}  B {:>10}", "requests", requests[0], requests[1]);
    let [first, second] = error_rates.map(|share| format!("{:.2} %", share * 100.0));
    let verdict = &outcome.errors_verdict;
    let _ = writeln!(text, "{:<20} A {first:>10}  B {second:>10}  {verdict}", "errors");
    for Line { figure, a, b, verdict, .. } in &outcome.figures {
        let _ = writeln!(text, "{figure:<20} A {a:>10.2}  B {b:>10.2}  {verdict}");
    }
    let _ = writeln!(text, "{}: {}", outcome.result, outcome.verdict);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(of: impl Fn(usize) -> [(u64, u64, u64); 2]) -> Vec<[Round; 2]> {
        let round = |(answered, failed, us): (u64, u64, u64)| {
            let mut latencies = Histogram::new(3).unwrap();
            latencies.record_n(us, answered).unwrap();
            let sum_us = us * answered;
            Round { seconds: 1.0, answered, unanswered: 0, failed, sum_us, latencies }
        };
        (0..10).map(|index| of(index).map(round)).collect()
    }

    fn judged(rounds: &[[Round; 2]]) -> Outcome {
        judge("*/".to_owned(), ["stable", "canary"].map(str::to_owned), rounds)
    }

    #[test]
    fn an_arm_that_fails_more_is_worse_however_fast_it_is() {
        let outcome = judged(&rounds(|_| [(900, 0, 4_000), (100, 5, 1_000)]));
        assert_eq!(outcome.result, "worse");
        assert_eq!(outcome.requests, [9_000, 1_000]);
        assert!(
            outcome.verdict.starts_with("B fails more than A: +5.00 points"),
            "{}",
            outcome.verdict
        );
        assert_eq!(outcome.figures[JUDGED_BY].verdict, "B is 75.0 % ± 0.0 % sooner than A");
    }

    #[test]
    fn an_arm_is_judged_by_its_time_where_it_fails_alike() {
        let slower = |index: usize| {
            let us = 1_000 + 10 * index as u64;
            [(90, 1, us), (10, 0, us + us / 5 + index as u64)]
        };
        assert_eq!(judged(&rounds(slower)).result, "worse");
        let alike = |index: usize| [(90, 0, 1_000 + index as u64), (10, 0, 1_009 - index as u64)];
        assert_eq!(judged(&rounds(alike)).result, "alike");
    }

    #[test]
    fn what_was_not_asked_is_not_judged() {
        let outcome = judged(&rounds(|index| [(90, 0, 1_000), (u64::from(index < 2), 0, 1_000)]));
        assert_eq!(outcome.result, "unknown");
        assert!(table(&outcome).contains("cannot be compared"));
    }

    #[test]
    fn a_round_holds_what_has_come_since_the_last() {
        let counts = |at_us, ok: u64, failed: u64, latencies: Vec<(u64, u64)>| {
            let classes = [("2xx", ok), ("5xx", failed), ("none", 0)];
            let classes = classes.map(|(class, count)| (class.to_owned(), count)).into();
            let sum_us = latencies.iter().map(|(us, count)| us * count).sum();
            let arm = Arm { upstream: "a".to_owned(), classes, sum_us, latencies };
            Counts { route: "*/".to_owned(), generation: 1, at_us, arms: vec![arm] }
        };
        let before = counts(0, 5, 0, vec![(100, 5)]);
        let now = counts(2_000_000, 8, 1, vec![(100, 6), (900, 3)]);
        let found = round(&before, &now, "a").unwrap();
        assert_eq!((found.answered, found.failed, found.sum_us), (4, 1, 2_800));
        assert_eq!(found.latencies.len(), 4);
        assert!(round(&before, &now, "b").is_none());
    }

    #[test]
    fn a_name_cannot_write_a_line_of_the_table() {
        let hostile = "a\nbetter: \u{1b}[31m".to_owned();
        let text = table(&judge(hostile.clone(), [hostile.clone(), hostile], &[]));
        assert!(!text.contains('\u{1b}') && !text.contains("\nbetter: \\u"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("better")).count(), 0, "{text}");
    }
}
