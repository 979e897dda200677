//! Origins that are sloppy without being dangerous, servers that misread what they are sent, and
//! logins that belong to a connection.
//!
//! Comes in: answers as careless servers write them, requests with what such servers leave unread.
//! Goes out: an answer that every client reads alike, a count of what was mended, and an origin
//! that was never asked what nobody has asked for. Where a real server is needed that is not
//! installed, the test says so and does nothing.

use crate::support::{
    Daemon, Ending, Expected, GET, Home, OK, Origin, Proxy, Setup, free_address, installed,
    pattern, wait_until,
};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: test\r\n\r\n";

fn repairs(proxy: &Proxy, kind: &str) -> u64 {
    let text = proxy.admin("GET", "/metrics");
    let series = format!("ringway_origin_repairs_total{{kind=\"{kind}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(series.as_str()));
    line.unwrap_or_else(|| panic!("{series} is missing")).trim().parse().expect("a number")
}

/// What a careless server says, what of it is counted, and whether its connection is used again.
const SLOPPY: &[(&str, &str, bool)] = &[
    ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "bare_lf", false),
    ("HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok", "bare_lf", false),
    ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "empty_line", false),
    ("HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\nContent-Length: 2\r\n\r\nok", "folded_field", true),
    ("HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok", "space_before_colon", true),
    ("HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", "space_before_colon", false),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\n\r\nok", "folded_field", false),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "repeated_length",
        false,
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "repeated_length", false),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\n\r\n",
        "length_beside_coding",
        false,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "repeated_coding",
        false,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\n\r\n",
        "repeated_coding",
        false,
    ),
    (
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\n\r\n",
        "coding_in_http10",
        false,
    ),
    ("HTTP/1.1 999 Own\r\nContent-Length: 2\r\n\r\nok", "unknown_status", true),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2  \r\nok\r\n0 \r\n\r\n",
        "padded_chunk",
        false,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 9\r\n\
         X-Sum: 1\r\n\r\n",
        "forbidden_trailer",
        true,
    ),
];

#[test]
fn a_sloppy_answer_is_mended_counted_and_its_connection_not_trusted() {
    for &(answer, kind, is_kept) in SLOPPY {
        let origin = Origin::answering(answer);
        let proxy = Proxy::to(&origin);
        let mut client = proxy.send(GET);
        for _ in 0..2 {
            let response = client.read_message(Expected::Response).expect(answer);
            assert!(response.is_whole(), "{answer:?}: {response}");
            response.expect_body("ok");
            for name in ["Content-Length", "Transfer-Encoding"] {
                assert!(response.all(name).len() <= 1, "{answer:?}: {response}");
            }
            assert!(response.field("X").is_none_or(|x| ["a", "a b"].contains(&x)), "{response}");
            if !response.trailers.is_empty() {
                assert_eq!(response.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
            }
            assert_ne!(response.ending, Ending::Cut);
            client.send(GET);
        }
        client.read_response().expect_body("ok");
        // What of a body was mended is counted when that is over.
        wait_until(answer, || repairs(&proxy, kind) == 3);
        let connections = origin.seen().connections.len();
        assert_eq!(connections, if is_kept { 1 } else { 3 }, "{answer:?}");
    }
}

#[test]
fn a_sloppy_answer_is_the_same_however_it_arrives() {
    for &(answer, ..) in SLOPPY {
        let origin = Origin::start(move |mut peer| {
            if peer.next_request().is_some() {
                for byte in answer.as_bytes() {
                    peer.send([*byte]);
                }
            }
        });
        let proxy = Proxy::to(&origin);
        proxy.get().expect_body("ok");
        let old = proxy.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n").read_response();
        old.expect_body("ok").expect_no_field("Transfer-Encoding");
    }
}

#[test]
fn a_strict_upstream_takes_nothing_that_is_sloppy() {
    for &(answer, kind, _) in SLOPPY {
        let origin = Origin::answering(answer);
        let proxy = Setup::new().upstream("origin", &[&origin.url()], "strict = true").start();
        let response = proxy.send(GET).read_message(Expected::Response).expect(answer);
        let is_refused = response.status() == 502 || !response.is_whole();
        assert!(is_refused, "{answer:?}: {response}");
        assert_eq!(repairs(&proxy, kind), 0);
    }
}

#[test]
fn framing_fields_of_an_answer_without_a_body_are_ignored() {
    let fields = [
        "Transfer-Encoding: chunked",
        "Content-Length: 5",
        "Content-Length: 1\r\nContent-Length: 2",
    ];
    for field in fields {
        for status in [204, 304] {
            let origin = Origin::answering(format!("HTTP/1.1 {status} X\r\n{field}\r\n\r\n"));
            let proxy = Proxy::to(&origin);
            let mut client = proxy.send(GET);
            client.read_response().expect_status(status).expect_no_field("Transfer-Encoding");
            let second = client.send(GET).read_response();
            second.expect_status(status);
            let is_fact = status == 304 && field == "Content-Length: 5";
            assert_eq!(second.field("Content-Length"), is_fact.then_some("5"), "{second}");
            assert_eq!(repairs(&proxy, "bodiless_framing"), if is_fact { 0 } else { 2 }, "{field}");
            assert_eq!(origin.seen().connections.len(), if is_fact { 1 } else { 2 }, "{field}");
        }
    }
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let origin = Origin::answering(format!("{hints}{OK}"));
    let mut client = Proxy::to(&origin).send(GET);
    client.read_response_to_head().expect_status(103).expect_no_field("Transfer-Encoding");
    client.read_response().expect_body("ok");
}

#[test]
fn what_could_be_two_answers_is_refused_and_named_in_the_log() {
    let cases = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "more than one Con",
        ),
        ("HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", "CR without LF"),
        ("SSH-2.0-OpenSSH_9.6\r\n", "invalid version"),
    ];
    for (format, escape) in [("text", "\\\\r\\\\n"), ("json", "\\\\r\\\\n")] {
        for (answer, reason) in cases {
            let origin = Origin::answering(answer);
            let setup = Setup::to(&origin).set("log.access", true).set("log.level", "debug");
            let proxy = setup.set("log.access_format", format).start();
            proxy.get().expect_own_error(502, "Bad Gateway", "http_protocol_error");
            let begin = answer.split("\r\n").next().unwrap();
            let line = proxy.wait_for_log(&["origin_bad_head", "details", reason, begin, escape]);
            assert!(!line.contains('\r'), "{line}");
            proxy.wait_for_log(&["the head of an origin's answer is refused", reason, begin]);
        }
    }
}

#[test]
fn answers_have_room_for_many_and_large_fields() {
    let many = "X: y\r\n".repeat(250);
    let large = format!("X: {}\r\n", "y".repeat(60_000));
    for fields in [many, large] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok");
        let origin = Origin::answering(answer);
        Proxy::to(&origin).get().expect_body("ok");
    }
    let origin = Origin::answering(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(70_000)));
    Proxy::to(&origin).get().expect_status(502);
}

#[test]
fn a_flood_of_interim_answers_ends_the_exchange_and_a_slow_row_does_not() {
    let interim = "HTTP/1.1 102 Processing\r\n\r\n";
    let flood = Origin::answering(interim.repeat(40) + OK);
    let mut client = Proxy::to(&flood).send(GET);
    let mut last = client.read_response_to_head().status();
    while last == 102 {
        last = client.read_response_to_head().status();
    }
    assert_eq!(last, 502);
    let row = Origin::start(move |mut peer| {
        peer.expect_request();
        for _ in 0..20 {
            peer.send(interim);
            std::thread::sleep(Duration::from_millis(300));
        }
        peer.send(OK);
    });
    let mut client = Proxy::to(&row).send(GET);
    for _ in 0..20 {
        client.read_response_to_head().expect_status(102);
    }
    client.read_response().expect_body("ok");
}

#[test]
fn a_target_is_sent_in_the_form_that_every_server_takes() {
    let targets: [(&[u8], &str); 4] = [
        (b"/caf\xc3\xa9?q=\xff", "/caf%C3%A9?q=%FF"),
        (b"/a#b?c", "/a"),
        (b"/#", "/"),
        (b"http://test/\xe9#x", "/%E9"),
    ];
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    for (target, sent) in targets {
        let request = [b"GET ", target, b" HTTP/1.1\r\nHost: test\r\n\r\n"].concat();
        proxy.send(&request).expect_status(200).send(GET).expect_status(200);
        let seen = origin.seen();
        let asked = &seen.requests[seen.requests.len() - 2];
        assert_eq!(asked.target(), sent);
    }
    let empty = proxy.send("GET / HTTP/1.1\r\nHost: test\r\nExpect:\r\n\r\n").read_response();
    empty.expect_status(200);
    origin.seen().requests.last().expect("a request").expect_no_field("Expect");
}

/// As an old server does: takes bodies by their length and chunks, and leaves trailers and
/// extensions where they are, as a part of what comes next.
#[test]
fn a_server_that_leaves_trailers_unread_never_gets_to_read_another_request() {
    let origin = Origin::start(|mut peer| {
        while let Some(mut request) = peer.read_head() {
            assert_ne!(request.target(), "/admin");
            peer.read_body(&mut request, Expected::Request);
            assert!(request.trailers.is_empty(), "{request}");
            peer.send(OK);
        }
    });
    let proxy = Proxy::to(&origin);
    let head =
        "POST / HTTP/1.1\r\nHost: test\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extension = "e".repeat(99);
    let smuggled = "X-Sum: GET /admin HTTP/1.1\r\nX: y\r\n";
    let body = format!("5;ext={extension}\r\nabcde\r\n0;last\r\n{smuggled}\r\n");
    // In one piece, and in pieces that the upload has to deal with.
    for pieces in [1, 7, body.len()] {
        let mut client = proxy.send(head);
        for piece in body.as_bytes().chunks(body.len().div_ceil(pieces)) {
            client.send(piece);
        }
        client.expect_status(200).send(GET).expect_status(200);
    }
    let bytes = String::from_utf8_lossy(&origin.seen().bytes()).into_owned();
    for part in ["/admin", "X-Sum", "Trailer", "ext=", "0;last"] {
        assert!(!bytes.contains(part), "{part} in {bytes}");
    }
    assert_eq!(bytes.matches("5\r\nabcde\r\n0\r\n\r\n").count(), 3, "{bytes}");
}

#[test]
fn trailers_go_on_to_an_upstream_that_reads_them() {
    let origin = Origin::answering(OK);
    let proxy = Setup::new().upstream("origin", &[&origin.url()], "pass_trailers = true").start();
    let mut client = proxy.send(
        "POST / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nabcde\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    client.expect_status(200);
    let request = origin.only_request();
    request.expect_field("TE", "trailers").expect_field("Connection", "TE");
    request.expect_field("Trailer", "X-Sum").expect_body("abcde");
    assert_eq!(request.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
    assert!(String::from_utf8_lossy(&origin.seen().bytes()).contains("5;a=b\r\n"));
}

#[test]
fn a_connection_that_has_carried_a_body_with_get_is_not_used_again() {
    for method in ["GET", "HEAD", "DELETE"] {
        for (more, connections) in [("", 2), ("reads_all_bodies = true", 1)] {
            let origin = Origin::start(|mut peer| {
                while let Some(request) = peer.next_request() {
                    peer.send(if request.method() == "HEAD" {
                        OK.trim_end_matches("ok")
                    } else {
                        OK
                    });
                }
            });
            let proxy = Setup::new().upstream("origin", &[&origin.url()], more).start();
            let mut client = proxy.send(format!(
                "{method} / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc{GET}"
            ));
            match method {
                "HEAD" => client.read_response_to_head().expect_status(200),
                _ => client.read_response().expect_status(200),
            };
            client.expect_status(200);
            let seen = origin.seen();
            assert_eq!(seen.connections.len(), connections, "{method} {more}");
            let said = seen.requests[0].field("Connection");
            assert_eq!(said, (connections == 2).then_some("close"), "{method} {more}");
        }
    }
}

const CHALLENGE: &str =
    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";

/// Says who is logged in on the connection, as IIS does: whoever has once sent credentials on it.
fn by_connection() -> Origin {
    Origin::start(|mut peer| {
        let mut user = None;
        while let Some(request) = peer.next_request() {
            if let Some(login) = request.field("Authorization") {
                user = Some(login.rsplit(' ').next().unwrap_or_default().to_owned());
            }
            match &user {
                Some(user) => peer.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user}",
                    user.len()
                )),
                None => peer.send(CHALLENGE),
            }
        }
    })
}

#[test]
fn a_login_belongs_to_the_client_connection_that_has_made_it() {
    for scheme in ["NTLM", "Negotiate"] {
        let origin = by_connection();
        let proxy = Proxy::to(&origin);
        let login = |user| {
            format!("GET / HTTP/1.1\r\nHost: test\r\nAuthorization: {scheme} {user}\r\n\r\n")
        };
        let mut ann = proxy.send(GET);
        ann.expect_status(401);
        ann.send(login("ann")).read_response().expect_body("ann");
        let mut stranger = proxy.send(GET);
        stranger.expect_status(401);
        // One that begins by itself, on a connection that nobody was challenged on.
        let mut bob = proxy.send(login("bob"));
        bob.read_response().expect_body("bob");
        stranger.send(GET).expect_status(401);
        for _ in 0..2 {
            ann.send(GET).read_response().expect_body("ann");
            bob.send(GET).read_response().expect_body("bob");
            proxy.send(GET).expect_status(401);
        }
        drop((ann, bob, stranger));
        origin.wait_for("the end of what was theirs", |seen| seen.open() == 0);
    }
}

#[test]
fn a_login_is_no_other_client_s_behind_a_proxy_that_brings_many() {
    let origin = by_connection();
    let proxy = Setup::to(&origin).set("server.trusted_proxies", ["127.0.0.0/8"]).start();
    let mut balancer = proxy.connect();
    let mut ask = |client: &str, login: &str| {
        let lines = format!("X-Forwarded-For: {client}\r\n{login}");
        balancer.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{lines}\r\n")).read_response()
    };
    ask("192.0.2.1", "Authorization: NTLM ann\r\n").expect_body("ann");
    for _ in 0..2 {
        ask("192.0.2.2", "").expect_status(401);
        ask("192.0.2.1", "").expect_body("ann");
    }
}

#[test]
fn a_login_that_is_copied_to_a_mirror_or_an_authority_is_nobody_else_s_there() {
    let (app, aside) = (Origin::answering(OK), by_connection());
    let login = "GET / HTTP/1.1\r\nHost: test\r\nAuthorization: NTLM ann\r\n\r\n";
    let asked = "hooks = { forward_auth = { upstream = \"aside\" } }";
    let mirrored = "hooks = { mirror = { upstream = \"aside\" } }";
    for hooks in [asked, mirrored] {
        let before = aside.seen().requests.len();
        let setup = Setup::to(&app).upstream("aside", &[&aside.url()], "");
        let proxy = setup.route("", "/", "origin", hooks).route("", "/aside", "aside", "").start();
        proxy.send(login).expect_status(200);
        aside.wait_for("the login", |seen| seen.requests.len() == before + 1);
        aside.wait_for("the end of its connection", |seen| seen.open() == 0);
        proxy.send("GET /aside HTTP/1.1\r\nHost: test\r\n\r\n").expect_status(401);
    }
}

#[test]
fn a_login_at_rest_makes_room_for_somebody_who_waits() {
    let origin = by_connection();
    let proxy = Setup::to(&origin).set("pool.max_connections", 1).start();
    let login = "GET / HTTP/1.1\r\nHost: test\r\nAuthorization: NTLM ann\r\n\r\n";
    let mut ann = proxy.send(login);
    ann.read_response().expect_body("ann");
    proxy.send(GET).expect_status(401);
    // Hers has gone, and nobody is taken for her.
    ann.send(GET).expect_status(401);
}

#[test]
fn an_origin_that_closes_without_a_word_is_passed_over_once() {
    let mute = Origin::start(|mut peer| drop(peer.read_head()));
    let good = Origin::answering(OK);
    let urls = [mute.url(), good.url()];
    let urls = urls.each_ref().map(String::as_str);
    let proxy = Setup::new().upstream("two", &urls, "").start();
    for _ in 0..6 {
        proxy.get().expect_body("ok");
    }
    assert!(mute.seen().connections.len() <= 1, "it has been marked");
    let proxy = Setup::new().upstream("two", &urls, "fail_timeout = 0").start();
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\na";
    let statuses: Vec<_> = (0..4).map(|_| proxy.send(post).read_response().status()).collect();
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
    for _ in 0..4 {
        proxy.get().expect_body("ok");
    }
    let proxy = Setup::new().upstream("one", &[&mute.url()], "").start();
    proxy.get().expect_own_error(502, "Bad Gateway", "connection_terminated");
}

#[test]
fn a_retry_policy_counts_the_attempt_at_another_origin() {
    let mute = || Origin::start(|mut peer| drop(peer.read_head()));
    let (one, other) = (mute(), mute());
    let urls = [one.url(), other.url()];
    let urls = urls.each_ref().map(String::as_str);
    let hooks = "hooks = { retry = { attempts = 3, budget_percent = 100 } }";
    let setup = Setup::new().upstream("two", &urls, "fail_timeout = 0");
    let proxy = setup.route("", "/", "two", hooks).start();
    proxy.get().expect_own_error(502, "Bad Gateway", "connection_terminated");
    let asked = one.seen().connections.len() + other.seen().connections.len();
    assert!((2..=4).contains(&asked), "{asked} attempts");
}

#[test]
fn via_is_for_the_forward_proxy_unless_it_is_told_otherwise() {
    let origin = Origin::answering(OK);
    for (add_via, reverse, forward) in
        [("forward", false, true), ("both", true, true), ("off", false, false)]
    {
        let proxy = Setup::forward()
            .upstream("origin", &[&origin.url()], "")
            .set("server.add_via", add_via)
            .start();
        let absolute = format!("GET {}/ HTTP/1.1\r\nHost: x\r\n\r\n", origin.url());
        for (request, is_told) in [(GET, reverse), (absolute.as_str(), forward)] {
            for _ in 0..2 {
                let response = proxy.send(request).read_response();
                assert_eq!(response.field("Via"), is_told.then_some("1.1 ringway"), "{add_via}");
                let seen = origin.seen();
                let asked = seen.requests.last().expect("a request");
                assert_eq!(asked.field("Via"), is_told.then_some("1.1 ringway"), "{add_via}");
                let is_reverse = request == GET;
                assert_eq!(asked.field("CDN-Loop"), is_reverse.then_some("ringway"));
            }
        }
    }
}

#[test]
fn proxies_that_are_each_others_upstream_or_parent_end_a_request() {
    let address = free_address();
    for is_forward in [false, true] {
        let to = |url: &str| {
            if is_forward {
                Setup::forward().parent("other", url, "")
            } else {
                Setup::new().upstream("other", &[url], "")
            }
        };
        let one = to(&format!("http://{address}")).set("server.via", "one").start();
        let other = to(&format!("http://{}", one.address()))
            .set("server.via", "other")
            .set("server.port", address.port())
            .start();
        let requests: &[&str] = if is_forward {
            &[
                "GET http://far.test/ HTTP/1.1\r\nHost: far.test\r\n\r\n",
                "CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n\r\n",
            ]
        } else {
            &[GET]
        };
        for request in requests {
            let response = one.send(request).read_response();
            response.expect_status(508);
            let status = response.field("Proxy-Status").expect("who has ended it");
            assert!(status.ends_with("error=proxy_loop_detected"), "{response}");
        }
        drop((one, other));
    }
    // Several in a row are no loop.
    let origin = Origin::answering(OK);
    let mut row = vec![Setup::to(&origin).start()];
    for _ in 0..4 {
        row.push(Setup::to_url(&format!("http://{}", row[row.len() - 1].address())).start());
    }
    row[4].get().expect_body("ok");
    assert_eq!(origin.only_request().list("CDN-Loop").len(), 5);
}

/// A real server in a process of its own.
struct Server {
    _daemon: Daemon,
    address: SocketAddr,
    _home: Home,
}

impl Server {
    fn start(program: &str, script: &str) -> Option<Self> {
        let program = installed(program)?;
        let (home, address) = (Home::new(), free_address());
        let script = home.write("server", script);
        let mut command = Command::new(program);
        command.arg(script).arg(address.port().to_string());
        Some(Self { _daemon: Daemon::at(address, command), address, _home: home })
    }
}

/// Python's own server leaves unread what its handler does not ask for.
const PYTHON: &str = "
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
asked = []
class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        asked.append(self.path)
        text = ' '.join(asked).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    do_DELETE = do_GET
    def log_message(self, *args):
        pass
ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

#[test]
fn python_that_reads_no_body_is_asked_nothing_that_hides_in_one() {
    let Some(server) = Server::start("python3", PYTHON) else { return };
    let proxy = Setup::to_url(&format!("http://{}", server.address)).start();
    let hidden = "GET /admin HTTP/1.1\r\nHost: test\r\n\r\n";
    for method in ["GET", "DELETE"] {
        let mut client = proxy.send(format!(
            "{method} /open HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{hidden}",
            hidden.len()
        ));
        client.expect_status(200);
        let told = client.send(GET).read_response().text();
        assert!(!told.contains("/admin"), "{told}");
    }
}

const NODE: &str = "
require('http').createServer((request, response) => {
    let bytes = 0;
    request.on('data', (part) => { bytes += part.length; });
    request.on('end', () => {
        response.setHeader('X-Bytes', bytes);
        if (request.method === 'HEAD') return response.end();
        response.setHeader('Trailer', 'X-Sum');
        response.write('a'.repeat(100000));
        response.addTrailers({ 'X-Sum': '1' });
        response.end();
    });
}).listen(Number(process.argv[2]), '127.0.0.1');
";

#[test]
fn node_reads_what_has_been_stripped_of_extensions_and_trailers() {
    let Some(server) = Server::start("node", NODE) else { return };
    let proxy = Setup::to_url(&format!("http://{}", server.address)).start();
    let payload = String::from_utf8(pattern(30_000)).unwrap_or_else(|_| "x".repeat(30_000));
    let mut body = String::new();
    for piece in payload.as_bytes().chunks(1_000) {
        let piece = String::from_utf8_lossy(piece);
        write!(body, "{:x};n=v\r\n{piece}\r\n", piece.len()).unwrap();
    }
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(format!("{body}0\r\nX-Sum: 1\r\n\r\n"));
        let response = client.read_response();
        response.expect_status(200).expect_field("X-Bytes", "30000");
        assert_eq!(response.body.len(), 100_000);
        assert_eq!(response.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
    }
    client.send(HEAD);
    client.read_response_to_head().expect_status(200);
}
