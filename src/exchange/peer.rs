//! The client of an exchange: what is known of it for as long as its connection stays.
//!
//! In goes a connection's slot; out comes who the client is, what origins are told of it, and the
//! configuration by which it is served. A request keeps the generation with which it began; the
//! next one takes the newest. It never knows what the client asks for.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::address::{ClientAddress, PeerAddress};
use crate::config::{HalfClose, TimeoutsConfig};
use crate::http::client_chain::{Trust, client_address};
use crate::http::forwarded_header::{ClientText, Introduction, Scheme, push_address};
use crate::http::head::RequestHead;
use crate::http::rewrite::ForwardedFor;
use crate::observe::connection_stats::{ConnectionStats, WaitsOn};
use crate::proxy_protocol::{self, Version};
use crate::relay::Receiver;
use crate::ring::Socket;
use crate::tls::facts::TlsFacts;
use crate::tls::session::Session;
use crate::upstream::Upstream;
use crate::upstream::fair::Claimant;
use crate::upstream::h1::Terms;
use crate::upstream::queue::Holder;
use crate::worker::Worker;
use crate::worker::generation::Generation;
use crate::worker::slot::ConnectionSlot;

/// A client, as long as its connection stays.
pub(crate) struct Peer<'c> {
    pub worker: &'c Rc<Worker>,
    pub slot: &'c ConnectionSlot,
    pub stats: &'c ConnectionStats,
    /// Who is connected.
    pub address: PeerAddress,
    /// Who has sent the request: the source of the connection ([`ConnectionSlot::source`]), or
    /// whom a trusted one says.
    pub client: ClientAddress,
    /// The same as text, where it is another than the source.
    client_text: String,
    /// As the pool knows the client.
    pub holder: Holder,
    /// What origins are told of the source.
    text: ClientText,
    listener: u16,
    /// Once they were asked for.
    tls: OnceCell<Option<Arc<TlsFacts>>>,
    /// By which its request is served.
    pub generation: Rc<Generation>,
    /// How long anybody may take for it.
    pub times: Rc<TimeoutsConfig>,
    pub is_trusted: bool,
    /// It came in by a listener at which it may ask for what is not ours.
    pub is_forward: bool,
}

impl<'c> Peer<'c> {
    pub(crate) fn new(slot: &'c ConnectionSlot) -> Self {
        let worker = slot.worker();
        let mut peer = Self {
            worker,
            slot,
            stats: slot.stats(),
            address: slot.peer(),
            client: slot.source().client(),
            client_text: String::new(),
            holder: slot.holder(),
            text: ClientText::new(slot.source().client(), scheme(slot), Introduction::default()),
            listener: slot.listener(),
            tls: OnceCell::new(),
            times: worker.generation().times.general(),
            generation: worker.generation(),
            is_trusted: false,
            is_forward: false,
        };
        slot.speaks_for(None);
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

    /// What is known of its session, where its connection has TLS.
    pub(crate) fn tls(&self) -> Option<&TlsFacts> {
        self.tls.get_or_init(|| self.slot.socket().session(Session::facts)).as_deref()
    }

    fn apply_generation(&mut self) {
        let generation = self.generation.clone();
        let Generation { config, access, .. } = &*generation;
        let address = self.slot.source().client();
        self.set_client(address);
        self.is_trusted = config.server.trusted_proxies.has(address);
        self.text = ClientText::new(address, scheme(self.slot), config.server.introduction());
        self.is_forward = access.is_offered(self.listener);
        self.times = self.generation.times.general();
    }

    /// Finds out who has sent the request whose head lies in `text`, if a trusted peer passes it
    /// on.
    #[inline]
    pub(crate) fn identify(&mut self, head: &RequestHead, text: &[u8]) {
        // The same head comes from the same client.
        if self.is_trusted && head.repeated().is_none() {
            self.find_client(head, text);
        }
    }

    fn find_client(&mut self, head: &RequestHead, text: &[u8]) {
        let server = &self.generation.config.server;
        let (class, trusted) = (server.client_ip_class(), &server.trusted_proxies);
        let said = client_address(&head.fields, text, class, trusted);
        self.set_client(said.map_or(self.slot.source().client(), ClientAddress::of));
    }

    /// Takes the source for the client: nothing in a head that cannot be read is believed.
    pub(crate) fn believe_nothing(&mut self) {
        self.set_client(self.slot.source().client());
    }

    fn set_client(&mut self, client: ClientAddress) {
        if client == self.client {
            return;
        }
        self.client = client;
        self.client_text.clear();
        let spoken_for = client.ip().filter(|_| client != self.slot.source().client());
        if let Some(ip) = spoken_for {
            self.client_text.reserve(ADDRESS_BYTES_MAX);
            push_address(&mut self.client_text, ip);
        }
        self.holder.claimant = Claimant::of(client);
        self.slot.speaks_for(spoken_for);
    }

    /// The client's address, without a port or brackets.
    pub(crate) fn client_text(&self) -> &str {
        if self.client_text.is_empty() { self.text.address() } else { &self.client_text }
    }

    /// Where the access log says that a request comes from: the port of a client that a peer speaks
    /// of is not known.
    pub(crate) fn sender(&self) -> PeerAddress {
        match self.client {
            ClientAddress::Ip(ip) if !self.client_text.is_empty() => {
                PeerAddress::Ip(SocketAddr::new(ip, 0))
            }
            _ => self.slot.source(),
        }
    }

    /// Appends the header by which an origin that wants one is told whose connection it gets.
    pub(crate) fn put_proxy_protocol(&self, version: Version, out: &mut Vec<u8>) {
        let client = match self.sender() {
            PeerAddress::Ip(client) => Some(client),
            PeerAddress::Unix => None,
        };
        proxy_protocol::put(out, version, client.zip(self.slot.socket().own_address()));
    }

    /// What a connection to `upstream` with TLS begins with; nothing where that need not know whose
    /// it is.
    pub(crate) fn introduction(&self, upstream: &Upstream) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(version) = upstream.early_proxy_protocol() {
            self.put_proxy_protocol(version, &mut out);
        }
        out
    }

    /// An origin on whose `socket` a request of this client is sent, as somebody that is sent to.
    pub(crate) fn origin<'s>(&'s self, socket: &'s Socket) -> Receiver<'s> {
        Receiver {
            socket,
            deadlines: &self.worker.deadlines,
            stall: self.times.read,
            half_close: HalfClose::Keep,
            stats: Some((self.stats, WaitsOn::OriginToTake)),
        }
    }

    /// Takes the timeouts of a route and of an upstream, by their indexes, where some have their
    /// own.
    #[inline]
    pub(crate) fn go_by(&mut self, place: (Option<u32>, Option<usize>)) {
        self.stats.takes_route(place.0);
        if self.generation.times.differ {
            self.times = self.generation.times.at(&self.generation.config, place);
        }
    }

    /// What the heads of answers to it are held to.
    pub(crate) fn terms(&self) -> Terms<'_> {
        Terms { limits: self.generation.response_limits, metrics: &self.worker.metrics }
    }

    /// What of it an origin is told.
    pub(crate) fn forwarded_for(&self) -> ForwardedFor<'_> {
        let trusted: &dyn Trust = &self.generation.config.server.trusted_proxies;
        ForwardedFor {
            client: &self.text,
            trust: self.is_trusted.then_some(trusted),
            address: self.client_text(),
            prefix: b"",
        }
    }
}

/// Of an IPv6 address that ends like one of IPv4: the longest there is.
const ADDRESS_BYTES_MAX: usize = 45;

/// What its client speaks.
fn scheme(slot: &ConnectionSlot) -> Scheme {
    if slot.socket().is_secure() { Scheme::Https } else { Scheme::Http }
}
