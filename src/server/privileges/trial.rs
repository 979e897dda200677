//! Whether another user can do what the process will have to: tried by a process that is that user.
//!
//! In goes what is needed, by the standard input of a second process of this program; out comes a
//! line for each thing that is in the way, with its cure. Logs that are not there are made, as that
//! user's; nothing else is changed. The second process never becomes anything else again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::{AccessFlags, Gid, Uid, access};
use serde::{Deserialize, Serialize};

use super::account::switch;
use super::needs::Needs;

/// The first word of the second process. Nobody types it.
pub(crate) const WORD: &str = "try-as-user";

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Trial<N> {
    uid: u32,
    gid: u32,
    name: Option<String>,
    needs: N,
}

impl<'n> Trial<&'n Needs> {
    pub(super) fn new(uid: u32, gid: u32, name: Option<&str>, needs: &'n Needs) -> Self {
        Self { uid, gid, name: name.map(str::to_owned), needs }
    }

    /// Has a second process try it. The error has a line for each thing that is in the way.
    pub(super) fn run(&self, program: &Path, user: &str) -> Result<(), String> {
        let failed = |error: io::Error| format!("server.user: it cannot be tried: {error}");
        let mut child = Command::new(program)
            .arg(WORD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&text).map_err(failed)?;
        }
        let output = child.wait_with_output().map_err(failed)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match (output.status.success(), said.trim_end()) {
            (true, _) => Ok(()),
            (false, "") => Err(format!("server.user: it cannot be tried: {}", output.status)),
            (false, said) => {
                Err(format!("server.user = {user:?} lacks what ringway will need:\n{said}"))
            }
        }
    }
}

/// The second process.
pub(crate) fn main() -> ExitCode {
    let mut text = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut text);
    let trial = read.and_then(|_| Ok(serde_json::from_slice::<Trial<Needs>>(&text)?));
    let problems = match trial {
        Ok(trial) => trial.problems(),
        Err(error) => vec![format!("it cannot be read what is to be tried: {error}")],
    };
    let mut stdout = io::stdout().lock();
    for problem in &problems {
        let _ = writeln!(stdout, "  {problem}");
    }
    ExitCode::from(u8::from(!problems.is_empty()))
}

impl Trial<Needs> {
    fn problems(&self) -> Vec<String> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        if let Err(error) = switch(uid, gid, self.name.as_deref()) {
            return vec![format!("this user cannot be taken on: {error}; start as root")];
        }
        let who = self.name.clone().unwrap_or_else(|| self.uid.to_string());
        let mut problems = Vec::new();
        for (key, path) in &self.needs.read {
            if let Err(error) = File::open(path) {
                problems.push(format!(
                    "{key}: {} cannot be read: {error}; a reload would fail: chgrp {gid} {0} && \
                     chmod g+r {0}, and let the folders above it be entered",
                    path.display()
                ));
            }
        }
        for (key, path) in &self.needs.folders {
            if let Err(error) = folder(path) {
                problems.push(format!(
                    "{key}: {} cannot be written to: {error}; {}: chown {who} {0}",
                    path.display(),
                    purpose(key)
                ));
            }
        }
        for (key, path) in &self.needs.append {
            if let Err(error) = OpenOptions::new().append(true).create(true).open(path) {
                problems.push(format!(
                    "{key}: {} cannot be appended to: {error}; SIGUSR1 could not open it anew: \
                     chown {who} {0}",
                    path.display()
                ));
            }
        }
        if let Err(error) = access(&self.needs.program, AccessFlags::R_OK | AccessFlags::X_OK) {
            problems.push(format!(
                "{} cannot be started: {error}; SIGUSR2 could start no new process: chmod a+rx {0}",
                self.needs.program.display()
            ));
        }
        if let Err(error) = File::open("/proc/self/status") {
            problems.push(format!(
                "/proc cannot be read: {error}; memory and descriptors could not be counted: mount \
                 /proc, without hidepid=4"
            ));
        }
        problems
    }
}

/// Whether files can be made there; the folder itself is made where its own folder allows it.
fn folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    Ok(access(path, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

fn purpose(key: &str) -> &'static str {
    match key {
        "tls.acme.storage" => "no certificate could be renewed",
        "log.file" | "log.access_file" => {
            "after a rotation the log could not be made anew, so give it a folder of its own"
        }
        _ => "a reload could not bind the socket anew, nor could its file be removed",
    }
}
