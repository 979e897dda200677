//! Containers that want to be served, found by asking a Docker engine.
//!
//! In goes `[docker]`; out come, whenever something has changed, all upstreams that there are
//! now, and what is wrong with the labels of others. The list is asked for anew after each event,
//! after each loss of the connection and now and then, because events may be lost; an engine that
//! does not answer leaves everything as it was. It runs on the control thread: no worker waits for
//! it.

mod containers;
mod engine;
mod lines;

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use self::containers::{Listed, own_id};
use self::engine::{Engine, Event, Events};
pub(crate) use self::lines::Lines;
use crate::config::{DockerConfig, FoundUpstream};
use crate::worker::mailbox::ServerCommand;
use crate::worker::shared::Shared;

/// Between two lists, however many events there are.
const LISTS_APART: Duration = Duration::from_millis(500);

/// Without any event, the list is asked for this often.
const LIST_EVERY: Duration = Duration::from_secs(30);

/// How long a container that has been told to stop is passed over while it is still listed: the
/// engine waits 10 s before it kills.
const STOPPING: Duration = Duration::from_secs(15);

/// So many of them are remembered.
const STOPPING_MAX: usize = 1000;

/// Between attempts that fail: 1, 2, 4 ... seconds, up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Follows the engine of `config` for as long as the process wants to. `number` tells what this one
/// finds from what an earlier one has found; what it finds at `first` may be waited for.
pub(crate) async fn run(
    config: DockerConfig,
    number: u64,
    shared: Arc<Shared>,
    first: oneshot::Sender<Vec<FoundUpstream>>,
) {
    let Some(socket) = config.socket.clone() else { return };
    let mut follower = Follower {
        engine: Engine::new(socket),
        network: config.network,
        number,
        shared,
        reported: None,
        first: Some(first),
        stopping: HashMap::new(),
        lines: Lines::default(),
    };
    let mut failures = 0;
    loop {
        let Err(error) = follower.follow(&mut failures).await;
        if failures == 0 {
            let socket = follower.engine.socket().display();
            tracing::warn!(%socket, "the Docker engine cannot be followed: {error}");
        } else {
            tracing::debug!("the Docker engine still cannot be followed: {error}");
        }
        follower.shared.discovery.set_engine(Some(error));
        // Whoever waits for it waits in vain.
        follower.first = None;
        failures += 1;
        tokio::time::sleep(backoff(failures)).await;
    }
}

fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(5);
    (Duration::from_secs(1) * (1 << doublings)).min(BACKOFF_MAX)
}

struct Follower {
    engine: Engine,
    /// Of the configuration.
    network: String,
    number: u64,
    shared: Arc<Shared>,
    reported: Option<Vec<FoundUpstream>>,
    first: Option<oneshot::Sender<Vec<FoundUpstream>>>,
    /// Containers that have been told to stop, and when.
    stopping: HashMap<String, Instant>,
    lines: Lines,
}

impl Follower {
    /// Follows one connection to its end.
    async fn follow(&mut self, failures: &mut u32) -> Result<Infallible, String> {
        // Before the list: what happens in between is an event.
        let mut events = self.engine.events().await?;
        let near = self.own_networks().await;
        loop {
            let began = Instant::now();
            self.list(&near).await?;
            if std::mem::take(failures) > 0 || self.shared.discovery.is_engine_lost() {
                tracing::info!("the Docker engine is followed");
                self.shared.discovery.set_engine(None);
            }
            self.wait(&mut events, began).await?;
        }
    }

    /// Waits until the list has to be asked for again, which is not sooner than `LISTS_APART` after
    /// it was. Events are read all the while: an engine may end a connection that is not read from.
    async fn wait(&mut self, events: &mut Events, began: Instant) -> Result<(), String> {
        // Whoever has not stopped by then is served again.
        let back = self.stopping.values().min().map(|since| *since + STOPPING);
        let mut until = (began + LIST_EVERY).min(back.unwrap_or(began + LIST_EVERY));
        until = until.max(began + LISTS_APART);
        loop {
            match tokio::time::timeout_at(until, events.next()).await {
                Ok(event) => {
                    match event? {
                        Event::Stopping(id) if self.stopping.len() < STOPPING_MAX => {
                            self.stopping.insert(id, Instant::now());
                        }
                        Event::Settled(id) => drop(self.stopping.remove(&id)),
                        Event::Stopping(_) | Event::Other => {}
                    }
                    until = until.min(began + LISTS_APART);
                }
                Err(_) => return Ok(()),
            }
        }
    }

    /// The networks that ringway is in, if it is in a container of this engine.
    async fn own_networks(&self) -> BTreeSet<String> {
        let Some(id) = own_id() else { return BTreeSet::new() };
        match self.engine.get(&format!("/containers/{id}/json")).await {
            Ok(answer) => containers::networks_of(&answer),
            // It runs somewhere else.
            Err(_) => BTreeSet::new(),
        }
    }

    async fn list(&mut self, near: &BTreeSet<String>) -> Result<(), String> {
        let answer = self.engine.get(engine::LIST).await?;
        self.stopping.retain(|_, since| since.elapsed() < STOPPING);
        let stopping = &self.stopping;
        let Listed { upstreams, refused } =
            containers::listed(&answer, (&self.network, near), |id| stopping.contains_key(id))?;
        self.lines.say(&refused);
        self.shared.discovery.set_refused(refused);
        if self.reported.as_ref() != Some(&upstreams) {
            self.report(upstreams);
        }
        Ok(())
    }

    fn report(&mut self, upstreams: Vec<FoundUpstream>) {
        self.reported = Some(upstreams.clone());
        let left = match self.first.take() {
            Some(first) => first.send(upstreams).err(),
            None => Some(upstreams),
        };
        if let Some(upstreams) = left {
            let command = ServerCommand::Found { number: self.number, upstreams };
            // A server that ends wants to know nothing more.
            let _ = self.shared.server_commands.send(command);
        }
    }
}

/// Whether an engine could be asked at `socket` now, for those who check a configuration.
pub(crate) fn obstacle(socket: &Path) -> Option<String> {
    let error = std::os::unix::net::UnixStream::connect(socket).err()?;
    Some(format!("docker.socket: {}: {error}", socket.display()))
}
