//! `ringway certificates`: what clients are shown, whose it is, and until when.
//!
//! In goes a configuration, and where to ask; out comes a list on standard output. A process that
//! runs is asked, which knows what it really uses; where none listens, the files are read.

use std::process::ExitCode;

use super::client::{self, Target};
use super::output::{Done, Failure};
use crate::config::{Config, Secret};
use crate::tls;
use crate::tls::report::Report;

/// Some certificate needs attention.
const DUE: u8 = 3;

pub(crate) fn run(
    config: &Config,
    named: Option<Result<Target, String>>,
    is_json: bool,
) -> ExitCode {
    let done = report(config, named).map(|report| {
        let text = if is_json {
            // Cannot fail: every key is text and no number is infinite.
            format!("{}\n", serde_json::to_string(&report).unwrap_or_default())
        } else {
            report.to_string()
        };
        Done { text, code: if report.is_due() { DUE } else { 0 } }
    });
    done.and_then(Done::print).unwrap_or_else(Failure::print)
}

fn report(config: &Config, named: Option<Result<Target, String>>) -> Result<Report, Failure> {
    let (targets, is_named) = match named {
        Some(target) => (vec![target.map_err(Failure::wrong)?], true),
        None => (Target::admin(config).into_iter().collect(), false),
    };
    let token = config.admin.reader().map(Secret::reveal);
    match client::ask_for(&targets, "/certificates", token) {
        Ok(answer) if answer.code == 200 => serde_json::from_str(&answer.body)
            .map_err(|error| Failure::unable(format!("the answer is not ringway's: {error}"))),
        Ok(answer) => Err(Failure::unable(answer)),
        Err(error) if is_named => Err(Failure::unable(error)),
        // Nobody listens there: what would be shown is what is on disk.
        Err(_) => tls::read_certificates(config).map_err(Failure::wrong),
    }
}
