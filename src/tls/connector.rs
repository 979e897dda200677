//! How the origins of one upstream are spoken to over TLS, and why one is not believed.
//!
//! In go `[upstream.tls]` and the name of an origin; out come sessions. Whatever can fail fails
//! when it is loaded. Sessions that origins let go on are kept here, as many as fit.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, RootCertStore};

use super::pem;
use super::provider::provider;
use super::session::Session;
use super::verify::{AnyCertificate, ByName};
use crate::config::UpstreamTlsConfig;

/// The TLS of one upstream.
pub(crate) struct Connector {
    /// By what is offered, in the order of [`Offers`].
    configs: [Arc<ClientConfig>; 3],
    sni: Option<ServerName<'static>>,
    /// Of everything that decides whom it trusts and as whom it speaks.
    identity: u64,
}

/// What a peer may choose to speak (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offers {
    Http1,
    Http2,
    Both,
}

const H1: &[u8] = b"http/1.1";
const H2: &[u8] = b"h2";

/// Names whose sessions are kept.
const SESSIONS_MAX: usize = 256;

impl Connector {
    /// One of `before` is kept where it would be the same, with its sessions.
    pub(crate) fn load<'a>(
        tls: &UpstreamTlsConfig,
        before: impl IntoIterator<Item = &'a Arc<Self>>,
    ) -> Result<Arc<Self>, String> {
        let mut hasher = DefaultHasher::new();
        tls.hash(&mut hasher);
        let files = [&tls.ca, &tls.client_chain, &tls.client_key];
        for path in files.into_iter().flatten() {
            pem::read(path)?.hash(&mut hasher);
        }
        let identity = hasher.finish();
        if let Some(before) = before.into_iter().find(|before| before.identity == identity) {
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
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        let configs = [&[H1][..], &[H2], &[H2, H1]].map(|offered| {
            config.alpn_protocols = offered.iter().map(|it| it.to_vec()).collect();
            Arc::new(config.clone())
        });
        Ok(Arc::new(Self { configs, sni, identity }))
    }

    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// A session with the origin that is called `host`.
    pub(crate) fn session(&self, host: &str, offers: Offers) -> Result<Session, Error> {
        let name = match &self.sni {
            Some(name) => name.clone(),
            None => server_name(host).ok_or_else(|| Error::General("no name".to_owned()))?,
        };
        Session::client(self.configs[offers as usize].clone(), name)
    }
}

fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).ok()
}

pub(super) fn verifier(
    tls: &UpstreamTlsConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    if tls.insecure_skip_verify {
        return Ok(Arc::new(AnyCertificate(provider.clone())));
    }
    let (roots, named) = match &tls.ca {
        Some(path) => {
            let pem = pem::read(path)?;
            (pem::roots(path, &pem)?, pem::chain(path, &pem)?)
        }
        None => (system_roots()?, Vec::new()),
    };
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let built = built.build();
    let by_issuer = built.map_err(|error| format!("upstream.tls.ca cannot be used: {error}"))?;
    Ok(Arc::new(ByName { by_issuer, named }))
}

/// The authorities that this system believes; where it names none, those of Mozilla.
fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system_certificates()?);
    if roots.is_empty() {
        tracing::info!("this system has no list of authorities: Mozilla's are believed");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(roots)
}

/// The list of this system; empty where it has none. One that somebody has named has to be there.
pub(crate) fn system_certificates() -> Result<Vec<CertificateDer<'static>>, String> {
    if let Some(path) = std::env::var_os("SSL_CERT_FILE")
        && let Err(error) = File::open(&path)
    {
        return Err(format!("SSL_CERT_FILE: {} cannot be read: {error}", path.display()));
    }
    let native = rustls_native_certs::load_native_certs();
    let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter();
    let mut named = named.filter(|name| std::env::var_os(name).is_some());
    match named.next() {
        Some(name) if native.certs.is_empty() => {
            let cause = native.errors.first().map(ToString::to_string);
            let cause = cause.unwrap_or_else(|| "there is no certificate in it".to_owned());
            Err(format!("{name} names no authority to believe: {cause}"))
        }
        _ => Ok(native.certs),
    }
}
