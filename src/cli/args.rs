//! The command line: flags, subcommands and their help texts.
//!
//! In: the process's arguments. Out: a `Cli`; clap itself answers `--help`, `--version` and a
//! flag that it does not know (exit code 2). The flags that override the configuration are
//! `config::Flags`, because they are one of its sources. Nothing here reads a file.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::address::{Address, ClientAddress};
use crate::cli::bench::BenchFlags;
use crate::cli::import::From;
use crate::config::Flags;

const ABOUT: &str =
    "An HTTP proxy for Linux on io_uring, reverse and forward: HTTP/1.1, HTTP/2, TLS";

const EXAMPLES: &str = "\
Examples:
  ringway                                          the file config.toml, or the defaults
  ringway --config /etc/ringway.toml               another file
  ringway --port 8080 --upstream http://10.0.0.1   no file at all
  ringway --forward                                a forward proxy for this machine
  ringway --set pool.max_idle=50 --profile large   any key, and sizes that go together
  ringway check --config new.toml                  is this file usable?
  ringway reload                                   have it read its configuration again
  ringway plan old.toml new.toml                   what would a reload do?
  ringway schema > config.schema.json              for editors that know TOML
  ringway explain GET http://app.example/x         where does this request go, and why?
  ringway health                                   is the one that runs here well?
  ringway certificates                             which, of whom, and until when?
  ringway upstreams                                who is asked, and why others are not?
  ringway upstreams app http://10.0.0.1:80 drain   nothing new for this one
  ringway top                                      what does the one that runs here do?
  ringway compare-arms '*/' --b canary             does the canary do as well?
  ringway bench http://127.0.0.1:8080/ -c 64       how fast is it?
  ringway doctor                                   what on this machine is in the way?

Exit codes: 0 done, 1 ringway could not start or is not well, 2 the configuration or the command
line is wrong. Some commands have more: see their --help.";

const CHECK_CODES: &str = "\
Exit codes:
  0  the configuration is usable; a name without an address is only warned about
  1  a port or socket cannot be listened on
  2  the configuration is wrong, or needs more memory than there is";

const PLAN_CODES: &str = "\
Exit codes:
  0  nothing changes
  2  one of the files is wrong
  3  something changes, and a reload is enough
  4  something changes that needs a restart";

const IMPORT_CODES: &str = "\
Files that an nginx.conf includes are read too, relative ones from its own folder.

Exit codes:
  0  all of it was taken, or is not needed
  2  it is no such file
  3  something was not taken: each thing is a line on standard error, and a comment of the result";

const EXPLAIN_TARGET: &str = "\
The target is taken as a client sends it: `/path` as to a server (name it with -H 'Host: …'),
`http://host/path` as to a proxy, `host:port` behind CONNECT.

Exit codes:
  0  explained, whatever the answer would be
  1  what the forward proxy needs cannot be had, such as its users' file
  2  the configuration or the question is wrong";

/// Flags that mean nothing for a command: its help leaves them out.
const ALL_FLAGS: &[&str] = &[
    "config",
    "host",
    "port",
    "upstream",
    "https",
    "https_port",
    "workers",
    "forward",
    "set",
    "profile",
];
const OF_A_RUNNING_ONE: &[&str] =
    &["upstream", "https", "https_port", "workers", "forward", "profile"];
const OF_LOAD: &[&str] = &["host", "port", "https", "https_port", "workers", "forward", "profile"];
const MEANINGLESS: [(&str, &[&str]); 13] = [
    ("plan", ALL_FLAGS),
    ("import", ALL_FLAGS),
    ("schema", ALL_FLAGS),
    ("completions", ALL_FLAGS),
    ("man", ALL_FLAGS),
    ("reload", OF_A_RUNNING_ONE),
    ("rollback", OF_A_RUNNING_ONE),
    ("health", OF_A_RUNNING_ONE),
    ("certificates", OF_A_RUNNING_ONE),
    ("upstreams", OF_A_RUNNING_ONE),
    ("top", OF_A_RUNNING_ONE),
    ("compare-arms", OF_A_RUNNING_ONE),
    ("bench", OF_LOAD),
];

/// The command line as it is read and told.
pub(crate) fn definition() -> clap::Command {
    let mut command = Cli::command();
    let all: Vec<_> = command.get_arguments().cloned().collect();
    for (name, flags) in MEANINGLESS {
        // A flag of all commands that a command has itself is that command's.
        let hidden = all.iter().filter(|arg| flags.contains(&arg.get_id().as_str()));
        let hidden: Vec<_> = hidden.map(|arg| arg.clone().hide(true)).collect();
        command = command.mut_subcommand(name, |own| {
            let is_its_own = |arg: &Arg| own.get_arguments().any(|it| it.get_id() == arg.get_id());
            let hidden: Vec<_> = hidden.into_iter().filter(|arg| !is_its_own(arg)).collect();
            own.args(hidden)
        });
    }
    command
}

/// What was typed, or why it cannot be read.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&definition().try_get_matches_from(words)?)
}

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, about = ABOUT, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Configuration file [default: config.toml if it exists]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What is to become of an origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct OriginOrder {
    /// Of which upstream
    // Not `upstream`, which is the flag of all commands.
    #[arg(id = "of_upstream", value_name = "UPSTREAM", requires = "origin")]
    pub upstream: Option<String>,
    /// Its URL or address, as the list has it
    pub origin: Option<String>,
    /// up: it is asked; drain: nothing new but of clients that are kept with it; down: nothing
    #[arg(value_parser = ["up", "drain", "down"])]
    pub state: Option<String>,
    /// Its weight from now on, 1 to 1000; 0 is the configuration's
    #[arg(long, value_name = "COUNT", requires = "origin")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub weight: Option<u32>,
    /// Only until the configuration is read again
    #[arg(long, requires = "origin")]
    pub until_reload: bool,
}

/// What to do; without one, run the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    /// Read and verify the configuration, resolve its names and try its ports
    #[command(after_help = CHECK_CODES)]
    Check {
        /// Only the configuration: ask no name server and try no port, as while ringway runs
        #[arg(long)]
        file_only: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have a running ringway read its configuration again
    Reload {
        #[command(flatten)]
        whom: Whom,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have a running ringway put an earlier configuration in use again
    Rollback {
        /// Its number, as GET /admin/generations lists it [default: the last one before this]
        id: Option<u64>,
        /// Write it to the configuration file too, as it was when it was read
        #[arg(long)]
        save: bool,
        #[command(flatten)]
        whom: Whom,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask a running ringway how it is, then exit with 0 (ok, degraded) or 1 (anything else)
    Health {
        #[command(flatten)]
        whom: Whom,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the certificates that clients are shown, as a running ringway has them, or as the
    /// configuration's files are where none runs; exit with 0, or 3 where one needs attention
    Certificates {
        #[command(flatten)]
        whom: Whom,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the origins of a running ringway: who is asked, and why others are not; or say what is
    /// to become of one of them. Exit with 0, or 3 where some origin is not asked
    Upstreams {
        #[command(flatten)]
        order: OriginOrder,
        #[command(flatten)]
        whom: Whom,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Watch a running ringway in the terminal: figures, routes, upstreams, connections, events
    Top {
        #[command(flatten)]
        flags: TopFlags,
        #[command(flatten)]
        whom: Whom,
    },
    /// Watch the two upstreams of a split for a while, and say which does better: rates, errors and
    /// latencies, each with its confidence. Exit with 0, or 3 where B does worse
    CompareArms {
        #[command(flatten)]
        question: ArmsQuestion,
        #[command(flatten)]
        whom: Whom,
    },
    /// Say where a request would go, and why; nothing is sent
    #[command(after_help = EXPLAIN_TARGET)]
    Explain(Question),
    /// Compare two files: what would a reload do?
    #[command(after_help = PLAN_CODES)]
    Plan {
        /// The file that is in use
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The file that is to be used
        #[arg(value_name = "NEW")]
        new: PathBuf,
    },
    /// Print every value that holds, as a file that loads to the same (secrets aside)
    DumpConfig {
        /// Say beside each value where it comes from
        #[arg(long)]
        origin: bool,
        /// Print JSON: key, value, origin, and the effect of a change
        #[arg(long)]
        json: bool,
    },
    /// Look for what on this machine would stop ringway or slow it down, then exit with 0 (nothing,
    /// or hints), 3 (warnings: it would run with less) or 1 (errors: it would not run)
    Doctor {
        /// For programs: one JSON object in place of the table
        #[arg(long)]
        json: bool,
    },
    /// Load a server and report rates, latencies, errors and costs, or compare two configurations
    Bench(Box<BenchFlags>),
    /// Print a file of nginx or haproxy, a flat JSON file, or a TOML file, as TOML that means the
    /// same, with its secrets, and say what was not taken
    #[command(after_help = IMPORT_CODES)]
    Import {
        /// An nginx.conf, a haproxy.cfg, a flat JSON file, or a TOML file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Whose file it is [default: what it looks like]
        #[arg(long, value_name = "KIND")]
        from: Option<From>,
    },
    /// Print the JSON Schema of the configuration, by which editors complete and check its keys
    Schema,
    /// Print completions for a shell
    Completions {
        /// Which one
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// Which ringway is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Whom {
    /// Where to ask, such as http://127.0.0.1:9901, https://admin.example:9901 or
    /// unix:/run/ringway.sock [default: the admin address of the configuration; for its health
    /// then its first listener]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// PEM file of the authorities that may vouch for an https:// [default: those of the system]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca: Option<PathBuf>,
    /// Take any certificate of an https://
    #[arg(long)]
    pub insecure: bool,
}

/// What to compare, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct ArmsQuestion {
    /// The route, as `GET /stats` calls it [default: the only one with a split]
    pub route: Option<String>,
    /// The upstream that is A [default: the first of the split that is not B]
    #[arg(long, value_name = "UPSTREAM")]
    pub a: Option<String>,
    /// The upstream that is B [default: the last of the split that is not A]
    #[arg(long, value_name = "UPSTREAM")]
    pub b: Option<String>,
    /// Rounds, in each of which both are looked at
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    #[arg(value_parser = clap::value_parser!(u32).range(3..=1000))]
    pub rounds: u32,
    /// Length of a round, in milliseconds
    #[arg(long, default_value_t = 3000, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub round_ms: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How to look.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(crate) struct TopFlags {
    /// Between two looks, in milliseconds
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub every: u64,
    /// Look once, print it and end
    #[arg(long)]
    pub once: bool,
    /// With --once: print what `GET /snapshot` says
    #[arg(long, requires = "once")]
    pub json: bool,
}

/// A request that no client has sent.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Question {
    /// Such as GET
    #[arg(value_name = "METHOD")]
    pub method: String,
    /// Such as /path, http://host/path, or host:port for CONNECT
    #[arg(value_name = "URL")]
    pub target: String,
    /// A header field; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub fields: Vec<String>,
    /// The address of who asks, or "unix"
    #[arg(long, value_name = "IP", default_value_t = Ipv4Addr::LOCALHOST.into())]
    pub client: ClientAddress,
    /// A user of the forward proxy, whose password is not asked for
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The listener that is asked [default: the first]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listener: Option<Address>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Profile;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        super::parse(
            std::iter::once("ringway").chain(arguments.iter().copied()).map(OsString::from),
        )
    }

    #[test]
    fn the_definition_has_no_contradiction() {
        definition().debug_assert();
    }

    #[test]
    fn the_help_of_a_command_has_the_flags_that_mean_something_there() {
        for (command, there, not_there) in [
            ("plan", "--help", "--port"),
            ("man", "--help", "--config"),
            ("reload", "--set", "--workers"),
            ("bench", "--upstream", "--port <PORT>"),
            ("check", "--port", "--url"),
        ] {
            let help = parse(&[command, "--help"]).unwrap_err().to_string();
            assert!(help.contains(there) && !help.contains(not_there), "{command}: {help}");
        }
    }

    #[test]
    fn the_help_of_what_asks_a_running_one_has_no_flags_for_a_start() {
        let mut count = 0;
        for command in definition().get_subcommands() {
            if !command.get_arguments().any(|arg| arg.get_id() == "url" && arg.get_long().is_some())
            {
                continue;
            }
            let name = command.get_name();
            let help = parse(&[name, "--help"]).unwrap_err().to_string();
            for flag in ["--workers", "--profile", "--https", "--forward"] {
                assert!(!help.contains(flag), "{name} {flag}: {help}");
            }
            count += 1;
        }
        assert!(count > 5, "{count} commands");
    }

    #[test]
    fn the_one_line_mode_is_read() {
        let line = [
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--upstream",
            "http://a:1",
            "--upstream",
            "http://b:2",
            "--https",
            "example.org",
            "--https-port",
            "8443",
            "--workers",
            "3",
            "--forward",
            "--set",
            "log.access=true",
            "--set",
            "admin.token=a=b",
            "--profile",
            "small",
        ];
        let cli = parse(&line).unwrap();
        assert_eq!(cli.command, None);
        assert_eq!(cli.config, None);
        assert_eq!(
            cli.flags,
            Flags {
                host: Some("127.0.0.1".to_owned()),
                port: Some(0),
                upstream: vec!["http://a:1".to_owned(), "http://b:2".to_owned()],
                https: vec!["example.org".to_owned()],
                https_port: Some(8443),
                workers: Some(3),
                forward: true,
                set: vec!["log.access=true".to_owned(), "admin.token=a=b".to_owned()],
                profile: Some(Profile::Small),
                variables: None,
            }
        );
    }

    #[test]
    fn flags_stand_before_or_after_the_subcommand() {
        for line in [["--config", "a.toml", "check"], ["check", "--config", "a.toml"]] {
            let cli = parse(&line).unwrap();
            assert_eq!(cli.command, Some(Command::Check { file_only: false, json: false }));
            assert_eq!(cli.config, Some(PathBuf::from("a.toml")));
        }
    }

    #[test]
    fn health_may_be_told_where_to_ask() {
        assert_eq!(
            parse(&["health"]).unwrap().command,
            Some(Command::Health { whom: Whom::default(), json: false })
        );
        let url = Some("unix:/run/ringway.sock".to_owned());
        let cli = parse(&["health", "--url", "unix:/run/ringway.sock"]).unwrap();
        assert_eq!(
            cli.command,
            Some(Command::Health { whom: Whom { url, ..Whom::default() }, json: false })
        );
    }

    #[test]
    fn doctor_may_speak_to_programs() {
        for (line, json) in [(&["doctor"][..], false), (&["doctor", "--json"], true)] {
            assert_eq!(parse(line).unwrap().command, Some(Command::Doctor { json }));
        }
    }

    #[test]
    fn a_flag_that_cannot_be_read_exits_with_two() {
        for line in [
            &["--port", "70000"][..],
            &["--port", "http"],
            &["--workers", "-1"],
            &["--prot", "1"],
            &["chekc"],
            &["--upstream"],
            &["--forward=yes"],
            &["--set"],
            &["--profile", "huge"],
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}
