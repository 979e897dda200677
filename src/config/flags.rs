//! The command line's flags that are part of the configuration.
//!
//! In: what clap has read. Out: values in the raw configuration, each marked with its flag.
//! Nothing here checks a range: a flag's value goes through `check` like a file's.

use super::raw::{Given, RawConfig, RawOrigin, RawUpstream, Table};
use super::units::Whole;

/// Name of the upstream that `--upstream` flags make up.
pub const FLAG_UPSTREAM: &str = "default";

/// What the command line sets. It overrides the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Flags {
    /// Address to listen on, in place of server.host
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Port to listen on, in place of server.port; 0 lets the system choose
    #[arg(long, global = true, value_name = "PORT")]
    pub port: Option<u16>,
    /// Origin to forward to; may be repeated. Replaces every upstream and route of the file,
    /// and without --config no file is read
    #[arg(long, global = true, value_name = "URL")]
    pub upstream: Vec<String>,
    /// Threads, each with its own ring, in place of server.workers; 0 is one per core
    #[arg(long, global = true, value_name = "COUNT")]
    pub workers: Option<u32>,
    /// Offer the forward proxy, in place of forward.enabled
    #[arg(long, global = true)]
    pub forward: bool,
}

impl RawConfig {
    pub(super) fn apply_flags(&mut self, flags: &Flags) {
        if let Some(host) = &flags.host {
            self.server.host = Some(Given::by_flag("--host", host.clone()));
        }
        if let Some(port) = flags.port {
            self.server.port = Some(Given::by_flag("--port", Whole::Number(port.into())));
        }
        if let Some(workers) = flags.workers {
            self.server.workers = Some(Given::by_flag("--workers", Whole::Number(workers.into())));
        }
        if flags.forward {
            self.forward.enabled = Some(Given::by_flag("--forward", true));
        }
        if !flags.upstream.is_empty() {
            let flag = "--upstream";
            let origin =
                |url: &String| Given::by_flag(flag, RawOrigin { url: url.clone(), weight: None });
            let origins = flags.upstream.iter().map(origin).collect();
            let upstream = RawUpstream {
                name: Some(Given::by_flag(flag, FLAG_UPSTREAM.to_owned())),
                origins: Some(Given::by_flag(flag, origins)),
                ..RawUpstream::default()
            };
            self.upstream = Some(Given::by_flag(flag, vec![Given::by_flag(flag, Table(upstream))]));
            self.route.clear();
        }
    }
}
