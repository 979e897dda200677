//! The command: reads the configuration, starts the server, and turns signals into its end.
//!
//! Exit codes: 0 after an orderly stop, 1 where ringway could not start, 2 where the configuration
//! is wrong. Errors go to standard error, one line each.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use ringway::cli::{Cli, Command};
use ringway::config::{Config, EXIT_CONFIG};
use ringway::logging;
use ringway::server::Server;

/// glibc keeps the memory of a burst in its arenas; mimalloc gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::load(cli.config.as_deref(), &cli.flags) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    match cli.command {
        Some(Command::Check) => {
            say("the configuration is valid");
            ExitCode::SUCCESS
        }
        None => run(config),
    }
}

fn run(config: Config) -> ExitCode {
    let log = match logging::start(&config.log) {
        Ok(log) => log,
        Err(error) => return fail(1, &error),
    };
    // Registered before anything listens: who sees us ready may tell us to stop.
    let mut signals = match Signals::register() {
        Ok(signals) => signals,
        Err(error) => return fail(1, &error),
    };
    let server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => return fail(1, &error),
    };
    let hurry = Arc::new(AtomicBool::new(false));
    signals.wait();
    tracing::info!("stopping: no new connections, waiting for what is under way");
    let impatient = hurry.clone();
    std::thread::spawn(move || {
        signals.wait();
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

/// SIGTERM and SIGINT, as the wish to stop.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn register() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (terminate, interrupt) = {
            let _context = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        Ok(Self { runtime, terminate, interrupt })
    }

    /// Returns at the next of them.
    fn wait(&mut self) {
        let (terminate, interrupt) = (&mut self.terminate, &mut self.interrupt);
        self.runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "ringway: {error}");
    ExitCode::from(code)
}

fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
