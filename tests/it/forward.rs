//! The forward proxy for plain requests: who may ask, for what, how it is written for the target,
//! and which requests are for the routes all the same.
//!
//! Each test asks for something on the loopback, which `Setup::forward` allows; the tests of the
//! policy take that back. A refused request reaches nobody: the targets of those tests fail when a
//! byte arrives. RFC 9112 §3.2 says what a request target is.

use crate::support::{
    Blackhole, Client, Expected, GET, Home, Message, NameServer, OK, Origin, Proxy, Question,
    Refusal, Setup, Target, connect, get, has_own_mounts, is_of_http1, logged, pattern, ringway,
    run, wait_until,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The request as the target received it.
#[track_caller]
fn forwarded(setup: Setup, request: impl Fn(SocketAddr) -> String) -> Message {
    let origin = Origin::answering(OK);
    let proxy = setup.start();
    proxy.send(request(origin.address())).expect_status(200).expect_quiet_for(Duration::ZERO);
    origin.only_request()
}

/// An origin that says which one it is.
fn named(name: &str) -> Origin {
    let length = name.len();
    Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}"))
}

/// Who answered.
#[track_caller]
fn answer_of(proxy: &Proxy, request: impl AsRef<[u8]>) -> String {
    let response = proxy.send(request).read_response();
    response.expect_status(200);
    response.text()
}

#[track_caller]
fn expect_forbidden(proxy: &Proxy, request: impl AsRef<[u8]>) {
    let response = proxy.send(request).read_response();
    response.expect_own_error(403, "Forbidden", "http_request_denied");
}

#[test]
fn a_request_reaches_its_target_in_the_form_for_origins() {
    if is_of_http1("a reason phrase") {
        return;
    }
    let origin = Origin::answering("HTTP/1.1 203 As It Is\r\nX: y\r\nContent-Length: 2\r\n\r\nok");
    let proxy = Setup::forward().start();
    let address = origin.address();
    let request = format!(
        "GET http://{address}/a/b?c=d&e HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n\r\n"
    );
    let response = proxy.send(request).read_response();
    assert_eq!(response.start, "HTTP/1.1 203 As It Is");
    response.expect_field("X", "y").expect_body("ok");
    let request = origin.only_request();
    assert_eq!(request.start, "GET /a/b?c=d&e HTTP/1.1");
    request.expect_field("Host", &address.to_string()).expect_field("Accept", "*/*");
    request.expect_field("Via", "1.1 ringway").expect_no_field("Connection");
}

#[test]
fn the_target_outranks_host() {
    for host in ["elsewhere.test", "elsewhere.test:80", "127.0.0.1:1", "[::1]"] {
        let address = std::cell::Cell::new(None);
        let request = forwarded(Setup::forward(), |origin| {
            address.set(Some(origin));
            format!("GET http://{origin}/ HTTP/1.1\r\nHost: {host}\r\nX: y\r\n\r\n")
        });
        request.expect_field("Host", &address.get().unwrap().to_string());
        request.expect_field("X", "y");
        assert_eq!(request.fields[0].0, "Host", "Host comes first: {request}");
    }
}

#[test]
fn a_target_that_names_the_host_needs_no_field_for_it() {
    if is_of_http1("a Host beside a target") {
        return;
    }
    for host in ["", "Host:\r\n", "Host: \r\n"] {
        let address = std::cell::Cell::new(None);
        let request = forwarded(Setup::forward(), |origin| {
            address.set(Some(origin));
            format!("GET http://{origin}/ HTTP/1.1\r\n{host}\r\n")
        });
        request.expect_field("Host", &address.get().unwrap().to_string());
    }
    // That is a proxy's latitude and not a server's (RFC 9112 §3.2).
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    for head in ["http://test/ HTTP/1.1\r\n\r\n", "http://u@test/ HTTP/1.1\r\nHost: test\r\n\r\n"] {
        proxy.send(format!("GET {head}")).expect_refusal(400, "Bad Request", "http_request_error");
    }
}

#[test]
fn who_a_target_says_asks_and_a_fragment_go_no_further() {
    if is_of_http1("a name and password in a target, which :authority must not have") {
        return;
    }
    for (before, behind) in [("user:sesame@", ""), ("@", "#top"), ("", "#"), ("u%40x@", "#a?b")] {
        let origin = Origin::answering(OK);
        let address = origin.address();
        let request = format!("GET http://{before}{address}/a?b=@c{behind} HTTP/1.1\r\n\r\n");
        for parent in [None, Some(origin.url())] {
            let mut setup = Setup::forward().set("log.access", true);
            if let Some(url) = &parent {
                setup = setup.parent("office", url, "");
            }
            let proxy = setup.start();
            proxy.send(&request).expect_status(200);
            let line = proxy.wait_for_log(&["method=GET", "status=200"]);
            assert!(!line.contains("sesame") && !line.contains('#'), "{line}");
        }
        let seen = origin.seen();
        let starts: Vec<_> = seen.requests.iter().map(|request| request.start.as_str()).collect();
        let absolute = format!("GET http://{address}/a?b=@c HTTP/1.1");
        assert_eq!(starts, ["GET /a?b=@c HTTP/1.1", absolute.as_str()]);
        assert!(!String::from_utf8_lossy(&seen.bytes()).contains("sesame"));
    }
}

#[test]
fn the_port_of_http_is_named_only_where_the_client_names_it() {
    let parent = Origin::answering(OK);
    let proxy = Setup::forward().parent("office", &parent.url(), "").start();
    let mut client = proxy.connect();
    let ask = |host: &str| format!("GET http://far.test:80/ HTTP/1.1\r\n{host}\r\n");
    client.send(ask("Host: far.test\r\n")).expect_status(200);
    // A parent is asked for what the client asked for.
    parent.only_request().expect_field("Host", "far.test:80");
}

#[test]
fn an_old_request_needs_no_host_and_gets_one() {
    if is_of_http1("clients of HTTP/1.0") {
        return;
    }
    let address = std::cell::Cell::new(None);
    let request = forwarded(Setup::forward(), |origin| {
        address.set(Some(origin));
        format!("GET http://{origin}/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    });
    assert_eq!(request.start, "GET / HTTP/1.1");
    request.expect_field("Host", &address.get().unwrap().to_string());
    request.expect_field("Via", "1.0 ringway");
}

#[test]
fn the_path_is_what_follows_the_authority() {
    if is_of_http1("a target without a path") {
        return;
    }
    for (method, rest, expected) in [
        ("GET", "", "/"),
        ("GET", "/", "/"),
        ("GET", "?", "/?"),
        ("GET", "?a=http://b/", "/?a=http://b/"),
        ("GET", "//b/../%2e%2e/c", "//b/../%2e%2e/c"),
        ("GET", "/http://b/", "/http://b/"),
        ("OPTIONS", "", "*"),
        ("OPTIONS", "/", "/"),
        ("OPTIONS", "?a", "/?a"),
        ("BREW", "/pot", "/pot"),
    ] {
        for scheme in ["http", "HTTP", "hTTp"] {
            let request = forwarded(Setup::forward(), |origin| {
                format!("{method} {scheme}://{origin}{rest} HTTP/1.1\r\nHost: a\r\n\r\n")
            });
            assert_eq!(request.start, format!("{method} {expected} HTTP/1.1"), "{rest}");
        }
    }
}

#[test]
fn fields_for_this_hop_stop_here_and_others_pass() {
    if is_of_http1("fields of a connection") {
        return;
    }
    let request = forwarded(Setup::forward(), |origin| {
        format!(
            "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\nProxy-Connection: keep-alive\r\n\
             Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\nConnection: keep-alive, X-Private\r\n\
             Keep-Alive: timeout=5\r\nX-Private: 1\r\nTE: trailers\r\nUpgrade: h2c\r\n\
             Authorization: Basic YTpi\r\nCookie: a=b\r\nX-Forwarded-For: 192.0.2.9\r\n\
             Forwarded: for=192.0.2.9\r\n\r\n"
        )
    });
    for name in [
        "Proxy-Connection",
        "Proxy-Authorization",
        "Connection",
        "Keep-Alive",
        "X-Private",
        "TE",
        "Upgrade",
    ] {
        request.expect_no_field(name);
    }
    request.expect_field("Authorization", "Basic YTpi").expect_field("Cookie", "a=b");
    // What a client says of itself is its own business here.
    request.expect_field("X-Forwarded-For", "192.0.2.9").expect_field("Forwarded", "for=192.0.2.9");
    request.expect_no_field("X-Forwarded-Proto").expect_no_field("X-Forwarded-Host");
}

#[test]
fn the_target_is_told_who_asks_only_where_that_is_wanted() {
    let request = forwarded(Setup::forward(), get);
    for name in ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"] {
        request.expect_no_field(name);
    }
    let setup = Setup::forward().set("forward.add_forwarded", true);
    let request = forwarded(setup, |origin| {
        get(origin).replace("\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n")
    });
    request.expect_field("X-Forwarded-For", "127.0.0.1").expect_field("X-Forwarded-Proto", "http");
    assert!(request.field("Forwarded").is_some_and(|f| f.contains("for=127.0.0.1")), "{request}");
}

#[test]
fn bodies_pass_both_ways() {
    let body = pattern(3_000_000);
    let origin = Origin::start({
        let body = body.clone();
        move |mut peer| {
            while let Some(request) = peer.next_request() {
                request.expect_body(if request.method() == "POST" { &body[..] } else { b"" });
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
                if request.method() != "HEAD" {
                    peer.send(&body);
                }
            }
        }
    });
    let proxy = Setup::forward().start();
    let address = origin.address();
    let head = |method: &str, more: &str| {
        format!("{method} http://{address}/ HTTP/1.1\r\nHost: {address}\r\n{more}\r\n")
    };
    let mut client = proxy.connect();
    client.send(head("GET", "")).read_response().expect_body(&body);
    client.send(head("HEAD", "")).read_response_to_head().expect_field("Content-Length", "3000000");
    let mut sender = client.another_handle();
    let framings = ["Content-Length: 3000000\r\n", "Transfer-Encoding: chunked\r\n"];
    for framing in framings {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sender.send(head("POST", framing));
                if framing.starts_with('C') {
                    return sender.send(&body);
                }
                sender.send([b"2dc6c0\r\n", &body[..], b"\r\n0\r\n\r\n"].concat());
            });
            client.read_response().expect_body(&body);
        });
    }
    assert_eq!(origin.seen().connections.len(), 1);
}

#[test]
fn a_client_that_waits_for_leave_to_send_gets_it_from_the_target() {
    let origin = Origin::start(|mut peer| {
        let mut request = peer.expect_head();
        request.expect_field("Expect", "100-continue");
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        peer.read_body(&mut request, Expected::Request);
        request.expect_body("body");
        peer.send(OK);
    });
    let proxy = Setup::forward().start();
    let address = origin.address();
    let mut client = proxy.send(format!(
        "POST http://{address}/ HTTP/1.1\r\nHost: {address}\r\nContent-Length: 4\r\n\
         Expect: 100-continue\r\n\r\n"
    ));
    client.expect_status(100).send("body").expect_status(200);
}

#[test]
fn requests_for_several_targets_share_a_connection_and_keep_their_order() {
    let (a, b) = (named("a"), named("b"));
    let proxy = Setup::forward().start();
    let asked = [&a, &b, &a, &a, &b].map(|origin| get(origin.address()));
    let mut client = proxy.send(asked.concat());
    for name in ["a", "b", "a", "a", "b"] {
        client.read_response().expect_status(200).expect_body(name);
    }
}

#[test]
fn a_request_is_one_line_of_the_access_log() {
    if is_of_http1("a scheme in capitals") {
        return;
    }
    let origin = Origin::answering(OK);
    let proxy = Setup::forward().set("log.access", true).start();
    let address = origin.address();
    let mut client = proxy.send(get(address));
    client.expect_status(200).send(get(address).replace(" http", " hTTp")).expect_status(200);
    let line = proxy.wait_for_log(&[&format!("target=http://{address}/")]);
    assert_eq!((logged(&line, "method"), logged(&line, "status")), ("GET", "200"));
    assert_eq!(logged(&line, "origin"), address.to_string());
    assert_eq!((logged(&line, "reused"), logged(&line, "error")), ("false", "-"));
    let line = proxy.wait_for_log(&[&format!("target=hTTp://{address}/")]);
    assert_eq!(logged(&line, "reused"), "true");
}

#[test]
fn what_is_asked_of_the_proxy_itself_has_the_form_for_origins() {
    let origin = named("target");
    let proxy = Setup::forward().start();
    let address = origin.address();
    for path in ["/health", "/admin/cleanup", "/ready", "/metrics"] {
        let request = format!("GET http://{address}{path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        assert_eq!(answer_of(&proxy, request), "target", "{path}");
    }
}

#[test]
fn max_forwards_counts_here_too() {
    let origin = named("target");
    let proxy = Setup::forward().start();
    let address = origin.address();
    let request = |count| {
        format!(
            "OPTIONS http://{address} HTTP/1.1\r\nHost: {address}\r\nMax-Forwards: {count}\r\n\r\n"
        )
    };
    proxy.send(request(0)).read_response().expect_status(200).expect_body("");
    assert_eq!(answer_of(&proxy, request(1)), "target");
    origin.only_request().expect_field("Max-Forwards", "0");
}

// Side by side with the routes.

/// A proxy with a route for `app.test`, one for names below `apps.test` and one for the rest.
fn with_routes(app: &Origin, apps: &Origin, rest: &Origin) -> Setup {
    Setup::forward()
        .upstream("app", &[&app.url()], "")
        .upstream("apps", &[&apps.url()], "")
        .upstream("rest", &[&rest.url()], "")
        .route("app.test", "/", "app", "")
        .route("*.apps.test", "/", "apps", "")
        .route("", "/", "rest", "")
}

#[test]
fn an_origin_form_goes_to_the_routes_whatever_its_host() {
    if is_of_http1("a target in absolute form, which is told from a route's by nothing else") {
        return;
    }
    let (app, apps, rest) = (named("app"), named("apps"), named("rest"));
    let elsewhere = Origin::untouchable();
    let proxy = with_routes(&app, &apps, &rest).start();
    for (host, name) in [
        ("app.test", "app"),
        ("a.apps.test", "apps"),
        ("elsewhere.test", "rest"),
        (&elsewhere.address().to_string(), "rest"),
        (&proxy.address().to_string(), "rest"),
    ] {
        for path in ["/", "//elsewhere.test/", "/http://elsewhere.test/"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(answer_of(&proxy, request), name, "{host} {path}");
        }
    }
    assert_eq!(answer_of(&proxy, "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n"), "rest");
    assert_eq!(answer_of(&proxy, "GET / HTTP/1.0\r\n\r\n"), "rest");
}

#[test]
fn an_absolute_form_for_a_host_of_ours_goes_to_its_route() {
    if is_of_http1("a target in absolute form, which is told from a route's by nothing else") {
        return;
    }
    let (app, apps, rest) = (named("app"), named("apps"), named("rest"));
    let elsewhere = named("elsewhere");
    let proxy = with_routes(&app, &apps, &rest).start();
    let own = proxy.address();
    for (authority, name) in [
        ("app.test", "app"),
        ("APP.test", "app"),
        ("app.test:80", "app"),
        ("app.test:8443", "app"),
        ("a.apps.test", "apps"),
        ("a.b.apps.test:1", "apps"),
        (&own.to_string(), "rest"),
        (&elsewhere.address().to_string(), "elsewhere"),
    ] {
        for host in [authority, "elsewhere.test"] {
            let request = format!("GET http://{authority}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(answer_of(&proxy, request), name, "{authority}");
        }
    }
    // A route for any host makes no host ours.
    let response = proxy.send(get("apps.nowhere.invalid")).read_response();
    response.expect_own_error(502, "Bad Gateway", "dns_error");
    assert!(rest.seen().requests.iter().all(|request| request.start == "GET / HTTP/1.1"));
}

#[test]
fn a_proxy_does_not_ask_itself() {
    if is_of_http1("a target in absolute form, which is told from a route's by nothing else") {
        return;
    }
    let rest = named("rest");
    let proxy = Setup::forward()
        .upstream("rest", &[&rest.url()], "")
        .set("forward.allow", ["*", "127.0.0.0/8", "::1"])
        .start();
    let port = proxy.address().port();
    // These names lead here as well, which is only seen when they are resolved. A name may lead to
    // another address besides, at which nobody listens.
    for (host, statuses) in [
        ("127.0.0.1", [200, 403]),
        ("localhost", [403, 502]),
        ("0.0.0.0", [200, 403]),
        ("[::ffff:127.0.0.1]", [200, 403]),
    ] {
        for request in [get(format!("{host}:{port}")), connect(format!("{host}:{port}"))] {
            let response = proxy.send(&request).read_response();
            assert!(statuses.contains(&response.status()), "{host}: {response}");
            let is_route = response.status() == 200;
            assert!(!is_route || request.starts_with("GET"), "{host}: {response}");
        }
    }
    assert!(rest.seen().requests.iter().all(|request| request.list("CDN-Loop").len() == 1));
}

#[test]
fn the_administration_is_no_target() {
    if is_of_http1("a target in absolute form, which is told from a route's by nothing else") {
        return;
    }
    let rest = named("rest");
    let proxy = Setup::forward()
        .upstream("rest", &[&rest.url()], "")
        .set("forward.allow", ["*", "127.0.0.0/8", "::1"])
        .start();
    let line = proxy.wait_for_log(&["admin API"]);
    let admin: SocketAddr = logged(&line, "address").parse().expect("an address");
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        let authority = format!("{host}:{}", admin.port());
        let response = proxy.send(connect(&authority)).read_response();
        assert!(matches!(response.status(), 403 | 502), "{response}");
        for path in ["/", "/health", "/metrics", "/connections"] {
            let request =
                format!("GET http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            let response = proxy.send(request).read_response();
            assert!(response.status() != 200 || response.text() == "rest", "{path}: {response}");
        }
    }
}

#[test]
fn an_absolute_form_goes_to_the_routes_where_nothing_is_forwarded() {
    let (rest, elsewhere) = (named("rest"), Origin::untouchable());
    let proxy = Proxy::to(&rest);
    assert_eq!(answer_of(&proxy, get(elsewhere.address())), "rest");
    rest.only_request().expect_field("Host", &elsewhere.address().to_string());
}

#[test]
fn each_listener_has_its_own_mind() {
    if is_of_http1("a target in absolute form, which is told from a route's by nothing else") {
        return;
    }
    let (rest, target) = (named("rest"), named("target"));
    let proxy = Setup::forward()
        .upstream("rest", &[&rest.url()], "")
        .listen(&["127.0.0.2:0"])
        .set("forward.listeners", ["127.0.0.2:0"])
        .start();
    let [reverse, forward] = proxy.addresses() else { panic!("two listeners") };
    let ask = |listener: &SocketAddr, request: String| {
        let mut client = Client::connect(*listener);
        client.send(request);
        client
    };
    ask(reverse, get(target.address())).read_response().expect_body("rest");
    ask(forward, get(target.address())).read_response().expect_body("target");
    for listener in [reverse, forward] {
        ask(listener, GET.to_owned()).read_response().expect_body("rest");
    }
    let mut refused = ask(reverse, connect(target.address()));
    refused.expect_refusal(501, "Not Implemented", "http_request_denied");
    ask(forward, connect(target.address())).expect_tunnel();
}

#[test]
fn a_listener_that_does_not_exist_is_named_at_the_start() {
    let output = Setup::forward().set("forward.listeners", ["127.0.0.3:1"]).run();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("forward.listeners") && text.contains("127.0.0.1:0"), "{text}");
}

#[test]
fn one_flag_makes_a_forward_proxy_for_this_machine() {
    let origin = Origin::untouchable();
    let start = |more: &[&str]| {
        let home = Home::new();
        let mut command = ringway();
        command.args(["--host", "127.0.0.1", "--port", "0", "--workers", "1"]).args(more);
        command.current_dir(home.path());
        Proxy::spawn(command, home, 1)
    };
    // That loopback is denied shows that the request was understood.
    let proxy = start(&["--forward"]);
    expect_forbidden(&proxy, get(origin.address()));
    expect_forbidden(&proxy, connect(origin.address()));
    let proxy = start(&[]);
    proxy.send(get(origin.address())).expect_status(200);
    proxy.send(connect(origin.address())).expect_status(501);
}

#[test]
fn a_proxy_that_only_forwards_has_nothing_of_its_own_to_show() {
    if is_of_http1("a target in absolute form, which is told from a route's by nothing else") {
        return;
    }
    let target = Origin::answering(OK);
    let proxy = Setup::forward().start();
    for path in ["/", "/index.html", "/demo"] {
        let response =
            proxy.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).read_response();
        response.expect_own_error(404, "Not Found", "destination_not_found");
    }
    proxy.send(get(target.address())).expect_status(200);
    proxy.send(connect(target.address())).expect_tunnel();
    assert!(!proxy.log_lines().join("\n").contains("demo"), "{:#?}", proxy.log_lines());
    // Who names it wants it.
    let proxy = Setup::forward().upstream_lines("demo", "builtin = \"demo\"").start();
    proxy.send(GET).expect_status(200);
}

// Who may ask.

#[test]
fn a_client_that_is_not_allowed_is_forbidden_and_told_nothing() {
    if is_of_http1("a target in absolute form, which is told from a route's by nothing else") {
        return;
    }
    let origin = Origin::untouchable();
    let rest = named("rest");
    let proxy = Setup::forward()
        .upstream("rest", &[&rest.url()], "")
        .set("forward.allow_clients", ["192.0.2.0/24", "2001:db8::/32"])
        .start();
    expect_forbidden(&proxy, get(origin.address()));
    expect_forbidden(&proxy, get("nowhere.invalid"));
    let mut client = proxy.send(connect(origin.address()) + GET);
    client.expect_refusal(403, "Forbidden", "http_request_denied");
    // The routes are for everybody.
    assert_eq!(answer_of(&proxy, GET), "rest");
    proxy.wait_for_log(&["client=127.0.0.1", "allow_clients"]);
}

#[test]
fn clients_are_told_apart_by_their_address() {
    let origin = named("target");
    let proxy = Setup::forward().set("forward.allow_clients", ["127.0.0.7/32"]).start();
    for (source, status) in [("127.0.0.7", 200), ("127.0.0.6", 403), ("127.0.0.8", 403)] {
        let mut client = Client::connect_from(source.parse().unwrap(), proxy.address());
        client.send(get(origin.address())).expect_status(status);
    }
}

#[test]
fn by_default_this_machine_may_ask_by_either_family() {
    let origin = named("target");
    let proxy = Setup::forward().listen(&["[::1]:0"]).start();
    for listener in proxy.addresses() {
        let mut client = Client::connect(*listener);
        client.send(get(origin.address())).expect_status(200);
    }
}

#[test]
fn an_open_proxy_is_warned_of_at_the_start() {
    const OPEN: &str = "open proxy";
    let start = |clients: &[&str]| Setup::forward().set("forward.allow_clients", clients).start();
    start(&["0.0.0.0/0"]).wait_for_log(&["WARN", OPEN]);
    start(&["::1", "::/0"]).wait_for_log(&["WARN", OPEN]);
    let quiet = [start(&["127.0.0.0/8", "10.0.0.0/8"]), Setup::new().start()];
    for proxy in quiet {
        // The warning would stand before the line that names the listener.
        assert!(!proxy.log_lines().join("\n").contains(OPEN), "{:#?}", proxy.log_lines());
    }
}

// For what.

/// Spellings of this machine's addresses that a client may try, for one port.
fn loopback_spellings() -> Vec<&'static str> {
    vec![
        "127.0.0.1",
        "127.1.2.3",
        "127.255.255.254",
        "localhost",
        "LocalHost",
        "localhost.",
        "a.localhost",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0x7f.1",
        "0X7F.0.0.1",
        "0177.0.0.1",
        "127.0.0.01",
        "0",
        "0.0.0.0",
        "0.0.0.1",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7f00:1]",
        "[::127.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[::ffff:0.0.0.0]",
    ]
}

#[test]
fn this_machine_is_out_of_reach_by_default_however_it_is_spelled() {
    let (v4, v6) = (Target::new(), Target::at((Ipv6Addr::LOCALHOST, 0).into()));
    let proxy =
        Setup::new().set("forward.enabled", true).set("forward.connect_ports", ["*"]).start();
    for host in loopback_spellings() {
        for target in [&v4, &v6] {
            let authority = format!("{host}:{}", target.address().port());
            expect_forbidden(&proxy, get(&authority));
            expect_forbidden(&proxy, connect(&authority));
        }
    }
    v4.expect_nobody();
    v6.expect_nobody();
}

#[test]
fn what_is_no_place_for_a_server_is_out_of_reach_even_where_loopback_is_not() {
    let proxy = Setup::forward().start();
    for host in [
        "169.254.169.254",
        "169.254.0.1",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "[fd00:ec2::254]",
        "224.0.0.1",
        "239.255.255.250",
        "[ff02::1]",
        "255.255.255.255",
        "240.0.0.1",
        "0.0.0.0",
        "[::]",
        "127.1",
        "0x7f000001",
        "2130706433",
    ] {
        for port in [80, 443] {
            expect_forbidden(&proxy, get(format!("{host}:{port}")));
            expect_forbidden(&proxy, connect(format!("{host}:{port}")));
        }
    }
}

#[test]
fn the_log_names_the_rule_and_the_answer_does_not() {
    let origin = Origin::untouchable();
    let port = origin.address().port();
    let proxy = Setup::forward()
        .set("forward.allow_loopback", false)
        .set("forward.allow_private", false)
        .set("forward.connect_ports", ["443"])
        .set("forward.deny", ["*.denied.test:1-100", "192.0.2.0/24"])
        .set("forward.allow", ["*.test", "10.0.0.0/8:1"])
        .start();
    let ask = |request: String, authority: &str, rule: &str| {
        let response = proxy.send(request).read_response();
        response.expect_own_error(403, "Forbidden", "http_request_denied");
        let line = proxy.wait_for_log(&["denied", &format!("target={authority} "), "rule="]);
        let (_, told) = line.split_once("rule=").expect("it is there");
        assert_eq!(told.trim_matches('"'), rule, "{line}");
        let answer = format!("{}{}", String::from_utf8_lossy(&response.raw_head), response.text());
        assert!(!answer.contains(rule), "{answer}");
    };
    for (authority, rule) in [
        (origin.address().to_string(), "loopback"),
        (format!("localhost:{port}"), "loopback"),
        ("[::1]:80".to_owned(), "loopback"),
        (format!("127.1:{port}"), "number"),
        ("10.0.0.1:80".to_owned(), "private"),
        ("169.254.169.254:80".to_owned(), "link_local"),
        ("100.100.100.200:80".to_owned(), "metadata"),
        ("224.0.0.1:80".to_owned(), "multicast"),
        ("0.0.0.0:80".to_owned(), "unspecified"),
        ("255.255.255.255:80".to_owned(), "reserved"),
        ("a.denied.test:80".to_owned(), "deny *.denied.test:1-100"),
        ("192.0.2.1:80".to_owned(), "deny 192.0.2.0/24"),
        ("elsewhere.invalid:80".to_owned(), "allow"),
    ] {
        ask(get(&authority), &authority, rule);
    }
    for (authority, rule) in
        [("a.test:444".to_owned(), "connect_ports"), (proxy.address().to_string(), "own_address")]
    {
        ask(connect(&authority), &authority, rule);
    }
}

#[test]
fn private_networks_can_be_closed() {
    let proxy = Setup::forward().set("forward.allow_private", false).start();
    for host in [
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "[fd00::1]",
        "[fc00::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::10.0.0.1]",
    ] {
        expect_forbidden(&proxy, get(format!("{host}:80")));
        expect_forbidden(&proxy, connect(format!("{host}:443")));
    }
}

#[test]
fn rules_name_hosts_networks_and_ports() {
    let (open, closed) = (named("open"), Origin::untouchable());
    let denied = |rules: &[String]| Setup::forward().set("forward.deny", rules).start();
    let port = closed.address().port();
    for rule in [
        format!("127.0.0.1:{port}"),
        format!("127.0.0.0/8:{port}"),
        format!("*:{port}"),
        format!("127.0.0.0/30:{}-{}", port - 1, port),
    ] {
        let proxy = denied(&[rule]);
        expect_forbidden(&proxy, get(closed.address()));
        expect_forbidden(&proxy, connect(closed.address()));
        // Its other address, if it has one, may be dialled.
        let status = proxy.send(get(format!("localhost:{port}"))).read_response().status();
        assert!(matches!(status, 403 | 502), "{status}");
        // Whichever port it has, it lies outside of that.
        if open.address().port() != port - 1 {
            assert_eq!(answer_of(&proxy, get(open.address())), "open");
        }
    }
    let proxy = denied(&[format!("localhost:{port}")]);
    expect_forbidden(&proxy, get(format!("LOCALHOST.:{port}")));
    assert_eq!(answer_of(&proxy, get(open.address())), "open");
}

#[test]
fn a_list_in_a_file_is_followed_when_it_changes() {
    let proxy = Setup::forward()
        .file("denied", "# nobody\n*.evil.test\n")
        .set("forward.deny", ["file:denied"])
        .start();
    let ask = |name: &str| proxy.send(get(name)).read_response().status();
    assert_eq!((ask("a.evil.test"), ask("good.invalid")), (403, 502));
    std::fs::write(proxy.home().join("denied"), "good.invalid\n").unwrap();
    wait_until("the new list is used", || ask("good.invalid") == 403);
    // A list that cannot be read changes nothing.
    std::fs::write(proxy.home().join("denied"), "http://x\n").unwrap();
    proxy.wait_for_log(&["not reloaded", "denied:1"]);
    assert_eq!(ask("good.invalid"), 403);
    let output = Setup::forward().set("forward.deny", ["file:missing"]).run();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("missing: cannot be read"), "{error}");
}

#[test]
fn where_there_are_rules_for_what_is_allowed_nothing_else_is() {
    let (open, closed) = (named("open"), Origin::untouchable());
    let proxy = Setup::forward().set("forward.allow", [open.address().to_string()]).start();
    assert_eq!(answer_of(&proxy, get(open.address())), "open");
    assert_eq!(answer_of(&proxy, get(format!("localhost:{}", open.address().port()))), "open");
    proxy.tunnel(open.address());
    expect_forbidden(&proxy, get(closed.address()));
    expect_forbidden(&proxy, connect(closed.address()));
    expect_forbidden(&proxy, get("nowhere.invalid"));
}

#[test]
fn a_network_that_is_allowed_opens_loopback_and_a_name_does_not() {
    let origin = named("target");
    let address = origin.address();
    let start = |rule: String| {
        Setup::new()
            .set("forward.enabled", true)
            .set("forward.allow", [rule])
            .set("forward.connect_ports", [address.port()])
            .start()
    };
    for rule in [address.to_string(), "127.0.0.1".to_owned(), "127.0.0.0/8".to_owned()] {
        let proxy = start(rule);
        assert_eq!(answer_of(&proxy, get(address)), "target");
        proxy.tunnel(address);
    }
    for rule in ["localhost", "*", "127.0.0.2", "127.0.0.1:1"] {
        let proxy = start(rule.to_owned());
        for host in ["localhost", "127.0.0.1"] {
            expect_forbidden(&proxy, get(format!("{host}:{}", address.port())));
        }
    }
}

#[test]
fn connect_reaches_its_ports_only_and_get_reaches_all() {
    let origin = named("target");
    let address = origin.address();
    let port = address.port();
    let start =
        |setup: Setup| setup.set("forward.enabled", true).set("forward.allow_loopback", true);
    // 443 by default.
    let proxy = start(Setup::new()).start();
    expect_forbidden(&proxy, connect(address));
    assert_eq!(answer_of(&proxy, get(address)), "target");
    // Ports may be written as numbers, ranges and texts.
    for ports in [vec![port.to_string()], vec!["1".to_owned(), format!("{port}-{port}")]] {
        start(Setup::new()).set("forward.connect_ports", ports).start().tunnel(address);
    }
    start(Setup::new()).set("forward.connect_ports", [1, port]).start().tunnel(address);
    // A rule that names the port opens it.
    let proxy = start(Setup::new()).set("forward.allow", [format!("127.0.0.1:{port}")]).start();
    proxy.tunnel(address);
    let proxy = start(Setup::new()).set("forward.allow", ["127.0.0.1"]).start();
    expect_forbidden(&proxy, connect(address));
}

#[test]
fn a_forbidden_request_leaves_the_connection_to_the_next_one() {
    let (origin, closed) = (named("target"), Origin::untouchable());
    let proxy = Setup::forward().set("forward.deny", [closed.address().to_string()]).start();
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(get(closed.address())).expect_status(403);
        client.send(get(origin.address())).expect_status(200);
    }
    // A body that was not read is not a request.
    let address = closed.address();
    let post = format!(
        "POST http://{address}/ HTTP/1.1\r\nHost: {address}\r\nContent-Length: 99\r\n\r\n{}",
        get(origin.address())
    );
    client.send(post).expect_status(403).expect_closed();
    assert_eq!(origin.seen().connections.len(), 1);
}

// Bad input.

#[test]
fn what_is_no_target_is_refused_and_reaches_nobody() {
    if is_of_http1("targets that are none: such heads are reset") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Setup::forward().upstream("origin", &[&origin.url()], "").start();
    let address = origin.address();
    let port = address.port();
    for target in [
        "http:".to_owned(),
        "http:/".to_owned(),
        "http://".to_owned(),
        "http:///".to_owned(),
        format!("http://:{port}/"),
        format!("http:/{address}/"),
        format!("http:{address}/"),
        format!("{address}"),
        format!("{address}/"),
        "localhost".to_owned(),
        format!("ftp://{address}/"),
        format!("ws://{address}/"),
        format!("httpx://{address}/"),
        format!("http://{address}:80/"),
        format!("http://{address}\\@a/"),
        format!("http://{address}/\\@a/").replace("/\\", "\\"),
        format!("http://a@b@{address}/"),
        format!("http://[::1]@{address}/"),
        "http://localhost:0/".to_owned(),
        "http://localhost:65536/".to_owned(),
        format!("http://localhost:+{port}/"),
        format!("http://localhost:00000{port}/"),
        format!("http://local%68ost:{port}/"),
        format!("http://localhost,{port}/"),
        format!("http://[::1:{port}/"),
        format!("http://[::1]{port}/"),
        format!("http://[::1%25lo]:{port}/"),
        format!("http://[localhost]:{port}/"),
        format!("http://::1:{port}/"),
        format!("http://caf\u{e9}.test:{port}/"),
        "*".to_owned(),
    ] {
        let mut client =
            proxy.send(format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n{GET}"));
        client.expect_refusal(400, "Bad Request", "http_request_error");
    }
}

#[test]
fn host_must_be_right_even_where_it_counts_for_nothing() {
    if is_of_http1("a Host beside a target") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Setup::forward().start();
    let address = origin.address();
    for host in [
        format!("Host: {address}\r\nHost: {address}\r\n"),
        format!("Host:\r\nHost: {address}\r\n"),
        "Host: a b\r\n".to_owned(),
        "Host: a/b\r\n".to_owned(),
        "Host: user@a\r\n".to_owned(),
        "Host: a:b\r\n".to_owned(),
        "Host: a, b\r\n".to_owned(),
        format!("Host: {address}\r\nHost : {address}\r\n"),
    ] {
        for line in [format!("GET http://{address}/"), format!("CONNECT {address}")] {
            let mut client = proxy.send(format!("{line} HTTP/1.1\r\n{host}\r\n{GET}"));
            client.expect_refusal(400, "Bad Request", "http_request_error");
        }
    }
}

#[test]
fn a_secure_target_is_not_asked_for_in_plain_text() {
    let origin = Origin::untouchable();
    let proxy = Setup::forward().start();
    let address = origin.address();
    for scheme in ["https", "HTTPS"] {
        let response = proxy
            .send(format!("GET {scheme}://{address}/ HTTP/1.1\r\nHost: {address}\r\n\r\n"))
            .read_response();
        response.expect_own_error(501, "Not Implemented", "http_request_denied");
    }
}

#[test]
fn names_that_cannot_exist_are_never_looked_up() {
    let proxy = Setup::forward().start();
    let label = "a".repeat(64);
    let long = format!("{}invalid", "a.".repeat(127));
    for name in
        [label.as_str(), long.as_str(), "a..invalid", ".invalid", "...", "-", "a_b.invalid."]
    {
        for request in [get(name), connect(format!("{name}:80"))] {
            let status = proxy.send(request).read_response().status();
            assert!(matches!(status, 400 | 403 | 502), "{name}: {status}");
        }
    }
    proxy.send(get("nowhere.invalid")).expect_status(502);
}

// By which connection.

#[test]
fn a_target_that_refuses_is_a_bad_gateway() {
    let refusal = Refusal::new();
    let proxy = Setup::forward().start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        let response = client.send(get(refusal.address())).read_response();
        response.expect_own_error(502, "Bad Gateway", "connection_refused");
    }
}

#[test]
fn a_target_that_does_not_answer_is_a_gateway_timeout() {
    let (blackhole, silent) = (Blackhole::new(), Origin::silent());
    let proxy =
        Setup::forward().set("timeouts.connect", "300ms").set("timeouts.read", "300ms").start();
    let response = proxy.send(get(blackhole.address())).read_response();
    response.expect_own_error(504, "Gateway Timeout", "connection_timeout");
    let response = proxy.send(get(silent.address())).read_response();
    response.expect_own_error(504, "Gateway Timeout", "http_response_timeout");
}

#[test]
fn a_name_that_does_not_exist_is_a_bad_gateway() {
    let proxy = Setup::forward().start();
    let mut client = proxy.connect();
    for name in ["nowhere.invalid", "nowhere.invalid:8080", "NOWHERE.invalid."] {
        let response = client.send(get(name)).read_response();
        response.expect_own_error(502, "Bad Gateway", "dns_error");
    }
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let origin = Origin::answering(OK);
    let proxy = Setup::forward().set("pool.prewarm", 5).start();
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(get(origin.address())).expect_status(200);
        proxy.send(get(origin.address())).expect_status(200);
    }
    // One: nothing is opened ahead to a target, and the origin form of the name is no other one.
    assert_eq!(origin.seen().connections.len(), 1);
}

#[test]
fn connections_belong_to_a_host_and_a_port() {
    let origin = Origin::answering(OK);
    let port = origin.address().port();
    let proxy = Setup::forward().start();
    for (host, connections) in [
        ("127.0.0.1", 1),
        ("[::ffff:127.0.0.1]", 1),
        ("localhost", 2),
        ("LOCALHOST", 2),
        ("localhost.", 2),
        ("127.0.0.1", 2),
    ] {
        proxy.send(get(format!("{host}:{port}"))).expect_status(200);
        assert_eq!(origin.seen().connections.len(), connections, "{host}");
    }
}

#[test]
fn each_target_has_a_limit_of_its_own() {
    let (a, b) = (named("a"), named("b"));
    let proxy = Setup::forward()
        .set("pool.max_connections", 1)
        .set("pool.max_idle", 1)
        .set("timeouts.pool", "10s")
        .start();
    for _ in 0..3 {
        assert_eq!(answer_of(&proxy, get(a.address())), "a");
        assert_eq!(answer_of(&proxy, get(b.address())), "b");
    }
    assert_eq!((a.seen().connections.len(), b.seen().connections.len()), (1, 1));
}

#[test]
fn forward_requests_wait_for_the_pool_like_others() {
    let silent = Origin::silent();
    let proxy = Setup::forward()
        .set("pool.max_connections", 1)
        .set("pool.max_idle", 1)
        .set("timeouts.pool", "300ms")
        .start();
    let waiting = proxy.send(get(silent.address()));
    silent.wait_for("the request", |seen| !seen.bytes().is_empty());
    let response = proxy.send(get(silent.address())).read_response();
    response.expect_own_error(504, "Gateway Timeout", "connection_limit_reached");
    waiting.reset();
}

#[test]
fn a_connection_that_died_idle_is_replaced() {
    let origin = Origin::answering_and_closing(OK);
    let proxy = Setup::forward().start();
    let mut client = proxy.connect();
    for count in 1..=3 {
        client.send(get(origin.address())).expect_status(200);
        origin.wait_for("the end", |seen| seen.connections.len() == count && seen.open() == 0);
    }
}

#[test]
fn no_connection_is_kept_for_longer_than_it_may_be() {
    let origin = Origin::answering(OK);
    let proxy = Setup::forward().set("pool.idle_expiry", "200ms").start();
    let before = proxy.open_files();
    proxy.send(get(origin.address())).expect_status(200);
    origin.wait_for("the end", |seen| seen.connections.len() == 1 && seen.open() == 0);
    proxy.wait_for_open_files(before);
}

#[test]
fn many_targets_are_kept_apart_and_leave_nothing_behind() {
    // Connections come and go all the time: there is room for few of them, and they expire soon.
    let origins: Vec<_> = (0..40).map(|number| named(&format!("origin {number}"))).collect();
    let proxy = Setup::forward()
        .set("server.workers", 2)
        .set("pool.max_connections", 12)
        .set("pool.max_idle", 6)
        .set("pool.idle_expiry", "20ms")
        .start();
    let before = proxy.open_files();
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (proxy, origins) = (&proxy, &origins);
            scope.spawn(move || {
                let mut client = proxy.connect();
                for round in 0..60 {
                    let asked = (number * 17 + round * 7 + round / 3) % origins.len();
                    client.send(get(origins[asked].address()));
                    let response = client.read_response();
                    response.expect_status(200).expect_body(format!("origin {asked}"));
                }
            });
        }
    });
    proxy.wait_for_open_files(before);
}

// Names.

#[test]
fn an_ipv6_address_is_a_target() {
    let target = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let origin = Origin::start_at(target, |mut peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    let proxy = Setup::forward().start();
    proxy.send(get(origin.address())).expect_status(200);
    origin.only_request().expect_field("Host", &origin.address().to_string());
}

/// An origin that answers at a given address.
fn answering_at(address: impl Into<IpAddr>, port: u16) -> Origin {
    Origin::start_at(SocketAddr::new(address.into(), port), |mut peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    })
}

#[test]
fn localhost_is_whichever_family_answers() {
    let v4 = answering_at(Ipv4Addr::LOCALHOST, 0);
    let proxy = Setup::forward().start();
    let at = |origin: &Origin| format!("localhost:{}", origin.address().port());
    proxy.send(get(at(&v4))).expect_status(200);
    proxy.tunnel(at(&v4));
    if !has_own_mounts() {
        return;
    }
    let v6 = answering_at(Ipv6Addr::LOCALHOST, 0);
    let proxy = Setup::forward().with_hosts("127.0.0.1 localhost\n::1 localhost\n").start();
    for origin in [&v4, &v6] {
        proxy.send(get(at(origin))).expect_status(200);
        proxy.tunnel(at(origin));
    }
}

#[test]
fn a_name_in_the_table_of_hosts_is_judged_by_its_address() {
    if !has_own_mounts() {
        return;
    }
    let (origin, target) = (named("target"), Target::new());
    let hosts = "127.0.0.1 inside.test\n169.254.169.254 metadata.test\n0.0.0.0 nothing.test\n";
    let proxy = Setup::forward().with_hosts(hosts).start();
    let at = |host: &str, port: u16| format!("{host}:{port}");
    let (open, hidden) = (origin.address().port(), target.address().port());
    assert_eq!(answer_of(&proxy, get(at("inside.test", open))), "target");
    let proxy = Setup::forward().set("forward.allow_loopback", false).with_hosts(hosts).start();
    for host in ["inside.test", "INSIDE.test.", "metadata.test", "nothing.test"] {
        expect_forbidden(&proxy, get(at(host, hidden)));
        expect_forbidden(&proxy, connect(at(host, hidden)));
    }
    let line = proxy.wait_for_log(&["target=inside.test:", "rule=loopback"]);
    assert!(line.contains("127.0.0.1"), "the address belongs in the log: {line}");
    target.expect_nobody();
}

#[test]
fn each_address_of_a_name_has_its_turn() {
    if !has_own_mounts() {
        return;
    }
    // A port that is free at all of these addresses.
    let origin = answering_at(Ipv4Addr::new(127, 0, 0, 9), 0);
    let port = origin.address().port();
    let _blackhole = Blackhole::at((Ipv4Addr::new(127, 0, 0, 8), port).into());
    let hosts = "::1 a.test\n127.0.0.7 a.test\n127.0.0.8 a.test\n127.0.0.9 a.test\n";
    let proxy = Setup::forward().set("timeouts.connect", "1h").with_hosts(hosts).start();
    proxy.send(get(format!("a.test:{port}"))).expect_status(200);
    proxy.tunnel(format!("a.test:{port}"));
}

#[test]
fn a_name_that_is_bound_again_is_judged_again() {
    if !has_own_mounts() {
        return;
    }
    // What it says the second time is what an attacker wants to be dialled.
    let allowed = Ipv4Addr::new(127, 0, 0, 2);
    let questions = AtomicUsize::new(0);
    let server = NameServer::start(move |question| match question.name.as_str() {
        "rebound.test" if question.is_v6 => Some(vec![allowed.into()]),
        "rebound.test" if questions.fetch_add(1, Ordering::Relaxed) == 0 => {
            Some(vec![allowed.into()])
        }
        "rebound.test" => Some(vec![Ipv4Addr::LOCALHOST.into()]),
        "both.test" => Some(vec![Ipv4Addr::LOCALHOST.into(), allowed.into()]),
        "sixth.test" => Some(vec![Ipv6Addr::LOCALHOST.into()]),
        _ => Some(Vec::new()),
    });
    let Some(server) = server else {
        eprintln!("skipped: this process may not listen on port 53");
        return;
    };
    let others = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let (target, hidden) = Target::at_one_port(allowed.into(), others);
    let port = target.address().port();
    let proxy = Setup::forward()
        .set("forward.allow_loopback", false)
        .set("forward.allow", [format!("{allowed}/32")])
        .with_name_server(&server)
        .start();
    let mut client = proxy.tunnel(format!("rebound.test:{port}"));
    let mut far = target.accept();
    client.send("x");
    far.expect_stream(b"x");
    expect_forbidden(&proxy, connect(format!("rebound.test:{port}")));
    expect_forbidden(&proxy, get(format!("rebound.test:{port}")));
    expect_forbidden(&proxy, get(format!("sixth.test:{port}")));
    // One address of several that may be dialled is dialled, and the other is not.
    proxy.tunnel(format!("both.test:{port}"));
    target.accept();
    let response = proxy.send(get(format!("none.test:{port}"))).read_response();
    response.expect_own_error(502, "Bad Gateway", "dns_error");
    hidden.iter().for_each(Target::expect_nobody);
}

#[test]
fn a_name_server_that_is_silent_is_a_gateway_timeout_for_those_who_need_it() {
    if !has_own_mounts() {
        return;
    }
    let Some(server) = NameServer::start(|_| None) else {
        eprintln!("skipped: this process may not listen on port 53");
        return;
    };
    let origin = Origin::answering(OK);
    let proxy = Setup::forward().set("dns.timeout", "500ms").with_name_server(&server).start();
    let mut waiting = proxy.send(get("silent.test"));
    let mut tunnel = proxy.send(connect("silent.test:443"));
    // Nobody else waits: there is one thread.
    for _ in 0..20 {
        proxy.send(get(origin.address())).expect_status(200);
    }
    let response = waiting.read_response();
    response.expect_own_error(504, "Gateway Timeout", "dns_timeout");
    tunnel.expect_refusal(504, "Gateway Timeout", "dns_timeout");
}

/// Of a name server that leaves questions for IPv6 unanswered, as some do.
fn only_v4(question: &Question) -> Option<Vec<IpAddr>> {
    (!question.is_v6).then(|| vec![Ipv4Addr::LOCALHOST.into()])
}

#[test]
fn an_address_of_one_family_is_used_when_the_other_does_not_come() {
    let origin = Origin::answering(OK);
    let server = NameServer::anywhere(only_v4);
    let port = origin.address().port();
    let url = format!("http://app.test:{port}");
    let proxy = Setup::forward().asking(&server).upstream("app", &[&url], "").start();
    proxy.send(get(format!("far.test:{port}"))).expect_status(200);
    proxy.send(connect(format!("near.test:{port}"))).expect_tunnel();
    // Names of origins likewise.
    proxy.get().expect_status(200);
}

#[test]
fn a_silent_zone_holds_up_no_other() {
    let origin = Origin::answering(OK);
    let server = NameServer::anywhere(|question: &Question| {
        let is_silent = question.name.ends_with(".silent.test");
        (!is_silent).then(|| vec![Ipv4Addr::LOCALHOST.into()])
    });
    let proxy = Setup::forward().asking(&server).set("dns.timeout", "20s").start();
    let waiting: Vec<_> =
        (0..300).map(|number| proxy.send(connect(format!("n{number}.silent.test:443")))).collect();
    for client in &waiting {
        client.wait_until_read();
    }
    let port = origin.address().port();
    for name in ["far.test", "other.test", "far.test"] {
        proxy.send(get(format!("{name}:{port}"))).expect_status(200);
    }
}

#[test]
fn only_the_family_that_is_wanted_is_asked_for() {
    let origin = Origin::answering(OK);
    for (family, expected) in
        [("v4", [false].as_slice()), ("v6", &[true]), ("prefer_v4", &[false, true])]
    {
        let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let server = NameServer::anywhere({
            let asked = asked.clone();
            move |question: &Question| {
                asked.lock().unwrap().push(question.is_v6);
                Some(vec![Ipv4Addr::LOCALHOST.into()])
            }
        });
        let proxy = Setup::forward().asking(&server).set("dns.family", family).start();
        let request = get(format!("far.test:{}", origin.address().port()));
        let status = proxy.send(request).read_response().status();
        assert_eq!(status, if family == "v6" { 502 } else { 200 });
        let mut asked = asked.lock().unwrap().clone();
        asked.sort_unstable();
        assert_eq!(asked, expected, "{family}");
    }
}

#[test]
fn the_table_of_hosts_is_followed_when_it_changes() {
    if !has_own_mounts() {
        return;
    }
    let proxy = Setup::forward().with_hosts("127.0.0.1 moved.test\n").start();
    let target = Target::new();
    let port = target.address().port();
    let ask = || proxy.send(connect(format!("moved.test:{port}"))).read_head().unwrap().status();
    assert_eq!(ask(), 200);
    // In place, as what is mounted is the file and not its name.
    std::fs::write(proxy.home().join("hosts"), "169.254.1.1 moved.test # elsewhere\n").unwrap();
    wait_until("the new address is used", || ask() == 403);
}

#[test]
fn names_are_asked_for_once_while_the_answer_is_good() {
    if !has_own_mounts() {
        return;
    }
    let questions = std::sync::Arc::new(AtomicUsize::new(0));
    let server = NameServer::start({
        let questions = questions.clone();
        move |question| {
            if question.name == "missing.test" && !question.is_v6 {
                questions.fetch_add(1, Ordering::Relaxed);
            }
            Some(Vec::new())
        }
    });
    let Some(server) = server else {
        eprintln!("skipped: this process may not listen on port 53");
        return;
    };
    let asked = |negative_ttl: &str| {
        let before = questions.load(Ordering::Relaxed);
        let proxy = Setup::forward()
            .set("dns.negative_ttl", negative_ttl)
            .with_name_server(&server)
            .start();
        for _ in 0..5 {
            proxy.send(get("missing.test")).expect_status(502);
        }
        questions.load(Ordering::Relaxed) - before
    };
    assert_eq!(asked("1h"), 1, "questions");
    assert_eq!(asked("0s"), 5, "questions");
}

#[test]
fn the_configuration_is_checked_before_anything_starts() {
    for (key, value, expected) in [
        ("forward.allow_clients", "localhost", "forward.allow_clients"),
        ("forward.connect_ports", "0", "forward.connect_ports"),
        ("forward.allow", "http://a", "forward.allow"),
        ("forward.deny", "10.0.0.0/33", "forward.deny"),
    ] {
        let home = Home::new();
        let text = Setup::forward().set(key, [value]).text();
        let mut command = ringway();
        command.arg("check").arg("--config").arg(home.write("bad.toml", &text));
        let output = run(command);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(expected), "{key}: {error}");
    }
}
