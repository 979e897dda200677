//! A route with hooks is a boundary: whatever a path or a host is spelled like, what a hook guards
//! is not read without its leave.
//!
//! Comes in: every spelling of a guarded path that is known to have got round a proxy somewhere.
//! Goes out: the guard's answer or 400, and nothing to the origin; for any other path, the bytes of
//! the client. What one path may be read as is tested beside `http::readings`.

use crate::support::{Client, Daemon, GET, OK, Origin, Proxy, Setup, free_address, installed};
use std::net::SocketAddr;
use std::process::Command;

/// Spellings of what lies below `/admin`: all of them are the guard's business.
const SPELLINGS: [&str; 66] = [
    "/admin",
    "/admin/",
    "/admin/secret",
    "/admin?x=1",
    "//admin/secret",
    "///admin//secret",
    "/./admin/secret",
    "/admin/./secret",
    "/admin/.",
    "/x/../admin/secret",
    "/x/y/../../admin/",
    "/x//../admin/",
    "/x//..//admin/",
    "/../admin/",
    "/../../../admin/secret",
    "/%61dmin/secret",
    "/%61%64%6d%69%6e/",
    "/%2e/admin/",
    "/x/%2e%2e/admin/",
    "/x/%2E./admin/",
    "/x/.%2e/admin/",
    "/admin%2f",
    "/admin%2Fsecret",
    "/%2fadmin/",
    "/%2Fadmin%2Fsecret",
    "/x%2f..%2fadmin",
    "/x/..%2fadmin/secret",
    "/x/%2e%2e%2fadmin",
    "/admin%5csecret",
    "/%5cadmin",
    "/x/..%5cadmin",
    "/\\admin",
    "/admin\\secret",
    "/x\\..\\admin",
    "/x/..\\admin/secret",
    "/admin;x",
    "/admin;",
    "/admin;x=y/secret",
    "/;/admin/",
    "/;a=b/admin/",
    "/x/..;/admin/",
    "/x/..;a=b/admin/secret",
    "/x/%2e%2e;/admin/",
    "/admin%3bx",
    "/admin%00",
    "/admin%00.html",
    "/ad%00min/",
    "/admin%3f",
    "/admin%3f/x",
    "/admin%23",
    "/admin%20",
    "/admin%09",
    "/admin%0a",
    "/admin.",
    "/admin./secret",
    "/%2561dmin/",
    "/%252561dmin/",
    "/x/%252e%252e/admin/",
    "/x/..%252fadmin",
    "/admin%252fsecret",
    "/x/%c0%ae%c0%ae/admin/",
    "/%c0%afadmin",
    "/x/%e0%80%ae%e0%80%ae/admin/",
    "/x/..%u002fadmin",
    "/%ef%bc%8fadmin",
    "/admin/../admin/secret",
];

/// A proxy whose `/admin` is for others than us.
fn guarded(origin: &Origin) -> Setup {
    guarded_at(&origin.url())
}

fn guarded_at(url: &str) -> Setup {
    Setup::to_url(url).route("", "/", "origin", "").route(
        "",
        "/admin",
        "origin",
        "hooks = { allow = [\"10.0.0.0/8\"] }",
    )
}

#[track_caller]
fn is_kept_out(client: &mut Client, request: &str) {
    let status = client.send(request).read_response().status();
    assert!(matches!(status, 400 | 403), "{status} for {request:?}");
}

#[test]
fn no_spelling_gets_round_the_hooks_of_a_route() {
    let origin = Origin::answering(OK);
    let proxy = guarded(&origin).start();
    for path in SPELLINGS {
        let mut client = proxy.connect();
        is_kept_out(&mut client, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        // The connection is still good.
        is_kept_out(&mut client, &format!("POST {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        let absolute = format!("GET http://test{path} HTTP/1.1\r\nHost: test\r\n\r\n");
        is_kept_out(&mut client, &absolute);
        is_kept_out(&mut proxy.connect(), &format!("GET {path} HTTP/1.0\r\n\r\n"));
    }
    // A path that climbs out of what is guarded is there to some readers.
    for path in ["/admin/../x", "/admin//../x", "/admin/%2e%2e/x", "/%61dmin/../x"] {
        is_kept_out(&mut proxy.connect(), &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }
    assert_eq!(origin.seen().connections.len(), 0);
}

#[test]
fn no_spelling_gets_round_them_on_a_listener_of_the_forward_proxy() {
    let origin = Origin::answering(OK);
    let proxy = guarded(&origin).set("forward.enabled", true).start();
    let own = proxy.address();
    for path in SPELLINGS {
        let request = format!("GET http://{own}{path} HTTP/1.1\r\nHost: {own}\r\n\r\n");
        is_kept_out(&mut proxy.connect(), &request);
    }
    assert_eq!(origin.seen().connections.len(), 0);
}

#[test]
fn what_a_path_cannot_be_taken_for_goes_on_as_it_came() {
    let origin = Origin::answering(OK);
    let proxy = guarded(&origin).start();
    let paths = [
        "/",
        "/ADMIN",
        "/administrator/x",
        "/a//b/../c/./d",
        "/group%2Fproject/-/x",
        "/a;v=1/b;w",
        "/caf%c3%a9?x=/admin/../%2e",
        "/a%zz%",
        "/x/admin",
        "/a\\b",
        "/.well-known/x",
    ];
    let mut client = proxy.connect();
    for path in paths {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).expect_status(200);
        assert_eq!(origin.seen().requests.last().unwrap().target(), path);
    }
}

#[test]
fn a_path_that_can_be_read_in_two_ways_is_named_in_the_log() {
    let origin = Origin::answering(OK);
    let proxy = guarded(&origin).set("log.access", true).start();
    let mut client = proxy.send("GET /admin;x HTTP/1.1\r\nHost: test\r\n\r\n");
    let refusal = client.read_response();
    refusal.expect_status(400).expect_no_field("connection");
    refusal.expect_field("proxy-status", "ringway; error=http_request_error");
    proxy.wait_for_log(&["path_ambiguous"]);
    client.send(GET).expect_status(200);
}

#[test]
fn raw_paths_are_matched_by_their_bytes() {
    let origin = Origin::answering(OK);
    let proxy = guarded(&origin).set("server.path_match", "raw").start();
    for (path, status) in [("/admin/x", 403), ("//admin/x", 200), ("/admin;x", 200)] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        proxy.send(request).expect_status(status);
    }
}

#[test]
fn the_normal_form_is_sent_where_it_is_asked_for_or_the_path_is_changed() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin)
        .route("", "/", "origin", "")
        .route("", "/n", "origin", "send_path = \"normal\"")
        .route("", "/s", "origin", "strip_prefix = true")
        .route("", "/r", "origin", "hooks = { rewrite = { prefix = \"/q\" } }")
        .start();
    let table = [
        ("/x/../y//%7a", "/x/../y//%7a"),
        ("/x/../n//%7a%2f?%7a//", "/n/z%2F?%7a//"),
        ("//s/./a/../b", "/b"),
        ("/%73/..%2fb", "/%73/..%2fb"),
        ("/r/a/..//b?c", "/q/b?c"),
        ("/%72/a", "/q/a"),
    ];
    let mut client = proxy.connect();
    for (path, sent) in table {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).expect_status(200);
        assert_eq!(origin.seen().requests.last().unwrap().target(), sent, "{path}");
    }
}

#[test]
fn no_spelling_of_a_host_gets_round_its_route() {
    let origin = Origin::answering(OK);
    let hooks = "hooks = { allow = [\"10.0.0.0/8\"] }";
    let proxy = Setup::to(&origin)
        .route("", "/", "origin", "")
        .route("admin.example", "/", "origin", hooks)
        .route("*.inner.example", "/", "origin", hooks)
        .route("[::1]", "/", "origin", hooks)
        .set("forward.enabled", true)
        .start();
    let hosts = [
        "admin.example",
        "ADMIN.Example",
        "admin.example.",
        "admin.example..",
        "admin.example...:80",
        "admin.example:8080",
        "admin.example:",
        "Admin.Example.:443",
        "a.inner.example",
        "A.B.INNER.example..:1",
        "[::1]",
        "[::1]:80",
        "[0:0:0:0:0:0:0:1]",
        "[::0001]:8000",
    ];
    for host in hosts {
        for target in ["/".to_owned(), format!("http://{host}/x")] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            is_kept_out(&mut proxy.connect(), &request);
        }
        // What the target says counts, and not what Host says.
        let request = format!("GET http://{host}/ HTTP/1.1\r\nHost: other.example\r\n\r\n");
        is_kept_out(&mut proxy.connect(), &request);
    }
    assert_eq!(origin.seen().connections.len(), 0);
    proxy.send("GET / HTTP/1.1\r\nHost: xadmin.example\r\n\r\n").expect_status(200);
}

/// An origin that decodes and resolves paths as Python's file server does, and says what it serves.
const PYTHON: &str = r##"
import http.server, posixpath, urllib.parse, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        path = urllib.parse.unquote(self.path.split("?", 1)[0].split("#", 1)[0], errors="replace")
        path = path.replace("\\", "/").split("\0", 1)[0]
        path = "/".join(part.split(";", 1)[0] for part in path.split("/"))
        path = posixpath.normpath("/" + path.lstrip("/"))
        body = b"secret" if path == "/admin" or path.startswith("/admin/") else b"open"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.serve_forever()
"##;

struct Python {
    _daemon: Daemon,
    address: SocketAddr,
}

impl Python {
    fn start() -> Option<Self> {
        let program = installed("python3")?;
        let address = free_address();
        let mut command = Command::new(program);
        command.args(["-c", PYTHON, &address.port().to_string()]);
        Some(Self { _daemon: Daemon::at(address, command), address })
    }
}

#[test]
fn an_origin_in_python_tells_no_secret() {
    let Some(python) = Python::start() else { return };
    let proxy = guarded_at(&format!("http://{}", python.address)).start();
    let mut clear = proxy.send("GET /x HTTP/1.1\r\nHost: test\r\n\r\n");
    clear.read_response().expect_body("open");
    for path in SPELLINGS {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        let answer = proxy.send(request).read_response();
        assert_ne!(answer.text(), "secret", "{path}");
    }
}

#[test]
fn a_canary_is_chosen_by_hand() {
    let named = |name: &str| {
        Origin::answering(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
            name.len()
        ))
    };
    let (stable, canary) = (named("stable"), named("canary"));
    let proxy = Setup::new()
        .upstream("stable", &[&stable.url()], "")
        .upstream("canary", &[&canary.url()], "")
        .route("", "/", "stable", "")
        .route("", "/", "canary", "cookies = { canary = \"1\" }")
        .route("", "/", "canary", "headers = { X-Canary = \"*\" }")
        .route("", "/", "canary", "query = { canary = \"yes\" }")
        .route("", "/", "canary", "methods = [\"DELETE\"]")
        .route("", "/", "canary", "path_regex = \"^/v[0-9]+/\"")
        .route("", "/net", "canary", "clients = [\"127.0.0.2/32\"]")
        .route("", "=/one", "canary", "")
        .start();
    let table = [
        ("GET / HTTP/1.1\r\n", "stable"),
        ("GET / HTTP/1.1\r\nCookie: a=b; canary=1\r\n", "canary"),
        ("GET / HTTP/1.1\r\nCookie: canary=2\r\n", "stable"),
        ("GET / HTTP/1.1\r\nx-canary: x\r\n", "canary"),
        ("GET /?a=b&canary=%79es HTTP/1.1\r\n", "canary"),
        ("DELETE / HTTP/1.1\r\n", "canary"),
        ("GET /v12/x HTTP/1.1\r\n", "canary"),
        ("GET /x/../v%312/x HTTP/1.1\r\n", "canary"),
        ("GET /vx/ HTTP/1.1\r\n", "stable"),
        ("GET /one?x HTTP/1.1\r\n", "canary"),
        ("GET /one/ HTTP/1.1\r\n", "stable"),
        ("GET /net HTTP/1.1\r\n", "stable"),
    ];
    let mut client = proxy.connect();
    for (request, expected) in table {
        client.send(format!("{request}Host: test\r\n\r\n"));
        client.read_response().expect_status(200).expect_body(expected);
    }
    let mut other = Client::connect_from("127.0.0.2".parse().unwrap(), proxy.address());
    other.send("GET /net HTTP/1.1\r\nHost: test\r\n\r\n").read_response().expect_body("canary");
}

#[test]
fn a_rate_limit_by_a_field_sees_all_of_its_values() {
    let origin = Origin::answering(OK);
    let hooks = "[route.hooks]\nrate_limit = { key = \"header:X-Key\", rate = \"1/h\", burst = 2 }";
    let proxy = Setup::to(&origin).route("", "/", "origin", hooks).start();
    let ask = |fields: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
        proxy.send(request).read_response().status()
    };
    // The second value counts for what it is, whatever stands before it.
    assert_eq!(ask("X-Key: a\r\n"), 200);
    assert_eq!(ask("X-Key: 1\r\nX-Key: a\r\n"), 200);
    assert_eq!(ask("X-Key: 2\r\nx-key: a\r\n"), 429);
    assert_eq!(ask("X-Key: a\r\nX-Key: 3\r\n"), 429);
    // An empty one is a value, and none is none.
    assert_eq!([ask("X-Key:\r\n"), ask("X-Key: \r\n"), ask("X-Key:\r\n")], [200, 200, 429]);
    assert_eq!([ask(""), ask(""), ask("")], [200, 200, 429]);
    let mut other = Client::connect_from("127.0.0.2".parse().unwrap(), proxy.address());
    other.send(GET).expect_status(200);
}

#[test]
fn a_limit_by_address_stands_beside_one_by_a_field() {
    let origin = Origin::answering(OK);
    let hooks = "[route.hooks]\n\
                 rate_limit = { key = \"header:X-Key\", rate = \"1/h\", burst = 1 }\n\
                 address_rate_limit = { rate = \"1/h\", burst = 3 }";
    let proxy = Setup::to(&origin).route("", "/", "origin", hooks).start();
    let ask = |key: u32| {
        let request = format!("GET / HTTP/1.1\r\nHost: test\r\nX-Key: {key}\r\n\r\n");
        proxy.send(request).read_response().status()
    };
    assert_eq!([1, 1, 2, 3, 4].map(ask), [200, 429, 200, 200, 429]);
}

/// The answers that `GET /health` with these fields gets, at 127.0.0.1 and from there.
fn health(proxy: &Proxy, fields: &str) -> (u16, String) {
    let answer = proxy.send(format!("GET /health HTTP/1.1\r\n{fields}\r\n")).read_response();
    (answer.status(), answer.text())
}

#[test]
fn the_health_of_the_application_is_the_applications() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("server.host", "0.0.0.0").start();
    for fields in ["Host: localhost\r\n", "Host: 127.0.0.1:80\r\n", "Host: [::1]\r\n"] {
        let (status, text) = health(&proxy, fields);
        assert!(status == 200 && text.contains("\"memory_usage_mb\""), "{fields}: {text}");
    }
    assert_eq!(origin.seen().connections.len(), 0);
    let elsewhere = [
        "Host: app.example\r\n",
        "Host: 192.0.2.1\r\n",
        "Host: localhost.example\r\n",
        "Host: localhost\r\nX-Forwarded-For: 10.0.0.1\r\n",
        "Host: localhost\r\nx-forwarded-proto: https\r\n",
        "Host: localhost\r\nX-Forwarded-Port: 1\r\n",
        "Host: localhost\r\nForwarded: for=10.0.0.1\r\n",
        "Host: localhost\r\nVia: 1.1 a\r\n",
        "Host: localhost\r\nX-Real-IP: 10.0.0.1\r\n",
    ];
    for fields in elsewhere {
        assert_eq!(health(&proxy, fields), (200, "ok".to_owned()), "{fields}");
    }
    let cleanup = "POST /admin/cleanup HTTP/1.1\r\nHost: app.example\r\n\r\n";
    proxy.send(cleanup).read_response().expect_body("ok");
    let proxy = Setup::to(&origin).set("admin.on_data_port", "off").start();
    assert_eq!(health(&proxy, "Host: localhost\r\n").1, "ok");
    let proxy = Setup::to(&origin).set("admin.on_data_port", "all").start();
    assert!(health(&proxy, "Host: app.example\r\n").1.contains("\"memory_usage_mb\""));
}

#[test]
fn without_the_token_the_data_port_says_little() {
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin).set("admin.token", "0123456789abcdef").start();
    let (_, outline) = health(&proxy, "Host: localhost\r\n");
    let outline: serde_json::Value = serde_json::from_str(&outline).unwrap();
    assert_eq!(outline["connections"]["clients"], 1, "{outline}");
    assert!(outline["memory_usage_mb"].is_number() && outline["listeners"].is_null(), "{outline}");
    let right = "Host: localhost\r\nAuthorization: Bearer 0123456789abcdef\r\n";
    assert!(health(&proxy, right).1.contains("\"listeners\""));
    let wrong = "Host: localhost\r\nAuthorization: Bearer 0123456789abcdeF\r\n";
    let statuses: Vec<_> = (0..12).map(|_| health(&proxy, wrong).0).collect();
    assert_eq!((&statuses[..10], &statuses[10..]), (&[401; 10][..], &[429; 2][..]));
}

#[test]
fn the_hooks_of_everybody_hold_for_ringways_own_answers() {
    let origin = Origin::answering(OK);
    let cleanup = "POST /admin/cleanup HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (hooks, status) in [("deny", 403), ("allow", 200)] {
        let proxy = Setup::to(&origin).set(&format!("hooks.{hooks}"), ["127.0.0.0/8"]).start();
        assert_eq!(health(&proxy, "Host: localhost\r\n").0, status, "{hooks}");
        proxy.send(cleanup).expect_status(status);
        proxy.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").expect_status(status);
    }
    let proxy = Setup::to(&origin).set("hooks.rate_limit.rate", "2/h").start();
    let statuses: Vec<_> = (0..3).map(|_| health(&proxy, "Host: localhost\r\n").0).collect();
    assert_eq!(statuses, [200, 200, 429]);
}
