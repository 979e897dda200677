//! The addresses that names have now, asked as the data plane asks.
//!
//! In go hosts of origins, and of targets and parents; out come the addresses that would be tried,
//! in their order. Who asks waits here: this is for commands, never for a ring thread.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::runtime;

use crate::address::Address;
use crate::config::DnsConfig;
use crate::fault::Fault;
use crate::forward_proxy::lookup::NameLookup;
use crate::upstream::resolver::Resolver;

/// As long as a start waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Of origins and parents, in their order; empty where a name has none.
pub(crate) fn of_origins<'h>(
    dns: &DnsConfig,
    hosts: impl Iterator<Item = (&'h str, u16)>,
) -> io::Result<Vec<Vec<Address>>> {
    let resolver = Resolver::start(dns)?;
    let watched: Vec<_> = hosts.map(|(host, port)| resolver.watch(host, port)).collect();
    resolver.settle(PATIENCE);
    Ok(watched.iter().map(|addresses| addresses.load().to_vec()).collect())
}

/// Of a target or a parent.
pub(super) fn of_target(
    names: &NameLookup,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, Fault> {
    wait_for(names.look_up(host, port)).map_err(|_| Fault::Internal)?
}

/// Waits for what a thread of its own finds out.
pub(super) fn wait_for<T>(answer: impl Future<Output = T>) -> io::Result<T> {
    Ok(runtime::Builder::new_current_thread().build()?.block_on(answer))
}
