//! What a socket has in the place of plain bytes on a wire: a session, or a channel.
//!
//! In go the calls of a socket that has one; out comes what that makes of them. Apart from the
//! calls of plain sockets, which only look whether there is one.

use std::io;
use std::rc::Rc;

use super::channel::{self, Channel};
use super::heads::HeadBuffer;
use super::layer::Layer;
use super::layered;
use super::ops::{Descriptor, SharedFd};

/// What is between the bytes of a wire and those of whoever uses the socket.
pub(super) enum Over {
    /// TLS.
    // Boxed: a channel is small.
    Session(Box<Layer>),
    /// There is no wire of its own.
    Channel(Rc<dyn Channel>),
}

impl Over {
    pub(super) fn session(&self) -> Option<&Layer> {
        match self {
            Self::Session(layer) => Some(layer),
            Self::Channel(_) => None,
        }
    }

    pub(super) fn channel(&self) -> Option<&dyn Channel> {
        match self {
            Self::Session(_) => None,
            Self::Channel(channel) => Some(&**channel),
        }
    }

    /// Whether a receive is not the kernel's affair.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Session(layer) => layer.is_ready(),
            Self::Channel(_) => true,
        }
    }
}

#[cold]
pub(super) fn send(fd: &Descriptor, over: &Over, bytes: &[u8]) -> io::Result<usize> {
    match over {
        Over::Session(layer) => layered::send(fd, layer, bytes),
        Over::Channel(channel) => channel.send(bytes),
    }
}

#[cold]
pub(super) fn receive(fd: &Descriptor, over: &Over, into: &mut [u8]) -> io::Result<usize> {
    match over {
        Over::Session(layer) => layered::receive(fd, layer, into),
        Over::Channel(channel) => channel.receive(into),
    }
}

#[cold]
pub(super) fn peek(fd: &Descriptor, over: &Over, into: &mut [u8]) -> io::Result<usize> {
    match over {
        Over::Session(layer) => layered::peek(fd, layer, into),
        Over::Channel(channel) => channel.peek(into),
    }
}

/// As [`layered::take_in`].
#[cold]
pub(super) fn take_in(
    fd: &SharedFd,
    over: &Over,
    count: usize,
    buffer: &mut HeadBuffer,
) -> io::Result<Option<usize>> {
    match over {
        Over::Session(layer) => layered::take_in(fd, layer, count, buffer),
        Over::Channel(channel) => channel::take_in(&**channel, buffer),
    }
}
