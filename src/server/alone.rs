//! A server of one worker, on the thread that calls: for whoever has the world around it in hand.
//!
//! In goes a configuration; the worker accepts, serves and drains as the threads of a [`Server`]
//! do, by an epoll set, and out comes what was left of it. No other thread is started for it, and
//! nothing is written: there is neither an administration nor a log of requests.
//!
//! [`Server`]: super::Server

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc as queue, oneshot};

use crate::config::Config;
use crate::downstream;
use crate::forward_proxy::access::Access;
use crate::hooks::{Plans, custom};
use crate::memory::{Plan, Usage};
use crate::ring::driver::Driver;
use crate::server::listeners::Sockets;
use crate::server::upstreams::{self, plan_upstreams};
use crate::server::{LAST_ACCEPTED, pool_limits, share};
use crate::upstream::UpstreamPlan;
use crate::upstream::resolver::Resolver;
use crate::worker::generation::{Snapshot, SnapshotParts, proxy_protocol};
use crate::worker::history::Source;
use crate::worker::mailbox::WorkerCommand;
use crate::worker::shared::{Shared, WorkerHandle};
use crate::worker::thread::{self, DrainReport, WorkerPlan};

/// Its slot.
const INDEX: usize = 0;

/// The one of all of them: it has a thread.
static RESOLVER: OnceLock<Resolver> = OnceLock::new();

/// The server, before and while it runs.
pub struct Alone {
    sockets: RefCell<Sockets>,
    shared: Arc<Shared>,
}

/// What is held after the end; all of it zero unless something leaked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Kinds of the ledger with their bytes.
    pub ledger: Vec<(&'static str, u64)>,
    pub origin_connections: usize,
    pub idle_origin_connections: usize,
    pub waiting_for_origins: usize,
    pub long_answers: usize,
    pub clients: usize,
    pub tunnels: usize,
    pub streams: usize,
    pub live: usize,
}

impl Alone {
    /// Starts what is shared by all of a process. To be called before the first of them.
    pub fn prepare() -> Result<(), String> {
        let (config, _) = Config::of_text(Path::new("nothing"), "").map_err(|e| e.to_string())?;
        let resolver = Resolver::start(&config.dns).map_err(|error| error.to_string())?;
        let _ = RESOLVER.set(resolver);
        Ok(())
    }

    /// Binds what the configuration `text` names, and lets nobody in yet.
    pub fn new(text: &str) -> Result<Self, String> {
        let config = read(text)?;
        let mut sockets = Sockets::default();
        let next = sockets.prepare(&config, &mut Vec::new())?;
        sockets.commit(next);
        let parts = plan(config, &sockets, None)?;
        let (shared, ..) = share(parts, Arc::default(), Source::default());
        Ok(Self { sockets: RefCell::new(sockets), shared })
    }

    /// Serves until all is drained.
    pub fn run(&self) -> DrainReport {
        let shared = self.shared.clone();
        let config = shared.snapshot.load().config.clone();
        let (inbox, inboxes) = queue::unbounded_channel();
        let (sender, commands) = queue::unbounded_channel();
        let plan = WorkerPlan {
            index: INDEX,
            driver: Driver::Epoll,
            access_log: None,
            shared: shared.clone(),
            budget: Plan::of(&config, &Usage::read()).budget(),
            inbox: inboxes,
            commands,
        };
        let slot = &shared.slots[INDEX];
        slot.occupy(WorkerHandle { inbox, commands: sender });
        for (index, socket) in self.sockets.borrow().share().unwrap_or_default() {
            slot.send(WorkerCommand::Listen { index, socket });
        }
        shared.is_ready.store(true, Ordering::Release);
        let activated = shared.clone();
        thread::run(plan, downstream::serve, move |_| activated.slots[INDEX].activate())
    }

    /// Puts another configuration in use, which listens where this one does.
    pub fn reload(&self, text: &str) -> Result<(), String> {
        let before = self.shared.snapshot.load_full();
        let parts = plan(read(text)?, &self.sockets.borrow(), Some(&before))?;
        let snapshot = Arc::new(before.next(parts));
        self.shared.snapshot.store(snapshot.clone());
        upstreams::settle(&snapshot.upstreams, true);
        self.shared.pool.set_limits(pool_limits(&snapshot.config));
        let budget = Plan::of(&snapshot.config, &Usage::read()).budget();
        let (reply, _) = oneshot::channel();
        self.shared.slots[INDEX].send(WorkerCommand::Adopt { snapshot, budget, reply });
        Ok(())
    }

    /// Begins the drain, as `Server::drain` does.
    pub fn drain(&self) {
        self.shared.is_ready.store(false, Ordering::Release);
        self.shared.clients.add_permits(LAST_ACCEPTED);
        self.shared.is_closing.store(true, Ordering::Release);
        self.sockets.borrow_mut().close(&self.shared);
        self.shared.is_draining.store(true, Ordering::Release);
        self.shared.drain[INDEX].notify_one();
    }

    /// Its time is up: what has not ended is cut.
    pub fn cut(&self) {
        self.shared.is_cutting.store(true, Ordering::Release);
        self.shared.drain[INDEX].notify_one();
    }

    /// What is held of what the configuration with which it began allows. To be asked after the
    /// drain.
    pub fn held(&self) -> Held {
        let (shared, config) = (&self.shared, self.shared.snapshot.load().config.clone());
        let ledger = shared.ledgers.by_kind().into_iter();
        let ledger = ledger.filter(|(_, bytes)| *bytes > 0);
        Held {
            ledger: ledger.map(|(kind, bytes)| (kind.name(), bytes)).collect(),
            origin_connections: shared.pool.open(),
            idle_origin_connections: shared.pool.idle(),
            waiting_for_origins: shared.pool.waiting(),
            long_answers: shared.pool.long(),
            clients: (config.limits.clients + LAST_ACCEPTED)
                .abs_diff(shared.clients.available_permits()),
            tunnels: config.limits.tunnels.abs_diff(shared.tunnels.available_permits()),
            streams: config.limits.streams.abs_diff(shared.streams.available_permits()),
            live: shared.live.iter().map(|live| live.load(Ordering::Relaxed)).sum(),
        }
    }
}

fn read(text: &str) -> Result<Config, String> {
    let config = Config::of_text(Path::new("given"), text);
    config.map(|(config, _)| config).map_err(|error| error.to_string())
}

fn plan(
    config: Config,
    sockets: &Sockets,
    before: Option<&Snapshot>,
) -> Result<SnapshotParts, String> {
    let resolver = RESOLVER.get().ok_or("prepare has not been called")?;
    let known: &[UpstreamPlan] = before.map_or(&[], |before| &before.upstreams);
    let upstreams = plan_upstreams(&config, resolver, known)?;
    upstreams::settle(&upstreams, false);
    let (listeners, numbers) = (sockets.addresses(), sockets.numbers());
    let own: Vec<_> = listeners.iter().filter_map(|own| own.tcp()).collect();
    let access = Access::prepare(&config, &own, &numbers, before.map(|it| &*it.access))?;
    let hooks = Plans::load(&config, custom::own(), before.map(|it| &*it.hooks))?;
    let proxy_protocol = proxy_protocol(&config, &numbers);
    let (config, hooks, access) = (Arc::new(config), Arc::new(hooks), Arc::new(access));
    Ok(SnapshotParts { config, upstreams, access, hooks, proxy_protocol, listeners, tls: None })
}
