//! Memory is a promise: what a resting connection costs, and that a burst gives back what it took.
//!
//! Comes in: many connections. Goes out: resident memory as the kernel counts it, held against the
//! figures that the README gives. Kernel memory of sockets is not in it.

mod support;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::thread;
use support::{Client, GET, OK, Origin, Proxy, Setup, pattern, wait_until};

/// Resting connections, and what one may cost.
const RESTING: usize = 2_000;
const RESTING_BYTES_MAX: usize = 1_024;

/// Room for that many sockets in this process too.
fn raise_open_files() -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let wanted = (RESTING as u64 + 500).max(soft);
    wanted <= hard && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok()
}

fn connect(proxy: &Proxy, count: usize) -> Vec<Client> {
    let served = |_| {
        let mut client = proxy.send(GET);
        client.expect_status(200);
        client
    };
    (0..count).map(served).collect()
}

#[test]
fn a_resting_connection_costs_less_than_a_kibibyte() {
    if !raise_open_files() {
        eprintln!("skipped: the hard limit of open files is too low");
        return;
    }
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    // The first connections fill free lists and tables that the others share.
    let mut clients = connect(&proxy, 200);
    let before = proxy.resident_bytes();
    clients.extend(connect(&proxy, RESTING));
    // What the last requests used is given back when their connections come to rest.
    wait_until("resting connections have given back their buffers", || {
        proxy.resident_bytes().saturating_sub(before) <= RESTING * RESTING_BYTES_MAX
    });
    for client in clients.iter_mut().step_by(100) {
        client.send(GET).expect_status(200);
    }
}

#[test]
fn a_burst_gives_its_memory_back() {
    const CLIENTS: usize = 100;
    const BODY: usize = 500_000;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
    let origin = Origin::answering([head.as_bytes(), &pattern(BODY)].concat());
    let proxy = Setup::to(&origin).set("pool.idle_expiry", "200ms").start();
    let burst = || {
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| assert_eq!(proxy.get().body.len(), BODY));
            }
        });
    };
    burst();
    let before = proxy.resident_bytes();
    for _ in 0..5 {
        burst();
    }
    wait_until("resident memory is back within a tenth of where it was", || {
        proxy.resident_bytes() <= before + before / 10
    });
}
