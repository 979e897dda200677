//! The comparison: peers, scenarios, rounds.
//!
//! In: options. Out: summaries, and the reports that are made of them. Every scenario starts its
//! proxies afresh, all pinned to one core, with load and origin on another; then they take turns,
//! each round in another order, so that whatever disturbs the machine disturbs all of them.
#![allow(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]

mod certificates;
mod counters;
mod h2load;
mod load;
mod options;
mod peers;
mod plot;
mod process;
mod report;
mod scenarios;
mod statistics;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use counters::Counters;
use load::{Load, Request};
use peers::{Origin, Peer, Running};
use process::Cores;
use scenarios::{Measure, Scenario};
use statistics::{Summary, rotation, summarise};

pub(crate) use options::Options;

/// What is measured, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    CpuUs,
    UserUs,
    SystemUs,
    InstructionsUser,
    InstructionsKernel,
    CyclesUser,
    CyclesKernel,
    RequestsPerSecond,
    MbPerSecond,
    OfferedPerSecond,
    P50Us,
    P99Us,
    P999Us,
    Switches,
    PeakBytes,
    HeldBytes,
    ErrorRate,
}

/// One run of one peer.
pub(crate) type Sample = BTreeMap<Metric, f64>;

/// What a peer did in a scenario.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) peer: &'static str,
    pub(crate) metrics: BTreeMap<Metric, Summary>,
    /// Runs that failed, and the first reason.
    pub(crate) failures: usize,
    pub(crate) reason: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: &'static Scenario,
    /// Whom the ratios refer to.
    pub(crate) reference: Option<&'static str>,
    pub(crate) rows: Vec<Row>,
}

/// Everything that a report says.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) machine: report::Machine,
    pub(crate) rounds: usize,
    /// Of a run that has no length of its own.
    pub(crate) seconds: f64,
    pub(crate) peers: Vec<(&'static str, String)>,
    pub(crate) absent: Vec<&'static str>,
    pub(crate) outcomes: Vec<Outcome>,
}

/// What all scenarios share.
struct Bench<'o> {
    options: &'o Options,
    cores: Cores,
    load: Load,
    origin: Origin,
    has_counters: bool,
    /// When no further round begins.
    deadline: Option<Instant>,
}

pub(crate) fn run(options: &Options) -> Result<Results, String> {
    let began = Instant::now();
    let chosen = options.chosen_scenarios()?;
    let (peers, absent) = peers::find(options)?;
    for name in &absent {
        eprintln!("compare: {name} is not installed: left out");
    }
    process::raise_open_files();
    let cores = Cores::of_machine()?;
    let origin = Origin::start(cores, options)?;
    let load = Load::new(options.load_program(), cores.load, options.patience());
    let has_counters = Counters::are_available();
    if !has_counters {
        eprintln!("compare: instructions: not available on this machine");
    }
    let machine = report::Machine::read(has_counters, &origin);
    let deadline = options.limit().map(|limit| began + limit);
    let bench = Bench { options, cores, load, origin, has_counters, deadline };
    let runs: usize = chosen.iter().map(|scenario| scenario.peers_of(&peers).count()).sum();
    let seconds = options.seconds_each(runs);
    let mut outcomes = Vec::new();
    for (done, scenario) in chosen.iter().enumerate() {
        if bench.is_late() {
            eprintln!("compare: no time is left for {}", scenario.name);
            continue;
        }
        eprintln!("compare: {} ({} of {})", scenario.name, done + 1, chosen.len());
        let outcome = bench.scenario(scenario, &peers, seconds)?;
        report::print(&outcome);
        outcomes.push(outcome);
    }
    let versions = peers.iter().map(|peer| (peer.name, peer.version())).collect();
    let results =
        Results { machine, rounds: options.rounds(), seconds, peers: versions, absent, outcomes };
    write(options, &results)?;
    eprintln!("compare: {} s in all", began.elapsed().as_secs());
    Ok(results)
}

fn write(options: &Options, results: &Results) -> Result<(), String> {
    let folder = options.out_folder();
    let named = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(named)?;
    let picture = plot::draw(results)?;
    fs::write(folder.join("results.json"), report::json(results)).map_err(named)?;
    fs::write(folder.join("results.md"), report::markdown(results)).map_err(named)?;
    fs::write(folder.join("results.svg"), &picture).map_err(named)?;
    eprintln!("compare: the reports are in {}", folder.display());
    if options.record {
        let benches = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches");
        let file = benches.join("RESULTS.md");
        let before = fs::read_to_string(&file).unwrap_or_default();
        let text = report::markdown(results) + report::written_by_hand(&before);
        fs::write(file, text).map_err(named)?;
        fs::write(benches.join("results.svg"), &picture).map_err(named)?;
    }
    Ok(())
}

impl Bench<'_> {
    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }

    fn scenario(
        &self,
        scenario: &'static Scenario,
        peers: &[Peer],
        seconds: f64,
    ) -> Result<Outcome, String> {
        let peers: Vec<_> = scenario.peers_of(peers).collect();
        let reference = scenario.reference(&peers);
        let mut samples: Vec<Vec<Option<Sample>>> = vec![Vec::new(); peers.len()];
        let mut reasons: Vec<Option<String>> = vec![None; peers.len()];
        let mut running: Vec<Option<Standing>> = Vec::new();
        for peer in &peers {
            let is_kept = !scenario.is_fresh();
            running.push(if is_kept { Some(self.stand(peer, scenario)?) } else { None });
        }
        for round in 0..self.options.rounds() {
            if round > 0 && self.is_late() {
                eprintln!("compare: no time is left for more than {round} rounds");
                break;
            }
            for index in rotation(round, peers.len()) {
                let run = match &running[index] {
                    Some(standing) => self.measure(standing, scenario, seconds),
                    // Memory that a round has left behind would hide what the next one takes.
                    None => self
                        .stand(peers[index], scenario)
                        .and_then(|standing| self.measure(&standing, scenario, seconds)),
                };
                let sample = run.map_err(|reason| {
                    eprintln!("compare: {} {}: {reason}", scenario.name, peers[index].name);
                    reasons[index].get_or_insert(reason);
                });
                samples[index].push(sample.ok());
            }
        }
        let base = reference.and_then(|name| peers.iter().position(|peer| peer.name == name));
        let rows = peers.iter().zip(reasons).enumerate().map(|(index, (peer, reason))| Row {
            peer: peer.name,
            metrics: summarise(&samples[index], base.map(|base| samples[base].as_slice())),
            failures: samples[index].iter().filter(|sample| sample.is_none()).count(),
            reason,
        });
        Ok(Outcome { scenario, reference, rows: rows.collect() })
    }

    /// Starts a peer and lets it have its first requests.
    fn stand(&self, peer: &Peer, scenario: &Scenario) -> Result<Standing, String> {
        let running = peer.start(self.cores, &self.origin, scenario.key())?;
        let mut request = self.request(&running, scenario);
        request.connections = request.connections.min(64);
        let capacity = match scenario.measure {
            Measure::Open(_) => {
                request.seconds = Some(self.options.capacity_seconds());
                Some(self.load.run(&request)?.requests_per_second)
            }
            Measure::Load | Measure::Idle | Measure::Slow => {
                let count = if scenario.is_bulk() { 1 } else { 200 };
                (request.seconds, request.requests) = (None, Some(count));
                (request.is_idle, request.slow_bytes) = (false, None);
                request.connections = request.connections.min(8);
                self.load.run(&request)?;
                None
            }
        };
        Ok(Standing { running, capacity })
    }

    fn request(&self, running: &Running, scenario: &Scenario) -> Request {
        let connections = scenario.connections_of(self.options);
        Request {
            maker: scenario.maker,
            url: scenario.url(running, &self.origin),
            via: scenario.is_forward().then(|| format!("http://{}", running.address())),
            connections,
            flags: scenario.flags,
            is_idle: scenario.measure == Measure::Idle,
            slow_bytes: (scenario.measure == Measure::Slow).then_some(scenarios::SLOW_BYTES),
            ..Request::default()
        }
    }

    fn measure(
        &self,
        standing: &Standing,
        scenario: &Scenario,
        seconds: f64,
    ) -> Result<Sample, String> {
        let running = &standing.running;
        let before_bytes = process::resident_bytes(running.pid());
        let mut request = self.request(running, scenario);
        request.pid = Some(running.pid());
        (request.seconds, request.requests) = scenario.amount(self.options, seconds);
        if let (Measure::Open(share), Some(capacity)) = (scenario.measure, standing.capacity) {
            request.rate = Some((capacity * share).max(1.0).round());
        }
        let counters = self.has_counters.then(|| Counters::start(running.pid())).transpose()?;
        let answer = self.load.run(&request)?;
        let counted = counters.map(Counters::stop).transpose()?.unwrap_or_default();
        let mut sample = answer.sample(scenario.measure)?;
        for (metric, count) in counted {
            sample.insert(metric, count / answer.requests.max(1) as f64);
        }
        if scenario.is_fresh() {
            let now_bytes = answer.held_bytes(scenario.measure);
            let more = now_bytes.saturating_sub(before_bytes) as f64;
            sample.insert(Metric::HeldBytes, more / f64::from(request.connections));
        }
        if let Some(rate) = request.rate {
            sample.insert(Metric::OfferedPerSecond, rate);
        }
        Ok(sample)
    }
}

/// A peer that runs, and what it can do at most where that was asked.
struct Standing {
    running: Running,
    capacity: Option<f64>,
}
