//! What a reverse proxy changes in a message, what it leaves alone, and where it sends it.
//!
//! Each test writes one request or response by hand and reads what the other side received. The
//! rules are those of RFC 9110 §7.6 (hop-by-hop fields, `Via`, `Max-Forwards`), RFC 9112 §3.2
//! (request targets), RFC 7239 (`Forwarded`), and the routes of the configuration.

use crate::support::{Client, GET, Gate, Message, OK, Origin, Proxy, Refusal, Setup, is_of_http1};

/// The request as the origin received it.
fn forwarded(setup: impl FnOnce(&Origin) -> Setup, request: &str) -> Message {
    let origin = Origin::answering(OK);
    let proxy = setup(&origin).start();
    proxy.send(request).expect_status(200);
    origin.only_request()
}

/// The response as the client received it.
fn answered(response: &'static str) -> Message {
    let origin = Origin::answering_and_closing(response);
    Proxy::to(&origin).get()
}

/// The parameters of a `Forwarded` element, in a fixed order.
fn parameters(element: &str) -> Vec<String> {
    let mut parameters: Vec<_> = element.split(';').map(|p| p.trim().to_owned()).collect();
    parameters.sort();
    parameters
}

#[test]
fn a_request_reaches_the_origin_and_its_answer_the_client() {
    if is_of_http1("a reason phrase") {
        return;
    }
    let origin = Origin::answering(
        "HTTP/1.1 203 As It Is\r\nX-Made-By: origin\r\nContent-Length: 5\r\n\r\nhello",
    );
    let proxy = Proxy::to(&origin);
    let response = proxy
        .send("GET /a/b?c=d&e HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n")
        .read_response();
    assert_eq!(response.start, "HTTP/1.1 203 As It Is");
    response.expect_field("X-Made-By", "origin").expect_body("hello");

    let request = origin.only_request();
    assert_eq!(request.start, "GET /a/b?c=d&e HTTP/1.1");
    assert_eq!(request.fields[0], ("Host".into(), "example.org".into()));
    request.expect_field("Accept", "*/*").expect_no_field("Connection");
}

#[test]
fn end_to_end_fields_pass_in_order_and_byte_for_byte() {
    if is_of_http1("names in any case") {
        return;
    }
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nSet-Cookie: b=2; Path=/\r\nX-Empty:\r\n\
         X-Bytes: caf\u{e9} \tx\r\nContent-Length: 0\r\n\r\n",
    );
    let proxy = Proxy::to(&origin);
    let mut client = proxy.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\nx-CASE: Kept\r\nX-Twice: 1\r\nX-Twice: 2\r\n");
    client.send(b"X-Bytes: \xff\x80 \"q\", (c)\r\nX-Empty:\r\nCookie: a=b; c=d\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.all("Set-Cookie"), ["a=1", "b=2; Path=/"]);
    response.expect_field("X-Empty", "");
    let raw = String::from_utf8_lossy(&response.raw_head).into_owned();
    assert!(raw.contains("set-cookie: a=1\r\n") && raw.contains("caf\u{e9} \tx\r\n"), "{response}");

    let request = origin.only_request();
    assert_eq!(request.all("X-Twice"), ["1", "2"]);
    request.expect_field("Cookie", "a=b; c=d").expect_field("X-Empty", "");
    assert!(request.fields.iter().any(|(name, _)| name == "x-CASE"), "{request}");
    request.expect_field("X-Bytes", "\u{ff}\u{80} \"q\", (c)");
}

#[test]
fn hop_by_hop_fields_of_a_request_stop_here() {
    if is_of_http1("fields of a connection") {
        return;
    }
    let request = forwarded(
        Setup::to,
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: x-private, Keep-Alive\r\n\
         connection: X-Other\r\nKeep-Alive: timeout=5\r\nX-Private: 1\r\nX-OTHER: 2\r\n\
         Proxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: websocket\r\n\
         Proxy-Authorization: Basic eDp5\r\nX-Public: 3\r\n\r\n",
    );
    for name in ["Connection", "Keep-Alive", "X-Private", "X-Other", "Proxy-Connection", "TE"] {
        request.expect_no_field(name);
    }
    request.expect_no_field("Upgrade").expect_no_field("Proxy-Authorization");
    request.expect_field("X-Public", "3");
}

#[test]
fn hop_by_hop_fields_of_a_response_stop_here() {
    let response = answered(
        "HTTP/1.1 200 OK\r\nConnection: close, X-Private\r\nKeep-Alive: timeout=5\r\n\
         X-Private: 1\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nX-Public: 2\r\n\
         Content-Length: 0\r\n\r\n",
    );
    for name in ["Keep-Alive", "X-Private", "Proxy-Connection", "Upgrade"] {
        response.expect_no_field(name);
    }
    response.expect_field("X-Public", "2");
    // The origin's wish to close is not the client's: that connection goes on.
    assert!(!response.list("Connection").contains(&"close"), "{response}");
}

#[test]
fn connection_cannot_strip_what_routes_frames_or_identifies() {
    let request = forwarded(
        |origin| Setup::to(origin).set("server.trusted_proxies", ["127.0.0.0/8"]),
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nX-Forwarded-For: 10.9.8.7\r\n\
         Authorization: Basic eDp5\r\nCookie: a=b\r\n\
         Connection: Host, Content-Length, X-Forwarded-For, X-Forwarded-Proto, Forwarded, Via\r\n\
         Connection: Authorization, Cookie, Transfer-Encoding\r\n\r\nabc",
    );
    request.expect_field("Host", "test").expect_body("abc").expect_field("Cookie", "a=b");
    request.expect_field("Authorization", "Basic eDp5").expect_no_field("Via");
    assert_eq!(request.list("X-Forwarded-For"), ["10.9.8.7", "127.0.0.1"]);
}

#[test]
fn a_request_says_where_it_came_from() {
    let request = forwarded(Setup::to, "GET / HTTP/1.1\r\nHost: Example.org:81\r\n\r\n");
    request
        .expect_field("CDN-Loop", "ringway")
        .expect_no_field("Via")
        .expect_field("X-Forwarded-For", "127.0.0.1")
        .expect_field("X-Forwarded-Proto", "http")
        .expect_field("X-Forwarded-Host", "Example.org:81");
    let forwarded = request.field("Forwarded").expect("a Forwarded field");
    assert_eq!(parameters(forwarded), ["for=127.0.0.1", "host=\"Example.org:81\"", "proto=http"]);
}

const PROXIED: &str = "GET / HTTP/1.1\r\nHost: inner\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n\
    X-Forwarded-Proto: https\r\nX-Forwarded-Host: outer\r\n\
    Forwarded: for=10.0.0.1;proto=https, for=10.0.0.2\r\n\r\n";

#[test]
fn what_an_unknown_peer_says_of_earlier_hops_is_dropped() {
    let trusting_others = |origin: &Origin| {
        Setup::to(origin).set("server.trusted_proxies", ["10.0.0.0/8", "fd00::/8"])
    };
    let request = forwarded(trusting_others, PROXIED);
    request
        .expect_field("X-Forwarded-For", "127.0.0.1")
        .expect_field("X-Forwarded-Proto", "http")
        .expect_field("X-Forwarded-Host", "inner");
    let forwarded = request.field("Forwarded").expect("a Forwarded field");
    assert!(!forwarded.contains("10.0.0.1"), "{request}");
}

#[test]
fn what_a_trusted_proxy_says_of_earlier_hops_is_kept_and_added_to() {
    let trusting =
        |origin: &Origin| Setup::to(origin).set("server.trusted_proxies", ["127.0.0.1/32"]);
    let request = forwarded(trusting, PROXIED);
    assert_eq!(request.list("X-Forwarded-For"), ["10.0.0.1", "10.0.0.2", "127.0.0.1"]);
    request.expect_field("X-Forwarded-Proto", "https").expect_field("X-Forwarded-Host", "outer");
    let hops = request.list("Forwarded");
    assert_eq!(hops.len(), 3, "{request}");
    assert_eq!(parameters(hops[0]), ["for=10.0.0.1", "proto=https"]);
    assert!(parameters(hops[2]).contains(&"for=127.0.0.1".to_owned()), "{request}");
}

#[test]
fn via_grows_by_one_and_names_the_version_it_received() {
    if is_of_http1("clients of HTTP/1.0") {
        return;
    }
    let telling = |origin: &Origin| Setup::to(origin).set("server.add_via", "both");
    let old =
        forwarded(telling, "GET / HTTP/1.0\r\nHost: test\r\nVia: 1.0 fred, 1.1 p.example\r\n\r\n");
    assert_eq!(old.list("Via"), ["1.0 fred", "1.1 p.example", "1.0 ringway"]);
    assert!(old.start.ends_with(" HTTP/1.1"), "a proxy speaks its own version: {old}");
    let named = forwarded(|origin| telling(origin).set("server.via", "edge-7"), GET);
    named.expect_field("Via", "1.1 edge-7");
}

#[test]
fn an_ipv6_client_is_bracketed_in_forwarded_only() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6 loopback");
        return;
    }
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).listen(&["[::1]:0"]).start();
    let inner = *proxy.addresses().iter().find(|a| a.is_ipv6()).expect("an IPv6 listener");
    Client::connect(inner).send(GET).expect_status(200);
    let request = origin.only_request();
    request.expect_field("X-Forwarded-For", "::1");
    let forwarded = request.field("Forwarded").expect("a Forwarded field");
    assert!(parameters(forwarded).contains(&"for=\"[::1]\"".to_owned()), "{request}");
}

#[test]
fn every_listener_serves() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).listen(&["127.0.0.2:0", "127.0.0.3:0"]).start();
    assert_eq!(proxy.addresses().len(), 3);
    for &address in proxy.addresses() {
        Client::connect(address).send(GET).expect_status(200);
    }
}

#[test]
fn host_is_passed_or_set_per_upstream() {
    for (line, expected) in [
        ("", "front:80".to_owned()),
        ("host = \"pass\"", "front:80".to_owned()),
        ("host = \"back.example\"", "back.example".to_owned()),
        ("host = \"origin\"", String::new()),
    ] {
        let origin = Origin::answering(OK);
        let expected = if expected.is_empty() { origin.address().to_string() } else { expected };
        let proxy = Setup::new().upstream("one", &[&origin.url()], line).start();
        proxy.send("GET / HTTP/1.1\r\nHost: front:80\r\n\r\n").expect_status(200);
        let request = origin.only_request();
        request.expect_field("Host", &expected).expect_field("X-Forwarded-Host", "front:80");
    }
}

#[test]
fn an_absolute_target_outranks_host_and_goes_on_as_a_path() {
    if is_of_http1("a target in absolute form") {
        return;
    }
    for (request_line, target) in [
        ("GET http://real.example/a?b HTTP/1.1", "/a?b"),
        ("GET HTTP://real.example HTTP/1.1", "/"),
        ("GET http://real.example?q HTTP/1.1", "/?q"),
        // RFC 9112 §3.2.4: the last proxy turns an empty path of OPTIONS into an asterisk.
        ("OPTIONS http://real.example HTTP/1.1", "*"),
    ] {
        let request = forwarded(Setup::to, &format!("{request_line}\r\nHost: other\r\n\r\n"));
        assert_eq!(request.target(), target, "{request_line}");
        request.expect_field("Host", "real.example");
    }
}

#[test]
fn any_method_a_client_may_use_goes_through() {
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "QUERY", "x-own"] {
        let request = forwarded(Setup::to, &format!("{method} /m HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(request.start, format!("{method} /m HTTP/1.1"));
    }
    let request = forwarded(Setup::to, "OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(request.start, "OPTIONS * HTTP/1.1");
}

#[test]
fn max_forwards_counts_down_where_it_means_something() {
    for (method, sent, received) in [("OPTIONS", 3, "2"), ("TRACE", 1, "0"), ("GET", 3, "3")] {
        let request = format!("{method} / HTTP/1.1\r\nHost: test\r\nMax-Forwards: {sent}\r\n\r\n");
        forwarded(Setup::to, &request).expect_field("Max-Forwards", received);
    }
}

#[test]
fn max_forwards_zero_is_answered_here() {
    // RFC 9110 §7.6.2: an intermediary must not forward such a request.
    for method in ["OPTIONS", "TRACE"] {
        let origin = Origin::untouchable();
        let proxy = Proxy::to(&origin);
        let request = format!("{method} / HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\n\r\n");
        let response = proxy.send(request).read_response();
        assert!(response.status() < 500, "{response}");
    }
}

#[test]
fn connect_is_refused_and_goes_nowhere() {
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    let request = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address());
    let response = proxy.send(request).read_response();
    assert!((400..=501).contains(&response.status()), "{response}");
}

#[test]
fn an_upgrade_that_nobody_asked_for_is_a_bad_gateway() {
    let origin = Origin::answering(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nnot http",
    );
    Proxy::to(&origin).get().expect_own_error(502, "Bad Gateway", "http_protocol_error");
}

#[test]
fn a_response_has_a_date_and_the_version_of_the_proxy() {
    let dateless = answered("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(dateless.start, "HTTP/1.1 200 OK");
    let date = dateless.field("Date").expect("a date is added");
    assert!(date.len() == 29 && date.ends_with(" GMT"), "not an IMF-fixdate: {date}");
    let old = "Sun, 06 Nov 1994 08:49:37 GMT";
    answered("HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n")
        .expect_field("Date", old);
}

#[test]
fn an_unusual_reason_passes_and_a_missing_one_is_no_error() {
    if is_of_http1("a reason phrase") {
        return;
    }
    assert_eq!(answered("HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n").start, "HTTP/1.1 299 ");
    answered("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n").expect_status(200);
    let teapot = answered("HTTP/1.1 418 I'm (a) \"teapot\"\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(teapot.start, "HTTP/1.1 418 I'm (a) \"teapot\"");
}

/// Named origins that answer with their name, behind one proxy.
struct House {
    proxy: Proxy,
    _origins: Vec<Origin>,
}

impl House {
    fn new(names: &[&'static str], routes: &[(&str, &str, &str, &str)]) -> Self {
        let mut setup = Setup::new();
        let mut origins = Vec::new();
        for &name in names {
            let origin = Origin::start(move |mut peer| {
                while let Some(request) = peer.next_request() {
                    let body = format!("{name} {}", request.target());
                    let length = body.len();
                    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"));
                }
            });
            setup = setup.upstream(name, &[&origin.url()], "");
            origins.push(origin);
        }
        for (host, path, upstream, more) in routes {
            setup = setup.route(host, path, upstream, more);
        }
        Self { proxy: setup.start(), _origins: origins }
    }

    #[track_caller]
    fn expect(&self, host: &str, path: &str, answer: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let response = self.proxy.send(request).read_response();
        if answer == "404" {
            assert!(response.body.len() < 200, "{response}");
            response.expect_status(404);
        } else {
            assert_eq!(response.text(), answer, "http://{host}{path}");
        }
    }
}

#[test]
fn the_most_exact_host_wins_then_the_longest_path() {
    // Written in an order that first-match would get wrong.
    let house = House::new(
        &["any", "deep", "suffix", "long-suffix", "exact", "exact-api"],
        &[
            ("", "/", "any", ""),
            ("", "/api/v1", "deep", ""),
            ("*.example.org", "/", "suffix", ""),
            ("*.a.example.org", "/", "long-suffix", ""),
            ("www.example.org", "/", "exact", ""),
            ("www.example.org", "/api", "exact-api", ""),
        ],
    );
    for (host, path, answer) in [
        ("other.test", "/x", "any /x"),
        ("other.test", "/api/v1", "deep /api/v1"),
        ("other.test", "/api/v1/x?y", "deep /api/v1/x?y"),
        ("other.test", "/api/v1?y", "deep /api/v1?y"),
        ("other.test", "/api/v10", "any /api/v10"),
        ("other.test", "/API/v1", "any /API/v1"),
        ("b.example.org", "/api/v1", "suffix /api/v1"),
        ("b.a.example.org", "/", "long-suffix /"),
        ("a.example.org", "/", "suffix /"),
        ("example.org", "/", "any /"),
        ("notexample.org", "/", "any /"),
        ("www.example.org", "/", "exact /"),
        ("WWW.Example.ORG:8080", "/api", "exact-api /api"),
        ("www.example.org", "/apiary", "exact /apiary"),
    ] {
        house.expect(host, path, answer);
    }
}

#[test]
fn a_host_without_a_fitting_path_falls_through_and_nothing_is_404() {
    let house = House::new(
        &["one", "two"],
        &[("www.example.org", "/only", "one", ""), ("*.example.org", "/shared", "two", "")],
    );
    house.expect("www.example.org", "/only/x", "one /only/x");
    house.expect("www.example.org", "/shared", "two /shared");
    house.expect("www.example.org", "/", "404");
    house.expect("elsewhere", "/only", "404");
}

#[test]
fn a_404_of_ours_keeps_the_connection() {
    let house = House::new(&["one"], &[("here", "/", "one", "")]);
    let mut client = house.proxy.send(GET);
    client.expect_status(404);
    client.send("GET /a HTTP/1.1\r\nHost: here\r\n\r\n").expect_status(200);
}

#[test]
fn a_stripped_prefix_leaves_a_path_that_begins_with_a_slash() {
    let house = House::new(
        &["app", "root"],
        &[("", "/app", "app", "strip_prefix = true"), ("", "/", "root", "")],
    );
    for (path, answer) in [
        ("/app/x/y?z", "app /x/y?z"),
        ("/app", "app /"),
        ("/app?q", "app /?q"),
        ("/app/", "app /"),
        ("/app//x", "app /x"),
        ("/app///x//y?//z", "app /x/y?//z"),
        ("/x/../app/./%78", "app /x"),
        ("/apple", "root /apple"),
    ] {
        house.expect("test", path, answer);
    }
}

#[test]
fn without_routes_everything_goes_to_the_first_upstream() {
    let house = House::new(&["first", "second"], &[]);
    house.expect("whatever", "/x", "first /x");
}

#[test]
fn an_old_request_without_host_takes_the_routes_for_any_host() {
    if is_of_http1("clients of HTTP/1.0") {
        return;
    }
    let house = House::new(&["any", "named"], &[("named", "/", "named", ""), ("", "/", "any", "")]);
    let response = house.proxy.send("GET /old HTTP/1.0\r\n\r\n").read_response();
    response.expect_body("any /old");
}

#[test]
fn origins_take_turns_by_weight() {
    let (light, heavy) = (Origin::answering(OK), Origin::answering(OK));
    let origins =
        format!("origins = [{:?}, {{ url = {:?}, weight = 3 }}]", light.url(), heavy.url());
    let proxy = Setup::new().upstream_lines("both", &origins).start();
    let mut client = proxy.connect();
    for _ in 0..16 {
        client.send(GET).expect_status(200);
    }
    assert_eq!((light.seen().requests.len(), heavy.seen().requests.len()), (4, 12));
}

#[test]
fn an_origin_that_refuses_is_passed_over_whatever_the_method() {
    let (refusal, origin) = (Refusal::new(), Origin::answering(OK));
    let proxy = Setup::new().upstream("both", &[&refusal.url(), &origin.url()], "").start();
    let mut client = proxy.connect();
    for _ in 0..4 {
        client.send(GET).expect_status(200);
        let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody";
        client.send(post).expect_status(200);
    }
    assert_eq!(origin.seen().requests.len(), 8);
}

#[test]
fn when_every_origin_refuses_the_answer_is_a_bad_gateway() {
    let (one, two) = (Refusal::new(), Refusal::new());
    let proxy = Setup::new().upstream("none", &[&one.url(), &two.url()], "").start();
    let mut client = proxy.send(GET);
    client.read_response().expect_own_error(502, "Bad Gateway", "connection_refused");
    // It was not the client's fault: the connection may go on.
    client.send(GET).read_response().expect_status(502);
}

#[test]
fn an_origin_may_be_named() {
    let origin = Origin::answering(OK);
    let url = format!("http://localhost:{}", origin.address().port());
    let proxy = Setup::to_url(&url).start();
    proxy.get().expect_status(200);
    origin.only_request();
}

#[test]
fn a_name_that_does_not_exist_is_a_bad_gateway_and_not_a_hang() {
    let proxy = Setup::to_url("http://no-such-host.invalid:80").start();
    let response = proxy.get();
    assert!(matches!(response.status(), 502..=504), "{response}");
    assert!(response.field("Proxy-Status").is_some(), "{response}");
}

#[test]
fn connections_are_spread_evenly_over_the_workers() {
    const WORKERS: usize = 4;
    const CLIENTS: usize = 4 * WORKERS;
    let is_full = Gate::default();
    let origin = Origin::start({
        let is_full = is_full.clone();
        move |mut peer| {
            while peer.next_request().is_some() {
                is_full.wait();
                peer.send(OK);
            }
        }
    });
    let proxy = Setup::to(&origin)
        .set("server.workers", WORKERS)
        .set("pool.max_connections", CLIENTS)
        .start();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.send(GET)).collect();
    origin.wait_for("every request", |seen| seen.requests.len() == CLIENTS);
    is_full.open();
    for client in &mut clients {
        client.expect_status(200);
    }
    // Idle connections belong to a worker. One more request per client, one client at a time, is
    // served by the newest of its worker's, so as many connections are used as there are workers.
    let before: Vec<_> = origin.seen().connections.iter().map(|c| c.bytes.len()).collect();
    for client in &mut clients {
        client.send(GET).expect_status(200);
    }
    let seen = origin.seen();
    let requests = |grown: usize| grown / before[0];
    let used: Vec<_> = before
        .iter()
        .zip(&seen.connections)
        .map(|(b, c)| requests(c.bytes.len() - b))
        .filter(|&count| count > 0)
        .collect();
    assert_eq!(used, [CLIENTS / WORKERS; WORKERS], "clients per worker");
}
