//! What `ringway check` looks at beyond the configuration: other files, names and ports.
//!
//! In goes a configuration that is valid; out come what is wrong with a file that it names,
//! warnings about names without an address and sockets that are not there, the reason why a port
//! cannot be listened on, and the exit code. Every socket is closed again.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

use crate::address::UnixAddress;
use crate::admin::AdminSocket;
use crate::cli::client::{self, Target};
use crate::config::effective::{Origin, Origins};
use crate::config::{Config, ConfigError};
use crate::docker;
use crate::forward_proxy::user_rules::UserRules;
use crate::forward_proxy::{Users, lists};
use crate::hooks::{self, BadFile};
use crate::memory::plan::Row;
use crate::memory::{Notice, Plan};
use crate::server;
use crate::tls;
use crate::unix_socket;

use super::explain::addresses::{self, Asked};
use super::output::Failure;

/// What is wrong around a configuration.
#[derive(Default)]
pub(crate) struct Around {
    warnings: Vec<String>,
    /// A ringway that runs by it already.
    neighbour: Option<String>,
    /// Why it cannot be listened on.
    taken: Vec<String>,
}

impl Around {
    /// Asks name servers and tries ports.
    pub(crate) fn of(config: &Config) -> Self {
        let due = tls::try_files(config).unwrap_or_default();
        let engine = config.docker.socket.as_deref().and_then(docker::obstacle);
        let known = nameless(config).into_iter().chain(socketless(config)).chain(strangers(config));
        let warnings = known.chain(engine).chain(due).collect();
        let taken = ports(config);
        let target = Target::admin(config).filter(|_| !taken.is_empty());
        let answers = |target: &Target| client::ask(target).is_ok_and(|it| it.is_ringway());
        let neighbour = target.filter(answers).map(|target| target.to_string());
        Self { warnings, neighbour, taken }
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(u8::from(!self.taken.is_empty()))
    }

    /// For people; whether ringway could start.
    pub(crate) fn tell(self) -> ExitCode {
        for warning in &self.warnings {
            note(&format_args!("warning: {warning}"));
        }
        if let Some(target) = &self.neighbour {
            note(&format_args!(
                "a ringway runs here already: it answers at {target}. To look at the file alone, \
                 use `ringway check --file-only`"
            ));
        }
        let code = self.code();
        for cause in self.taken {
            Failure::unable(cause).print();
        }
        code
    }
}

/// All of it for programs.
pub(crate) fn json(
    warnings: &[String],
    notices: &[Notice],
    plan: &Plan,
    around: &Around,
) -> serde_json::Value {
    let row = |row: &Row| {
        let (count, each) = (row.count, row.each_bytes);
        json!({ "what": row.name, "count": count, "each_bytes": each, "bytes": row.bytes() })
    };
    let rows: Vec<_> = plan.rows().iter().filter(|row| row.bytes() > 0).map(row).collect();
    let warnings: Vec<_> = warnings.iter().chain(&around.warnings).collect();
    let notices: Vec<_> = notices.iter().map(|notice| &notice.text).collect();
    json!({
        "valid": true,
        "warnings": warnings,
        "notices": notices,
        "memory": {
            "rows": rows, "bytes": plan.total(), "ceiling_bytes": plan.ceiling().bytes,
        },
        "errors": around.taken,
        "runs_already_at": around.neighbour,
    })
}

/// What is wrong with a file that `config` names, after the place where it is named.
/// `wrong` is what is wrong with files of origins, by the index of the upstream.
pub(crate) fn files(
    config: &Config,
    origins: &Origins,
    wrong: &[(usize, ConfigError)],
) -> Result<(), String> {
    origin_files(config, origins, wrong)?;
    let tls = || {
        let tried = tls::try_files(config).map(drop);
        tried.map_err(|(path, error)| BadFile { error: format!("{path}: {error}"), path })
    };
    let tried = forward_files(config).and_then(|_| hooks::try_files(config));
    tried.and_then(|()| tls()).map_err(|bad| placed(bad, origins))
}

/// The first mistake of a file of origins, each of whose own places is better than where the file
/// is named.
fn origin_files(
    config: &Config,
    origins: &Origins,
    wrong: &[(usize, ConfigError)],
) -> Result<(), String> {
    let Some((index, error)) = wrong.first() else { return Ok(()) };
    if error.has_place() {
        return Err(error.to_string());
    }
    let (name, path) = (&config.upstreams[*index].name, format!("upstream.{index}.file"));
    let error = format!("upstream {name}: file: {error}");
    Err(placed(BadFile { path, error }, origins))
}

/// Whether what is ordered could be kept. Nothing is ordered.
pub(crate) fn storage(config: &Config, origins: &Origins) -> Result<(), String> {
    tls::try_storage(config).map_err(|(path, error)| placed(BadFile { path, error }, origins))
}

fn placed(BadFile { path, error }: BadFile, origins: &Origins) -> String {
    // The hooks of a route are one value, whose place is its first line.
    let table = path.rsplit_once('.').map_or("", |(table, _)| table);
    let places = [path.as_str(), table].map(|path| origins.of(path));
    let place = places.into_iter().find(|origin| *origin != Origin::Default);
    place.map_or(error.clone(), |place| format!("{place:#}: {error}"))
}

/// The forward proxy's files: users, groups and lists.
fn forward_files(config: &Config) -> Result<UserRules, BadFile> {
    let forward = &config.forward;
    if !forward.enabled {
        return Ok(UserRules::default());
    }
    let bad = |key: &str| {
        let path = key.to_owned();
        move |error: String| BadFile { error: format!("{path}: {error}"), path }
    };
    let users = forward.users_file.as_ref().map(|file| Users::load(file)).transpose();
    let users = users.map_err(bad("forward.users_file"))?;
    let rules = UserRules::read(forward, users.as_ref()).map_err(bad("forward.groups_file"))?;
    // Which key names the list is not known here, and the error names the list.
    lists::read(config).map_err(|error| BadFile { error, path: String::new() })?;
    Ok(rules)
}

/// A line for each name in a rule or a group that no user has.
fn strangers(config: &Config) -> Vec<String> {
    let rules = forward_files(config).unwrap_or_default();
    rules.warnings.iter().map(|warning| format!("forward: {warning}")).collect()
}

fn note(text: &dyn Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// A line for each origin and parent that has no address now.
fn nameless(config: &Config) -> Vec<String> {
    let origins = config.upstreams.iter().flat_map(|upstream| {
        upstream.all_origins().map(move |origin| {
            let name = format!("upstream {}: {}", upstream.name, origin.authority);
            (name, Asked::of(origin))
        })
    });
    let parents = config.parents.iter().map(|parent| {
        (
            format!("parent {}: {}", parent.name, parent.address.authority),
            Asked::host(&parent.address.host, parent.address.port),
        )
    });
    let named: Vec<_> = origins.chain(parents).collect();
    let hosts = named.iter().map(|(_, asked)| *asked);
    match addresses::of_origins(&config.dns, hosts) {
        Ok(found) => named
            .into_iter()
            .zip(found)
            .filter(|(_, addresses)| addresses.is_empty())
            .map(|((name, _), _)| format!("{name} has no address now"))
            .collect(),
        Err(error) => vec![format!("names cannot be resolved: {error}")],
    }
}

/// A line for each Unix socket of an origin that could not be connected to now.
fn socketless(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for upstream in &config.upstreams {
        for origin in upstream.all_origins() {
            let path = UnixAddress::parse(&origin.host).and_then(UnixAddress::path);
            if let Some(why) = path.and_then(unix_socket::obstacle) {
                lines.push(format!("upstream {}: {}: {why}", upstream.name, origin.authority));
            }
        }
    }
    lines
}

/// A line for each address that cannot be listened on.
fn ports(config: &Config) -> Vec<String> {
    let server = &config.server;
    let listeners = server.listeners.iter();
    let taken = listeners.filter_map(|it| server::try_listen(it, server.backlog).err());
    let admin = AdminSocket::open(&config.admin, None).err();
    taken.map(|error| error.to_string()).chain(admin).collect()
}
