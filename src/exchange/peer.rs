//! The client of an exchange: what is known of it for as long as its connection stays.
//!
//! In goes a connection's slot; out comes who the client is, what origins are told of it, and the
//! configuration by which it is served. A request keeps the generation with which it began; the
//! next one takes the newest. It never knows what the client asks for.

use std::net::SocketAddr;
use std::rc::Rc;

use crate::config::HalfClose;
use crate::http::forwarded_header::{ClientText, Scheme};
use crate::http::rewrite::ForwardedFor;
use crate::observe::connection_stats::{ConnectionStats, WaitsOn};
use crate::relay::Receiver;
use crate::ring::Socket;
use crate::upstream::queue::Holder;
use crate::worker::Worker;
use crate::worker::generation::Generation;
use crate::worker::slot::ConnectionSlot;

/// A client, as long as its connection stays.
pub(crate) struct Peer<'c> {
    pub worker: &'c Rc<Worker>,
    pub slot: &'c ConnectionSlot,
    pub stats: &'c ConnectionStats,
    pub address: SocketAddr,
    /// As the pool knows it.
    pub holder: Holder,
    /// What origins are told of it.
    pub text: ClientText,
    listener: u16,
    /// By which its request is served.
    pub generation: Rc<Generation>,
    pub is_trusted: bool,
    /// It came in by a listener at which it may ask for what is not ours.
    pub is_forward: bool,
}

impl<'c> Peer<'c> {
    pub(crate) fn new(slot: &'c ConnectionSlot) -> Self {
        let worker = slot.worker();
        let scheme = if slot.socket().is_plain() { Scheme::Http } else { Scheme::Https };
        let mut peer = Self {
            worker,
            slot,
            stats: slot.stats(),
            address: slot.peer(),
            holder: slot.holder(),
            text: ClientText::new(slot.peer().ip().to_canonical(), scheme),
            listener: slot.listener(),
            generation: worker.generation(),
            is_trusted: false,
            is_forward: false,
        };
        peer.apply_generation();
        peer
    }

    /// Takes the newest configuration for the next request; whether that is another one.
    pub(crate) fn refresh(&mut self) -> bool {
        let is_other = self.worker.refresh(&mut self.generation);
        if is_other {
            self.apply_generation();
        }
        is_other
    }

    fn apply_generation(&mut self) {
        let Generation { config, access, .. } = &*self.generation;
        let address = self.address.ip().to_canonical();
        self.is_trusted = config.server.trusted_proxies.contains(address);
        self.is_forward = access.is_offered(self.listener);
    }

    /// An origin on whose `socket` a request of this client is sent, as somebody that is sent to.
    pub(crate) fn origin<'s>(&'s self, socket: &'s Socket) -> Receiver<'s> {
        Receiver {
            socket,
            deadlines: &self.worker.deadlines,
            stall: self.generation.config.timeouts.read,
            half_close: HalfClose::Keep,
            stats: Some((self.stats, WaitsOn::OriginToTake)),
        }
    }

    /// What of it an origin is told.
    pub(crate) fn forwarded_for(&self) -> ForwardedFor<'_> {
        ForwardedFor { client: &self.text, is_trusted: self.is_trusted }
    }
}
