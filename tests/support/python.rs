//! Pythons with packages of their own, each in an environment that is made once and kept.
//!
//! Comes in: the name of the environment, what is to be imported, and the packages that have it.
//! Goes out: its Python, or a word that the test is skipped where venv or pip cannot make it.

use super::installed;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) fn environment(name: &str, import: &str, packages: &[&str]) -> Option<PathBuf> {
    let system = installed("python3")?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join("bin/python");
    let succeeds = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        command.output().is_ok_and(|output| output.status.success())
    };
    let is_whole = || succeeds(&python, &["-c", import]);
    let install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1"];
    let patience = ["--timeout", "20"];
    let make = || {
        succeeds(&system, &["-m", "venv", "--clear", &folder.to_string_lossy()])
            && succeeds(&python, &[&install[..], &patience, packages].concat())
            && is_whole()
    };
    let is_there = is_whole() || make();
    if !is_there {
        eprintln!("skipped: {} cannot be installed by venv and pip", packages.join(", "));
    }
    is_there.then_some(python)
}
