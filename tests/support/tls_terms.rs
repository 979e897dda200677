//! On which terms a scripted origin speaks TLS, and what it tells of a connection.
//!
//! Comes in: a certificate and whatever is to be out of the ordinary. Goes out: the configuration
//! of a server, and what the other end has shown, asked for or gone on with.

use super::tls::{Pair, TlsPeer};
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// The terms of an origin. At first those of any.
pub(crate) struct Terms<'a> {
    pair: &'a Pair,
    clients: Option<&'a Pair>,
    protocols: &'a [&'a str],
    versions: &'a [&'static SupportedProtocolVersion],
    tickets: usize,
    tells_secrets: bool,
}

impl<'a> Terms<'a> {
    pub(crate) fn of(pair: &'a Pair) -> Self {
        Self {
            pair,
            clients: None,
            protocols: &[],
            versions: rustls::ALL_VERSIONS,
            tickets: 2,
            tells_secrets: false,
        }
    }

    /// Clients have to show this certificate.
    pub(crate) fn for_client(self, pair: &'a Pair) -> Self {
        Self { clients: Some(pair), ..self }
    }

    /// It speaks these protocols, by ALPN.
    pub(crate) fn speaking(self, protocols: &'a [&'a str]) -> Self {
        Self { protocols, ..self }
    }

    /// It speaks these versions of TLS alone.
    pub(crate) fn in_versions(self, versions: &'a [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self }
    }

    /// It sends so many tickets behind a handshake of TLS 1.3.
    pub(crate) fn sending_tickets(self, tickets: usize) -> Self {
        Self { tickets, ..self }
    }

    /// A [`super::Forger`] can be made of its connections.
    pub(crate) fn telling_secrets(self) -> Self {
        Self { tells_secrets: true, ..self }
    }

    pub(crate) fn config(&self) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(self.versions).expect("versions");
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.der()).expect("a certificate of our own");
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let config = builder.with_single_cert(vec![self.pair.der()], self.pair.key_der());
        let mut config = config.expect("a pair of our own");
        config.alpn_protocols = self.protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        config.send_tls13_tickets = self.tickets;
        if self.tickets == 0 {
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        config.enable_secret_extraction = self.tells_secrets;
        config
    }
}

impl TlsPeer {
    /// Does the handshake, if the other end goes along, and takes nothing that comes behind it.
    pub(crate) fn shake_hands(&mut self) -> std::io::Result<()> {
        let (conn, socket) = (&mut self.stream.conn, &mut self.stream.sock);
        while conn.is_handshaking() {
            let mut record = vec![0; 5];
            socket.read_exact(&mut record)?;
            let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
            record.resize(5 + length, 0);
            socket.read_exact(&mut record[5..])?;
            conn.read_tls(&mut record.as_slice())?;
            let processed = conn.process_new_packets();
            while conn.wants_write() {
                conn.write_tls(socket)?;
            }
            processed.map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        }
        Ok(())
    }

    /// Whether the other end has gone on with an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The name that was asked for.
    pub(crate) fn asked_name(&self) -> Option<&str> {
        self.stream.conn.server_name()
    }

    /// What was agreed on by ALPN.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.stream.conn.alpn_protocol()
    }

    /// Whether the other end has shown a certificate.
    pub(crate) fn was_shown_one(&self) -> bool {
        self.stream.conn.peer_certificates().is_some()
    }

    /// From now on other keys are used, in both directions.
    pub(crate) fn change_keys(&mut self) {
        self.stream.conn.refresh_traffic_keys().expect("a session of TLS 1.3");
    }

    /// The records for `pieces`, one each, and for a close_notify, none of which is sent.
    pub(crate) fn seal(&mut self, pieces: &[&[u8]]) -> Vec<u8> {
        let (mut records, conn) = (Vec::new(), &mut self.stream.conn);
        let mut take = |conn: &mut rustls::ServerConnection| {
            while conn.wants_write() {
                conn.write_tls(&mut records).expect("a vector takes it");
            }
        };
        // What the session has to say by itself comes first.
        take(conn);
        for piece in pieces {
            conn.writer().write_all(piece).expect("room for it");
            take(conn);
        }
        conn.send_close_notify();
        take(conn);
        records
    }

    /// The connection below, for whoever does not go by the rules.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.stream.sock
    }
}

impl Pair {
    /// One that was good for something in the given years, and no others.
    pub(crate) fn valid_in(names: &[&str], years: std::ops::Range<i32>) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut wanted = rcgen::CertificateParams::new(names).expect("names");
        wanted.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        wanted.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let made = wanted.self_signed(&key).expect("a certificate can be made");
        Self { chain: made.pem(), key: key.serialize_pem() }
    }

    /// One that an authority has signed, and the authority's certificate as PEM text.
    pub(crate) fn signed(names: &[&str]) -> (String, Self) {
        let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "an authority of a test");
        let authority_key = rcgen::KeyPair::generate().expect("a key can be made");
        let root = authority.self_signed(&authority_key).expect("a certificate can be made");
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let wanted = rcgen::CertificateParams::new(names).expect("names");
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let made = wanted.signed_by(&key, &issuer).expect("a certificate can be made");
        (root.pem(), Self { chain: made.pem(), key: key.serialize_pem() })
    }
}
