//! An origin for thousands of connections on one thread. Its behaviour is in the path.
//!
//! Comes in: requests, whose bodies are read and forgotten. Goes out, by path: `/page` two bytes,
//! `/large/N` N bytes, `/late/MS` a page after that time, `/busy/MS` a page whose body is not read
//! before that time, `/events` a line every second for ever, `/drip` a byte of the head every
//! second, `/stall` half of an answer, `/hush` one line and no end, `/silent`
//! nothing. It keeps connections open and never
//! closes first.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::SockRef;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub(crate) const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

pub(crate) struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    requests: AtomicUsize,
    open: AtomicUsize,
    is_stopping: AtomicBool,
}

impl Backend {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        SockRef::from(&listener).listen(4096).expect("a longer queue");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("a bound listener");
        let shared = Arc::<Shared>::default();
        let serving = Serving {
            listener,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll"),
            shared: shared.clone(),
            links: HashMap::new(),
            next: 1,
        };
        let thread = Some(thread::spawn(move || serving.run()));
        Self { address, shared, thread }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Heads that have come.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(result.is_ok() || thread::panicking(), "the origin failed");
        }
    }
}

/// What a connection waits for.
enum Stage {
    Head,
    /// So many bytes of a request's body, or the last chunk.
    Body(Option<usize>),
    /// A time, and then what is to be said.
    Until(Instant),
    Deaf(Instant),
    Events(Instant),
    /// How much of the page's head was said, and when more of it is.
    Drip(usize, Instant),
    Nothing,
}

struct Link {
    stream: TcpStream,
    stage: Stage,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of a large body that are still to come.
    owed: usize,
    interest: EpollFlags,
}

struct Serving {
    listener: TcpListener,
    epoll: Epoll,
    shared: Arc<Shared>,
    links: HashMap<u64, Link>,
    next: u64,
}

const LISTENER: u64 = 0;

impl Serving {
    fn run(mut self) {
        let listening = EpollEvent::new(EpollFlags::EPOLLIN, LISTENER);
        self.epoll.add(&self.listener, listening).expect("epoll");
        let mut events = [EpollEvent::empty(); 256];
        while !self.shared.is_stopping.load(Ordering::Relaxed) {
            // Short, because it is also the clock of what is due.
            let count = self.epoll.wait(&mut events, 10_u8).unwrap_or(0);
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    id => self.serve(id, event.events()),
                }
            }
            let now = Instant::now();
            let is_due = |link: &Link| match link.stage {
                Stage::Until(at) | Stage::Deaf(at) | Stage::Events(at) | Stage::Drip(_, at) => {
                    at <= now
                }
                Stage::Head | Stage::Body(_) | Stage::Nothing => false,
            };
            let due: Vec<_> =
                self.links.iter().filter(|(_, link)| is_due(link)).map(|(id, _)| *id).collect();
            for id in due {
                self.serve(id, EpollFlags::empty());
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).expect("a stream");
            // A head and its body are two writes, and the second is not to wait for an answer.
            stream.set_nodelay(true).expect("a stream");
            let interest = EpollFlags::EPOLLIN;
            self.epoll.add(&stream, EpollEvent::new(interest, self.next)).expect("epoll");
            let (input, output) = (Vec::new(), Vec::new());
            let link = Link { stream, stage: Stage::Head, input, output, owed: 0, interest };
            self.links.insert(self.next, link);
            self.next += 1;
        }
        self.shared.open.store(self.links.len(), Ordering::Relaxed);
    }

    fn serve(&mut self, id: u64, events: EpollFlags) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.step(events, &self.shared).is_none() {
            // Closing takes it out of the epoll as well.
            self.links.remove(&id);
            self.shared.open.store(self.links.len(), Ordering::Relaxed);
            return;
        }
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, !matches!(link.stage, Stage::Deaf(_)));
        interest.set(EpollFlags::EPOLLOUT, link.owed > 0 || !link.output.is_empty());
        if interest != link.interest {
            link.interest = interest;
            let mut event = EpollEvent::new(interest, id);
            self.epoll.modify(&link.stream, &mut event).expect("epoll");
        }
    }
}

impl Link {
    /// Goes on as far as it can. Nothing when the connection has ended.
    fn step(&mut self, events: EpollFlags, shared: &Shared) -> Option<()> {
        if events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            return None;
        }
        if events.contains(EpollFlags::EPOLLIN) {
            let mut buffer = [0; 16_384];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        self.advance(Instant::now(), shared);
        self.flush()
    }

    fn advance(&mut self, now: Instant, shared: &Shared) {
        match self.stage {
            Stage::Head => self.take_head(now, shared),
            Stage::Body(Some(left)) => {
                let came = self.input.len().min(left);
                self.input.drain(..came);
                self.stage = Stage::Body(Some(left - came));
                if left == came {
                    self.answer();
                }
            }
            Stage::Body(None) => {
                // No payload of these cases looks like the last chunk. Trailers may follow it.
                let is_last = memchr::memmem::find(&self.input, b"\n0\r\n").is_some();
                if is_last && self.input.ends_with(b"\r\n\r\n") {
                    self.input.clear();
                    self.answer();
                } else if !is_last {
                    let old = self.input.len().saturating_sub(8);
                    self.input.drain(..old);
                }
            }
            Stage::Until(at) if at <= now => self.answer(),
            Stage::Deaf(at) if at <= now => self.stage = Stage::Body(Some(UPLOAD_BYTES)),
            Stage::Events(at) if at <= now => {
                self.output.extend_from_slice(b"6\r\nevent\n\r\n");
                self.stage = Stage::Events(now + Duration::from_secs(1));
            }
            Stage::Drip(said, at) if at <= now && said < PAGE.len() => {
                self.output.push(PAGE.as_bytes()[said]);
                self.stage = Stage::Drip(said + 1, now + Duration::from_secs(1));
            }
            // What else is said meanwhile is of no interest.
            Stage::Nothing
            | Stage::Deaf(_)
            | Stage::Events(_)
            | Stage::Until(_)
            | Stage::Drip(..) => {}
        }
    }

    fn take_head(&mut self, now: Instant, shared: &Shared) {
        let Some(end) = memchr::memmem::find(&self.input, b"\r\n\r\n") else { return };
        let head: Vec<_> = self.input.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let mut parts = path.split('/').skip(1);
        let kind = parts.next().unwrap_or_default();
        let figure = parts.next().and_then(|figure| figure.parse::<u64>().ok()).unwrap_or(0);
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim_start_matches(':').trim())
        };
        self.stage = match (kind, field("content-length"), field("transfer-encoding")) {
            ("busy", ..) => Stage::Deaf(now + Duration::from_millis(figure)),
            ("silent", ..) => Stage::Nothing,
            ("late", ..) => Stage::Until(now + Duration::from_millis(figure)),
            ("drip", ..) => Stage::Drip(0, now),
            ("events", ..) => {
                self.output.extend_from_slice(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                      Transfer-Encoding: chunked\r\n\r\n",
                );
                Stage::Events(now)
            }
            ("hush", ..) => {
                self.output.extend_from_slice(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nevent\n\r\n",
                );
                Stage::Nothing
            }
            ("stall", ..) => {
                self.output
                    .extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\nhalf");
                Stage::Nothing
            }
            ("large", ..) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {figure}\r\n\r\n");
                self.output.extend_from_slice(head.as_bytes());
                self.owed = figure as usize;
                Stage::Head
            }
            (_, Some(length), None) => Stage::Body(Some(length.parse().expect("a number"))),
            (_, None, Some(_)) => Stage::Body(None),
            (_, None, None) => Stage::Body(Some(0)),
            (_, Some(_), Some(_)) => panic!("framed twice: {head}"),
        };
        if matches!(self.stage, Stage::Body(_)) {
            self.advance(now, shared);
        }
    }

    fn answer(&mut self) {
        self.output.extend_from_slice(PAGE.as_bytes());
        self.stage = Stage::Head;
    }

    /// Writes what there is, up to a part that makes nobody else wait: who reads without end would
    /// have this thread for itself.
    fn flush(&mut self) -> Option<()> {
        static FILLER: [u8; 65_536] = [b'x'; 65_536];
        const PIECES: usize = 4;
        for _ in 0..PIECES {
            let piece = match self.output.as_slice() {
                [] => &FILLER[..self.owed.min(FILLER.len())],
                output => output,
            };
            if piece.is_empty() {
                return Some(());
            }
            match self.stream.write(piece) {
                Ok(count) if self.output.is_empty() => self.owed -= count,
                Ok(count) => drop(self.output.drain(..count)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(_) => return None,
            }
        }
        Some(())
    }
}

/// The body that `/busy` expects.
pub(crate) const UPLOAD_BYTES: usize = 40_000_000;
