//! Where one message ends and the next begins must never be a matter of opinion.
//!
//! Each vector is a message that two parsers could read differently. A request like that is
//! answered 400, its connection closes, and the origin's journal proves that nothing of it arrived:
//! neither the request nor what was hidden behind it. An answer like that becomes a 502. The other
//! tables hold what is unusual but legal, so that refusing everything is no way to pass.

use crate::support::{Ending, Expected, GET, OK, Origin, Proxy, show};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What an attacker wants to get past the proxy: it follows every vector.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

/// Runs each case and names all that failed, not only the first.
#[track_caller]
fn each<T: AsRef<[u8]>>(cases: &[T], run: impl Fn(&[u8])) {
    let fails = |case: &&T| catch_unwind(AssertUnwindSafe(|| run(case.as_ref()))).is_err();
    let failed: Vec<_> = cases.iter().filter(fails).map(|case| show(case.as_ref())).collect();
    let (count, failures) = (failed.len(), failed.join("\n    ----\n    "));
    assert!(count == 0, "{count} of {} cases failed:\n    {failures}", cases.len());
}

/// Every request is answered `status`, closes its connection and leaves the origin untouched.
#[track_caller]
fn expect_refused<T: AsRef<[u8]>>(status: u16, requests: &[T]) {
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    each(requests, |request| {
        let bytes = [request, SMUGGLED.as_bytes()].concat();
        proxy.send(bytes).expect_status(status).expect_closed();
        origin.expect_untouched();
    });
}

/// The same for requests that are wrong in their field lines.
#[track_caller]
fn expect_fields_refused(status: u16, fields: &[&str]) {
    let whole = |fields| format!("POST / HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n0\r\n\r\n");
    expect_refused(status, &fields.iter().map(whole).collect::<Vec<_>>());
}

/// Every request goes through, and so does an ordinary one behind it on the same connection.
#[track_caller]
fn expect_forwarded<T: AsRef<[u8]>>(requests: &[T]) {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    each(requests, |request| {
        proxy.send(request).expect_status(200).send(GET).expect_status(200);
    });
    assert_eq!(origin.seen().requests.len(), 2 * requests.len());
}

#[test]
fn length_and_chunked_together_are_refused() {
    expect_fields_refused(
        400,
        &[
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
            "content-length: 5\r\nX: y\r\ntransfer-encoding: CHUNKED",
        ],
    );
}

#[test]
fn a_length_that_is_not_one_plain_number_is_refused() {
    expect_fields_refused(
        400,
        &[
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 6",
            "Content-Length: 5, 5",
            "Content-Length: 5,",
            "Content-Length:",
            "Content-Length: ",
            "Content-Length: +5",
            "Content-Length: -1",
            "Content-Length: -0",
            "Content-Length: 0x5",
            "Content-Length: 5a",
            "Content-Length: 5 5",
            "Content-Length: 5;",
            "Content-Length: 1e1",
            "Content-Length: 5.0",
            "Content-Length: \"5\"",
            "Content-Length: \u{665}",
            // 2^63, 2^64 and what would be 5 if it wrapped.
            "Content-Length: 9223372036854775808",
            "Content-Length: 18446744073709551616",
            "Content-Length: 18446744073709551621",
            "Content-Length: 99999999999999999999999999999999999999999",
        ],
    );
}

#[test]
fn a_transfer_coding_that_is_not_exactly_chunked_is_refused() {
    expect_fields_refused(
        400,
        &[
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunkedx",
            "Transfer-Encoding: chunk ed",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: 'chunked'",
            "Transfer-Encoding: chunked;x=1",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: chunked,",
            "Transfer-Encoding: ,chunked",
            "Transfer-Encoding:",
            "Transfer-Encoding: \u{b}chunked",
            "Transfer-Encoding: chunked\u{c}",
            "Transfer-Encoding: \u{a0}chunked",
            "Transfer-Encoding: chun\u{212a}ed",
        ],
    );
    expect_refused(
        400,
        &["POST / HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    );
}

#[test]
fn a_coding_before_chunked_is_not_implemented() {
    expect_fields_refused(
        501,
        &[
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        ],
    );
}

#[test]
fn a_field_line_that_is_not_name_colon_value_is_refused() {
    expect_fields_refused(
        400,
        &[
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\t: chunked",
            "Content-Length : 5",
            "Transfer-Encoding:\r\n chunked",
            "Transfer-Encoding:\r\n\tchunked",
            "X: y\r\n Transfer-Encoding: chunked",
            ": value",
            " : value",
            "X-No-Colon",
            "X(Y): z",
            "X Y: z",
            "X\u{e9}: z",
            "X@: z",
            "\u{1}X: z",
        ],
    );
    expect_refused(
        400,
        &[
            // The first line after the request line has nothing to be folded into.
            "POST / HTTP/1.1\r\n Host: test\r\nHost: test\r\n\r\n",
            "POST / HTTP/1.1\r\n\tTransfer-Encoding: chunked\r\nHost: test\r\n\r\n",
        ],
    );
}

#[test]
fn stray_line_ends_and_control_bytes_in_a_head_are_refused() {
    expect_refused(
        400,
        &[
            &b"GET / HTTP/1.1\nHost: test\n\n"[..],
            b"GET / HTTP/1.1\r\nHost: test\n\r\n",
            b"GET / HTTP/1.1\nHost: test\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\n\n",
            b"GET / HTTP/1.1\r\nHost: test\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\nX: a\r\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\n\rX: a\r\n\r\n",
            b"GET / HTTP/1.1\rHost: test\r\n\r\n",
            b"\nGET / HTTP/1.1\r\nHost: test\r\n\r\n",
            b"\rGET / HTTP/1.1\r\nHost: test\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\nX\0: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\nX: a\x01b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\nX: a\x7fb\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\nX: \x1b[2J\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: test\r\nX\x7f: a\r\n\r\n",
        ],
    );
}

#[test]
fn a_request_line_that_is_not_three_words_is_refused() {
    expect_refused(
        400,
        &[
            &b"GET  / HTTP/1.1\r\nHost: test\r\n\r\n"[..],
            b"GET /  HTTP/1.1\r\nHost: test\r\n\r\n",
            b"GET / HTTP/1.1 \r\nHost: test\r\n\r\n",
            b"GET\t/ HTTP/1.1\r\nHost: test\r\n\r\n",
            b"GET /\tHTTP/1.1\r\nHost: test\r\n\r\n",
            b" GET / HTTP/1.1\r\nHost: test\r\n\r\n",
            b"GET /a b HTTP/1.1\r\nHost: test\r\n\r\n",
            b"GET / http/1.1\r\nHost: test\r\n\r\n",
            b"GET / HTTP/1.1x\r\nHost: test\r\n\r\n",
            b"GET / HTTP/1\r\nHost: test\r\n\r\n",
            b"GET / HTTP/01.1\r\nHost: test\r\n\r\n",
            b"GET / ICY/1.1\r\nHost: test\r\n\r\n",
            b"GET /\r\nHost: test\r\n\r\n",
            b"GET /\r\n\r\n",
            b"/ HTTP/1.1\r\nHost: test\r\n\r\n",
            b"G(T / HTTP/1.1\r\nHost: test\r\n\r\n",
            b"G\xc9T / HTTP/1.1\r\nHost: test\r\n\r\n",
            b"GET /\0 HTTP/1.1\r\nHost: test\r\n\r\n",
            b"GET /\x01 HTTP/1.1\r\nHost: test\r\n\r\n",
            b"GET /\x7f HTTP/1.1\r\nHost: test\r\n\r\n",
        ],
    );
}

#[test]
fn a_host_that_is_missing_doubled_or_no_host_is_refused() {
    let hosts = [
        "",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host:\r\n",
        "Host: \r\n",
        "Host: a b\r\n",
        "Host: a, b\r\n",
        "Host: user@a\r\n",
        "Host: a/b\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: a\\b\r\n",
        "Host: http://a\r\n",
        "Host: a:b\r\n",
        "Host: a:65536\r\n",
        "Host: a:-1\r\n",
        "Host: a:80:80\r\n",
        "Host: :80\r\n",
        "Host: ::1\r\n",
        "Host: [::1\r\n",
        "Host: [::1]x\r\n",
        "Host: [zz]\r\n",
        "Host: []\r\n",
        "Host: caf\u{e9}\r\n",
        "Host: a\"b\r\n",
        "Host: a\r\n b\r\n",
        "Host : a\r\n",
        "X: y\r\n",
    ];
    expect_refused(400, &hosts.map(|host| format!("GET / HTTP/1.1\r\n{host}\r\n")));
    expect_refused(400, &["GET http://a/ HTTP/1.1\r\n\r\n"]);
    expect_refused(400, &["GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n"]);
}

#[test]
fn a_target_that_does_not_fit_its_method_is_refused() {
    let targets = [
        "GET *",
        "GET test",
        "GET test:80",
        "OPTIONS *x",
        "OPTIONS **",
        "GET ftp://test/",
        "GET http:/test/",
        "GET http:///x",
        "GET http://",
        "GET http://user@test/",
        "GET http://test:x/",
        "GET http://[::1/",
        "GET http://te st/",
        "GET javascript:alert(1)",
        "CONNECT /",
        "CONNECT *",
        "CONNECT test",
        "CONNECT test:",
        "CONNECT test:0",
        "CONNECT test:65536",
        "CONNECT http://test:80",
        "CONNECT user@test:80",
        "POST ?x",
    ];
    expect_refused(400, &targets.map(|target| format!("{target} HTTP/1.1\r\nHost: test\r\n\r\n")));
}

#[test]
fn a_trace_with_a_body_is_refused() {
    expect_refused(
        400,
        &[
            "TRACE / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nabcde",
            "TRACE / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    );
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_chunk_size_that_is_not_plain_hexadecimal_is_refused() {
    let sizes = [
        "",
        "g",
        " 5",
        "5 ",
        "\t5",
        "+5",
        "-5",
        "-0",
        "0x5",
        "5h",
        "5,",
        "5.0",
        "\"5\"",
        "5\r",
        // 2^63, 2^64 - 1, 2^64 + 5 and seventeen digits that are small all the same.
        "8000000000000000",
        "ffffffffffffffff",
        "10000000000000005",
        "00000000000000005",
        "5;a\rb",
        "5;a\nb",
        "5;a\0b",
        "5;a\u{7f}",
    ];
    let chunk = |size| format!("{CHUNKED}{size}\r\nabcde\r\n0\r\n\r\n");
    expect_refused(400, &sizes.map(chunk));
    expect_refused(400, &[format!("{CHUNKED}5\nabcde\r\n0\r\n\r\n")]);
    expect_refused(400, &[format!("{CHUNKED}5;{}\r\nabcde\r\n0\r\n\r\n", "x".repeat(5_000))]);
}

#[test]
fn a_chunked_body_that_goes_wrong_later_never_becomes_whole_at_the_origin() {
    let origin = Origin::start(|mut peer| {
        // Nothing but a cut request may come, however much of it the proxy had sent on before.
        while let Some(mut request) = peer.read_head() {
            peer.read_body(&mut request, Expected::Request);
            assert_eq!(request.ending, Ending::Cut, "a bad body arrived whole: {request}");
        }
    });
    let proxy = Proxy::to(&origin);
    let bodies = [
        "5\r\nabcdeX\r\n0\r\n\r\n",
        "5\r\nabcde\n0\r\n\r\n",
        "5\r\nabcde\r0\r\n\r\n",
        "5\r\nabcde0\r\n\r\n",
        "5\r\nabcdef\r\n0\r\n\r\n",
        "4\r\nabcde\r\n0\r\n\r\n",
        "5\r\nabcde\r\n\r\n0\r\n\r\n",
        "5\r\nabcde\r\ng\r\n\r\n",
        "5\r\nabcde\r\nffffffffffffffff\r\n\r\n",
        "5\r\nabcde\r\n0\n\r\n",
        "5\r\nabcde\r\n0 \r\n\r\n",
        "5\r\nabcde\r\n0\r\n\n",
        "5\r\nabcde\r\n0\r\nX : y\r\n\r\n",
        "5\r\nabcde\r\n0\r\nX: y\r\n z\r\n\r\n",
        "5\r\nabcde\r\n0\r\nX: y\n\r\n",
        "5\r\nabcde\r\n0\r\nX: a\0b\r\n\r\n",
        "5\r\nabcde\r\n0\r\nX\r\n\r\n",
        "5\r\nabcde\r\n0\r\n: x\r\n\r\n",
        "5\r\nabcde\r\n0\r\nContent-Length: 5\r\n\r\n",
        "5\r\nabcde\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nabcde\r\n0\r\nHost: other\r\n\r\n",
        "5\r\nabcde\r\n0\r\nConnection: close\r\n\r\n",
    ];
    each(&bodies.map(|body| format!("{CHUNKED}{body}")), |request| {
        let mut client = proxy.send([request, SMUGGLED.as_bytes()].concat());
        client.expect_status(400).expect_closed();
    });
    assert!(!String::from_utf8_lossy(&origin.seen().bytes()).contains("smuggled"));
}

#[test]
fn an_endless_trailer_section_is_refused() {
    let origin = Origin::silent();
    let proxy = Proxy::to(&origin);
    let many = "X: y\r\n".repeat(10_000);
    let long = format!("X: {}\r\n", "y".repeat(200_000));
    for trailers in [many, long] {
        let mut client = proxy.send(format!("{CHUNKED}0\r\n{trailers}\r\n"));
        assert!((400..=431).contains(&client.read_response().status()));
        client.expect_closed();
    }
}

#[test]
fn what_is_unusual_but_legal_is_forwarded() {
    expect_forwarded(&[
        &b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length:5\r\n\r\nabcde"[..],
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: \t5 \t\r\n\r\nabcde",
        b"POST / HTTP/1.1\r\nHost: test\r\ncOnTeNt-LeNgTh: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding:\tCHUNKED \r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nabcde",
        b"\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET /#top HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nExpect:\r\n\r\n",
        b"GET /caf\xe9 HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET //a//b/../c HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nX-Empty:\r\nX-Tab: a\tb\r\nX-Bytes: \xe9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\n!#$%&'*+-.^_`|~09AZaz: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHOST: Test.Example.:8080\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a_b-c.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:test\r\nConnection: keep-alive\r\n\r\n",
        b"PUT / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nabcde",
    ]);
}

#[test]
fn chunked_bodies_that_are_unusual_but_legal_are_forwarded() {
    let bodies = [
        "5\r\nabcde\r\n0\r\n\r\n",
        "005\r\nabcde\r\n000\r\n\r\n",
        "0000000000000005\r\nabcde\r\n0\r\n\r\n",
        "A\r\nabcdefghij\r\na\r\nabcdefghij\r\n0\r\n\r\n",
        "5;name\r\nabcde\r\n0\r\n\r\n",
        "5;name=value;other=\"quoted; \\\" text\"\r\nabcde\r\n0;last\r\n\r\n",
        "1\r\n\r\r\n1\r\n\n\r\n2\r\n\r\n\r\n0\r\n\r\n",
        "5\r\nabcde\r\n0\r\nX-Sum: 1\r\nX-More:\r\n\r\n",
    ];
    expect_forwarded(&bodies.map(|body| format!("{CHUNKED}{body}")));
}

#[test]
fn whitespace_before_a_chunk_extension_is_not_passed_on() {
    // RFC 9110 §5.6.3: bad whitespace may be read, but must never be sent.
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let response = proxy.send(format!("{CHUNKED}5 ;x=y\r\nabcde\r\n0\r\n\r\n")).read_response();
    assert!(matches!(response.status(), 200 | 400), "{response}");
    assert!(!String::from_utf8_lossy(&origin.seen().bytes()).contains("5 ;"));
}

/// Every answer becomes a 502 of ours, and its connection is not used again.
#[track_caller]
fn expect_bad_gateway<T: AsRef<[u8]>>(answers: &[T]) {
    each(answers, |answer| {
        let origin = Origin::answering(answer);
        let proxy = Proxy::to(&origin);
        let response = proxy.get();
        response.expect_own_error(502, "Bad Gateway", "http_protocol_error");
        response.expect_no_field("X-Leak");
        origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    });
}

#[test]
fn an_answer_with_doubtful_framing_is_a_bad_gateway() {
    let fields = [
        "Content-Length: x\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2, 3",
        "Content-Length: +2",
        "Content-Length: -2",
        "Content-Length: 0x2",
        "Content-Length:",
        "Content-Length: 18446744073709551618",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Content-Length: 2\r\n X: folded",
        "X: a\rContent-Length: 2",
        "X: a\0b\r\nContent-Length: 2",
        "X: a\u{1}b\r\nContent-Length: 2",
        "X Y: z\r\nContent-Length: 2",
        "No-Colon\r\nContent-Length: 2",
        ": x\r\nContent-Length: 2",
    ];
    let answer =
        |fields| format!("HTTP/1.1 200 OK\r\nX-Leak: 1\r\n{fields}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    expect_bad_gateway(&fields.map(answer));
}

#[test]
fn an_answer_with_a_broken_status_line_is_a_bad_gateway() {
    let lines = [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 000 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1",
        "HTTP/2 200",
        "HTTP/2.0 200 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        " HTTP/1.1 200 OK",
        "200 OK",
        "<html>",
        "HTTP/1.1 200 O\rK",
        "HTTP/1.1 200 O\0K",
        "GET / HTTP/1.1",
    ];
    expect_bad_gateway(&lines.map(|line| format!("{line}\r\nContent-Length: 2\r\n\r\nok")));
}

#[test]
fn an_answer_with_a_bad_chunk_is_never_passed_on_as_whole() {
    let bodies = [
        "g\r\nok\r\n0\r\n\r\n",
        " 2\r\nok\r\n0\r\n\r\n",
        "+2\r\nok\r\n0\r\n\r\n",
        "0x2\r\nok\r\n0\r\n\r\n",
        "2\nok\r\n0\r\n\r\n",
        "2\r\nokX\r\n0\r\n\r\n",
        "2\r\nok\n0\r\n\r\n",
        "2\r\nok0\r\n\r\n",
        "10000000000000002\r\nok\r\n0\r\n\r\n",
        "2\r\nok\r\n0\r\nX : y\r\n\r\n",
        "2\r\nok\r\n0\r\nX: y\n\r\n",
    ];
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    each(&bodies.map(|body| format!("{head}{body}")), |answer| {
        let origin = Origin::answering(answer);
        let proxy = Proxy::to(&origin);
        let response = proxy.send(GET).read_message(Expected::Response).expect("an answer");
        let is_refused = response.status() == 502;
        assert!(is_refused || !response.is_whole(), "a bad answer looks complete: {response}");
        origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    });
}

#[test]
fn answers_that_are_unusual_but_legal_are_passed_on() {
    each(
        &[
            &b"HTTP/1.1 200 OK\r\nContent-Length:2\r\n\r\nok"[..],
            b"HTTP/1.1 200 \r\nCONTENT-LENGTH: 2 \r\n\r\nok",
            b"HTTP/1.1 200 Tr\xe8s bien\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2;x\r\nok\r\n0\r\nX: y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0002\r\nok\r\n00\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: caf\xe9\t!\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nServer:\r\n\r\nok",
            b"HTTP/1.1 599 Own\r\nContent-Length: 2\r\n\r\nok",
        ],
        |answer| {
            let origin = Origin::answering_and_closing(answer);
            Proxy::to(&origin).get().expect_body("ok");
        },
    );
}
