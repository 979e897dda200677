//! Every byte as a border: connections that end after each byte of a request or of an answer, and
//! messages that come one byte at a time.
//!
//! Wherever it happens, the program goes on, gives everything back, and what does arrive is exactly
//! what was sent.

use crate::backend::Backend;
use crate::subject::{Subject, shared};
use crate::support::{Client, Origin, Setup, wait_until};
use std::time::Duration;

/// With every part that a request can have.
const REQUEST: &str = "POST /page HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
                       Trailer: X\r\n\r\n5;a=b\r\nhello\r\n3\r\nyou\r\n0\r\nX: y\r\n\r\n";

/// With every part that an answer can have.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n\
                      5;a=b\r\nhello\r\n3\r\nyou\r\n0\r\nX: y\r\n\r\n";

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Reset,
    Close,
    HalfClose,
}

#[test]
fn a_client_may_leave_after_any_byte_of_its_request() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    for leave in [Leave::Reset, Leave::Close, Leave::HalfClose] {
        for length in 0..REQUEST.len() {
            let mut client = subject.connect();
            client.send(&REQUEST[..length]);
            if length % 2 == 0 {
                client.wait_until_read();
            }
            match leave {
                Leave::Reset => client.reset(),
                Leave::Close => drop(client),
                Leave::HalfClose => {
                    client.half_close();
                    client.expect_no_success();
                }
            }
        }
    }
    subject.send(REQUEST).expect_status(200);
    subject.expect_home();
}

#[test]
fn a_client_may_leave_after_any_byte_of_its_answer() {
    let _machine = shared();
    let origin = Origin::answering(ANSWER);
    let subject = Subject::start(Setup::to(&origin));
    let whole = {
        let mut client = subject.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.read_to_end().0.len()
    };
    for length in 0..whole {
        let mut client = subject.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_up_to(length.min(60));
        if length % 2 == 0 { client.reset() } else { drop(client) }
    }
    subject.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect_status(200);
    subject.expect_home();
}

#[test]
fn a_request_that_comes_byte_by_byte_is_the_same_request() {
    let _machine = shared();
    let origin = Origin::answering(crate::support::OK);
    let subject = Subject::start(Setup::to(&origin));
    let mut client = subject.connect();
    for round in 0..3 {
        for byte in REQUEST.bytes() {
            client.send([byte]);
            if round == 0 {
                client.wait_until_read();
            }
        }
        client.expect_status(200);
    }
    client.send(REQUEST.repeat(2)).expect_status(200).expect_status(200);
    let seen = origin.seen();
    assert_eq!(seen.requests.len(), 5);
    for request in &seen.requests {
        request.expect_body("helloyou");
        assert_eq!(request.fields, seen.requests[0].fields);
        assert_eq!(request.trailers, seen.requests[4].trailers);
    }
    drop(seen);
    drop(client);
    subject.expect_home();
}

#[test]
fn an_answer_that_comes_byte_by_byte_is_the_same_answer() {
    let _machine = shared();
    let origin = Origin::start(|mut peer| {
        while peer.next_request().is_some() {
            for byte in ANSWER.bytes() {
                peer.send([byte]);
            }
        }
    });
    let whole = Origin::answering(ANSWER);
    let (subject, other) = (Subject::start(Setup::to(&origin)), Subject::start(Setup::to(&whole)));
    let request = "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n";
    let expected = other.send(request).read_response();
    let mut client = subject.connect();
    for _ in 0..5 {
        let answer = client.send(request).read_response();
        answer.expect_status(200).expect_body("helloyou").expect_field("A", "b");
        assert_eq!(answer.trailers, expected.trailers);
    }
    drop(client);
    subject.expect_home();
}

#[test]
fn a_client_that_reads_byte_by_byte_gets_all_of_a_large_answer() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let mut client = Client::with_small_window(subject.address());
    client.send("GET /large/400000 HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_head().expect("a head").expect_status(200);
    let mut got = 0;
    wait_until("all of it has come", || {
        let piece = if got < 2_000 { 1 } else { 50_000.min(400_000 - got) };
        got += client.read_up_to(piece).len();
        got >= 400_000
    });
    assert_eq!(got, 400_000);
    assert!(client.is_quiet_for(Duration::from_millis(50)));
    drop(client);
    subject.expect_home();
}
