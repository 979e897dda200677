//! Honest clients that are slow for good reasons, and what is done for their sake.
//!
//! The rules that keep the slow from holding up others must not hit those whom nobody waits for:
//! long pauses of either side go on, streams do not use up the pool, and downloads that read are
//! finished however many others wait. At the limit of clients those that rest make room.

use crate::backend::{Backend, UPLOAD_BYTES};
use crate::mob::Mob;
use crate::subject::{Subject, alone, shared};
use crate::support::{Client, Setup, wait_until};
use crate::victims::Victims;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

fn defaults(backend: &Backend) -> Setup {
    Setup::to_url(&backend.url()).set("buffers.chunks_per_worker", 32)
}

/// Longer than any time limit that could be meant for somebody who is broken.
const PAUSE: Duration = Duration::from_secs(25);

#[test]
fn pauses_of_twenty_five_seconds_end_nothing_that_nobody_waits_for() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(defaults(&backend));
    let lines = || {
        let head = "POST /page HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut client = subject.send(head);
        let started = Instant::now();
        while started.elapsed() < PAUSE {
            client.send("5\r\nline\n\r\n");
            thread::sleep(Duration::from_secs(3));
        }
        client.send("0\r\n\r\n").expect_status(200);
    };
    let download = || {
        let mut client = Client::with_small_window(subject.address());
        client.send("GET /large/20000000 HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_head().expect("a head").expect_status(200);
        thread::sleep(PAUSE);
        let came = client.discard(20_000_000);
        assert_eq!(came, 20_000_000, "the paused download was cut");
    };
    let upload = || {
        let path = format!("/busy/{}", PAUSE.as_millis());
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {UPLOAD_BYTES}\r\n");
        let mut client = subject.send(head + "\r\n");
        client.stream().set_write_timeout(Some(PAUSE * 2)).unwrap();
        client.send(vec![b'x'; UPLOAD_BYTES]);
        client.expect_status(200);
    };
    thread::scope(|scope| {
        let all = [scope.spawn(lines), scope.spawn(download), scope.spawn(upload)];
        let names = ["a line every 3 s", "the paused download", "the upload to a busy origin"];
        let failed: Vec<_> =
            names.into_iter().zip(all).filter_map(|(n, t)| t.join().err().map(|_| n)).collect();
        assert!(failed.is_empty(), "ended: {failed:?}");
    });
    subject.expect_home();
}

#[test]
fn a_hundred_event_streams_do_not_stop_the_next_page() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(defaults(&backend));
    let streams = Mob::new(subject.address(), 100, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("all of them stream", || backend.requests() == 100);
    // From then on they count as long answers.
    thread::sleep(Duration::from_secs(11));
    let victims = Victims::start(subject.address(), 4, Duration::from_millis(20));
    victims.stop_after(Duration::from_secs(2)).expect_served();
    assert_eq!(streams.ended(), 0, "streams were cut for the sake of pages that had room");
    drop(streams);
    subject.expect_home();
}

#[test]
fn a_hundred_honest_downloads_and_one_who_waits_cost_nobody_his_connection() {
    const LENGTH: usize = 4_000_000;
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(defaults(&backend));
    let request = format!("GET /large/{LENGTH} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut downloads: Vec<_> = (1..=100)
        .map(|number| {
            let address = IpAddr::from(Ipv4Addr::new(127, 0, 1, number));
            let mut client = Client::connect_from(address, subject.address());
            client.send(&request);
            client.read_head().expect("a head").expect_status(200);
            (client, 0)
        })
        .collect();
    let waiter = {
        let address = subject.address();
        thread::spawn(move || {
            let started = Instant::now();
            wait_until("the one who waits is served", || {
                let own = IpAddr::from(Ipv4Addr::new(127, 0, 0, 9));
                let mut client = Client::connect_from(own, address);
                client.send("GET /page HTTP/1.1\r\nHost: a\r\n\r\n");
                client.read_response().status() == 200
            });
            started.elapsed()
        })
    };
    // About 600 KB/s each.
    while downloads.iter().any(|(_, got)| *got < LENGTH) {
        for (client, got) in downloads.iter_mut().filter(|(_, got)| *got < LENGTH) {
            let piece = (LENGTH - *got).min(60_000);
            let came = client.read_up_to(piece).len();
            assert_eq!(came, piece, "a download was cut after {got} bytes");
            *got += came;
        }
        thread::park_timeout(Duration::from_millis(80));
    }
    let delay = waiter.join().expect("served");
    eprintln!("the one who waits was served after {delay:?}");
    drop(downloads);
    subject.expect_home();
}

#[test]
fn at_the_limit_of_clients_those_that_have_rested_longest_make_room() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(defaults(&backend).set("limits.clients", 50));
    let page = "GET /page HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut busy = subject.send("GET /late/3000 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut resting: Vec<_> = (0..49)
        .map(|_| {
            let mut client = subject.send(page);
            client.expect_status(200);
            client
        })
        .collect();
    subject.wait_for_metric("ringway_clients_resting", |count| count == 49);
    let mut newcomers: Vec<_> = (0..10).map(|_| subject.send(page)).collect();
    for client in &mut newcomers {
        client.expect_status(200);
    }
    for client in &mut resting[..10] {
        client.expect_closed();
    }
    // Those that are younger were not needed.
    for client in &mut resting[20..] {
        client.send(page).expect_status(200);
    }
    busy.expect_status(200);
    drop((busy, resting, newcomers));
    subject.expect_home();
}

#[test]
fn thousands_that_rest_at_the_limit_of_clients_keep_nobody_out() {
    let _machine = alone();
    let backend = Backend::start();
    let subject = Subject::start(defaults(&backend).set("limits.clients", 2_000));
    let mut resting = Vec::new();
    for _ in 0..20 {
        let mob = Mob::new(subject.address(), 100, "GET /page HTTP/1.1\r\nHost: a\r\n\r\n");
        for mut stream in &mob.0 {
            stream.set_nonblocking(false).unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        }
        resting.extend(mob.0);
    }
    subject.wait_for_metric("ringway_clients_resting", |count| count >= 1_990);
    let victims = Victims::on_new_connections(subject.address(), 4, Duration::from_millis(10));
    victims.stop_after(Duration::from_secs(2)).expect_served();
    drop(resting);
    subject.expect_home();
}
