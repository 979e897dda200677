//! Thousands of connections to which the same thing happens at the same moment.
//!
//! What a worker does for one connection it may not do for ten thousand in one go while somebody
//! else waits, and what one costs may not grow with how many others there are.

use crate::backend::Backend;
use crate::mob::Mob;
use crate::subject::{Subject, alone};
use crate::support::{Setup, wait_until};
use crate::victims::Victims;
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

const CROWD: usize = 9_000;

/// Twenty times what a turn of the loop may take, for a busy machine and a build without optimizer.
const SLOWEST: Duration = Duration::from_secs(1);

const PAGE: &str = "GET /page HTTP/1.1\r\nHost: a\r\n\r\n";

fn setup(backend: &Backend) -> Setup {
    Setup::to_url(&backend.url()).set("limits.clients", 12_000)
}

#[track_caller]
fn wait_for_clients(subject: &Subject, count: usize) {
    subject.wait_for_metric("ringway_clients", |clients| clients >= count as u64);
}

/// A crowd whose every connection has been served once and rests.
#[track_caller]
fn resting(subject: &Subject, count: usize) -> Mob {
    let mut all = Vec::new();
    while all.len() < count {
        // So many at a time that each finds a connection to the origin before it gives up.
        let mob = Mob::new(subject.address(), 500.min(count - all.len()), PAGE);
        for mut stream in &mob.0 {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let count = stream.read(&mut [0; 1024]).expect("an answer");
            assert!(count > 0, "an answer");
            stream.set_nonblocking(true).unwrap();
        }
        all.extend(mob.0);
    }
    subject.wait_for_metric("ringway_clients_resting", |resting| resting >= count as u64);
    Mob(all)
}

#[test]
fn nine_thousand_clients_that_expire_together_do_not_silence_their_worker() {
    let _machine = alone();
    let backend = Backend::start();
    let subject = Subject::start(setup(&backend).set("timeouts.client_head", "6s"));
    let mob = Mob::new(subject.address(), CROWD, "GET /pa");
    wait_for_clients(&subject, CROWD);
    // While it stands still the time of every one of them runs out.
    subject.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_millis(6_500));
    subject.signal(Signal::SIGCONT);
    let victims = Victims::start(subject.address(), 2, Duration::from_millis(10));
    mob.wait_until_ended(CROWD, Duration::from_secs(20));
    let outcome = victims.stop_after(Duration::from_secs(1));
    outcome.expect_served();
    outcome.expect_slowest_below(SLOWEST);
    drop(mob);
    subject.expect_home();
}

#[test]
fn a_forced_cleanup_of_thousands_of_resting_clients_does_not_silence_their_worker() {
    let _machine = alone();
    let backend = Backend::start();
    let subject = Subject::start(setup(&backend));
    let mob = resting(&subject, 7_500);
    let victims = Victims::on_new_connections(subject.address(), 2, Duration::from_millis(5));
    let (status, body) = subject.admin.ask("POST", "/admin/cleanup?level=forced");
    assert_eq!(status, 200, "{body}");
    mob.wait_until_ended(7_500, Duration::from_secs(10));
    let outcome = victims.stop_after(Duration::from_millis(700));
    outcome.expect_slowest_below(SLOWEST);
    outcome.expect_served();
    drop(mob);
    subject.expect_home();
}

#[test]
fn a_drain_with_thousands_resting_answers_what_is_under_way_and_ends() {
    let _machine = alone();
    let backend = Backend::start();
    let mut subject = Subject::start(setup(&backend));
    let mob = resting(&subject, 6_000);
    let seen = backend.requests();
    let mut client = subject.send("GET /late/700 HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("the origin has the request", || backend.requests() > seen);
    let started = Instant::now();
    subject.signal(Signal::SIGTERM);
    client.expect_status(200);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    subject.expect_orderly_end();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(mob.ended(), 6_000);
}

#[test]
fn thousands_that_leave_at_once_with_a_reset_do_not_silence_their_worker() {
    let _machine = alone();
    let backend = Backend::start();
    let subject = Subject::start(setup(&backend));
    let mob = Mob::new(subject.address(), CROWD, "");
    wait_for_clients(&subject, CROWD);
    let victims = Victims::start(subject.address(), 2, Duration::from_millis(5));
    mob.reset();
    let outcome = victims.stop_after(Duration::from_millis(1_500));
    outcome.expect_served();
    outcome.expect_slowest_below(SLOWEST);
    subject.expect_home();
}

#[test]
fn nine_thousand_clients_in_step_are_all_answered() {
    let _machine = alone();
    let backend = Backend::start();
    let setup = setup(&backend).set("timeouts.pool", "20s").set("limits.clients", 12_000);
    let subject = Subject::start(setup);
    let mob = Mob::new(subject.address(), CROWD, "");
    wait_for_clients(&subject, CROWD);
    mob.send(PAGE.as_bytes());
    let mut answered = 0;
    for mut stream in &mob.0 {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = [0; 1024];
        let count = stream.read(&mut answer).expect("an answer");
        answered += usize::from(answer[..count].starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(answered, CROWD);
    // A connection, its task, and a head buffer while it had a request.
    subject.expect_resident_below(CROWD * 32 * 1024);
    drop(mob);
    subject.expect_home();
}

/// Processor time of one request, in microseconds, of clients that ask in step.
#[track_caller]
fn request_us(subject: &Subject, clients: &[TcpStream], rounds: usize) -> f64 {
    let before = subject.cpu_seconds();
    for _ in 0..rounds {
        for mut client in clients {
            // Late enough to be waited for, beside a look at whether the client goes away.
            client.write_all(b"GET /late/5 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
        for mut client in clients {
            assert!(client.read(&mut [0; 1024]).unwrap() > 0);
        }
    }
    let count = u32::try_from(clients.len() * rounds).expect("few");
    (subject.cpu_seconds() - before) * 1e6 / f64::from(count)
}

/// The same of clients that ask once and then rest again, all of which is part of its cost.
#[track_caller]
fn request_and_rest_us(subject: &Subject, clients: &[TcpStream]) -> f64 {
    let before = subject.cpu_seconds();
    request_us(subject, clients, 1);
    // A connection rests after a second of silence, and nothing announces that for free.
    thread::sleep(Duration::from_secs(3));
    let count = u32::try_from(clients.len()).expect("few");
    (subject.cpu_seconds() - before) * 1e6 / f64::from(count)
}

#[test]
fn a_request_costs_the_same_however_many_others_rest() {
    let _machine = alone();
    let backend = Backend::start();
    let subject = Subject::start(setup(&backend));
    let connect = |_| TcpStream::connect(subject.address()).unwrap();
    let busy: Vec<_> = (0..64).map(connect).collect();
    let paced: Vec<_> = (0..1_000).map(connect).collect();
    request_us(&subject, &busy, 10);
    request_and_rest_us(&subject, &paced);
    let few = (request_us(&subject, &busy, 60), request_and_rest_us(&subject, &paced));
    let mob = resting(&subject, 8_000);
    let many = (request_us(&subject, &busy, 60), request_and_rest_us(&subject, &paced));
    let figures = format!("us of processor time alone and beside 8000: {few:.0?}, {many:.0?}");
    eprintln!("{figures}");
    // The promise is a tenth; a busy machine measures worse than that.
    assert!(many.0 < few.0 * 1.5 && many.1 < few.1 * 1.5, "{figures}");
    drop((busy, paced, mob));
    subject.expect_home();
}
