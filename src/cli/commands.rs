//! The commands that look at a configuration and run no proxy: `check`, `plan`, `explain`,
//! `dump-config`, `import`, `schema`, and what shells and manuals want to know of the command line.
//!
//! In goes what was typed; out come text on standard output and an exit code. An error is a line on
//! standard error for each mistake. Nothing here changes anything: what is bound for a try is given
//! back at once.

use std::process::ExitCode;

use super::output::{Done, Failure};
use super::{dump, explain, import, plan, shell};
use crate::cli::args::{Cli, Command};
use crate::config;

/// Carries out what needs nothing that runs; `None` leaves it to `main`.
pub(crate) fn run(cli: &Cli) -> Option<ExitCode> {
    let done = match cli.command.as_ref()? {
        Command::Check { .. }
        | Command::Health { .. }
        | Command::Certificates { .. }
        | Command::Upstreams { .. }
        | Command::CompareArms { .. }
        | Command::Top { .. }
        | Command::Reload { .. }
        | Command::Rollback { .. }
        | Command::Doctor { .. }
        | Command::Bench(_) => return None,
        Command::Explain(question) => explain::run(cli, question).map(Done::from),
        Command::Plan { old, new } => plan::run(old, new),
        Command::DumpConfig { origin, json } => dump::run(cli, *origin, *json).map(Done::from),
        Command::Import { file, from } => import::run(file, *from),
        Command::Schema => Ok(Done::from(format!("{:#}\n", config::schema()))),
        Command::Completions { shell } => Ok(Done::from(shell::completions(*shell))),
        Command::Man => shell::manual().map(Done::from),
    };
    Some(done.and_then(Done::print).unwrap_or_else(Failure::print))
}
