//! What the tests have in common: the library that makes calls fail, and a client that is told how
//! a request ended, whatever the end.
//!
//! In go names of calls and errors; out come statuses, and how many calls have failed. The library
//! is built once, by the compiler that builds the tests.

use crate::support::{DEADLINE, GET, Home, Origin, Proxy, Setup};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

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
}

const SLOT: u64 = 16;
const SLOTS: u64 = 16;

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
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ended::Cut };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match (status, length) {
        (Some(status), Some(length)) if length == body.len() => Ended::Answered(status),
        _ => Ended::Cut,
    }
}

/// The ends of `count` requests, one after another.
#[track_caller]
pub(crate) fn ask_all(proxy: &Proxy, count: usize) -> Vec<Ended> {
    (0..count).map(|_| ask(proxy.address())).collect()
}

/// After all of it, everything is served, and nothing is open that was not before.
#[track_caller]
pub(crate) fn expect_peace(proxy: &Proxy, files: usize) {
    let ends = ask_all(proxy, 20);
    assert!(ends.iter().all(|end| *end == Ended::Answered(200)), "{ends:?}");
    proxy.wait_for_open_files(files);
}

/// An origin that answers one request on each connection, so that each request takes all calls.
pub(crate) fn origin() -> Origin {
    Origin::answering_and_closing(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    )
}

pub(crate) fn setup(origin: &Origin, driver: &str) -> Setup {
    Setup::to(origin).driven_by(driver).set("timeouts.read", "5s")
}

/// The driver under test where it does not matter which.
pub(crate) fn driver() -> String {
    std::env::var("RINGWAY_TEST_DRIVER").unwrap_or_else(|_| "io_uring".to_owned())
}
