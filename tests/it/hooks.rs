//! Routes with hooks, from the client's bytes to the origin's and back.
//!
//! What is checked is what both sides see: which requests reach an origin, with which head, and
//! what the client is told. What one hook decides alone is tested beside its code; here it is that
//! the proxy does it, that connections stay usable, and that hostile values end nothing.

use std::net::SocketAddr;

use crate::support::{
    self, Blackhole, Client, GET, Message, OK, Origin, Peer, Proxy, Refusal, Setup, is_of_http1,
    logged, wait_until,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;
use ringway::hooks::custom::{
    Connect, Decision, Failure, Hook, HookError, Hooks, Page, Pending, Request, Response,
};

/// A proxy whose one route goes to `origin` and has `hooks`.
fn hooked(origin: &Origin, hooks: &str) -> Setup {
    Setup::to(origin).route("", "/", "origin", &format!("[route.hooks]\n{hooks}"))
}

fn named(name: &str) -> Origin {
    Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()))
}

/// The request with this target and these further lines.
fn request(method: &str, target: &str, lines: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{lines}\r\n")
}

fn admin_address(proxy: &Proxy) -> SocketAddr {
    let line = proxy.wait_for_log(&["admin API", "address="]);
    logged(&line, "address").parse().unwrap()
}

/// The value of a metric, or nothing.
fn metric(proxy: &Proxy, series: &str) -> Option<f64> {
    let mut client = Client::plain(admin_address(proxy));
    let text =
        client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").read_response().text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

#[test]
fn both_heads_are_edited_and_connections_go_on() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nServer: secret\r\nX-Old: 1\r\nContent-Length: 2\r\n\r\nok",
    );
    let proxy = hooked(
        &origin,
        "request_id = { trust = \"everybody\" }\n\
         request_headers = { set = { X-Client = \"${client_ip}\", \
         X-What = \"${method} ${path}\" }, remove = [\"X-Debug\"], \
         rename = { X-A = \"X-B\" }, add = { Accept = \"b\" } }\n\
         response_headers = { remove = [\"Server\"], rename = { X-Old = \"X-New\" }, \
         set = { X-Seen = \"${status} by ${upstream}\" } }\nsecurity_headers = {}",
    )
    .start();
    let mut client = proxy.connect();
    for turn in 0..3 {
        let lines = format!(
            "X-Debug: 1\r\nX-A: {turn}\r\nX-Client: 6.6.6.6\r\nAccept: a\r\n\
             X-Request-Id: id-{turn}\r\n"
        );
        let answer = client.send(request("GET", "/a/b?c", &lines)).read_response();
        answer.expect_status(200).expect_body("ok").expect_no_field("server");
        answer.expect_field("x-new", "1").expect_no_field("x-old");
        answer
            .expect_field("x-seen", "200 by origin")
            .expect_field("x-frame-options", "SAMEORIGIN");
        answer.expect_field("x-request-id", &format!("id-{turn}"));
        let sent = origin.seen().requests.last().unwrap().clone();
        sent.expect_field("x-client", "127.0.0.1").expect_field("x-what", "GET /a/b");
        sent.expect_field("x-b", &turn.to_string()).expect_no_field("x-debug");
        sent.expect_field("x-request-id", &format!("id-{turn}"));
        assert_eq!(sent.all("accept"), ["a", "b"]);
        assert_eq!(sent.target(), "/a/b?c");
    }
    assert_eq!(origin.seen().connections.len(), 1);
}

#[test]
fn a_body_arrives_whole_behind_an_edited_head() {
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            request.expect_field("x-a", "b");
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len()));
            peer.send(&request.body);
        }
    });
    let proxy = hooked(
        &origin,
        "request_headers = { set = { X-A = \"b\" } }\nresponse_headers = { set = { X-C = \"d\" } }",
    )
    .start();
    let mut client = proxy.connect();
    for body in [support::pattern(10), support::pattern(300_000)] {
        let head = request("POST", "/", &format!("Content-Length: {}\r\n", body.len()));
        client.send([head.as_bytes(), &body].concat());
        client.read_response().expect_status(200).expect_field("x-c", "d").expect_body(&body);
    }
    let chunks = "Transfer-Encoding: chunked\r\n";
    client.send(request("POST", "/", chunks)).send("5\r\nhello\r\n0\r\n\r\n");
    client.read_response().expect_status(200).expect_body("hello");
}

#[test]
fn a_route_without_hooks_runs_none() {
    let origin = Origin::answering(OK);
    let setup = Setup::to(&origin).route(
        "",
        "/hooked",
        "origin",
        "hooks = { request_headers = { set = { X-A = \"b\" } } }",
    );
    let proxy = setup.route("", "/", "origin", "").start();
    let mut client = proxy.connect();
    client.send(GET).read_response().expect_status(200);
    client.send(request("GET", "/hooked", "")).read_response().expect_status(200);
    client.send(GET).read_response().expect_status(200);
    let sent = origin.seen().requests.clone();
    let edited: Vec<_> = sent.iter().map(|request| request.field("x-a").is_some()).collect();
    assert_eq!(edited, [false, true, false]);
    wait_until("the exchanges are counted", || {
        metric(&proxy, "ringway_fastpath_requests_total") == Some(2.0)
            && metric(&proxy, "ringway_hooked_requests_total") == Some(1.0)
    });
}

#[test]
fn who_may_not_is_refused_and_may_ask_again() {
    let table = [
        ("deny = [\"127.0.0.0/8\"]", request("GET", "/", ""), 403, None),
        ("allow = [\"10.0.0.0/8\"]", request("GET", "/", ""), 403, None),
        (
            "methods = [\"GET\", \"PUT\"]",
            request("DELETE", "/", ""),
            405,
            Some(("allow", "GET, PUT")),
        ),
        (
            "redirect = { to = \"https://${host}${target}\" }",
            request("GET", "/a?b", ""),
            308,
            Some(("location", "https://test/a?b")),
        ),
        ("rewrite = { prefix = \"/x\" }", request("GET", "/..%2fy", ""), 400, None),
        (
            "cors = { origins = [\"http://a\"] }",
            request("OPTIONS", "/", "Origin: http://a\r\nAccess-Control-Request-Method: PUT\r\n"),
            204,
            Some(("access-control-allow-origin", "http://a")),
        ),
        ("respond = { status = 418, body = \"pot\" }", request("GET", "/", ""), 418, None),
    ];
    for (hooks, request, status, field) in table {
        let origin = Origin::untouchable();
        let proxy = hooked(&origin, hooks).start();
        let mut client = proxy.connect();
        for _ in 0..2 {
            let answer = client.send(&request).read_response();
            answer.expect_status(status);
            if let Some((name, value)) = field {
                answer.expect_field(name, value);
            }
        }
        origin.expect_untouched();
    }
}

#[test]
fn a_preflight_has_no_body_and_no_length() {
    let origin = Origin::untouchable();
    let proxy = hooked(&origin, "cors = {}").start();
    let lines = "Origin: http://a\r\nAccess-Control-Request-Method: PUT\r\n";
    let mut client = proxy.send(request("OPTIONS", "/", lines));
    let answer = client.read_response();
    answer.expect_status(204).expect_no_field("content-length").expect_no_field("content-type");
    answer.expect_field("access-control-allow-origin", "*").expect_body("");
}

#[test]
fn a_rate_limit_holds_for_all_connections_and_workers_of_a_client() {
    let origin = Origin::answering(OK);
    let proxy = hooked(&origin, "rate_limit = { rate = \"1/h\", burst = 5, announce = true }")
        .set("server.workers", 2)
        .start();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let mut client = proxy.connect();
        for _ in 0..2 {
            let answer = client.send(GET).read_response();
            if answer.status() == 429 {
                answer.expect_field("retry-after", "3600");
                let policy = "\"default\";q=5;w=18000";
                answer.expect_field("ratelimit-policy", policy);
            } else {
                let left = 4 - statuses.len();
                let prefix = format!("\"default\";r={left};t=");
                assert!(answer.field("ratelimit").unwrap().starts_with(&prefix), "{answer}");
            }
            statuses.push(answer.status());
        }
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    assert_eq!(origin.seen().requests.len(), 5);
    wait_until("they are counted", || {
        metric(&proxy, "ringway_limited_requests_total") == Some(3.0)
    });
}

#[test]
fn a_rate_limit_survives_a_reload_that_does_not_change_it() {
    let origin = Origin::answering(OK);
    let limit = "rate_limit = { rate = \"1/h\", burst = 1 }";
    let proxy = hooked(&origin, limit).start();
    let mut client = proxy.connect();
    client.send(GET).expect_status(200);
    client.send(GET).read_response().expect_status(429);
    let reload = |setup: Setup, generation: u32| {
        std::fs::write(proxy.home().join("ringway.toml"), setup.text()).unwrap();
        proxy.signal(Signal::SIGHUP);
        proxy.wait_for_log(&["reloaded", &format!("generation={generation} ")]);
    };
    reload(
        hooked(&origin, &format!("{limit}\nresponse_headers = {{ set = {{ X-A = \"b\" }} }}")),
        2,
    );
    client.send(GET).read_response().expect_status(429).expect_field("x-a", "b");
    reload(Setup::to(&origin), 3);
    client.send(GET).read_response().expect_status(200).expect_no_field("x-a");
}

#[test]
fn a_client_has_so_many_requests_under_way() {
    let (origin, is_open) = Origin::held();
    let proxy = hooked(&origin, "connections_per_client = 2").start();
    let mut waiting = [proxy.send(GET), proxy.send(GET)];
    origin.wait_for("both requests", |seen| seen.requests.len() == 2);
    let mut third = proxy.send(GET);
    third.read_response().expect_status(429).expect_field("retry-after", "1");
    is_open.open();
    for client in &mut waiting {
        client.read_response().expect_status(200);
    }
    third.send(GET).read_response().expect_status(200);
}

#[test]
fn a_body_that_is_too_large_is_refused_before_and_while_it_comes() {
    let origin = Origin::start(Peer::hold);
    let proxy = hooked(&origin, "body_bytes = 100").start();
    let mut known = proxy.send(request("POST", "/", "Content-Length: 101\r\n"));
    known.read_response().expect_status(413);
    let whole = format!(
        "{}65\r\n{}\r\n0\r\n\r\n",
        request("POST", "/", "Transfer-Encoding: chunked\r\n"),
        "x".repeat(101)
    );
    proxy.send(whole).read_response().expect_status(413);
    let mut growing = proxy.send(request("POST", "/", "Transfer-Encoding: chunked\r\n"));
    // Before the origin has been asked, and after.
    growing.wait_until_read();
    growing.send(format!("65\r\n{}\r\n", "x".repeat(101)));
    growing.read_response().expect_status(413);
    let mut growing = proxy.send(request("POST", "/", "Transfer-Encoding: chunked\r\n"));
    growing.send("1\r\nx\r\n");
    origin.wait_for("the beginning", |seen| seen.bytes().ends_with(b"1\r\nx\r\n"));
    growing.send(format!("65\r\n{}\r\n", "x".repeat(101)));
    growing.read_response().expect_status(413);
}

/// The password is `U*U`; from the tests of `crypt_blowfish`.
const USERS: &str = "ann:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";

#[test]
fn a_login_is_asked_for_and_taken() {
    let origin = Origin::answering(OK);
    let proxy = hooked(&origin, "basic_auth = { users_file = \"users\", realm = \"the lab\" }")
        .file("users", USERS)
        .start();
    let mut client = proxy.connect();
    let challenge = "Basic realm=\"the lab\", charset=\"UTF-8\"";
    for lines in ["", "Authorization: Basic !\r\n", "Authorization: Basic YW5uOndyb25n\r\n"] {
        let answer = client.send(request("GET", "/", lines)).read_response();
        answer.expect_status(401).expect_field("www-authenticate", challenge);
    }
    let right = format!("Authorization: Basic {}\r\n", BASE64.encode("ann:U*U"));
    client.send(request("GET", "/", &right)).read_response().expect_status(200);
    let twice = format!("{right}{right}");
    client.send(request("GET", "/", &twice)).read_response().expect_status(401);
    assert_eq!(origin.seen().requests.len(), 1);
}

/// An authority that lets in who has a cookie, and says who that is.
fn authority() -> Origin {
    Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            peer.send(match request.field("cookie") {
                Some("who=bob") => "HTTP/1.1 200 OK\r\nX-User: bob\r\nContent-Length: 2\r\n\r\nok",
                Some("who=slow") => return peer.hold(),
                Some("who=ill") => "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
                _ => {
                    "HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: a=b\r\n\
                     Content-Length: 0\r\n\r\n"
                }
            });
        }
    })
}

fn asking(origin: &Origin, authority: &Origin, more: &str) -> Proxy {
    Setup::to(origin)
        .upstream("authority", &[&authority.url()], "")
        .route(
            "",
            "/",
            "origin",
            &format!(
                "hooks = {{ forward_auth = {{ upstream = \"authority\", path = \"/verify\", \
                 response_headers = [\"X-User\"]{more} }} }}"
            ),
        )
        .start()
}

#[test]
fn an_upstream_is_asked_first_and_its_word_counts() {
    let (origin, authority) = (Origin::answering(OK), authority());
    let proxy = asking(&origin, &authority, "");
    let mut client = proxy.connect();
    let lines = "Cookie: who=bob\r\nX-User: eve\r\n";
    for _ in 0..3 {
        client.send(request("GET", "/a?b", lines)).read_response().expect_status(200);
    }
    let sent = origin.seen().requests.last().unwrap().clone();
    assert_eq!(sent.all("x-user"), ["bob"]);
    let question = authority.seen().requests.last().unwrap().clone();
    assert_eq!((question.method(), question.target()), ("GET", "/verify"));
    question.expect_field("x-forwarded-uri", "/a?b").expect_field("x-forwarded-method", "GET");
    question.expect_field("x-forwarded-for", "127.0.0.1").expect_no_field("x-user");
    assert_eq!(authority.seen().connections.len(), 1);
    let denied = client.send(request("GET", "/", "")).read_response();
    denied.expect_status(302).expect_field("location", "/login").expect_field("set-cookie", "a=b");
    assert_eq!(origin.seen().requests.len(), 3);
    // The connection that was looked for meanwhile has not been lost.
    client.send(request("GET", "/", lines)).read_response().expect_status(200);
    assert_eq!(origin.seen().connections.len(), 1);
}

#[test]
fn a_question_without_an_answer_closes_or_opens_as_configured() {
    for (more, expected) in [("", 503), (", on_failure = \"open\"", 200)] {
        let (origin, authority) = (Origin::answering(OK), authority());
        let proxy = asking(&origin, &authority, &format!(", timeout = \"50ms\"{more}"));
        let mut client = proxy.connect();
        for cookie in ["who=ill", "who=slow"] {
            let lines = format!("Cookie: {cookie}\r\nX-User: eve\r\n");
            client.send(request("GET", "/", &lines)).read_response().expect_status(expected);
        }
        let sent: Vec<_> = origin.seen().requests.clone();
        assert_eq!(sent.len(), if expected == 200 { 2 } else { 0 });
        assert!(sent.iter().all(|request| request.field("x-user").is_none()));
        drop(authority);
        let mut gone = proxy.send(request("GET", "/", "Cookie: who=bob\r\n"));
        gone.read_response().expect_status(expected);
    }
}

#[test]
fn a_question_has_one_deadline_its_connection_included() {
    let (origin, authority) = (Origin::untouchable(), Blackhole::new());
    let hooks = "hooks = { forward_auth = { upstream = \"authority\", timeout = \"50ms\" } }";
    let setup = Setup::to(&origin).upstream("authority", &[&authority.url()], "");
    let proxy = setup.route("", "/", "origin", hooks).set("timeouts.connect", "60s").start();
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send(GET).read_response().expect_status(503);
    }
    origin.expect_untouched();
}

#[test]
fn a_question_is_given_up_when_its_client_leaves() {
    let (origin, authority) = (Origin::untouchable(), Origin::silent());
    let hooks = "hooks = { forward_auth = { upstream = \"authority\", timeout = \"60s\" } }";
    let setup = Setup::to(&origin).upstream("authority", &[&authority.url()], "");
    let proxy = setup.route("", "/", "origin", hooks).start();
    let open_files = proxy.open_files();
    let client = proxy.send(GET);
    authority.wait_for("the question", |seen| !seen.bytes().is_empty());
    client.reset();
    // Without the client's connection and that of the question, long before its time is up. The
    // one that was opened ahead to the origin may stay.
    proxy.wait_for_open_files(open_files + 1);
    origin.expect_untouched();
}

#[test]
fn who_is_refused_does_not_wait_for_an_origin_that_cannot_be_reached() {
    let (gone, authority) = (Blackhole::new(), authority());
    let hooks = "hooks = { forward_auth = { upstream = \"authority\" } }";
    let setup = Setup::to_url(&gone.url()).upstream("authority", &[&authority.url()], "");
    let proxy = setup.route("", "/", "origin", hooks).set("timeouts.connect", "60s").start();
    let mut client = proxy.connect();
    client.send(GET).read_response().expect_status(302);
    let open_files = proxy.open_files();
    for _ in 0..20 {
        client.send(GET).read_response().expect_status(302);
    }
    // What was on its way to the origin has been given up.
    proxy.wait_for_open_files(open_files);
}

#[test]
fn questions_get_connections_although_everybody_waits_for_an_origin() {
    let (origin, is_open) = Origin::held();
    let authority = authority();
    let hooks = "hooks = { forward_auth = { upstream = \"authority\" } }";
    let setup = Setup::to(&origin)
        .upstream("authority", &[&authority.url()], "")
        .route("", "/", "origin", hooks)
        .set("server.workers", 1)
        .set("pool.max_connections", 2)
        .set("timeouts.pool", "10s");
    let proxy = setup.start();
    let get = request("GET", "/", "Cookie: who=bob\r\n");
    let mut clients = vec![proxy.send(&get), proxy.send(&get)];
    origin.wait_for("two requests", |seen| seen.requests.len() == 2);
    clients.extend((0..4).map(|_| proxy.send(&get)));
    for client in &clients {
        client.wait_until_read();
    }
    is_open.open();
    for client in &mut clients {
        client.read_response().expect_status(200);
    }
}

#[test]
fn paths_are_rewritten_and_nothing_hostile_gets_through() {
    let origin = Origin::answering(OK);
    let setup = Setup::to(&origin)
        .route("", "/api", "origin", "hooks = { rewrite = { prefix = \"/v2\" } }")
        .route(
            "",
            "/",
            "origin",
            "hooks = { rewrite = { regex = '^/t/([^/]*)(.*)$', \
             replacement = '/tenant/${header.x-tenant}/$1$2' } }",
        );
    let proxy = setup.start();
    let mut client = proxy.connect();
    let table = [
        ("/api/x?y=/api", "", "/v2/x?y=/api"),
        ("/api", "", "/v2"),
        ("/t/a/b?c", "X-Tenant: one\r\n", "/tenant/one/a/b?c"),
        ("/t/a", "X-Tenant: a b?#/c%\r\n", "/tenant/a%20b%3F%23%2Fc%25/a"),
        ("/other", "", "/other"),
        // The normal form is no tenant's.
        ("/t/../x", "X-Tenant: a\r\n", "/x"),
        ("/t/x/../a", "X-Tenant: a\r\n", "/tenant/a/a"),
    ];
    for (target, lines, expected) in table {
        client.send(request("GET", target, lines)).read_response().expect_status(200);
        assert_eq!(origin.seen().requests.last().unwrap().target(), expected);
    }
    for (target, lines) in [("/t/..%2fx", "X-Tenant: a\r\n"), ("/t/a", "X-Tenant: ..\r\n")] {
        client.send(request("GET", target, lines)).read_response().expect_status(400);
    }
    assert_eq!(origin.seen().requests.len(), table.len());
}

#[test]
fn hostile_values_stay_values() {
    if is_of_http1("a head that is no fields") {
        return;
    }
    let origin = Origin::answering(OK);
    let proxy = hooked(
        &origin,
        "request_headers = { set = { X-Copy = \"${header.x-evil}|${cookie.c}|${query}\" } }\n\
         response_headers = { set = { X-Copy = \"${header.x-evil}\" } }",
    )
    .start();
    let mut client = proxy.connect();
    let evils = ["%0d%0aX-Bad: 1", "a\tb", "\u{e9}\u{80}", "\"'<>;,", "x: y", "X-Bad: 1"];
    for evil in evils {
        let lines = format!("X-Evil: {evil}\r\nCookie: c={evil}\r\n");
        let answer = client.send(request("GET", "/?%0d%0aX-Bad:1", &lines)).read_response();
        answer.expect_status(200).expect_no_field("x-bad");
        let sent = origin.seen().requests.last().unwrap().clone();
        sent.expect_no_field("x-bad");
        assert_eq!(sent.all("x-copy").len(), 1);
    }
    // What could end a line never gets as far as the hooks.
    for evil in ["a\r\n b", "a\0b", "a\rb", "a\nb"] {
        let mut client = proxy.send(request("GET", "/", &format!("X-Evil: {evil}\r\n")));
        client.read_response().expect_status(400);
    }
    assert_eq!(origin.seen().requests.len(), evils.len());
}

#[test]
fn errors_have_the_pages_of_their_route() {
    let refusal = Refusal::new();
    let origin = Origin::answering("HTTP/1.1 404 Nope\r\nContent-Length: 4\r\n\r\nnope");
    let pages = "error_pages = { 404 = \"<p>gone\", 5xx = \"file:sorry.html\" }\n\
                 response_headers = { set = { X-A = \"${status}\" } }";
    let setup = Setup::to_url(&refusal.url())
        .upstream("other", &[&origin.url()], "")
        .route("", "/", "origin", &format!("[route.hooks]\n{pages}"))
        .route("", "/kept", "other", &format!("[route.hooks]\n{pages}"))
        .route("", "/pages", "other", &format!("[route.hooks]\n{pages}\nintercept_errors = true"));
    let proxy = setup.file("sorry.html", "<h1>sorry</h1>").start();
    let mut client = proxy.connect();
    let answer = client.send(GET).read_response();
    answer.expect_status(502).expect_body("<h1>sorry</h1>").expect_field("x-a", "502");
    answer.expect_field("content-type", "text/html; charset=utf-8");
    answer.expect_field("proxy-status", "ringway; error=connection_refused");
    let kept = client.send(request("GET", "/kept", "")).read_response();
    kept.expect_status(404).expect_body("nope").expect_field("x-a", "404");
    for _ in 0..2 {
        let page = client.send(request("GET", "/pages", "")).read_response();
        page.expect_status(404).expect_body("<p>gone").expect_field("x-a", "404");
    }
}

#[test]
fn a_split_sends_each_client_to_its_arm() {
    let (a, b) = (named("a"), named("b"));
    let setup = Setup::new().upstream("a", &[&a.url()], "").upstream("b", &[&b.url()], "").route(
        "",
        "/",
        "a",
        "hooks = { split = { weights = { a = 50, b = 50 }, sticky = \"cookie:cohort\" } }",
    );
    let proxy = setup.set("log.access", true).start();
    let mut client = proxy.connect();
    let mut counts = [0, 0];
    for _ in 0..60 {
        let first = client.send(GET).read_response();
        let arm = first.text();
        let cookie = first.field("set-cookie").expect("a cookie").to_owned();
        assert!(cookie.ends_with("; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax"), "{cookie}");
        let pair = cookie.split(';').next().unwrap();
        let again = client.send(request("GET", "/", &format!("Cookie: x=y; {pair}\r\n")));
        again.read_response().expect_body(&arm).expect_no_field("set-cookie");
        counts[usize::from(arm == "b")] += 1;
    }
    // The chance that one of them gets fewer than ten of sixty is one in a hundred million.
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
    proxy.wait_for_log(&["status=200", "upstream=b"]);
    wait_until("both arms are measured", || {
        let count = |arm: &str, index: usize| {
            let labels = format!("{{route=\"*/\",upstream=\"{arm}\"}}");
            let series = format!("ringway_split_duration_seconds_count{labels}");
            metric(&proxy, &series) == Some(f64::from(2 * counts[index]))
        };
        count("a", 0) && count("b", 1)
    });
}

#[test]
fn a_mirror_gets_copies_and_has_no_say() {
    let (origin, shadow) = (named("origin"), named("a much longer answer of the shadow"));
    let setup = Setup::to(&origin).upstream("shadow", &[&shadow.url()], "").route(
        "",
        "/",
        "origin",
        "hooks = { mirror = { upstream = \"shadow\", body_bytes = 10 }, \
         request_headers = { set = { X-A = \"b\" } } }",
    );
    let proxy = setup.start();
    let mut client = proxy.connect();
    client.send(request("GET", "/a?b", "")).read_response().expect_body("origin");
    let post = format!("{}hello", request("POST", "/c", "Content-Length: 5\r\n"));
    client.send(post).read_response().expect_body("origin");
    let large = format!("{}hello world", request("POST", "/d", "Content-Length: 11\r\n"));
    client.send(large).read_response().expect_body("origin");
    shadow.wait_for("two copies", |seen| seen.requests.len() == 2);
    let mut copies: Vec<Message> = shadow.seen().requests.clone();
    copies.sort_by_key(|copy| copy.target().to_owned());
    assert_eq!((copies[0].target(), copies[1].target()), ("/a?b", "/c"));
    copies[1].expect_field("x-a", "b").expect_body("hello");
    wait_until("they are counted", || {
        metric(&proxy, "ringway_mirrored_requests_total") == Some(2.0)
    });
}

/// Only what came with its head was copied.
#[test]
fn a_mirror_gets_a_body_however_it_comes() {
    const BUFFERED: &str = "buffer_requests = \"64KiB\"\n";
    let (origin, shadow) = (named("origin"), named("shadow"));
    let body = "0123456789".repeat(5000);
    let chunked =
        format!("4e20\r\n{}\r\n7530\r\n{}\r\n0\r\n\r\n", &body[..20_000], &body[20_000..]);
    let sized = format!("Content-Length: {}\r\n", body.len());
    let cases = [("", ""), (BUFFERED, ""), (BUFFERED, "Expect: 100-continue\r\n")];
    let forms = [(&*sized, &body), ("Transfer-Encoding: chunked\r\n", &chunked)];
    let mut count = 0;
    for (more, extra) in cases {
        let hooks = format!("{more}hooks = {{ mirror = {{ upstream = \"shadow\" }} }}");
        let setup = Setup::to(&origin).upstream("shadow", &[&shadow.url()], "");
        let proxy = setup.route("", "/", "origin", &hooks).start();
        for (fields, bytes) in forms {
            let mut client = proxy.send(request("POST", "/", &format!("{fields}{extra}")));
            if !extra.is_empty() {
                client.read_response_to_head().expect_status(100);
            }
            let (most, last) = bytes.split_at(bytes.len() - 1);
            for piece in [&most[..25_000], &most[25_000..]] {
                client.send(piece).wait_until_read();
            }
            client.send(last).read_response().expect_body("origin");
            count += 1;
            shadow.wait_for("one more copy", |seen| seen.requests.len() == count);
            shadow.seen().requests[count - 1].expect_body(&body);
        }
    }
    for seen in &origin.seen().requests {
        seen.expect_body(&body);
    }
}

#[test]
fn a_mirror_gets_no_part_of_a_request() {
    let (origin, shadow) = (named("origin"), named("shadow"));
    let hooks = "hooks = { mirror = { upstream = \"shadow\", body_bytes = 10 } }";
    let setup = Setup::to(&origin).upstream("shadow", &[&shadow.url()], "");
    let setup = setup.set("log.access", true);
    let proxy = setup.route("", "/", "origin", hooks).start();
    let mut client = proxy.send(request("POST", "/large", "Transfer-Encoding: chunked\r\n"));
    client.send("5\r\nhello\r\n").wait_until_read();
    client.send("6\r\n world\r\n0\r\n\r\n").read_response().expect_body("origin");
    let mut client = proxy.send(request("POST", "/cut", "Content-Length: 10\r\n"));
    client.send("hello");
    // By whoever stands in between it may be read, and not have been passed on.
    wait_until("its exchange has begun", || {
        let mut admin = Client::plain(admin_address(&proxy));
        admin.send("GET /connections HTTP/1.1\r\nHost: localhost\r\n\r\n");
        String::from_utf8_lossy(&admin.read_response().body).contains("\"phase\":\"exchange\"")
    });
    drop(client);
    proxy.wait_for_log(&["target=/cut"]);
    proxy.send(GET).read_response().expect_body("origin");
    shadow.wait_for("the only copy", |seen| !seen.requests.is_empty());
    assert_eq!(shadow.only_request().target(), "/");
    assert_eq!(metric(&proxy, "ringway_mirrored_requests_total"), Some(1.0));
}

/// It was always the first one's name.
#[test]
fn a_copy_is_written_for_the_origin_that_it_goes_to() {
    let (origin, one, other) = (named("origin"), named("one"), named("other"));
    let urls = [format!("{}/base", one.url()), other.url().replace("127.0.0.1", "localhost")];
    let setup = Setup::to(&origin).upstream(
        "shadow",
        &urls.each_ref().map(String::as_str),
        "host = \"origin\"",
    );
    let hooks = "strip_prefix = true\nhooks = { mirror = { upstream = \"shadow\" } }";
    let proxy = setup.route("", "/app", "origin", hooks).start();
    let mut client = proxy.connect();
    for _ in 0..4 {
        client.send(request("GET", "/app/a", "")).read_response().expect_body("origin");
    }
    one.wait_for("its copies", |seen| seen.requests.len() == 2);
    other.wait_for("its copies", |seen| seen.requests.len() == 2);
    for (shadow, host, path) in [
        (&one, one.address().to_string(), "/base/a"),
        (&other, format!("localhost:{}", other.address().port()), "/a"),
    ] {
        for copy in &shadow.seen().requests {
            copy.expect_field("host", &host).expect_field("x-forwarded-prefix", "/app");
            assert_eq!(copy.target(), path);
        }
    }
}

#[test]
fn a_mirror_that_hangs_holds_nobody_up() {
    let (origin, shadow) = (Origin::answering(OK), Blackhole::new());
    let setup = Setup::to(&origin).upstream("shadow", &[&shadow.url()], "").route(
        "",
        "/",
        "origin",
        "hooks = { mirror = { upstream = \"shadow\" } }",
    );
    let proxy = setup.set("pool.max_connections", 8).start();
    let mut client = proxy.connect();
    for _ in 0..20 {
        client.send(GET).read_response().expect_status(200);
    }
    wait_until("some copies are left out", || {
        metric(&proxy, "ringway_mirror_dropped_total") == Some(18.0)
    });
}

/// An origin that answers its first `failures` requests with `failure`, or by closing.
fn flaky(failures: usize, failure: Option<&'static str>) -> Origin {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Origin::start(move |mut peer| {
        while peer.next_request().is_some() {
            if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= failures {
                peer.send(OK);
            } else {
                let Some(answer) = failure else { return };
                peer.send(answer);
            }
        }
    })
}

#[test]
fn a_request_is_tried_again_where_that_harms_nobody() {
    let ill = "HTTP/1.1 503 Ill\r\nContent-Length: 3\r\n\r\nill";
    let table = [
        (Some(ill), "on = [\"5xx\"]", "GET", 200, 3_u32),
        (Some(ill), "on = [\"5xx\"]", "POST", 503, 1),
        (Some(ill), "on = [\"reset\"]", "GET", 503, 1),
        (Some(ill), "on = [\"5xx\"], attempts = 1", "GET", 503, 2),
        (None, "on = [\"reset\"]", "GET", 200, 3),
        (None, "on = [\"reset\"]", "POST", 502, 1),
        (None, "on = [\"5xx\"]", "GET", 502, 1),
    ];
    for (failure, keys, method, status, attempts) in table {
        let origin = flaky(2, failure);
        let proxy = hooked(&origin, &format!("retry = {{ {keys} }}")).start();
        let mut client = proxy.send(request(method, "/", "Content-Length: 0\r\n"));
        client.read_response().expect_status(status);
        assert_eq!(origin.seen().requests.len(), attempts as usize, "{keys} {method}");
        let retries = metric(&proxy, "ringway_retries_total");
        assert_eq!(retries, Some(f64::from(attempts - 1)), "{keys} {method}");
    }
}

#[test]
fn hooks_for_everybody_hold_where_a_route_does_not_leave_them_out() {
    let origin = Origin::answering(OK);
    let setup = Setup::to(&origin)
        .route("", "/", "origin", "")
        .route("", "/own", "origin", "hooks = { response_headers = { set = { X-B = \"own\" } } }")
        .route(
            "",
            "/free",
            "origin",
            "inherit_hooks = false\n[hooks]\nmethods = [\"GET\"]\n\
             [hooks.response_headers]\nset = { X-A = \"${route}\" }",
        );
    let proxy = setup.start();
    let mut client = proxy.connect();
    let table = [
        ("GET", "/", 200, Some("*/"), None),
        ("PUT", "/", 405, Some("*/"), None),
        ("GET", "/own", 200, Some("*/own"), Some("own")),
        ("PUT", "/free", 200, None, None),
    ];
    for (method, target, status, a, b) in table {
        let answer = client.send(request(method, target, "Content-Length: 0\r\n")).read_response();
        answer.expect_status(status);
        assert_eq!((answer.field("x-a"), answer.field("x-b")), (a, b), "{method} {target}");
    }
}

#[test]
fn an_upgrade_goes_through_a_route_with_hooks() {
    if is_of_http1("Upgrade") {
        return;
    }
    let origin = Origin::start(|mut peer| {
        let request = peer.expect_head();
        request.expect_field("x-a", "b");
        peer.send("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        let bytes = peer.read_exact(5);
        peer.send(bytes);
    });
    let proxy = hooked(&origin, "request_headers = { set = { X-A = \"b\" } }").start();
    let mut client = proxy.send(request("GET", "/", "Connection: upgrade\r\nUpgrade: echo\r\n"));
    client.read_response_to_head().expect_status(101);
    client.send("hello");
    assert_eq!(client.read_exact(5), b"hello");
}

#[test]
fn an_upgraded_connection_counts_for_its_client_until_it_ends() {
    if is_of_http1("Upgrade") {
        return;
    }
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            if request.field("upgrade").is_some() {
                peer.send("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
                return peer.echo();
            }
            peer.send(OK);
        }
    });
    let proxy = hooked(&origin, "connections_per_client = 1").start();
    let upgrade = request("GET", "/", "Connection: upgrade\r\nUpgrade: echo\r\n");
    let mut first = proxy.send(&upgrade);
    first.read_response_to_head().expect_status(101);
    let mut other = proxy.connect();
    other.send(GET).read_response().expect_status(429);
    proxy.send(&upgrade).read_response().expect_status(429);
    drop(first);
    wait_until("the place is free", || other.send(GET).read_response().status() == 200);
}

#[test]
fn a_wrong_hook_is_refused_with_its_place() {
    let origin = Origin::untouchable();
    for (hooks, place, cause) in [
        ("rate_limit = { rate = \"5\" }", "route[0].hooks.rate_limit.rate", "a rate such as"),
        ("redirct = {}", "route[0].hooks.redirct", "did you mean `redirect`?"),
        ("custom = [{ hook = \"x\" }]", "route[0].hooks.custom[0].hook", "has no hooks of its own"),
        (
            "basic_auth = { users_file = \"none\" }",
            "route[0].hooks: basic_auth.users_file: ",
            "none: ",
        ),
        (
            "error_pages = { 5xx = \"file:none.html\" }",
            "route[0].hooks: error_pages.5xx: ",
            "none.html: ",
        ),
    ] {
        let output = hooked(&origin, hooks).run();
        assert!(!output.status.success(), "{hooks}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(place) && said.contains(cause), "{hooks}: {said}");
    }
}

/// Wants a ticket, and lets tunnels go to one port only.
struct Tickets;

impl Hook for Tickets {
    fn name(&self) -> &'static str {
        "tickets"
    }

    fn on_connect<'a>(&'a self, connect: &'a Connect<'_>) -> Pending<'a, Decision> {
        let refused = Decision::Answer(Page::text(403, "no tunnels\n"));
        let decision = if connect.host == "127.0.0.1" { Decision::Continue } else { refused };
        Box::pin(std::future::ready(Ok(decision)))
    }

    fn on_request<'a>(&'a self, request: &'a mut Request<'_>) -> Pending<'a, Decision> {
        Box::pin(async move {
            match request.field("x-ticket").unwrap_or_default() {
                b"good" => request.set("X-Ticket", "used").map(|()| Decision::Continue),
                b"late" => std::future::pending().await,
                b"torn" => Err("a torn ticket".into()),
                _ => Ok(Decision::Answer(Page::text(402, "a ticket, please\n"))),
            }
        })
    }

    fn on_response(&self, response: &mut Response<'_>) -> Result<(), HookError> {
        response.set("X-Checked", "yes")
    }

    fn on_error(&self, failure: &Failure) -> Result<Option<Page>, HookError> {
        Ok((failure.status == 502).then(|| Page::text(502, failure.error)))
    }
}

/// This test is two programs: where it finds a configuration, it is the proxy.
#[test]
fn hooks_in_rust_run_in_a_binary_of_ones_own() {
    const NAME: &str = "hooks::hooks_in_rust_run_in_a_binary_of_ones_own";
    if let Some(config) = std::env::var_os("OWN_CONFIG") {
        let arguments = ["ringway".into(), "--config".into(), config];
        ringway::internals::cli::run_from(arguments, Hooks::new(vec![Box::new(Tickets)]));
        return;
    }
    let program = std::env::current_exe().unwrap();
    let launcher =
        format!("OWN_CONFIG=\"$2\" exec {} {NAME} --exact --nocapture", program.display());
    let (origin, refusal) = (Origin::answering(OK), Refusal::new());
    let setup = Setup::forward()
        .upstream("origin", &[&origin.url()], "")
        .upstream("gone", &[&refusal.url()], "")
        .route("", "/", "origin", "")
        .route(
            "",
            "/gone",
            "gone",
            "[hooks]\ncustom = [{ hook = \"tickets\", timeout = \"50ms\" }]",
        );
    let proxy = setup.launched_by(&launcher).start();
    let mut client = proxy.connect();
    let table = [("none", 402), ("late", 503), ("torn", 503), ("good", 200)];
    for (ticket, status) in table {
        let lines = format!("X-Ticket: {ticket}\r\n");
        let answer = client.send(request("GET", "/", &lines)).read_response();
        answer.expect_status(status);
        assert_eq!(answer.field("x-checked").is_some(), status == 200, "{ticket}");
    }
    origin.only_request().expect_field("x-ticket", "used");
    let gone = client.send(request("GET", "/gone", "X-Ticket: good\r\n")).read_response();
    gone.expect_status(502).expect_body("origin_refused");
    proxy.connect().tunnel(origin.address()).send(GET).read_response().expect_status(200);
    let port = origin.address().port();
    proxy.send(support::connect(format!("localhost:{port}"))).read_response().expect_status(403);
}
