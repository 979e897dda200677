//! What thousands of idle clients cost those who ask for something: two measurements, which take
//! a quiet machine and are left out unless asked for (`benches/NOTES.md`).
//!
//! Comes in: a crowd of clients that were answered once and rest. Goes out: processor time of the
//! proxy for each request of 64 others, and the longest that one of them waited while the crowd's
//! time was over all at once. Both print what they measured and hold it against its target.

use crate::support::{Client, GET, OK, Origin, Proxy, Setup};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// As many as 20,000 descriptors are enough for on either side.
const CROWD: usize = 9_000;
const BUSY: u32 = 64;
const ROUNDS: u32 = 300;

fn setup(origin: &Origin) -> Setup {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(hard > 2 * CROWD as u64, "`ulimit -n` is {hard}");
    // The scripted origin takes a silence of 20 s for a fault.
    Setup::to(origin).set("limits.clients", CROWD + 1_000).set("pool.idle_expiry", "5s")
}

/// Clients that were answered and say nothing more. One address has too few ports for all.
fn crowd(address: SocketAddr) -> Vec<Client> {
    let from = |index: usize| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + (index % 8) as u8));
    let clients = (0..CROWD).map(|index| {
        let mut client = Client::connect_from(from(index), address);
        client.send(GET).expect_status(200);
        client
    });
    clients.collect()
}

/// Nanoseconds of processor time that the process has had.
fn spent_ns(proxy: &Proxy) -> u64 {
    let tasks = fs::read_dir(proxy.file_of_process("task")).unwrap();
    let spent = tasks.map(|task| {
        let text = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    spent.sum()
}

/// Microseconds of processor time for each request of `BUSY` connections that ask in step.
fn cost_us(proxy: &Proxy) -> f64 {
    let mut busy: Vec<_> =
        (0..BUSY).map(|_| TcpStream::connect(proxy.address()).unwrap()).collect();
    let mut answer = [0; 4096];
    let mut step = || {
        for stream in &mut busy {
            stream.write_all(GET.as_bytes()).unwrap();
        }
        for stream in &mut busy {
            assert!(stream.read(&mut answer).unwrap() > 0);
        }
    };
    (0..ROUNDS / 10).for_each(|_| step());
    let before = spent_ns(proxy);
    (0..ROUNDS).for_each(|_| step());
    let spent = Duration::from_nanos(spent_ns(proxy) - before);
    spent.as_secs_f64() * 1e6 / f64::from(BUSY * ROUNDS)
}

#[test]
#[ignore = "a measurement"]
fn a_request_costs_the_same_whoever_rests_beside_it() {
    let origin = Origin::answering(OK);
    let proxy = setup(&origin).set("timeouts.client_idle", "10m").start();
    // Alone before and after, so that the machine's mood shows.
    let alone = cost_us(&proxy);
    let clients = crowd(proxy.address());
    // They have rested for a second, and hold no buffer.
    thread::sleep(Duration::from_secs(3));
    let beside = cost_us(&proxy);
    drop(clients);
    thread::sleep(Duration::from_secs(3));
    let again = cost_us(&proxy);
    println!("µs for each request: {alone:.1} alone, {beside:.1} beside {CROWD}, {again:.1} alone");
    assert!(beside <= 1.1 * alone.max(again), "{beside:.1} µs against {alone:.1} and {again:.1}");
}

#[test]
#[ignore = "a measurement"]
fn nobody_waits_long_while_a_crowd_expires() {
    let origin = Origin::answering(OK);
    let proxy = setup(&origin).set("timeouts.client_idle", "20s").start();
    let mut prober = proxy.connect();
    let began = Instant::now();
    let mut clients = crowd(proxy.address());
    println!("{CROWD} clients within {:?}", began.elapsed());
    // All at once: whoever asks anew begins to rest anew.
    for client in &mut clients {
        client.send(GET);
    }
    for client in &mut clients {
        client.expect_status(200);
    }
    let mut longest = Duration::ZERO;
    let over = Instant::now() + Duration::from_secs(24);
    while Instant::now() < over {
        let asked = Instant::now();
        prober.send(GET).expect_status(200);
        longest = longest.max(asked.elapsed());
        thread::sleep(Duration::from_millis(1));
    }
    println!("the longest answer while {CROWD} expired: {longest:?}");
    for client in clients.iter_mut().step_by(1_000) {
        client.expect_orderly_close();
    }
    // Two turns of the loop: the one that was under way, and the one that answered.
    assert!(longest <= Duration::from_millis(100), "{longest:?}");
}
