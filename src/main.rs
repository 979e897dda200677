//! The command: reads the configuration, starts the server, and turns signals into its end.
//!
//! Exit codes: 0 after an orderly stop, 1 where ringway could not start, 2 where the configuration
//! is wrong. Errors go to standard error, one line each.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

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
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) => return fail(1, &error),
    };
    let server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => return fail(1, &error),
    };
    let hurry = Arc::new(AtomicBool::new(false));
    if let Err(error) = signals.block_on(until_told_to_stop()) {
        return fail(1, &error);
    }
    tracing::info!("stopping: no new connections, waiting for what is under way");
    let impatient = hurry.clone();
    std::thread::spawn(move || {
        if signals.block_on(until_told_to_stop()).is_ok() {
            impatient.store(true, Ordering::Relaxed);
        }
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

async fn until_told_to_stop() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "ringway: {error}");
    ExitCode::from(code)
}

fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
