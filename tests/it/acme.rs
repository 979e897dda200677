//! Certificates that are ordered by ACME: how they come, how they are renewed, and what happens
//! meanwhile.
//!
//! In goes a real authority, Debian's pebble, whose validations reach the proxy; out come
//! handshakes with what it has issued. Where pebble is not installed, the tests say so and are
//! skipped.

use crate::support::{
    Client, DEADLINE, GET, Home, NOWHERE, OK, Origin, Pair, Pebble, Proxy, Setup, TlsClient,
    TlsOrigin, Trust, installed, ringway, run, wait_until,
};
use nix::sys::signal::Signal;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(90 * 86_400);

/// `storage` within the directory of the proxy.
const STORAGE: &str = "storage = \"acme\"";

fn tls(proxy: &Proxy) -> SocketAddr {
    *proxy.addresses().last().expect("it listens")
}

/// A handshake with whatever certificate there is, of any authority.
fn handshake(address: SocketAddr, name: &str) -> std::io::Result<TlsClient> {
    TlsClient::try_connect(address, name, &Trust::in_anybody())
}

#[track_caller]
fn wait_for_certificate(proxy: &Proxy, name: &str) {
    // On a busy machine an authority may be missed twice, and the third try comes after 28 s.
    let deadline = Instant::now() + 3 * DEADLINE;
    while handshake(tls(proxy), name).is_err() {
        assert!(Instant::now() < deadline, "{name} is not served");
        thread::park_timeout(Duration::from_millis(10));
    }
}

fn health(proxy: &Proxy) -> serde_json::Value {
    serde_json::from_str(&proxy.admin("GET", "/health")).expect("JSON")
}

/// The answer of `GET /ready`, whatever it is.
fn ready(proxy: &Proxy) -> (u16, String) {
    let line = proxy.wait_for_log(&["admin API"]);
    let address = line.split('"').nth(1).expect("an address").parse().expect("an address");
    let mut client = Client::connect(address);
    client.send("GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = client.read_response();
    (answer.status(), String::from_utf8(answer.body).expect("text"))
}

/// The stored file of a name.
fn stored(home: &Path, name: &str) -> PathBuf {
    let folder = home.join("acme").read_dir().expect("a storage").next().expect("a folder");
    folder.expect("a folder").path().join(format!("{name}.pem"))
}

fn issues_by(challenge: &str) {
    let Some(pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let more = format!("{STORAGE}\nchallenge = \"{challenge}\"");
    let setup = Setup::to(&origin).set("server.redirect_https", true);
    let proxy = pebble.setup(setup, &["a.test", "b.test"], &more).start();
    pebble.reach(proxy.addresses());
    for name in ["a.test", "b.test"] {
        wait_for_certificate(&proxy, name);
        let mut client = handshake(tls(&proxy), name).expect("a certificate");
        client.send(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"));
        client.read_until(b"\r\n\r\nok");
    }
    assert_eq!(pebble.issued(), 2, "one certificate for each name");
    let seen = [pebble.http.connections() > 0, pebble.tls.connections() > 0];
    assert_eq!(seen, [challenge == "http-01", challenge == "tls-alpn-01"]);
    // A name that is none of ours gets the first certificate, as with files.
    assert!(handshake(tls(&proxy), "c.test").is_ok());
    wait_until("it is ready", || ready(&proxy).0 == 200);
    let health = health(&proxy);
    assert_eq!(health["acme"][0]["has_certificate"], true, "{health}");
    assert_eq!(health["certificates"][0]["names"][0], "a.test", "{health}");
    let metrics = proxy.admin("GET", "/metrics");
    for line in [
        "ringway_acme_orders_total{outcome=\"issued\"} 2",
        "ringway_acme_orders_total{outcome=\"failed\"} 0",
        "ringway_acme_missing 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(metrics.contains("name=\"a.test\""), "{metrics}");
}

#[test]
fn a_certificate_is_issued_by_http() {
    issues_by("http-01");
}

#[test]
fn a_certificate_is_issued_by_a_handshake() {
    issues_by("tls-alpn-01");
}

#[test]
fn the_other_challenge_is_tried_where_one_fails() {
    let Some(pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let proxy = pebble.setup(Setup::to(&origin), &["a.test"], STORAGE).start();
    pebble.http.lead_nowhere();
    pebble.tls.lead_to(tls(&proxy));
    proxy.wait_for_log(&["no certificate was issued", "http-01 failed", "in_use=false"]);
}

#[test]
fn requests_for_other_tokens_go_where_they_always_went() {
    let Some(pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let proxy = pebble.setup(Setup::to(&origin), &["a.test"], STORAGE).start();
    pebble.reach(proxy.addresses());
    wait_for_certificate(&proxy, "a.test");
    let mut client = proxy.connect();
    client.send("GET /.well-known/acme-challenge/abc HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.read_response().body, b"ok");
    origin.wait_for("the request", |seen| !seen.bytes().is_empty());
}

#[test]
fn a_proof_is_given_before_hooks_and_routes_have_a_say() {
    let Some(pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let more = format!("{STORAGE}\nchallenge = \"http-01\"\n[hooks]\ndeny = [\"127.0.0.0/8\"]");
    let setup = Setup::to(&origin).route("other.test", "/", "origin", "");
    let proxy = pebble.setup(setup, &["a.test"], &more).start();
    pebble.reach(proxy.addresses());
    wait_for_certificate(&proxy, "a.test");
    let path = "/.well-known/acme-challenge/abc";
    let mut client = proxy.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: other.test\r\n\r\n"));
    assert_eq!(client.read_response().status(), 403);
    assert!(origin.seen().bytes().is_empty());
}

#[test]
fn a_handshake_for_a_proof_is_for_nothing_else() {
    let Some(pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let proxy = pebble.setup(Setup::to(&origin), &["a.test"], STORAGE).start();
    pebble.reach(proxy.addresses());
    wait_for_certificate(&proxy, "a.test");
    // No name is being validated.
    let trust = Trust::in_anybody().offering(&[b"acme-tls/1"]);
    assert!(TlsClient::try_connect(tls(&proxy), "a.test", &trust).is_err());
}

#[test]
fn renewals_under_load_fail_no_handshake() {
    let Some(pebble) = Pebble::start(Duration::from_secs(12)) else { return };
    let origin = Origin::answering(OK);
    let proxy = pebble.setup(Setup::to(&origin), &["a.test"], STORAGE).start();
    pebble.reach(proxy.addresses());
    wait_for_certificate(&proxy, "a.test");
    let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let address = tls(&proxy);
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (is_over, count) = (is_over.clone(), count.clone());
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let mut client = handshake(address, "a.test").expect("a handshake");
                    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
                    client.read_until(b"\r\n\r\nok");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let first = handshake(address, "a.test").expect("a handshake").shown();
    wait_until("it was renewed", || pebble.issued() >= 2);
    let is_new = || handshake(address, "a.test").expect("a handshake").shown() != first;
    wait_until("the new one is shown", is_new);
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no handshake has failed");
    }
    assert!(count.load(Ordering::Relaxed) > 50, "{count:?}");
    let metrics = proxy.admin("GET", "/metrics");
    assert!(metrics.contains("ringway_acme_orders_total{outcome=\"failed\"} 0"), "{metrics}");
    assert_eq!(health(&proxy)["alerts"].as_array().map(Vec::len), Some(0), "a renewal is no alert");
}

#[test]
fn a_renewal_that_fails_is_an_alert_and_leaves_the_certificate_in_use() {
    let Some(mut pebble) = Pebble::start(Duration::from_secs(20)) else { return };
    let origin = Origin::answering(OK);
    let setup = Setup::to(&origin).set("alerts.interval", "1s");
    let proxy = pebble.setup(setup, &["a.test"], STORAGE).start();
    pebble.reach(proxy.addresses());
    wait_for_certificate(&proxy, "a.test");
    pebble.end();
    proxy.wait_for_log(&["no certificate was issued", "in_use=true", "Connection refused"]);
    assert!(handshake(tls(&proxy), "a.test").is_ok());
    assert_eq!(ready(&proxy).0, 200);
    proxy.wait_for_log(&["alert begun", "\"acme\""]);
    // What is left hurries: it comes in time.
    pebble.begin();
    proxy.wait_for_log(&["alert ended", "\"acme\""]);
    assert_eq!(health(&proxy)["acme"][0]["failures"], 0);
}

#[test]
fn an_account_that_cannot_be_read_makes_way_for_another_one() {
    let Some(pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let home = Home::new();
    let more = format!("storage = {:?}", home.path().join("acme"));
    let proxy = pebble.setup(Setup::to(&origin), &["a.test"], &more).start();
    pebble.reach(proxy.addresses());
    wait_for_certificate(&proxy, "a.test");
    proxy.stop();
    let account = stored(home.path(), "a.test").with_file_name("account.json");
    fs::write(&account, "{").expect("a file");
    let proxy = pebble.setup(Setup::to(&origin), &["a.test", "b.test"], &more).start();
    pebble.reach(proxy.addresses());
    wait_for_certificate(&proxy, "b.test");
    proxy.wait_for_log(&["the stored ACME account cannot be read", "making a new one"]);
    assert_eq!(fs::read(account.with_extension("json.old")).expect("a file"), b"{");
}

#[test]
fn a_name_that_is_refused_is_an_alert_and_is_not_asked_for_again_at_once() {
    let Some(pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let setup = Setup::to(&origin).set("alerts.interval", "1s");
    let name = format!("a.{NOWHERE}");
    let more = format!("{STORAGE}\nchallenge = \"http-01\"");
    let proxy = pebble.setup(setup, &["a.test", &name], &more).start();
    pebble.reach(proxy.addresses());
    // The other name is not held up.
    wait_for_certificate(&proxy, "a.test");
    let line = proxy.wait_for_log(&["no certificate was issued", "failures=1", NOWHERE]);
    let wait = line.split("retry_in_s=").nth(1).and_then(|it| it.split(' ').next()).unwrap();
    assert!((120..=150).contains(&wait.parse::<u64>().unwrap()), "{line}");
    proxy.wait_for_log(&["alert begun", "acme"]);
    let (status, text) = ready(&proxy);
    assert_eq!(status, 503);
    assert!(text.contains(&format!("no certificate for {name} yet: http-01 failed")), "{text}");
    let health = health(&proxy);
    assert_eq!(health["status"], "degraded", "{health}");
    let entry = &health["acme"][1];
    assert_eq!((&entry["has_certificate"], &entry["failures"]), (&false.into(), &1.into()));
    assert!(entry["next_order"].is_u64() && entry["trouble"].is_string(), "{health}");
    // It is shown no other name's certificate.
    assert!(handshake(tls(&proxy), &name).is_err());
}

#[test]
fn a_directory_that_is_down_at_the_start_is_found_when_it_comes() {
    let Some(mut pebble) = Pebble::prepare(LONG) else { return };
    let origin = Origin::answering(OK);
    let proxy = pebble.setup(Setup::to(&origin), &["a.test"], STORAGE).start();
    pebble.reach(proxy.addresses());
    proxy.wait_for_log(&["no certificate was issued", "Connection refused"]);
    // Everything else goes on.
    assert_eq!(proxy.connect().send(GET).read_response().body, b"ok");
    assert!(handshake(tls(&proxy), "a.test").is_err());
    let (status, text) = ready(&proxy);
    assert!(status == 503 && text.contains("Connection refused"), "{status} {text}");
    pebble.begin();
    wait_for_certificate(&proxy, "a.test");
    wait_until("it is ready", || ready(&proxy).0 == 200);
}

#[test]
fn what_is_stored_is_used_at_a_start_and_nothing_is_ordered() {
    let Some(mut pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let home = Home::new();
    let more = format!("storage = {:?}", home.path().join("acme"));
    let start = |pebble: &Pebble| pebble.setup(Setup::to(&origin), &["a.test"], &more).start();
    let proxy = start(&pebble);
    pebble.reach(proxy.addresses());
    wait_for_certificate(&proxy, "a.test");
    let shown = handshake(tls(&proxy), "a.test").expect("a certificate").shown();
    proxy.stop();
    pebble.end();
    // Nobody could be asked.
    let proxy = start(&pebble);
    assert_eq!(ready(&proxy).0, 200);
    let again = handshake(tls(&proxy), "a.test").expect("a certificate").shown();
    assert_eq!(again, shown);
    assert!(!proxy.log_lines().iter().any(|line| line.contains("ordering a certificate")));
    proxy.stop();
    // A file that is spoilt is as good as none.
    let file = stored(home.path(), "a.test");
    let text = fs::read_to_string(&file).expect("a pair");
    fs::write(&file, &text[..text.len() / 2]).expect("a file");
    pebble.begin();
    let proxy = start(&pebble);
    pebble.reach(proxy.addresses());
    proxy.wait_for_log(&["a.test.pem", "another certificate is ordered"]);
    wait_for_certificate(&proxy, "a.test");
    assert_ne!(handshake(tls(&proxy), "a.test").expect("a certificate").shown(), shown);
}

#[test]
fn two_processes_with_one_storage_order_once() {
    let Some(pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let home = Home::new();
    let more = format!("storage = {:?}", home.path().join("acme"));
    let first = pebble.setup(Setup::to(&origin), &["a.test"], &more).start();
    wait_until("it is validated", || pebble.http.connections() > 0);
    let second = pebble.setup(Setup::to(&origin), &["a.test"], &more).start();
    wait_until("it waits", || ready(&second).1.contains("another process orders it"));
    // The authority meets the one that does not order, as it may behind a balancer.
    pebble.reach(second.addresses());
    wait_for_certificate(&first, "a.test");
    wait_for_certificate(&second, "a.test");
    let shown = |proxy| handshake(tls(proxy), "a.test").expect("a certificate").shown();
    assert_eq!(shown(&first), shown(&second));
    assert_eq!(pebble.issued(), 1);
}

#[test]
fn reloads_and_a_new_process_keep_what_was_issued() {
    let Some(pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let home = Home::new();
    let more = format!("storage = {:?}", home.path().join("acme"));
    let proxy = pebble.setup(Setup::to(&origin), &["a.test"], &more).start();
    pebble.reach(proxy.addresses());
    wait_for_certificate(&proxy, "a.test");
    let shown = handshake(tls(&proxy), "a.test").expect("a certificate").shown();
    let file = proxy.home().join("ringway.toml");
    let text = fs::read_to_string(&file).expect("a configuration");
    fs::write(&file, text.replace("[\"a.test\"]", "[\"a.test\", \"b.test\"]")).expect("a file");
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["reloaded"]);
    assert_eq!(handshake(tls(&proxy), "a.test").expect("a certificate").shown(), shown);
    wait_for_certificate(&proxy, "b.test");
    proxy.signal(Signal::SIGUSR2);
    let line = proxy.wait_for_log(&["a new process has taken over"]);
    assert_eq!(handshake(tls(&proxy), "a.test").expect("a certificate").shown(), shown);
    assert_eq!(pebble.issued(), 2);
    let last = crate::support::logged(&line, "pid").parse().expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(last), Signal::SIGTERM).expect("it runs");
}

/// The key of an account that no authority knows.
const ACCOUNT_KEY: &str = "\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJVWC_QzOTCS5vtsJp2IG-UDc8cdDfeoK\
    txSZxaznM-mhRANCAAQenCPoGgPFTdPJ7VLLKt56RxPlYT1wNXnHc54PEyBg3LxKaH0-sJkX0mL8LyPE\
    dsfL_Oz4TxHkWLJGrXVtNhfH";

/// A certificate for centuries, with what names it to its authority.
fn for_centuries() -> String {
    let mut wanted = rcgen::CertificateParams::new(["a.test".to_owned()]).expect("a name");
    wanted.use_authority_key_identifier_extension = true;
    let key = rcgen::KeyPair::generate().expect("a key can be made");
    let made = wanted.self_signed(&key).expect("a certificate can be made");
    format!("{}{}", key.serialize_pem(), made.pem())
}

#[test]
fn a_certificate_is_renewed_when_its_authority_suggests() {
    let pair = Pair::of(&["localhost"]);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    // Nothing but the directory and the wish: every order fails.
    let directory = TlsOrigin::start(&pair, move |mut peer| {
        while let Some(head) = peer.read_head() {
            let target = head.split(' ').nth(1).expect("a target");
            let body = if target == "/dir" {
                let all = ["newNonce", "newAccount", "newOrder", "revokeCert", "keyChange"];
                let host = head.lines().find_map(|line| line.strip_prefix("host: "));
                let host = host.or_else(|| head.lines().find_map(|it| it.strip_prefix("Host: ")));
                let url = format!("https://{}", host.expect("a host"));
                let urls = all.map(|name| format!("\"{name}\":\"{url}/none\""));
                format!("{{{},\"renewalInfo\":\"{url}/wish\"}}", urls.join(","))
            } else if target.starts_with("/wish/") {
                counted.fetch_add(1, Ordering::Relaxed);
                "{\"suggestedWindow\":{\"start\":\"2020-01-01T00:00:00Z\",\
                 \"end\":\"2020-01-02T00:00:00Z\"}}"
                    .to_owned()
            } else {
                String::new()
            };
            let status = if body.is_empty() { "500 X" } else { "200 OK" };
            let length = body.len();
            peer.send(format!(
                "HTTP/1.1 {status}\r\nRetry-After: 21600\r\nContent-Length: {length}\r\n\r\n\
                 {body}"
            ));
        }
    });
    let url = format!("{}/dir", directory.url());
    let home = Home::new();
    let folder = url.trim_start_matches("https://").replace([':', '/'], "-");
    let folder = home.path().join("acme").join(folder);
    fs::create_dir_all(&folder).expect("a folder");
    let account = serde_json::json!({ "id": "id", "key_pkcs8": ACCOUNT_KEY, "directory": url });
    fs::write(folder.join("account.json"), account.to_string()).expect("a file");
    fs::write(folder.join("a.test.pem"), for_centuries()).expect("a file");
    let origin = Origin::answering(OK);
    let table = format!(
        "[tls.acme]\ndomains = [\"a.test\"]\naccept_terms = true\ndirectory = {url:?}\n\
         directory_ca = \"directory.pem\"\nstorage = {:?}",
        home.path().join("acme")
    );
    let setup = Setup::to(&origin).listens_with_tls().file("directory.pem", &pair.chain);
    let proxy = setup.table(&table).start();
    proxy.wait_for_log(&["ordering a certificate", "a.test"]);
    proxy.wait_for_log(&["no certificate was issued", "in_use=true"]);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "once in six hours");
    assert!(handshake(tls(&proxy), "a.test").is_ok());
}

/// What `ringway check` says to a configuration with these lines.
fn check(lines: &str) -> (Option<i32>, String) {
    let home = Home::new();
    let text = format!(
        "[server]\nhost = \"127.0.0.1\"\nport = 0\nlisten_tls = [\"127.0.0.1:0\"]\n\
         [admin]\naddress = \"127.0.0.1:0\"\n[tls.acme]\n{lines}\n"
    );
    home.write("acme.toml", &text);
    home.write("file", "");
    let mut command = ringway();
    command.args(["check", "-c", "acme.toml"]).current_dir(home.path());
    let output = run(command);
    assert!(!home.path().join("store").exists(), "a check makes no folder");
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

#[test]
fn check_refuses_what_could_not_be_ordered_and_orders_nothing() {
    let good = "domains = [\"a.test\"]\naccept_terms = true\nstorage = \"store\"\n";
    assert_eq!(check(good), (Some(0), String::new()));
    for (lines, cause) in [
        ("accept_terms = true\nstorage = \"store\"", "missing `domains`"),
        ("domains = [\"a.test\"]\nstorage = \"store\"", "`accept_terms` is false"),
        (
            "domains = [\"*.a.test\"]\naccept_terms = true",
            "a wildcard is validated by DNS-01 alone",
        ),
        ("domains = [\"192.0.2.1\"]\naccept_terms = true", "for IP addresses are not ordered"),
        ("domains = [\"[2001:db8::1]\"]\naccept_terms = true", "for IP addresses are not ordered"),
        (&format!("{good}directory = \"http://a/dir\""), "the URL of an ACME directory"),
        (&format!("{good}contact = [\"nobody\"]"), "a mail address"),
        (&format!("{good}challenge = \"dns-01\""), "tls-alpn-01"),
        (&format!("{good}directory_ca = \"none.pem\""), "none.pem: cannot be read"),
        (&good.replace("store", "file/store"), "it is no folder"),
        (&good.replace("store", "/proc/store"), "cannot be written"),
    ] {
        let (code, said) = check(lines);
        // To root, nearly everything can be written.
        if lines.contains("/proc") && code == Some(0) {
            continue;
        }
        assert_eq!(code, Some(2), "{lines}: {said}");
        assert!(said.contains(cause) && said.contains("acme.toml:"), "{lines}: {said}");
    }
}

#[test]
fn one_line_serves_a_name_by_https() {
    let Some(pebble) = Pebble::start(LONG) else { return };
    let origin = Origin::answering(OK);
    let home = Home::new();
    home.write("directory.pem", pebble.authority());
    let mut command = ringway();
    command.current_dir(home.path()).args(["--https", "a.test", "--upstream", &origin.url()]);
    command.args(["--host", "127.0.0.1", "--port", "0", "--https-port", "0"]);
    for set in [
        &format!("tls.acme.directory={}", pebble.directory()),
        "tls.acme.directory_ca=directory.pem",
        "tls.acme.storage=acme",
        "admin.address=127.0.0.1:0",
        "server.workers=1",
        "buffers.chunks_per_worker=8",
    ] {
        command.args(["--set", set]);
    }
    let proxy = Proxy::spawn(command, home, 2);
    pebble.reach(proxy.addresses());
    proxy.wait_for_log(&["terms of service", "accepted"]);
    wait_for_certificate(&proxy, "a.test");
    let mut client = proxy.connect();
    client.send("GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let answer = client.read_response();
    assert_eq!(answer.status(), 308);
    let port = tls(&proxy).port();
    answer.expect_field("Location", &format!("https://a.test:{port}/x"));
    let Some(curl) = installed("curl") else { return };
    let output = Command::new(curl)
        .args(["-sk", "--resolve", &format!("a.test:{port}:127.0.0.1")])
        .arg(format!("https://a.test:{port}/"))
        .output()
        .expect("curl runs");
    assert_eq!(output.stdout, b"ok", "{output:?}");
}
