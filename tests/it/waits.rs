//! One way to wait: what a connection waits for ends when somebody decides so, when its time is up
//! or when the peer has gone, and never by turning in circles.
//!
//! Each attack is made with plain sockets, and what it costs is asked of the kernel: processor time
//! and threads of the proxy's process. (`Proxy` checks the figures of the last line of its log.)

use crate::support::{
    self, Arrival, Blackhole, Client, Expected, GET, Gate, NameServer, OK, Origin, Proxy, Setup,
    Target, Wire, has_own_mounts, pattern, wait_until,
};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, send};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

/// More than all sockets and buffers between two ends can hold.
const MUCH: usize = 50_000_000;

/// What a wait may cost: a core that turns in circles takes a second per second.
const CPU_MAX: Duration = Duration::from_millis(400);

/// Checks that what happens from here to the end of its life costs hardly any processor time.
struct Thrift<'a> {
    proxy: &'a Proxy,
    before: Duration,
    threads: usize,
}

impl<'a> Thrift<'a> {
    fn watch(proxy: &'a Proxy) -> Self {
        Self { proxy, before: proxy.processor_time(), threads: proxy.threads() }
    }

    #[track_caller]
    fn check(self) {
        let spent = self.proxy.processor_time().saturating_sub(self.before);
        assert!(spent < CPU_MAX, "{spent:?} of processor time");
        let threads = self.proxy.threads();
        assert!(threads <= self.threads + 4, "{threads} threads, once {}", self.threads);
    }
}

/// The default, with a line for each exchange.
fn proxy_to(origin: &Origin) -> Proxy {
    Setup::to(origin).set("log.access", true).start()
}

/// An origin whose answers are larger than anything can hold.
fn endless() -> Origin {
    Origin::start(|mut peer| {
        while peer.next_request().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n"));
            peer.send(pattern(MUCH));
        }
    })
}

/// An origin that takes requests and says nothing.
fn mute() -> Origin {
    Origin::start(|mut peer| {
        peer.expect_request();
        peer.hold();
    })
}

#[test]
fn a_client_that_half_closes_and_does_not_read_has_gone() {
    let origin = endless();
    let proxy = proxy_to(&origin);
    let mut client = Client::with_small_window(proxy.address());
    client.send(GET).half_close();
    let thrift = Thrift::watch(&proxy);
    origin.wait_for("the end of the connection", |seen| {
        seen.connections.len() == 1 && seen.open() == 0
    });
    proxy.wait_for_log(&["client_gone"]);
    thrift.check();
    assert!(client.read_cut_response().body.len() < MUCH);
}

#[test]
fn a_client_that_half_closes_and_does_not_read_is_given_its_time_and_no_more() {
    let origin = endless();
    let proxy = Setup::to(&origin)
        .set("log.access", true)
        .set("server.half_close", "keep")
        .set("timeouts.client_write", "1500ms")
        .start();
    let mut client = Client::with_small_window(proxy.address());
    client.send(GET).half_close();
    let (thrift, began) = (Thrift::watch(&proxy), Instant::now());
    origin.wait_for("the end of the connection", |seen| {
        seen.connections.len() == 1 && seen.open() == 0
    });
    assert!(began.elapsed() > Duration::from_millis(1_400), "{:?}", began.elapsed());
    proxy.wait_for_log(&["client_write_timeout"]);
    thrift.check();
    assert!(client.read_cut_response().body.len() < MUCH);
}

#[test]
fn a_client_that_half_closes_and_reads_gets_much_at_a_usable_pace() {
    let origin = endless();
    let proxy = Setup::to(&origin).set("log.access", true).set("server.half_close", "keep").start();
    let mut client = proxy.send(GET);
    client.half_close();
    let began = Instant::now();
    client.read_response().expect_body(pattern(MUCH));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_client_that_half_closes_while_it_waits_has_gone_at_once() {
    let origin = mute();
    let proxy = proxy_to(&origin);
    let mut client = proxy.send(GET);
    origin.wait_for("the request", |seen| seen.requests.len() == 1);
    let began = Instant::now();
    client.half_close();
    origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    proxy.wait_for_log(&["client_gone"]);
    client.expect_closed();
}

/// Bytes that come often enough leave no time in which the client would be waited for.
#[test]
fn a_client_that_half_closes_during_a_stream_of_events_has_gone() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // The pace of the origin, until nobody listens.
        while peer.is_quiet_for(Duration::from_millis(50)) {
            peer.send("6\r\nevent\n\r\n");
        }
    });
    let proxy = proxy_to(&origin);
    let mut client = proxy.send(GET);
    client.read_until("event");
    client.half_close();
    origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    proxy.wait_for_log(&["client_gone"]);
}

#[test]
fn a_client_that_half_closes_while_it_waits_for_the_pool_leaves_the_queue() {
    let origin = mute();
    let proxy = Setup::to(&origin).set("pool.max_connections", 1).set("timeouts.pool", "1h");
    let proxy = proxy.set("log.access", true).start();
    let holder = proxy.send(GET);
    origin.wait_for("the request", |seen| seen.requests.len() == 1);
    let mut waiting = proxy.send(GET);
    waiting.half_close();
    waiting.expect_closed();
    proxy.wait_for_log(&["client_gone"]);
    drop(holder);
}

#[test]
fn a_half_closed_tunnel_whose_receiver_does_not_read_ends_when_its_time_is_up() {
    let bytes = pattern(MUCH);
    for is_client in [true, false] {
        let proxy =
            Setup::forward().set("timeouts.tunnel_idle", "1500ms").set("log.access", true).start();
        let target = Target::new();
        let mut client = proxy.tunnel(target.address());
        let mut far = target.accept();
        let (receiver, sender): (&mut Wire, &mut Wire) =
            if is_client { (&mut client, &mut far) } else { (&mut far, &mut client) };
        receiver.half_close();
        sender.expect_end(Arrival::End);
        let sent = sender.send_until_stalled(&bytes, Duration::from_millis(300));
        assert!(sent < MUCH);
        let (thrift, began) = (Thrift::watch(&proxy), Instant::now());
        proxy.wait_for_log(&["write_timeout"]);
        assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
        thrift.check();
        let (bytes, end) = receiver.read_to_end();
        assert!(bytes.len() < MUCH && end == Arrival::Reset, "{end:?}");
    }
}

#[test]
fn a_half_closed_tunnel_carries_much_at_a_usable_pace() {
    let proxy = Setup::forward().start();
    let target = Target::new();
    let mut client = proxy.tunnel(target.address());
    let mut far = target.accept();
    client.half_close();
    far.expect_end(Arrival::End);
    let sending = thread::spawn(move || far.send(pattern(MUCH)));
    let began = Instant::now();
    client.expect_stream(&pattern(MUCH));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    sending.join().unwrap();
    client.expect_orderly_close();
}

/// Answers that go out whole, one after another, to a client that takes none of them.
#[test]
fn pipelined_answers_to_a_half_closed_client_end_by_a_cut_by_time_and_by_a_drain() {
    let body = pattern(30_000);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let origin = Origin::answering([head.as_bytes(), &body].concat());
    let stalled = |proxy: &Proxy| {
        let first = origin.seen().requests.len();
        let mut answered = first;
        let mut client = Client::with_small_window(proxy.address());
        client.send_until_stalled(GET.repeat(2_000).as_bytes(), Duration::from_millis(500));
        client.half_close();
        // All of them may have gone into the kernel before the first is answered.
        wait_until("an answer that the client does not take", || {
            thread::park_timeout(Duration::from_millis(100));
            let before = std::mem::replace(&mut answered, origin.seen().requests.len());
            before == answered && answered > first
        });
        client
    };
    let setup = || Setup::to(&origin).set("log.access", true).set("server.half_close", "keep");
    let proxy = setup().start();
    let mut client = stalled(&proxy);
    let thrift = Thrift::watch(&proxy);
    thread::park_timeout(Duration::from_secs(1));
    proxy.delete_connection(client.local());
    proxy.wait_for_log(&["stopping"]);
    thrift.check();
    assert_eq!(client.read_to_end().1, Arrival::Reset);

    let proxy = setup().set("timeouts.client_write", "1s").start();
    let mut client = stalled(&proxy);
    let thrift = Thrift::watch(&proxy);
    proxy.wait_for_log(&["client_write_timeout"]);
    thrift.check();
    assert_eq!(client.read_to_end().1, Arrival::Reset);

    let mut proxy = setup().set("server.drain_timeout", "300ms").start();
    let mut client = stalled(&proxy);
    proxy.signal(Signal::SIGTERM);
    proxy.expect_orderly_end();
    assert_eq!(client.read_to_end().1, Arrival::Reset);
}

/// Ends the connection of `client` and checks that it hears of it without any delay.
#[track_caller]
fn cut(proxy: &Proxy, client: &mut Client) {
    let began = Instant::now();
    proxy.delete_connection(client.local());
    let (received, end) = client.read_to_end();
    assert_eq!((received.len(), end), (0, Arrival::Reset));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn a_cut_ends_a_connection_in_whatever_it_waits_for() {
    let origin = mute();
    // For an answer, in the first moments and later.
    let proxy = Setup::to(&origin).set("pool.max_connections", 1).set("timeouts.pool", "1h");
    let proxy = proxy.set("timeouts.read", "1h").start();
    for pause_ms in [0, 100, 400, 1_500] {
        let before = origin.seen().requests.len();
        let mut client = proxy.send(GET);
        origin.wait_for("the request", |seen| seen.requests.len() == before + 1);
        thread::park_timeout(Duration::from_millis(pause_ms));
        cut(&proxy, &mut client);
        origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    }
    // For a connection to the origin, and in the middle of a body.
    let holder = proxy.send(GET);
    origin.wait_for("the request", |seen| seen.requests.len() == 5);
    for pause_ms in [50, 500] {
        let mut waiting = proxy.send(GET);
        thread::park_timeout(Duration::from_millis(pause_ms));
        cut(&proxy, &mut waiting);
    }
    drop(holder);
    let mut client = proxy.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nbody");
    client.wait_until_read();
    cut(&proxy, &mut client);
}

#[test]
fn a_cut_ends_a_connection_that_connects() {
    let hole = Blackhole::new();
    let proxy = Setup::to_url(&hole.url()).set("timeouts.connect", "1h").start();
    let mut client = proxy.send(GET);
    thread::park_timeout(Duration::from_millis(300));
    cut(&proxy, &mut client);
    let proxy = Setup::forward().set("timeouts.connect", "1h").start();
    for request in [support::connect(hole.address()), support::get(hole.address())] {
        let mut client = proxy.send(request);
        thread::park_timeout(Duration::from_millis(300));
        cut(&proxy, &mut client);
    }
}

#[test]
fn a_cut_ends_a_connection_whose_question_is_not_answered() {
    let (origin, judge) = (Origin::answering(OK), mute());
    let proxy = Setup::new()
        .upstream("origin", &[&origin.url()], "")
        .upstream("judge", &[&judge.url()], "")
        .route(
            "",
            "/",
            "origin",
            "hooks = { forward_auth = { upstream = \"judge\", timeout = \"60s\" } }",
        )
        .start();
    let mut client = proxy.send(GET);
    judge.wait_for("the question", |seen| seen.requests.len() == 1);
    cut(&proxy, &mut client);
}

#[test]
fn a_cut_ends_a_connection_that_looks_a_name_up() {
    if !has_own_mounts() {
        return;
    }
    let is_asked = Gate::default();
    let server = NameServer::start({
        let is_asked = is_asked.clone();
        move |_| {
            is_asked.open();
            None
        }
    });
    let Some(names) = server else {
        eprintln!("skipped: nobody may listen as a name server here");
        return;
    };
    let proxy = Setup::forward().with_name_server(&names).set("dns.timeout", "1m").start();
    let mut client = proxy.send(support::get("silent.test:80"));
    is_asked.wait();
    cut(&proxy, &mut client);
}

#[test]
fn a_drain_cuts_a_request_that_has_just_been_sent() {
    let origin = mute();
    let mut proxy = Setup::to(&origin).set("server.drain_timeout", 0).start();
    let mut client = proxy.send(GET);
    origin.wait_for("the request", |seen| seen.requests.len() == 1);
    proxy.signal(Signal::SIGTERM);
    proxy.expect_orderly_end();
    assert_eq!(client.read_to_end().1, Arrival::Reset);
}

/// Sends `bytes`, the last of them as urgent data.
fn send_urgent(wire: &Wire, bytes: &[u8]) {
    let mut sent = 0;
    while sent < bytes.len() {
        sent +=
            send(wire.stream().as_raw_fd(), &bytes[sent..], MsgFlags::MSG_OOB).expect("a socket");
    }
}

#[test]
fn an_urgent_byte_in_an_answer_is_a_byte_like_others() {
    const AT: usize = 300_000;
    let body = pattern(1_000_000);
    let origin = Origin::start({
        let body = body.clone();
        move |mut peer| {
            peer.expect_request();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.send(&body[..AT]);
            send_urgent(&peer, &body[AT..=AT]);
            peer.send(&body[AT + 1..]);
            peer.hold();
        }
    });
    for fixed in [false, true] {
        let proxy = Setup::to(&origin).set("buffers.fixed_operations", fixed).start();
        let thrift = Thrift::watch(&proxy);
        proxy.get().expect_body(&*body);
        thrift.check();
    }
}

#[test]
fn urgent_bytes_in_a_tunnel_are_all_passed_on_in_their_order() {
    for is_silent_in_between in [false, true] {
        let proxy = Setup::forward().start();
        let target = Target::new();
        let mut client = proxy.tunnel(target.address());
        let mut far = target.accept();
        let thrift = Thrift::watch(&proxy);
        let bytes = pattern(4_000_000);
        let sending = thread::spawn({
            let bytes = bytes.clone();
            move || {
                for piece in bytes.chunks(500_000) {
                    far.send(&piece[..piece.len() - 1]);
                    send_urgent(&far, &piece[piece.len() - 1..]);
                    if is_silent_in_between {
                        far.wait_until_read();
                    }
                }
                far.half_close();
                far
            }
        });
        client.expect_stream(&bytes);
        client.expect_end(Arrival::End);
        thrift.check();
        drop(sending.join().unwrap());
    }
}

/// The client goes while an urgent byte is what comes next.
#[test]
fn an_urgent_byte_keeps_nobody_busy_when_its_client_has_gone() {
    let origin = Origin::start(|mut peer| {
        peer.expect_request();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n"));
        peer.send(pattern(300_000));
        send_urgent(&peer, b"!");
        peer.hold();
    });
    let proxy = proxy_to(&origin);
    let mut client = proxy.send(GET);
    client.read_head().expect("a head");
    client.read_exact(300_000);
    let thrift = Thrift::watch(&proxy);
    thread::park_timeout(Duration::from_secs(1));
    client.reset();
    origin.wait_for("the end of the connection", |seen| seen.open() == 0);
    thread::park_timeout(Duration::from_millis(500));
    thrift.check();
}

#[test]
fn urgent_bytes_behind_the_beginning_of_a_head_make_no_threads() {
    let origin = Origin::untouchable();
    let proxy = Setup::to(&origin).set("timeouts.client_head", "1m").start();
    let thrift = Thrift::watch(&proxy);
    let clients: Vec<_> = (0..20).map(|_| proxy.send("GET / HTTP/1.1\r\nX: ")).collect();
    for _ in 0..200 {
        for client in &clients {
            send_urgent(client, b"x");
        }
        // The pace of the clients: each byte is a wake-up of its own.
        thread::park_timeout(Duration::from_millis(5));
    }
    let threads = proxy.threads();
    assert!(threads <= thrift.threads + 4, "{threads} threads, once {}", thrift.threads);
}

#[test]
fn silent_streams_by_fixed_operations_leave_chunks_for_others() {
    const STREAMS: usize = 80;
    let origin = Origin::start(|mut peer| {
        while let Some(request) = peer.next_request() {
            if request.target() == "/quick" {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n");
                peer.send(pattern(500_000));
                continue;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbeginning");
            return peer.hold();
        }
    });
    let proxy = Setup::to(&origin)
        .set("buffers.fixed_operations", true)
        .set("server.workers", 1)
        .set("pool.max_connections", 200)
        .start();
    let mut streams: Vec<_> = (0..STREAMS).map(|_| proxy.send(GET)).collect();
    for stream in &mut streams {
        stream.read_until("beginning");
    }
    let thrift = Thrift::watch(&proxy);
    let mut client = proxy.send("GET /quick HTTP/1.1\r\nHost: test\r\n\r\n");
    client.read_response().expect_body(pattern(500_000));
    thrift.check();
}

/// An origin that is busy for longer than `timeouts.write`, and a client that pauses its download.
#[test]
fn who_is_slow_may_be_slow_while_nobody_waits() {
    let goes_on = Gate::default();
    let origin = Origin::start({
        let goes_on = goes_on.clone();
        move |mut peer| {
            let mut request = peer.expect_head();
            goes_on.wait();
            peer.read_body(&mut request, Expected::Request);
            assert!(request.is_whole());
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n"));
            peer.send(pattern(MUCH));
            peer.hold();
        }
    });
    let proxy = Setup::to(&origin).set("timeouts.write", "200ms").start();
    let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {MUCH}\r\n\r\n");
    let mut client = Client::with_small_window(proxy.address());
    client.send(head);
    let bytes = pattern(MUCH);
    let sent = client.send_until_stalled(&bytes, Duration::from_secs(1));
    goes_on.open();
    client.send(&bytes[sent..]);
    client.read_head().expect("a head").expect_status(200);
    thread::park_timeout(Duration::from_secs(1));
    assert!(client.read_exact(MUCH) == bytes);
}

/// What a transfer waits for in vain is counted.
#[test]
fn waits_in_vain_are_counted() {
    let origin = endless();
    let proxy = Setup::to(&origin).set("log.access", true).set("server.half_close", "keep").start();
    let mut client = Client::with_small_window(proxy.address());
    client.send(GET).half_close();
    wait_until("it is counted", || {
        let metrics = proxy.admin("GET", "/metrics");
        let name = "ringway_fruitless_wakes_total";
        let counts = metrics.lines().filter(|line| line.starts_with(name));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() > 0.0
    });
    client.reset();
}
