//! The comparison's own tests: its statistics, and that every scenario can be run.
//!
//! Comes in: the harness of `benches/compare` and the floor, as source. Goes out: its unit tests,
//! and one short run of everything with the proxies that are installed. Figures are not judged.

#[path = "../../benches/floor/relay.rs"]
mod floor;
#[path = "../../benches/gate/verdict.rs"]
mod gate;
#[path = "../../benches/compare/harness/mod.rs"]
mod harness;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use clap::Parser;

#[test]
fn every_scenario_runs_with_every_proxy_that_is_installed() {
    let _machine = crate::alone();
    let folder = std::env::temp_dir().join(format!("ringway-smoke-{}", std::process::id()));
    let out = folder.display().to_string();
    let options = harness::Options::parse_from(["compare", "--smoke", "--out", &out]);
    let results = harness::run(&options).expect("ringway and an origin can be started");
    let chosen = options.chosen_scenarios().expect("all but the soak");
    assert_eq!(results.outcomes.len(), chosen.len());
    for outcome in &results.outcomes {
        for row in &outcome.rows {
            let name = outcome.scenario.name;
            assert_eq!(row.failures, 0, "{name}, {}: {:?}", row.peer, row.reason);
            assert!(!row.metrics.is_empty(), "{name}, {}", row.peer);
        }
        assert!(outcome.rows.iter().any(|row| row.peer == "ringway"));
    }
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a report");
    let json: serde_json::Value = serde_json::from_str(&read("results.json")).expect("JSON");
    assert_eq!(json["scenarios"].as_array().map(Vec::len), Some(chosen.len()));
    let (markdown, picture) = (read("results.md"), read("results.svg"));
    assert!(chosen.iter().all(|it| markdown.contains(&format!("## {}: ", it.name))));
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    std::fs::remove_dir_all(folder).expect("the folder is ours");
}

#[test]
fn an_unknown_peer_is_an_error_that_lists_them() {
    let _machine = crate::alone();
    let options = harness::Options::parse_from(["compare", "--peers", "ngnix"]);
    let error = harness::run(&options).expect_err("there is none");
    assert!(error.contains("no peer ngnix") && error.contains("nginx, haproxy"), "{error}");
}

#[test]
fn the_floor_relays_both_ways_to_the_end() {
    const SIZE: usize = 20 << 20;
    let _machine = crate::alone();
    // Far above what a busy machine needs: a lost byte must not hang the test.
    let patience = Some(Duration::from_secs(60));
    let origin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let target = origin.local_addr().expect("bound");
    // Ends with the process, as a relay does.
    thread::spawn(move || floor::serve(listener, target).expect("a ring"));
    let echo = thread::spawn(move || {
        for _ in 0..4 {
            let (mut stream, _) = origin.accept().expect("a connection");
            thread::spawn(move || {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).expect("all of it");
                stream.write_all(&all).expect("somebody reads");
            });
        }
    });
    let clients: Vec<_> = (0..4_u8)
        .map(|number| {
            thread::spawn(move || {
                let sent: Vec<u8> = (0..SIZE)
                    .map(|at| (at / 251) as u8 ^ (at as u8).wrapping_add(number))
                    .collect();
                let mut stream = TcpStream::connect(address).expect("the floor listens");
                stream.set_read_timeout(patience).expect("a socket");
                stream.set_write_timeout(patience).expect("a socket");
                stream.write_all(&sent).expect("the floor reads");
                stream.shutdown(Shutdown::Write).expect("a socket");
                let mut received = Vec::new();
                stream.read_to_end(&mut received).expect("the floor writes");
                assert!(received == sent, "{} bytes of {SIZE}, or others", received.len());
            })
        })
        .collect();
    for client in clients {
        client.join().expect("its bytes came back");
    }
    echo.join().expect("four connections");
}
