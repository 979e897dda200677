//! RFC 9113 §8: heads and trailers through a session, both ways.
//!
//! In go blocks and what a caller says; out come text of HTTP/1, frames, and the ends of streams.

use super::*;
use crate::http::head::{HeadError, HeadLimits, RequestHead, ResponseHead};
use crate::http::{BodyLength, Method};
use crate::http2::error::ErrorCode;
use crate::http2::hpack::encode::{Question, QuestionKind};
use crate::http2::session::sending::{Gone, NotOpened};

type Fields = &'static [(&'static str, &'static str)];

const PSEUDO: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

fn request(more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END, 1, &block(&[&PSEUDO[..], more].concat()))
}

pub(super) fn ask(wire: &mut Wire, method: &str, is_end: bool) -> Key {
    let kind = QuestionKind::Plain { scheme: b"http", path: b"/" };
    let question = Question { method: method.as_bytes(), authority: b"a", kind };
    wire.session.open(&question, is_end, |_| {}).expect("a stream")
}

#[test]
fn a_request_is_text_that_the_parser_of_http_1_reads() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&request(&[("x", "y"), ("cookie", "a"), ("cookie", "b"), ("priority", "u=1, i")]));
    let head = r"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\ncookie: a; b\r\npriority: u=1, i\r\n\r\n";
    let priority = "Priority { urgency: 1, is_incremental: true }";
    assert_eq!(wire.events, [format!("request 1 Plain None Empty {priority} {head}")]);
}

#[test]
fn a_malformed_message_ends_its_stream_and_nobody_hears_of_it() {
    let cases: [(Fields, &str); 12] = [
        (&[("X", "y")], "field_name"),
        (&[("x", "a\nb")], "field_value"),
        (&[("x", " a")], "field_value"),
        (&[("connection", "x")], "connection_field"),
        (&[("transfer-encoding", "chunked")], "connection_field"),
        (&[("te", "gzip")], "te"),
        (&[(":path", "/")], "pseudo_field_repeated"),
        (&[("x", "y"), (":path", "/")], "pseudo_field_order"),
        (&[(":status", "200")], "pseudo_field"),
        (&[("content-length", "1"), ("content-length", "1")], "content_length"),
        (&[("content-length", "1")], "body_length"),
        (&[(":protocol", "websocket")], "protocol"),
    ];
    for (more, cause) in cases {
        let mut wire = Wire::new(Role::Server);
        wire.feed(&request(more));
        assert_eq!(wire.verdict(), "RST_STREAM 1 PROTOCOL_ERROR", "{more:?}");
        assert_eq!(wire.events, [format!("rejected 1 PROTOCOL_ERROR {cause}")]);
        assert_eq!(wire.session.streams(), 0);
    }
}

#[test]
fn two_hosts_and_none_are_left_to_the_parser_of_http_1() {
    let limits = HeadLimits { head_bytes: 512, target_bytes: 64, header_count: 12 };
    let parsed = |fields: &[(&str, &str)]| {
        let mut wire = Wire::new(Role::Server);
        let mut input = &frame(HEADERS, END, 1, &block(fields))[..];
        let mut text = Vec::new();
        match wire.session.next(&mut input, &mut text, 0) {
            Ok(Some(Event::Request { head, .. })) => {
                let mut read = RequestHead::new();
                read.parse(&text[head], &limits).map(|_| read.authority.of(&text).len())
            }
            other => panic!("{other:?}"),
        }
    };
    let more = |more: &[(&'static str, &'static str)]| [&PSEUDO[..], more].concat();
    assert!(parsed(&PSEUDO).is_ok());
    assert!(parsed(&more(&[("host", "A")])).is_ok());
    assert_eq!(parsed(&more(&[("host", "b")])), Err(HeadError::HostRepeated));
    assert_eq!(parsed(&PSEUDO[..3]), Err(HeadError::HostMissing));
    assert_eq!(parsed(&more(&[("x", "a\x01b")])), Err(HeadError::FieldValue));
}

#[test]
fn a_head_that_is_too_large_is_told_and_the_table_stays_in_step() {
    let terms = Terms {
        head: crate::http2::fields::HeadBounds { bytes: 600, count: 9 },
        ..Terms::default()
    };
    let mut wire = Wire::with(Role::Server, terms);
    let mut large = GET.to_vec();
    large.extend(b"\x40\x01k\x7f\xb0\x03");
    large.extend([b'v'; 127 + 0x30 + 3 * 128]);
    large.extend(b"\x40\x01n\x01m");
    wire.feed(&frame(HEADERS, END_HEADERS, 1, &large));
    let many = [GET, &b"\xbe".repeat(8)[..]].concat();
    wire.feed(&frame(HEADERS, END, 3, &many));
    // What the refused blocks have added is there: `n: m` is the youngest, and it stays.
    wire.feed(&frame(HEADERS, END, 5, &[GET, b"\xbe"].concat()));
    assert_eq!(wire.events[..2], ["oversize 1 Bytes false", "oversize 3 Count true"]);
    assert!(wire.events[2].ends_with(r"n: m\r\n\r\n"), "{}", wire.events[2]);
    for key in wire.keys.clone() {
        wire.session.send_response(key, 431, true, |_| {}).expect("a stream");
        wire.session.release(key);
    }
    let sent = wire.sent();
    assert_eq!(sent.iter().filter(|frame| frame.starts_with("HEADERS")).count(), 3);
    assert!(sent.contains(&"RST_STREAM 1 NO_ERROR".to_owned()));
}

#[test]
fn tunnels_and_other_protocols_are_events_of_their_own() {
    let connect = [(":method", "CONNECT"), (":authority", "a:443")];
    let extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "a"),
    ];
    let mut wire = Wire::new(Role::Server);
    wire.feed(&frame(HEADERS, END_HEADERS, 1, &block(&connect)));
    wire.feed(&frame(HEADERS, END_HEADERS, 3, &block(&extended)));
    assert!(wire.events[0].starts_with("request 1 Connect None Open "));
    assert!(wire.events[1].starts_with("request 3 Extended Some(\"websocket\") Open "));
    assert!(wire.events[1].ends_with(r"GET /chat HTTP/1.1\r\nhost: a\r\n\r\n"));
    let mut wire = Wire::with(Role::Server, Terms { allows_protocol: false, ..Terms::default() });
    wire.feed(&frame(HEADERS, END_HEADERS, 3, &block(&extended)));
    assert_eq!(wire.verdict(), "RST_STREAM 3 PROTOCOL_ERROR");
}

#[test]
fn trailers_end_a_body_and_nothing_else_does() {
    let trailers = |flags: u8| frame(HEADERS, flags, 1, &block(&[("x", "y")]));
    let mut wire = Wire::new(Role::Server);
    wire.feed(&[post(1), frame(DATA, 0, 1, b"abc"), trailers(END)].concat());
    assert_eq!(wire.events[1..], ["data 1: abc", r"trailers 1 x: y\r\n"]);
    let mut wire = Wire::new(Role::Server);
    wire.feed(&[post(1), trailers(END_HEADERS)].concat());
    assert_eq!(wire.verdict(), "RST_STREAM 1 PROTOCOL_ERROR");
    assert_eq!(wire.events[1], "reset 1 PROTOCOL_ERROR end_missing");
    let pseudo = frame(HEADERS, END, 1, &block(&[(":path", "/")]));
    let mut wire = Wire::new(Role::Server);
    wire.feed(&[post(1), pseudo].concat());
    assert_eq!(wire.events[1], "reset 1 PROTOCOL_ERROR pseudo_field");
}

#[test]
fn a_client_hears_interim_responses_the_final_one_and_trailers() {
    let mut wire = Wire::new(Role::Client);
    ask(&mut wire, "GET", true);
    let interim = frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "103"), ("link", "x")]));
    let head = frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "200"), ("a", "b")]));
    let trailers = frame(HEADERS, END, 1, &block(&[("grpc-status", "0")]));
    wire.feed(&[interim, head, frame(DATA, 0, 1, b"abc"), trailers].concat());
    let expected = [
        r"response 1 103 Open HTTP/1.1 103 \r\nlink: x\r\n\r\n",
        r"response 1 200 Open HTTP/1.1 200 \r\na: b\r\n\r\n",
        "data 1: abc",
        r"trailers 1 grpc-status: 0\r\n",
    ];
    assert_eq!(wire.events, expected);
    let limits = HeadLimits { head_bytes: 512, target_bytes: 64, header_count: 12 };
    let mut head = ResponseHead::new();
    let text = b"HTTP/1.1 200 \r\na: b\r\n\r\n";
    assert_eq!(head.parse(text, &limits, Method::Get), Ok(true));
    assert_eq!(head.body, BodyLength::UntilClose);
}

#[test]
fn a_response_that_is_none_ends_its_stream() {
    let cases: [(Fields, u8, &str); 7] = [
        (&[("x", "y")], END, "pseudo_field_missing"),
        (&[(":status", "101")], END_HEADERS, "status"),
        (&[(":status", "20")], END, "status"),
        (&[(":status", "100")], END, "end_missing"),
        (&[(":status", "200"), (":path", "/")], END, "pseudo_field"),
        (&[(":status", "200"), ("content-length", "1")], END, "body_length"),
        (&[(":status", "200"), ("upgrade", "x")], END, "connection_field"),
    ];
    for (fields, flags, cause) in cases {
        let mut wire = Wire::new(Role::Client);
        ask(&mut wire, "GET", true);
        wire.sent();
        wire.feed(&frame(HEADERS, flags, 1, &block(fields)));
        assert_eq!(wire.verdict(), "RST_STREAM 1 PROTOCOL_ERROR", "{fields:?}");
        assert_eq!(wire.events, [format!("reset 1 PROTOCOL_ERROR {cause}")]);
    }
}

#[test]
fn a_body_is_as_long_as_was_announced_in_both_directions() {
    let announced = |length: &str| {
        let fields =
            [(":method", "PUT"), PSEUDO[1], PSEUDO[2], PSEUDO[3], ("content-length", length)];
        frame(HEADERS, END_HEADERS, 1, &block(&fields))
    };
    let cases: [(&str, Vec<Vec<u8>>, bool); 8] = [
        ("3", vec![frame(DATA, END_STREAM, 1, b"abc")], true),
        ("3", vec![frame(DATA, 0, 1, b"ab"), frame(DATA, END_STREAM, 1, b"c")], true),
        ("3", vec![frame(DATA, PADDED | END_STREAM, 1, b"\x01abc\0")], true),
        ("3", vec![frame(DATA, 0, 1, b"abc"), frame(HEADERS, END, 1, &block(&[("a", "b")]))], true),
        ("0", vec![frame(DATA, END_STREAM, 1, b"")], true),
        ("3", vec![frame(DATA, END_STREAM, 1, b"ab")], false),
        ("3", vec![frame(DATA, 0, 1, b"abcd")], false),
        ("3", vec![frame(HEADERS, END, 1, &block(&[("a", "b")]))], false),
    ];
    for (length, parts, fits) in cases {
        let mut wire = Wire::new(Role::Server);
        wire.feed(&[announced(length), parts.concat()].concat());
        let expected = if fits { "nothing" } else { "RST_STREAM 1 PROTOCOL_ERROR" };
        assert_eq!(wire.verdict(), expected, "{length} {parts:x?}");
        let is_told = wire.events[1..].iter().any(|event| event.contains("body_length"));
        assert_eq!(is_told, !fits);
    }
}

#[test]
fn a_response_without_a_body_may_announce_one() {
    for (method, status, fits) in
        [("HEAD", "200", true), ("GET", "304", true), ("GET", "200", false), ("GET", "204", true)]
    {
        let mut wire = Wire::new(Role::Client);
        ask(&mut wire, method, true);
        wire.sent();
        let fields = [(":status", status), ("content-length", "5")];
        wire.feed(&frame(HEADERS, END, 1, &block(&fields)));
        assert_eq!(wire.verdict() == "nothing", fits, "{method} {status}");
    }
    let mut wire = Wire::new(Role::Client);
    ask(&mut wire, "HEAD", true);
    wire.sent();
    wire.feed(&[frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, END_STREAM, 1, b"x")].concat());
    assert_eq!(wire.verdict(), "RST_STREAM 1 PROTOCOL_ERROR");
}

#[test]
fn what_we_say_goes_out_in_order_and_not_behind_an_end() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&post(1));
    let key = wire.keys[0];
    let session = &mut wire.session;
    session.send_response(key, 103, false, |block| block.field(b"Link", b"x")).expect("interim");
    session.send_response(key, 200, false, |block| block.field(b"X", b"y")).expect("a head");
    assert_eq!(session.send_response(key, 200, false, |_| {}), Err(Gone), "there is one head");
    session.send_data(key, b"abc", false).expect("data");
    session.send_trailers(key, |block| block.field(b"T", b"u")).expect("trailers");
    assert_eq!(session.send_data(key, b"abc", true), Err(Gone));
    assert_eq!(session.send_trailers(key, |_| {}), Err(Gone));
    assert_eq!(session.room(key), 0);
    let expected = [
        r"HEADERS 1 4 \x08\x03103\x0f\x1e\x01x",
        r"HEADERS 1 4 \x88\x00\x01x\x01y",
        "DATA 1 0 abc",
        r"HEADERS 1 5 \x00\x01t\x01u",
    ];
    assert_eq!(wire.sent(), expected);
    wire.session.release(key);
    assert_eq!(wire.sent(), ["RST_STREAM 1 NO_ERROR"]);
    assert_eq!(wire.session.send_response(key, 200, false, |_| {}), Err(Gone));
}

#[test]
fn a_stream_that_is_given_up_unanswered_is_cancelled() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&[get(1), get(3)].concat());
    wire.session.release(wire.keys[0]);
    wire.session.reset(wire.keys[1], ErrorCode::InternalError);
    wire.session.reset(wire.keys[1], ErrorCode::InternalError);
    wire.session.release(wire.keys[1]);
    assert_eq!(wire.sent(), ["RST_STREAM 1 CANCEL", "RST_STREAM 3 INTERNAL_ERROR"]);
    assert_eq!(wire.session.streams(), 0);
}

#[test]
fn a_smaller_table_of_the_peer_is_confirmed_once() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&[settings(&[(1, 0)]), get(1), get(3)].concat());
    wire.sent();
    for key in wire.keys.clone() {
        wire.session.send_response(key, 200, true, |_| {}).expect("a head");
    }
    assert_eq!(wire.sent(), [r"HEADERS 1 5  \x88", r"HEADERS 3 5 \x88"]);
    wire.feed(&[settings(&[(1, 4096)]), settings(&[(1, 100)]), get(5)].concat());
    wire.sent();
    wire.session.send_response(wire.keys[2], 200, true, |_| {}).expect("a head");
    assert_eq!(wire.sent(), [r"HEADERS 5 5 \x88"]);
}

#[test]
fn a_large_head_goes_out_in_frames_that_the_peer_takes() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&get(1));
    let value = vec![b'v'; 40_000];
    let key = wire.keys[0];
    wire.session.send_response(key, 200, true, |block| block.field(b"x", &value)).expect("a head");
    let sent = wire.sent();
    assert_eq!(sent.len(), 3);
    assert!(sent[0].starts_with("HEADERS 1 1 ") && sent[1].starts_with("CONTINUATION 1 0 "));
    assert!(sent[2].starts_with("CONTINUATION 1 4 "));
}

#[test]
fn a_client_opens_what_the_peer_allows_and_no_more() {
    let mut wire = Wire::new(Role::Client);
    wire.feed(&settings(&[(3, 1)]));
    let key = ask(&mut wire, "GET", true);
    assert_eq!(wire.session.can_open(), Err(NotOpened::Full));
    wire.feed(&frame(HEADERS, END, 1, OK));
    assert!(wire.session.is_over(key));
    assert_eq!(wire.session.can_open(), Err(NotOpened::Full), "its slot is held");
    wire.session.release(key);
    let second = ask(&mut wire, "GET", true);
    assert_eq!(second.id(), 3);
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    wire.feed(&goaway);
    assert_eq!(wire.events.last().expect("an event"), "goaway 1 NO_ERROR");
    assert_eq!(wire.session.can_open(), Err(NotOpened::Leaving));
    assert!(wire.session.is_unprocessed(second) && !wire.session.is_unprocessed(key));
}

#[test]
fn a_drain_serves_what_is_there_and_refuses_what_comes_after() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&get(1));
    wire.session.begin_drain(*b"draining");
    wire.session.begin_drain(*b"draining");
    assert_eq!(wire.sent(), ["GOAWAY 2147483647 NO_ERROR", "PING 0 draining"]);
    wire.feed(&[get(3), frame(PING, 1, 0, b"draining")].concat());
    assert_eq!(wire.events.last().expect("an event"), "pong draining");
    wire.session.finish_drain();
    wire.session.finish_drain();
    assert_eq!(wire.sent(), ["GOAWAY 3 NO_ERROR"]);
    assert!(!wire.session.is_drained());
    wire.feed(&get(5));
    assert_eq!(wire.sent(), ["RST_STREAM 5 REFUSED_STREAM"]);
    for key in wire.keys.clone() {
        wire.session.send_response(key, 200, true, |_| {}).expect("served to the end");
        wire.session.release(key);
    }
    assert!(wire.session.is_drained());
}

#[test]
fn priorities_come_with_a_request_before_it_and_after_it() {
    let update = |stream: u32, value: &[u8]| {
        frame(PRIORITY_UPDATE, 0, 0, &[&stream.to_be_bytes()[..], value].concat())
    };
    let mut wire = Wire::new(Role::Server);
    wire.feed(&[update(1, b"u=6"), update(3, b"u=5"), update(3, b"u=4")].concat());
    wire.feed(&[get(1), get(3), update(1, b"u=2, i"), update(1, b"u=2,i")].concat());
    assert!(wire.events[0].contains("urgency: 6"), "{}", wire.events[0]);
    assert!(wire.events[1].contains("urgency: 4"));
    let told = "priority 1 Priority { urgency: 2, is_incremental: true }";
    assert_eq!(wire.events[2..], [told]);
    assert_eq!(wire.session.priority(wire.keys[1]).urgency, 4);
}

#[test]
fn what_we_announce_is_what_we_hold_the_peer_to() {
    let mut server = Wire::fresh(Role::Server, Terms::default());
    let expected = [
        "SETTINGS 0 \\x00\\x03\\x00\\x00\\x00d\\x00\\t\\x00\\x00\\x00\\x01\
         \\x00\\x08\\x00\\x00\\x00\\x01\\x00\\x06\\x00\\x00\\x80\\x00",
        "WINDOW_UPDATE 0 196609",
    ];
    assert_eq!(server.sent(), expected);
    let mut client = Wire::fresh(Role::Client, Terms { table_bytes: 0, ..Terms::default() });
    let expected = [
        "PREFACE",
        r"SETTINGS 0 \x00\x01\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x06\x00\x00\x80\x00",
        "WINDOW_UPDATE 0 196609",
    ];
    assert_eq!(client.sent(), expected);
}

#[test]
fn what_has_begun_and_is_of_no_use_is_told_so_that_it_has_a_deadline() {
    let mut wire = Wire::fresh(Role::Server, Terms::default());
    assert!(wire.session.awaits_rest());
    wire.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    wire.feed(&[settings(&[]), settings_ack()].concat());
    assert!(!wire.session.awaits_rest());
    let head = [frame(HEADERS, 0, 1, &POST[..2]), frame(CONTINUATION, 4, 1, &POST[2..])].concat();
    for byte in &head {
        wire.feed(&[*byte]);
        assert_eq!(wire.session.awaits_rest(), wire.keys.is_empty());
    }
    wire.feed(&frame(DATA, 0, 1, b"abc")[..10]);
    assert!(!wire.session.awaits_rest(), "a body is of use as it comes");
}

#[test]
fn a_lent_outbox_takes_over_what_is_to_be_said() {
    let mut wire = Wire::new(Role::Server);
    wire.session.ping(*b"12345678");
    let said = wire.session.pending().to_vec();
    wire.session.consume(3);
    assert!(wire.session.swap_outbox(Vec::with_capacity(4096), 64).is_empty());
    assert_eq!((wire.session.pending(), wire.session.outbox_bytes()), (&said[3..], 4096));
    for _ in 0..2 {
        // What is left moves up when the half of it is sent, and no further than to the lead.
        wire.session.consume(8);
        assert_eq!(wire.session.pending(), &said[11..]);
        let page = wire.session.pending().as_ptr().addr() - 64;
        wire.session.consume(said.len());
        assert!(wire.session.pending().is_empty());
        wire.session.ping(*b"12345678");
        assert_eq!(wire.session.pending(), said);
        assert_eq!(wire.session.pending().as_ptr().addr() - 64, page);
        wire.session.consume(3);
    }
    wire.session.consume(said.len());
    let back = wire.session.swap_outbox(Vec::new(), 0);
    assert_eq!((back.len(), back.capacity()), (0, 4096));
}

#[test]
fn a_socket_that_takes_a_little_at_a_time_gets_every_byte_once() {
    let mut wire = Wire::new(Role::Server);
    wire.feed(&frame(PING, 0, 0, b"abcdefgh"));
    let mut taken = Vec::new();
    while let Some(byte) = wire.session.pending().first() {
        taken.push(*byte);
        wire.session.consume(1);
    }
    assert_eq!(frames(&taken), ["PING 1 abcdefgh"]);
}

#[test]
fn a_connection_that_is_left_says_why_and_asks_and_is_asked_no_more() {
    let mut wire = Wire::new(Role::Client);
    wire.session.ping(*b"are you?");
    wire.feed(&settings(&[(5, 20_000), (6, 9)]));
    assert_eq!(wire.session.peer().frame_bytes_max, 20_000);
    assert_eq!(wire.session.peer().head_bytes_max, 9);
    wire.session.leave(ErrorCode::SettingsTimeout);
    let expected = ["PING 0 are you?", "SETTINGS 1 ", "GOAWAY 0 SETTINGS_TIMEOUT"];
    assert_eq!(wire.sent(), expected);
    assert_eq!(wire.session.can_open(), Err(NotOpened::Leaving));
    let mut wire = Wire::new(Role::Server);
    wire.feed(&get(1));
    wire.session.leave(ErrorCode::NoError);
    wire.feed(&get(3));
    assert_eq!(wire.sent(), ["GOAWAY 1 NO_ERROR", "RST_STREAM 3 REFUSED_STREAM"]);
    assert_eq!(wire.keys[0].index(), 0);
}
