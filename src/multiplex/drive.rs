//! The task of one connection: it reads, has lanes work, and sends what they have said.
//!
//! In goes a connection; out comes why it ended. All that lanes have to say by the time it is this
//! task's turn leaves by one call. Each wait has a deadline: a head that is not whole, silence with
//! and without streams, a peer that takes nothing, our settings that nobody acknowledges.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::Multiplex;
use super::hear::Heard;
use super::host::{End, Keeper, Silence};
use super::outbox;
use crate::http2::error::ErrorCode;
use crate::limits::{
    HTTP2_DRAIN_AFTER_MS, HTTP2_OUTBOX_BYTES, HTTP2_PING_AFTER_MS, HTTP2_PONG_WITHIN_MS,
    HTTP2_READ_BYTES, HTTP2_READS_PER_TURN,
};
use crate::ring::waits::{Events, Wait, turn};
use crate::ring::{Deadlines, WaitError, clock};

/// What is waited for at most before the clock is looked at while streams are open.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After this much of silence without streams nothing is held.
const REST_AFTER_MS: u64 = 1000;
/// What a ping of ours carries.
const PING: [u8; 8] = *b"ringway.";

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// When things began, on the coarse clock.
struct Clock {
    heard_ms: u64,
    /// Something that is of no use before it is whole is under way.
    head_ms: Option<u64>,
    pinged_ms: Option<u64>,
    idle_ms: Option<u64>,
    drain_ms: Option<u64>,
    /// Bytes wait that the peer does not take.
    stalled_ms: Option<u64>,
    settings_ms: Option<u64>,
    is_resting: bool,
}

struct Drive<'a, K> {
    connection: &'a Multiplex,
    keeper: &'a K,
    clock: Clock,
}

/// Drives `connection` to its end, which begins with the bytes `early`.
pub(crate) async fn run(
    connection: &Multiplex,
    keeper: &impl Keeper,
    deadlines: &Deadlines,
    early: &[u8],
) -> End {
    let now_ms = clock::coarse_ms();
    let clock = Clock {
        heard_ms: now_ms,
        head_ms: None,
        pinged_ms: None,
        idle_ms: None,
        drain_ms: None,
        stalled_ms: None,
        settings_ms: Some(now_ms),
        is_resting: false,
    };
    let mut drive = Drive { connection, keeper, clock };
    let mut waits = (None, None);
    let end = drive.go(deadlines, early, &mut waits).await;
    connection.end();
    // A wait that is pending keeps the descriptor open.
    if waits.0.is_some() || waits.1.is_some() {
        connection.wire.interrupt(deadlines);
    }
    if let Some(wait) = waits.0 {
        let _ = wait.await;
    }
    if let Some(wait) = waits.1 {
        let _ = wait.await;
    }
    drive.say_goodbye(end);
    connection.count();
    end
}

type Waits<'a> = (Option<Wait<'a>>, Option<Wait<'a>>);

/// What has woken the task.
enum Woken {
    News,
    Input(Result<Events, WaitError>),
    Output(Result<Events, WaitError>),
}

impl<K: Keeper> Drive<'_, K> {
    async fn go<'d>(
        &mut self,
        deadlines: &'d Deadlines,
        early: &[u8],
        waits: &mut Waits<'d>,
    ) -> End {
        if let Err(end) = self.hear(early) {
            return end;
        }
        // What has come with the first bytes is there by now.
        let mut is_readable = true;
        loop {
            if is_readable {
                match self.read() {
                    Ok(true) => {}
                    Ok(false) => is_readable = false,
                    Err(end) => return end,
                }
            }
            if let Err(end) = self.flush() {
                return end;
            }
            if let Some(end) = self.look() {
                return end;
            }
            if is_readable {
                // Others have a turn, and lanes what has come.
                turn().await;
                continue;
            }
            match self.wait(deadlines, waits).await {
                Woken::News | Woken::Output(Ok(_)) => {}
                // There may be memory by now that was not there when it was asked for.
                Woken::Input(Err(WaitError::Expired)) => self.connection.make_way(),
                Woken::Input(Ok(_)) => is_readable = true,
                Woken::Output(Err(WaitError::Expired)) => {
                    return End::Silent(Silence::Stall);
                }
                Woken::Input(Err(WaitError::Interrupted))
                | Woken::Output(Err(WaitError::Interrupted)) => {
                    if let Some(end) = self.keeper.interrupted() {
                        return end;
                    }
                }
                Woken::Input(Err(WaitError::Failed(_)))
                | Woken::Output(Err(WaitError::Failed(_))) => return End::Gone,
            }
        }
    }

    async fn wait<'d>(&mut self, deadlines: &'d Deadlines, waits: &mut Waits<'d>) -> Woken {
        let wire = &self.connection.wire;
        let (input, output) = waits;
        if input.is_none() {
            *input = Some(wire.readable(deadlines, self.patience()));
        }
        let is_stalled = self.clock.stalled_ms.is_some();
        if is_stalled && output.is_none() {
            *output = Some(wire.writable_only(deadlines, self.keeper.patience().stall));
        }
        poll_fn(|cx| {
            if self.connection.poll_news(cx).is_ready() {
                return Poll::Ready(Woken::News);
            }
            if let Some(wait) = input
                && let Poll::Ready(result) = Pin::new(wait).poll(cx)
            {
                *input = None;
                return Poll::Ready(Woken::Input(result));
            }
            if let Some(wait) = output
                && let Poll::Ready(result) = Pin::new(wait).poll(cx)
            {
                *output = None;
                return Poll::Ready(Woken::Output(result));
            }
            Poll::Pending
        })
        .await
    }

    /// Reads what is there; whether there may be more.
    fn read(&mut self) -> Result<bool, End> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(HTTP2_READ_BYTES, 0);
            for _ in 0..HTTP2_READS_PER_TURN {
                match self.connection.wire.try_recv(scratch) {
                    Ok(0) => return Err(End::Gone),
                    Ok(count) => {
                        self.keeper.moved(count, 0);
                        self.hear(&scratch[..count])?;
                        // A session hands records out one by one.
                        if count < HTTP2_READ_BYTES && self.connection.wire.is_plain() {
                            return Ok(false);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(_) => return Err(End::Gone),
                }
            }
            Ok(true)
        })
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        let now_ms = clock::coarse_ms();
        let heard = self.connection.take_in(bytes, self.keeper);
        let Heard { is_ponged, is_leaving } = heard.map_err(End::Fault)?;
        let clock = &mut self.clock;
        clock.heard_ms = now_ms;
        // Whatever comes says that the peer is there.
        clock.pinged_ms = None;
        let session = self.connection.session.borrow();
        clock.head_ms = if session.awaits_rest() { clock.head_ms.or(Some(now_ms)) } else { None };
        if session.are_settings_acknowledged() {
            clock.settings_ms = None;
        }
        drop(session);
        if is_ponged && clock.drain_ms.is_some() {
            self.connection.session.borrow_mut().finish_drain();
        }
        if is_leaving {
            self.drain();
            self.connection.session.borrow_mut().finish_drain();
        }
        Ok(())
    }

    fn drain(&mut self) {
        if self.clock.drain_ms.is_none() {
            self.clock.drain_ms = Some(clock::coarse_ms());
            self.connection.session.borrow_mut().begin_drain(PING);
        }
    }

    /// Sends what is to be sent, as far as the wire takes it.
    fn flush(&mut self) -> Result<(), End> {
        let connection = self.connection;
        let mut session = connection.session.borrow_mut();
        let mut sent = connection.sent.take();
        while !session.pending().is_empty() {
            match connection.wire.try_send(session.pending()) {
                Ok(count) => {
                    session.consume(count);
                    sent += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(End::Gone),
            }
        }
        let is_empty = session.pending().is_empty();
        let has_room = session.pending().len() < HTTP2_OUTBOX_BYTES;
        outbox::take_back(&mut session);
        drop(session);
        if sent > 0 {
            self.keeper.moved(0, sent);
        }
        self.clock.stalled_ms = if is_empty {
            None
        } else if sent > 0 || self.clock.stalled_ms.is_none() {
            Some(clock::coarse_ms())
        } else {
            self.clock.stalled_ms
        };
        if sent > 0 && has_room && connection.is_short.replace(false) {
            connection.tell_in_turn();
        }
        Ok(())
    }

    /// Looks at the clock, and at what others have decided.
    fn look(&mut self) -> Option<End> {
        let connection = self.connection;
        let now_ms = clock::coarse_ms();
        let patience = self.keeper.patience();
        let is_past = |since: Option<u64>, limit: Duration| {
            since.is_some_and(|since| now_ms.saturating_sub(since) >= limit.as_millis() as u64)
        };
        connection.count();
        if is_past(self.clock.head_ms, patience.head) {
            return Some(End::Silent(Silence::Head));
        }
        if is_past(self.clock.stalled_ms, patience.stall) {
            return Some(End::Silent(Silence::Stall));
        }
        let pong = Duration::from_millis(HTTP2_PONG_WITHIN_MS);
        if is_past(self.clock.settings_ms, pong) {
            connection.session.borrow_mut().leave(ErrorCode::SettingsTimeout);
            return Some(End::Silent(Silence::Settings));
        }
        if is_past(self.clock.pinged_ms, pong) {
            return Some(End::Silent(Silence::Ping));
        }
        if self.keeper.is_closing() {
            self.drain();
        }
        if is_past(self.clock.drain_ms, Duration::from_millis(HTTP2_DRAIN_AFTER_MS)) {
            connection.session.borrow_mut().finish_drain();
        }
        let session = connection.session.borrow();
        let (streams, is_drained) = (session.streams(), session.is_drained());
        let is_sent = session.pending().is_empty();
        drop(session);
        if is_drained && is_sent {
            return Some(End::Drained);
        }
        if self.keeper.is_unused() {
            return Some(End::Idle);
        }
        if streams > 0 {
            if self.clock.idle_ms.take().is_some() || self.clock.is_resting {
                self.clock.is_resting = false;
                self.keeper.set_idle(false);
            }
            let is_silent = now_ms.saturating_sub(self.clock.heard_ms) >= HTTP2_PING_AFTER_MS;
            if is_silent && self.clock.pinged_ms.is_none() {
                self.clock.pinged_ms = Some(now_ms);
                connection.session.borrow_mut().ping(PING);
                connection.wake();
            }
            return None;
        }
        if self.clock.idle_ms.is_none() {
            self.clock.idle_ms = Some(now_ms);
            self.keeper.set_idle(true);
        }
        if is_past(self.clock.idle_ms, patience.idle) {
            return Some(End::Idle);
        }
        if is_past(self.clock.idle_ms, Duration::from_millis(REST_AFTER_MS))
            && !std::mem::replace(&mut self.clock.is_resting, true)
        {
            connection.rest();
        }
        None
    }

    /// For how long to wait for input, before the clock is to be looked at again.
    fn patience(&self) -> Duration {
        let now_ms = clock::coarse_ms();
        let patience = self.keeper.patience();
        let left = |since: u64, limit: Duration| {
            limit.saturating_sub(Duration::from_millis(now_ms.saturating_sub(since)))
        };
        let mut wait = match self.clock.idle_ms {
            Some(idle_ms) if self.clock.is_resting => left(idle_ms, patience.idle),
            _ => LOOK_EVERY,
        };
        if let Some(head_ms) = self.clock.head_ms {
            wait = wait.min(left(head_ms, patience.head));
        }
        if self.clock.settings_ms.is_some() || self.clock.drain_ms.is_some() {
            wait = wait.min(LOOK_EVERY);
        }
        wait
    }

    /// Tells the peer why it ends, as far as it takes that.
    fn say_goodbye(&mut self, end: End) {
        let code = match end {
            // The session has said it.
            End::Gone | End::Fault(_) | End::Silent(Silence::Settings) => None,
            End::Silent(Silence::Head) => Some(ErrorCode::ProtocolError),
            End::Silent(_) => Some(ErrorCode::EnhanceYourCalm),
            End::Idle | End::Drained | End::GaveWay => Some(ErrorCode::NoError),
            End::Cut => Some(ErrorCode::InternalError),
        };
        if let Some(code) = code
            && self.connection.session.borrow().pending().is_empty()
            && end != End::Drained
        {
            self.connection.session.borrow_mut().leave(code);
        }
        let _ = self.flush();
    }
}
