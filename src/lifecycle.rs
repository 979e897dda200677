//! A process from its start to its end: what signals, the admin API and the configuration file ask
//! of it meanwhile.
//!
//! In go a configuration and the way to read it again; out comes the word that all is over, or one
//! line that says why it could not start. SIGTERM and SIGINT end it, a second one at once; SIGHUP
//! reads the configuration again, SIGUSR1 opens the log files anew, SIGUSR2 has a new process take
//! over. One thing is done at a time, in the order in which it was asked for.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::ask::{Order, Reloaded};
use crate::config::{Config, ConfigError};
use crate::handover::{self, Successor};
use crate::inherited;
use crate::logging;
use crate::memory::Notice;
use crate::server::{self, Estate, Server};
use crate::supervisor;
use crate::watched::Watched;

/// What a process is started with.
pub struct Life {
    pub config: Config,
    /// What is to be said about the configuration once there is a log.
    pub notices: Vec<Notice>,
    /// Reads the configuration again, from where it came.
    pub load: Box<dyn Fn() -> Result<Config, ConfigError>>,
    /// The file that it came from, if any.
    pub file: Option<PathBuf>,
}

/// How often the configuration file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Serves until somebody ends it. The error is one line with cause and cure.
pub fn run(life: Life) -> Result<(), String> {
    let Life { config, notices, load, file } = life;
    // Before anything else opens a descriptor or starts a thread.
    let program = std::env::current_exe().map_err(|error| format!("who am I: {error}"))?;
    let (mut estate, predecessor) = match handover::receive()? {
        Some((estate, predecessor)) => (estate, Some(predecessor)),
        None => (Estate { listeners: inherited::take()?, ..Estate::default() }, None),
    };
    let log = logging::start(&config.log).map_err(|error| error.to_string())?;
    estate.events = Some(log.meter());
    // Registered before anything listens: who sees us ready may tell us to stop.
    let mut ears = Ears::open().map_err(|error| error.to_string())?;
    for Notice(text) in &notices {
        tracing::warn!("{text}");
    }
    let server = Server::start(config, estate).map_err(|error| error.to_string())?;
    if let Some(predecessor) = predecessor {
        predecessor.take_over();
    }
    supervisor::ready();
    let mut process = Process { server, load, watched: file.map(Watched::new), program };
    let successor = process.live(&mut ears);
    if successor == server::Successor::None {
        supervisor::stopping();
    }
    tracing::info!("stopping: no new connections, waiting for what is under way");
    let hurry = Arc::new(AtomicBool::new(false));
    let impatient = hurry.clone();
    std::thread::spawn(move || {
        ears.wait_for_stop();
        impatient.store(true, Ordering::Relaxed);
    });
    let remains = process.server.drain(&hurry, successor);
    tracing::info!(
        connections = remains.connections,
        leased_chunks = remains.leased_chunks,
        leased_heads = remains.leased_heads,
        upstream_connections = remains.upstream_connections,
        "stopped"
    );
    drop(log);
    Ok(())
}

struct Process {
    server: Server,
    load: Box<dyn Fn() -> Result<Config, ConfigError>>,
    watched: Option<Watched>,
    /// Found before anybody puts another file in its place.
    program: PathBuf,
}

type Reply = oneshot::Sender<Result<Reloaded, String>>;

impl Process {
    /// Does what it is asked to until it is to end; who goes on in its place.
    fn live(&mut self, ears: &mut Ears) -> server::Successor {
        let mut is_upgrading = false;
        loop {
            match ears.hear(&mut self.server.orders) {
                Event::Stop => return server::Successor::None,
                Event::Reopen => reopen_logs(),
                Event::Reload => drop(self.reload("SIGHUP")),
                Event::Order(order) => self.obey(order),
                Event::Look => self.look(),
                Event::Upgrade if is_upgrading => {
                    tracing::warn!("a new process is being started already");
                }
                Event::Upgrade => is_upgrading = self.upgrade(ears.upgraded.clone()),
                Event::Upgraded(Ok(pid)) => {
                    tracing::info!(pid, "a new process has taken over");
                    // From us, because the manager listens to the main process only.
                    supervisor::main_pid(pid);
                    return server::Successor::Ready;
                }
                Event::Upgraded(Err(error)) => {
                    is_upgrading = false;
                    tracing::error!("no upgrade, this process goes on: {error}");
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        // Who asked may have given up.
        let answer = |reply: Reply, outcome| drop(reply.send(outcome));
        match order {
            Order::Reload { reply } => answer(reply, self.reload("admin API")),
            Order::Rollback { id, reply } => {
                let outcome = self.server.roll_back(id);
                answer(reply, self.say(outcome));
            }
        }
    }

    fn reload(&mut self, cause: &str) -> Result<Reloaded, String> {
        supervisor::reloading();
        let loaded = (self.load)().map_err(|error| format!("{error:#}"));
        let outcome = loaded.and_then(|config| self.server.reload(config, cause));
        let outcome = self.say(outcome);
        supervisor::ready();
        outcome
    }

    /// A configuration that cannot be used leaves everything as it was.
    fn say(&self, outcome: Result<Reloaded, String>) -> Result<Reloaded, String> {
        if let Err(error) = &outcome {
            self.server.count_refusal();
            tracing::error!("not reloaded, the configuration in use stays: {error}");
            // Whoever has just edited the file looks here.
            let _ = writeln!(io::stderr(), "ringway: not reloaded: {error}");
        }
        outcome
    }

    /// Reloads where the file has changed and somebody wants that seen.
    fn look(&mut self) {
        let is_wanted = self.server.config().server.watch_config;
        if let Some(watched) = &mut self.watched
            && watched.has_changed()
            && is_wanted
        {
            let _ = self.reload("file changed");
        }
    }

    /// Whether a new process gets ready now.
    fn upgrade(&self, upgraded: UnboundedSender<Result<u32, String>>) -> bool {
        match self.server.start_successor(&self.program) {
            Ok(successor) => {
                std::thread::spawn(move || wait(successor, &upgraded));
                true
            }
            Err(error) => {
                tracing::error!("no upgrade, this process goes on: {error}");
                false
            }
        }
    }
}

fn wait(successor: Successor, upgraded: &UnboundedSender<Result<u32, String>>) {
    // Nobody hears it where the process has been ended meanwhile.
    let _ = upgraded.send(successor.wait());
}

/// What happens to a process.
enum Event {
    Stop,
    Reload,
    Reopen,
    Upgrade,
    Upgraded(Result<u32, String>),
    Order(Order),
    /// It is time to look at the configuration file.
    Look,
}

/// What the process is told from outside.
struct Ears {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    reopen: Signal,
    upgrade: Signal,
    upgraded: UnboundedSender<Result<u32, String>>,
    outcome: UnboundedReceiver<Result<u32, String>>,
}

impl Ears {
    fn open() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        let (upgraded, outcome) = unbounded_channel();
        let (terminate, interrupt) = (signal(terminate)?, signal(interrupt)?);
        let hang_up = signal(SignalKind::hangup())?;
        let (reopen, upgrade) =
            (signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?);
        drop(context);
        Ok(Self { runtime, terminate, interrupt, hang_up, reopen, upgrade, upgraded, outcome })
    }

    fn hear(&mut self, orders: &mut UnboundedReceiver<Order>) -> Event {
        let Self { runtime, terminate, interrupt, hang_up, reopen, upgrade, outcome, .. } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => Event::Stop,
                _ = interrupt.recv() => Event::Stop,
                _ = hang_up.recv() => Event::Reload,
                _ = reopen.recv() => Event::Reopen,
                _ = upgrade.recv() => Event::Upgrade,
                Some(outcome) = outcome.recv() => Event::Upgraded(outcome),
                Some(order) = orders.recv() => Event::Order(order),
                () = tokio::time::sleep(LOOK) => Event::Look,
            }
        })
    }

    /// Returns at the next SIGTERM or SIGINT.
    fn wait_for_stop(&mut self) {
        let Self { runtime, terminate, interrupt, reopen, .. } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return,
                    _ = interrupt.recv() => return,
                    _ = reopen.recv() => reopen_logs(),
                }
            }
        });
    }
}

/// Where a log cannot be opened anew, both the log and standard error say so: the log may be the
/// one that nobody finds.
fn reopen_logs() {
    let errors = logging::reopen();
    for error in &errors {
        let _ = writeln!(io::stderr(), "ringway: {error}");
        tracing::error!("{error}");
    }
    if errors.is_empty() {
        tracing::info!("log files opened anew");
    }
}
