//! What the connections to a target have taught about it: how long it keeps one that is idle,
//! whether it keeps any, and whether it serves several at once.
//!
//! In go what its answers say, and the ages at which it has closed idle connections; out come the
//! age at which one is given up before it does that, and whether spare ones are welcome. All
//! workers share it; a request compares one word. What was learnt long ago is forgotten. No clock,
//! no socket: times are those of the coarse clock.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The age of a connection for ever.
const NEVER: u32 = u32::MAX;

/// An answer that says nothing of how long its connection is kept.
pub(crate) const UNSAID: u32 = u32::MAX;
/// No answer at all.
pub(crate) const UNUSED: u32 = u32::MAX - 1;

/// Answers in a row after each of which the target has ended the connection, until it counts as one
/// that keeps none.
const CLOSES: u8 = 3;

/// What was seen is forgotten after so long, lest a target that has changed be known as what it
/// was. A single close that is alike brings it back.
const SEEN_FOR_MS: u64 = 600_000;
const REMEMBERED_FOR_MS: u64 = 3_600_000;

/// Connections that end within this time end for one reason.
const INSTANT_MS: u64 = 200;

/// A connection that waits longer than this for its first answer may wait for an idle one to end.
pub(crate) const PATIENCE_MS: u64 = 250;

/// With a shorter life, spare connections would only come and go.
const SPARE_MS_MIN: u32 = 1_000;

/// What is known of one target.
#[derive(Debug)]
pub(crate) struct Learnt {
    /// What most answers leave as it is: what the last one said of its connection's life, and
    /// the flags below.
    face: AtomicU64,
    /// When the flags were last changed.
    face_at_ms: AtomicU64,
    told_at_ms: AtomicU64,
    /// At this age an idle connection that has carried an answer is given up.
    used_limit_ms: AtomicU32,
    /// The same of one that has carried nothing.
    spare_limit_ms: AtomicU32,
    closes: AtomicU8,
    /// Something that was seen is to be forgotten then; `u64::MAX` where there is nothing.
    forget_at_ms: AtomicU64,
    /// New connections that have had no answer yet.
    first: AtomicU32,
    /// Since when there has been one.
    first_since_ms: AtomicU64,
    seen: Mutex<Seen>,
}

/// It has kept a connection from one answer to the next.
const KEEPS: u64 = 1;
/// It has answered on one connection while it kept another.
const SEVERAL: u64 = 2;
/// It has ended the connection after each of the last answers.
const ENDS: u64 = 4;
/// It has done so after the last one.
const ENDED: u64 = 8;
const FLAGS: u64 = KEEPS | SEVERAL | ENDS | ENDED;

fn face(told: u32, flags: u64) -> u64 {
    u64::from(told) << 8 | flags
}

fn told(face: u64) -> u32 {
    (face >> 8) as u32
}

#[derive(Debug, Default)]
struct Seen {
    used: Closes,
    spare: Closes,
}

/// The ages at which idle connections were closed by the target.
#[derive(Debug, Default)]
struct Closes {
    last: Option<Moment>,
    /// Ages with their times, of one instant each, the newest at the end.
    earlier: Vec<(u32, u64)>,
    bound: Option<(u32, u64)>,
}

/// Closes of one instant.
#[derive(Debug)]
struct Moment {
    at_ms: u64,
    least: u32,
    most: u32,
    bound_before: Option<(u32, u64)>,
}

/// So many instants are remembered.
const EARLIER_MAX: usize = 4;

/// How long a target keeps idle connections, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub ms: u32,
    pub is_told: bool,
    pub at_ms: u64,
}

impl Default for Learnt {
    fn default() -> Self {
        Self {
            face: AtomicU64::new(face(UNSAID, 0)),
            face_at_ms: AtomicU64::new(0),
            told_at_ms: AtomicU64::new(0),
            used_limit_ms: AtomicU32::new(NEVER),
            spare_limit_ms: AtomicU32::new(NEVER),
            closes: AtomicU8::new(0),
            forget_at_ms: AtomicU64::new(u64::MAX),
            first: AtomicU32::new(0),
            first_since_ms: AtomicU64::new(0),
            seen: Mutex::default(),
        }
    }
}

impl Learnt {
    /// Whether an idle connection of this age is not to be used any more.
    #[inline]
    pub(super) fn is_too_old(&self, age_ms: u64, is_used: bool) -> bool {
        let limit = if is_used { &self.used_limit_ms } else { &self.spare_limit_ms };
        age_ms >= u64::from(limit.load(Ordering::Relaxed))
    }

    /// How much longer an idle connection of this age is good; `None` is for ever.
    pub(super) fn left_ms(&self, age_ms: u64, is_used: bool) -> Option<u64> {
        let limit = if is_used { &self.used_limit_ms } else { &self.spare_limit_ms };
        let limit = Some(limit.load(Ordering::Relaxed)).filter(|limit| *limit != NEVER)?;
        Some(u64::from(limit).saturating_sub(age_ms))
    }

    /// Whether it keeps no connection at all, be it that it says so or that it does so.
    #[inline]
    pub(super) fn keeps_none(&self) -> bool {
        self.used_limit_ms.load(Ordering::Relaxed) == 0
    }

    /// A connection has come back from an exchange whose answer said `told`; whether there is
    /// nothing to learn from it. `is_alone` says that no other one rests.
    #[inline]
    pub(super) fn is_as_known(&self, told: u32, is_alone: impl FnOnce() -> bool) -> bool {
        let known = self.face.load(Ordering::Relaxed);
        known == face(told, KEEPS | SEVERAL) || known == face(told, KEEPS) && is_alone()
    }

    /// Learns from a connection that has come back. `kept_another` says whether the target has kept
    /// another one meanwhile; it is only asked where that is news.
    pub(super) fn came_back(
        &self,
        now_ms: u64,
        said: u32,
        is_reused: bool,
        kept_another: impl FnOnce() -> bool,
    ) {
        self.closes.store(0, Ordering::Relaxed);
        let before = self.face.load(Ordering::Relaxed);
        let mut flags = before & FLAGS & !(ENDS | ENDED);
        if is_reused {
            flags |= KEEPS;
        }
        if flags & SEVERAL == 0 && kept_another() {
            flags |= SEVERAL;
        }
        let after = face(said, flags);
        if after == before {
            return;
        }
        if flags != before & FLAGS & !ENDED {
            self.face_at_ms.store(now_ms, Ordering::Relaxed);
        }
        self.face.store(after, Ordering::Relaxed);
        if said != told(before) {
            self.told_at_ms.store(now_ms, Ordering::Relaxed);
            self.settle(&self.lock());
        }
    }

    /// The target has ended the connection with its answer.
    #[cold]
    pub(super) fn ended(&self, now_ms: u64) {
        let closes = self.closes.load(Ordering::Relaxed).saturating_add(1);
        self.closes.store(closes, Ordering::Relaxed);
        let before = self.face.fetch_or(ENDED, Ordering::Relaxed);
        if closes >= CLOSES && before & ENDS == 0 {
            self.face.store(face(UNSAID, ENDS | ENDED), Ordering::Relaxed);
            self.face_at_ms.store(now_ms, Ordering::Relaxed);
            self.settle(&self.lock());
        }
    }

    /// The target has closed a connection that had been idle for `age_ms`.
    #[cold]
    pub(super) fn closed(&self, age_ms: u64, now_ms: u64, is_used: bool) {
        let mut seen = self.lock();
        let closes = if is_used { &mut seen.used } else { &mut seen.spare };
        closes.add(u32::try_from(age_ms).unwrap_or(NEVER - 1), now_ms);
        self.settle(&seen);
    }

    /// Forgets what was seen too long ago.
    #[inline]
    pub(super) fn grow_old(&self, now_ms: u64) {
        if self.forget_at_ms.load(Ordering::Relaxed) <= now_ms {
            self.forget_old(now_ms);
        }
    }

    #[cold]
    fn forget_old(&self, now_ms: u64) {
        let mut seen = self.lock();
        let Seen { used, spare } = &mut *seen;
        for closes in [used, spare] {
            closes.bound.take_if(|(_, at)| now_ms >= at.saturating_add(SEEN_FOR_MS));
        }
        self.settle(&seen);
    }

    /// Forgets everything: who comes back may be another server.
    pub(super) fn forget(&self) {
        let mut seen = self.lock();
        *seen = Seen::default();
        self.closes.store(0, Ordering::Relaxed);
        self.face.store(face(UNSAID, 0), Ordering::Relaxed);
        self.settle(&seen);
    }

    /// Whether connections that nobody has asked for yet are of use to it, and in nobody's way.
    pub(super) fn welcomes_spares(&self) -> bool {
        let lives = |limit: &AtomicU32| limit.load(Ordering::Relaxed) >= SPARE_MS_MIN;
        self.face.load(Ordering::Relaxed) & FLAGS & !ENDED == KEEPS | SEVERAL
            && lives(&self.used_limit_ms)
            && lives(&self.spare_limit_ms)
    }

    /// Whether it keeps connections, as far as that is known.
    pub(crate) fn keeps(&self) -> Option<bool> {
        match self.face.load(Ordering::Relaxed) & (KEEPS | ENDS) {
            0 => None,
            flags => Some(flags & KEEPS != 0 && !self.keeps_none()),
        }
    }

    pub(crate) fn serves_several(&self) -> bool {
        self.face.load(Ordering::Relaxed) & SEVERAL != 0
    }

    /// When one of those two was last news.
    pub(crate) fn seen_at_ms(&self) -> Option<u64> {
        Some(self.face_at_ms.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// How long it keeps an idle connection that has carried an answer, as far as that is known.
    pub(crate) fn bound(&self) -> Option<Bound> {
        let told_ms = told_bound(told(self.face.load(Ordering::Relaxed)));
        let at_ms = self.told_at_ms.load(Ordering::Relaxed);
        let by_word = told_ms.map(|ms| Bound { ms, is_told: true, at_ms });
        let seen = self.lock().used.bound;
        let by_sight = seen.map(|(ms, at_ms)| Bound { ms, is_told: false, at_ms });
        by_word.into_iter().chain(by_sight).min_by_key(|bound| bound.ms)
    }

    /// At which age an idle connection to it is closed, if that is before `pool.idle_expiry`.
    pub(crate) fn limit_ms(&self) -> Option<u32> {
        Some(self.used_limit_ms.load(Ordering::Relaxed)).filter(|limit| *limit != NEVER)
    }

    /// A new connection begins to wait for its first answer; whether it is the only one.
    pub(super) fn first_begins(&self, now_ms: u64) -> bool {
        let is_only = self.first.fetch_add(1, Ordering::Relaxed) == 0;
        if is_only {
            self.first_since_ms.store(now_ms, Ordering::Relaxed);
        }
        is_only
    }

    pub(super) fn first_ends(&self) {
        self.first.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a connection that rests may be what a new one waits for, at a target that has not
    /// shown that it serves several at once.
    pub(super) fn is_in_the_way(&self, now_ms: u64) -> bool {
        !self.serves_several()
            && self.first.load(Ordering::Relaxed) > 0
            && now_ms.saturating_sub(self.first_since_ms.load(Ordering::Relaxed)) + TICK_MS
                >= PATIENCE_MS
    }

    /// Makes what is known into what is gone by.
    fn settle(&self, seen: &Seen) {
        let by_word = told_bound(told(self.face.load(Ordering::Relaxed)));
        let ms = |bound: Option<(u32, u64)>| bound.map(|(ms, _)| ms);
        let used = by_word.into_iter().chain(ms(seen.used.bound)).min();
        self.used_limit_ms.store(used.map_or(NEVER, limit_of), Ordering::Relaxed);
        let spare = ms(seen.spare.bound).map_or(NEVER, limit_of);
        self.spare_limit_ms.store(spare, Ordering::Relaxed);
        let ends = [seen.used.bound, seen.spare.bound].into_iter().flatten();
        let first = ends.map(|(_, at)| at.saturating_add(SEEN_FOR_MS)).min();
        self.forget_at_ms.store(first.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A panic elsewhere leaves what is still true.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A coarse clock lags by so much.
const TICK_MS: u64 = 10;

/// The time in milliseconds that an answer names in seconds.
fn told_bound(told: u32) -> Option<u32> {
    (told < UNUSED).then(|| told.saturating_mul(1_000).min(NEVER - 1))
}

/// How old a connection may become that its server keeps for `bound_ms`: the request has to be on
/// its way, and the server may look at its clock before we look at ours.
fn limit_of(bound_ms: u32) -> u32 {
    let margin = (bound_ms / 10).max(100);
    let limit = bound_ms.saturating_sub(margin).max(bound_ms / 2);
    if limit < 10 { 0 } else { limit }
}

/// Whether two ages may be those of one rule. Servers look at their clocks once a second, say.
fn is_alike(a: u32, b: u32) -> bool {
    let (less, more) = (a.min(b), a.max(b));
    u64::from(more) <= u64::from(less) * 8 / 5 + 150
}

impl Closes {
    /// Two instants have to say the same: a server that ends closes everything at once, once.
    fn add(&mut self, age: u32, now_ms: u64) {
        if let Some(last) = &mut self.last
            && now_ms.saturating_sub(last.at_ms) < INSTANT_MS
        {
            let was_alike = is_alike(last.least, last.most);
            (last.least, last.most) = (last.least.min(age), last.most.max(age));
            if was_alike && !is_alike(last.least, last.most) {
                // No age is the reason.
                self.bound = last.bound_before;
                self.earlier.pop();
            } else if was_alike && let Some(newest) = self.earlier.last_mut() {
                newest.0 = newest.0.min(age);
            }
            return;
        }
        self.last = Some(Moment { at_ms: now_ms, least: age, most: age, bound_before: self.bound });
        self.earlier.retain(|(_, at)| now_ms.saturating_sub(*at) < REMEMBERED_FOR_MS);
        let known = self.earlier.iter().chain(&self.bound).map(|(age, _)| *age);
        if let Some(least) = known.filter(|known| is_alike(*known, age)).min() {
            self.bound = Some((least.min(age), now_ms));
        }
        if self.earlier.len() == EARLIER_MAX {
            self.earlier.remove(0);
        }
        self.earlier.push((age, now_ms));
    }
}

/// The `timeout` of a Keep-Alive field, in seconds (RFC 2068 §19.7.1.1 and those who keep to it).
pub(crate) fn timeout_of(value: &[u8]) -> u32 {
    let mut parameters = value.split(|byte| *byte == b',').filter_map(|parameter| {
        let parameter = parameter.trim_ascii();
        let (name, value) = parameter.split_at_checked(b"timeout=".len())?;
        name.eq_ignore_ascii_case(b"timeout=").then_some(value)
    });
    let Some(text) = parameters.next() else { return UNSAID };
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")).unwrap_or(text);
    let number = std::str::from_utf8(text).ok().filter(|text| text.len() <= 9);
    number.and_then(|text| text.parse().ok()).unwrap_or(UNSAID)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came_back(learnt: &Learnt, now_ms: u64, told: u32) {
        learnt.came_back(now_ms, told, true, || false);
    }

    #[test]
    fn a_keep_alive_field_says_how_long() {
        for (value, seconds) in [
            ("timeout=5", 5),
            ("timeout=5, max=100", 5),
            ("max=100, Timeout=72", 72),
            ("timeout=\"15\"", 15),
            ("timeout=0", 0),
            ("max=5", UNSAID),
            ("timeout", UNSAID),
            ("timeout=", UNSAID),
            ("timeout=-1", UNSAID),
            ("timeout=5s", UNSAID),
            ("timeout=99999999999999999999", UNSAID),
            ("", UNSAID),
        ] {
            assert_eq!(timeout_of(value.as_bytes()), seconds, "{value}");
        }
        assert_eq!(timeout_of(b"timeout=\xff"), UNSAID);
    }

    #[test]
    fn an_idle_connection_is_given_up_before_its_server_does_that() {
        for (bound, limit) in [
            (5_000, 4_500),
            (2_000, 1_800),
            (500, 400),
            (100, 50),
            (5, 0),
            (0, 0),
            (60_000, 54_000),
        ] {
            assert_eq!(limit_of(bound), limit, "{bound}");
        }
    }

    #[test]
    fn the_last_word_of_the_server_counts() {
        let learnt = Learnt::default();
        assert!(!learnt.is_too_old(1 << 31, true));
        came_back(&learnt, 1, 5);
        assert!(learnt.is_too_old(4_500, true) && !learnt.is_too_old(4_499, true));
        assert!(!learnt.is_too_old(4_500, false), "one that has carried nothing");
        assert_eq!(learnt.bound(), Some(Bound { ms: 5_000, is_told: true, at_ms: 1 }));
        came_back(&learnt, 2, 60);
        assert!(!learnt.is_too_old(53_999, true));
        came_back(&learnt, 3, UNSAID);
        assert_eq!((learnt.bound(), learnt.limit_ms()), (None, None));
        came_back(&learnt, 4, 0);
        assert!(learnt.keeps_none() && learnt.keeps() == Some(false));
        came_back(&learnt, 5, u32::MAX - 2);
        assert!(!learnt.is_too_old(1 << 31, true));
    }

    #[test]
    fn two_closes_that_agree_say_how_long() {
        let learnt = Learnt::default();
        learnt.closed(5_003, 10_000, true);
        assert_eq!(learnt.bound(), None);
        learnt.closed(5_020, 20_000, true);
        let bound = Bound { ms: 5_003, is_told: false, at_ms: 20_000 };
        assert_eq!(learnt.bound(), Some(bound));
        // A server that looks at its clock once a second.
        learnt.closed(4_100, 30_000, true);
        assert_eq!(learnt.bound().map(|bound| bound.ms), Some(4_100));
        // Another age is no reason yet.
        learnt.closed(700, 40_000, true);
        assert_eq!(learnt.bound().map(|bound| bound.ms), Some(4_100));
        learnt.grow_old(629_999);
        assert!(learnt.bound().is_some());
        learnt.grow_old(630_000);
        assert_eq!((learnt.bound(), learnt.limit_ms()), (None, None));
        learnt.closed(5_000, 640_000, true);
        assert_eq!(learnt.bound().map(|bound| bound.ms), Some(4_100), "one reminds of it");
    }

    #[test]
    fn a_server_that_restarts_teaches_nothing() {
        let learnt = Learnt::default();
        for age in [3_000, 3_100, 3_050, 3_000] {
            learnt.closed(age, 10_000, true);
        }
        assert_eq!(learnt.bound(), None, "all at once");
        for (at, age) in [(0, 3_000), (1, 10), (2, 900), (3, 3_000)] {
            learnt.closed(age, 50_000 + at, true);
        }
        assert_eq!(learnt.bound(), None, "of all ages at once");
        learnt.closed(3_000, 90_000, true);
        assert_eq!(learnt.bound().map(|bound| bound.ms), Some(3_000));
        learnt.closed(20, 90_001, true);
        assert_eq!(learnt.bound(), None);
    }

    #[test]
    fn a_server_that_ends_its_connections_keeps_none_until_it_does() {
        let learnt = Learnt::default();
        (0..2).for_each(|at| learnt.ended(at));
        came_back(&learnt, 3, UNSAID);
        assert_eq!(learnt.keeps(), Some(true));
        (4..7).for_each(|at| learnt.ended(at));
        assert_eq!((learnt.keeps(), learnt.seen_at_ms()), (Some(false), Some(6)));
        came_back(&learnt, 9, UNSAID);
        assert_eq!(learnt.keeps(), Some(true));
    }

    #[test]
    fn spare_connections_are_for_who_keeps_several_for_a_while() {
        let learnt = Learnt::default();
        learnt.came_back(1, UNSAID, false, || true);
        assert!(learnt.serves_several() && !learnt.welcomes_spares());
        learnt.came_back(2, UNSAID, true, || panic!("known"));
        assert!(learnt.welcomes_spares() && learnt.is_as_known(UNSAID, || false));
        assert!(!learnt.is_as_known(5, || true));
        learnt.came_back(3, 1, true, || panic!("known"));
        assert!(!learnt.welcomes_spares());
        learnt.came_back(4, 5, true, || panic!("known"));
        assert!(learnt.welcomes_spares());
        (1..=2).for_each(|at| learnt.closed(300, at * 10_000, false));
        assert!(!learnt.welcomes_spares() && learnt.is_too_old(200, false));
        learnt.forget();
        assert_eq!((learnt.keeps(), learnt.bound()), (None, None));
        assert!(!learnt.serves_several() && !learnt.is_too_old(1 << 31, false));
    }

    #[test]
    fn who_rests_is_in_the_way_of_who_waits_for_a_first_answer_for_long() {
        let learnt = Learnt::default();
        assert!(!learnt.is_in_the_way(1 << 40));
        assert!(learnt.first_begins(1_000) && !learnt.first_begins(1_100));
        assert!(!learnt.is_in_the_way(1_200) && learnt.is_in_the_way(1_250));
        learnt.came_back(1_300, UNSAID, false, || true);
        assert!(!learnt.is_in_the_way(2_000), "it serves several at once");
        learnt.forget();
        assert!(learnt.is_in_the_way(2_000));
        learnt.first_ends();
        learnt.first_ends();
        assert!(!learnt.is_in_the_way(2_000));
    }
}
