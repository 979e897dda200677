//! The configurations that were in use, and the file that they come from.
//!
//! In goes each configuration that is put in use, with what the file said then; out come earlier
//! ones, and the file as it was when one of them was read. Nothing is put in use here.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::generation::Snapshot;
use crate::config::Config;

/// The last configurations that were in use, the newest at the end, and the file that they are
/// read from.
pub(crate) struct History {
    /// Absolute; `None` where there is none, but flags and defaults.
    pub file: Option<PathBuf>,
    entries: Mutex<VecDeque<HistoryEntry>>,
}

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// `None` where there is no file, but flags and defaults.
    pub file: Option<PathBuf>,
    /// What it said.
    pub text: Option<Arc<str>>,
}

/// A configuration that is or was in use.
#[derive(Clone)]
pub(crate) struct HistoryEntry {
    pub id: u64,
    pub since: SystemTime,
    /// What it came from: `start`, `reload`, or `rollback to N`.
    pub cause: String,
    pub config: Arc<Config>,
    /// What the file said, where it came from there.
    pub text: Option<Arc<str>>,
}

/// How many are kept.
const HISTORY_MAX: usize = 10;

impl History {
    pub(crate) fn new(first: &Snapshot, source: Source) -> Self {
        let file = source.file.map(|file| std::path::absolute(&file).unwrap_or(file));
        let history = Self { file, entries: Mutex::default() };
        history.add(first, "start");
        history.keep_text(source.text);
        history
    }

    pub(crate) fn add(&self, snapshot: &Snapshot, cause: &str) {
        let mut list = self.lock();
        let text = list.back().and_then(|before| before.text.clone());
        list.push_back(HistoryEntry {
            id: snapshot.id,
            since: SystemTime::now(),
            cause: cause.to_owned(),
            config: snapshot.config.clone(),
            // What has not been read anew is what the file said.
            text,
        });
        let surplus = list.len().saturating_sub(HISTORY_MAX);
        list.drain(..surplus);
    }

    /// Keeps what the file said when the newest configuration was read.
    pub(crate) fn keep_text(&self, text: Option<Arc<str>>) {
        if let Some(newest) = self.lock().back_mut() {
            newest.text = text;
        }
    }

    /// Whether the file says something else than the newest configuration. `None` where that
    /// cannot be known.
    pub(crate) fn is_file_other(&self) -> Option<bool> {
        let text = self.lock().back()?.text.clone()?;
        let now = fs::read_to_string(self.file.as_ref()?).ok()?;
        Some(now.trim_start_matches('\u{feff}') != &*text)
    }

    /// Writes the newest configuration to the file, as it was read; where it is now.
    pub(crate) fn save(&self) -> Result<PathBuf, String> {
        let file = self.file.as_ref().ok_or("there is no file: it was started with flags alone")?;
        let text = self.lock().back().and_then(|newest| newest.text.clone());
        let text = text.ok_or("that configuration has not come from the file")?;
        // Where it leads to, if it is a link.
        let place = fs::canonicalize(file).unwrap_or_else(|_| file.clone());
        replace(&place, text.as_bytes())
            .map_err(|error| format!("{}: {error}", place.display()))?;
        Ok(place)
    }

    /// The one with this number; without one, the last that was in use before the newest.
    pub(crate) fn find(&self, id: Option<u64>) -> Option<HistoryEntry> {
        let list = self.lock();
        let mut earlier = list.iter().rev().skip(1);
        earlier.find(|entry| id.is_none_or(|id| entry.id == id)).cloned()
    }

    pub(crate) fn list(&self) -> Vec<HistoryEntry> {
        self.lock().iter().cloned().collect()
    }

    /// A panic elsewhere leaves a list that is still true.
    fn lock(&self) -> MutexGuard<'_, VecDeque<HistoryEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts another content in the place of a file at once, so that no reader sees half of it.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let write = || {
        let mut file = fs::File::create(&beside)?;
        // Who may read it stays as it is: it may hold secrets.
        if let Ok(before) = fs::metadata(path) {
            file.set_permissions(before.permissions())?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&beside)))
}
