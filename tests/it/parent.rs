//! Forward requests that go through another proxy: how it is asked, what its answers mean, and when
//! it is left out.
//!
//! The parent is scripted. It never connects anywhere: what it sends is what the client gets. The
//! targets have names that nobody could resolve, because a parent resolves them itself, or are
//! there to notice that they are reached directly.

use crate::support::{
    Arrival, Blackhole, Client, GET, Gate, Message, OK, Origin, Proxy, Refusal, Setup, Target,
    Wire, connect, get, logged, pattern,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::time::Duration;

/// The name of a target that only a parent can find.
const FAR: &str = "far.test:443";

const OPENED: &str = "HTTP/1.1 200 OK\r\n\r\n";

fn through(parent: &Target, more: &str) -> Setup {
    Setup::forward().parent("office", &format!("http://{}", parent.address()), more)
}

/// The parent's end of a connection on which a tunnel to [`FAR`] was asked for, and the request.
#[track_caller]
fn asked(parent: &Target) -> (Wire, Message) {
    let mut far = parent.accept();
    let request = far.read_head().expect("a request");
    assert_eq!(request.start, format!("CONNECT {FAR} HTTP/1.1"));
    (far, request)
}

#[track_caller]
fn talk(client: &mut Client, far: &mut Wire) {
    client.send("to the target");
    far.expect_stream(b"to the target");
    far.send("to the client");
    client.expect_stream(b"to the client");
}

#[test]
fn a_parent_is_asked_as_the_proxy_was() {
    let parent = Origin::answering("HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 6\r\n\r\nparent");
    let proxy = Setup::forward().parent("office", &parent.url(), "").start();
    let response = proxy
        .send("GET http://far.test/a?b HTTP/1.1\r\nHost: other.test\r\nAccept: */*\r\n\r\n")
        .read_response();
    response.expect_status(200).expect_field("X", "y").expect_body("parent");
    let request = parent.only_request();
    assert_eq!(request.start, "GET http://far.test/a?b HTTP/1.1");
    request.expect_field("Host", "far.test").expect_field("Accept", "*/*");
    request.expect_field("Via", "1.1 ringway").expect_no_field("Proxy-Authorization");
    request.expect_no_field("Proxy-Connection").expect_no_field("X-Forwarded-For");
}

#[test]
fn the_target_keeps_its_spelling_on_the_way_to_a_parent() {
    for target in
        ["http://FAR.test", "http://far.test:80/", "http://far.test?a", "http://far.test/%7e"]
    {
        let parent = Origin::answering(OK);
        let proxy = Setup::forward().parent("office", &parent.url(), "").start();
        proxy.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).expect_status(200);
        let request = parent.only_request();
        // An empty path may be sent as it is, or as what it means.
        let slash = target.replace("http://FAR.test", "http://FAR.test/").replace('?', "/?");
        assert!([target, slash.as_str()].contains(&request.target()), "{request}");
    }
}

#[test]
fn credentials_are_for_the_parent_and_the_clients_are_not() {
    let parent = Origin::answering(OK);
    let credentials = "credentials = \"us er:pass:word\"";
    let proxy = Setup::forward().parent("office", &parent.url(), credentials).start();
    let login = format!("Basic {}", BASE64.encode("us er:pass:word"));
    for own in ["", "Proxy-Authorization: Basic bWU6bWU=\r\n"] {
        let request = format!("GET http://far.test/ HTTP/1.1\r\nHost: far.test\r\n{own}\r\n");
        proxy.send(request).expect_status(200);
    }
    let parent_requests = parent.seen().requests.clone();
    assert_eq!(parent_requests.len(), 2);
    for request in &parent_requests {
        request.expect_field("Proxy-Authorization", &login);
    }
    drop(proxy);

    let parent = Target::new();
    let proxy = through(&parent, credentials).start();
    let own = connect(FAR).replace("\r\n\r\n", "\r\nProxy-Authorization: Basic bWU6bWU=\r\n\r\n");
    let _client = proxy.send(own);
    let (_, request) = asked(&parent);
    request.expect_field("Proxy-Authorization", &login).expect_field("Host", FAR);
}

#[test]
fn no_log_and_no_target_sees_the_credentials_of_a_parent() {
    let parent = Origin::answering("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n");
    let origin = Origin::answering(OK);
    let proxy = Setup::forward()
        .parent(
            "office",
            &parent.url(),
            "credentials = \"user:Tr0ub4dor\"\nexcept = [\"127.0.0.1\"]",
        )
        .upstream("origin", &[&origin.url()], "")
        .set("log.level", "trace")
        .set("log.access", true)
        .start();
    proxy.send(connect(FAR)).expect_status(502);
    proxy.send(get(origin.address())).expect_status(200);
    proxy.get().expect_status(200);
    for request in &origin.seen().requests {
        request.expect_no_field("Proxy-Authorization");
    }
    let encoded = BASE64.encode("user:Tr0ub4dor");
    let log = proxy.log_lines().join("\n");
    assert!(!log.contains("Tr0ub4dor") && !log.contains(&encoded), "{log}");
}

#[test]
fn a_parent_opens_a_tunnel() {
    let parent = Target::new();
    let proxy = through(&parent, "").start();
    for answer in [
        OPENED,
        "HTTP/1.1 200 Connection established\r\nProxy-Agent: x\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        // Neither has a meaning here (RFC 9110 §9.3.6).
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n\
         HTTP/1.1 200 \r\n\r\n",
    ] {
        let mut client = proxy.send(connect(FAR));
        let (mut far, _) = asked(&parent);
        far.send(answer);
        client.expect_tunnel();
        talk(&mut client, &mut far);
        client.half_close();
        far.expect_end(Arrival::End);
        drop(far);
        client.expect_orderly_close();
    }
}

#[test]
fn what_comes_behind_the_parents_answer_comes_first() {
    let parent = Target::new();
    let proxy = through(&parent, "").start();
    for length in [1, 1_000, 30_000, 1_000_000] {
        let banner = pattern(length);
        let mut client = proxy.send(connect(FAR));
        let (mut far, _) = asked(&parent);
        far.send([OPENED.as_bytes(), &banner, b"end"].concat());
        client.expect_tunnel().expect_stream(&banner);
        client.expect_stream(b"end");
        talk(&mut client, &mut far);
    }
}

#[test]
fn a_parents_answer_in_pieces_is_one_answer() {
    let parent = Target::new();
    let proxy = through(&parent, "").start();
    let answer = "HTTP/1.1 200 OK\r\nVia: 1.1 x\r\n\r\nbanner";
    for cut in [1, 9, 17, 30, 31, 32, 33, answer.len() - 1] {
        let mut client = proxy.send(connect(FAR));
        let (mut far, _) = asked(&parent);
        far.send(&answer[..cut]);
        far.wait_until_read();
        far.send(&answer[cut..]);
        client.expect_tunnel().expect_stream(b"banner");
    }
}

#[test]
fn nothing_goes_to_the_target_before_the_parent_has_opened_the_tunnel() {
    let parent = Target::new();
    let proxy = through(&parent, "").start();
    let mut client = proxy.send(connect(FAR) + "early");
    let (mut far, _) = asked(&parent);
    assert!(far.is_quiet_for(Duration::from_millis(500)), "something followed the request");
    far.send(OPENED);
    client.expect_tunnel();
    far.expect_stream(b"early");
    talk(&mut client, &mut far);

    // And where it is not opened, nothing ever does.
    let mut client = proxy.send(connect(FAR) + GET);
    let (mut far, _) = asked(&parent);
    far.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    client.expect_refusal(502, "Bad Gateway", "http_protocol_error");
    let (came, _) = far.read_to_end();
    assert!(came.is_empty(), "{} bytes were sent to a parent that had refused", came.len());
}

#[test]
fn a_parent_that_refuses_a_tunnel_is_a_bad_gateway() {
    let parent = Target::new();
    let proxy = through(&parent, "direct_fallback = true").start();
    for answer in [
        "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\
         Content-Length: 6\r\n\r\nlog in",
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://a/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 099 Odd\r\n\r\n",
        "HTTP/1.1 200\r\nbad field\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "\r\n\r\n\r\n",
    ] {
        let mut client = proxy.send(connect(FAR));
        let (mut far, _) = asked(&parent);
        far.send(answer);
        far.half_close();
        let response = client.read_response();
        response
            .expect_status(502)
            .expect_no_field("Proxy-Authenticate")
            .expect_no_field("Location");
        response.expect_body("Bad Gateway");
        client.expect_closed();
    }
    parent.expect_nobody();
}

#[test]
fn what_a_parent_has_against_a_tunnel_is_told_apart() {
    let parent = Target::new();
    let proxy = through(&parent, "").set("log.access", true).start();
    for (status, name, error) in [
        ("403 Forbidden", "parent_forbids", "http_protocol_error"),
        ("407 Proxy Authentication Required", "parent_login", "http_protocol_error"),
        ("503 Service Unavailable", "parent_unavailable", "destination_unavailable"),
        ("500 Internal Server Error", "parent_refused", "http_protocol_error"),
    ] {
        let mut client = proxy.send(connect(FAR));
        let (mut far, _) = asked(&parent);
        far.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        let response = client.read_response();
        response.expect_own_error(502, "Bad Gateway", error);
        let received = format!("received-status={}", &status[..3]);
        let says_which = response.field("proxy-status").unwrap_or_default().contains(&received);
        assert_eq!(says_which, name != "parent_refused", "{response}");
        client.expect_closed();
        proxy.wait_for_log(&["method=CONNECT", &format!("error={name}")]);
        proxy.wait_for_log(&["WARN", "office", &format!("status={}", &status[..3])]);
    }
}

#[test]
fn what_a_parent_says_of_a_body_behind_a_tunnel_counts_for_nothing() {
    let parent = Target::new();
    let proxy = through(&parent, "").start();
    for framing in [
        "Content-Length: 0",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 1\r\nContent-Length: 2",
    ] {
        let mut client = proxy.send(connect(FAR));
        let (mut far, _) = asked(&parent);
        far.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\nearly"));
        client.expect_tunnel().expect_stream(b"early");
        talk(&mut client, &mut far);
    }
}

#[test]
fn a_parents_answer_may_not_go_on_for_ever() {
    let parent = Target::new();
    let proxy = through(&parent, "").start();
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(100_000);
    let field = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1_000_000));
    for answer in [interim, field] {
        let mut client = proxy.send(connect(FAR));
        let (mut far, _) = asked(&parent);
        far.send_until_stalled(answer.as_bytes(), Duration::from_secs(1));
        client.expect_status(502).expect_closed();
        far.read_to_end();
    }
}

#[test]
fn a_parent_that_goes_away_is_a_bad_gateway() {
    let parent = Target::new();
    let proxy = through(&parent, "").start();
    let before = proxy.open_files();
    for begun in ["", "HTTP/1.1 20", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        for is_reset in [false, true] {
            let mut client = proxy.send(connect(FAR));
            let (mut far, _) = asked(&parent);
            far.send(begun);
            far.wait_until_read();
            if is_reset {
                far.reset();
            } else {
                drop(far);
            }
            client.expect_refusal(502, "Bad Gateway", "connection_terminated");
        }
    }
    proxy.wait_for_open_files(before);
}

#[test]
fn a_parent_that_says_nothing_is_a_gateway_timeout() {
    let (parent, blackhole) = (Target::new(), Blackhole::new());
    let proxy = through(&parent, "").set("timeouts.read", "300ms").start();
    let mut client = proxy.send(connect(FAR));
    let (_far, _) = asked(&parent);
    client.expect_refusal(504, "Gateway Timeout", "http_response_timeout");
    let mut client = proxy.send(get("far.test"));
    let mut far = parent.accept();
    far.read_head().expect("a request");
    client.read_response().expect_own_error(504, "Gateway Timeout", "http_response_timeout");

    let proxy = Setup::forward()
        .parent("office", &blackhole.url(), "")
        .set("timeouts.connect", "300ms")
        .start();
    for request in [connect(FAR), get("far.test")] {
        let response = proxy.send(request).read_response();
        response.expect_own_error(504, "Gateway Timeout", "connection_timeout");
    }
}

#[test]
fn a_client_that_leaves_while_the_parent_thinks_leaves_nothing_behind() {
    let parent = Target::new();
    let proxy = through(&parent, "").set("timeouts.read", "1s").start();
    let before = proxy.open_files();
    for _ in 0..5 {
        let client = proxy.send(connect(FAR));
        let (far, _) = asked(&parent);
        client.reset();
        drop(far);
        let client = proxy.send(connect(FAR));
        let (mut far, _) = asked(&parent);
        client.reset();
        far.send(OPENED);
        far.read_to_end();
    }
    proxy.wait_for_open_files(before);
}

#[test]
fn a_parents_answer_to_a_plain_request_is_an_answer() {
    for (status, reason) in [(200, "OK"), (403, "Forbidden"), (404, "Not Found"), (502, "Bad")] {
        let parent =
            Origin::answering(format!("HTTP/1.1 {status} {reason}\r\nContent-Length: 2\r\n\r\nok"));
        let proxy = Setup::forward().parent("office", &parent.url(), "").start();
        let mut client = proxy.connect();
        for _ in 0..2 {
            client.send(get("far.test")).read_response().expect_status(status).expect_body("ok");
        }
        assert_eq!(parent.seen().connections.len(), 1);
    }
}

#[test]
fn a_client_is_never_asked_for_the_password_of_a_parent() {
    let parent = Origin::answering(
        "HTTP/1.1 407 Proxy Authentication Required\r\n\
         Proxy-Authenticate: Basic realm=\"parent\"\r\nContent-Length: 2\r\n\r\nok",
    );
    let proxy = Setup::forward().parent("office", &parent.url(), "").start();
    // A client that is told 407 sends this proxy what it has for it, or gives up for want of a
    // challenge: the parent's is for whoever configured the parent (RFC 9110 §15.5.8).
    for request in [get("far.test"), connect(FAR)] {
        let response = proxy.send(request).read_response();
        response.expect_own_error(502, "Bad Gateway", "http_protocol_error");
        response.expect_no_field("Proxy-Authenticate");
    }
    proxy.wait_for_log(&["WARN", "office"]);
}

#[test]
fn a_parent_that_refuses_connections_is_a_bad_gateway() {
    let refusal = Refusal::new();
    let target = Origin::untouchable();
    let proxy = Setup::forward().parent("office", &refusal.url(), "").start();
    let response = proxy.send(get(target.address())).read_response();
    response.expect_own_error(502, "Bad Gateway", "connection_refused");
    let mut client = proxy.send(connect(target.address()) + GET);
    client.expect_refusal(502, "Bad Gateway", "connection_refused");
    assert_eq!(target.seen().connections.len(), 0);
}

/// A proxy whose parent cannot be reached at `url`, with leave to do without it.
fn without(url: &str) -> Proxy {
    Setup::forward()
        .parent("office", url, "direct_fallback = true")
        .set("timeouts.connect", "500ms")
        .start()
}

#[test]
fn a_parent_that_cannot_be_reached_may_be_done_without() {
    let (refusal, blackhole) = (Refusal::new(), Blackhole::new());
    let origin = Origin::answering(OK);
    for url in [refusal.url(), blackhole.url(), "http://nowhere.invalid:3128".to_owned()] {
        let proxy = without(&url);
        let mut client = proxy.tunnel(origin.address());
        client.send(GET).expect_status(200);
        proxy.wait_for_log(&["office", "direct"]);
    }
}

#[test]
fn a_parent_that_cannot_be_reached_may_be_done_without_for_plain_requests_too() {
    let (refusal, blackhole) = (Refusal::new(), Blackhole::new());
    for url in [refusal.url(), blackhole.url(), "http://nowhere.invalid:3128".to_owned()] {
        let origin = Origin::answering(OK);
        let proxy = without(&url);
        for _ in 0..2 {
            proxy.send(get(origin.address())).expect_status(200);
        }
        // It is asked as an origin is, and not for what the parent was to get.
        let seen = origin.seen();
        for request in &seen.requests {
            assert_eq!(request.start, "GET / HTTP/1.1");
            request.expect_no_field("Proxy-Authorization");
        }
    }
}

#[test]
fn doing_without_a_parent_does_without_its_credentials() {
    let (refusal, origin) = (Refusal::new(), Origin::answering(OK));
    let more = "direct_fallback = true\ncredentials = \"user:password\"";
    let proxy = Setup::forward().parent("office", &refusal.url(), more).start();
    let mut client = proxy.send(get(origin.address()));
    // Whether or not it gets there: nobody but the parent may see them.
    client.read_response();
    for request in &origin.seen().requests {
        request.expect_no_field("Proxy-Authorization");
    }
}

#[test]
fn what_is_forbidden_stays_so_without_the_parent() {
    let (refusal, target) = (Refusal::new(), Target::new());
    let proxy = Setup::forward()
        .set("forward.allow_loopback", false)
        .parent("office", &refusal.url(), "direct_fallback = true")
        .start();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let authority = format!("{host}:{}", target.address().port());
        for request in [get(&authority), connect(&authority)] {
            let response = proxy.send(request).read_response();
            response.expect_own_error(403, "Forbidden", "http_request_denied");
        }
    }
    target.expect_nobody();
}

#[test]
fn what_is_forbidden_is_not_asked_of_a_parent_either() {
    let parent = Origin::untouchable();
    let proxy = Setup::forward()
        .set("forward.allow_loopback", false)
        .set("forward.allow_private", false)
        .set("forward.deny", ["*.denied.test"])
        .set("forward.connect_ports", ["443"])
        .parent("office", &parent.url(), "")
        .start();
    for authority in [
        "127.0.0.1:443",
        "localhost:443",
        "a.localhost:443",
        "[::1]:443",
        "127.1:443",
        "169.254.169.254:443",
        "10.0.0.1:443",
        "a.denied.test:443",
    ] {
        for request in [get(authority), connect(authority)] {
            let response = proxy.send(request).read_response();
            response.expect_own_error(403, "Forbidden", "http_request_denied");
        }
    }
    proxy.send(connect("far.test:444")).expect_status(403);
    assert_eq!(parent.seen().connections.len(), 0);
}

#[test]
fn a_parent_may_stand_where_no_target_may() {
    // It is part of the configuration, not of what clients ask for.
    let parent = Origin::answering(OK);
    let proxy = Setup::forward()
        .set("forward.allow_loopback", false)
        .parent("office", &parent.url().replace("127.0.0.1", "localhost"), "")
        .start();
    proxy.send(get("far.test")).expect_status(200);
}

#[test]
fn the_first_parent_whose_domains_fit_is_asked() {
    let answering = |name: &str| {
        Origin::answering(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
            name.len()
        ))
    };
    let (a, b, c, direct) = (answering("a"), answering("b"), answering("c"), answering("direct"));
    let proxy = Setup::forward()
        .parent("a", &a.url(), "domains = [\"*.a.test\", \"a.test\"]\nexcept = [\"x.a.test\"]")
        .parent(
            "b",
            &b.url(),
            "domains = [\"*.a.test\", \"b.test\", \"192.0.2.0/24\", \"[2001:db8::]/32\"]",
        )
        .parent("c", &c.url(), "domains = [\"*\"]\nexcept = [\"127.0.0.0/8\", \"nowhere.invalid\"]")
        .start();
    for (authority, expected) in [
        ("a.test", "a"),
        ("y.a.test", "a"),
        ("Y.A.TEST.:8080", "a"),
        ("x.a.test", "b"),
        ("b.test", "b"),
        ("y.b.test", "c"),
        ("192.0.2.7:81", "b"),
        ("192.0.3.7", "c"),
        ("[2001:db8::1]:80", "b"),
        ("[2001:db9::1]:80", "c"),
        ("anything.test", "c"),
        (&direct.address().to_string(), "direct"),
    ] {
        let response = proxy.send(get(authority)).read_response();
        assert_eq!(response.text(), expected, "{authority}: {response}");
    }
    // An exception of the last parent leaves the direct way.
    proxy.send(get("nowhere.invalid")).read_response().expect_own_error(
        502,
        "Bad Gateway",
        "dns_error",
    );
    proxy.tunnel(direct.address()).send(GET).read_response().expect_body("direct");
}

#[test]
fn routes_know_no_parent() {
    let (parent, origin) = (Origin::untouchable(), Origin::answering(OK));
    let proxy =
        Setup::to(&origin).set("forward.enabled", true).parent("p", &parent.url(), "").start();
    proxy.get().expect_status(200);
    proxy.send(get(proxy.address())).expect_status(200);
}

#[test]
fn requests_for_all_targets_share_the_connections_to_a_parent() {
    let parent = Origin::answering(OK);
    let proxy = Setup::forward().parent("office", &parent.url(), "").start();
    for host in ["a.test", "b.test", "c.test:81", "a.test"] {
        proxy.send(get(host)).expect_status(200);
    }
    let seen = parent.seen();
    let targets: Vec<_> = seen.requests.iter().map(Message::target).collect();
    assert_eq!(
        targets,
        ["http://a.test/", "http://b.test/", "http://c.test:81/", "http://a.test/"]
    );
    assert_eq!(seen.connections.len(), 1);
}

#[test]
fn tunnels_through_a_parent_are_no_connections_of_the_pool() {
    let parent = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            if request.method() == "CONNECT" {
                peer.send(OPENED);
                return peer.echo();
            }
            peer.send(OK);
        }
    });
    let proxy = Setup::forward()
        .parent("office", &parent.url(), "")
        .set("pool.max_connections", 1)
        .set("pool.max_idle", 1)
        .set("timeouts.pool", "300ms")
        .start();
    let mut tunnels: Vec<_> = (0..3).map(|_| proxy.tunnel(FAR)).collect();
    proxy.send(get("far.test")).expect_status(200);
    for tunnel in &mut tunnels {
        tunnel.send("hello").expect_stream(b"hello");
    }
}

#[test]
fn a_parent_that_closed_an_idle_connection_is_asked_on_another() {
    let parent = Origin::answering_and_closing(OK);
    let proxy = Setup::forward().parent("office", &parent.url(), "").start();
    for count in 1..=3 {
        proxy.send(get("far.test")).expect_status(200);
        parent.wait_for("the end", |seen| seen.connections.len() == count && seen.open() == 0);
    }
}

#[test]
fn an_upgrade_goes_through_a_parent() {
    let parent = Target::new();
    let proxy = through(&parent, "").start();
    let mut client = proxy.send(
        "GET http://far.test/chat HTTP/1.1\r\nHost: far.test\r\nConnection: upgrade\r\n\
         Upgrade: x/1\r\n\r\n",
    );
    let mut far = parent.accept();
    let request = far.read_head().expect("a request");
    assert_eq!(request.start, "GET http://far.test/chat HTTP/1.1");
    request.expect_field("Upgrade", "x/1");
    far.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x/1\r\n\r\n");
    client.read_head().expect("an answer").expect_status(101);
    talk(&mut client, &mut far);
}

#[test]
fn much_passes_through_a_parent() {
    const MUCH: usize = 20_000_000;
    let is_over = Gate::default();
    let bytes = pattern(MUCH);
    let parent = Target::new();
    let proxy = through(&parent, "").start();
    let mut client = proxy.send(connect(FAR));
    let (mut far, _) = asked(&parent);
    far.send(OPENED);
    client.expect_tunnel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            far.echo();
            is_over.open();
        });
        let mut sender = client.another_handle();
        let sent = &bytes;
        scope.spawn(move || {
            sender.send(sent);
            sender.half_close();
        });
        client.expect_stream(&bytes);
    });
    is_over.wait();
}

#[test]
fn a_tunnel_through_a_parent_is_one_line_of_the_access_log() {
    let parent = Target::new();
    let proxy = through(&parent, "").set("log.access", true).start();
    let mut client = proxy.send(connect(FAR));
    let (mut far, _) = asked(&parent);
    far.send(OPENED.to_owned() + "banner");
    client.expect_tunnel().expect_stream(b"banner");
    talk(&mut client, &mut far);
    drop((client, far));
    let line = proxy.wait_for_log(&["method=CONNECT"]);
    assert_eq!(logged(&line, "target"), FAR);
    assert_eq!(logged(&line, "origin"), parent.address().to_string());
    let sent = connect(FAR).len() + "to the target".len();
    assert_eq!(logged(&line, "bytes_in"), sent.to_string());
    let answer = "HTTP/1.1 200 Connection established\r\n\r\nbannerto the client";
    assert_eq!(logged(&line, "bytes_out"), answer.len().to_string());
}
