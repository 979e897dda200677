//! The scripted client: raw bytes to the proxy, whole responses back.
//!
//! Comes in: bytes and expectations, in the order of a conversation. Goes out: responses, or a
//! panic that names the expectation and shows what came instead. It never retries, never reconnects
//! and never adds a byte to what a test wrote.

use super::gateway::{over_http2, speaks_http2};
use super::message::{Ending, Message};
use super::wire::{Arrival, Expected, Wire};
use super::{DEADLINE, connect, show};
use socket2::{Domain, Socket, Type};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub(crate) struct Client(Wire);

impl Client {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)
            .unwrap_or_else(|e| panic!("connecting to {address}: {e}"));
        Self::over(stream)
    }

    /// Over HTTP/2 where the suite does.
    fn over(stream: TcpStream) -> Self {
        if !speaks_http2() {
            return Self(Wire::new(stream, |_| ()));
        }
        let alias = stream.local_addr().ok();
        Self(Wire::new(over_http2(stream), |_| ()).known_as(alias))
    }

    /// A client of HTTP/1.1 in every suite, for what speaks nothing else.
    #[track_caller]
    pub(crate) fn plain(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE);
        Self(Wire::new(stream.unwrap_or_else(|e| panic!("connecting to {address}: {e}")), |_| ()))
    }

    /// A client of this machine. For the standard library a stream of TCP is any stream socket.
    #[track_caller]
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path)
            .unwrap_or_else(|error| panic!("connecting to {}: {error}", path.display()));
        Self(Wire::new(OwnedFd::from(stream).into(), |_| ()))
    }

    /// A client whose kernel takes in little, so that a body it does not read stays outside.
    #[track_caller]
    pub(crate) fn with_small_window(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        socket.connect_timeout(&address.into(), DEADLINE).unwrap();
        Self::over(socket.into())
    }

    /// A client that comes from a given address of this machine.
    #[track_caller]
    pub(crate) fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap_or_else(|e| panic!("{source}: {e}"));
        socket.connect_timeout(&address.into(), DEADLINE).unwrap();
        Self::over(socket.into())
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.send(bytes);
        self
    }

    /// The next response, interim ones included, which must be whole.
    #[track_caller]
    pub(crate) fn read_response(&mut self) -> Message {
        let response = self.read_any_response(Expected::Response);
        assert!(response.ending != Ending::Cut, "the connection ended inside {response}");
        response
    }

    /// The response to a HEAD request.
    #[track_caller]
    pub(crate) fn read_response_to_head(&mut self) -> Message {
        self.read_any_response(Expected::ResponseToHead)
    }

    /// A response that must not look complete, because its source was cut off.
    #[track_caller]
    pub(crate) fn read_cut_response(&mut self) -> Message {
        let response = self.read_any_response(Expected::Response);
        assert!(response.ending == Ending::Cut, "a cut answer looks complete: {response}");
        response
    }

    #[track_caller]
    fn read_any_response(&mut self, expected: Expected) -> Message {
        let response = self.0.read_message(expected);
        response.expect("the connection ended before the first byte of a response")
    }

    /// Reads one whole response and checks its status.
    #[track_caller]
    pub(crate) fn expect_status(&mut self, status: u16) -> &mut Self {
        self.read_response().expect_status(status);
        self
    }

    /// Asks for a tunnel to `target` and gets it: what follows is for whoever is at its end.
    #[track_caller]
    pub(crate) fn tunnel(&mut self, target: impl Display) -> &mut Self {
        self.send(connect(target)).expect_tunnel()
    }

    /// The answer to CONNECT that makes the connection a tunnel. It ends with its head.
    #[track_caller]
    pub(crate) fn expect_tunnel(&mut self) -> &mut Self {
        let answer = self.read_head().expect("the connection ended instead of an answer");
        answer.expect_status(200);
        answer.expect_no_field("Content-Length").expect_no_field("Transfer-Encoding");
        self
    }

    /// An error of the proxy's own, after which it listens to nothing more.
    #[track_caller]
    pub(crate) fn expect_refusal(&mut self, status: u16, reason: &str, error: &str) -> &mut Self {
        let response = self.read_response();
        response.expect_own_error(status, reason, error);
        if speaks_http2() {
            // What is refused is the stream.
            return self;
        }
        response.expect_field("Connection", "close");
        self.expect_orderly_close()
    }

    /// The connection ends, with an error of the proxy or with nothing.
    #[track_caller]
    pub(crate) fn expect_no_success(&mut self) -> &mut Self {
        let (bytes, _) = self.0.read_to_end();
        let is_error = bytes.starts_with(b"HTTP/1.1 4") || bytes.starts_with(b"HTTP/1.1 5");
        assert!(bytes.is_empty() || is_error, "expected no success, got {}", show(&bytes));
        self
    }

    /// Over HTTP/2 nothing more has to come: what ended is the stream.
    fn ends_with_its_stream(&mut self) -> bool {
        speaks_http2() && self.0.is_quiet_for(Duration::from_millis(100))
    }

    /// Nothing more comes, and the connection ends, be it by a close or by a reset.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) -> &mut Self {
        if self.ends_with_its_stream() {
            return self;
        }
        let (rest, _) = self.0.read_to_end();
        assert!(rest.is_empty(), "expected the end of the connection, got {}", show(&rest));
        self
    }

    /// Nothing more comes, and the connection ends by an orderly close.
    #[track_caller]
    pub(crate) fn expect_orderly_close(&mut self) -> &mut Self {
        if self.ends_with_its_stream() {
            return self;
        }
        let (rest, end) = self.0.read_to_end();
        assert!(rest.is_empty(), "expected the end of the connection, got {}", show(&rest));
        assert!(end == Arrival::End, "expected a close, got a reset");
        self
    }

    /// The connection is still open and says nothing. `time` is how long it is given to do wrong.
    #[track_caller]
    pub(crate) fn expect_quiet_for(&mut self, time: Duration) -> &mut Self {
        assert!(self.0.is_quiet_for(time), "expected silence for {time:?}");
        self
    }

    pub(crate) fn reset(self) {
        self.0.reset();
    }
}

impl Deref for Client {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.0
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.0
    }
}
