//! What a TLS listener tells of its clients, what it shows beside its certificates, and how its
//! administration is asked.
//!
//! In go certificates, lists and answers of authorities made by the test; out come headers that an
//! origin got, lines of the log, and what commands say.

use super::tls::Secured;
use crate::support::{
    BINARY, DEADLINE, Home, OK, Origin, Pair, Proxy, Setup, TlsClient, Trust, installed, ringway,
    wait_until,
};
use nix::sys::signal::Signal;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

const LAST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

const DAY: Duration = Duration::from_secs(86_400);

/// An authority that vouches for others, and takes that back.
struct Authority {
    wanted: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut wanted = CertificateParams::default();
        wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wanted.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = wanted.self_signed(&key).unwrap().pem();
        Self { wanted, key, pem }
    }

    /// A certificate for `name` with this number.
    fn pair(&self, name: &str, serial: u64) -> Pair {
        let mut wanted = CertificateParams::new(vec![name.to_owned()]).unwrap();
        wanted.distinguished_name.push(rcgen::DnType::CommonName, format!("the {name}"));
        wanted.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.wanted, &self.key);
        let made = wanted.signed_by(&key, &issuer).unwrap();
        Pair { chain: made.pem(), key: key.serialize_pem() }
    }

    /// The list of those that it has taken back.
    fn revoked(&self, serials: &[u64]) -> String {
        let now = SystemTime::now();
        let of = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: (now - DAY).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(serials.len() as u64 + 1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(of).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.wanted, &self.key);
        list.signed_by(&issuer).unwrap().pem().unwrap()
    }
}

/// A listener at which clients may show a certificate of `authority`.
fn asking(origin: &Origin, authority: &Authority, auth: &str) -> Setup {
    Setup::to(origin)
        .file("clients.pem", &authority.pem)
        .set("tls.client_auth", auth)
        .set("tls.client_ca", "clients.pem")
}

fn answer(secured: &Secured, trust: &Trust) -> std::io::Result<Vec<u8>> {
    TlsClient::try_connect(secured.address(), "localhost", trust)?.try_exchange(LAST)
}

const FACTS: &str = "[hooks]\nrequest_headers = { set = { \
    X-Version = \"${tls_version}\", X-Cipher = \"${tls_cipher}\", X-Sni = \"${tls_sni}\", \
    X-Verified = \"${tls_client_verified}\", X-Subject = \"${tls_client_subject}\", \
    X-San = \"${tls_client_san}\", X-Fingerprint = \"${tls_client_fingerprint}\" } }";

#[test]
fn an_origin_is_told_of_the_session_and_of_its_client_and_nobody_else_can_say_it() {
    let origin = Origin::answering(OK);
    let authority = Authority::new();
    let own = authority.pair("me.test", 1);
    let secured = Secured::start(asking(&origin, &authority, "optional").table(FACTS));
    let spoofed = "GET / HTTP/1.1\r\nHost: localhost\r\nX-Subject: CN=root\r\nX-Verified: true\r\n\
        X-Version: TLSv9\r\nx-san: DNS:root\r\nX-Fingerprint: 00\r\nX-Sni: root\r\n\
        X-Forwarded-Proto: http\r\nX-Forwarded-Port: 80\r\nX-Forwarded-Ssl: off\r\n\
        Connection: close\r\n\r\n";
    let ask = |trust: &Trust| {
        let mut client = TlsClient::connect(secured.address(), "localhost", trust);
        client.send(spoofed).read_to_end();
    };
    ask(&Trust::shown_as(&secured.pair, Some(&own)));
    ask(&secured.trust());
    secured.proxy.send(spoofed).read_response().expect_status(200);
    let seen = origin.seen();
    let [known, unknown, plain] = &seen.requests[..] else { panic!("three requests") };
    known.expect_field("X-Version", "TLSv1.3");
    known.expect_field("X-Sni", "localhost");
    known.expect_field("X-Verified", "true");
    known.expect_field("X-Subject", "CN=the me.test");
    known.expect_field("X-San", "DNS:me.test");
    assert_eq!(known.field("X-Fingerprint").unwrap().len(), 64);
    assert!(known.field("X-Cipher").unwrap().starts_with("TLS_AES_"));
    unknown.expect_field("X-Verified", "false");
    for request in [known, unknown] {
        request.expect_field("X-Forwarded-Proto", "https");
    }
    for name in ["X-Subject", "X-San", "X-Fingerprint"] {
        assert_eq!(unknown.field(name), None, "{name}");
    }
    for name in ["X-Version", "X-Cipher", "X-Sni", "X-Verified", "X-Subject", "X-Fingerprint"] {
        assert_eq!(plain.field(name), None, "{name}");
    }
    plain.expect_field("X-Forwarded-Proto", "http");
}

#[test]
fn origins_are_told_port_and_scheme_of_a_session_whatever_its_client_says() {
    let origin = Origin::answering(OK);
    let setup = Setup::to(&origin)
        .set("server.add_forwarded_port", true)
        .set("server.add_forwarded_ssl", true);
    let secured = Secured::start(setup);
    let request = |host: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: gopher\r\n\
             X-Forwarded-Port: 70\r\nX-Forwarded-Ssl: perhaps\r\nConnection: close\r\n\r\n"
        )
    };
    secured.connect().send(request("localhost")).read_to_end();
    secured.connect().send(request("localhost:8443")).read_to_end();
    secured.proxy.send(request("localhost")).read_response();
    let seen = origin.seen();
    for (request, told) in seen.requests.iter().zip([
        ["https", "443", "on"],
        ["https", "8443", "on"],
        ["http", "80", "off"],
    ]) {
        for (name, value) in
            ["X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Ssl"].iter().zip(told)
        {
            request.expect_field(name, value);
        }
        let forwarded = request.field("Forwarded").unwrap();
        assert!(forwarded.contains(&format!("proto={}", told[0])), "{forwarded}");
    }
    assert_eq!(seen.requests.len(), 3);
}

#[test]
fn the_access_log_says_which_tls_and_for_what_name() {
    let origin = Origin::answering(OK);
    let secured = Secured::start(Setup::to(&origin).set("log.access", true));
    secured.connect().send(LAST).read_to_end();
    secured.proxy.wait_for_log(&["tls=TLSv1.3", "sni=localhost", "status=200"]);
    secured.proxy.get().expect_status(200);
    let line = secured.proxy.wait_for_log(&["host=test", "status=200"]);
    assert!(!line.contains("tls="), "{line}");
}

#[test]
fn a_certificate_that_was_taken_back_is_refused_from_then_on_with_its_tickets() {
    let origin = Origin::answering(OK);
    let authority = Authority::new();
    let (good, bad) = (authority.pair("good.test", 1), authority.pair("bad.test", 2));
    let setup = asking(&origin, &authority, "required")
        .file("revoked.pem", &authority.revoked(&[9]))
        .set("tls.client_crl", "revoked.pem");
    let secured = Secured::start(setup);
    let trust = |own: &Pair| Trust::shown_as(&secured.pair, Some(own));
    let (of_good, of_bad) = (trust(&good), trust(&bad));
    let visit = |trust: &Trust| {
        let mut client = TlsClient::try_connect(secured.address(), "localhost", trust)?;
        client.try_exchange(LAST).map(|_| client.is_resumed())
    };
    for trust in [&of_good, &of_bad] {
        assert!(!visit(trust).unwrap());
        assert!(visit(trust).unwrap(), "its ticket is good");
    }
    fs::write(secured.proxy.home().join("revoked.pem"), authority.revoked(&[9, 2])).unwrap();
    secured.proxy.wait_for_log(&["reloaded", "generation=2"]);
    assert!(visit(&of_bad).is_err(), "a ticket of before carries on");
    assert!(visit(&of_bad).is_err());
    assert!(!visit(&of_good).unwrap());
    assert!(visit(&of_good).unwrap());
    // Half a list is none: the one before stays, and somebody is told.
    let half = &authority.revoked(&[])[..80];
    fs::write(secured.proxy.home().join("revoked.pem"), half).unwrap();
    secured.proxy.wait_for_log(&["revoked.pem", "stays in use"]);
    assert!(visit(&of_bad).is_err());
    assert!(visit(&of_good).unwrap());
    let health = secured.proxy.admin("GET", "/health");
    assert!(health.contains("\"client_trouble\":\""), "{health}");
}

#[test]
fn a_client_without_a_name_gets_the_first_certificate_even_where_names_are_strict() {
    let origin = Origin::answering(OK);
    let pair = Pair::of(&["localhost", "127.0.0.1"]);
    for is_strict in [false, true] {
        let setup = Setup::to(&origin).set("tls.strict_sni", is_strict).listen_tls(&pair);
        let proxy = setup.start();
        let address = *proxy.addresses().last().unwrap();
        // rustls sends no name for an address, as browsers do not.
        let mut client = TlsClient::connect(address, "127.0.0.1", &Trust::in_pair(&pair));
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let (answer, _) = client.send(request).read_to_end();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{is_strict}");
        let named = TlsClient::try_connect(address, "other.test", &Trust::in_pair(&pair));
        assert!(named.is_err());
    }
}

/// What openssl says of a session, or nothing where it is not installed.
fn s_client(secured: &Secured, more: &[&str]) -> Option<String> {
    let mut command = Command::new(installed("openssl")?);
    command.args(["s_client", "-servername", "localhost", "-connect"]);
    command.arg(secured.address().to_string()).args(more).stdin(Stdio::null());
    let output = command.output().expect("openssl can be started");
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn of_two_kinds_of_key_each_client_gets_the_one_that_it_can_check() {
    let origin = Origin::answering(OK);
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let made = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let rsa = Pair { chain: made.self_signed(&key).unwrap().pem(), key: key.serialize_pem() };
    // In either order, the one whose signature costs less is preferred.
    let setup = Setup::to(&origin)
        .file("rsa.pem", &rsa.chain)
        .file("rsa.key", &rsa.key)
        .table("[[tls.certificates]]\nchain = \"rsa.pem\"\nkey = \"rsa.key\"");
    let secured = Secured::start(setup);
    assert_eq!(secured.connect().shown(), secured.pair.der());
    let Some(text) = s_client(&secured, &["-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"]) else { return };
    assert!(text.contains("Peer signature type: RSA-PSS"), "{text}");
    let text = s_client(&secured, &["-tls1_2", "-sigalgs", "RSA+SHA256"]).unwrap();
    assert!(text.contains("Peer signature type: RSA"), "{text}");
    let text = s_client(&secured, &["-sigalgs", "ECDSA+SHA256"]).unwrap();
    assert!(text.contains("Peer signature type: ECDSA"), "{text}");
}

/// Has an authority answer about a certificate; `None` without openssl.
fn ocsp_answer(folder: &Path, authority: &Authority, own: &Pair, days: &str) -> Option<Vec<u8>> {
    let openssl = installed("openssl")?;
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("ca.pem", &authority.pem);
    write("ca.key", &authority.key.serialize_pem());
    write("own.pem", &own.chain);
    let subject = "/CN=the localhost";
    write("index.txt", &format!("V\t470101000000Z\t\t07\tunknown\t{subject}\n"));
    let status = Command::new(openssl)
        .args(["ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem"])
        .args(["-rkey", "ca.key", "-issuer", "ca.pem", "-cert", "own.pem", "-ndays", days])
        .args(["-respout", "answer.der", "-noverify"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success(), "openssl ocsp");
    Some(fs::read(folder.join("answer.der")).unwrap())
}

#[test]
fn what_an_authority_says_of_a_certificate_is_shown_beside_it_while_it_is_good() {
    let origin = Origin::answering(OK);
    let (authority, scratch) = (Authority::new(), Home::new());
    let own = authority.pair("localhost", 7);
    let Some(good) = ocsp_answer(scratch.path(), &authority, &own, "5") else { return };
    let proxy = Setup::to(&origin)
        .listen_tls(&own)
        .table("ocsp = \"answer.der\"")
        .file("answer.der", "this is nothing")
        .start();
    proxy.wait_for_log(&["answer.der", "no OCSP response", "shown without it"]);
    let secured = Secured { proxy, pair: own };
    let stapled = || s_client(&secured, &["-status", "-tls1_2"]).unwrap();
    assert!(stapled().contains("OCSP response: no response sent"));
    let place = secured.proxy.home().join("answer.der");
    fs::write(&place, &good).unwrap();
    wait_until("it is shown", || stapled().contains("OCSP Response Status: successful"));
    let list = secured.proxy.admin("GET", "/certificates");
    assert!(list.contains("\"ocsp_until\":") && !list.contains("trouble"), "{list}");
    // The next one is half written.
    fs::write(&place, &good[..100]).unwrap();
    secured.proxy.wait_for_log(&["answer.der", "was read before is shown"]);
    assert!(stapled().contains("OCSP Response Status: successful"));
}

/// Runs ringway in the folder of a proxy.
fn command(home: &Path, arguments: &[&str]) -> Output {
    ringway().args(arguments).current_dir(home).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The port of the admin API.
fn admin_port(proxy: &Proxy) -> u16 {
    let line = proxy.wait_for_log(&["admin API"]);
    let address = line.split('"').nth(1).expect("an address");
    address.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn an_administration_with_tls_is_asked_by_commands_that_know_whom_to_believe() {
    let origin = Origin::answering(OK);
    let pair = Pair::of(&["localhost", "127.0.0.1"]);
    let setup = Setup::to(&origin).listen_tls(&pair).set("admin.tls", true);
    let proxy = setup.start();
    let (port, home) = (admin_port(&proxy), proxy.home());
    let url = format!("https://127.0.0.1:{port}");
    let by_name = format!("https://localhost:{port}");
    let run = |more: &[&str]| command(home, more);
    for believed in [
        &["health", "--url", &url, "--ca", "shown.pem"][..],
        &["health", "--url", &by_name, "--ca", "shown.pem"],
        &["health", "--url", &url, "--insecure"],
        &["reload", "--config", "ringway.toml", "--url", &url, "--insecure"],
        &["certificates", "--config", "ringway.toml", "--url", &url, "--ca", "shown.pem"],
    ] {
        let output = run(believed);
        assert_eq!(output.status.code(), Some(0), "{believed:?}: {}", text(&output));
    }
    let output = run(&["health", "--url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("certificate"), "{}", text(&output));
    // Who speaks no TLS is told.
    let plain = format!("http://127.0.0.1:{port}");
    let output = run(&["health", "--url", &plain]);
    assert!(text(&output).contains("HTTP 400"), "{}", text(&output));
    // Who says nothing keeps nobody out.
    let silent: Vec<_> =
        (0..80).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let output = run(&["health", "--url", &url, "--insecure"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    drop(silent);
    // A command that knows the configuration needs no more: it is this machine that answers.
    let known = || Setup::to(&origin).listen_tls(&pair);
    let own = known().set("admin.tls", true).set("admin.address", format!("127.0.0.1:{port}"));
    fs::write(home.join("own.toml"), own.text()).unwrap();
    let address = proxy.addresses().last().unwrap().to_string();
    let data = known().set("admin.enabled", false).set("server.host", "");
    fs::write(home.join("data.toml"), data.set("server.listen_tls", [address]).text()).unwrap();
    for arguments in [
        &["health", "--config", "own.toml"][..],
        &["certificates", "--config", "own.toml"],
        &["reload", "--config", "own.toml"],
        &["health", "--config", "data.toml"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    }
    // Its certificate follows the files.
    let next = Pair::of(&["localhost", "127.0.0.1"]);
    fs::write(home.join("shown.pem"), &next.chain).unwrap();
    fs::write(home.join("shown.key"), &next.key).unwrap();
    wait_until("the next one is shown", || {
        let client = TlsClient::try_connect(
            format!("127.0.0.1:{port}").parse().unwrap(),
            "localhost",
            &Trust::in_pair(&next),
        );
        client.is_ok()
    });
}

#[test]
fn an_administration_with_tls_stays_so_until_a_restart() {
    let origin = Origin::answering(OK);
    let pair = Pair::of(&["localhost", "127.0.0.1"]);
    let setup = Setup::to(&origin)
        .set("admin.tls", true)
        .file("a.pem", &pair.chain)
        .file("a.key", &pair.key)
        .table("[[tls.certificates]]\nchain = \"a.pem\"\nkey = \"a.key\"");
    let proxy = setup.start();
    let url = format!("https://127.0.0.1:{}", admin_port(&proxy));
    fs::write(proxy.home().join("ringway.toml"), Setup::to(&origin).text()).unwrap();
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["keep their values until a restart", "admin.tls"]);
    let output = command(proxy.home(), &["health", "--url", &url, "--ca", "a.pem"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn an_administration_with_tls_needs_an_address_and_a_certificate() {
    let pair = Pair::of(&["localhost"]);
    for (setup, expected) in [
        (Setup::new().set("admin.tls", true), "`tls` needs a certificate"),
        (
            Setup::new()
                .set("admin.tls", true)
                .set("admin.address", "unix:/tmp/x")
                .listen_tls(&pair),
            "is for an address and a port",
        ),
    ] {
        let output = setup.run();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
}

#[test]
fn health_is_told_on_a_data_port_with_tls() {
    let origin = Origin::answering(OK);
    let secured = Secured::to(&origin);
    let mut client = secured.connect();
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let (answer, _) = client.read_to_end();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("\"config_generation\":1"), "{answer}");
    let url = format!("https://{}/health", secured.address());
    let output = command(secured.proxy.home(), &["health", "--url", &url, "--insecure"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(origin.seen().requests.is_empty());
}

/// A certificate that lasts for so many more days, of `life`.
fn lasting(days: u64, life: u64) -> Pair {
    let mut wanted = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let ends = SystemTime::now() + DAY * days as u32 + Duration::from_secs(3600);
    wanted.not_after = ends.into();
    wanted.not_before = (ends - DAY * life as u32).into();
    let key = KeyPair::generate().unwrap();
    Pair { chain: wanted.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

#[test]
fn certificates_are_listed_with_what_is_wrong_with_them_and_their_end_is_an_alert() {
    let origin = Origin::answering(OK);
    // A third of a short life, and two weeks of a long one.
    for (days, life, is_due) in [(13, 90, true), (15, 90, false), (3, 6, false), (1, 6, true)] {
        let pair = lasting(days, life);
        let proxy = Setup::to(&origin).listen_tls(&pair).set("alerts.interval", 1).start();
        let url = format!("http://127.0.0.1:{}", admin_port(&proxy));
        let arguments = ["certificates", "--config", "ringway.toml", "--url", &url];
        let output = command(proxy.home(), &arguments);
        assert_eq!(output.status.code(), Some(if is_due { 3 } else { 0 }), "{days} of {life}");
        let said = text(&output);
        for part in ["localhost\n", "issuer ", "ecdsa", "shown.pem", &format!("(in {days} days)")] {
            assert!(said.contains(part), "{part:?}: {said}");
        }
        if is_due {
            proxy.wait_for_log(&["alert begun", "certificate"]);
            let health = proxy.admin("GET", "/health");
            assert!(health.contains("\"is_due\":true"), "{health}");
        }
    }
    // Where none runs, the files are read.
    let home = Home::new();
    let pair = lasting(60, 90);
    home.write("a.pem", &pair.chain);
    home.write("a.key", &pair.key);
    let lines = "[server]\nlisten_tls = [\"127.0.0.1:0\"]\n[admin]\naddress = \"unix:none.sock\"\n\
        [[tls.certificates]]\nchain = \"a.pem\"\nkey = \"a.key\"\n";
    home.write("config.toml", lines);
    let output = command(home.path(), &["certificates", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("\"names\":[\"localhost\"]"), "{}", text(&output));
    fs::remove_file(home.path().join("a.key")).unwrap();
    let output = command(home.path(), &["certificates"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn a_reload_that_is_asked_for_reads_the_files_of_clients_anew() {
    let origin = Origin::answering(OK);
    let authority = Authority::new();
    let own = authority.pair("me.test", 1);
    let secured = Secured::start(asking(&origin, &authority, "required"));
    let trust = Trust::shown_as(&secured.pair, Some(&own));
    assert!(answer(&secured, &trust).unwrap().starts_with(b"HTTP/1.1 200"));
    fs::write(secured.proxy.home().join("clients.pem"), Authority::new().pem).unwrap();
    secured.proxy.signal(Signal::SIGHUP);
    secured.proxy.wait_for_log(&["reloaded", "generation=2"]);
    assert!(answer(&secured, &trust).is_err(), "its ticket, or its issuer, is believed still");
}

#[test]
fn a_connection_with_tls_shows_what_its_session_holds() {
    let origin = Origin::answering(OK);
    let secured = Secured::to(&origin);
    let mut client = secured.connect();
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").read_until(b"\r\n\r\nok");
    let plain = secured.proxy.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wait_until("both rest", || secured.metric("ringway_clients_resting{worker=\"0\"}") == 2);
    let list = secured.proxy.admin("GET", "/connections");
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let bytes = |address: std::net::SocketAddr| {
        let all = list["connections"].as_array().unwrap();
        let own = all.iter().find(|it| it["peer"] == address.to_string()).unwrap();
        own["memory_bytes"].as_u64().unwrap()
    };
    let secured_bytes = bytes(client.socket().local_addr().unwrap());
    let plain_bytes = bytes(plain.stream().local_addr().unwrap());
    assert_eq!(secured_bytes, plain_bytes + 4096);
    let _ = (client.socket().set_read_timeout(Some(DEADLINE)), client.socket().flush());
    let mut rest = [0];
    client.finish();
    let _ = client.socket().read(&mut rest);
}

#[test]
#[ignore = "takes minutes, and testssl.sh: tests/tls-grade.sh is what it runs"]
fn graders_find_nothing_of_medium_or_worse_with_standard_settings() {
    if installed("testssl").is_none() && installed("testssl.sh").is_none() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls-grade.sh");
    let output = Command::new(script).arg(BINARY).output().expect("a shell");
    assert!(output.status.success(), "{}", text(&output));
}
