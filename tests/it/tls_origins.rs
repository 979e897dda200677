//! Origins, parent proxies and everybody else who is named with https://: whom the proxy believes,
//! as whom it speaks, what it shares, and what it calls what goes wrong.
//!
//! In go scripted ends of TLS that tell what they were shown; out come answers, `Proxy-Status` and
//! the access log. What becomes of bytes that are cut is in `tls_cut`, real programs in `tls_real`.

use crate::support::{
    GET, OK, Origin, Pair, Proxy, Refusal, Setup, Target, Terms, TlsClient, TlsEnd, TlsOrigin,
    TlsPeer, Trust, connect, get, pattern, wait_until,
};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// What an origin was asked, by connection: what it knows of the other end, and each head.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Answers every request and writes down how the connection began.
fn noting(journal: &Journal) -> impl Fn(TlsPeer) + Send + Sync + 'static {
    let journal = journal.clone();
    move |mut peer: TlsPeer| {
        if peer.shake_hands().is_err() {
            return journal.add("no session");
        }
        let protocol = peer.protocol().map(String::from_utf8_lossy).unwrap_or_default();
        journal.add(format!(
            "name={} protocol={protocol} resumed={} shown={}",
            peer.asked_name().unwrap_or("none"),
            peer.is_resumed(),
            peer.was_shown_one(),
        ));
        while peer.read_head().is_some() {
            peer.send(OK);
        }
    }
}

fn believing(pair: &Pair, url: &str, more: &str) -> Setup {
    let lines = format!("[upstream.tls]\nca = \"origin.pem\"\n{more}");
    Setup::new().file("origin.pem", &pair.chain).upstream("origin", &[url], &lines)
}

fn local(pair: &Pair) -> TlsOrigin {
    TlsOrigin::start(pair, |mut peer| {
        while peer.read_head().is_some() {
            peer.send(OK);
        }
    })
}

#[test]
fn an_origin_is_asked_for_its_name_and_for_http_1_alone() {
    let pair = Pair::of(&["localhost", "127.0.0.1", "other.test"]);
    let journal = Journal::default();
    let terms = Terms::of(&pair).speaking(&["h2", "http/1.1"]);
    let origin = TlsOrigin::with(terms.config(), noting(&journal));
    believing(&pair, &origin.url(), "").start().get().expect_status(200);
    let by_address = origin.url().replace("localhost", "127.0.0.1");
    believing(&pair, &by_address, "").start().get().expect_status(200);
    believing(&pair, &by_address, "sni = \"other.test\"").start().get().expect_status(200);
    let names: Vec<_> = journal.lines().iter().map(|it| it.replace(" resumed=false", "")).collect();
    assert_eq!(
        names,
        [
            "name=localhost protocol=http/1.1 shown=false",
            // Addresses are no names (RFC 6066 §3).
            "name=none protocol=http/1.1 shown=false",
            "name=other.test protocol=http/1.1 shown=false",
        ]
    );
}

#[test]
fn each_way_not_to_be_believed_has_its_name() {
    let good = Pair::of(&["localhost"]);
    let (authority, signed) = Pair::signed(&["localhost"]);
    let trusting = |shown: &Pair, ca: &str| {
        let origin = local(shown);
        let lines = "[upstream.tls]\nca = \"ca.pem\"";
        let setup = Setup::new().file("ca.pem", ca).upstream("origin", &[&origin.url()], lines);
        setup.set("log.access", true).start()
    };
    let old = Pair::valid_in(&["localhost"], 2001..2002);
    let early = Pair::valid_in(&["localhost"], 2090..2091);
    let other = Pair::of(&["other.test"]);
    for (shown, ca, because) in [
        (&old, &old.chain, "expired"),
        (&early, &early.chain, "not valid yet"),
        (&other, &other.chain, "not valid for name"),
        (&good, &authority, "its issuer is not known"),
        (&signed, &good.chain, "its issuer is not known"),
    ] {
        let proxy = trusting(shown, ca);
        proxy.get().expect_own_error(502, "Bad Gateway", "tls_certificate_error");
        proxy.wait_for_log(&["the TLS handshake with an origin failed", because]);
        proxy.wait_for_log(&["origin_bad_certificate"]);
    }
    trusting(&signed, &authority).get().expect_status(200);
}

#[test]
fn an_origin_that_wants_a_certificate_says_so_by_an_alert() {
    let (pair, own) = (Pair::of(&["localhost"]), Pair::of(&["client.test"]));
    // TLS 1.2 says it in the handshake, TLS 1.3 behind it, where an answer is due.
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let journal = Journal::default();
        let terms = Terms::of(&pair).for_client(&own).in_versions(versions);
        let origin = TlsOrigin::with(terms.config(), noting(&journal));
        let proxy = believing(&pair, &origin.url(), "").set("log.access", true).start();
        proxy.get().expect_own_error(502, "Bad Gateway", "tls_alert_received");
        proxy.wait_for_log(&["origin_tls_alert"]);
        let more = "client_chain = \"own.pem\"\nclient_key = \"own.key\"";
        let setup = believing(&pair, &origin.url(), more).file("own.pem", &own.chain);
        setup.file("own.key", &own.key).start().get().expect_status(200);
        assert!(journal.lines().last().unwrap().ends_with("shown=true"), "{:?}", journal.lines());
    }
}

#[test]
fn an_origin_that_speaks_another_protocol_ends_it_by_an_alert() {
    let pair = Pair::of(&["localhost"]);
    let origin = TlsOrigin::with(Terms::of(&pair).speaking(&["h2"]).config(), |mut peer| {
        let _ = peer.shake_hands();
    });
    let proxy = believing(&pair, &origin.url(), "").start();
    proxy.get().expect_own_error(502, "Bad Gateway", "tls_alert_received");
}

#[test]
fn an_origin_that_closes_in_mid_handshake_is_gone_and_another_is_asked() {
    let pair = Pair::of(&["localhost"]);
    for begin in [&b""[..], b"\x16\x03\x03", b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03"] {
        let closing = Origin::start(move |mut peer| {
            peer.read_up_to(1);
            peer.send(begin);
        });
        let url = closing.url().replace("http://127.0.0.1", "https://localhost");
        let proxy = believing(&pair, &url, "").start();
        proxy.get().expect_own_error(502, "Bad Gateway", "connection_terminated");
        // Nothing of a request has gone out, so that even a POST may go elsewhere.
        let good = local(&pair);
        let lines = "[upstream.tls]\nca = \"origin.pem\"";
        let setup = Setup::new().file("origin.pem", &pair.chain);
        let proxy = setup.upstream("origin", &[&url, &good.url()], lines).start();
        for _ in 0..2 {
            let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na";
            proxy.send(post).expect_status(200);
        }
    }
}

#[test]
fn an_origin_that_never_answers_the_hello_has_the_time_of_a_connect() {
    let pair = Pair::of(&["localhost"]);
    let silent = Origin::silent();
    let url = silent.url().replace("http://127.0.0.1", "https://localhost");
    let proxy = believing(&pair, &url, "").set("timeouts.connect", 0.3).start();
    proxy.get().expect_own_error(504, "Gateway Timeout", "connection_timeout");
}

#[test]
fn what_is_no_tls_is_named() {
    let pair = Pair::of(&["localhost"]);
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9\r\n",
        &[0; 40],
        b"\x16\x03\x03\xff\xff",
        b"\x16\x03\x03\x00\x04\x02\xff\xff\xff",
        b"\x17\x03\x03\x00\x02hi",
    ] {
        let origin = Origin::start(move |mut peer| {
            peer.send(answer);
            peer.read_to_end();
        });
        let url = origin.url().replace("http://127.0.0.1", "https://localhost");
        let proxy = believing(&pair, &url, "").set("timeouts.connect", 1).start();
        let answer = proxy.get();
        // What could go on is waited for.
        let is_late = answer.status() == 504;
        let error = if is_late { "connection_timeout" } else { "tls_protocol_error" };
        let reason = if is_late { "Gateway Timeout" } else { "Bad Gateway" };
        answer.expect_own_error(answer.status(), reason, error);
    }
}

#[test]
fn an_alert_in_place_of_a_hello_is_named() {
    let pair = Pair::of(&["localhost"]);
    let origin = Origin::start(|mut peer| {
        peer.send(b"\x15\x03\x03\x00\x02\x02\x28");
        peer.read_to_end();
    });
    let url = origin.url().replace("http://127.0.0.1", "https://localhost");
    let proxy = believing(&pair, &url, "").start();
    proxy.get().expect_own_error(502, "Bad Gateway", "tls_alert_received");
}

#[test]
fn upstreams_that_trust_otherwise_never_share_a_connection() {
    let (pair, own) = (Pair::of(&["localhost"]), Pair::of(&["client.test"]));
    let journal = Journal::default();
    let origin = TlsOrigin::with(Terms::of(&pair).config(), noting(&journal));
    let lines = |more: &str| format!("[upstream.tls]\nca = \"origin.pem\"\n{more}");
    let setup = Setup::new()
        .file("origin.pem", &pair.chain)
        .file("own.pem", &own.chain)
        .file("own.key", &own.key)
        .upstream("one", &[&origin.url()], &lines(""))
        .upstream("named", &[&origin.url()], &lines("sni = \"localhost\""))
        .upstream("loose", &[&origin.url()], "[upstream.tls]\ninsecure_skip_verify = true")
        .upstream(
            "shown",
            &[&origin.url()],
            &lines("client_chain = \"own.pem\"\nclient_key = \"own.key\""),
        )
        .route("one.test", "/", "one", "")
        .route("named.test", "/", "named", "")
        .route("loose.test", "/", "loose", "")
        .route("shown.test", "/", "shown", "");
    let proxy = setup.start();
    for _ in 0..3 {
        for host in ["one.test", "named.test", "loose.test", "shown.test"] {
            proxy.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).expect_status(200);
        }
    }
    assert_eq!(origin.accepted(), 4, "{:?}", journal.lines());
    // Nor do they go on with each other's sessions.
    assert!(journal.lines().iter().all(|line| line.contains("resumed=false")));
}

#[test]
fn a_session_is_gone_on_with_by_the_same_upstream_and_after_a_reload() {
    let (pair, other) = (Pair::of(&["localhost"]), Pair::of(&["other.test"]));
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let journal = Journal::default();
        let noted = journal.clone();
        let config = Terms::of(&pair).in_versions(versions).config();
        // One request a connection.
        let origin = TlsOrigin::with(config, move |mut peer| {
            peer.shake_hands().expect("a session");
            noted.add(format!("resumed={}", peer.is_resumed()));
            peer.read_head();
            peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
            peer.end(TlsEnd::Said);
        });
        let proxy = believing(&pair, &origin.url(), "").start();
        proxy.get().expect_status(200);
        proxy.get().expect_status(200);
        let config = fs::read_to_string(proxy.home().join("ringway.toml")).unwrap();
        let config = config.replace("[[upstream]]", "[[upstream]]\nstrict = true");
        fs::write(proxy.home().join("ringway.toml"), &config).unwrap();
        proxy.signal(Signal::SIGHUP);
        proxy.wait_for_log(&["reloaded", "generation=2"]);
        proxy.get().expect_status(200);
        // Another authority is another one to trust: nothing of what was agreed on holds.
        fs::write(proxy.home().join("origin.pem"), pair.chain.clone() + &other.chain).unwrap();
        proxy.wait_for_log(&["reloaded", "generation=3"]);
        proxy.get().expect_status(200);
        assert_eq!(
            journal.lines(),
            ["resumed=false", "resumed=true", "resumed=true", "resumed=false"],
            "{versions:?}"
        );
    }
}

#[test]
fn a_change_of_trust_uses_no_connection_of_before() {
    let (pair, other) = (Pair::of(&["localhost"]), Pair::of(&["other.test"]));
    let origin = local(&pair);
    let proxy = believing(&pair, &origin.url(), "").start();
    for _ in 0..2 {
        proxy.get().expect_status(200);
    }
    assert_eq!(origin.accepted(), 1);
    fs::write(proxy.home().join("origin.pem"), &other.chain).unwrap();
    proxy.wait_for_log(&["reloaded", "generation=2"]);
    proxy.get().expect_own_error(502, "Bad Gateway", "tls_certificate_error");
    fs::write(proxy.home().join("origin.pem"), &pair.chain).unwrap();
    proxy.wait_for_log(&["reloaded", "generation=3"]);
    proxy.get().expect_status(200);
    // One of those in between was refused by us.
    assert_eq!(origin.accepted(), 3);
}

#[test]
fn the_list_of_the_system_is_that_of_its_environment() {
    let pair = Pair::of(&["localhost"]);
    let origin = local(&pair);
    let with = |launcher: &str| {
        let setup = Setup::to_url(&origin.url()).file("system.pem", &pair.chain);
        setup.launched_by(launcher)
    };
    let proxy = with("SSL_CERT_FILE=system.pem exec \"$0\" \"$@\"").start();
    proxy.get().expect_status(200);
    let proxy = with("exec \"$0\" \"$@\"").start();
    proxy.get().expect_own_error(502, "Bad Gateway", "tls_certificate_error");
    // One that is named and missing is nobody else's.
    let output = with("unset SSL_CERT_DIR; SSL_CERT_FILE=missing.pem exec \"$0\" \"$@\"").run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("SSL_CERT_FILE"), "{text}");
}

#[test]
fn an_origin_with_tls_learns_whose_connection_it_gets_before_the_handshake() {
    let pair = Pair::of(&["localhost"]);
    for (version, length) in [("v1", None), ("v2", Some(28))] {
        let inner = local(&pair);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let headers = Journal::default();
        let noted = headers.clone();
        let to = inner.url().replace("https://localhost", "127.0.0.1");
        std::thread::spawn(move || {
            for mut outer in listener.incoming().map_while(Result::ok) {
                let mut header = Vec::new();
                let is_whole = |header: &[u8]| match length {
                    Some(length) => header.len() == length,
                    None => header.ends_with(b"\r\n"),
                };
                while !is_whole(&header) {
                    let mut byte = [0];
                    outer.read_exact(&mut byte).expect("a header");
                    header.push(byte[0]);
                }
                noted.add(String::from_utf8_lossy(&header));
                let mut inner = std::net::TcpStream::connect(&to).unwrap();
                let (mut from, mut back) = (outer.try_clone().unwrap(), inner.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut back));
                std::thread::spawn(move || std::io::copy(&mut inner, &mut outer));
            }
        });
        let lines = format!(
            "proxy_protocol = \"{version}\"\n[upstream.tls]\nca = \"origin.pem\"\n[[upstream]]\n\
             name = \"plain\"\norigins = [\"http://127.0.0.1:9\"]"
        );
        let setup =
            Setup::new().file("origin.pem", &pair.chain).upstream("origin", &[&url], &lines);
        let asked = "hooks = { forward_auth = { upstream = \"origin\" }, \
                     mirror = { upstream = \"origin\" } }";
        let proxy = setup.route("", "/", "origin", asked).start();
        proxy.get().expect_status(200).expect_body("ok");
        // The request, the question whether it may, and the copy.
        wait_until("all have come", || headers.lines().len() == 3);
        let start = if version == "v1" { "PROXY TCP4 127.0.0.1 " } else { "\r\n\r\n\0\r\nQUIT\n" };
        assert!(
            headers.lines().iter().all(|line| line.starts_with(start)),
            "{:?}",
            headers.lines()
        );
    }
}

#[test]
fn an_authority_and_a_mirror_are_reached_over_tls() {
    let pair = Pair::of(&["localhost"]);
    let (asked, copied) = (Journal::default(), Journal::default());
    let noting = |journal: &Journal| {
        let journal = journal.clone();
        TlsOrigin::start(&pair, move |mut peer| {
            while let Some(head) = peer.read_head() {
                journal.add(head.lines().next().unwrap_or_default());
                peer.send("HTTP/1.1 200 OK\r\nX-User: me\r\nContent-Length: 0\r\n\r\n");
            }
        })
    };
    let (authority, shadow, origin) = (noting(&asked), noting(&copied), Origin::answering(OK));
    let lines = "[upstream.tls]\nca = \"origin.pem\"";
    let hooks = "hooks = { forward_auth = { upstream = \"authority\", path = \"/may\", \
                 response_headers = [\"X-User\"] }, mirror = { upstream = \"shadow\" } }";
    let setup = Setup::to(&origin)
        .file("origin.pem", &pair.chain)
        .upstream("authority", &[&authority.url()], lines)
        .upstream("shadow", &[&shadow.url()], lines);
    let proxy = setup.route("", "/", "origin", hooks).start();
    for _ in 0..2 {
        proxy.get().expect_status(200).expect_body("ok");
    }
    origin.seen().requests[0].expect_field("X-User", "me");
    wait_until("both are copied", || copied.lines().len() == 2);
    assert_eq!(asked.lines(), ["GET /may HTTP/1.1"; 2]);
    assert_eq!(authority.accepted(), 1);
}

#[test]
fn an_upgrade_goes_through_to_an_origin_with_tls() {
    let pair = Pair::of(&["localhost"]);
    let origin = TlsOrigin::start(&pair, |mut peer| {
        peer.read_head().expect("a request");
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhi",
        );
        let line = peer.read_head().expect("a message");
        peer.send(line);
        peer.end(TlsEnd::Said);
    });
    let proxy = believing(&pair, &origin.url(), "").start();
    let mut client =
        proxy.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    client.expect_status(101).expect_stream(b"hi");
    client.send("a message\r\n\r\n").expect_stream(b"a message\r\n\r\n");
    client.half_close();
    client.expect_orderly_close();
}

#[test]
fn connections_that_are_opened_ahead_have_had_their_handshake() {
    let pair = Pair::of(&["localhost"]);
    let journal = Journal::default();
    let origin = TlsOrigin::with(Terms::of(&pair).config(), noting(&journal));
    let proxy = believing(&pair, &origin.url(), "").set("pool.prewarm", 2).start();
    wait_until("both are there", || journal.lines().len() == 2);
    proxy.get().expect_status(200);
    assert_eq!(origin.accepted(), 2);
}

/// A forward proxy that goes through `parent`.
fn through(pair: &Pair, parent: &TlsOrigin, more: &str) -> Setup {
    let lines = format!("tls = {{ ca = \"parent.pem\" }}\n{more}");
    let setup = Setup::forward().file("parent.pem", &pair.chain);
    setup.parent("office", &parent.url(), &lines)
}

#[test]
fn a_parent_with_https_is_asked_inside_a_session() {
    let pair = Pair::of(&["localhost"]);
    let journal = Journal::default();
    let noted = journal.clone();
    let parent = TlsOrigin::start(&pair, move |mut peer| {
        while let Some(head) = peer.read_head() {
            noted.add(head);
            peer.send(OK);
        }
    });
    let proxy = through(&pair, &parent, "credentials = \"user:password\"").start();
    for _ in 0..3 {
        proxy.send(get("far.test")).read_response().expect_status(200).expect_body("ok");
    }
    assert_eq!(parent.accepted(), 1, "one session carries them all");
    for head in journal.lines() {
        assert!(head.starts_with("GET http://far.test/ HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA=="), "{head}");
    }
}

#[test]
fn a_parent_with_https_opens_tunnels_whose_ends_are_said() {
    let pair = Pair::of(&["localhost"]);
    let parent = TlsOrigin::start(&pair, |mut peer| {
        let head = peer.read_head().expect("a request");
        assert!(head.starts_with("CONNECT far.test:443 HTTP/1.1\r\n"), "{head}");
        peer.send("HTTP/1.1 200 OK\r\n\r\nearly");
        let line = peer.read_head().expect("a line");
        peer.send(line);
        // The end of the client's side arrives as a close_notify.
        assert_eq!(peer.read_to_end(), (Vec::new(), TlsEnd::Said));
        peer.send("after");
        peer.end(TlsEnd::Said);
    });
    let proxy = through(&pair, &parent, "").start();
    let mut client = proxy.send(connect("far.test:443"));
    client.expect_tunnel().expect_stream(b"early");
    client.send("to the target\r\n\r\n").expect_stream(b"to the target\r\n\r\n");
    client.half_close();
    client.expect_stream(b"after");
    client.expect_orderly_close();
}

#[test]
fn a_parent_that_cuts_a_tunnel_does_not_end_it() {
    let pair = Pair::of(&["localhost"]);
    let parent = TlsOrigin::start(&pair, |mut peer| {
        peer.read_head().expect("a request");
        peer.send("HTTP/1.1 200 OK\r\n\r\nhalf");
        peer.end(TlsEnd::Cut);
    });
    let proxy = through(&pair, &parent, "").start();
    let mut client = proxy.send(connect("far.test:443"));
    client.expect_tunnel().expect_stream(b"half");
    client.expect_end(crate::support::Arrival::Reset);
}

#[test]
fn a_parent_is_believed_and_believes_as_an_origin_does() {
    let (pair, own) = (Pair::of(&["localhost"]), Pair::of(&["client.test"]));
    let origin = Origin::answering(OK);
    let parent = local(&pair);
    // Nobody vouches for it.
    let alone = Setup::forward().parent("office", &parent.url(), "").start();
    for request in [get("far.test"), connect("far.test:443")] {
        let answer = alone.send(request).read_response();
        answer.expect_own_error(502, "Bad Gateway", "tls_certificate_error");
    }
    let loose = "tls = { insecure_skip_verify = true }";
    let loose = Setup::forward().parent("office", &parent.url(), loose).start();
    loose.send(get("far.test")).expect_status(200);
    // It is left out where that is wanted.
    let direct = Setup::forward().parent("office", &parent.url(), "direct_fallback = true").start();
    direct.send(get(origin.address())).expect_status(200);
    assert_eq!(origin.seen().requests.len(), 1);
    // And is shown who asks.
    let journal = Journal::default();
    let strict = TlsOrigin::with(Terms::of(&pair).for_client(&own).config(), noting(&journal));
    let lines =
        "tls = { ca = \"parent.pem\", client_chain = \"own.pem\", client_key = \"own.key\" }";
    let setup = Setup::forward().file("parent.pem", &pair.chain);
    let setup = setup.file("own.pem", &own.chain).file("own.key", &own.key);
    setup.parent("office", &strict.url(), lines).start().send(get("far.test")).expect_status(200);
    assert!(journal.lines()[0].ends_with("shown=true"), "{:?}", journal.lines());
}

#[test]
fn a_change_of_trust_uses_no_connection_to_a_parent_of_before() {
    let (pair, other) = (Pair::of(&["localhost"]), Pair::of(&["other.test"]));
    let parent = local(&pair);
    let proxy = through(&pair, &parent, "").start();
    for _ in 0..2 {
        proxy.send(get("far.test")).expect_status(200);
    }
    assert_eq!(parent.accepted(), 1);
    fs::write(proxy.home().join("parent.pem"), &other.chain).unwrap();
    proxy.wait_for_log(&["reloaded", "generation=2"]);
    let answer = proxy.send(get("far.test")).read_response();
    answer.expect_own_error(502, "Bad Gateway", "tls_certificate_error");
}

#[test]
fn a_backup_with_https_is_asked_where_a_parent_is_not_believed() {
    let (pair, other) = (Pair::of(&["localhost"]), Pair::of(&["localhost"]));
    let (wrong, right) = (local(&other), local(&pair));
    let backups = format!("backups = [\"{}\"]", right.url());
    let proxy = through(&pair, &wrong, &backups).start();
    for _ in 0..2 {
        proxy.send(get("far.test")).expect_status(200);
    }
    proxy.wait_for_log(&["not reached", "origin_bad_certificate"]);
}

#[test]
fn a_parent_that_never_answers_the_hello_has_the_time_of_a_connect() {
    let pair = Pair::of(&["localhost"]);
    let silent = Origin::silent();
    let url = silent.url().replace("http://127.0.0.1", "https://localhost");
    let lines = "tls = { ca = \"parent.pem\" }";
    let setup = Setup::forward().file("parent.pem", &pair.chain).parent("office", &url, lines);
    let proxy = setup.set("timeouts.connect", 0.3).start();
    for request in [get("far.test"), connect("far.test:443")] {
        let answer = proxy.send(request).read_response();
        answer.expect_own_error(504, "Gateway Timeout", "connection_timeout");
    }
}

/// A forward proxy whose clients come over TLS.
fn forward_over_tls(setup: Setup) -> (Proxy, Pair, Trust) {
    let pair = Pair::of(&["localhost"]);
    let trust = Trust::in_pair(&pair);
    (setup.listen_tls(&pair).start(), pair, trust)
}

fn over_tls(proxy: &Proxy, trust: &Trust) -> TlsClient {
    let address = *proxy.addresses().last().expect("it listens");
    TlsClient::connect(address, "localhost", trust)
}

#[test]
fn a_forward_proxy_over_tls_offers_what_it_offers_without() {
    let origin = Origin::answering(OK);
    let (proxy, _, trust) = forward_over_tls(Setup::forward());
    let mut client = over_tls(&proxy, &trust);
    for _ in 0..2 {
        client.send(get(origin.address()));
        assert!(client.read_until(b"\r\n\r\nok").starts_with(b"HTTP/1.1 200"));
    }
    // What was asked for in TLS would be fetched without.
    let secure = get(origin.address()).replace("http://", "https://");
    client.send(secure);
    let head = String::from_utf8(client.read_head()).unwrap();
    assert!(head.starts_with("HTTP/1.1 501 "), "{head}");
    assert_eq!(origin.seen().requests.len(), 2);
}

#[test]
fn a_user_logs_in_to_a_forward_proxy_over_tls() {
    let origin = Origin::answering(OK);
    // The password is `U*U`; from the tests of `crypt_blowfish`.
    let users = "ann:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";
    let setup = Setup::forward().file("users", users).set("forward.users_file", "users");
    let (proxy, _, trust) = forward_over_tls(setup);
    for request in [get(origin.address()), connect(origin.address())] {
        let mut client = over_tls(&proxy, &trust);
        client.send(&request);
        let head = String::from_utf8(client.read_head()).unwrap();
        assert!(head.starts_with("HTTP/1.1 407 "), "{head}");
        assert!(head.contains("Proxy-Authenticate: Basic"), "{head}");
    }
    // "ann:U*U"
    let by_ann = "\r\nProxy-Authorization: Basic YW5uOlUqVQ==\r\n\r\n";
    let mut client = over_tls(&proxy, &trust);
    client.send(get(origin.address()).replace("\r\n\r\n", by_ann));
    assert!(client.read_until(b"\r\n\r\nok").starts_with(b"HTTP/1.1 200"));
    client.send(connect(origin.address()).replace("\r\n\r\n", by_ann));
    assert!(client.read_head().starts_with(b"HTTP/1.1 200"));
    client.send(GET);
    client.read_until(b"\r\n\r\nok");
    origin.seen().requests[0].expect_no_field("Proxy-Authorization");
}

#[test]
fn the_ends_of_a_tunnel_over_tls_are_those_of_its_target() {
    let (proxy, _, trust) = forward_over_tls(Setup::forward());
    let target = Target::new();
    let open = || {
        let mut client = over_tls(&proxy, &trust);
        client.send(connect(target.address()));
        let mut far = target.accept();
        client.read_head();
        client.send("there");
        far.expect_stream(b"there");
        far.send("back");
        assert_eq!(client.read_exactly(4), b"back");
        (client, far)
    };
    // The target ends first: its FIN is a close_notify, and the other direction goes on.
    let (mut client, mut far) = open();
    far.half_close();
    assert_eq!(client.read_to_end(), (Vec::new(), TlsEnd::Said));
    client.send("more");
    far.expect_stream(b"more");
    client.finish();
    far.expect_end(crate::support::Arrival::End);
    // The client ends first.
    let (mut client, mut far) = open();
    client.finish();
    far.expect_end(crate::support::Arrival::End);
    far.send("more");
    assert_eq!(client.read_exactly(4), b"more");
    drop(far);
    assert_eq!(client.read_to_end(), (Vec::new(), TlsEnd::Said));
    // A target that resets has not ended.
    let (mut client, far) = open();
    far.reset();
    assert_eq!(client.read_to_end(), (Vec::new(), TlsEnd::Cut));
    // A client that goes without a word has not either.
    let (client, mut far) = open();
    client.socket().shutdown(std::net::Shutdown::Write).unwrap();
    far.expect_end(crate::support::Arrival::Reset);
}

#[test]
fn the_end_of_a_tunnel_is_said_to_a_client_that_reads_late() {
    let (proxy, _, trust) = forward_over_tls(Setup::forward());
    let target = Target::new();
    let mut client = over_tls(&proxy, &trust);
    client.send(connect(target.address()));
    let mut far = target.accept();
    client.read_head();
    // As much as goes in, so that not even a close_notify does.
    let bytes = pattern(64 * 1024 * 1024);
    let sent = far.send_until_stalled(&bytes, std::time::Duration::from_millis(500));
    far.half_close();
    let (received, end) = client.read_to_end();
    assert!(
        received == bytes[..sent] && end == TlsEnd::Said,
        "{} of {sent}: {end:?}",
        received.len()
    );
}

#[test]
fn a_webhook_is_told_over_tls() {
    let pair = Pair::of(&["localhost"]);
    let journal = Journal::default();
    let noted = journal.clone();
    let hook = TlsOrigin::start(&pair, move |mut peer| {
        if let Some(head) = peer.read_head() {
            noted.add(head);
            peer.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        }
    });
    let refusal = Refusal::new();
    let proxy = Setup::to_url(&format!("http://{}", refusal.address()))
        .file("system.pem", &pair.chain)
        .set("alerts.webhook", format!("{}/hook", hook.url()))
        .set("alerts.interval", "1s")
        .launched_by("SSL_CERT_FILE=system.pem exec \"$0\" \"$@\"")
        .start();
    proxy.get().expect_status(502);
    wait_until("the webhook is told", || !journal.lines().is_empty());
    assert!(journal.lines()[0].starts_with("POST /hook HTTP/1.1\r\n"), "{:?}", journal.lines());
}
