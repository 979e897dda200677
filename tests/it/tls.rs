//! TLS on both sides: what clients are shown, what origins are believed, and how either ends.
//!
//! In go certificates made by the test, real clients (rustls, curl, openssl) and scripted bytes;
//! out come the answers, the alerts and the counts. What a session does with records is checked by
//! whole exchanges: nothing here knows how.

use crate::support::{
    Client, DEADLINE, GET, Home, OK, Origin, Pair, Proxy, Setup, TlsClient, TlsEnd, TlsOrigin,
    Trust, connect, installed, logged, pattern, wait_until,
};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

/// A proxy with one listener that speaks TLS.
pub(crate) struct Secured {
    pub(crate) proxy: Proxy,
    pub(crate) pair: Pair,
}

impl Secured {
    pub(crate) fn start(setup: Setup) -> Self {
        let pair = Pair::of(&["localhost", "*.example.org"]);
        Self { proxy: setup.listen_tls(&pair).start(), pair }
    }

    pub(crate) fn to(origin: &Origin) -> Self {
        Self::start(Setup::to(origin))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        *self.proxy.addresses().last().expect("it listens")
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::in_pair(&self.pair)
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> TlsClient {
        TlsClient::connect(self.address(), "localhost", &self.trust())
    }

    /// The value of a metric.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let line = self.proxy.wait_for_log(&["admin", "address="]);
        let address = line.split("address=").nth(1).expect("an address").trim_matches('"');
        let mut client = Client::connect(address.parse().expect("an address"));
        client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let text = String::from_utf8(client.read_response().body).expect("text");
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {name}"))
    }
}

fn ok_origin() -> Origin {
    Origin::answering(OK)
}

const LOCAL: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[test]
fn requests_follow_each_other_on_one_session() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    let mut client = secured.connect();
    for _ in 0..3 {
        client.send(LOCAL);
        assert!(client.read_until(b"\r\n\r\nok").starts_with(b"HTTP/1.1 200 OK"));
    }
    client.send(LOCAL.repeat(40)).send(LAST);
    let (rest, end) = client.read_to_end();
    assert_eq!(memchr::memmem::find_iter(&rest, b"HTTP/1.1 200 OK").count(), 41);
    assert_eq!(end, TlsEnd::Said);
}

#[test]
fn an_origin_is_told_that_its_client_has_tls() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    secured.connect().send(LAST).read_to_end();
    origin.only_request().expect_field("X-Forwarded-Proto", "https");
}

#[test]
fn a_client_that_parks_is_served_when_it_comes_back() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    let mut client = secured.connect();
    client.send(LOCAL).read_until(b"\r\n\r\nok");
    // It gives its buffers back after a second of rest.
    wait_until("it rests", || secured.metric("ringway_clients_resting{worker=\"0\"}") == 1);
    client.send(LOCAL).read_until(b"\r\n\r\nok");
    client.finish();
    let (rest, end) = client.read_to_end();
    assert!(rest.is_empty() && end == TlsEnd::Said);
}

#[test]
fn records_that_come_byte_by_byte_are_put_together() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    let mut client = secured.connect();
    client.send_in_bytes(LOCAL.as_bytes());
    client.read_until(b"\r\n\r\nok");
    client.send_in_bytes(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd");
    client.read_until(b"\r\n\r\nok");
}

#[test]
fn bodies_of_every_size_go_both_ways() {
    let origin = Origin::start(|mut peer| {
        while let Some(mut request) = peer.read_head() {
            peer.read_body(&mut request, crate::support::Expected::Request);
            let length = request.body.len();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            peer.send(&request.body);
        }
    });
    let secured = Secured::to(&origin);
    let mut client = secured.connect();
    for size in [0, 1, 100, 4096, 16_383, 16_384, 16_385, 70_000, 300_000, 3_000_000] {
        let body = pattern(size);
        client
            .send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"));
        client.send(&body);
        let head = client.read_head();
        assert!(head.starts_with(b"HTTP/1.1 200"), "{size}");
        assert!(client.read_exactly(size) == body, "{size}: other bytes");
    }
}

#[test]
fn a_client_that_reads_late_gets_all_of_it() {
    const SIZE: usize = 20_000_000;
    let body = pattern(SIZE);
    let sent = body.clone();
    let origin = Origin::start(move |mut peer| {
        while peer.read_head().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            peer.send(&sent);
        }
    });
    let secured = Secured::to(&origin);
    let mut client = secured.connect();
    client.send(LAST);
    origin.wait_for("a request", |seen| !seen.bytes().is_empty());
    std::thread::sleep(Duration::from_millis(300));
    client.read_head();
    assert!(client.read_exactly(SIZE) == body, "other bytes");
    assert_eq!(client.read_to_end(), (Vec::new(), TlsEnd::Said));
}

#[test]
fn an_answer_that_is_cut_is_not_said_to_be_whole() {
    let origin = Origin::start(|mut peer| {
        peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
        peer.send(pattern(5_000));
    });
    let secured = Secured::to(&origin);
    let mut client = secured.connect();
    let (_, end) = client.send(LOCAL).read_to_end();
    assert_eq!(end, TlsEnd::Cut);
}

#[test]
fn an_answer_that_ends_with_its_connection_is_said_to_be_whole() {
    let origin = Origin::answering_and_closing("HTTP/1.1 200 OK\r\n\r\nuntil the end");
    let secured = Secured::to(&origin);
    let mut client = secured.connect();
    client.send("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let (bytes, end) = client.read_to_end();
    assert!(bytes.ends_with(b"until the end"));
    assert_eq!(end, TlsEnd::Said);
}

#[test]
fn each_name_is_shown_its_certificate() {
    let origin = ok_origin();
    let (first, exact) = (Pair::of(&["localhost"]), Pair::of(&["a.example.org"]));
    let wild = Pair::of(&["*.example.org"]);
    let more = |name: &str, pair: &Pair, setup: Setup| {
        let table = format!("[[tls.certificates]]\nchain = \"{name}.pem\"\nkey = \"{name}.key\"");
        setup
            .file(&format!("{name}.pem"), &pair.chain)
            .file(&format!("{name}.key"), &pair.key)
            .table(&table)
    };
    let setup = Setup::to(&origin).listen_tls(&first);
    let proxy = more("exact", &exact, more("wild", &wild, setup)).start();
    let address = *proxy.addresses().last().unwrap();
    for (name, pair) in [("localhost", &first), ("a.example.org", &exact), ("b.example.org", &wild)]
    {
        let client = TlsClient::connect(address, name, &Trust::in_pair(pair));
        assert_eq!(client.shown(), pair.der(), "{name}");
    }
    // The first is for whoever asks for another name, and does not believe it then.
    assert!(TlsClient::try_connect(address, "c.test", &Trust::in_pair(&first)).is_err());
}

#[test]
fn strict_names_refuse_the_others() {
    let origin = ok_origin();
    let secured = Secured::start(Setup::to(&origin).set("tls.strict_sni", true));
    secured.connect().send(LAST).read_to_end();
    let refused = TlsClient::try_connect(secured.address(), "c.test", &secured.trust());
    assert!(refused.err().expect("no certificate").to_string().contains("alert"));
    wait_until("it is counted", || {
        secured.metric("ringway_tls_failed_total{reason=\"name\"}") == 1
    });
}

#[test]
fn a_request_for_a_name_that_the_session_does_not_cover_is_misdirected() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    let mut client = secured.connect();
    for (host, status) in [
        ("localhost", "200"),
        ("localhost:8443", "200"),
        ("a.example.org", "200"),
        ("example.org", "421"),
        ("other", "421"),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let head = String::from_utf8(client.read_head()).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {head}");
        client.read_exactly(if status == "200" { 2 } else { "Misdirected Request".len() });
    }
}

#[test]
fn a_request_without_tls_is_told_so_in_clear() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    let mut client = Client::connect(secured.address());
    let answer = client.send(GET).read_response();
    answer.expect_status(400);
    client.expect_orderly_close();
    assert_eq!(secured.metric("ringway_tls_failed_total{reason=\"plain\"}"), 1);
}

#[test]
fn a_plain_listener_sends_requests_to_where_tls_is() {
    let origin = ok_origin();
    let secured = Secured::start(Setup::to(&origin).set("server.redirect_https", true));
    let mut client = secured.proxy.connect();
    client.send("GET /a/b?c=d HTTP/1.1\r\nHost: example.org:80\r\n\r\n");
    let port = secured.address().port();
    let answer = client.read_response();
    answer.expect_status(308);
    answer.expect_field("Location", &format!("https://example.org:{port}/a/b?c=d"));
    assert!(origin.seen().requests.is_empty());
    secured.connect().send(LAST).read_to_end();
}

#[test]
fn clients_show_a_certificate_where_it_is_required() {
    let origin = ok_origin();
    let known = Pair::of(&["client.test"]);
    let setup = Setup::to(&origin)
        .file("clients.pem", &known.chain)
        .set("tls.client_auth", "required")
        .set("tls.client_ca", "clients.pem");
    let secured = Secured::start(setup);
    let connect = |own: Option<&Pair>| {
        let trust = Trust::shown_as(&secured.pair, own);
        let mut client = TlsClient::try_connect(secured.address(), "localhost", &trust)?;
        // TLS 1.3 hears of the refusal when it reads.
        client.try_exchange(LAST)
    };
    assert!(connect(Some(&known)).expect("it is known").starts_with(b"HTTP/1.1 200"));
    assert!(connect(None).is_err());
    assert!(connect(Some(&Pair::of(&["other.test"]))).is_err());
    wait_until("they are counted", || {
        secured.metric("ringway_tls_failed_total{reason=\"no_certificate\"}") == 1
            && secured.metric("ringway_tls_failed_total{reason=\"certificate\"}") == 1
    });
}

#[test]
fn a_ticket_outlives_a_reload() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    let trust = secured.trust();
    let visit = || {
        let mut client = TlsClient::connect(secured.address(), "localhost", &trust);
        client.send(LAST).read_to_end();
        client.is_resumed()
    };
    assert!(!visit());
    assert!(visit());
    secured.proxy.signal(Signal::SIGHUP);
    secured.proxy.wait_for_log(&["reloaded", "generation=2"]);
    assert!(visit());
    assert_eq!(secured.metric("ringway_tls_resumed_total"), 2);
}

#[test]
fn a_ticket_outlives_an_upgrade() {
    let origin = ok_origin();
    let mut secured = Secured::to(&origin);
    let trust = secured.trust();
    let visit = |address| {
        let mut client = TlsClient::connect(address, "localhost", &trust);
        client.send(LAST).read_to_end();
        client.is_resumed()
    };
    let address = secured.address();
    assert!(!visit(address));
    secured.proxy.signal(Signal::SIGUSR2);
    let line = secured.proxy.wait_for_log(&["a new process has taken over"]);
    assert!(visit(address));
    secured.proxy.expect_orderly_end();
    let successor: i32 = logged(&line, "pid").parse().expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(successor), Signal::SIGTERM).unwrap();
}

#[test]
fn a_certificate_that_changes_is_shown_and_a_bad_one_is_not() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    let home = secured.proxy.home();
    let next = Pair::of(&["localhost"]);
    // A chain without its key is no certificate.
    fs::write(home.join("shown.pem"), &next.chain).unwrap();
    secured.proxy.wait_for_log(&["is not the key of", "stays in use"]);
    assert_eq!(secured.connect().shown(), secured.pair.der());
    fs::write(home.join("shown.key"), &next.key).unwrap();
    wait_until("the new one is shown", || {
        TlsClient::try_connect(secured.address(), "localhost", &Trust::in_pair(&next)).is_ok()
    });
    fs::write(home.join("shown.pem"), &next.chain[..200]).unwrap();
    secured.proxy.wait_for_log(&["shown.pem", "no", "stays in use"]);
    assert!(TlsClient::try_connect(secured.address(), "localhost", &Trust::in_pair(&next)).is_ok());
}

#[test]
fn what_is_no_handshake_ends_by_name_and_takes_nothing_with_it() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    secured.connect().send(LAST).read_to_end();
    let before = secured.proxy.open_files();
    let sslv2 = b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80";
    let oversized = [&b"\x16\x03\x01\xff\xff"[..], &[1; 5000]].concat();
    let endless = [&b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"[..], &[0; 16_380]].concat().repeat(8);
    let empty = b"\x16\x03\x01\x00\x00".repeat(100);
    let alert = b"\x15\x03\x01\x00\x02\x02\x28";
    let data = b"\x17\x03\x03\x00\x05hello";
    let hostile: [&[u8]; 8] =
        [sslv2, &oversized, &endless, &empty, alert, data, b"\0\0\0\0\0\0\0", b"\x16\x03"];
    for bytes in hostile {
        let mut socket = TcpStream::connect(secured.address()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        // An alert or nothing, and then the end.
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
    }
    secured.proxy.wait_for_open_files(before);
    let failed =
        |reason: &str| secured.metric(&format!("ringway_tls_failed_total{{reason=\"{reason}\"}}"));
    wait_until("all are counted", || {
        failed("protocol") + failed("gone") + failed("alert") + failed("incompatible") == 8
    });
    assert_eq!(secured.metric("ringway_tls_handshaking"), 0);
    secured.connect().send(LAST).read_to_end();
}

#[test]
fn garbage_in_a_session_ends_it() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x17, 3, 3, 0, 40], &[0x17, 3, 3, 0xff, 0xff]]
    {
        let mut client = secured.connect();
        client.send(LOCAL).read_until(b"\r\n\r\nok");
        client.socket().write_all(&[garbage, &[7; 40]].concat()).unwrap();
        let _ = client.try_read_to_end();
    }
    secured.connect().send(LAST).read_to_end();
}

#[test]
fn handshakes_that_stall_leave_room_for_others() {
    let origin = ok_origin();
    let secured = Secured::start(Setup::to(&origin).set("limits.clients", 2000));
    let mut stalled = Vec::new();
    for _ in 0..600 {
        stalled.push(TcpStream::connect(secured.address()).unwrap());
    }
    let source = Ipv4Addr::new(127, 0, 0, 9);
    wait_until("the list is full", || secured.metric("ringway_tls_handshaking") >= 512);
    for _ in 0..5 {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&SocketAddr::new(source.into(), 0).into()).unwrap();
        socket.connect(&secured.address().into()).unwrap();
        let mut client = TlsClient::over(socket.into(), "localhost", &secured.trust()).unwrap();
        let (answer, _) = client.send(LAST).read_to_end();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    assert!(secured.metric("ringway_tls_failed_total{reason=\"crowded\"}") >= 88);
}

#[test]
fn a_handshake_that_takes_too_long_is_ended() {
    let origin = ok_origin();
    let secured = Secured::start(Setup::to(&origin).set("timeouts.handshake", 0.2));
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x00\xc8\x01"] {
        let mut socket = TcpStream::connect(secured.address()).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
    }
    wait_until("they are counted", || {
        secured.metric("ringway_tls_failed_total{reason=\"timeout\"}") == 3
    });
}

#[test]
fn a_tunnel_in_a_session_carries_both_directions_and_their_ends() {
    let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = target.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut here, _) = target.accept().unwrap();
        let mut back = here.try_clone().unwrap();
        std::io::copy(&mut here, &mut back).unwrap();
        back.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let pair = Pair::of(&["localhost"]);
    let proxy = Setup::forward().listen_tls(&pair).start();
    let address = *proxy.addresses().last().unwrap();
    let mut client = TlsClient::connect(address, "localhost", &Trust::in_pair(&pair));
    client.send(connect(to));
    client.read_head();
    let bytes = pattern(500_000);
    client.send(&bytes[..250_000]);
    assert!(client.read_exactly(250_000) == bytes[..250_000]);
    client.send(&bytes[250_000..]).finish();
    assert!(client.read_exactly(250_000) == bytes[250_000..]);
    assert_eq!(client.read_to_end(), (Vec::new(), TlsEnd::Said));
    echo.join().unwrap();
}

/// An origin that answers every request.
fn secure_origin(pair: &Pair) -> TlsOrigin {
    TlsOrigin::start(pair, |mut peer| {
        while peer.read_head().is_some() {
            peer.send(OK);
        }
    })
}

fn to_secure(origin: &TlsOrigin, pair: &Pair, lines: &str) -> Setup {
    let lines = format!("{lines}\n[upstream.tls]\nca = \"origin.pem\"");
    Setup::new().file("origin.pem", &pair.chain).upstream("origin", &[&origin.url()], &lines)
}

#[test]
fn an_origin_with_tls_is_spoken_to_on_one_connection() {
    let pair = Pair::of(&["localhost"]);
    let origin = secure_origin(&pair);
    let proxy = to_secure(&origin, &pair, "").start();
    // Its tickets come behind the first answer, and are no reason to give the connection up.
    for _ in 0..5 {
        proxy.get().expect_status(200).expect_body("ok");
    }
    std::thread::sleep(Duration::from_millis(1500));
    proxy.get().expect_status(200).expect_body("ok");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn an_origin_that_is_not_believed_is_named() {
    let (pair, other) = (Pair::of(&["localhost"]), Pair::of(&["elsewhere.test"]));
    let origin = secure_origin(&other);
    let proxy = to_secure(&origin, &pair, "").start();
    let answer = proxy.get();
    answer.expect_own_error(502, "Bad Gateway", "tls_certificate_error");
    proxy.wait_for_log(&["the TLS handshake with an origin failed"]);
    // Its issuer is believed, its name is another one.
    let proxy = to_secure(&origin, &other, "").start();
    proxy.get().expect_own_error(502, "Bad Gateway", "tls_certificate_error");
    // Or that name is what is asked for.
    let lines = "[upstream.tls]\nca = \"origin.pem\"\nsni = \"elsewhere.test\"";
    let setup = Setup::new().file("origin.pem", &other.chain);
    let proxy = setup.upstream("origin", &[&origin.url()], lines).start();
    proxy.get().expect_status(200);
    let lines = "[upstream.tls]\ninsecure_skip_verify = true";
    let proxy = Setup::new().upstream("origin", &[&origin.url()], lines).start();
    proxy.get().expect_status(200);
    // Without a word on whom to believe, the system is asked.
    let proxy = Setup::new().upstream("origin", &[&origin.url()], "").start();
    proxy.get().expect_own_error(502, "Bad Gateway", "tls_certificate_error");
}

#[test]
fn an_origin_that_vouches_for_itself_is_believed_by_its_file_and_name() {
    let pair = Pair::of_authority(&["localhost"]);
    let origin = secure_origin(&pair);
    let proxy = to_secure(&origin, &pair, "").start();
    proxy.get().expect_status(200);
    let other = Pair::of_authority(&["elsewhere.test"]);
    let origin = secure_origin(&other);
    let proxy = to_secure(&origin, &other, "").start();
    proxy.get().expect_own_error(502, "Bad Gateway", "tls_certificate_error");
}

#[test]
fn an_origin_without_tls_is_named() {
    let origin = Origin::start(|mut peer| peer.send("HTTP/1.1 400 Bad Request\r\n\r\n"));
    let url = origin.url().replace("http://", "https://");
    let proxy = Setup::to_url(&url).start();
    proxy.get().expect_own_error(502, "Bad Gateway", "tls_protocol_error");
}

#[test]
fn a_body_that_ends_without_a_word_is_cut_for_the_client_too() {
    let pair = Pair::of(&["localhost"]);
    let origin = TlsOrigin::start(&pair, |mut peer| {
        let head = peer.read_head().unwrap_or_default();
        peer.send("HTTP/1.1 200 OK\r\n\r\n");
        peer.send(pattern(40_000));
        peer.end(if head.starts_with("GET /whole") { TlsEnd::Said } else { TlsEnd::Cut });
    });
    let proxy = to_secure(&origin, &pair, "").start();
    let mut client = proxy.send("GET /whole HTTP/1.1\r\nHost: test\r\n\r\n");
    client.read_response().expect_status(200).expect_body(pattern(40_000));
    let mut client = proxy.send("GET /cut HTTP/1.1\r\nHost: test\r\n\r\n");
    client.read_cut_response();
}

#[test]
fn large_bodies_come_from_an_origin_with_tls_and_go_to_one() {
    let pair = Pair::of(&["localhost"]);
    let origin = TlsOrigin::start(&pair, |mut peer| {
        while let Some(head) = peer.read_head() {
            assert!(head.starts_with("GET"));
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n");
            peer.send(pattern(5_000_000));
        }
    });
    let secured = Secured::start(to_secure(&origin, &pair, ""));
    let mut client = secured.connect();
    for _ in 0..2 {
        client.send(LOCAL).read_head();
        assert!(client.read_exactly(5_000_000) == pattern(5_000_000));
    }
    secured.proxy.get().expect_body(pattern(5_000_000));
}

#[test]
fn curl_and_openssl_are_served() {
    let origin = ok_origin();
    let secured = Secured::to(&origin);
    let ca = secured.proxy.home().join("shown.pem");
    let url = format!("https://localhost:{}/", secured.address().port());
    if let Some(curl) = installed("curl") {
        for flags in [&["--tls-max", "1.2"][..], &["--tlsv1.3"], &["--http2"], &["--http1.0"]] {
            let mut command = Command::new(&curl);
            command.args(["-sSf", "--max-time", "20", "--cacert"]).arg(&ca).args(flags);
            let output = run_plain(command.arg(&url));
            assert!(output.ends_with("ok"), "{flags:?}: {output}");
        }
    }
    if let Some(openssl) = installed("openssl") {
        let address = secured.address().to_string();
        let mut command = Command::new(openssl);
        command.args(["s_client", "-brief", "-ign_eof", "-servername", "localhost", "-connect"]);
        command.arg(&address).stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().expect("openssl can be started");
        child.stdin.take().unwrap().write_all(LAST.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
    }
}

fn run_plain(command: &mut Command) -> String {
    let output = command.output().expect("it can be started");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_cannot_be_shown_is_refused_at_the_start() {
    let pair = Pair::of(&["localhost"]);
    let (other, home) = (Pair::of(&["localhost"]), Home::new());
    let missing = home.path().join("none.pem").to_string_lossy().into_owned();
    let table = |chain: &str| format!("[[tls.certificates]]\nchain = {chain:?}\nkey = \"a.key\"");
    let with = |chain: &str| {
        let setup = Setup::new().set("server.listen_tls", ["127.0.0.1:0"]).table(&table(chain));
        setup.file("a.pem", &pair.chain).file("a.key", &other.key)
    };
    let bare = Setup::new().set("server.listen_tls", ["127.0.0.1:0"]);
    for (setup, expected) in [
        (bare, "needs a certificate"),
        (with("a.pem"), "is not the key of"),
        (with(&missing), "cannot be read"),
        (with("a.key"), "no certificate in it"),
        (Setup::new().set("server.redirect_https", true), "`redirect_https` needs `listen_tls`"),
        (Setup::new().set("tls.client_auth", "required"), "`client_auth` needs `client_ca`"),
    ] {
        let output = setup.run();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{expected}: {text}");
    }
}
