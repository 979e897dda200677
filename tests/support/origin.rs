//! The scripted origin: a listener that runs one script per connection and remembers everything.
//!
//! Comes in: connections from the proxy. Goes out: whatever the script sends, and a journal of
//! every connection, every byte and every request that arrived. It never parses beyond what a
//! script asks for, and a script that panics fails the test that owns the origin.

use super::message::Message;
use super::wire::{Expected, Wire};
use super::{DEADLINE, Gate, OK, show};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub(crate) struct Origin {
    address: SocketAddr,
    listener: TcpListener,
    journal: Arc<Journal>,
    accepting: Option<JoinHandle<()>>,
    /// Fails the test if any byte arrives.
    is_untouchable: bool,
}

/// What an origin has seen so far.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: Vec<Connection>,
    /// The requests that scripts have read to their end, in that order.
    pub(crate) requests: Vec<Message>,
    /// What scripts died of.
    failures: Vec<String>,
    /// From here on a script that fails fails because it was stopped.
    is_stopping: bool,
}

pub(crate) struct Connection {
    /// Every byte that a script received, understood or not, up to `WITNESSED_BYTES_MAX`.
    pub(crate) bytes: Vec<u8>,
    /// The script has not ended yet.
    pub(crate) is_open: bool,
    /// To end a script that waits for bytes. Gone when the script has ended, because a reset needs
    /// the last handle to be closed.
    stream: Option<TcpStream>,
}

/// Longer uploads are for the scripts that read them to judge.
const WITNESSED_BYTES_MAX: usize = 4 << 20;

impl Seen {
    pub(crate) fn open(&self) -> usize {
        self.connections.iter().filter(|connection| connection.is_open).count()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.connections.iter().flat_map(|connection| connection.bytes.clone()).collect()
    }
}

#[derive(Default)]
struct Journal {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Journal {
    fn write<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let result = change(&mut self.read());
        self.changed.notify_all();
        result
    }

    /// A test that failed with the journal in hand has failed already; its end must still be seen.
    fn read(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens on an address that may have been another's. While it was nobody's, a connection of
/// another test can have got its port, and gives it back soon.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::park_timeout(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

impl Origin {
    /// Runs `script` once per connection, each on a thread of its own.
    pub(crate) fn start(script: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), script)
    }

    /// The same on a given address, to come back where another origin has stopped.
    #[track_caller]
    pub(crate) fn start_at(
        address: SocketAddr,
        script: impl Fn(Peer) + Send + Sync + 'static,
    ) -> Self {
        let listener = bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        let address = listener.local_addr().expect("a bound listener");
        let journal = Arc::<Journal>::default();
        let accepting = {
            let (listener, journal) = (listener.try_clone().unwrap(), Arc::clone(&journal));
            thread::spawn(move || accept(&listener, &journal, &Arc::new(script)))
        };
        let accepting = Some(accepting);
        Self { address, listener, journal, accepting, is_untouchable: false }
    }

    /// Holds every answer, which is [`OK`], back until the gate opens.
    pub(crate) fn held() -> (Self, Gate) {
        let is_open = Gate::default();
        let origin = Self::start({
            let is_open = is_open.clone();
            move |mut peer| {
                while peer.next_request().is_some() {
                    is_open.wait();
                    peer.send(OK);
                }
            }
        });
        (origin, is_open)
    }

    /// Gives every request the same answer and keeps its connections open.
    pub(crate) fn answering(response: impl AsRef<[u8]>) -> Self {
        let response = response.as_ref().to_vec();
        Self::start(move |mut peer| {
            while peer.next_request().is_some() {
                peer.send(&response);
            }
        })
    }

    /// Sends the given bytes to the first request of each connection, then closes it.
    pub(crate) fn answering_and_closing(response: impl AsRef<[u8]>) -> Self {
        let response = response.as_ref().to_vec();
        Self::start(move |mut peer| {
            if peer.next_request().is_some() {
                peer.send(&response);
            }
        })
    }

    /// Sends back whatever comes.
    pub(crate) fn echoing() -> Self {
        Self::start(|mut peer| peer.echo())
    }

    /// Takes whatever comes and never says a word.
    pub(crate) fn silent() -> Self {
        Self::start(|mut peer| {
            peer.read_to_end();
        })
    }

    /// Fails the test if a single byte ever arrives. Connections are no harm: a pool may open them.
    pub(crate) fn untouchable() -> Self {
        let mut origin = Self::silent();
        origin.is_untouchable = true;
        origin
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.journal.read()
    }

    /// Waits until what was seen satisfies `is_enough`.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, is_enough: impl Fn(&Seen) -> bool) {
        let waiting = |seen: &mut Seen| !is_enough(seen) && seen.failures.is_empty();
        let waited = self.journal.changed.wait_timeout_while(self.seen(), DEADLINE, waiting);
        let (seen, late) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(seen.failures.is_empty(), "the origin failed: {:?}", seen.failures);
        assert!(
            !late.timed_out(),
            "the origin waited {DEADLINE:?} for {what}; {} connections, {} open, bytes: {}",
            seen.connections.len(),
            seen.open(),
            show(&seen.bytes())
        );
    }

    /// The only request that this origin was given.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Message {
        self.wait_for("a request", |seen| !seen.requests.is_empty());
        let seen = self.seen();
        assert!(seen.requests.len() == 1, "expected one request, saw {:?}", seen.requests);
        seen.requests[0].clone()
    }

    /// Ends every connection and the listener; a new origin may come to the same address.
    #[track_caller]
    pub(crate) fn stop(mut self) -> SocketAddr {
        self.close();
        self.address
    }

    /// The bytes that must not have come.
    #[track_caller]
    pub(crate) fn expect_untouched(&self) {
        let bytes = self.seen().bytes();
        assert!(bytes.is_empty(), "the origin was given {}", show(&bytes));
    }

    #[track_caller]
    fn close(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        // On Linux this ends a pending accept, which dropping the listener would not.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        self.journal.write(|seen| {
            seen.is_stopping = true;
            for stream in seen.connections.iter().filter_map(|c| c.stream.as_ref()) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        accepting.join().expect("the accepting thread catches what scripts throw");
        if !thread::panicking() {
            let seen = self.seen();
            assert!(seen.failures.is_empty(), "the origin failed: {:?}", seen.failures);
            drop(seen);
            if self.is_untouchable {
                self.expect_untouched();
            }
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.close();
    }
}

/// An address whose kernel takes no connection and refuses none: its queue is full.
pub(crate) struct Blackhole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl Blackhole {
    pub(crate) fn new() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// The same at a given address.
    #[track_caller]
    pub(crate) fn at(address: SocketAddr) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::from(address)).unwrap_or_else(|e| panic!("{address}: {e}"));
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // A queue of length 0 holds one connection; the others are dropped without an answer.
        let queued = (0..4)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&address);
                socket
            })
            .collect();
        let address = address.as_socket().expect("an internet address");
        Self { address, _listener: listener, _queued: queued }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A listener whose connections are for the test to take, one by one and by hand.
pub(crate) struct Target(Socket);

impl Target {
    pub(crate) fn new() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    #[track_caller]
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self::try_at(address).unwrap_or_else(|e| panic!("{address}: {e}"))
    }

    fn try_at(address: SocketAddr) -> std::io::Result<Self> {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        listener.bind(&address.into())?;
        listener.listen(128)?;
        Ok(Self(listener))
    }

    /// One at each of the addresses, at a port that is free at all of them.
    #[track_caller]
    pub(crate) fn at_one_port<const N: usize>(
        first: IpAddr,
        others: [IpAddr; N],
    ) -> (Self, [Self; N]) {
        for _ in 0..100 {
            let one = Self::at((first, 0).into());
            let port = one.address().port();
            let all: Result<Vec<_>, _> =
                others.iter().map(|other| Self::try_at((*other, port).into())).collect();
            if let Some(all) = all.ok().and_then(|all| all.try_into().ok()) {
                return (one, all);
            }
        }
        panic!("no port is free at {first} and {others:?}");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().expect("an internet address")
    }

    /// The next connection, which must come.
    #[track_caller]
    pub(crate) fn accept(&self) -> Wire {
        // On Linux the time limit for reads is one for accepting, too.
        self.0.set_read_timeout(Some(DEADLINE)).unwrap();
        let accepted = self.0.accept();
        let (socket, _) = accepted.unwrap_or_else(|e| panic!("nobody came for {DEADLINE:?}: {e}"));
        Wire::new(socket.into(), |_| ())
    }

    /// Nobody has come who was not taken.
    #[track_caller]
    pub(crate) fn expect_nobody(&self) {
        self.0.set_nonblocking(true).unwrap();
        assert!(self.0.accept().is_err(), "somebody came to {}", self.address());
        self.0.set_nonblocking(false).unwrap();
    }
}

/// A port of the loopback on which nobody listens, for as long as this lives.
pub(crate) struct Refusal(Socket);

impl Refusal {
    pub(crate) fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Bound but not listening: the port is taken, and a connection to it is refused.
        socket.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().expect("an internet address")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}

/// The origin's end of one connection.
pub(crate) struct Peer {
    /// The how-manieth connection of this origin, from 0.
    pub(crate) number: usize,
    wire: Wire,
    // After the wire, so that the journal learns of the end when there is nothing left to see.
    journal: Arc<Journal>,
}

impl Peer {
    /// The head of the next request, or nothing when the connection ends before one begins. A
    /// proxy may rest its connections for as long as it likes, so this waits without a deadline;
    /// the origin's end ends it.
    #[track_caller]
    pub(crate) fn next_head(&mut self) -> Option<Message> {
        while self.wire.is_quiet_for(DEADLINE) {}
        self.wire.read_head()
    }

    /// The next whole request, or nothing when the connection ends before one begins.
    #[track_caller]
    pub(crate) fn next_request(&mut self) -> Option<Message> {
        let mut request = self.next_head()?;
        self.wire.read_body(&mut request, Expected::Request);
        self.journal.write(|seen| seen.requests.push(request.clone()));
        Some(request)
    }

    /// The next whole request, which must come.
    #[track_caller]
    pub(crate) fn expect_request(&mut self) -> Message {
        self.next_request().expect("a request, not the end of the connection")
    }

    /// The head of the next request, which must come; its body stays on the wire.
    #[track_caller]
    pub(crate) fn expect_head(&mut self) -> Message {
        self.wire.read_head().expect("a request, not the end of the connection")
    }

    /// Keeps the connection open until the other end closes it.
    pub(crate) fn hold(mut self) {
        self.wire.read_to_end();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        SockRef::from(self.wire.stream()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let number = self.number;
        self.journal.write(|seen| {
            seen.connections[number].stream = None;
            seen.connections[number].is_open = false;
        });
    }
}

impl Deref for Peer {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl DerefMut for Peer {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

fn accept<S>(listener: &TcpListener, journal: &Arc<Journal>, script: &Arc<S>)
where
    S: Fn(Peer) + Send + Sync + 'static,
{
    let mut scripts = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        let handle = stream.try_clone().expect("a handle for the journal");
        let number = journal.write(|seen| {
            if seen.is_stopping {
                let _ = handle.shutdown(Shutdown::Both);
            }
            let stream = Some(handle);
            seen.connections.push(Connection { bytes: Vec::new(), is_open: true, stream });
            seen.connections.len() - 1
        });
        let witness = {
            let journal = Arc::clone(journal);
            move |bytes: &[u8]| {
                journal.write(|seen| {
                    let witnessed = &mut seen.connections[number].bytes;
                    let room = WITNESSED_BYTES_MAX - witnessed.len();
                    witnessed.extend_from_slice(&bytes[..room.min(bytes.len())]);
                });
            }
        };
        let peer = Peer { number, wire: Wire::new(stream, witness), journal: Arc::clone(journal) };
        let (script, journal) = (Arc::clone(script), Arc::clone(journal));
        scripts.push(thread::spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| script(peer))) {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                journal.write(|seen| {
                    if !seen.is_stopping {
                        seen.failures.push(format!("connection {number}: {text:?}"));
                    }
                });
            }
        }));
    }
    for script in scripts {
        script.join().expect("a script's panic was caught");
    }
}
