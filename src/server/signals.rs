//! A process from its start to its end: what signals, the admin API and the configuration file ask
//! of it meanwhile.
//!
//! In go a configuration and the way to read it again; out comes the word that all is over, or one
//! line that says why it could not start. SIGTERM and SIGINT end it, a second one at once; SIGHUP
//! reads the configuration again, SIGUSR1 opens the log files anew, SIGUSR2 has a new process take
//! over. One thing is done at a time, in the order in which it was asked for; what is asked for
//! while a new process gets ready is done by whoever serves in the end. An end comes first: it ends
//! the new process too.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Runtime;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::config::{Config, ConfigError};
use crate::memory::Notice;
use crate::observe::logging;
use crate::server::config_watch::{self, Watched};
use crate::server::handover::{self, Predecessor, Successor};
use crate::server::inherited::{self, Inheritance};
use crate::server::privileges;
use crate::server::{self, Server};
use crate::systemd;
use crate::worker::history::Source;
use crate::worker::mailbox::{Reloaded, ServerCommand};

/// What a process is started with.
pub(crate) struct ProcessSetup {
    pub config: Config,
    /// What is to be said about the configuration once there is a log.
    pub notices: Vec<Notice>,
    /// What the file said that it came from, if any.
    pub text: Option<Arc<str>>,
    /// Reads the configuration again, from where it came.
    pub load: Load,
    /// The file that it came from, if any, as it was before it was read.
    pub watched: Option<Watched>,
}

/// Gives a configuration, with what the file says that it comes from.
type Load = Box<dyn Fn() -> Result<(Config, Option<Arc<str>>), ConfigError>>;

/// How often the configuration file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Serves until a signal or an order ends it. The error is one line with cause and cure.
pub(crate) fn run(setup: ProcessSetup) -> Result<(), String> {
    let ProcessSetup { config, notices, text, load, watched } = setup;
    // Before anything else opens a descriptor or starts a thread.
    let program = std::env::current_exe().map_err(|error| format!("who am I: {error}"))?;
    let (mut inheritance, predecessor) = match handover::receive()? {
        Some((inheritance, predecessor)) => (inheritance, Some(predecessor)),
        None => (Inheritance { listeners: inherited::take()?, ..Inheritance::default() }, None),
    };
    let source_file = watched.as_ref().map(|watched| watched.path.as_path());
    inheritance.identity = privileges::prepare(&config, source_file, &program)?;
    let log = logging::start(&config.log).map_err(|error| error.to_string())?;
    inheritance.events = Some(log.meter());
    // Registered before anything listens: who sees us ready may tell us to stop.
    let mut ears = Ears::open().map_err(|error| error.to_string())?;
    let file = watched.as_ref().map(|watched| watched.path.clone());
    inheritance.source = Source { file, text };
    introduce(&config, &inheritance.source);
    privileges::told(&config.server);
    for notice in &notices {
        notice.tell();
    }
    for warning in privileges::exposed::exposed(&config, inheritance.source.file.as_deref()) {
        tracing::warn!("{warning}");
    }
    // Before they are read, so that a change in between is seen.
    let mut followed = HashMap::new();
    config_watch::follow(&mut followed, &config);
    let mut server = Server::start(config, inheritance).map_err(|error| error.to_string())?;
    let is_over = begin(&mut server, predecessor, &mut ears)?;
    let mut process = Process { server, load, watched, followed, program, upgrade: None };
    let end = if is_over { End::GIVEN_UP } else { process.live(&mut ears) };
    if end.is_stop {
        systemd::stopping();
    }
    tracing::info!("stopping: no new connections, waiting for what is under way");
    let force = Arc::new(AtomicBool::new(false));
    let forced = force.clone();
    std::thread::spawn(move || {
        // A process that has been taken over from does already what the first one asks for.
        if !end.is_stop {
            ears.wait_for_stop();
        }
        ears.wait_for_stop();
        forced.store(true, Ordering::Relaxed);
    });
    let ending = process.upgrade.take().map(|upgrade| upgrade.successor.end());
    let config = process.server.config();
    let deadline = Instant::now() + config.server.ready_grace + config.server.drain_timeout;
    let report = process.server.drain(&force, end.successor);
    if let Some(ending) = ending {
        ending.reap(deadline, &force);
    }
    tracing::info!(
        connections = report.connections,
        leased_chunks = report.leased_chunks,
        leased_heads = report.leased_heads,
        upstream_connections = report.upstream_connections,
        "stopped"
    );
    drop(log);
    Ok(())
}

/// The first line of the log: who this is, and by which configuration.
fn introduce(config: &Config, source: &Source) {
    let file = source.file.as_ref().map(|file| std::path::absolute(file).unwrap_or(file.clone()));
    let configuration = file
        .map_or_else(|| "built-in defaults".to_owned(), |file| file.to_string_lossy().into_owned());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        configuration,
        log_level = %config.log.level,
        "ringway"
    );
}

/// Begins to accept connections, in the place of `predecessor` where there is one; whether it is
/// over again, because this process has been told to stop before it took over.
fn begin(
    server: &mut Server,
    mut predecessor: Option<Predecessor>,
    ears: &mut Ears,
) -> Result<bool, String> {
    if let Some(predecessor) = &mut predecessor {
        predecessor.may_accept()?;
    }
    server.open().map_err(|error| error.to_string())?;
    if let Some(predecessor) = predecessor {
        if ears.has_heard_stop() {
            return Ok(true);
        }
        server.claim_files();
        if !predecessor.take_over() {
            // No other process can say it. The manager may take it from the main process only.
            systemd::main_pid(std::process::id());
        }
    }
    systemd::ready();
    Ok(false)
}

/// How the life of a process ends.
#[derive(Clone, Copy)]
struct End {
    successor: server::Successor,
    /// An operator wants it, and does not go on with another process.
    is_stop: bool,
}

impl End {
    const STOPPED: Self = Self { successor: server::Successor::None, is_stop: true };
    const TAKEN_OVER: Self = Self { successor: server::Successor::Ready, is_stop: false };
    /// The process that it was to take over from goes on listening, or decides for itself.
    const GIVEN_UP: Self = Self { successor: server::Successor::Ready, is_stop: true };
}

/// A new process on its way, and what it has to be told once it serves: it may have read the
/// configuration, and opened its logs, before a signal asked for it.
struct Upgrade {
    successor: Successor,
    is_reload_due: bool,
    is_reopen_due: bool,
}

struct Process {
    server: Server,
    load: Load,
    watched: Option<Watched>,
    /// The files that the configuration in use names.
    followed: HashMap<PathBuf, Watched>,
    /// Found before an operator puts another file in its place.
    program: PathBuf,
    upgrade: Option<Upgrade>,
}

/// What an operator wants by the admin API.
enum Order {
    Reload(Reply),
    Rollback(Option<u64>, Reply),
}

type Reply = oneshot::Sender<Result<Reloaded, String>>;

impl Process {
    /// Does what it is asked to until it is to end; how that is.
    fn live(&mut self, ears: &mut Ears) -> End {
        loop {
            match ears.hear(&mut self.server.server_commands, &mut self.upgrade) {
                Event::Stop => return End::STOPPED,
                Event::Reopen => {
                    reopen_logs();
                    self.upgrade.iter_mut().for_each(|upgrade| upgrade.is_reopen_due = true);
                }
                Event::Reload => self.hang_up(),
                Event::Command(command) => self.obey(command),
                Event::Look => self.look(),
                Event::Upgrade => self.begin_upgrade(),
                Event::Upgraded(Ok(pid)) => {
                    tracing::info!(pid, "a new process has taken over");
                    // From us, because the manager listens to the main process only.
                    systemd::main_pid(pid);
                    self.pass_on(pid);
                    return End::TAKEN_OVER;
                }
                Event::Upgraded(Err(error)) => {
                    tracing::error!("no upgrade, this process goes on: {error}");
                    let upgrade = self.upgrade.take();
                    if upgrade.is_some_and(|upgrade| upgrade.is_reload_due) {
                        self.hang_up();
                    }
                }
            }
        }
    }

    /// Reads the configuration again, or lets the new process do it: a listener that this one
    /// opened now would be in that one's way.
    fn hang_up(&mut self) {
        match &mut self.upgrade {
            None => drop(self.reload("SIGHUP")),
            Some(upgrade) => upgrade.is_reload_due = true,
        }
    }

    /// Gives what was asked for meanwhile to the process that has taken over.
    fn pass_on(&mut self, pid: u32) {
        let Some(upgrade) = self.upgrade.take() else { return };
        let due =
            [(upgrade.is_reopen_due, Signal::SIGUSR1), (upgrade.is_reload_due, Signal::SIGHUP)];
        for (_, signal) in due.into_iter().filter(|(is_due, _)| *is_due) {
            // It has not been waited for, so that the number is its own.
            if let Err(error) = kill(Pid::from_raw(pid.cast_signed()), signal) {
                tracing::warn!(pid, %signal, "the new process cannot be told: {error}");
            }
        }
    }

    fn obey(&mut self, command: ServerCommand) {
        let command = match command {
            // Nothing of it can be in a new process' way.
            ServerCommand::Found { number, upstreams } => {
                return self.server.found(number, upstreams);
            }
            ServerCommand::Reload { reply } => Order::Reload(reply),
            ServerCommand::Rollback { id, reply } => Order::Rollback(id, reply),
        };
        // Who asked may have given up.
        let answer = |reply: Reply, outcome| drop(reply.send(outcome));
        if self.upgrade.is_some() {
            let (Order::Reload(reply) | Order::Rollback(_, reply)) = command;
            let said = "a new process is getting ready: ask the one that serves then".to_owned();
            return answer(reply, self.say(Err(said)));
        }
        match command {
            Order::Reload(reply) => answer(reply, self.reload("admin API")),
            Order::Rollback(id, reply) => {
                let outcome = self.server.roll_back(id);
                answer(reply, self.say(outcome));
            }
        }
    }

    fn reload(&mut self, cause: &str) -> Result<Reloaded, String> {
        systemd::reloading();
        let loaded = (self.load)().map_err(|error| format!("{error:#}"));
        let outcome = loaded.and_then(|(config, text)| {
            config_watch::follow(&mut self.followed, &config);
            let outcome = self.server.reload(config, cause)?;
            self.server.keep_text(text);
            Ok(outcome)
        });
        let outcome = self.say(outcome);
        systemd::ready();
        outcome
    }

    /// A configuration that cannot be used leaves everything as it was.
    fn say(&self, outcome: Result<Reloaded, String>) -> Result<Reloaded, String> {
        if let Err(error) = &outcome {
            self.server.count_refusal();
            tracing::error!("not reloaded, the configuration in use stays: {error}");
            // The operator who has just edited the file looks here.
            let _ = writeln!(io::stderr(), "ringway: not reloaded: {error}");
        }
        outcome
    }

    /// Reloads where the file has changed and `server.watch_config` wants that seen.
    fn look(&mut self) {
        if self.upgrade.is_some() {
            return;
        }
        let config = self.server.config();
        let is_wanted = config.server.watch_config;
        if let Some(watched) = &mut self.watched
            && watched.has_changed()
            && is_wanted
        {
            let _ = self.reload("file changed");
        }
        self.follow();
        self.server.look_for_origins();
    }

    /// Puts the configuration in use again where a file that it names has changed.
    fn follow(&mut self) {
        let config = self.server.config();
        config_watch::follow(&mut self.followed, &config);
        let mut has_changed = false;
        for watched in self.followed.values_mut() {
            has_changed |= watched.has_changed();
        }
        if has_changed {
            let outcome = self.server.reload((*config).clone(), "a named file changed");
            let _ = self.say(outcome);
        }
    }

    fn begin_upgrade(&mut self) {
        if self.upgrade.is_some() {
            tracing::warn!("a new process is being started already");
            return;
        }
        match self.server.start_successor(&self.program) {
            Ok(successor) => {
                let upgrade = Upgrade { successor, is_reload_due: false, is_reopen_due: false };
                self.upgrade = Some(upgrade);
            }
            Err(error) => tracing::error!("no upgrade, this process goes on: {error}"),
        }
    }
}

/// Waits for the new process, if there is one.
async fn outcome(upgrade: &mut Option<Upgrade>) -> Result<u32, String> {
    match upgrade {
        Some(upgrade) => upgrade.successor.wait().await,
        None => std::future::pending().await,
    }
}

/// What happens to a process.
enum Event {
    Stop,
    Reload,
    Reopen,
    Upgrade,
    Upgraded(Result<u32, String>),
    Command(ServerCommand),
    /// It is time to look at the configuration file.
    Look,
}

/// What the process is told from outside.
struct Ears {
    runtime: Runtime,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
    reopen: unix::Signal,
    upgrade: unix::Signal,
}

impl Ears {
    fn open() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        let (terminate, interrupt) = (signal(terminate)?, signal(interrupt)?);
        let hang_up = signal(SignalKind::hangup())?;
        let (reopen, upgrade) =
            (signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?);
        drop(context);
        Ok(Self { runtime, terminate, interrupt, hang_up, reopen, upgrade })
    }

    fn hear(
        &mut self,
        server_commands: &mut UnboundedReceiver<ServerCommand>,
        next: &mut Option<Upgrade>,
    ) -> Event {
        let Self { runtime, terminate, interrupt, hang_up, reopen, upgrade } = self;
        runtime.block_on(async {
            tokio::select! {
                // A process that is to stop hands nothing over any more.
                biased;
                _ = terminate.recv() => Event::Stop,
                _ = interrupt.recv() => Event::Stop,
                _ = reopen.recv() => Event::Reopen,
                _ = hang_up.recv() => Event::Reload,
                outcome = outcome(next) => Event::Upgraded(outcome),
                _ = upgrade.recv() => Event::Upgrade,
                Some(command) = server_commands.recv() => Event::Command(command),
                () = tokio::time::sleep(LOOK) => Event::Look,
            }
        })
    }

    /// Whether SIGTERM or SIGINT has come already.
    fn has_heard_stop(&mut self) -> bool {
        let Self { runtime, terminate, interrupt, .. } = self;
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                // The runtime hears of signals when it has nothing else to do.
                () = tokio::time::sleep(Duration::from_millis(1)) => false,
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
/// one that the operator does not find.
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
