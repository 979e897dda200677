//! Moves a body whose receiver may be slower than its sender, and is not to keep that one.
//!
//! In goes a transfer with what may be held of its body; what has come is sent at once as far as
//! the receiver takes it, and held beyond that, up to the bound, and then in a file. Whoever lent
//! the sender's connection is told as soon as the body has come to its end, or the sender has
//! failed. Where there is no memory to hold anything, what is held goes out and the rest is left to
//! a transfer that holds nothing.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use super::coding::{Decoder, Encoding, LEAD_BYTES, TAIL_BYTES, limit_to_body};
use super::error::RelayError;
use super::held::{Held, PIECE_BYTES};
use super::scratch::{self, Scratch};
use super::spool::Terms;
use super::steps::add;
use super::stored::Queue;
use super::waiting::Stall;
use super::{Leftover, Pace, TURN_BYTES, Transfer, Window};
use crate::http::chunked::HELD_BYTES_MAX;
use crate::ring::clock;
use crate::ring::waits::turn;

/// How far a body has come.
pub(crate) enum Come {
    /// To its end.
    All(Leftover),
    /// There is no memory to hold more: the decoder stands where the rest begins.
    Some(Decoder),
}

/// What both directions know.
struct Ahead<'a> {
    queue: &'a RefCell<Queue>,
    /// Counts what either side does that the other may wait for.
    changes: Cell<u64>,
    /// Nothing more will be held.
    is_filled: Cell<bool>,
    /// The sender is silent: what is empty is of no use.
    is_silent: Cell<bool>,
}

impl Ahead<'_> {
    fn changed(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    /// Waits until `is_so`: whoever drives both sides asks after every change.
    async fn until(&self, is_so: impl Fn(&mut Queue) -> bool) {
        poll_fn(
            |_| {
                if is_so(&mut self.queue.borrow_mut()) { Poll::Ready(()) } else { Poll::Pending }
            },
        )
        .await;
    }

    /// Sees to it that more can be held, or waits until there is room again.
    async fn make_room(&self, is_over: impl Fn() -> bool) {
        while !self.queue.borrow_mut().has_room() && !is_over() {
            let overflowing = self.queue.borrow_mut().overflowing();
            if let Some(overflowing) = overflowing {
                let opened = overflowing.await;
                self.queue.borrow_mut().overflow(opened);
            } else if !self.write_tail().await {
                self.until(|queue| queue.has_room() || is_over()).await;
            }
        }
    }

    /// Writes the tail to the file; false where that cannot be.
    async fn write_tail(&self) -> bool {
        let Some((file, at, pieces)) = self.queue.borrow_mut().lend_tail() else { return false };
        let written = file.write(at, pieces).await;
        let is_written = written.is_ok();
        self.queue.borrow_mut().tail_came_back(written);
        self.changed();
        is_written
    }

    /// Has what comes next out of the file ready to be sent.
    async fn read_on(&self) -> Result<(), RelayError> {
        let Some((file, at, most, pieces)) = self.queue.borrow_mut().lend_window() else {
            return Ok(());
        };
        let (count, pieces) = file.fill(pieces, at, most).await.ok_or(RelayError::File)?;
        self.queue.borrow_mut().window_came_back(count, pieces);
        Ok(())
    }
}

/// Room that is left beyond what is received: for the framing of a chunk.
const MARGIN: usize = 64;

const _: () = assert!(HELD_BYTES_MAX <= MARGIN && LEAD_BYTES + TAIL_BYTES <= MARGIN);

/// Less room than this is not worth a look at the sender's socket.
const LEAST: usize = 2048;

impl Transfer<'_> {
    /// Moves the rest of the body through `held`, and says by `has_come` that the sender has given
    /// all of it, or will give no more for a fault of its own, while the receiver may still be
    /// taking it.
    pub(crate) async fn run_ahead(
        &self,
        (decoder, encoding): (Decoder, Encoding),
        (held, terms): (Held, Option<Terms>),
        has_come: impl FnOnce(Option<Leftover>),
    ) -> Result<Come, RelayError> {
        let queue = &RefCell::new(Queue::new(held, terms));
        let (is_filled, is_silent) = (Cell::new(false), Cell::new(false));
        let ahead = Ahead { queue, changes: Cell::new(0), is_filled, is_silent };
        let mut filling = std::pin::pin!(self.fill(&ahead, decoder, encoding));
        let mut draining = std::pin::pin!(self.drain(&ahead));
        let (mut come, mut has_come) = (None, Some(has_come));
        let drained = poll_fn(|cx| {
            loop {
                let before = ahead.changes.get();
                if come.is_none()
                    && let Poll::Ready(filled) = filling.as_mut().poll(cx)
                {
                    let over = match &filled {
                        Ok(Come::All(leftover)) => Some(Some(*leftover)),
                        Ok(Come::Some(_)) => None,
                        Err(_) => Some(None),
                    };
                    if let (Some(over), Some(has_come)) = (over, has_come.take()) {
                        has_come(over);
                    }
                    come = Some(filled);
                    ahead.is_filled.set(true);
                    ahead.changed();
                }
                if let Poll::Ready(drained) = draining.as_mut().poll(cx) {
                    return Poll::Ready(drained);
                }
                if ahead.changes.get() == before {
                    return Poll::Pending;
                }
            }
        });
        let drained = drained.await;
        if come.is_none() {
            // Ends what is pending on the sender's socket; the flag, what would begin after it.
            self.control.is_over.set(true);
            self.from.interrupt(self.to.deadlines);
            come = Some(filling.await);
        }
        drained?;
        come.unwrap_or(Err(RelayError::Interrupted))
    }

    /// Takes the body from its sender as fast as there is room for it.
    async fn fill(
        &self,
        ahead: &Ahead<'_>,
        mut decoder: Decoder,
        encoding: Encoding,
    ) -> Result<Come, RelayError> {
        let mut pace = Pace::new(Window { chunks: 1, chunks_max: 1 });
        let (mut turn_bytes, mut is_clean) = (0, true);
        while !decoder.is_done() {
            if turn_bytes >= TURN_BYTES {
                turn_bytes = 0;
                turn().await;
            }
            ahead.make_room(|| self.is_over()).await;
            if self.is_over() {
                return Err(RelayError::Interrupted);
            }
            let took = {
                let mut queue = ahead.queue.borrow_mut();
                self.take(queue.end(), &mut decoder, encoding)?
            };
            match took {
                Took::Bytes { bytes, excess } => {
                    turn_bytes += bytes;
                    is_clean &= excess == 0;
                    self.count_moved(&mut pace, bytes);
                    ahead.changed();
                }
                Took::Nothing => {
                    turn_bytes = 0;
                    ahead.queue.borrow_mut().end().release_spare();
                    ahead.is_silent.set(true);
                    self.wait_for_sender(&pace).await?;
                    ahead.is_silent.set(false);
                }
                Took::End if matches!(decoder, Decoder::UntilClose) => break,
                Took::End if self.is_over() => return Err(RelayError::Interrupted),
                Took::End => return Err(RelayError::FromEnded),
                Took::NoMemory => {
                    ahead.until(|queue| queue.is_empty() || self.is_over()).await;
                    return if self.is_over() {
                        Err(RelayError::Interrupted)
                    } else {
                        Ok(Come::Some(decoder))
                    };
                }
            }
        }
        self.control.repairs.set(decoder.repairs());
        ahead.queue.borrow_mut().end().release_spare();
        Ok(Come::All(if is_clean { Leftover::Nothing } else { Leftover::Excess }))
    }

    /// Takes one piece of the body, in its outgoing form.
    fn take(
        &self,
        held: &mut Held,
        decoder: &mut Decoder,
        encoding: Encoding,
    ) -> Result<Took, RelayError> {
        if encoding != Encoding::AsIs || decoder.is_sieve() {
            return scratch::with(|scratch| self.take_framed(held, decoder, encoding, scratch));
        }
        let left = usize::try_from(held.left()).unwrap_or(PIECE_BYTES);
        let most = limit_to_body(decoder, PIECE_BYTES).min(left);
        // A piece serves until little of it is left.
        let room = held.room(most.min(LEAST), most);
        if room.is_empty() {
            return Ok(Took::NoMemory);
        }
        let received = match self.receive(room)? {
            Ok(count) => count,
            Err(took) => return Ok(took),
        };
        let used = decoder.advance(&room[..received]).map_err(RelayError::Framing)?.used;
        held.fill(used);
        Ok(Took::Bytes { bytes: received, excess: received - used })
    }

    /// The same of one that goes on in another form than it comes in.
    fn take_framed(
        &self,
        held: &mut Held,
        decoder: &mut Decoder,
        encoding: Encoding,
        scratch: &mut Scratch,
    ) -> Result<Took, RelayError> {
        let left = usize::try_from(held.left()).unwrap_or(PIECE_BYTES);
        let most = limit_to_body(decoder, PIECE_BYTES - MARGIN).min(left) + MARGIN;
        let room = held.room(most.min(LEAST), most);
        if room.is_empty() {
            return Ok(Took::NoMemory);
        }
        let received = match self.receive(&mut scratch.come[..room.len() - MARGIN])? {
            Ok(count) => count,
            Err(took) => return Ok(took),
        };
        let input = &scratch.come[..received];
        let appended = encoding.append(decoder, input, &mut scratch.framed);
        let used = appended.map_err(RelayError::Framing)?.used;
        let framed = scratch.framed.len();
        room[..framed].copy_from_slice(&scratch.framed);
        held.fill(framed);
        Ok(Took::Bytes { bytes: received, excess: received - used })
    }

    /// Takes what the sender's socket has; else what that means.
    fn receive(&self, room: &mut [u8]) -> Result<Result<usize, Took>, RelayError> {
        match self.from.try_recv(room) {
            Ok(0) => Ok(Err(Took::End)),
            Ok(count) => {
                add(&self.control.received, count);
                Ok(Ok(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Err(Took::Nothing)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(RelayError::FromEnded)
            }
            Err(_) => Err(RelayError::FromFailed),
        }
    }

    /// Sends what is held as far as the receiver takes it, until nothing more will be.
    async fn drain(&self, ahead: &Ahead<'_>) -> Result<(), RelayError> {
        let (stall, began_ms) = (Stall::default(), clock::coarse_ms());
        let mut turn_bytes = 0;
        loop {
            ahead.until(|queue| queue.has_more() || ahead.is_filled.get()).await;
            if self.is_over() {
                return Err(RelayError::Interrupted);
            }
            if turn_bytes >= TURN_BYTES {
                turn_bytes = 0;
                turn().await;
            }
            ahead.read_on().await?;
            let sent = {
                let mut queue = ahead.queue.borrow_mut();
                let front = queue.front();
                if front.is_empty() {
                    if ahead.is_filled.get() {
                        return Ok(());
                    }
                    continue;
                }
                self.to.socket.try_send(front.front())
            };
            match sent {
                Ok(count) => {
                    let mut queue = ahead.queue.borrow_mut();
                    let front = queue.front();
                    front.consume(count);
                    if ahead.is_silent.get() {
                        queue.release_spare();
                    }
                    drop(queue);
                    add(&self.control.sent, count);
                    turn_bytes += count;
                    stall.end();
                    ahead.changed();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    turn_bytes = 0;
                    self.control.is_sending.set(true);
                    let wait = self.to.writable(&stall, began_ms, || self.is_over()).await;
                    self.control.is_sending.set(false);
                    wait.map_err(RelayError::of_receiver)?;
                }
                Err(_) => return Err(RelayError::ToFailed),
            }
        }
    }
}

/// What a look at the sender's socket has brought.
enum Took {
    /// `excess` of them lie behind the body's end.
    Bytes {
        bytes: usize,
        excess: usize,
    },
    Nothing,
    End,
    NoMemory,
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::HalfClose;
    use crate::ledger::{Budget, Kind, Ledger};
    use crate::observe::connection_stats::{ConnectionStats, WaitsOn};
    use crate::relay::{Control, Receiver};
    use crate::ring::{ChunkPool, Deadlines, Socket, runtime};

    const BODY_BYTES: usize = 300_000;

    /// Moves a body through memory of which there are `growth` bytes; what the receiver has got,
    /// and whether all of the body went through what is held.
    fn moved(growth: u64) -> (Vec<u8>, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (there, Socket::from_fd(OwnedFd::from(listener.accept().unwrap().0), false))
        };
        runtime::tested().block_on(async {
            let ((mut sender, from), (mut reader, to)) = (pair(), pair());
            let sending = std::thread::spawn(move || {
                let body: Vec<u8> = (0..BODY_BYTES).map(|it| (it % 251) as u8).collect();
                sender.write_all(&body).unwrap();
                sender
            });
            let reading = std::thread::spawn(move || {
                let mut body = vec![0; BODY_BYTES];
                reader.read_exact(&mut body).unwrap();
                body
            });
            let chunks = ChunkPool::new(1, 4096, Arc::default()).unwrap();
            let (deadlines, control) = (Deadlines::default(), Control::default());
            let stats = ConnectionStats::default();
            let ledger = Arc::<Ledger>::default();
            let budget = Rc::new(Budget::new(u64::MAX, growth));
            let limit = Duration::from_secs(3600);
            let transfer = Transfer {
                chunks: &chunks,
                from: &from,
                to: Receiver {
                    socket: &to,
                    deadlines: &deadlines,
                    stall: limit,
                    half_close: HalfClose::Keep,
                    stats: None,
                },
                silence: limit,
                sender: WaitsOn::Nobody,
                memory: (&ledger, &budget),
                operation_chunks: 1,
                is_fixed: false,
                pipes: None,
                is_exact: false,
                payload_bytes_max: u64::MAX,
                control: &control,
                stats: &stats,
                flow: &stats.received,
                copied: None,
            };
            let held = Held::new(1 << 20, (&ledger, &budget));
            let body = (Decoder::Sized(BODY_BYTES as u64), Encoding::AsIs);
            let has_come = Cell::new(false);
            let come =
                transfer.run_ahead(body, (held, None), |_| has_come.set(true)).await.unwrap();
            if let Come::Some(rest) = come {
                transfer.run(rest, Encoding::AsIs).await.unwrap();
            }
            assert_eq!((ledger.get(Kind::Bodies), budget.grown_bytes()), (0, 0));
            drop(sending.join().unwrap());
            (reading.join().unwrap(), has_come.get())
        })
    }

    #[test]
    fn without_memory_the_rest_goes_as_if_nothing_were_held() {
        let body: Vec<u8> = (0..BODY_BYTES).map(|it| (it % 251) as u8).collect();
        assert!(moved(u64::MAX) == (body.clone(), true));
        assert!(moved(0) == (body.clone(), false));
        let (got, _) = moved(PIECE_BYTES as u64);
        assert!(got == body);
    }
}
