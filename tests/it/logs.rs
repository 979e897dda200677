//! What an operator reads: one record per exchange that says what happened, and nothing that a
//! client could have written.
//!
//! Comes in: exchanges that end in different ways. Goes out: the lines that the process wrote about
//! them, to standard output or to a file. A log that nobody reads holds up no request.

use crate::support::{
    Expected, GET, OK, Origin, Proxy, Refusal, Setup, installed, is_of_http1, run, wait_until,
};
use nix::sys::signal::Signal;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// The value of a field of a line of text.
#[track_caller]
fn value<'a>(line: &'a str, name: &str) -> &'a str {
    let start = format!("{name}=");
    let found = line.split_whitespace().find_map(|word| word.strip_prefix(start.as_str()));
    found.unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[test]
fn exchanges_are_not_recorded_unless_asked_for() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    proxy.send("GET /secret HTTP/1.1\r\nHost: test\r\n\r\n").expect_status(200);
    let lines = proxy.log_lines();
    proxy.stop();
    assert!(!lines.join("\n").contains("/secret"), "{lines:#?}");
}

#[test]
fn an_exchange_is_one_line_with_everything_in_it() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("log.access", true).start();
    let request = "POST /one?x HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody";
    let mut client = proxy.send(request);
    client.expect_status(200).send("GET /two HTTP/1.1\r\nHost: test\r\n\r\n").expect_status(200);

    let one = proxy.wait_for_log(&["target=/one?x"]);
    assert_eq!(value(&one, "client"), client.local().to_string());
    assert_eq!((value(&one, "method"), value(&one, "host")), ("POST", "test"));
    assert_eq!((value(&one, "status"), value(&one, "upstream")), ("200", "origin"));
    assert_eq!(value(&one, "origin"), origin.address().to_string());
    assert_eq!(value(&one, "bytes_in"), request.len().to_string());
    assert!(value(&one, "bytes_out").parse::<usize>().unwrap() > OK.len(), "{one}");
    assert_eq!((value(&one, "reused"), value(&one, "error")), ("false", "-"));
    let phases = ["head_us", "pool_us", "connect_us", "first_byte_us", "total_us"];
    let phases = phases.map(|phase| value(&one, phase).parse::<u64>().expect("a number"));
    assert!(phases[4] >= phases[3] && phases[3] > 0, "{one}");

    let two = proxy.wait_for_log(&["target=/two"]);
    assert_eq!((value(&two, "method"), value(&two, "reused")), ("GET", "true"));
}

#[test]
fn bodies_count_in_both_directions() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n");
        peer.send(vec![0; 2_000_000]);
        peer.hold();
    });
    let proxy = Setup::to(&origin).set("log.access", true).start();
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n";
    proxy.send(post).send(vec![0; 1_000_000]).expect_status(200);
    let line = proxy.wait_for_log(&["method=POST"]);
    assert_eq!(value(&line, "bytes_in"), (post.len() + 1_000_000).to_string());
    let sent = value(&line, "bytes_out").parse::<usize>().unwrap();
    assert!((2_000_000..2_001_000).contains(&sent), "{line}");
}

#[test]
fn every_byte_to_the_client_counts() {
    if is_of_http1("heads that are the same bytes on both sides") {
        return;
    }
    let answers = [
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
        // Chunked on its way.
        "HTTP/1.1 200 OK\r\n\r\nok",
        // Cut short.
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        "not HTTP\r\n\r\n",
    ];
    for answer in answers {
        let origin = Origin::answering_and_closing(answer);
        let proxy = Setup::to(&origin).set("log.access", true).start();
        let request = "GET /all HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        let (bytes, _) = proxy.send(request).read_to_end();
        let line = proxy.wait_for_log(&["target=/all"]);
        assert_eq!(value(&line, "bytes_out"), bytes.len().to_string(), "{answer:?}");
        assert_eq!(value(&line, "bytes_in"), request.len().to_string(), "{answer:?}");
    }
}

#[test]
fn bytes_of_transfers_that_were_broken_off_count() {
    let origin = Origin::start(|mut peer| {
        while let Some(mut request) = peer.read_head() {
            if request.method() == "POST" {
                peer.read_body(&mut request, Expected::Request);
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n");
            peer.send(vec![0; 50_000_000]);
        }
    });
    let proxy = Setup::to(&origin).set("log.access", true).start();
    let mut client = proxy.send("GET /down HTTP/1.1\r\nHost: test\r\n\r\n");
    client.discard(5_000_000);
    client.reset();
    let line = proxy.wait_for_log(&["target=/down"]);
    assert!(value(&line, "bytes_out").parse::<usize>().unwrap() >= 5_000_000, "{line}");
    if is_of_http1("all bytes of a body that its stream has not taken when the connection ends") {
        return;
    }
    let head = "POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 50000000\r\n\r\n";
    let mut client = proxy.send(head);
    client.send(vec![0; 5_000_000]).wait_until_read();
    client.reset();
    let line = proxy.wait_for_log(&["target=/up"]);
    assert_eq!(value(&line, "bytes_in"), (head.len() + 5_000_000).to_string());
}

#[test]
fn failures_are_recorded_by_name() {
    if is_of_http1("heads that are no messages") {
        return;
    }
    let (origin, refusal) = (Origin::silent(), Refusal::new());
    let proxy = Setup::new()
        .upstream("silent", &[&origin.url()], "")
        .upstream("refusing", &[&refusal.url()], "")
        .route("", "/silent", "silent", "")
        .route("", "/refusing", "refusing", "")
        .set("log.access", true)
        .set("timeouts.read", "200ms")
        .set("timeouts.client_head", "200ms")
        .start();
    let get = |path| format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    for (request, status, error) in [
        (get("/silent"), 504, "origin_read_timeout"),
        (get("/refusing"), 502, "origin_refused"),
        (get("/nowhere"), 404, "no_route"),
        ("GET / HTTP/1.1\r\nHo".to_owned(), 408, "client_head_timeout"),
    ] {
        proxy.send(request).expect_status(status);
        let line = proxy.wait_for_log(&[&format!("error={error}")]);
        assert_eq!(value(&line, "status"), status.to_string());
    }
    proxy.send("GET / HTTP/1.1\r\nHost : x\r\n\r\n").expect_status(400);
    proxy.wait_for_log(&["status=400", "error="]);
}

#[test]
fn a_client_that_vanishes_is_recorded_too() {
    let origin = Origin::silent();
    let proxy = Setup::to(&origin).set("log.access", true).start();
    // Larger than what is waited for as a whole before the origin is asked.
    let head = "POST /gone HTTP/1.1\r\nHost: test\r\nContent-Length: 99999\r\n\r\nbody";
    let client = proxy.send(head);
    origin.wait_for("the request", |seen| !seen.bytes().is_empty());
    client.reset();
    let line = proxy.wait_for_log(&["target=/gone"]);
    assert_eq!((value(&line, "status"), value(&line, "error")), ("0", "client_gone"));
}

#[test]
fn a_client_that_speaks_tls_to_a_plain_port_is_named() {
    if is_of_http1("a first byte that is none of HTTP") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).start();
    // The beginning of a ClientHello.
    let mut client = proxy.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n");
    client.read_response().expect_status(400);
    proxy.wait_for_log(&["speaks TLS", "client=127.0.0.1:"]);
}

#[test]
fn a_connection_that_finds_no_free_port_is_named_with_its_cure() {
    // A network of its own, in which the listener has the only port that the system chooses from.
    let unshare = if nix::unistd::geteuid().is_root() { "unshare -n" } else { "unshare -rn" };
    let range = "echo 20000 20000 > /proc/sys/net/ipv4/ip_local_port_range";
    let alone = format!("{unshare} sh -c 'ip link set lo up && {range} && exec \"$0\" \"$@\"'");
    let attempt = Command::new("sh").args(["-c", &format!("{alone} true")]).output().unwrap();
    if !attempt.status.success() {
        eprintln!("skipped: this process may not have a network of its own: {attempt:?}");
        return;
    }
    let proxy = Setup::to_url("http://127.0.0.1:9")
        .set("admin.enabled", false)
        .set("pool.prewarm", 1)
        .launched_by(&format!("exec {alone} \"$0\" \"$@\""))
        .start();
    let line =
        proxy.wait_for_log(&["cannot connect to an origin: Cannot assign requested address"]);
    assert!(line.contains("net.ipv4.ip_local_port_range"), "{line}");
}

#[test]
fn a_client_cannot_forge_a_line() {
    let origin = Origin::answering(OK);
    for (format, status) in [("text", " status=200 "), ("json", "\"status\":200,")] {
        let setup = Setup::to(&origin).set("log.access", true).set("log.access_format", format);
        let proxy = setup.start();
        let target = "/forged\"status=200\\x0a\\\",\"status\":200,\"caf\u{e9}";
        proxy.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")).expect_status(200);
        let line = proxy.wait_for_log(&["/forged"]);
        assert_eq!(line.matches(status).count(), 1, "{line}");
        assert!(format == "json" || line.is_ascii(), "{line}");
    }
}

#[test]
fn json_is_one_object_per_line() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("log.access", true).set("log.access_format", "json").start();
    proxy.send("GET /j HTTP/1.1\r\nHost: test\r\n\r\n").expect_status(200);
    let line = proxy.wait_for_log(&["\"target\":\"/j\""]);
    assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    for part in ["\"method\":\"GET\"", "\"status\":200", "\"reused\":false", "\"bytes_in\":"] {
        assert!(line.contains(part), "expected {part} in {line}");
    }
}

#[test]
fn files_take_what_would_have_gone_to_standard_output() {
    let origin = Origin::answering(OK);
    let proxy =
        Setup::to(&origin).set("log.access", true).set("log.access_file", "access.log").start();
    proxy.send("GET /filed HTTP/1.1\r\nHost: test\r\n\r\n").expect_status(200);
    let file = proxy.home().join("access.log");
    let read = || fs::read_to_string(&file).unwrap_or_default();
    wait_until("the record is in its file", || read().contains("target=/filed"));
    assert!(!proxy.log_lines().join("\n").contains("target="), "{:#?}", proxy.log_lines());
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    const REQUESTS: usize = 3_000;
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("log.access", true).set("log.queue_lines", 100).start();
    proxy.hear(false);
    let mut client = proxy.connect();
    for _ in 0..REQUESTS {
        // Far more than the pipe and the queue hold.
        client.send(GET).expect_status(200);
    }
    proxy.hear(true);
    proxy.wait_for_log(&["dropped", "lines="]);
    client.expect_quiet_for(Duration::from_millis(1));
}

/// N of every request for `/N` that a log tells of; all of its lines must be whole.
#[track_caller]
fn numbers(text: &str) -> Vec<usize> {
    assert!(text.is_empty() || text.ends_with('\n'), "ends inside a line");
    let number = |line: &str| {
        assert!(line.starts_with("time=") && line.ends_with(" error=-"), "{line}");
        value(line, "target")[1..].parse().expect("a number")
    };
    text.lines().map(number).collect()
}

#[test]
fn a_log_that_is_rotated_under_load_loses_no_line() {
    const REQUESTS: usize = 5_000;
    let origin = Origin::answering(OK);
    let mut proxy = Setup::to(&origin)
        .set("log.access", true)
        .set("log.access_file", "access.log")
        .set("log.queue_lines", REQUESTS)
        .start();
    let (now, before) = (proxy.home().join("access.log"), proxy.home().join("access.log.1"));
    let mut client = proxy.connect();
    let mut rotated = String::new();
    let is_told = |line: &&String| line.contains("log files opened anew");
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            for number in 0..REQUESTS {
                client.send(format!("GET /{number} HTTP/1.1\r\nHost: test\r\n\r\n"));
                client.expect_status(200);
            }
        });
        for rotation in 1.. {
            fs::rename(&now, &before).expect("the log is there");
            proxy.signal(Signal::SIGUSR1);
            wait_until("the log has been opened anew", || {
                proxy.log_lines().iter().filter(is_told).count() == rotation
            });
            rotated += &fs::read_to_string(&before).expect("the old file");
            if load.is_finished() {
                break;
            }
        }
    });
    drop(client);
    proxy.signal(Signal::SIGTERM);
    proxy.expect_orderly_end();
    rotated += &fs::read_to_string(&now).expect("the last file");
    assert!(proxy.log_lines().iter().filter(is_told).count() > 1, "rotated before the load only");
    assert_eq!(numbers(&rotated), (0..REQUESTS).collect::<Vec<_>>());
}

#[test]
fn a_log_that_cannot_be_opened_anew_goes_on_where_it_was() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin)
        .set("log.access", true)
        .set("log.access_file", "logs/access.log")
        .launched_by("mkdir logs && exec \"$0\" \"$@\"")
        .start();
    // Even root cannot create a file in a folder that has gone.
    fs::rename(proxy.home().join("logs"), proxy.home().join("moved")).expect("the folder is there");
    proxy.signal(Signal::SIGUSR1);
    let complaint = "the log file logs/access.log cannot be opened anew";
    proxy.wait_for_log(&["ringway: ", complaint]);
    proxy.wait_for_log(&["ERROR", complaint]);
    proxy.send("GET /1 HTTP/1.1\r\nHost: test\r\n\r\n").expect_status(200);
    let read = || fs::read_to_string(proxy.home().join("moved/access.log")).unwrap_or_default();
    wait_until("the record is in the old file", || !read().is_empty());
    assert_eq!(numbers(&read()), [1]);
}

#[test]
fn both_logs_share_one_destination_without_breaking_each_others_lines() {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 100;
    let origin = Origin::answering(OK);
    // The second is a file as good as any, and one whose lines the test gets to read.
    for file in ["", "/dev/stdout"] {
        let setup = Setup::to(&origin).set("log.file", file).set("log.level", "trace");
        let proxy = setup.set("log.access", true).set("log.queue_lines", 100_000).start();
        // A pipe that is full takes what is written to it in pieces.
        proxy.hear(false);
        let target = format!("/{}", "x".repeat(5_000));
        let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    for _ in 0..REQUESTS {
                        proxy.send(&request).expect_status(200);
                    }
                });
            }
        });
        proxy.hear(true);
        let records = || proxy.log_lines().iter().filter(|line| line.contains("target=")).count();
        wait_until("all records are there", || records() == CLIENTS * REQUESTS);
        for line in proxy.log_lines() {
            let is_record = line.starts_with("time=") && line.ends_with(" error=-");
            let is_event = line.starts_with("20") && line.contains("Z ") && !line.contains("time=");
            assert!(is_record || is_event, "{line}");
        }
    }
}

#[test]
fn goaccess_and_fail2ban_read_the_combined_format() {
    let origin = Origin::answering("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n");
    let proxy = Setup::to(&origin)
        .set("log.access", true)
        .set("log.access_format", "combined")
        .set("log.access_file", "access.log")
        .start();
    let mut client = proxy.connect();
    for _ in 0..5 {
        client
            .send("GET /\"x\\y HTTP/1.1\r\nHost: a\r\nUser-Agent: \"q\" 200 0\r\n\r\n")
            .read_response();
    }
    let path = proxy.home().join("access.log");
    let lines = || fs::read_to_string(&path).unwrap_or_default();
    wait_until("five lines", || lines().lines().count() == 5);
    assert!(lines().starts_with("127.0.0.1 - - ["), "{}", lines());
    if let Some(goaccess) = installed("goaccess") {
        let report = proxy.home().join("report.json");
        let mut command = Command::new(goaccess);
        command.arg(&path).args(["--log-format=COMBINED", "--no-global-config", "-o"]).arg(&report);
        let output = run(command);
        assert!(output.status.success(), "{output:?}");
        let report = fs::read_to_string(report).expect("a report");
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        let general = &report["general"];
        assert_eq!(general["valid_requests"], 5, "{general}");
        assert_eq!(general["failed_requests"], 0, "{general}");
    }
    if let Some(fail2ban) = installed("fail2ban-regex") {
        let mut command = Command::new(fail2ban);
        command.arg(&path).arg(r#"^<HOST> \S+ \S+ \[[^\]]*\] "(?:[^"\\]|\\.)*" 401 "#);
        let output = run(command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("5 lines, 0 ignored, 5 matched"), "{text}");
    }
}

#[test]
fn a_condition_says_which_exchanges_have_a_line() {
    if is_of_http1("a head that is refused") {
        return;
    }
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let proxy = Setup::to(&origin)
        .set("log.access", true)
        .set("log.access_when", "status >= 400 or error")
        .set("log.access_file", "access.log")
        .start();
    proxy.send("GET /good HTTP/1.1\r\nHost: a\r\n\r\n").read_response();
    proxy.send("GET /bad\x01 HTTP/1.1\r\nHost: a\r\n\r\n").read_response();
    let path = proxy.home().join("access.log");
    let lines = || fs::read_to_string(&path).unwrap_or_default();
    wait_until("a line", || lines().lines().count() == 1);
    assert!(lines().contains("status=400") && !lines().contains("/good"), "{}", lines());
}
