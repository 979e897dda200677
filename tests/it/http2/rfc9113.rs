//! Each MUST of RFC 9113 that names an error, against the running program: which error it is, and
//! whether it ends a stream or the connection.
//!
//! Each case has a connection of its own. A stream error leaves the connection alive, and whatever
//! the error is, the next client is served.

use crate::support::h2::*;
use crate::support::{Gate, Origin, Proxy, Setup};

/// What has to come of it.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Connection(u32),
    Stream(u32, u32),
    /// Nothing: the connection goes on as if it had not been.
    Ignored,
}

use Outcome::{Connection, Ignored, Stream};

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    outcome: Outcome,
}

fn case(name: &'static str, parts: &[Vec<u8>], outcome: Outcome) -> Case {
    Case { name, bytes: parts.concat(), outcome }
}

/// A request on stream 1 whose body is to follow.
fn begun() -> Vec<u8> {
    headers(1, 0, &request("POST", "/"))
}

fn asked(stream: u32) -> Vec<u8> {
    get(stream, "/")
}

#[track_caller]
fn try_all(cases: &[Case]) {
    let origin = Origin::silent();
    let proxy = Setup::to(&origin).start();
    let mut failed = Vec::new();
    for case in cases {
        if let Err(error) = attempt(&proxy, case) {
            failed.push(format!("{}: {error}", case.name));
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

fn attempt(proxy: &Proxy, case: &Case) -> Result<(), String> {
    let mut client = H2Client::connect(proxy.address());
    client.send(&case.bytes);
    // Behind it: whoever has not ended the connection says so.
    client.send(frame(PING, 0, 0, b"12345678"));
    let mut resets = Vec::new();
    let frame_in = loop {
        let Some(frame_in) = client.read_frame() else { break None };
        match frame_in.kind {
            GOAWAY => break Some(frame_in.number(4)),
            PING if frame_in.payload == b"12345678" => break None,
            RST_STREAM => resets.push((frame_in.stream, frame_in.number(0))),
            _ => {}
        }
    };
    let is_right = match case.outcome {
        Connection(code) => frame_in == Some(code),
        Stream(stream, code) => frame_in.is_none() && resets == [(stream, code)],
        Ignored => frame_in.is_none() && resets.is_empty(),
    };
    let text =
        format!("expected {:?}, frame_in GOAWAY {frame_in:?}, resets {resets:?}", case.outcome);
    if !is_right {
        return Err(text);
    }
    if let Connection(_) = case.outcome {
        client.expect_end();
    } else {
        client.expect_alive();
    }
    Ok(())
}

#[test]
fn frames_that_are_wrong_by_themselves_end_the_connection() {
    let ping = |length: usize| frame(PING, 0, 0, vec![0; length]);
    let one = |kind, flags, stream, payload: &[u8]| vec![frame(kind, flags, stream, payload)];
    let (protocol, size) = (Connection(PROTOCOL_ERROR), Connection(FRAME_SIZE_ERROR));
    let flow = Connection(FLOW_CONTROL_ERROR);
    let long = vec![0; 16_385];
    try_all(&[
        case("4.2 a long DATA", &[begun(), frame(DATA, 0, 1, &long)], size),
        case("4.2 a long HEADERS", &one(HEADERS, 5, 1, &long), size),
        case("4.2 a long SETTINGS", &one(SETTINGS, 0, 0, &long[..16_386 - 1]), size),
        case("4.2 a long unknown frame", &one(0x77, 0, 0, &long), size),
        case("6.1 DATA without a stream", &one(DATA, 0, 0, b"a"), protocol),
        case("6.1 more padding than DATA", &[begun(), frame(DATA, 8, 1, b"\x02a")], protocol),
        case("6.1 no room for padding", &[begun(), frame(DATA, 8, 1, b"")], size),
        case("6.2 HEADERS without a stream", &one(HEADERS, 5, 0, b"\x82"), protocol),
        case("6.2 more padding than HEADERS", &one(HEADERS, 0xd, 1, b"\x05\x82"), protocol),
        case("6.3 PRIORITY without a stream", &one(PRIORITY, 0, 0, b"12345"), protocol),
        case("6.4 RST_STREAM without a stream", &one(RST_STREAM, 0, 0, b"1234"), protocol),
        case("6.4 a short RST_STREAM", &[begun(), frame(RST_STREAM, 0, 1, b"123")], size),
        case("6.4 a long RST_STREAM", &[begun(), frame(RST_STREAM, 0, 1, b"12345")], size),
        case("6.5 SETTINGS of a stream", &one(SETTINGS, 0, 1, b""), protocol),
        case("6.5 an ACK with settings", &one(SETTINGS, 1, 0, b"123456"), size),
        case("6.5 half a setting", &one(SETTINGS, 0, 0, b"123"), size),
        case("6.5.2 ENABLE_PUSH of 2", &[settings(&[(2, 2)])], protocol),
        case("6.5.2 a window of 2³¹", &[settings(&[(4, 1 << 31)])], flow),
        case("6.5.2 frames of 16,383", &[settings(&[(5, 16_383)])], protocol),
        case("6.5.2 frames of 2²⁴", &[settings(&[(5, 1 << 24)])], protocol),
        case("6.5.3 an ACK of nothing", &one(SETTINGS, 1, 0, b""), protocol),
        case(
            "6.6 PUSH_PROMISE",
            &[begun(), frame(PUSH_PROMISE, 4, 1, b"\0\0\0\x02\x82")],
            protocol,
        ),
        case("6.7 PING of a stream", &one(PING, 0, 1, b"12345678"), protocol),
        case("6.7 a short PING", &[ping(7)], size),
        case("6.7 a long PING", &[ping(9)], size),
        case("6.8 GOAWAY of a stream", &one(GOAWAY, 0, 1, &[0; 8]), protocol),
        case("6.8 a short GOAWAY", &one(GOAWAY, 0, 0, &[0; 7]), size),
        case("6.9 a short WINDOW_UPDATE", &one(WINDOW_UPDATE, 0, 0, b"123"), size),
        case("6.9 a window opened by nothing", &[window_update(0, 0)], protocol),
        case("6.9.1 a window of 2³¹", &[window_update(0, 0x7fff_ffff)], flow),
        case(
            "6.9.2 settings that make a window too large",
            &[asked(1), window_update(1, 0x7fff_ffff - 65_535), settings(&[(4, 65_536)])],
            flow,
        ),
        case("6.10 CONTINUATION without a stream", &one(CONTINUATION, 4, 0, b"\x82"), protocol),
        case("6.10 CONTINUATION of nothing", &one(CONTINUATION, 4, 1, b"\x82"), protocol),
        case("8441 §3 ENABLE_CONNECT_PROTOCOL of 2", &[settings(&[(8, 2)])], protocol),
        case("9218 §2.1 NO_RFC7540_PRIORITIES of 2", &[settings(&[(9, 2)])], protocol),
        case(
            "9218 §7.1 PRIORITY_UPDATE of a stream",
            &one(PRIORITY_UPDATE, 0, 1, &[0; 5]),
            protocol,
        ),
        case(
            "9218 §7.1 a priority of stream 0",
            &one(PRIORITY_UPDATE, 0, 0, b"\0\0\0\0u=1"),
            protocol,
        ),
        case("9218 §7.1 a short PRIORITY_UPDATE", &one(PRIORITY_UPDATE, 0, 0, b"123"), size),
    ]);
}

#[test]
fn frames_that_are_wrong_where_they_stand_end_what_they_concern() {
    let (protocol, compression) = (Connection(PROTOCOL_ERROR), Connection(COMPRESSION_ERROR));
    let whole = block_of(&request("GET", "/"));
    let half = || frame(HEADERS, END_STREAM, 1, &whole[..10]);
    let rest = |stream| frame(CONTINUATION, END_HEADERS, stream, &whole[10..]);
    try_all(&[
        case("4.3 an index of nothing", &[frame(HEADERS, 5, 1, b"\xff\xff\x01")], compression),
        case("4.3 a block cut short", &[frame(HEADERS, 5, 1, b"\x82\x00\x05ab")], compression),
        case("4.3 an index of zero", &[frame(HEADERS, 5, 1, b"\x80")], compression),
        case("5.1 DATA on an idle stream", &[frame(DATA, 1, 1, b"a")], protocol),
        case("5.1 RST_STREAM on an idle stream", &[rst_stream(1, CANCEL)], protocol),
        case("5.1 WINDOW_UPDATE on an idle stream", &[window_update(1, 1)], protocol),
        case("5.1 DATA on a stream of ours", &[frame(DATA, 1, 2, b"a")], protocol),
        case(
            "5.1 DATA behind the end",
            &[asked(1), frame(DATA, 1, 1, b"a")],
            Stream(1, STREAM_CLOSED),
        ),
        case(
            "5.1 HEADERS behind the end",
            &[asked(1), headers(1, END_STREAM, &[("a", "b")])],
            Stream(1, STREAM_CLOSED),
        ),
        case("5.1.1 an even stream", &[asked(2)], protocol),
        case("5.1.1 a stream that was passed over", &[asked(5), asked(3)], protocol),
        case(
            "5.1 WINDOW_UPDATE after RST_STREAM",
            &[begun(), rst_stream(1, CANCEL), window_update(1, 1)],
            Ignored,
        ),
        case(
            "5.3.2 PRIORITY of an idle stream",
            &[frame(PRIORITY, 0, 7, b"\0\0\0\x03\x10")],
            Ignored,
        ),
        case(
            "6.3 a short PRIORITY",
            &[begun(), frame(PRIORITY, 0, 1, b"1234")],
            Stream(1, FRAME_SIZE_ERROR),
        ),
        case("6.2 a frame within a head", &[half(), frame(PING, 0, 0, [0; 8]), rest(1)], protocol),
        case(
            "6.2 an unknown frame within a head",
            &[half(), frame(0x77, 0, 0, b""), rest(1)],
            protocol,
        ),
        case("6.10 a head that another stream continues", &[half(), rest(3)], protocol),
        case("6.10 a head that is continued", &[half(), rest(1)], Ignored),
        case(
            "6.10 a head that is continued by nothing",
            &[half(), frame(CONTINUATION, 0, 1, b""), rest(1)],
            Ignored,
        ),
        case(
            "6.9 a stream's window opened by nothing",
            &[begun(), window_update(1, 0)],
            Stream(1, PROTOCOL_ERROR),
        ),
        case(
            "6.9.1 a stream's window of 2³¹",
            &[begun(), window_update(1, 0x7fff_ffff)],
            Stream(1, FLOW_CONTROL_ERROR),
        ),
        case("4.1 an unknown frame", &[frame(0x77, 0xff, 5, b"abc")], Ignored),
        case("4.1 the reserved bit", &[frame(PING, 0, 1 << 31, [0; 8])], Ignored),
        case("6.7 flags of no meaning", &[frame(PING, 0xfe, 0, [0; 8])], Ignored),
        case("6.5.2 a setting of no meaning", &[settings(&[(0xff, 1)])], Ignored),
        case("6.1 padding", &[begun(), frame(DATA, 8, 1, b"\x02abc\0\0")], Ignored),
        case(
            "6.2 padding and priority",
            &[frame(HEADERS, 0x2d, 1, [b"\x02\0\0\0\0\x10".as_slice(), &whole, b"\0\0"].concat())],
            Ignored,
        ),
    ]);
}

fn block_of(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, 0, fields).split_off(9)
}

#[test]
fn heads_that_are_no_message_end_their_stream_only() {
    fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [request("GET", "/"), more.to_vec()].concat()
    }
    fn without(name: &str) -> Vec<(&'static str, &'static str)> {
        request("GET", "/").into_iter().filter(|(it, _)| *it != name).collect()
    }
    let cases: Vec<(&'static str, Vec<(&str, &str)>)> = vec![
        ("8.2.1 a name in upper case", with(&[("Accept", "a")])),
        ("8.2.1 a name with a blank", with(&[("a b", "a")])),
        ("8.2.1 a name with a control byte", with(&[("a\x01", "a")])),
        ("8.2.1 a name beyond ASCII", with(&[("a\u{e9}", "a")])),
        ("8.2.1 no name", with(&[("", "a")])),
        ("8.2.1 a name with a colon", with(&[("a:b", "a")])),
        ("8.2.1 a value with NUL", with(&[("a", "b\0c")])),
        ("8.2.1 a value with LF", with(&[("a", "b\nc: d")])),
        ("8.2.1 a value with CR", with(&[("a", "b\rc")])),
        ("8.2.1 a value that begins with a blank", with(&[("a", " b")])),
        ("8.2.1 a value that ends with a tab", with(&[("a", "b\t")])),
        ("8.2.2 connection", with(&[("connection", "close")])),
        ("8.2.2 keep-alive", with(&[("keep-alive", "timeout=1")])),
        ("8.2.2 proxy-connection", with(&[("proxy-connection", "close")])),
        ("8.2.2 transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("8.2.2 upgrade", with(&[("upgrade", "websocket")])),
        ("8.2.2 te", with(&[("te", "gzip")])),
        ("8.3 a pseudo-field of no meaning", with(&[(":a", "b")])),
        ("8.3 a pseudo-field of answers", with(&[(":status", "200")])),
        ("8.3 a pseudo-field twice", with(&[(":path", "/b")])),
        ("8.3 a pseudo-field behind a field", [&[("a", "b")], &request("GET", "/")[..]].concat()),
        ("8.3.1 no :method", without(":method")),
        ("8.3.1 no :scheme", without(":scheme")),
        ("8.3.1 no :path", without(":path")),
        ("8.3.1 an empty :path", [without(":path"), vec![(":path", "")]].concat()),
        ("8.3.1 a :path of no form", [without(":path"), vec![(":path", "a")]].concat()),
        ("8.3.1 a :path with a blank", [without(":path"), vec![(":path", "/a b")]].concat()),
        ("8.3.1 an empty :method", [without(":method"), vec![(":method", "")]].concat()),
        ("8.3.1 a :method with a blank", [without(":method"), vec![(":method", "G T")]].concat()),
        ("8.5 CONNECT with a path", request("CONNECT", "/")),
        ("8.5 CONNECT to nobody", vec![(":method", "CONNECT")]),
        ("8441 §4 a protocol without CONNECT", with(&[(":protocol", "websocket")])),
        ("8.1.1 a length of no digits", with(&[("content-length", "a")])),
        ("8.1.1 two lengths", with(&[("content-length", "1"), ("content-length", "2")])),
        ("8.1.1 a length without a body", with(&[("content-length", "1")])),
    ];
    let cases: Vec<_> = cases
        .iter()
        .map(|(name, fields)| {
            // Pseudo-fields come first wherever the case is not about that.
            let mut fields = fields.clone();
            if !name.contains("behind a field") {
                fields.sort_by_key(|(name, _)| !name.starts_with(':'));
            }
            case(name, &[headers(1, END_STREAM, &fields)], Stream(1, PROTOCOL_ERROR))
        })
        .collect();
    try_all(&cases);
}

#[test]
fn a_body_has_the_length_that_was_announced() {
    let announced = |length: &str| {
        headers(1, 0, &[request("POST", "/"), vec![("content-length", length)]].concat())
    };
    let trailers = |flags, fields: &[(&str, &str)]| headers(1, flags, fields);
    let wrong = Stream(1, PROTOCOL_ERROR);
    try_all(&[
        case("8.1.1 too little", &[announced("3"), frame(DATA, 1, 1, b"ab")], wrong),
        case("8.1.1 too much", &[announced("3"), frame(DATA, 1, 1, b"abcd")], wrong),
        case(
            "8.1.1 too much, bit by bit",
            &[announced("3"), frame(DATA, 0, 1, b"abc"), frame(DATA, 1, 1, b"d")],
            wrong,
        ),
        case(
            "8.1.1 too little before trailers",
            &[announced("3"), frame(DATA, 0, 1, b"ab"), trailers(1, &[("a", "b")])],
            wrong,
        ),
        case("8.1 trailers that are not the end", &[begun(), trailers(0, &[("a", "b")])], wrong),
        case("8.1 a pseudo-field in trailers", &[begun(), trailers(1, &[(":path", "/")])], wrong),
        case("8.2.1 an upper case in trailers", &[begun(), trailers(1, &[("A", "/")])], wrong),
        case("8.1 trailers", &[begun(), trailers(1, &[("a", "b")])], Ignored),
        case("8.1.1 as announced", &[announced("3"), frame(DATA, 1, 1, b"abc")], Ignored),
        case(
            "8.1.1 as announced, the end alone",
            &[announced("3"), frame(DATA, 0, 1, b"abc"), frame(DATA, 1, 1, b"")],
            Ignored,
        ),
    ]);
}

#[test]
fn a_connection_begins_as_it_must_or_not_at_all() {
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).start();
    // The first line is right, and what follows it is not: RFC 9113 §3.4.
    let mut client = H2Client::silent(proxy.address());
    client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    client.expect_failure(PROTOCOL_ERROR);
    for first in [frame(PING, 0, 0, [0; 8]), get(1, "/"), frame(SETTINGS, ACK, 0, b"")] {
        let mut client = H2Client::silent(proxy.address());
        client.send(PREFACE).send(first);
        client.expect_failure(PROTOCOL_ERROR);
    }
}

/// Cut within its version, the first line was a request of an unknown version (505).
#[test]
fn a_connection_may_begin_in_any_two_pieces() {
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).start();
    for cut in 1..PREFACE.len() {
        let mut client = H2Client::silent(proxy.address());
        client.send(&PREFACE[..cut]);
        client.wire().wait_until_read();
        client.send(&PREFACE[cut..]).send(settings(&[]));
        let theirs = client.read_frame().expect("SETTINGS");
        assert_eq!(theirs.kind, SETTINGS, "cut at {cut}");
    }
}

#[test]
fn windows_are_kept_to_the_byte() {
    // It reads nothing: whoever reads as fast as it is sent to opens all windows in time.
    let is_over = Gate::default();
    let waits = is_over.clone();
    let origin = Origin::start(move |_peer| waits.wait());
    let proxy = Setup::to(&origin).start();
    let mut client = H2Client::connect(proxy.address());
    client.send(begun());
    // The origin takes the head and what its kernel has room for: the window opens for that, and
    // never by itself. More than all windows together is always too much.
    let piece = frame(DATA, 0, 1, vec![0; 16_384]);
    for _ in 0..1_500 {
        client.send(&piece);
    }
    client.expect_failure(FLOW_CONTROL_ERROR);
    is_over.open();
}

#[test]
fn more_streams_than_allowed_are_refused_and_those_that_are_go_on() {
    let (origin, is_open) = Origin::held();
    let proxy = Setup::to(&origin).set("http2.streams", 3).start();
    let mut client = H2Client::connect(proxy.address());
    for stream in [1, 3, 5, 7, 9] {
        client.send(get(stream, "/"));
    }
    client.expect_reset(7, REFUSED_STREAM).expect_reset(9, REFUSED_STREAM);
    is_open.open();
    for stream in [1, 3, 5] {
        client.read_answer(stream).expect_status(200).expect_body("ok");
    }
    client.get(11, "/").expect_status(200);
}
