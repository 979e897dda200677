//! The time after all that went wrong: it gets better, and everybody is served again.
//!
//! In goes a world that all of its clients have left; its origins come up, names lead somewhere,
//! memory is there. After a minute nothing may be held of what went before, and whoever comes then
//! is served as in a world in which nothing ever goes wrong.

use super::names::Names;
use super::{Happening, ORIGINS, Peer, SECOND, World};
use crate::client::Client;
use crate::facts::Method;
use crate::streams::Streams;
use std::collections::VecDeque;

use ringway::internals::server::Held;

/// Longer than any wait of the program's, such as that before a name is asked for once more.
const PATIENCE: u64 = 75 * SECOND;

/// What nobody may hold any more who is there no longer.
const OF_CLIENTS: [&str; 5] = ["leased_chunks", "connections", "tunnels", "bodies", "streams"];

type Call = Box<dyn FnOnce()>;

impl World {
    /// Nothing goes wrong any more.
    pub(super) fn recover(&mut self) -> Option<Call> {
        if self.kernel.is_draining {
            return None;
        }
        self.is_settled = true;
        self.kernel.shortage = 0;
        for site in &mut self.sites {
            (site.is_up, site.is_mute) = (true, false);
        }
        for (_, peer) in &mut self.peers {
            if let Peer::Origin(origin) = peer {
                origin.become_calm();
            }
        }
        self.settle_names();
        self.plan(PATIENCE, Happening::Probe);
        // Whoever comes now takes its time, for which those of bad weather are too short.
        let calls = [self.relieve(), self.reload()];
        Some(Box::new(move || calls.into_iter().flatten().for_each(|call| call())))
    }

    /// Somebody comes and asks.
    pub(super) fn probe(&mut self) {
        if self.kernel.is_draining {
            return;
        }
        self.check_settled();
        for is_multiplexed in [false, true] {
            let plan: VecDeque<usize> = (0..3).map(|_| self.make_up()).collect();
            for id in &plan {
                if self.facts.requests[*id].method.is_tunnel() {
                    self.facts.requests[*id].method = Method::Put;
                }
            }
            let chance = &mut self.chance;
            let peer = if is_multiplexed {
                Peer::Streams(Streams::new(plan.into(), true, chance))
            } else {
                Peer::Client(Client::new(plan, true, chance))
            };
            let peer = self.add(peer);
            self.plan_peer(peer, 0);
            self.facts.counts.probes += 1;
        }
    }

    /// What must be so before anybody comes.
    fn check_settled(&mut self) {
        let Some(alone) = self.alone.clone() else { return };
        // Connections to origins may rest.
        let held = alone.held();
        let kept = |kind: &&(&str, u64)| OF_CLIENTS.contains(&kind.0);
        let ledger: Vec<_> = held.ledger.iter().filter(kept).copied().collect();
        let open = held.origin_connections;
        let (origin_connections, idle_origin_connections) = (0, 0);
        let left = Held { ledger, origin_connections, idle_origin_connections, ..held };
        if left != Held::default() {
            self.facts.offend(format!("held when nobody was there: {left:?}"));
        }
        let (known, names) = self.configured;
        let is_asked = |site: usize| match site.checked_sub(ORIGINS.len()) {
            // Whoever asks for it by its address may, too.
            None => site == 0 || site < known,
            Some(host) => self.names.leads_to(host) && Names::is_configured(host, names),
        };
        let mut left = Vec::new();
        for (_, peer) in &self.peers {
            let Some(connection) = peer.at_origin() else { continue };
            let connection = &self.kernel.connections[connection];
            if connection.file.is_some()
                && let Some(site) = self.site(connection.peer)
                && !is_asked(site)
            {
                let state = connection.describe();
                left.push(format!("of {open} one to {} is left: {state}", connection.peer));
            }
        }
        for line in left {
            self.facts.offend(line);
        }
    }
}
