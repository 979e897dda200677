//! What a command has to say, and how it ends.
//!
//! In goes text, or a cause; out comes an exit code, with the text on standard output or one line
//! on standard error. What is printed is never cut without a word: only a reader that closes its
//! pipe ends it early.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::{ConfigError, EXIT_CONFIG};

/// Why a command could not do its work.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) cause: String,
}

/// What a command has to say, and its exit code.
pub(super) struct Done {
    pub(super) text: String,
    pub(super) code: u8,
}

impl From<String> for Done {
    fn from(text: String) -> Self {
        Self { text, code: 0 }
    }
}

impl Done {
    pub(super) fn print(self) -> Result<ExitCode, Failure> {
        match io::stdout().lock().write_all(self.text.as_bytes()) {
            // Who reads only the beginning has seen what was wanted.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure { code: 1, cause: format!("standard output: {error}") })
            }
            _ => Ok(ExitCode::from(self.code)),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::wrong(error)
    }
}

impl Failure {
    /// The question itself cannot be understood.
    pub(super) fn wrong(cause: impl Display) -> Self {
        Self { code: EXIT_CONFIG, cause: cause.to_string() }
    }

    pub(super) fn unable(cause: impl Display) -> Self {
        Self { code: 1, cause: cause.to_string() }
    }

    pub(super) fn print(self) -> ExitCode {
        let _ = writeln!(io::stderr(), "ringway: {}", self.cause);
        ExitCode::from(self.code)
    }
}
