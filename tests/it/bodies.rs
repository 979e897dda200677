//! Bodies in both directions: whole, in order, at once, and never whole when they were not.
//!
//! Comes in: bodies in every framing that HTTP/1.1 and 1.0 know, of sizes around the proxy's own
//! chunk of 64 KiB. Each test holds what one side wrote against what the other side read.

use crate::support::{
    Client, Ending, Expected, GET, Gate, OK, Origin, Peer, Proxy, Setup, is_of_http1, pattern,
};
use std::sync::Arc;
use std::time::Duration;

/// Around the sizes at which a buffer, a chunk or an operation ends.
const SIZES: [usize; 9] = [0, 1, 8_191, 8_192, 65_535, 65_536, 65_537, 524_289, 3_000_000];

const BIG: usize = 32 << 20;

/// A body as chunks of uneven sizes, without the last one.
fn chunks(body: &[u8]) -> Vec<u8> {
    let (mut rest, mut size, mut bytes) = (body, 1, Vec::new());
    while !rest.is_empty() {
        let (chunk, more) = rest.split_at(size.min(rest.len()));
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        (rest, size) = (more, size * 3 + 1);
    }
    bytes
}

/// Answers every request with the bytes that `answer` makes of its target.
fn answering_by_target(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Origin {
    Origin::start(move |mut peer| {
        while let Some(request) = peer.next_request() {
            peer.send(answer(request.target()));
        }
    })
}

fn get(target: impl std::fmt::Display) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

#[test]
fn request_bodies_arrive_whole_in_either_framing() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let mut client = proxy.connect();
    for size in SIZES {
        let body = pattern(size);
        let length = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n");
        client.send(length).send(&body).expect_status(200);
        client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(chunks(&body)).send("0\r\n\r\n").expect_status(200);
    }
    for (pair, size) in origin.seen().requests.chunks(2).zip(SIZES) {
        pair[0].expect_body(pattern(size)).expect_field("Content-Length", &size.to_string());
        pair[1].expect_body(pattern(size)).expect_no_field("Content-Length");
        assert_eq!(pair[1].ending, Ending::Chunked);
    }
}

#[test]
fn a_request_without_a_body_gets_none_and_an_empty_one_stays() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    proxy.send(GET).expect_status(200);
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n";
    proxy.send(post).expect_status(200);
    let seen = origin.seen();
    seen.requests[0].expect_no_field("Content-Length").expect_no_field("Transfer-Encoding");
    seen.requests[1].expect_field("Content-Length", "0");
}

#[test]
fn response_bodies_arrive_whole_in_every_framing() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let (_, framing_and_size) = request.target().split_at(1);
            let (framing, size) = framing_and_size.split_once('/').expect("/framing/size");
            let body = pattern(size.parse().expect("a number"));
            match framing {
                "length" => peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")),
                "chunked" => peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
                _ => peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"),
            }
            match framing {
                "chunked" => peer.send([&chunks(&body)[..], b"0\r\n\r\n"].concat()),
                _ => peer.send(body),
            }
            if framing == "close" {
                return;
            }
        }
    });
    let proxy = Proxy::to(&origin);
    for size in SIZES {
        for framing in ["length", "chunked", "close"] {
            let response = proxy.send(get(format!("/{framing}/{size}"))).read_response();
            response.expect_status(200).expect_body(pattern(size));
        }
    }
}

#[test]
fn trailers_are_kept_and_chunk_extensions_do_no_harm() {
    if is_of_http1("chunk extensions, and names in any case") {
        return;
    }
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         2;a=b\r\nok\r\n0;c\r\nX-Sum: 42\r\nX-Other: y\r\n\r\n",
    );
    let proxy = Setup::new().upstream("origin", &[&origin.url()], "pass_trailers = true").start();
    let response = proxy
        .send(
            "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n",
        )
        .send("3;x=\"y;z\"\r\nabc\r\n0\r\nX-Sum: 7\r\nX-Other: z\r\n\r\n")
        .read_response();
    let trailers = |sum: &str, other: &str| {
        vec![("X-Sum".to_owned(), sum.to_owned()), ("X-Other".to_owned(), other.to_owned())]
    };
    assert_eq!(response.trailers, trailers("42", "y"));
    response.expect_body("ok").expect_field("Trailer", "X-Sum");
    let request = origin.only_request();
    assert_eq!(request.trailers, trailers("7", "z"));
    request.expect_body("abc").expect_field("Trailer", "X-Sum");
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    let answers = [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", Some("1000")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", None),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        // RFC 9110 §8.6: a server must not send it there, and it must not go on.
        ("DELETE", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", None),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n",
            Some("1000"),
        ),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n", None),
    ];
    for (method, answer, length) in answers {
        let origin = Origin::answering(answer);
        let proxy = Proxy::to(&origin);
        let mut client = proxy.connect();
        // Twice: what one answer left unread would be taken for the next.
        for _ in 0..2 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n"));
            let response = client.read_response_to_head();
            assert!(answer.starts_with(&response.start), "{answer:?} became {response}");
            assert_eq!(response.field("Content-Length"), length, "{answer:?} became {response}");
        }
        client.expect_quiet_for(Duration::from_millis(20));
        assert_eq!(origin.seen().connections.len(), 1, "{answer:?}");
    }
}

const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn a_client_that_expects_continue_hears_it_from_the_origin() {
    let is_allowed = Gate::default();
    let origin = Origin::start({
        let is_allowed = is_allowed.clone();
        move |mut peer| {
            let mut head = peer.expect_head();
            head.expect_field("Expect", "100-continue");
            is_allowed.wait();
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            peer.read_body(&mut head, Expected::Request);
            head.expect_body("body");
            peer.send(OK);
            peer.hold();
        }
    });
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send(EXPECTING);
    origin.wait_for("the head", |seen| !seen.bytes().is_empty());
    client.expect_quiet_for(Duration::from_millis(50));
    is_allowed.open();
    client.expect_status(100).send("body").expect_status(200);
    let bytes = origin.seen().bytes();
    assert!(bytes.ends_with(b"\r\n\r\nbody"), "the body was sent once");
}

#[test]
fn a_client_that_expects_continue_may_be_refused_without_sending_its_body() {
    if is_of_http1("a connection that ends with its answer") {
        return;
    }
    let origin = Origin::start(|mut peer| {
        peer.expect_head();
        peer.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        peer.hold();
    });
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send(EXPECTING);
    client.expect_status(401);
    // The body may still come or not: only a connection that ends leaves no doubt.
    client.expect_closed();
    origin.wait_for("the end of the connection", |seen| seen.open() == 0);
}

#[test]
fn a_client_that_expects_continue_but_does_not_wait_is_served() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send(format!("{EXPECTING}body"));
    client.expect_status(200).send(GET).expect_status(200);
    origin.seen().requests[0].expect_body("body");
}

#[test]
fn interim_answers_are_relayed_at_once() {
    let is_hinted = Gate::default();
    let origin = Origin::start({
        let is_hinted = is_hinted.clone();
        move |mut peer| {
            peer.expect_request();
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n");
            peer.send("Connection: x\r\nX: y\r\n\r\n");
            is_hinted.wait();
            peer.send("HTTP/1.1 102 Processing\r\n\r\n");
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n");
            peer.send(OK);
            peer.hold();
        }
    });
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send(GET);
    let hint = client.read_response();
    hint.expect_status(103).expect_field("Link", "</a>; rel=preload").expect_no_field("X");
    is_hinted.open();
    client.expect_status(102).expect_status(103).expect_status(200);
}

#[test]
fn an_old_client_gets_no_interim_answer() {
    if is_of_http1("clients of HTTP/1.0") {
        return;
    }
    let origin = Origin::answering(format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}"));
    let proxy = Proxy::to(&origin);
    proxy.send("GET / HTTP/1.0\r\n\r\n").expect_status(200).expect_closed();
}

#[test]
fn interim_answers_without_end_are_a_bad_gateway() {
    if is_of_http1("clients of HTTP/1.0") {
        return;
    }
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        for _ in 0..10_000 {
            peer.send("HTTP/1.1 102 Processing\r\n\r\n");
        }
        peer.hold();
    });
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
    client.read_response().expect_own_error(502, "Bad Gateway", "http_protocol_error");
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    if is_of_http1("a connection that ends with its answer") {
        return;
    }
    for framing in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        let origin = Origin::start(|mut peer| {
            peer.expect_head();
            peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
            peer.hold();
        });
        let proxy = Proxy::to(&origin);
        let mut client = proxy.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n"));
        client.send(chunks(&pattern(20_000)));
        client.read_response().expect_status(413).expect_body("big");
        client.expect_closed();
        origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    }
}

#[test]
fn small_pieces_of_an_answer_arrive_while_it_is_still_being_made() {
    type Framing = (&'static str, fn(&str) -> String);
    let framings: [Framing; 3] = [
        ("Transfer-Encoding: chunked", |piece| format!("{:x}\r\n{piece}\r\n", piece.len())),
        ("Content-Length: 1000", str::to_owned),
        ("Connection: close", str::to_owned),
    ];
    for (framing, encode) in framings {
        let gates: Arc<[Gate; 5]> = Arc::default();
        let origin = Origin::start({
            let gates = Arc::clone(&gates);
            move |mut peer| {
                peer.expect_request();
                peer.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n"
                ));
                for (number, gate) in gates.iter().enumerate() {
                    gate.wait();
                    peer.send(encode(&format!("data: {number}\n\n")));
                }
                peer.hold();
            }
        });
        let proxy = Proxy::to(&origin);
        let mut client = proxy.send(GET);
        // The head too must not wait for the first piece.
        client.read_head().expect("a head").expect_status(200);
        for (number, gate) in gates.iter().enumerate() {
            gate.open();
            client.read_until(&format!("data: {number}\n\n"));
        }
        client.reset();
        origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    }
}

#[test]
fn small_pieces_of_a_request_arrive_while_it_is_still_being_made() {
    let origin = Origin::silent();
    let proxy = Proxy::to(&origin);
    let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = proxy.send(head);
    client.wait_until_read();
    assert!(origin.seen().bytes().is_empty(), "an origin is asked once there is something to say");
    for piece in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        let end = format!("{piece}\r\n");
        origin.wait_for(piece, |seen| seen.bytes().ends_with(end.as_bytes()));
    }
    client.reset();
    origin.wait_for("the end of the connection", |seen| seen.open() == 0);
}

/// What an origin may say before it breaks off. Each is a body of which only `ok` came.
const CUT: [&str; 7] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n5",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n",
];

/// An origin that waits after its bytes until the client has seen the start of them.
fn breaking_off(answer: &'static str, end: fn(Peer)) -> (Origin, Gate) {
    let is_seen = Gate::default();
    let origin = Origin::start({
        let is_seen = is_seen.clone();
        move |mut peer| {
            peer.expect_request();
            peer.send(answer);
            is_seen.wait();
            end(peer);
        }
    });
    (origin, is_seen)
}

#[test]
fn a_body_that_the_origin_cuts_short_never_looks_complete() {
    for version in ["1.1", "1.0"] {
        for end in [drop, Peer::reset] {
            for answer in CUT {
                let (origin, is_seen) = breaking_off(answer, end);
                let proxy = Proxy::to(&origin);
                let mut client = proxy.send(format!("GET / HTTP/{version}\r\nHost: test\r\n\r\n"));
                let mut response = client.read_head().expect("a head");
                response.expect_status(200);
                is_seen.open();
                client.read_body(&mut response, Expected::Response);
                assert_eq!(response.ending, Ending::Cut, "{answer:?} for {version}: {response}");
                assert!(b"ok".starts_with(&response.body), "{answer:?}: {response}");
            }
        }
    }
}

#[test]
fn a_body_that_ends_with_its_connection_is_cut_by_a_reset() {
    for version in ["1.1", "1.0"] {
        let (origin, is_seen) = breaking_off("HTTP/1.1 200 OK\r\n\r\nok", Peer::reset);
        let proxy = Proxy::to(&origin);
        let mut client = proxy.send(format!("GET / HTTP/{version}\r\nHost: test\r\n\r\n"));
        let mut response = client.read_head().expect("a head");
        is_seen.open();
        client.read_body(&mut response, Expected::Response);
        assert_eq!(response.ending, Ending::Cut, "for {version}: {response}");
    }
}

#[test]
fn an_old_client_gets_no_chunks() {
    if is_of_http1("clients of HTTP/1.0") {
        return;
    }
    let answers = [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n\
         1;e\r\no\r\n1\r\nk\r\n0\r\nX: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok",
    ];
    for answer in answers {
        for fields in ["", "Connection: keep-alive\r\n"] {
            let origin = Origin::answering_and_closing(answer);
            let proxy = Proxy::to(&origin);
            let mut client = proxy.send(format!("GET / HTTP/1.0\r\nHost: test\r\n{fields}\r\n"));
            let response = client.read_response();
            response
                .expect_body("ok")
                .expect_no_field("Transfer-Encoding")
                .expect_no_field("Trailer");
            assert_eq!(response.ending, Ending::Closed, "{response}");
        }
    }
}

#[test]
fn an_old_client_gets_big_chunked_bodies_without_their_chunks() {
    if is_of_http1("clients of HTTP/1.0") {
        return;
    }
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        peer.send([&chunks(&pattern(3_000_000))[..], b"0\r\n\r\n"].concat());
        peer.hold();
    });
    let response = Proxy::to(&origin).send("GET / HTTP/1.0\r\n\r\n").read_response();
    response.expect_body(pattern(3_000_000));
}

#[test]
fn a_body_that_ends_with_its_connection_is_whole_and_the_next_request_is_served() {
    let origin = Origin::answering_and_closing("HTTP/1.0 200 OK\r\n\r\nok");
    let proxy = Proxy::to(&origin);
    proxy.get().expect_body("ok");
    proxy.get().expect_body("ok");
    assert_eq!(origin.seen().connections.len(), 2);
}

#[test]
fn big_bodies_arrive_byte_for_byte_in_both_directions_at_once() {
    let body = Arc::new(pattern(BIG));
    let origin = answering_by_target({
        let body = Arc::clone(&body);
        move |target| match target {
            "/length" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n");
                [head.as_bytes(), &body].concat()
            }
            "/chunked" => {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                [&head[..], &chunks(&body), b"0\r\n\r\n"].concat()
            }
            _ => OK.into(),
        }
    });
    let proxy = Setup::to(&origin).set("server.workers", 2).start();
    std::thread::scope(|scope| {
        for target in ["/length", "/chunked"] {
            let (proxy, body) = (&proxy, &body);
            scope.spawn(move || {
                proxy.send(get(target)).read_response().expect_body(&**body);
            });
        }
        let post = format!("POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: {BIG}\r\n\r\n");
        proxy.send(post).send(&*body).expect_status(200);
    });
    let seen = origin.seen();
    let upload = seen.requests.iter().find(|request| request.target() == "/up").expect("an upload");
    upload.expect_body(&*body);
}

/// How much the proxy's memory may grow while one side of a transfer does not read.
const STALLED_BYTES_MAX: usize = 8 << 20;

/// How long one side takes nothing: longer than any interval at which the proxy looks after its
/// transfers by itself.
const STALL: Duration = Duration::from_millis(1_500);

#[test]
fn a_client_that_does_not_read_stops_the_origin_and_costs_no_memory() {
    let (body, is_stalled) = (Arc::new(pattern(128 << 20)), Gate::default());
    let origin = Origin::start({
        let (body, is_stalled) = (Arc::clone(&body), is_stalled.clone());
        move |mut peer| {
            peer.expect_request();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            let sent = peer.send_until_stalled(&body, STALL);
            assert!(sent < body.len() / 2, "{sent} bytes left the origin before anybody read");
            is_stalled.open();
            peer.send(&body[sent..]);
            peer.hold();
        }
    });
    let proxy = Proxy::to(&origin);
    let before = proxy.resident_bytes();
    let mut client = Client::with_small_window(proxy.address());
    client.send(GET);
    is_stalled.wait();
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < STALLED_BYTES_MAX, "the proxy grew by {grown} bytes");
    client.read_response().expect_body(&*body);
}

#[test]
fn an_origin_that_does_not_read_stops_the_client_and_costs_no_memory() {
    let (body, is_stalled) = (pattern(128 << 20), Gate::default());
    let origin = Origin::start({
        let is_stalled = is_stalled.clone();
        move |mut peer| {
            let mut request = peer.expect_head();
            is_stalled.wait();
            peer.read_body(&mut request, Expected::Request);
            request.expect_body(pattern(128 << 20));
            peer.send(OK);
            peer.hold();
        }
    });
    let proxy = Proxy::to(&origin);
    let before = proxy.resident_bytes();
    let length = body.len();
    let mut client =
        proxy.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"));
    let sent = client.send_until_stalled(&body, STALL);
    assert!(sent < length / 2, "{sent} bytes left the client before anybody read");
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < STALLED_BYTES_MAX, "the proxy grew by {grown} bytes");
    is_stalled.open();
    client.send(&body[sent..]).expect_status(200);
}

#[test]
fn more_transfers_than_chunks_wait_for_each_other_and_all_end() {
    const CLIENTS: usize = 24;
    let origin = answering_by_target(|_| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
        [&head[..], &pattern(1_000_000)].concat()
    });
    let proxy = Setup::to(&origin)
        .set("buffers.chunks_per_worker", 2)
        .set("buffers.operation_chunks", 1)
        .start();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n\r\n";
                let response = proxy.send(post).send(pattern(300_000)).read_response();
                response.expect_status(200).expect_body(pattern(1_000_000));
            });
        }
    });
    let seen = origin.seen();
    assert_eq!(seen.requests.len(), CLIENTS);
    for request in &seen.requests {
        request.expect_body(pattern(300_000));
    }
}
