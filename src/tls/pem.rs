//! Certificates, keys and lists of what is revoked, as they lie in PEM files.
//!
//! In goes a path; out comes what is in the file, or one line that says what is wrong with it. For
//! the control thread and the start: nothing here may be called by a worker.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A bundle of all authorities there are has 250 KB.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{}: is larger than any file of certificates", path.display()));
    }
    Ok(bytes)
}

/// The certificates of `pem`, at least one.
pub(super) fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain =
        chain.map_err(|error| format!("{}: is no whole PEM file: {error}", path.display()))?;
    if chain.is_empty() {
        return Err(format!(
            "{}: there is no certificate in it: a PEM file with BEGIN CERTIFICATE is expected",
            path.display()
        ));
    }
    Ok(chain)
}

pub(super) fn key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        format!(
            "{}: there is no key in it ({error}): a PEM file with BEGIN PRIVATE KEY, without a \
             password, is expected",
            path.display()
        )
    })
}

/// Authorities that are believed.
pub(super) fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in chain(path, pem)? {
        roots.add(authority).map_err(|error| {
            format!("{}: a certificate in it is none of an authority: {error}", path.display())
        })?;
    }
    Ok(roots)
}

pub(super) fn revoked(
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    match lists {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        _ => Err(format!(
            "{}: there is no list in it: a PEM file with BEGIN X509 CRL is expected",
            path.display()
        )),
    }
}

/// What a certificate says of itself.
pub(super) struct Said {
    /// In lower case; those of DNS, and addresses.
    pub(super) names: Vec<String>,
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) expires: SystemTime,
    pub(super) began: SystemTime,
}

pub(super) fn said(certificate: &CertificateDer<'_>) -> Result<Said, String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let at = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    let validity = parsed.validity();
    let mut names = Vec::new();
    if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
        for name in &alternative.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                    let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                    names.extend(address.map(|address| address.to_string()));
                }
                _ => {}
            }
        }
    }
    if names.is_empty() {
        // Certificates of old have it there alone; rustls takes none for it, but shows any.
        let common = parsed.subject().iter_common_name().next();
        names.extend(common.and_then(|name| name.as_str().ok()).map(str::to_ascii_lowercase));
    }
    Ok(Said {
        names,
        issuer: parsed.issuer().to_string(),
        subject: parsed.subject().to_string(),
        expires: at(validity.not_after.timestamp()),
        began: at(validity.not_before.timestamp()),
    })
}
