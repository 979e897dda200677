//! The other load: h2load of nghttp2, run once, so that not only our own generator says so.
//!
//! In: what to ask for. Out: what it says and what it writes down of each request, with the
//! processor time that the proxy took meanwhile.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::load::{Answer, Latency, Request, Status, Target};
use super::process::{self, CpuTime, Home};

/// How many streams a connection has; h2load is told what `ringway bench` calls `--streams`.
fn streams(request: &Request) -> &'static str {
    let at = request.flags.iter().position(|flag| *flag == "--streams");
    at.and_then(|at| request.flags.get(at + 1)).copied().unwrap_or("1")
}

/// Its command line, with each request written down in `log`.
pub(super) fn arguments(request: &Request, log: &Path) -> Vec<String> {
    let mut words = vec!["--threads=1".to_owned(), format!("--clients={}", request.connections)];
    words.push(format!("--max-concurrent-streams={}", streams(request)));
    words.push(if let Some(count) = request.requests {
        format!("--requests={}", count.max(request.connections))
    } else {
        format!("--duration={}ms", (request.seconds.unwrap_or(1.0) * 1e3).round())
    });
    words.push(format!("--log-file={}", log.display()));
    words.push(request.url.clone());
    words
}

/// Runs it by `run`, which is given the command and waits for its end.
pub(super) fn run(
    request: &Request,
    core: usize,
    run: impl FnOnce(Command) -> Result<Output, String>,
) -> Result<Answer, String> {
    let home = Home::new().map_err(|error| error.to_string())?;
    let log = home.path().join("requests");
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string(), "h2load"]).args(arguments(request, &log));
    let before = request.pid.map(process::cpu_time);
    let output = run(command)?;
    let after = request.pid.map(process::cpu_time);
    let text = String::from_utf8_lossy(&output.stdout);
    let log = fs::read_to_string(&log).unwrap_or_default();
    let mut answer = read(&text, &log).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("h2load gave no result: {} {}", text.trim(), said.trim())
    })?;
    answer.target = before.zip(after).map(|(before, after)| {
        let CpuTime { user_us, system_us } = after - before;
        let peak_rss_bytes = request.pid.map_or(0, process::peak_resident_bytes);
        Target {
            user_us,
            system_us,
            cpu_us: user_us + system_us,
            peak_rss_bytes,
            ..Target::default()
        }
    });
    Ok(answer)
}

/// What it says (`finished in 1.00s, 100.00 req/s, 1.00MB/s`, `requests: …`, `status codes: …`,
/// `traffic: …`), and its log: when a request began, its status, how long it took, in microseconds.
fn read(text: &str, log: &str) -> Option<Answer> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let finished = line("finished in ")?;
    let requests_per_second: f64 = before(finished, " req/s")?.parse().ok()?;
    let done: u64 = before(line("requests: ")?, " done")?.parse().ok()?;
    let succeeded: u64 = before(line("requests: ")?, " succeeded")?.parse().ok()?;
    let ok: u64 = before(line("status codes: ")?, " 2xx")?.parse().ok()?;
    let bytes: u64 = line("traffic: ")?.split_once('(')?.1.split_once(')')?.0.parse().ok()?;
    let mut took_us: Vec<u32> =
        log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    took_us.sort_unstable();
    let part = |part: f64| {
        let at = (took_us.len() as f64 * part) as usize;
        took_us.get(at).or(took_us.last()).map_or(0.0, |us| f64::from(*us))
    };
    let seconds = done as f64 / requests_per_second.max(1e-9);
    Some(Answer {
        requests: done,
        requests_per_second,
        mb_per_second: bytes as f64 / 1e6 / seconds.max(1e-9),
        bytes_read: bytes,
        bytes_written: 0,
        seconds,
        error_rate: (done - succeeded.min(done)) as f64 / done.max(1) as f64,
        status: Status { ok },
        latency_us: Latency { p50: part(0.5), p99: part(0.99), p999: part(0.999) },
        target: None,
        idle: None,
    })
}

/// The word in front of `unit`.
fn before<'t>(text: &'t str, unit: &str) -> Option<&'t str> {
    text.split_once(unit)?.0.rsplit([' ', ',']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
finished in 1.00s, 34970.00 req/s, 1.37MB/s
requests: 34970 total, 35970 started, 34970 done, 34970 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 34969 2xx, 1 3xx, 0 4xx, 0 5xx
traffic: 1.37MB (1436000) total, 170.92KB (175020) headers (space savings 94.98%), 443.95KB data
";

    #[test]
    fn what_it_says_is_an_answer() {
        let log = "1700\t200\t300\n1701\t200\t100\n1702\t302\t200\n";
        let answer = read(SAID, log).unwrap();
        assert_eq!(
            (answer.requests, answer.status.ok, answer.bytes_read),
            (34_970, 34_969, 1_436_000)
        );
        assert!((answer.requests_per_second - 34_970.0).abs() < 1e-9 && answer.error_rate == 0.0);
        assert!((answer.latency_us.p50 - 200.0).abs() < 1e-9, "{answer:?}");
        assert!((answer.latency_us.p99 - 300.0).abs() < 1e-9, "{answer:?}");
        assert!(read("finished in 1.00s, 0.00 req/s", "").is_none());
    }

    #[test]
    fn a_request_becomes_flags() {
        let request = Request {
            url: "http://a/".to_owned(),
            connections: 16,
            seconds: Some(0.25),
            flags: &["--http2", "--streams", "10"],
            ..Request::default()
        };
        assert_eq!(
            arguments(&request, Path::new("/log")).join(" "),
            "--threads=1 --clients=16 --max-concurrent-streams=10 --duration=250ms \
             --log-file=/log http://a/"
        );
    }
}
