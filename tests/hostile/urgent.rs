//! TCP urgent data: bytes at which splice(2) stops, and which wake a reader that sees nothing.
//!
//! One such byte inside a long transfer must not make the program spin, must not cost a byte that
//! stands behind it, and paced ones must not make the kernel start a thread per connection.
//! Wherever they come from, they are ordinary bytes at their place in the stream.

use crate::backend::Backend;
use crate::mob::Mob;
use crate::subject::{Subject, shared};
use crate::support::{Arrival, Client, Expected, Origin, Setup, Target, Wire, pattern};
use crate::victims::Victims;
use socket2::SockRef;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// Sends bytes of which the one in the middle is urgent.
fn send_with_urgent(wire: &mut Wire, bytes: &[u8]) {
    let middle = bytes.len() / 2;
    wire.send(&bytes[..middle]);
    // Should the other end be gone, there is nobody to whom it matters.
    let _ = SockRef::from(wire.stream()).send_out_of_band(&bytes[middle..=middle]);
    wire.send(&bytes[middle + 1..]);
}

/// An origin whose answers have an urgent byte in the middle, and end with the connection or by
/// their length.
fn urgent_origin(length: usize, is_closed: bool) -> Origin {
    Origin::start(move |mut peer| {
        while peer.next_request().is_some() {
            let framing = if is_closed {
                "Connection: close\r\n".to_owned()
            } else {
                format!("Content-Length: {length}\r\n")
            };
            peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n"));
            send_with_urgent(&mut peer, &pattern(length));
            if is_closed {
                return;
            }
        }
    })
}

#[test]
fn an_urgent_byte_inside_an_answer_costs_no_byte_and_no_time() {
    let _machine = shared();
    for length in [256 << 10, 1 << 20] {
        for is_closed in [false, true] {
            let origin = urgent_origin(length, is_closed);
            let subject = Subject::start(Setup::to(&origin));
            for _ in 0..4 {
                let mut client = subject.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                let answer = client.read_response();
                answer.expect_status(200);
                assert!(answer.body == pattern(length), "{length}, {is_closed}: {answer}");
            }
            subject.expect_home();
        }
    }
}

#[test]
fn an_urgent_byte_inside_an_answer_keeps_nobody_busy_when_the_client_has_gone() {
    let _machine = shared();
    for is_reset in [false, true] {
        let origin = urgent_origin(8 << 20, false);
        let subject = Subject::start(Setup::to(&origin));
        let mut clients: Vec<_> = (0..8)
            .map(|_| {
                let mut client = Client::with_small_window(subject.address());
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                client
            })
            .collect();
        for client in &mut clients {
            client.read_up_to(100_000);
        }
        subject.expect_rest();
        for client in clients {
            if is_reset { client.reset() } else { drop(client) }
        }
        subject.expect_home();
    }
}

#[test]
fn urgent_bytes_pass_through_a_tunnel_both_ways_at_their_place() {
    const EACH: usize = 4 << 20;
    let _machine = shared();
    let subject = Subject::start(Setup::forward());
    let bytes = pattern(EACH + 1000);
    let (up, down) = (&bytes[..EACH], &bytes[1000..]);
    for _ in 0..3 {
        let target = Target::new();
        let mut near = subject.tunnel(target.address());
        let mut far = target.accept();
        let (mut near_writer, mut far_writer) = (near.another_handle(), far.another_handle());
        thread::scope(|scope| {
            scope.spawn(|| {
                send_with_urgent(&mut near_writer, up);
                near_writer.half_close();
            });
            scope.spawn(|| {
                send_with_urgent(&mut far_writer, down);
                far_writer.half_close();
            });
            scope.spawn(|| {
                far.expect_stream(up);
                far.expect_end(Arrival::End);
            });
            near.expect_stream(down);
            near.expect_end(Arrival::End);
        });
    }
    subject.expect_home();
}

#[test]
fn an_urgent_byte_in_an_idle_tunnel_and_a_fin_behind_it_arrive() {
    let _machine = shared();
    let subject = Subject::start(Setup::forward());
    let target = Target::new();
    let mut near = subject.tunnel(target.address());
    let mut far = target.accept();
    for _ in 0..3 {
        near.send("before");
        SockRef::from(near.stream()).send_out_of_band(b"!").unwrap();
        near.send("after");
        far.expect_stream(b"before!after");
    }
    SockRef::from(near.stream()).send_out_of_band(b"!").unwrap();
    near.half_close();
    far.expect_stream(b"!");
    far.expect_end(Arrival::End);
    far.send("bye");
    SockRef::from(far.stream()).send_out_of_band(b"!").unwrap();
    drop(far);
    near.expect_stream(b"bye!");
    near.expect_end(Arrival::End);
    subject.expect_home();
}

#[test]
fn an_urgent_byte_inside_an_upload_is_a_byte_of_the_upload() {
    const LENGTH: usize = 1 << 20;
    let _machine = shared();
    let origin = Origin::start(|mut peer| {
        while let Some(mut request) = peer.read_head() {
            peer.read_body(&mut request, Expected::Request);
            assert!(request.body == pattern(LENGTH), "another body: {request}");
            peer.send(crate::support::OK);
        }
    });
    let subject = Subject::start(Setup::to(&origin));
    for _ in 0..4 {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
        let mut client = subject.send(head);
        send_with_urgent(&mut client, &pattern(LENGTH));
        client.expect_status(200);
    }
    subject.expect_home();
}

/// An urgent byte alone, of somebody who may have been refused meanwhile.
fn poke(stream: &TcpStream) {
    let _ = SockRef::from(stream).send_out_of_band(b"x");
}

#[test]
fn paced_urgent_bytes_behind_half_a_head_make_the_kernel_start_no_threads() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let mob = Mob::new(subject.address(), 50, "GET /");
    let victims = Victims::start(subject.address(), 2, Duration::from_millis(20));
    // The kernel gives up polling after 128 fruitless wake-ups.
    for round in 0..400 {
        mob.0.iter().for_each(poke);
        if round % 50 == 49 {
            subject.expect_few_threads();
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    victims.stop().expect_served();
    subject.expect_rest();
    drop(mob);
    subject.expect_home();
}

#[test]
fn paced_urgent_bytes_of_clients_that_wait_make_the_kernel_start_no_threads() {
    let _machine = shared();
    let backend = Backend::start();
    let subject = Subject::start(Setup::to_url(&backend.url()));
    let resting = Mob::new(subject.address(), 25, "GET /page HTTP/1.1\r\nHost: a\r\n\r\n");
    let waiting = Mob::new(subject.address(), 25, "GET /silent HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..300 {
        resting.0.iter().chain(&waiting.0).for_each(poke);
        thread::park_timeout(Duration::from_millis(5));
    }
    subject.expect_rest();
    drop((resting, waiting));
    subject.expect_home();
}
