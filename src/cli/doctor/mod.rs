//! `ringway doctor`: looks for what on this machine would slow ringway down or stop it.
//!
//! In: the configuration, the files of the kernel, a ring that is opened and closed again. Out:
//! findings, each with what is, what is wanted, why, and the command that mends it. Every check is
//! a function from facts to one finding. It changes nothing and opens no connection.

mod certificates;
mod cgroup;
mod facts;
mod finding;
mod kernel;
mod machine;
mod network;
mod root;
mod setting;
mod sockets;

use crate::config::Config;

use self::Check::{Always, Perhaps};
use self::facts::Facts;

pub(crate) use self::facts::RingFacts;
pub(crate) use self::finding::Finding;
pub(crate) use self::finding::Report;
pub(crate) use self::root::Root;

/// One thing to look at.
enum Check {
    Always(fn(&Facts, &Config) -> Finding),
    /// `None` where there is no such thing here.
    Perhaps(fn(&Facts, &Config) -> Option<Finding>),
}

/// In the order of the report: what keeps ringway from running first.
const CHECKS: [Check; 30] = [
    Always(kernel::version),
    Always(kernel::driver),
    Always(kernel::io_uring),
    Perhaps(kernel::io_uring_disabled),
    Perhaps(kernel::seccomp),
    Always(network::listeners),
    Perhaps(network::privileged_ports),
    Perhaps(network::unix_sockets),
    Perhaps(kernel::locked_memory),
    Perhaps(network::open_files),
    Perhaps(machine::memory_ceiling),
    Always(machine::processors),
    Perhaps(machine::throttling),
    Perhaps(machine::processes),
    Always(network::somaxconn),
    Always(network::syn_backlog),
    Always(network::netdev_backlog),
    Always(network::ports),
    Perhaps(network::ports_of_listeners),
    Always(network::time_wait),
    Perhaps(network::conntrack),
    Perhaps(machine::swap),
    Perhaps(machine::overcommit),
    Perhaps(machine::huge_pages),
    Perhaps(machine::clock_source),
    Perhaps(kernel::ring_features),
    Perhaps(certificates::validity),
    Perhaps(certificates::key_files),
    Perhaps(certificates::names),
    Perhaps(certificates::keys),
];

/// Looks at everything. `fitted` is what the plan of memory says: why `config` cannot fit here, or
/// what of it is lowered until it fits.
pub(crate) fn examine(
    config: &Config,
    root: &Root,
    ring: RingFacts,
    fitted: &Result<Vec<String>, String>,
) -> Report {
    let facts = Facts::read(root, ring);
    let found = |check: &Check| match check {
        Always(check) => Some(check(&facts, config)),
        Perhaps(check) => check(&facts, config),
    };
    let mut findings: Vec<_> = CHECKS.iter().filter_map(found).collect();
    findings.push(machine::memory_plan(fitted));
    Report::of(findings)
}

#[cfg(test)]
mod tests;
