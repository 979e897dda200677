//! What all workers know of one target: one address of one origin.
//!
//! In go the outcomes of attempts to connect, of exchanges and of checks, with the time; out comes
//! whether it may be asked, and why not. Picks read one word; everything else is behind a lock that
//! only changes of state take. No clock, no socket: times are those of the coarse clock.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::window::{Ejection, Window, millis};
use crate::address::Address;

use super::balance::Load;
use super::learnt::Learnt;
pub(crate) use super::standing::{Change, Reason, Wish};
use crate::fault::Fault;

/// While a target is on trial, one request in this time goes there, until one goes well.
const TRIAL_MS: u64 = 1_000;

/// A target that comes and goes is spoken of once in this time.
const SAID_EVERY_MS: u64 = 5_000;

/// One of the doublings of its pauses is taken back in this time.
pub(super) const FORGIVE_EVERY_MS: u64 = 10_000;

/// For ever, until somebody says otherwise.
const ALWAYS: u64 = u64::MAX;

/// One address of one origin, as all workers see it.
#[derive(Debug)]
pub(crate) struct Target {
    pub address: Address,
    /// 0 where it may be asked; else until when not, and then one request at a time, on trial.
    out_until_ms: AtomicU64,
    /// Since when it may be asked.
    up_since_ms: AtomicU64,
    /// Requests that it has now, where the balance asks for them.
    busy: AtomicU32,
    /// Peak-sensitive average of the time to the head of an answer, in microseconds, and of how
    /// many there were, up to [`SAMPLES_MAX`].
    latency_us: AtomicU32,
    samples: AtomicU32,
    /// What its connections have taught about it, since it was last out.
    pub learnt: Learnt,
    /// The next check of it is due then; whoever moves it on does it.
    pub(super) check_at_ms: AtomicU64,
    wish: AtomicU8,
    /// What an operator has made of its weight; 0 is what the configuration says.
    weight: AtomicU32,
    /// What an operator wants holds over a reload.
    is_wish_kept: AtomicBool,
    /// Until then it is taken to speak HTTP/1.1 alone.
    http1_until_ms: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Attempts to connect fail since then.
    failing_since_ms: Option<u64>,
    failing_until_ms: u64,
    /// Why the last attempt to connect failed, and when; kept when one goes well.
    connect_error: Option<(Fault, u64)>,
    /// What the checks have come to; `None` before they have come to anything.
    check: Option<bool>,
    /// Checks in a row that contradict it.
    against: u32,
    /// Why the last check failed.
    check_error: Option<Box<str>>,
    ejected: Option<(Reason, u64)>,
    /// Ejections of late, which make the next one longer.
    ejections: u32,
    /// When one of them was last taken back.
    forgiven_ms: u64,
    /// Bad answers in a row.
    bad_in_a_row: u32,
    window: Window,
    said_ms: Option<u64>,
    unsaid: u32,
}

/// Average over so many answers.
const SAMPLES_MAX: u32 = 32;

/// For how long an origin that has chosen HTTP/1.1 is not asked again.
const HTTP1_FOR_MS: u64 = 60_000;

impl Target {
    /// It has chosen HTTP/1.1, or wants to be asked by it.
    pub(crate) fn speaks_http1(&self, now_ms: u64) {
        self.http1_until_ms.store(now_ms + HTTP1_FOR_MS, Ordering::Relaxed);
    }

    /// Whether it has lately.
    pub(crate) fn is_http1(&self, now_ms: u64) -> bool {
        let until_ms = self.http1_until_ms.load(Ordering::Relaxed);
        now_ms < until_ms
    }

    pub(crate) fn new(address: Address, now_ms: u64) -> Self {
        Self {
            address,
            out_until_ms: AtomicU64::new(0),
            up_since_ms: AtomicU64::new(now_ms),
            busy: AtomicU32::new(0),
            latency_us: AtomicU32::new(0),
            samples: AtomicU32::new(0),
            learnt: Learnt::default(),
            check_at_ms: AtomicU64::new(0),
            wish: AtomicU8::new(Wish::Up as u8),
            weight: AtomicU32::new(0),
            is_wish_kept: AtomicBool::new(true),
            http1_until_ms: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// Whether it is among those that are asked at `now_ms`, be it on trial.
    #[inline]
    pub(crate) fn is_in(&self, now_ms: u64) -> bool {
        let out = self.out_until_ms.load(Ordering::Relaxed);
        out == 0 || out <= now_ms
    }

    /// What it has to do, where nothing at all is known against it.
    #[inline]
    pub(super) fn load(&self) -> Option<Load> {
        let load = || Load { busy: self.busy(), latency_us: self.latency_us() };
        self.is_sound().then(load)
    }

    /// Whether nothing at all is known against it.
    #[inline]
    pub(crate) fn is_sound(&self) -> bool {
        self.out_until_ms.load(Ordering::Relaxed) == 0
    }

    /// Whether the caller may ask it. Where it is on trial, one caller in a while may.
    #[inline]
    pub(crate) fn claim(&self, now_ms: u64) -> bool {
        let out = self.out_until_ms.load(Ordering::Relaxed);
        out == 0 || self.claim_trial(out, now_ms)
    }

    #[cold]
    fn claim_trial(&self, out: u64, now_ms: u64) -> bool {
        let next = now_ms + TRIAL_MS;
        let word = &self.out_until_ms;
        out <= now_ms
            && word.compare_exchange(out, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether an operator lets it be asked where nothing else is left.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wish() == Wish::Up
    }

    pub(crate) fn wish(&self) -> Wish {
        Wish::ALL[usize::from(self.wish.load(Ordering::Relaxed))]
    }

    /// What it weighs where the configuration says `configured`.
    pub(crate) fn weight(&self, configured: u32) -> u32 {
        match self.weight.load(Ordering::Relaxed) {
            0 => configured,
            weight => weight,
        }
    }

    /// Whether an operator wants something of it.
    pub(super) fn is_ordered(&self) -> bool {
        self.wish() != Wish::Up || self.weight(0) != 0
    }

    /// Workers see it with the next change of the roster. 0 is what the configuration says.
    pub(crate) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// Whether what an operator wants holds over a reload.
    pub(crate) fn keep_wish(&self, is_kept: bool) {
        self.is_wish_kept.store(is_kept, Ordering::Relaxed);
    }

    /// A configuration has been loaded.
    pub(crate) fn reloaded(&self, now_ms: u64) {
        if !self.is_wish_kept.swap(true, Ordering::Relaxed) {
            self.set_weight(0);
            self.set_wish(Wish::Up, now_ms);
        }
    }

    /// Whether those may go on asking it that it is kept for: an operator who drains it wants to be
    /// rid of new ones.
    pub(crate) fn serves_kept(&self, now_ms: u64) -> bool {
        if self.wish() != Wish::Drain {
            return self.is_in(now_ms);
        }
        let state = self.lock();
        let ejected = state.ejected.map_or(0, |(_, until)| until);
        state.check != Some(false) && state.failing_until_ms.max(ejected) <= now_ms
    }

    pub(crate) fn set_wish(&self, wish: Wish, now_ms: u64) -> Option<Change> {
        self.wish.store(wish as u8, Ordering::Relaxed);
        self.settle(&self.lock(), now_ms)
    }

    /// Why it is not asked now, with until when as it is known.
    pub(crate) fn reason(&self) -> Option<Reason> {
        let wish = self.wish();
        if wish != Wish::Up {
            return Some(Reason::Wish(wish));
        }
        let state = self.lock();
        reason(&state)
    }

    /// Why the last check failed, if it did.
    pub(crate) fn check_error(&self) -> Option<Box<str>> {
        self.lock().check_error.clone()
    }

    /// Why the last attempt to connect that failed did, and when that was.
    pub(crate) fn connect_error(&self) -> Option<(Fault, u64)> {
        self.lock().connect_error
    }

    /// What its checks have come to.
    pub(crate) fn check(&self) -> Option<bool> {
        self.lock().check
    }

    pub(crate) fn busy(&self) -> u32 {
        self.busy.load(Ordering::Relaxed)
    }

    /// In microseconds; 0 where nothing has been measured.
    pub(crate) fn latency_us(&self) -> u32 {
        self.latency_us.load(Ordering::Relaxed)
    }

    pub(crate) fn up_since_ms(&self) -> u64 {
        self.up_since_ms.load(Ordering::Relaxed)
    }

    /// An attempt to connect has gone well.
    #[inline]
    pub(crate) fn connected(&self, now_ms: u64) -> Option<Change> {
        if self.is_sound() { None } else { self.has_connected(now_ms) }
    }

    #[cold]
    fn has_connected(&self, now_ms: u64) -> Option<Change> {
        let mut state = self.lock();
        let was_said = state.failing_since_ms.take().is_some();
        state.failing_until_ms = 0;
        self.settle(&state, now_ms).filter(|_| was_said)
    }

    /// A connection that was there before has served a request. Where attempts to connect had
    /// failed, that is as good as a new one, once what was under way when they did is over.
    #[cold]
    pub(crate) fn served(&self, now_ms: u64) -> Option<Change> {
        let until = self.lock().failing_until_ms;
        if (1..=now_ms).contains(&until) { self.has_connected(now_ms) } else { None }
    }

    /// An attempt to connect has failed; it is passed over for `pause`.
    #[cold]
    pub(crate) fn failed(&self, why: Fault, now_ms: u64, pause: Duration) -> Option<Change> {
        let mut state = self.lock();
        state.connect_error = Some((why, now_ms));
        state.failing_since_ms.get_or_insert(now_ms);
        state.failing_until_ms = now_ms.saturating_add(millis(pause));
        self.settle(&state, now_ms)
    }

    /// An attempt to connect takes long; others are asked meanwhile, and nobody is told.
    #[cold]
    pub(crate) fn suspect(&self, now_ms: u64, pause: Duration) {
        let mut state = self.lock();
        state.failing_until_ms = now_ms.saturating_add(millis(pause));
        self.settle(&state, now_ms);
    }

    /// Whether a change may be said: how many have not been said since the last one that was.
    pub(crate) fn may_say(&self, now_ms: u64) -> Option<u32> {
        let mut state = self.lock();
        if state.said_ms.is_some_and(|said| now_ms.saturating_sub(said) < SAID_EVERY_MS) {
            state.unsaid += 1;
            return None;
        }
        state.said_ms = Some(now_ms);
        Some(std::mem::take(&mut state.unsaid))
    }

    /// The head of an answer has come after `us` microseconds.
    pub(crate) fn measured(&self, us: u32) {
        let before = self.latency_us();
        let count = self.samples.load(Ordering::Relaxed).min(SAMPLES_MAX - 1) + 1;
        self.samples.store(count, Ordering::Relaxed);
        // A peak counts at once and is forgotten slowly.
        let average =
            if us > before { before + (us - before) / 2 } else { before - (before - us) / count };
        let average = if count == 1 { us } else { average };
        self.latency_us.store(average.max(1), Ordering::Relaxed);
    }

    /// What it was slow for is over.
    pub(crate) fn forget_latency(&self) {
        self.latency_us.store(0, Ordering::Relaxed);
        self.samples.store(0, Ordering::Relaxed);
    }

    pub(crate) fn has_enough_samples(&self) -> bool {
        self.samples.load(Ordering::Relaxed) >= SAMPLES_MAX / 2
    }

    /// An exchange has ended well, or not. `may_eject` says whether one more may be out.
    pub(crate) fn answered(
        &self,
        is_good: bool,
        now_ms: u64,
        rules: &Ejection,
        may_eject: impl FnOnce() -> bool,
    ) -> Option<Change> {
        let mut state = self.lock();
        state.window.count(is_good, now_ms, rules.window);
        if is_good {
            state.bad_in_a_row = 0;
            let (_, until) = state.ejected?;
            // What was under way when it was ejected says nothing yet.
            if until > now_ms {
                return None;
            }
            state.ejected = None;
            return self.settle(&state, now_ms);
        }
        state.bad_in_a_row = state.bad_in_a_row.saturating_add(1);
        let has_row = rules.in_a_row > 0 && state.bad_in_a_row >= rules.in_a_row;
        let is_on_trial = state.ejected.is_some_and(|(_, until)| until <= now_ms);
        if !has_row && !is_on_trial && !state.window.is_bad(rules) || !may_eject() {
            return None;
        }
        self.eject_with(state, Reason::Errors, now_ms, rules)
    }

    /// Passes it over for a pause that grows with every time.
    pub(crate) fn eject(&self, reason: Reason, now_ms: u64, rules: &Ejection) -> Option<Change> {
        self.eject_with(self.lock(), reason, now_ms, rules)
    }

    fn eject_with(
        &self,
        mut state: MutexGuard<'_, State>,
        reason: Reason,
        now_ms: u64,
        rules: &Ejection,
    ) -> Option<Change> {
        if state.ejected.is_some_and(|(_, until)| until > now_ms) {
            return None;
        }
        let doubled = millis(rules.pause).saturating_mul(1 << state.ejections.min(16));
        let pause = doubled.min(millis(rules.pause_max));
        state.ejections = state.ejections.saturating_add(1);
        state.ejected = Some((reason, now_ms.saturating_add(pause)));
        state.bad_in_a_row = 0;
        state.window = Window::default();
        self.settle(&state, now_ms)
    }

    /// Takes back one of the doublings of its pauses, for a time without any: one in such a time,
    /// however many workers say so.
    pub(crate) fn forgive(&self, now_ms: u64) {
        let mut state = self.lock();
        if now_ms < state.forgiven_ms.saturating_add(FORGIVE_EVERY_MS) {
            return;
        }
        state.forgiven_ms = now_ms;
        if state.ejected.is_none() {
            state.ejections = state.ejections.saturating_sub(1);
        }
    }

    /// A check has ended: `rise` good ones in a row bring it back, `fall` bad ones put it out.
    pub(crate) fn checked(
        &self,
        outcome: Result<(), &str>,
        (rise, fall): (u32, u32),
        now_ms: u64,
    ) -> Option<Change> {
        let mut state = self.lock();
        let is_good = outcome.is_ok();
        state.check_error = outcome.err().map(Into::into);
        if state.check.unwrap_or(true) == is_good {
            state.against = 0;
            state.check.get_or_insert(true);
            return None;
        }
        state.against += 1;
        // The first word about a target counts at once, lest a dead one gets requests.
        let enough = match state.check {
            None => 1,
            Some(true) => fall,
            Some(false) => rise,
        };
        if state.against < enough {
            return None;
        }
        state.against = 0;
        state.check = Some(is_good);
        self.settle(&state, now_ms)
    }

    /// Nobody checks it any more.
    pub(crate) fn unchecked(&self, now_ms: u64) -> Option<Change> {
        let mut state = self.lock();
        state.check.take()?;
        (state.against, state.check_error) = (0, None);
        self.settle(&state, now_ms)
    }

    /// Nobody judges its answers any more.
    pub(crate) fn pardon(&self, now_ms: u64) -> Option<Change> {
        let mut state = self.lock();
        state.ejected.take()?;
        (state.ejections, state.bad_in_a_row, state.window) = (0, 0, Window::default());
        self.settle(&state, now_ms)
    }

    /// Puts what is known into the word that picks read; what has changed by it.
    fn settle(&self, state: &State, now_ms: u64) -> Option<Change> {
        let until = match (self.wish(), state.check) {
            (Wish::Up, None | Some(true)) => {
                let ejected = state.ejected.map_or(0, |(_, until)| until);
                state.failing_until_ms.max(ejected)
            }
            _ => ALWAYS,
        };
        let before = self.out_until_ms.swap(until, Ordering::Relaxed);
        match (before, until) {
            (0, 1..) => {
                let wish = self.wish();
                let why = if wish == Wish::Up { reason(state) } else { Some(Reason::Wish(wish)) };
                why.map(Change::Out)
            }
            (1.., 0) => {
                self.up_since_ms.store(now_ms, Ordering::Relaxed);
                self.forget_latency();
                self.learnt.forget();
                Some(Change::Back)
            }
            _ => None,
        }
    }

    /// A panic elsewhere leaves a state that is still true.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reason(state: &State) -> Option<Reason> {
    if state.check == Some(false) {
        return Some(Reason::Check);
    }
    let ejected = state.ejected.map(|(reason, _)| reason);
    state.failing_since_ms.map(|_| Reason::Connect).or(ejected)
}

/// A request that a target has.
pub(super) struct Busy(Arc<Target>);

impl Busy {
    pub(super) fn new(target: Arc<Target>) -> Self {
        target.busy.fetch_add(1, Ordering::Relaxed);
        Self(target)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);
    const RULES: Ejection = Ejection {
        in_a_row: 3,
        percent: 50,
        window: Duration::from_secs(10),
        requests_min: 10,
        slower: 0,
        pause: PAUSE,
        pause_max: Duration::from_secs(60),
        at_most: 50,
    };

    fn target() -> Target {
        Target::new("127.0.0.1:1".parse().unwrap(), 0)
    }

    fn bad(target: &Target, now_ms: u64) -> Option<Change> {
        target.answered(false, now_ms, &RULES, || true)
    }

    fn good(target: &Target, now_ms: u64) -> Option<Change> {
        target.answered(true, now_ms, &RULES, || true)
    }

    #[test]
    fn one_request_at_a_time_tries_what_has_failed() {
        let target = target();
        assert_eq!(
            target.failed(Fault::OriginRefused, 1_000, PAUSE),
            Some(Change::Out(Reason::Connect))
        );
        assert!(!target.is_in(10_999) && !target.claim(10_999));
        assert!(target.is_in(11_000) && target.claim(11_000));
        assert!(!target.claim(11_500), "one in a second");
        assert!(target.claim(12_000));
        assert_eq!(
            target.failed(Fault::OriginRefused, 12_500, PAUSE),
            None,
            "it is out still, and that has been said"
        );
        assert!(!target.claim(22_000));
        assert_eq!(target.connected(22_600), Some(Change::Back));
        assert!(target.claim(22_600) && target.claim(22_600));
        assert_eq!(target.up_since_ms(), 22_600);
    }

    #[test]
    fn what_is_served_on_a_connection_that_was_there_ends_a_failure_to_connect() {
        let target = target();
        assert_eq!(
            target.failed(Fault::OriginRefused, 1_000, PAUSE),
            Some(Change::Out(Reason::Connect))
        );
        assert_eq!(target.served(10_999), None, "it was under way, or nobody knows");
        assert!(target.claim(11_000));
        assert_eq!(target.served(11_001), Some(Change::Back));
        assert!(target.is_sound());
        // Neither checks nor an operator are outweighed.
        target.set_wish(Wish::Drain, 12_000);
        target.failed(Fault::OriginRefused, 12_000, PAUSE);
        assert_eq!(target.served(30_000), None);
        assert!(!target.is_sound());
        assert_eq!(target.set_wish(Wish::Up, 30_001), Some(Change::Back));
        assert_eq!(target.served(30_002), None);
    }

    #[test]
    fn one_doubling_of_the_pauses_is_taken_back_at_a_time_however_many_say_so() {
        let target = target();
        for now in [1, 2] {
            target.eject(Reason::Errors, now, &RULES);
            good(&target, now + 60_000);
        }
        (0..3).for_each(|_| _ = target.eject(Reason::Errors, 500_000, &RULES));
        good(&target, 900_000);
        let before = target.lock().ejections;
        (0..8).for_each(|_| target.forgive(1_000_000));
        assert_eq!(target.lock().ejections, before - 1);
        target.forgive(1_000_000 + FORGIVE_EVERY_MS);
        assert_eq!(target.lock().ejections, before - 2);
    }

    #[test]
    fn bad_answers_in_a_row_eject_for_pauses_that_grow() {
        let target = target();
        assert_eq!([bad(&target, 1), bad(&target, 2)], [None, None]);
        assert_eq!(good(&target, 3), None);
        assert_eq!([bad(&target, 4), bad(&target, 5)], [None, None]);
        assert_eq!(bad(&target, 6), Some(Change::Out(Reason::Errors)));
        assert_eq!(good(&target, 7), None, "what was under way does not count");
        assert!(!target.is_in(10_005) && target.is_in(10_006));
        // On trial, one bad answer is enough.
        assert!(target.claim(10_100));
        assert_eq!(bad(&target, 10_200), None);
        assert!(!target.is_in(30_199) && target.is_in(30_200));
        assert!(target.claim(30_200));
        assert_eq!(good(&target, 30_300), Some(Change::Back));
        // Two workers say so at the same time.
        for now in [31_000, 31_001, 41_000, 41_001] {
            target.forgive(now);
        }
        assert_eq!(target.lock().ejections, 0);
        (0..3).for_each(|at| _ = bad(&target, 40_000 + at));
        assert!(target.is_in(50_002), "forgiven");
    }

    #[test]
    fn a_share_of_bad_answers_ejects_once_there_are_enough() {
        let target = target();
        for at in 0..4 {
            assert_eq!([good(&target, at), bad(&target, at)], [None, None]);
        }
        assert_eq!(good(&target, 4), None);
        assert_eq!(bad(&target, 4), Some(Change::Out(Reason::Errors)));
    }

    #[test]
    fn nobody_is_ejected_where_too_many_are() {
        let target = target();
        for at in 0..100 {
            assert_eq!(target.answered(false, at, &RULES, || false), None);
        }
        assert!(target.is_sound());
    }

    #[test]
    fn checks_put_out_after_some_and_bring_back_after_some() {
        let target = target();
        let check = |outcome: Result<(), &str>, now| target.checked(outcome, (2, 3), now);
        assert_eq!(check(Ok(()), 0), None);
        assert_eq!([check(Err("a"), 1), check(Err("b"), 2)], [None, None]);
        assert_eq!(check(Ok(()), 3), None);
        assert_eq!([check(Err("a"), 4), check(Err("b"), 5)], [None, None]);
        assert_eq!(check(Err("c"), 6), Some(Change::Out(Reason::Check)));
        assert_eq!(target.check_error().as_deref(), Some("c"));
        // Neither connecting nor answers outweigh them.
        assert_eq!(target.failed(Fault::OriginRefused, 7, PAUSE), None);
        assert_eq!(target.connected(8), None);
        assert!(!target.is_in(1_000_000));
        assert_eq!(check(Ok(()), 9), None);
        assert_eq!(check(Ok(()), 10), Some(Change::Back));
        assert_eq!(target.check_error(), None);
    }

    #[test]
    fn the_first_check_counts_at_once() {
        let target = target();
        assert_eq!(target.checked(Err("a"), (2, 3), 1), Some(Change::Out(Reason::Check)));
        assert_eq!(target.unchecked(2), Some(Change::Back));
    }

    #[test]
    fn who_comes_back_may_be_somebody_else() {
        let target = target();
        target.learnt.came_back(1, 5, true, || true);
        assert!(target.learnt.serves_several() && target.learnt.bound().is_some());
        target.failed(Fault::OriginRefused, 2, PAUSE);
        assert!(target.learnt.serves_several(), "it may be the same as long as it is out");
        assert_eq!(target.connected(3), Some(Change::Back));
        assert!(!target.learnt.serves_several() && target.learnt.bound().is_none());
    }

    #[test]
    fn an_operator_has_the_last_word() {
        let target = target();
        assert_eq!(target.set_wish(Wish::Drain, 1), Some(Change::Out(Reason::Wish(Wish::Drain))));
        assert_eq!(target.checked(Ok(()), (1, 1), 2), None);
        assert!(!target.is_in(3) && !target.is_wanted());
        assert_eq!(target.set_wish(Wish::Up, 4), Some(Change::Back));
    }

    #[test]
    fn a_peak_of_latency_counts_at_once_and_is_forgotten_slowly() {
        let target = target();
        (0..20).for_each(|_| target.measured(1_000));
        assert_eq!(target.latency_us(), 1_000);
        target.measured(101_000);
        assert!(target.latency_us() > 50_000);
        (0..20).for_each(|_| target.measured(1_000));
        assert!((10_000..60_000).contains(&target.latency_us()), "{}", target.latency_us());
    }
}
