//! Who takes part, what is asked, and what befalls all of them.
//!
//! In go chance and the weather; out come peers and appointments.

use super::{Happening, ORIGINS, Peer, SECOND, Weather, World};
use crate::client::Client;
use crate::facts::{Fact, Method};
use crate::streams::Streams;
use crate::wire::Framing;
use std::collections::VecDeque;

impl World {
    /// Who takes part.
    pub(super) fn people(&mut self) {
        let is_calm = self.weather == Weather::Calm;
        for _ in 0..=self.chance.below(12) {
            let count = 1 + self.chance.below(12);
            let plan: VecDeque<usize> = (0..count).map(|_| self.make_up()).collect();
            let client = if self.chance.once_in(3) {
                let is_tunnel = |id: &usize| self.facts.requests[*id].method.is_tunnel();
                let plan = plan.into_iter().filter(|id| !is_tunnel(id)).collect();
                Peer::Streams(Streams::new(plan, is_calm, &mut self.chance))
            } else {
                Peer::Client(Client::new(plan, is_calm, &mut self.chance))
            };
            // Whoever comes before a name has been resolved is told so.
            let wait = if is_calm && self.names.is_on { SECOND } else { 0 };
            let after = wait + self.chance.next() % SECOND;
            let peer = self.add(client);
            self.plan_peer(peer, after);
        }
        self.plan(SECOND, Happening::Look);
        if self.names.is_on {
            self.plan_names();
        }
        if self.pressure.is_on {
            self.plan_pressure();
        }
        for _ in 0..self.chance.below(4) {
            let after = self.chance.next() % (5 * SECOND);
            self.plan(after, Happening::Reload);
        }
        if !is_calm {
            let count = if self.names.is_on { self.sites.len() } else { ORIGINS.len() };
            for site in 0..count {
                if self.chance.once_in(2) {
                    let after = self.chance.next() % (3 * SECOND);
                    self.plan(after, Happening::Turn(site));
                }
            }
            if self.chance.once_in(4) {
                let after = self.chance.next() % (6 * SECOND);
                self.plan(after, Happening::Drain);
            }
            if self.chance.once_in(4) {
                self.plan(SECOND / 2, Happening::Shortage);
            }
        }
    }

    /// A request that is to be asked; its number.
    pub(super) fn make_up(&mut self) -> usize {
        let chance = &mut self.chance;
        let method = match chance.below(16) {
            0 | 1 => Method::Head,
            2..=4 => Method::Put,
            5..=7 => Method::Post,
            8 => Method::Upgrade,
            9 => Method::Connect,
            _ => Method::Get,
        };
        let framings = [Framing::Length, Framing::Chunked, Framing::Trailers];
        let has_body = matches!(method, Method::Put | Method::Post) || method.is_tunnel();
        let framing = if has_body { framings[chance.below(3)] } else { Framing::None };
        let magnitudes = if chance.once_in(8) { 20 } else { 17 };
        let length = if has_body { chance.size(magnitudes) } else { 0 };
        let length = if method.is_tunnel() { 1 + length } else { length };
        self.facts.requests.push(Fact {
            method,
            framing,
            length,
            is_sent: false,
            answers: Vec::new(),
        });
        self.facts.requests.len() - 1
    }
}
