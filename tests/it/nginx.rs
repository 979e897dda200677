//! A real origin and real clients: nginx behind ringway, read by the scripted client, curl and wrk.
//!
//! Comes in: static files of the sizes that people serve. Goes out: the same bytes, conditional and
//! partial answers included. Where nginx, curl or wrk is missing, the test says so and does
//! nothing.

use crate::support::{Daemon, Home, Proxy, Setup, free_address, installed, pattern};
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

/// An nginx of our own, with files below `home/www`.
struct Nginx {
    _daemon: Daemon,
    address: SocketAddr,
    home: Home,
}

impl Nginx {
    fn start(files: &[(&str, usize)]) -> Option<Self> {
        let program = installed("nginx")?;
        let home = Home::new();
        fs::create_dir(home.path().join("www")).expect("a new directory");
        for (name, size) in files {
            fs::write(home.path().join("www").join(name), pattern(*size)).expect("a new file");
        }
        let address = free_address();
        let path = home.path().display();
        let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "daemon off; {user} worker_processes 1; pid {path}/pid; error_log stderr;
             events {{ worker_connections 512; }}
             http {{
                 access_log off; root {path}/www; keepalive_requests 1000000;
                 gzip on; gzip_types text/plain;
                 client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;
                 fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi;
                 scgi_temp_path {path}/scgi;
                 server {{ listen {address}; }}
             }}"
        );
        let config = home.write("nginx.conf", &config);
        let mut command = Command::new(program);
        command.arg("-p").arg(home.path()).arg("-c").arg(config);
        Some(Self { _daemon: Daemon::at(address, command), address, home })
    }

    fn proxy(&self) -> Proxy {
        Setup::to_url(&format!("http://{}", self.address)).set("server.workers", 2).start()
    }
}

#[test]
fn a_guarded_file_is_read_by_no_spelling_of_its_path() {
    let Some(nginx) = Nginx::start(&[("secret", 100), ("open", 10)]) else { return };
    let proxy = Setup::to_url(&format!("http://{}", nginx.address))
        .route("", "/", "origin", "")
        .route("", "/secret", "origin", "hooks = { allow = [\"10.0.0.0/8\"] }")
        .start();
    let spellings = [
        "/secret",
        "//secret",
        "/./secret",
        "/x/../secret",
        "/x/y/../../secret",
        "/%73ecret",
        "/%73%65%63ret?x",
        "/x/%2e%2e/secret",
        "/x%2f..%2fsecret",
        "/%2fsecret",
        "/open/..%2fsecret",
        "/open/../secret",
        "http://test/x/../secret",
    ];
    for path in spellings {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        let status = proxy.send(request).read_response().status();
        assert!(matches!(status, 400 | 403), "{status} for {path}");
    }
    let request = "GET /x/..//%6fpen HTTP/1.1\r\nHost: test\r\n\r\n";
    proxy.send(request).read_response().expect_status(200).expect_body(pattern(10));
}

#[test]
fn files_of_every_size_arrive_byte_for_byte() {
    const FILES: [(&str, usize); 5] =
        [("empty", 0), ("1k", 1 << 10), ("64k", 64 << 10), ("1m", 1 << 20), ("100m", 100 << 20)];
    let Some(nginx) = Nginx::start(&FILES) else { return };
    let proxy = nginx.proxy();
    let mut client = proxy.connect();
    for (name, size) in FILES {
        client.send(format!("GET /{name} HTTP/1.1\r\nHost: test\r\n\r\n"));
        let response = client.read_response();
        response.expect_status(200).expect_body(pattern(size));
        let tag = response.field("ETag").expect("nginx tags its files").to_owned();

        client.send(format!("HEAD /{name} HTTP/1.1\r\nHost: test\r\n\r\n"));
        client.read_response_to_head().expect_field("Content-Length", &size.to_string());
        client.send(format!("GET /{name} HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tag}\r\n\r\n"));
        client.read_response().expect_status(304).expect_body("");
    }
    client.send("GET /1m HTTP/1.1\r\nHost: test\r\nRange: bytes=1000-1999\r\n\r\n");
    client.read_response().expect_status(206).expect_body(&pattern(1 << 20)[1_000..2_000]);
    client.send("GET /none HTTP/1.1\r\nHost: test\r\n\r\n").expect_status(404);
    client.send("POST /1k HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc");
    client.expect_status(405);
}

/// nginx compresses nothing for proxies, which it knows by Via (`gzip_proxied`).
#[test]
fn nginx_compresses_what_it_sends_through_a_route() {
    let Some(nginx) = Nginx::start(&[]) else { return };
    let text = "the same line again\n".repeat(1_800);
    fs::write(nginx.home.path().join("www/text"), &text).expect("a new file");
    let request = "GET /text HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n";
    let response = nginx.proxy().send(request).read_response();
    response.expect_status(200).expect_field("Content-Encoding", "gzip");
    assert!(response.body.len() < 1_000, "{} bytes", response.body.len());
    let url = format!("http://{}", nginx.address);
    let proxy = Setup::to_url(&url).set("server.add_via", "both").start();
    let response = proxy.send(request).read_response();
    response.expect_no_field("Content-Encoding").expect_body(&text);
}

#[test]
fn curl_gets_what_it_asks_for() {
    let Some(curl) = installed("curl") else { return };
    let Some(nginx) = Nginx::start(&[("1m", 1 << 20)]) else { return };
    let proxy = nginx.proxy();
    let url = format!("http://{}/1m", proxy.address());
    for flags in [&["--http1.1"][..], &["--http1.0"], &["-H", "Connection: close"]] {
        let mut command = Command::new(&curl);
        command.args(["-sSf", "--max-time", "20"]).args(flags).arg(&url);
        let output = command.output().expect("curl can be started");
        assert!(output.status.success(), "{flags:?}: {output:?}");
        assert!(output.stdout == pattern(1 << 20), "{flags:?}: other bytes");
    }
}

#[test]
fn wrk_sees_no_error() {
    let Some(wrk) = installed("wrk") else { return };
    let Some(nginx) = Nginx::start(&[("1k", 1 << 10)]) else { return };
    let proxy = nginx.proxy();
    let before = proxy.open_files();
    let mut command = Command::new(wrk);
    command.args(["-t1", "-c64", "-d2s"]).arg(format!("http://{}/1k", proxy.address()));
    let output = command.output().expect("wrk can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("requests in"), "{output:?}");
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    // What is left of 64 clients and their connections are the idle ones, of which 20 may stay.
    proxy.wait_for_open_files(before + 20);
}
