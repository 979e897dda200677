//! `ringway bench` against servers that behave and servers that do not.
//!
//! Comes in: scripted origins, and the real proxy. Goes out: the JSON report of the real command,
//! held against what the origin saw. No figure depends on how fast the machine is: where a delay is
//! part of a test, it is a lower bound that the origin itself enforces.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Home, OK, Origin, Pair, Proxy, Refusal, Setup, TlsEnd, TlsOrigin, TlsPeer, ringway, run,
};
use serde_json::Value;

fn bench(arguments: &[&str]) -> Command {
    let mut command = ringway();
    command.arg("bench").args(arguments);
    command
}

/// Runs the command with `--json`; its exit code and its report.
#[track_caller]
pub(crate) fn report(arguments: &[&str]) -> (Option<i32>, Value) {
    let output = run(bench(&[arguments, &["--json"]].concat()));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_str(&text);
    (output.status.code(), value.unwrap_or_else(|error| panic!("{error}: {text}{errors}")))
}

/// The same where requests were answered.
#[track_caller]
pub(crate) fn answered(arguments: &[&str]) -> Value {
    let (code, report) = report(arguments);
    assert_eq!(code, Some(0), "{report}");
    report
}

/// What went wrong with a command that was refused.
#[track_caller]
fn refused(arguments: &[&str], code: i32) -> String {
    let output = run(bench(arguments));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// The count of one kind of error, and that there is no other.
#[track_caller]
pub(crate) fn only_error(report: &Value, kind: &str) -> u64 {
    for (name, count) in report["errors"].as_object().expect("errors") {
        assert!(name == kind || count == 0, "{report}");
    }
    report["errors"][kind].as_u64().expect("a count")
}

/// Answers each request when `delay` has passed since it came, and never before.
fn answering_after(delay: Duration) -> Origin {
    Origin::start(move |mut peer| {
        while peer.next_request().is_some() {
            let until = Instant::now() + delay;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                thread::park_timeout(left);
            }
            peer.send(OK);
        }
    })
}

#[test]
fn what_is_counted_is_what_the_origin_saw() {
    let origin = Origin::answering(OK);
    let url = origin.url();
    let report = answered(&[&url, "-n", "203", "-c", "7", "--threads", "2"]);
    assert_eq!(report["requests"], 203, "{report}");
    assert_eq!(report["status"]["2xx"], 203);
    let seen = origin.seen();
    assert_eq!(seen.requests.len(), 203);
    let received: usize = seen.connections.iter().map(|it| it.bytes.len()).sum();
    assert_eq!(report["bytes_written"], received, "{report}");
    assert_eq!(report["bytes_read"], 203 * OK.len());
    assert_eq!(seen.connections.len(), 7, "connections are kept");
    assert_eq!(report["error_rate"], 0.0);
}

#[test]
fn every_key_of_the_report_is_there() {
    let origin = Origin::answering(OK);
    let report = answered(&[&origin.url(), "-n", "1", "-c", "1"]);
    let object = report.as_object().unwrap();
    for key in [
        "url",
        "connections",
        "threads",
        "seconds",
        "requests",
        "requests_per_second",
        "bytes_read",
        "bytes_written",
        "mb_per_second",
        "errors",
        "error_rate",
        "status",
        "latency_us",
        "connect_us",
        "rate",
        "late",
        "client_cpu_us_per_request",
        "target",
        "idle",
    ] {
        assert!(object.contains_key(key), "{key} is not in {report}");
    }
    assert_eq!(object.len(), 19, "{report}");
    for key in ["mean", "stdev", "p50", "p90", "p95", "p99", "p999", "max"] {
        assert!(report["latency_us"][key].is_number(), "{report}");
    }
    for class in ["1xx", "2xx", "3xx", "4xx", "5xx"] {
        assert!(report["status"][class].is_u64(), "{report}");
    }
}

#[test]
fn the_warm_up_is_sent_and_not_counted() {
    let origin = Origin::answering(OK);
    let report =
        answered(&[&origin.url(), "--rate", "50", "--warmup", "200ms", "-n", "5", "-c", "2"]);
    assert_eq!(report["requests"], 5, "{report}");
    assert_eq!(report["bytes_read"].as_u64().map(|bytes| bytes >= 5 * OK.len() as u64), Some(true));
    assert_eq!(origin.seen().requests.len(), 15, "ten were due before");
}

#[test]
fn an_open_loop_counts_from_when_a_request_was_due() {
    let origin = answering_after(Duration::from_millis(100));
    let report = answered(&[&origin.url(), "--rate", "100", "-n", "10", "-c", "1"]);
    // The tenth was due after 90 ms and cannot be answered before 1 s; the fifth, 40 and 500.
    let us = |name: &str| report["latency_us"][name].as_f64().unwrap();
    assert!(us("max") >= 909_000.0 && us("p50") >= 459_000.0, "{report}");
    assert!(report["late"]["max_us"].as_f64().unwrap() >= 809_000.0, "{report}");
    assert_eq!((&report["requests"], &report["late"]["unsent"]), (&10.into(), &0.into()));
    assert_eq!(report["rate"], 100);
}

#[test]
fn what_an_open_loop_could_not_send_is_said() {
    let origin = answering_after(Duration::from_millis(300));
    let (_, report) =
        report(&[&origin.url(), "--rate", "1000", "-d", "500ms", "-c", "1", "--warmup", "0"]);
    let (sent, unsent) = (origin.seen().requests.len() as u64, &report["late"]["unsent"]);
    assert_eq!(report["requests"], sent, "what was sent is waited for: {report}");
    // Due from 0 ms to 500 ms, both included.
    assert_eq!(unsent.as_u64().map(|unsent| unsent + sent), Some(501), "{report}");
}

#[test]
fn answers_are_counted_by_class() {
    let origin = Origin::start(|mut peer| {
        for status in [200, 301, 404, 503].into_iter().cycle() {
            if peer.next_request().is_none() {
                return;
            }
            peer.send(format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let report = answered(&[&origin.url(), "-n", "40", "-c", "1"]);
    let status = &report["status"];
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| status[class].as_u64().unwrap());
    assert_eq!(classes, [0, 10, 10, 10, 10]);
    assert_eq!(report["error_rate"], 0.0, "a status is an answer");
}

#[test]
fn each_error_is_counted_as_what_it_is() {
    let refusal = Refusal::new();
    let silent = Origin::silent();
    let reset = Origin::start(|mut peer| {
        peer.next_request();
        peer.reset();
    });
    let closing = Origin::answering_and_closing("");
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort";
    let short = Origin::answering_and_closing(short);
    let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let cut = Origin::answering_and_closing(cut);
    let head = Origin::answering_and_closing("SSH-2.0-OpenSSH\r\n\r\n");
    let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n";
    let chunk = Origin::answering_and_closing(chunk);
    let more = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nmore";
    let more = Origin::answering_and_closing(more);
    for (url, kind) in [
        (refusal.url(), "connect"),
        (silent.url(), "timeout"),
        (reset.url(), "reset"),
        (closing.url(), "reset"),
        (short.url(), "short_body"),
        (cut.url(), "short_body"),
        (head.url(), "bad_head"),
        (chunk.url(), "bad_body"),
        (more.url(), "bad_body"),
    ] {
        // A machine that is busy must not make a timeout of anything else.
        let timeout = if kind == "timeout" { "200ms" } else { "20s" };
        let (code, report) = report(&[&url, "-n", "5", "-c", "2", "--timeout", timeout]);
        assert_eq!(only_error(&report, kind), 5, "{kind}: {report}");
        assert_eq!((code, &report["requests"]), (Some(1), &0.into()), "{kind}");
        assert_eq!(report["error_rate"], 1.0, "{kind}");
    }
}

#[test]
fn a_run_goes_on_after_errors() {
    // Every second connection is of no use.
    let origin = Origin::start(|mut peer| {
        let is_good = peer.number % 2 == 0;
        if peer.next_request().is_some() && is_good {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let report = answered(&[&origin.url(), "-n", "20", "-c", "1"]);
    assert_eq!((only_error(&report, "reset"), &report["requests"]), (10, &10.into()), "{report}");
    assert_eq!(report["error_rate"], 0.5);
}

#[test]
fn bodies_arrive_as_they_were_asked_for() {
    let origin = Origin::answering(OK);
    let url = origin.url();
    for (arguments, method, coding, length) in [
        (&["--body", "hello"][..], "POST", None, 5),
        (&["--body", "hello", "--method", "PUT", "--chunked"], "PUT", Some("chunked"), 5),
        (&["--body-bytes", "300k"], "POST", None, 300 << 10),
        (&["--body-bytes", "300k", "--chunked"], "POST", Some("chunked"), 300 << 10),
    ] {
        answered(
            &[&[url.as_str(), "-n", "2", "-c", "1", "-H", "X-Name: value"], arguments].concat(),
        );
        let seen = origin.seen();
        let request = seen.requests.last().expect("a request");
        assert_eq!((request.method(), request.body.len()), (method, length), "{arguments:?}");
        assert_eq!(request.field("Transfer-Encoding"), coding);
        request.expect_field("X-Name", "value");
    }
    assert_eq!(origin.seen().requests.len(), 8);
}

#[test]
fn a_body_may_come_from_a_file() {
    let home = Home::new();
    let file = home.write("body", "from a file");
    let origin = Origin::answering(OK);
    answered(&[&origin.url(), "-n", "1", "-c", "1", "--body", &format!("@{}", file.display())]);
    origin.only_request().expect_body("from a file");
}

#[test]
fn an_answer_may_come_before_the_body_is_sent() {
    let origin = Origin::start(|mut peer| {
        peer.expect_head();
        peer.send("HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        peer.hold();
    });
    let report = answered(&[&origin.url(), "-n", "2", "-c", "1", "--body-bytes", "1g"]);
    assert_eq!(report["status"]["4xx"], 2, "{report}");
    assert!(report["bytes_written"].as_u64().unwrap() < 1 << 30, "{report}");
}

#[test]
fn large_and_chunked_answers_are_read_to_their_end() {
    let proxy = demo();
    for (path, length) in [("/bytes/3000000", 3_000_000), ("/chunked/500", 500)] {
        let url = format!("http://{}{path}", proxy.address());
        let report = answered(&[&url, "-n", "4", "-c", "2"]);
        assert_eq!(report["status"]["2xx"], 4, "{report}");
        assert!(report["bytes_read"].as_u64().unwrap() >= 4 * length, "{report}");
    }
}

/// A proxy before the demo origin.
pub(crate) fn demo() -> Proxy {
    let home = Home::new();
    let mut command = ringway();
    command.args(["--host", "127.0.0.1", "--port", "0", "--workers", "1"]).current_dir(home.path());
    Proxy::spawn(command, home, 1)
}

#[test]
fn without_keep_alive_each_request_has_its_connection() {
    let origin = Origin::answering(OK);
    let report = answered(&[&origin.url(), "-n", "12", "-c", "3", "--no-keepalive"]);
    assert_eq!(report["requests"], 12, "{report}");
    let seen = origin.seen();
    assert_eq!(seen.connections.len(), 12);
    assert!(seen.requests.iter().all(|request| request.field("Connection") == Some("close")));
    assert!(report["connect_us"]["max"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_proxy_is_asked_in_absolute_form_or_for_tunnels() {
    let origin = Origin::answering(OK);
    let proxy = Setup::forward().start();
    let (url, via) = (origin.url(), format!("http://{}", proxy.address()));
    let shared = [url.as_str(), "--via", via.as_str(), "-n", "6", "-c", "2"];
    assert_eq!(answered(&shared)["status"]["2xx"], 6);
    let has_passed_a_proxy = origin.seen().requests.iter().all(|it| it.field("Via").is_some());
    assert!(has_passed_a_proxy, "{:?}", origin.seen().requests);
    assert_eq!(answered(&[&shared[..], &["--connect"]].concat())["status"]["2xx"], 6);
    let each = answered(&[&shared[..], &["--connect", "--no-keepalive"]].concat());
    assert_eq!(each["status"]["2xx"], 6, "{each}");
    let seen = origin.seen();
    assert!(seen.requests[6..].iter().all(|it| it.field("Via").is_none()), "they are in tunnels");
    assert_eq!(seen.requests.len(), 18);
}

#[test]
fn a_tunnel_that_is_refused_is_an_error_of_its_own() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let proxy = Origin::answering_and_closing(refusal);
    let (code, report) =
        report(&["http://127.0.0.1:1/", "--via", &proxy.url(), "--connect", "-n", "4", "-c", "2"]);
    assert_eq!((code, only_error(&report, "tunnel")), (Some(1), 4), "{report}");
}

/// An origin that speaks TLS, and a file with whom to believe.
pub(crate) struct Secured {
    origin: TlsOrigin,
    home: Home,
}

impl Secured {
    fn start(serve: impl Fn(TlsPeer) + Send + Sync + 'static) -> Self {
        let pair = Pair::of(&["127.0.0.1"]);
        let home = Home::new();
        home.write("ca.pem", &pair.chain);
        Self { origin: TlsOrigin::start(&pair, serve), home }
    }

    fn answering(answer: &'static str) -> Self {
        Self::start(move |mut peer| {
            while peer.read_head().is_some() {
                peer.send(answer);
            }
        })
    }

    fn url(&self) -> String {
        self.origin.url().replace("localhost", "127.0.0.1")
    }

    /// What believes it, with further arguments.
    fn arguments(&self, more: &str) -> Vec<String> {
        let ca = self.home.path().join("ca.pem");
        let more = more.split_whitespace().map(str::to_owned);
        [self.url(), "--ca".to_owned(), ca.display().to_string()].into_iter().chain(more).collect()
    }

    #[track_caller]
    fn answered(&self, more: &str) -> Value {
        let arguments = self.arguments(more);
        answered(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn over_tls_everything_is_counted_as_without() {
    let secured = Secured::answering(OK);
    let report = secured.answered("-n 203 -c 7 --threads 2");
    assert_eq!((&report["requests"], &report["status"]["2xx"]), (&203.into(), &203.into()));
    assert_eq!(report["bytes_read"], 203 * OK.len(), "{report}");
    let tls = &report["tls"];
    let handshakes = tls["full"].as_u64().unwrap() + tls["resumed"].as_u64().unwrap();
    assert_eq!((handshakes, secured.origin.accepted()), (7, 7), "{report}");
    assert_eq!(report["error_rate"], 0.0);
}

#[test]
fn handshakes_are_counted_in_full_and_resumed() {
    let secured = Secured::answering(OK);
    for (more, full, resumed) in [
        ("", 1, 11),
        ("--no-resumption", 12, 0),
        ("--tls-max 1.2", 1, 11),
        ("--tls-max 1.2 --no-resumption", 12, 0),
    ] {
        let report = secured.answered(&format!("-n 12 -c 1 --no-keepalive {more}"));
        let tls = &report["tls"];
        assert_eq!((&tls["full"], &tls["resumed"]), (&full.into(), &resumed.into()), "{more}");
        assert!(tls["handshakes_per_second"].as_f64().unwrap() > 0.0, "{report}");
    }
    assert_eq!(secured.origin.accepted(), 48);
}

#[test]
fn large_answers_over_tls_are_read_to_their_end() {
    let body = "x".repeat(3_000_000);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let secured = Secured::start(move |mut peer| {
        while peer.read_head().is_some() {
            peer.send(&answer);
        }
    });
    let report = secured.answered("-n 4 -c 2");
    assert_eq!(report["status"]["2xx"], 4, "{report}");
    assert!(report["bytes_read"].as_u64().unwrap() >= 12_000_000, "{report}");
}

#[test]
fn over_tls_too_each_error_is_counted_as_what_it_is() {
    let secured = Secured::answering(OK);
    let (plain, gone) = (Origin::start(|mut peer| peer.send(OK)), Refusal::new());
    let plain = plain.url().replace("http:", "https:");
    let gone = gone.url().replace("http:", "https:");
    for (url, kind) in [(secured.url(), "certificate"), (plain, "handshake"), (gone, "connect")] {
        let (code, report) = report(&[&url, "-n", "3", "-c", "2", "--timeout", "5s"]);
        assert_eq!((code, only_error(&report, kind)), (Some(1), 3), "{kind}: {report}");
    }
    assert_eq!(answered(&[&secured.url(), "--insecure", "-n", "3"])["requests"], 3);
}

#[test]
fn a_body_without_a_length_is_whole_only_where_its_sender_says_so() {
    for (how, errors) in [(TlsEnd::Said, 0), (TlsEnd::Cut, 2)] {
        let secured = Secured::start(move |mut peer| {
            if peer.read_head().is_some() {
                peer.send("HTTP/1.1 200 OK\r\n\r\nuntil the end");
                peer.end(how);
            }
        });
        let arguments = secured.arguments("-n 2 -c 1");
        let (_, report) = report(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(only_error(&report, "short_body"), errors, "{how:?}: {report}");
    }
}

#[test]
fn tunnels_lead_to_origins_that_speak_tls_and_proxies_may_speak_it() {
    let secured = Secured::answering(OK);
    let proxy = Setup::forward().start();
    let via = format!("http://{}", proxy.address());
    let report = secured.answered(&format!("--via {via} --connect -n 6 -c 2"));
    assert_eq!(report["status"]["2xx"], 6, "{report}");
    let origin = Origin::answering(OK);
    let proxy = Setup::forward().listen_tls(&Pair::of(&["127.0.0.1"])).start();
    let via = format!("https://{}", proxy.addresses().last().expect("it listens"));
    for how in [&["--connect"][..], &[]] {
        let shared = [&origin.url(), "--via", &via, "--insecure", "-n", "6", "-c", "2"];
        let report = answered(&[&shared[..], how].concat());
        assert_eq!(report["status"]["2xx"], 6, "{report}");
        assert!(report["tls"]["full"].as_u64().unwrap() > 0, "{report}");
    }
}

#[test]
fn idle_connections_are_held_and_the_lost_ones_are_counted() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        peer.send(OK);
        while peer.number != 0 && peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    let report = answered(&[&origin.url(), "--idle", "-c", "5", "-d", "200ms", "--threads", "2"]);
    assert_eq!((&report["idle"]["held"], &report["idle"]["lost"]), (&4.into(), &1.into()));
    let seen = origin.seen();
    assert_eq!((seen.connections.len(), seen.requests.len()), (5, 9));
    assert!(report["seconds"].as_f64().unwrap() >= 0.2, "{report}");
}

#[test]
fn a_slow_reader_takes_its_time() {
    let proxy = demo();
    let url = format!("http://{}/bytes/100000", proxy.address());
    let report = answered(&[&url, "-n", "1", "-c", "1", "--slow-read", "80000"]);
    // A second's worth may be read at once, and the rest at its rate.
    assert!(report["latency_us"]["max"].as_f64().unwrap() >= 200_000.0, "{report}");
}

#[test]
fn the_cost_of_the_target_is_reported() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let pid = proxy.file_of_process("");
    let pid = pid.file_name().and_then(|name| name.to_str()).expect("a number");
    let url = format!("http://{}/", proxy.address());
    let report = answered(&[&url, "-n", "500", "-c", "4", "--pid", pid]);
    let target = &report["target"];
    assert_eq!(target["pid"].to_string(), pid);
    let figure = |name: &str| target[name].as_f64().unwrap_or_default();
    assert!(figure("cpu_us") > 0.0 && figure("peak_rss_bytes") >= figure("rss_bytes"), "{report}");
    assert!((figure("cpu_us") / 500.0 - figure("cpu_us_per_request")).abs() < 0.001, "{report}");
    assert!(figure("rss_bytes") > 100_000.0, "{report}");
}

#[test]
fn a_picture_is_drawn() {
    let home = Home::new();
    let file = home.path().join("latency.svg");
    let origin = Origin::answering(OK);
    let plot = ["--plot", file.to_str().unwrap()];
    answered(&[&[origin.url().as_str(), "-n", "50", "-c", "2"], &plot[..]].concat());
    let text = std::fs::read_to_string(file).expect("a picture");
    assert!(text.starts_with("<svg") && text.contains("percentile"), "{text}");
}

#[test]
fn people_are_told_the_same() {
    let origin = Origin::answering(OK);
    let output = run(bench(&[&origin.url(), "-n", "30", "-c", "2"]));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["30 2xx", "p99.9", "errors:       0", "us per answer", &origin.url()] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(output.stderr.is_empty(), "progress is for terminals");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    for (arguments, part) in [
        (&[][..], "http://127.0.0.1:8080/"),
        (&["ftp://127.0.0.1/"], "expected http://"),
        (&["http://127.0.0.1/", "--insecure"], "--insecure"),
        (&["http://127.0.0.1/", "-c", "0"], "--connections"),
        (&["http://127.0.0.1/", "--connect"], "--via"),
        (&["http://127.0.0.1/", "--plot", "a.png"], ".svg"),
        (&["--ab", "a.toml", "b.toml", "--rounds", "2"], "--rounds 2"),
    ] {
        let text = refused(arguments, 2);
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
    let text = refused(&["http://127.0.0.1/", "--pid", "4194305"], 1);
    assert!(text.contains("--pid 4194305"), "{text}");
}

/// A configuration for `--ab`, whose port and origin the command replaces.
const CONFIG: &str = "[server]\nworkers = 1\n[buffers]\nchunks_per_worker = 8\n";

#[test]
fn a_configuration_is_compared_with_itself() {
    let home = Home::new();
    let (a, b) = (home.write("a.toml", CONFIG), home.write("b.toml", CONFIG));
    let files = [a.to_str().unwrap(), b.to_str().unwrap()];
    let short = ["--rounds", "3", "-n", "300", "--warmup", "0", "-c", "4", "/bytes/10"];
    let report = answered(&[&["--ab"], &files[..], &short[..]].concat());
    assert_eq!((&report["rounds"], &report["path"]), (&3.into(), &"/bytes/10".into()));
    assert!(!report["verdict"].as_str().unwrap().is_empty(), "{report}");
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<_> = figures.iter().map(|figure| figure["figure"].as_str().unwrap()).collect();
    assert_eq!(names, ["cpu_us_per_request", "requests_per_second", "p99_us"]);
    for figure in figures {
        let number = |name: &str| figure["comparison"][name].as_f64().unwrap();
        assert!(number("low") <= number("ratio") && number("ratio") <= number("high"), "{report}");
        assert!(figure["a"].as_f64().unwrap() > 0.0 && figure["b"].as_f64().unwrap() > 0.0);
    }
    assert_eq!((&report["errors_a"], &report["errors_b"]), (&0.into(), &0.into()));
}

#[test]
fn a_side_that_cannot_start_says_why() {
    let home = Home::new();
    let good = home.write("good.toml", CONFIG);
    let bad = home.write("bad.toml", "[server]\nwrokers = 1\n");
    let text = refused(&["--ab", good.to_str().unwrap(), bad.to_str().unwrap()], 1);
    assert!(text.contains("bad.toml") && text.contains("wrokers"), "{text}");
}
