//! What is found while a configuration is in use, and how it gets into use.
//!
//! In go looks at files, and what the follower of a Docker engine reports; out come configurations
//! that are put in use without a reload: listeners, users, certificates and what operators have
//! said stay as they are, and requests under way end as they began. Nothing here decides what is
//! found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::admin::Control;
use crate::config::{Config, DockerConfig, FoundUpstream, OriginConfig, UpstreamConfig};
use crate::docker;
use crate::hooks::{Plans, custom};
use crate::server::upstreams::{self, plan_upstreams};
use crate::server::{POLL, Server, pool_limits};
use crate::worker::generation::SnapshotParts;

/// How long the start waits for the first list of an engine, which answers in milliseconds.
const ENGINE_PATIENCE: Duration = Duration::from_secs(3);

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
        let upstreams = plan_upstreams(&config, &self.resolver, &before.upstreams)?;
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
        upstreams::settle(&snapshot.upstreams, false);
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
    let of = |upstream: &UpstreamConfig| {
        (upstream.name.clone(), upstream.all_origins().map(OriginConfig::url).collect())
    };
    config.upstreams.iter().map(of).collect()
}
