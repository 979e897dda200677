//! Each bound of `[limits]` from both sides: what just fits passes, one more is refused by name.
//!
//! Comes in: messages that are padded to an exact size. A refusal closes its connection, reaches no
//! origin, and arrives at a client that is still sending.

use crate::support::{Expected, GET, OK, Origin, Proxy, Setup, is_of_http1, pattern};
use std::time::Duration;

#[test]
fn a_head_of_exactly_the_limit_passes_and_one_byte_more_is_431() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin)
        .set("limits.head_bytes", "1KiB")
        .set("limits.target_bytes", "1KiB")
        .set("buffers.head_buffer_bytes", "1KiB")
        .start();
    let head = |size: usize| {
        let empty = "GET / HTTP/1.1\r\nHost: test\r\nX: \r\n\r\n";
        format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "x".repeat(size - empty.len()))
    };
    assert_eq!(head(1_024).len(), 1_024);
    let mut client = proxy.send(head(1_024));
    client.expect_status(200);
    let response = client.send(head(1_025)).read_response();
    response.expect_status(431);
    assert_eq!(response.start, "HTTP/1.1 431 Request Header Fields Too Large");
    client.expect_closed();
    origin.only_request();
}

#[test]
fn a_head_without_end_is_431_before_it_ends() {
    if is_of_http1("a head without an end: CONTINUATION frames are bounded by http2/attacks.rs") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    for filler in ["x".repeat(100_000), "y\r\nX: ".repeat(100_000)] {
        let head = format!("GET / HTTP/1.1\r\nHost: test\r\nX: {filler}");
        proxy.send(head).expect_status(431).expect_closed();
    }
}

#[test]
fn as_many_fields_as_allowed_pass_and_one_more_is_431() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("limits.header_count", 10).start();
    let head = |count: usize| {
        format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", "X: y\r\n".repeat(count - 1))
    };
    let mut client = proxy.send(head(10));
    client.expect_status(200).send(head(11)).expect_status(431).expect_closed();
    origin.only_request();
}

#[test]
fn a_target_of_exactly_the_limit_passes_and_one_byte_more_is_414() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("limits.target_bytes", 100).start();
    let head =
        |size: usize| format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(size - 1));
    let mut client = proxy.send(head(100));
    client.expect_status(200);
    let response = client.send(head(101)).read_response();
    assert_eq!(response.start, "HTTP/1.1 414 URI Too Long");
    client.expect_closed();
    origin.only_request();
}

#[test]
fn a_target_without_end_is_414_before_it_ends() {
    if is_of_http1("a head without an end") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    for size in [9_000, 20_000, 40_000, 200_000] {
        let mut client = proxy.send(format!("GET /{}", "x".repeat(size)));
        client.expect_status(414).expect_closed();
    }
}

fn post(framing: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n")
}

#[test]
fn a_body_of_exactly_the_limit_passes_and_one_byte_more_is_413() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("limits.body_bytes", 1_000).start();
    let body = pattern(1_000);
    let mut client = proxy.send(post("Content-Length: 1000"));
    client.send(&body).expect_status(200);
    // Chunks count by what they carry, not by how it is wrapped.
    client.send(post("Transfer-Encoding: chunked"));
    for chunk in body.chunks(10) {
        client.send("a;name=value\r\n").send(chunk).send("\r\n");
    }
    client.send("0\r\n\r\n").expect_status(200);
    let response = client.send(post("Content-Length: 1001")).read_response();
    assert_eq!(response.start, "HTTP/1.1 413 Content Too Large");
    client.expect_closed();
    assert_eq!(origin.seen().requests.len(), 2);
}

#[test]
fn a_chunked_body_over_the_limit_is_413_and_never_whole_at_the_origin() {
    let origin = Origin::start(|mut peer| {
        while let Some(mut request) = peer.read_head() {
            peer.read_body(&mut request, Expected::Request);
            assert!(!request.is_whole(), "too long a body arrived whole: {request}");
        }
    });
    let proxy = Setup::to(&origin).set("limits.body_bytes", 1_000).start();
    for sizes in [&[1_001][..], &[1_000, 1], &[0xffff_ffff]] {
        let mut body = Vec::new();
        for &size in sizes {
            body.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            body.extend_from_slice(&pattern(size.min(2_000)));
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        // With the head, and after the head has gone on to the origin.
        let together = [post("Transfer-Encoding: chunked").as_bytes(), &body].concat();
        proxy.send(together).expect_status(413).expect_closed();
        let mut client = proxy.send(post("Transfer-Encoding: chunked"));
        client.wait_until_read();
        client.send(body).expect_status(413).expect_closed();
    }
}

#[test]
fn a_refusal_reaches_a_client_that_goes_on_sending() {
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).set("limits.body_bytes", 1_000).start();
    for _ in 0..10 {
        let mut client = proxy.send(post("Content-Length: 3000000"));
        // A close with unread bytes would be a reset, and that would take the answer with it.
        client.send(pattern(3_000_000)).expect_status(413).expect_closed();
    }
}

#[test]
fn bodies_are_not_limited_by_default() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    proxy.send(post("Content-Length: 20000000")).send(pattern(20_000_000)).expect_status(200);
}

#[test]
fn other_versions_are_505() {
    if is_of_http1("other versions") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/3.0", "HTTP/0.9"] {
        let mut client = proxy.send(format!("GET / {version}\r\nHost: test\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(response.start, "HTTP/1.1 505 HTTP Version Not Supported", "{version}");
        client.expect_closed();
    }
    let proxy = Setup::to(&origin).set("http2.prior_knowledge", false).start();
    proxy.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect_status(505).expect_closed();
}

#[test]
fn other_expectations_are_417() {
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    let request = post("Expect: 200-ok\r\nContent-Length: 0");
    let response = proxy.send(request).read_response();
    assert_eq!(response.start, "HTTP/1.1 417 Expectation Failed");
}

#[test]
fn what_cannot_become_a_request_is_refused_at_once() {
    if is_of_http1("bytes that are no head") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    // The start of a TLS handshake, of SOCKS 5, of SSH, and noise. None of them ends a line.
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\x05\x01\x00", b"\0\0\0\0"]
    {
        proxy.send(bytes).expect_status(400).expect_closed();
    }
    proxy.send("SSH-2.0-OpenSSH_9.2\r\n").expect_status(400).expect_closed();
}

#[test]
fn an_answer_with_a_head_over_the_limit_is_a_bad_gateway() {
    let answers = [
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(40_000)),
        format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(400_000)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(300)),
    ];
    for answer in answers {
        let origin = Origin::answering(answer);
        let proxy = Setup::to(&origin).set("limits.response_head_bytes", "32KiB").start();
        proxy.get().expect_own_error(502, "Bad Gateway", "http_protocol_error");
        origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    }
}

#[test]
fn clients_beyond_the_limit_wait_while_all_others_are_busy() {
    let (origin, gate) = Origin::held();
    let proxy = Setup::to(&origin).set("limits.clients", 2).start();
    let mut first = proxy.send(GET);
    let mut second = proxy.send(GET);
    origin.wait_for("both requests", |seen| seen.requests.len() == 2);
    let mut third = proxy.send(GET);
    // Longer than any silence for which somebody gives way.
    third.expect_quiet_for(Duration::from_millis(1_500));
    gate.open();
    first.expect_status(200);
    second.expect_status(200);
    third.expect_status(200);
    assert_eq!(origin.seen().requests.len(), 3);
}
