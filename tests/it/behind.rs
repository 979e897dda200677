//! Clients behind a balancer: who counts as the client, and what origins are told of it.
//!
//! A scripted peer, which is trusted or not, passes requests on for others; what is checked is what
//! hooks, logs and the administrator take for the client, and what an origin gets to read.

use crate::support::{Client, GET, Message, OK, Origin, Proxy, Setup, wait_until};
use serde_json::Value as Json;

const TRUSTED: [&str; 1] = ["127.0.0.1/32"];

/// A proxy that believes this machine.
fn trusting(origin: &Origin) -> Setup {
    Setup::to(origin).set("server.trusted_proxies", TRUSTED)
}

fn request(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n")
}

fn status(client: &mut Client, path: &str, lines: &str) -> u16 {
    client.send(request(path, lines)).read_response().status()
}

/// What the origin gets for these lines.
fn sent(setup: impl Fn(&Origin) -> Setup, lines: &str) -> Message {
    let origin = Origin::answering(OK);
    let proxy = setup(&origin).start();
    proxy.connect().send(request("/", lines)).read_response().expect_status(200);
    origin.only_request()
}

/// The connections as the administrator sees them.
fn connections(proxy: &Proxy) -> Vec<Json> {
    let list: Json = serde_json::from_str(&proxy.admin("GET", "/connections")).unwrap();
    list["connections"].as_array().unwrap().clone()
}

#[test]
fn each_request_on_a_balancers_connection_has_its_own_client() {
    let origin = Origin::answering(OK);
    let proxy = trusting(&origin)
        .set("log.access", true)
        .set("log.access_format", "json")
        .route(
            "",
            "/",
            "origin",
            "[route.hooks]\ndeny = [\"192.0.2.0/24\"]\n\
             request_headers = { set = { X-Who = \"${client_ip}\" } }",
        )
        .start();
    let mut balancer = proxy.connect();
    let peer = balancer.local().to_string();
    let table = [
        ("X-Forwarded-For: 198.51.100.1\r\n", 200, "198.51.100.1"),
        ("X-Forwarded-For: 198.51.100.1, 192.0.2.7\r\n", 403, "192.0.2.7"),
        ("X-Forwarded-For: 192.0.2.7, 198.51.100.2, 127.0.0.1\r\n", 200, "198.51.100.2"),
        ("X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-For: 2001:db8::1\r\n", 200, "2001:db8::1"),
        ("X-Forwarded-For: 198.51.100.1\r\n", 200, "198.51.100.1"),
        // No other field is asked, and garbage names nobody.
        ("Forwarded: for=192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\n", 200, "127.0.0.1"),
        ("X-Forwarded-For: 192.0.2.7, garbage\r\n", 200, "127.0.0.1"),
        ("X-Forwarded-For: 192.0.2.7, [::ffff:198.51.100.9]:80\r\n", 200, "198.51.100.9"),
    ];
    for (lines, code, client) in table {
        assert_eq!(status(&mut balancer, "/", lines), code, "{lines:?}");
        if code == 200 {
            origin.seen().requests.last().unwrap().expect_field("X-Who", client);
        }
        let is_there = |found: &Json| found["peer"] == *peer && found["client"] == client;
        assert!(connections(&proxy).iter().any(is_there), "{lines:?} {:?}", connections(&proxy));
    }
    let is_logged = |client: &str| {
        let lines = proxy.log_lines();
        lines.iter().filter_map(|line| serde_json::from_str::<Json>(line).ok()).any(|line| {
            line["client"] == client && line["peer"] == *peer && line["status"].is_number()
        })
    };
    wait_until("the log names client and peer", || {
        ["192.0.2.7", "198.51.100.2", "2001:db8::1"].into_iter().all(is_logged)
    });
}

#[test]
fn a_stranger_is_its_own_client() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin)
        .set("server.trusted_proxies", ["10.0.0.0/8"])
        .set("log.access", true)
        .route("", "/", "origin", "[route.hooks]\ndeny = [\"127.0.0.0/8\"]")
        .start();
    let mut client = proxy.connect();
    let (lines, local) = ("X-Forwarded-For: 198.51.100.1\r\n", client.local());
    assert_eq!(status(&mut client, "/", lines), 403);
    let line = proxy.wait_for_log(&["status=403", &format!("client={local}")]);
    assert!(!line.contains("peer="), "{line}");
}

#[test]
fn the_header_of_a_cdn_is_believed_from_trusted_peers_and_taken_from_strangers() {
    let header = "CF-Connecting-IP: 198.51.100.1\r\nX-Forwarded-For: 192.0.2.7\r\n";
    let named = |setup: Setup| {
        setup.set("server.client_ip_header", "CF-Connecting-IP").set("server.add_real_ip", true)
    };
    let believed = sent(|origin| named(trusting(origin)), header);
    believed.expect_field("X-Real-IP", "198.51.100.1");
    believed.expect_field("CF-Connecting-IP", "198.51.100.1");
    let shadow = "CF_Connecting_IP: 198.51.100.9\r\nX_Real_IP: 198.51.100.9\r\n";
    let stranger = sent(|origin| named(Setup::to(origin)), &format!("{header}{shadow}"));
    stranger.expect_field("X-Real-IP", "127.0.0.1").expect_no_field("CF-Connecting-IP");
    stranger.expect_no_field("CF_Connecting_IP").expect_no_field("X_Real_IP");
    stranger.expect_field("X-Forwarded-For", "127.0.0.1");
    let forwarded = |origin: &Origin| {
        trusting(origin)
            .set("server.client_ip_header", "Forwarded")
            .set("server.add_real_ip", true)
            .set("server.forwarded", "rfc")
    };
    let lines = "Forwarded: for=192.0.2.7, for=\"[2001:db8::1]:4711\";proto=https\r\n";
    let rfc = sent(forwarded, &format!("{lines}X-Forwarded-For: 6.6.6.6\r\n"));
    rfc.expect_field("X-Real-IP", "2001:db8::1").expect_no_field("X-Forwarded-For");
    assert_eq!(rfc.list("Forwarded").len(), 3, "{rfc}");
}

#[test]
fn a_balancer_that_says_https_is_not_contradicted() {
    let lines = "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\n";
    let both = sent(trusting, lines);
    both.expect_field("X-Forwarded-Proto", "https");
    let forwarded = both.field("Forwarded").unwrap();
    assert!(forwarded.contains("proto=https") && !forwarded.contains("proto=http;"), "{both}");
    let silent = sent(trusting, "X-Forwarded-For: 198.51.100.1\r\n");
    silent.expect_no_field("X-Forwarded-Proto");
    assert!(!silent.field("Forwarded").unwrap().contains("proto"), "{silent}");
    for (form, other) in [("x", "Forwarded"), ("rfc", "X-Forwarded-For")] {
        let told = sent(|origin| trusting(origin).set("server.forwarded", form), lines);
        told.expect_no_field(other);
        assert!(told.text().is_empty() && told.to_string().contains("https"), "{told}");
    }
}

#[test]
fn what_a_route_cuts_off_the_path_is_said() {
    let origin = Origin::answering(OK);
    let cutting = |setup: Setup| setup.route("", "/api/", "origin", "strip_prefix = true");
    let proxy = cutting(Setup::to(&origin)).start();
    let lines = "X-Forwarded-Prefix: /evil\r\n";
    proxy.connect().send(request("/api/x", lines)).read_response().expect_status(200);
    let sent = origin.only_request();
    sent.expect_field("X-Forwarded-Prefix", "/api");
    assert_eq!(sent.target(), "/x");
    let origin = Origin::answering(OK);
    let proxy = cutting(trusting(&origin)).start();
    let lines = "X-Forwarded-Prefix: /outer\r\n";
    proxy.connect().send(request("/api/x", lines)).read_response().expect_status(200);
    assert_eq!(origin.only_request().list("X-Forwarded-Prefix"), ["/outer", "/api"]);
}

#[test]
fn a_shadow_of_what_forward_auth_grants_does_not_reach_the_origin() {
    let authority =
        Origin::answering("HTTP/1.1 200 OK\r\nX-User: bob\r\nContent-Length: 0\r\n\r\n");
    let origin = Origin::answering(OK);
    let hooks = "[route.hooks]\nforward_auth = { upstream = \"auth\", path = \"/\", \
                 response_headers = [\"X-User\"] }\n\
                 rate_limit = { rate = \"1000/s\", key = \"header:X-Api-Key\" }";
    let proxy = Setup::to(&origin)
        .upstream("auth", &[&authority.url()], "")
        .route("", "/", "origin", hooks)
        .start();
    let lines = "X_User: eve\r\nx-User: eve\r\nX_User-: eve\r\nX_API_KEY: 1\r\nX_Free: 1\r\n";
    proxy.connect().send(request("/", lines)).read_response().expect_status(200);
    let sent = origin.only_request();
    sent.expect_field("X-User", "bob").expect_no_field("X_User").expect_no_field("X_API_KEY");
    sent.expect_field("X_Free", "1");
    assert_eq!(sent.all("X-User"), ["bob"]);
}

#[test]
fn names_with_underscores_are_kept_dropped_or_refused_as_configured() {
    let lines = "X_Forwarded_For: 6.6.6.6\r\nContent_Length: 5\r\nX_Free: 1\r\n";
    let told = |value: &'static str| {
        sent(move |origin| Setup::to(origin).set("limits.underscores", value), lines)
    };
    let kept = told("keep");
    kept.expect_field("X_Forwarded_For", "6.6.6.6").expect_field("X_Free", "1");
    let shadows = told("drop_shadowing");
    shadows.expect_no_field("X_Forwarded_For").expect_no_field("Content_Length");
    shadows.expect_field("X_Free", "1");
    told("drop_all").expect_no_field("X_Forwarded_For").expect_no_field("X_Free");
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("limits.underscores", "refuse").start();
    let mut client = proxy.connect();
    client.send(GET).read_response().expect_status(200);
    client.send(request("/", "X_Free: 1\r\n")).read_response().expect_status(400);
    assert_eq!(origin.seen().requests.len(), 1);
}

/// The password is `U*U`.
const USERS: &str = "ann:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";

#[test]
fn wrong_logins_lock_out_their_client_and_nobody_else_behind_the_balancer() {
    let origin = Origin::answering(OK);
    let login = "[route.hooks]\nbasic_auth = { users_file = \"users\", auth_failures = 2 }";
    let proxy = trusting(&origin).route("", "/", "origin", login).file("users", USERS).start();
    let mut balancer = proxy.connect();
    let wrong = "Authorization: Basic YW5uOndyb25n\r\nX-Forwarded-For: 198.51.100.1\r\n";
    let codes: Vec<u16> = (0..4).map(|_| status(&mut balancer, "/", wrong)).collect();
    assert_eq!(codes.last(), Some(&429), "{codes:?}");
    let right = "Authorization: Basic YW5uOlUqVQ==\r\nX-Forwarded-For: 198.51.100.2\r\n";
    assert_eq!(status(&mut balancer, "/", right), 200);
}
