//! A server of one worker, on the thread that calls: for whoever has the world around it in hand.
//!
//! In goes a configuration; the worker accepts, serves and drains as the threads of a [`Server`]
//! do, by an epoll set, and out comes what was left of it. The names of its origins are kept
//! current on the same thread, and its memory is watched when the caller says so. No other thread
//! is started for it, the machine's own limits do not concern it, and nothing is written: there is
//! neither an administration nor a log of requests.
//!
//! [`Server`]: super::Server

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc as queue, oneshot};

use crate::config::Config;
use crate::downstream;
use crate::forward_proxy::access::Access;
use crate::hooks::{Plans, custom};
use crate::ledger::{Budget, Level};
use crate::memory::watch::{Reading, Watch};
use crate::memory::{Plan, Usage, plan};
use crate::ring::clock;
use crate::ring::driver::Driver;
use crate::server::listeners::Sockets;
use crate::server::reload::keep_until_restart;
use crate::server::upstreams::{self, plan_upstreams};
use crate::server::{LAST_ACCEPTED, pool_limits, share};
use crate::upstream::UpstreamPlan;
use crate::upstream::resolver::Resolver;
use crate::worker::generation::{Snapshot, SnapshotParts, proxy_protocol};
use crate::worker::history::Source;
use crate::worker::mailbox::{Cleaned, WorkerCommand};
use crate::worker::shared::{Shared, WorkerHandle};
use crate::worker::thread::{self, DrainReport, WorkerPlan};

/// Its slot.
const INDEX: usize = 0;

/// The machine has what the configuration wants.
const ROOMY: Usage =
    Usage { rss_bytes: 0, cgroup_limit: None, cgroup_usage: None, address_limit: None };

/// The server, before and while it runs.
pub struct Alone {
    sockets: RefCell<Sockets>,
    shared: Arc<Shared>,
    resolver: Resolver,
    /// Keeps names current, until it runs with the worker.
    names: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    watch: RefCell<Watch>,
    cleanups: RefCell<Vec<oneshot::Receiver<Cleaned>>>,
    purse_bytes: Cell<u64>,
    /// The largest share that a configuration has allowed.
    share_bytes: Cell<u64>,
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

/// What a look at memory has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// `normal`, `light` or `forced`.
    pub pressure: &'static str,
    /// `light` or `forced`, where a cleanup was begun.
    pub cleanup: Option<&'static str>,
}

/// What cleanups have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    pub idle: usize,
    pub clients: usize,
    pub transfers: usize,
}

impl Alone {
    /// Binds what the configuration `text` names, and lets nobody in yet.
    pub fn new(text: &str) -> Result<Self, String> {
        let config = read(text, None)?;
        let mut sockets = Sockets::default();
        let next = sockets.prepare(&config, &mut Vec::new())?;
        sockets.commit(next);
        let made = Resolver::without_thread(&config.dns);
        let (resolver, names) = made.map_err(|error| error.to_string())?;
        let watch = watch(&config);
        let parts = plan(config, &sockets, &resolver, None)?;
        let (shared, ..) = share(parts, Arc::default(), Source::default());
        Ok(Self {
            sockets: RefCell::new(sockets),
            shared,
            resolver,
            names: RefCell::new(Some(Box::pin(names))),
            watch: RefCell::new(watch),
            cleanups: RefCell::default(),
            purse_bytes: Cell::new(u64::MAX),
            share_bytes: Cell::new(0),
        })
    }

    /// Serves until all is drained.
    pub fn run(&self) -> DrainReport {
        let shared = self.shared.clone();
        let (inbox, inboxes) = queue::unbounded_channel();
        let (sender, commands) = queue::unbounded_channel();
        let plan = WorkerPlan {
            index: INDEX,
            driver: Driver::Epoll,
            access_log: None,
            shared: shared.clone(),
            budget: self.budget(),
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
        let names = self.names.take();
        thread::run(plan, downstream::serve, move |_| {
            if let Some(names) = names {
                tokio::task::spawn_local(names);
            }
            activated.slots[INDEX].activate();
        })
    }

    /// Puts another configuration in use, which listens where this one does.
    pub fn reload(&self, text: &str) -> Result<(), String> {
        let before = self.shared.snapshot.load_full();
        let config = read(text, Some(&before.config))?;
        if config.memory != before.config.memory {
            self.watch.replace(watch(&config));
        }
        self.resolver.reread(&config.dns);
        let parts = plan(config, &self.sockets.borrow(), &self.resolver, Some(&before))?;
        let snapshot = Arc::new(before.next(parts));
        self.shared.snapshot.store(snapshot.clone());
        upstreams::settle(&snapshot.upstreams, true);
        self.shared.pool.set_limits(pool_limits(&snapshot.config));
        self.adopt();
        Ok(())
    }

    /// Leaves the worker `bytes` for what it did not promise, of what the configuration allows.
    pub fn set_purse(&self, bytes: u64) {
        self.purse_bytes.set(bytes);
        self.adopt();
    }

    fn adopt(&self) {
        let (snapshot, budget) = (self.shared.snapshot.load_full(), self.budget());
        let (reply, _) = oneshot::channel();
        self.shared.slots[INDEX].send(WorkerCommand::Adopt { snapshot, budget, reply });
    }

    fn budget(&self) -> Budget {
        let config = &self.shared.snapshot.load().config;
        let budget = Plan::of(config, &ROOMY).budget();
        self.share_bytes.set(self.share_bytes.get().max(budget.share_bytes()));
        budget.with_purse(self.purse_bytes.get())
    }

    /// What the worker's ledger adds up to, and what it may come to at most.
    pub fn memory(&self) -> (u64, u64) {
        (self.shared.ledgers.workers()[INDEX].total(), self.share_bytes.get())
    }

    /// Judges memory as the control thread does, where the process occupies `rss_bytes`.
    pub fn watch_memory(&self, rss_bytes: u64) -> Judged {
        let (at_ms, ledger_bytes) = (clock::coarse_ms(), self.shared.ledgers.total());
        let reading = Reading { at_ms, ledger_bytes, rss_bytes };
        let action = self.watch.borrow_mut().step(reading);
        self.shared.pressure.set(action.pressure);
        if let Some(level) = action.clean {
            let (reply, answer) = oneshot::channel();
            self.shared.slots[INDEX].send(WorkerCommand::Clean { level, reply });
            self.cleanups.borrow_mut().push(answer);
        }
        let (pressure, cleanup) = (action.pressure.name(), action.clean.map(Level::name));
        Judged { pressure, cleanup }
    }

    /// What the cleanups have done that have ended since the last time.
    pub fn freed(&self) -> Freed {
        let mut freed = Freed::default();
        self.cleanups.borrow_mut().retain_mut(|cleanup| match cleanup.try_recv() {
            Ok(cleaned) => {
                freed.idle += cleaned.closed_idle;
                freed.clients += cleaned.closed_clients;
                freed.transfers += cleaned.cut_transfers;
                false
            }
            Err(error) => error == oneshot::error::TryRecvError::Empty,
        });
        freed
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

    /// What is held of what the configuration with which it began allows.
    pub fn held(&self) -> Held {
        let (shared, config) = (&self.shared, self.shared.snapshot.load().config.clone());
        let ledger = shared.ledgers.by_kind().into_iter();
        let ledger = ledger.filter(|(_, bytes)| *bytes > 0);
        let last = if shared.is_closing.load(Ordering::Acquire) { LAST_ACCEPTED } else { 0 };
        Held {
            ledger: ledger.map(|(kind, bytes)| (kind.name(), bytes)).collect(),
            origin_connections: shared.pool.open(),
            idle_origin_connections: shared.pool.idle(),
            waiting_for_origins: shared.pool.waiting(),
            long_answers: shared.pool.long(),
            clients: (config.limits.clients + last).abs_diff(shared.clients.available_permits()),
            tunnels: config.limits.tunnels.abs_diff(shared.tunnels.available_permits()),
            streams: config.limits.streams.abs_diff(shared.streams.available_permits()),
            live: shared.live.iter().map(|live| live.load(Ordering::Relaxed)).sum(),
        }
    }
}

/// A configuration that takes the place of the one `before`, and fits in the memory that it names.
fn read(text: &str, before: Option<&Config>) -> Result<Config, String> {
    let read = Config::of_text(Path::new("given"), text);
    let (mut config, _) = read.map_err(|error| error.to_string())?;
    if let Some(before) = before {
        keep_until_restart(&mut config, before);
    }
    Plan::fit(&mut config, &ROOMY, true, true).map_err(|error| error.to_string())?;
    Ok(config)
}

fn watch(config: &Config) -> Watch {
    Watch::new(plan::thresholds(&config.memory), config.memory.check_interval)
}

fn plan(
    config: Config,
    sockets: &Sockets,
    resolver: &Resolver,
    before: Option<&Snapshot>,
) -> Result<SnapshotParts, String> {
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
