//! A machine that behaves oddly: disks that are full, a wall clock that jumps, processes that are
//! stopped for a while, few descriptors.
//!
//! In go signals, mounts, limits and times; out comes who was served meanwhile and afterwards.

use crate::support::{Origin, Setup, has_own_mounts, wait_until};
use crate::tool::{Call, Chaos, Ended, ask, ask_all, driver, expect_peace, origin, setup};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
use std::thread;
use std::time::Duration;

/// A file system of a few pages, in a namespace of the program's own.
const TINY: &str = "exec unshare -m sh -c 'mkdir -p logs && mount -t tmpfs -o size=16k tmpfs logs \
                    && exec \"$0\" \"$@\"' \"$0\" \"$@\"";

#[test]
fn an_access_log_that_fills_its_disk_costs_no_request() {
    if !has_own_mounts() {
        let _ = writeln!(std::io::stderr(), "skipped: mounting takes root (unshare -m)");
        return;
    }
    let origin = origin();
    let proxy = setup(&origin, &driver())
        .set("log.access", true)
        .set("log.access_file", "logs/access.log")
        .launched_by(TINY)
        .start();
    // A line is a hundred bytes at least: this is more than there is room for.
    assert_eq!(ask_all(&proxy, 400), [Ended::Answered(200); 400]);
    let log = proxy.file_of_process("cwd").join("logs/access.log");
    wait_until("the disk is full", || fs::metadata(&log).is_ok_and(|it| it.len() >= 8192));
    assert_eq!(ask_all(&proxy, 50), [Ended::Answered(200); 50]);
    // Somebody makes room.
    fs::write(&log, "").expect("room");
    wait_until("the log goes on", || {
        assert_eq!(ask(proxy.address()), Ended::Answered(200));
        fs::metadata(&log).is_ok_and(|it| it.len() > 0)
    });
    proxy.stop();
}

/// Timeouts are of a clock that nobody sets.
#[test]
fn a_wall_clock_that_jumps_ends_nothing_and_delays_nothing() {
    let (origin, gate) = Origin::held();
    let chaos = Chaos::new();
    let proxy = chaos.under(Setup::to(&origin).set("timeouts.read", "15s")).start();
    let mut waiting = proxy.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    origin.wait_for("the request", |seen| !seen.requests.is_empty());
    for jump in [86_400, -86_400, 1_000_000, -1_000_000, 0] {
        chaos.fail(Call::Clock, 0, jump);
        // For several looks at deadlines.
        thread::sleep(Duration::from_millis(200));
    }
    gate.open();
    assert_eq!(waiting.read_response().status(), 200);
    for jump in [86_400, -86_400, 0] {
        chaos.fail(Call::Clock, 0, jump);
        assert_eq!(ask(proxy.address()), Ended::Answered(200));
        // And on the connection that was there before.
        waiting.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(waiting.read_response().status(), 200);
    }
    assert!(chaos.failed(Call::Clock) > 0, "the program has not read the clock");
    drop(waiting);
    proxy.stop();
}

#[test]
fn a_program_that_was_stopped_for_a_while_serves_all_who_came_meanwhile() {
    let origin = origin();
    let proxy = setup(&origin, &driver()).start();
    assert_eq!(ask_all(&proxy, 3), [Ended::Answered(200); 3]);
    let (files, address) = (proxy.open_files(), proxy.address());
    proxy.signal(Signal::SIGSTOP);
    let clients: Vec<_> = (0..20).map(|_| thread::spawn(move || ask(address))).collect();
    // Nobody is told of anything meanwhile.
    thread::sleep(Duration::from_millis(500));
    assert!(clients.iter().all(|client| !client.is_finished()));
    proxy.signal(Signal::SIGCONT);
    for client in clients {
        assert_eq!(client.join().expect("an end"), Ended::Answered(200));
    }
    expect_peace(&proxy, files);
    proxy.stop();
}

/// The origin is another ringway, which answers by itself.
#[test]
fn an_origin_that_was_stopped_is_given_up_in_time_and_served_from_again() {
    let behind = origin();
    let middle = setup(&behind, &driver()).start();
    let url = format!("http://{}", middle.address());
    let proxy = Setup::to_url(&url)
        .set("timeouts.read", "1s")
        .set("timeouts.connect", "1s")
        .set("pool.max_idle", 0)
        .start();
    assert_eq!(ask_all(&proxy, 3), [Ended::Answered(200); 3]);
    let files = proxy.open_files();
    middle.signal(Signal::SIGSTOP);
    let ends = ask_all(&proxy, 3);
    middle.signal(Signal::SIGCONT);
    let is_given_up = |end: &Ended| matches!(end, Ended::Answered(502..=504));
    assert!(ends.iter().all(is_given_up), "{ends:?}");
    wait_until("it is served from again", || ask(proxy.address()) == Ended::Answered(200));
    expect_peace(&proxy, files);
    proxy.stop();
    middle.stop();
}

#[test]
fn with_few_descriptors_everybody_is_served_in_turn() {
    let origin = origin();
    let proxy = setup(&origin, &driver()).open_files_max(96).start();
    let (files, address) = (proxy.open_files(), proxy.address());
    let clients: Vec<_> = (0..150).map(|_| thread::spawn(move || ask(address))).collect();
    for client in clients {
        assert_eq!(client.join().expect("an end"), Ended::Answered(200));
    }
    expect_peace(&proxy, files);
    proxy.stop();
}
