//! Operations on the runtime's ring, each with the data that its pointers point to.
//!
//! `tokio_uring::UnsubmittedOneshot` takes any submission entry; this module is where its contract
//! is kept. Stable data is moved into the operation and comes back with the result, so nothing that
//! the kernel writes to can be freed or re-used while the operation is pending. An operation is
//! cancelled by its key, which the kernel looks up: to cancel by descriptor, it would walk
//! everything that is pending on the ring. SHUTDOWN and SPLICE run on kernel threads: neither is
//! offered.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use io_uring::{opcode, squeue, types};
use nix::sys::memfd::{MFdFlags, memfd_create};
use socket2::SockRef;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use super::channel::{self, Channel};
use super::heads::HeadBuffer;
use super::meters::{Operation, count_completed, count_submitted};
use super::over::Over;
use super::stable::StableBox;

pub(super) use tokio_uring::Key;

/// A descriptor shared between its socket and the operations in flight on it.
pub(super) type SharedFd = Rc<Descriptor>;

/// An open descriptor.
pub(super) struct Descriptor {
    /// None where a channel stands for it.
    fd: Option<OwnedFd>,
    /// Three things in one word, because every idle connection has it: see the methods.
    marks: Cell<u32>,
    /// What is between the wire's bytes and ours, where they differ.
    pub(super) over: OnceCell<Box<Over>>,
    /// A socket of this machine, which knows nothing of TCP.
    pub(super) is_unix: bool,
    /// A call has met a reset, of which the kernel tells once.
    was_reset: Cell<bool>,
}

/// The lower bits of the marks, which are a wait's number.
const WAIT_BITS: u32 = 24;
const SPLICER: u32 = 1 << WAIT_BITS;
const CUT: u32 = 1 << 31;

impl Descriptor {
    pub(super) fn share(fd: OwnedFd, is_unix: bool) -> SharedFd {
        let fd = Some(fd);
        Rc::new(Self {
            fd,
            marks: Cell::new(NO_WAIT),
            over: OnceCell::new(),
            is_unix,
            was_reset: Cell::new(false),
        })
    }

    /// Of a socket that has no descriptor.
    pub(super) fn virtual_of(channel: Rc<dyn Channel>) -> SharedFd {
        let over = OnceCell::from(Box::new(Over::Channel(channel)));
        Rc::new(Self {
            fd: None,
            marks: Cell::new(NO_WAIT),
            over,
            is_unix: false,
            was_reset: Cell::new(false),
        })
    }

    /// The wait on it that was armed last, as its worker's [`Deadlines`](super::Deadlines) number
    /// them; the table links it to the others.
    pub(super) fn newest_wait(&self) -> u32 {
        self.marks.get() & NO_WAIT
    }

    pub(super) fn set_newest_wait(&self, index: u32) {
        debug_assert!(index <= NO_WAIT);
        self.marks.set(self.marks.get() & !NO_WAIT | index);
    }

    /// Nothing is to wait for it any more: a wait that begins is cancelled at once.
    pub(super) fn is_cut(&self) -> bool {
        self.marks.get() & CUT != 0
    }

    pub(super) fn set_cut(&self) {
        self.marks.set(self.marks.get() | CUT);
    }

    /// Transfers that want calls on it not to wait: two directions of one connection at most.
    pub(super) fn splicers(&self) -> u32 {
        (self.marks.get() & !CUT) >> WAIT_BITS
    }

    pub(super) fn add_splicer(&self) {
        self.marks.set(self.marks.get() + SPLICER);
    }

    pub(super) fn remove_splicer(&self) {
        self.marks.set(self.marks.get() - SPLICER);
    }

    /// Whether there is something to receive that the kernel does not know of.
    pub(super) fn is_ready(&self) -> bool {
        self.over.get().is_some_and(|over| over.is_ready())
    }

    pub(super) fn channel(&self) -> Option<&dyn Channel> {
        self.over.get().and_then(|over| over.channel())
    }

    /// Passes on what a send came to, and remembers a reset: the kernel tells of one once.
    #[inline]
    pub(super) fn sent(&self, result: io::Result<usize>) -> io::Result<usize> {
        if let Err(error) = &result {
            self.note_reset(error);
        }
        result
    }

    /// The same of a receive that had room: behind a reset, no stream has come to its end.
    #[inline]
    pub(super) fn received(&self, result: io::Result<usize>) -> io::Result<usize> {
        match self.sent(result) {
            Ok(0) if self.was_reset.get() => Err(io::ErrorKind::ConnectionReset.into()),
            result => result,
        }
    }

    /// Whether the connection has failed (SO_ERROR, socket(7)), which the kernel tells once, too.
    pub(super) fn has_failed(&self) -> bool {
        match SockRef::from(self).take_error() {
            Ok(None) => false,
            Ok(Some(error)) | Err(error) => {
                self.note_reset(&error);
                true
            }
        }
    }

    #[cold]
    fn note_reset(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionReset {
            self.was_reset.set(true);
        }
    }
}

/// Stands for the end of a list of waits: a worker has far fewer than 16 million.
pub(super) const NO_WAIT: u32 = SPLICER - 1;

/// What the driver knows of a number must not be taken for what has the number next.
impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.fd.is_some() {
            tokio_uring::release(self.as_raw_fd());
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Some(fd) => fd.as_fd(),
            None => void(),
        }
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        // No descriptor has this number.
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

/// A descriptor with which nothing can be done, where one is asked of a socket that has none.
fn void() -> BorrowedFd<'static> {
    static VOID: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let void = VOID.get_or_init(|| memfd_create(c"void", MFdFlags::MFD_CLOEXEC).ok());
    // SAFETY: the standard error stream is open as long as the process lives.
    void.as_ref().map_or(unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) }, AsFd::as_fd)
}

/// Hands the completion's result on, with the data that the operation owned. Its drop, which comes
/// with the completion or with the end of anybody's interest, is counted.
pub(super) struct Completed<D> {
    operation: Operation,
    data: PhantomData<fn(D)>,
}

impl<D> Drop for Completed<D> {
    fn drop(&mut self) {
        count_completed(self.operation);
    }
}

impl<D> OneshotOutputTransform for Completed<D> {
    type Output = (io::Result<u32>, D);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, result: i32) -> Self::Output {
        let result = if result >= 0 {
            Ok(result as u32)
        } else {
            Err(io::Error::from_raw_os_error(-result))
        };
        (result, data)
    }
}

/// An operation that the ring holds; resolves to its result and the data lent to it.
pub(super) struct InFlight<D: Unpin + 'static>(InFlightOneshot<D, Completed<D>>);

impl<D: Unpin + 'static> InFlight<D> {
    /// Whether it has completed; leaves the task that waits for it waiting.
    pub(super) fn is_completed(&self) -> bool {
        self.0.is_completed()
    }

    /// What it can be cancelled by.
    pub(super) fn key(&self) -> Key {
        self.0.key()
    }

    /// What it owns; `None` after it has resolved.
    pub(super) fn data(&self) -> Option<&D> {
        self.0.data()
    }

    /// Whether what it waits for has certainly not happened yet.
    pub(super) fn is_silent(&self) -> bool {
        self.0.is_silent()
    }
}

impl<D: Unpin + 'static> Future for InFlight<D> {
    type Output = (io::Result<u32>, D);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.get_mut().0).poll(cx)
    }
}

/// Queues `entry` for the next submission.
///
/// # Safety
///
/// Every pointer in `entry` targets memory that `data` owns on the heap by raw pointer, so that it
/// stays where it is, and valid, when `data` is moved; the descriptor in it is kept open by `data`;
/// the operation posts exactly one completion, or is a poll for output of several.
#[inline]
unsafe fn submit<D: Unpin + 'static>(
    operation: Operation,
    data: D,
    entry: squeue::Entry,
) -> InFlight<D> {
    count_submitted(operation);
    let completed = Completed { operation, data: PhantomData };
    // SAFETY: the caller's.
    InFlight(unsafe { UnsubmittedOneshot::new(data, completed, entry) }.submit())
}

/// Begins an operation that the kernel never hears of: somebody completes it by its key.
pub(super) fn hold<D: Unpin + 'static>(operation: Operation, data: D) -> InFlight<D> {
    count_submitted(operation);
    InFlight(UnsubmittedOneshot::hold(data, Completed { operation, data: PhantomData }))
}

/// What [`recv`] does where there is something that the kernel does not know of. Apart from it, so
/// that the submission of a plain receive stays in line.
#[cold]
#[inline(never)]
fn recv_held(fd: &SharedFd, buffer: HeadBuffer) -> InFlight<(SharedFd, HeadBuffer)> {
    if let Some(channel) = fd.channel() {
        return channel::recv(channel, fd, buffer);
    }
    let entry = opcode::Nop::new().build();
    // SAFETY: no pointers and no descriptor.
    unsafe { submit(Operation::Nop, (fd.clone(), buffer), entry) }
}

/// Receives into the free part of `buffer`, first waiting for the socket to be readable.
///
/// POLL_FIRST spares the attempt that would find nothing: the wait is for an answer or the next
/// request, which is never there yet when this is called.
///
/// Where there is something that the kernel does not know of, it completes at once with 0.
pub(super) fn recv(fd: &SharedFd, mut buffer: HeadBuffer) -> InFlight<(SharedFd, HeadBuffer)> {
    if fd.is_ready() {
        return recv_held(fd, buffer);
    }
    let free = buffer.free();
    let (pointer, length) = (free.as_mut_ptr(), free.len() as u32);
    let mut entry = opcode::Recv::new(types::Fd(fd.as_raw_fd()), pointer, length).build();
    set_poll_first(&mut entry);
    // SAFETY: the pointer targets the bytes of `buffer`, which the operation owns by raw pointer;
    // RECV without multishot posts one completion.
    unsafe { submit(Operation::Recv, (fd.clone(), buffer), entry) }
}

/// Sets IORING_RECVSEND_POLL_FIRST, for which the crate's builder has no setter.
fn set_poll_first(entry: &mut squeue::Entry) {
    const POLL_FIRST: u16 = 1;
    const IOPRIO_OFFSET: usize = 2;
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    let bytes = std::ptr::from_mut(entry).cast::<u8>();
    // SAFETY: the entry is `struct io_uring_sqe` (repr(C), 64 bytes), whose `ioprio` is the u16
    // after `opcode` and `flags`.
    unsafe { bytes.add(IOPRIO_OFFSET).cast::<u16>().write_unaligned(POLL_FIRST) };
}

/// Waits until one of `events` (POLLIN and so on), an error or a hang-up is there. Moves no byte.
pub(super) fn poll(fd: &SharedFd, events: i16) -> InFlight<SharedFd> {
    if let Some(channel) = fd.channel() {
        return channel::poll(channel, fd, events);
    }
    let entry =
        opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), u32::from(events.cast_unsigned())).build();
    // SAFETY: no pointers; a POLL_ADD without the multi flag posts one completion.
    unsafe { submit(Operation::Poll, fd.clone(), entry) }
}

/// Waits until output becomes possible, an error or a hang-up comes, on a socket where a plain poll
/// ends at once for what has been there since before (the end of the peer's side, which io_uring
/// adds to every poll): a poll of several completions says each event once.
pub(super) fn poll_output_edge(fd: &SharedFd) -> InFlight<SharedFd> {
    let events = libc::POLLOUT as u32;
    let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events).multi(true).build();
    // SAFETY: no pointers; a poll for output of several completions.
    unsafe { submit(Operation::Poll, fd.clone(), entry) }
}

/// Completes at once, which takes a turn of the loop all the same.
pub(super) fn nop() -> InFlight<()> {
    // SAFETY: no pointers and no descriptor.
    unsafe { submit(Operation::Nop, (), opcode::Nop::new().build()) }
}

/// Room for a peer's address, to which the kernel writes.
pub(super) struct AddressRoom {
    pub(super) storage: libc::sockaddr_storage,
    pub(super) length: libc::socklen_t,
}

impl AddressRoom {
    pub(super) fn new() -> StableBox<Self> {
        // SAFETY: a zeroed sockaddr_storage is a valid one (AF_UNSPEC).
        let storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        StableBox::new(Self { storage, length })
    }
}

/// Accepts one connection; the result is its descriptor.
pub(super) fn accept(
    fd: &SharedFd,
    mut room: StableBox<AddressRoom>,
) -> InFlight<(SharedFd, StableBox<AddressRoom>)> {
    room.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let address = (&raw mut room.storage).cast::<libc::sockaddr>();
    let length = &raw mut room.length;
    let entry = opcode::Accept::new(types::Fd(fd.as_raw_fd()), address, length)
        .flags(libc::SOCK_CLOEXEC)
        .build();
    // SAFETY: both pointers target `room`, which the operation owns by raw pointer.
    unsafe { submit(Operation::Accept, (fd.clone(), room), entry) }
}

/// Cancels the operation `key`, which completes with ECANCELED and gives its data back; nothing
/// happens where it has completed. Nobody waits for the cancellation itself.
pub(super) fn cancel(key: Key) {
    count_submitted(Operation::Cancel);
    count_completed(Operation::Cancel);
    tokio_uring::cancel(key);
}

/// Receives at most `length` bytes into registered memory (READ_FIXED).
///
/// # Safety
///
/// `pointer..pointer + length` lies inside the registered buffer `index` and stays leased to
/// `keep` until the operation has completed.
pub(super) unsafe fn read_fixed<K: Unpin + 'static>(
    fd: &SharedFd,
    keep: K,
    pointer: *mut u8,
    length: u32,
    index: u16,
) -> InFlight<(SharedFd, K)> {
    let entry = opcode::ReadFixed::new(types::Fd(fd.as_raw_fd()), pointer, length, index).build();
    // SAFETY: the caller keeps the memory leased through `keep`.
    unsafe { submit(Operation::ReadFixed, (fd.clone(), keep), entry) }
}

/// Sends `length` bytes of registered memory (WRITE_FIXED).
///
/// # Safety
///
/// As for [`read_fixed`].
pub(super) unsafe fn write_fixed<K: Unpin + 'static>(
    fd: &SharedFd,
    keep: K,
    pointer: *const u8,
    length: u32,
    index: u16,
) -> InFlight<(SharedFd, K)> {
    let entry = opcode::WriteFixed::new(types::Fd(fd.as_raw_fd()), pointer, length, index).build();
    // SAFETY: the caller keeps the memory leased through `keep`.
    unsafe { submit(Operation::WriteFixed, (fd.clone(), keep), entry) }
}

/// Gives everybody else on this thread a turn. `yield_now` would not do: the runtime submits and
/// reaps only when it has nothing else to run.
pub(crate) async fn turn() {
    let _ = nop().await;
}

/// Stands for the events of [`Socket::writable_only`]; no event of poll(2) has the sign bit.
pub(super) const OUTPUT_ONLY: i16 = i16::MIN;

/// Stands for input that is there and that the kernel does not know of.
pub(super) const INPUT_HELD: i16 = i16::MIN + 1;

pub(super) fn begin_poll(fd: &SharedFd, events: i16) -> InFlight<SharedFd> {
    match events {
        OUTPUT_ONLY if fd.channel().is_some() => poll(fd, libc::POLLOUT),
        OUTPUT_ONLY => poll_output_edge(fd),
        INPUT_HELD => {
            // SAFETY: no pointers and no descriptor.
            unsafe { submit(Operation::Nop, fd.clone(), opcode::Nop::new().build()) }
        }
        events => poll(fd, events),
    }
}
