//! A file that may change: editors write it in place or put another one in its place, and
//! Kubernetes turns a link to it.
//!
//! In goes a path; out comes whether there is something else behind it than the last time. It is
//! looked at and not listened to, which needs no descriptor and misses no link.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::file_stamp::Stamp;
use crate::forward_proxy::lists;

pub(crate) struct Watched {
    pub path: PathBuf,
    seen: Option<Stamp>,
    /// Seen once: it may be half written.
    fresh: Option<Stamp>,
}

impl Watched {
    pub(crate) fn new(path: PathBuf) -> Self {
        let seen = Stamp::of(&path);
        Self { path, seen, fresh: None }
    }

    /// Whether the file is another one than before, and has been for two looks. One that has gone
    /// is as it was: another one is on its way.
    pub(crate) fn has_changed(&mut self) -> bool {
        let now = Stamp::of(&self.path);
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

/// Looks after the files that `config` names, and no others.
pub(crate) fn follow(followed: &mut HashMap<PathBuf, Watched>, config: &Config) {
    let tls = config.tls_files();
    let wanted: Vec<&Path> =
        lists::followed(config).chain(tls.iter().map(PathBuf::as_path)).collect();
    followed.retain(|path, _| wanted.contains(&path.as_path()));
    for path in wanted {
        let watched = followed.entry(path.to_owned());
        watched.or_insert_with(|| Watched::new(path.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
