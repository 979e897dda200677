//! Origins that speak HTTP/2: who shares a connection, what is asked again, and what one that does
//! not keep to the rules can do to others.
//!
//! Scripted origins speak raw frames; clients speak HTTP/1.1 where it does not matter, and raw
//! frames where it does.

use crate::support::h2::{self, H2Client};
use crate::support::h2_origin::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, RST_STREAM, SETTINGS,
    WHOLE, WINDOW_UPDATE, block, fields, frame,
};
use crate::support::{
    Arrival, Client, GET, Gate, OK, Origin, Pair, Peer, Proxy, Setup, Terms, TlsOrigin, wait_until,
};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;
const REFUSED_STREAM: u32 = 7;
const INTERNAL_ERROR: u32 = 2;
const HTTP_1_1_REQUIRED: u32 = 13;

const POST: &str = "POST /p HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi";
const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Everything goes to one origin, in HTTP/2 from the first byte on.
fn to(origin: &Origin) -> Setup {
    to_url(&origin.url(), "")
}

fn to_url(url: &str, more: &str) -> Setup {
    Setup::new().upstream("app", &[url], &format!("http = \"2\"\n{more}"))
}

/// An origin that runs a script with each connection, which has begun.
fn origin(script: impl Fn(Frames<Peer>, usize) + Send + Sync + 'static) -> Origin {
    Origin::start(move |peer| {
        let number = peer.number;
        script(Frames::serve(peer, &[]), number);
    })
}

fn answering(body: &'static str) -> Origin {
    origin(move |mut peer, _| peer.answer_all(body))
}

fn sent(proxy: &Proxy, request: &str) -> Client {
    proxy.send(request)
}

#[test]
fn a_burst_of_requests_shares_one_connection() {
    const CLIENTS: usize = 20;
    let origin = origin(|mut peer, _| {
        let heads: Vec<_> = (0..CLIENTS).map(|_| peer.head().expect("a request")).collect();
        for head in heads.iter().rev() {
            peer.answer(head.stream, 200, &head.stream.to_string());
        }
        peer.answer_all("more");
    });
    let proxy = to(&origin).start();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| sent(&proxy, GET)).collect();
    let mut bodies: Vec<_> =
        clients.iter_mut().map(|client| client.read_response().expect_status(200).text()).collect();
    bodies.sort_by_key(String::len);
    bodies.dedup();
    assert_eq!(bodies.len(), CLIENTS, "each has an answer of its own");
    clients[0].send(GET).read_response().expect_status(200).expect_body("more");
    assert_eq!(origin.seen().connections.len(), 1);
}

/// Turns of the loops of all workers.
fn turns(proxy: &Proxy) -> u64 {
    let metrics = proxy.admin("GET", "/metrics");
    let lines = metrics.lines().filter_map(|line| line.strip_prefix("ringway_ring_turns_total{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().expect("a number")).sum()
}

#[test]
fn a_connection_that_rests_costs_nothing_and_is_watched() {
    let gate = Gate::default();
    let origin = origin({
        let gate = gate.clone();
        move |mut peer, number| {
            let head = peer.head().expect("a request");
            peer.answer(head.stream, 200, "whole");
            if number == 0 {
                gate.wait();
                peer.goaway(head.stream, 0);
            }
            peer.answer_all("again");
        }
    });
    let proxy = to(&origin).start();
    sent(&proxy, GET).read_response().expect_body("whole");
    // It gives its buffer back after a second, in the sweep behind that.
    std::thread::sleep(Duration::from_millis(2500));
    let before = turns(&proxy);
    std::thread::sleep(Duration::from_millis(500));
    let count = turns(&proxy) - before;
    assert!(count < 2000, "{count} turns for nothing");
    gate.open();
    wait_until("the connection is given up", || {
        proxy.admin("GET", "/metrics").contains("\nringway_pool_connections 0\n")
    });
    sent(&proxy, GET).read_response().expect_body("whole");
}

#[test]
fn push_is_disabled_and_no_field_of_a_connection_goes_on() {
    let origin = origin(|mut peer, _| {
        let head = peer.head().expect("a request");
        assert!(peer.settings.windows(6).any(|pair| pair == [0, 2, 0, 0, 0, 0]), "no push");
        for field in ["\x0aconnection", "keep-alive", "x-hop", "upgrade", "\x04host"] {
            assert!(!head.says(field), "{field}");
        }
        assert!(head.says("test") && head.says("x-own"), "the authority and other fields");
        peer.answer(head.stream, 200, "ok").answer_all("ok");
    });
    let proxy = to(&origin).start();
    let request = "GET / HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
                   Keep-Alive: timeout=5\r\nX-Own: 1\r\n\r\n";
    sent(&proxy, request).expect_status(200);
}

#[test]
fn a_body_with_get_ends_with_its_stream_and_its_connection_goes_on() {
    let origin = answering("ok");
    let proxy = to(&origin).start();
    let mut client = proxy.connect();
    for method in ["GET", "DELETE", "OPTIONS"] {
        let head = format!("{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\n");
        client.send(head + "abc").read_response().expect_status(200);
    }
    client.send(GET).read_response().expect_status(200);
    assert_eq!(origin.seen().connections.len(), 1);
}

#[test]
fn no_more_streams_are_open_than_an_origin_allows() {
    let (has_two, are_others_done) = (Gate::default(), Gate::default());
    let origin = {
        let (has_two, are_others_done) = (has_two.clone(), are_others_done.clone());
        Origin::start(move |peer| {
            let number = peer.number;
            let mut peer = Frames::serve(peer, &[(MAX_CONCURRENT_STREAMS, 2)]);
            if number == 0 {
                let first = peer.head().expect("a request");
                peer.answer(first.stream, 200, "first");
                let pair = [peer.head().expect("a request"), peer.head().expect("a second one")];
                has_two.open();
                are_others_done.wait();
                peer.expect_no_stream();
                for head in pair {
                    peer.answer(head.stream, 200, "slow");
                }
            }
            peer.answer_all("ok");
        })
    };
    let proxy = to(&origin).start();
    sent(&proxy, GET).read_response().expect_status(200).expect_body("first");
    let pair: Vec<_> = (0..2).map(|_| sent(&proxy, GET)).collect();
    has_two.wait();
    let others: Vec<_> = (0..4).map(|_| sent(&proxy, GET)).collect();
    for mut client in others {
        client.read_response().expect_status(200).expect_body("ok");
    }
    are_others_done.open();
    for mut client in pair {
        client.read_response().expect_status(200).expect_body("slow");
    }
}

/// Opens three streams at once, which leave three lanes behind, and has one be the most from then
/// on.
fn allow_one_of_three(peer: &mut Frames<Peer>) {
    let heads: Vec<_> = (0..3).map(|_| peer.head().expect("a request")).collect();
    peer.send(SETTINGS, 0, 0, &[0, MAX_CONCURRENT_STREAMS as u8, 0, 0, 0, 1]);
    for head in heads {
        peer.answer(head.stream, 200, "first");
    }
}

#[track_caller]
fn expect_three(proxy: &Proxy, body: &str) {
    let clients: Vec<_> = (0..3).map(|_| sent(proxy, POST)).collect();
    for mut client in clients {
        client.read_response().expect_status(200).expect_body(body);
    }
}

#[test]
fn a_request_that_waits_for_a_stream_gets_the_next_that_is_free() {
    let origin = origin(|mut peer, _| {
        allow_one_of_three(&mut peer);
        for _ in 0..3 {
            let (head, _) = peer.request().expect("a request");
            peer.answer(head.stream, 200, "second");
        }
        peer.answer_all("");
    });
    let proxy = to(&origin).start();
    expect_three(&proxy, "first");
    expect_three(&proxy, "second");
    assert_eq!(origin.seen().connections.len(), 1);
}

#[test]
fn a_request_that_waits_for_a_stream_of_a_connection_that_leaves_goes_to_another() {
    let origin = origin(|mut peer, number| {
        if number == 0 {
            allow_one_of_three(&mut peer);
            let (head, _) = peer.request().expect("a request");
            peer.goaway(head.stream, 0).answer(head.stream, 200, "second");
        }
        peer.answer_all("second");
    });
    let proxy = to(&origin).start();
    expect_three(&proxy, "first");
    expect_three(&proxy, "second");
    assert_eq!(origin.seen().connections.len(), 2);
}

#[test]
fn an_origin_that_takes_nothing_for_a_while_is_waited_for_on_one_connection() {
    let (has_said_so, may_go_on) = (Gate::default(), Gate::default());
    let origin = {
        let (has_said_so, may_go_on) = (has_said_so.clone(), may_go_on.clone());
        Origin::start(move |peer| {
            let mut peer = Frames::serve(peer, &[]);
            let first = peer.head().expect("a request");
            peer.send(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 0]);
            peer.answer(first.stream, 200, "ok");
            has_said_so.open();
            may_go_on.wait();
            peer.send(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]);
            peer.answer_all("ok");
        })
    };
    let proxy = to(&origin).start();
    sent(&proxy, GET).expect_status(200);
    has_said_so.wait();
    let mut clients: Vec<_> = (0..5).map(|_| sent(&proxy, GET)).collect();
    for client in &clients {
        client.wait_until_read();
    }
    may_go_on.open();
    for client in &mut clients {
        client.read_response().expect_status(200).expect_body("ok");
    }
    assert_eq!(origin.seen().connections.len(), 1);
}

#[test]
fn what_goaway_leaves_out_is_asked_again_whatever_the_method() {
    let origin = origin(|mut peer, number| {
        if number == 0 {
            let (head, _) = peer.request().expect("a request");
            peer.answer(head.stream, 200, "first");
            let (head, body) = peer.request().expect("another one");
            assert_eq!((head.stream, &body[..]), (3, &b"hi"[..]));
            peer.goaway(1, 0);
            while peer.next().is_some() {}
        } else {
            peer.answer_all("again");
        }
    });
    let proxy = to(&origin).start();
    let mut client = sent(&proxy, GET);
    client.read_response().expect_status(200).expect_body("first");
    client.send(POST).read_response().expect_status(200).expect_body("again");
    assert_eq!(origin.seen().connections.len(), 2);
}

#[test]
fn a_stream_that_is_refused_is_asked_again_even_on_a_new_connection() {
    let origin = origin(|mut peer, number| {
        let (head, _) = peer.request().expect("a request");
        if number == 0 {
            peer.reset(head.stream, REFUSED_STREAM);
            let (head, body) = peer.request().expect("the same again");
            assert!(head.says("/p") && body == b"hi");
            peer.answer(head.stream, 200, "again");
        } else {
            peer.answer(head.stream, 200, "elsewhere");
        }
        peer.answer_all("more");
    });
    let proxy = to(&origin).start();
    sent(&proxy, POST).read_response().expect_status(200);
}

#[test]
fn an_origin_that_refuses_for_ever_is_not_asked_for_ever() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let origin = origin(move |mut peer, _| {
        while let Some(head) = peer.head() {
            counted.fetch_add(1, Ordering::Relaxed);
            peer.reset(head.stream, REFUSED_STREAM);
        }
    });
    let proxy = to(&origin).start();
    sent(&proxy, GET).read_response().expect_status(502);
    assert!((2..=5).contains(&count.load(Ordering::Relaxed)), "{count:?}");
}

#[test]
fn a_post_that_may_have_been_acted_upon_is_not_asked_again() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let origin = origin(move |mut peer, _| {
        while let Some((head, _)) = peer.request() {
            if head.says("/p") {
                counted.fetch_add(1, Ordering::Relaxed);
                peer.reset(head.stream, INTERNAL_ERROR);
            } else {
                peer.answer(head.stream, 200, "ok");
            }
        }
    });
    let proxy = to(&origin).start();
    let mut client = sent(&proxy, GET);
    client.read_response().expect_status(200);
    client.send(POST).read_response().expect_status(502);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn an_answer_that_breaks_half_way_is_cut() {
    let gate = Gate::default();
    let told = gate.clone();
    let origin = origin(move |mut peer, _| {
        while let Some(head) = peer.head() {
            peer.send(HEADERS, END_HEADERS, head.stream, &block(200, &[]));
            peer.send(DATA, 0, head.stream, b"half");
            told.wait();
            peer.reset(head.stream, INTERNAL_ERROR);
        }
    });
    let proxy = to(&origin).start();
    let mut client = sent(&proxy, GET);
    client.read_until("half");
    gate.open();
    let (rest, _) = client.read_to_end();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it looks complete");
}

#[test]
fn an_answer_that_came_whole_is_passed_on_whatever_follows() {
    let origin = origin(|mut peer, number| {
        let head = peer.head().expect("a request");
        if number == 0 {
            // Enough is known: the rest of the upload is not wanted (RFC 9113 §8.1).
            let answer = frame(HEADERS, END_HEADERS, head.stream, block(413, &[]));
            let body = frame(DATA, END_STREAM, head.stream, b"too large");
            let reset = frame(RST_STREAM, 0, head.stream, [0; 4]);
            peer.line.send([answer, body, reset].concat());
        } else {
            peer.answer(head.stream, 200, "ok");
        }
        while peer.next().is_some() {}
    });
    let proxy = to(&origin).start();
    let mut client =
        sent(&proxy, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 500000\r\n\r\nhalf");
    client.read_response().expect_status(413).expect_body("too large");
}

#[test]
fn an_origin_that_dies_takes_its_own_streams_and_no_others() {
    let origin = origin(|mut peer, number| {
        if number == 0 {
            for _ in 0..3 {
                peer.head().expect("a request");
            }
            return;
        }
        peer.answer_all("alive");
    });
    let proxy = to(&origin).start();
    let mut clients: Vec<_> = (0..3).map(|_| sent(&proxy, GET)).collect();
    for client in &mut clients {
        let status = client.read_response().status();
        assert!(matches!(status, 200 | 502), "{status}");
    }
    sent(&proxy, GET).read_response().expect_status(200).expect_body("alive");
}

#[test]
fn an_origin_that_wants_http_1_1_gets_it_from_then_on() {
    let pair = Pair::of(&["localhost"]);
    let config = Terms::of(&pair).speaking(&["h2", "http/1.1"]).config();
    let chosen = Arc::new(AtomicUsize::new(0));
    let counted = chosen.clone();
    let origin = TlsOrigin::with(config, move |mut peer| {
        let _ = peer.shake_hands();
        if peer.protocol() == Some(b"h2") {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut peer = Frames::serve(peer, &[]);
            while let Some(head) = peer.head() {
                peer.reset(head.stream, HTTP_1_1_REQUIRED);
            }
            return;
        }
        while peer.read_head().is_some() {
            peer.send(OK);
        }
    });
    let more = "http = \"auto\"\ntls = { ca = \"ca.pem\" }";
    let setup = Setup::new().upstream("app", &[&origin.url()], more).file("ca.pem", &pair.chain);
    let proxy = setup.start();
    let mut client = sent(&proxy, GET);
    client.read_response().expect_status(200).expect_body("ok");
    for _ in 0..3 {
        client.send(GET).read_response().expect_status(200);
    }
    assert_eq!(chosen.load(Ordering::Relaxed), 1, "HTTP/2 is not tried again at once");
}

/// What an origin may do that is against the rules, or too much of what is not.
fn evils() -> Vec<(&'static str, Vec<u8>)> {
    let answer = frame(HEADERS, WHOLE, 1, block(200, &[]));
    let many = |one: &[u8], count: usize| one.repeat(count);
    let huge = fields(&[("x", &"y".repeat(120))]).repeat(1000);
    let mut continued = frame(HEADERS, 0, 1, block(200, &[]));
    continued.extend(many(&frame(CONTINUATION, 0, 1, fields(&[("a", "b")])), 5000));
    // One field of 4 KB in the table, named again and again.
    let mut bomb = block(200, &[]);
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend(many(b"z", 4000));
    bomb.extend(many(&[0xbe], 12_000));
    vec![
        ("HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("garbage", many(&[0xff], 100)),
        ("half a frame and no more", vec![0, 0, 5, 1]),
        (
            "a frame that is too long",
            [&[0, 0x40, 1, 0, 0, 0, 0, 0, 1][..], &many(b"x", 100)].concat(),
        ),
        ("an answer before a question", frame(HEADERS, WHOLE, 77, block(200, &[]))),
        ("a promise", frame(5, END_HEADERS, 1, [0, 0, 0, 2, 0x82])),
        ("DATA without a head", frame(DATA, END_STREAM, 1, b"x")),
        ("a second answer", [&answer[..], &frame(DATA, 0, 1, b"x")].concat()),
        ("no status", frame(HEADERS, WHOLE, 1, fields(&[("a", "b")]))),
        ("a field with a line end", frame(HEADERS, WHOLE, 1, block(200, &[("a", "b\r\nc: d")]))),
        ("settings", many(&frame(SETTINGS, 0, 0, b""), 20_000)),
        ("pings", many(&frame(PING, 0, 0, b"12345678"), 20_000)),
        ("interim answers", many(&frame(HEADERS, END_HEADERS, 1, block(103, &[])), 5000)),
        ("empty DATA", {
            let head = frame(HEADERS, END_HEADERS, 1, block(200, &[]));
            [head, many(&frame(DATA, 0, 1, b""), 20_000)].concat()
        }),
        ("CONTINUATION", continued),
        (
            "a head without an end",
            [
                frame(HEADERS, 0, 1, &huge[..16_000]),
                many(&frame(CONTINUATION, 0, 1, &huge[..16_000]), 100),
            ]
            .concat(),
        ),
        ("an HPACK bomb", frame(HEADERS, WHOLE, 1, &bomb)),
        ("a table index of nothing", frame(HEADERS, WHOLE, 1, [0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("window games", many(&frame(WINDOW_UPDATE, 0, 0, 0x7fff_ffff_u32.to_be_bytes()), 2)),
        ("resets of nothing", many(&frame(RST_STREAM, 0, 1, [0, 0, 0, 8]), 20_000)),
    ]
}

#[test]
fn an_origin_that_breaks_the_rules_hurts_nobody_else() {
    let sound = answering("sound");
    for (what, bytes) in evils() {
        let evil = Origin::start(move |peer| {
            let mut peer = Frames::serve(peer, &[]);
            if peer.head().is_some() {
                peer.line.send(&bytes);
                if bytes.len() > 10 {
                    peer.line.read_to_end();
                }
            }
        });
        let http2 = "http = \"2\"";
        let proxy = Setup::new()
            .upstream("evil", &[&evil.url()], http2)
            .upstream("sound", &[&sound.url()], http2)
            .route("", "/evil", "evil", "")
            .route("", "/", "sound", "")
            .start();
        let mut beside = sent(&proxy, GET);
        beside.read_response().expect_body("sound");
        let mut client = sent(&proxy, "GET /evil HTTP/1.1\r\nHost: test\r\n\r\n");
        if what == "a second answer" {
            // The first was whole.
            client.read_response().expect_status(200);
        } else if what != "empty DATA" {
            let status = client.read_response().status();
            assert!((500..=504).contains(&status), "{what}: {status}");
        } else {
            // It is cut, where it had begun when it was ended.
            let status = client.read_head().expect("an answer").status();
            assert!(matches!(status, 200 | 502), "{what}: {status}");
        }
        beside.send(GET).read_response().expect_status(200).expect_body("sound");
        drop((client, beside));
        proxy.stop();
    }
}

#[test]
fn an_origin_that_takes_nothing_is_given_up_in_time() {
    let origin = origin(|mut peer, _| while peer.next().is_some() {});
    let proxy = to(&origin).set("timeouts.read", "500ms").start();
    let mut client =
        sent(&proxy, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 200000\r\n\r\n");
    client.send(vec![b'x'; 200_000]);
    let status = client.read_response().status();
    assert_eq!(status, 504);
}

#[test]
fn uploads_go_as_far_as_windows_allow_and_on_when_they_open() {
    let origin = origin(|mut peer, _| {
        let head = peer.head().expect("a request");
        let (mut bytes, mut window) = (0, 65_535);
        loop {
            let frame = peer.next().expect("more of the body");
            bytes += frame.payload.len();
            assert!(bytes <= window, "{bytes} of {window}");
            if frame.has(END_STREAM) {
                break;
            }
            if bytes == window {
                for stream in [0, head.stream] {
                    peer.send(WINDOW_UPDATE, 0, stream, &50_000_u32.to_be_bytes());
                }
                window += 50_000;
            }
        }
        peer.answer(head.stream, 200, &bytes.to_string()).answer_all("");
    });
    let proxy = to(&origin).start();
    let mut client =
        sent(&proxy, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 200000\r\n\r\n");
    client.send(vec![b'x'; 200_000]);
    client.read_response().expect_status(200).expect_body("200000");
}

/// Sends as much of an endless body as windows allow; what of the connection's is left then.
fn fill(peer: &mut Frames<Peer>, connection: i64, streams: &mut BTreeMap<u32, i64>) -> i64 {
    let mut left = connection;
    for (stream, room) in streams {
        while left > 0 && *room > 0 {
            let count = left.min(*room).min(16_384);
            peer.send(DATA, 0, *stream, &vec![b'x'; count as usize]);
            (left, *room) = (left - count, *room - count);
        }
    }
    left
}

#[test]
fn clients_that_take_nothing_stop_no_other_answer_of_their_connection() {
    let origin = origin(|mut peer, _| {
        let (mut connection, mut endless) = (65_535, BTreeMap::new());
        let mut waiting = None;
        while let Some(frame) = peer.next_or_window() {
            let increment =
                || i64::from(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
            match (frame.kind, frame.stream) {
                (WINDOW_UPDATE, 0) => connection += increment(),
                (WINDOW_UPDATE, stream) => {
                    endless.entry(stream).and_modify(|room| *room += increment());
                }
                (HEADERS, stream) if frame.says("/endless") => {
                    peer.send(HEADERS, END_HEADERS, stream, &block(200, &[]));
                    endless.insert(stream, 65_535);
                }
                (HEADERS, stream) => waiting = Some(stream),
                _ => continue,
            }
            connection = fill(&mut peer, connection, &mut endless);
            if connection >= 4
                && let Some(stream) = waiting.take()
            {
                peer.answer(stream, 200, "here");
                connection -= 4;
            }
        }
    });
    let proxy = to(&origin).start();
    let mut deaf = H2Client::with_settings(proxy.address(), &[(INITIAL_WINDOW_SIZE, 0)]);
    for at in 0..8 {
        deaf.send(h2::get(at * 2 + 1, "/endless"));
        assert_eq!(deaf.find_of(at * 2 + 1).kind, HEADERS);
    }
    for _ in 0..3 {
        sent(&proxy, GET).read_response().expect_status(200).expect_body("here");
    }
}

#[test]
fn each_stream_counts_as_a_connection_of_the_pool() {
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = origin(move |mut peer, _| {
        let heads = [peer.head(), peer.head()].map(|head| head.expect("a request"));
        opened.wait();
        for head in heads {
            peer.answer(head.stream, 200, "ok");
        }
        peer.answer_all("ok");
    });
    let proxy = to(&origin).set("pool.max_connections", 2).start();
    let mut clients: Vec<_> = (0..4).map(|_| sent(&proxy, GET)).collect();
    wait_until("two wait", || {
        let text = proxy.admin("GET", "/metrics");
        text.lines().any(|line| line.starts_with("ringway_pool_waiting") && line.ends_with(" 2"))
    });
    gate.open();
    for client in &mut clients {
        client.read_response().expect_status(200);
    }
    assert_eq!(origin.seen().connections.len(), 1);
}

#[test]
fn a_connection_is_opened_ahead_of_requests() {
    let origin = answering("ok");
    let proxy = to(&origin).set("pool.prewarm", 2).start();
    origin.wait_for("a connection", |seen| !seen.connections.is_empty());
    sent(&proxy, GET).read_response().expect_status(200);
    assert_eq!(origin.seen().connections.len(), 1);
}

/// An origin that speaks whatever it is spoken to in, and says which.
fn bilingual() -> Origin {
    Origin::start(|mut peer| {
        if peer.stream().peek(&mut [0; 4]).is_ok_and(|count| count == 4) && is_preface(&peer) {
            Frames::serve(peer, &[]).answer_all("two");
            return;
        }
        while peer.next_request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
        }
    })
}

fn is_preface(peer: &Peer) -> bool {
    let mut start = [0; 4];
    peer.stream().peek(&mut start).is_ok() && &start == b"PRI "
}

#[test]
fn a_reload_changes_what_is_spoken_to_an_origin() {
    let origin = bilingual();
    let with =
        |http: &str| Setup::new().upstream("app", &[&origin.url()], &format!("http = \"{http}\""));
    let proxy = with("2").start();
    let mut client = sent(&proxy, GET);
    client.read_response().expect_body("two");
    for (generation, http, body) in [(2, "1.1", "one"), (3, "2", "two")] {
        fs::write(proxy.home().join("ringway.toml"), with(http).text()).unwrap();
        proxy.signal(Signal::SIGHUP);
        proxy.wait_for_log(&["reloaded", &format!("generation={generation} ")]);
        sent(&proxy, GET).read_response().expect_body(body);
    }
}

#[test]
fn checks_speak_what_the_origin_speaks() {
    let asked = Gate::default();
    let seen = asked.clone();
    let origin = origin(move |mut peer, _| {
        while let Some((head, _)) = peer.request() {
            let is_check = head.says("/alive");
            peer.answer(head.stream, if is_check { 503 } else { 200 }, "x");
            if is_check {
                seen.open();
            }
        }
    });
    let health = "health = { path = \"/alive\", interval = \"100ms\", fall = 1 }";
    let proxy = to_url(&origin.url(), health).start();
    asked.wait();
    wait_until("it is out", || proxy.admin("GET", "/upstreams").contains("status 503"));
}

#[test]
fn retries_and_second_attempts_go_to_another_origin() {
    let ill = origin(|mut peer, _| {
        while let Some((head, _)) = peer.request() {
            peer.answer(head.stream, 503, "ill");
        }
    });
    let silent = origin(|mut peer, _| while peer.next().is_some() {});
    let sound = answering("sound");
    for (bad, retry) in
        [(&ill, "on = [\"503\"]"), (&silent, "hedge = \"50ms\", hedge_percent = 100")]
    {
        let more = "balance = \"first\"\nhttp = \"2\"";
        let proxy = Setup::new()
            .upstream("pair", &[&bad.url(), &sound.url()], more)
            .route("", "/", "pair", &format!("hooks = {{ retry = {{ {retry} }} }}"))
            .start();
        for _ in 0..3 {
            sent(&proxy, GET).read_response().expect_status(200).expect_body("sound");
        }
    }
}

#[test]
fn a_client_of_http_2_is_served_by_origins_of_either() {
    let old = Origin::answering(OK);
    let new = answering("new");
    let proxy = Setup::new()
        .upstream("old", &[&old.url()], "")
        .upstream("new", &[&new.url()], "http = \"2\"")
        .route("", "/old", "old", "")
        .route("", "/new", "new", "")
        .start();
    let mut client = Frames::ask(proxy.connect());
    for (stream, path, body) in [(1, "/old", "ok"), (3, "/new", "new"), (5, "/old", "ok")] {
        let head =
            [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "test")];
        client.send(HEADERS, WHOLE, stream, &fields(&head));
        let answer = client.head().expect("an answer");
        assert_eq!((answer.stream, answer.payload[0]), (stream, 0x88));
        let data = client.next_of(DATA).expect("a body");
        assert_eq!(data.payload, body.as_bytes());
    }
}

/// An origin that takes WebSockets by extended CONNECT, and sends back what comes.
fn takes_websockets() -> Origin {
    Origin::start(|peer| {
        let mut peer = Frames::serve(peer, &[(ENABLE_CONNECT_PROTOCOL, 1)]);
        while let Some(head) = peer.head() {
            if !head.says("websocket") {
                peer.answer(head.stream, 200, "plain");
                continue;
            }
            assert!(head.says("CONNECT") && head.says(":protocol") && head.says("/ws"));
            assert!(!head.says("sec-websocket-key"), "that is HTTP/1.1's");
            peer.send(HEADERS, END_HEADERS, head.stream, &block(200, &[]));
            let mut has_ended = false;
            while !has_ended {
                let Some(frame) = peer.next_of(DATA) else { return };
                has_ended = frame.has(END_STREAM);
                peer.send(DATA, u8::from(has_ended), frame.stream, &frame.payload);
            }
        }
    })
}

#[test]
fn a_websocket_goes_to_an_origin_of_http_2_by_extended_connect() {
    let origin = takes_websockets();
    let proxy = to(&origin).start();
    sent(&proxy, GET).read_response().expect_body("plain");
    let mut client = sent(&proxy, WEBSOCKET);
    let answer = client.read_until("\r\n\r\n");
    let text = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(text.starts_with("http/1.1 101 ") && text.contains("upgrade: websocket"), "{text}");
    // What RFC 6455 §1.3 makes of that key.
    assert!(text.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{text}");
    client.send("over there").expect_stream(b"over there");
    client.half_close();
    client.expect_end(Arrival::End);
    assert_eq!(origin.seen().connections.len(), 1, "all of it went by one connection");
}

#[test]
fn a_websocket_goes_from_http_2_to_http_2() {
    let origin = takes_websockets();
    let proxy = to(&origin).start();
    let mut client = Frames::ask(proxy.connect());
    let head = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/ws"),
        (":authority", "test"),
        ("sec-websocket-version", "13"),
    ];
    client.send(HEADERS, END_HEADERS, 1, &fields(&head));
    let answer = client.head().expect("an answer");
    assert_eq!(answer.payload[0], 0x88, "{answer:?}");
    assert!(!answer.says("sec-websocket-accept"));
    client.send(DATA, 0, 1, b"hello");
    assert_eq!(client.next_of(DATA).expect("an echo").payload, b"hello");
    client.send(DATA, END_STREAM, 1, b"bye");
    let last = client.next_of(DATA).expect("an echo");
    assert_eq!(last.payload, b"bye");
    assert!(last.has(END_STREAM) || client.next_of(DATA).is_some_and(|end| end.has(END_STREAM)));
}

#[test]
fn an_origin_of_http_2_alone_that_takes_no_websocket_is_named_as_the_cause() {
    let origin = answering("plain");
    let proxy = to(&origin).set("log.access", true).start();
    for request in [WEBSOCKET, &WEBSOCKET.replace("websocket\r\n", "other\r\n")] {
        let response = sent(&proxy, request).read_response();
        response.expect_own_error(502, "Bad Gateway", "http_upgrade_failed");
        proxy.wait_for_log(&["status=502", "origin_no_upgrade"]);
    }
    sent(&proxy, GET).read_response().expect_status(200);
}

#[test]
fn a_websocket_goes_by_http_1_1_where_its_origin_takes_none_in_http_2() {
    let pair = Pair::of(&["localhost"]);
    let config = Terms::of(&pair).speaking(&["h2", "http/1.1"]).config();
    let origin = TlsOrigin::with(config, |mut peer| {
        let _ = peer.shake_hands();
        if peer.protocol() == Some(b"h2") {
            return Frames::serve(peer, &[]).answer_all("two");
        }
        let head = peer.read_head().expect("a request").to_lowercase();
        assert!(head.contains("upgrade: websocket"), "{head}");
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: x\r\n\r\nhello",
        );
        peer.read_to_end();
    });
    for http in ["auto", "2"] {
        let more = format!("http = \"{http}\"\ntls = {{ ca = \"ca.pem\" }}");
        let setup =
            Setup::new().upstream("app", &[&origin.url()], &more).file("ca.pem", &pair.chain);
        let proxy = setup.start();
        sent(&proxy, GET).read_response().expect_body("two");
        let mut client = sent(&proxy, WEBSOCKET);
        assert!(client.read_until("\r\n\r\n").starts_with(b"HTTP/1.1 101 "));
        client.expect_stream(b"hello");
        drop(client);
        sent(&proxy, GET).read_response().expect_body("two");
    }
}

#[test]
fn an_introduction_of_clients_and_a_connection_of_many_exclude_each_other() {
    let origin = "http://127.0.0.1:9";
    for http in ["2", "auto"] {
        let more = format!("http = \"{http}\"\nproxy_protocol = \"v2\"");
        let output = Setup::new().upstream("app", &[origin], &more).run();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(said.contains("proxy_protocol") && said.contains("http = \"1.1\""), "{said}");
    }
}
