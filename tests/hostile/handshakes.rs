//! Handshakes that stop half-way, by the thousand.
//!
//! A handshake costs a signature and a session before anything is known of who wants it: whoever
//! begins many and finishes none may keep nobody else out, and may hold little.

use crate::backend::{Backend, PAGE};
use crate::subject::{Subject, alone};
use crate::support::{Pair, Setup, TlsClient, Trust, hello, records};
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const STALLED: usize = 5_000;

/// Of 1,000 handshakes and requests of other addresses, so many are done within [`SOON`]. A second
/// is the promise; a busy machine and a build without optimizer have three.
const SHARE: usize = 995;
const SOON: Duration = Duration::from_secs(3);

/// The same of those that come from the address of the attackers, while these go on: a newcomer
/// stands behind all that have not been sent away yet.
const NEIGHBOURS_SHARE: usize = 950;

const GET: &str = "GET /page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn from(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source.into(), 0).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
    Ok(socket.into())
}

/// One handshake with a request, and how long both took; `None` where that came to nothing.
fn visit(source: Ipv4Addr, address: SocketAddr, trust: &Trust) -> Option<Duration> {
    let began = Instant::now();
    let mut client = TlsClient::over(from(source, address).ok()?, "localhost", trust).ok()?;
    let answer = client.try_exchange(GET).ok()?;
    assert!(answer.ends_with(PAGE.rsplit("\r\n").next()?.as_bytes()));
    Some(began.elapsed())
}

#[test]
fn five_thousand_handshakes_that_stop_half_way_keep_nobody_out() {
    let _machine = alone();
    let backend = Backend::start();
    let pair = Pair::of(&["localhost"]);
    let setup = Setup::to_url(&backend.url()).set("limits.clients", 12_000);
    let subject = Subject::start(setup.listen_tls(&pair));
    let address = *subject.addresses().last().unwrap();
    let trust = Trust::in_pair(&pair);
    let whole = records(22, &hello("localhost", &trust), 16_384);
    let openings: [&[u8]; 3] = [b"", &whole[..100], &whole];
    let (is_over, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
    let times = thread::scope(|scope| {
        let (is_over, begun) = (&is_over, &begun);
        let attackers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let mut held = Vec::new();
                    while held.len() < STALLED / 2 && !is_over.load(Ordering::Relaxed) {
                        let Ok(mut stream) = TcpStream::connect(address) else { continue };
                        let _ = stream.write_all(openings[held.len() % openings.len()]);
                        held.push(stream);
                        begun.fetch_add(1, Ordering::Relaxed);
                        // What is measured is the program, not how long its queue is.
                        thread::park_timeout(Duration::from_millis(1));
                    }
                    while !is_over.load(Ordering::Relaxed) {
                        thread::park_timeout(Duration::from_millis(20));
                    }
                })
            })
            .collect();
        let visits = |source: Ipv4Addr| {
            let trust = trust.clone();
            scope.spawn(move || {
                let mut times = Vec::new();
                while begun.load(Ordering::Relaxed) < STALLED || times.len() < 200 {
                    times.push(visit(source, address, &trust));
                }
                times
            })
        };
        // Somebody elsewhere, and somebody behind the attackers' own address.
        let visitors = [visits(Ipv4Addr::new(127, 0, 0, 9)), visits(Ipv4Addr::LOCALHOST)];
        let times = visitors.map(|one| one.join().expect("no panic"));
        is_over.store(true, Ordering::Relaxed);
        for one in attackers {
            one.join().expect("no panic");
        }
        times
    });
    for (times, wanted) in times.iter().zip([SHARE, NEIGHBOURS_SHARE]) {
        let soon = times.iter().flatten().filter(|time| **time <= SOON).count();
        let slowest = times.iter().flatten().max();
        assert!(
            soon * 1_000 >= wanted * times.len(),
            "{soon} of {} in time, the slowest {slowest:?}",
            times.len()
        );
    }
    let crowded = subject.admin.metric("ringway_tls_failed_total", "reason=\"crowded\"");
    assert!(crowded.is_some_and(|crowded| crowded > STALLED as u64 / 2), "{crowded:?}");
    subject.expect_rest();
    subject.wait_for_metric("ringway_tls_handshaking", |count| count == 0);
    subject.expect_home();
}
