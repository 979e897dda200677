//! Memory that is short: the kernel has none to map, or kills somebody in the same control group.
//!
//! In go limits, and a neighbour that takes all there is; out comes who was served meanwhile and
//! afterwards.

use crate::group::Group;
use crate::support::{Client, GET, Origin, Proxy, Setup, wait_until};
use crate::tool::{Call, Chaos, Ended, ask, ask_all, driver, expect_peace, origin, setup};
use nix::sys::signal::Signal;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// What there is for two programs and their neighbour, who takes more.
const GROUP_BYTES: u64 = 256 << 20;

/// The neighbour of both a proxy and its origin, which is another ringway.
#[test]
fn a_neighbour_that_is_killed_for_want_of_memory_costs_no_request() {
    let Some(group) = Group::new(GROUP_BYTES) else { return };
    let (behind, gate) = Origin::held();
    let start = |setup: Setup| setup.launched_by(&group.launcher()).start();
    let middle = start(Setup::to(&behind).driven_by(&driver()));
    let proxy = start(Setup::to_url(&format!("http://{}", middle.address())));
    let mut waiting: Vec<Client> = (0..20).map(|_| proxy.send(GET)).collect();
    behind.wait_for("all requests", |seen| seen.requests.len() == waiting.len());
    group.kill_a_neighbour();
    gate.open();
    for client in &mut waiting {
        assert_eq!(client.read_response().status(), 200);
    }
    drop(waiting);
    expect_peace(&proxy, usize::MAX);
    let files = proxy.open_files();
    for _ in 0..2 {
        let ends = meanwhile(&proxy, || group.kill_a_neighbour());
        assert!(ends.iter().all(|end| *end == Ended::Answered(200)), "{ends:?}");
    }
    expect_peace(&proxy, files);
    proxy.stop();
    middle.stop();
}

/// How the requests of some clients end that ask without rest while `event` takes place.
fn meanwhile(proxy: &Proxy, event: impl FnOnce()) -> Vec<Ended> {
    let (address, is_over) = (proxy.address(), AtomicBool::new(false));
    thread::scope(|scope| {
        let client = || {
            let mut ends = vec![ask(address)];
            while !is_over.load(Ordering::Relaxed) {
                ends.push(ask(address));
            }
            ends
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        let happened = catch_unwind(AssertUnwindSafe(event));
        is_over.store(true, Ordering::Relaxed);
        happened.unwrap_or_else(|panic| resume_unwind(panic));
        clients.into_iter().flat_map(|client| client.join().expect("ends")).collect()
    })
}

/// The maps are those of a worker's ring and of its chunks.
#[test]
fn a_worker_for_which_there_is_no_memory_is_not_started_and_costs_no_request() {
    for (driver, every) in [("io_uring", 1), ("io_uring", 2), ("io_uring", 3), ("epoll", 1)] {
        let (origin, chaos) = (origin(), Chaos::new());
        let with = |workers: usize| setup(&origin, driver).set("server.workers", workers);
        let proxy = chaos.under(with(1)).start();
        assert_eq!(ask_all(&proxy, 3), [Ended::Answered(200); 3]);
        let files = proxy.open_files();
        fs::write(proxy.home().join("ringway.toml"), with(3).text()).expect("a file");
        chaos.fail(Call::Map, every, libc::ENOMEM);
        let ends = meanwhile(&proxy, || {
            proxy.signal(Signal::SIGHUP);
            proxy.wait_for_log(&["configuration in use stays"]);
        });
        assert!(ends.iter().all(|end| *end == Ended::Answered(200)), "{driver}: {ends:?}");
        assert!(chaos.failed(Call::Map) > 0, "{driver}: nothing was mapped");
        chaos.fail(Call::Map, 0, 0);
        expect_peace(&proxy, files);
        proxy.signal(Signal::SIGHUP);
        proxy.wait_for_log(&["reloaded", "generation=2 "]);
        wait_until("all workers are there", || {
            proxy.admin("GET", "/health").contains("\"workers\":3")
        });
        assert_eq!(ask_all(&proxy, 20), [Ended::Answered(200); 20]);
        proxy.stop();
    }
}
