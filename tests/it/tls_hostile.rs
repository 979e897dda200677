//! Clients, and origins, that break the rules of TLS: each ends by name, and takes nothing along.
//!
//! In go scripted records, some of them sealed with the keys of a session that was agreed upon; out
//! come a counted close, a bystander who is served throughout, and a bill for processor time.

use super::tls::Secured;
use crate::support::{
    Client, DEADLINE, OK, Origin, Pair, RawSession, Setup, Terms, TlsClient, TlsOrigin, TlsPeer,
    Trust, hello, records, wait_until,
};
use rustls::ContentType;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const LOCAL: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A bystander's session, and what was counted and open before somebody came along.
struct Scene {
    secured: Secured,
    bystander: TlsClient,
    open_files: usize,
    spent: Duration,
}

impl Scene {
    fn new(origin: &Origin) -> Self {
        let secured = Secured::to(origin);
        let mut bystander = secured.connect();
        bystander.send(LOCAL).read_until(b"\r\n\r\nok");
        let open_files = secured.proxy.open_files();
        let spent = secured.proxy.processor_time();
        Self { secured, bystander, open_files, spent }
    }

    fn count(&self, family: &str, reason: &str) -> u64 {
        self.secured.metric(&format!("ringway_tls_{family}_total{{reason=\"{reason}\"}}"))
    }

    fn is_served(&mut self) {
        self.bystander.send(LOCAL).read_until(b"\r\n\r\nok");
    }

    /// One connection of `name` came to its end for `reason`, and nothing else has changed.
    #[track_caller]
    fn ends(&mut self, what: &dyn Debug, family: &str, reason: &str, before: u64) {
        wait_until(&format!("{what:?} is counted as {reason}"), || {
            self.count(family, reason) == before + 1
        });
        self.is_served();
    }

    #[track_caller]
    fn end(mut self, spent_max: Duration) {
        self.is_served();
        self.secured.proxy.wait_for_open_files(self.open_files);
        assert_eq!(self.secured.metric("ringway_tls_handshaking"), 0);
        let spent = self.secured.proxy.processor_time().saturating_sub(self.spent);
        assert!(spent < spent_max, "{spent:?} of processor time");
        let log = self.secured.proxy.log_lines();
        assert!(!log.iter().any(|line| line.contains("panic")), "{log:?}");
        let mut fresh = self.secured.connect();
        fresh.send(LOCAL).read_until(b"\r\n\r\nok");
    }
}

/// Sends `wire` and waits for the end; what came until then.
fn visit(scene: &Scene, wire: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(scene.secured.address()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = socket.write_all(wire);
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it stays open"),
        _ => answer,
    }
}

/// A hello that says nothing of extensions, with this version and these suites.
fn bare_hello(version: u16, suites: &[u16]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend_from_slice(&[7; 32]);
    body.push(0);
    body.extend_from_slice(&((suites.len() * 2) as u16).to_be_bytes());
    for suite in suites {
        body.extend_from_slice(&suite.to_be_bytes());
    }
    body.extend_from_slice(&[1, 0]);
    message(1, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend_from_slice(body);
    message
}

/// A hello of `name` with a padding that makes it so long.
fn padded(mut hello: Vec<u8>, bytes: usize) -> Vec<u8> {
    let padding = bytes - hello.len() - 4;
    // Behind version, random, session, suites and compressions stand the extensions' bytes.
    let session = 4 + 2 + 32;
    let suites = session + 1 + usize::from(hello[session]);
    let compressions =
        suites + 2 + usize::from(u16::from_be_bytes([hello[suites], hello[suites + 1]]));
    let extensions = compressions + 1 + usize::from(hello[compressions]);
    let length = u16::from_be_bytes([hello[extensions], hello[extensions + 1]]);
    let longer = length + 4 + padding as u16;
    hello[extensions..extensions + 2].copy_from_slice(&longer.to_be_bytes());
    let padded = [&[0, 21], &(padding as u16).to_be_bytes()[..], &vec![0; padding]].concat();
    // In front of all others: that of tickets has to be the last.
    hello.splice(extensions + 2..extensions + 2, padded);
    let body = (hello.len() - 4) as u32;
    hello[1..4].copy_from_slice(&body.to_be_bytes()[1..]);
    hello
}

#[test]
fn each_kind_of_bad_beginning_ends_by_its_name() {
    let origin = Origin::answering(OK);
    let mut scene = Scene::new(&origin);
    let hello = hello("localhost", &scene.secured.trust());
    let whole = records(22, &hello, 16_384);
    let sslv2 = [&[0x80, 0x2e, 1, 3, 0, 0, 0x15, 0, 0, 0, 0x10][..], &[9; 37]].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("SSL 2", sslv2, "protocol"),
        ("SSL 3", records(22, &bare_hello(0x0300, &[0xc02f, 0x0a]), 16_384), "incompatible"),
        ("TLS 1.0", records(22, &bare_hello(0x0301, &[0xc013, 0x2f]), 16_384), "incompatible"),
        ("TLS 1.1", records(22, &bare_hello(0x0302, &[0xc013, 0x2f]), 16_384), "incompatible"),
        ("no suite", records(22, &bare_hello(0x0303, &[0x0005, 0x000a]), 16_384), "incompatible"),
        ("a record too long", [&[22, 3, 1, 0x41, 1][..], &[1; 16_641]].concat(), "protocol"),
        ("a record without a byte", vec![22, 3, 1, 0, 0], "protocol"),
        ("many of them", [22, 3, 1, 0, 0].repeat(2_000), "protocol"),
        ("another message", records(22, &message(2, &[0; 70]), 16_384), "protocol"),
        ("a hello of nothing", records(22, &message(1, &[]), 16_384), "protocol"),
        ("half a hello in a whole one", records(22, &message(1, &hello[4..90]), 50), "protocol"),
        ("data", records(23, b"hello", 100), "protocol"),
        ("a heartbeat", vec![24, 3, 1, 0, 3, 1, 0x40, 0], "protocol"),
        ("a change of ciphers", [20, 3, 1, 0, 1, 1].repeat(50), "protocol"),
        ("an alert", vec![21, 3, 1, 0, 2, 2, 40], "alert"),
        ("a version of a record that is none", vec![22, 9, 9, 0, 1, 1], "protocol"),
        ("zeros", vec![0; 300], "protocol"),
        ("ones", vec![0xff; 300], "protocol"),
        ("a hello too long", records(22, &padded(hello.clone(), 17_000), 16_384), "protocol"),
        ("the same in pieces", records(22, &padded(hello.clone(), 17_000), 500), "protocol"),
        ("one that would be endless", records(22, &[1, 0xff, 0xff, 0xff], 4), "protocol"),
        ("data behind a hello", [&whole[..], &records(23, b"GET /", 9)].concat(), "protocol"),
        ("a hello behind a hello", [&whole[..], &whole].concat(), "protocol"),
        ("an alert behind a hello", [&whole[..], &[21, 3, 3, 0, 2, 2, 40]].concat(), "alert"),
        (
            "ciphers behind a hello",
            [&whole, &[20, 3, 3, 0, 1, 1].repeat(9)[..]].concat(),
            "protocol",
        ),
        ("a request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "plain"),
        ("HTTP/2 in clear", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "plain"),
    ];
    for (what, wire, reason) in cases {
        let before = scene.count("failed", reason);
        let answer = visit(&scene, &wire);
        match reason {
            "plain" => assert!(answer.starts_with(b"HTTP/1.1 400 "), "{what}"),
            _ => assert!(answer.is_empty() || [0x15, 0x16].contains(&answer[0]), "{what}"),
        }
        scene.ends(&what, "failed", reason, before);
    }
    scene.end(Duration::from_secs(20));
}

#[test]
fn a_hello_may_come_in_any_records_and_any_pieces() {
    let origin = Origin::answering(OK);
    let scene = Scene::new(&origin);
    let trust = scene.secured.trust();
    let hello = hello("localhost", &trust);
    for size in [1, 2, 7, 100, 16_384] {
        let wire = records(22, &hello, size);
        let mut socket = TcpStream::connect(scene.secured.address()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        for piece in wire.chunks(if size > 100 { 3 } else { 64 }) {
            socket.write_all(piece).unwrap();
        }
        let mut answer = [0; 6];
        socket.read_exact(&mut answer).unwrap();
        // A server hello.
        assert_eq!((answer[0], answer[5]), (22, 2), "{size}");
    }
    // As long as one may be.
    let wire = records(22, &padded(hello, 16_000), 16_384);
    let mut socket = TcpStream::connect(scene.secured.address()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(&wire).unwrap();
    let mut answer = [0; 6];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], answer[5]), (22, 2));
    drop(socket);
    scene.end(Duration::from_secs(20));
}

#[test]
fn a_record_may_come_in_as_many_pieces_as_it_has_bytes() {
    let origin = Origin::answering(OK);
    let secured = Secured::to(&origin);
    let mut raw = RawSession::tls13(secured.address(), &secured.trust());
    let last = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Long: {}\r\n\r\n",
        "x".repeat(400)
    );
    raw.socket.set_nodelay(true).unwrap();
    let record = raw.seal(ContentType::ApplicationData, last.as_bytes());
    for byte in record {
        raw.socket.write_all(&[byte]).unwrap();
        // Or the kernel puts them together.
        std::thread::sleep(Duration::from_millis(1));
    }
    // Two tickets and an answer, which a refusal would not have.
    let answer = raw.wait_for_the_end();
    origin.only_request();
    assert!(answer.len() > 400, "{} bytes", answer.len());
}

/// What a session's client does that it may not, and how that is called.
type Attack = (&'static str, fn(&mut RawSession), &'static str);

const POST: &str = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n";

/// Handshake messages of TLS that no client sends once all is agreed upon.
fn tell(raw: &mut RawSession, kind: u8, body: &[u8]) {
    raw.say(ContentType::Handshake, &message(kind, body));
}

const ATTACKS_13: [Attack; 12] = [
    ("a hello", |it| tell(it, 1, &[3; 90]), "protocol"),
    ("a ticket", |it| tell(it, 4, &[0; 40]), "protocol"),
    ("a certificate", |it| tell(it, 11, &[0; 40]), "protocol"),
    ("an unknown message", |it| tell(it, 99, &[0; 40]), "protocol"),
    (
        "a fatal alert",
        |it| {
            it.say(ContentType::Alert, &[2, 40]);
        },
        "alert",
    ),
    (
        "a fatal alert in a body",
        |it| {
            it.say(ContentType::ApplicationData, POST.as_bytes());
            it.say(ContentType::ApplicationData, &[7; 1_000]).say(ContentType::Alert, &[2, 80]);
        },
        "alert",
    ),
    (
        "garbage in a body",
        |it| {
            it.say(ContentType::ApplicationData, POST.as_bytes());
            it.send(&[23, 3, 3, 0, 40]).send(&[7; 40]);
        },
        "protocol",
    ),
    (
        "a record too long",
        |it| {
            it.send(&[23, 3, 3, 0x42, 0]).send(&[7; 0x4200]);
        },
        "protocol",
    ),
    (
        "changes of ciphers",
        |it| {
            it.send(&[20, 3, 3, 0, 1, 1].repeat(1_000));
        },
        "protocol",
    ),
    (
        "plain text",
        |it| {
            it.send(b"GET / HTTP/1.1\r\n\r\n");
        },
        "protocol",
    ),
    (
        "records without a byte",
        |it| {
            let flood: Vec<_> =
                (0..50_000).flat_map(|_| it.seal(ContentType::ApplicationData, &[])).collect();
            it.send(&flood);
        },
        "flood",
    ),
    (
        "warnings",
        |it| {
            let flood: Vec<_> =
                (0..2_000).flat_map(|_| it.seal(ContentType::Alert, &[1, 90])).collect();
            it.send(&flood);
        },
        "flood",
    ),
];

const ATTACKS_12: [Attack; 5] = [
    (
        "to agree anew",
        |it| {
            for _ in 0..50 {
                tell(it, 1, &bare_hello(0x0303, &[0xc02f])[4..]);
            }
        },
        "flood",
    ),
    (
        "warnings",
        |it| {
            let flood: Vec<_> =
                (0..2_000).flat_map(|_| it.seal(ContentType::Alert, &[1, 90])).collect();
            it.send(&flood);
        },
        "flood",
    ),
    (
        "a fatal alert",
        |it| {
            it.say(ContentType::Alert, &[2, 40]);
        },
        "alert",
    ),
    (
        "a change of ciphers",
        |it| {
            it.send(&[20, 3, 3, 0, 1, 1].repeat(1_000));
        },
        "protocol",
    ),
    (
        "garbage",
        |it| {
            it.send(&[23, 3, 3, 0, 40]).send(&[7; 40]);
        },
        "protocol",
    ),
];

#[test]
fn what_breaks_a_session_is_counted_by_name_and_takes_nothing_along() {
    let origin = Origin::answering(OK);
    let mut scene = Scene::new(&origin);
    let trust = scene.secured.trust();
    let begin: [fn(_, &Trust) -> RawSession; 2] = [RawSession::tls13, RawSession::tls12];
    for (begin, attacks) in begin.into_iter().zip([&ATTACKS_13[..], &ATTACKS_12]) {
        for (what, attack, reason) in attacks {
            let before = scene.count("broken", reason);
            let mut raw = begin(scene.secured.address(), &trust);
            attack(&mut raw);
            raw.wait_for_the_end();
            scene.ends(what, "broken", reason, before);
        }
    }
    scene.end(Duration::from_secs(30));
}

#[test]
fn keys_that_change_again_and_again_are_a_flood() {
    let origin = Origin::answering(OK);
    let mut scene = Scene::new(&origin);
    let mut client = scene.secured.connect();
    // Now and then is fine.
    for _ in 0..10 {
        client.change_keys().unwrap();
        client.send(LOCAL).read_until(b"\r\n\r\nok");
    }
    for _ in 0..10_000 {
        if client.change_keys().is_err() {
            break;
        }
    }
    let _ = client.try_read_to_end();
    scene.ends(&"keys", "broken", "flood", 0);
    drop(client);
    scene.end(Duration::from_secs(20));
}

#[test]
fn a_client_that_never_reads_its_handshake_is_ended_in_time() {
    let origin = Origin::answering(OK);
    let setup = Setup::to(&origin).set("timeouts.handshake", 0.5);
    let secured = Secured::start(setup);
    let wire = records(22, &hello("localhost", &secured.trust()), 16_384);
    let mut socket = TcpStream::connect(secured.address()).unwrap();
    socket.write_all(&wire).unwrap();
    wait_until("it is ended", || {
        secured.metric("ringway_tls_failed_total{reason=\"timeout\"}") == 1
    });
    assert_eq!(secured.metric("ringway_tls_handshaking"), 0);
}

#[test]
fn a_client_that_speaks_tls_to_a_plain_port_is_told_nothing_it_could_mistake() {
    let origin = Origin::answering(OK);
    let secured = Secured::to(&origin);
    let wire = records(22, &hello("localhost", &secured.trust()), 16_384);
    let mut client = Client::connect(secured.proxy.address());
    client.send(&wire);
    client.read_response().expect_status(400);
    client.expect_orderly_close();
    secured.proxy.wait_for_log(&["a client speaks TLS to a listener that speaks HTTP in clear"]);
    secured.connect().send(LOCAL).read_until(b"\r\n\r\nok");
}

#[test]
fn tickets_by_the_thousand_are_taken_or_their_origin_is_given_up() {
    let pair = Pair::of(&["localhost"]);
    let serve = |mut peer: TlsPeer| {
        while peer.read_head().is_some() {
            peer.send(OK);
        }
    };
    // rustls sends all of them as one flight, of which 64 KiB are kept.
    for (tickets, is_served) in [(300, true), (1_000, false), (20_000, false)] {
        let origin = TlsOrigin::with(Terms::of(&pair).sending_tickets(tickets).config(), serve);
        let lines = "[upstream.tls]\nca = \"origin.pem\"";
        let setup = Setup::new().file("origin.pem", &pair.chain);
        let proxy = setup.upstream("origin", &[&origin.url()], lines).start();
        let spent = proxy.processor_time();
        let answer = proxy.get();
        if is_served {
            answer.expect_status(200).expect_body("ok");
            proxy.get().expect_status(200);
            assert_eq!(origin.accepted(), 1, "its tickets are no reason to give it up");
        } else {
            answer.expect_own_error(502, "Bad Gateway", "tls_protocol_error");
        }
        assert!(proxy.processor_time().saturating_sub(spent) < Duration::from_secs(10));
        assert!(proxy.resident_bytes() < 256 << 20);
    }
}
