//! TLS without sockets: sessions, and what they are made from.
//!
//! In go certificates, keys and the TLS parts of a configuration; out come sessions that a socket's
//! layer drives. Files are read at the start and by reloads alone, and nothing here waits.

pub(crate) mod acceptor;
pub(crate) mod certificates;
pub(crate) mod connector;
mod pem;
pub(crate) mod problem;
pub(crate) mod provider;
pub(crate) mod session;
pub(crate) mod tickets;
mod verify;

use crate::config::{Config, ParentScheme, UpstreamTlsConfig};

/// What a session says of itself when it fails.
pub(crate) type Error = rustls::Error;

/// Whether all that `config` names for TLS can be used; if not, the path of the key, and why.
pub(crate) fn try_files(config: &Config) -> Result<Vec<String>, (String, String)> {
    let mut due = Vec::new();
    if !config.server.listen_tls.is_empty() {
        let loaded = acceptor::Acceptor::load(&config.tls, vec![0], 0, None);
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
    let standard = UpstreamTlsConfig::default();
    let try_connector = |path: String, tls: Option<&UpstreamTlsConfig>| {
        let loaded = connector::Connector::load(tls.unwrap_or(&standard), None);
        loaded.map(drop).map_err(|error| (path, error))
    };
    for (index, upstream) in config.upstreams.iter().enumerate() {
        if upstream.origins.iter().any(|origin| origin.is_tls) {
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
