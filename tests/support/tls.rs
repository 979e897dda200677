//! Both ends of TLS for tests: certificates made on the spot, a blocking client and a scripted
//! origin, both by rustls's buffered connections.
//!
//! Comes in: names, and bytes that a test writes down. Goes out: PEM text, decrypted bytes, and how
//! a connection ended: with a close_notify or without. Nothing here knows how the proxy does it.

use super::tls_terms::Terms;
use super::{DEADLINE, show};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{DigitallySignedStruct, StreamOwned, crypto, crypto::aws_lc_rs};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// A certificate that signs itself, and its key, as PEM text.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Pair {
    pub(crate) fn of(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate can be made");
        Self { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// The same as `openssl req -x509` makes it: an authority that vouches for itself.
    pub(crate) fn of_authority(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut wanted = rcgen::CertificateParams::new(names).expect("names");
        wanted.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let made = wanted.self_signed(&key).expect("a certificate can be made");
        Self { chain: made.pem(), key: key.serialize_pem() }
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("a certificate of our own")
    }

    pub(super) fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key of our own")
    }
}

/// Who a client is and whom it believes.
#[derive(Clone)]
pub(crate) struct Trust(pub(super) Arc<ClientConfig>, pub(super) Arc<RootCertStore>);

impl Trust {
    pub(crate) fn in_pair(pair: &Pair) -> Self {
        Self::shown_as(pair, None)
    }

    /// For those whose names and keys are what counts.
    pub(crate) fn in_anybody() -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        Self(Arc::new(config), Arc::new(RootCertStore::empty()))
    }

    pub(crate) fn offering(self, protocols: &[&[u8]]) -> Self {
        let mut config = (*self.0).clone();
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        Self(Arc::new(config), self.1)
    }

    pub(crate) fn shown_as(pair: &Pair, own: Option<&Pair>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(pair.der()).expect("a certificate of our own");
        let roots = Arc::new(roots);
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots.clone());
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let with = builder.with_client_auth_cert(vec![own.der()], own.key_der());
                with.expect("a pair of our own")
            }
        };
        Self(Arc::new(config), roots)
    }
}

/// Takes whatever is shown.
#[derive(Debug)]
struct Anybody(Arc<crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, shown, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, shown, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How the other end ended its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsEnd {
    /// By a close_notify: what came is all.
    Said,
    /// Without a word.
    Cut,
}

pub(crate) struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl TlsClient {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr, name: &str, trust: &Trust) -> Self {
        Self::try_connect(address, name, trust).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn try_connect(
        address: SocketAddr,
        name: &str,
        trust: &Trust,
    ) -> std::io::Result<Self> {
        Self::over(TcpStream::connect_timeout(&address, DEADLINE)?, name, trust)
    }

    pub(crate) fn over(socket: TcpStream, name: &str, trust: &Trust) -> std::io::Result<Self> {
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let session = ClientConnection::new(trust.0.clone(), name).expect("a session");
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream })
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The certificate that the other end has shown.
    pub(crate) fn shown(&self) -> CertificateDer<'static> {
        self.stream.conn.peer_certificates().expect("one was shown")[0].clone().into_owned()
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).expect("the proxy takes it");
        self.stream.flush().expect("the proxy takes it");
        self
    }

    /// Sends a plain piece, and its records to the wire one byte at a time.
    #[track_caller]
    pub(crate) fn send_in_bytes(&mut self, bytes: &[u8]) {
        self.stream.conn.writer().write_all(bytes).expect("room for it");
        let mut records = Vec::new();
        while self.stream.conn.wants_write() {
            self.stream.conn.write_tls(&mut records).expect("a vector takes it");
        }
        for byte in records {
            self.stream.sock.write_all(&[byte]).expect("the proxy takes it");
        }
    }

    /// What comes until the end, and how that is.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, TlsEnd) {
        let mut bytes = Vec::new();
        let end = match self.stream.read_to_end(&mut bytes) {
            Ok(_) => TlsEnd::Said,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => TlsEnd::Cut,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => TlsEnd::Cut,
            Err(error) => panic!("{error}; until then: {}", show(&bytes)),
        };
        (bytes, end)
    }

    /// Sends a request and reads to the end, unless the other end says no.
    pub(crate) fn try_exchange(&mut self, bytes: &str) -> std::io::Result<Vec<u8>> {
        self.stream.write_all(bytes.as_bytes())?;
        let mut answer = Vec::new();
        self.stream.read_to_end(&mut answer)?;
        Ok(answer)
    }

    pub(crate) fn try_read_to_end(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).map(|_| rest)
    }

    /// The next head.
    #[track_caller]
    pub(crate) fn read_head(&mut self) -> Vec<u8> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.read_exactly(1));
        }
        head
    }

    #[track_caller]
    pub(crate) fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("as much comes");
        bytes
    }

    /// Reads until `end` has come, and returns everything.
    #[track_caller]
    pub(crate) fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        while !bytes.ends_with(end) {
            let count = self.stream.read(&mut piece).expect("more comes");
            assert!(count > 0, "the end, after {}", show(&bytes));
            bytes.extend_from_slice(&piece[..count]);
        }
        bytes
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self) {
        self.stream.conn.send_close_notify();
        let _ = self.stream.flush();
    }

    /// The session and the connection below it.
    pub(crate) fn into_parts(self) -> (ClientConnection, TcpStream) {
        self.stream.into_parts()
    }

    /// An end of the connection that speaks without TLS: what is written there is sealed, and what
    /// comes is opened, until either side ends.
    pub(crate) fn into_plain(self) -> TcpStream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let theirs = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (ours, _) = listener.accept().expect("the connection");
        let (session, wire) = self.into_parts();
        thread::spawn(move || {
            // Whoever ends it has both ends closed by that.
            let _ = seal(session, wire, ours);
        });
        theirs
    }

    /// Has both sides change their keys.
    pub(crate) fn change_keys(&mut self) -> std::io::Result<()> {
        self.stream.conn.refresh_traffic_keys().expect("a session of TLS 1.3");
        while self.stream.conn.wants_write() {
            self.stream.conn.write_tls(&mut self.stream.sock)?;
        }
        Ok(())
    }

    /// The connection below, for whoever does not go by the rules.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.stream.sock
    }
}

/// One accepted connection of an origin.
pub(crate) struct TlsPeer {
    pub(super) stream: StreamOwned<ServerConnection, TcpStream>,
    pub(super) pending: Vec<u8>,
}

impl TlsPeer {
    /// The next head; `None` at the end of the connection.
    pub(crate) fn read_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.pending, b"\r\n\r\n") {
                let head = self.pending.drain(..end + 4).collect();
                return Some(String::from_utf8(head).expect("a head of a test is text"));
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.pending.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// What comes until the other end ends its side, and how that is.
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, TlsEnd) {
        let mut bytes = std::mem::take(&mut self.pending);
        let said = self.stream.read_to_end(&mut bytes).is_ok();
        (bytes, if said { TlsEnd::Said } else { TlsEnd::Cut })
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
        let _ = self.stream.flush();
    }

    /// Ends the connection: with a close_notify, or without a word.
    pub(crate) fn end(mut self, how: TlsEnd) {
        if how == TlsEnd::Said {
            self.stream.conn.send_close_notify();
        }
        let _ = self.stream.flush();
        let _ = self.stream.sock.shutdown(std::net::Shutdown::Both);
    }
}

/// An origin that speaks TLS.
pub(crate) struct TlsOrigin {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl TlsOrigin {
    pub(crate) fn start(pair: &Pair, serve: impl Fn(TlsPeer) + Send + Sync + 'static) -> Self {
        Self::with(Terms::of(pair).config(), serve)
    }

    /// The same on other terms.
    pub(crate) fn with(
        config: ServerConfig,
        serve: impl Fn(TlsPeer) + Send + Sync + 'static,
    ) -> Self {
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let accepted = Arc::new(AtomicUsize::new(0));
        let (counted, serve) = (accepted.clone(), Arc::new(serve));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::Relaxed);
                let (config, serve) = (config.clone(), serve.clone());
                thread::spawn(move || {
                    let session = ServerConnection::new(config).expect("a session");
                    let _ = socket.set_read_timeout(Some(DEADLINE));
                    let stream = StreamOwned::new(session, socket);
                    serve(TlsPeer { stream, pending: Vec::new() });
                });
            }
        });
        Self { address, accepted }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Carries bytes between `wire`, where they are sealed, and `plain`, until one of them ends.
fn seal(
    mut session: ClientConnection,
    mut wire: TcpStream,
    mut plain: TcpStream,
) -> std::io::Result<()> {
    let is_late = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    // One thread has the session: it looks at both ends in turns.
    wire.set_read_timeout(Some(Duration::from_millis(1)))?;
    plain.set_read_timeout(Some(Duration::from_millis(1)))?;
    let mut bytes = [0; 16 * 1024];
    loop {
        match plain.read(&mut bytes) {
            Ok(0) => {
                session.send_close_notify();
                session.write_tls(&mut wire)?;
                return Ok(());
            }
            Ok(count) => session.writer().write_all(&bytes[..count])?,
            Err(error) if is_late(&error) => {}
            Err(error) => return Err(error),
        }
        while session.wants_write() {
            session.write_tls(&mut wire)?;
        }
        match session.read_tls(&mut wire) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                let state = session.process_new_packets();
                let state = state.map_err(std::io::Error::other)?;
                let mut opened = vec![0; state.plaintext_bytes_to_read()];
                session.reader().read_exact(&mut opened)?;
                plain.write_all(&opened)?;
                if state.peer_has_closed() {
                    return Ok(());
                }
            }
            Err(error) if is_late(&error) => {}
            Err(error) => return Err(error),
        }
    }
}
