//! A list of networks, as keys have it.
//!
//! In goes the address of a client; out comes whether it is among them. It reads nothing.

#[cfg(test)]
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::ClientAddress;

/// Networks, asked once per client connection, and whether clients that come by a Unix socket are
/// meant too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    pub(super) networks: Vec<IpNet>,
    pub(super) has_unix: bool,
}

impl Networks {
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.has_unix
    }

    /// As they stand in a list.
    pub(super) fn words(&self) -> Vec<String> {
        let networks = self.networks.iter().map(ToString::to_string);
        networks.chain(self.has_unix.then(|| "unix".to_owned())).collect()
    }

    /// Whether all of IPv4 or all of IPv6 is among them.
    pub fn has_everybody(&self) -> bool {
        self.networks.iter().any(|network| network.prefix_len() == 0)
    }

    /// A client without an address is in no network.
    pub fn has(&self, client: ClientAddress) -> bool {
        match client {
            ClientAddress::Ip(ip) => self.networks.iter().any(|network| network.contains(&ip)),
            ClientAddress::Unix => self.has_unix,
        }
    }

    /// An IPv4 address mapped into IPv6 counts as the IPv4 address it is.
    #[cfg(test)]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.has(ClientAddress::of(address))
    }
}
