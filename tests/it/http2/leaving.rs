//! How connections end: drained to the last stream, by a cut, and over a reload.
//!
//! Comes in: frames of a scripted client. Goes out: frames to it, and what the origin got.

use crate::support::h2::*;
use crate::support::{Origin, Proxy, Setup};
use nix::sys::signal::Signal;

/// The next GOAWAY: the last stream, and the code.
#[track_caller]
fn goaway(client: &mut H2Client) -> (u32, u32) {
    let came = client.find("GOAWAY", |frame| frame.kind == GOAWAY);
    (came.number(0), came.number(4))
}

#[test]
fn a_drain_is_said_twice_and_serves_to_the_last_stream() {
    let (origin, is_open) = Origin::held();
    let mut proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.send(get(1, "/")).send(get(3, "/"));
    origin.wait_for("both", |seen| seen.requests.len() == 2);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(goaway(&mut client), (0x7fff_ffff, NO_ERROR));
    // What was on its way is still served: the client has acknowledged by a pong only then.
    assert_eq!(goaway(&mut client), (3, NO_ERROR));
    client.send(get(5, "/")).expect_reset(5, REFUSED_STREAM);
    is_open.open();
    for stream in [1, 3] {
        client.read_answer(stream).expect_status(200).expect_body("ok");
    }
    client.expect_end();
    proxy.expect_orderly_end();
}

#[test]
fn a_drain_ends_idle_connections_at_once() {
    let origin = Origin::answering(crate::support::OK);
    let mut proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.get(1, "/").expect_status(200);
    let mut fresh = H2Client::connect(proxy.address());
    proxy.signal(Signal::SIGTERM);
    for client in [&mut client, &mut fresh] {
        let (_, code) = goaway(client);
        assert_eq!(code, NO_ERROR);
        client.expect_end();
    }
    proxy.expect_orderly_end();
}

#[test]
fn a_client_that_leaves_is_served_what_it_has_asked_for() {
    let (origin, is_open) = Origin::held();
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.send(get(1, "/")).send(frame(GOAWAY, 0, 0, [0; 8]));
    origin.wait_for("the request", |seen| seen.requests.len() == 1);
    is_open.open();
    client.read_answer(1).expect_status(200).expect_body("ok");
    client.expect_end();
}

#[test]
fn the_drain_timeout_cuts_what_is_left() {
    let origin = Origin::silent();
    let mut proxy = Setup::to(&origin).set("server.drain_timeout", "500ms").start();
    let mut client = H2Client::connect(proxy.address());
    client.send(get(1, "/"));
    origin.wait_for("the request", |seen| !seen.bytes().is_empty());
    proxy.signal(Signal::SIGTERM);
    client.expect_end();
    assert!(proxy.wait_for_end().success());
}

#[test]
fn the_next_stream_follows_a_configuration_that_was_read_again() {
    let (first, second) = (
        Origin::answering(crate::support::OK),
        Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"),
    );
    let proxy = Proxy::to(&first);
    let mut client = H2Client::connect(proxy.address());
    client.get(1, "/").expect_body("ok");
    let path = proxy.home().join("ringway.toml");
    let text = std::fs::read_to_string(&path).expect("the configuration");
    std::fs::write(&path, text.replace(&first.url(), &second.url())).expect("writable");
    proxy.admin("POST", "/admin/reload");
    client.get(3, "/").expect_status(200).expect_body("second");
}
