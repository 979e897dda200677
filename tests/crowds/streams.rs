//! Many streams of HTTP/2 by clients that read nothing and finish nothing, under little memory.
//!
//! In go 500 connections of 100 streams each; out come the memory that the process took, what
//! became of each request, and whether all is as before when they have gone. Envoy's overload
//! manager does not come back from this.

use crate::support::h2::*;
use crate::support::{OK, Origin, Proxy, Setup, wait_until};
use std::collections::BTreeMap;
use std::time::Duration;

const CONNECTIONS: usize = 500;
const STREAMS: u32 = 100;
const MEBIBYTES: usize = 128;
const BODY: usize = 200_000;

/// Half of them ask for a body that they do not read, half begin one that they do not end.
fn begun() -> Vec<u8> {
    let mut bytes = Vec::new();
    for at in 0..STREAMS / 2 {
        bytes.extend(get(at * 4 + 1, "/big"));
        bytes.extend(headers(at * 4 + 3, 0, &request("POST", "/up")));
        if at < 3 {
            bytes.extend(frame(DATA, 0, at * 4 + 3, vec![b'a'; 16_384]));
        }
    }
    bytes
}

/// What became of the requests of a client that reads everything at last.
fn outcomes(client: &mut H2Client) -> BTreeMap<u32, Answer> {
    let mut answers: BTreeMap<u32, Answer> = BTreeMap::new();
    client.send(window_update(0, 0x3fff_ffff));
    for at in 0..STREAMS / 2 {
        client.send(window_update(at * 4 + 1, 1_000_000));
    }
    let is_over = |answers: &BTreeMap<u32, Answer>| {
        let mut wanted = (0..STREAMS / 2).map(|at| at * 4 + 1);
        wanted.all(|id| answers.get(&id).is_some_and(Answer::is_over))
    };
    while !is_over(&answers) {
        let Some(came) = client.read_frame() else { break };
        if came.stream != 0 && came.kind != WINDOW_UPDATE {
            answers.entry(came.stream).or_default().take(&came);
        }
    }
    answers
}

fn stream_bytes(proxy: &Proxy) -> u64 {
    let health = proxy.admin("GET", "/health");
    let health: serde_json::Value = serde_json::from_str(&health).expect("JSON");
    health["memory"]["by_kind"]["streams"].as_u64().expect("a number")
}

#[test]
fn streams_that_stall_stay_within_memory_and_leave_nothing_behind() {
    let _machine = crate::alone();
    let big = vec![b'b'; BODY];
    let origin = Origin::start(move |mut peer| {
        while let Some(head) = peer.next_head() {
            if head.target() == "/big" {
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"));
                peer.send(&big);
            } else if head.method() == "POST" {
                return peer.hold();
            } else {
                peer.send(OK);
            }
        }
    });
    let proxy = Setup::to(&origin)
        .set("memory.max_mb", MEBIBYTES)
        .set("limits.clients", 1_000)
        .set("limits.tunnels", 10)
        .set("limits.streams", 1_000)
        // Memory is what is scarce here: nobody waits for a connection to the origin, so nobody
        // is cut for holding one.
        .set("pool.max_connections", 1_100)
        .start();
    let mut witness = H2Client::connect(proxy.address());
    witness.get(1, "/").expect_status(200);
    let before = stream_bytes(&proxy);
    let (attack, mut most) = (begun(), 0);
    let mut crowd = Vec::with_capacity(CONNECTIONS);
    for at in 0..CONNECTIONS {
        let mut client = H2Client::silent(proxy.address());
        client.keep_windows();
        client.send(PREFACE).send(settings(&[])).send(frame(SETTINGS, ACK, 0, b""));
        client.wire().send_until_stalled(&attack, Duration::from_millis(100));
        crowd.push(client);
        if at % 25 == 0 {
            most = most.max(proxy.resident_bytes());
            // It has its answer, or it is told that it may ask again: never silence.
            let id = 3 + 2 * at as u32;
            let answer = witness.get(id, "/");
            let is_told = answer.reset == Some(REFUSED_STREAM) || answer.status == 503;
            assert!(is_told || answer.status == 200, "{answer:?}");
        }
    }
    assert!(most < MEBIBYTES << 20, "{most} bytes");
    // Nothing that was begun is cut short: it is whole, or it was refused.
    for client in crowd.iter_mut().step_by(50) {
        for (id, answer) in outcomes(client) {
            let is_whole = answer.has_ended && answer.reset.is_none();
            let is_refused = answer.status == 0 && answer.reset == Some(REFUSED_STREAM);
            assert!(is_whole || is_refused, "{id}: {} {:?}", answer.status, answer.reset);
            assert!(answer.status != 200 || answer.body.len() == BODY, "{id}");
        }
    }
    drop(crowd);
    wait_until("the ledger is back", || stream_bytes(&proxy) <= before + 16 * 1024);
    witness.get(10_001, "/").expect_status(200).expect_body("ok");
    proxy.get().expect_status(200);
}

/// What is held for a client that reads nothing: 16 KiB for each stream, which are its
/// conversation, its request's head and what of the answer came with its head, and 80 KiB of body.
#[test]
fn a_client_that_reads_nothing_holds_little_of_each_body() {
    let _machine = crate::alone();
    let big = vec![b'b'; 4_000_000];
    let origin = Origin::start(move |mut peer| {
        while peer.next_request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n");
            peer.send(&big);
        }
    });
    let proxy = Setup::to(&origin).set("pool.max_connections", 100).start();
    let mut client = H2Client::with_settings(proxy.address(), &[(4, 0x7fff_ffff)]);
    client.keep_windows();
    let before = proxy.ledger_bytes();
    // Its windows are open, and its kernel takes what it takes.
    client.send(window_update(0, 0x7fff_0000 - 65_535));
    let requests: Vec<u8> = (0..100).flat_map(|at| get(at * 2 + 1, "/")).collect();
    client.send(requests);
    origin.wait_for("all requests", |seen| seen.requests.len() == 100);
    std::thread::sleep(Duration::from_millis(500));
    // Buffers that are not needed any more go home once a second.
    let most = before + 100 * 16 * 1024 + 80 * 1024;
    wait_until("little is held", || proxy.ledger_bytes() <= most);
    drop(client);
    wait_until("the ledger is back", || proxy.ledger_bytes() <= before + 64 * 1024);
}
