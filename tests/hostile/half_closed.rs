//! Clients and targets that end their own direction and then do not read.
//!
//! The kernel reports the half-close at every wait for room, so whoever waits for room anew each
//! time spins, and a time limit that starts anew each time never ends it. Such peers must cost no
//! processor time, end in their time, and keep nobody else from being served.

use crate::backend::Backend;
use crate::mob::Mob;
use crate::subject::{Subject, shared};
use crate::support::{Client, Setup, Target, wait_until};
use crate::victims::Victims;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const LARGE: &str = "GET /large/50000000 HTTP/1.1\r\nHost: a\r\n\r\n";

/// More than kernels take in for somebody who does not read.
const FLOOD_BYTES: usize = 30_000_000;

fn wait_for_answers(mob: &Mob, least: usize) {
    wait_until("the answers have begun", || {
        mob.0.iter().filter(|stream| matches!(stream.peek(&mut [0]), Ok(1))).count() >= least
    });
}

#[test]
fn one_client_that_half_closes_and_does_not_read_its_answer_is_gone_and_costs_nothing() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let mob = Mob::with_small_windows(subject.address(), 1, LARGE);
    wait_for_answers(&mob, 1);
    mob.half_close();
    subject.expect_rest();
    // It is given up although its socket stays open.
    subject.expect_home();
    wait_until("the origin's connection was given up", || backend.open() == 0);
    drop(mob);
}

#[test]
fn a_hundred_and_five_of_them_keep_nobody_from_being_served() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let mob = Mob::with_small_windows(subject.address(), 105, LARGE);
    wait_for_answers(&mob, 90);
    mob.half_close();
    let victims = Victims::start(subject.address(), 4, Duration::from_millis(20));
    victims.stop_after(Duration::from_secs(2)).expect_served();
    subject.expect_rest();
    subject.expect_home();
    drop(mob);
}

#[test]
fn clients_that_end_their_side_while_their_answers_are_awaited_give_the_origin_up_at_once() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let mob = Mob::new(subject.address(), 90, "GET /silent HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("the origin has the requests", || backend.requests() == 90);
    let started = Instant::now();
    mob.half_close();
    wait_until("the origin's connections were given up", || backend.open() == 0);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    mob.wait_until_ended(90, Duration::from_secs(3));
    subject.expect_home();
}

#[test]
fn half_closed_clients_that_are_kept_are_ended_when_they_have_not_read_for_long() {
    let _machine = shared();
    let backend = Backend::start();
    let setup = Setup::to_url(&backend.url())
        .set("server.half_close", "keep")
        .set("timeouts.client_write", "3s");
    let subject = Subject::start(setup);
    let mob = Mob::with_small_windows(subject.address(), 20, LARGE);
    wait_for_answers(&mob, 20);
    mob.half_close();
    subject.expect_rest();
    subject.expect_home();
    drop(mob);
}

#[test]
fn a_half_closed_client_that_is_kept_and_reads_gets_its_whole_answer() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()).set("server.half_close", "keep"));
    for path in ["/late/300", "/large/5000000"] {
        let mut client = subject.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.half_close();
        let answer = client.read_response();
        answer.expect_status(200);
        client.expect_orderly_close();
    }
    subject.expect_home();
}

/// Who of a tunnel ends his direction, in which he has said nothing, and does not read the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closer {
    Client,
    Target,
}

#[test]
fn a_tunnel_of_which_one_side_half_closed_and_does_not_read_ends_in_its_time() {
    let _machine = shared();
    let setup =
        Setup::forward().set("timeouts.tunnel_idle", "4s").set("timeouts.tunnel_half_closed", "4s");
    let subject = Subject::start(setup);
    let flood = vec![b'x'; FLOOD_BYTES];
    for (closer, do_both) in [Closer::Client, Closer::Target]
        .into_iter()
        .flat_map(|closer| [(closer, false), (closer, true)])
    {
        let target = Target::new();
        let mut near = Client::with_small_window(subject.address());
        near.tunnel(target.address());
        let mut far = target.accept();
        let (quiet, loud) = match closer {
            Closer::Client => (&mut *near, &mut far),
            Closer::Target => (&mut far, &mut *near),
        };
        assert!(loud.send_until_stalled(&flood, Duration::from_millis(100)) < FLOOD_BYTES);
        quiet.half_close();
        if do_both {
            // Behind all that is still unread.
            loud.half_close();
        }
        subject.expect_rest();
        subject.wait_for_metric("ringway_tunnels", |count| count == 0);
    }
    subject.expect_home();
}

/// A client that asked for far more answers than kernels take, half-closed and reads none. The
/// requests are few enough to arrive, so that its end does.
fn pipelining(subject: &Subject) -> Client {
    let requests = "GET /large/8000 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1_000);
    let mut client = Client::with_small_window(subject.address());
    client.send_until_stalled(requests.as_bytes(), Duration::from_millis(300));
    client.half_close();
    client
}

#[test]
fn pipelined_requests_of_a_client_that_half_closed_and_does_not_read_are_given_up() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let client = pipelining(&subject);
    subject.expect_rest();
    subject.expect_home();
    drop(client);
}

#[test]
fn the_admin_api_ends_a_client_that_pipelines_half_closed_and_does_not_read() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()).set("server.half_close", "keep"));
    let client = pipelining(&subject);
    subject.expect_rest();
    for id in subject.wait_for_phase("exchange", 1) {
        subject.admin.end(id);
    }
    let started = Instant::now();
    subject.expect_home();
    // Far below `timeouts.client_write`, which would end it as well.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop(client);
}

#[test]
fn a_drain_ends_a_client_that_pipelines_half_closed_and_does_not_read() {
    let _machine = shared();
    let backend = Backend::start();
    let setup = Setup::to_url(&backend.url())
        .set("server.half_close", "keep")
        .set("server.drain_timeout", "500ms");
    let mut subject = Subject::start(setup);
    let client = pipelining(&subject);
    subject.wait_for_phase("exchange", 1);
    let started = Instant::now();
    subject.signal(Signal::SIGTERM);
    subject.expect_orderly_end();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    drop(client);
}
