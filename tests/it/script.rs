//! The scripted client against the scripted origin, with no proxy between them.
//!
//! Every other suite believes what these two report, so here they are held against each other: what
//! one sends is what the other sees, a cut message is never taken for a whole one, and an origin
//! that must not be touched notices a single byte.

use crate::support::{
    Blackhole, Client, Ending, Expected, GET, Gate, OK, Origin, Refusal, pattern,
};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[test]
fn a_conversation_is_seen_alike_from_both_ends() {
    let origin = Origin::answering(OK);
    let mut client = Client::connect(origin.address());
    client
        .send("POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        .read_response()
        .expect_body("ok");
    client.send("PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nSum: 5\r\n\r\n").expect_status(200);

    origin.wait_for("both requests", |seen| seen.requests.len() == 2);
    let seen = origin.seen();
    let [post, put] = seen.requests.as_slice() else { unreachable!("there are two") };
    assert_eq!((post.method(), post.target(), post.text()), ("POST", "/a", "abc".into()));
    assert_eq!((put.body.as_slice(), put.chunks.as_slice()), (&b"abcde"[..], &[3, 2][..]));
    assert_eq!(put.trailers, [("Sum".into(), "5".into())]);
    assert!(seen.bytes().ends_with(b"0\r\nSum: 5\r\n\r\n"));
}

#[test]
fn every_way_a_response_can_end_has_its_name() {
    let cases = [
        ("HTTP/1.1 204 No Content\r\n\r\n", Ending::Empty, ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Ending::Length, "ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Ending::Cut, "ok"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Ending::Chunked,
            "ok",
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Ending::Cut, "ok"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
            Ending::Cut,
            "ok",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nok", Ending::Closed, "ok"),
    ];
    for (bytes, ending, body) in cases {
        let origin = Origin::answering_and_closing(bytes);
        let mut client = Client::connect(origin.address());
        client.send(GET);
        let response = client.read_message(Expected::Response).expect(bytes);
        assert_eq!((response.ending, response.text().as_str()), (ending, body), "{bytes:?}");
        client.expect_closed();
    }
}

#[test]
fn a_reset_cuts_a_response_that_a_close_would_have_ended() {
    let is_read = Gate::default();
    let origin = Origin::start({
        let is_read = is_read.clone();
        move |mut peer| {
            peer.expect_request();
            peer.send("HTTP/1.1 200 OK\r\n\r\nok");
            is_read.wait();
            peer.reset();
        }
    });
    let mut client = Client::connect(origin.address());
    let mut response = client.send(GET).read_head().expect("a head");
    is_read.open();
    client.read_body(&mut response, Expected::Response);
    assert_eq!(response.ending, Ending::Cut);
}

#[test]
fn an_untouchable_origin_notices_one_byte_but_no_connection() {
    let connected = Origin::untouchable();
    drop(TcpStream::connect(connected.address()));
    connected.wait_for("a connection", |seen| seen.connections.len() == 1 && seen.open() == 0);
    connected.expect_untouched();

    let touched = Origin::untouchable();
    Client::connect(touched.address()).send("x").half_close();
    touched.wait_for("a byte", |seen| seen.bytes() == b"x");
    assert!(catch_unwind(AssertUnwindSafe(|| drop(touched))).is_err());
}

#[test]
fn a_script_that_fails_fails_its_owner() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request().expect_field("Wanted", "yes");
    });
    Client::connect(origin.address()).send(GET).expect_closed();
    let waits = || origin.wait_for("what never comes", |_| false);
    assert!(catch_unwind(AssertUnwindSafe(waits)).is_err(), "who waits is told");
    assert!(catch_unwind(AssertUnwindSafe(|| drop(origin))).is_err());
}

#[test]
fn an_origin_can_come_back_where_one_has_stopped() {
    let first = Origin::answering(OK);
    Client::connect(first.address()).send(GET).expect_status(200);
    let address = first.stop();
    let second = Origin::start_at(address, |mut peer| {
        peer.expect_request();
        peer.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    });
    Client::connect(second.address()).send(GET).expect_status(201);
}

#[test]
fn pieces_can_be_sent_one_read_apart() {
    let origin = Origin::start(|mut peer| {
        let pieces: Vec<_> = (0..8).map(|_| peer.read_exact(1)).collect();
        assert_eq!(pieces.concat(), b"abcdefgh");
        peer.send(OK);
    });
    let mut client = Client::connect(origin.address());
    for piece in "abcdefgh".as_bytes().chunks(1) {
        client.send(piece).wait_until_read();
    }
    client.expect_status(200);
}

#[test]
fn what_nobody_reads_is_waited_for() {
    let is_reading = Gate::default();
    let origin = Origin::start({
        let is_reading = is_reading.clone();
        move |mut peer| {
            is_reading.wait();
            peer.read_exact(1);
            peer.send(OK);
        }
    });
    let client = Arc::new(Mutex::new(Client::connect(origin.address())));
    client.lock().unwrap().send("x");
    let is_read = Arc::new(AtomicBool::new(false));
    let waiting = {
        let (client, is_read) = (Arc::clone(&client), Arc::clone(&is_read));
        thread::spawn(move || {
            client.lock().unwrap().wait_until_read();
            is_read.store(true, Ordering::Relaxed);
        })
    };
    // Time enough to be wrong.
    thread::park_timeout(Duration::from_millis(50));
    assert!(!is_read.load(Ordering::Relaxed), "it was not read yet");
    is_reading.open();
    waiting.join().expect("the wait ends");
    client.lock().unwrap().expect_status(200);
}

#[test]
fn a_blackhole_neither_takes_nor_refuses_and_a_refusal_refuses() {
    let connect = |url: &str| {
        let address = url.strip_prefix("http://").unwrap().parse().unwrap();
        TcpStream::connect_timeout(&address, Duration::from_millis(200)).unwrap_err()
    };
    assert_eq!(connect(&Blackhole::new().url()).kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(connect(&Refusal::new().url()).raw_os_error(), Some(libc::ECONNREFUSED));
}

#[test]
fn a_reader_with_a_small_window_stalls_its_sender() {
    let (body, is_stalled) = (Arc::new(pattern(64 << 20)), Gate::default());
    let origin = Origin::start({
        let (body, is_stalled) = (Arc::clone(&body), is_stalled.clone());
        move |mut peer| {
            peer.expect_request();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            let sent = peer.send_until_stalled(&body, Duration::from_millis(300));
            assert!(sent < body.len() / 2, "{sent} bytes left before anybody read");
            is_stalled.open();
            peer.send(&body[sent..]);
            peer.hold();
        }
    });
    let mut client = Client::with_small_window(origin.address());
    client.send(GET);
    is_stalled.wait();
    client.read_response().expect_body(&*body);
}
