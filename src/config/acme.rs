//! `[tls.acme]`: certificates that are ordered.
//!
//! In: TOML, JSON and texts, by way of serde. Out: names, and where their certificates come from.
//! Nothing here asks anybody for one.

use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kinds::own::File;
use super::kinds::plain::{Word, Words};
use super::kinds::{As, List, Switched, text_kind};
use super::names::is_host;

/// Let's Encrypt's.
pub(crate) const PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";

text_kind!(
    /// A name that can be validated by what a server at it answers.
    OrderedName: String,
    |text| {
        let name = text.to_ascii_lowercase();
        if name.starts_with("*.") {
            return Err("a host name: a wildcard is validated by DNS-01 alone, which is not spoken; \
                        list every name, or have the wildcard's certificate made elsewhere and \
                        name its files in [[tls.certificates]]"
                .to_owned());
        }
        if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return Err("a host name: certificates for IP addresses are not ordered; name their \
                        files in [[tls.certificates]]"
                .to_owned());
        }
        let is_name = is_host(&name) && !name.contains([':', '[']) && !name.ends_with('.');
        is_name.then_some(name).ok_or_else(|| "a host name such as \"example.org\"".to_owned())
    },
    |name| name.clone()
);
text_kind!(
    /// Kept as the directory wants it: a URL.
    Contact: String,
    |text| {
        let address = text.strip_prefix("mailto:").unwrap_or(text);
        let is_address = address.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && is_host(host) && address.bytes().all(|it| it.is_ascii_graphic())
        });
        let expected = || "a mail address such as \"admin@example.org\"".to_owned();
        is_address.then(|| format!("mailto:{address}")).ok_or_else(expected)
    },
    |contact| contact.strip_prefix("mailto:").unwrap_or(contact).to_owned()
);
text_kind!(
    Directory: String,
    |text| {
        let rest = text.strip_prefix("https://").unwrap_or_default();
        let is_url = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
        let expected = || format!("the URL of an ACME directory, such as \"{PRODUCTION}\"");
        is_url.then(|| text.to_owned()).ok_or_else(expected)
    },
    |url| url.clone()
);

/// Certificates that are ordered from an authority by ACME (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AcmeConfig {
    /// The names to order certificates for, one each.
    #[serde(with = "List::<OrderedName>")]
    pub domains: Vec<String>,
    /// Mail addresses at which the authority may reach somebody.
    #[serde(with = "List::<Contact>")]
    pub contact: Vec<String>,
    /// Where the authority's ACME service begins.
    #[serde(with = "As::<Directory>")]
    pub directory: String,
    /// Whether you accept the authority's terms of service.
    pub accept_terms: bool,
    /// The folder that keeps the account and the certificates.
    #[serde(with = "As::<File>")]
    pub storage: PathBuf,
    /// PEM file of the authorities that the directory itself is believed by. "" is those of the
    /// system.
    #[serde(with = "Switched::<File>")]
    pub directory_ca: Option<PathBuf>,
    /// How names are validated: "http-01" on port 80, "tls-alpn-01" on port 443, or "auto".
    #[serde(with = "Word::<AcmeChallenge>")]
    pub challenge: AcmeChallenge,
}

impl Default for AcmeConfig {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            contact: Vec::new(),
            directory: PRODUCTION.to_owned(),
            accept_terms: false,
            storage: PathBuf::from("/var/lib/ringway/acme"),
            directory_ca: None,
            challenge: AcmeChallenge::Auto,
        }
    }
}

/// How an authority finds out whose a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// One of them, and the other one if that fails.
    Auto,
    Http01,
    TlsAlpn01,
}

impl Words for AcmeChallenge {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("http-01", Self::Http01), ("tls-alpn-01", Self::TlsAlpn01)];
}
