//! Upgrades: a tunnel that an origin grants with 101, in both modes of the proxy.
//!
//! Only the origin's 101 makes a tunnel, and only of what the client asked for. Until then a
//! request is a request: any other answer is delivered like any other, and bytes that a client
//! sends too early are never handed to anybody (RFC 9110 §7.8, RFC 6455 §4.1). Each test runs
//! against a route and against a forward target.

use crate::support::{
    Arrival, Client, GET, Message, OK, Origin, Proxy, Setup, Target, Wire, get, logged, pattern,
    wait_until,
};
use nix::sys::signal::Signal;
use std::thread;
use std::time::Duration;

const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x/1\r\n\r\n";

/// The fields that ask for it.
const OFFER: &str = "Connection: Upgrade\r\nUpgrade: x/1\r\n";

/// Whether the origin stands behind a route or is what the client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Reverse,
    Forward,
}

const MODES: [Mode; 2] = [Mode::Reverse, Mode::Forward];

impl Mode {
    fn setup(self, origin: impl std::fmt::Display) -> Setup {
        match self {
            Self::Reverse => Setup::to_url(&format!("http://{origin}")),
            Self::Forward => Setup::forward(),
        }
    }

    /// A request of the origin for `path`, with further fields.
    fn request(self, origin: impl std::fmt::Display, path: &str, fields: &str) -> String {
        let target = match self {
            Self::Reverse => path.to_owned(),
            Self::Forward => format!("http://{origin}{path}"),
        };
        format!("GET {target} HTTP/1.1\r\nHost: {origin}\r\n{fields}\r\n")
    }
}

/// Both ends of an upgraded connection.
#[track_caller]
fn upgraded(mode: Mode, proxy: &Proxy, target: &Target) -> (Client, Wire) {
    let mut client = proxy.send(mode.request(target.address(), "/chat", OFFER));
    let mut far = target.accept();
    far.read_head().expect("a request");
    far.send(SWITCHING);
    expect_switch(&mut client);
    (client, far)
}

/// The head of the answer that makes the connection a tunnel.
#[track_caller]
fn expect_switch(client: &mut Client) {
    let answer = client.read_head().expect("an answer");
    answer.expect_status(101).expect_field("Connection", "upgrade").expect_field("Upgrade", "x/1");
    answer.expect_no_field("Content-Length").expect_no_field("Transfer-Encoding");
}

#[track_caller]
fn talk(client: &mut Client, far: &mut Wire) {
    client.send("to the origin");
    far.expect_stream(b"to the origin");
    far.send("to the client");
    client.expect_stream(b"to the client");
}

#[test]
fn an_upgrade_that_the_origin_grants_is_a_tunnel() {
    for mode in MODES {
        let target = Target::new();
        let proxy = mode.setup(target.address()).start();
        let fields = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
        let mut client = proxy.send(mode.request(target.address(), "/chat", fields));
        let mut far = target.accept();
        let request = far.read_head().expect("a request");
        assert_eq!(request.start, "GET /chat HTTP/1.1");
        request.expect_field("Upgrade", "WebSocket").expect_field("Connection", "upgrade");
        request.expect_field("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        request.expect_field("Sec-WebSocket-Version", "13");
        assert_eq!(request.field("Via").is_some(), matches!(mode, Mode::Forward), "{request}");
        far.send(
            "HTTP/1.1 101 Web Socket\r\nUpgrade: websocket\r\nconnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX: y\r\n\r\n",
        );
        let answer = client.read_head().expect("an answer");
        assert_eq!(answer.start, "HTTP/1.1 101 Web Socket");
        answer.expect_field("Upgrade", "websocket").expect_field("Connection", "upgrade");
        answer.expect_field("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        answer.expect_field("X", "y");
        talk(&mut client, &mut far);
        for bytes in [GET, OK, "\0\u{ff}"] {
            client.send(bytes);
            far.expect_stream(bytes.as_bytes());
        }
        client.half_close();
        far.expect_end(Arrival::End);
        far.send("the last");
        drop(far);
        client.expect_stream(b"the last");
        client.expect_orderly_close();
    }
}

#[test]
fn what_the_origin_says_behind_its_101_follows_it() {
    for mode in MODES {
        let origin = Origin::start(|mut peer| {
            peer.expect_request();
            peer.send(SWITCHING.to_owned() + "welcome");
            peer.echo();
        });
        let proxy = mode.setup(origin.address()).start();
        for _ in 0..20 {
            let mut client = proxy.send(mode.request(origin.address(), "/", OFFER));
            expect_switch(&mut client);
            client.expect_stream(b"welcome");
            client.send("hello").expect_stream(b"hello");
        }
    }
}

#[test]
fn much_passes_both_ways_through_an_upgraded_connection() {
    const EACH: usize = 30_000_000;
    let bytes = pattern(EACH + 1_000);
    let (up, down) = (&bytes[..EACH], &bytes[1_000..]);
    let stream = |wire: &mut Wire, own: &[u8], other: &[u8]| {
        let mut sender = wire.another_handle();
        thread::scope(|scope| {
            scope.spawn(move || {
                sender.send(own);
                sender.half_close();
            });
            wire.expect_stream(other);
            wire.expect_end(Arrival::End);
        });
    };
    for mode in MODES {
        let target = Target::new();
        let proxy = mode.setup(target.address()).start();
        let (mut client, mut far) = upgraded(mode, &proxy, &target);
        thread::scope(|scope| {
            scope.spawn(|| stream(&mut far, down, up));
            stream(&mut client, up, down);
        });
    }
}

#[test]
fn any_other_answer_is_an_answer() {
    for mode in MODES {
        for (status, more) in [
            ("200 OK", ""),
            ("426 Upgrade Required", "Connection: upgrade\r\nUpgrade: y/2\r\n"),
            ("404 Not Found", "Connection: upgrade\r\nUpgrade: x/1\r\n"),
            ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"a\"\r\n"),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\n{more}Content-Length: 2\r\n\r\nok");
            let origin = Origin::answering(answer);
            let proxy = mode.setup(origin.address()).start();
            let mut client = proxy.connect();
            for _ in 0..2 {
                client.send(mode.request(origin.address(), "/", OFFER));
                let response = client.read_response();
                response.expect_body("ok");
                assert_eq!(response.start, format!("HTTP/1.1 {status}"));
            }
            // Both sides go on as after any other request.
            client.send(mode.request(origin.address(), "/", "")).read_response();
            assert_eq!(origin.seen().connections.len(), 1);
        }
    }
}

#[test]
fn a_request_behind_an_upgrade_that_was_not_granted_is_a_request() {
    for mode in MODES {
        let origin = Origin::answering(OK);
        let proxy = mode.setup(origin.address()).start();
        let offer = mode.request(origin.address(), "/one", OFFER);
        let mut client = proxy.send(offer + &mode.request(origin.address(), "/two", ""));
        client.expect_status(200).expect_status(200);
        let seen = origin.seen();
        let targets: Vec<_> = seen.requests.iter().map(Message::target).collect();
        assert_eq!(targets, ["/one", "/two"]);
    }
}

#[test]
fn what_a_client_sends_too_early_reaches_nobody() {
    for mode in MODES {
        for is_together in [true, false] {
            let target = Target::new();
            let proxy = mode.setup(target.address()).start();
            // It could be the new protocol, or a request that hides behind the first one.
            let early = mode.request(target.address(), "/hidden", "");
            let offer = mode.request(target.address(), "/", OFFER);
            let mut client = proxy.connect();
            let mut far = if is_together {
                client.send(offer + &early);
                target.accept()
            } else {
                client.send(offer);
                let far = target.accept();
                client.send(&early);
                far
            };
            far.read_head().expect("a request");
            far.send(SWITCHING);
            client.expect_refusal(400, "Bad Request", "http_request_error");
            let (came, _) = far.read_to_end();
            assert!(came.is_empty(), "{} bytes that came too early were passed on", came.len());
        }
    }
}

#[test]
fn a_body_comes_before_the_tunnel() {
    for mode in MODES {
        let target = Target::new();
        let proxy = mode.setup(target.address()).start();
        let head = mode
            .request(target.address(), "/", &format!("{OFFER}Content-Length: 4\r\n"))
            .replace("GET", "POST");
        let mut client = proxy.send(head.clone() + "body");
        let mut far = target.accept();
        far.read_head().expect("a request");
        far.expect_stream(b"body");
        far.send(SWITCHING);
        expect_switch(&mut client);
        talk(&mut client, &mut far);

        // An origin that changes the protocol before it has the body has lost track of it.
        let long = head.replace("Content-Length: 4", "Content-Length: 40000");
        let mut client = proxy.send(long + "bo");
        let mut far = target.accept();
        far.read_head().expect("a request");
        far.expect_stream(b"bo");
        far.send(SWITCHING);
        let response = client.read_response();
        assert!(matches!(response.status(), 400 | 502), "{response}");
        client.send("dy").expect_closed();
        let (came, _) = far.read_to_end();
        assert!(came.is_empty() || came == b"dy", "{}", came.len());
    }
}

#[test]
fn a_switch_that_nobody_asked_for_is_a_bad_gateway() {
    for mode in MODES {
        for (fields, version) in [
            ("", "1.1"),
            ("Upgrade: x/1\r\n", "1.1"),
            ("Connection: upgrade\r\n", "1.1"),
            (
                "Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
                "1.1",
            ),
            ("Connection: upgrade\r\nUpgrade: x/1\r\n", "1.0"),
            ("Connection: close\r\n", "1.1"),
        ] {
            let origin = Origin::start(|mut peer| {
                let request = peer.expect_request();
                request.expect_no_field("Upgrade").expect_no_field("HTTP2-Settings");
                peer.send(SWITCHING.to_owned() + "not http");
                assert_eq!(peer.read_to_end().0, b"", "something followed the request");
            });
            let proxy = mode.setup(origin.address()).start();
            let request = mode.request(origin.address(), "/", fields);
            let request = request.replace("HTTP/1.1", &format!("HTTP/{version}"));
            let response = proxy.send(request + "x").read_response();
            response.expect_own_error(502, "Bad Gateway", "http_protocol_error");
        }
    }
}

#[test]
fn a_switch_that_does_not_say_to_what_is_a_bad_gateway() {
    for mode in MODES {
        for fields in ["", "Upgrade: x/1\r\n", "Connection: upgrade\r\n"] {
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
            let origin = Origin::answering(answer);
            let proxy = mode.setup(origin.address()).start();
            let response = proxy.send(mode.request(origin.address(), "/", OFFER)).read_response();
            response.expect_own_error(502, "Bad Gateway", "http_protocol_error");
        }
    }
}

#[test]
fn http_is_never_offered_as_another_protocol() {
    for mode in MODES {
        for upgrade in [
            "Upgrade: h2c\r\n",
            "Upgrade: H2C\r\n",
            "Upgrade: h2c, x/1\r\n",
            "Upgrade: x/1, h2c\r\n",
            "Upgrade: x/1\r\nUpgrade: h2c\r\n",
            "Upgrade: h2\r\n",
            "Upgrade: HTTP/2.0\r\n",
            "Upgrade: TLS/1.0, HTTP/1.1\r\n",
        ] {
            let origin = Origin::answering(OK);
            let proxy = mode.setup(origin.address()).start();
            let fields =
                format!("Connection: Upgrade, HTTP2-Settings\r\n{upgrade}HTTP2-Settings: AAMA\r\n");
            let mut client = proxy.send(mode.request(origin.address(), "/", &fields));
            client.expect_status(200);
            let request = origin.only_request();
            for name in ["Upgrade", "Connection", "HTTP2-Settings"] {
                request.expect_no_field(name);
            }
        }
    }
}

#[test]
fn an_offer_that_connection_does_not_name_stops_here() {
    for mode in MODES {
        for (fields, version) in [
            ("Upgrade: x/1\r\n", "1.1"),
            ("Connection: close\r\nUpgrade: x/1\r\n", "1.1"),
            ("Connection: upgrade\r\nUpgrade: x/1\r\n", "1.0"),
            ("Connection: upgrade\r\n", "1.1"),
            ("Connection: upgrade\r\nUpgrade:\r\n", "1.1"),
        ] {
            let origin = Origin::answering(OK);
            let proxy = mode.setup(origin.address()).start();
            let request = mode.request(origin.address(), "/", fields);
            let request = request.replace("HTTP/1.1", &format!("HTTP/{version}"));
            proxy.send(request).expect_status(200);
            origin.only_request().expect_no_field("Upgrade").expect_no_field("Connection");
        }
    }
}

#[test]
fn an_interim_answer_may_come_first() {
    for mode in MODES {
        let target = Target::new();
        let proxy = mode.setup(target.address()).start();
        let mut client = proxy.send(mode.request(target.address(), "/", OFFER));
        let mut far = target.accept();
        far.read_head().expect("a request");
        far.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_owned() + SWITCHING);
        client.expect_status(103);
        expect_switch(&mut client);
        talk(&mut client, &mut far);
    }
}

#[test]
fn a_connection_that_died_idle_does_not_spoil_an_upgrade() {
    for mode in MODES {
        let origin = Origin::start(|mut peer| {
            let request = peer.expect_request();
            if request.target() == "/chat" {
                peer.send(SWITCHING);
                peer.echo();
            } else {
                peer.send(OK);
                // Gone without a word, when the next request is on its way.
                peer.next_request();
            }
        });
        let proxy = mode.setup(origin.address()).start();
        let mut client = proxy.send(mode.request(origin.address(), "/", ""));
        client.expect_status(200).send(mode.request(origin.address(), "/chat", OFFER));
        expect_switch(&mut client);
        client.send("hello").expect_stream(b"hello");
    }
}

#[test]
fn an_upgraded_connection_belongs_to_no_pool() {
    for mode in MODES {
        let origin = Origin::start(|mut peer| {
            while let Some(request) = peer.next_request() {
                if request.target() == "/chat" {
                    peer.send(SWITCHING);
                    return peer.echo();
                }
                peer.send(OK);
            }
        });
        let address = origin.address();
        let proxy = mode
            .setup(address)
            .set("pool.max_connections", 1)
            .set("pool.max_idle", 1)
            .set("timeouts.pool", "300ms")
            .start();
        let mut tunnels: Vec<_> = (0..3)
            .map(|_| {
                let mut client = proxy.send(mode.request(address, "/chat", OFFER));
                expect_switch(&mut client);
                client
            })
            .collect();
        proxy.send(mode.request(address, "/", "")).expect_status(200);
        for client in &mut tunnels {
            client.send("hello").expect_stream(b"hello");
            client.half_close();
            client.expect_orderly_close();
        }
        // None of them came back: their bytes were no HTTP.
        proxy.send(mode.request(address, "/", "")).expect_status(200);
        assert_eq!(origin.seen().connections.len(), 4);
    }
}

#[test]
fn upgraded_connections_count_as_tunnels() {
    for mode in MODES {
        let target = Target::new();
        let proxy = mode.setup(target.address()).set("limits.tunnels", 1).start();
        let before = proxy.open_files();
        let (mut client, mut far) = upgraded(mode, &proxy, &target);
        let mut second = proxy.send(mode.request(target.address(), "/", OFFER));
        let mut refused = target.accept();
        refused.read_head().expect("a request");
        refused.send(SWITCHING);
        let response = second.read_response();
        response.expect_own_error(503, "Service Unavailable", "connection_limit_reached");
        // The origin, which believes in a tunnel, is told that there is none.
        refused.read_to_end();
        talk(&mut client, &mut far);
        drop((client, far, second, refused));
        proxy.wait_for_open_files(before);
        let (mut client, mut far) = upgraded(mode, &proxy, &target);
        talk(&mut client, &mut far);
    }
}

#[test]
fn a_reset_of_one_end_is_a_reset_at_the_other() {
    for mode in MODES {
        let target = Target::new();
        let proxy = mode.setup(target.address()).start();
        let before = proxy.open_files();
        let (client, mut far) = upgraded(mode, &proxy, &target);
        client.reset();
        far.expect_end(Arrival::Reset);
        let (mut client, far) = upgraded(mode, &proxy, &target);
        far.reset();
        client.expect_end(Arrival::Reset);
        proxy.wait_for_open_files(before);
    }
}

#[test]
fn silence_ends_an_upgraded_connection_as_it_ends_a_tunnel() {
    for mode in MODES {
        let target = Target::new();
        let proxy = mode
            .setup(target.address())
            .set("timeouts.tunnel_idle", "1500ms")
            // These are for exchanges.
            .set("timeouts.read", "200ms")
            .set("timeouts.client_idle", "200ms")
            .start();
        let (mut client, mut far) = upgraded(mode, &proxy, &target);
        client.expect_quiet_for(Duration::from_millis(500));
        talk(&mut client, &mut far);
        client.expect_orderly_close();
        far.expect_end(Arrival::End);
    }
}

#[test]
fn an_origin_that_is_slow_to_answer_an_offer_is_timed_out() {
    for mode in MODES {
        let origin = Origin::silent();
        let proxy = mode.setup(origin.address()).set("timeouts.read", "300ms").start();
        let response = proxy.send(mode.request(origin.address(), "/", OFFER)).read_response();
        response.expect_own_error(504, "Gateway Timeout", "http_response_timeout");
    }
}

#[test]
fn a_drain_lets_an_upgraded_connection_end_or_cuts_it() {
    for mode in MODES {
        let target = Target::new();
        let mut proxy = mode.setup(target.address()).start();
        let (mut client, mut far) = upgraded(mode, &proxy, &target);
        proxy.signal(Signal::SIGTERM);
        wait_until("the proxy refuses connections", || {
            std::net::TcpStream::connect(proxy.address()).is_err()
        });
        talk(&mut client, &mut far);
        client.half_close();
        far.expect_end(Arrival::End);
        drop(far);
        client.expect_orderly_close();
        proxy.expect_orderly_end();

        let mut proxy = mode.setup(target.address()).set("server.drain_timeout", "300ms").start();
        let (mut client, mut far) = upgraded(mode, &proxy, &target);
        proxy.signal(Signal::SIGTERM);
        client.expect_end(Arrival::Reset);
        far.expect_end(Arrival::Reset);
        proxy.expect_orderly_end();
    }
}

#[test]
fn an_upgrade_is_one_line_of_the_access_log_at_its_end() {
    for mode in MODES {
        let target = Target::new();
        let proxy = mode.setup(target.address()).set("log.access", true).start();
        let (mut client, mut far) = upgraded(mode, &proxy, &target);
        talk(&mut client, &mut far);
        assert!(!proxy.log_lines().iter().any(|line| line.contains("status=101")), "too early");
        drop((client, far));
        let line = proxy.wait_for_log(&["method=GET", "status=101"]);
        let request = mode.request(target.address(), "/chat", OFFER);
        let received = request.len() + "to the origin".len();
        assert_eq!(logged(&line, "bytes_in"), received.to_string());
        assert!(logged(&line, "bytes_out").parse::<usize>().unwrap() > SWITCHING.len(), "{line}");
        assert_eq!(logged(&line, "origin"), target.address().to_string());
        assert_eq!(logged(&line, "error"), "-");
        if mode == Mode::Reverse {
            assert_eq!(logged(&line, "upstream"), "origin");
        }
    }
}

#[test]
fn an_upgrade_inside_a_tunnel_is_not_for_the_proxy() {
    let target = Target::new();
    let proxy = Setup::forward().start();
    let mut client = proxy.tunnel(target.address());
    let mut far = target.accept();
    let request = Mode::Reverse.request(target.address(), "/", OFFER) + "early";
    client.send(&request);
    far.expect_stream(request.as_bytes());
    far.send(SWITCHING);
    client.expect_stream(SWITCHING.as_bytes());
    talk(&mut client, &mut far);
}

#[test]
fn a_forbidden_upgrade_reaches_nobody() {
    let origin = Origin::untouchable();
    let proxy = Setup::forward().set("forward.allow_loopback", false).start();
    let mut client = proxy.send(Mode::Forward.request(origin.address(), "/", OFFER));
    let response = client.read_response();
    response.expect_own_error(403, "Forbidden", "http_request_denied");
    client.send(get(origin.address())).expect_status(403);
}
