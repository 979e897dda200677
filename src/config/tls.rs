//! `[tls]`, what clients are shown, and `[upstream.tls]`, what origins are believed.
//!
//! In: TOML, JSON and texts, by way of serde. Out: files by name, and what is asked of a peer.
//! Nothing here opens a file: whether a key belongs to its certificate is found out by the thread
//! that loads them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::acme::AcmeConfig;
use super::kinds::own::File;
use super::kinds::plain::{Word, Words};
use super::kinds::{As, Kind, List, Switched, some_table, text_kind};
use super::names::is_host;

text_kind!(
    /// A name that a certificate is shown for.
    ShownFor: String,
    |text| {
        let name = text.to_ascii_lowercase();
        let plain = name.strip_prefix("*.").unwrap_or(&name);
        if is_host(plain) && !plain.contains([':', '[']) {
            return Ok(name);
        }
        Err("a host name, or \"*.\" and the name above it".to_owned())
    },
    |name| name.clone()
);
text_kind!(
    /// "" is the origin's own.
    ServerName: String,
    |text| match text.to_ascii_lowercase() {
        name if name.is_empty() || is_host(&name) => Ok(name),
        _ => Err("a host name or an IP address".to_owned()),
    },
    |name| name.clone()
);

/// What clients are shown at the listeners of server.listen_tls, and what is asked of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// One [[tls.certificates]] each: `chain` and `key` are PEM files, `names` is what it is shown
    /// for, such as ["example.org", "*.example.org"]; without it, what the certificate says. `ocsp`
    /// is a file with its authority's answer in DER, which is shown beside it. A client gets the
    /// one that names what it asks for, exact before "*."; of several with another kind of key, the
    /// one that it can check; else the first.
    #[serde(with = "List::<Certificate>")]
    pub certificates: Vec<CertificateConfig>,
    /// The oldest version that is spoken: "1.2" or "1.3".
    #[serde(with = "Word::<TlsVersion>")]
    pub min_version: TlsVersion,
    /// Whether a client may go on with an earlier session, which spares both sides half the work.
    pub tickets: bool,
    /// Whether a client that asks for a name of no certificate is refused, rather than shown the
    /// first one.
    pub strict_sni: bool,
    /// Whether clients show a certificate of client_ca: "off", "optional" or "required".
    #[serde(with = "Word::<ClientAuth>")]
    pub client_auth: ClientAuth,
    /// PEM file of the authorities that clients' certificates come from. "" is none.
    #[serde(with = "Switched::<File>")]
    pub client_ca: Option<PathBuf>,
    /// PEM file of what those have revoked. "" is none.
    #[serde(with = "Switched::<File>")]
    pub client_crl: Option<PathBuf>,
    /// Certificates that are ordered, and renewed, by ACME: `domains` are the names, one
    /// certificate each; accept_terms = true says that you accept the authority's terms of service;
    /// `contact` are mail addresses; `directory` is the authority's URL, by default that of Let's
    /// Encrypt; `storage` the folder that keeps account and certificates, by default
    /// /var/lib/ringway/acme; `challenge` how names are validated: "http-01" by a request on port
    /// 80, "tls-alpn-01" by a handshake on port 443, "auto" by either; `directory_ca` a PEM file of
    /// the authorities that the directory itself is believed by, in place of the system's.
    #[serde(deserialize_with = "some_table", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-example" = "{ domains = [\"example.org\"], accept_terms = true }"))]
    pub acme: Option<AcmeConfig>,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            min_version: TlsVersion::Tls12,
            tickets: true,
            strict_sni: false,
            client_auth: ClientAuth::Off,
            client_ca: None,
            client_crl: None,
            acme: None,
        }
    }
}

impl TlsConfig {
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let certificates = self.certificates.iter().flat_map(CertificateConfig::files);
        certificates.chain(&self.client_ca).chain(&self.client_crl)
    }
}

impl UpstreamTlsConfig {
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.ca.iter().chain(&self.client_chain).chain(&self.client_key)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

impl Words for TlsVersion {
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::Tls12), ("1.3", Self::Tls13)];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    Off,
    Optional,
    Required,
}

impl Words for ClientAuth {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("optional", Self::Optional), ("required", Self::Required)];
}

/// A certificate with its key, by their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateConfig {
    pub chain: PathBuf,
    pub key: PathBuf,
    /// In lower case. Empty: those of the certificate.
    pub names: Vec<String>,
    /// The answer of the authority (OCSP), in DER.
    pub ocsp: Option<PathBuf>,
}

impl CertificateConfig {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.chain, &self.key].into_iter().chain(&self.ocsp)
    }
}

struct Certificate;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    #[serde(with = "As::<File>")]
    chain: PathBuf,
    #[serde(with = "As::<File>")]
    key: PathBuf,
    #[serde(default, with = "List::<ShownFor>")]
    names: Vec<String>,
    #[serde(default, with = "Switched::<File>")]
    ocsp: Option<PathBuf>,
}

impl Kind for Certificate {
    type Value = CertificateConfig;

    const EXPECTED: &'static str = "a table { chain = \"...\", key = \"...\" }";

    fn schema() -> Json {
        json!({
            "type": "object",
            "properties": {
                "chain": {
                    "type": "string",
                    "description": "PEM file of the certificate, then of those of its issuers.",
                },
                "key": { "type": "string", "description": "PEM file of its key." },
                "names": {
                    "type": "array",
                    "items": ShownFor::schema(),
                    "description": "What it is shown for; without it, what it says itself.",
                },
                "ocsp": {
                    "type": "string",
                    "description": "DER file of its authority's answer, which is shown with it.",
                },
            },
            "required": ["chain", "key"],
            "additionalProperties": false,
        })
    }

    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<CertificateConfig, D::Error> {
        let Files { chain, key, names, ocsp } = Files::deserialize(from)?;
        Ok(CertificateConfig { chain, key, names, ocsp })
    }

    fn spell(value: &CertificateConfig) -> Json {
        let CertificateConfig { chain, key, names, ocsp } = value;
        let mut spelled = json!({ "chain": chain.to_string_lossy(), "key": key.to_string_lossy() });
        if !names.is_empty() {
            spelled["names"] = json!(names);
        }
        if let Some(ocsp) = ocsp {
            spelled["ocsp"] = json!(ocsp.to_string_lossy());
        }
        spelled
    }
}

/// How the origins of an upstream with "https://" are spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTlsConfig {
    /// PEM file of the authorities that are believed. "" is those of the system, or where it has
    /// none, Mozilla's.
    #[serde(with = "Switched::<File>")]
    pub ca: Option<PathBuf>,
    /// The name that the origin's certificate has to have, and that it is asked for. "" is the
    /// origin's own.
    #[serde(with = "As::<ServerName>")]
    pub sni: String,
    /// PEM file of the certificate that origins are shown. "" is none.
    #[serde(with = "Switched::<File>")]
    pub client_chain: Option<PathBuf>,
    /// PEM file of its key.
    #[serde(with = "Switched::<File>")]
    pub client_key: Option<PathBuf>,
    /// Take any certificate for the origin's: anybody on the way can read and change what is sent.
    pub insecure_skip_verify: bool,
}
