//! `ringway bench --ab`: two configurations, or two executables, in turns.
//!
//! In come two sides; out come, for each figure, the ratio of B to A with its confidence interval,
//! and a sentence. Both proxies run all the time and have their turns in the order A B, B A, so
//! that what drifts hits both. The figure that counts is processor time per request of the proxy:
//! it is the least noisy on a machine that does other things too. The proxies listen on loopback
//! only, on ports that were free, and are stopped at the end.

use std::fmt::Write as _;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use super::options::BenchFlags;
use super::report::Report;
use crate::cli::bench::crew::measure;
use crate::cli::bench::refusal::{Refusal, say};
use crate::cli::statistics::{Figure, Line, ROUNDS_MIN};
use crate::config::Flags;
use crate::server::demo;

/// A turn, where nothing else is said.
const TURN: Duration = Duration::from_secs(5);

/// Before each turn: connections open, caches fill.
const WARMUP: Duration = Duration::from_millis(500);

/// For a proxy to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(20);

/// What a proxy that does not start has to say.
const COMPLAINT_BYTES_MAX: u64 = 64 * 1024;

const FIGURES: [Figure<Report>; 3] = [
    Figure {
        name: "cpu_us_per_request",
        less: "cheaper",
        more: "dearer",
        of: |report| report.target.as_ref().map_or(0.0, |target| target.cpu_us_per_request),
    },
    Figure {
        name: "requests_per_second",
        less: "slower",
        more: "faster",
        of: |report| report.requests_per_second,
    },
    Figure { name: "p99_us", less: "sooner", more: "later", of: |report| report.latency_us.p99 },
];

/// The whole comparison.
#[derive(Serialize)]
struct Outcome {
    a: String,
    b: String,
    path: String,
    /// `None`: turns end with their requests.
    seconds_per_turn: Option<f64>,
    rounds: u32,
    verdict: String,
    figures: Vec<Line>,
    /// Errors of each side in all rounds.
    errors_a: u64,
    errors_b: u64,
}

/// Carries the comparison out and prints it.
pub(super) fn main(flags: &BenchFlags, global: &Flags) -> Result<ExitCode, Refusal> {
    if flags.rounds < ROUNDS_MIN {
        let text = format!("--rounds {}: at least {ROUNDS_MIN} make an interval", flags.rounds);
        return Err(Refusal::usage(text));
    }
    let path = path(flags).map_err(Refusal::usage)?;
    let binaries = binaries(flags).map_err(Refusal::usage)?;
    let origin = origin(flags, global).map_err(Refusal::trouble)?;
    let start = |side: usize| {
        Side::start(&binaries[side], &flags.ab[side], origin.as_deref(), global)
            .map_err(Refusal::trouble)
    };
    let sides = [start(0)?, start(1)?];
    let rounds = run(flags, &sides, &path)?;
    let [a, b] = [0, 1].map(|side| flags.ab[side].display().to_string());
    let errors = |side: usize| rounds.iter().map(|round| round[side].errors.total()).sum();
    let figures: Vec<Line> = FIGURES.iter().map(|figure| figure.line(&rounds)).collect();
    let outcome = Outcome {
        a,
        b,
        path,
        seconds_per_turn: turn_time(flags).map(|time| time.as_secs_f64()),
        rounds: flags.rounds,
        verdict: figures.first().map(|line| line.verdict.clone()).unwrap_or_default(),
        errors_a: errors(0),
        errors_b: errors(1),
        figures,
    };
    let json = || serde_json::to_string(&outcome).unwrap_or_default();
    say(&if flags.json { json() } else { table(&outcome) });
    Ok(ExitCode::SUCCESS)
}

/// What to ask for: a path, or the path of a URL whose host does not matter.
fn path(flags: &BenchFlags) -> Result<String, String> {
    let text = flags.url.as_deref().unwrap_or("/");
    let path = match text.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => text,
    };
    let is_path = path.starts_with('/');
    is_path.then(|| path.to_owned()).ok_or_else(|| format!("{text}: expected a path such as /a"))
}

fn binaries(flags: &BenchFlags) -> Result<[PathBuf; 2], String> {
    match flags.binary.as_slice() {
        [] => {
            let own = std::env::current_exe().map_err(|error| format!("--ab: {error}"))?;
            Ok([own.clone(), own])
        }
        [both] => Ok([both.clone(), both.clone()]),
        [a, b] => Ok([a.clone(), b.clone()]),
        more => Err(format!("--binary is given {} times: once or twice", more.len())),
    }
}

/// The origin that both proxies have, unless each has its own. The built-in one runs in this
/// process, so that its costs are counted for neither.
fn origin(flags: &BenchFlags, global: &Flags) -> Result<Option<String>, String> {
    if flags.own_upstreams || !global.upstream.is_empty() {
        return Ok(None);
    }
    let address = demo::start().map_err(|error| format!("the built-in origin: {error}"))?;
    Ok(Some(format!("http://{address}")))
}

/// How long a turn is; `None` where it ends with its requests.
fn turn_time(flags: &BenchFlags) -> Option<Duration> {
    flags.duration.or(flags.requests.is_none().then_some(TURN))
}

/// All turns; each round has the report of A and then that of B, whichever had the first turn.
fn run(flags: &BenchFlags, sides: &[Side; 2], path: &str) -> Result<Vec<[Report; 2]>, Refusal> {
    let turn = |side: &Side| {
        let flags = BenchFlags {
            duration: turn_time(flags),
            warmup: Some(flags.warmup.unwrap_or(WARMUP)),
            pid: Some(side.child.id()),
            quiet: true,
            ..flags.clone()
        };
        let url = format!("http://{}{path}", side.address);
        let plan = flags.plan(&url).map_err(Refusal::usage)?;
        let (report, _) = measure(&plan).map_err(Refusal::trouble)?;
        if report.requests == 0 {
            let text = format!("{}: not one request was answered\n{report}", side.name);
            return Err(Refusal::trouble(text));
        }
        Ok(report)
    };
    let mut rounds = Vec::new();
    for round in 0..flags.rounds {
        let pair = if round % 2 == 0 {
            let a = turn(&sides[0])?;
            [a, turn(&sides[1])?]
        } else {
            let b = turn(&sides[1])?;
            [turn(&sides[0])?, b]
        };
        if !flags.quiet && !flags.json {
            let cpu = pair.each_ref().map(|report| (FIGURES[0].of)(report));
            say(&format!("round {:>3}: A {:.2} us, B {:.2} us", round + 1, cpu[0], cpu[1]));
        }
        rounds.push(pair);
    }
    Ok(rounds)
}

fn table(outcome: &Outcome) -> String {
    let Outcome { a, b, path, rounds, .. } = outcome;
    let length = outcome.seconds_per_turn.map(|seconds| format!(", {seconds} s per turn"));
    let length = length.unwrap_or_default();
    let mut text = format!("A: {a}\nB: {b}\n{path}, {rounds} rounds{length}\n");
    for line in &outcome.figures {
        let Line { figure, a, b, verdict, .. } = line;
        let _ = writeln!(text, "{figure:<20} A {a:>10.2}  B {b:>10.2}  {verdict}");
    }
    let (errors_a, errors_b) = (outcome.errors_a, outcome.errors_b);
    if errors_a + errors_b > 0 {
        let _ = writeln!(text, "errors               A {errors_a:>10}  B {errors_b:>10}");
    }
    let _ = writeln!(text, "by processor time per request: {}", outcome.verdict);
    text
}

/// A proxy that runs. Dropping it ends it.
struct Side {
    name: String,
    child: Child,
    address: SocketAddr,
}

impl Side {
    fn start(
        binary: &Path,
        config: &Path,
        origin: Option<&str>,
        global: &Flags,
    ) -> Result<Self, String> {
        let name = config.display().to_string();
        let explain = |error: std::io::Error| format!("{}: {error}", binary.display());
        let address = free_port().map_err(explain)?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(config).args(["--host", "127.0.0.1", "--port"]);
        command.arg(address.port().to_string());
        // Beside the listener that is measured, two of the same file would be in each other's way.
        for set in ["server.listen=[]", "admin.address=\"127.0.0.1:0\""] {
            command.args(["--set", set]);
        }
        for set in &global.set {
            command.args(["--set", set]);
        }
        for upstream in origin.into_iter().chain(global.upstream.iter().map(String::as_str)) {
            command.args(["--upstream", upstream]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(explain)?;
        let mut side = Self { name, child, address };
        side.wait_until_it_listens()?;
        Ok(side)
    }

    fn wait_until_it_listens(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect_timeout(&self.address, PATIENCE).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                let complaint = self.complaint();
                return Err(format!("{}: {status}\n{complaint}", self.name));
            }
            if Instant::now() >= deadline {
                return Err(format!("{}: does not listen on {}", self.name, self.address));
            }
            thread::park_timeout(POLL);
        }
        // It may say more later, which must not fill a pipe that is not read.
        if let Some(mut stderr) = self.child.stderr.take() {
            thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        }
        Ok(())
    }

    fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(COMPLAINT_BYTES_MAX).read_to_string(&mut text);
        }
        text.trim_end().to_owned()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::park_timeout(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free port, which no other process is likely to take before it is used.
fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
