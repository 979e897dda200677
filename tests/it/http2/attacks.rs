//! Peers that make us work for nothing: each is ended by the guard that is meant for it, which
//! counts it, and nobody else notices.
//!
//! Each attack is bounded by what the guard allows; that it ends well before is the promise. The
//! client beside it is served throughout, and the ledger is back when the attacker has gone.

use super::{figure, stream_bytes};
use crate::support::h2::*;
use crate::support::{Gate, OK, Origin, Proxy, Setup, wait_until};
use std::time::{Duration, Instant};

/// More than any budget allows at once.
const MANY: u32 = 5_000;

fn guard(proxy: &Proxy, name: &str) -> u64 {
    figure(proxy, &format!("ringway_http2_guards_total{{guard=\"{name}\"}}"))
}

/// Sends what `attack` makes of each number until the connection ends; with which code.
#[track_caller]
pub(super) fn flood(client: &mut H2Client, mut attack: impl FnMut(u32) -> Vec<u8>) -> u32 {
    for round in 0..MANY / 100 {
        let bytes: Vec<u8> = (round * 100..(round + 1) * 100).flat_map(&mut attack).collect();
        client.send(bytes);
        while !client.wire().is_quiet_for(Duration::from_millis(1)) {
            match client.read_frame() {
                Some(came) if came.kind == GOAWAY => return came.number(4),
                Some(_) => {}
                None => panic!("the connection ended without a word"),
            }
        }
    }
    let goaway = client.find("GOAWAY", |came| came.kind == GOAWAY);
    goaway.number(4)
}

/// Tries one attack beside a client that is served.
#[track_caller]
fn attack(name: &str, begin: &[Vec<u8>], attack: impl FnMut(u32) -> Vec<u8>) {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            if request.target() == "/hold" {
                return peer.hold();
            }
            peer.send(OK);
        }
    });
    let proxy = Proxy::to(&origin);
    let mut other = H2Client::connect(proxy.address());
    other.get(1, "/").expect_status(200);
    let before = stream_bytes(&proxy);
    let mut client = H2Client::connect(proxy.address());
    client.send(begin.concat());
    assert_eq!(flood(&mut client, attack), ENHANCE_YOUR_CALM, "{name}");
    client.expect_end();
    drop(client);
    assert_eq!(guard(&proxy, name), 1, "{name}");
    other.get(3, "/").expect_status(200);
    wait_until("the ledger is back", || stream_bytes(&proxy) <= before + 8192);
}

/// CVE-2023-44487.
#[test]
fn rapid_resets_are_ended() {
    attack("resets", &[], |at| [get(at * 2 + 1, "/"), rst_stream(at * 2 + 1, CANCEL)].concat());
}

/// CVE-2025-8671: the resets are ours.
#[test]
fn made_you_reset_is_ended() {
    attack("resets", &[], |at| [get(at * 2 + 1, "/hold"), window_update(at * 2 + 1, 0)].concat());
    attack("resets", &[], |at| {
        headers(at * 2 + 1, END_STREAM, &[request("GET", "/"), vec![("te", "gzip")]].concat())
    });
}

#[test]
fn floods_of_frames_that_carry_nothing_are_ended() {
    let held = [headers(1, 0, &request("POST", "/hold"))];
    attack("settings", &[], |_| settings(&[]));
    attack("ping", &[], |_| frame(PING, 0, 0, [0; 8]));
    attack("priority", &[], |at| frame(PRIORITY, 0, at * 2 + 1, b"\0\0\0\0\x10"));
    attack("priority", &[], |at| {
        frame(PRIORITY_UPDATE, 0, 0, [&(at * 2 + 1).to_be_bytes()[..], b"u=1"].concat())
    });
    attack("unknown_frames", &[], |_| frame(0x77, 0, 0, b""));
    attack("window_updates", &[], |_| window_update(0, 1));
    attack("window_updates", &held, |_| window_update(1, 1));
    attack("empty_data", &held, |_| frame(DATA, 0, 1, b""));
    attack("empty_data", &held, |_| frame(DATA, PADDED, 1, b"\0"));
    attack("late_frames", &[get(1, "/"), rst_stream(1, CANCEL)], |_| rst_stream(1, CANCEL));
}

#[test]
fn heads_in_too_many_frames_are_ended() {
    let begin = || frame(HEADERS, END_STREAM, 1, b"");
    attack("continuation_count", &[begin()], |_| frame(CONTINUATION, 0, 1, b""));
    attack("continuation_count", &[begin()], |_| frame(CONTINUATION, 0, 1, b"\0\x01a\x01b"));
    attack("block_bytes", &[begin()], |_| frame(CONTINUATION, 0, 1, vec![0; 16_384]));
    attack("settings_count", &[], |_| settings(&[(0xff, 0); 33]));
}

/// A field of 4 KiB in the table, asked for again and again by a byte.
#[test]
fn an_hpack_bomb_is_431_and_costs_no_more_than_a_head() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let before = stream_bytes(&proxy);
    let mut client = H2Client::connect(proxy.address());
    let mut bomb = headers(1, 0, &request("GET", "/")).split_off(9);
    bomb.push(0x40);
    bomb.extend_from_slice(b"\x01a");
    // 3,900 as an integer of seven bits.
    bomb.extend_from_slice(&[0x7f, 0xbd, 0x1d]);
    bomb.extend_from_slice(&vec![b'b'; 3_900]);
    bomb.extend_from_slice(&[0xbe; 12_000]);
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    client.read_answer(1).expect_status(431);
    assert!(stream_bytes(&proxy) < before + 128 * 1024, "{}", stream_bytes(&proxy));
    // The table is in step all the same.
    let mut block = headers(3, 0, &request("GET", "/")).split_off(9);
    block.push(0xbe);
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &block));
    client.read_answer(3).expect_status(200);
    let seen = origin.only_request();
    assert_eq!(seen.field("a").map(str::len), Some(3_900));
}

#[test]
fn a_peer_that_takes_nothing_has_a_deadline() {
    let body = vec![b'a'; 20_000_000];
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n".as_slice();
    let origin = Origin::answering([head, &body].concat());
    let proxy = Setup::to(&origin).set("timeouts.client_write", "500ms").start();
    let before = stream_bytes(&proxy);
    // Windows are open, so that it is the wire that stands still.
    let mut client = H2Client::with_settings(proxy.address(), &[(4, 0x7fff_ffff)]);
    client.send(window_update(0, 0x7fff_0000 - 65_535)).send(get(1, "/"));
    wait_until("the request is there", || figure(&proxy, "ringway_http2_streams") == 1);
    wait_until("its connection has ended", || figure(&proxy, "ringway_http2_connections") == 0);
    wait_until("the ledger is back", || stream_bytes(&proxy) <= before);
    client.expect_end();
}

/// What is asked again and again has to be answered, and answers that nobody reads are held.
#[test]
fn whoever_asks_and_reads_nothing_is_ended_before_much_is_held() {
    let body = vec![b'a'; 20_000_000];
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n".as_slice();
    let origin = Origin::answering([head, &body].concat());
    let proxy = Proxy::to(&origin);
    let before = stream_bytes(&proxy);
    for (at, question) in [frame(PING, 0, 0, b"abcdefgh"), settings(&[])].iter().enumerate() {
        let mut client = H2Client::with_settings(proxy.address(), &[(4, 0x7fff_ffff)]);
        client.send(window_update(0, 0x7fff_0000 - 65_535)).send(get(1, "/"));
        wait_until("the answer is held up", || stream_bytes(&proxy) > before + 64 * 1024);
        client.wire().send_until_stalled(&question.repeat(5_000), Duration::from_millis(500));
        wait_until("it is ended", || figure(&proxy, "ringway_http2_connections") == 0);
        let ended = ["ping", "settings", "outbox"].map(|name| guard(&proxy, name));
        assert_eq!(ended.iter().sum::<u64>(), 1 + at as u64, "{ended:?}");
        wait_until("the ledger is back", || stream_bytes(&proxy) <= before + 16 * 1024);
    }
}

#[test]
fn settings_that_are_never_acknowledged_end_the_connection() {
    const SETTINGS_TIMEOUT: u32 = 4;
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::silent(proxy.address());
    client.send(PREFACE).send(settings(&[])).send(get(1, "/"));
    client.read_answer(1).expect_status(200);
    let began = Instant::now();
    let mut id = 3;
    while began.elapsed() < Duration::from_secs(30) {
        // That it is busy is no excuse.
        if !client.wire().is_quiet_for(Duration::from_millis(500)) {
            let came = client.find("GOAWAY", |it| it.kind == GOAWAY || it.kind == HEADERS);
            if came.kind == GOAWAY {
                assert_eq!(came.number(4), SETTINGS_TIMEOUT);
                client.expect_end();
                return;
            }
        }
        client.send(get(id, "/"));
        id += 2;
    }
    panic!("nobody missed it");
}

#[test]
fn a_frame_that_is_not_whole_has_a_deadline() {
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).set("timeouts.client_head", "500ms").start();
    let whole = get(1, "/");
    for half in [&whole[..5], &whole[..20], &PREFACE[..0]] {
        let mut client = H2Client::connect(proxy.address());
        if half.is_empty() {
            // A head without its end.
            client.send(frame(HEADERS, END_STREAM, 1, b"\x82"));
        } else {
            client.send(half);
        }
        let began = Instant::now();
        client.expect_failure(PROTOCOL_ERROR);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    // Byte by byte it gains no time.
    let mut client = H2Client::connect(proxy.address());
    let began = Instant::now();
    for byte in &whole {
        client.send([*byte]);
        if !client.wire().is_quiet_for(Duration::from_millis(50)) {
            break;
        }
    }
    client.expect_failure(PROTOCOL_ERROR);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn silence_without_streams_ends_a_connection_and_says_so() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("timeouts.client_idle", "500ms").start();
    let mut client = H2Client::connect(proxy.address());
    client.get(1, "/").expect_status(200);
    client.expect_failure(NO_ERROR);
}

#[test]
fn a_window_that_stays_shut_has_a_deadline_and_costs_its_stream_only() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            if request.target() == "/" {
                peer.send(OK);
                continue;
            }
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
            peer.send([head.as_bytes(), &vec![b'a'; 1_000_000]].concat());
        }
    });
    let proxy = Setup::to(&origin).set("timeouts.client_write", "500ms").start();
    let before = stream_bytes(&proxy);
    // SETTINGS_INITIAL_WINDOW_SIZE of zero: nothing of any body may be sent.
    let mut client = H2Client::with_settings(proxy.address(), &[(4, 0)]);
    client.send(get(1, "/big"));
    let mut answer = Answer::default();
    while !answer.is_over() {
        answer.take(&client.find_of(1));
    }
    assert!(answer.status == 200 && answer.body.is_empty(), "{answer:?}");
    assert!(answer.reset.is_some(), "{answer:?}");
    client.send(settings(&[(4, 65_535)]));
    client.get(3, "/").expect_status(200).expect_body("ok");
    drop(client);
    wait_until("the ledger is back", || stream_bytes(&proxy) <= before);
}

#[test]
fn an_upload_that_stops_has_a_deadline_and_costs_its_stream_only() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.read_head() {
            if request.target() == "/up" {
                // It ends without the last chunk.
                assert!(!peer.read_to_end().0.ends_with(b"0\r\n\r\n"));
                return;
            }
            peer.send(OK);
        }
    });
    let proxy = Setup::to(&origin).set("timeouts.read", "500ms").start();
    let mut client = H2Client::connect(proxy.address());
    client.send(headers(1, 0, &request("POST", "/up"))).send(frame(DATA, 0, 1, b"abc"));
    let answer = client.read_answer(1);
    answer.expect_status(408);
    client.expect_reset(1, NO_ERROR);
    client.get(3, "/").expect_status(200).expect_body("ok");
}

/// Its streams have ended for it, and not for us: their slots are not free before their work is.
#[test]
fn streams_that_are_given_up_are_counted_until_their_work_has_ended() {
    let is_open = Gate::default();
    let origin = Origin::start({
        let is_open = is_open.clone();
        move |mut peer| {
            while peer.next_request().is_some() {
                is_open.wait();
                peer.send(OK);
            }
        }
    });
    let proxy = Setup::to(&origin).set("http2.streams", 10).start();
    let mut client = H2Client::connect(proxy.address());
    for at in 0..200 {
        client.send(get(at * 2 + 1, "/")).send(rst_stream(at * 2 + 1, CANCEL));
    }
    client.expect_alive();
    let streams = figure(&proxy, "ringway_http2_streams");
    assert!(streams <= 10, "{streams}");
    is_open.open();
    // Until then a new one is refused, and rightly so.
    wait_until("their work has ended", || figure(&proxy, "ringway_http2_streams") == 0);
    client.get(1001, "/").expect_status(200);
    assert!(figure(&proxy, "ringway_http2_streams_reset_total") > 0);
}
