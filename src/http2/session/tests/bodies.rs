//! Windows through a session, both ways.
//!
//! In go bodies and what a caller has taken of them; out come windows: what may come, what may go,
//! and what is given back.

use super::messages::ask;
use super::*;
use crate::http2::error::ErrorCode;

/// Terms by which every window is small.
fn small(stream: u32, connection: u32) -> Terms {
    Terms { stream_window: stream, connection_window: connection, ..Terms::default() }
}

fn data(stream: u32, bytes: usize) -> Vec<u8> {
    frame(DATA, 0, stream, &vec![b'x'; bytes])
}

#[test]
fn windows_open_for_what_was_taken_and_not_for_what_came() {
    let mut wire = Wire::with(Role::Server, small(100, 65_535));
    wire.feed(&[post(1), data(1, 100)].concat());
    assert!(wire.sent().is_empty());
    let key = wire.keys[0];
    wire.session.taken(key, 49);
    assert!(wire.sent().is_empty(), "less than half a window");
    wire.session.taken(key, 1);
    assert_eq!(wire.sent(), ["WINDOW_UPDATE 1 50"]);
    wire.feed(&data(1, 50));
    wire.feed(&data(1, 1));
    assert_eq!(wire.verdict(), "RST_STREAM 1 FLOW_CONTROL_ERROR");
    assert_eq!(wire.events.last().expect("an event"), "reset 1 FLOW_CONTROL_ERROR window");
}

#[test]
fn more_than_the_connection_s_window_ends_the_connection() {
    let mut wire = Wire::with(Role::Server, small(1_000_000, 65_535));
    wire.feed(&post(1));
    for _ in 0..4 {
        wire.feed(&data(1, 16_000));
    }
    assert!(wire.failed.is_none());
    wire.feed(&data(1, 1_536));
    assert_eq!(wire.verdict(), "GOAWAY 1 FLOW_CONTROL_ERROR");
}

#[test]
fn padding_is_counted_and_given_back_at_once() {
    let mut wire = Wire::with(Role::Server, small(300, 65_535));
    wire.feed(&post(1));
    let padded = frame(DATA, PADDED, 1, &[&[199][..], &[0; 199]].concat());
    for _ in 0..500 {
        wire.feed(&padded);
    }
    assert!(wire.failed.is_none(), "{:?}", wire.failed);
    let sent = wire.sent();
    assert!(sent.contains(&"WINDOW_UPDATE 1 200".to_owned()));
    assert!(sent.iter().any(|frame| frame.starts_with("WINDOW_UPDATE 0 ")));
    wire.feed(&frame(DATA, PADDED, 1, &[&[255][..], &[0; 300]].concat()));
    assert_eq!(wire.verdict(), "RST_STREAM 1 FLOW_CONTROL_ERROR");
}

/// What the connection's window has lost for ever after `spoil`, by filling it up.
fn is_window_whole(spoil: impl Fn(&mut Wire)) -> bool {
    let mut wire = Wire::with(Role::Server, small(40_000, 65_535));
    for round in 0..40 {
        wire.feed(&post(round * 2 + 1));
        spoil(&mut wire);
        for key in std::mem::take(&mut wire.keys) {
            wire.session.release(key);
        }
        wire.sent();
        if wire.failed.is_some() {
            return false;
        }
    }
    true
}

#[test]
fn nothing_that_ends_a_stream_costs_the_connection_its_window() {
    let last = |wire: &Wire| wire.keys[0];
    assert!(is_window_whole(|wire| wire.feed(&data(last(wire).id(), 10_000))));
    assert!(is_window_whole(|wire| {
        wire.feed(&data(last(wire).id(), 10_000));
        wire.session.taken(last(wire), 3_000);
        wire.feed(&rst_stream(last(wire).id(), 8));
    }));
    assert!(is_window_whole(|wire| {
        wire.session.reset(last(wire), ErrorCode::Cancel);
        wire.feed(&data(last(wire).id(), 10_000));
    }));
    assert!(is_window_whole(|wire| {
        let key = last(wire);
        wire.session.release(key);
        wire.feed(&data(key.id(), 10_000));
        wire.feed(&frame(DATA, PADDED, key.id(), &[&[100][..], &[0; 10_000]].concat()));
    }));
    // Our end comes within a frame of the peer's.
    assert!(is_window_whole(|wire| {
        let (key, frame) = (last(wire), data(last(wire).id(), 10_000));
        wire.feed(&frame[..5_000]);
        wire.session.reset(key, ErrorCode::Cancel);
        wire.feed(&frame[5_000..6_000]);
        wire.feed(&frame[6_000..]);
    }));
    assert!(is_window_whole(|wire| {
        let (key, frame) = (last(wire), data(last(wire).id(), 10_000));
        wire.feed(&frame[..5_000]);
        wire.session.release(key);
        wire.feed(&frame[5_000..6_000]);
        wire.feed(&frame[6_000..]);
    }));
    // More than was announced.
    assert!(is_window_whole(|wire| {
        let frame = data(last(wire).id(), 16_000);
        for _ in 0..3 {
            wire.feed(&frame);
        }
    }));
}

#[test]
fn bodies_of_streams_that_were_refused_cost_no_window_either() {
    let malformed = block(&[(":method", "POST"), (":scheme", "http"), (":path", "x")]);
    let mut wire = Wire::with(Role::Server, Terms { streams_max: 1, ..small(40_000, 65_535) });
    wire.feed(&post(1));
    for round in 1..40 {
        let id = round * 2 + 1;
        let head = if round % 2 == 0 { &malformed[..] } else { POST };
        wire.feed(&[frame(HEADERS, END_HEADERS, id, head), data(id, 16_000)].concat());
        wire.sent();
    }
    wire.session.finish_drain();
    for id in [101, 103] {
        wire.feed(&[post(id), data(id, 16_000), data(id, 16_000)].concat());
        wire.sent();
    }
    assert!(wire.failed.is_none(), "{:?}", wire.failed);
    wire.feed(&data(1, 16_000));
    assert!(wire.events.last().is_some_and(|event| event.starts_with("data 1")));
}

#[test]
fn more_is_not_taken_than_came() {
    let mut wire = Wire::with(Role::Server, small(100, 65_535));
    wire.feed(&[post(1), data(1, 60)].concat());
    wire.session.taken(wire.keys[0], usize::MAX);
    wire.session.taken(wire.keys[0], 60);
    assert_eq!(wire.sent(), ["WINDOW_UPDATE 1 60"]);
}

#[test]
fn a_stream_that_has_ended_is_not_opened() {
    let mut wire = Wire::with(Role::Server, small(100, 65_535));
    wire.feed(&[post(1), frame(DATA, END_STREAM, 1, &[b'x'; 80])].concat());
    wire.session.taken(wire.keys[0], 80);
    wire.session.widen_stream(wire.keys[0], 1000);
    assert!(wire.sent().is_empty());
}

#[test]
fn wider_windows_are_announced_by_the_difference() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&post(1));
    wire.session.widen_stream(wire.keys[0], 1 << 20);
    wire.session.widen_connection(1 << 21);
    wire.session.widen_connection(1 << 20);
    assert_eq!(wire.sent(), ["WINDOW_UPDATE 1 983041", "WINDOW_UPDATE 0 1835008"]);
}

#[test]
fn before_our_settings_are_acknowledged_the_peer_goes_by_the_default() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let begin = || {
        let mut wire = Wire::fresh(Role::Server, small(10, 1 << 20));
        wire.feed(&[&preface[..], &settings(&[]), &post(1), &data(1, 100)].concat());
        assert!(wire.failed.is_none());
        wire.sent();
        wire
    };
    let mut wire = begin();
    // Its window is 65,535 − 100 − 65,525 = −90 from now on.
    wire.feed(&[settings_ack(), data(1, 1)].concat());
    assert_eq!(wire.verdict(), "RST_STREAM 1 FLOW_CONTROL_ERROR");
    let mut wire = begin();
    wire.feed(&settings_ack());
    wire.session.taken(wire.keys[0], 100);
    assert_eq!(wire.sent(), ["WINDOW_UPDATE 1 100"]);
    wire.feed(&data(1, 10));
    assert_eq!(wire.verdict(), "nothing");
}

#[test]
fn what_is_sent_keeps_to_all_three_bounds() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&[settings(&[(4, 20_000)]), get(1)].concat());
    let key = wire.keys[0];
    wire.session.send_response(key, 200, false, |_| {}).expect("a head");
    assert_eq!(wire.session.room(key), 16_384);
    wire.session.send_data(key, &[b'x'; 16_384], false).expect("data");
    assert_eq!(wire.session.room(key), 3_616);
    wire.session.send_data(key, &[b'x'; 3_616], false).expect("data");
    assert_eq!(wire.session.room(key), 0);
    // Smaller, below nothing, and up again.
    wire.feed(&settings(&[(4, 0)]));
    wire.feed(&window_update(1, 20_000));
    assert_eq!(wire.session.room(key), 0);
    wire.events.clear();
    wire.feed(&window_update(1, 1));
    assert_eq!(wire.events, ["writable Some(1)"]);
    assert_eq!(wire.session.room(key), 1);
    wire.feed(&window_update(1, 1));
    assert_eq!(wire.events.len(), 1, "there was room");
    let head = wire.session.data_head(key, 2, true).expect("a frame");
    assert_eq!(head, *b"\0\0\x02\0\x01\0\0\0\x01");
    assert_eq!(wire.session.room(key), 0);
}

#[test]
fn the_connection_s_window_is_everybody_s() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&[settings(&[(4, 1 << 20), (5, 1 << 20)]), get(1), get(3)].concat());
    let (first, second) = (wire.keys[0], wire.keys[1]);
    for key in [first, second] {
        wire.session.send_response(key, 200, false, |_| {}).expect("a head");
    }
    assert_eq!(wire.session.room(first), 65_535);
    wire.session.send_data(first, &vec![b'x'; 65_535], true).expect("data");
    assert_eq!(wire.session.room(second), 0);
    wire.session.send_data(second, b"", true).expect("an end needs no window");
    wire.events.clear();
    wire.feed(&window_update(0, 7));
    assert_eq!(wire.events, ["writable None"]);
}

#[test]
fn an_end_may_come_alone_and_behind_padding() {
    let mut wire = Wire::new(Role::Server);
    let padded = frame(DATA, PADDED | END_STREAM, 1, b"\x02abc\0\0");
    wire.feed(&[post(1), padded[..13].to_vec()].concat());
    assert_eq!(wire.events[1..], ["data 1: abc"]);
    wire.feed(&padded[13..14]);
    wire.feed(&padded[14..]);
    assert_eq!(wire.events[1..], ["data 1: abc$"]);
}

#[test]
fn a_client_reads_bodies_by_the_same_windows() {
    let mut wire = Wire::with(Role::Client, small(100, 65_535));
    let key = ask(&mut wire, "GET", true);
    wire.sent();
    wire.feed(&[frame(HEADERS, END_HEADERS, 1, OK), data(1, 100)].concat());
    wire.session.taken(key, 100);
    assert_eq!(wire.sent(), ["WINDOW_UPDATE 1 100"]);
    wire.feed(&frame(DATA, END_STREAM, 1, b"abc"));
    wire.session.release(key);
    assert!(wire.sent().is_empty(), "both have said their last");
}

#[test]
fn an_upload_that_an_origin_does_not_want_ends_without_blame() {
    let mut wire = Wire::new(Role::Client);
    let key = ask(&mut wire, "POST", false);
    wire.sent();
    wire.feed(&[frame(HEADERS, END, 1, OK), rst_stream(1, 0)].concat());
    assert_eq!(wire.events[1], "reset 1 NO_ERROR reset_by_peer");
    assert_eq!(wire.session.room(key), 0);
    wire.session.release(key);
    assert!(wire.sent().is_empty());
}
