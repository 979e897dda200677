//! CONNECT, and WebSocket by extended CONNECT (RFC 8441), on streams of HTTP/2.
//!
//! Comes in: frames of a scripted client. Goes out: frames to it, and what the origin got.

use crate::support::h2::*;
use crate::support::{Origin, Setup};

fn connect(stream: u32, authority: &str) -> Vec<u8> {
    headers(stream, 0, &[(":method", "CONNECT"), (":authority", authority)])
}

fn websocket(stream: u32, path: &str) -> Vec<u8> {
    let more = vec![(":protocol", "websocket"), ("sec-websocket-version", "13"), ("origin", "a")];
    headers(stream, 0, &[request("CONNECT", path), more].concat())
}

/// The head of the answer that begins a tunnel.
#[track_caller]
fn accepted(client: &mut H2Client, stream: u32) -> Answer {
    let mut answer = Answer::default();
    answer.take(&client.find_of(stream));
    answer.expect_status(200);
    assert!(!answer.has_ended, "{answer:?}");
    answer
}

#[track_caller]
fn read(client: &mut H2Client, stream: u32, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let came = client.find_of(stream);
        assert_eq!(came.kind, DATA, "{came:?}");
        bytes.extend_from_slice(&came.payload);
    }
    bytes
}

#[test]
fn a_stream_is_a_tunnel_to_its_target() {
    let target = Origin::echoing();
    let proxy = Setup::forward().start();
    let mut client = H2Client::connect(proxy.address());
    client.send(connect(1, &target.address().to_string()));
    let answer = accepted(&mut client, 1);
    assert_eq!(answer.field("content-length"), None);
    for text in ["hello", "again"] {
        client.send(frame(DATA, 0, 1, text));
        assert_eq!(read(&mut client, 1, 5), text.as_bytes());
    }
    // The end goes through, and comes back.
    client.send(frame(DATA, END_STREAM, 1, b""));
    let end = client.find_of(1);
    assert!(end.kind == DATA && end.has(END_STREAM), "{end:?}");
    target.wait_for("the end", |seen| seen.open() == 0);
    client.expect_alive();
}

#[test]
fn a_hundred_tunnels_share_a_connection() {
    let target = Origin::echoing();
    let proxy = Setup::forward().start();
    let mut client = H2Client::connect(proxy.address());
    let ids: Vec<u32> = (0..100).map(|at| at * 2 + 1).collect();
    for id in &ids {
        client.send(connect(*id, &target.address().to_string()));
    }
    for id in &ids {
        accepted(&mut client, *id);
        client.send(frame(DATA, 0, *id, id.to_be_bytes()));
    }
    for id in &ids {
        assert_eq!(read(&mut client, *id, 4), id.to_be_bytes());
    }
}

#[test]
fn a_tunnel_whose_target_is_gone_is_refused_by_an_answer() {
    let nobody = crate::support::Refusal::new();
    let proxy = Setup::forward().start();
    let mut client = H2Client::connect(proxy.address());
    client.send(connect(1, &nobody.address().to_string()));
    client.read_answer(1).expect_status(502);
    client.expect_alive();
}

#[test]
fn a_tunnel_that_its_target_resets_is_reset() {
    let target = Origin::start(|mut peer| {
        peer.read_exact(1);
        peer.reset();
    });
    let proxy = Setup::forward().start();
    let mut client = H2Client::connect(proxy.address());
    client.send(connect(1, &target.address().to_string()));
    accepted(&mut client, 1);
    client.send(frame(DATA, 0, 1, b"a"));
    let end = client.find_of(1);
    assert_eq!(end.kind, RST_STREAM, "{end:?}");
    client.expect_alive();
}

#[test]
fn a_listener_that_forwards_nothing_refuses_tunnels() {
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).start();
    let mut client = H2Client::connect(proxy.address());
    client.send(connect(1, "127.0.0.1:1"));
    let answer = client.read_answer(1);
    assert!((400..600).contains(&answer.status), "{answer:?}");
    client.expect_alive();
}

#[test]
fn a_websocket_goes_to_an_origin_of_http_1_1() {
    let origin = Origin::start(|mut peer| {
        let head = peer.expect_head();
        assert_eq!(head.start, "GET /chat HTTP/1.1");
        head.expect_field("Upgrade", "websocket").expect_field("Sec-WebSocket-Version", "13");
        head.expect_field("Origin", "a").expect_no_field("Content-Length");
        assert_eq!(head.field("Sec-WebSocket-Key").map(str::len), Some(24));
        assert!(head.list("Connection").iter().any(|it| it.eq_ignore_ascii_case("upgrade")));
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: abc\r\nSec-WebSocket-Protocol: chat\r\n\r\nfirst",
        );
        peer.echo();
    });
    let proxy = Setup::to(&origin).start();
    let mut client = H2Client::silent(proxy.address());
    client.send(PREFACE).send(settings(&[]));
    let theirs = client.find("SETTINGS", |it| it.kind == SETTINGS && !it.has(ACK));
    let pairs: Vec<_> = theirs.payload.chunks(6).collect();
    assert!(pairs.contains(&[0, 8, 0, 0, 0, 1].as_slice()), "ENABLE_CONNECT_PROTOCOL: {pairs:?}");
    client.send(websocket(1, "/chat"));
    let answer = accepted(&mut client, 1);
    answer.expect_field("sec-websocket-protocol", "chat");
    for name in ["sec-websocket-accept", "connection", "upgrade"] {
        assert_eq!(answer.field(name), None, "{answer:?}");
    }
    assert_eq!(read(&mut client, 1, 5), b"first");
    client.send(frame(DATA, 0, 1, b"hello"));
    assert_eq!(read(&mut client, 1, 5), b"hello");
    client.send(frame(DATA, END_STREAM, 1, b""));
    let end = client.find_of(1);
    assert!(end.kind == DATA && end.has(END_STREAM), "{end:?}");
}

#[test]
fn an_origin_that_does_not_switch_is_not_taken_for_one_that_did() {
    for (answer, expected) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        // By HTTP/2, 200 would say that there is a tunnel (RFC 8441 §5).
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
    ] {
        let origin = Origin::answering_and_closing(answer);
        let proxy = Setup::to(&origin).start();
        let mut client = H2Client::connect(proxy.address());
        client.send(websocket(1, "/"));
        client.read_answer(1).expect_status(expected);
        client.expect_alive();
    }
}

#[test]
fn other_protocols_are_not_implemented() {
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).start();
    let mut client = H2Client::connect(proxy.address());
    let more = vec![(":protocol", "connect-udp")];
    client.send(headers(1, 0, &[request("CONNECT", "/"), more].concat()));
    client.read_answer(1).expect_status(501);
    client.expect_alive();
}
