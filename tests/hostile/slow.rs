//! Six ways to hold what others need by being slow, each at 110 and at 5,000 connections, with the
//! default configuration.
//!
//! Whoever is slow may be slow for as long as nobody waits for what it holds. While the attack goes
//! on, clients at other addresses ask for a page in front of the same upstream, whose origin still
//! answers, and 99.5 % of the answers must come within a second.

use crate::backend::Backend;
use crate::mob::{Little, Mob};
use crate::subject::{Subject, alone, shared};
use crate::support::{Blackhole, Setup, wait_until};
use crate::victims::Victims;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// A POST whose body hardly comes.
    Upload,
    /// A POST that asks whether it may send its body, and then does not.
    Expect,
    /// A large answer that is hardly read.
    Download,
    /// A page of another upstream that takes its time.
    OtherUpstream,
    /// Clients that asked for something slow and went away.
    Gone,
    /// Forward requests to a target that neither takes nor refuses connections.
    Tarpit,
}

/// Nothing is set that bears upon limits, the pool or timeouts.
fn defaults(attack: Attack, origin: &str, other: &str) -> Setup {
    let setup = Setup::new().set("buffers.chunks_per_worker", 32).upstream("origin", &[origin], "");
    match attack {
        Attack::OtherUpstream => setup
            .upstream("other", &[other], "")
            .route("", "/late", "other", "")
            .route("", "/", "origin", ""),
        Attack::Tarpit => setup.set("forward.enabled", true).set("forward.allow_loopback", true),
        _ => setup,
    }
}

fn opening(attack: Attack, hole: &str) -> String {
    let post = "POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n";
    match attack {
        Attack::Upload => format!("{post}\r\n"),
        Attack::Expect => format!("{post}Expect: 100-continue\r\n\r\n"),
        Attack::Download => "GET /large/12000000 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        Attack::OtherUpstream => "GET /late/600000 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        Attack::Gone => "GET /silent HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        Attack::Tarpit => format!("GET http://{hole}/ HTTP/1.1\r\nHost: {hole}\r\n\r\n"),
    }
}

/// All of the attackers are inside, and what the kernels take of their answers has been moved. An
/// origin that has not answered yet looks the same from outside, so `sent` bytes have to have gone
/// out.
#[track_caller]
fn wait_until_under_way(subject: &Subject, count: usize, sent: u64) {
    let mut last = None;
    wait_until("the attack is under way", || {
        let metrics = subject.admin.metrics();
        let names = ["accepted_total", "pool_opened_total", "pool_waiting_requests"];
        let figures = names.map(|name| metrics.get(&format!("ringway_{name}"), ""));
        let now = (figures, subject.admin.sent());
        let is_still = last == Some(now) && figures[0] >= count as u64 && now.1 >= sent;
        last = Some(now);
        thread::park_timeout(Duration::from_millis(100));
        is_still
    });
}

#[track_caller]
fn attack(attack: Attack, count: usize) {
    let _machine = alone();
    let (backend, other, hole) = (Backend::start(), Backend::start(), Blackhole::new());
    let subject = Subject::start(defaults(attack, &backend.url(), &other.url()));
    let opening = opening(attack, &hole.address().to_string());
    let address = subject.address();
    // It is in full swing before anybody else comes: as many as there can be are inside.
    let mob = Mob::new(address, count, &opening);
    if attack == Attack::Gone {
        mob.0.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Write)));
    }
    // What the kernels take of each of the answers that there are connections for.
    let sent = if attack == Attack::Download { 100 * 65_536 } else { 0 };
    wait_until_under_way(&subject, count, sent);
    let victims = Victims::start(address, 4, Duration::from_millis(20));
    let trickling = match attack {
        // These hold their connections, say nothing more, and do not come back.
        Attack::Gone => {
            let outcome = victims.stop_after(Duration::from_secs(4));
            drop(mob);
            outcome.expect_served();
            None
        }
        Attack::Upload => Some((victims, mob.trickle(address, &opening, Little::Send))),
        _ => Some((victims, mob.trickle(address, &opening, Little::Read))),
    };
    if let Some((victims, trickling)) = trickling {
        let outcome = victims.stop_after(Duration::from_secs(4));
        drop(trickling);
        eprintln!("{attack:?} by {count}: {outcome:?}");
        outcome.expect_served();
    }
    subject.expect_few_threads();
    subject.expect_home();
}

#[test]
fn bodies_that_hardly_come_keep_nobody_out() {
    attack(Attack::Upload, 110);
}

#[test]
fn thousands_of_bodies_that_hardly_come_keep_nobody_out() {
    attack(Attack::Upload, 5_000);
}

#[test]
fn clients_that_wait_for_a_go_ahead_and_then_say_nothing_keep_nobody_out() {
    attack(Attack::Expect, 110);
}

#[test]
fn thousands_that_wait_for_a_go_ahead_and_then_say_nothing_keep_nobody_out() {
    attack(Attack::Expect, 5_000);
}

#[test]
fn large_answers_that_are_hardly_read_keep_nobody_out() {
    attack(Attack::Download, 110);
}

#[test]
fn thousands_of_large_answers_that_are_hardly_read_keep_nobody_out() {
    attack(Attack::Download, 5_000);
}

#[test]
fn slow_pages_of_another_upstream_keep_nobody_out() {
    attack(Attack::OtherUpstream, 110);
}

#[test]
fn thousands_of_slow_pages_of_another_upstream_keep_nobody_out() {
    attack(Attack::OtherUpstream, 5_000);
}

#[test]
fn clients_that_asked_and_went_away_keep_nobody_out() {
    attack(Attack::Gone, 110);
}

#[test]
fn thousands_that_asked_and_went_away_keep_nobody_out() {
    attack(Attack::Gone, 5_000);
}

#[test]
fn forward_requests_to_a_tarpit_keep_nobody_out() {
    attack(Attack::Tarpit, 110);
}

#[test]
fn thousands_of_forward_requests_to_a_tarpit_keep_nobody_out() {
    attack(Attack::Tarpit, 5_000);
}

#[test]
fn a_thousand_requests_of_one_address_in_line_keep_nobody_waiting() {
    let _machine = alone();
    let backend = Backend::start();
    let subject = Subject::start(defaults(Attack::Gone, &backend.url(), ""));
    let opening = "GET /late/400 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mob = Mob::new(subject.address(), 1_200, opening);
    subject.wait_for_metric("ringway_pool_waiting_requests", |count| count > 500);
    let victims = Victims::start(subject.address(), 4, Duration::from_millis(20));
    victims.stop_after(Duration::from_secs(3)).expect_served();
    drop(mob);
    subject.expect_home();
}

#[test]
fn a_post_takes_no_connection_to_an_origin_before_its_body_begins() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(defaults(Attack::Upload, &backend.url(), ""));
    let head = "POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let mut clients: Vec<_> = (0..20).map(|_| subject.send(head)).collect();
    subject.wait_for_phase("exchange", 20);
    // The worker has been through all of them when it answers somebody who came later.
    subject.send("GET /page HTTP/1.1\r\nHost: a\r\n\r\n").expect_status(200);
    assert_eq!(backend.requests(), 1, "requests without a body went to the origin");
    assert!(backend.open() <= 1, "{} connections to the origin", backend.open());
    for client in &mut clients {
        client.send(vec![b'x'; 100_000]).expect_status(200);
    }
    drop(clients);
    subject.expect_home();
}
