//! Sessions of a client that a command line describes: the load's.
//!
//! In goes whom to believe, what to offer and whether to go on with earlier sessions; out come
//! sessions with one server. What the server gives to go on with is kept for as many as may connect
//! at once, so that after the first ones it does not depend on who connects when whether a
//! handshake is a short one. It opens no connection.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, Error, NamedGroup};

use super::connector::verifier;
use super::provider::provider;
use super::session::Session;
use crate::config::UpstreamTlsConfig;

/// What is asked of a session.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are switches of a command line")]
pub(crate) struct Wishes {
    /// The authorities to believe; `None`: those of the system.
    pub(crate) ca: Option<PathBuf>,
    /// Any certificate will do.
    pub(crate) is_insecure: bool,
    /// Every handshake is a full one.
    pub(crate) is_always_new: bool,
    /// Not to offer TLS 1.3.
    pub(crate) is_old: bool,
    /// To speak HTTP/2, and nothing else.
    pub(crate) is_http2: bool,
}

/// Makes sessions with one server.
#[derive(Debug)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Client {
    pub(crate) fn new(host: &str, wishes: Wishes) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| format!("{host:?} is no name that a certificate can have"))?;
        let provider = provider();
        let whom = UpstreamTlsConfig {
            ca: wishes.ca,
            insecure_skip_verify: wishes.is_insecure,
            ..UpstreamTlsConfig::default()
        };
        let verifier = verifier(&whom, &provider)?;
        let versions: &[_] = if wishes.is_old { &[&TLS12] } else { &[&TLS13, &TLS12] };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        let spoken: &[u8] = if wishes.is_http2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![spoken.to_vec()];
        config.resumption = if wishes.is_always_new {
            Resumption::disabled()
        } else {
            Resumption::store(Arc::new(Stock::default()))
        };
        Ok(Self { config: Arc::new(config), name })
    }

    pub(crate) fn session(&self) -> Result<Session, Error> {
        Session::client(self.config.clone(), self.name.clone())
    }
}

/// Tickets of TLS 1.3 that are kept, each of which is good for one handshake.
const TICKETS_MAX: usize = 1024;

/// What the one server has given.
#[derive(Debug, Default)]
struct Stock(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// The newest is the last.
    tls13: Vec<Tls13ClientSessionValue>,
}

impl Stock {
    fn with<T>(&self, with: impl FnOnce(&mut Known) -> T) -> T {
        // Each field is whole at any time.
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientSessionStore for Stock {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.with(|known| known.group = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(|known| known.group)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.with(|known| known.tls12 = Some(value));
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(|known| known.tls12.clone())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.with(|known| known.tls12 = None);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.with(|known| {
            if known.tls13.len() < TICKETS_MAX {
                known.tls13.push(value);
            }
        });
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.with(|known| known.tls13.pop())
    }
}
