//! Bodies in DATA: whole, in their framing, with back-pressure, and cut where their source was.
//!
//! Comes in: frames of a scripted client. Goes out: frames to it, and what the origin got.

use std::time::Duration;

use super::stream_bytes;
use crate::support::h2::*;
use crate::support::{Ending, Expected, Gate, OK, Origin, Proxy, Setup, pattern, wait_until};

#[test]
fn bodies_arrive_whole_both_ways() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let length = request.body.len();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            peer.send(&request.body);
        }
    });
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    let body = pattern(60_000);
    for (stream, is_sized) in [(1, true), (3, false)] {
        let length = body.len().to_string();
        let more = if is_sized { vec![("content-length", length.as_str())] } else { vec![] };
        client.send(headers(stream, 0, &[request("POST", "/"), more].concat()));
        for piece in body.chunks(7_001) {
            client.send(frame(DATA, 0, stream, piece));
        }
        client.send(frame(DATA, END_STREAM, stream, b""));
        client.read_answer(stream).expect_status(200).expect_body(&body);
        let seen = origin.seen();
        let came = seen.requests.last().expect("a request");
        let expected = if is_sized { Ending::Length } else { Ending::Chunked };
        assert_eq!(came.ending, expected);
    }
}

#[test]
fn trailers_pass_both_ways() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            assert_eq!(request.trailers, [("x-sum".to_owned(), "1".to_owned())]);
            peer.send(
                "HTTP/1.1 200 OK\r\nTrailer: X-Back\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\nok\r\n0\r\nX-Back: 2\r\n\r\n",
            );
        }
    });
    let proxy = Setup::new().upstream("origin", &[&origin.url()], "pass_trailers = true").start();
    let mut client = H2Client::connect(proxy.address());
    client.send(headers(1, 0, &[request("POST", "/"), vec![("te", "trailers")]].concat()));
    client.send(frame(DATA, 0, 1, b"hello"));
    client.send(headers(1, END_STREAM, &[("x-sum", "1")]));
    let answer = client.read_answer(1);
    answer.expect_status(200).expect_body("ok");
    assert_eq!(answer.trailers, [("x-back".to_owned(), "2".to_owned())]);
}

#[test]
fn an_upload_waits_for_its_origin_and_no_other_stream_waits_for_it() {
    let is_open = Gate::default();
    let origin = Origin::start({
        let is_open = is_open.clone();
        move |mut peer| {
            let Some(mut request) = peer.read_head() else { return };
            if request.method() == "POST" {
                is_open.wait();
                peer.read_body(&mut request, Expected::Request);
                request.expect_body(pattern(24_000_000));
            }
            peer.send(OK);
            peer.hold();
        }
    });
    let proxy = Proxy::to(&origin);
    let before = stream_bytes(&proxy);
    let mut client = H2Client::connect(proxy.address());
    let body = pattern(24_000_000);
    let mut windows = (client.allowed(), 65_535_i64);
    client.send(headers(1, 0, &request("POST", "/")));
    let (mut sent, mut other) = (0, 3);
    let mut answer = Answer::default();
    while !answer.is_over() {
        let room = windows.0.min(windows.1).max(0) as usize;
        let count = room.min(16_384).min(body.len() - sent);
        if count > 0 {
            sent += count;
            let bytes = i64::try_from(count).unwrap();
            (windows.0, windows.1) = (windows.0 - bytes, windows.1 - bytes);
            let flags = if sent == body.len() { END_STREAM } else { 0 };
            client.send(frame(DATA, flags, 1, &body[sent - count..sent]));
            continue;
        }
        if other == 3 && client.is_quiet_for(Duration::from_millis(200)) {
            // Stalled: what is held for it is no more than its windows; the kernel has up to 10 MB.
            assert!(sent < 20_000_000, "{sent} bytes were taken without a reader");
            let held = stream_bytes(&proxy) - before;
            assert!(held < 1_400_000, "{held} bytes");
            client.send(get(other, "/"));
            client.read_answer(other).expect_status(200);
            other += 2;
            is_open.open();
            continue;
        }
        let came = client.find("a frame", |_| true);
        match (came.kind, came.stream) {
            (WINDOW_UPDATE, 0) => windows.0 += i64::from(came.number(0)),
            (WINDOW_UPDATE, 1) => windows.1 += i64::from(came.number(0)),
            (HEADERS | DATA, 1) => answer.take(&came),
            _ => panic!("{came:?}"),
        }
    }
    answer.expect_status(200).expect_body("ok");
    assert_eq!(other, 5, "the upload never stalled");
}

/// Sends an endless body until no window opens any more; what is left of the connection's.
fn upload_until_stalled(client: &mut H2Client, stream: u32, connection: i64) -> i64 {
    let mut windows = (connection, 65_535_i64);
    client.send(headers(stream, 0, &request("POST", "/endless")));
    loop {
        let count = windows.0.min(windows.1).clamp(0, 16_384);
        if count > 0 {
            client.send(frame(DATA, 0, stream, vec![b'x'; count as usize]));
            windows = (windows.0 - count, windows.1 - count);
        } else if client.is_quiet_for(Duration::from_millis(300)) {
            return windows.0;
        } else {
            let came = client.find("a window", |frame| frame.kind == WINDOW_UPDATE);
            let window = if came.stream == 0 { &mut windows.0 } else { &mut windows.1 };
            *window += i64::from(came.number(0));
        }
    }
}

#[test]
fn uploads_that_have_grown_and_stop_leave_room_for_others() {
    let is_over = Gate::default();
    let origin = Origin::start({
        let is_over = is_over.clone();
        move |mut peer| {
            while let Some(mut request) = peer.read_head() {
                if request.target() == "/endless" {
                    // Its window grows by what is taken, and then nothing is.
                    peer.discard(4_000_000);
                    return is_over.wait();
                }
                peer.read_body(&mut request, Expected::Request);
                peer.send(OK);
            }
        }
    });
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    let mut left = client.allowed();
    for stream in [1, 3, 5, 7] {
        left = upload_until_stalled(&mut client, stream, left);
        assert!(left >= 16_384, "{left} bytes are left behind stream {stream}");
    }
    client.send(headers(9, 0, &request("POST", "/"))).send(frame(DATA, END_STREAM, 9, "short"));
    client.read_answer(9).expect_status(200).expect_body("ok");
    is_over.open();
}

#[test]
fn a_download_waits_for_its_client_and_no_other_stream_waits_for_it() {
    let body = pattern(2_000_000);
    let origin = Origin::start({
        let body = body.clone();
        move |mut peer| {
            while let Some(request) = peer.next_request() {
                if request.target() == "/big" {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n");
                    peer.send(&body);
                } else {
                    peer.send(OK);
                }
            }
        }
    });
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.keep_windows();
    // The connection has room: it is the stream that has none.
    client.send(window_update(0, 10_000_000)).send(get(1, "/big"));
    let mut answer = Answer::default();
    while answer.body.len() < 65_535 {
        answer.take(&client.find_of(1));
    }
    assert!(client.is_quiet_for(Duration::from_millis(100)), "more than the window");
    client.get(3, "/").expect_status(200).expect_body("ok");
    // By single bytes, then at once.
    for _ in 0..20 {
        client.send(window_update(1, 1));
        let piece = client.find_of(1);
        assert_eq!(piece.payload.len(), 1);
        answer.take(&piece);
    }
    client.send(window_update(1, 3_000_000));
    while !answer.is_over() {
        answer.take(&client.find_of(1));
    }
    answer.expect_status(200).expect_body(&body);
}

#[test]
fn a_window_below_zero_holds_a_download_until_it_is_above() {
    let body = pattern(100_000);
    let origin = Origin::answering(
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n".as_slice(), &body].concat(),
    );
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.keep_windows();
    client.send(window_update(0, 10_000_000)).send(get(1, "/"));
    let mut answer = Answer::default();
    while answer.body.len() < 65_535 {
        answer.take(&client.find_of(1));
    }
    // From 65,535 to 1: the window is now 65,534 below zero.
    client.send(settings(&[(4, 1)])).send(window_update(1, 65_534));
    client.expect_alive();
    client.send(window_update(1, 1));
    let piece = client.find_of(1);
    assert_eq!(piece.payload.len(), 1);
    answer.take(&piece);
    client.send(window_update(1, 1_000_000));
    while !answer.is_over() {
        answer.take(&client.find_of(1));
    }
    answer.expect_body(&body);
}

#[test]
fn an_answer_before_the_body_is_whole_is_followed_by_a_reset_without_blame() {
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).set("limits.body_bytes", 1000).start();
    let mut client = H2Client::connect(proxy.address());
    let more = vec![("content-length", "2000")];
    client.send(headers(1, 0, &[request("POST", "/"), more].concat()));
    let answer = client.read_answer(1);
    answer.expect_status(413);
    assert!(answer.has_ended, "{answer:?}");
    client.expect_reset(1, NO_ERROR);
    // What was on its way does no harm.
    client.send(frame(DATA, 0, 1, [0; 1000])).send(frame(DATA, END_STREAM, 1, [0; 1000]));
    client.expect_alive();
}

#[test]
fn an_origin_that_dies_half_way_resets_its_stream_and_no_other() {
    let (is_open, may_die) = (Gate::default(), Gate::default());
    let origin = Origin::start({
        let (is_open, may_die) = (is_open.clone(), may_die.clone());
        move |mut peer| {
            while let Some(request) = peer.next_request() {
                match request.target() {
                    "/length" => peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
                    "/chunks" => peer
                        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
                    _ => {
                        is_open.wait();
                        peer.send(OK);
                        continue;
                    }
                }
                may_die.wait();
                return peer.reset();
            }
        }
    });
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.send(get(1, "/")).send(get(3, "/length")).send(get(5, "/chunks"));
    let mut answers = [Answer::default(), Answer::default()];
    for (answer, stream) in answers.iter_mut().zip([3, 5]) {
        while answer.body.len() < 3 {
            answer.take(&client.find_of(stream));
        }
    }
    may_die.open();
    for (mut answer, stream) in answers.into_iter().zip([3, 5]) {
        while !answer.is_over() {
            answer.take(&client.find_of(stream));
        }
        assert_eq!(answer.reset, Some(INTERNAL_ERROR), "{answer:?}");
    }
    is_open.open();
    client.read_answer(1).expect_status(200).expect_body("ok");
}

#[test]
fn a_stream_that_is_given_up_ends_its_exchange_and_no_other() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            if request.target() == "/long" {
                return peer.hold();
            }
            peer.send(OK);
        }
    });
    let proxy = Proxy::to(&origin);
    let before = stream_bytes(&proxy);
    let mut client = H2Client::connect(proxy.address());
    client.send(get(1, "/long"));
    origin.wait_for("the request", |seen| seen.requests.len() == 1);
    client.send(rst_stream(1, CANCEL));
    origin.wait_for("the end of its connection", |seen| seen.open() == 0);
    client.get(3, "/").expect_status(200).expect_body("ok");
    drop(client);
    wait_until("the ledger is back", || stream_bytes(&proxy) <= before);
}

/// A client that goes on sending while windows allow it, and reads what comes meanwhile.
#[track_caller]
fn upload_until_answered(client: &mut H2Client, stream: u32) -> Answer {
    let mut windows = (client.allowed(), 65_535_i64);
    let mut answer = Answer::default();
    while !answer.is_over() {
        let room = windows.0.min(windows.1).max(0) as usize;
        let count = room.min(16_384);
        if count > 0 {
            let bytes = i64::try_from(count).unwrap();
            (windows.0, windows.1) = (windows.0 - bytes, windows.1 - bytes);
            client.send(frame(DATA, 0, stream, vec![b'a'; count]));
            if client.is_quiet_for(Duration::from_millis(1)) {
                continue;
            }
        }
        let came = client.find("a frame", |_| true);
        match came.kind {
            WINDOW_UPDATE if came.stream == 0 => windows.0 += i64::from(came.number(0)),
            WINDOW_UPDATE => windows.1 += i64::from(came.number(0)),
            _ => answer.take(&came),
        }
    }
    answer
}

#[test]
fn a_body_of_no_known_length_over_the_limit_is_413() {
    let origin = Origin::silent();
    let proxy = Setup::to(&origin).set("limits.body_bytes", 100_000).start();
    let mut client = H2Client::connect(proxy.address());
    client.send(headers(1, 0, &request("POST", "/")));
    upload_until_answered(&mut client, 1).expect_status(413);
    client.expect_reset(1, NO_ERROR).expect_alive();
}

#[test]
fn an_answer_reaches_a_client_that_is_still_sending() {
    let origin = Origin::start(|mut peer| {
        peer.expect_head();
        peer.read_exact(100_000);
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    });
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.send(headers(1, 0, &request("POST", "/")));
    upload_until_answered(&mut client, 1).expect_status(403).expect_body("no");
    client.expect_reset(1, NO_ERROR).expect_alive();
}

#[test]
fn an_origin_that_vanishes_during_an_upload_is_a_bad_gateway() {
    let origin = Origin::start(|mut peer| {
        peer.expect_head();
        peer.read_exact(100_000);
        peer.reset();
    });
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.send(headers(1, 0, &request("POST", "/")));
    upload_until_answered(&mut client, 1).expect_status(502);
    client.expect_reset(1, NO_ERROR).expect_alive();
}
