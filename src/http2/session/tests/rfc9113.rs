//! Every MUST of RFC 9113 that names an error, as frames in and the error out.
//!
//! Each row: where it is said, which role we have, what comes after the settings of both sides, and
//! which frame says what ends. A stream's end must leave the connection usable, which is tried.

use super::*;

struct Row {
    says: &'static str,
    role: Role,
    bytes: Vec<u8>,
    ends: &'static str,
}

fn server(says: &'static str, parts: &[Vec<u8>], ends: &'static str) -> Row {
    Row { says, role: Role::Server, bytes: parts.concat(), ends }
}

/// We have asked for something on stream 1.
fn client(says: &'static str, parts: &[Vec<u8>], ends: &'static str) -> Row {
    Row { says, role: Role::Client, bytes: parts.concat(), ends }
}

fn check(rows: Vec<Row>) {
    for row in rows {
        let mut wire = Wire::new(row.role);
        if row.role == Role::Client {
            ask(&mut wire);
            wire.sent();
        }
        wire.feed(&row.bytes);
        let failed = wire.failed;
        assert_eq!(wire.verdict(), row.ends, "§{} ({failed:?})", row.says);
        if failed.is_some() {
            assert!(row.ends.contains("GOAWAY"));
            continue;
        }
        let before = wire.events.len();
        match row.role {
            Role::Server => wire.feed(&get(101)),
            Role::Client => {
                let key = ask(&mut wire);
                wire.feed(&frame(HEADERS, END, key.id(), OK));
            }
        }
        assert!(wire.events.len() > before && wire.failed.is_none(), "§{}: goes on", row.says);
    }
}

fn ask(wire: &mut Wire) -> Key {
    use crate::http2::hpack::encode::{Question, QuestionKind};
    let kind = QuestionKind::Plain { scheme: b"http", path: b"/" };
    let question = Question { method: b"GET", authority: b"a", kind };
    wire.session.open(&question, true, |_| {}).expect("a stream")
}

const NOTHING: &str = "nothing";

#[test]
fn section_3_the_preface() {
    for (bytes, failed) in [
        (&b"GET / HTTP/1.1\r\n"[..], true),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", true),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x06\0\0\0\0\0", true),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\x01\0\0\0\0", true),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", false),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", false),
    ] {
        let mut wire = Wire::fresh(Role::Server, Terms::default());
        wire.sent();
        wire.feed(bytes);
        let expected = if failed { "GOAWAY 0 PROTOCOL_ERROR" } else { NOTHING };
        assert_eq!(wire.verdict(), expected, "{}", bytes.escape_ascii());
    }
    let mut wire = Wire::fresh(Role::Client, Terms::default());
    assert_eq!(wire.sent()[0], "PREFACE");
    wire.feed(&frame(PING, 0, 0, b"12345678"));
    assert_eq!(wire.verdict(), "GOAWAY 0 PROTOCOL_ERROR");
}

#[test]
fn section_4_frames() {
    let long = vec![0; 16_385];
    check(vec![
        server("4.1 unknown types are ignored", &[frame(0xbe, 0xff, 0, b"x")], NOTHING),
        server("4.1 unknown types on any stream", &[frame(0xbe, 0, 77, b"")], NOTHING),
        server("4.1 undefined flags are ignored", &[frame(PING, 0xfe, 0, &[0; 8])], NOTHING),
        server("4.1 the reserved bit is ignored", &[window_update(0x8000_0000, 1)], NOTHING),
        server("4.2 DATA", &[post(1), frame(DATA, 0, 1, &long)], "GOAWAY 1 FRAME_SIZE_ERROR"),
        server("4.2 HEADERS", &[frame(HEADERS, END, 1, &long)], "GOAWAY 0 FRAME_SIZE_ERROR"),
        server("4.2 an unknown type", &[frame(0xbe, 0, 1, &long)], "GOAWAY 0 FRAME_SIZE_ERROR"),
        server("4.2 the longest", &[frame(0xbe, 0, 1, &long[..16_384])], NOTHING),
        server(
            "4.3 a block that cannot be decoded",
            &[frame(HEADERS, END, 1, b"\x80")],
            "GOAWAY 1 COMPRESSION_ERROR",
        ),
        server(
            "4.3 a block that is cut short",
            &[frame(HEADERS, END, 1, b"\x82\x86\x84\x41\x05a")],
            "GOAWAY 1 COMPRESSION_ERROR",
        ),
        server(
            "4.3.1 a table beyond its limit",
            &[frame(HEADERS, END, 1, b"\x3f\xe2\x1f\x82")],
            "GOAWAY 1 COMPRESSION_ERROR",
        ),
        server(
            "4.3 another frame within a block",
            &[frame(HEADERS, END_STREAM, 1, GET), frame(PING, 0, 0, &[0; 8])],
            "GOAWAY 0 PROTOCOL_ERROR",
        ),
    ]);
}

#[test]
fn section_5_1_states_of_streams() {
    let reset = rst_stream(1, 8);
    check(vec![
        server("5.1 idle: DATA", &[frame(DATA, 0, 1, b"x")], "GOAWAY 0 PROTOCOL_ERROR"),
        server("5.1 idle: RST_STREAM", &[rst_stream(1, 0)], "GOAWAY 0 PROTOCOL_ERROR"),
        server("5.1 idle: WINDOW_UPDATE", &[window_update(1, 1)], "GOAWAY 0 PROTOCOL_ERROR"),
        server("5.1 idle: PRIORITY", &[frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])], NOTHING),
        server("5.1 idle: even", &[frame(DATA, 0, 2, b"x")], "GOAWAY 0 PROTOCOL_ERROR"),
        server(
            "5.1 half-closed (remote): DATA",
            &[get(1), frame(DATA, 0, 1, b"x")],
            "RST_STREAM 1 STREAM_CLOSED",
        ),
        server(
            "5.1 half-closed (remote): HEADERS",
            &[get(1), get(1)],
            "RST_STREAM 1 STREAM_CLOSED",
        ),
        server(
            "5.1 half-closed (remote): WINDOW_UPDATE, PRIORITY, RST_STREAM",
            &[get(1), window_update(1, 1), frame(PRIORITY, 0, 1, &[0; 5]), reset.clone()],
            NOTHING,
        ),
        server(
            "5.1 closed by the peer: DATA",
            &[post(1), reset.clone(), frame(DATA, 0, 1, b"x")],
            "GOAWAY 1 STREAM_CLOSED",
        ),
        server(
            "5.1 closed by the peer: HEADERS",
            &[post(1), reset.clone(), frame(HEADERS, END, 1, GET)],
            "GOAWAY 1 STREAM_CLOSED",
        ),
        server(
            "5.1 closed by the peer: what may cross it",
            &[post(1), reset.clone(), window_update(1, 1), reset.clone()],
            NOTHING,
        ),
    ]);
}

#[test]
fn section_5_1_1_numbers_of_streams_and_what_an_origin_may_send() {
    let tunnel = [(":method", "CONNECT"), (":authority", "a")];
    check(vec![
        server("5.1.1 an even stream", &[get(2)], "GOAWAY 0 PROTOCOL_ERROR"),
        server("5.1.1 back", &[get(5), get(3)], "GOAWAY 5 PROTOCOL_ERROR"),
        server("5.1.1 stream 0", &[frame(HEADERS, END, 0, GET)], "GOAWAY 0 PROTOCOL_ERROR"),
        client("5.1 not asked: DATA", &[frame(DATA, 0, 3, b"x")], "GOAWAY 0 PROTOCOL_ERROR"),
        client("5.1 not asked: RST_STREAM", &[rst_stream(3, 0)], "GOAWAY 0 PROTOCOL_ERROR"),
        client("5.1 not asked: WINDOW_UPDATE", &[window_update(3, 1)], "GOAWAY 0 PROTOCOL_ERROR"),
        client("5.1.1 none of ours", &[frame(HEADERS, END, 3, OK)], "GOAWAY 0 PROTOCOL_ERROR"),
        client("5.1.1 a server's own", &[frame(HEADERS, END, 2, OK)], "GOAWAY 0 PROTOCOL_ERROR"),
        client("8.1 DATA before a head", &[frame(DATA, 0, 1, b"x")], "RST_STREAM 1 PROTOCOL_ERROR"),
        client(
            "5.1 closed: DATA",
            &[frame(HEADERS, END, 1, OK), frame(DATA, 0, 1, b"x")],
            "GOAWAY 0 STREAM_CLOSED",
        ),
        client(
            "5.1 closed: HEADERS",
            &[frame(HEADERS, END, 1, OK), frame(HEADERS, END, 1, OK)],
            "GOAWAY 0 STREAM_CLOSED",
        ),
        server(
            "8.5 a head within a tunnel",
            &[
                frame(HEADERS, END_HEADERS, 1, &block(&tunnel)),
                frame(HEADERS, END, 1, &block(&[("x", "y")])),
            ],
            "RST_STREAM 1 PROTOCOL_ERROR",
        ),
        client(
            "5.1 closed: what may cross it",
            &[frame(HEADERS, END, 1, OK), window_update(1, 1), rst_stream(1, 8)],
            NOTHING,
        ),
    ]);
}

#[test]
fn what_crosses_our_reset_is_ignored_and_what_follows_the_peer_s_end_is_not() {
    let crossing: [Vec<u8>; 5] = [
        frame(DATA, 0, 1, b"abc"),
        frame(DATA, PADDED, 1, b"\x01abc"),
        frame(HEADERS, END, 1, &block(&[("x", "y")])),
        window_update(1, 1),
        rst_stream(1, 8),
    ];
    for released in [false, true] {
        for bytes in &crossing {
            let mut wire = Wire::new(Role::Server);
            wire.feed(&post(1));
            let key = wire.keys[0];
            wire.session.reset(key, crate::http2::error::ErrorCode::InternalError);
            if released {
                wire.session.release(key);
            }
            assert_eq!(wire.verdict(), "RST_STREAM 1 INTERNAL_ERROR");
            wire.feed(bytes);
            assert_eq!(wire.verdict(), NOTHING);
            assert_eq!(wire.events.len(), 1, "nobody hears of it: {:?}", wire.events);
        }
        for bytes in &crossing[..3] {
            let mut wire = Wire::new(Role::Server);
            wire.feed(&get(1));
            let key = wire.keys[0];
            wire.session.send_response(key, 200, true, |_| {}).expect("a stream");
            if released {
                wire.session.release(key);
            }
            wire.feed(bytes);
            assert_eq!(wire.verdict(), "GOAWAY 1 STREAM_CLOSED");
        }
    }
}

#[test]
fn section_5_1_2_streams_at_once() {
    let mut wire = Wire::with(Role::Server, Terms { streams_max: 2, ..Terms::default() });
    wire.feed(&[get(1), get(3), get(5)].concat());
    assert_eq!(wire.verdict(), "RST_STREAM 5 REFUSED_STREAM");
    assert_eq!(wire.events[2], "rejected 5 REFUSED_STREAM too_many_streams");
    // What the peer gives up is still somebody's work.
    wire.feed(&[rst_stream(1, 8), get(7)].concat());
    assert_eq!(wire.verdict(), "RST_STREAM 7 REFUSED_STREAM");
    wire.session.release(wire.keys[0]);
    wire.feed(&get(9));
    assert_eq!(wire.verdict(), NOTHING);
}

#[test]
fn section_6_1_to_6_4_data_headers_priority_and_rst_stream() {
    let data = |flags: u8, payload: &[u8]| frame(DATA, flags, 1, payload);
    let padded_get = |pad: u8| {
        let payload = [&[pad][..], GET, &vec![0; usize::from(pad)]].concat();
        frame(HEADERS, END | PADDED, 1, &payload)
    };
    check(vec![
        server("6.1 stream 0", &[frame(DATA, 0, 0, b"x")], "GOAWAY 0 PROTOCOL_ERROR"),
        server("6.1 padding", &[post(1), data(PADDED, b"\x02ab")], NOTHING),
        server("6.1 all padding", &[post(1), data(PADDED, b"\x02\0\0")], NOTHING),
        server("6.1 more than all", &[post(1), data(PADDED, b"\x03ab")], "GOAWAY 1 PROTOCOL_ERROR"),
        server("6.1 its own length", &[post(1), data(PADDED, b"\x01")], "GOAWAY 1 PROTOCOL_ERROR"),
        server("6.1 no length", &[post(1), data(PADDED, b"")], "GOAWAY 1 FRAME_SIZE_ERROR"),
        server("6.2 padding", &[padded_get(9)], NOTHING),
        server(
            "6.2 more than all",
            &[frame(HEADERS, END | PADDED, 1, b"\x07\x82\x86\x84")],
            "GOAWAY 0 PROTOCOL_ERROR",
        ),
        server(
            "6.2 no length of padding",
            &[frame(HEADERS, END | PADDED, 1, b"")],
            "GOAWAY 0 FRAME_SIZE_ERROR",
        ),
        server(
            "6.2 no priority",
            &[frame(HEADERS, END | 0x20, 1, b"\0\0\0")],
            "GOAWAY 0 FRAME_SIZE_ERROR",
        ),
        server(
            "6.2 a priority",
            &[frame(HEADERS, END | 0x20, 1, &[b"\0\0\0\0\x10", GET].concat())],
            NOTHING,
        ),
        server("6.3 stream 0", &[frame(PRIORITY, 0, 0, &[0; 5])], "GOAWAY 0 PROTOCOL_ERROR"),
        server(
            "6.3 length",
            &[get(1), frame(PRIORITY, 0, 1, &[0; 4])],
            "RST_STREAM 1 FRAME_SIZE_ERROR",
        ),
        server("6.3 idle", &[frame(PRIORITY, 0, 1, &[0; 6])], "GOAWAY 0 FRAME_SIZE_ERROR"),
        server("6.4 stream 0", &[rst_stream(0, 8)], "GOAWAY 0 PROTOCOL_ERROR"),
        server(
            "6.4 length",
            &[get(1), frame(RST_STREAM, 0, 1, b"\0\0\0")],
            "GOAWAY 1 FRAME_SIZE_ERROR",
        ),
        server("6.4 a code that nobody knows", &[get(1), rst_stream(1, 0xdead)], NOTHING),
    ]);
}

#[test]
fn section_6_5_settings() {
    let set = |name: u16, value: u32| settings(&[(name, value)]);
    let protocol = "GOAWAY 0 PROTOCOL_ERROR";
    check(vec![
        server("6.5 stream 1", &[frame(SETTINGS, 0, 1, b"")], protocol),
        server("6.5 an ack with payload", &[frame(SETTINGS, 1, 0, &[0; 6])], FRAME_SIZE),
        server("6.5 length", &[frame(SETTINGS, 0, 0, &[0; 5])], FRAME_SIZE),
        server("6.5 an ack of nothing", &[settings_ack()], protocol),
        server("6.5.2 unknown", &[set(0xff00, 1)], NOTHING),
        server("6.5.2 ENABLE_PUSH 0", &[set(2, 0)], NOTHING),
        server("6.5.2 ENABLE_PUSH 1", &[set(2, 1)], NOTHING),
        server("6.5.2 ENABLE_PUSH 2", &[set(2, 2)], protocol),
        client("6.5.2 ENABLE_PUSH 0 of a server", &[set(2, 0)], NOTHING),
        client("6.5.2 ENABLE_PUSH 1 of a server", &[set(2, 1)], protocol),
        server("6.5.2 INITIAL_WINDOW_SIZE", &[set(4, 0x7fff_ffff)], NOTHING),
        server("6.5.2 above", &[set(4, 0x8000_0000)], "GOAWAY 0 FLOW_CONTROL_ERROR"),
        server("6.5.2 MAX_FRAME_SIZE", &[set(5, 16_384), set(5, 16_777_215)], NOTHING),
        server("6.5.2 below", &[set(5, 16_383)], protocol),
        server("6.5.2 above", &[set(5, 16_777_216)], protocol),
        server("8441.3 ENABLE_CONNECT_PROTOCOL", &[set(8, 1), set(8, 1)], NOTHING),
        server("8441.3 not from 1 to 0", &[set(8, 1), set(8, 0)], protocol),
        server("8441.3 no other value", &[set(8, 2)], protocol),
        server("9218.2.1 no other value", &[set(9, 2)], protocol),
        server("9218.2.1 not changed", &[set(9, 1)], protocol),
        server("9218.2.1 as before", &[set(9, 0)], NOTHING),
    ]);
}

const FRAME_SIZE: &str = "GOAWAY 0 FRAME_SIZE_ERROR";

#[test]
fn section_6_6_to_6_10_the_others() {
    let goaway = |last: u32| frame(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &[0; 4]].concat());
    let protocol = "GOAWAY 0 PROTOCOL_ERROR";
    let head = |flags: u8| frame(HEADERS, flags, 1, &GET[..2]);
    let rest = |flags: u8, stream: u32| frame(CONTINUATION, flags, stream, &GET[2..]);
    check(vec![
        server("6.6 from a client", &[frame(PUSH_PROMISE, 4, 1, b"\0\0\0\x02\x82")], protocol),
        client("6.6 though disabled", &[frame(PUSH_PROMISE, 4, 1, b"\0\0\0\x02\x82")], protocol),
        server("6.7 stream 1", &[frame(PING, 0, 1, &[0; 8])], protocol),
        server("6.7 length", &[frame(PING, 0, 0, &[0; 7])], FRAME_SIZE),
        server("6.8 stream 1", &[frame(GOAWAY, 0, 1, &[0; 8])], protocol),
        server("6.8 length", &[frame(GOAWAY, 0, 0, &[0; 7])], FRAME_SIZE),
        server("6.8 debug data", &[frame(GOAWAY, 0, 0, &[0; 999])], NOTHING),
        server("6.8 up again", &[goaway(0), goaway(1)], protocol),
        server("6.9 length", &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])], FRAME_SIZE),
        server("6.9 nothing, connection", &[window_update(0, 0)], protocol),
        server(
            "6.9 nothing, stream",
            &[get(1), window_update(1, 0)],
            "RST_STREAM 1 PROTOCOL_ERROR",
        ),
        server(
            "6.9.1 too wide, connection",
            &[window_update(0, 0x7fff_ffff)],
            "GOAWAY 0 FLOW_CONTROL_ERROR",
        ),
        server(
            "6.9.1 too wide, stream",
            &[get(1), window_update(1, 0x7fff_ffff)],
            "RST_STREAM 1 FLOW_CONTROL_ERROR",
        ),
        server(
            "6.9.2 too wide by settings",
            &[get(1), window_update(1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])],
            "GOAWAY 1 FLOW_CONTROL_ERROR",
        ),
        server("6.10 whole", &[head(1), rest(4, 1)], NOTHING),
        server("6.10 another stream", &[head(1), rest(4, 3)], protocol),
        server("6.10 stream 0", &[head(1), rest(4, 0)], protocol),
        server("6.10 behind a whole block", &[get(1), rest(4, 1)], "GOAWAY 1 PROTOCOL_ERROR"),
        server("6.10 alone", &[rest(4, 1)], protocol),
        server("9218.7.1 for stream 0", &[frame(PRIORITY_UPDATE, 0, 0, &[0; 4])], protocol),
        server("9218.7.1 for a push", &[frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x02")], protocol),
        server("9218.7.1 on a stream", &[frame(PRIORITY_UPDATE, 0, 1, b"\0\0\0\x01")], protocol),
        server("9218.7.1 length", &[frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0")], FRAME_SIZE),
        client("9218.7.1 of a server", &[frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01")], protocol),
    ]);
}
