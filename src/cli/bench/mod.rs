//! `ringway bench`: loads a server and says how it did.
//!
//! In comes a command line; out come a report and an exit code: 0 where requests were answered, 1
//! where none was or the run could not take place, 2 where the command line makes no sense. It is a
//! client in a process of its own, so that it uses an epoll: a send, a receive and a share of a
//! wait per request need no ring. Every answer is read by the parser that the proxy uses, and held
//! to its length.
//!
//! `script`, `schedule`, `answer`, `streams`, `tally` and `report` are pure; `crew` runs the
//! threads, each of which is a `load` with its `connection`s; `target` reads /proc; `compare` runs
//! two proxies in turns.

// Figures for people and for ratios: fifteen digits are more than any measurement has.
#![allow(clippy::cast_precision_loss)]

mod alarm;
mod answer;
mod compare;
mod connection;
mod crew;
mod load;
mod options;
mod plot;
mod progress;
mod refusal;
mod report;
mod schedule;
mod script;
mod shared;
mod streams;
mod tally;
mod target;

use std::io::{self, Write};
use std::process::ExitCode;

use self::crew::measure;
use self::refusal::{Refusal, say};
use crate::config::Flags;

pub(crate) use self::options::BenchFlags;

/// Does what the command line says. `global` are the flags that `--ab` hands on.
pub(crate) fn main(flags: &BenchFlags, global: &Flags) -> ExitCode {
    let outcome = if flags.ab.is_empty() { once(flags) } else { compare::main(flags, global) };
    match outcome {
        Ok(code) => code,
        Err(Refusal { code, text }) => {
            let _ = writeln!(io::stderr(), "ringway: {text}");
            ExitCode::from(code)
        }
    }
}

fn once(flags: &BenchFlags) -> Result<ExitCode, Refusal> {
    let missing = || "name a URL to ask, such as http://127.0.0.1:8080/".to_owned();
    let url = flags.url.as_deref().ok_or_else(missing).map_err(Refusal::usage)?;
    let plan = flags.plan(url).map_err(Refusal::usage)?;
    let (report, tally) = measure(&plan).map_err(Refusal::trouble)?;
    if let Some(path) = &flags.plot {
        plot::draw(path, &report.title(), &tally).map_err(Refusal::trouble)?;
    }
    say(&if flags.json { report.json() } else { report.to_string() });
    Ok(ExitCode::from(u8::from(report.requests == 0)))
}
