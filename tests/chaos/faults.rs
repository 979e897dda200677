//! System calls that fail: each with the errors that it may have, every third time it is made.
//!
//! In go a call and its errors; out comes who was served meanwhile, and that all is well after it.

use crate::support::{Origin, Setup, pattern, wait_until};
use crate::tool::{
    Call, Chaos, Ended, Promise, ask_all, driver, expect_peace, origin, setup, try_out_with,
};
use nix::sys::signal::Signal;
use std::fs;

#[track_caller]
fn try_out(driver: &str, call: Call, errors: &[i32], promise: Promise) {
    let origin = origin();
    try_out_with(&Chaos::new(), setup(&origin, driver), (call, 3), errors, promise);
}

#[test]
fn an_accept_that_fails_for_want_of_something_loses_nobody() {
    let errors = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EINTR];
    try_out("epoll", Call::Accept, &errors, Promise::Served);
}

#[test]
fn a_socket_that_cannot_be_opened_costs_one_request_an_error_and_no_other_anything() {
    let errors = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    for driver in ["io_uring", "epoll"] {
        try_out(driver, Call::Socket, &errors, Promise::Ended);
    }
}

#[test]
fn a_connect_that_fails_costs_one_request_an_error_at_most() {
    let errors = [libc::EADDRNOTAVAIL, libc::ENOBUFS, libc::EAGAIN, libc::ENETUNREACH];
    for driver in ["io_uring", "epoll"] {
        try_out(driver, Call::Connect, &errors, Promise::Ended);
    }
}

#[test]
fn a_send_that_is_interrupted_is_made_again() {
    for driver in ["io_uring", "epoll"] {
        try_out(driver, Call::Send, &[libc::EINTR], Promise::Served);
    }
}

#[test]
fn a_send_that_fails_ends_one_request_and_no_other() {
    let errors = [libc::ENOBUFS, libc::ENOMEM, libc::EPIPE, libc::ECONNRESET, libc::EIO];
    for driver in ["io_uring", "epoll"] {
        try_out(driver, Call::Send, &errors, Promise::Ended);
    }
}

#[test]
fn a_receive_that_is_interrupted_is_made_again() {
    try_out("epoll", Call::Receive, &[libc::EINTR], Promise::Served);
}

#[test]
fn a_receive_that_fails_ends_one_request_and_no_other() {
    // A ring receives by itself.
    let errors = [libc::ENOMEM, libc::ECONNRESET, libc::EIO];
    try_out("epoll", Call::Receive, &errors, Promise::Ended);
}

#[test]
fn a_socket_that_no_set_takes_costs_one_request_and_no_other() {
    // ENOSPC is fs.epoll.max_user_watches.
    try_out("epoll", Call::EpollCtl, &[libc::ENOMEM, libc::ENOSPC], Promise::Ended);
}

#[test]
fn a_sleep_that_is_interrupted_loses_nothing() {
    try_out("epoll", Call::EpollWait, &[libc::EINTR], Promise::Served);
}

#[test]
fn a_ring_that_is_busy_or_interrupted_loses_nothing() {
    let errors = [libc::EINTR, libc::EAGAIN, libc::EBUSY];
    try_out("io_uring", Call::RingEnter, &errors, Promise::Served);
}

#[test]
fn a_log_on_a_full_disk_or_a_broken_one_costs_no_request() {
    for error in [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EROFS] {
        let (origin, chaos) = (origin(), Chaos::new());
        let setup =
            setup(&origin, &driver()).set("log.access", true).set("log.access_file", "access.log");
        let proxy = chaos.under(setup).start();
        let path = proxy.home().join("access.log");
        let lines = || fs::read_to_string(&path).unwrap_or_default().lines().count();
        assert_eq!(ask_all(&proxy, 1), [Ended::Answered(200)]);
        wait_until("the first line is there", || lines() == 1);
        chaos.fail(Call::Write, 1, error);
        assert_eq!(ask_all(&proxy, 20), [Ended::Answered(200); 20]);
        wait_until("the log fails", || chaos.failed(Call::Write) > 0);
        chaos.fail(Call::Write, 0, 0);
        assert_eq!(ask_all(&proxy, 5), [Ended::Answered(200); 5]);
        // That of before, and those of afterwards.
        wait_until("the log goes on", || lines() >= 6);
        proxy.stop();
    }
}

#[test]
fn a_reload_for_which_no_file_can_be_opened_changes_nothing() {
    for error in [libc::EMFILE, libc::ENFILE, libc::EIO, libc::ENOMEM] {
        let (origin, chaos) = (origin(), Chaos::new());
        let proxy = chaos.under(setup(&origin, &driver())).start();
        assert_eq!(ask_all(&proxy, 3), [Ended::Answered(200); 3]);
        let files = proxy.open_files();
        chaos.fail(Call::Open, 1, error);
        proxy.signal(Signal::SIGHUP);
        wait_until("the reload fails", || chaos.failed(Call::Open) > 0);
        assert_eq!(ask_all(&proxy, 10), [Ended::Answered(200); 10]);
        chaos.fail(Call::Open, 0, 0);
        proxy.signal(Signal::SIGHUP);
        proxy.wait_for_log(&["reloaded", "generation=2 "]);
        expect_peace(&proxy, files);
        proxy.stop();
    }
}

/// Bytes of a tunnel then go through memory.
#[test]
fn a_tunnel_for_which_there_is_no_pipe_goes_on_without() {
    let (origin, chaos) = (Origin::echoing(), Chaos::new());
    let proxy = chaos.under(Setup::forward()).start();
    chaos.fail(Call::Pipe, 1, libc::EMFILE);
    let bytes = pattern(6_000_000);
    for _ in 0..3 {
        let mut client = proxy.tunnel(origin.address());
        let mut sender = client.another_handle();
        let sent = bytes.clone();
        let sending = std::thread::spawn(move || sender.send(sent));
        client.expect_stream(&bytes);
        sending.join().expect("all is sent");
    }
    assert!(chaos.failed(Call::Pipe) > 0, "no pipe was wanted");
    proxy.stop();
}
