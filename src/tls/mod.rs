//! TLS without sockets: sessions, and what they are made from.
//!
//! In go certificates, keys and the TLS parts of a configuration; out come sessions that a socket's
//! layer drives. Files are read at the start and by reloads alone, and nothing here waits.

pub(crate) mod acceptor;
pub(crate) mod blocking;
pub(crate) mod certificates;
pub(crate) mod client;
mod clients;
pub(crate) mod connector;
pub(crate) mod directory;
pub(crate) mod facts;
#[doc(hidden)]
pub(crate) mod invariants;
pub(crate) mod managed;
mod ocsp;
mod pem;
pub(crate) mod problem;
pub(crate) mod provider;
pub(crate) mod report;
mod resolver;
pub(crate) mod session;
pub(crate) mod storage;
pub(crate) mod tickets;
mod verify;

use std::time::SystemTime;

use self::acceptor::Acceptor;
use crate::config::{Config, ParentScheme, TlsConfig, UpstreamTlsConfig};

/// What a session says of itself when it fails.
pub(crate) type Error = rustls::Error;

/// Whether ordered certificates could be kept.
pub(crate) fn try_storage(config: &Config) -> Result<(), (String, String)> {
    let tried = config.tls.acme.as_ref().map_or(Ok(()), storage::try_folder);
    tried.map_err(|error| ("tls.acme".to_owned(), error))
}

/// The certificates of `config`, read from their files.
pub(crate) fn read_certificates(config: &Config) -> Result<report::Report, String> {
    let acceptor = Acceptor::load(config, Vec::new(), 0, None)?;
    Ok(report::Report::of(acceptor.as_deref(), SystemTime::now()))
}

/// Whether all that `config` names for TLS can be used; if not, the path of the key, and why.
pub(crate) fn try_files(config: &Config) -> Result<Vec<String>, (String, String)> {
    let mut due = Vec::new();
    let now = SystemTime::now();
    // A look orders nothing, and makes no folder.
    let look = Config { tls: TlsConfig { acme: None, ..config.tls.clone() }, ..config.clone() };
    let acceptor = Acceptor::load(&look, Vec::new(), 0, None);
    let acceptor = acceptor.map_err(|error| ("tls.certificates".to_owned(), error))?;
    let list = acceptor.iter().flat_map(|acceptor| &acceptor.certificates.list);
    due.extend(list.filter(|shown| shown.is_due(now)).map(|shown| {
        let file = shown.files.chain.display();
        let trouble = shown.trouble.as_deref().or(shown.ocsp_trouble(now));
        let days = shown.expires.duration_since(now).unwrap_or_default().as_secs() / 86_400;
        let ends = || format!("{file}: the certificate ends in {days} days");
        trouble.map_or_else(ends, str::to_owned)
    }));
    if let Some(acme) = &config.tls.acme {
        directory::agent(acme).map_err(|error| ("tls.acme".to_owned(), error))?;
    }
    let standard = UpstreamTlsConfig::default();
    let try_connector = |path: String, tls: Option<&UpstreamTlsConfig>| {
        let loaded = connector::Connector::load(tls.unwrap_or(&standard), None);
        loaded.map(drop).map_err(|error| (path, error))
    };
    for (index, upstream) in config.upstreams.iter().enumerate() {
        if upstream.all_origins().any(|origin| origin.is_tls) {
            try_connector(format!("upstream.{index}.tls"), upstream.tls.as_ref())?;
        }
    }
    for (index, parent) in config.parents.iter().enumerate() {
        if parent.address.scheme == ParentScheme::Https {
            try_connector(format!("parent.{index}.tls"), parent.tls.as_ref())?;
        }
    }
    Ok(due)
}
