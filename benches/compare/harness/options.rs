//! The flags, and how long everything takes.
//!
//! In: the command line. Out: which peers and scenarios, how many rounds, how many seconds for each
//! run. Starts nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::peers;
use super::scenarios::{SCENARIOS, Scenario};

/// Compares ringway with other proxies: CPU, rates, latencies and memory.
#[derive(Debug, Default, Parser)]
#[command(name = "compare")]
#[expect(clippy::struct_excessive_bools, reason = "flags are")]
pub(crate) struct Options {
    /// Only these, such as nginx,haproxy; ringway is always there [default: all that are installed]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) peers: Vec<String>,
    /// Only these, such as small-64,connect-bulk [default: all but soak]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) scenarios: Vec<String>,
    /// Runs of each peer in each scenario [default: 5, and 1 with --quick]
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// Seconds for each run, however long all of it takes
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Less than three minutes in all
    #[arg(long)]
    pub(crate) quick: bool,
    /// Does everything work? The figures mean nothing.
    #[arg(long)]
    pub(crate) smoke: bool,
    /// Writes benches/RESULTS.md and its picture as well
    #[arg(long)]
    pub(crate) record: bool,
    /// Where the reports go [default: target/compare]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// The ringway to compare [default: the one built with this]
    #[arg(long, value_name = "FILE")]
    pub(crate) ringway: Option<PathBuf>,
    /// The ringway whose `bench` makes the load [default: the one built with this]
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Option<PathBuf>,
    /// Says so for `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the floor: listen here, relay there.
    #[arg(long, hide = true, num_args = 2)]
    pub(crate) run_floor: Option<Vec<SocketAddr>>,
    /// The program that understands `--run-floor`.
    #[arg(skip)]
    pub(crate) floor: Option<PathBuf>,
}

/// What starting, warming up and reading cost each run, in seconds, on a slow machine.
const OVERHEAD_SECONDS: f64 = 1.1;

/// Whether the program that makes its load is here; says so where it is not.
fn has_its_load(scenario: &Scenario) -> bool {
    let absent = scenario.needs().filter(|program| peers::installed(program).is_none());
    if let Some(program) = absent {
        eprintln!("compare: {program} is not installed: {} is left out", scenario.name);
    }
    absent.is_none()
}

impl Options {
    pub(crate) fn chosen_scenarios(&self) -> Result<Vec<&'static Scenario>, String> {
        if self.scenarios.is_empty() {
            let usual = SCENARIOS.iter().filter(|scenario| !scenario.is_extra);
            return Ok(usual.filter(|scenario| has_its_load(scenario)).collect());
        }
        let names =
            || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
        let find = |name: &String| {
            let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
            found.ok_or_else(|| format!("no scenario {name}: there are {}", names()))
        };
        self.scenarios.iter().map(find).collect()
    }

    pub(crate) fn is_short(&self) -> bool {
        self.quick || self.smoke
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.is_short() { 1 } else { 5 }).max(1)
    }

    /// What all runs together may take.
    fn budget_seconds(&self) -> f64 {
        if self.quick { 150.0 } else { 22.0 * 60.0 }
    }

    /// After this no further round begins, however slow the runs turn out to be. `None` where the
    /// length was chosen by hand.
    pub(crate) fn limit(&self) -> Option<Duration> {
        let is_chosen = self.seconds.is_some() || !self.scenarios.is_empty();
        (!is_chosen).then(|| Duration::from_secs_f64(self.budget_seconds() + 15.0))
    }

    /// How long a run may take beyond what it was told to.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(if self.quick { 10 } else { 60 })
    }

    /// `runs` are those of one round.
    pub(crate) fn seconds_each(&self, runs: usize) -> f64 {
        if let Some(seconds) = self.seconds {
            return seconds.max(0.1);
        }
        if self.smoke {
            return 0.2;
        }
        let count = (runs * self.rounds()).max(1) as f64;
        (self.budget_seconds() / count - OVERHEAD_SECONDS).clamp(0.3, 4.0)
    }

    pub(crate) fn capacity_seconds(&self) -> f64 {
        if self.is_short() { 0.3 } else { 2.0 }
    }

    pub(crate) fn load_program(&self) -> PathBuf {
        self.load.clone().unwrap_or_else(own)
    }

    pub(crate) fn ringway_program(&self) -> PathBuf {
        self.ringway.clone().unwrap_or_else(own)
    }

    pub(crate) fn out_folder(&self) -> PathBuf {
        let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/compare");
        self.out.clone().unwrap_or_else(default)
    }
}

fn own() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ringway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &[&str]) -> Options {
        Options::parse_from(std::iter::once("compare").chain(line.iter().copied()))
    }

    #[test]
    fn what_cargo_adds_is_understood() {
        let options = options(&["--quick", "--peers", "nginx,squid", "--bench"]);
        assert_eq!((options.peers.len(), options.rounds()), (2, 1));
    }

    #[test]
    fn all_runs_together_fit_their_budget() {
        for (line, budget) in [(&[][..], 25.0 * 60.0), (&["--quick"], 180.0)] {
            let options = options(line);
            for runs in [1, 10, 60, 100] {
                let each = options.seconds_each(runs) + OVERHEAD_SECONDS;
                let all = each * (runs * options.rounds()) as f64;
                assert!(all <= budget, "{line:?}, {runs} runs: {all} s");
            }
        }
    }

    #[test]
    fn an_unknown_scenario_is_an_error_that_lists_them() {
        let error = options(&["--scenarios", "smal"]).chosen_scenarios().unwrap_err();
        assert!(error.contains("no scenario smal") && error.contains("small-64"), "{error}");
    }

    #[test]
    fn the_soak_runs_only_where_it_is_named() {
        let is_soak = |scenario: &&'static Scenario| scenario.name == "soak";
        assert!(!options(&[]).chosen_scenarios().unwrap().iter().any(is_soak));
        let named = options(&["--scenarios", "soak"]).chosen_scenarios().unwrap();
        assert!(named.iter().all(is_soak));
    }
}
