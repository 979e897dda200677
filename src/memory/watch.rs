//! When to clean up: a state machine over two figures and a clock.
//!
//! In: what the ledgers add up to, what the kernel says the process occupies, and the time. Out:
//! the pressure that the process is under and, now and then, the wish for a cleanup. It reads no
//! file and no clock, and frees nothing.
//!
//! The ledgers decide, because they fall as soon as something is given up. RSS may stay where it
//! was: pages that the allocator keeps are in it, and a proxy that refuses clients until RSS has
//! fallen may refuse them for ever. So RSS counts as pressure only as far as the ledgers explain
//! it. What goes beyond that leads to light cleanups, which cost no client anything.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::ledger::Level;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// On any clock that does not go back.
    pub at_ms: u64,
    /// Of all ledgers.
    pub ledger_bytes: u64,
    pub rss_bytes: u64,
}

/// The lines that pressure is measured by; the first is below the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thresholds {
    pub cleanup_bytes: u64,
    pub max_bytes: u64,
}

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Pressure {
    #[default]
    Normal,
    /// Over the line for cleanups.
    Light,
    /// Over the maximum, or on the way back from there: no new clients.
    Forced,
}

impl Pressure {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Light => "light",
            Self::Forced => "forced",
        }
    }
}

/// The pressure as the threads know it: one sets it, all may read it.
#[derive(Debug, Default)]
pub(crate) struct SharedPressure(AtomicU8);

impl SharedPressure {
    pub(crate) fn get(&self) -> Pressure {
        match self.0.load(Ordering::Relaxed) {
            0 => Pressure::Normal,
            1 => Pressure::Light,
            _ => Pressure::Forced,
        }
    }

    pub(crate) fn set(&self, pressure: Pressure) {
        self.0.store(pressure as u8, Ordering::Relaxed);
    }
}

/// What is to be done about a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Action {
    pub pressure: Pressure,
    /// Whether the pressure is another one than before.
    pub is_change: bool,
    pub clean: Option<Level>,
}

/// The state between two readings.
#[derive(Debug)]
pub(crate) struct Watch {
    thresholds: Thresholds,
    check_interval_ms: u64,
    pressure: Pressure,
    last: Option<Cleanup>,
}

/// A cleanup that was asked for.
#[derive(Clone, Copy, Debug)]
struct Cleanup {
    at_ms: u64,
    level: Level,
    /// What there was when it began.
    rss_bytes: u64,
}

/// Connections that were told to end take a moment to do so; forced cleanups in between would cut
/// more of them than is needed.
const FORCED_PAUSE_MS: u64 = 1000;

/// The same below the maximum and above the line for cleanups, where there is less of a hurry: what
/// moves has time to end by itself, and what does not move becomes stalled and goes.
const RECOVERY_PAUSE_MS: u64 = 3000;

/// The program, its stacks and its tables, which no ledger counts.
const UNCOUNTED_BYTES: u64 = 32 * 1024 * 1024;

/// Light pressure ends at this share of the line, in percent. Cleanups at a line that is crossed to
/// and fro would follow each other.
const LIGHT_ENDS_PERCENT: u64 = 90;

/// A cleanup that made RSS fall by less than this was in vain.
const WORTHWHILE_PERCENT: u64 = 5;

impl Watch {
    pub(crate) fn new(thresholds: Thresholds, check_interval: Duration) -> Self {
        let check_interval_ms = u64::try_from(check_interval.as_millis()).unwrap_or(u64::MAX);
        Self { thresholds, check_interval_ms, pressure: Pressure::Normal, last: None }
    }

    pub(crate) fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// Judges a reading. It may be called at any pace; the pace of cleanups is its own.
    pub(crate) fn step(&mut self, now: Reading) -> Action {
        let before = self.pressure;
        let bytes = explained_bytes(&now);
        self.pressure = self.next(bytes);
        let clean = self.cleanup(&now, bytes, before);
        if let Some(level) = clean {
            self.last = Some(Cleanup { at_ms: now.at_ms, level, rss_bytes: now.rss_bytes });
        }
        Action { pressure: self.pressure, is_change: self.pressure != before, clean }
    }

    fn next(&self, bytes: u64) -> Pressure {
        let Thresholds { cleanup_bytes, max_bytes } = self.thresholds;
        let light_ends = percent(cleanup_bytes, LIGHT_ENDS_PERCENT);
        match self.pressure {
            _ if bytes > max_bytes => Pressure::Forced,
            Pressure::Forced if bytes >= cleanup_bytes => Pressure::Forced,
            Pressure::Normal if bytes > cleanup_bytes => Pressure::Light,
            Pressure::Light if bytes >= light_ends => Pressure::Light,
            Pressure::Normal | Pressure::Light | Pressure::Forced => Pressure::Normal,
        }
    }

    fn cleanup(&self, now: &Reading, bytes: u64, before: Pressure) -> Option<Level> {
        let is_over = bytes > self.thresholds.max_bytes;
        let wanted = match self.pressure {
            Pressure::Forced => Level::Forced,
            Pressure::Light => Level::Light,
            // What only RSS says.
            Pressure::Normal if now.rss_bytes > self.thresholds.cleanup_bytes => Level::Light,
            Pressure::Normal => return None,
        };
        let Some(last) = self.last else { return Some(wanted) };
        let elapsed_ms = now.at_ms.saturating_sub(last.at_ms);
        let is_due = match wanted {
            Level::Forced if is_over => last.level == Level::Light || elapsed_ms >= FORCED_PAUSE_MS,
            Level::Forced => elapsed_ms >= RECOVERY_PAUSE_MS,
            Level::Light if self.pressure > before => true,
            Level::Light if self.pressure == Pressure::Normal && was_worthwhile(&last, now) => {
                elapsed_ms >= FORCED_PAUSE_MS
            }
            Level::Light => elapsed_ms >= self.check_interval_ms,
        };
        is_due.then_some(wanted)
    }
}

/// The part of what the process occupies that can go away by giving something up: what the ledgers
/// count with a quarter for the allocator on top, and the program itself.
fn explained_bytes(now: &Reading) -> u64 {
    let counted = now.ledger_bytes.saturating_add(now.ledger_bytes / 4);
    let plausible = counted.saturating_add(UNCOUNTED_BYTES);
    now.rss_bytes.min(plausible).max(now.ledger_bytes)
}

fn was_worthwhile(last: &Cleanup, now: &Reading) -> bool {
    now.rss_bytes < percent(last.rss_bytes, 100 - WORTHWHILE_PERCENT)
}

fn percent(bytes: u64, percent: u64) -> u64 {
    bytes / 100 * percent + bytes % 100 * percent / 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MIB;

    fn watch() -> Watch {
        let thresholds = Thresholds { cleanup_bytes: 400 * MIB, max_bytes: 500 * MIB };
        Watch::new(thresholds, Duration::from_secs(30))
    }

    /// Steps through readings of (second, ledger in MiB, RSS in MiB); what came of each.
    fn walk(watch: &mut Watch, readings: &[(u64, u64, u64)]) -> Vec<(Pressure, Option<Level>)> {
        let step = |&(second, ledger, rss): &(u64, u64, u64)| {
            let at_ms = second * 1000;
            let reading = Reading { at_ms, ledger_bytes: ledger * MIB, rss_bytes: rss * MIB };
            let before = watch.pressure();
            let action = watch.step(reading);
            assert_eq!(action.is_change, before != action.pressure);
            assert_eq!(watch.pressure(), action.pressure);
            (action.pressure, action.clean)
        };
        readings.iter().map(step).collect()
    }

    const NOTHING: (Pressure, Option<Level>) = (Pressure::Normal, None);
    const LIGHT: (Pressure, Option<Level>) = (Pressure::Light, Some(Level::Light));
    const FORCED: (Pressure, Option<Level>) = (Pressure::Forced, Some(Level::Forced));

    #[test]
    fn a_line_is_crossed_by_what_is_over_it_and_not_by_what_is_at_it() {
        assert_eq!(walk(&mut watch(), &[(0, 400, 400)]), [NOTHING]);
        assert_eq!(walk(&mut watch(), &[(0, 401, 401)]), [LIGHT]);
        assert_eq!(walk(&mut watch(), &[(0, 500, 500)]), [LIGHT]);
        assert_eq!(walk(&mut watch(), &[(0, 501, 501)]), [FORCED]);
    }

    #[test]
    fn light_pressure_cleans_once_per_interval_and_ends_below_the_line() {
        let readings =
            [(0, 401, 410), (1, 410, 420), (29, 395, 400), (30, 361, 410), (31, 350, 359)];
        let waiting = (Pressure::Light, None);
        assert_eq!(walk(&mut watch(), &readings), [LIGHT, waiting, waiting, LIGHT, NOTHING]);
        // Crossed again at once: a new rise is cleaned at once.
        let readings = [(0, 401, 401), (1, 350, 350), (2, 401, 401)];
        assert_eq!(walk(&mut watch(), &readings), [LIGHT, NOTHING, LIGHT]);
    }

    #[test]
    fn forced_pressure_lasts_until_the_line_for_cleanups() {
        let mut watch = watch();
        let readings = [(0, 450, 450), (1, 510, 520), (2, 505, 515)];
        assert_eq!(walk(&mut watch, &readings), [LIGHT, FORCED, FORCED]);
        // Below the maximum there is less of a hurry, and no client is let in yet.
        let waiting = (Pressure::Forced, None);
        let readings = [(3, 490, 495), (4, 450, 460), (5, 440, 440), (6, 430, 430), (8, 400, 410)];
        let expected = [waiting, waiting, FORCED, waiting, FORCED];
        assert_eq!(walk(&mut watch, &readings), expected);
        assert_eq!(walk(&mut watch, &[(34, 399, 399), (35, 390, 400)]), [NOTHING, NOTHING]);
    }

    #[test]
    fn forced_cleanups_leave_time_to_take_effect() {
        let mut watch = watch();
        let over = |at_ms| Reading { at_ms, ledger_bytes: 600 * MIB, rss_bytes: 600 * MIB };
        let cleaned: Vec<_> = (0..30).map(|i| watch.step(over(i * 100)).clean.is_some()).collect();
        let expected: Vec<_> = (0..30).map(|i| i % 10 == 0).collect();
        assert_eq!(cleaned, expected);
    }

    #[test]
    fn rss_alone_never_forces_and_does_not_flap() {
        let light_only = (Pressure::Normal, Some(Level::Light));
        // In vain: the next one after an interval.
        let readings = [(0, 50, 900), (1, 50, 890), (29, 50, 880), (30, 50, 890), (31, 50, 890)];
        let expected = [light_only, NOTHING, NOTHING, light_only, NOTHING];
        assert_eq!(walk(&mut watch(), &readings), expected);
        // Worthwhile: the next one soon, for as long as it helps.
        let readings = [(0, 50, 900), (1, 50, 700), (2, 50, 690), (3, 50, 399)];
        assert_eq!(walk(&mut watch(), &readings), [light_only, light_only, NOTHING, NOTHING]);
    }

    #[test]
    fn rss_counts_as_far_as_the_ledgers_explain_it() {
        // 380 MiB explain up to 507: the kernel's figure decides between 400 and 500.
        assert_eq!(walk(&mut watch(), &[(0, 380, 420)]), [LIGHT]);
        assert_eq!(walk(&mut watch(), &[(0, 380, 600)]), [FORCED]);
        // 300 MiB explain 407 of whatever there is.
        assert_eq!(walk(&mut watch(), &[(0, 300, 5_000)]), [LIGHT]);
        // Pages that are not there yet were promised all the same.
        assert_eq!(walk(&mut watch(), &[(0, 450, 100)]), [LIGHT]);
    }

    #[test]
    fn a_burst_and_its_end_leave_nothing_behind() {
        let mut watch = watch();
        let rise = (0..100).map(|i| (i, i * 7, i * 7 + 10));
        let fall = (0..100).map(|i| (100 + i, 700 - i * 7, 710 - i * 7));
        let readings: Vec<_> = rise.chain(fall).collect();
        let seen = walk(&mut watch, &readings);
        let mut pressures: Vec<_> = seen.iter().map(|(pressure, _)| *pressure).collect();
        pressures.dedup();
        let expected = [Pressure::Normal, Pressure::Light, Pressure::Forced, Pressure::Normal];
        assert_eq!(pressures, expected);
        assert_eq!(walk(&mut watch, &[(10_000, 10, 30)]), [NOTHING]);
    }

    #[test]
    fn figures_beyond_reason_do_no_harm() {
        let mut watch = Watch::new(
            Thresholds { cleanup_bytes: 0, max_bytes: 0 },
            Duration::from_secs(u64::MAX),
        );
        let huge = Reading { at_ms: u64::MAX, ledger_bytes: 1 << 62, rss_bytes: u64::MAX };
        assert_eq!(watch.step(huge).pressure, Pressure::Forced);
        // The clock went back.
        assert_eq!(watch.step(Reading::default()).pressure, Pressure::Forced);
        assert_eq!(percent(u64::MAX, 100), u64::MAX);
    }
}
