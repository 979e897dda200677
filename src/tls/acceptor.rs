//! What the listeners that speak TLS go by.
//!
//! In goes the `[tls]` part of a configuration with the numbers of the listeners; out come sessions
//! for their clients. Whatever can fail fails when it is loaded. What tickets are sealed with lives
//! on from one configuration to the next, so that a reload costs no client its session.

use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::certificates::Certificates;
use super::pem;
use super::provider::provider;
use super::session::Session;
use crate::config::{ClientAuth, TlsConfig, TlsVersion};

/// The TLS of one configuration.
pub(crate) struct Acceptor {
    /// The listeners that it is for.
    listeners: Vec<u16>,
    /// Of the first of them.
    port: u16,
    config: Arc<ServerConfig>,
    pub(crate) certificates: Arc<Certificates>,
    tickets: Option<Arc<dyn ProducesTickets>>,
    /// What a ticket says of a client depends on it.
    asked_of_clients: (ClientAuth, Vec<u8>),
}

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];

impl Acceptor {
    /// `None` where no listener speaks TLS. `before` is what was in use so far.
    pub(crate) fn load(
        tls: &TlsConfig,
        listeners: Vec<u16>,
        port: u16,
        before: Option<&Self>,
    ) -> Result<Option<Arc<Self>>, String> {
        if listeners.is_empty() {
            return Ok(None);
        }
        let known = before.map(|before| &*before.certificates);
        let provider = provider();
        let certificates = Certificates::load(&tls.certificates, tls.strict_sni, known, &provider)?;
        let certificates = Arc::new(certificates);
        let asked_of_clients = asked_of_clients(tls)?;
        let kept = before.filter(|before| before.asked_of_clients == asked_of_clients);
        let tickets = match kept.and_then(|kept| kept.tickets.clone()) {
            _ if !tls.tickets => None,
            Some(kept) => Some(kept),
            None => Some(
                rustls::crypto::aws_lc_rs::Ticketer::new()
                    .map_err(|error| format!("no keys for tickets could be made: {error}"))?,
            ),
        };
        let versions = if tls.min_version == TlsVersion::Tls13 { NEWEST } else { BOTH };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = match client_verifier(tls)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_cert_resolver(certificates.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        // A session is in its ticket, and nowhere else.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match &tickets {
            Some(tickets) => config.ticketer = tickets.clone(),
            None => config.send_tls13_tickets = 0,
        }
        let config = Arc::new(config);
        Ok(Some(Arc::new(Self {
            listeners,
            port,
            config,
            certificates,
            tickets,
            asked_of_clients,
        })))
    }

    /// Whether clients of the listener with this number speak TLS.
    pub(crate) fn is_for(&self, listener: u16) -> bool {
        self.listeners.contains(&listener)
    }

    /// Where clients are sent that come without TLS.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn session(&self) -> Result<Session, rustls::Error> {
        Session::server(self.config.clone())
    }
}

fn asked_of_clients(tls: &TlsConfig) -> Result<(ClientAuth, Vec<u8>), String> {
    let mut files = Vec::new();
    if tls.client_auth != ClientAuth::Off {
        for path in tls.client_ca.iter().chain(&tls.client_crl) {
            files.extend(pem::read(path)?);
        }
    }
    Ok((tls.client_auth, files))
}

fn client_verifier(
    tls: &TlsConfig,
) -> Result<Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>, String> {
    let (ClientAuth::Optional | ClientAuth::Required, Some(path)) =
        (tls.client_auth, &tls.client_ca)
    else {
        return Ok(None);
    };
    let roots = Arc::new(pem::roots(path)?);
    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
    if let Some(path) = &tls.client_crl {
        verifier = verifier.with_crls(pem::revoked(path)?).only_check_end_entity_revocation();
    }
    if tls.client_auth == ClientAuth::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    let verifier = verifier.build();
    verifier.map(Some).map_err(|error| format!("tls.client_ca cannot be used: {error}"))
}
