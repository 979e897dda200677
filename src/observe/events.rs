//! The last things of note that happened to the process: configurations put in use, cleanups,
//! alerts, origins passed over, changes by an operator.
//!
//! In go a kind and a sentence from any thread; out come the last few hundred, for people who look
//! at a running ringway. It is a memory and no log: what matters is a log line as well. A worker
//! that finds the list in somebody's hands leaves its event out and goes on.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::SystemTime;

/// How many are kept. Each is a line of text.
const EVENTS_MAX: usize = 200;

/// A longer sentence is cut.
const TEXT_CHARS_MAX: usize = 300;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Configuration,
    Cleanup,
    Alert,
    Origin,
    /// Somebody has changed something by the admin API.
    Change,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Cleanup => "cleanup",
            Self::Alert => "alert",
            Self::Origin => "origin",
            Self::Change => "change",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub at: SystemTime,
    pub kind: Kind,
    /// Names in it may come from containers: whoever shows it has to escape it.
    pub text: String,
}

/// The newest at the end.
static EVENTS: Mutex<VecDeque<Event>> = Mutex::new(VecDeque::new());

/// Keeps an event.
#[cold]
pub(crate) fn note(kind: Kind, text: &str) {
    let mut events = match EVENTS.try_lock() {
        Ok(events) => events,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    keep(&mut events, Event { at: SystemTime::now(), kind, text: cut(text) });
}

fn keep(events: &mut VecDeque<Event>, event: Event) {
    if events.len() >= EVENTS_MAX {
        events.pop_front();
    }
    events.push_back(event);
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The last `count`, the newest first.
pub(crate) fn last(count: usize) -> Vec<Event> {
    lock().iter().rev().take(count).cloned().collect()
}

fn lock() -> MutexGuard<'static, VecDeque<Event>> {
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_a_long_one_is_cut() {
        let mut events = VecDeque::new();
        for number in 0..EVENTS_MAX + 3 {
            let text = cut(&format!("{number} {}", "ä".repeat(TEXT_CHARS_MAX)));
            keep(&mut events, Event { at: SystemTime::UNIX_EPOCH, kind: Kind::Alert, text });
        }
        assert_eq!(events.len(), EVENTS_MAX);
        assert!(events[0].text.starts_with("3 ä"));
        assert!(events.iter().all(|event| event.text.chars().count() <= TEXT_CHARS_MAX + 1));
    }
}
