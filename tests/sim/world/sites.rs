//! Where origins are.
//!
//! In goes chance; origins go down with all of their connections, fall silent, and come back.

use super::names::{HOSTS, NAMED_PORT, host_ip};
use super::{Happening, ORIGINS, Peer, SECOND, World};
use std::net::{Ipv4Addr, SocketAddrV4};

pub(super) struct Site {
    pub address: SocketAddrV4,
    pub is_up: bool,
    /// It takes no connection and refuses none.
    pub is_mute: bool,
}

impl Site {
    fn new(ip: [u8; 4], port: u16) -> Self {
        let address = SocketAddrV4::new(Ipv4Addr::from(ip), port);
        Self { address, is_up: true, is_mute: false }
    }

    /// Those with an address of their own, and behind them those that names lead to.
    pub(super) fn all() -> Vec<Self> {
        let known = ORIGINS.iter().map(|port| Self::new([127, 0, 0, 1], *port));
        let named = (0..HOSTS).map(|host| Self::new(host_ip(host).octets(), NAMED_PORT));
        known.chain(named).collect()
    }
}

impl World {
    pub(super) fn site(&self, address: SocketAddrV4) -> Option<usize> {
        self.sites.iter().position(|site| site.address == address)
    }

    /// An origin goes down, falls silent, or comes back.
    pub(super) fn turn(&mut self, site: usize) {
        if self.is_settled {
            return;
        }
        let after = self.chance.next() % (4 * SECOND);
        self.plan(after, Happening::Turn(site));
        let is_mute = self.chance.once_in(3);
        let it = &mut self.sites[site];
        if !it.is_up || it.is_mute {
            (it.is_up, it.is_mute) = (true, false);
        } else if is_mute {
            it.is_mute = true;
        } else {
            self.take_down(site);
        }
    }

    /// It goes down with all of its connections.
    pub(super) fn take_down(&mut self, site: usize) {
        let it = &mut self.sites[site];
        (it.is_up, it.is_mute) = (false, false);
        let address = it.address;
        let is_reset = self.chance.once_in(2);
        let of_it = |(index, peer): (usize, &Peer)| {
            let connection = peer.at_origin()?;
            // Where an answer ends with its connection, nobody could tell an end in order from its
            // end.
            let ends = matches!(peer, Peer::Origin(origin) if origin.is_answering());
            let is_its = self.kernel.connections[connection].peer == address;
            is_its.then_some((index, connection, is_reset || ends))
        };
        let gone: Vec<_> = self.peers.iter().filter_map(of_it).collect();
        for (index, connection, is_reset) in gone {
            self.kernel.peer_leave(connection, is_reset);
            self.owners.remove(&connection);
            self.peers.remove(index);
        }
    }
}
