//! Another configuration takes the place of the one in use, and no client notices.
//!
//! In goes a checked configuration; out comes what has changed, or one line that says why
//! everything is as it was. Whatever can fail is done first; then it is put in use at once, for
//! what begins from then on. Requests and tunnels under way end as they began. Listening sockets
//! and workers that are not wanted any more finish what they have.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use crate::admin::Control;
use crate::config::Config;
use crate::config::change::{self, Effect};
use crate::forward_proxy::access::Access;
use crate::hooks::{Plans, custom};
use crate::memory::{Plan, Usage};
use crate::server::listeners::NextSockets;
use crate::server::upstreams::{self, plan_upstreams};
use crate::server::{NAMES_PATIENCE, Server, load_tls, pool_limits, raise_files_limit};

use crate::observe::events;
use crate::worker::generation::{Snapshot, SnapshotParts, proxy_protocol};
use crate::worker::mailbox::{Reloaded, WorkerCommand};

/// How long a worker may take to put a configuration in use. It does so between two requests.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);
const WORKER_POLL: Duration = Duration::from_millis(1);

impl Server {
    /// Puts `config` in use. `cause` is a word or two for the log and the list of configurations.
    pub fn reload(&mut self, mut config: Config, cause: &str) -> Result<Reloaded, String> {
        let before = self.shared.snapshot.load_full();
        let waiting = keep_until_restart(&mut config, &before.config);
        self.discovered.read_files(&config);
        self.discovered.lay(&mut config);
        crate::server::fit(&mut config).map_err(|error| error.to_string())?;
        raise_files_limit(&mut config);
        self.settle_demo(&mut config).map_err(|error| error.to_string())?;
        let changes = change::diff(&before.config, &config);
        let sockets = self.sockets.prepare(&config, &mut Vec::new())?;
        let parts = self.make(config, &sockets, &before)?;
        let new_sockets = sockets.share_new()?;
        self.check_places(&parts.config)?;
        // With the configuration in use, and told of the next one like all others.
        self.grow(parts.config.server.workers).map_err(|error| error.to_string())?;
        let snapshot = Arc::new(before.next(parts));
        self.shared.snapshot.store(snapshot.clone());
        upstreams::settle(&snapshot.upstreams, true);
        self.resize(&before.config, &snapshot.config);
        self.tell_workers(&snapshot);
        for worker in self.active_workers() {
            for (index, socket) in &new_sockets {
                if let Ok(socket) = socket.try_clone() {
                    self.shared.slots[worker].send(WorkerCommand::Listen { index: *index, socket });
                }
            }
        }
        let closed = self.sockets.commit(sockets);
        for _ in snapshot.config.server.workers..self.active_workers().len() {
            self.drain_worker();
        }
        for mut listening in closed {
            listening.close(&self.shared);
        }
        self.shared.history.add(&snapshot, cause);
        // It reports by itself.
        drop(self.follow_engine(&snapshot.config.docker));
        self.announce();
        let keys: Vec<_> = changes.into_iter().map(|change| change.key).collect();
        let text = format!("generation {} in use ({cause})", snapshot.id);
        events::note(events::Kind::Configuration, &text);
        tracing::info!(generation = snapshot.id, cause, changed = keys.join(","), "reloaded");
        if !waiting.is_empty() {
            tracing::warn!(
                keys = waiting.join(","),
                "these keys keep their values until a restart, or SIGUSR2"
            );
        }
        Ok(Reloaded { generation: snapshot.id, changed: keys, waiting })
    }

    /// Puts an earlier configuration in use again: the one with the number `id`, or the last one
    /// before this.
    pub fn roll_back(&mut self, id: Option<u64>) -> Result<Reloaded, String> {
        let Some(past) = self.shared.history.find(id) else {
            let known = self.shared.history.list();
            let known: Vec<_> =
                known.iter().rev().skip(1).map(|past| past.id.to_string()).collect();
            return Err(match known.as_slice() {
                [] => "there is no earlier configuration".to_owned(),
                known => format!("no such configuration; there are {}", known.join(", ")),
            });
        };
        let outcome = self.reload((*past.config).clone(), &format!("rollback to {}", past.id))?;
        self.shared.history.keep_text(past.text);
        Ok(outcome)
    }

    /// Makes everything of `config` that can fail.
    fn make(
        &self,
        config: Config,
        sockets: &NextSockets,
        before: &Snapshot,
    ) -> Result<SnapshotParts, String> {
        self.resolver.reread(&config.dns);
        let upstreams = plan_upstreams(&config, &self.resolver, &before.upstreams)?;
        if !self.resolver.settle(NAMES_PATIENCE) {
            tracing::warn!("some names of origins are not resolved yet; going on without them");
        }
        let (listeners, numbers) = sockets.describe(&self.sockets);
        let own = listeners.iter().filter_map(|own| own.tcp()).chain(self.admin_address());
        let own: Vec<_> = own.collect();
        let access = Arc::new(Access::prepare(&config, &own, &numbers, Some(&before.access))?);
        let hooks = Arc::new(Plans::load(&config, custom::own(), Some(&before.hooks))?);
        let tls = load_tls(&config, &listeners, &numbers, before.tls.as_deref())?;
        let proxy_protocol = proxy_protocol(&config, &numbers);
        let config = Arc::new(config);
        Ok(SnapshotParts { config, upstreams, access, hooks, proxy_protocol, listeners, tls })
    }

    fn check_places(&self, config: &Config) -> Result<(), String> {
        let (wanted, slots) = (config.server.workers, self.shared.slots.len());
        if wanted > slots {
            return Err(format!(
                "server.workers = {wanted}: this process has room for {slots}; restart it, or \
                 send SIGUSR2"
            ));
        }
        Ok(())
    }

    /// Waits until every worker has put `snapshot` in use.
    pub(crate) fn tell_workers(&self, snapshot: &Arc<Snapshot>) {
        let plan = Plan::of(&snapshot.config, &Usage::read());
        let told: Vec<_> = self
            .shared
            .occupied()
            .filter_map(|worker| {
                let (reply, answer) = oneshot::channel();
                let (snapshot, budget) = (snapshot.clone(), plan.budget());
                let is_told = self.shared.slots[worker].send(WorkerCommand::Adopt {
                    snapshot,
                    budget,
                    reply,
                });
                is_told.then_some((worker, answer))
            })
            .collect();
        for (worker, mut answer) in told {
            let mut patience = WORKER_PATIENCE;
            while let Err(oneshot::error::TryRecvError::Empty) = answer.try_recv() {
                if patience.is_zero() {
                    tracing::error!(worker, "the worker has not taken the configuration yet");
                    break;
                }
                std::thread::sleep(WORKER_POLL);
                patience = patience.saturating_sub(WORKER_POLL);
            }
        }
    }

    /// Follows the limits of the whole process.
    fn resize(&self, before: &Config, after: &Config) {
        let shared = &self.shared;
        let counts = [
            (&shared.clients, before.limits.clients, after.limits.clients),
            (&shared.tunnels, before.limits.tunnels, after.limits.tunnels),
            (&shared.streams, before.limits.streams, after.limits.streams),
        ];
        for (rights, before, after) in counts {
            if let Some(debt) = resize(rights, before, after) {
                self.spawn(settle(rights.clone(), debt));
            }
        }
        shared.pool.set_limits(pool_limits(after));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(control) = &self.control {
            Control::spawn(control, task);
        }
    }
}

/// Leaves what only a restart can change as it is in `before`; the keys.
pub(super) fn keep_until_restart(config: &mut Config, before: &Config) -> Vec<String> {
    let changes = change::diff(before, config);
    let waiting: Vec<_> = changes
        .into_iter()
        .filter(|change| change.effect == Effect::Restart)
        .map(|change| change.key)
        .collect();
    if !waiting.is_empty() {
        config.buffers.chunk_bytes = before.buffers.chunk_bytes;
        config.buffers.chunks_per_worker = before.buffers.chunks_per_worker;
        config.buffers.head_buffer_bytes = before.buffers.head_buffer_bytes;
        config.log = before.log.clone();
        config.admin.enabled = before.admin.enabled;
        config.admin.address = before.admin.address.clone();
        config.admin.tls = before.admin.tls;
        // What speaks TLS until then has to have something to show.
        if config.admin.is_tls() && config.tls.certificates.is_empty() {
            config.tls.certificates.clone_from(&before.tls.certificates);
        }
    }
    waiting
}

/// Changes how many there are; how many of them are still out and have to be awaited by
/// [`settle`].
fn resize(permits: &Semaphore, before: usize, after: usize) -> Option<usize> {
    permits.add_permits(after.saturating_sub(before));
    let surplus = before.saturating_sub(after);
    let debt = surplus - permits.forget_permits(surplus);
    (debt > 0).then_some(debt)
}

/// Takes `debt` permits out of use as they come back, before a request gets them.
async fn settle(permits: Arc<Semaphore>, debt: usize) {
    let debt = u32::try_from(debt).unwrap_or(u32::MAX);
    if let Ok(permits) = permits.acquire_many_owned(debt).await {
        permits.forget();
    }
}
