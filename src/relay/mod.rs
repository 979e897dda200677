//! Moves one body in one direction, by its framing, through leased chunks.
//!
//! In go two sockets, what is known of the body and how it is to be framed on the way out; out
//! comes how many bytes were moved, or which side failed and how. Back-pressure is by construction:
//! the next bytes are received when the last ones have been sent.
//!
//! A wait for the sender holds no chunk. A receiver that is slow, and a pool that is nearly empty,
//! make the transfer careful: it looks at the bytes where they are (`MSG_PEEK`), sends what the
//! receiver takes, and only then takes that much off the sender's socket, so that what cannot be
//! sent yet stays in the kernel's buffer and no chunk is held there either.

pub(crate) mod ahead;
mod coding;
pub(crate) mod copied;
mod error;
pub(crate) mod held;
pub(crate) mod outbox;
pub(crate) mod pour;
mod scratch;
pub(crate) mod side;
pub(crate) mod spool;
mod steps;
pub(crate) mod stored;
mod waiting;
mod window;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use copied::Copied;
use steps::{Ends, Moving, Received, Step, add, receive};
use waiting::{Stall, is_past};
use window::Window;

use crate::config::{BuffersConfig, HalfClose};
use crate::http::repair::Repairs;
use crate::ledger::{Budget, Ledger};
use crate::observe::connection_stats::{ConnectionStats, Moment, WaitsOn};
use crate::ring::hang_up::unless_hung_up;
use crate::ring::waits::{poll_now, turn};
use crate::ring::{ChunkPool, PipePool, Run, Socket, WaitError, clock};

pub(crate) use coding::Decoder;
pub(crate) use coding::Encoding;
pub(crate) use error::RelayError;
pub(crate) use waiting::{HANG_UP_AFTER, Receiver};

/// What followed the body that a transfer has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// Nothing.
    Nothing,
    /// The sender has sent more than the body.
    Excess,
}

/// A silence longer than this lets a tunnel give up what it holds.
pub(crate) const WATCH_AFTER: Duration = Duration::from_secs(1);

/// What a worker has to move bodies through.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub chunks: &'a Rc<ChunkPool>,
    pub pipes: &'a Rc<PipePool>,
    /// Where copies of pieces are counted.
    pub memory: (&'a Arc<Ledger>, &'a Rc<Budget>),
}

/// Whoever a body comes from.
#[derive(Clone, Copy)]
pub(crate) struct Sender<'a> {
    pub socket: &'a Socket,
    /// The longest time for which it may send nothing.
    pub silence: Duration,
    /// Of the client connection that it is done for, with how that says that the sender is waited
    /// for.
    pub stats: (&'a ConnectionStats, WaitsOn),
    /// What of the statistics the bytes add to.
    pub flow: &'a Cell<u64>,
}

/// What a transfer moves through, and its waits.
pub(crate) struct Transfer<'a> {
    chunks: &'a Rc<ChunkPool>,
    from: &'a Socket,
    to: Receiver<'a>,
    silence: Duration,
    sender: WaitsOn,
    memory: (&'a Arc<Ledger>, &'a Rc<Budget>),
    /// Chunks per operation at most.
    operation_chunks: u32,
    /// Move by `READ_FIXED` and `WRITE_FIXED`.
    is_fixed: bool,
    /// Where the pipes come from through which much is moved.
    pipes: Option<&'a Rc<PipePool>>,
    is_exact: bool,
    payload_bytes_max: u64,
    control: &'a Control,
    stats: &'a ConnectionStats,
    flow: &'a Cell<u64>,
    /// Who gets a copy of what passes.
    copied: Option<&'a Copied>,
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(
        means: Means<'a>,
        buffers: &BuffersConfig,
        from: Sender<'a>,
        to: Receiver<'a>,
        control: &'a Control,
    ) -> Self {
        let (stats, sender) = from.stats;
        Self {
            chunks: means.chunks,
            from: from.socket,
            to,
            silence: from.silence,
            sender,
            memory: means.memory,
            operation_chunks: u32::try_from(buffers.operation_chunks).unwrap_or(u32::MAX),
            is_fixed: buffers.fixed_operations,
            pipes: Some(means.pipes),
            is_exact: false,
            payload_bytes_max: u64::MAX,
            control,
            stats,
            flow: from.flow,
            copied: None,
        }
    }

    /// Never takes more off the sender's socket than belongs to this body, because the next request
    /// may follow; and refuses one in chunks with more payload than `payload_bytes_max`.
    pub(crate) fn exact(self, payload_bytes_max: u64) -> Self {
        Self { is_exact: true, payload_bytes_max, ..self }
    }

    /// Takes no pipe: a receive may be submitted on either socket meanwhile.
    pub(crate) fn unpiped(self) -> Self {
        Self { pipes: None, ..self }
    }

    /// Has `copied` get what passes. Nothing is moved unseen then.
    pub(crate) fn copied(self, copied: Option<&'a Copied>) -> Self {
        let is_seen = copied.is_some();
        let pipes = self.pipes.filter(|_| !is_seen);
        Self { copied, pipes, is_fixed: self.is_fixed && !is_seen, ..self }
    }

    /// Takes no operation on registered memory: one holds its chunk while it waits.
    pub(crate) fn unregistered(self) -> Self {
        Self { is_fixed: false, ..self }
    }
}

/// What others may tell a transfer while it is under way, and what it tells them however it ends.
#[derive(Default)]
pub(crate) struct Control {
    /// Bytes taken off the sender's socket.
    pub received: Cell<u64>,
    /// Bytes that the receiver's socket has taken, with the framing that was added here.
    pub sent: Cell<u64>,
    /// When bytes were last moved, on the coarse clock.
    pub active_ms: Cell<u64>,
    /// It has bytes in its hands, or at hand, that the receiver does not take yet.
    pub is_sending: Cell<bool>,
    /// It is not needed any more.
    pub is_over: Cell<bool>,
    /// The sender waits for leave to begin, which is not its doing.
    pub is_held_back: Cell<bool>,
    /// What of the framing was not as it should be, and taken all the same; once it is done.
    pub repairs: Cell<Repairs>,
    /// Notice when the receiver goes away while the sender is silent. Not where something else is
    /// pending on the receiver's socket.
    pub is_watching: Cell<bool>,
}

/// What a transfer moves before the other connections of its thread get a turn, where neither of
/// its sides makes it wait.
const TURN_BYTES: usize = 1024 * 1024;

impl Transfer<'_> {
    /// Moves the rest of the body.
    pub(crate) async fn run(
        &self,
        mut decoder: Decoder,
        encoding: Encoding,
    ) -> Result<Leftover, RelayError> {
        let mut pace = Pace::new(Window { chunks: 1, chunks_max: self.operation_chunks as usize });
        let mut is_clean = true;
        let mut turn_bytes = 0;
        while !decoder.is_done() {
            if turn_bytes >= TURN_BYTES {
                turn_bytes = 0;
                turn().await;
            }
            if self.is_over() {
                return Err(RelayError::Interrupted);
            }
            self.control.is_sending.set(true);
            let step = self.step_on(&mut pace, &mut decoder, encoding).await;
            self.control.is_sending.set(false);
            match step? {
                // The pipe stops in front of an urgent byte, though there is something to receive.
                Step::Empty if pace.is_piped && pace.from.rounds() > 0 => pace.is_blind = true,
                Step::Empty => {
                    turn_bytes = 0;
                    // The receiver has not been asked to take anything.
                    pace.to.end();
                    self.wait_for_sender(&pace).await?;
                }
                // It says that there is no more, too, where nothing but urgent bytes is left.
                Step::Ended if pace.is_piped && self.from.try_peek(&mut [0]).is_ok_and(is_some) => {
                    pace.is_blind = true;
                }
                // The connection may have been ended on our side.
                Step::Ended if self.is_over() => return Err(RelayError::Interrupted),
                Step::Ended if matches!(decoder, Decoder::UntilClose) => break,
                Step::Ended => return Err(RelayError::FromEnded),
                Step::Leftover { bytes, room, is_congested, excess } => {
                    turn_bytes += bytes;
                    self.control.is_held_back.set(false);
                    self.count_moved(&mut pace, bytes);
                    if !decoder.is_done() && self.has_receiver_gone(&mut pace) {
                        return Err(RelayError::ToFailed);
                    }
                    is_clean &= excess == 0;
                    pace.window.adapt(bytes, room);
                    pace.is_congested = is_congested;
                }
            }
        }
        self.control.repairs.set(decoder.repairs());
        Ok(if is_clean { Leftover::Nothing } else { Leftover::Excess })
    }

    /// Notes that `bytes` have moved.
    fn count_moved(&self, pace: &mut Pace<'_>, bytes: usize) {
        pace.from.end();
        pace.is_blind = false;
        if bytes > 0 {
            let now = clock::coarse_ms();
            self.control.active_ms.set(now);
            self.stats.moved.set(Moment::at_ms(now));
            add(self.flow, bytes);
        }
    }

    /// Looks after the client now and then while bytes move: one that gets rare events hardly ever
    /// has to be waited for.
    fn has_receiver_gone(&self, pace: &mut Pace<'_>) -> bool {
        if !self.control.is_watching.get() || self.to.half_close == HalfClose::Keep {
            return false;
        }
        let now = clock::coarse_ms();
        if !is_past(pace.looked_ms, now) {
            return false;
        }
        pace.looked_ms = now;
        self.to.socket.has_hung_up()
    }

    /// Moves one piece as soon as the receiver takes any.
    async fn step_on<'s>(
        &'s self,
        pace: &mut Pace<'s>,
        decoder: &mut Decoder,
        encoding: Encoding,
    ) -> Result<Step, RelayError> {
        let mut has_to_wait = pace.is_congested;
        let mut is_there = false;
        loop {
            // A lane says what it will take, so that nothing is received in vain. It makes nobody
            // wait while there is nothing to be sent. Others may have been faster than who was told
            // of room; what there is to be sent is there as before.
            if !has_to_wait && self.to.socket.lane_room() == Some(0) {
                if !is_there {
                    match receive(self.from.try_peek(&mut [0]))? {
                        Received::Bytes(_) => is_there = true,
                        Received::Nothing => return Ok(Step::Empty),
                        Received::End => {}
                    }
                }
                has_to_wait = is_there;
            }
            if !has_to_wait {
                break;
            }
            self.writable(pace).await.map_err(RelayError::of_receiver)?;
            has_to_wait = false;
        }
        self.advance(pace, decoder, encoding).await
    }

    /// Moves one piece, in the way that fits how the transfer goes.
    async fn advance<'s>(
        &'s self,
        pace: &mut Pace<'s>,
        decoder: &mut Decoder,
        encoding: Encoding,
    ) -> Result<Step, RelayError> {
        let is_congested = pace.is_congested;
        pace.is_piped = false;
        if encoding == Encoding::AsIs
            && !is_congested
            && !pace.is_blind
            && pace.is_bulk(decoder)
            && self.is_plain()
            && let Some(pipe) = self.pipes.and_then(PipePool::try_lease)
        {
            if pace.spliced.is_none() {
                pace.spliced = Some(Ends::new(self.from, self.to.socket)?);
            }
            if let Some(ends) = &pace.spliced {
                pace.is_piped = true;
                return self.step_spliced(pipe, ends, decoder, pace).await;
            }
        }
        let is_fixed = self.is_fixed
            && encoding == Encoding::AsIs
            && !self.is_exact
            && self.is_plain()
            && !decoder.is_sieve();
        // Such an operation would hold its chunk for as long as the sender is silent.
        if is_fixed && self.from.is_silent() {
            return Ok(Step::Empty);
        }
        let run = self.lease(self.window(pace, decoder)).await?;
        let _moving = Moving::new(self.stats, run.len());
        let is_lane = self.to.socket.is_lane();
        let is_slow = is_congested && !is_lane || self.chunks.is_scarce();
        let is_careful = encoding == Encoding::AsIs
            && !decoder.is_sifting()
            && (self.is_exact && !matches!(decoder, Decoder::Sized(_)) || is_slow);
        if is_careful {
            self.step_careful(run, decoder, pace)
        } else if is_fixed {
            self.step_fixed(run, decoder, pace).await
        } else {
            self.step(run, decoder, (encoding, is_slow), pace).await
        }
    }

    /// Chunks for the next piece.
    fn window(&self, pace: &Pace<'_>, decoder: &Decoder) -> usize {
        let chunks = pace.window.for_body(decoder, self.chunks);
        let room = self.to.socket.lane_room();
        room.map_or(chunks, |room| chunks.min(room.div_ceil(self.chunks.chunk_bytes()).max(1)))
    }

    /// Whether the kernel can move bytes by itself.
    fn is_plain(&self) -> bool {
        self.from.is_plain() && self.to.socket.is_plain()
    }

    /// Waits for chunks, which others hold, for as long as a sender may be silent.
    async fn lease(&self, count: usize) -> Result<Run, RelayError> {
        let mut lease = std::pin::pin!(self.chunks.lease(count));
        let run = if let Some(run) = poll_now(&mut lease) {
            run
        } else {
            // What is told to this transfer alone is heard when the next pause ends.
            let began_ms = clock::coarse_ms();
            loop {
                let patience = tokio::time::timeout(LEASE_POLL, lease.as_mut());
                let leased = self.stats.unless_ended(patience).await;
                match leased.map_err(|_| RelayError::Interrupted)? {
                    Ok(run) => break run,
                    Err(_) if self.is_over() => return Err(RelayError::Interrupted),
                    Err(_) => {}
                }
                let waited_ms = clock::coarse_ms().saturating_sub(began_ms);
                if Duration::from_millis(waited_ms) >= self.silence {
                    return Err(RelayError::NoChunk);
                }
            }
        };
        if self.is_over() { Err(RelayError::Interrupted) } else { Ok(run) }
    }

    /// Whether it is not needed any more. Asked before each wait: an interruption ends only what is
    /// pending, and a transfer that has its turn just then has nothing pending.
    fn is_over(&self) -> bool {
        self.control.is_over.get() || self.stats.is_ended()
    }

    /// Waits until the receiver takes something.
    async fn writable(&self, pace: &Pace<'_>) -> Result<(), WaitError> {
        self.to.writable(&pace.to, pace.began_ms, || self.is_over()).await
    }

    /// Sends all of `bytes`, and counts them as they go: a receiver that breaks off in the middle
    /// of a piece has had the first part of it. True where the receiver had to be waited for.
    async fn send(&self, bytes: &[u8], pace: &Pace<'_>) -> Result<bool, WaitError> {
        let took = |count| add(&self.control.sent, count);
        self.to.send(bytes, &pace.to, pace.began_ms, || self.is_over(), took).await
    }

    /// Waits for something to receive, in which the client may go away without anybody noticing:
    /// nothing is sent to it. A stream of rare events would be kept up without a reader.
    async fn wait_for_sender(&self, pace: &Pace<'_>) -> Result<(), RelayError> {
        pace.from.pause().await;
        if self.is_over() {
            return Err(RelayError::Interrupted);
        }
        self.stats.waits_on.set(self.sender);
        let left = pace.from.left(self.silence);
        if left.is_zero() {
            return Err(RelayError::FromExpired);
        }
        let is_watching = self.control.is_watching.get();
        let first = if is_watching { left.min(HANG_UP_AFTER) } else { left };
        let error = match self.from.readable(self.to.deadlines, first).await {
            Err(WaitError::Expired) if first < left => {
                let wait = self.from.readable(self.to.deadlines, left.saturating_sub(first));
                let watch = (self.to.half_close, self.to.deadlines);
                let watched = unless_hung_up(wait, self.from, self.to.socket, watch).await;
                watched.ok_or(RelayError::ToFailed)?
            }
            error => error,
        };
        pace.from.count_round();
        error.map(drop).map_err(RelayError::of_sender)
    }
}

/// How often a transfer that waits for a chunk looks whether it is still needed.
const LEASE_POLL: Duration = Duration::from_millis(100);

/// Whether a look has found anything.
fn is_some(count: usize) -> bool {
    count > 0
}

/// How a transfer goes.
struct Pace<'a> {
    window: Window,
    /// The receiver did not take all of the last piece at once.
    is_congested: bool,
    /// Set once a pipe has been used.
    spliced: Option<Ends<'a>>,
    /// The last piece was moved, or tried to be, through a pipe.
    is_piped: bool,
    /// The pipe did not see what there is: the next piece goes through a chunk.
    is_blind: bool,
    from: Stall,
    to: Stall,
    began_ms: u64,
    /// When the receiver was last looked after.
    looked_ms: u64,
}

impl Pace<'_> {
    fn new(window: Window) -> Self {
        let began_ms = clock::coarse_ms();
        Self {
            window,
            is_congested: false,
            spliced: None,
            is_piped: false,
            is_blind: false,
            from: Stall::default(),
            to: Stall::default(),
            began_ms,
            looked_ms: began_ms,
        }
    }

    /// Whether there is so much to move that a pipe pays: it is known, or it looks like it. What
    /// costs is to make the sockets fit for one, so that the end of a body goes the same way.
    fn is_bulk(&self, decoder: &Decoder) -> bool {
        match decoder {
            Decoder::Sized(left) => *left >= BULK_BYTES || self.spliced.is_some(),
            Decoder::UntilClose => self.window.chunks == self.window.chunks_max,
            Decoder::Chunked(_) => false,
        }
    }
}

/// A body of which at least this much is to come is worth a pipe.
const BULK_BYTES: u64 = 192 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::connection_stats::Ending;
    use crate::ring::{Deadlines, runtime};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    /// A tunnel stayed for an hour when one side failed while the other direction gave way.
    #[test]
    fn what_is_told_to_a_transfer_that_waits_for_a_chunk_is_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (there, Socket::from_fd(OwnedFd::from(listener.accept().unwrap().0), false))
        };
        runtime::tested().block_on(async {
            let ((_silent, from), (_reader, to)) = (pair(), pair());
            let chunks = ChunkPool::new(1, 4096, Arc::default()).unwrap();
            let (deadlines, control) = (Deadlines::default(), Control::default());
            let stats = ConnectionStats::default();
            let (ledger, budget) = (Arc::default(), Rc::new(Budget::unlimited()));
            let transfer = Transfer {
                chunks: &chunks,
                from: &from,
                to: Receiver {
                    socket: &to,
                    deadlines: &deadlines,
                    stall: Duration::from_secs(3600),
                    half_close: HalfClose::Keep,
                    stats: None,
                },
                silence: Duration::from_secs(3600),
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
            for by_decision in [false, true] {
                let held = chunks.lease(1).await;
                let mut moved = Box::pin(transfer.run(Decoder::UntilClose, Encoding::AsIs));
                assert!(poll_now(&mut moved).is_none());
                if by_decision {
                    stats.end(Ending::Cut);
                } else {
                    control.is_over.set(true);
                }
                from.interrupt(&deadlines);
                drop(held);
                let moved = tokio::time::timeout(Duration::from_secs(20), moved).await;
                assert!(matches!(moved, Ok(Err(RelayError::Interrupted))), "{moved:?}");
                control.is_over.set(false);
            }
            // Nor does it wait for ever where nobody tells it anything.
            let stats = ConnectionStats::default();
            let silence = Duration::from_millis(200);
            let transfer = Transfer { silence, stats: &stats, ..transfer };
            let _held = chunks.lease(1).await;
            let moved = transfer.run(Decoder::UntilClose, Encoding::AsIs).await;
            assert!(matches!(moved, Err(RelayError::NoChunk)), "{moved:?}");
        });
    }

    #[test]
    fn the_window_follows_what_arrives() {
        let mut window = Window { chunks: 1, chunks_max: 8 };
        for expected in [2, 4, 8, 8] {
            window.adapt(65_536, 65_536);
            assert_eq!(window.chunks, expected);
        }
        window.adapt(10, 524_288);
        assert_eq!(window.chunks, 4);
        window.adapt(200_000, 262_144);
        assert_eq!(window.chunks, 4);
    }
}
