//! SIGTERM and SIGINT: nothing that was accepted is lost, nothing is left, and the status is 0.
//!
//! Gates at the origin keep requests under way until the signal has been given, so that a test does
//! not depend on being quick. `Proxy::expect_orderly_end` checks the figures of the last log line.

use crate::support::{
    Arrival, Client, Expected, GET, Gate, OK, Origin, Proxy, Setup, is_of_http1, pattern,
    speaks_http2, wait_until,
};
use nix::sys::signal::Signal;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Waits until the proxy takes no more connections, which is the first thing it does.
#[track_caller]
fn wait_until_closed_to_new_clients(proxy: &Proxy) {
    wait_until("the proxy refuses connections", || TcpStream::connect(proxy.address()).is_err());
}

#[test]
fn requests_under_way_are_answered_before_the_end() {
    const CLIENTS: usize = 20;
    for (signal, workers) in [(Signal::SIGTERM, 2), (Signal::SIGINT, 1)] {
        let (origin, is_open) = Origin::held();
        let mut proxy = Setup::to(&origin).set("server.workers", workers).start();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.send(GET)).collect();
        origin.wait_for("every request", |seen| seen.requests.len() == CLIENTS);
        proxy.signal(signal);
        wait_until_closed_to_new_clients(&proxy);
        is_open.open();
        for client in &mut clients {
            let response = client.read_response();
            response.expect_status(200).expect_body("ok");
            // By HTTP/2, GOAWAY says it.
            let is_told = speaks_http2() || response.list("Connection").contains(&"close");
            assert!(is_told, "{response}");
            client.expect_orderly_close();
        }
        proxy.expect_orderly_end();
    }
}

#[test]
fn idle_connections_are_closed_and_hold_nothing_up() {
    let origin = Origin::answering(OK);
    let mut proxy = Setup::to(&origin).set("server.drain_timeout", "15s").start();
    let mut used = proxy.send(GET);
    used.expect_status(200);
    let mut fresh = proxy.connect();
    // Accepted, since a later one was.
    proxy.get().expect_status(200);
    let started = Instant::now();
    proxy.signal(Signal::SIGTERM);
    used.expect_orderly_close();
    fresh.expect_orderly_close();
    proxy.expect_orderly_end();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    origin.wait_for("the end of its connections", |seen| seen.open() == 0);
}

#[test]
fn bodies_under_way_are_finished() {
    let is_open = Gate::default();
    let origin = Origin::start({
        let is_open = is_open.clone();
        move |mut peer| {
            let mut request = peer.expect_head();
            if request.method() == "GET" {
                let body = pattern(2_000_000);
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n");
                peer.send(&body[..500_000]);
                is_open.wait();
                peer.send(&body[500_000..]);
            } else {
                peer.read_body(&mut request, Expected::Request);
                request.expect_body(pattern(2_000_000));
                peer.send(OK);
            }
            peer.hold();
        }
    });
    let mut proxy = Proxy::to(&origin);
    let mut down = proxy.send(GET);
    let mut response = down.read_head().expect("a head");
    let mut up = proxy.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 2000000\r\n\r\n");
    let body = pattern(2_000_000);
    up.send(&body[..500_000]);
    origin.wait_for("both requests", |seen| seen.connections.len() == 2);
    proxy.signal(Signal::SIGTERM);
    wait_until_closed_to_new_clients(&proxy);
    is_open.open();
    up.send(&body[500_000..]).expect_status(200).expect_closed();
    down.read_body(&mut response, Expected::Response);
    response.expect_body(&body);
    down.expect_closed();
    proxy.expect_orderly_end();
}

#[test]
fn what_takes_longer_than_the_drain_timeout_is_cut() {
    let origin = Origin::silent();
    let mut proxy = Setup::to(&origin).set("server.drain_timeout", "500ms").start();
    let mut client = proxy.send(GET);
    origin.wait_for("the request", |seen| !seen.bytes().is_empty());
    let started = Instant::now();
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.wait_for_end().success());
    let elapsed = started.elapsed();
    assert!(
        (Duration::from_millis(400)..Duration::from_secs(10)).contains(&elapsed),
        "{elapsed:?}"
    );
    client.expect_no_success();
}

#[test]
fn a_proxy_that_never_served_anybody_stops_as_well() {
    let origin = Origin::untouchable();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut proxy = Setup::to(&origin).set("server.workers", 2).set("pool.prewarm", 2).start();
        proxy.signal(signal);
        proxy.expect_orderly_end();
    }
}

/// What a client of the load saw.
#[derive(Default)]
struct Tally {
    answered: usize,
    lost: Vec<String>,
}

/// One request after another on one connection, until the proxy says that it closes it.
fn load(client: &mut Client, has_begun: &Gate) -> Tally {
    let mut tally = Tally::default();
    loop {
        client.send(GET);
        match client.read_message(Expected::Response) {
            Some(response) if response.is_whole() && response.status() == 200 => {
                tally.answered += 1;
                if tally.answered == 50 {
                    has_begun.open();
                }
                if response.list("Connection").contains(&"close") {
                    return tally;
                }
            }
            Some(response) => tally.lost.push(response.to_string()),
            None => tally.lost.push(format!("nothing after {} answers", tally.answered)),
        }
        if !tally.lost.is_empty() {
            return tally;
        }
    }
}

#[test]
fn not_one_request_fails_under_load() {
    const CLIENTS: usize = 8;
    if is_of_http1(
        "a client that is told by an answer that it was the last: http2/leaving.rs has GOAWAY",
    ) {
        return;
    }
    let origin = Origin::answering(OK);
    for workers in [1, 2] {
        let mut proxy = Setup::to(&origin).set("server.workers", workers).start();
        let gates: [Gate; CLIENTS] = std::array::from_fn(|_| Gate::default());
        let tallies: Vec<_> = thread::scope(|scope| {
            let proxy = &proxy;
            let threads: Vec<_> = gates
                .iter()
                .map(|gate| scope.spawn(move || load(&mut proxy.connect(), gate)))
                .collect();
            for gate in &gates {
                gate.wait();
            }
            proxy.signal(Signal::SIGTERM);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        proxy.expect_orderly_end();
        let lost: Vec<_> = tallies.iter().flat_map(|tally| &tally.lost).collect();
        assert!(lost.is_empty(), "{} requests were lost: {lost:#?}", lost.len());
    }
}

#[test]
fn a_head_that_has_begun_may_be_finished() {
    if is_of_http1("a head in two pieces") {
        return;
    }
    let origin = Origin::answering(OK);
    let mut proxy = Proxy::to(&origin);
    let mut client = proxy.send("GET / HTTP/1.1\r\nHo");
    client.wait_until_read();
    proxy.signal(Signal::SIGTERM);
    wait_until_closed_to_new_clients(&proxy);
    client.send("st: test\r\n\r\n").expect_status(200).expect_closed();
    proxy.expect_orderly_end();
}

#[test]
fn requests_pipelined_before_the_signal_are_answered() {
    if is_of_http1("requests that wait for the answers before them") {
        return;
    }
    let (origin, is_open) = Origin::held();
    let mut proxy = Proxy::to(&origin);
    let mut client = proxy.send(GET.repeat(3));
    client.wait_until_read();
    origin.wait_for("the first request", |seen| seen.requests.len() == 1);
    proxy.signal(Signal::SIGTERM);
    wait_until_closed_to_new_clients(&proxy);
    is_open.open();
    // RFC 9112 §9.6: after it has said close, a server answers nothing more.
    let mut answers = 0;
    while let Some(response) = client.read_message(Expected::Response) {
        response.expect_status(200);
        answers += 1;
        let is_last = response.list("Connection").contains(&"close");
        assert!(!is_last || client.receive() != Arrival::Bytes, "more after close");
        if is_last {
            break;
        }
    }
    assert!(answers >= 1);
    proxy.expect_orderly_end();
}

#[test]
fn a_second_signal_cuts_what_is_under_way() {
    let origin = Origin::silent();
    let mut proxy = Setup::to(&origin).set("server.drain_timeout", "1h").start();
    let mut client = proxy.send(GET);
    origin.wait_for("the request", |seen| !seen.bytes().is_empty());
    proxy.signal(Signal::SIGTERM);
    wait_until_closed_to_new_clients(&proxy);
    proxy.signal(Signal::SIGTERM);
    client.expect_no_success();
    assert!(proxy.wait_for_end().success());
}
