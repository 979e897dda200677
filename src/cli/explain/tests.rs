//! Explanations of requests that no client has sent, against small configurations.
//!
//! Comes in: a configuration as TOML flags it, and a question. Goes out: facts, and the answer.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value as Json;

use super::*;
use crate::config::Flags;

/// The answer to `line`, such as `GET /x`, with further fields and as JSON.
#[track_caller]
pub(super) fn ask(settings: &[&str], line: &str, fields: &[&str]) -> Json {
    ask_as(Ipv4Addr::LOCALHOST.into(), settings, line, fields)
}

#[track_caller]
fn ask_as(client: IpAddr, settings: &[&str], line: &str, fields: &[&str]) -> Json {
    let set = settings.iter().map(|text| (*text).to_owned()).collect();
    let upstream = vec!["http://127.0.0.1:9".to_owned()];
    let config = Config::load(None, &Flags { upstream, set, ..Flags::default() }).unwrap();
    let report = explain(&config, &question(client, line, fields)).map_err(|failure| failure.cause);
    serde_json::from_str(&report.unwrap().json()).unwrap()
}

pub(super) fn question(client: IpAddr, line: &str, fields: &[&str]) -> Question {
    let (method, target) = line.split_once(' ').unwrap();
    Question {
        method: method.to_owned(),
        target: target.to_owned(),
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        client: client.into(),
        listener: None,
        user: None,
        json: true,
    }
}

/// A fact as `section.name`.
#[track_caller]
pub(super) fn fact(answer: &Json, name: &str) -> Json {
    let (section, name) = name.split_once('.').unwrap();
    let sections = answer["sections"].as_array().unwrap();
    let found = sections.iter().find(|found| found["name"] == section);
    found.unwrap_or_else(|| panic!("no {section} in {answer:#}"))["facts"][name].clone()
}

pub(super) const ROUTES: [&str; 2] = [
    "upstream.1={ name = \"api\", origins = [\"http://127.0.0.1:10\"], host = \"origin\" }",
    "route=[{ host = \"a.example\", path = \"/api\", upstream = \"api\", strip_prefix = true }, \
     { host = \"*.example\", upstream = \"default\" }, \
     { host = \"a.example\", path = \"/\", upstream = \"default\" }, \
     { host = \"b.example\", upstream = \"api\" }, \
     { path = \"/admin\", upstream = \"api\" }]",
];

#[test]
fn a_route_is_chosen_and_the_others_are_told_why_not() {
    let answer = ask(&ROUTES, "GET /api/x?y=1", &["Host: A.example:81", "Connection: close"]);
    assert_eq!(fact(&answer, "route.chosen"), "a.example/api: names this very host, path /api");
    let others = [
        "*.example/: fits, but its host is less specific",
        "a.example/: fits, but its path is shorter",
        "*/admin: is for another path",
        "b.example/: is for another host",
    ];
    assert_eq!(fact(&answer, "route.others"), Json::from(others.to_vec()));
    assert_eq!(fact(&answer, "path.sent"), "/x?y=1");
    assert_eq!(fact(&answer, "upstream.name"), "api");
    assert_eq!(fact(&answer, "upstream.origins")[0], "http://127.0.0.1:10: 127.0.0.1:10");
    let head: Vec<String> = serde_json::from_value(fact(&answer, "sent.head")).unwrap();
    assert_eq!(head[0], "GET /x?y=1 HTTP/1.1");
    assert!(head.contains(&"Host: 127.0.0.1:10".to_owned()), "{head:?}");
    assert!(head.contains(&"X-Forwarded-For: 127.0.0.1".to_owned()), "{head:?}");
    assert!(!head.iter().any(|line| line.starts_with("Connection")), "{head:?}");
    assert_eq!(fact(&answer, "answer.from"), "upstream api");
}

#[test]
fn the_hooks_of_a_route_are_named_and_asked() {
    let hooked = "route=[{ upstream = \"default\", hooks = { methods = [\"GET\"], \
         split = { weights = { api = 1 } }, rewrite = { regex = \"^/old/(.*)$\", \
         replacement = \"/new/$1\" } } }]";
    let settings = [ROUTES[0], hooked];
    let answer = ask(&settings, "GET /old/x", &["Host: a"]);
    let lines = fact(&answer, "hooks.route");
    assert_eq!(lines[0], "methods = [\"GET\"]");
    assert_eq!(fact(&answer, "hooks.rewritten to"), "/new/x");
    assert_eq!(fact(&answer, "path.sent"), "/new/x");
    assert_eq!(fact(&answer, "upstream.name"), "api");
    let answer = ask(&settings, "POST /old/x", &["Host: a"]);
    assert_eq!(fact(&answer, "answer.because"), "the hooks answer 405");
    let answer = ask(&ROUTES, "GET /x", &["Host: a.example"]);
    assert_eq!(fact(&answer, "hooks.plan"), "none: the fast path");
}

/// The answer for a route with `hooks`, between two upstreams.
#[track_caller]
fn ask_hooks(hooks: &str, line: &str, fields: &[&str]) -> Json {
    let route = format!("route=[{{ upstream = \"default\", hooks = {{ {hooks} }} }}]");
    ask(&[ROUTES[0], &route], line, fields)
}

#[test]
fn the_head_that_is_shown_has_been_edited_as_one_that_is_sent() {
    let answer = ask_hooks(
        "request_id = { trust = \"everybody\" }, split = { weights = { api = 1 } }, \
         rewrite = { prefix = \"/v2\" }, request_headers = { rename = { X-A = \"X-B\" }, \
         remove = [\"X-C\"], set = { X-D = \"${client_ip} by ${upstream}\", X-F = \"${path}\" }, \
         add = { X-E = \"e\" } }",
        "GET /x?y",
        &["Host: a", "X-A: 1", "X-C: 2", "X-D: 3", "X-E: 4", "X-Request-Id: mine"],
    );
    let expected = [
        "GET /v2/x?y HTTP/1.1",
        "X-E: 4",
        "Host: 127.0.0.1:10",
        "Forwarded: for=127.0.0.1;proto=http;host=\"a\"",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Host: a",
        "X-Forwarded-Proto: http",
        "CDN-Loop: ringway",
        "X-B: 1",
        "X-Request-Id: mine",
        "X-D: 127.0.0.1 by api",
        "X-F: /x",
        "X-E: e",
    ];
    let mut head: Vec<String> = serde_json::from_value(fact(&answer, "sent.head")).unwrap();
    let mut expected = expected.map(str::to_owned);
    assert_eq!(head[0], expected[0]);
    head.sort();
    expected.sort();
    assert_eq!(head, expected);
}

/// A route's hooks, a request with its fields, and what a fact must say.
type Said<'a> = (&'a str, &'a str, &'a [&'a str], &'a str, &'a [&'a str]);

#[track_caller]
fn all_said(table: &[Said<'_>]) {
    for (hooks, line, fields, name, expected) in table {
        let found = match fact(&ask_hooks(hooks, line, fields), name) {
            Json::Array(lines) => lines,
            other => vec![other],
        };
        assert_eq!(found, *expected, "{hooks}: {name}");
    }
}

#[test]
fn a_hook_that_lets_a_request_in_says_whom_it_counts_or_asks() {
    let limit = "rate_limit = { rate = \"1/s\", key = \"header:X-Key\" }";
    let asks = "forward_auth = { upstream = \"api\", path = \"/verify\" }";
    let question = [
        "GET /verify HTTP/1.1",
        "Host: 127.0.0.1:10",
        "X-Forwarded-Method: GET",
        "X-Forwarded-Host: h",
        "X-Forwarded-Uri: /a?b",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: http",
        "cookie: c=d",
    ];
    all_said(&[
        (limit, "GET /", &["X-Key: k"], "hooks.counted", &["rate_limit by header:x-key: k"]),
        (
            limit,
            "GET /",
            &[],
            "hooks.counted",
            &["rate_limit by header:x-key: not sent, so by address: 127.0.0.1"],
        ),
        (
            "rate_limit = { rate = \"1/s\" }, connections_per_client = 2",
            "GET /",
            &[],
            "hooks.counted",
            &["rate_limit by ip: 127.0.0.1", "connections_per_client: 127.0.0.1"],
        ),
        (asks, "GET /a?b", &["Host: h", "Cookie: c=d"], "hooks.question", &question),
        (asks, "GET /", &[], "hooks.not done here", &["forward_auth asks api"]),
    ]);
}

#[test]
fn a_hook_that_chooses_the_way_says_which() {
    let sticky = "split = { weights = { api = 1 }, sticky = \"cookie:c\" }";
    let mirror = "mirror = { upstream = \"api\", percent = 2.5, body_bytes = \"1B\" }";
    let bounded = "2 more attempts, where nothing has been sent: this method may not be repeated";
    let regex = "rewrite = { regex = \"^/(.*)$\", replacement = \"/t/${header.x-t}/$1\" }";
    all_said(&[
        (
            "split = { weights = { api = 1 } }",
            "GET /",
            &[],
            "hooks.split",
            &["api: drawn anew for each request"],
        ),
        (sticky, "GET /", &[], "hooks.split", &["api: drawn, and kept in the cookie c"]),
        (sticky, "GET /", &["Cookie: c=1"], "hooks.split", &["api: by cookie:c"]),
        (mirror, "GET /", &[], "hooks.mirror", &["2.5 % of such requests go to api too"]),
        (
            mirror,
            "POST /",
            &["Content-Length: 2"],
            "hooks.mirror",
            &["no copy for api: the body is larger than mirror.body_bytes"],
        ),
        ("retry = { attempts = 3 }", "GET /", &[], "hooks.retry", &["3 more attempts"]),
        ("retry = {}", "POST /", &[], "hooks.retry", &[bounded]),
        (regex, "GET /a?b", &["X-T: x/y z"], "hooks.rewritten to", &["/t/x%2Fy%20z/a?b"]),
        (
            "rewrite = { prefix = \"/t\" }",
            "GET /..%2fa",
            &[],
            "answer.because",
            &["the hooks answer 400"],
        ),
    ]);
}

#[test]
fn a_hook_that_edits_answers_says_how() {
    let cors = "cors = { origins = [\"http://a\"] }";
    let preflight = ["Origin: http://b", "Access-Control-Request-Method: PUT"];
    let pages = "error_pages = { 5xx = \"<p>sorry\", 404 = \"gone\" }";
    let edits = "security_headers = { frame_options = \"\", referrer_policy = \"\" }, \
                 response_headers = { set = { X-A = \"${status} for ${client_ip}\" } }";
    let own =
        ["404: 4 bytes", "5xx: 8 bytes"].map(|it| format!("{it}, in place of ringway's own only"));
    let all = ["404: 4 bytes", "5xx: 8 bytes"]
        .map(|it| format!("{it}, in place of the origin's answer too"));
    let (own, all) = (own.each_ref().map(String::as_str), all.each_ref().map(String::as_str));
    all_said(&[
        (
            cors,
            "GET /",
            &["Origin: http://a"],
            "hooks.cors",
            &["pages of http://a may read the answer"],
        ),
        (
            cors,
            "GET /",
            &["Origin: http://b"],
            "hooks.cors",
            &["pages of http://b may not read the answer"],
        ),
        ("cors = {}", "OPTIONS /", &preflight, "answer.because", &["the hooks answer 204"]),
        (
            edits,
            "GET /",
            &[],
            "hooks.200 gets",
            &["X-Content-Type-Options: nosniff", "X-A: 200 for 127.0.0.1"],
        ),
        (
            "rate_limit = { rate = \"2/m\", announce = true }",
            "GET /",
            &[],
            "hooks.200 gets",
            &["RateLimit-Policy: \"default\";q=2;w=60", "RateLimit: \"default\";r=1;t=30"],
        ),
        (pages, "GET /", &[], "hooks.error pages", &own),
        (&format!("{pages}, intercept_errors = true"), "GET /", &[], "hooks.error pages", &all),
    ]);
}

#[test]
fn an_answer_of_the_hooks_is_shown_as_a_client_gets_it() {
    let table = [
        (
            "redirect = { to = \"https://${host}${target}\" }, \
             response_headers = { set = { X-A = \"${status}\" } }",
            "308 Permanent Redirect",
            vec!["Location: https://h/a?b", "X-A: 308"],
        ),
        (
            "deny = [\"127.0.0.1\"], error_pages = { 4xx = \"<p>no\" }",
            "403 Forbidden",
            vec!["Content-Type: text/html; charset=utf-8", "Content-Length: 5"],
        ),
        (
            "methods = [\"PUT\"], request_id = { trust = \"everybody\" }",
            "405 Method Not Allowed",
            vec!["Allow: PUT", "X-Request-Id: mine"],
        ),
        (
            "respond = { status = 404, body = \"pot\", headers = { X-B = \"c\" } }",
            "404 Not Found",
            vec!["Content-Length: 3", "X-B: c"],
        ),
    ];
    for (hooks, status, lines) in table {
        let answer = ask_hooks(hooks, "GET /a?b", &["Host: h:81", "X-Request-Id: mine"]);
        let head: Vec<String> = serde_json::from_value(fact(&answer, "hooks.answer")).unwrap();
        assert_eq!(head[0], format!("HTTP/1.1 {status}"), "{hooks}");
        for line in lines {
            assert!(head.iter().any(|found| found == line), "{hooks}: {head:?}");
        }
    }
}

#[test]
fn a_password_of_a_route_is_looked_at() {
    use base64::Engine as _;
    let path = std::env::temp_dir().join(format!("ringway-explain-{}", std::process::id()));
    std::fs::write(&path, format!("ann:{}\n", bcrypt::hash("sesame", 4).unwrap())).unwrap();
    let hooks = format!("basic_auth = {{ users_file = {:?} }}", path.to_str().unwrap());
    let field = |pair: &str| {
        let pair = base64::engine::general_purpose::STANDARD.encode(pair);
        format!("Authorization: Basic {pair}")
    };
    let right = ask_hooks(&hooks, "GET /", &[&field("ann:sesame")]);
    assert_eq!(fact(&right, "hooks.user"), "ann");
    assert_eq!(fact(&right, "answer.from"), "upstream default");
    for fields in [vec![], vec![field("ann:open")]] {
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        let wrong = ask_hooks(&hooks, "GET /", &fields);
        assert_eq!(fact(&wrong, "answer.because"), "the hooks answer 401");
        let head: Vec<String> = serde_json::from_value(fact(&wrong, "hooks.answer")).unwrap();
        assert!(head.iter().any(|line| line.starts_with("WWW-Authenticate: Basic")), "{head:?}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_route_that_only_seems_to_fit_says_how() {
    let answer = ask(&ROUTES, "GET /apis", &["Host: a.example"]);
    assert_eq!(
        fact(&answer, "route.others")[0],
        "a.example/api: its prefix ends within a segment of the path"
    );
    let answer = ask(&ROUTES, "GET /api/..%2fx", &["Host: a.example"]);
    assert_eq!(
        fact(&answer, "route.others")[0],
        "a.example/api: its prefix is left again by dot segments"
    );
}

#[test]
fn what_is_not_sent_on_has_the_answer_of_the_data_plane() {
    let large = ["limits.body_bytes=5"];
    let few = ["limits.header_count=1"];
    for (settings, line, fields, status, error) in [
        (&ROUTES[..], "GET /x", &[][..], "404 Not Found", "no_route"),
        (
            &large,
            "POST /",
            &["Content-Length: 6"],
            "413 Content Too Large",
            "client_body_too_large",
        ),
        (&few, "GET /", &["A: b"], "431 Request Header Fields Too Large", "too many fields"),
        (&[], "GET /", &["Host: a", "Host: b"], "400 Bad Request", "more than one Host"),
        (&[], "GET x", &[], "400 Bad Request", "invalid target"),
        (&[], "CONNECT a:1", &[], "501 Not Implemented", "method_not_offered"),
        (
            &["forward.enabled=true"],
            "GET https://a/",
            &[],
            "501 Not Implemented",
            "scheme_not_offered",
        ),
    ] {
        let answer = ask(settings, line, fields);
        assert_eq!(fact(&answer, "answer.status"), status, "{line}");
        assert_eq!(fact(&answer, "answer.error"), error, "{line}");
    }
}

#[test]
fn what_ringway_answers_itself_is_not_routed() {
    let answer = ask(&[], "GET /health?x", &[]);
    assert_eq!(fact(&answer, "answer.because"), "health (admin.on_data_port)");
    for elsewhere in ["X-Real-IP: 10.0.0.1", "Via: 1.1 a", "X-Forwarded-For: 10.0.0.1"] {
        let answer = ask(&[], "GET /health", &["Host: 127.0.0.1", elsewhere]);
        assert_eq!(fact(&answer, "answer.from"), "upstream default", "{elsewhere}");
    }
    let answer = ask(&[], "GET /health", &["Host: app.example"]);
    assert_eq!(fact(&answer, "answer.from"), "upstream default");
    let stranger = "192.0.2.1".parse().unwrap();
    let answer = ask_as(stranger, &[], "GET /health", &["Host: 127.0.0.1"]);
    assert_eq!(fact(&answer, "answer.from"), "upstream default");
    let answer = ask(&["admin.on_data_port=all"], "GET /health", &["Host: app.example"]);
    assert_eq!(fact(&answer, "answer.from"), "ringway");
    let answer = ask(&["admin.on_data_port=false"], "GET /health", &[]);
    assert_eq!(fact(&answer, "answer.from"), "upstream default");
    let answer = ask(&[], "OPTIONS *", &["Max-Forwards: 0"]);
    assert_eq!(fact(&answer, "answer.because"), "Max-Forwards is used up");
}

const FORWARD: &str = "forward.enabled=true";

#[test]
fn the_policy_says_which_rule_it_was() {
    let deny = "forward.deny=[\"*.bad.example\"]";
    let parent = "parent.0={ name = \"office\", url = \"http://127.0.0.1:3128\", \
                  credentials = \"user:sesame\", domains = [\"*.far.example\"] }";
    let open = "forward.allow_loopback=true";
    for (settings, line, from, because) in [
        (&[FORWARD][..], "CONNECT 127.0.0.1:443", "ringway", "the forward policy: loopback"),
        (&[FORWARD], "CONNECT 192.0.2.1:25", "ringway", "the forward policy: connect_ports"),
        (&[FORWARD], "CONNECT 0x7f000001:443", "ringway", "the forward policy: number"),
        (&[FORWARD, open], "CONNECT 127.0.0.1:8000", "ringway", "the forward policy: own_address"),
        (&[FORWARD, open], "CONNECT localhost:443", "localhost:443", ""),
        (&[FORWARD], "GET http://192.0.2.1/", "192.0.2.1:80", ""),
        (
            &[FORWARD, deny],
            "GET http://a.bad.example/",
            "ringway",
            "the forward policy: deny *.bad.example",
        ),
        (&[FORWARD, parent], "GET http://a.far.example/x", "parent office", ""),
        (&[FORWARD, parent], "CONNECT a.far.example:443", "parent office", ""),
    ] {
        let answer = ask(settings, line, &[]);
        assert_eq!(fact(&answer, "answer.from"), from, "{line}: {answer:#}");
        let found = fact(&answer, "answer.because");
        assert_eq!(found.as_str().unwrap_or_default(), because, "{line}");
        assert!(!answer.to_string().contains("sesame"));
    }
}

#[test]
fn each_address_has_a_verdict_of_its_own() {
    let settings = [FORWARD, "forward.allow=[\"localhost\", \"127.0.0.0/8\"]"];
    let answer = ask(&settings, "GET http://localhost:81/x?y", &["Proxy-Connection: close"]);
    let expected = ["127.0.0.1:81: allowed", "[::1]:81: denied by loopback"];
    let mut found: Vec<String> =
        serde_json::from_value(fact(&answer, "forward.addresses")).unwrap();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(fact(&answer, "sent.head")[0], "GET /x?y HTTP/1.1");
}

#[test]
fn a_parent_is_asked_as_ringway_was() {
    let parent = "parent.0={ name = \"office\", url = \"http://127.0.0.1:3128\" }";
    let answer = ask(&[FORWARD, parent], "GET http://a.example/x", &[]);
    assert_eq!(fact(&answer, "sent.head")[0], "GET http://a.example/x HTTP/1.1");
    let answer = ask(&[FORWARD, parent], "CONNECT a.example:443", &[]);
    assert_eq!(fact(&answer, "sent.head")[0], "CONNECT a.example:443 HTTP/1.1");
    assert_eq!(fact(&answer, "forward.addresses")[0], "127.0.0.1:3128");
}

#[test]
fn a_client_that_may_not_is_told_before_the_target_is_looked_at() {
    let stranger = Ipv4Addr::new(192, 0, 2, 9).into();
    let answer = ask_as(stranger, &[FORWARD], "CONNECT 127.0.0.1:1", &[]);
    assert_eq!(fact(&answer, "answer.error"), "client_forbidden");
    let own = ask_as(stranger, &[FORWARD], "GET http://127.0.0.1:8000/x", &[]);
    assert_eq!(fact(&own, "answer.from"), "upstream default");
}

#[test]
fn the_bounds_are_those_of_the_request() {
    let answer = ask(&["timeouts.read=7s"], "GET /", &[]);
    let timeouts = fact(&answer, "bounds.timeouts");
    assert_eq!(timeouts["timeouts.read"], "7s");
    assert!(timeouts.get("timeouts.tunnel_idle").is_none());
    let tunnel = fact(&ask(&[FORWARD], "CONNECT 192.0.2.1:443", &[]), "bounds.timeouts");
    assert_eq!(
        (&tunnel["timeouts.tunnel_idle"], &tunnel["dns.timeout"]),
        (&"1h".into(), &"5s".into())
    );
    assert!(tunnel.get("timeouts.read").is_none());
    for key in
        [&OF_EVERY_REQUEST[..], &OF_A_BODY, &OF_AN_EXCHANGE, &OF_A_TARGET, &OF_A_TUNNEL].concat()
    {
        let values = values(&Config::default(), &Origins::default());
        assert!(values.iter().any(|value| value.key == key), "{key}");
    }
}

#[test]
fn a_question_that_is_no_request_is_refused() {
    let refused = |line: &str, fields: &[&str]| {
        let question = question(Ipv4Addr::LOCALHOST.into(), line, fields);
        explain(&Config::default(), &question).err().map(|failure| (failure.code, failure.cause))
    };
    let table = [
        ("GET /\r\nHost: a", &[][..], "has a line end, which ends a field"),
        ("GET /", &["A: b\r\nC: d"], "has a line end, which ends a field"),
        ("GET /", &["A"], "-H: found \"A\", expected \"Name: value\""),
    ];
    for (line, fields, expected) in table {
        let (code, cause) = refused(line, fields).unwrap();
        assert_eq!(code, 2);
        assert!(cause.ends_with(expected), "{cause}");
    }
    let mut other = question(Ipv4Addr::LOCALHOST.into(), "GET /", &[]);
    other.listener = Some("127.0.0.1:1".parse().unwrap());
    let failure = explain(&Config::default(), &other).unwrap_err();
    assert!(failure.cause.contains("one of the listeners: 0.0.0.0:8000"), "{}", failure.cause);
}
