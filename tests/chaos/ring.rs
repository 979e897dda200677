//! Operations of a ring that the kernel fails, by their completions.
//!
//! In go operations and their errors; out comes who was served meanwhile, and that all is well
//! after it. Every third one of its kind fails, before anything has been done of it.

use crate::support::{Client, OK, Origin, Setup, pattern};
use crate::tool::{
    Call, Chaos, Ended, Promise, ask, ask_all, expect_peace, origin, origin_in_pieces, origin_of,
    setup, try_out_with,
};
use std::thread;
use std::time::Duration;

const DRIVER: &str = "io_uring";

/// Far more than is moved at once.
const LARGE: usize = 1_500_000;

#[track_caller]
fn try_out(origin: &Origin, call: Call, errors: &[i32], promise: Promise) {
    try_out_with(&Chaos::new(), setup(origin, DRIVER), (call, 3), errors, promise);
}

#[test]
fn an_accept_that_the_ring_fails_loses_nobody() {
    let errors = [
        libc::EMFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::ECONNABORTED,
        libc::EAGAIN,
        libc::EINTR,
        libc::EIO,
        libc::ECANCELED,
    ];
    try_out(&origin(), Call::RingAccept, &errors, Promise::Served);
}

#[test]
fn a_receive_that_the_ring_gives_up_is_made_again() {
    let (closing, keeping) = (origin(), Origin::answering(OK));
    for origin in [&closing, &keeping] {
        let errors = [libc::EINTR, libc::ECANCELED];
        try_out(origin, Call::RingReceive, &errors, Promise::Served);
    }
}

#[test]
fn a_receive_that_the_ring_fails_ends_one_request_and_no_other() {
    let (closing, keeping) = (origin(), Origin::answering(OK));
    for origin in [&closing, &keeping] {
        let errors = [libc::ENOBUFS, libc::ENOMEM, libc::EAGAIN, libc::EIO, libc::ECONNRESET];
        try_out(origin, Call::RingReceive, &errors, Promise::Ended);
    }
}

#[test]
fn a_poll_that_the_ring_gives_up_is_made_again() {
    let errors = [libc::EINTR, libc::ECANCELED];
    try_out(&origin_in_pieces(), Call::RingPoll, &errors, Promise::Served);
}

#[test]
fn a_poll_that_the_ring_fails_ends_one_request_and_no_other() {
    let errors = [libc::ENOMEM, libc::EAGAIN, libc::EIO];
    try_out(&origin_in_pieces(), Call::RingPoll, &errors, Promise::Ended);
}

#[test]
fn a_transfer_on_registered_memory_that_fails_ends_one_request_and_no_other() {
    let (origin, chaos) = (origin_of(LARGE), Chaos::new());
    let setup = setup(&origin, DRIVER).set("buffers.fixed_operations", true);
    // Else bytes would go through it.
    chaos.fail(Call::Pipe, 1, libc::EMFILE);
    let errors = [libc::ENOMEM, libc::EIO, libc::ENOBUFS, libc::EINTR, libc::ECANCELED];
    try_out_with(&chaos, setup, (Call::RingFixed, 3), &errors, Promise::Ended);
}

/// By its ticks the loop of a worker knows when to look at its timers.
#[test]
fn a_tick_that_fails_delays_nobody() {
    let origin = origin_of(LARGE);
    let errors = [libc::ENOMEM, libc::EAGAIN, libc::ECANCELED];
    let setup = setup(&origin, DRIVER);
    try_out_with(&Chaos::new(), setup, (Call::RingTimeout, 1), &errors, Promise::Served);
}

/// Between requests that are rare a worker sleeps in epoll, and the ring says by an eventfd that
/// something has come.
#[test]
fn a_ring_that_cannot_announce_anything_is_asked_instead() {
    let (origin, chaos) = (origin(), Chaos::new());
    let proxy = chaos.under(setup(&origin, DRIVER)).start();
    let ask_seldom = |count| {
        for _ in 0..count {
            assert_eq!(ask(proxy.address()), Ended::Answered(200));
            // For two ticks and some.
            thread::sleep(Duration::from_millis(30));
        }
    };
    assert_eq!(ask_all(&proxy, 3), [Ended::Answered(200); 3]);
    let files = proxy.open_files();
    for (every, error) in [(1, libc::ENOMEM), (2, libc::EBUSY), (3, libc::EINTR)] {
        let before = chaos.failed(Call::RingRegister);
        chaos.fail(Call::RingRegister, every, error);
        ask_seldom(20);
        chaos.fail(Call::RingRegister, 0, 0);
        assert!(chaos.failed(Call::RingRegister) > before, "nothing was announced");
        ask_seldom(3);
        expect_peace(&proxy, files);
    }
    proxy.stop();
}

/// A silent origin, and nothing else that could wake the worker.
#[test]
fn a_deadline_holds_whatever_becomes_of_ticks() {
    let calls = [("io_uring", Call::RingTimeout), ("epoll", Call::Timer)];
    for (driver, call) in calls {
        for every in [1, 2] {
            let (origin, chaos) = (Origin::silent(), Chaos::new());
            let setup = Setup::to(&origin).driven_by(driver).set("timeouts.read", "500ms");
            let proxy = chaos.under(setup).start();
            chaos.fail(call, every, libc::ENOMEM);
            for _ in 0..4 {
                assert_eq!(ask(proxy.address()), Ended::Answered(504), "{driver}");
            }
            assert!(chaos.failed(call) > 0, "{call:?} was not made to fail");
            chaos.fail(call, 0, 0);
            assert_eq!(ask(proxy.address()), Ended::Answered(504), "{driver}");
            proxy.stop();
        }
    }
}

/// What arrives of a tunnel that breaks is what was sent, up to there.
#[test]
fn a_tunnel_of_which_an_operation_fails_loses_nothing_in_the_middle() {
    let (origin, chaos) = (Origin::echoing(), Chaos::new());
    let proxy = chaos.under(Setup::forward().driven_by(DRIVER)).start();
    for error in [libc::ENOMEM, libc::EIO, libc::EINTR, libc::ECANCELED] {
        let before = chaos.failed(Call::RingPoll);
        let mut tunnels = 0;
        while chaos.failed(Call::RingPoll) == before {
            assert!(tunnels < 20, "{error}: no poll was made to fail");
            tunnels += 1;
            let tunnel = proxy.tunnel(origin.address());
            chaos.fail(Call::RingPoll, 2, error);
            let count = echo(tunnel);
            chaos.fail(Call::RingPoll, 0, 0);
            let is_made_again = [libc::EINTR, libc::ECANCELED].contains(&error);
            assert!(count == ECHOED || !is_made_again, "{error}: {count} came");
        }
        assert_eq!(echo(proxy.tunnel(origin.address())), ECHOED, "{error}");
    }
    proxy.stop();
}

const ECHOED: usize = 3_000_000;

/// How many of so many bytes come back, which are the first of them.
#[track_caller]
fn echo(mut client: Client) -> usize {
    let sent = pattern(ECHOED);
    let (mut sender, bytes) = (client.another_handle(), sent.clone());
    let sending = thread::spawn(move || {
        sender.send(bytes);
        sender.half_close();
    });
    let (came, _) = client.read_to_end();
    sending.join().expect("all is sent");
    assert!(sent.starts_with(&came), "of {ECHOED} bytes {} others came", came.len());
    came.len()
}
