//! What the listeners that speak TLS go by.
//!
//! In goes the `[tls]` part of a configuration with the numbers of the listeners; out come sessions
//! for their clients. Whatever can fail fails when it is loaded, which no worker does.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use super::certificates::{Certificates, Shown};
use super::clients::Clients;
use super::managed::Managed;
use super::provider::provider;
use super::resolver::Resolver;
use super::session::{ALPN_PROOF, Session};
use super::tickets::Tickets;
use crate::config::{Config, TlsConfig, TlsVersion};

/// The TLS of one configuration.
pub(crate) struct Acceptor {
    /// The listeners that it is for.
    listeners: Vec<u16>,
    /// Of the first of them.
    port: u16,
    config: Arc<ServerConfig>,
    /// Of the administration, whose clients show a token and no certificate.
    admin: Arc<ServerConfig>,
    clients: Clients,
    pub(crate) certificates: Arc<Certificates>,
    /// Those that are ordered.
    pub(crate) managed: Option<Arc<Managed>>,
}

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];

impl Acceptor {
    /// `None` where nothing speaks TLS. `before` is what was in use so far.
    pub(crate) fn load(
        config: &Config,
        listeners: Vec<u16>,
        port: u16,
        before: Option<&Self>,
    ) -> Result<Option<Arc<Self>>, String> {
        if !config.shows_certificates() {
            return Ok(None);
        }
        let tls = &config.tls;
        let known = before.map(|before| &*before.certificates);
        let certificates =
            Certificates::load(&tls.certificates, tls.strict_sni, known, &provider())?;
        let certificates = Arc::new(certificates);
        let clients = Clients::load(tls, before.map(|before| &before.clients))?;
        let managed_before = before.and_then(|before| before.managed.as_ref());
        let load = |acme| Managed::load(acme, managed_before);
        let managed = tls.acme.as_ref().map(load).transpose()?;
        let resolver: Arc<dyn ResolvesServerCert> = match &managed {
            None => certificates.clone(),
            Some(managed) => {
                Arc::new(Resolver { files: certificates.clone(), managed: managed.clone() })
            }
        };
        let (config, admin) = (
            server_config(tls, Some(&clients), config.http2.enabled, &resolver)?,
            server_config(tls, None, false, &resolver)?,
        );
        Ok(Some(Arc::new(Self { listeners, port, config, admin, clients, certificates, managed })))
    }

    /// Whether clients of the listener with this number speak TLS.
    pub(crate) fn is_for(&self, listener: u16) -> bool {
        self.listeners.contains(&listener)
    }

    /// Where clients are sent that come without TLS.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Every certificate that clients may be shown.
    pub(crate) fn shown(&self) -> Vec<Arc<Shown>> {
        let ordered = self.managed.iter().flat_map(|managed| managed.list());
        self.certificates.list.iter().cloned().chain(ordered).collect()
    }

    /// What is answered to a request for `path` that comes to find out whose a name is.
    pub(crate) fn proof(&self, path: &[u8]) -> Option<String> {
        self.managed.as_ref()?.proofs.of_path(path)
    }

    /// What the administration's sessions are made from.
    pub(crate) fn admin(&self) -> Arc<ServerConfig> {
        self.admin.clone()
    }

    /// Whether somebody has to see to a file of it.
    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        self.trouble().is_some() || self.shown().iter().any(|shown| shown.is_due(now))
    }

    /// Why the files of clients' authorities, as they are now, are not used.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.clients.trouble.as_deref()
    }

    pub(crate) fn session(&self) -> Result<Session, rustls::Error> {
        Session::server(self.config.clone())
    }
}

/// The provider with its suites as they are chosen from: what is strong enough and costs least
/// comes first.
fn suites_in_order() -> Arc<CryptoProvider> {
    let mut provider = (*provider()).clone();
    let rank = |suite: &SupportedCipherSuite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        _ => 1,
    };
    // The order of the others stays.
    provider.cipher_suites.sort_by_key(rank);
    Arc::new(provider)
}

/// What sessions are made from. Without `clients`, nobody is asked for a certificate.
fn server_config(
    tls: &TlsConfig,
    clients: Option<&Clients>,
    speaks_http2: bool,
    resolver: &Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, String> {
    let versions = if tls.min_version == TlsVersion::Tls13 { NEWEST } else { BOTH };
    let builder = ServerConfig::builder_with_provider(suites_in_order())
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    let builder = match clients.and_then(|clients| clients.verifier.clone()) {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(resolver.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    if speaks_http2 {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    // Nobody proves a name to the administration.
    if tls.acme.is_some() && clients.is_some() {
        config.alpn_protocols.push(ALPN_PROOF.to_vec());
    }
    config.ignore_client_order = true;
    // A session is in its ticket, and nowhere else.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if tls.tickets {
        // One that was made for the administration is none of a client that nobody asked.
        config.ticketer = Arc::new(Tickets::new(clients.map(|clients| clients.mark)));
    } else {
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}
