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

mod coding;
mod steps;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::account::{Account, Moment};
use crate::http::chunked::ChunkError;
use crate::ring::hang_up::unless_hung_up;
use crate::ring::waits::turn;
use crate::ring::{ChunkPool, Deadlines, PipePool, Socket, Waited, clock};

pub use coding::{Decoded, Decoder, Encoding};
use steps::{Ends, Moving, Step, add};

/// What a transfer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The body, and nothing that followed it.
    Clean,
    /// The sender has sent more than the body.
    WithExcess,
}

/// Which side ended a transfer early, and how.
#[derive(Debug)]
pub enum Broken {
    /// The sender ended its side before the body was complete.
    FromEnded,
    FromFailed,
    FromExpired,
    ToFailed,
    ToExpired,
    /// Somebody ended the wait from outside.
    Interrupted,
    Framing(ChunkError),
    /// More payload than `payload_bytes_max`.
    TooLarge,
}

/// How long the sender may keep a transfer waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The longest silence.
    pub silence: Duration,
    /// Bytes per second that must arrive on average over the time spent waiting; 0 for no such
    /// rule.
    pub rate_min: u64,
}

/// A silence longer than this is worth watching the other side for its going away.
pub const WATCH_AFTER: Duration = Duration::from_secs(1);

/// Time that a sender may take before its rate counts: the time that a lossy mobile network needs
/// to come back.
const RATE_GRACE_MS: u64 = 10_000;

/// The rate rule's account of one transfer.
struct RateAccount {
    patience: Patience,
    waited_ms: u64,
    moved_bytes: u64,
}

impl RateAccount {
    /// The time that the next wait may take.
    fn limit(&self) -> Duration {
        if self.patience.rate_min == 0 {
            return self.patience.silence;
        }
        let earned_ms = self.moved_bytes.saturating_mul(1000) / self.patience.rate_min;
        let left = (RATE_GRACE_MS + earned_ms).saturating_sub(self.waited_ms);
        self.patience.silence.min(Duration::from_millis(left))
    }
}

/// What a transfer moves through, and its waits.
pub struct Transfer<'a> {
    pub chunks: &'a Rc<ChunkPool>,
    pub deadlines: &'a Deadlines,
    pub from: &'a Socket,
    pub to: &'a Socket,
    pub patience: Patience,
    /// The longest time for which the receiver may take nothing.
    pub stall: Duration,
    /// Chunks per operation at most.
    pub operation_chunks: usize,
    /// Move by `READ_FIXED` and `WRITE_FIXED`.
    pub is_fixed: bool,
    /// Where the pipes come from through which much is moved; `None` where a receive may be
    /// submitted on either socket meanwhile.
    pub pipes: Option<&'a Rc<PipePool>>,
    /// Never take more off the sender's socket than belongs to this body: the next request may
    /// follow.
    pub is_exact: bool,
    /// Notice when the receiver goes away during a long silence of the sender. Not where
    /// something else is pending on the receiver's socket.
    pub is_watching: bool,
    /// Refuse a chunked body with more payload than this; of use where `is_exact`.
    pub payload_bytes_max: u64,
    pub control: &'a Control,
    /// Of the client connection that it is for, and what of it the bytes add to.
    pub account: &'a Account,
    pub flow: &'a Cell<u64>,
}

/// What others may tell a transfer while it is under way, and what it tells them however it ends.
#[derive(Default)]
pub struct Control {
    /// Bytes taken off the sender's socket.
    pub received: Cell<u64>,
    /// Bytes that the receiver's socket has taken, with the framing that was added here.
    pub sent: Cell<u64>,
    /// When bytes were last moved, on the coarse clock.
    pub active_ms: Cell<u64>,
    /// It has bytes in its hands, or at hand, that the receiver does not take yet.
    pub is_sending: Cell<bool>,
    /// Nobody needs it any more.
    pub is_over: Cell<bool>,
    /// The sender waits for leave to begin, which is not its doing.
    pub is_held_back: Cell<bool>,
}

/// What a transfer moves before the other connections of its thread get a turn, where neither of
/// its sides makes it wait.
const TURN_BYTES: usize = 1024 * 1024;

impl Transfer<'_> {
    /// Moves the rest of the body.
    pub async fn run(&self, mut decoder: Decoder, encoding: Encoding) -> Result<Moved, Broken> {
        let mut account = RateAccount { patience: self.patience, waited_ms: 0, moved_bytes: 0 };
        let window = Window { chunks: 1, chunks_max: self.operation_chunks };
        let mut pace = Pace { window, is_congested: false, spliced: None };
        let mut is_clean = true;
        let mut turn_bytes = 0;
        while !decoder.is_done() {
            if turn_bytes >= TURN_BYTES {
                turn_bytes = 0;
                turn().await;
            }
            if self.is_over() {
                return Err(Broken::Interrupted);
            }
            self.control.is_sending.set(true);
            let step = self.step_on(&mut pace, &mut decoder, encoding).await;
            self.control.is_sending.set(false);
            match step? {
                Step::Empty => {
                    turn_bytes = 0;
                    self.wait_for_sender(&mut account).await?;
                }
                // The connection may have been ended on our side.
                Step::Ended if self.is_over() => return Err(Broken::Interrupted),
                Step::Ended if matches!(decoder, Decoder::UntilClose) => break,
                Step::Ended => return Err(Broken::FromEnded),
                Step::Moved { bytes, room, is_congested, excess } => {
                    account.moved_bytes += bytes as u64;
                    turn_bytes += bytes;
                    self.control.is_held_back.set(false);
                    let now = clock::coarse_ms();
                    self.control.active_ms.set(now);
                    self.account.moved.set(Moment::at_ms(now));
                    add(self.flow, bytes);
                    is_clean &= excess == 0;
                    pace.window.adapt(bytes, room);
                    pace.is_congested = is_congested;
                }
            }
        }
        Ok(if is_clean { Moved::Clean } else { Moved::WithExcess })
    }

    /// Moves one piece as soon as the receiver takes any.
    async fn step_on<'s>(
        &'s self,
        pace: &mut Pace<'s>,
        decoder: &mut Decoder,
        encoding: Encoding,
    ) -> Result<Step, Broken> {
        if pace.is_congested {
            self.writable().await.map_err(to_broken)?;
        }
        self.advance(pace, decoder, encoding).await
    }

    /// Moves one piece, in the way that fits how the transfer goes.
    async fn advance<'s>(
        &'s self,
        pace: &mut Pace<'s>,
        decoder: &mut Decoder,
        encoding: Encoding,
    ) -> Result<Step, Broken> {
        let is_congested = pace.is_congested;
        if encoding == Encoding::AsIs
            && !is_congested
            && pace.is_bulk(decoder)
            && let Some(pipe) = self.pipes.and_then(PipePool::try_lease)
        {
            if pace.spliced.is_none() {
                pace.spliced = Some(Ends::new(self.from, self.to)?);
            }
            if let Some(ends) = &pace.spliced {
                return self.step_spliced(pipe, ends, decoder).await;
            }
        }
        let run = self.chunks.lease(pace.window.for_body(decoder, self.chunks)).await;
        if self.is_over() {
            return Err(Broken::Interrupted);
        }
        let _moving = Moving::new(self.account, run.len());
        let is_careful = encoding == Encoding::AsIs
            && (self.is_exact && !matches!(decoder, Decoder::Sized(_))
                || is_congested
                || self.chunks.is_scarce());
        if self.is_fixed && encoding == Encoding::AsIs && !self.is_exact {
            self.step_fixed(run, decoder).await
        } else if is_careful {
            self.step_careful(run, decoder)
        } else {
            let is_tight = is_congested || self.chunks.is_scarce();
            self.step(run, decoder, encoding, is_tight).await
        }
    }

    /// Whether nobody needs it any more. Asked before each wait: an interruption ends only what is
    /// pending, and a transfer that has its turn just then has nothing pending.
    fn is_over(&self) -> bool {
        self.control.is_over.get() || self.account.is_cut.get()
    }

    /// Waits until the receiver takes something.
    async fn writable(&self) -> Result<(), Waited> {
        if self.is_over() {
            return Err(Waited::Interrupted);
        }
        writable(self.to, self.deadlines, self.stall).await
    }

    /// Sends all of `bytes`; true where the receiver had to be waited for.
    async fn send(&self, bytes: &[u8]) -> Result<bool, Waited> {
        send_by(self.to, bytes, || self.writable()).await
    }

    async fn wait_for_sender(&self, account: &mut RateAccount) -> Result<(), Broken> {
        let began = clock::coarse_ms();
        let is_held_back = self.control.is_held_back.get();
        let limit = if is_held_back { self.patience.silence } else { account.limit() };
        if limit.is_zero() {
            return Err(Broken::FromExpired);
        }
        let waited = self.from.readable(self.deadlines, limit.min(WATCH_AFTER)).await;
        match waited {
            Err(Waited::Expired) if limit > WATCH_AFTER => {
                self.wait_on(limit.saturating_sub(WATCH_AFTER)).await?;
            }
            waited => drop(waited.map_err(from_broken)?),
        }
        if !is_held_back {
            account.waited_ms += clock::coarse_ms().saturating_sub(began);
        }
        Ok(())
    }

    /// A long wait, in which the receiver may go away without anybody noticing: nothing is sent to
    /// it. A stream of rare events would be kept up for nobody.
    async fn wait_on(&self, limit: Duration) -> Result<(), Broken> {
        let wait = self.from.readable(self.deadlines, limit);
        if !self.is_watching {
            return wait.await.map(drop).map_err(from_broken);
        }
        match unless_hung_up(wait, self.from, self.to, self.deadlines).await {
            Some(waited) => waited.map(drop).map_err(from_broken),
            None => Err(Broken::ToFailed),
        }
    }
}

/// How a transfer goes.
struct Pace<'a> {
    window: Window,
    /// The receiver did not take all of the last piece at once.
    is_congested: bool,
    /// Set once a pipe has been used.
    spliced: Option<Ends<'a>>,
}

impl Pace<'_> {
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

/// How many chunks the next operation gets: grows while operations fill what they got, shrinks when
/// they come back with less than half.
struct Window {
    chunks: usize,
    chunks_max: usize,
}

impl Window {
    fn for_body(&self, decoder: &Decoder, pool: &ChunkPool) -> usize {
        match decoder {
            Decoder::Sized(left) => usize::try_from(left.div_ceil(pool.chunk_bytes() as u64))
                .map_or(self.chunks, |chunks| chunks.min(self.chunks)),
            Decoder::Chunked(_) | Decoder::UntilClose => self.chunks,
        }
    }

    fn adapt(&mut self, moved: usize, room: usize) {
        if moved == room {
            self.chunks = (self.chunks * 2).min(self.chunks_max);
        } else if moved * 4 < room {
            self.chunks = (self.chunks / 2).max(1);
        }
    }
}

/// Waits until something can be sent, for as long as the receiver makes progress.
///
/// The kernel reports a socket as writable when a third of its buffer is free, which can be more
/// than a megabyte: a receiver that takes less than that in time is slow, not stalled.
async fn writable(to: &Socket, deadlines: &Deadlines, stall: Duration) -> Result<(), Waited> {
    let mut unacknowledged = to.unacknowledged();
    loop {
        match to.writable(deadlines, stall).await {
            Err(Waited::Expired) if to.unacknowledged() < unacknowledged => {
                unacknowledged = to.unacknowledged();
            }
            waited => return waited.map(drop),
        }
    }
}

/// Sends all of `bytes`; true where the receiver had to be waited for.
pub async fn send_all(
    to: &Socket,
    bytes: &[u8],
    deadlines: &Deadlines,
    stall: Duration,
) -> Result<bool, Waited> {
    send_by(to, bytes, || writable(to, deadlines, stall)).await
}

async fn send_by<W>(to: &Socket, mut bytes: &[u8], writable: impl Fn() -> W) -> Result<bool, Waited>
where
    W: Future<Output = Result<(), Waited>>,
{
    let mut has_waited = false;
    while !bytes.is_empty() {
        match to.try_send(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                has_waited = true;
                writable().await?;
            }
            Err(error) => return Err(Waited::Failed(error)),
        }
    }
    Ok(has_waited)
}

fn from_broken(waited: Waited) -> Broken {
    match waited {
        Waited::Expired => Broken::FromExpired,
        Waited::Interrupted => Broken::Interrupted,
        Waited::Failed(_) => Broken::FromFailed,
    }
}

fn to_broken(waited: Waited) -> Broken {
    match waited {
        Waited::Expired => Broken::ToExpired,
        Waited::Interrupted => Broken::Interrupted,
        Waited::Failed(_) => Broken::ToFailed,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use super::*;
    use crate::ring::{runtime, waits::poll_now};

    /// A tunnel stayed for an hour when one side failed while the other direction gave way.
    #[test]
    fn what_is_told_to_a_transfer_that_waits_for_a_chunk_is_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (there, Socket::from_fd(OwnedFd::from(listener.accept().unwrap().0)))
        };
        runtime::open().unwrap().block_on(async {
            let ((_silent, from), (_reader, to)) = (pair(), pair());
            let chunks = ChunkPool::new(1, 4096, Arc::default()).unwrap();
            let (deadlines, control) = (Deadlines::default(), Control::default());
            let account = Account::default();
            let transfer = Transfer {
                chunks: &chunks,
                deadlines: &deadlines,
                from: &from,
                to: &to,
                patience: Patience { silence: Duration::from_secs(3600), rate_min: 0 },
                stall: Duration::from_secs(3600),
                operation_chunks: 1,
                is_fixed: false,
                pipes: None,
                is_exact: false,
                is_watching: false,
                payload_bytes_max: u64::MAX,
                control: &control,
                account: &account,
                flow: &account.received,
            };
            for tell in [&control.is_over, &account.is_cut] {
                let held = chunks.lease(1).await;
                let mut moved = Box::pin(transfer.run(Decoder::UntilClose, Encoding::AsIs));
                assert!(poll_now(&mut moved).is_none());
                tell.set(true);
                from.interrupt(&deadlines);
                drop(held);
                let moved = tokio::time::timeout(Duration::from_secs(20), moved).await;
                assert!(matches!(moved, Ok(Err(Broken::Interrupted))), "{moved:?}");
                tell.set(false);
            }
        });
    }

    #[test]
    fn the_rate_rule_counts_waiting_time_only_after_a_grace() {
        let patience = Patience { silence: Duration::from_secs(60), rate_min: 100 };
        let mut account = RateAccount { patience, waited_ms: 0, moved_bytes: 0 };
        assert_eq!(account.limit(), Duration::from_secs(10));
        account.waited_ms = 9_000;
        account.moved_bytes = 300;
        assert_eq!(account.limit(), Duration::from_secs(4));
        account.waited_ms = 13_000;
        assert_eq!(account.limit(), Duration::ZERO);
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
