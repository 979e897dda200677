//! One connection, many messages: who closes when, in which order answers come, and that it never
//! matters how the network cut the bytes into pieces.
//!
//! The split tests send each message in two pieces, once for every position between two bytes, and
//! the second piece leaves only when the proxy has read the first (`Wire::wait_until_read`).

use crate::support::{self, Expected, GET, Message, OK, Origin, Proxy, Setup};
use std::time::Duration;

/// Answers every request with its target and body.
fn echoing() -> Origin {
    Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let body = format!("{} {}", request.target(), request.text());
            let length = body.len();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"));
        }
    })
}

#[test]
fn many_requests_share_one_connection_on_either_side() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let mut client = proxy.connect();
    for _ in 0..100 {
        let response = client.send(GET).read_response();
        response.expect_body("ok").expect_no_field("Connection");
    }
    let seen = origin.seen();
    assert_eq!((seen.connections.len(), seen.requests.len()), (1, 100));
}

#[test]
fn a_client_that_wants_to_close_is_closed_after_its_answer() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    for field in ["Connection: close", "connection: x, CLOSE", "Connection: close, keep-alive"] {
        let mut client = proxy.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n"));
        let response = client.read_response();
        assert!(response.list("Connection").contains(&"close"), "{response}");
        client.expect_orderly_close();
    }
    // The wish to close is the client's alone: the origin's connection was kept.
    assert_eq!(origin.seen().connections.len(), 1);
}

#[test]
fn an_old_client_is_closed_unless_it_asks_otherwise() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    proxy.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n").expect_status(200).expect_orderly_close();
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nHost: test\r\nConnection: Keep-Alive\r\n\r\n");
        let response = client.read_response();
        assert!(response.list("Connection").iter().any(|c| c.eq_ignore_ascii_case("keep-alive")));
    }
}

#[test]
fn a_refused_request_ends_its_connection_and_says_so() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send(GET);
    client.expect_status(200);
    let response = client.send("GET / HTTP/1.1\r\n\r\n").read_response();
    assert!(response.list("Connection").contains(&"close"), "{response}");
    client.expect_closed();
}

#[test]
fn empty_lines_between_requests_are_passed_over() {
    let origin = echoing();
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send("POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\nx\r\n");
    client.read_response().expect_body("/a x");
    client.send("\r\nGET /b HTTP/1.1\r\nHost: test\r\n\r\n").read_response().expect_body("/b ");
}

/// Three requests of different framing in one string, and the answers of an echoing origin.
fn pipeline(number: usize) -> (String, [String; 3]) {
    let requests = format!(
        "GET /get/{number} HTTP/1.1\r\nHost: test\r\n\r\n\
         POST /length/{number} HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nabcde\
         PUT /chunked/{number} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
         2;x\r\nab\r\n3\r\ncde\r\n0\r\nX-Sum: 5\r\n\r\n"
    );
    let answers = [
        format!("/get/{number} "),
        format!("/length/{number} abcde"),
        format!("/chunked/{number} abcde"),
    ];
    (requests, answers)
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = echoing();
    let proxy = Proxy::to(&origin);
    let pipelines: Vec<_> = (0..50).map(pipeline).collect();
    let requests: String = pipelines.iter().map(|(requests, _)| requests.as_str()).collect();
    let mut client = proxy.send(requests);
    for answer in pipelines.iter().flat_map(|(_, answers)| answers) {
        client.read_response().expect_status(200).expect_body(answer);
    }
}

#[test]
fn pipelined_requests_behind_a_close_are_not_served() {
    let origin = echoing();
    let proxy = Proxy::to(&origin);
    let closing = "GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    let mut client = proxy.send(format!("{closing}{GET}"));
    client.read_response().expect_body("/last ");
    client.expect_closed();
    origin.only_request();
}

#[test]
fn pipelined_requests_behind_a_bad_one_are_not_served() {
    let origin = echoing();
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send(format!("{GET}GET / HTTP/1.1\r\nHost : test\r\n\r\n{GET}"));
    client.expect_status(200).expect_status(400).expect_closed();
    origin.only_request();
}

#[test]
fn every_split_of_requests_gives_the_same_requests() {
    let origin = echoing();
    let proxy = Proxy::to(&origin);
    let (requests, answers) = pipeline(0);
    let mut client = proxy.connect();
    for at in 1..requests.len() {
        client.send(&requests[..at]).wait_until_read();
        client.send(&requests[at..]);
        for answer in &answers {
            client.read_response().expect_status(200).expect_body(answer);
        }
    }
    let seen = origin.seen();
    let (first, rest) = seen.requests.split_at(3);
    let essence = |request: &Message| (request.raw_head.clone(), request.trailers.clone());
    for (number, request) in rest.iter().enumerate() {
        let expected = essence(&first[number % 3]);
        assert_eq!(essence(request), expected, "split {} changed {request}", number / 3 + 2);
    }
}

#[test]
fn requests_may_come_byte_by_byte() {
    let origin = echoing();
    let proxy = Proxy::to(&origin);
    let (requests, answers) = pipeline(0);
    let mut client = proxy.connect();
    for byte in requests.as_bytes().chunks(1) {
        client.send(byte).wait_until_read();
    }
    for answer in &answers {
        client.read_response().expect_status(200).expect_body(answer);
    }
}

#[test]
fn every_split_of_a_bad_request_is_refused() {
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    let request = "GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n";
    for at in 1..request.len() {
        let mut client = proxy.connect();
        client.send(&request[..at]).wait_until_read();
        client.send(&request[at..]).expect_status(400).expect_closed();
    }
}

/// Answers that end in every way but with their connection.
const ANSWERS: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 5\r\n\r\nabcde",
    "HTTP/1.1 200 OK\r\nDate: today\r\nTransfer-Encoding: chunked\r\n\r\n\
     2;x\r\nab\r\n3\r\ncde\r\n0\r\nX-Sum: 5\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
     HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nDate: today\r\nContent-Length: 5\r\n\r\n",
];

/// Reads up to the final response and tells everything about both that must not change.
fn essence_of_answer(client: &mut support::Client) -> Vec<(String, Vec<u8>, String)> {
    let mut answers = Vec::new();
    loop {
        let answer = client.read_response();
        let is_final = answer.status() >= 200;
        let trailers = format!("{:?}", answer.trailers);
        answers.push((support::show(&answer.raw_head), answer.body, trailers));
        if is_final {
            return answers;
        }
    }
}

#[test]
fn every_split_of_an_answer_gives_the_same_answer() {
    for answer in ANSWERS {
        // The target says where to split.
        let origin = Origin::start(move |mut peer| {
            while let Some(request) = peer.next_request() {
                let at = request.target()[1..].parse().expect("a position");
                peer.send(&answer[..at]);
                peer.wait_until_read();
                peer.send(&answer[at..]);
            }
        });
        let proxy = Proxy::to(&origin);
        let mut client = proxy.connect();
        let mut ask = |at: usize| {
            client.send(format!("GET /{at} HTTP/1.1\r\nHost: test\r\n\r\n"));
            essence_of_answer(&mut client)
        };
        let whole = ask(answer.len());
        for at in 1..answer.len() {
            assert_eq!(ask(at), whole, "split at {at}");
        }
        assert_eq!(origin.seen().connections.len(), 1, "the connection was kept all along");
    }
}

#[test]
fn answers_may_come_byte_by_byte() {
    for answer in ANSWERS {
        let origin = Origin::start(move |mut peer| {
            while peer.next_request().is_some() {
                for byte in answer.as_bytes().chunks(1) {
                    peer.send(byte);
                    peer.wait_until_read();
                }
            }
        });
        let proxy = Proxy::to(&origin);
        let mut client = proxy.connect();
        let first = essence_of_answer(client.send(GET));
        assert_eq!(essence_of_answer(client.send(GET)), first);
    }
}

#[test]
fn heads_as_large_as_allowed_pass_in_both_directions() {
    // Larger than the buffer for heads, which has to grow for them.
    let cookie = "c".repeat(30_000);
    let origin = Origin::answering(format!(
        "HTTP/1.1 200 OK\r\nSet-Cookie: {cookie}\r\nContent-Length: 2\r\n\r\nok"
    ));
    let proxy = Setup::to(&origin).set("limits.head_bytes", "32KiB").start();
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: {cookie}\r\n\r\n"));
        client.read_response().expect_field("Set-Cookie", &cookie);
        client.send(GET).expect_status(200);
    }
    origin.seen().requests[0].expect_field("Cookie", &cookie);
}

#[test]
fn a_body_right_behind_a_head_is_not_taken_for_the_next_request() {
    let origin = echoing();
    let proxy = Proxy::to(&origin);
    let inner = "GET /inner HTTP/1.1\r\nHost: test\r\n\r\n";
    let length = inner.len();
    let outer = format!("POST /outer HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
    let mut client = proxy.send(format!("{outer}{inner}"));
    client.read_response().expect_body(format!("/outer {inner}"));
    client.expect_quiet_for(Duration::from_millis(20));
    origin.only_request();
}

#[test]
fn bytes_behind_an_answer_are_never_given_to_a_client() {
    let origin = Origin::answering(format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"));
    let proxy = Proxy::to(&origin);
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(GET).read_message(Expected::Response).expect("an answer").expect_body("ok");
    }
    client.expect_quiet_for(Duration::from_millis(20));
    // Whoever says more than it was asked is not asked again on that connection.
    assert_eq!(origin.seen().connections.len(), 3);
}

/// A head that comes again is not written again, but only for whom it was written.
#[test]
fn a_request_that_comes_again_is_written_for_the_origin_that_gets_it() {
    let dated = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
        Content-Length: 2\r\nKeep-Alive: timeout=5\r\n\r\nok";
    let origins = [Origin::answering(dated), Origin::answering(dated)];
    let urls = [origins[0].url(), origins[1].url()];
    let urls = [urls[0].as_str(), urls[1].as_str()];
    let proxy = Setup::new().upstream("both", &urls, "host = \"origin\"").start();
    let mut client = proxy.connect();
    let other = "GET /other HTTP/1.1\r\nHost: front\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    let with_body = "POST / HTTP/1.1\r\nHost: front\r\nContent-Length: 4\r\n\r\nbody";
    for text in [GET, GET, GET, GET, GET, other, GET, GET, other, other, other] {
        let response = client.send(text).read_response();
        response.expect_status(200).expect_body("ok").expect_no_field("Keep-Alive");
        response.expect_field("Date", "Sun, 06 Nov 1994 08:49:37 GMT");
    }
    for _ in 0..4 {
        client.send(with_body).read_response().expect_status(200).expect_body("ok");
    }
    // What has been sent for one body is not sent for another.
    client.send(with_body.replace("body", "next")).read_response().expect_status(200);
    for origin in &origins {
        let seen = origin.seen();
        assert!((7..=9).contains(&seen.requests.len()), "{}", seen.requests.len());
        for request in &seen.requests {
            let is_other = request.target() == "/other";
            let host = if is_other { "front" } else { request.field("X-Forwarded-Host").unwrap() };
            request.expect_field("Host", &origin.address().to_string());
            request
                .expect_field("X-Forwarded-For", "127.0.0.1")
                .expect_field("X-Forwarded-Host", host);
            assert!(!is_other || request.start == "GET /other HTTP/1.1");
        }
    }
    let bodies = |text: &str| {
        let seen = origins.iter().map(|origin| {
            origin.seen().requests.iter().filter(|request| request.text() == text).count()
        });
        seen.sum::<usize>()
    };
    assert_eq!((bodies("body"), bodies("next")), (4, 1));
}

#[test]
fn an_answer_that_comes_again_says_of_the_connection_what_is_true_now() {
    let dated = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
        Content-Length: 2\r\n\r\nok";
    let origin = Origin::answering(dated);
    let proxy = Proxy::to(&origin);
    let mut client = proxy.connect();
    let old = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    for _ in 0..3 {
        client.send(GET).read_response().expect_no_field("Connection");
        client.send(old).read_response().expect_field("Connection", "keep-alive");
    }
    for _ in 0..3 {
        client.send(old).read_response().expect_field("Connection", "keep-alive");
    }
    for _ in 0..3 {
        client.send(GET).read_response().expect_no_field("Connection").expect_body("ok");
    }
    let head = GET.replacen("GET", "HEAD", 1);
    for _ in 0..3 {
        client.send(&head).read_response_to_head().expect_field("Content-Length", "2");
        client.send(GET).read_response().expect_body("ok");
    }
    let last = GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    client.send(last).read_response().expect_field("Connection", "close").expect_body("ok");
    client.expect_orderly_close();
}
