//! Memory that is short: who comes is turned away at the door, what stalls is cut, and when there
//! is room again everybody is served as before.
//!
//! The shortage is made by a configuration that allows less than what is held already.

use crate::support::{Client, GET, OK, Origin, Setup, wait_until};
use nix::sys::signal::Signal;
use std::fs;

/// Clients that send a large head and do not go on.
const STALLED: usize = 500;

#[test]
fn a_shortage_turns_newcomers_away_cuts_what_stalls_and_ends_by_itself() {
    let _machine = crate::alone();
    let origin = Origin::answering(OK);
    let setup = || {
        Setup::to(&origin)
            .set("limits.clients", 1_000)
            .set("limits.tunnels", 1)
            .set("limits.head_bytes", "64KiB")
            .set("timeouts.client_head", "10m")
            .set("log.queue_lines", 128)
            .set("dns.cache_entries", 16)
    };
    let proxy = setup().start();
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(60_000));
    let mut stalled: Vec<_> = (0..STALLED).map(|_| proxy.send(&head)).collect();
    proxy.get().expect_status(200);
    let before = origin.seen().requests.len();
    // As if somebody had found that there is less than was thought.
    fs::write(proxy.home().join("ringway.toml"), setup().set("memory.max_mb", 42).text()).unwrap();
    proxy.signal(Signal::SIGHUP);
    proxy.wait_for_log(&["memory is short: no new clients", "pressure=\"forced\""]);
    let mut turned_away = proxy.send(GET);
    let response = turned_away.read_response();
    response.expect_status(503);
    assert!(response.field("Retry-After").is_some(), "{response}");
    turned_away.expect_orderly_close();
    assert_eq!(origin.seen().requests.len(), before);
    proxy.wait_for_log(&["cleanup", "level=\"forced\"", "cut_transfers="]);
    proxy.wait_for_log(&["memory", "pressure=\"normal\""]);
    wait_until("newcomers are served", || {
        Client::connect(proxy.address()).send(GET).read_response().status() == 200
    });
    let cut = stalled.iter_mut().map(is_cut).filter(|is_cut| *is_cut).count();
    assert!((1..=STALLED).contains(&cut), "{cut} were cut");
}

/// Whether nothing more can be sent to the proxy.
fn is_cut(client: &mut Client) -> bool {
    use std::io::Write as _;
    let mut stream = client.stream();
    stream.write_all(b"y").and_then(|()| stream.write_all(b"y")).is_err() || {
        std::thread::sleep(std::time::Duration::from_millis(5));
        stream.write_all(b"y").is_err()
    }
}
