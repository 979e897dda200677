//! The command: reads the configuration and does what was typed; without a word, runs the proxy.
//!
//! Exit codes: 0 after an orderly stop, 1 where ringway could not start or is not well, 2 where the
//! configuration is wrong or needs more memory than there is; the help of a command tells its own.
//! Errors go to standard error, one line each.

pub(crate) mod answers;
pub(crate) mod args;
pub(crate) mod arms;
pub(crate) mod bench;
pub(crate) mod certificates;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod commands;
pub(crate) mod doctor;
pub(crate) mod dump;
pub(crate) mod explain;
pub(crate) mod import;
pub(crate) mod output;
pub(crate) mod plan;
pub(crate) mod query;
pub(crate) mod running;
pub(crate) mod shell;
pub(crate) mod statistics;
pub(crate) mod top;
pub(crate) mod upstreams;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use self::answers::Meant;
use self::args::{Cli, Command, Whom};

use self::client::{Report, Target};
use self::doctor::{RingFacts, Root};
use crate::config::{self, Config, EXIT_CONFIG, OnDataPort};
use crate::hooks::custom::{self, Hooks};
use crate::memory::Notice;
use crate::server;
use crate::server::config_watch::Watched;
use crate::server::privileges;
use crate::server::signals::{self, ProcessSetup};
use crate::tls::blocking::Belief;

/// Does what was typed, with the hooks of a binary of one's own (see [`crate::hooks::custom`]).
pub fn run(hooks: Hooks) -> ExitCode {
    run_from(std::env::args_os(), hooks)
}

/// The same for other words than those that were typed; the first is the program's name.
pub fn run_from(arguments: impl IntoIterator<Item = OsString>, hooks: Hooks) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|word| word == privileges::trial::WORD) {
        return privileges::trial::main();
    }
    custom::install(hooks);
    let mut cli = args::parse(arguments).unwrap_or_else(|error| error.exit());
    // An address says it all: the file of whom is asked may be out of reach.
    if let Some(Command::Health { whom, json }) = &cli.command
        && let Some(target) = named(whom)
    {
        return match target {
            Ok(target) => health(&[target], *json, Meant::Anybody),
            Err(error) => fail(EXIT_CONFIG, &error),
        };
    }
    running::adopt(&mut cli);
    if let Some(code) = commands::run(&cli) {
        return code;
    }
    if let Some(Command::Bench(flags)) = &cli.command {
        return bench::main(flags, &cli.flags);
    }
    // Before it is read: what is written from then on is another file.
    let watched = config::file_in_use(cli.config.as_deref(), &cli.flags).map(Watched::new);
    let loaded = Config::load_with_text(cli.config.as_deref(), &cli.flags);
    let (mut config, origins, text) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return refuse(is_json_check(&cli), &error),
    };
    if let Some(code) = about_one_that_runs(&cli, &config) {
        return code;
    }
    let wrong = config.lay_files();
    let (plan, mut notices) = match server::fit(&mut config) {
        Ok(fitted) => fitted,
        Err(error) => return refuse(is_json_check(&cli), &error),
    };
    let mut warnings = config.warnings(&origins);
    if matches!(cli.command, Some(Command::Check { .. })) {
        let file = config::file_in_use(cli.config.as_deref(), &cli.flags);
        warnings.extend(privileges::exposed::exposed(&config, file.as_deref()));
    }
    warnings.extend(Config::environment_warning());
    let Some(Command::Check { file_only, json }) = &cli.command else {
        notices.extend(warnings.into_iter().map(Notice::warning));
        return serve(&cli, config, watched, notices, text);
    };
    if let Err(error) = check::files(&config, &origins, &wrong) {
        return refuse(*json, &error);
    }
    if !*file_only && let Err(error) = check::storage(&config, &origins) {
        return refuse(*json, &error);
    }
    let around = if *file_only { check::Around::default() } else { check::Around::of(&config) };
    if *json {
        say(&check::json(&warnings, &notices, &plan, &around));
        return around.code();
    }
    say(&"the configuration is valid");
    for warning in warnings {
        say(&format_args!("warning: {warning}"));
    }
    for notice in &notices {
        say(&notice.text);
    }
    say(&plan);
    around.tell()
}

/// The commands that need a configuration to know whom to ask, or what to look for.
fn about_one_that_runs(cli: &Cli, config: &Config) -> Option<ExitCode> {
    let file = config::file_in_use(cli.config.as_deref(), &cli.flags);
    let meant = Meant::With(file.as_deref());
    let code = match &cli.command {
        Some(Command::Health { json, .. }) => health(&health_targets(config), *json, meant),
        Some(Command::Reload { whom, json }) => order(config, whom, "/admin/reload", *json, meant),
        Some(Command::Certificates { whom, json }) => certificates::run(config, named(whom), *json),
        Some(Command::Upstreams { order, whom, json }) => {
            upstreams::run(config, named(whom), order, *json)
        }
        Some(Command::Rollback { id, save, whom, json }) => {
            let id = id.map_or_else(String::new, |id| format!("&id={id}"));
            let path = format!("/admin/rollback?save={save}{id}");
            order(config, whom, &path, *json, meant)
        }
        Some(Command::Top { flags, whom }) => top::run(config, named(whom), flags),
        Some(Command::CompareArms { question, whom }) => arms::run(config, named(whom), question),
        Some(Command::Doctor { json }) => doctor(config, *json),
        _ => return None,
    };
    Some(code)
}

fn is_json_check(cli: &Cli) -> bool {
    matches!(cli.command, Some(Command::Check { json: true, .. }))
}

/// A configuration that cannot be used.
fn refuse(is_json: bool, error: &dyn std::fmt::Display) -> ExitCode {
    if is_json {
        let error = error.to_string();
        say(&serde_json::json!({ "valid": false, "errors": error.lines().collect::<Vec<_>>() }));
        return ExitCode::from(EXIT_CONFIG);
    }
    fail(EXIT_CONFIG, error)
}

fn health(targets: &[Target], is_json: bool, meant: Meant<'_>) -> ExitCode {
    match client::ask_any(targets) {
        Ok(report) => {
            if is_json {
                say(&report.body.trim_end());
            } else {
                say(&answers::health(&report));
            }
            note_stranger(&report, meant);
            ExitCode::from(u8::from(!report.is_healthy()))
        }
        Err(error) => fail(1, &error),
    }
}

fn note_stranger(report: &Report, meant: Meant<'_>) {
    if let Some(note) = answers::stranger(report, meant) {
        let _ = writeln!(io::stderr(), "ringway: note: {note}");
    }
}

/// The configuration is examined as it was written; what the plan would lower is one finding.
fn doctor(config: &Config, is_json: bool) -> ExitCode {
    let fitted = match server::fit(&mut config.clone()) {
        // What it would come to by itself is nothing to mend.
        Ok((_, notices)) => {
            let told = notices.into_iter().filter(|notice| !notice.is_expected);
            Ok(told.map(|notice| notice.text).collect())
        }
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
fn order(config: &Config, whom: &Whom, path: &str, is_json: bool, meant: Meant<'_>) -> ExitCode {
    let targets = match named(whom) {
        Some(Ok(target)) => vec![target],
        Some(Err(error)) => return fail(EXIT_CONFIG, &error),
        None => Target::admin(config).into_iter().collect(),
    };
    let token = config.admin.token.as_ref().map(config::Secret::reveal);
    match client::order(&targets, path, token) {
        Ok(report) => {
            if is_json {
                say(&report.body.trim_end());
            } else {
                say(&answers::order(&report));
            }
            note_stranger(&report, if whom.url.is_some() { Meant::Anybody } else { meant });
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

fn serve(
    cli: &Cli,
    config: Config,
    watched: Option<Watched>,
    notices: Vec<Notice>,
    text: Option<String>,
) -> ExitCode {
    let (path, flags) = (cli.config.clone(), cli.flags.clone());
    let load = Box::new(move || {
        let (config, origins, text) = Config::load_with_text(path.as_deref(), &flags)?;
        for warning in config.warnings(&origins) {
            tracing::warn!("{warning}");
        }
        Ok((config, text.map(Arc::from)))
    });
    let text = text.map(Arc::from);
    match signals::run(ProcessSetup { config, notices, text, load, watched }) {
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
