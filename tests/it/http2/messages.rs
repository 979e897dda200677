//! What a request of HTTP/2 becomes for an origin of HTTP/1.1, and its answer for the client.
//!
//! Comes in: frames of a scripted client. Goes out: frames to it, and what the origin got.

use crate::support::h2::*;
use crate::support::{Message, OK, Origin, Proxy, Setup};

/// What an origin gets for a request.
#[track_caller]
fn arrived(fields: &[(&str, &str)]) -> Message {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.send(headers(1, END_STREAM, fields));
    client.read_answer(1).expect_status(200).expect_body("ok");
    origin.only_request()
}

#[track_caller]
fn answered(response: &str, method: &str) -> Answer {
    let origin = Origin::answering(response);
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    client.send(headers(1, END_STREAM, &request(method, "/")));
    let answer = client.read_answer(1);
    client.expect_alive();
    answer
}

#[test]
fn a_request_is_one_of_http_1_1_for_its_origin() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("server.add_via", "both").start();
    let mut client = H2Client::connect(proxy.address());
    let fields = [request("GET", "/a?b=c"), vec![("x-a", "1"), ("te", "trailers")]].concat();
    client.send(headers(1, END_STREAM, &fields));
    client.read_answer(1).expect_status(200).expect_body("ok");
    let request = origin.only_request();
    assert_eq!(request.start, "GET /a?b=c HTTP/1.1");
    request.expect_field("Host", "test").expect_field("x-a", "1");
    request.expect_no_field("Transfer-Encoding").expect_no_field("Content-Length");
    request.expect_field("Via", "2.0 ringway");
}

#[test]
fn crumbs_of_cookies_are_one_field() {
    let crumbs = vec![("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("cookie", "c=3")];
    arrived(&[request("GET", "/"), crumbs].concat()).expect_field("Cookie", "a=1; b=2; c=3");
}

#[test]
fn the_authority_is_the_host() {
    let without = |more: &[(&'static str, &'static str)]| {
        let base = vec![(":method", "GET"), (":scheme", "http"), (":path", "/")];
        [base, more.to_vec()].concat()
    };
    arrived(&without(&[(":authority", "a.test")])).expect_field("Host", "a.test");
    arrived(&without(&[("host", "b.test")])).expect_field("Host", "b.test");
    arrived(&without(&[(":authority", "a.test"), ("host", "a.test")]))
        .expect_field("Host", "a.test");
}

#[test]
fn a_request_of_two_minds_about_its_host_or_of_none_reaches_nobody() {
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    let base = vec![(":method", "GET"), (":scheme", "http"), (":path", "/")];
    let differs = vec![(":authority", "a.test"), ("host", "b.test")];
    // User information has no place there (RFC 9113 §8.3.1).
    let user = vec![(":authority", "a@b.test")];
    for (stream, more) in [(1, differs), (3, vec![]), (5, user)] {
        client.send(headers(stream, END_STREAM, &[base.clone(), more].concat()));
        let answer = client.read_answer(stream);
        let is_refused = answer.status == 400 || answer.reset == Some(PROTOCOL_ERROR);
        assert!(is_refused, "{answer:?}");
    }
    client.expect_alive();
}

#[test]
fn an_answer_has_no_field_of_a_connection() {
    let answer = answered(
        "HTTP/1.1 200 Fine\r\nConnection: keep-alive, x-hop\r\nKeep-Alive: timeout=5\r\n\
         X-Hop: 1\r\nUpgrade: h2c\r\nServer: a\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\n\
         Set-Cookie: b=2\r\n\r\nok",
        "GET",
    );
    answer.expect_status(200).expect_body("ok").expect_field("server", "a");
    for name in ["connection", "keep-alive", "x-hop", "upgrade", "transfer-encoding"] {
        assert_eq!(answer.field(name), None, "{answer:?}");
    }
    assert!(answer.fields.iter().all(|(name, _)| *name == name.to_ascii_lowercase()));
    assert_eq!(answer.fields.iter().filter(|(name, _)| name == "set-cookie").count(), 2);
}

#[test]
fn what_has_no_body_ends_with_its_head() {
    let head = answered("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD");
    head.expect_status(200).expect_body("").expect_field("content-length", "5");
    answered("HTTP/1.1 204 No Content\r\n\r\n", "GET").expect_status(204).expect_body("");
    answered("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"a\"\r\n\r\n", "GET")
        .expect_status(304)
        .expect_body("");
    answered("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET").expect_body("");
    answered("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET")
        .expect_body("");
}

#[test]
fn interim_answers_come_before_the_answer() {
    let answer = answered(
        &format!(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n{OK}"
        ),
        "GET",
    );
    answer.expect_status(200).expect_body("ok");
    assert_eq!(answer.interim, [103, 102]);
}

#[test]
fn a_client_that_waits_for_leave_to_send_gets_it() {
    let origin = Origin::start(|mut peer| {
        let mut request = peer.expect_head();
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        peer.read_body(&mut request, crate::support::Expected::Request);
        request.expect_body("hello");
        peer.send(OK);
        peer.hold();
    });
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    let more = vec![("expect", "100-continue"), ("content-length", "5")];
    client.send(headers(1, 0, &[request("POST", "/"), more].concat()));
    let mut answer = Answer::default();
    answer.take(&client.find_of(1));
    assert_eq!(answer.interim, [100]);
    client.send(frame(DATA, END_STREAM, 1, b"hello"));
    client.read_answer(1).expect_status(200).expect_body("ok");
}

#[test]
fn many_requests_at_once_are_answered_each_by_its_own() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            let body = request.target().to_owned();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    for round in 0..5 {
        let ids = (0..100).map(|at| (round * 100 + at) * 2 + 1);
        let requests: Vec<_> = ids.clone().map(|id| get(id, &format!("/{id}"))).collect();
        client.send(requests.concat());
        for id in ids {
            client.read_answer(id).expect_status(200).expect_body(format!("/{id}"));
        }
    }
}

#[test]
fn a_head_that_is_too_large_is_431_and_the_connection_goes_on() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("limits.head_bytes", 4096).start();
    let mut client = H2Client::connect(proxy.address());
    let long = "a".repeat(7_000);
    client.send(headers(1, END_STREAM, &[request("GET", "/"), vec![("x-a", &long)]].concat()));
    client.read_answer(1).expect_status(431);
    client.get(3, "/").expect_status(200);
}

/// They had neither a line in the access log nor a word of why.
#[test]
fn a_head_that_is_refused_has_an_answer_of_its_own_and_a_line() {
    let origin = Origin::answering(OK);
    let setup = Setup::to(&origin).set("log.access", true).set("limits.head_bytes", 4096);
    let proxy = setup.set("limits.header_count", 10).start();
    let mut client = H2Client::connect(proxy.address());
    let long = "a".repeat(7_000);
    let many = (0..20).map(|_| ("x-a", "b")).collect::<Vec<_>>();
    let other = [request("CONNECT", "/"), vec![(":protocol", "connect-udp")]].concat();
    let heads = [
        ([request("GET", "/"), vec![("x-a", &*long)]].concat(), 431, "head too large"),
        ([request("POST", "/"), many].concat(), 431, "too many fields"),
        (other, 501, "unsupported protocol"),
    ];
    for (stream, (fields, status, why)) in (1..).step_by(2).zip(heads) {
        // The body of one is still to come.
        let flags = if status == 431 && stream == 1 { END_STREAM } else { 0 };
        client.send(headers(stream, flags, &fields));
        let answer = client.read_answer(stream);
        answer.expect_status(status);
        assert!(!answer.body.is_empty(), "{answer:?}");
        let said = format!("ringway; error=http_request_error; details=\"{why}\"");
        answer.expect_field("proxy-status", &said);
        let (status, stream) = (format!("status={status}"), format!("stream={stream}"));
        proxy.wait_for_log(&[&*status, &*stream, why]);
    }
    // A HEAD has no body, whoever answers it.
    client.send(headers(9, END_STREAM, &[request("HEAD", "/"), vec![("x-a", &*long)]].concat()));
    let answer = client.read_answer(9);
    answer.expect_status(431).expect_body("");
    proxy.wait_for_log(&["status=431", "stream=9"]);
    client.get(11, "/").expect_status(200);
}

/// Only a counter knew of them.
#[test]
fn what_is_refused_by_frames_has_a_line() {
    const PROTOCOL_ERROR: u32 = 1;
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("log.access", true).start();
    let mut client = H2Client::connect(proxy.address());
    client.send(headers(
        1,
        END_STREAM,
        &[request("GET", "/"), vec![("connection", "close")]].concat(),
    ));
    client.expect_reset(1, PROTOCOL_ERROR);
    proxy.wait_for_log(&["status=0", "stream=1", "malformed HTTP/2 head"]);
    client.get(3, "/").expect_status(200);
    client.send(frame(DATA, 0, 0, b"")).expect_failure(PROTOCOL_ERROR);
    proxy.wait_for_log(&["status=0", "HTTP/2 protocol error"]);
}

#[test]
fn errors_of_our_own_are_answers() {
    let origin = Origin::answering_and_closing("");
    let proxy = Proxy::to(&origin);
    let mut client = H2Client::connect(proxy.address());
    let answer = client.get(1, "/");
    answer.expect_status(502);
    assert!(answer.field("proxy-status").is_some_and(|it| it.starts_with("ringway")), "{answer:?}");
    assert_eq!(answer.field("connection"), None);
    client.expect_alive();
}

#[test]
fn a_login_by_the_connection_is_asked_for_in_http_1() {
    const HTTP_1_1_REQUIRED: u32 = 13;
    let challenge = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\n\
                     WWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";
    let origin = Origin::answering(challenge);
    let proxy = Setup::to(&origin).set("log.access", true).start();
    let mut client = H2Client::connect(proxy.address());
    client.send(get(1, "/")).expect_reset(1, HTTP_1_1_REQUIRED);
    proxy.wait_for_log(&["needs_http1"]);
    assert_eq!(origin.seen().requests.len(), 1);
    // Who begins by itself reaches no origin: it will ask again, and nothing is to be done twice.
    for (stream, scheme) in [(3, "NTLM abc"), (5, "Negotiate abc")] {
        let fields = [request("POST", "/"), vec![("authorization", scheme)]].concat();
        client.send(headers(stream, END_STREAM, &fields)).expect_reset(stream, HTTP_1_1_REQUIRED);
    }
    assert_eq!(origin.seen().requests.len(), 1);
    let fields = [request("GET", "/"), vec![("authorization", "Basic YTpi")]].concat();
    client.send(headers(7, END_STREAM, &fields)).expect_reset(7, HTTP_1_1_REQUIRED);
    assert_eq!(origin.seen().requests.len(), 2);
    client.expect_alive();
}

#[test]
fn a_login_by_request_is_answered_in_http_2() {
    let challenge = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=a\r\n\
                     Content-Length: 0\r\n\r\n";
    answered(challenge, "GET").expect_status(401);
}
