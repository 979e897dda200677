//! Whose bytes come first where there is not room for all (RFC 9218).
//!
//! Comes in: streams with priorities, and a connection whose window opens by a little at a time.
//! Goes out: whose DATA that little is.

use crate::support::h2::*;
use crate::support::{Origin, Proxy};

/// Opens the connection's window by a little; the stream that gets it.
#[track_caller]
fn next(client: &mut H2Client) -> u32 {
    client.send(window_update(0, 100));
    let came = client.find("DATA", |it| it.kind == DATA);
    assert_eq!(came.payload.len(), 100, "{came:?}");
    came.stream
}

fn asked(stream: u32, priority: &str) -> Vec<u8> {
    let fields = [request("GET", "/"), vec![("priority", priority)]].concat();
    headers(stream, END_STREAM, &fields)
}

/// Streams of these priorities whose answers wait for the connection's window, which an answer
/// before them has used up.
fn waiting(proxy: &Proxy, priorities: &[&str]) -> H2Client {
    let mut client = H2Client::with_settings(proxy.address(), &[(4, 0x7fff_ffff)]);
    client.keep_windows().send(asked(1, "u=7"));
    let mut came = 0;
    while came < 65_535 {
        came += client.find("DATA", |it| it.kind == DATA).payload.len();
    }
    for (at, priority) in priorities.iter().enumerate() {
        let stream = at as u32 * 2 + 3;
        client.send(asked(stream, priority));
        client.find("a head", |it| it.kind == HEADERS && it.stream == stream);
    }
    // What is said meanwhile comes in front of a pong.
    client.expect_alive();
    client
}

fn origin() -> Origin {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".as_slice();
    Origin::answering([head, &vec![b'x'; 1_000_000]].concat())
}

#[test]
fn the_more_urgent_comes_first_until_the_client_says_otherwise() {
    let origin = origin();
    let proxy = Proxy::to(&origin);
    let mut client = waiting(&proxy, &["u=5", "u=1"]);
    for _ in 0..5 {
        assert_eq!(next(&mut client), 5);
    }
    let update = [&3_u32.to_be_bytes()[..], b"u=0"].concat();
    client.send(frame(PRIORITY_UPDATE, 0, 0, update));
    for _ in 0..5 {
        assert_eq!(next(&mut client), 3);
    }
}

#[test]
fn those_that_are_of_use_in_parts_take_turns_and_wholes_do_not() {
    let origin = origin();
    let proxy = Proxy::to(&origin);
    let mut client = waiting(&proxy, &["u=2, i", "u=2, i"]);
    let served: Vec<_> = (0..6).map(|_| next(&mut client)).collect();
    let [first, second] = [3, 5].map(|id| served.iter().filter(|it| **it == id).count());
    assert_eq!((first, second), (3, 3), "{served:?}");
    let mut client = waiting(&proxy, &["u=2", "u=2"]);
    let served: Vec<_> = (0..6).map(|_| next(&mut client)).collect();
    assert_eq!(served, [3; 6], "the one that was asked for first");
}

#[test]
fn nobody_waits_for_ever() {
    let origin = origin();
    let proxy = Proxy::to(&origin);
    let mut client = waiting(&proxy, &["u=0"]);
    let served: Vec<_> = (0..60).map(|_| next(&mut client)).collect();
    let patient = served.iter().filter(|it| **it == 1).count();
    assert!((1..=10).contains(&patient), "{served:?}");
}
