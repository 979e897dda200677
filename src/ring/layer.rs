//! What is between the wire's bytes of a socket and those of whoever uses it.
//!
//! In go bytes as they came and bytes that are to be sent; out come plain ones and records. It
//! keeps what neither side takes yet, which is a record at most in either direction, counts it, and
//! keeps nothing at rest. No call here touches a socket or waits.

use std::cell::{Cell, RefCell, RefMut};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::sync::Arc;

use crate::ledger::{Kind, Ledger};
use crate::tls::problem::Problem;
use crate::tls::session::{Records, Session};

/// What a session costs at rest.
pub(crate) const SESSION_BYTES: usize = 4096;

/// How far a handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    Done,
    /// It goes on when the peer has sent more.
    Reads,
    /// It goes on when the socket takes more.
    Writes,
}

/// The layer of one socket.
pub(crate) struct Layer {
    state: RefCell<State>,
    /// Plain bytes, or the end of them, can be had without the kernel.
    is_ready: Cell<bool>,
}

pub(super) struct State {
    pub(super) session: Session,
    /// Of the wire: what has come of a record that is not whole.
    tail: Vec<u8>,
    /// Plain bytes that nobody has taken yet, from `taken` on.
    held: Vec<u8>,
    taken: usize,
    pub(super) end: Option<StreamEnd>,
    /// Why it is broken, where it is.
    problem: Option<Problem>,
    pub(super) unsent: Unsent,
    /// Plain bytes sent so far, for the size of records.
    pub(super) sent: u64,
    /// The peer did not take the last piece at once.
    pub(super) is_congested: bool,
    /// This side has said that no more will be sent.
    pub(super) has_finished: bool,
    /// Times that something came and brought nothing, one after the other.
    fruitless: u8,
    ledger: Arc<Ledger>,
    counted: usize,
}

/// How the peer's side has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// The peer has said so.
    Said,
    /// The connection ended without a word.
    Cut,
    /// Its bytes are no session.
    Broken,
}

/// Records that the socket has not taken yet.
#[derive(Default)]
pub(super) struct Unsent {
    pub(super) records: Vec<u8>,
    pub(super) start: usize,
    /// They end so many bytes of what was to be sent, which whoever sends brings again.
    pub(super) promised: usize,
    mark: u64,
}

impl Unsent {
    pub(super) fn rest(&self) -> &[u8] {
        &self.records[self.start..]
    }
}

/// Deliveries without a byte that are no attack: a ticket or two, a new key now and then.
const FRUITLESS_MAX: u8 = 64;

impl Layer {
    pub(crate) fn new(session: Session, ledger: Arc<Ledger>) -> Self {
        ledger.add(Kind::Tls, SESSION_BYTES as u64);
        let state = State {
            session,
            tail: Vec::new(),
            held: Vec::new(),
            taken: 0,
            end: None,
            problem: None,
            unsent: Unsent::default(),
            sent: 0,
            is_congested: false,
            has_finished: false,
            fruitless: 0,
            ledger,
            counted: SESSION_BYTES,
        };
        Self { state: RefCell::new(state), is_ready: Cell::new(false) }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.get()
    }

    /// Whether nothing that comes can be understood any more.
    pub(super) fn is_broken(&self) -> bool {
        self.state.borrow().end == Some(StreamEnd::Broken)
    }

    /// Why that is, where it is.
    pub(super) fn problem(&self) -> Option<Problem> {
        self.state.borrow().problem
    }

    pub(super) fn ask<T>(&self, ask: impl FnOnce(&Session) -> T) -> T {
        ask(&self.state.borrow().session)
    }

    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// Says what `state` has come to; to be called whenever bytes were brought or taken.
    pub(super) fn settle(&self, state: &mut State) {
        if state.taken == state.held.len() && !state.held.is_empty() {
            state.held = Vec::new();
            state.taken = 0;
        }
        self.is_ready.set(!state.held.is_empty() || state.end.is_some());
        state.count();
    }
}

impl State {
    /// What the layer holds, in the ledger.
    fn count(&mut self) {
        let held = self.tail.capacity() + self.held.capacity() + self.unsent.records.capacity();
        let bytes = SESSION_BYTES + held;
        if bytes > self.counted {
            self.ledger.add(Kind::Tls, (bytes - self.counted) as u64);
        } else if bytes < self.counted {
            self.ledger.sub(Kind::Tls, (self.counted - bytes) as u64);
        }
        self.counted = bytes;
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Plain bytes that are held.
    pub(super) fn held(&self) -> &[u8] {
        &self.held[self.taken..]
    }

    pub(super) fn drop_held(&mut self, count: usize) {
        self.taken += count;
    }

    /// Hands out what is held, as far as `into` has room.
    pub(super) fn take_held(&mut self, into: &mut [u8]) -> usize {
        let count = self.held().len().min(into.len());
        into[..count].copy_from_slice(&self.held()[..count]);
        self.taken += count;
        count
    }

    /// What a read comes to where nothing is held and nothing more will come.
    pub(super) fn ending(&self) -> Option<io::Result<usize>> {
        self.end.map(|end| match end {
            StreamEnd::Said => Ok(0),
            StreamEnd::Cut => Err(io::ErrorKind::UnexpectedEof.into()),
            StreamEnd::Broken => Err(io::ErrorKind::InvalidData.into()),
        })
    }

    /// What has come of a record that is not whole; it belongs in front of what comes next.
    pub(super) fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Goes through `wire`, which begins with the tail. Plain bytes fill `into`; what it has no
    /// room for is held. Their count in `into`.
    pub(super) fn open(
        &mut self,
        wire: &mut [u8],
        into: &mut [u8],
        out: &mut Records,
    ) -> io::Result<usize> {
        let (mut count, held) = (0, &mut self.held);
        let mut is_fruitless = true;
        let mut plain = |bytes: &[u8]| {
            is_fruitless &= bytes.is_empty();
            let fits = if held.is_empty() { bytes.len().min(into.len() - count) } else { 0 };
            into[count..count + fits].copy_from_slice(&bytes[..fits]);
            count += fits;
            held.extend_from_slice(&bytes[fits..]);
        };
        let was_handshaking = self.session.is_handshaking();
        if was_handshaking && wire.len() > self.session.flight_bytes_max() {
            let error = io::Error::new(io::ErrorKind::InvalidData, "an endless message");
            return Err(self.broken(Problem::Protocol, error));
        }
        let result = self.session.take(wire, &mut plain, out);
        if self.session.is_peer_done && self.end.is_none() {
            self.end = Some(StreamEnd::Said);
        }
        let used = match result {
            Ok(used) => used,
            Err(error) => {
                let problem = Problem::of_session(&error);
                let error = self.broken(problem, io::Error::new(io::ErrorKind::InvalidData, error));
                // What came before it was said all the same, and comes first.
                let is_first = count == 0 && self.held().is_empty();
                return if is_first { Err(error) } else { Ok(count) };
            }
        };
        // A part of a record is none that brought nothing.
        self.fruitless = match (is_fruitless && !was_handshaking, used) {
            (false, _) => 0,
            (true, 0) => self.fruitless,
            (true, _) => self.fruitless + 1,
        };
        let rest = &wire[used..];
        if self.fruitless > FRUITLESS_MAX {
            let error = io::Error::new(io::ErrorKind::InvalidData, "a flood of empty records");
            return Err(self.broken(Problem::Flood, error));
        }
        if rest.len() > self.session.flight_bytes_max() {
            let error = io::Error::new(io::ErrorKind::InvalidData, "an endless message");
            return Err(self.broken(Problem::Protocol, error));
        }
        if rest.is_empty() {
            self.tail = Vec::new();
        } else {
            self.tail.clear();
            self.tail.extend_from_slice(rest);
        }
        Ok(count)
    }

    /// Nothing that comes is understood any more.
    fn broken(&mut self, problem: Problem, error: io::Error) -> io::Error {
        self.end = Some(StreamEnd::Broken);
        self.problem = Some(problem);
        self.tail = Vec::new();
        error
    }

    /// As [`Session::seal`], which has to see what is left of the wire's bytes.
    pub(super) fn seal(
        &mut self,
        bytes: &[u8],
        record_bytes: usize,
        out: &mut Records,
        ended: impl FnMut(usize, usize),
    ) -> Result<(), crate::tls::Error> {
        self.session.seal(&mut self.tail, bytes, record_bytes, out, ended)
    }

    /// Says that no more will be sent.
    pub(super) fn finish(&mut self, out: &mut Records) -> Result<(), crate::tls::Error> {
        self.has_finished = true;
        self.session.finish(&mut self.tail, out)
    }

    /// `records` did not go out, and end the first `promised` of `bytes`, which have to come again.
    pub(super) fn keep(&mut self, records: &[u8], bytes: &[u8], promised: usize) {
        if self.unsent.start > 0 {
            self.unsent.records.drain(..self.unsent.start);
            self.unsent.start = 0;
        }
        self.unsent.records.extend_from_slice(records);
        if promised > 0 {
            self.unsent.promised = promised;
            self.unsent.mark = mark(&bytes[..promised]);
        }
    }

    /// Everything has gone out; so many of `bytes`, which begin with what was promised, went with
    /// it.
    pub(super) fn keep_promise(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Unsent { promised, mark: known, .. } = std::mem::take(&mut self.unsent);
        if promised == 0 {
            return Ok(0);
        }
        // Other bytes than those that are sealed would be lost without anybody's knowing.
        match bytes.get(..promised) {
            Some(again) if mark(again) == known => Ok(promised),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

fn mark(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

impl Drop for State {
    fn drop(&mut self) {
        self.ledger.sub(Kind::Tls, self.counted as u64);
    }
}
