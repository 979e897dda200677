//! The same over TLS, where HTTP/2 is chosen by ALPN.
//!
//! Comes in: frames of a scripted client, in records. Goes out: the frames that it received. What
//! is sealed passes through other hands than what is not: bodies both ways, guards, a drain, and
//! that a connection is for the names that its certificate covers.

use nix::sys::signal::Signal;

use super::attacks::flood;
use crate::support::h2::*;
use crate::support::{OK, Origin, Setup, TlsClient};
use crate::tls::Secured;

/// A client that has chosen HTTP/2, as far as its handshake.
fn chosen(secured: &Secured) -> H2Client {
    let trust = secured.trust().offering(&[b"h2", b"http/1.1"]);
    let client = TlsClient::connect(secured.address(), "localhost", &trust);
    H2Client::over(client.into_plain())
}

fn greeted(secured: &Secured) -> H2Client {
    let mut client = chosen(secured);
    client.greet(&[]);
    client
}

/// A request for `path` of `authority`.
fn of(stream: u32, authority: &str, path: &str) -> Vec<u8> {
    let fields =
        [(":method", "GET"), (":scheme", "https"), (":path", path), (":authority", authority)];
    headers(stream, END_STREAM, &fields)
}

#[test]
fn bodies_pass_both_ways() {
    let body = vec![b'd'; 700_000];
    let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 700000\r\n\r\n", body.as_slice()].concat();
    let origin = Origin::start(move |mut peer| {
        while let Some(request) = peer.next_request() {
            if request.method() == "POST" {
                let count = request.body.len();
                let text = count.to_string();
                let length = text.len();
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"));
            } else {
                peer.send(&answer);
            }
        }
    });
    let secured = Secured::to(&origin);
    let mut client = greeted(&secured);
    client.send(of(1, "localhost", "/"));
    client.read_answer(1).expect_status(200).expect_body(&body);
    let fields =
        [(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "localhost")];
    client.send(headers(3, 0, &fields));
    // As much as the windows have room for, without a word of the other side.
    let mut whole = Vec::new();
    for at in 0..3 {
        whole.extend(frame(DATA, if at == 2 { END_STREAM } else { 0 }, 3, vec![b'u'; 16_384]));
    }
    client.send(whole);
    client.read_answer(3).expect_status(200).expect_body("49152");
}

#[test]
fn a_name_that_no_certificate_of_the_session_covers_is_misdirected() {
    let origin = Origin::answering(OK);
    let secured = Secured::to(&origin);
    let mut client = greeted(&secured);
    for (at, (authority, status)) in [
        ("localhost", 200),
        ("localhost:8443", 200),
        ("a.example.org", 200),
        ("example.org", 421),
        ("other", 421),
        ("localhost", 200),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = at as u32 * 2 + 1;
        client.send(of(stream, authority, "/"));
        client.read_answer(stream).expect_status(status);
    }
    client.expect_alive();
}

#[test]
fn guards_and_rules_are_the_same() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            if request.target() == "/hold" {
                return peer.hold();
            }
            peer.send(OK);
        }
    });
    let secured = Secured::to(&origin);
    let mut attacker = greeted(&secured);
    let code = flood(&mut attacker, |at| {
        let id = at * 2 + 1;
        [of(id, "localhost", "/hold"), rst_stream(id, CANCEL)].concat()
    });
    assert_eq!(code, ENHANCE_YOUR_CALM);
    let mut wrong = greeted(&secured);
    wrong.send(frame(DATA, 0, 0, b"x"));
    wrong.expect_failure(PROTOCOL_ERROR);
    let mut other = greeted(&secured);
    other.send(of(1, "localhost", "/"));
    other.read_answer(1).expect_status(200).expect_body("ok");
}

#[test]
fn a_drain_serves_to_the_last_stream() {
    let (origin, is_open) = Origin::held();
    let mut secured = Secured::start(Setup::to(&origin));
    let mut client = greeted(&secured);
    client.send(of(1, "localhost", "/"));
    origin.wait_for("the request", |seen| seen.requests.len() == 1);
    secured.proxy.signal(Signal::SIGTERM);
    for last in [0x7fff_ffff, 1] {
        let goaway = client.find("GOAWAY", |it| it.kind == GOAWAY);
        assert_eq!((goaway.number(0), goaway.number(4)), (last, NO_ERROR));
    }
    is_open.open();
    client.read_answer(1).expect_status(200).expect_body("ok");
    client.expect_end();
    secured.proxy.expect_orderly_end();
}
