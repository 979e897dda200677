//! The ways in which one piece of a body is moved: through a chunk, in place, or through a pipe.
//!
//! In goes a transfer with what it has leased for the piece; out comes what became of the piece, or
//! which side failed. How large the next one is, and which way it takes, is the transfer's affair.

use std::cell::Cell;
use std::io;

use super::coding::{encode, limit_to_body, margins};
use super::{Decoder, Encoding, Pace, Transfer};
use crate::ledger::Counted;
use crate::observe::connection_stats::ConnectionStats;
use crate::relay::error::RelayError;
use crate::ring::{PIPE_BYTES, Pipe, Run, SEALED_LEAD, Socket, Spliced, clock};

/// The most that is received at once while chunks are few and the outgoing form cannot be left with
/// the sender's socket.
const TIGHT_BYTES: usize = 16 * 1024;

impl Transfer<'_> {
    /// Where bytes begin in a run.
    fn lead(&self) -> usize {
        if self.to.socket.is_plain() { 0 } else { SEALED_LEAD }
    }

    /// Receives, then sends all of it, waiting for the receiver where need be. Where it `is_tight`,
    /// the piece is small and what the receiver does not take at once waits in memory of its own.
    pub(super) async fn step(
        &self,
        mut run: Run,
        decoder: &mut Decoder,
        (encoding, is_tight): (Encoding, bool),
        pace: &Pace<'_>,
    ) -> Result<Step, RelayError> {
        let (lead, tail) = margins(encoding, decoder);
        let lead = lead + self.lead();
        let space = run.len() - lead - tail;
        let space = self.to.socket.lane_room().map_or(space, |room| space.min(room.max(1)));
        let room = limit_to_body(decoder, if is_tight { space.min(TIGHT_BYTES) } else { space });
        let received = match receive(self.from.try_recv(&mut run[lead..lead + room]))? {
            Received::Bytes(count) => count,
            Received::Nothing => return Ok(Step::Empty),
            Received::End => return Ok(Step::Ended),
        };
        add(&self.control.received, received);
        if let Some(copied) = self.copied {
            copied.add(&run[lead..lead + received]);
        }
        let (range, used) = encode(&mut run, lead..lead + received, decoder, encoding)?;
        let (ledger, budget) = self.memory;
        let piece = is_tight.then(|| Counted::copy(&run[range.clone()], ledger, budget)).flatten();
        let is_congested = match piece {
            Some(piece) => {
                drop(run);
                self.send(&piece, pace).await
            }
            None => self.send(&run[range], pace).await,
        };
        let is_congested = is_congested.map_err(RelayError::of_receiver)?;
        Ok(Step::Leftover { bytes: received, room, is_congested, excess: received - used })
    }

    /// Looks, sends what the receiver takes, then takes that much off the sender's socket.
    pub(super) fn step_careful(
        &self,
        mut run: Run,
        decoder: &mut Decoder,
        pace: &Pace<'_>,
    ) -> Result<Step, RelayError> {
        let lead = self.lead();
        // What has been sealed has to come again whole, and the next run may have one chunk only.
        let space = if lead == 0 { run.len() } else { self.chunks.chunk_bytes() - lead };
        let room = limit_to_body(decoder, space);
        let seen = match receive(self.from.try_peek(&mut run[lead..lead + room]))? {
            Received::Bytes(count) => count,
            Received::Nothing => return Ok(Step::Empty),
            Received::End => return Ok(Step::Ended),
        };
        let mut ahead = *decoder;
        let (mut parts, mut others) = (None, Vec::new());
        let shown = &run[lead..lead + seen];
        let body = ahead.look(shown, |part| match parts {
            None => parts = Some(part),
            Some(_) => others.push(part),
        });
        let body = body.map_err(RelayError::Framing)?;
        // Before the excess is sent: an origin must not get the whole of what is refused.
        if ahead.payload_bytes() > self.payload_bytes_max {
            return Err(RelayError::TooLarge);
        }
        let mut sent = body;
        for part in parts.into_iter().chain(others) {
            let count = match self.to.socket.try_send(&shown[part.clone()]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Err(RelayError::ToFailed),
            };
            add(&self.control.sent, count);
            if count < part.len() {
                sent = part.start + count;
                break;
            }
        }
        if sent > 0 || body == 0 {
            pace.to.end();
        }
        add(&self.control.received, sent);
        decoder.advance(&shown[..sent]).map_err(RelayError::Framing)?;
        if let Some(copied) = self.copied {
            copied.add(&shown[..sent]);
        }
        drop(run);
        let mut discarded = 0;
        while discarded < sent {
            match receive(self.from.try_discard(sent - discarded))? {
                Received::Bytes(count) => discarded += count,
                Received::Nothing | Received::End => return Err(RelayError::FromFailed),
            }
        }
        // What follows the body stays with the sender's socket: the next request, or an origin's
        // excess, which the pool's watch will see.
        Ok(Step::Leftover { bytes: sent, room, is_congested: sent < body, excess: 0 })
    }

    /// Has the kernel move a piece from socket to socket. What a slow receiver leaves in the pipe
    /// is waited for; where that takes long, the next pieces are moved with more care.
    pub(super) async fn step_spliced(
        &self,
        mut pipe: Pipe,
        ends: &Ends<'_>,
        decoder: &mut Decoder,
        pace: &Pace<'_>,
    ) -> Result<Step, RelayError> {
        let room = limit_to_body(decoder, PIPE_BYTES);
        let received = match receive(pipe.fill(&ends.from, room))? {
            Received::Bytes(count) => count,
            Received::Nothing => return Ok(Step::Empty),
            Received::End => return Ok(Step::Ended),
        };
        add(&self.control.received, received);
        decoder.skip(received);
        let _moving = Moving::new(self.stats, received);
        let mut began_ms = None;
        while pipe.held() > 0 {
            match pipe.drain(&ends.to) {
                Ok(count) => {
                    add(&self.control.sent, count);
                    pace.to.end();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    began_ms.get_or_insert_with(clock::coarse_ms);
                    self.writable(pace).await.map_err(RelayError::of_receiver)?;
                }
                Err(_) => return Err(RelayError::ToFailed),
            }
        }
        let is_slow = |began| clock::coarse_ms().saturating_sub(began) > SLOW_MS;
        let is_congested = began_ms.is_some_and(is_slow);
        Ok(Step::Leftover { bytes: received, room, is_congested, excess: 0 })
    }

    /// One chunk by `READ_FIXED` and `WRITE_FIXED`. There is something to receive, so that the one
    /// does not wait; the other does, as long as the receiver makes progress.
    pub(super) async fn step_fixed(
        &self,
        run: Run,
        decoder: &mut Decoder,
        pace: &Pace<'_>,
    ) -> Result<Step, RelayError> {
        let room = limit_to_body(decoder, run.len().min(self.chunks.chunk_bytes()));
        let (result, mut run) =
            self.from.recv_fixed(run, 0..room, self.to.deadlines, self.silence).await;
        let received = result.map_err(RelayError::of_sender)?;
        if received == 0 {
            return Ok(Step::Ended);
        }
        add(&self.control.received, received);
        let body = decoder.advance(&run[..received]).map_err(RelayError::Framing)?.used;
        let mut sent = 0;
        while sent < body {
            self.writable(pace).await.map_err(RelayError::of_receiver)?;
            let (result, back) =
                self.to.socket.send_fixed(run, sent..body, self.to.deadlines, self.to.stall).await;
            run = back;
            let count = result.map_err(RelayError::of_receiver)?;
            add(&self.control.sent, count);
            sent += count;
            pace.to.end();
        }
        Ok(Step::Leftover { bytes: received, room, is_congested: false, excess: received - body })
    }
}

/// Bytes of chunks and pipes, for as long as one step holds them.
pub(super) struct Moving<'a>(&'a ConnectionStats, u32);

impl<'a> Moving<'a> {
    pub(super) fn new(stats: &'a ConnectionStats, bytes: usize) -> Self {
        stats.moves(bytes as u32);
        Self(stats, bytes as u32)
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.moved_on(self.1);
    }
}

/// Both sockets, made fit for a pipe.
pub(super) struct Ends<'a> {
    from: Spliced<'a>,
    to: Spliced<'a>,
}

impl<'a> Ends<'a> {
    pub(super) fn new(from: &'a Socket, to: &'a Socket) -> Result<Self, RelayError> {
        let from = Spliced::new(from).map_err(|_| RelayError::FromFailed)?;
        let to = Spliced::new(to).map_err(|_| RelayError::ToFailed)?;
        Ok(Self { from, to })
    }
}

/// A receiver that takes longer than this for what a pipe holds shall not hold a pipe again.
const SLOW_MS: u64 = 200;

pub(super) fn add(counter: &Cell<u64>, bytes: usize) {
    counter.set(counter.get() + bytes as u64);
}

pub(super) enum Step {
    /// Nothing had arrived.
    Empty,
    /// The sender has ended its side.
    Ended,
    /// `bytes` of at most `room` came, `excess` of them behind the body's end; `is_congested` where
    /// the receiver did not take all at once.
    Leftover { bytes: usize, room: usize, is_congested: bool, excess: usize },
}

pub(super) enum Received {
    Bytes(usize),
    Nothing,
    End,
}

pub(super) fn receive(result: io::Result<usize>) -> Result<Received, RelayError> {
    match result {
        Ok(0) => Ok(Received::End),
        Ok(count) => Ok(Received::Bytes(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
        // Without a word that it is complete, which TLS has even where a body ends with it.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(RelayError::FromEnded),
        Err(_) => Err(RelayError::FromFailed),
    }
}
