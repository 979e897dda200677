//! Little memory and much to do: the promise that ringway is never killed for what it was admitted
//! to do, and that it owes nothing afterwards.
//!
//! Comes in: 128 MiB of addresses, slow clients, uploads that stall, and 10 GiB of bodies. Goes
//! out: every answer complete, and a ledger that is back where it began. Skipped where too few
//! files may be open.

use crate::support::{self, DEADLINE, Setup, wait_until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Half a head each, until everything else is done. What does not fit beside the uploads waits in
/// the kernel's queue, so that no more are opened than are admitted at once.
const SLOW: usize = 2_400;
const UPLOADS: usize = 1_000;
const UPLOAD_BYTES: usize = 100_000;

const DOWNLOADS: usize = 10;
const DOWNLOAD_BYTES: u64 = 1 << 30;

const FILES: u64 = 16_000;

/// An origin of this test's own, because the scripted one gives up on a body that does not go on.
/// Answers an upload with its length, `/big` with a gibibyte, and anything else with two bytes. The
/// address, and how many uploads have begun to arrive.
fn origin() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    // All uploads connect at once, and a busy machine accepts them late.
    socket2::SockRef::from(&listener).listen(4096).expect("a longer queue");
    let address = listener.local_addr().expect("a bound listener");
    let begun = Arc::<AtomicUsize>::default();
    let counter = begun.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counter = counter.clone();
            // Ends with its connection: an error is the proxy's to explain.
            thread::spawn(move || drop(serve(&stream, &counter)));
        }
    });
    (address, begun)
}

fn serve(stream: &TcpStream, begun: &AtomicUsize) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut head = String::new();
    while reader.read_line(&mut head)? > 0 {
        if !head.ends_with("\r\n\r\n") {
            continue;
        }
        if head.starts_with("POST ") {
            begun.fetch_add(1, Ordering::Relaxed);
            let mut body = vec![0; UPLOAD_BYTES];
            reader.read_exact(&mut body)?;
            let text = body.len().to_string();
            let length = text.len();
            write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}")?;
        } else if head.starts_with("GET /big ") {
            write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {DOWNLOAD_BYTES}\r\n\r\n")?;
            let piece = vec![b'x'; 1 << 18];
            for _ in 0..DOWNLOAD_BYTES / piece.len() as u64 {
                writer.write_all(&piece)?;
            }
        } else {
            writer.write_all(support::OK.as_bytes())?;
        }
        head.clear();
    }
    Ok(())
}

/// The length of the body of one download, as far as it came.
fn download(address: SocketAddr) -> u64 {
    let mut stream = TcpStream::connect(address).expect("a listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    stream
        .write_all(b"GET /big HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .expect("a reader");
    let mut room = vec![0; 1 << 18];
    let (mut head, mut received, mut is_body) = (Vec::new(), 0, false);
    loop {
        match stream.read(&mut room) {
            Ok(0) | Err(_) => return received,
            Ok(count) if is_body => received += count as u64,
            Ok(count) => {
                head.extend_from_slice(&room[..count]);
                if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                    assert!(head.starts_with(b"HTTP/1.1 200 "), "{head:?}");
                    received = (head.len() - end - 4) as u64;
                    is_body = true;
                }
            }
        }
    }
}

#[test]
fn within_128_mib_everything_admitted_is_finished_and_given_back() {
    let _machine = crate::alone();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < FILES || setrlimit(Resource::RLIMIT_NOFILE, FILES.max(soft), hard).is_err() {
        eprintln!("skipped: the hard limit of open files is too low");
        return;
    }
    let (origin, begun_uploads) = origin();
    let proxy = Setup::to_url(&format!("http://{origin}"))
        .set("pool.max_connections", UPLOADS + 100)
        .set("pool.idle_expiry", "500ms")
        .set("timeouts.client_head", "10m")
        .set("timeouts.read", "10m")
        .set("limits.min_body_rate", 0)
        .launched_by("ulimit -v 131072 && exec \"$0\" \"$@\"")
        .start();
    proxy.get().expect_status(200);
    let before = proxy.ledger_bytes();

    let mut slow: Vec<_> = (0..SLOW).map(|_| proxy.send("GET / HTTP/1.1\r\nHo")).collect();
    let head = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n");
    let half = vec![b'x'; UPLOAD_BYTES / 2];
    let begun = [head.as_bytes(), &half].concat();
    let mut uploads: Vec<_> = (0..UPLOADS).map(|_| proxy.send(&begun)).collect();
    let have_begun = || begun_uploads.load(Ordering::Relaxed) == UPLOADS;
    wait_until("all uploads stall at the origin", have_begun);

    let address = proxy.address();
    let downloads: Vec<_> =
        (0..DOWNLOADS).map(|_| thread::spawn(move || download(address))).collect();
    for download in downloads {
        assert_eq!(download.join().expect("no panic"), DOWNLOAD_BYTES);
    }

    for client in &mut slow {
        client.send("st: test\r\n\r\n").expect_status(200);
    }
    for client in &mut uploads {
        client.send(&half);
        client.read_response().expect_status(200).expect_body(UPLOAD_BYTES.to_string());
    }
    drop((slow, uploads));
    // A free buffer or a connection to the origin more or less is within the margin.
    wait_until("the ledger is back", || proxy.ledger_bytes() <= before + 64 * 1024);
}
