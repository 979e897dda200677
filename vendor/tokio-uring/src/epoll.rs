//! What stands in for the ring where there is none: an epoll set, and the direct calls.
//!
//! In go the ring's own entries (RECV, POLL_ADD, ACCEPT, NOP); out come the completions that the
//! ring would have posted. An entry that waits hangs on its descriptor, which is put into the set
//! once, for events at their edge, and stays there until it is closed: a connection that is kept
//! alive costs no further call for its waits. What the set has said of a descriptor is kept until a
//! call finds it untrue, so that whoever begins to wait for something that is there already hears
//! of it, and nobody makes a call that would find nothing.
//!
//! Listening sockets are shared with other threads and processes. They are in the set only while
//! somebody waits for a connection, level-triggered, and each wakes one thread (EPOLLEXCLUSIVE).
//!
//! Nothing completes inside [`Epoll::begin`]: whoever goes on and on must leave the others a turn.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use io_uring::{opcode, squeue};

use crate::driver::{BELL, Completion, TICK, TICK_NS};

/// Events that are taken from the kernel at once.
const EVENTS_MAX: usize = 256;

/// What a wait for input ends by.
const INPUT: u32 =
    (libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
/// What every wait ends by: as the ring has it, whoever asks for it or not.
const BREAK: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
const HANG_UP: u32 = libc::EPOLLRDHUP as u32;
const OUTPUT: u32 = libc::EPOLLOUT as u32;
/// What a socket is watched for from the beginning.
const WATCHED: u32 = (libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
const LISTENER: u32 = (libc::EPOLLIN | libc::EPOLLEXCLUSIVE) as u32;

/// Ends a list of waits.
const NOBODY: u32 = u32::MAX;

pub(crate) struct Epoll {
    set: OwnedFd,
    /// Becomes readable when the tick has come.
    timer: OwnedFd,
    events: Vec<libc::epoll_event>,
    /// The set may have more to say than it said last.
    has_more: bool,
    /// By the operation's place in the slab.
    waits: Vec<Wait>,
    /// By the descriptor's number.
    sockets: Vec<Watched>,
    /// Operations that may have something to do already.
    queue: Vec<u32>,
    /// Listening sockets that somebody has ended to wait for.
    left: Vec<RawFd>,
    pub(crate) completed: Vec<Completion>,
}

/// What is known of a descriptor.
#[derive(Clone, Copy)]
struct Watched {
    /// Tells those apart that have the number one after another.
    serial: u32,
    /// The wait for it that was begun last.
    newest: u32,
    /// What it is in the set for; 0 where it is not.
    interest: u32,
    /// What has been there since nobody found it gone.
    ready: u32,
    trust: Trust,
}

/// Whether a receive that leaves room in its buffer has taken all that was there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Unknown,
    Full,
    /// At an urgent byte (tcp(7)), or a message with descriptors (unix(7)), it ends before.
    None,
}

impl Watched {
    const UNKNOWN: Self =
        Self { serial: 0, newest: NOBODY, interest: 0, ready: 0, trust: Trust::Unknown };
}

/// An operation, or room for one.
#[derive(Clone, Copy)]
struct Wait {
    /// What its completion carries.
    number: u64,
    /// Where the kernel would write to: the buffer of a receive, the address of an accept.
    start: u64,
    /// The address of the accept's length.
    length: u64,
    /// The room of a receive, the events of a poll, the error of what cannot be done.
    detail: u32,
    fd: RawFd,
    /// The wait on the same descriptor that was begun before.
    next: u32,
    kind: Kind,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    Receive,
    Poll,
    Accept,
    Failure,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Over,
    Pending,
    /// Pending, and to be looked at.
    Queued,
}

impl Wait {
    const OVER: Self = Self {
        number: 0,
        start: 0,
        length: 0,
        detail: 0,
        fd: -1,
        next: NOBODY,
        kind: Kind::Nothing,
        state: State::Over,
    };
}

/// `struct io_uring_sqe` (io_uring_enter(2)), as far as anything of it is read here.
#[repr(C)]
struct Raw {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    second_address: u64,
    address: u64,
    length: u32,
    detail: u32,
    user_data: u64,
    rest: [u64; 3],
}

const _: () = assert!(size_of::<Raw>() == size_of::<squeue::Entry>());

/// Has `table` reach to `index`. It grows by an eighth and not to twice its size: with thousands of
/// connections that would be a part of what each costs.
fn extend<T: Clone>(table: &mut Vec<T>, index: usize, empty: T) {
    if table.len() <= index {
        if table.capacity() <= index {
            let more = index + 1 - table.len();
            table.reserve_exact(more.max(table.len() / 8).max(64));
        }
        table.resize(index + 1, empty);
    }
}

impl Epoll {
    /// An empty set, but for `bell`.
    pub(crate) fn new(bell: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: no pointers.
        let set = opened(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: no pointers.
        let timer = opened(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
        let new = Self {
            set,
            timer,
            events: Vec::with_capacity(EVENTS_MAX),
            has_more: false,
            waits: Vec::new(),
            sockets: Vec::new(),
            queue: Vec::new(),
            left: Vec::new(),
            completed: Vec::new(),
        };
        let edge = (libc::EPOLLIN | libc::EPOLLET) as u32;
        new.control(libc::EPOLL_CTL_ADD, bell.as_raw_fd(), edge, BELL)?;
        new.control(libc::EPOLL_CTL_ADD, new.timer.as_raw_fd(), edge, TICK)?;
        Ok(new)
    }

    /// Another descriptor of the set, which is readable while it has something to say.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.set.try_clone()
    }

    /// Has a tick come in a while, or at once where there is no timer for it: whoever slept until
    /// something happens would look at no deadline. Nobody reads the timer: the set tells of each.
    pub(crate) fn start_tick(&mut self) {
        let wait = libc::timespec { tv_sec: 0, tv_nsec: TICK_NS.into() };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let once = libc::itimerspec { it_interval: never, it_value: wait };
        let timer = self.timer.as_raw_fd();
        // SAFETY: one value is read; the old one is not asked for.
        let set = unsafe { libc::timerfd_settime(timer, 0, &raw const once, std::ptr::null_mut()) };
        if set != 0 {
            self.completed.push(Completion { number: TICK, result: 0, has_more: false });
        }
    }

    /// Whether everything has been heard that had happened by the last [`Epoll::carry_out`].
    pub(crate) fn has_heard_all(&self) -> bool {
        !self.has_more
    }

    /// Takes an operation on. What its pointers point to is its owner's, until it has ended.
    pub(crate) fn begin(&mut self, entry: &squeue::Entry) {
        // SAFETY: the entry is `struct io_uring_sqe` (repr(transparent) or repr(C), 64 bytes).
        let raw = unsafe { &*std::ptr::from_ref(entry).cast::<Raw>() };
        let index = raw.user_data as u32;
        extend(&mut self.waits, index as usize, Wait::OVER);
        let mut wait = Wait {
            number: raw.user_data,
            start: raw.address,
            fd: raw.fd,
            state: State::Pending,
            ..Wait::OVER
        };
        let begun = match raw.opcode {
            opcode::Recv::CODE => {
                (wait.kind, wait.detail) = (Kind::Receive, raw.length);
                self.hang(index, wait, WATCHED, INPUT)
            }
            opcode::PollAdd::CODE => {
                // The ring adds the end of the peer's side to every poll. One of several
                // completions (the length's lowest bit) says what is new, and there it is not.
                let added = if raw.length & 1 == 0 { HANG_UP | BREAK } else { BREAK };
                let events = raw.detail | added;
                (wait.kind, wait.detail) = (Kind::Poll, events);
                self.hang(index, wait, WATCHED | events & OUTPUT, events)
            }
            opcode::Accept::CODE => {
                (wait.kind, wait.length) = (Kind::Accept, raw.second_address);
                self.hang(index, wait, LISTENER, 0)
            }
            opcode::Nop::CODE => {
                self.waits[index as usize] = wait;
                self.enqueue(index);
                Ok(())
            }
            _ => {
                self.waits[index as usize] = wait;
                Err(io::Error::from_raw_os_error(libc::EINVAL))
            }
        };
        if let Err(error) = begun {
            let wait = &mut self.waits[index as usize];
            wait.kind = Kind::Failure;
            wait.detail = error.raw_os_error().unwrap_or(libc::EIO).cast_unsigned();
            self.enqueue(index);
        }
    }

    /// Puts `wait` into the list of its descriptor, and that into the set. It is looked at in this
    /// turn where one of `events` may be there.
    fn hang(&mut self, index: u32, wait: Wait, interest: u32, events: u32) -> io::Result<()> {
        self.waits[index as usize] = wait;
        let Ok(number) = usize::try_from(wait.fd) else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        extend(&mut self.sockets, number, Watched::UNKNOWN);
        let socket = &mut self.sockets[number];
        self.waits[index as usize].next = mem::replace(&mut socket.newest, index);
        let is_ready = socket.ready & events != 0;
        if socket.interest & interest != interest {
            self.watch(number, interest)?;
        }
        if is_ready {
            self.enqueue(index);
        }
        Ok(())
    }

    /// Has the set tell of `interest` too. It tells at once what is there.
    #[cold]
    fn watch(&mut self, number: usize, interest: u32) -> io::Result<()> {
        let Watched { serial, interest: before, .. } = self.sockets[number];
        let (interest, fd) = (before | interest, number as RawFd);
        let data = u64::from(serial) << 32 | number as u64;
        let call = if before == 0 { libc::EPOLL_CTL_ADD } else { libc::EPOLL_CTL_MOD };
        match self.control(call, fd, interest, data) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)?;
                self.control(libc::EPOLL_CTL_ADD, fd, interest, data)?;
            }
            done => done?,
        }
        self.sockets[number].interest = interest;
        Ok(())
    }

    fn enqueue(&mut self, index: u32) {
        self.waits[index as usize].state = State::Queued;
        self.queue.push(index);
    }

    /// Ends an operation without a result; false where it has one.
    pub(crate) fn end(&mut self, index: usize) -> bool {
        if self.waits[index].state == State::Over {
            return false;
        }
        self.unhang(index);
        true
    }

    /// Ends an operation with ECANCELED; nothing happens where it has a result.
    pub(crate) fn cancel(&mut self, index: usize) {
        if self.waits[index].state != State::Over {
            self.complete(index, -libc::ECANCELED);
        }
    }

    fn complete(&mut self, index: usize, result: i32) {
        let number = self.waits[index].number;
        self.unhang(index);
        self.completed.push(Completion { number, result, has_more: false });
    }

    /// Takes a wait out of the list of its descriptor.
    fn unhang(&mut self, index: usize) {
        let Wait { fd, next, kind, .. } = self.waits[index];
        self.waits[index].state = State::Over;
        let Some(socket) = usize::try_from(fd).ok().and_then(|it| self.sockets.get_mut(it)) else {
            return;
        };
        if socket.newest as usize == index {
            socket.newest = next;
        } else {
            // There are two or three of them.
            let mut later = socket.newest as usize;
            while let Some(wait) = self.waits.get(later) {
                if wait.next as usize == index {
                    self.waits[later].next = next;
                    break;
                }
                later = wait.next as usize;
            }
        }
        if kind == Kind::Accept {
            self.left.push(fd);
        }
    }

    /// The descriptor is about to be closed, which takes it out of the set unless it is shared.
    pub(crate) fn release(&mut self, fd: RawFd) {
        let Some(socket) = usize::try_from(fd).ok().and_then(|it| self.sockets.get_mut(it)) else {
            return;
        };
        debug_assert_eq!(socket.newest, NOBODY, "operations keep it open");
        let (serial, interest) = (socket.serial.wrapping_add(1), socket.interest);
        *socket = Watched { serial, ..Watched::UNKNOWN };
        if interest == LISTENER {
            let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
        }
    }

    /// Does what can be done of the operations that were begun, and hears what has happened. Sleeps
    /// until something has, where `may_sleep` and there is nothing to hand out.
    pub(crate) fn carry_out(&mut self, may_sleep: bool) {
        for fd in mem::take(&mut self.left) {
            self.leave(fd);
        }
        let mut queue = mem::take(&mut self.queue);
        for index in queue.drain(..) {
            if self.waits[index as usize].state == State::Queued {
                self.waits[index as usize].state = State::Pending;
                self.look_at(index as usize);
            }
        }
        self.queue = queue;
        self.hear(may_sleep && self.completed.is_empty());
    }

    /// Nobody waits for a connection here any more: the next one is another thread's.
    fn leave(&mut self, fd: RawFd) {
        let socket = &mut self.sockets[fd as usize];
        if socket.newest == NOBODY && socket.interest == LISTENER {
            socket.interest = 0;
            let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
        }
    }

    /// Carries out an operation that may have something to do.
    fn look_at(&mut self, index: usize) {
        let Wait { kind, detail, fd, .. } = self.waits[index];
        match kind {
            Kind::Nothing => self.complete(index, 0),
            Kind::Failure => self.complete(index, -detail.cast_signed()),
            Kind::Receive => self.receive(index),
            // The set tells of connections.
            Kind::Accept => {}
            Kind::Poll => {
                let mut poll = libc::pollfd { fd, events: detail as i16, revents: 0 };
                // SAFETY: one entry, which lives as long as the call; it does not wait.
                unsafe { libc::poll(&raw mut poll, 1, 0) };
                match u32::from(poll.revents.cast_unsigned()) {
                    0 => self.sockets[fd as usize].ready &= !detail,
                    events => self.complete(index, events.cast_signed()),
                }
            }
        }
    }

    fn receive(&mut self, index: usize) {
        let Wait { start, detail: room, fd, .. } = self.waits[index];
        let (call, start) = (libc::SYS_recvfrom, start as *mut u8);
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the operation's owner keeps the room until the operation has ended, which it has
        // not, and uses it for nothing else; a null address is none.
        let received = || unsafe {
            libc::syscall(call, fd, start, room as usize, libc::MSG_DONTWAIT, none, none)
        };
        match uninterrupted(received) {
            Ok(count) => {
                // What comes from here on is told again.
                if count > 0 && (count as u32) < room && self.is_trusted(fd) {
                    self.sockets[fd as usize].ready &= !(libc::EPOLLIN as u32);
                }
                self.complete(index, count as i32);
            }
            Err(libc::EAGAIN) => {
                self.sockets[fd as usize].ready &= !((libc::EPOLLIN | libc::EPOLLPRI) as u32);
            }
            Err(error) => self.complete(index, -error),
        }
    }

    /// Whether a receive of `fd` that leaves room has taken all that was there.
    #[inline]
    fn is_trusted(&mut self, fd: RawFd) -> bool {
        let trust = &mut self.sockets[fd as usize].trust;
        if *trust == Trust::Unknown {
            *trust = if is_of_processes(fd) { Trust::None } else { Trust::Full };
        }
        *trust == Trust::Full
    }

    fn accept(&mut self, index: usize) {
        let Wait { start, length, fd, .. } = self.waits[index];
        let (start, length) = (start as *mut libc::sockaddr, length as *mut libc::socklen_t);
        // SAFETY: the operation's owner keeps both until the operation has ended, which it has not.
        let accepted =
            || unsafe { libc::c_long::from(libc::accept4(fd, start, length, libc::SOCK_CLOEXEC)) };
        match uninterrupted(accepted) {
            Ok(accepted) => self.complete(index, accepted as i32),
            // Another thread was faster.
            Err(libc::EAGAIN) => {}
            Err(error) => self.complete(index, -error),
        }
    }

    /// Takes what the set has to say, and carries out what has waited for it.
    fn hear(&mut self, may_sleep: bool) {
        let mut events = mem::take(&mut self.events);
        let (room, none) = (events.as_mut_ptr(), std::ptr::null::<libc::sigset_t>());
        let (call, set) = (libc::SYS_epoll_pwait, self.set.as_raw_fd());
        let timeout = if may_sleep { -1 } else { 0 };
        // SAFETY: there is room for so many events; no mask is given. EINTR ends the sleep early;
        // the loop then looks around and comes back.
        let count = unsafe { libc::syscall(call, set, room, EVENTS_MAX, timeout, none, 8) };
        let count = usize::try_from(count).unwrap_or(0).min(EVENTS_MAX);
        // SAFETY: the kernel has written so many.
        unsafe { events.set_len(count) };
        self.has_more = count == EVENTS_MAX;
        for event in events.drain(..) {
            let libc::epoll_event { events, u64: data } = event;
            if data >= TICK {
                self.completed.push(Completion { number: data, result: 0, has_more: false });
            } else {
                self.tell(data as u32 as usize, (data >> 32) as u32, events);
            }
        }
        self.events = events;
    }

    /// Something has happened on the descriptor `number`.
    fn tell(&mut self, number: usize, serial: u32, events: u32) {
        let socket = &mut self.sockets[number];
        if socket.serial != serial {
            // A copy of a descriptor that was closed is open elsewhere.
            return;
        }
        if socket.interest != LISTENER {
            socket.ready |= events;
        }
        if events & libc::EPOLLPRI as u32 != 0 {
            socket.trust = Trust::None;
        }
        let mut index = socket.newest;
        while let Some(wait) = self.waits.get(index as usize) {
            let (place, kind, detail) = (index as usize, wait.kind, wait.detail);
            index = wait.next;
            match kind {
                Kind::Receive if events & INPUT != 0 => self.receive(place),
                Kind::Poll if events & detail != 0 => {
                    self.complete(place, (events & detail).cast_signed());
                }
                Kind::Accept => self.accept(place),
                _ => {}
            }
        }
    }

    fn control(&self, call: i32, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: one event is read.
        let result = unsafe { libc::epoll_ctl(self.set.as_raw_fd(), call, fd, &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn opened(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a call until no signal interrupts it; its count, or the number of its error.
fn uninterrupted(mut call: impl FnMut() -> libc::c_long) -> Result<libc::c_long, i32> {
    loop {
        match call() {
            -1 => match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
                libc::EINTR => {}
                error => return Err(error),
            },
            count => return Ok(count),
        }
    }
}

/// Whether the socket connects processes of this machine (SO_DOMAIN, socket(7)).
#[cold]
fn is_of_processes(fd: RawFd) -> bool {
    let mut domain: libc::c_int = 0;
    let mut length = size_of_val(&domain) as libc::socklen_t;
    let (into, length) = ((&raw mut domain).cast(), &raw mut length);
    // SAFETY: the kernel writes one int, and its length.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, into, length) };
    result != 0 || domain == libc::AF_UNIX
}
