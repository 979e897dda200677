//! What is found while a configuration is in use.
//!
//! In go files of origins, which are looked at, and containers; out come configurations in which
//! all that lies behind what was configured. A file that cannot be used leaves what it last said.
//! Nothing is put in use here.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::AbortHandle;

use crate::config::{Config, DockerConfig, FoundUpstream, OriginConfig, origins_file};
use crate::docker::Lines;
use crate::file_stamp::Stamp;
use crate::worker::discovery::DiscoveryState;

/// What is found now.
#[derive(Default)]
pub(crate) struct Discovered {
    pub(crate) state: Arc<DiscoveryState>,
    files: HashMap<PathBuf, OriginsFile>,
    pub(super) containers: Vec<FoundUpstream>,
    pub(super) following: Option<(DockerConfig, AbortHandle)>,
    /// Of the follower whose reports count.
    pub(super) number: u64,
    /// Something was found that could not be put in use yet.
    pub(super) is_due: bool,
    pub(super) lines: Lines,
}

/// A file, and what it said when it was last right.
#[derive(Default)]
struct OriginsFile {
    seen: Sight,
    /// Seen once: it may be half written, or about to come back.
    fresh: Option<Sight>,
    good: Vec<OriginConfig>,
}

/// What there is of a file, if anything.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Sight(Option<Stamp>);

impl Discovered {
    /// Reads all files of `config` anew, and forgets all others.
    pub(crate) fn read_files(&mut self, config: &Config) {
        let wanted: BTreeSet<&Path> = config.origin_files().collect();
        self.files.retain(|path, _| wanted.contains(path.as_path()));
        self.state.keep_files(|path| wanted.contains(path));
        for path in wanted {
            let file = self.files.entry(path.to_owned()).or_default();
            file.read(path, &self.state);
        }
    }

    /// Whether a file says something else than before.
    pub(super) fn look(&mut self) -> bool {
        let mut has_changed = false;
        for (path, file) in &mut self.files {
            has_changed |= file.look(path, &self.state);
        }
        has_changed
    }

    /// Lays what is found behind what is configured.
    pub(crate) fn lay(&mut self, config: &mut Config) {
        let files = &self.files;
        let in_file = |path: &PathBuf| files.get(path).map_or(&[][..], |file| &file.good);
        let has_engine = config.docker.socket.is_some();
        let containers = if has_engine { &*self.containers } else { &[] };
        let collisions = config.lay_found(in_file, containers);
        self.lines.say(&collisions);
        self.state.set_collisions(collisions);
    }
}

impl OriginsFile {
    fn look(&mut self, path: &Path, state: &DiscoveryState) -> bool {
        let now = Sight(Stamp::of(path));
        if now == self.seen {
            self.fresh = None;
            return false;
        }
        if self.fresh != Some(now) {
            self.fresh = Some(now);
            return false;
        }
        self.fresh = None;
        self.read(path, state)
    }

    fn read(&mut self, path: &Path, state: &DiscoveryState) -> bool {
        // Before it is read, so that a change in between is seen.
        self.seen = Sight(Stamp::of(path));
        match origins_file::read(path) {
            Ok(origins) => {
                if state.set_file(path, None) {
                    tracing::info!(file = %path.display(), "the file of origins is right again");
                }
                let has_changed = origins != self.good;
                self.good = origins;
                has_changed
            }
            Err(error) => {
                let error = format!("{error:#}");
                if state.set_file(path, Some(error.clone())) {
                    let origins = self.good.len();
                    tracing::warn!(origins, "what the file last said stays: {error}");
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_bad_or_gone_leaves_what_it_said() {
        let folder = std::env::temp_dir().join(format!("ringway-found-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("origins.toml");
        let state = DiscoveryState::default();
        let mut file = OriginsFile::default();
        let looks = |file: &mut OriginsFile| file.look(&path, &state) | file.look(&path, &state);
        assert!(!looks(&mut file));
        fs::write(&path, "origins = [\"http://a\"]").unwrap();
        assert!(looks(&mut file));
        assert_eq!((file.good.len(), state.troubles()), (1, 0));
        // Half of it.
        fs::write(&path, "origins = [\"http://a\", \"http://b").unwrap();
        assert!(!looks(&mut file));
        assert_eq!((file.good.len(), state.troubles()), (1, 1));
        fs::remove_file(&path).unwrap();
        assert!(!looks(&mut file));
        assert_eq!((file.good.len(), state.troubles()), (1, 1));
        fs::write(&path, "origins = [\"http://a\", \"http://b\"]").unwrap();
        assert!(looks(&mut file));
        assert_eq!((file.good.len(), state.troubles()), (2, 0));
        fs::write(&path, "# The same.\norigins = [\"http://a\", \"http://b\"]").unwrap();
        assert!(!looks(&mut file));
        fs::remove_dir_all(folder).unwrap();
    }
}
