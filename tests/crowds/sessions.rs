//! What sessions of TLS hold: at rest, in a shortage, and where there is little to hold.
//!
//! In go a thousand clients with TLS; out comes resident memory by the kernel's count, and who was
//! served within 128 MiB.

use crate::support::{
    Client, GET, OK, Origin, Pair, Proxy, Setup, TlsClient, Trust, hello, records, wait_until,
};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const LOCAL: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn address(proxy: &Proxy) -> SocketAddr {
    *proxy.addresses().last().expect("it listens")
}

/// What the ledger counts for sessions.
fn tls_bytes(proxy: &Proxy) -> u64 {
    let health = proxy.admin("GET", "/health");
    let health: serde_json::Value = serde_json::from_str(&health).expect("JSON");
    health["memory"]["by_kind"]["tls"].as_u64().expect("a number")
}

/// Clients that have been served once and keep their sessions.
fn sessions(proxy: &Proxy, trust: &Trust, count: usize) -> Vec<TlsClient> {
    let served = |_| {
        let mut client = TlsClient::connect(address(proxy), "localhost", trust);
        client.send(LOCAL).read_until(b"\r\n\r\nok");
        client
    };
    (0..count).map(served).collect()
}

/// Measured for a session: 3,650 bytes of rustls's, beside a plain connection's 700.
#[test]
fn a_resting_session_costs_less_than_four_and_a_half_kibibytes() {
    const RESTING: usize = 1_000;
    const BYTES_MAX: usize = 4_608;
    let _machine = crate::alone();
    let origin = Origin::answering(OK);
    let pair = Pair::of(&["localhost"]);
    let proxy = Setup::to(&origin).listen_tls(&pair).start();
    let trust = Trust::in_pair(&pair);
    let mut clients = sessions(&proxy, &trust, 200);
    let rest = |count: usize| {
        let line = format!("ringway_clients_resting{{worker=\"0\"}} {count}\n");
        wait_until("they rest", || proxy.admin("GET", "/metrics").contains(&line));
    };
    rest(200);
    let (before, counted) = (proxy.resident_bytes(), tls_bytes(&proxy));
    clients.extend(sessions(&proxy, &trust, RESTING));
    wait_until("resting sessions have given back their buffers", || {
        proxy.resident_bytes().saturating_sub(before) <= RESTING * BYTES_MAX
    });
    rest(200 + RESTING);
    // And what the ledger says of one is what it costs, about.
    let counted = (tls_bytes(&proxy) - counted) as usize / RESTING;
    assert_eq!(counted, 4_096, "are counted for one");
    for client in clients.iter_mut().step_by(50) {
        client.send(LOCAL).read_until(b"\r\n\r\nok");
    }
}

#[test]
fn sessions_and_handshakes_that_stall_fit_into_128_mib_of_addresses() {
    const LIMIT: usize = 128 * 1024 * 1024;
    let _machine = crate::alone();
    let origin = Origin::answering(OK);
    let pair = Pair::of(&["localhost"]);
    let trust = Trust::in_pair(&pair);
    let setup = Setup::to(&origin).listen_tls(&pair);
    let proxy = setup.launched_by("ulimit -v 131072 && exec \"$0\" \"$@\"").start();
    let whole = records(22, &hello("localhost", &trust), 16_384);
    let mut stalled = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.extend(sessions(&proxy, &trust, 100));
        for size in [0, 100, whole.len()] {
            for _ in 0..80 {
                let mut stream = TcpStream::connect(address(&proxy)).unwrap();
                let _ = stream.write_all(&whole[..size]);
                stalled.push(stream);
            }
        }
    }
    for client in &mut clients {
        client.send(LOCAL).read_until(b"\r\n\r\nok");
    }
    let status = fs::read_to_string(proxy.file_of_process("status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    let peak: usize = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak * 1024 < LIMIT * 9 / 10, "{peak} KiB");
    let log = proxy.log_lines();
    assert!(!log.iter().any(|line| line.contains("panic") || line.contains("alloc")), "{log:?}");
}

#[test]
fn a_shortage_refuses_handshakes_before_they_cost_anything() {
    let _machine = crate::alone();
    let origin = Origin::answering(OK);
    let pair = Pair::of(&["localhost"]);
    let trust = Trust::in_pair(&pair);
    let setup = || {
        Setup::to(&origin)
            .set("limits.clients", 1_000)
            .set("limits.tunnels", 1)
            .set("limits.head_bytes", "64KiB")
            .set("timeouts.client_head", "10m")
            .set("log.queue_lines", 128)
            .set("dns.cache_entries", 16)
            .listen_tls(&pair)
    };
    let proxy = setup().start();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(60_000));
    let stalled: Vec<_> = (0..980).map(|_| proxy.send(&head)).collect();
    sessions(&proxy, &trust, 1);
    let made = proxy.admin("GET", "/metrics");
    assert!(made.contains("ringway_tls_handshakes_total 1"), "{made}");
    let text = setup().set("memory.max_mb", 56).text();
    fs::write(proxy.home().join("ringway.toml"), text).unwrap();
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["memory is short: no new clients", "pressure=\"forced\""]);
    let mut socket = TcpStream::connect(address(&proxy)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = socket.write_all(&records(22, &hello("localhost", &trust), 16_384));
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    // Nothing of TLS, and no HTTP in clear to who expects TLS.
    assert!(answer.is_empty(), "{answer:?}");
    let metrics = proxy.admin("GET", "/metrics");
    assert!(metrics.contains("ringway_tls_failed_total{reason=\"no_memory\"} 1"), "{metrics}");
    drop(stalled);
    wait_until("newcomers are served", || {
        Client::connect(proxy.address()).send(GET).read_response().status() == 200
            && TlsClient::try_connect(address(&proxy), "localhost", &trust).is_ok()
    });
}
