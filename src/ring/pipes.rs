//! Pipes through which the kernel moves bytes from one socket to another without copying them.
//!
//! In go two sockets; out come counts of bytes that went from the one into a pipe, and from the
//! pipe into the other (splice(2)). The calls do not wait, for which both sockets must have been
//! told so ([`Spliced`]): SPLICE_F_NONBLOCK alone speaks of the pipe only, and the SPLICE operation
//! of the ring runs on worker threads.
//!
//! A pipe is leased while bytes are on their way. A pool has few of them, because what is in a pipe
//! is memory that no other process sees; who gets none moves bytes through chunks.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

use super::net::Socket;

/// What a pipe is asked to hold; the kernel may give less (pipe(7), `pipe-user-pages-soft`).
pub(crate) const PIPE_BYTES: usize = PIPE_SIZE as usize;

const PIPE_SIZE: libc::c_int = 512 * 1024;

/// The pipes of one worker.
pub(crate) struct PipePool {
    free: RefCell<Vec<Ends>>,
    count_max: usize,
    leased: Cell<usize>,
    /// The fewest free pipes since the last trim: those were not needed.
    spare: Cell<usize>,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl PipePool {
    pub(crate) fn new(count_max: usize) -> Rc<Self> {
        Rc::new(Self {
            free: RefCell::default(),
            count_max,
            leased: Cell::new(0),
            spare: Cell::new(0),
        })
    }

    /// An empty pipe; `None` where all are in use or the process is out of descriptors.
    pub(crate) fn try_lease(self: &Rc<Self>) -> Option<Pipe> {
        if self.leased.get() >= self.count_max {
            return None;
        }
        let ends = self.free.borrow_mut().pop();
        self.spare.set(self.spare.get().min(self.free.borrow().len()));
        let ends = match ends {
            Some(ends) => ends,
            None => Ends::open().ok()?,
        };
        self.leased.set(self.leased.get() + 1);
        Some(Pipe { ends: Some(ends), held: 0, pool: self.clone() })
    }

    /// Pipes that are out with transfers now.
    #[cfg(test)]
    pub(crate) fn leased(&self) -> usize {
        self.leased.get()
    }

    /// Closes the pipes that were not needed since the last call; how many.
    pub(crate) fn trim(&self) -> usize {
        let mut free = self.free.borrow_mut();
        let unneeded = self.spare.get();
        let keep = free.len().saturating_sub(unneeded);
        free.truncate(keep);
        self.spare.set(keep);
        unneeded
    }
}

impl Ends {
    fn open() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Smaller where the user has used up what pipe(7) allows: slower, not wrong.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        Ok(Self { read, write })
    }
}

/// A leased pipe.
pub(crate) struct Pipe {
    /// `None` only while it is dropped.
    ends: Option<Ends>,
    /// Bytes that went in and have not come out.
    held: usize,
    pool: Rc<PipePool>,
}

impl Pipe {
    /// Bytes that went in and have not come out.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `count` bytes off a socket; 0 is the end of the stream. Of use while nothing is
    /// held: then `WouldBlock` means that nothing has arrived.
    pub(crate) fn fill(&mut self, from: &Spliced<'_>, count: usize) -> io::Result<usize> {
        let moved = from.0.fd.received(move_bytes(from.0, &self.ends()?.write, count))?;
        self.held += moved;
        Ok(moved)
    }

    /// Hands what is held to a socket, as far as it takes that; `WouldBlock` where it takes
    /// nothing.
    pub(crate) fn drain(&mut self, to: &Spliced<'_>) -> io::Result<usize> {
        let moved = to.0.fd.sent(move_bytes(&self.ends()?.read, to.0, self.held))?;
        self.held -= moved;
        Ok(moved)
    }

    fn ends(&self) -> io::Result<&Ends> {
        self.ends.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.pool.leased.set(self.pool.leased.get() - 1);
        // Bytes of one connection must never come out for another.
        if self.held == 0
            && let Some(ends) = self.ends.take()
        {
            self.pool.free.borrow_mut().push(ends);
        }
    }
}

/// A socket in whose file the calls above do not wait, for as long as any of these lives for it:
/// both directions of a tunnel have one for each of its sockets.
///
/// The ring's RECV would then not wait either: nothing but polls may be submitted meanwhile.
pub(crate) struct Spliced<'a>(&'a Socket);

impl<'a> Spliced<'a> {
    pub(crate) fn new(socket: &'a Socket) -> io::Result<Self> {
        socket.begin_splicing()?;
        Ok(Self(socket))
    }
}

impl Drop for Spliced<'_> {
    fn drop(&mut self) {
        self.0.end_splicing();
    }
}

fn move_bytes(from: &impl AsFd, to: &impl AsFd, count: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(from.as_fd(), None, to.as_fd(), None, count, flags) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_pool_lends_no_more_than_it_may() {
        let pool = PipePool::new(2);
        let (first, second) = (pool.try_lease(), pool.try_lease());
        assert!(first.is_some() && second.is_some() && pool.try_lease().is_none());
        let read = first.as_ref().and_then(|pipe| Some(pipe.ends().ok()?.read.as_raw_fd()));
        drop(first);
        let again = pool.try_lease().expect("one has come home");
        assert_eq!(again.ends().ok().map(|ends| ends.read.as_raw_fd()), read);
        drop((again, second));
        assert_eq!(pool.leased(), 0);
        assert_eq!(pool.trim() + pool.trim(), 2);
    }

    #[test]
    fn a_pipe_that_still_holds_bytes_is_not_lent_again() {
        let pool = PipePool::new(1);
        let mut pipe = pool.try_lease().expect("a pipe");
        nix::unistd::write(&pipe.ends().expect("ends").write, b"secret").expect("room");
        pipe.held = 6;
        drop(pipe);
        assert!(pool.free.borrow().is_empty());
    }
}
