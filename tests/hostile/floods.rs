//! Much of what costs the sender little: silence, trickles, pipelines that are not read, closed
//! windows, garbage, churn, tunnels into a tarpit.
//!
//! All of it is ended in its time or bounded, and meanwhile others are served.

use crate::backend::Backend;
use crate::mob::{Little, Mob, attacker};
use crate::subject::{Subject, alone, shared};
use crate::support::{Blackhole, Setup, connect, pattern, wait_until};
use crate::victims::Victims;
use socket2::SockRef;
use std::io::Read;
use std::thread;
use std::time::Duration;

const PACE: Duration = Duration::from_millis(20);

#[test]
fn thousands_that_connect_and_say_nothing_are_ended_in_their_time() {
    const SILENT: usize = 6_000;
    let _machine = alone();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()).set("timeouts.client_head", "4s"));
    let mob = Mob::new(subject.address(), SILENT, "");
    let victims = Victims::start(subject.address(), 2, PACE);
    // A connection and its task.
    subject.expect_resident_below(SILENT * 16 * 1024);
    mob.wait_until_ended(SILENT, Duration::from_secs(15));
    victims.stop().expect_served();
    drop(mob);
    subject.expect_home();
}

#[test]
fn hundreds_of_heads_that_trickle_are_ended_in_their_time() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()).set("timeouts.client_head", "3s"));
    let mob = Mob::new(subject.address(), 500, "GET /page HTTP/1.1\r\nX: ");
    let victims = Victims::start(subject.address(), 2, PACE);
    for _ in 0..40 {
        mob.send(b"y");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    mob.wait_until_ended(500, Duration::from_secs(10));
    victims.stop().expect_served();
    drop(mob);
    subject.expect_home();
}

#[test]
fn trickling_heads_that_come_back_again_and_again_keep_nobody_out() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()).set("timeouts.client_head", "1s"));
    let opening = "GET /page HTTP/1.1\r\nX: ";
    let mob = Mob::new(subject.address(), 300, opening);
    let trickling = mob.trickle(subject.address(), opening, Little::Send);
    let victims = Victims::start(subject.address(), 2, PACE);
    victims.stop_after(Duration::from_secs(4)).expect_served();
    drop(trickling);
    subject.expect_home();
}

#[test]
fn pipelines_that_are_not_read_are_bounded_and_keep_nobody_out() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let mob = Mob::with_small_windows(subject.address(), 60, "");
    let many = "GET /large/40000 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(400);
    let victims = Victims::start(subject.address(), 2, PACE);
    for _ in 0..2 {
        mob.send(many.as_bytes());
    }
    victims.stop_after(Duration::from_secs(3)).expect_served();
    subject.expect_resident_below(60 * 256 * 1024);
    subject.expect_rest();
    mob.reset();
    subject.expect_home();
}

#[test]
fn closed_windows_cost_no_processor_time_and_keep_nobody_out() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let opening = "GET /large/3000000 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mob = Mob::with_small_windows(subject.address(), 90, opening);
    wait_until("the answers have begun", || backend.requests() >= 90);
    // Until then the machine is busy with filling them.
    let mut last = 0;
    wait_until("the windows are closed", || {
        let sent = subject.admin.sent();
        let is_still = sent > 0 && sent == std::mem::replace(&mut last, sent);
        thread::park_timeout(Duration::from_millis(100));
        is_still
    });
    let victims = Victims::start(subject.address(), 2, PACE);
    victims.stop_after(Duration::from_secs(2)).expect_served();
    subject.expect_rest();
    mob.reset();
    subject.expect_home();
}

#[test]
fn tunnels_into_a_tarpit_are_given_up_in_their_time() {
    let _machine = shared();
    let backend = Backend::start();
    let hole = Blackhole::new();
    let setup = Setup::forward()
        .upstream("origin", &[&backend.url()], "")
        .set("timeouts.connect", "2s")
        .set("limits.tunnels", 500);
    let subject = Subject::start(setup);
    let mob = Mob::new(subject.address(), 300, &connect(hole.address()));
    let victims = Victims::start(subject.address(), 2, PACE);
    subject.expect_rest();
    wait_until("each is told", || {
        mob.0.iter().filter(|stream| matches!(stream.peek(&mut [0]), Ok(1))).count() == 300
    });
    for mut stream in &mob.0 {
        let mut answer = [0; 12];
        let count = stream.read(&mut answer).expect("an answer");
        assert!(answer[..count].starts_with(b"HTTP/1.1 50"), "{:?}", answer.escape_ascii());
    }
    victims.stop().expect_served();
    drop(mob);
    subject.expect_home();
}

#[test]
fn garbage_is_refused_and_hurts_nobody() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let victims = Victims::start(subject.address(), 2, PACE);
    let noise = pattern(400_000);
    for round in 0..400 {
        let mob = Mob::new(subject.address(), 1, "");
        mob.send(&noise[round * 100..round * 100 + 1 + round * 3]);
        if round % 2 == 0 {
            mob.half_close();
        }
        drop(mob);
    }
    let mut outcome = victims.stop_after(Duration::from_millis(1_500));
    assert_eq!(outcome.first_wrong.take(), None);
    outcome.expect_served();
    subject.expect_home();
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let victims = Victims::start(subject.address(), 2, PACE);
    let openings = [
        "",
        "GET /pa",
        "GET /page HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /page HTTP/1.1\r\nHost: a\r\n\
         Content-Length: 10\r\n\r\nhalf",
        "GET /large/1000000 HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for round in 0..3_000_usize {
        let stream = attacker(subject.address(), openings[round % openings.len()]);
        if round % 3 == 0 {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    victims.stop_after(Duration::from_millis(1_500)).expect_served();
    subject.expect_home();
}
