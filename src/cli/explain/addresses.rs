//! The addresses that names have now, asked as the data plane asks.
//!
//! In go hosts of origins, and of targets and parents; out come the addresses that would be tried,
//! in their order. Who asks waits here: this is for commands, never for a ring thread.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;

use crate::address::Address;
use crate::config::{DnsConfig, OriginConfig};
use crate::fault::Fault;
use crate::forward_proxy::lookup::NameLookup;
use crate::upstream::addresses::Addresses;
use crate::upstream::resolver::Resolver;
use crate::upstream::services::Service;

/// As long as a start waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) enum Asked<'h> {
    Host(&'h str, u16),
    /// All servers of it.
    Service(&'h str),
}

enum Watched {
    Addresses(Arc<Addresses>),
    Service(Arc<Service>),
}

impl<'h> Asked<'h> {
    pub(crate) fn host(host: &'h str, port: u16) -> Self {
        Self::Host(host, port)
    }

    pub(crate) fn of(origin: &'h OriginConfig) -> Self {
        if origin.is_srv {
            return Self::Service(&origin.host);
        }
        Self::Host(&origin.host, origin.port)
    }

    fn watch(self, resolver: &Resolver) -> Watched {
        match self {
            Self::Host(host, port) => Watched::Addresses(resolver.watch(host, port)),
            Self::Service(name) => Watched::Service(resolver.watch_service(name)),
        }
    }
}

impl Watched {
    fn found(&self) -> Vec<Address> {
        match self {
            Self::Addresses(addresses) => addresses.load().to_vec(),
            Self::Service(service) => {
                service.load().iter().flat_map(|server| server.addresses.load().to_vec()).collect()
            }
        }
    }
}

/// Of origins and parents, in their order; empty where a name has none.
pub(crate) fn of_origins<'h>(
    dns: &DnsConfig,
    hosts: impl Iterator<Item = Asked<'h>>,
) -> io::Result<Vec<Vec<Address>>> {
    let resolver = Resolver::start(dns)?;
    let watched: Vec<_> = hosts.map(|asked| asked.watch(&resolver)).collect();
    resolver.settle(PATIENCE);
    Ok(watched.iter().map(Watched::found).collect())
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
