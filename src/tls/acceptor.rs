//! What the listeners that speak TLS go by.
//!
//! In goes the `[tls]` part of a configuration with the numbers of the listeners; out come sessions
//! for their clients. Whatever can fail fails when it is loaded, which no worker does.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::certificates::{Certificates, Shown};
use super::managed::Managed;
use super::pem;
use super::provider::provider;
use super::resolver::Resolver;
use super::session::{ALPN_PROOF, Session};
use super::tickets::Tickets;
use crate::config::{ClientAuth, TlsConfig, TlsVersion};

/// The TLS of one configuration.
pub(crate) struct Acceptor {
    /// The listeners that it is for.
    listeners: Vec<u16>,
    /// Of the first of them.
    port: u16,
    config: Arc<ServerConfig>,
    pub(crate) certificates: Arc<Certificates>,
    /// Those that are ordered.
    pub(crate) managed: Option<Arc<Managed>>,
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
        let managed_before = before.and_then(|before| before.managed.as_ref());
        let load = |acme| Managed::load(acme, managed_before);
        let managed = tls.acme.as_ref().map(load).transpose()?;
        let versions = if tls.min_version == TlsVersion::Tls13 { NEWEST } else { BOTH };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = match client_verifier(tls)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_cert_resolver(match &managed {
            None => certificates.clone(),
            Some(managed) => {
                Arc::new(Resolver { files: certificates.clone(), managed: managed.clone() })
            }
        });
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        if managed.is_some() {
            config.alpn_protocols.push(ALPN_PROOF.to_vec());
        }
        // A session is in its ticket, and nowhere else.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if tls.tickets {
            config.ticketer = Arc::new(Tickets::new(asked_of_clients(tls)?));
        } else {
            config.send_tls13_tickets = 0;
        }
        let config = Arc::new(config);
        Ok(Some(Arc::new(Self { listeners, port, config, certificates, managed })))
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

    pub(crate) fn session(&self) -> Result<Session, rustls::Error> {
        Session::server(self.config.clone())
    }
}

/// Stands for what clients are asked for, which what a ticket says of one depends on. Another
/// process of the same program comes to the same.
fn asked_of_clients(tls: &TlsConfig) -> Result<u64, String> {
    let mut hasher = DefaultHasher::new();
    if tls.client_auth != ClientAuth::Off {
        (tls.client_auth as u8).hash(&mut hasher);
        for path in tls.client_ca.iter().chain(&tls.client_crl) {
            pem::read(path)?.hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
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
