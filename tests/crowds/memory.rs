//! Memory is a promise: what an idle connection costs, and that a burst gives back what it took.
//!
//! Comes in: many connections. Goes out: resident memory as the kernel counts it, held against the
//! figures that docs/benchmarks/numbers.md gives. Kernel memory of sockets is not in it.

use crate::support::{Client, GET, Gate, OK, Origin, Proxy, Setup, pattern, wait_until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ringway::internals::config::Config;
use ringway::internals::memory::{Plan, Usage};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Idle connections, and what one may cost.
const RESTING: usize = 2_000;
const RESTING_BYTES_MAX: usize = 1_024;

/// Clients that come all at once.
const CROWD: usize = 6_000;

/// Room for that many sockets in this process too, and those of the tests beside.
fn raise_open_files() -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let wanted = (CROWD as u64 + 5_000).max(soft);
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
    let _machine = crate::alone();
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

/// Each held a head buffer and a conversation, 12 KiB, for its first second. That second counts to
/// the silence that is allowed only where it has passed.
#[test]
fn a_crowd_that_says_nothing_yet_holds_few_buffers() {
    let _machine = crate::alone();
    if !raise_open_files() {
        eprintln!("skipped: the hard limit of open files is too low");
        return;
    }
    let origin = Origin::answering(OK);
    let proxy =
        Setup::to(&origin).set("server.workers", 1).set("timeouts.client_idle", "1s").start();
    let mut crowd = Vec::with_capacity(CROWD);
    let mut most = 0;
    while crowd.len() < CROWD {
        let more = (0..500).map(|_| TcpStream::connect(proxy.address()).expect("a place"));
        crowd.extend(more);
        most = most.max(proxy.ledger_bytes());
    }
    let began = Instant::now();
    let mut late = proxy.send(GET);
    late.expect_status(200);
    late.expect_orderly_close();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    // 2,048 of them, and a kibibyte for an idle one.
    assert!(most < 2_100 * 16 * 1024 + CROWD as u64 * 1024, "{most} bytes");
    for stream in crowd.iter_mut().step_by(100) {
        stream.write_all(GET.as_bytes()).expect("a reader");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 200");
    }
}

#[test]
fn a_burst_gives_its_memory_back() {
    const CLIENTS: usize = 100;
    const BODY: usize = 500_000;
    let _machine = crate::alone();
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

/// A figure of `/proc/PID/status`, such as `VmPeak`, in bytes where it has a unit.
fn status(proxy: &Proxy, name: &str) -> usize {
    let text = fs::read_to_string(proxy.file_of_process("status")).expect("the process is there");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let mut words = line.expect(name).split_whitespace();
    let number: usize = words.next().expect(name).parse().expect("a number");
    if words.next() == Some("kB") { number * 1024 } else { number }
}

/// An origin that reads requests and answers them when the gate is opened.
fn origin_behind(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |mut peer| {
        while peer.next_request().is_some() {
            gate.wait();
            peer.send(OK);
        }
    })
}

/// The bytes that one of a row of the plan of the standard configuration counts for.
fn planned_bytes(row: &str) -> usize {
    let plan = Plan::of(&Config::default(), &Usage::default());
    let found = plan.rows().iter().find(|candidate| candidate.name == row).expect(row);
    found.each_bytes as usize
}

/// Measured: 13.3 KiB for a client in an exchange of its own, of 23.7 that are planned for it and
/// its connection to an origin. A head buffer's pages that nothing was written to are not there.
#[test]
fn a_busy_connection_costs_what_was_planned_and_not_much_less() {
    const BUSY: usize = 400;
    let _machine = crate::alone();
    if !raise_open_files() {
        eprintln!("skipped: the hard limit of open files is too low");
        return;
    }
    let gate = Gate::default();
    let origin = origin_behind(&gate);
    let proxy = Setup::to(&origin).set("pool.max_connections", BUSY + 1).start();
    // As many fields as fit into a buffer of the standard size, so that its pages are there.
    let filler = format!("X-Filler: {}\r\n", "x".repeat(6_000));
    let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{filler}\r\n");
    // What code the first one has mapped is not what it costs.
    let mut first = proxy.send(&request);
    origin.wait_for("a request", |seen| seen.requests.len() == 1);
    let before = proxy.resident_bytes();
    let clients: Vec<_> = (0..BUSY).map(|_| proxy.send(&request)).collect();
    origin.wait_for("all requests", |seen| seen.requests.len() == 1 + BUSY);
    let each = proxy.resident_bytes().saturating_sub(before) / BUSY;
    let planned = planned_bytes("clients") + planned_bytes("origin connections");
    assert!(each <= planned, "{each} of {planned}");
    assert!(each * 3 >= planned, "{each} of {planned}: the plan keeps others out for nothing");
    gate.open();
    first.expect_status(200);
    for mut client in clients {
        client.expect_status(200);
    }
}

/// The limit that a container of 128 MiB would have, as one of addresses: the stricter one.
#[test]
fn it_serves_thousands_within_128_mib_of_addresses() {
    const LIMIT: usize = 128 * 1024 * 1024;
    let _machine = crate::alone();
    if !raise_open_files() {
        eprintln!("skipped: the hard limit of open files is too low");
        return;
    }
    for workers in [1, 2] {
        let gate = Gate::default();
        let origin = origin_behind(&gate);
        let proxy = Setup::to(&origin)
            .set("server.workers", workers)
            .set("timeouts.pool", "1m")
            .launched_by("ulimit -v 131072 && exec \"$0\" \"$@\"")
            .start();
        proxy.wait_for_log(&["limits.clients = 10000 does not fit in 121 MiB"]);
        // No arena was reserved, neither by the allocator nor by the C library, and no huge page.
        assert!(status(&proxy, "VmSize") < 48 * 1024 * 1024);
        assert_eq!(status(&proxy, "THP_enabled"), 0);
        let clients: Vec<_> = (0..RESTING).map(|_| proxy.send(GET)).collect();
        // All at once: those for which there is no connection to the origin wait for one.
        origin.wait_for("a full pool", |seen| seen.requests.len() == 100);
        gate.open();
        for mut client in clients {
            client.expect_status(200);
        }
        assert!(status(&proxy, "VmPeak") < LIMIT * 3 / 4, "{}", status(&proxy, "VmPeak"));
    }
}
