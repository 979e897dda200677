//! A listening socket, and the connections that come in on it.
//!
//! In goes a descriptor that all workers share; out come connected sockets with their peers'
//! addresses. One accept is pending in the ring; the rest of a burst is taken by plain calls.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use socket2::SockAddr;

use super::ops::{self, AddressRoom, Descriptor, Key, SharedFd};
use super::stable::StableBox;
use super::waits::WaitError;
use crate::address::PeerAddress;

/// A listening socket, as one worker sees it.
pub(crate) struct Acceptor {
    fd: SharedFd,
    room: Option<StableBox<AddressRoom>>,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    is_stopped: Cell<bool>,
    /// The accept under way.
    pending: Cell<Option<Key>>,
}

/// Ends the accepting of one [`Acceptor`], and no other's on the same listening socket.
pub(crate) struct Stopper(Rc<State>);

impl Stopper {
    /// Whether it is for the accepting of `acceptor`.
    pub(crate) fn is_for(&self, acceptor: &Acceptor) -> bool {
        Rc::ptr_eq(&self.0, &acceptor.state)
    }

    /// An accept that is pending completes: with a connection, if one has just come, or else with
    /// [`WaitError::Interrupted`].
    pub(crate) fn stop(self) {
        self.0.is_stopped.set(true);
        if let Some(key) = self.0.pending.get() {
            ops::cancel(key);
        }
    }
}

impl Acceptor {
    pub(crate) fn new(listener: OwnedFd) -> Self {
        Self {
            // Nobody asks a listening socket of what kind it is.
            fd: Descriptor::share(listener, false),
            room: Some(AddressRoom::new()),
            state: Rc::default(),
        }
    }

    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(self.state.clone())
    }

    /// Whether somebody has used the stopper.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.is_stopped.get()
    }

    /// Waits for a connection. `Interrupted` once the listening socket has been shut down, or the
    /// stopper has been used.
    ///
    /// The future must be awaited to its end: a dropped accept takes a connection with it.
    pub(crate) async fn accept(&mut self) -> Result<(OwnedFd, PeerAddress), WaitError> {
        if self.is_stopped() {
            return Err(WaitError::Interrupted);
        }
        let room = self.room.take().unwrap_or_else(AddressRoom::new);
        let operation = ops::accept(&self.fd, room);
        self.state.pending.set(Some(operation.key()));
        let (result, (_, room)) = operation.await;
        self.state.pending.set(None);
        let accepted = result.map_err(|error| match error.raw_os_error() {
            // shutdown(2) on a listening socket completes its accepts with EINVAL.
            Some(libc::EINVAL) => WaitError::Interrupted,
            // Without the stopper it is the kernel's own affair, and no reason to stop.
            Some(libc::ECANCELED) if self.is_stopped() => WaitError::Interrupted,
            _ => WaitError::Failed(error),
        });
        let accepted = accepted.map(|fd| {
            // SAFETY: the kernel has just opened this descriptor for us.
            let fd = unsafe { OwnedFd::from_raw_fd(fd.cast_signed()) };
            let peer = peer_address(&room);
            (fd, peer)
        });
        self.room = Some(room);
        accepted.and_then(|(fd, peer)| peer.map(|peer| (fd, peer)).map_err(WaitError::Failed))
    }

    /// Takes one more connection if one is waiting: a burst is not worth a turn of the loop each.
    pub(crate) fn try_accept(&self) -> io::Result<Option<(OwnedFd, PeerAddress)>> {
        // SAFETY: the storage has room for the length that is given with it.
        let accepted = unsafe {
            SockAddr::try_init(|storage, length| {
                let fd = self.fd.as_raw_fd();
                let fd = libc::accept4(fd, storage.cast(), length, libc::SOCK_CLOEXEC);
                Errno::result(fd).map_err(io::Error::from)
            })
        };
        let error = match accepted {
            Ok((fd, address)) => {
                // SAFETY: the kernel has just opened this descriptor for us.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                return Ok(peer_of(&address).map(|peer| (fd, peer)));
            }
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ECONNABORTED | libc::EINTR | libc::EINVAL) => Ok(None),
            _ => Err(error),
        }
    }
}

/// Whose address it is; `None` for what listens to neither IP nor processes of this machine.
pub(crate) fn peer_of(address: &SockAddr) -> Option<PeerAddress> {
    if address.is_unix() {
        return Some(PeerAddress::Unix);
    }
    address.as_socket().map(PeerAddress::Ip)
}

fn peer_address(room: &AddressRoom) -> io::Result<PeerAddress> {
    // SAFETY: the kernel has filled `storage` with an address of `length` bytes.
    let address = unsafe {
        SockAddr::new(
            std::ptr::from_ref(&room.storage).cast::<socket2::SockAddrStorage>().read(),
            room.length,
        )
    };
    peer_of(&address).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}
