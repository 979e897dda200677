//! The first minute with ringway: no file, no origin of one's own, and an answer all the same.
//!
//! Comes in: the program with nothing but a port. The built-in demo origin is reached through the
//! whole data path, and each of its pages does what docs/start/first-steps.md says of it.

use crate::support::{self, Client, Ending, GET, Home, Message, Proxy, ringway};
use std::time::{Duration, Instant};

/// `ringway --port 0` in an empty directory: built-in defaults, one upstream, the demo.
fn demo() -> Proxy {
    let home = Home::new();
    let mut command = ringway();
    command.args(["--host", "127.0.0.1", "--port", "0", "--workers", "2"]).current_dir(home.path());
    Proxy::spawn(command, home, 1)
}

fn ask(client: &mut Client, method: &str, target: &str) -> Message {
    client.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")).read_response()
}

#[test]
fn a_page_greets_through_the_whole_data_path() {
    let proxy = demo();
    let page = proxy.get();
    page.expect_status(200);
    assert!(!page.body.is_empty(), "{page}");
}

#[test]
fn the_shipped_file_and_the_built_in_defaults_do_the_same() {
    let home = Home::new();
    home.write("config.toml", include_str!("../../config.toml"));
    let mut command = ringway();
    command.args(["--host", "127.0.0.1", "--port", "0"]).current_dir(home.path());
    let filed = Proxy::spawn(command, home, 1);
    let (filed_page, demo_page) = (filed.get(), demo().get());
    filed_page.expect_status(200).expect_body(demo_page.body);
}

#[test]
fn start_up_names_every_listener_upstream_and_worker() {
    let proxy = demo();
    proxy.wait_for_log(&["listening", "address=127.0.0.1:"]);
    proxy.wait_for_log(&["upstream", "demo"]);
    proxy.get().expect_status(200);
    let workers = proxy.log_lines().into_iter().filter(|line| line.contains("worker")).count();
    assert!(workers >= 2, "{:#?}", proxy.log_lines());
    let coloured = proxy.log_lines().into_iter().find(|line| line.contains('\u{1b}'));
    assert_eq!(coloured, None, "colours are for terminals");
}

#[test]
fn bytes_come_in_the_number_asked_for() {
    let proxy = demo();
    let mut client = proxy.connect();
    for count in [0, 1, 65_536, 1_000_000, 10_000_000] {
        let response = ask(&mut client, "GET", &format!("/bytes/{count}"));
        response.expect_status(200).expect_field("Content-Length", &count.to_string());
        assert_eq!(response.body.len(), count);
    }
    client.send("HEAD /bytes/5000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.read_response_to_head().expect_status(200).expect_field("Content-Length", "5000");
    ask(&mut client, "GET", "/").expect_status(200);
}

#[test]
fn chunks_come_in_the_number_asked_for() {
    let proxy = demo();
    let response = ask(&mut proxy.connect(), "GET", "/chunked/7");
    assert_eq!((response.status(), response.ending), (200, Ending::Chunked));
    assert!(!response.body.is_empty(), "{response}");
}

#[test]
fn delay_waits_and_status_is_as_asked() {
    let proxy = demo();
    let mut client = proxy.connect();
    let started = Instant::now();
    ask(&mut client, "GET", "/delay/200").expect_status(200);
    assert!(started.elapsed() >= Duration::from_millis(200));
    for status in [200, 201, 404, 418, 500, 503] {
        ask(&mut client, "GET", &format!("/status/{status}")).expect_status(status);
    }
    client.send("GET /status/204 HTTP/1.1\r\nHost: localhost\r\n\r\n").expect_status(204);
    ask(&mut client, "GET", "/status/nonsense").expect_status(400);
    ask(&mut client, "GET", "/no-such-page").expect_status(404);
}

#[test]
fn echo_returns_what_it_was_sent() {
    let proxy = demo();
    let mut client = proxy.connect();
    let body = support::pattern(300_000);
    let head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/x\r\n";
    client.send(format!("{head}Content-Length: 300000\r\n\r\n")).send(&body);
    client
        .read_response()
        .expect_status(200)
        .expect_body(&body)
        .expect_field("Content-Type", "image/x");
    client
        .send(format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"));
    client.read_response().expect_status(200).expect_body("abcde");
    let seen = ask(&mut client, "GET", "/echo?x=y").text().to_lowercase();
    for part in
        ["get /echo?x=y http/1.1", "host: localhost", "cdn-loop: ringway", "x-forwarded-for"]
    {
        assert!(seen.contains(part), "expected {part:?} in {seen}");
    }
}

#[test]
fn events_come_one_at_a_time() {
    let proxy = demo();
    let mut client = proxy.send("GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.read_head().expect("a head");
    assert!(head.field("Content-Type").is_some_and(|kind| kind.starts_with("text/event-stream")));
    let started = Instant::now();
    for _ in 0..4 {
        client.read_until("data:");
    }
    assert!(started.elapsed() >= Duration::from_millis(150), "all at once is no stream");
    client.reset();
}

#[test]
fn a_hundred_requests_share_the_prewarmed_connections() {
    let proxy = demo();
    let mut client = proxy.connect();
    for _ in 0..100 {
        client.send(GET).expect_status(200);
    }
}

#[test]
fn the_demo_says_that_it_is_one_and_a_file_without_an_upstream_is_none() {
    let proxy = demo();
    proxy.wait_for_log(&["WARN", "this is the demo"]);
    let first = proxy.log_lines().remove(0);
    for part in ["ringway version=", " pid=", "configuration=\"built-in defaults\"", "log_level="] {
        assert!(first.contains(part), "{part}: {first}");
    }
    let home = Home::new();
    home.write("config.toml", "[server]\nhost = \"127.0.0.1\"\nport = 0\n");
    let mut command = ringway();
    command.args(["--set", "admin.enabled=false"]).current_dir(home.path());
    let proxy = Proxy::spawn(command, home, 1);
    proxy.wait_for_log(&["WARN", "there is no upstream"]);
    proxy.get().expect_status(404);
}

#[test]
fn a_command_goes_by_how_the_ringway_in_its_folder_was_started() {
    let home = Home::new();
    let socket = home.path().join("admin.sock");
    let mut command = ringway();
    command.args(["--host", "127.0.0.1", "--port", "0", "--workers", "1", "--upstream"]);
    command.args(["http://127.0.0.1:9", "--set"]).current_dir(home.path());
    command.arg(format!("admin.address=unix:{}", socket.display()));
    command.env("RINGWAY_TIMEOUTS__READ", "7s");
    let proxy = Proxy::spawn(command, home, 1);
    let say = |arguments: &[&str]| {
        let mut command = ringway();
        command.args(arguments).current_dir(proxy.home());
        let output = support::run(command);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let health = say(&["health"]);
    assert!(health.starts_with("ok: pid "), "{health}");
    assert!(health.contains("built-in defaults and flags"), "{health}");
    assert!(say(&["health", "--json"]).starts_with("{\"status\":\"ok\""));
    assert!(say(&["explain", "GET", "/", "-H", "Host: a"]).contains("http://127.0.0.1:9"));
    assert!(say(&["dump-config"]).contains("read = \"7s\""));
    assert!(say(&["reload"]).starts_with("configuration 2 is in use: pid "));
    assert!(say(&["top", "--once"]).contains("generation 2"));
    // What is given counts, whoever runs here.
    assert!(say(&["--port", "81", "dump-config"]).contains("read = \"1m\""));
}

/// Which of them would be meant, nobody can know.
#[test]
fn where_two_run_in_one_folder_a_command_goes_by_neither() {
    let home = Home::new();
    let folder = home.path().to_owned();
    let start = |home: Home| {
        let mut command = ringway();
        command.args(["--host", "127.0.0.1", "--port", "0", "--workers", "1"]);
        command.args(["--upstream", "http://127.0.0.1:9", "--set", "admin.enabled=false"]);
        command.current_dir(&folder);
        Proxy::spawn(command, home, 1)
    };
    let dump = || {
        let mut command = ringway();
        command.arg("dump-config").current_dir(&folder);
        String::from_utf8(support::run(command).stdout).unwrap()
    };
    let first = start(home);
    assert!(dump().contains("http://127.0.0.1:9"));
    let second = start(Home::new());
    assert!(!dump().contains("http://127.0.0.1:9"));
    second.stop();
    first.stop();
}
