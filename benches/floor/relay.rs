//! The floor: a bare relay on a ring, which does what no proxy can do without.
//!
//! In: connections and the one address that they all go to, one connection there for each here.
//! Out: the same bytes on the other side. One ring, multishot accept and receive, a ring of
//! provided buffers, and a direct send for what a socket takes at once. It reads no HTTP, keeps no
//! pool and no deadline: what a proxy costs above it is the proxy's own. Not part of ringway, and
//! the one place outside `src/ring` with `unsafe` and `io_uring`: what it measures is the cost of
//! everything that `src/ring` adds.
#![allow(unsafe_code, reason = "a ring of provided buffers is memory shared with the kernel")]

use std::alloc::{Layout, alloc_zeroed};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use slab::Slab;

/// Buffers of the whole relay, a power of two.
const BUFFER_COUNT: u16 = 256;

const BUFFER_BYTES: usize = 64 * 1024;

const PAGE_BYTES: usize = 4096;

const GROUP: u16 = 0;

/// What a completion is of, in the upper half of its mark; the lower half is the end's key.
const ACCEPT: u64 = 0;
const RECV: u64 = 1;
const SEND: u64 = 2;

/// The buffers that the kernel receives into, and the ring by which they are given to it.
struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    tail: u16,
}

impl Buffers {
    /// Lives as long as the process: the kernel may write to it at any time.
    fn new(ring: &IoUring) -> io::Result<Self> {
        let allocate = |bytes: usize| -> io::Result<*mut u8> {
            let layout = Layout::from_size_align(bytes, PAGE_BYTES).map_err(io::Error::other)?;
            // SAFETY: the size is not zero.
            let memory = unsafe { alloc_zeroed(layout) };
            if memory.is_null() { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(memory) }
        };
        let entries = allocate(usize::from(BUFFER_COUNT) * size_of::<BufRingEntry>())?;
        let memory = allocate(usize::from(BUFFER_COUNT) * BUFFER_BYTES)?;
        // SAFETY: page-aligned, as long as the count says, and never freed.
        let submitter = ring.submitter();
        unsafe { submitter.register_buf_ring_with_flags(entries as u64, BUFFER_COUNT, GROUP, 0) }?;
        let mut buffers = Self { entries: entries.cast(), memory, tail: 0 };
        (0..BUFFER_COUNT).for_each(|id| buffers.give(id));
        Ok(buffers)
    }

    fn start_of(&self, id: u16) -> *mut u8 {
        // SAFETY: every id is below BUFFER_COUNT, so this stays within the allocation.
        unsafe { self.memory.add(usize::from(id) * BUFFER_BYTES) }
    }

    /// Hands a buffer to the kernel.
    fn give(&mut self, id: u16) {
        let place = usize::from(self.tail & (BUFFER_COUNT - 1));
        let start = self.start_of(id) as u64;
        // SAFETY: the place is within the ring, and the kernel reads it only below the tail.
        let entry = unsafe { &mut *self.entries.add(place) };
        entry.set_addr(start);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, aligned for a u16; only this thread writes it.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    fn bytes(&self, piece: Piece) -> &[u8] {
        // SAFETY: the kernel has filled these bytes and does not write again until `give`.
        unsafe { std::slice::from_raw_parts(self.start_of(piece.id).add(piece.from), piece.len()) }
    }
}

/// A part of a buffer that waits to be sent.
#[derive(Clone, Copy)]
struct Piece {
    id: u16,
    from: usize,
    to: usize,
}

impl Piece {
    fn len(self) -> usize {
        self.to - self.from
    }
}

/// One of the two sockets of a pair.
struct End {
    fd: OwnedFd,
    other: usize,
    /// What is to be sent to it. A send is pending while there is anything.
    queue: VecDeque<Piece>,
    /// It has sent its last byte.
    has_ended: bool,
}

struct Relay {
    ring: IoUring,
    buffers: Buffers,
    ends: Slab<End>,
    /// Ends whose receive found no buffer.
    starved: Vec<usize>,
    listener: TcpListener,
    origin: SocketAddr,
}

/// Relays for as long as the process lives.
pub(crate) fn serve(listener: TcpListener, origin: SocketAddr) -> io::Result<()> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_coop_taskrun().setup_cqsize(16 * 1024);
    let ring = builder.build(1024)?;
    let buffers = Buffers::new(&ring)?;
    let (ends, starved) = (Slab::new(), Vec::new());
    let mut relay = Relay { ring, buffers, ends, starved, listener, origin };
    relay.accept()?;
    let mut completions = Vec::new();
    loop {
        relay.ring.submit_and_wait(1)?;
        completions.extend(relay.ring.completion());
        for completion in completions.drain(..) {
            relay.complete(&completion)?;
        }
    }
}

impl Relay {
    fn push(&mut self, operation: u64, key: usize, entry: squeue::Entry) -> io::Result<()> {
        let entry = entry.user_data(operation << 32 | key as u64);
        // SAFETY: descriptors and buffers that an entry names outlive it: an end goes only when
        // none of its operations is pending, and buffers never go.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd())).build();
        self.push(ACCEPT, 0, entry)
    }

    fn receive(&mut self, key: usize) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fd(self.ends[key].fd.as_raw_fd()), GROUP).build();
        self.push(RECV, key, entry)
    }

    fn complete(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let key = completion.user_data() as u32 as usize;
        match completion.user_data() >> 32 {
            ACCEPT => self.accepted(completion),
            RECV => self.received(key, completion),
            _ => self.sent(key, completion.result()),
        }
    }

    fn accepted(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        if !cqueue::more(completion.flags()) {
            self.accept()?;
        }
        let fd: RawFd = completion.result();
        if fd < 0 {
            return Ok(());
        }
        // SAFETY: the kernel has just opened it for us and nobody else knows of it.
        let client = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
        // On loopback this does not wait.
        let Ok(origin) = TcpStream::connect(self.origin) else { return Ok(()) };
        for stream in [&client, &origin] {
            stream.set_nodelay(true)?;
        }
        let end = |fd: TcpStream, other| End {
            fd: fd.into(),
            other,
            queue: VecDeque::new(),
            has_ended: false,
        };
        let one = self.ends.insert(end(client, usize::MAX));
        let two = self.ends.insert(end(origin, one));
        self.ends[one].other = two;
        self.receive(one)?;
        self.receive(two)
    }

    fn received(&mut self, key: usize, completion: &cqueue::Entry) -> io::Result<()> {
        let (result, flags) = (completion.result(), completion.flags());
        if result > 0 {
            if let Some(id) = cqueue::buffer_select(flags) {
                let piece = Piece { id, from: 0, to: result as usize };
                self.pass(self.ends[key].other, piece)?;
            }
            return if cqueue::more(flags) { Ok(()) } else { self.receive(key) };
        }
        if result == -nix::libc::ENOBUFS {
            self.starved.push(key);
            return Ok(());
        }
        self.ends[key].has_ended = true;
        self.settle(self.ends[key].other);
        Ok(())
    }

    /// Sends a piece to `key` at once, or as far as that goes, and queues the rest.
    fn pass(&mut self, key: usize, mut piece: Piece) -> io::Result<()> {
        let end = &mut self.ends[key];
        if end.queue.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            // An error shows again in the operation below.
            piece.from += send(end.fd.as_raw_fd(), self.buffers.bytes(piece), flags).unwrap_or(0);
            if piece.len() == 0 {
                return self.give_back(piece.id);
            }
            end.queue.push_back(piece);
            return self.send_next(key);
        }
        end.queue.push_back(piece);
        Ok(())
    }

    fn send_next(&mut self, key: usize) -> io::Result<()> {
        let end = &self.ends[key];
        let Some(piece) = end.queue.front() else { return Ok(()) };
        let bytes = self.buffers.bytes(*piece);
        let entry = opcode::Send::new(Fd(end.fd.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32);
        self.push(SEND, key, entry.flags(MsgFlags::MSG_NOSIGNAL.bits()).build())
    }

    fn sent(&mut self, key: usize, result: i32) -> io::Result<()> {
        if result < 0 {
            // Nobody takes these bytes any more; both receives end by this.
            for key in [key, self.ends[key].other] {
                let _ = shutdown(self.ends[key].fd.as_raw_fd(), Shutdown::Both);
            }
            while let Some(piece) = self.ends[key].queue.pop_front() {
                self.give_back(piece.id)?;
            }
        } else if let Some(piece) = self.ends[key].queue.front_mut() {
            piece.from += result as usize;
            if piece.len() == 0 {
                let id = piece.id;
                self.ends[key].queue.pop_front();
                self.give_back(id)?;
            }
        }
        if self.ends[key].queue.is_empty() {
            self.settle(key);
            return Ok(());
        }
        self.send_next(key)
    }

    fn give_back(&mut self, id: u16) -> io::Result<()> {
        self.buffers.give(id);
        self.starved.pop().map_or(Ok(()), |key| self.receive(key))
    }

    /// Tells `key` that there is no more for it, and ends a pair of which both sides have ended.
    fn settle(&mut self, key: usize) {
        let end = &self.ends[key];
        let other = end.other;
        if !end.queue.is_empty() || !self.ends[other].has_ended {
            return;
        }
        if end.has_ended && self.ends[other].queue.is_empty() {
            self.ends.remove(key);
            self.ends.remove(other);
        } else {
            let _ = shutdown(self.ends[key].fd.as_raw_fd(), Shutdown::Write);
        }
    }
}
