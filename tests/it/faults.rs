//! Things that break at the worst moment, on either side, and what is left afterwards: nothing.
//!
//! After each fault the same proxy serves the next client, has as many files open as before, and at
//! the end counts no connection, lease or task (`Proxy` checks that when it is dropped).

use crate::support::{
    BINARY, Client, Expected, GET, Gate, OK, Origin, Peer, Proxy, Setup, is_of_http1, pattern,
};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;

/// Breaks off in some way, then demands that everything is as it was.
#[track_caller]
fn survives(origin: &Origin, proxy: &Proxy, break_off: impl Fn()) {
    proxy.get().expect_status(200);
    let before = proxy.open_files();
    for _ in 0..5 {
        break_off();
    }
    proxy.wait_for_open_files(before);
    proxy.get().expect_status(200);
    origin.wait_for("no more than the idle connection", |seen| seen.open() <= 1);
}

/// Answers GET at once, holds a POST until its body ends, and sends a big body for `/big`.
fn serving() -> Origin {
    Origin::start(|mut peer| {
        while let Some(mut request) = peer.read_head() {
            peer.read_body(&mut request, Expected::Request);
            if !request.is_whole() {
                return;
            }
            match request.target() {
                "/big" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n");
                    peer.send(pattern(50_000_000));
                }
                "/never" => return peer.hold(),
                _ => peer.send(OK),
            }
        }
    })
}

type Ending = fn(Client);

/// A close and a reset.
const CLIENT_ENDINGS: [Ending; 2] = [drop, Client::reset];

#[test]
fn a_client_may_vanish_before_it_says_anything() {
    let origin = serving();
    let proxy = Proxy::to(&origin);
    for end in CLIENT_ENDINGS {
        survives(&origin, &proxy, || end(proxy.connect()));
    }
}

#[test]
fn a_client_may_vanish_inside_its_head() {
    let origin = serving();
    let proxy = Proxy::to(&origin);
    for end in CLIENT_ENDINGS {
        survives(&origin, &proxy, || {
            let client = proxy.send("GET / HTTP/1.1\r\nHo");
            client.wait_until_read();
            end(client);
        });
    }
}

#[test]
fn a_client_may_vanish_inside_its_body() {
    let origin = serving();
    let proxy = Proxy::to(&origin);
    for end in CLIENT_ENDINGS {
        for framing in ["Content-Length: 9", "Transfer-Encoding: chunked"] {
            survives(&origin, &proxy, || {
                let client = proxy
                    .send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n2\r\nok\r\n"));
                client.wait_until_read();
                end(client);
            });
        }
    }
}

#[test]
fn a_client_may_vanish_while_the_origin_thinks() {
    let origin = serving();
    let proxy = Proxy::to(&origin);
    survives(&origin, &proxy, || {
        let client = proxy.send("GET /never HTTP/1.1\r\nHost: test\r\n\r\n");
        client.wait_until_read();
        client.reset();
    });
}

#[test]
fn a_client_that_closed_while_the_origin_thought_is_let_go_with_the_answer() {
    // A close looks like the end of sending, after which an answer is still due.
    let is_thought = Gate::default();
    let origin = Origin::start({
        let is_thought = is_thought.clone();
        move |mut peer| {
            while peer.next_request().is_some() {
                is_thought.wait();
                peer.send(OK);
            }
        }
    });
    let proxy = Proxy::to(&origin);
    let before = proxy.open_files();
    let clients: Vec<_> = (0..5).map(|_| proxy.send(GET)).collect();
    origin.wait_for("every request", |seen| seen.requests.len() == 5);
    drop(clients);
    is_thought.open();
    // The idle connections to the origin stay.
    proxy.wait_for_open_files(before + 5);
    proxy.get().expect_status(200);
}

#[test]
fn a_client_may_vanish_inside_its_answer() {
    let origin = serving();
    let proxy = Proxy::to(&origin);
    for end in CLIENT_ENDINGS {
        survives(&origin, &proxy, || {
            let mut client = proxy.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
            client.read_head().expect("a head");
            client.read_exact(1_000_000);
            end(client);
        });
    }
}

#[test]
fn a_client_may_vanish_between_two_requests() {
    let origin = serving();
    let proxy = Proxy::to(&origin);
    for end in CLIENT_ENDINGS {
        survives(&origin, &proxy, || {
            let mut client = proxy.send(GET);
            client.expect_status(200);
            end(client);
        });
    }
}

#[test]
fn a_client_that_only_stops_sending_is_still_answered() {
    if is_of_http1("a connection of which one direction has ended") {
        return;
    }
    let origin = serving();
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody";
    for half_close in ["close", "keep"] {
        let proxy = Setup::to(&origin).set("server.half_close", half_close).start();
        for request in [GET, post] {
            let mut client = proxy.send(request);
            client.half_close();
            client.expect_status(200).expect_orderly_close();
        }
    }
    let proxy = Setup::to(&origin).set("server.half_close", "keep").start();
    let mut client = proxy.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n");
    client.half_close();
    assert_eq!(client.read_response().body.len(), 50_000_000);
    client.expect_orderly_close();
}

#[test]
fn a_client_that_stops_sending_inside_its_head_reaches_no_origin() {
    let origin = Origin::untouchable();
    let proxy = Proxy::to(&origin);
    for beginning in ["GET", "GET / HTTP/1.1\r\nHost: test\r\n"] {
        let mut client = proxy.send(beginning);
        client.half_close();
        client.expect_no_success();
    }
}

#[test]
fn a_client_that_stops_sending_inside_its_body_is_never_whole_at_the_origin() {
    let origin = Origin::start(|mut peer| {
        let mut request = peer.expect_head();
        peer.read_body(&mut request, Expected::Request);
        assert!(!request.is_whole(), "a cut body arrived whole: {request}");
    });
    let proxy = Proxy::to(&origin);
    for body in [
        "Content-Length: 9\r\n\r\nbody",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n",
    ] {
        let mut client = proxy.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{body}"));
        client.half_close();
        client.expect_no_success();
    }
}

/// An origin that breaks off at one step of every exchange.
fn breaking(break_off: fn(Peer)) -> Proxy {
    let origin = Origin::start(break_off);
    let proxy = Proxy::to(&origin);
    let before = proxy.open_files();
    for _ in 0..5 {
        proxy.get().expect_own_error(502, "Bad Gateway", "connection_terminated");
    }
    proxy.wait_for_open_files(before);
    proxy
}

#[test]
fn an_origin_may_vanish_before_its_answer() {
    breaking(drop);
    breaking(Peer::reset);
    breaking(|mut peer| drop(peer.next_request()));
    breaking(|mut peer| {
        peer.next_request();
        peer.reset();
    });
    breaking(|mut peer| {
        peer.next_request();
        peer.half_close();
        peer.hold();
    });
}

#[test]
fn an_origin_may_vanish_inside_the_head_of_its_answer() {
    for end in [drop, Peer::reset] {
        let origin = Origin::start(move |mut peer| {
            if peer.next_request().is_some() {
                peer.send("HTTP/1.1 200 OK\r\nContent-Le");
                peer.wait_until_read();
                end(peer);
            }
        });
        let proxy = Proxy::to(&origin);
        let before = proxy.open_files();
        for _ in 0..5 {
            proxy.get().expect_status(502);
        }
        proxy.wait_for_open_files(before);
    }
}

#[test]
fn an_origin_may_vanish_while_it_is_being_sent_a_body() {
    for end in [drop, Peer::reset] {
        let origin = Origin::start(move |mut peer| {
            peer.expect_head();
            peer.read_exact(100_000);
            end(peer);
        });
        let proxy = Proxy::to(&origin);
        let before = proxy.open_files();
        for _ in 0..3 {
            let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5000000\r\n\r\n";
            let mut client = proxy.send(head);
            client.send(pattern(5_000_000)).expect_status(502).expect_closed();
        }
        proxy.wait_for_open_files(before);
    }
}

#[test]
fn an_answer_sent_before_a_reset_is_not_lost() {
    // The origin refuses a big upload and goes away while the proxy still sends.
    let origin = Origin::start(|mut peer| {
        peer.expect_head();
        peer.send(
            "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig",
        );
        peer.wait_until_read();
    });
    let proxy = Proxy::to(&origin);
    for _ in 0..5 {
        let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5000000\r\n\r\n";
        let mut client = proxy.send(head);
        client.send(pattern(5_000_000)).read_response().expect_status(413).expect_body("big");
    }
}

#[test]
fn an_origin_may_restart() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    let mut client = proxy.send(GET);
    client.expect_status(200);
    let address = origin.stop();
    let down = client.send(GET).read_response();
    down.expect_own_error(502, "Bad Gateway", "connection_refused");
    let _origin = Origin::start_at(address, |mut peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    client.send(GET).expect_status(200);
    drop(client);
    drop(proxy);
}

#[test]
fn a_low_limit_of_open_files_is_said_at_start_and_holds() {
    const CLIENTS: usize = 60;
    let origin = Origin::answering(OK);
    let proxy = Setup::to(&origin)
        .set("pool.max_connections", 5)
        .set("pool.max_idle", 5)
        .open_files_max(50)
        .start();
    proxy.wait_for_log(&["limits.clients", "open files", "ulimit"]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.send(GET)).collect();
    // Those that got in are served, and the others when these leave.
    for client in &mut clients {
        client.expect_status(200);
        client.half_close();
    }
}

#[test]
fn running_out_of_files_later_is_said_and_survived() {
    const CLIENTS: usize = 30;
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    proxy.get().expect_status(200);
    let Some(restore) = proxy.limit_open_files(proxy.open_files() + 10) else {
        eprintln!("skipped: prlimit(1) of util-linux is not installed");
        return;
    };
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.send(GET)).collect();
    proxy.wait_for_log(&["open files"]);
    // Some are served now, some when others have left: nobody is forgotten.
    for client in &mut clients {
        assert!(matches!(client.read_response().status(), 200 | 503));
        client.half_close();
    }
    restore();
    drop(clients);
    proxy.get().expect_status(200);
}

#[test]
fn too_little_locked_memory_is_said_and_survived() {
    // Root may lock all it wants, so the program runs as nobody.
    let mut launcher = "ulimit -l 128 && exec ".to_owned();
    if nix::unistd::geteuid().is_root() {
        launcher += "setpriv --reuid=65534 --regid=65534 --clear-groups ";
    }
    let probe = format!("{launcher} test -x {BINARY}");
    if !Command::new("sh").args(["-c", &probe]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: setpriv(1) is missing, or nobody may not start {BINARY}");
        return;
    }
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n";
    let origin = Origin::answering([&head[..], &pattern(3_000_000)].concat());
    let setup = Setup::to(&origin).driven_by("io_uring");
    let proxy = setup.launched_by(&format!("{launcher}\"$0\" \"$@\"")).start();
    proxy.wait_for_log(&["RLIMIT_MEMLOCK", "ulimit -l"]);
    proxy.get().expect_body(pattern(3_000_000));
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    expect_port_in_use(taken.local_addr().unwrap());
}

#[test]
fn a_port_used_by_another_ringway_is_one_clear_line() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::to(&origin);
    expect_port_in_use(proxy.address());
    proxy.get().expect_status(200);
}

#[track_caller]
fn expect_port_in_use(address: SocketAddr) {
    let origin = Origin::untouchable();
    let output = Setup::to(&origin).set("server.port", address.port()).run();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(text.contains(&address.to_string()) && text.contains("in use"), "{output:?}");
    assert_eq!(text.trim().lines().count(), 1, "one line, not {text}");
}

#[test]
fn a_slow_origin_does_not_hold_up_another() {
    let is_over = Gate::default();
    let slow = Origin::start({
        let is_over = is_over.clone();
        move |mut peer| {
            while peer.next_request().is_some() {
                is_over.wait();
                peer.send(OK);
            }
        }
    });
    let quick = Origin::answering(OK);
    let proxy = Setup::new()
        .upstream("slow", &[&slow.url()], "")
        .upstream("quick", &[&quick.url()], "")
        .route("", "/slow", "slow", "")
        .route("", "/", "quick", "")
        .start();
    let mut waiting: Vec<_> =
        (0..20).map(|_| proxy.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")).collect();
    slow.wait_for("the slow requests", |seen| seen.requests.len() == 20);
    for _ in 0..20 {
        proxy.get().expect_status(200);
    }
    is_over.open();
    for client in &mut waiting {
        client.expect_status(200);
    }
}
