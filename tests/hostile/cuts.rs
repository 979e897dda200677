//! Connections that are ended by the admin API, or by a drain whose time is up, at every point at
//! which they may be waiting.
//!
//! An end that was acknowledged must come to pass, and soon: a wait that does not look whether it
//! was cut before it slept would go on, and hand the client its answer seconds later.

use crate::backend::Backend;
use crate::mob::Mob;
use crate::subject::{Subject, shared};
use crate::support::{Client, Setup, Target, Wire, show, wait_until};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// What the client is in the middle of when it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    HalfHead,
    WaitForAnswer,
    WaitForPool,
    WaitForConnection,
    Upload,
    UploadToADeafOrigin,
    UnreadDownload,
    StalledAnswer,
    PipelinedAnswers,
    Tunnel,
    UnreadTunnel,
}

const POINTS: [Point; 11] = [
    Point::HalfHead,
    Point::WaitForAnswer,
    Point::WaitForPool,
    Point::WaitForConnection,
    Point::Upload,
    Point::UploadToADeafOrigin,
    Point::UnreadDownload,
    Point::StalledAnswer,
    Point::PipelinedAnswers,
    Point::Tunnel,
    Point::UnreadTunnel,
];

/// An end that takes longer has not come from the cut. Answers come after that.
const SOON: Duration = Duration::from_millis(2_500);
const LATE: &str = "GET /late/4000 HTTP/1.1\r\nHost: a\r\n\r\n";

/// A client at the point, and who must be kept alive with it.
struct Scene {
    client: Client,
    _others: Mob,
    _far: Option<Wire>,
    _listener: Option<Target>,
}

fn setup(backend: &Backend, point: Point) -> Setup {
    let connections = if point == Point::WaitForPool { 1 } else { 100 };
    Setup::forward()
        .upstream("origin", &[&backend.url()], "")
        .set("pool.max_connections", connections)
        .set("pool.max_idle", 1)
        .set("timeouts.pool", "4s")
}

/// The other end of `WaitForConnection` never accepts.
fn scene(subject: &Subject, backend: &Backend, point: Point, hole: &str) -> Scene {
    let mut client = Client::with_small_window(subject.address());
    let mut others = Mob(Vec::new());
    let (mut far, mut listener) = (None, None);
    let seen = backend.requests();
    let wait_for_origin = || {
        wait_until("the origin has the request", || backend.requests() > seen);
    };
    match point {
        Point::HalfHead => drop(client.send("GET / HTTP/1.1\r\nHo")),
        Point::WaitForAnswer => {
            client.send(LATE);
            wait_for_origin();
        }
        Point::WaitForPool => {
            others = Mob::new(subject.address(), 1, "GET /silent HTTP/1.1\r\nHost: a\r\n\r\n");
            wait_for_origin();
            client.send(LATE);
            subject.wait_for_metric("ringway_pool_waiting_requests", |count| count == 1);
        }
        Point::WaitForConnection => {
            client.send(format!("GET http://{hole}/ HTTP/1.1\r\nHost: {hole}\r\n\r\n"));
            subject.wait_for_phase("exchange", 1);
        }
        Point::Upload => {
            client.send("POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhalf");
            wait_for_origin();
        }
        Point::UploadToADeafOrigin => {
            client.send("POST /busy/60000 HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
            client.send_until_stalled(&vec![b'x'; 50_000_000], Duration::from_millis(150));
        }
        Point::UnreadDownload => {
            client.send("GET /large/50000000 HTTP/1.1\r\nHost: a\r\n\r\n");
            wait_for_origin();
        }
        Point::StalledAnswer => {
            client.send("GET /stall HTTP/1.1\r\nHost: a\r\n\r\n");
            client.read_until("half");
        }
        Point::PipelinedAnswers => {
            let many = "GET /large/4000 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(4_000);
            client.send_until_stalled(many.as_bytes(), Duration::from_millis(150));
        }
        Point::Tunnel | Point::UnreadTunnel => {
            let target = Target::new();
            client.tunnel(target.address());
            let mut wire = target.accept();
            if point == Point::UnreadTunnel {
                wire.send_until_stalled(&vec![b'x'; 30_000_000], Duration::from_millis(150));
            }
            (far, listener) = (Some(wire), Some(target));
        }
    }
    Scene { client, _others: others, _far: far, _listener: listener }
}

/// The client's connection ends, and what it got before is no answer that came later.
#[track_caller]
fn expect_cut(scene: &mut Scene, point: Point, started: Instant) {
    let (bytes, _) = scene.client.read_to_end();
    let took = started.elapsed();
    assert!(took < SOON, "{point:?}: ended after {took:?} with {}", show(&bytes));
    let is_answered = bytes.starts_with(b"HTTP/1.1 200");
    let may_have_begun = matches!(point, Point::UnreadDownload | Point::PipelinedAnswers);
    assert!(!is_answered || may_have_begun, "{point:?}: answered after its end: {}", show(&bytes));
}

/// An address at which connections are neither taken nor refused.
fn blackhole() -> crate::support::Blackhole {
    crate::support::Blackhole::new()
}

#[test]
fn the_admin_api_ends_a_connection_wherever_it_waits() {
    let _machine = shared();
    let hole = blackhole();
    for point in POINTS {
        let backend = Backend::start();
        let subject = Subject::start(setup(&backend, point));
        let mut scene = scene(&subject, &backend, point, &hole.address().to_string());
        let own = scene.client.local().to_string();
        let all = subject.admin.connections();
        let id = all.iter().find(|(_, peer, _)| *peer == own).expect("it is listed").0;
        let started = Instant::now();
        subject.admin.end(id);
        expect_cut(&mut scene, point, started);
        drop(scene);
        subject.expect_home();
    }
}

#[test]
fn a_drain_whose_time_is_up_ends_a_connection_wherever_it_waits() {
    let _machine = shared();
    let hole = blackhole();
    for point in POINTS {
        let backend = Backend::start();
        let mut subject =
            Subject::start(setup(&backend, point).set("server.drain_timeout", "200ms"));
        let mut scene = scene(&subject, &backend, point, &hole.address().to_string());
        let started = Instant::now();
        subject.signal(Signal::SIGTERM);
        expect_cut(&mut scene, point, started);
        subject.expect_orderly_end();
        let took = started.elapsed();
        assert!(took < SOON, "{point:?}: the process ended after {took:?}");
    }
}

#[test]
fn fifty_connections_that_are_ended_at_once_all_end() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let mob = Mob::new(subject.address(), 50, "GET /stall HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("the origin has the requests", || backend.requests() == 50);
    let ids = subject.wait_for_phase("exchange", 50);
    for id in ids {
        subject.admin.end(id);
    }
    mob.wait_until_ended(50, SOON);
    subject.expect_home();
}
