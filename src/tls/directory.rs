//! How an ACME directory itself is spoken to: what makes HTTPS requests to it.
//!
//! In goes `[tls.acme]`; out comes an agent that believes the authorities it names, by the same
//! cryptography as everything else here. It makes no request.

use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::connector::system_certificates;
use super::pem;
use super::provider::provider;
use crate::config::AcmeConfig;

/// For one request, from looking up the name to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn agent(acme: &AcmeConfig) -> Result<Agent, String> {
    let authorities = match &acme.directory_ca {
        Some(path) => pem::chain(path, &pem::read(path)?)?,
        None => system_certificates()?,
    };
    let certificates: Vec<_> =
        authorities.iter().map(|it| Certificate::from_der(it).to_owned()).collect();
    let roots = match certificates.as_slice() {
        [] => RootCerts::WebPki,
        some => RootCerts::new_with_certs(some),
    };
    let tls = TlsConfig::builder()
        .root_certs(roots)
        .unversioned_rustls_crypto_provider(provider())
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT))
        .user_agent(concat!("ringway/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(config.into())
}
