//! What broke once, by the number of the issue in whose course it was found.
//!
//! Each test is the shortest conversation that showed the fault. A fault that a suite has found
//! again is left to that suite; here is what nobody would have thought of.

mod support;

use nix::sys::signal::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use support::{
    Arrival, Blackhole, Client, Ending, Expected, GET, Gate, OK, Origin, Proxy, Setup, pattern,
    wait_until,
};

/// The end of one wait on a socket also ended another one on it: an upload that its origin left
/// lying for longer than the first look for an answer was taken for stopped, and answered 503.
#[test]
fn r2_an_upload_outlasts_the_first_wait_for_its_answer() {
    let body = pattern(64 << 20);
    let is_stalled = Gate::default();
    let origin = Origin::start({
        let is_stalled = is_stalled.clone();
        move |mut peer| {
            let mut request = peer.expect_head();
            is_stalled.wait();
            peer.read_body(&mut request, Expected::Request);
            assert!(request.is_whole(), "{} bytes came", request.body.len());
            peer.send(OK);
            peer.hold();
        }
    });
    let proxy = Proxy::to(&origin);
    let length = body.len();
    let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
    let mut client = proxy.send(head);
    let sent = client.send_until_stalled(&body, Duration::from_millis(2_500));
    is_stalled.open();
    client.send(&body[sent..]).expect_status(200);
}

/// A body that went wrong behind what had been read with its head was answered only when the wait
/// for the origin timed out: the wait was interrupted before it had begun.
#[test]
fn r2_a_bad_chunk_is_refused_at_once_wherever_it_stands() {
    let origin = Origin::silent();
    let proxy = Proxy::to(&origin);
    for size in [100, 7_900, 8_192, 16_384, 65_536, 100_000, 600_000] {
        let mut request =
            b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        request.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        request.extend_from_slice(&pattern(size));
        request.extend_from_slice(b"\r\nnot hexadecimal\r\n");
        let mut client = proxy.send(request);
        client.expect_status(400).expect_closed();
    }
}

/// The signal handlers stood only after the listener had been announced.
#[test]
fn r2_a_signal_right_after_the_start_is_heard() {
    let origin = Origin::untouchable();
    for _ in 0..10 {
        let mut proxy = Proxy::to(&origin);
        proxy.signal(Signal::SIGTERM);
        proxy.expect_orderly_end();
    }
}

/// Connections that were just being opened in advance were still counted when all had ended.
#[test]
fn r2_a_signal_during_prewarming_leaves_nothing_behind() {
    let origin = Origin::untouchable();
    for _ in 0..10 {
        let mut proxy = Setup::to(&origin).set("pool.prewarm", 20).set("server.workers", 2).start();
        proxy.signal(Signal::SIGTERM);
        proxy.expect_orderly_end();
    }
}

/// The same, with an origin that neither accepts nor refuses.
#[test]
fn r2_a_signal_while_connects_hang_leaves_nothing_behind() {
    let blackhole = Blackhole::new();
    let mut proxy = Setup::to_url(&blackhole.url()).set("pool.prewarm", 5).start();
    proxy.signal(Signal::SIGTERM);
    proxy.expect_orderly_end();
}

/// Colours went to pipes and files.
#[test]
fn r2_a_log_that_is_no_terminal_has_no_colours() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    proxy.send(GET).expect_status(200);
    let coloured = proxy.log_lines().into_iter().find(|line| line.contains('\u{1b}'));
    assert_eq!(coloured, None);
}

/// The method of the request before was still remembered, and an answer to HEAD has no body.
#[test]
fn r2_a_refusal_after_a_head_request_has_its_body() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    client.read_response_to_head().expect_status(200);
    client.send("GET / HTTP/1.1\r\nHost: test\r\nBad Header\r\n\r\n");
    client.read_response().expect_status(400).expect_body("Bad Request");
}

/// A client that had ended its sending was taken for gone as soon as the answer took a second.
#[test]
fn r2_a_client_that_stopped_sending_may_wait_long_for_its_answer() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        // The pace of the origin: longer than the proxy waits before it looks after the client.
        pause(1_300);
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nto");
        pause(1_300);
        peer.send("go");
        peer.hold();
    });
    let proxy = Setup::to(&origin).set("server.half_close", "keep").start();
    let mut client = proxy.send(GET);
    client.half_close();
    client.read_response().expect_body("togo");
}

/// The time of an upload counted as time that the origin took for its answer.
#[test]
fn r2_an_origin_has_its_whole_time_after_a_slow_upload() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        pause(700);
        peer.send(OK);
        peer.hold();
    });
    let proxy = Setup::to(&origin).set("timeouts.read", "1s").start();
    upload_slowly(&proxy).expect_status(200);
}

/// Nobody watched the client any more when its upload had taken longer than a second.
#[test]
fn r2_a_client_that_vanishes_after_a_slow_upload_is_noticed() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        peer.hold();
    });
    let proxy = Proxy::to(&origin);
    let client = upload_slowly(&proxy);
    origin.wait_for("the request", |seen| seen.requests.len() == 1);
    client.reset();
    origin.wait_for("the end of the connection", |seen| seen.open() == 0);
}

/// Sends a whole request in 1.4 seconds.
fn upload_slowly(proxy: &Proxy) -> Client {
    let mut client = proxy.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 7\r\n\r\n");
    for byte in "upwards".as_bytes().chunks(1) {
        pause(200);
        client.send(byte);
    }
    client
}

/// The pace of a peer, which is part of what is tested; never a wait for the proxy.
fn pause(ms: u64) {
    thread::park_timeout(Duration::from_millis(ms));
}

/// Bytes behind the last chunk were thrown away and the connection kept: a step out of step.
#[test]
fn r2_bytes_behind_a_chunked_answer_end_its_connection() {
    let origin = Origin::start(|mut peer| {
        while peer.next_request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            peer.wait_until_read();
            peer.send("2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        }
    });
    let proxy = Proxy::to(&origin);
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(GET).read_response().expect_body("ok");
    }
    assert_eq!(origin.seen().connections.len(), 3);
}

/// A worker handed its connections to its own clients for ever, and another worker's got none.
#[test]
fn r2_clients_of_all_workers_share_the_pool() {
    const CLIENTS: usize = 16;
    let origin = Origin::start(|mut peer| {
        while peer.next_request().is_some() {
            pause(20);
            peer.send(OK);
        }
    });
    let proxy = Setup::to(&origin)
        .set("server.workers", 2)
        .set("pool.max_connections", 2)
        .set("pool.max_idle", 2)
        .set("timeouts.pool", "1s")
        .start();
    // Each new connection goes to the worker with the fewest: every other one to the same.
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = proxy.send(GET);
        client.expect_status(200);
        clients.push(client);
    }
    let (is_held, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let mut late = Vec::new();
        for (number, mut client) in clients.into_iter().enumerate() {
            if number % 2 == 1 {
                late.push(client);
                continue;
            }
            let (is_held, is_over) = (&is_held, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    client.send(GET).expect_status(200);
                    is_held.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_until("one worker has the pool", || is_held.load(Ordering::Relaxed) > 50);
        for _ in 0..5 {
            for client in &mut late {
                client.send(GET);
            }
            let statuses: Vec<_> = late.iter_mut().map(|c| c.read_response().status()).collect();
            is_over.store(statuses != [200; CLIENTS / 2], Ordering::Relaxed);
            assert_eq!(statuses, [200; CLIENTS / 2]);
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// A client that read slowly but steadily was reset: its progress stayed below what a socket must
/// have free before it reports that it can be written to.
#[test]
fn r2_a_slow_client_makes_progress() {
    let body = pattern(20_000_000);
    let origin = {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Origin::answering([head.as_bytes(), &body].concat())
    };
    let proxy = Setup::to(&origin).set("timeouts.client_write", "500ms").start();
    let mut client = Client::with_small_window(proxy.address());
    client.send(GET).read_head().expect("a head").expect_status(200);
    for piece in body[..600_000].chunks(20_000) {
        pause(100);
        let received = client.read_up_to(piece.len());
        assert!(received == piece, "{} bytes came", received.len());
    }
    client.reset();
}

/// Slow readers of answers that are chunked here held every chunk of their worker.
#[test]
fn r2_slow_readers_leave_chunks_for_others() {
    const READERS: usize = 12;
    let stalled = Arc::new(AtomicUsize::new(0));
    let origin = Origin::start({
        let stalled = Arc::clone(&stalled);
        move |mut peer| {
            while let Some(request) = peer.next_request() {
                if request.target() == "/quick" {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
                    peer.send(pattern(1_000_000));
                    continue;
                }
                peer.send("HTTP/1.1 200 OK\r\n\r\n");
                peer.send_until_stalled(&pattern(64 << 20), Duration::from_millis(500));
                stalled.fetch_add(1, Ordering::Relaxed);
                return peer.hold();
            }
        }
    });
    let proxy = Proxy::to(&origin);
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let mut client = Client::with_small_window(proxy.address());
            client.send(GET);
            client
        })
        .collect();
    wait_until("every reader has stalled", || stalled.load(Ordering::Relaxed) == READERS);
    let mut client = proxy.send("GET /quick HTTP/1.1\r\nHost: test\r\n\r\n");
    client.read_response().expect_body(pattern(1_000_000));
    for reader in readers {
        reader.reset();
    }
}

/// A body that came and went at full speed left nobody else on its worker a turn until its end.
#[test]
fn r2_big_bodies_let_others_have_their_turn() {
    const BODY: usize = 1 << 29;
    const READERS: usize = 4;
    let big = Origin::start(|mut peer| {
        peer.expect_request();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"));
        let piece = pattern(4 << 20);
        for _ in 0..BODY / piece.len() {
            peer.send(&piece);
        }
        peer.hold();
    });
    let small = Origin::answering(OK);
    let proxy = Setup::new()
        .upstream("big", &[&big.url()], "")
        .upstream("small", &[&small.url()], "")
        .route("", "/big", "big", "")
        .route("", "/", "small", "")
        .set("buffers.chunks_per_worker", 64)
        .start();
    let readers_left = AtomicUsize::new(READERS);
    let turns = thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut client = proxy.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
                client.read_head().expect("a head");
                assert_eq!(client.discard(BODY), BODY);
                readers_left.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let mut client = proxy.connect();
        let mut turns = 0;
        while readers_left.load(Ordering::Relaxed) > 0 {
            client.send(GET).expect_status(200);
            turns += 1;
        }
        turns
    });
    assert!(turns >= 80, "{turns} small requests were served beside big ones");
}

/// An answer of our own waited until a client had uploaded what nobody needed any more.
#[test]
fn r2_a_bad_answer_is_reported_while_the_client_still_sends() {
    let origin = Origin::start(|mut peer| {
        peer.expect_head();
        peer.read_exact(1_000_000);
        peer.send("this is not HTTP\r\n\r\n");
        while peer.receive() == Arrival::Bytes {
            peer.forget();
        }
    });
    let proxy = Proxy::to(&origin);
    for _ in 0..20 {
        let length = 1_u64 << 40;
        let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        let mut client = proxy.send(head);
        let is_answered = Arc::new(AtomicBool::new(false));
        let sending = {
            let (mut sender, is_answered) = (client.another_handle(), Arc::clone(&is_answered));
            thread::spawn(move || {
                let piece = pattern(1 << 20);
                while !is_answered.load(Ordering::Relaxed) {
                    sender.send(&piece);
                }
            })
        };
        client.expect_status(502);
        is_answered.store(true, Ordering::Relaxed);
        drop(client);
        sending.join().expect("the sender ends");
    }
}

/// What the end of the drain cut off looked like the end of a body that ends with its connection.
#[test]
fn r2_a_body_that_the_drain_cuts_short_does_not_look_complete() {
    for head in [
        "HTTP/1.1 200 OK\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    ] {
        for version in ["1.0", "1.1"] {
            let origin = Origin::start(move |mut peer| {
                peer.expect_request();
                peer.send(head);
                peer.hold();
            });
            let mut proxy = Setup::to(&origin).set("server.drain_timeout", "300ms").start();
            let mut client = proxy.send(format!("GET / HTTP/{version}\r\nHost: test\r\n\r\n"));
            let mut response = client.read_head().expect("a head");
            proxy.signal(Signal::SIGTERM);
            client.read_body(&mut response, Expected::Response);
            assert_eq!(response.ending, Ending::Cut, "{head:?} for {version}: {response}");
            assert!(proxy.wait_for_end().success());
        }
    }
}

/// Listeners on which nobody knocked kept the places of clients for themselves.
#[test]
fn r2_a_small_limit_of_clients_works_with_many_listeners() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin)
        .set("limits.clients", 3)
        .set("server.workers", 2)
        .listen(&["127.0.0.2:0", "127.0.0.3:0"])
        .start();
    for _ in 0..10 {
        let mut client = proxy.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        client.expect_status(200).expect_closed();
    }
}

/// An upload that ended because its origin took no more counted as complete: the client was not
/// told to stop, and what was left of its body was read as the next request.
#[test]
fn r6_what_is_left_of_an_upload_that_was_cut_short_is_no_request() {
    const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: test\r\nX-Padding: 12345678\r\n\r\n";
    let body = HIDDEN.repeat((8 << 20) / HIDDEN.len());
    let origin = Origin::start(|mut peer| {
        let head = peer.expect_head();
        assert_eq!(head.target(), "/upload");
        // Closed with input unread, which is a reset.
        peer.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy");
    });
    let proxy = Proxy::to(&origin);
    for _ in 0..30 {
        let mut client = proxy.connect();
        let mut sender = client.another_handle();
        let head =
            format!("PUT /upload HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n", body.len());
        let padding = HIDDEN.len() - (head.len() + "X: \r\n\r\n".len()) % HIDDEN.len();
        let head = format!("{head}X: {}\r\n\r\n", "p".repeat(padding));
        let message = head + &body;
        let sending = thread::spawn(move || sender.send(message));
        let (answers, _) = client.read_to_end();
        let answers = String::from_utf8_lossy(&answers);
        assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{answers}");
        assert!(answers.is_empty() || answers.contains("\r\nConnection: close\r\n"), "{answers}");
        sending.join().unwrap();
    }
}
