//! What one client connection is, does and holds, as the operator sees it.
//!
//! In go the steps of its exchanges; out come its phase, its counts and the bytes that it holds,
//! for a list that is asked for now and then and for the choice of what to cut when memory, or a
//! connection to an origin, is short. Cells of one thread: a step costs a store. The decision that
//! it ends is kept here too: it stays until it has been carried out, however often somebody asks.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::fault::Fault;
use crate::ring::clock;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Between two requests, or before the first.
    Idle,
    /// Before the first request, where the listener speaks TLS.
    Handshake,
    Head,
    Exchange,
    Tunnel,
    /// Refused, and still read from so that the refusal arrives.
    Linger,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Handshake => "handshake",
            Self::Head => "head",
            Self::Exchange => "exchange",
            Self::Tunnel => "tunnel",
            Self::Linger => "linger",
        }
    }
}

/// What somebody else has decided about a connection. It is a state and not an event: whoever is
/// about to wait asks first, and whoever waits is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    No,
    /// The connection ends without another byte to the client.
    Cut,
    /// The exchange under way ends by this fault, which is answered where nothing of an answer has
    /// been sent yet.
    GiveUp(Fault),
}

/// Whose turn it is in an exchange: the one that was last waited for. While a body is uploaded
/// beside an answer, both directions say so here, the later one last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsOn {
    Nobody,
    ClientToSend,
    ClientToTake,
    OriginToTake,
    OriginToAnswer,
}

/// A time on the coarse clock, in ticks of 16 ms: every idle connection has three of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u32);

impl Moment {
    const TICK_SHIFT: u32 = 4;

    pub fn at_ms(ms: u64) -> Self {
        Self((ms >> Self::TICK_SHIFT) as u32)
    }

    /// How long ago it was, for up to a year; 0 where it is still to come.
    pub fn age_ms(self, now_ms: u64) -> u64 {
        let ticks = Self::at_ms(now_ms).0.wrapping_sub(self.0).cast_signed();
        u64::from(ticks.max(0).cast_unsigned()) << Self::TICK_SHIFT
    }
}

/// A number of bytes in one byte, rounded up to an eighth of the power of two below it: what is
/// asked of a peak, and all that there is room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Coarse(u8);

impl Coarse {
    fn of(bytes: u32) -> Self {
        let shift = (u32::BITS - bytes.leading_zeros()).saturating_sub(4);
        let eighths = u64::from(bytes).div_ceil(1 << shift);
        // What has been rounded up to the next power counts on there.
        Self((shift as u8 * 8).saturating_add(eighths as u8))
    }

    fn bytes(self) -> u64 {
        match self.0.checked_sub(8) {
            None => self.0.into(),
            Some(above) => u64::from(8 + above % 8) << (above / 8),
        }
    }
}

/// No request has come yet.
const NEW: u8 = 1;
/// Between two requests, holding nothing: a drain may end it once a second has passed.
const PARKED: u8 = 2;

/// The statistics of one client connection.
#[derive(Debug)]
pub(crate) struct ConnectionStats {
    pub born: Moment,
    /// [`NEW`] and [`PARKED`].
    marks: Cell<u8>,
    ending: Cell<Ending>,
    /// Of the last request, its index and one; 0 where it has none, or one beyond all numbers.
    route: Cell<u16>,
    /// Of use in [`Phase::Exchange`]: who is to blame where nothing has moved for long. It stays
    /// when the wait is over, until there is another one.
    pub waits_on: Cell<WaitsOn>,
    phase: Cell<Phase>,
    phase_began: Cell<Moment>,
    pub requests: Cell<u32>,
    /// Bytes of the connection's task, head buffers and copies.
    held_bytes: Cell<u32>,
    /// Bytes of chunks and pipes that a transfer holds at the moment.
    moving_bytes: Cell<u32>,
    /// The most of them in this exchange.
    moving_peak: Cell<Coarse>,
    /// When a transfer last moved something, in either direction. An exchange that has moved
    /// nothing yet has been at it since [`ConnectionStats::phase_began`]: the later of both counts.
    pub moved: Cell<Moment>,
    /// From and to the client, so far; what an exchange has moved is the difference of two looks.
    pub received: Cell<u64>,
    pub sent: Cell<u64>,
}

impl Default for ConnectionStats {
    fn default() -> Self {
        let now = Moment::at_ms(clock::coarse_ms());
        Self {
            born: now,
            marks: Cell::new(NEW),
            ending: Cell::new(Ending::No),
            route: Cell::new(0),
            waits_on: Cell::new(WaitsOn::Nobody),
            phase: Cell::new(Phase::Idle),
            phase_began: Cell::new(now),
            requests: Cell::new(0),
            held_bytes: Cell::new(0),
            moving_bytes: Cell::new(0),
            moving_peak: Cell::default(),
            moved: Cell::new(now),
            received: Cell::new(0),
            sent: Cell::new(0),
        }
    }
}

impl ConnectionStats {
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// When the present phase began.
    pub(crate) fn phase_began(&self) -> Moment {
        self.phase_began.get()
    }

    pub(crate) fn enter(&self, phase: Phase, now_ms: u64) {
        self.phase.set(phase);
        self.phase_began.set(Moment::at_ms(now_ms));
    }

    /// The index of the route of the last request.
    pub(crate) fn route(&self) -> Option<usize> {
        usize::from(self.route.get()).checked_sub(1)
    }

    #[inline]
    pub(crate) fn takes_route(&self, index: Option<u32>) {
        let number = index.map_or(0, |index| u16::try_from(index + 1).unwrap_or(0));
        self.route.set(number);
    }

    /// What has been decided about it.
    pub(crate) fn ending(&self) -> Ending {
        self.ending.get()
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.ending.get() == Ending::Cut
    }

    /// Whether what is under way shall not go on.
    pub(crate) fn is_ended(&self) -> bool {
        self.ending.get() != Ending::No
    }

    /// Decides that it ends, and wakes what waits without a descriptor ([`Self::unless_ended`]).
    /// A cut is not taken back by a milder decision.
    pub(crate) fn end(&self, ending: Ending) {
        if !self.is_cut() {
            self.ending.set(ending);
        }
        SLEEPERS.with_borrow(|sleepers| {
            if let Some((_, waker)) = sleepers.get(&std::ptr::from_ref(self)) {
                waker.wake_by_ref();
            }
        });
    }

    /// The fault that an exchange has come to which failed by `fault`: what somebody has decided
    /// goes before what that looked like. An exchange that was given up has then been; a cut stays.
    pub(crate) fn settle(&self, fault: Fault) -> Fault {
        match self.ending.get() {
            Ending::No => fault,
            Ending::Cut => Fault::Stopping,
            Ending::GiveUp(reason) => {
                self.ending.set(Ending::No);
                reason
            }
        }
    }

    /// Awaits what holds neither a buffer nor a pending operation, unless it has been decided, or
    /// is decided meanwhile, that it shall not go on. To be polled by the connection's own task.
    pub(crate) async fn unless_ended<F: Future>(&self, wait: F) -> Result<F::Output, Fault> {
        let mut wait = std::pin::pin!(wait);
        let mut sleeper = None;
        poll_fn(|cx| {
            match self.ending.get() {
                Ending::No => {}
                Ending::Cut => return Poll::Ready(Err(Fault::Stopping)),
                Ending::GiveUp(fault) => return Poll::Ready(Err(fault)),
            }
            if let Poll::Ready(output) = wait.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            sleeper.get_or_insert_with(|| Sleeper::new(self, cx.waker()));
            Poll::Pending
        })
        .await
    }

    pub(crate) fn hold(&self, bytes: usize) {
        self.held_bytes.set(self.held_bytes.get().saturating_add(bytes as u32));
    }

    /// It holds `bytes` and no more.
    pub(crate) fn reset(&self, bytes: usize) {
        self.held_bytes.set(bytes as u32);
    }

    /// Whether no request has come yet.
    pub(crate) fn is_new(&self) -> bool {
        self.marks.get() & NEW != 0
    }

    pub(crate) fn set_known(&self) {
        self.marks.set(self.marks.get() & !NEW);
    }

    /// Whether it rests between two requests and holds nothing.
    pub(crate) fn is_parked(&self) -> bool {
        self.marks.get() & PARKED != 0
    }

    /// Says so; whether it did before.
    pub(crate) fn set_parked(&self, is_parked: bool) -> bool {
        let others = self.marks.get() & !PARKED;
        let before = self.marks.replace(others | if is_parked { PARKED } else { 0 });
        before & PARKED != 0
    }

    /// A transfer holds so much more.
    #[inline]
    pub(crate) fn moves(&self, bytes: u32) {
        let moving = self.moving_bytes.get().saturating_add(bytes);
        self.moving_bytes.set(moving);
        self.moving_peak.set(self.moving_peak.get().max(Coarse::of(moving)));
    }

    /// It has given so much back.
    #[inline]
    pub(crate) fn moved_on(&self, bytes: u32) {
        self.moving_bytes.set(self.moving_bytes.get().saturating_sub(bytes));
    }

    /// An exchange begins.
    #[inline]
    pub(crate) fn begin_exchange(&self) {
        self.requests.set(self.requests.get() + 1);
        self.moving_peak.set(Coarse::default());
    }

    /// The most that it has held in this exchange: what it holds beside transfers only grows.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let moving = self.moving_peak.get().bytes();
        u64::from(self.held_bytes.get()) + moving.max(self.moving_bytes.get().into())
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.held_bytes.get()) + u64::from(self.moving_bytes.get())
    }
}

thread_local! {
    /// The tasks that wait without a descriptor, with how many such waits each has. Not in the
    /// account, which every idle connection has.
    static SLEEPERS: RefCell<HashMap<*const ConnectionStats, (u32, Waker)>> = RefCell::default();
}

/// A wait by which a task is in the list.
struct Sleeper<'a>(&'a ConnectionStats);

impl<'a> Sleeper<'a> {
    fn new(stats: &'a ConnectionStats, waker: &Waker) -> Self {
        SLEEPERS.with_borrow_mut(|sleepers| {
            sleepers.entry(stats).or_insert_with(|| (0, waker.clone())).0 += 1;
        });
        Self(stats)
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        // A task can outlive the thread's variables by its last destructors.
        let _ = SLEEPERS.try_with(|sleepers| {
            let mut sleepers = sleepers.borrow_mut();
            let place = std::ptr::from_ref(self.0);
            if let Some((count, _)) = sleepers.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    sleepers.remove(&place);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coarse_number_is_no_less_than_what_it_stands_for_and_an_eighth_more_at_most() {
        let around = |at: u32| [(1_u32 << at) - 1, 1 << at, (1 << at) + 1];
        for bytes in (0..5_000).chain((0..u32::BITS).flat_map(around)).chain([u32::MAX]) {
            let (said, meant) = (Coarse::of(bytes).bytes(), u64::from(bytes));
            assert!(said >= meant && said <= meant + meant / 8 + 1, "{bytes}: {said}");
            assert!(bytes == 0 || Coarse::of(bytes) >= Coarse::of(bytes - 1), "{bytes}");
        }
    }

    fn wakes(stats: &ConnectionStats, decide: impl FnOnce()) -> Option<Result<(), Fault>> {
        let mut wait = std::pin::pin!(stats.unless_ended(std::future::pending()));
        let woken = std::sync::Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(wait.as_mut().poll(&mut cx).is_pending());
        decide();
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
        match wait.poll(&mut cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn a_decision_wakes_what_waits_and_is_seen_by_what_begins_to_wait_later() {
        let stats = ConnectionStats::default();
        let give_up = Ending::GiveUp(Fault::PoolTimeout);
        let woken = wakes(&stats, || stats.end(give_up));
        assert_eq!(woken, Some(Err(Fault::PoolTimeout)));
        assert_eq!(stats.settle(Fault::OriginClosed), Fault::PoolTimeout);
        assert_eq!(stats.settle(Fault::OriginClosed), Fault::OriginClosed);
        let woken = wakes(&stats, || stats.end(Ending::Cut));
        assert_eq!(woken, Some(Err(Fault::Stopping)));
        stats.end(give_up);
        let mut later = std::pin::pin!(stats.unless_ended(std::future::ready(())));
        assert_eq!(crate::ring::waits::poll_now(&mut later), Some(Err(Fault::Stopping)));
        assert_eq!(stats.settle(Fault::OriginClosed), Fault::Stopping);
        assert!(stats.is_cut());
        SLEEPERS.with_borrow(|sleepers| assert!(sleepers.is_empty()));
    }

    #[test]
    fn moments_outlive_the_numbers_that_they_are_kept_in() {
        let year_ms = 365 * 24 * 3600 * 1000;
        for born_ms in [0, 17, (u64::from(u32::MAX) << 4) - 5, 1 << 45] {
            let born = Moment::at_ms(born_ms);
            assert_eq!(born.age_ms(born_ms), 0);
            assert_eq!(born.age_ms(born_ms.saturating_sub(40)), 0);
            for age_ms in [1000, 86_400_000, year_ms] {
                assert!(born.age_ms(born_ms + age_ms).abs_diff(age_ms) < 16, "{age_ms}");
            }
        }
    }
}
