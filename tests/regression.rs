//! What broke once, by the number of the issue in whose course it was found.
//!
//! Each test is the shortest conversation that showed the fault. A fault that a suite has found
//! again is left to that suite; here is what nobody would have thought of.

mod support;

use nix::sys::signal::Signal;
use std::time::Duration;
use support::{Expected, GET, Gate, OK, Origin, Proxy, Setup, pattern};

/// The end of one wait on a socket also ended another one on it: an upload that its origin left
/// lying for longer than the first look for an answer was taken for stopped, and answered 503.
#[test]
fn r2_an_upload_outlasts_the_first_wait_for_its_answer() {
    let body = pattern(64 << 20);
    let is_stalled = Gate::default();
    let origin = Origin::start({
        let is_stalled = is_stalled.clone();
        move |mut peer| {
            let mut request = peer.expect_head();
            is_stalled.wait();
            peer.read_body(&mut request, Expected::Request);
            assert!(request.is_whole(), "{} bytes came", request.body.len());
            peer.send(OK);
            peer.hold();
        }
    });
    let proxy = Setup::to(&origin).set("timeouts.write", "60s").start();
    let length = body.len();
    let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
    let mut client = proxy.send(head);
    let sent = client.send_until_stalled(&body, Duration::from_millis(2_500));
    is_stalled.open();
    client.send(&body[sent..]).expect_status(200);
}

/// A body that went wrong behind what had been read with its head was answered only when the wait
/// for the origin timed out: the wait was interrupted before it had begun.
#[test]
fn r2_a_bad_chunk_is_refused_at_once_wherever_it_stands() {
    let origin = Origin::silent();
    let proxy = Proxy::to(&origin);
    for size in [100, 7_900, 8_192, 16_384, 65_536, 100_000, 600_000] {
        let mut request =
            b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        request.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        request.extend_from_slice(&pattern(size));
        request.extend_from_slice(b"\r\nnot hexadecimal\r\n");
        let mut client = proxy.send(request);
        client.expect_status(400).expect_closed();
    }
}

/// The signal handlers stood only after the listener had been announced.
#[test]
fn r2_a_signal_right_after_the_start_is_heard() {
    let origin = Origin::untouchable();
    for _ in 0..10 {
        let mut proxy = Proxy::to(&origin);
        proxy.signal(Signal::SIGTERM);
        proxy.expect_orderly_end();
    }
}

/// Connections that were just being opened in advance were still counted when all had ended.
#[test]
fn r2_a_signal_during_prewarming_leaves_nothing_behind() {
    let origin = Origin::untouchable();
    for _ in 0..10 {
        let mut proxy = Setup::to(&origin).set("pool.prewarm", 20).set("server.workers", 2).start();
        proxy.signal(Signal::SIGTERM);
        proxy.expect_orderly_end();
    }
}

/// Colours went to pipes and files.
#[test]
fn r2_a_log_that_is_no_terminal_has_no_colours() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    proxy.send(GET).expect_status(200);
    let coloured = proxy.log_lines().into_iter().find(|line| line.contains('\u{1b}'));
    assert_eq!(coloured, None);
}
