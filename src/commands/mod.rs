//! The commands that look at a configuration and run no proxy: `check`, `plan`, `explain`,
//! `dump-config`, `import`, `schema`, and what shells and manuals want to know of the command line.
//!
//! In goes what was typed; out come text on standard output and an exit code. An error is a line on
//! standard error for each mistake. Nothing here changes anything: what is bound for a try is given
//! back at once.

pub mod check;
mod dump;
mod explain;
mod plan;
mod shell;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::config::{self, ConfigError, EXIT_CONFIG, document};

/// Why a command could not do its work.
#[derive(Debug)]
struct Failure {
    code: u8,
    cause: String,
}

/// What a command has to say, and its exit code.
struct Done {
    text: String,
    code: u8,
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
        Command::Schema => Ok(Done::from(format!("{:#}\n", config::schema()))),
        Command::Completions { shell } => Ok(Done::from(shell::completions(*shell))),
        Command::Man => shell::manual().map(Done::from),
    };
    Some(done.and_then(Done::print).unwrap_or_else(Failure::print))
}

impl Done {
    fn print(self) -> Result<ExitCode, Failure> {
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
    fn wrong(cause: impl Display) -> Self {
        Self { code: EXIT_CONFIG, cause: cause.to_string() }
    }

    fn unable(cause: impl Display) -> Self {
        Self { code: 1, cause: cause.to_string() }
    }

    fn print(self) -> ExitCode {
        let _ = writeln!(io::stderr(), "ringway: {}", self.cause);
        ExitCode::from(self.code)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::wrong(error)
    }
}
