//! Lines about what somebody else has written wrong.
//!
//! In go all that are true now; those that were not true before go to the log, up to a number in a
//! minute: whoever starts and stops containers all the time must not fill a disk.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// In a minute.
const LINES_MAX: u32 = 20;

/// Each is said when it begins, and not while it lasts.
#[derive(Default)]
pub(crate) struct Lines {
    said: BTreeSet<String>,
    minute: Option<Instant>,
    count: u32,
}

impl Lines {
    /// Says which containers are not served, and why.
    pub(crate) fn say(&mut self, refused: &[String]) {
        let now: BTreeSet<String> = refused.iter().cloned().collect();
        let new: Vec<String> = now.difference(&self.said).cloned().collect();
        for line in new {
            if self.may_say() {
                tracing::warn!("a container is not served: {line}");
            }
        }
        self.said = now;
    }

    /// Whether there is room for one more line.
    pub(crate) fn may_say(&mut self) -> bool {
        if self.minute.is_none_or(|minute| minute.elapsed() >= MINUTE) {
            self.minute = Some(Instant::now());
            self.count = 0;
        }
        self.count += 1;
        if self.count == LINES_MAX {
            tracing::warn!("there is more to say of discovery than is said: see GET /upstreams");
        }
        self.count < LINES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_end_to_what_is_said_in_a_minute() {
        let mut lines = Lines::default();
        let said = (0..1_000).filter(|_| lines.may_say()).count();
        assert_eq!(said, LINES_MAX as usize - 1);
        lines.minute = Instant::now().checked_sub(MINUTE);
        assert!(lines.may_say());
    }
}
