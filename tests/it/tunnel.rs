//! CONNECT: what it takes to get a tunnel, what a tunnel carries, and every way in which one ends.
//!
//! The client speaks to the proxy, and the test holds the other end of the tunnel as well. What one
//! end sends, the other receives to the byte; how one ends, the other ends too; and when both have
//! ended, nothing of the tunnel is left (`Proxy` checks the figures of the last line of its log).

use crate::support::{
    Arrival, Blackhole, Client, GET, Gate, NameServer, OK, Origin, Proxy, Refusal, Setup, Target,
    Wire, connect, get, has_own_mounts, is_of_http1, logged, pattern, wait_until,
};
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// More than all sockets and buffers between two ends can hold.
const MUCH: usize = 50_000_000;

/// Long enough for what is wrong to show, in tests that promise that nothing happens.
const A_WHILE: Duration = Duration::from_millis(500);

/// Configurations in which bytes are moved in different ways: as by default, by operations that
/// hold what they move, through pipes from the first byte on, and through memory that is nearly
/// used up.
const WAYS: [fn(Setup) -> Setup; 4] = [
    |setup| setup,
    |setup| setup.set("buffers.fixed_operations", true),
    |setup| setup.set("buffers.operation_chunks", 1),
    |setup| setup.set("buffers.operation_chunks", 1).set("buffers.chunks_per_worker", 1),
];

/// Both ends of a tunnel through `proxy`.
#[track_caller]
fn tunnel(proxy: &Proxy) -> (Client, Wire) {
    let target = Target::new();
    let client = proxy.tunnel(target.address());
    (client, target.accept())
}

/// Says something at each end and hears it at the other.
#[track_caller]
fn talk(client: &mut Client, far: &mut Wire) {
    client.send("to the target");
    far.expect_stream(b"to the target");
    far.send("to the client");
    client.expect_stream(b"to the client");
}

/// Waits until the proxy takes no more connections, which is the first thing that a drain does.
#[track_caller]
fn wait_until_closed_to_new_clients(proxy: &Proxy) {
    wait_until("the proxy refuses connections", || TcpStream::connect(proxy.address()).is_err());
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_adds_none() {
    let proxy = Setup::forward().start();
    let (mut client, mut far) = tunnel(&proxy);
    for round in 0..100 {
        let bytes = pattern(round * 7);
        client.send(&bytes);
        far.expect_stream(&bytes);
        far.send(&bytes);
        client.expect_stream(&bytes);
    }
    client.half_close();
    far.expect_end(Arrival::End);
    drop(far);
    client.expect_orderly_close();
}

#[test]
fn what_looks_like_http_inside_a_tunnel_is_not_for_the_proxy() {
    let proxy = Setup::forward().start();
    let (mut client, mut far) = tunnel(&proxy);
    let requests = [GET, &connect("a:1"), &get("a"), "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"];
    for request in requests {
        client.send(request);
        far.expect_stream(request.as_bytes());
    }
    for answer in [OK, "HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 100 Go\r\n\r\n"] {
        far.send(answer);
        client.expect_stream(answer.as_bytes());
    }
}

#[test]
fn what_the_client_sends_ahead_arrives_first_and_once() {
    let proxy = Setup::forward().start();
    for length in [1, 100, 20_000, 1_000_000] {
        let early = pattern(length);
        let target = Target::new();
        let mut client = proxy.connect();
        let mut sender = client.another_handle();
        thread::scope(|scope| {
            scope.spawn(|| {
                sender.send([connect(target.address()).as_bytes(), &early].concat());
                sender.send("late");
            });
            let mut far = target.accept();
            far.expect_stream(&early);
            far.expect_stream(b"late");
            far.send("answer");
            client.expect_tunnel().expect_stream(b"answer");
        });
    }
}

#[test]
fn a_client_that_sends_all_it_has_at_once_may_stop_sending_at_once() {
    let proxy = Setup::forward().start();
    let target = Target::new();
    let mut client = proxy.send(connect(target.address()) + "all of it");
    client.half_close();
    let mut far = target.accept();
    far.expect_stream(b"all of it");
    far.expect_end(Arrival::End);
    far.send("and an answer");
    drop(far);
    client.expect_tunnel().expect_stream(b"and an answer");
    client.expect_orderly_close();
}

#[test]
fn what_the_target_says_first_follows_the_answer() {
    let origin = Origin::start(|mut peer| {
        peer.send("220 welcome\r\n");
        peer.echo();
    });
    let proxy = Setup::forward().start();
    for _ in 0..20 {
        let mut client = proxy.tunnel(origin.address());
        client.expect_stream(b"220 welcome\r\n");
        client.send("hello").expect_stream(b"hello");
    }
}

#[test]
fn a_head_in_pieces_makes_a_tunnel_too() {
    let proxy = Setup::forward().start();
    let target = Target::new();
    let head = connect(target.address());
    for cut in [1, 7, 8, head.len() - 3, head.len() - 1] {
        let mut client = proxy.send(&head[..cut]);
        client.wait_until_read();
        client.send(&head[cut..]).send("x").expect_tunnel();
        target.accept().expect_stream(b"x");
    }
}

#[test]
fn the_target_decides_and_not_host() {
    let proxy = Setup::forward().start();
    let (target, other) = (Target::new(), Target::new());
    for host in [other.address().to_string(), "nowhere.invalid".to_owned(), String::from("a:1")] {
        let head = format!("CONNECT {} HTTP/1.1\r\nHost: {host}\r\n\r\n", target.address());
        let mut client = proxy.send(head);
        client.expect_tunnel();
        talk(&mut client, &mut target.accept());
    }
    other.expect_nobody();
}

#[test]
fn connect_needs_no_host_and_may_say_that_it_has_no_body() {
    let proxy = Setup::forward().start();
    let target = Target::new();
    for fields in ["", "Host:\r\n", "Host: \r\nContent-Length: 0\r\n", "Content-Length: 00\r\n"] {
        let mut client =
            proxy.send(format!("CONNECT {} HTTP/1.1\r\n{fields}\r\n", target.address()));
        client.expect_tunnel();
        talk(&mut client, &mut target.accept());
    }
}

#[test]
fn an_old_client_gets_a_tunnel_too() {
    let proxy = Setup::forward().start();
    let target = Target::new();
    for fields in ["", "Host: a\r\n", "User-Agent: old\r\nProxy-Connection: keep-alive\r\n"] {
        let mut client =
            proxy.send(format!("CONNECT {} HTTP/1.0\r\n{fields}\r\n", target.address()));
        client.expect_tunnel();
        talk(&mut client, &mut target.accept());
    }
}

#[test]
fn a_target_may_be_an_ipv6_address() {
    let target = Target::at((Ipv6Addr::LOCALHOST, 0).into());
    let proxy = Setup::forward().start();
    let port = target.address().port();
    for authority in [format!("[::1]:{port}"), format!("[0:0:0:0:0:0:0:1]:{port}")] {
        let mut client = proxy.tunnel(authority);
        talk(&mut client, &mut target.accept());
    }
}

#[test]
fn connect_that_speaks_of_a_body_is_refused_whole() {
    if is_of_http1("fields of a connection") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Setup::forward().start();
    for framing in [
        "Content-Length: 4",
        "Content-Length: 0\r\nContent-Length: 0",
        "Content-Length: x",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
    ] {
        let address = origin.address();
        let head = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n{framing}\r\n\r\n");
        // Neither a body nor a request may be seen in what follows.
        let behind = format!("body{}", get(address));
        let response = proxy.send(head + &behind).read_response();
        assert!(matches!(response.status(), 400 | 501), "{framing}: {response}");
        response.expect_field("Connection", "close");
    }
    assert_eq!(origin.seen().connections.len(), 0);
}

#[test]
fn connect_without_a_port_or_with_a_bad_one_is_refused() {
    let origin = Origin::untouchable();
    let proxy = Setup::forward().start();
    let own = origin.address().port();
    for target in [
        "localhost".to_owned(),
        "localhost:".to_owned(),
        "localhost:0".to_owned(),
        "localhost:65536".to_owned(),
        format!("localhost:+{own}"),
        format!("localhost:{own}x"),
        format!("localhost:00000{own}"),
        format!(":{own}"),
        own.to_string(),
        format!("//localhost:{own}"),
        format!("http://localhost:{own}"),
        format!("localhost:{own}/"),
        format!("user@localhost:{own}"),
        format!("user:password@localhost:{own}"),
        format!("local%68ost:{own}"),
        format!("localhost,{own}"),
        format!("::1:{own}"),
        format!("[::1:{own}"),
        format!("[::1]{own}"),
        format!("[::1%25lo]:{own}"),
        format!("[localhost]:{own}"),
        format!("[127.0.0.1]:{own}"),
        format!("caf\u{e9}.test:{own}"),
        "*".to_owned(),
        "/".to_owned(),
    ] {
        let mut client =
            proxy.send(format!("CONNECT {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        client.send(get(origin.address()));
        client.expect_refusal(400, "Bad Request", "http_request_error");
    }
}

#[test]
fn methods_are_spelled_in_capitals() {
    if is_of_http1("a target that is none") {
        return;
    }
    let origin = Origin::untouchable();
    let proxy = Setup::forward().start();
    for method in ["connect", "Connect", "CONNECTX"] {
        let head = connect(origin.address()).replace("CONNECT", method);
        proxy.send(head).expect_refusal(400, "Bad Request", "http_request_error");
    }
}

#[test]
fn a_connection_that_has_carried_requests_may_become_a_tunnel() {
    let origin = Origin::answering(OK);
    let proxy = Setup::forward().upstream("origin", &[&origin.url()], "").start();
    let target = Target::new();
    let mut client = proxy.send(GET);
    client.expect_status(200).send(get(origin.address())).expect_status(200);
    client.tunnel(target.address());
    talk(&mut client, &mut target.accept());
    // All at once.
    let requests = [GET, &get(origin.address()), &connect(target.address()), GET].concat();
    let mut client = proxy.send(requests);
    client.expect_status(200).expect_status(200).expect_tunnel();
    let mut far = target.accept();
    far.expect_stream(GET.as_bytes());
    talk(&mut client, &mut far);
}

#[test]
fn a_target_that_refuses_is_a_bad_gateway() {
    let refusal = Refusal::new();
    let proxy = Setup::forward().start();
    let mut client = proxy.send(connect(refusal.address()));
    client.expect_refusal(502, "Bad Gateway", "connection_refused");
}

#[test]
fn a_target_that_does_not_answer_is_a_gateway_timeout() {
    let blackhole = Blackhole::new();
    let proxy = Setup::forward().set("timeouts.connect", "300ms").start();
    let mut client = proxy.send(connect(blackhole.address()));
    client.expect_refusal(504, "Gateway Timeout", "connection_timeout");
}

#[test]
fn a_name_that_does_not_exist_is_a_bad_gateway() {
    let proxy = Setup::forward().start();
    for name in ["nowhere.invalid:443", "a.b.nowhere.invalid.:443"] {
        let mut client = proxy.send(connect(name));
        client.expect_refusal(502, "Bad Gateway", "dns_error");
    }
}

#[test]
fn nothing_that_follows_a_refused_connect_is_taken_for_a_request() {
    let (origin, refusal) = (Origin::untouchable(), Refusal::new());
    let blackhole = Blackhole::new();
    let address = origin.address();
    let proxy = Setup::forward()
        .upstream("origin", &[&origin.url()], "")
        .set("timeouts.connect", "300ms")
        .set("forward.deny", ["denied.test"])
        .start();
    for (head, status) in [
        (connect(refusal.address()), 502),
        (connect(blackhole.address()), 504),
        (connect("nowhere.invalid:1"), 502),
        (connect("denied.test:443"), 403),
        (connect("169.254.169.254:80"), 403),
        (connect("nothing"), 400),
        (format!("CONNECT {address} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"), 400),
    ] {
        for behind in [GET.to_owned(), get(address), connect(address)] {
            // Together with the head, and after it.
            proxy.send(head.clone() + &behind).expect_status(status).expect_closed();
            let mut client = proxy.send(&head);
            client.expect_status(status).send(&behind).expect_closed();
        }
    }
    assert_eq!(origin.seen().connections.len(), 0);
}

#[test]
fn connect_is_not_offered_where_nobody_enabled_it() {
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send(connect(origin.address()) + GET);
    client.expect_refusal(501, "Not Implemented", "http_request_denied");
}

#[test]
fn the_client_may_stop_sending_and_go_on_receiving() {
    let proxy = Setup::forward().start();
    let (mut client, mut far) = tunnel(&proxy);
    talk(&mut client, &mut far);
    client.send("the last").half_close();
    far.expect_stream(b"the last");
    far.expect_end(Arrival::End);
    let answer = pattern(5_000_000);
    thread::scope(|scope| {
        scope.spawn(|| client.expect_stream(&answer));
        far.send(&answer);
    });
    drop(far);
    client.expect_orderly_close();
}

#[test]
fn the_target_may_stop_sending_and_go_on_receiving() {
    let proxy = Setup::forward().start();
    let (mut client, mut far) = tunnel(&proxy);
    talk(&mut client, &mut far);
    far.send("the last");
    far.half_close();
    client.expect_stream(b"the last");
    client.expect_end(Arrival::End);
    let upload = pattern(5_000_000);
    thread::scope(|scope| {
        scope.spawn(|| far.expect_stream(&upload));
        client.send(&upload);
    });
    client.half_close();
    far.expect_end(Arrival::End);
}

#[test]
fn a_target_that_closes_at_once_leaves_a_client_that_knows() {
    let origin = Origin::start(drop);
    let proxy = Setup::forward().start();
    for _ in 0..20 {
        let mut client = proxy.tunnel(origin.address());
        client.expect_end(Arrival::End);
    }
}

#[test]
fn both_ends_may_stop_at_once() {
    let proxy = Setup::forward().start();
    let before = proxy.open_files();
    for _ in 0..20 {
        let (mut client, mut far) = tunnel(&proxy);
        client.half_close();
        far.half_close();
        client.expect_end(Arrival::End);
        far.expect_end(Arrival::End);
    }
    proxy.wait_for_open_files(before);
}

#[test]
fn whoever_closes_behind_its_last_byte_loses_none() {
    let proxy = Setup::forward().start();
    let bytes = pattern(5_000_000);
    let (mut client, mut far) = tunnel(&proxy);
    thread::scope(|scope| {
        scope.spawn(|| far.expect_stream(&bytes));
        client.send(&bytes);
        drop(client);
    });
    far.expect_end(Arrival::End);
    let (mut client, mut far) = tunnel(&proxy);
    thread::scope(|scope| {
        scope.spawn(|| client.expect_stream(&bytes));
        far.send(&bytes);
        drop(far);
    });
    client.expect_end(Arrival::End);
}

#[test]
fn what_was_said_before_a_reset_is_not_lost() {
    if is_of_http1("a reset of a connection, which its last bytes outlive") {
        return;
    }
    let proxy = Setup::forward().start();
    let (mut client, mut far) = tunnel(&proxy);
    far.send("the last words");
    far.wait_until_read();
    far.reset();
    client.expect_stream(b"the last words");
    client.expect_end(Arrival::Reset);
    let (mut client, mut far) = tunnel(&proxy);
    client.send("the last words").wait_until_read();
    client.reset();
    far.expect_stream(b"the last words");
    far.expect_end(Arrival::Reset);
}

#[test]
fn an_answer_to_a_client_that_still_sends_is_not_lost_with_the_connection() {
    // A target that refuses an upload closes what it has not read, which is a reset.
    let origin = Origin::start(|mut peer| {
        peer.read_exact(100_000);
        peer.send("too much");
    });
    let proxy = Setup::forward().start();
    for _ in 0..10 {
        let mut client = proxy.tunnel(origin.address());
        client.send(pattern(20_000_000));
        client.expect_stream(b"too much");
        client.read_to_end();
    }
}

/// Sends `bytes` from one thread and expects `other` on this one, then the same for the ends.
#[track_caller]
fn exchange_streams(wire: &mut Wire, bytes: &[u8], other: &[u8]) {
    let mut sender = wire.another_handle();
    thread::scope(|scope| {
        scope.spawn(move || {
            sender.send(bytes);
            sender.half_close();
        });
        wire.expect_stream(other);
        wire.expect_end(Arrival::End);
    });
}

#[test]
fn a_hundred_mebibytes_pass_both_ways_at_once() {
    const EACH: usize = 100 << 20;
    let proxy = Setup::forward().set("log.access", true).start();
    let before = proxy.open_files();
    let (mut client, mut far) = tunnel(&proxy);
    let bytes = pattern(EACH + 1_000);
    let (up, down) = (&bytes[..EACH], &bytes[1_000..]);
    thread::scope(|scope| {
        scope.spawn(|| exchange_streams(&mut far, down, up));
        exchange_streams(&mut client, up, down);
    });
    let line = proxy.wait_for_log(&["method=CONNECT"]);
    let head = connect(far.local()).len();
    assert_eq!(logged(&line, "bytes_in"), (head + EACH).to_string());
    let answered = logged(&line, "bytes_out").parse::<usize>().unwrap() - EACH;
    assert!((20..200).contains(&answered), "{line}");
    // Pipes among them.
    proxy.wait_for_open_files(before);
}

#[test]
fn a_hundred_mebibytes_pass_in_each_direction_alone() {
    const MUCH: usize = 100 << 20;
    let proxy = Setup::forward().start();
    let bytes = pattern(MUCH);
    for is_upward in [true, false] {
        let (mut client, mut far) = tunnel(&proxy);
        let (sender, receiver) =
            if is_upward { (&mut *client, &mut far) } else { (&mut far, &mut *client) };
        thread::scope(|scope| {
            scope.spawn(|| {
                sender.send(&bytes);
                sender.half_close();
            });
            receiver.expect_stream(&bytes);
            receiver.expect_end(Arrival::End);
        });
        // The other direction is as it was.
        receiver.send("thanks");
        sender.expect_stream(b"thanks");
    }
}

#[test]
fn pieces_of_every_size_keep_their_order() {
    let proxy = Setup::forward().start();
    let (mut client, mut far) = tunnel(&proxy);
    let bytes = pattern(3_000_000);
    let mut sizes = [1, 2, 100, 4_096, 65_535, 65_536, 65_537, 300_000, 1_000_000].iter().cycle();
    let mut rest = &bytes[..];
    thread::scope(|scope| {
        scope.spawn(|| far.expect_stream(&bytes));
        while !rest.is_empty() {
            let (piece, others) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            client.send(piece).wait_until_read();
            rest = others;
        }
    });
}

#[test]
fn a_slow_receiver_holds_up_its_sender_and_loses_nothing() {
    let proxy =
        Setup::forward().set("timeouts.write", "100ms").set("timeouts.read", "100ms").start();
    let bytes = pattern(MUCH);
    let target = Target::new();
    let mut client = Client::with_small_window(proxy.address());
    client.tunnel(target.address());
    let mut far = target.accept();
    let taken = far.send_until_stalled(&bytes, A_WHILE);
    assert!(taken < MUCH, "all of it went somewhere, though nobody read");
    // Stalled for longer than an exchange may be.
    thread::scope(|scope| {
        scope.spawn(|| {
            far.send(&bytes[taken..]);
            far.half_close();
        });
        client.expect_stream(&bytes);
        client.expect_end(Arrival::End);
    });

    let (mut client, mut far) = tunnel(&proxy);
    let taken = client.send_until_stalled(&bytes, A_WHILE);
    assert!(taken < MUCH, "all of it went somewhere, though nobody read");
    thread::scope(|scope| {
        scope.spawn(|| {
            client.send(&bytes[taken..]);
            client.half_close();
        });
        far.expect_stream(&bytes);
        far.expect_end(Arrival::End);
    });
}

#[test]
fn receivers_of_every_pace_lose_nothing() {
    // One thread reads them all in turns, in pieces of every size, so that each of them is now
    // ahead of its sender and now behind it, and moved in all the ways that there are.
    const TUNNELS: usize = 6;
    const EACH: usize = 8_000_000;
    let bytes = pattern(EACH + TUNNELS);
    for way in WAYS {
        let proxy = way(Setup::forward()).start();
        let mut ends: Vec<_> = (0..TUNNELS).map(|_| tunnel(&proxy)).collect();
        thread::scope(|scope| {
            let mut receivers = Vec::new();
            for (number, (client, far)) in ends.iter_mut().enumerate() {
                let (up, down) =
                    (&bytes[number..number + EACH], &bytes[TUNNELS - number..][..EACH]);
                for (wire, own, other) in [(&mut **client, up, down), (far, down, up)] {
                    let mut sender = wire.another_handle();
                    scope.spawn(move || {
                        for (round, piece) in own.chunks(70_000 + number * 50_000).enumerate() {
                            sender.send(piece);
                            if round % 16 == number {
                                sender.wait_until_read();
                            }
                        }
                        sender.half_close();
                    });
                    receivers.push((wire, other));
                }
            }
            let mut sizes = [1, 1_000, 65_536, 200_000, 5, 1_500_000, 16_384].into_iter().cycle();
            while !receivers.is_empty() {
                receivers.retain_mut(|(wire, due)| {
                    let (now, later) = due.split_at(due.len().min(sizes.next().expect("a cycle")));
                    wire.expect_stream(now);
                    *due = later;
                    !due.is_empty() || {
                        wire.expect_end(Arrival::End);
                        false
                    }
                });
            }
        });
    }
}

#[test]
fn slow_receivers_leave_room_for_others() {
    // More of them than there are chunks, in both directions.
    const STALLED: usize = 12;
    let bytes = pattern(MUCH);
    for way in WAYS {
        let proxy = way(Setup::forward()).start();
        let mut ends: Vec<_> = (0..STALLED).map(|_| tunnel(&proxy)).collect();
        thread::scope(|scope| {
            for (client, far) in &mut ends {
                scope.spawn(|| assert!(client.send_until_stalled(&bytes, A_WHILE) < MUCH));
                scope.spawn(|| assert!(far.send_until_stalled(&bytes, A_WHILE) < MUCH));
            }
        });
        let before = proxy.resident_bytes();
        let (mut client, mut far) = tunnel(&proxy);
        let bytes = &bytes[..5_000_000];
        thread::scope(|scope| {
            scope.spawn(|| exchange_streams(&mut far, bytes, bytes));
            exchange_streams(&mut client, bytes, bytes);
        });
        assert!(proxy.resident_bytes() < before + 8_000_000, "stalled tunnels hold memory");
        for (client, far) in ends {
            client.reset();
            drop(far);
        }
    }
}

#[test]
fn a_reset_of_one_end_is_a_reset_at_the_other() {
    let proxy = Setup::forward().start();
    let before = proxy.open_files();
    for is_busy in [false, true] {
        let (mut client, mut far) = tunnel(&proxy);
        if is_busy {
            talk(&mut client, &mut far);
        }
        client.reset();
        far.expect_end(Arrival::Reset);
        let (mut client, mut far) = tunnel(&proxy);
        if is_busy {
            talk(&mut client, &mut far);
        }
        far.reset();
        client.expect_end(Arrival::Reset);
    }
    proxy.wait_for_open_files(before);
}

#[test]
fn a_reset_of_a_tunnel_at_rest_is_a_reset_at_the_other() {
    let proxy = Setup::forward().start();
    let before = proxy.open_files();
    // A tunnel in which nothing moves for over a second waits in another way.
    let rested = || {
        let (mut client, mut far) = tunnel(&proxy);
        talk(&mut client, &mut far);
        assert!(far.is_quiet_for(Duration::from_millis(1_500)));
        (client, far)
    };
    let (client, mut far) = rested();
    client.reset();
    far.expect_end(Arrival::Reset);
    let (mut client, far) = rested();
    far.reset();
    client.expect_end(Arrival::Reset);
    let (mut client, mut far) = rested();
    talk(&mut client, &mut far);
    drop(client);
    far.expect_end(Arrival::End);
    drop(far);
    proxy.wait_for_open_files(before);
}

/// Waits for a reset of a connection whose other end had stopped sending: a read would go on saying
/// that.
#[track_caller]
fn wait_for_reset(wire: &Wire) {
    wait_until("the connection is reset", || {
        wire.stream().take_error().is_ok_and(|error| error.is_some())
    });
}

#[test]
fn a_reset_after_one_direction_has_ended_is_a_reset_at_the_other() {
    let proxy = Setup::forward().start();
    let (client, mut far) = tunnel(&proxy);
    client.half_close();
    far.expect_end(Arrival::End);
    client.reset();
    // What is sent towards nobody comes to nothing, and the sender learns why.
    far.send("x");
    wait_for_reset(&far);

    let (mut client, mut far) = tunnel(&proxy);
    client.half_close();
    far.expect_end(Arrival::End);
    far.send("half an ans");
    client.expect_stream(b"half an ans");
    far.reset();
    client.expect_end(Arrival::Reset);
}

#[test]
fn a_reset_after_one_direction_has_ended_is_noticed_in_silence() {
    if is_of_http1("a reset by who has ended its direction, which no stream can give unasked") {
        return;
    }
    let proxy = Setup::forward().set("timeouts.tunnel_half_closed", "1h").start();
    let (client, mut far) = tunnel(&proxy);
    client.half_close();
    far.expect_end(Arrival::End);
    client.reset();
    wait_for_reset(&far);

    let (mut client, far) = tunnel(&proxy);
    far.half_close();
    client.expect_end(Arrival::End);
    far.reset();
    wait_for_reset(&client);
}

#[test]
fn a_reset_in_the_middle_of_much_is_no_orderly_end() {
    let proxy = Setup::forward().start();
    let before = proxy.open_files();
    let bytes = pattern(MUCH);
    // The sender resets: the receiver must not take what it has for all there was.
    let (mut client, mut far) = tunnel(&proxy);
    assert!(far.send_until_stalled(&bytes, A_WHILE) < MUCH);
    far.reset();
    let (received, end) = client.read_to_end();
    assert!(received.len() < MUCH && end == Arrival::Reset, "{} bytes, {end:?}", received.len());
    let (client, mut far) = tunnel(&proxy);
    {
        let mut client = client;
        assert!(client.send_until_stalled(&bytes, A_WHILE) < MUCH);
        client.reset();
    }
    let (received, end) = far.read_to_end();
    assert!(received.len() < MUCH && end == Arrival::Reset, "{} bytes, {end:?}", received.len());

    // The receiver resets: the sender is told.
    let (client, mut far) = tunnel(&proxy);
    assert!(far.send_until_stalled(&bytes, A_WHILE) < MUCH);
    client.reset();
    far.expect_end(Arrival::Reset);
    let (mut client, far) = tunnel(&proxy);
    assert!(client.send_until_stalled(&bytes, A_WHILE) < MUCH);
    far.reset();
    client.expect_end(Arrival::Reset);
    proxy.wait_for_open_files(before);
}

#[test]
fn a_tunnel_in_which_nothing_moves_is_closed() {
    for way in WAYS {
        let setup = Setup::forward().set("timeouts.tunnel_idle", "500ms").set("log.access", true);
        let proxy = way(setup).start();
        let before = proxy.open_files();
        let (mut fresh, mut far_of_fresh) = tunnel(&proxy);
        let (mut used, mut far_of_used) = tunnel(&proxy);
        talk(&mut used, &mut far_of_used);
        fresh.expect_orderly_close();
        used.expect_orderly_close();
        far_of_fresh.expect_end(Arrival::End);
        far_of_used.expect_end(Arrival::End);
        let line = proxy.wait_for_log(&["method=CONNECT", "error=tunnel_idle"]);
        assert_eq!(logged(&line, "status"), "200");
        proxy.wait_for_open_files(before);
    }
}

#[test]
fn a_tunnel_in_which_one_side_speaks_is_not_idle() {
    let listen = |proxy: &Proxy, is_client_speaking: bool| {
        let (mut client, mut far) = tunnel(proxy);
        let (speaker, listener) =
            if is_client_speaking { (&mut *client, &mut far) } else { (&mut far, &mut *client) };
        // One and a half times the limit, in steps far below it.
        for _ in 0..20 {
            speaker.send("x");
            listener.expect_stream(b"x");
            assert!(listener.is_quiet_for(Duration::from_millis(300)));
        }
        listener.send("still there");
        speaker.expect_stream(b"still there");
    };
    let proxies = WAYS.map(|way| way(Setup::forward().set("timeouts.tunnel_idle", "4s")).start());
    thread::scope(|scope| {
        for proxy in &proxies {
            scope.spawn(|| listen(proxy, true));
            scope.spawn(|| listen(proxy, false));
        }
    });
}

#[test]
fn a_slow_but_steady_receiver_is_not_idle() {
    let proxy = Setup::forward().set("timeouts.tunnel_idle", "2s").start();
    let target = Target::new();
    let mut client = Client::with_small_window(proxy.address());
    client.tunnel(target.address());
    let mut far = target.accept();
    let bytes = pattern(20_000_000);
    thread::scope(|scope| {
        let mut sender = far.another_handle();
        let bytes = &bytes;
        scope.spawn(move || {
            sender.send(bytes);
            sender.half_close();
        });
        // The first ones over three seconds, in steps far below the limit.
        let (first, rest) = bytes.split_at(300_000);
        for piece in first.chunks(10_000) {
            client.expect_stream(piece);
            far.is_quiet_for(Duration::from_millis(100));
        }
        client.expect_stream(rest);
    });
    client.expect_end(Arrival::End);
}

#[test]
fn a_receiver_that_takes_nothing_is_not_waited_for_for_ever() {
    if is_of_http1("a connection that ends with its tunnel: what ends is the stream") {
        return;
    }
    let proxy = Setup::forward().set("timeouts.tunnel_idle", "1s").start();
    let before = proxy.open_files();
    let bytes = pattern(MUCH);
    let (mut client, mut far) = tunnel(&proxy);
    assert!(far.send_until_stalled(&bytes, A_WHILE) < MUCH);
    far.read_to_end();
    proxy.wait_for_open_files(before);
    // What it has must not look like all there was.
    let (received, end) = client.read_to_end();
    assert!(end == Arrival::Reset, "{end:?} after {} bytes", received.len());
}

#[test]
fn the_side_that_is_left_may_be_silent_for_less_long() {
    let proxy = Setup::forward()
        .set("timeouts.tunnel_half_closed", "500ms")
        .set("timeouts.tunnel_idle", "1h")
        .start();
    let before = proxy.open_files();
    let (mut client, mut far) = tunnel(&proxy);
    // It does not count before one side has ended, ...
    client.expect_quiet_for(Duration::from_millis(1_500));
    talk(&mut client, &mut far);
    client.half_close();
    far.expect_end(Arrival::End);
    // ... and then it does.
    client.expect_orderly_close();
    let (mut client, mut far) = tunnel(&proxy);
    far.half_close();
    client.expect_end(Arrival::End);
    far.expect_end(Arrival::End);
    drop((client, far));
    proxy.wait_for_open_files(before);
}

#[test]
fn the_side_that_is_left_may_speak_for_as_long_as_it_likes() {
    let proxy = Setup::forward().set("timeouts.tunnel_half_closed", "3s").start();
    let (mut client, mut far) = tunnel(&proxy);
    client.half_close();
    far.expect_end(Arrival::End);
    for _ in 0..15 {
        far.send("x");
        client.expect_stream(b"x");
        client.expect_quiet_for(Duration::from_millis(300));
    }
    drop(far);
    client.expect_orderly_close();
}

#[test]
fn what_bounds_an_exchange_does_not_bound_a_tunnel() {
    let proxy = Setup::forward()
        .set("timeouts.client_idle", "200ms")
        .set("timeouts.client_head", "200ms")
        .set("timeouts.read", "200ms")
        .set("timeouts.write", "200ms")
        .set("timeouts.client_write", "200ms")
        .set("limits.body_bytes", 1_000)
        .set("pool.idle_expiry", "200ms")
        .start();
    let (mut client, mut far) = tunnel(&proxy);
    for _ in 0..2 {
        client.expect_quiet_for(Duration::from_millis(1_500));
        talk(&mut client, &mut far);
    }
    let bytes = pattern(100_000);
    client.send(&bytes);
    far.expect_stream(&bytes);
}

#[test]
fn a_tunnel_goes_on_while_the_proxy_drains_and_ends_with_it() {
    let mut proxy = Setup::forward().start();
    let (mut client, mut far) = tunnel(&proxy);
    proxy.signal(Signal::SIGTERM);
    wait_until_closed_to_new_clients(&proxy);
    talk(&mut client, &mut far);
    client.half_close();
    far.expect_end(Arrival::End);
    far.send("the end");
    drop(far);
    client.expect_stream(b"the end");
    client.expect_orderly_close();
    // The drain may take an hour here: it ends with the tunnel.
    proxy.expect_orderly_end();
}

#[test]
fn the_end_of_the_drain_cuts_every_tunnel() {
    let mut proxy = Setup::forward().set("server.drain_timeout", "500ms").start();
    let bytes = pattern(MUCH);
    let mut idle = tunnel(&proxy);
    let mut resting = tunnel(&proxy);
    talk(&mut resting.0, &mut resting.1);
    let mut half_closed = tunnel(&proxy);
    half_closed.0.half_close();
    half_closed.1.expect_end(Arrival::End);
    let mut stalled = tunnel(&proxy);
    assert!(stalled.1.send_until_stalled(&bytes, A_WHILE) < MUCH);
    assert!(resting.1.is_quiet_for(Duration::from_millis(1_200)));
    proxy.signal(Signal::SIGTERM);
    proxy.expect_orderly_end();
    for (client, far) in [&mut idle, &mut resting] {
        client.expect_end(Arrival::Reset);
        far.expect_end(Arrival::Reset);
    }
    half_closed.0.expect_end(Arrival::Reset);
    // A cut stream must not look like a whole one.
    let (received, end) = stalled.0.read_to_end();
    assert!(received.len() < MUCH && end == Arrival::Reset, "{} bytes, {end:?}", received.len());
}

#[test]
fn a_second_signal_cuts_tunnels() {
    let mut proxy = Setup::forward().start();
    let (mut client, mut far) = tunnel(&proxy);
    proxy.signal(Signal::SIGTERM);
    wait_until_closed_to_new_clients(&proxy);
    proxy.signal(Signal::SIGTERM);
    client.expect_closed();
    far.read_to_end();
    proxy.expect_orderly_end();
}

#[test]
fn a_drain_does_not_wait_for_a_connect_that_gets_no_answer() {
    let blackhole = Blackhole::new();
    let mut proxy =
        Setup::forward().set("server.drain_timeout", "300ms").set("timeouts.connect", "1h").start();
    let mut client = proxy.send(connect(blackhole.address()));
    client.wait_until_read();
    proxy.signal(Signal::SIGTERM);
    client.expect_no_success();
    proxy.expect_orderly_end();
}

#[test]
fn a_drain_does_not_wait_for_a_name() {
    if !has_own_mounts() {
        return;
    }
    let Some(server) = NameServer::start(|_| None) else {
        eprintln!("skipped: this process may not listen on port 53");
        return;
    };
    let mut proxy = Setup::forward()
        .set("server.drain_timeout", "300ms")
        .set("dns.timeout", "1m")
        .with_name_server(&server)
        .start();
    let mut tunnel = proxy.send(connect("silent.test:443"));
    let mut request = proxy.send(get("silent.test"));
    tunnel.wait_until_read();
    request.wait_until_read();
    proxy.signal(Signal::SIGTERM);
    tunnel.expect_no_success();
    request.expect_no_success();
    proxy.expect_orderly_end();
}

#[test]
fn running_out_of_files_is_said_and_survived() {
    let proxy = Setup::forward().start();
    let target = Target::new();
    let (mut client, mut far) = tunnel(&proxy);
    let accepted = |_| {
        let client = proxy.send("CON");
        client.wait_until_read();
        client
    };
    let mut waiting: Vec<_> = (0..20).map(accepted).collect();
    // Numbers below the limit may be free still, but not so many.
    let Some(restore) = proxy.limit_open_files(proxy.open_files()) else {
        eprintln!("skipped: prlimit(1) of util-linux is not installed");
        return;
    };
    let refused = waiting.iter_mut().filter_map(|client| {
        client.send(&connect(target.address())["CON".len()..]);
        let answer = client.read_head().expect("an answer");
        (answer.status() != 200).then(|| answer.expect_status(503).clone())
    });
    assert!(refused.count() > 0, "all of them found a file");
    proxy.wait_for_log(&["open files"]);
    talk(&mut client, &mut far);
    restore();
    drop(waiting);
    proxy.tunnel(target.address());
}

#[test]
fn tunnels_have_a_limit_of_their_own() {
    let proxy = Setup::forward().set("limits.tunnels", 2).start();
    let target = Target::new();
    let (first, far_of_first) = tunnel(&proxy);
    let (mut second, mut far_of_second) = tunnel(&proxy);
    for _ in 0..3 {
        let mut client = proxy.send(connect(target.address()) + GET);
        client.expect_refusal(503, "Service Unavailable", "connection_limit_reached");
    }
    target.expect_nobody();
    talk(&mut second, &mut far_of_second);
    drop((first, far_of_first));
    // Its place is free as soon as both sides have gone.
    wait_until("there is room for a tunnel", || {
        let mut client = proxy.send(connect(target.address()));
        client.read_head().is_some_and(|answer| answer.status() == 200)
    });
}

#[test]
fn a_connect_that_failed_gives_its_place_back() {
    let (refusal, blackhole, target) = (Refusal::new(), Blackhole::new(), Target::new());
    let proxy = Setup::forward().set("limits.tunnels", 1).set("timeouts.connect", "200ms").start();
    for _ in 0..3 {
        proxy.send(connect(refusal.address())).expect_status(502).expect_closed();
        proxy.send(connect(blackhole.address())).expect_status(504).expect_closed();
        proxy.send(connect("nowhere.invalid:1")).expect_status(502).expect_closed();
        proxy.send(connect("224.0.0.1:1")).expect_status(403).expect_closed();
    }
    let mut client = proxy.tunnel(target.address());
    talk(&mut client, &mut target.accept());
}

#[test]
fn tunnels_take_no_connection_from_the_pool() {
    let origin = Origin::answering(OK);
    let proxy = Setup::forward()
        .upstream("origin", &[&origin.url()], "")
        .set("pool.max_connections", 1)
        .set("pool.max_idle", 1)
        .set("timeouts.pool", "200ms")
        .start();
    let mut ends: Vec<_> = (0..3).map(|_| tunnel(&proxy)).collect();
    proxy.get().expect_status(200);
    proxy.send(get(origin.address())).expect_status(200);
    for (client, far) in &mut ends {
        talk(client, far);
    }
}

#[test]
fn a_client_that_leaves_while_its_target_is_sought_leaves_nothing_behind() {
    let blackhole = Blackhole::new();
    let proxy = Setup::forward().set("timeouts.connect", "1s").start();
    let before = proxy.open_files();
    for end in [drop, Client::reset] {
        for _ in 0..5 {
            let client = proxy.send(connect(blackhole.address()));
            client.wait_until_read();
            end(client);
        }
    }
    proxy.wait_for_open_files(before);
}

#[test]
fn every_way_to_end_leaves_nothing_behind() {
    let proxy = Setup::forward()
        .set("server.workers", 2)
        .set("timeouts.tunnel_half_closed", "200ms")
        .start();
    tunnel(&proxy);
    let before = proxy.open_files();
    let bytes = pattern(2_000_000);
    let ends: [fn(Client, Wire); 8] = [
        |client, far| drop((client, far)),
        |client, far| drop((far, client)),
        |client, mut far| {
            drop(client);
            far.read_to_end();
        },
        |mut client, far| {
            drop(far);
            client.read_to_end();
        },
        |client, _far| client.reset(),
        |_client, far| far.reset(),
        // The side that is left never closes by itself.
        |client, mut far| {
            client.half_close();
            far.read_to_end();
        },
        |mut client, far| {
            far.half_close();
            client.read_to_end();
        },
    ];
    for end in ends {
        for is_full in [false, true] {
            for _ in 0..5 {
                let (mut client, mut far) = tunnel(&proxy);
                if is_full {
                    client.send_until_stalled(&bytes, Duration::from_millis(50));
                    far.send_until_stalled(&bytes, Duration::from_millis(50));
                }
                end(client, far);
            }
        }
    }
    proxy.wait_for_open_files(before);
}

/// What the proxy itself says of its tunnels: the bytes that they take, and how many are open.
#[track_caller]
fn open_tunnels(proxy: &Proxy) -> [usize; 2] {
    let text = proxy.admin("GET", "/health");
    let mut numbers = text.split("\"tunnels\":").skip(1).map(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no number: {text}"))
    });
    [numbers.next(), numbers.next()].map(|number| number.unwrap_or_else(|| panic!("no: {text}")))
}

#[test]
fn tunnels_are_counted_while_they_are_open() {
    let target = Target::new();
    let proxy = Setup::forward().start();
    assert_eq!(open_tunnels(&proxy), [0, 0]);
    let ends: Vec<_> = (0..3).map(|_| tunnel(&proxy)).collect();
    let mut half_closed = proxy.tunnel(target.address());
    half_closed.half_close();
    let mut far = target.accept();
    far.expect_end(Arrival::End);
    let [bytes, count] = open_tunnels(&proxy);
    assert!(count == 4 && bytes > 0, "{count} tunnels of {bytes} bytes");
    drop(far);
    half_closed.expect_orderly_close();
    wait_until("three tunnels are open", || open_tunnels(&proxy)[1] == 3);
    for (client, far) in ends {
        client.reset();
        drop(far);
    }
    wait_until("no tunnel is open", || open_tunnels(&proxy) == [0, 0]);
    proxy.send(connect("nowhere.invalid:1")).expect_status(502);
    assert_eq!(open_tunnels(&proxy), [0, 0]);
}

#[test]
fn many_tunnels_are_kept_apart() {
    const TUNNELS: usize = 60;
    let origin = Origin::echoing();
    let proxy = Setup::forward().set("server.workers", 2).start();
    let before = proxy.open_files();
    let bytes = pattern(1_000_000);
    thread::scope(|scope| {
        for number in 0..TUNNELS {
            let (proxy, origin, bytes) = (&proxy, &origin, &bytes[number * 1_000..]);
            scope.spawn(move || {
                let mut client = proxy.tunnel(origin.address());
                exchange_streams(&mut client, bytes, bytes);
            });
        }
    });
    proxy.wait_for_open_files(before);
}

#[test]
fn a_tunnel_is_one_line_of_the_access_log_at_its_end() {
    let proxy = Setup::forward().set("log.access", true).start();
    let target = Target::new();
    let mut client = proxy.send(connect(target.address()) + "early");
    client.expect_tunnel();
    let mut far = target.accept();
    far.expect_stream(b"early");
    talk(&mut client, &mut far);
    let source = client.local();
    let is_told = || proxy.log_lines().iter().any(|line| line.contains("method=CONNECT"));
    assert!(!is_told(), "a tunnel was recorded before its end");
    drop(client);
    far.expect_end(Arrival::End);
    drop(far);
    let line = proxy.wait_for_log(&["method=CONNECT"]);
    assert_eq!(logged(&line, "client"), source.to_string());
    assert_eq!(logged(&line, "target"), target.address().to_string());
    assert_eq!(logged(&line, "origin"), target.address().to_string());
    assert_eq!((logged(&line, "status"), logged(&line, "error")), ("200", "-"));
    let sent = connect(target.address()).len() + "earlyto the target".len();
    assert_eq!(logged(&line, "bytes_in"), sent.to_string());
    let answer = "HTTP/1.1 200 Connection established\r\n\r\nto the client";
    assert_eq!(logged(&line, "bytes_out"), answer.len().to_string());
}

#[test]
fn a_refused_connect_is_recorded_by_name() {
    let refusal = Refusal::new();
    let proxy = Setup::forward().set("log.access", true).start();
    for (target, status, error) in [
        (refusal.address().to_string(), "502", "origin_refused"),
        ("nowhere.invalid:1".to_owned(), "502", "origin_unresolved"),
        ("[ff02::1]:1".to_owned(), "403", "target_forbidden"),
    ] {
        proxy.send(connect(&target)).read_response();
        let line = proxy.wait_for_log(&["method=CONNECT", &format!("target={target}")]);
        assert_eq!((logged(&line, "status"), logged(&line, "error")), (status, error));
    }
}

#[test]
fn a_tunnel_holds_up_nobody_else_on_its_thread() {
    let proxy = Setup::forward().start();
    let bytes = pattern(MUCH);
    let is_over = Gate::default();
    let source = Origin::start({
        let (bytes, is_over) = (bytes.clone(), is_over.clone());
        move |mut peer| {
            peer.send(&bytes);
            is_over.wait();
        }
    });
    let origin = Origin::answering(OK);
    let mut busy = proxy.tunnel(source.address());
    thread::scope(|scope| {
        scope.spawn(|| busy.expect_stream(&bytes));
        for _ in 0..50 {
            proxy.send(get(origin.address())).expect_status(200);
            let (mut client, mut far) = tunnel(&proxy);
            talk(&mut client, &mut far);
        }
    });
    is_over.open();
}

#[test]
fn the_end_of_one_direction_does_not_stop_the_thread_for_the_other() {
    let origin = Origin::answering(OK);
    let proxy = Setup::forward().upstream("origin", &[&origin.url()], "").start();
    let bytes = pattern(3_000_000);
    // Much at once goes through pipes, which want both sockets to themselves.
    let burst = |from: &mut Wire, to: &mut Wire| {
        thread::scope(|scope| {
            scope.spawn(|| to.expect_stream(&bytes));
            from.send(&bytes);
        });
    };
    for is_upward in [true, false] {
        for ends in [true, false] {
            let (mut client, mut far) = tunnel(&proxy);
            let (from, to) =
                if is_upward { (&mut *client, &mut far) } else { (&mut far, &mut *client) };
            burst(to, from);
            burst(from, to);
            burst(to, from);
            if ends {
                to.half_close();
                from.expect_end(Arrival::End);
            }
            // The other direction goes on, with pauses: there is nothing to be had for a while.
            for _ in 0..20 {
                burst(from, to);
                proxy.get().expect_status(200);
                assert!(to.is_quiet_for(Duration::from_millis(100)));
                proxy.get().expect_status(200);
            }
        }
    }
}

#[test]
fn a_listener_on_every_address_is_no_target_either() {
    let proxy = Setup::forward().set("server.host", "0.0.0.0").start();
    let port = proxy.address().port();
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for target in
        [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!("127.9.9.9:{port}")]
    {
        let mut client = Client::connect(loopback);
        client.send(connect(target)).expect_refusal(403, "Forbidden", "http_request_denied");
    }
}
