//! The load: `ringway bench`, run once, or where a scenario wants another opinion, h2load.
//!
//! In: what to ask for. Out: what it says in JSON, as a sample. Measures nothing itself.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::scenarios::{Maker, Measure};
use super::{Metric, Sample, h2load};

/// A program that makes load, and the core it has.
pub(crate) struct Load {
    program: PathBuf,
    core: usize,
    /// Beyond what a run was told to take.
    patience: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) maker: Maker,
    pub(crate) url: String,
    pub(crate) via: Option<String>,
    pub(crate) connections: u32,
    pub(crate) flags: &'static [&'static str],
    pub(crate) seconds: Option<f64>,
    pub(crate) requests: Option<u32>,
    pub(crate) rate: Option<f64>,
    pub(crate) is_idle: bool,
    pub(crate) slow_bytes: Option<u32>,
    /// Whose CPU and memory are read.
    pub(crate) pid: Option<u32>,
}

/// The part of the JSON that is used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(super) mb_per_second: f64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) seconds: f64,
    pub(super) error_rate: f64,
    pub(super) status: Status,
    pub(super) latency_us: Latency,
    pub(super) target: Option<Target>,
    pub(super) idle: Option<Idle>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Status {
    #[serde(rename = "2xx")]
    pub(super) ok: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Target {
    pub(super) user_us: f64,
    pub(super) system_us: f64,
    pub(super) cpu_us: f64,
    pub(super) peak_rss_bytes: u64,
    pub(super) rss_bytes: u64,
    pub(super) voluntary_switches: u64,
    pub(super) involuntary_switches: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Idle {
    lost: u64,
}

impl Load {
    pub(crate) fn new(program: PathBuf, core: usize, patience: Duration) -> Self {
        Self { program, core, patience }
    }

    pub(crate) fn run(&self, request: &Request) -> Result<Answer, String> {
        let limit = self.patience + Duration::from_secs_f64(request.seconds.unwrap_or(0.0));
        if request.maker == Maker::H2load {
            return h2load::run(request, self.core, |command| end_of(command, limit));
        }
        let mut command = Command::new(&self.program);
        command.args(arguments(request, self.core));
        let output = end_of(command, limit)?;
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("ringway bench gave no result ({error}): {}", said.trim())
        })
    }
}

fn arguments(request: &Request, core: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    add("bench", request.url.clone());
    add("--connections", request.connections.to_string());
    add("--cpu", core.to_string());
    // There has been a warm-up, and counters read from outside must fit the requests.
    add("--warmup", "0s".to_owned());
    add("--timeout", "30s".to_owned());
    let number = |value: u32| value.to_string();
    for (flag, value) in [
        ("--duration", request.seconds.map(|seconds| format!("{}ms", (seconds * 1e3).round()))),
        ("--requests", request.requests.map(number)),
        ("--rate", request.rate.map(|rate| rate.to_string())),
        ("--via", request.via.clone()),
        ("--slow-read", request.slow_bytes.map(number)),
        ("--pid", request.pid.map(number)),
    ] {
        if let Some(value) = value {
            add(flag, value);
        }
    }
    words.extend(request.is_idle.then(|| "--idle".to_owned()));
    words.extend(request.flags.iter().map(|flag| (*flag).to_owned()));
    words.extend(["--json", "--quiet"].map(str::to_owned));
    words
}

/// Runs it; what it has said.
fn end_of(mut command: Command, limit: Duration) -> Result<Output, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    let child = child.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    wait(child, limit)
}

/// A run that hangs must not hang the comparison.
fn wait(mut child: Child, limit: Duration) -> Result<Output, String> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            // What it writes fits a pipe, so it cannot wait for us to read.
            Ok(Some(_)) => return child.wait_with_output().map_err(|error| error.to_string()),
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("the load did not end within {limit:?}"));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

impl Answer {
    pub(crate) fn sample(&self, measure: Measure) -> Result<Sample, String> {
        let has_happened = match measure {
            // An answer may take longer than the run; its bytes must have come.
            Measure::Slow => self.bytes_read > 0,
            Measure::Idle => self.idle.is_some(),
            Measure::Load | Measure::Open(_) => self.requests > 0,
        };
        if !has_happened {
            return Err(format!("no request was answered (errors: {:.3})", self.error_rate));
        }
        if self.status.ok < self.requests {
            return Err(format!(
                "{} answers of {} were no success",
                self.requests - self.status.ok,
                self.requests
            ));
        }
        if let Some(Idle { lost }) = self.idle
            && lost > 0
        {
            return Err(format!("{lost} idle connections were lost"));
        }
        let written_mb = self.bytes_written as f64 / 1e6 / self.seconds.max(1e-9);
        let mut sample = Sample::from([
            (Metric::RequestsPerSecond, self.requests_per_second),
            (Metric::MbPerSecond, self.mb_per_second.max(written_mb)),
            (Metric::P50Us, self.latency_us.p50),
            (Metric::P99Us, self.latency_us.p99),
            (Metric::P999Us, self.latency_us.p999),
            (Metric::ErrorRate, self.error_rate),
        ]);
        if let Some(target) = &self.target {
            let each = |sum: f64| sum / self.requests.max(1) as f64;
            let switches = target.voluntary_switches + target.involuntary_switches;
            sample.extend([
                (Metric::CpuUs, each(target.cpu_us)),
                (Metric::UserUs, each(target.user_us)),
                (Metric::SystemUs, each(target.system_us)),
                (Metric::Switches, each(switches as f64)),
                (Metric::PeakBytes, target.peak_rss_bytes as f64),
            ]);
        }
        Ok(sample)
    }

    /// Memory while the connections were held: at the end of a rest, or the most of a load.
    pub(crate) fn held_bytes(&self, measure: Measure) -> u64 {
        self.target.as_ref().map_or(0, |target| match measure {
            Measure::Idle => target.rss_bytes,
            _ => target.peak_rss_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `ringway bench --json` says, shortened to what is read here.
    fn answer(change: (&str, &str)) -> Answer {
        let text = r#"{"requests": 100, "requests_per_second": 50.0, "mb_per_second": 1.0,
            "bytes_read": 9, "bytes_written": 1000, "seconds": 2.0, "error_rate": 0.0,
            "status": {"1xx": 0, "2xx": 100, "3xx": 0, "4xx": 0, "5xx": 0},
            "latency_us": {"p50": 1.0, "p99": 2.0, "p999": 3.0},
            "target": {"pid": 1, "cpu_us": 1000.0, "user_us": 400.0, "system_us": 600.0,
                "peak_rss_bytes": 7, "rss_bytes": 6, "voluntary_switches": 10,
                "involuntary_switches": 15},
            "idle": null}"#;
        serde_json::from_str(&text.replacen(change.0, change.1, 1)).unwrap()
    }

    #[test]
    fn costs_are_given_for_one_request() {
        let sample = answer(("", "")).sample(Measure::Load).unwrap();
        for (metric, expected) in [
            (Metric::CpuUs, 10.0),
            (Metric::UserUs, 4.0),
            (Metric::SystemUs, 6.0),
            (Metric::Switches, 0.25),
            (Metric::PeakBytes, 7.0),
            (Metric::RequestsPerSecond, 50.0),
        ] {
            assert!((sample[&metric] - expected).abs() < 1e-9, "{metric:?}: {sample:?}");
        }
    }

    #[test]
    fn a_run_that_proves_nothing_is_an_error() {
        for change in [
            ("\"requests\": 100", "\"requests\": 0"),
            ("\"2xx\": 100", "\"2xx\": 99"),
            ("\"idle\": null", "\"idle\": {\"held\": 10, \"lost\": 1}"),
        ] {
            assert!(answer(change).sample(Measure::Load).is_err(), "{change:?}");
        }
        assert!(answer(("", "")).sample(Measure::Idle).is_err());
        assert!(answer(("\"bytes_read\": 9", "\"bytes_read\": 0")).sample(Measure::Slow).is_err());
    }

    #[test]
    fn a_request_becomes_flags() {
        let request = Request {
            url: "http://a/".to_owned(),
            connections: 7,
            seconds: Some(0.25),
            rate: Some(90.0),
            flags: &["--connect"],
            via: Some("http://b".to_owned()),
            ..Request::default()
        };
        let line = arguments(&request, 3).join(" ");
        assert_eq!(
            line,
            "bench http://a/ --connections 7 --cpu 3 --warmup 0s --timeout 30s --duration 250ms \
             --rate 90 --via http://b --connect --json --quiet"
        );
    }
}
