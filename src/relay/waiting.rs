//! Waiting for one side of a transfer: one deadline for as long as nothing moves.
//!
//! In go a socket and what it means that its peer has ended its own side; out comes that it is
//! worth trying again, or why not. The ring adds a hang-up to what is waited for, so that a wait
//! may end with nothing to be done: only bytes that move, or that the peer
//! acknowledges, set the deadline anew. Rounds without them are counted, and after a few there is a
//! pause between them. What has been decided about the connection is seen before and after each.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use crate::config::HalfClose;
use crate::observe::connection_stats::{ConnectionStats, WaitsOn};
use crate::ring::waits::turn;
use crate::ring::{Deadlines, Socket, WaitError, clock, count_fruitless};

/// So often a lane waits again at once. It is told whenever others may have been faster, in the
/// order of their turns: whoever does not wait just then gets what is another's, or is late itself.
const LANE_ROUNDS_MAX: u32 = 64;

/// A silence longer than this is worth watching the client for its going away, and a client that
/// has ended its side may still get what comes within it.
pub(crate) const HANG_UP_AFTER: Duration = Duration::from_millis(200);

/// Since when, and how often in vain, one side of a transfer has been waited for.
#[derive(Default)]
pub(super) struct Stall {
    /// On the coarse clock; 0 where something has moved since.
    began_ms: Cell<u64>,
    rounds: Cell<u32>,
    /// Of the receiver, bytes that its peer had not acknowledged when it began.
    unacknowledged: Cell<usize>,
    /// The receiver's peer has ended its side, which a plain poll would tell again and again.
    is_half_closed: Cell<bool>,
}

/// Rounds in vain that are nobody's fault: several waits can hear of the same bytes.
const ROUNDS_FREE: u32 = 3;

/// 64 times the first pause is about the longest one.
const PAUSE_DOUBLINGS_MAX: u32 = 7;
const PAUSE_MAX: Duration = Duration::from_millis(100);

impl Stall {
    /// Something has moved.
    pub(super) fn end(&self) {
        self.began_ms.set(0);
        self.rounds.set(0);
    }

    /// How often a wait has ended since something moved.
    pub(super) fn rounds(&self) -> u32 {
        self.rounds.get()
    }

    /// What is left of `limit`, which begins with the first call.
    pub(super) fn left(&self, limit: Duration) -> Duration {
        let now = clock::coarse_ms();
        if self.began_ms.get() == 0 {
            self.began_ms.set(now);
        }
        limit.saturating_sub(Duration::from_millis(now.saturating_sub(self.began_ms.get())))
    }

    /// A wait has ended.
    pub(super) fn count_round(&self) {
        self.rounds.set(self.rounds.get().saturating_add(1));
    }

    /// Called where the last wait was in vain: after a few of them, a pause.
    pub(super) async fn pause(&self) {
        let rounds = self.rounds.get();
        if rounds == 0 {
            return;
        }
        count_fruitless();
        if rounds > ROUNDS_FREE {
            let doublings = (rounds - ROUNDS_FREE - 1).min(PAUSE_DOUBLINGS_MAX);
            tokio::time::sleep(Duration::from_millis(1 << doublings).min(PAUSE_MAX)).await;
        }
    }
}

/// Whoever is sent to.
#[derive(Clone, Copy)]
pub(crate) struct Receiver<'a> {
    pub socket: &'a Socket,
    pub deadlines: &'a Deadlines,
    /// The longest time for which it may take nothing.
    pub stall: Duration,
    /// What its end of its own side means.
    pub half_close: HalfClose,
    /// Of the connection that it is done for, with how that says that the receiver is waited for;
    /// `None` where it is done for nobody.
    pub stats: Option<(&'a ConnectionStats, WaitsOn)>,
}

impl Receiver<'_> {
    /// Sends all of `bytes`.
    pub(crate) async fn send_all(&self, bytes: &[u8]) -> Result<(), WaitError> {
        self.send(bytes, &Stall::default(), clock::coarse_ms(), || false, drop).await.map(drop)
    }

    /// Sends all of `bytes`, of a transfer that `began_ms`, unless that `is_over`, and says how
    /// many the receiver `took` each time; true where it had to be waited for.
    pub(super) async fn send(
        &self,
        mut bytes: &[u8],
        stall: &Stall,
        began_ms: u64,
        is_over: impl Fn() -> bool,
        took: impl Fn(usize),
    ) -> Result<bool, WaitError> {
        let mut has_waited = false;
        while !bytes.is_empty() {
            match self.socket.try_send(bytes) {
                Ok(count) => {
                    bytes = &bytes[count..];
                    took(count);
                    stall.end();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    has_waited = true;
                    self.writable(stall, began_ms, &is_over).await?;
                }
                Err(error) => return Err(WaitError::Failed(error)),
            }
        }
        Ok(has_waited)
    }

    /// Waits until something can be sent, for as long as the receiver makes progress.
    ///
    /// The kernel reports a socket as writable when a third of its buffer is free, which can be
    /// more than a megabyte: a receiver that takes less than that in time is slow, not stalled.
    pub(super) async fn writable(
        &self,
        stall: &Stall,
        began_ms: u64,
        is_over: impl Fn() -> bool,
    ) -> Result<(), WaitError> {
        if stall.rounds() == 0 {
            stall.left(self.stall);
            stall.unacknowledged.set(self.socket.unacknowledged());
        }
        if let Some((stats, waits_on)) = self.stats {
            stats.waits_on.set(waits_on);
        }
        loop {
            if !self.socket.is_lane() {
                stall.pause().await;
            } else if stall.rounds() > LANE_ROUNDS_MAX {
                turn().await;
            }
            if is_over() || self.stats.is_some_and(|(stats, _)| stats.is_ended()) {
                return Err(WaitError::Interrupted);
            }
            let mut left = stall.left(self.stall);
            if left.is_zero() {
                let unacknowledged = self.socket.unacknowledged();
                if unacknowledged >= stall.unacknowledged.replace(unacknowledged) {
                    return Err(WaitError::Expired);
                }
                stall.began_ms.set(0);
                left = stall.left(self.stall);
            }
            let is_half_closed = stall.is_half_closed.get();
            if is_half_closed && self.half_close == HalfClose::Close {
                if is_past(began_ms, clock::coarse_ms()) {
                    return Err(WaitError::Failed(io::ErrorKind::ConnectionAborted.into()));
                }
                left = left.min(HANG_UP_AFTER);
            }
            let wait = if is_half_closed {
                self.socket.writable_only(self.deadlines, left)
            } else {
                self.socket.writable(self.deadlines, left)
            };
            match wait.await {
                Ok(events) => {
                    stall.count_round();
                    if events.is_writable() || events.is_broken() {
                        return Ok(());
                    }
                    stall.is_half_closed.set(events.has_ended());
                }
                Err(WaitError::Expired) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether something that `began_ms` has gone on for long enough to look after the client.
pub(super) fn is_past(began_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(began_ms) >= HANG_UP_AFTER.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::observe::connection_stats::Ending;
    use crate::ring::runtime;
    use crate::ring::waits::poll_now;

    /// A peer that has ended its side and reads nothing, and the socket to it.
    fn half_closed() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        there.shutdown(Shutdown::Write).unwrap();
        (there, Socket::from_fd(OwnedFd::from(listener.accept().unwrap().0), false))
    }

    /// Runs `test` with a receiver that takes less than it is sent.
    fn with_receiver<T>(
        half_close: HalfClose,
        test: impl AsyncFnOnce(Receiver<'_>, TcpStream) -> T,
    ) {
        runtime::tested().block_on(async {
            let deadlines = std::rc::Rc::new(Deadlines::default());
            let carried_out = deadlines.clone();
            let task = tokio::task::spawn_local(async move { carried_out.run().await });
            let (there, socket) = half_closed();
            let stall = Duration::from_millis(400);
            let deadlines = &*deadlines;
            let socket = &socket;
            test(Receiver { socket, deadlines, stall, half_close, stats: None }, there).await;
            task.abort();
        });
    }

    const MUCH: usize = 64 << 20;

    #[test]
    fn a_half_closed_receiver_that_takes_nothing_has_one_deadline_and_costs_nothing() {
        with_receiver(HalfClose::Keep, async |receiver, _there| {
            let bytes = vec![0; MUCH];
            while receiver.socket.try_send(&bytes).is_ok() {}
            let (began, stall) = (std::time::Instant::now(), Stall::default());
            let sent = receiver.send(&bytes, &stall, clock::coarse_ms(), || false, drop).await;
            assert!(matches!(sent, Err(WaitError::Expired)), "{sent:?}");
            assert!(began.elapsed() >= receiver.stall, "{:?}", began.elapsed());
            // Each round is a system call or two: thousands of them would be a busy loop.
            assert!(stall.rounds() < 20, "{}", stall.rounds());
        });
    }

    #[test]
    fn a_half_closed_receiver_that_reads_gets_everything_where_it_may() {
        with_receiver(HalfClose::Keep, async |receiver, mut there| {
            let reading = std::thread::spawn(move || {
                let mut received = 0;
                let mut piece = vec![0; 1 << 16];
                while received < MUCH {
                    received += there.read(&mut piece).unwrap();
                }
            });
            receiver.send_all(&vec![0; MUCH]).await.unwrap();
            reading.join().unwrap();
        });
    }

    #[test]
    fn a_half_closed_client_has_gone_where_that_is_the_rule() {
        with_receiver(HalfClose::Close, async |receiver, _there| {
            let sent = receiver.send_all(&vec![0; MUCH]).await;
            assert!(matches!(sent, Err(WaitError::Failed(_))), "{sent:?}");
        });
    }

    #[test]
    fn what_has_been_decided_is_seen_before_a_wait_begins() {
        with_receiver(HalfClose::Keep, async |receiver, _there| {
            let stats = ConnectionStats::default();
            stats.end(Ending::GiveUp(crate::fault::Fault::PoolTimeout));
            let receiver = Receiver { stats: Some((&stats, WaitsOn::ClientToTake)), ..receiver };
            let bytes = vec![0; MUCH];
            let mut sent = Box::pin(receiver.send_all(&bytes));
            assert!(matches!(poll_now(&mut sent), Some(Err(WaitError::Interrupted))));
        });
    }
}
