//! Every wait for a peer ends, at the configured time and with the promised answer.
//!
//! The timeouts under test are short, and the event that ends each wait is what the test waits for.
//! Measured times are held against the timeout as a lower bound only: being early is a fault, being
//! late is the machine.

use crate::support::{
    Blackhole, Client, DEADLINE, Expected, GET, Gate, OK, Origin, Setup, is_of_http1, pattern,
};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const SHORT: &str = "300ms";

/// `SHORT`, less one tick of a clock that may have started before ours.
const SHORT_MIN: Duration = Duration::from_millis(200);

/// Runs `wait` and demands that it did not end before `SHORT` had passed.
#[track_caller]
fn not_before_short<T>(wait: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = wait();
    let elapsed = started.elapsed();
    assert!(elapsed >= SHORT_MIN, "ended after {elapsed:?}");
    result
}

#[test]
fn an_origin_that_never_accepts_is_a_gateway_timeout() {
    let blackhole = Blackhole::new();
    let proxy = Setup::to_url(&blackhole.url()).set("timeouts.connect", SHORT).start();
    let mut client = proxy.send(GET);
    not_before_short(|| client.read_response()).expect_own_error(
        504,
        "Gateway Timeout",
        "connection_timeout",
    );
    client.send(GET).expect_status(504);
}

#[test]
fn an_origin_that_never_accepts_is_passed_over() {
    let (blackhole, origin) = (Blackhole::new(), Origin::answering(OK));
    let proxy = Setup::new()
        .upstream("both", &[&blackhole.url(), &origin.url()], "")
        .set("timeouts.connect", SHORT)
        .start();
    for _ in 0..4 {
        proxy.get().expect_status(200);
    }
}

#[test]
fn an_origin_that_never_answers_is_a_gateway_timeout() {
    for beginning in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
        let origin = Origin::start(move |mut peer| {
            peer.expect_request();
            peer.send(beginning);
            peer.hold();
        });
        let proxy = Setup::to(&origin).set("timeouts.read", SHORT).start();
        let mut client = proxy.send(GET);
        not_before_short(|| client.read_response()).expect_own_error(
            504,
            "Gateway Timeout",
            "http_response_timeout",
        );
        // The connection is in an unknown state: it must not wait for another request.
        origin.wait_for("the end of the connection", |seen| seen.open() == 0);
        assert_eq!(origin.seen().requests.len(), 1);
    }
}

#[test]
fn a_request_is_not_repeated_after_a_timeout() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        peer.send(OK);
        peer.next_request();
        peer.hold();
    });
    let proxy = Setup::to(&origin).set("timeouts.read", SHORT).start();
    proxy.get().expect_status(200);
    proxy.get().expect_status(504);
    assert_eq!(origin.seen().requests.len(), 2);
}

#[test]
fn an_answer_that_stops_coming_is_cut() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\n\r\nok",
    ] {
        let origin = Origin::start(move |mut peer| {
            peer.expect_request();
            peer.send(answer);
            peer.hold();
        });
        let proxy = Setup::to(&origin).set("timeouts.read", SHORT).start();
        let mut client = proxy.send(GET);
        let response = not_before_short(|| client.read_cut_response());
        response.expect_status(200).expect_body("ok");
        origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    }
}

#[test]
fn an_answer_that_keeps_coming_may_take_longer_than_the_timeout() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
        for byte in "on it go".as_bytes().chunks(1) {
            // The pace of the origin, not a wait for anything.
            thread::park_timeout(Duration::from_millis(100));
            peer.send(byte);
        }
        peer.hold();
    });
    let proxy = Setup::to(&origin).set("timeouts.read", "500ms").start();
    let started = Instant::now();
    proxy.get().expect_status(200).expect_body("on it go");
    assert!(started.elapsed() > Duration::from_millis(500));
}

#[test]
fn a_head_that_does_not_end_is_a_request_timeout() {
    if is_of_http1("a head without an end") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).set("timeouts.client_head", SHORT).start();
    for beginning in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: test\r\n"] {
        let mut client = proxy.send(beginning);
        let response = not_before_short(|| client.read_response());
        response.expect_status(408);
        assert!(response.list("Connection").contains(&"close"), "{response}");
        client.expect_closed();
    }
}

#[test]
fn a_head_that_trickles_in_gains_no_time() {
    if is_of_http1("a head that comes byte by byte") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).set("timeouts.client_head", SHORT).start();
    let mut client = proxy.send("GET / HTTP/1.1\r\nHost: test\r\nX: ");
    // The pace of the client: well within the timeout, until the answer interrupts it.
    while client.is_quiet_for(Duration::from_millis(50)) {
        client.send("x");
    }
    client.expect_status(408);
}

#[test]
fn a_second_head_on_a_connection_has_its_own_time() {
    if is_of_http1("a head without an end") {
        return;
    }
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("timeouts.client_head", SHORT).start();
    let mut client = proxy.send(GET);
    client.expect_status(200).send("GET / HTTP/1.1\r\nHost: te");
    not_before_short(|| client.read_response()).expect_status(408);
    client.expect_closed();
}

#[test]
fn an_idle_client_is_closed_without_a_word() {
    if is_of_http1("an end without a word: GOAWAY is tested in http2/leaving.rs") {
        return;
    }
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("timeouts.client_idle", SHORT).start();
    let mut client = proxy.send(GET);
    client.expect_status(200);
    not_before_short(|| client.expect_orderly_close());
}

#[test]
fn a_client_that_never_says_anything_is_closed_without_a_word() {
    if is_of_http1("a client without a preface") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin)
        .set("timeouts.client_idle", SHORT)
        .set("timeouts.client_head", SHORT)
        .start();
    let mut client = proxy.connect();
    not_before_short(|| client.expect_orderly_close());
}

#[test]
fn a_request_body_that_stops_coming_is_a_request_timeout() {
    for body in ["Content-Length: 10\r\n\r\nok", "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"] {
        let origin = Origin::silent();
        let proxy = Setup::to(&origin).set("timeouts.read", SHORT).start();
        let mut client = proxy.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{body}"));
        not_before_short(|| client.read_response()).expect_status(408);
        client.expect_closed();
        origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    }
}

/// `limits.min_body_rate` is for those who keep others waiting.
#[test]
fn a_request_body_that_only_trickles_goes_on_while_nobody_waits() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("limits.min_body_rate", 1_000).start();
    let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = proxy.send(head);
    for _ in 0..4 {
        // The pace of the client: longer in all than the grace of 10 s.
        client.expect_quiet_for(Duration::from_secs(3));
        client.send("5\r\nline\n\r\n");
    }
    client.send("0\r\n\r\n").expect_status(200);
}

#[test]
fn a_client_that_waits_for_continue_is_not_too_slow() {
    let is_willing = Gate::default();
    let origin = Origin::start({
        let is_willing = is_willing.clone();
        move |mut peer| {
            let mut request = peer.expect_head();
            is_willing.wait();
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            peer.read_body(&mut request, Expected::Request);
            peer.send(OK);
            peer.hold();
        }
    });
    let proxy = Setup::to(&origin).set("limits.min_body_rate", 1_000).start();
    let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let mut client = proxy.send(head);
    // Longer than the grace of 10 s, after which its rate would count if it were its turn.
    client.expect_quiet_for(Duration::from_secs(11));
    is_willing.open();
    client.expect_status(100).send("body").expect_status(200);
}

/// Far more than the kernel takes in for two connections.
const ENDLESS: usize = 128 << 20;

#[test]
fn a_client_that_does_not_read_loses_its_connection() {
    let body = Arc::new(pattern(ENDLESS));
    let origin = Origin::start(move |mut peer| {
        peer.expect_request();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {ENDLESS}\r\n\r\n"));
        peer.send(&*body);
    });
    let proxy = Setup::to(&origin).set("timeouts.client_write", SHORT).start();
    let mut client = Client::with_small_window(proxy.address());
    client.send(GET);
    origin.wait_for("the end of the connection", |seen| {
        seen.connections.len() == 1 && seen.open() == 0
    });
    assert!(client.read_cut_response().body.len() < ENDLESS);
}

#[test]
fn an_origin_that_does_not_read_is_given_up() {
    let is_over = Gate::default();
    let origin = Origin::start({
        let is_over = is_over.clone();
        move |mut peer| {
            peer.expect_head();
            is_over.wait();
        }
    });
    let proxy = Setup::to(&origin).set("timeouts.read", SHORT).start();
    // Made before it is sent, and sent for as long as it is taken: the origin alone is to blame.
    let body = pattern(ENDLESS);
    let mut client =
        proxy.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {ENDLESS}\r\n\r\n"));
    let mut sender = client.another_handle();
    let sending = thread::spawn(move || sender.send_until_stalled(&body, DEADLINE));
    client.read_response().expect_own_error(504, "Gateway Timeout", "connection_write_timeout");
    client.expect_closed();
    // How much of the rest is thrown away for it is not this test's affair.
    sending.join().unwrap();
    is_over.open();
}

#[test]
fn a_slow_client_that_keeps_reading_keeps_its_connection() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n");
        peer.send(pattern(8_000_000));
        peer.hold();
    });
    let proxy = Setup::to(&origin).set("timeouts.client_write", "1s").start();
    let mut client = Client::with_small_window(proxy.address());
    client.send(GET).read_head().expect("a head").expect_status(200);
    let started = Instant::now();
    for piece in pattern(8_000_000).chunks(500_000) {
        // The pace of the client.
        thread::park_timeout(Duration::from_millis(100));
        assert!(client.read_exact(piece.len()) == piece, "another byte came");
    }
    assert!(started.elapsed() > Duration::from_secs(1));
}
