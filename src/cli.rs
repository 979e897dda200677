//! The command line: flags, subcommands and their help texts.
//!
//! In: the process's arguments. Out: a `Cli`; clap itself answers `--help`, `--version` and a
//! flag that it does not know (exit code 2). The flags that override the configuration are
//! `config::Flags`, because they are one of its sources. Nothing here reads a file.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

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
  ringway health                                   is the one that runs here well?";

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, about = ABOUT, after_help = EXAMPLES)]
pub struct Cli {
    /// Configuration file [default: config.toml if it exists]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do; without one, run the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Read and verify the configuration, then exit with 0 (usable) or 2 (not usable)
    Check,
    /// Have a running ringway read its configuration again
    Reload {
        /// Where to ask [default: the admin address of the configuration]
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Have a running ringway put an earlier configuration in use again
    Rollback {
        /// Its number, as GET /admin/generations lists it [default: the last one before this]
        id: Option<u64>,
        /// Where to ask [default: the admin address of the configuration]
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Ask a running ringway how it is, then exit with 0 (ok, degraded) or 1 (anything else)
    Health {
        /// Where to ask, such as http://127.0.0.1:9901 or unix:/run/ringway.sock [default: the
        /// admin address of the configuration, then its first listener]
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
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
            assert_eq!(cli.command, Some(Command::Check));
            assert_eq!(cli.config, Some(PathBuf::from("a.toml")));
        }
    }

    #[test]
    fn health_may_be_told_where_to_ask() {
        assert_eq!(parse(&["health"]).unwrap().command, Some(Command::Health { url: None }));
        let url = Some("unix:/run/ringway.sock".to_owned());
        let cli = parse(&["health", "--url", "unix:/run/ringway.sock"]).unwrap();
        assert_eq!(cli.command, Some(Command::Health { url }));
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
