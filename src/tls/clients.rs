//! What clients have to show, and whom they are believed to be.
//!
//! In go the authorities of clients and what those have revoked; out comes the verifier of a
//! session, and a mark of all that a ticket's identity depends on. Files that are bad now leave in
//! use what was read when they were good. Loaded by the control thread.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::pem;
use super::provider::provider;
use crate::config::{ClientAuth, TlsConfig};

/// The rules of one configuration for its clients.
#[derive(Clone)]
pub(super) struct Clients {
    wanted: Wanted,
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Stands for what clients are asked for. Another process of the same program comes to the
    /// same.
    pub(super) mark: u64,
    /// Why the files as they are now are not used.
    pub(super) trouble: Option<String>,
}

/// What the configuration says.
#[derive(Clone, PartialEq, Eq)]
struct Wanted {
    auth: ClientAuth,
    authorities: Option<PathBuf>,
    revoked: Option<PathBuf>,
}

impl Clients {
    /// What cannot be read is taken from `before`, if that was made of the same files.
    pub(super) fn load(tls: &TlsConfig, before: Option<&Self>) -> Result<Self, String> {
        let wanted = Wanted {
            auth: tls.client_auth,
            authorities: tls.client_ca.clone(),
            revoked: tls.client_crl.clone(),
        };
        match (Self::read(&wanted), before.filter(|before| before.wanted == wanted)) {
            (Err(trouble), Some(before)) => {
                tracing::warn!("{trouble}; what was read before stays in use");
                Ok(Self { trouble: Some(trouble), ..before.clone() })
            }
            (read, _) => read,
        }
    }

    fn read(wanted: &Wanted) -> Result<Self, String> {
        let mut hasher = DefaultHasher::new();
        let (ClientAuth::Optional | ClientAuth::Required, Some(path)) =
            (wanted.auth, &wanted.authorities)
        else {
            let (wanted, mark) = (wanted.clone(), hasher.finish());
            return Ok(Self { wanted, verifier: None, mark, trouble: None });
        };
        (wanted.auth as u8).hash(&mut hasher);
        let pem = pem::read(path)?;
        pem.hash(&mut hasher);
        let roots = Arc::new(pem::roots(path, &pem)?);
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
        if let Some(path) = &wanted.revoked {
            let pem = pem::read(path)?;
            pem.hash(&mut hasher);
            let lists = pem::revoked(path, &pem)?;
            verifier = verifier.with_crls(lists).only_check_end_entity_revocation();
        }
        if wanted.auth == ClientAuth::Optional {
            verifier = verifier.allow_unauthenticated();
        }
        let verifier = verifier.build();
        let verifier =
            verifier.map_err(|error| format!("tls.client_ca cannot be used: {error}"))?;
        let (wanted, mark) = (wanted.clone(), hasher.finish());
        Ok(Self { wanted, verifier: Some(verifier), mark, trouble: None })
    }
}
