//! A file that may change: editors write it in place or put another one in its place, and
//! Kubernetes turns a link to it.
//!
//! In goes a path; out comes whether there is something else behind it than the last time. It is
//! looked at and not listened to, which needs no descriptor and misses no link.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// What tells one content from another, without reading either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

pub(crate) struct Watched {
    path: PathBuf,
    seen: Option<Stamp>,
    /// Seen once: it may be half written.
    fresh: Option<Stamp>,
}

impl Watched {
    pub(crate) fn new(path: PathBuf) -> Self {
        let seen = stamp(&path);
        Self { path, seen, fresh: None }
    }

    /// Whether the file is another one than before, and has been for two looks. One that has gone
    /// is as it was: another one is on its way.
    pub(crate) fn has_changed(&mut self) -> bool {
        let now = stamp(&self.path);
        if now.is_none() || now == self.seen {
            self.fresh = None;
            return false;
        }
        if now != self.fresh {
            self.fresh = now;
            return false;
        }
        self.seen = now;
        self.fresh = None;
        true
    }
}

/// The files of certificates, keys and authorities that a configuration names.
#[derive(Default)]
pub(crate) struct WatchedAll {
    list: Vec<Watched>,
}

impl WatchedAll {
    /// Watches `paths` from now on; what was watched before is not forgotten.
    pub(crate) fn follow(&mut self, paths: Vec<PathBuf>) {
        if self.list.iter().map(|watched| &watched.path).eq(paths.iter()) {
            return;
        }
        let mut before = std::mem::take(&mut self.list);
        self.list = paths
            .into_iter()
            .map(|path| match before.iter().position(|watched| watched.path == path) {
                Some(index) => before.swap_remove(index),
                None => Watched::new(path),
            })
            .collect();
    }

    /// Whether any of them has changed; one that is missing for a while is as it was.
    pub(crate) fn has_changed(&mut self) -> bool {
        // Each of them is looked at.
        let changed = self.list.iter_mut().filter_map(|it| it.has_changed().then_some(()));
        changed.count() > 0
    }
}

fn stamp(path: &PathBuf) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some(Stamp { inode: file.ino(), bytes: file.len(), changed: (file.mtime(), file.mtime_nsec()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_and_only_when_it_is_over() {
        let folder = std::env::temp_dir().join(format!("ringway-watched-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("config.toml");
        fs::write(&path, "a").unwrap();
        let mut watched = Watched::new(path.clone());
        assert!(!watched.has_changed());
        fs::write(&path, "ab").unwrap();
        assert!(!watched.has_changed());
        fs::write(&path, "abc").unwrap();
        assert!(!watched.has_changed(), "it is still being written");
        assert!(watched.has_changed());
        assert!(!watched.has_changed());
        fs::remove_file(&path).unwrap();
        assert!(!watched.has_changed() && !watched.has_changed());
        // Another file of the same length under a link.
        fs::write(folder.join("other"), "abc").unwrap();
        std::os::unix::fs::symlink(folder.join("other"), &path).unwrap();
        assert!(!watched.has_changed());
        assert!(watched.has_changed());
        fs::remove_dir_all(folder).unwrap();
    }
}
