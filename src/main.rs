//! The command: reads the configuration, starts the server, and turns signals into what they ask
//! for: SIGTERM and SIGINT into its end, SIGUSR1 into new log files.
//!
//! Exit codes: 0 after an orderly stop, 1 where ringway could not start or is not well, 2 where the
//! configuration is wrong or needs more memory than there is. Errors go to standard error, one line
//! each.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use ringway::cli::{Cli, Command};
use ringway::config::{AdminAddress, Config, EXIT_CONFIG};
use ringway::health::{self, Target};
use ringway::logging;
use ringway::memory::plan::PlanError;
use ringway::memory::{Notice, Plan, Usage};
use ringway::ring::memory::Allocator;
use ringway::server::Server;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // An address says it all: the file of whom is asked may be out of reach.
    if let Some(Command::Health { url: Some(url) }) = &cli.command {
        return match Target::parse(url) {
            Ok(target) => health(&[target]),
            Err(error) => fail(EXIT_CONFIG, &error),
        };
    }
    let mut config = match Config::load(cli.config.as_deref(), &cli.flags) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    if let Some(Command::Health { .. }) = &cli.command {
        return health(&health_targets(&config));
    }
    let (plan, notices) = match fit(&mut config) {
        Ok(fitted) => fitted,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    match cli.command {
        Some(Command::Check) => {
            say(&"the configuration is valid");
            for Notice(text) in &notices {
                say(text);
            }
            say(&plan);
            ExitCode::SUCCESS
        }
        Some(Command::Health { .. }) | None => run(config, &notices),
    }
}

fn health(targets: &[Target]) -> ExitCode {
    match health::ask_any(targets) {
        Ok(report) => {
            say(&report);
            ExitCode::from(u8::from(!report.is_healthy()))
        }
        Err(error) => fail(1, &error),
    }
}

/// Where a ringway with this configuration answers `GET /health`.
fn health_targets(config: &Config) -> Vec<Target> {
    let admin = config.admin.enabled.then(|| match &config.admin.address {
        AdminAddress::Tcp(address) => Target::listener(*address),
        AdminAddress::Unix(path) => Target::socket(path),
    });
    let listener = config.server.listeners.first().filter(|_| config.admin.on_data_port);
    admin.into_iter().chain(listener.map(|address| Target::listener(*address))).collect()
}

/// Makes the configuration fit into the memory that there is.
fn fit(config: &mut Config) -> Result<(Plan, Vec<Notice>), PlanError> {
    // The shipped file repeats the standard values: whoever has it has not chosen them.
    let (limits, standard) = (&config.limits, Config::default().limits);
    let is_clients_given = limits.clients != standard.clients;
    let is_tunnels_given = limits.tunnels != standard.tunnels;
    Plan::fit(config, &Usage::read(), is_clients_given, is_tunnels_given)
}

fn run(config: Config, notices: &[Notice]) -> ExitCode {
    let log = match logging::start(&config.log) {
        Ok(log) => log,
        Err(error) => return fail(1, &error),
    };
    // Registered before anything listens: who sees us ready may tell us to stop.
    let mut signals = match Signals::register() {
        Ok(signals) => signals,
        Err(error) => return fail(1, &error),
    };
    for Notice(text) in notices {
        tracing::warn!("{text}");
    }
    let server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => return fail(1, &error),
    };
    let hurry = Arc::new(AtomicBool::new(false));
    signals.wait_for_stop();
    tracing::info!("stopping: no new connections, waiting for what is under way");
    let impatient = hurry.clone();
    std::thread::spawn(move || {
        signals.wait_for_stop();
        impatient.store(true, Ordering::Relaxed);
    });
    let remains = server.drain(&hurry);
    tracing::info!(
        connections = remains.connections,
        leased_chunks = remains.leased_chunks,
        leased_heads = remains.leased_heads,
        upstream_connections = remains.upstream_connections,
        "stopped"
    );
    drop(log);
    ExitCode::SUCCESS
}

/// What the process is told from outside.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
}

impl Signals {
    fn register() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (terminate, interrupt, reopen) = {
            let _context = runtime.enter();
            (
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::user_defined1())?,
            )
        };
        Ok(Self { runtime, terminate, interrupt, reopen })
    }

    /// Returns at the next SIGTERM or SIGINT, and sees to every SIGUSR1 until then.
    fn wait_for_stop(&mut self) {
        let Self { runtime, terminate, interrupt, reopen } = self;
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

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "ringway: {error}");
    ExitCode::from(code)
}

fn say(text: &dyn std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}
