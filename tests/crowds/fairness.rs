//! Connections to origins, handed out fairly: whoever is slow may be slow until somebody waits.
//!
//! Comes in: crowds from 127.0.0.1, each doing one slow thing with the standard configuration, and
//! guests from other addresses who want a page. Goes out: pages, at once; and what becomes of the
//! crowd, which is nothing where it does no harm.

use crate::support::{Client, Gate, Origin, Peer, Proxy, Setup};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// More than the hundred connections that an upstream may have.
const CROWD: usize = 110;

const PAGE: &str = "GET /page HTTP/1.1\r\nHost: test\r\n\r\n";

const SLOW: &str = "GET /slow HTTP/1.1\r\nHost: test\r\n\r\n";

/// A page takes no time. The rest is room for a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// As many clients from 127.0.0.1, each of which has sent `request`.
fn crowd(proxy: &Proxy, count: usize, request: impl AsRef<[u8]>) -> Vec<Client> {
    let one = |_| {
        let mut client = Client::connect_from(address(1), proxy.address());
        client.send(request.as_ref());
        client
    };
    (0..count).map(one).collect()
}

/// Guests from four addresses, one page after the other.
#[track_caller]
fn expect_pages(proxy: &Proxy, request: &str) {
    let mut guests: Vec<_> =
        (2..6).map(|last| Client::connect_from(address(last), proxy.address())).collect();
    for round in 0..10 {
        for (number, guest) in guests.iter_mut().enumerate() {
            let asked = Instant::now();
            guest.send(request).read_response().expect_status(200);
            let took = asked.elapsed();
            assert!(took < PATIENCE, "page {round} of guest {number} took {took:?}");
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers `/page` at once, and everything else as `other` does.
fn pages(other: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
    Origin::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            if head.target() == "/page" {
                peer.send(OK);
            } else {
                other(&mut peer);
            }
        }
    })
}

fn standard(origin: &Origin) -> Setup {
    Setup::to(origin).set("server.workers", 2)
}

#[test]
fn bodies_that_never_come_hold_no_connection() {
    let _machine = crate::alone();
    let origin = pages(|_| panic!("asked without a body"));
    let proxy = standard(&origin).start();
    let small = "POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf";
    let large = "POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n";
    let chunked = "POST /up HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut all = Vec::new();
    for request in [small, large, chunked] {
        all.extend(crowd(&proxy, CROWD, request));
    }
    expect_pages(&proxy, PAGE);
    assert_eq!(origin.seen().requests.len(), 0);
    // Nobody minds, and nobody was cut.
    all[0].expect_quiet_for(Duration::from_millis(50));
}

#[test]
fn a_body_that_comes_late_is_sent_as_if_it_had_come_with_its_head() {
    let _machine = crate::alone();
    let origin = Origin::answering(OK);
    let proxy = standard(&origin).start();
    for length in [10, 5000, 100_000] {
        let body = "b".repeat(length);
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        let mut client = proxy.send(head);
        client.wait_until_read();
        for piece in body.as_bytes().chunks(length / 2) {
            client.send(piece);
            client.wait_until_read();
        }
        client.read_response().expect_status(200);
        // What follows is the next request.
        client.send(PAGE).read_response().expect_status(200);
    }
    let bodies: Vec<_> = origin.seen().requests.iter().map(|it| it.body.len()).collect();
    assert_eq!(bodies, [10, 0, 5000, 0, 100_000, 0]);
}

#[test]
fn what_becomes_of_a_body_that_is_waited_for() {
    let _machine = crate::alone();
    let origin = Origin::untouchable();
    let proxy = standard(&origin).set("timeouts.read", "300ms").start();
    let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf";
    let chunked = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    proxy.send(head).read_response().expect_own_error(408, "Request Timeout", "http_request_error");
    let mut client = proxy.send(head);
    client.wait_until_read();
    client.half_close();
    client.read_response().expect_own_error(400, "Bad Request", "http_request_error");
    let mut client = proxy.send(chunked);
    client.wait_until_read();
    client.send("x\r\n");
    client.read_response().expect_own_error(400, "Bad Request", "http_request_error");
}

#[test]
fn clients_that_are_told_to_go_on_and_do_not_give_way() {
    let _machine = crate::alone();
    let origin = pages(|peer| {
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        peer.read_to_end();
    });
    let proxy = standard(&origin).start();
    let request =
        "POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    // What is handed to one of those that wait counts as his, and not as the guest's who had it.
    let _all = crowd(&proxy, 5 * CROWD, request);
    origin.wait_for("the crowd", |seen| seen.open() == 100);
    expect_pages(&proxy, PAGE);
}

#[test]
fn clients_that_do_not_take_their_answers_give_way() {
    let _machine = crate::alone();
    let body = vec![b'a'; 12 << 20];
    let origin = pages(move |peer| {
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
        // It breaks off where the proxy does.
        let _ = peer.stream().write_all(&body);
    });
    let proxy = standard(&origin).start();
    let mut all = Vec::new();
    for _ in 0..CROWD {
        let mut client = Client::with_small_window(proxy.address());
        client.send(SLOW);
        all.push(client);
    }
    origin.wait_for("the crowd", |seen| seen.open() == 100);
    expect_pages(&proxy, PAGE);
}

#[test]
fn a_slow_upstream_is_nobody_elses_affair() {
    let _machine = crate::alone();
    let (slow, gate) = Origin::held();
    let origin = pages(|_| {});
    let proxy = standard(&origin)
        .upstream("slow", &[&slow.url()], "")
        .route("", "/slow", "slow", "")
        .route("", "/", "origin", "")
        .start();
    let mut all = crowd(&proxy, CROWD, SLOW);
    slow.wait_for("the crowd", |seen| seen.open() == 100);
    expect_pages(&proxy, PAGE);
    // Its own crowd has lost nobody.
    gate.open();
    for client in &mut all {
        client.read_response().expect_status(200);
    }
}

#[test]
fn a_crowd_that_waits_for_answers_gives_way_as_far_as_it_has_more_than_its_share() {
    let _machine = crate::alone();
    let gate = Gate::default();
    let origin = pages({
        let gate = gate.clone();
        move |peer| {
            gate.wait();
            peer.send(OK);
        }
    });
    let proxy = standard(&origin).set("timeouts.pool", "20s").start();
    let mut all = crowd(&proxy, CROWD, SLOW);
    origin.wait_for("the crowd", |seen| seen.open() == 100);
    expect_pages(&proxy, PAGE);
    gate.open();
    let answers: Vec<_> = all.iter_mut().map(Client::read_response).collect();
    let yielded: Vec<_> = answers.iter().filter(|answer| answer.status() != 200).collect();
    // One for each page at most, and never one below the share.
    assert!((1..=40).contains(&yielded.len()), "{}", yielded.len());
    for answer in yielded {
        answer.expect_own_error(503, "Service Unavailable", "connection_limit_reached");
        answer.expect_field("Retry-After", "1");
    }
    proxy.wait_for_log(&["limits.min_body_rate"]);
}

#[test]
fn clients_that_have_asked_and_gone_give_way() {
    let _machine = crate::alone();
    let origin = pages(|peer| {
        peer.read_to_end();
    });
    let proxy = standard(&origin).start();
    let all = crowd(&proxy, CROWD, SLOW);
    for client in &all {
        client.half_close();
    }
    expect_pages(&proxy, PAGE);
}

#[test]
fn a_target_that_never_answers_is_nobody_elses_affair() {
    let _machine = crate::alone();
    let tarpit = Origin::silent();
    let origin = pages(|_| {});
    let proxy = Setup::forward().set("server.workers", 2).start();
    let request = format!("GET http://{}/ HTTP/1.1\r\nHost: test\r\n\r\n", tarpit.address());
    let _all = crowd(&proxy, CROWD, request);
    let page = format!("GET http://{}/page HTTP/1.1\r\nHost: test\r\n\r\n", origin.address());
    expect_pages(&proxy, &page);
}

#[test]
fn a_hundred_downloads_and_one_who_waits_cost_nobody_his_connection() {
    const PIECES: usize = 40;
    let _machine = crate::alone();
    let gate = Gate::default();
    let origin = pages({
        let gate = gate.clone();
        move |peer| {
            let piece = vec![b'a'; 4096];
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PIECES * 4096));
            gate.wait();
            for _ in 0..PIECES {
                peer.send(&piece);
                std::thread::sleep(Duration::from_millis(25));
            }
        }
    });
    let proxy = standard(&origin).start();
    let mut all = crowd(&proxy, 100, SLOW);
    origin.wait_for("the downloads", |seen| seen.open() == 100);
    gate.open();
    for client in &mut all {
        client.read_until("\r\n\r\n");
    }
    let mut guest = Client::connect_from(address(2), proxy.address());
    guest.send(PAGE);
    for client in &mut all {
        client.read_exact(PIECES * 4096);
    }
    guest.read_response().expect_status(200);
}

#[test]
fn a_slow_origin_and_a_single_address_know_no_errors() {
    let _machine = crate::alone();
    let origin = pages(|peer| {
        std::thread::sleep(Duration::from_millis(1500));
        peer.send(OK);
    });
    let proxy = standard(&origin).start();
    for mut client in crowd(&proxy, 2 * CROWD, SLOW) {
        client.read_response().expect_status(200);
    }
}

/// Answers anything but `/page` with a stream of events that says one thing and then nothing.
fn events() -> Origin {
    pages(|peer| {
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
        peer.read_to_end();
    })
}

#[test]
fn long_answers_leave_the_count_of_their_upstream_when_others_wait() {
    let _machine = crate::alone();
    let origin = events();
    let proxy = standard(&origin).start();
    let mut all = crowd(&proxy, 100, SLOW);
    for client in &mut all {
        client.read_until("data: 1");
    }
    std::thread::sleep(Duration::from_secs(11));
    for client in &mut all {
        client.forget();
    }
    // From the same address: it is no matter of shares.
    let mut page = proxy.connect();
    let asked = Instant::now();
    page.send(PAGE).read_response().expect_status(200);
    assert!(asked.elapsed() < PATIENCE);
    all[0].expect_quiet_for(Duration::from_millis(50));
    all[99].expect_quiet_for(Duration::from_millis(50));
}

#[test]
fn an_upstream_with_a_limit_of_its_own_has_no_more_than_that_whatever_they_carry() {
    let _machine = crate::alone();
    let origin = events();
    let proxy = Setup::new()
        .set("timeouts.pool", "200ms")
        .upstream("origin", &[&origin.url()], "max_connections = 3")
        .start();
    let mut all = crowd(&proxy, 3, SLOW);
    for client in &mut all {
        client.read_until("data: 1");
    }
    std::thread::sleep(Duration::from_secs(11));
    for client in &mut all {
        client.forget();
    }
    let mut page = proxy.connect();
    page.send(PAGE).read_response().expect_own_error(
        504,
        "Gateway Timeout",
        "connection_limit_reached",
    );
    assert_eq!(origin.seen().open(), 3);
    all[0].expect_quiet_for(Duration::from_millis(50));
}
