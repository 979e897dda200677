//! Certificates that are ordered: those that there are, and what proves whose a name is meanwhile.
//!
//! In goes `[tls.acme]`, and what its orders bring; out come a certificate for a name, the answers
//! to challenges, and how the orders stand. Written by the control thread, read by workers without
//! a lock. Nothing here asks an authority.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::certificates::{self, Shown};
use super::provider::provider;
use super::storage::Storage;
use crate::config::AcmeConfig;

/// What comes before the token of a proof in a path (RFC 8555 §8.3).
const PATH: &[u8] = b"/.well-known/acme-challenge/";

/// The certificates of one `[tls.acme]`.
#[derive(Debug)]
pub(crate) struct Managed {
    pub(crate) config: AcmeConfig,
    pub(crate) storage: Storage,
    shown: ArcSwap<HashMap<Box<str>, Arc<Shown>>>,
    /// Those of every configuration: an order outlives a reload.
    pub(super) proofs: Arc<Proofs>,
    pub(crate) orders: Arc<Orders>,
}

/// What is answered while a name is validated, of which there is one at a time.
#[derive(Debug, Default)]
pub(crate) struct Proofs {
    http: ArcSwapOption<Proof>,
    handshake: ArcSwapOption<HandshakeProof>,
}

/// What proves whose a name is, by one challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proof {
    pub(crate) name: String,
    pub(crate) token: String,
    /// The key authorization (RFC 8555 §8.1).
    pub(crate) answer: String,
    pub(crate) by_handshake: bool,
}

#[derive(Debug)]
struct HandshakeProof {
    name: String,
    key: Arc<CertifiedKey>,
}

/// How orders stand.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    pub(crate) done: AtomicU64,
    pub(crate) failed: AtomicU64,
    troubles: Mutex<BTreeMap<String, Trouble>>,
}

/// Why there is no new certificate for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) cause: String,
    /// Orders that have failed one after the other.
    pub(crate) failures: u32,
    /// When the next one is made.
    pub(crate) next: SystemTime,
}

impl Managed {
    /// Takes what is stored. `before` lends what it has where that is still wanted.
    pub(super) fn load(acme: &AcmeConfig, before: Option<&Arc<Self>>) -> Result<Arc<Self>, String> {
        if let Some(same) = before.filter(|before| before.config == *acme) {
            return Ok(same.clone());
        }
        let managed = Self {
            config: acme.clone(),
            storage: Storage::open(acme)?,
            shown: ArcSwap::default(),
            proofs: before.map(|it| it.proofs.clone()).unwrap_or_default(),
            orders: before.map(|it| it.orders.clone()).unwrap_or_default(),
        };
        managed.orders.keep(&acme.domains);
        for name in &acme.domains {
            let files = managed.storage.files(name);
            let known = before.and_then(|it| it.shown(name)).filter(|it| it.files == files);
            if let Some(known) = known {
                managed.put(name, known);
            }
            if let Err(error) = managed.reread(name) {
                tracing::warn!("{error}; another certificate is ordered");
            }
        }
        Ok(Arc::new(managed))
    }

    pub(crate) fn is_for(&self, name: &str) -> bool {
        self.config.domains.iter().any(|own| own == name)
    }

    pub(crate) fn shown(&self, name: &str) -> Option<Arc<Shown>> {
        self.shown.load().get(name).cloned()
    }

    /// Those that there are, in the order of the configuration.
    pub(crate) fn list(&self) -> Vec<Arc<Shown>> {
        let shown = self.shown.load();
        self.config.domains.iter().filter_map(|name| shown.get(name.as_str()).cloned()).collect()
    }

    /// Names without a certificate, with the cause where one is known.
    pub(crate) fn missing(&self) -> Vec<(String, Option<String>)> {
        let shown = self.shown.load();
        let missing = self.config.domains.iter().filter(|name| !shown.contains_key(name.as_str()));
        missing.map(|name| (name.clone(), self.orders.trouble(name).map(|it| it.cause))).collect()
    }

    /// Takes what is stored for `name` now; a file that is bad leaves what was read before.
    pub(crate) fn reread(&self, name: &str) -> Result<(), String> {
        let files = self.storage.files(name);
        if !files.chain.exists() {
            return Ok(());
        }
        let known = self.shown(name);
        let shown = certificates::load(&files, known.as_ref(), &provider())?;
        if known.is_none_or(|known| !Arc::ptr_eq(&known, &shown)) {
            self.put(name, shown);
        }
        Ok(())
    }

    /// Keeps a key and its certificate, as PEM, and uses them.
    pub(crate) fn keep(&self, name: &str, pem: &str) -> Result<(), String> {
        self.storage.keep(name, pem, |path| {
            let mut files = self.storage.files(name);
            (files.chain, files.key) = (path.to_owned(), path.to_owned());
            certificates::load(&files, None, &provider()).map(drop)
        })?;
        self.reread(name)
    }

    /// Answers a challenge, here and in every process with this storage.
    pub(crate) fn prove(&self, proof: &Proof) -> Result<(), String> {
        self.proofs.show(proof)?;
        let text = serde_json::to_vec(proof).map_err(|error| error.to_string())?;
        self.storage.keep_proof(&text)
    }

    /// Takes that back.
    pub(crate) fn stop_proving(&self) {
        self.storage.drop_proof();
        self.proofs.forget();
    }

    /// Answers the challenge of another process with this storage; the proof is for the next time,
    /// in which it need not be taken again.
    pub(crate) fn prove_for_others(&self, before: Option<Proof>) -> Option<Proof> {
        let stored = self.storage.proof();
        let stored = stored.and_then(|text| serde_json::from_slice::<Proof>(&text).ok());
        if stored != before {
            self.proofs.forget();
            if let Some(proof) = &stored
                && let Err(error) = self.proofs.show(proof)
            {
                tracing::warn!("{error}");
            }
        }
        stored
    }

    fn put(&self, name: &str, shown: Arc<Shown>) {
        let mut all = (**self.shown.load()).clone();
        all.insert(name.into(), shown);
        self.shown.store(Arc::new(all));
    }
}

impl Proof {
    /// The certificate that proves it (RFC 8737 §3).
    fn for_handshake(&self) -> Result<HandshakeProof, String> {
        let said = |error: rcgen::Error| format!("no certificate for the proof: {error}");
        let mut wanted = CertificateParams::new([self.name.clone()]).map_err(said)?;
        let digest = Sha256::digest(self.answer.as_bytes());
        wanted.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
        let key = KeyPair::generate().map_err(said)?;
        let made = wanted.self_signed(&key).map_err(said)?;
        let chain = vec![CertificateDer::from(made)];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = provider().key_provider.load_private_key(key);
        let key = key.map_err(|error| format!("no key for the proof: {error}"))?;
        // Not looked at: what makes it a proof makes it unfit for everything else.
        let key = Arc::new(CertifiedKey::new(chain, key));
        Ok(HandshakeProof { name: self.name.clone(), key })
    }
}

impl Proofs {
    fn show(&self, proof: &Proof) -> Result<(), String> {
        if proof.by_handshake {
            self.handshake.store(Some(Arc::new(proof.for_handshake()?)));
        } else {
            self.http.store(Some(Arc::new(proof.clone())));
        }
        Ok(())
    }

    fn forget(&self) {
        self.http.store(None);
        self.handshake.store(None);
    }

    /// The answer to a request for `path`; `None` where it is none for a proof.
    pub(crate) fn of_path(&self, path: &[u8]) -> Option<String> {
        let token = path.strip_prefix(PATH)?;
        let proof = self.http.load();
        let proof = proof.as_ref().filter(|proof| proof.token.as_bytes() == token)?;
        Some(proof.answer.clone())
    }

    pub(super) fn of_name(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let proof = self.handshake.load();
        proof.as_ref().filter(|proof| proof.name == name).map(|proof| proof.key.clone())
    }
}

impl Orders {
    pub(crate) fn trouble(&self, name: &str) -> Option<Trouble> {
        self.lock().get(name).cloned()
    }

    pub(crate) fn set_trouble(&self, name: &str, trouble: Option<Trouble>) {
        let mut troubles = self.lock();
        match trouble {
            Some(trouble) => drop(troubles.insert(name.to_owned(), trouble)),
            None => drop(troubles.remove(name)),
        }
    }

    /// By name.
    pub(crate) fn troubles(&self) -> BTreeMap<String, Trouble> {
        self.lock().clone()
    }

    fn keep(&self, names: &[String]) {
        self.lock().retain(|name, _| names.contains(name));
    }

    /// A panic elsewhere leaves a list that is still true.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Trouble>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_given_for_its_token_and_its_name_alone() {
        let proofs = Proofs::default();
        assert_eq!(proofs.of_path(b"/.well-known/acme-challenge/abc"), None);
        let mut proof = Proof {
            name: "a.example".to_owned(),
            token: "abc".to_owned(),
            answer: "abc.thumb".to_owned(),
            by_handshake: false,
        };
        proofs.show(&proof).unwrap();
        proof.by_handshake = true;
        proofs.show(&proof).unwrap();
        let path = |path: &[u8]| proofs.of_path(path);
        assert_eq!(path(b"/.well-known/acme-challenge/abc").as_deref(), Some("abc.thumb"));
        for other in ["abcd", "ab", "", "abc?", "abc/"] {
            assert_eq!(path(format!("/.well-known/acme-challenge/{other}").as_bytes()), None);
        }
        assert_eq!(path(b"/abc"), None);
        assert!(proofs.of_name("a.example").is_some() && proofs.of_name("b.example").is_none());
        proofs.forget();
        assert!(path(b"/.well-known/acme-challenge/abc").is_none());
        assert!(proofs.of_name("a.example").is_none());
    }
}
