//! Sockets of UDP.
//!
//! In go datagrams of the worker, which the world takes away, and those that it delivers; out come
//! these, in the order in which they have come. What comes for a socket that is closed is lost.

use super::{File, IN, Kernel, Kind, OUT, Outcome};
use std::collections::VecDeque;
use std::net::SocketAddrV4;

/// A datagram on its way, in either direction.
#[derive(Clone)]
pub(crate) struct Letter {
    /// The number of the worker's socket.
    pub socket: u64,
    /// The other side.
    pub peer: SocketAddrV4,
    pub bytes: Vec<u8>,
    /// By which the world knows what it says.
    pub mark: usize,
}

/// A socket.
pub(crate) struct Datagrams {
    /// No other one has it, before or after.
    number: u64,
    came: VecDeque<Letter>,
}

impl Datagrams {
    pub(super) fn readiness(&self) -> u32 {
        if self.came.is_empty() { OUT } else { IN | OUT }
    }
}

impl Kernel {
    pub(crate) fn open_datagrams(&mut self) -> i32 {
        self.letters += 1;
        let number = self.letters;
        self.open(Kind::Datagrams(Datagrams { number, came: VecDeque::new() }))
    }

    pub(crate) fn send_to(&mut self, fd: i32, bytes: &[u8], peer: SocketAddrV4) -> Outcome {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        let Kind::Datagrams(socket) = &self.files[file].kind else { return Err(libc::ENOTSOCK) };
        let letter = Letter { socket: socket.number, peer, bytes: bytes.to_vec(), mark: 0 };
        self.posted.push(letter);
        Ok(bytes.len())
    }

    /// The next one; what has no room in `into` is lost.
    pub(crate) fn receive_from(
        &mut self,
        fd: i32,
        into: &mut [u8],
    ) -> Result<(usize, Letter), i32> {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        let Kind::Datagrams(socket) = &mut self.files[file].kind else {
            return Err(libc::ENOTSOCK);
        };
        let letter = socket.came.pop_front().ok_or(libc::EAGAIN)?;
        let count = letter.bytes.len().min(into.len());
        into[..count].copy_from_slice(&letter.bytes[..count]);
        Ok((count, letter))
    }

    pub(crate) fn deliver(&mut self, letter: Letter) {
        let is_its = |file: &File| match &file.kind {
            Kind::Datagrams(socket) => socket.number == letter.socket,
            _ => false,
        };
        let Some((file, _)) = self.files.iter().find(|(_, file)| is_its(file)) else { return };
        if let Kind::Datagrams(socket) = &mut self.files[file].kind {
            socket.came.push_back(letter);
        }
        self.stir(file, IN);
    }
}
