//! What the tests have in common: the library that makes calls fail, and a client that is told how
//! a request ended, whatever the end.
//!
//! In go names of calls and errors; out come statuses, and how many calls have failed. The library
//! is built once, by the compiler that builds the tests.

use crate::support::{DEADLINE, GET, Home, Origin, Proxy, Setup, pattern, show, wait_until};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

/// A kind of call, by its place in the file that the library reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Accept = 0,
    Socket = 1,
    Connect = 2,
    Send = 3,
    Receive = 4,
    EpollCtl = 5,
    EpollWait = 6,
    RingEnter = 7,
    Open = 8,
    Pipe = 9,
    Write = 10,
    Clock = 11,
    Map = 12,
    Timer = 13,
    /// From here on operations of a ring, which are no calls.
    RingReceive = 14,
    RingPoll = 15,
    RingAccept = 16,
    RingTimeout = 17,
    RingFixed = 18,
    /// io_uring_register(2).
    RingRegister = 19,
}

const SLOT: u64 = 16;
const SLOTS: u64 = 32;

struct Library {
    path: PathBuf,
    _home: Home,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let home = Home::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/preload.rs");
    let path = home.path().join("preload.so");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(compiler)
        .args(["--edition", "2024", "--crate-type", "cdylib", "-C", "panic=abort", "-O", "-o"])
        .arg(&path)
        .arg(source)
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the library can be built");
    Library { path, _home: home }
});

/// What makes the calls of one program fail.
pub(crate) struct Chaos {
    file: File,
    path: PathBuf,
    _home: Home,
}

impl Chaos {
    pub(crate) fn new() -> Self {
        let home = Home::new();
        let path = home.path().join("chaos");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.expect("a file");
        file.set_len(SLOT * SLOTS).expect("its length");
        Self { file, path, _home: home }
    }

    /// Has the program of `setup` be under this one's power.
    pub(crate) fn under(&self, setup: Setup) -> Setup {
        let (library, file) = (LIBRARY.path.display(), self.path.display());
        setup.launched_by(&format!("LD_PRELOAD='{library}' CHAOS_FILE='{file}' exec \"$0\" \"$@\""))
    }

    /// Every `every`th of those calls fails from now on; 0 is none.
    pub(crate) fn fail(&self, call: Call, every: u32, error: i32) {
        let place = SLOT * call as u64;
        self.file.write_all_at(&error.to_ne_bytes(), place + 4).expect("a file");
        self.file.write_all_at(&every.to_ne_bytes(), place).expect("a file");
    }

    /// How many of them have failed.
    pub(crate) fn failed(&self, call: Call) -> u32 {
        let mut count = [0; 4];
        self.file.read_exact_at(&mut count, SLOT * call as u64 + 12).expect("a file");
        u32::from_ne_bytes(count)
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With a whole answer of this status.
    Answered(u16),
    /// With the connection, for all to see.
    Cut,
}

/// One request on a connection of its own. That it ends at all is a promise.
#[track_caller]
pub(crate) fn ask(address: SocketAddr) -> Ended {
    let Ok(mut stream) = TcpStream::connect(address) else { return Ended::Cut };
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let request = String::from_utf8_lossy(GET.as_ref()).into_owned();
    let request = request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
    if stream.write_all(request.as_bytes()).is_err() {
        return Ended::Cut;
    }
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let kind = error.kind();
        let hangs = matches!(kind, std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
        assert!(!hangs, "a request hangs: {error}");
        return Ended::Cut;
    }
    let Some(head) = answer.windows(4).position(|part| part == b"\r\n\r\n") else {
        return Ended::Cut;
    };
    let (head, body) = (String::from_utf8_lossy(&answer[..head]), &answer[head + 4..]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match (status, length) {
        (Some(status), Some(length)) if length == body.len() => {
            let is_whole = status != 200 || body == b"ok" || body == pattern(length);
            assert!(is_whole, "the body is another one: {}", show(body));
            Ended::Answered(status)
        }
        _ => Ended::Cut,
    }
}

/// The ends of `count` requests, one after another.
#[track_caller]
pub(crate) fn ask_all(proxy: &Proxy, count: usize) -> Vec<Ended> {
    (0..count).map(|_| ask(proxy.address())).collect()
}

/// After all of it, everything is served, and nothing is held that was not before.
#[track_caller]
pub(crate) fn expect_peace(proxy: &Proxy, files: usize) {
    let ends = ask_all(proxy, 20);
    assert!(ends.iter().all(|end| *end == Ended::Answered(200)), "{ends:?}");
    wait_until("nobody holds anything", || held(proxy).is_empty());
    proxy.wait_for_open_files(files);
}

/// What is held for somebody, by the figures of the proxy.
fn held(proxy: &Proxy) -> Vec<(&'static str, u64)> {
    let metrics = proxy.admin("GET", "/metrics");
    let sum = |name: &str, label: &str| {
        let of_name = metrics.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        });
        let values = of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.reduce(|sum, value| sum + value).unwrap_or_else(|| panic!("no {name} of {label:?}"))
    };
    let connections = sum("ringway_pool_connections", "");
    let figures = [
        ("clients", sum("ringway_clients", "")),
        ("leases", connections.saturating_sub(sum("ringway_pool_idle_connections", ""))),
        ("waiting requests", sum("ringway_pool_waiting_requests", "")),
        ("tunnels", sum("ringway_tunnels", "")),
        ("bytes of chunks", sum("ringway_memory_ledger_bytes", "leased_chunks")),
        ("bytes of connections", sum("ringway_memory_ledger_bytes", "\"connections\"")),
    ];
    figures.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// An origin that answers one request on each connection, so that each request takes all calls.
pub(crate) fn origin() -> Origin {
    Origin::answering_and_closing(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    )
}

/// The same with an answer of `bytes` bytes ([`pattern`]).
pub(crate) fn origin_of(bytes: usize) -> Origin {
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n");
    Origin::answering_and_closing([head.into_bytes(), pattern(bytes)].concat())
}

/// The same in two pieces, the second of which has to be waited for.
pub(crate) fn origin_in_pieces() -> Origin {
    const BYTES: usize = 20_000;
    Origin::start(|mut peer| {
        if peer.next_request().is_some() {
            let body = pattern(BYTES);
            let (first, second) = body.split_at(BYTES / 2);
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length";
            peer.send([format!("{head}: {BYTES}\r\n\r\n").as_bytes(), first].concat());
            peer.wait_until_read();
            thread::sleep(Duration::from_millis(2));
            peer.send(second);
        }
    })
}

pub(crate) fn setup(origin: &Origin, driver: &str) -> Setup {
    Setup::to(origin).driven_by(driver).set("timeouts.read", "5s")
}

/// The driver under test where it does not matter which.
pub(crate) fn driver() -> String {
    std::env::var("RINGWAY_TEST_DRIVER").unwrap_or_else(|_| "io_uring".to_owned())
}

/// What becomes of a request whose call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// It is served all the same.
    Served,
    /// It is served, or answered with an error of the proxy, or cut: never half, never late.
    Ended,
}

const REQUESTS: usize = 30;

/// Asks while every so manieth of those calls fails, with one error after another, and afterwards.
#[track_caller]
pub(crate) fn try_out_with(
    chaos: &Chaos,
    setup: Setup,
    (call, every): (Call, u32),
    errors: &[i32],
    promise: Promise,
) {
    let proxy = chaos.under(setup).start();
    // What is made once has been made.
    assert_eq!(ask_all(&proxy, 3), [Ended::Answered(200); 3]);
    let files = proxy.open_files();
    for error in errors {
        let before = chaos.failed(call);
        chaos.fail(call, every, *error);
        let mut ends = ask_all(&proxy, REQUESTS);
        let name = std::io::Error::from_raw_os_error(*error);
        // A busy machine may have done without.
        while chaos.failed(call) == before {
            assert!(ends.len() < 20 * REQUESTS, "{call:?} was not made to fail: {name}");
            ends.extend(ask_all(&proxy, REQUESTS));
        }
        chaos.fail(call, 0, 0);
        let is_kept = |end: &Ended| match (promise, end) {
            (Promise::Served, end) => *end == Ended::Answered(200),
            (Promise::Ended, Ended::Answered(status)) => matches!(status, 200 | 500..=504),
            (Promise::Ended, Ended::Cut) => true,
        };
        assert!(ends.iter().all(is_kept), "{call:?}, {name}: {ends:?}");
        let failed = (chaos.failed(call) - before) as usize;
        let unserved = ends.iter().filter(|end| **end != Ended::Answered(200)).count();
        assert!(unserved <= failed, "{call:?}, {name}: {failed} have failed, {ends:?}");
        expect_peace(&proxy, files);
    }
    proxy.stop();
}
