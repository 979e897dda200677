//! A kernel in memory, as far as a worker asks for one: sockets, epoll sets, timers, pipes.
//!
//! In go the system calls of one thread (`calls`) and what the peers of its sockets do (`world`);
//! out come results and events as Linux gives them: a send takes what the buffer has room for and
//! tells when there is room again, a set tells an edge once, the end of a stream and a reset are
//! told apart. Chance decides how much of anything goes at once. Time passes when the worker
//! sleeps, and a little with each call. It opens nothing and waits for nothing.

mod connection;
mod datagrams;
mod peers;
mod sets;

use crate::chance::Chance;
use connection::copy;
pub(crate) use connection::{Connection, Found, Stage};
use datagrams::Datagrams;
pub(crate) use datagrams::Letter;
use std::collections::VecDeque;
use std::net::SocketAddrV4;

/// The first number of a descriptor: below it are those of the test's own process.
pub(crate) const FIRST: i32 = 1000;

pub(crate) const IN: u32 = libc::EPOLLIN as u32;
pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const HUP: u32 = libc::EPOLLHUP as u32;
const ERR: u32 = libc::EPOLLERR as u32;
const EDGE: u32 = libc::EPOLLET as u32;
const EVENTS: u32 = IN | OUT | RDHUP | HUP | ERR;

/// Either a count, or the number of an error.
pub(crate) type Outcome = Result<usize, i32>;

pub(crate) enum Kind {
    /// Opened, and neither bound nor connected.
    Fresh,
    Connection(usize),
    Listener(Listener),
    Datagrams(Datagrams),
    Set(Set),
    Event(u64),
    Timer {
        due: Option<u64>,
        has_fired: bool,
    },
    Pipe(usize),
}

#[derive(Default)]
pub(crate) struct Listener {
    pub port: u16,
    pub queue: VecDeque<usize>,
    is_shut: bool,
}

pub(crate) struct File {
    pub kind: Kind,
    references: usize,
    /// The sets that it is in, with its place there.
    watchers: Vec<(usize, usize)>,
}

#[derive(Default)]
pub(crate) struct Set {
    items: slab::Slab<Item>,
    ready: VecDeque<usize>,
}

struct Item {
    file: usize,
    fd: i32,
    events: u32,
    data: u64,
    is_queued: bool,
}

pub(crate) struct Kernel {
    pub now_us: u64,
    pub chance: Chance,
    descriptors: Vec<Option<usize>>,
    pub files: slab::Slab<File>,
    pub connections: slab::Slab<Connection>,
    pipes: slab::Slab<VecDeque<u8>>,
    /// Connections whose peers have something to look at.
    pub stirred: Vec<usize>,
    /// Connections that the worker has begun to make: to which port.
    pub dialled: Vec<usize>,
    last_port: u16,
    /// Datagrams that the worker has sent.
    pub posted: Vec<Letter>,
    letters: u64,
    /// System calls so far.
    pub calls: u64,
    /// Calls of the worker that may fail for want of something do, so many in a thousand.
    pub shortage: usize,
    /// The worker has been told to drain.
    pub is_draining: bool,
    /// Bytes that come in, once in so many receives, are others than those that were sent.
    pub spoils: Option<usize>,
}

impl Kernel {
    pub(crate) fn new(chance: Chance) -> Self {
        Self {
            // Whoever subtracts from it must not come below zero.
            now_us: 1_000_000_000_000,
            chance,
            descriptors: Vec::new(),
            files: slab::Slab::new(),
            connections: slab::Slab::new(),
            pipes: slab::Slab::new(),
            stirred: Vec::new(),
            dialled: Vec::new(),
            posted: Vec::new(),
            letters: 0,
            last_port: 20_000,
            calls: 0,
            shortage: 0,
            is_draining: false,
            spoils: None,
        }
    }

    // Descriptors.

    pub(crate) fn open(&mut self, kind: Kind) -> i32 {
        let file = self.files.insert(File { kind, references: 0, watchers: Vec::new() });
        self.name(file)
    }

    fn name(&mut self, file: usize) -> i32 {
        self.files[file].references += 1;
        let free = self.descriptors.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.descriptors.push(None);
            self.descriptors.len() - 1
        });
        self.descriptors[place] = Some(file);
        FIRST + i32::try_from(place).expect("few descriptors")
    }

    pub(crate) fn file(&self, fd: i32) -> Option<usize> {
        *self.descriptors.get(usize::try_from(fd - FIRST).ok()?)?
    }

    pub(crate) fn duplicate(&mut self, fd: i32) -> Result<i32, i32> {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        Ok(self.name(file))
    }

    /// Descriptors that are open.
    pub(crate) fn open_count(&self) -> usize {
        self.descriptors.iter().flatten().count()
    }

    pub(crate) fn close(&mut self, fd: i32) -> Outcome {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        self.descriptors[(fd - FIRST) as usize] = None;
        self.files[file].references -= 1;
        if self.files[file].references > 0 {
            return Ok(0);
        }
        let File { kind, watchers, .. } = self.files.remove(file);
        for (set, item) in watchers {
            if let Some(File { kind: Kind::Set(set), .. }) = self.files.get_mut(set) {
                set.items.try_remove(item);
            }
        }
        match kind {
            Kind::Connection(connection) => self.close_connection(connection),
            Kind::Listener(listener) => {
                for connection in listener.queue {
                    self.refuse(connection);
                }
            }
            Kind::Set(set) => {
                for (_, item) in set.items {
                    if let Some(watched) = self.files.get_mut(item.file) {
                        watched.watchers.retain(|(set, _)| *set != file);
                    }
                }
            }
            Kind::Pipe(_)
            | Kind::Fresh
            | Kind::Datagrams(_)
            | Kind::Event(_)
            | Kind::Timer { .. } => {}
        }
        Ok(0)
    }

    fn close_connection(&mut self, connection: usize) {
        let it = &mut self.connections[connection];
        it.file = None;
        // As in tcp_close: what was not read, or SO_LINGER with 0 s, makes it a reset.
        let is_unread = !it.to_worker.is_empty();
        if it.resets_on_close || is_unread {
            it.worker_has_reset = true;
            // What the peer has not got yet may be lost, or not.
            if it.resets_on_close {
                let kept = self.chance.below(it.to_peer.len() + 1);
                it.to_peer.truncate(kept);
            }
        }
        it.worker_has_ended = true;
        it.to_worker.clear();
        self.stirred.push(connection);
        self.drop_if_over(connection);
    }

    /// Nobody will accept it any more.
    fn refuse(&mut self, connection: usize) {
        let it = &mut self.connections[connection];
        (it.is_queued, it.worker_has_reset) = (false, true);
        self.stirred.push(connection);
        self.drop_if_over(connection);
    }

    fn drop_if_over(&mut self, connection: usize) {
        let it = &self.connections[connection];
        if it.file.is_none() && it.is_left && !it.is_queued {
            self.connections.remove(connection);
            self.stirred.retain(|stirred| *stirred != connection);
        }
    }

    // Time.

    /// When the next timer is due.
    pub(crate) fn next_timer(&self) -> Option<u64> {
        let due = |(_, file): (usize, &File)| match file.kind {
            Kind::Timer { due, .. } => due,
            _ => None,
        };
        self.files.iter().filter_map(due).min()
    }

    /// It is `now_us`.
    pub(crate) fn fire_timers(&mut self) {
        let now = self.now_us;
        let mut fired = Vec::new();
        for (index, file) in &mut self.files {
            if let Kind::Timer { due, has_fired } = &mut file.kind
                && due.is_some_and(|due| due <= now)
            {
                (*due, *has_fired) = (None, true);
                fired.push(index);
            }
        }
        for file in fired {
            self.stir(file, IN);
        }
    }

    pub(crate) fn set_timer(&mut self, fd: i32, after_us: u64) -> Outcome {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        let now = self.now_us;
        let Kind::Timer { due, has_fired } = &mut self.files[file].kind else {
            return Err(libc::EINVAL);
        };
        (*due, *has_fired) = ((after_us > 0).then_some(now + after_us), false);
        Ok(0)
    }

    // Events.

    pub(crate) fn ring(&mut self, fd: i32, more: u64) -> Outcome {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        let Kind::Event(count) = &mut self.files[file].kind else { return Err(libc::EINVAL) };
        *count += more;
        self.stir(file, IN);
        Ok(8)
    }

    pub(crate) fn hear(&mut self, fd: i32) -> Result<u64, i32> {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        let Kind::Event(count) = &mut self.files[file].kind else { return Err(libc::EINVAL) };
        match std::mem::take(count) {
            0 => Err(libc::EAGAIN),
            count => Ok(count),
        }
    }

    // Sockets, as the worker sees them.

    pub(crate) fn connection_of(&self, fd: i32) -> Result<usize, i32> {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        match self.files[file].kind {
            Kind::Connection(connection) => Ok(connection),
            Kind::Fresh | Kind::Listener(_) => Err(libc::ENOTCONN),
            _ => Err(libc::ENOTSOCK),
        }
    }

    fn new_connection(&mut self, stage: Stage, own_port: u16, peer: SocketAddrV4) -> usize {
        // From a trickle to more than any body here.
        let room = |chance: &mut Chance| 1 << (6 + chance.below(13));
        let room = (room(&mut self.chance), room(&mut self.chance));
        self.connections.insert(Connection::new(stage, own_port, peer, room))
    }

    fn next_port(&mut self) -> u16 {
        self.last_port = if self.last_port == 60_000 { 20_000 } else { self.last_port + 1 };
        self.last_port
    }

    pub(crate) fn listen(&mut self, fd: i32, port: u16) -> Outcome {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        if let Kind::Fresh = self.files[file].kind {
            self.files[file].kind = Kind::Listener(Listener { port, ..Listener::default() });
        }
        Ok(0)
    }

    pub(crate) fn accept(&mut self, fd: i32) -> Result<(i32, u16), i32> {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        let Kind::Listener(listener) = &mut self.files[file].kind else {
            return Err(libc::EINVAL);
        };
        if listener.is_shut {
            return Err(libc::EINVAL);
        }
        if listener.queue.is_empty() {
            return Err(libc::EAGAIN);
        }
        if self.falls_short() {
            return Err(
                [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM][self.chance.below(4)]
            );
        }
        let Kind::Listener(listener) = &mut self.files[file].kind else {
            return Err(libc::EINVAL);
        };
        let connection = listener.queue.pop_front().ok_or(libc::EAGAIN)?;
        let fd = self.open(Kind::Connection(connection));
        let it = &mut self.connections[connection];
        it.is_queued = false;
        it.file = self.descriptors[(fd - FIRST) as usize];
        let port = it.peer.port();
        // Bytes may have come before it was accepted.
        Ok((fd, port))
    }

    /// Whether a call that needs something of the system fails for want of it.
    pub(crate) fn falls_short(&mut self) -> bool {
        self.shortage > 0 && self.chance.below(1000) < self.shortage
    }

    pub(crate) fn connect(&mut self, fd: i32, peer: SocketAddrV4) -> Outcome {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        if let Kind::Fresh = self.files[file].kind {
            let own = self.next_port();
            let connection = self.new_connection(Stage::Connecting, own, peer);
            self.connections[connection].file = Some(file);
            self.files[file].kind = Kind::Connection(connection);
            self.dialled.push(connection);
            return Err(libc::EINPROGRESS);
        }
        let connection = self.connection_of(fd)?;
        match self.connections[connection].stage {
            Stage::Connecting => Err(libc::EALREADY),
            Stage::Refused(error) => {
                self.connections[connection].error = None;
                Err(error)
            }
            Stage::Up => Ok(0),
        }
    }

    pub(crate) fn receive(&mut self, fd: i32, into: &mut [u8], is_peek: bool) -> Outcome {
        let connection = self.connection_of(fd)?;
        let it = &mut self.connections[connection];
        if it.to_worker.is_empty() || into.is_empty() {
            return it.without_bytes();
        }
        // A receive takes all that there is and has room: less is what comes later.
        let count = into.len().min(it.to_worker.len());
        copy(&it.to_worker, &mut into[..count]);
        if let Some(times) = self.spoils
            && self.chance.once_in(times)
        {
            into[count / 2] ^= 1;
        }
        if !is_peek {
            self.took(connection, count);
        }
        Ok(count)
    }

    /// Throws received bytes away (MSG_TRUNC).
    pub(crate) fn discard(&mut self, fd: i32, count: usize) -> Outcome {
        let connection = self.connection_of(fd)?;
        let it = &mut self.connections[connection];
        let count = count.min(it.to_worker.len());
        if count == 0 {
            return it.without_bytes();
        }
        self.took(connection, count);
        Ok(count)
    }

    fn took(&mut self, connection: usize, count: usize) {
        let it = &mut self.connections[connection];
        it.to_worker.drain(..count);
        it.taken += count as u64;
        self.stirred.push(connection);
    }

    pub(crate) fn send(&mut self, fd: i32, bytes: &[u8]) -> Outcome {
        let connection = self.connection_of(fd)?;
        let it = &mut self.connections[connection];
        it.may_send()?;
        let room = it.room.1.saturating_sub(it.to_peer.len());
        let count = bytes.len().min(room);
        if count == 0 && !bytes.is_empty() {
            return Err(libc::EAGAIN);
        }
        it.to_peer.extend(&bytes[..count]);
        it.sent += count as u64;
        self.stirred.push(connection);
        if self.connections[connection].error.is_some() {
            let file = self.file(fd).ok_or(libc::EBADF)?;
            self.stir(file, EVENTS);
        }
        Ok(count)
    }

    pub(crate) fn shut(&mut self, fd: i32, how: i32) -> Outcome {
        let file = self.file(fd).ok_or(libc::EBADF)?;
        if let Kind::Listener(listener) = &mut self.files[file].kind {
            listener.is_shut = true;
            let queue = std::mem::take(&mut listener.queue);
            for connection in queue {
                self.refuse(connection);
            }
            self.stir(file, EVENTS);
            return Ok(0);
        }
        let connection = self.connection_of(fd)?;
        let it = &mut self.connections[connection];
        if it.stage != Stage::Up {
            return Err(libc::ENOTCONN);
        }
        it.is_read_shut |= how != libc::SHUT_WR;
        it.worker_has_ended |= how != libc::SHUT_RD;
        self.stir(file, EVENTS);
        self.stirred.push(connection);
        Ok(0)
    }

    pub(crate) fn poll(&self, fd: i32) -> u32 {
        self.file(fd).map_or(libc::POLLNVAL as u32, |file| self.readiness(file))
    }

    pub(crate) fn take_error(&mut self, fd: i32) -> Result<i32, i32> {
        let connection = self.connection_of(fd)?;
        Ok(self.connections[connection].error.take().unwrap_or(0))
    }

    pub(crate) fn set_linger(&mut self, fd: i32, is_reset: bool) {
        if let Ok(connection) = self.connection_of(fd) {
            self.connections[connection].resets_on_close = is_reset;
        }
    }

    // Pipes.

    pub(crate) fn pipe(&mut self) -> (i32, i32) {
        let pipe = self.pipes.insert(VecDeque::new());
        (self.open(Kind::Pipe(pipe)), self.open(Kind::Pipe(pipe)))
    }

    pub(crate) fn splice(&mut self, from: i32, to: i32, count: usize) -> Outcome {
        const PIPE_MAX: usize = 64 * 1024;
        let of_pipe = |kernel: &Self, fd: i32| -> Result<Option<usize>, i32> {
            let file = kernel.file(fd).ok_or(libc::EBADF)?;
            match kernel.files[file].kind {
                Kind::Pipe(pipe) => Ok(Some(pipe)),
                _ => Ok(None),
            }
        };
        if let Some(pipe) = of_pipe(self, to)? {
            let room = PIPE_MAX.saturating_sub(self.pipes[pipe].len()).min(count);
            if room == 0 {
                return Err(libc::EAGAIN);
            }
            let mut bytes = vec![0; room];
            let moved = self.receive(from, &mut bytes, false)?;
            self.pipes[pipe].extend(&bytes[..moved]);
            return Ok(moved);
        }
        let pipe = of_pipe(self, from)?.ok_or(libc::EINVAL)?;
        let bytes: Vec<u8> = self.pipes[pipe].iter().copied().take(count).collect();
        let moved = self.send(to, &bytes)?;
        self.pipes[pipe].drain(..moved);
        Ok(moved)
    }
}
