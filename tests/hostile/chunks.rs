//! Silent senders against `buffers.fixed_operations`, whose operations need a chunk before there is
//! anything to put into it.
//!
//! A worker has few chunks. Somebody who says nothing may hold none, and whoever waits for one
//! waits for a time only.

use crate::backend::Backend;
use crate::mob::Mob;
use crate::subject::{Subject, shared};
use crate::support::{Setup, wait_until};
use crate::victims::Victims;
use std::time::Duration;

/// More than there are chunks by default.
const SILENT: usize = 40;

fn setup(backend: &Backend) -> Setup {
    Setup::to_url(&backend.url())
        .set("buffers.chunks_per_worker", 32)
        .set("buffers.fixed_operations", true)
}

#[test]
fn silent_origins_hold_no_chunk_that_others_need() {
    let _machine = shared();
    for path in ["/stall", "/hush"] {
        let backend = Backend::start();
        let subject = Subject::start(setup(&backend));
        let opening = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mob = Mob::new(subject.address(), SILENT, &opening);
        wait_until("the origin has the requests", || backend.requests() == SILENT);
        large_bodies_pass(&subject);
        let victims = Victims::start(subject.address(), 2, Duration::from_millis(10));
        victims.stop_after(Duration::from_secs(1)).expect_served();
        subject.expect_rest();
        drop(mob);
        subject.expect_home();
    }
}

#[test]
fn silent_uploads_hold_no_chunk_that_others_need() {
    let _machine = shared();
    for framing in ["Content-Length: 900000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nffff\r\n"]
    {
        let backend = Backend::start();
        let subject = Subject::start(setup(&backend));
        let opening = format!("POST /page HTTP/1.1\r\nHost: a\r\n{framing}half");
        let mob = Mob::new(subject.address(), SILENT, &opening);
        wait_until("the origin has the requests", || backend.requests() == SILENT);
        large_bodies_pass(&subject);
        subject.expect_rest();
        drop(mob);
        subject.expect_home();
    }
}

#[test]
fn clients_that_do_not_read_hold_no_chunk_for_ever() {
    let _machine = shared();
    let backend = Backend::start();
    let setup = setup(&backend).set("timeouts.client_write", "3s").set("timeouts.read", "3s");
    let subject = Subject::start(setup);
    let opening = "GET /large/50000000 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mob = Mob::with_small_windows(subject.address(), SILENT, opening);
    wait_until("the origin has requests", || backend.requests() >= 32);
    // These hold chunks rightly: their bytes have come. Whoever waits for one is told in time.
    let mut client = subject.send("GET /large/300000 HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("it ends one way or the other", || {
        client.receive();
        true
    });
    drop(client);
    // They are ended as well, although their sockets stay open.
    subject.expect_home();
    drop(mob);
}

#[track_caller]
fn large_bodies_pass(subject: &Subject) {
    for _ in 0..5 {
        let mut client = subject.send("GET /large/3000000 HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.read_response();
        answer.expect_status(200);
        assert_eq!(answer.body.len(), 3_000_000);
    }
}
