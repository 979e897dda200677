//! Origins that break: they reset after any byte, never read, drip, flood, close their idle
//! connections all at once, and say things that nobody asked for.
//!
//! A client is told what became of its request, within the time that the configuration gives; it
//! never gets bytes that were meant for another, and never a part that looks like a whole.

use crate::backend::Backend;
use crate::mob::Mob;
use crate::subject::{Subject, alone, shared};
use crate::support::{Ending, Expected, Origin, Peer, Setup, Target, wait_until};
use crate::victims::Victims;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const ANSWERS: [&str; 2] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n",
];

/// Never out of use, whatever it does.
fn setup(origin: &Origin) -> Setup {
    Setup::new().upstream("origin", &[&origin.url()], "fail_timeout = 0")
}

#[test]
fn an_origin_may_end_its_connection_after_any_byte_of_its_answer() {
    let _machine = shared();
    for answer in ANSWERS {
        for is_reset in [false, true] {
            let next = AtomicUsize::new(0);
            let origin = Origin::start(move |mut peer| {
                if peer.next_request().is_some() {
                    // A request that ended before its first byte comes once more.
                    let length = next.load(Ordering::Relaxed);
                    peer.send(&answer[..length]);
                    if length > 0 || peer.number % 2 == 1 {
                        next.fetch_add(1, Ordering::Relaxed);
                    }
                    if is_reset {
                        peer.reset();
                    }
                }
            });
            let subject = Subject::start(setup(&origin));
            for _ in 0..answer.len() - 1 {
                let mut client = subject.send(GET);
                let head = client.read_head();
                let Some(mut message) = head else { continue };
                if message.status() != 200 {
                    assert!(matches!(message.status(), 502..=504), "{message}");
                    continue;
                }
                client.read_body(&mut message, Expected::Response);
                let is_whole = message.ending != Ending::Cut;
                assert!(
                    !is_whole || message.body == b"0123456789",
                    "a part looks whole: {message}"
                );
            }
            subject.expect_home();
        }
    }
}

#[test]
fn an_origin_that_takes_connections_and_never_reads_is_given_up_in_time() {
    let _machine = shared();
    let deaf = Target::new();
    let backend = Backend::start();
    let setup = Setup::new()
        .upstream("deaf", &[&format!("http://{}", deaf.address())], "fail_timeout = 0")
        .upstream("origin", &[&backend.url()], "")
        .route("", "/deaf", "deaf", "")
        .route("", "/", "origin", "")
        .set("timeouts.write", "2s")
        .set("timeouts.read", "2s");
    let subject = Subject::start(setup);
    let body = vec![b'x'; 20_000_000];
    let head = "POST /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n";
    let started = Instant::now();
    let mut uploads: Vec<_> = (0..5).map(|_| subject.send(head)).collect();
    for client in &mut uploads {
        client.send_until_stalled(&body, Duration::from_millis(50));
    }
    let asking = Mob::new(subject.address(), 20, "GET /deaf HTTP/1.1\r\nHost: a\r\n\r\n");
    let victims = Victims::start(subject.address(), 2, Duration::from_millis(20));
    subject.expect_rest();
    asking.wait_until_answered(20, Duration::from_secs(10));
    for client in &mut uploads {
        client.expect_no_success();
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    victims.stop_after(Duration::from_millis(500)).expect_served();
    drop((uploads, asking));
    subject.expect_home();
}

#[test]
fn heads_that_drip_are_given_up_when_they_pause_for_too_long() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()).set("timeouts.read", "600ms"));
    let mut clients: Vec<_> =
        (0..10).map(|_| subject.send("GET /drip HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    for client in &mut clients {
        client.expect_status(504);
    }
    drop(clients);
    subject.expect_home();
}

#[test]
fn heads_that_drip_keep_nobody_out() {
    let _machine = alone();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let mob = Mob::new(subject.address(), 110, "GET /drip HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("they drip", || backend.requests() >= 100);
    let victims = Victims::start(subject.address(), 4, Duration::from_millis(20));
    victims.stop_after(Duration::from_secs(3)).expect_served();
    drop(mob);
    subject.expect_home();
}

/// How an origin ends the connections that it was to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Reset,
}

#[test]
fn an_origin_that_ends_its_idle_connections_costs_nobody_an_answer() {
    let _machine = shared();
    for end in [End::Close, End::Reset] {
        // Each connection answers a few requests and then ends, as if it were to be kept.
        let origin = Origin::start(move |mut peer: Peer| {
            for _ in 0..=peer.number % 4 {
                if peer.next_request().is_none() {
                    return;
                }
                peer.send(crate::backend::PAGE);
            }
            if end == End::Reset {
                peer.reset();
            }
        });
        let subject = Subject::start(setup(&origin));
        let victims = Victims::start(subject.address(), 4, Duration::from_millis(2));
        let outcome = victims.stop_after(Duration::from_secs(2));
        outcome.expect_served();
        assert_eq!(outcome.first_wrong, None, "{end:?}");
        subject.expect_home();
    }
}

#[test]
fn what_an_origin_says_unasked_never_reaches_anybody() {
    const STRAY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";
    let _machine = shared();
    // Together with the answer, right behind it, and a moment later.
    for way in 0..3 {
        let origin = Origin::start(move |mut peer: Peer| {
            while peer.next_request().is_some() {
                match way {
                    0 => peer.send(crate::backend::PAGE.to_owned() + STRAY),
                    1 => {
                        peer.send(crate::backend::PAGE);
                        peer.send(STRAY);
                    }
                    _ => {
                        peer.send(crate::backend::PAGE);
                        std::thread::park_timeout(Duration::from_millis(3));
                        peer.send(STRAY);
                    }
                }
            }
        });
        let subject = Subject::start(setup(&origin));
        let victims = Victims::start(subject.address(), 2, Duration::from_millis(9));
        let outcome = victims.stop_after(Duration::from_millis(1_500));
        let wrong = outcome.first_wrong.unwrap_or_default();
        assert!(!wrong.contains("stray"), "way {way}: {wrong}");
        assert!(outcome.asked >= 20);
        subject.expect_home();
    }
}

#[test]
fn an_origin_that_never_comes_to_the_end_of_its_head_is_refused() {
    let _machine = shared();
    let endless: [(&str, &str); 4] = [
        ("HTTP/1.1 200 OK\r\nX: ", "yyyyyyyyyyyyyyyy"),
        ("HTTP/1.1 200 OK\r\n", "X: y\r\n"),
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", "extension"),
    ];
    for (opening, repeated) in endless {
        let origin = Origin::start(move |mut peer| {
            peer.next_request();
            peer.send(opening);
            let piece = repeated.repeat(4_000);
            while peer.send_until_stalled(piece.as_bytes(), Duration::from_secs(1)) == piece.len() {
            }
        });
        let subject = Subject::start(setup(&origin));
        let mut clients: Vec<_> = (0..5).map(|_| subject.send(GET)).collect();
        for client in &mut clients {
            // Refused, or begun and cut; what comes before the end of a body may be interim.
            let mut answer = client.read_head();
            while answer.as_ref().is_some_and(|answer| answer.status() == 100) {
                answer = client.read_head();
            }
            let Some(mut answer) = answer else { continue };
            client.read_body(&mut answer, Expected::Response);
            let is_cut = answer.ending == Ending::Cut;
            assert!(answer.status() == 502 || is_cut, "an endless answer has ended: {answer}");
        }
        subject.expect_resident_below(64 << 20);
        drop(clients);
        subject.expect_home();
    }
}
