//! The certificates that clients are shown, and which one each of them gets.
//!
//! In go files by name and what a client asks for; out comes a chain with its key. A certificate
//! whose files are bad now stays as it was when they were good. Loaded by the control thread, asked
//! by workers in a step of a handshake.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::session::{Asked, note_asked};
use super::{ocsp, pem};
use crate::config::CertificateConfig;

/// A certificate in use.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) files: CertificateConfig,
    /// Of the files as they were read.
    fingerprint: u64,
    key: Arc<CertifiedKey>,
    /// The same with what its authority says of it, and until when it may be shown so.
    stapled: Option<(Arc<CertifiedKey>, SystemTime)>,
    /// What it is shown for, in lower case.
    pub(crate) names: Arc<[Box<str>]>,
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) began: SystemTime,
    pub(crate) expires: SystemTime,
    /// Why the files as they are now are not used.
    pub(crate) trouble: Option<String>,
    /// Why what the authority says of it is not shown.
    pub(crate) ocsp_trouble: Option<String>,
}

/// All of them, by name.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    pub(crate) list: Vec<Arc<Shown>>,
    /// By what stands in a name: `example.org`, or `*.example.org`.
    by_name: HashMap<Box<str>, Vec<Arc<Shown>>>,
    is_strict: bool,
}

/// Before its end, a certificate has to be looked after for so long.
const DUE: Duration = Duration::from_secs(14 * 86_400);

impl Certificates {
    /// Reads all of them. What cannot be read is taken from `before`, if that has it.
    pub(super) fn load(
        files: &[CertificateConfig],
        is_strict: bool,
        before: Option<&Self>,
        provider: &CryptoProvider,
    ) -> Result<Self, String> {
        let mut all = Self { is_strict, ..Self::default() };
        for files in files {
            let known = before.and_then(|it| it.list.iter().find(|shown| shown.files == *files));
            let shown = match (load(files, known, provider), known) {
                (Ok(shown), _) => shown,
                (Err(trouble), Some(known)) => {
                    tracing::warn!("{trouble}; the certificate that was read before stays in use");
                    Arc::new(Shown { trouble: Some(trouble), ..known.again() })
                }
                (Err(trouble), None) => return Err(trouble),
            };
            for name in shown.names.iter() {
                all.by_name.entry(name.clone()).or_default().push(shown.clone());
            }
            all.list.push(shown);
        }
        Ok(all)
    }

    /// Those for a name, and otherwise the first, with those of the same names and other keys.
    fn candidates(&self, name: Option<&str>) -> &[Arc<Shown>] {
        let named = name.and_then(|name| {
            let above = || self.by_name.get(&*format!("*.{}", name.split_once('.')?.1));
            self.by_name.get(name).or_else(above)
        });
        match (named, self.list.first()) {
            (Some(named), _) => named,
            (None, Some(first)) if !self.is_strict || name.is_none() => {
                let same = first.names.first().and_then(|name| self.by_name.get(name));
                same.map_or(std::slice::from_ref(first), Vec::as_slice)
            }
            _ => &[],
        }
    }

    /// The one for a client that asks for `name` and can check what is in `offered`.
    pub(super) fn choose(
        &self,
        name: Option<&str>,
        offered: &[SignatureScheme],
    ) -> Option<Arc<Shown>> {
        let all = self.candidates(name);
        let suits = |shown: &&Arc<Shown>| shown.suits(offered);
        // A signature of an elliptic curve costs a fifth.
        let shown = all.iter().filter(|shown| !shown.is_rsa()).find(suits);
        shown.or_else(|| all.iter().find(suits)).cloned()
    }

    /// Whether there is one for just this name, and whether there is one that covers it.
    pub(super) fn knows(&self, name: Option<&str>) -> (bool, bool) {
        let Some(name) = name else { return (false, false) };
        let above = name.split_once('.').map(|(_, above)| format!("*.{above}"));
        let has = |name: &str| self.by_name.contains_key(name);
        (has(name), above.is_some_and(|above| has(&above)))
    }

    /// Whether a client that asks for `name` may get one of others, because there are none here.
    pub(super) fn has_none_for(&self, name: Option<&str>) -> bool {
        self.list.is_empty() && (!self.is_strict || name.is_none())
    }
}

/// Whether one of `names`, as certificates have them, covers `host`.
pub(crate) fn covers(names: &[Box<str>], host: &str) -> bool {
    names.iter().any(|name| match name.strip_prefix("*.") {
        Some(above) => host.split_once('.').is_some_and(|(_, it)| it.eq_ignore_ascii_case(above)),
        None => name.eq_ignore_ascii_case(host),
    })
}

impl Shown {
    fn again(&self) -> Self {
        Self {
            files: self.files.clone(),
            fingerprint: self.fingerprint,
            key: self.key.clone(),
            stapled: self.stapled.clone(),
            names: self.names.clone(),
            issuer: self.issuer.clone(),
            subject: self.subject.clone(),
            began: self.began,
            expires: self.expires,
            trouble: None,
            ocsp_trouble: None,
        }
    }

    /// Whether somebody has to see to it: it ends soon, or its files are bad.
    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        let life = self.expires.duration_since(self.began).unwrap_or_default();
        let left = self.expires.duration_since(now).unwrap_or_default();
        let has_trouble = self.trouble.is_some() || self.ocsp_trouble(now).is_some();
        has_trouble || left < (life / 3).min(DUE)
    }

    /// Why its authority's answer is not shown beside it, where there should be one.
    pub(crate) fn ocsp_trouble(&self, now: SystemTime) -> Option<&str> {
        let is_over = self.stapled.as_ref().is_some_and(|(_, until)| *until <= now);
        let over = is_over.then_some("the time of the OCSP response is over");
        self.ocsp_trouble.as_deref().or(over)
    }

    /// Until when that is shown.
    pub(crate) fn ocsp_until(&self) -> Option<SystemTime> {
        self.stapled.as_ref().map(|(_, until)| *until)
    }

    fn shown_at(&self, now: SystemTime) -> &Arc<CertifiedKey> {
        match &self.stapled {
            Some((stapled, until)) if *until > now => stapled,
            _ => &self.key,
        }
    }

    pub(crate) fn key_kind(&self) -> &'static str {
        match self.key.key.algorithm() {
            SignatureAlgorithm::RSA => "rsa",
            SignatureAlgorithm::ECDSA => "ecdsa",
            SignatureAlgorithm::ED25519 => "ed25519",
            _ => "other",
        }
    }

    pub(crate) fn is_rsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::RSA
    }

    pub(super) fn suits(&self, offered: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(offered).is_some()
    }

    /// The certificate itself, without those of its issuers.
    pub(crate) fn end_entity(&self) -> Option<&CertificateDer<'static>> {
        self.key.cert.first()
    }

    /// To be called in the step of a handshake with a client that asks for `name`.
    pub(super) fn show(&self, name: Option<String>) -> Arc<CertifiedKey> {
        let name = name.map(String::into_boxed_str);
        note_asked(Asked { name, covered: self.names.clone() });
        self.shown_at(SystemTime::now()).clone()
    }
}

pub(super) fn load(
    files: &CertificateConfig,
    known: Option<&Arc<Shown>>,
    provider: &CryptoProvider,
) -> Result<Arc<Shown>, String> {
    let (chain, key) = (pem::read(&files.chain)?, pem::read(&files.key)?);
    let answer = files.ocsp.as_ref().map(|path| pem::read(path));
    let mut hasher = DefaultHasher::new();
    (&chain, &key, &answer).hash(&mut hasher);
    let fingerprint = hasher.finish();
    if let Some(known) = known.filter(|it| it.fingerprint == fingerprint && it.trouble.is_none()) {
        return Ok((*known).clone());
    }
    let (chain, key) = (pem::chain(&files.chain, &chain)?, pem::key(&files.key, &key)?);
    let place = files.chain.display();
    let said = pem::said(&chain[0]).map_err(|error| format!("{place}: {error}"))?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("{}: is not the key of the certificate in {place}", files.key.display())
        }
        error => format!("{}: cannot be used: {error}", files.key.display()),
    })?;
    // Clients will say no to it, and to nothing else that the process serves.
    let trouble = if said.expires <= SystemTime::now() {
        Some(format!("{place}: the certificate has expired: a new one is needed"))
    } else if said.began > SystemTime::now() {
        Some(format!("{place}: the certificate is not valid yet: is the clock right?"))
    } else {
        None
    };
    match (trouble.clone(), known) {
        (Some(trouble), Some(_)) => return Err(trouble),
        (Some(trouble), None) => tracing::warn!("{trouble}"),
        (None, _) => {}
    }
    let (stapled, ocsp_trouble) = match answer.map(|answer| staple(files, &key, answer, known)) {
        None => (None, None),
        Some(Ok(stapled)) => (Some(stapled), None),
        Some(Err(trouble)) => {
            tracing::warn!("{trouble}; the certificate is shown without it");
            (None, Some(trouble))
        }
    };
    let names = if files.names.is_empty() { said.names } else { files.names.clone() };
    Ok(Arc::new(Shown {
        files: files.clone(),
        fingerprint,
        key: Arc::new(key),
        stapled,
        names: names.into_iter().map(String::into_boxed_str).collect(),
        issuer: said.issuer,
        subject: said.subject,
        began: said.began,
        expires: said.expires,
        trouble,
        ocsp_trouble,
    }))
}

/// The certificate with its authority's answer beside it, and until when it may be shown so.
fn staple(
    files: &CertificateConfig,
    key: &CertifiedKey,
    answer: Result<Vec<u8>, String>,
    known: Option<&Arc<Shown>>,
) -> Result<(Arc<CertifiedKey>, SystemTime), String> {
    let now = SystemTime::now();
    let judged = answer.and_then(|answer| {
        let place = files.ocsp.as_deref().unwrap_or(&files.chain).display();
        let until = ocsp::until(&answer, &key.cert[0], now);
        until.map(|until| (answer, until)).map_err(|error| format!("{place}: {error}"))
    });
    match (judged, known.and_then(|known| known.stapled.as_ref())) {
        (Ok((answer, until)), _) => {
            let stapled = CertifiedKey { ocsp: Some(answer), ..key.clone() };
            Ok((Arc::new(stapled), until))
        }
        // What is being written now was good, and still is.
        (Err(trouble), Some((before, until))) if *until > now && before.cert == key.cert => {
            tracing::warn!("{trouble}; the answer that was read before is shown");
            Ok((before.clone(), *until))
        }
        (Err(trouble), _) => Err(trouble),
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let offered = hello.signature_schemes();
        let shown = self.choose(name.as_deref(), offered);
        // One that the client cannot check is what it is told of by name, in an alert.
        let shown = shown.or_else(|| self.candidates(name.as_deref()).first().cloned())?;
        Some(shown.show(name))
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_star_covers_one_label() {
        let names: [Box<str>; 2] = ["example.org".into(), "*.example.net".into()];
        for name in ["example.org", "EXAMPLE.org", "a.example.net", "A.Example.NET"] {
            assert!(covers(&names, name), "{name}");
        }
        for name in ["example.net", "a.b.example.net", "a.example.org", "", "."] {
            assert!(!covers(&names, name), "{name}");
        }
    }
}
