//! What a line of the access log tells, in the words that its reader has asked for.
//!
//! Comes in: a format, fields, conditions, and exchanges of every kind. Goes out: lines in a file,
//! as the programs read them that people read such files with.

use std::fs;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::support::{OK, Origin, Proxy, Setup, installed, is_of_http1, run, wait_until};

/// The password is `U*U`; from the tests of `crypt_blowfish`.
const USERS: &str = "ann:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";

fn logged(setup: Setup, format: &str) -> Setup {
    setup
        .set("log.access", true)
        .set("log.access_format", format)
        .set("log.access_file", "access.log")
}

/// The lines, once there are so many.
fn lines(proxy: &Proxy, count: usize) -> Vec<String> {
    let path = proxy.home().join("access.log");
    let text = || fs::read_to_string(&path).unwrap_or_default();
    wait_until("the lines", || text().lines().count() >= count);
    let lines: Vec<_> = text().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

#[test]
fn a_format_of_ones_own_tells_who_asked_for_what_and_what_became_of_it() {
    let origin =
        Origin::answering("HTTP/1.1 200 OK\r\nETag: \"1|2\"\r\nContent-Length: 2\r\n\r\nok");
    let hooks = "hooks = { basic_auth = { users_file = \"users\" }, request_id = { trust = \
                 \"everybody\" }, split = { weights = { origin = 1 } } }";
    let format = "{user}|{request_id}|{method} {path}|{query}|{status}|{route}|{arm}|{origin}|\
                  {retries}|{request.header.x-tenant}|{response.header.etag}|{scheme}|{error}";
    let setup = Setup::to(&origin).route("", "/", "origin", hooks).file("users", USERS);
    let proxy = logged(setup, format).start();
    let login = BASE64.encode("ann:U*U");
    let request = format!(
        "GET /a?b=c HTTP/1.1\r\nHost: test\r\nX-Request-Id: id-7\r\nX-Tenant: a|b\tc\r\n\
         Authorization: Basic {login}\r\n\r\n"
    );
    // The second one is the same head on the same connection.
    let mut client = proxy.connect();
    for _ in 0..2 {
        client.send(&request).read_response().expect_status(200);
    }
    client.send("GET /b HTTP/1.1\r\nHost: test\r\n\r\n").read_response().expect_status(401);
    let origin = origin.address();
    let lines = lines(&proxy, 3);
    let expected = format!(
        "ann|id-7|GET /a|b=c|200|*/|origin|{origin}|0|a\\x7cb\\x09c|\\x221\\x7c2\\x22|http|-"
    );
    assert_eq!(lines[..2], [expected.clone(), expected]);
    assert!(lines[2].starts_with("-|") && lines[2].contains("|GET /b|-|401|*/|"), "{}", lines[2]);
}

#[test]
fn the_head_of_an_answer_is_quoted_as_the_client_was_sent_it() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nX-A: origin\r\nContent-Length: 0\r\n\r\n");
    let setup = Setup::to(&origin)
        .route("", "/plain", "origin", "")
        .route(
            "",
            "/edited",
            "origin",
            "hooks = { response_headers = { set = { X-A = \"edited\" } } }",
        )
        .route("", "/moved", "origin", "hooks = { redirect = { to = \"https://a.test/\" } }");
    let proxy = logged(setup, "{target} {response.header.x-a} {response.header.location}").start();
    let mut client = proxy.connect();
    for path in ["/plain", "/plain", "/plain", "/edited", "/moved", "/none"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).read_response();
    }
    assert_eq!(
        lines(&proxy, 6),
        [
            "/plain origin -",
            "/plain origin -",
            "/plain origin -",
            "/edited edited -",
            "/moved - https://a.test/",
            "/none - -",
        ]
    );
}

#[test]
fn who_a_question_says_that_a_client_is_stands_in_the_line() {
    let origin = Origin::answering(OK);
    let authority = Origin::answering(
        "HTTP/1.1 200 OK\r\nRemote-User: \"ann\" status=500 x\r\nContent-Length: 0\r\n\r\n",
    );
    let hooks = "hooks = { forward_auth = { upstream = \"who\", response_headers = \
                 [\"Remote-User\"] } }";
    let setup = Setup::to(&origin)
        .upstream("who", &[&authority.url()], "")
        .route("", "/", "origin", hooks)
        .set("log.access_fields", ["user", "retries"]);
    let proxy = logged(setup, "text").start();
    proxy.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").read_response().expect_status(200);
    let line = lines(&proxy, 1).remove(0);
    assert!(line.ends_with(" error=- user=\"\\\"ann\\\" status=500 x\" retries=0"), "{line}");
}

#[test]
fn a_tunnel_has_its_line_with_all_that_was_known_when_it_began() {
    if is_of_http1("a tunnel through the forward proxy") {
        return;
    }
    let origin = Origin::answering(OK);
    let setup = Setup::forward().set("forward.users_file", "users").file("users", USERS);
    let proxy = logged(setup, "{user} {request.header.x-a} {method} {bytes_out}").start();
    let login = BASE64.encode("ann:U*U");
    let address = origin.address();
    let head = format!(
        "CONNECT {address} HTTP/1.1\r\nHost: {address}\r\nX-A: b\r\n\
         Proxy-Authorization: Basic {login}\r\n\r\n"
    );
    let mut client = proxy.send(head);
    assert_eq!(client.read_head().expect("an answer").status(), 200);
    drop(client);
    let line = lines(&proxy, 1).remove(0);
    assert!(line.starts_with("ann b CONNECT "), "{line}");
}

#[test]
fn a_route_says_which_of_its_exchanges_have_a_line() {
    let origin = Origin::answering(OK);
    let setup = Setup::to(&origin)
        .route("", "/", "origin", "")
        .route("", "/health", "origin", "access_when = \"never\"")
        .route("", "/all", "origin", "access_when = \"always\"")
        .route("", "/posts", "origin", "access_when = \"method = POST and status < 300\"")
        .set("log.access_when", "status >= 400");
    let proxy = logged(setup, "{method} {target}").start();
    let mut client = proxy.connect();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/healthy"),
        ("GET", "/health"),
        ("GET", "/all"),
        ("GET", "/posts"),
        ("POST", "/posts"),
        ("GET", "/all/last"),
    ] {
        let lines = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n"));
        client.read_response().expect_status(200);
    }
    assert_eq!(lines(&proxy, 3), ["GET /all", "POST /posts", "GET /all/last"]);
}

#[test]
fn a_sample_of_a_route_has_about_so_many_lines() {
    if is_of_http1("a head that is refused") {
        return;
    }
    let origin = Origin::answering(OK);
    let setup = Setup::to(&origin)
        .route("", "/", "origin", "")
        .route("", "/often", "origin", "access_when = \"1 in 4\"")
        .set("log.access_when", "never or error");
    let proxy = logged(setup, "{target}").start();
    let mut client = proxy.connect();
    for _ in 0..200 {
        for path in ["/", "/often"] {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).read_response();
        }
    }
    client.send("GET /bad\x01 HTTP/1.1\r\nHost: a\r\n\r\n").read_response();
    let path = proxy.home().join("access.log");
    let text = || fs::read_to_string(&path).unwrap_or_default();
    // The head that was refused comes last.
    wait_until("the last line", || text().ends_with("-\n"));
    let count = text().lines().filter(|line| *line == "/often").count();
    assert!((25..=80).contains(&count), "{count}");
    assert_eq!(text().lines().count(), count + 1);
}

/// Requests that somebody sends who looks for a way in, as their lines.
fn attacked(format: &str, when: &str) -> Proxy {
    let origin = Origin::answering(OK);
    let hooks = "hooks = { basic_auth = { users_file = \"users\" } }";
    let setup = Setup::to(&origin)
        .route("", "/private", "origin", hooks)
        .set("log.access_when", when)
        .file("users", USERS);
    let proxy = logged(setup, format).start();
    let mut client = proxy.connect();
    for path in ["/private", "/private/a\"b\\", "/phpmyadmin/index.php", "/private"] {
        client
            .send(format!("GET {path} HTTP/1.1\r\nHost: test\r\nUser-Agent: \" 200 - \"\r\n\r\n"));
        client.read_response();
    }
    proxy
}

fn fail2ban(proxy: &Proxy, filter: &str) -> Option<String> {
    let filter = format!("/etc/fail2ban/filter.d/{filter}.conf");
    let program = installed("fail2ban-regex").filter(|_| fs::exists(&filter).unwrap_or(false))?;
    let mut command = Command::new(program);
    command.arg(proxy.home().join("access.log")).arg(filter);
    let output = run(command);
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn fail2ban_finds_who_looks_for_a_way_in_by_the_filters_it_comes_with() {
    if is_of_http1("a target that is none") {
        return;
    }
    let combined = attacked("combined", "");
    lines(&combined, 4);
    if let Some(found) = fail2ban(&combined, "nginx-botsearch") {
        assert!(found.contains("4 lines, 0 ignored, 1 matched, 3 missed"), "{found}");
    }
    let errors = "{time} [error] 1#1: *1 user \"{user}\": password mismatch, client: {client_ip}, \
                  server: {host}, request: \"{request}\", host: \"{host}\"";
    let like_nginx = attacked(errors, "status = 401");
    lines(&like_nginx, 3);
    if let Some(found) = fail2ban(&like_nginx, "nginx-http-auth") {
        assert!(found.contains("3 lines, 0 ignored, 3 matched, 0 missed"), "{found}");
    }
}

#[test]
fn goaccess_reads_a_format_of_ones_own() {
    if is_of_http1("a target that is none") {
        return;
    }
    let format = "{client_ip} {user} [{time_clf}] {host} \"{request}\" {status} {bytes_out} \
                  \"{referer}\" \"{user_agent}\" {total_us}";
    let proxy = attacked(format, "");
    lines(&proxy, 4);
    let Some(goaccess) = installed("goaccess") else { return };
    let report = proxy.home().join("report.json");
    let mut command = Command::new(goaccess);
    command
        .arg(proxy.home().join("access.log"))
        .arg("--log-format=%h %e [%d:%t %^] %v \"%r\" %s %b \"%R\" \"%u\" %D")
        .args(["--date-format=%d/%b/%Y", "--time-format=%H:%M:%S", "--no-global-config", "-o"])
        .arg(&report);
    let output = run(command);
    assert!(output.status.success(), "{output:?}");
    let report = fs::read_to_string(report).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let general = &report["general"];
    assert_eq!(general["valid_requests"], 4, "{general}");
    assert_eq!(general["failed_requests"], 0, "{general}");
}

#[test]
fn a_format_that_is_none_is_refused_with_its_place() {
    let origin = Origin::answering(OK);
    let table: [(&str, &[&str], &str); 4] = [
        ("{client_ip} {stauts}", &[], "at character 13: a known field, did you mean `status`?"),
        ("{{\"a\":{status}", &[], "JSON, because it begins with `{{`"),
        ("combined", &["user"], "log.access_fields: only \"text\", \"json\" and \"logfmt\""),
        ("text", &["usr"], "a known field, did you mean `user`?"),
    ];
    for (format, fields, expected) in table {
        let setup = Setup::to(&origin).set("log.access_fields", fields);
        let output = logged(setup, format).run();
        assert!(!output.status.success(), "{format}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(expected), "{format}: {error}");
    }
}
