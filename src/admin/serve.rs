//! Connections to the admin address, within bounds.
//!
//! In go connections and the router; out come its answers. At most 64 connections are served at a
//! time, each for a minute, each with a small buffer and a deadline for its head, and for its TLS
//! handshake where the administration speaks that. Where there is no
//! room, the one that has sat there longest without a request goes: no client keeps others out by
//! doing nothing. Bodies of requests are not kept.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use crate::observe::log_limit;
use crate::ring::clock;

use super::guard::Peer;
use super::listen::AdminSocket;
use crate::unix_socket::SocketFile;

/// What one connection, and all of them together, may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Served at a time. Each costs 50 KiB at most, its answer not counted.
    connections: usize,
    /// Without a request for this long, a connection makes room for the next one.
    idle: Duration,
    /// For a whole head, from the moment that the connection has nothing else to do.
    head: Duration,
    /// How long a connection is kept. A scraper opens the next one without noticing.
    connection: Duration,
    /// For the answer under way after that.
    farewell: Duration,
    /// For all answers under way when ringway stops.
    stop: Duration,
}

const BOUNDS: Bounds = Bounds {
    connections: 64,
    idle: Duration::from_millis(100),
    head: Duration::from_secs(5),
    connection: Duration::from_secs(60),
    farewell: Duration::from_secs(5),
    stop: Duration::from_secs(1),
};

/// The largest head of a request, and what is read of a body at a time.
const BUFFER_BYTES: usize = 16 * 1024;

const HEADER_COUNT_MAX: usize = 64;

/// How often a place is looked for while there is none.
const ROOM_POLL: Duration = Duration::from_millis(20);

/// After an accept that failed, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the administration speaks TLS: what the next session is made from. A reload may put other
/// certificates in use.
pub(super) type Secured = Arc<dyn Fn() -> Option<TlsAcceptor> + Send + Sync>;

/// Serves `router` until `stopping` says so; what is under way then has a second more. The file of
/// a Unix socket comes out, which is gone when that is dropped.
pub(super) async fn run(
    socket: AdminSocket,
    router: Router,
    secured: Option<Secured>,
    stopping: watch::Receiver<bool>,
) -> Option<SocketFile> {
    let (served, file) = match socket {
        AdminSocket::Tcp(listener) => (serve_tcp(listener, router, secured, stopping).await, None),
        AdminSocket::Unix(listener, file) => {
            (serve_unix(listener, router, stopping).await, Some(file))
        }
    };
    if let Err(error) = served {
        tracing::error!(%error, "the admin API has ended");
    }
    file
}

async fn serve_tcp(
    listener: std::net::TcpListener,
    router: Router,
    secured: Option<Secured>,
    stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let next = async || {
        let (stream, peer) = listener.accept().await?;
        // A socket that refuses is slower and nothing else.
        let _ = stream.set_nodelay(true);
        Ok((stream, Peer::Tcp(peer.ip())))
    };
    match secured {
        None => accept(BOUNDS, router, stopping, next, plain).await,
        Some(secured) => {
            let open = move |stream| secure(secured.clone(), stream);
            accept(BOUNDS, router, stopping, next, open).await;
        }
    }
    Ok(())
}

async fn serve_unix(
    listener: std::os::unix::net::UnixListener,
    router: Router,
    stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let next = async || Ok((listener.accept().await?.0, Peer::Unix));
    accept(BOUNDS, router, stopping, next, plain).await;
    Ok(())
}

/// A connection without TLS is as it comes.
fn plain<S>(stream: S) -> std::future::Ready<Option<S>> {
    std::future::ready(Some(stream))
}

/// A request in clear, which is told what is spoken here.
const IN_CLEAR: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 40\r\nConnection: close\r\n\r\nThe administration speaks TLS: https://\n";

/// Has TLS agreed upon; whoever awaits this has a deadline for it.
async fn secure(secured: Secured, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 1 && first[0].is_ascii_alphabetic() {
        // Mostly it is read to its end, without which the close would take the answer with it.
        let _ = stream.try_read(&mut [0; 4096]);
        let _ = stream.try_write(IN_CLEAR);
        return None;
    }
    secured()?.accept(stream).await.ok()
}

/// A connection, as the one that accepts sees it.
#[derive(Debug)]
struct ConnectionSlot {
    /// Since when it has had no request, by the coarse clock; `BUSY` while one is answered.
    idle_since_ms: AtomicU64,
    leave: Notify,
}

const BUSY: u64 = u64::MAX;

/// The connections that are served, the oldest first.
#[derive(Debug, Default)]
struct ConnectionSlots(VecDeque<Weak<ConnectionSlot>>);

impl ConnectionSlots {
    fn take(&mut self) -> Arc<ConnectionSlot> {
        let idle_since_ms = AtomicU64::new(clock::coarse_ms());
        let slot = Arc::new(ConnectionSlot { idle_since_ms, leave: Notify::new() });
        self.0.retain(|slot| slot.strong_count() > 0);
        self.0.push_back(Arc::downgrade(&slot));
        slot
    }

    /// Sends the oldest one away that has been idle for long enough.
    fn make_room(&self, idle: Duration) {
        let now_ms = clock::coarse_ms();
        let is_idle = |slot: &Arc<ConnectionSlot>| {
            let since_ms = slot.idle_since_ms.load(Ordering::Relaxed);
            since_ms != BUSY && Duration::from_millis(now_ms.saturating_sub(since_ms)) >= idle
        };
        if let Some(slot) = self.0.iter().filter_map(Weak::upgrade).find(is_idle) {
            slot.leave.notify_one();
        }
    }
}

/// A place for one more connection.
async fn place(
    room: &Arc<Semaphore>,
    slots: &ConnectionSlots,
    idle: Duration,
) -> OwnedSemaphorePermit {
    loop {
        if room.available_permits() == 0 {
            slots.make_room(idle);
        }
        // Again and again, because who is not idle now may be later.
        let permit = tokio::time::timeout(ROOM_POLL, room.clone().acquire_owned());
        if let Ok(Ok(permit)) = permit.await {
            return permit;
        }
    }
}

async fn accept<S, T, F>(
    bounds: Bounds,
    router: Router,
    mut stopping: watch::Receiver<bool>,
    mut next: impl AsyncFnMut() -> io::Result<(S, Peer)>,
    open: impl Fn(S) -> F,
) where
    S: Send + 'static,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = Option<T>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(bounds.connections));
    let mut slots = ConnectionSlots::default();
    loop {
        let accepted = tokio::select! {
            accepted = next() => accepted,
            _ = stopping.wait_for(|is_stopping| *is_stopping) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                    log_limit::too_many_files("accept on the admin address", &error);
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let permit = tokio::select! {
            permit = place(&room, &slots, bounds.idle) => permit,
            _ = stopping.wait_for(|is_stopping| *is_stopping) => break,
        };
        let connection =
            connection(bounds, open(stream), peer, slots.take(), router.clone(), stopping.clone());
        tokio::spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    // Returns as soon as the last connection has gone.
    let all = u32::try_from(bounds.connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(bounds.stop, room.acquire_many(all)).await;
}

async fn connection<S>(
    bounds: Bounds,
    stream: impl Future<Output = Option<S>>,
    peer: Peer,
    slot: Arc<ConnectionSlot>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let opened = tokio::select! {
        opened = tokio::time::timeout(bounds.head, stream) => opened,
        () = slot.leave.notified() => return,
        _ = stopping.wait_for(|is_stopping| *is_stopping) => return,
    };
    let Ok(Some(stream)) = opened else { return };
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        slot.idle_since_ms.store(BUSY, Ordering::Relaxed);
        let (answer, slot) = (router.clone().oneshot(request), &slot);
        async move {
            let answer = answer.await;
            slot.idle_since_ms.store(clock::coarse_ms(), Ordering::Relaxed);
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(BUFFER_BYTES)
        .max_headers(HEADER_COUNT_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // What goes wrong on a connection is its client's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = slot.leave.notified() => return,
        () = tokio::time::sleep(bounds.connection) => {}
        _ = stopping.wait_for(|is_stopping| *is_stopping) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(bounds.farewell, connection).await;
}
#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::yield_now;

    use super::*;

    const FOR_EVER: Duration = Duration::from_secs(3600);

    const PATIENT: Bounds = Bounds {
        connections: 3,
        idle: FOR_EVER,
        head: FOR_EVER,
        connection: FOR_EVER,
        farewell: FOR_EVER,
        stop: FOR_EVER,
    };

    /// One answer at once, one that fits no buffer, and one that never comes.
    fn router() -> Router {
        Router::new()
            .route("/", get(|| async { "yes" }))
            .route("/large", get(|| async { "x".repeat(1 << 20) }))
            .route("/never", get(pending::<&str>))
    }

    /// Runs `test` beside a server with `bounds`, whose connections come from the calls of the
    /// closure that the test gets; each returns the client's end.
    fn serving(bounds: Bounds, test: impl AsyncFnOnce(&dyn Fn() -> DuplexStream, &Cell<usize>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let accepted = Cell::new(0);
        runtime.block_on(async {
            let (clients, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
            let (_stopping, is_stopping) = watch::channel(false);
            let next = async || match arrivals.recv().await {
                Some(stream) => {
                    accepted.set(accepted.get() + 1);
                    Ok((stream, Peer::Unix))
                }
                None => pending().await,
            };
            let connect = || {
                let (client, server) = duplex(1024);
                clients.send(server).unwrap();
                client
            };
            tokio::select! {
                () = accept(bounds, router(), is_stopping, next, plain) => panic!("it has ended"),
                () = test(&connect, &accepted) => {}
            }
        });
    }

    async fn settled() {
        for _ in 0..1_000 {
            yield_now().await;
        }
    }

    async fn answer(client: &mut DuplexStream, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Whether the server has closed the connection. Its client has sent nothing.
    fn is_closed(client: &mut DuplexStream) -> bool {
        let mut read = std::pin::pin!(client.read_u8());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        matches!(read.as_mut().poll(&mut context), std::task::Poll::Ready(Err(_)))
    }

    #[test]
    fn who_only_sits_there_makes_room_for_the_next() {
        let bounds = Bounds { idle: Duration::ZERO, ..PATIENT };
        serving(bounds, async |connect, _| {
            let mut clients: Vec<_> = (0..8).map(|_| connect()).collect();
            settled().await;
            // Three is all there is room for, and the oldest had to go.
            let closed: Vec<_> = clients.iter_mut().map(is_closed).collect();
            assert_eq!(closed, [true, true, true, true, true, false, false, false]);
            assert!(answer(&mut clients[6], "/").await.ends_with("yes"));
        });
    }

    #[test]
    fn no_more_requests_are_under_way_than_there_is_room_for() {
        serving(PATIENT, async |connect, accepted| {
            let mut busy: Vec<_> = (0..3).map(|_| connect()).collect();
            for client in &mut busy {
                client.write_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            }
            settled().await;
            let mut next: Vec<_> = (0..5).map(|_| connect()).collect();
            settled().await;
            // One is accepted and waits; the others are not even that.
            assert_eq!(accepted.get(), 4);
            drop(busy.remove(1));
            assert!(answer(&mut next[0], "/").await.ends_with("yes"));
            assert!(!busy.iter_mut().any(is_closed));
        });
    }

    #[test]
    fn a_head_that_is_not_finished_ends_its_connection() {
        let bounds = Bounds { head: Duration::from_millis(20), ..PATIENT };
        serving(bounds, async |connect, _| {
            for begun in ["", "GET / HTTP/1.1\r\nHost:"] {
                let mut client = connect();
                client.write_all(begun.as_bytes()).await.unwrap();
                let mut rest = Vec::new();
                // For ever, if the test did not end it.
                client.read_to_end(&mut rest).await.unwrap();
            }
        });
    }

    #[test]
    fn a_head_that_is_too_large_is_refused_before_it_is_whole() {
        serving(PATIENT, async |connect, _| {
            let (mut reader, mut writer) = tokio::io::split(connect());
            let flood = async {
                writer.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
                while writer.write_all(b"X-Flood: 0123456789abcdef\r\n").await.is_ok() {}
            };
            let mut answer = Vec::new();
            let ((), read) = tokio::join!(flood, reader.read_to_end(&mut answer));
            assert!(read.is_ok());
            assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
        });
    }

    #[test]
    fn who_does_not_read_the_answer_does_not_keep_the_place() {
        let brief = Duration::from_millis(20);
        let bounds = Bounds { connections: 1, connection: brief, farewell: brief, ..PATIENT };
        serving(bounds, async |connect, _| {
            let mut slow = connect();
            slow.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut next = connect();
            assert!(answer(&mut next, "/").await.ends_with("yes"));
        });
    }
}
