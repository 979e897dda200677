//! The regression gate: instructions of the pure parts, counted by callgrind, beside figures that
//! are committed.
//!
//! `cargo bench --bench gate` compares, `-- --update` writes `benches/gate/figures.toml` anew.
//! Instructions do not depend on how busy a machine is, so this cannot fail by chance: a case is
//! run often and twice as often, and the difference leaves start-up out. They do depend on the
//! compiler and on whether memchr and httparse find AVX2; where either differs from what the
//! figures were taken with, the tolerance is wide and only growth counts. Without valgrind, or on
//! another architecture, it says so and judges nothing.

#[path = "../cases/mod.rs"]
mod cases;
// Cargo sets cfg(test) for benches without running tests: `tests/crowds` does that.
#[allow(unused_imports, dead_code, reason = "the unit tests are compiled and not run here")]
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::{env, fs};

use serde::{Deserialize, Serialize};

use verdict::{Tolerance, judge};

/// Repetitions of the shorter of two runs.
const REPETITIONS: u64 = 200;

/// What the cases cost, and what they were counted with.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Figures {
    rustc: String,
    has_avx2: bool,
    valgrind: String,
    /// Instructions per repetition.
    instructions: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let Some(place) = arguments.iter().position(|word| word == "--repeat") {
        return repeat(&arguments[place + 1..]);
    }
    match gate(arguments.iter().any(|word| word == "--update")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What callgrind watches: `--repeat NAME COUNT`.
fn repeat(arguments: &[String]) -> ExitCode {
    let [name, count, ..] = arguments else { return ExitCode::FAILURE };
    let found = cases::all().into_iter().find(|case| case.name == name.as_str());
    let (Some(mut case), Ok(count)) = (found, count.parse::<u64>()) else {
        return ExitCode::FAILURE;
    };
    for _ in 0..count {
        (case.work)();
    }
    ExitCode::SUCCESS
}

fn gate(is_update: bool) -> Result<(), String> {
    if cfg!(debug_assertions) || !cfg!(target_arch = "x86_64") {
        eprintln!("gate: skipped: the figures are of an optimised build for x86-64");
        return Ok(());
    }
    let Ok(valgrind) = version_of("valgrind") else {
        eprintln!("gate: skipped: valgrind is not installed");
        return Ok(());
    };
    let now = Figures {
        rustc: version_of("rustc")?,
        has_avx2: has_avx2(),
        valgrind,
        instructions: count_all()?,
    };
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/gate/figures.toml");
    if is_update {
        let text = toml::to_string(&now).map_err(|error| error.to_string())?;
        let head =
            "# Instructions per repetition. Written by `cargo bench --bench gate -- --update`.\n";
        return fs::write(&path, format!("{head}{text}"))
            .map_err(|error| format!("{}: {error}", path.display()));
    }
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let before: Figures = toml::from_str(&text).map_err(|error| error.to_string())?;
    compare(&before, &now)
}

fn compare(before: &Figures, now: &Figures) -> Result<(), String> {
    let tolerance = if before.rustc == now.rustc && before.has_avx2 == now.has_avx2 {
        Tolerance::Same
    } else {
        eprintln!(
            "gate: the figures are of {} (AVX2: {}), this is {} (AVX2: {}): only growth above \
             {} % counts",
            before.rustc,
            before.has_avx2,
            now.rustc,
            now.has_avx2,
            Tolerance::Other.percent()
        );
        Tolerance::Other
    };
    let mut failures = Vec::new();
    let names = before.instructions.keys().chain(now.instructions.keys());
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let (old, new) = (before.instructions.get(name), now.instructions.get(name));
        let verdict = judge(old.copied(), new.copied(), tolerance);
        let figure = |count: Option<&u64>| count.map_or("-".to_owned(), u64::to_string);
        eprintln!("{name:24} {:>9} {:>9}  {verdict}", figure(old), figure(new));
        if verdict.is_failure() {
            failures.push(name.as_str());
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}: more, or fewer, instructions than benches/gate/figures.toml says. If that is meant, \
         run `cargo bench --bench gate -- --update` and commit the figures",
        failures.join(", ")
    ))
}

fn count_all() -> Result<BTreeMap<String, u64>, String> {
    let mut counts = BTreeMap::new();
    for case in cases::all() {
        let short = count(case.name, REPETITIONS)?;
        let long = count(case.name, 2 * REPETITIONS)?;
        let each = long.saturating_sub(short) / REPETITIONS;
        counts.insert(case.name.to_owned(), each);
    }
    Ok(counts)
}

/// All instructions of a process that repeats a case.
fn count(name: &str, repetitions: u64) -> Result<u64, String> {
    let own = env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(own);
    command.args(["--repeat", name, &repetitions.to_string()]);
    let output = command.output().map_err(|error| format!("valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = verdict::collected(&text);
    collected.filter(|_| output.status.success()).ok_or_else(|| format!("{name}: {text}"))
}

fn version_of(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}
