//! Sockets over the ring: waiting with a deadline, and moving bytes without waiting.
//!
//! A `Socket` is an own type rather than tokio-uring's, which has neither flags nor cancellation
//! nor addresses. Its calls that move bytes never block (MSG_DONTWAIT) and never signal
//! (MSG_NOSIGNAL); its waits end by themselves, by their deadline or by [`Socket::interrupt`], and
//! give back what was lent to them in each case.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Type};

use super::channel::{self, Channel};
use super::deadlines::Deadlines;
use super::heads::HeadBuffer;
use super::layer::{Handshake, Layer};
use super::ops::{self, Descriptor, INPUT_HELD, OUTPUT_ONLY, SharedFd, begin_poll};
use super::options::{set_options, unix_address};
use super::over::{self, Over};
use super::waits::{PendingPoll, PendingRecv, Recv, RecvTerm, Term, Wait, WaitError};
use super::{layered, wire};
use crate::address::{Address, UnixAddress};
use crate::http::head::HeadError;
use crate::ledger::Ledger;
use crate::tls::problem::Problem;
use crate::tls::session::Session;

/// A connected stream socket of this worker, of TCP or of this machine (unix(7)).
#[derive(Clone)]
pub struct Socket {
    pub(super) fd: SharedFd,
}

impl Socket {
    /// Takes an accepted connection over.
    pub fn from_fd(fd: OwnedFd, is_unix: bool) -> Self {
        if is_unix {
            // Of TCP it is inherited. Where it cannot be set, the kernel has no urgent bytes here.
            let _ = SockRef::from(&fd).set_out_of_band_inline(true);
        }
        Self { fd: Descriptor::share(fd, is_unix) }
    }

    /// Opens a socket for [`Socket::connect`], over TCP without Nagle, and with keep-alive probes
    /// after `keepalive` of silence where that is not zero.
    pub fn open(address: Address, keepalive: Duration) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking();
        let fd = match address {
            Address::Tcp(address) => {
                let domain = Domain::for_address(address);
                let socket = socket2::Socket::new(domain, kind, Some(Protocol::TCP))?;
                set_options(&socket, keepalive)?;
                socket
            }
            Address::Unix(_) => socket2::Socket::new(Domain::UNIX, kind, None)?,
        };
        Ok(Self::from_fd(fd.into(), address.unix().is_some()))
    }

    /// Connects a socket that [`Socket::open`] has opened.
    ///
    /// A peer on this machine has answered when the call returns, which only a second call tells
    /// (connect(2), EINPROGRESS and EALREADY): that spares a turn of the loop, which is six system
    /// calls where nothing else is to be done.
    pub async fn connect(
        &self,
        address: Address,
        deadlines: &Deadlines,
        limit: Duration,
    ) -> Result<(), WaitError> {
        let address = match address {
            Address::Tcp(address) => SockAddr::from(address),
            Address::Unix(address) => return self.connect_here(address, limit).await,
        };
        let socket = SockRef::from(&*self.fd);
        let mut connected = socket.connect(&address);
        if is_pending(&connected) {
            connected = socket.connect(&address);
        }
        // The ring's RECV must wait: it was of use for these calls only.
        self.set_nonblocking(false)?;
        match connected {
            Ok(()) => Ok(()),
            pending if is_pending(&pending) => {
                // A connection that goes on being made has none of the events that are added.
                self.writable(deadlines, limit).await?;
                match socket.take_error()? {
                    None => Ok(()),
                    Some(error) => Err(WaitError::Failed(error)),
                }
            }
            Err(error) => Err(WaitError::Failed(error)),
        }
    }

    /// A listener of this machine has a connection in its queue at once. Where that is full nothing
    /// tells of a free place, so that it is asked again and again (connect(2), EAGAIN).
    async fn connect_here(&self, address: UnixAddress, limit: Duration) -> Result<(), WaitError> {
        let (began, mut pause) = (Instant::now(), QUEUE_POLL);
        let socket = SockRef::from(&*self.fd);
        let address = unix_address(address)?;
        loop {
            match socket.connect(&address) {
                Ok(()) => return Ok(self.set_nonblocking(false)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(WaitError::Failed(error)),
            }
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(WaitError::Expired);
            }
            tokio::time::sleep(pause.min(left)).await;
            if self.fd.is_cut() {
                return Err(WaitError::Interrupted);
            }
            pause = (2 * pause).min(QUEUE_POLL_MAX);
        }
    }

    /// Begins to receive into the free part of `buffer`; the bytes arrive whether or not the
    /// result is asked for.
    pub fn start_recv(&self, buffer: HeadBuffer) -> PendingRecv {
        PendingRecv { operation: ops::recv(&self.fd, buffer) }
    }

    /// Receives into the free part of `buffer`; 0 is the end of the stream.
    pub fn recv<'a>(
        &self,
        buffer: HeadBuffer,
        deadlines: &'a Deadlines,
        limit: Duration,
    ) -> Recv<'a> {
        let pending = self.start_recv(buffer);
        let term = Term::begin(&self.fd, pending.operation.key(), deadlines, limit);
        Recv { pending, term }
    }

    /// Whether calls on the socket wait (FIONBIO, ioctl(2)); one call where fcntl(2) needs two.
    fn set_nonblocking(&self, is_on: bool) -> io::Result<()> {
        let is_on = libc::c_int::from(is_on);
        // SAFETY: FIONBIO reads one int.
        let result = unsafe { libc::ioctl(self.raw(), libc::FIONBIO, &raw const is_on) };
        Errno::result(result).map(drop).map_err(io::Error::from)
    }

    /// Receives what is there into the free part of `buffer`; 0 is the end of the stream,
    /// `WouldBlock` means nothing yet.
    pub fn try_fill(&self, buffer: &mut HeadBuffer) -> io::Result<usize> {
        let count = match self.try_recv(buffer.free()) {
            // A head that has not come whole is not complete either way.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            count => count?,
        };
        buffer.advance(count);
        Ok(count)
    }

    /// A deadline for a receive that was begun earlier.
    pub fn limit_recv<'a>(
        &'a self,
        pending: &PendingRecv,
        deadlines: &'a Deadlines,
        limit: Duration,
    ) -> RecvTerm<'a> {
        let term = Term::begin(&self.fd, pending.operation.key(), deadlines, limit);
        RecvTerm { fd: &self.fd, term }
    }

    /// Begins to wait for input, a hang-up or an error; holds no buffer and takes no byte.
    pub fn start_poll_input(&self) -> PendingPoll {
        PendingPoll { operation: ops::poll(&self.fd, libc::POLLIN | libc::POLLRDHUP) }
    }

    /// Waits until something can be received, the end of the stream and errors included.
    pub fn readable<'a>(&self, deadlines: &'a Deadlines, limit: Duration) -> Wait<'a> {
        let is_held = self.fd.is_ready() && self.fd.channel().is_none();
        let events = if is_held { INPUT_HELD } else { libc::POLLIN | libc::POLLRDHUP };
        self.wait(events, deadlines, limit)
    }

    /// Waits until something can be sent, sending fails, or the peer has ended its side, which
    /// only the events that come out tell apart.
    pub fn writable<'a>(&self, deadlines: &'a Deadlines, limit: Duration) -> Wait<'a> {
        self.wait(libc::POLLOUT, deadlines, limit)
    }

    /// Waits until the peer has reset the connection, or closed or half-closed its side: io_uring
    /// adds POLLRDHUP to every poll.
    pub(super) fn hang_up<'a>(&self, deadlines: &'a Deadlines) -> Wait<'a> {
        self.wait(0, deadlines, Duration::MAX)
    }

    /// As [`Socket::writable`], for a socket whose peer has ended its side, so that a plain poll
    /// would end at once: input, and its end, do not end this one.
    pub fn writable_only<'a>(&self, deadlines: &'a Deadlines, limit: Duration) -> Wait<'a> {
        self.wait(OUTPUT_ONLY, deadlines, limit)
    }

    fn wait<'a>(&self, events: i16, deadlines: &'a Deadlines, limit: Duration) -> Wait<'a> {
        let operation = begin_poll(&self.fd, events);
        let term = Term::begin(&self.fd, operation.key(), deadlines, limit);
        Wait { operation, term, events }
    }

    /// Sends what the socket takes at once. `WouldBlock` where that is nothing.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.fd.over.get() {
            None => wire::send(&self.fd, bytes),
            Some(over) => over::send(&self.fd, over, bytes),
        }
    }

    /// The same, of bytes that lie in several places; of those of the first alone where they do not
    /// go to the kernel as they are.
    pub(crate) fn try_send_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.fd.over.get() {
            None => wire::send_parts(&self.fd, parts),
            Some(over) => parts.first().map_or(Ok(0), |part| over::send(&self.fd, over, part)),
        }
    }

    /// Its own address, of TCP.
    pub fn own_address(&self) -> Option<SocketAddr> {
        if let Some(channel) = self.fd.channel() {
            return channel::own_address(channel);
        }
        SockRef::from(&*self.fd).local_addr().ok()?.as_socket()
    }

    /// Receives what is there; 0 is the end of the stream, `WouldBlock` means nothing yet.
    pub fn try_recv(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.fd.over.get() {
            None => wire::receive(&self.fd, bytes),
            Some(over) => over::receive(&self.fd, over, bytes),
        }
    }

    /// As [`Socket::try_recv`], and leaves the bytes where they are.
    pub fn try_peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.fd.over.get() {
            None => wire::peek(&self.fd, bytes),
            Some(over) => over::peek(&self.fd, over, bytes),
        }
    }

    /// Whether there is neither a byte to receive nor the end of the stream. What a layer takes for
    /// itself is taken: no receive may be pending on such a socket.
    pub fn is_silent(&self) -> bool {
        matches!(self.try_peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Bytes that the peer has not acknowledged yet (SIOCOUTQ, tcp(7)); 0 where that is not known.
    pub fn unacknowledged(&self) -> usize {
        if self.is_lane() {
            return 0;
        }
        let mut count: libc::c_int = 0;
        // SAFETY: TIOCOUTQ, which SIOCOUTQ is another name for, writes one int.
        let result = unsafe { libc::ioctl(self.raw(), libc::TIOCOUTQ, &raw mut count) };
        if result == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
    }

    /// Whether the peer has ended its side or the connection has failed.
    pub fn has_hung_up(&self) -> bool {
        if let Some(channel) = self.fd.channel() {
            return channel.readiness().is_broken();
        }
        let mut poll = libc::pollfd { fd: self.raw(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one entry, which lives as long as the call; it does not wait.
        let count = unsafe { libc::poll(&raw mut poll, 1, 0) };
        count > 0 && poll.revents != 0
    }

    /// Whether the connection has failed since anybody last asked (SO_ERROR, socket(7)).
    pub fn has_failed(&self) -> bool {
        match self.fd.channel() {
            Some(channel) => channel.readiness().is_broken(),
            None => self.fd.has_failed(),
        }
    }

    /// Throws up to `count` received bytes away, of TCP without copying them (MSG_TRUNC, tcp(7)).
    pub fn try_discard(&self, count: usize) -> io::Result<usize> {
        if let Some(channel) = self.fd.channel() {
            return channel.discard(count);
        }
        if let Some(layer) = self.layer()
            && !layer.is_broken()
        {
            return layered::discard(&self.fd, layer, count);
        }
        if self.fd.is_unix {
            return self.discard_by_copying(count);
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        wire::uninterrupted(|| {
            // SAFETY: with MSG_TRUNC on a TCP socket the kernel writes nothing to the buffer
            // (tcp(7)), so that a null pointer is allowed whatever the length.
            let count = unsafe { libc::recv(self.raw(), std::ptr::null_mut(), count, flags) };
            Errno::result(count).map(isize::cast_unsigned)
        })
    }

    #[cold]
    fn discard_by_copying(&self, count: usize) -> io::Result<usize> {
        let mut scratch = [MaybeUninit::uninit(); DISCARDED_MAX];
        let part = &mut scratch[..count.min(DISCARDED_MAX)];
        let flags = libc::MSG_DONTWAIT;
        loop {
            match SockRef::from(&*self.fd).recv_with_flags(part, flags) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => return received,
            }
        }
    }

    /// Ends what waits for the socket now with [`WaitError::Interrupted`]; the socket lives on and
    /// no byte is lost. `deadlines` are those by which it waits.
    pub fn interrupt(&self, deadlines: &Deadlines) {
        deadlines.interrupt(&self.fd);
    }

    /// As [`Socket::interrupt`], for what waits for it now and for whatever would from now on.
    pub fn interrupt_for_good(&self, deadlines: &Deadlines) {
        self.fd.set_cut();
        deadlines.interrupt(&self.fd);
    }

    /// Ends the connection in both directions, and with it whatever is pending on it.
    pub fn cut(&self) {
        if let Some(channel) = self.fd.channel() {
            return channel.cut();
        }
        let _ = SockRef::from(&*self.fd).shutdown(Shutdown::Both);
    }

    /// Makes the close that follows send RST instead of FIN, so that the peer cannot take what it
    /// has for complete (SO_LINGER with 0 s, socket(7)). Between processes of one machine there is
    /// no RST: there a body is cut short by its length or its chunks alone.
    pub fn reset_on_close(&self) {
        if let Some(channel) = self.fd.channel() {
            return channel.spoil();
        }
        let _ = SockRef::from(&*self.fd).set_linger(Some(Duration::ZERO));
    }

    /// As [`Socket::say_goodbye`], and waits until the socket has taken it, for `limit` at most.
    #[cold]
    pub async fn take_leave(&self, deadlines: &Deadlines, limit: Duration) {
        let Some(layer) = self.layer() else { return };
        let began = Instant::now();
        while !layered::say_goodbye(&self.fd, layer) {
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() || self.writable_only(deadlines, left).await.is_err() {
                return;
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        if let Some(channel) = self.fd.channel() {
            return channel.finish_sending();
        }
        self.say_goodbye();
        let _ = SockRef::from(&*self.fd).shutdown(Shutdown::Write);
    }

    /// Whether its bytes are those on the wire, so that the kernel may move them by itself.
    pub fn is_plain(&self) -> bool {
        self.fd.over.get().is_none()
    }

    /// Whether its bytes are secret on the wire.
    pub fn is_secure(&self) -> bool {
        self.wire().layer().is_some()
    }

    /// A socket whose bytes `channel` has.
    pub(crate) fn of_channel(channel: Rc<dyn Channel>) -> Self {
        Self { fd: Descriptor::virtual_of(channel) }
    }

    /// The connection that carries it: itself, or that which it is a stream of.
    pub(crate) fn wire(&self) -> &Self {
        self.fd.channel().map_or(self, |channel| channel.wire())
    }

    /// Whether it is a part of a connection, and has no descriptor.
    pub(crate) fn is_lane(&self) -> bool {
        self.fd.channel().is_some()
    }

    /// Bytes of a body that a lane takes at once; `None` where the kernel alone knows.
    pub(crate) fn lane_room(&self) -> Option<usize> {
        self.fd.channel().map(Channel::room)
    }

    /// The number of the stream that it stands for, where it does.
    pub(crate) fn stream_id(&self) -> Option<u32> {
        self.fd.channel().and_then(Channel::stream_id)
    }

    /// Why the request that it has received is refused, where it is a stream that knows that.
    pub(crate) fn refusal(&self) -> Option<HeadError> {
        self.fd.channel().and_then(Channel::refusal)
    }

    /// Has the peer ask again in HTTP/1.1 where it is a stream; whether it is one.
    pub(crate) fn require_http1(&self) -> bool {
        self.fd.channel().inspect(|channel| channel.require_http1()).is_some()
    }

    /// Whether it is a stream, and its peer has said that it has not acted upon what was sent.
    pub(crate) fn is_refused(&self) -> bool {
        self.fd.channel().is_some_and(Channel::is_refused)
    }

    fn layer(&self) -> Option<&Layer> {
        self.fd.over.get().and_then(|over| over.session())
    }

    /// Puts a session between the wire and whoever uses the socket, once and for all; its handshake
    /// is to be driven by [`Socket::try_handshake`].
    pub(crate) fn secure(&self, session: Session, ledger: Arc<Ledger>) {
        let layer = Box::new(Over::Session(Box::new(Layer::new(session, ledger))));
        assert!(self.fd.over.set(layer).is_ok(), "a socket has one layer at most");
    }

    /// Goes on with the handshake of a socket that has been secured, as far as that is possible
    /// without waiting, and by one flight of the peer at most.
    pub(crate) fn try_handshake(&self) -> io::Result<Handshake> {
        let layer = self.layer();
        layer.map_or(Ok(Handshake::Done), |layer| layered::shake(&self.fd, layer))
    }

    /// Why its session cannot go on, where it has one that cannot.
    pub(crate) fn session_problem(&self) -> Option<Problem> {
        self.wire().layer().and_then(Layer::problem)
    }

    /// What its session knows of the peer; `None` where it has none.
    pub(crate) fn session<T>(&self, ask: impl FnOnce(&Session) -> T) -> Option<T> {
        self.wire().layer().map(|layer| layer.ask(ask))
    }

    /// Says to a secured peer that what it has received is all; a plain one learns it by FIN.
    pub fn say_goodbye(&self) {
        if let Some(layer) = self.layer() {
            layered::say_goodbye(&self.fd, layer);
        }
    }

    /// Calls on the socket do not wait (O_NONBLOCK of its file, by FIONBIO) until each of these has
    /// been answered by an [`Socket::end_splicing`].
    pub(super) fn begin_splicing(&self) -> io::Result<()> {
        if self.fd.splicers() == 0 {
            self.set_nonblocking(true)?;
        }
        self.fd.add_splicer();
        Ok(())
    }

    pub(super) fn end_splicing(&self) {
        self.fd.remove_splicer();
        if self.fd.splicers() == 0 {
            let _ = self.set_nonblocking(false);
        }
    }

    fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether a connect goes on in the kernel.
fn is_pending(connected: &io::Result<()>) -> bool {
    let error = connected.as_ref().err().and_then(io::Error::raw_os_error);
    matches!(error, Some(libc::EINPROGRESS | libc::EALREADY))
}

/// How often a full queue of a listener of this machine is asked: at first, and at last.
const QUEUE_POLL: Duration = Duration::from_millis(1);
const QUEUE_POLL_MAX: Duration = Duration::from_millis(50);

/// What one call throws away of a socket that has to copy it.
const DISCARDED_MAX: usize = 16 * 1024;
