//! One origin of an upstream: where it is, and what is known of it.
//!
//! In goes what a configuration says, with what the resolver has found; out come its servers, and
//! what tells its connections from those of others. Nothing here asks anybody.

use std::sync::Arc;

use crate::config::OriginHttp;
use crate::observe::traffic::OriginTraffic;
use crate::ring::clock;
use crate::tls::connector::Connector;

use super::addresses::Addresses;
use super::quota::Quota;
use super::services::{Server, Service};
use super::targets::Targets;

/// One origin server, as all workers see it.
#[derive(Clone)]
pub(crate) struct Origin {
    /// As the configuration has it.
    pub url: String,
    /// A name, an IP literal without brackets, or the address of a Unix socket.
    pub host: String,
    /// `host:port` as the `Host` field has it.
    pub authority: String,
    pub weight: u32,
    pub priority: u16,
    /// What its paths begin with, and where it is: see `config::OriginConfig`.
    pub base: String,
    pub zone: String,
    pub addresses: Arc<Addresses>,
    pub targets: Arc<Targets>,
    pub quota: Arc<Quota>,
    /// What exchanges with it have come to.
    pub traffic: Arc<OriginTraffic>,
    /// How it is spoken to over TLS.
    pub tls: Option<Arc<Connector>>,
    /// And which HTTP.
    pub http: OriginHttp,
    /// Where it is a service: its servers, in place of addresses of its own.
    pub service: Option<Arc<Service>>,
    /// One of the servers of a service.
    pub is_server: bool,
}

impl Origin {
    /// Itself, or the servers that its service has now.
    pub(crate) fn servers(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let Some(service) = &self.service else { return vec![self.clone()] };
        service.load().iter().map(|server| Arc::new(self.server(server))).collect()
    }

    /// Another one whenever its addresses are others.
    pub(super) fn version(&self) -> u64 {
        match &self.service {
            Some(service) => service.version(),
            None => self.addresses.version(),
        }
    }

    fn server(&self, server: &Server) -> Self {
        Self {
            host: server.host.clone(),
            authority: server.authority(self.tls.is_some()),
            weight: self.weight.saturating_mul(server.weight),
            priority: self.priority.saturating_add(server.rank),
            addresses: server.addresses.clone(),
            targets: server.targets.clone(),
            service: None,
            is_server: true,
            ..self.clone()
        }
    }

    /// What tells its connections from those of others: where they go, and whom they trust.
    pub(super) fn identity(&self) -> String {
        let trust = self.tls.as_ref().map_or(0, |tls| tls.identity());
        let server = if self.is_server { &*self.authority } else { "" };
        format!("{} {server} {trust:x} {}", self.url, self.http)
    }

    /// Its name has no address, or none of those may be asked.
    pub(crate) fn is_down(self: &Arc<Self>) -> bool {
        if self.service.is_some() {
            return self.servers().iter().all(Self::is_down);
        }
        let addresses = self.addresses.load();
        let known = self.targets.keep(&addresses, clock::coarse_ms());
        addresses.is_empty()
            || known.len() == addresses.len() && known.iter().all(|target| !target.is_sound())
    }
}
