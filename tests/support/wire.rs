//! One end of a TCP connection that speaks raw bytes and reads whole messages.
//!
//! Comes in: a connected stream. Goes out: bytes exactly as a test wrote them, and messages found
//! by their own framing. It never answers by itself and never waits past `DEADLINE`: what had
//! arrived until then becomes the text of the panic.

use super::message::{Ending, Message, latin1, parse_fields};
use super::unread::Unread;
use super::{DEADLINE, show, wait_until};
use memchr::memmem;
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What a look at the connection brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Bytes,
    /// The other end closed in order.
    End,
    /// The other end closed with a reset.
    Reset,
}

/// What is to be read, because a response to HEAD ends differently.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Request,
    Response,
    ResponseToHead,
}

pub(crate) struct Wire {
    stream: TcpStream,
    /// Received, and not yet part of anything that was read.
    pending: Vec<u8>,
    /// Where the kernel puts what arrives.
    arrived: Box<[u8]>,
    /// Told of every byte when it arrives, before anything makes sense of it.
    witness: Witness,
    /// How whoever is at the other end knows us, where somebody speaks for us.
    alias: Option<SocketAddr>,
}

type Witness = Box<dyn Fn(&[u8]) + Send>;

impl Wire {
    pub(crate) fn new(stream: TcpStream, witness: impl Fn(&[u8]) + Send + 'static) -> Self {
        // A socket of this machine has no Nagle.
        let _ = stream.set_nodelay(true);
        stream.set_write_timeout(Some(DEADLINE)).expect("a connected stream");
        let arrived = vec![0; 256 * 1024].into_boxed_slice();
        Self { stream, pending: Vec::new(), arrived, witness: Box::new(witness), alias: None }
    }

    /// A second handle, for a thread that sends while this one receives.
    pub(crate) fn another_handle(&self) -> Self {
        Self::new(self.stream.try_clone().expect("a connected stream"), |_| ())
    }

    pub(crate) fn known_as(mut self, alias: Option<SocketAddr>) -> Self {
        self.alias = alias;
        self
    }

    pub(crate) fn local(&self) -> SocketAddr {
        if let Some(alias) = self.alias {
            return alias;
        }
        self.stream.local_addr().expect("a connected stream")
    }

    /// Sends bytes as they are. That the other end is gone is no failure here: what it said before
    /// it went is what a test wants to read.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        match self.stream.write_all(bytes.as_ref()) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(e) => panic!("sending {} bytes: {e}", bytes.as_ref().len()),
        }
    }

    /// Sends until the other end takes nothing more for `patience`. Returns how much it took.
    pub(crate) fn send_until_stalled(&mut self, bytes: &[u8], patience: Duration) -> usize {
        self.stream.set_write_timeout(Some(patience)).expect("a connected stream");
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                // Stalled for good, or gone: either way this is how much it took.
                Err(_) => break,
            }
        }
        self.stream.set_write_timeout(Some(DEADLINE)).expect("a connected stream");
        sent
    }

    /// Waits until the process at the other end has read all that was sent, so that what is sent
    /// next is a read of its own. Linux delivers on the loopback before `send` returns; should it
    /// once not, two pieces arrive as one and a test sees a simpler case than it meant to.
    #[track_caller]
    pub(crate) fn wait_until_read(&self) {
        let Ok(other) = self.stream.peer_addr() else { return };
        let unread = Unread::new(other, self.stream.local_addr().expect("a connected stream"));
        wait_until("the other end has read what was sent", || {
            unread.as_ref().and_then(Unread::count).is_none_or(|count| count == 0)
        });
    }

    /// Ends our direction only.
    pub(crate) fn half_close(&self) {
        // Already disconnected is as good as closed.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a stream");
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Waits for the next bytes or the end.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Arrival {
        self.receive_before(Instant::now() + DEADLINE).unwrap_or_else(|| {
            panic!("nothing came for {DEADLINE:?}; unread: {}", show(&self.pending))
        })
    }

    fn receive_before(&mut self, deadline: Instant) -> Option<Arrival> {
        loop {
            let left = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())?;
            self.stream.set_read_timeout(Some(left)).expect("a connected stream");
            match self.stream.read(&mut self.arrived) {
                Ok(0) => return Some(Arrival::End),
                Ok(count) => {
                    (self.witness)(&self.arrived[..count]);
                    self.pending.extend_from_slice(&self.arrived[..count]);
                    return Some(Arrival::Bytes);
                }
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Some(Arrival::Reset),
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(e) => panic!("receiving: {e}"),
            }
        }
    }

    /// Whether nothing arrives for `time`, neither bytes nor an end. For promises of silence.
    pub(crate) fn is_quiet_for(&mut self, time: Duration) -> bool {
        self.pending.is_empty() && self.receive_before(Instant::now() + time).is_none()
    }

    /// Exactly `count` bytes, or fewer if the connection ends before.
    #[track_caller]
    pub(crate) fn read_up_to(&mut self, count: usize) -> Vec<u8> {
        while self.pending.len() < count && self.receive() == Arrival::Bytes {}
        self.take(count.min(self.pending.len()))
    }

    /// Takes up to `count` bytes without looking at them. Returns how many came.
    #[track_caller]
    pub(crate) fn discard(&mut self, count: usize) -> usize {
        let mut left = count;
        loop {
            left = left.saturating_sub(self.pending.len());
            self.forget();
            if left == 0 || self.receive() != Arrival::Bytes {
                return count - left;
            }
        }
    }

    /// Drops what was received and not read.
    pub(crate) fn forget(&mut self) {
        self.pending.clear();
    }

    /// Exactly `count` bytes.
    #[track_caller]
    pub(crate) fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let bytes = self.read_up_to(count);
        assert!(bytes.len() == count, "expected {count} bytes, got {}", show(&bytes));
        bytes
    }

    /// These bytes and no others, looked at as they come: they may be too many to be kept.
    #[track_caller]
    pub(crate) fn expect_stream(&mut self, expected: &[u8]) {
        let mut at = 0;
        loop {
            let count = self.pending.len().min(expected.len() - at);
            let (came, due) = (&self.pending[..count], &expected[at..at + count]);
            assert!(came == due, "other bytes from {at} on: {}, not {}", show(came), show(due));
            self.pending.drain(..count);
            at += count;
            if at == expected.len() {
                return;
            }
            let arrival = self.receive();
            assert!(arrival == Arrival::Bytes, "{arrival:?} after {at} of {}", expected.len());
        }
    }

    /// Nothing more comes, and the connection ends in this way.
    #[track_caller]
    pub(crate) fn expect_end(&mut self, end: Arrival) {
        let (rest, came) = self.read_to_end();
        assert!(rest.is_empty(), "expected {end:?}, got {}", show(&rest));
        assert!(came == end, "expected {end:?}, got {came:?}");
    }

    /// Sends back whatever comes until the other end has no more to say.
    #[track_caller]
    pub(crate) fn echo(&mut self) {
        while !self.pending.is_empty() || self.receive() == Arrival::Bytes {
            let bytes = std::mem::take(&mut self.pending);
            self.send(bytes);
        }
    }

    /// Everything up to the first occurrence of `text`, which must come.
    #[track_caller]
    pub(crate) fn read_until(&mut self, text: &str) -> Vec<u8> {
        loop {
            if let Some(at) = memmem::find(&self.pending, text.as_bytes()) {
                return self.take(at + text.len());
            }
            let arrival = self.receive();
            assert!(arrival == Arrival::Bytes, "{arrival:?} instead of {text:?}");
        }
    }

    /// Everything until the connection ends, and how it ended.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, Arrival) {
        loop {
            match self.receive() {
                Arrival::Bytes => {}
                end => return (std::mem::take(&mut self.pending), end),
            }
        }
    }

    /// The next head, or nothing if the connection ends before its first byte.
    #[track_caller]
    pub(crate) fn read_head(&mut self) -> Option<Message> {
        loop {
            if let Some(at) = memmem::find(&self.pending, b"\r\n\r\n") {
                return Some(Message::parse_head(self.take(at + 4)));
            }
            match self.receive() {
                Arrival::Bytes => {}
                _ if self.pending.is_empty() => return None,
                end => panic!("{end:?} inside a head: {}", show(&self.pending)),
            }
        }
    }

    /// The next message, or nothing if the connection ends before its first byte.
    #[track_caller]
    pub(crate) fn read_message(&mut self, expected: Expected) -> Option<Message> {
        let mut message = self.read_head()?;
        self.read_body(&mut message, expected);
        Some(message)
    }

    /// The body that belongs to a head which was read before.
    #[track_caller]
    pub(crate) fn read_body(&mut self, message: &mut Message, expected: Expected) {
        let coding = message.field("transfer-encoding").map(str::to_owned);
        let length = message.field("content-length").map(str::to_owned);
        let is_bodiless = match expected {
            Expected::Request => false,
            Expected::ResponseToHead => true,
            Expected::Response => matches!(message.status(), 100..=199 | 204 | 304),
        };
        match (coding, length) {
            _ if is_bodiless => {}
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => {
                self.read_chunks(message);
            }
            (None, Some(length)) => {
                let length = length.parse().expect("Content-Length is a number");
                message.body = self.read_up_to(length);
                message.ending =
                    if message.body.len() == length { Ending::Length } else { Ending::Cut };
            }
            (None, None) if expected == Expected::Response => {
                let (body, end) = self.read_to_end();
                message.body = body;
                message.ending = if end == Arrival::End { Ending::Closed } else { Ending::Cut };
            }
            (None, None) => {}
            (coding, length) => panic!("framed by {coding:?} and {length:?}: {message}"),
        }
    }

    fn read_chunks(&mut self, message: &mut Message) {
        message.ending = Ending::Cut;
        loop {
            let Some(line) = self.read_line() else { return };
            let size = line.split(';').next().expect("a split has a first part");
            let size = usize::from_str_radix(size, 16).expect("a chunk size in hexadecimal");
            if size == 0 {
                break;
            }
            let payload = self.read_up_to(size);
            message.body.extend_from_slice(&payload);
            if payload.len() < size {
                return;
            }
            message.chunks.push(size);
            let Some(end) = self.read_line() else { return };
            assert!(end.is_empty(), "a chunk of {size} bytes is followed by {end:?}");
        }
        let mut lines = String::new();
        loop {
            match self.read_line() {
                None => return,
                Some(line) if line.is_empty() => break,
                Some(line) => lines = lines + &line + "\r\n",
            }
        }
        message.trailers = parse_fields(&lines);
        message.ending = Ending::Chunked;
    }

    /// A line without its CRLF, or nothing if the connection ends inside it.
    #[track_caller]
    pub(crate) fn read_line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = memmem::find(&self.pending, b"\r\n") {
                return Some(latin1(&self.take(at + 2)[..at]));
            }
            if self.receive() != Arrival::Bytes {
                return None;
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.pending.split_off(count);
        std::mem::replace(&mut self.pending, rest)
    }
}
