//! The routes: what each answers, to whom, and how lists are cut.
//!
//! In go requests as a program, a browser or a stranger would send them; what is checked are
//! statuses, fields and whether the workers were asked anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;

use super::super::guard::Peer;
use super::super::proxy::Proxy;
use super::{Fixture, handle, oneshot};
use crate::config::Secret;
use crate::ledger::{Kind, Level};
use crate::worker::shared::WorkerSlot;

const TOKEN: &str = "0123456789abcdef";

#[test]
fn every_route_answers_as_the_index_says() {
    let fixture = Fixture::start(|_| {});
    let index = fixture.get("/");
    assert_eq!(index.status, 200);
    assert!(index.head.contains("content-type: text/plain"), "{index:?}");
    let table = [
        ("GET /health", 200, "\"status\":\"ok\""),
        ("HEAD /health", 200, ""),
        ("GET /ready", 200, "ready\n"),
        ("GET /stats", 200, "\"requestsPerSecond\":"),
        ("GET /metrics", 200, "# TYPE ringway_requests_total counter\n"),
        ("GET /memory", 200, "\"pinned_chunks\":0"),
        ("GET /connections", 200, "\"total\":6"),
        ("DELETE /connections/11", 204, ""),
        ("DELETE /connections/12", 404, "no connection has this id"),
        ("DELETE /connections/x", 404, "it is a number"),
        ("POST /admin/cleanup", 200, "\"level\":\"light\""),
        ("GET /nothing", 404, "no such path"),
        ("POST /health/", 404, "no such path"),
        ("GET /admin/cleanup", 405, "Allow"),
        ("DELETE /admin/cleanup", 405, "Allow"),
        ("POST /health", 405, "Allow"),
        ("PUT /metrics", 405, "Allow"),
        ("GET /connections/11", 405, "Allow"),
        ("GET /connections?limit=x", 400, "limit=1..1000"),
        ("GET /connections?lmit=1", 400, "unknown field `lmit`"),
        ("GET /connections?sort=size", 400, "sort=age or memory"),
        ("GET /memory?limit=-1", 400, "limit=1..1000"),
        ("POST /admin/cleanup?level=hard", 400, "level=light or forced"),
    ];
    for (request, status, in_body) in table {
        let answer = fixture.ask(request, &["Host: localhost"]);
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        assert!(answer.body.contains(in_body), "{request}: {answer:?}");
        assert!(answer.head.contains("cache-control: no-store\r\n"), "{request}: {answer:?}");
        if status >= 400 {
            assert!(answer.error().len() > 10);
        }
        if status < 300 && !request.starts_with("HEAD") {
            let path = request.split(' ').nth(1).unwrap().replace("/11", "/{id}");
            assert!(index.body.contains(&path), "{path} is not in the index");
        }
    }
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let fixture = Fixture::start(|_| {});
    for (request, allow) in [
        ("GET /admin/cleanup", "POST"),
        ("POST /metrics", "GET,HEAD"),
        ("PATCH /connections/1", "DELETE"),
    ] {
        let answer = fixture.ask(request, &["Host: localhost"]);
        assert!(answer.head.contains(&format!("allow: {allow}\r\n")), "{answer:?}");
    }
}

#[test]
fn changes_without_a_token_are_for_this_machine() {
    let (setup, _fixture) = Fixture::prepare(|_| {});
    let proxy = Arc::new(Proxy::new(setup, None));
    let from = |peer| oneshot(&proxy, "POST /admin/cleanup", peer);
    assert_eq!(from(Some(Peer::Unix)).status, 200);
    assert_eq!(from(Some(Peer::Tcp([127, 0, 0, 9].into()))).status, 200);
    for peer in [Some(Peer::Tcp([192, 0, 2, 1].into())), None] {
        let answer = from(peer);
        assert_eq!(answer.status, 403);
        assert!(answer.error().contains("admin.token"), "{answer:?}");
        assert_eq!(oneshot(&proxy, "DELETE /connections/11", peer).status, 403);
        // Looking is free, and a wrong method is a wrong method.
        assert_eq!(oneshot(&proxy, "GET /health", peer).status, 200);
        assert_eq!(oneshot(&proxy, "GET /admin/cleanup", peer).status, 405);
    }
}

#[test]
fn a_browser_cannot_be_talked_into_a_change() {
    let fixture = Fixture::start(|_| {});
    let table: [(&str, &[&str], u16); 8] = [
        ("POST /admin/cleanup", &["Host: rebind.example"], 403),
        ("DELETE /connections/11", &["Host: rebind.example"], 403),
        ("POST /admin/cleanup", &["Host: localhost", "Host: localhost"], 403),
        ("POST /admin/cleanup", &["Host: localhost", "Origin: http://evil.example"], 403),
        ("POST /admin/cleanup", &["Host: localhost", "Sec-Fetch-Site: cross-site"], 403),
        ("GET /connections", &["Host: localhost", "Origin: http://evil.example"], 403),
        ("POST /admin/cleanup", &["Host: localhost", "Origin: http://localhost"], 200),
        ("GET /metrics", &["Host: rebind.example"], 403),
    ];
    for (request, fields, status) in table {
        assert_eq!(fixture.ask(request, fields).status, status, "{request} {fields:?}");
    }
    // One cleanup, in both workers.
    assert_eq!(fixture.cleaned(), [Level::Light, Level::Light]);
}

#[test]
fn a_name_of_its_own_may_be_listed() {
    let hosts = vec!["ringway.monitoring.svc".to_owned()];
    let fixture = Fixture::start(|config| config.admin.hosts = hosts);
    assert_eq!(fixture.ask("GET /metrics", &["Host: ringway.monitoring.svc:9901"]).status, 200);
    assert_eq!(fixture.ask("GET /metrics", &["Host: ringway.monitoring"]).status, 403);
}

#[test]
fn who_guesses_at_the_token_is_told_to_wait() {
    let fixture = Fixture::start(|config| config.admin.token = Some(Secret::new(TOKEN)));
    let fields = ["Host: localhost", "Authorization: Bearer 0123456789abcdeF"];
    let statuses = (0..12).map(|_| fixture.ask("POST /admin/cleanup", &fields).status);
    let statuses: Vec<_> = statuses.collect();
    assert_eq!((&statuses[..10], &statuses[10..]), (&[401; 10][..], &[429; 2][..]));
    let blocked = fixture.ask("POST /admin/cleanup", &fields);
    assert!(blocked.head.contains("retry-after: 60\r\n"), "{blocked:?}");
    assert_eq!(fixture.get("/health").status, 200);
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let fixture = Fixture::start(|config| config.admin.token = Some(Secret::new(TOKEN)));
    let host = "Host: ringway.internal";
    for request in ["POST /admin/cleanup", "DELETE /connections/11"] {
        let missing = fixture.ask(request, &[host]);
        assert_eq!(missing.status, 401);
        let challenge = "www-authenticate: Bearer realm=\"ringway\"\r\n";
        assert!(missing.head.contains(challenge), "{missing:?}");
        let wrong = fixture.ask(request, &[host, "Authorization: Bearer 0123456789abcdeF"]);
        assert_eq!(wrong.status, 401);
        assert!(wrong.head.contains("error=\"invalid_token\"\r\n"), "{wrong:?}");
        let right = format!("Authorization: Bearer {TOKEN}");
        assert_eq!(fixture.ask(request, &[host, &right, &right]).status, 401);
        assert!(fixture.ask(request, &[host, &right]).status < 300);
    }
    assert_eq!(fixture.get("/health").status, 200);
}

#[test]
fn lists_are_sorted_and_cut() {
    let fixture = Fixture::start(|_| {});
    let ids = |request: &str, field: &str| -> Vec<u64> {
        let listed = fixture.json(request)[field].as_array().unwrap().clone();
        listed.iter().map(|connection| connection["id"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids("GET /connections", "connections"), [0, 1, 2, 10, 11, 12]);
    assert_eq!(ids("GET /connections?limit=2&sort=age", "connections"), [0, 1]);
    assert_eq!(ids("GET /connections?sort=memory&limit=2", "connections"), [12, 11]);
    assert!(ids("GET /connections?limit=0", "connections").is_empty());
    assert_eq!(ids("GET /connections?limit=99999999", "connections").len(), 6);
    assert_eq!(ids("GET /memory?limit=3", "largest"), [12, 11, 10]);
    let first = &fixture.json("GET /connections?limit=1&sort=memory")["connections"][0];
    assert_eq!(
        *first,
        serde_json::json!({
            "id": 12, "worker": 1, "peer": "10.0.0.1:1012",
            "client": "192.0.2.1", "phase": "exchange", "age_ms": 988,
            "phase_ms": 5, "requests": 12, "protocol": "http/1.1", "bytes_received": 1, "bytes_sent": 2,
            "memory_bytes": 1200,
        })
    );
    fixture.shared.ledgers.workers()[0].set(Kind::Pool, 77);
    let memory = fixture.json("GET /memory");
    assert_eq!(memory["by_worker"][0]["by_kind"]["pool"], 77);
    assert_eq!(memory["by_kind"]["pool"], 77);
    assert_eq!(memory["connections"], 6);
    assert_eq!(memory["silent_workers"], serde_json::json!([]));
}

#[test]
fn a_worker_that_says_nothing_is_named_and_not_waited_for_for_ever() {
    let (mut setup, fixture) = Fixture::prepare(|_| {});
    drop(fixture);
    let shared = Arc::get_mut(&mut setup.shared).expect("nobody else has it");
    // The other end is gone.
    shared.slots[0].occupy(handle(mpsc::unbounded_channel().0));
    // This one takes the question and sits on it.
    let (sender, _kept) = mpsc::unbounded_channel();
    shared.slots.push(WorkerSlot::default());
    shared.slots[2].occupy(handle(sender));
    let proxy = Arc::new(Proxy::new(setup, None));
    let connections = oneshot(&proxy, "GET /connections", None);
    let json: Value = serde_json::from_str(&connections.body).unwrap();
    assert_eq!(json["silent_workers"], serde_json::json!([0, 2]));
    assert_eq!(json["total"], 3);
    let here = Some(Peer::Unix);
    assert_eq!(oneshot(&proxy, "DELETE /connections/11", here).status, 204);
    assert_eq!(oneshot(&proxy, "DELETE /connections/99", here).status, 503);
    assert_eq!(oneshot(&proxy, "POST /admin/cleanup", here).status, 200);
}

#[test]
fn stopping_ends_open_connections() {
    let mut fixture = Fixture::start(|_| {});
    let mut idle = TcpStream::connect(fixture.address()).unwrap();
    idle.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut first = [0; 4];
    idle.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP");
    fixture.control.take().unwrap().stop();
    // Returns, because the other side has closed.
    idle.read_to_end(&mut Vec::new()).unwrap();
}
