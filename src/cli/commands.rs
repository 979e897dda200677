//! The commands that look at a configuration and run no proxy: `check`, `plan`, `explain`,
//! `dump-config`, `import`, and what shells and manuals want to know of the command line.
//!
//! In goes what was typed; out come text on standard output and an exit code. An error is one line
//! on standard error. Nothing here changes anything: what is bound for a try is given back at once.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use super::{dump, explain, plan, shell};
use crate::cli::args::{Cli, Command};
use crate::config::document;
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

/// Carries out what needs nothing that runs; `None` leaves it to `main`.
pub fn run(cli: &Cli) -> Option<ExitCode> {
    let done = match cli.command.as_ref()? {
        Command::Check { .. }
        | Command::Health { .. }
        | Command::Reload { .. }
        | Command::Rollback { .. }
        | Command::Doctor { .. }
        | Command::Bench(_) => return None,
        Command::Explain(question) => explain::run(cli, question).map(Done::from),
        Command::Plan { old, new } => plan::run(old, new),
        Command::DumpConfig { origin, json } => dump::run(cli, *origin, *json).map(Done::from),
        Command::Import { file } => document::import(file).map(Done::from).map_err(Failure::from),
        Command::Completions { shell } => Ok(Done::from(shell::completions(*shell))),
        Command::Man => shell::manual().map(Done::from),
    };
    Some(done.and_then(Done::print).unwrap_or_else(Failure::print))
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

impl From<String> for Done {
    fn from(text: String) -> Self {
        Self { text, code: 0 }
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

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::wrong(error)
    }
}
