//! Records as no library sends them: hellos that are cut up, and sessions that break the rules.
//!
//! Comes in: what a test wants to say inside a session, or of a hello. Goes out: bytes on the wire,
//! sealed with the keys of a handshake that went well. Nothing here reads what comes back.

use super::tls::Trust;
use super::{DEADLINE, TlsClient};
use rustls::crypto::cipher::{AeadKey, Iv, MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

/// The first message of a client that asks for `name`, without its record.
pub(crate) fn hello(name: &str, trust: &Trust) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut session = ClientConnection::new(trust.0.clone(), name).expect("a session");
    let mut wire = Vec::new();
    session.write_tls(&mut wire).expect("a vector takes it");
    wire.split_off(5)
}

/// `bytes` in records of this kind, `size` bytes in each.
pub(crate) fn records(kind: u8, bytes: &[u8], size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for piece in bytes.chunks(size) {
        wire.extend_from_slice(&[kind, 3, 1]);
        wire.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        wire.extend_from_slice(piece);
    }
    wire
}

/// A session that has been agreed upon, and whose client says what it likes.
pub(crate) struct RawSession {
    pub(crate) socket: TcpStream,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
    version: ProtocolVersion,
}

impl RawSession {
    pub(crate) fn tls13(address: SocketAddr, trust: &Trust) -> Self {
        Self::of(address, trust, &TLS13)
    }

    pub(crate) fn tls12(address: SocketAddr, trust: &Trust) -> Self {
        Self::of(address, trust, &TLS12)
    }

    #[track_caller]
    fn of(address: SocketAddr, trust: &Trust, version: &'static SupportedProtocolVersion) -> Self {
        let trust = trust.speaking(version);
        let client = TlsClient::connect(address, "localhost", &trust);
        let (session, socket) = client.into_parts();
        let suite = session.negotiated_cipher_suite().expect("a suite");
        let secrets = session.dangerous_extract_secrets().expect("they may be had");
        let (sequence, secrets) = secrets.tx;
        let (key, iv): (AeadKey, Iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
            _ => panic!("an unknown suite"),
        };
        let (encrypter, version) = match suite {
            SupportedCipherSuite::Tls13(suite) => {
                (suite.aead_alg.encrypter(key, iv), ProtocolVersion::TLSv1_3)
            }
            SupportedCipherSuite::Tls12(suite) => {
                let iv = iv.as_ref();
                (suite.aead_alg.encrypter(key, iv, &[]), ProtocolVersion::TLSv1_2)
            }
        };
        Self { socket, encrypter, sequence, version }
    }

    /// `payload` as one record of this kind.
    pub(crate) fn seal(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let version = match self.version {
            ProtocolVersion::TLSv1_3 => ProtocolVersion::TLSv1_2,
            version => version,
        };
        let payload = OutboundChunks::Single(payload);
        let message = OutboundPlainMessage { typ, version, payload };
        let sealed = self.encrypter.encrypt(message, self.sequence).expect("it can be sealed");
        self.sequence += 1;
        sealed.encode()
    }

    /// Sends bytes as they are, as far as they are taken.
    pub(crate) fn send(&mut self, wire: &[u8]) -> &mut Self {
        let _ = self.socket.write_all(wire);
        self
    }

    pub(crate) fn say(&mut self, kind: ContentType, payload: &[u8]) -> &mut Self {
        let record = self.seal(kind, payload);
        self.send(&record)
    }

    /// Waits until the other end has closed; what it said until then, as it was on the wire.
    pub(crate) fn wait_for_the_end(mut self) -> Vec<u8> {
        self.socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
        let mut answer = Vec::new();
        match self.socket.read_to_end(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("it stays open; {} bytes came", answer.len())
            }
            _ => {}
        }
        let _ = self.socket.shutdown(Shutdown::Both);
        answer
    }
}

impl Trust {
    /// The same with this version alone, and with secrets that can be had.
    pub(crate) fn speaking(&self, version: &'static SupportedProtocolVersion) -> Self {
        // The nonces of the others are checked by their library.
        let mut provider = (**self.0.crypto_provider()).clone();
        provider.cipher_suites.retain(|suite| format!("{suite:?}").contains("CHACHA20"));
        let mut narrow = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_root_certificates(self.1.clone())
            .with_no_client_auth();
        narrow.enable_secret_extraction = true;
        Self(Arc::new(narrow), self.1.clone())
    }
}
