//! A tunnel: two sockets and whatever they have to say to each other.
//!
//! In goes a client whose request has become a tunnel (CONNECT, or an upgrade that the origin has
//! granted) with the origin's socket; out comes why it ended. Each direction ends by itself and
//! says so to the other side (half-close); the tunnel is over when both have ended, when one has
//! failed, when neither has moved a byte for `timeouts.tunnel_idle`, or when the side that is left
//! has been silent for `timeouts.tunnel_half_closed`. Nothing is held while nothing moves.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::config::{Config, HalfClose, TimeoutsConfig};
use crate::exchange::record::Record;
use crate::fault::{Close, Fault};
use crate::observe::connection_stats::{ConnectionStats, Phase, WaitsOn};
use crate::relay::side::Side;
use crate::relay::{
    Control, Decoder, Encoding, Receiver, RelayError, Sender, Transfer, WATCH_AFTER,
};
use crate::ring::{Socket, WaitError, clock};
use crate::worker::Worker;
use crate::worker::generation::Generation;
use crate::worker::slot::ConnectionSlot;

/// A tunnel that is about to begin.
pub(crate) struct Tunnel {
    pub origin: Socket,
    /// By which it was asked for, and goes on.
    pub generation: Rc<Generation>,
    pub times: Rc<TimeoutsConfig>,
    /// What the client has sent behind its request.
    pub to_origin: Vec<u8>,
    /// What the origin has sent behind its answer.
    pub to_client: Vec<u8>,
    pub record: Record,
    /// One of `limits.tunnels`.
    pub permit: OwnedSemaphorePermit,
}

/// What a tunnel costs beside its client's connection: its future, and what the ring and the table
/// of deadlines keep for the origin's socket.
pub(crate) const TUNNEL_BYTES: usize = 1280;

/// What is taken at once of a failed sender's last words.
const LAST_WORDS_BYTES: usize = 16 * 1024;
/// One second for the receiver to acknowledge them.
const ACKNOWLEDGED_ROUNDS: usize = 100;
const ACKNOWLEDGED_POLL: Duration = Duration::from_millis(10);

/// Moves bytes both ways until the tunnel is over.
pub(crate) async fn run(slot: &ConnectionSlot, tunnel: Box<Tunnel>) -> Close {
    let Tunnel { origin, generation, times, to_origin, to_client, mut record, permit } = *tunnel;
    let config = &*generation.config;
    let worker = slot.worker();
    let attached = slot.attach(&origin);
    worker.metrics.tunnels.add(1);
    worker.metrics.tunnels_opened.add(1);
    let (up, down) = (Direction::new(), Direction::new());
    let ended = {
        let client = slot.socket();
        let stats = slot.stats();
        stats.enter(Phase::Tunnel, clock::coarse_ms());
        let pump = |from, to, this, other, flow| Pump {
            worker,
            config,
            times: &times,
            from,
            to,
            this,
            other,
            stats,
            flow,
        };
        let upward = pump(client, &origin, &up, &down, &stats.received);
        let downward = pump(&origin, client, &down, &up, &stats.sent);
        let ended = {
            let upward = std::pin::pin!(upward.run(slot, to_origin));
            let downward = std::pin::pin!(downward.run(slot, to_client));
            both(upward, downward, || {
                for direction in [&up, &down] {
                    direction.control.is_over.set(true);
                }
                client.interrupt(&worker.deadlines);
                origin.interrupt(&worker.deadlines);
            })
            .await
        };
        match ended {
            Err(Fault::OriginTruncated) => Box::pin(downward.pass_last_words()).await,
            Err(Fault::ClientGone) => Box::pin(upward.pass_last_words()).await,
            _ => {}
        }
        ended
    };
    drop(attached);
    let (up_bytes, down_bytes) = (up.control.received.get(), down.control.sent.get());
    record.moved(up_bytes, down_bytes);
    worker.metrics.tunnel_bytes.add(up_bytes + down_bytes);
    worker.metrics.tunnels.sub(1);
    let close = match ended {
        Ok(()) => Close::ClientDone,
        Err(fault) => {
            let fault = slot.stats().settle(fault);
            record.failed(fault);
            if fault != Fault::TunnelIdle || !up.is_delivered() || !down.is_delivered() {
                // Neither side may take what it has for all there was.
                slot.socket().reset_on_close();
                origin.reset_on_close();
            }
            Close::Cut
        }
    };
    record.write_detached(worker, &generation);
    drop(permit);
    close
}

/// One direction, as the other one sees it.
struct Direction {
    control: Control,
    /// Its sender has ended its side, and its receiver knows.
    has_ended: Cell<bool>,
}

impl Direction {
    fn new() -> Self {
        let control = Control::default();
        control.active_ms.set(clock::coarse_ms());
        Self { control, has_ended: Cell::new(false) }
    }

    /// Whether its receiver's socket has got all that was taken off its sender's.
    fn is_delivered(&self) -> bool {
        self.control.received.get() == self.control.sent.get()
    }

    fn active_ms(&self) -> u64 {
        // What waits for a slow receiver has a patience of its own.
        if self.control.is_sending.get() { u64::MAX } else { self.control.active_ms.get() }
    }
}

struct Pump<'a> {
    worker: &'a Worker,
    config: &'a Config,
    times: &'a TimeoutsConfig,
    from: &'a Socket,
    to: &'a Socket,
    this: &'a Direction,
    other: &'a Direction,
    stats: &'a ConnectionStats,
    /// What of the statistics it adds to.
    flow: &'a Cell<u64>,
}

impl Pump<'_> {
    /// Moves what comes until its sender has no more to say.
    async fn run(&self, slot: &ConnectionSlot, mut early: Vec<u8>) -> Result<(), RelayError> {
        loop {
            // Boxed so that a silent tunnel does not carry the room for a busy one.
            match Box::pin(self.move_on(std::mem::take(&mut early))).await {
                Ok(()) => break,
                // While others hold all chunks, the silence goes on.
                Err(RelayError::FromExpired | RelayError::NoChunk) => {}
                // The other direction has ended, so that there is less patience with this one.
                Err(RelayError::Interrupted) if !self.is_over(slot) => {}
                Err(broken) => return Err(broken),
            }
            self.worker.released.set(self.worker.released.get() + 1);
            self.rest(slot).await?;
        }
        if !self.to.is_plain() {
            let timeouts = self.times;
            let patience = timeouts.tunnel_half_closed.min(timeouts.tunnel_idle);
            Box::pin(self.to.take_leave(&self.worker.deadlines, patience)).await;
        }
        self.to.finish_sending();
        self.this.has_ended.set(true);
        self.this.control.active_ms.set(clock::coarse_ms());
        // The other direction waits here for its sender, with nothing in its hands.
        self.to.interrupt(&self.worker.deadlines);
        Ok(())
    }

    /// Moves what comes until there is silence for a while, or the end.
    async fn move_on(&self, early: Vec<u8>) -> Result<(), RelayError> {
        if !early.is_empty() {
            let control = &self.this.control;
            control.received.set(control.received.get() + early.len() as u64);
            let stall = self.times.tunnel_idle;
            let sent = self.receiver(stall).send_all(&early).await;
            sent.map_err(RelayError::of_receiver)?;
            control.sent.set(control.sent.get() + early.len() as u64);
        }
        let transfer = self.transfer(WATCH_AFTER.min(self.patience()));
        transfer.run(Decoder::UntilClose, Encoding::AsIs).await.map(drop)
    }

    /// Waits for something to come, holding nothing.
    async fn rest(&self, slot: &ConnectionSlot) -> Result<(), RelayError> {
        loop {
            // Told while it moved something, when nothing was pending that could be interrupted.
            if self.is_over(slot) {
                return Err(RelayError::Interrupted);
            }
            let patience = self.patience();
            if patience.is_zero() {
                return Err(RelayError::FromExpired);
            }
            // A receiver that has ended its own direction already is not heard of when it resets.
            let wait =
                if self.other.has_ended.get() { patience.min(WATCH_AFTER) } else { patience };
            match self.from.readable(&self.worker.deadlines, wait).await {
                Ok(_) => return Ok(()),
                Err(WaitError::Expired) if self.to.has_failed() => {
                    return Err(RelayError::ToFailed);
                }
                Err(WaitError::Expired | WaitError::Interrupted) => {}
                Err(failed) => return Err(RelayError::of_sender(failed)),
            }
        }
    }

    /// Hands on what a sender had said before it failed and has not been passed on yet: the other
    /// direction may have seen the failure first.
    async fn pass_last_words(&self) {
        if !self.this.is_delivered() {
            return;
        }
        let control = &self.this.control;
        let mut words = vec![0; LAST_WORDS_BYTES];
        let mut passed = 0;
        while let Ok(count @ 1..) = self.from.try_recv(&mut words) {
            control.received.set(control.received.get() + count as u64);
            if self.receiver(WATCH_AFTER).send_all(&words[..count]).await.is_err() {
                return;
            }
            control.sent.set(control.sent.get() + count as u64);
            passed += count;
        }
        // The reset that follows would throw away what is still on its way.
        for _ in 0..ACKNOWLEDGED_ROUNDS {
            if passed == 0 || self.to.unacknowledged() == 0 || self.worker.closes_idle.get() {
                return;
            }
            tokio::time::sleep(ACKNOWLEDGED_POLL).await;
        }
    }

    fn is_over(&self, slot: &ConnectionSlot) -> bool {
        self.this.control.is_over.get() || slot.stats().is_ended()
    }

    /// How much longer nothing may move.
    fn patience(&self) -> Duration {
        let timeouts = self.times;
        let limit = if self.other.has_ended.get() {
            timeouts.tunnel_half_closed.min(timeouts.tunnel_idle)
        } else {
            timeouts.tunnel_idle
        };
        let active_ms = self.this.control.active_ms.get().max(self.other.active_ms());
        limit.saturating_sub(Duration::from_millis(clock::coarse_ms().saturating_sub(active_ms)))
    }

    fn receiver(&self, stall: Duration) -> Receiver<'_> {
        Receiver {
            socket: self.to,
            deadlines: &self.worker.deadlines,
            stall,
            // Either side may end its direction, which is what the other one is told.
            half_close: HalfClose::Keep,
            stats: Some((self.stats, WaitsOn::Nobody)),
        }
    }

    fn transfer(&self, silence: Duration) -> Transfer<'_> {
        let config = self.config;
        let stats = (self.stats, WaitsOn::Nobody);
        let from = Sender { socket: self.from, silence, stats, flow: self.flow };
        let to = self.receiver(self.times.tunnel_idle);
        let control = &self.this.control;
        // A tunnel may wait for an hour.
        Transfer::new(self.worker.means(), &config.buffers, from, to, control).unregistered()
    }
}

/// Drives both directions. Where one fails, `give_up` ends what the other waits for.
async fn both<A, B>(
    mut up: Pin<&mut A>,
    mut down: Pin<&mut B>,
    give_up: impl Fn(),
) -> Result<(), Fault>
where
    A: Future<Output = Result<(), RelayError>>,
    B: Future<Output = Result<(), RelayError>>,
{
    let (mut up_ended, mut down_ended) = (false, false);
    let mut fault = None;
    poll_fn(|cx| {
        if !up_ended && let Poll::Ready(ended) = up.as_mut().poll(cx) {
            up_ended = true;
            if let Err(broken) = ended
                && fault.is_none()
            {
                fault = Some(self::fault(&broken, Side::Client));
                give_up();
            }
        }
        if !down_ended && let Poll::Ready(ended) = down.as_mut().poll(cx) {
            down_ended = true;
            if let Err(broken) = ended
                && fault.is_none()
            {
                fault = Some(self::fault(&broken, Side::Origin));
                give_up();
                // The other one has been polled already; it is to see that it is over.
                cx.waker().wake_by_ref();
            }
        }
        if up_ended && down_ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    fault.map_or(Ok(()), Err)
}

/// The fault of a tunnel in which what came `from` this side could not be passed on.
fn fault(broken: &RelayError, from: Side) -> Fault {
    match broken {
        RelayError::FromExpired => Fault::TunnelIdle,
        broken => broken.of_body(from),
    }
}
