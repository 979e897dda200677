//! TLS without sockets: sessions, and what they are made from.
//!
//! In go certificates, keys and the TLS parts of a configuration; out come sessions that a socket's
//! layer drives. Files are read at the start and by reloads alone, and nothing here waits.

pub(crate) mod acceptor;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod connector;
pub(crate) mod directory;
pub(crate) mod managed;
mod pem;
pub(crate) mod problem;
mod provider;
mod resolver;
pub(crate) mod session;
pub(crate) mod storage;
pub(crate) mod tickets;
mod verify;

use crate::config::{Config, TlsConfig, UpstreamTlsConfig};

/// What a session says of itself when it fails.
pub(crate) type Error = rustls::Error;

/// Whether ordered certificates could be kept.
pub(crate) fn try_storage(config: &Config) -> Result<(), (String, String)> {
    let tried = config.tls.acme.as_ref().map_or(Ok(()), storage::try_folder);
    tried.map_err(|error| ("tls.acme".to_owned(), error))
}

/// Whether all that `config` names for TLS can be used; if not, the path of the key, and why.
pub(crate) fn try_files(config: &Config) -> Result<Vec<String>, (String, String)> {
    let mut due = Vec::new();
    if !config.server.listen_tls.is_empty() {
        // A look orders nothing, and makes no folder.
        let tls = TlsConfig { acme: None, ..config.tls.clone() };
        let loaded = acceptor::Acceptor::load(&tls, vec![0], 0, None);
        let loaded = loaded.map_err(|error| ("tls.certificates".to_owned(), error))?;
        let list = loaded.iter().flat_map(|acceptor| &acceptor.certificates.list);
        let now = std::time::SystemTime::now();
        let is_due = list.filter(|shown| shown.is_due(now));
        due.extend(is_due.map(|shown| {
            let file = shown.files.chain.display();
            let days = shown.expires.duration_since(now).unwrap_or_default().as_secs() / 86_400;
            format!("{file}: the certificate ends in {days} days")
        }));
    }
    if let Some(acme) = &config.tls.acme {
        directory::agent(acme).map_err(|error| ("tls.acme".to_owned(), error))?;
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        if upstream.origins.iter().any(|origin| origin.is_tls) {
            let standard = UpstreamTlsConfig::default();
            let tls = upstream.tls.as_ref().unwrap_or(&standard);
            connector::Connector::load(tls, None)
                .map_err(|error| (format!("upstream.{index}.tls"), error))?;
        }
    }
    Ok(due)
}
