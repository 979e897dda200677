//! A keep-alive request allocates nothing once its connection is warm.
//!
//! The proxy runs inside this process, below an allocator that counts what the worker's thread
//! allocates. Client and origin are plain sockets on threads of their own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use ringway::internals::config::{Config, Flags};
use ringway::internals::http2::invariants::Conversation;
use ringway::internals::server::inherited::Inheritance;
use ringway::internals::server::{Server, Successor};

static WORKER_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread is a worker; const and without a destructor, so that asking does not
    /// allocate.
    static IS_WORKER: Cell<Option<bool>> = const { Cell::new(None) };
    /// What this thread has allocated.
    static OWN_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    OWN_ALLOCATIONS.set(OWN_ALLOCATIONS.get() + 1);
    let is_worker = IS_WORKER.get().unwrap_or_else(|| {
        // Asking for the thread's name may allocate: not again in here.
        IS_WORKER.set(Some(false));
        let is_worker = thread_name().is_some_and(|name| name.starts_with(b"worker-"));
        IS_WORKER.set(Some(is_worker));
        is_worker
    });
    if is_worker {
        WORKER_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

/// The kernel's name of this thread. The standard library names a thread before it runs our code.
fn thread_name() -> Option<[u8; 16]> {
    let mut name = [0_u8; 16];
    let mut file = std::fs::File::open("/proc/thread-self/comm").ok()?;
    let count = file.read(&mut name).ok()?;
    (count > 0).then_some(name)
}

// SAFETY: every call is passed on to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
const REQUEST: &[u8] =
    b"GET /path?query HTTP/1.1\r\nHost: example.org\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
const UPLOAD: &[u8] = b"POST /path HTTP/1.1\r\nHost: example.org\r\nContent-Length: 5\r\n\r\nhello";

fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = stream.read(&mut buffer) {
        if stream.write_all(ANSWER).is_err() {
            return;
        }
    }
}

fn exchange(client: &mut TcpStream, request: &[u8]) {
    client.write_all(request).expect("the proxy reads");
    let mut answer = Vec::with_capacity(512);
    let mut buffer = [0; 512];
    while !answer.ends_with(b"Hello, World!") {
        let count = client.read(&mut buffer).expect("the proxy answers");
        assert!(count > 0, "the proxy closed: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn a_warm_keep_alive_request_allocates_nothing() {
    warm_requests_allocate_nothing(&[]);
    // Its line in the access log neither, whatever that quotes.
    let format = "{time} {user} {request_id} \"{request}\" {request.header.accept} \
                  {response.header.content-type} {origin} {arm} {total_s} {memory_peak}";
    let lines = format!("log.access_format={format}");
    warm_requests_allocate_nothing(&["log.access=true", "log.access_file=/dev/null", &lines]);
}

fn warm_requests_allocate_nothing(set: &[&str]) {
    let before_all = WORKER_ALLOCATIONS.load(Ordering::Relaxed);
    let flags = Flags {
        set: set.iter().map(ToString::to_string).collect(),
        host: Some("127.0.0.1".to_owned()),
        port: Some(0),
        upstream: vec![format!("http://{}", origin())],
        workers: Some(1),
        ..Flags::default()
    };
    let config = Config::load(None, &flags).expect("valid flags");
    let server = Server::start(config, Inheritance::default()).expect("a start");
    server.open().expect("workers accept");
    let mut client = TcpStream::connect(server.addresses()[0]).expect("a listener");
    for _ in 0..100 {
        exchange(&mut client, REQUEST);
        exchange(&mut client, UPLOAD);
    }
    // What a second of the janitor and the like allocates may fall into one round, not into each.
    let least = (0..5)
        .map(|_| {
            let before = WORKER_ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..200 {
                exchange(&mut client, REQUEST);
                exchange(&mut client, UPLOAD);
            }
            WORKER_ALLOCATIONS.load(Ordering::Relaxed) - before
        })
        .min();
    assert_eq!(least, Some(0), "allocations in 400 requests");
    assert!(WORKER_ALLOCATIONS.load(Ordering::Relaxed) > before_all, "the counter counts");
    drop(client);
    let report = server.drain(&AtomicBool::new(false), Successor::None);
    assert_eq!(report, ringway::internals::worker::thread::DrainReport::default());
}

#[test]
fn a_request_on_a_warm_http2_connection_allocates_nothing() {
    let mut conversation = Conversation::default();
    for _ in 0..200 {
        conversation.exchange();
    }
    let before = OWN_ALLOCATIONS.get();
    assert!(before > 0, "the counter counts");
    for _ in 0..1000 {
        conversation.exchange();
    }
    assert_eq!(OWN_ALLOCATIONS.get() - before, 0, "allocations in 1,000 requests");
}
