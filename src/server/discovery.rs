//! What is found while a configuration is in use, and how it gets into use.
//!
//! In go files of origins, which are looked at, and what the follower of a Docker engine reports;
//! out come configurations in which that lies behind what was configured, put in use without a
//! reload: listeners, users, certificates and what operators have said stay as they are, and
//! requests under way end as they began. A file that cannot be used changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::AbortHandle;

use crate::admin::Control;
use crate::config::{Config, DockerConfig, FoundUpstream, OriginConfig, origins_file};
use crate::docker::{self, Lines};
use crate::file_stamp::Stamp;
use crate::hooks::{Plans, custom};
use crate::server::upstreams::plan_upstreams;
use crate::server::{POLL, Server, pool_limits};
use crate::worker::discovery::DiscoveryState;
use crate::worker::generation::SnapshotParts;

/// How long the start waits for the first list of an engine, which answers in milliseconds.
const ENGINE_PATIENCE: Duration = Duration::from_secs(3);

/// What is found now.
#[derive(Default)]
pub(crate) struct Discovered {
    pub(crate) state: Arc<DiscoveryState>,
    files: HashMap<PathBuf, OriginsFile>,
    containers: Vec<FoundUpstream>,
    following: Option<(DockerConfig, AbortHandle)>,
    /// Of the follower whose reports count.
    number: u64,
    /// Something was found that could not be put in use yet.
    is_due: bool,
    lines: Lines,
}

/// A file, and what it said when it was last right.
#[derive(Default)]
struct OriginsFile {
    seen: Option<Stamp>,
    /// Seen once: it may be half written, or about to come back.
    fresh: Option<Option<Stamp>>,
    good: Vec<OriginConfig>,
}

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
    fn look(&mut self) -> bool {
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
        let now = Stamp::of(path);
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
        self.seen = Stamp::of(path);
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

impl Server {
    /// Follows the engine that `config` names, and no other.
    pub(crate) fn follow_engine(&mut self, config: &DockerConfig) -> oneshot::Receiver<Found> {
        let (first, report) = oneshot::channel();
        if self.discovered.following.as_ref().is_some_and(|(known, _)| known == config) {
            return report;
        }
        if let Some((_, task)) = self.discovered.following.take() {
            task.abort();
        }
        self.discovered.number += 1;
        if config.socket.is_none() {
            self.discovered.containers.clear();
            self.discovered.state.forget_engine();
        } else if let Some(control) = &self.control {
            let (shared, number) = (self.shared.clone(), self.discovered.number);
            let task = Control::spawn(control, docker::run(config.clone(), number, shared, first));
            self.discovered.following = Some((config.clone(), task));
        }
        report
    }

    /// Begins to follow the engine, and waits for what it has.
    pub(crate) fn await_engine(&mut self) {
        let config = self.config();
        if config.docker.socket.is_none() {
            return;
        }
        let mut report = self.follow_engine(&config.docker);
        let deadline = Instant::now() + ENGINE_PATIENCE;
        loop {
            match report.try_recv() {
                Ok(upstreams) => return self.found(self.discovered.number, upstreams),
                // The follower has said why.
                Err(TryRecvError::Closed) => return,
                Err(TryRecvError::Empty) if Instant::now() < deadline => std::thread::sleep(POLL),
                Err(TryRecvError::Empty) => {
                    return tracing::warn!("the Docker engine takes long; starting without it");
                }
            }
        }
    }

    /// The follower with this number has found these.
    pub(crate) fn found(&mut self, number: u64, upstreams: Found) {
        if number == self.discovered.number {
            self.discovered.containers = upstreams;
            self.rediscover();
        }
    }

    /// Looks at the files of origins.
    pub(crate) fn look_for_origins(&mut self) {
        if self.discovered.look() || self.discovered.is_due {
            self.rediscover();
        }
    }

    /// Puts what is found now in use. What cannot be put in use is tried again with the next look.
    fn rediscover(&mut self) {
        let outcome = self.put_found();
        if let Err(error) = &outcome
            && !self.discovered.is_due
        {
            tracing::error!("what was found cannot be put in use yet: {error}");
        }
        self.discovered.is_due = outcome.is_err();
    }

    fn put_found(&mut self) -> Result<(), String> {
        let before = self.shared.snapshot.load_full();
        let mut config = (*before.config).clone();
        self.discovered.lay(&mut config);
        if config == *before.config {
            return Ok(());
        }
        let upstreams = plan_upstreams(&config, &self.resolver, &before.upstreams, false)?;
        let hooks = Arc::new(Plans::load(&config, custom::own(), Some(&before.hooks))?);
        let parts = SnapshotParts {
            config: Arc::new(config),
            upstreams,
            access: before.access.clone(),
            hooks,
            proxy_protocol: before.proxy_protocol.clone(),
            listeners: before.listeners.clone(),
            tls: before.tls.clone(),
        };
        let snapshot = Arc::new(before.next(parts));
        self.shared.snapshot.store(snapshot.clone());
        self.shared.pool.set_limits(pool_limits(&snapshot.config));
        self.tell_workers(&snapshot);
        self.tell_changes(&before.config, &snapshot.config);
        Ok(())
    }

    /// Says which origins have come and gone.
    fn tell_changes(&mut self, before: &Config, now: &Config) {
        let (old, new) = (origins_by_upstream(before), origins_by_upstream(now));
        let none = BTreeSet::new();
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let (old, new) = (old.get(name).unwrap_or(&none), new.get(name).unwrap_or(&none));
            let list = |urls: Vec<&String>| {
                urls.into_iter().map(String::as_str).collect::<Vec<_>>().join(",")
            };
            let (came, went) = (new.difference(old).collect(), old.difference(new).collect());
            let (came, went) = (list(came), list(went));
            if (!came.is_empty() || !went.is_empty()) && self.discovered.lines.may_say() {
                tracing::info!(name, came, went, "origins found");
            }
        }
    }
}

/// What an engine has: all upstreams.
type Found = Vec<FoundUpstream>;

fn origins_by_upstream(config: &Config) -> BTreeMap<String, BTreeSet<String>> {
    let of = |upstream: &crate::config::UpstreamConfig| {
        (upstream.name.clone(), upstream.all_origins().map(OriginConfig::url).collect())
    };
    config.upstreams.iter().map(of).collect()
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
