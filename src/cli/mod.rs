//! The command: reads the configuration and does what was typed; without a word, runs the proxy.
//!
//! Exit codes: 0 after an orderly stop, 1 where ringway could not start or is not well, 2 where the
//! configuration is wrong or needs more memory than there is; the help of a command tells its own.
//! Errors go to standard error, one line each.

pub(crate) mod args;
pub(crate) mod bench;
pub(crate) mod certificates;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod commands;
pub(crate) mod doctor;
pub(crate) mod dump;
pub(crate) mod explain;
pub(crate) mod output;
pub(crate) mod plan;
pub(crate) mod shell;
pub(crate) mod upstreams;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command, Whom};

use self::client::Target;
use self::doctor::{RingFacts, Root};
use crate::config::{self, Config, EXIT_CONFIG, OnDataPort};
use crate::hooks::custom::{self, Hooks};
use crate::memory::Notice;
use crate::server;
use crate::server::config_watch::Watched;
use crate::server::signals::{self, ProcessSetup};
use crate::tls::blocking::Belief;

/// Does what was typed, with the hooks of a binary of one's own (see [`crate::hooks::custom`]).
pub fn run(hooks: Hooks) -> ExitCode {
    run_from(std::env::args_os(), hooks)
}

/// The same for other words than those that were typed; the first is the program's name.
pub fn run_from(arguments: impl IntoIterator<Item = OsString>, hooks: Hooks) -> ExitCode {
    custom::install(hooks);
    let cli = Cli::parse_from(arguments);
    // An address says it all: the file of whom is asked may be out of reach.
    if let Some(Command::Health { whom }) = &cli.command
        && let Some(target) = named(whom)
    {
        return match target {
            Ok(target) => health(&[target]),
            Err(error) => fail(EXIT_CONFIG, &error),
        };
    }
    if let Some(code) = commands::run(&cli) {
        return code;
    }
    if let Some(Command::Bench(flags)) = &cli.command {
        return bench::main(flags, &cli.flags);
    }
    // Before it is read: what is written from then on is another file.
    let watched = config::file_in_use(cli.config.as_deref(), &cli.flags).map(Watched::new);
    let loaded = Config::load_traced(cli.config.as_deref(), &cli.flags);
    let (mut config, origins) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    if let Some(Command::Health { .. }) = &cli.command {
        return health(&health_targets(&config));
    }
    match &cli.command {
        Some(Command::Reload { whom }) => return order(&config, whom, "/admin/reload"),
        Some(Command::Certificates { whom, json }) => {
            return certificates::run(&config, named(whom), *json);
        }
        Some(Command::Upstreams { order, whom, json }) => {
            return upstreams::run(&config, named(whom), order, *json);
        }
        Some(Command::Rollback { id, whom }) => {
            let query = id.map_or_else(String::new, |id| format!("?id={id}"));
            return order(&config, whom, &format!("/admin/rollback{query}"));
        }
        Some(Command::Doctor { json }) => return doctor(&config, *json),
        _ => {}
    }
    let wrong = config.lay_files();
    let (plan, mut notices) = match server::fit(&mut config) {
        Ok(fitted) => fitted,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    let mut warnings = config.warnings(&origins);
    warnings.extend(Config::environment_warning());
    let Some(Command::Check { file_only }) = &cli.command else {
        notices.extend(warnings.into_iter().map(Notice));
        return serve(&cli, config, watched, notices);
    };
    if let Err(error) = check::files(&config, &origins, &wrong) {
        return fail(EXIT_CONFIG, &error);
    }
    if !*file_only && let Err(error) = check::storage(&config, &origins) {
        return fail(EXIT_CONFIG, &error);
    }
    say(&"the configuration is valid");
    for warning in warnings {
        say(&format_args!("warning: {warning}"));
    }
    for Notice(text) in &notices {
        say(text);
    }
    say(&plan);
    if *file_only { ExitCode::SUCCESS } else { check::run(&config) }
}

fn health(targets: &[Target]) -> ExitCode {
    match client::ask_any(targets) {
        Ok(report) => {
            say(&report);
            ExitCode::from(u8::from(!report.is_healthy()))
        }
        Err(error) => fail(1, &error),
    }
}

/// The configuration is examined as it was written; what the plan would lower is one finding.
fn doctor(config: &Config, is_json: bool) -> ExitCode {
    let fitted = match server::fit(&mut config.clone()) {
        Ok((_, notices)) => Ok(notices.into_iter().map(|Notice(text)| text).collect()),
        Err(error) => Err(error.to_string()),
    };
    let report = doctor::examine(config, &Root::system(), RingFacts::probe(), &fitted);
    if is_json {
        say(&report.json());
    } else {
        say(&report);
    }
    ExitCode::from(report.exit_code())
}

/// Asks the ringway with this configuration to do something.
fn order(config: &Config, whom: &Whom, path: &str) -> ExitCode {
    let targets = match named(whom) {
        Some(Ok(target)) => vec![target],
        Some(Err(error)) => return fail(EXIT_CONFIG, &error),
        None => Target::admin(config).into_iter().collect(),
    };
    let token = config.admin.token.as_ref().map(config::Secret::reveal);
    match client::order(&targets, path, token) {
        Ok(report) => {
            say(&report);
            ExitCode::from(u8::from(report.code != 200))
        }
        Err(error) => fail(1, &error),
    }
}

/// The target that was typed, if one was.
fn named(whom: &Whom) -> Option<Result<Target, String>> {
    let belief = match &whom.ca {
        _ if whom.insecure => Belief::Anybody,
        Some(path) => Belief::File(path.clone()),
        None => Belief::System,
    };
    whom.url.as_deref().map(|url| Target::parse(url, &belief))
}

/// Where a ringway with this configuration answers `GET /health`.
fn health_targets(config: &Config) -> Vec<Target> {
    let listener = config.server.listeners.first();
    let listener = listener.filter(|_| config.admin.on_data_port != OnDataPort::Off);
    Target::admin(config).into_iter().chain(listener.and_then(Target::listener)).collect()
}

fn serve(cli: &Cli, config: Config, watched: Option<Watched>, notices: Vec<Notice>) -> ExitCode {
    let (path, flags) = (cli.config.clone(), cli.flags.clone());
    let load = Box::new(move || {
        let (config, origins) = Config::load_traced(path.as_deref(), &flags)?;
        for warning in config.warnings(&origins) {
            tracing::warn!("{warning}");
        }
        Ok(config)
    });
    match signals::run(ProcessSetup { config, notices, load, watched }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "ringway: {error}");
    ExitCode::from(code)
}

fn say(text: &dyn std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}
