//! TLS for commands, which ask a process and have time to wait.
//!
//! In goes a connected socket, the name of who should answer, and who is believed; out comes a
//! stream of plain bytes. It is for the control of a process and its commands: it blocks.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::connector;
use super::provider::provider;
use crate::config::UpstreamTlsConfig;

/// Who is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Belief {
    /// Whoever answers.
    Anybody,
    /// The authorities that this system believes.
    #[default]
    System,
    /// Those of a PEM file, and the certificates in it.
    File(PathBuf),
}

/// Speaks TLS on `socket` with whoever is called `name`.
pub(crate) fn secure<S: Read + Write>(
    socket: S,
    name: &str,
    belief: &Belief,
) -> io::Result<impl Read + Write + use<S>> {
    let named = ServerName::try_from(name.to_owned());
    let named = named.map_err(|_| io::Error::other(format!("{name:?} is no name")))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(io::Error::other)?
        .dangerous();
    let config = builder.with_custom_certificate_verifier(verifier(belief)?).with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), named).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(Closing(stream))
}

fn verifier(belief: &Belief) -> io::Result<Arc<dyn ServerCertVerifier>> {
    let mut tls = UpstreamTlsConfig::default();
    match belief {
        Belief::Anybody => tls.insecure_skip_verify = true,
        Belief::System => {}
        Belief::File(path) => tls.ca = Some(path.clone()),
    }
    connector::verifier(&tls, &provider()).map_err(io::Error::other)
}

/// A stream whose answer may end without a word: a length, or a parser, says whether it is whole.
struct Closing<S: Read + Write>(StreamOwned<ClientConnection, S>);

impl<S: Read + Write> Read for Closing<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }
}

impl<S: Read + Write> Write for Closing<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
