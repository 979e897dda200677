//! The ringway that runs here, for commands that are asked about it without a word of how it was
//! started.
//!
//! In goes what was typed; out comes the same with the file, the flags and the variables of the
//! process that runs in this folder, as in `docker exec`, where there is exactly one. Nothing is
//! asked of it: the kernel knows how it was started.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::args::{self, Cli, Command};

/// Takes over how the process that runs here was started, where the command is about that one and
/// nothing else was said.
pub(super) fn adopt(cli: &mut Cli) {
    if !is_meant(cli) {
        return;
    }
    let Some(running) = find(Path::new("/proc")) else { return };
    let Running { pid, typed, variables } = running;
    if typed.flags.are_none() && typed.config.is_none() && variables.is_empty() {
        return;
    }
    (cli.config, cli.flags) = (typed.config, typed.flags);
    cli.flags.variables = Some(variables);
    let is_quiet = matches!(cli.command, Some(Command::Health { .. }));
    if !is_quiet {
        let _ =
            writeln!(io::stderr(), "ringway: by the file, flags and variables of process {pid}");
    }
}

fn is_meant(cli: &Cli) -> bool {
    let whom = match &cli.command {
        Some(Command::Explain(_) | Command::DumpConfig { .. } | Command::Doctor { .. }) => None,
        Some(
            Command::Health { whom, .. }
            | Command::Reload { whom, .. }
            | Command::Rollback { whom, .. }
            | Command::Certificates { whom, .. }
            | Command::Upstreams { whom, .. }
            | Command::Top { whom, .. }
            | Command::CompareArms { whom, .. },
        ) => whom.url.as_ref(),
        _ => return false,
    };
    whom.is_none() && cli.config.is_none() && cli.flags.are_none()
}

struct Running {
    pid: u32,
    typed: Cli,
    /// Those that ringway reads.
    variables: Vec<(OsString, OsString)>,
}

/// The one that runs this program in this folder; `None` where there are several too.
fn find(processes: &Path) -> Option<Running> {
    let here = std::env::current_dir().ok()?;
    let program = std::env::current_exe().ok()?;
    let mut found = None;
    for entry in fs::read_dir(processes).ok()?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else { continue };
        if let Some(running) = read(pid, &entry.path(), &here, &program)
            && found.replace(running).is_some()
        {
            return None;
        }
    }
    found
}

fn read(pid: u32, process: &Path, here: &Path, program: &Path) -> Option<Running> {
    let its_program = fs::read_link(process.join("exe")).ok()?;
    // One that has been replaced on disk is the same program still.
    let name = its_program.file_name()?.as_bytes();
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    if name != program.file_name()?.as_bytes() || fs::read_link(process.join("cwd")).ok()? != here {
        return None;
    }
    let words = split(&fs::read(process.join("cmdline")).ok()?);
    let typed = args::parse(words).ok().filter(|typed| typed.command.is_none())?;
    let variables = split(&fs::read(process.join("environ")).ok()?);
    let pair = |variable: OsString| {
        let bytes = variable.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=')?;
        let is_read = bytes.starts_with(b"RINGWAY_") || bytes.starts_with(b"PROXY_");
        let of = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        is_read.then(|| (of(&bytes[..end]), of(&bytes[end + 1..])))
    };
    Some(Running { pid, typed, variables: variables.into_iter().filter_map(pair).collect() })
}

/// What the kernel ends with a zero each.
fn split(bytes: &[u8]) -> Vec<OsString> {
    let mut words: Vec<_> =
        bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    words.pop_if(|last| last.is_empty());
    words
}
