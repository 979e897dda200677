//! Connections to the origin: kept, watched, limited, warmed, and given up at the right moment.
//!
//! The origin's journal says which connection a request came on. Gates hold answers back, so that a
//! test decides how many requests are under way and in which order connections come home.

use crate::support::{
    Arrival, Client, GET, Gate, Message, NameServer, Origin, Peer, Proxy, Refusal, Setup,
    is_of_http1, wait_until,
};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Answers with the number of the connection.
fn naming_connections() -> Origin {
    Origin::start(|mut peer| {
        while peer.next_request().is_some() {
            send_number(&mut peer);
        }
    })
}

fn send_number(peer: &mut Peer) {
    let body = peer.number.to_string();
    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
}

/// Answers each request when the gate that its target names is open.
fn gated<const GATES: usize>() -> (Origin, Arc<[Gate; GATES]>) {
    let gates: Arc<[Gate; GATES]> = Arc::new(std::array::from_fn(|_| Gate::default()));
    let origin = Origin::start({
        let gates = Arc::clone(&gates);
        move |mut peer| {
            while let Some(request) = peer.next_request() {
                gates[request.target()[1..].parse::<usize>().expect("a number")].wait();
                send_number(&mut peer);
            }
        }
    });
    (origin, gates)
}

fn one_connection(origin: &Origin) -> Setup {
    Setup::to(origin).set("pool.max_connections", 1).set("pool.max_idle", 1)
}

fn get(target: usize) -> String {
    format!("GET /{target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

#[test]
fn a_connection_serves_one_client_after_another() {
    let origin = naming_connections();
    let proxy = Proxy::to(&origin);
    for _ in 0..10 {
        proxy.get().expect_body("0");
    }
    assert_eq!(origin.seen().connections.len(), 1);
}

#[test]
fn the_connection_that_came_home_last_leaves_first() {
    let (origin, gates) = gated::<4>();
    let proxy = Proxy::to(&origin);
    let mut clients: Vec<_> = (0..3)
        .map(|number| {
            let client = proxy.send(get(number));
            origin.wait_for("the next request", |seen| seen.requests.len() == number + 1);
            client
        })
        .collect();
    for number in [2, 0, 1] {
        gates[number].open();
        clients[number].read_response().expect_body(number.to_string());
    }
    gates[3].open();
    for _ in 0..3 {
        proxy.send(get(3)).read_response().expect_body("1");
    }
}

/// What `end` does to the first connection, while it is idle, makes the proxy drop it without a
/// request; the next request gets another one.
#[track_caller]
fn expect_dropped_at_once(end: fn(&mut Peer)) {
    let is_over = Gate::default();
    let origin = Origin::start({
        let is_over = is_over.clone();
        move |mut peer| {
            peer.expect_request();
            send_number(&mut peer);
            if peer.number == 0 {
                is_over.wait();
                end(&mut peer);
            }
            // Ends when the proxy closes its side too.
            peer.hold();
        }
    });
    let proxy = Proxy::to(&origin);
    proxy.get().expect_body("0");
    is_over.open();
    origin.wait_for("the proxy to close", |seen| seen.open() == 0);
    proxy.get().expect_body("1");
}

#[test]
fn an_idle_connection_that_the_origin_closes_is_dropped_at_once() {
    expect_dropped_at_once(|peer| {
        peer.half_close();
    });
}

#[test]
fn an_idle_connection_with_stray_bytes_is_dropped_at_once() {
    expect_dropped_at_once(|peer| {
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
    });
}

#[test]
fn an_idle_connection_that_is_reset_is_dropped_at_once() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        send_number(&mut peer);
        peer.reset();
    });
    let proxy = Proxy::to(&origin);
    let before = proxy.open_files();
    proxy.get().expect_body("0");
    proxy.wait_for_open_files(before);
    proxy.get().expect_body("1");
}

/// Connection 0 answers once and dies over its second request; the next one answers everything.
fn dying_when_reused(last_words: &'static str, end: fn(Peer)) -> Origin {
    Origin::start(move |mut peer| {
        if peer.number > 0 {
            while peer.next_request().is_some() {
                send_number(&mut peer);
            }
            return;
        }
        peer.expect_request();
        send_number(&mut peer);
        // The proxy may be quicker to notice an early end than the test to use it: wait for bytes.
        if peer.next_request().is_some() {
            peer.send(last_words);
            end(peer);
        }
    })
}

#[test]
fn a_request_that_may_be_repeated_survives_the_death_of_a_reused_connection() {
    for end in [drop, Peer::reset] {
        for method in ["GET", "HEAD", "OPTIONS", "DELETE", "PUT"] {
            let origin = dying_when_reused("", end);
            let proxy = Proxy::to(&origin);
            proxy.get().expect_body("0");
            let request = format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n");
            let response = proxy.send(request).read_response_to_head();
            response.expect_status(200);
            assert_eq!(origin.seen().requests.len(), 3, "{method} was sent twice");
        }
    }
}

#[test]
fn a_request_that_must_not_be_repeated_is_sent_once() {
    let body = "Content-Length: 4\r\n\r\nbody";
    for request in [
        format!("POST / HTTP/1.1\r\nHost: test\r\n{body}"),
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("PATCH / HTTP/1.1\r\nHost: test\r\n{body}"),
        "UNKNOWN / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
    ] {
        let origin = dying_when_reused("", drop);
        let proxy = Proxy::to(&origin);
        proxy.get().expect_body("0");
        let response = proxy.send(&request).read_response();
        response.expect_own_error(502, "Bad Gateway", "connection_terminated");
        assert_eq!(origin.seen().requests.len(), 2, "{request:?} was sent once");
    }
}

#[test]
fn a_request_is_not_repeated_once_an_answer_has_begun() {
    let origin = dying_when_reused("HTTP/1.1 200 OK\r\nContent-", drop);
    let proxy = Proxy::to(&origin);
    proxy.get().expect_body("0");
    proxy.get().expect_status(502);
    assert_eq!(origin.seen().requests.len(), 2);
}

#[test]
fn a_request_is_not_repeated_when_a_new_connection_dies() {
    let origin = Origin::start(|mut peer| {
        peer.next_request();
    });
    let proxy = Proxy::to(&origin);
    proxy.get().expect_own_error(502, "Bad Gateway", "connection_terminated");
    origin.only_request();
}

#[test]
fn a_request_is_repeated_once_and_on_a_new_connection() {
    if is_of_http1("an order among clients that each begin by themselves") {
        return;
    }
    let gates: Arc<[Gate; 2]> = Arc::default();
    let origin = Origin::start({
        let gates = Arc::clone(&gates);
        move |mut peer| {
            if let Some(gate) = gates.get(peer.number) {
                peer.expect_request();
                gate.wait();
                send_number(&mut peer);
            }
            // Every connection dies over the next request it gets.
            peer.next_request();
        }
    });
    let proxy = Proxy::to(&origin);
    let mut clients: Vec<_> = (0..2).map(|_| proxy.send(GET)).collect();
    origin.wait_for("two connections", |seen| seen.requests.len() == 2);
    for (client, gate) in clients.iter_mut().zip(&*gates) {
        gate.open();
        client.expect_status(200);
    }
    // Two idle connections, both about to die: one is tried, then a third that is new. Not both.
    proxy.get().expect_status(502);
    let seen = origin.seen();
    assert_eq!((seen.requests.len(), seen.connections.len()), (4, 3));
}

#[test]
fn no_more_connections_are_opened_than_allowed() {
    const CLIENTS: usize = 8;
    for workers in [1, 2] {
        let (origin, is_open) = Origin::held();
        let proxy = Setup::to(&origin)
            .set("server.workers", workers)
            .set("pool.max_connections", 2)
            .set("pool.max_idle", 2)
            .start();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.send(GET)).collect();
        origin.wait_for("two requests", |seen| seen.requests.len() == 2);
        for client in &mut clients {
            client.wait_until_read();
        }
        clients[0].expect_quiet_for(Duration::from_millis(50));
        assert_eq!(origin.seen().connections.len(), 2, "{workers} workers");
        is_open.open();
        for client in &mut clients {
            client.expect_status(200);
        }
        assert_eq!(origin.seen().requests.len(), CLIENTS);
    }
}

#[test]
fn whoever_waits_longest_for_a_connection_gets_it_first() {
    let (origin, gates) = gated::<5>();
    let proxy = one_connection(&origin).start();
    let clients: Vec<_> = (0..5)
        .map(|number| {
            let client = proxy.send(get(number));
            client.wait_until_read();
            client
        })
        .collect();
    for (number, mut client) in clients.into_iter().enumerate() {
        origin.wait_for("the next in line", |seen| seen.requests.len() == number + 1);
        gates[number].open();
        client.expect_status(200);
    }
    let targets: Vec<_> = origin.seen().requests.iter().map(|r| r.target().to_owned()).collect();
    assert_eq!(targets, ["/0", "/1", "/2", "/3", "/4"]);
}

#[test]
fn waiting_for_a_connection_has_an_end() {
    for (status, reason) in [(504, "Gateway Timeout"), (503, "Service Unavailable")] {
        let (origin, gates) = gated::<1>();
        let proxy = one_connection(&origin)
            .set("timeouts.pool", "200ms")
            .set("timeouts.pool_status", status)
            .start();
        let mut first = proxy.send(get(0));
        origin.wait_for("the first request", |seen| seen.requests.len() == 1);
        let asked = Instant::now();
        let mut second = proxy.send(GET);
        second.read_response().expect_own_error(status, reason, "connection_limit_reached");
        assert!(asked.elapsed() >= Duration::from_millis(200));
        gates[0].open();
        first.expect_status(200);
        // The connection is free again, and the client that had to wait may use it.
        second.send(get(0)).expect_status(200);
        assert_eq!(origin.seen().connections.len(), 1);
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_leaves_the_queue() {
    let (origin, gates) = gated::<2>();
    let proxy = one_connection(&origin).start();
    let mut first = proxy.send(get(0));
    origin.wait_for("the first request", |seen| seen.requests.len() == 1);
    let second = proxy.send(get(1));
    second.wait_until_read();
    second.reset();
    let mut third = proxy.send(get(1));
    third.wait_until_read();
    gates[0].open();
    gates[1].open();
    first.expect_status(200);
    third.expect_status(200);
}

#[test]
fn idle_connections_beyond_the_limit_are_trimmed() {
    let (origin, gates) = gated::<1>();
    let proxy = Setup::to(&origin).set("pool.max_idle", 1).start();
    let mut clients: Vec<_> = (0..4).map(|_| proxy.send(get(0))).collect();
    origin.wait_for("four connections", |seen| seen.requests.len() == 4);
    gates[0].open();
    for client in &mut clients {
        client.expect_status(200);
    }
    origin.wait_for("one idle connection", |seen| seen.open() == 1);
    proxy.send(get(0)).expect_status(200);
    assert_eq!(origin.seen().connections.len(), 4);
}

#[test]
fn idle_connections_expire() {
    let origin = naming_connections();
    let proxy = Setup::to(&origin).set("pool.idle_expiry", "400ms").start();
    proxy.get().expect_body("0");
    let idle_since = Instant::now();
    origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    // The clock of the proxy may have started a tick before ours.
    assert!(idle_since.elapsed() >= Duration::from_millis(300), "{:?}", idle_since.elapsed());
    proxy.get().expect_body("1");
}

#[test]
fn connections_are_opened_before_anybody_asks_and_then_used() {
    let origin = naming_connections();
    let proxy = Setup::to(&origin).set("pool.prewarm", 3).start();
    origin.wait_for("three connections", |seen| seen.open() == 3);
    assert!(origin.seen().bytes().is_empty(), "a prewarmed connection says nothing");
    for _ in 0..5 {
        proxy.get().expect_status(200);
    }
    assert_eq!(origin.seen().connections.len(), 3);
}

#[test]
fn a_used_up_prewarmed_connection_is_replaced() {
    let origin = Origin::start(|mut peer| {
        if peer.next_request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Setup::to(&origin).set("pool.prewarm", 2).start();
    origin.wait_for("two connections", |seen| seen.open() == 2);
    proxy.get().expect_status(200);
    origin.wait_for("a third one", |seen| seen.connections.len() == 3 && seen.open() == 2);
}

#[test]
fn prewarming_goes_on_when_the_origin_comes_back() {
    let refusal = Refusal::new();
    let proxy = Setup::to_url(&refusal.url()).set("pool.prewarm", 2).start();
    proxy.get().expect_status(502);
    let address = refusal.address();
    drop(refusal);
    let origin = Origin::start_at(address, Peer::hold);
    origin.wait_for("two connections", |seen| seen.open() == 2);
}

#[test]
fn prewarming_slows_down_while_it_fails() {
    let origin = Origin::start(drop);
    let _proxy = Setup::to(&origin).set("pool.prewarm", 1).start();
    origin.wait_for("a first attempt", |seen| !seen.connections.is_empty());
    let started = Instant::now();
    origin.wait_for("further attempts", |seen| seen.connections.len() == 3);
    // Without a back-off further attempts take no time at all.
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
}

#[test]
fn an_idle_connection_to_the_origin_is_kept_alive_by_tcp() {
    let origin = naming_connections();
    let proxy = Proxy::to(&origin);
    proxy.get().expect_status(200);
    let port = format!(":{:04X} 01 ", origin.address().port());
    wait_until("the keep-alive timer runs on the idle connection", || {
        let table = fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp is readable");
        // The remote end is the origin: this row is the proxy's. Timer 02 is keep-alive.
        let mine = table.lines().find(|row| row.contains(&port));
        mine.and_then(|row| row.split_whitespace().nth(5)).is_some_and(|t| t.starts_with("02:"))
    });
}

#[test]
fn an_origin_that_says_close_is_not_asked_again() {
    let answers = [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n0",
        "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n0",
    ];
    for answer in answers {
        let origin = Origin::answering(answer);
        let proxy = Proxy::to(&origin);
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send(GET).read_response().expect_body("0");
        }
        origin.wait_for("three closed connections", |seen| {
            seen.connections.len() == 3 && seen.open() == 0
        });
    }
    let origin = Origin::answering(
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n0",
    );
    let proxy = Proxy::to(&origin);
    let mut client = proxy.connect();
    client.send(GET).expect_status(200).send(GET).expect_status(200);
    assert_eq!(origin.seen().connections.len(), 1, "an old origin may ask to be kept");
}

#[test]
fn a_client_that_leaves_takes_its_unfinished_connection_with_it() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
        assert_ne!(peer.receive(), Arrival::Bytes, "the connection was used again");
    });
    let proxy = Proxy::to(&origin);
    let mut client: Client = proxy.send(GET);
    client.read_until("part");
    client.reset();
    origin.wait_for("the end of the connection", |seen| seen.open() == 0);
}

/// Answers `/long` with a body that does not fit a head buffer, and whose last piece comes in one
/// segment with an answer that nobody has asked for; everything else with its connection's number.
fn answering_too_much() -> Origin {
    const BODY_BYTES: usize = 100_000;
    const LAST_BYTES: usize = 1000;
    Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            if request.target() != "/long" {
                send_number(&mut peer);
                continue;
            }
            let begin = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
            peer.send(begin + &"a".repeat(BODY_BYTES - LAST_BYTES));
            let end = "a".repeat(LAST_BYTES);
            peer.send(end + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL");
        }
    })
}

#[track_caller]
fn expect_number(answer: &Message) {
    let body = String::from_utf8_lossy(&answer.body);
    assert!(body.parse::<usize>().is_ok(), "{body}");
}

const GET_LONG: &str = "GET /long HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn what_follows_a_long_answer_is_not_the_answer_to_the_next_request() {
    let origin = answering_too_much();
    let proxy = Proxy::to(&origin);
    for _ in 0..20 {
        // Both at once, so that the second one finds the connection at the moment of its return.
        let mut client = proxy.send(format!("{GET_LONG}{GET}"));
        client.read_response().expect_status(200);
        expect_number(&client.read_response());
    }
}

#[test]
fn what_follows_a_long_answer_is_not_the_answer_to_whoever_waits_for_the_connection() {
    let origin = answering_too_much();
    let proxy = one_connection(&origin).start();
    for _ in 0..20 {
        let mut first = proxy.send(GET_LONG);
        let mut second = proxy.send(GET);
        first.read_response().expect_status(200);
        expect_number(&second.read_response());
    }
}

#[test]
fn connections_are_opened_ahead_of_requests_where_a_name_has_come_to_lead() {
    let first = naming_connections();
    let port = first.address().port();
    let second = Origin::start_at(([127, 0, 0, 2], port).into(), |mut peer| {
        peer.read_to_end();
    });
    let has_moved = Arc::<AtomicBool>::default();
    let moved = has_moved.clone();
    let server = NameServer::anywhere(move |question| {
        let last = if moved.load(Ordering::SeqCst) { 2 } else { 1 };
        (question.name == "app.test").then(|| vec![[127, 0, 0, last].into()])
    });
    let url = format!("http://app.test:{port}");
    let proxy = Setup::to_url(&url).set("pool.prewarm", 2).asking(&server).start();
    first.wait_for("both connections", |seen| seen.open() == 2);
    has_moved.store(true, Ordering::SeqCst);
    // Nobody asks for anything meanwhile.
    second.wait_for("both connections", |seen| seen.open() == 2);
    drop(proxy);
}
