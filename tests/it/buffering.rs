//! Routes that buffer: a request's body before an origin is asked, and an answer's behind it, in
//! memory and in a temporary file.
//!
//! What is checked is what the other side sees meanwhile: that no origin waits for a slow client,
//! that one is free before a slow client has taken its answer, and that what goes through a buffer
//! is what came, whatever its framing, its size and its end.

use std::time::Duration;

use crate::support::{
    Client, GET, Gate, Home, OK, Origin, Proxy, Setup, is_of_http1, pattern, wait_until,
};

/// A proxy whose one route goes to `origin` and has these keys.
fn route(origin: &Origin, keys: &str) -> Setup {
    // Few clients leave room for what is buffered.
    Setup::to(origin).route("", "/", "origin", keys).set("limits.clients", 100)
}

fn post(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: test\r\n{lines}\r\n")
}

/// What is held for routes that buffer, in bytes.
fn held(proxy: &Proxy) -> u64 {
    let memory: serde_json::Value = serde_json::from_str(&proxy.admin("GET", "/memory")).unwrap();
    memory["by_kind"]["bodies"].as_u64().expect("a kind of its own")
}

/// What a metric without labels says.
fn metric(proxy: &Proxy, name: &str) -> u64 {
    let text = proxy.admin("GET", "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("a metric").parse().expect("a number")
}

fn in_files(proxy: &Proxy) -> u64 {
    metric(proxy, "ringway_temp_file_bytes")
}

/// Nothing is held any more, wherever that was.
fn expect_nothing_held(proxy: &Proxy) {
    wait_until("nothing is held any more", || held(proxy) == 0 && in_files(proxy) == 0);
}

/// Gives each target's answer: `/big` is `big`, anything else is [`OK`].
fn two_sizes(big: Vec<u8>) -> Origin {
    Origin::start(move |mut peer| {
        while let Some(request) = peer.next_request() {
            if request.target() == "/big" {
                peer.send(&big);
            } else {
                peer.send(OK);
            }
        }
    })
}

fn sized(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn no_origin_is_asked_before_a_body_is_complete() {
    let origin = Origin::answering(OK);
    let proxy = route(&origin, "buffer_requests = \"64KiB\"").start();
    let mut client = proxy.connect();
    let body = pattern(50_000);
    for turn in 1..=2 {
        client.send(post("Content-Length: 50000\r\n")).send(&body[..30_000]);
        client.wait_until_read();
        wait_until("the beginning is held", || held(&proxy) >= 20_000);
        assert_eq!(origin.seen().requests.len(), turn - 1);
        assert_eq!(origin.seen().connections.len(), usize::from(turn > 1));
        client.send(&body[30_000..]);
        client.read_response().expect_status(200);
        origin.seen().requests[turn - 1].expect_body(&body);
    }
    wait_until("nothing is held any more", || held(&proxy) == 0);
}

#[test]
fn a_body_in_chunks_that_is_buffered_whole_goes_on_with_its_length() {
    let origin = Origin::answering(OK);
    let proxy = route(&origin, "buffer_requests = \"64KiB\"").start();
    let mut client = proxy.connect();
    let chunks = post("Transfer-Encoding: chunked\r\n");
    client.send(&chunks).send("5;x=y\r\nhel");
    client.wait_until_read();
    assert_eq!(origin.seen().connections.len(), 0);
    // The next request follows at once, and stays one.
    client.send("lo\r\n3\r\n at\r\n0\r\nX-Trailer: z\r\n\r\n").send(GET);
    client.read_response().expect_status(200);
    client.read_response().expect_status(200);
    let first = origin.seen().requests[0].clone();
    first.expect_body("hello at").expect_field("content-length", "8");
    first.expect_no_field("transfer-encoding").expect_no_field("x-trailer");
    // One that comes at once does too, and the same head again is no reason for the same length.
    for body in ["5\r\nother\r\n0\r\n\r\n", "1\r\nx\r\n0\r\n\r\n"] {
        client.send(format!("{chunks}{body}")).read_response().expect_status(200);
    }
    let lengths: Vec<_> = origin.seen().requests[2..]
        .iter()
        .map(|request| request.field("content-length").map(str::to_owned))
        .collect();
    assert_eq!(lengths, [Some("5".to_owned()), Some("1".to_owned())]);
}

#[test]
fn a_client_that_waits_for_leave_gets_it_before_an_origin_is_asked() {
    let origin = Origin::answering(OK);
    let proxy = route(&origin, "buffer_requests = \"64KiB\"").start();
    let mut client = proxy.connect();
    for turn in 0..2 {
        client.send(post("Content-Length: 5\r\nExpect: 100-continue\r\n"));
        assert_eq!(client.read_exact(25), b"HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(origin.seen().requests.len(), turn);
        client.send("hello").read_response().expect_status(200);
        let request = origin.seen().requests[turn].clone();
        request.expect_body("hello").expect_no_field("expect");
    }
}

#[test]
fn a_larger_body_goes_on_as_it_comes() {
    let body = pattern(300_000);
    for lines in ["Content-Length: 300000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let origin = Origin::answering(OK);
        let setup = route(&origin, "buffer_requests = \"16KiB\"").set("buffers.temp_bytes", 0);
        let proxy = setup.start();
        let mut client = proxy.connect();
        let is_chunked = lines.starts_with('T');
        client.send(post(lines));
        for part in body.chunks(7_000) {
            if is_chunked {
                client.send(format!("{:x}\r\n", part.len())).send(part).send("\r\n");
            } else {
                client.send(part);
            }
        }
        if is_chunked {
            client.send("0\r\n\r\n");
        }
        client.read_response().expect_status(200);
        client.send(GET).read_response().expect_status(200);
        origin.seen().requests[0].expect_body(&body);
        assert_eq!(held(&proxy), 0, "{lines}");
    }
}

#[test]
fn an_origin_is_asked_at_the_bound_and_no_later() {
    let origin = Origin::answering(OK);
    let setup = route(&origin, "buffer_requests = \"16KiB\"").set("buffers.temp_bytes", 0);
    let proxy = setup.start();
    let mut client = proxy.connect();
    let body = pattern(100_000);
    client.send(post("Content-Length: 100000\r\n")).send(&body[..60_000]);
    origin.wait_for("the beginning", |seen| seen.bytes().len() > 60_000);
    assert!(held(&proxy) <= 64 * 1024, "{}", held(&proxy));
    client.send(&body[60_000..]).read_response().expect_status(200);
    origin.only_request().expect_body(&body);
}

#[test]
fn a_body_that_is_wrong_never_reaches_an_origin() {
    if is_of_http1("chunks that are wrong") {
        return;
    }
    let origin = Origin::untouchable();
    let setup = route(&origin, "buffer_requests = \"64KiB\"").set("limits.body_bytes", "20KB");
    let proxy = setup.set("timeouts.read", "300ms").start();
    let chunked = post("Transfer-Encoding: chunked\r\n");
    let mut bad = proxy.send(&chunked);
    bad.send("5\r\nhello\r\n");
    bad.wait_until_read();
    bad.send("nonsense\r\n").read_response().expect_status(400);
    let mut large = proxy.send(&chunked);
    large.send("5000\r\n").send(vec![b'x'; 0x5000]).send("\r\n");
    large.read_response().expect_status(413);
    let mut slow = proxy.send(post("Content-Length: 10\r\n"));
    slow.send("half").read_response().expect_status(408);
    let mut short = proxy.send(post("Content-Length: 10\r\n"));
    short.send("half").half_close();
    short.read_response().expect_status(400);
    wait_until("nothing is held any more", || held(&proxy) == 0);
}

#[test]
fn a_buffered_body_is_sent_again_where_the_route_repeats() {
    let ill = Origin::answering("HTTP/1.1 503 Ill\r\nContent-Length: 0\r\n\r\n");
    let sound = Origin::answering(OK);
    let keys = "buffer_requests = \"64KiB\"\nhooks = { retry = { on = [\"503\"] } }";
    let proxy = Setup::new()
        .upstream("pair", &[&ill.url(), &sound.url()], "balance = \"first\"")
        .route("", "/", "pair", keys)
        .start();
    let body = pattern(40_000);
    let mut client = proxy.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 40000\r\n\r\n");
    client.send(&body[..20_000]);
    client.wait_until_read();
    client.send(&body[20_000..]).read_response().expect_status(200);
    ill.only_request().expect_body(&body);
    sound.only_request().expect_body(&body);
}

#[test]
fn a_slow_reader_does_not_keep_the_origins_connection() {
    let body = pattern(12 << 20);
    let origin = two_sizes(sized(&body));
    let setup = route(&origin, "buffer_responses = \"16MiB\"").set("pool.max_connections", 1);
    let proxy = setup.start();
    let mut slow = Client::with_small_window(proxy.address());
    slow.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.wait_for("the large one", |seen| !seen.requests.is_empty());
    // The only connection that there may be serves somebody else meanwhile.
    proxy.send(GET).read_response().expect_status(200);
    assert_eq!(origin.seen().connections.len(), 1);
    assert!(held(&proxy) > 1 << 20, "{}", held(&proxy));
    slow.read_response().expect_status(200).expect_body(&body);
    slow.send(GET).read_response().expect_status(200);
    wait_until("nothing is held any more", || held(&proxy) == 0);
}

#[test]
fn what_is_held_of_an_answer_is_bounded() {
    let body = pattern(16 << 20);
    let origin = two_sizes(sized(&body));
    let setup = route(&origin, "buffer_responses = \"64KiB\"").set("buffers.temp_bytes", 0);
    let proxy = setup.start();
    let mut slow = Client::with_small_window(proxy.address());
    slow.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_until("something is held", || held(&proxy) > 0);
    for _ in 0..20 {
        assert!(held(&proxy) <= 96 * 1024, "{}", held(&proxy));
        std::thread::sleep(Duration::from_millis(10));
    }
    slow.read_response().expect_status(200).expect_body(&body);
}

#[test]
fn each_framing_goes_through_a_buffer() {
    let body = pattern(200_000);
    let chunked = {
        let chunks = body
            .chunks(999)
            .map(|part| [format!("{:x};e=f\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
        let chunks: Vec<u8> = chunks.flatten().collect();
        let head: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        [head, &chunks, b"0\r\n\r\n"].concat()
    };
    let until_close = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &body].concat();
    for (answer, is_closing) in [(sized(&body), false), (chunked, false), (until_close, true)] {
        let origin = if is_closing {
            Origin::answering_and_closing(answer)
        } else {
            Origin::answering(answer)
        };
        let proxy = route(&origin, "buffer_responses = \"32KiB\"").start();
        let mut modern = proxy.connect();
        for _ in 0..2 {
            modern.send(GET).read_response().expect_status(200).expect_body(&body);
        }
        let old = "GET / HTTP/1.0\r\nHost: test\r\n\r\n";
        proxy.send(old).read_response().expect_status(200).expect_body(&body);
        let mut slow = Client::with_small_window(proxy.address());
        slow.send(GET).read_response().expect_status(200).expect_body(&body);
        wait_until("nothing is held any more", || held(&proxy) == 0);
    }
}

#[test]
fn events_are_passed_on_as_they_come() {
    let next = Gate::default();
    let origin = {
        let next = next.clone();
        Origin::start(move |mut peer| {
            peer.expect_request();
            peer.send(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                 Transfer-Encoding: chunked\r\n\r\n",
            );
            peer.send("9\r\ndata: 1\n\n\r\n");
            next.wait();
            peer.send("9\r\ndata: 2\n\n\r\n0\r\n\r\n");
        })
    };
    let proxy = route(&origin, "buffer_responses = \"1MiB\"").start();
    let mut client = proxy.send(GET);
    client.read_until("data: 1\n\n\r\n");
    // An idle stream holds nothing.
    wait_until("nothing is held", || held(&proxy) == 0);
    next.open();
    client.read_until("data: 2\n\n\r\n0\r\n\r\n");
}

#[test]
fn an_answer_that_is_cut_short_is_cut_short_behind_a_buffer_too() {
    let body = pattern(100_000);
    let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n"[..], &body].concat();
    let origin = Origin::answering_and_closing(answer);
    let proxy = route(&origin, "buffer_responses = \"1MiB\"").start();
    proxy.send(GET).read_cut_response().expect_status(200);
    wait_until("nothing is held any more", || held(&proxy) == 0);
}

#[test]
fn a_client_that_goes_away_gives_back_what_is_held_for_it() {
    let origin = two_sizes(sized(&pattern(8 << 20)));
    let keys = "buffer_requests = \"1MiB\"\nbuffer_responses = \"4MiB\"";
    let proxy = route(&origin, keys).start();
    let mut reader = Client::with_small_window(proxy.address());
    reader.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_until("an answer is held", || held(&proxy) > 1 << 20);
    reader.reset();
    wait_until("nothing is held any more", || held(&proxy) == 0);
    let mut writer = proxy.send(post("Content-Length: 500000\r\n"));
    writer.send(vec![b'x'; 400_000]);
    wait_until("a body is held", || held(&proxy) >= 300_000);
    writer.reset();
    wait_until("nothing is held any more", || held(&proxy) == 0);
}

#[test]
fn an_answer_that_is_cut_short_frees_its_connection_before_a_slow_reader_has_what_came() {
    let body = pattern(12 << 20);
    let mut short = sized(&body);
    short.truncate(short.len() - 1);
    let origin = Origin::start(move |mut peer| {
        while let Some(request) = peer.next_request() {
            if request.target() == "/big" {
                peer.send(&short);
                return;
            }
            peer.send(OK);
        }
    });
    let setup = route(&origin, "buffer_responses = \"16MiB\"").set("pool.max_connections", 1);
    let proxy = setup.start();
    let mut slow = Client::with_small_window(proxy.address());
    slow.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_until("it is held", || held(&proxy) > 1 << 20);
    proxy.send(GET).read_response().expect_status(200);
    slow.read_cut_response().expect_status(200);
    wait_until("nothing is held any more", || held(&proxy) == 0);
}

#[test]
fn a_client_that_goes_away_while_its_body_is_poured_is_missed() {
    let gone = Gate::default();
    let origin = {
        let gone = gone.clone();
        Origin::start(move |mut peer| {
            peer.expect_head();
            // It takes no more than its socket does by itself.
            gone.wait();
            peer.read_to_end();
        })
    };
    let setup = route(&origin, "buffer_requests = \"32MiB\"").set("timeouts.read", "10m");
    let proxy = setup.start();
    let body = pattern(24 << 20);
    let mut client = proxy.connect();
    client.send(post(&format!("Content-Length: {}\r\n", body.len()))).send(&body);
    origin.wait_for("the connection", |seen| !seen.connections.is_empty());
    client.reset();
    wait_until("nothing is held any more", || held(&proxy) == 0);
    gone.open();
}

#[test]
fn a_body_in_chunks_is_poured_whole_into_an_origin_that_takes_its_time() {
    let may_read = Gate::default();
    let origin = {
        let may_read = may_read.clone();
        Origin::start(move |mut peer| {
            may_read.wait();
            while peer.next_request().is_some() {
                peer.send(OK);
            }
        })
    };
    let proxy = route(&origin, "buffer_requests = \"32MiB\"").start();
    let body = pattern(16 << 20);
    let mut client = proxy.connect();
    client.send(post("Transfer-Encoding: chunked\r\n"));
    for part in body.chunks(77_777) {
        client.send(format!("{:x}\r\n", part.len())).send(part).send("\r\n");
    }
    client.send("0\r\n\r\n");
    origin.wait_for("the connection", |seen| !seen.connections.is_empty());
    may_read.open();
    client.read_response().expect_status(200);
    origin.only_request().expect_body(&body);
    wait_until("nothing is held any more", || held(&proxy) == 0);
}

/// Sends a part of a body, in its framing.
fn send_part(client: &mut Client, part: &[u8], is_chunked: bool) {
    if is_chunked {
        client.send(format!("{:x}\r\n", part.len())).send(part).send("\r\n");
    } else {
        client.send(part);
    }
}

#[test]
fn a_body_that_is_larger_than_its_memory_waits_in_a_file() {
    let body = pattern(5_000_000);
    for lines in ["Content-Length: 5000000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let origin = Origin::answering(OK);
        let setup = route(&origin, "buffer_requests = \"16KiB\"");
        let folder = Home::new();
        let proxy = setup.set("buffers.temp_folder", folder.path()).start();
        let is_chunked = lines.starts_with('T');
        let mut client = proxy.connect();
        for turn in 0..2 {
            client.send(post(lines));
            body[..3_000_000].chunks(70_000).for_each(|it| send_part(&mut client, it, is_chunked));
            wait_until("it is in a file", || in_files(&proxy) > 2_800_000);
            assert_eq!(origin.seen().requests.len(), turn);
            assert!(held(&proxy) <= 160 * 1024, "{}", held(&proxy));
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
            body[3_000_000..].chunks(70_000).for_each(|it| send_part(&mut client, it, is_chunked));
            if is_chunked {
                client.send("0\r\n\r\n");
            }
            client.read_response().expect_status(200);
            let request = origin.seen().requests[turn].clone();
            request.expect_body(&body).expect_field("content-length", "5000000");
        }
        expect_nothing_held(&proxy);
        assert_eq!(metric(&proxy, "ringway_temp_files_total"), 2, "{lines}");
    }
}

#[test]
fn a_body_in_a_file_is_sent_again_where_the_route_repeats() {
    let ill = Origin::answering("HTTP/1.1 503 Ill\r\nContent-Length: 0\r\n\r\n");
    let sound = Origin::answering(OK);
    let keys = "buffer_requests = \"16KiB\"\nhooks = { retry = { on = [\"503\"] } }";
    let proxy = Setup::new()
        .upstream("pair", &[&ill.url(), &sound.url()], "balance = \"first\"")
        .route("", "/", "pair", keys)
        .start();
    let body = pattern(1_000_000);
    let mut client = proxy.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n");
    client.send(&body).read_response().expect_status(200);
    ill.only_request().expect_body(&body);
    sound.only_request().expect_body(&body);
    expect_nothing_held(&proxy);
}

#[test]
fn what_is_beyond_the_bound_of_a_file_goes_on_as_it_comes() {
    let body = pattern(6_000_000);
    for key in ["buffers.temp_bytes", "buffers.temp_body_bytes"] {
        let origin = Origin::answering(OK);
        let setup = route(&origin, "buffer_requests = \"16KiB\"").set(key, "1MiB");
        let proxy = setup.start();
        let mut client = proxy.send(post("Content-Length: 6000000\r\n"));
        client.send(&body[..5_900_000]);
        origin.wait_for("the beginning", |seen| seen.bytes().len() > 3_000_000);
        assert!(in_files(&proxy) <= 1 << 20, "{key}");
        client.send(&body[5_900_000..]).read_response().expect_status(200);
        origin.only_request().expect_body(&body);
        expect_nothing_held(&proxy);
    }
}

#[test]
fn a_disk_that_is_full_makes_bodies_go_on_as_they_come() {
    let body = pattern(3_000_000);
    let origin = two_sizes(sized(&body));
    let keys = "buffer_requests = \"16KiB\"\nbuffer_responses = \"16KiB\"";
    // Beyond 300 blocks, writes fail, as on a disk that is full.
    let full = route(&origin, keys).launched_by("ulimit -f 300 && exec \"$0\" \"$@\"");
    let nowhere = route(&origin, keys).set("buffers.temp_folder", "/nonexistent/folder");
    for setup in [full, nowhere] {
        let before = origin.seen().requests.len();
        let proxy = setup.start();
        let mut client = proxy.send(post("Content-Length: 3000000\r\n"));
        client.send(&body).read_response().expect_status(200);
        origin.seen().requests[before].expect_body(&body);
        let mut slow = Client::with_small_window(proxy.address());
        slow.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
        slow.read_response().expect_status(200).expect_body(&body);
        assert!(metric(&proxy, "ringway_temp_file_failures_total") > 0);
        proxy.wait_for_log(&["temporary files for bodies fail", "buffers.temp_folder"]);
        expect_nothing_held(&proxy);
    }
}

#[test]
fn what_a_slow_reader_has_not_taken_waits_in_a_file() {
    let body = pattern(24 << 20);
    let chunked = {
        let chunks = body
            .chunks(9_999)
            .map(|part| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
        let chunks: Vec<u8> = chunks.flatten().collect();
        let head: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        [head, &chunks, b"0\r\n\r\n"].concat()
    };
    for answer in [sized(&body), chunked] {
        let origin = two_sizes(answer);
        let setup = route(&origin, "buffer_responses = \"64KiB\"").set("pool.max_connections", 1);
        let proxy = setup.start();
        let mut slow = Client::with_small_window(proxy.address());
        slow.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
        // The only connection that there may be serves somebody else meanwhile.
        proxy.send(GET).read_response().expect_status(200);
        assert_eq!(origin.seen().connections.len(), 1);
        wait_until("most of it is in a file", || {
            in_files(&proxy) > 8 << 20 && held(&proxy) <= 256 * 1024
        });
        slow.read_response().expect_status(200).expect_body(&body);
        slow.send(GET).read_response().expect_status(200);
        expect_nothing_held(&proxy);
    }
}

#[test]
fn an_answer_beyond_the_bound_of_its_file_waits_for_its_reader() {
    let body = pattern(24 << 20);
    let origin = two_sizes(sized(&body));
    let keys = "buffer_responses = \"16KiB\"";
    let proxy = route(&origin, keys).set("buffers.temp_body_bytes", "1MiB").start();
    let mut slow = Client::with_small_window(proxy.address());
    slow.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_until("the file is full", || in_files(&proxy) > 900_000);
    assert!(in_files(&proxy) <= 1 << 20);
    slow.read_response().expect_status(200).expect_body(&body);
    slow.send(GET).read_response().expect_status(200);
    expect_nothing_held(&proxy);
}

#[test]
fn a_file_serves_both_sides_that_are_slow() {
    let may_read = Gate::default();
    let origin = {
        let may_read = may_read.clone();
        Origin::start(move |mut peer| {
            may_read.wait();
            while let Some(request) = peer.next_request() {
                peer.send(sized(&request.body));
            }
        })
    };
    let keys = "buffer_requests = \"16KiB\"\nbuffer_responses = \"16KiB\"";
    let proxy = route(&origin, keys).start();
    let body = pattern(16 << 20);
    let mut slow = Client::with_small_window(proxy.address());
    slow.send(post("Transfer-Encoding: chunked\r\n"));
    body.chunks(77_777).for_each(|part| send_part(&mut slow, part, true));
    slow.send("0\r\n\r\n");
    origin.wait_for("the connection", |seen| !seen.connections.is_empty());
    assert!(in_files(&proxy) > 15 << 20);
    may_read.open();
    slow.read_response().expect_status(200).expect_body(&body);
    expect_nothing_held(&proxy);
}

#[test]
fn a_client_that_goes_away_leaves_no_file_behind() {
    let origin = two_sizes(sized(&pattern(24 << 20)));
    let keys = "buffer_requests = \"16KiB\"\nbuffer_responses = \"16KiB\"";
    let proxy = route(&origin, keys).start();
    let files = proxy.open_files();
    let mut reader = Client::with_small_window(proxy.address());
    reader.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_until("an answer is in a file", || in_files(&proxy) > 1 << 20);
    reader.reset();
    expect_nothing_held(&proxy);
    let mut writer = proxy.send(post("Content-Length: 5000000\r\n"));
    writer.send(vec![b'x'; 4_000_000]);
    wait_until("a body is in a file", || in_files(&proxy) > 3_000_000);
    writer.reset();
    expect_nothing_held(&proxy);
    wait_until("the files are closed", || proxy.open_files() <= files + 1);
}
