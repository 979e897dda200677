//! The command line: flags, subcommands and their help texts.
//!
//! In: the process's arguments. Out: a `Cli`; clap itself answers `--help`, `--version` and a
//! flag that it does not know (exit code 2). The flags that override the configuration are
//! `config::Flags`, because they are one of its sources. Nothing here reads a file.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::address::{Address, ClientAddress};
use crate::cli::bench::BenchFlags;
use crate::config::Flags;

const ABOUT: &str = "An io_uring HTTP/1.1 reverse proxy";

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

const EXPLAIN_TARGET: &str = "\
The target is taken as a client sends it: `/path` as to a server (name it with -H 'Host: …'),
`http://host/path` as to a proxy, `host:port` behind CONNECT.

Exit codes:
  0  explained, whatever the answer would be
  1  what the forward proxy needs cannot be had, such as its users' file
  2  the configuration or the question is wrong";

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
    #[arg(requires = "origin")]
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
    },
    /// Have a running ringway read its configuration again
    Reload {
        #[command(flatten)]
        whom: Whom,
    },
    /// Have a running ringway put an earlier configuration in use again
    Rollback {
        /// Its number, as GET /admin/generations lists it [default: the last one before this]
        id: Option<u64>,
        #[command(flatten)]
        whom: Whom,
    },
    /// Ask a running ringway how it is, then exit with 0 (ok, degraded) or 1 (anything else)
    Health {
        #[command(flatten)]
        whom: Whom,
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
    /// Print a flat JSON file, or a TOML file, as the shortest TOML that means the same, with its
    /// secrets
    Import {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the JSON Schema of the configuration, by which editors complete and check its keys
    Schema,
    /// Print completions for a shell
    Completions {
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

/// A request that no client has sent.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Question {
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
    use clap::CommandFactory;

    use super::*;
    use crate::config::Profile;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("ringway").chain(arguments.iter().copied()))
    }

    #[test]
    fn the_definition_has_no_contradiction() {
        Cli::command().debug_assert();
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
            }
        );
    }

    #[test]
    fn flags_stand_before_or_after_the_subcommand() {
        for line in [["--config", "a.toml", "check"], ["check", "--config", "a.toml"]] {
            let cli = parse(&line).unwrap();
            assert_eq!(cli.command, Some(Command::Check { file_only: false }));
            assert_eq!(cli.config, Some(PathBuf::from("a.toml")));
        }
    }

    #[test]
    fn health_may_be_told_where_to_ask() {
        assert_eq!(
            parse(&["health"]).unwrap().command,
            Some(Command::Health { whom: Whom::default() })
        );
        let url = Some("unix:/run/ringway.sock".to_owned());
        let cli = parse(&["health", "--url", "unix:/run/ringway.sock"]).unwrap();
        assert_eq!(cli.command, Some(Command::Health { whom: Whom { url, ..Whom::default() } }));
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
