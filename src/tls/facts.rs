//! What a session says of itself and of its client, for headers, logs and hooks.
//!
//! In goes what was agreed upon and the certificate that a client has shown; out come texts of
//! visible ASCII, in which nothing that a certificate says can stand for something else. Whether
//! the certificate is believed has been decided before, by the handshake.

use std::fmt::Write;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, GeneralName, X509Certificate};
use x509_parser::x509::X509Name;

use crate::config::TlsFact;

/// The facts of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// As IANA calls it, such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The name that the client has asked for, in lower case; empty where it gave none.
    pub sni: String,
    /// What is spoken inside, where that was agreed upon.
    pub alpn: String,
    /// The certificate that the client has shown. One that is not believed ends the handshake.
    pub client: Option<ClientCertificate>,
}

/// A client's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientCertificate {
    /// By RFC 4514: the common name mostly stands first.
    pub subject: String,
    /// Its other names: `DNS:`, `IP:`, `URI:` and `EMAIL:`, by commas.
    pub san: String,
    /// SHA-256 of the whole certificate, in lower-case hexadecimal.
    pub fingerprint: String,
}

impl TlsFacts {
    /// One of them; empty where there is nothing to say.
    pub(crate) fn text(&self, fact: TlsFact) -> &str {
        let client = self.client.as_ref();
        let of_client = |part: fn(&ClientCertificate) -> &String| {
            client.map_or("", |client| part(client).as_str())
        };
        match fact {
            TlsFact::Version => self.version,
            TlsFact::Cipher => &self.cipher,
            TlsFact::Sni => &self.sni,
            TlsFact::ClientVerified if client.is_some() => "true",
            TlsFact::ClientVerified => "false",
            TlsFact::ClientSubject => of_client(|client| &client.subject),
            TlsFact::ClientSan => of_client(|client| &client.san),
            TlsFact::ClientFingerprint => of_client(|client| &client.fingerprint),
        }
    }
}

impl ClientCertificate {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut fingerprint = String::with_capacity(64);
        for byte in Sha256::digest(certificate) {
            // Writing to a String does not fail.
            let _ = write!(fingerprint, "{byte:02x}");
        }
        // It has been verified, and so it can be read.
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return Self { fingerprint, ..Self::default() };
        };
        let mut san = String::new();
        if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
            for name in &alternative.value.general_names {
                put_name(&mut san, name);
            }
        }
        Self { subject: spelled(parsed.subject()), san, fingerprint }
    }
}

fn put_name(san: &mut String, name: &GeneralName<'_>) {
    let (kind, value) = match name {
        GeneralName::DNSName(name) => ("DNS", (*name).to_owned()),
        GeneralName::URI(uri) => ("URI", (*uri).to_owned()),
        GeneralName::RFC822Name(name) => ("EMAIL", (*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            match v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)) {
                Ok(address) => ("IP", address.to_string()),
                Err(_) => return,
            }
        }
        _ => return,
    };
    if !san.is_empty() {
        san.push(',');
    }
    san.push_str(kind);
    san.push(':');
    put_escaped(san, value.as_bytes());
}

/// A name as RFC 4514 §2 spells it: the last part first.
fn spelled(name: &X509Name<'_>) -> String {
    let mut parts: Vec<_> = name.iter_rdn().collect();
    parts.reverse();
    let mut text = String::new();
    for part in parts {
        for (index, attribute) in part.iter().enumerate() {
            match (text.is_empty(), index) {
                (true, _) => {}
                (false, 0) => text.push(','),
                (false, _) => text.push('+'),
            }
            put_attribute(&mut text, attribute);
        }
    }
    text
}

fn put_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    match oid2abbrev(attribute.attr_type(), oid_registry()) {
        Ok("Email") => text.push_str("emailAddress"),
        Ok(name) => text.push_str(name),
        Err(_) => text.push_str(&attribute.attr_type().to_id_string()),
    }
    text.push('=');
    put_escaped(text, attribute.as_slice());
}

/// What has a meaning of its own, or is no visible ASCII, stands as `\xx` in hexadecimal, which is
/// a spelling that RFC 4514 §2.4 knows. A space is one inside.
fn put_escaped(text: &mut String, value: &[u8]) {
    for (index, byte) in value.iter().enumerate() {
        let is_inside = index > 0 && index + 1 < value.len();
        let is_plain = match byte {
            b' ' => is_inside,
            b'#' => index > 0,
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => false,
            byte => byte.is_ascii_graphic(),
        };
        if is_plain {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "\\{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn shown(names: &[(DnType, &str)], san: Vec<SanType>) -> ClientCertificate {
        let mut wanted = CertificateParams::default();
        wanted.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in names {
            wanted.distinguished_name.push(kind.clone(), *value);
        }
        wanted.subject_alt_names = san;
        let key = KeyPair::generate().unwrap();
        ClientCertificate::of(wanted.self_signed(&key).unwrap().der())
    }

    #[test]
    fn nothing_in_a_certificate_stands_for_another_part_of_it() {
        let table = [
            ("me", "CN=me,O=Us"),
            ("me, O=Admin", "CN=me\\2C O=Admin,O=Us"),
            (" a\r\nX: 1 ", "CN=\\20a\\0D\\0AX: 1\\20,O=Us"),
            ("#1+\"<>;\\", "CN=\\231\\2B\\22\\3C\\3E\\3B\\5C,O=Us"),
            ("\u{e9}", "CN=\\C3\\A9,O=Us"),
        ];
        for (name, expected) in table {
            let known = [(DnType::OrganizationName, "Us"), (DnType::CommonName, name)];
            assert_eq!(shown(&known, Vec::new()).subject, expected);
        }
    }

    #[test]
    fn other_names_are_listed_by_kind() {
        let names = vec![
            SanType::DnsName("a.test".try_into().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
            SanType::URI("spiffe://a/b,DNS:c".try_into().unwrap()),
            SanType::Rfc822Name("me@a.test".try_into().unwrap()),
        ];
        let shown = shown(&[], names);
        assert_eq!(
            shown.san,
            "DNS:a.test,IP:2001:db8::1,URI:spiffe://a/b\\2CDNS:c,EMAIL:me@a.test"
        );
        assert_eq!(shown.subject, "");
        assert_eq!(shown.fingerprint.len(), 64);
    }
}
