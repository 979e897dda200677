//! How the origins of one upstream are spoken to over TLS, and why one is not believed.
//!
//! In go `[upstream.tls]` and the name of an origin; out come sessions. Whatever can fail fails
//! when it is loaded. Sessions that origins let go on are kept here, as many as fit.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::pem;
use super::provider::provider;
use super::session::Session;
use crate::config::UpstreamTlsConfig;

/// The TLS of one upstream.
pub(crate) struct Connector {
    config: Arc<ClientConfig>,
    sni: Option<ServerName<'static>>,
    /// Of everything that decides whom it trusts and as whom it speaks.
    identity: u64,
}

/// Names whose sessions are kept.
const SESSIONS_MAX: usize = 256;

impl Connector {
    /// `before` is kept where it would be the same, with its sessions.
    pub(crate) fn load(
        tls: &UpstreamTlsConfig,
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, String> {
        let mut hasher = DefaultHasher::new();
        tls.hash(&mut hasher);
        let files = [&tls.ca, &tls.client_chain, &tls.client_key];
        for path in files.into_iter().flatten() {
            pem::read(path)?.hash(&mut hasher);
        }
        let identity = hasher.finish();
        if let Some(before) = before.filter(|before| before.identity == identity) {
            return Ok(before.clone());
        }
        let sni = match tls.sni.trim_matches(['[', ']']) {
            "" => None,
            name => Some(server_name(name).ok_or_else(|| format!("{name:?} is no name"))?),
        };
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?
            .dangerous();
        let builder = builder.with_custom_certificate_verifier(verifier(tls, &provider)?);
        let mut config = match (&tls.client_chain, &tls.client_key) {
            (Some(chain), Some(key)) => {
                let (chain, key) =
                    (pem::chain(chain, &pem::read(chain)?)?, pem::key(key, &pem::read(key)?)?);
                let with = builder.with_client_auth_cert(chain, key);
                with.map_err(|error| format!("upstream.tls.client_key cannot be used: {error}"))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Arc::new(Self { config: Arc::new(config), sni, identity }))
    }

    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// A session with the origin that is called `host`.
    pub(crate) fn session(&self, host: &str) -> Result<Session, Error> {
        let name = match &self.sni {
            Some(name) => name.clone(),
            None => server_name(host).ok_or_else(|| Error::General("no name".to_owned()))?,
        };
        Session::client(self.config.clone(), name)
    }
}

fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).ok()
}

fn verifier(
    tls: &UpstreamTlsConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    if tls.insecure_skip_verify {
        return Ok(Arc::new(AnyCertificate(provider.clone())));
    }
    let roots = match &tls.ca {
        Some(path) => pem::roots(path)?,
        None => system_roots(),
    };
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let built = built.build();
    Ok(built.map_err(|error| format!("upstream.tls.ca cannot be used: {error}"))?)
}

/// The authorities that this system believes; where it names none, those of Mozilla.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        tracing::info!("this system has no list of authorities: Mozilla's are believed");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Believes whoever answers.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
