//! Who may use the forward proxy, by name and password.
//!
//! A client says who it is in `Proxy-Authorization` (RFC 7617). Whoever does not is told how (407)
//! and reaches nobody; whoever tries too often is told to wait (429). What a client says is for the
//! proxy alone: no target and no log ever sees it, and no connection is shared between users.

use crate::support::{
    Client, GET, Message, OK, Origin, Proxy, Setup, Target, connect, get, is_of_http1,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;
use std::thread;
use std::time::Duration;

/// The password is `password`; from the tests of the reference implementation.
const ARGON2ID: &str =
    "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

/// The password is `U*U`; from the tests of `crypt_blowfish`.
const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

const REASON: &str = "Proxy Authentication Required";

/// Two users: `ann` with the password `U*U` and `bob` with the password `password`.
fn with_users() -> Setup {
    with_users_file(&format!("# who may\nann:{BCRYPT}\n\nbob:{ARGON2ID}:Bob Smith\n"))
}

fn with_users_file(text: &str) -> Setup {
    Setup::forward().file("users", text).set("forward.users_file", "users")
}

fn basic(pair: &str) -> String {
    format!("Basic {}", BASE64.encode(pair))
}

/// `request` with a field that says who asks.
fn by(request: &str, credentials: &str) -> String {
    request.replace("\r\n\r\n", &format!("\r\nProxy-Authorization: {credentials}\r\n\r\n"))
}

fn by_ann(request: &str) -> String {
    by(request, &basic("ann:U*U"))
}

fn by_bob(request: &str) -> String {
    by(request, &basic("bob:password"))
}

#[track_caller]
fn expect_challenge(response: &Message) {
    response.expect_own_error(407, REASON, "http_request_denied");
    let challenge = response.field("Proxy-Authenticate").unwrap_or_default();
    assert!(challenge.starts_with("Basic realm=\"ringway\""), "{response}");
    response.expect_no_field("WWW-Authenticate");
}

#[test]
fn a_client_that_says_nothing_is_asked_and_reaches_nobody() {
    if is_of_http1("a connection that ends with its answer") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = with_users().start();
    let mut client = proxy.connect();
    for _ in 0..3 {
        expect_challenge(&client.send(get(origin.address())).read_response());
    }
    let response = proxy.send(connect(origin.address()) + GET).read_response();
    expect_challenge(&response);
    response.expect_field("Connection", "close");
    assert_eq!(origin.seen().connections.len(), 0);
}

#[test]
fn a_client_that_was_asked_may_answer_on_the_same_connection() {
    let origin = Origin::answering(OK);
    let proxy = with_users().start();
    let request = get(origin.address());
    let mut client = proxy.send(&request);
    client.expect_status(407).send(by_ann(&request)).expect_status(200);
    // It has to say so each time: a connection is nobody's.
    client.send(&request).expect_status(407).send(by_bob(&request)).expect_status(200);
}

#[test]
fn whoever_is_known_gets_through_and_a_tunnel_too() {
    let origin = Origin::answering(OK);
    let target = Target::new();
    let proxy = with_users().start();
    for pair in ["ann:U*U", "bob:password"] {
        for scheme in ["Basic", "basic", "BASIC"] {
            let credentials = basic(pair).replace("Basic", scheme);
            proxy.send(by(&get(origin.address()), &credentials)).expect_status(200);
            let mut client = proxy.send(by(&connect(target.address()), &credentials));
            client.expect_tunnel().send("x");
            target.accept().expect_stream(b"x");
        }
    }
}

#[test]
fn what_a_client_says_of_itself_reaches_no_target() {
    let origin = Origin::answering(OK);
    let proxy = with_users().upstream("origin", &[&origin.url()], "").start();
    let request = by_ann(&get(origin.address()))
        .replace("\r\n\r\n", "\r\nAuthorization: Basic eDp5\r\nCookie: a=b\r\n\r\n");
    proxy.send(&request).expect_status(200);
    proxy.send(by_ann(GET)).expect_status(200);
    proxy.send(by(GET, &basic("nobody:nothing"))).expect_status(200);
    let seen = origin.seen();
    for request in &seen.requests {
        request.expect_no_field("Proxy-Authorization");
    }
    seen.requests[0].expect_field("Authorization", "Basic eDp5").expect_field("Cookie", "a=b");
    assert!(!String::from_utf8_lossy(&seen.bytes()).contains(&basic("ann:U*U")));
}

#[test]
fn whoever_is_not_known_is_asked_again() {
    let origin = Origin::untouchable();
    let proxy = with_users().set("forward.auth_failures", 1_000).start();
    for credentials in [
        basic("ann:password"),
        basic("ann:u*u"),
        basic("ann:U*U "),
        basic("ann:"),
        basic("ann"),
        basic("Ann:U*U"),
        basic("ann :U*U"),
        basic(":U*U"),
        basic(""),
        basic("carl:U*U"),
        basic("# who may:U*U"),
        basic("ann:U*U\n"),
        "Basic".to_owned(),
        "Basic ".to_owned(),
        "Basic !!!".to_owned(),
        format!("Basic  {},", BASE64.encode("ann:U*U")),
        format!("Basic {} x", BASE64.encode("ann:U*U")),
        BASE64.encode("ann:U*U"),
        format!("Bearer {}", BASE64.encode("ann:U*U")),
        "Digest username=\"ann\", realm=\"ringway\"".to_owned(),
        "Negotiate".to_owned(),
        format!("Basic {}", "A".repeat(4_000)),
        String::new(),
    ] {
        let response = proxy.send(by(&get(origin.address()), &credentials)).read_response();
        expect_challenge(&response);
        let mut client = proxy.send(by(&connect(origin.address()), &credentials));
        expect_challenge(&client.read_response());
        client.expect_closed();
    }
}

#[test]
fn a_body_that_comes_with_a_refused_request_is_no_request() {
    if is_of_http1("what is skipped before the next request") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = with_users().start();
    let address = origin.address();
    let post = |fields: &str| {
        format!("POST http://{address}/ HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n")
    };
    let hidden = by_ann(&get(address));
    let length = hidden.len();
    // What is there already is skipped, and the next request may follow.
    let mut client = proxy.send(post(&format!("Content-Length: {length}\r\n")) + &hidden);
    client.expect_status(407).send(get(address)).expect_status(407);
    let chunked = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let mut client = proxy.send(post("Transfer-Encoding: chunked\r\n") + &chunked);
    client.expect_status(407).send(get(address)).expect_status(407);
    // What is not there yet is not waited for.
    let more = format!("Content-Length: {}\r\n", length + 1);
    for fields in [more.as_str(), "Content-Length: 99999999\r\nExpect: 100-continue\r\n"] {
        let mut client = proxy.send(post(fields));
        client.expect_refusal(407, REASON, "http_request_denied");
        let mut client = proxy.send(post(fields) + &hidden);
        client.expect_refusal(407, REASON, "http_request_denied");
    }
}

#[test]
fn a_client_that_reads_only_after_a_large_upload_reads_why_it_was_refused() {
    const UPLOAD_BYTES: usize = 96 << 20;
    let origin = Origin::untouchable();
    let proxy = with_users().start();
    let address = origin.address();
    let head =
        |framing: &str| format!("POST http://{address}/ HTTP/1.1\r\nHost: a\r\n{framing}\r\n");
    let piece = vec![b'x'; 1 << 20];
    for (framing, before, behind) in [
        (format!("Content-Length: {UPLOAD_BYTES}\r\n"), "", ""),
        ("Transfer-Encoding: chunked\r\n".to_owned(), "100000\r\n", "\r\n"),
    ] {
        let mut client = proxy.send(by(&head(&framing), &basic("ann:wrong")));
        for _ in 0..UPLOAD_BYTES / piece.len() {
            client.send(before).send(&piece).send(behind);
        }
        client.expect_refusal(407, REASON, "http_request_denied");
    }
}

#[test]
fn a_client_that_says_two_things_is_believed_in_none() {
    let origin = Origin::untouchable();
    let proxy = with_users().start();
    let request = get(origin.address());
    for request in [
        by_ann(&by_ann(&request)),
        by_ann(&by_bob(&request)),
        by(&request, &format!("{}, {}", basic("ann:U*U"), basic("bob:password"))),
    ] {
        expect_challenge(&proxy.send(request).read_response());
    }
    // What is meant for the target says nothing to the proxy.
    let authorization = by_ann(&request).replace("Proxy-Authorization", "Authorization");
    expect_challenge(&proxy.send(authorization).read_response());
}

#[test]
fn the_routes_ask_nobody() {
    if is_of_http1("a form of its own for what is to be passed on") {
        return;
    }
    let origin = Origin::answering(OK);
    let proxy = with_users()
        .upstream("origin", &[&origin.url()], "")
        .route("app.test", "/", "origin", "")
        .start();
    for request in [GET.replace("test", "app.test"), get("app.test")] {
        proxy.send(request).expect_status(200);
    }
    proxy.send(GET).expect_status(404);
}

#[test]
fn who_asks_is_settled_before_what_is_asked_for() {
    let proxy = with_users().set("forward.deny", ["denied.test"]).start();
    for authority in ["denied.test:443", "nowhere.invalid:443", "169.254.169.254:443"] {
        // What is forbidden, and what exists, is nothing to tell a stranger.
        expect_challenge(&proxy.send(get(authority)).read_response());
        expect_challenge(&proxy.send(connect(authority)).read_response());
    }
    proxy.send(by_ann(&get("denied.test"))).expect_status(403);
    proxy.send(by_ann(&get("nowhere.invalid"))).expect_status(502);
    let proxy = with_users().set("forward.allow_clients", ["192.0.2.1"]).start();
    proxy.send(get("denied.test")).expect_status(403);
    proxy.send(by_ann(&get("denied.test"))).expect_status(403);
}

#[test]
fn the_realm_is_configured() {
    let proxy = with_users().set("forward.realm", "Cafe 7").start();
    let response = proxy.send(get("a.invalid")).read_response();
    let challenge = response.field("Proxy-Authenticate").unwrap_or_default().to_owned();
    assert!(challenge.starts_with("Basic realm=\"Cafe 7\""), "{response}");
}

#[test]
fn whoever_fails_too_often_has_to_wait() {
    let origin = Origin::answering(OK);
    let proxy = with_users().set("forward.auth_failures", 3).start();
    let wrong = |password: usize| by(&get(origin.address()), &basic(&format!("ann:{password}")));
    let from = |source: &str| Client::connect_from(source.parse().unwrap(), proxy.address());
    let mut client = from("127.0.0.5");
    for password in 0..3 {
        client.send(wrong(password)).expect_status(407);
    }
    // The right password is not looked at either: it might be a guess.
    for request in [wrong(3), by_ann(&get(origin.address())), by_bob(&get(origin.address()))] {
        let response = client.send(request).read_response();
        response.expect_own_error(429, "Too Many Requests", "http_request_denied");
        let seconds = response.field("Retry-After").and_then(|text| text.parse::<u32>().ok());
        assert!(seconds.is_some_and(|seconds| (1..=60).contains(&seconds)), "{response}");
    }
    let mut tunnel = from("127.0.0.5");
    tunnel.send(by_ann(&connect(origin.address())));
    tunnel.expect_refusal(429, "Too Many Requests", "http_request_denied");
    // Others are not to blame.
    from("127.0.0.6").send(by_ann(&get(origin.address()))).expect_status(200);
    assert_eq!(origin.seen().requests.len(), 1);
}

#[test]
fn whoever_says_nothing_fails_at_nothing() {
    let origin = Origin::answering(OK);
    let proxy = with_users().set("forward.auth_failures", 1).start();
    for _ in 0..5 {
        proxy.send(get(origin.address())).expect_status(407);
    }
    proxy.send(by_ann(&get(origin.address()))).expect_status(200);
}

#[test]
fn only_names_and_passwords_are_counted_as_failures() {
    let origin = Origin::answering(OK);
    let proxy = with_users().start();
    let failures = |count: u32| {
        let line = format!("\nringway_auth_failures_total {count}\n");
        let metrics = proxy.admin("GET", "/metrics");
        assert!(metrics.contains(&line), "{line:?} in {metrics}");
    };
    for scheme in ["Negotiate YII=", "NTLM TlRMTVNTUAAB", "Bearer abc"] {
        proxy.send(by(&get(origin.address()), scheme)).expect_status(407);
    }
    failures(0);
    proxy.send(by(&get(origin.address()), &basic("ann:wrong"))).expect_status(407);
    failures(1);
}

#[test]
fn no_connection_is_shared_between_users() {
    if is_of_http1("a form of its own for what is to be passed on") {
        return;
    }
    let origin = Origin::start(|mut peer| {
        // The origin takes a connection for a user, as some logins do.
        let body = peer.number.to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        while peer.next_request().is_some() {
            peer.send(&answer);
        }
    });
    let proxy = with_users().upstream("origin", &[&origin.url()], "").start();
    let request = get(origin.address());
    let mut shared = proxy.connect();
    let mut ask = |request: String| shared.send(request).read_response().expect_status(200).text();
    let ann = ask(by_ann(&request));
    let bob = ask(by_bob(&request));
    // Nor with the routes, which ask nobody.
    let anybody = ask(GET.to_owned());
    assert!(ann != bob && ann != anybody && bob != anybody, "{ann} {bob} {anybody}");
    for _ in 0..3 {
        assert_eq!(ask(by_bob(&request)), bob);
        assert_eq!(ask(by_ann(&request)), ann);
        assert_eq!(ask(GET.to_owned()), anybody);
        let mut other = proxy.send(by_ann(&request));
        assert_eq!(other.read_response().text(), ann, "from another client");
    }
    assert_eq!(origin.seen().connections.len(), 3);
}

#[test]
fn many_may_log_in_at_once() {
    let origin = Origin::answering(OK);
    let proxy = with_users().set("server.workers", 2).start();
    let before = proxy.open_files();
    thread::scope(|scope| {
        for number in 0..40 {
            let (proxy, origin) = (&proxy, &origin);
            scope.spawn(move || {
                let request = get(origin.address());
                let request = if number % 2 == 0 { by_ann(&request) } else { by_bob(&request) };
                let mut client = proxy.connect();
                for _ in 0..5 {
                    client.send(&request).expect_status(200);
                }
            });
        }
    });
    // The idle connections to the origin stay.
    let idle = origin.seen().open();
    proxy.wait_for_open_files(before + idle);
}

#[test]
fn a_password_that_takes_long_to_verify_holds_up_nobody() {
    if is_of_http1("a form of its own for what is to be passed on") {
        return;
    }
    // Seconds of work, whatever the password.
    let slow = BCRYPT.replace("$05$", "$15$");
    let origin = Origin::answering(OK);
    let proxy = with_users_file(&format!("ann:{BCRYPT}\nslow:{slow}\n"))
        .upstream("origin", &[&origin.url()], "")
        .start();
    let mut waiting = proxy.send(by(&get(origin.address()), &basic("slow:x")));
    waiting.wait_until_read();
    for _ in 0..20 {
        proxy.get().expect_status(200);
        proxy.send(by_ann(&get(origin.address()))).expect_status(200);
    }
    waiting.expect_quiet_for(Duration::from_millis(1));
    waiting.expect_status(407);
}

#[test]
fn a_client_that_leaves_while_its_password_is_verified_leaves_nothing_behind() {
    let slow = BCRYPT.replace("$05$", "$13$");
    let origin = Origin::untouchable();
    let proxy = with_users_file(&format!("slow:{slow}\n")).start();
    let before = proxy.open_files();
    for end in [drop, Client::reset] {
        let client = proxy.send(by(&get(origin.address()), &basic("slow:x")));
        client.wait_until_read();
        end(client);
    }
    proxy.wait_for_open_files(before);
}

#[test]
fn a_drain_does_not_wait_for_a_password() {
    let slow = BCRYPT.replace("$05$", "$15$");
    let origin = Origin::untouchable();
    let mut proxy =
        with_users_file(&format!("slow:{slow}\n")).set("server.drain_timeout", "100ms").start();
    let mut client = proxy.send(by(&get(origin.address()), &basic("slow:x")));
    client.wait_until_read();
    proxy.signal(Signal::SIGTERM);
    client.expect_no_success();
    proxy.expect_orderly_end();
}

#[test]
fn no_log_shows_a_password() {
    let origin = Origin::answering(OK);
    for format in ["text", "json"] {
        let proxy = with_users()
            .set("log.level", "trace")
            .set("log.access", true)
            .set("log.access_format", format)
            .start();
        proxy.send(by_bob(&get(origin.address()))).expect_status(200);
        proxy.send(by(&get(origin.address()), &basic("bob:Tr0ub4dor"))).expect_status(407);
        proxy.send(by_bob(&connect(origin.address()))).expect_tunnel();
        proxy.send(by_bob(&get("nowhere.invalid"))).expect_status(502);
        proxy.wait_for_log(&["nowhere.invalid"]);
        let log = proxy.log_lines().join("\n");
        let (right, wrong) = (BASE64.encode("bob:password"), BASE64.encode("bob:Tr0ub4dor"));
        for secret in [right.as_str(), &wrong, "Tr0ub4dor", "nf65EOgL", "E5YPO9kmyuRGyh0"] {
            assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
        }
    }
}

#[test]
fn a_failed_login_is_in_the_log_with_its_client_and_name() {
    let proxy = with_users().set("log.access", true).start();
    let mut client = Client::connect_from("127.0.0.44".parse().unwrap(), proxy.address());
    client.send(by(&get("a.invalid"), &basic("mallory:x"))).expect_status(407);
    let line = proxy.wait_for_log(&["127.0.0.44", "mallory"]);
    assert!(!line.contains("bWFsbG9yeTp4"), "{line}");
    proxy.wait_for_log(&["status=407", "error=login_required"]);
}

#[test]
fn a_file_that_lets_nobody_in_or_cannot_be_read_is_named_at_the_start() {
    for (text, expected) in [
        (String::new(), "users"),
        ("# nobody yet\n".to_owned(), "users"),
        (format!("ann:{BCRYPT}\nbob:plain\n"), "users:2"),
        (format!("ann:{BCRYPT}\nann:{BCRYPT}\n"), "users:2"),
        ("ann:$apr1$abc$def\n".to_owned(), "users:1"),
        ("ann\n".to_owned(), "users:1"),
    ] {
        let output = with_users_file(&text).run();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(expected), "{text:?}: {error}");
        assert_eq!(error.trim().lines().count(), 1, "one line, not {error}");
        assert!(!error.contains("plain:") && !error.contains("apr1$abc"), "{error}");
    }
    let output = Setup::forward().set("forward.users_file", "missing").run();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn users_are_followed_when_their_file_changes() {
    let origin = Origin::answering(OK);
    let proxy = with_users_file(&format!("ann:{BCRYPT}\n")).start();
    let bob = by_bob(&get(origin.address()));
    proxy.send(by_ann(&get(origin.address()))).expect_status(200);
    proxy.send(&bob).expect_status(407);
    let both = format!("ann:{BCRYPT}\nbob:{ARGON2ID}\n");
    std::fs::write(proxy.home().join("users"), both).unwrap();
    proxy.wait_for_log(&["reloaded", "a named file changed"]);
    proxy.send(&bob).expect_status(200);
    proxy.send(by_ann(&get(origin.address()))).expect_status(200);
}

#[test]
fn a_proxy_with_users_is_no_open_proxy() {
    let proxy = with_users().set("forward.allow_clients", ["0.0.0.0/0", "::/0"]).start();
    assert!(!proxy.log_lines().join("\n").contains("open proxy"), "{:#?}", proxy.log_lines());
}

#[test]
fn passwords_are_asked_for_only_where_there_are_users() {
    let origin = Origin::answering(OK);
    let proxy: Proxy = Setup::forward().start();
    for request in [get(origin.address()), by_ann(&get(origin.address()))] {
        proxy.send(request).expect_status(200);
    }
    for request in &origin.seen().requests {
        request.expect_no_field("Proxy-Authorization");
    }
}
