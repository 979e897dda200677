//! What a load generator says, and why it does not run.
//!
//! In goes text, or a cause; out come lines on standard output and an exit code. Nothing is
//! measured here.

use std::io::{self, Write};

/// Why nothing was measured.
pub(super) struct Refusal {
    pub(super) code: u8,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn usage(text: String) -> Self {
        Self { code: EXIT_USAGE, text }
    }

    pub(super) fn trouble(text: String) -> Self {
        Self { code: 1, text }
    }
}

pub(super) const EXIT_USAGE: u8 = 2;

pub(super) fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
}
