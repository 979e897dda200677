//! `ringway completions` and `ringway man`: the command line, told to shells and to `man`.
//!
//! In goes the definition that also parses; out comes text in the form that they read.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::args::Cli;

use super::output::Failure;

pub(super) fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ringway", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

pub(super) fn manual() -> Result<String, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(Failure::unable)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
